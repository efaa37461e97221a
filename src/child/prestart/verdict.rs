//! What becomes of a program at a call, and what goes on from there.

use crate::config::{Prestart, Sharing};

/// What goes on from where a program is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Successor {
    /// Itself.
    Itself,
    /// Copies of it.
    Copies(Sharing),
}

impl From<Prestart> for Successor {
    fn from(prestart: Prestart) -> Self {
        match prestart {
            Prestart::Warm(_) => Self::Itself,
            Prestart::ForkServer { sharing, .. } => Self::Copies(sharing),
        }
    }
}

/// What becomes of a program that enters a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It goes on.
    GoesOn,
    /// It is parked.
    Parked,
    /// It is parked before it makes a file or the like, which it may not do the next time: Python
    /// stores what it has compiled.
    ParkedForNow,
}
