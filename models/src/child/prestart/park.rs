//! In the place of what starts a program and parks it.

use super::calls::Successor;
use super::failure::Failure;
use super::kinds::Kinds;
use super::parked::{Parked, note_of_copies};
use crate::child::plan::Plan;
use crate::child::spawn::Spawner;
use crate::kernel;
use crate::sys::environment::Environment;
use crate::sys::process::{Process, State};
use crate::sys::sockets::control;
use nix::unistd::Pid;
use std::os::fd::AsRawFd;

pub struct Start<'a> {
    pub plan: &'a Plan,
    pub steps: &'a [()],
    pub successor: Successor,
    pub without: Kinds,
}

impl Start<'_> {
    pub fn park(
        &self,
        _: &mut Spawner,
        _: &mut Environment,
        wanted: impl Fn() -> bool,
    ) -> Result<(Parked, bool), Failure> {
        let (control, theirs) = control();
        let mut copies = None;
        if self.successor == Successor::Copies {
            copies = Some(note_of_copies().unwrap());
        }
        let note = copies.as_ref().map(|file| file.try_clone().unwrap());
        let (index, pid, pidfd) = kernel::with(|kernel| {
            let pid = kernel.new_pid();
            let process = Process {
                control: Some(theirs),
                note,
                ..Process::new(pid, kernel.version)
            };
            let index = kernel.make(process);
            kernel.owners.insert(control.as_raw_fd(), index);
            (index, pid, kernel.open(index))
        });
        if !wanted() {
            end(index);
            return Err(Failure::Unwanted);
        }
        if kernel::with(|kernel| take_one(&mut kernel.failures)) {
            end(index);
            return Err(Failure::Short("something is short".into()));
        }
        let for_now = kernel::with(|kernel| take_one(&mut kernel.early));
        Ok((
            Parked::new(Pid::from_raw(pid), pidfd, control, copies),
            for_now,
        ))
    }
}

fn end(index: usize) {
    kernel::with(|kernel| {
        kernel.processes[index].end();
        kernel.processes[index].state = State::Reaped;
    });
}

fn take_one(count: &mut usize) -> bool {
    let some = *count > 0;
    *count -= usize::from(some);
    some
}
