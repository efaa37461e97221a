//! Why a program isn't parked.

use nix::errno::Errno;

use super::kinds::Kinds;
use crate::sys::process::Ended;
use crate::sys::trace::Fault;

/// Why a program isn't parked.
#[derive(Debug)]
pub(super) enum Failure {
    /// The program can't be parked, for this reason.
    Unfit(String),
    /// Something is short, or another process interfered: another try may succeed.
    Short(String),
    /// It went too far: it has something of these kinds, which copies would share.
    Careless(Kinds),
    /// It isn't wanted any more.
    Unwanted,
}

/// The failure of a process that is found to be gone.
pub(super) fn killed() -> Failure {
    Failure::Short("it was killed before it came to its client".into())
}

/// The failure of a call, for which something may be short.
pub(super) fn short(what: &'static str) -> impl Fn(Errno) -> Failure {
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
                // Sent by another process, which may not do it again; or caused by the program
                // itself.
                match signal {
                    libc::SIGKILL | libc::SIGTERM | libc::SIGINT | libc::SIGHUP => {
                        Self::Short(text)
                    }
                    _ => Self::Unfit(text),
                }
            }
            // It was killed; and process 1 may have reaped it.
            Fault::Failed(_, Errno::ESRCH | Errno::ECHILD) => killed(),
            Fault::Failed(what, errno @ (Errno::ENOMEM | Errno::EAGAIN | Errno::ENFILE)) => {
                Self::Short(format!("{what}: {}", errno.desc()))
            }
            Fault::Failed(what, errno) => Self::Unfit(format!("{what}: {}", errno.desc())),
            Fault::Foreign => Self::Unfit("it makes system calls of another architecture".into()),
        }
    }
}
