//! The names of certificates in text, as RFC 4514 has them: `CN=alice,O=Example,C=DE`.
//!
//! An authority has signed them, but what a client has asked it to sign may still be meant to deceive: no
//! control character, and nothing that changes the direction of text, goes into a variable or the log. Each
//! byte of such a character is written as a backslash and two hexadecimal digits.

use std::borrow::Cow;
use std::fmt::Write;

use x509_parser::asn1_rs::{Any, Tag};
use x509_parser::oid_registry::OID_X509_COMMON_NAME;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// The maximum length of a name in text, in bytes.
pub(crate) const MAX_NAME: usize = 1000;

/// The attributes that have a short name: those of RFC 4514, and what OpenSSL adds to them.
const SHORT_NAMES: [(&str, &str); 14] = [
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "STREET"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.42", "GN"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
];

/// Text that ends before it is too long: between characters, and never inside the escape of one.
#[derive(Debug, Default)]
struct Bounded {
    text: String,
    is_full: bool,
}

impl Bounded {
    fn push(&mut self, piece: &str) {
        self.is_full |= self.text.len() + piece.len() > MAX_NAME;
        if !self.is_full {
            self.text.push_str(piece);
        }
    }

    /// Writes the bytes of a character, each as a backslash and two hexadecimal digits.
    fn push_hex(&mut self, character: char) {
        let mut escape = String::with_capacity(12);
        for byte in character.encode_utf8(&mut [0; 4]).bytes() {
            let _ = write!(escape, "\\{byte:02X}");
        }
        self.push(&escape);
    }

    fn push_plain(&mut self, character: char) {
        self.push(character.encode_utf8(&mut [0; 4]));
    }
}

/// Returns a name in text. A name that is too long is cut.
pub(crate) fn name(name: &X509Name<'_>) -> String {
    let mut to = Bounded::default();
    // The most specific part is the last in a certificate, and the first in text.
    let parts: Vec<_> = name.iter().collect();
    for (index, part) in parts.into_iter().rev().enumerate() {
        for (nth, attribute) in part.iter().enumerate() {
            to.push(match (index, nth) {
                (0, 0) => "",
                (_, 0) => ",",
                _ => "+",
            });
            write_attribute(&mut to, attribute);
        }
        if to.is_full {
            break;
        }
    }
    to.text
}

/// Returns the most specific common name of a name, without the escapes of a list: only what isn't text is
/// escaped, and the backslash.
pub(crate) fn common_name(name: &X509Name<'_>) -> Option<String> {
    let attribute = name
        .iter_attributes()
        .filter(|it| *it.attr_type() == OID_X509_COMMON_NAME)
        .last()?;
    let text = text(attribute.attr_value())?;
    let mut to = Bounded::default();
    for character in text.chars() {
        if character == '\\' || is_deceptive(character) {
            to.push_hex(character);
        } else {
            to.push_plain(character);
        }
    }
    Some(to.text)
}

fn write_attribute(to: &mut Bounded, attribute: &AttributeTypeAndValue<'_>) {
    let oid = attribute.attr_type().to_id_string();
    let short = SHORT_NAMES.iter().find(|(its, _)| *its == oid);
    to.push(short.map_or(&oid, |(_, name)| name));
    to.push("=");
    let value = attribute.attr_value();
    match text(value) {
        Some(text) => write_value(to, &text),
        // What isn't text is written as RFC 4514 has it, but for the header.
        None => {
            to.push("#");
            for byte in value.data {
                to.push(&format!("{byte:02X}"));
                if to.is_full {
                    break;
                }
            }
        }
    }
}

fn write_value(to: &mut Bounded, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (index, character) in value.chars().enumerate() {
        let is_special = match character {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => true,
            '#' => index == 0,
            ' ' => index == 0 || index == last,
            _ => false,
        };
        if is_deceptive(character) {
            to.push_hex(character);
        } else if is_special {
            to.push(&format!("\\{character}"));
        } else {
            to.push_plain(character);
        }
        if to.is_full {
            break;
        }
    }
}

/// Whether a character controls how text is shown, and isn't text itself.
fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Returns the text of a value, if it is of a kind of text. What can't be decoded is replaced.
fn text<'a>(value: &Any<'a>) -> Option<Cow<'a, str>> {
    let bytes = value.data;
    Some(match value.tag() {
        Tag::Utf8String | Tag::PrintableString | Tag::Ia5String | Tag::NumericString => {
            String::from_utf8_lossy(bytes)
        }
        // The alphabet of these was never agreed on: what is written in them is Latin-1.
        Tag::TeletexString | Tag::VisibleString => {
            bytes.iter().map(|byte| char::from(*byte)).collect()
        }
        Tag::BmpString => {
            let units = bytes
                .chunks_exact(2)
                .map(|it| u16::from_be_bytes([it[0], it[1]]));
            char::decode_utf16(units)
                .map(|it| it.unwrap_or(char::REPLACEMENT_CHARACTER))
                .collect()
        }
        Tag::UniversalString => bytes
            .chunks_exact(4)
            .map(|it| u32::from_be_bytes([it[0], it[1], it[2], it[3]]))
            .map(|it| char::from_u32(it).unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use x509_parser::prelude::FromDer;

    use super::*;

    /// An element of DER.
    fn der(tag: u8, contents: &[u8]) -> Vec<u8> {
        let length = contents.len();
        let mut bytes = vec![tag];
        if length < 128 {
            bytes.push(length as u8);
        } else {
            bytes.push(0x82);
            bytes.extend((length as u16).to_be_bytes());
        }
        bytes.extend(contents);
        bytes
    }

    fn attribute(oid: &[u8], tag: u8, value: &[u8]) -> Vec<u8> {
        der(0x30, &[der(6, oid), der(tag, value)].concat())
    }

    const CN: &[u8] = &[0x55, 4, 3];
    const O: &[u8] = &[0x55, 4, 10];

    /// The text and common name of a name with these parts, the most general one first.
    fn texts(parts: &[Vec<u8>]) -> (String, Option<String>) {
        let parts: Vec<_> = parts.iter().map(|part| der(0x31, part)).collect();
        let bytes = der(0x30, &parts.concat());
        let (_, it) = X509Name::from_der(&bytes).unwrap();
        (name(&it), common_name(&it))
    }

    #[test]
    fn the_most_specific_part_is_the_first() {
        let (text, common) = texts(&[
            attribute(&[0x55, 4, 6], 0x13, b"DE"),
            attribute(O, 12, b"Doe, Inc"),
            [
                attribute(CN, 12, b"alice"),
                attribute(&[0x55, 4, 5], 0x13, b"7"),
            ]
            .concat(),
        ]);
        assert_eq!(text, "CN=alice+serialNumber=7,O=Doe\\, Inc,C=DE");
        assert_eq!(common.as_deref(), Some("alice"));
    }

    #[test]
    fn of_several_common_names_the_most_specific_one_counts() {
        let (text, common) = texts(&[attribute(CN, 12, b"first"), attribute(CN, 12, b"last")]);
        assert_eq!(text, "CN=last,CN=first");
        assert_eq!(common.as_deref(), Some("last"));
        assert_eq!(texts(&[attribute(O, 12, b"x")]).1, None);
    }

    #[test]
    fn nothing_that_deceives_is_left() {
        let (text, common) = texts(&[attribute(CN, 12, "a\nb\0\u{202e}c\u{85}\\,".as_bytes())]);
        assert_eq!(text, "CN=a\\0Ab\\00\\E2\\80\\AEc\\C2\\85\\\\\\,");
        assert_eq!(common.unwrap(), "a\\0Ab\\00\\E2\\80\\AEc\\C2\\85\\5C,");
        let (text, _) = texts(&[attribute(CN, 12, b" #a b ")]);
        assert_eq!(text, "CN=\\ #a b\\ ");
        let (text, _) = texts(&[attribute(CN, 12, b"#a")]);
        assert_eq!(text, "CN=\\#a");
    }

    #[test]
    fn other_alphabets_are_read() {
        let bmp: Vec<u8> = "Zoë".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(texts(&[attribute(CN, 0x1e, &bmp)]).0, "CN=Zoë");
        let wide: Vec<u8> = "Zoë"
            .chars()
            .flat_map(|it| u32::from(it).to_be_bytes())
            .collect();
        assert_eq!(texts(&[attribute(CN, 0x1c, &wide)]).0, "CN=Zoë");
        assert_eq!(texts(&[attribute(CN, 0x14, b"Zo\xeb")]).0, "CN=Zoë");
        assert_eq!(texts(&[attribute(CN, 12, b"Zo\xeb")]).0, "CN=Zo\u{fffd}");
        assert_eq!(
            texts(&[attribute(&[0x2a, 3], 4, b"\x01\xff")]).0,
            "1.2.3=#01FF"
        );
    }

    #[test]
    fn long_names_are_cut_between_characters_and_escapes() {
        for value in ["é", "\n", ",", "\u{2028}"] {
            let value = value.repeat(5000);
            let (text, common) = texts(&[attribute(CN, 12, value.as_bytes())]);
            for text in [text, common.unwrap()] {
                assert!(
                    text.len() <= MAX_NAME && text.len() > MAX_NAME - 12,
                    "{text}"
                );
                let rest = text.trim_start_matches("CN=");
                for whole in ["é", "\\0A", "\\,", "\\E2\\80\\A8", ","] {
                    if rest.starts_with(whole) {
                        assert_eq!(rest, whole.repeat(rest.len() / whole.len()));
                    }
                }
            }
        }
    }
}
