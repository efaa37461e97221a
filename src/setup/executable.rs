//! The binary of this process, and the binary that an upgrade will execute.

use std::env;
use std::ffi::{CString, OsString};
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use serde::{Deserialize, Serialize};

use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::directory::{Entry, FileId, SavedEntry};
use crate::sys::trusted::{self, Purpose, Refusal};

/// The binary of this process and its path. They are opened before /proc or the path can become
/// unreachable.
#[derive(Debug)]
pub struct Executable {
    /// The absolute path.
    path: PathBuf,
    /// The path for after chroot(2).
    entry: Entry,
    /// The running binary, even if another has replaced it at its path.
    running: OwnedFd,
    /// Whether the process has another root directory, in which the path is another file.
    in_root: bool,
}

/// The binary as it is saved for the next binary.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedExecutable {
    path: OsString,
    entry: SavedEntry,
    in_root: bool,
}

impl SavedExecutable {
    /// Whether the process has another root directory.
    pub fn is_in_root(&self) -> bool {
        self.in_root
    }
}

impl Executable {
    /// Finds the binary by `argv[0]`, or else from the kernel. Returns `None` if both fail.
    ///
    /// `argv[0]` is preferred, since it may be a symbolic link that will lead to another version.
    pub fn find() -> Option<Self> {
        let called = called().filter(|path| is_this(path));
        let path = called.or_else(|| env::current_exe().ok())?;
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let running = open("/proc/self/exe", flags, Mode::empty());
        Some(Self {
            entry: Entry::of(&path).ok()?,
            // Without /proc, open the path, which was found a moment ago.
            running: running
                .or_else(|_| open(&path, flags, Mode::empty()))
                .ok()?,
            path,
            in_root: false,
        })
    }

    /// Notes that the process has another root directory from now on.
    pub fn entered_root(&mut self) {
        self.in_root = true;
    }

    /// Whether the process has another root directory.
    pub fn is_in_root(&self) -> bool {
        self.in_root
    }

    /// Returns its path, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the running binary.
    pub fn running(&self) -> BorrowedFd<'_> {
        self.running.as_fd()
    }

    /// Opens the file that is at the path now, only to execute it.
    pub fn next(&self) -> Result<OwnedFd, Refusal> {
        let entry = match self.in_root {
            true => None,
            false => Some(Entry::of(&self.path)?),
        };
        let entry = entry.as_ref().unwrap_or(&self.entry);
        let (next, _) = entry.open(&Purpose::PROGRAM)?;
        trusted::judge_successor(&next, &self.running)?;
        Ok(next.into())
    }

    /// Opens the file that is at the path now, for reading.
    pub fn readable(&self) -> Option<File> {
        self.entry.open(&Purpose::RULES).map(|(file, _)| file).ok()
    }

    /// Saves it for the next binary.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedExecutable, Errno> {
        Ok(SavedExecutable {
            path: self.path.clone().into(),
            entry: self.entry.save(to)?,
            in_root: self.in_root,
        })
    }

    /// Restores it from the previous binary. `running` is a descriptor of the running binary.
    pub fn restore(saved: SavedExecutable, running: i32) -> Result<Self, Errno> {
        Ok(Self {
            path: saved.path.into(),
            entry: Entry::restore(saved.entry)?,
            running: descriptors::claim(running)?,
            in_root: saved.in_root,
        })
    }
}

/// Returns the path of argv[0].
fn called() -> Option<PathBuf> {
    let name = PathBuf::from(env::args_os().next()?);
    if name.components().count() > 1 || name.is_absolute() {
        return std::path::absolute(name).ok();
    }
    let path = env::var_os("PATH")?;
    let mut found = env::split_paths(&path).map(|directory| directory.join(&name));
    found
        .find(|path| path.is_file())
        .and_then(|path| std::path::absolute(path).ok())
}

/// Whether the file at this path is the running binary. True if /proc is missing.
fn is_this(path: &Path) -> bool {
    let id = |path: &Path| FileId::of_open(File::open(path)?).map_err(std::io::Error::from);
    match (id(Path::new("/proc/self/exe")), id(path)) {
        (Ok(running), Ok(found)) => running == found,
        (Err(_), Ok(_)) => true,
        _ => false,
    }
}

/// Returns the arguments of this process.
pub fn arguments() -> Vec<CString> {
    let words = env::args_os().map(OsString::into_vec);
    // Arguments never contain a NUL byte.
    words.filter_map(|word| CString::new(word).ok()).collect()
}
