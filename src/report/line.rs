//! A line of the log, built without allocation. It has no control characters, and fits into one
//! write to a pipe.

use std::fmt;

const CUT: &[u8] = "…".as_bytes();

/// A line that is being built. Text that doesn't fit is cut, and an ellipsis marks it.
#[derive(Debug)]
pub struct Line {
    bytes: [u8; Self::LENGTH],
    length: usize,
    cut: bool,
}

impl Line {
    /// The length of the longest line in bytes, newline included. It is below `PIPE_BUF`, so that
    /// lines of several threads and handlers don't mix.
    pub const LENGTH: usize = 1024;

    /// Ends an earlier line that lacks its newline.
    pub fn separate(&mut self) {
        self.append(b"\n");
    }

    /// Returns the line with its newline. Call it once.
    pub fn finish(&mut self) -> &[u8] {
        if self.cut {
            self.append(CUT);
        }
        self.append(b"\n");
        &self.bytes[..self.length]
    }

    fn append(&mut self, bytes: &[u8]) {
        self.bytes[self.length..self.length + bytes.len()].copy_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Appends bytes that must not be cut, if there is room for them and for what
    /// [`Self::finish`] appends.
    fn push(&mut self, bytes: &[u8]) {
        if self.length + bytes.len() > Self::LENGTH - CUT.len() - 1 {
            self.cut = true;
        }
        if !self.cut {
            self.append(bytes);
        }
    }
}

impl Default for Line {
    fn default() -> Self {
        Self {
            bytes: [0; Self::LENGTH],
            length: 0,
            cut: false,
        }
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match control(character) {
                Some(code) => self.push(&escaped(code)),
                None => self.push(character.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        Ok(())
    }
}

/// Returns the code of a control character, of which none is above U+009F.
pub fn control(character: char) -> Option<u8> {
    let code = u8::try_from(character).ok();
    code.filter(|_| character.is_control())
}

/// Returns how the log shows a control character, or a byte that isn't text.
pub fn escaped(code: u8) -> [u8; 4] {
    let digit = |half: u8| b"0123456789abcdef"[usize::from(half)];
    [b'\\', b'x', digit(code >> 4), digit(code & 0xf)]
}

/// Writes an event into a line with the name of its service in front, or after `skd: `, with which
/// troubles begin.
#[derive(Debug)]
pub struct Named<'a> {
    line: &'a mut Line,
    /// Until it is written.
    name: Option<&'a str>,
}

/// How a line of a trouble begins.
pub(super) const TROUBLE: &str = "skd: ";

impl<'a> Named<'a> {
    /// Has the line begin with this name.
    pub fn new(line: &'a mut Line, name: &'a str) -> Self {
        Self {
            line,
            name: Some(name),
        }
    }

    /// Writes the event.
    pub fn write(&mut self, event: impl fmt::Display) -> fmt::Result {
        fmt::Write::write_fmt(self, format_args!("{event}"))
    }
}

impl fmt::Write for Named<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let Some(name) = self.name.take_if(|_| !text.is_empty()) else {
            return self.line.write_str(text);
        };
        let rest = match text.strip_prefix(TROUBLE) {
            Some(rest) => {
                self.line.write_str(TROUBLE)?;
                rest
            }
            None => text,
        };
        self.line.write_str(name)?;
        self.line.write_str(": ")?;
        self.line.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_service_stands_before_its_events() {
        for (event, expected) in [
            ("Accepted connection", "web: Accepted connection\n"),
            (
                "skd: all slots are taken",
                "skd: web: all slots are taken\n",
            ),
        ] {
            let mut line = Line::default();
            Named::new(&mut line, "web").write(event).unwrap();
            assert_eq!(line.finish(), expected.as_bytes());
        }
    }
    use proptest::prelude::*;
    use std::fmt::Write;

    fn line(text: &str) -> String {
        let mut line = Line::default();
        line.write_str(text).unwrap();
        String::from_utf8(line.finish().to_vec()).unwrap()
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(
            line("a\nb\u{1b}[1m\u{7f}\u{9b}é"),
            "a\\x0ab\\x1b[1m\\x7f\\x9bé\n"
        );
    }

    #[test]
    fn long_text_is_cut_and_marked() {
        let long = line(&"é".repeat(2000));
        assert!(long.len() <= Line::LENGTH);
        assert!(long.ends_with("é…\n"), "{long}");
    }

    proptest! {
        #[test]
        fn any_text_makes_one_line(text in "(.|[\\x00-\\xff\n]){0,3000}") {
            let line = line(&text);
            prop_assert!(line.len() <= Line::LENGTH);
            prop_assert_eq!(line.matches('\n').count(), 1);
            let controls = line.chars().filter(|c| c.is_control()).count();
            prop_assert_eq!(controls, 1);
        }
    }
}
