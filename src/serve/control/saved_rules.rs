//! A service's rules in the state of an upgrade: as they are, since another binary of this process
//! may not be able to read their files.

use std::ffi::CString;
use std::io;
use std::sync::Arc;

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
    /// None after a reload, which reads files in its preflight.
    #[serde(default)]
    files: Option<SavedRuleFiles>,
}

impl SavedServiceRules {
    /// Saves the rules of a service, if it has any.
    pub(in crate::serve) fn save(
        service: &Service,
        files: Option<&RuleFiles>,
        to: &mut SavedDescriptors,
    ) -> io::Result<Option<Self>> {
        let Some(rules) = &service.rules else {
            return Ok(None);
        };
        Ok(Some(Self {
            rules: rules.current().save(to)?,
            files: files.map(|files| files.save(to)).transpose()?,
        }))
    }

    /// Restores the rules of a service whose handlers have `common` variables. `asks` says whether
    /// names can be looked up.
    pub(in crate::serve) fn restore(
        self,
        common: &Arc<[CString]>,
        prestart: Option<Prestart>,
        asks: bool,
    ) -> Result<(Rules, Option<RuleFiles>), Errno> {
        let restore = |files| RuleFiles::restore(files, prestart, asks);
        let files = self.files.map(restore).transpose()?;
        Ok((Rules::restore(self.rules, common)?, files))
    }
}
