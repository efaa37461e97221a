//! What is needed to park a process.

use super::one_processor::Processors;

/// The size of a page.
pub(super) const PAGE: u64 = 4096;

/// How many files a copy can open again.
pub const MOST_FILES: usize = 32;

/// What the code in a parked process needs to go on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parking {
    /// Whether copies go on, one for each descriptor. Otherwise the process does, with the first.
    pub copies: bool,
    /// Whether what goes on leads a session of its own, and not only a process group.
    pub session: bool,
    /// Whether it is tied to the end of its parent, and stays so.
    pub tied: bool,
    /// Whether the descriptor is standard error of what goes on too.
    pub error: bool,
    /// The processors that it may use once it is parked, if it may use only one before.
    pub processors: Option<Processors>,
    /// The address that the kernel clears at its end (set_tid_address(2)), if there is one.
    pub clear_id: Option<u64>,
    /// Its list of robust futexes and its length (set_robust_list(2)), if it has one.
    pub robust: Option<[u64; 2]>,
    /// Which of the first three arguments of the call that it is parked at are its own id: a copy
    /// makes the call with its own.
    pub own_ids: [bool; 3],
    /// The files, at most [`MOST_FILES`], that a copy opens again: all that inherit a descriptor
    /// share its position, flags and locks.
    pub files: Vec<OpenFile>,
}

/// A regular file, directory or device without state that a process has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// Its descriptor.
    pub number: u32,
    /// The earlier descriptor for the same open file: it is duplicated, not opened again.
    pub like: Option<u32>,
    /// The flags of open(2) to open it with.
    pub flags: i32,
    /// The position in it.
    pub offset: u64,
    /// Whether it is closed at an exec.
    pub close_on_exec: bool,
}
