//! Clients that an administrator has denied for a time, through the control socket.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use crate::config::{Clients, KnownBy, Nat64, Peer, Prefix, ServiceId};

/// How many denials there may be.
pub(in crate::serve) const MOST: usize = 4_096;

/// The clients that are denied, which the main thread changes.
#[derive(Debug, Default)]
pub(in crate::serve) struct Denials {
    /// How many there are. Read for each client, and hardly ever written: with none, a denial costs
    /// no more than this load.
    count: AtomicUsize,
    /// Read for each client while there are denials. The threads don't wait for each other, but for
    /// the main thread while it changes an entry.
    table: RwLock<Table>,
}

/// A denial: of these clients, at one service or at all.
pub(in crate::serve) type Denied = (Clients, Option<ServiceId>);

#[derive(Debug, Default)]
struct Table {
    until: BTreeMap<Denied, Instant>,
    /// The lengths of all prefixes, for a look at one prefix of each length.
    v4: Vec<u8>,
    v6: Vec<u8>,
}

impl Denials {
    /// Denies clients until then, or changes until when. Returns whether there was room.
    pub(in crate::serve) fn deny(&self, denied: Denied, until: Instant) -> bool {
        let mut table = self.change();
        if table.until.len() >= MOST && !table.until.contains_key(&denied) {
            return false;
        }
        table.until.insert(denied, until);
        self.note(&mut table);
        true
    }

    /// Takes a denial back. Returns whether there was one.
    pub(in crate::serve) fn allow(&self, denied: &Denied) -> bool {
        let mut table = self.change();
        let found = table.until.remove(denied).is_some();
        self.note(&mut table);
        found
    }

    /// Removes those that are over.
    pub(in crate::serve) fn expire(&self, now: Instant) {
        let mut table = self.change();
        table.until.retain(|_, until| *until > now);
        self.note(&mut table);
    }

    /// Returns when the next one is over, if there are any.
    pub(in crate::serve) fn due(&self) -> Option<Instant> {
        if self.are_none() {
            return None;
        }
        self.table().until.values().min().copied()
    }

    /// Returns all of them, and until when they last.
    pub(in crate::serve) fn list(&self) -> Vec<(Denied, Instant)> {
        let table = self.table();
        let all = table.until.iter();
        all.map(|(denied, until)| (*denied, *until)).collect()
    }

    /// Returns whether no client is denied: a load, and no more.
    pub(in crate::serve) fn are_none(&self) -> bool {
        self.count.load(Ordering::Relaxed) == 0
    }

    /// Returns whether a client is denied at this service; behind one of the translators, by its IPv4
    /// address or its own.
    pub(in crate::serve) fn deny_client(
        &self,
        service: ServiceId,
        peer: &Peer,
        translators: &[Nat64],
    ) -> bool {
        if self.are_none() {
            return false;
        }
        let [client, own] = KnownBy::all_of(peer, translators);
        let (table, now) = (self.table(), Instant::now());
        table.deny_at(service, client, now) || own != client && table.deny_at(service, own, now)
    }

    fn note(&self, table: &mut Table) {
        table.note_lengths();
        self.count.store(table.until.len(), Ordering::SeqCst);
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn deny_at(&self, service: ServiceId, client: KnownBy, now: Instant) -> bool {
        let is_denied = |clients| {
            [None, Some(service)].into_iter().any(|at| {
                let until = self.until.get(&(clients, at));
                until.is_some_and(|until| *until > now)
            })
        };
        match client {
            KnownBy::Nothing => false,
            KnownBy::User(uid) => is_denied(Clients::User(uid)),
            KnownBy::Address(address) => {
                let lengths = match address {
                    IpAddr::V4(_) => &self.v4,
                    IpAddr::V6(_) => &self.v6,
                };
                let prefix = |length: &u8| Prefix::around(address, *length);
                let mut prefixes = lengths.iter().map(prefix);
                prefixes.any(|prefix| is_denied(Clients::Prefix(prefix)))
            }
        }
    }

    fn note_lengths(&mut self) {
        self.v4.clear();
        self.v6.clear();
        for (clients, _) in self.until.keys() {
            if let Clients::Prefix(prefix) = clients {
                let lengths = match prefix.is_v4() {
                    true => &mut self.v4,
                    false => &mut self.v6,
                };
                if !lengths.contains(&prefix.length()) {
                    lengths.push(prefix.length());
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::SocketAddr;
    use std::time::Duration;

    fn peer(address: IpAddr) -> Peer {
        Peer::Tcp {
            remote: SocketAddr::new(address, 1),
            local: None,
        }
    }

    fn is_denied(denials: &Denials, service: usize, address: &str) -> bool {
        let peer = peer(address.parse().unwrap());
        denials.deny_client(ServiceId::new(service), &peer, &[])
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_denial_holds_at_its_service_until_it_is_over_or_taken_back() {
        let denials = Denials::default();
        assert!(denials.are_none() && denials.due().is_none());
        let all = ("192.0.2.0/24".parse().unwrap(), None);
        let one = ("192.0.2.7".parse().unwrap(), Some(ServiceId::new(1)));
        let until = later();
        assert!(denials.deny(one, until));
        assert!(is_denied(&denials, 1, "192.0.2.7"));
        assert!(is_denied(&denials, 1, "::ffff:192.0.2.7"));
        assert!(!is_denied(&denials, 0, "192.0.2.7"));
        assert!(!is_denied(&denials, 1, "192.0.2.8"));
        assert!(denials.deny(all, Instant::now()));
        assert!(!is_denied(&denials, 0, "192.0.2.8"));
        assert!(denials.deny(all, until));
        assert!(is_denied(&denials, 0, "192.0.2.8"));
        assert_eq!(denials.list().len(), 2);
        assert!(denials.allow(&all) && !denials.allow(&all));
        assert_eq!(denials.due(), Some(until));
        denials.expire(until);
        assert!(denials.are_none());
    }

    #[test]
    fn there_are_so_many_and_no_more() {
        let denials = Denials::default();
        let user = |uid: usize| (Clients::User(uid as u32), None);
        for uid in 0..MOST {
            assert!(denials.deny(user(uid), later()));
        }
        assert!(!denials.deny(user(MOST), later()));
        assert!(denials.deny(user(0), later()));
        assert!(denials.allow(&user(1)) && denials.deny(user(MOST), later()));
    }

    proptest! {
        #[test]
        fn a_client_is_denied_if_a_prefix_has_it(
            addresses in prop::collection::vec((any::<IpAddr>(), 0..=128_u8), 1..9),
            client in any::<IpAddr>(),
            near in any::<prop::sample::Index>(),
        ) {
            let denials = Denials::default();
            let prefixes: Vec<Prefix> = addresses
                .iter()
                .map(|(address, length)| {
                    let most = if address.to_canonical().is_ipv4() { 32 } else { 128 };
                    Prefix::around(*address, (*length).min(most))
                })
                .collect();
            for prefix in &prefixes {
                denials.deny((Clients::Prefix(*prefix), None), later());
            }
            for client in [client, addresses[near.index(addresses.len())].0] {
                let expected = prefixes.iter().any(|prefix| prefix.contains(client));
                let found = denials.deny_client(ServiceId::new(3), &peer(client), &[]);
                prop_assert_eq!(found, expected);
            }
        }
    }
}
