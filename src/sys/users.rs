//! User and group ids of other processes that are unknown in this user namespace
//! (user_namespaces(7)).
//!
//! The kernel names a user that isn't mapped into the namespace by the overflow id, 65534. So that
//! id stands for all of them, even if the namespace has a user with it.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::names::kernel_parameter;

/// The ids that say nothing about a process, if there are such.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnknownIds {
    uid: Option<u32>,
    gid: Option<u32>,
}

static UNKNOWN: OnceLock<UnknownIds> = OnceLock::new();

/// The overflow ids, unless the administrator has changed them.
const OVERFLOW: u32 = 65_534;

/// The number of ids, all of which are mapped outside of user namespaces.
const ALL: u64 = u32::MAX as u64;

/// Returns the ids that say nothing about a process. The first call reads /proc, which may be out
/// of reach after chroot(2).
pub fn unknown_ids() -> UnknownIds {
    *UNKNOWN.get_or_init(UnknownIds::find)
}

/// Returns the user and the group id by which the kernel names those that aren't mapped.
pub fn overflow_ids() -> (u32, u32) {
    let find = |path| parameter(path).unwrap_or(OVERFLOW);
    (find(OVERFLOW_UID), find(OVERFLOW_GID))
}

/// Returns the user id that stands for all that aren't mapped, if it is certain that there are such
/// and that this is their id: something is granted to them.
pub fn unmapped_user() -> Option<u32> {
    let hides = hides(UID_MAP) == Some(true);
    hides.then(|| parameter(OVERFLOW_UID)).flatten()
}

const OVERFLOW_UID: &str = "kernel/overflowuid";
const OVERFLOW_GID: &str = "kernel/overflowgid";
const UID_MAP: &str = "/proc/self/uid_map";
const GID_MAP: &str = "/proc/self/gid_map";

fn parameter(path: &str) -> Option<u32> {
    kernel_parameter(path)?.try_into().ok()
}

/// Returns whether ids are missing in a map; none if that can't be found out.
fn hides(map: &str) -> Option<bool> {
    let has_process = || Path::new("/proc/self/stat").exists();
    match fs::read_to_string(map) {
        Ok(map) => Some(mapped(&map) < ALL),
        // A kernel without user namespaces.
        Err(reason) if reason.kind() == io::ErrorKind::NotFound && has_process() => Some(false),
        Err(_) => None,
    }
}

/// Notes what an earlier program of this process has found.
pub fn restore_unknown_ids(found: UnknownIds) {
    // Set already only if this process has asked before.
    let _ = UNKNOWN.set(found);
}

impl UnknownIds {
    fn find() -> Self {
        let overflow = overflow_ids();
        // What isn't known to be anyone's in particular is refused where a user is asked for.
        let find = |map, overflow| hides(map).unwrap_or(true).then_some(overflow);
        Self {
            uid: find(UID_MAP, overflow.0),
            gid: find(GID_MAP, overflow.1),
        }
    }

    /// Returns a user id, unless it may be that of any user.
    pub fn user(self, uid: u32) -> Option<u32> {
        (self.uid != Some(uid)).then_some(uid)
    }

    /// Returns a group id, unless it may be that of any group.
    pub fn group(self, gid: u32) -> Option<u32> {
        (self.gid != Some(gid)).then_some(gid)
    }
}

/// Returns how many ids are mapped: each line has the first id inside, the first outside, and their
/// number.
fn mapped(map: &str) -> u64 {
    let count = |line: &str| line.split_ascii_whitespace().nth(2)?.parse::<u64>().ok();
    let counts = map.lines().filter_map(count);
    counts.fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_of_all_ids_hides_none() {
        for (map, count) in [
            ("         0          0 4294967295\n", ALL),
            ("0 1000 1\n1 100000 65536\n", 65_537),
            ("0 0 1\n1 1 4294967294\n", ALL),
            ("", 0),
            ("x y z\n0 0\n", 0),
            ("0 0 18446744073709551615\n0 0 1", u64::MAX),
        ] {
            assert_eq!(mapped(map), count, "{map}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "/proc")]
    fn a_map_that_cannot_be_read_is_not_known_to_be_whole() {
        assert_eq!(hides("/proc/self/no_such_map"), Some(false));
        assert_eq!(hides("/proc/self/fd"), None);
        // What is granted and what is refused agree on the map of this process.
        let refused = UnknownIds::find().uid;
        assert_eq!(unmapped_user(), refused);
        assert_eq!(refused.is_some(), hides(UID_MAP) == Some(true));
    }

    #[test]
    fn the_overflow_id_is_unknown_where_ids_are_hidden() {
        let hides = UnknownIds {
            uid: Some(65_534),
            gid: Some(65_533),
        };
        assert_eq!(
            (hides.user(65_534), hides.user(65_533)),
            (None, Some(65_533))
        );
        assert_eq!(
            (hides.group(65_533), hides.group(65_534)),
            (None, Some(65_534))
        );
        let all = UnknownIds::default();
        assert_eq!(
            (all.user(65_534), all.group(65_534)),
            (Some(65_534), Some(65_534))
        );
    }
}
