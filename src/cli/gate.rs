//! The options of a gate: a program that has the connection before the handler does.

use std::ffi::{CString, OsStr};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;

use super::args::Args;
use super::values::{self, Why};
use crate::config::{GATE_TIMEOUT, Gate, MOST_IN_GATE, words};

/// Reads the gate of a service, if it has one. `accepts` says whether skd accepts connections.
pub(super) fn gate(args: &Args<'_>, accepts: bool) -> Option<Gate> {
    let timeout = args.read("gate-timeout", values::nonzero_duration);
    let most = args.read("gate-max", values::positive);
    if !args.has("gate") {
        for option in ["gate-timeout", "gate-max"] {
            if args.has(option) {
                args.refuse(format!("--{option} has no use without --gate"));
            }
        }
        return None;
    }
    if !accepts {
        args.refuse("--gate has no use without a stream listener whose connections skd accepts");
    }
    if args.has("first-byte") {
        args.refuse("--gate can't be used with --first-byte: the gate speaks first");
    }
    let most = most.and_then(|most| NonZeroUsize::new(usize::try_from(most).ok()?));
    Some(Gate {
        command: args.read("gate", command)?,
        timeout: timeout.unwrap_or(GATE_TIMEOUT),
        most: most.or(NonZeroUsize::new(MOST_IN_GATE))?,
    })
}

/// Parses a program and its arguments.
fn command(text: &OsStr) -> Result<Vec<CString>, Why> {
    let words = words(text.as_bytes()).map_err(|why| why.to_string())?;
    let words = words.into_iter().map(CString::new);
    let command: Vec<_> = words
        .collect::<Result<_, _>>()
        .map_err(|_| "it contains a NUL byte")?;
    match command.first() {
        Some(name) if !name.is_empty() => Ok(command),
        _ => Err("it has no program".into()),
    }
}
