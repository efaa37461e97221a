//! Reading a request, and saying what is wrong with one.

use serde_json::{Map, Value};
use skd_control::{Failure, FailureKind, LONGEST_REQUEST, Request, RequestLine, VERSION};

/// A line that is no request: the number that its answer repeats, and what is wrong.
pub(super) type Refused = (u64, Failure);

/// Returns the failure of a request that isn't understood.
pub(super) fn bad(message: impl Into<String>) -> Failure {
    Failure {
        kind: FailureKind::BadRequest,
        message: message.into(),
    }
}

/// Returns the failure of a request that is too long.
pub(super) fn too_long() -> Failure {
    bad(format!(
        "a request has {LONGEST_REQUEST} bytes at most, and this one has no newline before"
    ))
}

/// Reads a line.
pub fn read(line: &[u8]) -> Result<RequestLine, Refused> {
    let refused = |id: u64| move |why: String| (id, bad(why));
    let value = serde_json::from_slice(line)
        .map_err(|why| refused(0)(format!("this is no JSON: {why}")))?;
    let Value::Object(fields) = value else {
        return Err(refused(0)(
            "a request is an object: {\"version\":1,\"id\":1,\"request\":\"status\"}".into(),
        ));
    };
    let id = match fields.get("id") {
        None => 0,
        Some(id) => id
            .as_u64()
            .ok_or_else(|| refused(0)(format!("id is a number from 0 to {}", u64::MAX)))?,
    };
    check_version(&fields).map_err(refused(id))?;
    let request = request(fields).map_err(refused(id))?;
    Ok(RequestLine {
        version: VERSION,
        id,
        request,
    })
}

fn check_version(fields: &Map<String, Value>) -> Result<(), String> {
    match fields.get("version").map(Value::as_u64) {
        None => Err(format!(
            "version is missing: this skd speaks version {VERSION}"
        )),
        Some(Some(version)) if version == u64::from(VERSION) => Ok(()),
        Some(Some(version)) => Err(format!(
            "the request has version {version}, and this skd speaks version {VERSION}"
        )),
        Some(None) => Err("version is a number".into()),
    }
}

fn request(fields: Map<String, Value>) -> Result<Request, String> {
    match fields.get("request") {
        None => {
            return Err("request is missing: it says what is asked for, as in \"status\"".into());
        }
        Some(Value::String(_)) => {}
        Some(_) => return Err("request is a string, as in \"status\"".into()),
    }
    let read = |fields: &Map<String, Value>| {
        serde_json::from_value::<Request>(Value::Object(fields.clone()))
    };
    read(&fields).map_err(|why| {
        let why = why.to_string();
        match culprit(&fields, &why, |fields| read(fields).err()) {
            Some(field) => format!("{field}: {why}"),
            None => why,
        }
    })
}

/// The maximum number of fields of a request among which that is looked for which is wrong.
const MOST_FIELDS: usize = 16;

/// Returns the field that a fault is about, which the reader of a tagged object doesn't name: without
/// it the fault is another one, or none.
fn culprit(
    fields: &Map<String, Value>,
    fault: &str,
    fault_of: impl Fn(&Map<String, Value>) -> Option<serde_json::Error>,
) -> Option<String> {
    if fields.len() > MOST_FIELDS {
        return None;
    }
    let names = fields.keys().filter(|name| *name != "request");
    let found = names.into_iter().find(|name| {
        let mut others = Map::new();
        for (field, value) in fields.iter().filter(|(field, _)| field != name) {
            others.insert(field.clone(), value.clone());
        }
        let other = fault_of(&others).map(|why| why.to_string());
        other.as_deref() != Some(fault)
    });
    found.cloned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use skd_control::{EventFilter, HandlerQuery};

    use super::*;

    fn refusal(line: &str) -> (u64, String) {
        let (id, failure) = read(line.as_bytes()).unwrap_err();
        assert_eq!(failure.kind, FailureKind::BadRequest);
        (id, failure.message)
    }

    #[test]
    fn requests_are_read() {
        let line = br#"{"version":1,"id":7,"request":"drain","service":"web","timeout_seconds":2}"#;
        let read_line = read(line).unwrap();
        assert_eq!(read_line.id, 7);
        let drain = Request::Drain {
            services: vec!["web".into()],
            timeout_seconds: Some(2.0),
            announce_seconds: None,
        };
        assert_eq!(read_line.request, drain);
        for (line, request) in [
            (
                r#"{"version":1,"request":"status"}"#,
                Request::Status { services: vec![] },
            ),
            (
                r#"{"version":1,"request":"handlers","of":"later"}"#,
                Request::Handlers(HandlerQuery::default()),
            ),
            (
                r#"{"version":1,"request":"events"}"#,
                Request::Events(EventFilter::default()),
            ),
            (
                r#"{"version":1,"request":"drain","services":["web","mail"],"announce_seconds":5}"#,
                Request::Drain {
                    services: vec!["web".into(), "mail".into()],
                    timeout_seconds: None,
                    announce_seconds: Some(5.0),
                },
            ),
        ] {
            assert_eq!(read(line.as_bytes()).unwrap().request, request);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (line, id, words) in [
            ("", 0, "this is no JSON: EOF"),
            ("{", 0, "this is no JSON"),
            ("[1]", 0, "a request is an object"),
            (r#"{"id":3}"#, 3, "version is missing"),
            (r#"{"id":-3}"#, 0, "id is a number"),
            (r#"{"id":"3"}"#, 0, "id is a number"),
            (
                r#"{"id":3,"version":2,"request":"status"}"#,
                3,
                "has version 2",
            ),
            (r#"{"id":3,"version":"1"}"#, 3, "version is a number"),
            (r#"{"id":3,"version":1}"#, 3, "request is missing"),
            (
                r#"{"id":3,"version":1,"request":1}"#,
                3,
                "request is a string",
            ),
            (
                r#"{"version":1,"request":"halt"}"#,
                0,
                "unknown variant `halt`",
            ),
            (
                r#"{"version":1,"request":"drain"}"#,
                0,
                "missing field `services`",
            ),
            (
                r#"{"version":1,"request":"drain","service":7}"#,
                0,
                "expected a string, or a list of strings that isn't empty",
            ),
            (
                r#"{"version":1,"request":"drain","service":"a","timeout_seconds":"x"}"#,
                0,
                "timeout_seconds: invalid type: string \"x\", expected f64",
            ),
            (
                r#"{"version":1,"request":"handlers","order":"size"}"#,
                0,
                "order: unknown variant `size`",
            ),
            (
                r#"{"version":1,"request":"handlers","limit":-1}"#,
                0,
                "limit: invalid value",
            ),
        ] {
            let (found, message) = refusal(line);
            assert!(message.contains(words), "{line}: {message}");
            assert_eq!(found, id, "{line}");
        }
    }

    #[test]
    fn deep_nesting_is_refused() {
        let line = "[".repeat(LONGEST_REQUEST);
        assert!(refusal(&line).1.contains("recursion limit"));
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in prop::collection::vec(any::<u8>(), 0..300)) {
            if let Err((_, failure)) = read(&line) {
                prop_assert!(!failure.message.is_empty());
            }
        }
    }
}
