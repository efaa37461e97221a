//! Addresses of clients as `--log-mask` lets them be seen: in lines, in events and in what is asked
//! of skd. An address is cut to a prefix, and a port isn't shown at all.
//!
//! It is a static, since any code can report.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::config::{Clients, Peer, Prefix, RuleLocation, Source, SourcePrefix};

/// The lengths of the prefixes, IPv4 first.
static MASK: AtomicU16 = AtomicU16::new(WHOLE);

/// Addresses as they are.
const WHOLE: u16 = u16::MAX;

/// Has addresses be cut to these prefixes from now on, or not at all.
pub fn set(mask: Option<SourcePrefix>) {
    let lengths = mask.map(|mask| u16::from_be_bytes([mask.v4, mask.v6]));
    MASK.store(lengths.unwrap_or(WHOLE), Ordering::Relaxed);
}

/// Returns the prefixes that addresses are cut to, if they are.
pub fn current() -> Option<SourcePrefix> {
    let lengths = MASK.load(Ordering::Relaxed);
    let [v4, v6] = lengths.to_be_bytes();
    (lengths != WHOLE).then_some(SourcePrefix { v4, v6 })
}

/// Displays a peer as it may be seen.
pub fn peer(peer: &Peer) -> impl fmt::Display {
    MaskedPeer(peer)
}

/// Returns a source as it may be seen.
pub fn source(source: Source) -> Source {
    match current() {
        Some(mask) => source.within(mask),
        None => source,
    }
}

/// Returns clients that an administrator has named as they may be seen.
pub fn clients(clients: Clients) -> Clients {
    let (Clients::Prefix(prefix), Some(mask)) = (clients, current()) else {
        return clients;
    };
    let longest = if prefix.is_v4() { mask.v4 } else { mask.v6 };
    let (first, _) = prefix.range();
    Clients::Prefix(Prefix::around(first, longest.min(prefix.length())))
}

/// Returns the address of a client as it may be seen, if not all of it may.
pub fn address(address: IpAddr) -> Option<Source> {
    current().map(|mask| Source::address(address, mask))
}

/// Displays the location of a rule as it may be seen: an option of the command line can have the
/// address of its only client.
pub(super) fn location(location: &RuleLocation) -> impl fmt::Display {
    MaskedLocation(location)
}

struct MaskedLocation<'a>(&'a RuleLocation);

impl fmt::Display for MaskedLocation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0, current()) {
            (RuleLocation::Option(text), Some(_)) => {
                f.write_str(text.split(' ').next().unwrap_or_default())
            }
            (location, _) => location.fmt(f),
        }
    }
}

struct MaskedPeer<'a>(&'a Peer);

impl fmt::Display for MaskedPeer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let masked = self.0.address().and_then(|it| address(it.ip()));
        match masked {
            Some(masked) => write!(f, "{} from [{masked}]", self.0.noun()),
            None => self.0.fmt(f),
        }
    }
}
