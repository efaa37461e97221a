//! The lists `only_from` and `no_access` of xinetd(8), and the rules that give the same verdicts.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::super::foreign::LookUp;
use super::syntax::Operator;
use crate::config::Prefix;

/// An element of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Element {
    /// IPv4 addresses that have these bits in common. Bits beyond the mask are kept: elements are
    /// removed by what was written.
    V4(u32, u32),
    /// IPv6 addresses, likewise.
    V6(u128, u128),
    /// A host by its name.
    Host(String),
}

/// A list of clients.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct List(pub(super) Vec<Element>);

impl List {
    /// Applies an attribute. Returns notes, or why it is refused.
    pub(super) fn apply(
        &mut self,
        operator: Operator,
        words: &[String],
    ) -> Result<Vec<String>, String> {
        let mut notes = Vec::new();
        if operator == Operator::Set {
            self.0.clear();
        }
        for word in words {
            let (elements, note) = parse(word)?;
            notes.extend(note);
            if operator != Operator::Remove {
                self.0.extend(elements);
                continue;
            }
            for element in elements {
                let before = self.0.len();
                self.0.retain(|other| *other != element);
                if self.0.len() == before {
                    notes.push(format!("{word} isn't in the list, so nothing is removed"));
                }
            }
        }
        Ok(notes)
    }

    /// Returns the hosts that are named.
    pub(super) fn hosts(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|element| match element {
            Element::Host(name) => Some(&name[..]),
            _ => None,
        })
    }

    /// Whether the list contains all addresses, or all of IPv4.
    pub(super) fn admits_all(&self, of_ipv4: bool) -> bool {
        let has = |wanted: &Element| self.0.contains(wanted);
        has(&Element::V4(0, 0)) && (of_ipv4 || has(&Element::V6(0, 0)))
    }
}

/// Returns the rules that give the verdicts of xinetd, in order, each with whether it admits. A client in
/// `no_access` is refused, even if it is in `only_from` too: xinetd's manual has the better match
/// decide, but its code hasn't.
///
/// `mapped` tells that clients with IPv4 addresses come to xinetd's IPv6 socket: there, prefixes of
/// IPv6 fit their mapped addresses.
pub(super) fn rules(
    only_from: Option<&List>,
    no_access: Option<&List>,
    mapped: bool,
    look_up: LookUp<'_>,
) -> Result<Vec<(bool, String)>, String> {
    let mut rules = Vec::new();
    for prefix in prefixes(no_access, mapped, look_up)? {
        rules.push((false, prefix.to_string()));
    }
    let allowed = prefixes(only_from, mapped, look_up)?;
    if only_from.is_some() && allowed.is_empty() {
        // An empty list admits no client. Without a rule that allows, the rest would be admitted.
        return Ok(vec![(false, "all".to_owned())]);
    }
    rules.extend(allowed.iter().map(|prefix| (true, prefix.to_string())));
    Ok(rules)
}

fn prefixes(
    list: Option<&List>,
    mapped: bool,
    look_up: LookUp<'_>,
) -> Result<BTreeSet<Prefix>, String> {
    let mut found = BTreeSet::new();
    for element in list.map(|list| &list.0[..]).unwrap_or_default() {
        match element {
            Element::V4(address, mask) => {
                let address = Ipv4Addr::from_bits(address & mask).into();
                found.extend(Prefix::new(address, mask.count_ones() as u8));
            }
            Element::V6(address, mask) => {
                let address = Ipv6Addr::from_bits(address & mask);
                let prefix = Prefix::new(address.into(), mask.count_ones() as u8);
                let is_ipv4 = address.to_ipv4_mapped().is_some() && mask.count_ones() >= 96;
                if !is_ipv4 || mapped {
                    found.extend(prefix);
                }
                let first_mapped = Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().to_bits();
                if !is_ipv4 && mapped && first_mapped & mask == address.to_bits() {
                    found.extend(Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 0));
                }
            }
            Element::Host(name) => found.extend(look_up(name)?.into_iter().map(Prefix::of)),
        }
    }
    Ok(found)
}

/// Parses an element: what it stands for, and a note if that isn't what it looks like.
fn parse(word: &str) -> Result<(Vec<Element>, Option<String>), String> {
    if word.contains('{') {
        return factorised(word).map(|elements| (elements, None));
    }
    if word.contains(',') {
        return Err(format!("{word} has a comma: blanks separate addresses"));
    }
    if let Some((address, length)) = word.split_once('/') {
        return Ok((vec![prefix(word, address, length)?], None));
    }
    if word.contains(':') {
        let address: Ipv6Addr = word
            .parse()
            .map_err(|_| format!("{word} is no IPv6 address without an interface"))?;
        return Ok((vec![Element::V6(address.to_bits(), u128::MAX)], None));
    }
    if let Some(address) = inet_aton(word) {
        let is_quad = word.parse::<Ipv4Addr>().is_ok();
        let written = Ipv4Addr::from_bits(address);
        let note =
            (!is_quad).then(|| format!("{word} is the single address {written}, no network"));
        return Ok((vec![Element::V4(address, without_zeros(address))], note));
    }
    if word.starts_with('.') {
        return Err(format!(
            "{word} is a domain: the names of clients aren't looked up; write their networks"
        ));
    }
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if !word.bytes().all(is_name) {
        return Err(format!(
            "{word} is neither an address nor the name of a host"
        ));
    }
    Ok((vec![Element::Host(word.to_owned())], None))
}

/// Returns the mask of an address whose last zero bytes stand for any. 0.0.0.0 stands for all.
fn without_zeros(address: u32) -> u32 {
    let zeros = (address.trailing_zeros() / 8 * 8).min(32);
    u32::MAX.checked_shl(zeros).unwrap_or(0)
}

fn prefix(word: &str, address: &str, length: &str) -> Result<Element, String> {
    let bits = |most: u32| {
        let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
        let bits: Option<u32> = is_number.then(|| length.parse().ok()).flatten();
        bits.filter(|bits| *bits <= most).ok_or_else(|| {
            format!("after the slash of {word} comes a number of bits from 0 to {most}")
        })
    };
    if let Ok(address) = address.parse::<Ipv6Addr>() {
        let mask = u128::MAX.checked_shl(128 - bits(128)?).unwrap_or(0);
        return Ok(Element::V6(address.to_bits(), mask));
    }
    let address = inet_aton(address)
        .ok_or_else(|| format!("{word} has no address of numbers before the slash"))?;
    let mask = u32::MAX.checked_shl(32 - bits(32)?).unwrap_or(0);
    Ok(Element::V4(address, mask))
}

/// Parses `192.0.{2,3}`: the last number has several values, and those after it stand for any.
fn factorised(word: &str) -> Result<Vec<Element>, String> {
    let form = || format!("{word} isn't of the form 192.0.{{2,3}}, with numbers from 0 to 255");
    let (before, values) = word.split_once('{').ok_or_else(form)?;
    let values = values.strip_suffix('}').ok_or_else(form)?;
    let mut address = 0;
    let mut shift = 24;
    for number in before.split_terminator('.') {
        address |= u32::from(number.parse::<u8>().map_err(|_| form())?) << shift;
        shift = u32::checked_sub(shift, 8).ok_or_else(form)?;
    }
    if !before.is_empty() && !before.ends_with('.') {
        return Err(form());
    }
    let element = |value: &str| {
        let value: u8 = value.parse().map_err(|_| form())?;
        let address = address | u32::from(value) << shift;
        Ok(Element::V4(address, u32::MAX << shift))
    };
    values.split(',').map(element).collect()
}

/// Parses an address as inet_aton(3): one to four numbers, of which the last fills what is left; octal
/// after a zero, hexadecimal after 0x.
fn inet_aton(text: &str) -> Option<u32> {
    let number = |text: &str| match text.strip_prefix("0x").or(text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    };
    if text.contains('+') {
        return None;
    }
    let numbers: Vec<u32> = text.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = numbers.split_last()?;
    if first.len() > 3 || first.iter().any(|number| *number > 255) {
        return None;
    }
    let rest = 32 - 8 * first.len() as u32;
    if rest < 32 && *last >> rest != 0 {
        return None;
    }
    let high = first.iter().fold(0, |high, number| high << 8 | number);
    Some(high.checked_shl(rest).unwrap_or(0) | last)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    fn nothing(name: &str) -> Result<Vec<IpAddr>, String> {
        Err(name.to_owned())
    }

    fn list(words: &[&str]) -> List {
        let mut list = List::default();
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        list.apply(Operator::Set, &words).unwrap();
        list
    }

    fn shown(only_from: &[&str], no_access: &[&str]) -> Vec<String> {
        let rules = rules(
            Some(&list(only_from)),
            Some(&list(no_access)),
            true,
            &nothing,
        );
        let shown = |(allow, source): (bool, String)| match allow {
            true => format!("allow {source}"),
            false => format!("deny {source}"),
        };
        rules.unwrap().into_iter().map(shown).collect()
    }

    #[test]
    fn the_forms_of_addresses_become_prefixes() {
        for (word, expected) in [
            ("192.0.2.7", &["192.0.2.7"][..]),
            ("192.0.2.0", &["192.0.2.0/24"]),
            ("10.0.0.0", &["10.0.0.0/8"]),
            ("10.0.0.1", &["10.0.0.1"]),
            ("0.0.0.0", &["0.0.0.0/0"]),
            ("0.0.0.0/0", &["0.0.0.0/0"]),
            ("192.0.2.77/26", &["192.0.2.64/26"]),
            ("10.1.{2,30}", &["10.1.2.0/24", "10.1.30.0/24"]),
            ("{10,11}", &["10.0.0.0/8", "11.0.0.0/8"]),
            ("192.0.2.{1,0}", &["192.0.2.0", "192.0.2.1"]),
            ("10.1", &["10.0.0.1"]),
            ("0x7f.010", &["127.0.0.8"]),
            ("2001:db8::1", &["2001:db8::1"]),
            ("2001:db8::1/32", &["2001:db8::/32"]),
            ("::/0", &["0.0.0.0/0", "::/0"]),
            ("::", &["::"]),
            ("::ffff:192.0.2.7", &["192.0.2.7"]),
        ] {
            let expected: Vec<String> = expected.iter().map(|it| format!("allow {it}")).collect();
            assert_eq!(shown(&[word], &[]), expected, "{word}");
        }
    }

    #[test]
    fn other_words_are_refused() {
        for word in [
            "192.0.2.1,192.0.2.2",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/",
            "::1/129",
            "10.{1,2}.3",
            "10.{256}",
            "10.{}",
            "10{1}",
            "1.2.3.4.{5}",
            ".example.org",
            "fe80::1%eth0",
            "a b",
            "{",
            "1..{2}",
            "exam/ple",
        ] {
            assert!(parse(word).is_err(), "{word}");
        }
        assert_eq!(
            parse("example.org").unwrap().0,
            [Element::Host("example.org".into())]
        );
        assert!(parse("192.168.1").unwrap().1.is_some());
    }

    #[test]
    fn refusals_come_first_and_an_empty_list_admits_no_client() {
        let expected = ["deny 10.1.0.0/16", "allow 10.0.0.0/8"];
        assert_eq!(shown(&["10.0.0.0"], &["10.1.0.0"]), expected);
        assert_eq!(shown(&[], &["10.1.0.0"]), ["deny all"]);
        assert_eq!(rules(None, None, true, &nothing), Ok(vec![]));
        let v6 = list(&["::/0", "::ffff:192.0.2.7"]);
        let rules = rules(Some(&v6), None, false, &nothing);
        assert_eq!(rules, Ok(vec![(true, "::/0".to_owned())]));
    }

    #[test]
    fn operators_change_a_list() {
        let mut clients = list(&["10.0.0.0", "192.0.2.1", "192.0.2.1"]);
        let none = clients.apply(Operator::Remove, &["192.0.2.1".into()]);
        assert_eq!((none, clients.clone()), (Ok(vec![]), list(&["10.0.0.0"])));
        let notes = clients
            .apply(Operator::Remove, &["10.0.0.5".into()])
            .unwrap();
        assert!(notes[0].contains("nothing is removed"), "{notes:?}");
        clients.apply(Operator::Add, &["::1".into()]).unwrap();
        assert_eq!(clients, list(&["10.0.0.0", "::1"]));
        clients.apply(Operator::Set, &["::1".into()]).unwrap();
        assert_eq!(clients, list(&["::1"]));
    }

    /// xinetd's verdict about a client, as its code has it, bit by bit.
    fn verdict(only_from: Option<&List>, no_access: Option<&List>, client: IpAddr) -> bool {
        let is_in = |list: &List| {
            list.0.iter().any(|element| match (element, client) {
                (Element::V4(address, mask), IpAddr::V4(client)) => {
                    client.to_bits() & mask == address & mask
                }
                (Element::V6(address, mask), client) => {
                    let client = match client {
                        IpAddr::V4(client) => client.to_ipv6_mapped(),
                        IpAddr::V6(client) => client,
                    };
                    client.to_bits() & mask == address & mask
                }
                _ => false,
            })
        };
        !no_access.is_some_and(is_in) && only_from.is_none_or(is_in)
    }

    fn word() -> impl Strategy<Value = String> {
        let byte = || prop_oneof![Just(0_u8), Just(1), Just(2), Just(128), any::<u8>()];
        let quad = [byte(), byte(), byte(), byte()];
        let v6 = prop_oneof![
            Just("::"),
            Just("2001:db8::"),
            Just("2001:db8::1"),
            Just("::ffff:1.2.0.0")
        ];
        prop_oneof![
            quad.clone().prop_map(|it| Ipv4Addr::from(it).to_string()),
            (quad, 0..=32_u8).prop_map(|(it, bits)| format!("{}/{bits}", Ipv4Addr::from(it))),
            (byte(), byte()).prop_map(|(a, b)| format!("{a}.{{{b},2}}")),
            (v6.clone(), 0..=128_u8).prop_map(|(it, bits)| format!("{it}/{bits}")),
            v6.prop_map(str::to_owned),
        ]
    }

    fn client() -> impl Strategy<Value = IpAddr> {
        let byte = || prop_oneof![Just(0_u8), Just(1), Just(2), Just(128), any::<u8>()];
        prop_oneof![
            [byte(), byte(), byte(), byte()].prop_map(IpAddr::from),
            Just("2001:db8::1".parse().unwrap()),
            Just("2001:db8:1::".parse().unwrap()),
            Just("::1".parse().unwrap()),
            any::<u128>().prop_map(|bits| Ipv6Addr::from_bits(bits).to_canonical()),
        ]
    }

    proptest! {
        #[test]
        fn rules_give_the_verdicts_of_xinetd(
            only_from in proptest::option::of(proptest::collection::vec(word(), 0..4)),
            no_access in proptest::option::of(proptest::collection::vec(word(), 0..4)),
            clients in proptest::collection::vec(client(), 20),
        ) {
            let list = |words: Option<Vec<String>>| words.map(|words| {
                let mut list = List::default();
                list.apply(Operator::Add, &words).unwrap();
                list
            });
            let (only_from, no_access) = (list(only_from), list(no_access));
            let rules = rules(only_from.as_ref(), no_access.as_ref(), true, &nothing).unwrap();
            // As RULES in the manual says.
            let allows = rules.iter().any(|(allow, _)| *allow);
            for client in clients {
                let fits = |source: &str| {
                    source == "all" || source.parse::<Prefix>().unwrap().contains(client)
                };
                let first = rules.iter().find(|(_, source)| fits(source));
                let admitted = first.map_or(!allows, |(allow, _)| *allow);
                prop_assert_eq!(admitted, verdict(only_from.as_ref(), no_access.as_ref(), client));
            }
        }

        #[test]
        fn any_words_are_read_or_refused(words in proptest::collection::vec("[0-9a-f.:,{}/x]{0,20}", 0..5)) {
            let mut list = List::default();
            if list.apply(Operator::Add, &words).is_ok() {
                let _ = rules(Some(&list), Some(&list), true, &nothing);
            }
        }
    }
}
