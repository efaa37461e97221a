//! Pending clients: accepted or received, without a handler, and not rejected yet.

use std::sync::Arc;
use std::time::Instant;

use socket2::Socket;

use super::rules::Ready;
use super::slots::Slot;
use super::sources::{SourceLimits, SourceSlot};
use crate::config::{Peer, ServiceId, Source};
use crate::net::LastClient;
use crate::net::proxy::Received;
use crate::report::Reason;
use crate::serve::gate::LiveGate;
use crate::serve::tls::TlsSession;

/// What clients arrive as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Kind {
    /// As connections, which can wait for a limit.
    Connection,
    /// As datagrams, which can't: a received datagram has to be served or dropped.
    Datagram,
}

/// A pending client, and what it has taken so far.
#[derive(Debug)]
pub(in crate::serve) struct Pending {
    pub(in crate::serve) peer: Peer,
    pub(in crate::serve) source: Source,
    pub(super) kind: Kind,
    pub(super) stage: Stage,
    /// What was found at the beginning of the connection, since it was last asked for.
    pub(super) header: Option<Received>,
    /// The same of its first byte.
    pub(super) first_byte: Option<FirstByte>,
    /// The same of its TLS handshake.
    pub(super) tls: Option<FoundTls>,
    /// Whether skd-tls has it, or has had it in an earlier process.
    pub(super) is_in_handshake: bool,
    /// Whether its TLS session is established.
    pub(super) is_secure: bool,
    /// The same of its gate.
    pub(super) gate: Option<FoundGate>,
    /// Whether it is in the gate, though its service may have none by now.
    pub(super) is_in_gate: bool,
    /// Whether the gate has let it through.
    pub(super) has_passed: bool,
    /// When the stage times out, if it does.
    pub(super) deadline: Option<Instant>,
    /// When to ask again though nothing has happened.
    pub(super) retry: Option<Instant>,
    pub(super) source_slot: Option<TakenSourceSlot>,
    /// When it took its token of the service's rate.
    pub(super) token: Option<u64>,
    pub(super) slot: Option<Slot>,
    /// Whether a rule denies it that has a message, for which it has its TLS handshake.
    pub(super) is_denied_later: bool,
    /// The rule that allows it, if that sets more than that.
    pub(super) rule: Option<Arc<Ready>>,
}

/// What an admitted client has, and its handler keeps.
#[derive(Debug)]
pub(in crate::serve) struct Admitted {
    pub(in crate::serve) slot: Slot,
    pub(in crate::serve) source_slot: Option<SourceSlot>,
    pub(in crate::serve) rule: Option<Arc<Ready>>,
}

impl Admitted {
    /// What a client has of which nothing but a slot is asked.
    pub(in crate::serve) fn with(slot: Slot) -> Self {
        Self {
            slot,
            source_slot: None,
            rule: None,
        }
    }
}

/// What a pending client has taken of its source's limits, and when.
#[derive(Debug)]
pub(super) struct TakenSourceSlot {
    pub(super) slot: SourceSlot,
    pub(super) limits: SourceLimits,
    pub(super) at: u64,
}

/// What a look for a client's first byte has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum FirstByte {
    /// It has arrived.
    Arrived,
    /// It hasn't arrived.
    Missing,
    /// The client has closed the connection, or it has failed.
    Ended,
}

/// What a look at a client's TLS handshake has found.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) enum FoundTls {
    /// The session is established: the connection is the plain side now.
    Established,
    /// It goes on: something is readable when there is more to know.
    Runs,
    /// The connection can't be handed to skd-tls yet. The caller tries again.
    Later,
    /// There is no session.
    Refused(Reason<'static>),
}

/// What a look at a client's gate has found.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) enum FoundGate {
    /// It has let the client through.
    Passed,
    /// It runs, or can't be started yet: it is looked at again at this time at the latest.
    Runs(Option<Instant>),
    /// The client is turned away. The limit of its service says how, if that was reached.
    Refused(Reason<'static>),
}

impl Pending {
    /// A client that has just arrived.
    pub(super) fn new(peer: Peer, source: Source, kind: Kind) -> Self {
        Self {
            peer,
            source,
            kind,
            stage: Stage::Header,
            header: None,
            first_byte: None,
            tls: None,
            is_in_handshake: false,
            is_secure: false,
            gate: None,
            is_in_gate: false,
            has_passed: false,
            deadline: None,
            retry: None,
            source_slot: None,
            token: None,
            slot: None,
            is_denied_later: false,
            rule: None,
        }
    }

    /// The stage that it has reached.
    pub(in crate::serve) fn stage(&self) -> Stage {
        self.stage
    }

    /// Returns whether it is known who the client is: its PROXY header was read, or none is due.
    pub(in crate::serve) fn is_identified(&self) -> bool {
        self.stage != Stage::Header
    }

    /// Returns the rule that allows it, if that sets more than that.
    pub(in crate::serve) fn rule(&self) -> Option<&Ready> {
        self.rule.as_deref()
    }

    /// Notes that an earlier process has read its PROXY header.
    pub(in crate::serve) fn set_identified(&mut self) {
        self.stage = Stage::Rules;
    }

    /// Notes what was found at the beginning of its connection.
    pub(in crate::serve) fn found_header(&mut self, found: Received) {
        self.header = Some(found);
    }

    /// Notes what a look for its first byte has found.
    pub(in crate::serve) fn found_first_byte(&mut self, found: FirstByte) {
        self.first_byte = Some(found);
    }

    /// Notes what a look at its TLS handshake has found.
    pub(in crate::serve) fn found_tls(&mut self, found: FoundTls) {
        self.tls = Some(found);
    }

    /// Notes that an earlier process has handed it to skd-tls.
    pub(in crate::serve) fn set_in_handshake(&mut self) {
        self.is_in_handshake = true;
    }

    /// Returns whether its TLS session is established.
    pub(in crate::serve) fn is_secure(&self) -> bool {
        self.is_secure
    }

    /// Notes that an earlier process has seen its TLS session established.
    pub(in crate::serve) fn set_secure(&mut self) {
        self.is_secure = true;
    }

    /// Notes what a look at its gate has found.
    pub(in crate::serve) fn found_gate(&mut self, found: FoundGate) {
        self.gate = Some(found);
    }

    /// Returns whether its gate has let it through.
    pub(in crate::serve) fn has_passed(&self) -> bool {
        self.has_passed
    }

    /// Notes that it is in the gate, since an earlier process.
    pub(in crate::serve) fn set_in_gate(&mut self) {
        self.is_in_gate = true;
    }

    /// Notes that its gate has let it through, in an earlier process.
    pub(in crate::serve) fn set_passed(&mut self) {
        self.has_passed = true;
    }

    /// Returns whether what was found last is too little to go on. That is forgotten then.
    pub(in crate::serve) fn lacks_input(&mut self) -> bool {
        let header = self
            .header
            .take_if(|found| matches!(found, Received::Incomplete { .. }));
        let first_byte = self
            .first_byte
            .take_if(|found| *found == FirstByte::Missing);
        let tls = self.tls.take_if(|found| matches!(found, FoundTls::Runs));
        header.is_some() || first_byte.is_some() || tls.is_some()
    }

    /// Returns whether it waits for something to be readable: the client has to send something, or is in
    /// its TLS handshake.
    pub(in crate::serve) fn awaits_input(&self) -> bool {
        match self.stage {
            Stage::Header | Stage::FirstByte => true,
            // Until skd-tls has the connection, nothing is to be read.
            Stage::Tls => self.is_in_handshake,
            Stage::Rules | Stage::Source | Stage::Rate | Stage::Gate | Stage::Slot => false,
        }
    }

    /// Returns whether the stage has timed out.
    pub(in crate::serve) fn is_late(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| deadline <= now)
    }

    /// Has a client that is admitted wait until `retry`, with all that it has. Its timeouts are
    /// over: otherwise it would be asked about again at once, and for ever.
    pub(in crate::serve) fn postpone(&mut self, retry: Instant) {
        (self.deadline, self.retry) = (None, Some(retry));
    }

    /// Takes what an admitted client has.
    pub(in crate::serve) fn admitted(&mut self) -> Option<Admitted> {
        Some(Admitted {
            slot: self.slot.take()?,
            source_slot: self.source_slot.take().map(|taken| taken.slot),
            rule: self.rule.take(),
        })
    }

    /// Gives the client a slot that has become free.
    pub(in crate::serve) fn give(&mut self, slot: Slot) {
        self.slot = Some(slot);
    }

    pub(super) fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        (self.deadline, self.retry) = (None, None);
    }

    /// When to ask the pipeline again, should nothing happen before.
    pub(super) fn due(&self) -> Option<Instant> {
        self.deadline.into_iter().chain(self.retry).min()
    }
}

/// What a client passes, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum Stage {
    /// The PROXY header that names the client.
    Header,
    /// The rules.
    Rules,
    /// The TLS handshake.
    Tls,
    /// The client's first byte.
    FirstByte,
    /// The limits of its source.
    Source,
    /// The service's rate.
    Rate,
    /// The gate.
    Gate,
    /// A slot.
    Slot,
}

impl Stage {
    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::Header => Some(Self::Rules),
            Self::Rules => Some(Self::Tls),
            Self::Tls => Some(Self::FirstByte),
            Self::FirstByte => Some(Self::Source),
            Self::Source => Some(Self::Rate),
            Self::Rate => Some(Self::Gate),
            Self::Gate => Some(Self::Slot),
            Self::Slot => None,
        }
    }
}

/// A connection whose client is pending.
#[derive(Debug)]
pub(in crate::serve) struct PendingConnection {
    pub(in crate::serve) client: Pending,
    pub(in crate::serve) connection: Socket,
    /// When it was accepted.
    pub(in crate::serve) arrived: Instant,
    pub(in crate::serve) service: ServiceId,
    /// The index of the service's listener that it was accepted from.
    pub(in crate::serve) listener: usize,
    /// Its TLS session, once skd-tls has it: `connection` is the plain side then.
    pub(in crate::serve) session: Option<TlsSession>,
    /// Its gate, while that runs.
    pub(in crate::serve) gate: Option<Box<LiveGate>>,
    /// Keeps that open, if it is about to be closed.
    pub(in crate::serve) _last: Option<LastClient>,
}
