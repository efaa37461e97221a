//! How often a line may be repeated. What concerns a service is throttled for each service, the
//! rest for the process. Rejections (`admission::reject_log`) and dropped datagrams
//! (`datagram::drops`) use the same limiter for each source or reason.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::event::Event;
use super::trouble::Cause;
use crate::config::ServiceId;
use crate::sys::memory;

/// How often troubles of one cause are reported.
const TROUBLE_INTERVAL: Duration = Duration::from_secs(1);

/// How often it is reported that all slots are taken, or that connections come too fast.
const FULL_INTERVAL: Duration = Duration::from_secs(60);

/// The interval that a test asks for, in milliseconds. Release builds do not know it.
#[cfg(debug_assertions)]
const VARIABLE: &str = "SKD_TEST_THROTTLE";

#[cfg(debug_assertions)]
static SET: OnceLock<Option<Duration>> = OnceLock::new();

/// Returns how long a throttle waits that usually waits for `usual`.
pub fn throttle(usual: Duration) -> Duration {
    #[cfg(debug_assertions)]
    if let Some(interval) = SET.get().copied().flatten() {
        return interval;
    }
    usual
}

/// Reads the interval from the environment. Call it before there are other threads.
pub(super) fn read() {
    #[cfg(debug_assertions)]
    SET.get_or_init(|| {
        let milliseconds = std::env::var(VARIABLE).ok()?.parse().ok()?;
        Some(Duration::from_millis(milliseconds))
    });
}

/// Lets one caller through in an interval. Times are nanoseconds of a clock of the caller's
/// choice, [`now`] for example.
#[derive(Debug)]
pub struct Limiter(AtomicU64);

impl Limiter {
    /// Returns a limiter that is open.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Closes the limiter for an interval if it is open at this time. Returns whether it was.
    pub fn pass(&self, now: u64, interval: Duration) -> bool {
        pass(&self.0, now, interval)
    }

    /// Closes the limiter for an interval.
    pub fn close(&self, now: u64, interval: Duration) {
        self.0.store(after(now, interval), Ordering::Relaxed);
    }

    /// Opens the limiter.
    pub fn open(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// Whether it is open at this time.
    pub fn is_open(&self, now: u64) -> bool {
        self.opens_at() <= now
    }

    /// Returns when it opens.
    pub fn opens_at(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Default for Limiter {
    fn default() -> Self {
        Self::new()
    }
}

/// Closes the limiter that opens at this time, if it is open.
fn pass(opens_at: &AtomicU64, now: u64, interval: Duration) -> bool {
    let close = |opens_at| (opens_at <= now).then(|| after(now, interval));
    opens_at
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, close)
        .is_ok()
}

fn after(now: u64, interval: Duration) -> u64 {
    now.saturating_add(u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX))
}

static START: OnceLock<Instant> = OnceLock::new();

fn start() -> Instant {
    *START.get_or_init(Instant::now)
}

/// Returns the present time.
pub fn now() -> u64 {
    let start = start();
    after(0, Instant::now().saturating_duration_since(start))
}

/// Returns the instant of a time of [`now`].
pub fn instant(time: u64) -> Instant {
    let start = start();
    start
        .checked_add(Duration::from_nanos(time))
        .unwrap_or(start)
}

/// The lines of a service, or of the process, that are throttled.
#[derive(Clone, Copy, Debug)]
enum Line {
    Trouble(Cause),
    Full,
    Fast,
}

const LINES: usize = Cause::COUNT + 2;

impl Line {
    fn index(self) -> usize {
        match self {
            Self::Trouble(cause) => cause as usize,
            Self::Full => Cause::COUNT,
            Self::Fast => Cause::COUNT + 1,
        }
    }

    fn interval(self) -> Duration {
        throttle(match self {
            Self::Trouble(_) => TROUBLE_INTERVAL,
            Self::Full | Self::Fast => FULL_INTERVAL,
        })
    }
}

/// One limiter for each throttled line.
type Limiters = [AtomicU64; LINES];

static PROCESS: Limiters = [const { AtomicU64::new(0) }; LINES];
static SERVICES: OnceLock<&'static [Limiters]> = OnceLock::new();

/// Gives each of so many services limiters of its own.
pub(super) fn set_services(count: usize) {
    SERVICES.get_or_init(|| memory::zeroes(count));
}

fn limiter(service: Option<ServiceId>, line: Line) -> &'static AtomicU64 {
    let services = SERVICES.get();
    let own = service.and_then(|service| services?.get(service.index()));
    &own.unwrap_or(&PROCESS)[line.index()]
}

/// Whether an event may be written now. If so, its like may not for an interval.
pub(super) fn passes(event: &Event<'_>) -> bool {
    let (service, line) = match event {
        Event::Trouble(trouble) => (trouble.service(), Line::Trouble(trouble.cause())),
        Event::Full(service, _) => (Some(*service), Line::Full),
        Event::Fast(service) => (Some(*service), Line::Fast),
        _ => return true,
    };
    pass(limiter(service, line), now(), line.interval())
}

/// Whether [`Event::Full`] would be written now.
pub fn full_is_due(service: ServiceId) -> bool {
    limiter(Some(service), Line::Full).load(Ordering::Relaxed) <= now()
}

/// Whether [`Event::Fast`] would be written now.
pub fn fast_is_due(service: ServiceId) -> bool {
    limiter(Some(service), Line::Fast).load(Ordering::Relaxed) <= now()
}

#[cfg(test)]
mod tests {
    use super::super::Trouble;
    use super::*;
    use nix::errno::Errno;
    use proptest::prelude::*;

    #[test]
    fn the_first_passes_and_the_next_only_after_the_interval() {
        let limiter = Limiter::new();
        let second = Duration::from_secs(1);
        assert!(limiter.pass(0, second));
        assert!(!limiter.pass(0, second));
        assert!(!limiter.pass(999_999_999, second));
        assert!(!limiter.is_open(999_999_999));
        assert!(limiter.pass(1_000_000_000, second));
        assert_eq!(limiter.opens_at(), 2_000_000_000);
        limiter.open();
        assert!(limiter.pass(1_000_000_001, second));
    }

    #[test]
    fn without_an_interval_all_pass() {
        let limiter = Limiter::new();
        assert!(limiter.pass(7, Duration::ZERO));
        assert!(limiter.pass(7, Duration::ZERO));
    }

    #[test]
    fn a_service_does_not_silence_another() {
        set_services(super::super::TEST_SERVICES);
        let trouble = |index| {
            Event::Trouble(Trouble::NotWatched {
                service: Some(ServiceId::new(index)),
                what: super::super::Watched::Handler,
                errno: Errno::ENOMEM,
            })
        };
        assert!(passes(&trouble(0)));
        assert!(!passes(&trouble(0)));
        assert!(passes(&trouble(1)));
        assert!(full_is_due(ServiceId::new(0)));
        assert!(passes(&Event::Full(ServiceId::new(0), 1)));
        assert!(!full_is_due(ServiceId::new(0)));
        assert!(full_is_due(ServiceId::new(1)));
        assert!(fast_is_due(ServiceId::new(0)));
    }

    proptest! {
        #[test]
        fn in_any_interval_one_passes_at_most(
            interval in 1_u64..1_000,
            steps in prop::collection::vec(0_u64..500, 1..50),
        ) {
            let limiter = Limiter::new();
            let (mut now, mut last) = (0, None);
            for step in steps {
                now += step;
                if limiter.pass(now, Duration::from_nanos(interval)) {
                    prop_assert!(last.is_none_or(|last| now - last >= interval));
                    last = Some(now);
                }
            }
        }
    }
}
