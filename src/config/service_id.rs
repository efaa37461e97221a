//! The number of a service among those of the daemon.

/// Identifies a service within one process. Another process knows it by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(u16);

impl ServiceId {
    /// The id of the service at this index of the configuration.
    pub fn new(index: usize) -> Self {
        Self(u16::try_from(index).unwrap_or(u16::MAX))
    }

    /// The index in tables with one entry for each service.
    pub fn index(self) -> usize {
        self.0.into()
    }
}
