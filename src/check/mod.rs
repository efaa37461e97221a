//! `--check`: predicting the errors of a start, without binding, creating or changing anything.
//!
//! The parts are independent of each other, and in the order of the start. So the first error is
//! the error that the start would report, and its exit status is that of the start. A port, path or
//! pid file in use is no error: the daemon may be running while its next command line is checked.

mod capacity;
mod contain;
mod explain;
mod sandbox;
mod tls;

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;

use crate::child::environment::Variables;
use crate::child::plan::{Preparation, Role, Root};
use crate::child::{self, Filters, Method, Plan, Spawner, watch_births};
use crate::config::{Account, Config, Daemon, Prestart, Service, ServiceId, Style};
use crate::error::Error;
use crate::net::{self, Resolved};
use crate::report::{self, Event};
use crate::serve::TimeLimits;
use crate::setup::{Log, PidFile, RuleFiles, TlsFiles, privileges, rights};
use crate::sys::capabilities::Capabilities;
use crate::sys::descriptors::Reserved;
use crate::sys::process::{self, Change, Ended, Fork, Target, Wait};
use crate::sys::seccomp::Filter;
use crate::sys::terminal;

pub use explain::explain;

/// Reports all errors on standard error, one on each line, beginning with these `faults` of the
/// command line.
pub fn run(config: &Config, faults: Vec<Error>) -> Result<u8, Error> {
    report::set_verbosity(config.daemon.verbosity);
    let mut verdict = Verdict::default();
    for fault in faults {
        verdict.fault(fault);
    }
    let daemon = &config.daemon;
    let services = &config.services;
    for note in services.iter().flat_map(|service| &service.notes) {
        report::note(note);
    }
    let listeners = services.iter().map(|service| &service.listeners[..]);
    verdict.keep(net::check::files(listeners));
    rights::faults(config).for_each(|fault| verdict.fault(fault));
    let each = services
        .iter()
        .map(|service| resolve(service, verdict.about(service)));
    let resolved: Vec<_> = each.collect();
    let each = services
        .iter()
        .map(|service| rules(service, verdict.about(service)));
    let rules: Vec<_> = each.collect();
    let tls_files = tls_files(config, verdict.about_all());
    pidfile(daemon, verdict.about_all());
    for (service, resolved) in services.iter().zip(&resolved) {
        sockets(resolved, verdict.about(service));
    }
    control(daemon, verdict.about_all());
    verdict.about_all().keep(Log::check(daemon, services));
    let tls = tls::check(config, tls_files.as_ref());
    tls.notes.iter().for_each(|note| verdict.note(note));
    tls.faults
        .into_iter()
        .for_each(|fault| verdict.fault(fault));
    for (service, rules) in services.iter().zip(rules) {
        let verdict = verdict.about(service);
        capacity::notes(daemon, service);
        program(config, service, rules, verdict)?;
        if let Some(limits) = TimeLimits::of(service) {
            verdict.keep(limits.check());
        }
    }
    let containment = verdict.about_all().keep(contain::containment(services));
    if let Some(Some(containment)) = containment {
        verdict.note(containment);
    }
    // A start notices these last.
    let resolved: Vec<_> = resolved.into_iter().flatten().collect();
    for conflict in net::check::conflicts(&resolved, Style::Stream) {
        verdict.fault(conflict);
    }
    verdict.result()
}

/// The result so far: the exit status of the first error.
#[derive(Debug, Default)]
struct Verdict {
    status: Option<u8>,
    /// The beginning of lines about a service.
    label: String,
}

impl Verdict {
    /// From here on, lines are about this service.
    fn about(&mut self, service: &Service) -> &mut Self {
        self.label = service.label();
        self
    }

    /// From here on, lines are about no service, or about several.
    fn about_all(&mut self) -> &mut Self {
        self.label.clear();
        self
    }

    fn fault(&mut self, error: Error) {
        let error = error.about(&self.label);
        report::failure(&error);
        self.reported(error.status());
    }

    fn note(&self, note: impl std::fmt::Display) {
        report::note(format_args!("{}{note}", self.label));
    }

    /// Counts an error that has been reported.
    fn reported(&mut self, status: u8) {
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

/// Predicts whether the control socket can be bound.
fn control(daemon: &Daemon, verdict: &mut Verdict) {
    let Some(control) = &daemon.control else {
        return;
    };
    let listen = control.listen();
    if let Some(resolved) = verdict.keep(Resolved::of(&listen)) {
        let (faults, notes) = net::check::check(&resolved);
        faults.into_iter().for_each(|fault| verdict.fault(fault));
        notes.into_iter().for_each(|note| verdict.note(note));
    }
}

/// Reads the rules files, and returns them if they have no errors.
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

/// Opens the files of TLS, and returns them if they have no errors.
fn tls_files(config: &Config, verdict: &mut Verdict) -> Option<TlsFiles> {
    match TlsFiles::check(&config.services, &config.daemon) {
        Ok(files) => files,
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
        let (faults, notes) = net::check::check(wanted);
        let refused = !faults.is_empty();
        faults.into_iter().for_each(|fault| verdict.fault(fault));
        for note in notes {
            verdict.note(note);
        }
        if refused {
            continue;
        }
        for name in wanted.names() {
            report::event(Event::WouldListen(&name));
        }
    }
    let conflicts = net::check::conflicts(resolved, Style::Datagram);
    for fault in conflicts.into_iter().chain(net::check::groups(resolved)) {
        verdict.fault(fault);
    }
}

/// Checks the program as the user and in the root directory of its handlers.
///
/// A child process does this, which gives up rights with the steps of the start. The rights of
/// another user depend on more than mode bits, so they can't be predicted from those.
fn program(
    config: &Config,
    service: &Service,
    rules: Option<RuleFiles>,
    verdict: &mut Verdict,
) -> Result<(), Error> {
    let failed = |errno| Error::start("can't check the program", errno);
    match process::fork().map_err(failed)? {
        Fork::Child => {
            let mut verdict = Verdict::default();
            verdict.about(service);
            rehearse(config, service, rules, &mut verdict);
            process::exit_now(verdict.status.unwrap_or(0));
        }
        Fork::Parent(child) => {
            let wait = process::wait(Target::Process(child), Wait::UNTIL_END);
            match wait.map_err(failed)? {
                Some((_, Change::Ended(Ended::Exited(0)))) => {}
                Some((_, Change::Ended(Ended::Exited(status)))) => verdict.reported(status),
                _ => verdict.fault(Error::Start(
                    "the process that checked the program was killed".into(),
                )),
            }
            Ok(())
        }
    }
}

fn rehearse(
    config: &Config,
    service: &Service,
    mut rules: Option<RuleFiles>,
    verdict: &mut Verdict,
) {
    let daemon = &config.daemon;
    // Without the rights, what was reported already.
    if let Some(root) = &daemon.root {
        if !rights::may_change_root() {
            return;
        }
        if verdict.keep(privileges::enter_root(root)).is_none() {
            return;
        }
        rules.iter_mut().for_each(RuleFiles::entered_root);
    }
    let root = service.root.as_deref().map(Root::open).transpose();
    let Some(root) = verdict.keep(root) else {
        return;
    };
    let again = service.root.as_deref().map(Root::open).transpose();
    let again = again.unwrap_or_default();
    let dropped = match &daemon.identity {
        Some(identity) => {
            rights::may_become(identity) && verdict.keep(privileges::drop_to(identity)).is_some()
        }
        None => {
            let may = rights::may_confine(service);
            let keep = || privileges::keep_needed(&config.services, Capabilities::NONE);
            may && verdict.keep(keep()).is_some()
        }
    };
    // Another root directory has another program.
    if service.root.is_some() && !dropped {
        return;
    }
    let changed = daemon.identity.is_some() || service.identity.is_some() || service.as_peer;
    if let Some(rules) = rules.filter(|_| changed && dropped) {
        rules_again(&rules, verdict);
    }
    rehearse_gate(daemon, service, (root.clone(), dropped), verdict);
    if let Some(wanted) = &service.isolation.sandbox {
        if dropped {
            let variables = variables(daemon, service);
            verdict.keep(sandbox::rehearse(daemon, service, wanted, &variables));
        }
        return;
    }
    rehearse_program(daemon, service, (root, dropped), verdict);
    // Without the user of handlers it might get somewhere else, and where there is a fault nowhere.
    if let Some(prestart) = service
        .prestart
        .filter(|_| dropped && verdict.status.is_none() && service.isolation.sandbox.is_none())
    {
        verdict.keep(rehearse_prestart(daemon, service, prestart, again));
    }
}

/// Notes where the program is parked that is prestarted.
fn rehearse_prestart(
    daemon: &Daemon,
    service: &Service,
    prestart: Prestart,
    root: Option<Root>,
) -> Result<(), Error> {
    let directory = root.iter().map(|root| root.directory.as_fd());
    let kept: Vec<_> = directory.collect();
    let no_descriptor =
        |reason: io::Error| Error::start("no descriptor to try the start of PROG", reason);
    let mut reserved = Reserved::take(2, &kept, None).map_err(no_descriptor)?;
    let own = |root: Root| {
        let copy = root.directory.try_clone().map_err(|_| Errno::EMFILE)?;
        let directory = reserved.own(copy)?.into();
        Ok(Root { directory, ..root })
    };
    let root = root.map(own).transpose();
    let root = root.map_err(|errno: Errno| no_descriptor(errno.into()))?;
    let low = reserved.low(1);
    watch_births()?;
    let preparation = Preparation {
        surroundings: &service.surroundings,
        role: Role::Handler {
            terminal: terminal::may_be_reached(),
        },
        files: None,
        user: privileges::user_of_handlers(service),
        as_peer: service.as_peer,
        root,
        is_elsewhere: false,
        filter: Filters::default().of(&service.isolation, true)?,
    };
    let plan = Plan::new(&service.command, &variables(daemon, service), preparation)?;
    let Some((low, slot)) = low.zip(reserved.slot()) else {
        return Ok(());
    };
    let method = Method::probe(&plan, low)?;
    let spawner = Spawner::new(method, slot);
    let mut spawner = spawner.map_err(no_descriptor)?;
    report::note(child::rehearse(
        ServiceId::new(0),
        prestart,
        &plan,
        &mut spawner,
    ));
    Ok(())
}

/// The variables of handlers.
fn variables(daemon: &Daemon, service: &Service) -> Variables {
    let identity = service.identity.as_ref().or(daemon.identity.as_ref());
    let account = match service.as_peer {
        true => Some(&Account::Unknown),
        false => identity.map(|identity| &identity.account),
    };
    let variables = Variables::for_program(account, &service.surroundings);
    match service.listeners.is_empty() {
        true => variables,
        false => variables.without_reserved(),
    }
}

/// Checks the program with the rights of this process, and those of its handlers.
fn rehearse_program(
    daemon: &Daemon,
    service: &Service,
    (root, dropped): (Option<Root>, bool),
    verdict: &mut Verdict,
) {
    if service.command.is_empty() {
        return;
    }
    let variables = variables(daemon, service);
    let listens = !service.listeners.is_empty() && service.mode.supervised().is_none();
    let filter = match Filters::default().of(&service.isolation, listens) {
        Ok(filter) => filter,
        Err(error) => {
            verdict.fault(error);
            None
        }
    };
    let preparation = preparation(service, (root, dropped), filter);
    let mut found = Plan::rehearse(&service.command, &variables, preparation);
    if !dropped {
        found.otherwise.append(&mut found.faults);
    }
    let inside = daemon.root.as_deref().or(service.root.as_deref());
    for fault in found.faults {
        verdict.fault(fault.inside(inside));
    }
    for fault in found.otherwise {
        // The other user may have rights that this one lacks.
        let fault = fault.inside(inside);
        verdict.note(format_args!(
            "not as that user, but as the present one: {fault}"
        ));
    }
}

/// How a handler or a gate is prepared, as the user that it becomes if that was `dropped`.
fn preparation(
    service: &Service,
    (root, dropped): (Option<Root>, bool),
    filter: Option<Filter>,
) -> Preparation<'_> {
    Preparation {
        surroundings: &service.surroundings,
        role: Role::InPlace,
        files: None,
        user: dropped
            .then(|| privileges::user_of_handlers(service))
            .flatten(),
        as_peer: dropped && service.as_peer,
        root,
        is_elsewhere: false,
        filter,
    }
}

/// Checks the program of the gate likewise. What is wrong with the preparation is told of the handlers,
/// who have the same.
fn rehearse_gate(
    daemon: &Daemon,
    service: &Service,
    (root, dropped): (Option<Root>, bool),
    verdict: &mut Verdict,
) {
    let Some(gate) = &service.gate else {
        return;
    };
    let mut surroundings = service.surroundings.clone();
    if service.isolation.has_own_root() {
        // That of handlers is inside.
        surroundings.directory = None;
    }
    let preparation = Preparation {
        surroundings: &surroundings,
        ..preparation(service, (root, dropped), None)
    };
    let found = Plan::new(&gate.command, &variables(daemon, service), preparation);
    let inside = daemon.root.as_deref().or(service.root.as_deref());
    if let Err(fault @ (Error::NotFound(_) | Error::NotRunnable(_))) = found {
        let fault = fault.inside(inside).about("--gate: ");
        match dropped {
            true => verdict.fault(fault),
            false => verdict.note(format_args!(
                "not as that user, but as the present one: {fault}"
            )),
        }
    }
}

/// Checks with the rights that skd keeps whether it can read its rules again.
fn rules_again(rules: &RuleFiles, verdict: &Verdict) {
    let faults = rules.read().err().unwrap_or_default();
    if let Some(fault) = faults.first() {
        verdict.note(format_args!(
            "at SIGHUP the rules can't be read again, with fewer rights: {fault}"
        ));
    }
}
