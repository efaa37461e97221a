//! The part of holding and planting that depends on the processor: x86-64 with the system calls of
//! 64-bit Linux.

mod calls;
mod code;
mod data;
mod registers;

pub(super) use calls::{ARCHITECTURE, INSTRUCTION, latest};
pub(super) use code::code;
pub(super) use data::Data;
pub(super) use registers::Registers;
