//! In the place of what starts a program and parks it.

use super::failure::Failure;
use super::kinds::Kinds;
use super::parked::{Parked, note_of_copies};
use super::verdict::Successor;
use crate::child::cgroups::Cgroups;
use crate::child::jail::Jail;
use crate::child::plan::Plan;
use crate::child::spawn::Spawner;
use crate::kernel;
use crate::report::{Extent, ParkedAt};
use crate::sys::environment::Environment;
use crate::sys::process::{Process, State};
use crate::sys::sockets::control;
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::Duration;

pub struct Start<'a> {
    pub plan: &'a Plan,
    pub jail: Option<&'a Jail>,
    pub cgroups: Option<&'a Arc<Cgroups>>,
    pub steps: &'a [()],
    pub successor: Successor,
    pub without: Kinds,
}

pub struct End {
    pub at: String,
    pub after: Duration,
    pub for_now: bool,
}

impl End {
    pub fn describe<'a>(&'a self, program: &'a OsStr) -> ParkedAt<'a> {
        ParkedAt {
            program,
            at: &self.at,
            after: self.after,
            extent: Extent::Part,
        }
    }
}

impl Start<'_> {
    pub fn park(
        &self,
        _: &mut Spawner,
        _: &mut Environment,
        wanted: impl Fn() -> bool,
    ) -> Result<(Parked, End), Failure> {
        let (control, theirs) = control();
        let mut copies = None;
        if self.successor != Successor::Itself {
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
        let end = End {
            at: String::new(),
            after: Duration::ZERO,
            for_now: kernel::with(|kernel| take_one(&mut kernel.early)),
        };
        let parked = Parked::new(Pid::from_raw(pid), pidfd, control, copies);
        Ok((parked, end))
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
