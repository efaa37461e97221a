//! The head of a request.

use httparse::{EMPTY_HEADER, Error, Header};

use super::response::Status;
use crate::metrics::Format;

/// The most header fields of a request.
const MOST_FIELDS: usize = 64;

/// What a request says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// GET or HEAD, or a method that isn't allowed.
    pub(super) method: String,
    /// The path without the query.
    pub(super) path: String,
    /// The server that the client wants: its name or address, maybe with a port. Missing in HTTP/1.0.
    pub(super) host: Option<String>,
    /// The format of metrics that the client prefers.
    pub(super) format: Format,
    /// Whether the client may ask again on this connection.
    pub(super) keep_alive: bool,
}

impl Head {
    /// Returns whether the method is one of the two that are answered.
    pub(super) fn is_allowed(&self) -> bool {
        matches!(self.method.as_str(), "GET" | "HEAD")
    }

    /// Returns whether the response to this has a body.
    pub(super) fn wants_body(&self) -> bool {
        self.method != "HEAD"
    }
}

/// Parses the start of what was received. Returns the head and its length; `None` if it is not
/// complete.
pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Head, usize)>, Status> {
    let mut fields = [EMPTY_HEADER; MOST_FIELDS];
    let mut request = httparse::Request::new(&mut fields);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(Error::TooManyHeaders) => return Err(Status::HEAD_TOO_LARGE),
        Err(Error::Version) => return Err(version_status(bytes)),
        Err(_) => return Err(Status::BAD_REQUEST),
    };
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(Status::BAD_REQUEST);
    };
    if has_two_endings(&bytes[..length]) {
        return Err(Status::BAD_REQUEST);
    }
    let fields = request.headers;
    refuse_body(method, fields)?;
    let (authority, path) = split(target)?;
    let host = field(fields, "host")?;
    if host.is_none() && version == 1 {
        return Err(Status::BAD_REQUEST);
    }
    let head = Head {
        method: method.into(),
        path: path.into(),
        host: authority.or(host).map(str::to_owned),
        format: preferred(fields),
        keep_alive: version == 1 && !has_token(fields, "connection", "close"),
    };
    Ok(Some((head, length)))
}

/// Whether some lines end with CR LF and others with LF alone. The one or the other is all right, but
/// of both, the next server may see the end of the head elsewhere.
fn has_two_endings(head: &[u8]) -> bool {
    let lines = || head.split_inclusive(|byte| *byte == b'\n');
    let is_long = |line: &[u8]| line.ends_with(b"\r\n");
    lines().any(is_long) && !lines().all(is_long)
}

/// Another version of HTTP, or no HTTP at all.
fn version_status(bytes: &[u8]) -> Status {
    let line = bytes.split(|byte| *byte == b'\n').next();
    let word = line.and_then(|line| line.rsplit(|byte| *byte == b' ').next());
    match word {
        Some(word) if word.starts_with(b"HTTP/") => Status::VERSION_NOT_SUPPORTED,
        _ => Status::BAD_REQUEST,
    }
}

/// Refuses GET and HEAD with a body: it is read by no rule, and what follows it would be taken for a
/// request. Other methods are refused anyway, and end the connection.
fn refuse_body(method: &str, fields: &[Header<'_>]) -> Result<(), Status> {
    if !matches!(method, "GET" | "HEAD") {
        return Ok(());
    }
    let length = field(fields, "content-length")?;
    let coding = field(fields, "transfer-encoding")?;
    match (length, coding) {
        (None | Some("0"), None) => Ok(()),
        _ => Err(Status::BAD_REQUEST),
    }
}

/// Splits the target of a request into the authority, which few have, and the path.
fn split(target: &str) -> Result<(Option<&str>, &str), Status> {
    if target == "*" {
        return Ok((None, target));
    }
    let (authority, rest) = match target.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => {
            let end = rest.find(['/', '?']).unwrap_or(rest.len());
            (Some(&rest[..end]), &rest[end..])
        }
        _ => (None, target),
    };
    let path = rest.split('?').next().unwrap_or_default();
    match (authority, path) {
        (Some(_), "") => Ok((authority, "/")),
        (_, path) if path.starts_with('/') && !path.contains('#') => Ok((authority, path)),
        _ => Err(Status::BAD_REQUEST),
    }
}

/// The value of a field that may be there once, as text.
fn field<'a>(fields: &[Header<'a>], name: &str) -> Result<Option<&'a str>, Status> {
    let mut values = values(fields, name);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => std::str::from_utf8(value)
            .map(|value| Some(value.trim()))
            .map_err(|_| Status::BAD_REQUEST),
        (Some(_), Some(_)) => Err(Status::BAD_REQUEST),
    }
}

fn values<'a>(fields: &[Header<'a>], name: &str) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value)
}

/// The elements of a field whose value is a list. What isn't text is no element.
fn elements<'a>(fields: &[Header<'a>], name: &str) -> impl Iterator<Item = &'a str> {
    values(fields, name)
        .filter_map(|value| std::str::from_utf8(value).ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn has_token(fields: &[Header<'_>], name: &str, token: &str) -> bool {
    elements(fields, name).any(|element| element.eq_ignore_ascii_case(token))
}

/// OpenMetrics for clients that name it and like it as much as text, text for all others.
fn preferred(fields: &[Header<'_>]) -> Format {
    let quality = |wanted: &str, version: &str| {
        elements(fields, "accept")
            .filter_map(|range| quality_of(range, wanted, version))
            .fold(0.0, f64::max)
    };
    let open = quality("application/openmetrics-text", "1.0.0");
    if open > 0.0 && open >= quality("text/plain", "0.0.4") {
        Format::OpenMetrics
    } else {
        Format::Prometheus
    }
}

/// The weight of a media range, if it is of this type and no other version of it.
fn quality_of(range: &str, wanted: &str, version: &str) -> Option<f64> {
    let mut parts = range.split(';').map(str::trim);
    if !parts.next()?.eq_ignore_ascii_case(wanted) {
        return None;
    }
    let mut quality = 1.0;
    for (name, value) in parts.filter_map(|part| part.split_once('=')) {
        match name.trim() {
            "q" => quality = value.trim().parse().ok()?,
            "version" if value.trim().trim_matches('"') != version => return None,
            _ => {}
        }
    }
    Some(quality)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str) -> Result<Head, Status> {
        let (head, length) = parse(text.as_bytes())?.expect("a whole head");
        assert_eq!(length, text.len());
        Ok(head)
    }

    /// A GET with these lines besides.
    fn get(target: &str, lines: &str) -> Result<Head, Status> {
        head(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
    }

    #[test]
    fn targets_have_a_path_and_maybe_an_authority() {
        for (target, path, host) in [
            ("/", "/", "a"),
            ("/metrics", "/metrics", "a"),
            ("/metrics?x=http://b/", "/metrics", "a"),
            ("http://b:80/metrics?x", "/metrics", "b:80"),
            ("HTTP://b", "/", "b"),
            ("http://b?x", "/", "b"),
            ("//b/metrics", "//b/metrics", "a"),
        ] {
            let head = get(target, "").unwrap();
            assert_eq!(
                (head.path.as_str(), head.host.as_deref()),
                (path, Some(host))
            );
        }
        for target in ["metrics", "ftp://b/", "/a#b", "?", "b:80"] {
            assert_eq!(get(target, ""), Err(Status::BAD_REQUEST), "{target}");
        }
    }

    #[test]
    fn strange_requests_are_bad() {
        for text in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: \u{e9}\r\nHo st: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n",
            "HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n\r\n",
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET /\r\n\r\n",
            "\u{16}\u{3}\u{1}\u{2}\r\n\r\n",
            "SSH-2.0-x\r\n\r\n",
        ] {
            assert_eq!(parse(text.as_bytes()), Err(Status::BAD_REQUEST), "{text}");
        }
        let typed = head("GET / HTTP/1.1\nHost: a\n\n");
        assert!(typed.is_ok(), "{typed:?}");
        let many = "A: b\r\n".repeat(MOST_FIELDS);
        assert_eq!(get("/", &many), Err(Status::HEAD_TOO_LARGE));
        for version in ["HTTP/2.0", "HTTP/0.9", "HTTP/1.2"] {
            let text = format!("GET / {version}\r\nHost: a\r\n\r\n");
            let status = parse(text.as_bytes());
            assert_eq!(status, Err(Status::VERSION_NOT_SUPPORTED), "{version}");
        }
    }

    #[test]
    fn a_head_in_pieces_is_not_complete() {
        let text = "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        for length in 0..text.len() {
            assert_eq!(parse(&text.as_bytes()[..length]), Ok(None), "{length}");
        }
        let more = format!("{text}GET");
        assert_eq!(parse(more.as_bytes()).unwrap().unwrap().1, text.len());
    }

    #[test]
    fn the_connection_is_kept_as_the_client_wants() {
        assert!(get("/", "").unwrap().keep_alive);
        assert!(!get("/", "Connection: x, Close\r\n").unwrap().keep_alive);
        let old = head("GET / HTTP/1.0\r\n\r\n").unwrap();
        assert_eq!((old.keep_alive, old.host), (false, None));
    }

    #[test]
    fn the_format_is_negotiated() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.75,\
             application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.25,*/*;q=0.1";
        for (accept, format) in [
            (prometheus, Format::OpenMetrics),
            ("application/openmetrics-text", Format::OpenMetrics),
            (
                "application/openmetrics-text; version=\"1.0.0\"",
                Format::OpenMetrics,
            ),
            (
                "application/openmetrics-text;version=0.0.1",
                Format::Prometheus,
            ),
            ("application/openmetrics-text;q=0", Format::Prometheus),
            (
                "application/openmetrics-text;q=0.5,text/plain",
                Format::Prometheus,
            ),
            ("text/html,*/*", Format::Prometheus),
            ("", Format::Prometheus),
            (";;=,,", Format::Prometheus),
        ] {
            let head = get("/", &format!("Accept: {accept}\r\n")).unwrap();
            assert_eq!(head.format, format, "{accept}");
        }
    }
}
