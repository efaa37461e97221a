//! Measures how long a million prefixes take to read, and how long a decision on one client takes:
//! `cargo run --release --locked --example rules [PREFIXES]`.

#![allow(clippy::print_stdout)] // Its purpose.

use std::error::Error;
use std::ffi::OsStr;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use skd::config::{Prefix, Refused, Rule, rule_file};
use skd::serve::{Client, Rules};

/// The number of decisions.
const CLIENTS: usize = 10_000_000;

/// The number of client addresses: enough to exceed the processor's caches.
const ADDRESSES: usize = 1 << 20;

fn main() -> Result<(), Box<dyn Error>> {
    let count = match std::env::args().nth(1) {
        Some(count) => count.parse()?,
        None => 1_000_000,
    };
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let v4: Vec<IpAddr> = (0..count).map(|_| v4(&mut dice)).collect();
    let v6: Vec<IpAddr> = (0..count).map(|_| v6(&mut dice)).collect();
    measure("IPv4", &v4, 16..=32, v4_client, &mut dice)?;
    measure("IPv6", &v6, 32..=64, v6_client, &mut dice)
}

/// Pseudo-random numbers, the same in each run (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
}

fn v4(dice: &mut Dice) -> IpAddr {
    Ipv4Addr::from_bits((dice.roll() >> 32) as u32).into()
}

fn v6(dice: &mut Dice) -> IpAddr {
    // Within 2000::/3, the part in use.
    let high = dice.roll() >> 3 | 1 << 61;
    Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(dice.roll())).into()
}

/// A random address, or a neighbour of one in the list.
fn v4_client(dice: &mut Dice, near: IpAddr) -> IpAddr {
    match (dice.roll() % 2, near) {
        (0, IpAddr::V4(near)) => Ipv4Addr::from_bits(near.to_bits() ^ 1).into(),
        _ => v4(dice),
    }
}

fn v6_client(dice: &mut Dice, near: IpAddr) -> IpAddr {
    match (dice.roll() % 2, near) {
        (0, IpAddr::V6(near)) => Ipv6Addr::from_bits(near.to_bits() ^ 1).into(),
        _ => v6(dice),
    }
}

fn measure(
    family: &str,
    addresses: &[IpAddr],
    lengths: std::ops::RangeInclusive<u64>,
    client: fn(&mut Dice, IpAddr) -> IpAddr,
    dice: &mut Dice,
) -> Result<(), Box<dyn Error>> {
    let (shortest, longest) = (*lengths.start(), *lengths.end());
    let mut text = String::new();
    for address in addresses {
        let length = shortest + dice.roll() % (longest - shortest + 1);
        text.push_str(&format!("{}/{length}\n", masked(*address, length)));
    }
    let begin = Instant::now();
    let list: Vec<Prefix> = rule_file::prefixes(text.as_bytes()).map_err(first)?;
    let read = begin.elapsed();
    let unknown = |_, _: &OsStr| Err(Refused::because("these rules name no user"));
    let rules = "allow 192.0.2.1\ndeny file=list\nallow all";
    let rules: Vec<Rule> = rule_file::rules(rules.as_bytes(), &unknown).map_err(first)?;
    let lists = [Vec::new(), list, Vec::new()];
    let begin = Instant::now();
    let rules = Rules::new(
        &rules.into_iter().zip(lists).collect::<Vec<_>>(),
        &[].into(),
    );
    let ready = begin.elapsed();
    let clients: Vec<Client> = (0..ADDRESSES)
        .map(|_| {
            let near = addresses[dice.roll() as usize % addresses.len()];
            Client::Inet(client(dice, near))
        })
        .collect();
    let begin = Instant::now();
    let mut denied = 0_usize;
    for client in clients.iter().cycle().take(CLIENTS) {
        denied += usize::from(!black_box(&rules).decide(black_box(*client)).allow);
    }
    let each = begin.elapsed().as_secs_f64() * 1e9 / CLIENTS as f64;
    println!(
        "{} {family} prefixes, {} MiB of text: read in {} ms, made ready in {} ms; \
         {} stretches, {each:.0} ns for a client; {:.0} % of them are denied",
        addresses.len(),
        text.len() >> 20,
        read.as_millis(),
        ready.as_millis(),
        rules.stretches(),
        denied as f64 * 100.0 / CLIENTS as f64,
    );
    Ok(())
}

fn masked(address: IpAddr, length: u64) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            Ipv4Addr::from_bits(v4.to_bits() >> (32 - length) << (32 - length)).into()
        }
        IpAddr::V6(v6) => {
            Ipv6Addr::from_bits(v6.to_bits() >> (128 - length) << (128 - length)).into()
        }
    }
}

fn first(faults: Vec<rule_file::Fault>) -> String {
    faults.first().map(ToString::to_string).unwrap_or_default()
}
