//! The command line and the settings of a run.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};

use crate::machine;
use crate::peers::{PeerArgument, Transport};

/// Measures skd beside the socket daemons installed on this machine.
///
/// Nothing is installed or downloaded, and only loopback addresses are used. A full run takes about
/// two hours on two cores. The machine should be idle otherwise.
#[derive(Debug, Parser)]
#[command(name = "skd-bench", version)]
pub(crate) struct Options {
    /// The skd to measure [default: target/release/skd beside this program, else skd in PATH]
    #[arg(long, value_name = "PATH")]
    pub skd: Option<PathBuf>,

    /// The nsjail to compare sandboxes with [default: the one in PATH]
    #[arg(long, value_name = "PATH")]
    pub nsjail: Option<PathBuf>,

    /// The s6-tlsserver to compare TLS with [default: the one in PATH]
    #[arg(long, value_name = "PATH")]
    pub s6_tlsserver: Option<PathBuf>,

    /// An earlier skd to compare with; the ratios are printed
    ///
    /// The two binaries are measured next to each other and take turns in being first. By default
    /// TCP with 8 clients is measured in 9 rounds: handlers 'tiny' and 'dynamic', 5,000 live
    /// handlers, and handler 'cat' with exec, --warm and --fork-server.
    #[arg(long, value_name = "PATH")]
    pub before: Option<PathBuf>,

    /// A further server: COMMAND contains {handler}, either {port} or {path}, and possibly
    /// {address}. Can be repeated, also with the same name for TCP and unix sockets
    #[arg(long = "peer", value_name = "NAME=COMMAND", value_parser = PeerArgument::stream)]
    pub peers: Vec<PeerArgument>,

    /// A further server for datagrams, in the same form
    #[arg(long = "datagram-peer", value_name = "NAME=COMMAND", value_parser = PeerArgument::datagram)]
    pub datagram_peers: Vec<PeerArgument>,

    /// Only these servers
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub servers: Vec<String>,

    /// The server whose ratios to the others are shown
    #[arg(long, value_name = "NAME", default_value = "skd")]
    pub base: String,

    /// Only these measurements
    #[arg(long, value_name = "GROUP,...", value_delimiter = ',')]
    pub only: Vec<Group>,

    /// Only these handlers; those that read a line belong to `prestart`
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub handlers: Vec<HandlerName>,

    /// Only these kinds of stream socket
    #[arg(long, value_name = "KIND,...", value_delimiter = ',', value_parser = stream_transport)]
    pub transports: Vec<Transport>,

    /// Concurrent clients, for the rates [default: 1,8,64]
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = at_least_one)]
    pub clients: Vec<usize>,

    /// Live handlers held open [default: 0,1000,5000,9000]; for `tls`, idle connections [default: none]
    #[arg(long, value_name = "N,...", value_delimiter = ',')]
    pub live: Vec<usize>,

    /// Rounds; servers take turns within each [default: 5]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: Option<u32>,

    /// Length of one measurement [default: 1]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub seconds: Option<Duration>,

    /// Data of one bulk transfer [default: 256]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pub bulk_mib: Option<u64>,

    /// Threads of the bare kernel's loop, as many as skd has acceptors [default: three for two
    /// cores, at most 16]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub threads: Option<usize>,

    /// Threads of the load generator [default: half the cores, 1 to 4]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub load_threads: Option<usize>,

    /// The folder for performance.md and performance/
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    pub output: PathBuf,

    /// Replace only the sections of this run in performance.md, and write a separate data file
    #[arg(long)]
    pub add: bool,

    /// Measure nothing: write the page and its plots again from the JSON files in --output
    #[arg(long)]
    pub render: bool,

    /// Measure skd-forward beside other forwarders, and print a table; nothing is written
    #[arg(long)]
    pub forward: bool,

    /// A short run to see that everything works; its figures mean nothing
    #[arg(long)]
    pub quick: bool,

    /// List the servers found and their commands, then exit
    #[arg(long)]
    pub list: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Group {
    /// Connections a second and latency by handler, clients and kind of socket
    Rates,
    /// The rate with thousands of live handlers
    Live,
    /// CPU time, memory, size and start of each server
    Cost,
    /// Bulk data through a handler
    Bulk,
    /// Datagram services
    Datagram,
    /// Clone, exec and wait without any socket
    Kernel,
    /// Programs that read a line and answer it, started at the connection or before it
    Prestart,
    /// One skd with up to ten thousand services
    Services,
    /// A sandbox for each connection
    Sandbox,
    /// TLS before a handler: handshakes, bulk data, and with --live idle connections
    Tls,
    /// Scripts under skd beside servers written in the same languages
    Scripts,
    /// How the rate, the CPU time and the memory of skd grow
    Growth,
}

impl Group {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Rates => "rates",
            Self::Live => "live",
            Self::Cost => "cost",
            Self::Bulk => "bulk",
            Self::Datagram => "datagram",
            Self::Kernel => "kernel",
            Self::Prestart => "prestart",
            Self::Services => "services",
            Self::Sandbox => "sandbox",
            Self::Tls => "tls",
            Self::Scripts => "scripts",
            Self::Growth => "growth",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum HandlerName {
    Tiny,
    Dynamic,
    Shell,
    Python,
    /// cat(1)
    Cat,
    /// A bash script
    Bash,
    /// A Perl script that loads some modules
    Perl,
    /// Python that exits by os._exit
    PythonQuick,
    /// Python with its full exit
    PythonFull,
}

impl HandlerName {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Tiny => "tiny",
            Self::Dynamic => "dynamic",
            Self::Shell => "shell",
            Self::Python => "python",
            Self::Cat => "cat",
            Self::Bash => "bash",
            Self::Perl => "perl",
            Self::PythonQuick => "python-quick",
            Self::PythonFull => "python-full",
        }
    }

    /// Whether it reads a line and answers it; the others write first.
    pub(crate) const fn reads_a_line(self) -> bool {
        matches!(
            self,
            Self::Cat | Self::Bash | Self::Perl | Self::PythonQuick | Self::PythonFull
        )
    }

    /// Whether one of these groups runs it.
    fn serves(self, groups: &[Group]) -> bool {
        groups.iter().any(|group| match group {
            Group::Rates | Group::Kernel => !self.reads_a_line(),
            Group::Sandbox => matches!(self, Self::Tiny | Self::Dynamic),
            Group::Prestart => self.reads_a_line(),
            _ => false,
        })
    }
}

/// The settings of a run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Settings {
    pub quick: bool,
    pub groups: Vec<Group>,
    pub handlers: Vec<HandlerName>,
    pub transports: Vec<Transport>,
    pub clients: Vec<usize>,
    pub live: Vec<usize>,
    pub rounds: u32,
    #[serde(rename = "seconds", with = "as_seconds")]
    pub window: Duration,
    #[serde(with = "as_seconds")]
    pub timeout: Duration,
    pub bulk_bytes: u64,
    /// Live handlers for the measurement of their memory.
    pub cost_live: usize,
    /// Idle connections with TLS, if any are wanted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tls_idle: usize,
    pub kernel_threads: usize,
    pub load_threads: usize,
    pub base: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Settings {
    pub(crate) fn from_options(options: &Options) -> Self {
        let quick = options.quick;
        let or = |chosen: &[usize], quickly: &[usize], fully: &[usize]| {
            let mut chosen = match (chosen.is_empty(), quick) {
                (false, _) => chosen,
                (true, true) => quickly,
                (true, false) => fully,
            }
            .to_vec();
            chosen.sort_unstable();
            chosen.dedup();
            chosen
        };
        let window = Duration::from_secs_f64(if quick { 0.2 } else { 1.0 });
        let cores = machine::cores();
        let usual = Defaults::of(options);
        let groups = chosen_or(&options.only, usual.groups);
        let mut handlers = chosen_or(&options.handlers, usual.handlers);
        handlers.retain(|handler| handler.serves(&groups));
        if quick && options.handlers.is_empty() {
            // Each is similar to another that stays.
            handlers
                .retain(|handler| !matches!(handler, HandlerName::Bash | HandlerName::PythonFull));
        }
        Self {
            quick,
            groups,
            handlers,
            transports: chosen_or(&options.transports, usual.transports),
            clients: or(&options.clients, &[8], usual.clients),
            live: or(&options.live, usual.live_quick, usual.live),
            rounds: options
                .rounds
                .unwrap_or(if quick { 1 } else { usual.rounds }),
            window: options.seconds.unwrap_or(window),
            timeout: Duration::from_secs(10),
            bulk_bytes: options.bulk_mib.unwrap_or(if quick { 16 } else { 256 }) << 20,
            cost_live: if quick { 50 } else { 500 },
            tls_idle: options.live.iter().copied().max().unwrap_or(0),
            kernel_threads: options
                .threads
                .unwrap_or_else(|| (3 * cores).div_ceil(2).min(16)),
            load_threads: options
                .load_threads
                .unwrap_or_else(|| (cores / 2).clamp(1, 4)),
            base: options.base.clone(),
        }
    }

    pub(crate) fn measures(&self, group: Group) -> bool {
        self.groups.contains(&group)
    }

    /// The number of clients where only one is measured: 8, or the closest one.
    pub(crate) fn usual_clients(&self) -> usize {
        self.clients
            .iter()
            .copied()
            .min_by_key(|n| n.abs_diff(8))
            .unwrap_or(8)
    }
}

/// The defaults of what is measured.
struct Defaults {
    groups: &'static [Group],
    handlers: &'static [HandlerName],
    transports: &'static [Transport],
    clients: &'static [usize],
    live: &'static [usize],
    live_quick: &'static [usize],
    rounds: u32,
}

impl Defaults {
    fn of(options: &Options) -> Self {
        if options.before.is_none() {
            Self {
                groups: Group::value_variants(),
                handlers: HandlerName::value_variants(),
                transports: &[Transport::Tcp, Transport::Unix],
                clients: &[1, 8, 64],
                live: &[0, 1000, 5000, 9000],
                live_quick: &[0, 200],
                rounds: 5,
            }
        } else {
            Self {
                groups: &[Group::Rates, Group::Live, Group::Prestart],
                handlers: &[HandlerName::Tiny, HandlerName::Dynamic, HandlerName::Cat],
                transports: &[Transport::Tcp],
                clients: &[8],
                live: &[5000],
                live_quick: &[200],
                rounds: 9,
            }
        }
    }
}

fn chosen_or<T: Clone>(chosen: &[T], default: &[T]) -> Vec<T> {
    if chosen.is_empty() {
        default.to_vec()
    } else {
        chosen.to_vec()
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n @ 1..=4096) => Ok(n),
        _ => Err("a number from 1 to 4096 is needed".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(s) if (0.05..=600.0).contains(&s) => Ok(Duration::from_secs_f64(s)),
        _ => Err("seconds from 0.05 to 600 are needed".to_owned()),
    }
}

fn stream_transport(text: &str) -> Result<Transport, String> {
    match text {
        "tcp" => Ok(Transport::Tcp),
        "unix" => Ok(Transport::Unix),
        _ => Err("tcp or unix is needed".to_owned()),
    }
}

/// Durations as numbers of seconds in JSON.
mod as_seconds {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(time: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_f64(time.as_secs_f64())
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<Duration, D::Error> {
        Duration::try_from_secs_f64(f64::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Options::command().debug_assert();
    }

    #[test]
    fn options_win_over_quick() {
        let line = [
            "skd-bench",
            "--quick",
            "--clients",
            "64,2,64",
            "--rounds",
            "3",
        ];
        let settings = Settings::from_options(&Options::parse_from(line));
        assert_eq!(settings.clients, [2, 64]);
        assert_eq!(settings.usual_clients(), 2);
        assert_eq!(settings.rounds, 3);
        assert_eq!(settings.live, [0, 200]);
    }

    #[test]
    fn handlers_are_those_that_a_group_runs() {
        use HandlerName::{Cat, Tiny};
        let handlers = |line: &[&str]| {
            let line = ["skd-bench"].iter().chain(line);
            Settings::from_options(&Options::parse_from(line)).handlers
        };
        assert_eq!(handlers(&[]), HandlerName::value_variants());
        let prestart = handlers(&["--only", "prestart"]);
        assert!(prestart.contains(&Cat) && prestart.iter().all(|handler| handler.reads_a_line()));
        let rates = handlers(&["--only", "rates,live"]);
        assert!(rates.contains(&Tiny) && !rates.iter().any(|handler| handler.reads_a_line()));
        assert_eq!(handlers(&["--handlers", "cat,tiny"]), [Cat, Tiny]);
        assert!(handlers(&["--only", "bulk"]).is_empty());
        assert!(handlers(&["--quick"]).contains(&Cat));
        assert!(!handlers(&["--quick"]).contains(&HandlerName::Bash));
    }

    #[test]
    fn a_comparison_with_the_binary_before_is_short() {
        let line = ["skd-bench", "--before", "/x", "--live", "0"];
        let settings = Settings::from_options(&Options::parse_from(line));
        assert_eq!(settings.rounds, 9);
        assert_eq!(settings.live, [0]);
        assert_eq!(settings.clients, [8]);
        assert!(!settings.measures(Group::Cost));
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for group in Group::value_variants() {
            assert_eq!(Group::from_str(group.as_str(), false), Ok(*group));
        }
        for handler in HandlerName::value_variants() {
            assert_eq!(HandlerName::from_str(handler.as_str(), false), Ok(*handler));
        }
    }

    #[test]
    fn a_full_run_has_the_rounds_that_figures_need() {
        let settings = Settings::from_options(&Options::parse_from(["skd-bench"]));
        assert!(settings.rounds >= 5);
        assert_eq!(settings.live, [0, 1000, 5000, 9000]);
        assert_eq!(settings.usual_clients(), 8);
    }
}
