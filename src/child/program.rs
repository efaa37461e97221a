//! PROG: its path, and whether it can be run. Found once, not for each connection.

use std::ffi::{CStr, CString, OsStr};
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{AccessFlags, faccessat};

use crate::config::decimal;
use crate::error::{At, Error, Reason};

/// What execvp(3) uses if PATH isn't set.
const DEFAULT_PATH: &str = "/bin:/usr/bin";

/// Finds PROG as execvp(3) would, with the rights that this process has by now.
///
/// `directory` is the handler's working directory, in which relative paths begin.
pub fn find(name: &CStr, path: Option<&OsStr>, directory: Option<&CStr>) -> Result<CString, Error> {
    let text = OsStr::from_bytes(name.to_bytes());
    let base = directory.map(|directory| Path::new(OsStr::from_bytes(directory.to_bytes())));
    let check = |candidate: &Path| runnable(&base.unwrap_or(Path::new("")).join(candidate));
    if text.as_bytes().contains(&b'/') {
        let path = base.unwrap_or(Path::new("")).join(text);
        check(Path::new(text)).map_err(|why| why.error_at(text, &path))?;
        return Ok(name.to_owned());
    }
    let mut denied = None;
    let path = path.unwrap_or(OsStr::new(DEFAULT_PATH));
    for element in path.as_bytes().split(|&byte| byte == b':') {
        let element = if element.is_empty() { b"." } else { element };
        let candidate = PathBuf::from(OsStr::from_bytes(element)).join(text);
        match check(&candidate) {
            Ok(()) => {
                return CString::new(candidate.as_os_str().as_bytes())
                    .map_err(|_| Refusal::Missing(Errno::ENOENT).error_at(text, &candidate));
            }
            // As for a shell, a directory that can't be searched is empty.
            Err(Refusal::Missing(_) | Refusal::Hidden(_)) => {}
            // Like execvp(3): continue, but remember that there was one.
            Err(why) => denied = denied.or(Some((why, candidate))),
        }
    }
    Err(match denied {
        Some((why, path)) => why.error_at(text, &path),
        None => Error::NotFound(format!(
            "'{}' can't be run: there is no such program in PATH ({}){}",
            Path::new(text).display(),
            Path::new(path).display(),
            meant(text)
        )),
    })
}

/// Returns what was probably meant by the name of a program that doesn't exist.
fn meant(name: &OsStr) -> String {
    let text = name.to_string_lossy();
    let port = text.rsplit(':').next().unwrap_or_default();
    let first = text.split(' ').next().unwrap_or_default();
    if first.len() < text.len() && (!text.contains('/') || Path::new(first).exists()) {
        format!("; write a program and its arguments as separate words: {text}")
    } else if decimal::<u16>(port.as_ref()).is_some() && !port.is_empty() {
        format!("; to listen on a port, write --tcp {text}")
    } else if text.starts_with(['\u{2013}', '\u{2014}', '\u{2212}']) {
        "; an option begins with '-', which this dash isn't".into()
    } else if text == "help" {
        "; for help, write skd --help".into()
    } else {
        String::new()
    }
}

enum Refusal {
    Missing(Errno),
    /// A directory in its path can't be searched.
    Hidden(Errno),
    NotRunnable(String),
}

impl Refusal {
    /// Returns the error of a program with this path.
    fn error_at(self, name: &OsStr, path: &Path) -> Error {
        let failed = |errno| format!("{}{}", At(errno, path).reason(), meant(name));
        let text = |why| format!("'{}' can't be run: {why}", Path::new(name).display());
        match self {
            Self::Missing(errno) => Error::NotFound(text(failed(errno))),
            Self::Hidden(errno) => Error::NotRunnable(text(failed(errno))),
            Self::NotRunnable(why) => Error::NotRunnable(text(why)),
        }
    }
}

fn runnable(path: &Path) -> Result<(), Refusal> {
    let metadata =
        path.metadata()
            .map_err(|reason| match reason.raw_os_error().map(Errno::from_raw) {
                Some(errno @ (Errno::ENOENT | Errno::ENOTDIR)) => Refusal::Missing(errno),
                errno => Refusal::Hidden(errno.unwrap_or(Errno::EIO)),
            })?;
    if metadata.is_dir() {
        return Err(Refusal::NotRunnable("it is a directory".into()));
    }
    if !metadata.is_file() {
        return Err(Refusal::NotRunnable("it isn't a file".into()));
    }
    faccessat(AT_FDCWD, path, AccessFlags::X_OK, AtFlags::AT_EACCESS).map_err(|errno| {
        Refusal::NotRunnable(format!(
            "{} ({} isn't executable)",
            errno.desc(),
            Path::new(path).display()
        ))
    })?;
    match missing_interpreter(None, path) {
        Some(interpreter) => Err(Refusal::NotRunnable(format!(
            "its interpreter {} doesn't exist",
            interpreter.display()
        ))),
        None => Ok(()),
    }
}

/// Returns the missing interpreter of a script, or the missing dynamic linker of a program. For a
/// file that can be executed but not read it returns `None`. The paths begin in `root`, if that is
/// another root directory.
pub fn missing_interpreter(root: Option<&Path>, program: &Path) -> Option<PathBuf> {
    missing_interpreter_of(root, File::open(path_below(root, program)).ok()?)
}

/// The path for this process of a path in another root directory.
pub fn path_below(root: Option<&Path>, path: &Path) -> PathBuf {
    match root {
        Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
        None => path.to_owned(),
    }
}

/// The same for an open program.
pub fn missing_interpreter_of(root: Option<&Path>, mut file: File) -> Option<PathBuf> {
    let mut head = Vec::with_capacity(256);
    file.by_ref().take(256).read_to_end(&mut head).ok()?;
    let read_at = |offset, buffer: &mut [u8]| file.read_exact_at(buffer, offset).is_ok();
    let interpreter = interpreter(&head, read_at)?;
    let interpreter = PathBuf::from(OsStr::from_bytes(&interpreter));
    let missing = matches!(
        path_below(root, &interpreter)
            .metadata()
            .err()?
            .raw_os_error()
            .map(Errno::from_raw),
        Some(Errno::ENOENT | Errno::ENOTDIR)
    );
    missing.then_some(interpreter)
}

/// Returns the interpreter of a program that begins with `head`, if it has one: a path that isn't
/// empty and has no NUL inside. `read_at` fills a buffer from an offset in the program, or returns
/// false.
pub fn interpreter(head: &[u8], read_at: impl FnMut(u64, &mut [u8]) -> bool) -> Option<Vec<u8>> {
    let path = match head {
        [b'#', b'!', ..] => script_interpreter(head)?.to_vec(),
        [0x7f, b'E', b'L', b'F', ..] => dynamic_linker(head, read_at)?,
        _ => return None,
    };
    (!path.is_empty()).then_some(path)
}

/// The path after `#!` (execve(2)).
fn script_interpreter(head: &[u8]) -> Option<&[u8]> {
    let line = head.get(2..)?.split(|&byte| byte == b'\n').next()?;
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = line.iter().position(|byte| !blank(byte))?;
    // The kernel stops at a NUL too.
    line[start..].split(|byte| blank(byte) || *byte == 0).next()
}

/// The path in a program's `PT_INTERP` (elf(5)). Programs of another word size or byte order are
/// left to the kernel.
fn dynamic_linker(head: &[u8], mut read_at: impl FnMut(u64, &mut [u8]) -> bool) -> Option<Vec<u8>> {
    const CLASS: u8 = if cfg!(target_pointer_width = "64") {
        2
    } else {
        1
    };
    const ORDER: u8 = if cfg!(target_endian = "little") { 1 } else { 2 };
    const WORD: usize = size_of::<usize>();
    const PT_INTERP: u32 = 3;
    // Offsets of e_phoff, e_phentsize and e_phnum; of p_offset and p_filesz.
    const HEADER: [usize; 3] = if WORD == 8 {
        [32, 54, 56]
    } else {
        [28, 42, 44]
    };
    const ENTRY: [usize; 2] = if WORD == 8 { [8, 32] } else { [4, 16] };
    /// A path of the kernel has at most 4096 bytes, and a program seldom 100 headers.
    const LONGEST: u64 = 4096;

    if head.get(4..6)? != [CLASS, ORDER] {
        return None;
    }
    let word = |bytes: &[u8], at: usize| -> Option<u64> {
        Some(usize::from_ne_bytes(bytes.get(at..at + WORD)?.try_into().ok()?) as u64)
    };
    let half = |at: usize| -> Option<u64> {
        Some(u16::from_ne_bytes(head.get(at..at + 2)?.try_into().ok()?).into())
    };
    let (table, size, count) = (word(head, HEADER[0])?, half(HEADER[1])?, half(HEADER[2])?);
    for index in 0..count {
        let mut entry = [0; 56];
        let length = usize::try_from(size).ok()?.min(entry.len());
        if !read_at(table.checked_add(index * size)?, &mut entry[..length]) {
            return None;
        }
        let kind = u32::from_ne_bytes(entry[..4].try_into().ok()?);
        if kind == PT_INTERP {
            let length = word(&entry, ENTRY[1])?.min(LONGEST);
            let mut path = vec![0; usize::try_from(length).ok()?];
            if !read_at(word(&entry, ENTRY[0])?, &mut path) {
                return None;
            }
            path.truncate(path.iter().position(|&byte| byte == 0)?);
            return Some(path);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_interpreter_of_a_script_is_what_follows_the_mark() {
        for (head, expected) in [
            ("#!/bin/sh\n", Some("/bin/sh")),
            ("#! \t/usr/bin/env python3\nx", Some("/usr/bin/env")),
            ("#!/bin/sh", Some("/bin/sh")),
            ("#!/bin/sh\0-e", Some("/bin/sh")),
            ("#!x", Some("x")),
            ("#!", None),
            ("", None),
            ("#!\n/bin/sh", None),
            ("#!  ", None),
            ("#!\0/bin/sh", None),
        ] {
            let found = interpreter(head.as_bytes(), |_, _| false);
            assert_eq!(found.as_deref(), expected.map(str::as_bytes), "{head:?}");
        }
    }

    #[test]
    fn the_dynamic_linker_of_this_test_is_found() {
        let target = std::fs::read("/proc/self/exe").unwrap();
        let found = dynamic_linker(&target[..256], |offset, buffer| {
            let at = usize::try_from(offset).unwrap();
            buffer.copy_from_slice(&target[at..at + buffer.len()]);
            true
        });
        let found = found.expect("test programs are dynamic");
        assert!(Path::new(OsStr::from_bytes(&found)).exists(), "{found:?}");
    }

    proptest! {
        #[test]
        fn any_head_names_a_path_or_none(
            elf in any::<bool>(),
            head in proptest::collection::vec(any::<u8>(), 0..250),
            fill in any::<u8>(),
        ) {
            let mark: &[u8] = if elf { b"\x7fELF\x02\x01" } else { b"#!" };
            let head = [mark, &head].concat();
            let found = interpreter(&head, |offset, buffer| {
                buffer.fill(fill.wrapping_add(offset as u8));
                true
            });
            if let Some(path) = found {
                prop_assert!(!path.is_empty() && !path.contains(&0));
            }
        }

        #[test]
        fn an_interpreter_is_found_whatever_its_name(
            blanks in "[ \t]{0,3}",
            path in "/[^ \t\n\0]{0,50}",
            rest in "([ \t\n\0](.|\n)*)?",
        ) {
            let head = format!("#!{blanks}{path}{rest}");
            let found = interpreter(head.as_bytes(), |_, _| false);
            prop_assert_eq!(found, Some(path.into_bytes()));
        }
    }
}
