//! The syntax of systemd's `EnvironmentFile=` (systemd.exec(5)), which files of `--env-file` have.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::quoted;

/// A file of `--env-file` that was read. The next binary of an upgrade doesn't read it again: it may
/// have other rights, or another root directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnvironmentFile {
    /// The value of the option.
    pub option: OsString,
    /// The variables, in the order of the file.
    pub variables: Vec<(OsString, OsString)>,
}

/// A variable as it stands in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The line on which it begins, from 1.
    pub line: u32,
    /// The name, which may be invalid.
    pub name: Vec<u8>,
    /// The value, without quotes and escapes.
    pub value: Vec<u8>,
}

/// Returns the variables of a file. As systemd does, it ignores lines without `=`, and takes the end
/// of the file for the end of an open quote.
pub fn parse(text: &[u8]) -> Vec<Assignment> {
    let mut input = Input { text, line: 1 };
    let mut found = Vec::new();
    while let Some(first) = input.next() {
        match first {
            b'#' | b';' => while input.next().is_some_and(|byte| !ends_line(byte)) {},
            byte if is_blank(byte) => {}
            // Even if it is '='.
            byte => {
                let line = input.line;
                if let Some(name) = input.name(byte) {
                    let value = input.value();
                    found.push(Assignment { line, name, value });
                }
            }
        }
    }
    found
}

impl Assignment {
    /// Returns the name and the value, or says why a program can't have them.
    pub fn checked(self) -> Result<(OsString, OsString), String> {
        let first = self.name.first().is_some_and(u8::is_ascii_digit);
        let known = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
        if first || !self.name.iter().all(known) {
            const SHOWN: usize = 40;
            let shown = &self.name[..self.name.len().min(SHOWN)];
            let hint = match self.name.starts_with(b"export ") {
                true => "; leave out export, this isn't read by a shell",
                false => "",
            };
            return Err(format!(
                "{} isn't the name of a variable: it takes letters, digits and _, no digit \
                 first{hint}",
                quoted(shown)
            ));
        }
        let name = OsString::from_vec(self.name);
        let of = |what| format!("the value of {} {what}", Path::new(&name).display());
        if self.value.contains(&0) {
            return Err(of("contains a NUL byte"));
        }
        match std::str::from_utf8(&self.value) {
            Ok(_) => Ok((name, OsString::from_vec(self.value))),
            Err(_) => Err(of("isn't UTF-8")),
        }
    }
}

/// Text that is left to be read.
struct Input<'a> {
    text: &'a [u8],
    line: u32,
}

impl Iterator for Input<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.text.split_first()?;
        self.text = rest;
        self.line = self.line.saturating_add(u32::from(*first == b'\n'));
        Some(*first)
    }
}

impl Input<'_> {
    /// Reads a name that begins with this byte, and the `=` after it. Without `=`, reads the line.
    fn name(&mut self, first: u8) -> Option<Vec<u8>> {
        let mut name = vec![first];
        loop {
            match self.next()? {
                b'=' => break,
                byte if ends_line(byte) => return None,
                byte => name.push(byte),
            }
        }
        let end = name.iter().rposition(|byte| !is_blank(*byte));
        name.truncate(end.map_or(0, |end| end + 1));
        Some(name)
    }

    /// Reads a value: any number of quoted parts, and then a part without quotes.
    fn value(&mut self) -> Vec<u8> {
        let mut value = Vec::new();
        while let Some(first) = self.next() {
            match first {
                b'\'' => value.extend(self.take_while(|byte| *byte != b'\'')),
                b'"' => self.double_quoted(&mut value),
                byte if ends_line(byte) => break,
                byte if is_blank(byte) => {}
                byte => {
                    self.unquoted(byte, &mut value);
                    break;
                }
            }
        }
        value
    }

    fn double_quoted(&mut self, value: &mut Vec<u8>) {
        while let Some(byte) = self.next().filter(|byte| *byte != b'"') {
            if byte != b'\\' {
                value.push(byte);
                continue;
            }
            match self.next() {
                Some(escaped @ (b'"' | b'\\' | b'`' | b'$')) => value.push(escaped),
                Some(b'\n') | None => {}
                // As a shell reads it.
                Some(other) => value.extend([b'\\', other]),
            }
        }
    }

    /// Reads the rest of a value, which begins with `first`, and the end of its line.
    fn unquoted(&mut self, first: u8, value: &mut Vec<u8>) {
        let mut next = Some(first);
        // Blanks at the end don't count, but for those that were escaped and those before an escape.
        let mut kept = value.len();
        while let Some(byte) = next.filter(|byte| !ends_line(*byte)) {
            let escaped = match byte {
                b'\\' => {
                    kept = value.len();
                    self.next()
                }
                byte => Some(byte),
            };
            if let Some(escaped) = escaped.filter(|byte| !ends_line(*byte)) {
                value.push(escaped);
                if byte == b'\\' || !is_blank(escaped) {
                    kept = value.len();
                }
            }
            next = self.next();
        }
        value.truncate(kept);
    }
}

fn ends_line(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t') || ends_line(byte)
}

/// Returns the path of a value of `--env-file`, and whether the file may be missing.
pub fn path_of(option: &OsStr) -> (&OsStr, bool) {
    match option.as_bytes().strip_prefix(b"-") {
        Some(path) => (OsStr::from_bytes(path), true),
        None => (option, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        let text_of = |bytes| String::from_utf8(bytes).unwrap();
        let all = parse(text.as_bytes()).into_iter();
        all.map(|it| (text_of(it.name), text_of(it.value)))
            .collect()
    }

    #[test]
    fn values_are_read_as_systemd_reads_them() {
        for (text, expected) in [
            ("A=1\nB=2", &[("A", "1"), ("B", "2")][..]),
            (
                "# A=1\n ; B=2\n\tC=3\n#D=4 \\\nE=5\n",
                &[("C", "3"), ("E", "5")],
            ),
            ("A\nB =2\n", &[("B", "2")]),
            ("A=\nB=''\nC=\"\"\n", &[("A", ""), ("B", ""), ("C", "")]),
            ("A= 1 2 \t\r\nB=3", &[("A", "1 2"), ("B", "3")]),
            ("A=a#b ;c\n", &[("A", "a#b ;c")]),
            ("A=a=b\n", &[("A", "a=b")]),
            ("A=$HOME `x`\n", &[("A", "$HOME `x`")]),
            (r"A=a\tb\\c\$d", &[("A", r"atb\c$d")]),
            ("A=a \\\n b\nC=3\n", &[("A", "a  b"), ("C", "3")]),
            ("A=a\\ \n", &[("A", "a ")]),
            ("A=a  \\", &[("A", "a  ")]),
            ("A=' b '\n", &[("A", " b ")]),
            ("A='a\\n\"$\n'  \n", &[("A", "a\\n\"$\n")]),
            ("A=\"a\\\"\\\\\\`\\$\\n\"\n", &[("A", "a\"\\`$\\n")]),
            ("A=\"a\\\nb\nc\"\n", &[("A", "ab\nc")]),
            ("A='a' 'b'\"c\" d e \nB=1", &[("A", "abcd e"), ("B", "1")]),
            ("A=a'b' \"c\"\n", &[("A", "a'b' \"c\"")]),
            ("A='a\nB=2", &[("A", "a\nB=2")]),
            ("export A=1\n", &[("export A", "1")]),
            ("=a\n==b\n", &[("=", "b")]),
        ] {
            let expected: Vec<_> = expected
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect();
            assert_eq!(pairs(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_variable_has_the_line_on_which_it_begins() {
        let text = b"A=1\n# x\n\nB='a\nb'\nC=1\\\n2\n D=1\r\nE=";
        let lines: Vec<_> = parse(text).iter().map(|it| it.line).collect();
        assert_eq!(lines, [1, 4, 6, 8, 9]);
    }

    #[test]
    fn names_and_values_that_no_program_can_have_are_refused() {
        for (text, why) in [
            (&b"export A=1"[..], "leave out export"),
            (b"1A=1", "no digit first"),
            (b"A.B=1", "letters, digits and _"),
            (b"A\n==1", "letters, digits and _"),
            (b"A=a\0b", "contains a NUL byte"),
            (b"A=\xff", "isn't UTF-8"),
            (b"\xff=a", "letters, digits and _"),
        ] {
            let last = parse(text).pop().unwrap();
            let refused = last.checked().unwrap_err();
            assert!(refused.contains(why), "{refused}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in prop::collection::vec(any::<u8>(), 0..60)) {
            for found in parse(&text) {
                prop_assert!(!found.name.is_empty());
                prop_assert!(!found.name[1..].contains(&b'='));
                if let Err(why) = found.checked() {
                    prop_assert!(!why.contains('\n'), "{:?}", why);
                }
            }
        }

        #[test]
        fn text_of_the_syntax_is_read(text in "([AB]|[ \t\r\n=\\\\'\"#;$`é]){0,20}") {
            for found in parse(text.as_bytes()) {
                // Nothing is made up.
                let mut rest = text.bytes();
                prop_assert!(found.value.iter().all(|byte| rest.any(|it| it == *byte)));
            }
        }

        #[test]
        fn what_is_written_is_read(
            variables in prop::collection::vec(("[A-Z_][A-Z0-9_]{0,4}", "[^\0]{0,12}"), 0..6),
            double in any::<bool>(),
        ) {
            let mut text = String::new();
            for (name, value) in &variables {
                let escapes = |letter| match double {
                    true => matches!(letter, '"' | '\\' | '`' | '$'),
                    // All but the end of a line, which can't be escaped.
                    false => letter != '\n' && letter != '\r',
                };
                if !double && value.contains(['\n', '\r']) {
                    let value = value.replace('\'', " ");
                    text += &format!("{name}='{value}'\n");
                    continue;
                }
                let escaped: String = value
                    .chars()
                    .flat_map(|letter| escapes(letter).then_some('\\').into_iter().chain([letter]))
                    .collect();
                let quote = if double { "\"" } else { "" };
                text += &format!("{name}={quote}{escaped}{quote}\n");
            }
            let expected: Vec<_> = variables
                .into_iter()
                .map(|(name, value)| {
                    let single = !double && value.contains(['\n', '\r']);
                    (name, if single { value.replace('\'', " ") } else { value })
                })
                .collect();
            prop_assert_eq!(pairs(&text), expected);
        }
    }
}
