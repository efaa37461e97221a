//! Datagrams in batches, with the destination address of each: recvmmsg(2), sendmmsg(2),
//! `IP_PKTINFO` and `IPV6_RECVPKTINFO`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};
use std::{mem, ptr};

use libc::{iovec, mmsghdr, sockaddr_storage};
use nix::errno::Errno;

use super::sockets::{internet_address, peek_bytes, set_number};

/// The largest number that is received or sent with one call.
pub const BATCH: usize = 32;

/// The longest payload of a UDP datagram over IPv4.
pub const LONGEST: usize = 65_507;

/// The size of the buffer of one datagram. Longer ones, which only unix sockets have, are truncated
/// and known to be.
const BUFFER: usize = 64 * 1024;

/// The sender of a datagram and its destination: an answer goes the other way.
#[derive(Clone, Copy)]
pub struct Route {
    sender: sockaddr_storage,
    length: libc::socklen_t,
    local: Local,
}

/// The destination address of a datagram, and for a link-local one its interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Local {
    Unknown,
    V4(Ipv4Addr),
    V6(Ipv6Addr, u32),
}

impl Route {
    /// Makes a route from the bytes of a sender's address and the destination; `None` if they are
    /// too many.
    pub fn new(address: &[u8], local: Option<SocketAddr>) -> Option<Self> {
        // SAFETY: all-zero is a valid value, and so are any bytes: an address of any family.
        let mut sender: sockaddr_storage = unsafe { mem::zeroed() };
        if address.len() > size_of::<sockaddr_storage>() {
            return None;
        }
        // SAFETY: there are as many bytes in both; they are different memory.
        unsafe {
            let to = (&raw mut sender).cast::<u8>();
            ptr::copy_nonoverlapping(address.as_ptr(), to, address.len());
        }
        Some(Self {
            sender,
            length: address.len() as libc::socklen_t,
            local: match local {
                None => Local::Unknown,
                Some(SocketAddr::V4(v4)) => Local::V4(*v4.ip()),
                Some(SocketAddr::V6(v6)) => Local::V6(*v6.ip(), v6.scope_id()),
            },
        })
    }

    /// The bytes of the sender's address.
    pub fn address(&self) -> &[u8] {
        let length = (self.length as usize).min(size_of::<sockaddr_storage>());
        // SAFETY: they are within the address, all of which was zero before it was written.
        unsafe { std::slice::from_raw_parts((&raw const self.sender).cast(), length) }
    }

    /// The sender, if it has an internet address.
    pub fn sender(&self) -> Option<SocketAddr> {
        internet_address(&self.sender)
    }

    /// The destination address, with port 0, if it is known.
    pub fn local(&self) -> Option<SocketAddr> {
        match self.local {
            Local::Unknown => None,
            Local::V4(address) => Some(SocketAddr::new(IpAddr::V4(address), 0)),
            Local::V6(address, scope) => Some(SocketAddrV6::new(address, 0, 0, scope).into()),
        }
    }

    /// Whether an answer can be sent: a unix socket that isn't bound has no address.
    pub fn leads_back(&self) -> bool {
        self.length as usize > size_of::<libc::sa_family_t>()
    }
}

impl std::fmt::Debug for Route {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Route({:?} to {:?})", self.sender(), self.local)
    }
}

/// Makes an internet socket report the destination of each datagram (ip(7), ipv6(7)).
pub fn tell_destination(socket: impl AsFd, v6: bool) -> Result<(), Errno> {
    match v6 {
        false => set_number(socket, libc::IPPROTO_IP, libc::IP_PKTINFO, 1),
        true => set_number(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO, 1),
    }
}

/// Control data for the destination, aligned for cmsg(3).
#[derive(Clone, Copy)]
#[repr(C, align(8))]
struct Control([u8; CONTROL]);

// SAFETY: it computes a length.
const CONTROL: usize = unsafe { libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as u32) as usize };

/// The datagrams that were received last. Its memory is mapped once, and only as much is touched as
/// datagrams are long.
#[derive(Debug)]
pub struct Received {
    payloads: Box<[u8]>,
    found: Vec<(Route, Option<usize>)>,
}

impl Received {
    /// Makes buffers for `most` datagrams, at most [`BATCH`].
    pub fn new(most: usize) -> Self {
        let most = most.min(BATCH);
        Self {
            payloads: vec![0; most * BUFFER].into(),
            found: Vec::with_capacity(most),
        }
    }

    /// Receives as many as there are buffers, without waiting, and returns their number.
    ///
    /// Only `internet` sockets report the destination. On a unix socket the sender chooses the
    /// control data, and the kernel would install descriptors from it.
    pub fn receive(&mut self, socket: impl AsFd, internet: bool) -> Result<usize, Errno> {
        self.receive_up_to(BATCH, socket, internet)
    }

    /// Receives one from a unix socket, as [`Self::receive`] does. If a descriptor is passed along
    /// with it, it stays where it is, and `EPROTO` is returned. For a socket that no other thread
    /// receives from meanwhile.
    pub fn receive_bytes(&mut self, socket: impl AsFd) -> Result<usize, Errno> {
        match peek_bytes(&socket, &mut [0]) {
            Err(Errno::EAGAIN) => return Ok(0),
            result => result?,
        };
        self.receive_up_to(1, socket, false)
    }

    fn receive_up_to(
        &mut self,
        most: usize,
        socket: impl AsFd,
        internet: bool,
    ) -> Result<usize, Errno> {
        self.found.clear();
        // SAFETY: all-zero is a valid value of these.
        let (mut names, mut parts, mut headers): (
            [sockaddr_storage; BATCH],
            [iovec; BATCH],
            [mmsghdr; BATCH],
        ) = unsafe { (mem::zeroed(), mem::zeroed(), mem::zeroed()) };
        let mut controls = [Control([0; CONTROL]); BATCH];
        let chunks = self.payloads.chunks_exact_mut(BUFFER).take(most);
        let count = chunks.len();
        for (index, chunk) in chunks.enumerate() {
            parts[index] = part(chunk.as_mut_ptr(), chunk.len());
            let header = &mut headers[index].msg_hdr;
            header.msg_name = (&raw mut names[index]).cast();
            header.msg_namelen = size_of::<sockaddr_storage>() as libc::socklen_t;
            header.msg_iov = &raw mut parts[index];
            header.msg_iovlen = 1;
            if internet {
                header.msg_control = controls[index].0.as_mut_ptr().cast();
                header.msg_controllen = CONTROL as _;
            }
        }
        let result = loop {
            // SAFETY: `count` headers, each of which points to an address, one part and control
            // data with their lengths, all of which outlive the call.
            let result = unsafe {
                libc::recvmmsg(
                    socket.as_fd().as_raw_fd(),
                    headers.as_mut_ptr(),
                    count as libc::c_uint,
                    libc::MSG_DONTWAIT as _,
                    ptr::null_mut(),
                )
            };
            match super::result::check(result) {
                Err(Errno::EINTR) => {}
                result => break result,
            }
        };
        let count = match result {
            Err(Errno::EAGAIN) => 0,
            result => result? as usize,
        };
        for (name, header) in names.iter().zip(&headers).take(count) {
            let message = &header.msg_hdr;
            let whole = message.msg_flags & libc::MSG_TRUNC == 0;
            let route = Route {
                sender: *name,
                length: message.msg_namelen,
                local: destination(message),
            };
            let length = header.msg_len as usize;
            self.found.push((route, whole.then_some(length)));
        }
        Ok(count)
    }

    /// One of those received: its route, and its payload unless that was too long.
    pub fn get(&self, index: usize) -> Option<(&Route, Option<&[u8]>)> {
        let (route, length) = self.found.get(index)?;
        let payload = length.and_then(|length| self.payloads[index * BUFFER..].get(..length));
        Some((route, payload))
    }

    /// Sends `count` of those received, from the index `first` on, along a route, without waiting.
    /// Returns how many were sent; the error is that of the first one.
    pub fn send(&self, socket: impl AsFd, first: usize, count: usize, to: &Route) -> Sent {
        // SAFETY: all-zero is a valid value of these.
        let (mut parts, mut headers): ([iovec; BATCH], [mmsghdr; BATCH]) =
            unsafe { (mem::zeroed(), mem::zeroed()) };
        let mut control = Control([0; CONTROL]);
        let indices = first..(first + count).min(self.found.len());
        let count = indices.len();
        for (entry, index) in indices.enumerate() {
            let length = self.found[index].1.unwrap_or_default();
            // sendmmsg only reads it.
            parts[entry] = part(self.payloads[index * BUFFER..].as_ptr().cast_mut(), length);
            address(
                &mut headers[entry].msg_hdr,
                &mut parts[entry],
                &mut control,
                to,
            );
        }
        // SAFETY: `count` headers, whose addresses, parts and control data outlive the call.
        let result = unsafe {
            libc::sendmmsg(
                socket.as_fd().as_raw_fd(),
                headers.as_mut_ptr(),
                count as libc::c_uint,
                (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) as _,
            )
        };
        super::result::check(result).map(|sent| sent as usize)
    }
}

/// How many were sent, or the error of the first.
pub type Sent = Result<usize, Errno>;

/// Sends one datagram without waiting.
pub fn send(socket: impl AsFd, payload: &[u8], to: &Route) -> Result<(), Errno> {
    // SAFETY: all-zero is a valid value of these.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    let mut control = Control([0; CONTROL]);
    let mut part = part(payload.as_ptr().cast_mut(), payload.len());
    address(&mut header, &mut part, &mut control, to);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: the header's address, part and control data outlive the call, which only reads.
    let result = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const header, flags) };
    Errno::result(result).map(drop)
}

fn part(base: *mut u8, length: usize) -> iovec {
    iovec {
        iov_base: base.cast(),
        iov_len: length,
    }
}

/// Fills in the destination of a message, and its source address.
fn address(header: &mut libc::msghdr, part: &mut iovec, control: &mut Control, to: &Route) {
    header.msg_name = (&raw const to.sender).cast_mut().cast();
    header.msg_namelen = to.length;
    header.msg_iov = part;
    header.msg_iovlen = 1;
    match to.local {
        Local::Unknown => {}
        Local::V4(address) => {
            let source = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from(address).to_be(),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            say(header, control, libc::IPPROTO_IP, libc::IP_PKTINFO, source);
        }
        Local::V6(address, interface) => {
            let source = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: address.octets(),
                },
                ipi6_ifindex: interface as _,
            };
            say(
                header,
                control,
                libc::IPPROTO_IPV6,
                libc::IPV6_PKTINFO,
                source,
            );
        }
    }
}

/// Makes this a message's control data.
fn say<T>(
    message: &mut libc::msghdr,
    control: &mut Control,
    level: libc::c_int,
    kind: libc::c_int,
    value: T,
) {
    message.msg_control = control.0.as_mut_ptr().cast();
    // SAFETY: they compute lengths; the data is aligned and large enough for one header and the
    // larger of the two values that this is called with, so the first header is within it.
    unsafe {
        message.msg_controllen = libc::CMSG_SPACE(size_of::<T>() as u32) as _;
        let first = libc::CMSG_FIRSTHDR(message);
        if let Some(header) = first.as_mut() {
            header.cmsg_level = level;
            header.cmsg_type = kind;
            header.cmsg_len = libc::CMSG_LEN(size_of::<T>() as u32) as _;
            libc::CMSG_DATA(first).cast::<T>().write_unaligned(value);
        }
    }
}

/// The destination of a message, from its control data. An answer can't have a multicast address as
/// its source: then it is unknown, and the kernel chooses the source.
fn destination(message: &libc::msghdr) -> Local {
    // SAFETY: the kernel has filled in the control data, and its length in the header; the macros
    // stay within it, and each value is read unaligned, if there are as many bytes as it has.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(message);
        let Some(header) = first.as_ref() else {
            return Local::Unknown;
        };
        let has = |length: usize| header.cmsg_len >= libc::CMSG_LEN(length as u32) as _;
        match (header.cmsg_level, header.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) if has(size_of::<libc::in_pktinfo>()) => {
                let data = libc::CMSG_DATA(first).cast::<libc::in_pktinfo>();
                let found = data.read_unaligned();
                Local::V4(u32::from_be(found.ipi_spec_dst.s_addr).into())
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) if has(size_of::<libc::in6_pktinfo>()) => {
                let data = libc::CMSG_DATA(first).cast::<libc::in6_pktinfo>();
                let found = data.read_unaligned();
                let address = Ipv6Addr::from(found.ipi6_addr.s6_addr);
                // On a socket for both versions, which may be inherited, the address of IPv4 is
                // that of the packet.
                let v4 = address.to_ipv4_mapped();
                let many = v4.is_some_and(|v4| v4.is_multicast() || v4.is_broadcast());
                if address.is_multicast() || many {
                    return Local::Unknown;
                }
                let link = address.is_unicast_link_local();
                Local::V6(address, if link { found.ipi6_ifindex as u32 } else { 0 })
            }
            _ => Local::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    /// A socket that reports destinations, and a client.
    fn pair(any: &str) -> (UdpSocket, UdpSocket) {
        let server = UdpSocket::bind(any).unwrap();
        tell_destination(&server, server.local_addr().unwrap().is_ipv6()).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        (server, client)
    }

    #[test]
    #[cfg_attr(miri, ignore = "recvmmsg(2)")]
    fn an_answer_comes_from_where_the_datagram_went() {
        // The second takes IPv4 too, in its IPv6 form.
        for any in ["0.0.0.0:0", "[::]:0"] {
            let (server, client) = pair(any);
            let port = server.local_addr().unwrap().port();
            let to = ("127.0.0.9", port);
            for text in ["one", "", "three"] {
                client.send_to(text.as_bytes(), to).unwrap();
            }
            let mut received = Received::new(8);
            assert_eq!(received.receive(&server, true), Ok(3));
            let (route, payload) = received.get(2).unwrap();
            assert_eq!(payload, Some(&b"three"[..]));
            assert_eq!(received.get(1).unwrap().1, Some(&b""[..]));
            assert!(received.get(3).is_none());
            let sender = route.sender().unwrap();
            assert_eq!(
                sender.ip().to_canonical(),
                client.local_addr().unwrap().ip()
            );

            // Saved and restored.
            let route = Route::new(route.address(), route.local()).unwrap();
            assert_eq!(received.send(&server, 0, 3, &route), Ok(3));
            send(&server, b"last", &route).unwrap();
            for text in ["one", "", "three", "last"] {
                let mut buffer = [0; 10];
                let (length, from) = client.recv_from(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], text.as_bytes());
                assert_eq!(from.to_string(), format!("127.0.0.9:{port}"));
            }
            assert_eq!(received.receive(&server, true), Ok(0));
        }
    }

    #[test]
    fn an_address_that_is_too_long_is_none() {
        assert!(Route::new(&[0; 129], None).is_none());
        assert!(!Route::new(&[], None).unwrap().leads_back());
    }
}
