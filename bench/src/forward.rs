//! skd-forward beside other programs that forward connections: `skd-bench --forward`.
//!
//! Every forwarder connects its clients to the same target in this process. The rows take turns within a
//! round, and another one is first each time.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Result, bail};

use crate::handlers::{ANSWER, Handler, Reply, find_in_path};
use crate::load::{self, StreamLoad};
use crate::options::{Options, Settings};
use crate::peers::{self, Endpoint, Peer, Recipe, Server, Transport, Workspace};
use crate::proc;
use crate::stats::Summary;

/// A forwarder: its name, its command, and its configuration file. {handler_file} is the target's address, and
/// {handler_arguments} its port.
struct Row {
    name: &'static str,
    program: Program,
    command: &'static str,
    config: Option<&'static str>,
}

/// Where the program of a row is.
enum Program {
    /// The skd of this run. {forward} is the skd-forward at this path below the target directory.
    Skd(&'static str),
    /// In PATH or here.
    Other(&'static str),
    /// None: clients connect to the target.
    Direct,
}

const SKD: &str =
    "{program} -b 4096 -t {address}:{port} {forward} {handler_file}:{handler_arguments}";
const FORK: &str = "{program} -b 4096 --fork-server -t {address}:{port} {forward} {handler_file}:{handler_arguments}";
const BESIDE: &str = "release/skd-forward";
const STATIC: &str = "x86_64-unknown-linux-musl/release/skd-forward";

const ROWS: &[Row] = &[
    Row {
        name: "none: the target itself",
        program: Program::Direct,
        command: "",
        config: None,
    },
    Row {
        name: "skd-forward",
        program: Program::Skd(BESIDE),
        command: SKD,
        config: None,
    },
    Row {
        name: "skd-forward, `--fork-server`",
        program: Program::Skd(BESIDE),
        command: FORK,
        config: None,
    },
    Row {
        name: "skd-forward, static",
        program: Program::Skd(STATIC),
        command: SKD,
        config: None,
    },
    Row {
        name: "skd-forward, static, `--fork-server`",
        program: Program::Skd(STATIC),
        command: FORK,
        config: None,
    },
    Row {
        name: BASE,
        program: Program::Other("socat"),
        command: "{program} TCP4-LISTEN:{port},bind={address},backlog=4096,fork TCP4:{handler_file}:{handler_arguments}",
        config: None,
    },
    Row {
        name: "xinetd, `redirect`",
        program: Program::Other("xinetd"),
        command: "{program} -dontfork -f {config} -pidfile {pidfile} -filelog {log}",
        config: Some(XINETD),
    },
    Row {
        name: "systemd-socket-proxyd",
        program: Program::Other("systemd-socket-activate"),
        command: "{program} -l {address}:{port} /lib/systemd/systemd-socket-proxyd --connections-max=4096 {handler_file}:{handler_arguments}",
        config: None,
    },
    Row {
        name: "haproxy, `splice-auto`",
        program: Program::Other("haproxy"),
        command: "{program} -db -q -f {config}",
        config: Some(HAPROXY),
    },
];

/// The row with which the others are compared.
const BASE: &str = "socat, `fork`";

const XINETD: &str = "\
service bench
{
    type        = UNLISTED
    socket_type = stream
    protocol    = tcp
    wait        = no
    user        = {user}
    bind        = {address}
    port        = {port}
    instances   = UNLIMITED
    per_source  = UNLIMITED
    cps         = 1000000000 1
    redirect    = {handler_file} {handler_arguments}
}
";

const HAPROXY: &str = "\
global
    maxconn 4000
defaults
    mode tcp
    option splice-auto
    timeout connect 10s
    timeout client 60s
    timeout server 60s
listen bench
    bind {address}:{port} backlog 4096
    server target {handler_file}:{handler_arguments}
";

/// What is measured, in the order of the columns.
const COLUMNS: [&str; 7] = [
    "connections/s",
    "CPU ms a connection",
    "MiB/s from the target",
    "CPU ms a MiB",
    "MiB/s both ways",
    "KiB a connection",
    "pipes a connection",
];

/// Connections that are held open while memory is measured.
const HELD: usize = 100;

/// Measures all rows, and prints a Markdown table.
pub(crate) fn run(options: &Options, folder: &Path, interrupted: &AtomicBool) -> Result<()> {
    let settings = Settings::from_options(options);
    let workspace = Workspace::new(folder);
    let targets = [
        Target::start(Reply::Line)?,
        Target::start(Reply::Send(settings.bulk_bytes))?,
        Target::start(Reply::Echo)?,
        Target::start(Reply::Gate)?,
    ];
    let mut rows = Vec::new();
    for row in ROWS {
        match row.peer(options)? {
            Some(peer) => rows.push((row, peer)),
            None => eprintln!("skd-bench: {} isn't installed", row.name),
        }
    }
    let mut samples: BTreeMap<(usize, usize), Vec<f64>> = BTreeMap::new();
    for round in 0..settings.rounds as usize {
        for turn in 0..rows.len() {
            let index = (turn + round) % rows.len();
            let (row, peer) = &rows[index];
            eprintln!("skd-bench: round {}, {}", round + 1, row.name);
            for (column, value) in measure(peer, &targets, &settings, &workspace, interrupted) {
                samples.entry((index, column)).or_default().push(value);
            }
        }
    }
    let base = rows.iter().position(|(row, _)| row.name == BASE);
    println!("{}", table(&rows, &samples, base));
    Ok(())
}

/// Returns the figures of one forwarder, by column. What it can't do is reported and left out.
fn measure(
    peer: &Peer,
    targets: &[Target; 4],
    settings: &Settings,
    workspace: &Workspace,
    interrupted: &AtomicBool,
) -> Vec<(usize, f64)> {
    let mut figures = Vec::new();
    for target in targets {
        match measure_with(peer, target, settings, workspace, interrupted) {
            Ok(more) => figures.extend(more),
            Err(error) => eprintln!("skd-bench: {}, {:?}: {error:#}", peer.name, target.reply),
        }
    }
    figures
}

/// Returns what can be measured with this target.
fn measure_with(
    peer: &Peer,
    target: &Target,
    settings: &Settings,
    workspace: &Workspace,
    interrupted: &AtomicBool,
) -> Result<Vec<(usize, f64)>> {
    let handler = target.handler();
    let server = match peer.recipes.is_empty() {
        true => None,
        false => Some(Server::start(workspace, peer, Transport::Tcp, &handler)?),
    };
    if let Some(server) = server.as_ref().filter(|_| peer.prestarts) {
        server.await_prestarted(Duration::from_millis(300), settings.timeout);
    }
    let direct = Endpoint::Tcp(target.address);
    let endpoint = server.as_ref().map_or(&direct, |server| &server.endpoint);
    let mib = |outcome: load::BulkOutcome| {
        if !outcome.complete {
            bail!("bulk data is incomplete");
        }
        Ok(outcome.received as f64 / f64::from(1 << 20) / outcome.took.as_secs_f64().max(1e-9))
    };
    // Of the server and its handlers, which have ended by then.
    let cpu = || {
        let server = server.as_ref()?;
        server.await_idle(Duration::from_secs(1));
        let times = server.cpu_times().ok()?;
        Some((times.own + times.children).as_secs_f64() * 1e3)
    };
    let before = cpu();
    let each = |count: f64| Some((cpu()? - before?) / count.max(1.0));
    Ok(match handler.reply {
        Reply::Line => {
            let load = StreamLoad {
                endpoints: std::slice::from_ref(endpoint),
                clients: settings.usual_clients(),
                threads: settings.load_threads,
                warm_up: settings.window / 4,
                window: settings.window,
                timeout: settings.timeout,
                reply: handler.reply,
                interrupted,
            };
            let outcome = load.run()?;
            if outcome.failures.total() > 0 {
                eprintln!("skd-bench: {}: {:?}", peer.name, outcome.failures);
            }
            let rate = outcome.in_window as f64 / settings.window.as_secs_f64();
            let each = each(outcome.completed as f64).map(|each| (1, each));
            [(0, rate)].into_iter().chain(each).collect()
        }
        Reply::Send(count) => {
            let outcome = load::receive(endpoint, count, settings.timeout)?;
            let each = each(count as f64 / f64::from(1 << 20)).map(|each| (3, each));
            [(2, mib(outcome)?)].into_iter().chain(each).collect()
        }
        Reply::Echo => {
            let outcome = load::echo(endpoint, settings.bulk_bytes, settings.timeout)?;
            vec![(4, mib(outcome)?)]
        }
        _ => {
            let Some(server) = &server else {
                return Ok(Vec::new());
            };
            let before = footprint(server)?;
            let held = load::hold(endpoint, HELD, settings.timeout, interrupted);
            let after = footprint(server)?;
            let each = |before: u64, after: u64| {
                after.saturating_sub(before) as f64 / held.len().max(1) as f64
            };
            vec![(5, each(before.0, after.0)), (6, each(before.1, after.1))]
        }
    })
}

/// Returns the memory in KiB of a server and its handlers, where pages that copies share count once, and the
/// number of their pipes. The kernel's own memory isn't in it.
fn footprint(server: &Server) -> Result<(u64, u64)> {
    let (mut memory, mut ends) = (0, 0);
    for pid in server.processes()? {
        // A process may have ended.
        memory += proc::proportional_anonymous_kib(pid).unwrap_or(0);
        ends += proc::pipe_ends(pid).unwrap_or(0);
    }
    Ok((memory, ends / 2))
}

impl Row {
    /// Returns the row as a server; `None` if its program isn't there.
    fn peer(&self, options: &Options) -> Result<Option<Peer>> {
        let mut command = self.command.to_owned();
        let program = match self.program {
            Program::Direct => PathBuf::new(),
            Program::Other(name) => match find_in_path(name) {
                Ok(path) => path,
                Err(_) => return Ok(None),
            },
            Program::Skd(forward) => {
                let Some(skd) = peers::find_skd(options)? else {
                    return Ok(None);
                };
                let target = skd.parent().and_then(Path::parent);
                let Some(forward) = target
                    .map(|target| target.join(forward))
                    .filter(|path| path.is_file())
                else {
                    return Ok(None);
                };
                command = command.replace("{forward}", &forward.to_string_lossy());
                skd
            }
        };
        let recipe = Recipe {
            words: command.split(' ').map(str::to_owned).collect(),
            config: self.config.map(str::to_owned),
            daemonises: false,
        };
        let recipes = match self.program {
            Program::Direct => BTreeMap::new(),
            _ => BTreeMap::from([(Transport::Tcp, recipe)]),
        };
        Ok(Some(Peer {
            name: self.name.to_owned(),
            program,
            version: None,
            recipes,
            processes_each: 1,
            only: None,
            prestarts: self.command == FORK,
            helpers: false,
            p256_only: false,
            mode_of: None,
            before_of: None,
            remark: "",
        }))
    }
}

/// A server that the forwarders connect to.
struct Target {
    address: SocketAddrV4,
    reply: Reply,
}

/// Threads that accept. A connection may have to wait for its client.
const THREADS: usize = 16;

impl Target {
    /// Starts a server of the kind that its clients expect. It runs until this process ends.
    fn start(reply: Reply) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(4096)?)?;
        let std::net::SocketAddr::V4(address) = listener.local_addr()? else {
            bail!("no IPv4 address");
        };
        for _ in 0..THREADS {
            let listener = listener.try_clone()?;
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    // A client that goes away is counted there.
                    if reply == Reply::Gate {
                        std::thread::spawn(move || serve(&stream, reply));
                    } else {
                        let _ = serve(&stream, reply);
                    }
                }
            });
        }
        Ok(Self { address, reply })
    }

    /// The target as what a server is started for: its words are address and port.
    fn handler(&self) -> Handler {
        Handler {
            name: "target",
            words: vec![
                self.address.ip().to_string(),
                self.address.port().to_string(),
            ],
            reply: self.reply,
            windows: 1,
        }
    }
}

fn serve(mut stream: &TcpStream, reply: Reply) -> std::io::Result<()> {
    let mut buffer = vec![0; if reply == Reply::Echo { 256 << 10 } else { 64 }];
    match reply {
        Reply::Send(count) => {
            let zeros = vec![0; 256 << 10];
            let mut left = count;
            while left > 0 {
                let length = usize::try_from(left)
                    .unwrap_or(zeros.len())
                    .min(zeros.len());
                stream.write_all(&zeros[..length])?;
                left -= length as u64;
            }
        }
        Reply::Echo => loop {
            let length = stream.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            stream.write_all(&buffer[..length])?;
        },
        Reply::Line => {
            let length = stream.read(&mut buffer)?;
            stream.write_all(&buffer[..length])?;
        }
        _ => {
            stream.write_all(ANSWER)?;
            let _ = stream.read(&mut buffer)?;
        }
    }
    stream.shutdown(Shutdown::Write)
}

/// Returns the medians as a Markdown table, with the ratios to the base in parentheses: those of a round, and of
/// these the median.
fn table(
    rows: &[(&Row, Peer)],
    samples: &BTreeMap<(usize, usize), Vec<f64>>,
    base: Option<usize>,
) -> String {
    let mut text = format!("| forwarder | {} |\n| --- |", COLUMNS.join(" | "));
    text.push_str(&" ---: |".repeat(COLUMNS.len()));
    for (index, (row, _)) in rows.iter().enumerate() {
        let _ = write!(text, "\n| {} |", row.name);
        for column in 0..COLUMNS.len() {
            let figures = samples.get(&(index, column));
            let Some(median) = figures.and_then(|figures| Summary::of(figures.iter().copied()))
            else {
                text.push_str(" |");
                continue;
            };
            let digits = if median.median < 10.0 { 2 } else { 0 };
            let _ = write!(text, " {:.*}", digits, median.median);
            let others = base.and_then(|base| samples.get(&(base, column)));
            if let (Some(figures), Some(others), 0..5) = (figures, others, column) {
                let ratios = figures.iter().zip(others).map(|(one, other)| one / other);
                if let Some(ratio) = Summary::of(ratios) {
                    let _ = write!(text, " ({:.2})", ratio.median);
                }
            }
            text.push_str(" |");
        }
    }
    text
}
