//! What a preflight has read and looked up, for the process that goes on: it reads no file, and looks up
//! no name. So a file that changes between the two has no effect.
//!
//! Findings are in a memory file of their own: a JSON document, and after it the compiled rules.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;

use serde::{Deserialize, Serialize};

use super::saved_identity::SavedIdentity;
use crate::config::seccomp::FilterFile;
use crate::config::{EnvironmentFile, FileTexts, Identity};
use crate::sys::descriptors;
use crate::sys::objects::Objects;

/// What a preflight has read and looked up.
#[derive(Debug, Default)]
pub struct Findings {
    /// What files say.
    pub texts: FileTexts,
    /// The users that were looked up.
    pub identities: Vec<Identity>,
    /// The files of variables that were read.
    pub environment_files: Vec<EnvironmentFile>,
    /// The files of system calls that were read.
    pub filter_files: Vec<FilterFile>,
    /// The addresses of listeners with a host name: by service, and its listener's index.
    pub addresses: HashMap<(String, usize), Vec<SocketAddr>>,
    /// What other names stand for, by their kinds.
    pub names: HashMap<(String, OsString), (u32, Option<u32>)>,
    /// The compiled rules of each service that has some.
    pub rules: HashMap<String, Vec<u8>>,
}

/// The kind of a name, the name, and what it stands for.
type SavedName = (String, OsString, (u32, Option<u32>));

/// What a memory file has in the place of findings after a failure.
#[derive(Serialize, Deserialize)]
struct Faults {
    faults: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    texts: FileTexts,
    identities: Vec<SavedIdentity>,
    environment_files: Vec<EnvironmentFile>,
    #[serde(default)]
    filter_files: Vec<FilterFile>,
    addresses: Vec<(String, usize, Vec<SocketAddr>)>,
    names: Vec<SavedName>,
    /// The names of services with rules, and how many bytes those have, in the order of the bytes.
    rules: Vec<(String, u64)>,
}

impl Findings {
    /// Writes them into the memory file with this number, which a running skd has left.
    pub(super) fn write(&self, memory: i32) -> io::Result<()> {
        let file = File::from(descriptors::claim(memory)?);
        let rules: Vec<_> = self.rules.iter().collect();
        let addresses = self.addresses.iter();
        let saved = Saved {
            texts: self.texts.clone(),
            identities: self.identities.iter().map(SavedIdentity::save).collect(),
            environment_files: self.environment_files.clone(),
            filter_files: self.filter_files.clone(),
            addresses: addresses
                .map(|((service, index), addresses)| (service.clone(), *index, addresses.clone()))
                .collect(),
            names: self
                .names
                .iter()
                .map(|((kind, name), found)| (kind.clone(), name.clone(), *found))
                .collect(),
            rules: rules
                .iter()
                .map(|(name, bytes)| ((*name).clone(), bytes.len() as u64))
                .collect(),
        };
        let text = serde_json::to_vec(&saved)?;
        file.write_all_at(&text, 0)?;
        let mut at = text.len() as u64;
        for (_, bytes) in rules {
            file.write_all_at(bytes, at)?;
            at += bytes.len() as u64;
        }
        Ok(())
    }

    /// Reads them from the memory file with this number, if a preflight has written some.
    pub(super) fn read(memory: i32) -> io::Result<Option<Self>> {
        let file = File::from(descriptors::claim(memory)?);
        let length = usize::try_from(file.metadata()?.len()).unwrap_or_default();
        if length == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, 0)?;
        Self::parse(&bytes).map(Some)
    }

    /// Writes in their place why this binary can't go on, into the memory file with this number.
    pub(super) fn write_faults(memory: i32, faults: Vec<String>) -> io::Result<()> {
        let file = File::from(descriptors::claim(memory)?);
        file.set_len(0)?;
        file.write_all_at(&serde_json::to_vec(&Faults { faults })?, 0)
    }

    /// Returns why the binary that had this memory file couldn't go on, as far as it has written
    /// that.
    pub(in crate::serve) fn faults(file: &File) -> Vec<String> {
        let read = || -> io::Result<Faults> {
            let length = usize::try_from(file.metadata()?.len()).unwrap_or_default();
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, 0)?;
            let Objects(faults) = serde_json::from_slice(&bytes)?;
            Ok(faults)
        };
        // Any program may have run, of which nothing is expected.
        read().map_or_else(|_| Vec::new(), |it| it.faults)
    }

    /// The same of the memory file with this number.
    pub(super) fn faults_in(memory: i32) -> Vec<String> {
        let file = descriptors::claim(memory).map(File::from);
        file.map_or_else(|_| Vec::new(), |file| Self::faults(&file))
    }

    /// Parses a document, and the rules after it.
    pub fn parse(bytes: &[u8]) -> io::Result<Self> {
        let mut documents = serde_json::Deserializer::from_slice(bytes).into_iter();
        let Objects(saved): Objects<Saved> =
            documents.next().ok_or(io::ErrorKind::UnexpectedEof)??;
        let mut rest = bytes.get(documents.byte_offset()..).unwrap_or_default();
        let mut rules = HashMap::new();
        for (name, length) in saved.rules {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let (first, after) = rest
                .split_at_checked(length)
                .ok_or(io::ErrorKind::UnexpectedEof)?;
            rules.insert(name, first.to_vec());
            rest = after;
        }
        let addresses = saved.addresses.into_iter();
        Ok(Self {
            texts: saved.texts,
            identities: saved
                .identities
                .iter()
                .map(SavedIdentity::restore)
                .collect(),
            environment_files: saved.environment_files,
            filter_files: saved.filter_files,
            addresses: addresses
                .map(|(service, index, addresses)| ((service, index), addresses))
                .collect(),
            names: saved
                .names
                .into_iter()
                .map(|(kind, name, found)| ((kind, name), found))
                .collect(),
            rules,
        })
    }
}
