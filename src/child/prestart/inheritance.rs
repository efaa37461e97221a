//! What copies of a held process would share with it, or lack: memory, threads and signals.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::unistd::Pid;

use super::failure::{Failure, killed};
use crate::error::Reason;

/// Refuses a process with memory that copies would share, or wouldn't inherit (proc(5), smaps).
///
/// No such memory is expected, since the calls that make it park a program. So the kernel's list
/// is proof that none was forgotten.
pub(super) fn check_memory(pid: Pid) -> Result<(), Failure> {
    // Without `VmFlags`, in kernels that are built so, there are still the permissions.
    let text = match read(pid, "smaps") {
        Err(why) if why.raw_os_error() == Some(libc::ENOENT) => read(pid, "maps"),
        text => text,
    };
    let text = text.map_err(|why| hidden("what it has mapped", &why))?;
    let unfit = |(what, mapping)| Failure::Unfit(format!("{what}: {mapping}"));
    find_unfit(&text).map(unfit).map_or(Ok(()), Err)
}

/// Refuses a process with another thread, or with a signal that is pending: neither is in a copy.
pub(super) fn check_status(pid: Pid) -> Result<(), Failure> {
    let text = read(pid, "status").map_err(|why| hidden("its state", &why))?;
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.unwrap_or_default().trim()
    };
    if field("Threads:") != "1" {
        return Err(Failure::Unfit("it has more than one thread".into()));
    }
    // SIGSTOP is skd's own, to interrupt a call.
    const STOP: u64 = 1 << (libc::SIGSTOP - 1);
    let set = |name| u64::from_str_radix(field(name), 16).unwrap_or_default();
    // What it hasn't blocked is another process's, and would have reached it in a moment.
    match (set("SigPnd:") | set("ShdPnd:")) & set("SigBlk:") & !STOP {
        0 => Ok(()),
        signals => {
            let first = signals.trailing_zeros() + 1;
            Err(Failure::Short(format!("signal {first} is pending for it")))
        }
    }
}

/// Whether a signal is neither blocked nor ignored nor handled in a process.
pub(super) fn leaves_default(pid: Pid, signal: i32) -> bool {
    let text = read(pid, "status").unwrap_or_default();
    let is_in = |name: &str| {
        let set = text.lines().find_map(|line| line.strip_prefix(name));
        let set = set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok());
        // What isn't known isn't so.
        set.is_none_or(|set| set & (1 << (signal - 1)) != 0)
    };
    !["SigBlk:", "SigIgn:", "SigCgt:"].into_iter().any(is_in)
}

fn read(pid: Pid, name: &str) -> io::Result<String> {
    // Names of files may be any bytes.
    let bytes = fs::read(format!("/proc/{pid}/{name}"))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The failure of a process whose files in /proc can't be read.
pub(super) fn hidden(what: &str, why: &io::Error) -> Failure {
    // The process is held: its files vanish only with it.
    match why.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ESRCH) => killed(),
        _ => Failure::Unfit(format!("{what} can't be seen in /proc: {}", why.reason())),
    }
}

/// The first mapping that a copy can't have: what is wrong with it, and its line.
fn find_unfit(text: &str) -> Option<(&'static str, &str)> {
    const SHARED: &str = "it has mapped memory that copies would share";
    const LACKED: &str = "it has mapped memory that copies wouldn't inherit";
    let mut mapping = "";
    for line in text.lines() {
        let Some(flags) = line.strip_prefix("VmFlags:") else {
            // Only these lines begin with an address; others have a name with a colon there.
            if line
                .split(' ')
                .next()
                .is_some_and(|word| !word.ends_with(':'))
            {
                mapping = line;
                let permissions = line.split(' ').nth(1).unwrap_or_default();
                if permissions.contains('w') && permissions.ends_with('s') {
                    return Some((SHARED, mapping));
                }
            }
            continue;
        };
        let has = |flag: &str| flags.split_ascii_whitespace().any(|its| its == flag);
        // A file that is open for writing: the mapping may become writable.
        if has("sh") {
            return Some((SHARED, mapping));
        }
        // Memory that the kernel may take away at any time is wiped in copies too.
        let wiped = has("wf") && !has("dp");
        // The kernel gives each process its own mappings.
        let kernels = ["[vvar]", "[vvar_vclock]", "[uprobes]"];
        let kept = has("dc") && !kernels.iter().any(|name| mapping.ends_with(name));
        if wiped || kept || has("lo") || has("ht") {
            return Some((LACKED, mapping));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: &str = "\
55d0c8a5e000-55d0c8a60000 rw-p 00000000 fe:00 1209 /usr/bin/cat: of s
Size:                  8 kB
VmFlags: rd wr mr mw me ac sd
7ffd4a9f1000-7ffd4a9f5000 r--p 00000000 00:00 0                          [vvar]
Size:                 16 kB
VmFlags: rd mr pf io dc de dd
7f1b5c2d6000-7f1b5c2dd000 r--s 00000000 fe:00 3150 /usr/lib/gconv/gconv-modules.cache
Size:                 28 kB
VmFlags: rd mr me ms sd
7f1b5c300000-7f1b5c301000 rw-p 00000000 00:00 0
VmFlags: rd wr mr mw me wf dd dp
";

    #[test]
    fn private_memory_and_files_that_are_only_read_are_fit() {
        assert_eq!(find_unfit(PRIVATE), None);
        assert_eq!(find_unfit(""), None);
    }

    #[test]
    fn memory_that_is_shared_or_not_inherited_is_unfit() {
        let shared = "it has mapped memory that copies would share";
        let lacked = "it has mapped memory that copies wouldn't inherit";
        let zero = "7f00-7f01 rw-s 00000000 00:01 1025   /dev/zero (deleted)";
        let later = "7f00-7f01 r--s 00000000 00:01 7   /tmp/a: b";
        let own = "7f00-7f01 rw-p 00000000 00:00 0";
        for (mapping, flags, what) in [
            (zero, "rd wr sh mr mw me ms sd", shared),
            (later, "rd sh mr mw me ms sd", shared),
            (own, "rd wr mr mw me dc sd", lacked),
            (own, "rd wr mr mw me wf sd", lacked),
            (own, "rd wr mr mw me lo sd", lacked),
            (own, "rd wr mr mw me ht sd", lacked),
        ] {
            let text = format!("{PRIVATE}{mapping}\nSize: 4 kB\nVmFlags: {flags}\n");
            assert_eq!(find_unfit(&text), Some((what, mapping)));
        }
        // As in maps, without flags.
        assert_eq!(find_unfit(zero), Some((shared, zero)));
    }

    #[test]
    #[cfg_attr(miri, ignore = "/proc")]
    fn this_process_has_more_than_one_thread() {
        let over = std::sync::Barrier::new(2);
        std::thread::scope(|scope| {
            scope.spawn(|| over.wait());
            let found = check_status(nix::unistd::getpid());
            over.wait();
            let Err(Failure::Unfit(why)) = found else {
                panic!("{found:?}");
            };
            assert!(why.contains("thread"), "{why}");
        });
    }
}
