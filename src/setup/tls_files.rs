//! The files of TLS: opened while skd may, and handed to skd-tls unread.
//!
//! They are opened again at SIGHUP, when the root directory, working directory and user may have changed.
//! So the root directory of the start stays open, and all paths begin there.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{self, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use skd_tls_protocol::{self as protocol, CertificateFiles, FileIndex, Settings};

use crate::config::{Daemon, Service, Tls};
use crate::error::{At, Error, Reason};
use crate::sys::descriptors::{self, SavedDescriptors};
use crate::sys::directory::{Directory, Entry, SavedDirectory};
use crate::sys::trusted::{Purpose, Refusal};

/// What skd-tls is to do, and the files for it.
#[derive(Debug)]
pub struct TlsFiles {
    /// The settings, which name files by their index.
    pub settings: Settings,
    /// The files, in the order of their indices. Where skd-tls reads, the position of each is shared with
    /// skd and all earlier processes of skd-tls.
    pub files: Vec<OwnedFd>,
    sources: Arc<Sources>,
}

/// The files as they are saved for the next binary.
#[derive(Debug, Serialize, Deserialize)]
pub struct SavedTlsFiles {
    settings: Settings,
    files: Vec<i32>,
    root: SavedDirectory,
    sources: Vec<Source>,
    labels: Vec<(String, String)>,
}

/// Where the files are.
#[derive(Debug)]
struct Sources {
    /// The root directory of the start.
    root: Directory,
    /// In the order of their indices.
    all: Vec<Source>,
    /// The names of services, and the beginnings of messages about them.
    labels: Vec<(String, String)>,
}

/// A file.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Source {
    /// The absolute path.
    path: PathBuf,
    /// The beginning of messages: the first service that has it, if that is from a file.
    label: String,
    what: What,
    /// Whether there is a private key in it, besides what it is.
    has_key: bool,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum What {
    Certificate,
    Key,
    Ocsp,
    ClientCa,
    Crl,
    Keylog,
}

impl TlsFiles {
    /// Opens the files of all services, each once. A key that other users can read is an error. Returns
    /// `None` if no service has TLS.
    pub fn open(services: &[Service], daemon: &Daemon) -> Result<Option<Self>, Error> {
        let opened = Self::open_or_faults(services, daemon.tls.keylog.as_deref());
        opened.map_err(|faults| {
            let first = faults.into_iter().next();
            first.unwrap_or_else(|| Error::Start("the files of --tls can't be opened".into()))
        })
    }

    /// Opens all files but the one of `--tls-keylog`, which could have to be made; whether it could be
    /// opened is predicted. Returns all faults.
    pub fn check(services: &[Service], daemon: &Daemon) -> Result<Option<Self>, Vec<Error>> {
        let opened = Self::open_or_faults(services, None);
        let keylog = daemon.tls.keylog.as_deref().map_or(Ok(()), check_keylog);
        match (opened, keylog) {
            (Err(mut faults), Err(fault)) => {
                faults.push(fault);
                Err(faults)
            }
            (Ok(_), Err(fault)) => Err(vec![fault]),
            (opened, Ok(())) => opened,
        }
    }

    fn open_or_faults(
        services: &[Service],
        keylog: Option<&Path>,
    ) -> Result<Option<Self>, Vec<Error>> {
        let planned = plan(services, keylog).map_err(|error| vec![error])?;
        let Some((settings, sources)) = planned else {
            return Ok(None);
        };
        Ok(Some(Self {
            settings,
            files: sources.open()?,
            sources: Arc::new(sources),
        }))
    }

    /// Whether these are the files of these services. In another root directory than at the start, relative
    /// paths are others.
    pub fn are_of(&self, services: &[Service], daemon: &Daemon, in_root: bool) -> bool {
        let planned = plan(services, daemon.tls.keylog.as_deref());
        let Ok(Some((settings, _))) = planned else {
            return false;
        };
        let Settings {
            files,
            services,
            keylog,
        } = settings;
        let is_same = (services, keylog) == (self.settings.services.clone(), self.settings.keylog);
        is_same && (in_root || files == self.settings.files)
    }

    /// Opens the same files again, which may be others by now, or returns all faults. What is open already
    /// stays open.
    pub fn open_again(&self) -> Result<Self, Vec<Error>> {
        Ok(Self {
            settings: self.settings.clone(),
            files: self.sources.open()?,
            sources: Arc::clone(&self.sources),
        })
    }

    /// Returns a sentence of skd-tls with the beginning that other messages about its service have, in place
    /// of `service NAME: `.
    pub fn labelled(&self, sentence: &str) -> String {
        let named = sentence.strip_prefix("service ");
        let named = named.and_then(|rest| rest.split_once(": "));
        let found = named.and_then(|(name, rest)| {
            let label = self.sources.labels.iter().find(|(own, _)| own == name);
            label.map(|(_, label)| format!("{label}{rest}"))
        });
        found.unwrap_or_else(|| sentence.to_owned())
    }

    /// Saves them for the next binary.
    pub fn save(&self, to: &mut SavedDescriptors) -> Result<SavedTlsFiles, Errno> {
        let files = self.files.iter().map(|file| to.pass(file));
        Ok(SavedTlsFiles {
            settings: self.settings.clone(),
            files: files.collect::<Result<_, _>>()?,
            root: self.sources.root.save(to)?,
            sources: self.sources.all.clone(),
            labels: self.sources.labels.clone(),
        })
    }

    /// Restores those of the previous binary.
    pub fn restore(saved: SavedTlsFiles) -> Result<Self, Errno> {
        let files = saved.files.into_iter().map(descriptors::claim);
        Ok(Self {
            settings: saved.settings,
            files: files.collect::<Result<_, _>>()?,
            sources: Arc::new(Sources {
                root: Directory::restore(saved.root)?,
                all: saved.sources,
                labels: saved.labels,
            }),
        })
    }
}

impl Sources {
    /// Opens all files, or returns all faults.
    fn open(&self) -> Result<Vec<OwnedFd>, Vec<Error>> {
        let mut opened = Vec::new();
        let mut faults = Vec::new();
        for source in &self.all {
            match source.open(&self.root) {
                Ok(file) => opened.push(file),
                Err(why) => faults.push(Error::Start(format!("{}{source} {why}", source.label))),
            }
        }
        match faults.is_empty() {
            true => Ok(opened),
            false => Err(faults),
        }
    }
}

impl Source {
    fn open(&self, root: &Directory) -> Result<OwnedFd, String> {
        let below = self.path.strip_prefix("/").unwrap_or(&self.path);
        let failed = |why| self.cannot_open(why);
        if self.what == What::Keylog {
            return root.open_secrets(below).map(OwnedFd::from).map_err(failed);
        }
        let file = root.open_file(below).map_err(failed)?;
        self.judge(&file)?;
        Ok(file.into())
    }

    /// Refuses a file that other users could have read a key from, or written to. With rights of its group
    /// an administrator shares it on purpose.
    fn judge(&self, file: &File) -> Result<(), String> {
        const READ: u32 = 0o004;
        const WRITTEN: u32 = 0o002;
        let mode = file
            .metadata()
            .map_err(|reason| self.cannot_open(reason_of(reason)))?;
        let mode = mode.mode();
        let path = self.path.display();
        if self.has_key && mode & READ != 0 {
            // skd reads no key, so it doesn't know whether there is one.
            let hint = match self.what {
                What::Key => "if CERT:KEY are in this order",
                _ => "name the file of the key as CERT:KEY, or, if it is in here",
            };
            return Err(format!(
                "can be read by every user, and the private key is expected in it; {hint}, run \
                 chmod o= {path}, and replace the key if others may have read it"
            ));
        }
        if mode & WRITTEN != 0 {
            return Err(format!(
                "can be written by every user; run chmod o-w {path}"
            ));
        }
        Ok(())
    }

    fn cannot_open(&self, why: Refusal) -> String {
        match why {
            Refusal::Failed(Errno::ESPIPE | Errno::ENXIO | Errno::ENODEV) => {
                "isn't a regular file, so it can't be read again at SIGHUP".into()
            }
            Refusal::Failed(errno) => {
                format!("can't be opened: {}", At(errno, &self.path).reason())
            }
            why => format!("can't be opened: {why}"),
        }
    }
}

fn reason_of(error: io::Error) -> Refusal {
    Refusal::Failed(Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (option, what) = match self.what {
            What::Certificate => ("tls", "certificate"),
            What::Key => ("tls", "private key"),
            What::Ocsp => ("tls-ocsp", "OCSP response"),
            What::ClientCa => ("tls-client-ca", "certificates of authorities"),
            What::Crl => ("tls-crl", "revocation list"),
            What::Keylog => ("tls-keylog", "log of secrets"),
        };
        write!(f, "--{option}: the {what} {}", self.path.display())
    }
}

/// Predicts whether the log of secrets can be opened.
fn check_keylog(path: &Path) -> Result<(), Error> {
    let source = Source {
        path: path::absolute(path).unwrap_or_else(|_| path.to_owned()),
        label: String::new(),
        what: What::Keylog,
        has_key: false,
    };
    let checked = Entry::of(path).and_then(|entry| entry.check(&Purpose::SECRETS));
    checked.map_err(|why| Error::Start(format!("{source} {}", source.cannot_open(why))))
}

/// Returns what skd-tls is to do, and where the files for it are; nothing if no service has TLS.
fn plan(services: &[Service], keylog: Option<&Path>) -> Result<Option<(Settings, Sources)>, Error> {
    let mut list = List::default();
    let mut settings = Settings::default();
    for service in services {
        let Some(tls) = &service.tls else { continue };
        settings.services.push(list.service(service, tls)?);
    }
    if settings.services.is_empty() {
        return Ok(None);
    }
    if let Some(path) = keylog {
        // It is open for writing, whatever else is at its path.
        settings.keylog = Some(list.push(absolute(path)?, What::Keylog, ""));
    }
    let paths = list.all.iter().map(|source| source.path.display());
    settings.files = paths.map(|path| path.to_string()).collect();
    let root = Directory::open(Path::new("/")).map_err(|why| {
        let what = "can't open the root directory for the files of --tls";
        Error::start(what, io::Error::from(why))
    })?;
    let with_tls = services.iter().filter(|service| service.tls.is_some());
    let labels = with_tls.map(|service| (service.name.clone(), service.label()));
    let sources = Sources {
        root,
        all: list.all,
        labels: labels.collect(),
    };
    Ok(Some((settings, sources)))
}

fn absolute(path: &Path) -> Result<PathBuf, Error> {
    path::absolute(path).map_err(|reason| {
        let path = path.display();
        Error::start(format!("can't find the directory of {path}"), reason)
    })
}

/// The files so far. Those that are read are in it once.
#[derive(Default)]
struct List {
    all: Vec<Source>,
    indices: HashMap<PathBuf, usize>,
}

impl List {
    /// Adds a file that is read, and returns its index.
    fn add(&mut self, path: &Path, what: What, label: &str) -> Result<FileIndex, Error> {
        let path = absolute(path)?;
        if let Some(index) = self.indices.get(&path) {
            return Ok(FileIndex(*index));
        }
        let index = self.push(path.clone(), what, label);
        self.indices.insert(path, index.0);
        Ok(index)
    }

    fn push(&mut self, path: PathBuf, what: What, label: &str) -> FileIndex {
        self.all.push(Source {
            path,
            label: label.to_owned(),
            what,
            has_key: false,
        });
        FileIndex(self.all.len() - 1)
    }

    /// Adds the files of a service.
    fn service(&mut self, service: &Service, tls: &Tls) -> Result<protocol::Service, Error> {
        let label = service.label();
        let mut all = |paths: &[PathBuf], what: What| {
            let indices = paths.iter().map(|path| self.add(path, what, &label));
            indices.collect::<Result<Vec<_>, _>>()
        };
        let ocsp = all(&tls.ocsp, What::Ocsp)?;
        let client_ca = all(&tls.client_ca, What::ClientCa)?;
        let crl = all(&tls.crl, What::Crl)?;
        let mut certificates = Vec::new();
        for certificate in &tls.certificates {
            let chain = self.add(&certificate.chain, What::Certificate, &label)?;
            let key = self.add(certificate.key_file(), What::Key, &label)?;
            if let Some(source) = self.all.get_mut(key.0) {
                source.has_key = true;
            }
            certificates.push(CertificateFiles { chain, key });
        }
        let idle = service.admission.idle_timeout.map(Duration::from);
        Ok(protocol::Service {
            name: service.name.clone(),
            certificates,
            ocsp,
            strict_sni: tls.strict_sni,
            client: tls.client,
            client_ca,
            crl,
            min: tls.min,
            alpn: tls.alpn.clone(),
            idle: idle.map(|idle| u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)),
        })
    }
}
