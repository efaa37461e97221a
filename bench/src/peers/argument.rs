//! `--peer NAME=COMMAND`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{Peer, Recipe, Transport};
use crate::handlers::find_in_path;

/// A server from the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PeerArgument {
    pub name: String,
    pub transport: Transport,
    /// The words of the command, with placeholders.
    pub words: Vec<String>,
}

impl PeerArgument {
    /// Parses a command for TCP, or for unix sockets if it contains {path}.
    pub(crate) fn stream(text: &str) -> Result<Self, String> {
        let (name, words) = split(text)?;
        let transport = match (holds(&words, "{path}"), holds(&words, "{port}")) {
            (true, false) => Transport::Unix,
            (false, true) => Transport::Tcp,
            _ => return Err("the command needs either {port} or {path}".to_owned()),
        };
        Ok(Self {
            name,
            transport,
            words,
        })
    }

    pub(crate) fn datagram(text: &str) -> Result<Self, String> {
        let (name, words) = split(text)?;
        if !holds(&words, "{port}") || holds(&words, "{path}") {
            return Err("the command needs {port}, and datagrams have no {path}".to_owned());
        }
        Ok(Self {
            name,
            transport: Transport::Udp,
            words,
        })
    }

    /// Adds the command to the peer of this name, or adds such a peer. A peer of the catalogue with
    /// this name is removed.
    pub(super) fn add_to(&self, peers: &mut Vec<Peer>) -> Result<()> {
        let program = self.program()?;
        let mut words = self.words.clone();
        "{program}".clone_into(&mut words[0]);
        let recipe = Recipe {
            words,
            config: None,
            daemonises: false,
        };
        peers.retain(|peer| peer.name != self.name || peer.remark == FROM_OPTION);
        // A peer may have one program for TCP and another for unix sockets.
        let recipe = match peers.iter().find(|peer| peer.name == self.name) {
            Some(peer) if peer.program != program => recipe.with_program(&program),
            _ => recipe,
        };
        if let Some(peer) = peers.iter_mut().find(|peer| peer.name == self.name) {
            peer.recipes.insert(self.transport, recipe);
        } else {
            peers.push(Peer {
                name: self.name.clone(),
                program,
                version: None,
                recipes: BTreeMap::from([(self.transport, recipe)]),
                processes_each: 1,
                only: None,
                prestarts: false,
                helpers: false,
                p256_only: false,
                mode_of: None,
                before_of: None,
                remark: FROM_OPTION,
            });
        }
        Ok(())
    }

    fn program(&self) -> Result<PathBuf> {
        let program = Path::new(&self.words[0]);
        if program.components().count() > 1 {
            program
                .canonicalize()
                .with_context(|| format!("--peer {}: no file '{}'", self.name, self.words[0]))
        } else {
            find_in_path(&self.words[0]).with_context(|| format!("--peer {}", self.name))
        }
    }
}

pub(super) const FROM_OPTION: &str = "added with --peer";

fn split(text: &str) -> Result<(String, Vec<String>), String> {
    let (name, command) = text.split_once('=').ok_or("NAME=COMMAND is needed")?;
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if name.is_empty() || !name.chars().all(allowed) {
        return Err(format!(
            "'{name}' is not a name: use letters, digits, '.', '_' and '-'"
        ));
    }
    let words = shell_words::split(command).map_err(|_| "a quotation mark is not closed")?;
    match words.first() {
        None => return Err("the command is empty".to_owned()),
        Some(program) if program.contains('{') => {
            return Err("the command must begin with a program, not a placeholder".to_owned());
        }
        Some(_) => {}
    }
    if !holds(&words, "{handler}") {
        return Err("the command needs {handler}".to_owned());
    }
    if let Some(unknown) = words.iter().find_map(|word| unknown_placeholder(word)) {
        return Err(format!(
            "'{unknown}' is not a placeholder: use {{address}}, {{port}}, {{path}} and {{handler}}"
        ));
    }
    Ok((name.to_owned(), words))
}

fn holds(words: &[String], placeholder: &str) -> bool {
    words.iter().any(|word| word.contains(placeholder))
}

fn unknown_placeholder(word: &str) -> Option<&str> {
    let start = word.find('{')?;
    let end = start + word[start..].find('}')? + 1;
    match &word[start..end] {
        "{address}" | "{port}" | "{path}" | "{handler}" => unknown_placeholder(&word[end..]),
        unknown => Some(unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_placeholder_selects_tcp_or_unix() {
        let tcp = PeerArgument::stream("skd-1.2=/opt/skd -t {address}:{port} {handler}");
        let words = ["/opt/skd", "-t", "{address}:{port}", "{handler}"]
            .map(str::to_owned)
            .to_vec();
        let expected = PeerArgument {
            name: "skd-1.2".to_owned(),
            transport: Transport::Tcp,
            words,
        };
        assert_eq!(tcp, Ok(expected));
        let unix = PeerArgument::stream("skd-1.2=skd -l {path} {handler}");
        assert_eq!(unix.map(|peer| peer.transport), Ok(Transport::Unix));
    }

    #[test]
    fn quotes_keep_words_together_and_equal_signs_may_follow() {
        let peer = PeerArgument::stream("s=socat TCP-LISTEN:{port},fork 'EXEC:{handler},pty=1 x'");
        let words = peer.map(|peer| peer.words).unwrap_or_default();
        assert_eq!(
            words.last().map(String::as_str),
            Some("EXEC:{handler},pty=1 x")
        );
    }

    #[test]
    fn datagrams() {
        let peer = PeerArgument::datagram("x=udpsvd {address} {port} {handler}");
        assert_eq!(peer.map(|peer| peer.transport), Ok(Transport::Udp));
        assert!(PeerArgument::datagram("x=udpsvd {path} {handler}").is_err());
    }

    #[test]
    fn bad_arguments_are_refused_with_the_reason() {
        for (text, reason) in [
            ("tcpserver", "NAME=COMMAND"),
            ("=x {port} {handler}", "not a name"),
            ("a b=x {port} {handler}", "not a name"),
            ("a=", "empty"),
            ("a={handler} {port}", "begin with a program"),
            ("a=x {port}", "{handler}"),
            ("a=x {handler}", "either {port} or {path}"),
            ("a=x {port} {path} {handler}", "either {port} or {path}"),
            ("a=x {prot} {handler}", "{prot}"),
            ("a=x '{port} {handler}", "quotation mark"),
        ] {
            match PeerArgument::stream(text) {
                Ok(_) => assert_eq!(text, "refused"),
                Err(error) => assert!(error.contains(reason), "{text}: {error}"),
            }
        }
    }
}
