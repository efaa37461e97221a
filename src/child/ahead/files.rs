//! Files: those that a parked process has open, and those that it was made from.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use nix::unistd::Pid;

use crate::child::plan::Plan;
use crate::error::Reason;
use crate::sys::trace::{MOST_FILES, OpenFile};

/// What a process has open, standard error aside.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// The files that have a position.
    pub(super) files: Vec<OpenFile>,
    /// Whether there is something else that copies of the process would share, though each would have
    /// made its own: pipes, epoll sets and the like, or a file without a name.
    pub(super) own: bool,
}

/// What a process has open (proc(5)).
pub(super) fn open_files(pid: Pid) -> Result<Open, String> {
    let directory = format!("/proc/{pid}/fd");
    let unseen =
        |why: io::Error| format!("what it has open can't be seen in /proc: {}", why.reason());
    let mut open = Open::default();
    for entry in fs::read_dir(directory).map_err(unseen)? {
        let name = entry.map_err(unseen)?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        if number <= 2 {
            continue;
        }
        open.own |= is_own(pid, number).map_err(unseen)?;
        open.files.extend(open_file(pid, number).map_err(unseen)?);
    }
    if open.files.len() > MOST_FILES {
        return Err(format!("it has more than {MOST_FILES} files open"));
    }
    Ok(open)
}

/// Whether nobody but this process can have opened what this is.
fn is_own(pid: Pid, number: u32) -> io::Result<bool> {
    let target = fs::read_link(format!("/proc/{pid}/fd/{number}"))?;
    let target = target.as_os_str().as_bytes();
    let kinds = [b"pipe:".as_slice(), b"anon_inode:", b"/memfd:"];
    Ok(kinds.iter().any(|kind| target.starts_with(kind)) || target.ends_with(b" (deleted)"))
}

fn open_file(pid: Pid, number: u32) -> io::Result<Option<OpenFile>> {
    // Such as those would do something, or be refused, at another opening.
    const ONCE: i32 =
        libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_NOFOLLOW | UNNAMED | libc::O_CLOEXEC;
    const UNNAMED: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;
    let kind = fs::metadata(format!("/proc/{pid}/fd/{number}"))?;
    if !kind.is_file() && !kind.is_dir() {
        return Ok(None);
    }
    let information = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"))?;
    let field = |name: &str, radix| {
        let mut lines = information.lines();
        let value = lines.find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(value.trim(), radix).ok()
    };
    let missing = || io::Error::other("a field is missing");
    let flags = field("flags:", 8).ok_or_else(missing)? as i32;
    if flags & libc::O_PATH != 0 {
        return Ok(None);
    }
    Ok(Some(OpenFile {
        number,
        flags: flags & !ONCE,
        offset: field("pos:", 10).ok_or_else(missing)?,
        close_on_exec: flags & libc::O_CLOEXEC != 0,
    }))
}

/// What a program was made from: its file, and what files its arguments name, the script for one.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sources(Vec<(PathBuf, Option<Stamp>)>);

/// By what a file is known to be the same, with the same in it.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Sources {
    /// As they are now.
    pub(super) fn of(plan: &Plan) -> Self {
        let arguments = plan.image().arguments().iter().skip(1);
        let named = arguments.map(|argument| plan.seen_from_here(argument));
        let named = named.filter(|path| path.is_file());
        let all = [plan.path_from_here()].into_iter().chain(named);
        Self(all.map(|path| (path.clone(), Stamp::of(&path))).collect())
    }

    /// Whether all of them are as they were.
    pub(super) fn are_unchanged(&self) -> bool {
        self.0.iter().all(|(path, stamp)| Stamp::of(path) == *stamp)
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use io::{Seek, SeekFrom};
    use std::fs::File;

    use super::*;

    #[test]
    fn what_is_open_is_found_with_its_position_and_flags() {
        let mut file = File::open("/proc/self/exe").unwrap();
        file.seek(SeekFrom::Start(17)).unwrap();
        let number = std::os::fd::AsRawFd::as_raw_fd(&file) as u32;
        let (end, _other) = nix::unistd::pipe().unwrap();
        let open = open_files(nix::unistd::getpid()).unwrap();
        assert!(open.own);
        drop(end);
        let found = open
            .files
            .iter()
            .find(|open| open.number == number)
            .unwrap();
        assert_eq!(found.offset, 17);
        assert_eq!(found.flags & libc::O_ACCMODE, libc::O_RDONLY);
        assert!(found.close_on_exec);
    }
}
