//! A started skd: its addresses, its output, its processes.

use super::capture::{Capture, Line, Source};
use super::namespace::Spaces;
use super::options::Endpoint;
use super::prepare::{pidfd_open, pidfd_send_signal};
use super::skd::MARK;
use super::sockets::{Kind, sockets_of};
use super::{DEADLINE, Directory, Program, client, poll_for, process, slowness};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// The queries for a started skd, in the foreground or not.
#[derive(Debug)]
pub struct Instance {
    /// The process that the test started itself.
    pub(super) first: Handle,
    /// skd itself: the same process except under a wrapper or as a daemon.
    pub(super) main: Handle,
    pub(super) binary: PathBuf,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) program: Program,
    pub(super) mark: Option<OsString>,
    pub(super) command: Vec<OsString>,
    pub(super) capture: Capture,
    pub(super) namespace: Option<Spaces>,
    pub(super) copy: Option<Directory>,
}

impl Instance {
    /// The process id of skd itself.
    pub fn pid(&self) -> i32 {
        self.main.pid
    }

    /// The process id of what the test started itself: skd, its wrapper, or its launcher.
    pub fn first_pid(&self) -> i32 {
        self.first.pid
    }

    pub fn program(&self) -> Program {
        self.program
    }

    /// The address of the first TCP or UDP listener for clients.
    #[track_caller]
    pub fn address(&self) -> SocketAddr {
        let addresses = self.addresses();
        *addresses
            .first()
            .expect("a TCP or UDP listener among the options")
    }

    /// The addresses of all of them, in the order of the options. A bare port is on 127.0.0.1 here.
    #[track_caller]
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let internet = |endpoint: &&Endpoint| endpoint.path.is_none();
        let found = self.endpoints.iter().enumerate();
        found
            .filter(|(_, endpoint)| internet(endpoint))
            .map(|(index, endpoint)| {
                let host = endpoint.host.expect("a host that resolves");
                let port = self.port_of(index).expect("a port in figures");
                SocketAddr::new(host, port)
            })
            .collect()
    }

    /// The port of the first TCP or UDP listener.
    #[track_caller]
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// The path of the first unix listener, as it was given.
    #[track_caller]
    pub fn path(&self) -> &str {
        let mut paths = self
            .endpoints
            .iter()
            .filter_map(|endpoint| endpoint.path.as_deref());
        paths.next().expect("a unix listener among the options")
    }

    /// A connection to the first TCP listener, with time limits.
    #[track_caller]
    pub fn connect(&self) -> TcpStream {
        let mut internet = self.endpoints.iter().filter(|it| it.path.is_none());
        let index = internet.position(|it| it.kind == Kind::Tcp);
        let index = index.expect("a TCP listener among the options");
        self.connect_to(self.addresses()[index])
    }

    /// A connection to this address, in the network namespace of skd.
    #[track_caller]
    pub fn connect_to(&self, address: SocketAddr) -> TcpStream {
        match &self.namespace {
            Some(spaces) => spaces.enter_network(|| client::connect(address)),
            None => client::connect(address),
        }
    }

    /// A connection to the first unix stream listener, with time limits.
    #[track_caller]
    pub fn connect_unix(&self) -> UnixStream {
        client::connect_unix(self.path())
    }

    /// The captured stdout and stderr.
    pub fn capture(&self) -> &Capture {
        &self.capture
    }

    /// The first line on stdout, waited for.
    #[track_caller]
    pub fn stdout_line(&self) -> String {
        self.wait_for_line("a line on stdout", |line| line.source == Source::Stdout)
            .text
    }

    /// The lines on stdout so far.
    pub fn stdout_lines(&self) -> Vec<String> {
        self.capture.lines_of(Source::Stdout)
    }

    /// The lines on stderr so far: skd's log, and what handlers write to theirs.
    pub fn log_lines(&self) -> Vec<String> {
        self.capture.lines_of(Source::Stderr)
    }

    /// The lines on stderr so far that contain `text`.
    pub fn logged(&self, text: &str) -> Vec<String> {
        let mut lines = self.log_lines();
        lines.retain(|line| line.contains(text));
        lines
    }

    /// The lines on stderr so far that report trouble: those of skd itself, but for where a program is parked. Where a
    /// machine is so slow that a prestarted process needs more than half a second for an answer, skd replaces it and
    /// says so: no fault there.
    pub fn troubles(&self) -> Vec<String> {
        let mut lines = self.logged("skd: ");
        lines.retain(|line| !line.contains("' is parked at "));
        if slowness() > 1 {
            lines.retain(|line| !line.contains(" ended without a client; the next is started in "));
        }
        lines
    }

    /// Waits for a line on stderr that contains `text`, which may have come already, and returns the first.
    #[track_caller]
    pub fn wait_for_log(&self, text: &str) -> String {
        let mut lines = self.wait_for_logs(text, 1);
        lines.swap_remove(0)
    }

    /// Waits for `count` lines on stderr that contain `text` and returns all that there are.
    #[track_caller]
    pub fn wait_for_logs(&self, text: &str, count: usize) -> Vec<String> {
        let find = || Some(self.logged(text)).filter(|lines| lines.len() >= count);
        poll_for(DEADLINE, find)
            .unwrap_or_else(|| panic!("waited for {count} of {text:?} on stderr"))
    }

    /// Waits for a line on stdout or stderr that `wanted` accepts, and returns the first; `what` is for the
    /// failure.
    #[track_caller]
    pub fn wait_for_line(&self, what: &str, wanted: impl Fn(&Line) -> bool) -> Line {
        self.capture
            .find(wanted)
            .unwrap_or_else(|| panic!("waited for {what}"))
    }

    /// Waits until `condition` holds, and panics with what was captured if it never does.
    #[track_caller]
    pub fn wait_until(&self, what: &str, mut condition: impl FnMut() -> bool) {
        let found = poll_for(DEADLINE, || condition().then_some(()));
        assert!(found.is_some(), "waited in vain: {what}");
    }

    /// The processes of the run whose parent is skd: handlers (and with 1.2 the relay), zombies too.
    pub fn children(&self) -> Vec<i32> {
        process::children(self.pid())
    }

    /// Waits until skd has `count` children, zombies not counted, and returns them.
    #[track_caller]
    pub fn wait_for_children(&self, count: usize) -> Vec<i32> {
        let mut found = Vec::new();
        self.wait_until(&format!("{count} children"), || {
            found = self.children();
            found.retain(|&pid| process::exists(pid));
            found.len() == count
        });
        found
    }

    /// All living processes that this run has started, the first and skd among them, whatever their parent
    /// is now: also handlers and relays that are init's children by now.
    pub fn processes(&self) -> Vec<i32> {
        let mut found = Vec::new();
        for root in [&self.first, &self.main]
            .into_iter()
            .filter(|it| it.is_running())
        {
            found.push(root.pid);
            found.extend(process::descendants(root.pid));
        }
        if let Some(mark) = &self.mark {
            found.extend(
                process::all()
                    .into_iter()
                    .filter(|&pid| process::mark_of(pid, MARK, mark)),
            );
        }
        found.sort_unstable();
        found.dedup();
        found.retain(|&pid| process::exists(pid));
        found
    }

    /// Sends a signal to skd alone.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        if let Err(error) = self.main.signal(signal) {
            panic!("sending {signal} to {}: {error}", self.pid());
        }
    }

    /// Sends HUP, and returns what is said of the reload.
    #[track_caller]
    pub fn hang_up(&self) -> String {
        let told = || {
            let lines = self.log_lines().into_iter();
            lines.filter(|line| line.starts_with("Reloaded: ") || line.contains("no reload: "))
        };
        let before = told().count();
        self.signal(Signal::SIGHUP);
        let found = poll_for(3 * DEADLINE, || told().nth(before));
        found.unwrap_or_else(|| panic!("nothing was said of a reload: {:#?}", self.log_lines()))
    }

    fn port_of(&self, index: usize) -> Option<u16> {
        let endpoint = &self.endpoints[index];
        if !endpoint.is_free_port() {
            return endpoint.port;
        }
        let before = self.endpoints[..index]
            .iter()
            .filter(|it| it.is_free_port())
            .count();
        let printed = || self.stdout_lines().into_iter().nth(before);
        let Some(text) = poll_for(DEADLINE, printed) else {
            panic!("no port was printed for listener {}", index + 1);
        };
        match text.parse() {
            Ok(port) => Some(port),
            Err(_) => panic!("{text:?} isn't a port"),
        }
    }

    /// Whether all listeners are open. A port that skd has printed counts as open: a client that can't
    /// connect to it has found a fault.
    pub(super) fn listens(&self) -> bool {
        let printed = self.endpoints.iter().filter(|it| it.is_free_port()).count();
        if self.stdout_lines().len() < printed {
            return false;
        }
        let mut rest = self
            .endpoints
            .iter()
            .filter(|it| !it.is_free_port())
            .peekable();
        if rest.peek().is_none() {
            return true;
        }
        let dual =
            self.program.is_ours() && Path::new(&format!("/proc/{}/net/tcp6", self.pid())).exists();
        let kinds: Vec<_> = rest.clone().map(|endpoint| endpoint.kind).collect();
        let open = sockets_of(self.pid(), &kinds);
        rest.all(|endpoint| endpoint.is_open(&open, endpoint.port, dual))
    }

    pub(super) fn find_main(&self) -> Option<i32> {
        let candidates = process::descendants(self.first.pid);
        [self.first.pid]
            .into_iter()
            .chain(candidates)
            .find(|&pid| self.runs_binary(pid))
    }

    fn runs_binary(&self, pid: i32) -> bool {
        // The link leads to the file itself, in whatever namespace or root directory it lies.
        let file = std::fs::metadata(format!("/proc/{pid}/exe"));
        let binary = std::fs::metadata(&self.binary);
        let same = |(file, binary): (std::fs::Metadata, std::fs::Metadata)| {
            (file.dev(), file.ino()) == (binary.dev(), binary.ino())
        };
        file.ok().zip(binary.ok()).is_some_and(same)
    }

    pub(super) fn has_started(&self, pid: i32) -> bool {
        match &self.mark {
            Some(mark) => process::mark_of(pid, MARK, mark),
            None => self.runs_binary(pid),
        }
    }

    /// Kills what is left of the run.
    pub(super) fn kill_all(&self) {
        let mut empty = 0;
        poll_for(DEADLINE, || {
            let handles: Vec<_> = self.processes().into_iter().map(Handle::new).collect();
            // A process id may have been reused before the pidfd was opened, but not since. So these are ours. What
            // was seen to be none needn't be looked at again.
            let ours = match handles[..] {
                [] => Vec::new(),
                _ => self.processes(),
            };
            // The janitor of control groups ends when it has removed them.
            let is_janitor = |pid: i32| {
                let name = std::fs::read_to_string(format!("/proc/{pid}/comm"));
                name.is_ok_and(|name| name.trim() == "cgroup-janitor")
            };
            let ends = |handle: &&Handle| ours.contains(&handle.pid) && !is_janitor(handle.pid);
            for handle in handles.iter().filter(ends) {
                let _ = handle.signal(Signal::SIGKILL);
            }
            // Twice without a process: a process in the middle of an exec can't be seen for a moment.
            empty = if ours.is_empty() { empty + 1 } else { 0 };
            (empty == 2).then_some(())
        });
    }
}

/// A process by its pidfd, so that a reused process id can't be mistaken for it (pidfd_open(2)).
#[derive(Debug)]
pub(super) struct Handle {
    pid: i32,
    pidfd: Option<OwnedFd>,
}

impl Handle {
    pub(super) fn new(pid: i32) -> Self {
        Self {
            pid,
            pidfd: pidfd_open(pid),
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.pidfd.as_ref().is_some_and(|pidfd| {
            // Readable once the process has ended, reaped or not.
            let mut wanted = [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)];
            poll(&mut wanted, PollTimeout::ZERO) == Ok(0)
        })
    }

    pub(super) fn signal(&self, signal: Signal) -> io::Result<()> {
        match &self.pidfd {
            Some(pidfd) => pidfd_send_signal(pidfd, signal),
            None => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        }
    }
}

/// The command line and the output. They are printed when a failing test drops a run, so that the
/// messages of failures needn't repeat it.
impl std::fmt::Display for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}, pid {}", self.program, self.pid())?;
        for word in &self.command {
            write!(f, " {}", word.to_string_lossy())?;
        }
        write!(f, "\n{}", self.capture)
    }
}
