//! A command as one text.

use super::Refused;

/// Splits a command into words as a shell does, without any expansion: blanks separate words; what
/// is between quotes, or after a backslash, is taken as it is.
pub fn words(text: &[u8]) -> Result<Vec<Vec<u8>>, Refused> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = None;
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        match (quote, byte) {
            (Some(end), _) if byte == end => quote = None,
            (Some(b'\''), _) => word.get_or_insert_default().push(byte),
            (_, b'\\') => {
                let escaped = bytes
                    .next()
                    .ok_or(Refused::because("it ends in a backslash"))?;
                let word = word.get_or_insert_default();
                if quote.is_some() && !matches!(escaped, b'"' | b'\\' | b'$' | b'`') {
                    word.push(b'\\');
                }
                word.push(escaped);
            }
            (None, b'\'' | b'"') => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (None, b' ' | b'\t' | b'\n') => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    if quote.is_some() {
        return Err(Refused::because("a quote isn't closed"));
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_a_shell_does() {
        let split = |text: &str| {
            let words = words(text.as_bytes()).unwrap();
            let words = words
                .into_iter()
                .map(|word| String::from_utf8(word).unwrap());
            words.collect::<Vec<_>>()
        };
        assert_eq!(split(" a  b\t"), ["a", "b"]);
        assert_eq!(
            split(r#"'a b' "c \" \n" d\ e '' f"g"h"#),
            ["a b", r#"c " \n"#, "d e", "", "fgh"]
        );
        assert_eq!(split(r#""\$x \`" '\$x'"#), ["$x `", r"\$x"]);
        assert!(split("").is_empty());
        assert!(words(b"'a").is_err() && words(b"a\\").is_err());
    }
}
