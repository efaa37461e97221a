//! Splitting the input of the relay into lines, and composing what is written for each: a line of
//! the log file or a message to syslog.

use std::io::{self, Read, Write};
use std::time::Duration;

use nix::errno::Errno;

use crate::config::Level;
use crate::report::Time;
use crate::report::line::{control, escaped};

/// How long to wait for a reader that doesn't read, before lines are dropped.
pub(super) const TIMEOUT: Duration = Duration::from_secs(1);

/// What the relay writes lines to.
pub(super) trait Output {
    /// Takes a line or a piece of one.
    fn deliver(&mut self, piece: Piece<'_>);

    /// Writes what was taken, as far as possible.
    fn flush(&mut self) {}

    /// Whether lines were lost and that wasn't reported yet.
    fn has_lost(&self) -> bool;

    /// Reports how many lines were lost, if that is possible by now.
    fn report_lost(&mut self);

    /// Opens the file again.
    fn reopen(&mut self) {}

    /// Empties the file.
    fn empty(&mut self) -> Result<(), Errno> {
        Ok(())
    }
}

/// Reads lines. Lines that are too long are split into pieces.
#[derive(Debug)]
pub struct Lines {
    buffer: Vec<u8>,
    length: usize,
    /// Whether the next text continues a line of which a piece was delivered.
    continued: bool,
}

/// The beginning of all pieces of a split line but the first.
const CONTINUED: &[u8] = b"[continued] ";

/// A line or a piece of one. The text isn't empty and has no newline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    /// The text.
    pub text: &'a [u8],
    /// Whether it continues another piece.
    pub continued: bool,
}

impl<'a> Piece<'a> {
    /// Returns the piece of a line that isn't split.
    pub(super) fn whole(text: &'a [u8]) -> Self {
        Self {
            text,
            continued: false,
        }
    }
}

impl Lines {
    /// The maximum length of a piece in bytes, before anything in it is escaped.
    pub const LONGEST: usize = 8192;

    /// The number of bytes that are read at once, at the most. At the least it is `LONGEST` less,
    /// and thus no less than a page: a handler can make its writes to the pipe packets (pipe(2),
    /// `O_DIRECT`), and a read loses what it has no space for of those.
    pub const CAPACITY: usize = 4 * Self::LONGEST;

    /// Reads once and delivers all complete lines. Returns the number of bytes read, 0 at the end.
    /// The error is the reader's.
    ///
    /// Empty lines are dropped, as in skd 1.2.
    pub fn read(
        &mut self,
        mut from: impl Read,
        mut deliver: impl FnMut(Piece<'_>),
    ) -> io::Result<usize> {
        let count = from.read(&mut self.buffer[self.length..])?;
        // The text from earlier reads has no newline.
        let (mut start, mut new) = (0, self.length);
        self.length += count;
        let Self {
            buffer,
            length,
            continued,
        } = self;
        loop {
            let newline = buffer[new..*length].iter().position(|&byte| byte == b'\n');
            let end = newline.map_or(*length, |at| new + at);
            while end - start > Self::LONGEST {
                let cut = start + cut(&buffer[start..end]);
                if let Some(piece) = piece(&buffer[start..cut], *continued) {
                    deliver(piece);
                }
                *continued = true;
                start = cut;
            }
            if newline.is_none() {
                break;
            }
            if let Some(piece) = piece(&buffer[start..end], *continued) {
                deliver(piece);
            }
            *continued = false;
            start = end + 1;
            new = start;
        }
        buffer.copy_within(start..*length, 0);
        *length -= start;
        Ok(count)
    }

    /// Delivers the text that has no newline.
    pub fn finish(&mut self, mut deliver: impl FnMut(Piece<'_>)) {
        if let Some(piece) = piece(&self.buffer[..self.length], self.continued) {
            deliver(piece);
        }
        self.length = 0;
    }
}

/// Returns where text that is too long is split: at the limit, or before the character of UTF-8 that
/// is across it.
fn cut(text: &[u8]) -> usize {
    const CONTINUES: u8 = 0b1000_0000;
    let begins = |at: &usize| text[*at] & 0b1100_0000 != CONTINUES;
    let mut near = (Lines::LONGEST - 3..=Lines::LONGEST).rev();
    near.find(begins).unwrap_or(Lines::LONGEST)
}

fn piece(text: &[u8], continued: bool) -> Option<Piece<'_>> {
    (!text.is_empty()).then_some(Piece { text, continued })
}

impl Default for Lines {
    fn default() -> Self {
        Self {
            buffer: vec![0; Self::CAPACITY],
            length: 0,
            continued: false,
        }
    }
}

/// Appends a line of the log file: the time and a space if there is a time, the text and a newline.
pub(super) fn append(buffer: &mut Vec<u8>, time: Option<Time>, piece: Piece<'_>) {
    if let Some(time) = time {
        // Writing to a Vec can't fail.
        let _ = write!(buffer, "{time} ");
    }
    append_text(buffer, piece);
    buffer.push(b'\n');
}

/// Composes a message in `buffer`, in the format of syslog(3) (RFC 3164 §4.1).
pub fn compose(buffer: &mut Vec<u8>, level: Level, time: &str, tag: &[u8], piece: Piece<'_>) {
    buffer.clear();
    let header = format!("<{}>{time} ", level.priority());
    buffer.extend_from_slice(header.as_bytes());
    buffer.extend_from_slice(tag);
    buffer.extend_from_slice(b": ");
    append_text(buffer, piece);
}

fn append_text(buffer: &mut Vec<u8>, piece: Piece<'_>) {
    if piece.continued {
        buffer.extend_from_slice(CONTINUED);
    }
    append_escaped(buffer, piece.text);
}

/// Appends text as a terminal can show it: control characters other than tab are escaped, and so
/// are bytes that aren't UTF-8.
fn append_escaped(buffer: &mut Vec<u8>, text: &[u8]) {
    let hidden = |character: char| control(character).filter(|code| *code != b'\t');
    for chunk in text.utf8_chunks() {
        for part in chunk.valid().split_inclusive(|it| hidden(it).is_some()) {
            let end = part.char_indices().next_back();
            match end.and_then(|(at, last)| Some((at, hidden(last)?))) {
                Some((at, code)) => {
                    buffer.extend_from_slice(&part.as_bytes()[..at]);
                    buffer.extend_from_slice(&escaped(code));
                }
                None => buffer.extend_from_slice(part.as_bytes()),
            }
        }
        let bytes = chunk.invalid().iter();
        buffer.extend(bytes.flat_map(|byte| escaped(*byte)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads these numbers of bytes, repeatedly.
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

    fn shown(text: &[u8]) -> String {
        let mut shown = Vec::new();
        append_text(&mut shown, Piece::whole(text));
        String::from_utf8(shown).unwrap()
    }

    #[test]
    fn text_and_tabs_stay_and_all_else_is_escaped() {
        for (text, expected) in [
            ("a\tb é 日 \\x1b".as_bytes(), "a\tb é 日 \\x1b"),
            (b"\x1b[2J\x07\0\x7f\r", r"\x1b[2J\x07\x00\x7f\x0d"),
            ("a\u{9b}31m\u{85}".as_bytes(), r"a\x9b31m\x85"),
            (b"\xe9t\xe9 \xff\xc3", r"\xe9t\xe9 \xff\xc3"),
            (b"\xed\xa0\x80", r"\xed\xa0\x80"),
        ] {
            assert_eq!(shown(text), expected);
        }
    }

    #[test]
    fn a_character_is_not_split() {
        for before in Lines::LONGEST - 5..=Lines::LONGEST {
            for character in ["é", "日", "🦀"] {
                let line = format!("{}{}", "x".repeat(before), character.repeat(4));
                let mut found = String::new();
                let mut reader = Lines::default();
                let mut deliver =
                    |piece: Piece<'_>| found += std::str::from_utf8(piece.text).unwrap();
                reader.read(line.as_bytes(), &mut deliver).unwrap();
                reader.finish(&mut deliver);
                assert_eq!(found, line);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 64 }))]

        #[test]
        fn any_text_is_shown_as_one_line_of_text(
            text in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let shown = shown(&text);
            prop_assert!(shown.chars().all(|it| it == '\t' || !it.is_control()), "{shown:?}");
        }

        #[test]
        fn all_text_is_delivered_in_order_however_it_comes(
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
