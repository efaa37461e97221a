//! The files that a parked process has open.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::unistd::Pid;

use super::arguments::ClientDescriptors;
use super::failure::{Failure, killed};
use super::kinds::{Kind, Kinds};
use crate::error::Reason;
use crate::sys::process::{self, FilesAs};
use crate::sys::trace::{MOST_FILES, OpenFile};

/// What a process has open, except standard error.
#[derive(Debug, Default)]
pub(super) struct Open {
    /// The files that each copy opens anew.
    pub(super) files: Vec<OpenFile>,
    /// The kinds of what copies of the process would share, though each would have made its own.
    pub(super) shared: Kinds,
    /// The name of one of these, as /proc shows it.
    pub(super) example: String,
}

/// What is standard error of a process: the target of a link in /proc.
pub(super) fn standard_error(pid: Pid) -> Option<PathBuf> {
    let _owner = as_owner(pid).ok()?;
    fs::read_link(format!("/proc/{pid}/fd/2")).ok()
}

/// Looks at its descriptors as their owner: with `--user`, skd has no right to read other users' directories.
pub(super) fn as_owner(pid: Pid) -> io::Result<FilesAs> {
    let directory = fs::metadata(format!("/proc/{pid}/fd"))?;
    Ok(FilesAs::user(directory.uid().into()))
}

/// Lists what a process has open (proc(5)), but for its client. It was started with this standard
/// error, if that isn't the client.
pub(super) fn open_files(
    pid: Pid,
    standard_error: Option<&Path>,
    client: ClientDescriptors,
) -> Result<Open, Failure> {
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
    let _owner = as_owner(pid).map_err(gone)?;
    for entry in fs::read_dir(directory).map_err(hidden)? {
        let name = entry.map_err(gone)?.file_name();
        let Some(number) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if client.have(number.into()) {
            continue;
        }
        let target = fs::read_link(format!("/proc/{pid}/fd/{number}")).map_err(gone)?;
        // All share standard error, under whichever number.
        if Some(&*target) == standard_error && (number == 2 || is_same(pid, 2, number)) {
            continue;
        }
        let found = look(pid, number, &target).map_err(gone)?;
        // A pipe or a terminal that is no longer under number 2.
        if Some(&*target) == standard_error && found.file.is_none() {
            continue;
        }
        if let Some(kind) = found.shared {
            open.shared = open.shared.with(kind);
            open.example = target.to_string_lossy().into_owned();
        }
        if let Some(mut file) = found.file {
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

/// A descriptor, seen from outside.
#[derive(Debug)]
struct Found {
    /// What copies of the process would share, if they would.
    shared: Option<Kind>,
    /// What a copy can open again.
    file: Option<OpenFile>,
}

fn look(pid: Pid, number: u32, target: &Path) -> io::Result<Found> {
    // These would have an effect, or be refused, if the file is opened again.
    const ONCE: i32 =
        libc::O_CREAT | libc::O_EXCL | libc::O_TRUNC | libc::O_NOFOLLOW | UNNAMED | libc::O_CLOEXEC;
    const UNNAMED: i32 = libc::O_TMPFILE & !libc::O_DIRECTORY;
    let information = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"))?;
    let field = |name: &str, radix| {
        let mut lines = information.lines();
        let value = lines.find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(value.trim(), radix).ok()
    };
    let missing = || io::Error::other("a field is missing");
    let flags = field("flags:", 8).ok_or_else(missing)? as i32;
    let metadata = fs::metadata(format!("/proc/{pid}/fd/{number}"))?;
    if metadata.dev() == fs::metadata("/proc")?.dev() {
        // It may be about the process.
        return Ok(Found {
            shared: Some(Kind::Special),
            file: None,
        });
    }
    if flags & libc::O_PATH != 0 {
        // A place in the file system, without a position.
        return Ok(Found {
            shared: None,
            file: None,
        });
    }
    let shared = kind(&metadata, target.as_os_str().as_bytes(), flags);
    // A device without state has flags, an owner and locks as well, which copies would share.
    let is_device = shared.is_none() && metadata.file_type().is_char_device();
    let is_file = metadata.is_file() || metadata.is_dir() || is_device;
    let file = OpenFile {
        number,
        like: None,
        flags: flags & !ONCE,
        offset: field("pos:", 10).ok_or_else(missing)?,
        close_on_exec: flags & libc::O_CLOEXEC != 0,
    };
    Ok(Found {
        shared,
        file: is_file.then_some(file),
    })
}

/// The kind of what is open, if copies would share it. A file that is opened again isn't shared,
/// if others can open it by its name too.
fn kind(metadata: &Metadata, target: &[u8], flags: i32) -> Option<Kind> {
    let begins = |name: &[u8]| target.starts_with(name);
    let kind = metadata.file_type();
    if begins(b"pipe:") {
        Some(Kind::Pipe)
    } else if kind.is_socket() {
        Some(Kind::Socket)
    } else if begins(b"anon_inode:") {
        Some(Kind::Anonymous)
    } else if begins(b"/memfd:") {
        Some(Kind::Memory)
    } else if kind.is_block_device() {
        Some(Kind::Special)
    } else if kind.is_char_device() {
        (!is_one_of(metadata, &STATELESS)).then_some(Kind::Special)
    } else if target.ends_with(b" (deleted)") && flags & libc::O_ACCMODE != libc::O_RDONLY {
        Some(Kind::Unnamed)
    } else {
        None
    }
}

/// The minor numbers of /dev/null and its like that have no state: null, zero, full, random and
/// urandom.
const STATELESS: [u32; 5] = [3, 5, 7, 8, 9];

/// Whether this is /dev/null or its like, with one of these minor numbers.
pub(super) fn is_one_of(found: &Metadata, minors: &[u32]) -> bool {
    const MEMORY_DEVICES: u32 = 1;
    found.file_type().is_char_device()
        && libc::major(found.rdev()) == MEMORY_DEVICES
        && minors.contains(&libc::minor(found.rdev()))
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
        let own = nix::unistd::getpid();
        let error = standard_error(own);
        let open = open_files(own, error.as_deref(), ClientDescriptors::USUAL).unwrap();
        assert!(open.shared.meet(Kind::Pipe.into()));
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
