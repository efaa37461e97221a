//! clone3(2) for a child on a stack of its own. The C library has no function for that.

#[cfg_attr(target_arch = "aarch64", path = "aarch64.rs")]
#[cfg_attr(target_arch = "x86_64", path = "x86_64.rs")]
#[cfg_attr(
    not(any(target_arch = "aarch64", target_arch = "x86_64")),
    path = "unsupported.rs"
)]
mod arch;
mod arguments;
mod call;

pub(super) use call::{clone3, is_available};
