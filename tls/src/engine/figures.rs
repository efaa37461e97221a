//! Figures of the services.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};

use skd_tls_protocol::ServiceFigures;

/// The figures of a service. Threads add to them once for all that a connection does at a time.
#[derive(Debug, Default)]
pub(super) struct Counters {
    service: Box<str>,
    live: AtomicU64,
    received: AtomicU64,
    sent: AtomicU64,
    truncated: AtomicU64,
}

impl Counters {
    /// The service's name.
    pub(super) fn service(&self) -> &str {
        &self.service
    }

    /// There is one connection more.
    pub(super) fn begin(&self) {
        self.live.fetch_add(1, Relaxed);
    }

    /// There is one connection less.
    pub(super) fn end(&self) {
        self.live.fetch_sub(1, Relaxed);
    }

    /// So many bytes were received and sent.
    pub(super) fn add(&self, received: u64, sent: u64) {
        for (counter, count) in [(&self.received, received), (&self.sent, sent)] {
            if count > 0 {
                counter.fetch_add(count, Relaxed);
            }
        }
    }

    /// A connection was truncated.
    pub(super) fn truncate(&self) {
        self.truncated.fetch_add(1, Relaxed);
    }
}

/// The figures of all services.
#[derive(Debug, Default)]
pub(super) struct Figures {
    all: Mutex<Vec<Known>>,
}

#[derive(Debug)]
struct Known {
    counters: Arc<Counters>,
    /// How many connections there were when it was asked last.
    live: u64,
}

impl Figures {
    /// Returns the counters of the service with this name.
    pub(super) fn of(&self, service: &str) -> Arc<Counters> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = all.iter().find(|it| it.counters.service() == service) {
            return Arc::clone(&known.counters);
        }
        let counters = Arc::new(Counters {
            service: service.into(),
            ..Counters::default()
        });
        all.push(Known {
            counters: Arc::clone(&counters),
            live: 0,
        });
        counters
    }

    /// Returns the figures that have changed since this was called last, and forgets services that aren't there
    /// anymore.
    pub(super) fn changed(&self) -> Vec<ServiceFigures> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = Vec::new();
        all.retain_mut(|known| {
            // Each owner of the counters has them from here, or from another owner: with one owner, this is it.
            let is_used = Arc::strong_count(&known.counters) > 1;
            let counters = &known.counters;
            let figures = ServiceFigures {
                service: counters.service.clone().into(),
                live: counters.live.load(Relaxed),
                received: counters.received.swap(0, Relaxed),
                sent: counters.sent.swap(0, Relaxed),
                truncated: counters.truncated.swap(0, Relaxed),
            };
            let counts = [figures.received, figures.sent, figures.truncated];
            if figures.live != known.live || counts != [0; 3] {
                known.live = figures.live;
                changed.push(figures);
            }
            is_used
        });
        changed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_changes_are_told_and_what_is_gone_is_forgotten() {
        let figures = Figures::default();
        let web = figures.of("web");
        let other = figures.of("other");
        assert!(figures.changed().is_empty());
        web.begin();
        web.add(3, 0);
        figures.of("web").add(4, 5);
        web.truncate();
        let expected = ServiceFigures {
            service: "web".into(),
            live: 1,
            received: 7,
            sent: 5,
            truncated: 1,
        };
        assert_eq!(figures.changed(), [expected]);
        assert!(figures.changed().is_empty());
        drop(other);
        web.end();
        drop(web);
        let expected = ServiceFigures {
            service: "web".into(),
            ..ServiceFigures::default()
        };
        assert_eq!(figures.changed(), [expected]);
        assert!(figures.all.lock().unwrap().is_empty());
    }
}
