//! Short connections from several clients, each as fast as it is answered.
//!
//! A client connects, sends something if the handler waits for it, reads to the end of file,
//! compares and begins again. All clients of a thread share an epoll, so that the load leaves most
//! of the CPU to the server.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::Socket;

use super::{Expected, Failures, LINE, close_sending_side, next_line, socket_for, thread_cpu_time};
use crate::handlers::{ANSWER, Reply};
use crate::peers::Endpoint;
use crate::stats::Latencies;

#[derive(Clone, Copy)]
pub(crate) struct StreamLoad<'a> {
    /// Where the connections of all clients go, one after the other.
    pub endpoints: &'a [Endpoint],
    pub clients: usize,
    pub threads: usize,
    /// Load before the window opens, to warm up caches. It also balances the connections that are
    /// unfinished at the end of the window.
    pub warm_up: Duration,
    pub window: Duration,
    pub timeout: Duration,
    /// What clients send and expect.
    pub reply: Reply,
    pub interrupted: &'a AtomicBool,
}

#[derive(Debug)]
pub(crate) struct StreamOutcome {
    /// Correct answers within the window, which the rate counts.
    pub in_window: u64,
    /// Correct answers, including those before and after the window.
    pub completed: u64,
    pub failures: Failures,
    /// From the call of connect to the first byte, within the window.
    pub first: Latencies,
    /// From the call of connect to the end of file, within the window.
    pub end: Latencies,
    /// CPU time and elapsed time of the clients.
    pub cpu: Duration,
    pub elapsed: Duration,
}

impl StreamOutcome {
    fn new() -> Self {
        Self {
            in_window: 0,
            completed: 0,
            failures: Failures::default(),
            first: Latencies::new(),
            end: Latencies::new(),
            cpu: Duration::ZERO,
            elapsed: Duration::ZERO,
        }
    }

    fn merge(&mut self, other: &Self) {
        self.in_window += other.in_window;
        self.completed += other.completed;
        self.failures.add(&other.failures);
        self.first.merge(&other.first);
        self.end.merge(&other.end);
        self.cpu += other.cpu;
        self.elapsed = self.elapsed.max(other.elapsed);
    }
}

/// A thread stops after this many failures.
const MAX_FAILURES: u64 = 200;

impl StreamLoad<'_> {
    pub(crate) fn run(&self) -> io::Result<StreamOutcome> {
        let threads = self.threads.clamp(1, self.clients.max(1));
        let share = |n: usize| self.clients / threads + usize::from(n < self.clients % threads);
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|n| scope.spawn(move || Thread::new(*self)?.run(share(n))))
                .collect();
            let mut total = StreamOutcome::new();
            for thread in running {
                let outcome = thread
                    .join()
                    .map_err(|_| io::Error::other("a load thread panicked"))?;
                total.merge(&outcome?);
            }
            Ok(total)
        })
    }
}

struct Thread<'a> {
    load: StreamLoad<'a>,
    epoll: Epoll,
    clients: Vec<Client>,
    outcome: StreamOutcome,
    opens: Instant,
    closes: Instant,
    next_endpoint: usize,
}

struct Client {
    state: State,
    began: Instant,
    first: Option<Duration>,
    /// The line to send, and the answer to it.
    line: Option<([u8; LINE], Expected)>,
    received: usize,
    wrong: bool,
}

enum State {
    /// Between two connections.
    Idle,
    /// The backlog of a unix socket was full. The client tries again, and its time counts on.
    Backlogged,
    /// Sends something once connected.
    Connecting(Socket),
    Reading(Socket),
    Done,
}

enum Fate {
    Unfinished,
    Answered,
    Failed(Failure),
}

#[derive(Clone, Copy)]
enum Failure {
    Refused,
    Reset,
    Wrong,
    Late,
}

impl<'a> Thread<'a> {
    fn new(load: StreamLoad<'a>) -> io::Result<Self> {
        let opens = Instant::now() + load.warm_up;
        Ok(Self {
            load,
            epoll: Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?,
            clients: Vec::new(),
            outcome: StreamOutcome::new(),
            opens,
            closes: opens + load.window,
            next_endpoint: 0,
        })
    }

    fn run(mut self, clients: usize) -> io::Result<StreamOutcome> {
        let (cpu, began) = (thread_cpu_time(), Instant::now());
        self.clients.extend((0..clients).map(|_| Client::new()));
        let mut events = vec![EpollEvent::empty(); clients.max(1)];
        let mut next_look = Instant::now();
        // Clients that no event will wake.
        let mut idle = true;
        loop {
            let now = Instant::now();
            if idle || now >= next_look {
                idle = self.look_after_all(now)?;
                next_look = now + Duration::from_millis(20);
                if self
                    .clients
                    .iter()
                    .all(|client| matches!(client.state, State::Done))
                {
                    break;
                }
            }
            let timeout = if idle { 1_u16 } else { 20 };
            let ready = match self.epoll.wait(&mut events, EpollTimeout::from(timeout)) {
                Err(Errno::EINTR) => 0,
                ready => ready?,
            };
            for event in &events[..ready] {
                let index = event.data() as usize;
                let fate = self.advance(index, event.events())?;
                self.settle(index, fate);
                idle |= self.start_if_idle(index)?;
            }
        }
        self.outcome.cpu = thread_cpu_time().saturating_sub(cpu);
        self.outcome.elapsed = began.elapsed();
        Ok(self.outcome)
    }

    /// Whether the handler waits for input.
    fn sends_first(&self) -> bool {
        self.load.reply == Reply::Gate || self.load.reply.is_to_a_line()
    }

    fn is_over(&self, now: Instant) -> bool {
        now >= self.closes
            || self.outcome.failures.total() >= MAX_FAILURES
            || self.load.interrupted.load(Ordering::Relaxed)
    }

    /// Starts idle clients and ends those over the time limit. Returns whether any client is left
    /// that no event will wake.
    fn look_after_all(&mut self, now: Instant) -> io::Result<bool> {
        let mut idle = false;
        for index in 0..self.clients.len() {
            let client = &self.clients[index];
            let late = now.saturating_duration_since(client.began) > self.load.timeout;
            if late && !matches!(client.state, State::Idle | State::Done) {
                self.settle(index, Fate::Failed(Failure::Late));
            }
            idle |= self.start_if_idle(index)?;
        }
        Ok(idle)
    }

    /// Begins a connection, unless the client has one or the window has closed. Returns whether the
    /// client still has none.
    fn start_if_idle(&mut self, index: usize) -> io::Result<bool> {
        let now = Instant::now();
        let over = self.is_over(now);
        let client = &mut self.clients[index];
        match client.state {
            State::Idle if over => client.state = State::Done,
            State::Idle => {
                *client = Client {
                    began: now,
                    line: line_for(self.load.reply),
                    ..Client::new()
                }
            }
            State::Backlogged => {}
            _ => return Ok(false),
        }
        if matches!(client.state, State::Done) {
            return Ok(false);
        }
        match self.connect(index as u64) {
            Ok(socket) => {
                let connected = if self.sends_first() {
                    State::Connecting(socket)
                } else {
                    State::Reading(socket)
                };
                self.clients[index].state = connected;
                Ok(false)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.clients[index].state = State::Backlogged;
                Ok(true)
            }
            Err(error) if error.raw_os_error() == Some(Errno::EMFILE as i32) => Err(error),
            Err(_) => {
                self.settle(index, Fate::Failed(Failure::Refused));
                Ok(true)
            }
        }
    }

    fn connect(&mut self, index: u64) -> io::Result<Socket> {
        let endpoints = self.load.endpoints;
        self.next_endpoint = (self.next_endpoint + 1) % endpoints.len().max(1);
        let endpoint = endpoints.get(self.next_endpoint);
        let endpoint = endpoint.ok_or_else(|| io::Error::other("nothing to connect to"))?;
        let (socket, address) = socket_for(endpoint)?;
        socket.set_nonblocking(true)?;
        match socket.connect(&address) {
            Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
            connected => connected?,
        }
        // A failed connect wakes a reader as well. Only a client that sends first waits for
        // writability.
        let flags = if self.sends_first() {
            EpollFlags::EPOLLOUT
        } else {
            READING
        };
        self.epoll.add(&socket, EpollEvent::new(flags, index))?;
        Ok(socket)
    }

    fn advance(&mut self, index: usize, flags: EpollFlags) -> io::Result<Fate> {
        let client = &mut self.clients[index];
        match std::mem::replace(&mut client.state, State::Idle) {
            State::Connecting(socket) => {
                let input = client.line.as_ref().map_or(&b"x"[..], |(line, _)| line);
                if let Err(error) = (&socket).write_all(input) {
                    return Ok(Fate::Failed(Failure::of(&error)));
                }
                let mut event = EpollEvent::new(READING, index as u64);
                self.epoll.modify(&socket, &mut event)?;
                client.state = State::Reading(socket);
                Ok(Fate::Unfinished)
            }
            State::Reading(socket) => {
                let fate = client.read(&socket, flags);
                client.state = State::Reading(socket);
                Ok(fate)
            }
            other => {
                client.state = other;
                Ok(Fate::Unfinished)
            }
        }
    }

    /// Records the end of a connection and closes it, unless it is unfinished.
    fn settle(&mut self, index: usize, fate: Fate) {
        let client = &mut self.clients[index];
        match fate {
            Fate::Unfinished => return,
            Fate::Answered => {
                let now = Instant::now();
                let took = now - client.began;
                self.outcome.completed += 1;
                if (self.opens..=self.closes).contains(&now) {
                    self.outcome.in_window += 1;
                    self.outcome.first.record(client.first.unwrap_or(took));
                    self.outcome.end.record(took);
                }
            }
            Fate::Failed(failure) => *failure.counter(&mut self.outcome.failures) += 1,
        }
        client.state = State::Idle;
    }
}

/// Returns the line that a client of such a handler sends next, and the answer to it.
fn line_for(reply: Reply) -> Option<([u8; LINE], Expected)> {
    if !reply.is_to_a_line() {
        return None;
    }
    let line = next_line();
    Some((line, Expected::of(reply, &line)?))
}

const READING: EpollFlags = EpollFlags::EPOLLIN.union(EpollFlags::EPOLLRDHUP);

impl Client {
    fn new() -> Self {
        let began = Instant::now();
        Self {
            state: State::Idle,
            began,
            first: None,
            line: None,
            received: 0,
            wrong: false,
        }
    }

    fn read(&mut self, mut socket: &Socket, flags: EpollFlags) -> Fate {
        let ended = flags.intersects(EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLHUP);
        let answer = self.line.as_ref();
        let answer = answer.map_or(ANSWER, |(_, expected)| expected.bytes());
        let mut buffer = [0; 64];
        loop {
            match socket.read(&mut buffer) {
                Ok(0) if self.wrong || self.received != answer.len() => {
                    return Fate::Failed(Failure::Wrong);
                }
                Ok(0) => return Fate::Answered,
                Ok(n) => {
                    self.first.get_or_insert_with(|| self.began.elapsed());
                    let expected = answer.get(self.received..self.received + n);
                    self.wrong |= expected != Some(&buffer[..n]);
                    self.received += n;
                    // Whatever the flags say: they are those of an earlier socket, whose close leaves it in the epoll
                    // while a child between fork and exec has a copy of it.
                    if self.line.is_some() && self.received == answer.len() {
                        close_sending_side(socket);
                    }
                    // Avoids a read that would only find no data yet.
                    if !ended {
                        return Fate::Unfinished;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Fate::Unfinished,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Fate::Failed(Failure::of(&error)),
            }
        }
    }
}

impl Failure {
    fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => Self::Refused,
            _ => Self::Reset,
        }
    }

    const fn counter(self, failures: &mut Failures) -> &mut u64 {
        match self {
            Self::Refused => &mut failures.refused,
            Self::Reset => &mut failures.reset,
            Self::Wrong => &mut failures.wrong,
            Self::Late => &mut failures.late,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};

    use super::*;
    use crate::load::refusing;

    /// Starts a server that sends these answers in turn.
    fn server(answers: Vec<&'static [u8]>) -> io::Result<Endpoint> {
        let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let SocketAddr::V4(address) = listener.local_addr()? else {
            return Err(io::Error::other("not IPv4"));
        };
        std::thread::spawn(move || {
            for answer in answers.into_iter().cycle() {
                let Ok((mut connection, _)) = listener.accept() else {
                    return;
                };
                let _ = connection.write_all(answer);
            }
        });
        Ok(Endpoint::Tcp(address))
    }

    fn run(endpoint: &Endpoint, clients: usize) -> io::Result<StreamOutcome> {
        run_for(Reply::Answer, endpoint, clients)
    }

    fn run_for(reply: Reply, endpoint: &Endpoint, clients: usize) -> io::Result<StreamOutcome> {
        let load = StreamLoad {
            endpoints: std::slice::from_ref(endpoint),
            clients,
            threads: 2,
            warm_up: Duration::ZERO,
            window: Duration::from_millis(100),
            timeout: Duration::from_secs(5),
            reply,
            interrupted: &AtomicBool::new(false),
        };
        load.run()
    }

    #[test]
    fn right_answers_are_counted_and_timed() -> io::Result<()> {
        let outcome = run(&server(vec![ANSWER])?, 5)?;
        assert!(outcome.in_window > 0);
        assert_eq!(outcome.failures, Failures::default());
        assert_eq!(outcome.end.len(), outcome.in_window);
        assert!(outcome.completed >= outcome.in_window);
        Ok(())
    }

    #[test]
    fn wrong_short_and_long_answers_are_failures() -> io::Result<()> {
        let outcome = run(&server(vec![b"no\n", b"ok", b"ok\n\n", b""])?, 4)?;
        assert_eq!(outcome.completed, 0);
        assert!(outcome.failures.wrong > 0);
        Ok(())
    }

    #[test]
    fn another_line_is_a_failure() -> io::Result<()> {
        let outcome = run_for(Reply::Line, &line_server(|line| line)?, 3)?;
        assert!(outcome.in_window > 0);
        assert_eq!(outcome.failures, Failures::default());
        let another = line_server(|mut line| {
            line.swap(LINE - 2, LINE - 3);
            line[0] = b'f';
            line
        })?;
        let outcome = run_for(Reply::Line, &another, 3)?;
        assert_eq!(outcome.completed, 0);
        assert!(outcome.failures.wrong > 0);
        Ok(())
    }

    /// Answers a line with the result of `answer`, then reads to the end of file as cat does.
    fn line_server(answer: fn([u8; LINE]) -> [u8; LINE]) -> io::Result<Endpoint> {
        let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let SocketAddr::V4(address) = listener.local_addr()? else {
            return Err(io::Error::other("not IPv4"));
        };
        std::thread::spawn(move || {
            while let Ok((mut connection, _)) = listener.accept() {
                let mut line = [0; LINE];
                if connection.read_exact(&mut line).is_ok() {
                    let _ = connection.write_all(&answer(line));
                    let _ = connection.read(&mut line);
                }
            }
        });
        Ok(Endpoint::Tcp(address))
    }

    #[test]
    fn refused_connections_are_failures() -> io::Result<()> {
        let (_socket, refusing) = refusing()?;
        let outcome = run(&refusing, 2)?;
        assert_eq!(outcome.completed, 0);
        assert!(outcome.failures.refused > 0);
        Ok(())
    }
}
