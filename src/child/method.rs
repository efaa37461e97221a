//! How children are made on this kernel, found out once by trying.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::cgroups::Cgroup;
use super::plan::Plan;
use crate::error::Error;
use crate::report::{self, Event, SpawnTrouble, Trouble};
use crate::sys::child::{self, Born, ChildStack, CloneCall, Descriptors, Launch, Step};
use crate::sys::descriptors::{self, Low};
use crate::sys::environment::Environment;
use crate::sys::process::{self, Target, Wait};

/// How children are made on this kernel, found out once by trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// The call that makes them.
    pub call: CloneCall,
    /// The source of their descriptors.
    pub descriptors: Descriptors,
    /// The source of their pidfds.
    pub pidfds: Pidfds,
}

/// The source of pidfds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pidfds {
    /// The clone itself (`CLONE_PIDFD`).
    Clone,
    /// pidfd_open(2) afterwards.
    Open,
    /// None: children are found by walking through all of them.
    None,
}

impl Method {
    /// Tries what this kernel has, and what a container's filter lets through.
    ///
    /// It makes a child that does all of `plan` but the exec, so that a step that must fail for
    /// every handler fails the start. Connections will have `low` numbers.
    pub fn probe(plan: &Plan, low: Low) -> Result<Self, Error> {
        Self::try_out(plan, plan.steps(), low)
    }

    /// The same without the steps, for a daemon that goes on even if they fail by now.
    pub fn probe_without_steps(plan: &Plan, low: Low) -> Result<Self, Error> {
        Self::try_out(plan, &[], low)
    }

    /// Returns a pidfd of a child that hasn't been reaped, so that its id is its own; where the
    /// kernel has pidfds.
    pub fn pidfd_of(self, child: Pid) -> Option<OwnedFd> {
        match self.pidfds {
            Pidfds::None => None,
            Pidfds::Clone | Pidfds::Open => process::open_pidfd(child).ok(),
        }
    }

    fn try_out(plan: &Plan, steps: &[Step], low: Low) -> Result<Self, Error> {
        let mut method = Self {
            call: CloneCall::find(),
            descriptors: if descriptors::can_unshare() {
                Descriptors::Unshare(low)
            } else {
                Descriptors::Copy(low)
            },
            pidfds: Pidfds::Clone,
        };
        let mut stack =
            ChildStack::new().map_err(|errno| Error::start("no memory for a stack", errno))?;
        let mut environment = plan.environment();
        loop {
            let launch = Launch {
                call: method.call,
                descriptors: method.descriptors,
                connection: None,
                steps,
                target: None,
                environment: environment.finish(),
                want_pidfd: method.pidfds == Pidfds::Clone,
                namespaces: 0,
                cgroup: None,
                pid_to: None,
                traced: false,
            };
            match child::spawn(&mut stack, launch) {
                Ok(mut born) => {
                    let pidfd = born.pidfd.take().or_else(|| {
                        method.pidfds = Pidfds::Open;
                        process::open_pidfd(born.pid).ok()
                    });
                    // waitid(2) learnt P_PIDFD two versions after clone(2) CLONE_PIDFD.
                    let waits = |pidfd: OwnedFd| {
                        process::wait(Target::Descriptor(pidfd.as_fd()), Wait::PEEK).is_ok()
                    };
                    if !pidfd.is_some_and(waits) {
                        method.pidfds = Pidfds::None;
                    }
                    bury(&born);
                    return match born.failure {
                        None if born.killed => {
                            let why = SpawnTrouble::Killed {
                                program: plan.name(),
                            };
                            Err(Error::Start(why.to_string()))
                        }
                        None => Ok(method),
                        Some((stage, errno)) => {
                            Err(Error::Start(plan.explain(stage, errno).to_string()))
                        }
                    };
                }
                // Perhaps a sandbox has the call, but not with these flags.
                Err(errno) if method.call == CloneCall::Clone3 && !is_shortage(errno) => {
                    method.call = CloneCall::Clone;
                }
                // Perhaps the flag was refused: once more without.
                Err(errno) if method.pidfds == Pidfds::Clone && !is_shortage(errno) => {
                    method.pidfds = Pidfds::Open;
                }
                Err(errno) => {
                    let name = Path::new(plan.name()).display();
                    return Err(Error::start(format!("no process for '{name}'"), errno));
                }
            }
        }
    }
}

/// Tries to start a child in a control group (`CLONE_INTO_CGROUP`, Linux 5.7).
pub fn try_cgroup(cgroup: &Cgroup) -> Result<(), Errno> {
    if CloneCall::find() != CloneCall::Clone3 {
        return Err(Errno::ENOSYS);
    }
    let mut environment = Environment::new(Arc::new([]), None);
    let launch = Launch {
        call: CloneCall::Clone3,
        descriptors: Descriptors::Inherit,
        connection: None,
        steps: &[],
        target: None,
        environment: environment.finish(),
        want_pidfd: false,
        namespaces: 0,
        cgroup: Some(cgroup.as_fd()),
        pid_to: None,
        traced: false,
    };
    let born = child::spawn(&mut ChildStack::new()?, launch)?;
    bury(&born);
    Ok(())
}

/// Starts the thread that watches newborn children, unless there is one. After all changes of the
/// process that concern its only thread.
///
/// Where a filter allows no threads, births aren't watched: wait mode and supervision need no other
/// thread.
pub fn watch_births() -> Result<(), Error> {
    // Which can't be found out any more beside another thread.
    descriptors::can_unshare();
    let started = child::watch(|pid, signal| {
        report::event(Event::Trouble(Trouble::NewbornStopped(
            pid.as_raw(),
            signal,
        )));
    });
    match started {
        Err(errno) if is_shortage(errno) => {
            Err(Error::start("no thread to watch newborn children", errno))
        }
        _ => Ok(()),
    }
}

/// Whether a call failed for want of processes or memory. That says nothing about what the kernel
/// has, and must not leave skd without it for good.
fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::ENOMEM)
}

/// Reaps a child that has ended before its exec.
pub(super) fn bury(born: &Born) {
    let _ = process::wait(Target::Process(born.pid), Wait::UNTIL_END);
}
