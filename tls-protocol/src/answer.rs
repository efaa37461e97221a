//! What skd-tls writes to the plain side first: that a session is established, or that the handshake has
//! failed.
//!
//! An answer is four bytes that name it and its version, one for its kind, two for the length of the rest
//! (big-endian), and the rest: fields of one byte for a tag, two for a length, and a value.

use std::borrow::Cow;

/// The maximum length of an answer, in bytes.
pub const MAX_ANSWER: usize = 8192;

const MAGIC: [u8; 4] = [b'T', b'L', b'S', crate::VERSION];
const HEAD: usize = MAGIC.len() + 3;

/// What becomes of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// A session is established; what the client says follows.
    Established(Session<'a>),
    /// There is none; the end follows.
    Failed(Failure<'a>),
}

/// A session, as far as handlers and the log are told about it. Empty values are unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Session<'a> {
    /// The version of the protocol: `TLSv1.3` or `TLSv1.2`.
    pub protocol: Cow<'a, str>,
    /// The cipher suite, by the name that OpenSSL has for it.
    pub cipher: Cow<'a, str>,
    /// The name that the client has asked for (SNI).
    pub server_name: Cow<'a, str>,
    /// The protocol that was chosen (ALPN).
    pub alpn: Cow<'a, str>,
    /// Whether an earlier session was resumed.
    pub resumed: bool,
    /// Whether a certificate of the client was verified.
    pub verified: bool,
    /// The SHA-256 digest of the client's certificate, as `SHA256:` and hexadecimal digits.
    pub peer_hash: Cow<'a, str>,
    /// The subject of the client's certificate.
    pub peer_subject: Cow<'a, str>,
    /// The common name in that.
    pub peer_common_name: Cow<'a, str>,
}

/// Why there is no session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure<'a> {
    /// What it is counted by.
    pub kind: FailureKind,
    /// A sentence for the log, without a full stop.
    pub why: Cow<'a, str>,
}

/// What failed handshakes are counted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FailureKind {
    /// The client has closed the connection.
    Closed = 1,
    /// It doesn't speak TLS.
    NotTls = 2,
    /// There is no version, cipher suite or ALPN protocol that both accept.
    NothingInCommon = 3,
    /// There is no certificate for the name that it has asked for.
    NoName = 4,
    /// Its certificate is missing, or isn't accepted.
    Certificate = 5,
    /// It doesn't accept the service's certificate, or has sent another alert.
    Alert = 6,
    /// Anything else.
    Other = 7,
}

/// What is at the beginning of the plain side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// An answer, of so many bytes.
    Answer(Answer<'a>, usize),
    /// The beginning of one.
    Incomplete,
}

/// Why bytes are no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerFault;

impl FailureKind {
    /// All kinds.
    pub const ALL: [Self; 7] = [
        Self::Closed,
        Self::NotTls,
        Self::NothingInCommon,
        Self::NoName,
        Self::Certificate,
        Self::Alert,
        Self::Other,
    ];
}

/// The text fields of a session, each by its tag.
fn texts<'s, 'a>(session: &'s mut Session<'a>) -> [(u8, &'s mut Cow<'a, str>); 7] {
    [
        (1, &mut session.protocol),
        (2, &mut session.cipher),
        (3, &mut session.server_name),
        (4, &mut session.alpn),
        (5, &mut session.peer_hash),
        (6, &mut session.peer_subject),
        (7, &mut session.peer_common_name),
    ]
}

/// The tag of a field without a value: an earlier session was resumed.
const RESUMED: u8 = 32;

/// The same: the client's certificate was verified.
const VERIFIED: u8 = 33;

/// The tag of the sentence in a failure.
const WHY: u8 = 64;

impl Answer<'_> {
    /// Returns the answer's bytes. Values are cut where they are too long for it.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([0; 3]);
        match self {
            Self::Established(session) => {
                let mut session = session.clone();
                for (tag, text) in texts(&mut session) {
                    put(&mut bytes, tag, text);
                }
                for (tag, is_set) in [(RESUMED, session.resumed), (VERIFIED, session.verified)] {
                    if is_set {
                        bytes.extend([tag, 0, 0]);
                    }
                }
            }
            Self::Failed(failure) => {
                bytes[MAGIC.len()] = failure.kind as u8;
                put(&mut bytes, WHY, &failure.why);
            }
        }
        let length = u16::try_from(bytes.len() - HEAD).unwrap_or(u16::MAX);
        bytes[MAGIC.len() + 1..HEAD].copy_from_slice(&length.to_be_bytes());
        bytes
    }
}

/// Writes a field, of which at most 1,000 bytes count. An empty one isn't written.
fn put(bytes: &mut Vec<u8>, tag: u8, text: &str) {
    let mut end = text.len().min(1000);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let Some(length) = u16::try_from(end).ok().filter(|length| *length > 0) else {
        return;
    };
    bytes.push(tag);
    bytes.extend(length.to_be_bytes());
    bytes.extend(&text.as_bytes()[..end]);
}

impl<'a> Found<'a> {
    /// Reads an answer from what is at the beginning of the plain side. A control character or a byte that
    /// isn't UTF-8 in a text is a fault: the texts become variables of a handler and words in the log.
    pub fn read(bytes: &'a [u8]) -> Result<Self, AnswerFault> {
        let known = bytes.len().min(MAGIC.len());
        if bytes[..known] != MAGIC[..known] {
            return Err(AnswerFault);
        }
        let Some((head, rest)) = bytes.split_first_chunk::<HEAD>() else {
            return Ok(Found::Incomplete);
        };
        let [.., kind, high, low] = *head;
        let length = usize::from(u16::from_be_bytes([high, low]));
        if HEAD + length > MAX_ANSWER {
            return Err(AnswerFault);
        }
        let Some(mut fields) = rest.get(..length) else {
            return Ok(Found::Incomplete);
        };
        let mut session = Session::default();
        let mut why = "";
        while let Some(([tag, high, low], rest)) = fields.split_first_chunk::<3>() {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            let (value, rest) = rest.split_at_checked(length).ok_or(AnswerFault)?;
            let value = std::str::from_utf8(value).map_err(|_| AnswerFault)?;
            if value.chars().any(char::is_control) {
                return Err(AnswerFault);
            }
            fields = rest;
            match *tag {
                RESUMED => session.resumed = true,
                VERIFIED => session.verified = true,
                WHY => why = value,
                tag => {
                    let mut texts = texts(&mut session).into_iter();
                    let (_, text) = texts.find(|(its, _)| *its == tag).ok_or(AnswerFault)?;
                    *text = value.into();
                }
            }
        }
        if !fields.is_empty() {
            return Err(AnswerFault);
        }
        let answer = match kind {
            0 => Answer::Established(session),
            kind => {
                let mut kinds = FailureKind::ALL.into_iter();
                Answer::Failed(Failure {
                    kind: kinds.find(|it| *it as u8 == kind).ok_or(AnswerFault)?,
                    why: why.into(),
                })
            }
        };
        Ok(Found::Answer(answer, HEAD + length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers() -> [Answer<'static>; 3] {
        let session = Session {
            protocol: "TLSv1.3".into(),
            cipher: "TLS_AES_256_GCM_SHA384".into(),
            server_name: "example.org".into(),
            resumed: true,
            peer_subject: "CN=Zoë".into(),
            ..Session::default()
        };
        let failure = Failure {
            kind: FailureKind::NotTls,
            why: "it has sent a request of HTTP".into(),
        };
        [
            Answer::Established(Session::default()),
            Answer::Established(session),
            Answer::Failed(failure),
        ]
    }

    #[test]
    fn what_is_written_is_read_and_no_byte_more() {
        for answer in answers() {
            let mut bytes = answer.bytes();
            let length = bytes.len();
            for cut in 0..length {
                assert_eq!(Found::read(&bytes[..cut]), Ok(Found::Incomplete), "{cut}");
            }
            bytes.extend(b"what the client says");
            assert_eq!(Found::read(&bytes), Ok(Found::Answer(answer, length)));
        }
    }

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        let session = Session {
            peer_subject: "é".repeat(600).into(),
            server_name: "a".repeat(5000).into(),
            ..Session::default()
        };
        let bytes = Answer::Established(session).bytes();
        let Ok(Found::Answer(Answer::Established(session), _)) = Found::read(&bytes) else {
            panic!("{bytes:?}");
        };
        assert_eq!(session.peer_subject, "é".repeat(500));
        assert_eq!(session.server_name, "a".repeat(1000));
    }

    #[test]
    fn faults_are_seen() {
        let good = answers()[1].bytes();
        for (index, byte) in [
            (0, b'X'),
            (3, 0),
            (4, 99),
            (5, 255),
            (7, 60),
            (10, b'\n'),
            (10, 255),
        ] {
            let mut bytes = good.clone();
            bytes[index] = byte;
            assert_eq!(Found::read(&bytes), Err(AnswerFault), "{index} {byte}");
        }
        assert_eq!(Found::read(b"HTTP"), Err(AnswerFault));
    }
}
