//! Reading rules files: the file of `--rules`, and lists of prefixes.
//!
//! They are read again at SIGHUP, when the root directory, working directory and user may have
//! changed. So the directories at the beginning of their paths stay open.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use crate::config::rule_file::{self, Fault};
use crate::config::{Id, Prefix, Prestart, Refused, Rule, RuleLocation, Service, look_up};
use crate::error::{Error, Reason};
use crate::sys::descriptors::SavedDescriptors;
use crate::sys::directory::{Directory, SavedDirectory};
use crate::sys::trusted::{self, Control, Refusal};

/// The maximum size of a file in bytes, enough for a million of the longest prefixes.
const LARGEST: u64 = 64 << 20;

/// Rules, each with the prefixes of its file.
pub type RuleList = Vec<(Rule, Vec<Prefix>)>;

/// The sources of the rules of a service.
#[derive(Debug)]
pub struct RuleFiles {
    /// The rules of the command line, which come first.
    options: Vec<Rule>,
    /// The files, if the rules name one.
    files: Option<Files>,
    names: Names,
    /// How handlers are started before their client, and so its rule, is known.
    prestart: Option<Prestart>,
}

/// The sources as they are saved for the next binary.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedRuleFiles {
    options: Vec<Rule>,
    files: Option<SavedFiles>,
    names: Vec<(Id, OsString, u32)>,
}

#[derive(Debug)]
struct Files {
    /// The rules file and its directory.
    rules: Option<(PathBuf, Directory)>,
    /// The root directory, where absolute paths begin.
    root: Directory,
    /// The working directory, where relative paths of the command line begin.
    here: Directory,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedFiles {
    rules: Option<(PathBuf, SavedDirectory)>,
    root: SavedDirectory,
    here: SavedDirectory,
}

/// The ids of user and group names. They aren't looked up in another root directory: there, the
/// answer and the libraries loaded for it would be others.
#[derive(Debug)]
struct Names {
    can_look_up: bool,
    known: Mutex<BTreeMap<(Id, OsString), u32>>,
}

impl Names {
    /// Locked for no longer than it is looked at.
    fn known(&self) -> MutexGuard<'_, BTreeMap<(Id, OsString), u32>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: Id, name: &OsStr) -> Result<u32, Refused> {
        let key = (id, name.to_owned());
        if self.can_look_up {
            let number = look_up(id, name)?;
            self.known().insert(key, number);
            return Ok(number);
        }
        self.known().get(&key).copied().ok_or_else(|| {
            Refused::because(format!(
                "'{}' can't be looked up in another root directory: use the number, or restart skd",
                Path::new(name).display()
            ))
        })
    }
}

impl RuleFiles {
    /// Opens the directories for later. Returns `None` if there are no rules.
    pub fn open(service: &Service) -> Result<Option<Self>, Error> {
        let admission = &service.admission;
        let options = admission.rules.clone();
        let rules = admission.rules_file.as_deref();
        if !admission.has_rules() {
            return Ok(None);
        }
        let needed = rules.is_some() || options.iter().any(|rule| rule.file().is_some());
        Ok(Some(Self {
            options,
            files: needed.then(|| Files::open(rules)).transpose()?,
            names: Names {
                can_look_up: true,
                known: Mutex::default(),
            },
            prestart: service.prestart,
        }))
    }

    /// Opens and reads the rules, or returns the first fault.
    pub fn open_and_read(service: &Service) -> Result<Option<(Self, RuleList)>, Error> {
        let Some(files) = Self::open(service)? else {
            return Ok(None);
        };
        match files.read() {
            Ok(list) => Ok(Some((files, list))),
            Err(faults) => {
                let first = faults.into_iter().next();
                Err(first.unwrap_or_else(|| Error::Start("the rules can't be read".into())))
            }
        }
    }

    /// Notes that this process has another root directory.
    pub fn entered_root(&mut self) {
        self.names.can_look_up = false;
    }

    /// Whether there are files, whose content can change.
    pub fn can_change(&self) -> bool {
        self.files.is_some()
    }

    /// Reads all rules, or returns all faults.
    pub fn read(&self) -> Result<RuleList, Vec<Error>> {
        let mut found = Vec::new();
        let mut faults = Vec::new();
        for rule in &self.options {
            self.add(rule.clone(), None, &mut found, &mut faults);
        }
        if let Some(Files {
            rules: Some((path, directory)),
            ..
        }) = &self.files
        {
            let file = Described("rules file", path);
            let names = |id, name: &OsStr| self.names.find(id, name);
            let name = Path::new(path.file_name().unwrap_or_default());
            match read_file(directory, name) {
                Err(why) => faults.push(Error::Start(format!("{file} {why}"))),
                Ok((text, writers)) => match rule_file::rules(&text, &names) {
                    Err(more) => faults.extend(sentences(&file, &more)),
                    Ok(rules) if rules.is_empty() => {
                        faults.push(Error::Start(format!("{file} has no rule in it")));
                    }
                    Ok(rules) => {
                        for rule in rules {
                            let of = Some((path.as_path(), directory, writers));
                            self.add(rule, of, &mut found, &mut faults);
                        }
                    }
                },
            }
        }
        match faults.is_empty() {
            true => Ok(found),
            false => Err(faults),
        }
    }

    /// Adds a rule of the command line or of a file, with its list of prefixes.
    fn add(
        &self,
        rule: Rule,
        of: Option<(&Path, &Directory, Control)>,
        found: &mut RuleList,
        faults: &mut Vec<Error>,
    ) {
        let prestart = self.prestart.filter(|_| !rule.environment.is_empty());
        if let Some(prestart) = prestart {
            let by = Location(&rule.location, of.map(|(path, ..)| path));
            faults.push(Error::Usage(format!(
                "{by}: env can't be used with {}: handlers run before their client is known",
                prestart.option()
            )));
        }
        let (Some(path), Some(files)) = (rule.file(), &self.files) else {
            return found.push((rule, Vec::new()));
        };
        let relative = path.strip_prefix("/").ok();
        let (base, below, shown) = match (relative, of) {
            (Some(relative), _) => (&files.root, relative, path.to_owned()),
            (None, None) => (&files.here, path, path.to_owned()),
            (None, Some((rules, directory, _))) => (directory, path, rules.with_file_name(path)),
        };
        let writers = of.map_or(Control::Trusted, |(.., writers)| writers);
        let file = Described("list of prefixes", &shown);
        let base = base.for_paths_by(writers);
        let base = base.map_err(|errno| cannot_open(errno.into()));
        let list = match base.and_then(|base| read_file(&base, below)) {
            Ok((text, _)) => rule_file::prefixes(&text),
            Err(why) => {
                let by = Location(&rule.location, of.map(|(path, ..)| path));
                return faults.push(Error::Start(format!("{by}: the {file} {why}")));
            }
        };
        match list {
            Ok(list) => found.push((rule, list)),
            Err(more) => faults.extend(sentences(&file, &more)),
        }
    }

    /// Returns the location of a rule, for messages.
    pub fn location<'a>(&'a self, rule: &'a Rule) -> impl fmt::Display + 'a {
        let rules = self.files.as_ref().and_then(|files| files.rules.as_ref());
        Location(&rule.location, rules.map(|(path, _)| path.as_path()))
    }

    /// Saves the sources for the next binary.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedRuleFiles, Errno> {
        let known = self.names.known();
        let names = known.iter();
        let mut files = |files: &Files| {
            let rules = files.rules.as_ref().map(|(path, directory)| {
                let directory = directory.save(to)?;
                Ok::<_, Errno>((path.clone(), directory))
            });
            Ok::<_, Errno>(SavedFiles {
                rules: rules.transpose()?,
                root: files.root.save(to)?,
                here: files.here.save(to)?,
            })
        };
        Ok(SavedRuleFiles {
            options: self.options.clone(),
            files: self.files.as_ref().map(&mut files).transpose()?,
            names: names
                .map(|((id, name), number)| (*id, name.clone(), *number))
                .collect(),
        })
    }

    /// Restores the sources of the previous binary. `can_look_up` says whether names can be
    /// looked up.
    pub fn restore(
        saved: SavedRuleFiles,
        prestart: Option<Prestart>,
        can_look_up: bool,
    ) -> Result<Self, Errno> {
        let files = |files: SavedFiles| {
            let rules = files.rules.map(|(path, directory)| {
                let directory = Directory::restore(directory)?;
                Ok::<_, Errno>((path, directory))
            });
            Ok::<_, Errno>(Files {
                rules: rules.transpose()?,
                root: Directory::restore(files.root)?,
                here: Directory::restore(files.here)?,
            })
        };
        let names = saved.names.into_iter();
        let known = names.map(|(id, name, number)| ((id, name), number));
        Ok(Self {
            options: saved.options,
            files: saved.files.map(files).transpose()?,
            names: Names {
                can_look_up,
                known: Mutex::new(known.collect()),
            },
            prestart,
        })
    }
}

impl Files {
    fn open(rules: Option<&Path>) -> Result<Self, Error> {
        let failed = |what: &str| {
            let what = format!("can't open the {what} directory for rules files");
            move |why: Refusal| Error::start(what, io::Error::from(why))
        };
        let rules = rules.map(|path| match Directory::of(path) {
            Ok(directory) => Ok((path.to_owned(), directory)),
            Err(why) => Err(Error::Start(format!(
                "{} {}",
                Described("rules file", path),
                cannot_open(why)
            ))),
        });
        Ok(Self {
            rules: rules.transpose()?,
            root: Directory::open(Path::new("/")).map_err(failed("root"))?,
            here: Directory::open(Path::new(".")).map_err(failed("working"))?,
        })
    }
}

/// Reads a file, and finds its writers.
fn read_file(base: &Directory, path: &Path) -> Result<(Vec<u8>, Control), String> {
    let file = base.open_file(path).map_err(cannot_open)?;
    let writers = trusted::writers(&file).map_err(|errno| cannot_open(errno.into()))?;
    let mut text = Vec::new();
    let read = file.take(LARGEST + 1).read_to_end(&mut text);
    read.map_err(|reason| format!("can't be read: {}", reason.reason()))?;
    if text.len() as u64 > LARGEST {
        return Err(format!("has more than {} MiB", LARGEST >> 20));
    }
    Ok((text, writers))
}

fn cannot_open(why: Refusal) -> String {
    match why {
        Refusal::Failed(Errno::ESPIPE) => {
            "isn't a regular file, so it can't be read again at SIGHUP".into()
        }
        why => format!("can't be opened: {why}"),
    }
}

fn sentences(file: &Described<'_>, faults: &[Fault]) -> Vec<Error> {
    let sentence = |fault| Error::Start(format!("{file}, {fault}"));
    faults.iter().map(sentence).collect()
}

/// A file and its purpose.
struct Described<'a>(&'static str, &'a Path);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(what, path) = self;
        write!(f, "{what} {}", path.display())
    }
}

/// The location of a rule, with its file.
struct Location<'a>(&'a RuleLocation, Option<&'a Path>);

impl fmt::Display for Location<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self(RuleLocation::Line(line), Some(path)) => {
                write!(f, "{}, line {line}", Described("rules file", path))
            }
            Self(location, _) => write!(f, "{location}"),
        }
    }
}
