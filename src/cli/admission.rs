//! The options about who may come in: their values, and whether there is somebody whom they
//! could be about.

use std::ffi::OsStr;
use std::num::NonZeroUsize;

use super::Args;
use super::values::{self, Why, parsed};
use crate::config::{Admission, AtLimit, DatagramMode, Names, Proxies, Rule, Span, Trusted, Who};

/// What `--proxy-timeout` is, if not given.
const PROXY_TIMEOUT: Span = Span::seconds(3);

/// All of them, of use only where skd accepts connections.
const OPTIONS: [&str; 17] = [
    "allow",
    "deny",
    "rules",
    "explain",
    "max-per-source",
    "source-prefix",
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

/// Those of them that are for connections alone.
const OF_CONNECTIONS: [&str; 5] = [
    "at-source-max",
    "first-byte",
    "linger",
    "proxy-from",
    "proxy-timeout",
];

/// What clients there can be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clients {
    /// Whether skd accepts connections.
    pub(super) accepted: bool,
    /// Whether some of them may be TCP's.
    pub(super) tcp: bool,
    /// What it receives datagrams for, if it does.
    pub(super) datagrams: DatagramMode,
}

/// What was asked for, of clients of stream listeners whose connections skd accepts, and of senders
/// of datagrams that it receives.
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
    needs(args);
    if args.has("idle-timeout") && !tcp && clients.datagrams != DatagramMode::PerPeer {
        args.refuse(
            "--idle-timeout has no use without a TCP listener: of other connections the kernel \
             doesn't know when they were used",
        );
    }
    let admission = Admission {
        max_per_source: args
            .read("max-per-source", values::positive)
            .and_then(|number| NonZeroUsize::new(number as usize)),
        source_prefix: args.read("source-prefix", parsed).unwrap_or_default(),
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
            timeout: args.read("proxy-timeout", time).unwrap_or(PROXY_TIMEOUT),
        }),
        first_byte: args.read("first-byte", time),
        timeout: args.read("timeout", time),
        idle_timeout: args.read("idle-timeout", time),
        linger: args.read("linger", time),
    };
    for (option, at) in [
        ("at-max", &admission.at_max),
        ("at-rate", &admission.at_rate),
    ] {
        let lets_wait = matches!(at, None | Some(AtLimit::Queue(None) | AtLimit::Close));
        if !clients.accepted && receives && !lets_wait {
            args.refuse(format!(
                "--{option} can only be queue or close for datagrams: left in the socket, or dropped"
            ));
        }
    }
    if admission.at_source_max == Some(AtLimit::Queue(None)) {
        args.refuse(
            "--at-source-max can't be queue: in the backlog those of one source would hold up the \
             others; queue:DURATION is possible",
        );
    }
    if admission.at_rate == Some(AtLimit::Queue(None)) && !args.has("rate") {
        args.refuse(
            "--at-rate can't be queue without --rate: in the backlog those of one source would \
             hold up the others; queue:DURATION is possible",
        );
    }
    admission
}

/// Refuses what has no use for want of another option.
fn needs(args: &Args<'_>) {
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
            "--proxy-protocol needs --proxy-from: from anybody else a header would be believed \
             that says whatever he likes",
        );
    }
}

/// In the order in which they were given, of both options.
fn rules(args: &Args<'_>) -> Vec<Rule> {
    let mut found = Vec::new();
    for (option, allow) in [("allow", true), ("deny", false)] {
        for (place, value) in args.each(option) {
            let names = args.names();
            let read = |source: &OsStr| Rule::option(allow, source, names);
            found.extend(args.value(option, value, read).map(|rule| (place, rule)));
        }
    }
    found.sort_by_key(|(place, _)| *place);
    found.into_iter().map(|(_, rule)| rule).collect()
}

/// Somebody whom rules are asked about.
pub(super) fn client(text: &OsStr, names: Names<'_>) -> Result<Who, Why> {
    match Who::parse(text, names) {
        Ok(who @ (Who::Unix | Who::Uid(_) | Who::Gid(_))) => Ok(who),
        Ok(Who::Net(prefix)) if prefix.is_one() => Ok(Who::Net(prefix)),
        // Of what can be asked about, what is wrong with it is worth saying.
        Err(why) if ["uid=", "gid="].iter().any(|begin| begins(text, begin)) => {
            Err(why.to_string())
        }
        _ => Err("it takes one address, unix, uid=USER or gid=GROUP".into()),
    }
}

fn begins(text: &OsStr, with: &str) -> bool {
    text.as_encoded_bytes().starts_with(with.as_bytes())
}

/// A duration in which something can happen.
pub(super) fn time(text: &OsStr) -> Result<Span, Why> {
    let span = values::duration(text)?;
    if span == Span::ZERO {
        return Err("it takes a duration that isn't zero".into());
    }
    Ok(span)
}
