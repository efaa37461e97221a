//! Live handlers: which there are, and what they use.

use std::cmp::Ordering;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use skd_control::{Failure, HandlerOrder, HandlerQuery, HandlerStatus, Handlers};

use super::live::{self, Live};
use crate::config::{BoundAddress, ListenerId, Peer, ServiceId};
use crate::report::mask;
use crate::serve::control::view::View;
use crate::sys::diagnosis::{Diagnosis, SocketId, bound_interface};
use crate::sys::process_stat::{ProcessStat, StatReader, cpu_time};
use crate::sys::traffic::Counts;

/// How many handlers are listed, unless it is said.
const LIMIT: usize = 1000;

/// A handler with its figures, as far as they are known.
#[derive(Clone, Debug)]
struct Measured {
    live: Live,
    cpu: Option<Duration>,
    stat: Option<ProcessStat>,
    counts: Option<Counts>,
}

/// Lists live handlers.
pub(in crate::serve) fn handlers(view: &View, query: &HandlerQuery) -> Result<Handlers, Failure> {
    let service = super::service(view, query.service.as_deref())?;
    let clients = query.source.as_deref().map(super::clients).transpose()?;
    let mut live = live::handlers(view, service)?;
    if let Some(clients) = clients {
        live.retain(|handler| {
            let (_, translators) = live::source_options(view, handler.service);
            clients.include_peer(&handler.peer, translators)
        });
    }
    let total = live.len() as u64;
    let limit = query.limit.unwrap_or(LIMIT);
    let now = Instant::now();
    let shown = choose(live, query.order, limit, &mut Kernel::new(view));
    Ok(Handlers {
        total,
        handlers: shown.iter().map(|it| it.status(view, now)).collect(),
    })
}

/// Chooses the first so many handlers in this order, and measures them. All are measured by what
/// they are ordered by, and no others by anything.
fn choose(
    live: Vec<Live>,
    order: HandlerOrder,
    limit: usize,
    figures: &mut impl Figures,
) -> Vec<Measured> {
    let mut all: Vec<_> = live.into_iter().map(Measured::new).collect();
    let memory = |it: &Measured| it.stat.map(|stat| stat.resident);
    let bytes = |it: &Measured| it.counts.map(Counts::sum);
    match order {
        HandlerOrder::Oldest => keep(&mut all, limit, &|a, b| a.live.started.cmp(&b.live.started)),
        HandlerOrder::Newest => keep(&mut all, limit, &|a, b| b.live.started.cmp(&a.live.started)),
        HandlerOrder::Pid => keep(&mut all, limit, &|_, _| Ordering::Equal),
        HandlerOrder::Cpu => {
            all.iter_mut().for_each(|it| it.cpu = figures.cpu(&it.live));
            keep(&mut all, limit, &|a, b| b.cpu.cmp(&a.cpu));
        }
        HandlerOrder::Memory => {
            all.iter_mut()
                .for_each(|it| it.stat = figures.stat(&it.live));
            keep(&mut all, limit, &|a, b| memory(b).cmp(&memory(a)));
        }
        HandlerOrder::Bytes => {
            all.iter_mut()
                .for_each(|it| it.counts = figures.counts(&it.live));
            keep(&mut all, limit, &|a, b| bytes(b).cmp(&bytes(a)));
        }
    }
    for it in &mut all {
        if order != HandlerOrder::Cpu {
            it.cpu = figures.cpu(&it.live);
        }
        if order != HandlerOrder::Memory {
            it.stat = figures.stat(&it.live);
        }
        if order != HandlerOrder::Bytes {
            it.counts = figures.counts(&it.live);
        }
    }
    all
}

/// Compares two handlers. A pointer, since code that sorts is long: there is one copy for all orders.
type Compare<'a> = &'a dyn Fn(&Measured, &Measured) -> Ordering;

/// Keeps so many of those that are first, in order. Of equal ones, those with lower process ids are
/// first.
fn keep(all: &mut Vec<Measured>, limit: usize, compare: Compare<'_>) {
    let compare =
        |a: &Measured, b: &Measured| compare(a, b).then_with(|| a.live.pid.cmp(&b.live.pid));
    if limit < all.len() {
        // Sorting all takes longer than finding the few that are shown.
        all.select_nth_unstable_by(limit, compare);
        all.truncate(limit);
    }
    all.sort_unstable_by(compare);
}

impl Measured {
    fn new(live: Live) -> Self {
        Self {
            live,
            cpu: None,
            stat: None,
            counts: None,
        }
    }

    fn status(&self, view: &View, now: Instant) -> HandlerStatus {
        let Live {
            pid,
            service,
            listener,
            peer,
            has_tls: _,
            started,
            has_ended: _,
        } = self.live;
        let listener = view.listener(listener);
        HandlerStatus {
            pid: pid.as_raw(),
            service: view
                .services
                .get(service.index())
                .map_or_else(String::new, |service| service.name.to_string()),
            listener: listener.map_or_else(String::new, |listener| listener.address()),
            client: client(&peer),
            age_seconds: now.saturating_duration_since(started).as_secs_f64(),
            // /proc has shown whether the id is another's by now.
            cpu_seconds: self.stat.and(self.cpu).map(|cpu| cpu.as_secs_f64()),
            resident_bytes: self.stat.map(|stat| stat.resident),
            received_bytes: self.counts.map(|counts| counts.received),
            sent_bytes: self.counts.map(|counts| counts.acknowledged),
        }
    }
}

/// Returns the client as in the log, without what its connection or datagram is called.
fn client(peer: &Peer) -> String {
    let text = mask::peer(peer).to_string();
    match text.split_once(" from ") {
        Some((_, client)) => client.into(),
        None => text,
    }
}

/// What is known about handlers outside of the table.
trait Figures {
    fn cpu(&mut self, handler: &Live) -> Option<Duration>;
    fn stat(&mut self, handler: &Live) -> Option<ProcessStat>;
    fn counts(&mut self, handler: &Live) -> Option<Counts>;
}

/// What the kernel tells.
struct Kernel<'a> {
    view: &'a View,
    /// Made after the handlers are copied: a process that is made later isn't one of them.
    reader: Option<StatReader>,
    /// Opened when it is needed.
    diagnosis: Option<Option<Diagnosis>>,
    /// The last listener, with its address and interface: many handlers have the same.
    listener: Option<(ListenerId, Option<(SocketAddr, u32)>)>,
}

impl<'a> Kernel<'a> {
    fn new(view: &'a View) -> Self {
        Self {
            view,
            reader: StatReader::new(),
            diagnosis: None,
            listener: None,
        }
    }

    /// Returns the address of a TCP listener, and the interface that it is bound to.
    fn listener(&mut self, service: ServiceId, id: ListenerId) -> Option<(SocketAddr, u32)> {
        match self.listener {
            Some((last, found)) if last == id => found,
            _ => {
                let found = self.look_up(service, id);
                self.listener = Some((id, found));
                found
            }
        }
    }

    fn look_up(&self, service: ServiceId, id: ListenerId) -> Option<(SocketAddr, u32)> {
        let mut listeners = self.view.served(service)?.listeners.iter();
        let listener = listeners.find(|listener| listener.id() == id)?;
        match listener.bound_address() {
            BoundAddress::Inet(address) => {
                Some((*address, bound_interface(listener).unwrap_or_default()))
            }
            BoundAddress::Unix(_) => None,
        }
    }
}

impl Figures for Kernel<'_> {
    fn cpu(&mut self, handler: &Live) -> Option<Duration> {
        (!handler.has_ended)
            .then(|| cpu_time(handler.pid))
            .flatten()
    }

    fn stat(&mut self, handler: &Live) -> Option<ProcessStat> {
        self.reader
            .filter(|_| !handler.has_ended)?
            .read(handler.pid)
    }

    fn counts(&mut self, handler: &Live) -> Option<Counts> {
        if handler.has_tls {
            // The kernel counts what TLS makes of the bytes.
            return None;
        }
        let (remote, local) = handler.peer.connection()?;
        let (bound, interface) = self.listener(handler.service, handler.listener)?;
        // Of a listener for all addresses, that of a connection isn't known if a proxy has made it.
        let local = local.or((!bound.ip().is_unspecified()).then_some(bound))?;
        let id = SocketId::between(local, remote, interface);
        let diagnosis = self.diagnosis.get_or_insert_with(|| Diagnosis::new().ok());
        diagnosis.as_mut()?.counts(&id).ok()?
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::Pid;
    use std::time::Duration;

    /// Handlers with these process ids, each a second older than the one before.
    fn live(pids: &[i32]) -> Vec<Live> {
        let now = Instant::now() + Duration::from_secs(3600);
        let each = pids.iter().zip(0..).map(|(pid, age)| Live {
            pid: Pid::from_raw(*pid),
            service: ServiceId::new(0),
            listener: ListenerId::new(0),
            peer: Peer::UnixStream(None),
            has_tls: false,
            started: now - Duration::from_secs(age),
            has_ended: false,
        });
        each.collect()
    }

    /// Of even process ids, the last digit is their figure. Counts how often it is asked.
    #[derive(Default)]
    struct Digits {
        times: usize,
        stats: usize,
        counts: usize,
    }

    fn figure(handler: &Live) -> Option<u64> {
        let pid = handler.pid.as_raw();
        (pid % 2 == 0).then(|| u64::try_from(pid % 10).unwrap())
    }

    impl Figures for Digits {
        fn cpu(&mut self, handler: &Live) -> Option<Duration> {
            self.times += 1;
            figure(handler).map(Duration::from_secs)
        }

        fn stat(&mut self, handler: &Live) -> Option<ProcessStat> {
            self.stats += 1;
            figure(handler).map(ProcessStat::of)
        }

        fn counts(&mut self, handler: &Live) -> Option<Counts> {
            self.counts += 1;
            figure(handler).map(|received| Counts {
                received,
                acknowledged: 0,
            })
        }
    }

    #[test]
    fn the_first_of_each_order_are_chosen_and_no_more_measured_than_needed() {
        const PIDS: [i32; 6] = [14, 22, 31, 48, 52, 60];
        use HandlerOrder::{Bytes, Cpu, Memory, Newest, Oldest, Pid};
        for (order, expected, asked) in [
            (Oldest, [60, 52, 48], [3, 3, 3]),
            (Newest, [14, 22, 31], [3, 3, 3]),
            (Pid, [14, 22, 31], [3, 3, 3]),
            (Cpu, [48, 14, 22], [6, 3, 3]),
            (Memory, [48, 14, 22], [3, 6, 3]),
            (Bytes, [48, 14, 22], [3, 3, 6]),
        ] {
            let mut digits = Digits::default();
            let chosen = choose(live(&PIDS), order, 3, &mut digits);
            let pids: Vec<_> = chosen.iter().map(|it| it.live.pid.as_raw()).collect();
            assert_eq!(pids, expected, "{order:?}");
            let Digits {
                times,
                stats,
                counts,
            } = digits;
            assert_eq!([times, stats, counts], asked, "{order:?}");
            for it in chosen {
                assert_eq!(it.counts.map(Counts::sum), figure(&it.live), "{order:?}");
                assert_eq!(
                    it.stat.map(|stat| stat.resident),
                    figure(&it.live),
                    "{order:?}"
                );
            }
        }
    }

    #[test]
    fn handlers_without_figures_are_last_and_any_limit_will_do() {
        let pids = |order, limit| -> Vec<i32> {
            let chosen = choose(live(&[3, 1, 2, 4]), order, limit, &mut Digits::default());
            chosen.iter().map(|it| it.live.pid.as_raw()).collect()
        };
        assert_eq!(pids(HandlerOrder::Cpu, usize::MAX), [4, 2, 1, 3]);
        assert_eq!(pids(HandlerOrder::Cpu, 4), [4, 2, 1, 3]);
        assert_eq!(pids(HandlerOrder::Oldest, 0), [0; 0]);
    }

    #[test]
    fn clients_are_written_as_in_the_log() {
        let remote = "192.0.2.7:4000".parse().unwrap();
        let tcp = Peer::Tcp {
            remote,
            local: None,
        };
        assert_eq!(client(&tcp), "[192.0.2.7]:4000");
        assert_eq!(client(&Peer::Udp(remote)), "[192.0.2.7]:4000");
        let unaccepted = Peer::Unaccepted(Some(remote));
        assert_eq!(client(&unaccepted), "connection to [192.0.2.7]:4000");
        assert_eq!(client(&Peer::UnixStream(None)), "local connection");
    }
}
