//! The configuration: plain data, complete and checked. Nothing in it depends on the words that it
//! was read from.

pub(crate) mod accounts;
mod address;
mod admission;
mod bound_address;
mod clients;
mod control;
mod count;
mod daemon;
mod decimal;
mod duration;
pub mod environment_file;
mod escapes;
mod gate;
mod in_order;
mod isolation;
mod listen;
mod listener_id;
mod log_target;
mod mode;
mod nat64;
mod nearest;
mod peer;
mod prefix;
pub mod proxy_header;
mod rate;
mod refused;
mod rule;
pub mod rule_file;
pub mod seccomp;
mod service;
mod service_id;
mod service_text;
mod socket_option;
mod source;
mod style;
mod surroundings;
mod target;
mod tls;
mod variables;
mod words;

pub use address::{Host, InetAddress, Port, UnixAddress};
pub use admission::{Admission, AtLimit, Proxies, SourcePrefix};
pub use bound_address::{BoundAddress, ListenerName};
pub(crate) use bound_address::{plain, scoped};
pub use clients::{Clients, KnownBy};
pub use control::Control;
pub use count::{Count, Grouped};
pub use daemon::{
    Account, Daemon, Identity, KILL_AFTER, LogFormat, LogLines, MOST_THREADS, TlsProcess,
};
pub use decimal::decimal;
pub use duration::Span;
pub use environment_file::EnvironmentFile;
pub use escapes::{quoted, unescape};
pub use gate::{GATE_TIMEOUT, Gate, MOST_IN_GATE};
pub use in_order::in_order;
pub use isolation::{
    HOST_NAME, Isolation, MEMORY_SIZE, Mount, MountKind, PARTS, Part, Parts, ResourceMax, Sandbox,
    Seccomp,
};
pub use listen::{Endpoint, Listen, SocketSource};
pub use listener_id::ListenerId;
pub use log_target::{Level, LogTarget};
pub use mode::{Mode, Supervise};
pub use nat64::{Nat64, untranslated};
pub use nearest::nearest;
pub use peer::{Datagram, Peer, Proxied};
pub use prefix::Prefix;
pub use rate::Rate;
pub use refused::Refused;
pub use rule::{Id, Names, Rule, RuleLocation, Trusted, Who, look_up};
pub use service::{DatagramMode, MOST_WARM, Prestart, Service, Sharing};
pub use service_id::ServiceId;
pub use service_text::{FileTexts, Location, OptionText, ServiceText};
pub use socket_option::{Group, Probes, Scope, SocketOption, is_interface};
pub use source::Source;
pub use style::Style;
pub use surroundings::{Limit, RESOURCES, StandardError, Surroundings};
pub use target::Target;
pub use tls::{ClientCertificates, TLS_TIMEOUT, Tls, TlsCertificate, TlsVersion};
pub use variables::{is_reserved_variable, is_tls_variable};
pub use words::words;

/// The configuration of skd.
#[derive(Debug)]
pub struct Config {
    /// The configuration of the process as a whole.
    pub daemon: Daemon,
    /// The services, each with a name of its own. A command line defines one.
    pub services: Vec<Service>,
    /// What files say, if the services come from files.
    pub texts: Option<FileTexts>,
}
