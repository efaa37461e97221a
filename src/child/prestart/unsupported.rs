//! The same where nobody has written down how a process is parked: there is no stock, and whoever
//! asks for one is told.

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use super::plan::Plan;
use super::spawn::{Spawned, Spawner};
use crate::config::{Prestart, ServiceId};
use crate::error::Error;

/// There is none.
#[derive(Debug)]
pub enum Pool {}

impl Pool {
    /// Fails.
    pub fn start(
        _: ServiceId,
        _: Prestart,
        _: Arc<Plan>,
        _: Vec<CString>,
        _: Spawner,
    ) -> Result<Arc<Self>, Error> {
        let text = "handlers can't be started ahead of their clients on this architecture";
        Err(Error::Start(text.into()))
    }

    /// Nothing to be done.
    pub fn refill(&self) {}

    /// Nothing to be done.
    pub fn retire(&self) {}

    /// Nothing to be done.
    pub fn renew(&self) {}

    /// Nobody stands ready.
    pub(super) fn hand_off(&self, _: BorrowedFd<'_>) -> Option<Spawned> {
        None
    }
}
