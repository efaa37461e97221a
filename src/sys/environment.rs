//! The environment of a child as execve(2) takes it, made for each connection without allocating.
//!
//! The common variables are prepared once; the others are written into memory that is kept.

use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::io::Write;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How many variables may differ between connections.
const CAPACITY: usize = 32;

/// The memory for them, in bytes. It grows if they are longer, and is then kept.
const TEXT: usize = 1024;

/// An environment that is being made.
#[derive(Debug)]
pub struct Environment {
    common: Arc<[CString]>,
    own_id: Option<OwnId>,
    /// [`CAPACITY`] entries that are filled from the end, then those of `common` and `own_id`, then
    /// null.
    pointers: Vec<*const c_char>,
    text: Vec<u8>,
    /// The offset in `text` of each line.
    starts: Vec<usize>,
}

/// A finished environment, for as long as what it points to stays.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    pointers: &'a [*const c_char],
    own_id: Option<&'a OwnId>,
}

impl<'a> Finished<'a> {
    /// The lines in the program's order.
    pub fn lines(self) -> impl Iterator<Item = &'a CStr> {
        let lines = self.pointers.iter().take_while(|line| !line.is_null());
        // SAFETY: each was made from a line that ends in NUL, and stays for as long as this.
        lines.map(|line| unsafe { CStr::from_ptr(*line) })
    }

    /// An array of pointers to lines that end in NUL; the last is null.
    pub(super) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }

    /// Completes the line with the process id, if there is one; only then is `id` called.
    ///
    /// A newborn child calls this, since only it knows its id before the exec. The parent is
    /// suspended meanwhile, and doesn't use the line.
    pub(super) fn write_own_id(&self, id: impl FnOnce() -> u32) {
        if let Some(own_id) = self.own_id {
            own_id.write(id());
        }
    }
}

/// A line `NAME=ID` that the child completes.
#[derive(Debug)]
struct OwnId {
    /// Not a box, which would claim to be the only pointer to it.
    line: Arc<[AtomicU8]>,
    /// The offset of the id.
    start: usize,
}

impl OwnId {
    /// As many digits as a process id can have.
    const DIGITS: usize = 10;

    fn new(name: &str) -> Self {
        let bytes = name.bytes().chain(*b"=").chain([0; Self::DIGITS + 1]);
        Self {
            line: bytes.map(AtomicU8::new).collect(),
            start: name.len() + 1,
        }
    }

    fn write(&self, id: u32) {
        let mut power = 1;
        while id / power >= 10 {
            power *= 10;
        }
        for digit in self.line.iter().skip(self.start) {
            // After the last digit, NUL.
            let byte = match power {
                0 => 0,
                _ => b'0' + (id / power % 10) as u8,
            };
            digit.store(byte, Ordering::Relaxed);
            power /= 10;
        }
    }
}

impl Environment {
    /// Makes an environment with these common lines, each `NAME=VALUE`. If `own_id` names a
    /// variable, the child sets it to its own process id.
    pub fn new(common: Arc<[CString]>, own_id: Option<&str>) -> Self {
        let others = [ptr::null(); CAPACITY];
        let lines = common.iter().map(|line| line.as_ptr());
        let own_id = own_id.map(OwnId::new);
        let own_line = own_id.iter().map(|own_id| own_id.line.as_ptr().cast());
        let pointers = others
            .into_iter()
            .chain(lines)
            .chain(own_line)
            .chain([ptr::null()])
            .collect();
        Self {
            common,
            own_id,
            pointers,
            text: Vec::with_capacity(TEXT),
            starts: Vec::with_capacity(CAPACITY),
        }
    }

    /// Replaces the common lines. Does nothing if they are the same; otherwise it allocates only if
    /// there are more than ever before.
    pub fn rebase(&mut self, common: &Arc<[CString]>) {
        if Arc::ptr_eq(&self.common, common) {
            return;
        }
        self.pointers.truncate(CAPACITY);
        let lines = common.iter().map(|line| line.as_ptr());
        let own_id = self.own_id.iter();
        let own_line = own_id.map(|own_id| own_id.line.as_ptr().cast());
        self.pointers
            .extend(lines.chain(own_line).chain([ptr::null()]));
        self.common = Arc::clone(common);
    }

    /// Removes all but the common lines.
    pub fn clear(&mut self) {
        self.text.clear();
        self.starts.clear();
    }

    /// Adds a line.
    pub fn line(&mut self, line: &CStr) {
        if self.begin() {
            self.text.extend_from_slice(line.to_bytes_with_nul());
        }
    }

    /// Adds a variable, without a NUL inside, that the common lines don't have.
    pub fn set(&mut self, name: &str, value: fmt::Arguments<'_>) {
        if self.begin() {
            // Writing to a Vec can't fail.
            let _ = write!(self.text, "{name}={value}\0");
        }
    }

    fn begin(&mut self) -> bool {
        debug_assert!(self.starts.len() < CAPACITY, "too many variables");
        if self.starts.len() == CAPACITY {
            return false;
        }
        self.starts.push(self.text.len());
        true
    }

    /// The other lines, each with its NUL, in their order.
    pub fn others(&self) -> &[u8] {
        &self.text
    }

    /// The common lines.
    pub fn common(&self) -> &Arc<[CString]> {
        &self.common
    }

    /// Finishes it, for one exec.
    pub fn finish(&mut self) -> Finished<'_> {
        let own = usize::from(self.own_id.is_some());
        debug_assert_eq!(self.pointers.len(), CAPACITY + self.common.len() + own + 1);
        let first = CAPACITY - self.starts.len();
        for (pointer, start) in self.pointers[first..].iter_mut().zip(&self.starts) {
            *pointer = self.text[*start..].as_ptr().cast();
        }
        Finished {
            pointers: &self.pointers[first..],
            own_id: self.own_id.as_ref(),
        }
    }
}

// SAFETY: the pointers point into shared lines that nothing changes, or into its own text, or into
// its own line, which is made of atomics.
unsafe impl Send for Environment {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines in the program's order.
    fn lines(environment: &mut Environment) -> Vec<String> {
        let finished = environment.finish();
        assert!(finished.pointers.last().unwrap().is_null());
        let text = |line: &CStr| line.to_str().unwrap().to_owned();
        finished.lines().map(text).collect()
    }

    #[test]
    fn the_other_lines_come_before_the_common_ones_and_are_removed() {
        let mut environment = Environment::new(Arc::from([c"A=1".into(), c"B=2".into()]), None);
        environment.line(c"PROTO=TCP");
        environment.set("PORT", format_args!("{}", 80));
        assert_eq!(
            lines(&mut environment),
            ["PROTO=TCP", "PORT=80", "A=1", "B=2"]
        );
        environment.clear();
        environment.set("LONG", format_args!("{}", "x".repeat(5000)));
        environment.set("C", format_args!("3"));
        let found = lines(&mut environment);
        assert_eq!(found.len(), 4);
        assert_eq!(found[0].len(), 5005);
        assert_eq!(found[1..], ["C=3", "A=1", "B=2"]);
        environment.clear();
        assert_eq!(lines(&mut environment), ["A=1", "B=2"]);
    }

    #[test]
    fn other_lines_can_be_common() {
        let first: Arc<[CString]> = Arc::from([c"A=1".into()]);
        let second: Arc<[CString]> = Arc::from([c"B=2".into(), c"C=3".into()]);
        let mut environment = Environment::new(Arc::clone(&first), Some("LISTEN_PID"));
        environment.set("X", format_args!("y"));
        environment.rebase(&second);
        environment.finish().write_own_id(|| 7);
        assert_eq!(
            lines(&mut environment),
            ["X=y", "B=2", "C=3", "LISTEN_PID=7"]
        );
        let capacity = environment.pointers.capacity();
        environment.rebase(&first);
        drop(second);
        assert_eq!(lines(&mut environment), ["X=y", "A=1", "LISTEN_PID=7"]);
        environment.rebase(&first);
        assert_eq!(lines(&mut environment), ["X=y", "A=1", "LISTEN_PID=7"]);
        assert_eq!(environment.pointers.capacity(), capacity);
    }

    #[test]
    fn the_child_s_own_id_is_written_into_its_line() {
        let mut environment = Environment::new(Arc::from([c"A=1".into()]), Some("LISTEN_PID"));
        environment.set("B", format_args!("2"));
        for id in [7, 10, 32768, 4_194_304, u32::MAX, 99, 0] {
            environment.finish().write_own_id(|| id);
            let expected = ["B=2", "A=1", &format!("LISTEN_PID={id}")].map(str::to_owned);
            assert_eq!(lines(&mut environment), expected);
        }
    }
}
