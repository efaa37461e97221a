//! Log lines about the clients that one worker rejects of one service.

use std::time::Instant;

use crate::config::ServiceId;
use crate::report::{self, Event, Reason};
use crate::serve::admission::{Clock, Kind, Noted, Pending, RejectLog};

/// Log lines about rejected clients: a few a second, and then how many more there were.
#[derive(Debug)]
pub(super) struct Rejections {
    log: RejectLog,
    service: ServiceId,
    kind: Kind,
    clock: Clock,
}

impl Rejections {
    pub(super) fn new(service: ServiceId, kind: Kind, clock: Clock) -> Self {
        Self {
            log: RejectLog::new(),
            service,
            kind,
            clock,
        }
    }

    /// Reports that a client was rejected for this reason, or counts it.
    pub(super) fn report(&mut self, client: &Pending, reason: Reason<'_>, now: Instant) {
        let event = Event::Rejected(self.service, &client.peer, reason);
        let (source, time) = (client.source, self.clock.read(now));
        report::event_if(event, || self.log.note(source, time) == Noted::Line);
    }

    /// Returns when something that was counted is to be reported.
    pub(super) fn due(&self) -> Option<Instant> {
        self.log.due().map(|due| self.clock.instant(due))
    }

    /// Reports what was counted, if it is due.
    pub(super) fn flush(&mut self) {
        if self.log.due().is_none() {
            return;
        }
        let (service, kind) = (self.service, self.kind);
        let time = self.clock.read(Instant::now());
        self.log.flush(time, |source, count| {
            report::event(match kind {
                Kind::Connection => Event::RejectedConnections(service, count, source),
                Kind::Datagram => Event::RejectedDatagrams(service, count, source),
            });
        });
    }

    /// Reports all that was counted, since there will be no later.
    pub(super) fn flush_all(&mut self) {
        self.log.cut_short();
        self.flush();
    }
}
