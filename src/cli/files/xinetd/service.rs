//! From the attributes of a service of xinetd(8) to the options of skd.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::super::foreign::{Draft, LookUp, base_name, host_and_port};
use super::super::read::file as read_file;
use super::access;
use super::settings::{Said, Settings};
use super::syntax::Attribute;
use crate::config::{Location, ServiceText, quoted};
use crate::error::Error;
use crate::sys::names::service_port;

/// The flags of xinetd.conf(5), which may be written in any case.
const FLAGS: [&str; 12] = [
    "REUSE",
    "INTERCEPT",
    "NORETRY",
    "IDONLY",
    "NAMEINARGS",
    "NODELAY",
    "KEEPALIVE",
    "NOLIBWRAP",
    "SENSOR",
    "IPv4",
    "IPv6",
    "LABELED",
];

/// The families of addresses on which a service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Both,
    V4,
    V6,
}

/// A service while it is read.
struct Reader<'a> {
    name: &'a str,
    settings: &'a Settings,
    /// For the attributes that the service doesn't have.
    defaults: &'a Settings,
    draft: Draft<'a>,
    look_up: LookUp<'a>,
    is_internal: bool,
    is_unlisted: bool,
    is_udp: bool,
    waits: bool,
}

/// Returns the text of a service and its protocol, unless it has a fault. `said` is about its lines.
pub(super) fn text(
    name: &OsStr,
    location: &Location,
    settings: &Settings,
    defaults: &Settings,
    said: Vec<(Location, Said)>,
    look_up: LookUp<'_>,
    faults: &mut Vec<Error>,
) -> Option<(ServiceText, String)> {
    let name = name.to_string_lossy();
    let id = settings
        .single
        .get("id")
        .map(|line| line.values[0].to_string_lossy());
    let mut reader = Reader {
        name: &name,
        settings,
        defaults,
        draft: Draft::new(id.as_deref().unwrap_or(&name), location, faults),
        look_up,
        is_internal: false,
        is_unlisted: false,
        is_udp: false,
        waits: false,
    };
    for (location, said) in said {
        match said {
            Said::Fault(why) => reader.draft.fault(&location, why),
            Said::Note(note) => reader.draft.note(&location, note),
        }
    }
    reader.kinds();
    reader.flags();
    reader.protocol();
    reader.wait();
    reader.refused();
    let family = reader.listener();
    reader.program();
    reader.user();
    reader.limits();
    reader.surroundings();
    reader.access(family);
    reader.log();
    let protocol = if reader.is_udp { "udp" } else { "tcp" };
    Some((reader.draft.finish()?, protocol.to_owned()))
}

/// Whether a service has a flag.
pub(super) fn has_flag(settings: &Settings, flag: &str) -> bool {
    let words = settings.single.get("flags").map(|line| &line.values[..]);
    words
        .unwrap_or_default()
        .iter()
        .any(|word| word.eq_ignore_ascii_case(flag))
}

/// Returns what there is to say about a list of what xinetd logs.
pub(super) fn log_note(name: &str, settings: &Settings) -> Option<String> {
    let (words, _) = settings
        .lists
        .get(name)
        .filter(|(words, _)| !words.is_empty())?;
    if !name.starts_with("log_on_") {
        return None;
    }
    let asks = words.iter().any(|word| word.eq_ignore_ascii_case("USERID"));
    let ident = if asks {
        "; clients aren't asked for their users (USERID)"
    } else {
        ""
    };
    Some(format!(
        "{name} doesn't count: --verbose decides what skd logs{ident}"
    ))
}

impl Reader<'_> {
    /// Returns the line of an attribute.
    fn line(&self, name: &str) -> Option<Attribute> {
        let own = self.settings.single.get(name);
        own.or_else(|| self.defaults.single.get(name)).cloned()
    }

    /// Returns the only value of an attribute, and its location.
    fn one(&mut self, name: &str) -> Option<(String, Location)> {
        let line = self.line(name)?;
        match line.values[0].to_str() {
            Some(value) => Some((value.to_owned(), line.location)),
            None => {
                let why = format!("the value of {name} isn't UTF-8");
                self.draft.fault(&line.location, why);
                None
            }
        }
    }

    /// Returns a value that has to be there.
    fn needed(&mut self, name: &str) -> Option<(OsString, Location)> {
        let Some(line) = self.line(name) else {
            // A line of it may have been refused.
            if !self.draft.is_faulty() {
                let location = self.draft.location();
                let why = format!("the service has no {name}");
                self.draft.fault(&location, why);
            }
            return None;
        };
        Some((line.values[0].clone(), line.location))
    }

    fn yes(&mut self, name: &str) -> Option<(bool, Location)> {
        let (value, location) = self.one(name)?;
        match &value[..] {
            "yes" => Some((true, location)),
            "no" => Some((false, location)),
            _ => {
                self.draft.fault(&location, format!("{name} is yes or no"));
                None
            }
        }
    }

    fn kinds(&mut self) {
        let Some(line) = self.line("type") else {
            return;
        };
        for word in &line.values {
            let word = word.to_string_lossy().to_ascii_uppercase();
            let why = match &word[..] {
                "INTERNAL" => {
                    self.is_internal = true;
                    continue;
                }
                "UNLISTED" => {
                    self.is_unlisted = true;
                    continue;
                }
                "RPC" => "skd doesn't register services with rpcbind: start the program by itself",
                "TCPMUX" | "TCPMUXPLUS" => "skd has no tcpmux: give the service a port of its own",
                "SPECIAL" => "these services are xinetd's own",
                _ => "a type is RPC, INTERNAL, TCPMUX, TCPMUXPLUS or UNLISTED",
            };
            self.draft
                .fault(&line.location, format!("type {word}: {why}"));
        }
    }

    fn flags(&mut self) {
        let Some(line) = self.line("flags") else {
            return;
        };
        let at = &line.location;
        for word in &line.values {
            let word = word.to_string_lossy();
            let known = FLAGS.iter().find(|it| it.eq_ignore_ascii_case(&word));
            let why = match known.copied() {
                Some("NODELAY") => {
                    self.draft.flag("nodelay", at);
                    continue;
                }
                Some("KEEPALIVE") => {
                    self.draft.flag("keepalive", at);
                    continue;
                }
                Some("NORETRY") => {
                    let what =
                        "NORETRY doesn't count: skd waits out shortages, and serves the client";
                    self.draft.note(at, what);
                    continue;
                }
                Some("INTERCEPT") if self.line("wait").is_some_and(|it| it.values[0] == "no") => {
                    // xinetd says so, too.
                    self.draft
                        .note(at, "INTERCEPT doesn't count with `wait = no`");
                    continue;
                }
                Some("INTERCEPT") => "packets for a program in wait mode aren't checked",
                Some("IDONLY") => "clients aren't asked for their users",
                Some("SENSOR") => "skd doesn't remember clients to refuse them elsewhere",
                Some("LABELED") => "skd doesn't set SELinux contexts",
                Some(_) => continue,
                None => "there is no such flag",
            };
            self.draft.fault(at, format!("flag {word}: {why}"));
        }
    }

    fn protocol(&mut self) {
        let style = self.one("socket_type");
        let protocol = self.one("protocol");
        let by_style = style.as_ref().and_then(|(style, at)| {
            // As the names in flags, those of types are read in any case.
            match &style.to_ascii_lowercase()[..] {
                "stream" => Some(false),
                "dgram" => Some(true),
                _ => {
                    let why = format!("socket_type is stream or dgram; skd has no {style} service");
                    self.draft.fault(at, why);
                    None
                }
            }
        });
        let by_protocol = protocol
            .as_ref()
            .and_then(|(protocol, at)| match &protocol[..] {
                "tcp" => Some(false),
                "udp" => Some(true),
                _ => {
                    let why = format!("protocol is tcp or udp; skd has no {protocol} service");
                    self.draft.fault(at, why);
                    None
                }
            });
        match (by_style, by_protocol, &protocol) {
            (Some(style), Some(protocol), Some((_, at))) if style != protocol => {
                self.draft.fault(
                    at,
                    "stream is tcp and dgram is udp, but here they are mixed",
                );
            }
            (None, None, _) if style.is_none() && protocol.is_none() => {
                let at = self.draft.location();
                self.draft
                    .fault(&at, "the service has no socket_type and no protocol");
            }
            _ => {}
        }
        self.is_udp = by_style.or(by_protocol).unwrap_or_default();
    }

    fn wait(&mut self) {
        if self.needed("wait").is_none() {
            return;
        }
        let Some((waits, at)) = self.yes("wait") else {
            return;
        };
        self.waits = waits && !self.is_internal;
        if self.waits && !self.is_udp {
            self.draft.flag("wait", &at);
        }
        if !waits && self.is_udp && !self.is_internal {
            let why = "a dgram service has to wait; for a program that gets each datagram as its \
                       input there is `datagram-mode = \"per-packet\"` in files of --config";
            self.draft.fault(&at, why);
        }
    }

    /// Refuses attributes that skd has nothing for.
    fn refused(&mut self) {
        let no_clock = "skd has no clock for it: switch the service by a timer and a reload";
        for (name, ignored, why) in [
            ("access_times", "", no_clock),
            (
                "max_load",
                "",
                "skd doesn't look at the load: limit handlers by instances",
            ),
            (
                "deny_time",
                "NEVER",
                "skd doesn't remember clients to refuse them elsewhere",
            ),
            ("mdns", "no", "skd doesn't announce services"),
            (
                "rpc_version",
                "",
                "skd doesn't register services with rpcbind",
            ),
            (
                "rpc_number",
                "",
                "skd doesn't register services with rpcbind",
            ),
        ] {
            if let Some((_, at)) = self.one(name).filter(|(value, _)| value != ignored) {
                self.draft.fault(&at, format!("{name}: {why}"));
            }
        }
    }

    /// Sets the listener.
    fn listener(&mut self) -> Family {
        let only_v6 = matches!(self.yes("v6only"), Some((true, _)));
        let mut family = match (
            has_flag(self.settings, "IPv4"),
            has_flag(self.settings, "IPv6"),
        ) {
            (true, false) => Family::V4,
            (_, true) | (false, false) if only_v6 => Family::V6,
            _ => Family::Both,
        };
        let bind = self.one("bind");
        let at = bind.as_ref().map(|(_, at)| at.clone());
        let port = self.port();
        let mut hosts = vec![];
        match bind.as_ref().map(|(host, _)| &host[..]) {
            None => {}
            Some("0.0.0.0") => family = Family::V4,
            Some("::") => {}
            Some(host) if host.contains(':') => {
                if family == Family::V4 {
                    let at = at.clone().unwrap_or_else(|| self.draft.location());
                    self.draft.fault(&at, "an IPv6 address, but the flag IPv4");
                }
                family = Family::V6;
                hosts.push(host.to_owned());
            }
            Some(host)
                if host
                    .bytes()
                    .all(|byte| byte.is_ascii_digit() || byte == b'.') =>
            {
                family = Family::V4;
                hosts.push(host.to_owned());
            }
            Some(host) => match (family, (self.look_up)(host)) {
                (Family::Both, _) => hosts.push(host.to_owned()),
                (family, Ok(found)) => {
                    let fits = found
                        .iter()
                        .filter(|it| it.is_ipv4() == (family == Family::V4));
                    hosts.extend(fits.map(ToString::to_string));
                    let at = at.clone().unwrap_or_else(|| self.draft.location());
                    if hosts.is_empty() {
                        let why = format!("the host {host} has no address of the family of flags");
                        self.draft.fault(&at, why);
                    }
                    let what = format!("{host} is looked up at the start and at a reload only");
                    self.draft.note(&at, what);
                }
                (_, Err(why)) => {
                    let at = at.clone().unwrap_or_else(|| self.draft.location());
                    self.draft.fault(&at, why);
                }
            },
        }
        if hosts.is_empty() {
            hosts.extend(match family {
                Family::Both => None,
                Family::V4 => Some("0.0.0.0".to_owned()),
                Family::V6 => Some("::".to_owned()),
            });
        }
        let Some((port, port_at)) = port else {
            return family;
        };
        let at = at.unwrap_or(port_at);
        let option = if self.is_udp { "udp" } else { "tcp" };
        if hosts.is_empty() {
            self.draft.option(option, &port, &at);
        }
        for host in hosts {
            self.draft.option(option, host_and_port(&host, &port), &at);
        }
        family
    }

    /// Returns the port. Like xinetd, a service isn't served on another port than services(5) has for
    /// it, unless it is UNLISTED.
    fn port(&mut self) -> Option<(String, Location)> {
        let protocol = if self.is_udp { "udp" } else { "tcp" };
        let listed = service_port(self.name, protocol);
        let name = self.name;
        let Some((text, at)) = self.one("port") else {
            let at = self.draft.location();
            match listed {
                _ if self.is_unlisted => self.draft.fault(&at, "an UNLISTED service needs a port"),
                Some(port) => return Some((port.to_string(), at)),
                None => {
                    let why = format!(
                        "the service has no port, and services(5) has none for {name}/{protocol}"
                    );
                    self.draft.fault(&at, why);
                }
            }
            return None;
        };
        let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
        let number = match is_number {
            true => text.parse().ok().filter(|port: &u16| *port != 0),
            false => service_port(&text, protocol),
        };
        let Some(number) = number else {
            let why = format!("{text} is no port from 1 to 65535, and no name in services(5)");
            self.draft.fault(&at, why);
            return None;
        };
        if !self.is_unlisted && listed != Some(number) {
            let has = match listed {
                Some(port) => format!("has port {port} for {name}/{protocol}"),
                None => format!("has no {name}/{protocol}"),
            };
            let why =
                format!("services(5) {has}; for another port a service needs `type = UNLISTED`");
            self.draft.fault(&at, why);
        }
        Some((number.to_string(), at))
    }

    fn program(&mut self) {
        if self.is_internal {
            let at = self.draft.location();
            let date = "+%d %^b %Y %H:%M:%S %Z\r";
            self.draft.stand_in(self.name, self.is_udp, date, &at);
            for name in ["redirect", "banner", "banner_success"] {
                if let Some(line) = self.line(name) {
                    let why = format!("{name} can't be used with an INTERNAL service here");
                    self.draft.fault(&line.location, why);
                }
            }
            return;
        }
        let arguments = self.line("server_args");
        let arguments = arguments.map(|line| line.values).unwrap_or_default();
        let (program, argument_0, arguments, at) = if let Some(line) = self.line("redirect") {
            let Some(target) = self.target(&line) else {
                return;
            };
            let program = OsString::from("skd-forward");
            (program.clone(), program, vec![target.into()], line.location)
        } else {
            let Some((server, at)) = self.needed("server") else {
                return;
            };
            if has_flag(self.settings, "NAMEINARGS") {
                let Some((name, rest)) = arguments.split_first() else {
                    return self
                        .draft
                        .fault(&at, "with NAMEINARGS, server_args has the name");
                };
                (server, name.clone(), rest.to_vec(), at)
            } else {
                let name = base_name(&server).to_owned();
                (server, name, arguments, at)
            }
        };
        let banners: Vec<_> = ["banner", "banner_success"]
            .into_iter()
            .filter_map(|name| self.line(name))
            .collect();
        if banners.is_empty() {
            return self.draft.program(&program, &argument_0, &arguments, &at);
        }
        if self.waits {
            let why = "a program in wait mode gets clients before anything can be sent to them";
            return self
                .draft
                .fault(&banners[0].location, format!("banner: {why}"));
        }
        if argument_0 != base_name(&program) {
            let why = "a name in server_args can't be used with a banner here";
            return self.draft.fault(&at, why);
        }
        let (files, shift) = match banners.len() {
            1 => ("\"$1\"", "shift"),
            _ => ("\"$1\" \"$2\"", "shift 2"),
        };
        let script = format!("cat {files} 2>/dev/null; {shift}; exec \"$@\"");
        let mut words: Vec<OsString> =
            vec!["/bin/sh".into(), "-c".into(), script.into(), "sh".into()];
        words.extend(banners.iter().map(|line| line.values[0].clone()));
        words.push(program);
        words.extend(arguments);
        self.draft.command(words, &at);
        let what =
            "a shell sends the banner and executes the program, whose argument 0 is its path";
        self.draft.note(&banners[0].location, what);
    }

    /// Returns the address to which connections are forwarded.
    fn target(&mut self, line: &Attribute) -> Option<String> {
        let at = &line.location;
        if self.is_udp || self.waits || has_flag(self.settings, "NAMEINARGS") {
            let why = "redirect is for stream services that don't wait, without NAMEINARGS";
            self.draft.fault(at, why);
            return None;
        }
        if let Some(server) = self.line("server") {
            self.draft
                .note(&server.location, "server doesn't count with redirect");
        }
        let (Some(host), Some(port)) = (line.values[0].to_str(), line.values[1].to_str()) else {
            self.draft.fault(at, "the value of redirect isn't UTF-8");
            return None;
        };
        let number = port.parse().ok().filter(|port: &u16| *port > 0);
        let Some(number) = number.or_else(|| service_port(port, "tcp")) else {
            let why = format!("{port} is no port from 1 to 65535, and no name in services(5)");
            self.draft.fault(at, why);
            return None;
        };
        Some(host_and_port(host, &number.to_string()))
    }

    fn user(&mut self) {
        let group = self.line("group").map(|line| line.values[0].clone());
        let user = match self.is_internal {
            true => self
                .line("user")
                .map(|line| (line.values[0].clone(), line.location)),
            false => self.needed("user"),
        };
        if self.is_internal {
            let named = user.as_ref().map(|(user, _)| (&user[..], group.as_deref()));
            let at = user
                .as_ref()
                .map_or_else(|| self.draft.location(), |(_, at)| at.clone());
            return self.draft.stand_in_user(named, &at);
        }
        let Some((user, at)) = user else {
            return;
        };
        let all_groups = matches!(self.yes("groups"), Some((true, _)));
        // xinetd takes a number for the group, too.
        let is_number = user.as_encoded_bytes().iter().all(u8::is_ascii_digit);
        let group = group.or_else(|| is_number.then(|| user.clone()));
        self.draft.user(&user, group.as_deref(), !all_groups, &at);
    }

    fn limits(&mut self) {
        let text = self
            .line("banner_fail")
            .map(|line| (line.values[0].clone(), line.location));
        let both = self
            .line("banner")
            .map(|line| (line.values[0].clone(), line.location));
        let mut message = Vec::new();
        for (file, at) in [both, text.clone()].into_iter().flatten() {
            let path = Path::new(&file);
            match read_file(path) {
                Ok(text) => message.extend(text),
                Err(why) => self.draft.fault(&at, format!("{} {why}", path.display())),
            }
        }
        let action = match message.is_empty() {
            true => "close".to_owned(),
            false => {
                let quoted = quoted(&message).to_string();
                format!("message:{}", quoted.trim_matches('"'))
            }
        };
        let has_access = ["only_from", "no_access"]
            .iter()
            .any(|it| self.settings.clients.contains_key(it));
        if !message.is_empty() && has_access && !self.waits {
            let at = text.map_or_else(|| self.draft.location(), |(_, at)| at);
            let what = "clients that only_from and no_access refuse don't get the banner, only those \
                        over limits";
            self.draft.note(&at, what);
        }
        for (name, option, at_limit) in [
            ("instances", "max-clients", "at-max"),
            ("per_source", "max-per-source", "at-source-max"),
        ] {
            let Some((value, at)) = self.one(name) else {
                continue;
            };
            // In wait mode there is one handler.
            if value == "UNLIMITED" || self.waits && value != "0" {
                continue;
            }
            self.draft.option(option, value, &at);
            if !self.is_udp {
                self.draft.option(at_limit, &action, &at);
            }
            if name == "per_source" {
                // xinetd counts addresses.
                self.draft.option("source-prefix", "32,128", &at);
            }
        }
        if let Some(line) = self.line("cps") {
            let (count, pause) = (&line.values[0], line.values[1].to_string_lossy());
            if self.waits {
                let what = "cps doesn't count in wait mode";
                return self.draft.note(&line.location, what);
            }
            if count != "0" {
                let mut rate = count.clone();
                rate.push("/s");
                self.draft.option("rate", rate, &line.location);
                let what = format!(
                    "over the rate of cps, clients wait; the service isn't switched off for {pause} s"
                );
                self.draft.note(&line.location, what);
            }
        }
    }

    fn surroundings(&mut self) {
        if !self.is_internal {
            let at = self.draft.location();
            // xinetd gives the socket as 0, 1 and 2.
            self.draft.option("stderr", "client", &at);
        }
        for (name, option) in [("umask", "umask"), ("nice", "nice")] {
            if let Some((value, at)) = self.one(name) {
                self.draft.option(option, value, &at);
            }
        }
        for (name, limit) in [
            ("rlimit_as", "as"),
            ("rlimit_cpu", "cpu"),
            ("rlimit_data", "data"),
            ("rlimit_files", "nofile"),
            ("rlimit_rss", "rss"),
            ("rlimit_stack", "stack"),
        ] {
            if let Some((value, at)) = self.one(name) {
                let value = match &value[..] {
                    "UNLIMITED" => "unlimited".to_owned(),
                    value => value.to_ascii_uppercase(),
                };
                self.draft.option("limit", format!("{limit}={value}"), &at);
            }
        }
        if let Some((names, at)) = self.settings.lists.get("passenv") {
            self.draft.flag("clear-env", at);
            for name in names {
                if let Some(value) = std::env::var_os(name) {
                    let mut variable = name.clone();
                    variable.push("=");
                    variable.push(value);
                    self.draft.option("env", variable, at);
                }
            }
            let what = "the variables of passenv have the values of the time of reading";
            self.draft.note(at, what);
        }
        if let Some((variables, at)) = self.settings.lists.get("env") {
            for variable in variables {
                if variable.as_encoded_bytes().contains(&b'=') {
                    self.draft.option("env", variable, at);
                } else {
                    let why = format!("env: {} has no =", variable.to_string_lossy());
                    self.draft.fault(at, why);
                }
            }
        }
    }

    fn access(&mut self, family: Family) {
        let list = |name: &str| self.settings.clients.get(name).map(|(list, _)| list);
        let (only_from, no_access) = (list("only_from"), list("no_access"));
        let at = ["only_from", "no_access"]
            .iter()
            .find_map(|name| self.settings.clients.get(name));
        let Some((_, at)) = at else {
            return;
        };
        if self.waits {
            let name = self.name;
            let why = format!(
                "service {name} waits, and skd doesn't see the clients of a program in wait mode: \
                 restrict them in the program or in the firewall, and write `no_access =` and \
                 `only_from = 0.0.0.0 ::/0` in the service"
            );
            let restricts = only_from.is_some_and(|it| !it.admits_all(family == Family::V4))
                || no_access.is_some_and(|it| !it.0.is_empty());
            if restricts {
                self.draft.fault(at, why);
            }
            return;
        }
        let hosts: Vec<&str> = [only_from, no_access]
            .into_iter()
            .flatten()
            .flat_map(access::List::hosts)
            .collect();
        // xinetd has one socket, of IPv6, for both families.
        match access::rules(only_from, no_access, family == Family::Both, self.look_up) {
            Ok(rules) => {
                for (allow, source) in rules {
                    let option = if allow { "allow" } else { "deny" };
                    self.draft.option(option, source, at);
                }
            }
            Err(why) => self.draft.fault(at, why),
        }
        if !hosts.is_empty() {
            let hosts = hosts.join(", ");
            let what = format!(
                "hosts by name are looked up at the start and at a reload, and clients aren't: {hosts}"
            );
            self.draft.note(at, what);
        }
    }

    fn log(&mut self) {
        for name in ["log_on_success", "log_on_failure"] {
            let Some((_, at)) = self.settings.lists.get(name) else {
                continue;
            };
            let inherited = self.defaults.lists.get(name);
            if inherited.is_some_and(|(_, other)| other == at) {
                continue;
            }
            if let Some(note) = log_note(name, self.settings) {
                self.draft.note(at, note);
            }
        }
        if let Some(line) = self.settings.single.get("log_type") {
            let what = "log_type doesn't count: skd logs by its own option --log";
            self.draft.note(&line.location, what);
        }
    }
}
