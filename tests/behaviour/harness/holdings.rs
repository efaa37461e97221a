//! What skd holds: what may not grow with the number of connections that it has served.

use super::Instance;
use super::process::{descriptors, rss_anon, threads};

#[derive(Debug)]
pub struct Holdings {
    pub descriptors: usize,
    pub threads: usize,
    pub kib: u64,
}

impl Holdings {
    pub fn of(skd: &Instance) -> Self {
        Self {
            descriptors: descriptors(skd.pid()).len(),
            threads: threads(skd.pid()).len(),
            kib: rss_anon(skd.pid()),
        }
    }

    /// The same descriptors and threads as `before`, and memory within what allocators do.
    #[track_caller]
    pub fn expect_like(&self, before: &Self) {
        assert_eq!(
            (self.descriptors, self.threads),
            (before.descriptors, before.threads),
            "before: {before:?}"
        );
        assert!(self.kib <= before.kib + 512, "{self:?}, before: {before:?}");
    }
}
