//! Foreign text in the log: one line, whole characters, no control characters, and cut only if it is too long.

#![no_main]

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use skd::report::line::Line;
use skd::report::{Cause, Event, Outcome};
use skd::sys::process::Ended;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    event: u8,
    one: &'a [u8],
    other: &'a [u8],
    number: u32,
    status: u8,
}

fuzz_target!(|input: Input<'_>| {
    let Input {
        event,
        one,
        other,
        number,
        status,
    } = input;
    // File names, arguments and names of interfaces are shown in this form.
    let (one, other) = (
        OsStr::from_bytes(one).display(),
        OsStr::from_bytes(other).display(),
    );
    let ended = if number % 2 == 0 {
        Ended::Exited(status)
    } else {
        Ended::Killed(status.into())
    };
    let after = Duration::from_millis(number.into());
    let outcome = Outcome {
        pid: number as i32,
        ended,
        after,
    };
    let event = match event % 17 {
        0 => Event::Accepted(&one),
        1 => Event::Received(&one),
        2 => Event::Closed(&one, outcome),
        3 => Event::Finished(&one, outcome),
        4 => Event::Places(number as usize, None),
        5 => Event::Places(number as usize, Some(status.into())),
        6 => Event::Full(number as usize),
        7 => Event::Listening(&one),
        8 => Event::ClosedListener(&one),
        9 => Event::PassedOver(&one, &other),
        10 => Event::Started(&one),
        11 => Event::Ended(&one, ended),
        12 => Event::Restarting(&one, after),
        13 => Event::ReadAway {
            peer: &one,
            length: number as usize,
            listener: &other,
            program: &one,
            starts: status.into(),
        },
        14 => Event::Trouble(Cause::Exec, &one),
        _ => return check(&one.to_string(), &format_args!("{one}")),
    };
    check(&event.to_string(), &event);
});

/// Compares a line of the log with its text.
fn check(text: &str, shown: &dyn std::fmt::Display) {
    let mut line = Line::default();
    write!(line, "{shown}").unwrap();
    let line = line.finish();
    assert!(line.len() <= Line::LENGTH);
    let line = std::str::from_utf8(line).expect("characters are whole");
    let line = line.strip_suffix('\n').expect("it ends in a newline");
    assert!(!line.contains(char::is_control), "{line:?}");

    let escaped: String = text
        .chars()
        .map(|character| match character.is_control() {
            true => format!("\\x{:02x}", character as u32),
            false => character.into(),
        })
        .collect();
    if escaped.len() <= Line::LENGTH - "…\n".len() {
        assert_eq!(line, escaped);
    } else {
        let kept = line.strip_suffix('…').expect("what is cut is marked");
        assert!(escaped.starts_with(kept));
        // The cut is minimal: the longest piece has four bytes.
        assert!(kept.len() + 4 > Line::LENGTH - "…\n".len());
    }
}
