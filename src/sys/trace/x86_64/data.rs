//! The data of the planted code.

use std::mem::offset_of;

use super::registers::Registers;
use crate::sys::trace::parking::{MOST_FILES, OpenFile, PAGE};

/// What the planted code works with, at the beginning of a page of its own; `rbp` points to it.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(in crate::sys::trace) struct Data {
    /// What was in the registers, but for rcx and r11, which a call leaves undefined.
    pub(super) saved: Saved,
    /// The call by which what goes on leads a process group: setpgid(2) or setsid(2).
    pub(in crate::sys::trace) lead: u64,
    /// The flags of clone(2), or 0 if the process goes on itself.
    pub(in crate::sys::trace) flags: u64,
    /// The address at which the C library keeps the thread's id (`CLONE_CHILD_SETTID`).
    pub(in crate::sys::trace) thread_id: u64,
    /// The address at which the kernel writes a copy's id before the copy runs
    /// (`CLONE_PARENT_SETTID`).
    pub(in crate::sys::trace) copy_id: u64,
    /// For set_tid_address(2) in a copy, if that is another address; else 0.
    pub(in crate::sys::trace) clear_id: u64,
    /// For set_robust_list(2) in a copy: list and length; or 0.
    pub(in crate::sys::trace) robust: [u64; 2],
    /// The signals that the program has blocked: the last call unblocks the others.
    pub(in crate::sys::trace) mask: u64,
    /// The signals that are pending when it goes on itself.
    pub(super) pending: u64,
    /// Which of the call's first three arguments are the id of a copy: bits from the lowest.
    pub(in crate::sys::trace) own_ids: u64,
    /// Whether other processes could trace this one before it was parked
    /// (prctl(2), `PR_SET_DUMPABLE`).
    pub(in crate::sys::trace) dumpable: u64,
    /// Whether the connection is put on 2 as well.
    pub(in crate::sys::trace) error: u64,
    /// The control socket.
    pub(in crate::sys::trace) control: u64,
    /// A message to receive, msghdr of recvmsg(2), and its parts.
    pub(super) message: Message,
    /// The byte that is received with it.
    pub(super) byte: u64,
    /// The answer: the id of the process that goes on, or an errno below 0.
    pub(super) answer: u64,
    /// How long to wait before a file is opened once more: seconds and nanoseconds.
    pub(super) pause: [u64; 2],
    /// cmsghdr of cmsg(3) and a descriptor.
    pub(super) ancillary: Ancillary,
    /// How many files a copy opens again.
    pub(in crate::sys::trace) file_count: u64,
    pub(super) files: [File; MOST_FILES],
}

/// A file that a copy opens again, so that it has a position of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct File {
    /// The address of its name, or 0 for a duplicate of another descriptor.
    pub(super) path: u64,
    /// The flags of open(2), or the other descriptor.
    pub(super) flags: u64,
    /// The position.
    pub(super) offset: u64,
    /// The descriptor.
    pub(super) number: u64,
    /// `O_CLOEXEC`, or 0.
    pub(super) close_on_exec: u64,
    /// /proc/self/fd/NUMBER
    pub(super) name: [u8; 24],
}

const _: () = assert!(size_of::<Data>() <= PAGE as usize);

#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Saved {
    pub(super) r15: u64,
    pub(super) r14: u64,
    pub(super) r13: u64,
    pub(super) r12: u64,
    pub(super) rbp: u64,
    pub(super) rbx: u64,
    pub(super) r10: u64,
    pub(super) r9: u64,
    pub(super) r8: u64,
    pub(super) rax: u64,
    pub(super) rdx: u64,
    pub(super) rsi: u64,
    pub(super) rdi: u64,
    pub(super) rsp: u64,
    pub(super) rip: u64,
    pub(super) eflags: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    pub(super) name: u64,
    pub(super) name_length: u64,
    pub(super) parts: u64,
    pub(super) part_count: u64,
    pub(super) ancillary: u64,
    pub(super) ancillary_length: u64,
    pub(super) flags: u64,
    pub(super) part: u64,
    pub(super) part_length: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Ancillary {
    pub(super) length: u64,
    pub(super) level: i32,
    pub(super) kind: i32,
    pub(super) descriptor: i32,
    pub(super) padding: i32,
}

impl Data {
    /// The data for a process that will go on with these registers. `address` is where they will
    /// be.
    pub(in crate::sys::trace) fn new(registers: &Registers, address: u64) -> Self {
        let registers = &registers.0;
        let at = |offset: usize| address + offset as u64;
        Self {
            saved: Saved {
                r15: registers.r15,
                r14: registers.r14,
                r13: registers.r13,
                r12: registers.r12,
                rbp: registers.rbp,
                rbx: registers.rbx,
                r10: registers.r10,
                r9: registers.r9,
                r8: registers.r8,
                rax: registers.rax,
                rdx: registers.rdx,
                rsi: registers.rsi,
                rdi: registers.rdi,
                rsp: registers.rsp,
                rip: registers.rip,
                eflags: registers.eflags,
            },
            lead: libc::SYS_setpgid as u64,
            flags: 0,
            thread_id: 0,
            copy_id: 0,
            clear_id: 0,
            robust: [0; 2],
            mask: 0,
            pending: 0,
            own_ids: 0,
            dumpable: 0,
            error: 0,
            control: 0,
            message: Message {
                name: 0,
                name_length: 0,
                parts: at(offset_of!(Self, message) + offset_of!(Message, part)),
                part_count: 1,
                ancillary: at(offset_of!(Self, ancillary)),
                ancillary_length: ANCILLARY as u64,
                flags: 0,
                part: at(offset_of!(Self, byte)),
                part_length: 1,
            },
            byte: 0,
            ancillary: Ancillary {
                length: 0,
                level: 0,
                kind: 0,
                descriptor: -1,
                padding: 0,
            },
            answer: 0,
            pause: [0, 100_000_000],
            file_count: 0,
            files: [File::default(); MOST_FILES],
        }
    }

    /// Makes copies open these files again, at most [`MOST_FILES`].
    pub(in crate::sys::trace) fn set_files(&mut self, address: u64, files: &[OpenFile]) {
        let first = address + offset_of!(Self, files) as u64;
        let addresses = (first..).step_by(size_of::<File>());
        let entries = self.files.iter_mut().zip(addresses);
        for ((file, address), open) in entries.zip(files) {
            let mut name = [0; 24];
            let text = format!("/proc/self/fd/{}", open.number);
            // No descriptor has more than nine digits, hence the NUL.
            let length = text.len().min(name.len() - 1);
            name[..length].copy_from_slice(&text.as_bytes()[..length]);
            let opening = (address + offset_of!(File, name) as u64, open.flags as u64);
            let (path, flags) = open.like.map_or(opening, |like| (0, u64::from(like)));
            *file = File {
                path,
                flags,
                offset: open.offset,
                number: u64::from(open.number),
                close_on_exec: if open.close_on_exec {
                    libc::O_CLOEXEC as u64
                } else {
                    0
                },
                name,
            };
            self.file_count += 1;
        }
    }

    /// The path's address and the flags of each file that is opened.
    pub(in crate::sys::trace) fn openings(&self) -> impl Iterator<Item = (u64, u64)> {
        let files = self.files.iter().take(self.file_count as usize);
        files
            .map(|file| (file.path, file.flags))
            .filter(|(path, _)| *path != 0)
    }

    /// The address of the message.
    pub(in crate::sys::trace) fn message(address: u64) -> u64 {
        address + offset_of!(Self, message) as u64
    }

    /// The address of the descriptor that came with it.
    pub(in crate::sys::trace) fn descriptor(address: u64) -> u64 {
        address + DESCRIPTOR as u64
    }
}

/// The size of the ancillary data of one descriptor (`CMSG_SPACE`).
pub(super) const ANCILLARY: usize = size_of::<Ancillary>();
pub(super) const DESCRIPTOR: usize =
    offset_of!(Data, ancillary) + offset_of!(Ancillary, descriptor);
