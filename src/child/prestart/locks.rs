//! Locks that a held program has taken, and that know their owner.
//!
//! The C library writes the thread's id into a mutex of the kinds that know their owner. A copy has
//! another id, so that it couldn't release the mutex, and would wait for itself at the next lock.
//! The dynamic linker has such a mutex, and holds it while it runs the constructors of what
//! dlopen(3) has loaded.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use nix::unistd::Pid;

use super::files::as_owner;

/// How much of a mapping is searched. What is larger is a pool, most of which doesn't exist yet.
const MOST: u64 = 16 << 20;

/// How much is read at a time, and by how much a mutex may reach beyond that.
const PART: usize = 256 << 10;
const WORD: usize = size_of::<u32>();
const MUTEX: usize = 5 * WORD;

/// Whether this process, of one thread, holds a mutex that knows its owner.
pub(super) fn holds_one(pid: Pid) -> io::Result<bool> {
    let maps = fs::read(format!("/proc/{pid}/maps"))?;
    let memory = {
        let _owner = as_owner(pid)?;
        File::open(format!("/proc/{pid}/mem"))?
    };
    let owner = pid.as_raw() as u32;
    let mut bytes = vec![0; PART];
    for (from, to) in String::from_utf8_lossy(&maps).lines().filter_map(written) {
        let mut at = from;
        let end = to.min(from.saturating_add(MOST));
        while at + (MUTEX as u64) <= end {
            let length = usize::try_from(end - at).map_or(PART, |rest| rest.min(PART));
            let part = &mut bytes[..length];
            // Beyond the end of a file there is none.
            if memory.read_exact_at(part, at).is_err() {
                break;
            }
            if has_mutex(part, owner) {
                return Ok(true);
            }
            at += (length - MUTEX + WORD) as u64;
        }
    }
    Ok(false)
}

/// The addresses of a private mapping that can be written (proc(5), maps).
fn written(line: &str) -> Option<(u64, u64)> {
    let (range, rest) = line.split_once(' ')?;
    let address = |figures| u64::from_str_radix(figures, 16).ok();
    let (from, to) = range.split_once('-')?;
    let permissions = rest.split(' ').next()?;
    let is_own = permissions.starts_with("rw") && permissions.ends_with('p');
    address(from).zip(address(to)).filter(|_| is_own)
}

/// Whether there is a `pthread_mutex_t` that this thread holds: the lock, how often it was taken,
/// the owner, the number of its users, the kind.
fn has_mutex(bytes: &[u8], owner: u32) -> bool {
    /// What of the lock is an id, in the kinds for which the kernel looks at it.
    const ID: u32 = libc::FUTEX_TID_MASK;
    /// What of the kind tells whether an owner is asked for.
    const KIND: u32 = 3;
    let word = |at: usize| {
        bytes
            .get(at..at + WORD)?
            .try_into()
            .ok()
            .map(u32::from_ne_bytes)
    };
    let is_mutex = |at: usize| {
        let (lock, count) = (word(at)?, word(at + WORD)?);
        let (users, kind) = (word(at + 3 * WORD)?, word(at + 4 * WORD)?);
        let recursive = kind & KIND == libc::PTHREAD_MUTEX_RECURSIVE as u32 && count > 0;
        let checking = kind & KIND == libc::PTHREAD_MUTEX_ERRORCHECK as u32;
        let by_kernel = lock & ID == owner;
        let knows = (1..=2).contains(&lock) && (recursive || checking) || by_kernel;
        Some(users == 1 && kind < 1 << 10 && knows)
    };
    (2 * WORD..bytes.len().saturating_sub(2 * WORD))
        .step_by(WORD)
        .any(|at| word(at) == Some(owner) && is_mutex(at - 2 * WORD) == Some(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(words: &[u32]) -> Vec<u8> {
        words.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    #[test]
    fn mutexes_that_know_their_owner_are_found() {
        let found = |words: &[u32]| has_mutex(&bytes(words), 4711);
        // Recursive; error-checking, and waited for; robust.
        assert!(found(&[1, 1, 4711, 1, 1]));
        assert!(found(&[9, 9, 2, 0, 4711, 1, 2, 0, 0]));
        assert!(found(&[4711, 0, 4711, 1, 16]));
        // Normal; free; of another; not the words of a mutex.
        assert!(!found(&[1, 0, 4711, 1, 0]));
        assert!(!found(&[0, 0, 0, 0, 1]));
        assert!(!found(&[1, 1, 4712, 1, 1]));
        assert!(!found(&[7, 1, 4711, 1, 1]));
        assert!(!found(&[1, 1, 4711, 1, 70_000]));
        assert!(!found(&[1, 1, 4711]));
        assert!(!found(&[]));
    }

    #[test]
    fn only_private_memory_that_can_be_written_is_searched() {
        let line = |permissions: &str| format!("7f00-8000 {permissions} 00000000 00:00 0");
        assert_eq!(written(&line("rw-p")), Some((0x7f00, 0x8000)));
        for permissions in ["r--p", "rw-s", "---p"] {
            assert_eq!(written(&line(permissions)), None);
        }
        assert_eq!(written(""), None);
    }
}
