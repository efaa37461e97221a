//! Rights that a process takes from itself for good: new privileges, and files (landlock(7)).
//!
//! Plain numbers for the kernel, because that is all there is to it: three calls. The crate would bring
//! others along.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::stat::fstat;

/// Keeps this process from gaining privileges by an exec (`PR_SET_NO_NEW_PRIVS`).
pub fn forbid_new_privileges() -> Result<(), Errno> {
    nix::sys::prctl::set_no_new_privs()
}

/// Rights to files beneath a directory (`LANDLOCK_ACCESS_FS_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access(u64);

impl Access {
    /// To open files for writing, empty them, and make regular ones.
    pub const WRITE: Self = Self(1 << 1 | 1 << 8 | 1 << 14);
    /// To open files and directories, and to remove files.
    pub const CLEAN_UP: Self = Self(1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 14);
    /// To read and execute files, and to list directories.
    pub const READ: Self = Self(0b1101);
    /// To read and list alone.
    pub const LOOK: Self = Self(0b1100);
    /// To open devices.
    pub const DEVICE: Self = Self(1 << 1 | 1 << 2);
    /// To open files and directories, and to remove directories.
    pub const GROUPS: Self = Self(1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 14);
    /// All rights that this program knows.
    pub const EVERYTHING: Self = Self((1 << 16) - 1);
    /// Those to files that aren't directories.
    const OF_FILE: u64 = 0b111 | 1 << 14 | 1 << 15;
}

/// The version of landlock(7) that the kernel has.
fn landlock_version() -> Result<libc::c_long, Errno> {
    const VERSION: libc::c_uint = 1;
    let none: *const Ruleset = std::ptr::null();
    // SAFETY: the call takes a null pointer and integers, and returns a number.
    let version =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, none, 0_usize, VERSION) };
    Errno::result(version)
}

/// Whether rights to files, TCP ports, and processes and abstract sockets of others can all be taken
/// away. The error is that of landlock(7), or ENOSYS for Linux before 6.12.
pub fn has_all_of_landlock() -> Result<(), Errno> {
    match landlock_version()? {
        ..SCOPES => Err(Errno::ENOSYS),
        _ => Ok(()),
    }
}

/// Whether abstract unix sockets of others can be kept from a process (Linux 6.12).
pub fn scopes_abstract_sockets() -> bool {
    landlock_version().is_ok_and(|version| version >= SCOPES)
}

/// Since this version of landlock(7) there are rights to TCP ports.
const PORTS: libc::c_long = 4;
/// Since this version processes and abstract sockets of others can be kept from a process.
const SCOPES: libc::c_long = 6;

/// Leaves this process no right to open, make or remove a file but these, none to TCP ports, and
/// none to processes and abstract sockets of others, as far as the kernel knows such rights.
/// Descriptors stay as they are.
///
/// New privileges must be forbidden.
pub fn allow_files(allowed: &[(BorrowedFd<'_>, Access)]) -> Result<(), Errno> {
    let rules = Rules::new(true, true)?;
    for (directory, access) in allowed {
        rules.allow(*directory, *access)?;
    }
    enforce(rules.descriptor.as_raw_fd())
}

/// What rights a process has left, by landlock(7).
#[derive(Debug)]
pub struct Rules {
    descriptor: OwnedFd,
    /// The rights to files that the kernel knows.
    known: u64,
}

impl Rules {
    /// None to processes and abstract sockets of others, none to files if they are about `files`, and
    /// none to TCP ports if they are about `ports`; as far as the kernel knows such rights.
    pub fn new(files: bool, ports: bool) -> Result<Self, Errno> {
        let version = landlock_version()?;
        let known = match version {
            ..=1 => (1 << 13) - 1,
            2 => (1 << 14) - 1,
            3 | 4 => (1 << 15) - 1,
            5.. => Access::EVERYTHING.0,
        };
        let ruleset = Ruleset {
            files: if files { known } else { 0 },
            ports: if ports && version >= PORTS { 0b11 } else { 0 },
            scopes: if version >= SCOPES { 0b11 } else { 0 },
        };
        let length = match version {
            ..PORTS => 8,
            PORTS..SCOPES => 16,
            _ => 24_usize,
        };
        // SAFETY: the ruleset is as long as the kernel is told, or longer.
        let made = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                &raw const ruleset,
                length,
                0,
            )
        };
        let made = Errno::result(made)?;
        // SAFETY: the kernel has just opened it for the caller, close-on-exec.
        let descriptor = unsafe { OwnedFd::from_raw_fd(made as i32) };
        Ok(Self { descriptor, known })
    }

    /// Leaves rights to a file, or to a directory and all below.
    pub fn allow(&self, file: BorrowedFd<'_>, access: Access) -> Result<(), Errno> {
        const BENEATH: libc::c_int = 1;
        let found = fstat(file)?;
        let is_directory = found.st_mode & libc::S_IFMT == libc::S_IFDIR;
        let some = if is_directory {
            self.known
        } else {
            Access::OF_FILE & self.known
        };
        let rule = PathBeneath {
            access: access.0 & some,
            file: file.as_raw_fd(),
        };
        // SAFETY: the rule has the layout of its kind, and is only read.
        let added = unsafe {
            libc::syscall(
                libc::SYS_landlock_add_rule,
                self.descriptor.as_raw_fd(),
                BENEATH,
                &raw const rule,
                0,
            )
        };
        Errno::result(added).map(drop)
    }

    /// Makes it a descriptor for [`Step::Restrict`](super::child::Step::Restrict), close-on-exec.
    pub fn into_descriptor(self) -> OwnedFd {
        self.descriptor
    }
}

/// Leaves this process only the rights of these rules, in a newborn child too: one system call. New
/// privileges must be forbidden.
pub(super) fn enforce(rules: RawFd) -> Result<(), Errno> {
    // SAFETY: the call takes integers.
    let set = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules, 0) };
    Errno::result(set).map(drop)
}

/// `struct landlock_ruleset_attr` (<linux/landlock.h>), version 6.
#[repr(C)]
struct Ruleset {
    files: u64,
    ports: u64,
    scopes: u64,
}

/// `struct landlock_path_beneath_attr`.
#[repr(C, packed)]
struct PathBeneath {
    access: u64,
    file: i32,
}
