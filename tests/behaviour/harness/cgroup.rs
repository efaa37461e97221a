//! A limit of memory for a run with all of its handlers; see cgroups(7).

use super::poll_for;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A control group of a test's own, of version 2 or 1, removed on drop.
///
/// It is made in the directory that `SKD_CGROUP` names, and nowhere else: without that directory, the tests leave the
/// control groups of this machine alone.
#[derive(Debug)]
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// Makes a group whose processes may use so many bytes together. Panics where that isn't possible.
    #[track_caller]
    pub fn new(bytes: u64) -> Self {
        static GROUPS: AtomicU32 = AtomicU32::new(0);
        let Some(parent) = std::env::var_os("SKD_CGROUP").filter(|path| !path.is_empty()) else {
            panic!(
                "this test needs SKD_CGROUP, a directory of cgroups in which it may make one (version 2, with \
                 \"memory\" in cgroup.subtree_control, or that of \"memory\" of version 1)"
            );
        };
        let group = GROUPS.fetch_add(1, Ordering::Relaxed);
        let path = Path::new(&parent).join(format!("skd-{}-{group}", std::process::id()));
        fs::create_dir(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let group = Self(path);
        let file = if group.is_version_2() {
            "memory.max"
        } else {
            "memory.limit_in_bytes"
        };
        group.write(file, &bytes.to_string());
        // Memory that can be swapped out is not short.
        if group.0.join("memory.swap.max").exists() {
            group.write("memory.swap.max", "0");
        }
        group
    }

    /// The command prefix that runs another command inside.
    pub fn prefix(&self) -> [String; 5] {
        let file = self.0.join("cgroup.procs");
        let file = file.to_str().expect("UTF-8");
        let line = "echo $$ > \"$1\" && shift && exec \"$@\"";
        ["sh", "-c", line, "sh", file].map(str::to_owned)
    }

    /// The processes inside.
    pub fn processes(&self) -> Vec<i32> {
        let text = self.read("cgroup.procs");
        let numbers = text.lines().map(|line| line.parse().expect("a process id"));
        numbers.collect()
    }

    /// How many processes the kernel has killed for lack of memory.
    pub fn kills(&self) -> usize {
        let file = if self.is_version_2() {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = self.read(file);
        let kills = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        let kills = kills.unwrap_or_else(|| panic!("no oom_kill in {file}: {text}"));
        kills.parse().expect("a number")
    }

    fn is_version_2(&self) -> bool {
        self.0.join("memory.max").exists()
    }

    fn read(&self, file: &str) -> String {
        let path = self.0.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    #[track_caller]
    fn write(&self, file: &str, text: &str) {
        let path = self.0.join(file);
        fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // It can't be removed before the last process inside is reaped.
        poll_for(super::DEADLINE, || fs::remove_dir(&self.0).ok());
    }
}
