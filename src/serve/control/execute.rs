//! What the main thread does for clients of the control socket: one command after another, none of
//! which it waits for.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use skd_control::{Answer, FailureKind, Request};

use super::asks;
use super::commands::{Command, done, done_with, failed};
use super::daemon::Daemon;
use super::upgrade::words::Purpose;
use crate::config::{Clients, Count, Nat64, ServiceId};
use crate::report::{self, Told};
use crate::serve::admission::MOST_DENIALS;
use crate::serve::availability::Availability;
use crate::sys::events::Waker;

/// The answer to a command that is over at once, or `None` if it comes later.
pub(super) type Outcome = Option<Answer>;

impl Daemon {
    /// Executes what clients of the control socket have sent.
    pub(in crate::serve) fn execute_commands(&mut self) {
        for command in self.commands.take() {
            let reply_to = command.reply_to;
            let outcome = self.execute(command);
            // An error is an answer, too.
            if let Some(answer) = outcome.unwrap_or_else(Some) {
                self.commands.answer(reply_to, answer);
            }
        }
    }

    fn execute(&mut self, Command { request, reply_to }: Command) -> Result<Outcome, Answer> {
        match request {
            Request::Reload => {
                self.refuse_ending()?;
                Ok(self.begin_awaited(Purpose::Reload, reply_to))
            }
            Request::Upgrade => {
                self.refuse_ending()?;
                Ok(self.begin_awaited(Purpose::Upgrade, reply_to))
            }
            Request::Drain {
                services,
                timeout_seconds,
                announce_seconds,
            } => {
                let timeout = timeout_seconds.map(seconds).transpose()?;
                let announced = announce_seconds.map(seconds).transpose()?;
                // Such a drain would never begin; it must not begin at once instead.
                if announced.is_some_and(|it| Instant::now().checked_add(it).is_none()) {
                    return Err(failed(FailureKind::BadRequest, TOO_LONG));
                }
                // All or none.
                let ids = self.all_changeable(&services)?;
                self.drain_services(ids, announced, timeout, reply_to);
                Ok(None)
            }
            Request::Enable { services } => self.enable(&services).map(Some),
            Request::Disable { service, refuse } => self.disable(&service, refuse).map(Some),
            Request::Kill {
                pid,
                source,
                service,
            } => self.kill(pid, source, service).map(Some),
            Request::SetVerbosity { level } => set_verbosity(level).map(Some),
            Request::Deny {
                source,
                seconds,
                service,
            } => self.deny(&source, seconds, service).map(Some),
            Request::Allow { source, service } => self.allow(&source, service).map(Some),
            // The control thread answers these.
            Request::Status { .. }
            | Request::Handlers(_)
            | Request::Sources(_)
            | Request::Explain { .. }
            | Request::Events(_) => {
                let text = "this request changes nothing";
                Err(failed(FailureKind::BadRequest, text))
            }
        }
    }

    fn refuse_ending(&self) -> Result<(), Answer> {
        match self.drain {
            Some(_) => Err(failed(FailureKind::Busy, "skd ends")),
            None => Ok(()),
        }
    }

    fn enable(&mut self, names: &[String]) -> Result<Answer, Answer> {
        for service in self.all_changeable(names)? {
            self.end_service_drain(service, "was enabled again");
            self.set_availability(service, Availability::Serving);
        }
        let serve = match names {
            [_] => "serves",
            _ => "serve",
        };
        Ok(done(format!("{} {serve} new clients", names.join(", "))))
    }

    fn disable(&mut self, name: &str, refuse: bool) -> Result<Answer, Answer> {
        let service = self.changeable(name)?;
        let (availability, what) = match refuse {
            true => (Availability::Refusing, "rejected"),
            false => (Availability::Disabled, "left waiting"),
        };
        self.set_availability(service, availability);
        // Afterwards: in between, a lame duck must not seem to serve as ever.
        self.end_service_drain(service, "was disabled instead");
        let mut text = format!("{name} is disabled: new clients are {what}");
        if refuse && self.has_wait_mode(Some(service)) {
            text += ", but left waiting where handlers accept them (wait mode)";
        }
        Ok(done(text))
    }

    /// Returns whether handlers of this service, or of any, get the listener itself.
    fn has_wait_mode(&self, service: Option<ServiceId>) -> bool {
        let of = |id: ServiceId| service.is_none_or(|service| service == id);
        self.wait_sockets.iter().any(|it| of(it.service()))
    }

    /// Sets whether a service takes new clients, and has all threads know.
    pub(super) fn set_availability(&mut self, service: ServiceId, availability: Availability) {
        let Some(served) = self.shared.services.get(service.index()) else {
            return;
        };
        served.availability.set(availability);
        self.count_unavailable();
        let paused = availability != Availability::Serving;
        let sockets = self.wait_sockets.iter_mut();
        for socket in sockets.filter(|socket| socket.service() == service) {
            socket.set_paused(paused, &self.shared.handlers);
        }
        self.shared.wakers.iter().for_each(Waker::wake);
    }

    /// Counts the services that don't take new clients.
    pub(super) fn count_unavailable(&self) {
        let services = self.shared.services.iter();
        let unavailable = services.filter(|it| it.availability.get() != Availability::Serving);
        let count = unavailable.count();
        self.shared.unavailable.store(count, Ordering::SeqCst);
    }

    fn kill(
        &mut self,
        pid: Option<i32>,
        source: Option<String>,
        service: Option<String>,
    ) -> Result<Answer, Answer> {
        if pid.is_none() && source.is_none() && service.is_none() {
            let text = "say which handlers: by pid, source or service";
            return Err(failed(FailureKind::BadRequest, text));
        }
        let clients = source.as_deref().map(clients).transpose()?;
        // Of a service that was removed and configured anew, both have handlers.
        let services = service
            .map(|name| self.services_called(&name))
            .transpose()?;
        let shared = Arc::clone(&self.shared);
        let translators = |service: ServiceId| -> &[Nat64] {
            let served = shared.services.get(service.index());
            let policy = served.and_then(|it| it.policy.as_deref());
            policy.map_or(&[], |policy| &policy.asked.nat64)
        };
        let count = self.terminate(Told::Killed, |handler| {
            let service = handler.service;
            pid.is_none_or(|pid| handler.pid.as_raw() == pid)
                && services.as_ref().is_none_or(|it| it.contains(&service))
                && clients
                    .is_none_or(|clients| clients.include_peer(&handler.peer, translators(service)))
        });
        if count == 0 {
            let text = match pid {
                Some(pid) => format!("pid {pid} is no such handler of this skd"),
                None => "there is no such handler".into(),
            };
            return Err(failed(FailureKind::NotFound, text));
        }
        let handlers = Count(count, "handler was", "handlers were");
        Ok(done_with(count, format!("{handlers} sent TERM")))
    }

    fn deny(&mut self, source: &str, time: f64, service: Option<String>) -> Result<Answer, Answer> {
        let clients = clients(source)?;
        let time = seconds(time)?;
        if time.is_zero() {
            let text = "the time is zero; clients are denied for some seconds";
            return Err(failed(FailureKind::BadRequest, text));
        }
        let at = service.as_deref().map(|name| self.changeable(name));
        let at = at.transpose()?;
        let until = Instant::now().checked_add(time);
        let until = until.ok_or_else(|| failed(FailureKind::BadRequest, TOO_LONG))?;
        if !self.shared.denials.deny((clients, at), until) {
            let text = format!("{MOST_DENIALS} sources are denied already, as many as may be");
            return Err(failed(FailureKind::Failed, text));
        }
        // Those that wait are rejected, too.
        self.shared.wakers.iter().for_each(Waker::wake);
        let scope = service.map_or(String::new(), |name| format!(" at {name}"));
        let time = time.as_secs_f64();
        let mut text = format!("{clients} is denied{scope} for {time} s");
        if self.has_wait_mode(at) {
            text += ", but not where handlers accept clients themselves (wait mode)";
        }
        Ok(done(text))
    }

    fn allow(&mut self, source: &str, service: Option<String>) -> Result<Answer, Answer> {
        let clients = clients(source)?;
        let at = service.as_deref().map(|name| self.service_named(name));
        let at = at.transpose()?;
        let scope = service.map_or(String::new(), |name| format!(" at {name}"));
        match self.shared.denials.allow(&(clients, at)) {
            true => Ok(done(format!("{clients} isn't denied{scope} any more"))),
            false => {
                let text = format!("{clients} isn't denied{scope}");
                Err(failed(FailureKind::NotFound, text))
            }
        }
    }

    /// Returns the service with this name, the configured one if there was another.
    pub(super) fn service_called(&self, name: &str) -> Option<ServiceId> {
        let index = self.services.iter().position(|it| *it.name == *name)?;
        Some(ServiceId::new(index))
    }

    fn service_named(&self, name: &str) -> Result<ServiceId, Answer> {
        self.service_called(name).ok_or_else(|| {
            let names: Vec<&str> = self.services.iter().map(|it| &*it.name).collect();
            Answer::Failed(asks::no_service(name, &names))
        })
    }

    fn services_called(&self, name: &str) -> Result<Vec<ServiceId>, Answer> {
        self.service_named(name)?;
        let services = self.services.iter().enumerate();
        let called = services.filter(|(_, it)| *it.name == *name);
        Ok(called.map(|(index, _)| ServiceId::new(index)).collect())
    }

    /// Returns the services with these names, each once, if all of them may take new clients or not.
    fn all_changeable(&self, names: &[String]) -> Result<Vec<ServiceId>, Answer> {
        let mut services = Vec::new();
        for name in names {
            let service = self.changeable(name)?;
            if !services.contains(&service) {
                services.push(service);
            }
        }
        Ok(services)
    }

    /// Returns the service with this name, if it may take new clients or not.
    fn changeable(&self, name: &str) -> Result<ServiceId, Answer> {
        let service = self.service_named(name)?;
        self.refuse_ending()?;
        let served = self.shared.services.get(service.index());
        let control = &self.services[service.index()];
        let served = served.filter(|_| control.retiring.is_none());
        let why = match served {
            None => "isn't configured any more, and serves its last clients",
            Some(served) if served.is_done() => "has had all the handlers that it may have",
            Some(_) => return Ok(service),
        };
        Err(failed(FailureKind::Failed, format!("{name} {why}")))
    }
}

const TOO_LONG: &str = "the time is too long";

/// Reads a time in seconds.
fn seconds(seconds: f64) -> Result<Duration, Answer> {
    Duration::try_from_secs_f64(seconds).map_err(|_| {
        let text = match seconds > 0.0 {
            true => TOO_LONG.into(),
            false => format!("{seconds} is no time in seconds"),
        };
        failed(FailureKind::BadRequest, text)
    })
}

/// Reads which clients are meant.
fn clients(source: &str) -> Result<Clients, Answer> {
    asks::clients(source).map_err(Answer::Failed)
}

/// Reports so much until the next reload of files, or upgrade: those set what the configuration
/// says.
fn set_verbosity(level: u8) -> Result<Answer, Answer> {
    if level > 2 {
        let text = format!("the verbosity is 0, 1 or 2, not {level}");
        return Err(failed(FailureKind::BadRequest, text));
    }
    report::set_verbosity(level);
    let text = format!("the verbosity is {level} until the next reload or upgrade");
    Ok(done(text))
}
