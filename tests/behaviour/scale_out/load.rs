//! Clients: a steady load of short conversations from several addresses, and conversations that are held.

use super::farm::{Farm, source};
use crate::harness::DEADLINE;
use socket2::{Domain, Socket, Type};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The addresses that the load comes from. Others are for held conversations.
pub const LOADING: std::ops::RangeInclusive<u8> = 1..=6;

/// How many clients come from each of them at least.
const LEAST: usize = 5;

/// The pause of a client between two conversations.
const PAUSE: Duration = Duration::from_millis(40);

/// A connection to a handler that repeats lines, with its name and the client's address before.
pub struct Conversation {
    stream: BufReader<TcpStream>,
    /// The client.
    pub own: SocketAddr,
    /// The machine that serves it, by its first answer.
    pub machine: String,
}

/// A client of the load.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its address; without a port if it wasn't even connected.
    pub own: SocketAddr,
    pub begun: Instant,
    /// The machine that has answered all, or what went wrong.
    pub outcome: Result<String, String>,
}

impl Conversation {
    /// Connects, says something and hears the answer; what goes wrong comes with the client's address.
    pub fn begin(own: IpAddr, target: SocketAddr) -> Result<Self, (SocketAddr, String)> {
        let mut address = SocketAddr::new(own, 0);
        let connected = connect(own, target, &mut address);
        let failed = |error: std::io::Error| (address, error.to_string());
        let mut conversation = Self {
            stream: BufReader::new(connected.map_err(failed)?),
            own: address,
            machine: String::new(),
        };
        match conversation.say("first") {
            Ok(machine) => conversation.machine = machine,
            Err(why) => return Err((address, why)),
        }
        Ok(conversation)
    }

    /// Says something, hears the answer, and returns the machine that it is from.
    pub fn say(&mut self, what: &str) -> Result<String, String> {
        let sent = self
            .stream
            .get_mut()
            .write_all(format!("{what}\n").as_bytes());
        sent.map_err(|error| error.to_string())?;
        let mut line = String::new();
        let read = self.stream.read_line(&mut line);
        read.map_err(|error| error.to_string())?;
        let end = format!(" to {}: {what}\n", self.own.ip());
        let machine = line.strip_suffix(&end).ok_or_else(|| format!("{line:?}"))?;
        let same = self.machine.is_empty() || machine == self.machine;
        assert!(same, "{machine} answers for {}", self.machine);
        Ok(machine.to_owned())
    }

    /// The client, which is answered by now.
    pub fn client(&self) -> Client {
        Client {
            own: self.own,
            begun: Instant::now(),
            outcome: Ok(self.machine.clone()),
        }
    }

    /// Ends it, and returns the machine.
    pub fn end(mut self) -> Result<String, String> {
        let ended = self.stream.get_ref().shutdown(Shutdown::Write);
        ended.map_err(|error| error.to_string())?;
        let mut rest = Vec::new();
        let read = self.stream.read_to_end(&mut rest);
        read.map_err(|error| error.to_string())?;
        match rest.is_empty() {
            true => Ok(self.machine),
            false => Err("more than the answers".into()),
        }
    }
}

/// Connects from this address, and notes the port.
fn connect(
    own: IpAddr,
    target: SocketAddr,
    address: &mut SocketAddr,
) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(own, 0).into())?;
    socket.connect_timeout(&target.into(), DEADLINE)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.set_write_timeout(Some(DEADLINE))?;
    let stream = TcpStream::from(socket);
    *address = stream.local_addr()?;
    Ok(stream)
}

impl Client {
    fn talk(own: IpAddr, target: SocketAddr) -> Self {
        let begun = Instant::now();
        let (own, outcome) = match Conversation::begin(own, target) {
            Ok(mut conversation) => {
                let second = conversation.say("second");
                (conversation.own, second.and_then(|_| conversation.end()))
            }
            Err((own, why)) => (own, Err(why)),
        };
        Self {
            own,
            begun,
            outcome,
        }
    }
}

impl Farm {
    /// Has clients come from several addresses, again and again, until `body` has ended, and some in any case; returns
    /// all of them.
    pub fn under_load<T>(&self, target: SocketAddr, body: impl FnOnce() -> T) -> (T, Vec<Client>) {
        /// Ends the load when the body panics, too.
        struct Ended<'a>(&'a AtomicBool);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::SeqCst);
            }
        }
        let ended = AtomicBool::new(false);
        let one = |number| {
            let mut clients = Vec::new();
            while !ended.load(Ordering::SeqCst) || clients.len() < LEAST {
                clients.push(Client::talk(source(number), target));
                thread::sleep(PAUSE);
            }
            clients
        };
        let one = &one;
        thread::scope(|scope| {
            let threads: Vec<_> = LOADING
                .map(|number| scope.spawn(move || self.clients.enter(|| one(number))))
                .collect();
            let result = {
                let _ended = Ended(&ended);
                body()
            };
            let clients = threads.into_iter().flat_map(|it| it.join().unwrap());
            (result, clients.collect())
        })
    }

    /// Holds conversations from this address.
    #[track_caller]
    pub fn hold(&self, number: u8, count: usize, target: SocketAddr) -> Vec<Conversation> {
        self.clients.enter(|| {
            let begin = |_| Conversation::begin(source(number), target).map_err(|it| it.1);
            let all: Result<_, _> = (0..count).map(begin).collect();
            all.unwrap_or_else(|why| panic!("holding {target}: {why}"))
        })
    }

    /// Begins so many conversations from this address, and holds those that get an answer.
    pub fn try_hold(&self, number: u8, count: usize, target: SocketAddr) -> Vec<Conversation> {
        self.clients.enter(|| {
            let begin = |_| Conversation::begin(source(number), target).ok();
            (0..count).filter_map(begin).collect()
        })
    }
}

/// Those that weren't answered in full.
pub fn lost(clients: &[Client]) -> Vec<&Client> {
    clients.iter().filter(|it| it.outcome.is_err()).collect()
}

/// How many each machine has answered.
pub fn by_machine(clients: &[Client]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for machine in clients.iter().filter_map(|it| it.outcome.as_ref().ok()) {
        *counts.entry(machine.as_str()).or_default() += 1;
    }
    counts
}
