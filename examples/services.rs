//! A daemon with several services, which no command line of skd makes: `cargo run --example services -- FILE`.
//!
//! Each line of FILE is the name of a service and a command line of skd without quotes. What concerns the whole
//! process is taken from the first. FILE is read again for an upgrade (SIGUSR2): what has gone from it is closed, and
//! what is new is bound.

use std::env;
use std::process::ExitCode;

use skd::cli::{self, Known, Request};
use skd::config::Config;
use skd::error::Error;

fn main() -> ExitCode {
    skd::start::run(|known| configure(known.as_ref()))
}

fn configure(known: Option<&Known>) -> Result<Request, Error> {
    // A preflight has --check before all other words.
    let file = env::args_os().skip(1).find(|word| word != "--check");
    let file = file.ok_or_else(|| Error::Usage("FILE is missing".into()))?;
    let text = std::fs::read_to_string(&file).map_err(|reason| {
        Error::start(format!("{} can't be read", file.to_string_lossy()), reason)
    })?;
    let mut all: Option<Config> = None;
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some(name) = words.next() else {
            continue;
        };
        let mut config = service(name, words, known)?;
        match &mut all {
            Some(all) => {
                let identity = config.daemon.identity;
                if identity.is_some() && identity != all.daemon.identity {
                    return Err(Error::Usage(format!(
                        "{name}: --daemon-user and -U concern the whole process: give them to the \
                         first service"
                    )));
                }
                all.services.append(&mut config.services);
            }
            None => all = Some(config),
        }
    }
    let all = all.ok_or_else(|| Error::Usage("FILE names no service".into()))?;
    Ok(Request::Run(Box::new(all)))
}

fn service<'a>(
    name: &str,
    words: impl Iterator<Item = &'a str>,
    known: Option<&Known>,
) -> Result<Config, Error> {
    let words = std::iter::once("skd").chain(words);
    match cli::parse(words.map(Into::into), known.cloned())? {
        Request::Run(mut config) => {
            for service in &mut config.services {
                service.name = name.to_owned();
            }
            Ok(*config)
        }
        _ => Err(Error::Usage(format!("{name}: nothing is to be run"))),
    }
}
