//! The entry of skdctl. Everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    skdctl::run()
}
