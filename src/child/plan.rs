//! A handler's preparation as data: the steps between clone and exec, each one system call.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

use super::environment::Variables;
use super::program;
use crate::config::Surroundings;
use crate::error::Error;
use crate::report::SpawnFailure;
use crate::sys::child::{self, ExecTarget, Stage, Step};
use crate::sys::descriptors::{copy_above, set_close_on_exec};
use crate::sys::environment::Environment;
use crate::sys::process::{self, Change, Ended, Fork, Target, Wait};
use crate::sys::signals::{SigSet, Signal};

/// Everything about a handler that is the same for all connections.
#[derive(Debug)]
pub struct Plan {
    target: ExecTarget,
    steps: Vec<Step>,
    variables: Arc<[CString]>,
    /// The sockets that are passed; the steps use their numbers.
    sockets: Vec<OwnedFd>,
    /// The descriptors that steps use, by their numbers.
    owned: Vec<OwnedFd>,
    /// See [`Self::directory`].
    directory: Option<OsString>,
}

/// The descriptor of the first socket that is passed (sd_listen_fds(3)).
const FIRST_SOCKET: RawFd = 3;

/// What a program is run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The handler of a connection or datagram, in a process group of its own.
    Handler,
    /// The supervised program: the same, and with a terminal its group is the foreground one.
    Supervised {
        /// Whether standard input is a terminal that this process may give away.
        terminal: bool,
    },
    /// This process itself.
    InPlace,
}

impl Plan {
    /// Finds the program and orders the steps.
    ///
    /// `files` is the limit of open files to restore, if this process changed its own.
    pub fn new(
        command: &[CString],
        surroundings: &Surroundings,
        variables: &Variables,
        role: Role,
        files: Option<libc::rlimit>,
    ) -> Result<Self, Error> {
        let path = find(command, surroundings, variables)?;
        Ok(Self {
            target: ExecTarget::new(path, command.to_vec()),
            steps: steps(surroundings, role, files),
            variables: variables.lines(),
            sockets: Vec::new(),
            owned: Vec::new(),
            directory: surroundings.directory.as_deref().map(path_of),
        })
    }

    /// Returns all errors that keep the program from being run. The first is what
    /// [`Self::new`], or a child's preparation, fails with.
    ///
    /// A child of its own takes each step: after some, such as a limit of memory, it could only
    /// end. Called while there is one thread.
    pub fn rehearse(
        command: &[CString],
        surroundings: &Surroundings,
        variables: &Variables,
    ) -> Vec<Error> {
        let path = find(command, surroundings, variables);
        let plan = Self {
            target: ExecTarget::new(CString::default(), command.to_vec()),
            steps: steps(surroundings, Role::InPlace, None),
            variables: Arc::default(),
            sockets: Vec::new(),
            owned: Vec::new(),
            directory: surroundings.directory.as_deref().map(path_of),
        };
        let fails = |(index, step)| {
            let errno = try_alone(step)?;
            let why = plan.explain(Stage::Step(index), errno);
            Some(Error::Start(why.to_string()))
        };
        let steps = plan.steps.iter().enumerate().filter_map(fails);
        path.err().into_iter().chain(steps).collect()
    }

    /// Passes these sockets to each child, from descriptor 3 up, with what sd_listen_fds(3) needs
    /// in its environment. The first one is its standard input too. Called before [`Self::own`].
    pub fn pass_sockets<'a>(
        &mut self,
        sockets: impl IntoIterator<Item = (BorrowedFd<'a>, &'a str)>,
    ) -> Result<(), Error> {
        debug_assert!(self.owned.is_empty(), "sockets come first");
        let (sockets, names): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
        let end = FIRST_SOCKET + sockets.len() as RawFd;
        // Above the numbers that they will have.
        let copies = sockets.iter().map(|socket| copy_above(socket, end));
        self.sockets = copies
            .collect::<Result<_, _>>()
            .map_err(|errno| Error::start("no descriptor to hand over a socket", errno))?;
        let numbers = || self.sockets.iter().map(AsRawFd::as_raw_fd);
        let targets = (FIRST_SOCKET..).zip(numbers());
        let passed = targets.map(|(target, number)| Step::Descriptor(number, target));
        let input = numbers().take(1).map(|number| Step::Descriptor(number, 0));
        let steps: Vec<_> = input.chain(passed).collect();
        self.steps.splice(0..0, steps);
        let count = format!("LISTEN_FDS={}", sockets.len());
        let names = format!("LISTEN_FDNAMES={}", names.join(":"));
        // None has a NUL inside: they come from an environment, or from this program.
        let lines = [count, names].map(CString::new).into_iter().flatten();
        self.variables = self.variables.iter().cloned().chain(lines).collect();
        Ok(())
    }

    /// Gives the plan a descriptor for one of its steps, which each child takes after the others.
    ///
    /// The child has the descriptor until its exec: the program doesn't get it. For a child with
    /// [`Descriptors::Unshare`](child::Descriptors::Unshare) or
    /// [`Descriptors::Copy`](child::Descriptors::Copy) it must have a reserved number
    /// ([`Reserved::own`](crate::sys::descriptors::Reserved::own)).
    pub fn own(&mut self, fd: OwnedFd, step: impl FnOnce(RawFd) -> Step) -> Result<(), Error> {
        let failed = |errno| Error::start("no descriptor for a handler's preparation", errno);
        let end = FIRST_SOCKET + self.sockets.len() as RawFd;
        let fd = if self.sockets.is_empty() || fd.as_raw_fd() >= end {
            // The exec is what closes it in the child.
            set_close_on_exec(&fd, true).map_err(failed)?;
            fd
        } else {
            // Above the numbers that the sockets will have.
            copy_above(&fd, end).map_err(failed)?
        };
        let last = self.steps.len();
        let masks = matches!(self.steps.last(), Some(Step::SignalMask(_)));
        let step = step(fd.as_raw_fd());
        if let Step::EnterDirectory(number) = step {
            self.directory = Some(format!("/proc/self/fd/{number}").into());
        }
        self.steps.insert(last - usize::from(masks), step);
        self.owned.push(fd);
        Ok(())
    }

    /// The program and its arguments.
    pub fn target(&self) -> &ExecTarget {
        &self.target
    }

    /// The steps that a child takes before it becomes the program.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The steps of a child that is traced. No signal may stop it before its exec, except SIGTRAP,
    /// which reports the exec; the tracer empties the mask then.
    pub fn steps_if_traced(&self) -> Vec<Step> {
        let others = |step: &&Step| !matches!(step, Step::SignalMask(_));
        let steps = self.steps.iter().filter(others).cloned();
        let mut mask = SigSet::all();
        mask.remove(Signal::SIGTRAP);
        steps.chain([Step::SignalMask(mask)]).collect()
    }

    /// The variables that all handlers have in common, each `NAME=VALUE`.
    pub fn variables(&self) -> &Arc<[CString]> {
        &self.variables
    }

    /// Makes an environment to be filled in for one connection after the other.
    pub fn environment(&self) -> Environment {
        let own_id = (!self.sockets.is_empty()).then_some("LISTEN_PID");
        Environment::new(Arc::clone(&self.variables), own_id)
    }

    /// PROG as the command line has it.
    pub fn name(&self) -> &OsStr {
        let name = self.target.arguments().first();
        OsStr::from_bytes(name.map_or(b"".as_slice(), |name| name.to_bytes()))
    }

    /// The path for this process of the handler's working directory, if that is another one.
    pub(super) fn directory(&self) -> Option<&OsStr> {
        self.directory.as_deref()
    }

    /// The reason why a child couldn't become the program.
    pub fn explain(&self, stage: Stage, errno: Errno) -> SpawnFailure<'_> {
        SpawnFailure {
            program: self.name(),
            path: OsStr::from_bytes(self.target.path().to_bytes()),
            directory: self.directory(),
            stage,
            step: match stage {
                Stage::Step(index) => self.steps.get(index),
                _ => None,
            },
            errno,
            missing_interpreter: program::missing_interpreter,
        }
    }
}

fn path_of(path: &CStr) -> OsString {
    OsStr::from_bytes(path.to_bytes()).to_owned()
}

/// Takes a step in a child, and returns the error if it fails.
fn try_alone(step: &Step) -> Option<Errno> {
    match process::fork() {
        Ok(Fork::Child) => {
            let result = child::prepare(std::slice::from_ref(step));
            process::exit_now(result.map_or_else(|(_, errno)| errno as u8, |()| 0));
        }
        Ok(Fork::Parent(child)) => {
            let end = process::wait(Target::Process(child), Wait::UNTIL_END);
            match end {
                Ok(Some((_, Change::Ended(Ended::Exited(number @ 1..))))) => {
                    Some(Errno::from_raw(number.into()))
                }
                _ => None,
            }
        }
        Err(errno) => Some(errno),
    }
}

fn find(
    command: &[CString],
    surroundings: &Surroundings,
    variables: &Variables,
) -> Result<CString, Error> {
    let name = command.first().cloned().unwrap_or_default();
    let directory = surroundings.directory.as_deref();
    program::find(&name, variables.get("PATH"), directory)
}

fn steps(surroundings: &Surroundings, role: Role, files: Option<libc::rlimit>) -> Vec<Step> {
    let mut steps = Vec::new();
    if role != Role::InPlace {
        steps.push(Step::LeadGroup);
    }
    if role == (Role::Supervised { terminal: true }) {
        steps.push(Step::TakeTerminal);
    }
    if let Some(directory) = &surroundings.directory {
        steps.push(Step::ChangeDirectory(directory.clone()));
    }
    if let Some(mask) = surroundings.umask {
        steps.push(Step::Umask(mask));
    }
    if let Some(nice) = surroundings.nice {
        steps.push(Step::Nice(nice));
    }
    if let Some(limit) = files {
        steps.push(Step::Limit(libc::RLIMIT_NOFILE, limit));
    }
    for limit in &surroundings.limits {
        let values = libc::rlimit {
            rlim_cur: limit.soft,
            rlim_max: limit.hard,
        };
        steps.push(Step::Limit(limit.resource, values));
    }
    if surroundings.no_new_privileges {
        steps.push(Step::NoNewPrivileges);
    }
    if role != Role::InPlace {
        // In place, mask and dispositions are restored as they were inherited.
        steps.push(Step::SignalMask(SigSet::empty()));
    }
    steps
}

/// Raises this process's soft limit of open files to the hard one, and says what it was if
/// that changed anything.
pub fn raise_file_limit() -> Option<libc::rlimit> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft >= hard {
        return None;
    }
    nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, hard, hard).ok()?;
    Some(libc::rlimit {
        rlim_cur: soft,
        rlim_max: hard,
    })
}
