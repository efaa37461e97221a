//! Reading services from TOML. The keys are long options.

use std::collections::HashSet;
use std::ffi::OsString;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::read::{directory, file};
use crate::cli::options::{Belongs, GROUPS, Kind, Opt};
use crate::cli::suggest;
use crate::config::{Location, OptionText, ServiceText, Target, in_order, nearest};
use crate::error::Error;

/// The tables of a file.
const TABLES: [&str; 3] = ["daemon", "defaults", "service"];

/// The key of options whose order counts.
pub(super) const IN_ORDER: &str = "in-order";

/// The keys of a service that are no options.
const OWN_KEYS: [&str; 4] = ["command", "shell", "forward", "enabled"];

/// How many errors of the syntax are reported. Each may follow from the one before.
const MOST_ERRORS: usize = 20;

/// The options that may be tables of names.
const WITH_NAMES: [&str; 2] = ["env", "limit"];

/// Reads a file, or all files `*.toml` of a directory. Options of the daemon are added to `daemon`.
pub(super) fn read(
    path: &Path,
    daemon: &mut Vec<OptionText>,
    faults: &mut Vec<Error>,
) -> Vec<ServiceText> {
    let files = match path.is_dir() {
        true => directory(path, |name| name.as_encoded_bytes().ends_with(b".toml")),
        false => Ok(vec![path.to_owned()]),
    };
    let files = files.unwrap_or_else(|why| {
        faults.push(Error::Start(format!("{} {why}", path.display())));
        Vec::new()
    });
    let mut services = Vec::new();
    for path in files {
        match file(&path) {
            Ok(text) => services.append(&mut parse(&path, &text, daemon, faults)),
            Err(why) => faults.push(Error::Start(format!("{} {why}", path.display()))),
        }
    }
    services
}

/// Returns the services of a file with this text. Options of the daemon are added to `daemon`.
pub(in crate::cli) fn parse(
    path: &Path,
    text: &[u8],
    daemon: &mut Vec<OptionText>,
    faults: &mut Vec<Error>,
) -> Vec<ServiceText> {
    let valid = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => std::str::from_utf8(&text[..error.valid_up_to()]).unwrap_or_default(),
    };
    let (text, valid) = match valid.strip_prefix('\u{feff}') {
        Some(valid) => (&text['\u{feff}'.len_utf8()..], valid),
        None => (text, valid),
    };
    let mut document = Document {
        lines: Lines::new(path, valid),
        faults,
    };
    if valid.len() < text.len() {
        document.fault(valid.len()..valid.len(), "this byte isn't text in UTF-8");
        return Vec::new();
    }
    document.read(daemon)
}

/// A file that is read.
struct Document<'a> {
    lines: Lines<'a>,
    faults: &'a mut Vec<Error>,
}

/// An entry of a table.
type Entry<'t, 'i> = (
    &'t Spanned<std::borrow::Cow<'i, str>>,
    &'t Spanned<DeValue<'i>>,
);

/// What a table says.
#[derive(Clone, Default)]
struct Settings {
    options: Vec<OptionText>,
    /// The options that are set, if only to nothing.
    set: HashSet<&'static str>,
    /// Those among them that are tables of names.
    tables: HashSet<&'static str>,
}

impl Document<'_> {
    fn read(&mut self, daemon: &mut Vec<OptionText>) -> Vec<ServiceText> {
        let (table, errors) = DeTable::parse_recoverable(self.lines.text);
        if !errors.is_empty() {
            let start = |error: &toml::de::Error| error.span().map_or(0, |span| span.start);
            let errors = in_order(errors, start);
            let mut quoted = None;
            for error in errors.iter().take(MOST_ERRORS) {
                let line = error.span().and_then(|it| self.lines.text.get(..it.start));
                let line = line.map(|before| before.matches('\n').count());
                // One such value may be several errors.
                if quoted.is_some() && quoted == line {
                    continue;
                }
                if self.syntax(error, table.get_ref()) {
                    quoted = line;
                }
            }
            // What else the file says would be a guess.
            return Vec::new();
        }
        let mut defaults = Settings::default();
        let mut services = Vec::new();
        for (key, value) in sorted(table.get_ref()) {
            let name = key.get_ref().as_ref();
            let Some(value) = value
                .get_ref()
                .as_table()
                .filter(|_| TABLES.contains(&name))
            else {
                self.unknown_table(key, value);
                continue;
            };
            match name {
                "daemon" => self.daemon(value, daemon),
                "defaults" => self.settings(value, &mut defaults, &[]),
                _ => services = sorted(value),
            }
        }
        let services = services.into_iter();
        services
            .filter_map(|(key, value)| self.service(key, value, &defaults))
            .collect()
    }

    /// Reads the options of the daemon. Each may be set in one file.
    fn daemon(&mut self, table: &DeTable<'_>, all: &mut Vec<OptionText>) {
        let mut found = Settings::default();
        for (key, value) in sorted(table) {
            let option = match key.get_ref().as_ref() {
                "user" => option("daemon-user"),
                "chroot" => option("chroot"),
                name => option(name)
                    .filter(|it| it.belongs() == Belongs::Daemon && it.long != "daemon-user"),
            };
            match option {
                Some(option) => self.setting(option, value, &mut found),
                None => self.unknown(key, Belongs::Daemon, &["user", "chroot"]),
            }
        }
        for text in found.options {
            match all.iter().find(|it| it.name == text.name) {
                Some(other) => {
                    let (at, other) = (&text.location, &other.location);
                    let key = key_of(&text.name);
                    self.faults.push(Error::Usage(format!(
                        "{at}: [daemon] has {key} twice: the other is at {other}"
                    )));
                }
                None => all.push(text),
            }
        }
    }

    /// Reads a service, unless it isn't enabled.
    fn service(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
        defaults: &Settings,
    ) -> Option<ServiceText> {
        let name = key.get_ref().as_ref();
        let Some(table) = value.get_ref().as_table() else {
            self.fault(
                key.span(),
                format!("a service is a table: [service.{}]", shown(name)),
            );
            return None;
        };
        let enabled = table
            .get("enabled")
            .map(|it| (it.span(), it.get_ref().as_bool()));
        match enabled {
            Some((_, Some(false))) => return None,
            Some((span, None)) => self.fault(span, "enabled takes true or false"),
            _ => {}
        }
        if name.is_empty() || name.chars().any(char::is_control) {
            self.fault(
                key.span(),
                "the name of a service has at least one character, and no control characters",
            );
        }
        let mut settings = Settings::default();
        self.settings(table, &mut settings, &OWN_KEYS);
        let location = self.lines.location(key.span());
        let (command_location, command) = self
            .command(key, table)
            .unwrap_or_else(|| (location.clone(), Vec::new()));
        Some(ServiceText {
            name: name.to_owned(),
            location,
            options: settings.over(defaults),
            command,
            command_location,
            notes: Vec::new(),
        })
    }

    /// Reads the command of a service, which has several forms.
    fn command(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        table: &DeTable<'_>,
    ) -> Option<(Location, Vec<OsString>)> {
        let forms = ["command", "shell", "forward"];
        let mut given = forms.iter().filter_map(|form| table.get_key_value(*form));
        let Some((form, value)) = given.next() else {
            self.fault(
                key.span(),
                format!(
                    "service {} has no command: write command = [\"PROG\", \"ARGUMENT\"], \
                     shell = \"COMMAND\" or forward = \"HOST:PORT\"",
                    shown(key.get_ref())
                ),
            );
            return None;
        };
        for (other, _) in given {
            let text = format!("{} can't be used with {}", other.get_ref(), form.get_ref());
            self.fault(other.span(), format!("{text}: each is a command"));
        }
        let at = self.lines.location(value.span());
        let text = value.get_ref().as_str();
        let words = match (form.get_ref().as_ref(), text) {
            ("shell", Some(text)) => vec!["/bin/sh".into(), "-c".into(), text.into()],
            ("shell", None) => {
                self.fault(value.span(), "shell takes a string");
                return None;
            }
            ("command", Some(text)) => {
                self.fault(value.span(), command_as_array(text));
                return None;
            }
            ("forward", Some(text)) => vec!["skd-forward".into(), text.into()],
            (form, _) => {
                let mut words = match form {
                    "forward" => vec![OsString::from("skd-forward")],
                    _ => Vec::new(),
                };
                let Some(array) = value.get_ref().as_array().filter(|it| !it.is_empty()) else {
                    self.fault(value.span(), format!("{form} takes an array of strings"));
                    return None;
                };
                for item in array {
                    match item.get_ref().as_str() {
                        Some(text) => words.push(text.into()),
                        None => self.fault(item.span(), format!("{form} takes strings only")),
                    }
                }
                words
            }
        };
        if form.get_ref() == "forward" {
            // Each client would be told by skd-forward.
            let wrong = words.iter().skip(1).find_map(|word| {
                let why = Target::parse(word).err()?;
                let word = Path::new(word).display();
                Some(format!("forward can't be '{word}': {why}"))
            });
            if let Some(wrong) = wrong {
                self.fault(value.span(), wrong);
                return None;
            }
        }
        if words.first().is_some_and(|it| it.is_empty()) {
            self.fault(value.span(), "the program is empty");
            return None;
        }
        if words.iter().any(|it| it.as_encoded_bytes().contains(&0)) {
            self.fault(value.span(), "an argument contains a NUL byte");
            return None;
        }
        Some((at, words))
    }

    /// Reads the options of a service, or their defaults.
    fn settings(&mut self, table: &DeTable<'_>, found: &mut Settings, others: &[&str]) {
        for (key, value) in sorted(table) {
            let name = key.get_ref().as_ref();
            if others.contains(&name) {
                continue;
            }
            if name == IN_ORDER {
                self.in_order(value, found);
                continue;
            }
            match option(name).filter(|it| it.belongs() == Belongs::Service) {
                Some(option) => self.setting(option, value, found),
                None => self.unknown(key, Belongs::Service, others),
            }
        }
    }

    /// Reads options from tables, one after the other.
    fn in_order(&mut self, value: &Spanned<DeValue<'_>>, found: &mut Settings) {
        let Some(array) = value.get_ref().as_array() else {
            let text =
                format!("{IN_ORDER} takes an array of tables: [{{ deny = \"ADDRESS\" }}, …]");
            return self.fault(value.span(), text);
        };
        for item in array {
            match item.get_ref().as_table() {
                Some(table) => self.settings(table, found, &[]),
                None => self.fault(item.span(), format!("{IN_ORDER} takes tables only")),
            }
        }
    }

    /// Reads the value of an option. `false` is the absence of any option.
    fn setting(
        &mut self,
        option: &'static Opt,
        value: &Spanned<DeValue<'_>>,
        found: &mut Settings,
    ) {
        let name = option.long;
        let at = self.lines.location(value.span());
        found.set.insert(name);
        let given = value.get_ref();
        let is_absent = matches!(given, DeValue::Boolean(false));
        if is_absent || !matches!(option.kind, Kind::Values(..)) {
            // Of several in an order, the last one counts.
            found.options.retain(|it| it.name != name);
        }
        if is_absent {
            return;
        }
        let key = key_of(name);
        let flag = || OptionText::flag(name, &at);
        let single = scalar(option, given);
        match (option.kind, given, single) {
            (Kind::Flag, DeValue::Boolean(_), _) => found.options.push(flag()),
            (Kind::Flag, ..) => self.fault(value.span(), format!("{key} takes true or false")),
            (Kind::Count, DeValue::Integer(_), Some(text)) => {
                found.options.push(OptionText::value(name, text, &at));
            }
            (Kind::Count, ..) => self.fault(value.span(), format!("{key} takes an integer")),
            (Kind::Optional(..), DeValue::Boolean(_), _) => found.options.push(flag()),
            (Kind::Value(..) | Kind::Values(..) | Kind::Optional(..), _, Some(text)) => {
                found.options.push(OptionText::value(name, text, &at));
            }
            (Kind::Values(..), DeValue::Array(array), _) => {
                for item in array {
                    match scalar(option, item.get_ref()) {
                        Some(text) => {
                            let at = self.lines.location(item.span());
                            found.options.push(OptionText::value(name, text, &at));
                        }
                        None => {
                            let text = format!("{key} takes strings, or numbers");
                            self.fault(item.span(), text);
                        }
                    }
                }
            }
            (Kind::Values(..), DeValue::Table(table), _) if WITH_NAMES.contains(&name) => {
                found.tables.insert(name);
                self.names(option, table, found);
            }
            (Kind::Optional(..), ..) => {
                self.fault(value.span(), format!("{key} takes true, false or a string"));
            }
            (Kind::Values(..), ..) if WITH_NAMES.contains(&name) => {
                let text = format!("{key} takes a table, a string or an array of strings");
                self.fault(value.span(), text);
            }
            (Kind::Values(..), ..) => {
                let text = format!("{key} takes a string or an array of strings");
                self.fault(value.span(), text);
            }
            (Kind::Value(..) | Kind::Help | Kind::Version, ..) => {
                self.fault(value.span(), format!("{key} takes a string or a number"));
            }
        }
    }

    /// Reads a table of `NAME = VALUE`. A variable may be unset: `NAME = false`.
    fn names(&mut self, option: &'static Opt, table: &DeTable<'_>, found: &mut Settings) {
        for (key, value) in sorted(table) {
            let name = key.get_ref();
            let text = match (value.get_ref(), scalar(option, value.get_ref())) {
                (_, Some(text)) => format!("{name}={text}"),
                (DeValue::Boolean(false), _) if option.long == "env" => name.to_string(),
                _ => {
                    let text = match option.long {
                        "env" => "a variable takes a string, a number, or false to unset it",
                        _ => "a limit takes a number or a string",
                    };
                    self.fault(value.span(), text);
                    continue;
                }
            };
            if name.contains('=') {
                self.fault(key.span(), "a name has no equals sign");
                continue;
            }
            let at = self.lines.location(value.span());
            found
                .options
                .push(OptionText::value(option.long, text, &at));
        }
    }

    fn fault(&mut self, span: Range<usize>, text: impl AsRef<str>) {
        let at = self.lines.location(span);
        let text = text.as_ref();
        self.faults.push(Error::Usage(format!("{at}: {text}")));
    }

    /// Refuses a key that isn't one of an option that `belongs` there, nor of `others`.
    fn unknown(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        belongs: Belongs,
        others: &[&str],
    ) {
        let name = key.get_ref().as_ref();
        let text = match option(name) {
            Some(_) if name == "name" => {
                "the name of a service is that in [service.NAME]: leave out name".into()
            }
            Some(option) if option.belongs() == Belongs::CommandLine => {
                format!("{name} is an option of the command line, and of no file")
            }
            Some(_) if name == "daemon-user" => {
                "daemon-user is a setting of the daemon: write it in [daemon], as user".into()
            }
            Some(_) if belongs == Belongs::Service => {
                format!("{name} is a setting of the daemon: write it in [daemon]")
            }
            Some(_) => {
                format!("{name} is a setting of services: write it in [service.NAME] or [defaults]")
            }
            None if OWN_KEYS.contains(&name) => {
                format!("{name} is a setting of one service: write it in [service.NAME]")
            }
            None => {
                let others = others.iter().copied().chain([IN_ORDER]);
                let like = nearest(name, others).or_else(|| {
                    let like = suggest::like(&format!("--{name}"))?;
                    (like.belongs() == belongs).then_some(like.long)
                });
                let like = like.map(|like| format!(", perhaps {}?", key_of(like)));
                let like = like.unwrap_or_default();
                format!(
                    "unknown key {}{like} (keys are options: see skd --help=all)",
                    shown(name)
                )
            }
        };
        self.fault(key.span(), text);
    }

    fn unknown_table(
        &mut self,
        key: &Spanned<std::borrow::Cow<'_, str>>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let name = key.get_ref().as_ref();
        let tables = "[daemon], [defaults] and [service.NAME]";
        let text = if TABLES.contains(&name) {
            format!("{name} is a table; there are {tables}")
        } else if value.get_ref().is_table() {
            let like = nearest(name, TABLES);
            let like = like
                .map(|like| format!(", perhaps {like}?"))
                .unwrap_or_default();
            format!("unknown table {}{like}; there are {tables}", shown(name))
        } else {
            format!("{} is in no table; there are {tables}", shown(name))
        };
        self.fault(key.span(), text);
    }

    /// Reports an error of the syntax. Returns whether quotes are missing.
    fn syntax(&mut self, error: &toml::de::Error, table: &DeTable<'_>) -> bool {
        let span = error.span().unwrap_or_default();
        let quoted = self.quoted(span.start);
        let mut text = error.message().lines().collect::<Vec<_>>().join(", ");
        if text == "duplicate key" {
            if let Some(first) = self.first(table, span.clone()) {
                let first = self.lines.location(first);
                text = format!("this key is given twice: the other is at {first}");
            }
        }
        let is_quoted = quoted.is_some();
        self.fault(span, quoted.unwrap_or(text));
        is_quoted
    }

    /// Returns what to write for a line that is `KEY = WORDS`, without the quotes.
    fn quoted(&self, at: usize) -> Option<String> {
        let lines = &self.lines;
        let line = lines.starts.partition_point(|start| *start <= at) - 1;
        let start = lines.starts[line];
        let text = lines.text.get(start..)?.lines().next()?;
        let (key, value) = text.split_once('=')?;
        let before = lines.text.get(start..at)?.contains('=');
        let value = value.split(" #").next().unwrap_or_default().trim();
        let is_bare = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
        let is_key = |key: &str| !key.is_empty() && key.chars().all(is_bare);
        let is_plain = |letter: char| !letter.is_control() && !"\"'“”‘’\\[]{}#".contains(letter);
        // An address in brackets is no array.
        let is_array = value.starts_with('[') && value.ends_with(']');
        let plain = value
            .chars()
            .all(|it| is_plain(it) || !is_array && "[]".contains(it));
        let key = key.trim();
        (before && is_key(key) && !value.is_empty() && plain).then(|| match value {
            "True" | "False" => {
                let value = value.to_lowercase();
                format!("true and false have small letters: write {key} = {value}")
            }
            _ => format!("the value needs quotes: write {key} = \"{value}\""),
        })
    }

    /// Returns where a key that is given twice was given before.
    fn first(&self, table: &DeTable<'_>, again: Range<usize>) -> Option<Range<usize>> {
        let text = self.lines.text;
        let line = |at: usize| text.get(at..)?.lines().next();
        let starts = &self.lines.starts;
        let own = starts.partition_point(|start| *start <= again.start) - 1;
        // A table that is there again isn't kept.
        if let Some(header) = line(starts[own]).filter(|it| it.trim_start().starts_with('[')) {
            let mut before = starts[..own].iter();
            let first =
                before.find(|start| line(**start).is_some_and(|it| it.trim() == header.trim()));
            return first.map(|first| *first..*first);
        }
        let word = text.get(again.clone())?;
        let name = word.trim_matches(['"', '\'']);
        let mut tables = vec![table];
        let mut last: Option<Range<usize>> = None;
        while let Some(table) = tables.pop() {
            for (key, value) in table {
                let before = key.get_ref() == name && key.span().start < again.start;
                let later = last
                    .as_ref()
                    .is_none_or(|last| last.start < key.span().start);
                if before && later {
                    last = Some(key.span());
                }
                tables.extend(value.get_ref().as_table());
            }
        }
        last
    }
}

impl Settings {
    /// Returns the options of a service with these defaults. An option of its own replaces the
    /// default. Tables of names are merged.
    fn over(self, defaults: &Self) -> Vec<OptionText> {
        let is_default = |default: &&OptionText| {
            let name = default.name.as_str();
            if !self.set.contains(name) {
                return true;
            }
            let merged = self.tables.contains(name) && defaults.tables.contains(name);
            merged
                && self
                    .options
                    .iter()
                    .all(|own| own.name != name || variable(own) != variable(default))
        };
        let mut all: Vec<_> = defaults
            .options
            .iter()
            .filter(is_default)
            .cloned()
            .collect();
        all.extend(self.options);
        all
    }
}

/// Returns the name in `NAME=VALUE`.
fn variable(text: &OptionText) -> &[u8] {
    let bytes = text.value.as_deref().unwrap_or_default().as_encoded_bytes();
    bytes.split(|byte| *byte == b'=').next().unwrap_or_default()
}

/// Returns the entries in the order of the file.
fn sorted<'t, 'i>(table: &'t DeTable<'i>) -> Vec<Entry<'t, 'i>> {
    in_order(table.iter().collect(), |(key, _)| key.span().start)
}

pub(super) fn option(name: &str) -> Option<&'static Opt> {
    let mut all = GROUPS.iter().flat_map(|(_, options)| *options);
    all.find(|option| option.long == name)
}

/// Returns the key of an option.
pub(super) fn key_of(option: &str) -> &str {
    match option {
        "daemon-user" => "user",
        other => other,
    }
}

/// Returns a string or a number as a command line has it.
fn scalar(option: &Opt, value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) => Some(match (is_octal(option), number.radix()) {
            (true, 8 | 10) => number.as_str().to_owned(),
            _ => DeInteger::to_string(number),
        }),
        // Of TLS: 1.3.
        DeValue::Float(number) if matches!(option.kind, Kind::Value("VERSION", _)) => {
            Some(number.as_str().to_owned())
        }
        _ => None,
    }
}

/// Whether the value is an octal number, with or without the sign of TOML for it.
pub(super) fn is_octal(option: &Opt) -> bool {
    matches!(option.kind, Kind::Value("OCTAL", _))
}

/// Returns what to write instead of a command that is a string.
fn command_as_array(text: &str) -> String {
    let is_simple =
        |letter: char| !letter.is_control() && !"\"'\\$`|&;<>()*?[]{}~#".contains(letter);
    if !text.chars().all(is_simple) {
        return "command takes an array of strings: write each argument as one, or let a shell read it, \
                with shell instead of command"
            .into();
    }
    let words: Vec<_> = text
        .split_whitespace()
        .map(|word| format!("\"{word}\""))
        .collect();
    format!(
        "command takes an array of strings: write command = [{}]",
        words.join(", ")
    )
}

/// Returns a name of a file for a message.
fn shown(name: &str) -> String {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    match !name.is_empty() && name.chars().all(fits) {
        true => name.to_owned(),
        false => format!("{name:?}"),
    }
}

/// The lines of a text, to find out in which a byte is.
struct Lines<'a> {
    path: Arc<Path>,
    text: &'a str,
    /// The first byte of each line.
    starts: Vec<usize>,
    /// How many characters are before each block of bytes. A line may be the whole text.
    before: Vec<usize>,
}

/// The bytes of a block.
const BLOCK: usize = 256;

impl<'a> Lines<'a> {
    fn new(path: &Path, text: &'a str) -> Self {
        let newlines = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = [0].into_iter().chain(newlines.map(|(at, _)| at + 1));
        let mut before = vec![0];
        for block in text.as_bytes().chunks(BLOCK) {
            let last = before.last().copied().unwrap_or_default();
            before.push(last + characters(block));
        }
        Self {
            path: path.into(),
            text,
            starts: starts.collect(),
            before,
        }
    }

    /// Returns the location of the first byte.
    fn location(&self, span: Range<usize>) -> Location {
        let at = span.start.min(self.text.len());
        let line = self.starts.partition_point(|start| *start <= at);
        let start = self.starts[line.saturating_sub(1)];
        let column = self.index(at) - self.index(start) + 1;
        let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
        Location {
            file: Arc::clone(&self.path),
            line: number(line),
            column: number(column),
        }
    }

    /// Returns how many characters are before a byte.
    fn index(&self, at: usize) -> usize {
        let block = at / BLOCK;
        self.before[block] + characters(&self.text.as_bytes()[block * BLOCK..at])
    }
}

/// Returns how many characters begin in a piece of UTF-8.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn faults_of(text: &[u8]) -> Vec<String> {
        let (mut daemon, mut faults) = (Vec::new(), Vec::new());
        let services = parse(Path::new("x"), text, &mut daemon, &mut faults);
        let lines = text.split(|byte| *byte == b'\n').count();
        let locations = services.iter().map(|it| &it.location);
        for location in locations.chain(daemon.iter().map(|it| &it.location)) {
            assert!((1..=lines).contains(&(location.line as usize)) && location.column > 0);
        }
        faults.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn columns_are_characters_however_long_the_line_is() {
        let text = format!("# {}\n{}x = 1", "é".repeat(1000), " ".repeat(1000));
        assert_eq!(
            faults_of(text.as_bytes()),
            ["x:2:1001: x is in no table; there are [daemon], [defaults] and [service.NAME]"]
        );
        let text = format!("a = '{}' x", "é".repeat(1000));
        assert!(faults_of(text.as_bytes())[0].starts_with("x:1:1008: "));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_with_a_location(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
            words in proptest::collection::vec(
                prop_oneof![
                    Just("[service.a]\n"), Just("[service.b]\n"), Just("[defaults]\n"), Just("[daemon]\n"),
                    Just("tcp = "), Just("env"), Just(" = "), Just("limit."), Just("command = "),
                    Just("in-order = "), Just("enabled = "), Just("verbose = "), Just("user = "),
                    Just("[ "), Just("] "), Just("{ "), Just("} "), Just(", "), Just("\n"), Just("a = 1"),
                    Just("'x'"), Just("\"\\u0000\""), Just("true"), Just("-0x1"), Just("'é'"), Just("."),
                ],
                0..24,
            ),
        ) {
            for text in [bytes, words.concat().into_bytes()] {
                for fault in faults_of(&text) {
                    prop_assert!(fault.starts_with("x:"), "{fault}");
                    prop_assert!(!fault.starts_with("x:0"), "{fault}");
                }
            }
        }
    }
}
