//! The errors that end the program, each kind with its exit status.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::signal::Signal;
use nix::unistd::{AccessFlags, Uid, faccessat};

/// Why skd doesn't start, or can't continue. The text is a sentence for an administrator: which
/// option, address or file, why, and what to do.
#[derive(Debug)]
pub enum Error {
    /// The command line is invalid. Nothing was bound, created or changed.
    Usage(String),
    /// A step of the start failed.
    Start(String),
    /// PROG exists but can't be executed.
    NotRunnable(String),
    /// PROG doesn't exist.
    NotFound(String),
    /// A signal ended the start.
    Ended(Signal),
    /// The reason has been reported already. This is the exit status.
    Told(u8),
}

impl Error {
    /// Returns the exit status: 2, 1, 126 and 127 as in a shell.
    pub fn status(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Start(_) => 1,
            Self::NotRunnable(_) => 126,
            Self::NotFound(_) => 127,
            Self::Ended(signal) => 128 + *signal as u8,
            Self::Told(status) => *status,
        }
    }

    /// Returns the error of a process that was asked to try: with the status that it would end with.
    pub fn with_status(status: u8, text: String) -> Self {
        match status {
            126 => Self::NotRunnable(text),
            127 => Self::NotFound(text),
            _ => Self::Start(text),
        }
    }

    /// Returns the error of a program with the root directory in which it was looked for, if that
    /// is another one (`--chroot`).
    pub fn inside(self, root: Option<&Path>) -> Self {
        let Some(root) = root else {
            return self;
        };
        let add = |text| {
            format!(
                "{text}; it has to be in the root directory {}",
                root.display()
            )
        };
        match self {
            Self::NotFound(text) => Self::NotFound(add(text)),
            Self::NotRunnable(text) => Self::NotRunnable(add(text)),
            other => other,
        }
    }

    /// Returns the error with the beginning of a sentence, which names what it is about.
    pub fn about(self, what: &str) -> Self {
        let add = |text| format!("{what}{text}");
        match self {
            Self::Usage(text) => Self::Usage(add(text)),
            Self::Start(text) => Self::Start(add(text)),
            Self::NotRunnable(text) => Self::NotRunnable(add(text)),
            Self::NotFound(text) => Self::NotFound(add(text)),
            Self::Ended(_) | Self::Told(_) => self,
        }
    }

    /// Returns the error of a start that failed in a system call: what failed, and the reason.
    pub fn start(what: impl fmt::Display, reason: impl Reason) -> Self {
        Self::Start(format!("{what}: {}", reason.reason()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text)
            | Self::Start(text)
            | Self::NotRunnable(text)
            | Self::NotFound(text) => f.write_str(text),
            Self::Ended(signal) => write!(f, "{signal} has ended the start"),
            Self::Told(_) => Ok(()),
        }
    }
}

impl std::error::Error for Error {}

/// The reason of a failure in the words of the C library, without the errno number.
pub trait Reason {
    /// Returns the reason.
    fn reason(&self) -> String;
}

impl Reason for Errno {
    fn reason(&self) -> String {
        self.desc().to_owned()
    }
}

/// The reason why a file can't be opened or made at a path: with the directory that is in the way,
/// and for which user.
#[derive(Debug)]
pub struct At<'a, R>(pub R, pub &'a Path);

impl Reason for At<'_, Errno> {
    fn reason(&self) -> String {
        let Self(errno, path) = self;
        format!("{}{}", errno.reason(), in_the_way(path, *errno))
    }
}

impl Reason for At<'_, io::Error> {
    fn reason(&self) -> String {
        let Self(error, path) = self;
        match error.raw_os_error() {
            Some(number) => At(Errno::from_raw(number), path).reason(),
            None => error.reason(),
        }
    }
}

impl Reason for io::Error {
    fn reason(&self) -> String {
        match self.raw_os_error() {
            Some(number) => Errno::from_raw(number).reason(),
            None => self.to_string(),
        }
    }
}

/// Returns what is in the way of opening or creating the file at a path, as the end of a message:
/// the directory, and the user that this process is. Empty if that isn't known.
fn in_the_way(path: &Path, errno: Errno) -> String {
    // From the root down.
    let mut directories: Vec<PathBuf> = path.ancestors().skip(1).map(Path::to_owned).collect();
    directories.reverse();
    for directory in directories {
        let directory = match directory.as_os_str().is_empty() {
            true => PathBuf::from("."),
            false => directory,
        };
        let is_parent = path.parent().is_some_and(|parent| {
            parent == directory || parent.as_os_str().is_empty() && directory == Path::new(".")
        });
        let may = |access| faccessat(AT_FDCWD, &directory, access, AtFlags::AT_EACCESS);
        let name = directory.display();
        let user = Uid::effective();
        match errno {
            Errno::ENOENT if may(AccessFlags::F_OK) == Err(Errno::ENOENT) => {
                return format!("; the directory {name} doesn't exist");
            }
            Errno::ENOTDIR if directory.metadata().is_ok_and(|it| !it.is_dir()) => {
                return format!("; {name} is no directory");
            }
            Errno::EACCES if may(AccessFlags::X_OK) == Err(Errno::EACCES) => {
                return format!("; user id {user} may not enter the directory {name}");
            }
            Errno::EACCES
                if is_parent && !exists(path) && may(AccessFlags::W_OK) == Err(Errno::EACCES) =>
            {
                return format!("; user id {user} may not create files in {name}");
            }
            Errno::EACCES if is_parent && exists(path) => {
                return format!("; user id {user} has no right to it");
            }
            _ => {}
        }
    }
    String::new()
}

fn exists(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_directory_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        let text = in_the_way(&missing.join("deep/file"), Errno::ENOENT);
        assert_eq!(
            text,
            format!("; the directory {} doesn't exist", missing.display())
        );
        assert_eq!(in_the_way(&missing, Errno::ENOENT), "");
        std::fs::write(&missing, "").unwrap();
        let text = in_the_way(&missing.join("file"), Errno::ENOTDIR);
        assert_eq!(text, format!("; {} is no directory", missing.display()));
    }
}
