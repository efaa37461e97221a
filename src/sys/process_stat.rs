//! What a live process uses: proc_pid_stat(5), and its clock of CPU time.

use std::fs::File;
use std::io::Read;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Returns the CPU time of a process, without its children. That takes a tenth of the time of a look at
/// /proc, but another process may have the id by now.
pub fn cpu_time(pid: Pid) -> Option<Duration> {
    let clock = clock_getcpuclockid(pid).ok()?;
    Some(clock_gettime(clock).ok()?.into())
}

/// Whether a process has a handler for a signal (proc_pid_status(5), `SigCgt`), if /proc tells.
pub fn catches(pid: Pid, signal: Signal) -> Option<bool> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let mask = text.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
    let mask = u64::from_str_radix(mask.trim(), 16).ok()?;
    Some(mask & 1 << (signal as u32 - 1) != 0)
}

/// Whether a child has executed a program since it was made, if /proc tells. Also of a child that has ended.
pub fn has_executed(pid: Pid) -> Option<bool> {
    /// `PF_FORKNOEXEC`.
    const ONLY_FORKED: u64 = 0x40;
    read(pid, |text| Some(number(text, 9)? & ONLY_FORKED == 0))
}

/// Reads /proc/PID/stat.
fn read<T>(pid: Pid, parse: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    // With names of 64 bytes at most, it is shorter.
    let mut text = [0; 1024];
    let mut file = File::open(format!("/proc/{pid}/stat")).ok()?;
    let length = file.read(&mut text).ok()?;
    parse(text.get(..length)?)
}

/// A field of that, counted from 1, behind the name of the program.
fn number(text: &[u8], field: usize) -> Option<u64> {
    // The name may have any bytes, parentheses and spaces too. None follow.
    let name_end = text.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(text.get(name_end + 1..)?).ok()?;
    // The third field is the first.
    let text = rest.split_ascii_whitespace().nth(field - 3)?;
    text.parse().ok()
}

/// What /proc tells of a live process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessStat {
    /// Its resident memory in bytes.
    pub resident: u64,
    /// The clock tick in which it was made, counted from the boot.
    started: u64,
}

#[cfg(test)]
impl ProcessStat {
    /// A process that uses so much.
    pub fn of(resident: u64) -> Self {
        Self {
            resident,
            started: 0,
        }
    }
}

/// Reads what processes use.
#[derive(Clone, Copy, Debug)]
pub struct StatReader {
    page: u64,
    /// The tick in which this was made.
    now: u64,
}

impl StatReader {
    /// Returns a reader for processes that exist now. `None` if the system doesn't say how it counts.
    pub fn new() -> Option<Self> {
        let number = |name| u64::try_from(sysconf(name).ok()??).ok();
        let ticks = number(SysconfVar::CLK_TCK).filter(|ticks| *ticks > 0)?;
        let uptime = Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?);
        Some(Self {
            page: number(SysconfVar::PAGE_SIZE)?,
            now: u64::try_from(uptime.as_nanos() * u128::from(ticks) / 1_000_000_000).ok()?,
        })
    }

    /// Reads what this process uses. Returns `None` if /proc doesn't show it, or if it was made after
    /// this reader: its id was another's before. An id isn't used again within one tick.
    pub fn read(self, pid: Pid) -> Option<ProcessStat> {
        let stat = read(pid, |text| self.parse(text))?;
        (stat.started <= self.now).then_some(stat)
    }

    fn parse(self, text: &[u8]) -> Option<ProcessStat> {
        Some(ProcessStat {
            started: number(text, 22)?,
            resident: number(text, 24)?.saturating_mul(self.page),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::process::{self, Change, Ended, Fork, Target, Wait};
    use proptest::prelude::*;

    const READER: StatReader = StatReader {
        page: 4096,
        now: 1000,
    };

    fn line(name: &str, started: u64) -> String {
        format!(
            "7 ({name}) S 1 7 7 0 -1 4194560 9 8 0 0 120 30 40 10 20 0 1 0 {started} 4096000 25 \
             18446744073709551615 1 1 0 0 0\n"
        )
    }

    #[test]
    fn any_name_is_read_over() {
        let expected = ProcessStat {
            resident: 25 * 4096,
            started: 999,
        };
        for name in ["cat", "a b", "a) S 1 2 3 (", ") R", "((", "", "é) 9\n9"] {
            let read = READER.parse(line(name, 999).as_bytes());
            assert_eq!(read, Some(expected), "{name}");
        }
        let mut text = line("?", 999).into_bytes();
        text[3] = 0xff;
        assert_eq!(READER.parse(&text), Some(expected));
    }

    #[test]
    #[cfg_attr(miri, ignore = "proc(5)")]
    fn the_own_process_is_read_and_a_later_one_is_not() {
        let reader = StatReader::new().unwrap();
        let stat = reader.read(Pid::this()).unwrap();
        assert!(stat.resident > 100_000, "{stat:?}");
        assert!(stat.started > 0 && stat.started <= reader.now);
        let earlier = StatReader {
            now: stat.started - 1,
            ..reader
        };
        assert_eq!(earlier.read(Pid::this()), None);
        assert_eq!(reader.read(Pid::from_raw(i32::MAX)), None);
    }

    #[test]
    #[cfg_attr(miri, ignore = "proc(5)")]
    fn a_fork_is_told_from_an_exec() {
        assert_eq!(has_executed(Pid::this()), Some(true));
        match process::fork().unwrap() {
            Fork::Child => process::exit_now(match has_executed(Pid::this()) {
                Some(false) => 7,
                _ => 1,
            }),
            Fork::Parent(child) => {
                let ended = process::wait(Target::Process(child), Wait::UNTIL_END);
                let (_, Change::Ended(Ended::Exited(7))) = ended.unwrap().unwrap() else {
                    panic!("{ended:?}");
                };
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "proc(5)")]
    fn cpu_time_grows_with_what_is_computed() {
        let cpu = || cpu_time(Pid::this()).unwrap();
        let before = cpu();
        let begin = std::time::Instant::now();
        while cpu() < before + Duration::from_millis(30) {
            assert!(begin.elapsed() < Duration::from_secs(20));
        }
        // No process has the id that is the limit of the kernel (PID_MAX_LIMIT).
        assert_eq!(cpu_time(Pid::from_raw(1 << 22)), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_a_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = READER.parse(&text);
        }
    }
}
