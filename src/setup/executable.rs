//! The program file that this process runs, and the one that will be in its place.

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

/// Where this program was started from, noted while that can be seen.
#[derive(Debug)]
pub struct Executable {
    /// Absolute.
    path: PathBuf,
    /// The same for after chroot(2).
    entry: Entry,
    /// What runs, whatever stands at its path by now.
    running: OwnedFd,
    /// Whether the path leads elsewhere by now.
    in_root: bool,
}

/// The same for another image of this process.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SavedExecutable {
    path: OsString,
    entry: SavedEntry,
    in_root: bool,
}

impl Executable {
    /// Finds it: by the name that it was called by, which may be a link that will lead to
    /// another version, or by what the kernel says. `None` if neither can be had.
    pub fn find() -> Option<Self> {
        let called = called().filter(|path| is_this(path));
        let path = called.or_else(|| env::current_exe().ok())?;
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let running = open("/proc/self/exe", flags, Mode::empty());
        Some(Self {
            entry: Entry::of(&path).ok()?,
            // Where /proc is missing, what is there now and was a moment ago.
            running: running
                .or_else(|_| open(&path, flags, Mode::empty()))
                .ok()?,
            path,
            in_root: false,
        })
    }

    /// Says that the process has another root directory from now on.
    pub fn entered_root(&mut self) {
        self.in_root = true;
    }

    /// Where it is, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What runs.
    pub fn running(&self) -> BorrowedFd<'_> {
        self.running.as_fd()
    }

    /// Opens what stands at the path now, no more than to execute it.
    pub fn next(&self) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        if self.in_root {
            return self.entry.open(flags, 0).map(OwnedFd::from);
        }
        open(&self.path, flags, Mode::empty())
    }

    /// The same to look into.
    pub fn readable(&self) -> Option<File> {
        self.entry.open(OFlag::O_RDONLY, 0).ok()
    }

    /// Lets another image of this process have it.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedExecutable, Errno> {
        Ok(SavedExecutable {
            path: self.path.clone().into(),
            entry: self.entry.save(to)?,
            in_root: self.in_root,
        })
    }

    /// What an earlier image had; the descriptor is of the file that is `running` now.
    pub fn restore(saved: SavedExecutable, running: i32) -> Result<Self, Errno> {
        Ok(Self {
            path: saved.path.into(),
            entry: Entry::restore(saved.entry)?,
            running: descriptors::claim(running)?,
            in_root: saved.in_root,
        })
    }
}

/// The path of the name that this program was called by.
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

/// Whether the program at this path is the one that runs; where that can't be seen, it is.
fn is_this(path: &Path) -> bool {
    let id = |path: &Path| FileId::of_open(File::open(path)?).map_err(std::io::Error::from);
    match (id(Path::new("/proc/self/exe")), id(path)) {
        (Ok(running), Ok(found)) => running == found,
        (Err(_), Ok(_)) => true,
        _ => false,
    }
}

/// The words of this process's command line.
pub fn arguments() -> Vec<CString> {
    let words = env::args_os().map(OsString::into_vec);
    // None had a NUL inside when it came.
    words.filter_map(|word| CString::new(word).ok()).collect()
}
