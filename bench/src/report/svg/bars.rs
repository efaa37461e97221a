//! Horizontal bars in panels.

use std::fmt::Write;

use super::{Canvas, TITLE_HEIGHT, WIDTH};
use crate::report::format::thousands;
use crate::stats::Summary;

pub(in crate::report) struct BarChart {
    pub panels: Vec<Panel>,
}

pub(in crate::report) struct Panel {
    pub title: String,
    pub bars: Vec<Bar>,
    /// The greatest figure that a bar can have, and its name.
    pub limit: Option<(f64, String)>,
}

pub(in crate::report) struct Bar {
    pub label: String,
    pub value: Summary,
    pub emphasised: bool,
}

impl BarChart {
    const ROW: f64 = 21.0;
    const PANEL_TITLE: f64 = 26.0;
    const PANEL_FOOT: f64 = 26.0;
    const LABELS: f64 = 152.0;

    /// Draws two panels side by side, each with its own scale.
    pub(in crate::report) fn render(&self, title: &str) -> String {
        let mut canvas = Canvas::new();
        let columns = self.panels.len().min(2);
        let width = (WIDTH - 20.0) / columns.max(1) as f64;
        let mut y = TITLE_HEIGHT;
        for row in self.panels.chunks(2) {
            let tallest = row.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
            for (column, panel) in row.iter().enumerate() {
                panel.draw(&mut canvas, 10.0 + column as f64 * width, y, width);
            }
            y += Self::PANEL_TITLE + tallest as f64 * Self::ROW + Self::PANEL_FOOT;
        }
        canvas.finish(title, y)
    }
}

impl Panel {
    fn draw(&self, canvas: &mut Canvas, x: f64, y: f64, width: f64) {
        let left = x + BarChart::LABELS;
        // Leaves space for the figure behind the longest bar.
        let space = width - BarChart::LABELS - 62.0;
        let bars = self.bars.iter().map(|bar| bar.value.max);
        let limit = self.limit.as_ref().map(|limit| limit.0);
        let greatest = bars.chain(limit).fold(1.0, f64::max);
        let at = |figure: f64| left + figure / greatest * space;

        let heading = r#"font-weight="600""#;
        canvas.text((left, y + 14.0), "start", "text", heading, &self.title);
        let top = y + BarChart::PANEL_TITLE;
        let bottom = top + self.bars.len() as f64 * BarChart::ROW;
        if let Some((limit, name)) = &self.limit {
            let (upper, lower) = ((at(*limit), top - 2.0), (at(*limit), bottom + 2.0));
            canvas.rule(upper, lower, "faint", r#"stroke-dasharray="4 3""#);
            let label = format!("{name} {}", thousands(*limit));
            let below = (at(*limit) + 4.0, bottom + 14.0);
            canvas.text(below, "end", "faint", r#"font-size="11""#, &label);
        }
        for (index, bar) in self.bars.iter().enumerate() {
            bar.draw(canvas, left, top + index as f64 * BarChart::ROW, at);
        }
    }
}

impl Bar {
    fn draw(&self, canvas: &mut Canvas, left: f64, y: f64, at: impl Fn(f64) -> f64) {
        let (class, weight) = if self.emphasised {
            ("base", "600")
        } else {
            ("bar", "400")
        };
        let middle = y + BarChart::ROW / 2.0;
        let style = format!(r#"font-weight="{weight}""#);
        canvas.text(
            (left - 8.0, middle + 4.0),
            "end",
            "text",
            &style,
            &self.label,
        );
        let Summary { median, min, max } = self.value;
        let _ = writeln!(
            canvas.body,
            r#"<rect x="{left:.1}" y="{:.1}" width="{:.1}" height="14" rx="2" class="{class}"/>"#,
            middle - 7.0,
            (at(median) - left).max(0.5)
        );
        if max > min {
            let width = r#"stroke-width="1.2""#;
            canvas.rule((at(min), middle), (at(max), middle), "text", width);
            for end in [min, max] {
                let (upper, lower) = ((at(end), middle - 3.0), (at(end), middle + 3.0));
                canvas.rule(upper, lower, "text", width);
            }
        }
        // The halo keeps the figure legible on the line of the limit.
        canvas.text(
            (at(max) + 6.0, middle + 4.0),
            "start",
            "text halo",
            &style,
            &thousands(median),
        );
    }
}
