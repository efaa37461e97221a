//! The allocator, and stacks.

use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicI32, AtomicU64};

use nix::errno::Errno;

/// Keeps the allocator to one arena, so that a thread doesn't cost a heap of its own
/// (mallopt(3)).
///
/// The threads of this program allocate nothing while they serve, so there is no contention.
pub fn use_one_arena() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers and changes only the allocator's own tuning;
    // it may be called at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Returns freed memory to the kernel (malloc_trim(3)), after start-up.
pub fn return_freed() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim takes the allocator's own locks and touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Returns so many rows of numbers that are zero, for as long as the process lives (mmap(2)). The kernel
/// gives memory for a page when a number in it is first changed. Without memory there are none.
pub fn zeroes<const N: usize>(rows: usize) -> &'static [[AtomicU64; N]] {
    let length = size_of::<[AtomicU64; N]>().checked_mul(rows);
    let Some(length) = length.filter(|length| *length > 0) else {
        return &[];
    };
    match map(length, 0) {
        // SAFETY: the mapping is so long, zeroed, aligned to a page, and never unmapped; zero is an
        // AtomicU64.
        Ok(memory) => unsafe { slice::from_raw_parts(memory.as_ptr().cast(), rows) },
        Err(_) => &[],
    }
}

/// Returns numbers that are zero, which this process and those that it forks share (mmap(2)), for as
/// long as they live.
pub fn shared<const N: usize>() -> Result<&'static [AtomicI32; N], Errno> {
    let memory = map_as(size_of::<[AtomicI32; N]>(), libc::MAP_SHARED)?;
    // SAFETY: the mapping is so long, zeroed, aligned to a page, and never unmapped; zero is an
    // AtomicI32.
    Ok(unsafe { memory.cast().as_ref() })
}

/// Maps `length` bytes of memory.
fn map(length: usize, flags: libc::c_int) -> Result<NonNull<c_void>, Errno> {
    map_as(length, libc::MAP_PRIVATE | flags)
}

fn map_as(length: usize, flags: libc::c_int) -> Result<NonNull<c_void>, Errno> {
    // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing that
    // exists.
    let base = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_ANONYMOUS | flags,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(Errno::last());
    }
    NonNull::new(base).ok_or(Errno::ENOMEM)
}

/// A stack above a guard page: a thread's, or that of a child that shares this process's memory
/// until it execs.
#[derive(Debug)]
pub struct Stack {
    base: NonNull<c_void>,
    /// The length of the whole mapping.
    length: usize,
    /// The length of the guard page below.
    guard: usize,
}

/// More than a newborn child needs.
const STACK_LENGTH: usize = 64 * 1024;

impl Stack {
    /// Maps a stack for newborn children, 64 KiB.
    pub fn new() -> Result<Self, Errno> {
        Self::of(STACK_LENGTH)
    }

    /// Maps a stack of `length` bytes, whole pages, and its guard (mmap(2), mprotect(2)).
    pub(super) fn of(length: usize) -> Result<Self, Errno> {
        // SAFETY: sysconf reads a constant of the system.
        let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        let page = usize::try_from(page).unwrap_or(4096);
        let length = length + page;
        let mapped = map(length, libc::MAP_STACK)?;
        let base = mapped.as_ptr();
        let stack = Self {
            base: mapped,
            length,
            guard: page,
        };
        // SAFETY: the page is the lowest of the mapping made above, which this value owns.
        super::result::check(unsafe { libc::mprotect(base, page, libc::PROT_NONE) })?;
        Ok(stack)
    }

    /// The lowest address above the guard, and the number of bytes from there.
    pub(super) fn usable(&self) -> (*mut c_void, usize) {
        // SAFETY: the guard is the first page of the mapping.
        let base = unsafe { self.base.as_ptr().byte_add(self.guard) };
        (base, self.length - self.guard)
    }

    /// The address just above the stack, from which it grows down.
    pub(super) fn top(&mut self) -> *mut c_void {
        // SAFETY: one past the end of the mapping, as pointer arithmetic allows.
        unsafe { self.base.as_ptr().byte_add(self.length) }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own, and a child that ran on it has exec'd
        // or ended before the call that used the stack returned.
        unsafe { libc::munmap(self.base.as_ptr(), self.length) };
    }
}

// SAFETY: the mapping belongs to the value, not to a thread.
unsafe impl Send for Stack {}
