//! The table of services.

use skd_control::{Histogram, ServiceState, ServiceStatus, Status};

use super::html::Html;
use super::rates::{plot, total};
use crate::show;
use crate::text::seconds;

/// Adds the table of services.
pub(super) fn services(html: &mut Html, status: &Status) {
    html.raw("<section><h2>Services</h2>\n<table class=\"services\"><thead><tr>")
        .raw("<th scope=\"col\">Service<th scope=\"col\">Running<th scope=\"col\">Accepted")
        .raw("<th scope=\"col\">Rejected<th scope=\"col\">Last 2 minutes<th scope=\"col\">Pending")
        .raw("<th scope=\"col\">Not started<th scope=\"col\">Run time<th scope=\"col\">Start")
        .raw("</tr></thead><tbody>\n");
    for service in &status.services {
        row(html, service);
    }
    html.raw("</tbody></table></section>\n");
}

fn row(html: &mut Html, service: &ServiceStatus) {
    let name = &service.name;
    html.raw("<tr><th scope=\"row\">")
        .text(name)
        .raw(" <span class=\"pill ");
    html.raw(match service.state {
        ServiceState::Serving => "good",
        ServiceState::Refusing => "bad",
        ServiceState::LameDuck | ServiceState::Disabled | ServiceState::Draining => "warn",
        ServiceState::Removed | ServiceState::Done => "gone",
    });
    html.raw("\">")
        .raw(show::state(service.state))
        .raw("</span><small>");
    html.text(&service.program).raw("</small></th>");
    html.raw("<td data-label=\"Running\"><p><b>")
        .count(service.running)
        .raw("</b>");
    if let Some(limit) = service.slots.limit {
        html.raw("<i>of ").count(limit).raw("</i>");
    }
    html.raw("</p>");
    if let Some(limit) = service.slots.limit {
        bar(html, service.slots.used, limit);
    }
    if let Some(tls) = &service.tls {
        html.raw("<small>").count(tls.live).raw(" over TLS</small>");
    }
    if let Some(pool) = &service.pool {
        html.raw("<small>")
            .count(pool.idle)
            .raw(" of ")
            .count(pool.limit);
        html.raw(" ready</small>");
    }
    html.raw("</td><td data-label=\"Accepted\"><p>");
    total(html, "accepted", name, accepted(service));
    html.raw("</p></td><td data-label=\"Rejected\"><p>");
    total(html, "rejected", name, show::rejected(service));
    html.raw("</p></td><td class=\"plots\">");
    plot(html, "accepted", "rejected", name);
    html.raw("</td><td data-label=\"Pending\">")
        .count(service.pending);
    let failures = service.start_failures.values().sum();
    html.raw("</td><td data-label=\"Not started\">")
        .count(failures);
    html.raw("</td><td data-label=\"Run time\">");
    quantiles(html, &service.durations);
    html.raw("</td><td data-label=\"Start\">");
    quantiles(html, &service.start_latencies);
    html.raw("</td></tr>\n");
}

/// How many of the slots are used. Full is a warning.
fn bar(html: &mut Html, used: u64, limit: u64) {
    let part = 100.0 * used as f64 / limit.max(1) as f64;
    html.raw("<svg class=\"bar\" aria-hidden=\"true\"><rect class=\"");
    html.raw(if used < limit { "good" } else { "bad" });
    html.raw("\" height=\"100%\" width=\"");
    html.text(&format!("{:.1}%", part.min(100.0)))
        .raw("\"/></svg>");
}

/// The median, and what 95 of 100 don't exceed.
fn quantiles(html: &mut Html, histogram: &Histogram) {
    match (quantile(histogram, 0.5), quantile(histogram, 0.95)) {
        (Some(median), Some(most)) => {
            html.text(&seconds(median)).raw("<small>95 %: ");
            html.text(&seconds(most)).raw("</small>");
        }
        _ => {
            html.raw("–");
        }
    }
}

/// The time that this part of all times doesn't exceed, as if all in a bucket were spread evenly. In
/// the last bucket, which has no end, the largest bound.
fn quantile(histogram: &Histogram, part: f64) -> Option<f64> {
    let count: u64 = histogram.counts.iter().sum();
    let wanted = part * count as f64;
    let (mut below, mut lower) = (0.0, 0.0);
    for (bound, count) in histogram.bounds.iter().zip(&histogram.counts) {
        let count = *count as f64;
        if count > 0.0 && below + count >= wanted {
            return Some(lower + (bound - lower) * (wanted - below) / count);
        }
        below += count;
        lower = *bound;
    }
    (count > 0).then_some(lower)
}

/// How many of its clients were admitted.
pub(super) fn accepted(service: &ServiceStatus) -> u64 {
    service
        .listeners
        .iter()
        .map(|listener| listener.accepted)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_in_their_bucket() {
        let histogram = Histogram {
            bounds: vec![1.0, 2.0, 4.0],
            counts: vec![2, 0, 2, 0],
            sum_seconds: 0.0,
        };
        assert_eq!(quantile(&histogram, 0.25), Some(0.5));
        assert_eq!(quantile(&histogram, 0.5), Some(1.0));
        assert_eq!(quantile(&histogram, 0.75), Some(3.0));
        let last = Histogram {
            counts: vec![0, 0, 0, 9],
            ..histogram
        };
        assert_eq!(quantile(&last, 0.5), Some(4.0));
        assert_eq!(quantile(&Histogram::default(), 0.5), None);
    }
}
