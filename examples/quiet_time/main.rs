//! Measures how long the kernel takes to say how long a connection has been idle, beside many other connections:
//! `cargo run --release --example quiet_time -- 10 2000 5000`.

#![allow(clippy::print_stdout)] // Its purpose.

use std::error::Error;
use std::hint::black_box;
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use skd::sys::diagnosis::{Diagnosis, SocketId};

/// The number of questions whose mean is taken.
const QUESTIONS: usize = 2_000;

/// The number of means of which the least is printed.
const ROUNDS: usize = 10;

fn main() -> Result<(), Box<dyn Error>> {
    // Two descriptors for each connection: see ulimit -n.
    for count in std::env::args().skip(1) {
        let live: usize = count.parse()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let mut clients = Vec::new();
        let mut servers = Vec::new();
        for _ in 0..live {
            clients.push(TcpStream::connect(address)?);
            servers.push(listener.accept()?.0);
        }
        let ids: Vec<_> = servers.iter().map(SocketId::of).collect::<Result<_, _>>()?;
        let begin = Instant::now();
        for server in &servers {
            black_box(SocketId::of(server)?);
        }
        let identify = begin.elapsed() / servers.len() as u32;
        let mut diagnosis = Diagnosis::new()?;
        let mut least = Duration::MAX;
        for _ in 0..ROUNDS {
            let begin = Instant::now();
            for id in ids.iter().cycle().take(QUESTIONS) {
                black_box(diagnosis.quiet_time(id)?);
            }
            least = least.min(begin.elapsed() / QUESTIONS as u32);
        }
        println!(
            "{live} connections: {least:?} for a question, {identify:?} to identify a connection"
        );
    }
    Ok(())
}
