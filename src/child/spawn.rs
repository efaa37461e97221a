//! From a plan and a connection to a running handler.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Pid, dup3};

use super::plan::Plan;
use super::prestart::Pool;
use crate::error::Error;
use crate::report::SpawnTrouble;
use crate::sys::child::{self, Born, Descriptors, Launch, Stage, Step};
use crate::sys::descriptors::{self, Low};
use crate::sys::environment::Environment;
use crate::sys::memory::Stack;
use crate::sys::process::{self, Target, Wait};

/// How children are made on this kernel, found out once by trying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Method {
    /// Where their descriptors come from.
    pub descriptors: Descriptors,
    /// Where their pidfds come from.
    pub pidfds: Pidfds,
}

/// Where pidfds come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pidfds {
    /// From the clone itself (`CLONE_PIDFD`).
    Clone,
    /// From pidfd_open(2) afterwards.
    Open,
    /// From nowhere: children are found by walking through all of them.
    None,
}

impl Method {
    /// Tries what this kernel, or a container's filter, lets through, by making a child
    /// that goes through all of `plan` but the exec; so a step that must fail for every
    /// handler fails the start. Connections will stand in `low` descriptors.
    pub fn probe(plan: &Plan, low: Low) -> Result<Self, Error> {
        Self::try_out(plan, plan.steps(), low)
    }

    /// The same for a daemon that goes on whatever has become of its steps.
    pub fn probe_without_steps(plan: &Plan, low: Low) -> Result<Self, Error> {
        Self::try_out(plan, &[], low)
    }

    /// A pidfd of a child that hasn't been reaped, so that its id is nobody else's; where the
    /// kernel has such.
    pub fn pidfd_of(self, child: Pid) -> Option<OwnedFd> {
        match self.pidfds {
            Pidfds::None => None,
            Pidfds::Clone | Pidfds::Open => process::open_pidfd(child).ok(),
        }
    }

    fn try_out(plan: &Plan, steps: &[Step], low: Low) -> Result<Self, Error> {
        let mut method = Self {
            descriptors: if descriptors::can_unshare() {
                Descriptors::Unshare(low)
            } else {
                Descriptors::Copy(low)
            },
            pidfds: Pidfds::Clone,
        };
        let mut stack =
            Stack::new().map_err(|errno| Error::start("no memory for a stack", errno))?;
        let mut environment = plan.environment();
        loop {
            let launch = Launch {
                descriptors: method.descriptors,
                connection: None,
                steps,
                target: None,
                environment: environment.finish(),
                want_pidfd: method.pidfds == Pidfds::Clone,
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
                        None => Ok(method),
                        Some((stage, errno)) => {
                            Err(Error::Start(plan.explain(stage, errno).to_string()))
                        }
                    };
                }
                // Refused for the flag's sake, perhaps: once more without.
                Err(_) if method.pidfds == Pidfds::Clone => method.pidfds = Pidfds::Open,
                Err(errno) => {
                    let name = plan.name().display();
                    return Err(Error::start(format!("no process for '{name}'"), errno));
                }
            }
        }
    }
}

/// A handler that runs.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id.
    pub pid: Pid,
    /// Its pidfd, where the kernel has such.
    pub pidfd: Option<OwnedFd>,
}

/// Why there is no handler.
#[derive(Clone, Copy, Debug)]
pub enum SpawnError {
    /// Nothing to make one from at the moment: worth another try later.
    Shortage(Errno),
    /// It couldn't become the program.
    Failed(Stage, Errno),
}

impl SpawnError {
    /// Returns it for a report.
    pub fn explain(self, plan: &Plan) -> SpawnTrouble<'_> {
        match self {
            Self::Shortage(errno) => SpawnTrouble::Shortage {
                program: plan.name(),
                errno,
            },
            Self::Failed(stage, errno) => SpawnTrouble::Failed(plan.explain(stage, errno)),
        }
    }
}

/// What a thread needs to start handlers: a stack for the newborn, and a reserved
/// descriptor for its connection.
#[derive(Debug)]
pub struct Spawner {
    method: Method,
    stack: Stack,
    /// /dev/null between connections, so that the number is always taken.
    slot: OwnedFd,
    null: OwnedFd,
    /// Whether there is something else in the slot.
    held: bool,
}

impl Spawner {
    /// `slot` has a reserved number.
    pub fn new(method: Method, slot: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            method,
            stack: Stack::new()?,
            // Not opened by its name: after chroot(2) there may be none of that name.
            null: slot.try_clone()?,
            slot,
            held: false,
        })
    }

    /// /dev/null, whether or not there is one of that name.
    pub fn null(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    /// Takes what the next handler's 0 and 1 will be (dup3(2)). The caller closes its own.
    pub fn hold(&mut self, socket: impl AsFd) -> Result<(), Errno> {
        dup3(socket, &mut self.slot, OFlag::O_CLOEXEC)?;
        self.held = true;
        Ok(())
    }

    /// Lets go of it: a connection left in the slot would keep its client from seeing the
    /// end. Says whether that could be done; if not, it is to be tried again soon.
    ///
    /// On a number that is taken dup3(2) hardly fails: EINTR and EBUSY are documented, for
    /// races that such a number can't have; a filter may say anything. Nothing else would do
    /// instead. Closed and opened anew, the number could meanwhile be given to another
    /// thread's connection, and shutdown(2) would end the one that the handler has. The slot
    /// stays open in any case, and the next connection replaces what is in it.
    pub fn release(&mut self) -> bool {
        self.held = self.held && dup3(&self.null, &mut self.slot, OFlag::O_CLOEXEC).is_err();
        !self.held
    }

    /// Starts a handler on what is held, or has one of those take it that stand ready.
    pub fn spawn(
        &mut self,
        plan: &Plan,
        pool: Option<&Pool>,
        environment: &mut Environment,
    ) -> Result<Spawned, SpawnError> {
        if let Some(spawned) = pool.and_then(|pool| pool.hand_off(self.slot.as_fd())) {
            return Ok(spawned);
        }
        self.launch(plan, plan.steps(), environment, false)
    }

    /// Starts a handler on what is held, which this thread traces from its exec on. The steps are
    /// those of [`Plan::steps_if_traced`].
    #[cfg(target_arch = "x86_64")]
    pub(super) fn spawn_traced(
        &mut self,
        plan: &Plan,
        steps: &[Step],
        environment: &mut Environment,
    ) -> Result<Spawned, SpawnError> {
        self.launch(plan, steps, environment, true)
    }

    fn launch(
        &mut self,
        plan: &Plan,
        steps: &[Step],
        environment: &mut Environment,
        traced: bool,
    ) -> Result<Spawned, SpawnError> {
        let launch = Launch {
            descriptors: self.method.descriptors,
            connection: Some(self.slot.as_fd()),
            steps,
            target: Some(plan.target()),
            environment: environment.finish(),
            want_pidfd: self.method.pidfds == Pidfds::Clone,
            traced,
        };
        let born = child::spawn(&mut self.stack, launch).map_err(SpawnError::Shortage)?;
        if let Some((stage, errno)) = born.failure {
            bury(&born);
            return Err(match (stage, errno) {
                (
                    Stage::Descriptors | Stage::Exec,
                    Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE,
                ) => SpawnError::Shortage(errno),
                _ => SpawnError::Failed(stage, errno),
            });
        }
        let pidfd = match self.method.pidfds {
            // The child can't have been reaped yet: only we would.
            Pidfds::Open => process::open_pidfd(born.pid).ok(),
            Pidfds::Clone | Pidfds::None => born.pidfd,
        };
        Ok(Spawned {
            pid: born.pid,
            pidfd,
        })
    }
}

/// Reaps a child that ended in front of our eyes.
fn bury(born: &Born) {
    let _ = process::wait(Target::Process(born.pid), Wait::UNTIL_END);
}
