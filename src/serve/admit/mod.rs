//! Who may come in. So far: as many as there are places.

mod book;
mod places;
mod rules;

pub use book::{Reader, RuleBook};
pub(super) use places::{Place, Places, When};
pub use rules::{Client, Decision, HandedRules, Ready, Rules};
