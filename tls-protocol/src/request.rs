//! A connection that skd hands to skd-tls.
//!
//! A packet is the version, the length of the service's name and the name, the length of the token and the
//! token; each length is one byte. The descriptors are the client's connection and skd-tls's end of the plain
//! side, in this order.

/// The maximum length of a service's name, in bytes.
pub const MAX_NAME: usize = 255;

/// The maximum length of a token, in bytes.
pub const MAX_TOKEN: usize = 64;

/// The maximum length of a request, in bytes.
pub const MAX_REQUEST: usize = 3 + MAX_NAME + MAX_TOKEN;

/// A connection that skd passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// The name of the service that the client has connected to.
    pub service: &'a str,
    /// What skd knows the client by. skd-tls sends it back in reports, and doesn't look into it.
    pub token: &'a [u8],
}

/// Why bytes are no request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestFault {
    /// It is of another version.
    Version(u8),
    /// A length doesn't fit.
    Length,
    /// The name isn't UTF-8.
    Name,
}

impl<'a> Request<'a> {
    /// Writes the request to the beginning of a buffer. Returns its length; `None` if the name or the token is
    /// too long.
    pub fn write(&self, to: &mut [u8; MAX_REQUEST]) -> Option<usize> {
        let (name, token) = (self.service.as_bytes(), self.token);
        if token.len() > MAX_TOKEN {
            return None;
        }
        let mut length = 0;
        let mut put = |bytes: &[u8]| {
            to[length..length + bytes.len()].copy_from_slice(bytes);
            length += bytes.len();
        };
        put(&[crate::VERSION, u8::try_from(name.len()).ok()?]);
        put(name);
        put(&[u8::try_from(token.len()).ok()?]);
        put(token);
        Some(length)
    }

    /// Reads a request from a packet.
    pub fn read(packet: &'a [u8]) -> Result<Self, RequestFault> {
        let (version, rest) = packet.split_first().ok_or(RequestFault::Length)?;
        if *version != crate::VERSION {
            return Err(RequestFault::Version(*version));
        }
        let (name, rest) = counted(rest)?;
        let (token, rest) = counted(rest)?;
        if token.len() > MAX_TOKEN || !rest.is_empty() {
            return Err(RequestFault::Length);
        }
        let service = std::str::from_utf8(name).map_err(|_| RequestFault::Name)?;
        Ok(Self { service, token })
    }
}

/// Splits off bytes with their length in front.
fn counted(bytes: &[u8]) -> Result<(&[u8], &[u8]), RequestFault> {
    let (length, rest) = bytes.split_first().ok_or(RequestFault::Length)?;
    rest.split_at_checked((*length).into())
        .ok_or(RequestFault::Length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (service, token) in [
            ("", &b""[..]),
            ("web", b"\0\xff"),
            (&"n".repeat(255), &[7; 64]),
        ] {
            let request = Request { service, token };
            let mut buffer = [0; MAX_REQUEST];
            let length = request.write(&mut buffer).unwrap();
            assert_eq!(Request::read(&buffer[..length]), Ok(request));
            for cut in 0..length {
                assert!(Request::read(&buffer[..cut]).is_err(), "{cut}");
            }
        }
    }

    #[test]
    fn what_is_too_long_is_refused() {
        let mut buffer = [0; MAX_REQUEST];
        let long = Request {
            service: &"n".repeat(256),
            token: b"",
        };
        assert_eq!(long.write(&mut buffer), None);
        let long = Request {
            service: "",
            token: &[0; 65],
        };
        assert_eq!(long.write(&mut buffer), None);
        assert_eq!(Request::read(&[1, 0, 65]), Err(RequestFault::Length));
        assert_eq!(Request::read(&[1, 0, 0, 0]), Err(RequestFault::Length));
        assert_eq!(Request::read(&[2, 0, 0]), Err(RequestFault::Version(2)));
        assert_eq!(Request::read(&[1, 1, 255, 0]), Err(RequestFault::Name));
    }
}
