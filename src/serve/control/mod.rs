//! The main thread: signals, wait-mode listeners, drain, reload, upgrade.

mod build;
mod daemon;
pub(in crate::serve) mod drain;
mod main_loop;
mod origin;
mod prepared;
mod reload;
mod reload_steps;
mod restored;
mod saved_rules;
mod signals;
mod status;
mod total;
pub mod upgrade;
mod upgrade_steps;

pub use daemon::Daemon;
pub use origin::Origin;
pub use prepared::{Prepared, RemovedService, Resources, Restored, RestoredService};
