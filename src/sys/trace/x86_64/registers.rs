//! The registers of a held process.

use libc::user_regs_struct;

use super::calls::INSTRUCTION;

/// How much below the stack pointer is in use (3.2.2).
const RED_ZONE: u64 = 128;

/// What the number of a call of the x32 ABI has in it (`__X32_SYSCALL_BIT`).
const X32: u64 = 0x4000_0000;

/// The registers that a held process goes on with.
#[derive(Clone, Copy, Debug)]
pub(in crate::sys::trace) struct Registers(pub(super) user_regs_struct);

impl Registers {
    /// Zeroes, to be filled in (ptrace(2), `PTRACE_GETREGS`).
    pub(in crate::sys::trace) fn empty() -> Self {
        // SAFETY: integers all of them, for which zeroes are a value.
        Self(unsafe { std::mem::zeroed() })
    }

    /// Whether this is the number of a call of this ABI.
    pub(in crate::sys::trace) fn is_native(number: u64) -> bool {
        number & X32 == 0
    }

    /// The address of the instruction that made the present call.
    pub(in crate::sys::trace) fn instruction(&self) -> u64 {
        self.0.rip.wrapping_sub(INSTRUCTION.len() as u64)
    }

    /// The address of the next instruction.
    pub(in crate::sys::trace) fn next(&self) -> u64 {
        self.0.rip
    }

    /// The same before the instruction at this address, and without a call.
    pub(in crate::sys::trace) fn at(mut self, address: u64) -> Self {
        self.0.rip = address;
        self.without_call()
    }

    /// The same with the arguments that others have.
    pub(in crate::sys::trace) fn with_arguments_of(mut self, others: &Self) -> Self {
        self.0.rdi = others.0.rdi;
        self.0.rsi = others.0.rsi;
        self.0.rdx = others.0.rdx;
        self.0.r10 = others.0.r10;
        self.0.r8 = others.0.r8;
        self.0.r9 = others.0.r9;
        self
    }

    /// The same without a call: when the process goes on, the kernel neither makes the call that it
    /// is at the entry of, nor repeats a call that was interrupted.
    pub(in crate::sys::trace) fn without_call(mut self) -> Self {
        self.0.orig_rax = u64::MAX;
        self
    }

    /// The same before the call at whose entry, or interrupted exit, they were read.
    pub(in crate::sys::trace) fn again(mut self) -> Self {
        self.0.rip = self.instruction();
        self.0.rax = self.0.orig_rax;
        self.without_call()
    }

    /// The same before another call, by the same instruction.
    pub(in crate::sys::trace) fn with_call(
        mut self,
        number: libc::c_long,
        arguments: [u64; 6],
    ) -> Self {
        self.0.rax = number as u64;
        [
            self.0.rdi, self.0.rsi, self.0.rdx, self.0.r10, self.0.r8, self.0.r9,
        ] = arguments;
        self
    }

    /// The result of a call: a value, or an errno below 0.
    pub(in crate::sys::trace) fn result(&self) -> i64 {
        self.0.rax as i64
    }

    /// The address at which thread-local storage begins.
    pub(in crate::sys::trace) fn thread_pointer(&self) -> u64 {
        self.0.fs_base
    }

    /// The same before the code that is planted at `code`, with its data at `data`.
    pub(in crate::sys::trace) fn planted(mut self, code: u64, data: u64) -> Self {
        self.0.rip = code;
        self.0.rbp = data;
        // On the program's own stack, which a signal's handler may use too; below the part that a
        // function may use without moving the stack pointer.
        self.0.rsp = self.0.rsp.wrapping_sub(RED_ZONE) & !15;
        // DF and TF clear, as code expects.
        self.0.eflags = 0x202;
        self
    }
}
