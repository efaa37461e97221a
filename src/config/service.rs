//! A service: a program, its listeners, and what its clients may do.

use std::ffi::CString;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use super::{
    Admission, Gate, Identity, Isolation, Listen, Mode, ServiceText, Span, Surroundings, Tls,
};

/// The maximum number of prestarted handlers.
pub const MOST_WARM: usize = 4096;

/// A program and the listeners that it serves.
#[derive(Debug)]
pub struct Service {
    /// Its name in messages and in the state of an upgrade.
    pub name: String,
    /// Its listeners, in the order of the command line. There are none for a program that is only
    /// run.
    pub listeners: Vec<Listen>,
    /// The program's name and arguments.
    pub command: Vec<CString>,
    /// How the program gets its clients.
    pub mode: Mode,
    /// What a handler of datagrams gets.
    pub datagrams: DatagramMode,
    /// The lowest source port of UDP datagrams that are served. Others are dropped, if skd receives
    /// the datagrams.
    pub min_source_port: u16,
    /// The maximum number of concurrent handlers of connections, if there is a limit.
    pub max_clients: Option<NonZeroUsize>,
    /// How many handlers it has in all, if that is limited. Then it ends.
    pub max_total: Option<NonZeroUsize>,
    /// Which clients are admitted, and when.
    pub admission: Admission,
    /// The user that its handlers become, if they do. skd itself doesn't.
    pub identity: Option<Identity>,
    /// Whether each handler becomes the user of its client instead, on a unix socket.
    pub as_peer: bool,
    /// The root directory that its handlers enter before. They have a user.
    pub root: Option<PathBuf>,
    /// How long skd waits for handlers at its end. If unset, it doesn't wait.
    pub drain: Option<Span>,
    /// The time between telling a program to end and killing it, if it was set.
    pub kill_after: Option<Span>,
    /// How handlers are started before their clients connect, if they are.
    pub prestart: Option<Prestart>,
    /// How far handlers are kept from everything else.
    pub isolation: Isolation,
    /// TLS for its clients, if there is some.
    pub tls: Option<Tls>,
    /// The program that has connections first, if there is one.
    pub gate: Option<Gate>,
    /// The environment, directory and limits of handlers.
    pub surroundings: Surroundings,
    /// What is to be said at the start: settings that have no effect.
    pub notes: Vec<String>,
    /// How it was written, if it comes from a file.
    pub text: Option<Arc<ServiceText>>,
}

impl Service {
    /// Returns the beginning of messages about the service: its location and name, if it comes from
    /// a file.
    pub fn label(&self) -> String {
        match &self.text {
            Some(text) => format!("{}: service {}: ", text.location, self.name),
            None => String::new(),
        }
    }
}

/// What a handler of datagrams gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DatagramMode {
    /// The listener itself, until the handler ends (wait mode of inetd).
    #[default]
    Wait,
    /// The datagrams of one sender.
    PerPeer,
    /// One datagram.
    PerPacket,
}

/// How handlers of connections are started before their clients connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prestart {
    /// A pool of at most this many prestarted handlers, each for one connection.
    Warm(NonZeroUsize),
    /// Templates, one of which each connection gets a copy of: one, and more under load.
    ForkServer {
        /// What its copies may share.
        sharing: Sharing,
        /// The maximum age of a template.
        max_age: Span,
    },
}

/// What the copies of a template may share, which is how far the template gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Nothing but what can't tell one client of another: it gets to the first call that isn't
    /// known to be harmless.
    #[default]
    Strict,
    /// The address layout: it gets to the program's entry, no further than the dynamic linker.
    Start,
    /// Random numbers and more: it gets to the first call that is known to be harmful.
    Shared,
}

impl Prestart {
    /// Returns the option that asks for it, for messages.
    pub fn option(self) -> &'static str {
        match self {
            Self::Warm(_) => "--warm",
            Self::ForkServer { .. } => "--fork-server",
        }
    }
}
