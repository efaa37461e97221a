//! The variables that all handlers of a service have: inherited, the user's, `--env-file`,
//! `--env`. Those of the client are in `config::peer`, those of the listener in `net::variables`.

use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::sync::Arc;

use crate::config::{Account, Surroundings, is_reserved_variable, is_tls_variable};

/// The common variables of the handlers of a service.
#[derive(Clone, Debug)]
pub struct Variables(Vec<(OsString, OsString)>);

impl Variables {
    /// The environment of this process, with a user's own variables, and then with changes.
    pub fn inherited(account: Option<&Account>, changes: &[(OsString, Option<OsString>)]) -> Self {
        Self::of(std::env::vars_os(), account, changes)
    }

    /// What a program has of the environment of this process, with a user's own variables, and then
    /// with changes.
    pub fn for_program(account: Option<&Account>, surroundings: &Surroundings) -> Self {
        let all = !surroundings.clears_environment;
        let inherited = std::env::vars_os();
        let inherited = inherited.filter(|(name, _)| all || surroundings.passed.contains(name));
        Self::of(inherited, account, &surroundings.environment)
    }

    /// The same from another environment.
    pub fn of(
        inherited: impl IntoIterator<Item = (OsString, OsString)>,
        account: Option<&Account>,
        changes: &[(OsString, Option<OsString>)],
    ) -> Self {
        let mut variables = Self(inherited.into_iter().collect());
        match account {
            None | Some(Account::Inherited) => {}
            Some(Account::Unknown) => {
                for name in ["HOME", "USER", "LOGNAME", "SHELL"] {
                    variables.change(OsStr::new(name), None);
                }
            }
            Some(Account::Known { name, home, shell }) => {
                let values = [
                    ("HOME", home),
                    ("USER", name),
                    ("LOGNAME", name),
                    ("SHELL", shell),
                ];
                for (variable, value) in values {
                    variables.change(OsStr::new(variable), Some(value));
                }
            }
        }
        for (name, value) in changes {
            variables.change(name, value.as_deref());
        }
        variables
    }

    /// Without the variables that skd sets for each connection, and those that are for skd only.
    pub fn without_reserved(mut self) -> Self {
        self.0.retain(|(name, _)| !is_reserved_variable(name));
        self
    }

    /// Without those about the TLS session of a client, which skd sets where there is one.
    pub fn without_tls(mut self) -> Self {
        self.0.retain(|(name, _)| !is_tls_variable(name));
        self
    }

    /// With `program` in WATCHDOG_PID, if that was `named`. If the program's id isn't known, it is
    /// unset, which means any process (sd_watchdog_enabled(3)).
    pub fn with_watchdog_for(mut self, program: Option<u32>, named: u32) -> Self {
        const NAME: &str = "WATCHDOG_PID";
        let is = |pid: &OsStr| pid.to_str().and_then(|pid| pid.parse().ok()) == Some(named);
        if self.get(NAME).is_some_and(is) {
            let program = program.map(|pid| OsString::from(pid.to_string()));
            self.change(OsStr::new(NAME), program.as_deref());
        }
        self
    }

    fn change(&mut self, name: &OsStr, value: Option<&OsStr>) {
        self.0.retain(|(known, _)| known != name);
        if let Some(value) = value {
            self.0.push((name.to_owned(), value.to_owned()));
        }
    }

    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_os_str())
    }

    /// Returns them, each as `NAME=VALUE`.
    pub fn lines(&self) -> Arc<[CString]> {
        let line = |(name, value): &(OsString, OsString)| {
            let mut line = name.clone().into_vec();
            line.push(b'=');
            line.extend_from_slice(value.as_bytes());
            // None has a NUL inside: they come from an environment or from arguments.
            CString::new(line).ok()
        };
        self.0.iter().filter_map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name() -> impl Strategy<Value = OsString> {
        "(A|B|HOME|TCPREMOTEIP|SKD_X|[^=\0]{1,3})".prop_map(OsString::from)
    }

    fn value() -> impl Strategy<Value = OsString> {
        "[^\0]{0,3}".prop_map(OsString::from)
    }

    proptest! {
        #[test]
        fn the_last_change_of_a_variable_counts_and_the_reserved_are_gone(
            inherited in prop::collection::vec((name(), value()), 0..6),
            changes in prop::collection::vec((name(), prop::option::of(value())), 0..6),
            home in prop::option::of(value()),
        ) {
            let account = match &home {
                None => Account::Unknown,
                Some(home) => Account::Known {
                    name: "a".into(),
                    home: home.clone(),
                    shell: "/bin/sh".into(),
                },
            };
            let all = Variables::of(inherited.clone(), Some(&account), &changes);
            let last = |name: &OsStr| {
                let change = changes.iter().rev().find(|(changed, _)| changed == name);
                let found = inherited.iter().find(|(known, _)| known == name);
                match change {
                    Some((_, value)) => value.clone(),
                    None if name == "HOME" => home.clone(),
                    None => found.map(|(_, value)| value.clone()),
                }
            };
            let changed = changes.iter().map(|(name, _)| name);
            for name in inherited.iter().map(|(name, _)| name).chain(changed) {
                let found = all.get(name.to_str().unwrap()).map(OsStr::to_owned);
                prop_assert_eq!(found, last(name), "{:?}", name);
            }

            let left = all.without_reserved();
            let lines = left.lines();
            prop_assert_eq!(lines.len(), left.0.len());
            for (line, (name, value)) in lines.iter().zip(&left.0) {
                prop_assert!(!is_reserved_variable(name));
                let expected = [name.as_bytes(), value.as_bytes()].join(&b'=');
                prop_assert_eq!(line.as_bytes(), expected);
            }
        }
    }
}
