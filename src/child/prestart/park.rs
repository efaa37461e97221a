//! A program is started without a client, and parked where it would look at one.

use std::ffi::{CString, OsStr};
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair};
use nix::unistd::Pid;

use super::arguments::{ClientDescriptors, own_ids};
use super::calls::Judge;
use super::failure::{Failure, killed, short};
use super::files::{as_owner, open_files, standard_error};
use super::harmful::extent;
use super::inheritance::{check_memory, check_status, hidden};
use super::kinds::{Kind, Kinds};
use super::locks::holds_one;
use super::parked::{ANSWER_TIMEOUT, Parked, note_of_copies};
use super::runs::Runs;
use super::verdict::{Successor, Verdict};
use crate::child::cgroups::Cgroups;
use crate::child::jail::Jail;
use crate::child::plan::Plan;
use crate::child::spawn::{SpawnError, Spawned, Spawner};
use crate::config::Sharing;
use crate::error::Reason;
use crate::report::{Extent, ParkedAt};
use crate::sys::child::Step;
use crate::sys::environment::Environment;
use crate::sys::passing::send_descriptor;
use crate::sys::process;
use crate::sys::seccomp::call_name;
use crate::sys::trace::{
    Breakpoint, Call, Fault, Held, OneProcessor, Parking, Processors, Stop, Tick, Tracee,
    is_interruption,
};

/// How long a program may be in one call; after that it is parked there.
const WAITING: Duration = Duration::from_secs(1);

/// How long a start may take until the program is parked.
const STARTING: Duration = Duration::from_secs(60);

/// How often a start is looked at while nothing happens.
const LOOK: Duration = Duration::from_millis(100);

/// What a program is started with.
pub(super) struct Start<'a> {
    pub(super) plan: &'a Plan,
    /// The sandbox that it is started in, if there is one.
    pub(super) jail: Option<&'a Jail>,
    /// The control groups of handlers, if they have some.
    pub(super) cgroups: Option<&'a Arc<Cgroups>>,
    /// The steps of a child that is traced.
    pub(super) steps: &'a [Step],
    /// What goes on when there is a client.
    pub(super) successor: Successor,
    /// The kinds of what the program was found to keep.
    pub(super) without: Kinds,
}

impl Start<'_> {
    /// Starts the program and returns when it is parked, or when `wanted` is false.
    pub(super) fn park(
        &self,
        spawner: &mut Spawner,
        environment: &mut Environment,
        wanted: impl Fn() -> bool,
    ) -> Result<(Parked, End), Failure> {
        let pair = |kind| socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC);
        let no_socket = short("no socket for a prestarted process");
        // A program may ask it, before it is parked, only for what is true of any socket.
        let (placeholder, theirs) = pair(SockType::Stream).map_err(&no_socket)?;
        let (control, end) = pair(SockType::SeqPacket).map_err(&no_socket)?;
        setsockopt(&control, ReceiveTimeout, &ANSWER_TIMEOUT).map_err(&no_socket)?;
        send_descriptor(&placeholder, &end).map_err(&no_socket)?;
        drop(end);
        let mut copies = None;
        if self.successor != Successor::Itself {
            let file = note_of_copies().map_err(&no_socket)?;
            send_descriptor(&placeholder, &file).map_err(&no_socket)?;
            copies = Some(file);
        }
        let _tick = Tick::every(LOOK).map_err(short("no timer for a prestarted process"))?;
        // Only costs more if it fails.
        let one_processor = OneProcessor::hold().ok();
        spawner.hold(&theirs).map_err(&no_socket)?;
        drop(theirs);
        let cgroup = self.cgroups.map(Cgroups::take).transpose();
        let cgroup = cgroup.map_err(short("no control group for a prestarted process"))?;
        let spawned = match self.jail {
            Some(jail) => jail.launch_traced(spawner, environment).map(|spawned| {
                // Slower than to be made there, but not while a client waits.
                let moved = cgroup.filter(|cgroup| cgroup.enter(spawned.pid).is_ok());
                Spawned {
                    cgroup: moved,
                    ..spawned
                }
            }),
            None => spawner.launch_traced(self.plan, self.steps, cgroup, environment),
        };
        spawner.release();
        let spawned = spawned.map_err(|why| {
            let text = why.explain(self.plan).to_string();
            match why {
                SpawnError::Shortage(_) | SpawnError::Killed | SpawnError::NoJailer => {
                    Failure::Short(text)
                }
                SpawnError::Failed(..) => Failure::Unfit(text),
            }
        })?;
        let tracee = Tracee::adopt(spawned.pid)?;
        let no_pidfd = || Failure::Unfit("this kernel has no pidfds".into());
        let pidfd = spawned.pidfd.ok_or_else(no_pidfd)?;
        let processors = one_processor.as_ref().map(OneProcessor::former);
        let end = self.lead(tracee, processors, wanted)?;
        if self.cgroups.is_some() && spawned.cgroup.is_none() {
            return Err(Failure::Short(
                "it can't have a control group of its own".into(),
            ));
        }
        let parked = Parked::new(spawned.pid, pidfd, control, copies);
        Ok((parked.inside(spawned.cgroup), end))
    }

    /// Lets the program go on from call to call, and parks it.
    fn lead(
        &self,
        tracee: Tracee,
        processors: Option<Processors>,
        wanted: impl Fn() -> bool,
    ) -> Result<End, Failure> {
        let began = Instant::now();
        let client = ClientDescriptors::of(self.plan);
        let mut progress = Progress {
            parking: Parking {
                copies: self.successor != Successor::Itself,
                session: self.plan.leads_session(),
                tied: self.jail.is_some(),
                error: client.have_error(),
                processors,
                ..Parking::default()
            },
            client,
            standard_error: standard_error(tracee.pid()).filter(|_| !client.have_error()),
            breakpoint: None,
        };
        let mut call: Option<Instant> = None;
        let mut calls = 0_u8;
        let mut interrupted = false;
        let mut judge = Judge::new(self.successor, self.without, client);
        let mut runs = Runs::new(client, self.without);
        let mut last = None;
        let end = |tracee: &Tracee, call: Option<Call>, for_now| End {
            at: call.map_or_else(|| "its entry".into(), |call| call_name(call.number)),
            after: began.elapsed(),
            extent: call.map_or(Extent::Part, |call| extent(tracee, &call, client)),
            for_now,
        };
        check_binary(tracee.pid())?;
        progress.breakpoint = self.break_at_entry(&tracee)?;
        tracee.resume(0)?;
        loop {
            let stop = tracee.wait()?;
            let arriving = match stop {
                Some(Stop::Signal(signal)) => Some(signal),
                _ => None,
            };
            let is_held = !matches!(stop, None | Some(Stop::Ended(_)));
            if is_held && runs.end(&tracee, arriving)? {
                tracee.resume(0)?;
                continue;
            }
            let signal = match stop {
                Some(Stop::Entry(entered)) => {
                    last = Some(entered);
                    match judge.judge(&tracee, entered)? {
                        Verdict::GoesOn => {}
                        verdict => {
                            progress.parking.own_ids = own_ids(tracee.pid(), &entered);
                            let end = end(&tracee, last, verdict == Verdict::ParkedForNow);
                            self.settle(tracee, Held::Entry, progress)?;
                            return Ok(end);
                        }
                    }
                    note(&mut progress.parking, &entered);
                    runs.count(&tracee, &entered);
                    call = Some(Instant::now());
                    // In an endless row of calls, no tick may ever be seen.
                    calls = calls.wrapping_add(1);
                    if calls == 0 {
                        in_time(began)?;
                        if !wanted() {
                            return Err(Failure::Unwanted);
                        }
                    }
                    0
                }
                Some(Stop::Exit(result)) => {
                    if interrupted && is_interruption(result) {
                        let end = end(&tracee, last, false);
                        self.settle(tracee, Held::Interrupted, progress)?;
                        return Ok(end);
                    }
                    answer_processors(&tracee, last, result, processors.as_ref())?;
                    call = None;
                    if runs.begin(&tracee)? {
                        continue;
                    }
                    0
                }
                Some(Stop::Exec) => {
                    check_binary(tracee.pid())?;
                    judge.begin_anew();
                    (progress.parking.clear_id, progress.parking.robust) = (None, None);
                    progress.breakpoint = self.break_at_entry(&tracee)?;
                    0
                }
                Some(Stop::Signal(libc::SIGTRAP))
                    if is_at(progress.breakpoint.as_ref(), &tracee)? =>
                {
                    let end = end(&tracee, None, false);
                    let breakpoint = progress.breakpoint.take();
                    let at = breakpoint.map_or(Held::Entry, Held::Breakpoint);
                    self.settle(tracee, at, progress)?;
                    return Ok(end);
                }
                // The call came to its end by itself meanwhile.
                Some(Stop::Signal(libc::SIGSTOP)) if interrupted => {
                    interrupted = false;
                    0
                }
                // A prestarted process isn't to be stopped.
                Some(Stop::Signal(
                    libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU | libc::SIGCONT,
                )) => 0,
                Some(Stop::Signal(signal)) if tracee.has_caused(signal)? => signal,
                // Its handler would leave in memory, which all copies get, what another process of
                // its user says.
                Some(Stop::Signal(_)) => 0,
                Some(Stop::Ended(ended)) => return Err(Fault::Ended(ended).into()),
                None => {
                    if !wanted() {
                        return Err(Failure::Unwanted);
                    }
                    in_time(began)?;
                    if call.is_some_and(|since| since.elapsed() > WAITING) && !interrupted {
                        interrupted = true;
                        tracee.interrupt();
                    }
                    continue;
                }
            };
            tracee.resume(signal)?;
        }
    }

    /// Has a program that gets no further stop at its entry: so does a program that was found with
    /// a lock, since it isn't known when it took it.
    fn break_at_entry(&self, tracee: &Tracee) -> Result<Option<Breakpoint>, Failure> {
        let early = self.successor == Successor::Copies(Sharing::Start);
        if !early && !self.without.meet(Kind::Lock.into()) {
            return Ok(None);
        }
        let entry = program_entry(tracee.pid())?;
        Ok(Some(tracee.break_at(entry)?))
    }

    fn settle(&self, tracee: Tracee, at: Held, mut progress: Progress) -> Result<(), Failure> {
        let pid = tracee.pid();
        if self.successor != Successor::Itself {
            let mut open = open_files(pid, progress.standard_error.as_deref(), progress.client)?;
            if holds_one(pid).map_err(|why| hidden("what it holds", &why))? {
                open.shared = open.shared.with(Kind::Lock);
                open.example = "a lock that it holds".into();
            }
            if !self.without.has(open.shared) {
                return Err(Failure::Careless(open.shared));
            }
            if open.shared != Kinds::NONE {
                let text = format!("copies would share what it has: {}", open.example);
                return Err(Failure::Unfit(text));
            }
            check_status(pid)?;
            check_memory(pid)?;
            progress.parking.files = open.files;
        }
        if let Some(breakpoint) = &progress.breakpoint {
            tracee.restore(breakpoint)?;
        }
        Ok(tracee.park(at, &progress.parking)?)
    }
}

/// How far a program got.
pub(super) struct End {
    /// The call that it is parked at, or its entry.
    pub(super) at: String,
    /// How long it took, traced.
    pub(super) after: Duration,
    /// How much of its start that was.
    pub(super) extent: Extent,
    /// Whether another start may get further.
    pub(super) for_now: bool,
}

impl End {
    /// The same in words, for this program.
    pub(super) fn describe<'a>(&'a self, program: &'a OsStr) -> ParkedAt<'a> {
        ParkedAt {
            program,
            at: &self.at,
            after: self.after,
            extent: self.extent,
        }
    }
}

/// What is known of a program that is on its way.
struct Progress {
    parking: Parking,
    client: ClientDescriptors,
    /// What it was started with as descriptor 2, if that isn't the client.
    standard_error: Option<PathBuf>,
    /// Where it would stop, if it doesn't before.
    breakpoint: Option<Breakpoint>,
}

/// Answers a program that has asked which processors it may use (sched_getaffinity(2)): all that it
/// may use once it is parked.
fn answer_processors(
    tracee: &Tracee,
    call: Option<Call>,
    result: i64,
    processors: Option<&Processors>,
) -> Result<(), Fault> {
    let Some(call) = call.filter(|call| call.number == libc::SYS_sched_getaffinity) else {
        return Ok(());
    };
    // How many bytes the kernel has written.
    let length = usize::try_from(result).unwrap_or_default();
    let own = call.arguments[0] == 0 || call.arguments[0] == tracee.pid().as_raw() as u64;
    match processors.and_then(|processors| processors.get(..length)) {
        Some(answer) if own => tracee.write(call.arguments[2], answer),
        _ => Ok(()),
    }
}

/// Whether a program is held at this breakpoint.
fn is_at(breakpoint: Option<&Breakpoint>, tracee: &Tracee) -> Result<bool, Fault> {
    breakpoint.map_or(Ok(false), |breakpoint| tracee.is_at(breakpoint))
}

/// The address at which a program begins, after the dynamic linker (getauxval(3), `AT_ENTRY`).
fn program_entry(pid: Pid) -> Result<u64, Failure> {
    let read = || {
        let _owner = as_owner(pid)?;
        fs::read(format!("/proc/{pid}/auxv"))
    };
    let values = read().map_err(|why| {
        let why = why.reason();
        Failure::Unfit(format!("its entry can't be seen in /proc: {why}"))
    })?;
    let word = |bytes: &[u8]| bytes.try_into().map(u64::from_ne_bytes).ok();
    let mut pairs = values.chunks_exact(16);
    let entry = pairs.find_map(|pair| {
        let (key, value) = pair.split_at(8);
        word(value).filter(|_| word(key) == Some(libc::AT_ENTRY))
    });
    entry.ok_or_else(|| Failure::Unfit("its entry isn't known".into()))
}

fn in_time(began: Instant) -> Result<(), Failure> {
    if began.elapsed() > STARTING {
        let text = format!("it hasn't come to its client within {STARTING:?}");
        return Err(Failure::Unfit(text));
    }
    Ok(())
}

/// Notes the registrations of this process that a copy must repeat.
fn note(parking: &mut Parking, call: &Call) {
    let [first, second, ..] = call.arguments;
    match call.number {
        libc::SYS_set_tid_address => parking.clear_id = (first != 0).then_some(first),
        libc::SYS_set_robust_list => parking.robust = Some([first, second]),
        _ => {}
    }
}

/// Refuses a program that changes its rights: it wouldn't, under a tracer without those rights.
fn check_binary(pid: Pid) -> Result<(), Failure> {
    const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;
    let target = format!("/proc/{pid}/exe");
    let found = fs::metadata(&target).map_err(|why| match why.raw_os_error() {
        // It is held: it is gone only if it was killed.
        Some(libc::ENOENT | libc::ESRCH) if Path::new("/proc/self").exists() => killed(),
        _ => Failure::Unfit(format!("its file can't be seen in /proc: {}", why.reason())),
    })?;
    if found.mode() & SET_ID != 0 {
        return Err(Failure::Unfit("it is set-user-id or set-group-id".into()));
    }
    if CString::new(target).is_ok_and(|target| process::grants_capabilities(&target)) {
        return Err(Failure::Unfit("its file has capabilities".into()));
    }
    Ok(())
}

impl fmt::Debug for Start<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Start of '{}'", Path::new(self.plan.name()).display())
    }
}
