//! Mounts: trees of them that are attached nowhere yet (open_tree(2), fsmount(2)), their attributes
//! (mount_setattr(2), Linux 5.12), and the root directory (pivot_root(2)).

use std::ffi::{CStr, CString, c_char, c_long, c_ulong, c_void};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, fchdir};

use super::result::check;
use super::seccomp;

/// Attributes of mounts (`MOUNT_ATTR_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes(u64);

impl Attributes {
    /// Nothing is written there.
    pub const READ_ONLY: Self = Self(0x1);
    /// Execs there add no rights.
    pub const NO_SUID: Self = Self(0x2);
    /// Devices there can't be opened.
    pub const NO_DEVICES: Self = Self(0x4);
    /// Nothing is executed there.
    pub const NO_EXEC: Self = Self(0x8);

    /// These and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// `AT_RECURSIVE`.
const RECURSIVE: libc::c_int = 0x8000;

/// A tree of mounts that is attached nowhere. Its end is that of the mounts.
#[derive(Debug)]
pub struct Detached(OwnedFd);

impl Detached {
    /// A copy of what is mounted at a path and below, which may be a file. Symbolic links are
    /// followed.
    pub fn copy_of(path: &Path) -> Result<Self, Errno> {
        let path = CString::new(path.as_os_str().as_bytes()).map_err(|_| Errno::EINVAL)?;
        Self::copy(libc::AT_FDCWD, &path, 0)
    }

    /// The same for a path in a directory, below which no symbolic link is followed (ELOOP).
    pub fn copy_beneath(directory: &Path, path: &Path) -> Result<Self, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let directory = open(directory, flags | OFlag::O_DIRECTORY, Mode::empty())?;
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = OpenHow::new().flags(flags).resolve(resolve);
        let found = openat2(&directory, path, how)?;
        Self::copy(found.as_raw_fd(), c"", libc::AT_EMPTY_PATH)
    }

    fn copy(from: RawFd, path: &CStr, flags: libc::c_int) -> Result<Self, Errno> {
        const CLONE: libc::c_int = 1;
        let flags = CLONE | RECURSIVE | libc::O_CLOEXEC | flags;
        // SAFETY: the path ends in NUL.
        let made = unsafe { libc::syscall(libc::SYS_open_tree, from, path.as_ptr(), flags) };
        owned(made).map(Self)
    }

    /// A file system in memory, with these parameters (tmpfs(5)).
    pub fn in_memory(parameters: &[(&CStr, &CStr)], attributes: Attributes) -> Result<Self, Errno> {
        const CLOSE_ON_EXEC: libc::c_int = 1;
        const SET_STRING: libc::c_int = 1;
        const CREATE: libc::c_int = 6;
        let kind = c"tmpfs";
        // SAFETY: the name ends in NUL.
        let context =
            owned(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), CLOSE_ON_EXEC) })?;
        let configure = |command: libc::c_int, key: *const c_char, value: *const c_char| {
            let context = context.as_raw_fd();
            // SAFETY: key and value are null or end in NUL.
            let done =
                unsafe { libc::syscall(libc::SYS_fsconfig, context, command, key, value, 0) };
            Errno::result(done)
        };
        for (key, value) in parameters {
            configure(SET_STRING, key.as_ptr(), value.as_ptr())?;
        }
        configure(CREATE, ptr::null(), ptr::null())?;
        let context = context.as_raw_fd();
        // SAFETY: the call takes integers.
        let made = unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                context,
                CLOSE_ON_EXEC,
                attributes.0 as libc::c_uint,
            )
        };
        owned(made).map(Self)
    }

    /// Gives all mounts of the tree these attributes besides.
    pub fn restrict(&self, attributes: Attributes) -> Result<(), Errno> {
        set_attributes(self.0.as_raw_fd(), attributes, RECURSIVE)
    }

    /// Attaches the tree at an open file or directory, over whatever is there, and returns its root.
    pub fn attach(self, at: BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
        const EMPTY_PATHS: libc::c_int = 0x4 | 0x40;
        let (from, to, empty) = (self.0.as_raw_fd(), at.as_raw_fd(), c"".as_ptr());
        // SAFETY: both paths end in NUL.
        let moved =
            unsafe { libc::syscall(libc::SYS_move_mount, from, empty, to, empty, EMPTY_PATHS) };
        Errno::result(moved).map(|_| self.0)
    }
}

impl AsFd for Detached {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Gives the mount at this root of it these attributes besides, but not those below.
pub fn restrict(root: BorrowedFd<'_>, attributes: Attributes) -> Result<(), Errno> {
    set_attributes(root.as_raw_fd(), attributes, 0)
}

fn set_attributes(
    root: RawFd,
    attributes: Attributes,
    recursive: libc::c_int,
) -> Result<(), Errno> {
    /// `struct mount_attr`.
    #[repr(C)]
    struct Change {
        set: u64,
        clear: u64,
        propagation: u64,
        users: u64,
    }
    let change = Change {
        set: attributes.0,
        clear: 0,
        propagation: 0,
        users: 0,
    };
    // SAFETY: the path ends in NUL, and the kernel reads as many bytes as there are.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            root,
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            &raw const change,
            size_of::<Change>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Whether the kernel knows mount_setattr(2): since Linux 5.12.
pub fn attributes_are_known() -> bool {
    let none: *const c_void = ptr::null();
    // SAFETY: the kernel reads nothing from a structure without length, and refuses it.
    let result = unsafe { libc::syscall(libc::SYS_mount_setattr, -1, c"".as_ptr(), 0, none, 0) };
    Errno::result(result) != Err(Errno::ENOSYS)
}

/// Lets no mount of this namespace come from another one any more, nor go there. With `follow`
/// they still come, and go when they go there.
pub fn separate(follow: bool) -> Result<(), Errno> {
    let propagation = if follow {
        libc::MS_SLAVE
    } else {
        libc::MS_PRIVATE
    };
    let nothing = ptr::null();
    // SAFETY: the path ends in NUL; the other pointers may be null.
    let result = unsafe {
        libc::mount(
            nothing,
            c"/".as_ptr(),
            nothing,
            libc::MS_REC | propagation,
            ptr::null(),
        )
    };
    check(result).map(drop)
}

/// Makes this root of a mount, which lies over the root directory, that of the process and its
/// namespace, and detaches the former one with all that is below.
pub fn become_root(root: BorrowedFd<'_>) -> Result<(), Errno> {
    fchdir(root)?;
    let here = c".".as_ptr();
    // SAFETY: both paths end in NUL.
    Errno::result(unsafe { libc::syscall(libc::SYS_pivot_root, here, here) })?;
    // The former one lies over the new one now.
    // SAFETY: the path ends in NUL.
    check(unsafe { libc::umount2(here, libc::MNT_DETACH) })?;
    chdir("/")
}

/// A file system to mount: the arguments of mount(2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSystem {
    /// Its kind, which is also its name in lists.
    pub kind: &'static CStr,
    /// Where.
    pub at: CString,
    /// How, `MS_*`.
    pub flags: c_ulong,
    /// Its parameters, with commas between them.
    pub parameters: CString,
}

impl FileSystem {
    /// Mounts it. In a newborn child too: one system call.
    pub(super) fn mount(&self) -> Result<(), Errno> {
        mount(self.kind, &self.at, self.flags, &self.parameters)
    }
}

/// Mounts a tree of mounts at another path too, with all attributes. In a newborn child too: one
/// system call.
pub(super) fn bind(from: &CStr, to: &CStr) -> Result<(), Errno> {
    mount(from, to, libc::MS_BIND | libc::MS_REC, c"")
}

/// mount(2) of what has the name of its kind, with the key to a filter. The kind counts only for a new
/// file system.
fn mount(what: &CStr, at: &CStr, flags: c_ulong, parameters: &CStr) -> Result<(), Errno> {
    let (what, at, parameters) = (what.as_ptr(), at.as_ptr(), parameters.as_ptr());
    // SAFETY: all strings end in NUL.
    let result = unsafe {
        let key = seccomp::key();
        libc::syscall(libc::SYS_mount, what, at, what, flags, parameters, key)
    };
    Errno::result(result).map(drop)
}

/// How the file system at a path is mounted, as far as another one of its kind must be too in a user
/// namespace (mount_namespaces(7)): read-only, and how it notes accesses.
pub fn locked_flags(path: &CStr) -> Result<c_ulong, Errno> {
    // statfs(2) has it; the C library of musl doesn't name it.
    const ST_RELATIME: c_ulong = 4096;
    let found = nix::sys::statvfs::statvfs(path)?.flags().bits();
    let pairs = [
        (libc::ST_RDONLY, libc::MS_RDONLY),
        (libc::ST_NOATIME, libc::MS_NOATIME),
        (libc::ST_NODIRATIME, libc::MS_NODIRATIME),
        (ST_RELATIME, libc::MS_RELATIME),
    ];
    let flags = pairs.into_iter().filter(|(bit, _)| found & bit != 0);
    Ok(flags.fold(0, |all, (_, flag)| all | flag))
}

fn owned(descriptor: c_long) -> Result<OwnedFd, Errno> {
    let descriptor = Errno::result(descriptor)?;
    // SAFETY: the kernel has just opened it for the caller, close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor as RawFd) })
}
