//! The log: how each event becomes a line of it, and what becomes of lines that it doesn't take.

use std::fmt::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock};

use nix::errno::Errno;

use super::event::Event;
use super::json::{self, JsonLine};
use super::line::{Line, Named, TROUBLE};
use super::sink::{SavedSink, Sink, Taken};
use super::time::Time;
use super::{counters, services};
use crate::config::{Count, Daemon, LogLines, LogTarget};
use crate::sys::descriptors::SavedDescriptors;

/// Locked for each line. Writers never wait while they hold it.
static SINK: RwLock<Sink> = RwLock::new(Sink::Plain);
static LOST: AtomicU32 = AtomicU32::new(0);
/// Whether a lost line has left its beginning, without a newline.
static TORN: AtomicBool = AtomicBool::new(false);
/// How lines are written: a [`LogLines`].
static LINES: AtomicU8 = AtomicU8::new(LogLines::Text as u8);

/// Writes everything to this sink from now on. Before, it is plain standard error.
pub fn use_sink(sink: Sink) {
    *SINK.write().unwrap_or_else(PoisonError::into_inner) = sink;
}

/// Saves the sink for the next binary of this process.
pub fn save(to: &mut SavedDescriptors) -> Result<SavedSink, Errno> {
    let sink = SINK.read().unwrap_or_else(PoisonError::into_inner);
    sink.save(to)
}

/// Sets how lines are written.
pub(super) fn set_lines(daemon: &Daemon) {
    let lines = match (daemon.log_lines(), &daemon.log) {
        // There the relay writes the time, before lines of handlers too.
        (LogLines::TimedText, Some(LogTarget::File { .. })) => LogLines::Text,
        (lines, _) => lines,
    };
    LINES.store(lines as u8, Ordering::Relaxed);
}

fn lines() -> LogLines {
    let lines = LINES.load(Ordering::Relaxed);
    let all = [LogLines::TimedText, LogLines::Json];
    let other = all.into_iter().find(|it| *it as u8 == lines);
    other.unwrap_or_default()
}

/// Writes an event.
pub(super) fn write(event: &Event<'_>) {
    let lines = lines();
    if lines == LogLines::Json {
        return json::with_line(event, |line| send(JsonLine::of(line, false).as_bytes()));
    }
    let mut line = begin(lines, false);
    let service = event.service().filter(|_| services::are_several());
    // Writing to a Line can't fail.
    let _ = match service.and_then(services::name) {
        Some(name) => Named::new(&mut line, name).write(event),
        None => write!(line, "{event}"),
    };
    send(line.finish());
}

/// Begins a line of text, on a line of its own if an earlier one is `torn`.
fn begin(lines: LogLines, torn: bool) -> Line {
    let mut line = Line::default();
    if torn {
        line.separate();
    }
    if lines == LogLines::TimedText {
        let _ = write!(line, "{} ", Time::now());
    }
    line
}

fn send(line: &[u8]) {
    let sink = SINK.read().unwrap_or_else(PoisonError::into_inner);
    let lost = LOST.swap(0, Ordering::Relaxed);
    if lost > 0 && !report_lost(&sink, lost) {
        LOST.fetch_add(lost.saturating_add(1), Ordering::Relaxed);
        counters::count_lost_line();
        return;
    }
    if !put(&sink, line) {
        LOST.fetch_add(1, Ordering::Relaxed);
        counters::count_lost_line();
    }
}

/// Writes how many lines were lost. Returns whether that was taken.
fn report_lost(sink: &Sink, lost: u32) -> bool {
    let torn = TORN.swap(false, Ordering::Relaxed);
    let count = Count(lost, "line was", "lines were");
    let why = "the log took none";
    let taken = match lines() {
        LogLines::Json => json::with_lost(
            lost.into(),
            format_args!("{count} lost here: {why}"),
            |line| put(sink, JsonLine::of(line, torn).as_bytes()),
        ),
        lines => {
            let mut note = begin(lines, torn);
            let _ = write!(note, "{TROUBLE}{count} lost here: {why}");
            put(sink, note.finish())
        }
    };
    if !taken {
        TORN.fetch_or(torn, Ordering::Relaxed);
    }
    taken
}

/// Writes a line. Returns whether it was taken.
fn put(sink: &Sink, line: &[u8]) -> bool {
    let taken = sink.write(line);
    if taken == Taken::Part {
        TORN.store(true, Ordering::Relaxed);
    }
    taken == Taken::All
}

/// Returns a line of a relay, without its newline: the log has not taken so many lines.
pub fn lines_lost(lines: LogLines, count: u64, text: impl fmt::Display) -> String {
    match lines {
        LogLines::Json => json::with_lost(count, text, json::text),
        LogLines::Text | LogLines::TimedText => format!("{TROUBLE}{text}"),
    }
}

/// Returns a line of a relay, without its newline: something is wrong with the log.
pub fn log_trouble(lines: LogLines, text: impl fmt::Display) -> String {
    match lines {
        LogLines::Json => json::with_log_trouble(text, json::text),
        LogLines::Text | LogLines::TimedText => format!("{TROUBLE}{text}"),
    }
}
