//! Events: each is counted, then throttled, then formatted as one line on standard error or in
//! the log.
//!
//! Reporting never fails, never panics and never waits. A line that the log doesn't take is
//! dropped and counted.

pub mod counters;
mod event;
mod fields;
mod figures;
mod fixed;
mod json;
pub mod line;
mod log;
pub mod mask;
mod reason;
mod reject_counts;
mod services;
mod sink;
mod spawn_failure;
pub mod stream;
mod text;
pub mod throttle;
mod time;
mod tls;
mod trouble;
mod verbosity;

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::config::{Daemon, ListenerName, ServiceId};
use crate::error::Error;

use line::Line;

pub use counters::register_thread;
pub use event::{
    Attempt, Client, Difference, DropReason, EndResult, Event, Extent, FilteredCall, Late, Outcome,
    Overdue, ParkedAt, Start, StartFailure, TlsFigures, Told, Way,
};
pub use log::{lines_lost, log_trouble, save, use_sink};
pub use reason::{Awaited, Reason, RejectKind};
pub use reject_counts::{RejectCause, RejectCounts};
pub use sink::{SavedSink, Sink};
pub use spawn_failure::{MissingInterpreter, SpawnFailure, SpawnTrouble, StepInWords};
pub use throttle::{Limiter, fast_is_due, full_is_due, throttle};
pub use time::Time;
pub use tls::TlsTrouble;
pub use trouble::{Cause, NoUpgrade, Outlook, ReceiveFault, Trouble, Watched};
pub use verbosity::{set_verbosity, verbosity, wants};

/// Whether a person watches, who should see that skd serves.
static WATCHED: AtomicBool = AtomicBool::new(false);
/// Why the program ends.
static FAILURES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Sets up the counters, throttles and names of services and listeners, before any of them is
/// served. The listeners are in the order of their ids, each with its service.
///
/// Lines have the name of their service if there are several, and that of the listener if the
/// service has several.
pub fn set_services(names: &[&str], listeners: &[(ServiceId, ListenerName<'_>)]) {
    let count = names.len();
    // One more for each service, of the listeners that it had.
    counters::set_up(count, listeners.len() + count);
    throttle::set_services(count);
    services::set(names, listeners);
}

/// Sets how lines are written, and which addresses of clients they show.
pub fn set_lines(daemon: &Daemon) {
    log::set_lines(daemon);
    mask::set(daemon.log_mask);
}

/// Sets whether a person watches standard error: then what listens is reported at any verbosity.
pub fn set_watched(watched: bool) {
    WATCHED.store(watched, Ordering::Relaxed);
}

/// Reports an event: counts it, and writes it if it is wanted and not throttled.
pub fn event(event: Event<'_>) {
    event_if(event, || throttle::passes(&event));
}

/// Reports an event whose throttle the caller has: counts it, and writes it if it is wanted and
/// `passes` says so.
pub fn event_if(event: Event<'_>, passes: impl FnOnce() -> bool) {
    counters::count(&event);
    let Some(verbosity) = event.verbosity() else {
        return;
    };
    let shown = matches!(event, Event::Listening(_)) && WATCHED.load(Ordering::Relaxed);
    let written = shown || wants(verbosity);
    let watched = stream::is_watched();
    if !(written || watched) || !passes() {
        return;
    }
    if watched {
        stream::push(&event);
    }
    if written {
        log::write(&event);
    }
}

/// Writes why the program ends to standard error.
pub fn failure(error: &Error) {
    let mut failures = FAILURES.lock().unwrap_or_else(PoisonError::into_inner);
    failures.push(error.to_string());
    drop(failures);
    let mut line = Line::default();
    let _ = fmt::Write::write_fmt(&mut line, format_args!("skd: {error}"));
    // Where the caller of a start reads, whatever the sink is by now.
    Sink::Plain.write(line.finish());
}

/// Returns what [`failure`] has written, for the skd that waits for it.
pub fn failures() -> Vec<String> {
    let failures = FAILURES.lock().unwrap_or_else(PoisonError::into_inner);
    failures.clone()
}

/// Writes a note about a command line that is checked and has no fault.
pub fn note(text: impl fmt::Display) {
    let mut line = Line::default();
    let _ = fmt::Write::write_fmt(&mut line, format_args!("skd: note: {text}"));
    Sink::Plain.write(line.finish());
}

/// Writes requested output, such as help or a port, to standard output at once.
pub fn answer(text: &str) -> io::Result<()> {
    let mut output = io::stdout().lock();
    output.write_all(text.as_bytes())?;
    output.flush()
}

/// The number of services in unit tests. Each test has services of its own, since counters and
/// throttles are the process's.
#[cfg(test)]
pub const TEST_SERVICES: usize = 8;

/// Sets up so many services in a unit test.
#[cfg(test)]
pub fn set_test_services() {
    counters::set_up(TEST_SERVICES, TEST_SERVICES);
    throttle::set_services(TEST_SERVICES);
}
