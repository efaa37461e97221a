//! Horizontal bars in panels.

use std::fmt::Write;

use super::{Canvas, TITLE_HEIGHT, Theme, WIDTH};
use crate::report::format::thousands;
use crate::stats::Summary;

pub(in crate::report) struct BarChart {
    pub panels: Vec<Panel>,
}

pub(in crate::report) struct Panel {
    pub title: String,
    pub bars: Vec<Bar>,
    /// A figure that no bar can pass, and what it is.
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

    /// Two panels side by side, each with a scale of its own.
    pub(in crate::report) fn render(&self, title: &str, theme: &Theme) -> String {
        let mut canvas = Canvas::new(theme);
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
    fn draw(&self, canvas: &mut Canvas<'_>, x: f64, y: f64, width: f64) {
        let theme = canvas.theme;
        let left = x + BarChart::LABELS;
        // Room for the figure behind the longest bar.
        let room = width - BarChart::LABELS - 62.0;
        let bars = self.bars.iter().map(|bar| bar.value.max);
        let limit = self.limit.as_ref().map(|limit| limit.0);
        let greatest = bars.chain(limit).fold(1.0, f64::max);
        let at = |figure: f64| left + figure / greatest * room;

        let heading = format!(r#"font-weight="600" fill="{}""#, theme.text);
        canvas.text(left, y + 14.0, "start", &heading, &self.title);
        let top = y + BarChart::PANEL_TITLE;
        let bottom = top + self.bars.len() as f64 * BarChart::ROW;
        if let Some((limit, name)) = &self.limit {
            let style = format!(r#"stroke="{}" stroke-dasharray="4 3""#, theme.faint);
            canvas.rule((at(*limit), top - 2.0), (at(*limit), bottom + 2.0), &style);
            let label = format!("{name} {}", thousands(*limit));
            let style = format!(r#"font-size="11" fill="{}""#, theme.faint);
            canvas.text(at(*limit) + 4.0, bottom + 14.0, "end", &style, &label);
        }
        for (index, bar) in self.bars.iter().enumerate() {
            bar.draw(canvas, left, top + index as f64 * BarChart::ROW, at);
        }
    }
}

impl Bar {
    fn draw(&self, canvas: &mut Canvas<'_>, left: f64, y: f64, at: impl Fn(f64) -> f64) {
        let theme = canvas.theme;
        let (fill, weight) = if self.emphasised {
            (theme.emphasis, "600")
        } else {
            (theme.bar, "400")
        };
        let middle = y + BarChart::ROW / 2.0;
        let style = format!(r#"font-weight="{weight}" fill="{}""#, theme.text);
        canvas.text(left - 8.0, middle + 4.0, "end", &style, &self.label);
        let Summary { median, min, max } = self.value;
        let _ = writeln!(
            canvas.body,
            r#"<rect x="{left:.1}" y="{:.1}" width="{:.1}" height="14" rx="2" fill="{fill}"/>"#,
            middle - 7.0,
            (at(median) - left).max(0.5)
        );
        if max > min {
            let style = format!(r#"stroke="{}" stroke-width="1.2""#, theme.text);
            canvas.rule((at(min), middle), (at(max), middle), &style);
            for end in [min, max] {
                canvas.rule((at(end), middle - 3.0), (at(end), middle + 3.0), &style);
            }
        }
        // A rim in the colour of the page, where the figure lies on the line of the limit.
        let style = format!(
            r#"font-weight="{weight}" fill="{}" stroke="{}" stroke-width="4" paint-order="stroke""#,
            theme.text, theme.background
        );
        canvas.text(
            at(max) + 6.0,
            middle + 4.0,
            "start",
            &style,
            &thousands(median),
        );
    }
}
