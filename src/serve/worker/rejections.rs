//! Log lines about the clients that one worker rejects of one service, and counts of their sources.

use std::time::Instant;

use crate::config::ListenerId;
use crate::report::{self, Client, Event, Reason, RejectCause};
use crate::serve::admission::{Clock, Kind, Noted, Pending, RejectLog};
use crate::serve::service::Service;

/// Log lines about rejected clients: a few a second, and then how many more there were. Their sources
/// are counted whether or not there is a line.
#[derive(Debug)]
pub(super) struct Rejections<'a> {
    log: RejectLog,
    service: &'a Service,
    kind: Kind,
    clock: Clock,
    worker: usize,
}

impl<'a> Rejections<'a> {
    pub(super) fn new(service: &'a Service, kind: Kind, (clock, worker): (Clock, usize)) -> Self {
        Self {
            log: RejectLog::new(),
            service,
            kind,
            clock,
            worker,
        }
    }

    /// Reports that a client was rejected for this reason, or counts it.
    pub(super) fn report(
        &mut self,
        client: &Pending,
        listener: ListenerId,
        reason: Reason<'_>,
        now: Instant,
    ) {
        let cause = RejectCause::from(&reason);
        let event = Event::Rejected(
            Client {
                service: self.service.id,
                listener,
                peer: &client.peer,
            },
            reason,
        );
        let (source, time) = (client.source, self.clock.read(now));
        let rejected = &self.service.rejected;
        rejected.note(self.worker, source, reason.kind(), time);
        report::event_if(event, || self.log.note(source, cause, time) == Noted::Line);
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
        let (service, kind) = (self.service.id, self.kind);
        let time = self.clock.read(Instant::now());
        self.log.flush(time, |source, counts| {
            report::event(match kind {
                Kind::Connection => Event::RejectedConnections(service, counts, source),
                Kind::Datagram => Event::RejectedDatagrams(service, counts, source),
            });
        });
    }

    /// Reports all that was counted, since there will be no later.
    pub(super) fn flush_all(&mut self) {
        self.log.cut_short();
        self.flush();
    }
}
