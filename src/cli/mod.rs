//! The command line: parsing it into a complete and valid [`Config`].

mod admission;
mod args;
mod datagrams;
mod identity;
mod listeners;
mod options;
mod prestart;
mod program;
mod sockets;
mod suggest;
pub mod values;

use std::cell::RefCell;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::Path;

use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::{Config, Daemon, DatagramMode, Identity, LogTarget, Service, Who};
use crate::error::Error;

use admission::Clients;
use args::Args;
use options::COMMAND;
pub use options::{GROUPS, Kind, Opt, command, help};

/// The request of a command line.
#[derive(Debug)]
pub enum Request {
    /// Serve.
    Run(Box<Config>),
    /// Report faults, beginning with these of the command line itself. Invalid values are left out
    /// of the config. The command is left out if the user or directory to run it in is invalid.
    Check(Box<Config>, Vec<Error>),
    /// Report the rule for a client: one address, `unix`, or a user or group on a unix socket.
    Explain(Box<Config>, Who),
    /// Print this text on standard output.
    Print(String),
}

/// What a process knows after an upgrade. It doesn't look up the same names again: its root
/// directory may be another, the answers may take long, and its sockets are bound.
#[derive(Clone, Debug)]
pub struct Known {
    /// The users that were looked up.
    pub identities: Vec<Identity>,
}

/// Parses the command line. The first of `arguments` is the program's own name.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    known: Option<Known>,
) -> Result<Request, Error> {
    let arguments: Vec<_> = arguments.into_iter().collect();
    let error = match command().try_get_matches_from(&arguments) {
        Ok(matches) => return read(&matches, known),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::DisplayHelp => Ok(Request::Print(help::common())),
        ErrorKind::TooManyValues if option(&error) == "--help" => long_help(&error),
        ErrorKind::DisplayVersion => Ok(Request::Print(error.to_string())),
        _ => {
            let fault = Error::Usage(sentence(&error));
            match corrected(arguments, &error).map(|words| parse(words, known)) {
                // The other faults too.
                Some(Ok(Request::Check(config, mut faults))) => {
                    faults.insert(0, fault);
                    Ok(Request::Check(config, faults))
                }
                _ => Err(fault),
            }
        }
    }
}

/// Reads the options of a command line that has only known ones.
fn read(matches: &ArgMatches, known: Option<Known>) -> Result<Request, Error> {
    let args = Args {
        matches,
        names: known.is_none(),
        faults: RefCell::default(),
        notes: RefCell::default(),
    };
    let config = Box::new(config(&args, known));
    let names = args.names();
    let client = args.read("explain", |text| admission::client(text, names));
    if client.is_some() && args.flag("check") {
        args.refuse("--explain can't be used with --check: they report different things");
    }
    let mut faults = args.faults.into_inner();
    if matches.get_flag("check") {
        return Ok(Request::Check(config, faults));
    }
    match (faults.is_empty(), client) {
        (true, None) => Ok(Request::Run(config)),
        (true, Some(client)) => Ok(Request::Explain(config, client)),
        (false, _) => Err(faults.swap_remove(0)),
    }
}

/// Returns the words to be checked with `--check`, with the option that was meant by an unknown
/// one. Without it, it can't be known which of the words after it is PROG.
fn corrected(mut words: Vec<OsString>, error: &clap::Error) -> Option<Vec<OsString>> {
    let unknown = option(error);
    let like = match error.kind() {
        ErrorKind::UnknownArgument => suggest::like(unknown)?,
        _ => return None,
    };
    if !words.iter().any(|word| word == "--check") {
        return None;
    }
    // Each correction leaves fewer unknown words.
    let (word, rest) = words.iter_mut().skip(1).find_map(|word| {
        let rest = word.to_str()?.strip_prefix(unknown)?.to_owned();
        (rest.is_empty() || rest.starts_with('=')).then_some((word, rest))
    })?;
    *word = format!("--{}{rest}", like.long).into();
    Some(words)
}

/// Returns the answer to `--help` with a value, which clap reports as an error.
fn long_help(error: &clap::Error) -> Result<Request, Error> {
    match context(error, ContextKind::InvalidValue).unwrap_or_default() {
        help::ALL => Ok(Request::Print(help::all())),
        value => Err(Error::Usage(format!(
            "invalid value '{value}' for --help: it takes '{}' or no value",
            help::ALL
        ))),
    }
}

/// Returns a detail of an error.
fn context(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text),
        ContextValue::Strings(texts) => texts.first().map(String::as_str),
        _ => None,
    }
}

/// Returns the option that an error is about.
fn option(error: &clap::Error) -> &str {
    // clap adds the name of the value: "--tcp <[HOST:]PORT>", "--verbose...".
    let option = context(error, ContextKind::InvalidArg).unwrap_or_default();
    option.split([' ', '.']).next().unwrap_or_default()
}

/// Returns an error of clap as one line in the style of skd's messages.
fn sentence(error: &clap::Error) -> String {
    let option = option(error);
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let like = suggest::like(option).map(|like| match like.shorts.first() {
                Some(short) => format!(", perhaps --{} (-{short})?", like.long),
                None => format!(", perhaps --{}?", like.long),
            });
            let like = like.unwrap_or_default();
            format!("unknown option {option}{like} (skd --help=all lists all options)")
        }
        ErrorKind::InvalidValue | ErrorKind::TooFewValues | ErrorKind::WrongNumberOfValues => {
            format!("{option}: the value is missing")
        }
        ErrorKind::TooManyValues => format!("{option} takes no value"),
        _ => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.trim_start_matches("error: ").to_owned()
        }
    }
}

/// Reads all options. Faults are added to `args`. An invalid value counts as unset, so whether one
/// option needs another is decided by what was given, not by the result.
fn config(args: &Args<'_>, known: Option<Known>) -> Config {
    let command = program::command(args);
    let listeners = listeners::listeners(args);
    let supervise = args.flag("supervise");
    listeners::check_who_accepts(args, &listeners);
    let ready_fd = args.read("ready-fd", values::ready_fd);
    match ready_fd {
        Some(number) if !args.listens() && !supervise => args.refuse(format!(
            "--ready-fd {number} has no use without a listener or --supervise: PROG inherits the \
             descriptor and reports itself when it is ready"
        )),
        Some(1) if supervise => {
            args.refuse("--ready-fd 1 can't be used with --supervise: it is PROG's own output");
        }
        _ => {}
    }
    let datagrams = datagrams::mode(args, &listeners);
    let ending = ["drain", "timeout", "idle-timeout"];
    for (option, used, by) in [
        ("drain", args.listens() && !supervise, "a listener"),
        (
            "kill-after",
            supervise || ending.into_iter().any(|option| args.has(option)),
            "--drain, --timeout, --idle-timeout or --supervise",
        ),
    ] {
        if !used && args.has(option) {
            args.refuse(format!("--{option} has no use without {by}"));
        }
    }
    let faults = args.faults.borrow().len();
    let known = known.map(|known| known.identities).unwrap_or_default();
    let identity = identity::handlers(args, &known);
    let daemon_identity = identity::daemon(args, &known);
    let (root, daemon_root) = identity::roots(args);
    let surroundings = program::surroundings(args);
    let misplaced = args.faults.borrow().len() > faults;
    let connected = listeners::style(args).has_connections();
    let inet = args.has("inet") && connected;
    let unix = args.has("unix") && connected;
    let tcp = args.has("tcp") || inet || args.has("listen-fd") || args.flag("systemd");
    let accepts = (tcp || unix) && !supervise && !args.flag("wait");
    let clients = Clients {
        accepted: accepts,
        tcp,
        datagrams,
    };
    let admission = admission::admission(args, clients);
    let log = args.read("log", LogTarget::parse);
    let pidfile = args.read("pidfile", values::path);
    let mode = program::mode(args);
    notes(args, clients, tcp || unix);
    let drain = args.read("drain", values::duration);
    let kill_after = args.read("kill-after", values::duration);
    Config {
        daemon: Daemon {
            verbosity: args.matches.get_count("verbose"),
            background: args.flag("background"),
            log,
            pidfile,
            ready_fd,
            identity: daemon_identity,
            root: daemon_root,
            threads: args.read("threads", values::threads),
        },
        services: vec![Service {
            name: program::service_name(&command),
            notes: args.notes.take(),
            surroundings,
            admission,
            prestart: prestart::prestart(args, &listeners, accepts),
            mode,
            identity,
            as_peer: identity::as_peer(args, &listeners),
            root,
            drain,
            kill_after,
            min_source_port: datagrams::min_source_port(args, datagrams, &listeners),
            datagrams,
            listeners,
            command: if misplaced { Vec::new() } else { command },
            max_clients: args
                .read("max-clients", values::positive)
                .and_then(|number| NonZeroUsize::new(number as usize)),
        }],
    }
}

/// The options that make listeners, as they are written most.
const LISTENERS: [&str; 8] = ["-t", "-u", "-i", "-l", "--tcp", "--udp", "--inet", "--unix"];

/// Notes the options that have no effect. skd 1.2 accepted these; all others are refused.
fn notes(args: &Args<'_>, clients: Clients, connects: bool) {
    let without = |option: &str, what: &str| {
        args.note(format!("--{option} has no effect without {what}"));
    };
    if !args.any() {
        let words = args.matches.get_many::<OsString>(COMMAND);
        let listener = |word: &&OsString| LISTENERS.iter().any(|option| word == option);
        if let Some(word) = words.and_then(|mut words| words.find(listener)) {
            args.note(format!(
                "no listener: options come before PROG, and {} is an argument of it",
                Path::new(word).display()
            ));
        }
    }
    // With a program that accepts connections itself, it is refused.
    let taken = args.flag("wait") || args.flag("supervise") && args.listens();
    let limited = clients.accepted || clients.datagrams != DatagramMode::Wait || taken;
    if args.has("max-clients") && !limited {
        match args.listens() {
            false => without("max-clients", "a listener: PROG runs once"),
            true => without(
                "max-clients",
                "a stream listener or --datagram-mode: a datagram listener has one handler",
            ),
        }
    }
    if args.has("backlog") && !connects {
        without("backlog", "a stream listener");
    }
    if args.flag("nodelay") && !clients.tcp {
        without("nodelay", "a TCP listener");
    }
}
