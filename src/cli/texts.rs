//! From the texts of services to the configuration: each is read as a command line is, with the
//! location of what is wrong.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;
use std::sync::Arc;

use clap::Command;

use super::args::{Args, LISTENERS, Written, located};
use super::known::{Known, LookedUp};
use super::options::{Belongs, COMMAND, GROUPS, Kind, Opt, command};
use super::{files, service};
use crate::config::{
    Config, Daemon, Endpoint, FileTexts, Host, Identity, Listen, Location, OptionText, Service,
    ServiceText, SocketOption, Style, decimal, in_order,
};
use crate::error::Error;

/// Returns the configuration that files describe, and all faults. `args` is the command line, whose
/// options of the daemon come before those of files.
pub(super) fn config(
    args: &Args<'_>,
    texts: Option<FileTexts>,
    mut known: Known,
) -> (Config, Vec<Error>) {
    let mut faults = Vec::new();
    check_command_line(args);
    let texts = match texts {
        Some(mut texts) => {
            texts.share_paths();
            texts
        }
        None => files::read(args, &mut faults),
    };
    let mut reader = Reader {
        parser: &mut command(),
        names: args.names,
        faults: &mut faults,
    };
    let mut services = Vec::new();
    let daemon = daemon(&mut reader, args, &texts, &known);
    known.identities.extend(daemon.identity.clone());
    for text in &texts.services {
        let service = service(&mut reader, text, &known);
        let user = service.as_ref().and_then(|it| it.identity.as_ref());
        let earlier = &known.identities;
        let is_new = |user: &&Identity| earlier.iter().all(|it| it.name != user.name);
        let user = user.filter(is_new).cloned();
        known.identities.extend(user);
        services.extend(service);
    }
    check_users(&daemon, &texts.daemon, &mut services, &mut faults);
    // Without a service, printing has a use all the same: a file may be about the daemon.
    if texts.services.is_empty() && faults.is_empty() && !args.flag("print-config") {
        let why = "there is no service to run: the files have none, or none is enabled";
        faults.push(Error::Start(why.into()));
    }
    check_names(&texts.services, &mut faults);
    check_alone(&services, &mut faults);
    check_ready(&daemon, &services, &mut faults);
    check_control(&daemon, &texts.daemon, &services, &mut faults);
    check_addresses(&services, &mut faults);
    sort(&mut faults);
    let config = Config {
        daemon,
        services,
        texts: Some(texts),
    };
    (config, faults)
}

/// Sorts the faults of each file by their lines. Files stay in their order.
fn sort(faults: &mut [Error]) {
    let mut files = HashMap::new();
    faults.sort_by_cached_key(|fault| {
        let text = fault.to_string();
        let (file, line, column) = beginning(&text).unwrap_or_default();
        let number = files.len();
        (
            *files.entry(file.to_owned()).or_insert(number),
            line,
            column,
        )
    });
}

/// Returns the location with which a fault begins, as [`located`] writes it.
fn beginning(text: &str) -> Option<(&str, u32, u32)> {
    text.match_indices(':').find_map(|(at, _)| {
        let (numbers, _) = text.get(at + 1..)?.split_once(": ")?;
        let (line, column) = numbers.split_once(':').unwrap_or((numbers, "0"));
        Some((text.get(..at)?, line.parse().ok()?, column.parse().ok()?))
    })
}

/// Refuses what belongs to services on the command line.
fn check_command_line(args: &Args<'_>) {
    let source = files::SOURCES.into_iter().find(|it| args.has(it));
    let source = source.unwrap_or_default();
    for OptionText { name, .. } in options_of(args, |it| it.belongs() == Belongs::Service) {
        // With --daemon-user, skd itself enters it.
        if name != "chroot" {
            args.refuse(format!(
                "--{name} can't be used with --{source}: it is about one service, so write it in a \
                 file; beside --{source} are options of the daemon only"
            ));
        }
    }
    if let Some(word) = args.one(COMMAND) {
        args.refuse(format!(
            "PROG can't be used with --{source}: '{}' is no option, and what is run is written in \
             files",
            Path::new(word).display()
        ));
    }
}

/// Returns the options of a command line that belong to something, in their order.
fn options_of(args: &Args<'_>, belong: impl Fn(&Opt) -> bool) -> Vec<OptionText> {
    let location = Location::command_line();
    let mut found = Vec::new();
    for option in GROUPS.iter().flat_map(|(_, options)| *options) {
        if !args.is_given(option.long) || !belong(option) {
            continue;
        }
        let position = args.matches.index_of(option.long).unwrap_or_default();
        match option.kind {
            Kind::Flag | Kind::Help | Kind::Version => {
                found.push((position, OptionText::flag(option.long, &location)));
            }
            Kind::Count => {
                let count = args.matches.get_count(option.long).to_string();
                found.push((position, OptionText::value(option.long, count, &location)));
            }
            Kind::Value(..) | Kind::Values(..) | Kind::Optional(..) => {
                if args.one(option.long).is_none() {
                    found.push((position, OptionText::flag(option.long, &location)));
                }
                found.extend(args.each(option.long).map(|(position, value)| {
                    (position, OptionText::value(option.long, value, &location))
                }));
            }
        }
    }
    let found = in_order(found, |(position, _)| *position);
    found.into_iter().map(|(_, text)| text).collect()
}

/// What a text is read with.
struct Reader<'a> {
    parser: &'a mut Command,
    /// What names stand for, if they are looked up.
    names: Option<&'a RefCell<LookedUp>>,
    faults: &'a mut Vec<Error>,
}

impl Reader<'_> {
    /// Reads options, and the command after them, with `read`.
    fn read<T>(
        &mut self,
        written: Written<'_>,
        command: &[OsString],
        read: impl FnOnce(&Args<'_>) -> T,
    ) -> Option<T> {
        let mut words = vec![OsString::from("skd")];
        for text in written.options {
            match word(text) {
                Ok((word, times)) => words.extend(std::iter::repeat_n(word, times.into())),
                Err(why) => {
                    let why = format!("--{} {why}", text.name);
                    self.fault(Some(&text.location), &why);
                }
            }
        }
        if !command.is_empty() {
            words.push("--".into());
            words.extend_from_slice(command);
        }
        match self.parser.try_get_matches_from_mut(words) {
            Ok(matches) => {
                let args = Args::new(&matches, self.names, Some(written));
                let read = read(&args);
                self.faults.append(&mut args.faults.borrow_mut());
                Some(read)
            }
            // The words are those of the table of options.
            Err(error) => {
                let error = error.to_string();
                let line = error.lines().next().unwrap_or_default();
                self.fault(Some(written.location), line);
                None
            }
        }
    }

    fn fault(&mut self, at: Option<&Location>, text: &str) {
        self.faults.push(Error::Usage(located(at, text)));
    }
}

/// Returns the word of a command line for an option, and how often it is repeated.
fn word(text: &OptionText) -> Result<(OsString, u8), &'static str> {
    let mut all = GROUPS.iter().flat_map(|(_, options)| *options);
    let option = all.find(|option| option.long == text.name);
    let mut word = OsString::from(format!("--{}", text.name));
    match (option.ok_or("is no option")?.kind, &text.value) {
        (Kind::Flag, None) | (Kind::Optional(..), None) => Ok((word, 1)),
        (Kind::Count, None) => Ok((word, 1)),
        (Kind::Count, Some(times)) => {
            let times = decimal(times).ok_or("takes a number from 0 to 255");
            Ok((word, times?))
        }
        (Kind::Value(..) | Kind::Values(..) | Kind::Optional(..), Some(value)) => {
            word.push("=");
            word.push(value);
            Ok((word, 1))
        }
        (Kind::Flag | Kind::Help | Kind::Version, _) => Err("takes no value"),
        (Kind::Value(..) | Kind::Values(..), None) => Err("needs a value"),
    }
}

/// Reads the options of the daemon. Those of the command line replace those of files.
fn daemon(reader: &mut Reader<'_>, args: &Args<'_>, texts: &FileTexts, known: &Known) -> Daemon {
    let own = options_of(args, |it| {
        it.belongs() == Belongs::Daemon || it.long == "chroot"
    });
    let overridden = |it: &&OptionText| own.iter().all(|own| own.name != it.name);
    let mut options: Vec<_> = texts.daemon.iter().filter(overridden).cloned().collect();
    options.extend(own);
    let written = Written {
        options: &options,
        location: &Location::command_line(),
    };
    let daemon = reader.read(written, &[], |args| {
        service::daemon(args, &known.identities)
    });
    daemon.unwrap_or_default()
}

/// Reads a service.
fn service(reader: &mut Reader<'_>, text: &Arc<ServiceText>, known: &Known) -> Option<Service> {
    let written = Written {
        options: &text.options,
        location: &text.location,
    };
    let config = reader.read(written, &text.command, |args| service::config(args, known))?;
    let mut service = config.services.into_iter().next()?;
    service.name.clone_from(&text.name);
    let notes = text.notes.iter();
    let notes = notes.map(|(at, note)| located(Some(at), note));
    service.notes.extend(notes);
    service.text = Some(Arc::clone(text));
    Some(service)
}

/// Refuses users of services where skd itself becomes a user.
fn check_users(
    daemon: &Daemon,
    texts: &[OptionText],
    services: &mut [Service],
    faults: &mut Vec<Error>,
) {
    let Some(user) = &daemon.identity else {
        return;
    };
    let becomes = texts.iter().find(|it| it.name == "daemon-user");
    let becomes = match becomes.map(|it| it.location.to_string()) {
        Some(location) => format!(" ({location})"),
        None => String::new(),
    };
    for service in services {
        let Some(text) = &service.text else { continue };
        let option = |name: &str| text.options.iter().find(|it| it.name == name);
        if service.identity.as_ref() == Some(user) && service.root.is_none() {
            // It is that user anyway.
            service.identity = None;
            continue;
        }
        for name in ["user", "as-peer"] {
            if let Some(option) = option(name) {
                let text = format!(
                    "service {}: --{name} can't be used with --daemon-user or -U{becomes}: after \
                     that, skd itself is a user who can't become another; leave out one of them",
                    service.name
                );
                faults.push(Error::Usage(located(Some(&option.location), &text)));
            }
        }
    }
}

/// The maximum number of services: see [`crate::config::ServiceId`].
const MOST: usize = 1 << 16;

/// Refuses a service that can't run beside others, and too many of them.
fn check_alone(services: &[Service], faults: &mut Vec<Error>) {
    if services.len() > MOST {
        let number = services.len();
        faults.push(Error::Usage(format!(
            "there are {number} services, and one skd has at most {MOST}; run another skd for the others"
        )));
    }
    // A listener that couldn't be read is a fault of its own.
    let listens = |it: &Service| {
        let mut options = it.text.iter().flat_map(|text| &text.options);
        !it.listeners.is_empty() || options.any(|it| LISTENERS.contains(&it.name.as_str()))
    };
    let alone = |it: &&Service| !listens(it) || it.mode.supervised().is_some();
    for service in services.iter().filter(alone).filter(|_| services.len() > 1) {
        let location = service.text.as_ref().map(|it| &it.location);
        let why = format!(
            "service {}: a program that has no listener, or that is supervised, has to be the only \
             service of its skd; run another skd for it",
            service.name
        );
        faults.push(Error::Usage(located(location, &why)));
    }
}

/// Refuses a report of readiness where another program has the descriptor.
fn check_ready(daemon: &Daemon, services: &[Service], faults: &mut Vec<Error>) {
    let ([service], Some(number)) = (services, daemon.ready_fd) else {
        return;
    };
    let supervised = service.mode.supervised().is_some();
    let why = match number {
        1 if supervised => "it is the output of the program",
        _ if supervised || !service.listeners.is_empty() => return,
        _ => "a program without a listener inherits the descriptor and reports itself",
    };
    let location = service.text.as_ref().map(|it| &it.location);
    let why = format!(
        "service {}: --ready-fd {number} has no use: {why}",
        service.name
    );
    faults.push(Error::Usage(located(location, &why)));
}

/// Refuses a control socket where skd serves nothing that it could tell of.
fn check_control(
    daemon: &Daemon,
    texts: &[OptionText],
    services: &[Service],
    faults: &mut Vec<Error>,
) {
    let ([service], Some(_)) = (services, &daemon.control) else {
        return;
    };
    let supervised = service.mode.supervised().is_some();
    if supervised || service.listeners.is_empty() {
        let location = texts.iter().find(|it| it.name == "control");
        let location = location.map(|it| &it.location);
        let why = format!(
            "--control has no use: service {} has no listener that skd serves",
            service.name
        );
        faults.push(Error::Usage(located(location, &why)));
    }
}

/// Refuses services with the same name.
fn check_names(texts: &[Arc<ServiceText>], faults: &mut Vec<Error>) {
    let mut names = HashMap::new();
    for text in texts {
        if let Some(earlier) = names.insert(&text.name, &text.location) {
            let why = format!(
                "two services are called {}: the other is at {earlier}",
                text.name
            );
            faults.push(Error::Usage(located(Some(&text.location), &why)));
        }
    }
}

/// Refuses services that listen on the same address, or on all addresses and on one of them.
fn check_addresses(services: &[Service], faults: &mut Vec<Error>) {
    let mut taken: HashMap<(Address, Option<&str>), Holder<'_>> = HashMap::new();
    for service in services {
        for listen in &service.listeners {
            if listen.endpoint.may_be_repeated() {
                continue;
            }
            let holder = Holder(service, listen);
            let device = listen.options.iter().find_map(|option| match option {
                SocketOption::Device(name) => Some(name.as_str()),
                _ => None,
            });
            let Claims {
                same,
                overlaps,
                takes,
            } = Claims::of(&listen.endpoint);
            let find = |address: Address| taken.get(&(address, device)).copied();
            let overlapping = overlaps.into_iter().filter_map(find);
            let overlapping = overlapping.filter(|other| !(holder.shares() && other.shares()));
            let mut others = same.into_iter().filter_map(find).chain(overlapping);
            // A service's own are compared where it is read.
            if let Some(other) = others.find(|other| other.0.name != service.name) {
                let why = format!(
                    "services {} and {} have the same address: {}, and {} at {}",
                    service.name,
                    other.0.name,
                    listen.option,
                    other.1.option,
                    other
                        .location()
                        .map(Location::to_string)
                        .unwrap_or_default()
                );
                faults.push(Error::Usage(located(holder.location(), &why)));
                continue;
            }
            for address in takes {
                taken.entry((address, device)).or_insert(holder);
            }
        }
    }
}
/// A listener and its service.
#[derive(Clone, Copy)]
struct Holder<'a>(&'a Service, &'a Listen);

impl Holder<'_> {
    /// Whether other sockets may have its port.
    fn shares(self) -> bool {
        self.1.options.contains(&SocketOption::ReusePort)
    }

    /// Returns where the listener was written.
    fn location(&self) -> Option<&Location> {
        let text = self.0.text.as_ref()?;
        let words = self.1.option.strip_prefix("--")?;
        let (name, value) = words.split_once(' ').unwrap_or((words, ""));
        let is_it = |it: &&OptionText| {
            let given = it.value.as_deref().unwrap_or_default();
            it.name == name && given.to_string_lossy() == value
        };
        let option = text.options.iter().find(is_it);
        Some(option.map_or(&text.location, |it| &it.location))
    }
}

/// An address that a listener takes.
#[derive(PartialEq, Eq, Hash)]
enum Address {
    /// This one.
    One(Endpoint),
    /// One of this style, family and port; IPv4 or not.
    Any(Style, bool, u16),
    /// All of this style, family and port.
    All(Style, bool, u16),
}

/// What a listener takes, and what no other listener may have taken.
struct Claims {
    takes: Vec<Address>,
    same: Vec<Address>,
    overlaps: Vec<Address>,
}

impl Claims {
    fn of(endpoint: &Endpoint) -> Self {
        let mut claims = Self {
            takes: vec![Address::One(endpoint.address())],
            same: vec![Address::One(endpoint.address())],
            overlaps: Vec::new(),
        };
        let Endpoint::Inet { style, host, port } = endpoint else {
            return claims;
        };
        let each = |families: &[bool], of: fn(Style, bool, u16) -> Address| {
            let families = families.iter();
            families
                .map(|is_ipv4| of(*style, *is_ipv4, *port))
                .collect()
        };
        let all: &[bool] = match host {
            Host::Any => &[true, false],
            Host::Address(address, _) if address.is_unspecified() => &[address.is_ipv4()],
            Host::Address(address, _) => {
                let family = [address.is_ipv4()];
                claims.takes.extend::<Vec<_>>(each(&family, Address::Any));
                claims.overlaps = each(&family, Address::All);
                return claims;
            }
            // What it stands for is found out when it is bound.
            Host::Name(_) => return claims,
        };
        Self {
            takes: each(all, Address::All),
            same: each(all, Address::All),
            overlaps: each(all, Address::Any),
        }
    }
}

/// Returns the text of a command line, which has no file.
pub(super) fn of_command_line(args: &Args<'_>, config: &Config) -> FileTexts {
    let location = Location::command_line();
    let confines = args.has("user") || !args.has("chroot");
    let is_daemons = |it: &Opt| match it.long {
        "chroot" => !confines,
        _ => it.belongs() == Belongs::Daemon,
    };
    let words = args.matches.get_many::<OsString>(COMMAND);
    let name = config.services.iter().flat_map(|it| it.name.chars());
    let mut service = ServiceText {
        name: name.filter(|letter| !letter.is_control()).collect(),
        location: location.clone(),
        options: options_of(args, |it| {
            it.belongs() != Belongs::CommandLine && !is_daemons(it)
        }),
        command: words.unwrap_or_default().cloned().collect(),
        command_location: location.clone(),
        notes: Vec::new(),
    };
    let mut daemon = options_of(args, is_daemons);
    daemon.iter_mut().for_each(files::paths::resolve_option);
    files::paths::resolve(&mut service, !confines);
    FileTexts {
        daemon,
        services: vec![service.into()],
    }
}
