//! A status page and metrics over HTTP/1.1, as a handler of skd: one client, on standard input and
//! output. skd accepts, limits and refuses clients; this answers those that it lets in.
//!
//! | module | what it does |
//! | --- | --- |
//! | `connection` | bytes from and to the client, each before a deadline |
//! | `request` | the head of a request |
//! | `hosts` | the names by which clients may know this server |
//! | `response` | the head of a response |
//! | `resources` | what is at each path |
//! | `page` | the status page |

mod connection;
mod hosts;
mod page;
mod request;
mod resources;
mod response;

use std::io::{self, stdin, stdout};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use self::connection::Connection;
use self::hosts::Hosts;
use self::request::{Head, parse};
use self::response::{Response, Status};
use crate::client::Client;
use crate::error::Error;

/// The longest head of a request in bytes.
const LONGEST_HEAD: usize = 8 * 1024;

/// Bounds on what a client may take.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// The time for a request, from its first byte; for the first one, from the start.
    head: Duration,
    /// The time between two requests.
    idle: Duration,
    /// The time in which a client takes a response.
    response: Duration,
    /// The time in which a client closes its side.
    close: Duration,
    /// How many requests one connection may carry.
    requests: usize,
}

const LIMITS: Limits = Limits {
    head: Duration::from_secs(10),
    idle: Duration::from_secs(30),
    response: Duration::from_secs(30),
    close: Duration::from_secs(2),
    requests: 1000,
};

/// How long skd may take to answer.
const CONTROL_TIMEOUT: Duration = Duration::from_secs(5);

/// Answers the requests of one client. A client that does wrong, or goes away, is no error.
pub(crate) fn run(socket: &Path, hosts: &[String]) -> Result<(), Error> {
    let hosts = Hosts::new(hosts);
    let (input, output) = (stdin(), stdout());
    let mut connection = Connection::new(input.as_fd(), output.as_fd());
    // A connection for each request: skd takes 64 clients at its socket, and most of the time these
    // here are idle.
    let mut ask =
        |request| Client::connect_with(socket, CONTROL_TIMEOUT).and_then(|mut it| it.ask(request));
    serve(&mut connection, &mut ask, &hosts, &LIMITS).map_err(|error| {
        Error::Local(format!(
            "the client can't be served on standard input and output: {error}"
        ))
    })
}

/// Answers requests until one side has enough.
fn serve(
    connection: &mut Connection<'_>,
    ask: &mut resources::Ask<'_>,
    hosts: &Hosts,
    limits: &Limits,
) -> io::Result<()> {
    for number in 1..=limits.requests {
        let first = number == 1;
        let (response, sends_body, goes_on) = match next(connection, first, limits)? {
            Next::Gone => return Ok(()),
            Next::Refused(status) => (Response::refusal(status), true, false),
            Next::Request(head) => {
                let response = resources::answer(&head, ask, hosts);
                let goes_on = head.keep_alive && !response.closes() && number < limits.requests;
                (response, head.wants_body(), goes_on)
            }
        };
        let bytes = response.bytes(sends_body, goes_on);
        if !connection.write(&bytes, Instant::now() + limits.response)? {
            return Ok(());
        }
        if !goes_on {
            connection.close(Instant::now() + limits.close);
            return Ok(());
        }
    }
    Ok(())
}

/// What a client does next.
enum Next {
    /// It asks.
    Request(Head),
    /// It does something that is refused.
    Refused(Status),
    /// It has closed the connection, or was silent for too long.
    Gone,
}

/// Reads a request.
fn next(connection: &mut Connection<'_>, first: bool, limits: &Limits) -> io::Result<Next> {
    // Between requests a client may be silent for longer, and is not told when that is over.
    if !first && connection.received().is_empty() {
        let deadline = Instant::now() + limits.idle;
        if !matches!(
            connection.read(LONGEST_HEAD, deadline)?,
            connection::Read::Some
        ) {
            return Ok(Next::Gone);
        }
    }
    let deadline = Instant::now() + limits.head;
    loop {
        match parse(connection.received()) {
            Ok(Some((head, length))) => {
                connection.consume(length);
                return Ok(Next::Request(head));
            }
            Ok(None) if connection.received().len() >= LONGEST_HEAD => {
                return Ok(Next::Refused(Status::HEAD_TOO_LARGE));
            }
            Ok(None) => {}
            Err(status) => return Ok(Next::Refused(status)),
        }
        match connection.read(LONGEST_HEAD, deadline)? {
            connection::Read::Some => {}
            connection::Read::TimedOut => return Ok(Next::Refused(Status::TIMEOUT)),
            connection::Read::End if connection.received().is_empty() => return Ok(Next::Gone),
            connection::Read::End => return Ok(Next::Refused(Status::BAD_REQUEST)),
        }
    }
}

#[cfg(test)]
mod tests;
