//! Rules in the form in which clients are matched.
//!
//! What rules set for addresses, even millions of prefixes, is swept once into one sorted array
//! for each family. It has the first address of each range in which the same rule is the first that
//! matches. Finding the rule of a client is one binary search, however many there are. Clients of
//! unix sockets are matched by the few rules that can match one, in their order. All of that is
//! compiled into bytes, which an upgrade passes on.

use std::ffi::{CString, OsString};
use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::os::unix::ffi::OsStrExt;
use std::sync::{Arc, OnceLock};

use nix::errno::Errno;

use super::compiled::{Compiled, Local};
use super::ranges::{NONE, Table};
use crate::config::{Nat64, Prefix, Rate, Rule, RuleLocation, Who, untranslated};
use crate::net::Peer;
use crate::sys::descriptors::SavedDescriptors;
use crate::sys::sockets::Credentials;
use crate::sys::users::unknown_ids;

/// Rules in their order.
#[derive(Debug)]
pub struct Rules {
    compiled: Compiled,
    /// What a rule sets, once a client has matched it. Of a million rules few ever match, and a
    /// process that takes them over has no time to read all.
    ready: Box<[OnceLock<Option<Arc<Ready>>>]>,
    /// The variables of all handlers.
    common: Arc<[CString]>,
}

/// What a rule sets for the clients that match it.
#[derive(Debug, PartialEq, Eq)]
pub struct Ready {
    /// The location that it was read from.
    pub location: RuleLocation,
    /// The limits of each matching source.
    pub max: Option<NonZeroUsize>,
    /// The maximum rate of each matching source.
    pub rate: Option<Rate>,
    /// The message for clients that it or its limits refuse.
    pub message: Option<Vec<u8>>,
    /// The common part of the environment of its handlers, if the rule changes it.
    pub variables: Option<Arc<[CString]>>,
}

impl Ready {
    /// Returns whether it sets more for the clients that it allows, so that it has to be kept.
    pub fn has_terms(&self) -> bool {
        self.max.is_some()
            || self.rate.is_some()
            || self.message.is_some()
            || self.variables.is_some()
    }
}

/// A client as rules see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// A client with this address.
    Inet(IpAddr),
    /// A client of a unix socket, with its credentials as far as they are known.
    Unix {
        /// The user it runs as.
        uid: Option<u32>,
        /// Its primary group.
        gid: Option<u32>,
    },
    /// A client that its proxy doesn't name.
    Unknown,
}

impl Client {
    /// Returns a client as rules see it, with its IPv4 address if it is behind one of the
    /// translators.
    pub fn of(peer: &Peer, translators: &[Nat64]) -> Self {
        match peer {
            Peer::UnixStream(credentials) => (*credentials).into(),
            Peer::LocalDatagram => None.into(),
            peer => match peer.address() {
                Some(address) => Self::at(address.ip(), translators),
                None => Self::Unknown,
            },
        }
    }
}

impl Client {
    /// Returns the client with this address, or with its IPv4 address behind one of the translators.
    pub fn at(address: IpAddr, translators: &[Nat64]) -> Self {
        Self::Inet(untranslated(address, translators))
    }

    /// Returns a client of unix sockets that runs as this user, as far as users are told apart.
    pub fn user(uid: u32) -> Self {
        let (uid, gid) = (unknown_ids().user(uid), None);
        Self::Unix { uid, gid }
    }

    /// Returns a client of unix sockets that runs with this primary group, likewise.
    pub fn group(gid: u32) -> Self {
        let (uid, gid) = (None, unknown_ids().group(gid));
        Self::Unix { uid, gid }
    }
}

impl From<Option<Credentials>> for Client {
    fn from(credentials: Option<Credentials>) -> Self {
        Self::Unix {
            uid: credentials.and_then(|who| who.uid),
            gid: credentials.and_then(|who| who.gid),
        }
    }
}

/// The decision of rules about a client.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'a> {
    /// Whether it is allowed.
    pub allow: bool,
    /// The rule that matches it, if one does.
    pub rule: Option<&'a Arc<Ready>>,
    /// The index of that rule.
    pub index: Option<usize>,
}

impl Rules {
    /// Makes rules ready, each with the prefixes of its file if it has one. `common` are the
    /// variables of all handlers, each `NAME=VALUE`.
    pub fn new(rules: &[(Rule, Vec<Prefix>)], common: &Arc<[CString]>) -> Self {
        let mut v4 = Vec::new();
        let mut v6 = Vec::new();
        for ((rule, list), index) in rules.iter().zip(0..NONE) {
            let mut add = |prefix: &Prefix| match prefix.range() {
                (IpAddr::V4(first), IpAddr::V4(last)) => {
                    v4.push((first.to_bits(), last.to_bits(), index));
                }
                (IpAddr::V6(first), IpAddr::V6(last)) => {
                    v6.push((first.to_bits(), last.to_bits(), index));
                }
                _ => {}
            };
            match &rule.who {
                Who::Net(prefix) => add(prefix),
                Who::File(_) => list.iter().for_each(add),
                Who::All => {
                    v4.push((0, u32::MAX, index));
                    v6.push((0, u128::MAX, index));
                }
                Who::Unix | Who::Uid(_) | Who::Gid(_) => {}
            }
        }
        let rules = rules.iter().map(|(rule, _)| rule);
        Self::of(
            Compiled::new(rules, &Table::new(v4), &Table::new(v6)),
            common,
        )
    }

    fn of(compiled: Compiled, common: &Arc<[CString]>) -> Self {
        Self {
            ready: (0..compiled.len()).map(|_| OnceLock::new()).collect(),
            compiled,
            common: Arc::clone(common),
        }
    }

    /// Returns the decision of the first rule that matches a client, or that about clients that
    /// none matches. Makes no system call, and allocates only for the first client of a rule.
    pub fn decide(&self, client: Client) -> Decision<'_> {
        let compiled = &self.compiled;
        let index = match client {
            Client::Inet(address) => match address.to_canonical() {
                IpAddr::V4(address) => compiled.find_v4(address.to_bits()),
                IpAddr::V6(address) => compiled.find_v6(address.to_bits()),
            },
            Client::Unix { uid, gid } => compiled.find_local(|local, allow| match local {
                Local::Uid(wanted) => is(uid, wanted, unknown_ids().user(wanted), allow),
                Local::Gid(wanted) => is(gid, wanted, unknown_ids().group(wanted), allow),
                Local::All | Local::Unix => true,
            }),
            Client::Unknown => compiled.find_local(|local, _| local == Local::All),
        };
        let Some(index) = index else {
            return Decision {
                allow: compiled.allows_others,
                rule: None,
                index,
            };
        };
        let rule = self.ready(index);
        Decision {
            // What can't be read allows none.
            allow: rule.is_some() && compiled.allows(index),
            rule,
            index: Some(index),
        }
    }

    fn ready(&self, index: usize) -> Option<&Arc<Ready>> {
        let read = || {
            let (location, terms) = self.compiled.terms(index)?;
            Some(Arc::new(Ready {
                location,
                max: terms.max,
                rate: terms.rate.map(|rate| rate.parse()).transpose().ok()?,
                variables: variables(&terms.environment, &self.common),
                message: terms.message,
            }))
        };
        self.ready.get(index)?.get_or_init(read).as_ref()
    }

    /// Returns in how many stretches the addresses fall, of both families.
    pub fn stretches(&self) -> usize {
        self.compiled.stretches()
    }

    /// Saves the rules, and returns the number of the descriptor.
    pub fn save(&self, to: &mut SavedDescriptors) -> io::Result<i32> {
        self.compiled.save(to)
    }

    /// Reads rules from their bytes. Refuses some bytes, and of others allows only clients that they
    /// name.
    pub fn read(bytes: Vec<u8>, common: &Arc<[CString]>) -> Result<Self, Errno> {
        Ok(Self::of(Compiled::read(bytes)?, common))
    }

    /// Returns their bytes.
    pub fn bytes(&self) -> &[u8] {
        self.compiled.bytes()
    }

    /// Restores rules from this descriptor, with the common variables of handlers by now.
    pub fn restore(saved: i32, common: &Arc<[CString]>) -> Result<Self, Errno> {
        Ok(Self::of(Compiled::restore(saved)?, common))
    }
}

/// Whether a client with this id matches a rule about another. If it can't be told apart from that
/// user, it is refused with it, and never allowed with it.
fn is(id: Option<u32>, wanted: u32, known: Option<u32>, allow: bool) -> bool {
    id == Some(wanted) || id.or(known).is_none() && !allow
}

/// The complete list of what a rule's handlers have in common, if it changes anything.
fn variables(environment: &[(OsString, OsString)], common: &[CString]) -> Option<Arc<[CString]>> {
    if environment.is_empty() {
        return None;
    }
    let mut lines = common.to_vec();
    for (name, value) in environment {
        let start = [name.as_bytes(), b"="].concat();
        lines.retain(|line| !line.as_bytes().starts_with(&start));
        // Neither has a NUL inside, or there would be no such rule.
        lines.extend(CString::new([&start, value.as_bytes()].concat()));
    }
    Some(lines.into())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::net::Ipv6Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::config::RuleLocation;
    use crate::config::rule_file;

    fn read(text: &str) -> Vec<(Rule, Vec<Prefix>)> {
        let names = |_, _: &OsStr| Ok(0);
        let rules = rule_file::rules(text.as_bytes(), &names).unwrap();
        rules.into_iter().map(|rule| (rule, Vec::new())).collect()
    }

    fn inet(text: &str) -> Client {
        Client::Inet(text.parse().unwrap())
    }

    fn line(decision: Decision<'_>) -> Option<usize> {
        decision.rule.map(|ready| match ready.location {
            RuleLocation::Line(line) => line,
            RuleLocation::Option(_) => 0,
        })
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let rules = Rules::new(
            &read(
                "allow 10.0.0.1\ndeny 10.0.0.0/8\nallow 10.0.0.0/7\nallow ::1\nallow uid=7\ndeny unix",
            ),
            &[].into(),
        );
        let user = |uid, gid| Client::Unix { uid, gid };
        for (client, expected, allow) in [
            (inet("10.0.0.1"), Some(1), true),
            (inet("::ffff:10.0.0.1"), Some(1), true),
            (inet("10.255.255.255"), Some(2), false),
            (inet("11.0.0.0"), Some(3), true),
            (inet("12.0.0.0"), None, false),
            (inet("9.255.255.255"), None, false),
            (inet("::1"), Some(4), true),
            (inet("::"), None, false),
            (inet("::10.0.0.1"), None, false),
            (user(Some(7), Some(7)), Some(5), true),
            (user(Some(8), Some(7)), Some(6), false),
            (user(None, None), Some(6), false),
        ] {
            let decision = rules.decide(client);
            assert_eq!(
                (line(decision), decision.allow),
                (expected, allow),
                "{client:?}"
            );
        }
    }

    #[test]
    fn others_are_let_in_if_no_rule_allows() {
        let allows_others = |text| {
            let rules = Rules::new(&read(text), &[].into());
            rules.decide(inet("192.0.2.1")).allow
        };
        assert!(allows_others("deny 10.0.0.0/8"));
        assert!(allows_others(""));
        assert!(!allows_others("allow 10.0.0.0/8"));
        assert!(!allows_others("deny 10.0.0.0/8\nallow unix"));
    }

    #[test]
    fn a_rule_s_variables_replace_those_of_all_handlers() {
        let common = [c"A=1".into(), c"AB=2".into(), c"B=3".into()];
        let rules = Rules::new(
            &read("allow ::1 env A=x env C= env A=y\nallow ::2"),
            &common.into(),
        );
        let of = |client| rules.decide(inet(client)).rule.unwrap().variables.clone();
        let expected: [CString; 4] = [c"AB=2".into(), c"B=3".into(), c"C=".into(), c"A=y".into()];
        assert_eq!(of("::1").unwrap()[..], expected);
        assert_eq!(of("::2"), None);
    }

    #[test]
    fn neighbours_of_the_same_rule_are_one_stretch() {
        let list = ["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "11.0.0.0/8"];
        let list = list.map(|text| text.parse().unwrap()).to_vec();
        let mut rules = read("allow file=x");
        rules[0].1 = list;
        let rules = Rules::new(&rules, &[].into());
        assert_eq!(
            rules.compiled.v4(),
            [(0, NONE), (0x0a00_0000, 0), (0x0c00_0000, NONE)]
        );
        assert_eq!(rules.compiled.v6(), [(0, NONE)]);
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        // Few enough bits for prefixes to meet.
        prop_oneof![
            (0..16_u32, 0..16_u32)
                .prop_map(|(high, low)| { IpAddr::V4((high << 28 | low).into()) }),
            (0..16_u128, 0..16_u128)
                .prop_map(|(high, low)| { IpAddr::V6((high << 124 | low).into()) }),
            Just(IpAddr::V6(Ipv6Addr::from_bits(u128::MAX))),
            Just(IpAddr::V4(u32::MAX.into())),
            any::<IpAddr>(),
        ]
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        (address(), 0..=128_u8).prop_map(|(address, length)| {
            let widest = |length: u8| {
                let text = format!("{address}/{length}").parse();
                text.ok().or_else(|| Prefix::new(address, length))
            };
            // As short as the bits allow.
            (length..=128)
                .find_map(widest)
                .unwrap_or(Prefix::of(address))
        })
    }

    fn rule() -> impl Strategy<Value = (bool, Who, Vec<Prefix>)> {
        let none = Vec::new;
        prop_oneof![
            4 => (any::<bool>(), prefix()).prop_map(move |(allow, prefix)| (allow, Who::Net(prefix), none())),
            1 => any::<bool>().prop_map(move |allow| (allow, Who::All, none())),
            1 => any::<bool>().prop_map(move |allow| (allow, Who::Unix, none())),
            1 => (any::<bool>(), 0..4_u32).prop_map(move |(allow, uid)| (allow, Who::Uid(uid), none())),
            1 => (any::<bool>(), 0..4_u32).prop_map(move |(allow, gid)| (allow, Who::Gid(gid), none())),
            2 => (any::<bool>(), prop::collection::vec(prefix(), 0..8))
                .prop_map(|(allow, list)| (allow, Who::File("x".into()), list)),
        ]
    }

    fn client() -> impl Strategy<Value = Client> {
        let id = || prop::option::of(0..4_u32);
        prop_oneof![
            4 => address().prop_map(Client::Inet),
            1 => (id(), id()).prop_map(|(uid, gid)| Client::Unix { uid, gid }),
            1 => Just(Client::Unknown),
        ]
    }

    fn fits(who: &Who, list: &[Prefix], client: Client) -> bool {
        match (who, client) {
            (Who::All, _) | (Who::Unix, Client::Unix { .. }) => true,
            (Who::Net(prefix), Client::Inet(address)) => prefix.contains(address),
            (Who::File(_), Client::Inet(address)) => {
                list.iter().any(|prefix| prefix.contains(address))
            }
            (Who::Uid(wanted), Client::Unix { uid, .. }) => uid == Some(*wanted),
            (Who::Gid(wanted), Client::Unix { gid, .. }) => gid == Some(*wanted),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn bytes_that_are_not_in_order_decide_without_a_panic(
            rules in prop::collection::vec(rule(), 0..6),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..9),
            length in any::<prop::sample::Index>(),
            cut in any::<bool>(),
            clients in prop::collection::vec(client(), 1..9),
        ) {
            let rules: Vec<_> = rules
                .into_iter()
                .map(|(allow, who, list)| {
                    let location = RuleLocation::Option("--allow x".into());
                    (Rule::new(allow, who, location), list)
                })
                .collect();
            let mut bytes = Rules::new(&rules, &[].into()).bytes().to_vec();
            for (at, byte) in changes {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if cut {
                bytes.truncate(length.index(bytes.len()));
            }
            if let Ok(rules) = Rules::read(bytes, &[].into()) {
                for client in clients {
                    let decision = rules.decide(client);
                    prop_assert!(decision.index.is_none() || decision.rule.is_some() || !decision.allow);
                }
            }
        }

        #[test]
        fn a_search_finds_what_asking_one_after_the_other_does(
            rules in prop::collection::vec(rule(), 0..12),
            clients in prop::collection::vec(client(), 1..40),
        ) {
            let numbered = rules.iter().zip(0..).map(|((allow, who, list), line)| {
                let rule = Rule::new(*allow, who.clone(), RuleLocation::Line(line));
                (rule, list.clone())
            });
            let ready = Rules::new(&numbered.collect::<Vec<_>>(), &[].into());
            let (v4, v6) = (ready.compiled.v4(), ready.compiled.v6());
            prop_assert!(v4.windows(2).all(|pair| pair[0].1 != pair[1].1));
            prop_assert!(v6.windows(2).all(|pair| pair[0].1 != pair[1].1));
            let restored = Rules::read(ready.bytes().to_vec(), &[].into()).unwrap();
            // Where something begins or ends is where a search may go wrong.
            let edges = rules.iter().flat_map(|(_, who, list)| {
                let own = match who {
                    Who::Net(prefix) => Some(*prefix),
                    _ => None,
                };
                list.iter().copied().chain(own)
            });
            let edges = edges.flat_map(|prefix| {
                let (first, last) = prefix.range();
                [first, last].map(Client::Inet)
            });
            for client in clients.into_iter().chain(edges) {
                let expected = rules.iter().position(|(_, who, list)| fits(who, list, client));
                let allow = match expected {
                    Some(index) => rules[index].0,
                    None => !rules.iter().any(|(allow, ..)| *allow),
                };
                for rules in [&ready, &restored] {
                    let decision = rules.decide(client);
                    prop_assert_eq!(line(decision), expected, "{:?}", client);
                    prop_assert_eq!(decision.allow, allow);
                }
            }
        }
    }
}
