//! Foreign text in the log: one line, whole characters, no control characters, and cut only if it is too long.

#![no_main]

use std::ffi::OsStr;
use std::fmt::Write;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use skd::config::{
    BoundAddress, ListenerId, ListenerName, Peer, RuleLocation, ServiceId, Style, UnixAddress,
};
use skd::report::line::Line;
use skd::report::{Client, Event, Outcome, Reason, Trouble};
use skd::sys::process::{Ended, Usage};
use skd::sys::sockets::Credentials;

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
    let program = OsStr::from_bytes(one);
    let text = program.display().to_string();
    let bound_address = BoundAddress::Unix(UnixAddress::Abstract(other.to_vec()));
    let listener = ListenerName(Style::Stream, &bound_address);
    let peer = Peer::UnixStream(Some(Credentials {
        pid: number as i32,
        uid: (number % 3 != 0).then_some(number),
        gid: Some(number),
    }));
    let location = RuleLocation::Option(text.clone());
    let service = ServiceId::new(status.into());
    let ended = if number % 2 == 0 {
        Ended::Exited(status)
    } else {
        Ended::Killed(status.into())
    };
    let after = Duration::from_millis(number.into());
    let outcome = Outcome {
        pid: number as i32,
        ended,
        told: None,
        after,
        usage: Usage::default(),
        out_of_memory: number % 5 == 0,
    };
    let client = Client {
        service,
        listener: ListenerId::new(status.into()),
        peer: &peer,
    };
    let event = match event % 17 {
        0 => Event::Accepted(client),
        1 => Event::Received(client),
        2 => Event::Closed(client, outcome),
        3 => Event::Finished(client, outcome),
        4 => Event::Slots(service, number as usize, None),
        5 => Event::Slots(service, number as usize, Some(status.into())),
        6 => Event::Full(service, number as usize),
        7 => Event::Listening(listener),
        8 => Event::ClosedListener(listener),
        9 => Event::WouldListen(&text),
        10 => Event::Started(program),
        11 => Event::Ended(program, ended),
        12 => Event::Restarting(program, after),
        13 => Event::ReadAway {
            service,
            peer: &peer,
            length: number as usize,
            listener,
            program,
            starts: status.into(),
        },
        14 => Event::Trouble(Trouble::NotPrestartable {
            service,
            program,
            why: &text,
        }),
        15 => Event::Rejected(client, Reason::Rule(&location)),
        _ => {
            // File names, arguments and names of interfaces are shown in this form.
            let one = program.display();
            return check(&one.to_string(), &format_args!("{one}"));
        }
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
