//! The jailer: a process in a sandbox, which makes a service's handlers there for skd.
//!
//! It is forked while skd has one thread, and goes on from there: it enters the namespaces, finds the
//! program inside, gives up what its handlers mustn't have, and then serves one request after the
//! other. Its handlers are skd's own children (`CLONE_PARENT`). It ends when skd has closed its end of
//! the socket, for which the end of skd is enough.

use std::env;
use std::ffi::{CStr, CString, OsStr, c_int};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use nix::errno::Errno;
use nix::unistd::{Gid, Pid, Uid};

use super::message::{Answer, LONGEST, Report, Request};
use super::wanted::{MOST_JAILERS, Wanted};
use super::{error_output, landlock, refusal, tree};
use crate::child::method::bury;
use crate::child::plan::{Plan, Preparation, Role};
use crate::child::program;
use crate::child::spawn::SpawnError;
use crate::config::{Part, Parts, Surroundings};
use crate::error::Error;
use crate::report::SpawnTrouble;
use crate::sys::capabilities::{self, Capabilities, Capability};
use crate::sys::child::{self, Born, ChildStack, CloneCall, Descriptors, Launch, Stage, Step};
use crate::sys::credentials::Credentials;
use crate::sys::environment::Environment;
use crate::sys::namespaces::{self, UserMap};
use crate::sys::packets;
use crate::sys::process::{self, Fork};
use crate::sys::seccomp::Filter;
use crate::sys::signals::{Signal, kill};
use crate::sys::{descriptors, keyring, memory, sandbox};

/// Makes the sandbox and serves. `pids` has an entry for each jailer, where the kernel writes the id of
/// the child that it makes: should the jailer be killed then, skd finds its child there.
pub(super) fn run(
    wanted: &Wanted<'_>,
    map: Option<&UserMap>,
    socket: OwnedFd,
    pids: &'static [AtomicI32; MOST_JAILERS],
) -> ! {
    let made = own_filter(wanted).and_then(|filter| {
        let plan = prepare(wanted, map, socket.as_fd(), filter.is_some())?;
        Maker::new(plan, wanted.sandbox.parts, filter.as_ref(), pids)
    });
    let mut maker = match made {
        Ok(maker) => maker,
        Err(error) => {
            let _ = tell(&socket, &Report::Failed(error));
            process::exit_now(1);
        }
    };
    let path = maker.plan.target().path().to_string_lossy().into_owned();
    let words = [path].into_iter().chain(maker.plan.steps_in_words());
    let told = tell(&socket, &Report::Ready(words.collect()));
    memory::return_freed();
    if told.is_ok() {
        maker.serve(socket);
    }
    process::exit_now(0)
}

fn tell(socket: impl AsFd, report: &Report) -> Result<(), Errno> {
    packets::send(socket, [&report.bytes(), b""], [None, None])
}

/// Enters the sandbox, and returns the plan of its handlers.
fn prepare(
    wanted: &Wanted<'_>,
    map: Option<&UserMap>,
    socket: BorrowedFd<'_>,
    has_filter: bool,
) -> Result<Plan, Error> {
    let parts = wanted.sandbox.parts;
    let surroundings = wanted.surroundings;
    let shows_error = error_output::is_open_to(wanted.user_outside());
    let filter_socket = wanted.filter_socket.as_ref();
    leave(socket, filter_socket.map(|(socket, _)| socket.as_fd()));
    let outside = env::current_dir();
    let (command, surroundings) = with_path(wanted, surroundings);
    raise_limits(&surroundings);
    if let Some(map) = map {
        enter_user(map, socket)?;
    }
    let name = command.first().map_or(c"", CString::as_c_str);
    let ids = match (map, &wanted.user) {
        (Some(map), _) => map.inside,
        (None, Some(user)) => (user.uid.as_raw(), user.gid.as_raw()),
        (None, None) => (Uid::effective().as_raw(), Gid::effective().as_raw()),
    };
    let entered = tree::enter(wanted.sandbox, name, ids)?;
    if shows_error && parts.has_mounts() {
        error_output::put_between()
            .map_err(|errno| Error::start("no pipe for what handlers write to stderr", errno))?;
    }
    // As for other handlers where it is there.
    let stays = outside.is_ok_and(|directory| env::set_current_dir(directory).is_ok());
    if !stays {
        let moved = env::set_current_dir("/");
        moved.map_err(|reason| Error::start("the sandbox can't be entered", reason))?;
    }
    // Where PROG isn't found, that is said later.
    let rules = landlock::rules(
        wanted.sandbox,
        Path::new(OsStr::from_bytes(name.to_bytes())),
    )?;
    if parts.has(Part::Caps) {
        give_up().map_err(|errno| Error::start("the sandbox's rights can't be limited", errno))?;
    }
    let user = match map {
        // Else it has become the only user that there is.
        Some(map) => map.has_two_users().then(|| Credentials {
            uid: Uid::from_raw(map.inside.0),
            gid: Gid::from_raw(map.inside.1),
            groups: Vec::new(),
        }),
        None => wanted.user.clone(),
    };
    let preparation = Preparation {
        surroundings: &surroundings,
        role: match parts.has(Part::Pid) {
            // This process has left skd's session.
            true => Role::Apart,
            false => Role::Handler { terminal: true },
        },
        files: wanted.files,
        user,
        as_peer: false,
        root: None,
        is_elsewhere: false,
        filter: wanted.filter.clone().filter(|_| !has_filter),
    };
    let mut plan = Plan::new(&command, wanted.variables, preparation)?;
    let drops = parts.has(Part::Caps).then_some(Step::DropCapabilities);
    // Open as long as this process.
    let restricts = rules.map(|rules| Step::Restrict(rules.into_raw_fd()));
    plan.surround(
        entered.steps,
        [drops, restricts, Some(Step::EndWithParent)]
            .into_iter()
            .flatten(),
    );
    if let Some((socket, service)) = filter_socket {
        plan.listen_to_filter(socket, *service);
    }
    if wanted.is_traced && !map.is_some_and(|map| map.root) {
        // Without the right to trace others, skd traces what any process of its user might.
        let allowed = process::allow_dumping();
        allowed.map_err(|errno| Error::start("handlers can't be traced", errno))?;
    }
    Ok(plan)
}

/// The filter of handlers for this process itself, if it can have it: to load it in each of them takes
/// a quarter of their start. The children that it lets through are made by clone3(2).
fn own_filter(wanted: &Wanted<'_>) -> Result<Option<Filter>, Error> {
    let filter = wanted.filter.as_ref();
    let filter = filter.filter(|_| CloneCall::find() == CloneCall::Clone3);
    filter.map_or(Ok(None), |filter| filter.of_jailer().map_err(not_filtered))
}

fn not_filtered(errno: Errno) -> Error {
    Error::start("system calls can't be filtered", errno)
}

/// Leaves what is skd's: descriptors, session, keyring.
fn leave(socket: BorrowedFd<'_>, filter_socket: Option<BorrowedFd<'_>>) {
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    if let Ok(null) = descriptors::null() {
        // Those of a handler are its connection.
        let _ = descriptors::replace(&input, &null);
        let _ = descriptors::replace(&output, &null);
    }
    let kept = [input.as_fd(), output.as_fd(), error.as_fd(), socket];
    let kept: Vec<_> = kept.into_iter().chain(filter_socket).collect();
    descriptors::keep_only(&kept);
    let _ = nix::unistd::setsid();
    let _ = nix::sys::prctl::set_name(c"skd-jailer");
    let _ = keyring::leave_session();
}

/// The command with the path of the program in its stead, where it can be found outside: the sandbox
/// shows that file.
fn with_path(wanted: &Wanted<'_>, surroundings: &Surroundings) -> (Vec<CString>, Surroundings) {
    let mut command = wanted.command.to_vec();
    let mut surroundings = surroundings.clone();
    let Some(name) = command.first_mut() else {
        return (command, surroundings);
    };
    let directory = surroundings.directory.as_deref();
    let path = wanted.variables.get("PATH");
    let found = program::find(name, path, directory).ok();
    let whole = found.and_then(|found| {
        let path_of = |text: &CStr| Path::new(OsStr::from_bytes(text.to_bytes())).to_owned();
        let base = directory.map(path_of).unwrap_or_default();
        let whole = env::current_dir().ok()?.join(base).join(path_of(&found));
        CString::new(whole.into_os_string().as_bytes()).ok()
    });
    if let Some(whole) = whole {
        let shown = std::mem::replace(name, whole);
        surroundings.argv0.get_or_insert(shown);
    }
    (command, surroundings)
}

/// Raises hard limits, and lowers the nice value, as handlers will have them: in a user namespace
/// no process may.
fn raise_limits(surroundings: &Surroundings) {
    let mut steps = Vec::new();
    for limit in &surroundings.limits {
        let (soft, hard) = process::limit_of_this_process(limit.resource).unwrap_or((0, u64::MAX));
        if hard < limit.hard {
            let raised = libc::rlimit {
                rlim_cur: soft,
                rlim_max: limit.hard,
            };
            steps.push(Step::Limit(limit.resource, raised));
        }
    }
    let nice = surroundings.nice.filter(|nice| *nice < process::own_nice());
    steps.extend(nice.map(Step::Nice));
    for step in steps {
        // What fails here fails for the handler of the rehearsal, which says so.
        let _ = child::prepare(&[step]);
    }
}

/// Enters a user namespace, whose maps skd writes if that takes its rights.
fn enter_user(map: &UserMap, socket: BorrowedFd<'_>) -> Result<(), Error> {
    let failed = |errno| Error::start("the ids of the sandbox can't be had", errno);
    namespaces::enter_user(map).map_err(refusal::of_users)?;
    if map.root {
        let told = tell(socket, &Report::NeedsMaps);
        let answered = told.and_then(|()| packets::receive(socket, &mut [0]));
        match answered.map_err(failed)? {
            // skd says why.
            (0, _) => process::exit_now(1),
            _ => namespaces::take_ids(map).map_err(failed)?,
        }
    }
    Ok(())
}

/// Gives up for good what neither this process nor its handlers will have again.
fn give_up() -> Result<(), Errno> {
    sandbox::forbid_new_privileges()?;
    // Without that right, that no exec adds any has to be enough: it is.
    if !capabilities::has_capability(Capability::SetCapabilities) {
        return Ok(());
    }
    capabilities::bound(Capabilities::NONE)?;
    capabilities::lock_securebits()
}

/// What makes handlers.
struct Maker {
    plan: Plan,
    environment: Environment,
    stack: ChildStack,
    call: CloneCall,
    /// `CLONE_NEW*` flags of handlers.
    namespaces: c_int,
    pids: &'static [AtomicI32; MOST_JAILERS],
    /// The index of this process's entry there.
    index: usize,
}

impl Maker {
    /// Finds out how children are made, by a child that takes all steps.
    fn new(
        plan: Plan,
        parts: Parts,
        filter: Option<&Filter>,
        pids: &'static [AtomicI32; MOST_JAILERS],
    ) -> Result<Self, Error> {
        let kinds = [
            (parts.has(Part::Pid), libc::CLONE_NEWPID | libc::CLONE_NEWNS),
            (parts.has(Part::Mount), libc::CLONE_NEWNS),
        ];
        let kinds = kinds.into_iter().filter(|(has, _)| *has);
        let stack = ChildStack::new();
        let mut maker = Self {
            environment: plan.environment(),
            stack: stack.map_err(|errno| Error::start("no memory for a stack", errno))?,
            call: CloneCall::find(),
            namespaces: kinds.fold(0, |all, (_, kind)| all | kind),
            pids,
            index: 0,
            plan,
        };
        if let Some(filter) = filter {
            let ready = sandbox::forbid_new_privileges();
            ready.and_then(|()| filter.load()).map_err(not_filtered)?;
        }
        let mut born = maker.rehearse();
        if born.is_err() && maker.call == CloneCall::Clone3 {
            maker.call = CloneCall::Clone;
            born = maker.rehearse();
        }
        let name = maker.plan.name();
        let born = born.map_err(|errno| {
            let name = Path::new(name).display();
            let why = match errno {
                Errno::ENOSPC => "as many namespaces exist as may (/proc/sys/user)",
                errno => errno.desc(),
            };
            Error::Start(format!("no process for '{name}' in its sandbox: {why}"))
        })?;
        bury(&born);
        match born.failure {
            Some((stage, errno)) => {
                let failure = maker.plan.explain(stage, errno);
                let why = refusal::of_step(failure.step, errno);
                Err(why.unwrap_or_else(|| Error::Start(failure.to_string())))
            }
            None if born.killed => Err(Error::Start(
                SpawnTrouble::Killed { program: name }.to_string(),
            )),
            None => Ok(maker),
        }
    }

    fn rehearse(&mut self) -> Result<Born, Errno> {
        let launch = Launch {
            call: self.call,
            descriptors: Descriptors::Inherit,
            connection: None,
            steps: self.plan.steps(),
            target: None,
            environment: self.environment.finish(),
            want_pidfd: false,
            namespaces: self.namespaces,
            cgroup: None,
            pid_to: None,
            traced: false,
        };
        child::spawn(&mut self.stack, launch)
    }

    /// Serves requests until skd has gone.
    fn serve(&mut self, mut socket: OwnedFd) {
        let mut message = vec![0; LONGEST];
        loop {
            let (length, received) = match packets::receive(&socket, &mut message) {
                Ok((0, _)) => return,
                Ok(received) => received,
                Err(errno) => {
                    let why = match errno {
                        Errno::EMSGSIZE => SpawnError::Failed(Stage::Exec, Errno::E2BIG),
                        errno => SpawnError::Shortage(errno),
                    };
                    let refused = born(Pid::from_raw(0), Err(why));
                    if packets::send(&socket, [&refused.bytes(), b""], [None, None]).is_err() {
                        return;
                    }
                    continue;
                }
            };
            let [first, second] = received;
            let answer = match (Request::read(&message[..length]), first) {
                (Some((Request::Jailer(index), _)), Some(its)) => match process::fork_sibling() {
                    Ok(Fork::Child) => {
                        self.index = usize::from(index) % MOST_JAILERS;
                        socket = its;
                        continue;
                    }
                    Ok(Fork::Parent(pid)) => born(pid, Ok(())),
                    Err(errno) => born(Pid::from_raw(0), Err(SpawnError::Shortage(errno))),
                },
                (Some((request, lines)), Some(connection)) => {
                    self.write_environment(request, lines);
                    let answer = match request {
                        Request::Traced => self.make_traced(connection.as_fd(), second.as_ref()),
                        _ => self.make(connection.as_fd(), second.as_ref()),
                    };
                    // First of all: until then the client can't see the end, should the handler be
                    // quick. skd still has the connection, so no close here is the last.
                    drop(connection);
                    answer
                }
                _ => return,
            };
            drop(second);
            if packets::send(&socket, [&answer.bytes(), b""], [None, None]).is_err() {
                // skd has ended, perhaps before the child was tied to it.
                if answer.pid > 0 {
                    let _ = kill(Pid::from_raw(answer.pid), Signal::SIGKILL);
                }
                return;
            }
        }
    }

    fn write_environment(&mut self, request: Request, lines: &[u8]) {
        let lines = lines.split_inclusive(|byte| *byte == 0);
        let mut lines = lines.filter_map(|line| CStr::from_bytes_with_nul(line).ok());
        self.environment.clear();
        if request != Request::Handler {
            let own: Arc<[CString]> = lines.map(CStr::to_owned).collect();
            self.environment.rebase(&own);
            return;
        }
        self.environment.rebase(self.plan.variables());
        lines.by_ref().for_each(|line| self.environment.line(line));
    }

    /// Makes a handler on a connection, in a control group.
    fn make(&mut self, connection: BorrowedFd<'_>, cgroup: Option<&OwnedFd>) -> Answer {
        let steps = Arc::clone(self.plan.shared_steps());
        self.make_by(&steps, connection, cgroup)
    }

    /// Makes a handler that skd traces, and that waits for that on this socket.
    fn make_traced(&mut self, connection: BorrowedFd<'_>, socket: Option<&OwnedFd>) -> Answer {
        let mut steps = self.plan.steps_if_traced();
        let end = match steps.last() {
            Some(Step::Filter(..)) => steps.len() - 1,
            _ => steps.len(),
        };
        let wait = socket.map(|socket| Step::AwaitTracer(socket.as_raw_fd()));
        steps.splice(end..end, wait);
        self.make_by(&steps, connection, None)
    }

    fn make_by(
        &mut self,
        steps: &[Step],
        connection: BorrowedFd<'_>,
        cgroup: Option<&OwnedFd>,
    ) -> Answer {
        let pid_to = &self.pids[self.index];
        pid_to.store(0, Ordering::SeqCst);
        let launch = Launch {
            call: self.call,
            descriptors: Descriptors::Inherit,
            connection: Some(connection),
            steps,
            target: Some(self.plan.target()),
            environment: self.environment.finish(),
            want_pidfd: false,
            namespaces: self.namespaces | libc::CLONE_PARENT,
            cgroup: cgroup.map(AsFd::as_fd),
            pid_to: Some(pid_to),
            traced: false,
        };
        let made = match child::spawn(&mut self.stack, launch) {
            Ok(made) => made,
            Err(errno) => return born(Pid::from_raw(0), Err(SpawnError::Shortage(errno))),
        };
        let result = match made.failure {
            Some((stage, errno)) => Err(SpawnError::of(steps, stage, errno)),
            None if made.killed => Err(SpawnError::Killed),
            None => Ok(()),
        };
        born(made.pid, result)
    }
}

fn born(pid: Pid, result: Result<(), SpawnError>) -> Answer {
    Answer {
        pid: pid.as_raw(),
        result,
    }
}
