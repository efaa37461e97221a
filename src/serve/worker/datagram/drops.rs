//! Dropped datagrams: counted, and reported once a second.

use std::time::{Duration, Instant};

use crate::report::{self, Event};

/// Why a datagram was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Why {
    /// Its handler hasn't read those before.
    Overflow,
    /// It has no bytes, which its handler would take for the end.
    Empty,
    /// It has more bytes than one of UDP can have.
    TooLong,
    /// No handler could be started for it.
    Short,
    /// skd drains, and its sender has no handler.
    Closed,
    /// It would answer a sender that has no address.
    NoAddress,
    /// It is an answer that couldn't be sent.
    NotSent,
}

/// The reasons in words.
const WHYS: [(Why, &str); 7] = [
    (Why::Overflow, "their handlers have not read those before"),
    (
        Why::Empty,
        "they are empty, which a handler would take for the end",
    ),
    (Why::TooLong, "they are longer than 65,507 bytes"),
    (Why::Short, "no handler could be made for them"),
    (Why::Closed, "skd is ending, and they are from new senders"),
    (Why::NoAddress, "they answer senders that have no address"),
    (Why::NotSent, "they are answers that could not be sent"),
];

/// How long datagrams are counted before they are reported.
const PAUSE: Duration = Duration::from_secs(1);

/// How many datagrams were dropped and not reported yet.
#[derive(Debug, Default)]
pub(super) struct Drops {
    counts: [u64; WHYS.len()],
    due: Option<Instant>,
}

impl Drops {
    /// Counts a dropped datagram.
    pub(super) fn note(&mut self, why: Why) {
        self.counts[why as usize] += 1;
        self.due.get_or_insert_with(|| Instant::now() + PAUSE);
    }

    /// Returns when there is something to report.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Reports what was counted, if it is due or `now` is set.
    pub(super) fn flush(&mut self, now: bool) {
        if self.due.is_none_or(|due| !now && Instant::now() < due) {
            return;
        }
        self.due = None;
        for (why, text) in WHYS {
            let count = std::mem::take(&mut self.counts[why as usize]);
            if count > 0 {
                report::event(Event::Dropped(count, text));
            }
        }
    }
}
