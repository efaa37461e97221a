//! Reading the file of inetd(8): the common fields of the BSDs' and Debian's, and the forms in which
//! they differ where these can't mean two things.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::sync::Arc;

use super::foreign::{
    Draft, LookUp, addresses, base_name, fault, host_and_port, make_names_unique,
};
use super::read::file as read_file;
use crate::config::{Location, ServiceText};
use crate::error::Error;

/// A word, and where it is.
#[derive(Clone, Debug)]
struct Word {
    text: OsString,
    location: Location,
    is_quoted: bool,
}

impl Word {
    /// Returns the text. What isn't UTF-8 is no valid value of these fields.
    fn str(&self) -> &str {
        self.text.to_str().unwrap_or("\u{fffd}")
    }
}

/// Reads a file.
pub(super) fn read(path: &Path, faults: &mut Vec<Error>) -> Vec<ServiceText> {
    match read_file(path) {
        Ok(text) => parse_with(path, &text, &addresses, faults),
        Err(why) => {
            faults.push(Error::Usage(format!("{} {why}", path.display())));
            Vec::new()
        }
    }
}

/// Parses the text of a file, for tests. No host is looked up.
pub fn parse(text: &[u8], faults: &mut Vec<Error>) -> Vec<ServiceText> {
    let look_up = |name: &str| Err(format!("{name} isn't looked up"));
    parse_with(Path::new("inetd.conf"), text, &look_up, faults)
}

fn parse_with(
    path: &Path,
    text: &[u8],
    look_up: LookUp<'_>,
    faults: &mut Vec<Error>,
) -> Vec<ServiceText> {
    let file: Arc<Path> = path.into();
    let mut host = None;
    let mut found = Vec::new();
    let mut lines = text.split(|byte| *byte == b'\n').zip(1..).peekable();
    while let Some((line, number)) = lines.next() {
        let location = |line: &[u8], at: usize, number| Location {
            file: file.clone(),
            line: number,
            column: String::from_utf8_lossy(&line[..at]).chars().count() as u32 + 1,
        };
        match line {
            [b'#', b'@', policy @ ..] => {
                if !policy.trim_ascii().is_empty() {
                    let why = "skd has no IPsec policies: set them for the port by other means";
                    faults.push(fault(&location(line, 0, number), why));
                }
                continue;
            }
            [b'#', ..] => continue,
            line if line.trim_ascii().is_empty() => continue,
            _ => {}
        }
        let mut entry = Vec::new();
        let mut refused = words(line, |at| location(line, at, number), &mut entry).err();
        // A line that begins with a blank continues the one before, whatever it contains.
        while let Some((line, number)) =
            lines.next_if(|(line, _)| matches!(line, [b' ' | b'\t', ..]))
        {
            let more = words(line, |at| location(line, at, number), &mut entry).err();
            refused = refused.or(more);
        }
        if let Some((location, why)) = refused {
            faults.push(fault(&location, why));
            continue;
        }
        let [first, rest @ ..] = &entry[..] else {
            continue;
        };
        if rest
            .first()
            .is_some_and(|second| ["on", "off"].contains(&second.str()))
        {
            let why = "this form of NetBSD isn't read: write the service in one line";
            faults.push(fault(&first.location, why));
            let ends = |entry: &[u8]| entry.trim_ascii_end().ends_with(b";");
            let mut is_ended = entry.last().is_some_and(|word| ends(word.text.as_bytes()));
            while !is_ended {
                is_ended = lines.next().is_none_or(|(line, _)| ends(line));
            }
            continue;
        }
        if first.str().starts_with('.') {
            let why = "there are no directives here: name each file by --inetd-conf";
            faults.push(fault(&first.location, why));
            continue;
        }
        // A host alone is for the lines after it.
        let alone = first.str().strip_suffix(':').filter(|_| rest.is_empty());
        if let Some(name) = alone {
            host = Some(name.to_owned()).filter(|name| name != "*");
            continue;
        }
        found.extend(service(&entry, host.as_deref(), look_up, faults));
    }
    make_names_unique(&mut found);
    found.into_iter().map(|(service, _)| service).collect()
}

/// Adds the words of a line. A word that begins with a quote goes to the next quote, as in the BSDs.
fn words(
    line: &[u8],
    location: impl Fn(usize) -> Location,
    found: &mut Vec<Word>,
) -> Result<(), (Location, String)> {
    let mut rest = line;
    loop {
        rest = rest.trim_ascii_start();
        let at = line.len() - rest.len();
        let location = || location(at);
        let (word, is_quoted) = match rest {
            [] => return Ok(()),
            [quote @ (b'"' | b'\''), after @ ..] => {
                let end = after.iter().position(|byte| byte == quote);
                let end = end.ok_or_else(|| (location(), "the quote has no end".to_owned()))?;
                rest = &after[end + 1..];
                if !matches!(rest, [] | [b' ' | b'\t' | b'\r', ..]) {
                    return Err((location(), "after a quote there has to be a blank".into()));
                }
                (&after[..end], true)
            }
            text => {
                let end = text.iter().position(u8::is_ascii_whitespace);
                let (word, after) = text.split_at(end.unwrap_or(text.len()));
                rest = after;
                (word, false)
            }
        };
        if word.contains(&0) {
            return Err((location(), "the word contains a NUL byte".into()));
        }
        found.push(Word {
            text: OsString::from_vec(word.to_vec()),
            location: location(),
            is_quoted,
        });
    }
}

/// What the fields before the program say.
struct Fields<'a> {
    look_up: LookUp<'a>,
    service: &'a Word,
    /// The name or number of the port, or the path.
    name: String,
    /// The hosts on which to listen, separated by commas.
    hosts: Option<String>,
    style: &'a Word,
    protocol: &'a Word,
    wait: &'a Word,
    user: &'a Word,
    program: &'a Word,
    arguments: &'a [Word],
}

/// Returns the service of an entry and its protocol, unless it has a fault.
fn service(
    entry: &[Word],
    default_host: Option<&str>,
    look_up: LookUp<'_>,
    faults: &mut Vec<Error>,
) -> Option<(ServiceText, String)> {
    let first = entry.first()?;
    let text = first.str();
    let (own_host, name) = match text.rsplit_once(':') {
        Some((host, name)) if !text.starts_with('/') => (Some(host), name),
        _ => (None, text),
    };
    // A blank may follow the colon.
    let (name, entry) = match (name, entry) {
        ("", [_, name, ..]) => (name.str(), &entry[1..]),
        _ => (name, entry),
    };
    let hosts = own_host.or(default_host).filter(|host| *host != "*");
    let [
        service,
        style,
        protocol,
        wait,
        user,
        program,
        arguments @ ..,
    ] = entry
    else {
        let why = "an entry has a service, socket type, protocol, wait or nowait, user, program, and \
                   the program's name and arguments";
        faults.push(fault(&first.location, why));
        return None;
    };
    let fields = Fields {
        look_up,
        service,
        name: name.to_owned(),
        hosts: hosts.map(str::to_owned),
        style,
        protocol,
        wait,
        user,
        program,
        arguments,
    };
    fields.text(&first.location, faults)
}

impl Fields<'_> {
    fn text(&self, location: &Location, faults: &mut Vec<Error>) -> Option<(ServiceText, String)> {
        let (protocol, parameters) = match self.protocol.str().split_once(',') {
            Some((protocol, parameters)) => (protocol, Some(parameters)),
            None => (self.protocol.str(), None),
        };
        let is_unix = protocol == "unix";
        let name = match is_unix {
            true => base_name(self.service.text.as_os_str())
                .to_string_lossy()
                .into_owned(),
            false => self.name.clone(),
        };
        let mut draft = Draft::new(&name, location, faults);
        if let Some(word) = self.arguments.iter().find(|word| word.is_quoted) {
            let what = "quotes enclose an argument here, as in the BSDs; Debian's inetd takes them for \
                        a part of words";
            draft.note(&word.location, what);
        }
        if let Some(word) = self.arguments.iter().find(|word| word.text == "#") {
            let what = "# doesn't begin a comment here: it and what follows are arguments";
            draft.note(&word.location, what);
        }
        let is_internal = self.program.text == "internal";
        let is_datagram = self.style.text == "dgram";
        self.listener(protocol, &mut draft);
        for parameter in parameters.into_iter().flat_map(|text| text.split(',')) {
            self.buffer(parameter, &mut draft);
        }
        self.wait(is_internal, is_datagram, &mut draft);
        self.user(is_internal, &mut draft);
        if is_internal {
            let at = &self.program.location;
            let date = "+%a %b %e %H:%M:%S %Y\r";
            match is_unix {
                true => draft.fault(at, "skd has no built-in services on unix sockets"),
                false => draft.stand_in(&self.name, is_datagram, date, at),
            }
        } else {
            draft.option("stderr", "client", &self.program.location);
            self.program(&mut draft);
        }
        Some((draft.finish()?, protocol.to_owned()))
    }

    fn listener(&self, protocol: &str, draft: &mut Draft<'_>) {
        let at = &self.service.location;
        let style = self.style.str();
        if protocol == "unix" {
            match style {
                "stream" => {}
                "dgram" => draft.flag("datagram", &self.style.location),
                "seqpacket" => draft.flag("seqpacket", &self.style.location),
                _ => self.refuse_style(draft),
            }
            return draft.option("unix", &self.service.text, at);
        }
        let (kind, family) = match protocol {
            "tcp" | "tcp46" => ("tcp", None),
            "tcp4" => ("tcp", Some(4)),
            "tcp6" => ("tcp", Some(6)),
            "udp" | "udp46" => ("udp", None),
            "udp4" => ("udp", Some(4)),
            "udp6" => ("udp", Some(6)),
            _ => {
                let why = match protocol {
                    rpc if rpc.starts_with("rpc/") => {
                        "skd doesn't register services with rpcbind: start the program by itself"
                            .to_owned()
                    }
                    other => format!(
                        "protocol is tcp or udp, with 4, 6 or 46 after it, or unix; skd has no {other}"
                    ),
                };
                return draft.fault(&self.protocol.location, why);
            }
        };
        match (style, kind) {
            ("stream", "tcp") | ("dgram", "udp") => {}
            ("stream" | "dgram", _) => {
                let why = "stream is tcp and dgram is udp, but here they are mixed";
                draft.fault(&self.style.location, why);
            }
            _ => self.refuse_style(draft),
        }
        if self.name.starts_with("tcpmux/") {
            return draft.fault(at, "skd has no tcpmux: give the service a port of its own");
        }
        if self.name.contains('/') {
            return draft.fault(
                at,
                "a service with a version is one of RPC; a path needs unix",
            );
        }
        let Some(hosts) = &self.hosts else {
            let value = match family {
                Some(4) => host_and_port("0.0.0.0", &self.name),
                Some(_) => host_and_port("::", &self.name),
                None => self.name.clone(),
            };
            return draft.option(kind, value, at);
        };
        for host in hosts.split(',') {
            let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
            let host = bare.unwrap_or(host);
            if host == "*" {
                draft.option(kind, &self.name, at);
                continue;
            }
            let is_numeric = host.contains(':') || host.parse::<std::net::Ipv4Addr>().is_ok();
            if family.is_none() || is_numeric {
                let fits = |family| host.contains(':') == (family == 6);
                if !family.is_none_or(fits) {
                    draft.fault(at, format!("{host} is no address of {protocol}"));
                }
                draft.option(kind, host_and_port(host, &self.name), at);
                continue;
            }
            let found = match (self.look_up)(host) {
                Ok(found) => found,
                Err(why) => return draft.fault(at, why),
            };
            let fits: Vec<_> = found
                .iter()
                .filter(|it| it.is_ipv6() == (family == Some(6)))
                .collect();
            if fits.is_empty() {
                draft.fault(at, format!("the host {host} has no address of {protocol}"));
            }
            for address in fits {
                draft.option(kind, host_and_port(&address.to_string(), &self.name), at);
            }
            let what = format!("{host} is looked up at the start and at a reload only");
            draft.note(at, what);
        }
    }

    fn refuse_style(&self, draft: &mut Draft<'_>) {
        let style = self.style.str();
        let why = format!("the socket type is stream or dgram; skd has no {style} service");
        draft.fault(&self.style.location, why);
    }

    /// Sets a buffer size: `sndbuf=64k`.
    fn buffer(&self, parameter: &str, draft: &mut Draft<'_>) {
        let option = match parameter.split_once('=') {
            Some(("sndbuf", size)) => Some(("send-buffer", size)),
            Some(("rcvbuf", size)) => Some(("receive-buffer", size)),
            _ => None,
        };
        let at = &self.protocol.location;
        match option {
            Some((option, size)) => draft.option(option, size.to_ascii_uppercase(), at),
            None => draft.fault(
                at,
                format!("after a protocol comes sndbuf= or rcvbuf=, not {parameter}"),
            ),
        }
    }

    /// Reads `wait` or `nowait` and the limit after it.
    fn wait(&self, is_internal: bool, is_datagram: bool, draft: &mut Draft<'_>) {
        let at = &self.wait.location;
        let text = self.wait.str();
        let end = text.find(['.', ':', '/']).unwrap_or(text.len());
        let (word, limit) = text.split_at(end);
        let waits = match word {
            "wait" => !is_internal,
            "nowait" => false,
            _ => {
                return draft.fault(at, "this is wait or nowait");
            }
        };
        if waits && !is_datagram {
            draft.flag("wait", at);
        }
        if !waits && is_datagram && !is_internal {
            let why = "a program that serves datagrams has to wait; for a program that gets each \
                       datagram as its input there is `datagram-mode = \"per-packet\"` in files of \
                       --config";
            draft.fault(at, why);
        }
        match limit.split_at_checked(1) {
            None => {}
            Some((_, "")) => draft.fault(at, "after the mark comes a number"),
            Some(("/", limits)) => self.freebsd_limits(limits, waits, draft),
            Some((_, count)) if waits => {
                let what =
                    format!("the limit of {count} starts a minute doesn't count in wait mode");
                draft.note(at, what);
            }
            Some((_, count)) => {
                draft.option("rate", format!("{count}/m"), at);
                let what =
                    format!("over {count} a minute, clients wait; the service isn't switched off");
                draft.note(at, what);
            }
        }
    }

    /// Reads the limits of FreeBSD: handlers, clients a minute from an address, handlers for an address. 0
    /// is no limit.
    fn freebsd_limits(&self, limits: &str, waits: bool, draft: &mut Draft<'_>) {
        let at = &self.wait.location;
        let options = [
            ("max-clients", ""),
            ("rate-per-source", "/m"),
            ("max-per-source", ""),
        ];
        let limits: Vec<&str> = limits.split('/').collect();
        if limits.len() > options.len() {
            return draft.fault(at, "there are three limits at most");
        }
        let mut counts_sources = false;
        for ((option, unit), limit) in options.into_iter().zip(limits) {
            let is_number = !limit.is_empty() && limit.bytes().all(|byte| byte.is_ascii_digit());
            if !is_number {
                return draft.fault(at, format!("a limit is a number, not '{limit}'"));
            }
            if limit.bytes().all(|byte| byte == b'0') {
                continue;
            }
            if waits {
                draft.note(at, "limits don't count in wait mode: there is one handler");
                return;
            }
            draft.option(option, format!("{limit}{unit}"), at);
            counts_sources |= option != "max-clients";
        }
        if counts_sources {
            draft.option("source-prefix", "32,128", at);
        }
        let what = "the limits after / are those of FreeBSD; Debian's inetd doesn't read them";
        draft.note(at, what);
    }

    fn user(&self, is_internal: bool, draft: &mut Draft<'_>) {
        let at = &self.user.location;
        let text = self.user.str();
        if text.contains('/') || text.matches(':').count() > 1 {
            return draft.fault(at, "skd has no login classes: set limits by other means");
        }
        let (user, group) = match text.split_once(':').or_else(|| text.split_once('.')) {
            Some((user, group)) => (user, Some(OsStr::new(group))),
            None => (text, None),
        };
        if user.is_empty() || group.is_some_and(OsStr::is_empty) {
            return draft.fault(at, "this is a user, or USER:GROUP");
        }
        match is_internal {
            true => draft.stand_in_user(Some((OsStr::new(user), group)), at),
            false => draft.user(OsStr::new(user), group, false, at),
        }
    }

    fn program(&self, draft: &mut Draft<'_>) {
        let program = &self.program.text;
        let at = &self.program.location;
        let words: Vec<OsString> = self
            .arguments
            .iter()
            .map(|word| word.text.clone())
            .collect();
        let (name, arguments) = match words.split_first() {
            Some((name, arguments)) => (&name[..], arguments),
            None => (base_name(program), &[][..]),
        };
        if !program.as_bytes().contains(&b'/') {
            let what = "the program is looked for in PATH; some inetds want a path";
            draft.note(at, what);
        }
        draft.program(program, name, arguments, at);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::files::foreign::shown;

    /// What is read: a line for each service, and faults.
    fn read_text(text: &str) -> (Vec<String>, Vec<String>) {
        let mut faults = Vec::new();
        let services = parse(text.as_bytes(), &mut faults);
        let shown = services
            .iter()
            .map(shown)
            .map(|line| line.replace(" stderr=client", ""));
        let shown = shown.collect();
        (shown, faults.iter().map(ToString::to_string).collect())
    }

    fn accepts(line: &str, expected: &str) {
        assert_eq!(
            read_text(line),
            (vec![expected.to_owned()], vec![]),
            "{line}"
        );
    }

    #[test]
    fn fields_become_options() {
        for (line, expected) in [
            (
                "7000 stream tcp nowait root /x x a b",
                "[7000] tcp=7000 argv0=x '/x' 'a' 'b'",
            ),
            (
                "ftp stream tcp nowait root /x",
                "[ftp] tcp=ftp argv0=x '/x'",
            ),
            ("ftp stream tcp nowait root /x /x", "[ftp] tcp=ftp '/x'"),
            ("ftp stream tcp nowait root x x", "[ftp] tcp=ftp 'x'"),
            (
                "ftp stream tcp4 nowait root /x -x",
                "[ftp] tcp=0.0.0.0:ftp argv0=-x '/x'",
            ),
            (
                "ftp stream tcp6 nowait root /x -x",
                "[ftp] tcp=[::]:ftp argv0=-x '/x'",
            ),
            ("ftp stream tcp46 nowait root /x /x", "[ftp] tcp=ftp '/x'"),
            ("*:874 stream tcp nowait root /x /x", "[874] tcp=874 '/x'"),
            (
                "127.0.0.1:874 stream tcp nowait root /x /x",
                "[874] tcp=127.0.0.1:874 '/x'",
            ),
            (
                "127.0.0.1: 874 stream tcp nowait root /x /x",
                "[874] tcp=127.0.0.1:874 '/x'",
            ),
            (
                "[::1]:874 stream tcp6 nowait root /x /x",
                "[874] tcp=[::1]:874 '/x'",
            ),
            (
                "::1:874 stream tcp nowait root /x /x",
                "[874] tcp=[::1]:874 '/x'",
            ),
            (
                "127.0.0.1,[::1]:874 stream tcp nowait root /x /x",
                "[874] tcp=127.0.0.1:874 tcp=[::1]:874 '/x'",
            ),
            ("tftp dgram udp wait root /x /x", "[tftp] udp=tftp '/x'"),
            (
                "tftp dgram udp6 wait.9 root /x /x",
                "[tftp] udp=[::]:tftp '/x'",
            ),
            ("ftp stream tcp wait root /x /x", "[ftp] tcp=ftp wait '/x'"),
            (
                "ftp stream tcp nowait.25 root /x /x",
                "[ftp] tcp=ftp rate=25/m '/x'",
            ),
            (
                "ftp stream tcp nowait:25 root /x /x",
                "[ftp] tcp=ftp rate=25/m '/x'",
            ),
            (
                "ftp stream tcp nowait/25 root /x /x",
                "[ftp] tcp=ftp max-clients=25 '/x'",
            ),
            (
                "ftp stream tcp nowait/0/60/3 root /x /x",
                "[ftp] tcp=ftp rate-per-source=60/m max-per-source=3 source-prefix=32,128 '/x'",
            ),
            (
                "ftp stream tcp nowait www.daemon /x /x",
                "[ftp] tcp=ftp user=www:daemon '/x'",
            ),
            (
                "ftp stream tcp nowait www:daemon /x /x",
                "[ftp] tcp=ftp user=www:daemon '/x'",
            ),
            (
                "ftp stream tcp nowait root.wheel /x /x",
                "[ftp] tcp=ftp '/x'",
            ),
            (
                "ftp stream tcp,sndbuf=64k,rcvbuf=1m nowait root /x /x",
                "[ftp] tcp=ftp send-buffer=64K receive-buffer=1M '/x'",
            ),
            (
                "/run/x.sock stream unix nowait root /x /x",
                "[x.sock] unix=/run/x.sock '/x'",
            ),
            (
                "/run/x dgram unix wait root /x /x",
                "[x] datagram unix=/run/x '/x'",
            ),
            (
                "/run/a:b seqpacket unix nowait root /x /x",
                "[a:b] seqpacket unix=/run/a:b '/x'",
            ),
            (
                "finger stream tcp nowait root /usr/sbin/tcpd /usr/sbin/in.fingerd -w",
                "[finger] tcp=finger argv0=/usr/sbin/in.fingerd '/usr/sbin/tcpd' '-w'",
            ),
            (
                "ftp stream tcp nowait root /bin/sh sh -c \"echo a\" 'b  c'",
                "[ftp] tcp=ftp argv0=sh '/bin/sh' '-c' 'echo a' 'b  c'",
            ),
            (
                "ftp stream tcp nowait root /x x a\"b # c",
                "[ftp] tcp=ftp argv0=x '/x' 'a\"b' '#' 'c'",
            ),
            (
                "ftp stream tcp nowait\n  root\n\t/x x\n \n  # y\n",
                "[ftp] tcp=ftp argv0=x '/x' '#' 'y'",
            ),
            (
                "echo stream tcp nowait root internal",
                "[echo] tcp=echo user=nobody '/bin/cat'",
            ),
            (
                "discard dgram udp wait www internal",
                "[discard] udp=discard user=www datagram-mode=per-packet '/bin/sh' '-c' 'exec cat >/dev/null'",
            ),
        ] {
            accepts(line, expected);
        }
    }

    #[test]
    fn hosts_alone_are_for_the_lines_after_them() {
        let line = |port: u16| format!("{port} stream tcp nowait root /x /x\n");
        let text = format!(
            "{}127.0.0.1:\n{}# a\n*:{}{}*:\n{}",
            line(1),
            line(2),
            line(3),
            line(4).replace("tcp", "tcp4"),
            line(5)
        );
        let (services, faults) = read_text(&text);
        let addresses: Vec<_> = services
            .iter()
            .map(|it| it.split([' ', '=']).nth(2).unwrap())
            .collect();
        assert_eq!(addresses, ["1", "127.0.0.1:2", "3", "127.0.0.1:4", "5"]);
        assert_eq!(faults, Vec::<String>::new());
        let (services, _) = read_text(&(line(1) + &line(1) + &line(1).replace("tcp", "tcp6")));
        let names: Vec<_> = services
            .iter()
            .map(|it| it.split(' ').next().unwrap())
            .collect();
        assert_eq!(names, ["[1]", "[1-tcp]", "[1-tcp6]"]);
    }

    #[test]
    fn what_skd_cannot_do_is_refused_with_its_line() {
        for (line, reason) in [
            ("ftp stream tcp nowait root", "an entry has a service"),
            ("ftp stream sctp nowait root /x x", "skd has no sctp"),
            ("ftp raw tcp nowait root /x x", "skd has no raw service"),
            ("ftp dgram tcp wait root /x x", "mixed"),
            ("ftp seqpacket tcp nowait root /x x", "no seqpacket service"),
            ("rstatd/2-4 dgram rpc/udp wait root /x x", "rpcbind"),
            ("tcpmux/+date stream tcp nowait root /x x", "no tcpmux"),
            ("ftp stream tcp nowat root /x x", "wait or nowait"),
            ("ftp stream tcp nowait. root /x x", "comes a number"),
            ("ftp stream tcp nowait/x root /x x", "a limit is a number"),
            ("ftp stream tcp nowait/1/2/3/4 root /x x", "three limits"),
            ("ftp dgram udp nowait root /x x", "has to wait"),
            ("ftp stream tcp nowait www:www:class /x x", "login classes"),
            ("ftp stream tcp nowait www/class /x x", "login classes"),
            (
                "ftp stream tcp nowait root:daemon /x x",
                "a user of its own",
            ),
            ("ftp stream tcp nowait :x /x x", "USER:GROUP"),
            ("ftp stream tcp,frob=1 nowait root /x x", "sndbuf="),
            (
                "time stream tcp nowait root internal",
                "no built-in service time",
            ),
            ("/run/echo stream unix nowait root internal", "no built-in"),
            ("ftp stream tcp nowait root /x x \"a", "quote has no end"),
            (
                "ftp stream tcp nowait root /x x \"a\"b",
                "has to be a blank",
            ),
            (
                "[::1]:ftp stream tcp4 nowait root /x x",
                "no address of tcp4",
            ),
            ("#@ ipsec in bypass", "IPsec"),
            (".include \"x\"", "no directives"),
            ("ftp on protocol = tcp,\n user = root;", "NetBSD"),
            ("ftp on\n protocol = tcp,\nuser = root,\n x = y;", "NetBSD"),
        ] {
            let (services, faults) =
                read_text(&format!("#\n{line}\n7 stream tcp nowait root /x x"));
            assert_eq!(services, ["[7] tcp=7 argv0=x '/x'"], "{line}: {faults:?}");
            assert!(
                faults.len() == 1 && faults[0].contains(reason),
                "{line}: {faults:?}"
            );
            assert!(faults[0].starts_with("inetd.conf:2:"), "{faults:?}");
        }
        assert_eq!(read_text("#@\n"), (vec![], vec![]));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(
            lines in proptest::collection::vec(prop_oneof![
                ("[a-z0-9:*.\\[\\]/,]{1,8}", "(stream|dgram)", "(tcp|udp|unix)[46,=a-z]{0,6}",
                 "(no)?wait[./:0-9]{0,6}", "[a-z.:]{1,5}", "(/x|internal|y) ['\"a #]{0,8}")
                    .prop_map(|it| format!("{} {} {} {} {} {}", it.0, it.1, it.2, it.3, it.4, it.5)),
                "[a-z0-9.]{0,4}:",
                "[ \t][a-z ]{0,9}",
                any::<String>(),
            ], 0..20),
        ) {
            let text = lines.join("\n");
            let mut faults = Vec::new();
            let services = parse(text.as_bytes(), &mut faults);
            let last = text.split('\n').count() as u32;
            for service in services {
                prop_assert!(!service.command.is_empty() && !service.options.is_empty());
                let options = service.options.iter().map(|it| &it.location);
                prop_assert!(options.chain([&service.location]).all(|it| (1..=last).contains(&it.line)));
            }
            for fault in faults {
                prop_assert!(fault.to_string().starts_with("inetd.conf:"), "{}", fault);
            }
        }
    }
}
