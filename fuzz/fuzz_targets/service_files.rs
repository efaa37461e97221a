//! Services in TOML. Any bytes are read, or refused with a location in them. What is read can be printed, unless a
//! path in it isn't UTF-8, and what is printed reads the same.

#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use skd::cli::{parse_toml, print_toml};
use skd::config::{FileTexts, OptionText};

fuzz_target!(|data: &[u8]| {
    let lines = data.split(|&byte| byte == b'\n').count();
    match parse_toml(Path::new("x"), data) {
        Ok(texts) => {
            let locations = texts.services.iter().flat_map(|service| {
                let options = service.options.iter().map(|it| &it.location);
                options.chain([&service.location, &service.command_location])
            });
            for location in locations {
                let line = location.line as usize;
                assert!(
                    (1..=lines).contains(&line) && location.column > 0,
                    "{location}"
                );
            }
            // It came from UTF-8.
            let printed = print_toml(&texts).expect("text");
            let again = parse_toml(Path::new("x"), printed.as_bytes());
            let again = again.unwrap_or_else(|faults| panic!("{faults:?}\n{printed}"));
            assert_eq!(meaning(&again), meaning(&texts), "{printed}");
        }
        Err(faults) => {
            for fault in faults {
                let text = fault.to_string();
                let location = text.strip_prefix("x:").expect("a location");
                let line = location.split(':').next().expect("a line");
                let line: usize = line.parse().expect("a number");
                assert!((1..=lines).contains(&line), "{text}");
            }
        }
    }
});

/// What texts mean: the order of options that repeat each other counts among them, and of listeners and rules.
fn meaning(texts: &FileTexts) -> String {
    let options = |options: &[OptionText]| {
        let mut options: Vec<_> = options.iter().collect();
        options.sort_by_key(|it| match it.name.as_str() {
            "tcp" | "udp" | "inet" | "unix" | "listen-fd" | "systemd" => "a listener",
            "allow" | "deny" => "a rule",
            name => name,
        });
        let values = options
            .iter()
            .map(|it| format!("{}={:?}\n", it.name, it.value));
        values.collect::<String>()
    };
    let services = texts.services.iter().map(|it| {
        let options = options(&it.options);
        format!("{:?} {:?}\n{options}", it.name, it.command)
    });
    let services: String = services.collect();
    options(&texts.daemon) + &services
}
