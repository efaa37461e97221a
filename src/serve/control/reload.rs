//! Rules that are read again, at SIGHUP: in a thread of their own, since a file server may not answer
//! and a million rules take a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::daemon::Daemon;
use crate::config::ServiceId;
use crate::error::Error;
use crate::report::{self, Event, Trouble};
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
}

impl Daemon {
    /// Begins to read the files of rules of all services again. Returns whether there are any. The old
    /// rules stay where something is wrong with the new ones.
    ///
    /// Clients that have been let in stay, whatever the new rules say.
    pub(in crate::serve) fn read_rules(&mut self) -> bool {
        let mut files = Vec::new();
        for (served, control) in self.shared.services.iter().zip(&self.services) {
            let of_service = control.rule_files.as_ref().filter(|it| it.can_change());
            if let (Some(_), Some(of_service)) = (&served.rules, of_service) {
                files.push((served.id, Arc::clone(of_service)));
            }
        }
        if files.is_empty() {
            return false;
        }
        if self.reload.begun {
            self.reload.again = true;
            return true;
        }
        let first = files[0].0;
        let (shared, over) = (Arc::clone(&self.shared), Arc::default());
        self.reload.over = Arc::clone(&over);
        let work = move || {
            for (service, files) in files {
                read(&shared, service, &files);
            }
            over.store(true, Ordering::SeqCst);
            shared.handlers.main.wake();
        };
        match Thread::start_brief(c"rules".into(), STACK, work) {
            Ok(()) => self.reload.begun = true,
            Err(errno) => {
                let fault = Error::start("no thread to read rules", errno);
                report::event(Event::Trouble(Trouble::RulesNotRead(first, &fault)));
            }
        }
        true
    }

    /// Tells the service manager that all is as before HUP, if it is.
    pub(in crate::serve) fn ready_if_reloaded(&mut self) {
        if self.reopening == 0 && !self.reload.begun {
            self.status.ready(&self.shared);
        }
    }

    /// Looks whether rules have been read.
    pub(in crate::serve) fn look_at_reload(&mut self) {
        if self.reload.begun && self.reload.over.load(Ordering::SeqCst) {
            self.reload.begun = false;
            if std::mem::take(&mut self.reload.again) {
                self.read_rules();
            }
            self.ready_if_reloaded();
        }
    }
}

fn read(shared: &Shared, service: ServiceId, files: &RuleFiles) {
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
        }
        Err(faults) => {
            if let Some(fault) = faults.first() {
                report::event(Event::Trouble(Trouble::RulesNotRead(service, fault)));
            }
        }
    }
}
