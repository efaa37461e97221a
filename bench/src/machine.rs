//! The machine that the figures were taken on.

use std::fs;

use nix::sys::utsname::uname;
use serde::{Deserialize, Serialize};

use crate::proc;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    pub kernel: String,
    pub architecture: String,
    pub distribution: String,
    pub cpu: String,
    pub cores: usize,
    pub memory_mib: u64,
    pub virtual_machine: bool,
    /// The load average over one minute before the run: anything far from 0 means company.
    pub load_before: f64,
    pub somaxconn: String,
}

impl Machine {
    pub(crate) fn describe() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let (kernel, architecture) = uname().map_or_else(
            |_| ("unknown".to_owned(), "unknown".to_owned()),
            |name| {
                (
                    name.release().to_string_lossy().into_owned(),
                    name.machine().to_string_lossy().into_owned(),
                )
            },
        );
        Self {
            kernel,
            architecture,
            distribution: distribution(),
            cpu: cpu_field(&cpuinfo, "model name")
                .unwrap_or("unknown")
                .to_owned(),
            cores: cores(),
            memory_mib: proc::memory_total_kib().unwrap_or(0) / 1024,
            virtual_machine: cpu_field(&cpuinfo, "flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            load_before: load_average(),
            somaxconn: fs::read_to_string("/proc/sys/net/core/somaxconn")
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
        }
    }
}

/// Cores that this process may run on.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

fn cpu_field<'a>(cpuinfo: &'a str, key: &str) -> Option<&'a str> {
    let line = cpuinfo.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim())
}

fn distribution() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    text.lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(
            || "unknown".to_owned(),
            |name| name.trim_matches('"').to_owned(),
        )
}

fn load_average() -> f64 {
    fs::read_to_string("/proc/loadavg")
        .ok()
        .and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or(0.0)
}
