//! Files that say which system calls may be made.

use std::collections::BTreeMap;
use std::ffi::OsString;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::default_list::{Purpose, default_list};
use crate::config::{nearest, quoted};
use crate::sys::seccomp::{AARCH64, Action, KnownCall, Rules, X86_64, calls, known_calls};

/// A file of `--seccomp` that was read. The next binary of an upgrade doesn't read it again: it may
/// have other rights, or another root directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterFile {
    /// The value of the option.
    pub option: OsString,
    /// What is in it.
    pub text: String,
}

/// A fault in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The line, from 1; none if it is about the file as a whole.
    pub line: Option<usize>,
    /// The reason.
    pub why: String,
}

/// Calls by which skd itself makes PROG of a child.
const NEEDED: [&str; 4] = ["execve", "exit", "exit_group", "rt_sigprocmask"];
/// The call that hands the filter's listener to skd.
const NEEDED_TO_LISTEN: &str = "sendmsg";

/// What a file says so far.
#[derive(Default)]
struct Reading {
    /// With the line of each.
    calls: BTreeMap<&'static str, (Action, usize)>,
    others: Option<Action>,
    includes: bool,
}

impl FilterFile {
    /// Parses it. Returns the first fault of each line if there are faults.
    pub fn rules(&self, purpose: Purpose) -> Result<Rules, Vec<Fault>> {
        let mut reading = Reading::default();
        let mut faults = Vec::new();
        for (line, number) in self.text.split('\n').zip(1..) {
            if let Err(why) = reading.line(line, number) {
                let line = Some(number);
                faults.push(Fault { line, why });
            }
        }
        if faults.is_empty() {
            reading.finish(purpose).map_err(|why| {
                let line = None;
                vec![Fault { line, why }]
            })
        } else {
            Err(faults)
        }
    }
}

impl Reading {
    fn line(&mut self, line: &str, number: usize) -> Result<(), String> {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let Some(verb) = words.next() else {
            return Ok(());
        };
        let mut words: Vec<&str> = words.collect();
        let action = match verb {
            "include" => {
                return match words[..] {
                    ["default"] if !self.includes => {
                        self.includes = true;
                        Ok(())
                    }
                    ["default"] => Err("the default list is included already".into()),
                    _ => Err("only the default list can be included: include default".into()),
                };
            }
            "default" => {
                let action = match words[..] {
                    ["allow"] => Action::Allow,
                    ["refuse"] => Action::Fail(libc::EPERM as u16),
                    ["kill"] => Action::Kill,
                    ["enosys"] => Action::Fail(libc::ENOSYS as u16),
                    _ => return Err("default takes allow, refuse, kill or enosys".into()),
                };
                return match self.others.replace(action) {
                    None => Ok(()),
                    Some(_) => Err("there is a line with default already".into()),
                };
            }
            "allow" => Action::Allow,
            "log" => Action::Log,
            "kill" => Action::Kill,
            "refuse" => {
                let errno = words.last().and_then(|word| word.strip_prefix('='));
                let errno = errno.map(errno_of).transpose()?;
                if errno.is_some() {
                    words.pop();
                }
                Action::Fail(errno.unwrap_or(libc::EPERM as u16))
            }
            _ => {
                return Err(format!(
                    "a line begins with allow, refuse, kill, log, default or include, not with {}",
                    quoted(&verb.as_bytes()[..verb.len().min(40)])
                ));
            }
        };
        if words.is_empty() {
            return Err(format!("{verb} takes names of system calls"));
        }
        for word in words {
            let name = known(word)?;
            if let Some((_, earlier)) = self.calls.insert(name, (action, number)) {
                return Err(format!("{name} is on line {earlier} already"));
            }
        }
        Ok(())
    }

    fn finish(self, purpose: Purpose) -> Result<Rules, String> {
        let mut rules = match (self.includes, self.others) {
            (true, others) => {
                let list = default_list(purpose);
                let others = others.unwrap_or(list.others);
                Rules {
                    others,
                    fits_jailer: false,
                    ..list
                }
            }
            (false, Some(others)) => Rules {
                calls: BTreeMap::new(),
                others,
                only_log: false,
                fits_jailer: false,
            },
            (false, None) => {
                return Err(
                    "it doesn't say what becomes of other calls; add include default, or default \
                     with allow, refuse, kill or enosys"
                        .into(),
                );
            }
        };
        // A call that another architecture has needs no rule here.
        for call in known_calls() {
            if let Some((action, _)) = self.calls.get(call.name) {
                rules.calls.insert(call.number, (*action).into());
            }
        }
        let listens = rules.logs() || rules.kills();
        let needed = NEEDED
            .into_iter()
            .chain(listens.then_some(NEEDED_TO_LISTEN));
        let is_allowed = |name: &&str| {
            let call = known_calls().find(|call| call.name == *name);
            call.is_none_or(|call| rules.action(call.number, &[0; 6]) == Action::Allow)
        };
        let missing: Vec<&str> = needed.filter(|name| !is_allowed(name)).collect();
        if missing.is_empty() {
            return Ok(rules);
        }
        Err(format!(
            "skd itself starts PROG by {0}; add allow {0}",
            missing.join(" ")
        ))
    }
}

/// Returns the name of a call that some architecture has.
fn known(word: &str) -> Result<&'static str, String> {
    let all = || calls(X86_64).chain(calls(AARCH64));
    let found = all().find(|call: &KnownCall| call.name == word);
    found.map(|call| call.name).ok_or_else(|| {
        let near = nearest(word, all().map(|call| call.name));
        let hint = near.map(|near| format!("; did you mean {near}?"));
        format!(
            "there is no system call {}{}",
            quoted(&word.as_bytes()[..word.len().min(40)]),
            hint.unwrap_or_default()
        )
    })
}

/// Returns the number of an error by its name.
fn errno_of(name: &str) -> Result<u16, String> {
    const MOST: i32 = 133;
    let found = (1..=MOST).find(|number| format!("{:?}", Errno::from_raw(*number)) == name);
    found.map(|number| number as u16).ok_or_else(|| {
        let name = quoted(&name.as_bytes()[..name.len().min(40)]);
        format!("there is no error {name}; it takes one of errno(3), as EACCES")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Rules, Vec<Fault>> {
        let file = FilterFile {
            option: "./list".into(),
            text: text.into(),
        };
        file.rules(Purpose::default())
    }

    fn number(name: &str) -> u32 {
        known_calls().find(|call| call.name == name).unwrap().number
    }

    #[test]
    fn lines_change_the_default_list() {
        let text = "# ours\ninclude default\r\n\n\trefuse  listen bind =EACCES # no servers\nallow ptrace\nlog kill\nkill chroot\n";
        let rules = parse(text).unwrap();
        let action = |name| rules.action(number(name), &[0; 6]);
        assert_eq!(action("read"), Action::Allow);
        assert_eq!(action("bind"), Action::Fail(libc::EACCES as u16));
        assert_eq!(action("ptrace"), Action::Allow);
        assert_eq!(action("mount"), Action::Fail(libc::EPERM as u16));
        assert_eq!(action("kill"), Action::Log);
        assert_eq!(action("chroot"), Action::Kill);
        assert!(rules.logs() && rules.kills());
    }

    #[test]
    fn a_list_of_its_own_says_what_becomes_of_others() {
        let needed = "allow execve exit exit_group rt_sigprocmask";
        let rules = parse(&format!("default refuse\n{needed} read\n")).unwrap();
        assert_eq!(rules.action(number("read"), &[0; 6]), Action::Allow);
        assert_eq!(
            rules.action(9999, &[0; 6]),
            Action::Fail(libc::EPERM as u16)
        );
        let why = parse(&format!("default kill\n{needed}\n")).unwrap_err();
        assert_eq!(
            why[0].why,
            "skd itself starts PROG by sendmsg; add allow sendmsg"
        );
        parse(&format!("default kill\n{needed} sendmsg\n")).unwrap();
    }

    #[test]
    fn faults_name_the_line_and_what_was_meant() {
        for (text, line, why) in [
            (
                "allow opne",
                Some(1),
                "there is no system call \"opne\"; did you mean open?",
            ),
            ("\nallow", Some(2), "allow takes names of system calls"),
            (
                "alow read",
                Some(1),
                "a line begins with allow, refuse, kill, log, default or include, not with \"alow\"",
            ),
            (
                "allow read\nkill read",
                Some(2),
                "read is on line 1 already",
            ),
            (
                "refuse read =ENOPE",
                Some(1),
                "there is no error \"ENOPE\"; it takes one of errno(3), as EACCES",
            ),
            (
                "default maybe",
                Some(1),
                "default takes allow, refuse, kill or enosys",
            ),
            (
                "default kill\ndefault kill",
                Some(2),
                "there is a line with default already",
            ),
            (
                "include other",
                Some(1),
                "only the default list can be included: include default",
            ),
            (
                "allow read",
                None,
                "it doesn't say what becomes of other calls; add include default, or default with allow, refuse, kill or enosys",
            ),
            (
                "include default\nrefuse execve",
                None,
                "skd itself starts PROG by execve; add allow execve",
            ),
        ] {
            let expected = Fault {
                line,
                why: why.into(),
            };
            assert_eq!(parse(text).unwrap_err(), [expected], "{text}");
        }
    }

    #[test]
    fn a_call_of_another_architecture_needs_no_rule() {
        parse("include default\nrefuse open openat renameat\n").unwrap();
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(allow|refuse|kill|log|default|include|read|[a-z_= #\\n]{0,9}| |\\n){0,30}") {
            if let Err(faults) = parse(&text) {
                prop_assert!(!faults.is_empty());
            }
        }
    }
}
