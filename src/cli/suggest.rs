//! The option that was probably meant by an unknown one.

use super::options::{GROUPS, Opt};
use crate::config::nearest;

/// What others call options, and the names of skd's. `-x` is a short option.
const ALSO: &[(&str, &str)] = &[
    ("-p", "tcp"),
    ("-D", "background"),
    ("address", "tcp"),
    ("bind", "tcp"),
    ("cwd", "chdir"),
    ("daemon", "background"),
    ("daemonize", "background"),
    ("debug", "verbose"),
    ("detach", "background"),
    ("directory", "chdir"),
    ("dry-run", "check"),
    ("environment", "env"),
    ("fork", "background"),
    ("group", "user"),
    ("host", "tcp"),
    ("ipv4", "tcp"),
    ("ipv6", "tcp"),
    ("listen", "tcp"),
    ("logfile", "log"),
    ("max-connections", "max-clients"),
    ("pid-file", "pidfile"),
    ("port", "tcp"),
    ("respawn", "supervise"),
    ("restart", "supervise"),
    ("root", "chroot"),
    ("socket", "unix"),
    ("syslog", "log"),
    ("uid", "user"),
    ("workdir", "chdir"),
];

/// Returns the option that is most like an unknown one, `-x` or `--word`, if one is like it.
pub(super) fn like(unknown: &str) -> Option<&'static Opt> {
    let word = unknown.strip_prefix("--").unwrap_or(unknown);
    let named = |name: &str| options().find(|option| option.long == name);
    if let Some((_, name)) = ALSO.iter().find(|(other, _)| *other == word) {
        return named(name);
    }
    if !unknown.starts_with("--") {
        return None;
    }
    let word = word.to_ascii_lowercase().replace('_', "-");
    let mut longer = options().filter(|option| option.long.starts_with(&word));
    if let (Some(option), None) = (longer.next(), longer.next()) {
        return Some(option);
    }
    named(nearest(&word, options().map(|option| option.long))?)
}

fn options() -> impl Iterator<Item = &'static Opt> {
    GROUPS.iter().flat_map(|(_, options)| options.iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn meant(unknown: &str) -> Option<&'static str> {
        like(unknown).map(|option| option.long)
    }

    #[test]
    fn slips_and_other_names_are_understood() {
        for (unknown, option) in [
            ("--tpc", "tcp"),
            ("--udb", "udp"),
            ("--TCP", "tcp"),
            ("--verb", "verbose"),
            ("--max-client", "max-clients"),
            ("--max_clients", "max-clients"),
            ("--time-out", "timeout"),
            ("--pid-file", "pidfile"),
            ("--port", "tcp"),
            ("-p", "tcp"),
        ] {
            assert_eq!(meant(unknown), Some(option), "{unknown}");
        }
        for unknown in ["-Z", "--", "--no-such-option", "--at", "--qqq"] {
            assert_eq!(meant(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn other_names_are_names_of_no_option_and_lead_to_one() {
        for (other, name) in ALSO {
            assert!(options().all(|option| option.long != *other), "{other}");
            assert!(options().any(|option| option.long == *name), "{name}");
        }
    }

    proptest! {
        #[test]
        fn one_slip_in_a_long_word_is_understood(index in 0..GROUPS.len(), at in 0_usize..60, kind in 0..3) {
            let all: Vec<_> = GROUPS[index].1.iter().filter(|option| option.long.len() > 6).collect();
            let option = all[at % all.len()].long;
            let cut = 1 + at % (option.len() - 1);
            let (begin, rest) = option.split_at(cut);
            let word = match kind {
                0 => format!("{begin}{}", &rest[1..]),
                1 => format!("{begin}q{rest}"),
                _ => format!("{begin}q{}", &rest[1..]),
            };
            prop_assert_eq!(nearest(&word, [option]), Some(option));
        }
    }
}
