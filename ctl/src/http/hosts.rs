//! The names by which clients may know this server.
//!
//! A browser lets a page read what the server of its own name answers. A page of a stranger can have
//! its name lead to an address in here (DNS rebinding), and would read what it must not see. Such a
//! request has the stranger's name in it. So requests are answered for names that are known, and for
//! addresses.

use std::fs;
use std::net::IpAddr;

/// The names that are answered, in lower case.
#[derive(Debug)]
pub(super) struct Hosts {
    names: Vec<String>,
    any: bool,
}

impl Hosts {
    /// Returns the names of this machine, and these. `*` stands for every name.
    pub(super) fn new(names: &[String]) -> Self {
        let machine = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self::of(machine.trim(), names)
    }

    fn of(machine: &str, names: &[String]) -> Self {
        let first = machine.split('.').next();
        let names: Vec<_> = names
            .iter()
            .map(String::as_str)
            .chain([machine])
            .chain(first)
            .filter(|name| !name.is_empty())
            .map(plain)
            .collect();
        Self {
            any: names.iter().any(|name| name == "*"),
            names,
        }
    }

    /// Returns whether requests for this host, maybe with a port, are answered.
    pub(super) fn have(&self, host: &str) -> bool {
        let Some(name) = without_port(host) else {
            return false;
        };
        let inside = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        let name = plain(name);
        self.any
            || inside.is_some_and(|address| address.parse::<IpAddr>().is_ok_and(|it| it.is_ipv6()))
            || name.parse::<IpAddr>().is_ok_and(|it| it.is_ipv4())
            || name == "localhost"
            || name.ends_with(".localhost")
            || self.names.contains(&name)
    }
}

/// A name in lower case, without the dot of the root.
fn plain(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// The host before the port. `None` if that is no port.
fn without_port(host: &str) -> Option<&str> {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => port
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then_some(name),
        _ => Some(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_known_names_are_answered() {
        let hosts = Hosts::of("Box.Example.org", &["status.example.org".into()]);
        for host in [
            "127.0.0.1",
            "127.0.0.1:9117",
            "127.0.0.1:",
            "[::1]",
            "[::1]:9117",
            "localhost:9117",
            "LocalHost",
            "a.localhost",
            "box",
            "BOX.example.org.:80",
            "Status.example.org:9117",
        ] {
            assert!(hosts.have(host), "{host}");
        }
        for host in [
            "",
            ":80",
            "evil.example",
            "evil.example:9117",
            "box.evil.example",
            "localhost.evil.example",
            "xlocalhost",
            "127.0.0.1.evil.example",
            "[127.0.0.1]",
            "::1",
            "[evil]",
            "box:x",
            "*",
        ] {
            assert!(!hosts.have(host), "{host}");
        }
    }

    #[test]
    fn an_asterisk_stands_for_every_name() {
        assert!(Hosts::of("", &["*".into()]).have("evil.example:80"));
        assert!(!Hosts::of("", &[]).have(""));
    }
}
