//! Rules that are read again, and files of TLS that are opened again, at SIGHUP: in a thread of their own,
//! since a file server may not answer and a million rules take a while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skd_control::{Answer, FailureKind};

use super::commands::{done, failed};
use super::tls::Outcome;
use crate::config::{Count, ServiceId};
use crate::error::Error;
use crate::report::{self, Attempt, Event, TlsTrouble, Trouble};
use crate::serve::admission::Rules;
use crate::serve::worker::Shared;
use crate::setup::{RuleFiles, TlsFiles};
use crate::sys::events::Waker;
use crate::sys::thread::Thread;

/// The stack of the thread that reads rules.
const STACK: usize = 512 * 1024;

/// A reading of rules.
#[derive(Debug, Default)]
pub(in crate::serve) struct Reload {
    /// Whether one has begun that the main thread has not seen the end of.
    begun: bool,
    /// Whether it is over.
    over: Arc<AtomicBool>,
    /// Whether another was asked for meanwhile.
    again: bool,
    /// What was read and what not, since that was asked last.
    read: Arc<Mutex<RulesRead>>,
    /// The files of TLS that were opened, for skd-tls to load.
    opened: Arc<Mutex<Option<OpenedTls>>>,
}

/// Files of TLS that were opened again, or why they couldn't be.
pub(super) type OpenedTls = Result<TlsFiles, Vec<Error>>;

/// What is read again, and opened.
#[derive(Debug, Default)]
pub(super) struct Again {
    /// The rules of these services.
    pub(super) rules: Vec<(ServiceId, Arc<RuleFiles>)>,
    /// The files of TLS.
    pub(super) tls: Option<Arc<TlsFiles>>,
}

/// What was read, and what not.
#[derive(Debug, Default)]
pub(super) struct RulesRead {
    /// How many rules.
    rules: usize,
    /// How many files of TLS.
    files: usize,
    faults: Vec<String>,
}

impl RulesRead {
    /// Returns the answer for a client that waits.
    pub(super) fn answer(self) -> Answer {
        let Self {
            rules,
            files,
            faults,
        } = self;
        if !faults.is_empty() {
            return failed(FailureKind::Failed, faults.join("; "));
        }
        let rules_read = Count(rules, "rule was", "rules were");
        let files_read = Count(files, "file of TLS was", "files of TLS were");
        match (rules, files) {
            (0, 0) => done("Reloaded: there are no rules to read"),
            (_, 0) => done(format!("Reloaded: {rules_read} read")),
            (0, _) => done(format!("Reloaded: {files_read} loaded")),
            _ => done(format!("Reloaded: {rules_read} read, {files_read} loaded")),
        }
    }
}

impl Reload {
    /// That of an earlier binary, which begins again once this one serves.
    pub(super) fn of_earlier(reads: bool) -> Self {
        Self {
            again: reads,
            ..Self::default()
        }
    }

    /// Takes out what was read, and what not.
    pub(super) fn take_read(&mut self) -> RulesRead {
        std::mem::take(&mut *lock(&self.read))
    }

    /// Whether rules are being read, or will be.
    pub(super) fn is_under_way(&self) -> bool {
        self.begun || self.again
    }

    /// Has all be read once more, when what is under way is over.
    pub(super) fn ask_again(&mut self) {
        self.again = true;
    }

    /// Whether another reading was asked for meanwhile, or of an earlier binary. It is the caller's
    /// to begin then.
    pub(super) fn take_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }

    /// Begins to read and open, or notes that this is to be done once more.
    pub(super) fn begin(&mut self, all: Again, shared: &Arc<Shared>) {
        if self.begun {
            self.again = true;
            return;
        }
        let Again { rules, tls } = all;
        let first = rules.first().map(|(first, _)| *first);
        if first.is_none() && tls.is_none() {
            return;
        }
        let (shared, over) = (Arc::clone(shared), Arc::default());
        self.over = Arc::clone(&over);
        let to = Arc::clone(&self.read);
        let opened = Arc::clone(&self.opened);
        let work = move || {
            for (service, files) in rules {
                read(&shared, service, &files, &to);
            }
            match tls {
                // It is over when skd-tls has loaded them.
                Some(files) => *lock(&opened) = Some(files.open_again()),
                None => {
                    let fault = lock(&to).faults.first().cloned();
                    report::event(Event::Attempted(Attempt::Reload, fault.as_deref()));
                }
            }
            over.store(true, Ordering::SeqCst);
            shared.handlers.main.wake();
        };
        match Thread::start_brief(c"rules".into(), STACK, work) {
            Ok(()) => self.begun = true,
            Err(errno) => {
                let fault = Error::start("no thread to read files", errno);
                let text = fault.to_string();
                report::event(Event::Attempted(Attempt::Reload, Some(&text)));
                report::event(Event::Trouble(match first {
                    Some(first) => Trouble::RulesNotRead(first, &fault),
                    None => Trouble::Tls(TlsTrouble::NotLoaded(&text)),
                }));
                lock(&self.read).faults.push(text);
            }
        }
    }

    /// Takes the files of TLS that were opened, if that was to be done.
    pub(super) fn take_opened(&mut self) -> Option<OpenedTls> {
        lock(&self.opened).take()
    }

    /// Takes note of what came of files of TLS, so many. Returns the first fault of all that was read.
    pub(super) fn note_tls(&mut self, outcome: &Outcome, files: usize) -> Option<String> {
        let mut read = lock(&self.read);
        match outcome {
            Ok(()) => read.files += files,
            Err(why) => read.faults.push(why.clone()),
        }
        read.faults.first().cloned()
    }

    /// Takes note of the end of a reading. Returns whether one has ended.
    pub(super) fn take_end(&mut self) -> bool {
        if !self.begun || !self.over.load(Ordering::SeqCst) {
            return false;
        }
        self.begun = false;
        true
    }
}

fn lock<T>(read: &Mutex<T>) -> MutexGuard<'_, T> {
    read.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(shared: &Shared, service: ServiceId, files: &RuleFiles, to: &Mutex<RulesRead>) {
    let served = &shared.services[service.index()];
    let Some(rules) = &served.rules else {
        return;
    };
    match files.read() {
        Ok(list) => {
            let count = list.len();
            rules.replace(Rules::new(&list, served.source.plan.variables()));
            // Threads that wait would keep the old ones for as long.
            shared.wakers.iter().for_each(Waker::wake);
            report::event(Event::ReadRules(service, count));
            lock(to).rules += count;
        }
        Err(faults) => {
            lock(to)
                .faults
                .extend(faults.iter().map(ToString::to_string));
            if let Some(fault) = faults.first() {
                report::event(Event::Trouble(Trouble::RulesNotRead(service, fault)));
            }
        }
    }
}
