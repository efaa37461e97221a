//! What skd-tls is started for.

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use crate::client::{self, End, options};
use crate::serve::{self, Purpose};

/// The exit status: no address could be connected to, or this machine can't do what it was asked for.
const FAILED: u8 = 1;
/// The exit status: the command line is wrong.
const WRONG: u8 = 2;
/// The exit status: there was no session with the server.
const NO_SESSION: u8 = 3;
/// The exit status: what the server has sent may not be all.
const CUT: u8 = 4;

/// The whole help.
const HELP: &str = "\
Connects to a server by TLS, for standard input and output or for a listener.
skd starts it by itself for --tls.

Usage: skd-tls --connect HOST:PORT [OPTIONS]
       skd-tls --listen ADDRESS --to HOST:PORT [OPTIONS]

Addresses are tried in turn until one can be connected to, if there are several:
  HOST:PORT, [IPV6]:PORT      TCP
  /PATH, unix:PATH, unix:@NAME  a unix socket

Options:
      --connect HOST:PORT     Connect to this server; repeatable
      --listen ADDRESS        Accept connections at [HOST:]PORT or a path; repeatable
      --to HOST:PORT          Connect each of them to this server; repeatable
      --name NAME             The name in the server's certificate [HOST]
      --ca FILE               Trust the authorities in FILE only; repeatable
      --insecure              Trust any server
      --cert CERT[:KEY]       The client's certificate and its key
      --alpn NAME[,NAME]...   Offer these protocols, the preferred one first
      --min 1.2|1.3           The lowest version of TLS [1.2]
      --timeout DURATION      Give up if there is no session in this time [10s]
  -h, --help                  Print help
  -V, --version               Print the version

Example: skd -t 127.0.0.1:6667 skd-tls --connect irc.example.org:6697
";

/// Runs skd-tls with these arguments, the name of the program among them.
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = arguments.skip(1).collect();
    let texts: Vec<_> = words
        .iter()
        .map(|word| word.to_str().unwrap_or(""))
        .collect();
    let purpose = match texts[..] {
        ["--serve"] => Purpose::Serve,
        ["--check"] => Purpose::Check,
        ["--help" | "-h", ..] => return print(HELP),
        ["--version" | "-V", ..] => {
            return print(concat!("skd-tls ", env!("CARGO_PKG_VERSION"), "\n"));
        }
        _ => return connect(words),
    };
    match serve::run(purpose) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            if let Some(why) = why {
                complain(&why);
            }
            FAILED.into()
        }
    }
}

fn connect(words: Vec<OsString>) -> ExitCode {
    let options = match options::read(words.into_iter()) {
        Ok(options) => options,
        Err(why) => {
            complain(&format!("{why}\nTry 'skd-tls --help'."));
            return WRONG.into();
        }
    };
    let (why, status) = match client::run(options) {
        Ok(()) => return ExitCode::SUCCESS,
        Err(End::NotConnected(why)) => (why, FAILED),
        Err(End::NoSession(why)) => (why, NO_SESSION),
        Err(End::Cut(why)) => (why, CUT),
    };
    complain(&why);
    status.into()
}

fn print(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => FAILED.into(),
    }
}

/// Writes to standard error, each line in one piece.
pub(crate) fn complain(text: &str) {
    let text: String = text.lines().fold(String::new(), |mut all, line| {
        if all.is_empty() || !line.starts_with("Try ") {
            all.push_str("skd-tls: ");
        }
        all.push_str(line);
        all.push('\n');
        all
    });
    // Where standard error is closed there is nobody to tell.
    let _ = std::io::stderr().write_all(text.as_bytes());
}
