//! A client on one end of a socket, the server on the other, and answers in the name of skd.

use super::*;
use crate::metrics;
use crate::show::example;
use skd_control::{Answer, Failure, FailureKind, Request, SourceStatus, Sources};
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::thread::{self, JoinHandle};

/// What tests wait for at most.
const DEADLINE: Duration = Duration::from_secs(30);

/// A connection to the server.
struct Browser {
    stream: UnixStream,
    server: JoinHandle<io::Result<()>>,
}

/// What skd answers.
fn skd(request: Request) -> Result<Answer, Error> {
    Ok(match request {
        Request::Status { .. } => Answer::Status(Box::new(example::status())),
        Request::Sources(query) => Answer::Sources(Sources {
            total: query.limit.unwrap_or(100) as u64,
            sources: vec![SourceStatus {
                source: "<192.0.2.7>".into(),
                ..SourceStatus::default()
            }],
        }),
        other => panic!("{other:?}"),
    })
}

fn draining(request: Request) -> Result<Answer, Error> {
    let mut answer = skd(request);
    if let Ok(Answer::Status(status)) = &mut answer {
        status.draining = true;
    }
    answer
}

fn broken(_: Request) -> Result<Answer, Error> {
    Err(Error::Ended)
}

impl Browser {
    fn new(limits: Limits, answer: fn(Request) -> Result<Answer, Error>) -> Self {
        let (stream, other) = UnixStream::pair().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let server = thread::spawn(move || {
            let mut connection = Connection::new(other.as_fd(), other.as_fd());
            let mut answer = answer;
            serve(&mut connection, &mut answer, &Hosts::new(&[]), &limits)
        });
        Self { stream, server }
    }

    fn send(&mut self, text: &str) {
        // The server may have had enough.
        let _ = self.stream.write_all(text.as_bytes());
    }

    /// Reads one response: its head and its body.
    fn response(&mut self) -> (String, String) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            let got = self.stream.read(&mut byte).unwrap();
            assert_eq!(got, 1, "{}", String::from_utf8_lossy(&head));
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut body = vec![0; value(&head, "Content-Length").parse().unwrap()];
        self.stream.read_exact(&mut body).unwrap();
        (head, String::from_utf8(body).unwrap())
    }

    /// Reads to the end, and sees that the server has ended well.
    fn rest(mut self) -> String {
        let mut rest = String::new();
        self.stream.read_to_string(&mut rest).unwrap();
        drop(self.stream);
        self.server.join().unwrap().unwrap();
        rest
    }
}

/// The value of a field that is there once.
fn value<'a>(head: &'a str, name: &str) -> &'a str {
    let start = format!("{name}: ");
    let mut values = head.lines().filter_map(|line| line.strip_prefix(&start));
    let value = values.next().unwrap_or_else(|| panic!("no {name}: {head}"));
    assert_eq!(values.next(), None, "{head}");
    value
}

/// The response to one request, after which the client closes its side.
fn answered(text: &str, answer: fn(Request) -> Result<Answer, Error>) -> (String, String) {
    let mut browser = Browser::new(LIMITS, answer);
    browser.send(text);
    browser.stream.shutdown(Shutdown::Write).unwrap();
    let rest = browser.rest();
    let (head, body) = rest.split_once("\r\n\r\n").expect(&rest);
    (head.to_owned(), body.to_owned())
}

fn get(path: &str) -> (String, String) {
    answered(&request(path), skd)
}

fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost:9117\r\n\r\n")
}

#[track_caller]
fn assert_status(head: &str, status: &str) {
    let line = head.lines().next().unwrap_or_default();
    assert_eq!(line.strip_prefix("HTTP/1.1 "), Some(status), "{head}");
}

#[test]
fn each_path_has_its_resource() {
    let html = "text/html; charset=utf-8";
    for (path, media_type, start) in [
        ("/", html, "<!DOCTYPE html>\n"),
        ("/live?x=1", html, "<header "),
        (
            "/metrics",
            "text/plain; version=0.0.4; charset=utf-8",
            "# TYPE skd_build_info gauge\n",
        ),
        ("/status.json", "application/json", "{\"skd\":\"2.1.0\","),
        ("/sources.json", "application/json", "{\"total\":100,"),
        ("/healthz", "text/plain; charset=utf-8", "ok\n"),
    ] {
        let (head, body) = get(path);
        assert_status(&head, "200 OK");
        assert_eq!(value(&head, "Content-Type"), media_type);
        assert_eq!(value(&head, "Content-Length"), body.len().to_string());
        assert_eq!(value(&head, "Cache-Control"), "no-store");
        assert_eq!(value(&head, "X-Content-Type-Options"), "nosniff");
        assert_eq!(value(&head, "Referrer-Policy"), "no-referrer");
        let policy = value(&head, "Content-Security-Policy");
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert_eq!(policy.contains("script-src"), path == "/", "{policy}");
        assert!(body.starts_with(start), "{body}");
        // HEAD says the same but for the body.
        let (same, none) = answered(&request(path).replace("GET", "HEAD"), skd);
        let without_date = |head: &str| head.replace(value(head, "Date"), "");
        assert_eq!(
            (without_date(&same), none),
            (without_date(&head), String::new())
        );
    }
    let (head, body) = get("/metrics/");
    assert_status(&head, "404 Not Found");
    assert!(body.contains("/healthz"), "{body}");
}

#[test]
fn metrics_come_as_the_client_prefers() {
    let text = request("/metrics").replace(
        "\r\n\r\n",
        "\r\nAccept: application/openmetrics-text; version=1.0.0,text/plain;q=0.5\r\n\r\n",
    );
    let (head, body) = answered(&text, skd);
    assert_eq!(
        value(&head, "Content-Type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert_eq!(
        body,
        metrics::text(&example::status(), metrics::Format::OpenMetrics)
    );
}

#[test]
fn the_json_is_that_of_the_protocol() {
    let (_, body) = get("/status.json");
    let status: skd_control::Status = serde_json::from_str(&body).unwrap();
    assert_eq!(status, example::status());
}

#[test]
fn requests_that_are_refused_have_their_status_and_the_end() {
    let long = format!(
        "GET /{} HTTP/1.1\r\nHost: a\r\n\r\n",
        "x".repeat(LONGEST_HEAD)
    );
    let endless = "x".repeat(2 * LONGEST_HEAD);
    for (text, status) in [
        ("GET / HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("GET / HTTP/1.1\r\nHo", "400 Bad Request"),
        ("\u{16}\u{3}\u{1}\u{0}", "400 Bad Request"),
        ("SSH-2.0-OpenSSH\r\n", "400 Bad Request"),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde",
            "400 Bad Request",
        ),
        (
            "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            "421 Misdirected Request",
        ),
        (
            "GET http://evil.example/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "421 Misdirected Request",
        ),
        (
            "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nabcde",
            "405 Method Not Allowed",
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
            "405 Method Not Allowed",
        ),
        (
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "505 HTTP Version Not Supported",
        ),
        (&long, "431 Request Header Fields Too Large"),
        (&endless, "431 Request Header Fields Too Large"),
    ] {
        // What follows is no request any more.
        let (head, _) = answered(&format!("{text}{}", request("/status.json")), skd);
        let whole = !text.ends_with("Ho") && !text.starts_with('\u{16}');
        if whole {
            assert_status(&head, status);
        }
        assert_eq!(value(&head, "Connection"), "close");
        let (head, _) = answered(text, skd);
        assert_status(&head, status);
        let allow = head.contains("\r\nAllow: GET, HEAD\r\n");
        assert_eq!(allow, status.starts_with("405"), "{head}");
    }
}

#[test]
fn a_connection_carries_requests_one_after_the_other() {
    let mut browser = Browser::new(LIMITS, skd);
    for _ in 0..3 {
        browser.send(&request("/healthz"));
        assert_eq!(browser.response().1, "ok\n");
    }
    // Two at once, and the last one in pieces.
    browser.send(&request("/healthz").repeat(2));
    for piece in request("/status.json").split_inclusive('\n') {
        browser.send(piece);
    }
    let (head, body) = (browser.response(), browser.response());
    assert_eq!((head.1.as_str(), body.1.as_str()), ("ok\n", "ok\n"));
    assert!(browser.response().1.starts_with('{'));
    browser.send("GET /nothing HTTP/1.1\r\nHost: [::1]\r\n\r\n");
    let (head, _) = browser.response();
    assert_status(&head, "404 Not Found");
    assert!(!head.contains("Connection"), "{head}");
    browser.send("GET /healthz HTTP/1.1\r\nHost: [::1]\r\nConnection: close\r\n\r\n");
    assert_eq!(value(&browser.response().0, "Connection"), "close");
    assert_eq!(browser.rest(), "");
}

#[test]
fn old_clients_are_answered_once() {
    let mut browser = Browser::new(LIMITS, skd);
    browser.send("GET /healthz HTTP/1.0\r\n\r\n");
    let (head, body) = browser.response();
    assert_status(&head, "200 OK");
    assert_eq!(
        (value(&head, "Connection"), body.as_str()),
        ("close", "ok\n")
    );
    assert_eq!(browser.rest(), "");
}

#[test]
fn a_connection_carries_no_more_requests_than_it_may() {
    let limits = Limits {
        requests: 2,
        ..LIMITS
    };
    let mut browser = Browser::new(limits, skd);
    browser.send(&request("/healthz").repeat(3));
    assert!(!browser.response().0.contains("Connection"));
    assert_eq!(value(&browser.response().0, "Connection"), "close");
    assert_eq!(browser.rest(), "");
}

#[test]
fn a_slow_request_is_timed_out() {
    let limits = Limits {
        head: Duration::from_millis(50),
        ..LIMITS
    };
    for start in ["", "GET / HTTP/1.1\r\n"] {
        let mut browser = Browser::new(limits, skd);
        browser.send(start);
        let (head, _) = browser.response();
        assert_status(&head, "408 Request Timeout");
        assert_eq!(browser.rest(), "");
    }
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let limits = Limits {
        idle: Duration::from_millis(50),
        ..LIMITS
    };
    let mut browser = Browser::new(limits, skd);
    browser.send(&request("/healthz"));
    assert_eq!(browser.response().1, "ok\n");
    assert_eq!(browser.rest(), "");
}

#[test]
fn a_client_that_never_reads_is_given_up() {
    let limits = Limits {
        response: Duration::from_millis(50),
        ..LIMITS
    };
    let mut browser = Browser::new(limits, skd);
    // Until all buffers are full.
    for _ in 0..200 {
        browser.send(&request("/"));
    }
    let ended = Instant::now() + DEADLINE;
    while !browser.server.is_finished() {
        assert!(Instant::now() < ended);
        thread::sleep(Duration::from_millis(2));
    }
    browser.server.join().unwrap().unwrap();
}

#[test]
fn a_client_that_goes_away_is_no_error() {
    for text in ["", "GET / HT"] {
        let mut browser = Browser::new(LIMITS, skd);
        browser.send(text);
        drop(browser.stream);
        browser.server.join().unwrap().unwrap();
    }
}

#[test]
fn a_client_that_keeps_its_side_open_is_waited_for_no_longer_than_that() {
    let limits = Limits {
        close: Duration::from_millis(50),
        ..LIMITS
    };
    let mut browser = Browser::new(limits, skd);
    browser.send("nothing\r\n");
    assert_status(&browser.response().0, "400 Bad Request");
    browser.server.join().unwrap().unwrap();
}

#[test]
fn a_draining_skd_is_not_healthy_and_keeps_no_connection() {
    let (head, body) = answered(&request("/healthz"), draining);
    assert_status(&head, "503 Service Unavailable");
    assert!(body.starts_with("skd drains: "), "{body}");
    let (head, _) = answered(&request("/metrics"), draining);
    assert_status(&head, "200 OK");
    assert_eq!(value(&head, "Connection"), "close");
}

#[test]
fn the_health_of_a_service_is_asked_for_by_its_name() {
    use skd_control::ServiceState;
    fn of(state: ServiceState, request: Request) -> Result<Answer, Error> {
        let Request::Status { services } = request else {
            panic!("{request:?}");
        };
        if services != ["a b/\u{e9}"] {
            return Err(Error::Failure(Failure {
                kind: FailureKind::NotFound,
                message: format!("there is no service {services:?}"),
            }));
        }
        let mut status = example::status();
        status.services.truncate(1);
        status.services[0].state = state;
        Ok(Answer::Status(Box::new(status)))
    }
    let serving = |request| of(ServiceState::Serving, request);
    let lame_duck = |request| of(ServiceState::LameDuck, request);
    let path = request("/healthz/a%20b%2F%c3%A9");
    let (head, body) = answered(&path, serving);
    assert_status(&head, "200 OK");
    assert_eq!(body, "ok\n");
    let (head, body) = answered(&path, lame_duck);
    assert_status(&head, "503 Service Unavailable");
    assert_eq!(body, "lame-duck\n");
    let (head, body) = answered(&request("/healthz/a"), serving);
    assert_status(&head, "404 Not Found");
    assert_eq!(body, "there is no service [\"a\"]\n");
    for wrong in [
        "/healthz/%2",
        "/healthz/%zz",
        "/healthz/%+1",
        "/healthz/%ff",
        "/healthzz",
    ] {
        let (head, body) = answered(&request(wrong), serving);
        assert_status(&head, "404 Not Found");
        assert!(body.starts_with("There are "), "{wrong}: {body}");
    }
    let (head, body) = answered(&request("/healthz/web"), draining);
    assert_status(&head, "503 Service Unavailable");
    assert!(body.starts_with("skd drains: "), "{body}");
}

#[test]
fn without_skd_nothing_is_available() {
    for path in [
        "/",
        "/live",
        "/metrics",
        "/status.json",
        "/sources.json",
        "/healthz",
        "/healthz/web",
    ] {
        let (head, body) = answered(&request(path), broken);
        assert_status(&head, "503 Service Unavailable");
        assert_eq!(value(&head, "Connection"), "close");
        assert_eq!(
            body,
            "skd closed the connection before its answer was complete\n"
        );
    }
    let (head, _) = answered(&request("/nothing"), broken);
    assert_status(&head, "404 Not Found");
}

#[test]
fn what_skd_refuses_is_said() {
    fn refused(_: Request) -> Result<Answer, Error> {
        Err(Error::Failure(Failure {
            kind: FailureKind::Busy,
            message: "64 clients are here already".into(),
        }))
    }
    let (head, body) = answered(&request("/"), refused);
    assert_status(&head, "503 Service Unavailable");
    assert_eq!(body, "64 clients are here already\n");
}
