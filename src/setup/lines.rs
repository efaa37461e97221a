//! Lines from a pipe, and what syslog is sent of each: what the relay does, apart from
//! waiting.

use std::io::{self, Read};

use crate::config::Level;

/// Reads lines, and hands on those that are too long in pieces.
#[derive(Debug)]
pub struct Lines {
    buffer: Vec<u8>,
    length: usize,
    /// Whether what comes next belongs to a line of which a piece was handed on.
    continued: bool,
}

/// What the pieces of a line that is too long begin with, but for the first.
const CONTINUED: &[u8] = b"[continued] ";

/// A line, or a piece of one: text that isn't empty, without its newline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// What the writer wrote.
    pub text: &'a [u8],
    /// Whether it goes on where another piece ended.
    pub continued: bool,
}

impl<'a> Piece<'a> {
    /// A line that is short enough.
    pub(super) fn whole(text: &'a [u8]) -> Self {
        Self {
            text,
            continued: false,
        }
    }
}

impl Lines {
    /// The longest line, in bytes, that stays in one piece.
    pub const LONGEST: usize = 8192;

    /// Reads once, and hands on what lines are complete by now; the error is the reader's.
    /// Returns how many bytes were read, 0 at the end.
    ///
    /// A line without text isn't worth it, as in syslog(3) of skd 1.2.
    pub fn read(
        &mut self,
        mut from: impl Read,
        mut deliver: impl FnMut(Piece<'_>),
    ) -> io::Result<usize> {
        let count = from.read(&mut self.buffer[self.length..])?;
        // What was there before has no newline.
        let (mut start, mut new) = (0, self.length);
        self.length += count;
        let Self { buffer, length, .. } = self;
        while let Some(at) = buffer[new..*length].iter().position(|&byte| byte == b'\n') {
            let end = new + at;
            if let Some(piece) = piece(&buffer[start..end], self.continued) {
                deliver(piece);
            }
            self.continued = false;
            start = end + 1;
            new = start;
        }
        buffer.copy_within(start..*length, 0);
        *length -= start;
        if self.length == Self::LONGEST {
            self.finish(deliver);
            self.continued = true;
        }
        Ok(count)
    }

    /// Hands on what is there without a newline.
    pub fn finish(&mut self, mut deliver: impl FnMut(Piece<'_>)) {
        if let Some(piece) = piece(&self.buffer[..self.length], self.continued) {
            deliver(piece);
        }
        self.length = 0;
    }
}

fn piece(text: &[u8], continued: bool) -> Option<Piece<'_>> {
    (!text.is_empty()).then_some(Piece { text, continued })
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            buffer: vec![0; Self::LONGEST],
            length: 0,
            continued: false,
        }
    }
}

/// Writes a message over what is in `buffer` (RFC 3164 §4.1, as syslog(3) does).
pub fn compose(buffer: &mut Vec<u8>, level: Level, time: &str, tag: &[u8], piece: Piece<'_>) {
    buffer.clear();
    let header = format!("<{}>{time} ", level.priority());
    buffer.extend_from_slice(header.as_bytes());
    buffer.extend_from_slice(tag);
    buffer.extend_from_slice(b": ");
    if piece.continued {
        buffer.extend_from_slice(CONTINUED);
    }
    buffer.extend_from_slice(piece.text);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads so many bytes at a time, again and again.
    struct Trickle<'a>(&'a [u8], std::iter::Cycle<std::slice::Iter<'a, usize>>);

    impl Read for Trickle<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let most = self.1.next().copied().unwrap_or(1).min(self.0.len());
            let (now, later) = self.0.split_at(most.min(buffer.len()));
            buffer[..now.len()].copy_from_slice(now);
            self.0 = later;
            Ok(now.len())
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 64 }))]

        #[test]
        fn all_text_is_handed_on_in_order_however_it_comes(
            lines in prop::collection::vec(
                prop_oneof![0..9_usize, Lines::LONGEST - 2..Lines::LONGEST + 3, Just(3 * Lines::LONGEST)],
                0..6,
            ),
            newline_at_the_end in any::<bool>(),
            steps in prop::collection::vec(prop_oneof![1..7_usize, 1..20_000_usize], 1..5),
        ) {
            let lines: Vec<Vec<u8>> = lines
                .iter()
                .enumerate()
                .map(|(number, length)| (0..*length).map(|at| b'a' + ((at + number) % 26) as u8).collect())
                .collect();
            let mut text = lines.join(&b'\n');
            if newline_at_the_end {
                text.push(b'\n');
            }
            let mut found: Vec<Vec<u8>> = Vec::new();
            let mut message = Vec::new();
            let mut deliver = |piece: Piece<'_>| {
                assert!((1..=Lines::LONGEST).contains(&piece.text.len()));
                compose(&mut message, Level::DEFAULT, "Nov 22 09:05:00", b"tag", piece);
                let sent = message.strip_prefix(b"<29>Nov 22 09:05:00 tag: ").unwrap();
                match found.last_mut() {
                    Some(line) if piece.continued => {
                        assert_eq!(line.len() % Lines::LONGEST, 0);
                        line.extend_from_slice(sent.strip_prefix(CONTINUED).unwrap());
                    }
                    _ => {
                        assert!(!piece.continued);
                        found.push(sent.to_vec());
                    }
                }
            };
            let mut reader = Lines::default();
            let mut source = Trickle(&text, steps.iter().cycle());
            while reader.read(&mut source, &mut deliver).unwrap() > 0 {}
            reader.finish(&mut deliver);
            let expected: Vec<Vec<u8>> = lines.into_iter().filter(|line| !line.is_empty()).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
