//! Decimal numbers.

use std::ffi::OsStr;
use std::str::FromStr;

/// Reads a decimal number without sign, blanks or prefix.
pub fn decimal<T: FromStr>(text: &OsStr) -> Option<T> {
    let text = text.to_str()?;
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}
