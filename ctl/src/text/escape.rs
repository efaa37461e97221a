//! Strings that are safe for a terminal. Clients choose some of them: names of users, paths of unix
//! sockets, what a program has written.

use std::fmt::Write;

/// Returns text in which characters that a terminal acts on, or that change the order or the look of
/// others, are written as escapes.
pub(crate) fn escaped(text: &str) -> String {
    escaped_with(text, |out, c| {
        let _ = write!(out, "{}", c.escape_unicode());
    })
}

/// Returns a line of JSON in which such characters are written as JSON has it. There they occur in
/// strings alone.
pub(crate) fn escaped_json(line: &str) -> String {
    escaped_with(line, |out, c| {
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(out, "\\u{unit:04x}");
        }
    })
}

fn escaped_with(text: &str, write: impl Fn(&mut String, char)) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if harmful(c) {
            write(&mut out, c);
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether a terminal does something else with it than show it.
fn harmful(c: char) -> bool {
    c.is_control()
        || matches!(c,
            // Marks and overrides of the direction, separators of lines, and what has no width.
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{61c}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_reaches_the_terminal_that_it_acts_on() {
        assert_eq!(
            escaped("web für 网 -_/@[::1]:80"),
            "web für 网 -_/@[::1]:80"
        );
        assert_eq!(
            escaped("\x1b[2J\u{9b}1m\r\n\t\x7f\u{202e}"),
            "\\u{1b}[2J\\u{9b}1m\\u{d}\\u{a}\\u{9}\\u{7f}\\u{202e}"
        );
    }

    #[test]
    fn json_stays_json() {
        let line = serde_json::to_string("a\u{9b}\u{7f}\u{e0001}ü").unwrap();
        let safe = escaped_json(&line);
        assert_eq!(safe, "\"a\\u009b\\u007f\\udb40\\udc01ü\"");
        assert_eq!(
            serde_json::from_str::<String>(&safe).unwrap(),
            "a\u{9b}\u{7f}\u{e0001}ü"
        );
    }
}
