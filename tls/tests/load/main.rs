//! From files to handshakes: what skd-tls makes of an administrator's files, seen from a client.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod clients;
mod faults;
mod handshakes;
mod keys;
mod made;
mod rig;
mod stapling;
mod tickets;
mod warnings;
