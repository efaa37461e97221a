//! What skd and skd-tls say to each other in packets: a connection that is passed, and the JSON of commands,
//! reports and settings.

#![no_main]

use std::fmt::Debug;

use libfuzzer_sys::fuzz_target;
use serde::Serialize;
use serde::de::DeserializeOwned;
use skd_tls_protocol::{Command, MAX_REQUEST, MAX_TOKEN, Report, Request, Settings};

fuzz_target!(|data: &[u8]| {
    let Some((kind, packet)) = data.split_first() else {
        return;
    };
    match kind % 4 {
        0 => request(packet),
        1 => json::<Command>(packet),
        2 => json::<Report>(packet),
        _ => json::<Settings>(packet),
    }
});

/// Asserts that a packet is exactly what is written for the request that was read from it.
fn request(packet: &[u8]) {
    let Ok(request) = Request::read(packet) else {
        return;
    };
    assert!(request.token.len() <= MAX_TOKEN);
    let mut buffer = [0; MAX_REQUEST];
    let length = request.write(&mut buffer).expect("it was short enough");
    assert_eq!(&buffer[..length], packet);
}

/// Asserts that what was read is the same when it is written and read again.
fn json<T: Serialize + DeserializeOwned + PartialEq + Debug>(packet: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(packet) else {
        return;
    };
    let written = serde_json::to_vec(&value).expect("all of it can be written");
    assert_eq!(serde_json::from_slice::<T>(&written).ok(), Some(value));
}
