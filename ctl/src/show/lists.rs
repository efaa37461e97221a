//! Tables, and lines of their own.

use skd_control::{
    Done, Endpoint, EventLine, Explanation, Handlers, Level, ServiceStatus, Sources, Status,
};

use super::status::{rejected, state};
use crate::text::{Align, Table, age, bytes, escaped, seconds};

/// The services, a line each.
pub(crate) fn list(status: &Status, width: Option<usize>) -> String {
    let mut table = Table::new(&[
        ("SERVICE", Align::Left),
        ("STATE", Align::Left),
        ("RUNNING", Align::Right),
        ("SLOTS", Align::Right),
        ("PENDING", Align::Right),
        ("ACCEPTED", Align::Right),
        ("REJECTED", Align::Right),
        ("LISTENERS", Align::Left),
    ]);
    for service in &status.services {
        table.row([
            service.name.clone(),
            state(service.state).to_owned(),
            service.running.to_string(),
            slots(service),
            service.pending.to_string(),
            service
                .listeners
                .iter()
                .map(|listener| listener.accepted)
                .sum::<u64>()
                .to_string(),
            rejected(service).to_string(),
            addresses(service),
        ]);
    }
    table.text(width)
}

/// The slots that are used, and how many there are.
pub(crate) fn slots(service: &ServiceStatus) -> String {
    match service.slots.limit {
        Some(limit) => format!("{}/{limit}", service.slots.used),
        None => service.slots.used.to_string(),
    }
}

fn addresses(service: &ServiceStatus) -> String {
    let addresses = service
        .listeners
        .iter()
        .map(|listener| format!("{} {}", listener.kind, listener.address));
    addresses.collect::<Vec<_>>().join(", ")
}

/// Live handlers, a line each.
pub(crate) fn handlers(handlers: &Handlers, width: Option<usize>) -> String {
    let mut table = Table::new(&[
        ("PID", Align::Right),
        ("SERVICE", Align::Left),
        ("AGE", Align::Right),
        ("CPU", Align::Right),
        ("MEMORY", Align::Right),
        ("RECEIVED", Align::Right),
        ("SENT", Align::Right),
        ("CLIENT", Align::Left),
        ("LISTENER", Align::Left),
    ]);
    for handler in &handlers.handlers {
        table.row([
            handler.pid.to_string(),
            handler.service.clone(),
            age(handler.age_seconds),
            known(handler.cpu_seconds, seconds),
            known(handler.resident_bytes, bytes),
            known(handler.received_bytes, bytes),
            known(handler.sent_bytes, bytes),
            handler.client.clone(),
            handler.listener.clone(),
        ]);
    }
    table.text(width) + &more(handlers.total, handlers.handlers.len(), "handlers")
}

/// The most active sources, a line each.
pub(crate) fn sources(sources: &Sources, width: Option<usize>) -> String {
    let mut table = Table::new(&[
        ("SOURCE", Align::Left),
        ("SERVICE", Align::Left),
        ("RUNNING", Align::Right),
        ("REJECTED", Align::Right),
        ("LAST REASON", Align::Left),
    ]);
    for source in &sources.sources {
        table.row([
            source.source.clone(),
            source.service.clone(),
            source.running.to_string(),
            source.rejected.to_string(),
            source.last_reason.clone().unwrap_or_default(),
        ]);
    }
    table.text(width) + &more(sources.total, sources.sources.len(), "sources")
}

/// A figure, or that the kernel doesn't tell it.
pub(crate) fn known<T>(value: Option<T>, text: impl Fn(T) -> String) -> String {
    value.map_or_else(|| "-".into(), text)
}

/// A line about those that a limit has left out.
fn more(total: u64, shown: usize, what: &str) -> String {
    match total.checked_sub(shown as u64) {
        None | Some(0) => String::new(),
        Some(_) => format!("These are {shown} of {total} {what}: see --limit.\n"),
    }
}

/// What would happen to a client.
pub(crate) fn explanation(explanation: &Explanation) -> String {
    let mut text = String::new();
    for service in &explanation.services {
        let verdict = if service.admitted {
            "admitted"
        } else {
            "not admitted"
        };
        text += &format!("{}: {verdict}\n", escaped(&service.service));
        for line in &service.lines {
            text += &format!("  {}\n", escaped(line));
        }
    }
    text
}

/// What was done.
pub(crate) fn done(done: &Done) -> String {
    escaped(&done.message) + "\n"
}

/// An event, as the text log has it.
pub(crate) fn event(event: &EventLine<'_>) -> String {
    let level = match event.level {
        Level::Info => "",
        Level::Notice => " notice:",
        Level::Warning => " warning:",
    };
    let mut text = format!("{}{level} ", event.time);
    if let Some(service) = &event.service {
        text += &format!("{service}: ");
    }
    text += &event.message;
    // A text that doesn't name the client leaves out what matters most.
    if let Some(client) = event.client.as_ref().and_then(endpoint) {
        if !event.message.contains(&client) {
            text += &format!(" [{client}]");
        }
    }
    escaped(&text) + "\n"
}

fn endpoint(end: &Endpoint<'_>) -> Option<String> {
    match (&end.address, end.uid) {
        (Some(address), _) => Some(address.to_string()),
        (None, Some(uid)) => Some(format!("uid {uid}")),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::example;
    use super::*;
    use skd_control::{ExplainedService, SourceStatus};

    #[test]
    fn services_are_listed() {
        let text = "\
SERVICE   STATE     RUNNING  SLOTS  PENDING  ACCEPTED  REJECTED  LISTENERS
web       serving        12  12/40        3     12345       678  tcp 0.0.0.0:80, tcp [::]:80
dns       refusing        1      1        0        99         0  udp 0.0.0.0:53
a\\u{1b}b  removed         2      2        0         0         0
";
        assert_eq!(list(&example::status(), None), text);
        for line in list(&example::status(), Some(80)).lines() {
            assert!(line.len() <= 80, "{line}");
        }
    }

    #[test]
    fn handlers_are_listed() {
        let text = "\
\x20PID  SERVICE    AGE    CPU   MEMORY  RECEIVED     SENT  CLIENT              LISTENER
4711  web      3m05s  12 ms  1.4 MiB     312 B  1.0 MiB  192.0.2.7:51234     0.0.0.0:80
4712  dns      0.42s      -        -         -        -  [2001:db8::1]:5353  0.0.0.0:53
These are 2 of 17 handlers: see --limit.
";
        assert_eq!(handlers(&example::handlers(), None), text);
    }

    #[test]
    fn sources_are_listed() {
        let all = Sources {
            total: 1,
            sources: vec![SourceStatus {
                source: "192.0.2.0/24".into(),
                service: "web".into(),
                running: 3,
                rejected: 12,
                last_reason: Some("rate".into()),
            }],
        };
        let text = "\
SOURCE        SERVICE  RUNNING  REJECTED  LAST REASON
192.0.2.0/24  web            3        12  rate
";
        assert_eq!(sources(&all, None), text);
    }

    #[test]
    fn explanations_are_indented() {
        let one = Explanation {
            services: vec![ExplainedService {
                service: "web".into(),
                admitted: false,
                lines: vec!["rule 3 denies 192.0.2.0/24".into()],
            }],
        };
        assert_eq!(
            explanation(&one),
            "web: not admitted\n  rule 3 denies 192.0.2.0/24\n"
        );
    }

    #[test]
    fn events_are_lines() {
        let line = EventLine {
            time: "2026-11-29T12:00:00.000001Z".into(),
            level: Level::Notice,
            event: "rejected".into(),
            message: "Refused \x1b[2J".into(),
            service: Some("web".into()),
            client: Some(Endpoint {
                address: Some("192.0.2.7".into()),
                ..Endpoint::default()
            }),
            ..EventLine::default()
        };
        assert_eq!(
            event(&line),
            "2026-11-29T12:00:00.000001Z notice: web: Refused \\u{1b}[2J [192.0.2.7]\n"
        );
    }
}
