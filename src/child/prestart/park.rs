//! Starting a program without a client, up to where it would look at one.

use std::ffi::CString;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair};
use nix::unistd::Pid;

use super::calls::{self, Successor};
use super::files::open_files;
use super::hand_off::{PATIENCE, Parked, note_of_copies};
use crate::child::plan::Plan;
use crate::child::spawn::{SpawnError, Spawner};
use crate::error::Reason;
use crate::sys::child::Step;
use crate::sys::environment::Environment;
use crate::sys::process::{self, Ended};
use crate::sys::sockets::send_descriptor;
use crate::sys::trace::{Call, Fault, Parking, Stop, Tick, Tracee, is_interruption};

/// How long a program may be in one call before it is parked there.
const WAITING: Duration = Duration::from_secs(1);

/// How long it may take until it is parked.
const STARTING: Duration = Duration::from_secs(60);

/// How often a start is looked at while nothing happens.
const LOOK: Duration = Duration::from_millis(100);

/// Why nobody stands ready.
#[derive(Debug)]
pub(super) enum Failure {
    /// The program isn't one that can be parked, for this reason.
    Unfit(String),
    /// For this reason, which another try may find gone.
    Short(String),
    /// It has been let go too far: there is something that copies would share.
    Careless,
    /// It isn't wanted any more.
    Unwanted,
}

/// What a program is started with.
pub(super) struct Start<'a> {
    pub plan: &'a Plan,
    /// Those of a child that is traced.
    pub steps: &'a [Step],
    /// Who is to go on.
    pub successor: Successor,
}

impl Start<'_> {
    /// Starts it, and comes back when it is parked. `wanted` is asked again and again.
    pub(super) fn park(
        &self,
        spawner: &mut Spawner,
        environment: &mut Environment,
        wanted: impl Fn() -> bool,
    ) -> Result<Parked, Failure> {
        let pair = |kind| socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC);
        let no_socket = short("no socket for a process that stands ready");
        // What a program asks of it before it is parked, it would learn from any socket.
        let (placeholder, theirs) = pair(SockType::Stream).map_err(&no_socket)?;
        let (control, end) = pair(SockType::SeqPacket).map_err(&no_socket)?;
        setsockopt(&control, ReceiveTimeout, &PATIENCE).map_err(&no_socket)?;
        send_descriptor(&placeholder, &end).map_err(&no_socket)?;
        drop(end);
        let mut copies = None;
        if self.successor != Successor::Itself {
            let file = note_of_copies().map_err(&no_socket)?;
            send_descriptor(&placeholder, &file).map_err(&no_socket)?;
            copies = Some(file);
        }
        let _tick = Tick::every(LOOK).map_err(short("no timer for a process to stand ready"))?;
        spawner.hold(&theirs).map_err(&no_socket)?;
        drop(theirs);
        let spawned = spawner.spawn_traced(self.plan, self.steps, environment);
        spawner.release();
        let spawned = spawned.map_err(|why| {
            let text = why.explain(self.plan).to_string();
            match why {
                SpawnError::Shortage(_) => Failure::Short(text),
                SpawnError::Failed(..) => Failure::Unfit(text),
            }
        })?;
        let tracee = Tracee::adopt(spawned.pid)?;
        let no_pidfd = || Failure::Unfit("this kernel has no pidfds".into());
        let pidfd = spawned.pidfd.ok_or_else(no_pidfd)?;
        self.lead(tracee, wanted)?;
        Ok(Parked::new(spawned.pid, pidfd, control, copies))
    }

    /// Leads it from call to call, and parks it.
    fn lead(&self, tracee: Tracee, wanted: impl Fn() -> bool) -> Result<(), Failure> {
        let began = Instant::now();
        let mut parking = Parking {
            copies: self.successor != Successor::Itself,
            ..Parking::default()
        };
        let mut call: Option<Instant> = None;
        let mut calls = 0_u8;
        let mut interrupted = false;
        check_image(tracee.pid())?;
        tracee.resume(0)?;
        loop {
            let signal = match tracee.wait()? {
                Some(Stop::Entry(entered)) => {
                    if calls::parks(&tracee, &entered, self.successor)? {
                        return self.settle(tracee, true, parking);
                    }
                    note(&mut parking, &entered);
                    call = Some(Instant::now());
                    // Between calls that never cease a tick may always fall.
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
                        return self.settle(tracee, false, parking);
                    }
                    call = None;
                    0
                }
                Some(Stop::Exec) => {
                    check_image(tracee.pid())?;
                    (parking.clear_id, parking.robust) = (None, None);
                    0
                }
                // The call came to its end by itself meanwhile.
                Some(Stop::Signal(libc::SIGSTOP)) if interrupted => {
                    interrupted = false;
                    0
                }
                // What stands ready isn't to stand still.
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

    fn settle(&self, tracee: Tracee, entry: bool, mut parking: Parking) -> Result<(), Failure> {
        if parking.copies {
            let open = open_files(tracee.pid())?;
            if self.successor == Successor::Copies && (open.own || open.unnamed) {
                return Err(Failure::Careless);
            }
            if open.own {
                let text = "it keeps a descriptor that copies would share";
                return Err(Failure::Unfit(text.into()));
            }
            parking.files = open.files;
        }
        Ok(tracee.park(entry, &parking)?)
    }
}

fn in_time(began: Instant) -> Result<(), Failure> {
    if began.elapsed() > STARTING {
        let text = format!("it hasn't come to its client within {STARTING:?}");
        return Err(Failure::Unfit(text));
    }
    Ok(())
}

/// Remembers what the kernel has been told, which a copy has to tell it again.
fn note(parking: &mut Parking, call: &Call) {
    let [first, second, ..] = call.arguments;
    match call.number {
        libc::SYS_set_tid_address => parking.clear_id = (first != 0).then_some(first),
        libc::SYS_set_robust_list => parking.robust = Some([first, second]),
        _ => {}
    }
}

/// Whether the program that a process has become is one that changes its rights: such a one doesn't
/// where whoever traces it hasn't them.
fn check_image(pid: Pid) -> Result<(), Failure> {
    const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;
    let target = format!("/proc/{pid}/exe");
    let found = fs::metadata(&target).map_err(|why| match why.raw_os_error() {
        // It is held, and so is there, if it hasn't been killed.
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

/// Whoever looked at it found it gone.
pub(super) fn killed() -> Failure {
    Failure::Short("it was killed before it came to its client".into())
}

fn short(what: &'static str) -> impl Fn(Errno) -> Failure {
    move |errno| Failure::Short(format!("{what}: {}", errno.desc()))
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Ended(Ended::Exited(status)) => Self::Unfit(format!(
                "it ended with status {status} before it came to its client"
            )),
            Fault::Ended(Ended::Killed(signal)) => {
                let text = format!("signal {signal} ended it before it came to its client");
                // By somebody, who may not do it again; or by what it has done, as it will again.
                match signal {
                    libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP => {
                        Self::Short(text)
                    }
                    _ => Self::Unfit(text),
                }
            }
            // Whoever has been killed can't be asked any more; and process 1 may have reaped it.
            Fault::Failed(_, Errno::ESRCH | Errno::ECHILD) => killed(),
            Fault::Failed(what, errno @ (Errno::ENOMEM | Errno::EAGAIN | Errno::ENFILE)) => {
                Self::Short(format!("{what}: {}", errno.desc()))
            }
            Fault::Failed(what, errno) => Self::Unfit(format!("{what}: {}", errno.desc())),
            Fault::Foreign => Self::Unfit("it makes system calls of another architecture".into()),
        }
    }
}

impl fmt::Debug for Start<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Start of '{}'", self.plan.name().display())
    }
}
