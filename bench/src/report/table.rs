//! A table for the terminal and for Markdown.

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Align {
    Left,
    Right,
}

#[derive(Debug)]
pub(super) struct Table {
    pub title: String,
    columns: Vec<(String, Align)>,
    rows: Vec<Vec<String>>,
    /// Not printed on the terminal, and folded in Markdown.
    pub detail: bool,
}

impl Table {
    pub(super) fn new(title: impl Into<String>, columns: &[(impl AsRef<str>, Align)]) -> Self {
        let columns = columns
            .iter()
            .map(|(name, align)| (name.as_ref().to_owned(), *align))
            .collect();
        Self {
            title: title.into(),
            columns,
            rows: Vec::new(),
            detail: false,
        }
    }

    /// A table of names on the left and figures on the right.
    pub(super) fn of_figures(
        title: impl Into<String>,
        first: &str,
        others: impl IntoIterator<Item = String>,
    ) -> Self {
        let first = [(first.to_owned(), Align::Left)];
        let others = others.into_iter().map(|name| (name, Align::Right));
        let columns: Vec<_> = first.into_iter().chain(others).collect();
        Self::new(title, &columns)
    }

    pub(super) const fn into_detail(mut self) -> Self {
        self.detail = true;
        self
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut cells: Vec<String> = cells.into_iter().collect();
        cells.resize(self.columns.len(), String::new());
        self.rows.push(cells);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    pub(super) fn to_text(&self) -> String {
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|index| {
                let cells = self.rows.iter().map(|row| width(&row[index]));
                cells
                    .chain([width(&self.columns[index].0)])
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let line = |cells: Vec<&str>| {
            let cells =
                cells
                    .iter()
                    .zip(&widths)
                    .zip(&self.columns)
                    .map(|((cell, width), column)| match column.1 {
                        Align::Left => format!("{cell:<width$}"),
                        Align::Right => format!("{cell:>width$}"),
                    });
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        };
        let mut lines = vec![self.title.clone()];
        lines.push(line(
            self.columns.iter().map(|(name, _)| name.as_str()).collect(),
        ));
        lines.push(
            widths
                .iter()
                .map(|width| "─".repeat(*width))
                .collect::<Vec<_>>()
                .join("  "),
        );
        lines.extend(
            self.rows
                .iter()
                .map(|row| line(row.iter().map(String::as_str).collect())),
        );
        lines.join("\n")
    }

    pub(super) fn to_markdown(&self) -> String {
        let line = |cells: &mut dyn Iterator<Item = String>| {
            format!("| {} |", cells.collect::<Vec<_>>().join(" | "))
        };
        let mut lines = vec![line(&mut self.columns.iter().map(|(name, _)| name.clone()))];
        lines.push(line(&mut self.columns.iter().map(
            |(_, align)| match align {
                Align::Left => "---".to_owned(),
                Align::Right => "---:".to_owned(),
            },
        )));
        let escape = |cell: &String| cell.replace('|', "\\|");
        lines.extend(
            self.rows
                .iter()
                .map(|row| line(&mut row.iter().map(escape))),
        );
        lines.join("\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::of_figures("Rates", "server", ["conn/s".to_owned()]);
        table.row(["skd".to_owned(), "10,000".to_owned()]);
        table.row(["a|b".to_owned(), "9".to_owned()]);
        table
    }

    #[test]
    fn text_is_aligned() {
        let expected = "Rates\nserver  conn/s\n──────  ──────\nskd     10,000\na|b          9";
        assert_eq!(table().to_text(), expected);
    }

    #[test]
    fn markdown_is_escaped() {
        let expected = "| server | conn/s |\n| --- | ---: |\n| skd | 10,000 |\n| a\\|b | 9 |";
        assert_eq!(table().to_markdown(), expected);
    }
}
