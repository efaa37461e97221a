//! Bulk data through a handler.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use socket2::Socket;

use super::connect;
use crate::peers::Endpoint;

#[derive(Clone, Copy, Debug)]
pub(crate) struct BulkOutcome {
    pub received: u64,
    /// Whether all bytes came, with the right values.
    pub complete: bool,
    pub took: Duration,
}

pub(super) const CHUNK: usize = 256 * 1024;

/// Receives `expected` zero bytes from the handler.
pub(crate) fn receive(
    endpoint: &Endpoint,
    expected: u64,
    timeout: Duration,
) -> io::Result<BulkOutcome> {
    let began = Instant::now();
    let socket = connect(endpoint, timeout)?;
    let (received, clean) = read_all(&socket, 0)?;
    Ok(BulkOutcome {
        received,
        complete: clean && received == expected,
        took: began.elapsed(),
    })
}

/// Sends `count` bytes to a handler that returns them.
pub(crate) fn echo(endpoint: &Endpoint, count: u64, timeout: Duration) -> io::Result<BulkOutcome> {
    let began = Instant::now();
    let socket = connect(endpoint, timeout)?;
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| write_all(&socket, count));
        let read = read_all(&socket, FILL);
        // Unblocks the sender after the reader has failed.
        if read.is_err() {
            let _ = socket.shutdown(Shutdown::Both);
        }
        let sent = sender
            .join()
            .map_err(|_| io::Error::other("a load thread panicked"))?;
        let (received, clean) = read?;
        sent?;
        Ok(BulkOutcome {
            received,
            complete: clean && received == count,
            took: began.elapsed(),
        })
    })
}

pub(super) const FILL: u8 = 0x55;

fn write_all(mut socket: &Socket, count: u64) -> io::Result<()> {
    let chunk = vec![FILL; CHUNK];
    let mut left = count;
    while left > 0 {
        let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        socket.write_all(&chunk[..length])?;
        left -= length as u64;
    }
    socket.shutdown(Shutdown::Write)
}

/// Returns the number of bytes, and whether all were `fill`.
fn read_all(mut socket: &Socket, fill: u8) -> io::Result<(u64, bool)> {
    let mut buffer = vec![0; CHUNK];
    let (mut received, mut clean) = (0, true);
    loop {
        match socket.read(&mut buffer) {
            Ok(0) => return Ok((received, clean)),
            Ok(length) => {
                received += length as u64;
                clean &= buffer[..length].iter().all(|byte| *byte == fill);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
