//! Standard output and standard error.

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use crate::error::{Error, Status};

/// Writes text to standard output, all of it.
pub(crate) fn write(text: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|error| match error.kind() {
            ErrorKind::BrokenPipe | ErrorKind::ConnectionReset => Error::ReaderGone,
            _ => Error::Local(format!("can't write to standard output: {error}")),
        })
}

/// Writes an error to standard error, unless it is none.
pub(crate) fn complain(error: &Error) {
    if !matches!(error, Error::ReaderGone) {
        // Nothing can be done about a standard error that takes nothing.
        let _ = writeln!(io::stderr(), "skdctl: {error}");
    }
}

/// Writes what clap says about the command line: an error, help, or the version.
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    if error.use_stderr() {
        Status::Usage.into()
    } else {
        Status::Done.into()
    }
}

/// Returns the columns of the terminal, if standard output is one. Output that goes elsewhere isn't
/// cut.
pub(crate) fn width() -> Option<usize> {
    if !io::stdout().is_terminal() {
        return None;
    }
    let (columns, _) = crossterm::terminal::size().ok()?;
    (columns > 0).then_some(usize::from(columns))
}
