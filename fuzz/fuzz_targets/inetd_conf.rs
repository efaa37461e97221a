//! The file of inetd(8). Any text is read or refused: each service has a command, and all locations are in the text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skd::cli::files::inetd_conf::parse;

fuzz_target!(|text: &[u8]| {
    let mut faults = Vec::new();
    let services = parse(text, &mut faults);
    let lines = 1..=text.split(|byte| *byte == b'\n').count() as u32;
    for service in &services {
        assert!(!service.command.is_empty());
        for option in &service.options {
            assert!(lines.contains(&option.location.line));
        }
        for (location, note) in &service.notes {
            assert!(lines.contains(&location.line) && !note.contains('\n'));
        }
        let same = services.iter().filter(|other| other.name == service.name);
        assert_eq!(same.count(), 1);
    }
    for fault in faults {
        assert!(fault.to_string().starts_with("inetd.conf:"));
    }
});
