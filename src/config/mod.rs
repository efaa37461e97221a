//! What skd was asked to do, as plain data: complete, checked, and without a trace of the
//! words that it came from.

pub(crate) mod accounts;
mod address;
mod admission;
mod bound_address;
mod duration;
mod escapes;
mod log_target;
mod mode;
mod peer;
mod prefix;
pub mod proxy_header;
mod rate;
mod rule;
pub mod rule_file;
mod service_id;
mod socket_option;
mod source;

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::str::FromStr;

use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::sys::child::Resource;

pub use address::{Host, InetAddress, Port, UnixAddress};
pub use admission::{Admission, AtLimit, Proxies, SourcePrefix};
pub use bound_address::{BoundAddress, ListenerName};
pub(crate) use bound_address::{plain, scoped};
pub use duration::Span;
pub use escapes::{quoted, unescape};
pub use log_target::{Level, LogTarget};
pub use mode::{Mode, Supervise};
pub use peer::{Datagram, Peer, Proxied};
pub use prefix::Prefix;
pub use rate::Rate;
pub use rule::{Id, Names, Rule, RuleLocation, Trusted, Who, look_up};
pub use service_id::ServiceId;
pub use socket_option::{Group, Probes, Scope, SocketOption, is_interface};
pub use source::Source;

/// Why a text can't be read as what it is to be: a clause that goes on after "invalid
/// value".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(String);

impl Refused {
    /// For this reason.
    pub fn because(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

/// A decimal number and nothing else: no sign, no blank, no prefix.
pub fn decimal<T: FromStr>(text: &OsStr) -> Option<T> {
    let text = text.to_str()?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// All that skd was asked to do.
#[derive(Debug)]
pub struct Config {
    /// What concerns the process as a whole.
    pub daemon: Daemon,
    /// What it runs: one service from a command line, each with a name of its own.
    pub services: Vec<Service>,
}

/// How long what was told to end may still run, where it isn't said.
pub const KILL_AFTER: Span = Span::seconds(5);

/// How many threads can accept connections.
pub const MOST_THREADS: usize = 16;

/// How many processes can stand ready for clients who haven't come.
pub const MOST_WARM: usize = 4096;

/// What concerns the process as a whole.
#[derive(Debug)]
pub struct Daemon {
    /// How much is reported: 0 errors, 1 connections, 2 more.
    pub verbosity: u8,
    /// Whether to go into the background.
    pub background: bool,
    /// Where standard error goes; where it is, if not said.
    pub log: Option<LogTarget>,
    /// Where the process id is written.
    pub pidfile: Option<PathBuf>,
    /// The descriptor that gets a newline when skd is ready: standard output, or one from 3 up.
    pub ready_fd: Option<i32>,
    /// Whom to become after binding.
    pub identity: Option<Identity>,
    /// The root directory to take before that.
    pub root: Option<PathBuf>,
    /// How many threads accept connections, up to [`MOST_THREADS`]; three for two cores, if not said.
    pub threads: Option<NonZeroUsize>,
}

/// A user to become, all names already looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id, never 0.
    pub uid: Uid,
    /// Group id.
    pub gid: Gid,
    /// All supplementary groups, sorted.
    pub groups: Vec<Gid>,
    /// What becomes of HOME, USER, LOGNAME and SHELL.
    pub account: Account,
}

/// What a change of user makes of HOME, USER, LOGNAME and SHELL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Account {
    /// They stay as they were inherited.
    Inherited,
    /// They are unset: the user has no entry in passwd(5).
    Unknown,
    /// They are those of passwd(5).
    Known {
        /// USER and LOGNAME.
        name: OsString,
        /// HOME.
        home: OsString,
        /// SHELL.
        shell: OsString,
    },
}

/// A program and the sockets that it serves.
#[derive(Debug)]
pub struct Service {
    /// Its name in messages and in the state of an upgrade.
    pub name: String,
    /// The sockets, in the order in which they were asked for; none for a program that is
    /// only run.
    pub listeners: Vec<Listen>,
    /// The program's name and arguments.
    pub command: Vec<CString>,
    /// How the program gets its clients.
    pub mode: Mode,
    /// What a datagram socket's handlers are for.
    pub datagrams: DatagramMode,
    /// From which port on UDP datagrams are listened to, where skd receives them.
    pub min_source_port: u16,
    /// How many handlers the stream listeners may have at once; any number, if not said.
    pub max_clients: Option<NonZeroUsize>,
    /// What else is asked of clients.
    pub admission: Admission,
    /// How long handlers are waited for at the end; not at all, if not said.
    pub drain: Option<Span>,
    /// How long what was told to end may still run before it is killed, if said.
    pub kill_after: Option<Span>,
    /// Whether its handlers are started before their clients come, and how.
    pub prestart: Option<Prestart>,
    /// The surroundings that a handler starts in.
    pub surroundings: Surroundings,
}

/// A socket to bind, or to take over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// The option that asked for it, for messages: `--tcp 80`.
    pub option: String,
    /// Where.
    pub endpoint: Endpoint,
    /// How many connections may wait; as many as the kernel allows, if not said.
    pub backlog: Option<i32>,
    /// What is set on it, as far as it has that.
    pub options: Vec<SocketOption>,
}

/// Where a socket is bound, with what belongs to that kind alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// TCP or UDP.
    Inet {
        /// TCP or UDP.
        style: Style,
        /// Host and port, the port already a number.
        host: Host,
        /// 0 takes a free one and prints it.
        port: u16,
    },
    /// Unix-domain.
    Unix {
        /// Any.
        style: Style,
        /// Path or abstract name.
        address: UnixAddress,
        /// Mode of the socket file; 0777 less the umask, if not said.
        mode: Option<u32>,
        /// Owner of the socket file, and its group if given.
        owner: Option<(Uid, Option<Gid>)>,
    },
    /// Nowhere: somebody else has made it and handed it to this process. Of what kind it is,
    /// the socket itself says.
    Inherited {
        /// How it was handed over.
        by: SocketSource,
    },
}

/// How sockets were handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketSource {
    /// Under this number.
    Number(i32),
    /// As many as there are, as sd_listen_fds(3) has it.
    Systemd,
}

impl Endpoint {
    /// Of what style it is, where that is known from the command line.
    pub fn style(&self) -> Option<Style> {
        match self {
            Self::Inet { style, .. } | Self::Unix { style, .. } => Some(*style),
            Self::Inherited { .. } => None,
        }
    }

    /// Whether two of the same kind can both be bound: each takes a free port.
    pub fn may_be_repeated(&self) -> bool {
        matches!(self, Self::Inet { port: 0, .. })
    }
}

/// The style of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Style {
    /// A connection for each client.
    Stream,
    /// The same, and what is written at once is read at once; unix sockets only.
    Seqpacket,
    /// Datagrams from anybody.
    Datagram,
}

impl Style {
    /// Whether clients connect, and are accepted.
    pub fn has_connections(self) -> bool {
        self != Self::Datagram
    }
}

/// What handlers of a datagram socket are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DatagramMode {
    /// The socket itself, of which each has the use until it ends.
    #[default]
    Wait,
    /// One sender.
    PerPeer,
    /// One datagram.
    PerPacket,
}

/// How handlers of connections are started before their clients come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prestart {
    /// So many processes at most stand ready, each for one connection.
    Warm(NonZeroUsize),
    /// One stands ready, and each connection has a copy of it.
    ForkServer {
        /// How old it may become.
        max_age: Span,
    },
}

impl Prestart {
    /// The option that asks for it, for messages.
    pub fn option(self) -> &'static str {
        match self {
            Self::Warm(_) => "--warm",
            Self::ForkServer { .. } => "--fork-server",
        }
    }
}

/// What a handler starts in, as far as it was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Its working directory.
    pub directory: Option<CString>,
    /// Its file mode creation mask.
    pub umask: Option<u32>,
    /// Its nice value, -20 to 19.
    pub nice: Option<i32>,
    /// Its resource limits.
    pub limits: Vec<Limit>,
    /// Changes to its environment, in order: a value, or `None` to unset.
    pub environment: Vec<(OsString, Option<OsString>)>,
    /// Whether it, and what it execs, can never gain privileges.
    pub no_new_privileges: bool,
}

/// A resource limit (setrlimit(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Its name as in `--limit`.
    pub name: &'static str,
    /// Its number.
    pub resource: Resource,
    /// Soft limit; `u64::MAX` is none.
    pub soft: u64,
    /// Hard limit; `u64::MAX` is none.
    pub hard: u64,
}

/// The limits by name, as in prlimit(1).
pub const RESOURCES: [(&str, Resource); 16] = [
    ("as", libc::RLIMIT_AS),
    ("core", libc::RLIMIT_CORE),
    ("cpu", libc::RLIMIT_CPU),
    ("data", libc::RLIMIT_DATA),
    ("fsize", libc::RLIMIT_FSIZE),
    ("locks", libc::RLIMIT_LOCKS),
    ("memlock", libc::RLIMIT_MEMLOCK),
    ("msgqueue", libc::RLIMIT_MSGQUEUE),
    ("nice", libc::RLIMIT_NICE),
    ("nofile", libc::RLIMIT_NOFILE),
    ("nproc", libc::RLIMIT_NPROC),
    ("rss", libc::RLIMIT_RSS),
    ("rtprio", libc::RLIMIT_RTPRIO),
    ("rttime", libc::RLIMIT_RTTIME),
    ("sigpending", libc::RLIMIT_SIGPENDING),
    ("stack", libc::RLIMIT_STACK),
];

/// Whether skd itself sets or removes this variable for each handler, so that one inherited
/// from elsewhere can't be taken for its word.
pub fn is_reserved_variable(name: &OsStr) -> bool {
    let name = name.as_bytes();
    let connection = |protocol: &[u8]| {
        let rest = |side: &[u8]| name.strip_prefix(protocol)?.strip_prefix(side);
        let what = rest(b"LOCAL").or_else(|| rest(b"REMOTE"));
        what.is_some_and(|what| matches!(what, b"IP" | b"PORT" | b"HOST" | b"INFO"))
    };
    connection(b"TCP")
        || connection(b"UDP")
        || name.starts_with(b"SKD_")
        || RESERVED.iter().any(|reserved| reserved.as_bytes() == name)
}

const RESERVED: [&str; 22] = [
    "PROTO",
    "TCPCONNNUM",
    "TCPCONCURRENCY",
    "PEERPID",
    "PEERUID",
    "PEERGID",
    "UNIXLOCALPATH",
    "UNIXREMOTEPATH",
    "UNIXREMOTEPID",
    "UNIXREMOTEEUID",
    "UNIXREMOTEEGID",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "REMOTE_HOST",
    "REMOTE_USER",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];
