//! The kernel's answers about sockets (sock_diag(7)).

#![no_main]

use libfuzzer_sys::fuzz_target;
use skd::sys::diagnosis::{Told, answers};

fuzz_target!(|part: &[u8]| {
    let question = part.get(8..12).and_then(|bytes| bytes.try_into().ok());
    let question = question.map_or(1, u32::from_ne_bytes);
    let mut total = 0;
    let _ = answers(part, question, |answer| {
        total += answer.len();
        let told = Told::read(answer);
        assert!(told.name.is_none_or(|name| name.len() <= answer.len()));
    });
    // Each byte belongs to one answer at most.
    assert!(total <= part.len());
});
