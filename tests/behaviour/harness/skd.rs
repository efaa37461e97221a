//! Starting skd.

use super::capture::{Capture, Source};
use super::instance::{Handle, Instance};
use super::namespace::{Namespace, Spaces};
use super::options::Options;
use super::prepare::{Preparation, Refusal, User, prepare};
use super::running::{Daemon, Output, Running};
use super::{DEADLINE, Directory, Program, Terminal, poll_for, process};
use nix::errno::Errno;
use nix::sys::resource::Resource;
use nix::sys::signal::{SigSet, Signal};
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The variable that every process of a run has in its environment, with a value of that run's own. By it
/// the run finds, at its end, the processes to kill. Tests that compare whole environments leave it out, or
/// call [`Skd::unmarked`].
pub const MARK: &str = "TEST_RUN_MARK";

/// A standard descriptor of skd.
#[derive(Debug)]
pub enum Stream {
    /// /dev/null. The usual stdin.
    Null,
    /// A pipe to the test. The usual stdout and stderr, which are read line by line; for stdin see
    /// [`Running::write_stdin`].
    Pipe,
    /// Closed.
    Closed,
    /// This descriptor: a file, a socket, a terminal, a pipe that the test reads itself or doesn't read.
    Descriptor(OwnedFd),
}

impl<D: Into<OwnedFd>> From<D> for Stream {
    fn from(descriptor: D) -> Self {
        Self::Descriptor(descriptor.into())
    }
}

/// Waits until a throttled line may be repeated by a skd with [`Skd::throttle`] of zero. Only release builds, which
/// keep their own intervals, make it wait.
pub fn wait_out_throttle() {
    if !cfg!(debug_assertions) {
        std::thread::sleep(Duration::from_millis(1_050));
    }
}

/// A command line of skd and the circumstances of its start. All methods but the last one in a chain return
/// the builder.
///
/// Unless said otherwise, skd is started by the test's own user in the test's own directory and environment
/// (plus [`MARK`]), in a process group of its own, with /dev/null as stdin and captured stdout and stderr,
/// with no other descriptors, no signal ignored and none blocked, whatever the tests were started with.
#[must_use = "nothing is started before run, start, daemon or end"]
#[derive(Debug)]
pub struct Skd {
    program: Program,
    binary: Option<PathBuf>,
    options: Vec<OsString>,
    wrapper: Vec<OsString>,
    environment: Vec<Change>,
    marked: bool,
    directory: Option<PathBuf>,
    streams: [Stream; 3],
    namespace: Option<Spaces>,
    preparation: Preparation,
    deadline: Duration,
}

#[derive(Debug)]
enum Change {
    Clear,
    Set(OsString, OsString),
    Remove(OsString),
}

/// Runs our skd with `words` as its whole command line until it ends: for errors, `--help` and the like.
#[track_caller]
pub fn run_to_end<A: AsRef<OsStr>>(words: impl IntoIterator<Item = A>) -> Output {
    Skd::new(words).end()
}

/// The command line.
impl Skd {
    /// Our skd with these options. PROG comes with `run` and its like.
    pub fn new<A: AsRef<OsStr>>(options: impl IntoIterator<Item = A>) -> Self {
        let mut skd = Self {
            program: Program::Ours,
            binary: None,
            options: Vec::new(),
            wrapper: Vec::new(),
            environment: Vec::new(),
            marked: true,
            directory: None,
            streams: [Stream::Null, Stream::Pipe, Stream::Pipe],
            namespace: None,
            preparation: Preparation::default(),
            deadline: DEADLINE,
        };
        skd.options.extend(words(options));
        skd
    }

    /// Another program than ours; [`Program::skd`] is the shorter way.
    pub fn program(mut self, program: Program) -> Self {
        self.program = program;
        self
    }

    /// Another file than that of the program: a copy in a chroot, one with file capabilities.
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    /// One more option (or value): for mixing paths and text.
    pub fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.options.push(word.as_ref().to_owned());
        self
    }

    /// More options.
    pub fn args<A: AsRef<OsStr>>(mut self, more: impl IntoIterator<Item = A>) -> Self {
        self.options.extend(words(more));
        self
    }

    /// A command to put before skd, such as `strace -f -o FILE` or `setpriv --bounding-set -all`. What else is
    /// set here (user, limits, descriptors, …) applies to that command. [`Instance::pid`] is still skd's.
    pub fn wrapper<A: AsRef<OsStr>>(mut self, command: impl IntoIterator<Item = A>) -> Self {
        self.wrapper = words(command).collect();
        self
    }
}

/// The circumstances.
impl Skd {
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let (name, value) = (name.as_ref().to_owned(), value.as_ref().to_owned());
        self.environment.push(Change::Set(name, value));
        self
    }

    /// Sets how often a line that is throttled may be repeated. Release builds keep their own intervals.
    pub fn throttle(self, interval: Duration) -> Self {
        self.env("SKD_TEST_THROTTLE", interval.as_millis().to_string())
    }

    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.environment
            .push(Change::Remove(name.as_ref().to_owned()));
        self
    }

    /// Empties the environment but for [`MARK`]; PATH too, so that `env("PATH", …)` is often wanted next.
    pub fn env_clear(mut self) -> Self {
        self.environment.push(Change::Clear);
        self
    }

    /// Leaves [`MARK`] out. Then only remaining descendants of skd are killed at the end; the test must end handlers
    /// that outlive it.
    pub fn unmarked(mut self) -> Self {
        self.marked = false;
        self
    }

    /// The working directory; relative paths of unix sockets count from it.
    pub fn cwd(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    pub fn umask(mut self, mask: u32) -> Self {
        self.preparation.umask = Some(mask);
        self
    }

    /// Starts as another user; needs root. skd is copied to a public directory; directories of the
    /// test that it is to use have to be [`Directory::public`].
    pub fn user(mut self, uid: u32, gid: u32, groups: impl Into<Vec<u32>>) -> Self {
        let groups = groups.into();
        self.preparation.user = Some(User { uid, gid, groups });
        self
    }

    /// A resource limit, soft and hard.
    pub fn limit(mut self, resource: Resource, soft: u64, hard: u64) -> Self {
        self.preparation.limits.push((resource, soft, hard));
        self
    }

    pub fn stdin(mut self, stream: impl Into<Stream>) -> Self {
        self.streams[0] = stream.into();
        self
    }

    /// Where stdout isn't captured, a port 0 becomes a free port that the harness finds, since the printed one
    /// can't be read.
    pub fn stdout(mut self, stream: impl Into<Stream>) -> Self {
        self.streams[1] = stream.into();
        self
    }

    pub fn stderr(mut self, stream: impl Into<Stream>) -> Self {
        self.streams[2] = stream.into();
        self
    }

    /// One more descriptor to inherit, under this number (from 3 on).
    pub fn descriptor(mut self, number: i32, descriptor: impl Into<OwnedFd>) -> Self {
        self.preparation.passed.push((descriptor.into(), number));
        self
    }

    /// Starts with this signal ignored, as nohup does with HUP.
    pub fn ignoring(self, signal: Signal) -> Self {
        self.ignoring_number(signal as i32)
    }

    /// The same for a signal without a name, such as those that the C library keeps for itself.
    pub fn ignoring_number(mut self, number: i32) -> Self {
        self.preparation.ignored.push(number);
        self
    }

    /// Starts with this signal blocked.
    pub fn blocking(mut self, signal: Signal) -> Self {
        self.preparation
            .blocked
            .get_or_insert_with(SigSet::empty)
            .add(signal);
        self
    }

    /// Makes a system call (`libc::SYS_…`) fail for skd and all that it starts, as on an older kernel or under a
    /// container's filter. The exec of skd itself can't be among them.
    pub fn refusing(mut self, call: libc::c_long, errno: Errno) -> Self {
        self.preparation.refused.push(Refusal {
            call,
            bits: None,
            errno,
        });
        self
    }

    /// The same only if the argument of this index, from 0, has one of `bits` set: a flag that is unknown.
    pub fn refusing_bits(
        mut self,
        call: libc::c_long,
        argument: u32,
        bits: u32,
        errno: Errno,
    ) -> Self {
        self.preparation.refused.push(Refusal {
            call,
            bits: Some((argument, bits)),
            errno,
        });
        self
    }

    /// Starts as the leader of a session of its own, without a terminal.
    pub fn new_session(mut self) -> Self {
        self.preparation.new_session = true;
        self
    }

    /// Starts as the leader of a session with this controlling terminal. The standard descriptors are set
    /// separately: `.stdin(terminal.end())`.
    pub fn controlled_by(self, terminal: &Terminal) -> Self {
        let mut this = self.without_terminal();
        this.preparation.controlling_terminal = Some(terminal.end());
        this
    }

    /// Starts as the leader of a session without a controlling terminal.
    pub fn without_terminal(mut self) -> Self {
        self.preparation.new_session = true;
        self
    }

    /// Starts in these namespaces. [`Instance::connect`] connects there as well.
    pub fn inside(mut self, namespace: &Namespace) -> Self {
        self.namespace = Some(namespace.spaces());
        self
    }

    /// Another timeout than [`DEADLINE`] for start and end.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }
}

/// The start.
impl Skd {
    /// Runs with PROG, without arguments, and returns when all listeners are open (at once where there are none).
    /// Panics with all that was said if skd ends before that.
    #[track_caller]
    pub fn run(self, prog: impl AsRef<OsStr>) -> Running {
        self.run_with(prog, [""; 0])
    }

    /// The same with arguments.
    #[track_caller]
    pub fn run_with<A: AsRef<OsStr>>(
        self,
        prog: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
    ) -> Running {
        let running = self.start_with(prog, args);
        running.wait_ready();
        running
    }

    /// Starts without waiting for anything.
    #[track_caller]
    pub fn start(self, prog: impl AsRef<OsStr>) -> Running {
        self.start_with(prog, [""; 0])
    }

    /// The same with arguments. For the original, `--` is put before PROG; to test it without, give
    /// the whole command line as options to [`Self::end`].
    #[track_caller]
    pub fn start_with<A: AsRef<OsStr>>(
        self,
        prog: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
    ) -> Running {
        let mut tail: Vec<_> = words([prog]).chain(words(args)).collect();
        if !self.program.is_ours() {
            // It would take options of PROG for its own.
            tail.insert(0, "--".into());
        }
        self.launch(tail)
    }

    /// Runs in the background: adds `-B`, and `-P FILE` in a directory of its own, where the options lack
    /// them, waits for the launcher to end with 0, and finds the daemon by its pid file.
    #[track_caller]
    pub fn daemon(self, prog: impl AsRef<OsStr>) -> Daemon {
        self.daemon_with(prog, [""; 0])
    }

    /// The same with arguments.
    #[track_caller]
    pub fn daemon_with<A: AsRef<OsStr>>(
        mut self,
        prog: impl AsRef<OsStr>,
        args: impl IntoIterator<Item = A>,
    ) -> Daemon {
        let directory = Directory::public();
        let options = Options::read(&self.options);
        let pidfile = match options.pidfile {
            Some(path) => self.absolute(&path),
            None => {
                let path = directory.join("skd.pid");
                self.options
                    .splice(0..0, ["-P".into(), path.clone().into()]);
                path
            }
        };
        if !options.background {
            self.options.insert(0, "-B".into());
        }
        let pidfile_here = match &self.namespace {
            Some(spaces) => spaces.path(&pidfile),
            None => pidfile,
        };
        // On failure this is dropped, which prints the output and kills the processes.
        let mut launcher = self.start_with(prog, args);
        let status = launcher.wait();
        assert!(status.success(), "-B: {status}");
        let read = || {
            std::fs::read_to_string(&pidfile_here)
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        let Some(pid) = poll_for(launcher.deadline, read) else {
            panic!("no process id in {}", pidfile_here.display());
        };
        launcher.instance.main = Handle::new(pid);
        // The process in that file will be killed, so it had better be the daemon. A process in the middle of
        // an exec has no environment to recognise it by.
        let ours = || launcher.instance.has_started(pid) || !process::exists(pid);
        assert!(
            poll_for(launcher.deadline, || ours().then_some(())).is_some(),
            "the process {pid} in the pid file isn't of this run"
        );
        Daemon {
            launcher,
            pidfile: pidfile_here,
            directory,
        }
    }

    /// Starts with the options as the whole command line (PROG among them, if any), and waits for nothing.
    #[track_caller]
    pub fn start_bare(self) -> Running {
        self.launch(Vec::new())
    }

    /// Runs with the options as the whole command line (PROG among them, if any) until it ends.
    #[track_caller]
    pub fn end(self) -> Output {
        let deadline = self.deadline;
        match self.end_within(deadline) {
            Ok(output) => output,
            Err(_) => panic!("still running after {deadline:?}"),
        }
    }

    /// Runs with the options as the whole command line; returns it still running if it takes longer than `timeout`.
    #[track_caller]
    pub fn end_within(self, timeout: Duration) -> Result<Output, Box<Running>> {
        let running = self.launch(Vec::new());
        match running.try_wait(timeout) {
            Some(status) => Ok(running.output(status)),
            None => Err(running.into()),
        }
    }

    #[track_caller]
    fn launch(mut self, tail: Vec<OsString>) -> Running {
        static RUNS: AtomicU32 = AtomicU32::new(0);
        let run = RUNS.fetch_add(1, Ordering::Relaxed);
        let mark = OsString::from(format!("{}.{run}", std::process::id()));

        let mut options = Options::read(&self.options);
        let printed = self.program.is_ours() && matches!(self.streams[1], Stream::Pipe);
        if !printed {
            options.reserve_ports(&mut self.options);
        }

        let mut binary = self.binary.take().unwrap_or_else(|| self.program.path());
        let mut copy = None;
        if self.preparation.user.is_some() {
            // Build directories are often closed to other users.
            let directory = Directory::public();
            binary = copied(&binary, &directory);
            copy = Some(directory);
        }

        let mut line = std::mem::take(&mut self.wrapper);
        let wrapped = !line.is_empty();
        line.push(binary.clone().into());
        line.append(&mut self.options);
        line.extend(tail);

        let mut command = Command::new(&line[0]);
        command.args(&line[1..]);
        for change in self.environment.drain(..) {
            match change {
                Change::Clear => command.env_clear(),
                Change::Set(name, value) => command.env(name, value),
                Change::Remove(name) => command.env_remove(name),
            };
        }
        if self.marked {
            command.env(MARK, &mark);
        }
        match &self.namespace {
            // Joining a mount namespace changes directory to its root.
            Some(spaces) => {
                let directory = self.absolute(Path::new(""));
                let bytes = directory.as_os_str().as_bytes();
                self.preparation.directory = Some(CString::new(bytes).expect("no NUL"));
                self.preparation.namespaces = Some(spaces.descriptors());
            }
            None => {
                if let Some(directory) = &self.directory {
                    command.current_dir(directory);
                }
            }
        }
        let capture = Capture::new();
        for (number, stream) in (0..).zip(std::mem::replace(
            &mut self.streams,
            [Stream::Null, Stream::Null, Stream::Null],
        )) {
            let stdio = match (stream, number) {
                (Stream::Null, _) => Stdio::null(),
                (Stream::Pipe, 0) => Stdio::piped(),
                (Stream::Pipe, _) => {
                    let (reader, writer) = io::pipe().expect("a pipe");
                    let sources = [Source::Stdout, Source::Stderr];
                    capture.read(sources[number as usize - 1], reader);
                    writer.into()
                }
                (Stream::Closed, _) => {
                    self.preparation.closed.push(number);
                    Stdio::null()
                }
                (Stream::Descriptor(descriptor), _) => descriptor.into(),
            };
            match number {
                0 => command.stdin(stdio),
                1 => command.stdout(stdio),
                _ => command.stderr(stdio),
            };
        }
        prepare(&mut command, self.preparation);
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => panic!("starting {line:?}: {error}"),
        };
        let stdin = child.stdin.take();
        let pid = i32::try_from(child.id()).expect("a process id");
        let mut instance = Instance {
            first: Handle::new(pid),
            main: Handle::new(pid),
            binary,
            endpoints: options.endpoints,
            program: self.program,
            mark: self.marked.then_some(mark),
            command: line,
            capture,
            namespace: self.namespace,
            copy,
        };
        let child = Mutex::new(child);
        if wrapped {
            // The only process among these whose executable is the binary. If it ends before it is
            // found, the wrapper's process id is used.
            let found = poll_for(self.deadline, || {
                instance.find_main().or_else(|| {
                    let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
                    child.try_wait().expect("waiting").map(|_| pid)
                })
            });
            instance.main = Handle::new(found.unwrap_or(pid));
        }
        Running {
            instance,
            child,
            stdin: Mutex::new(stdin),
            deadline: self.deadline,
        }
    }

    fn absolute(&self, path: &Path) -> PathBuf {
        let here = std::env::current_dir().expect("a working directory");
        here.join(self.directory.as_deref().unwrap_or_else(|| Path::new("")))
            .join(path)
    }
}

fn words<A: AsRef<OsStr>>(words: impl IntoIterator<Item = A>) -> impl Iterator<Item = OsString> {
    words.into_iter().map(|word| word.as_ref().to_owned())
}

/// A copy that another user can run. Made by install(1), because a file that some fork of this process has
/// still open for writing can't be exec'd.
fn copied(binary: &Path, directory: &Directory) -> PathBuf {
    let copy = directory.join("skd");
    let mut install = Command::new("install");
    let status = install
        .args(["-m", "755", "--"])
        .args([binary, &copy])
        .status();
    assert!(
        status.expect("install(1)").success(),
        "copying {}",
        binary.display()
    );
    copy
}
