//! Session tickets (RFC 5077, RFC 8446): what a client brings along to resume its session, encrypted for us.
//!
//! A ticket is the name of its key, a nonce, and a session under AES-256-GCM. What it belongs to is
//! authenticated with it: the name of the service, and what is asked of its clients. So a ticket of another
//! service, or from before that has changed, is no ticket.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;

use super::date;
use super::ticket_keys::{Key, NAME, Store, TURN};

/// The maximum length of a session, in bytes: the certificates of a client are in it. A larger one isn't resumed.
const MAX_SESSION: usize = 16 << 10;

/// The keys of session tickets, which all processes share that skd starts one after the other.
#[derive(Debug, Default)]
pub struct Tickets {
    store: Store,
    ready: RwLock<Arc<[Ready]>>,
    /// When the file was read for a key that isn't known, in seconds since 1970.
    asked: AtomicI64,
}

/// A key that is ready to be used.
struct Ready {
    key: Key,
    cipher: RandomizedNonceKey,
}

impl std::fmt::Debug for Ready {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ready")
            .field("made", &self.key.made)
            .finish_non_exhaustive()
    }
}

impl Tickets {
    /// Returns the keys in a memory file. What is in it isn't trusted, but what is in order is taken.
    pub fn new(memory: OwnedFd) -> Self {
        Self {
            store: Store(Some(memory)),
            ..Self::default()
        }
    }

    /// Makes a new key if it is time, and forgets those that are too old. Handshakes do it by themselves: this
    /// is for the time without any, once an hour or so.
    pub fn renew(&self) {
        let _ = self.present(date::now());
    }

    /// Returns the keys, the present one first if there is one.
    fn present(&self, now: i64) -> Arc<[Ready]> {
        let ready = self.ready();
        let is_due = !ready.first().is_some_and(|it| it.key.has_turn(now))
            || !ready.iter().all(|it| it.key.is_alive(now));
        if is_due { self.read(now) } else { ready }
    }

    fn ready(&self) -> Arc<[Ready]> {
        let ready = self.ready.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&ready)
    }

    /// Reads the keys in the file. One thread does that at a time.
    fn read(&self, now: i64) -> Arc<[Ready]> {
        let mut ready = self.ready.write().unwrap_or_else(PoisonError::into_inner);
        let own: Vec<_> = ready.iter().map(|it| it.key.clone()).collect();
        let keys = self.store.keys(&own, now);
        if keys != own {
            let all = keys.into_iter().filter_map(|key| {
                let cipher = RandomizedNonceKey::new(&AES_256_GCM, &key.bytes[..]).ok()?;
                Some(Ready { key, cipher })
            });
            *ready = all.collect();
        }
        Arc::clone(&ready)
    }

    fn encrypt(&self, session: &[u8], context: &[u8], now: i64) -> Option<Vec<u8>> {
        if session.len() > MAX_SESSION {
            return None;
        }
        let ready = self.present(now);
        let Ready { key, cipher } = ready.first().filter(|it| it.key.has_turn(now))?;
        let mut sealed = session.to_vec();
        // AES-GCM with nonces by chance is good for 2^32 tickets of a key: 190,000 a second for its turn.
        let nonce = cipher
            .seal_in_place_append_tag(Aad::from(context), &mut sealed)
            .ok()?;
        let mut ticket = Vec::with_capacity(NAME + NONCE_LEN + sealed.len());
        ticket.extend(key.name);
        ticket.extend(nonce.as_ref());
        ticket.extend(&sealed);
        Some(ticket)
    }

    fn decrypt(&self, ticket: &[u8], context: &[u8], now: i64) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_first_chunk::<NAME>()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let has = |ready: &[Ready]| ready.iter().position(|it| it.key.name == *name);
        let mut ready = self.present(now);
        // Another process may have made the key. Clients can write what they want there, so that is looked for
        // once a second at most.
        if has(&ready).is_none() && self.asked.swap(now, Ordering::Relaxed) != now {
            ready = self.read(now);
        }
        let Ready { key, cipher } = &ready[has(&ready)?];
        if !key.is_alive(now) {
            return None;
        }
        let mut session = sealed.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = cipher
            .open_in_place(nonce, Aad::from(context), &mut session)
            .ok()?
            .len();
        session.truncate(length);
        Some(session)
    }
}

/// The tickets of a service.
#[derive(Debug)]
pub(super) struct ServiceTickets {
    pub(super) tickets: Arc<Tickets>,
    /// The digest of what they belong to.
    pub(super) context: [u8; 32],
}

impl ProducesTickets for ServiceTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        TURN as u32
    }

    fn encrypt(&self, session: &[u8]) -> Option<Vec<u8>> {
        self.tickets.encrypt(session, &self.context, date::now())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        self.tickets.decrypt(ticket, &self.context, date::now())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::ticket_keys::LIFE;
    use super::*;

    const NOW: i64 = 1_800_000_000;

    /// Processes that share a memory file, as skd starts them one after the other.
    fn processes() -> [Tickets; 2] {
        let file: OwnedFd = tempfile::tempfile().unwrap().into();
        [Tickets::new(file.try_clone().unwrap()), Tickets::new(file)]
    }

    #[test]
    fn a_ticket_is_good_in_the_next_process_and_for_its_service_only() {
        let [first, second] = processes();
        let ticket = first.encrypt(b"session", b"web", NOW).unwrap();
        for process in [&first, &second] {
            assert_eq!(process.decrypt(&ticket, b"web", NOW).unwrap(), b"session");
            assert_eq!(process.decrypt(&ticket, b"mail", NOW), None);
        }
        assert!(!ticket.windows(7).any(|it| it == b"session"));
        let another = first.encrypt(b"session", b"web", NOW).unwrap();
        assert_ne!(ticket, another);
        assert_eq!(Tickets::default().decrypt(&ticket, b"web", NOW), None);
    }

    #[test]
    fn a_ticket_lives_for_a_turn_at_least_and_for_two_at_most() {
        let [first, second] = processes();
        let early = first.encrypt(b"early", b"", NOW).unwrap();
        let late = first.encrypt(b"late", b"", NOW + TURN - 1).unwrap();
        assert!(second.decrypt(&late, b"", NOW + TURN).is_some());
        let next = second.encrypt(b"next", b"", NOW + TURN).unwrap();
        // The first process learns of the key that the second one has made, when it sees it.
        assert_eq!(first.decrypt(&next, b"", NOW + TURN - 1).unwrap(), b"next");
        for process in [&first, &second] {
            assert!(process.decrypt(&late, b"", NOW + 2 * TURN - 100).is_some());
            assert!(process.decrypt(&early, b"", NOW + LIFE).is_none());
            assert!(process.decrypt(&late, b"", NOW + LIFE).is_none());
        }
        second.encrypt(b"", b"", NOW + LIFE).unwrap();
        assert!(second.ready().iter().all(|it| it.key.is_alive(NOW + LIFE)));
    }

    #[test]
    fn without_a_key_there_is_no_ticket() {
        let (pipe, _other) = nix::unistd::pipe().unwrap();
        let tickets = Tickets::new(pipe);
        assert_eq!(tickets.encrypt(b"", b"", NOW), None);
        assert_eq!(tickets.decrypt(&[0; 100], b"", NOW), None);
        assert_eq!(
            Tickets::default().encrypt(&[0; MAX_SESSION + 1], b"", NOW),
            None
        );
    }

    #[test]
    fn no_key_is_in_what_debugging_shows() {
        let tickets = Tickets::default();
        tickets.encrypt(b"", b"", NOW).unwrap();
        let shown = format!("{tickets:?}");
        let key = &tickets.ready()[0].key;
        assert!(
            !shown.contains(&format!("{:?}", &key.bytes[..8]).replace(['[', ']'], "")),
            "{shown}"
        );
    }

    proptest! {
        #[test]
        fn no_damage_is_taken_for_a_ticket(at: proptest::sample::Index, bit in 0..8u8, cut: proptest::sample::Index, junk: Vec<u8>) {
            static TICKETS: std::sync::LazyLock<Tickets> = std::sync::LazyLock::new(Tickets::default);
            let ticket = TICKETS.encrypt(b"session", b"web", NOW).unwrap();
            let mut damaged = ticket.clone();
            damaged[at.index(ticket.len())] ^= 1 << bit;
            prop_assert_eq!(TICKETS.decrypt(&damaged, b"web", NOW), None);
            prop_assert_eq!(TICKETS.decrypt(&ticket[..cut.index(ticket.len())], b"web", NOW), None);
            prop_assert_eq!(TICKETS.decrypt(&junk, b"web", NOW), None);
        }
    }
}
