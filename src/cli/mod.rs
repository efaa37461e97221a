//! The command line: from what was typed to a [`Config`] in which nothing needs to be
//! checked again.

mod admission;
mod datagrams;
mod options;
mod prestart;
mod sockets;
pub mod values;

use std::cell::RefCell;
use std::env;
use std::ffi::{CString, OsStr, OsString};
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use crate::config::{
    Account, Config, Daemon, Endpoint, Identity, InetAddress, Listen, LogTarget, Mode, Names, Port,
    Service, SocketSource, Style, Supervise, Surroundings, UnixAddress, Who, look_up,
};
use crate::error::Error;
use crate::sys::names;

pub use options::{GROUPS, Kind, Opt, command, help};

/// What the command line asks for.
#[derive(Debug)]
pub enum Request {
    /// To run.
    Run(Box<Config>),
    /// To say what is wrong, beginning with these faults of the command line itself. What
    /// couldn't be read is left out of the config; of a program that would run who knows
    /// where, or as who knows whom, the whole command.
    Check(Box<Config>, Vec<Error>),
    /// To say what the rules make of somebody: one address, `unix`, or a user or group there.
    Explain(Box<Config>, Who),
    /// To print this text on standard output.
    Print(String),
}

/// What a running daemon knows already. Names are not looked up again for the image that
/// takes over from it: perhaps in another root directory, and whatever they stand for by now,
/// the process is who it is.
#[derive(Debug)]
pub struct Known {
    /// Whom it has become, if anybody.
    pub identity: Option<Identity>,
}

/// Reads the command line; the first of `arguments` is the program's own name.
pub fn parse(
    arguments: impl IntoIterator<Item = OsString>,
    known: Option<Known>,
) -> Result<Request, Error> {
    match command().try_get_matches_from(arguments) {
        Ok(matches) => {
            let args = Args {
                matches: &matches,
                names: known.is_none(),
                faults: RefCell::default(),
            };
            let config = Box::new(config(&args, known));
            let names = args.names();
            let client = args.read("explain", |text| admission::client(text, names));
            if client.is_some() && args.flag("check") {
                args.refuse("--explain can't be used with --check: each says something else");
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
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp => Ok(Request::Print(help::common())),
            ErrorKind::TooManyValues if option(&error) == "--help" => long_help(&error),
            ErrorKind::DisplayVersion => Ok(Request::Print(error.to_string())),
            _ => Err(Error::Usage(sentence(&error))),
        },
    }
}

/// The answer to `--help` with a value, which clap takes for an error.
fn long_help(error: &clap::Error) -> Result<Request, Error> {
    match context(error, ContextKind::InvalidValue).unwrap_or_default() {
        help::ALL => Ok(Request::Print(help::all())),
        value => Err(Error::Usage(format!(
            "invalid value '{value}' for --help: it takes '{}' or no value",
            help::ALL
        ))),
    }
}

/// A detail of an error.
fn context(error: &clap::Error, kind: ContextKind) -> Option<&str> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text),
        ContextValue::Strings(texts) => texts.first().map(String::as_str),
        _ => None,
    }
}

/// The option that an error is about.
fn option(error: &clap::Error) -> &str {
    // clap adds what the option takes: "--tcp <[HOST:]PORT>", "--verbose...".
    let option = context(error, ContextKind::InvalidArg).unwrap_or_default();
    option.split([' ', '.']).next().unwrap_or_default()
}

/// An error of clap as one line in the style of skd's messages.
fn sentence(error: &clap::Error) -> String {
    let option = option(error);
    match error.kind() {
        ErrorKind::UnknownArgument => {
            let like = context(error, ContextKind::SuggestedArg)
                .map(|like| format!(", perhaps {like}?"))
                .unwrap_or_default();
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

/// Reads all that was typed. What is wrong with it is kept in `args`, and what can't be
/// read is as if it hadn't been given; whether something was, where that matters for
/// another option, is therefore asked of `args`.
fn config(args: &Args<'_>, known: Option<Known>) -> Config {
    let command = program(args);
    let listeners = listeners(args);
    let supervise = args.flag("supervise");
    who_accepts(args, &listeners);
    let ready_fd = args.read("ready-fd", values::ready_fd);
    match ready_fd {
        Some(number) if !args.listens() && !supervise => args.refuse(format!(
            "--ready-fd {number} has no use without a listener or --supervise: PROG inherits the \
             descriptor, and says itself when it is ready"
        )),
        Some(1) if supervise => {
            args.refuse("--ready-fd 1 can't be used with --supervise: it is PROG's own output");
        }
        _ => {}
    }
    let datagrams = datagrams::mode(args, &listeners);
    let told = ["drain", "timeout", "idle-timeout"];
    for (option, used, by) in [
        ("drain", args.listens() && !supervise, "a listener"),
        (
            "kill-after",
            supervise || told.into_iter().any(|option| args.has(option)),
            "--drain, --timeout, --idle-timeout or --supervise",
        ),
    ] {
        if !used && args.has(option) {
            args.refuse(format!("--{option} has no use without {by}"));
        }
    }
    let faults = args.faults.borrow().len();
    let identity = match known {
        Some(known) => known.identity,
        None => identity(args),
    };
    let root = root(args);
    let surroundings = surroundings(args);
    let misplaced = args.faults.borrow().len() > faults;
    let connected = style(args).has_connections();
    let inet = args.has("inet") && connected;
    let unix = args.has("unix") && connected;
    let tcp = args.has("tcp") || inet || args.has("listen-fd") || args.flag("systemd");
    let accepts = (tcp || unix) && !supervise && !args.flag("wait");
    let clients = admission::Clients {
        accepted: accepts,
        tcp,
        datagrams,
    };
    let admission = admission::admission(args, clients);
    Config {
        daemon: Daemon {
            verbosity: args.matches.get_count("verbose"),
            background: args.flag("background"),
            log: args.read("log", LogTarget::parse),
            pidfile: args.read("pidfile", values::path),
            ready_fd,
            identity,
            root,
            threads: args.read("threads", values::threads),
        },
        services: vec![Service {
            name: service_name(&command),
            surroundings,
            admission,
            prestart: prestart::prestart(args, &listeners, accepts),
            mode: mode(args),
            drain: args.read("drain", values::duration),
            kill_after: args.read("kill-after", values::duration),
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

/// How PROG gets its clients.
fn mode(args: &Args<'_>) -> Mode {
    let idle_exit = args.read("idle-exit", values::duration);
    if args.flag("supervise") {
        Mode::Supervise(Supervise {
            on_demand: args.flag("on-demand"),
            idle_exit,
        })
    } else if args.flag("wait") {
        Mode::Wait
    } else {
        Mode::PerConnection
    }
}

/// The name of the service of a command line: the last part of its program's path.
fn service_name(command: &[CString]) -> String {
    let program = command
        .first()
        .map_or_else(Vec::new, |name| name.as_bytes().to_vec());
    let name = program.rsplit(|byte| *byte == b'/').next();
    String::from_utf8_lossy(name.unwrap_or_default()).into_owned()
}

fn program(args: &Args<'_>) -> Vec<CString> {
    let Some(command) = args.matches.get_many::<OsString>(options::COMMAND) else {
        args.refuse("no PROG to run: skd [OPTIONS] [--] PROG [ARGS]... (see skd --help)");
        return Vec::new();
    };
    let command: Vec<CString> = command
        .filter_map(|word| args.c_string(word.clone()))
        .collect();
    if command.first().is_some_and(|name| name.is_empty()) {
        args.refuse("PROG is empty");
        return Vec::new();
    }
    command
}

/// What was typed, by the long name of the option, and what is wrong with it.
struct Args<'a> {
    matches: &'a ArgMatches,
    /// Whether names are looked up.
    names: bool,
    faults: RefCell<Vec<Error>>,
}

impl Args<'_> {
    fn refuse(&self, text: impl Into<String>) {
        self.faults.borrow_mut().push(Error::Usage(text.into()));
    }

    /// How to find users and groups of that name. What is running already has their numbers,
    /// and any other does until those are put in its place.
    fn names(&self) -> Names<'static> {
        match self.names {
            true => &look_up,
            false => &|_, _| Ok(u32::MAX),
        }
    }

    fn flag(&self, option: &str) -> bool {
        self.matches.get_flag(option)
    }

    /// Whether an option that takes a value was given, readable or not.
    fn has(&self, option: &str) -> bool {
        self.matches.contains_id(option)
    }

    fn listens(&self) -> bool {
        let options = ["tcp", "udp", "inet", "unix", "listen-fd"];
        self.flag("systemd") || options.iter().any(|option| self.has(option))
    }

    /// The value of an option, read by `reader`.
    fn read<T, E: std::fmt::Display>(
        &self,
        option: &str,
        reader: impl Fn(&OsStr) -> Result<T, E>,
    ) -> Option<T> {
        let value = self.matches.get_one::<OsString>(option)?;
        self.value(option, value, reader)
    }

    /// One value of an option, read by `reader`.
    fn value<T, E: std::fmt::Display>(
        &self,
        option: &str,
        value: &OsStr,
        reader: impl Fn(&OsStr) -> Result<T, E>,
    ) -> Option<T> {
        let refuse = |why| {
            let value = value.display();
            self.refuse(format!("invalid value '{value}' for --{option}: {why}"));
        };
        reader(value).map_err(refuse).ok()
    }

    /// The values of a repeatable option, with their places on the command line.
    fn each(&self, option: &str) -> impl Iterator<Item = (usize, &OsStr)> {
        let values = self.matches.get_many::<OsString>(option);
        let places = self.matches.indices_of(option).into_iter().flatten();
        places.zip(values.unwrap_or_default().map(OsString::as_os_str))
    }

    fn c_string(&self, text: OsString) -> Option<CString> {
        // Arguments of a process have no NUL inside; nor has anything made from them.
        let refuse = |_| self.refuse("an argument has a NUL byte inside");
        CString::new(text.into_vec()).map_err(refuse).ok()
    }
}

/// Of what style the sockets are whose option doesn't say it.
fn style(args: &Args<'_>) -> Style {
    if args.flag("datagram") {
        Style::Datagram
    } else if args.flag("seqpacket") {
        Style::Seqpacket
    } else {
        Style::Stream
    }
}

fn listeners(args: &Args<'_>) -> Vec<Listen> {
    let style = style(args);
    let backlog = args.read("backlog", values::positive);
    let mode = args.read("unix-mode", values::mode);
    let owner = match args.names {
        true => args.read("unix-owner", values::owner),
        false => None,
    };

    let mut found = Vec::new();
    for (option, style) in [
        ("tcp", Style::Stream),
        ("udp", Style::Datagram),
        ("inet", style),
    ] {
        for (place, value) in args.each(option) {
            let endpoint = args.value(option, value, |value| inet(value, style, args.names));
            found.extend(endpoint.map(|endpoint| (place, spelt(option, value), endpoint)));
        }
    }
    for (place, value) in args.each("unix") {
        let Some(address) = args.value("unix", value, UnixAddress::parse) else {
            continue;
        };
        if let UnixAddress::Abstract(_) = address {
            for option in ["unix-mode", "unix-owner"] {
                if args.has(option) {
                    args.refuse(format!(
                        "--{option} can't be used with {address}: an abstract socket has no file"
                    ));
                }
            }
        }
        let endpoint = Endpoint::Unix {
            style,
            address,
            mode,
            owner,
        };
        found.push((place, spelt("unix", value), endpoint));
    }

    let unix = args.has("unix");
    let styled = args.has("inet") || unix;
    if style == Style::Datagram && !styled {
        args.refuse(
            "--datagram says of what style -i, -l and -x are, and there is none; for UDP use -u",
        );
    }
    if style == Style::Seqpacket {
        seqpacket(args);
    }
    for (place, value) in args.each("listen-fd") {
        let number = args.value("listen-fd", value, values::descriptor);
        found.extend(number.map(|number| {
            let by = SocketSource::Number(number);
            (place, spelt("listen-fd", value), Endpoint::Inherited { by })
        }));
    }
    if args.flag("systemd") {
        let by = SocketSource::Systemd;
        let place = args.matches.index_of("systemd").unwrap_or_default();
        found.push((place, "--systemd".into(), Endpoint::Inherited { by }));
    }

    // Without a listener, what skd 1.2 knew is accepted and unused, as it was there.
    let saved = args.has("listen-fd") || args.flag("systemd");
    let stream = args.has("tcp") || styled && style.has_connections() || saved;
    for (option, used, by) in [
        ("unix-mode", unix, "--unix"),
        ("unix-owner", unix, "--unix"),
        (
            "threads",
            stream || args.has("datagram-mode"),
            "a stream listener",
        ),
    ] {
        if !used && args.has(option) {
            args.refuse(format!("--{option} has no use without {by}"));
        }
    }
    let kinds = sockets::Kinds {
        tcp: args.has("tcp") || args.has("inet") && style == Style::Stream,
        udp: args.has("udp") || args.has("inet") && style == Style::Datagram,
        unix_datagram: unix && style == Style::Datagram,
        args: saved,
    };
    let options = sockets::options(args, &kinds);
    found.sort_by_key(|(place, ..)| *place);
    for (index, (_, option, endpoint)) in found.iter().enumerate() {
        let mut earlier = found[..index].iter();
        if !endpoint.may_be_repeated() && earlier.any(|(.., other)| other == endpoint) {
            args.refuse(format!("{option} is given twice"));
        }
    }
    found
        .into_iter()
        .map(|(_, option, endpoint)| Listen {
            option,
            endpoint,
            backlog,
            options: options.clone(),
        })
        .collect()
}

/// Refuses what can't be with sequential packets.
fn seqpacket(args: &Args<'_>) {
    if args.has("inet") {
        args.refuse(
            "--seqpacket can't be used with --inet (-i), which has no such sockets; write --tcp \
             or --udp",
        );
    } else if !args.has("unix") {
        args.refuse("--seqpacket says of what style -l and -x are, and there is none");
    }
    if args.flag("proxy-protocol") {
        args.refuse(
            "--proxy-protocol can't be used with --seqpacket: a header is the beginning of a \
             stream",
        );
    }
}

/// Refuses what has no use when skd doesn't accept connections itself, or when it does.
fn who_accepts(args: &Args<'_>, listeners: &[Listen]) {
    let supervise = args.flag("supervise");
    let wait = args.flag("wait");
    let stream = |listen: &Listen| listen.endpoint.style().is_none_or(Style::has_connections);
    if wait && !listeners.iter().any(stream) {
        args.refuse("--wait has no use without a stream listener: datagrams are served so anyway");
    }
    if args.flag("on-demand") && (!supervise || listeners.is_empty()) {
        args.refuse(
            "--on-demand needs --supervise (-S) and a listener, at which the demand is seen",
        );
    }
    if args.has("idle-exit") {
        if !args.flag("on-demand") {
            args.refuse("--idle-exit needs --on-demand, or PROG would be run again at once");
        }
        let datagram = |listen: &&Listen| listen.endpoint.style() == Some(Style::Datagram);
        if let Some(Listen { option, .. }) = listeners.iter().find(datagram) {
            args.refuse(format!(
                "--idle-exit can't be used with {option}: datagrams have no connections, so that \
                 nobody can say who is still being served"
            ));
        }
    }
    let taker = match (supervise && !listeners.is_empty(), wait) {
        (true, true) => {
            args.refuse(
                "--wait can't be used with --supervise (-S): both hand the sockets over, one to \
                 a program that stays and one to a program that ends",
            );
            return;
        }
        (true, false) => "--supervise (-S) and a listener",
        (false, true) => "--wait",
        (false, false) => return,
    };
    for option in ["max-clients", "threads"] {
        if args.has(option) {
            args.refuse(format!(
                "--{option} has no use with {taker}: PROG accepts the connections itself"
            ));
        }
    }
}

/// An option with its value, for messages.
fn spelt(option: &str, value: &OsStr) -> String {
    format!("--{option} {}", value.display())
}

fn inet(value: &OsStr, style: Style, names: bool) -> Result<Endpoint, String> {
    let text = value.to_str().ok_or("it isn't text in UTF-8")?;
    let address: InetAddress = text.parse().map_err(|why| format!("{why}"))?;
    let protocol = match style.has_connections() {
        true => "tcp",
        false => "udp",
    };
    let port = match address.port {
        Port::Number(number) => number,
        // Of a socket that is bound already.
        Port::Service(_) if !names => 0,
        Port::Service(name) => names::service_port(&name, protocol).ok_or_else(|| {
            format!("there is no {protocol} service '{name}' in services(5); a port is a number from 0 to 65535 or such a name")
        })?,
    };
    Ok(Endpoint::Inet {
        style,
        host: address.host,
        port,
    })
}

fn identity(args: &Args<'_>) -> Option<Identity> {
    let by_name = args.read("user", values::identity);
    if !args.flag("drop-privileges") {
        return by_name;
    }
    if args.has("user") {
        args.refuse("--user can't be used with --drop-privileges (-U): each says whom to become");
        return by_name;
    }
    let uid = from_environment(args, "UID", values::uid);
    let gid = from_environment(args, "GID", values::gid)?;
    Some(Identity {
        uid: uid?,
        gid,
        groups: vec![gid],
        account: Account::Inherited,
    })
}

fn from_environment<T, E: std::fmt::Display>(
    args: &Args<'_>,
    name: &str,
    reader: impl Fn(&OsStr) -> Result<T, E>,
) -> Option<T> {
    let Some(value) = env::var_os(name) else {
        args.refuse(format!(
            "--drop-privileges (-U) takes the id from ${name}, which is not set"
        ));
        return None;
    };
    let refuse = |why| {
        let value = value.display();
        args.refuse(format!(
            "invalid value '{value}' of ${name} for --drop-privileges (-U): {why}"
        ));
    };
    reader(&value).map_err(refuse).ok()
}

fn root(args: &Args<'_>) -> Option<PathBuf> {
    let drops = args.flag("drop-privileges");
    if args.has("chroot") {
        let root = args.read("chroot", values::path);
        if !drops && !args.has("user") {
            args.refuse(
                "--chroot needs --user or --drop-privileges: root can leave any root directory",
            );
        }
        return root;
    }
    let root = env::var_os("ROOT").filter(|_| drops)?;
    if root.is_empty() {
        args.refuse("$ROOT for --drop-privileges (-U) is empty; unset it, or name a directory");
        return None;
    }
    Some(PathBuf::from(root))
}

fn surroundings(args: &Args<'_>) -> Surroundings {
    let mut limits: Vec<crate::config::Limit> = Vec::new();
    for (_, value) in args.each("limit") {
        if let Some(limit) = args.value("limit", value, values::limit) {
            limits.retain(|earlier| earlier.name != limit.name);
            limits.push(limit);
        }
    }
    let serves = args.listens();
    let variable = |value: &OsStr| values::variable(value, serves);
    Surroundings {
        limits,
        environment: args
            .each("env")
            .filter_map(|(_, value)| args.value("env", value, variable))
            .collect(),
        directory: args
            .read("chdir", values::path)
            .and_then(|path| args.c_string(path.into_os_string())),
        umask: args.read("umask", values::mode),
        nice: args.read("nice", values::nice),
        no_new_privileges: args.flag("no-new-privs"),
    }
}
