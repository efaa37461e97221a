//! Answers as text.

mod lists;
mod status;

#[cfg(test)]
pub(crate) mod example;

pub(crate) use lists::{done, event, explanation, handlers, known, list, slots, sources};
pub(crate) use status::{rejected, state, status};
