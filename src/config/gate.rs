//! A program that has a connection before the handler does.

use std::ffi::CString;
use std::num::NonZeroUsize;

use super::Span;

/// A program that has a connection first: the handler starts only if it ends with 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Its name and arguments.
    pub command: Vec<CString>,
    /// How long it may take.
    pub timeout: Span,
    /// The maximum number of clients in it.
    pub most: NonZeroUsize,
}

/// How long a gate may take, where it isn't said.
pub const GATE_TIMEOUT: Span = Span::seconds(60);

/// The maximum number of clients in a gate, where it isn't said.
pub const MOST_IN_GATE: usize = 256;
