//! Whether skd-tls would take the settings of a start: one is started only to try them.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout};
use skd_tls_protocol::{Certificate, Command, Report, VERSION};

use crate::config::{Config, Service};
use crate::error::Error;
use crate::setup::executable::Executable;
use crate::setup::{TlsFiles, TlsProgram, tls_program};
use crate::sys::process::{self, Fork, Target, Wait};
use crate::sys::reexec::{self, ExecArguments};
use crate::sys::{descriptors, events, packets};

/// How long it may take to answer, and how much longer for each file.
const LIMIT: Duration = Duration::from_secs(10);
const LIMIT_PER_FILE: Duration = Duration::from_millis(20);

/// A pause where the kernel takes no more descriptors for now.
const PAUSE: Duration = Duration::from_millis(10);

/// How long it may take to end after it has closed its channel.
const ENDING: Duration = Duration::from_secs(1);

/// The length of the longest report.
const LONGEST: usize = 64 * 1024;

/// How much it may say on standard error.
const MOST_SAID: usize = 1000;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// What would prevent a start.
    pub(super) faults: Vec<Error>,
    /// What is to be known besides.
    pub(super) notes: Vec<String>,
}

impl Found {
    fn keep<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        result.map_err(|fault| self.faults.push(fault)).ok()
    }
}

/// Finds skd-tls as a start does, and has it look at these files, if they could be opened.
pub(super) fn check(config: &Config, files: Option<&TlsFiles>) -> Found {
    let Config {
        daemon, services, ..
    } = config;
    let mut found = Found::default();
    if services.iter().all(|service| service.tls.is_none()) {
        return found;
    }
    let own = Executable::find();
    let program = TlsProgram::find(daemon, own.as_ref().map(Executable::path));
    let program = found.keep(program);
    let user = found.keep(tls_program::user(daemon));
    found.notes.extend(tls_program::note(config));
    if let (Some(files), Some(program), Some(user)) = (files, program, user) {
        let tried = Preflight::start(&program).and_then(|it| it.run(files, user));
        let failed = |why| Error::Start(format!("skd-tls can't be tried: {why}"));
        if let Some(tried) = found.keep(tried.map_err(failed)) {
            note(tried, files, services, &mut found);
        }
    }
    found
}

/// Notes what skd-tls has said.
fn note(tried: Tried, files: &TlsFiles, services: &[Service], found: &mut Found) {
    let Tried {
        certificates,
        lacks,
        faults,
    } = tried;
    let lacks = lacks.into_iter();
    let lacks = lacks.map(|lack| format!("skd-tls isn't confined in full: {lack}"));
    found.notes.extend(lacks);
    for certificate in certificates {
        let Certificate {
            service,
            file,
            warning,
            ..
        } = certificate;
        let service = services.iter().find(|it| it.name == service);
        let label = service.map(Service::label).unwrap_or_default();
        let note = warning.map(|warning| format!("{label}{file}: {warning}"));
        found.notes.extend(note);
    }
    let faults = faults.iter().map(|fault| files.labelled(fault));
    found.faults.extend(faults.map(Error::Start));
}

/// What a skd-tls has said.
#[derive(Debug, Default)]
struct Tried {
    certificates: Vec<Certificate>,
    lacks: Vec<String>,
    /// Why the settings don't hold, if they don't.
    faults: Vec<String>,
}

/// A skd-tls that only tries settings. It ends with this value.
struct Preflight {
    pid: Pid,
    control: OwnedFd,
    /// Its standard error.
    said: File,
}

impl Preflight {
    /// Starts it. The error is a clause.
    fn start(program: &TlsProgram) -> Result<Self, String> {
        let failed = |errno: Errno| errno.desc().to_owned();
        let file = program.open().map_err(|error| error.to_string())?;
        let path = program.path().as_os_str().as_bytes();
        let words = [path, b"--check"].map(CString::new);
        let words: Result<Vec<_>, _> = words.into_iter().collect();
        let words = ExecArguments::new(words.map_err(|error| error.to_string())?, Vec::new());
        let (control, theirs) = packets::pair().map_err(failed)?;
        descriptors::set_blocking(&control, false).map_err(failed)?;
        let said = descriptors::memory_file().map_err(failed)?;
        match process::fork().map_err(failed)? {
            Fork::Child => {
                let _ = become_program(&file, &words, &theirs, &said);
                process::exit_now(127)
            }
            Fork::Parent(pid) => Ok(Self { pid, control, said }),
        }
    }

    /// Sends the settings, and waits for what it says to them. The error is a clause.
    fn run(self, files: &TlsFiles, user: Option<(u32, u32)>) -> Result<Tried, String> {
        let extra = u32::try_from(files.files.len()).unwrap_or(u32::MAX);
        let limit = LIMIT + LIMIT_PER_FILE.saturating_mul(extra);
        let deadline = Instant::now() + limit;
        // If it has ended, it may have said why.
        let sent = self.send_all(files, user, deadline);
        let mut tried = Tried::default();
        let mut buffer = vec![0; LONGEST];
        loop {
            match packets::receive(&self.control, &mut buffer) {
                Ok((0, _)) => break,
                Ok((length, _)) => {
                    let report = serde_json::from_slice(buffer.get(..length).unwrap_or_default());
                    let report = report.map_err(|_| {
                        "it says what this skd doesn't understand; both have to be of one version"
                    })?;
                    match report {
                        Report::Started { lacks } => tried.lacks = lacks,
                        Report::Certificate(certificate) => tried.certificates.push(certificate),
                        Report::Loaded => return Ok(tried),
                        Report::Refused { why } => {
                            tried.faults = why.lines().map(str::to_owned).collect();
                            return Ok(tried);
                        }
                        Report::Truncated { .. } | Report::Figures(_) => {}
                    }
                }
                Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        let seconds = limit.as_secs();
                        return Err(format!("it hasn't answered in {seconds} s"));
                    }
                    events::wait_readable([self.control.as_fd()], Some(left));
                }
                Err(_) => break,
            }
        }
        let said = self.said();
        Err(match (said.is_empty(), sent) {
            (false, _) => said,
            (true, Ok(()) | Err(Errno::EPIPE | Errno::ECONNRESET)) => {
                "it has ended without an answer".into()
            }
            (true, Err(errno)) => errno.desc().to_owned(),
        })
    }

    fn send_all(
        &self,
        files: &TlsFiles,
        user: Option<(u32, u32)>,
        deadline: Instant,
    ) -> Result<(), Errno> {
        // No request will be sent.
        let (_requests, theirs) = packets::pair()?;
        let tickets = descriptors::memory_file()?;
        let mut settings = descriptors::memory_file()?;
        let text = serde_json::to_vec(&files.settings).map_err(|_| Errno::EIO)?;
        settings.write_all(&text).map_err(errno_of)?;
        let start = Command::Start {
            version: VERSION,
            user,
            threads: 1,
        };
        self.send(
            &start,
            [Some(theirs.as_fd()), Some(tickets.as_fd())],
            deadline,
        )?;
        for file in &files.files {
            self.send(&Command::File, [Some(file.as_fd()), None], deadline)?;
        }
        self.send(&Command::Load, [Some(settings.as_fd()), None], deadline)
    }

    fn send(
        &self,
        command: &Command,
        beside: [Option<BorrowedFd<'_>>; 2],
        deadline: Instant,
    ) -> Result<(), Errno> {
        let bytes = serde_json::to_vec(command).map_err(|_| Errno::EIO)?;
        loop {
            match packets::send(&self.control, [&bytes, b""], beside) {
                Err(Errno::EAGAIN) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    events::wait_writable(self.control.as_fd(), left.min(PAUSE));
                }
                Err(Errno::ENOBUFS | Errno::ENOMEM | Errno::ETOOMANYREFS) => thread::sleep(PAUSE),
                sent => return sent,
            }
            if Instant::now() >= deadline {
                return Err(Errno::ETIMEDOUT);
            }
        }
    }

    /// What it has said on standard error, in one line.
    fn said(&self) -> String {
        // It has closed the channel, and may have a line to write yet.
        let deadline = Instant::now() + ENDING;
        while Instant::now() < deadline
            && matches!(
                process::wait(Target::Process(self.pid), Wait::PEEK),
                Ok(None)
            )
        {
            thread::sleep(PAUSE);
        }
        let mut bytes = vec![0; MOST_SAID];
        let length = self.said.read_at(&mut bytes, 0).unwrap_or_default();
        bytes.truncate(length);
        let text = String::from_utf8_lossy(&bytes);
        let lines = text
            .lines()
            .map(|line| line.trim_start_matches("skd-tls: "));
        lines.collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Preflight {
    fn drop(&mut self) {
        // It isn't reaped yet, so its id is no other's.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = process::wait(Target::Process(self.pid), Wait::UNTIL_END);
    }
}

fn errno_of(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Becomes the program, in a process that was forked for that. Returns why not, after saying so.
fn become_program(
    file: &OwnedFd,
    words: &ExecArguments,
    control: &OwnedFd,
    said: &File,
) -> Result<(), Errno> {
    let prepare = || {
        dup2_stdin(control)?;
        dup2_stdout(control)?;
        dup2_stderr(said)?;
        chdir(Path::new("/"))?;
        let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
        let kept = [input.as_fd(), output.as_fd(), error.as_fd(), file.as_fd()];
        descriptors::keep_only(&kept);
        Ok::<_, Errno>(())
    };
    let errno = match prepare() {
        Ok(()) => reexec::exec_file(file, words),
        Err(errno) => errno,
    };
    let why = format!("it can't be executed: {}", errno.desc());
    let _ = io::stderr().write_all(why.as_bytes());
    Err(errno)
}
