//! A handler's preparation as data: the steps between clone and exec, each one system call.

use std::ffi::{CStr, CString, OsStr, OsString};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;
use nix::unistd::Uid;

use super::environment::Variables;
use super::program;
use crate::config::{StandardError, Surroundings};
use crate::error::Error;
use crate::report::SpawnFailure;
use crate::sys::capabilities;
use crate::sys::child::{self, ExecTarget, SUID_DUMPABLE, Stage, Step};
use crate::sys::credentials::Credentials;
use crate::sys::descriptors::{claim, copy_above, set_close_on_exec};
use crate::sys::environment::Environment;
use crate::sys::names::kernel_parameter;
use crate::sys::pipe::pipe;
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
    /// See [`Self::root`].
    root: Option<PathBuf>,
    /// The user that stands for all those that this process can't name, if handlers become their
    /// clients' users.
    unknown: Option<Credentials>,
}

/// The descriptor of the first socket that is passed (sd_listen_fds(3)).
const FIRST_SOCKET: RawFd = 3;

/// What a program is run as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The handler of a connection or datagram, in a process group or session of its own.
    Handler {
        /// Whether a terminal may be reached in this process's session.
        terminal: bool,
    },
    /// The supervised program, in a session of its own. With a terminal it has a process group of its
    /// own instead, which is the foreground one.
    Supervised {
        /// Whether standard input is a terminal that this process may give away.
        terminal: bool,
    },
    /// This process itself.
    InPlace,
}

/// How a program is prepared.
#[derive(Debug)]
pub struct Preparation<'a> {
    /// What is asked for in the configuration.
    pub surroundings: &'a Surroundings,
    /// What it is run as.
    pub role: Role,
    /// The limit of open files to restore, if this process changed its own.
    pub files: Option<libc::rlimit>,
    /// The user that it becomes, if it does.
    pub user: Option<Credentials>,
    /// Whether that is only the user of the proof, and each handler becomes its client's.
    pub as_peer: bool,
    /// Its root directory, if that is another. It has a user too.
    pub root: Option<Root>,
}

/// The root directory of handlers.
#[derive(Debug)]
pub struct Root {
    /// Its path, for messages.
    pub path: PathBuf,
    /// It itself. The number is that of a descriptor that the plan may own, see [`Plan::own`].
    pub directory: OwnedFd,
}

impl Root {
    /// Opens it, with the rights that this process still has. It stays the same directory, whatever
    /// becomes of its path.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(path, flags, Mode::empty())
            .and_then(|fd| claim(fd.as_raw_fd()))
            .map_err(|errno| Error::start(format!("can't chroot to {}", path.display()), errno))?;
        Ok(Self {
            path: path.to_owned(),
            directory,
        })
    }
}

/// What keeps a program from being run.
#[derive(Debug, Default)]
pub struct Rehearsal {
    /// With the user and root directory that it will have.
    pub faults: Vec<Error>,
    /// With those of this process, since it can't have the others.
    pub otherwise: Vec<Error>,
}

impl Plan {
    /// Finds the program and orders the steps. Called while there is one thread.
    ///
    /// A program with a user or root directory of its own is looked for by a child that has them,
    /// and that proves that no other right is left.
    pub fn new(
        command: &[CString],
        variables: &Variables,
        preparation: Preparation<'_>,
    ) -> Result<Self, Error> {
        let user = preparation.user.clone();
        let working = preparation.surroundings.directory.as_deref();
        let mut plan = Self::without_program(command, variables, preparation);
        let find = || find(command, variables, working);
        let found = match &user {
            None => find(),
            Some(user) => plan.with_rights(|| prove(user).and_then(|()| find())),
        };
        plan.target = ExecTarget::new(found?, command.to_vec());
        Ok(plan)
    }

    fn without_program(
        command: &[CString],
        variables: &Variables,
        preparation: Preparation<'_>,
    ) -> Self {
        let steps = steps(&preparation);
        let (root, directory) = preparation
            .root
            .map(|root| (root.path, root.directory))
            .unzip();
        let unknown = preparation.user.filter(|_| preparation.as_peer);
        Self {
            unknown,
            target: ExecTarget::new(CString::default(), command.to_vec()),
            steps,
            variables: variables.lines(),
            sockets: Vec::new(),
            owned: directory.into_iter().collect(),
            directory: preparation.surroundings.directory.as_deref().map(path_of),
            root,
        }
    }

    /// Returns all errors that keep the program from being run. The first is what
    /// [`Self::new`], or a child's preparation, fails with.
    ///
    /// A child of its own takes each step, after those that change its rights: after some, such as a
    /// limit of memory, it could only end. Called while there is one thread.
    pub fn rehearse(
        command: &[CString],
        variables: &Variables,
        preparation: Preparation<'_>,
    ) -> Rehearsal {
        let user = preparation.user.clone();
        let working = preparation.surroundings.directory.as_deref();
        let plan = Self::without_program(command, variables, preparation);
        let mut all = Rehearsal::default();
        let mut rights = Vec::new();
        let mut denied = false;
        for (index, step) in plan.steps.iter().enumerate() {
            // Where one fails, the others would fail for the same reason.
            if denied && step.changes_rights() {
                continue;
            }
            let before = rights.len();
            rights.push(step.clone());
            let failure = try_out(&rights);
            if !step.changes_rights() {
                rights.truncate(before);
            }
            let Some(errno) = failure else { continue };
            let error = Error::Start(plan.explain(Stage::Step(index), errno).to_string());
            if denied {
                all.otherwise.push(error);
            } else {
                all.faults.push(error);
            }
            if step.changes_rights() {
                denied = true;
                rights.clear();
            }
        }
        let find = || find(command, variables, working);
        let found = match &user {
            Some(user) if !denied => plan.with_rights(|| prove(user).and_then(|()| find())),
            _ => find(),
        };
        if let Err(error) = found {
            if denied {
                all.otherwise.insert(0, error);
            } else {
                // The start notices this first.
                all.faults.insert(0, error);
            }
        }
        all
    }

    /// Runs this in a child that has taken the steps that change its rights.
    fn with_rights(&self, run: impl FnOnce() -> Result<CString, Error>) -> Result<CString, Error> {
        let failed = |errno| Error::start("no process to look for the program", errno);
        let (mut reader, mut writer) = pipe().map_err(failed)?;
        match process::fork().map_err(failed)? {
            Fork::Child => {
                let result = self.take_rights().and_then(|()| run());
                let (status, bytes) = match result {
                    Ok(path) => (0, path.into_bytes()),
                    Err(error) => (error.status(), error.to_string().into_bytes()),
                };
                let _ = writer.write_all(&[status]).and(writer.write_all(&bytes));
                process::exit_now(0)
            }
            Fork::Parent(child) => {
                drop(writer);
                let mut answer = Vec::new();
                let read = reader.read_to_end(&mut answer);
                let _ = process::wait(Target::Process(child), Wait::UNTIL_END);
                read.map_err(|reason| Error::start("the program can't be looked for", reason))?;
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                match answer.split_first() {
                    Some((0, path)) => CString::new(path)
                        .map_err(|_| Error::Start("the program's path has a NUL inside".into())),
                    Some((126, why)) => Err(Error::NotRunnable(text(why))),
                    Some((127, why)) => Err(Error::NotFound(text(why))),
                    Some((_, why)) => Err(Error::Start(text(why))),
                    None => Err(Error::Start(
                        "the process that looked for the program was killed".into(),
                    )),
                }
            }
        }
    }

    fn take_rights(&self) -> Result<(), Error> {
        for (index, step) in self.steps.iter().enumerate() {
            if step.changes_rights() || matches!(step, Step::NoNewPrivileges) {
                child::prepare(std::slice::from_ref(step)).map_err(|(_, errno)| {
                    Error::Start(self.explain(Stage::Step(index), errno).to_string())
                })?;
            }
        }
        Ok(())
    }

    /// Passes these sockets to each child, from descriptor 3 up, with what sd_listen_fds(3) needs
    /// in its environment. The first one is its standard input too. Called before [`Self::own`];
    /// of what the plan owns already it has a root directory at most.
    pub fn pass_sockets<'a>(
        &mut self,
        sockets: impl IntoIterator<Item = (BorrowedFd<'a>, &'a str)>,
    ) -> Result<(), Error> {
        let (sockets, names): (Vec<_>, Vec<_>) = sockets.into_iter().unzip();
        let end = FIRST_SOCKET + sockets.len() as RawFd;
        let failed = |errno| Error::start("no descriptor to hand over a socket", errno);
        for fd in &mut self.owned {
            let number = fd.as_raw_fd();
            if number < end {
                *fd = copy_above(&*fd, end).map_err(failed)?;
            }
            for step in &mut self.steps {
                if let Step::EnterRoot(directory) = step {
                    *directory = fd.as_raw_fd();
                }
            }
        }
        // Above the numbers that they will have.
        let copies = sockets.iter().map(|socket| copy_above(socket, end));
        self.sockets = copies.collect::<Result<_, _>>().map_err(failed)?;
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

    /// Whether the child leads a session of its own.
    pub fn leads_session(&self) -> bool {
        let leads = |step: &Step| matches!(step, Step::LeadSession);
        self.steps.iter().any(leads)
    }

    /// The steps of a child that is traced. No signal may stop it before its exec, except SIGTRAP,
    /// which reports the exec; the tracer empties the mask then.
    pub fn steps_if_traced(&self) -> Vec<Step> {
        let masks = matches!(self.steps.last(), Some(Step::SignalMask(_)));
        let others = self.steps.len() - usize::from(masks);
        let steps = self.steps.iter().take(others).cloned();
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

    /// The user whose clients have no handlers, if handlers become their clients' users.
    pub fn unknown_peer(&self) -> Option<&Credentials> {
        self.unknown.as_ref()
    }

    /// The root directory of handlers, if it isn't this process's.
    pub(super) fn root(&self) -> Option<&Path> {
        self.root.as_deref()
    }

    /// The reason why a child couldn't become the program.
    pub fn explain(&self, stage: Stage, errno: Errno) -> SpawnFailure<'_> {
        SpawnFailure {
            program: self.name(),
            path: OsStr::from_bytes(self.target.path().to_bytes()),
            directory: self.directory(),
            root: self.root(),
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

fn find(
    command: &[CString],
    variables: &Variables,
    directory: Option<&CStr>,
) -> Result<CString, Error> {
    let name = command.first().cloned().unwrap_or_default();
    program::find(&name, variables.get("PATH"), directory)
}

/// Proves that this process has the rights of this user and no others.
pub fn prove(user: &Credentials) -> Result<(), Error> {
    user.exceeded().map_or(Ok(()), |kept| {
        Err(Error::Start(format!(
            "privileges of handlers were not dropped in full: {kept} was kept; skd doesn't run \
             them like this"
        )))
    })
}

/// Takes steps in a child, and returns the error if one fails.
fn try_out(steps: &[Step]) -> Option<Errno> {
    match process::fork() {
        Ok(Fork::Child) => {
            let result = child::prepare(steps);
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

fn steps(preparation: &Preparation<'_>) -> Vec<Step> {
    let Preparation {
        surroundings, role, ..
    } = preparation;
    let mut steps = Vec::new();
    if matches!(role, Role::Handler { .. }) && surroundings.error == StandardError::Client {
        steps.push(Step::Descriptor(1, 2));
    }
    match role {
        // A session costs more than a group: the kernel's scheduler makes a group for each. It
        // keeps the terminal from handlers, and keeps handlers of another user from sending CONT.
        Role::Handler { terminal: false } if preparation.user.is_none() => {
            steps.push(Step::LeadGroup);
        }
        Role::Handler { .. } | Role::Supervised { terminal: false } => {
            steps.push(Step::LeadSession);
        }
        Role::Supervised { terminal: true } => {
            steps.extend([Step::LeadGroup, Step::TakeTerminal]);
        }
        Role::InPlace => {}
    }
    if let Some(mask) = surroundings.umask {
        steps.push(Step::Umask(mask));
    }
    if let Some(nice) = surroundings.nice {
        steps.push(Step::Nice(nice));
    }
    if let Some(limit) = preparation.files {
        steps.push(Step::Limit(libc::RLIMIT_NOFILE, limit));
    }
    for limit in &surroundings.limits {
        let values = libc::rlimit {
            rlim_cur: limit.soft,
            rlim_max: limit.hard,
        };
        steps.push(Step::Limit(limit.resource, values));
    }
    if let Some(user) = &preparation.user {
        // A process that may not set its groups may already have these.
        if preparation.as_peer || !user.has_groups() {
            let groups = user.groups.iter().map(|group| group.as_raw());
            steps.push(Step::Groups(groups.collect()));
        }
        become_user(user, preparation.root.as_ref(), &mut steps);
    }
    // As that user, in that root directory.
    if let Some(directory) = &surroundings.directory {
        steps.push(Step::ChangeDirectory(directory.clone()));
    }
    if surroundings.no_new_privileges {
        steps.push(Step::NoNewPrivileges);
    }
    if *role != Role::InPlace {
        // In place, mask and dispositions are restored as they were inherited.
        steps.push(Step::SignalMask(SigSet::empty()));
    }
    steps
}

/// Adds the steps after that of the groups that give up this process's rights: the user id last,
/// which has the right to the others.
fn become_user(user: &Credentials, root: Option<&Root>, steps: &mut Vec<Step>) {
    let uid = user.uid.as_raw();
    steps.push(Step::Group(user.gid.as_raw()));
    if let Some(root) = root {
        // Root without its capabilities may not enter what the user may.
        let directory = root.directory.as_raw_fd();
        steps.extend([
            Step::FileUser(uid),
            Step::EnterRoot(directory),
            Step::ChangeRoot,
        ]);
    }
    // The kernel keeps other processes of the user out of the memory that a newborn child shares
    // with skd, unless fs.suid_dumpable is 1; then there is no start. If it is 2, or
    // unknown, a child that is killed would dump that memory: so signals wait until that is forbidden
    // too.
    let dumps = kernel_parameter(SUID_DUMPABLE) != Some(0);
    if dumps {
        steps.push(Step::SignalMask(SigSet::all()));
    }
    steps.push(Step::User(uid));
    if dumps {
        steps.push(Step::ForbidDumping);
    }
    // A change from root drops them by itself.
    let held = capabilities::held().unwrap_or_default();
    if !Uid::effective().is_root() && !held.permitted.is_empty() {
        steps.push(Step::DropCapabilities);
    }
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
