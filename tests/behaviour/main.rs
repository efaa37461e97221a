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
mod clusters;
mod command_line;
mod config_files;
mod confined;
mod contain;
mod contrib;
mod control_acts;
mod control_asks;
mod control_socket;
mod counters;
mod ctl;
mod datagram_services;
mod datagrams;
mod differences;
// They have a table of what prestarted programs may do, which is there on x86-64 alone.
#[cfg(target_arch = "x86_64")]
mod documents;
mod drain;
mod environment;
mod examples;
mod fallbacks;
mod faults;
mod flood;
mod forward;
mod gate;
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
mod packages;
mod passed_descriptors;
mod per_packet;
mod per_peer;
mod pidfile;
// Handlers are prestarted on x86-64 alone.
#[cfg(target_arch = "x86_64")]
mod prestart_life;
#[cfg(target_arch = "x86_64")]
mod prestart_options;
#[cfg(target_arch = "x86_64")]
mod prestart_parking;
#[cfg(target_arch = "x86_64")]
mod prestart_programs;
#[cfg(target_arch = "x86_64")]
mod prestart_real_programs;
#[cfg(target_arch = "x86_64")]
mod prestart_traces;
#[cfg(target_arch = "x86_64")]
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
mod sandbox;
mod sandbox_escapes;
mod sandbox_handlers;
mod sandbox_leaks;
mod sandbox_tree;
mod scale_out;
mod seccomp;
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
mod tls_clients;
mod tls_docs;
mod tls_hostile;
mod tls_options;
mod tls_process;
mod tls_secrets;
mod tls_stage;
mod truth;
mod typed;
mod untrusted_paths;
mod upgrade;
mod wait;
mod xinetd_conf;
