//! The files of xinetd(8): one, and those that it includes, or all of a directory.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::foreign::fault;
use super::super::read::{directory as read_directory, file as read_file};
use super::syntax::{Item, parse};
use crate::config::Location;
use crate::error::Error;

/// The maximum depth of includes.
const DEEPEST: usize = 32;

/// The files while they are read.
struct Reader<'a> {
    /// The device and inode of each file so far. A file that is included again can't say anything new.
    seen: HashSet<(u64, u64)>,
    /// Those that are being read, each included by the one before.
    open: Vec<(u64, u64)>,
    found: Vec<Vec<Item>>,
    faults: &'a mut Vec<Error>,
}

/// Reads a file with what it includes, or the files of a directory. Returns the items between two
/// includes together, in order.
pub(super) fn read(path: &Path, faults: &mut Vec<Error>) -> Vec<Vec<Item>> {
    let mut reader = Reader {
        seen: HashSet::new(),
        open: Vec::new(),
        found: Vec::new(),
        faults,
    };
    if path.is_dir() {
        reader.directory(path, None);
    } else {
        reader.file(path, None);
    }
    reader.found
}

impl Reader<'_> {
    /// Reads a file, which is included from there.
    fn file(&mut self, path: &Path, from: Option<&Location>) {
        // The file that is read is the same, or that shows as changed content in the next reload.
        let id = fs::metadata(path).map(|it| (it.dev(), it.ino()));
        if let Ok(id) = id {
            if self.open.contains(&id) {
                return self.refuse(path, from, "includes itself");
            }
            if !self.seen.insert(id) {
                return self.refuse(path, from, "is included twice");
            }
        }
        if self.open.len() == DEEPEST {
            return self.refuse(path, from, "is included by a chain of too many files");
        }
        let text = match read_file(path) {
            Ok(text) => text,
            Err(why) => return self.refuse(path, from, &why),
        };
        self.open.push(id.unwrap_or_default());
        let mut items = Vec::new();
        for item in parse(path, &text, self.faults) {
            match item {
                Item::Include(name, location) => {
                    self.found.push(std::mem::take(&mut items));
                    self.file(&beside(path, &name), Some(&location));
                }
                Item::IncludeDir(name, location) => {
                    self.found.push(std::mem::take(&mut items));
                    self.directory(&beside(path, &name), Some(&location));
                }
                item => items.push(item),
            }
        }
        self.found.push(items);
        self.open.pop();
    }

    /// Reads the files of a directory that xinetd would read.
    fn directory(&mut self, path: &Path, from: Option<&Location>) {
        let files = match read_directory(path, is_included) {
            Ok(files) => files,
            Err(why) => return self.refuse(path, from, &why),
        };
        for file in files {
            if !file.is_dir() {
                self.file(&file, from);
            }
        }
    }

    fn refuse(&mut self, path: &Path, from: Option<&Location>, why: &str) {
        let path = path.display();
        self.faults.push(match from {
            Some(location) => fault(location, format!("{path} {why}")),
            None => Error::Usage(format!("{path} {why}")),
        });
    }
}

/// Whether xinetd reads a file of this name: editors and package managers leave others.
fn is_included(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    !name.contains(&b'.') && !name.ends_with(b"~")
}

/// Returns the path of an included file. A relative one begins at the file that includes it.
fn beside(file: &Path, name: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(name)
}
