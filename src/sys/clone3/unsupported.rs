//! The same where there is no code for it.

use std::ffi::c_void;

use super::arguments::{Arguments, Run};

/// Whether there is code for it.
pub(super) const IS_SUPPORTED: bool = false;

/// Fails with ENOSYS.
///
/// # Safety
///
/// None is needed.
pub(super) unsafe fn clone3(_: &Arguments, _: Run, _: *mut c_void, _: u64) -> i64 {
    i64::from(-libc::ENOSYS)
}
