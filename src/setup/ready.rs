//! The two processes of a start: the service, and the launcher, which learns how the start ended.
//!
//! In the background, the launcher is the process that the caller started. It returns when the
//! service serves. In the foreground, the launcher is a child during the start, if privileges will
//! be dropped. If the start fails, it still has the rights to remove what was created.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::{Pid, dup2_stderr, dup2_stdout, setsid, write};

use super::Manager;
use super::confine::{Process, confine};
use crate::error::Error;
use crate::report::{self, Event, Trouble};
use crate::sys::pipe::pipe;
use crate::sys::process::{self, Fork, Target, Wait};
use crate::sys::signals;
use crate::sys::{descriptors, events};

/// Which of the two processes this is.
#[derive(Debug)]
pub enum Side {
    /// The service.
    Service(Ready),
    /// The launcher, after the start has ended, with its exit status.
    Launcher(u8),
}

/// The connection of the service to the launcher. If it is dropped before another report, the start
/// has failed.
#[derive(Debug)]
pub struct Ready {
    pipe: Option<File>,
    /// The launcher, if it is a child of this process.
    child: Option<Pid>,
    /// The original standard error, for errors of the start. The log may replace standard error
    /// before.
    caller: OwnedFd,
    descriptor: Option<ReadyFd>,
}

/// A byte from the service: it serves.
const SERVING: u8 = 0;

/// A byte from the service: it is about to exec a program. The end of the pipe tells that it has.
/// All other bytes are the exit status of a failure.
const EXECUTING: u8 = 255;

impl Ready {
    fn new(pipe: Option<File>, child: Option<Pid>) -> Result<Self, Error> {
        let caller = io::stderr().as_fd().try_clone_to_owned();
        Ok(Self {
            pipe,
            child,
            caller: caller
                .map_err(|reason| Error::start("can't duplicate standard error", reason))?,
            descriptor: None,
        })
    }

    /// Returns the service of a start without a launcher.
    pub fn alone() -> Result<Side, Error> {
        Ok(Side::Service(Self::new(None, None)?))
    }

    /// Goes into the background. The child, in its own session, is the service, and becomes the
    /// main process for the service manager.
    pub fn in_background(manager: Option<&mut Manager>) -> Result<Side, Error> {
        let (reader, writer) = pipes()?;
        let (told, tells) = pipes()?;
        let ready = Self::new(Some(writer), None)?;
        match fork()? {
            Fork::Parent(child) => {
                drop(ready);
                if let Some(manager) = manager {
                    manager.name_main_process(child);
                }
                drop(tells);
                // Signals may end the launcher while it waits.
                signals::allow_ending();
                confine(Process::Launcher);
                match receive(reader) {
                    Ok(bytes) if bytes.is_empty() => Err(Error::Start(
                        "the daemon was killed before it could serve".into(),
                    )),
                    Ok(bytes) => Ok(Side::Launcher(status(&bytes))),
                    // The daemon will fail too, since its launcher is gone.
                    Err(_) => Ok(Side::Launcher(1)),
                }
            }
            Fork::Child => {
                drop(tells);
                if manager.is_some() {
                    // The manager may ignore this process until it is the main one.
                    let _ = receive(told);
                }
                match setsid() {
                    Ok(_) => Ok(Side::Service(ready)),
                    Err(errno) => {
                        let error = Error::start("can't create a session", errno);
                        ready.failed(&error);
                        Err(Error::Told(error.status()))
                    }
                }
            }
        }
    }

    /// Stays in the foreground. The child is the launcher.
    pub fn with_launcher() -> Result<Side, Error> {
        let (reader, writer) = pipes()?;
        match fork()? {
            Fork::Parent(child) => Ok(Side::Service(Self::new(Some(writer), Some(child))?)),
            Fork::Child => {
                drop(writer);
                confine(Process::Launcher);
                // If the bytes can't be read, the start counts as failed.
                let bytes = receive(reader).unwrap_or_default();
                Ok(Side::Launcher(status(&bytes)))
            }
        }
    }

    /// Sets the descriptor to notify when the service serves.
    pub fn tell_descriptor(&mut self, descriptor: Option<ReadyFd>) {
        self.descriptor = descriptor;
    }

    /// Reports that the service serves. This fails if the launcher in the background has ended,
    /// since its caller takes the start for failed.
    pub fn serving(&mut self) -> Result<(), Error> {
        self.send(SERVING)?;
        if let Some(descriptor) = self.descriptor.take() {
            descriptor.tell();
        }
        Ok(())
    }

    /// Reports that this process is about to exec a program. A launcher that is a child is reaped
    /// first, since the program wouldn't expect it.
    pub fn becoming(&mut self) -> Result<(), Error> {
        self.send(if self.child.is_some() {
            SERVING
        } else {
            EXECUTING
        })?;
        self.reap();
        Ok(())
    }

    /// Reports that the start failed, and why. If the launcher is a child, waits until it has
    /// cleaned up.
    pub fn failed(mut self, error: &Error) {
        let _ = dup2_stderr(&self.caller);
        report::failure(error);
        // A launcher that has ended needs no report.
        let _ = self.send(error.status());
    }

    fn send(&mut self, byte: u8) -> Result<(), Error> {
        match &mut self.pipe {
            Some(writer) => writer.write_all(&[byte]).map_err(|reason| {
                Error::start("the process that started skd has not waited for it", reason)
            }),
            None => Ok(()),
        }
    }

    fn reap(&mut self) {
        if let Some(child) = self.child.take() {
            self.pipe = None;
            let _ = process::wait(Target::Process(child), Wait::UNTIL_END);
        }
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        self.reap();
    }
}

/// The descriptor of `--ready-fd`. A newline and its end report that the service serves. Its end
/// alone reports that the start has failed.
#[derive(Debug)]
pub struct ReadyFd {
    number: i32,
    /// The descriptor. For standard output, also /dev/null, which will replace it.
    kept: Vec<OwnedFd>,
}

impl ReadyFd {
    /// Takes over the descriptor, so that no program that skd runs inherits it.
    pub fn claim(number: i32) -> Result<Self, Error> {
        let refused = |why: &str| Error::Start(format!("--ready-fd {number}: {why}"));
        let claimed = descriptors::claim(number).map_err(|errno| match errno {
            Errno::EBADF => refused("no such descriptor is open"),
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

    /// Returns the descriptors that must stay open until then.
    pub fn kept(&self) -> &[OwnedFd] {
        &self.kept
    }

    /// Writes the newline without blocking.
    fn tell(self) {
        let mut kept = self.kept.iter();
        let written = kept.next().map(|fd| {
            // Tried again after a lack of memory: otherwise the reader would wait in vain.
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

fn pipes() -> Result<(File, File), Error> {
    pipe().map_err(|errno| Error::start("can't create a pipe for the start", errno))
}

fn fork() -> Result<Fork, Error> {
    process::fork().map_err(|errno| Error::start("can't fork for the start", errno))
}

/// Waits for all bytes of the service. Close-on-exec ends the pipe when the service execs.
fn receive(mut reader: File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut tries = 3;
    loop {
        tries -= 1;
        match reader.read_to_end(&mut bytes) {
            // Reading a pipe fails only for lack of memory. To give up at once would report a
            // failed start, although the daemon may serve.
            Err(_) if bytes.is_empty() && tries > 0 => {}
            Err(reason) if bytes.is_empty() => return Err(reason),
            // The bytes received so far count.
            _ => return Ok(bytes),
        }
    }
}

/// Returns the exit status of the launcher for these bytes.
fn status(bytes: &[u8]) -> u8 {
    match bytes {
        [SERVING, ..] | [EXECUTING] => 0,
        [EXECUTING, status, ..] | [status, ..] => *status,
        // The service was killed. In the foreground, its own parent sees that.
        [] => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_byte_of_the_service_decides() {
        assert_eq!(status(&[SERVING]), 0);
        assert_eq!(status(&[EXECUTING]), 0);
        assert_eq!(status(&[EXECUTING, 126]), 126);
        assert_eq!(status(&[127]), 127);
        assert_eq!(status(&[]), 1);
    }
}
