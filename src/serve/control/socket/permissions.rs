//! Who may ask and act: decided by the credentials of a client, which the kernel has kept since it
//! connected.

use nix::unistd::Uid;
use serde::{Deserialize, Serialize};

use crate::config::{Control, Peer};
use crate::sys::sockets::{Credentials, peer_groups};
use crate::sys::users::unknown_ids;
use socket2::Socket;

/// What a client may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Access {
    /// Ask.
    Ask,
    /// Ask, and change something.
    Act,
}

/// The users who may act, and the group whose members may ask.
///
/// Looked up by the start: a user that skd becomes later, as handlers do then, is none of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Permissions {
    owners: Vec<u32>,
    readers: Option<u32>,
}

impl Permissions {
    /// Those of a socket that this process binds.
    pub(super) fn of(control: &Control) -> Self {
        let owner = control.owner.map(|(uid, _)| uid);
        let own = Uid::effective().as_raw();
        let mut owners = vec![0, own];
        owners.extend(owner);
        owners.sort_unstable();
        owners.dedup();
        Self {
            owners,
            readers: control.readers,
        }
    }

    /// Returns what the peer of a connection may do, if it may do anything.
    pub(super) fn access(&self, connection: &Socket, peer: &Peer) -> Option<Access> {
        let Peer::UnixStream(Some(credentials)) = peer else {
            return None;
        };
        let mut groups = Vec::new();
        let is_owner = credentials
            .uid
            .is_some_and(|uid| self.owners.contains(&uid));
        if !is_owner && self.readers.is_some() && peer_groups(connection, &mut groups).is_err() {
            // Before Linux 4.13 the first group alone is known.
            groups.clear();
        }
        self.judge(credentials, &groups)
    }

    /// Decides by a user, a group and supplementary groups. Ids that aren't known in this user
    /// namespace are nobody's.
    fn judge(&self, credentials: &Credentials, groups: &[u32]) -> Option<Access> {
        if self.owners.contains(&credentials.uid?) {
            return Some(Access::Act);
        }
        let unknown = unknown_ids();
        let known = groups.iter().filter_map(|gid| unknown.group(*gid));
        let mut all = credentials.gid.into_iter().chain(known);
        let reads = |gid| self.readers == Some(gid);
        all.any(reads).then_some(Access::Ask)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions() -> Permissions {
        Permissions {
            owners: vec![0, 7],
            readers: Some(50),
        }
    }

    fn client(uid: Option<u32>, gid: Option<u32>) -> Credentials {
        Credentials { pid: 1, uid, gid }
    }

    #[test]
    fn owners_act_and_members_of_the_group_ask() {
        let judge = |uid, gid, groups: &[u32]| permissions().judge(&client(uid, gid), groups);
        assert_eq!(judge(Some(0), Some(0), &[]), Some(Access::Act));
        assert_eq!(judge(Some(7), Some(9), &[50]), Some(Access::Act));
        assert_eq!(judge(Some(8), Some(50), &[]), Some(Access::Ask));
        assert_eq!(judge(Some(8), Some(9), &[1, 50]), Some(Access::Ask));
        assert_eq!(judge(Some(8), Some(9), &[1]), None);
        // In a user namespace an id that isn't mapped may be anyone's.
        assert_eq!(judge(None, Some(50), &[50]), None);
    }

    #[test]
    fn without_a_group_others_may_nothing() {
        let permissions = Permissions {
            readers: None,
            ..permissions()
        };
        assert_eq!(permissions.judge(&client(Some(8), Some(50)), &[50]), None);
    }
}
