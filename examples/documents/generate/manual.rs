//! The manual page: man/skd.8.in, with the options inserted.

use roff::{Inline, Roff, bold, italic, roman};
use skd::child::harmless_calls;
use skd::cli::{GROUPS, Kind, Opt, help};

const SECTIONS: &str = include_str!("../../../man/skd.8.in");

/// The first lines: `t` has man(1) run tbl(1), and a reader learns which files to edit.
const ORIGIN: &str = "'\\\" t\n.\\\" Generated from man/skd.8.in and src/cli/options.rs by: cargo run --example documents\n";

pub(super) fn page() -> String {
    // The comment at the top is about the source.
    let start = SECTIONS.find(".TH").unwrap_or(0);
    let page = SECTIONS[start..]
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
        .replace("@OPTIONS@\n", &options())
        .replace("@HARMLESS@\n", &harmless());
    format!("{ORIGIN}{page}")
}

/// The indentation of what is beside the names of an option, in columns.
const NAMES: &str = "26";

/// How many bytes there is room for beside the names.
const BESIDE: usize = 45;

fn options() -> String {
    let mut roff = Roff::new();
    for (heading, options) in GROUPS {
        roff.control("SS", [*heading]);
        roff.control("PD", ["0"]);
        for option in *options {
            describe(&mut roff, option);
        }
        roff.control("PD", []);
    }
    roff.to_roff()
}

/// The calls that a program may make before its client comes.
fn harmless() -> String {
    let mut roff = Roff::new();
    for (at, row) in harmless_calls().iter().enumerate() {
        roff.control("IP", ["\\(bu", "2"]);
        if at == 0 {
            roff.control("PD", ["0"]);
        }
        let mut text = Vec::new();
        for call in row.calls() {
            if !text.is_empty() {
                text.push(roman(", "));
            }
            text.push(italic(call));
        }
        if !row.when().is_empty() {
            text.push(roman(format!(" ({})", row.when())));
        }
        text.push(roman(format!(": {}", row.reason)));
        roff.text(text);
    }
    roff.control("PD", []);
    roff.to_roff()
}

/// The names with the line of `--help` beside them, and the further sentences below if there
/// is no room for them there.
fn describe(roff: &mut Roff, option: &Opt) {
    roff.control("TP", [NAMES]);
    let mut names = Vec::new();
    for short in option.shorts {
        names.extend([bold(format!("-{short}")), roman(", ")]);
    }
    names.push(bold(format!("--{}", option.long)));
    if let Kind::Value(value, _) | Kind::Values(value, _) = option.kind {
        names.push(roman(" "));
        names.extend(marked_up(value));
    }
    let optional = match option.kind {
        Kind::Optional(value, _) => marked_up(value),
        Kind::Help => vec![bold(help::ALL)],
        _ => Vec::new(),
    };
    if !optional.is_empty() {
        names.push(roman("[="));
        names.extend(optional);
        names.push(roman("]"));
    }
    roff.text(names);
    let whole = format!("{}. {}", option.help, option.manual);
    let rest = if whole.len() <= BESIDE {
        sentences(roff, &whole);
        ""
    } else {
        roff.text(marked_up(option.help));
        option.manual
    };
    if !rest.is_empty() {
        roff.control("RS", ["4"]);
        sentences(roff, rest);
        roff.control("RE", []);
    }
}

/// A line for each sentence, since roff takes the end of a line for the end of a sentence.
fn sentences(roff: &mut Roff, text: &str) {
    for sentence in text.split_inclusive(". ") {
        roff.text(marked_up(sentence.trim_end()));
    }
}

/// Fonts for plain text, as man(7) has them: literal words bold, placeholders and paths italic.
fn marked_up(text: &str) -> Vec<Inline> {
    let mut inlines = Vec::new();
    for (number, part) in text.split('`').enumerate() {
        match number % 2 {
            0 => inlines.extend(words(part)),
            _ => inlines.push(bold(part)),
        }
    }
    inlines
}

fn words(text: &str) -> Vec<Inline> {
    let mut inlines = Vec::new();
    for (number, word) in text.split(' ').enumerate() {
        if number > 0 {
            inlines.push(roman(" "));
        }
        let start = word.find(|first| !"('".contains(first)).unwrap_or(0);
        let end = word.trim_end_matches(|last| ",.;:')".contains(last)).len();
        let (before, rest) = word.split_at(start);
        let (word, after) = rest.split_at(end.saturating_sub(start));
        // A parenthesis as in services(5) belongs to the word.
        let (word, after) = match after.strip_prefix(')') {
            Some(more) if word.contains('(') => (format!("{word})"), more),
            _ => (word.to_owned(), after),
        };
        inlines.push(roman(before));
        inlines.extend(fonts(&word));
        inlines.push(roman(after));
    }
    inlines.retain(|inline| *inline != roman(""));
    inlines
}

fn fonts(word: &str) -> Vec<Inline> {
    let begins = |mark: &str, fits: fn(char) -> bool| {
        let rest = word.strip_prefix(mark);
        rest.is_some_and(|rest| rest.starts_with(fits))
    };
    let lower = |letter: char| letter.is_ascii_lowercase();
    if begins("-", |next| next == '-' || next.is_ascii_alphabetic())
        || begins("$", char::is_alphabetic)
    {
        return vec![bold(word)];
    }
    if begins("/", lower) {
        return vec![italic(word)];
    }
    let page = word.split_once('(');
    if let Some((page, section)) = page.filter(|(_, section)| section.ends_with(')')) {
        return vec![bold(page), roman(format!("({section}"))];
    }
    // In [HOST:]PORT the names are placeholders; SIGHUP has none.
    let mut inlines = Vec::new();
    for part in word.split_inclusive(|letter: char| !letter.is_ascii_alphanumeric()) {
        let name = part.trim_end_matches(|letter: char| !letter.is_ascii_alphanumeric());
        if is_placeholder(name) {
            inlines.extend([italic(name), roman(&part[name.len()..])]);
        } else {
            inlines.push(roman(part));
        }
    }
    inlines
}

fn is_placeholder(word: &str) -> bool {
    let others = ["PROG", "ARGS", "TAG", "FACILITY", "PRIORITY"];
    let values = GROUPS.iter().flat_map(|(_, options)| *options);
    let mut values = values.filter_map(|option| match option.kind {
        Kind::Value(value, _) | Kind::Values(value, _) | Kind::Optional(value, _) => Some(value),
        _ => None,
    });
    let is_part = |value: &str| {
        value
            .split(|letter: char| !letter.is_ascii_alphanumeric())
            .any(|part| part == word)
    };
    !word.is_empty() && (others.contains(&word) || values.any(is_part))
}
