//! Events: each is counted, then throttled, then formatted as one line on standard error or in
//! the log.
//!
//! Reporting never fails, never panics and never waits. A line that the log doesn't take is
//! dropped and counted.

pub mod counters;
mod event;
pub mod line;
mod reason;
mod sink;
mod spawn_failure;
mod text;
pub mod throttle;
mod trouble;

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};

use nix::errno::Errno;

use crate::config::Count;
use crate::error::Error;
use crate::sys::descriptors::SavedDescriptors;

use line::{Line, Named};
use sink::Taken;

pub use counters::register_thread;
pub use event::{Difference, DropReason, Event, Extent, Late, Outcome, Overdue, ParkedAt};
pub use reason::{Awaited, Reason, RejectKind};
pub use sink::{SavedSink, Sink};
pub use spawn_failure::{MissingInterpreter, SpawnFailure, SpawnTrouble};
pub use throttle::{Gate, fast_is_due, full_is_due, throttle};
pub use trouble::{Cause, NoUpgrade, Outlook, ReceiveFault, Trouble, Watched};

/// The sink and its state are statics, because standard error is one for the process too, and
/// any code can report.
static VERBOSITY: AtomicU8 = AtomicU8::new(0);
/// Whether a person watches, who should see that skd serves.
static WATCHED: AtomicBool = AtomicBool::new(false);
/// The names of the services, if there are several.
static NAMES: OnceLock<Box<[Box<str>]>> = OnceLock::new();
/// Locked for each line. Writers never wait while they hold it.
static SINK: RwLock<Sink> = RwLock::new(Sink::Plain);
static LOST: AtomicU32 = AtomicU32::new(0);
/// Whether a lost line has left its beginning, without a newline.
static TORN: AtomicBool = AtomicBool::new(false);

/// Sets up the counters, throttles and names of services, before any of them is served. Lines have
/// the name of their service if there are several.
pub fn set_services(names: &[&str]) {
    let count = names.len();
    counters::set_services(count);
    throttle::set_services(count);
    if count > 1 {
        // Set once: a process has one daemon.
        let _ = NAMES.set(names.iter().map(|name| (*name).into()).collect());
    }
}

/// Returns the name of the service that an event is about, if there are several.
fn name_of(event: &Event<'_>) -> Option<&'static str> {
    let names = NAMES.get()?;
    let name = names.get(event.service()?.index())?;
    Some(name)
}

/// Sets how much is reported: 0 troubles, 1 connections, 2 all.
pub fn set_verbosity(verbosity: u8) {
    throttle::read();
    VERBOSITY.store(verbosity, Ordering::Relaxed);
}

/// Sets whether a person watches standard error: then what listens is reported at any verbosity.
pub fn set_watched(watched: bool) {
    WATCHED.store(watched, Ordering::Relaxed);
}

/// Writes everything to this sink from now on. Before, it is plain standard error.
pub fn use_sink(sink: Sink) {
    *SINK.write().unwrap_or_else(PoisonError::into_inner) = sink;
}

/// Saves the sink for the next binary of this process.
pub fn save(to: &mut SavedDescriptors) -> Result<SavedSink, Errno> {
    let sink = SINK.read().unwrap_or_else(PoisonError::into_inner);
    sink.save(to)
}

/// Whether events of this verbosity are reported.
pub fn wants(verbosity: u8) -> bool {
    VERBOSITY.load(Ordering::Relaxed) >= verbosity
}

/// Reports an event: counts it, and writes it if it is wanted and not throttled.
pub fn event(event: Event<'_>) {
    event_if(event, || throttle::passes(&event));
}

/// Reports an event whose throttle the caller has: counts it, and writes it if it is wanted and
/// `passes` says so.
pub fn event_if(event: Event<'_>, passes: impl FnOnce() -> bool) {
    counters::count(&event);
    let shown = matches!(event, Event::Listening(_)) && WATCHED.load(Ordering::Relaxed);
    if !(shown || event.verbosity().is_some_and(wants)) || !passes() {
        return;
    }
    let mut line = Line::default();
    // Writing to a Line can't fail.
    let _ = match name_of(&event) {
        Some(name) => Named::new(&mut line, name).write(event),
        None => fmt::Write::write_fmt(&mut line, format_args!("{event}")),
    };
    send(line.finish());
}

/// Writes why the program ends to standard error.
pub fn failure(error: &Error) {
    let mut line = Line::default();
    let _ = fmt::Write::write_fmt(&mut line, format_args!("skd: {error}"));
    // Where the caller of a start reads, whatever the sink is by now.
    Sink::Plain.write(line.finish());
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

fn send(line: &[u8]) {
    let sink = SINK.read().unwrap_or_else(PoisonError::into_inner);
    let lost = LOST.swap(0, Ordering::Relaxed);
    if lost > 0 {
        let mut note = Line::default();
        let torn = TORN.swap(false, Ordering::Relaxed);
        if torn {
            note.separate();
        }
        let count = Count(lost, "line was", "lines were");
        let text = format_args!("skd: {count} lost here: the log took none");
        let _ = fmt::Write::write_fmt(&mut note, text);
        if !write(&sink, note.finish()) {
            TORN.fetch_or(torn, Ordering::Relaxed);
            LOST.fetch_add(lost.saturating_add(1), Ordering::Relaxed);
            counters::count_lost_line();
            return;
        }
    }
    if !write(&sink, line) {
        LOST.fetch_add(1, Ordering::Relaxed);
        counters::count_lost_line();
    }
}

/// Writes a line. Returns whether it was taken.
fn write(sink: &Sink, line: &[u8]) -> bool {
    let taken = sink.write(line);
    if taken == Taken::Part {
        TORN.store(true, Ordering::Relaxed);
    }
    taken == Taken::All
}

/// The number of services in unit tests. Each test has services of its own, since counters and
/// throttles are the process's.
#[cfg(test)]
pub const TEST_SERVICES: usize = 8;

/// Sets up so many services in a unit test.
#[cfg(test)]
pub fn set_test_services() {
    counters::set_services(TEST_SERVICES);
    throttle::set_services(TEST_SERVICES);
}
