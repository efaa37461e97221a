//! The word that was probably meant by an unknown one.

/// Returns the one of `words` that is most like an unknown word, if one is like it.
pub fn nearest<'a>(unknown: &str, words: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = words
        .into_iter()
        .map(|word| (distance(unknown, word), word));
    let (errors, word) = near.min_by_key(|(errors, _)| *errors)?;
    (errors <= allowed(word)).then_some(word)
}

/// One slip in a short word, two in a longer one.
fn allowed(word: &str) -> usize {
    if word.len() <= 4 { 1 } else { 2 }
}

/// Returns the number of slips between two words: a letter missing, added or replaced, or two
/// neighbours exchanged.
fn distance(one: &str, other: &str) -> usize {
    let (one, other) = (one.as_bytes(), other.as_bytes());
    // Words of that length are no slips of an option; this bounds the work.
    if one.len() > 40 {
        return usize::MAX;
    }
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=other.len()).collect();
    for (index, letter) in one.iter().enumerate() {
        let mut next = vec![index + 1];
        for (column, wanted) in other.iter().enumerate() {
            let replaced = last[column] + usize::from(letter != wanted);
            let mut least = replaced.min(last[column + 1] + 1).min(next[column] + 1);
            let swapped = index > 0
                && column > 0
                && *letter == other[column - 1]
                && one[index - 1] == *wanted;
            if swapped {
                least = least.min(before[column - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut last, next);
    }
    last.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_slip_is_understood_and_two_in_a_longer_word() {
        let names = ["web", "mail", "dovecot"];
        for (unknown, meant) in [
            ("wbe", Some("web")),
            ("mial", Some("mail")),
            ("dvcot", Some("dovecot")),
            ("covedot", Some("dovecot")),
            ("ewb2", None),
            ("ssh", None),
            ("", None),
        ] {
            assert_eq!(nearest(unknown, names), meant, "{unknown}");
        }
    }

    proptest! {
        #[test]
        fn any_word_has_a_distance(one in ".{0,60}", other in "[a-z-]{0,20}") {
            let number = distance(&one, &other);
            prop_assert!(number == usize::MAX || number <= one.len().max(other.len()));
            prop_assert_eq!(distance(&other, &other), 0);
        }
    }
}
