//! Requests of the control socket: a line is read, or refused with words that fit into an answer.

#![no_main]

use libfuzzer_sys::fuzz_target;
use skd::serve::read_request;

fuzz_target!(|line: &[u8]| match read_request(line) {
    Ok(request) => assert_eq!(request.version, 1),
    Err((_, failure)) => {
        assert!(!failure.message.is_empty());
        // A reason may quote the request.
        assert!(
            failure.message.len() <= 2 * line.len() + 500,
            "{}",
            failure.message
        );
    }
});
