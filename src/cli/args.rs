//! Access to the options of the command line, and collecting their faults.

use std::cell::RefCell;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::options::COMMAND;
use crate::config::{Names, look_up};
use crate::error::Error;

/// The options as they were given, by their long names, and the faults found in them.
pub(super) struct Args<'a> {
    pub(super) matches: &'a ArgMatches,
    /// Whether user, group and service names are looked up.
    pub(super) names: bool,
    pub(super) faults: RefCell<Vec<Error>>,
    /// What is no fault, but should be known.
    pub(super) notes: RefCell<Vec<String>>,
}

impl Args<'_> {
    /// Adds a fault.
    pub(super) fn refuse(&self, text: impl Into<String>) {
        self.faults.borrow_mut().push(Error::Usage(text.into()));
    }

    /// Adds a note.
    pub(super) fn note(&self, text: String) {
        self.notes.borrow_mut().push(text);
    }

    /// Returns how to look up users and groups. After an upgrade, the process has their ids
    /// already, and any placeholder does.
    pub(super) fn names(&self) -> Names<'static> {
        match self.names {
            true => &look_up,
            false => &|_, _| Ok(u32::MAX),
        }
    }

    /// Whether an option without a value was given.
    pub(super) fn flag(&self, option: &str) -> bool {
        self.matches.get_flag(option)
    }

    /// Whether an option with a value was given, valid or not.
    pub(super) fn has(&self, option: &str) -> bool {
        self.matches.contains_id(option)
    }

    /// Returns the first value of an option, if it has one.
    pub(super) fn one(&self, option: &str) -> Option<&OsStr> {
        let mut values = self.matches.get_many::<OsString>(option)?;
        values.next().map(OsString::as_os_str)
    }

    /// Whether any option was given.
    pub(super) fn any(&self) -> bool {
        let given = |id: &&str| {
            let source = self.matches.value_source(id);
            source == Some(ValueSource::CommandLine)
        };
        let mut ids = self.matches.ids().map(clap::Id::as_str);
        ids.any(|id| id != COMMAND && given(&id))
    }

    /// Whether there are listeners.
    pub(super) fn listens(&self) -> bool {
        let options = ["tcp", "udp", "inet", "unix", "listen-fd"];
        self.flag("systemd") || options.iter().any(|option| self.has(option))
    }

    /// Parses the value of an option with `reader`.
    pub(super) fn read<T, E: std::fmt::Display>(
        &self,
        option: &str,
        reader: impl Fn(&OsStr) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.matches.get_one::<OsString>(option)?;
        self.value(option, value, reader)
    }

    /// Parses one value of a repeatable option with `reader`. A fault is added if it is invalid.
    pub(super) fn value<T, E: std::fmt::Display>(
        &self,
        option: &str,
        value: &OsStr,
        reader: impl Fn(&OsStr) -> Result<T, E>,
    ) -> Option<T> {
        let refuse = |why| {
            let several = match is_list(value, &reader) {
                true => format!("; write --{option} once for each value"),
                false => String::new(),
            };
            let value = Path::new(value).display();
            self.refuse(format!(
                "invalid value '{value}' for --{option}: {why}{several}"
            ));
        };
        reader(value).map_err(refuse).ok()
    }

    /// Returns the values of a repeatable option with their positions on the command line.
    pub(super) fn each(&self, option: &str) -> impl Iterator<Item = (usize, &OsStr)> {
        let values = self.matches.get_many::<OsString>(option);
        let positions = self.matches.indices_of(option).into_iter().flatten();
        positions.zip(values.unwrap_or_default().map(OsString::as_os_str))
    }

    /// Converts an argument for the kernel.
    pub(super) fn c_string(&self, text: OsString) -> Option<CString> {
        // Arguments of a process can't contain a NUL byte, so this fails only for other callers.
        let refuse = |_| self.refuse("an argument contains a NUL byte");
        CString::new(text.into_vec()).map_err(refuse).ok()
    }
}

/// Whether a text has several valid values, with commas or blanks between them.
fn is_list<T, E>(text: &OsStr, reader: &impl Fn(&OsStr) -> Result<T, E>) -> bool {
    let Some(text) = text.to_str() else {
        return false;
    };
    let mut parts = text.split([',', ' ']).filter(|part| !part.is_empty());
    parts.clone().count() > 1 && parts.all(|part| reader(OsStr::new(part)).is_ok())
}

/// Returns an option with its value, for messages.
pub(super) fn with_value(option: &str, value: &OsStr) -> String {
    format!("--{option} {}", Path::new(value).display())
}
