//! The environment of a child as execve(2) takes it, made anew for each connection without
//! allocating: what is common to all was prepared once, and what isn't is written into
//! memory that stays.

use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::io::Write;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

/// How many variables may differ from one connection to the next.
const ROOM: usize = 16;

/// Room for them, in bytes. More is taken if it must, and then kept.
const TEXT: usize = 1024;

/// An environment in the making.
#[derive(Debug)]
pub struct Environment {
    common: Arc<[CString]>,
    own_id: Option<OwnId>,
    /// [`ROOM`] places filled from the end, then those of `common` and `own_id`, then null.
    pointers: Vec<*const c_char>,
    text: Vec<u8>,
    /// Where in `text` each line starts.
    starts: Vec<usize>,
}

/// A finished environment, for as long as what it points to stays.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    pointers: &'a [*const c_char],
    own_id: Option<&'a OwnId>,
}

impl<'a> Finished<'a> {
    /// The lines as the program will find them.
    pub fn lines(self) -> impl Iterator<Item = &'a CStr> {
        let lines = self.pointers.iter().take_while(|line| !line.is_null());
        // SAFETY: each was made from a line that ends in NUL, and stays for as long as this.
        lines.map(|line| unsafe { CStr::from_ptr(*line) })
    }

    /// An array of pointers to lines that end in NUL; the last is null.
    pub(super) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }

    /// Writes a process id where one is to stand, and asks for it only then: most programs
    /// have none. Called by a newborn child, who alone knows it before it execs; the parent
    /// is stopped meanwhile, and has no use for the line.
    pub(super) fn tell_own_id(&self, id: impl FnOnce() -> u32) {
        if let Some(own_id) = self.own_id {
            own_id.write(id());
        }
    }
}

/// A line `NAME=ID` that the child completes.
#[derive(Debug)]
struct OwnId {
    /// Shared with the pointer to it: a box would say that it alone leads there.
    line: Arc<[AtomicU8]>,
    /// Where the id begins.
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
        for place in self.line.iter().skip(self.start) {
            // After the last digit, NUL.
            let byte = match power {
                0 => 0,
                _ => b'0' + (id / power % 10) as u8,
            };
            place.store(byte, Ordering::Relaxed);
            power /= 10;
        }
    }
}

impl Environment {
    /// An environment that begins as these lines, each `NAME=VALUE`; in the variable
    /// `own_id`, if there is to be one, the child writes its own process id.
    pub fn new(common: Arc<[CString]>, own_id: Option<&str>) -> Self {
        let room = [ptr::null(); ROOM];
        let lines = common.iter().map(|line| line.as_ptr());
        let own_id = own_id.map(OwnId::new);
        let own_line = own_id.iter().map(|own_id| own_id.line.as_ptr().cast());
        let pointers = room
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
            starts: Vec::with_capacity(ROOM),
        }
    }

    /// Has these lines in common from now on. Does nothing if it has them already; otherwise
    /// allocates only if there are more than ever before.
    pub fn rebase(&mut self, common: &Arc<[CString]>) {
        if Arc::ptr_eq(&self.common, common) {
            return;
        }
        self.pointers.truncate(ROOM);
        let lines = common.iter().map(|line| line.as_ptr());
        let own_id = self.own_id.iter();
        let own_line = own_id.map(|own_id| own_id.line.as_ptr().cast());
        self.pointers
            .extend(lines.chain(own_line).chain([ptr::null()]));
        self.common = Arc::clone(common);
    }

    /// Forgets all but the common lines.
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

    /// Adds a variable. Its name isn't among the common lines, and no NUL is in it.
    pub fn set(&mut self, name: &str, value: fmt::Arguments<'_>) {
        if self.begin() {
            // Writing to a Vec can't fail.
            let _ = write!(self.text, "{name}={value}\0");
        }
    }

    fn begin(&mut self) -> bool {
        debug_assert!(
            self.starts.len() < ROOM,
            "more variables than there is room for"
        );
        if self.starts.len() == ROOM {
            return false;
        }
        self.starts.push(self.text.len());
        true
    }

    /// The whole of it.
    pub fn finish(&mut self) -> Finished<'_> {
        let own = usize::from(self.own_id.is_some());
        debug_assert_eq!(self.pointers.len(), ROOM + self.common.len() + own + 1);
        let first = ROOM - self.starts.len();
        for (pointer, start) in self.pointers[first..].iter_mut().zip(&self.starts) {
            *pointer = self.text[*start..].as_ptr().cast();
        }
        Finished {
            pointers: &self.pointers[first..],
            own_id: self.own_id.as_ref(),
        }
    }
}

// SAFETY: the pointers point into lines that the value shares and nobody changes, or into
// its own text, or into its own line, which is made of atomics.
unsafe impl Send for Environment {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines as a program would find them.
    fn lines(environment: &mut Environment) -> Vec<String> {
        let finished = environment.finish();
        assert!(finished.pointers.last().unwrap().is_null());
        let text = |line: &CStr| line.to_str().unwrap().to_owned();
        finished.lines().map(text).collect()
    }

    #[test]
    fn what_differs_comes_before_what_is_common_and_is_forgotten() {
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
        environment.finish().tell_own_id(|| 7);
        assert_eq!(
            lines(&mut environment),
            ["X=y", "B=2", "C=3", "LISTEN_PID=7"]
        );
        let room = environment.pointers.capacity();
        environment.rebase(&first);
        drop(second);
        assert_eq!(lines(&mut environment), ["X=y", "A=1", "LISTEN_PID=7"]);
        environment.rebase(&first);
        assert_eq!(lines(&mut environment), ["X=y", "A=1", "LISTEN_PID=7"]);
        assert_eq!(environment.pointers.capacity(), room);
    }

    #[test]
    fn the_child_s_own_id_stands_where_it_is_to_stand() {
        let mut environment = Environment::new(Arc::from([c"A=1".into()]), Some("LISTEN_PID"));
        environment.set("B", format_args!("2"));
        for id in [7, 10, 32768, 4_194_304, u32::MAX, 99, 0] {
            environment.finish().tell_own_id(|| id);
            let expected = ["B=2", "A=1", &format!("LISTEN_PID={id}")].map(str::to_owned);
            assert_eq!(lines(&mut environment), expected);
        }
    }
}
