//! The answer to an agent check of haproxy: one line on standard output, about services of skd.
//!
//! The words are those of "agent-check" in haproxy's Configuration Manual. Only the agent can take back what it has
//! said, so that each line says both whether the server is up, and its administrative state:
//!
//! | services | line | haproxy |
//! | --- | --- | --- |
//! | serve | `up ready`, with `--weight` `up ready 75%` | sends clients |
//! | one is a lame duck | `up drain` | sends only clients that stick to this server |
//! | one takes no new clients | `up maint` | sends no clients; sessions go on |
//! | one is over or unknown, or skd doesn't answer | `stopped #…` or `fail #…` | counts the server as down |
//!
//! The blank before `#` is needed: haproxy 2.6 takes `fail#…` for no word that it knows, and changes nothing.
//!
//! A service that drains isn't `drain` but `maint`: clients that stick to the server would wait in its backlog.

use std::path::Path;
use std::time::Duration;

use skd_control::{ServiceState, ServiceStatus, Status};

use crate::client::Client;
use crate::error::Error;
use crate::output;
use crate::show;
use crate::text::escaped;

/// Writes the answer. That skd doesn't answer is one, too.
pub(crate) fn run(
    socket: &Path,
    services: &[String],
    weight: bool,
    timeout: Duration,
) -> Result<(), Error> {
    let status = Client::connect_with(socket, timeout).and_then(|mut client| client.status());
    output::write(&line(status, services, weight))
}

/// What haproxy is to do, the worst last.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Verdict {
    Ready,
    Drain,
    Maintenance,
    Stopped(String),
    Fail(String),
}

fn line(status: Result<Status, Error>, names: &[String], weight: bool) -> String {
    match status {
        Ok(status) => about(&status, names, weight),
        Err(error) => told(&Verdict::Fail(error.to_string()), None),
    }
}

fn about(status: &Status, names: &[String], weight: bool) -> String {
    let mut chosen = Vec::new();
    for name in names {
        match status.services.iter().find(|it| it.name == *name) {
            Some(service) => chosen.push(service),
            None => return told(&Verdict::Fail(format!("there is no service {name}")), None),
        }
    }
    if names.is_empty() {
        chosen.extend(
            status
                .services
                .iter()
                .filter(|it| it.state != ServiceState::Removed),
        );
    }
    let verdicts = chosen.iter().map(|service| verdict(service));
    // Its handlers go on, and their connections through haproxy with them.
    let whole = match status.draining {
        true => Verdict::Maintenance,
        false => Verdict::Ready,
    };
    let worst = verdicts.max().unwrap_or(Verdict::Ready).max(whole);
    let percent = chosen
        .iter()
        .filter_map(|service| free_percent(service))
        .min();
    told(&worst, percent.filter(|_| weight))
}

fn verdict(service: &ServiceStatus) -> Verdict {
    match service.state {
        ServiceState::Serving => Verdict::Ready,
        ServiceState::LameDuck => Verdict::Drain,
        ServiceState::Disabled | ServiceState::Refusing | ServiceState::Draining => {
            Verdict::Maintenance
        }
        ServiceState::Removed | ServiceState::Done => {
            let state = show::state(service.state);
            Verdict::Stopped(format!("service {} is {state}", service.name))
        }
    }
}

/// How many per cent of the slots are free, at least 1: haproxy takes 0 for "drain".
fn free_percent(service: &ServiceStatus) -> Option<u64> {
    let limit = service.slots.limit.filter(|limit| *limit > 0)?;
    let free = limit.saturating_sub(service.slots.used);
    Some((free.saturating_mul(100) / limit).max(1))
}

fn told(verdict: &Verdict, percent: Option<u64>) -> String {
    let weight = percent.map_or_else(String::new, |percent| format!(" {percent}%"));
    match verdict {
        Verdict::Ready => format!("up ready{weight}\n"),
        Verdict::Drain => format!("up drain{weight}\n"),
        Verdict::Maintenance => "up maint\n".into(),
        Verdict::Stopped(why) => format!("stopped #{}\n", escaped(why)),
        Verdict::Fail(why) => format!("fail #{}\n", escaped(why)),
    }
}

#[cfg(test)]
mod tests {
    use skd_control::Slots;

    use super::*;

    fn service(name: &str, state: ServiceState, slots: (u64, Option<u64>)) -> ServiceStatus {
        ServiceStatus {
            name: name.into(),
            state,
            slots: Slots {
                used: slots.0,
                limit: slots.1,
            },
            ..ServiceStatus::default()
        }
    }

    fn skd(services: Vec<ServiceStatus>) -> Status {
        Status {
            services,
            ..Status::default()
        }
    }

    fn answer(status: Status, names: &[&str], weight: bool) -> String {
        let names: Vec<String> = names.iter().map(|name| (*name).into()).collect();
        line(Ok(status), &names, weight)
    }

    #[test]
    fn each_state_has_a_line() {
        use ServiceState::*;
        for (state, expected) in [
            (Serving, "up ready 75%\n"),
            (LameDuck, "up drain 75%\n"),
            (Disabled, "up maint\n"),
            (Refusing, "up maint\n"),
            (Draining, "up maint\n"),
            (Done, "stopped #service web is done\n"),
            (Removed, "stopped #service web is removed\n"),
        ] {
            let status = skd(vec![service("web", state, (2, Some(8)))]);
            assert_eq!(answer(status, &["web"], true), expected);
        }
    }

    #[test]
    fn the_weight_is_what_is_free_and_never_zero() {
        for (used, limit, expected) in [
            (0, Some(8), "up ready 100%\n"),
            (3, Some(8), "up ready 62%\n"),
            (8, Some(8), "up ready 1%\n"),
            (999, Some(1000), "up ready 1%\n"),
            (9, Some(8), "up ready 1%\n"),
            (0, Some(u64::MAX), "up ready 1%\n"),
            (5, None, "up ready\n"),
        ] {
            let status = skd(vec![service("web", ServiceState::Serving, (used, limit))]);
            assert_eq!(
                answer(status.clone(), &["web"], true),
                expected,
                "{used} of {limit:?}"
            );
            assert_eq!(answer(status, &["web"], false), "up ready\n");
        }
    }

    #[test]
    fn the_worst_service_decides() {
        use ServiceState::*;
        let status = || {
            skd(vec![
                service("web", Serving, (1, Some(2))),
                service("mail", LameDuck, (1, Some(10))),
                service("old", Draining, (0, None)),
                service("gone", Removed, (0, None)),
            ])
        };
        assert_eq!(answer(status(), &["web"], true), "up ready 50%\n");
        assert_eq!(answer(status(), &["web", "mail"], true), "up drain 50%\n");
        assert_eq!(
            answer(status(), &["web", "mail", "old"], true),
            "up maint\n"
        );
        // What was removed isn't asked for by those that name nothing.
        assert_eq!(answer(status(), &[], true), "up maint\n");
        assert_eq!(
            answer(status(), &["gone", "old"], false),
            "stopped #service gone is removed\n"
        );
        assert_eq!(
            answer(status(), &["old", "we\nb"], false),
            "fail #there is no service we\\u{a}b\n"
        );
        assert_eq!(answer(skd(vec![]), &[], true), "up ready\n");
    }

    #[test]
    fn a_skd_that_ends_or_is_silent_gets_no_clients() {
        let ending = Status {
            draining: true,
            ..skd(vec![service("web", ServiceState::Serving, (0, None))])
        };
        assert_eq!(answer(ending, &["web"], true), "up maint\n");
        assert_eq!(
            line(Err(Error::Silent(Duration::from_secs(1))), &[], true),
            "fail #skd has not answered for 1 s\n"
        );
    }
}
