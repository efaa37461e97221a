//! Sources, and what was counted by a reason or result.

use skd_control::{Sources, Status};

use super::html::Html;
use super::rates::total;

/// How many rows a table has at most.
const MOST_ROWS: usize = 12;

/// A row of a table of counts: the service, what it is about, and how many.
type Count<'a> = (&'a str, String, u64);

/// Adds what was rejected and dropped, by the reason.
pub(super) fn refusals(html: &mut Html, status: &Status) {
    let mut rows: Vec<Count<'_>> = Vec::new();
    for service in &status.services {
        for listener in &service.listeners {
            let name = format!("{} {}", listener.kind, listener.address);
            for (reason, count) in &listener.rejected {
                rows.push((&service.name, format!("{reason} · {name}"), *count));
            }
            for (reason, count) in &listener.datagrams_dropped {
                rows.push((&service.name, format!("dropped: {reason} · {name}"), *count));
            }
        }
    }
    counts(html, "Refusals", "Reason", "refused", rows);
}

/// Adds how handlers have ended.
pub(super) fn ends(html: &mut Html, status: &Status) {
    let rows = status.services.iter().flat_map(|service| {
        let counts = service.ended.iter();
        counts.map(move |(result, count)| (service.name.as_str(), result.clone(), *count))
    });
    counts(html, "Ends of handlers", "Result", "ended", rows.collect());
}

/// A table of counts, the largest first.
fn counts(
    html: &mut Html,
    title: &'static str,
    column: &'static str,
    what: &'static str,
    mut rows: Vec<Count<'_>>,
) {
    rows.retain(|(_, _, count)| *count > 0);
    rows.sort_by_key(|(_, _, count)| std::cmp::Reverse(*count));
    html.raw("<section><h2>").raw(title).raw("</h2>\n");
    if rows.is_empty() {
        html.raw("<p class=\"none\">None.</p></section>\n");
        return;
    }
    html.raw("<table><thead><tr><th scope=\"col\">Service<th scope=\"col\">")
        .raw(column);
    html.raw("<th scope=\"col\">Count</tr></thead><tbody>\n");
    for (service, about, count) in rows.iter().take(MOST_ROWS) {
        html.raw("<tr><th scope=\"row\">")
            .text(service)
            .raw("</th><td data-label=\"")
            .raw(column)
            .raw("\">")
            .text(about);
        html.raw("</td><td data-label=\"Count\"><p>");
        total(html, what, &format!("{service} {about}"), *count);
        html.raw("</p></td></tr>\n");
    }
    html.raw("</tbody></table>");
    more(html, rows.len() as u64, MOST_ROWS);
    html.raw("</section>\n");
}

/// Says how many rows are missing.
fn more(html: &mut Html, total: u64, shown: usize) {
    if let Some(missing) = total
        .checked_sub(shown as u64)
        .filter(|missing| *missing > 0)
    {
        html.raw("<p class=\"none\">")
            .count(missing)
            .raw(" more.</p>");
    }
}

/// Adds the most active sources, with their last refusals.
pub(super) fn active(html: &mut Html, sources: &Sources) {
    html.raw("<section><h2>Most active sources</h2>\n");
    if sources.sources.is_empty() {
        html.raw("<p class=\"none\">None.</p></section>\n");
        return;
    }
    html.raw("<table><thead><tr><th scope=\"col\">Source<th scope=\"col\">Service")
        .raw("<th scope=\"col\">Running<th scope=\"col\">Rejected<th scope=\"col\">Last reason")
        .raw("</tr></thead><tbody>\n");
    for source in sources.sources.iter().take(MOST_ROWS) {
        html.raw("<tr><th scope=\"row\">").text(&source.source);
        html.raw("</th><td data-label=\"Service\">")
            .text(&source.service);
        html.raw("</td><td data-label=\"Running\">")
            .count(source.running);
        html.raw("</td><td data-label=\"Rejected\">")
            .count(source.rejected);
        html.raw("</td><td data-label=\"Last reason\">")
            .text(source.last_reason.as_deref().unwrap_or("–"));
        html.raw("</td></tr>\n");
    }
    html.raw("</tbody></table>");
    more(html, sources.total, sources.sources.len().min(MOST_ROWS));
    html.raw("</section>\n");
}
