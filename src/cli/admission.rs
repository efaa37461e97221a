//! The admission options: their values, and whether there are clients that they apply to.

use std::ffi::OsStr;
use std::num::NonZeroUsize;

use super::args::Args;
use super::values::{self, Why, duration, nonzero_duration, parsed};
use crate::config::{
    Admission, AtLimit, DatagramMode, Names, Nat64, Proxies, Rule, Span, Trusted, Who, in_order,
};

/// The default of `--proxy-timeout`.
const PROXY_TIMEOUT: Span = Span::seconds(3);

/// The options that need skd to accept connections or to receive datagrams.
const OPTIONS: [&str; 18] = [
    "allow",
    "deny",
    "rules",
    "explain",
    "max-per-source",
    "source-prefix",
    "nat64",
    "rate",
    "rate-per-source",
    "at-max",
    "at-source-max",
    "at-rate",
    "first-byte",
    "timeout",
    "idle-timeout",
    "linger",
    "proxy-from",
    "proxy-timeout",
];

/// The options among them that need skd to accept connections.
const OF_CONNECTIONS: [&str; 5] = [
    "at-source-max",
    "first-byte",
    "linger",
    "proxy-from",
    "proxy-timeout",
];

/// The possible clients of the listeners.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clients {
    /// Whether skd accepts connections.
    pub(super) accepted: bool,
    /// Whether they may be TCP clients.
    pub(super) tcp: bool,
    /// What a handler of datagrams gets.
    pub(super) datagrams: DatagramMode,
}

/// Reads the admission options. They apply to connections that skd accepts and to datagrams that it
/// receives.
pub(super) fn admission(args: &Args<'_>, clients: Clients) -> Admission {
    let tcp = clients.tcp;
    let receives = clients.datagrams != DatagramMode::Wait;
    if !clients.accepted && receives {
        let flag = args.flag("proxy-protocol").then_some("proxy-protocol");
        let used = OF_CONNECTIONS.into_iter().filter(|option| args.has(option));
        for option in used.chain(flag) {
            args.refuse(format!(
                "--{option} has no use without a stream listener: datagrams have no connections"
            ));
        }
    }
    if !clients.accepted && !receives {
        let flag = args.flag("proxy-protocol").then_some("proxy-protocol");
        let used = OPTIONS.into_iter().filter(|option| args.has(option));
        for option in used.chain(flag) {
            args.refuse(format!(
                "--{option} has no use without a stream listener whose connections skd accepts"
            ));
        }
        return Admission::default();
    }
    check_needs(args);
    // skd-tls measures the idle time of its connections, whatever they are.
    let is_measured = tcp || args.has("tls") || clients.datagrams == DatagramMode::PerPeer;
    if args.has("idle-timeout") && !is_measured {
        args.refuse(
            "--idle-timeout has no use without a TCP listener: for other connections, the kernel \
             doesn't tell when they were last used",
        );
    }
    let admission = Admission {
        max_per_source: args
            .read("max-per-source", values::positive)
            .and_then(|number| NonZeroUsize::new(number as usize)),
        source_prefix: args.read("source-prefix", parsed).unwrap_or_default(),
        nat64: args
            .each("nat64")
            .filter_map(|(_, value)| args.value("nat64", value, parsed::<Nat64>))
            .collect(),
        rate: args.read("rate", parsed),
        rate_per_source: args.read("rate-per-source", parsed),
        at_max: args.read("at-max", parsed),
        at_source_max: args.read("at-source-max", parsed),
        at_rate: args.read("at-rate", parsed),
        rules: rules(args),
        rules_file: args.read("rules", values::path),
        proxies: args.flag("proxy-protocol").then(|| Proxies {
            from: args
                .each("proxy-from")
                .filter_map(|(_, value)| args.value("proxy-from", value, parsed::<Trusted>))
                .collect(),
            timeout: args
                .read("proxy-timeout", nonzero_duration)
                .unwrap_or(PROXY_TIMEOUT),
        }),
        first_byte: args.read("first-byte", nonzero_duration),
        timeout: args.read("timeout", nonzero_duration),
        idle_timeout: args.read("idle-timeout", nonzero_duration),
        linger: args.read("linger", duration),
    };
    for (option, at) in [
        ("at-max", &admission.at_max),
        ("at-rate", &admission.at_rate),
    ] {
        let is_possible = matches!(at, None | Some(AtLimit::Queue(None) | AtLimit::Close));
        if !clients.accepted && receives && !is_possible {
            args.refuse(format!(
                "--{option} can only be queue or close for datagrams: left in the socket, or dropped"
            ));
        }
    }
    if admission.at_source_max == Some(AtLimit::Queue(None)) {
        args.refuse(
            "--at-source-max can't be queue: in the backlog, connections of one source would \
             delay those of others; use queue:DURATION",
        );
    }
    if admission.at_rate == Some(AtLimit::Queue(None)) && !args.has("rate") {
        args.refuse(
            "--at-rate can't be queue without --rate: in the backlog, connections of one source \
             would delay those of others; use queue:DURATION",
        );
    }
    admission
}

/// Refuses options that need another option.
fn check_needs(args: &Args<'_>) {
    let any = |options: &[&str]| {
        let mut options = options.iter();
        options.any(|option| args.has(option))
    };
    let per_source = any(&["max-per-source", "rate-per-source", "rules"]);
    let source_max = any(&["max-per-source", "rules"]);
    let rate = any(&["rate", "rate-per-source", "rules"]);
    let max = args.has("max-clients");
    let proxies = args.flag("proxy-protocol");
    for (option, used, what) in [
        (
            "source-prefix",
            per_source,
            "--max-per-source, --rate-per-source or --rules",
        ),
        (
            "nat64",
            per_source || any(&["allow", "deny"]),
            "--allow, --deny, --rules, --max-per-source or --rate-per-source",
        ),
        ("at-max", max, "--max-clients"),
        ("at-source-max", source_max, "--max-per-source or --rules"),
        ("at-rate", rate, "--rate, --rate-per-source or --rules"),
        ("proxy-from", proxies, "--proxy-protocol"),
        ("proxy-timeout", proxies, "--proxy-protocol"),
    ] {
        if !used && args.has(option) {
            args.refuse(format!("--{option} has no use without {what}"));
        }
    }
    if proxies && !args.has("proxy-from") {
        args.refuse(
            "--proxy-protocol needs --proxy-from: without it, any client could \
             pass for another with a header",
        );
    }
}

/// Reads the rules, in the order in which they were given.
fn rules(args: &Args<'_>) -> Vec<Rule> {
    let mut found = Vec::new();
    for (option, allow) in [("allow", true), ("deny", false)] {
        for (position, value) in args.each(option) {
            let names = |id, name: &OsStr| args.look_up_id(id, name);
            let read = |source: &OsStr| Rule::option(allow, source, &names);
            found.extend(args.value(option, value, read).map(|rule| (position, rule)));
        }
    }
    let found = in_order(found, |(position, _)| *position);
    found.into_iter().map(|(_, rule)| rule).collect()
}

/// Parses the client of `--explain`.
pub(super) fn client(text: &OsStr, names: Names<'_>) -> Result<Who, Why> {
    match Who::parse(text, names) {
        Ok(who @ (Who::Unix | Who::Uid(_) | Who::Gid(_))) => Ok(who),
        Ok(Who::Net(prefix)) if prefix.is_one() => Ok(Who::Net(prefix)),
        // The reason is useful only for sources that can be a client.
        Err(why) if ["uid=", "gid="].iter().any(|begin| begins(text, begin)) => {
            Err(why.to_string())
        }
        _ => Err("it takes one address, unix, uid=USER or gid=GROUP".into()),
    }
}

fn begins(text: &OsStr, with: &str) -> bool {
    text.as_encoded_bytes().starts_with(with.as_bytes())
}
