//! Start-up: which kind of start this is, and the order of each kind with the reason for each
//! place.

mod contain;
mod gates;
mod prepare;
mod process;
mod program;
mod resume;
mod serve;
mod tls;

use std::collections::HashSet;
use std::io::IsTerminal;
use std::process::ExitCode;

use crate::check;
use crate::cli::{self, Known, Request};
use crate::config::{Config, Daemon, Mode, Service};
use crate::error::Error;
use crate::report;
use crate::serve::upgrade::Arrival;
use crate::setup::{rights, tls_program};
use crate::sys::signals::{self, Inherited};
use crate::sys::{memory, process as sys_process};

use process::refuse;

/// The program: from the command line to the exit status.
pub fn main() -> ExitCode {
    run(|known| cli::parse(std::env::args_os(), known))
}

/// Runs a daemon with a ready-made configuration, or continues a daemon that upgrades itself to
/// this program: to be called by `main`, before it has made any thread.
///
/// Such a program is executed with its own arguments for a preflight, and `--check` before them.
pub fn run_config(config: Config) -> ExitCode {
    let mut config = Some(config);
    run(|_| {
        let config = config.take();
        let config = config.ok_or_else(|| Error::Start("it was configured already".into()))?;
        Ok(Request::Run(Box::new(config)))
    })
}

/// Does what is asked for by `configure`, which is told what a running daemon knows already if
/// this process continues it. Where services come from files it is called again, for each service
/// that isn't configured any more and still serves clients.
pub fn run(configure: impl FnMut(Option<Known>) -> Result<Request, Error>) -> ExitCode {
    let arrival = Arrival::find();
    // Before anything else: an ignored CHLD would reap children unseen.
    let inherited = Inherited::sanitise(!matches!(arrival, Ok(Arrival::Fresh)));
    memory::use_one_arena();
    let result = arrival.and_then(|arrival| begin(arrival, &inherited, configure));
    let status = result.unwrap_or_else(|error| {
        match error {
            Error::Told(_) => {}
            // All has been removed; the parent sees which signal it was.
            Error::Ended(signal) => signals::end_by(signal),
            _ => report::failure(&error),
        }
        error.status()
    });
    ExitCode::from(status)
}

fn begin(
    arrival: Arrival,
    inherited: &Inherited,
    mut configure: impl FnMut(Option<Known>) -> Result<Request, Error>,
) -> Result<u8, Error> {
    if let Arrival::Fresh = arrival {
        return answer_or_run(configure(None)?, inherited);
    }
    let configure = |known| running(configure(Some(known))?);
    match arrival {
        Arrival::Fresh => Ok(0),
        Arrival::Preflight(state) => resume::try_out(state, configure),
        Arrival::Upgrade(state) => resume::go_on(state, configure, false),
        Arrival::Return(state) => resume::go_on(state, configure, true),
    }
}

/// The configuration of a daemon that goes on.
fn running(request: Request) -> Result<Config, Error> {
    let config = match request {
        Request::Run(config) => config,
        // A preflight.
        Request::Check(config, faults) => {
            refuse(faults)?;
            config
        }
        Request::Refused(faults) => {
            refuse(faults)?;
            return Err(Error::Told(2));
        }
        Request::Explain(..) | Request::Print(_) => {
            return Err(Error::Start("there is nothing to take over".into()));
        }
    };
    check_services(&config.services)?;
    Ok(*config)
}

fn answer_or_run(request: Request, inherited: &Inherited) -> Result<u8, Error> {
    match request {
        Request::Print(text) => match report::answer(&text) {
            // The reader has read enough: skd --help | head.
            Err(reason) if reason.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Error::start("standard output can't be written", reason))
            }
            _ => Ok(0),
        },
        Request::Check(config, faults) => check::run(&config, faults),
        Request::Explain(config, client) => check::explain(&config, &client),
        Request::Refused(faults) => refuse(faults).map(|()| 2),
        Request::Run(config) => start(*config, inherited),
    }
}

/// Starts what is configured: a program of its own, or services with sockets.
fn start(config: Config, inherited: &Inherited) -> Result<u8, Error> {
    let Daemon {
        verbosity,
        background,
        log,
        ..
    } = &config.daemon;
    report::set_verbosity(*verbosity);
    report::set_lines(&config.daemon);
    // Scripts and service managers read as many lines as before.
    report::set_watched(!background && log.is_none() && std::io::stderr().is_terminal());
    if sys_process::is_first() {
        if config.daemon.background {
            return Err(Error::Usage(
                "--background can't be used by process 1: all of a container ends when that \
                 returns; leave it out"
                    .into(),
            ));
        }
        // What isn't blocked is lost on process 1, so a stop during the start would be.
        signals::block();
    }
    check_services(&config.services)?;
    rights::faults(&config).next().map_or(Ok(()), Err)?;
    for note in config.services.iter().flat_map(|service| &service.notes) {
        report::note(note);
    }
    if let Some(note) = tls_program::note(&config) {
        report::note(note);
    }
    match &config.services[..] {
        [service] if service.listeners.is_empty() => {
            program::run(&config.daemon, service, inherited)
        }
        _ => serve::serve(config, inherited),
    }
}

/// Refuses services that can't be told apart, or can't run beside each other.
fn check_services(services: &[Service]) -> Result<(), Error> {
    if services.is_empty() {
        return Err(Error::Start("there is no service to run".into()));
    }
    let mut names = HashSet::new();
    for service in services {
        let name = &service.name;
        if !names.insert(name) {
            return Err(Error::Usage(format!(
                "two services are called {name}: give each a name of its own"
            )));
        }
        let alone = service.listeners.is_empty() || matches!(service.mode, Mode::Supervise(_));
        if alone && services.len() > 1 {
            return Err(Error::Usage(format!(
                "service {name}: a program that has no listener, or that is supervised, has to be \
                 the only service of its skd; run another skd for it"
            )));
        }
    }
    Ok(())
}
