//! Tables with aligned columns.

use super::escaped;

/// On which side of its column a cell stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// A table under construction. Its cells are safe for a terminal.
#[derive(Debug)]
pub(crate) struct Table {
    aligns: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Makes a table with these columns.
    pub(crate) fn new(columns: &[(&str, Align)]) -> Self {
        Self {
            aligns: columns.iter().map(|column| column.1).collect(),
            rows: vec![columns.iter().map(|column| column.0.to_owned()).collect()],
        }
    }

    /// Appends a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().map(|cell| escaped(&cell)).collect());
    }

    /// Returns the table, cut to this width if there is one: the last column loses what is too much.
    pub(crate) fn text(&self, width: Option<usize>) -> String {
        let widths = self.widths();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, align), width) in row.iter().zip(&self.aligns).zip(&widths) {
                let padding = " ".repeat(width.saturating_sub(columns(cell)));
                if !line.is_empty() {
                    line.push_str("  ");
                }
                match align {
                    Align::Left => line.extend([cell.as_str(), padding.as_str()]),
                    Align::Right => line.extend([padding.as_str(), cell.as_str()]),
                }
            }
            text.push_str(cut(line.trim_end(), width).trim_end());
            text.push('\n');
        }
        text
    }

    fn widths(&self) -> Vec<usize> {
        let widest = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| columns(cell)).max().unwrap_or(0)
        };
        (0..self.aligns.len()).map(widest).collect()
    }
}

/// How many columns of a terminal a text takes.
fn columns(text: &str) -> usize {
    ratatui::text::Span::raw(text).width()
}

/// The text as far as it fits into this many columns.
fn cut(text: &str, width: Option<usize>) -> &str {
    let Some(width) = width else { return text };
    let mut end = text.len();
    while columns(&text[..end]) > width {
        end = text[..end]
            .char_indices()
            .next_back()
            .map_or(0, |(at, _)| at);
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("N", Align::Right),
            ("OF", Align::Left),
        ]);
        table.row(["web\x1b".into(), "7".into(), "/bin/x".into()]);
        table.row(["网".into(), "1234".into(), "".into()]);
        let text = "\
NAME          N  OF
web\\u{1b}     7  /bin/x
网         1234
";
        assert_eq!(table.text(None), text);
        assert_eq!(table.text(Some(12)), "NAME\nweb\\u{1b}\n网         1\n");
    }
}
