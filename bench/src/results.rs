//! The figures of a run, as results.json holds them and as the page is made from them.
//!
//! Each point keeps the median, the least and the most of its rounds. Figures that need the rounds
//! themselves, such as ratios within a round, are computed before (see [`crate::samples`]).

mod tls;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::handlers::Language;
use crate::machine::Machine;
use crate::options::Settings;
use crate::peers::{Missing, Peer, Transport};
use crate::stats::Summary;

pub(crate) use tls::{TlsBulkPoint, TlsIdlePoint, TlsKind, TlsPoint, Way};

/// The version of this form.
pub(crate) const FORMAT: u32 = 2;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Results {
    pub format: u32,
    pub date: String,
    pub machine: Machine,
    pub settings: Settings,
    pub servers: Vec<ServerInfo>,
    pub missing: Vec<Missing>,
    /// What did not work, in words.
    pub problems: Vec<Problem>,
    pub interrupted: bool,
    pub kernel: Vec<KernelPoint>,
    pub rates: Vec<StreamPoint>,
    pub live: Vec<StreamPoint>,
    pub costs: Vec<CostPoint>,
    pub bulk: Vec<BulkPoint>,
    pub datagrams: Vec<DatagramPoint>,
    /// Handlers that read a line, with several clients.
    pub prestart: Vec<StreamPoint>,
    /// The same handlers with one client at a time, which pauses between connections.
    pub prestart_alone: Vec<AlonePoint>,
    /// One skd with many services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<ServicesPoint>,
    /// A sandbox for each connection, without and beside live ones, and their memory.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sandbox: Vec<StreamPoint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sandbox_live: Vec<StreamPoint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sandbox_memory: Vec<SandboxMemoryPoint>,
    /// TLS before a handler: short connections, bulk data, and the memory of idle connections.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls: Vec<TlsPoint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls_bulk: Vec<TlsBulkPoint>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tls_idle: Vec<TlsIdlePoint>,
    /// A small service as a script under skd, and as a server.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scripts: Vec<ScriptPoint>,
    /// The languages of these, with their versions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<(Language, String)>,
    /// How skd's figures grow.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub growth: Vec<GrowthPoint>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ServerInfo {
    pub name: String,
    pub version: Option<String>,
    pub commands: Vec<(Transport, String)>,
    pub program_bytes: Option<u64>,
    /// The server that this is with other options.
    pub mode_of: Option<String>,
    /// The server that this is an earlier binary of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before_of: Option<String>,
    pub remark: String,
}

impl ServerInfo {
    pub(crate) fn of(peer: &Peer) -> Self {
        let commands = peer
            .recipes
            .iter()
            .map(|(kind, recipe)| (*kind, recipe.display(&peer.program)));
        Self {
            name: peer.name.clone(),
            version: peer.version.clone(),
            commands: commands.collect(),
            program_bytes: std::fs::metadata(&peer.program)
                .ok()
                .map(|metadata| metadata.len()),
            mode_of: peer.mode_of.map(str::to_owned),
            before_of: peer.before_of.clone(),
            remark: peer.remark.to_owned(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Problem {
    pub server: String,
    pub transport: Option<Transport>,
    pub what: String,
    /// The number of times.
    pub times: u32,
}

/// The conditions of a series of short connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StreamKey {
    pub server: String,
    pub transport: Transport,
    pub handler: String,
    pub clients: usize,
    /// Live handlers held open meanwhile.
    pub live: usize,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StreamPoint {
    #[serde(flatten)]
    pub key: StreamKey,
    pub rounds: usize,
    pub failures: u64,
    /// Connections a second.
    pub rate: Summary,
    pub first_byte: Percentiles,
    pub end: Percentiles,
    /// CPU time in microseconds for each connection.
    pub load_cpu: Option<Summary>,
    pub server_cpu: Option<Summary>,
    pub children_cpu: Option<Summary>,
    /// Cores that the load generator kept busy.
    pub load_cores: Option<Summary>,
    /// The rate over that of the bare kernel on the cores that the clients left free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_share: Option<Summary>,
    /// The rate of the base server over this one, or that of the new binary over the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Summary>,
    /// The rate over that of [`Results::best_peer`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_best_peer: Option<Summary>,
    /// The rate over that of the base server, and over that of its sandbox, where sandboxes are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_plain: Option<Summary>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_sandbox: Option<Summary>,
    /// Percent and microseconds to the end of the answer over all rounds, where a plot shows them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub curve: Vec<(f64, u64)>,
}

/// Microseconds that a share of the connections stayed below, of each round.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Percentiles {
    pub p50: Option<Summary>,
    pub p99: Option<Summary>,
    pub p999: Option<Summary>,
}

/// One skd with so many services.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ServicesPoint {
    pub services: usize,
    pub rounds: usize,
    pub failures: u64,
    /// From the exec to the end of the first answer of the last service, and from TERM to the end, in
    /// milliseconds.
    pub start: Option<Summary>,
    pub end: Option<Summary>,
    /// Anonymous memory of the idle daemon in KiB.
    pub memory: Option<Summary>,
    /// Bytes of it for each service more than one.
    pub memory_each: Option<Summary>,
    pub descriptors: Option<Summary>,
    pub threads: Option<Summary>,
    /// Connections a second, all to one service; and that over the rate of a daemon with one service in
    /// the same round.
    pub rate: Option<Summary>,
    pub ratio: Option<Summary>,
    /// The same with the connections spread over all services.
    pub spread_ratio: Option<Summary>,
    /// CPU time of the daemon itself in microseconds for each connection, in both.
    #[serde(default)]
    pub cpu: Option<Summary>,
    #[serde(default)]
    pub spread_cpu: Option<Summary>,
}

/// Memory for each live sandbox, in KiB.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct SandboxMemoryPoint {
    pub server: String,
    pub live: usize,
    pub rounds: usize,
    /// Proportional set sizes of the handler, and of all other processes of the server.
    pub handler: Option<Summary>,
    pub others: Option<Summary>,
    /// The kernel's, of /proc/meminfo: slab, page tables, stacks, and for each processor.
    pub kernel: Option<Summary>,
}

/// A way to have a small service.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ScriptPoint {
    pub language: Language,
    pub way: String,
    /// The server of the catalogue.
    pub server: String,
    pub rounds: usize,
    pub failures: u64,
    /// Connections a second with several clients.
    pub rate: Option<Summary>,
    /// The rate of the reference of its language over this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Summary>,
    /// Time to the first byte for one client at a time.
    pub first_byte: Percentiles,
    /// CPU time of all processes in microseconds for each connection.
    pub cpu: Option<Summary>,
    /// Proportional set sizes of all idle processes in KiB.
    pub memory: Option<Summary>,
}

/// What may be many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dimension {
    Services,
    Live,
    Pending,
    Rules,
    Threads,
}

impl Dimension {
    pub(crate) const ALL: [Self; 5] = [
        Self::Services,
        Self::Live,
        Self::Pending,
        Self::Rules,
        Self::Threads,
    ];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Services => "services",
            Self::Live => "live handlers",
            Self::Pending => "pending connections",
            Self::Rules => "rules",
            Self::Threads => "acceptor threads",
        }
    }
}

/// One skd with so many of them, beside one with the fewest.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct GrowthPoint {
    pub dimension: Dimension,
    pub count: usize,
    pub rounds: usize,
    pub failures: u64,
    /// Connections a second; and that over the rate of the other in the same round.
    pub rate: Option<Summary>,
    pub ratio: Option<Summary>,
    /// CPU time of skd itself in microseconds for each connection, and the same ratio.
    pub cpu: Option<Summary>,
    pub cpu_ratio: Option<Summary>,
    /// Its anonymous memory and its memory files in KiB, and those of the other.
    pub memory: Option<Summary>,
    pub memory_of_fewest: Option<Summary>,
    /// Milliseconds from the exec to the end of the first answer.
    pub start: Option<Summary>,
}

/// One client at a time.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AlonePoint {
    pub server: String,
    pub transport: Transport,
    pub handler: String,
    pub rounds: usize,
    pub failures: u64,
    pub first_byte: Percentiles,
    pub end: Percentiles,
    /// The 99th percentile of the time to the first byte over all rounds, where enough connections
    /// support it.
    pub first_byte_p99: Option<u64>,
    /// The median time to the first byte over that of the base server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<Summary>,
    /// The median time to the first byte of the new binary over this one, the binary before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Summary>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KernelPoint {
    pub handler: String,
    pub threads: usize,
    pub rounds: usize,
    /// Programs a second.
    pub rate: Summary,
    /// CPU time in microseconds for each program, its own and that of starting it.
    pub cpu: Summary,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CostPoint {
    pub server: String,
    pub transport: Transport,
    pub rounds: usize,
    pub program_bytes: Option<u64>,
    /// Microseconds from starting the program to the end of its first answer.
    pub first_answer: Option<Summary>,
    /// CPU time in microseconds for each connection.
    pub server_cpu: Option<Summary>,
    pub children_cpu: Option<Summary>,
    /// Of the server and its children.
    pub cpu: Option<Summary>,
    pub load_cpu: Option<Summary>,
    /// Anonymous memory in KiB.
    pub idle_memory: Option<Summary>,
    pub memory_each: Option<Summary>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct BulkPoint {
    pub server: String,
    pub transport: Transport,
    /// `send`: from the handler to the client; `echo`: both ways at the same time.
    pub direction: String,
    pub rounds: usize,
    /// Rounds in which not all data came back right.
    pub incomplete: usize,
    /// MiB a second.
    pub rate: Summary,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DatagramPoint {
    pub server: String,
    pub clients: usize,
    pub rounds: usize,
    /// Answers a second.
    pub rate: Summary,
    pub latency: Percentiles,
    pub lost: u64,
    pub wrong: u64,
}

impl Results {
    /// Reads results.json.
    pub(crate) fn from_json(text: &str) -> Result<Self> {
        let results: Self = serde_json::from_str(text).context("not a file of skd-bench")?;
        anyhow::ensure!(
            results.format == FORMAT,
            "format {} is not supported, only {FORMAT}",
            results.format
        );
        Ok(results)
    }

    pub(crate) fn note(&mut self, server: &str, transport: Option<Transport>, what: String) {
        let same = |problem: &&mut Problem| {
            problem.server == server && problem.transport == transport && problem.what == what
        };
        match self.problems.iter_mut().find(same) {
            Some(problem) => problem.times += 1,
            None => {
                self.problems.push(Problem {
                    server: server.to_owned(),
                    transport,
                    what,
                    times: 1,
                });
            }
        }
    }

    /// Connections that failed, of the servers that `counts` accepts.
    pub(crate) fn failed_connections(&self, counts: impl Fn(&str) -> bool) -> u64 {
        let streams = self.rates.iter().chain(&self.live).chain(&self.prestart);
        let streams = streams.chain(&self.sandbox).chain(&self.sandbox_live);
        let streams = streams
            .filter(|point| counts(&point.key.server))
            .map(|point| point.failures);
        let alone = self.prestart_alone.iter();
        let alone = alone
            .filter(|point| counts(&point.server))
            .map(|point| point.failures);
        let tls = self.tls.iter().filter(|point| counts(&point.server));
        let tls = tls.map(|point| point.failures);
        let scripts = self.scripts.iter().filter(|point| counts(&point.server));
        let scripts = scripts.map(|point| point.failures);
        // Of the base server alone.
        let growth = self.growth.iter().filter(|_| counts(&self.settings.base));
        let growth = growth.map(|point| point.failures);
        let streams = streams.chain(alone).chain(tls);
        streams.chain(scripts).chain(growth).sum()
    }

    /// Whether this is the base server, or that with other options.
    pub(crate) fn is_base(&self, server: &str) -> bool {
        let base = self.settings.base.as_str();
        let mode = |info: &ServerInfo| info.mode_of.as_deref() == Some(base);
        server == base || self.server(server).is_some_and(mode)
    }

    /// The server that this is an earlier binary of.
    pub(crate) fn before_of(&self, server: &str) -> Option<&str> {
        self.server(server)?.before_of.as_deref()
    }

    fn server(&self, name: &str) -> Option<&ServerInfo> {
        self.servers.iter().find(|info| info.name == name)
    }

    /// The fastest server with this handler that is not skd itself, in any mode or binary.
    pub(crate) fn best_peer(
        &self,
        transport: Transport,
        handler: &str,
        clients: usize,
    ) -> Option<&StreamPoint> {
        let is_peer =
            |server: &ServerInfo| !self.is_base(&server.name) && server.before_of.is_none();
        let point = |server: &str| {
            self.prestart.iter().find(|point| {
                let key = &point.key;
                key.server == server
                    && key.transport == transport
                    && key.handler == handler
                    && key.clients == clients
            })
        };
        self.servers
            .iter()
            .filter(|server| is_peer(server))
            .filter_map(|server| point(&server.name))
            .filter(|point| point.rate.median > 0.0)
            .max_by(|a, b| a.rate.median.total_cmp(&b.rate.median))
    }
}
