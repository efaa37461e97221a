//! Names of ports, times and interfaces from the C library, and kernel parameters.

use std::ffi::{CStr, CString};

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

/// The name of the interface with this index (if_indextoname(3)), in the caller's memory.
pub fn interface_name(index: u32, buffer: &mut [u8; libc::IF_NAMESIZE]) -> Option<&str> {
    // SAFETY: the buffer has the IF_NAMESIZE bytes that the call may write, NUL included.
    let found = unsafe { libc::if_indextoname(index, buffer.as_mut_ptr().cast()) };
    if found.is_null() {
        return None;
    }
    CStr::from_bytes_until_nul(buffer).ok()?.to_str().ok()
}
