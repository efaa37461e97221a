//! Lists of system calls. A list that is read says what becomes of each call that it names, the rules are those of the
//! program that is compiled from it as far as their size, and faults have lines of the text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skd::config::seccomp::{FilterFile, Purpose};
use skd::sys::seccomp::{Action, Filter, known_calls};

fuzz_target!(|text: &str| {
    let file = FilterFile {
        option: "./list".into(),
        text: text.to_owned(),
    };
    let rules = match file.rules(Purpose::default()) {
        Ok(rules) => rules,
        Err(faults) => {
            let lines = text.split('\n').count();
            assert!(!faults.is_empty());
            for fault in faults {
                assert!(fault.line.is_none_or(|line| (1..=lines).contains(&line)));
                assert!(!fault.why.is_empty() && !fault.why.chars().any(char::is_control));
            }
            return;
        }
    };
    let code = |line: &str| line.split('#').next().unwrap_or_default().to_owned();
    for line in text.split('\n').map(code) {
        let mut words = line.split_ascii_whitespace();
        let expected = match words.next() {
            Some("allow") => Action::Allow,
            Some("kill") => Action::Kill,
            Some("log") => Action::Log,
            _ => continue,
        };
        for word in words {
            if let Some(call) = known_calls().find(|call| call.name == word) {
                assert_eq!(
                    rules.action(call.number, &[u64::MAX; 6]),
                    expected,
                    "{word}"
                );
            }
        }
    }
    // The same with another purpose.
    let sandbox = Purpose {
        sandbox: true,
        own_network: true,
        no_unix_sockets: true,
    };
    assert!(file.rules(sandbox).is_ok());
    for has_listener in [false, true] {
        assert!(Filter::new(rules.clone(), has_listener).is_ok());
    }
});
