//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::ValueHint;
use clap::{Args, Parser, Subcommand, ValueEnum};
use skd_control::duration;

/// The socket that is connected to if none is named.
pub const SOCKET: &str = "/run/skd.sock";

/// The environment variable that names the socket.
pub const VARIABLE: &str = "SKD_CONTROL";

/// Asks a running skd how it is, and tells it what to do
#[derive(Debug, Parser)]
#[command(
    name = "skdctl",
    version,
    infer_subcommands = true,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 100
)]
pub struct Cli {
    /// Where skd listens: its --control [default: $SKD_CONTROL, or /run/skd.sock]
    #[arg(short, long, global = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub socket: Option<PathBuf>,

    /// Print the answer as a line of JSON; of "events", a line for each
    #[arg(long, global = true)]
    pub json: bool,

    /// What is asked for.
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Returns the socket of skd. The value of [`VARIABLE`] is passed here.
    pub fn socket(&self, variable: Option<OsString>) -> PathBuf {
        self.socket
            .clone()
            .or_else(|| {
                variable
                    .filter(|value| !value.is_empty())
                    .map(PathBuf::from)
            })
            .unwrap_or_else(|| PathBuf::from(SOCKET))
    }
}

/// What is asked for.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how skd and its services are, and what they have counted
    Status {
        /// Only these services
        #[arg(value_name = "SERVICE")]
        services: Vec<String>,
    },

    /// List the services, a line each
    #[command(visible_alias = "ls")]
    List,

    /// List live handlers
    #[command(visible_alias = "ps")]
    Handlers(HandlersArgs),

    /// List the most active sources
    Sources {
        /// Only those of this service
        #[arg(long, value_name = "SERVICE")]
        service: Option<String>,
        /// So many at most
        #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 100)]
        limit: usize,
    },

    /// Watch services and handlers live
    Top {
        /// The time between two refreshes
        #[arg(short, long, value_name = "DURATION", default_value = "1s", value_parser = interval)]
        interval: Duration,
    },

    /// Print events as they happen
    Events {
        /// Only those of this service; may be repeated
        #[arg(long = "service", value_name = "SERVICE")]
        services: Vec<String>,
        /// Only those of this kind, like "rejected"; may be repeated
        #[arg(long = "event", value_name = "EVENT")]
        events: Vec<String>,
        /// Only those of clients in this prefix, or of a user as uid:N
        #[arg(long, value_name = "PREFIX")]
        source: Option<String>,
    },

    /// Show what would happen to a client now, and why
    Explain {
        /// An address, or a user as uid:N
        client: String,
        /// Only at this service
        service: Option<String>,
    },

    /// Read the files of the configuration again, as at SIGHUP
    Reload,

    /// Replace the program, as at SIGUSR2
    Upgrade,

    /// Serve no new client of a service, and wait until its handlers have ended
    ///
    /// New clients wait in the backlog of the socket until "enable". Behind a load balancer, announce it first.
    Drain {
        /// The services.
        #[command(flatten)]
        services: ServicesArgs,
        /// Serve on for this time, as a lame duck: a load balancer learns that it should send no more
        #[arg(short, long, value_name = "DURATION", value_parser = parse_duration)]
        announce: Option<Duration>,
        /// Send TERM to the handlers that are left after this time, and KILL later
        #[arg(short, long, value_name = "DURATION", value_parser = parse_duration)]
        timeout: Option<Duration>,
    },

    /// Serve new clients of a service again, after "drain" or "disable"
    ///
    /// With --all, those too that were disabled before others were drained.
    Enable {
        /// The services.
        #[command(flatten)]
        services: ServicesArgs,
    },

    /// Serve no new client of a service; its handlers go on
    ///
    /// New clients wait in the backlog of the socket until "enable".
    Disable {
        /// The service
        service: String,
        /// Refuse new clients instead
        #[arg(long)]
        refuse: bool,
    },

    /// End handlers: TERM, and KILL later
    Kill(KillArgs),

    /// Refuse clients for a time
    Deny {
        /// Their prefix, like 192.0.2.0/24, or a user as uid:N
        source: String,
        /// For how long
        #[arg(value_name = "DURATION", value_parser = nonzero_duration)]
        duration: Duration,
        /// Only at this service
        #[arg(long, value_name = "SERVICE")]
        service: Option<String>,
    },

    /// Take back "deny"
    Allow {
        /// The source, as it was denied
        source: String,
        /// The service, as it was denied
        #[arg(long, value_name = "SERVICE")]
        service: Option<String>,
    },

    /// Set how much skd reports
    Verbosity {
        /// 0; 1 as with skd -v, 2 as with skd -vv
        #[arg(value_parser = clap::value_parser!(u8).range(0..=2))]
        level: u8,
    },

    /// Print the counters as metrics
    Metrics {
        /// The format
        #[arg(short, long, value_name = "FORMAT", default_value = "openmetrics")]
        format: MetricsFormat,
    },

    /// Serve a status page and metrics over HTTP on standard input and output, as a handler of skd
    Http {
        /// Answer browsers that know this server by this name; may be repeated, and * is any name
        ///
        /// Addresses, localhost and the name of the machine are answered without this.
        #[arg(long = "host", value_name = "NAME")]
        hosts: Vec<String>,
    },

    /// Answer an agent check of haproxy on standard output, as a handler of skd
    ///
    /// The answer is about the services that are named, or about all: that of the worst of them.
    AgentCheck {
        /// Only these services
        #[arg(value_name = "SERVICE")]
        services: Vec<String>,
        /// Tell the weight: how many per cent of the slots are free, at least 1
        #[arg(long)]
        weight: bool,
        /// Answer "fail" if skd doesn't answer in this time
        #[arg(long, value_name = "DURATION", default_value = "1s", value_parser = nonzero_duration)]
        timeout: Duration,
    },

    /// Print the completions of a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Which services.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub struct ServicesArgs {
    /// The services
    #[arg(value_name = "SERVICE")]
    pub services: Vec<String>,
    /// All services
    #[arg(long)]
    pub all: bool,
}

/// Which handlers are listed.
#[derive(Args, Debug)]
pub struct HandlersArgs {
    /// Only those of this service
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
    /// Only those of clients in this prefix, or of a user as uid:N
    #[arg(long, value_name = "PREFIX")]
    pub source: Option<String>,
    /// Which are first
    #[arg(long, value_name = "ORDER", default_value = "oldest")]
    pub sort: Order,
    /// So many at most
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = 1000)]
    pub limit: usize,
}

/// Which handlers are ended.
#[derive(Args, Debug)]
#[group(required = true, multiple = true)]
pub struct KillArgs {
    /// The handler with this process id
    #[arg(conflicts_with_all = ["source", "service"], value_parser = clap::value_parser!(i32).range(1..))]
    pub pid: Option<i32>,
    /// All handlers of clients in this prefix, or of a user as uid:N
    #[arg(long, value_name = "PREFIX")]
    pub source: Option<String>,
    /// All handlers of this service; with --source, only those that are both
    #[arg(long, value_name = "SERVICE")]
    pub service: Option<String>,
}

/// Which handlers are first.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Order {
    /// The oldest
    Oldest,
    /// The newest
    Newest,
    /// Those with the lowest process ids
    Pid,
    /// Those that have used most CPU time
    Cpu,
    /// Those with most resident memory
    Memory,
    /// Those that have transferred most
    Bytes,
}

/// A text format of metrics.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum MetricsFormat {
    /// OpenMetrics 1.0
    #[value(name = "openmetrics")]
    OpenMetrics,
    /// The older text format of Prometheus, 0.0.4
    Prometheus,
}

/// A shell that has completions.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let read = duration::milliseconds(text).map(Duration::from_millis);
    read.ok_or_else(|| duration::EXPECTED.into())
}

fn nonzero_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("it is more than zero".into()),
        duration => Ok(duration),
    }
}

fn interval(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        time if time < Duration::from_millis(100) => Err("it is 100ms at least".into()),
        time => Ok(time),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_by_skd() {
        let read = |text| {
            parse_duration(text)
                .ok()
                .map(|duration| duration.as_millis())
        };
        assert_eq!(read("30s"), Some(30_000));
        assert_eq!(read("1h30m"), Some(5_400_000));
        assert_eq!(read("250ms"), Some(250));
        for text in ["", "30", "s", "1s1s", "1s1h", "-1s", "1.5s", "1 s", "4000d"] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_socket_has_three_sources() {
        let bare = Cli::try_parse_from(["skdctl", "list"]).unwrap();
        assert_eq!(bare.socket(None), PathBuf::from(SOCKET));
        assert_eq!(bare.socket(Some("".into())), PathBuf::from(SOCKET));
        assert_eq!(bare.socket(Some("/a".into())), PathBuf::from("/a"));
        let named = Cli::try_parse_from(["skdctl", "list", "-s", "/b"]).unwrap();
        assert_eq!(named.socket(Some("/a".into())), PathBuf::from("/b"));
    }

    #[test]
    fn kill_names_a_handler_or_a_group() {
        let accepted =
            |words: &[&str]| Cli::try_parse_from(["skdctl", "kill"].iter().chain(words)).is_ok();
        assert!(accepted(&["17"]));
        assert!(accepted(&["--source", "192.0.2.0/24", "--service", "web"]));
        for words in [&[][..], &["0"], &["-3"], &["17", "--service", "web"]] {
            assert!(!accepted(words), "{words:?}");
        }
    }
}
