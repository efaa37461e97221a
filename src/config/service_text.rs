//! A service as it was written in a file: options with their values, and the location of each.

use std::collections::HashSet;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Where something was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Location {
    /// The file, as its path was given.
    pub file: Arc<Path>,
    /// The line, from 1.
    pub line: u32,
    /// The column in characters, from 1; 0 where the line alone is known.
    pub column: u32,
}

/// A service of a file, whatever the format of the file was. The options are those of the command
/// line, which read and check them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceText {
    /// The name of the service.
    pub name: String,
    /// Where it begins.
    pub location: Location,
    /// The options, in the order of the file.
    pub options: Vec<OptionText>,
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// Where the command was written.
    pub command_location: Location,
    /// What an administrator should know of it: settings of another daemon's file that mean something
    /// else here, or nothing. Each is a sentence.
    pub notes: Vec<(Location, String)>,
}

/// One option of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OptionText {
    /// The long name, without hyphens.
    pub name: String,
    /// The value, if there is one: flags have none.
    pub value: Option<OsString>,
    /// Where it was written.
    pub location: Location,
}

/// All that files say: the services, and the process that serves them. A process that goes on after a
/// reload gets it from the one before, and reads no file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileTexts {
    /// The options of the daemon, each at most once.
    pub daemon: Vec<OptionText>,
    /// The services, in the order of the files.
    pub services: Vec<Arc<ServiceText>>,
}

impl FileTexts {
    /// Has all locations in a file share its path, which each has for itself when it is deserialised.
    pub fn share_paths(&mut self) {
        let mut paths: HashSet<Arc<Path>> = HashSet::new();
        let mut share = |location: &mut Location| match paths.get(&location.file) {
            Some(path) => location.file = Arc::clone(path),
            None => {
                paths.insert(Arc::clone(&location.file));
            }
        };
        for service in self.services.iter_mut().filter_map(Arc::get_mut) {
            share(&mut service.location);
            share(&mut service.command_location);
            let options = service.options.iter_mut().map(|it| &mut it.location);
            let notes = service.notes.iter_mut().map(|(location, _)| location);
            options.chain(notes).for_each(&mut share);
        }
    }
}

impl Location {
    /// The command line, which has no lines.
    pub fn command_line() -> Self {
        Self::new("the command line", 0, 0)
    }

    /// Whether this is a place in a file.
    pub fn is_in_file(&self) -> bool {
        self.line > 0
    }

    /// Returns a location in a file.
    pub fn new(file: impl Into<PathBuf>, line: u32, column: u32) -> Self {
        Self {
            file: file.into().into(),
            line,
            column,
        }
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        for number in [self.line, self.column] {
            if number > 0 {
                write!(f, ":{number}")?;
            }
        }
        Ok(())
    }
}

impl ServiceText {
    /// Whether another text means the same, wherever it was written.
    pub fn means_the_same_as(&self, other: &Self) -> bool {
        let options = |text: &Self| -> Vec<_> {
            let options = text.options.iter();
            let parts = options.map(|it| (it.name.clone(), it.value.clone()));
            parts.collect()
        };
        self.name == other.name && self.command == other.command && options(self) == options(other)
    }

    /// Returns the location of an option as messages name it, `--tcp 80`; of the service if it has
    /// no such option.
    pub fn location_of(&self, words: &str) -> &Location {
        let is_it = |option: &&OptionText| {
            let rest = words
                .strip_prefix("--")
                .and_then(|rest| rest.strip_prefix(&*option.name));
            match (rest, &option.value) {
                (Some(""), _) => true,
                (Some(rest), Some(value)) => {
                    rest.strip_prefix(' ') == Some(&*value.to_string_lossy())
                }
                _ => false,
            }
        };
        let found = self.options.iter().find(is_it);
        found.map_or(&self.location, |option| &option.location)
    }
}

impl OptionText {
    /// Returns an option with a value.
    pub fn value(name: &str, value: impl Into<OsString>, location: &Location) -> Self {
        Self {
            name: name.to_owned(),
            value: Some(value.into()),
            location: location.clone(),
        }
    }

    /// Returns an option without a value.
    pub fn flag(name: &str, location: &Location) -> Self {
        Self {
            name: name.to_owned(),
            value: None,
            location: location.clone(),
        }
    }
}
