//! Handlers that are started ahead of their clients: a process that has done all that it does
//! before it looks at its client, and waits there.

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::plan::Plan;
use super::spawn::{Spawned, Spawner};
use crate::config::Ahead;
use crate::error::Error;

/// What stands ready for the clients of a service. A thread of its own sees to it.
#[derive(Debug)]
pub struct Stock {}

impl Stock {
    /// For handlers that are made by `plan` with these variables besides, each `NAME=VALUE`.
    /// Starts the thread, which starts nothing before [`Self::resume`].
    pub fn start(
        _ahead: Ahead,
        _plan: Arc<Plan>,
        _variables: Vec<CString>,
        _spawner: Spawner,
    ) -> Result<Arc<Self>, Error> {
        Ok(Arc::new(Self {}))
    }

    /// Begins to keep a stock.
    pub fn resume(&self) {}

    /// Ends and reaps all that stands ready, and starts nothing more until [`Self::resume`].
    pub fn retire(&self) {}

    /// Has the same started anew, from what PROG is now.
    pub fn renew(&self) {}

    /// Gives a connection to one that stands ready, if one does.
    pub(super) fn hand_over(&self, _connection: BorrowedFd<'_>) -> Option<Spawned> {
        None
    }
}
