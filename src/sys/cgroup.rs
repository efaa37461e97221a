//! Directories and files of control groups (cgroups(7), version 2).

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

/// Makes a group in another one.
pub fn make(parent: impl AsFd, name: &str) -> Result<(), Errno> {
    mkdirat(parent, name, Mode::from_bits_truncate(0o755))
}

/// Opens the directory of a group, to reach what is in it and to start processes there (`O_PATH`).
pub fn open(parent: impl AsFd, name: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Removes a group. Fails with `EBUSY` if a process or another group is in it.
pub fn remove(parent: impl AsFd, name: &str) -> Result<(), Errno> {
    unlinkat(parent, name, UnlinkatFlags::RemoveDir)
}

/// Opens a file of a group for reading. It can be read again and again from the beginning.
pub fn open_file(group: impl AsFd, name: &str) -> Result<File, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    openat(group, name, flags, Mode::empty()).map(File::from)
}

/// Writes to a file of a group, with one system call.
pub fn write(group: impl AsFd, name: &str, value: &str) -> Result<(), Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let file = openat(group, name, flags, Mode::empty()).map(File::from)?;
    (&file).write_all(value.as_bytes()).map_err(errno)
}

/// The most of a file that is read. It has the ids of some ten thousand processes.
const MOST: u64 = 1 << 18;

/// Reads a file of a group.
pub fn read(group: impl AsFd, name: &str) -> Result<String, Errno> {
    let mut text = String::new();
    let file = open_file(group, name)?;
    file.take(MOST).read_to_string(&mut text).map_err(errno)?;
    Ok(text)
}

/// Returns the names of the groups in a group.
pub fn list(group: impl AsFd) -> Result<Vec<String>, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut names = Vec::new();
    for entry in Dir::openat(group, ".", flags, Mode::empty())?.iter() {
        let entry = entry?;
        let name = entry.file_name().to_str();
        let name = name.ok().filter(|name| !matches!(*name, "." | ".."));
        if entry.file_type() == Some(Type::Directory) {
            names.extend(name.map(str::to_owned));
        }
    }
    Ok(names)
}

fn errno(reason: std::io::Error) -> Errno {
    reason.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// Where groups of version 2 are in sight, and which one this process is in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnGroup {
    /// The directory of the group.
    pub directory: PathBuf,
    /// Whether it is the topmost group of the machine: it may have processes and controllers.
    pub is_root: bool,
}

impl OwnGroup {
    /// Finds the group of this process. Returns `None` if there is no file system of groups of
    /// version 2, or if it doesn't show this group.
    pub fn find() -> Option<Self> {
        let read = |path| std::fs::read(path).ok();
        Self::of(&read("/proc/self/cgroup")?, &read("/proc/self/mountinfo")?)
    }

    fn of(groups: &[u8], mounts: &[u8]) -> Option<Self> {
        let lines = |text| <[u8]>::split(text, |byte: &u8| *byte == b'\n');
        let group = lines(groups).find_map(|line| line.strip_prefix(b"0::"))?;
        let group = path(group.to_vec());
        lines(mounts).find_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ');
            let root = unescape(fields.nth(3)?);
            let point = unescape(fields.next()?);
            let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
            if kind != b"cgroup2" {
                return None;
            }
            let below = group.strip_prefix(&root).ok()?;
            let directory = match below.as_os_str().is_empty() {
                true => point,
                false => point.join(below),
            };
            // The topmost group has no such file.
            let is_root = !directory.join("cgroup.type").exists();
            directory.is_dir().then_some(Self { directory, is_root })
        })
    }
}

fn path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// A path of mountinfo, in which a blank is `\040`.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, more)) = rest.split_first() {
        let digits = more.get(..3).filter(|_| *first == b'\\');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &more[3..];
            }
            None => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    path(bytes)
}

/// Ends all that is in a group and in those below, and removes them. Returns whether it is gone: what
/// is killed takes a moment to end, and then another try succeeds.
pub fn clear(parent: impl AsFd, name: &str) -> bool {
    let parent = parent.as_fd();
    if matches!(remove(parent, name), Ok(()) | Err(Errno::ENOENT)) {
        return true;
    }
    let Ok(group) = open(parent, name) else {
        return false;
    };
    let _ = write(&group, "cgroup.kill", "1");
    for below in list(&group).unwrap_or_default() {
        clear(&group, &below);
    }
    remove(parent, name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn paths_of_mounts_are_unescaped() {
        assert_eq!(unescape(br"/a\040b\134c"), Path::new(r"/a b\c"));
        assert_eq!(unescape(br"/a\04"), Path::new(r"/a\04"));
        assert_eq!(unescape(br"\999"), Path::new(r"\999"));
    }

    #[test]
    fn the_own_group_is_found_in_the_mount_that_shows_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("unit/part")).unwrap();
        let point = root.path().display();
        let mounts = format!(
            "30 1 0:1 / /proc rw - proc proc rw\n\
             31 1 0:2 /other {point} rw - cgroup2 cgroup2 rw\n\
             32 1 0:3 / {point} rw shared:1 - cgroup cgroup rw\n\
             33 1 0:4 /slice {point} rw shared:2 master:3 - cgroup2 cgroup2 rw\n"
        );
        let find = |group: &str| OwnGroup::of(group.as_bytes(), mounts.as_bytes());
        let found = find("4:memory:/x\n0::/slice/unit/part\n").unwrap();
        assert_eq!(found.directory, root.path().join("unit/part"));
        assert_eq!(find("0::/slice\n").unwrap().directory, root.path());
        assert_eq!(find("0::/slice/none\n"), None);
        assert_eq!(find("0::/elsewhere\n"), None);
        assert_eq!(find("1:name=systemd:/\n"), None);
    }
}
