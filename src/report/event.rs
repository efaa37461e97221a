//! What happens while skd runs, as data.

use std::ffi::OsStr;
use std::time::Duration;

use nix::errno::Errno;

use super::reason::Reason;
use super::trouble::Trouble;
use crate::config::{ListenerName, Peer, ServiceId, Source, Span};
use crate::sys::process::Ended;

/// Where a program is parked that is prestarted.
#[derive(Clone, Copy, Debug)]
pub struct ParkedAt<'a> {
    /// The program.
    pub program: &'a OsStr,
    /// The call that it is parked at, or its entry.
    pub at: &'a str,
    /// How long that took.
    pub after: Duration,
    /// How much of its start that was.
    pub extent: Extent,
}

/// How much of a program's start is done where it is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All: it waits for input of its client.
    Whole,
    /// All that it does before it uses its client in some way.
    BeforeClient,
    /// What came before another call. How much more there is isn't known.
    Part,
}

/// Something that happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A connection was admitted, or a datagram for which a handler is started.
    Accepted(ServiceId, &'a Peer),
    /// A connection or datagram was rejected, for this reason.
    Rejected(ServiceId, &'a Peer, Reason<'a>),
    /// This many more connections were rejected, from this source or from all others.
    RejectedConnections(ServiceId, u64, Option<Source>),
    /// This many more datagrams were rejected, from this source or from all others.
    RejectedDatagrams(ServiceId, u64, Option<Source>),
    /// A datagram was dropped. Only counted: [`Self::Dropped`] is written.
    DatagramDropped(ServiceId, DropReason),
    /// This many datagrams were dropped in a second, for this reason.
    Dropped(ServiceId, u64, DropReason),
    /// A handler with this process id was started. Only counted: [`Self::Slots`] is written.
    HandlerStarted(ServiceId, i32),
    /// A datagram or connection is there, for which a handler will be started on the listener.
    Received(ServiceId, &'a Peer),
    /// A handler of a connection ended.
    Closed(ServiceId, &'a Peer, Outcome),
    /// A handler of datagrams, or of a listener in wait mode, ended.
    Finished(ServiceId, &'a Peer, Outcome),
    /// This many slots are taken, of this many if they are limited.
    Slots(ServiceId, usize, Option<usize>),
    /// Clients wait, since all slots, this many, are taken.
    Full(ServiceId, usize),
    /// Clients wait, since the rate of the service is used up.
    Fast(ServiceId),
    /// A socket listens.
    Listening(ListenerName<'a>),
    /// A socket with this name would listen, if skd were not only to check its command line.
    WouldListen(&'a str),
    /// A socket was closed.
    ClosedListener(ListenerName<'a>),
    /// An address of a host name was passed over.
    PassedOver(ListenerName<'a>, Errno),
    /// A supervised program was started.
    Started(&'a OsStr),
    /// A supervised program ended.
    Ended(&'a OsStr, Ended),
    /// A supervised program will be started again.
    Restarting(&'a OsStr, Duration),
    /// A supervised program is told to end: it had no client for this time.
    Idle(&'a OsStr, Duration),
    /// A datagram that its handlers did not read was discarded. Not throttled: there are few, and
    /// each is a datagram lost.
    ReadAway {
        /// The service.
        service: ServiceId,
        /// The sender.
        peer: &'a Peer,
        /// Its length in bytes.
        length: usize,
        /// The listener.
        listener: ListenerName<'a>,
        /// The program of the handlers.
        program: &'a OsStr,
        /// The number of handlers.
        starts: u32,
    },
    /// Connections wait, and handlers in wait mode accepted none. Not throttled either.
    LeftWaiting {
        /// The service.
        service: ServiceId,
        /// The listener.
        listener: ListenerName<'a>,
        /// The program of the handlers.
        program: &'a OsStr,
        /// The number of handlers.
        starts: u32,
    },
    /// This process has taken over from this version of skd.
    Upgraded(&'a str),
    /// Files were read again, and this is the difference.
    Reloaded(Difference),
    /// The handler of a peer, with this process id, is told to end, being late.
    Late(ServiceId, &'a Peer, i32, Late),
    /// A handler that was told to end has not, and is killed.
    KillingHandler(ServiceId, &'a Peer, i32),
    /// A supervised program has not ended in time, and is killed.
    Killing(&'a OsStr),
    /// skd waits for this many handlers to end, for this time at most.
    Draining(usize, Span),
    /// This many handlers have not ended in time.
    Overdue(usize, Overdue),
    /// This many rules were reloaded.
    ReadRules(ServiceId, usize),
    /// It became known how far a program gets before its client comes.
    Parked(ServiceId, ParkedAt<'a>),
    /// A handler of this program, with this process id, is prestarted.
    Ready(ServiceId, &'a OsStr, i32),
    /// Something went wrong.
    Trouble(Trouble<'a>),
}

impl Event<'_> {
    /// Returns the service that it is about, if it is about one.
    pub fn service(&self) -> Option<ServiceId> {
        match self {
            Self::Accepted(service, ..)
            | Self::Rejected(service, ..)
            | Self::RejectedConnections(service, ..)
            | Self::RejectedDatagrams(service, ..)
            | Self::DatagramDropped(service, ..)
            | Self::Dropped(service, ..)
            | Self::HandlerStarted(service, ..)
            | Self::Received(service, ..)
            | Self::Closed(service, ..)
            | Self::Finished(service, ..)
            | Self::Slots(service, ..)
            | Self::Full(service, ..)
            | Self::Fast(service)
            | Self::ReadAway { service, .. }
            | Self::LeftWaiting { service, .. }
            | Self::Late(service, ..)
            | Self::KillingHandler(service, ..)
            | Self::ReadRules(service, ..)
            | Self::Parked(service, ..)
            | Self::Ready(service, ..) => Some(*service),
            Self::Trouble(trouble) => trouble.service(),
            Self::Listening(_)
            | Self::WouldListen(_)
            | Self::ClosedListener(_)
            | Self::PassedOver(..)
            | Self::Started(_)
            | Self::Ended(..)
            | Self::Restarting(..)
            | Self::Idle(..)
            | Self::Upgraded(_)
            | Self::Reloaded(_)
            | Self::Killing(_)
            | Self::Draining(..)
            | Self::Overdue(..) => None,
        }
    }
}

/// How many services a reload has added, removed, changed and left as they were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Those that are new.
    pub added: usize,
    /// Those that are gone.
    pub removed: usize,
    /// Services with another text, user or address.
    pub changed: usize,
    /// The others.
    pub unchanged: usize,
}

/// What is done about handlers that have not ended in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overdue {
    /// They are sent TERM.
    Terminated,
    /// They are sent KILL.
    Killed,
    /// skd ends without them.
    Abandoned,
}

/// What a handler has done for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It has run.
    Running(Span),
    /// Its connection has been idle.
    Idle(Span),
}

/// How a handler ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Its process id.
    pub pid: i32,
    /// Its status or signal.
    pub ended: Ended,
    /// How long it ran.
    pub after: Duration,
}

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum DropReason {
    /// Its handler has not read the datagrams before it.
    Overflow,
    /// It has no bytes, which its handler would take for the end.
    Empty,
    /// It has more bytes than a UDP datagram can have.
    TooLong,
    /// There was no handler for it, because of a shortage.
    Short,
    /// skd drains, or the service is gone, and its sender has no handler.
    Closed,
    /// It is an answer to a sender without an address.
    NoAddress,
    /// It is an answer that couldn't be sent.
    NotSent,
    /// Its sender is one of skd's own sockets, so it is forged, or an answer to a forged one.
    Own,
    /// Its sender has passed descriptors along.
    Descriptors,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Overflow,
        Self::Empty,
        Self::TooLong,
        Self::Short,
        Self::Closed,
        Self::NoAddress,
        Self::NotSent,
        Self::Own,
        Self::Descriptors,
    ];

    /// The number of reasons.
    pub const COUNT: usize = Self::Descriptors as usize + 1;
}
