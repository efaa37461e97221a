//! Access to the options of the command line, and collecting their faults.

use std::cell::RefCell;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use clap::ArgMatches;
use clap::parser::ValueSource;

use super::known::LookedUp;
use super::options::COMMAND;
use crate::config::{Id, Location, OptionText, Refused, look_up};
use crate::error::Error;

/// The options as they were given, by their long names, and the faults found in them.
pub(super) struct Args<'a> {
    pub(super) matches: &'a ArgMatches,
    /// What user, group and service names stand for that were looked up, if any are.
    pub(super) names: Option<&'a RefCell<LookedUp>>,
    pub(super) faults: RefCell<Vec<Error>>,
    /// What is no fault, but should be known.
    pub(super) notes: RefCell<Vec<String>>,
    /// Where the options were written, if they come from files.
    pub(super) written: Option<Written<'a>>,
}

/// The options that make listeners.
pub(super) const LISTENERS: [&str; 6] = ["tcp", "udp", "inet", "unix", "listen-fd", "systemd"];

/// Where options were written.
#[derive(Clone, Copy)]
pub(super) struct Written<'a> {
    pub(super) options: &'a [OptionText],
    /// Where what they belong to was written.
    pub(super) location: &'a Location,
}

impl<'a> Args<'a> {
    /// The options as they were given, without faults yet.
    pub(super) fn new(
        matches: &'a ArgMatches,
        names: Option<&'a RefCell<LookedUp>>,
        written: Option<Written<'a>>,
    ) -> Self {
        Self {
            matches,
            names,
            faults: RefCell::default(),
            notes: RefCell::default(),
            written,
        }
    }

    /// Adds a fault. In a file, it is that of the first option that the text names.
    pub(super) fn refuse(&self, text: impl Into<String>) {
        let text = text.into();
        let at = self.written.map(|written| written.named_in(&text));
        self.refuse_at(at, &text);
    }

    fn refuse_at(&self, at: Option<&Location>, text: &str) {
        self.faults
            .borrow_mut()
            .push(Error::Usage(located(at, text)));
    }

    /// Adds a note.
    pub(super) fn note(&self, text: String) {
        let at = self.written.map(|written| written.named_in(&text));
        self.notes.borrow_mut().push(located(at, &text));
    }

    /// Returns the id of a user or group. After an upgrade, the process has it already, and any
    /// placeholder does.
    pub(super) fn look_up_id(&self, id: Id, name: &OsStr) -> Result<u32, Refused> {
        let kind = match id {
            Id::User => "user",
            Id::Group => "group",
        };
        let found = self.look_up(kind, name, || Ok((look_up(id, name)?, None)))?;
        Ok(found.map_or(u32::MAX, |(id, _)| id))
    }

    /// Returns what a name of this kind stands for: as it was found before, or by asking. Returns
    /// `None` if no names are looked up.
    pub(super) fn look_up<E>(
        &self,
        kind: &str,
        name: &OsStr,
        ask: impl FnOnce() -> Result<(u32, Option<u32>), E>,
    ) -> Result<Option<(u32, Option<u32>)>, E> {
        let Some(names) = self.names else {
            return Ok(None);
        };
        let key = (kind.to_owned(), name.to_owned());
        let known = names.borrow().get(&key).copied();
        if known.is_some() {
            return Ok(known);
        }
        let found = ask()?;
        names.borrow_mut().insert(key, found);
        Ok(Some(found))
    }

    /// Whether an option without a value was given.
    pub(super) fn flag(&self, option: &str) -> bool {
        self.matches.get_flag(option)
    }

    /// Whether an option with a value was given, valid or not.
    pub(super) fn has(&self, option: &str) -> bool {
        self.matches.contains_id(option)
    }

    /// Returns PROG, which may have been meant as the value of an option before it.
    pub(super) fn word_after_options(&self) -> Option<&OsStr> {
        match self.written {
            None => self.one(COMMAND),
            Some(_) => None,
        }
    }

    /// Returns the first value of an option, if it has one.
    pub(super) fn one(&self, option: &str) -> Option<&OsStr> {
        let mut values = self.matches.get_many::<OsString>(option)?;
        values.next().map(OsString::as_os_str)
    }

    /// Whether any option was given.
    pub(super) fn any(&self) -> bool {
        let mut ids = self.matches.ids().map(clap::Id::as_str);
        ids.any(|id| id != COMMAND && self.is_given(id))
    }

    /// Whether an option of any kind was given.
    pub(super) fn is_given(&self, option: &str) -> bool {
        self.matches.value_source(option) == Some(ValueSource::CommandLine)
    }

    /// Whether there are listeners.
    pub(super) fn listens(&self) -> bool {
        LISTENERS.iter().any(|option| self.is_given(option))
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
            // A value may look like an option.
            let at = self.written.map(|written| written.of(option, Some(value)));
            let value = Path::new(value).display();
            self.refuse_at(
                at,
                &format!("invalid value '{value}' for --{option}: {why}{several}"),
            );
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

impl<'a> Written<'a> {
    /// Returns the location of an option with this value, or of the option.
    fn of(self, option: &str, value: Option<&OsStr>) -> &'a Location {
        let named = || {
            let options = self.options.iter().rev();
            options.filter(|it| it.name == option)
        };
        let same = named().find(|it| value.is_none() || it.value.as_deref() == value);
        let found = same.or_else(|| named().next());
        found.map_or(self.location, |it| &it.location)
    }

    /// Returns the location of the first option in a text that was given.
    fn named_in(self, text: &str) -> &'a Location {
        let given = text.split("--").skip(1).find_map(|rest| {
            let is_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '-';
            let (name, rest) = rest.split_at(rest.find(|it| !is_name(it)).unwrap_or(rest.len()));
            let value = rest.trim_start().split([' ', ':']).next();
            let given = self.options.iter().any(|it| it.name == name);
            given.then(|| self.of(name, value.map(OsStr::new)))
        });
        given.unwrap_or(self.location)
    }
}

/// Returns a sentence with the location in a file that it is about.
pub(super) fn located(at: Option<&Location>, text: &str) -> String {
    match at.filter(|at| at.is_in_file()) {
        Some(at) => format!("{at}: {text}"),
        None => text.to_owned(),
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
