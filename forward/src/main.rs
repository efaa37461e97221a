//! `skd-forward` connects its standard input and output to another TCP, UDP or unix address. skd runs
//! it as a handler, one process for each connection.
//!
//! | file | what it does |
//! | --- | --- |
//! | `sys` | the entry of the program, and all `unsafe` lines |
//! | `options` | the command line |
//! | `end` | a socket or file between which bytes move: the client, or the target |
//! | `connect` | connects to the first address that answers |
//! | `proxy_header` | the PROXY header for the target |
//! | `flow` | one direction: reads, holds, writes |
//! | `relay` | both directions, until both are over |
//!
//! What comes before the first call on the client is harmless in the sense of skd's prestarted
//! handlers: with `--fork-server` and `--warm` the program waits there. Names are resolved after that,
//! by each handler for itself.

#![cfg_attr(not(test), no_main)]
// Unit tests have an entry of their own.
#![cfg_attr(test, allow(dead_code))]

mod connect;
mod end;
mod flow;
mod options;
mod proxy_header;
mod relay;
mod sys;

use std::ffi::OsString;
use std::io::Write;

use crate::end::Client;
use crate::options::{Command, Options};

/// The exit status: everything was forwarded, or one side has reset its connection.
const DONE: i32 = 0;
/// The exit status: no address could be connected to, or forwarding failed.
const FAILED: i32 = 1;
/// The exit status: the command line is wrong.
const WRONG: i32 = 2;

/// Runs the program with the words of its command line, and returns its exit status.
fn run(words: impl Iterator<Item = OsString>) -> i32 {
    match options::read(words) {
        Ok(Command::Forward(options)) => match forward(&options) {
            Ok(()) => DONE,
            Err(text) => {
                complain(&text);
                FAILED
            }
        },
        Ok(Command::Print(text)) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => DONE,
            Err(_) => FAILED,
        },
        Err(text) => {
            complain(&format!("{text}\nTry 'skd-forward --help'."));
            WRONG
        }
    }
}

fn forward(options: &Options) -> Result<(), String> {
    sys::ignore_sigpipe();
    let client = Client::find()?;
    let target = connect::first(options, client.kind)?;
    let header = match options.send_proxy {
        Some(version) => proxy_header::header(version, target.kind)?,
        None => Vec::new(),
    };
    relay::run(&client, &target, &header, options.connect_timeout)
}

/// Writes to standard error, each line in one piece.
fn complain(text: &str) {
    let text: String = text.lines().fold(String::new(), |mut all, line| {
        if all.is_empty() || !line.starts_with("Try ") {
            all.push_str("skd-forward: ");
        }
        all.push_str(line);
        all.push('\n');
        all
    });
    // Where standard error is closed there is nobody to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
