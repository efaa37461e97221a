//! What a process knows that goes on after another.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::OsString;
use std::rc::Rc;

use crate::config::seccomp::FilterFile;
use crate::config::{EnvironmentFile, FileTexts, Identity};

/// What names stand for that were looked up: an id or a port, or the ids of a user and a group. By kind
/// and name.
pub type LookedUp = HashMap<(String, OsString), (u32, Option<u32>)>;

/// What a process knows after an upgrade. It doesn't look up the same names again: its root
/// directory may be another, the answers may take long, and its sockets are bound.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// The users that were looked up.
    pub identities: Vec<Identity>,
    /// What files said, if they were read for this process. They aren't read again.
    pub texts: Option<FileTexts>,
    /// The files of `--env-file` that were read.
    pub environment_files: Vec<EnvironmentFile>,
    /// The files of `--seccomp` that were read.
    pub filter_files: Vec<FilterFile>,
    /// What other names stand for. Those that are looked up are added. Without it, none is looked up:
    /// what they are for is there already, and in another root directory they stand for others.
    pub names: Option<Rc<RefCell<LookedUp>>>,
}
