//! What the readers of other daemons' files share.

use std::collections::{HashMap, HashSet};
use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::net::{IpAddr, ToSocketAddrs};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::unistd::{User, getgrouplist};

use crate::config::{Location, OptionText, ServiceText};
use crate::error::Error;

/// The user that runs the stand-ins of built-in services, which need no rights.
const UNPRIVILEGED: &str = "nobody";

/// Returns the addresses of the name of a host. Parsers get it from their caller: tests look up nothing.
pub(in crate::cli) type LookUp<'a> = &'a dyn Fn(&str) -> Result<Vec<IpAddr>, String>;

/// A service while its entry is read. It isn't served if the entry has a fault.
pub(super) struct Draft<'a> {
    text: ServiceText,
    faults: &'a mut Vec<Error>,
    is_faulty: bool,
}

impl<'a> Draft<'a> {
    /// Returns a service without options.
    pub(super) fn new(name: &str, location: &Location, faults: &'a mut Vec<Error>) -> Self {
        Self {
            text: ServiceText {
                name: name.to_owned(),
                location: location.clone(),
                options: Vec::new(),
                command: Vec::new(),
                command_location: location.clone(),
                notes: Vec::new(),
            },
            faults,
            is_faulty: false,
        }
    }

    /// Returns where the entry begins.
    pub(super) fn location(&self) -> Location {
        self.text.location.clone()
    }

    /// Adds a fault.
    pub(super) fn fault(&mut self, location: &Location, why: impl fmt::Display) {
        self.faults.push(fault(location, why));
        self.is_faulty = true;
    }

    /// Whether it has a fault so far.
    pub(super) fn is_faulty(&self) -> bool {
        self.is_faulty
    }

    /// Adds what an administrator should know.
    pub(super) fn note(&mut self, location: &Location, what: impl Into<String>) {
        self.text.notes.push((location.clone(), what.into()));
    }

    /// Adds an option without a value.
    pub(super) fn flag(&mut self, option: &str, location: &Location) {
        self.text.options.push(OptionText::flag(option, location));
    }

    /// Adds an option with a value.
    pub(super) fn option(&mut self, option: &str, value: impl Into<OsString>, location: &Location) {
        let option = OptionText::value(option, value, location);
        self.text.options.push(option);
    }

    /// Sets the program and its arguments.
    pub(super) fn command<W: Into<OsString>>(
        &mut self,
        words: impl IntoIterator<Item = W>,
        location: &Location,
    ) {
        self.text.command = words.into_iter().map(Into::into).collect();
        self.text.command_location = location.clone();
    }

    /// Sets a program with the name that it gets as its argument 0.
    pub(super) fn program(
        &mut self,
        program: &OsStr,
        argument_0: &OsStr,
        arguments: &[OsString],
        location: &Location,
    ) {
        let words = [program.to_owned()].into_iter();
        self.command(words.chain(arguments.iter().cloned()), location);
        if program != argument_0 {
            self.option("argv0", argument_0, location);
        }
    }

    /// Sets the user of handlers. `only_group` tells that the other daemon gives a handler no group but
    /// its primary one.
    pub(super) fn user(
        &mut self,
        user: &OsStr,
        group: Option<&OsStr>,
        only_group: bool,
        at: &Location,
    ) {
        if user == "root" || user == "0" {
            match group {
                None => {}
                Some(group) if ["root", "wheel", "0"].iter().any(|it| group == *it) => {}
                Some(group) => {
                    let group = Path::new(group).display();
                    let why = format!(
                        "root can't run a program with the group {group} here: name a user of its own"
                    );
                    return self.fault(at, why);
                }
            }
            return self.note(at, "the program runs as root, without --user");
        }
        let mut value = user.to_owned();
        if let Some(group) = group {
            value.push(":");
            value.push(group);
        }
        self.option("user", value, at);
        if only_group && has_more_groups(user) {
            let user = Path::new(user).display();
            let what = format!(
                "the program has all groups of {user} here, as with `groups = yes`, not only the \
                 primary one"
            );
            self.note(at, what);
        }
    }

    /// Sets what serves instead of a service that the other daemon has built in. `date` is the format of
    /// its daytime service for date(1).
    pub(super) fn stand_in(
        &mut self,
        service: &str,
        datagrams: bool,
        date: &str,
        location: &Location,
    ) {
        let words: &[&str] = match service {
            "echo" => &["/bin/cat"],
            "discard" => &["/bin/sh", "-c", "exec cat >/dev/null"],
            "daytime" => &["/bin/date", date],
            _ => {
                let instead = match service {
                    "time" => "use NTP, or `daytime`",
                    "chargen" => "it serves attacks with forged addresses; remove it",
                    "servers" | "services" | "xadmin" => {
                        "skd's log and `skd --print-config` tell what it serves"
                    }
                    "tcpmux" | "tcpmux-server" => "give each service a port of its own",
                    "auth" | "ident" => "use an ident daemon as its program",
                    _ => "name a program that serves it",
                };
                let why = format!("skd has no built-in service {service}: {instead}");
                return self.fault(location, why);
            }
        };
        self.command(words, location);
        if service == "daytime" {
            self.option("env", "LC_ALL=C", location);
        }
        if datagrams {
            self.option("datagram-mode", "per-packet", location);
        }
        let program = words.first().copied().unwrap_or_default();
        let what = format!("{program} stands in for the built-in service {service}");
        self.note(location, what);
    }

    /// Sets the user of a stand-in: the named one, but never root.
    pub(super) fn stand_in_user(&mut self, user: Option<(&OsStr, Option<&OsStr>)>, at: &Location) {
        match user {
            Some((user, group)) if user != "root" && user != "0" => {
                self.user(user, group, false, at);
            }
            _ => self.option("user", UNPRIVILEGED, at),
        }
    }

    /// Returns the service, if it has no fault.
    pub(super) fn finish(self) -> Option<ServiceText> {
        (!self.is_faulty).then_some(self.text)
    }
}

/// Returns a fault of a file.
pub(super) fn fault(location: &Location, why: impl fmt::Display) -> Error {
    Error::Usage(format!("{location}: {why}"))
}

/// Gives services names of their own: those that share one get their protocol, or a number, too.
pub(super) fn make_names_unique(services: &mut [(ServiceText, String)]) {
    let mut taken = HashSet::new();
    // The next number of each name, so that ten thousand of one name take no time.
    let mut numbers: HashMap<String, u32> = HashMap::new();
    for (service, protocol) in services {
        let name = service.name.clone();
        let number = numbers.entry(name.clone()).or_insert(2);
        let with_protocol = format!("{name}-{protocol}");
        let mut free = [name.clone(), with_protocol]
            .into_iter()
            .find(|it| !taken.contains(it));
        while free.is_none() {
            free = Some(format!("{name}-{number}")).filter(|it| !taken.contains(it));
            *number += 1;
        }
        if let Some(free) = free {
            service.name.clone_from(&free);
            taken.insert(free);
        }
    }
}

/// Returns the addresses of the name of a host, in order.
pub(super) fn addresses(name: &str) -> Result<Vec<IpAddr>, String> {
    let found = (name, 0).to_socket_addrs().map_err(|reason| {
        let reason = reason.to_string();
        let reason = reason.rsplit(": ").next().unwrap_or_default().to_owned();
        format!("the host {name} can't be looked up: {reason}")
    })?;
    let mut found: Vec<IpAddr> = found.map(|it| it.ip().to_canonical()).collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Returns the last component of a path: the name that a program gets from other daemons.
pub(super) fn base_name(program: &OsStr) -> &OsStr {
    let name = program.as_bytes().rsplit(|byte| *byte == b'/').next();
    OsStr::from_bytes(name.unwrap_or_default())
}

/// Returns a listener's address.
pub(super) fn host_and_port(host: &str, port: &str) -> String {
    match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    }
}

/// Whether a user has more groups than the primary one.
fn has_more_groups(user: &OsStr) -> bool {
    let entry = user.to_str().map(User::from_name);
    let Some(Ok(Some(entry))) = entry else {
        return false;
    };
    let groups = CString::new(entry.name).map(|name| getgrouplist(&name, entry.gid));
    matches!(groups, Ok(Ok(groups)) if groups.iter().any(|gid| *gid != entry.gid))
}

/// Returns a service as a line, with its options in order, for unit tests of the readers.
#[cfg(test)]
pub(super) fn shown(service: &ServiceText) -> String {
    let mut line = format!("[{}]", service.name);
    for option in &service.options {
        line += &format!(" {}", option.name);
        if let Some(value) = &option.value {
            line += &format!("={}", value.display());
        }
    }
    for word in &service.command {
        line += &format!(" '{}'", word.display());
    }
    line
}
