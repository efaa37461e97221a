//! Which events a client watches.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use skd_control::{EVENTS, EventFilter, EventLine, Failure};

use super::request::bad;
use crate::config::{Clients, KnownBy, Prefix};

/// A filter of events, read once.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(try_from = "EventFilter", into = "EventFilter")]
pub(super) struct Filter {
    text: EventFilter,
    /// Sets, since a request has room for thousands of names.
    services: HashSet<String>,
    events: HashSet<String>,
    source: Option<Clients>,
}

/// Fails unless there are events with these names: a client that misspells one would wait for ever.
/// What another binary has saved isn't checked, which may know others.
pub(super) fn check_events(names: &[String]) -> Result<(), Failure> {
    let Some(unknown) = names.iter().find(|name| !EVENTS.contains(&name.as_str())) else {
        return Ok(());
    };
    let hint = match crate::config::nearest(unknown, EVENTS) {
        Some(like) => format!("did you mean {like}?"),
        None => format!("there are {}", EVENTS.join(", ")),
    };
    Err(bad(format!("there is no event {unknown:?}: {hint}")))
}

impl Filter {
    /// Reads a filter.
    pub(super) fn read(text: EventFilter) -> Result<Self, Failure> {
        let source = text.source.as_deref().map(str::parse).transpose();
        let source = source.map_err(|why| bad(format!("source: {why}")))?;
        Ok(Self {
            services: text.services.iter().cloned().collect(),
            events: text.events.iter().cloned().collect(),
            text,
            source,
        })
    }

    /// Whether an event is selected.
    pub(super) fn matches(&self, event: &EventLine<'_>) -> bool {
        let is_in = |names: &HashSet<String>, name: &str| names.is_empty() || names.contains(name);
        let service = event.service.as_deref().unwrap_or_default();
        is_in(&self.services, service)
            && is_in(&self.events, &event.event)
            && self
                .source
                .is_none_or(|source| client(event).iter().all(|it| source.include(*it)))
    }
}

/// Returns what the client of an event is known by; of an address that is cut to a prefix, the first
/// and the last that it may be.
fn client(event: &EventLine<'_>) -> [KnownBy; 2] {
    let Some(client) = &event.client else {
        return [KnownBy::Nothing; 2];
    };
    if let Some(uid) = client.uid {
        return [KnownBy::User(uid); 2];
    }
    // A link-local address has its interface, and a masked address the length of its prefix.
    let address = client.address.as_deref().unwrap_or_default();
    let prefix = address.split('%').next().unwrap_or_default().parse();
    prefix.map_or([KnownBy::Nothing; 2], |prefix: Prefix| {
        let (first, last) = prefix.range();
        [first, last].map(KnownBy::Address)
    })
}

impl TryFrom<EventFilter> for Filter {
    type Error = String;

    fn try_from(text: EventFilter) -> Result<Self, String> {
        Self::read(text).map_err(|failure| failure.message)
    }
}

impl From<Filter> for EventFilter {
    fn from(filter: Filter) -> Self {
        filter.text
    }
}

#[cfg(test)]
mod tests {
    use skd_control::Endpoint;

    use super::*;

    fn event(
        service: &'static str,
        address: Option<&'static str>,
        uid: Option<u32>,
    ) -> EventLine<'static> {
        EventLine {
            event: "accepted".into(),
            service: Some(service.into()),
            client: Some(Endpoint {
                address: address.map(Into::into),
                uid,
                ..Endpoint::default()
            }),
            ..EventLine::default()
        }
    }

    fn filter(services: &[&str], events: &[&str], source: Option<&str>) -> Filter {
        let owned = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect();
        Filter::read(EventFilter {
            services: owned(services),
            events: owned(events),
            source: source.map(Into::into),
        })
        .unwrap()
    }

    #[test]
    fn all_that_is_asked_for_has_to_match() {
        let web = event("web", Some("192.0.2.7"), None);
        let local = event("web", None, Some(1000));
        let near = event("web", Some("fe80::1%lo"), None);
        let masked = event("web", Some("192.0.2.0/24"), None);
        assert!(filter(&[], &[], Some("192.0.0.0/16")).matches(&masked));
        assert!(filter(&[], &[], Some("192.0.2.0/24")).matches(&masked));
        assert!(!filter(&[], &[], Some("192.0.2.0/25")).matches(&masked));
        assert!(filter(&[], &[], None).matches(&web));
        assert!(filter(&["mail", "web"], &["accepted"], Some("192.0.2.0/24")).matches(&web));
        assert!(!filter(&["mail"], &[], None).matches(&web));
        assert!(!filter(&[], &["closed"], None).matches(&web));
        assert!(!filter(&[], &[], Some("198.51.100.0/24")).matches(&web));
        assert!(filter(&[], &[], Some("uid:1000")).matches(&local));
        assert!(!filter(&[], &[], Some("uid:1000")).matches(&web));
        assert!(!filter(&[], &[], Some("192.0.2.0/24")).matches(&local));
        assert!(!filter(&[], &[], Some("::/0")).matches(&EventLine::default()));
        assert!(filter(&[], &[], Some("fe80::/10")).matches(&near));
        let masked = event("web", Some("192.0.2.0/24"), None);
        assert!(filter(&[], &[], Some("192.0.0.0/16")).matches(&masked));
        assert!(!filter(&[], &[], Some("192.0.2.7")).matches(&masked));
    }

    #[test]
    fn names_in_any_order_and_number_are_found() {
        let web = event("web", None, None);
        let many: Vec<_> = (0..20_000).map(|number| number.to_string()).collect();
        let mut many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(!filter(&[], &many, None).matches(&web));
        many.insert(7, "accepted");
        assert!(filter(&["web", "mail", "web"], &many, None).matches(&web));
    }

    #[test]
    fn a_source_that_is_none_is_refused() {
        for source in ["", "localhost", "uid:", "uid:x", "192.0.2.1/33"] {
            let text = EventFilter {
                source: Some(source.into()),
                ..EventFilter::default()
            };
            let message = Filter::read(text).unwrap_err().message;
            assert!(message.starts_with("source: "), "{message}");
        }
    }
}
