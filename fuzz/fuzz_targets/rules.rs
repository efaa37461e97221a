//! Rules and lists of prefixes. A parsed rule is written so that it parses to the same, and the compiled rules decide
//! on a client as the rules one by one do.

#![no_main]

use std::ffi::OsStr;
use std::net::IpAddr;

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use skd::config::rule_file::{self, Fault};
use skd::config::{Id, Prefix, Rate, Refused, Rule, RuleLocation, Who, quoted, unescape};
use skd::serve::{Client, Rules};

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    Rules(&'a [u8], &'a [u8], Vec<Asked>),
    Built(Vec<(bool, Chosen)>, Vec<Asked>),
    Text(&'a str),
    Bytes(&'a [u8]),
}

#[derive(Arbitrary, Debug)]
enum Chosen {
    All,
    Unix,
    Uid(u8),
    Gid(u8),
    Net(IpAddr, u8),
    List(Vec<(IpAddr, u8)>),
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Asked {
    Address(IpAddr),
    Unix(Option<u8>, Option<u8>),
    Unknown,
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Rules(rules, list, clients) => text(rules, list, &clients),
    Input::Built(rules, clients) => built(rules, &clients),
    Input::Text(text) => values(text),
    Input::Bytes(bytes) => {
        let text = quoted(bytes).to_string();
        assert!(!text.chars().any(char::is_control), "{text:?}");
        assert_eq!(unescape(&text[1..text.len() - 1]).as_deref(), Ok(bytes));
    }
});

/// Looks up a name. All numbers differ, so that a mix-up shows.
fn names(id: Id, name: &OsStr) -> Result<u32, Refused> {
    assert!(!name.is_empty());
    match (id, name.to_str()) {
        (Id::User, Some("alice")) => Ok(1),
        (Id::Group, Some("staff")) => Ok(2),
        _ => Err(Refused::because("there is nobody of that name")),
    }
}

/// Asserts that faults are sorted, and that each has a position in the text and a reason.
fn refused(text: &[u8], faults: &[Fault]) {
    assert!(!faults.is_empty());
    let lines: Vec<_> = text.split(|byte| *byte == b'\n').collect();
    for fault in faults {
        let line = String::from_utf8_lossy(lines[fault.line - 1]);
        assert!(
            (1..=line.chars().count() + 1).contains(&fault.column),
            "{fault:?}"
        );
        assert!(!fault.why.to_string().is_empty());
    }
    assert!(faults.is_sorted_by(|one, next| one.line < next.line));
}

fn text(text: &[u8], list: &[u8], clients: &[Asked]) {
    let list = match rule_file::prefixes(list) {
        Ok(list) => list,
        Err(faults) => {
            refused(list, &faults);
            Vec::new()
        }
    };
    for prefix in &list {
        assert_eq!(prefix.to_string().parse(), Ok(*prefix));
    }
    let rules = match rule_file::rules(text, &names) {
        Ok(rules) => rules,
        Err(faults) => return refused(text, &faults),
    };
    for rule in &rules {
        let RuleLocation::Line(line) = rule.location else {
            panic!("{rule:?} comes from a file");
        };
        // On the same line as before.
        let again = format!("{}{rule}", "\n".repeat(line - 1));
        let again = rule_file::rules(again.as_bytes(), &names);
        assert_eq!(again.as_deref(), Ok(std::slice::from_ref(rule)), "{rule}");
    }
    let lists = rules.iter().map(|rule| match rule.file() {
        Some(_) => list.clone(),
        None => Vec::new(),
    });
    ask(rules.iter().cloned().zip(lists).collect(), clients);
}

fn built(rules: Vec<(bool, Chosen)>, clients: &[Asked]) {
    let rules = rules.into_iter().zip(1..).map(|((allow, chosen), line)| {
        let mut list = Vec::new();
        let who = match chosen {
            Chosen::All => Who::All,
            Chosen::Unix => Who::Unix,
            Chosen::Uid(uid) => Who::Uid(uid.into()),
            Chosen::Gid(gid) => Who::Gid(gid.into()),
            Chosen::Net(address, length) => Who::Net(prefix(address, length)),
            Chosen::List(prefixes) => {
                list.extend(
                    prefixes
                        .into_iter()
                        .map(|(address, length)| prefix(address, length)),
                );
                Who::File("list".into())
            }
        };
        let rule = Rule::new(allow, who, RuleLocation::Line(line));
        (rule, list)
    });
    ask(rules.collect(), clients);
}

/// The shortest prefix of at least this length that the bits of the address allow.
fn prefix(address: IpAddr, length: u8) -> Prefix {
    (length..=128)
        .find_map(|length| Prefix::new(address, length))
        .unwrap_or(Prefix::of(address))
}

fn ask(rules: Vec<(Rule, Vec<Prefix>)>, clients: &[Asked]) {
    let ready = Rules::new(&rules, &[].into());
    let asked = clients.iter().map(|asked| match *asked {
        Asked::Address(address) => Client::Inet(address),
        Asked::Unix(uid, gid) => Client::Unix {
            uid: uid.map(Into::into),
            gid: gid.map(Into::into),
        },
        Asked::Unknown => Client::Unknown,
    });
    // A search may go wrong where a prefix begins or ends.
    let prefixes = rules.iter().flat_map(|(rule, list)| {
        let own = match rule.who {
            Who::Net(prefix) => Some(prefix),
            _ => None,
        };
        list.iter().copied().chain(own)
    });
    let edges = prefixes.flat_map(|prefix| {
        let (first, last) = prefix.range();
        [first, last].map(Client::Inet)
    });
    for client in asked.chain(edges) {
        let first = rules
            .iter()
            .find(|(rule, list)| fits(&rule.who, list, client));
        let decision = ready.decide(client);
        assert_eq!(
            decision.index.map(|index| &rules[index].0),
            first.map(|(rule, _)| rule),
            "{client:?}"
        );
        let allow = match first {
            Some((rule, _)) => rule.allow,
            None => !rules.iter().any(|(rule, _)| rule.allow),
        };
        assert_eq!(decision.allow, allow, "{client:?}");
    }
}

fn fits(who: &Who, list: &[Prefix], client: Client) -> bool {
    match (who, client) {
        (Who::All, _) | (Who::Unix, Client::Unix { .. }) => true,
        (Who::Net(prefix), Client::Inet(address)) => prefix.contains(address),
        (Who::File(_), Client::Inet(address)) => list.iter().any(|prefix| prefix.contains(address)),
        (Who::Uid(wanted), Client::Unix { uid, .. }) => uid == Some(*wanted),
        (Who::Gid(wanted), Client::Unix { gid, .. }) => gid == Some(*wanted),
        _ => false,
    }
}

fn values(text: &str) {
    if let Ok(rate) = text.parse::<Rate>() {
        assert!(!rate.interval.is_zero() && rate.burst > 0);
        assert_eq!(rate.to_string().parse(), Ok(rate), "{rate}");
    }
    if let Ok(prefix) = text.parse::<Prefix>() {
        assert_eq!(prefix.to_string().parse(), Ok(prefix), "{prefix}");
        let (first, last) = prefix.range();
        assert!(first <= last && first.is_ipv4() == last.is_ipv4());
    }
    if let Ok(bytes) = unescape(text) {
        let again = quoted(&bytes).to_string();
        assert_eq!(unescape(&again[1..again.len() - 1]), Ok(bytes));
    }
}
