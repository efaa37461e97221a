//! The arguments of a held program's call.

use libc::c_int;
use nix::unistd::Pid;

use crate::child::plan::Plan;
use crate::sys::trace::{Call, Fault, Tracee};

/// The descriptors that are the client: 0 and 1, and 2 with `--stderr client`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientDescriptors {
    last: u32,
}

impl ClientDescriptors {
    /// 0 and 1.
    #[cfg(test)]
    pub(super) const USUAL: Self = Self { last: 1 };

    /// Those of a plan's children.
    pub(super) fn of(plan: &Plan) -> Self {
        let last = if plan.error_is_client() { 2 } else { 1 };
        Self { last }
    }

    /// Whether this is one of them.
    pub(super) fn have(self, descriptor: u64) -> bool {
        descriptor as u32 <= self.last
    }

    /// All of them.
    pub(super) fn numbers(self) -> impl Iterator<Item = u32> {
        0..=self.last
    }

    /// Whether 2 is one of them.
    pub(super) fn have_error(self) -> bool {
        self.last == 2
    }

    /// The bits of these in the first word of an `fd_set`.
    pub(super) fn bits(self) -> u8 {
        (2 << self.last) - 1
    }
}

/// The eight bytes at an address.
pub(super) fn word(tracee: &Tracee, address: u64) -> Result<u64, Fault> {
    let mut bytes = [0; 8];
    tracee.read(address, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// The text at an address, if it is no longer than a path.
pub(super) fn text(tracee: &Tracee, address: u64) -> Option<Vec<u8>> {
    const LONGEST: usize = libc::PATH_MAX as usize;
    // Words that are aligned don't reach into the next page.
    let skipped = (address % 8) as usize;
    let mut text = Vec::new();
    for at in (address - skipped as u64..).step_by(8) {
        let bytes = word(tracee, at).ok()?.to_ne_bytes();
        let first = if text.is_empty() && at < address {
            skipped
        } else {
            0
        };
        for &byte in &bytes[first..] {
            if byte == 0 {
                return Some(text);
            }
            text.push(byte);
        }
        if text.len() > LONGEST {
            return None;
        }
    }
    None
}

/// Which of a call's first three arguments are the id of the process that makes it.
///
/// The program has asked for it before, so that a copy would otherwise name the process that it was
/// copied from: raise(3) of a copy would end that one.
pub(super) fn own_ids(pid: Pid, call: &Call) -> [bool; 3] {
    let mut own = match call.number {
        libc::SYS_kill
        | libc::SYS_tkill
        | libc::SYS_rt_sigqueueinfo
        | libc::SYS_pidfd_open
        | libc::SYS_sched_setscheduler
        | libc::SYS_sched_setattr => [true, false, false],
        libc::SYS_tgkill | libc::SYS_rt_tgsigqueueinfo | libc::SYS_setpgid => [true, true, false],
        libc::SYS_fcntl => [false, false, call.arguments[1] as c_int == libc::F_SETOWN],
        _ => [false; 3],
    };
    for (own, argument) in own.iter_mut().zip(call.arguments) {
        *own = *own && argument as i32 == pid.as_raw();
    }
    own
}
