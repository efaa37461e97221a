//! Escapes for special characters: `\r`, `\n`, `\t`, `\\`, `\"`, and any byte as `\xHH`.

use std::fmt;

use super::Refused;

/// The bytes with a letter of their own.
const LETTERS: [(u8, u8); 5] = [
    (b'r', b'\r'),
    (b'n', b'\n'),
    (b't', b'\t'),
    (b'\\', b'\\'),
    (b'"', b'"'),
];

/// Returns the bytes of a text with escapes.
pub fn unescape(text: &str) -> Result<Vec<u8>, Refused> {
    let mut found = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = match byte {
            b'\\' => {
                let (byte, after) = escaped(after)?;
                found.push(byte);
                after
            }
            byte => {
                found.push(*byte);
                after
            }
        };
    }
    Ok(found)
}

/// Parses what follows a backslash. Returns the byte and the rest.
pub(super) fn escaped(after: &[u8]) -> Result<(u8, &[u8]), Refused> {
    let known = |letter: u8| LETTERS.iter().find(|(known, _)| *known == letter);
    let digit = |byte: u8| char::from(byte).to_digit(16);
    match after {
        [b'x', high, low, rest @ ..] => {
            if let (Some(high), Some(low)) = (digit(*high), digit(*low)) {
                return Ok(((high * 16 + low) as u8, rest));
            }
        }
        [letter, rest @ ..] => {
            if let Some((_, byte)) = known(*letter) {
                return Ok((*byte, rest));
            }
        }
        [] => {}
    }
    Err(Refused(
        r#"after a backslash comes r, n, t, a backslash, a double quote, or x and two hexadecimal digits"#
            .into(),
    ))
}

/// Formats bytes in double quotes, on one line. Bytes that aren't printable are escaped.
pub fn quoted(bytes: &[u8]) -> impl fmt::Display {
    Quoted(bytes)
}

struct Quoted<'a>(&'a [u8]);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"")?;
        for chunk in self.0.utf8_chunks() {
            for letter in chunk.valid().chars() {
                let known = LETTERS.iter().find(|(_, byte)| letter == char::from(*byte));
                match known {
                    Some((escape, _)) => write!(f, "\\{}", char::from(*escape))?,
                    None if letter.is_control() => {
                        for byte in letter.encode_utf8(&mut [0; 4]).bytes() {
                            write!(f, "\\x{byte:02x}")?;
                        }
                    }
                    None => write!(f, "{letter}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        f.write_str("\"")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escapes_stand_for_bytes() {
        assert_eq!(
            unescape(r#"421 no\r\n\t\\\"\x7f\xfF"#).unwrap(),
            b"421 no\r\n\t\\\"\x7f\xff"
        );
        assert_eq!(unescape("").unwrap(), b"");
        for text in [
            "\\", "a\\", "\\a", "\\x", "\\x1", "\\xg0", "\\x+1", "\\\u{e9}",
        ] {
            assert!(unescape(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_quoted_reads_back_from_one_line(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            let text = quoted(&bytes).to_string();
            prop_assert!(!text.chars().any(char::is_control), "{text:?}");
            let inside = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap();
            prop_assert_eq!(unescape(inside), Ok(bytes));
        }

        #[test]
        fn what_is_read_reads_the_same_when_quoted(
            text in r#"([^\\]|\\[\\rnt"]|\\x[0-9a-fA-F]{2}){0,6}|[\\rntx"0-9a]{0,8}"#,
        ) {
            if let Ok(bytes) = unescape(&text) {
                let again = quoted(&bytes).to_string();
                prop_assert_eq!(unescape(&again[1..again.len() - 1]), Ok(bytes));
            }
        }
    }
}
