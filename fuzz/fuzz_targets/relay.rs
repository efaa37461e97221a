//! The output of handlers on its way to syslog. However it arrives, all text is sent, in order, line by line, in
//! pieces of limited length, without control characters.

#![no_main]

use std::io::{self, Read};

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use skd::config::Level;
use skd::setup::lines::{Lines, Piece, compose};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    /// The number of bytes of each read, in a cycle; 0 is an interrupted read.
    reads: &'a [u8],
    /// Text, and how often it is repeated, to reach the length of lines that are split.
    text: Vec<(u8, &'a [u8])>,
    tag: &'a [u8],
    level: (u8, u8),
}

struct Pipe<'a> {
    rest: &'a [u8],
    reads: std::iter::Cycle<std::slice::Iter<'a, u8>>,
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        assert!(!buffer.is_empty(), "an end that is none");
        let most = match self.reads.next() {
            Some(0) => return Err(io::ErrorKind::Interrupted.into()),
            Some(&most) if most < 128 => most.into(),
            Some(&most) => usize::from(most) * 128,
            None => usize::MAX,
        };
        let (now, later) = self
            .rest
            .split_at(most.min(buffer.len()).min(self.rest.len()));
        buffer[..now.len()].copy_from_slice(now);
        self.rest = later;
        Ok(now.len())
    }
}

fuzz_target!(|input: Input<'_>| {
    let Input {
        reads,
        text,
        tag,
        level,
    } = input;
    let text: Vec<u8> = text
        .iter()
        .flat_map(|(times, part)| part.repeat((*times).into()))
        .collect();
    if text.len() > 8 * Lines::LONGEST {
        return;
    }
    let only_interrupted = reads.iter().all(|most| *most == 0);
    let reads = if only_interrupted { &[] } else { reads };
    let level = Level {
        facility: level.0 % 24,
        severity: level.1 % 8,
    };
    let time = "Nov 22 09:05:00";
    let header = [
        format!("<{}>{time} ", level.priority()).as_bytes(),
        tag,
        b": ",
    ]
    .concat();

    let mut sent: Vec<Vec<u8>> = Vec::new();
    let mut message = Vec::new();
    let mut last = 0;
    let mut deliver = |piece: Piece<'_>| {
        assert!((1..=Lines::LONGEST).contains(&piece.text.len()));
        assert!(!piece.text.contains(&b'\n'));
        compose(&mut message, level, time, tag, piece);
        let text = message
            .strip_prefix(&*header)
            .expect("a header as in RFC 3164");
        let shown = std::str::from_utf8(text).expect("what isn't text is escaped");
        assert!(shown.chars().all(|it| it == '\t' || !it.is_control()));
        match sent.last_mut() {
            Some(line) if piece.continued => {
                // Only a line that is too long is split, and only at a character near the limit.
                assert!(last > Lines::LONGEST - 4);
                assert!(text.starts_with(b"[continued] "), "it is marked");
                line.extend_from_slice(piece.text);
            }
            _ => {
                assert!(!piece.continued);
                sent.push(piece.text.to_vec());
            }
        }
        last = piece.text.len();
    };
    let mut lines = Lines::default();
    let mut pipe = Pipe {
        rest: &text,
        reads: reads.iter().cycle(),
    };
    loop {
        match lines.read(&mut pipe, &mut deliver) {
            Ok(0) => break,
            Ok(_) => {}
            Err(reason) => assert_eq!(reason.kind(), io::ErrorKind::Interrupted),
        }
    }
    lines.finish(&mut deliver);
    let written = text
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty());
    assert!(written.eq(sent.iter()), "{} bytes", text.len());
});
