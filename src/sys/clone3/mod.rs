//! clone3(2) for a child on a stack of its own. The C library has no function for that.

#[cfg(target_arch = "aarch64")]
mod aarch64;
mod arguments;
mod call;
#[cfg(not(any(target_arch = "aarch64", target_arch = "x86_64")))]
mod unsupported;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub(super) use call::{clone3, is_available};
