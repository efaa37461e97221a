//! Rates of counters. The script of the page knows them by these names, and fills them in.

use super::html::Html;

/// A count, and the rate at which it grows, which the script fills in.
pub(super) fn total(html: &mut Html, what: &'static str, of: &str, count: u64) {
    html.raw("<b>").count(count).raw("</b>");
    rate(html, what, of, count as f64);
}

/// The rate at which a value grows.
pub(super) fn rate(html: &mut Html, what: &'static str, of: &str, value: f64) {
    html.raw("<i data-rate=\"")
        .raw(what)
        .raw(" ")
        .text(of)
        .raw("\" data-total=\"")
        .text(&value.to_string())
        .raw("\"></i>");
}

/// A plot of one or two rates, which the script draws.
pub(super) fn plot(html: &mut Html, good: &'static str, bad: &'static str, of: &str) {
    html.raw("<svg class=\"plot\" aria-hidden=\"true\" viewBox=\"0 0 59 20\" preserveAspectRatio=\"none\">");
    for (class, what) in [("bad", bad), ("good", good)] {
        if !what.is_empty() {
            html.raw("<path class=\"")
                .raw(class)
                .raw("\" data-plot=\"")
                .raw(what);
            html.raw(" ").text(of).raw("\"/>");
        }
    }
    html.raw("</svg>");
}
