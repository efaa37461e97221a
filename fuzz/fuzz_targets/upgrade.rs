//! What an earlier binary leaves to the next one: the document of its state, and the bytes of its rules.

#![no_main]

use std::net::{Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use skd::serve::upgrade::{Findings, State};
use skd::serve::{Client, Rules};

fuzz_target!(|bytes: &[u8]| {
    // Read, or refused with a reason.
    if let Err(reason) = State::parse(bytes) {
        assert!(!reason.to_string().is_empty());
    }
    if let Err(reason) = Findings::parse(bytes) {
        assert!(!reason.to_string().is_empty());
    }
    let Ok(rules) = Rules::read(bytes.to_vec(), &[c"A=1".into()].into()) else {
        return;
    };
    assert_eq!(rules.bytes(), bytes);
    let unix = |id| Client::Unix { uid: id, gid: id };
    for client in [
        Client::Inet(Ipv4Addr::LOCALHOST.into()),
        Client::Inet(Ipv4Addr::UNSPECIFIED.into()),
        Client::Inet(Ipv6Addr::LOCALHOST.into()),
        Client::Inet(Ipv6Addr::from_bits(u128::MAX).into()),
        unix(Some(0)),
        unix(None),
        Client::Unknown,
    ] {
        let decision = rules.decide(client);
        // A rule that can't be read allows none.
        assert!(decision.index.is_none() || decision.rule.is_some() || !decision.allow);
    }
});
