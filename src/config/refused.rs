//! Why the text of a value is refused.

use std::fmt;

/// Why a text can't be read as a value. The reason is a clause that follows "invalid value".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub(super) String);

impl Refused {
    /// Returns a refusal for this reason.
    pub fn because(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}
