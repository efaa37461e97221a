//! A handler's preparation as data: the steps between clone and exec, each one system
//! call.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};

use super::environment::Variables;
use super::program;
use crate::config::Surroundings;
use crate::error::Error;
use crate::report::SpawnFailure;
use crate::sys::child::{self, ExecTarget, Stage, Step};
use crate::sys::descriptors::copy_above;
use crate::sys::environment::Environment;
use crate::sys::process::{self, Change, Ended, Fork, Target, Wait};
use crate::sys::signals::{SigSet, Signal};

/// Everything about a handler that is the same for all connections.
#[derive(Debug)]
pub struct Plan {
    target: ExecTarget,
    steps: Vec<Step>,
    variables: Arc<[CString]>,
    /// What is handed over: the steps know them by their numbers.
    sockets: Vec<OwnedFd>,
}

/// Where a program looks for the first socket that it is handed (sd_listen_fds(3)).
const FIRST_SOCKET: RawFd = 3;

/// What a program is run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The handler of a connection or datagram, in a process group of its own.
    Handler,
    /// The one supervised program: the same, and its group is the terminal's foreground
    /// one if there is a terminal.
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
    /// `files` is the limit of open files to give back, if this process changed its own.
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
        })
    }

    /// All that keeps the program from being run. The first is what [`Self::new`], or a
    /// child's preparation, fails with.
    ///
    /// Each step is taken by a child of its own: after some, a limit of memory for one, it
    /// could do no more than end. While there is one thread.
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
        };
        let fails = |(index, step)| {
            let errno = try_alone(step)?;
            let why = plan.explain(Stage::Step(index), errno);
            Some(Error::Start(why.to_string()))
        };
        let steps = plan.steps.iter().enumerate().filter_map(fails);
        path.err().into_iter().chain(steps).collect()
    }

    /// Has each child find these sockets from descriptor 3 up, and what sd_listen_fds(3)
    /// needs in its environment; the first one is its standard input too.
    pub fn pass_sockets<'a>(
        &mut self,
        sockets: impl IntoIterator<Item = (BorrowedFd<'a>, &'a str)>,
    ) -> Result<(), Error> {
        let (sockets, names): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
        let end = FIRST_SOCKET + sockets.len() as RawFd;
        // Out of the way of those that they will be.
        let copies = sockets.iter().map(|socket| copy_above(socket, end));
        self.sockets = copies
            .collect::<Result<_, _>>()
            .map_err(|errno| Error::start("no descriptor to hand over a socket", errno))?;
        let numbers = || self.sockets.iter().map(AsRawFd::as_raw_fd);
        let places = (FIRST_SOCKET..).zip(numbers());
        let handed = places.map(|(place, number)| Step::Descriptor(number, place));
        let input = numbers().take(1).map(|number| Step::Descriptor(number, 0));
        let steps: Vec<_> = input.chain(handed).collect();
        self.steps.splice(0..0, steps);
        let count = format!("LISTEN_FDS={}", sockets.len());
        let names = format!("LISTEN_FDNAMES={}", names.join(":"));
        // Names have come through an environment, or are our own.
        let lines = [count, names].map(CString::new).into_iter().flatten();
        self.variables = self.variables.iter().cloned().chain(lines).collect();
        Ok(())
    }

    /// The program and its arguments.
    pub fn target(&self) -> &ExecTarget {
        &self.target
    }

    /// What a child does before it becomes the program.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The same for one that is to be traced: no signal is to stop it before its exec, but the one
    /// that tells of the exec, and whoever traces it empties the mask then.
    pub fn steps_if_traced(&self) -> Vec<Step> {
        let others = |step: &&Step| !matches!(step, Step::SignalMask(_));
        let steps = self.steps.iter().filter(others).cloned();
        let mut mask = SigSet::all();
        mask.remove(Signal::SIGTRAP);
        steps.chain([Step::SignalMask(mask)]).collect()
    }

    /// What all its handlers have in their environment, each `NAME=VALUE`.
    pub fn variables(&self) -> &Arc<[CString]> {
        &self.variables
    }

    /// An environment to be filled in for one connection after the other.
    pub fn environment(&self) -> Environment {
        let own_id = (!self.sockets.is_empty()).then_some("LISTEN_PID");
        Environment::new(Arc::clone(&self.variables), own_id)
    }

    /// PROG as it was given.
    pub fn name(&self) -> &OsStr {
        let name = self.target.arguments().first();
        OsStr::from_bytes(name.map_or(b"".as_slice(), |name| name.to_bytes()))
    }

    /// Where the program is as seen by this process, which isn't in the handler's directory.
    pub(super) fn path_from_here(&self) -> PathBuf {
        self.seen_from_here(self.target.path())
    }

    /// Any path that the handler may be given.
    pub(super) fn seen_from_here(&self, path: &CStr) -> PathBuf {
        let path = Path::new(OsStr::from_bytes(path.to_bytes()));
        Path::new(self.directory().unwrap_or_default()).join(path)
    }

    /// Returns why a child could not become the program.
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

    /// The directory that the handler changes to, if it does.
    fn directory(&self) -> Option<&OsStr> {
        self.steps.iter().find_map(|step| match step {
            Step::ChangeDirectory(directory) => Some(OsStr::from_bytes(directory.to_bytes())),
            _ => None,
        })
    }
}

/// Takes a step in a child, and says what it failed with.
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
        // In place, mask and dispositions are put back as they were inherited.
        steps.push(Step::SignalMask(SigSet::empty()));
    }
    steps
}

/// What a step was to do, and which option asked for it.
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
