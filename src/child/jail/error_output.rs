//! Standard error of handlers in a sandbox.
//!
//! What a process has open it can open again by /proc/self/fd: a log file, to read what it says of
//! others or to empty it. Handlers that could do that have a pipe with a name instead, which no
//! process can open to read, on a file system that is read-only, so that its mode stays. A process
//! copies what they write. It lives as long as any of them, after an upgrade of skd too.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstat, mknodat, umask};
use nix::unistd::dup2_stderr;

use crate::sys::capabilities::{self, Capabilities};
use crate::sys::mounts::{Attributes, Detached};
use crate::sys::process::{self, Fork};
use crate::sys::signals::{self, Signal};
use crate::sys::{descriptors, events};

/// Whether a handler with this user id could open standard error again, for more than to write to a
/// pipe. Before a user namespace shows other ids.
pub(super) fn is_open_to(uid: u32) -> bool {
    fstat(io::stderr()).is_ok_and(|stat| may_open(&stat, uid))
}

/// Whether a process of this user could open this file for something else than it is open for.
fn may_open(stat: &FileStat, uid: u32) -> bool {
    let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
    let others = match kind {
        SFlag::S_IFCHR if stat.st_rdev == libc::makedev(1, 3) => return false,
        SFlag::S_IFIFO => 0o044,
        SFlag::S_IFCHR => 0o066,
        // What is open for writing can be emptied without being opened, and a socket shut down for all.
        _ => return true,
    };
    stat.st_uid == uid || stat.st_mode & others != 0
}

/// Puts a pipe, and a process that copies, between handlers and standard error. In the jailer, in a
/// mount namespace of its own.
pub(super) fn put_between() -> Result<(), Errno> {
    let (input, ours) = pipe()?;
    let output = descriptors::copy_above(io::stderr(), 3)?;
    match process::fork()? {
        Fork::Child => {
            drop(ours);
            run(input, output);
            process::exit_now(0)
        }
        Fork::Parent(_) => dup2_stderr(ours),
    }
}

/// A pipe that can be opened again only to write.
fn pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    const NAME: &str = "stderr";
    let attributes = Attributes::NO_SUID.and(Attributes::NO_DEVICES);
    // Mounted nowhere: it is there as long as the pipe.
    let files = Detached::in_memory(&[(c"nr_inodes", c"2")], attributes)?;
    let mode = |bits| Mode::from_bits_truncate(bits);
    let former = umask(Mode::empty());
    let made = mknodat(&files, NAME, SFlag::S_IFIFO, mode(0o600), 0);
    umask(former);
    made?;
    let open = |flags| openat(&files, NAME, flags | OFlag::O_CLOEXEC, Mode::empty());
    // Both ends, so that neither open waits for the other.
    let input = open(OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
    let output = open(OFlag::O_WRONLY)?;
    fchmod(&input, mode(0o222))?;
    descriptors::set_blocking(&input, true)?;
    files.restrict(attributes.and(Attributes::READ_ONLY))?;
    Ok((input, output))
}

/// Copies until no process can write any more. What can't be written is dropped: no handler waits for it.
fn run(input: OwnedFd, output: OwnedFd) {
    let _ = nix::sys::prctl::set_name(c"skd-stderr");
    signals::ignore(&[Signal::SIGPIPE]);
    descriptors::keep_only(&[input.as_fd(), output.as_fd()]);
    // A process of root may write to a file of root, and do nothing else.
    let _ = process::forbid_dumping();
    if capabilities::limit(Capabilities::NONE).is_err() {
        return;
    }
    let (mut input, mut output) = (File::from(input), File::from(output));
    let mut buffer = [0; 4096];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => write(&mut output, &buffer[..length]),
            Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn write(output: &mut File, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match output.write(bytes) {
            Ok(0) => return,
            Ok(length) => bytes = &bytes[length..],
            Err(reason) if reason.kind() == io::ErrorKind::Interrupted => {}
            Err(reason) if reason.kind() == io::ErrorKind::WouldBlock => {
                events::wait_writable(output.as_fd(), Duration::MAX);
            }
            Err(_) => return,
        }
    }
}
