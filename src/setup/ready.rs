//! Two processes at start-up: the one that will serve, and a witness who learns how the
//! start ended.
//!
//! In the background the witness is the caller's own process, which returns when the
//! daemon serves. In the foreground it is a child that exists for as long as the start
//! lasts, if privileges will be given up: should the start then fail, it still has the
//! rights to remove what was made.

use std::io::{self, PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{Pid, dup2_stderr, dup2_stdout, setsid, write};

use super::Manager;
use crate::error::Error;
use crate::report::{self, Event, Trouble};
use crate::sys::process::{self, Fork, Target, Wait};
use crate::sys::signals;
use crate::sys::{descriptors, events};

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Side {
    /// The one that goes on to serve.
    Service(Ready),
    /// The witness, after the start has ended: 0, or the status that it failed with.
    Launcher(u8),
}

/// The service's word to whoever started it. Dropped without a word, it says that the
/// start failed.
#[derive(Debug)]
pub struct Ready {
    word: Option<PipeWriter>,
    /// The witness, where it is this process's own child.
    child: Option<Pid>,
    /// Standard error as the caller knows it, until the start has ended: by then the log
    /// may have taken its place.
    caller: OwnedFd,
    descriptor: Option<ReadyFd>,
}

/// The service's words: serving, or about to become another program, after which the end
/// of the pipe says that it has. Anything else is the status of a failure.
const SERVING: u8 = 0;
const BECOMING: u8 = 255;

impl Ready {
    fn new(word: Option<PipeWriter>, child: Option<Pid>) -> Result<Self, Error> {
        let caller = io::stderr().as_fd().try_clone_to_owned();
        Ok(Self {
            word,
            child,
            caller: caller.map_err(|reason| Error::start("no descriptor for errors", reason))?,
            descriptor: None,
        })
    }

    /// For a start without a witness.
    pub fn alone() -> Result<Side, Error> {
        Ok(Side::Service(Self::new(None, None)?))
    }

    /// Goes into the background: the child, in a session of its own, is the service, and its
    /// main process to the service manager.
    pub fn in_background(manager: Option<&mut Manager>) -> Result<Side, Error> {
        let (reader, writer) = pipes()?;
        let (handed_over, hands_over) = pipes()?;
        let ready = Self::new(Some(writer), None)?;
        match fork()? {
            Fork::Parent(child) => {
                drop(ready);
                if let Some(manager) = manager {
                    manager.name_main_process(child);
                }
                drop(hands_over);
                // Whoever waits here can be interrupted.
                signals::allow_ending();
                match words(reader) {
                    Ok(words) if words.is_empty() => Err(Error::Start(
                        "the daemon was killed before it could serve".into(),
                    )),
                    Ok(words) => Ok(Side::Launcher(verdict(&words))),
                    // The daemon will say that nobody waits for it any more.
                    Err(_) => Ok(Side::Launcher(1)),
                }
            }
            Fork::Child => {
                drop(hands_over);
                if manager.is_some() {
                    // What this process says may be passed over until it is the main one.
                    let _ = words(handed_over);
                }
                match setsid() {
                    Ok(_) => Ok(Side::Service(ready)),
                    Err(errno) => {
                        let error = Error::start("no session of its own", errno);
                        ready.failed(&error);
                        Err(Error::Told(error.status()))
                    }
                }
            }
        }
    }

    /// Stays in the foreground: the child is the witness.
    pub fn with_launcher() -> Result<Side, Error> {
        let (reader, writer) = pipes()?;
        match fork()? {
            Fork::Parent(child) => Ok(Side::Service(Self::new(Some(writer), Some(child))?)),
            Fork::Child => {
                drop(writer);
                // Should the words be lost, so is the start.
                let words = words(reader).unwrap_or_default();
                Ok(Side::Launcher(verdict(&words)))
            }
        }
    }

    /// Has this descriptor told too, when the service serves.
    pub fn tell_descriptor(&mut self, descriptor: Option<ReadyFd>) {
        self.descriptor = descriptor;
    }

    /// Says that the service serves. If the caller of a start in the background has gone,
    /// it was told that the start had failed; so it has.
    pub fn serving(&mut self) -> Result<(), Error> {
        self.say(SERVING)?;
        if let Some(descriptor) = self.descriptor.take() {
            descriptor.tell();
        }
        Ok(())
    }

    /// Says that this process is about to become another program. Where the witness is its
    /// child, it is gone first, for that program wouldn't know it.
    pub fn becoming(&mut self) -> Result<(), Error> {
        self.say(if self.child.is_some() {
            SERVING
        } else {
            BECOMING
        })?;
        self.reap();
        Ok(())
    }

    /// Says that the start failed, and why, and waits until a witness of this process's own
    /// has cleaned up.
    pub fn failed(mut self, error: &Error) {
        let _ = dup2_stderr(&self.caller);
        report::failure(error);
        // Whoever has gone needn't hear it.
        let _ = self.say(error.status());
    }

    fn say(&mut self, word: u8) -> Result<(), Error> {
        match &mut self.word {
            Some(writer) => writer.write_all(&[word]).map_err(|reason| {
                Error::start("whoever started skd has not waited for it", reason)
            }),
            None => Ok(()),
        }
    }

    fn reap(&mut self) {
        if let Some(child) = self.child.take() {
            self.word = None;
            let _ = process::wait(Target::Process(child), Wait::UNTIL_END);
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.reap();
    }
}

/// The descriptor of `--ready-fd`. A newline on it, and its end, say that the service serves;
/// its end alone, that the start has failed.
#[derive(Debug)]
pub struct ReadyFd {
    number: i32,
    /// The descriptor itself; and for standard output /dev/null, which comes in its place.
    kept: Vec<OwnedFd>,
}

impl ReadyFd {
    /// Takes the descriptor over, out of sight of every program that skd runs.
    pub fn claim(number: i32) -> Result<Self, Error> {
        let refused = |why: &str| Error::Start(format!("--ready-fd {number}: {why}"));
        let claimed = descriptors::claim(number).map_err(|errno| match errno {
            Errno::EBADF => refused("whoever started skd has left no such descriptor open"),
            errno => refused(errno.desc()),
        })?;
        if !descriptors::takes_writing(&claimed) {
            return Err(refused("the descriptor isn't open for writing"));
        }
        let mut kept = vec![claimed];
        if number == 1 {
            let null = descriptors::null()
                .and_then(|null| Ok(descriptors::claim(null.as_raw_fd())?))
                .map_err(|reason| Error::start("can't open /dev/null", reason))?;
            kept.push(null);
        } else {
            descriptors::close_claimed(number);
        }
        Ok(Self { number, kept })
    }

    /// What must stay open until then.
    pub fn kept(&self) -> &[OwnedFd] {
        &self.kept
    }

    /// Writes the newline, without waiting for anybody to make room for it.
    fn tell(self) {
        let mut kept = self.kept.iter();
        let written = kept.next().map(|fd| {
            // Not given up for a moment's want of memory: somebody would wait in vain.
            match (0..3).any(|_| events::is_writable(fd.as_fd())) {
                true => write(fd, b"\n").map(drop),
                false => Err(Errno::EAGAIN),
            }
        });
        let closed = kept.next().map(dup2_stdout);
        if let Some(Err(errno)) = written.into_iter().chain(closed).find(Result::is_err) {
            let number = self.number;
            report::event(Event::Trouble(Trouble::ReadyFd { number, errno }));
        }
    }
}

fn pipes() -> Result<(PipeReader, PipeWriter), Error> {
    pipe().map_err(|reason| Error::start("no pipe for the start", reason))
}

fn fork() -> Result<Fork, Error> {
    process::fork().map_err(|errno| Error::start("no process for the start", errno))
}

/// Waits for the service's words, and that there are no more. Close-on-exec ends the pipe
/// when it becomes another program.
fn words(mut reader: PipeReader) -> io::Result<Vec<u8>> {
    let mut words = Vec::new();
    let mut tries = 3;
    loop {
        tries -= 1;
        match reader.read_to_end(&mut words) {
            // Pipes have no errors of their own; and whoever went away now would have said that a
            // daemon failed which has just said that it hasn't.
            Err(_) if words.is_empty() && tries > 0 => {}
            Err(reason) if words.is_empty() => return Err(reason),
            // What has been said has been said.
            _ => return Ok(words),
        }
    }
}

fn verdict(words: &[u8]) -> u8 {
    match words {
        [SERVING, ..] | [BECOMING] => 0,
        [BECOMING, status, ..] | [status, ..] => *status,
        // Killed before it could say anything. In the foreground, whoever waits for it sees that.
        [] => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_the_service_s_last_word() {
        assert_eq!(verdict(&[SERVING]), 0);
        assert_eq!(verdict(&[BECOMING]), 0);
        assert_eq!(verdict(&[BECOMING, 126]), 126);
        assert_eq!(verdict(&[127]), 127);
        assert_eq!(verdict(&[]), 1);
    }
}
