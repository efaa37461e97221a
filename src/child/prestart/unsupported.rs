//! The pool of an architecture for which there is no code to park a process: it can't be made.

use std::ffi::CString;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use skd_control::PoolStatus;

use crate::child::cgroups::Cgroups;
use crate::child::jail::Jail;
use crate::child::plan::Plan;
use crate::child::spawn::{Spawned, Spawner};
use crate::config::{Prestart, ServiceId};
use crate::error::Error;
use crate::sys::descriptors::SavedDescriptors;

/// There is none.
#[derive(Debug)]
pub enum Pool {}

/// Nothing was saved of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedPool {}

impl SavedPool {
    /// Does nothing.
    pub fn end(self) {}
}

/// Returns that it can't be.
pub fn rehearse(_: ServiceId, _: Prestart, _: &Plan, _: &mut Spawner) -> String {
    UNSUPPORTED.into()
}

const UNSUPPORTED: &str = "handlers can't be prestarted on this architecture";

impl Pool {
    /// Fails.
    pub fn start(
        _: ServiceId,
        _: Prestart,
        _: (Arc<Plan>, Option<Arc<Jail>>, Option<Arc<Cgroups>>),
        _: Vec<CString>,
        _: Spawner,
        _: usize,
    ) -> Result<Arc<Self>, Error> {
        Err(Error::Start(UNSUPPORTED.into()))
    }

    /// Does nothing.
    pub fn refill(&self) {}

    /// Does nothing.
    pub fn retire(&self) {}

    /// Does nothing.
    pub fn renew(&self) {}

    /// Does nothing.
    pub fn suspend(&self) {}

    /// Nothing has descriptors.
    pub fn count_descriptors(&self) -> usize {
        0
    }

    /// It has no process.
    pub fn may_have(&self, _: Pid) -> bool {
        match *self {}
    }

    /// Nothing is prestarted.
    pub fn status(&self) -> PoolStatus {
        match *self {}
    }

    /// Saves nothing.
    pub fn save(&self, _: &mut SavedDescriptors) -> Result<SavedPool, Errno> {
        Ok(SavedPool {})
    }

    /// Takes over nothing.
    pub fn restore(&self, _: SavedPool, _: impl FnMut(i32) -> Option<OwnedFd>) {}

    /// Hands nothing to anything.
    pub(in crate::child) fn hand_off(&self, _: BorrowedFd<'_>) -> Option<Spawned> {
        None
    }
}
