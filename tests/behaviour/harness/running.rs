//! The two ways in which skd runs, and its output at the end.

use super::capture::Source;
use super::instance::Instance;
use super::{Directory, poll_for};
use nix::sys::signal::Signal;
use std::io::Write;
use std::ops::Deref;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A skd in the foreground. Dropping it kills all that it has started.
#[derive(Debug)]
pub struct Running {
    pub(super) instance: Instance,
    pub(super) child: Mutex<Child>,
    pub(super) stdin: Mutex<Option<ChildStdin>>,
    pub(super) deadline: Duration,
}

impl Running {
    /// Waits until all listeners are open, after [`Skd::start`]; panics if skd ends before that.
    #[track_caller]
    pub fn wait_ready(&self) {
        let ready = poll_for(self.deadline, || {
            // In this order: a skd that has printed its port and then ended has been ready.
            let ended = self.try_wait(Duration::ZERO);
            if self.listens() {
                Some(Ok(()))
            } else {
                ended.map(Err)
            }
        });
        match ready {
            Some(Ok(())) => {}
            Some(Err(status)) => panic!("ended instead of listening: {status}"),
            None => panic!("not listening after {:?}", self.deadline),
        }
    }

    /// Waits until skd ends; panics when it doesn't.
    #[track_caller]
    pub fn wait(&self) -> ExitStatus {
        self.try_wait(self.deadline)
            .unwrap_or_else(|| panic!("still running after {:?}", self.deadline))
    }

    /// Waits until skd ends or `timeout` is over.
    pub fn try_wait(&self, timeout: Duration) -> Option<ExitStatus> {
        poll_for(timeout, || {
            let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
            child.try_wait().expect("waiting for a child")
        })
    }

    /// TERM, and then the status with which skd ends. Handlers are left to finish, and killed on drop.
    #[track_caller]
    pub fn stop(&self) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait()
    }

    /// Waits for the end and gives status and all that was written.
    #[track_caller]
    pub fn wait_with_output(&self) -> Output {
        let status = self.wait();
        self.output(status)
    }

    /// Waits for a start that fails with this status and one line on stderr, which contains `texts`,
    /// and asserts that it leaves no process.
    #[track_caller]
    pub fn expect_refusal(&self, code: i32, texts: &[&str]) -> Output {
        let output = self.wait_with_output();
        output.expect_code(code).expect_stderr(texts);
        let lines: Vec<_> = output.stderr.lines().collect();
        let one = lines.len() == 1 && lines[0].starts_with("skd: ");
        assert!(one, "one line that begins \"skd: \": {output:#?}");
        self.wait_until("no process is left", || self.processes().is_empty());
        output
    }

    /// Writes to a stdin of [`Stream::Pipe`].
    #[track_caller]
    pub fn write_stdin(&self, bytes: &[u8]) {
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        let pipe = stdin
            .as_mut()
            .expect("a stdin that is Stream::Pipe and open");
        pipe.write_all(bytes).expect("writing to stdin");
    }

    /// Closes a stdin of [`Stream::Pipe`].
    pub fn close_stdin(&self) {
        drop(
            self.stdin
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
    }

    pub(super) fn output(&self, status: ExitStatus) -> Output {
        let text = |source| String::from_utf8_lossy(&self.capture.bytes_of(source)).into_owned();
        Output {
            status,
            stdout: text(Source::Stdout),
            stderr: text(Source::Stderr),
        }
    }
}

impl Deref for Running {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.instance
    }
}

impl std::fmt::Display for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.instance.fmt(f)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{self}");
        }
        self.instance.kill_all();
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // Dead by now; this only reaps the zombie.
        let _ = child.wait();
    }
}

/// A skd in the background. Dropping it kills all that it has started.
///
/// Its captured lines are those of the launcher, and of the daemon as far as it keeps that stderr.
#[derive(Debug)]
pub struct Daemon {
    pub(super) launcher: Running,
    pub(super) pidfile: PathBuf,
    pub(super) directory: Directory,
}

impl Daemon {
    /// The pid file, as the test sees it.
    pub fn pidfile(&self) -> &Path {
        &self.pidfile
    }

    /// Whether the daemon lives.
    pub fn is_running(&self) -> bool {
        self.main.is_running()
    }

    /// Waits until the daemon has ended. Its status goes to init.
    #[track_caller]
    pub fn wait_gone(&self) {
        self.wait_until("the daemon ends", || !self.is_running());
    }

    /// TERM, and waits until the daemon has ended.
    #[track_caller]
    pub fn stop(&self) {
        self.signal(Signal::SIGTERM);
        self.wait_gone();
    }
}

impl Deref for Daemon {
    type Target = Instance;

    fn deref(&self) -> &Instance {
        &self.launcher.instance
    }
}

/// The results of a run that has ended.
#[derive(Clone, Debug)]
pub struct Output {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    /// The exit status; `None` if a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn killed_by(&self) -> Option<Signal> {
        Signal::try_from(self.status.signal()?).ok()
    }

    /// Asserts the exit status, with all that was written if it is another; chains.
    #[track_caller]
    pub fn expect_code(&self, code: i32) -> &Self {
        assert_eq!(self.code(), Some(code), "{self:#?}");
        self
    }

    /// Asserts that it was refused with this status and one line on stderr, which begins `skd: ` and contains each of
    /// `texts`, and wrote nothing to stdout; chains.
    #[track_caller]
    pub fn expect_refusal(&self, code: i32, texts: &[&str]) -> &Self {
        self.expect_code(code).expect_stderr(texts);
        assert_eq!(self.stderr.lines().count(), 1, "not one line: {self:#?}");
        assert!(self.stderr.starts_with("skd: "), "{self:#?}");
        assert!(self.stderr.ends_with('\n'), "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        self
    }

    /// Asserts that stderr contains each of `texts`; chains.
    #[track_caller]
    pub fn expect_stderr(&self, texts: &[&str]) -> &Self {
        for text in texts {
            assert!(
                self.stderr.contains(text),
                "no {text:?} in stderr: {self:#?}"
            );
        }
        self
    }
}
