//! Black-box tests: the real binary, real sockets, real processes. One file a topic, on one harness.
//!
//! `SKD_ORIGINAL=/path/to/skd-1.2 cargo test --test behaviour` runs the tests of both against the
//! original as well.

// A test reports a failure by panicking, and its output is shown only when it fails. Nothing here
// is an interface to other crates. The tests, and the crates that they use, may need a newer Rust
// than skd itself.
#![allow(
    clippy::incompatible_msrv,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs,
    unreachable_pub
)]

mod handler_users;
mod harness;

mod admission;
mod architecture;
mod attacks;
mod background;
mod bug_classes;
mod check;
mod command_line;
mod config_files;
mod confined;
mod contrib;
mod control_acts;
mod control_asks;
mod control_socket;
mod counters;
mod ctl;
mod datagram_services;
mod datagrams;
mod differences;
mod documents;
mod drain;
mod environment;
mod examples;
mod fallbacks;
mod faults;
mod flood;
mod forward;
mod harness_itself;
mod hidepid;
mod hostile;
mod in_place;
mod inetd_conf;
mod inetds;
mod install;
mod linger;
mod listeners;
mod log_format;
mod log_lines;
mod logs;
mod manual;
mod many_services;
mod messages;
mod migration;
mod monitoring;
mod multicast;
mod newborns;
mod one_machine;
mod own_senders;
mod passed_descriptors;
mod per_packet;
mod per_peer;
mod pidfile;
mod prestart_life;
mod prestart_options;
mod prestart_parking;
mod prestart_programs;
mod prestart_real_programs;
mod prestart_traces;
mod prestart_upgrades;
mod privileges;
mod process_1;
mod proxy_protocol;
mod readiness;
mod recipes;
mod reload;
mod resources;
mod rules;
mod run_options;
mod seqpacket;
mod services;
mod shortages;
mod signals;
mod signals_from_strangers;
mod socket_activation;
mod socket_options;
mod stream;
mod supervise;
mod supervised_sockets;
mod surroundings;
mod syslog;
mod timeouts;
mod truth;
mod typed;
mod untrusted_paths;
mod upgrade;
mod wait;
mod xinetd_conf;
