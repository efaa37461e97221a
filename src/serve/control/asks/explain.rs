//! What would happen to a client now.

use std::sync::atomic::Ordering;
use std::time::Instant;

use skd_control::{ExplainedService, Explanation, Failure, FailureKind};

use crate::config::{BoundAddress, Clients, KnownBy, ServiceId, Source, untranslated};
use crate::net::Listener;
use crate::report::mask;
use crate::serve::admission::{Asked, Client, Explained, Explainer, Kind};
use crate::serve::availability::Availability;
use crate::serve::control::view::{ServiceView, View};
use crate::serve::service::Service;

/// Explains what would happen to a client at a service, or at all.
pub(in crate::serve) fn explain(
    view: &View,
    client: &str,
    service: Option<&str>,
) -> Result<Explanation, Failure> {
    let wanted = super::service(view, service)?;
    let client = one_client(super::clients(client)?)?;
    let services = view.services();
    let services = services.filter(|(id, _)| wanted.is_none_or(|wanted| wanted == *id));
    Ok(Explanation {
        services: services
            .map(|(id, service)| explain_at(view, id, service, client))
            .collect(),
    })
}

/// Refuses a prefix of several addresses: limits are for each source, and rules may divide it.
fn one_client(clients: Clients) -> Result<Clients, Failure> {
    match clients {
        Clients::Prefix(prefix) if !prefix.is_one() => Err(Failure {
            kind: FailureKind::BadRequest,
            message: format!("it takes one address, not {prefix}"),
        }),
        one => Ok(one),
    }
}

fn explain_at(
    view: &View,
    id: ServiceId,
    service: &ServiceView,
    client: Clients,
) -> ExplainedService {
    let (admitted, lines) = match view.served(id) {
        Some(served) if !service.is_removed => at(view, served, client),
        _ => (false, vec!["the service isn't configured any more".into()]),
    };
    ExplainedService {
        service: service.name.to_string(),
        admitted,
        lines,
    }
}

/// Explains at a service that is configured: whether a handler would start, and why.
fn at(view: &View, service: &Service, client: Clients) -> (bool, Vec<String>) {
    let mut lines = Vec::new();
    lines.extend(closed(view, service).map(String::from));
    lines.extend(denied(view, service, client));
    let mut admitted = lines.is_empty();
    if !service.takes_slots() {
        lines.push("its handlers take their clients themselves (wait mode)".into());
        return (admitted, lines);
    }
    let ways = [
        (Kind::Connection, "connection", &service.listeners),
        (Kind::Datagram, "datagram", &service.datagrams),
    ];
    let ways = ways.map(|(kind, noun, listeners)| {
        let reached = is_reached(service, listeners, kind, client);
        reached.then(|| (noun, explain_kind(view, service, client, kind)))
    });
    let several = ways.iter().flatten().count() > 1;
    if ways.iter().flatten().next().is_none() {
        lines.push("it has no listener for such a client".into());
        return (false, lines);
    }
    for (noun, explained) in ways.into_iter().flatten() {
        admitted &= explained.admitted;
        let line = |line| match several {
            true => format!("{noun}: {line}"),
            false => line,
        };
        lines.extend(explained.lines.into_iter().map(line));
    }
    (admitted, lines)
}

/// Says why the service takes no new clients at all, if it doesn't.
fn closed(view: &View, service: &Service) -> Option<&'static str> {
    if view.shared.drains.load(Ordering::SeqCst) {
        return Some("skd drains: no new client is served");
    }
    if service.is_done() {
        return Some("it has had all its handlers (--max-total)");
    }
    match service.availability.get() {
        Availability::Serving => None,
        Availability::Disabled => Some("it is disabled: clients wait until it is enabled"),
        Availability::Draining => Some("it drains: clients wait until it is enabled"),
        Availability::Refusing => Some("it is disabled: clients are refused until it is enabled"),
    }
}

/// Says for how long an administrator has denied the client, if that is so.
fn denied(view: &View, service: &Service, client: Clients) -> Option<String> {
    let (_, translators) = super::live::source_options(view, service.id);
    let known_by = match client {
        Clients::Prefix(one) => {
            [translators, &[]].map(|translators| KnownBy::address(one.range().0, translators))
        }
        Clients::User(uid) => [KnownBy::User(uid); 2],
    };
    let mut denials = view.shared.denials.list();
    denials.retain(|((clients, at), _)| {
        known_by.iter().any(|it| clients.include(*it)) && at.is_none_or(|at| at == service.id)
    });
    let until = denials.into_iter().map(|(_, until)| until).max()?;
    let left = until.checked_duration_since(Instant::now())?;
    Some(format!(
        "an administrator has denied it for another {:.0}s",
        left.as_secs_f64().ceil()
    ))
}

/// Whether such a client can come to one of the listeners, by itself or named by a proxy.
fn is_reached(service: &Service, listeners: &[Listener], kind: Kind, client: Clients) -> bool {
    let asked = service.policy.as_deref().map(|policy| &policy.asked);
    let is_named = kind == Kind::Connection && asked.is_some_and(|asked| asked.proxies.is_some());
    listeners.iter().any(|listener| match client {
        Clients::Prefix(_) => is_named || matches!(listener.bound_address(), BoundAddress::Inet(_)),
        Clients::User(_) => !is_named && listener.is_unix(),
    })
}

fn explain_kind(view: &View, service: &Service, client: Clients, kind: Kind) -> Explained {
    let (prefix, translators) = super::live::source_options(view, service.id);
    let (client, source) = match client {
        Clients::Prefix(one) => {
            let address = one.range().0;
            let own = untranslated(address, translators);
            (
                Client::at(address, translators),
                Source::address(own, prefix),
            )
        }
        Clients::User(uid) => (Client::user(uid), Source::user(uid)),
    };
    let explainer = Explainer {
        policy: service.policy.as_deref(),
        slots: &service.slots,
        rules: service.rules.as_ref(),
        now: view.shared.clock.read(Instant::now()),
    };
    let asked = Asked {
        client,
        source,
        kind,
    };
    let mut explained = explainer.explain(asked, mask::source(source));
    let lowest = service.min_source_port;
    if kind == Kind::Datagram && lowest > 0 && explained.admitted {
        let line = format!("it comes from port {lowest} or a higher one (--min-source-port)");
        explained.lines.push(line);
    }
    explained
}
