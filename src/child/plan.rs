//! A handler's preparation as data: the steps between clone and exec, each one system call.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fmt::Write as _;
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
use crate::report::{SpawnFailure, StepInWords};
use crate::sys::capabilities;
use crate::sys::child::{self, ExecTarget, SUID_DUMPABLE, Stage, Step};
use crate::sys::credentials::Credentials;
use crate::sys::descriptors::{claim, copy_above, set_close_on_exec};
use crate::sys::environment::Environment;
use crate::sys::names::kernel_parameter;
use crate::sys::pipe::pipe;
use crate::sys::process::{self, Change, Ended, Fork, Target, Wait};
use crate::sys::seccomp::{Filter, Listening};
use crate::sys::signals::{SigSet, Signal};

/// Everything about a handler that is the same for all connections.
#[derive(Debug)]
pub struct Plan {
    /// See [`Self::name`].
    name: OsString,
    target: ExecTarget,
    /// Shared by all plans with the same, as the variables are.
    steps: Arc<[Step]>,
    variables: Arc<[CString]>,
    /// The sockets that are passed; the steps use their numbers.
    sockets: Vec<OwnedFd>,
    /// The descriptors that steps use, by their numbers.
    owned: Vec<Arc<OwnedFd>>,
    /// See [`Self::directory`].
    directory: Option<OsString>,
    /// See [`Self::root`].
    root: Option<PathBuf>,
    /// The user that stands for all those that this process can't name, if handlers become their
    /// clients' users.
    unknown: Option<Credentials>,
    /// What fails if a step does that another process takes, in words.
    words: Vec<String>,
    /// See [`Self::error_is_client`].
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "asked by prestarting alone")
    )]
    error_is_client: bool,
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
    /// The same in a PID namespace of its own, where it reaches no other process, and in a session
    /// without a terminal.
    Apart,
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
    /// Whether another process makes its handlers: that finds the program, and takes the steps.
    pub is_elsewhere: bool,
    /// The filter of its system calls, if there is one. It can't gain privileges then.
    pub filter: Option<Filter>,
}

/// The root directory of handlers. Services with the same share it.
#[derive(Clone, Debug)]
pub struct Root {
    /// Its path, for messages.
    pub path: PathBuf,
    /// It itself. The number is that of a descriptor that the plan may own, see [`Plan::own`].
    pub directory: Arc<OwnedFd>,
}

impl Root {
    /// Opens it, with the rights that this process still has. It stays the same directory, whatever
    /// becomes of its path.
    pub fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, Ok)
    }

    /// Opens it, and moves it to a number that children have with `own`.
    pub fn open_with(
        path: &Path,
        own: impl FnOnce(OwnedFd) -> Result<OwnedFd, Error>,
    ) -> Result<Self, Error> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = open(path, flags, Mode::empty())
            .and_then(|fd| claim(fd.as_raw_fd()))
            .map_err(|errno| Error::start(format!("can't chroot to {}", path.display()), errno))?;
        Ok(Self {
            path: path.to_owned(),
            directory: own(directory)?.into(),
        })
    }
}

/// What a plan is made for: a program with its arguments, its environment, and its preparation.
pub type Wanted<'a> = (&'a [CString], &'a Variables, Preparation<'a>);

/// What plans have in common.
#[derive(Default)]
struct Common {
    /// By their text, which has all of them.
    steps: HashMap<String, Arc<[Step]>>,
    /// By the address of the variables.
    lines: HashMap<*const Variables, Arc<[CString]>>,
}

impl Common {
    fn steps(&mut self, steps: Vec<Step>) -> Arc<[Step]> {
        let common = self.steps.entry(text(&steps));
        Arc::clone(common.or_insert_with(|| steps.into()))
    }

    fn lines(&mut self, variables: &Variables) -> Arc<[CString]> {
        let common = self.lines.entry(variables);
        Arc::clone(common.or_insert_with(|| variables.lines()))
    }
}

/// Returns steps as a text, by which they are the same or not.
fn text<'a>(steps: impl IntoIterator<Item = &'a Step>) -> String {
    let mut text = String::new();
    for step in steps {
        // Writing to a string can't fail.
        let _ = match step {
            // The C library leaves what is no signal unset.
            Step::SignalMask(mask) => {
                let signals: Vec<_> = mask.iter().collect();
                write!(text, "{signals:?}")
            }
            step => write!(text, "{step:?};"),
        };
    }
    text
}

/// What a program is looked for by: its name, PATH, and the working directory.
type Question<'a> = (&'a [u8], Option<OsString>, Option<&'a CStr>);

/// The programs that are looked for with the same rights.
struct Search<'a> {
    /// Where it first is needed, in the order of services.
    first: usize,
    user: Option<Credentials>,
    /// With the index of the first plan for each.
    questions: Vec<(Question<'a>, usize)>,
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
        let plans = Self::several(vec![(command, variables, preparation)]);
        let plan = plans.map_err(|(_, error)| error)?.into_iter().next();
        plan.ok_or_else(|| Error::Start("there is no program to run".into()))
    }

    /// Makes a plan for each of these. What several have in common is proved once, by one child for all
    /// programs with the same rights. The error has the index of the first plan that can't be made.
    pub fn several(wanted: Vec<Wanted<'_>>) -> Result<Vec<Self>, (usize, Error)> {
        let mut common = Common::default();
        let mut searches: HashMap<Option<String>, Search<'_>> = HashMap::new();
        let mut answers = HashMap::new();
        let mut plans = Vec::with_capacity(wanted.len());
        for (index, (command, variables, preparation)) in wanted.into_iter().enumerate() {
            let user = preparation.user.clone();
            let working = preparation.surroundings.directory.as_deref();
            let is_elsewhere = preparation.is_elsewhere;
            let plan = Self::without_program(command, variables, preparation, &mut common);
            if is_elsewhere {
                plans.push((plan, None));
                continue;
            }
            let rights = user.as_ref();
            let rights = rights.map(|_| text(plan.rights().map(|(_, step)| step)));
            let name = command.first().map_or(&[][..], |name| name.to_bytes());
            let path = variables.get("PATH").map(OsStr::to_owned);
            let question = (name, path, working);
            let is_new = answers.insert((rights.clone(), question.clone()), None);
            if is_new.is_none() {
                let search = searches.entry(rights.clone()).or_insert_with(|| Search {
                    first: index,
                    user,
                    questions: Vec::new(),
                });
                search.questions.push((question.clone(), index));
            }
            plans.push((plan, Some((rights, question))));
        }
        let mut failure: Option<(usize, Error)> = None;
        for (rights, search) in searches {
            let find = |at: usize| {
                let (name, path, working) = &search.questions[at].0;
                let name = CString::new(*name).unwrap_or_default();
                program::find(&name, path.as_deref(), *working)
            };
            let count = search.questions.len();
            let found = match &search.user {
                None => (0..count).map(find).collect(),
                Some(user) => {
                    let (plan, _) = &plans[search.first];
                    plan.with_rights(user, count, find)
                }
            };
            for ((question, index), found) in search.questions.into_iter().zip(found) {
                match found {
                    Ok(path) => {
                        answers.insert((rights.clone(), question), Some(path));
                    }
                    Err(error) if failure.as_ref().is_none_or(|(first, _)| index < *first) => {
                        failure = Some((index, error));
                    }
                    Err(_) => {}
                }
            }
        }
        if let Some(failure) = failure {
            return Err(failure);
        }
        let finish = |(mut plan, key): (Self, Option<_>)| {
            let path = key.and_then(|key| answers.get(&key).cloned().flatten());
            let path = path.unwrap_or_default();
            plan.target = ExecTarget::new(path, plan.target.arguments().to_vec());
            plan
        };
        Ok(plans.into_iter().map(finish).collect())
    }

    fn without_program(
        command: &[CString],
        variables: &Variables,
        preparation: Preparation<'_>,
        common: &mut Common,
    ) -> Self {
        let steps = match preparation.is_elsewhere {
            true => Vec::new(),
            false => steps(&preparation),
        };
        let steps = common.steps(steps);
        let (root, directory) = preparation
            .root
            .map(|root| (root.path, root.directory))
            .unzip();
        let unknown = preparation.user.filter(|_| preparation.as_peer);
        Self {
            name: command
                .first()
                .map(|name| path_of(name))
                .unwrap_or_default(),
            unknown,
            target: ExecTarget::new(CString::default(), argv(command, preparation.surroundings)),
            steps,
            variables: common.lines(variables),
            sockets: Vec::new(),
            owned: directory.into_iter().collect(),
            directory: preparation.surroundings.directory.as_deref().map(path_of),
            root,
            words: Vec::new(),
            error_is_client: preparation.surroundings.error == StandardError::Client,
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
        let common = &mut Common::default();
        let plan = Self::without_program(command, variables, preparation, common);
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
            // A filter needs the second.
            if !step.changes_rights() && !matches!(step, Step::NoNewPrivileges) {
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
            Some(user) if !denied => {
                let mut found = plan.with_rights(user, 1, |_| find());
                found.pop().unwrap_or_else(|| Err(nothing_found()))
            }
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

    /// Looks for so many programs in a child that has taken the steps that change its rights, and that
    /// proves that it has those of this user alone.
    fn with_rights(
        &self,
        user: &Credentials,
        count: usize,
        find: impl Fn(usize) -> Result<CString, Error>,
    ) -> Vec<Result<CString, Error>> {
        let answers = self.answers_with_rights(user, count, find);
        let mut rest = match &answers {
            Ok(answers) => answers.as_slice(),
            Err(error) => {
                // The first of them is reported.
                let again = || Error::Start(error.to_string());
                return (0..count).map(|_| Err(again())).collect();
            }
        };
        let next = |_| {
            let (status, length, text);
            (status, rest) = rest.split_first().ok_or_else(nothing_found)?;
            (length, rest) = rest.split_first_chunk().ok_or_else(nothing_found)?;
            let length = u32::from_ne_bytes(*length) as usize;
            (text, rest) = rest.split_at_checked(length).ok_or_else(nothing_found)?;
            let why = || String::from_utf8_lossy(text).into_owned();
            match status {
                0 => CString::new(text)
                    .map_err(|_| Error::Start("the program's path has a NUL inside".into())),
                status => Err(Error::with_status(*status, why())),
            }
        };
        (0..count).map(next).collect()
    }

    /// The answers of that child: for each program a status, the length of a text, and the text.
    fn answers_with_rights(
        &self,
        user: &Credentials,
        count: usize,
        find: impl Fn(usize) -> Result<CString, Error>,
    ) -> Result<Vec<u8>, Error> {
        let failed = |errno| Error::start("no process to look for the program", errno);
        let (mut reader, mut writer) = pipe().map_err(failed)?;
        match process::fork().map_err(failed)? {
            Fork::Child => {
                let ready = self.take_rights().and_then(|()| prove(user));
                let mut answers = Vec::new();
                for at in 0..count {
                    let found = match &ready {
                        Ok(()) => find(at).map_err(|error| (error.status(), error.to_string())),
                        Err(error) => Err((error.status(), error.to_string())),
                    };
                    let (status, text) = match found {
                        Ok(path) => (0, path.into_bytes()),
                        Err((status, text)) => (status, text.into_bytes()),
                    };
                    answers.push(status);
                    answers.extend_from_slice(&(text.len() as u32).to_ne_bytes());
                    answers.extend_from_slice(&text);
                }
                let _ = writer.write_all(&answers);
                process::exit_now(0)
            }
            Fork::Parent(child) => {
                drop(writer);
                let mut answers = Vec::new();
                let read = reader.read_to_end(&mut answers);
                let _ = process::wait(Target::Process(child), Wait::UNTIL_END);
                let failed = |reason| Error::start("the program can't be looked for", reason);
                read.map_err(failed).map(|_| answers)
            }
        }
    }

    /// The steps that give up rights, with their indexes.
    fn rights(&self) -> impl Iterator<Item = (usize, &Step)> {
        let steps = self.steps.iter().enumerate();
        steps.filter(|(_, step)| step.changes_rights() || matches!(step, Step::NoNewPrivileges))
    }

    fn take_rights(&self) -> Result<(), Error> {
        for (index, step) in self.rights() {
            child::prepare(std::slice::from_ref(step)).map_err(|(_, errno)| {
                Error::Start(self.explain(Stage::Step(index), errno).to_string())
            })?;
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
        let mut prepared = self.steps.to_vec();
        for fd in &mut self.owned {
            let number = fd.as_raw_fd();
            if number < end {
                *fd = copy_above(&*fd, end).map_err(failed)?.into();
            }
            for step in &mut prepared {
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
        self.steps = input.chain(passed).chain(prepared).collect();
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
        let mut steps = self.steps.to_vec();
        steps.insert(last - usize::from(masks), step);
        self.steps = steps.into();
        self.owned.push(fd.into());
        Ok(())
    }

    /// Sends the listener of its filter, if that has one, to the thread with the other end of a socket,
    /// together with the number of its service. The socket must have a reserved number.
    pub fn listen_to_filter(&mut self, socket: &Arc<OwnedFd>, service: u32) {
        let (socket_number, mut listens) = (socket.as_raw_fd(), false);
        let mut steps = self.steps.to_vec();
        for step in &mut steps {
            if let Step::Filter(filter, to) = step {
                listens = filter.has_listener();
                *to = listens.then_some(Listening {
                    socket: socket_number,
                    service,
                });
            }
        }
        if listens {
            self.steps = steps.into();
            self.owned.push(Arc::clone(socket));
        }
    }

    /// Adds steps before all others, and after them, but for the filter of system calls and the signal
    /// mask. Before [`Self::own`].
    pub(super) fn surround(&mut self, first: Vec<Step>, last: impl IntoIterator<Item = Step>) {
        let is_end = |step: &Step| matches!(step, Step::Filter(..) | Step::SignalMask(_));
        let mut steps = first;
        let begin = steps.len();
        steps.extend(self.steps.iter().cloned());
        let ends = steps
            .iter()
            .skip(begin)
            .rev()
            .take_while(|step| is_end(step));
        let end = steps.len() - ends.count();
        steps.splice(end..end, last);
        self.steps = steps.into();
    }

    /// Notes how another process makes the handlers: the path of the program there, and what fails
    /// if one of its steps does, in words.
    pub(super) fn made_elsewhere(&mut self, path: CString, words: Vec<String>) {
        self.target = ExecTarget::new(path, self.target.arguments().to_vec());
        self.words = words;
    }

    /// Returns in words what fails if a step does, for all steps.
    pub(super) fn steps_in_words(&self) -> impl Iterator<Item = String> {
        let steps = self.steps.iter();
        steps.map(|step| StepInWords(step).to_string())
    }

    /// Hashes what makes its children different from those of another plan, but for variables.
    ///
    /// The next binary may have other numbers for the same files: a descriptor counts as its file.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn identify(&self, hasher: &mut impl std::hash::Hasher) {
        use std::hash::Hash;
        use std::os::fd::AsFd;
        let file = |fd: &dyn AsFd| {
            let found = nix::sys::stat::fstat(fd.as_fd());
            found.map(|found| (found.st_dev, found.st_ino)).ok()
        };
        self.target.path().hash(hasher);
        self.target.arguments().hash(hasher);
        for step in self.steps.iter() {
            match step {
                Step::EnterRoot(_) | Step::EnterDirectory(_) => {}
                Step::Filter(filter, _) => format!("{filter:?}").hash(hasher),
                // Most of the C library's set is never written.
                Step::SignalMask(mask) => {
                    mask.iter().for_each(|signal| (signal as i32).hash(hasher))
                }
                step => format!("{step:?}").hash(hasher),
            }
        }
        // The socket for the listener of a filter is another one each time.
        let is_socket = |number| {
            let to = |step: &Step| matches!(step, Step::Filter(_, Some(to)) if to.socket == number);
            self.steps.iter().any(to)
        };
        let owned = self.owned.iter();
        let owned = owned.filter(|fd| !is_socket(fd.as_raw_fd()));
        owned.for_each(|fd| file(fd).hash(hasher));
        if !self.words.is_empty() {
            // What another process has made, none makes again.
            std::time::SystemTime::now().hash(hasher);
        }
        self.root.hash(hasher);
        // All have it, if it isn't the client's.
        file(&std::io::stderr()).hash(hasher);
    }

    /// The program and its arguments.
    pub fn target(&self) -> &ExecTarget {
        &self.target
    }

    /// The steps that a child takes before it becomes the program.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The same, to be shared.
    pub(super) fn shared_steps(&self) -> &Arc<[Step]> {
        &self.steps
    }

    /// Whether the child leads a session of its own.
    pub fn leads_session(&self) -> bool {
        let leads = |step: &Step| matches!(step, Step::LeadSession);
        self.steps.iter().any(leads)
    }

    /// Whether the client is standard error of the child too.
    #[cfg(target_arch = "x86_64")]
    pub(super) fn error_is_client(&self) -> bool {
        self.error_is_client
    }

    /// The steps of a child that is traced. No signal may stop it before its exec, except SIGTRAP,
    /// which reports the exec; the tracer empties the mask then. A filter is the last, since it may
    /// refuse to be traced.
    pub fn steps_if_traced(&self) -> Vec<Step> {
        let steps = match &self.steps[..] {
            [steps @ .., Step::SignalMask(_)] => steps,
            steps => steps,
        };
        let (steps, filter) = match steps {
            [steps @ .., filter @ Step::Filter(..)] => (steps, Some(filter)),
            steps => (steps, None),
        };
        let mut mask = SigSet::all();
        mask.remove(Signal::SIGTRAP);
        let mask = Step::SignalMask(mask);
        let steps = steps.iter().chain([&mask]).chain(filter);
        steps.cloned().collect()
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
        &self.name
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
            words: match stage {
                Stage::Step(index) => self.words.get(index).map(String::as_str),
                _ => None,
            },
            errno,
            // Of a program elsewhere it was looked for once.
            missing_interpreter: match self.words.is_empty() {
                true => program::missing_interpreter,
                false => |_, _| None,
            },
        }
    }
}

fn path_of(path: &CStr) -> OsString {
    OsStr::from_bytes(path.to_bytes()).to_owned()
}

/// Returns what the program gets as its arguments, its name first.
fn argv(command: &[CString], surroundings: &Surroundings) -> Vec<CString> {
    let mut argv = command.to_vec();
    if let (Some(name), Some(argv0)) = (argv.first_mut(), &surroundings.argv0) {
        name.clone_from(argv0);
    }
    argv
}

fn find(
    command: &[CString],
    variables: &Variables,
    directory: Option<&CStr>,
) -> Result<CString, Error> {
    let name = command.first().cloned().unwrap_or_default();
    program::find(&name, variables.get("PATH"), directory)
}

fn nothing_found() -> Error {
    Error::Start("the process that looked for the program was killed".into())
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
    if matches!(role, Role::Handler { .. } | Role::Apart)
        && surroundings.error == StandardError::Client
    {
        steps.push(Step::Descriptor(1, 2));
    }
    match role {
        // A session costs more than a group: the kernel's scheduler makes a group for each. It
        // keeps the terminal from handlers, and keeps handlers of another user from sending CONT.
        Role::Handler { terminal: false } if preparation.user.is_none() => {
            steps.push(Step::LeadGroup);
        }
        Role::Apart => steps.push(Step::LeadGroup),
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
    if surroundings.no_new_privileges || preparation.filter.is_some() {
        steps.push(Step::NoNewPrivileges);
    }
    // After all that it may refuse.
    if let Some(filter) = &preparation.filter {
        steps.push(Step::Filter(filter.clone(), None));
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
