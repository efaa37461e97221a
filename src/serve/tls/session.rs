//! A TLS session, as a pending connection and the environment of its handler have it.

use std::fmt;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::MsgFlags;
use serde::{Deserialize, Serialize};
use skd_tls_protocol::{Answer, Failure, FailureKind, Found, MAX_ANSWER, Session};

use crate::sys::sockets::{is_shut_down, peek_bytes, receive_now};

/// The session of a connection that skd-tls has.
#[derive(Debug)]
pub(in crate::serve) struct TlsSession {
    /// skd-tls's answer as it came, or nothing until that is there: one allocation, instead of one for
    /// each text in it.
    answer: Box<[u8]>,
    /// When the connection was passed to skd-tls.
    begun: Instant,
    /// How long the handshake took, until that is taken.
    took: Option<Duration>,
}

/// A session in the state of an upgrade: skd-tls's answer, or nothing before that.
#[derive(Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::serve) struct SavedSession(Vec<u8>);

/// What a look at the plain side has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::serve) enum TlsSign {
    /// The handshake goes on.
    Runs,
    /// The session is established, and what the client says follows.
    Established,
    /// There is none: [`TlsSession::failure`] says why.
    Failed(FailureKind),
    /// skd-tls has gone.
    Ended,
    /// What it has sent is no answer.
    Fault,
}

impl TlsSession {
    /// That of a connection that is passed now.
    pub(in crate::serve) fn begin(now: Instant) -> Self {
        Self {
            answer: Box::default(),
            begun: now,
            took: None,
        }
    }

    /// Looks for skd-tls's answer at the beginning of the plain side, and takes it away if it is all there.
    pub(in crate::serve) fn look(&mut self, plain: impl AsFd) -> TlsSign {
        let mut buffer = [0; MAX_ANSWER];
        let mut is_over = false;
        loop {
            // A peek, since what comes behind the answer is for the handler. skd-tls has no reason to pass
            // descriptors: they are a fault here, and aren't closed by this thread.
            let length = match peek_bytes(&plain, &mut buffer) {
                Ok(0) => return TlsSign::Ended,
                Ok(length) => length,
                Err(Errno::EAGAIN) => return TlsSign::Runs,
                Err(Errno::EPROTO) => return TlsSign::Fault,
                Err(_) => return TlsSign::Ended,
            };
            let (sign, length) = match Found::read(&buffer[..length]) {
                Ok(Found::Answer(Answer::Established(_), length)) => (TlsSign::Established, length),
                Ok(Found::Answer(Answer::Failed(failure), length)) => {
                    (TlsSign::Failed(failure.kind), length)
                }
                Ok(Found::Incomplete) if is_over => return TlsSign::Ended,
                // The rest and the end may have come between the peek and this.
                Ok(Found::Incomplete) if is_shut_down(&plain) => {
                    is_over = true;
                    continue;
                }
                Ok(Found::Incomplete) => return TlsSign::Runs,
                Err(_) => return TlsSign::Fault,
            };
            // Nothing else reads here, so this takes what was peeked.
            if receive_now(&plain, &mut buffer[..length], MsgFlags::empty()) != Ok(length) {
                return TlsSign::Fault;
            }
            self.answer = buffer[..length].into();
            self.took = Some(self.begun.elapsed());
            return sign;
        }
    }

    /// Returns the session, if it is established.
    pub(in crate::serve) fn established(&self) -> Option<Session<'_>> {
        match Found::read(&self.answer) {
            Ok(Found::Answer(Answer::Established(session), _)) => Some(session),
            _ => None,
        }
    }

    /// Returns how long the handshake took, once.
    pub(in crate::serve) fn take_duration(&mut self) -> Option<Duration> {
        self.took.take()
    }

    /// Calls `with` with the sentence that says why the handshake has failed; with an empty one if there
    /// is none.
    pub(in crate::serve) fn failure<R>(&self, with: impl FnOnce(&str) -> R) -> R {
        match Found::read(&self.answer) {
            Ok(Found::Answer(Answer::Failed(Failure { why, .. }), _)) => with(&why),
            _ => with(""),
        }
    }

    /// Calls `set` with the name and value of each variable of its handler. What isn't known is left out.
    pub(in crate::serve) fn variables(&self, mut set: impl FnMut(&str, fmt::Arguments<'_>)) {
        let Some(session) = self.established() else {
            return;
        };
        let either = |is_so: bool, yes, no| if is_so { yes } else { no };
        let verified = either(session.verified, "SUCCESS", "NONE");
        let resumed = either(session.resumed, "Resumed", "Initial");
        for (name, value) in [
            ("HTTPS", "on"),
            ("SSL_PROTOCOL", &*session.protocol),
            ("SSL_CIPHER", &*session.cipher),
            ("SSL_TLS_SNI_SERVERNAME", &*session.server_name),
            ("SSL_ALPN", &*session.alpn),
            ("SSL_SESSION_RESUMED", resumed),
            ("SSL_CLIENT_VERIFY", verified),
        ] {
            if !value.is_empty() {
                set(name, format_args!("{value}"));
            }
        }
        // Of a certificate that nothing has verified, nothing is true.
        if session.verified {
            for (name, value) in [
                ("SSL_PEER_CERT_HASH", session.peer_hash),
                ("SSL_PEER_CERT_SUBJECT", session.peer_subject),
                ("SSL_PEER_CERT_CN", session.peer_common_name),
            ] {
                if !value.is_empty() {
                    set(name, format_args!("{value}"));
                }
            }
        }
    }

    /// Saves it.
    pub(in crate::serve) fn save(&self) -> SavedSession {
        SavedSession(self.answer.to_vec())
    }

    /// Restores one.
    pub(in crate::serve) fn restore(saved: SavedSession) -> Self {
        Self {
            answer: saved.0.into(),
            ..Self::begin(Instant::now())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn established() -> Vec<u8> {
        let session = Session {
            protocol: "TLSv1.3".into(),
            cipher: "TLS_AES_256_GCM_SHA384".into(),
            server_name: "example.org".into(),
            verified: true,
            peer_subject: "CN=alice,O=Example".into(),
            peer_common_name: "alice".into(),
            ..Session::default()
        };
        Answer::Established(session).bytes()
    }

    fn begun() -> (TlsSession, UnixStream, UnixStream) {
        let (plain, far) = UnixStream::pair().unwrap();
        (TlsSession::begin(Instant::now()), plain, far)
    }

    fn variables(session: &TlsSession) -> Vec<String> {
        let mut all = Vec::new();
        session.variables(|name, value| {
            assert!(crate::config::is_tls_variable(name.as_ref()), "{name}");
            all.push(format!("{name}={value}"));
        });
        all
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn an_answer_is_taken_whole_and_what_follows_stays() {
        let (mut session, mut plain, mut far) = begun();
        let answer = established();
        for byte in &answer[..answer.len() - 1] {
            assert_eq!(session.look(&plain), TlsSign::Runs);
            far.write_all(&[*byte]).unwrap();
        }
        assert_eq!(session.look(&plain), TlsSign::Runs);
        assert!(session.take_duration().is_none() && variables(&session).is_empty());
        far.write_all(&answer[answer.len() - 1..]).unwrap();
        far.write_all(b"what the client says").unwrap();
        assert_eq!(session.look(&plain), TlsSign::Established);
        assert!(session.take_duration().is_some() && session.take_duration().is_none());
        drop(far);
        let mut rest = String::new();
        plain.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "what the client says");
        let text = serde_json::to_string(&session.save()).unwrap();
        let restored = TlsSession::restore(serde_json::from_str(&text).unwrap());
        for session in [session, restored] {
            assert_eq!(
                variables(&session),
                [
                    "HTTPS=on",
                    "SSL_PROTOCOL=TLSv1.3",
                    "SSL_CIPHER=TLS_AES_256_GCM_SHA384",
                    "SSL_TLS_SNI_SERVERNAME=example.org",
                    "SSL_SESSION_RESUMED=Initial",
                    "SSL_CLIENT_VERIFY=SUCCESS",
                    "SSL_PEER_CERT_SUBJECT=CN=alice,O=Example",
                    "SSL_PEER_CERT_CN=alice",
                ]
            );
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn a_failure_and_the_end_are_told_apart() {
        let (mut session, plain, mut far) = begun();
        let failure = Failure {
            kind: FailureKind::NotTls,
            why: "it has sent a request of HTTP".into(),
        };
        far.write_all(&Answer::Failed(failure).bytes()).unwrap();
        drop(far);
        let failed = TlsSign::Failed(FailureKind::NotTls);
        assert_eq!(session.look(&plain), failed);
        assert_eq!(
            session.failure(str::to_owned),
            "it has sent a request of HTTP"
        );
        assert!(variables(&session).is_empty());
        for sent in [&b""[..], b"T", &established()[..20]] {
            let (mut session, plain, mut far) = begun();
            far.write_all(sent).unwrap();
            drop(far);
            assert_eq!(session.look(&plain), TlsSign::Ended, "{sent:?}");
            assert_eq!(session.failure(str::len), 0);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn what_is_no_answer_is_a_fault_even_if_a_descriptor_is_beside_it() {
        let (mut session, plain, mut far) = begun();
        far.write_all(b"HTTP/1.1 200 OK\r\n").unwrap();
        assert_eq!(session.look(&plain), TlsSign::Fault);
        let (mut session, plain, far) = begun();
        let bytes = established();
        crate::sys::packets::send(&far, [&bytes, b""], [Some(far.as_fd()), None]).unwrap();
        assert_eq!(session.look(&plain), TlsSign::Fault);
    }

    #[test]
    #[cfg_attr(miri, ignore = "sockets")]
    fn of_a_certificate_that_was_not_verified_nothing_is_told() {
        let (mut session, plain, mut far) = begun();
        let unverified = Session {
            peer_common_name: "alice".into(),
            ..Session::default()
        };
        far.write_all(&Answer::Established(unverified).bytes())
            .unwrap();
        assert_eq!(session.look(&plain), TlsSign::Established);
        let expected = [
            "HTTPS=on",
            "SSL_SESSION_RESUMED=Initial",
            "SSL_CLIENT_VERIFY=NONE",
        ];
        assert_eq!(variables(&session), expected);
    }
}
