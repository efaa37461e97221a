//! `skd-bench`: measures skd beside the socket daemons installed on this machine.

mod forward;
mod handlers;
mod load;
mod machine;
mod measure;
mod options;
mod peers;
mod proc;
mod report;
mod results;
mod samples;
mod stats;
mod sys;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use clap::Parser;
use nix::sys::prctl::set_child_subreaper;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::handlers::Handlers;
use crate::machine::Machine;
use crate::measure::Bench;
use crate::options::{Options, Settings};
use crate::peers::{Found, Workspace};
use crate::results::{Results, ServerInfo};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("skd-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    if options.render {
        report::render(&options.output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let settings = Settings::from_options(options);
    let found = peers::find(options)?;
    if options.list {
        report::list(&found);
        return Ok(ExitCode::SUCCESS);
    }
    if options.add {
        report::check_page(&options.output)?;
    }
    if found.peers.is_empty() {
        bail!("there is no server to measure");
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, Arc::clone(&interrupted))?;
    }
    // Handlers that outlive their server become children of this process, which can end them
    // safely.
    set_child_subreaper(true).context("cannot become a subreaper")?;
    raise_open_files()?;

    let folder = tempfile::Builder::new()
        .prefix("skd-bench-")
        // Handlers of another user are run from it.
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir()?;
    if options.forward {
        forward::run(options, folder.path(), &interrupted)?;
        return Ok(ExitCode::SUCCESS);
    }
    let handlers = Handlers::prepare(folder.path(), &settings.handlers, settings.bulk_bytes)?;
    let tiny = handlers::tiny(folder.path())?;
    let workspace = Workspace::new(folder.path());
    let (results, peers) = empty_results(&settings, found);
    let bench = Bench::new(
        settings,
        peers,
        handlers,
        tiny,
        workspace,
        interrupted,
        results,
    );
    let results = bench.run()?;

    report::print(&results);
    report::write(&results, &options.output, options.add)
        .with_context(|| format!("cannot write to '{}'", options.output.display()))?;
    Ok(verdict(&results))
}

/// Returns results without figures, and the peers to measure.
fn empty_results(settings: &Settings, found: Found) -> (Results, Vec<peers::Peer>) {
    let results = Results {
        format: results::FORMAT,
        date: report::today(),
        machine: Machine::describe(),
        settings: settings.clone(),
        servers: found.peers.iter().map(ServerInfo::of).collect(),
        missing: found.missing,
        problems: Vec::new(),
        interrupted: false,
        kernel: Vec::new(),
        rates: Vec::new(),
        live: Vec::new(),
        costs: Vec::new(),
        bulk: Vec::new(),
        datagrams: Vec::new(),
        prestart: Vec::new(),
        prestart_alone: Vec::new(),
        services: Vec::new(),
        sandbox: Vec::new(),
        sandbox_live: Vec::new(),
        sandbox_memory: Vec::new(),
        tls: Vec::new(),
        tls_bulk: Vec::new(),
        tls_idle: Vec::new(),
        scripts: Vec::new(),
        languages: Vec::new(),
        growth: Vec::new(),
    };
    (results, found.peers)
}

/// The limit of open files. Servers inherit it, and some close as many descriptors for each
/// handler, so the hard limit of a million would slow them down.
const OPEN_FILES: u64 = 20_000;

fn raise_open_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard.min(OPEN_FILES), hard)
        .context("cannot raise the limit of open files")
}

/// Only failures of the base server, in any mode, make the run fail.
fn verdict(results: &Results) -> ExitCode {
    let at_fault = results
        .problems
        .iter()
        .any(|problem| results.is_base(&problem.server));
    if results.interrupted {
        ExitCode::from(130)
    } else if at_fault || results.failed_connections(|server| results.is_base(server)) > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
