//! A running server.

use std::cell::{Cell, OnceCell};
use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid, waitpid};
use nix::unistd::Pid;

use super::{Certificates, Endpoint, Peer, Transport, environment};
use crate::handlers::Handler;
use crate::load;
use crate::proc::{self, ProcessTable};

/// The folder of this run, with unused file names and ports.
#[derive(Debug)]
pub(crate) struct Workspace {
    folder: PathBuf,
    serial: Cell<u32>,
    port: Cell<u16>,
    certificates: OnceCell<Certificates>,
}

impl Workspace {
    pub(crate) fn new(folder: &Path) -> Self {
        // Below the ports that the kernel chooses for clients, and seldom those of another run.
        let first = 10_000 + u16::try_from(std::process::id() % 16_000).unwrap_or(0);
        Self {
            folder: folder.to_owned(),
            serial: Cell::new(0),
            port: Cell::new(first),
            certificates: OnceCell::new(),
        }
    }

    /// The certificates of this run, made when they are first needed.
    pub(crate) fn certificates(&self) -> Result<&Certificates> {
        if let Some(made) = self.certificates.get() {
            return Ok(made);
        }
        let made = Certificates::prepare(&self.folder).context("cannot make certificates")?;
        Ok(self.certificates.get_or_init(|| made))
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn stem(&self) -> PathBuf {
        self.serial.set(self.serial.get() + 1);
        self.folder.join(format!("s{}", self.serial.get()))
    }

    /// Returns a port that is free for TCP and UDP, another one each time.
    fn free_port(&self) -> Result<u16> {
        for _ in 0..16_000 {
            let port = self.port.get();
            self.port
                .set(if port >= 31_999 { 10_000 } else { port + 1 });
            let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
            if TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok() {
                return Ok(port);
            }
        }
        bail!("no free port between 10000 and 31999")
    }

    fn endpoint(&self, transport: Transport, stem: &Path) -> Result<Endpoint> {
        let address = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
        Ok(match transport {
            Transport::Tcp => Endpoint::Tcp(address(self.free_port()?)),
            Transport::Udp => Endpoint::Udp(address(self.free_port()?)),
            Transport::Unix => Endpoint::Unix(stem.with_extension("sock")),
        })
    }
}

/// A server that ends, with all its processes, when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    pid: i32,
    prestarts: bool,
    helpers: bool,
    pub endpoint: Endpoint,
    /// Time from the start of the program to the end of the first answer.
    pub first_answer: Duration,
}

const START_TIMEOUT: Duration = Duration::from_secs(5);

/// The same for thousands of services, on a busy machine.
const MANY_START_TIMEOUT: Duration = Duration::from_secs(60);

/// Makes one connection, to check that a server works.
pub(crate) type Probe<'a> = &'a dyn Fn(&Endpoint) -> io::Result<()>;

/// How long a probe waits.
pub(crate) const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

impl Server {
    pub(crate) fn start(
        workspace: &Workspace,
        peer: &Peer,
        transport: Transport,
        handler: &Handler,
    ) -> Result<Self> {
        let probe = |endpoint: &Endpoint| load::probe(endpoint, handler.reply, PROBE_TIMEOUT);
        Self::start_for(workspace, peer, transport, handler, &probe)
    }

    /// The same for clients of another kind.
    pub(crate) fn start_for(
        workspace: &Workspace,
        peer: &Peer,
        transport: Transport,
        handler: &Handler,
        probe: Probe<'_>,
    ) -> Result<Self> {
        let Some(recipe) = peer.recipes.get(&transport) else {
            bail!("{} has no command for {transport}", peer.name);
        };
        let stem = workspace.stem();
        let endpoint = workspace.endpoint(transport, &stem)?;
        let command = recipe.prepare(&peer.program, &endpoint, handler, &stem)?;
        let errors = stem.with_extension("stderr");
        let mut process = Command::new(&command.words[0]);
        process.args(&command.words[1..]);
        let (mut server, began) = Self::spawn(process, &errors, endpoint, peer.prestarts)?;
        server.helpers = peer.helpers;
        let outcome = server
            .settle(command.pidfile.as_deref(), began)
            .and_then(|()| server.await_answer(probe, began, START_TIMEOUT));
        outcome.map_err(|error| match last_line(&errors, &workspace.folder) {
            Some(line) => error.context(format!("it reports: {line}")),
            None => error,
        })?;
        Ok(server)
    }

    /// Starts one skd of so many services, each at an address of its own, by a program that takes a file
    /// with their command lines. Returns it, with the endpoint of its last service, and all endpoints.
    pub(crate) fn of_services(
        workspace: &Workspace,
        program: &Path,
        handler: &Handler,
        services: usize,
    ) -> Result<(Self, Vec<Endpoint>)> {
        let stem = workspace.stem();
        let port = workspace.free_port()?;
        let addresses = (0..services).map(|number| {
            let byte = |number: usize| u8::try_from(number % 250).unwrap_or(0);
            let (low, middle) = (byte(number) + 1, byte(number / 250));
            SocketAddrV4::new(Ipv4Addr::new(127, 1, middle, low), port)
        });
        let addresses: Vec<_> = addresses.collect();
        let lines = addresses.iter().enumerate();
        let lines = lines.map(|(number, address)| {
            format!("s{number} -t {address} {}\n", handler.words.join(" "))
        });
        let file = stem.with_extension("services");
        fs::write(&file, lines.collect::<String>())?;
        let mut process = Command::new(program);
        process.arg(&file);
        let endpoints: Vec<_> = addresses.into_iter().map(Endpoint::Tcp).collect();
        let last = endpoints.last().cloned().context("no service")?;
        let errors = stem.with_extension("stderr");
        let (mut server, began) = Self::spawn(process, &errors, last, false)?;
        let probe = |endpoint: &Endpoint| load::probe(endpoint, handler.reply, PROBE_TIMEOUT);
        server.await_answer(&probe, began, MANY_START_TIMEOUT)?;
        Ok((server, endpoints))
    }

    fn spawn(
        mut process: Command,
        errors: &Path,
        endpoint: Endpoint,
        prestarts: bool,
    ) -> Result<(Self, Instant)> {
        let began = Instant::now();
        let child = process
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(errors)?)
            // A separate group, so that an interrupt at the terminal does not reach it.
            .process_group(0)
            .env_clear()
            .envs(environment())
            .spawn()
            .with_context(|| {
                format!(
                    "cannot start {}",
                    Path::new(process.get_program()).display()
                )
            })?;
        let server = Self {
            pid: child.id().cast_signed(),
            child,
            prestarts,
            helpers: false,
            endpoint,
            first_answer: Duration::ZERO,
        };
        Ok((server, began))
    }

    /// Finds the process id of a daemon that runs in the background.
    fn settle(&mut self, pidfile: Option<&Path>, began: Instant) -> Result<()> {
        let Some(pidfile) = pidfile else {
            return Ok(());
        };
        while began.elapsed() < START_TIMEOUT {
            let written = fs::read_to_string(pidfile).ok();
            if let Some(pid) = written.and_then(|text| text.trim().parse().ok()) {
                self.pid = pid;
                return Ok(());
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        bail!("it writes no pid file")
    }

    fn await_answer(&mut self, probe: Probe<'_>, began: Instant, timeout: Duration) -> Result<()> {
        loop {
            let Err(error) = probe(&self.endpoint) else {
                self.first_answer = began.elapsed();
                return Ok(());
            };
            let is_child = i32::try_from(self.child.id()) == Ok(self.pid);
            if let Some(status) = is_child
                .then(|| self.child.try_wait())
                .transpose()?
                .flatten()
            {
                bail!("it ended with {status}");
            }
            if began.elapsed() > timeout {
                return Err(error).context("no valid answer");
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    pub(crate) const fn pid(&self) -> i32 {
        self.pid
    }

    /// Ends it by TERM. Returns how long that takes.
    pub(crate) fn end(mut self) -> Result<Duration> {
        let began = Instant::now();
        kill(Pid::from_raw(self.pid), Signal::SIGTERM)?;
        while self.is_present() {
            if began.elapsed() > MANY_START_TIMEOUT {
                bail!("it doesn't end");
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(began.elapsed())
    }

    pub(crate) fn cpu_times(&self) -> Result<proc::CpuTimes> {
        Ok(proc::cpu_times(self.pid)?)
    }

    pub(crate) fn is_running(&self) -> bool {
        proc::cpu_times(self.pid).is_ok_and(|_| !self.is_zombie())
    }

    fn is_zombie(&self) -> bool {
        // A zombie has no executable.
        proc::executable(self.pid).is_err()
    }

    /// Returns the size of its executable in bytes.
    pub(crate) fn program_size(&self) -> Result<u64> {
        Ok(fs::metadata(proc::executable(self.pid)?)?.len())
    }

    /// Returns the anonymous memory in KiB of the server and its descendants with the same
    /// executable, such as relays.
    pub(crate) fn anonymous_kib(&self) -> Result<u64> {
        let program = proc::executable(self.pid)?;
        let own = proc::anonymous_kib(self.pid)?;
        let copies = ProcessTable::read()?.descendants(self.pid);
        let copies = copies
            .into_iter()
            .filter(|pid| proc::executable(*pid).is_ok_and(|executable| executable == program));
        Ok(own
            + copies
                .filter_map(|pid| proc::anonymous_kib(pid).ok())
                .sum::<u64>())
    }

    /// Returns the ids of the server and its descendants.
    pub(crate) fn processes(&self) -> Result<Vec<i32>> {
        let mut found = ProcessTable::read()?.descendants(self.pid);
        found.push(self.pid);
        Ok(found)
    }

    /// The CPU time of all its processes, those that have ended and those that outlived their parents among them.
    /// Nothing else that this process has started may run.
    pub(crate) fn cpu_of_all(&self) -> Result<Duration> {
        self.reap_orphans();
        let own = std::process::id().cast_signed();
        let mut sum = proc::cpu_times(own)?.children;
        for pid in ProcessTable::read()?.descendants(own) {
            // A process may end between the listing and this; its parent then has its time.
            let times = proc::cpu_times(pid).unwrap_or_default();
            sum += times.own + times.children;
        }
        Ok(sum)
    }

    /// Waits for processes that outlived their parents, and whose parent is this process now.
    pub(crate) fn reap_orphans(&self) {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        while let Ok(status) = waitid(Id::All, flags) {
            let Some(pid) = status.pid() else {
                return;
            };
            // The server's own end is for others to see.
            if pid.as_raw() == self.pid || pid.as_raw() == self.child.id().cast_signed() {
                return;
            }
            let _ = waitpid(pid, Some(WaitPidFlag::WNOHANG));
        }
    }

    /// Waits until all other processes than these have ended.
    pub(crate) fn await_only(&self, known: &[i32], timeout: Duration) -> bool {
        let began = Instant::now();
        loop {
            self.reap_orphans();
            let others = ProcessTable::read().map_or(0, |table| {
                let all = table.descendants(std::process::id().cast_signed());
                all.iter().filter(|pid| !known.contains(pid)).count()
            });
            if others == 0 {
                return true;
            }
            if began.elapsed() > timeout {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until all handlers have ended and been waited for, so that their CPU time counts.
    /// Prestarted handlers may stay.
    pub(crate) fn await_idle(&self, timeout: Duration) -> bool {
        if self.prestarts {
            return self.await_prestarted(Duration::from_millis(50), timeout) > 0;
        }
        let began = Instant::now();
        loop {
            match ProcessTable::read() {
                Ok(table) if self.are_helpers(&table.descendants(self.pid)) => return true,
                _ if began.elapsed() > timeout => return false,
                _ => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Whether all of these processes serve every connection.
    fn are_helpers(&self, processes: &[i32]) -> bool {
        let program = proc::executable(self.pid);
        let is_own = |pid: &i32| {
            let executable = proc::executable(*pid);
            executable.is_ok_and(|executable| program.as_ref().is_ok_and(|own| *own == executable))
        };
        processes.is_empty() || (self.helpers && processes.iter().all(is_own))
    }

    /// Waits until all prestarted processes are ready: none is traced, and none has started or
    /// ended for `quiet`. Returns their number, or 0 after the timeout.
    pub(crate) fn await_prestarted(&self, quiet: Duration, timeout: Duration) -> usize {
        let began = Instant::now();
        let (mut known, mut since) = (Vec::new(), began);
        loop {
            let mut ready =
                ProcessTable::read().map_or_else(|_| Vec::new(), |t| t.descendants(self.pid));
            ready.sort_unstable();
            if ready != known || ready.iter().any(|pid| proc::is_traced(*pid)) {
                (known, since) = (ready, Instant::now());
            } else if since.elapsed() >= quiet {
                return known.len();
            }
            if began.elapsed() > timeout {
                return 0;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stop(&mut self) {
        let pid = Pid::from_raw(self.pid);
        // The process may have ended already.
        let _ = kill(pid, Signal::SIGTERM);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(1) {
            if !self.is_present() {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        if self.is_present() {
            let _ = kill(pid, Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        end_orphans();
        if let Endpoint::Unix(path) = &self.endpoint {
            let _ = fs::remove_file(path);
        }
    }

    /// Whether the process exists. Waits for it if it has just ended.
    fn is_present(&mut self) -> bool {
        if self.pid == self.child.id().cast_signed() {
            return matches!(self.child.try_wait(), Ok(None));
        }
        // A background daemon is a child of this process, which is a subreaper.
        matches!(
            waitpid(Pid::from_raw(self.pid), Some(WaitPidFlag::WNOHANG)),
            Ok(nix::sys::wait::WaitStatus::StillAlive)
        )
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Ends handlers that outlived their server. This process is a subreaper, so all of them are its
/// children. No other server runs at the same time.
fn end_orphans() {
    let own = std::process::id().cast_signed();
    // The end of a process may bring further children.
    for _ in 0..100 {
        let Ok(table) = ProcessTable::read() else {
            return;
        };
        let children = table.children(own);
        if children.is_empty() {
            return;
        }
        for child in &children {
            let _ = kill(Pid::from_raw(*child), Signal::SIGKILL);
        }
        for child in children {
            while waitpid(Pid::from_raw(child), None) == Err(Errno::EINTR) {}
        }
    }
}

/// Returns the last message of a server, without the names of temporary files.
fn last_line(errors: &Path, folder: &Path) -> Option<String> {
    let text = String::from_utf8_lossy(&fs::read(errors).ok()?).into_owned();
    let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
    let line: String = line.chars().take(200).collect();
    Some(line.replace(&format!("{}/", folder.display()), ""))
}
