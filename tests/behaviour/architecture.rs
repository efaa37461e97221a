//! The floors of src/: a file imports only from lower floors or from its own folder, and `unsafe` stands in
//! src/sys/ alone. Which module is on which floor is read from the table in src/lib.rs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Imports within a floor, each with its reason.
const EXCEPTIONS: [(&str, &str); 2] = [
    // The program does one or the other.
    ("start", "check"),
    // Plain data, but a resource limit is the kernel's number.
    ("config", "sys"),
];

#[test]
fn files_import_from_lower_floors_or_their_own_folder() {
    let floors = floors();
    let faults: Vec<String> = sources()
        .iter()
        .flat_map(|(path, text)| faults(&floors, path, text))
        .collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_module_has_a_floor() {
    let floors = floors();
    for (path, _) in sources() {
        let module = module_of(&path);
        let module = module.first().map_or("", String::as_str);
        assert!(
            module.is_empty() || floors.contains_key(module),
            "{module} ({}) is missing in the table of src/lib.rs",
            path.display()
        );
    }
}

#[test]
fn unsafe_stands_in_sys_alone() {
    for (path, text) in sources() {
        let has = tokens(&text).iter().any(|token| token == "unsafe");
        assert!(
            !has || path.starts_with("sys"),
            "src/{}: unsafe",
            path.display()
        );
    }
}

#[test]
fn a_wrong_import_is_found_however_it_is_written() {
    let floors = floors();
    let find = |path: &str, text: &str| faults(&floors, Path::new(path), text);
    for (path, text) in [
        ("net/peer.rs", "use crate::serve::Daemon;"),
        ("net/peer.rs", "use crate::{error::Error, cli};"),
        ("net/mod.rs", "use super::child::Plan;"),
        ("net/peer.rs", "use super::super::setup;"),
        ("net/peer.rs", "fn f() { crate::start::main() }"),
        ("net/peer.rs", "mod tests { use super::super::super::cli; }"),
        ("net/peer.rs", "use crate::*;"),
        ("sys/mod.rs", "use crate::config::Limit;"),
        ("report/mod.rs", "use crate /* */ :: net::Peer;"),
        (
            "serve/admit/mod.rs",
            "use crate::{report::{Event, self}, start};",
        ),
    ] {
        assert_eq!(find(path, text).len(), 1, "{path}: {text}");
    }
    for (path, text) in [
        (
            "net/peer.rs",
            "use crate::{error::Error, sys::{names, sockets}};",
        ),
        (
            "net/peer.rs",
            "use super::unix; mod tests { use super::*; use super::super::resolve; }",
        ),
        (
            "net/peer.rs",
            "/// [`crate::serve`]\nfn f<'a>() { \"crate::serve\"; r#\"crate::\"serve\"#; }",
        ),
        (
            "net/peer.rs",
            "/* crate::serve /* crate::cli */ */ pub(crate) fn f() { '\"'; '\\''; }",
        ),
        (
            "serve/admit/places.rs",
            "use super::super::handlers; pub(in crate::serve) fn f() {}",
        ),
        ("config/mod.rs", "use crate::sys::child::Resource;"),
        ("start.rs", "use crate::serve::{self, Service};"),
        ("main.rs", "fn main() { skd::start::main() }"),
    ] {
        assert_eq!(find(path, text), [""; 0], "{path}: {text}");
    }
}

/// Each module of src/ with its floor. What isn't in the table, lib.rs and main.rs, is on top.
fn floors() -> BTreeMap<String, usize> {
    let text = fs::read_to_string("src/lib.rs").unwrap();
    let rows = text.lines().filter_map(|line| {
        let mut cells = line.strip_prefix("//! |")?.split('|');
        let floor: usize = cells.next()?.trim().parse().ok()?;
        Some((floor, cells.next()?))
    });
    let mut floors = BTreeMap::new();
    for (floor, names) in rows {
        for name in names.split(['`', '[', ']', ',', ' ']) {
            if !name.is_empty() {
                floors.insert(name.to_owned(), floor);
            }
        }
    }
    assert_eq!((floors["sys"], floors["start"]), (0, 4), "{floors:?}");
    floors
}

/// The files of src/, by their path in there, with what is in them.
fn sources() -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::from("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix("src").unwrap().to_owned(), text));
            }
        }
    }
    assert!(found.len() > 20, "{found:?}");
    found
}

/// `serve/stream.rs` is `serve::stream`; `serve/mod.rs` is `serve`; `lib.rs` and `main.rs` are nothing.
fn module_of(path: &Path) -> Vec<String> {
    let path = path.with_extension("");
    let mut parts: Vec<String> = path
        .iter()
        .map(|part| part.to_str().unwrap().to_owned())
        .collect();
    let last = parts.last().unwrap().as_str();
    if last == "mod" || (parts.len() == 1 && ["lib", "main"].contains(&last)) {
        parts.pop();
    }
    parts
}

fn faults(floors: &BTreeMap<String, usize>, path: &Path, text: &str) -> Vec<String> {
    let file = module_of(path);
    let Some(own) = file.first() else {
        return Vec::new();
    };
    let allowed = |other: &str| {
        let lower = floors.get(other) < floors.get(own);
        other == own || lower && floors.contains_key(other) || {
            EXCEPTIONS.contains(&(own.as_str(), other))
        }
    };
    let imports = imports(&file, &tokens(text));
    let wrong = imports.into_iter().filter(|other| !allowed(other));
    wrong
        .map(|other| format!("src/{}: {own} imports {other}", path.display()))
        .collect()
}

/// The top modules that paths in this file lead to; `*` for all of them.
fn imports(file: &[String], tokens: &[String]) -> Vec<String> {
    let mut found = Vec::new();
    // Inline modules around the present place, with the number of braces open outside of them.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut open = 0;
    let mut at = 0;
    while at < tokens.len() {
        match tokens[at].as_str() {
            "{" => {
                if at >= 2 && tokens[at - 2] == "mod" {
                    inline.push((tokens[at - 1].clone(), open));
                }
                open += 1;
            }
            "}" => {
                open -= 1;
                inline.pop_if(|(_, outside)| *outside == open);
            }
            "crate" | "super" | "self"
                if tokens.get(at + 1).is_some_and(|next| next == "::")
                    && (at == 0 || tokens[at - 1] != "::") =>
            {
                let mut here = file.to_vec();
                here.extend(inline.iter().map(|(name, _)| name.clone()));
                at = follow(&here, tokens, at, &mut found);
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Follows one path, or each of those in braces, from `at`; gives the place after it.
fn follow(base: &[String], tokens: &[String], mut at: usize, found: &mut Vec<String>) -> usize {
    let mut path = base.to_vec();
    loop {
        match tokens.get(at).map_or("", String::as_str) {
            "crate" => path.clear(),
            "super" => drop(path.pop()),
            "self" => {}
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    if tokens[at] == "," {
                        at += 1;
                    } else {
                        at = follow(&path, tokens, at, found);
                    }
                }
                return at + 1;
            }
            name => path.push(name.to_owned()),
        }
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            found.extend(path.into_iter().next());
            // `as NAME`, perhaps.
            return if tokens.get(at).is_some_and(|token| token == "as") {
                at + 2
            } else {
                at
            };
        }
        at += 1;
    }
}

/// Words, `::`, and other characters each for itself; no comments, strings or characters.
fn tokens(text: &str) -> Vec<String> {
    let text: Vec<char> = text.chars().collect();
    let is_word = |character: char| character == '_' || character.is_alphanumeric();
    let looking_at = |at: usize, what: &str| {
        let end = (at + what.len()).min(text.len());
        text[at.min(end)..end].iter().copied().eq(what.chars())
    };
    let find = |from: usize, what: &str| {
        (from..text.len())
            .find(|&at| looking_at(at, what))
            .map_or(text.len(), |at| at + what.len())
    };
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        if looking_at(at, "//") {
            at = find(at, "\n");
        } else if looking_at(at, "/*") {
            let mut open = 0;
            while at < text.len() {
                if looking_at(at, "/*") {
                    open += 1;
                    at += 2;
                } else if looking_at(at, "*/") {
                    open -= 1;
                    at += 2;
                    if open == 0 {
                        break;
                    }
                } else {
                    at += 1;
                }
            }
        } else if text[at] == '"' {
            at += 1;
            while at < text.len() && text[at] != '"' {
                at += if text[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if text[at] == '\'' {
            // A lifetime has no second apostrophe.
            if looking_at(at + 1, "\\") {
                at = find(at + 3, "'");
            } else if looking_at(at + 2, "'") {
                at += 3;
            } else {
                at += 1;
            }
        } else if is_word(text[at]) {
            let end = (at..text.len())
                .find(|&end| !is_word(text[end]))
                .unwrap_or(text.len());
            let word: String = text[at..end].iter().collect();
            at = end;
            let marks = text[at..].iter().take_while(|&&mark| mark == '#').count();
            if word.ends_with('r') && word.len() <= 2 && looking_at(at + marks, "\"") {
                at = find(at + marks + 1, &format!("\"{}", "#".repeat(marks)));
            } else {
                found.push(word);
            }
        } else if looking_at(at, "::") {
            found.push("::".into());
            at += 2;
        } else {
            if !text[at].is_whitespace() {
                found.push(text[at].into());
            }
            at += 1;
        }
    }
    found
}
