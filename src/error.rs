//! The errors that end the program, each kind with its exit status.

use std::fmt;
use std::io;

use nix::errno::Errno;
use nix::sys::signal::Signal;

/// Why skd doesn't start, or can't continue. The text is a sentence for an administrator: which
/// option, address or file, why, and what to do.
#[derive(Debug)]
pub enum Error {
    /// The command line is invalid. Nothing was bound, created or changed.
    Usage(String),
    /// A step of the start failed.
    Start(String),
    /// PROG exists but can't be executed.
    NotRunnable(String),
    /// PROG doesn't exist.
    NotFound(String),
    /// A signal ended the start.
    Ended(Signal),
    /// The reason has been reported already. This is the exit status.
    Told(u8),
}

impl Error {
    /// Returns the exit status: 2, 1, 126 and 127 as in a shell.
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Start(_) => 1,
            Self::NotRunnable(_) => 126,
            Self::NotFound(_) => 127,
            Self::Ended(signal) => 128 + *signal as u8,
            Self::Told(status) => *status,
        }
    }

    /// Returns the error of a start that failed in a system call: what failed, and the reason.
    pub fn start(what: impl fmt::Display, reason: impl Reason) -> Self {
        Self::Start(format!("{what}: {}", reason.reason()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text)
            | Self::Start(text)
            | Self::NotRunnable(text)
            | Self::NotFound(text) => f.write_str(text),
            Self::Ended(signal) => write!(f, "{signal} has ended the start"),
            Self::Told(_) => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// The reason of a failure in the words of the C library, without the errno number.
pub trait Reason {
    /// Returns the reason.
    fn reason(&self) -> String;
}

impl Reason for Errno {
    fn reason(&self) -> String {
        self.desc().to_owned()
    }
}

impl Reason for io::Error {
    fn reason(&self) -> String {
        match self.raw_os_error() {
            Some(number) => Errno::from_raw(number).reason(),
            None => self.to_string(),
        }
    }
}
