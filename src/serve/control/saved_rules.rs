//! A service's rules in the state of an upgrade: as they are, since another binary of this process
//! may not be able to read their files.

use std::ffi::CString;
use std::io;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::config::Prestart;
use crate::serve::admission::Rules;
use crate::serve::service::Service;
use crate::setup::RuleFiles;
use crate::setup::rules::SavedRuleFiles;
use crate::sys::descriptors::SavedDescriptors;

/// The rules of a service, and the files that they are read from again.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::serve) struct SavedServiceRules {
    /// The descriptor of the compiled rules.
    rules: i32,
    files: SavedRuleFiles,
}

impl SavedServiceRules {
    /// Saves the rules of a service, if it has any.
    pub(in crate::serve) fn save(
        service: &Service,
        files: Option<&RuleFiles>,
        to: &mut SavedDescriptors,
    ) -> io::Result<Option<Self>> {
        match (&service.rules, files) {
            (Some(rules), Some(files)) => Ok(Some(Self {
                rules: rules.current().save(to)?,
                files: files.save(to)?,
            })),
            _ => Ok(None),
        }
    }

    /// Restores the rules of a service whose handlers have `common` variables. `asks` says whether
    /// names can be looked up.
    pub(in crate::serve) fn restore(
        self,
        common: &[CString],
        prestart: Option<Prestart>,
        asks: bool,
    ) -> Result<(Rules, RuleFiles), Errno> {
        let files = RuleFiles::restore(self.files, prestart, asks)?;
        Ok((Rules::restore(self.rules, common)?, files))
    }
}
