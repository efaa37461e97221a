//! Files of a root directory that is being built. Paths begin there, with a `/` or without, and all
//! links lead to what is in it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{Mode, fstat, mkdirat};
use nix::unistd::symlinkat;

use crate::config::Sandbox;

/// A root directory.
#[derive(Debug)]
pub(super) struct Files {
    root: OwnedFd,
    /// The device number of its file system, on which files are made.
    device: libc::dev_t,
}

impl Files {
    /// Those of an empty file system.
    pub(super) fn at(root: OwnedFd) -> Result<Self, Errno> {
        let device = fstat(&root)?.st_dev;
        Ok(Self { root, device })
    }

    /// The root directory itself.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens what is at a path in the tree, only to reach it.
    pub(super) fn open(&self, at: &Path) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        // The root itself has no name.
        let at = if at.as_os_str().is_empty() {
            Path::new("/")
        } else {
            at
        };
        openat2(&self.root, at, how)
    }

    /// The same, and makes it if it isn't there, with the directories above. Nothing is made on the
    /// host: that is EROFS.
    pub(super) fn make(&self, at: &Path, is_directory: bool) -> Result<OwnedFd, Errno> {
        match self.open(at) {
            Err(Errno::ENOENT) => {}
            found => return found,
        }
        let (directory, name) = self.parent_of(at)?;
        if is_directory {
            mkdirat(&directory, name, Mode::from_bits_truncate(0o755))?;
        } else {
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
            openat(&directory, name, flags, Mode::from_bits_truncate(0o444))?;
        }
        self.open(at)
    }

    /// The directory that something is to be made in, which is made too, and its name there.
    fn parent_of<'p>(&self, at: &'p Path) -> Result<(OwnedFd, &'p OsStr), Errno> {
        let (parent, name) = at.parent().zip(at.file_name()).ok_or(Errno::EINVAL)?;
        let directory = self.make(parent, true)?;
        match fstat(&directory)?.st_dev == self.device {
            true => Ok((directory, name)),
            false => Err(Errno::EROFS),
        }
    }

    /// Makes a symbolic link, with the directories above it.
    pub(super) fn link(&self, to: &Path, at: &Path) -> Result<(), Errno> {
        let (directory, name) = self.parent_of(at)?;
        symlinkat(to, &directory, name)
    }

    /// Makes a file, with the directories above it.
    pub(super) fn write(&self, at: &Path, text: &[u8]) -> Result<(), Errno> {
        let (directory, name) = self.parent_of(at)?;
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = openat(&directory, name, flags, Mode::from_bits_truncate(0o644))?;
        let written = File::from(file).write_all(text);
        written.map_err(|error| error.raw_os_error().map_or(Errno::EIO, Errno::from_raw))
    }
}

/// Whether something is mounted exactly there that was asked for, in place of what usually is.
pub(super) fn is_replaced(sandbox: &Sandbox, at: &Path) -> bool {
    let at = Path::new("/").join(at);
    sandbox.mounts.iter().any(|mount| mount.at == at)
}
