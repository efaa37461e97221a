//! Parsing the SPEC of `--log`, the target of standard error.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::Refused;

/// The target of `--log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// The system log, under a tag.
    Syslog {
        /// The beginning of each line.
        tag: OsString,
        /// The facility and severity of the messages.
        level: Level,
    },
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// Whether to empty it at the start.
        truncate: bool,
    },
}

/// The facility and severity of a message, with the numbers of RFC 5424 §6.2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    /// 0 to 23.
    pub facility: u8,
    /// 0 to 7.
    pub severity: u8,
}

impl Level {
    /// `daemon.notice`.
    pub const DEFAULT: Self = Self {
        facility: 3,
        severity: 5,
    };

    /// Returns the PRI value at the beginning of a message.
    pub fn priority(self) -> u8 {
        self.facility * 8 + self.severity
    }
}

impl LogTarget {
    /// Parses `TAG`, `TAG:FACILITY.SEVERITY`, `>FILE` or `>>FILE`.
    pub fn parse(text: &OsStr) -> Result<Self, Refused> {
        let bytes = text.as_bytes();
        if let Some(rest) = bytes.strip_prefix(b">") {
            let (rest, truncate) = match rest.strip_prefix(b">") {
                Some(rest) => (rest, false),
                None => (rest, true),
            };
            let path = rest.trim_ascii_start();
            if path.is_empty() {
                return wrong("no file after '>'");
            }
            if path.contains(&0) {
                return wrong("a path can't contain a NUL byte");
            }
            let path = PathBuf::from(OsString::from_vec(path.to_vec()));
            return Ok(Self::File { path, truncate });
        }
        let (tag, level) = match bytes.iter().position(|&byte| byte == b':') {
            None => (bytes, Level::DEFAULT),
            Some(colon) => (&bytes[..colon], parse_level(&bytes[colon + 1..])?),
        };
        if tag.is_empty() {
            return wrong("the tag is empty");
        }
        if tag.iter().any(u8::is_ascii_control) {
            return wrong("a tag can't contain control characters");
        }
        if tag.contains(&b'/') {
            let file = Path::new(OsStr::from_bytes(bytes)).display();
            return wrong(format!(
                "a tag can't contain a slash; for a file, write '>>{file}'"
            ));
        }
        if level == Level::DEFAULT && tag.len() == bytes.len() && parse_level(tag).is_ok() {
            let level = Path::new(OsStr::from_bytes(tag)).display();
            return wrong(format!(
                "this is a level, and a tag is missing; write 'TAG:{level}', with a name for TAG"
            ));
        }
        let tag = OsStr::from_bytes(tag).to_owned();
        Ok(Self::Syslog { tag, level })
    }
}

fn wrong<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(why.into()))
}

fn parse_level(text: &[u8]) -> Result<Level, Refused> {
    let Some((facility, severity)) = std::str::from_utf8(text)
        .ok()
        .and_then(|text| text.split_once('.'))
    else {
        return wrong("after the tag comes FACILITY.PRIORITY, as in daemon.notice");
    };
    let Some(facility) = find(&FACILITIES, facility, 23) else {
        return wrong(format!(
            "unknown facility '{facility}'; there are {} and 0 to 23",
            names(&FACILITIES)
        ));
    };
    let Some(severity) = find(&SEVERITIES, severity, 7) else {
        return wrong(format!(
            "unknown priority '{severity}'; there are {} and 0 to 7",
            names(&SEVERITIES)
        ));
    };
    Ok(Level { facility, severity })
}

/// Names of syslog.conf(5) and the C library's `<sys/syslog.h>`.
const FACILITIES: [(&str, u8); 21] = [
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("security", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

const SEVERITIES: [(&str, u8); 11] = [
    ("emerg", 0),
    ("panic", 0),
    ("alert", 1),
    ("crit", 2),
    ("err", 3),
    ("error", 3),
    ("warning", 4),
    ("warn", 4),
    ("notice", 5),
    ("info", 6),
    ("debug", 7),
];

fn find(table: &[(&str, u8)], text: &str, highest: u8) -> Option<u8> {
    let named = table
        .iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(text));
    if let Some((_, number)) = named {
        return Some(*number);
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|number| *number <= highest)
}

fn names(table: &[(&str, u8)]) -> String {
    let names: Vec<&str> = table.iter().map(|(name, _)| *name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<LogTarget, String> {
        LogTarget::parse(OsStr::new(text)).map_err(|error| error.to_string())
    }

    fn syslog(tag: &str, facility: u8, severity: u8) -> LogTarget {
        LogTarget::Syslog {
            tag: tag.into(),
            level: Level { facility, severity },
        }
    }

    #[test]
    fn every_form_is_read() {
        let file = |path: &str, truncate| LogTarget::File {
            path: path.into(),
            truncate,
        };
        for (text, expected) in [
            ("web", syslog("web", 3, 5)),
            ("web:daemon.info", syslog("web", 3, 6)),
            ("web:LOCAL7.Debug", syslog("web", 23, 7)),
            ("web:16.0", syslog("web", 16, 0)),
            ("web:authpriv.warn", syslog("web", 10, 4)),
            (">x", file("x", true)),
            (">>x", file("x", false)),
            ("> \t/var/log/x y", file("/var/log/x y", true)),
            (">>  x", file("x", false)),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_unknown_is_refused() {
        for text in [
            "",
            ":daemon.info",
            "web:",
            "web:daemon",
            "web:daemon.",
            "web:.info",
            "web:x.info",
            "web:daemon.x",
            "web:24.0",
            "web:0.8",
            "web:0x3.5",
            "web:+3.5",
            "web:daemon.info ",
            ">",
            ">>",
            ">> ",
            ">x\0y",
            "a\nb",
        ] {
            assert!(parse(text).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn a_path_and_a_level_are_no_tags() {
        for (text, hint) in [
            ("/var/log/x.log", "'>>/var/log/x.log'"),
            ("log/x:daemon.info", "'>>log/x:daemon.info'"),
            ("daemon.notice", "'TAG:daemon.notice'"),
            ("local0.7", "'TAG:local0.7'"),
        ] {
            let why = parse(text).unwrap_err();
            assert!(why.contains(hint), "{text}: {why}");
        }
        // A name with a dot.
        assert_eq!(parse("example.org"), Ok(syslog("example.org", 3, 5)));
    }

    proptest! {
        #[test]
        fn what_is_read_reads_the_same_when_written_out(
            tag in "[^:/]{0,9}",
            level in proptest::option::of("(local[0-9]|[A-Za-z]{1,4}|[0-9]{1,2})\\.(info|[0-9]{1,2})"),
            sign in "(>|>>)?[ \t]?",
        ) {
            let level = level.map(|level| format!(":{level}")).unwrap_or_default();
            if let Ok(target) = parse(&format!("{sign}{tag}{level}")) {
                let again = match &target {
                    LogTarget::Syslog { tag, level: Level { facility, severity } } => {
                        prop_assert!(*facility <= 23 && *severity <= 7);
                        format!("{}:{facility}.{severity}", Path::new(tag).display())
                    }
                    LogTarget::File { path, truncate } => {
                        let sign = if *truncate { ">" } else { ">>" };
                        format!("{sign} {}", path.display())
                    }
                };
                prop_assert!(!again.contains('\0'));
                prop_assert_eq!(parse(&again), Ok(target));
            }
        }
    }
}
