//! Why skdctl fails.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use skd_control::{Failure, FailureKind, VERSION};

use crate::text::escaped;

/// Exit statuses. The manual page documents them: programs rely on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    /// It was done.
    Done = 0,
    /// It was tried, and failed.
    Failed = 1,
    /// The command line, or what it asks for, isn't understood.
    Usage = 2,
    /// No skd answers at the socket.
    Absent = 3,
    /// This user may not ask for it.
    NotPermitted = 4,
    /// There is no such service, handler or source.
    NotFound = 5,
    /// It can't be done now.
    Busy = 6,
    /// skd was reached, but gave no answer, or none that skdctl understands.
    NoAnswer = 7,
}

impl From<Status> for ExitCode {
    fn from(status: Status) -> Self {
        Self::from(status as u8)
    }
}

/// Why something failed, as a sentence.
#[derive(Debug)]
pub(crate) enum Error {
    /// No skd listens at the socket.
    Absent(PathBuf),
    /// The kernel doesn't let this user connect.
    Forbidden(PathBuf),
    /// The socket can't be connected to for another reason.
    Connect(PathBuf, io::Error),
    /// The connection broke.
    Broken(io::Error),
    /// skd has closed the connection.
    Ended,
    /// skd did not answer in this time.
    Silent(Duration),
    /// skd speaks another version of the protocol.
    Version(u32),
    /// The answer isn't understood.
    Garbled(String),
    /// skd has answered that it failed.
    Failure(Failure),
    /// Something on this side of the socket failed.
    Local(String),
    /// The command line asks for something that makes no sense.
    Usage(String),
    /// Standard output was closed: it is no error that a reader has seen enough.
    ReaderGone,
}

impl Error {
    /// Returns the exit status that tells it to programs.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::ReaderGone => Status::Done,
            Self::Local(_) => Status::Failed,
            Self::Usage(_) => Status::Usage,
            Self::Absent(_) | Self::Connect(..) => Status::Absent,
            Self::Forbidden(_) => Status::NotPermitted,
            Self::Broken(_)
            | Self::Ended
            | Self::Silent(_)
            | Self::Version(_)
            | Self::Garbled(_) => Status::NoAnswer,
            Self::Failure(failure) => match failure.kind {
                FailureKind::BadRequest => Status::Usage,
                FailureKind::NotPermitted => Status::NotPermitted,
                FailureKind::NotFound => Status::NotFound,
                FailureKind::Failed => Status::Failed,
                FailureKind::Busy => Status::Busy,
            },
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(path) => {
                let path = escaped(&path.to_string_lossy());
                write!(
                    f,
                    "no skd answers at {path}: is it started with --control {path}?"
                )
            }
            Self::Forbidden(path) => write!(
                f,
                "{}: this user may not ask skd: its owner and root may, and the group of --control-read",
                escaped(&path.to_string_lossy())
            ),
            Self::Connect(path, error) => write!(
                f,
                "can't connect to {}: {error}",
                escaped(&path.to_string_lossy())
            ),
            Self::Broken(error) => write!(f, "the connection to skd broke: {error}"),
            Self::Ended => f.write_str("skd closed the connection before its answer was complete"),
            Self::Silent(time) => {
                write!(f, "skd has not answered for {} s", time.as_secs())
            }
            Self::Version(version) => write!(
                f,
                "skd speaks version {version} of the control protocol, and this skdctl version \
                 {VERSION}: use the skdctl that came with that skd"
            ),
            Self::Garbled(why) => write!(f, "the answer of skd isn't understood: {}", escaped(why)),
            Self::Failure(failure) => f.write_str(&escaped(&failure.message)),
            Self::Local(why) | Self::Usage(why) => f.write_str(why),
            Self::ReaderGone => f.write_str("the reader of the output is gone"),
        }
    }
}
