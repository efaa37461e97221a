//! The syntax of one file of xinetd(8), as its parser reads it: entries with their attributes.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::super::foreign::fault;
use crate::config::Location;
use crate::error::Error;

/// What a file contains, in its order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// `include FILE`.
    Include(PathBuf, Location),
    /// `includedir DIRECTORY`.
    IncludeDir(PathBuf, Location),
    /// `defaults`.
    Defaults(Block),
    /// `service NAME`.
    Service(OsString, Block),
}

/// The attributes of an entry, and where it begins.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// The line of its keyword.
    pub(super) location: Location,
    /// The attributes, in order.
    pub(super) attributes: Vec<Attribute>,
}

/// An attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Attribute {
    /// The name.
    pub(super) name: String,
    /// The operator.
    pub(super) operator: Operator,
    /// The words after the operator.
    pub(super) values: Vec<OsString>,
    /// Where the name is.
    pub(super) location: Location,
}

/// An operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    /// `=`.
    Set,
    /// `+=`.
    Add,
    /// `-=`.
    Remove,
}

/// A line that is neither empty nor a comment.
struct Line<'a> {
    text: &'a [u8],
    location: Location,
}

/// Parses a file. A faulty entry is left out.
pub(super) fn parse(file: &Path, text: &[u8], faults: &mut Vec<Error>) -> Vec<Item> {
    let mut lines = lines(file, text, faults).into_iter().peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let mut words = words(line.text);
        let keyword = words.next().unwrap_or_default();
        let name = words.next().map(OsStr::from_bytes);
        let location = line.location.clone();
        let has_block = match (keyword, name) {
            (b"defaults", _) => true,
            (b"service", Some(_)) => true,
            (b"include", Some(name)) => {
                found.push(Item::Include(name.into(), location));
                continue;
            }
            (b"includedir", Some(name)) => {
                found.push(Item::IncludeDir(name.into(), location));
                continue;
            }
            (b"service" | b"include" | b"includedir", None) => {
                let keyword = String::from_utf8_lossy(keyword);
                faults.push(fault(&location, format!("{keyword} needs a name after it")));
                keyword == "service"
            }
            (b"}", None) => {
                let why = "this } closes no entry; xinetd would leave out the next service with it";
                faults.push(fault(&location, why));
                false
            }
            _ => {
                let why = "an entry begins with service, defaults, include or includedir";
                faults.push(fault(&location, why));
                lines.peek().is_some_and(|next| is_only(next.text, b'{'))
            }
        };
        if !has_block {
            continue;
        }
        let opened = lines.next_if(|next| is_only(next.text, b'{')).is_some();
        if !opened {
            let why = "the next line must be { alone; xinetd leaves out the entry otherwise";
            faults.push(fault(&location, why));
        }
        let mut attributes = Vec::new();
        let mut is_closed = false;
        let mut refused = Vec::new();
        // An entry without { is read too, so that its lines aren't reported one by one.
        while let Some(line) = lines.next_if(|next| !begins_entry(next.text)) {
            if is_only(line.text, b'}') {
                is_closed = true;
                break;
            }
            match attribute(&line) {
                Ok(attribute) => attributes.push(attribute),
                Err(why) => refused.push(fault(&line.location, why)),
            }
        }
        if !opened {
            continue;
        }
        if !is_closed {
            faults.push(fault(&location, "the entry has no } on a line of its own"));
            continue;
        }
        // xinetd reads nothing of an entry after `disable = yes`.
        let is_disabled = |it: &Attribute| {
            it.name == "disable" && it.values.first().is_some_and(|word| word == "yes")
        };
        if !refused.is_empty() && !attributes.iter().any(is_disabled) {
            faults.append(&mut refused);
            continue;
        }
        let block = Block {
            location,
            attributes,
        };
        match (keyword, name) {
            (b"defaults", _) => found.push(Item::Defaults(block)),
            (b"service", Some(name)) => found.push(Item::Service(name.to_owned(), block)),
            _ => {}
        }
    }
    found
}

/// Returns the lines that say something. `#` begins a comment at the beginning of a line only.
fn lines<'a>(file: &Path, text: &'a [u8], faults: &mut Vec<Error>) -> Vec<Line<'a>> {
    let file: Arc<Path> = file.into();
    let mut found = Vec::new();
    let mut has_return = false;
    for (text, number) in text.split(|byte| *byte == b'\n').zip(1..) {
        let start = text.len() - text.trim_ascii_start().len();
        if matches!(&text[start..], [] | [b'#', ..]) {
            continue;
        }
        let location = Location {
            file: file.clone(),
            line: number,
            column: String::from_utf8_lossy(&text[..start]).chars().count() as u32 + 1,
        };
        if text.contains(&0) {
            faults.push(fault(&location, "the line contains a NUL byte"));
            return Vec::new();
        }
        // To xinetd, it is a part of the last value.
        if text.ends_with(b"\r") && !std::mem::replace(&mut has_return, true) {
            let why = "lines end in carriage returns, which xinetd takes for a part of values; \
                       remove them";
            faults.push(fault(&location, why));
        }
        found.push(Line { text, location });
    }
    found
}

/// Returns the words of a line.
fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty())
}

fn is_only(text: &[u8], byte: u8) -> bool {
    text.trim_ascii() == [byte]
}

/// Whether a line begins an entry, and therefore isn't an attribute: an entry before it lacks its
/// brace.
fn begins_entry(text: &[u8]) -> bool {
    let mut words = words(text);
    match words.next() {
        Some(b"service" | b"include" | b"includedir") => {
            let next = words.next();
            next.is_some_and(|word| !matches!(word, [b'=', ..] | [b'+' | b'-', b'=', ..]))
        }
        Some(b"defaults") => words.next().is_none(),
        _ => false,
    }
}

/// Parses an attribute: a name, a blank, an operator, and values. Values have no quotes.
fn attribute(line: &Line<'_>) -> Result<Attribute, String> {
    let text = line.text.trim_ascii();
    let end = text
        .iter()
        .position(|byte| byte.is_ascii_whitespace() || *byte == b'=');
    let (name, rest) = text.split_at(end.unwrap_or(text.len()));
    let shown = String::from_utf8_lossy(name).into_owned();
    let form = || format!("{shown} needs a blank and =, += or -= after it");
    if rest.first() == Some(&b'=') {
        return Err(format!("there has to be a blank between {shown} and ="));
    }
    let rest = rest.trim_ascii_start();
    let (operator, values) = match rest {
        [b'=', values @ ..] => (Operator::Set, values),
        [b'+', b'=', values @ ..] => (Operator::Add, values),
        [b'-', b'=', values @ ..] => (Operator::Remove, values),
        _ => return Err(form()),
    };
    Ok(Attribute {
        name: shown,
        operator,
        values: words(values)
            .map(|word| OsStr::from_bytes(word).to_owned())
            .collect(),
        location: line.location.clone(),
    })
}
