//! How often a line may be repeated. Tests can set one interval for all lines that are throttled.

#[cfg(debug_assertions)]
use std::sync::OnceLock;
use std::time::Duration;

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
