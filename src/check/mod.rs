//! `--check`: what a start with this command line would fail with, without binding, making
//! or changing anything.
//!
//! The parts are independent of each other, and each comes where the start would come to it:
//! so what is said first is what the start would say, and its status is the start's. What may
//! be otherwise by the time of the start isn't a fault: a port, a path or a pid file that is
//! in use is so by the daemon, perhaps, that the next is to follow.

mod capacity;
mod explain;

use crate::child::Plan;
use crate::child::environment::Variables;
use crate::config::{Config, Daemon, Service, Style};
use crate::error::Error;
use crate::net::{self, Resolved};
use crate::report::{self, Event};
use crate::serve::TimeLimits;
use crate::setup::{Log, PidFile, RuleFiles, privileges};
use crate::sys::process::{self, Change, Ended, Fork, Target, Wait};

pub use explain::explain;

/// Says all that is wrong, one sentence a line on standard error. The command line's own
/// `faults` are known already.
pub fn run(config: &Config, faults: Vec<Error>) -> Result<u8, Error> {
    report::set_verbosity(config.daemon.verbosity);
    let mut verdict = Verdict::default();
    for fault in faults {
        verdict.fault(fault);
    }
    let daemon = &config.daemon;
    for service in &config.services {
        let resolved = resolve(service, &mut verdict);
        let rules = rules(service, &mut verdict);
        pidfile(daemon, &mut verdict);
        sockets(&resolved, &mut verdict);
        verdict.keep(Log::check(daemon.log.as_ref()));
        capacity::notes(daemon, service);
        program(daemon, service, rules, &mut verdict)?;
        if let Some(limits) = TimeLimits::of(service) {
            verdict.keep(limits.check());
        }
        // Where it shows in a start: when all else is done.
        for clash in net::check::clashes(&resolved, Style::Stream) {
            verdict.fault(clash);
        }
    }
    verdict.result()
}

/// What has been found so far: the status of the first fault.
#[derive(Debug, Default)]
struct Verdict {
    status: Option<u8>,
}

impl Verdict {
    fn fault(&mut self, error: Error) {
        report::failure(&error);
        self.told(error.status());
    }

    /// What has been said already.
    fn told(&mut self, status: u8) {
        self.status.get_or_insert(status);
    }

    fn result(self) -> Result<u8, Error> {
        match self.status {
            None => Ok(0),
            Some(status) => Err(Error::Told(status)),
        }
    }

    fn keep<T>(&mut self, result: Result<T, Error>) -> Option<T> {
        result.map_err(|error| self.fault(error)).ok()
    }
}

fn resolve<'a>(service: &'a Service, verdict: &mut Verdict) -> Vec<Resolved<'a>> {
    let resolved = service.listeners.iter().map(Resolved::of);
    resolved.filter_map(|result| verdict.keep(result)).collect()
}

/// Reads the files of rules, and gives them if there is nothing wrong with them.
fn rules(service: &Service, verdict: &mut Verdict) -> Option<RuleFiles> {
    let files = verdict.keep(RuleFiles::open(service))??;
    match files.read() {
        Ok(_) => Some(files),
        Err(faults) => {
            faults.into_iter().for_each(|fault| verdict.fault(fault));
            None
        }
    }
}

fn pidfile(daemon: &Daemon, verdict: &mut Verdict) {
    let Some(path) = &daemon.pidfile else { return };
    if let Some(Some(note)) = verdict.keep(PidFile::check(path)) {
        report::note(note);
    }
}

fn sockets(resolved: &[Resolved<'_>], verdict: &mut Verdict) {
    for wanted in resolved {
        let Some(notes) = verdict.keep(net::check::check(wanted)) else {
            continue;
        };
        for note in notes {
            report::note(note);
        }
        for name in wanted.names() {
            report::event(Event::WouldListen(&name));
        }
    }
    let clashes = net::check::clashes(resolved, Style::Datagram);
    for fault in clashes.into_iter().chain(net::check::groups(resolved)) {
        verdict.fault(fault);
    }
}

/// Looks at the program as the user that it will be, in the root directory where it will be.
///
/// By a process that becomes that user, with the steps of the start, and then ends: whether
/// somebody else may do something depends on more than mode bits, and what is guessed from
/// those would be wrong both ways.
fn program(
    daemon: &Daemon,
    service: &Service,
    rules: Option<RuleFiles>,
    verdict: &mut Verdict,
) -> Result<(), Error> {
    let failed = |errno| Error::start("the program can't be looked at", errno);
    match process::fork().map_err(failed)? {
        Fork::Child => {
            let mut verdict = Verdict::default();
            rehearse(daemon, service, rules, &mut verdict);
            process::exit_now(verdict.status.unwrap_or(0));
        }
        Fork::Parent(child) => {
            let wait = process::wait(Target::Process(child), Wait::UNTIL_END);
            match wait.map_err(failed)? {
                Some((_, Change::Ended(Ended::Exited(0)))) => {}
                Some((_, Change::Ended(Ended::Exited(status)))) => verdict.told(status),
                _ => verdict.fault(Error::Start(
                    "whoever looked at the program was killed".into(),
                )),
            }
            Ok(())
        }
    }
}

fn rehearse(
    daemon: &Daemon,
    service: &Service,
    mut rules: Option<RuleFiles>,
    verdict: &mut Verdict,
) {
    if let Some(root) = &daemon.root
        && verdict.keep(privileges::enter_root(root)).is_none()
    {
        return;
    }
    if daemon.root.is_some() {
        rules.iter_mut().for_each(RuleFiles::entered_root);
    }
    let log = Log::check(daemon.log.as_ref()).is_ok();
    let dropped = match &daemon.identity {
        Some(identity) => verdict.keep(privileges::drop_to(identity)).is_some(),
        None => true,
    };
    if dropped && log && daemon.root.is_none() {
        log_again(daemon);
    }
    if dropped && let Some(rules) = rules {
        rules_again(&rules);
    }
    rehearse_program(daemon, service, dropped, verdict);
}

/// As whoever this process is, where it is.
fn rehearse_program(daemon: &Daemon, service: &Service, dropped: bool, verdict: &mut Verdict) {
    if service.command.is_empty() {
        return;
    }
    let account = daemon.identity.as_ref().map(|identity| &identity.account);
    let surroundings = &service.surroundings;
    let mut variables = Variables::inherited(account, &surroundings.environment);
    if !service.listeners.is_empty() {
        variables = variables.without_reserved();
    }
    for fault in Plan::rehearse(&service.command, surroundings, &variables) {
        if dropped {
            verdict.fault(fault);
        } else {
            // That user, perhaps, has rights that this one lacks.
            report::note(format_args!(
                "not as that user, but as the present one: {fault}"
            ));
        }
    }
}

/// As the user that skd will be, where it will be.
fn rules_again(rules: &RuleFiles) {
    if let Err(faults) = rules.read()
        && let Some(fault) = faults.first()
    {
        report::note(format_args!(
            "at SIGHUP the rules can't be read again by that user: {fault}"
        ));
    }
}

/// As the user that skd will be.
fn log_again(daemon: &Daemon) {
    if let Err(error) = Log::check(daemon.log.as_ref()) {
        report::note(format_args!(
            "at SIGHUP the log can't be opened again by that user: {error}"
        ));
    }
}
