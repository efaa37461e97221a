//! What skd and a jailer tell each other.

use nix::errno::Errno;

use crate::child::spawn::SpawnError;
use crate::error::Error;
use crate::sys::child::Stage;

/// The longest message: an environment that isn't the common one.
pub(super) const LONGEST: usize = 192 * 1024;

/// The head of a request. After that of a handler comes its environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// A handler, whose variables are those of the plan and what follows.
    Handler,
    /// A handler whose variables are only what follows.
    HandlerWithout,
    /// The same, and skd traces it from its exec on: the second descriptor is where it waits for that.
    Traced,
    /// Another jailer, which serves the socket that comes with this. It notes the ids of its children
    /// at this index.
    Jailer(u8),
}

impl Request {
    pub(super) const LENGTH: usize = 2;

    pub(super) fn bytes(self) -> [u8; Self::LENGTH] {
        match self {
            Self::Handler => [0, 0],
            Self::HandlerWithout => [1, 0],
            Self::Jailer(index) => [2, index],
            Self::Traced => [3, 0],
        }
    }

    /// Returns it with what follows.
    pub(super) fn read(message: &[u8]) -> Option<(Self, &[u8])> {
        let (head, rest) = message.split_first_chunk::<{ Self::LENGTH }>()?;
        let request = match *head {
            [0, 0] => Self::Handler,
            [1, 0] => Self::HandlerWithout,
            [2, index] => Self::Jailer(index),
            [3, 0] => Self::Traced,
            _ => return None,
        };
        Some((request, rest))
    }
}

/// The answer to a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    /// The child that was made, which skd reaps.
    pub(super) pid: i32,
    /// Whether it has become the program.
    pub(super) result: Result<(), SpawnError>,
}

impl Answer {
    pub(super) const LENGTH: usize = 12;

    pub(super) fn bytes(self) -> [u8; Self::LENGTH] {
        const SHORTAGE: i32 = -2;
        let (what, errno) = match self.result {
            Ok(()) => (BORN, 0),
            Err(SpawnError::Shortage(errno)) => (SHORTAGE, errno as i32),
            Err(SpawnError::Killed | SpawnError::NoJailer) => (KILLED, 0),
            Err(SpawnError::Failed(stage, errno)) => {
                let stage = match stage {
                    Stage::Step(index) => index as i32,
                    Stage::Descriptors => DESCRIPTORS,
                    Stage::Trace => TRACE,
                    Stage::Exec => EXEC,
                };
                (stage, errno as i32)
            }
        };
        let mut bytes = [0; Self::LENGTH];
        for (field, number) in bytes.chunks_exact_mut(4).zip([self.pid, what, errno]) {
            field.copy_from_slice(&number.to_ne_bytes());
        }
        bytes
    }

    pub(super) fn read(message: &[u8]) -> Option<Self> {
        let number = |at: usize| {
            let bytes = message.get(at * 4..at * 4 + 4)?.try_into().ok()?;
            Some(i32::from_ne_bytes(bytes))
        };
        let (pid, what, errno) = (number(0)?, number(1)?, Errno::from_raw(number(2)?));
        let stage = match what {
            BORN => {
                return Some(Self {
                    pid,
                    result: Ok(()),
                });
            }
            DESCRIPTORS => Stage::Descriptors,
            TRACE => Stage::Trace,
            EXEC => Stage::Exec,
            index @ 0.. => Stage::Step(index as usize),
            _ => {
                let why = match what {
                    KILLED => SpawnError::Killed,
                    _ => SpawnError::Shortage(errno),
                };
                return Some(Self {
                    pid,
                    result: Err(why),
                });
            }
        };
        let result = Err(SpawnError::Failed(stage, errno));
        Some(Self { pid, result })
    }
}

const BORN: i32 = -1;
const KILLED: i32 = -3;
const DESCRIPTORS: i32 = -4;
const TRACE: i32 = -5;
const EXEC: i32 = -6;

/// What a new jailer tells, first of all.
#[derive(Debug)]
pub(super) enum Report {
    /// It is in its user namespace, and needs the maps of that.
    NeedsMaps,
    /// It serves. The path of the program inside, and in words what fails if a step of a handler
    /// does.
    Ready(Vec<String>),
    /// It has ended.
    Failed(Error),
}

impl Report {
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::NeedsMaps => vec![0],
            Self::Ready(words) => [&[1][..], words.join("\0").as_bytes()].concat(),
            Self::Failed(error) => {
                let text = error.to_string();
                [&[2, error.status()][..], text.as_bytes()].concat()
            }
        }
    }

    pub(super) fn read(message: &[u8]) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        match message {
            [0] => Self::NeedsMaps,
            [1, words @ ..] => Self::Ready(words.split(|byte| *byte == 0).map(text).collect()),
            [2, status, why @ ..] => Self::Failed(Error::with_status(*status, text(why))),
            _ => Self::Failed(Error::Start(
                "the sandbox's process was killed while it was made".into(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_are_read_as_they_were_written() {
        for request in [
            Request::Traced,
            Request::Handler,
            Request::HandlerWithout,
            Request::Jailer(7),
        ] {
            let bytes = [&request.bytes()[..], b"A=1\0"].concat();
            assert_eq!(Request::read(&bytes), Some((request, &b"A=1\0"[..])));
        }
        assert_eq!(Request::read(&[0]), None);
        assert_eq!(Request::read(&[4, 0]), None);
        let errno = Errno::EACCES;
        for result in [
            Ok(()),
            Err(SpawnError::Killed),
            Err(SpawnError::Shortage(errno)),
            Err(SpawnError::Failed(Stage::Step(0), errno)),
            Err(SpawnError::Failed(Stage::Step(31), errno)),
            Err(SpawnError::Failed(Stage::Descriptors, errno)),
            Err(SpawnError::Failed(Stage::Exec, errno)),
        ] {
            let answer = Answer { pid: 77, result };
            let read = Answer::read(&answer.bytes()).unwrap();
            assert_eq!(format!("{read:?}"), format!("{answer:?}"));
        }
        assert!(Answer::read(b"short").is_none());
    }

    #[test]
    fn reports_are_read_as_they_were_written() {
        let words = vec!["/bin/cat".to_owned(), "it can't".to_owned()];
        let failed = || Report::Failed(Error::NotFound("no such program".into()));
        for report in [Report::NeedsMaps, Report::Ready(words), failed()] {
            assert_eq!(
                format!("{:?}", Report::read(&report.bytes())),
                format!("{report:?}")
            );
        }
        assert!(matches!(Report::read(b""), Report::Failed(_)));
    }
}
