//! The command line: from what was typed to a [`Config`] in which nothing needs to be
//! checked again.

mod options;
pub mod values;

use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::{
    Account, Config, Daemon, Endpoint, Identity, InetAddress, Listen, LogTarget, Port, Service,
    Style, Surroundings, UnixAddress,
};
use crate::error::Error;
use crate::sys::names;

pub use options::{GROUPS, Kind, Opt, command};

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// To run.
    Run(Box<Config>),
    /// To print this text on standard output.
    Print(String),
}

/// Reads the command line; the first of `arguments` is the program's own name.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Request, Error> {
    match command().try_get_matches_from(arguments) {
        Ok(matches) => Ok(Request::Run(Box::new(config(&matches)?))),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp => Ok(Request::Print(error.to_string())),
            ErrorKind::DisplayVersion => Ok(Request::Print(error.to_string())),
            _ => Err(Error::Usage(sentence(&error))),
        },
    }
}

/// What clap has to say, in one line and our own words.
fn sentence(error: &clap::Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    // clap adds what the option takes: "--tcp <[HOST:]PORT>", "--verbose...".
    let option = context(ContextKind::InvalidArg).unwrap_or_default();
    let option = option.split([' ', '.']).next().unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let like = context(ContextKind::SuggestedArg);
            let like = like
                .map(|like| format!(", perhaps {like}?"))
                .unwrap_or_default();
            format!("unknown option {option}{like} (skd --help lists them all)")
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

fn config(matches: &ArgMatches) -> Result<Config, Error> {
    let given = Given(matches);
    let Some(command) = matches.get_many::<OsString>(options::COMMAND) else {
        return usage("no PROG to run: skd [OPTIONS] [--] PROG [ARGS]... (see skd --help)");
    };
    let command = command
        .cloned()
        .map(c_string)
        .collect::<Result<Vec<_>, _>>()?;
    if command.first().is_some_and(|name| name.is_empty()) {
        return usage("PROG is empty");
    }
    let listeners = listeners(&given)?;
    let supervise = given.flag("supervise");
    if supervise && !listeners.is_empty() {
        return usage("--supervise runs a program without a listener: leave out one or the other");
    }
    let identity = identity(&given)?;
    let root = root(&given, identity.is_some())?;
    Ok(Config {
        daemon: Daemon {
            verbosity: matches.get_count("verbose"),
            background: given.flag("background"),
            log: given.read("log", LogTarget::parse)?,
            pidfile: given.read("pidfile", values::path)?,
            supervise,
            identity,
            root,
            threads: given.read("threads", values::threads)?,
        },
        services: vec![Service {
            surroundings: surroundings(&given, !listeners.is_empty())?,
            listeners,
            command,
            max_clients: given
                .read("max-clients", values::positive)?
                .and_then(|number| NonZeroUsize::new(number as usize)),
        }],
    })
}

fn usage<T>(text: impl Into<String>) -> Result<T, Error> {
    Err(Error::Usage(text.into()))
}

fn c_string(text: OsString) -> Result<CString, Error> {
    // Arguments of a process have no NUL inside; nor has anything made from them.
    CString::new(text.into_vec()).or_else(|_| usage("an argument has a NUL byte inside"))
}

/// What was typed, by the long name of the option.
struct Given<'a>(&'a ArgMatches);

impl Given<'_> {
    fn flag(&self, option: &str) -> bool {
        self.0.get_flag(option)
    }

    /// The value of an option, read by `reader`.
    fn read<T, E: std::fmt::Display>(
        &self,
        option: &str,
        reader: impl Fn(&OsStr) -> Result<T, E>,
    ) -> Result<Option<T>, Error> {
        let value = self.0.get_one::<OsString>(option);
        value.map(|value| read(option, value, &reader)).transpose()
    }

    /// The values of a repeatable option, with their places on the command line.
    fn each(&self, option: &str) -> impl Iterator<Item = (usize, &OsStr)> {
        let values = self.0.get_many::<OsString>(option).unwrap_or_default();
        let places = self.0.indices_of(option).into_iter().flatten();
        places.zip(values.map(OsString::as_os_str))
    }
}

fn read<T, E: std::fmt::Display>(
    option: &str,
    value: &OsStr,
    reader: impl Fn(&OsStr) -> Result<T, E>,
) -> Result<T, Error> {
    reader(value).map_err(|why| {
        Error::Usage(format!(
            "invalid value '{}' for --{option}: {why}",
            value.display()
        ))
    })
}

fn listeners(given: &Given<'_>) -> Result<Vec<Listen>, Error> {
    let style = if given.flag("datagram") {
        Style::Datagram
    } else {
        Style::Stream
    };
    let nodelay = given.flag("nodelay");
    let backlog = given.read("backlog", values::positive)?;
    let mode = given.read("unix-mode", values::mode)?;
    let owner = given.read("unix-owner", values::owner)?;

    let mut found = Vec::new();
    for (option, style) in [
        ("tcp", Style::Stream),
        ("udp", Style::Datagram),
        ("inet", style),
    ] {
        for (place, value) in given.each(option) {
            let endpoint = read(option, value, |value| inet(value, style, nodelay))?;
            found.push((place, option, value, endpoint, style));
        }
    }
    for (place, value) in given.each("unix") {
        let address = read("unix", value, UnixAddress::parse)?;
        if let UnixAddress::Abstract(_) = address {
            for (option, set) in [
                ("unix-mode", mode.is_some()),
                ("unix-owner", owner.is_some()),
            ] {
                if set {
                    return usage(format!(
                        "--{option} can't be used with {address}: an abstract socket has no file"
                    ));
                }
            }
        }
        let endpoint = Endpoint::Unix {
            address,
            mode,
            owner,
        };
        found.push((place, "unix", value, endpoint, style));
    }

    let styled = |option: &str| option == "inet" || option == "unix";
    if style == Style::Datagram && !found.iter().any(|(_, option, ..)| styled(option)) {
        return usage(
            "--datagram says of what style -i, -l and -x are, and there is none; for UDP use -u",
        );
    }
    // Without a listener, what skd 1.2 knew is accepted and unused, as it was there.
    let unix = found.iter().any(|(_, option, ..)| *option == "unix");
    let stream = found.iter().any(|(.., style)| *style == Style::Stream);
    for (option, used, by) in [
        ("unix-mode", unix, "--unix"),
        ("unix-owner", unix, "--unix"),
        ("threads", stream, "a stream listener"),
    ] {
        if !used && given.0.contains_id(option) {
            return usage(format!("--{option} has no use without {by}"));
        }
    }
    found.sort_by_key(|(place, ..)| *place);
    for (index, (_, option, value, endpoint, style)) in found.iter().enumerate() {
        let mut earlier = found[..index].iter();
        let twice = |(.., other, other_style): &(_, _, _, Endpoint, Style)| {
            other == endpoint && other_style == style && !endpoint.may_be_repeated()
        };
        if earlier.any(twice) {
            return usage(format!("--{option} {} is given twice", value.display()));
        }
    }
    Ok(found
        .into_iter()
        .map(|(_, option, value, endpoint, style)| Listen {
            option: format!("--{option} {}", value.display()),
            endpoint,
            style,
            backlog,
        })
        .collect())
}

fn inet(value: &OsStr, style: Style, nodelay: bool) -> Result<Endpoint, String> {
    let text = value.to_str().ok_or("it isn't text in UTF-8")?;
    let address: InetAddress = text.parse().map_err(|why| format!("{why}"))?;
    let protocol = match style {
        Style::Stream => "tcp",
        Style::Datagram => "udp",
    };
    let port = match address.port {
        Port::Number(number) => number,
        Port::Service(name) => names::service_port(&name, protocol).ok_or_else(|| {
            format!("there is no {protocol} service '{name}' in services(5); a port is a number from 0 to 65535 or such a name")
        })?,
    };
    Ok(Endpoint::Inet {
        host: address.host,
        port,
        nodelay,
    })
}

fn identity(given: &Given<'_>) -> Result<Option<Identity>, Error> {
    let by_name = given.read("user", values::identity)?;
    if !given.flag("drop-privileges") {
        return Ok(by_name);
    }
    if by_name.is_some() {
        return usage("--user can't be used with --drop-privileges (-U): each says whom to become");
    }
    let uid = from_environment("UID", values::uid)?;
    let gid = from_environment("GID", values::gid)?;
    Ok(Some(Identity {
        uid,
        gid,
        groups: vec![gid],
        account: Account::Inherited,
    }))
}

fn from_environment<T, E: std::fmt::Display>(
    name: &str,
    reader: impl Fn(&OsStr) -> Result<T, E>,
) -> Result<T, Error> {
    let Some(value) = env::var_os(name) else {
        return usage(format!(
            "--drop-privileges (-U) takes the id from ${name}, which is not set"
        ));
    };
    reader(&value).map_err(|why| {
        Error::Usage(format!(
            "invalid value '{}' of ${name} for --drop-privileges (-U): {why}",
            value.display()
        ))
    })
}

fn root(given: &Given<'_>, drops: bool) -> Result<Option<PathBuf>, Error> {
    if let Some(root) = given.read("chroot", values::path)? {
        if !drops {
            return usage(
                "--chroot needs --user or --drop-privileges: root can leave any root directory",
            );
        }
        return Ok(Some(root));
    }
    if !given.flag("drop-privileges") {
        return Ok(None);
    }
    match env::var_os("ROOT") {
        Some(root) if root.is_empty() => {
            usage("$ROOT for --drop-privileges (-U) is empty; unset it, or name a directory")
        }
        root => Ok(root.map(PathBuf::from)),
    }
}

fn surroundings(given: &Given<'_>, serves: bool) -> Result<Surroundings, Error> {
    let mut limits: Vec<crate::config::Limit> = Vec::new();
    for (_, value) in given.each("limit") {
        let limit = read("limit", value, values::limit)?;
        limits.retain(|earlier| earlier.name != limit.name);
        limits.push(limit);
    }
    let mut environment = Vec::new();
    for (_, value) in given.each("env") {
        environment.push(read("env", value, |value| values::variable(value, serves))?);
    }
    let directory = given.read("chdir", values::path)?;
    Ok(Surroundings {
        directory: directory
            .map(|path| c_string(path.into_os_string()))
            .transpose()?,
        umask: given.read("umask", values::mode)?,
        nice: given.read("nice", values::nice)?,
        limits,
        environment,
        no_new_privileges: given.flag("no-new-privs"),
    })
}
