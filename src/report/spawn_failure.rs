//! Why a program could not be run, as data and in words.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::config::RESOURCES;
use crate::sys::child::{Resource, Stage, Step};
use crate::sys::mounts::FileSystem;

/// Why there is no process with a program.
#[derive(Clone, Copy, Debug)]
pub enum SpawnTrouble<'a> {
    /// There was no process, memory or descriptor for it.
    Shortage {
        /// The program as it was given.
        program: &'a OsStr,
        /// The reason.
        errno: Errno,
    },
    /// One child after the other was killed before its exec.
    Killed {
        /// The program as it was given.
        program: &'a OsStr,
    },
    /// No process is left that makes handlers in the sandbox.
    NoJailer {
        /// The program as it was given.
        program: &'a OsStr,
    },
    /// The child could not become its program.
    Failed(SpawnFailure<'a>),
}

/// Why a child could not become its program.
#[derive(Clone, Copy, Debug)]
pub struct SpawnFailure<'a> {
    /// The program as it was given.
    pub program: &'a OsStr,
    /// Its path, relative to the directory below.
    pub path: &'a OsStr,
    /// The directory that the child changes to, if it does.
    pub directory: Option<&'a OsStr>,
    /// The root directory of the child, if it has another.
    pub root: Option<&'a Path>,
    /// What failed.
    pub stage: Stage,
    /// The step that failed, if one did.
    pub step: Option<&'a Step>,
    /// What that step is in words, if another process has it.
    pub words: Option<&'a str>,
    /// The reason.
    pub errno: Errno,
    /// Finds the interpreter that a program needs and that doesn't exist. It reads the program,
    /// so it is called only for a line that is written.
    pub missing_interpreter: MissingInterpreter,
}

/// Finds the missing interpreter of a program, with the root directory where it is looked for.
pub type MissingInterpreter = fn(Option<&Path>, &Path) -> Option<PathBuf>;

impl fmt::Display for SpawnTrouble<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shortage { program, errno } => {
                let why = match errno {
                    Errno::EAGAIN => "as many run as may (RLIMIT_NPROC, pids.max)",
                    errno => errno.desc(),
                };
                let program = Path::new(program).display();
                write!(f, "no process for '{program}': {why}; trying again")
            }
            Self::Killed { program } => {
                let program = Path::new(program).display();
                write!(
                    f,
                    "no process for '{program}': each was killed before its exec, by another \
                     process of its user"
                )
            }
            Self::NoJailer { program } => {
                let program = Path::new(program).display();
                write!(
                    f,
                    "no process for '{program}': the processes of skd in its sandbox (skd-jailer) \
                     were killed; reload skd"
                )
            }
            Self::Failed(failure) => failure.fmt(f),
        }
    }
}

impl fmt::Display for SpawnFailure<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' can't be run: ", Path::new(self.program).display())?;
        match (self.stage, self.step) {
            (Stage::Descriptors, _) => f.write_str("its descriptors can't be set")?,
            (Stage::Step(_), Some(step)) => describe(step, f)?,
            (Stage::Step(_), None) if self.words.is_some() => {
                f.write_str(self.words.unwrap_or_default())?;
            }
            (Stage::Step(_), None) => f.write_str("its preparation failed")?,
            (Stage::Trace, _) => f.write_str("it can't be traced")?,
            (Stage::Exec, _) => {
                // The kernel reports a missing interpreter as a missing file.
                let path = || Path::new(self.directory.unwrap_or_default()).join(self.path);
                let missing = (self.errno == Errno::ENOENT)
                    .then(|| (self.missing_interpreter)(self.root, &path()))
                    .flatten();
                if let Some(interpreter) = missing {
                    let interpreter = interpreter.display();
                    return write!(f, "its interpreter {interpreter} doesn't exist");
                }
                return f.write_str(self.errno.desc());
            }
        }
        write!(f, ": {}", self.errno.desc())
    }
}

/// What fails if a step does.
#[derive(Clone, Copy, Debug)]
pub struct StepInWords<'a>(pub &'a Step);

impl fmt::Display for StepInWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(self.0, f)
    }
}

fn describe(step: &Step, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match step {
        Step::LeadSession => f.write_str("it can't have a session of its own"),
        Step::LeadGroup => f.write_str("it can't have a process group of its own"),
        Step::TakeTerminal => f.write_str("it can't have the terminal"),
        Step::Descriptor(..) => f.write_str("it can't be handed a socket"),
        Step::Mount(FileSystem { at, .. })
        | Step::Bind(_, at)
        | Step::MakeDirectory(at)
        | Step::MakeFile(at) => {
            let path = OsStr::from_bytes(at.to_bytes());
            write!(f, "it can't have its own {}", Path::new(path).display())
        }
        Step::Umask(mask) => write!(f, "--umask {mask:o} can't be set"),
        Step::Nice(value) => write!(f, "--nice {value} can't be set"),
        Step::Limit(resource, limit) => {
            let what = limit_name(*resource);
            write!(f, "the limit {what}={}", Amount(limit.rlim_cur))?;
            write!(f, ":{} can't be set", Amount(limit.rlim_max))
        }
        Step::ChangeDirectory(path) => {
            let path = OsStr::from_bytes(path.to_bytes());
            write!(f, "--chdir {} can't be entered", Path::new(path).display())
        }
        Step::EnterDirectory(_) => f.write_str("its directory can't be entered"),
        Step::Groups(_) => write!(f, "its groups can't be set ({NEEDS})"),
        Step::Group(id) => write!(f, "it can't become group {id} ({NEEDS})"),
        Step::FileUser(id) | Step::User(id) => write!(f, "it can't become user {id} ({NEEDS})"),
        Step::EnterRoot(_) => f.write_str("--chroot can't be entered"),
        Step::ChangeRoot => {
            f.write_str("--chroot can't be its root directory (this needs root, or CAP_SYS_CHROOT)")
        }
        Step::ForbidDumping => f.write_str("its memory can't be protected"),
        Step::DropCapabilities => f.write_str("its capabilities can't be given up"),
        Step::NoNewPrivileges => f.write_str("--no-new-privs can't be set"),
        Step::Restrict(_) => f.write_str("its rights can't be restricted by Landlock"),
        Step::EndWithParent => f.write_str("its end can't be tied to skd's"),
        Step::AwaitTracer(_) => f.write_str("it can't be traced"),
        Step::Filter(..) => f.write_str("its system calls can't be filtered (--seccomp)"),
        Step::SignalMask(_) => f.write_str("its signal mask can't be set"),
    }
}

/// What `--user` needs.
const NEEDS: &str = "--user needs root, or CAP_SETUID, CAP_SETGID and CAP_KILL";

struct Amount(u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            libc::RLIM_INFINITY => f.write_str("unlimited"),
            number => write!(f, "{number}"),
        }
    }
}

fn limit_name(resource: Resource) -> &'static str {
    RESOURCES
        .iter()
        .find(|(_, number)| *number == resource)
        .map_or("?", |(name, _)| name)
}
