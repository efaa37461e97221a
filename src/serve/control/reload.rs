//! Rules that are read again, at SIGHUP: in a thread of their own, since a file server may not answer
//! and a million rules take a while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use skd_control::{Answer, FailureKind};

use super::commands::{done, failed};
use crate::config::{Count, ServiceId};
use crate::error::Error;
use crate::report::{self, Attempt, Event, Trouble};
use crate::serve::admission::Rules;
use crate::serve::worker::Shared;
use crate::setup::RuleFiles;
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
}

/// What was read, and what not.
#[derive(Debug, Default)]
pub(super) struct RulesRead {
    /// How many rules.
    rules: usize,
    faults: Vec<String>,
}

impl RulesRead {
    /// Returns the answer for a client that waits.
    pub(super) fn answer(self) -> Answer {
        let Self { rules, faults } = self;
        if !faults.is_empty() {
            return failed(FailureKind::Failed, faults.join("; "));
        }
        match rules {
            0 => done("Reloaded: there are no rules to read"),
            _ => done(format!(
                "Reloaded: {} read",
                Count(rules, "rule was", "rules were")
            )),
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

    /// Whether another reading was asked for meanwhile, or of an earlier binary. It is the caller's
    /// to begin then.
    pub(super) fn take_again(&mut self) -> bool {
        std::mem::take(&mut self.again)
    }

    /// Begins to read the rules of these services, or notes that they are to be read once more.
    pub(super) fn begin(&mut self, files: Vec<(ServiceId, Arc<RuleFiles>)>, shared: &Arc<Shared>) {
        if self.begun {
            self.again = true;
            return;
        }
        let Some((first, _)) = files.first() else {
            return;
        };
        let first = *first;
        let (shared, over) = (Arc::clone(shared), Arc::default());
        self.over = Arc::clone(&over);
        let to = Arc::clone(&self.read);
        let work = move || {
            for (service, files) in files {
                read(&shared, service, &files, &to);
            }
            let fault = lock(&to).faults.first().cloned();
            report::event(Event::Attempted(Attempt::Reload, fault.as_deref()));
            over.store(true, Ordering::SeqCst);
            shared.handlers.main.wake();
        };
        match Thread::start_brief(c"rules".into(), STACK, work) {
            Ok(()) => self.begun = true,
            Err(errno) => {
                let fault = Error::start("no thread to read rules", errno);
                report::event(Event::Attempted(Attempt::Reload, Some(&fault.to_string())));
                report::event(Event::Trouble(Trouble::RulesNotRead(first, &fault)));
                lock(&self.read).faults.push(fault.to_string());
            }
        }
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

fn lock(read: &Mutex<RulesRead>) -> MutexGuard<'_, RulesRead> {
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
            rules.replace(Rules::new(&list, served.plan.variables()));
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
