//! `skdctl` asks a running skd how it is, and tells it what to do. It speaks to the unix socket that
//! `skd --control` serves; the types of that protocol are in the package skd-control.
//!
//! | module | what it does |
//! | --- | --- |
//! | `cli` | the command line |
//! | `agent_check` | answers to haproxy's agent checks, as a handler of skd |
//! | `client` | a connection to skd: requests, answers, events |
//! | `commands` | what each subcommand asks and prints |
//! | `duration` | the syntax of durations |
//! | `error` | why skdctl fails, in words and as an exit status |
//! | `output` | standard output and standard error |
//! | `text` | tables, sizes, durations, and strings that are safe for a terminal |
//! | `show` | answers as text |
//! | `top` | the live view |
//! | `http` | a status page and metrics, as a handler of skd |
//! | `metrics` | the counters in the OpenMetrics format |

mod agent_check;
pub mod cli;
mod client;
mod commands;
mod error;
mod http;
mod metrics;
mod output;
mod show;
mod text;
mod top;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::error::Status;

/// Runs skdctl with the words of its command line, and returns its exit status.
pub fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error),
    };
    match commands::run(&cli) {
        Ok(()) => Status::Done.into(),
        Err(error) => {
            output::complain(&error);
            error.status().into()
        }
    }
}
