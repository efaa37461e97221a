//! What each subcommand asks and prints.

use std::env;
use std::path::Path;

use skd_control::{
    Answer, EventFilter, HandlerOrder, HandlerQuery, Request, ServiceState, SourceQuery,
};

use crate::cli::{Cli, Command, HandlersArgs, MetricsFormat, Order, ServicesArgs, Shell, VARIABLE};
use crate::client::{Client, unexpected};
use crate::error::Error;
use crate::text::escaped_json;
use crate::{agent_check, http, metrics, output, show, top};

/// Does what the command line says.
pub(crate) fn run(cli: &Cli) -> Result<(), Error> {
    let socket = cli.socket(env::var_os(VARIABLE));
    match &cli.command {
        Command::Completions { .. }
        | Command::AgentCheck { .. }
        | Command::Http { .. }
        | Command::Top { .. }
            if cli.json =>
        {
            Err(Error::Usage(
                "--json: this command has no answer that could be printed as JSON".into(),
            ))
        }
        Command::AgentCheck {
            services,
            weight,
            timeout,
        } => agent_check::run(&socket, services, *weight, *timeout),
        Command::Completions { shell } => output::write(completions(*shell)),
        Command::Http { hosts } => http::run(&socket, hosts),
        Command::Top { interval } => top::run(&socket, *interval),
        Command::Events {
            services,
            events,
            source,
        } => {
            let filter = EventFilter {
                services: services.clone(),
                events: events.clone(),
                source: source.clone(),
            };
            print_events(&socket, filter, cli.json)
        }
        command => {
            let answer = Client::connect(&socket).and_then(|mut client| {
                let request = request(command, &mut client)?;
                client.ask(request)
            });
            if cli.json {
                print_json(answer)
            } else {
                output::write(&text(command, answer?)?)
            }
        }
    }
}

/// What a subcommand asks for. Some have to know the services that there are.
fn request(command: &Command, client: &mut Client) -> Result<Request, Error> {
    Ok(match command {
        Command::Status { services } => Request::Status {
            services: services.clone(),
        },
        Command::Handlers(args) => Request::Handlers(query(args)),
        Command::Sources { service, limit } => Request::Sources(SourceQuery {
            service: service.clone(),
            limit: Some(*limit),
        }),
        Command::Explain { client, service } => Request::Explain {
            client: client.clone(),
            service: service.clone(),
        },
        Command::Reload => Request::Reload,
        Command::Upgrade => Request::Upgrade,
        Command::Drain {
            services,
            announce,
            timeout,
        } => Request::Drain {
            services: named(services, client)?,
            timeout_seconds: timeout.map(|timeout| timeout.as_secs_f64()),
            announce_seconds: announce.map(|announce| announce.as_secs_f64()),
        },
        Command::Enable { services } => Request::Enable {
            services: named(services, client)?,
        },
        Command::Disable { service, refuse } => Request::Disable {
            service: service.clone(),
            refuse: *refuse,
        },
        Command::Kill(args) => Request::Kill {
            pid: args.pid,
            source: args.source.clone(),
            service: args.service.clone(),
        },
        Command::Deny {
            source,
            duration,
            service,
        } => Request::Deny {
            source: source.clone(),
            seconds: duration.as_secs_f64(),
            service: service.clone(),
        },
        Command::Allow { source, service } => Request::Allow {
            source: source.clone(),
            service: service.clone(),
        },
        Command::Verbosity { level } => Request::SetVerbosity { level: *level },
        // All of these show a status; or ask for something else, or nothing, and are not here.
        Command::List
        | Command::Metrics { .. }
        | Command::Top { .. }
        | Command::Events { .. }
        | Command::AgentCheck { .. }
        | Command::Http { .. }
        | Command::Completions { .. } => Request::Status {
            services: Vec::new(),
        },
    })
}

/// The services that are named, or all that may take new clients or not.
fn named(args: &ServicesArgs, client: &mut Client) -> Result<Vec<String>, Error> {
    if !args.all {
        return Ok(args.services.clone());
    }
    let status = client.status()?;
    let is_over = |state| matches!(state, ServiceState::Removed | ServiceState::Done);
    let services = status.services.into_iter().filter(|it| !is_over(it.state));
    let names: Vec<String> = services.map(|service| service.name).collect();
    match names.is_empty() {
        true => Err(Error::Local(
            "--all: skd has no service that takes new clients, now or later".into(),
        )),
        false => Ok(names),
    }
}

fn query(args: &HandlersArgs) -> HandlerQuery {
    HandlerQuery {
        service: args.service.clone(),
        source: args.source.clone(),
        order: match args.sort {
            Order::Oldest => HandlerOrder::Oldest,
            Order::Newest => HandlerOrder::Newest,
            Order::Pid => HandlerOrder::Pid,
            Order::Cpu => HandlerOrder::Cpu,
            Order::Memory => HandlerOrder::Memory,
            Order::Bytes => HandlerOrder::Bytes,
        },
        limit: Some(args.limit),
    }
}

/// The answer as text.
fn text(command: &Command, answer: Answer) -> Result<String, Error> {
    let width = output::width();
    Ok(match (command, answer) {
        (Command::List, Answer::Status(status)) => show::list(&status, width),
        (Command::Metrics { format }, Answer::Status(status)) => {
            metrics::text(&status, metrics_format(*format))
        }
        (Command::Status { .. }, Answer::Status(status)) => show::status(&status, width),
        (Command::Handlers(_), Answer::Handlers(handlers)) => show::handlers(&handlers, width),
        (Command::Sources { .. }, Answer::Sources(sources)) => show::sources(&sources, width),
        (Command::Explain { .. }, Answer::Explanation(explanation)) => {
            show::explanation(&explanation)
        }
        (_, Answer::Done(done)) => show::done(&done),
        (_, answer) => return Err(unexpected(&answer)),
    })
}

fn metrics_format(format: MetricsFormat) -> metrics::Format {
    match format {
        MetricsFormat::OpenMetrics => metrics::Format::OpenMetrics,
        MetricsFormat::Prometheus => metrics::Format::Prometheus,
    }
}

/// Prints an answer as it stands in the protocol; a failure too, which is still returned.
fn print_json(answer: Result<Answer, Error>) -> Result<(), Error> {
    match answer {
        Ok(answer) => output::write(&json(&answer)?),
        Err(Error::Failure(failure)) => {
            output::write(&json(&Answer::Failed(failure.clone()))?)?;
            Err(Error::Failure(failure))
        }
        Err(error) => Err(error),
    }
}

fn json(answer: &impl serde::Serialize) -> Result<String, Error> {
    let line = serde_json::to_string(answer)
        .map_err(|error| Error::Local(format!("the answer can't be written: {error}")))?;
    Ok(escaped_json(&line) + "\n")
}

fn print_events(socket: &Path, filter: EventFilter, as_json: bool) -> Result<(), Error> {
    for event in Client::connect(socket)?.events(filter)? {
        let event = event?;
        output::write(&if as_json {
            json(&event)?
        } else {
            show::event(&event)
        })?;
    }
    Ok(())
}

/// The completions that belong to this skdctl.
fn completions(shell: Shell) -> &'static str {
    match shell {
        Shell::Bash => include_str!("../completions/skdctl.bash"),
        Shell::Zsh => include_str!("../completions/_skdctl"),
        Shell::Fish => include_str!("../completions/skdctl.fish"),
    }
}
