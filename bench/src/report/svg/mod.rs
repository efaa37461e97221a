//! Bars and lines as SVG, drawn for a light and for a dark page.

mod bars;
mod lines;

use std::fmt::Write;

pub(super) use bars::{Bar, BarChart, Panel};
pub(super) use lines::{Line, LineChart, Scale};

pub(in crate::report) struct Theme {
    pub name: &'static str,
    background: &'static str,
    text: &'static str,
    faint: &'static str,
    grid: &'static str,
    bar: &'static str,
    emphasis: &'static str,
    lines: [&'static str; 10],
}

pub(in crate::report) const LIGHT: Theme = Theme {
    name: "light",
    background: "#ffffff",
    text: "#1f2328",
    faint: "#59636e",
    grid: "#e4e8ec",
    bar: "#a9b8c9",
    emphasis: "#d4500c",
    lines: [
        "#0969da", "#1a7f37", "#8250df", "#bf3989", "#8a6100", "#127b82", "#57606a", "#a40e26",
        "#5f6b00", "#0a3069",
    ],
};

pub(in crate::report) const DARK: Theme = Theme {
    name: "dark",
    background: "#0d1117",
    text: "#f0f6fc",
    faint: "#9198a1",
    grid: "#2a313a",
    bar: "#56677a",
    emphasis: "#ff8f4a",
    lines: [
        "#58a6ff", "#3fb950", "#bc8cff", "#f778ba", "#d6a722", "#39c5cf", "#9da7b1", "#ff7b72",
        "#b3c23a", "#a5d6ff",
    ],
};

const WIDTH: f64 = 880.0;
const TITLE_HEIGHT: f64 = 46.0;

pub(in crate::report) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// An SVG document in the making.
struct Canvas<'a> {
    theme: &'a Theme,
    body: String,
}

impl<'a> Canvas<'a> {
    const fn new(theme: &'a Theme) -> Self {
        Self {
            theme,
            body: String::new(),
        }
    }

    // Writing to a String cannot fail, here and below.
    fn text(&mut self, x: f64, y: f64, anchor: &str, style: &str, text: &str) {
        let text = escape(text);
        let _ = writeln!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" {style}>{text}</text>"#
        );
    }

    fn rule(&mut self, from: (f64, f64), to: (f64, f64), style: &str) {
        let _ = writeln!(
            self.body,
            r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" {style}/>"#,
            from.0, from.1, to.0, to.1
        );
    }

    fn finish(self, title: &str, height: f64) -> String {
        let Theme {
            background, text, ..
        } = self.theme;
        let title = escape(title);
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" width="{WIDTH}" height="{height:.0}" role="img" aria-label="{title}" font-family="system-ui, -apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif" font-size="12">
<rect width="100%" height="100%" rx="6" fill="{background}"/>
<text x="20" y="28" font-size="15" font-weight="600" fill="{text}">{title}</text>
{body}</svg>
"#,
            body = self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drawn_is_escaped() {
        let mut canvas = Canvas::new(&LIGHT);
        canvas.text(0.0, 0.0, "start", "", "a<b & \"c\"");
        assert!(
            canvas
                .finish("t", 10.0)
                .contains("a&lt;b &amp; &quot;c&quot;")
        );
    }
}
