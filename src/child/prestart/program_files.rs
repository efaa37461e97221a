//! The files that a program is made from.

use std::ffi::{CStr, OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::child::plan::Plan;
use crate::child::program::path_below;

/// The files that a program is made from: its own, and those that its arguments name, such as a
/// script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sources(Vec<(OsString, Option<Stamp>)>);

/// What shows that a file is the same, with the same content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Sources {
    /// The files as they are now.
    pub(super) fn of(plan: &Plan) -> Self {
        let arguments = plan.target().arguments().iter().skip(1);
        let named = arguments.map(|argument| path_from_here(plan, argument));
        let named = named.filter(|path| path.is_file());
        let all = [path_from_here(plan, plan.target().path())]
            .into_iter()
            .chain(named);
        let stamp = |path: PathBuf| {
            let stamp = Stamp::of(&path);
            (path.into_os_string(), stamp)
        };
        Self(all.map(stamp).collect())
    }

    /// Whether none of them has changed.
    pub(super) fn are_unchanged(&self) -> bool {
        let mut all = self.0.iter();
        all.all(|(path, stamp)| Stamp::of(Path::new(path)) == *stamp)
    }
}

/// The path for this process, which isn't in the handler's directories, of a handler's path.
fn path_from_here(plan: &Plan, path: &CStr) -> PathBuf {
    let path = Path::new(OsStr::from_bytes(path.to_bytes()));
    let path = Path::new(plan.directory().unwrap_or_default()).join(path);
    path_below(plan.root(), &path)
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok()?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}
