//! Users in the state of an upgrade.

use std::ffi::OsString;

use nix::unistd::{Gid, Uid};
use serde::{Deserialize, Serialize};

use crate::config::{Account, Identity};

/// A user that was looked up.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::serve) struct SavedIdentity {
    name: OsString,
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
    account: Account,
}

impl SavedIdentity {
    pub(in crate::serve) fn save(identity: &Identity) -> Self {
        Self {
            name: identity.name.clone(),
            uid: identity.uid.as_raw(),
            gid: identity.gid.as_raw(),
            groups: identity.groups.iter().map(|gid| gid.as_raw()).collect(),
            account: identity.account.clone(),
        }
    }

    pub(in crate::serve) fn restore(&self) -> Identity {
        Identity {
            name: self.name.clone(),
            uid: Uid::from_raw(self.uid),
            gid: Gid::from_raw(self.gid),
            groups: self.groups.iter().copied().map(Gid::from_raw).collect(),
            account: self.account.clone(),
        }
    }
}
