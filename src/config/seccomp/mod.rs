//! Which system calls a handler may make.

mod default_list;
mod file;

pub use default_list::{Purpose, default_list};
pub use file::{Fault, FilterFile};
