//! The table of descriptors: what was inherited, what is reserved, what may not leak.
//!
//! The lowest descriptors of a daemon, 0, 1, 2 and one for each thread that starts handlers,
//! are always occupied, so that accept(2) and clone(2) can only hand out numbers above. A
//! child that shares the table then takes a copy of these alone: see [`super::child`].

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::dup3;

/// `CLOSE_RANGE_UNSHARE` of close_range(2).
const UNSHARE: libc::c_uint = 1 << 1;

/// How many entries the kernel looks at when a child takes a copy of the low part of a
/// table, however low (`NR_OPEN_DEFAULT`). A daemon opens its own descriptors above if it
/// can: each below is copied, and closed again, for every connection.
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
    /// Closes whatever was inherited besides 0, 1, 2 and what is `kept`, and occupies the
    /// lowest numbers: no more of them than `slots` where few may be open. With `saved`, which
    /// is /dev/null already, none is opened by its name.
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

    /// The lowest number that is left, for as long as the caller lives.
    pub fn slot(&mut self) -> Option<OwnedFd> {
        self.slots.pop()
    }

    /// 0, 1, 2, those that plans own, and so many of the lowest numbers that are left.
    pub fn low(&self, slots: usize) -> Option<Low> {
        let last = self.slots.iter().rev().nth(slots.checked_sub(1)?)?;
        Some(Low {
            unowned: self.unowned,
            end: last.as_raw_fd() as u32 + 1,
        })
    }
}

/// Whether so few may be open that none can be spared to keep others out of the way.
fn few() -> bool {
    let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
    limit < 4 * u64::from(WORD)
}

/// Descriptors that this process is to keep when it becomes another program.
#[derive(Debug, Default)]
pub struct SavedDescriptors {
    numbers: Vec<i32>,
    /// Of those that end with this image, or whose own number is low, where the next image will
    /// want none.
    copies: Vec<OwnedFd>,
}

impl SavedDescriptors {
    /// Takes one along; says under which number it will be found. Its owner stays.
    pub fn pass(&mut self, fd: impl AsFd) -> Result<i32, Errno> {
        let number = fd.as_fd().as_raw_fd();
        if (number as u32) < WORD && !few() {
            return self.pass_copy(fd);
        }
        self.numbers.push(number);
        Ok(number)
    }

    /// The same of one that is itself to end with this image.
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

    /// Has all of them outlive an exec, or not.
    pub fn survive(&self, on: bool) -> Result<(), Errno> {
        for number in &self.numbers {
            // SAFETY: the owners, and this value's copies, are still there.
            let fd = unsafe { BorrowedFd::borrow_raw(*number) };
            set_close_on_exec(fd, !on)?;
        }
        Ok(())
    }
}

/// Owns a descriptor that an earlier image of this process has left open under this number.
pub fn adopt(number: i32) -> Result<OwnedFd, Errno> {
    if number < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: start-up, and nothing in this process owns what it was handed; if it wasn't, the
    // call says so.
    let saved = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl(saved, FcntlArg::F_GETFD)?;
    // SAFETY: open, as was just seen, and from here on this value's own.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A file without a name (memfd_create(2)).
pub fn memory_file() -> Result<File, Errno> {
    memfd_create(c"skd", MFdFlags::MFD_CLOEXEC).map(File::from)
}

/// Takes over a descriptor that was handed to this process under this number, close-on-exec
/// and out of the way of those that will be reserved (fcntl(2), `F_DUPFD_CLOEXEC`).
pub fn claim(number: i32) -> Result<OwnedFd, Errno> {
    // Where few may be open, any that can be had: then more of them are low.
    let above = if few() { 3 } else { WORD as i32 };
    if number < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: start-up, and nothing in this process owns what it was handed; if it wasn't, the
    // call says so.
    let saved = unsafe { BorrowedFd::borrow_raw(number) };
    copy_above(saved, above)
}

/// Another descriptor for the same, close-on-exec and with this number or a higher one.
pub fn copy_above(fd: impl AsFd, lowest: i32) -> Result<OwnedFd, Errno> {
    let copy = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(lowest))?;
    // SAFETY: the kernel has just made it for the caller.
    Ok(unsafe { OwnedFd::from_raw_fd(copy) })
}

/// Closes what was handed to this process under this number, once it has been claimed, so
/// that its other end is seen to end with the claimed copy.
pub fn close_claimed(number: i32) {
    // SAFETY: as for claim, nothing in this process owns it.
    unsafe { libc::close(number) };
}

/// Whether this was opened for writing (fcntl(2), `F_GETFL`).
pub fn takes_writing(fd: impl AsFd) -> bool {
    let flags = fcntl(fd, FcntlArg::F_GETFL).map(OFlag::from_bits_retain);
    flags.is_ok_and(|flags| {
        !flags.contains(OFlag::O_PATH) && flags & OFlag::O_ACCMODE != OFlag::O_RDONLY
    })
}

/// /dev/null, open for reading and writing; or its like where there is none, as in the root
/// directory of a small container.
pub fn null() -> io::Result<OwnedFd> {
    let null = File::options().read(true).write(true).open("/dev/null");
    match null {
        Ok(file) => Ok(file.into()),
        Err(reason) => empty(MFdFlags::MFD_CLOEXEC).map_err(|_| reason),
    }
}

/// A file that reads as empty and takes nothing (memfd_create(2), `F_ADD_SEALS`). Unlike the end
/// of a pipe it ends nobody who writes to it.
fn empty(flags: MFdFlags) -> Result<OwnedFd, Errno> {
    let file = memfd_create(c"null", flags | MFdFlags::MFD_ALLOW_SEALING)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
    Ok(file)
}

/// Runs before `main`: where 0, 1 or 2 is closed, Rust's runtime opens /dev/null, and aborts
/// where there is none. The first process of a machine can meet with both.
#[used]
#[unsafe(link_section = ".init_array")]
static OPEN_STANDARD: extern "C" fn() = {
    extern "C" fn open() {
        for number in 0..3 {
            // SAFETY: the call takes integers, and only looks.
            let closed = unsafe { libc::fcntl(number, libc::F_GETFD) } < 0;
            if closed && !Path::new("/dev/null").exists() {
                // The lowest number that is free: this one.
                let _ = empty(MFdFlags::empty()).map(OwnedFd::into_raw_fd);
            }
        }
    }
    open
};

/// Closes every descriptor from 3 up that nobody in this process owns yet.
///
/// Where close_range(2) is missing or forbidden, each is marked close-on-exec instead:
/// what matters is that no handler gets it.
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

/// The numbers of all open descriptors; where /proc can't be seen, all that are likely.
fn open_numbers() -> Vec<u32> {
    let Ok(listing) = std::fs::read_dir("/proc/self/fd") else {
        return (0..1 << 16).collect();
    };
    let names = listing.flatten().map(|entry| entry.file_name());
    names
        .filter_map(|name| name.to_str()?.parse().ok())
        .collect()
}

/// Says whether a child can take its own copy of the low part of a shared table:
/// close_range(2) with `CLOSE_RANGE_UNSHARE` exists (Linux 5.9) and no filter forbids it.
pub fn can_unshare() -> bool {
    // An empty range of a table that is not shared: nothing happens, if the call exists.
    close_range(u32::MAX, u32::MAX, UNSHARE).is_ok()
}

/// Makes the calling process's table its own, with the low descriptors alone.
///
/// For a child that shares its parent's table; until this has succeeded, it may not touch
/// any descriptor.
pub(super) fn unshare_below(low: Low) -> Result<(), Errno> {
    close_range(low.end, u32::MAX, UNSHARE)
}

/// Closes all from `first` up, in a child's own table.
pub(super) fn close_from(first: u32) -> Result<(), Errno> {
    close_range(first, u32::MAX, 0)
}

fn close_range(first: u32, last: u32, flags: libc::c_uint) -> Result<(), Errno> {
    // SAFETY: the call takes three integers. Closing is sound only for descriptors that
    // nobody owns: callers are start-up, before anything was opened, and children and forked
    // processes, in whose tables the owners of what is closed have no more to do.
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

/// Closes what is open under the number of `fd` and has it stand for the same as `by`
/// (dup3(2)).
pub fn replace(fd: impl AsFd, by: impl AsFd) -> Result<(), Errno> {
    let (fd, by) = (fd.as_fd().as_raw_fd(), by.as_fd().as_raw_fd());
    // SAFETY: both are open, and `fd` still is afterwards, so whoever owns it closes what is its
    // own.
    let result = unsafe { libc::dup3(by, fd, libc::O_CLOEXEC) };
    Errno::result(result).map(drop)
}

/// Has reads, writes and accepts wait or not, for everyone who shares the open file
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

/// Closes everything but the given descriptors, in a process that was forked to keep only
/// those (close_range(2), or one close(2) for each number).
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

/// Closes the ranges before, between and after these numbers, which are sorted.
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
