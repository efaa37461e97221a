//! Sources: how many handlers each has, and how often it was rejected lately.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::Instant;

use skd_control::{Failure, SourceQuery, SourceStatus, Sources};

use super::live::{self, Live};
use crate::config::{Peer, ServiceId, Source};
use crate::report::{RejectKind, mask};
use crate::serve::admission::Rejected;
use crate::serve::control::view::View;

/// How many sources are listed, unless it is said.
const LIMIT: usize = 100;

/// A source of a service, as it may be seen.
type ServiceSource = (ServiceId, Source);

/// How active a source is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Activity {
    running: u64,
    rejected: u64,
    /// When it was rejected the last time, and why.
    last: Option<(u64, RejectKind)>,
}

/// Lists the most active sources.
pub(in crate::serve) fn sources(view: &View, query: &SourceQuery) -> Result<Sources, Failure> {
    let service = super::service(view, query.service.as_deref())?;
    let mut all = HashMap::new();
    for handler in live::handlers(view, service)? {
        let (prefix, translators) = live::source_options(view, handler.service);
        if let Some(source) = source_of(&handler, |peer| Source::of(peer, prefix, translators)) {
            activity(&mut all, handler.service, source).running += 1;
        }
    }
    let now = view.shared.clock.read(Instant::now());
    for served in &view.shared.services {
        if service.is_none_or(|service| served.id == service) {
            for (source, rejected) in served.rejected.recent(now) {
                activity(&mut all, served.id, source).add(rejected);
            }
        }
    }
    let total = all.len() as u64;
    let sources = most_active(all, query.limit.unwrap_or(LIMIT));
    Ok(Sources {
        total,
        sources: sources.into_iter().map(|it| status(view, it)).collect(),
    })
}

/// Returns the source of a handler's client, unless the handler itself accepts its clients.
fn source_of(handler: &Live, of: impl FnOnce(&Peer) -> Source) -> Option<Source> {
    match handler.peer {
        Peer::Unaccepted(_) => None,
        ref peer => Some(of(peer)),
    }
}

/// Returns the activity of a source. Those that look the same are one.
fn activity(
    all: &mut HashMap<ServiceSource, Activity>,
    service: ServiceId,
    source: Source,
) -> &mut Activity {
    all.entry((service, mask::source(source))).or_default()
}

impl Activity {
    fn add(&mut self, rejected: Rejected) {
        self.rejected += rejected.count;
        let last = Some((rejected.at, rejected.last));
        if self.last.is_none_or(|(at, _)| at < rejected.at) {
            self.last = last;
        }
    }

    fn sum(self) -> u64 {
        self.running.saturating_add(self.rejected)
    }
}

/// Returns the most active sources in order.
fn most_active(
    all: HashMap<ServiceSource, Activity>,
    limit: usize,
) -> Vec<(ServiceSource, Activity)> {
    let mut all: Vec<_> = all.into_iter().collect();
    all.sort_unstable_by_key(|(key, activity)| (Reverse(activity.sum()), *key));
    all.truncate(limit);
    all
}

fn status(view: &View, ((service, source), activity): (ServiceSource, Activity)) -> SourceStatus {
    let name = view.services.get(service.index());
    SourceStatus {
        source: source.to_string(),
        service: name.map_or_else(String::new, |service| service.name.to_string()),
        running: activity.running,
        rejected: activity.rejected,
        last_reason: activity.last.map(|(_, kind)| kind.label().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_active_are_first() {
        let activity = |running, rejected| Activity {
            running,
            rejected,
            last: None,
        };
        let all = [
            (1, activity(3, 0)),
            (2, activity(1, 9)),
            (3, activity(0, 3)),
            (4, activity(1, 1)),
        ];
        let all = all.map(|(user, activity)| ((ServiceId::new(0), Source::user(user)), activity));
        let names = |limit| -> Vec<String> {
            let found = most_active(all.into(), limit).into_iter();
            found.map(|((_, source), _)| source.to_string()).collect()
        };
        assert_eq!(names(10), ["uid 2", "uid 1", "uid 3", "uid 4"]);
        assert_eq!(names(2), ["uid 2", "uid 1"]);
        assert!(names(0).is_empty());
    }
}
