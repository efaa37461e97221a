//! A child that is held at its system calls (ptrace(2)), and parked at one of them.
//!
//! From then on nothing traces it. It waits for a descriptor and goes on with that, or has copies
//! of itself go on with one each.

mod breakpoint;
mod call;
mod one_processor;
mod park;
mod parking;
mod run;
mod tick;
mod tracee;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use breakpoint::{Breakpoint, Held};
pub use call::{Call, Fault, Stop, is_interruption};
pub use one_processor::{OneProcessor, Processors};
pub use parking::{MOST_FILES, OpenFile, Parking};
pub use tick::Tick;
pub use tracee::{Tracee, seize};
