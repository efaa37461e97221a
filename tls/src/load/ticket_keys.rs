//! The keys of session tickets, in a memory file that all processes of skd-tls share which skd starts one after
//! the other: a session is resumed after a crash, an upgrade, or a reload.
//!
//! A key makes tickets for [`TURN`] and reads them for [`LIFE`]. Each process keeps the keys that it has read,
//! and reads the file again when its own key has had its turn, or when a ticket has a key that it doesn't know.
//! A thread that then finds the turn over makes the next key, under a lock. That lock is one of a process
//! (`F_SETLK`): the processes share the file's open description, and so would locks of that. No thread waits
//! for it: without the lock, it goes on with the keys that it has.

use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::uio::{pread, pwrite};
use zeroize::{Zeroize, Zeroizing};

/// How long a key makes tickets, in seconds. It is also how long a ticket is good for at least.
pub(super) const TURN: i64 = 6 * 60 * 60;

/// How long after it was made a key reads tickets, in seconds. It is forgotten then.
pub(super) const LIFE: i64 = 2 * TURN;

/// How far clocks may differ, in seconds, before a key of the future is a fault.
const SKEW: i64 = 60;

/// The length of a key's name.
pub(super) const NAME: usize = 16;

/// The length of a key's bytes, for AES-256.
const KEY: usize = 32;

/// How many keys there are at a time: the present one, and those that still read.
const KEYS: usize = 3;

/// What the file begins with: what it is, and the version of its form.
const MAGIC: [u8; 8] = *b"skdtick\x01";
const ENTRY: usize = NAME + 8 + KEY;
const SUM: usize = 32;
const FILE: usize = MAGIC.len() + KEYS * ENTRY + SUM;

/// A key, and when it was made, in seconds since 1970.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) name: [u8; NAME],
    pub(super) made: i64,
    pub(super) bytes: Zeroizing<[u8; KEY]>,
}

impl Key {
    fn new(now: i64) -> Option<Self> {
        let mut key = Self {
            name: [0; NAME],
            made: now,
            bytes: Zeroizing::new([0; KEY]),
        };
        aws_lc_rs::rand::fill(&mut key.name).ok()?;
        aws_lc_rs::rand::fill(&mut key.bytes[..]).ok()?;
        Some(key)
    }

    /// Whether it may still read tickets.
    pub(super) fn is_alive(&self, now: i64) -> bool {
        (self.made..self.made.saturating_add(LIFE)).contains(&now.saturating_add(SKEW))
    }

    /// Whether it may make tickets.
    pub(super) fn has_turn(&self, now: i64) -> bool {
        self.is_alive(now) && now < self.made.saturating_add(TURN)
    }
}

/// The memory file; nothing, if the keys are those of this process only.
#[derive(Debug, Default)]
pub(super) struct Store(pub(super) Option<OwnedFd>);

impl Store {
    /// Returns the keys that there are, the present one first. If the turn of that is over, a new one is made.
    /// `own` are those that this process has: they are kept while the file can't be locked or read.
    pub(super) fn keys(&self, own: &[Key], now: i64) -> Vec<Key> {
        let alive = |keys: Vec<Key>| keys.into_iter().filter(|it| it.is_alive(now));
        let found: Vec<_> = match &self.0 {
            Some(file) => match read(file) {
                Ok(keys) => alive(keys).collect(),
                // A file that is torn, damaged or can't be read is an empty one.
                Err(_) => Vec::new(),
            },
            None => alive(own.to_vec()).collect(),
        };
        if found.first().is_some_and(|it| it.has_turn(now)) {
            return found;
        }
        let made = match &self.0 {
            Some(file) => locked(file, || {
                // Another process may have made one, since the file was read.
                let found: Vec<_> = alive(read(file).unwrap_or_default()).collect();
                if found.first().is_some_and(|it| it.has_turn(now)) {
                    return Some(found);
                }
                let next = next(found, now)?;
                write(file, &next).ok()?;
                Some(next)
            }),
            None => next(found.clone(), now),
        };
        made.unwrap_or_else(|| {
            let known = own
                .iter()
                .filter(|it| found.iter().all(|its| its.name != it.name));
            let known: Vec<_> = alive(known.cloned().collect()).collect();
            [found, known].concat()
        })
    }
}

/// Puts a new key before those that are there.
fn next(keys: Vec<Key>, now: i64) -> Option<Vec<Key>> {
    let mut next = vec![Key::new(now)?];
    next.extend(keys);
    next.truncate(KEYS);
    Some(next)
}

/// Does something while no other process has the lock; nothing if one has it.
fn locked<T>(file: &OwnedFd, act: impl FnOnce() -> Option<T>) -> Option<T> {
    let lock = |kind: libc::c_int| {
        let lock = libc::flock {
            l_type: kind as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 0,
            l_pid: 0,
        };
        fcntl(file, FcntlArg::F_SETLK(&lock))
    };
    lock(libc::F_WRLCK).ok()?;
    let result = act();
    // The end of the process does it too.
    let _ = lock(libc::F_UNLCK);
    result
}

/// Reads the keys in the file.
fn read(file: &OwnedFd) -> Result<Vec<Key>, Errno> {
    let mut bytes = Zeroizing::new([0; FILE]);
    // One call: memory files give what there is.
    match pread(file, &mut bytes[..], 0)? {
        FILE => Ok(decode(&bytes).unwrap_or_default()),
        _ => Ok(Vec::new()),
    }
}

fn write(file: &OwnedFd, keys: &[Key]) -> Result<(), Errno> {
    let bytes = encode(keys);
    match pwrite(file, &bytes[..], 0)? {
        FILE => Ok(()),
        _ => Err(Errno::EIO),
    }
}

fn encode(keys: &[Key]) -> Zeroizing<[u8; FILE]> {
    let mut bytes = Zeroizing::new([0; FILE]);
    bytes[..MAGIC.len()].copy_from_slice(&MAGIC);
    for (entry, key) in bytes[MAGIC.len()..FILE - SUM]
        .chunks_exact_mut(ENTRY)
        .zip(keys)
    {
        entry[..NAME].copy_from_slice(&key.name);
        entry[NAME..NAME + 8].copy_from_slice(&key.made.to_be_bytes());
        entry[NAME + 8..].copy_from_slice(&key.bytes[..]);
    }
    let sum = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &bytes[..FILE - SUM]);
    bytes[FILE - SUM..].copy_from_slice(sum.as_ref());
    bytes
}

/// Returns the keys in bytes, unless those are damaged.
fn decode(bytes: &[u8; FILE]) -> Option<Vec<Key>> {
    let (rest, sum) = bytes.split_last_chunk::<SUM>()?;
    let entries = rest.strip_prefix(&MAGIC)?;
    let is = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, rest);
    if is.as_ref() != sum {
        return None;
    }
    let mut keys = Vec::with_capacity(KEYS);
    for entry in entries.chunks_exact(ENTRY) {
        let (name, rest) = entry.split_first_chunk::<NAME>()?;
        let (made, key) = rest.split_first_chunk::<8>()?;
        let mut bytes: [u8; KEY] = key.try_into().ok()?;
        let made = i64::from_be_bytes(*made);
        // An entry that isn't used.
        if made > 0 {
            keys.push(Key {
                name: *name,
                made,
                bytes: Zeroizing::new(bytes),
            });
        }
        bytes.zeroize();
    }
    Some(keys)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    fn file() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    fn names(keys: &[Key]) -> Vec<[u8; NAME]> {
        keys.iter().map(|it| it.name).collect()
    }

    const NOW: i64 = 1_800_000_000;

    #[test]
    fn processes_one_after_the_other_have_the_same_keys() {
        let file = file();
        let first = Store(Some(file.try_clone().unwrap()));
        let keys = first.keys(&[], NOW);
        assert_eq!(keys.len(), 1);
        let second = Store(Some(file));
        assert!(second.keys(&[], NOW) == keys);
        assert!(second.keys(&keys, NOW + TURN - 1) == keys);
    }

    #[test]
    fn keys_have_turns_and_are_forgotten() {
        let file = file();
        for store in [Store(Some(file.try_clone().unwrap())), Store(None)] {
            let first = store.keys(&[], NOW);
            let second = store.keys(&first, NOW + TURN);
            assert_eq!(names(&second)[1..], names(&first));
            let third = store.keys(&second, NOW + LIFE);
            assert_eq!(names(&third)[1..], names(&second)[..1]);
            // Nobody came for long.
            let last = store.keys(&third, NOW + 10 * LIFE);
            assert_eq!(last.len(), 1);
            assert!(!names(&third).contains(&last[0].name));
        }
        // What is forgotten isn't in the file.
        let mut bytes = [0; FILE];
        assert_eq!(pread(&file, &mut bytes, 0), Ok(FILE));
        assert_eq!(decode(&bytes).unwrap().len(), 1);
        assert!(
            bytes[MAGIC.len() + ENTRY..FILE - SUM]
                .iter()
                .all(|it| *it == 0)
        );
    }

    #[test]
    fn a_clock_that_was_set_back_makes_a_new_key() {
        let store = Store(Some(file()));
        let first = store.keys(&[], NOW);
        assert!(store.keys(&first, NOW - 30) == first);
        let second = store.keys(&first, NOW - 1000);
        assert!(second[0].name != first[0].name && second.len() == 1);
        assert!(second[0].has_turn(NOW - 1000));
    }

    #[test]
    fn a_damaged_file_is_an_empty_one() {
        let file = file();
        let store = Store(Some(file.try_clone().unwrap()));
        let first = store.keys(&[], NOW);
        for at in [0, MAGIC.len() + 1, FILE - 1] {
            let mut byte = [0];
            pread(&file, &mut byte, at as i64).unwrap();
            byte[0] ^= 1;
            pwrite(&file, &byte, at as i64).unwrap();
            assert_eq!(read(&file).unwrap().len(), 0, "{at}");
            let next = store.keys(&first, NOW);
            assert!(next.len() == 1 && next[0].name != first[0].name);
        }
        nix::unistd::ftruncate(&file, 10).unwrap();
        assert_eq!(store.keys(&first, NOW).len(), 1);
    }

    #[test]
    fn whoever_doesnt_get_the_lock_goes_on_with_the_keys_that_it_has() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let store = Store(Some(path.reopen().unwrap().into()));
        let first = store.keys(&[], NOW);
        // Another process has the lock.
        let script = "import fcntl,sys\nf=open(sys.argv[1],'r+')\nfcntl.lockf(f,fcntl.LOCK_EX)\nprint('x',flush=True)\nsys.stdin.read()";
        let mut other = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(path.path())
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut byte = [0];
        std::io::Read::read_exact(other.stdout.as_mut().unwrap(), &mut byte).unwrap();
        assert!(store.keys(&first, NOW + TURN) == first);
        assert!(store.keys(&first, NOW + LIFE).is_empty());
        drop(other.stdin.take());
        assert_eq!(other.wait().unwrap().into_raw(), 0);
        assert_eq!(store.keys(&first, NOW + TURN).len(), 2);
    }

    #[test]
    fn a_file_that_cant_be_written_gives_no_key() {
        let (pipe, _other) = nix::unistd::pipe().unwrap();
        assert!(Store(Some(pipe)).keys(&[], NOW).is_empty());
    }
}
