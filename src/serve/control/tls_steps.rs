//! skd-tls, as the main thread looks after it: what it has said, what is loaded again, and its end.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use skd_tls_protocol::{Certificate, ServiceFigures};

use super::daemon::Daemon;
use super::reload::OpenedTls;
use super::tls::{Outcome, TlsKeeper, TlsNews};
use crate::config::ServiceId;
use crate::report::{self, Attempt, Event, TlsFigures, TlsTrouble, Trouble};
use crate::serve::tls::TlsService;

/// How long clients of TLS may take to get their last bytes at the end of skd.
const LAST_BYTES: Duration = Duration::from_secs(3);

impl Daemon {
    /// Returns when skd-tls is to be looked at, should nothing tell of anything before.
    pub(in crate::serve) fn tls_due(&self) -> Option<Instant> {
        self.tls.as_ref()?.due()
    }

    /// Hears what skd-tls has said, and does what is due.
    pub(in crate::serve) fn look_at_tls(&mut self, now: Instant) {
        let Some(tls) = &mut self.tls else {
            return;
        };
        tls.look_and_watch(self.shared.handlers.main_poller(), now);
        let (news, outcome) = (tls.take_news(), tls.take_outcome());
        for news in news {
            self.note_tls(news);
        }
        if let Some(outcome) = outcome {
            self.end_loading(&outcome);
            self.read_if_asked();
        }
    }

    /// Takes note of what a process has said, which isn't trusted: of services and certificates that aren't
    /// known, nothing is noted.
    fn note_tls(&self, news: TlsNews) {
        match news {
            TlsNews::Certificates(certificates) => {
                let mut by_service: BTreeMap<_, Vec<_>> = BTreeMap::new();
                for certificate in certificates {
                    if let Some((id, _)) = self.tls_service(&certificate.service) {
                        warn(id, &certificate);
                        let its = by_service.entry(id.index()).or_default();
                        its.push(certificate);
                    }
                }
                for service in &self.shared.services {
                    if let Some(tls) = &service.tls {
                        let its = by_service.remove(&service.id.index());
                        tls.set_certificates(its.unwrap_or_default());
                    }
                }
            }
            TlsNews::Certificate(certificate) => {
                let Some((id, tls)) = self.tls_service(&certificate.service) else {
                    return;
                };
                let is_its = |known: &Certificate| known.file == certificate.file;
                if tls.certificates().iter().any(is_its) {
                    warn(id, &certificate);
                    tls.note_certificate(certificate);
                }
            }
            TlsNews::Figures(process, figures) => {
                let ServiceFigures {
                    service,
                    live,
                    received,
                    sent,
                    truncated,
                } = figures;
                if let Some((id, tls)) = self.tls_service(&service) {
                    tls.note_live(process, live);
                    let figures = TlsFigures {
                        received,
                        sent,
                        truncated,
                    };
                    report::event(Event::TlsFigures(id, figures));
                }
            }
            TlsNews::Truncated(service, token) => {
                if let Some((id, _)) = self.tls_service(&service) {
                    self.shared.services[id.index()].report_truncated(&token);
                }
            }
            TlsNews::Ended(process) => {
                let services = self.shared.services.iter();
                services
                    .filter_map(|service| service.tls.as_ref())
                    .for_each(|tls| tls.forget(process));
            }
        }
    }

    /// Returns the service with this name, if it has TLS.
    fn tls_service(&self, name: &str) -> Option<(ServiceId, &TlsService)> {
        let id = self.tls_services.get(name)?;
        let service = self.shared.services.get(id.index())?;
        Some((*id, service.tls.as_deref()?))
    }

    /// Begins to load files that were opened again.
    pub(super) fn load_tls(&mut self, opened: OpenedTls) {
        let Some(tls) = &mut self.tls else {
            return;
        };
        let now = Instant::now();
        match opened {
            Ok(files) => {
                tls.load(files.into(), now);
                self.look_at_tls(now);
            }
            Err(faults) => {
                let faults: Vec<_> = faults.iter().map(ToString::to_string).collect();
                self.end_loading(&Err(faults.join("; ")));
            }
        }
    }

    /// Says what came of files that were to be loaded. Those of before stay if it was nothing.
    fn end_loading(&mut self, outcome: &Outcome) {
        let count = self.tls.as_ref().map_or(0, TlsKeeper::count_files);
        match outcome {
            Ok(()) => report::event(Event::TlsLoaded(count)),
            Err(why) => report::event(Event::Trouble(Trouble::Tls(TlsTrouble::NotLoaded(why)))),
        }
        let fault = self.reload.note_tls(outcome, count);
        report::event(Event::Attempted(Attempt::Reload, fault.as_deref()));
    }

    /// Whether files of TLS are being loaded again.
    pub(in crate::serve) fn is_loading_tls(&self) -> bool {
        self.tls.as_ref().is_some_and(TlsKeeper::is_loading)
    }

    /// Ends skd-tls, with all that its clients are to get yet.
    pub(in crate::serve) fn stop_tls(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.stop(LAST_BYTES);
        }
    }
}

/// Says what there is to be said about a certificate.
fn warn(service: ServiceId, certificate: &Certificate) {
    if let Some(warning) = &certificate.warning {
        let text = format!("{}: {warning}", certificate.file);
        report::event(Event::TlsCertificate(service, &text));
    }
}
