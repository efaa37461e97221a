//! A plan and a connection become a running handler.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Pid, dup3};

use super::method::{Method, Pidfds, bury};
use super::plan::Plan;
use crate::report::SpawnTrouble;
use crate::sys::child::{self, ChildStack, Launch, Stage, Step};
use crate::sys::environment::Environment;
use crate::sys::process;

/// A running handler.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id.
    pub pid: Pid,
    /// Its pidfd, where the kernel has pidfds.
    pub pidfd: Option<OwnedFd>,
}

/// Why there is no handler.
#[derive(Clone, Copy, Debug)]
pub enum SpawnError {
    /// A resource is short at the moment: another try may succeed.
    Shortage(Errno),
    /// The child couldn't become the program.
    Failed(Stage, Errno),
    /// One child after the other was killed before its exec.
    Killed,
}

impl SpawnError {
    /// The reason, for a report.
    pub fn explain(self, plan: &Plan) -> SpawnTrouble<'_> {
        match self {
            Self::Shortage(errno) => SpawnTrouble::Shortage {
                program: plan.name(),
                errno,
            },
            Self::Killed => SpawnTrouble::Killed {
                program: plan.name(),
            },
            Self::Failed(stage, errno) => SpawnTrouble::Failed(plan.explain(stage, errno)),
        }
    }
}

/// What a thread needs to start handlers: a stack for newborn children, and a reserved
/// descriptor for their connections.
#[derive(Debug)]
pub struct Spawner {
    method: Method,
    stack: ChildStack,
    /// /dev/null between connections, so that the number is always taken.
    slot: OwnedFd,
    null: OwnedFd,
    /// Whether a connection is in the slot.
    holds: bool,
}

impl Spawner {
    /// Maps the stack. `slot` has a reserved number.
    pub fn new(method: Method, slot: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            method,
            stack: ChildStack::new()?,
            // Not opened by its name: after chroot(2) there may be none of that name.
            null: slot.try_clone()?,
            slot,
            holds: false,
        })
    }

    /// Borrows /dev/null, even where no file has that name.
    pub fn null(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }

    /// Puts into the slot what the next handler's 0 and 1 will be (dup3(2)). The caller closes its
    /// own descriptor.
    pub fn hold(&mut self, socket: impl AsFd) -> Result<(), Errno> {
        dup3(socket, &mut self.slot, OFlag::O_CLOEXEC)?;
        self.holds = true;
        Ok(())
    }

    /// Takes the connection out of the slot: there it would keep its client from seeing the end.
    /// Returns whether that succeeded; if not, the caller tries again soon.
    ///
    /// On a number that is taken dup3(2) hardly fails: EINTR and EBUSY are documented for races
    /// that such a number can't have, and a filter may return any errno. There is no other way.
    /// Closed and opened anew, the number could meanwhile be given to another thread's connection,
    /// and shutdown(2) would end the connection that the handler has. The slot stays open in any
    /// case, and the next connection replaces what is in it.
    pub fn release(&mut self) -> bool {
        self.holds = self.holds && dup3(&self.null, &mut self.slot, OFlag::O_CLOEXEC).is_err();
        !self.holds
    }

    /// The descriptor that is held.
    pub(super) fn held(&self) -> BorrowedFd<'_> {
        self.slot.as_fd()
    }

    /// Starts a handler on what is held.
    pub(super) fn launch(
        &mut self,
        plan: &Plan,
        environment: &mut Environment,
    ) -> Result<Spawned, SpawnError> {
        self.make(plan, plan.steps(), environment, false)
    }

    /// Starts a handler on what is held, which this thread traces from its exec on. The steps are
    /// those of [`Plan::steps_if_traced`].
    #[cfg(target_arch = "x86_64")]
    pub(super) fn launch_traced(
        &mut self,
        plan: &Plan,
        steps: &[Step],
        environment: &mut Environment,
    ) -> Result<Spawned, SpawnError> {
        self.make(plan, steps, environment, true)
    }

    fn make(
        &mut self,
        plan: &Plan,
        steps: &[Step],
        environment: &mut Environment,
        traced: bool,
    ) -> Result<Spawned, SpawnError> {
        let launch = Launch {
            call: self.method.call,
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
                // No memory for the account of another user, or no more processes of that.
                (Stage::Step(index), Errno::EAGAIN | Errno::ENOMEM)
                    if steps.get(index).is_some_and(Step::changes_rights) =>
                {
                    SpawnError::Shortage(errno)
                }
                _ => SpawnError::Failed(stage, errno),
            });
        }
        if born.killed {
            bury(&born);
            return Err(SpawnError::Killed);
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
