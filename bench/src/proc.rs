//! Properties of processes from /proc: proc_pid_stat(5), proc_pid_status(5), proc_meminfo(5).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};

/// CPU time, user and system together.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct CpuTimes {
    /// Of all threads of the process, including those that have ended.
    pub own: Duration,
    /// Of the children that it has waited for, and of their waited-for children.
    pub children: Duration,
}

impl CpuTimes {
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            own: self.own.saturating_sub(earlier.own),
            children: self.children.saturating_sub(earlier.children),
        }
    }
}

pub(crate) fn cpu_times(pid: i32) -> io::Result<CpuTimes> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let ticks_a_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100);
    parse_cpu_times(&stat, ticks_a_second as f64)
        .ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has an unknown form")))
}

/// CPU time of all running threads of a process, which the scheduler counts in nanoseconds.
pub(crate) fn cpu_of_threads(pid: i32) -> io::Result<Duration> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end between the listing and this.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let first = text.split_ascii_whitespace().next();
        let nanos: Option<u64> = first.and_then(|nanos| nanos.parse().ok());
        sum += nanos.ok_or_else(|| io::Error::other("/proc/PID/schedstat has an unknown form"))?;
    }
    Ok(Duration::from_nanos(sum))
}

fn parse_cpu_times(stat: &str, ticks_a_second: f64) -> Option<CpuTimes> {
    let fields = after_name(stat)?;
    let ticks = |index: usize| fields.get(index)?.parse::<u32>().ok();
    // Fields 14 to 17 of the manual page, which counts from 1 and includes pid and name.
    let (utime, stime, cutime, cstime) = (ticks(11)?, ticks(12)?, ticks(13)?, ticks(14)?);
    let time =
        |a: u32, b: u32| Duration::from_secs_f64((f64::from(a) + f64::from(b)) / ticks_a_second);
    Some(CpuTimes {
        own: time(utime, stime),
        children: time(cutime, cstime),
    })
}

/// Returns the fields of a stat line after the name. The name may contain blanks and brackets.
fn after_name(stat: &str) -> Option<Vec<&str>> {
    Some(
        stat.get(stat.rfind(')')? + 1..)?
            .split_ascii_whitespace()
            .collect(),
    )
}

/// Anonymous resident memory in KiB.
pub(crate) fn anonymous_kib(pid: i32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    field_kib(&status, "RssAnon:").ok_or_else(|| io::Error::other("no RssAnon in /proc/PID/status"))
}

/// Anonymous memory in KiB, of which a page that n processes share counts as 1/n.
pub(crate) fn proportional_anonymous_kib(pid: i32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    field_kib(&rollup, "Pss_Anon:").ok_or_else(|| io::Error::other("no Pss_Anon"))
}

/// Its memory in KiB, of which a page that n processes share counts as 1/n.
pub(crate) fn proportional_kib(pid: i32) -> io::Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    field_kib(&rollup, "Pss:").ok_or_else(|| io::Error::other("no Pss"))
}

/// Memory files (memfd_create) of a process in KiB, mapped or not.
pub(crate) fn memory_files_kib(pid: i32) -> io::Result<u64> {
    let mut files = HashMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        // A descriptor may be closed between the listing and this.
        let is_memory =
            fs::read_link(&path).is_ok_and(|file| file.to_string_lossy().starts_with("/memfd:"));
        if let Some(file) = is_memory.then(|| fs::metadata(&path).ok()).flatten() {
            files.insert(file.ino(), file.blocks() / 2);
        }
    }
    Ok(files.values().sum())
}

/// Whether it runs this program, under whatever name it sees it.
pub(crate) fn runs(pid: i32, program: &Path) -> bool {
    let file = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let running = file(Path::new(&format!("/proc/{pid}/exe")));
    running.is_some() && running == file(program)
}

/// The number of its descriptors that are ends of pipes.
pub(crate) fn pipe_ends(pid: i32) -> io::Result<u64> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))?;
    let links = entries
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok());
    let pipes = links.filter(|link| link.to_string_lossy().starts_with("pipe:"));
    Ok(pipes.count() as u64)
}

/// The numbers of descriptors and threads.
pub(crate) fn descriptors_and_threads(pid: i32) -> io::Result<(usize, usize)> {
    let count = |what| Ok::<_, io::Error>(fs::read_dir(format!("/proc/{pid}/{what}"))?.count());
    Ok((count("fd")?, count("task")?))
}

/// Whether another process traces it, as skd does until a handler is prestarted.
pub(crate) fn is_traced(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|status| has_tracer(&status))
}

fn has_tracer(status: &str) -> bool {
    let tracer = status
        .lines()
        .find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() != "0")
}

pub(crate) fn memory_available_kib() -> io::Result<u64> {
    meminfo_kib("MemAvailable:")
}

pub(crate) fn memory_total_kib() -> io::Result<u64> {
    meminfo_kib("MemTotal:")
}

/// What the kernel uses for itself: slab, page tables, stacks, and for each processor.
pub(crate) fn kernel_kib() -> io::Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let fields = ["Slab:", "PageTables:", "KernelStack:", "Percpu:"].iter();
    Ok(fields.filter_map(|key| field_kib(&meminfo, key)).sum())
}

fn meminfo_kib(key: &str) -> io::Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    field_kib(&meminfo, key).ok_or_else(|| io::Error::other(format!("no {key} in /proc/meminfo")))
}

fn field_kib(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// Returns the path of the executable of a process.
pub(crate) fn executable(pid: i32) -> io::Result<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe"))
}

/// The limit of process ids.
pub(crate) fn pid_max() -> usize {
    fs::read_to_string("/proc/sys/kernel/pid_max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(32_768)
}

/// All processes with their parents, as found during one call.
pub(crate) struct ProcessTable {
    parents: HashMap<i32, i32>,
}

impl ProcessTable {
    pub(crate) fn read() -> io::Result<Self> {
        let mut parents = HashMap::new();
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<i32>().ok())
            else {
                continue;
            };
            // A process may end between the listing and this.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
                continue;
            };
            let parent = after_name(&stat).and_then(|fields| fields.get(1)?.parse().ok());
            if let Some(parent) = parent {
                parents.insert(pid, parent);
            }
        }
        Ok(Self { parents })
    }

    pub(crate) fn len(&self) -> usize {
        self.parents.len()
    }

    pub(crate) fn children(&self, parent: i32) -> Vec<i32> {
        self.parents
            .iter()
            .filter(|(_, p)| **p == parent)
            .map(|(pid, _)| *pid)
            .collect()
    }

    pub(crate) fn descendants(&self, ancestor: i32) -> Vec<i32> {
        let mut by_parent: HashMap<i32, Vec<i32>> = HashMap::new();
        for (pid, parent) in &self.parents {
            by_parent.entry(*parent).or_default().push(*pid);
        }
        let mut found = Vec::new();
        let mut open = vec![ancestor];
        while let Some(parent) = open.pop() {
            let children = by_parent.remove(&parent).unwrap_or_default();
            found.extend_from_slice(&children);
            open.extend(children);
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_times_behind_a_hostile_name() {
        let stat = "42 (a) b) (c) S 1 42 42 0 -1 4194560 100 0 0 0 150 50 300 100 20 0 3 0 5 6 7";
        let times = parse_cpu_times(stat, 100.0);
        let expected = CpuTimes {
            own: Duration::from_secs(2),
            children: Duration::from_secs(4),
        };
        assert_eq!(times, Some(expected));
        assert_eq!(parse_cpu_times("42 (short) S 1", 100.0), None);
    }

    #[test]
    fn the_time_of_threads_passes_with_work() -> io::Result<()> {
        let own = std::process::id().cast_signed();
        let before = cpu_of_threads(own)?;
        let busy = std::time::Instant::now();
        while busy.elapsed() < Duration::from_millis(30) {}
        assert!(cpu_of_threads(own)? > before);
        Ok(())
    }

    #[test]
    fn memory_files_count_once() -> io::Result<()> {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let own = std::process::id().cast_signed();
        let before = memory_files_kib(own)?;
        let file = fs::File::from(memfd_create(c"test", MFdFlags::MFD_CLOEXEC)?);
        let copy = file.try_clone()?;
        io::Write::write_all(&mut &file, &[1; 64 * 1024])?;
        assert!(memory_files_kib(own)? >= before + 64);
        assert!(memory_files_kib(own)? < before + 2 * 64);
        drop(copy);
        Ok(())
    }

    #[test]
    fn memory_fields() {
        let status = "Name:\tskd\nVmRSS:\t    2000 kB\nRssAnon:\t     120 kB\n";
        assert_eq!(field_kib(status, "RssAnon:"), Some(120));
        assert_eq!(field_kib(status, "RssFile:"), None);
    }

    #[test]
    fn tracers() {
        assert!(has_tracer("Name:\tcat\nTracerPid:\t42\nUid:\t0\n"));
        assert!(!has_tracer("Name:\tcat\nTracerPid:\t0\nUid:\t0\n"));
        assert!(!has_tracer("Name:\tcat\n"));
    }

    #[test]
    fn descendants_are_found_through_generations() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (6, 4)]);
        let table = ProcessTable { parents };
        let mut found = table.descendants(2);
        found.sort_unstable();
        assert_eq!(found, [3, 4, 6]);
        assert_eq!(table.children(3), [4]);
    }
}
