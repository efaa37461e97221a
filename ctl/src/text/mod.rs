//! Text for people: tables, sizes, durations, and strings that are safe for a terminal.

mod escape;
mod human;
mod table;

pub(crate) use escape::{escaped, escaped_json};
pub(crate) use human::{age, bytes, day, percent, seconds};
pub(crate) use table::{Align, Table};
