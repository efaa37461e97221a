//! A thread and the children that it makes stay on one processor.

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::Pid;

/// Keeps this thread on one processor until it is dropped (sched_setaffinity(2)). Its children
/// inherit that.
///
/// A tracer and its tracee run in turns: at each stop, one waits for the other. On two processors
/// each turn wakes the other processor, which costs several times as much as the turn.
#[derive(Debug)]
pub struct OneProcessor {
    former: CpuSet,
}

/// A set of processors, as the kernel has it.
pub type Processors = [u8; LENGTH];

const LENGTH: usize = CpuSet::count() / 8;

impl OneProcessor {
    /// Keeps it on the processor that it is on.
    pub fn hold() -> Result<Self, Errno> {
        let this = Pid::from_raw(0);
        let former = sched_getaffinity(this)?;
        let mut here = CpuSet::new();
        here.set(sched_getcpu()?)?;
        sched_setaffinity(this, &here)?;
        Ok(Self { former })
    }

    /// Those that it may use otherwise.
    pub fn former(&self) -> Processors {
        let mut processors = [0; LENGTH];
        for number in 0..CpuSet::count() {
            if self.former.is_set(number) == Ok(true) {
                processors[number / 8] |= 1 << (number % 8);
            }
        }
        processors
    }
}

impl Drop for OneProcessor {
    fn drop(&mut self) {
        // It could be set before.
        let _ = sched_setaffinity(Pid::from_raw(0), &self.former);
    }
}
