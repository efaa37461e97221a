//! How many connections wait in a listening socket to be accepted.

use std::os::fd::AsFd;

use super::diagnosis::Diagnosis;
use super::sockets::tcp_info;

/// The means to ask the kernel.
#[derive(Debug, Default)]
pub struct Backlog {
    /// For unix sockets; opened when first needed.
    diagnosis: Option<Diagnosis>,
}

impl Backlog {
    /// The number of connections that wait there, if the kernel has it.
    pub fn length(&mut self, listener: impl AsFd) -> Option<u32> {
        if let Some(length) = tcp(&listener) {
            return Some(length);
        }
        if self.diagnosis.is_none() {
            self.diagnosis = Diagnosis::new().ok();
        }
        self.diagnosis.as_mut()?.unix_backlog(listener).ok()
    }
}

/// tcp(7), `TCP_INFO`: of a listening socket, `tcpi_unacked` is the length of its queue.
fn tcp(listener: impl AsFd) -> Option<u32> {
    /// Eight bytes of flags, then words: rto, ato, snd_mss, rcv_mss, unacked.
    const UNACKED: usize = 6;
    tcp_info::<{ UNACKED + 1 }>(listener).map(|info| info[UNACKED])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::{UnixListener, UnixStream};

    #[test]
    #[cfg_attr(miri, ignore = "unix sockets")]
    fn waiting_connections_are_counted_until_they_are_accepted() {
        let mut backlog = Backlog::default();
        let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let unix = UnixListener::bind(&path).unwrap();
        assert_eq!(backlog.length(&unix), Some(0));
        let _clients = [(); 3].map(|()| UnixStream::connect(&path).unwrap());
        assert_eq!(backlog.length(&unix), Some(3));
        unix.accept().unwrap();
        assert_eq!(backlog.length(&unix), Some(2));

        assert_eq!(backlog.length(&tcp), Some(0));
        let address = tcp.local_addr().unwrap();
        let _clients = [(); 2].map(|()| TcpStream::connect(address).unwrap());
        assert_eq!(backlog.length(&tcp), Some(2));
        tcp.accept().unwrap();
        assert_eq!(backlog.length(&tcp), Some(1));
    }
}
