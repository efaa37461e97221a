//! What happened, as one event after the other, each one line on standard error or in the
//! log.
//!
//! Reporting never fails, never panics and never waits: a line that nobody takes is
//! dropped and counted.

pub mod line;
mod sink;
mod text;
mod throttle;

pub use throttle::throttle;

use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use crate::config::Span;
use crate::error::Error;
use crate::sys::descriptors::HandOver;
use crate::sys::process::Ended;

use line::Line;
use sink::Taken;
pub use sink::{HandedSink, Sink};

/// Something that happened. What a peer is called is the business of those who know peers:
/// `connection from [::1]:80`, `local datagram`.
#[derive(Clone, Copy)]
pub enum Event<'a> {
    /// A connection was accepted.
    Accepted(&'a dyn fmt::Display),
    /// A connection wasn't let through, for this reason.
    Refused(&'a dyn fmt::Display, &'a dyn fmt::Display),
    /// So many more weren't, of these clients.
    RefusedMore(u64, &'a dyn fmt::Display),
    /// So many more datagrams weren't, of these senders.
    RefusedDatagrams(u64, &'a dyn fmt::Display),
    /// So many datagrams were dropped in a second, for this reason.
    Dropped(u64, &'static str),
    /// A datagram is there, or a connection, for which a handler will be run on the socket.
    Received(&'a dyn fmt::Display),
    /// A handler of a connection ended.
    Closed(&'a dyn fmt::Display, Outcome),
    /// A handler that had the socket ended.
    Finished(&'a dyn fmt::Display, Outcome),
    /// How many handlers run, and how many may, where that is limited.
    Places(usize, Option<usize>),
    /// Clients wait, since as many handlers run as may: this many.
    Full(usize),
    /// Clients wait, since connections come faster than they may, all together.
    Fast,
    /// A socket listens.
    Listening(&'a dyn fmt::Display),
    /// A socket would listen, if skd weren't only asked what it thinks of its command line.
    WouldListen(&'a dyn fmt::Display),
    /// A socket was closed.
    ClosedListener(&'a dyn fmt::Display),
    /// An address of a name was passed over.
    PassedOver(&'a dyn fmt::Display, &'a dyn fmt::Display),
    /// A supervised program was started.
    Started(&'a dyn fmt::Display),
    /// A supervised program ended.
    Ended(&'a dyn fmt::Display, Ended),
    /// A supervised program will be started again.
    Restarting(&'a dyn fmt::Display, Duration),
    /// A supervised program is told to end: it has had no client for so long.
    Idle(&'a dyn fmt::Display, Duration),
    /// A datagram that its handlers left unread was read away. Not limited in number like
    /// other troubles: there can't be many, and each is a datagram lost.
    ReadAway {
        /// Whose it was.
        peer: &'a dyn fmt::Display,
        /// Its length in bytes.
        length: usize,
        /// Where it came.
        listener: &'a dyn fmt::Display,
        /// Who left it.
        program: &'a dyn fmt::Display,
        /// How often.
        starts: u32,
    },
    /// This image has taken over from one of this version.
    Upgraded(&'a dyn fmt::Display),
    /// Connections wait, and handlers that had the socket have accepted none. As above.
    LeftWaiting {
        /// Where they wait.
        listener: &'a dyn fmt::Display,
        /// Who left them.
        program: &'a dyn fmt::Display,
        /// How often.
        starts: u32,
    },
    /// The handler of a connection, with this id, is told to end, being late.
    Late(&'a dyn fmt::Display, i32, Late),
    /// One that was told to end hasn't, and is killed.
    KillingHandler(&'a dyn fmt::Display, i32),
    /// A supervised program hasn't ended in time, and is killed.
    Killing(&'a dyn fmt::Display),
    /// The daemon waits for so many handlers to end, for so long at most.
    Draining(usize, &'a dyn fmt::Display),
    /// So many handlers haven't ended in time; and what is done about it.
    Overdue(usize, &'static str),
    /// So many rules were read again.
    ReadRules(usize),
    /// A process of this program, with this id, stands ready for a client, or for all of them.
    Ready(&'a dyn fmt::Display, i32),
    /// Something went wrong.
    Trouble(Cause, &'a dyn fmt::Display),
}

/// What a handler has done for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It has run.
    Running(Span),
    /// No byte has come or gone.
    Idle(Span),
}

/// How a handler ended.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Its process id.
    pub pid: i32,
    /// Its status or signal.
    pub ended: Ended,
    /// How long it ran.
    pub after: Duration,
}

/// What can go wrong while serving. Of each cause at most one line a second is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Cause {
    /// accept(2) failed.
    Accept,
    /// No process, memory or descriptor for a handler.
    Spawn,
    /// A handler couldn't do its preparation or exec.
    Exec,
    /// A datagram couldn't be received.
    Receive,
    /// A datagram couldn't be sent.
    Send,
    /// A descriptor couldn't be watched.
    Watch,
    /// The log couldn't be opened again, or its relay had to be started again.
    Log,
    /// A new image can't take over.
    Upgrade,
    /// The service manager, or whoever else waits for readiness, couldn't be told.
    Manager,
    /// Rules couldn't be read again.
    Rules,
    /// Handlers can't be started before their clients come.
    Ahead,
}

/// How often a trouble of one cause is reported.
const TROUBLE_PAUSE: Duration = Duration::from_secs(1);

const CAUSES: usize = Cause::Ahead as usize + 1;

/// Statics, because standard error is one for the process too, and because whoever reports
/// must not have to be handed anything.
static VERBOSITY: AtomicU8 = AtomicU8::new(0);
/// Locked for each line; but those who write never wait while they hold it.
static SINK: RwLock<Sink> = RwLock::new(Sink::Plain);
static LOST: AtomicU32 = AtomicU32::new(0);
/// Whether one of those lost has left its beginning, without a newline.
static TORN: AtomicBool = AtomicBool::new(false);
static TROUBLE: [AtomicU64; CAUSES] = [const { AtomicU64::new(0) }; CAUSES];
static FULL: AtomicU64 = AtomicU64::new(0);
static FAST: AtomicU64 = AtomicU64::new(0);

/// Sets how much is reported: 0 troubles, 1 connections, 2 all.
pub fn set_verbosity(verbosity: u8) {
    throttle::read();
    VERBOSITY.store(verbosity, Ordering::Relaxed);
}

/// Sends everything there from now on; plainly to standard error until then.
pub fn use_sink(sink: Sink) {
    *SINK.write().unwrap_or_else(PoisonError::into_inner) = sink;
}

/// Lets the next image of this process report where this one does.
pub fn hand_over(to: &mut HandOver) -> Result<HandedSink, Errno> {
    let sink = SINK.read().unwrap_or_else(PoisonError::into_inner);
    sink.hand_over(to)
}

/// Whether events of this verbosity are reported.
pub fn wants(verbosity: u8) -> bool {
    VERBOSITY.load(Ordering::Relaxed) >= verbosity
}

/// How often it is said that all places are taken, or that connections come too fast.
const FULL_PAUSE: Duration = Duration::from_secs(60);

/// Whether it is time to say again that all places are taken, if they are.
pub fn full_is_due() -> bool {
    is_due(FULL.load(Ordering::Relaxed), throttle(FULL_PAUSE)).is_some()
}

/// Whether it is time to say again that connections come too fast, if they do.
pub fn fast_is_due() -> bool {
    is_due(FAST.load(Ordering::Relaxed), throttle(FULL_PAUSE)).is_some()
}

/// Reports an event, if it is wanted.
pub fn event(event: Event<'_>) {
    if !wants(event.verbosity()) {
        return;
    }
    let due = match event {
        Event::Trouble(cause, _) => due(&TROUBLE[cause as usize], throttle(TROUBLE_PAUSE)),
        Event::Full(_) => due(&FULL, throttle(FULL_PAUSE)),
        Event::Fast => due(&FAST, throttle(FULL_PAUSE)),
        _ => true,
    };
    if !due {
        return;
    }
    let mut line = Line::default();
    // Writing to a Line can't fail; a Display that says so has had its say.
    let _ = fmt::Write::write_fmt(&mut line, format_args!("{event}"));
    send(line.finish());
}

/// Says why the program ends, on standard error.
pub fn failure(error: &Error) {
    let mut line = Line::default();
    let _ = fmt::Write::write_fmt(&mut line, format_args!("skd: {error}"));
    // Not where reports go by now, but where the caller reads.
    Sink::Plain.write(line.finish());
}

/// Says what whoever checks a command line should know, though nothing is wrong with that.
pub fn note(text: impl fmt::Display) {
    let mut line = Line::default();
    let _ = fmt::Write::write_fmt(&mut line, format_args!("skd: note: {text}"));
    Sink::Plain.write(line.finish());
}

/// Writes to standard output at once: what was asked for, help or a port.
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
        let text = format_args!("skd: {lost} lines were lost here: the log took none");
        let _ = fmt::Write::write_fmt(&mut note, text);
        if !write(&sink, note.finish()) {
            TORN.fetch_or(torn, Ordering::Relaxed);
            LOST.fetch_add(lost.saturating_add(1), Ordering::Relaxed);
            return;
        }
    }
    if !write(&sink, line) {
        LOST.fetch_add(1, Ordering::Relaxed);
    }
}

/// Writes a line and says whether it was taken.
fn write(sink: &Sink, line: &[u8]) -> bool {
    let taken = sink.write(line);
    if taken == Taken::Part {
        TORN.store(true, Ordering::Relaxed);
    }
    taken == Taken::All
}

/// Whether so much time has gone since the last time this said yes.
fn due(last: &AtomicU64, every: Duration) -> bool {
    last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| {
        is_due(last, every)
    })
    .is_ok()
}

/// The present time in milliseconds, if so much time has gone since `last`; 0 is never.
fn is_due(last: u64, every: Duration) -> Option<u64> {
    static START: OnceLock<Instant> = OnceLock::new();
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let now = milliseconds(START.get_or_init(Instant::now).elapsed()).saturating_add(1);
    (last == 0 || now.saturating_sub(last) >= milliseconds(every)).then_some(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_kind_is_due_and_the_next_is_not() {
        let last = AtomicU64::new(0);
        assert!(due(&last, Duration::from_secs(3600)));
        assert!(!due(&last, Duration::from_secs(3600)));
    }

    #[test]
    fn what_is_due_again_is_due_again() {
        let last = AtomicU64::new(0);
        assert!(due(&last, Duration::ZERO));
        assert!(due(&last, Duration::ZERO));
    }
}
