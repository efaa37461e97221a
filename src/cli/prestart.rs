//! The options of prestarted handlers.

use std::ffi::OsStr;
use std::num::NonZeroUsize;
use std::path::Path;

use super::args::Args;
use super::values::{Why, nonzero_duration};
use crate::config::{Listen, MOST_WARM, Prestart, Sharing, Span, Style, decimal};

/// The default of `--fork-server-max-age`.
const MAX_AGE: Span = Span::seconds(60 * 60);

/// Whether this architecture can stop a process before it uses its connection, and let it continue
/// with one.
const SUPPORTED: bool = cfg!(all(target_arch = "x86_64", target_pointer_width = "64"));

/// Reads how handlers of connections are started before their clients connect. `accepts` says
/// whether skd accepts connections.
pub(super) fn prestart(args: &Args<'_>, listeners: &[Listen], accepts: bool) -> Option<Prestart> {
    let warm = args.read("warm", warm);
    let max_age = args.read("fork-server-max-age", nonzero_duration);
    let template = args.has("fork-server");
    let mode = args.read("fork-server", sharing);
    if let (None, Some(word)) = (args.one("fork-server"), args.word_after_options()) {
        // A program of such a name can be served with a mode, or by its path.
        if template && sharing(word).is_ok() {
            let word = Path::new(word).display();
            args.refuse(format!(
                "--fork-server takes its value after an equals sign: --fork-server={word}"
            ));
        }
    }
    if args.has("fork-server-max-age") && !template {
        args.refuse("--fork-server-max-age has no use without --fork-server");
    }
    let option = match (args.has("warm"), template) {
        (false, false) => return None,
        (true, true) => {
            args.refuse(
                "--warm can't be used with --fork-server: each sets how handlers are \
                 prestarted",
            );
            "--warm"
        }
        (true, false) => "--warm",
        (false, true) => "--fork-server",
    };
    if !SUPPORTED {
        args.refuse(format!(
            "{option} can't be used on {}: prestarting needs x86-64",
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
            "{option} can't be used with {other}: handlers wait for connections; serve datagrams with \
             another skd"
        ));
    }
    if args.flag("proxy-protocol") {
        args.refuse(format!(
            "{option} can't be used with --proxy-protocol: a handler that runs already can't get \
             the client of a header in its environment"
        ));
    }
    match template {
        true => Some(Prestart::ForkServer {
            sharing: mode.unwrap_or_default(),
            max_age: max_age.unwrap_or(MAX_AGE),
        }),
        false => warm.map(Prestart::Warm),
    }
}

fn sharing(text: &OsStr) -> Result<Sharing, Why> {
    match text.to_str() {
        Some("strict") => Ok(Sharing::Strict),
        Some("start") => Ok(Sharing::Start),
        Some("shared") => Ok(Sharing::Shared),
        _ => Err("it takes strict, start or shared".into()),
    }
}

fn warm(text: &OsStr) -> Result<NonZeroUsize, Why> {
    decimal(text)
        .and_then(NonZeroUsize::new)
        .filter(|number| number.get() <= MOST_WARM)
        .ok_or_else(|| format!("it takes a decimal number from 1 to {MOST_WARM}"))
}
