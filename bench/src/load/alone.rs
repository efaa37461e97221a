//! One client at a time, which pauses after each connection.

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::{Expected, Failures, LONGEST_ANSWER, close_sending_side, connect, next_line};
use crate::handlers::Reply;
use crate::peers::Endpoint;
use crate::stats::Latencies;

#[derive(Clone, Copy)]
pub(crate) struct AloneLoad<'a> {
    pub endpoint: &'a Endpoint,
    pub window: Duration,
    /// Time from the end of a connection to the start of the next.
    pub pause: Duration,
    pub timeout: Duration,
    /// What handlers answer to a line.
    pub reply: Reply,
    pub interrupted: &'a AtomicBool,
}

#[derive(Debug)]
pub(crate) struct AloneOutcome {
    pub failures: Failures,
    /// From the call of connect to the first byte.
    pub first: Latencies,
    /// From the call of connect to the end of file.
    pub end: Latencies,
}

/// The window ends early after this many failures.
const MAX_FAILURES: u64 = 20;

impl AloneLoad<'_> {
    /// Sends lines, one connection each, until the window closes.
    pub(crate) fn run(&self) -> AloneOutcome {
        let mut outcome = AloneOutcome {
            failures: Failures::default(),
            first: Latencies::new(),
            end: Latencies::new(),
        };
        let closes = Instant::now() + self.window;
        while Instant::now() < closes
            && outcome.failures.total() < MAX_FAILURES
            && !self.interrupted.load(Ordering::Relaxed)
        {
            match self.exchange() {
                Ok(Some((first, end))) => {
                    outcome.first.record(first);
                    outcome.end.record(end);
                }
                Ok(None) => outcome.failures.wrong += 1,
                Err(error) => *counter(&mut outcome.failures, &error) += 1,
            }
            std::thread::sleep(self.pause);
        }
        outcome
    }

    /// Returns the times to the first byte and to the end; `None` if the answer was wrong.
    fn exchange(&self) -> io::Result<Option<(Duration, Duration)>> {
        let line = next_line();
        let expected = Expected::of(self.reply, &line);
        let expected = expected.ok_or_else(|| io::Error::other("the handler reads no line"))?;
        let expected = expected.bytes();
        let began = Instant::now();
        let mut socket = connect(self.endpoint, self.timeout)?;
        socket.write_all(&line)?;
        // One byte more than the answer, to detect an answer that is too long.
        let mut received = [0; LONGEST_ANSWER + 1];
        let received = &mut received[..=expected.len()];
        let mut length = socket.read(received)?;
        let first = began.elapsed();
        let mut closed = false;
        while length > 0 && length <= expected.len() {
            if length == expected.len() && !closed {
                close_sending_side(&socket);
                closed = true;
            }
            match socket.read(&mut received[length..])? {
                0 => break,
                n => length += n,
            }
        }
        let end = began.elapsed();
        Ok((received[..length] == *expected).then_some((first, end)))
    }
}

pub(super) fn counter<'a>(failures: &'a mut Failures, error: &io::Error) -> &'a mut u64 {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound => &mut failures.refused,
        // SO_RCVTIMEO ends a read, and SO_SNDTIMEO a connect, with these.
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => &mut failures.late,
        _ if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => &mut failures.late,
        _ => &mut failures.reset,
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener};

    use super::*;
    use crate::load::{LINE, refusing};

    type Answer = fn(&[u8]) -> Vec<u8>;

    /// Answers each line with the result of `answer`.
    fn server(answer: Answer) -> io::Result<Endpoint> {
        let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let SocketAddr::V4(address) = listener.local_addr()? else {
            return Err(io::Error::other("not IPv4"));
        };
        std::thread::spawn(move || {
            while let Ok((mut connection, _)) = listener.accept() {
                let mut line = [0; LINE];
                if connection.read_exact(&mut line).is_ok() {
                    let _ = connection.write_all(&answer(&line));
                }
            }
        });
        Ok(Endpoint::Tcp(address))
    }

    fn run(endpoint: &Endpoint, timeout: Duration) -> AloneOutcome {
        let load = AloneLoad {
            endpoint,
            window: Duration::from_millis(100),
            pause: Duration::from_millis(1),
            timeout,
            reply: Reply::Line,
            interrupted: &AtomicBool::new(false),
        };
        load.run()
    }

    #[test]
    fn right_answers_are_timed() -> io::Result<()> {
        let outcome = run(&server(<[u8]>::to_vec)?, Duration::from_secs(5));
        assert!(outcome.first.len() > 0);
        assert_eq!(outcome.end.len(), outcome.first.len());
        assert_eq!(outcome.failures, Failures::default());
        Ok(())
    }

    #[test]
    fn other_short_and_long_answers_are_failures() -> io::Result<()> {
        let answers: [Answer; 4] = [
            |_| b"0000000000000000\n".to_vec(),
            |line| line[..LINE - 1].to_vec(),
            |line| [line, b"\n"].concat(),
            |_| Vec::new(),
        ];
        for answer in answers {
            let outcome = run(&server(answer)?, Duration::from_secs(5));
            assert_eq!(outcome.first.len(), 0);
            assert!(outcome.failures.wrong > 0);
        }
        Ok(())
    }

    #[test]
    fn refused_and_unanswered_connections_differ() -> io::Result<()> {
        let listener = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, listener.local_addr()?.port());
        let silent = run(&Endpoint::Tcp(address), Duration::from_millis(20));
        assert!(silent.failures.late > 0);
        let (_socket, refusing) = refusing()?;
        let refused = run(&refusing, Duration::from_millis(20));
        assert!(refused.failures.refused > 0);
        Ok(())
    }
}
