//! A plan and a connection become a running handler.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{Pid, dup3};

use super::cgroups::Cgroup;
use super::method::{Method, Pidfds, bury};
use super::plan::Plan;
use crate::report::{SpawnTrouble, StartFailure, Way};
use crate::sys::child::{self, ChildStack, Launch, Stage, Step};
use crate::sys::environment::Environment;
use crate::sys::process;
use crate::sys::sockets::{Credentials, peer_groups};

/// A running handler.
#[derive(Debug)]
pub struct Spawned {
    /// Its process id.
    pub pid: Pid,
    /// Its pidfd, where the kernel has pidfds.
    pub pidfd: Option<OwnedFd>,
    /// How it was started.
    pub way: Way,
    /// Its control group, if it has one of its own.
    pub cgroup: Option<Cgroup>,
    /// Whether it is process 1 of a PID namespace of its own: all in that ends with it.
    pub is_init: bool,
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
    /// No process is left that makes handlers in the sandbox.
    NoJailer,
}

impl SpawnError {
    /// Why a child that was to take these steps hasn't become the program.
    pub(super) fn of(steps: &[Step], stage: Stage, errno: Errno) -> Self {
        match (stage, errno) {
            (
                Stage::Descriptors | Stage::Exec,
                Errno::EAGAIN | Errno::ENOMEM | Errno::EMFILE | Errno::ENFILE,
            ) => Self::Shortage(errno),
            // No memory for the account of another user, or no more processes of that.
            (Stage::Step(index), Errno::EAGAIN | Errno::ENOMEM)
                if steps.get(index).is_some_and(Step::changes_rights) =>
            {
                Self::Shortage(errno)
            }
            _ => Self::Failed(stage, errno),
        }
    }

    /// What it is counted as.
    pub fn failure(self) -> StartFailure {
        match self {
            Self::Shortage(_) => StartFailure::Shortage,
            Self::Failed(Stage::Descriptors, _) => StartFailure::Descriptors,
            Self::Failed(Stage::Step(_) | Stage::Trace, _) => StartFailure::Preparation,
            Self::Failed(Stage::Exec, _) => StartFailure::Exec,
            Self::Killed | Self::NoJailer => StartFailure::Killed,
        }
    }

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
            Self::NoJailer => SpawnTrouble::NoJailer {
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
    /// The steps of a handler that becomes the user of its client.
    peer: PeerSteps,
}

/// The steps of a plan, with the ids of one client after the other written into them.
#[derive(Debug, Default)]
struct PeerSteps {
    /// The address of the steps that these were copied from. A plan lives as long as its service.
    of: usize,
    steps: Vec<Step>,
}

/// Why a client gets no handler with its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRefused {
    /// It is root.
    Root,
    /// This process can't name its user or one of its groups.
    Unknown,
    /// The kernel doesn't tell.
    Untold(Errno),
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
            peer: PeerSteps::default(),
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

    /// The number of the descriptor for what is held: no other thread has it.
    pub(super) fn number(&self) -> usize {
        usize::try_from(self.slot.as_raw_fd()).unwrap_or_default()
    }

    /// Returns a pidfd of a child that hasn't been reaped, where the kernel has pidfds.
    pub(super) fn pidfd_of(&self, child: Pid) -> Option<OwnedFd> {
        self.method.pidfd_of(child)
    }

    /// The descriptor that is held.
    pub(super) fn held(&self) -> BorrowedFd<'_> {
        self.slot.as_fd()
    }

    /// Has the next handler of a plan for clients' users become that of this client, which is on a
    /// unix socket. Allocates only for the first client of a plan, or for more groups than before.
    pub fn become_peer(
        &mut self,
        plan: &Plan,
        peer: Option<Credentials>,
        socket: impl AsFd,
    ) -> Result<(), PeerRefused> {
        let Some(unknown) = plan.unknown_peer() else {
            return Ok(());
        };
        let PeerSteps { of, steps } = &mut self.peer;
        // Whatever fails below, none of an earlier client is left.
        let own = plan.steps().as_ptr() as usize;
        if *of != own {
            *steps = plan.steps().to_vec();
            *of = own;
        }
        let peer = peer.ok_or(PeerRefused::Untold(Errno::ENODATA))?;
        let (uid, gid) = (unknown.uid.as_raw(), unknown.gid.as_raw());
        let (Some(peer_uid), Some(peer_gid)) = (peer.uid, peer.gid) else {
            return Err(PeerRefused::Unknown);
        };
        if peer_uid == 0 {
            return Err(PeerRefused::Root);
        }
        if peer_uid == uid || peer_gid == gid {
            return Err(PeerRefused::Unknown);
        }
        for step in steps {
            match step {
                Step::Groups(groups) => {
                    peer_groups(&socket, groups).map_err(PeerRefused::Untold)?;
                    if groups.contains(&gid) {
                        return Err(PeerRefused::Unknown);
                    }
                }
                Step::Group(id) => *id = peer_gid,
                Step::User(id) => *id = peer_uid,
                _ => {}
            }
        }
        Ok(())
    }

    /// Starts a handler on what is held.
    pub(super) fn launch(
        &mut self,
        plan: &Plan,
        cgroup: Option<Cgroup>,
        environment: &mut Environment,
    ) -> Result<Spawned, SpawnError> {
        if plan.unknown_peer().is_none() {
            return self.make(plan, plan.steps(), cgroup, environment, false);
        }
        let peer = std::mem::take(&mut self.peer);
        let spawned = self.make(plan, &peer.steps, cgroup, environment, false);
        self.peer = peer;
        spawned
    }

    /// Starts a handler on what is held, which this thread traces from its exec on. The steps are
    /// those of [`Plan::steps_if_traced`].
    #[cfg(target_arch = "x86_64")]
    pub(super) fn launch_traced(
        &mut self,
        plan: &Plan,
        steps: &[Step],
        cgroup: Option<Cgroup>,
        environment: &mut Environment,
    ) -> Result<Spawned, SpawnError> {
        self.make(plan, steps, cgroup, environment, true)
    }

    fn make(
        &mut self,
        plan: &Plan,
        steps: &[Step],
        cgroup: Option<Cgroup>,
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
            namespaces: 0,
            cgroup: cgroup.as_ref().map(AsFd::as_fd),
            pid_to: None,
            traced,
        };
        let born = child::spawn(&mut self.stack, launch).map_err(SpawnError::Shortage)?;
        if let Some((stage, errno)) = born.failure {
            bury(&born);
            return Err(SpawnError::of(steps, stage, errno));
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
            way: Way::Exec,
            cgroup,
            is_init: false,
        })
    }
}
