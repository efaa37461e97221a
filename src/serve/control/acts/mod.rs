//! What commands have begun and is not over yet, and how that is saved for the next binary.

mod kills;
mod service_drains;

use serde::{Deserialize, Serialize};
use skd_control::Answer;

use super::commands::ReplyTo;
use super::upgrade::words::Purpose;
use crate::config::Clients;

pub(in crate::serve) use kills::{Kills, SavedKill};
pub(in crate::serve) use service_drains::{
    DrainWait, SavedDrainWait, SavedServiceDrain, ServiceDrain, ServiceDrains,
};

/// What commands have begun and is not over yet.
#[derive(Debug, Default)]
pub(in crate::serve) struct Acts {
    /// Who waits for the end of a reload or an upgrade.
    pub(in crate::serve) awaited: Option<Awaited>,
    /// The answer for the one who waits for the reload or upgrade by which this process has come.
    pub(in crate::serve) conclusion: Option<Answer>,
    /// The services that drain.
    pub(in crate::serve) drains: ServiceDrains,
    /// The handlers that are killed if they don't end.
    pub(in crate::serve) kills: Kills,
    /// What an earlier binary has left, until its handlers are entered.
    pub(in crate::serve) saved: SavedActs,
}

/// The same in the state of an upgrade. Services are known by their names.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct SavedActs {
    /// Who waits for the end of this reload or upgrade.
    pub(in crate::serve) awaited: Option<ReplyTo>,
    /// Who waits for rules to be read, which the next binary begins anew, while this is an upgrade.
    pub(in crate::serve) awaited_rules: Option<ReplyTo>,
    pub(in crate::serve) drains: Vec<SavedServiceDrain>,
    #[serde(default)]
    pub(in crate::serve) drain_waits: Vec<SavedDrainWait>,
    pub(in crate::serve) kills: Vec<SavedKill>,
    pub(in crate::serve) denials: Vec<SavedDenial>,
}

/// A denial, and until when it lasts.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::serve) struct SavedDenial {
    pub(in crate::serve) clients: Clients,
    pub(in crate::serve) service: Option<String>,
    pub(in crate::serve) until: u64,
}

/// A reload or an upgrade that a client waits for.
#[derive(Clone, Copy, Debug)]
pub(in crate::serve) struct Awaited {
    pub(in crate::serve) purpose: Purpose,
    pub(in crate::serve) reply_to: ReplyTo,
}
