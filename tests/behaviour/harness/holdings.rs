//! What skd holds: what may not grow with the number of connections that it has served.

use super::process::{cpu_ticks, descriptors, rss_anon, threads};
use super::{Instance, Way, parked, poll_for};
use std::time::Duration;

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

    /// What skd holds once it serves nobody.
    #[track_caller]
    pub fn in_peace(skd: &Instance) -> Self {
        // For a while, since the handlers of a queue of datagrams follow one another; and in that, idle.
        let mut ticks = 0;
        let stock = Way::of(skd).stock();
        skd.wait_until("nobody is served any more", || {
            ticks = cpu_ticks(skd.pid());
            let ready = parked(skd.pid()).len();
            let served = || (ready != stock || skd.children().len() != stock).then_some(());
            poll_for(Duration::from_millis(300), served).is_none()
        });
        let ticks = cpu_ticks(skd.pid()) - ticks;
        assert!(ticks < 8, "{ticks} ticks for nothing");
        Self::of(skd)
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
