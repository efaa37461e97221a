//! What clients of the control socket ask: functions that look, and change nothing. They run in the
//! control thread.

mod explain;
mod handlers;
mod live;
mod sources;

use std::collections::HashSet;

use skd_control::{Failure, FailureKind};

use super::view::View;
use crate::config::{Clients, ServiceId, nearest};

pub(in crate::serve) use explain::explain;
pub(in crate::serve) use handlers::handlers;
pub(in crate::serve) use sources::sources;

/// Returns the failure of a request that names a service which there isn't, if one of these is such.
pub(in crate::serve) fn check_services(view: &View, names: &[String]) -> Result<(), Failure> {
    if names.is_empty() {
        return Ok(());
    }
    // There may be thousands of either.
    let known: HashSet<&str> = view.services().map(|(_, it)| &*it.name).collect();
    match names.iter().find(|name| !known.contains(name.as_str())) {
        Some(name) => service(view, Some(name)).map(drop),
        None => Ok(()),
    }
}

/// How many services a message names.
const NAMED: usize = 10;

/// Returns the service with this name, if there is one; of all services if none is named.
fn service(view: &View, name: Option<&str>) -> Result<Option<ServiceId>, Failure> {
    let Some(name) = name else {
        return Ok(None);
    };
    let mut services = view.services();
    match services.find(|(_, service)| *service.name == *name) {
        Some((id, _)) => Ok(Some(id)),
        None => {
            let names: Vec<&str> = view.services().map(|(_, service)| &*service.name).collect();
            Err(no_service(name, &names))
        }
    }
}

/// Returns the failure of a request that names a service, where there are only these.
pub(in crate::serve) fn no_service(name: &str, names: &[&str]) -> Failure {
    let hint = match (nearest(name, names.iter().copied()), names) {
        (Some(like), _) => format!("did you mean {like}?"),
        (None, [only]) => format!("the only one is {only}"),
        (None, names) if names.len() <= NAMED => format!("there are {}", names.join(", ")),
        (None, names) => {
            let (named, more) = (names[..NAMED].join(", "), names.len() - NAMED);
            format!("there are {named} and {more} more")
        }
    };
    Failure {
        kind: FailureKind::NotFound,
        message: format!("there is no service {name:?}: {hint}"),
    }
}

/// Reads the clients that a request names.
pub(in crate::serve) fn clients(text: &str) -> Result<Clients, Failure> {
    text.parse().map_err(|reason| Failure {
        kind: FailureKind::BadRequest,
        message: format!("{text:?} names no clients: {reason}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_service_is_answered_with_the_nearest_or_all() {
        let message = |names: &[&str]| no_service("wbe", names).message;
        assert_eq!(
            message(&["mail", "web"]),
            "there is no service \"wbe\": did you mean web?"
        );
        assert_eq!(
            message(&["mail"]),
            "there is no service \"wbe\": the only one is mail"
        );
        assert_eq!(
            message(&["mail", "time"]),
            "there is no service \"wbe\": there are mail, time"
        );
        let many = ["mail"; 12];
        assert!(message(&many).ends_with("mail, mail and 2 more"));
        assert_eq!(no_service("\n", &["web"]).kind, FailureKind::NotFound);
    }

    #[test]
    fn clients_that_are_not_named_rightly_are_refused_with_the_reason() {
        assert!(clients("192.0.2.0/24").is_ok() && clients("uid:7").is_ok());
        let failure = clients("192.0.2.1/24").unwrap_err();
        assert_eq!(failure.kind, FailureKind::BadRequest);
        assert!(
            failure.message.contains("192.0.2.0/24"),
            "{}",
            failure.message
        );
    }
}
