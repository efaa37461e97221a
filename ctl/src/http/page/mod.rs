//! The status page. It is complete as it comes; its script fetches the part that changes again and
//! again, and adds rates and plots.

mod html;
mod lists;
mod rates;
mod services;

use skd_control::{ServiceStatus, Sources, Status};

use self::html::Html;
use self::lists::{active, ends, refusals};
use self::rates::{plot, rate, total};
use self::services::{accepted, services};
use crate::show;
use crate::text::{age, bytes, seconds};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// What the page may load and run: its own style and script, by their SHA-256, and from here what
/// the script fetches. A test computes the sums anew.
pub(super) const POLICY: &str = "default-src 'none'; \
     script-src 'sha256-Bye+GxL/V18Jod9N3VNLFCECQhd31Ba51/o7Ibs4S6U='; \
     style-src 'sha256-y5H7OEmSDl29dIpyhVDbEPf6ycxktKyo6XO7QT86Vps='; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Returns the page.
pub(super) fn whole(status: &Status, sources: &Sources) -> String {
    let mut html = Html::default();
    html.raw("<!DOCTYPE html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n")
        .raw("<meta name=\"viewport\" content=\"width=device-width\">\n")
        .raw("<meta name=\"color-scheme\" content=\"light dark\">\n")
        .raw("<noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>\n")
        .raw("<title>skd</title>\n<style>")
        .raw(STYLE)
        .raw("</style>\n<p id=\"stale\" role=\"alert\" hidden></p>\n<main>\n");
    parts(&mut html, status, sources);
    html.raw("</main>\n<footer>Figures count from the start of skd, over upgrades and reloads. ")
        .raw("More: <a href=\"metrics\">metrics</a>, <a href=\"status.json\">status.json</a>, ")
        .raw("<a href=\"sources.json\">sources.json</a>, <a href=\"healthz\">healthz</a>")
        .raw("</footer>\n<script>")
        .raw(SCRIPT)
        .raw("</script>\n</html>\n");
    html.finish()
}

/// Returns the part of the page that changes.
pub(super) fn live(status: &Status, sources: &Sources) -> String {
    let mut html = Html::default();
    parts(&mut html, status, sources);
    html.finish()
}

fn parts(html: &mut Html, status: &Status, sources: &Sources) {
    header(html, status);
    attention(html, status);
    tiles(html, status);
    services(html, status);
    html.raw("<div class=\"columns\">\n");
    active(html, sources);
    refusals(html, status);
    ends(html, status);
    html.raw("</div>\n");
}

fn header(html: &mut Html, status: &Status) {
    html.raw("<header data-uptime=\"")
        .text(&status.uptime_seconds.to_string())
        .raw("\"><h1>skd</h1>");
    if status.draining {
        html.raw("<span class=\"pill warn\">draining</span>");
    } else {
        html.raw("<span class=\"pill good\">serving</span>");
    }
    html.raw("<p>version ")
        .text(&status.skd)
        .raw(" · process ")
        .text(&status.pid.to_string())
        .raw(" · up ")
        .text(&age(status.uptime_seconds))
        .raw("</p></header>\n");
}

/// What an administrator should know. Mostly nothing.
fn attention(html: &mut Html, status: &Status) {
    let process = &status.process;
    let mut lines: Vec<String> = Vec::new();
    for (what, attempts) in [("reload", &process.reloads), ("upgrade", &process.upgrades)] {
        if let Some(error) = &attempts.last_error {
            lines.push(format!("The last {what} failed: {error}"));
        }
    }
    for (cause, count) in process.troubles.iter().filter(|(_, count)| **count > 0) {
        lines.push(format!("Trouble with {cause}: {count}"));
    }
    if process.lost_lines > 0 {
        lines.push(format!(
            "Lines that the log did not take: {}",
            process.lost_lines
        ));
    }
    if process.lost_events > 0 {
        let count = process.lost_events;
        lines.push(format!(
            "Events that a client of the control socket did not take: {count}"
        ));
    }
    for denial in &status.denials {
        let service = denial.service.as_deref();
        let at = service.map_or(String::new(), |name| format!(" at {name}"));
        let time = age(denial.left_seconds);
        lines.push(format!("{} is denied{at} for {time}", denial.source));
    }
    if lines.is_empty() {
        return;
    }
    html.raw("<section class=\"attention\"><h2>Attention</h2><ul>");
    for line in lines {
        html.raw("<li>").text(&line).raw("</li>");
    }
    html.raw("</ul></section>\n");
}

fn tiles(html: &mut Html, status: &Status) {
    let process = &status.process;
    let all = |of: fn(&ServiceStatus) -> u64| status.services.iter().map(of).sum::<u64>();
    html.raw("<section class=\"tiles\" aria-label=\"Figures of skd\">\n");
    tile(html, "Accepted", |html| {
        total(html, "accepted", "", all(accepted));
    });
    plot(html, "accepted", "", "");
    html.raw("</div>\n");
    tile(html, "Rejected", |html| {
        total(html, "rejected", "", all(show::rejected));
    });
    plot(html, "", "rejected", "");
    html.raw("</div>\n");
    tile(html, "Handlers", |html| {
        html.raw("<b id=\"running\">")
            .count(all(|it| it.running))
            .raw("</b><i>");
        html.count(all(|it| it.pending)).raw(" pending</i>");
    });
    html.raw("</div>\n");
    tile(html, "CPU", |html| {
        let time = process.user_cpu_seconds + process.system_cpu_seconds;
        html.raw("<b>").text(&seconds(time)).raw("</b>");
        rate(html, "cpu", "", time);
    });
    plot(html, "cpu", "", "");
    html.raw("</div>\n");
    tile(html, "Memory", |html| {
        html.raw("<b>")
            .text(&bytes(process.resident_bytes))
            .raw("</b><i>");
        html.count(process.threads).raw(" threads</i>");
    });
    html.raw("</div>\n");
    tile(html, "Descriptors", |html| {
        html.raw("<b>")
            .count(process.open_descriptors)
            .raw("</b><i>of ");
        html.count(process.max_descriptors).raw("</i>");
    });
    html.raw("</div>\n</section>\n");
}

/// Opens a tile.
fn tile(html: &mut Html, title: &'static str, content: impl FnOnce(&mut Html)) {
    html.raw("<div><h2>").raw(title).raw("</h2><p>");
    content(html);
    html.raw("</p>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::example;
    use skd_control::SourceStatus;

    fn sources() -> Sources {
        Sources {
            total: 20,
            sources: vec![SourceStatus {
                source: "192.0.2.7".into(),
                service: "web".into(),
                running: 3,
                rejected: 5,
                last_reason: Some("rate".into()),
            }],
        }
    }

    #[test]
    fn the_page_says_what_skd_says() {
        let page = whole(&example::status(), &sources());
        for part in [
            "version 2.1.0 · process 1234 · up 3d04h",
            "The last reload failed: /etc/skd.toml:3: no such program",
            "203.0.113.0/24 is denied at web for 3m05s",
            "<b>12,345</b>",
            "data-rate=\"accepted web\" data-total=\"12345\"",
            "<b id=\"running\">15</b>",
            "<small>3 over TLS</small>",
            "<th scope=\"row\">192.0.2.7</th><td data-label=\"Service\">web</td>",
            "<td data-label=\"Running\">3</td><td data-label=\"Rejected\">5</td>",
            "19 more.",
            "rule · tcp 0.0.0.0:80",
            "a\\u{1b}b",
        ] {
            assert!(page.contains(part), "{part}: {page}");
        }
        assert!(page.contains(&live(&example::status(), &sources())));
        assert!(page.len() < 30 * 1024, "{} bytes", page.len());
    }

    #[test]
    fn nothing_that_is_shown_is_markup() {
        let evil = "<script>alert(\"&'\")</script>";
        let mut status = example::status();
        status.skd = evil.into();
        status.process.reloads.last_error = Some(evil.into());
        status.process.troubles = [(evil.into(), 1)].into();
        status.denials[0].source = evil.into();
        for service in &mut status.services {
            service.name = evil.into();
            service.program = evil.into();
            service.ended = [(evil.into(), 1)].into();
            for listener in &mut service.listeners {
                listener.address = evil.into();
                listener.kind = evil.into();
                listener.rejected = [(evil.into(), 1)].into();
            }
        }
        let mut sources = sources();
        let source = &mut sources.sources[0];
        source.source = evil.into();
        source.service = evil.into();
        source.last_reason = Some(evil.into());
        let page = live(&status, &sources);
        assert!(page.contains("&lt;script&gt;alert(&quot;&amp;&#39;&quot;)"));
        assert!(!page.contains("<script") && !page.contains("(\"&"));
    }

    #[test]
    fn a_skd_without_services_has_a_page() {
        let page = whole(&Status::default(), &Sources::default());
        assert!(page.contains("None."));
    }
}
