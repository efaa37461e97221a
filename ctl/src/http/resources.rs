//! What is at each path.

use skd_control::{Answer, FailureKind, Request, ServiceState, SourceQuery, Sources, Status};

use super::hosts::Hosts;
use super::page;
use super::request::Head;
use super::response::{self, Response};
use crate::client::unexpected;
use crate::error::Error;
use crate::{metrics, show};

/// Asks skd.
pub(super) type Ask<'a> = dyn FnMut(Request) -> Result<Answer, Error> + 'a;

/// How many sources the page shows.
const SOURCES_OF_PAGE: usize = 12;

/// Answers a request.
pub(super) fn answer(head: &Head, ask: &mut Ask<'_>, hosts: &Hosts) -> Response {
    if !head.is_allowed() {
        return Response::refusal(response::Status::METHOD_NOT_ALLOWED);
    }
    if head.host.as_ref().is_some_and(|host| !hosts.have(host)) {
        return Response::refusal(response::Status::MISDIRECTED);
    }
    let result = match head.path.as_str() {
        "/" => whole_page(ask),
        "/live" => live_page(ask),
        "/metrics" => metrics(ask, head.format),
        "/status.json" => status_json(ask),
        "/sources.json" => sources_json(ask),
        "/healthz" => health(ask),
        path if path.starts_with("/healthz/") => service_health(path, ask),
        _ => Ok(Response::refusal(response::Status::NOT_FOUND)),
    };
    result.unwrap_or_else(|error| Response::unavailable(&error.to_string()))
}

fn whole_page(ask: &mut Ask<'_>) -> Result<Response, Error> {
    let (status, sources) = (status(ask)?, sources(ask, Some(SOURCES_OF_PAGE))?);
    let page = page::whole(&status, &sources);
    let response = Response::ok("text/html; charset=utf-8", page).with_policy(page::POLICY);
    Ok(response.closing(status.draining))
}

fn live_page(ask: &mut Ask<'_>) -> Result<Response, Error> {
    let (status, sources) = (status(ask)?, sources(ask, Some(SOURCES_OF_PAGE))?);
    let page = page::live(&status, &sources);
    Ok(Response::ok("text/html; charset=utf-8", page).closing(status.draining))
}

fn metrics(ask: &mut Ask<'_>, format: metrics::Format) -> Result<Response, Error> {
    let status = status(ask)?;
    let response = Response::ok(format.media_type(), metrics::text(&status, format));
    Ok(response.closing(status.draining))
}

fn status_json(ask: &mut Ask<'_>) -> Result<Response, Error> {
    let status = status(ask)?;
    Ok(json(&status)?.closing(status.draining))
}

fn sources_json(ask: &mut Ask<'_>) -> Result<Response, Error> {
    json(&sources(ask, None)?)
}

fn json(value: &impl serde::Serialize) -> Result<Response, Error> {
    let text = serde_json::to_string(value)
        .map_err(|error| Error::Local(format!("the answer can't be written: {error}")))?;
    Ok(Response::ok("application/json", text + "\n"))
}

/// Whether a load balancer may send clients here: not to an skd that is about to end.
fn health(ask: &mut Ask<'_>) -> Result<Response, Error> {
    let status = status(ask)?;
    Ok(match status.draining {
        true => draining(),
        false => healthy(),
    })
}

fn draining() -> Response {
    Response::unavailable("skd drains: it takes no new clients, and ends with its last handler")
}

fn healthy() -> Response {
    Response::ok("text/plain; charset=utf-8", "ok\n")
}

/// Whether a load balancer may send clients to the service that the path names: it serves, and has announced no drain.
fn service_health(path: &str, ask: &mut Ask<'_>) -> Result<Response, Error> {
    let name = path.strip_prefix("/healthz/").and_then(percent_decoded);
    let Some(name) = name else {
        return Ok(Response::refusal(response::Status::NOT_FOUND));
    };
    let status = match status_of(ask, vec![name]) {
        Err(Error::Failure(failure)) if failure.kind == FailureKind::NotFound => {
            return Ok(Response::missing(&failure.message));
        }
        status => status?,
    };
    let states = || status.services.iter().map(|service| service.state);
    Ok(
        match states().find(|state| *state != ServiceState::Serving) {
            _ if status.draining => draining(),
            Some(state) => Response::unavailable(show::state(state)),
            None => healthy(),
        },
    )
}

/// Returns a part of a path without percent-encoding (RFC 3986, 2.1), if it is right and UTF-8.
fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut pieces = text.split('%');
    bytes.extend(pieces.next()?.bytes());
    for piece in pieces {
        let digits = piece.get(..2)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        bytes.extend(piece[2..].bytes());
    }
    String::from_utf8(bytes).ok()
}

fn status(ask: &mut Ask<'_>) -> Result<Status, Error> {
    status_of(ask, vec![])
}

fn status_of(ask: &mut Ask<'_>, services: Vec<String>) -> Result<Status, Error> {
    match ask(Request::Status { services })? {
        Answer::Status(status) => Ok(*status),
        other => Err(unexpected(&other)),
    }
}

fn sources(ask: &mut Ask<'_>, limit: Option<usize>) -> Result<Sources, Error> {
    let query = SourceQuery {
        service: None,
        limit,
    };
    match ask(Request::Sources(query))? {
        Answer::Sources(sources) => Ok(sources),
        other => Err(unexpected(&other)),
    }
}
