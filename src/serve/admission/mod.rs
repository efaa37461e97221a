//! Admission: which client gets a handler, and when. The parts here are pure: they decide, and the
//! caller reads, writes and waits.

mod compiled;
mod denials;
mod explain;
mod pending;
mod pending_queue;
mod pipeline;
mod policy;
mod ranges;
mod reject;
mod reject_log;
mod rejected_sources;
mod rules;
mod rules_handle;
mod saved_rates;
mod slots;
mod sources;
mod token_bucket;

pub(in crate::serve) use denials::{Denials, MOST as MOST_DENIALS};
pub(in crate::serve) use explain::{Asked, Explained, Explainer};
pub(in crate::serve) use pending::{
    Admitted, FirstByte, FoundGate, FoundTls, Kind, Pending, PendingConnection, Stage,
};
pub(in crate::serve) use pending_queue::{Capacity, PendingQueue, capacity};
pub(in crate::serve) use pipeline::{Acceptance, Look, Pipeline, Step};
pub(in crate::serve) use policy::{Policy, Traits};
pub(in crate::serve) use reject::{RejectAction, Rejection};
pub(in crate::serve) use reject_log::{Noted, RejectLog};
pub(in crate::serve) use rejected_sources::{Rejected, RejectedSources};
pub use rules::{Client, Decision, Ready, Rules};
pub(in crate::serve) use rules_handle::RulesHandle;
pub(in crate::serve) use saved_rates::SavedRates;
pub(in crate::serve) use slots::{Slot, Slots, Total, WaitModeLife, When};
pub(in crate::serve) use sources::SourceSlot;
pub(in crate::serve) use token_bucket::Clock;
