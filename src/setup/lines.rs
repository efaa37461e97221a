//! Splitting the input of the relay into lines, and composing what is written for each: a line of
//! the log file or a message to syslog.

use std::io::{self, Read, Write};
use std::time::Duration;

use nix::errno::Errno;

use crate::config::Level;
use crate::sys::names::LocalTime;

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
    /// The maximum length of a piece in bytes.
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
        let Self { buffer, length, .. } = self;
        while let Some(at) = buffer[new..*length].iter().position(|&byte| byte == b'\n') {
            let end = new + at;
            while end - start > Self::LONGEST {
                let cut = start + Self::LONGEST;
                if let Some(piece) = piece(&buffer[start..cut], self.continued) {
                    deliver(piece);
                }
                self.continued = true;
                start = cut;
            }
            if let Some(piece) = piece(&buffer[start..end], self.continued) {
                deliver(piece);
            }
            self.continued = false;
            start = end + 1;
            new = start;
        }
        while *length - start >= Self::LONGEST {
            let end = start + Self::LONGEST;
            if let Some(piece) = piece(&buffer[start..end], self.continued) {
                deliver(piece);
            }
            self.continued = true;
            start = end;
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

/// Appends a line of the log file: the time, a space, the text and a newline.
pub(super) fn append(buffer: &mut Vec<u8>, time: LocalTime, piece: Piece<'_>) {
    // Writing to a Vec can't fail.
    let _ = write!(buffer, "{time} ");
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
    buffer.extend_from_slice(piece.text);
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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 1 } else { 64 }))]

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
