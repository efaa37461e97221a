//! results.json, with a line for each point.

use std::io::{self, Write};

use anyhow::Result;
use serde::Serialize;
use serde_json::ser::{CompactFormatter, Formatter, Serializer};

use crate::results::Results;

pub(super) fn text(results: &Results) -> Result<Vec<u8>> {
    let mut text = Vec::new();
    let lines = Lines::default();
    results.serialize(&mut Serializer::with_formatter(&mut text, lines))?;
    text.push(b'\n');
    Ok(text)
}

/// A JSON formatter that begins a line for each value of the outer two levels.
#[derive(Default)]
struct Lines {
    depth: usize,
    /// Nothing has been written since the last bracket was opened.
    empty: bool,
}

const BROKEN: usize = 2;

impl Lines {
    fn open<W: ?Sized + Write>(&mut self, to: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        to.write_all(bracket)
    }

    fn close<W: ?Sized + Write>(&mut self, to: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if self.depth < BROKEN && !std::mem::take(&mut self.empty) {
            self.begin_line(to)?;
        }
        to.write_all(bracket)
    }

    fn separate<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.empty = false;
        if !first {
            to.write_all(b",")?;
        }
        if self.depth <= BROKEN {
            self.begin_line(to)
        } else if first {
            Ok(())
        } else {
            to.write_all(b" ")
        }
    }

    fn begin_line<W: ?Sized + Write>(&self, to: &mut W) -> io::Result<()> {
        to.write_all(b"\n")?;
        to.write_all(" ".repeat(self.depth).as_bytes())
    }
}

impl Formatter for Lines {
    fn begin_array<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.open(to, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.close(to, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.separate(to, first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.open(to, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        self.close(to, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, to: &mut W, first: bool) -> io::Result<()> {
        self.separate(to, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, to: &mut W) -> io::Result<()> {
        CompactFormatter.begin_object_value(to)?;
        to.write_all(b" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_have_a_line_each() -> Result<()> {
        let value = serde_json::json!({"a": [[1, [2, 3]], {"b": 4}], "c": [], "d": {"e": [5]}});
        let mut text = Vec::new();
        value.serialize(&mut Serializer::with_formatter(&mut text, Lines::default()))?;
        let expected = r#"{
 "a": [
  [1, [2, 3]],
  {"b": 4}
 ],
 "c": [],
 "d": {
  "e": [5]
 }
}"#;
        assert_eq!(String::from_utf8(text)?, expected);
        Ok(())
    }
}
