//! The part of holding and planting that depends on the processor: x86-64 with the system calls of
//! 64-bit Linux.

mod calls;
mod code;
mod data;
mod registers;

pub(super) use calls::{
    ARCHITECTURE, BREAKPOINT, CALL_WITH_NUMBER, INSTRUCTION, latest, makes_call,
};
pub(super) use code::{call_in_code, code};
pub(super) use data::Data;
pub(super) use registers::Registers;
