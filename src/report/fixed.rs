//! Text in a buffer of fixed size, built without allocation.

use std::fmt;

/// What stands at the end of text that was cut.
const CUT: &str = "…";

/// Text of at most `N` bytes. What doesn't fit is cut, and an ellipsis marks it.
#[derive(Debug)]
pub(super) struct FixedText<const N: usize> {
    bytes: [u8; N],
    length: usize,
    cut: bool,
}

impl<const N: usize> FixedText<N> {
    /// Returns text that displays so.
    pub(super) fn of(text: impl fmt::Display) -> Self {
        let mut fixed = Self::default();
        // Writing to it can't fail.
        let _ = fmt::Write::write_fmt(&mut fixed, format_args!("{text}"));
        fixed
    }

    /// Returns the text.
    pub(super) fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl<const N: usize> Default for FixedText<N> {
    fn default() -> Self {
        Self {
            bytes: [0; N],
            length: 0,
            cut: false,
        }
    }
}

impl<const N: usize> fmt::Write for FixedText<N> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.cut {
            return Ok(());
        }
        let room = N - CUT.len() - self.length;
        let fits = cut(text, room);
        self.cut = fits.len() < text.len();
        for text in [fits, if self.cut { CUT } else { "" }] {
            self.bytes[self.length..self.length + text.len()].copy_from_slice(text.as_bytes());
            self.length += text.len();
        }
        Ok(())
    }
}

/// Returns as many characters from the beginning as fit into so many bytes.
pub(super) fn cut(text: &str, length: usize) -> &str {
    if text.len() <= length {
        return text;
    }
    let end = (0..=length).rev().find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or_default()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn long_text_is_cut_between_characters_and_marked() {
        assert_eq!(FixedText::<8>::of("12345").as_str(), "12345");
        assert_eq!(FixedText::<8>::of("123456").as_str(), "12345…");
        assert_eq!(FixedText::<8>::of("ééé").as_str(), "éé…");
    }

    proptest! {
        #[test]
        fn it_is_the_text_or_its_beginning(parts in prop::collection::vec(".{0,9}", 0..9)) {
            let mut fixed = FixedText::<24>::default();
            for part in &parts {
                fmt::Write::write_str(&mut fixed, part).unwrap();
            }
            let (text, whole) = (fixed.as_str(), parts.concat());
            match text.strip_suffix(CUT) {
                Some(begin) if fixed.cut => prop_assert!(whole.starts_with(begin)),
                _ => prop_assert_eq!(text, whole),
            }
        }
    }
}
