//! Events as lines of JSON ([`EventLine`]), built without allocation.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};
use skd_control::{Endpoint, EventLine, Level, TlsLine};
use skd_tls_protocol::Session;

use super::event::Event;
use super::fields::{At, By, Fields};
use super::fixed::{FixedText, cut};
use super::line::{TROUBLE, control};
use super::reject_counts::{OTHER, RejectCause, RejectCounts};
use super::time::Time;
use super::trouble::Cause;
use super::{mask, services};
use crate::config::{Peer, scoped};
use crate::sys::process::Ended;

/// The name of the event of lines that the log did not take.
const LINES_LOST: &str = "lines-lost";

/// The longest message in bytes, before anything in it is escaped.
const MESSAGE: usize = super::line::Line::LENGTH;

/// The longest address in bytes. An abstract name has 107, of which each can be three here.
const ADDRESS: usize = 352;

/// Calls `with` with the line of an event.
pub(super) fn with_line<R>(event: &Event<'_>, with: impl FnOnce(&EventLine<'_>) -> R) -> R {
    let time = FixedText::<{ Time::LENGTH + 8 }>::of(Time::now());
    let words = FixedText::<MESSAGE>::of(event);
    let words = words.as_str();
    let fields = event.fields();
    let client = ClientText::of(&fields);
    let server = ServerText::of(&fields);
    let service = event.service().and_then(services::name);
    let mut line = EventLine {
        time: Cow::Borrowed(time.as_str()),
        level: event.level(),
        event: Cow::Borrowed(event.name()),
        message: Cow::Borrowed(words.strip_prefix(TROUBLE).unwrap_or(words)),
        service: service.map(Cow::Borrowed),
        pid: fields.pid,
        client: client.as_ref().map(ClientText::endpoint),
        server: server.as_ref().map(ServerText::endpoint),
        reason: fields.reason.map(Cow::Borrowed),
        count: fields.count,
        reasons: fields.reasons.map(reasons).unwrap_or_default(),
        ..EventLine::default()
    };
    match fields.ended {
        Some(Ended::Exited(status)) => line.status = Some(status),
        Some(Ended::Killed(signal)) => line.signal = Some(signal),
        None => {}
    }
    line.tls = fields.session.map(session);
    line.duration = fields.duration.map(|duration| duration.as_secs_f64());
    if let Some(outcome) = fields.outcome {
        line.duration = Some(outcome.after.as_secs_f64());
        line.user_cpu = Some(outcome.usage.user.as_secs_f64());
        line.system_cpu = Some(outcome.usage.system.as_secs_f64());
        line.max_rss = Some(outcome.usage.max_rss);
    }
    with(&line)
}

/// The longest text of a TLS session in a line, in bytes: all of them fit, and a host name isn't longer.
const TLS_TEXT: usize = 256;

fn session<'a>(session: &'a Session<'_>) -> TlsLine<'a> {
    let text = |text: &'a str| Cow::Borrowed(cut(text, TLS_TEXT));
    let some = |it: &'a str| (!it.is_empty()).then(|| text(it));
    TlsLine {
        protocol: text(&session.protocol),
        cipher: text(&session.cipher),
        server_name: some(&session.server_name),
        alpn: some(&session.alpn),
        client: some(&session.peer_subject).filter(|_| session.verified),
        resumed: session.resumed,
    }
}

/// Returns how many were rejected by the labels of the reasons. It allocates: there are fifty
/// summaries a second at most.
fn reasons(counts: &RejectCounts) -> BTreeMap<Cow<'static, str>, u64> {
    let mut reasons = BTreeMap::new();
    for (cause, count) in counts.iter() {
        let label = cause.map_or(OTHER, RejectCause::label);
        *reasons.entry(Cow::Borrowed(label)).or_default() += u64::from(count);
    }
    reasons
}

/// Calls `with` with the line that says how many lines were lost.
pub(super) fn with_lost<R>(
    count: u64,
    text: impl fmt::Display,
    with: impl FnOnce(&EventLine<'_>) -> R,
) -> R {
    let line = EventLine {
        event: Cow::Borrowed(LINES_LOST),
        count: Some(count),
        ..EventLine::default()
    };
    with_words(line, text, with)
}

/// Calls `with` with the line that says what is wrong with the log.
pub(super) fn with_log_trouble<R>(
    text: impl fmt::Display,
    with: impl FnOnce(&EventLine<'_>) -> R,
) -> R {
    let line = EventLine {
        event: Cow::Borrowed("trouble"),
        reason: Some(Cow::Borrowed(Cause::Log.label())),
        ..EventLine::default()
    };
    with_words(line, text, with)
}

fn with_words<R>(
    line: EventLine<'_>,
    text: impl fmt::Display,
    with: impl FnOnce(&EventLine<'_>) -> R,
) -> R {
    let time = FixedText::<{ Time::LENGTH + 8 }>::of(Time::now());
    let words = FixedText::<MESSAGE>::of(text);
    with(&EventLine {
        time: Cow::Borrowed(time.as_str()),
        level: Level::Warning,
        message: Cow::Borrowed(words.as_str()),
        ..line
    })
}

/// Returns a line without its newline.
pub(super) fn text(line: &EventLine<'_>) -> String {
    let json = JsonLine::of(line, false);
    String::from_utf8_lossy(json.as_bytes().trim_ascii_end()).into_owned()
}

/// A client, with the text that its endpoint refers to.
struct ClientText {
    address: Option<FixedText<ADDRESS>>,
    port: Option<u16>,
    uid: Option<u32>,
    pid: Option<i32>,
}

impl ClientText {
    fn of(fields: &Fields<'_>) -> Option<Self> {
        let mut text = Self {
            address: None,
            port: None,
            uid: None,
            pid: None,
        };
        match fields.client? {
            By::Peer(Peer::UnixStream(Some(credentials))) => {
                text.uid = credentials.uid;
                text.pid = Some(credentials.pid).filter(|pid| *pid > 0);
            }
            By::Peer(peer) => {
                let address = peer.address()?;
                text.address = Some(match mask::address(address.ip()) {
                    Some(masked) => FixedText::of(masked),
                    None => {
                        text.port = Some(address.port());
                        FixedText::of(scoped(address))
                    }
                });
            }
            By::Source(source) => {
                text.uid = source.uid();
                text.address = source
                    .is_address()
                    .then(|| FixedText::of(mask::source(source)));
            }
        }
        Some(text)
    }

    fn endpoint(&self) -> Endpoint<'_> {
        Endpoint {
            address: self.address.as_ref().map(|it| Cow::Borrowed(it.as_str())),
            port: self.port,
            uid: self.uid,
            pid: self.pid,
        }
    }
}

/// A listener, with the text that its endpoint refers to.
struct ServerText {
    /// The address of a listener that is served.
    known: Option<&'static str>,
    /// That of another one.
    own: FixedText<ADDRESS>,
    port: Option<u16>,
}

impl ServerText {
    fn of(fields: &Fields<'_>) -> Option<Self> {
        Some(match fields.server? {
            At::Id(id) => {
                let listener = services::listener(id)?;
                Self {
                    known: Some(&listener.address),
                    own: FixedText::default(),
                    port: listener.port,
                }
            }
            At::Name(name) => {
                let (address, port) = services::address(name.1);
                Self {
                    known: None,
                    own: FixedText::of(address),
                    port,
                }
            }
        })
    }

    fn endpoint(&self) -> Endpoint<'_> {
        let address = self.known.unwrap_or_else(|| self.own.as_str());
        Endpoint {
            address: Some(Cow::Borrowed(address)),
            port: self.port,
            ..Endpoint::default()
        }
    }
}

/// A line of JSON that is being written.
#[derive(Debug)]
pub(super) struct JsonLine {
    bytes: [u8; Self::LENGTH],
    length: usize,
}

impl JsonLine {
    /// The length of the longest line in bytes, newlines included: `PIPE_BUF`, so that lines of
    /// several threads and handlers don't mix.
    const LENGTH: usize = libc::PIPE_BUF;

    /// Returns the line of an event, with its newline. If it is too long, its message is cut.
    ///
    /// `torn` is whether an earlier line lacks its newline.
    pub(super) fn of(line: &EventLine<'_>, torn: bool) -> Self {
        let mut whole = Self::start(torn);
        if whole.append(line).is_ok() {
            return whole;
        }
        // A message is short, but each of its characters can take six bytes.
        let mut length = line.message.len();
        while length > 0 {
            length /= 2;
            let message = FixedText::<MESSAGE>::of(format_args!("{}…", cut(&line.message, length)));
            let message = Cow::Borrowed(message.as_str());
            let shorter = EventLine {
                message,
                ..line.clone()
            };
            let mut json = Self::start(torn);
            if json.append(&shorter).is_ok() {
                return json;
            }
        }
        Self::start(torn)
    }

    /// Returns the line with its newline.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    fn start(torn: bool) -> Self {
        let mut bytes = [0; Self::LENGTH];
        bytes[0] = b'\n';
        Self {
            bytes,
            length: torn.into(),
        }
    }

    fn append(&mut self, line: &EventLine<'_>) -> io::Result<()> {
        let mut rest = &mut self.bytes[self.length..];
        let room = rest.len();
        line.serialize(&mut Serializer::with_formatter(&mut rest, Printable))?;
        rest.write_all(b"\n")?;
        self.length += room - rest.len();
        Ok(())
    }
}

/// Escapes all control characters, while JSON only asks for the first 32: a terminal obeys the
/// others too, and the relay would escape them in its own way, which isn't that of JSON.
struct Printable;

impl Formatter for Printable {
    fn write_string_fragment<W>(&mut self, to: &mut W, fragment: &str) -> io::Result<()>
    where
        W: ?Sized + Write,
    {
        let hidden = |character: char| control(character).is_some();
        for part in fragment.split_inclusive(hidden) {
            let last = part.char_indices().next_back();
            match last.and_then(|(at, last)| Some((at, control(last)?))) {
                Some((at, code)) => {
                    to.write_all(&part.as_bytes()[..at])?;
                    write!(to, "\\u{code:04x}")?;
                }
                None => to.write_all(part.as_bytes())?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn all_control_characters_are_escaped_once() {
        let line = EventLine {
            message: Cow::Borrowed("\u{1b}[1m\u{7f}\u{9b}\n\"é\\"),
            ..EventLine::default()
        };
        let text = text(&line);
        assert!(
            text.contains(r#""message":"\u001b[1m\u007f\u009b\n\"é\\""#),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn any_message_and_address_make_one_complete_object(
            message in "(.|[\\x00-\\xff\n]){0,1024}",
            address in "(.|[\\x00-\\x9f]){0,107}",
            torn in any::<bool>(),
        ) {
            let message = FixedText::<MESSAGE>::of(message);
            let line = EventLine {
                message: Cow::Borrowed(message.as_str()),
                server: Some(Endpoint {
                    address: Some(Cow::Borrowed(&address)),
                    ..Endpoint::default()
                }),
                ..EventLine::default()
            };
            let json = JsonLine::of(&line, torn);
            let text = std::str::from_utf8(json.as_bytes()).unwrap();
            prop_assert!(text.len() <= libc::PIPE_BUF);
            prop_assert_eq!(text.starts_with('\n'), torn);
            let text = text.trim_start_matches('\n').strip_suffix('\n').unwrap();
            prop_assert!(!text.chars().any(char::is_control));
            let read: EventLine<'_> = serde_json::from_str(text).unwrap();
            let begin = read.message.strip_suffix('…').unwrap_or(&read.message);
            prop_assert!(message.as_str().starts_with(begin));
            prop_assert_eq!(read.server, line.server);
        }
    }
}
