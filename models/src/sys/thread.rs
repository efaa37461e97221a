//! Threads that end with the model.

use std::ffi::CString;

use nix::errno::Errno;

use crate::kernel;

pub struct Thread;

impl Thread {
    pub fn start(
        _: CString,
        _: usize,
        work: impl FnOnce() + Send + 'static,
    ) -> Result<Self, Errno> {
        kernel::with(|kernel| kernel.threads += 1);
        // Detached: a model's end doesn't wait for it.
        drop(shuttle::future::spawn(async move { work() }));
        Ok(Self)
    }
}
