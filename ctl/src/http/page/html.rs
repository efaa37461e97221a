//! Markup into which nothing gets that isn't meant: what is written in this program stands as it is,
//! all else is escaped.

use crate::text::escaped;

/// Markup.
#[derive(Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Adds markup.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds text, or the value of an attribute in quotation marks.
    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        for character in escaped(text).chars() {
            match character {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                other => self.0.push(other),
            }
        }
        self
    }

    /// Adds a number in groups of three digits.
    pub(super) fn count(&mut self, count: u64) -> &mut Self {
        let digits = count.to_string();
        for (at, digit) in digits.char_indices() {
            if at > 0 && (digits.len() - at) % 3 == 0 {
                self.0.push(',');
            }
            self.0.push(digit);
        }
        self
    }

    /// Returns all of it.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_no_markup() {
        let mut html = Html::default();
        html.raw("<b>")
            .text("<b a=\"'\">&amp;\u{202e}\n")
            .raw("</b>");
        assert_eq!(
            html.finish(),
            "<b>&lt;b a=&quot;&#39;&quot;&gt;&amp;amp;\\u{202e}\\u{a}</b>"
        );
    }

    #[test]
    fn numbers_are_grouped() {
        let mut html = Html::default();
        for count in [0, 999, 1000, 123_456, u64::MAX] {
            html.count(count).raw(" ");
        }
        assert_eq!(
            html.finish(),
            "0 999 1,000 123,456 18,446,744,073,709,551,615 "
        );
    }
}
