//! One row of the table of options.

use clap::ValueHint;

/// One option.
#[derive(Debug)]
pub struct Opt {
    /// The long name, which also identifies the option.
    pub long: &'static str,
    /// The short names, the first one shown first.
    pub shorts: &'static [char],
    /// What the option takes, and what a repetition means.
    pub kind: Kind,
    /// Whether `--help` without a value shows the option.
    pub common: bool,
    /// The line in `--help`, and the first sentence in the manual. A default is at the end, in
    /// brackets.
    pub help: &'static str,
    /// The further sentences in the manual. Words between backticks are literal.
    pub manual: &'static str,
}

/// What an option is about, which decides where it can be written in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belongs {
    /// A service: `[service.NAME]` and `[defaults]`.
    Service,
    /// The process that serves: `[daemon]`.
    Daemon,
    /// The command line: no file.
    CommandLine,
}

/// The options of the daemon. `--chroot` is its own too: with `--daemon-user`, skd enters it.
const DAEMON: [&str; 18] = [
    "threads",
    "verbose",
    "background",
    "log",
    "log-format",
    "log-time",
    "log-mask",
    "pidfile",
    "ready-fd",
    "daemon-user",
    "drop-privileges",
    "control",
    "control-mode",
    "control-owner",
    "control-read",
    "tls-user",
    "tls-program",
    "tls-keylog",
];

/// The options that say where to read, and what to do instead of serving.
const COMMAND_LINE: [&str; 9] = [
    "config",
    "inetd-conf",
    "xinetd",
    "print-config",
    "check",
    "explain",
    "name",
    "version",
    "help",
];

impl Opt {
    /// Returns what the option is about.
    pub fn belongs(&self) -> Belongs {
        let is_in = |names: &[&str]| names.contains(&self.long);
        if is_in(&DAEMON) {
            Belongs::Daemon
        } else if is_in(&COMMAND_LINE) {
            Belongs::CommandLine
        } else {
            Belongs::Service
        }
    }
}

/// What an option takes.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// No value.
    Flag,
    /// No value; repetitions are counted.
    Count,
    /// A value; the last one counts.
    Value(&'static str, ValueHint),
    /// An optional value after an equals sign; the last one counts.
    Optional(&'static str, ValueHint),
    /// A value; all of them count.
    Values(&'static str, ValueHint),
    /// Prints a text of [`super::help`], which one depends on the optional value, and exits.
    Help,
    /// Prints the version and exits.
    Version,
}
