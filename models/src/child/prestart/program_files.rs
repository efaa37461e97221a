//! In the place of the files that a program is made from: their version.

use crate::child::plan::Plan;
use crate::kernel;

#[derive(Debug, PartialEq, Eq)]
pub struct Sources(u32);

impl Sources {
    pub fn of(_: &Plan) -> Self {
        Self(kernel::read(|kernel| kernel.version))
    }

    pub fn are_unchanged(&self) -> bool {
        kernel::read(|kernel| kernel.version) == self.0
    }
}
