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

/// A number with its thousands set apart: `1,204`.
#[derive(Clone, Copy, Debug)]
pub struct Grouped(pub u64);

impl fmt::Display for Grouped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < 1000 {
            return write!(f, "{}", self.0);
        }
        write!(f, "{},{:03}", Self(self.0 / 1000), self.0 % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        let written = [0, 999, 1000, 1204, 1_000_000, 12_034_056].map(|n| Grouped(n).to_string());
        assert_eq!(
            written,
            ["0", "999", "1,000", "1,204", "1,000,000", "12,034,056"]
        );
    }

    #[test]
    fn only_one_is_singular() {
        let texts = [0, 1, 2].map(|number| Count(number, "line was", "lines were").to_string());
        assert_eq!(texts, ["0 lines were", "1 line was", "2 lines were"]);
    }
}
