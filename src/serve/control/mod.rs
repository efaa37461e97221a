//! The main thread: signals, wait-mode listeners, drain, reload, upgrade.

mod act_steps;
mod acts;
mod asks;
mod awaited_steps;
mod build;
mod commands;
mod daemon;
pub(in crate::serve) mod drain;
mod execute;
mod figures;
mod kill_steps;
mod main_loop;
mod origin;
mod prepared;
mod reload;
mod reload_steps;
mod restored;
mod saved_counters;
mod saved_rules;
mod service_drain_steps;
mod signals;
mod socket;
mod status;
mod total;
pub mod upgrade;
mod upgrade_steps;
mod view;

pub use daemon::Daemon;
pub use origin::Origin;
pub use prepared::{Prepared, RemovedService, Resources, Restored, RestoredService};
pub use socket::bound::BoundControl;
pub use socket::request::read as read_request;
pub use socket::saved::SavedControl;
