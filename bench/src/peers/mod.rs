//! The servers: which there are, their commands, and running them.

mod argument;
mod catalogue;
mod certificates;
mod recipe;
mod server;
mod version;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};

pub(crate) use argument::PeerArgument;
pub(crate) use catalogue::{SANDBOX, TLS};
pub(crate) use certificates::{Certificate, Certificates, HOST};
pub(crate) use recipe::{Endpoint, Recipe};
pub(crate) use server::{PROBE_TIMEOUT, Probe, Server, Workspace};

use crate::handlers::find_in_path;
use crate::options::{Group, Options};

/// The environment of servers and handlers. It is small, since the kernel copies each variable for
/// each process.
pub(crate) fn environment() -> [(&'static str, String); 2] {
    [
        ("PATH", std::env::var("PATH").unwrap_or_default()),
        // systemd-socket-activate writes a line for each connection.
        ("SYSTEMD_LOG_LEVEL", "err".to_owned()),
    ]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Transport {
    Tcp,
    Unix,
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Unix => "unix",
            Self::Udp => "UDP",
        })
    }
}

/// A server that can be started.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub name: String,
    pub program: PathBuf,
    pub version: Option<String>,
    pub recipes: BTreeMap<Transport, Recipe>,
    /// Processes for each connection: 2 with a relay between socket and handler.
    pub processes_each: usize,
    /// The only group that it takes part in.
    pub only: Option<Group>,
    /// Starts processes before their clients connect.
    pub prestarts: bool,
    /// Has processes of its own program, which serve all connections.
    pub helpers: bool,
    /// Agrees on keys by P-256 only, where others do by X25519 (TLS).
    pub p256_only: bool,
    /// The server that this is with other options.
    pub mode_of: Option<&'static str>,
    /// The server that this is an earlier binary of.
    pub before_of: Option<String>,
    /// What a reader must know about its figures.
    pub remark: &'static str,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Missing {
    pub name: String,
    pub package: String,
}

#[derive(Debug)]
pub(crate) struct Found {
    pub peers: Vec<Peer>,
    pub missing: Vec<Missing>,
}

impl Peer {
    pub(crate) fn takes_part(&self, group: Group) -> bool {
        takes_part(self.only, group)
    }

    /// Returns the peer with a value for a placeholder in its recipes.
    pub(crate) fn with(mut self, placeholder: &str, value: &str) -> Self {
        let recipes = self.recipes.into_iter();
        let filled = recipes.map(|(kind, recipe)| (kind, recipe.with(placeholder, value)));
        self.recipes = filled.collect();
        self
    }
}

/// Whether a server that is limited to `only`, if to any, takes part in `group`. Some groups have servers of
/// their own alone.
fn takes_part(only: Option<Group>, group: Group) -> bool {
    let of_their_own = matches!(group, Group::Tls | Group::Scripts | Group::Growth);
    only.map_or(!of_their_own, |only| only == group)
}

/// Returns the installed servers and those of the command line, as selected there. Missing are only
/// those that would have been measured.
pub(crate) fn find(options: &Options) -> Result<Found> {
    let mut peers = Vec::new();
    let mut missing = Vec::new();
    let before = options.before.as_deref();
    let before = before.map(|path| file("--before", path)).transpose()?;
    let skd = find_skd(options)?;
    for known in catalogue::KNOWN {
        let program = match (known.program, &options.nsjail, &options.s6_tlsserver) {
            ("skd", ..) => skd.clone(),
            ("nsjail", Some(path), _) => Some(file("--nsjail", path)?),
            ("s6-tlsserver", _, Some(path)) => Some(file("--s6-tlsserver", path)?),
            (program, ..) => find_in_path(program).ok(),
        };
        let program = program.filter(|program| known.is_usable(program));
        let peer = program.and_then(|program| with_skd(known.peer(program), skd.as_deref()));
        match peer {
            Some(peer) => {
                peers.push(peer);
                if let Some(before) = before.as_deref().filter(|_| known.is_skd_stream()) {
                    peers.push(known.before(before.to_owned()));
                }
            }
            None if known.is_measured(&options.only) => missing.push(Missing {
                name: known.name.to_owned(),
                package: known.package.to_owned(),
            }),
            None => {}
        }
    }
    for argument in options.peers.iter().chain(&options.datagram_peers) {
        // A peer of the command line replaces one of the catalogue.
        missing.retain(|known| known.name != argument.name);
        argument.add_to(&mut peers)?;
    }
    if !options.servers.is_empty() {
        for name in &options.servers {
            if let Some(missing) = missing.iter().find(|known| known.name == *name) {
                bail!(
                    "{name} is not installed (Debian package {})",
                    missing.package
                );
            }
            if !peers.iter().any(|peer| peer.name == *name) {
                let names: Vec<_> = peers.iter().map(|peer| peer.name.as_str()).collect();
                bail!("no server '{name}': there are {}", names.join(", "));
            }
        }
        let named = |name: &String| options.servers.contains(name);
        peers.retain(|peer| named(&peer.name) || peer.before_of.as_ref().is_some_and(named));
        missing.clear();
    } else if before.is_some() {
        let compared: Vec<_> = peers
            .iter()
            .filter_map(|peer| peer.before_of.clone())
            .collect();
        peers.retain(|peer| {
            peer.before_of.is_some()
                || compared.contains(&peer.name)
                || peer.remark == argument::FROM_OPTION
        });
        missing.clear();
    }
    Ok(Found { peers, missing })
}

/// Returns a peer that runs skd too with its path; `None` if there is no skd.
fn with_skd(peer: Peer, skd: Option<&Path>) -> Option<Peer> {
    const SKD: &str = "{skd}";
    if peer.recipes.values().any(|recipe| recipe.has(SKD)) {
        return Some(peer.with(SKD, skd?.to_str()?));
    }
    Some(peer)
}

fn file(option: &str, path: &Path) -> Result<PathBuf> {
    match path.canonicalize() {
        Ok(path) if path.is_file() => Ok(path),
        _ => bail!("{option}: no file '{}'", path.display()),
    }
}

/// Finds skd: the path of --skd, else the release build beside this program or in target/, else the
/// one in PATH.
pub(crate) fn find_skd(options: &Options) -> Result<Option<PathBuf>> {
    if let Some(path) = &options.skd {
        return file("--skd", path).map(Some);
    }
    let beside = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.parent()?.parent()?.join("release/skd")));
    let built = beside
        .into_iter()
        .chain([PathBuf::from("target/release/skd")]);
    let built = built
        .filter_map(|path| path.canonicalize().ok())
        .find(|path| path.is_file());
    Ok(built.or_else(|| find_in_path("skd").ok()))
}
