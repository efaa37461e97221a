//! Upgrade in place: this process becomes a newer skd, and goes on as if nothing had been.
//!
//! Handlers stay its children, and listeners never close. The new binary is first tried by a child,
//! in a preflight, on what it would get. Then the workers are parked, for a child between clone and
//! exec would be unknown to the new binary, and the process executes it. The state travels in a
//! memory file, descriptors under their numbers. A binary that can't go on becomes the old one
//! again.
//!
//! Each module saves and restores its own part of the state; here are only the document and the
//! order of the steps.

pub(in crate::serve) mod findings;
pub(in crate::serve) mod preflight;
mod restore;
pub(in crate::serve) mod save;
mod saved_identity;
mod state;
pub(in crate::serve) mod words;

pub use findings::Findings;
pub use restore::Arrival;
pub use state::{SavedService, Settings, State};
