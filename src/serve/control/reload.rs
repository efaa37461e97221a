//! Rules that are read again, at SIGHUP, and that another image of this process has.

use std::ffi::CString;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::Daemon;
use crate::config::Prestart;
use crate::report::{self, Event, Trouble};
use crate::serve::admission::{Rules, SavedRules};
use crate::setup::RuleFiles;
use crate::setup::rules::SavedRuleFiles;
use crate::sys::descriptors::SavedDescriptors;
use crate::sys::events::Waker;

/// A service's rules for another image of this process: as they are, since the files may be out of
/// its reach.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::serve) struct Handed {
    rules: SavedRules,
    files: SavedRuleFiles,
}

impl Handed {
    /// What an earlier image had. `asks` says whether names can be looked up.
    pub(in crate::serve) fn restore(
        self,
        common: &[CString],
        prestart: Option<Prestart>,
        asks: bool,
    ) -> Result<(Rules, RuleFiles), Errno> {
        let files = RuleFiles::restore(self.files, prestart, asks)?;
        Ok((Rules::restore(self.rules, common), files))
    }
}

impl Daemon {
    /// Reads the files of rules again, if there are any, and says whether there are. The old rules
    /// stay where something is wrong with the new ones.
    ///
    /// Whoever has been let in stays, whatever the new rules say.
    pub(in crate::serve) fn read_rules(&self) -> bool {
        let mut any = false;
        for (served, files) in self.shared.services.iter().zip(&self.rule_files) {
            let (Some(book), Some(files)) = (&served.rules, files) else {
                continue;
            };
            if !files.can_change() {
                continue;
            }
            any = true;
            match files.read() {
                Ok(list) => {
                    let count = list.len();
                    book.replace(Rules::new(list, served.plan.variables()));
                    // Those who wait would keep the old ones for as long.
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

    /// Lets the next image of this process have the rules of each service.
    pub(in crate::serve) fn save_rules(
        &self,
        to: &mut SavedDescriptors,
    ) -> Result<Vec<Option<Handed>>, Errno> {
        let services = self.shared.services.iter().zip(&self.rule_files);
        let saved = services.map(|(served, files)| match (&served.rules, files) {
            (Some(book), Some(files)) => Ok(Some(Handed {
                rules: book.current().save(),
                files: files.save(to)?,
            })),
            _ => Ok(None),
        });
        saved.collect()
    }
}
