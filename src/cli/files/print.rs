//! Services as TOML that means the same.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fmt::Write;

use super::toml::{IN_ORDER, is_octal, key_of, option};
use crate::cli::options::Kind;
use crate::config::{FileTexts, Location, OptionText, ServiceText};
use crate::error::Error;

/// The options whose order among each other counts: the order of listeners is that in which a program
/// gets them, and of rules the first decides.
const SEQUENCES: [&[&str]; 2] = [
    &["tcp", "udp", "inet", "unix", "listen-fd", "systemd"],
    &["allow", "deny"],
];

/// Returns TOML that means the same, with the origin of each service and its notes in comments; or
/// all faults, since TOML has text in UTF-8 only.
pub(in crate::cli) fn toml(texts: &FileTexts) -> Result<String, Vec<Error>> {
    let mut written = String::new();
    let mut faults = Vec::new();
    if !texts.daemon.is_empty() {
        written.push_str("[daemon]\n");
        table(&mut written, &texts.daemon, &mut faults);
    }
    for text in &texts.services {
        if !written.is_empty() {
            written.push('\n');
        }
        service(&mut written, text, &mut faults);
    }
    match faults.is_empty() {
        true => Ok(written),
        false => Err(faults),
    }
}

fn service(written: &mut String, text: &ServiceText, faults: &mut Vec<Error>) {
    comment(written, &format!("from {}", text.location));
    for (location, note) in &text.notes {
        comment(written, &format!("{location}: {note}"));
    }
    // Writing to a String can't fail.
    let _ = writeln!(written, "[service.{}]", key(&text.name));
    table(written, &text.options, faults);
    let words: Option<Vec<_>> = text.command.iter().map(|word| string(word)).collect();
    match words {
        Some(words) => {
            let _ = writeln!(written, "command = [{}]", words.join(", "));
        }
        None => refuse(faults, &text.command_location, "the command"),
    }
}

/// Writes the options of a table, each as one key.
fn table(written: &mut String, options: &[OptionText], faults: &mut Vec<Error>) {
    let in_order = interleaved(options);
    let mut by_name: HashMap<&str, Vec<&OptionText>> = HashMap::new();
    let mut keys = Vec::new();
    for text in options {
        let key = match in_order.contains(text.name.as_str()) {
            true => IN_ORDER,
            false => text.name.as_str(),
        };
        let texts = by_name.entry(key).or_default();
        if texts.is_empty() {
            keys.push(key);
        }
        texts.push(text);
    }
    for name in keys {
        let texts = by_name.remove(name).unwrap_or_default();
        let mut values = Vec::new();
        for text in &texts {
            match value(text) {
                Some(value) if name == IN_ORDER => {
                    values.push(format!("{{ {} = {value} }}", text.name))
                }
                Some(value) => values.push(value),
                None => refuse(faults, &text.location, &format!("--{}", text.name)),
            }
        }
        let repeats =
            name == IN_ORDER || option(name).is_some_and(|it| matches!(it.kind, Kind::Values(..)));
        let value = match (values.pop(), repeats) {
            (Some(last), true) if !values.is_empty() || name == IN_ORDER => {
                values.push(last);
                format!("[{}]", values.join(", "))
            }
            // The last one counts.
            (Some(last), _) => last,
            (None, _) => continue,
        };
        let _ = writeln!(written, "{} = {value}", key_of(name));
    }
}

/// Returns the options whose order a table of keys would lose.
fn interleaved(options: &[OptionText]) -> HashSet<&'static str> {
    let mut found = HashSet::new();
    for sequence in SEQUENCES {
        let names = options.iter().map(|it| it.name.as_str());
        let mut runs: Vec<&str> = names.filter(|name| sequence.contains(name)).collect();
        runs.dedup();
        let names: HashSet<_> = runs.iter().collect();
        if names.len() < runs.len() {
            found.extend(sequence);
        }
    }
    found
}

/// Returns the value of an option, if it can be written.
fn value(text: &OptionText) -> Option<String> {
    let Some(value) = &text.value else {
        let counts = option(&text.name).is_some_and(|it| matches!(it.kind, Kind::Count));
        return Some(if counts { "1" } else { "true" }.into());
    };
    let number = value.to_str()?.parse::<i64>().ok();
    let is_same = |number: &i64| number.to_string() == *value.to_string_lossy();
    match number.filter(is_same) {
        Some(number) if !option(&text.name).is_some_and(is_octal) => Some(number.to_string()),
        _ => string(value),
    }
}

/// Returns a basic string of TOML, if it is UTF-8.
fn string(text: &OsStr) -> Option<String> {
    let mut written = String::from("\"");
    for letter in text.to_str()?.chars() {
        match letter {
            '"' | '\\' => written.extend(['\\', letter]),
            '\n' => written.push_str("\\n"),
            '\r' => written.push_str("\\r"),
            '\t' => written.push_str("\\t"),
            control if control.is_control() => {
                let _ = write!(written, "\\u{:04X}", u32::from(control));
            }
            other => written.push(other),
        }
    }
    written.push('"');
    Some(written)
}

/// Returns a name as a key.
fn key(name: &str) -> String {
    let fits = |letter: char| letter.is_ascii_alphanumeric() || "-_".contains(letter);
    match !name.is_empty() && name.chars().all(fits) {
        true => name.to_owned(),
        false => string(OsStr::new(name)).unwrap_or_default(),
    }
}

/// Writes a comment, which is one line whatever the text has in it.
fn comment(written: &mut String, text: &str) {
    let text = text.replace(char::is_control, "\u{fffd}");
    let _ = writeln!(written, "# {text}");
}

fn refuse(faults: &mut Vec<Error>, at: &Location, what: &str) {
    let at = match at.is_in_file() {
        true => format!("{at}: "),
        false => String::new(),
    };
    faults.push(Error::Usage(format!(
        "{at}{what} isn't text in UTF-8, so TOML can't have it"
    )));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::cli::files::toml::parse;
    use crate::cli::options::{Belongs, GROUPS, Opt};

    /// The options that belong somewhere.
    fn options(belongs: Belongs) -> Vec<&'static Opt> {
        let all = GROUPS.iter().flat_map(|(_, options)| *options);
        all.filter(|it| it.belongs() == belongs).collect()
    }

    /// Options with any values that a command line could have.
    fn texts(belongs: Belongs) -> impl Strategy<Value = Vec<OptionText>> {
        let all = options(belongs);
        let location = Location::new("from", 3, 4);
        let one = (
            0..all.len(),
            any::<String>(),
            any::<Option<i16>>(),
            any::<bool>(),
        );
        vec(one, 0..12).prop_map(move |chosen| {
            let mut texts: Vec<OptionText> = Vec::new();
            for (index, text, number, is_set) in chosen {
                let Opt { long, kind, .. } = *all[index];
                let text = number.map_or(text, |number| number.to_string());
                if !matches!(kind, Kind::Values(..)) {
                    texts.retain(|it| it.name != long);
                }
                texts.push(match kind {
                    Kind::Count => {
                        OptionText::value(long, number.unwrap_or(7).to_string(), &location)
                    }
                    Kind::Flag => OptionText::flag(long, &location),
                    Kind::Optional(..) if !is_set => OptionText::flag(long, &location),
                    _ => OptionText::value(long, text, &location),
                });
            }
            texts
        })
    }

    /// What options mean: their values, and the order of each sequence in which order counts.
    fn meaning(options: &[OptionText]) -> (Vec<Vec<String>>, BTreeMap<String, Vec<String>>) {
        let mut by_name: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for OptionText { name, value, .. } in options {
            by_name
                .entry(name.clone())
                .or_default()
                .push(format!("{value:?}"));
        }
        let sequences = SEQUENCES.map(|sequence| {
            let its = options
                .iter()
                .filter(|it| sequence.contains(&it.name.as_str()));
            its.map(|it| format!("{} {:?}", it.name, it.value))
                .collect()
        });
        (sequences.to_vec(), by_name)
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_the_same(
            daemon in texts(Belongs::Daemon),
            services in vec(
                (
                    "\\PC{1,9}",
                    texts(Belongs::Service),
                    "[^\0]{1,9}",
                    vec("[^\0]{0,9}", 0..3),
                    vec(any::<String>(), 0..2),
                ),
                0..3,
            ),
        ) {
            let location = || Location::new("from\n[x]", 3, 4);
            let mut names = HashSet::new();
            let services = services.into_iter().filter(|it| names.insert(it.0.clone()));
            let services = services.map(|(name, options, program, arguments, notes)| {
                let words = [program].into_iter().chain(arguments);
                ServiceText {
                    name,
                    location: location(),
                    options,
                    command: words.map(Into::into).collect(),
                    command_location: location(),
                    notes: notes.into_iter().map(|note| (location(), note)).collect(),
                }
                .into()
            });
            let texts = FileTexts { daemon, services: services.collect() };
            let printed = toml(&texts).unwrap();
            let (mut daemon, mut faults) = (Vec::new(), Vec::new());
            let services = parse(Path::new("x"), printed.as_bytes(), &mut daemon, &mut faults);
            prop_assert!(faults.is_empty(), "{faults:?}\n{printed}");
            prop_assert_eq!(meaning(&daemon), meaning(&texts.daemon), "{}", printed);
            prop_assert_eq!(services.len(), texts.services.len());
            for (service, text) in services.iter().zip(&texts.services) {
                prop_assert_eq!(&service.name, &text.name);
                prop_assert_eq!(&service.command, &text.command);
                prop_assert_eq!(meaning(&service.options), meaning(&text.options), "{}", printed);
            }
        }
    }
}
