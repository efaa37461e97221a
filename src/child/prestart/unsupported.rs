//! The pool of an architecture for which there is no code to park a process: it can't be made.

use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use crate::child::plan::Plan;
use crate::child::spawn::{Spawned, Spawner};
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
        let text = "handlers can't be prestarted on this architecture";
        Err(Error::Start(text.into()))
    }

    /// Does nothing.
    pub fn refill(&self) {}

    /// Does nothing.
    pub fn retire(&self) {}

    /// Does nothing.
    pub fn renew(&self) {}

    /// Hands nothing to anything.
    pub(in crate::child) fn hand_off(&self, _: BorrowedFd<'_>) -> Option<Spawned> {
        None
    }
}
