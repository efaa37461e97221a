//! A file by its directory, which stays open: so the file can be looked at, opened again
//! and removed after chroot(2), and after somebody has renamed the directory.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// A name in a directory.
#[derive(Debug)]
pub(super) struct Entry {
    directory: std::os::fd::OwnedFd,
    name: OsString,
}

/// How often to try when somebody else makes and removes the same file.
const TRIES: u32 = 100;

impl Entry {
    /// Opens the directory of `path`, for no more than to reach names in it.
    pub(super) fn of(path: &Path) -> Result<Self, Errno> {
        let bytes = path.as_os_str().as_bytes();
        let (parent, name) = match bytes.iter().rposition(|&byte| byte == b'/') {
            None => (b".".as_slice(), bytes),
            Some(0) => (b"/".as_slice(), &bytes[1..]),
            Some(at) => (&bytes[..at], &bytes[at + 1..]),
        };
        if matches!(name, b"" | b"." | b"..") {
            return Err(Errno::EISDIR);
        }
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self {
            directory: open(OsStr::from_bytes(parent), flags, Mode::empty())?,
            name: OsStr::from_bytes(name).to_owned(),
        })
    }

    /// Opens the file, close-on-exec, never as a controlling terminal (openat(2)).
    pub(super) fn open(&self, flags: OFlag, mode: u32) -> Result<File, Errno> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        let mode = Mode::from_bits_truncate(mode);
        openat(&self.directory, self.name.as_os_str(), flags, mode).map(File::from)
    }

    /// Opens the file, or makes it; says whether it was made.
    pub(super) fn open_or_create(&self, flags: OFlag, mode: u32) -> Result<(File, bool), Errno> {
        for _ in 0..TRIES {
            match self.open(flags, mode) {
                Err(Errno::ENOENT) => {}
                found => return found.map(|file| (file, false)),
            }
            match self.open(flags | OFlag::O_CREAT | OFlag::O_EXCL, mode) {
                // Made by somebody else in between; or a symbolic link to nowhere, which
                // O_CREAT alone follows.
                Err(Errno::EEXIST) => match self.open(flags | OFlag::O_CREAT, mode) {
                    Err(Errno::ENOENT) => {}
                    found => return found.map(|file| (file, false)),
                },
                made => return made.map(|file| (file, true)),
            }
        }
        Err(Errno::ENOENT)
    }

    /// Whether the name stands for this open file.
    pub(super) fn is(&self, file: &File) -> bool {
        let there = fstatat(
            &self.directory,
            self.name.as_os_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        );
        match (there, file.metadata()) {
            (Ok(there), Ok(here)) => (there.st_dev, there.st_ino) == (here.dev(), here.ino()),
            _ => false,
        }
    }

    /// Removes the name, if it stands for this open file; says whether it is gone.
    pub(super) fn remove(&self, file: &File) -> bool {
        !self.is(file)
            || unlinkat(
                &self.directory,
                self.name.as_os_str(),
                UnlinkatFlags::NoRemoveDir,
            )
            .is_ok()
    }
}
