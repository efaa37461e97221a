//! Makes a child: a vfork-style clone that runs prepared steps and then execs.
//!
//! The child shares this process's memory (`CLONE_VM`) and suspends the calling thread
//! (`CLONE_VFORK`) until it has exec'd or ended. So it runs on a stack of its own, and it
//! neither allocates, formats, locks nor panics: every argument is ready beforehand.
//!
//! [`Descriptors`] names three sources of its descriptors. With [`Descriptors::Unshare`] the
//! child starts on this process's own table (`CLONE_FILES`), so that the kernel doesn't copy
//! thousands of descriptors, and then takes a copy of the low ones alone.
//!
//! - Until that copy is made, the child works on a table that other threads use. If the copy
//!   fails, the child only ends.
//! - A child that hasn't made its copy keeps an open file alive that its parent has closed. So a
//!   pidfd must be removed from an epoll set before it is closed.

mod launch;
mod newborn;
mod step;
mod target;

pub use launch::{Born, CloneCall, Descriptors, Launch, spawn};
pub use newborn::{ChildStack, watch};
pub use step::{Resource, SUID_DUMPABLE, Stage, Step, prepare};
pub use target::ExecTarget;
