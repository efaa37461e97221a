//! When connections are handed to skd-tls again, after the request channel was full.

use std::time::{Duration, Instant};

use crate::serve::worker::intake::PAUSE;

/// How long the request channel is left alone when it was full, at first. Each time in a row it is
/// twice as long, up to [`PAUSE`].
const FULL: Duration = Duration::from_millis(2);

/// When connections are handed to skd-tls again.
///
/// The request channel holds some two hundred of them. If it is full, the first connection of the line
/// ([`PendingQueue::for_tls`](crate::serve::admission::PendingQueue)) is tried again after a pause,
/// and then all that fit.
#[derive(Debug, Default)]
pub(super) struct TlsPause {
    closed_until: Option<Instant>,
    pause: Option<Duration>,
}

impl TlsPause {
    /// Returns when connections are passed again, if they aren't now.
    pub(super) fn closed_until(&self) -> Option<Instant> {
        self.closed_until
    }

    /// Returns whether connections are passed now.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.closed_until.is_none_or(|until| until <= now)
    }

    pub(super) fn close(&mut self, now: Instant) {
        let pause = self.pause.unwrap_or(FULL);
        self.closed_until = Some(now + pause);
        self.pause = Some((2 * pause).min(PAUSE));
    }
}
