//! The number of a listener among those of the daemon.

/// Identifies a listener within one process. Another process knows it by its service and address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(u32);

impl ListenerId {
    /// No listener: it is gone, and its handler runs on.
    pub const NONE: Self = Self(u32::MAX);

    /// The id of the listener at this index, counted over all services.
    pub fn new(index: usize) -> Self {
        Self(u32::try_from(index).unwrap_or(u32::MAX))
    }

    /// The index in tables with one entry for each listener. That of [`Self::NONE`] is in none.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
