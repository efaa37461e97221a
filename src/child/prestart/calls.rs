//! What becomes of a program at each of its system calls before it has a client.

use super::arguments::ClientDescriptors;
use super::harmful;
use super::harmless::{self, Attempt, SoFar};
use super::kinds::Kinds;
use super::verdict::{Successor, Verdict};
use crate::config::Sharing;
use crate::sys::trace::{Call, Fault, Tracee};

/// Judges the calls of one program.
#[derive(Debug)]
pub(super) struct Judge {
    successor: Successor,
    without: Kinds,
    client: ClientDescriptors,
    so_far: SoFar,
}

impl Judge {
    /// `without` has the kinds that the program was found to keep. It is parked before it makes
    /// anything of these. What else it makes and gives up again doesn't matter.
    pub(super) fn new(successor: Successor, without: Kinds, client: ClientDescriptors) -> Self {
        Self {
            successor,
            without,
            client,
            so_far: SoFar::default(),
        }
    }

    /// Notes that it executes another program.
    pub(super) fn begin_anew(&mut self) {
        self.so_far = SoFar::default();
    }

    /// Whether a call parks the program that enters it.
    pub(super) fn judge(&self, tracee: &Tracee, call: Call) -> Result<Verdict, Fault> {
        if self.successor == Successor::Copies(Sharing::Shared) {
            return harmful::judge(tracee, &call, self.without, self.client);
        }
        let attempt = Attempt {
            tracee,
            call,
            copies: self.successor != Successor::Itself,
            without: self.without,
            client: self.client,
            so_far: &self.so_far,
        };
        Ok(if harmless::is_harmless(&attempt) {
            Verdict::GoesOn
        } else if makes_file(&call) {
            Verdict::ParkedForNow
        } else {
            Verdict::Parked
        })
    }
}

/// Whether a call may make a file, or another name for one.
fn makes_file(call: &Call) -> bool {
    match call.number {
        libc::SYS_openat => call.arguments[2] as i32 & (libc::O_CREAT | libc::O_TRUNC) != 0,
        libc::SYS_mkdirat
        | libc::SYS_mknodat
        | libc::SYS_linkat
        | libc::SYS_symlinkat
        | libc::SYS_renameat2
        | libc::SYS_unlinkat => true,
        _ => false,
    }
}
