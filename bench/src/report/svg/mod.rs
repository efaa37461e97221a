//! Bars and lines as SVG, with colours for a light and for a dark page.

mod bars;
mod lines;

use std::fmt::Write;

pub(super) use bars::{Bar, BarChart, Panel};
pub(super) use lines::{Line, LineChart, Scale};

/// The colours of each class of element.
struct Theme {
    page: &'static str,
    text: &'static str,
    faint: &'static str,
    grid: &'static str,
    bar: &'static str,
    base: &'static str,
    lines: [&'static str; LINES.len()],
}

const LIGHT: Theme = Theme {
    page: "#ffffff",
    text: "#1f2328",
    faint: "#59636e",
    grid: "#e4e8ec",
    bar: "#a9b8c9",
    base: "#d4500c",
    lines: [
        "#0969da", "#1a7f37", "#8250df", "#bf3989", "#8a6100", "#127b82", "#57606a", "#a40e26",
        "#5f6b00", "#0a3069",
    ],
};

const DARK: Theme = Theme {
    page: "#0d1117",
    text: "#f0f6fc",
    faint: "#9198a1",
    grid: "#2a313a",
    bar: "#56677a",
    base: "#ff8f4a",
    lines: [
        "#58a6ff", "#3fb950", "#bc8cff", "#f778ba", "#d6a722", "#39c5cf", "#9da7b1", "#ff7b72",
        "#b3c23a", "#a5d6ff",
    ],
};

/// The classes of lines and their names.
const LINES: [&str; 10] = ["l0", "l1", "l2", "l3", "l4", "l5", "l6", "l7", "l8", "l9"];

impl Theme {
    fn css(&self) -> String {
        let named = [
            ("text", self.text),
            ("page", self.page),
            ("faint", self.faint),
            ("grid", self.grid),
            ("bar", self.bar),
            ("base", self.base),
        ];
        let rules = named.into_iter().chain(LINES.into_iter().zip(self.lines));
        let mut css = format!(".halo{{stroke:{}}}", self.page);
        for (class, colour) in rules {
            // Writing to a String cannot fail, here and below.
            let _ = write!(css, ".{class}{{color:{colour}}}");
        }
        css
    }
}

const WIDTH: f64 = 880.0;
const TITLE_HEIGHT: f64 = 46.0;

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// An SVG document under construction.
struct Canvas {
    body: String,
}

impl Canvas {
    const fn new() -> Self {
        Self {
            body: String::new(),
        }
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, class: &str, style: &str, text: &str) {
        let text = escape(text);
        let style = attributes(style);
        let _ = writeln!(
            self.body,
            r#"<text x="{x:.1}" y="{y:.1}" text-anchor="{anchor}" class="{class}"{style}>{text}</text>"#
        );
    }

    fn rule(&mut self, from: (f64, f64), to: (f64, f64), class: &str, style: &str) {
        let style = attributes(style);
        let _ = writeln!(
            self.body,
            r#"<line x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}" class="{class}"{style}/>"#,
            from.0, from.1, to.0, to.1
        );
    }

    fn finish(self, title: &str, height: f64) -> String {
        let title = escape(title);
        format!(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0}" width="{WIDTH}" height="{height:.0}" role="img" aria-label="{title}" font-family="system-ui, -apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif" font-size="12">
<style>
text,rect,circle{{fill:currentColor}}line,path{{stroke:currentColor}}path{{fill:none}}.halo{{stroke-width:4;paint-order:stroke}}
{light}
@media (prefers-color-scheme:dark){{{dark}}}
</style>
<rect width="100%" height="100%" rx="6" class="page"/>
<text x="20" y="28" font-size="15" font-weight="600" class="text">{title}</text>
{body}</svg>
"#,
            light = LIGHT.css(),
            dark = DARK.css(),
            body = self.body
        )
    }
}

fn attributes(style: &str) -> String {
    if style.is_empty() {
        String::new()
    } else {
        format!(" {style}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped() {
        let mut canvas = Canvas::new();
        canvas.text((0.0, 0.0), "start", "text", "", "a<b & \"c\"");
        assert!(
            canvas
                .finish("t", 10.0)
                .contains("a&lt;b &amp; &quot;c&quot;")
        );
    }

    #[test]
    fn both_themes_have_all_classes() {
        let classes = |theme: &Theme| {
            let css = theme.css();
            let rules = css.split('}').filter_map(|rule| rule.split('{').next());
            rules.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(classes(&LIGHT), classes(&DARK));
        assert!(classes(&DARK).contains(&".l9".to_owned()));
    }
}
