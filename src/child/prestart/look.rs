//! What a held program's descriptors and file names are, seen from outside (proc(5)).

use std::fs::{self, File, Metadata};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use libc::c_int;
use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;
use nix::sys::statfs::{FsType, fstatfs};
use nix::unistd::Pid;

use super::arguments::text;
use super::files::{as_owner, is_one_of};
use crate::sys::trace::Tracee;

/// Whether this is a regular file or directory that is open for reading alone, and has the same
/// content for other processes.
pub(super) fn is_read_file(pid: Pid, descriptor: u32) -> bool {
    let Ok(_owner) = as_owner(pid) else {
        return false;
    };
    let Some(file) = file(pid, descriptor) else {
        return false;
    };
    let Ok(metadata) = file.metadata() else {
        return false;
    };
    (metadata.is_file() || metadata.is_dir())
        && is_of_files(&file, &metadata)
        && is_read_only(pid, descriptor)
}

/// Whether this is a device that has no state: /dev/null, zero or full.
pub(super) fn is_stateless(pid: Pid, descriptor: u32) -> bool {
    is_memory_device(pid, descriptor, &STATELESS)
}

/// Whether this is a device of random numbers: /dev/random or urandom.
pub(super) fn is_random(pid: Pid, descriptor: u32) -> bool {
    is_memory_device(pid, descriptor, &RANDOM)
}

/// Minor numbers of /dev/null and its like.
const NULL: u32 = 3;
const STATELESS: [u32; 3] = [NULL, 5, 7];
const RANDOM: [u32; 2] = [8, 9];

fn is_memory_device(pid: Pid, descriptor: u32, minors: &[u32]) -> bool {
    let Ok(_owner) = as_owner(pid) else {
        return false;
    };
    let found = fs::metadata(format!("/proc/{pid}/fd/{descriptor}"));
    found.is_ok_and(|found| is_one_of(&found, minors))
}

/// What a descriptor refers to, not opened itself.
fn file(pid: Pid, descriptor: u32) -> Option<File> {
    let path = format!("/proc/{pid}/fd/{descriptor}");
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    open(path.as_str(), flags, Mode::empty())
        .ok()
        .map(File::from)
}

/// Whether a file is of a file system whose files are read alike by all, without an effect.
fn is_of_files(file: &File, metadata: &Metadata) -> bool {
    // Those of block devices have a number of their own.
    libc::major(metadata.dev()) != 0
        || fstatfs(file).is_ok_and(|found| FILE_SYSTEMS.contains(&found.filesystem_type()))
}

/// File systems without a block device (<linux/magic.h>, and their own headers).
const FILE_SYSTEMS: [FsType; 13] = [
    FsType(0x0102_1994), // tmpfs
    FsType(0x8584_58f6), // ramfs
    FsType(0x794c_7630), // overlayfs
    FsType(0x9123_683e), // btrfs
    FsType(0xca45_1a4e), // bcachefs
    FsType(0x2fc1_2fc1), // zfs
    FsType(0xe0f5_e1e2), // erofs
    FsType(0x6573_5546), // fuse
    FsType(0x0102_1997), // 9p
    FsType(0x6969),      // nfs
    FsType(0xff53_4d42), // cifs
    FsType(0xfe53_4d42), // smb2
    FsType(0x00c3_6400), // ceph
];

/// Whether a descriptor was opened for reading alone. What can't be found out wasn't.
pub(super) fn is_read_only(pid: Pid, descriptor: u32) -> bool {
    let path = format!("/proc/{pid}/fdinfo/{descriptor}");
    let information = fs::read_to_string(path).unwrap_or_default();
    let flags = information
        .lines()
        .find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| i32::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & libc::O_ACCMODE == libc::O_RDONLY)
}

/// Whether it is Python (CPython), by its file or its library.
pub(super) fn is_python(pid: Pid) -> bool {
    is_interpreter(pid, b"python3", b"libpython3")
}

/// The same for Perl.
pub(super) fn is_perl(pid: Pid) -> bool {
    is_interpreter(pid, b"perl", b"libperl")
}

fn is_interpreter(pid: Pid, program: &[u8], library: &[u8]) -> bool {
    let is = |path: &Path, beginning: &[u8]| {
        let name = path.file_name().unwrap_or_default();
        name.as_bytes().starts_with(beginning)
    };
    let file = fs::read_link(format!("/proc/{pid}/exe"));
    if file.is_ok_and(|file| is(&file, program)) {
        return true;
    }
    let maps = fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
    String::from_utf8_lossy(&maps)
        .lines()
        .any(|line| is(Path::new(line), library))
}

/// Whether opening a file (open(2)) has no effect that another process could notice, but for times
/// of access.
pub(super) fn opens_quietly(tracee: &Tracee, directory: c_int, name: u64, flags: u64) -> bool {
    const QUIET: i32 = libc::O_CLOEXEC
        | libc::O_DIRECTORY
        | libc::O_NOFOLLOW
        | libc::O_NONBLOCK
        | libc::O_LARGEFILE
        | libc::O_NOCTTY
        | libc::O_NOATIME
        | libc::O_PATH
        | LARGE_FILE;
    // The C library's O_LARGEFILE is 0 on this architecture; programs may pass the kernel's.
    const LARGE_FILE: i32 = 0o100_000;
    let Ok(flags) = i32::try_from(flags) else {
        return false;
    };
    let Some(name) = text(tracee, name) else {
        return false;
    };
    let access = flags & libc::O_ACCMODE;
    // It fails where there is no terminal, and a program without a client has none.
    if name == b"/dev/tty" && flags & !(libc::O_ACCMODE | QUIET) == 0 {
        return true;
    }
    let Ok(_owner) = as_owner(tracee.pid()) else {
        return false;
    };
    let found = match find(tracee.pid(), directory, &name, FOLLOWED) {
        Ok(found) => File::from(found),
        // It will fail for the program as well.
        Err(Errno::ENOENT | Errno::ENOTDIR) => {
            return access == libc::O_RDONLY
                && flags & !QUIET == 0
                && is_absent(tracee.pid(), directory, &name);
        }
        Err(_) => return false,
    };
    let Ok(metadata) = found.metadata() else {
        return false;
    };
    if is_one_of(&metadata, &[NULL]) {
        let known = libc::O_ACCMODE | QUIET | libc::O_CREAT | libc::O_TRUNC | libc::O_APPEND;
        return flags & !known == 0;
    }
    if access != libc::O_RDONLY || flags & !QUIET != 0 {
        return false;
    }
    if is_one_of(&metadata, &STATELESS) || is_one_of(&metadata, &RANDOM) {
        return true;
    }
    // Those of other file systems may be about the process, or notice that they are opened.
    is_of_files(&found, &metadata)
        && (flags & libc::O_PATH != 0 || metadata.is_file() || metadata.is_dir())
}

/// Whether a symbolic link (readlink(2)) has the same text for all processes.
pub(super) fn links_quietly(tracee: &Tracee, directory: c_int, name: u64) -> bool {
    let Some(name) = text(tracee, name) else {
        return false;
    };
    if name == b"/proc/self/exe" {
        return true;
    }
    let Ok(_owner) = as_owner(tracee.pid()) else {
        return false;
    };
    match find(tracee.pid(), directory, &name, OFlag::O_NOFOLLOW) {
        Ok(found) => is_of_these(found),
        Err(Errno::ENOENT | Errno::ENOTDIR) => is_absent(tracee.pid(), directory, &name),
        Err(_) => false,
    }
}

/// Whether this is the name of a directory that isn't about a process.
pub(super) fn enters_quietly(tracee: &Tracee, name: u64) -> bool {
    let Some(name) = text(tracee, name) else {
        return false;
    };
    let Ok(_owner) = as_owner(tracee.pid()) else {
        return false;
    };
    let found = find(tracee.pid(), libc::AT_FDCWD, &name, FOLLOWED);
    found.is_ok_and(is_of_these)
}

/// Whether a file is of a file system whose files are alike for all.
fn is_of_these(found: OwnedFd) -> bool {
    let found = File::from(found);
    let metadata = found.metadata();
    metadata.is_ok_and(|metadata| is_of_files(&found, &metadata))
}

/// Whether there is no file of this name, for the program either: in /proc, a name may mean another
/// file for it than for skd.
fn is_absent(pid: Pid, directory: c_int, name: &[u8]) -> bool {
    let parts = Path::new(std::ffi::OsStr::from_bytes(name)).ancestors();
    for (above, part) in parts.enumerate() {
        let part = match part.as_os_str().as_bytes() {
            b"" => b".",
            part => part,
        };
        match find(pid, directory, part, FOLLOWED) {
            Ok(found) => return above > 0 && is_of_these(found),
            // A link that leads nowhere may lead to /proc.
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                if find(pid, directory, part, OFlag::O_NOFOLLOW).is_ok() {
                    return false;
                }
            }
            Err(_) => return false,
        }
    }
    false
}

/// A name's last link is followed too.
const FOLLOWED: OFlag = OFlag::empty();

/// Files in which the kernel answers a copy like the program that it is a copy of: what kind of
/// system this is, and what is mapped where.
const ANSWERS: [&str; 8] = [
    OWN_MAPS,
    "/proc/cpuinfo",
    "/proc/filesystems",
    "/proc/meminfo",
    "/proc/sys/kernel/cap_last_cap",
    "/proc/sys/kernel/ngroups_max",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu/online",
];
const OWN_MAPS: &str = "/proc/self/maps";

/// File systems of the kernel's answers (<linux/magic.h>): proc and sysfs.
const OF_ANSWERS: [FsType; 2] = [FsType(0x9fa0), FsType(0x6265_6572)];

/// Whether opening a file gives one of these answers.
pub(super) fn opens_answer(tracee: &Tracee, name: u64, flags: u64) -> bool {
    const READING: i32 = libc::O_RDONLY | libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_LARGEFILE;
    let plain = i32::try_from(flags).is_ok_and(|flags| flags & !READING == 0);
    let Some(name) = text(tracee, name) else {
        return false;
    };
    if !plain || !ANSWERS.iter().any(|answer| answer.as_bytes() == name) {
        return false;
    }
    let Ok(_owner) = as_owner(tracee.pid()) else {
        return false;
    };
    // In another root directory there may be anything of that name.
    find(tracee.pid(), libc::AT_FDCWD, &name, FOLLOWED)
        .is_ok_and(|found| is_of_answers(&found.into()))
}

/// Whether this is an absolute path, within so many bytes, of no file.
pub(super) fn is_missing(tracee: &Tracee, path: u64, length: u64) -> bool {
    let Some(path) = text(tracee, path) else {
        return false;
    };
    if !path.starts_with(b"/") || path.len() as u64 >= length {
        return false;
    }
    let Ok(_owner) = as_owner(tracee.pid()) else {
        return false;
    };
    is_absent(tracee.pid(), libc::AT_FDCWD, &path)
}

/// Whether this is one of these answers.
pub(super) fn is_answer(pid: Pid, descriptor: u32) -> bool {
    let Ok(_owner) = as_owner(pid) else {
        return false;
    };
    let Ok(target) = fs::read_link(format!("/proc/{pid}/fd/{descriptor}")) else {
        return false;
    };
    let own = target == Path::new(&format!("/proc/{pid}/maps"));
    (own || ANSWERS.iter().any(|answer| target == Path::new(answer)))
        && file(pid, descriptor).is_some_and(|file| is_of_answers(&file))
        && is_read_only(pid, descriptor)
}

fn is_of_answers(file: &File) -> bool {
    file.metadata().is_ok_and(|found| found.is_file())
        && fstatfs(file).is_ok_and(|found| OF_ANSWERS.contains(&found.filesystem_type()))
}

/// Finds a file by a program's name for it, in the program's root directory.
fn find(pid: Pid, directory: c_int, name: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
    let opening = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let root = open(format!("/proc/{pid}/root").as_str(), opening, Mode::empty())?;
    let mut path = PathBuf::new();
    if !name.starts_with(b"/") {
        // As skd sees it, so with the program's root directory before it.
        let link = |name: &str| {
            let link = fs::read_link(format!("/proc/{pid}/{name}"));
            link.map_err(|why| Errno::from_raw(why.raw_os_error().unwrap_or(libc::EIO)))
        };
        let base = match directory {
            libc::AT_FDCWD => link("cwd")?,
            number => link(&format!("fd/{number}"))?,
        };
        path.push(base.strip_prefix(link("root")?).map_err(|_| Errno::EXDEV)?);
    }
    path.push(std::ffi::OsStr::from_bytes(name));
    let how = OpenHow::new()
        .flags(opening | flags)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT);
    openat2(root.as_fd(), &path, how)
}
