//! The environment of a child as execve(2) takes it, made anew for each connection without
//! allocating: what is common to all was prepared once, and what isn't is written into
//! memory that stays.

use std::ffi::{CStr, CString, c_char};
use std::fmt;
use std::io::Write;
use std::ptr;
use std::sync::Arc;

/// How many variables may differ from one connection to the next.
const ROOM: usize = 16;

/// Room for them, in bytes. More is taken if it must, and then kept.
const TEXT: usize = 1024;

/// An environment in the making.
#[derive(Debug)]
pub struct Environment {
    common: Arc<[CString]>,
    /// [`ROOM`] places filled from the end, then those of `common`, then null.
    pointers: Vec<*const c_char>,
    text: Vec<u8>,
    /// Where in `text` each line starts.
    starts: Vec<usize>,
}

/// A finished environment, for as long as what it points to stays.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a>(&'a [*const c_char]);

impl<'a> Finished<'a> {
    /// The lines as the program will find them.
    pub fn lines(self) -> impl Iterator<Item = &'a CStr> {
        let lines = self.0.iter().take_while(|line| !line.is_null());
        // SAFETY: each was made from a line that ends in NUL, and stays for as long as this.
        lines.map(|line| unsafe { CStr::from_ptr(*line) })
    }

    /// An array of pointers to lines that end in NUL; the last is null.
    pub(super) fn as_ptr(&self) -> *const *const c_char {
        self.0.as_ptr()
    }
}

impl Environment {
    /// An environment that begins as these lines, each `NAME=VALUE`.
    pub fn new(common: Arc<[CString]>) -> Self {
        let room = [ptr::null(); ROOM];
        let lines = common.iter().map(|line| line.as_ptr());
        let pointers = room.into_iter().chain(lines).chain([ptr::null()]).collect();
        Self {
            common,
            pointers,
            text: Vec::with_capacity(TEXT),
            starts: Vec::with_capacity(ROOM),
        }
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
        debug_assert_eq!(self.pointers.len(), ROOM + self.common.len() + 1);
        let first = ROOM - self.starts.len();
        for (pointer, start) in self.pointers[first..].iter_mut().zip(&self.starts) {
            *pointer = self.text[*start..].as_ptr().cast();
        }
        Finished(&self.pointers[first..])
    }
}

// SAFETY: the pointers point into lines that the value shares and nobody changes, or into
// its own text.
unsafe impl Send for Environment {}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines as a program would find them.
    fn lines(environment: &mut Environment) -> Vec<String> {
        let finished = environment.finish();
        assert!(finished.0.last().unwrap().is_null());
        let text = |line: &CStr| line.to_str().unwrap().to_owned();
        finished.lines().map(text).collect()
    }

    #[test]
    fn what_differs_comes_before_what_is_common_and_is_forgotten() {
        let mut environment = Environment::new(Arc::from([c"A=1".into(), c"B=2".into()]));
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
}
