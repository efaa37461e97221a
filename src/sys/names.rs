//! Names of ports, times and interfaces from the C library, and kernel parameters.

use std::ffi::{CStr, CString};
use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// The port of a service in services(5), by name and protocol (`tcp` or `udp`).
///
/// Called while the program has one thread: the result of getservbyname(3) is static.
pub fn service_port(name: &str, protocol: &str) -> Option<u16> {
    let name = CString::new(name).ok()?;
    let protocol = CString::new(protocol).ok()?;
    // SAFETY: both strings end in NUL and outlive the call; the answer is null or points
    // to the library's static entry, read before anything else could replace it.
    unsafe {
        let entry = libc::getservbyname(name.as_ptr(), protocol.as_ptr());
        entry
            .as_ref()
            .map(|entry| u16::from_be(entry.s_port as u16))
    }
}

/// A number of sysctl(8), by its path in /proc/sys; `None` if it can't be read.
pub fn kernel_parameter(path: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/sys/{path}")).ok()?;
    text.trim().parse().ok()
}

/// The local time as syslog writes it (RFC 3164 §4.1.2): `Nov 22 09:05:00`.
///
/// Month names are English, since the program never calls setlocale(3).
pub fn syslog_time(buffer: &mut [u8; 16]) -> &str {
    // SAFETY: time takes a null pointer; localtime_r and strftime get memory that
    // outlives them, zeroed where localtime_r might fail, and the length of the buffer.
    let length = unsafe {
        let now = libc::time(std::ptr::null_mut());
        let mut parts: libc::tm = std::mem::zeroed();
        libc::localtime_r(&raw const now, &raw mut parts);
        libc::strftime(
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            c"%b %e %H:%M:%S".as_ptr(),
            &raw const parts,
        )
    };
    std::str::from_utf8(&buffer[..length]).unwrap_or_default()
}

/// A local time to the millisecond. Displayed as in RFC 3339: `2026-11-22T09:05:00.042+01:00`, and
/// with `Z` for an offset of zero.
#[derive(Clone, Copy, Debug)]
pub struct LocalTime {
    parts: libc::tm,
    milliseconds: u32,
}

impl LocalTime {
    /// The present time, in the time zone of localtime(3).
    pub fn now() -> Self {
        Self::of(SystemTime::now())
    }

    fn of(time: SystemTime) -> Self {
        // A clock before 1970 isn't set.
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = libc::time_t::try_from(since.as_secs()).unwrap_or(libc::time_t::MAX);
        // SAFETY: localtime_r gets memory that outlives it, zeroed where it might fail.
        let parts = unsafe {
            let mut parts: libc::tm = std::mem::zeroed();
            libc::localtime_r(&raw const seconds, &raw mut parts);
            parts
        };
        Self {
            parts,
            milliseconds: since.subsec_millis(),
        }
    }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let libc::tm {
            tm_year,
            tm_mon,
            tm_mday,
            tm_hour,
            tm_min,
            tm_sec,
            tm_gmtoff,
            ..
        } = self.parts;
        write!(
            f,
            "{:04}-{:02}-{tm_mday:02}T{tm_hour:02}:{tm_min:02}:{tm_sec:02}.{:03}",
            i64::from(tm_year) + 1900,
            tm_mon + 1,
            self.milliseconds
        )?;
        if tm_gmtoff == 0 {
            return f.write_str("Z");
        }
        let sign = if tm_gmtoff < 0 { '-' } else { '+' };
        let minutes = tm_gmtoff.unsigned_abs() / 60;
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

/// The name of the interface with this index (if_indextoname(3)), in the caller's memory.
pub fn interface_name(index: u32, buffer: &mut [u8; libc::IF_NAMESIZE]) -> Option<&str> {
    // SAFETY: the buffer has the IF_NAMESIZE bytes that the call may write, NUL included.
    let found = unsafe { libc::if_indextoname(index, buffer.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    CStr::from_bytes_until_nul(buffer).ok()?.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_local_time_is_displayed_as_in_rfc_3339() {
        let mut time = LocalTime::of(UNIX_EPOCH + std::time::Duration::from_millis(5_042));
        // Whatever the time zone of the test is.
        time.parts.tm_hour = 9;
        time.parts.tm_min = 7;
        for (offset, expected) in [
            (0, "09:07:05.042Z"),
            (3600, "09:07:05.042+01:00"),
            (-12_600, "09:07:05.042-03:30"),
            (20_700, "09:07:05.042+05:45"),
        ] {
            time.parts.tm_gmtoff = offset;
            let text = time.to_string();
            let (date, clock) = text.split_once('T').unwrap();
            assert_eq!(date.len(), "1970-01-01".len(), "{text}");
            assert_eq!(clock, expected);
        }
    }
}
