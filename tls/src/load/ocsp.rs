//! OCSP responses (RFC 6960): about which certificate one is, what it says, and until when.
//!
//! Its signature isn't looked at: clients do that.

use aws_lc_rs::digest;
use x509_parser::asn1_rs::{Any, Class, FromDer, GeneralizedTime, Oid, Tag, oid};

use super::certificate::Facts;

/// How long a response holds that doesn't say it, in seconds: what it says may be known better by then.
const UNSAID: i64 = 24 * 60 * 60;

/// What a response says about one certificate.
#[derive(Clone, Debug)]
pub(super) struct About {
    /// The digest of its issuer's name, and which kind that is of.
    hash: Hash,
    issuer: Box<[u8]>,
    serial: Box<[u8]>,
    /// What is said about it.
    pub(super) status: Status,
    /// From when on that holds, in seconds since 1970.
    pub(super) from: i64,
    /// Until when.
    pub(super) until: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Good,
    Revoked,
    Unknown,
}

#[derive(Clone, Copy, Debug)]
enum Hash {
    Sha1,
    Sha256,
    Other,
}

/// Why there is nothing in a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The authority says that it has no answer, by this number.
    Refused(u8),
    /// It is no response.
    Unreadable,
}

impl About {
    /// Whether a certificate is what the response is about.
    pub(super) fn is_about(&self, it: &Facts) -> bool {
        let algorithm = match self.hash {
            Hash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Hash::Sha256 => &digest::SHA256,
            Hash::Other => return false,
        };
        self.serial == it.serial
            && digest::digest(algorithm, &it.raw_issuer).as_ref() == &*self.issuer
    }
}

/// Reads a response.
pub(super) fn read(bytes: &[u8]) -> Result<Vec<About>, Fault> {
    let (status, response) = outer(bytes).ok_or(Fault::Unreadable)?;
    if status != 0 {
        return Err(Fault::Refused(status));
    }
    response.and_then(basic).ok_or(Fault::Unreadable)
}

/// Takes the next element of a sequence, which is of this tag.
fn take<'a>(from: &mut &'a [u8], class: Class, tag: Tag) -> Option<Any<'a>> {
    let (rest, it) = Any::from_der(from).ok()?;
    let is_wanted = it.header.class() == class && it.header.tag() == tag;
    is_wanted.then(|| {
        *from = rest;
        it
    })
}

fn universal<'a>(from: &mut &'a [u8], tag: Tag) -> Option<&'a [u8]> {
    take(from, Class::Universal, tag).map(|it| it.data)
}

fn tagged<'a>(from: &mut &'a [u8], tag: u32) -> Option<&'a [u8]> {
    take(from, Class::ContextSpecific, Tag(tag)).map(|it| it.data)
}

/// Returns the status of a whole response, and what it is an envelope of.
fn outer(mut bytes: &[u8]) -> Option<(u8, Option<&[u8]>)> {
    let mut response = universal(&mut bytes, Tag::Sequence)?;
    if !bytes.is_empty() {
        return None;
    }
    let [status] = universal(&mut response, Tag::Enumerated)? else {
        return None;
    };
    let Some(mut explicit) = tagged(&mut response, 0) else {
        return Some((*status, None));
    };
    let mut inner = universal(&mut explicit, Tag::Sequence)?;
    let kind = Oid::new(universal(&mut inner, Tag::Oid)?.into());
    let is_basic = kind == oid!(1.3.6.1.5.5.7.48.1.1);
    Some((
        *status,
        is_basic
            .then(|| universal(&mut inner, Tag::OctetString))
            .flatten(),
    ))
}

/// Reads a `BasicOCSPResponse`.
fn basic(mut bytes: &[u8]) -> Option<Vec<About>> {
    let mut signed = universal(&mut bytes, Tag::Sequence)?;
    let mut data = universal(&mut signed, Tag::Sequence)?;
    // The version, which is only there if it isn't the first.
    let _ = tagged(&mut data, 0);
    // The responder, by its name or by the digest of its key.
    tagged(&mut data, 1).or_else(|| tagged(&mut data, 2))?;
    universal(&mut data, Tag::GeneralizedTime)?;
    let mut singles = universal(&mut data, Tag::Sequence)?;
    let mut all = Vec::new();
    while !singles.is_empty() {
        all.push(single(universal(&mut singles, Tag::Sequence)?)?);
    }
    Some(all)
}

/// Reads a `SingleResponse`.
fn single(mut bytes: &[u8]) -> Option<About> {
    let mut id = universal(&mut bytes, Tag::Sequence)?;
    let mut algorithm = universal(&mut id, Tag::Sequence)?;
    let hash = Oid::new(universal(&mut algorithm, Tag::Oid)?.into());
    let issuer = universal(&mut id, Tag::OctetString)?.into();
    universal(&mut id, Tag::OctetString)?;
    let serial = universal(&mut id, Tag::Integer)?.into();
    let (rest, status) = Any::from_der(bytes).ok()?;
    bytes = rest;
    let status = match status.header.tag().0 {
        _ if status.header.class() != Class::ContextSpecific => return None,
        0 => Status::Good,
        1 => Status::Revoked,
        2 => Status::Unknown,
        _ => return None,
    };
    let from = time(&mut bytes)?;
    let until = match tagged(&mut bytes, 0) {
        Some(mut explicit) => time(&mut explicit)?,
        None => from.saturating_add(UNSAID),
    };
    Some(About {
        hash: match hash {
            hash if hash == oid!(1.3.14.3.2.26) => Hash::Sha1,
            hash if hash == oid!(2.16.840.1.101.3.4.2.1) => Hash::Sha256,
            _ => Hash::Other,
        },
        issuer,
        serial,
        status,
        from,
        until,
    })
}

fn time(from: &mut &[u8]) -> Option<i64> {
    let (rest, time) = GeneralizedTime::from_der(from).ok()?;
    *from = rest;
    Some(time.utc_datetime().ok()?.unix_timestamp())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let contents = parts.concat();
        // A byte for the length is enough up to 255.
        let head: &[u8] = match u8::try_from(contents.len()).unwrap() {
            length @ ..128 => &[tag, length],
            length => &[tag, 0x81, length],
        };
        [head, &contents].concat()
    }

    const SHA1: &[u8] = b"\x06\x05\x2b\x0e\x03\x02\x1a";
    const FROM: &[u8] = b"\x18\x0f20260101000000Z";
    const UNTIL: &[u8] = b"\x18\x0f20260108000000Z";

    fn single(status: &[u8], until: &[u8]) -> Vec<u8> {
        let issuer = der(
            4,
            &[digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, b"issuer").as_ref()],
        );
        let id = der(
            0x30,
            &[
                &der(0x30, &[SHA1]),
                &issuer,
                &der(4, &[b"key"]),
                &der(2, &[b"\x07"]),
            ],
        );
        der(0x30, &[&id, status, FROM, until])
    }

    /// A response with the responder by its key, and everything before what it is signed with.
    fn response(singles: &[u8]) -> Vec<u8> {
        let data = der(
            0x30,
            &[
                &der(0xa2, &[&der(4, &[b"key"])]),
                FROM,
                &der(0x30, &[singles]),
            ],
        );
        let basic = der(0x30, &[&data]);
        let kind = b"\x06\x09\x2b\x06\x01\x05\x05\x07\x30\x01\x01";
        let inner = der(0x30, &[kind, &der(4, &[&basic])]);
        der(0x30, &[b"\x0a\x01\x00", &der(0xa0, &[&inner])])
    }

    fn about(status: &[u8], until: &[u8]) -> About {
        let all = read(&response(&single(status, until))).unwrap();
        let [one] = &all[..] else {
            panic!("{all:?}");
        };
        one.clone()
    }

    #[test]
    fn what_is_said_is_read() {
        const WEEK: i64 = 7 * 24 * 60 * 60;
        let explicit = der(0xa0, &[UNTIL]);
        let good = about(b"\x80\x00", &explicit);
        assert_eq!((good.status, good.until - good.from), (Status::Good, WEEK));
        assert_eq!(good.from, 1_767_225_600);
        assert_eq!(*good.serial, [7]);
        let unsaid = about(b"\x82\x00", b"");
        assert_eq!(
            (unsaid.status, unsaid.until - unsaid.from),
            (Status::Unknown, UNSAID)
        );
        let revoked = der(0xa1, &[FROM]);
        assert_eq!(about(&revoked, &explicit).status, Status::Revoked);
    }

    #[test]
    fn what_isnt_a_response_is_refused() {
        assert_eq!(read(&[0x30, 3, 10, 1, 3]).unwrap_err(), Fault::Refused(3));
        let good = response(&single(b"\x80\x00", b""));
        for cut in 0..good.len() {
            assert_eq!(read(&good[..cut]).unwrap_err(), Fault::Unreadable, "{cut}");
        }
        let longer = [&good[..], b"\0"].concat();
        assert_eq!(read(&longer).unwrap_err(), Fault::Unreadable);
        assert!(read(&response(&single(b"\x83\x00", b""))).is_err());
        assert!(read(&response(&single(b"\x05\x00", b""))).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes: Vec<u8>, at: proptest::sample::Index, to: u8) {
            let _ = read(&bytes);
            let mut damaged = response(&single(b"\x80\x00", b""));
            let at = at.index(damaged.len());
            damaged[at] = to;
            let _ = read(&damaged);
        }
    }
}
