//! Numbers before nouns, in messages.

use std::fmt;

/// A number and its noun, which may have more words that depend on the number: `1 handler has`,
/// `2 handlers have`.
#[derive(Clone, Copy, Debug)]
pub struct Count<N>(pub N, pub &'static str, pub &'static str);

impl<N: fmt::Display + PartialEq + From<u8>> fmt::Display for Count<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, one, more) = self;
        write!(
            f,
            "{number} {}",
            if *number == N::from(1) { one } else { more }
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_is_singular() {
        let texts = [0, 1, 2].map(|number| Count(number, "line was", "lines were").to_string());
        assert_eq!(texts, ["0 lines were", "1 line was", "2 lines were"]);
    }
}
