//! The files that a parked process has open.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::failure::{Failure, killed};
use crate::error::Reason;
use crate::sys::process;
use crate::sys::trace::{MOST_FILES, OpenFile};

/// What a process has open, except standard error.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// The files that have a position.
    pub(super) files: Vec<OpenFile>,
    /// Whether there is something that copies of the process would share, though each would have
    /// made its own: pipes, epoll sets and the like, or files of /proc about a process.
    pub(super) own: bool,
    /// Whether there is a file without a name.
    pub(super) unnamed: bool,
}

/// Lists what a process has open (proc(5)).
pub(super) fn open_files(pid: Pid) -> Result<Open, Failure> {
    let directory = format!("/proc/{pid}/fd");
    let hidden = |why: io::Error| {
        let why = why.reason();
        Failure::Unfit(format!("what it has open can't be seen in /proc: {why}"))
    };
    // The process is held: its entries vanish only with it.
    let gone = |why: io::Error| match why.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ESRCH) => killed(),
        _ => hidden(why),
    };
    let mut open = Open::default();
    for entry in fs::read_dir(directory).map_err(hidden)? {
        let name = entry.map_err(gone)?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // All share standard error, under whichever number.
        if number <= 2 || is_same(pid, 2, number) {
            continue;
        }
        let target = fs::read_link(format!("/proc/{pid}/fd/{number}")).map_err(gone)?;
        let target = target.as_os_str().as_bytes();
        open.own |= OWN.iter().any(|own| target.starts_with(own));
        open.unnamed |= target.ends_with(b" (deleted)");
        if let Some(mut file) = open_file(pid, number).map_err(gone)? {
            let mut earlier = open.files.iter().map(|file| file.number);
            file.like = earlier.find(|&earlier| is_same(pid, earlier, number));
            open.files.push(file);
        }
    }
    if open.files.len() > MOST_FILES {
        let text = format!("it has more than {MOST_FILES} files open");
        return Err(Failure::Unfit(text));
    }
    Ok(open)
}

/// Whether two descriptors refer to one open file, with one position.
fn is_same(pid: Pid, one: u32, other: u32) -> bool {
    process::same_open_file(pid, one, other).unwrap_or_else(|_| {
        // Without kcmp(2), what looks the same counts as the same.
        let look = |number: u32| {
            let information = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"));
            let target = fs::read_link(format!("/proc/{pid}/fd/{number}"));
            information.ok().zip(target.ok())
        };
        look(one) == look(other)
    })
}

/// How the names begin of what only the process itself can have made, and of /proc/PID.
const OWN: [&[u8]; 4] = [b"pipe:", b"anon_inode:", b"/memfd:", b"/proc/"];

fn open_file(pid: Pid, number: u32) -> io::Result<Option<OpenFile>> {
    // These would have an effect, or be refused, if the file is opened again.
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
        like: None,
        flags: flags & !ONCE,
        offset: field("pos:", 10).ok_or_else(missing)?,
        close_on_exec: flags & libc::O_CLOEXEC != 0,
    }))
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek, SeekFrom};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn what_is_open_is_found_with_its_position_and_flags() {
        let mut file = File::open("/proc/self/exe").unwrap();
        file.seek(SeekFrom::Start(17)).unwrap();
        let number = file.as_raw_fd() as u32;
        let (end, _other) = nix::unistd::pipe().unwrap();
        let again = file.try_clone().unwrap();
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
        let twice = again.as_raw_fd().max(file.as_raw_fd()) as u32;
        let other = open.files.iter().find(|open| open.number == twice);
        assert_eq!(
            other.unwrap().like,
            Some(number.min(again.as_raw_fd() as u32))
        );
    }
}
