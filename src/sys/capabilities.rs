//! Capabilities (capabilities(7)) of the calling thread. They are changed while there is one.

use nix::errno::Errno;

use crate::sys::result::check;

/// A capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Capability {
    /// To change the owner of a file.
    ChangeOwner = 0,
    /// To access any file.
    Access = 1,
    /// To do with any file what its owner may.
    Owner = 3,
    /// To send signals to processes of other users.
    Kill = 5,
    /// To change group ids and supplementary groups.
    SetGroup = 6,
    /// To change user ids.
    SetUser = 7,
    /// To change securebits and the bounding set.
    SetCapabilities = 8,
    /// To bind low ports.
    BindService = 10,
    /// To set some options of sockets.
    AdministerNetwork = 12,
    /// To bind to an interface.
    RawSocket = 13,
    /// To change the root directory.
    ChangeRoot = 18,
    /// To trace and inspect processes of other users.
    Trace = 19,
    /// To do most things, and to have more processes than the limit.
    Administrator = 21,
    /// To lower nice values.
    Nice = 23,
    /// To exceed limits, such as that of processes.
    Resource = 24,
    /// To give capabilities to files, and to show root as root in a user namespace.
    FileCapabilities = 31,
}

/// A set of capabilities.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(u64);

impl Capabilities {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// Whether it is empty.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }

    /// The set with one more.
    #[must_use]
    pub fn with(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability as u32)
    }

    /// What is in either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both sets.
    #[must_use]
    pub fn intersection(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether a capability is in the set.
    pub fn has(self, capability: Capability) -> bool {
        self.0 & 1 << capability as u32 != 0
    }

    fn has_number(self, number: u32) -> bool {
        self.0 & 1 << number != 0
    }

    fn words(self) -> [u32; 2] {
        [self.0 as u32, (self.0 >> 32) as u32]
    }
}

impl FromIterator<Capability> for Capabilities {
    fn from_iter<T: IntoIterator<Item = Capability>>(all: T) -> Self {
        all.into_iter().fold(Self::NONE, Self::with)
    }
}

/// The sets of a thread, but for the bounding set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Those in effect.
    pub effective: Capabilities,
    /// Those that may be put into effect.
    pub permitted: Capabilities,
    /// Those that an exec of some files passes on.
    pub inheritable: Capabilities,
    /// Those that any exec passes on.
    pub ambient: Capabilities,
}

impl Held {
    /// Whether there is none in any set.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The highest number that a set has bits for.
const NUMBERS: u32 = 64;

/// The sets of the calling thread (capget(2), prctl(2) `PR_CAP_AMBIENT`).
pub fn held() -> Result<Held, Errno> {
    let mut header = Header::this_thread();
    let mut sets = [Sets::default(); 2];
    // SAFETY: the header and the two sets have the layout of version 3 (linux/capability.h); the
    // kernel writes two sets to memory for two.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, sets.as_mut_ptr()) };
    Errno::result(result)?;
    let join = |part: fn(&Sets) -> u32| {
        let [low, high] = [&sets[0], &sets[1]].map(|set| u64::from(part(set)));
        Capabilities(low | high << 32)
    };
    let ambient = (0..NUMBERS).filter(|number| {
        let number = libc::c_ulong::from(*number);
        // An unknown number is an error.
        ambient(libc::PR_CAP_AMBIENT_IS_SET, number) == Ok(1)
    });
    Ok(Held {
        effective: join(|set| set.effective),
        permitted: join(|set| set.permitted),
        inheritable: join(|set| set.inheritable),
        ambient: Capabilities(ambient.fold(0, |all, number| all | 1 << number)),
    })
}

/// Whether a capability is in effect.
pub fn has_capability(capability: Capability) -> bool {
    held().is_ok_and(|held| held.effective.has(capability))
}

/// Makes these, as far as they are permitted, the permitted and effective ones, and empties the
/// inheritable and ambient sets (capset(2)). Makes no call where nothing changes: a filter may refuse
/// it to a process without capabilities.
pub fn limit(to: Capabilities) -> Result<(), Errno> {
    let held = held()?;
    let to = to.intersection(held.permitted);
    let wanted = Held {
        effective: to,
        permitted: to,
        ..Held::default()
    };
    match held == wanted {
        true => Ok(()),
        false => set(to, Capabilities::NONE),
    }
}

/// Passes the permitted capabilities on through execs of any file, for a process that has them
/// without being root.
pub fn pass_on() -> Result<(), Errno> {
    let permitted = held()?.permitted;
    if permitted.is_empty() {
        return Ok(());
    }
    set(permitted, permitted)?;
    for number in (0..NUMBERS).filter(|number| permitted.has_number(*number)) {
        ambient(libc::PR_CAP_AMBIENT_RAISE, number.into())?;
    }
    Ok(())
}

/// Ends what [`pass_on`] began, after an exec that failed.
pub fn end_passing_on() {
    // What a thread has permitted it may keep.
    let _ = held().and_then(|held| set(held.permitted, Capabilities::NONE));
}

/// Takes all but these from the bounding set, for good (prctl(2), `PR_CAPBSET_DROP`).
pub fn bound(to: Capabilities) -> Result<(), Errno> {
    for number in (0..NUMBERS).filter(|number| !to.has_number(*number)) {
        // SAFETY: the call takes integers.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number)) };
        match check(result) {
            // The kernel knows no more.
            Err(Errno::EINVAL) => return Ok(()),
            result => result?,
        };
    }
    Ok(())
}

/// The securebits of the calling thread (capabilities(7)), as far as a process could keep or gain
/// capabilities by them: `SECBIT_NO_SETUID_FIXUP` and `SECBIT_KEEP_CAPS`. The other ones only take
/// away.
pub fn odd_securebits() -> Result<u32, Errno> {
    const NO_SETUID_FIXUP: u32 = 1 << 2;
    const KEEP_CAPS: u32 = 1 << 4;
    // SAFETY: the call takes integers.
    let bits = check(unsafe { libc::prctl(libc::PR_GET_SECUREBITS) })?;
    Ok(bits as u32 & (NO_SETUID_FIXUP | KEEP_CAPS))
}

/// Clears all securebits that aren't locked, if this process may.
pub fn clear_securebits() {
    // SAFETY: both calls take integers.
    unsafe {
        // This one needs no right.
        libc::prctl(libc::PR_SET_KEEPCAPS, 0);
        let bits = libc::prctl(libc::PR_GET_SECUREBITS);
        if bits > 0 {
            libc::prctl(libc::PR_SET_SECUREBITS, locked(bits));
        }
    }
}

/// Locks the securebits so that no exec gives capabilities to root, and none become ambient
/// (capabilities(7)).
pub fn lock_securebits() -> Result<(), Errno> {
    const NO_ROOT: u32 = 1;
    const NO_AMBIENT_RAISE: u32 = 1 << 6;
    const LOCKS: u32 = 0b1010_1010;
    let bits = NO_ROOT | NO_AMBIENT_RAISE | LOCKS;
    // SAFETY: the call takes integers.
    check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, libc::c_ulong::from(bits)) }).map(drop)
}

/// The bits that stay as they are: each lock, and the bit below it.
fn locked(bits: libc::c_int) -> libc::c_int {
    const LOCKS: libc::c_int = 0b1010_1010;
    let locks = bits & LOCKS;
    bits & (locks | locks >> 1)
}

/// Drops all capabilities of the calling thread, in a newborn child too: one system call (capset(2)).
pub(super) fn drop_all() -> Result<(), Errno> {
    set(Capabilities::NONE, Capabilities::NONE)
}

fn set(permitted: Capabilities, inheritable: Capabilities) -> Result<(), Errno> {
    let mut header = Header::this_thread();
    let sets = [0, 1].map(|word| Sets {
        effective: permitted.words()[word],
        permitted: permitted.words()[word],
        inheritable: inheritable.words()[word],
    });
    // SAFETY: as for capget; the kernel reads two sets.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, sets.as_ptr()) };
    Errno::result(result).map(drop)
}

fn ambient(operation: libc::c_int, number: libc::c_ulong) -> Result<libc::c_int, Errno> {
    const ZERO: libc::c_ulong = 0;
    // SAFETY: the call takes integers.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, operation, number, ZERO, ZERO) })
}

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

impl Header {
    /// `_LINUX_CAPABILITY_VERSION_3`: 64 capabilities in two words each.
    fn this_thread() -> Self {
        Self {
            version: 0x2008_0522,
            pid: 0,
        }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Sets {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_into_it() {
        let set: Capabilities = [Capability::Kill, Capability::Resource]
            .into_iter()
            .collect();
        assert!(set.has(Capability::Kill) && set.has(Capability::Resource));
        assert!(!set.has(Capability::SetUser) && !set.is_empty());
        assert_eq!(set.words(), [1 << 5 | 1 << 24, 0]);
        assert_eq!(
            set.intersection(Capabilities::NONE.with(Capability::Kill))
                .words(),
            [1 << 5, 0]
        );
    }

    #[test]
    fn a_locked_bit_stays() {
        assert_eq!(locked(0b0000_0100), 0);
        assert_eq!(locked(0b0000_1101), 0b0000_1100);
        assert_eq!(locked(0b1100_0011), 0b1100_0011);
    }
}
