//! The default list: what a network handler never needs is refused.
//!
//! It is a list of what is allowed. A call is allowed if it is known (see
//! [`known_calls`]) and plain, or its arguments are. Of calls that are newer than this program it says
//! that there are none, and so does a kernel that is older.

use crate::sys::seccomp::{Action, Case, Rules, Test, Verdict, known_calls};

/// What the list is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purpose {
    /// Whether handlers are in a sandbox, and end with skd.
    pub sandbox: bool,
    /// Whether handlers have a network namespace of their own. The connection is a socket of another
    /// one, and would lead there.
    pub own_network: bool,
    /// Whether no unix socket may be made, but connected pairs: abstract addresses would lead to the
    /// handlers of other clients.
    pub no_unix_sockets: bool,
}

const REFUSED: Action = Action::Fail(libc::EPERM as u16);
const UNKNOWN: Action = Action::Fail(libc::ENOSYS as u16);

/// The default list as rules.
pub fn default_list(purpose: Purpose) -> Rules {
    let verdict = |name, class| match class {
        None => Action::Allow.into(),
        Some('?') => by_arguments(name, purpose),
        // What the kernel has no more, and what has an older form whose arguments can be seen.
        Some('o' | 'f') => UNKNOWN.into(),
        Some(_) => REFUSED.into(),
    };
    Rules {
        calls: known_calls()
            .map(|call| (call.number, verdict(call.name, call.class)))
            .collect(),
        others: UNKNOWN,
        only_log: false,
        fits_jailer: true,
    }
}

/// The verdict about a call that is refused with some arguments.
fn by_arguments(name: &str, purpose: Purpose) -> Verdict {
    let (cases, otherwise) = match name {
        "clone" => (CLONE, REFUSED),
        "unshare" => (UNSHARE, REFUSED),
        "socket" => {
            let cases = match purpose.no_unix_sockets {
                false => SOCKET,
                true => INTERNET,
            };
            (cases, Action::Fail(libc::EAFNOSUPPORT as u16))
        }
        "socketpair" => {
            let cases = match purpose.no_unix_sockets {
                false => UNIX_PAIR,
                true => CONNECTED_PAIR,
            };
            (cases, Action::Fail(libc::EAFNOSUPPORT as u16))
        }
        // An end of the connection by connect(2), with the family AF_UNSPEC, makes a new socket of it,
        // which connects or listens in the network of the host.
        "connect" | "listen" => match purpose.own_network {
            false => (&[][..], Action::Allow),
            true => (&[][..], REFUSED),
        },
        "ioctl" => {
            let cases = match purpose.own_network {
                false => IOCTL,
                true => &IOCTL[..IOCTL.len() - 1],
            };
            (cases, Action::Fail(libc::ENOTTY as u16))
        }
        "prctl" => {
            let cases = match purpose.sandbox {
                true => PRCTL,
                false => &PRCTL[1..],
            };
            (cases, Action::Fail(libc::EINVAL as u16))
        }
        "personality" => (PERSONALITY, REFUSED),
        "mknod" => (MKNOD, REFUSED),
        "mknodat" => (MKNODAT, REFUSED),
        "chmod" | "fchmod" | "creat" => (MODE_1, REFUSED),
        "fchmodat" | "fchmodat2" => (MODE_2, REFUSED),
        "open" => (OPEN, REFUSED),
        "openat" => (OPENAT, REFUSED),
        _ => (&[][..], REFUSED),
    };
    Verdict { cases, otherwise }
}

/// An argument of which only these bits may be set.
const fn only(argument: u8, bits: u32) -> Test {
    Test {
        argument,
        mask: !bits,
        value: 0,
    }
}

/// An argument of which none of these bits may be set.
const fn without(argument: u8, bits: u32) -> Test {
    Test {
        argument,
        mask: bits,
        value: 0,
    }
}

/// An argument with this value.
const fn is(argument: u8, value: u32) -> Test {
    Test {
        argument,
        mask: u32::MAX,
        value,
    }
}

/// An argument with this value in these bits.
const fn has(argument: u8, mask: u32, value: u32) -> Test {
    Test {
        argument,
        mask,
        value,
    }
}

const fn allow(tests: &'static [Test]) -> Case {
    Case {
        tests,
        action: Action::Allow,
    }
}

const fn refuse(tests: &'static [Test]) -> Case {
    Case {
        tests,
        action: REFUSED,
    }
}

/// No namespace of its own.
const CLONE: &[Case] = &[allow(&[without(
    0,
    (libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET) as u32,
)])];

/// What threads of a process share, and nothing of the system.
const UNSHARE: &[Case] = &[allow(&[only(
    0,
    (libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SYSVSEM) as u32,
)])];

const UNIX: Test = is(0, libc::AF_UNIX as u32);
/// `AF_INET` is 2 and `AF_INET6` 10.
const IPV4: Test = is(0, libc::AF_INET as u32);
const IPV6: Test = is(0, libc::AF_INET6 as u32);

/// The kinds of sockets without flags: stream, datagram and raw are 1 to 3. Others belong to protocols
/// whose code would be loaded for them.
const KIND: Test = without(1, 0xc);

/// The kernel makes sockets of any family before it finds that there are no pairs of them. Of a datagram
/// pair each could send to other addresses, which stream (1) and seqpacket (5) can't.
const UNIX_PAIR: &[Case] = &[allow(&[UNIX])];
const CONNECTED_PAIR: &[Case] = &[allow(&[UNIX, has(1, 0xb, 1)])];

/// The protocols of internet sockets: the one of the kind, ICMP, TCP, UDP, ICMPv6.
const SOCKET: &[Case] = &[
    allow(&[UNIX]),
    INTERNET[0],
    INTERNET[1],
    INTERNET[2],
    INTERNET[3],
    INTERNET[4],
    INTERNET[5],
    INTERNET[6],
    INTERNET[7],
];
const INTERNET: &[Case] = &[
    allow(&[IPV4, KIND, is(2, 0)]),
    allow(&[IPV4, KIND, is(2, libc::IPPROTO_ICMP as u32)]),
    allow(&[IPV4, KIND, is(2, libc::IPPROTO_TCP as u32)]),
    allow(&[IPV4, KIND, is(2, libc::IPPROTO_UDP as u32)]),
    allow(&[IPV6, KIND, is(2, 0)]),
    allow(&[IPV6, KIND, is(2, libc::IPPROTO_ICMPV6 as u32)]),
    allow(&[IPV6, KIND, is(2, libc::IPPROTO_TCP as u32)]),
    allow(&[IPV6, KIND, is(2, libc::IPPROTO_UDP as u32)]),
];

/// Terminals and sockets, and what copies files. Of terminals nothing that puts input into them
/// (`TIOCSTI`, `TIOCLINUX`), takes the console, or loads a line discipline.
const IOCTL: &[Case] = &[
    refuse(&[is(1, 0x5412)]),
    refuse(&[is(1, 0x541c)]),
    refuse(&[is(1, 0x541d)]),
    refuse(&[is(1, 0x5423)]),
    allow(&[has(1, 0xff80, 0x5400)]),
    allow(&[has(1, 0xfff0, 0x8900)]),
    // FICLONE, FICLONERANGE, FS_IOC_GETFLAGS, FS_IOC_FIEMAP
    allow(&[is(1, 0x4004_9409)]),
    allow(&[is(1, 0x4020_940d)]),
    allow(&[is(1, 0x8008_6601)]),
    allow(&[is(1, 0xc020_660b)]),
    // Interfaces, addresses and routes: those of the connection are the host's.
    allow(&[has(1, 0xff00, 0x8900)]),
];

/// Options up to 63, but in a sandbox `PR_SET_PDEATHSIG`, by which handlers end with skd, `PR_SET_MM`, and
/// `PR_SCHED_CORE`, which takes other processes' time. Of later ones those of `PR_SME_GET_VL`,
/// `PR_SET_MDWE`, `PR_GET_MDWE`, of shadow stacks, names of memory and tracers, and the auxiliary vector.
const PRCTL: &[Case] = &[
    refuse(&[is(0, libc::PR_SET_PDEATHSIG as u32)]),
    refuse(&[is(0, libc::PR_SET_MM as u32)]),
    refuse(&[is(0, 62)]),
    allow(&[only(0, 0x3f)]),
    allow(&[has(0, !1, 64)]),
    allow(&[is(0, 66)]),
    allow(&[has(0, !1, 74)]),
    allow(&[is(0, 76)]),
    allow(&[is(0, 0x5356_4d41)]),
    allow(&[is(0, 0x5961_6d61)]),
    allow(&[is(0, 0x4155_5856)]),
];

/// Linux with or without `UNAME26`, for programs of 64 or 32 bits; and the question which it is.
const PERSONALITY: &[Case] = &[allow(&[only(0, 0x2_0008)]), allow(&[is(0, u32::MAX)])];

/// Bits of a mode by which another user gets the rights of the file's owner or group.
const SET_ID: u32 = libc::S_ISUID | libc::S_ISGID;

const MODE_1: &[Case] = &[allow(&[without(1, SET_ID)])];
const MODE_2: &[Case] = &[allow(&[without(2, SET_ID)])];

/// The mode counts only for a new file.
const NEW: u32 = libc::O_CREAT as u32 | 0o20_000_000;
const OPEN: &[Case] = &[allow(&[without(1, NEW)]), allow(&[without(2, SET_ID)])];
const OPENAT: &[Case] = &[allow(&[without(2, NEW)]), allow(&[without(3, SET_ID)])];

/// Regular files, FIFOs and sockets: no devices.
const KINDS: u32 = libc::S_IFMT | SET_ID;
const MKNOD: &[Case] = &[
    allow(&[has(1, KINDS, 0)]),
    allow(&[has(1, KINDS, libc::S_IFREG)]),
    allow(&[has(1, KINDS, libc::S_IFIFO)]),
    allow(&[has(1, KINDS, libc::S_IFSOCK)]),
];
const MKNODAT: &[Case] = &[
    allow(&[has(2, KINDS, 0)]),
    allow(&[has(2, KINDS, libc::S_IFREG)]),
    allow(&[has(2, KINDS, libc::S_IFIFO)]),
    allow(&[has(2, KINDS, libc::S_IFSOCK)]),
];
