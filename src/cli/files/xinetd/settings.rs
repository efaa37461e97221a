//! The attributes of an entry together: what its lines say, and what it has from `defaults`.

use std::collections::BTreeMap;
use std::ffi::OsString;

use super::access::List;
use super::syntax::{Attribute, Block, Operator};
use crate::config::Location;

/// How many values an attribute takes, and what a second line with it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Values {
    /// So many words; the first line counts.
    Exactly(usize),
    /// At least one word; the first line counts.
    Some,
    /// Any number of words, with `=`, `+=` and `-=`.
    List,
}

/// Where an attribute may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// In a service.
    Service,
    /// In `defaults`.
    Defaults,
}

use Values::{Exactly, List as Many, Some as Any};

/// The attributes of xinetd.conf(5), and whether `defaults` may have them.
const ATTRIBUTES: [(&str, Values, bool); 50] = [
    ("socket_type", Exactly(1), false),
    ("protocol", Exactly(1), false),
    ("wait", Exactly(1), false),
    ("user", Exactly(1), false),
    ("group", Exactly(1), false),
    ("server", Exactly(1), false),
    ("server_args", Any, false),
    ("instances", Exactly(1), true),
    ("log_on_success", Many, true),
    ("log_on_failure", Many, true),
    ("log_type", Any, true),
    ("only_from", Many, true),
    ("no_access", Many, true),
    ("access_times", Any, false),
    ("type", Any, false),
    ("rpc_version", Exactly(1), false),
    ("rpc_number", Exactly(1), false),
    ("id", Exactly(1), false),
    ("env", Many, false),
    ("port", Exactly(1), false),
    ("passenv", Many, true),
    ("flags", Any, false),
    ("nice", Exactly(1), false),
    ("redirect", Exactly(2), false),
    ("banner", Exactly(1), true),
    ("bind", Exactly(1), true),
    ("interface", Exactly(1), true),
    ("per_source", Exactly(1), true),
    ("groups", Exactly(1), true),
    ("banner_success", Exactly(1), true),
    ("banner_fail", Exactly(1), true),
    ("cps", Exactly(2), true),
    ("disable", Exactly(1), false),
    ("max_load", Exactly(1), true),
    ("rlimit_as", Exactly(1), false),
    ("rlimit_cpu", Exactly(1), false),
    ("rlimit_data", Exactly(1), false),
    ("rlimit_files", Exactly(1), false),
    ("rlimit_rss", Exactly(1), false),
    ("rlimit_stack", Exactly(1), false),
    ("v6only", Exactly(1), true),
    ("deny_time", Exactly(1), false),
    ("umask", Exactly(1), true),
    ("mdns", Exactly(1), true),
    ("libwrap", Exactly(1), false),
    ("enabled", Many, true),
    ("disabled", Many, true),
    // Options of forks of xinetd that would be taken for misspellings.
    ("nodelay", Exactly(1), false),
    ("keepalive", Exactly(1), false),
    ("backlog", Exactly(1), false),
];

/// The attributes of `defaults` that xinetd copies into a service when it reads the service, so that
/// they don't apply to services before them.
const COPIED: [&str; 8] = [
    "log_on_success",
    "log_on_failure",
    "only_from",
    "no_access",
    "passenv",
    "banner",
    "banner_success",
    "banner_fail",
];

/// What is said about an attribute.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    /// It is refused.
    Fault(String),
    /// It is taken, but not as it looks.
    Note(String),
}

/// The attributes of an entry.
#[derive(Clone, Debug, Default)]
pub(super) struct Settings {
    /// Attributes of which the first line counts. `interface` is `bind`.
    pub(super) single: BTreeMap<&'static str, Attribute>,
    /// The words of lists.
    pub(super) lists: BTreeMap<&'static str, (Vec<OsString>, Location)>,
    /// The lists of clients.
    pub(super) clients: BTreeMap<&'static str, (List, Location)>,
}

impl Settings {
    /// Returns what a service has from `defaults` before its own lines.
    pub(super) fn inherited(&self) -> Self {
        let copied = |name: &str| COPIED.contains(&name);
        let mut inherited = self.clone();
        // The others are looked up in `defaults`, since a line of the service replaces them.
        inherited.single.clear();
        inherited.lists.retain(|name, _| copied(name));
        inherited
    }

    /// Whether a block of `defaults` has attributes that don't apply to services before it.
    pub(super) fn needs_to_be_first(block: &Block) -> Option<&Attribute> {
        let without_log = |it: &&Attribute| !it.name.starts_with("log_");
        let mut attributes = block.attributes.iter().filter(without_log);
        attributes.find(|attribute| COPIED.contains(&&attribute.name[..]))
    }

    /// Adds the lines of an entry. Returns what is to be said about them.
    pub(super) fn apply(
        &mut self,
        kind: Kind,
        attributes: Vec<Attribute>,
    ) -> Vec<(Location, Said)> {
        let mut said = Vec::new();
        for attribute in attributes {
            let location = attribute.location.clone();
            match self.add(kind, attribute) {
                Ok(notes) => {
                    said.extend(
                        notes
                            .into_iter()
                            .map(|it| (location.clone(), Said::Note(it))),
                    );
                }
                Err(why) => said.push((location, Said::Fault(why))),
            }
        }
        said
    }

    /// Adds a line. Returns notes, or why it is refused.
    fn add(&mut self, kind: Kind, mut attribute: Attribute) -> Result<Vec<String>, String> {
        let name = attribute.name.clone();
        let known = ATTRIBUTES.iter().find(|(known, ..)| *known == name);
        let Some((name, values, in_defaults)) = known else {
            return Err(format!("xinetd has no attribute {name}, and ignores it"));
        };
        let (name, values) = (*name, *values);
        match (kind, name) {
            (_, "nodelay" | "keepalive" | "backlog") => {
                let why = "xinetd has no such attribute; NODELAY and KEEPALIVE are flags";
                return Err(format!("{name}: {why}"));
            }
            (Kind::Service, "enabled" | "disabled") => {
                return Err(format!(
                    "{name} belongs into defaults; xinetd ignores it here"
                ));
            }
            (Kind::Defaults, _) if !in_defaults => {
                return Err(format!(
                    "xinetd ignores {name} in defaults; write it in services"
                ));
            }
            _ => {}
        }
        if values == Many {
            return match name {
                "only_from" | "no_access" => self.add_clients(kind, name, attribute),
                _ => self.add_words(kind, name, attribute),
            };
        }
        let mut notes = Vec::new();
        if attribute.operator != Operator::Set {
            return Err(format!("{name} takes = only; xinetd ignores this line"));
        }
        let wanted = match values {
            Exactly(wanted) => wanted,
            _ => 1,
        };
        if attribute.values.len() < wanted {
            return Err(match wanted {
                1 => format!("{name} has no value"),
                _ => format!("{name} takes {wanted} values"),
            });
        }
        if values != Any && attribute.values.len() > wanted {
            let surplus = attribute.values.split_off(wanted);
            let is_comment = surplus[0].as_encoded_bytes().starts_with(b"#");
            if !is_comment {
                let surplus = surplus[0].to_string_lossy();
                return Err(format!(
                    "{name} takes {wanted} value{}, and xinetd ignores a line with more; {surplus} is \
                     too much",
                    if wanted == 1 { "" } else { "s" },
                ));
            }
            notes.push(format!(
                "{name} has a comment after it, which makes xinetd ignore the line; here it counts"
            ));
        }
        let key = if name == "interface" { "bind" } else { name };
        if self.single.contains_key(key) {
            notes.push(format!("{name} is set already, and the first line counts"));
            return Ok(notes);
        }
        self.single.insert(key, attribute);
        Ok(notes)
    }

    fn add_clients(
        &mut self,
        kind: Kind,
        name: &'static str,
        attribute: Attribute,
    ) -> Result<Vec<String>, String> {
        let words: Option<Vec<String>> = attribute
            .values
            .iter()
            .map(|word| word.to_str().map(str::to_owned))
            .collect();
        let words = words.ok_or_else(|| format!("a word of {name} isn't UTF-8"))?;
        let start = || (List::default(), attribute.location.clone());
        let (list, location) = self.clients.entry(name).or_insert_with(start);
        location.clone_from(&attribute.location);
        list.apply(operator(kind, &attribute), &words)
    }

    fn add_words(
        &mut self,
        kind: Kind,
        name: &'static str,
        attribute: Attribute,
    ) -> Result<Vec<String>, String> {
        let start = || (Vec::new(), attribute.location.clone());
        let (list, location) = self.lists.entry(name).or_insert_with(start);
        location.clone_from(&attribute.location);
        match operator(kind, &attribute) {
            Operator::Remove if name == "env" => {
                return Err("env doesn't take -=".into());
            }
            Operator::Remove => list.retain(|word| !attribute.values.contains(word)),
            Operator::Set => *list = attribute.values,
            Operator::Add => list.extend(attribute.values),
        }
        Ok(Vec::new())
    }
}

/// In `defaults`, `=` adds, too.
fn operator(kind: Kind, attribute: &Attribute) -> Operator {
    match (kind, attribute.operator) {
        (Kind::Defaults, Operator::Set) => Operator::Add,
        (_, operator) => operator,
    }
}

/// Returns the name of an attribute.
#[cfg(test)]
pub(super) fn name_for_tests(index: usize) -> &'static str {
    ATTRIBUTES[index].0
}
