//! Parsing rules files and lists of prefixes.
//!
//! A line of a rules file consists of words, separated by blanks. Double quotes in a word enclose
//! text that may have blanks. A backslash escapes, inside and outside of quotes (see
//! [`super::unescape`]). A `#` at the beginning of a word begins a comment.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use super::escapes::escaped;
use super::rule::Names;
use super::{Prefix, Refused, Rule, RuleLocation, Who, decimal, is_reserved_variable};

/// The maximum number of faults reported for one file. If it is the wrong file, each line has one.
const MOST_FAULTS: usize = 20;

/// A fault in a file, and its location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line number, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// The reason.
    pub why: Refused,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, column, why } = self;
        write!(f, "line {line}, column {column}: {why}")
    }
}

/// Parses rules, one on each line. Returns the first fault of each line if there are faults.
pub fn rules(text: &[u8], names: Names<'_>) -> Result<Vec<Rule>, Vec<Fault>> {
    each_line(text, |number, line| rule(number, line, names))
}

/// Parses prefixes, one on each line. Returns the first fault of each line if there are faults.
pub fn prefixes(text: &[u8]) -> Result<Vec<Prefix>, Vec<Fault>> {
    each_line(text, |_, line| {
        let end = line.iter().position(|byte| *byte == b'#');
        let before = &line[..end.unwrap_or(line.len())];
        let start = before.len() - before.trim_ascii_start().len();
        let word = before.trim_ascii();
        if word.is_empty() {
            return Ok(None);
        }
        let text = std::str::from_utf8(word).unwrap_or("");
        text.parse().map(Some).map_err(|why| (start, why))
    })
}

fn each_line<T>(
    text: &[u8],
    mut read: impl FnMut(usize, &[u8]) -> Result<Option<T>, (usize, Refused)>,
) -> Result<Vec<T>, Vec<Fault>> {
    let mut found = Vec::new();
    let mut faults = Vec::new();
    for (line, number) in text.split(|byte| *byte == b'\n').zip(1..) {
        match read(number, line) {
            Ok(entry) => found.extend(entry),
            Err((at, why)) => {
                let before = &line[..at.min(line.len())];
                faults.push(Fault {
                    line: number,
                    column: String::from_utf8_lossy(before).chars().count() + 1,
                    why,
                });
                if faults.len() == MOST_FAULTS {
                    break;
                }
            }
        }
    }
    if faults.is_empty() {
        Ok(found)
    } else {
        Err(faults)
    }
}

/// A word without quotes and escapes, and the offset of its beginning in the line.
struct Word {
    text: Vec<u8>,
    at: usize,
}

impl Word {
    fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.text)
    }

    /// Returns the parts before and after the first equals sign, if there is one.
    fn assignment(&self) -> Option<(&[u8], &[u8])> {
        let equals = self.text.iter().position(|byte| *byte == b'=')?;
        Some((&self.text[..equals], &self.text[equals + 1..]))
    }
}

fn words(line: &[u8]) -> Result<Vec<Word>, (usize, Refused)> {
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r');
    let mut found = Vec::new();
    let mut rest = line;
    loop {
        let blanks = rest.iter().take_while(|byte| blank(byte)).count();
        rest = &rest[blanks..];
        if matches!(rest, [] | [b'#', ..]) {
            return Ok(found);
        }
        let at = line.len() - rest.len();
        let mut text = Vec::new();
        let mut quote = None;
        while let Some((byte, after)) = rest.split_first() {
            let here = line.len() - rest.len();
            match byte {
                b'\\' => {
                    let (byte, after) = escaped(after).map_err(|why| (here, why))?;
                    text.push(byte);
                    rest = after;
                    continue;
                }
                b'"' => quote = if quote.is_none() { Some(here) } else { None },
                byte if quote.is_none() && blank(byte) => break,
                byte => text.push(*byte),
            }
            rest = after;
        }
        if let Some(at) = quote {
            return Err((at, Refused("this quote isn't closed on its line".into())));
        }
        found.push(Word { text, at });
    }
}

fn rule(number: usize, line: &[u8], names: Names<'_>) -> Result<Option<Rule>, (usize, Refused)> {
    let words = words(line)?;
    let mut words = words.iter();
    let Some(verdict) = words.next() else {
        return Ok(None);
    };
    let refuse = |at: usize, why: &str| Err((at, Refused(why.into())));
    let allow = match verdict.text.as_slice() {
        b"allow" => true,
        b"deny" => false,
        _ => return refuse(verdict.at, "a rule begins with allow or deny"),
    };
    let Some(source) = words.next() else {
        return refuse(
            line.len(),
            "after allow or deny comes the source of the clients",
        );
    };
    let who = Who::parse(source.as_os_str(), names).map_err(|why| (source.at, why))?;
    let mut rule = Rule::new(allow, who, RuleLocation::Line(number));
    while let Some(word) = words.next() {
        let key = word
            .assignment()
            .map_or(word.text.as_slice(), |(key, _)| key);
        let repeated = match key {
            b"max" => rule.max.is_some(),
            b"rate" => rule.rate.is_some(),
            b"message" => rule.message.is_some(),
            _ => false,
        };
        if repeated {
            return refuse(word.at, "it is given twice");
        }
        if !allow && matches!(key, b"max" | b"rate" | b"env") {
            return refuse(
                word.at,
                "a rule that denies can have neither max, rate nor env",
            );
        }
        let read = match word.assignment() {
            Some((b"max", value)) => max(value).map(|max| rule.max = Some(max)),
            Some((b"rate", value)) => String::from_utf8_lossy(value)
                .parse()
                .map(|rate| rule.rate = Some(rate))
                .map_err(|why: Refused| Refused(format!("of rate=, {why}"))),
            Some((b"message", [])) => Err(Refused("the message is empty".into())),
            Some((b"message", value)) => {
                rule.message = Some(value.to_vec());
                Ok(())
            }
            None if key == b"env" => match words.next() {
                None => return refuse(line.len(), "after env comes NAME=VALUE"),
                Some(word) => {
                    let variable = variable(word).map_err(|why| (word.at, why))?;
                    rule.environment.push(variable);
                    Ok(())
                }
            },
            _ => Err(Refused(
                "after the source come max=N, rate=R, env NAME=VALUE or message=TEXT".into(),
            )),
        };
        read.map_err(|why| (word.at, why))?;
    }
    Ok(Some(rule))
}

fn max(value: &[u8]) -> Result<NonZeroUsize, Refused> {
    decimal::<i32>(OsStr::from_bytes(value))
        .and_then(|number| NonZeroUsize::new(number.unsigned_abs() as usize))
        .ok_or_else(|| {
            Refused(format!(
                "max= takes a decimal number from 1 to {}",
                i32::MAX
            ))
        })
}

fn variable(word: &Word) -> Result<(OsString, OsString), Refused> {
    let (name, value) = word
        .assignment()
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| Refused("env takes NAME=VALUE".into()))?;
    if word.text.contains(&0) {
        return Err(Refused("it can't contain a NUL byte".into()));
    }
    let name = OsString::from_vec(name.to_vec());
    if is_reserved_variable(&name) {
        return Err(Refused(format!(
            "{} is one of the variables that skd sets or removes for each handler",
            Path::new(&name).display()
        )));
    }
    Ok((name, OsString::from_vec(value.to_vec())))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::Id;

    fn look_up(id: Id, name: &OsStr) -> Result<u32, Refused> {
        match (id, name.to_str()) {
            (Id::User, Some("alice")) => Ok(1000),
            (Id::Group, Some("staff")) => Ok(50),
            _ => Err(Refused(format!(
                "there is no '{}'",
                Path::new(name).display()
            ))),
        }
    }

    /// The rules, each as it is printed, or the faults.
    fn read(text: &str) -> Vec<String> {
        match rules(text.as_bytes(), &look_up) {
            Ok(rules) => rules.iter().map(Rule::to_string).collect(),
            Err(faults) => faults.iter().map(Fault::to_string).collect(),
        }
    }

    #[test]
    fn a_file_of_rules_is_read() {
        let text = r#"
# Who may come in.
allow 192.0.2.0/24 max=4 rate=10/s:20   # the office
  deny	10.0.0.0/8 message="554 no\r\n"
allow uid=alice env A=1 env "B B=x # y" env C="a \"b\"" message="busy"
allow gid=staff env D=
deny file="/etc/my list" message=no\n
allow ::ffff:198.51.100.7
allow unix
deny all"#;
        assert_eq!(
            read(text),
            [
                r#"allow 192.0.2.0/24 max=4 rate=10/s:20"#,
                r#"deny 10.0.0.0/8 message="554 no\r\n""#,
                r#"allow uid=1000 env A="1" env "B B"="x # y" env C="a \"b\"" message="busy""#,
                r#"allow gid=50 env D="""#,
                r#"deny file="/etc/my list" message="no\n""#,
                "allow 198.51.100.7",
                "allow unix",
                "deny all",
            ]
        );
        let lines: Vec<_> = rules(text.as_bytes(), &look_up)
            .unwrap()
            .into_iter()
            .map(|rule| rule.location)
            .collect();
        assert_eq!(lines, [3, 4, 5, 6, 7, 8, 9, 10].map(RuleLocation::Line));
        assert!(read("\n \t\r\n# nothing\n").is_empty());
    }

    #[test]
    fn a_fault_has_its_location_and_all_faults_are_found() {
        for (text, location, why) in [
            (
                "allow 10.0.0.1/8",
                "1, column 7",
                "the prefix is 10.0.0.0/8",
            ),
            ("\n permit all", "2, column 2", "allow or deny"),
            ("allow", "1, column 6", "source"),
            ("deny all\nallow all max=0", "2, column 11", "from 1"),
            ("allow all max=-1", "1, column 11", "from 1"),
            ("allow all max=+1", "1, column 11", "from 1"),
            ("allow all rate=5", "1, column 11", "like 10/s"),
            ("allow all max=1 max=2", "1, column 17", "twice"),
            ("deny all max=1", "1, column 10", "neither"),
            ("deny all env A=1", "1, column 10", "neither"),
            ("allow all env", "1, column 14", "NAME=VALUE"),
            ("allow all env A", "1, column 15", "NAME=VALUE"),
            ("allow all env =1", "1, column 15", "NAME=VALUE"),
            ("allow all env A=\\x00", "1, column 15", "NUL"),
            ("allow all env PROTO=x", "1, column 15", "PROTO is one of"),
            ("allow all env SKD_X=1", "1, column 15", "SKD_X is one of"),
            ("allow all env=1", "1, column 11", "after the source"),
            ("allow all please", "1, column 11", "after the source"),
            ("deny all message=", "1, column 10", "empty"),
            ("deny all message=\"a b", "1, column 18", "closed"),
            ("deny all message=\"a\\q\"", "1, column 20", "backslash"),
            ("deny é é", "1, column 6", "all, an address"),
            ("deny all é", "1, column 10", "after the source"),
            ("allow uid=", "1, column 7", "user"),
            ("allow gid=bob", "1, column 7", "no 'bob'"),
            ("allow uid=4294967295", "1, column 7", "not an id"),
            ("allow file=", "1, column 7", "path"),
            ("allow file=\\x00", "1, column 7", "NUL"),
        ] {
            let faults = read(text);
            assert_eq!(faults.len(), 1, "{text}: {faults:?}");
            let expected = format!("line {location}: ");
            assert!(
                faults[0].starts_with(&expected) && faults[0].contains(why),
                "{text}: {faults:?}"
            );
        }
        assert_eq!(read("x\nallow all\n\n y\n").len(), 2);
        assert_eq!(read(&"x\n".repeat(1000)).len(), MOST_FAULTS);
    }

    #[test]
    fn a_list_of_prefixes_is_read() {
        let text = "192.0.2.0/24\r\n\n# those\n  2001:db8::/32  # and these\n10.1.2.3";
        let found: Vec<_> = prefixes(text.as_bytes())
            .unwrap()
            .iter()
            .map(Prefix::to_string)
            .collect();
        assert_eq!(found, ["192.0.2.0/24", "2001:db8::/32", "10.1.2.3"]);
        let faults = prefixes(b"::1\n  10.0.0.1/8\n\xff\n").unwrap_err();
        let locations: Vec<_> = faults
            .iter()
            .map(|fault| (fault.line, fault.column))
            .collect();
        assert_eq!(locations, [(2, 3), (3, 1)]);
    }

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            "[a-z \"\\\\#=\r\n\t]{0,6}".prop_map(String::into_bytes),
            prop::collection::vec(1..=255_u8, 0..6),
        ]
    }

    fn who() -> impl Strategy<Value = Who> {
        prop_oneof![
            Just(Who::All),
            Just(Who::Unix),
            any::<std::net::IpAddr>().prop_map(|address| Who::Net(Prefix::of(address))),
            (0..u32::MAX).prop_map(Who::Uid),
            (0..u32::MAX).prop_map(Who::Gid),
            bytes()
                .prop_filter("a path", |path| !path.is_empty())
                .prop_map(|path| Who::File(OsString::from_vec(path).into())),
        ]
    }

    fn any_rule() -> impl Strategy<Value = Rule> {
        let name = bytes().prop_map(|bytes| {
            let mut name = vec![b'N'];
            name.extend(bytes.into_iter().filter(|byte| *byte != b'='));
            OsString::from_vec(name)
        });
        let variable = (name, bytes().prop_map(OsString::from_vec));
        (
            any::<bool>(),
            who(),
            prop::option::of(1..=i32::MAX as usize),
            prop::option::of("[1-9][0-9]{0,3}/[smhd](:[1-9])?"),
            prop::collection::vec(variable, 0..3),
            prop::option::of(prop::collection::vec(any::<u8>(), 1..9)),
        )
            .prop_map(|(allow, who, max, rate, environment, message)| {
                let mut rule = Rule::new(allow, who, RuleLocation::Line(1));
                rule.message = message;
                if allow {
                    rule.max = max.and_then(NonZeroUsize::new);
                    rule.rate = rate.map(|rate| rate.parse().unwrap());
                    rule.environment = environment;
                }
                rule
            })
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(rule in any_rule()) {
            let text = rule.to_string();
            prop_assert!(!text.chars().any(char::is_control), "{text:?}");
            prop_assert_eq!(rules(text.as_bytes(), &look_up), Ok(vec![rule]), "{}", text);
        }

        #[test]
        fn prefixes_that_are_read_read_the_same_when_written_out(
            lines in prop::collection::vec(
                prop_oneof![
                    4 => "[0-9]{1,2}(\\.[0-9]{1,2}){3}(/32)?[ \t]?(#.{0,3})?",
                    4 => "[0-9a-f]{1,4}:(:[0-9a-f]{1,4}){1,3}(/128)?",
                    1 => "[ \t]*(#.{0,5})?",
                ],
                0..5,
            ),
        ) {
            let text = lines.join("\n");
            if let Ok(found) = prefixes(text.as_bytes()) {
                let again: Vec<_> = found.iter().map(Prefix::to_string).collect();
                let again = prefixes(again.join("\n").as_bytes());
                prop_assert_eq!(again, Ok(found), "{:?}", text);
            }
        }

        #[test]
        fn words_in_any_order_are_read_or_refused(
            words in prop::collection::vec(
                prop::sample::select(vec![
                    "allow", "deny", "all", "10.0.0.0/8", "unix", "uid=1", "file=x", "max=3",
                    "rate=1/s", "env", "A=1", "message=\"a\"", "\"", "\\", "#", "\n", "=",
                ]),
                0..8,
            ),
        ) {
            let text = words.join(" ");
            if let Ok(found) = rules(text.as_bytes(), &look_up) {
                let again: Vec<_> = found.iter().map(Rule::to_string).collect();
                let again = rules(again.join("\n").as_bytes(), &look_up).unwrap();
                let parts = |rules: &[Rule]| rules.iter().map(Rule::to_string).collect::<Vec<_>>();
                prop_assert_eq!(parts(&again), parts(&found));
            }
        }
    }
}
