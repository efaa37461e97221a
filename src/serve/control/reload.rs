//! Rules that are read again, at SIGHUP.

use super::daemon::Daemon;
use crate::report::{self, Event, Trouble};
use crate::serve::admission::Rules;
use crate::sys::events::Waker;

impl Daemon {
    /// Reads the files of rules of all services again. Returns whether there are any. The old rules
    /// stay where something is wrong with the new ones.
    ///
    /// Clients that have been let in stay, whatever the new rules say.
    pub(in crate::serve) fn read_rules(&self) -> bool {
        let mut any = false;
        for (served, control) in self.shared.services.iter().zip(&self.services) {
            let (Some(rules), Some(files)) = (&served.rules, &control.rule_files) else {
                continue;
            };
            if !files.can_change() {
                continue;
            }
            any = true;
            match files.read() {
                Ok(list) => {
                    let count = list.len();
                    rules.replace(Rules::new(&list, served.plan.variables()));
                    // Threads that wait would keep the old ones for as long.
                    self.shared.wakers.iter().for_each(Waker::wake);
                    report::event(Event::ReadRules(served.id, count));
                }
                Err(faults) => {
                    if let Some(fault) = faults.first() {
                        let trouble = Trouble::RulesNotRead(served.id, fault);
                        report::event(Event::Trouble(trouble));
                    }
                }
            }
        }
        any
    }
}
