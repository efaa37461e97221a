//! The resources that skd holds, which may not grow with the number of connections that it has served.

use super::process::{descriptors, rss_anon, threads};
use super::{DEADLINE, Instance, Way, assert_idle, is_asleep, parked, poll_for};
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

    /// What skd holds once it has no client and is idle.
    #[track_caller]
    pub fn in_peace(skd: &Instance) -> Self {
        let pool_size = Way::of(skd).pool_size();
        let served = || {
            let ready = parked(skd.pid()).len();
            (ready != pool_size || skd.children().len() != pool_size).then_some(())
        };
        // For a while, since the handlers of a queue of datagrams follow one another.
        skd.wait_until("no client is served any more", || {
            poll_for(Duration::from_millis(300), served).is_none()
        });
        assert_idle(&[skd.pid()]);
        let mut held = Self::of(skd);
        skd.wait_until("skd is asleep and holds the same as before", || {
            let before = std::mem::replace(&mut held, Self::of(skd));
            let same = (held.descriptors, held.threads) == (before.descriptors, before.threads);
            same && is_asleep(skd.pid())
        });
        held
    }

    /// Waits until skd holds the same descriptors and threads as `before`, and memory within what allocators do.
    #[track_caller]
    pub fn wait_like(skd: &Instance, before: &Self) {
        let mut held = Self::of(skd);
        let like = poll_for(DEADLINE, || {
            held = Self::of(skd);
            held.is_like(before).then_some(())
        });
        assert!(like.is_some(), "{held:?}, before: {before:?}");
    }

    fn is_like(&self, before: &Self) -> bool {
        let same = (self.descriptors, self.threads) == (before.descriptors, before.threads);
        same && self.kib <= before.kib + 512
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
