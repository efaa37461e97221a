//! The options about handlers that are started before their clients come.

use std::ffi::OsStr;
use std::num::NonZeroUsize;

use super::Args;
use super::admission::time;
use super::values::Why;
use crate::config::{Listen, MOST_WARM, Prestart, Span, Style, decimal};

/// How old a template may become, where it isn't said.
const MAX_AGE: Span = Span::seconds(60 * 60);

/// Whether a process can be stopped before its first look at its client, and sent on with one, on
/// this architecture.
const SUPPORTED: bool = cfg!(all(target_arch = "x86_64", target_pointer_width = "64"));

/// How handlers of connections are started before their clients come, if they are. `accepts` says
/// whether skd accepts connections.
pub(super) fn prestart(args: &Args<'_>, listeners: &[Listen], accepts: bool) -> Option<Prestart> {
    let warm = args.read("warm", warm);
    let max_age = args.read("fork-server-max-age", time);
    let template = args.flag("fork-server");
    if args.has("fork-server-max-age") && !template {
        args.refuse("--fork-server-max-age has no use without --fork-server");
    }
    let option = match (args.has("warm"), template) {
        (false, false) => return None,
        (true, true) => {
            args.refuse(
                "--warm can't be used with --fork-server: each says how handlers are started \
                 before their clients come",
            );
            "--warm"
        }
        (true, false) => "--warm",
        (false, true) => "--fork-server",
    };
    if !SUPPORTED {
        args.refuse(format!(
            "{option} can't be used on {}: that is only possible on x86-64",
            std::env::consts::ARCH
        ));
    }
    if !accepts {
        args.refuse(format!(
            "{option} has no use without a stream listener whose connections skd accepts"
        ));
        return None;
    }
    let datagrams = |listen: &&Listen| listen.endpoint.style() == Some(Style::Datagram);
    if let Some(Listen { option: other, .. }) = listeners.iter().find(datagrams) {
        args.refuse(format!(
            "{option} can't be used with {other}: handlers wait for connections; serve datagrams by \
             another skd"
        ));
    }
    if args.flag("proxy-protocol") {
        args.refuse(format!(
            "{option} can't be used with --proxy-protocol: a handler that runs already can't learn \
             from its environment whom a header names"
        ));
    }
    match template {
        true => Some(Prestart::ForkServer {
            max_age: max_age.unwrap_or(MAX_AGE),
        }),
        false => warm.map(Prestart::Warm),
    }
}

fn warm(text: &OsStr) -> Result<NonZeroUsize, Why> {
    decimal(text)
        .and_then(NonZeroUsize::new)
        .filter(|number| number.get() <= MOST_WARM)
        .ok_or_else(|| format!("it takes a decimal number from 1 to {MOST_WARM}"))
}
