//! A program is started without a client, and parked where it would look at one.

use std::ffi::CString;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair};
use nix::unistd::Pid;

use super::calls::{self, Successor, Verdict};
use super::failure::{Failure, killed, short};
use super::files::{open_files, standard_error};
use super::inheritance::{check_memory, check_status};
use super::kinds::Kinds;
use super::parked::{ANSWER_TIMEOUT, Parked, note_of_copies};
use crate::child::plan::Plan;
use crate::child::spawn::{SpawnError, Spawner};
use crate::error::Reason;
use crate::sys::child::Step;
use crate::sys::environment::Environment;
use crate::sys::process;
use crate::sys::sockets::send_descriptor;
use crate::sys::trace::{Call, Fault, Parking, Stop, Tick, Tracee, is_interruption};

/// How long a program may be in one call; after that it is parked there.
const WAITING: Duration = Duration::from_secs(1);

/// How long a start may take until the program is parked.
const STARTING: Duration = Duration::from_secs(60);

/// How often a start is looked at while nothing happens.
const LOOK: Duration = Duration::from_millis(100);

/// What a program is started with.
pub(super) struct Start<'a> {
    pub(super) plan: &'a Plan,
    /// The steps of a child that is traced.
    pub(super) steps: &'a [Step],
    /// What goes on when there is a client.
    pub(super) successor: Successor,
    /// The kinds of what the program was found to keep.
    pub(super) without: Kinds,
}

impl Start<'_> {
    /// Starts the program and returns when it is parked, or when `wanted` is false. Also returns
    /// whether another start may get further.
    pub(super) fn park(
        &self,
        spawner: &mut Spawner,
        environment: &mut Environment,
        wanted: impl Fn() -> bool,
    ) -> Result<(Parked, bool), Failure> {
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
        spawner.hold(&theirs).map_err(&no_socket)?;
        drop(theirs);
        let spawned = spawner.launch_traced(self.plan, self.steps, environment);
        spawner.release();
        let spawned = spawned.map_err(|why| {
            let text = why.explain(self.plan).to_string();
            match why {
                SpawnError::Shortage(_) | SpawnError::Killed => Failure::Short(text),
                SpawnError::Failed(..) => Failure::Unfit(text),
            }
        })?;
        let tracee = Tracee::adopt(spawned.pid)?;
        let no_pidfd = || Failure::Unfit("this kernel has no pidfds".into());
        let pidfd = spawned.pidfd.ok_or_else(no_pidfd)?;
        let for_now = self.lead(tracee, wanted)?;
        Ok((Parked::new(spawned.pid, pidfd, control, copies), for_now))
    }

    /// Lets the program go on from call to call, and parks it. Returns whether another start may get
    /// further.
    fn lead(&self, tracee: Tracee, wanted: impl Fn() -> bool) -> Result<bool, Failure> {
        let began = Instant::now();
        let mut progress = Progress {
            parking: Parking {
                copies: self.successor != Successor::Itself,
                session: self.plan.leads_session(),
                ..Parking::default()
            },
            standard_error: standard_error(tracee.pid()),
        };
        let mut call: Option<Instant> = None;
        let mut calls = 0_u8;
        let mut interrupted = false;
        check_binary(tracee.pid())?;
        tracee.resume(0)?;
        loop {
            let signal = match tracee.wait()? {
                Some(Stop::Entry(entered)) => {
                    match calls::judge(&tracee, &entered, self.successor, self.without)? {
                        Verdict::GoesOn => {}
                        verdict => {
                            progress.parking.own_ids = calls::own_ids(tracee.pid(), &entered);
                            self.settle(tracee, true, progress)?;
                            return Ok(verdict == Verdict::ParkedForNow);
                        }
                    }
                    note(&mut progress.parking, &entered);
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
                        self.settle(tracee, false, progress)?;
                        return Ok(false);
                    }
                    call = None;
                    0
                }
                Some(Stop::Exec) => {
                    check_binary(tracee.pid())?;
                    (progress.parking.clear_id, progress.parking.robust) = (None, None);
                    0
                }
                // The call came to its end by itself meanwhile.
                Some(Stop::Signal(libc::SIGSTOP)) if interrupted => {
                    interrupted = false;
                    0
                }
                // A prestarted process isn't to be stopped.
                Some(Stop::Signal(
                    libc::SIGSTOP | libc::SIGTSTP | libc::SIGTTIN | libc::SIGTTOU,
                )) => 0,
                Some(Stop::Signal(signal)) => signal,
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

    fn settle(&self, tracee: Tracee, entry: bool, mut progress: Progress) -> Result<(), Failure> {
        let pid = tracee.pid();
        if self.successor == Successor::Copies {
            let open = open_files(pid, progress.standard_error.as_deref())?;
            if !self.without.has(open.shared) {
                return Err(Failure::Careless(open.shared));
            }
            if open.shared != Kinds::NONE {
                let text = format!("copies would share what it has open: {}", open.example);
                return Err(Failure::Unfit(text));
            }
            check_status(pid)?;
            check_memory(pid)?;
            progress.parking.files = open.files;
        }
        Ok(tracee.park(entry, &progress.parking)?)
    }
}

/// What is known of a program that is on its way.
struct Progress {
    parking: Parking,
    /// What it was started with as descriptor 2.
    standard_error: Option<PathBuf>,
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
