//! Datagrams: each client sends one from a new socket after each answer.

use std::io;
use std::net::{SocketAddrV4, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{source_address, thread_cpu_time};
use crate::stats::Latencies;

#[derive(Clone, Copy)]
pub(crate) struct DatagramLoad<'a> {
    pub address: SocketAddrV4,
    pub clients: usize,
    pub window: Duration,
    pub interrupted: &'a AtomicBool,
}

#[derive(Debug)]
pub(crate) struct DatagramOutcome {
    pub answered: u64,
    /// Datagrams without an answer within [`ANSWER_TIMEOUT`]. They do not count as failures, since
    /// datagrams may be lost.
    pub lost: u64,
    /// Answers to no datagram that was sent.
    pub wrong: u64,
    pub latency: Latencies,
    pub cpu: Duration,
}

const ANSWER_TIMEOUT: Duration = Duration::from_millis(500);

impl DatagramLoad<'_> {
    pub(crate) fn run(&self) -> io::Result<DatagramOutcome> {
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..self.clients)
                .map(|_| scope.spawn(move || self.run_client()))
                .collect();
            let mut total = empty();
            for thread in running {
                let outcome = thread
                    .join()
                    .map_err(|_| io::Error::other("a load thread panicked"))??;
                total.answered += outcome.answered;
                total.lost += outcome.lost;
                total.wrong += outcome.wrong;
                total.latency.merge(&outcome.latency);
                total.cpu += outcome.cpu;
            }
            Ok(total)
        })
    }

    fn run_client(&self) -> io::Result<DatagramOutcome> {
        let cpu = thread_cpu_time();
        let mut outcome = empty();
        let began = Instant::now();
        let mut number = 0_u64;
        while began.elapsed() < self.window && !self.interrupted.load(Ordering::Relaxed) {
            number += 1;
            let sent = Instant::now();
            // With a new sender each time, a server with a handler for each sender starts as many
            // handlers as a server with a handler for each datagram.
            match exchange(&open(self.address, ANSWER_TIMEOUT)?, number) {
                Ok(answer) if answer == number => {
                    outcome.latency.record(sent.elapsed());
                    outcome.answered += u64::from(began.elapsed() <= self.window);
                }
                Ok(_) => outcome.wrong += 1,
                Err(_) => outcome.lost += 1,
            }
        }
        outcome.cpu = thread_cpu_time().saturating_sub(cpu);
        Ok(outcome)
    }
}

fn empty() -> DatagramOutcome {
    DatagramOutcome {
        answered: 0,
        lost: 0,
        wrong: 0,
        latency: Latencies::new(),
        cpu: Duration::ZERO,
    }
}

pub(super) fn probe(address: SocketAddrV4, timeout: Duration) -> io::Result<()> {
    match exchange(&open(address, timeout)?, 1)? {
        1 => Ok(()),
        _ => Err(io::Error::other("the answer is wrong")),
    }
}

fn open(address: SocketAddrV4, timeout: Duration) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(source_address())?;
    socket.set_read_timeout(Some(timeout))?;
    // A connected socket gets an error by ICMP while the server is not listening yet.
    socket.connect(address)?;
    Ok(socket)
}

fn exchange(socket: &UdpSocket, number: u64) -> io::Result<u64> {
    socket.send(&number.to_be_bytes())?;
    let mut answer = [0; 9];
    let length = socket.recv(&mut answer)?;
    match answer[..length].try_into() {
        Ok(number) => Ok(u64::from_be_bytes(number)),
        Err(_) => Ok(u64::MAX),
    }
}
