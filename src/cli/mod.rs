//! The command line: parsing it into a complete and valid [`Config`].

mod admission;
mod args;
mod control;
mod datagrams;
mod environment;
pub mod files;
mod gate;
mod identity;
mod isolation;
mod known;
mod listeners;
mod options;
mod prestart;
mod program;
mod service;
mod sockets;
mod suggest;
mod text_file;
mod texts;
mod tls;
pub mod values;

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::rc::Rc;

use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::{Config, FileTexts, Who};
use crate::error::Error;

use args::Args;
pub use known::{Known, LookedUp};
pub use options::{Belongs, GROUPS, Kind, Opt, command, help};

/// The request of a command line.
#[derive(Debug)]
pub enum Request {
    /// Serve.
    Run(Box<Config>),
    /// Report faults, beginning with these of the command line itself. Invalid values are left out
    /// of the config. The command is left out if the user or directory to run it in is invalid.
    Check(Box<Config>, Vec<Error>),
    /// Report these faults of files, of which there are several, and don't start.
    Refused(Vec<Error>),
    /// Report the rule for a client: one address, `unix`, or a user or group on a unix socket.
    Explain(Box<Config>, Who),
    /// Print this text on standard output.
    Print(String),
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

/// Returns what a file in TOML says, or all its faults. No value is checked.
pub fn parse_toml(path: &Path, text: &[u8]) -> Result<FileTexts, Vec<Error>> {
    let (mut daemon, mut faults) = (Vec::new(), Vec::new());
    let services = files::toml::parse(path, text, &mut daemon, &mut faults);
    match faults.is_empty() {
        true => Ok(FileTexts {
            daemon,
            services: services.into_iter().map(Into::into).collect(),
        }),
        false => Err(faults),
    }
}

/// Returns TOML that says the same, or what TOML can't have.
pub fn print_toml(texts: &FileTexts) -> Result<String, Vec<Error>> {
    files::print::toml(texts)
}

/// Reads the options of a command line that has only known ones.
fn read(matches: &ArgMatches, known: Option<Known>) -> Result<Request, Error> {
    let in_files = files::SOURCES.iter().any(|it| matches.contains_id(it));
    let mut known = known.unwrap_or_else(|| Known {
        names: Some(Rc::default()),
        ..Known::default()
    });
    let texts = known.texts.take();
    let looked_up = known.names.clone();
    let args = Args::new(matches, looked_up.as_deref(), None);
    let (config, mut faults) = match in_files {
        false => (service::config(&args, &known), Vec::new()),
        true => texts::config(&args, texts, known),
    };
    let names = |id, name: &OsStr| args.look_up_id(id, name);
    let client = args.read("explain", |text| admission::client(text, &names));
    if client.is_some() && args.flag("check") {
        args.refuse("--explain can't be used with --check: they report different things");
    }
    let prints = args.flag("print-config");
    for other in ["check", "explain"] {
        if prints && (args.is_given(other)) {
            args.refuse(format!(
                "--print-config can't be used with --{other}: they report different things"
            ));
        }
    }
    faults.extend(args.faults.take());
    let config = Box::new(config);
    if matches.get_flag("check") {
        return Ok(Request::Check(config, faults));
    }
    if prints && faults.is_empty() {
        let own = || texts::of_command_line(&args, &config);
        match print_toml(config.texts.as_ref().unwrap_or(&own())) {
            Ok(text) => return Ok(Request::Print(text)),
            Err(more) => faults = more,
        }
        return refused(faults);
    }
    match (faults.is_empty(), client) {
        (true, None) => Ok(Request::Run(config)),
        (true, Some(client)) => Ok(Request::Explain(config, client)),
        (false, _) if in_files => refused(faults),
        // On a command line, one fault often causes others.
        (false, _) => Err(faults.swap_remove(0)),
    }
}

/// Refuses what has these faults.
fn refused(mut faults: Vec<Error>) -> Result<Request, Error> {
    match faults.len() {
        1 => Err(faults.swap_remove(0)),
        _ => Ok(Request::Refused(faults)),
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
