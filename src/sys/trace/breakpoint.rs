//! A tracee is stopped at an instruction that isn't a system call.

use super::call::{Fault, Stop};
use super::tracee::Tracee;
#[cfg(target_arch = "x86_64")]
use super::x86_64::{self as arch, Registers};

/// An instruction that a program stops at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Breakpoint {
    pub(super) address: u64,
    /// What is there without it.
    word: [u8; WORD],
}

const WORD: usize = 8;

/// Where a tracee is held when it is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// At the entry of a call.
    Entry,
    /// At the exit of a call that was interrupted.
    Interrupted,
    /// At a breakpoint.
    Breakpoint(Breakpoint),
}

impl Tracee {
    /// Makes it stop before it executes this instruction: SIGTRAP is about to arrive then.
    pub fn break_at(&self, address: u64) -> Result<Breakpoint, Fault> {
        let mut word = [0; WORD];
        self.read(address, &mut word)?;
        let breakpoint = Breakpoint { address, word };
        self.write(address, &with(word, &arch::BREAKPOINT))?;
        Ok(breakpoint)
    }

    /// Whether it is held there.
    pub fn is_at(&self, breakpoint: &Breakpoint) -> Result<bool, Fault> {
        let after = breakpoint.address + arch::BREAKPOINT.len() as u64;
        Ok(self.registers()?.next() == after)
    }

    /// Makes it enter a system call there, which it is held at the entry of.
    pub(super) fn enter_call(&self, breakpoint: &Breakpoint) -> Result<(), Fault> {
        self.write(
            breakpoint.address,
            &with(breakpoint.word, &arch::INSTRUCTION),
        )?;
        let held: Registers = self.registers()?;
        self.set_registers(
            &held
                .at(breakpoint.address)
                .with_call(libc::SYS_getpid, [0; 6]),
        )?;
        self.go_to("the call at the program's entry", |stop| {
            matches!(stop, Stop::Entry(_))
        })?;
        // A call that isn't made changes no registers but these.
        let call = self.registers()?;
        self.set_registers(&call.with_arguments_of(&held))
    }

    /// Writes what was there.
    pub fn restore(&self, breakpoint: &Breakpoint) -> Result<(), Fault> {
        self.write(breakpoint.address, &breakpoint.word)
    }
}

/// A word with an instruction at its beginning.
fn with(mut word: [u8; WORD], instruction: &[u8]) -> [u8; WORD] {
    word[..instruction.len()].copy_from_slice(instruction);
    word
}
