//! The table of descriptors: what is inherited, reserved, saved.
//!
//! The low descriptors of a daemon are 0, 1, 2, those that plans own, and one for each thread that
//! starts handlers. They are always occupied, so accept(2) and clone(2) only return numbers above.
//! A child that shares the table copies only these: see [`super::child`].

use std::fs::File;
use std::io::{self, IsTerminal};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::OnceLock;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl, open};
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, dup3};

use super::process::open_pidfd;

use super::result::check;

/// `CLOSE_RANGE_UNSHARE` of close_range(2).
const UNSHARE: libc::c_uint = 1 << 1;

/// The number of entries that the kernel copies at the least when a child takes a copy of the low
/// part of a table (`NR_OPEN_DEFAULT`). A daemon opens its own descriptors above if it can: each
/// below is copied, and closed again, for every connection.
const WORD: u32 = 64;

/// Descriptors from 3 up, occupied by /dev/null until one is needed, or until this is dropped.
#[derive(Debug)]
pub struct Reserved {
    /// The lowest last.
    slots: Vec<OwnedFd>,
    /// The first number above those that plans own.
    unowned: u32,
}

/// The low descriptors: those that a child takes a copy of.
///
/// From 3 up there are those that plans own, which its steps may use, and then those of the
/// threads, for connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Low {
    /// The first that no plan owns.
    unowned: u32,
    /// The first that isn't low.
    end: u32,
}

impl Low {
    /// The first that no plan owns: from here up, a child closes all.
    pub(super) fn first_unowned(self) -> u32 {
        self.unowned
    }

    /// Those that no plan owns.
    pub(super) fn unowned(self) -> Range<RawFd> {
        self.unowned as RawFd..self.end as RawFd
    }
}

/// The lowest number besides the standard descriptors.
const FIRST: u32 = 3;

impl Reserved {
    /// Closes all inherited descriptors except 0, 1, 2 and `kept`, and occupies the lowest numbers:
    /// at most `slots` of them if few descriptors may be open. `saved` is /dev/null that was opened
    /// before, so that it isn't opened by its name.
    pub fn take(slots: usize, kept: &[impl AsFd], saved: Option<&OwnedFd>) -> io::Result<Self> {
        close_inherited(kept);
        let few = few();
        let mut taken = Vec::with_capacity(WORD as usize);
        taken.push(saved.map_or_else(null, OwnedFd::try_clone)?);
        while !(few && taken.len() == slots) {
            let next = taken[0].try_clone()?;
            if next.as_raw_fd() as u32 >= WORD {
                break;
            }
            taken.push(next);
        }
        taken.reverse();
        Ok(Self {
            slots: taken,
            unowned: FIRST,
        })
    }

    /// Moves a descriptor to the lowest number that is left, close-on-exec (dup3(2)), for a plan to
    /// own. Called before [`Self::low`] and [`Self::slot`].
    pub fn own(&mut self, fd: OwnedFd) -> Result<OwnedFd, Errno> {
        let mut slot = self.slots.pop().ok_or(Errno::EMFILE)?;
        dup3(&fd, &mut slot, OFlag::O_CLOEXEC)?;
        self.unowned = slot.as_raw_fd() as u32 + 1;
        Ok(slot)
    }

    /// Takes the lowest number that is left. The caller owns it as long as it lives.
    pub fn slot(&mut self) -> Option<OwnedFd> {
        self.slots.pop()
    }

    /// The low descriptors of a daemon that takes so many more slots; `None` if there are fewer.
    pub fn low(&self, slots: usize) -> Option<Low> {
        let last = self.slots.iter().rev().nth(slots.checked_sub(1)?)?;
        Some(Low {
            unowned: self.unowned,
            end: last.as_raw_fd() as u32 + 1,
        })
    }
}

/// Whether so few descriptors may be open that none can be spared to occupy numbers.
fn few() -> bool {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    limit < 4 * u64::from(WORD)
}

/// Descriptors that survive an exec of this process, for an upgrade.
#[derive(Debug, Default)]
pub struct SavedDescriptors {
    numbers: Vec<i32>,
    /// Copies of descriptors that end with this program, or whose own number is low, where the next
    /// program reserves numbers.
    copies: Vec<OwnedFd>,
}

impl SavedDescriptors {
    /// Adds one, and returns the number that the next program finds it under. The owner doesn't
    /// change.
    pub fn pass(&mut self, fd: impl AsFd) -> Result<i32, Errno> {
        let number = fd.as_fd().as_raw_fd();
        if (number as u32) < WORD && !few() {
            return self.pass_copy(fd);
        }
        self.numbers.push(number);
        Ok(number)
    }

    /// Adds a copy of a descriptor that itself ends with this program.
    pub fn pass_copy(&mut self, fd: impl AsFd) -> Result<i32, Errno> {
        let copy = claim(fd.as_fd().as_raw_fd())?;
        let number = copy.as_raw_fd();
        self.copies.push(copy);
        self.numbers.push(number);
        Ok(number)
    }

    /// The numbers of all.
    pub fn numbers(&self) -> &[i32] {
        &self.numbers
    }

    /// Makes all of them survive an exec, or not.
    pub fn survive(&self, on: bool) -> Result<(), Errno> {
        for number in &self.numbers {
            // SAFETY: the owners, and this value's copies, are still there.
            let fd = unsafe { BorrowedFd::borrow_raw(*number) };
            set_close_on_exec(fd, !on)?;
        }
        Ok(())
    }
}

/// Takes ownership of a descriptor that the program before an upgrade left open with this number.
pub fn adopt(number: i32) -> Result<OwnedFd, Errno> {
    if number < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: start-up, and nothing in this process owns what it inherited; for what it didn't, the
    // call fails.
    let saved = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(saved, FcntlArg::F_GETFD)?;
    // SAFETY: open, as was just seen, and from here on this value's own.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Makes a file without a name (memfd_create(2)).
pub fn memory_file() -> Result<File, Errno> {
    memfd_create(c"skd", MFdFlags::MFD_CLOEXEC).map(File::from)
}

/// Copies an inherited descriptor with this number, close-on-exec and above the numbers that will
/// be reserved (fcntl(2), `F_DUPFD_CLOEXEC`).
pub fn claim(number: i32) -> Result<OwnedFd, Errno> {
    // If few may be open, any number: then more of them are low.
    let above = if few() { 3 } else { WORD as i32 };
    if number < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: start-up, and nothing in this process owns what it inherited; for what it didn't, the
    // call fails.
    let saved = unsafe { BorrowedFd::borrow_raw(number) };
    copy_above(saved, above)
}

/// Copies a descriptor, close-on-exec and to this number or a higher one.
pub fn copy_above(fd: impl AsFd, lowest: i32) -> Result<OwnedFd, Errno> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: the kernel has just made it for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Closes the inherited descriptor with this number after [`claim`], so that the other end of a
/// pipe or socket sees the end of the copy.
pub fn close_claimed(number: i32) {
    // SAFETY: as for claim, nothing in this process owns it.
    unsafe { libc::close(number) };
}

/// Whether this is open for writing (fcntl(2), `F_GETFL`).
pub fn takes_writing(fd: impl AsFd) -> bool {
    let flags = fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    flags.is_ok_and(|flags| {
        !flags.contains(OFlag::O_PATH) && flags & OFlag::O_ACCMODE != OFlag::O_RDONLY
    })
}

/// Opens /dev/null for reading and writing. Where there is none, as in a small container, it makes
/// a substitute.
pub fn null() -> io::Result<OwnedFd> {
    let null = File::options().read(true).write(true).open("/dev/null");
    match null {
        Ok(file) => Ok(file.into()),
        Err(reason) => empty(MFdFlags::MFD_CLOEXEC).map_err(|_| reason),
    }
}

/// Makes a file that is empty and can't be written (memfd_create(2), `F_ADD_SEALS`). Unlike a pipe
/// without a reader it sends no SIGPIPE.
fn empty(flags: MFdFlags) -> Result<OwnedFd, Errno> {
    let file = memfd_create(c"null", flags | MFdFlags::MFD_ALLOW_SEALING)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
    Ok(file)
}

/// Runs before `main`: if 0, 1 or 2 is closed, Rust's runtime opens /dev/null, and aborts if there
/// is none. For the first process of a machine both can be so.
#[used]
#[unsafe(link_section = ".init_array")]
static OPEN_STANDARD: extern "C" fn() = {
    extern "C" fn open() {
        for number in 0..3 {
            // SAFETY: the call takes integers and changes nothing.
            let closed = unsafe { libc::fcntl(number, libc::F_GETFD) } < 0;
            if closed && !Path::new("/dev/null").exists() {
                // It gets the lowest free number: this one.
                let _ = empty(MFdFlags::empty()).map(OwnedFd::into_raw_fd);
            }
        }
    }
    open
};

/// Closes all inherited descriptors from 3 up except `kept`.
///
/// Without close_range(2), each is made close-on-exec instead: what matters is that no handler gets
/// it.
fn close_inherited(kept: &[impl AsFd]) {
    let kept = kept.iter().map(|fd| fd.as_fd().as_raw_fd() as u32);
    let mut kept: Vec<u32> = kept.chain([0, 1, 2]).collect();
    kept.sort_unstable();
    if close_around(&kept).is_ok() {
        return;
    }
    for number in open_numbers() {
        if kept.contains(&number) {
            continue;
        }
        // SAFETY: the number was open a moment ago, in the only thread there is; should it be
        // gone again, fcntl on it does no harm.
        let borrowed = unsafe { BorrowedFd::borrow_raw(number as i32) };
        let _ = set_close_on_exec(borrowed, true);
    }
}

/// The numbers of all open descriptors; without /proc, all likely numbers.
fn open_numbers() -> Vec<u32> {
    let Ok(listing) = std::fs::read_dir("/proc/self/fd") else {
        return (0..1 << 16).collect();
    };
    let names = listing.flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect()
}

/// Whether a child can take its own copy of the low part of a shared table: there is close_range(2)
/// with `CLOSE_RANGE_UNSHARE` (Linux 5.9), and no filter refuses it.
///
/// First called while there is one thread.
pub fn can_unshare() -> bool {
    static FOUND: OnceLock<bool> = OnceLock::new();
    // An empty range of a table that is not shared: nothing happens, if the call exists. With a
    // second thread, the caller's table would become its own.
    *FOUND.get_or_init(|| close_range(u32::MAX, u32::MAX, UNSHARE).is_ok())
}

/// Makes the calling process's table its own, with only the low descriptors.
///
/// For a child that shares its parent's table. Until this has succeeded, it mustn't touch any
/// descriptor.
pub(super) fn unshare_below(low: Low) -> Result<(), Errno> {
    close_range(low.end, u32::MAX, UNSHARE)
}

/// Closes all from `first` up, in a child's own table.
pub(super) fn close_from(first: u32) -> Result<(), Errno> {
    close_range(first, u32::MAX, 0)
}

/// Gives the calling thread a table of its own, which has copies of these descriptors. While it has
/// them, no other close is the last one. For a thread that exits soon: if this fails, its table may be
/// empty.
pub(super) fn unshare_with(descriptors: &[OwnedFd]) -> Result<(), Errno> {
    close_range(0, u32::MAX, UNSHARE)?;
    let process = open_pidfd(Pid::this())?;
    for fd in descriptors {
        let (process, fd) = (process.as_raw_fd(), fd.as_raw_fd());
        // SAFETY: the call takes integers; the copy belongs to this thread's own table.
        let copy = unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, fd, 0) };
        Errno::result(copy)?;
    }
    Ok(())
}

/// The same with copies of all descriptors, where there is no pidfd_getfd(2), or a filter refuses it.
pub(super) fn unshare_with_all() -> Result<(), Errno> {
    close_range(u32::MAX, u32::MAX, UNSHARE).or_else(|_| unshare(CloneFlags::CLONE_FILES))
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: the call takes three integers. Closing is sound only for descriptors without an
    // owner: callers are start-up, before anything was opened, and children and forked processes,
    // in which the code of the owners never runs.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    Errno::result(result).map(drop)
}

/// Sets or clears close-on-exec (fcntl(2), `F_SETFD`).
pub fn set_close_on_exec(fd: impl AsFd, on: bool) -> Result<(), Errno> {
    let flag = if on {
        nix::fcntl::FdFlag::FD_CLOEXEC
    } else {
        nix::fcntl::FdFlag::empty()
    };
    fcntl(fd, FcntlArg::F_SETFD(flag)).map(drop)
}

/// Opens the terminal anew, for writing alone, where this standard descriptor is one. The error is
/// the reason why it stays as it is.
///
/// Terminals are open for reading as well. A program in another session isn't kept from reading, as
/// a background process of the terminal's own session is: it would get what is typed.
pub fn keep_from_reading_terminal(number: i32) -> Result<(), Errno> {
    // SAFETY: the standard descriptors are never closed.
    let fd = unsafe { BorrowedFd::borrow_raw(number) };
    let reads = || {
        let flags = fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
        flags.is_ok_and(|flags| flags & OFlag::O_ACCMODE != OFlag::O_WRONLY)
    };
    if !fd.is_terminal() || !reads() {
        return Ok(());
    }
    let reopen = |path: &str| {
        let flags = OFlag::O_WRONLY | OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let opened = open(path, flags, Mode::empty())?;
        let is_same = is_same_terminal(opened.as_fd(), fd);
        is_same.then_some(opened).ok_or(Errno::ENOTTY)
    };
    // The first may be another user's, as after su(1), and the second isn't there without a
    // session.
    let own = format!("/proc/self/fd/{number}");
    let opened = reopen(&own).or_else(|why| reopen("/dev/tty").map_err(|_| why))?;
    set_blocking(&opened, true)?;
    // SAFETY: both are open; the owner of a standard descriptor is the process.
    check(unsafe { libc::dup2(opened.as_raw_fd(), number) }).map(drop)
}

/// Whether two descriptors are of one terminal. /dev/tty is the terminal of the session.
fn is_same_terminal(one: BorrowedFd<'_>, other: BorrowedFd<'_>) -> bool {
    let name = |fd: BorrowedFd<'_>| {
        let mut number: libc::c_uint = 0;
        // SAFETY: the call writes one number (ioctl_tty(2)).
        check(unsafe { libc::ioctl(fd.as_raw_fd(), TIOCGDEV, &raw mut number) }).map(|_| number)
    };
    matches!((name(one), name(other)), (Ok(one), Ok(other)) if one == other)
}

/// The device of a terminal (ioctl_tty(2)); the C library has no name for it everywhere.
const TIOCGDEV: libc::Ioctl = if cfg!(any(
    target_arch = "mips",
    target_arch = "mips64",
    target_arch = "powerpc",
    target_arch = "powerpc64",
    target_arch = "sparc64"
)) {
    0x4004_5432
} else {
    0x8004_5432_u32 as libc::Ioctl
};

/// Closes `fd` and makes its number refer to what `by` does (dup3(2)).
pub fn replace(fd: impl AsFd, by: impl AsFd) -> Result<(), Errno> {
    let (fd, by) = (fd.as_fd().as_raw_fd(), by.as_fd().as_raw_fd());
    // SAFETY: both are open, and `fd` still is afterwards, so its owner closes what is its own.
    let result = unsafe { libc::dup3(by, fd, libc::O_CLOEXEC) };
    Errno::result(result).map(drop)
}

/// Makes reads, writes and accepts wait or not, by all descriptors for the same open file
/// (fcntl(2), `O_NONBLOCK` of `F_SETFL`).
pub fn set_blocking(fd: impl AsFd, on: bool) -> Result<(), Errno> {
    let flags = OFlag::from_bits_retain(fcntl(&fd, FcntlArg::F_GETFL)?);
    let mut wanted = flags;
    wanted.set(OFlag::O_NONBLOCK, !on);
    if wanted != flags {
        fcntl(&fd, FcntlArg::F_SETFL(wanted))?;
    }
    Ok(())
}

/// Closes all descriptors except `kept`, in a process that was forked for one job (close_range(2),
/// or close(2) for each number).
pub fn keep_only(kept: &[BorrowedFd<'_>]) {
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.as_raw_fd() as u32).collect();
    kept.sort_unstable();
    if close_around(&kept).is_ok() {
        return;
    }
    for number in open_numbers() {
        if !kept.contains(&number) {
            // SAFETY: the process was forked for one job, and the owners of these numbers are
            // gone with the code that will never run here.
            unsafe { libc::close(number as i32) };
        }
    }
}

/// Closes all descriptors except these, which are sorted.
fn close_around(kept: &[u32]) -> Result<(), Errno> {
    let mut first = 0;
    for number in kept.iter().copied().chain([u32::MAX]) {
        if first < number {
            close_range(first, number - 1, 0)?;
        }
        first = number.saturating_add(1);
    }
    Ok(())
}
