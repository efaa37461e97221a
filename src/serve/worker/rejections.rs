//! Log lines about the clients that one worker rejects of one service.

use std::fmt;
use std::time::Instant;

use crate::report::{self, Event};
use crate::serve::admission::{Clock, Kind, Pending, Reason, RejectLog, Say};

/// Log lines about rejected clients: a few a second, and then how many more there were.
#[derive(Debug)]
pub(super) struct Rejections {
    log: RejectLog,
    kind: Kind,
    clock: Clock,
}

impl Rejections {
    pub(super) fn new(kind: Kind, clock: Clock) -> Self {
        let log = RejectLog::new();
        Self { log, kind, clock }
    }

    /// Reports that a client was rejected for this reason, or counts it.
    pub(super) fn report(&mut self, client: &Pending, reason: &Reason, now: Instant) {
        if report::wants(1) && self.log.note(client.source, self.clock.read(now)) == Say::Line {
            report::event(Event::Refused(&client.peer, reason));
        }
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
        let kind = self.kind;
        let time = self.clock.read(Instant::now());
        self.log.flush(time, |source, count| {
            let from = |f: &mut fmt::Formatter<'_>| match &source {
                Some(source) => write!(f, "{source}"),
                None => f.write_str("others"),
            };
            let from = fmt::from_fn(from);
            report::event(match kind {
                Kind::Connection => Event::RefusedMore(count, &from),
                Kind::Datagram => Event::RefusedDatagrams(count, &from),
            });
        });
    }

    /// Reports all that was counted, since there will be no later.
    pub(super) fn flush_all(&mut self) {
        self.log.cut_short();
        self.flush();
    }
}
