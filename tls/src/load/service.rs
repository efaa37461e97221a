//! A service of settings and files.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{KeyLog, ServerConfig};
use skd_tls_protocol::{
    Certificate, CertificateFiles, ClientCertificates, FileIndex, Service, Settings, Version,
};

use super::authorities::{self, Asked};
use super::certified::{self, Certified};
use super::ends::{Warning, Watch, Watched, What};
use super::file::Files;
use super::keylog::Log;
use super::resolver::{Offered, Resolver};
use super::stapling;
use super::tickets::{ServiceTickets, Tickets};
use super::{Loaded, Services, date};

/// How many faults are reported, so that they fit into a packet.
const MAX_FAULTS: usize = 16;

/// How many names of a certificate are reported.
const MAX_NAMES: usize = 100;

/// Loads one service after the other. Services that have the same files share what is made of them.
pub(super) struct Loader<'a> {
    files: Files<'a>,
    provider: Arc<CryptoProvider>,
    tickets: &'a Arc<Tickets>,
    keylog: Option<Arc<dyn KeyLog>>,
    certified: HashMap<(FileIndex, FileIndex), Option<Certified>>,
    asked: HashMap<AskedOf<'a>, Option<Arc<Asked>>>,
    services: Services,
    certificates: Vec<Certificate>,
    watch: Watch,
    faults: Vec<String>,
}

/// Whether clients may have no certificate, the authorities, and the lists.
type AskedOf<'a> = (bool, &'a [FileIndex], &'a [FileIndex]);

impl<'a> Loader<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        files: &'a [OwnedFd],
        tickets: &'a Arc<Tickets>,
    ) -> Self {
        let files = Files::new(settings, files);
        let mut faults = Vec::new();
        let keylog = settings.keylog.and_then(|file| {
            let file = files.descriptor(file).and_then(|it| {
                it.try_clone()
                    .map_err(|why| format!("it can't be kept open: {why}"))
            });
            let log = file.map(|it| Arc::new(Log(File::from(it))) as Arc<dyn KeyLog>);
            log.map_err(|why| faults.push(format!("--tls-keylog: {why}")))
                .ok()
        });
        Self {
            files,
            provider: Arc::new(default_provider()),
            tickets,
            keylog,
            certified: HashMap::new(),
            asked: HashMap::new(),
            services: Services::default(),
            certificates: Vec::new(),
            watch: Watch::default(),
            faults,
        }
    }

    /// Loads a service.
    pub(super) fn add(&mut self, service: &'a Service) {
        let certified: Vec<_> = service
            .certificates
            .iter()
            .filter_map(|of| Some((*of, self.certified(service, *of)?)))
            .collect();
        if service.certificates.is_empty() {
            self.fault(service, "--tls: it needs a certificate");
        }
        let asked = self.asked(service);
        let responses = stapling::read(self.files, service);
        let responses = responses.map_err(|faults| {
            for why in faults {
                self.fault(service, &why);
            }
        });
        let (Some(asked), Ok(responses)) = (asked, responses) else {
            return;
        };
        if certified.len() < service.certificates.len() || certified.is_empty() {
            return;
        }
        let mut watched = watched(self.files, service, &certified);
        let mut warnings = Vec::new();
        for (of, it) in &certified {
            let path = self.files.path(of.chain);
            warnings.extend(it.warnings.iter().map(|why| (path.to_owned(), why.clone())));
        }
        let offered = stapling::staple(self.files, &certified, responses);
        warnings.extend(offered.warnings);
        watched.extend(offered.watched);
        if let Some(asked) = &asked {
            watched.extend(asked.watched.iter().cloned());
            warnings.extend(asked.warnings.iter().cloned());
        }
        for it in &mut watched {
            it.service.clone_from(&service.name);
        }
        let asked = asked.as_deref();
        match self.finish(service, &certified, offered.certificates, asked) {
            Ok(duplicates) => {
                warnings.extend(duplicates);
                self.report(watched, warnings, service);
            }
            Err(why) => self.fault(service, &format!("--tls: {why}")),
        }
    }

    /// Returns what was loaded, or all that is wrong.
    pub(super) fn end(self) -> Result<Loaded, Vec<String>> {
        let mut faults = self.faults;
        if !faults.is_empty() {
            let more = faults.len().saturating_sub(MAX_FAULTS);
            faults.truncate(MAX_FAULTS);
            if more > 0 {
                faults.push(format!("there are more faults: {more}"));
            }
            return Err(faults);
        }
        Ok(Loaded {
            services: self.services,
            certificates: self.certificates,
            watch: self.watch,
        })
    }

    fn fault(&mut self, service: &Service, why: &str) {
        self.faults.push(format!("service {}: {why}", service.name));
    }

    /// Returns a certificate with its key. What is wrong with it is said for the first service that has it.
    fn certified(&mut self, service: &Service, of: CertificateFiles) -> Option<Certified> {
        let key = (of.chain, of.key);
        if let Some(known) = self.certified.get(&key) {
            return known.clone();
        }
        let found = match certified::read(self.files, of) {
            Ok(found) => Some(found),
            Err(faults) => {
                for why in faults {
                    self.fault(service, &why);
                }
                None
            }
        };
        self.certified.insert(key, found.clone());
        found
    }

    /// Returns what is asked of clients, if anything is; nothing if there is something wrong with it.
    #[expect(
        clippy::option_option,
        reason = "a fault, nothing that is asked, or what is asked"
    )]
    fn asked(&mut self, service: &'a Service) -> Option<Option<Arc<Asked>>> {
        if service.client == ClientCertificates::None {
            return Some(None);
        }
        let is_optional = service.client == ClientCertificates::Optional;
        let key = (is_optional, &service.client_ca[..], &service.crl[..]);
        if let Some(known) = self.asked.get(&key) {
            return known.clone().map(Some);
        }
        let found = match authorities::read(self.files, service, &self.provider) {
            Ok(found) => found.map(Arc::new),
            Err(faults) => {
                for why in faults {
                    self.fault(service, &why);
                }
                None
            }
        };
        self.asked.insert(key, found.clone());
        found.map(Some)
    }

    /// Puts a service together. Returns what is to be said about names that are in several certificates.
    fn finish(
        &mut self,
        service: &Service,
        certified: &[(CertificateFiles, Certified)],
        offered: Vec<Offered>,
        asked: Option<&Asked>,
    ) -> Result<Vec<Warning>, rustls::Error> {
        let named = offered.into_iter().zip(certified);
        let named = named.map(|(it, (_, certified))| (it, &certified.facts.hosts[..]));
        let (resolver, duplicates) = Resolver::new(named.collect(), service.strict_sni);
        let path = |index: usize| self.files.path(certified[index].0.chain);
        let duplicates = duplicates.into_iter().map(|it| {
            let why = format!(
                "{} is in {} too, whose key is of the same kind: clients get that certificate",
                it.name,
                path(it.used)
            );
            (path(it.unused).to_owned(), why)
        });
        let duplicates = duplicates.collect();
        let verifier = asked.map(|it| Arc::clone(&it.verifier));
        let versions = match service.min {
            Version::Tls12 => &[&TLS13, &TLS12][..],
            Version::Tls13 => &[&TLS13],
        };
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(
                verifier
                    .clone()
                    .unwrap_or_else(WebPkiClientVerifier::no_client_auth),
            )
            .with_cert_resolver(Arc::new(resolver));
        config.ignore_client_order = true;
        config.alpn_protocols = service
            .alpn
            .iter()
            .map(|it| it.clone().into_bytes())
            .collect();
        // Sessions are in tickets only: a store of them would be one of this process.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::new(ServiceTickets {
            tickets: Arc::clone(self.tickets),
            context: context(service, asked),
        });
        // A request that is sent again counts twice.
        config.max_early_data_size = 0;
        if let Some(log) = &self.keylog {
            config.key_log = Arc::clone(log);
        }
        let made = super::Service {
            name: service.name.as_str().into(),
            config: Arc::new(config),
            idle: service.idle.map(Duration::from_millis),
            verifier,
        };
        self.services
            .by_name
            .insert(made.name.clone(), Arc::new(made));
        Ok(duplicates)
    }

    /// Reports a service's files, with all that is to be said about them, and remembers what ends.
    fn report(&mut self, watched: Vec<Watched>, mut warnings: Vec<Warning>, service: &Service) {
        let now = date::now();
        for it in &watched {
            let (own, others) = warnings.into_iter().partition(|(path, _)| *path == it.file);
            warnings = others;
            let own: Vec<Warning> = own;
            if it.what != What::Certificate && !own.is_empty() && it.report(now).is_none() {
                // Nothing of it ends: it is reported for the rest.
                warnings.extend(own);
                continue;
            }
            self.certificates.extend(it.report(now).map(|mut report| {
                for (_, why) in own {
                    say(&mut report.warning, why);
                }
                report
            }));
        }
        let mut rest: Vec<Certificate> = Vec::new();
        for (file, why) in warnings {
            let same = rest.iter_mut().find(|it| it.file == file);
            match same {
                Some(report) => say(&mut report.warning, why),
                None => rest.push(Certificate {
                    service: service.name.clone(),
                    file,
                    warning: Some(why),
                    ..Certificate::default()
                }),
            }
        }
        self.certificates.extend(rest);
        self.watch.all.extend(watched);
    }
}

/// Adds a sentence to a warning.
fn say(warning: &mut Option<String>, why: String) {
    match warning {
        Some(text) => {
            text.push_str("; ");
            text.push_str(&why);
        }
        None => *warning = Some(why),
    }
}

/// Returns what ends of a service's certificates.
fn watched(
    files: Files<'_>,
    service: &Service,
    certified: &[(CertificateFiles, Certified)],
) -> Vec<Watched> {
    let all = certified
        .iter()
        .map(|(of, Certified { facts, .. })| Watched {
            what: What::Certificate,
            service: service.name.clone(),
            file: files.path(of.chain).into(),
            names: {
                let all = facts.hosts.iter().chain(&facts.addresses);
                all.take(MAX_NAMES).cloned().collect()
            },
            whose: facts.subject.clone(),
            from: facts.not_before,
            until: facts.not_after,
        });
    all.collect()
}

/// Returns the digest of what a service's tickets belong to.
fn context(service: &Service, asked: Option<&Asked>) -> [u8; 32] {
    let mut digest = digest::Context::new(&digest::SHA256);
    digest.update(b"a ticket of skd-tls\0");
    digest.update(&(service.name.len() as u64).to_be_bytes());
    digest.update(service.name.as_bytes());
    digest.update(&[match service.client {
        ClientCertificates::None => 0,
        ClientCertificates::Optional => 1,
        ClientCertificates::Required => 2,
    }]);
    digest.update(&asked.map_or([0; 32], |it| it.digest));
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.finish().as_ref());
    bytes
}
