//! Responses.

use std::borrow::Cow;
use std::fmt::Write;
use std::time::SystemTime;

use httpdate::fmt_http_date;

/// What all but the page may load and run in a browser: nothing.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";

/// A status with its phrase, and what to do for clients that are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status {
    code: u16,
    phrase: &'static str,
    advice: &'static str,
}

impl Status {
    /// It is as the client wants.
    pub(super) const OK: Self = Self::new(200, "OK", "");
    /// The request isn't understood.
    pub(super) const BAD_REQUEST: Self = Self::new(
        400,
        "Bad Request",
        "This is no request of HTTP that is answered here.",
    );
    /// There is nothing at this path.
    pub(super) const NOT_FOUND: Self = Self::new(
        404,
        "Not Found",
        "There are /, /metrics, /status.json, /sources.json, /healthz and /healthz/SERVICE.",
    );
    /// Another method than GET and HEAD.
    pub(super) const METHOD_NOT_ALLOWED: Self =
        Self::new(405, "Method Not Allowed", "There is GET and HEAD alone.");
    /// The head of the request was not complete in time.
    pub(super) const TIMEOUT: Self =
        Self::new(408, "Request Timeout", "The request took too long.");
    /// A client knows this server by a name that it doesn't have.
    pub(super) const MISDIRECTED: Self = Self::new(
        421,
        "Misdirected Request",
        "This server doesn't go by that name: ask by its address, or start skdctl http with --host NAME.",
    );
    /// The head of the request is too large.
    pub(super) const HEAD_TOO_LARGE: Self = Self::new(
        431,
        "Request Header Fields Too Large",
        "A request has 8192 bytes and 64 fields at most.",
    );
    /// skd doesn't answer, or takes no new clients.
    pub(super) const UNAVAILABLE: Self = Self::new(503, "Service Unavailable", "");
    /// HTTP, but neither 1.0 nor 1.1.
    pub(super) const VERSION_NOT_SUPPORTED: Self = Self::new(
        505,
        "HTTP Version Not Supported",
        "There is HTTP/1.0 and HTTP/1.1 alone.",
    );

    const fn new(code: u16, phrase: &'static str, advice: &'static str) -> Self {
        Self {
            code,
            phrase,
            advice,
        }
    }
}

/// A response.
#[derive(Clone, Debug)]
pub(super) struct Response {
    status: Status,
    media_type: &'static str,
    policy: &'static str,
    body: Cow<'static, str>,
    closes: bool,
}

impl Response {
    /// Returns a response to a request that is as it should be.
    pub(super) fn ok(media_type: &'static str, body: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status: Status::OK,
            media_type,
            policy: NOTHING,
            body: body.into(),
            closes: false,
        }
    }

    /// Returns a response that says why there is no other.
    pub(super) fn refusal(status: Status) -> Self {
        Self::with_reason(status, status.advice)
    }

    /// Returns a response that says why skd can't serve. The client may come to another server.
    pub(super) fn unavailable(reason: &str) -> Self {
        Self::with_reason(Status::UNAVAILABLE, reason)
    }

    /// Returns a response that says what there isn't.
    pub(super) fn missing(reason: &str) -> Self {
        Self::with_reason(Status::NOT_FOUND, reason)
    }

    fn with_reason(status: Status, reason: &str) -> Self {
        Self {
            status,
            body: format!("{}\n", reason).into(),
            closes: status != Status::NOT_FOUND,
            ..Self::ok("text/plain; charset=utf-8", "")
        }
    }

    /// Sets what the body may load and run in a browser (Content-Security-Policy).
    pub(super) fn with_policy(mut self, policy: &'static str) -> Self {
        self.policy = policy;
        self
    }

    /// Ends the connection after this.
    pub(super) fn closing(mut self, closes: bool) -> Self {
        self.closes |= closes;
        self
    }

    /// Returns whether the connection ends after this.
    pub(super) fn closes(&self) -> bool {
        self.closes
    }

    /// Returns the bytes for the client.
    pub(super) fn bytes(&self, sends_body: bool, keep_alive: bool) -> Vec<u8> {
        let Status { code, phrase, .. } = self.status;
        let mut text = format!("HTTP/1.1 {code} {phrase}\r\n");
        let mut field = |name: &str, value: &str| {
            // Writing to a string doesn't fail.
            let _ = write!(text, "{name}: {value}\r\n");
        };
        field("Date", &fmt_http_date(SystemTime::now()));
        field("Content-Type", self.media_type);
        field("Content-Length", &self.body.len().to_string());
        field("Cache-Control", "no-store");
        field("Content-Security-Policy", self.policy);
        field("Cross-Origin-Resource-Policy", "same-origin");
        field("Referrer-Policy", "no-referrer");
        field("X-Content-Type-Options", "nosniff");
        if self.status == Status::METHOD_NOT_ALLOWED {
            field("Allow", "GET, HEAD");
        }
        if !keep_alive {
            field("Connection", "close");
        }
        text.push_str("\r\n");
        if sends_body {
            text.push_str(&self.body);
        }
        text.into_bytes()
    }
}
