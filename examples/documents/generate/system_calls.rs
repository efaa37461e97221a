//! docs/system-calls.md: the default list of system calls, with the reasons.

use std::collections::BTreeMap;
use std::fmt::Write;

use skd::config::seccomp::{Purpose, default_list};
use skd::sys::seccomp::{AARCH64, Action, X86_64, calls, known_calls};

const TEMPLATE: &str = include_str!("system_calls.md");

/// The classes of calls, with the reasons why they are refused.
const CLASSES: [(char, &str, &str); 11] = [
    (
        'm',
        "Mounts and roots",
        "change what paths mean. In a user namespace they need no privilege, and most ways out of containers begin \
         with them",
    ),
    (
        'n',
        "Namespaces of others",
        "enters namespaces. New ones are refused by *clone* and *unshare* below: in a user namespace of its own a \
         process has all capabilities, and reaches code of the kernel that no user reached before",
    ),
    (
        't',
        "Other processes",
        "read, write, compare, trace or measure other processes. Handlers of one service have the same user, so \
         nothing else keeps them from each other",
    ),
    (
        'b',
        "Programs in the kernel",
        "load code into the kernel, have it work without calls that a filter sees (io_uring), stop it in the middle \
         of an access to memory (userfaultfd), or change segments. No other calls have had as many faults",
    ),
    (
        'k',
        "Keys",
        "keyrings belong to the user, so handlers of one service would share them",
    ),
    (
        'i',
        "System V IPC and POSIX message queues",
        "their objects outlive a handler, and those of other clients' handlers can be opened",
    ),
    (
        'h',
        "Files by handle, and fanotify",
        "open files without a path to them, or watch the files of every user",
    ),
    (
        'a',
        "Administration",
        "clock, host name, swap, quota, accounting, ports, the kernel's log, the end of the machine",
    ),
    (
        'p',
        "Placement of memory",
        "nodes of memory; programs do without it",
    ),
    (
        'o',
        "Of old kernels",
        "aren't there any more on most kernels, and nothing of today makes them",
    ),
    (
        'f',
        "With an older form",
        "hide their flags in memory where no filter sees them (*clone3*, *openat2*), or are so new that programs do \
         without. With ENOSYS a C library makes the older call, whose arguments are checked",
    ),
];

/// Calls that are allowed with some arguments, and the reasons.
const ARGUMENTS: [(&str, &str, &str); 18] = [
    (
        "chmod",
        "without the set-user-id and set-group-id bits",
        SET_ID,
    ),
    ("clone", "without flags for new namespaces", "as *setns*"),
    (
        "connect",
        "with the network of the host: not with the part *net* of `--sandbox`",
        "a connection that is ended by AF_UNSPEC connects or listens again in the network where it was accepted",
    ),
    ("creat", "as *chmod*", "as *chmod*"),
    ("fchmod", "as *chmod*", "as *chmod*"),
    ("fchmodat", "as *chmod*", "as *chmod*"),
    ("fchmodat2", "as *chmod*", "as *chmod*"),
    (
        "ioctl",
        "on terminals and sockets, and FICLONE, FICLONERANGE, FS_IOC_GETFLAGS, FS_IOC_FIEMAP; of terminals' not \
         TIOCSTI, TIOCLINUX, TIOCCONS, TIOCSETD, which fail with EPERM; with the part net of a sandbox none about \
         interfaces",
        "input for a terminal is a command for the shell behind it; others are for devices that handlers don't have. \
         ENOTTY is what a descriptor without the request answers",
    ),
    ("listen", "as *connect*", "as *connect*"),
    (
        "mknod",
        "for regular files, FIFOs and sockets, without set-id bits",
        "a device is the whole disk, or memory",
    ),
    ("mknodat", "as *mknod*", "as *mknod*"),
    ("open", "to make a file without set-id bits", "as *chmod*"),
    ("openat", "as *open*", "as *chmod*"),
    (
        "personality",
        "for PER_LINUX and PER_LINUX32, with or without UNAME26, and to ask",
        "others switch off protections of memory",
    ),
    (
        "prctl",
        "for the options that Linux 6.15 has, but not PR_SET_MM, PR_SCHED_CORE, memory merging, and, in a sandbox, \
         PR_SET_PDEATHSIG",
        "the last keeps a sandbox's handlers from outliving skd",
    ),
    (
        "socket",
        "for AF_UNIX, and for AF_INET and AF_INET6 with TCP, UDP, ICMP or the kind's own protocol; in a sandbox before \
         Linux 6.12 not for AF_UNIX",
        "other families and protocols are modules that the kernel loads when they are asked for; netlink shows and \
         changes the network. Abstract unix addresses would lead from one handler of a service to another",
    ),
    (
        "socketpair",
        "for AF_UNIX; in a sandbox before Linux 6.12 of streams or packets",
        "as *socket*",
    ),
    (
        "unshare",
        "of what threads share: CLONE_FS, CLONE_FILES, CLONE_SYSVSEM",
        "as *setns*",
    ),
];

const SET_ID: &str = "such a file, where the sandbox and the host share a directory, gives the service's user to any user of the host";

pub(super) fn page() -> String {
    TEMPLATE
        .replace("@REFUSED@\n", &refused())
        .replace("@ARGUMENTS@\n", &by_arguments())
        .replace("@ALLOWED@\n", &allowed())
}

/// All calls by their classes, each with the architectures that lack it.
fn by_class() -> BTreeMap<Option<char>, Vec<String>> {
    let only = |name: &str| match (
        calls(X86_64).any(|call| call.name == name),
        calls(AARCH64).any(|call| call.name == name),
    ) {
        (true, true) => "",
        (true, false) => "¹",
        _ => "²",
    };
    let mut all: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for call in calls(X86_64).chain(calls(AARCH64)) {
        let name = format!("`{}`{}", call.name, only(call.name));
        let of_class = all.entry(call.class).or_default();
        if !of_class.contains(&name) {
            of_class.push(name);
        }
    }
    let bare = |name: &String| name.replace(['`', '¹', '²'], "");
    all.values_mut().for_each(|names| names.sort_by_key(bare));
    all
}

/// The error of a call without any argument that is allowed.
fn error(class: char, name: Option<&str>) -> &'static str {
    let rules = default_list(Purpose::default());
    let mut known = known_calls();
    let call =
        known.find(|call| call.class == Some(class) && name.is_none_or(|it| it == call.name));
    let action = call.map(|call| rules.action(call.number, &[u64::MAX - 1; 6]));
    match action {
        Some(Action::Fail(errno)) => match i32::from(errno) {
            libc::ENOSYS => "ENOSYS",
            libc::EAFNOSUPPORT => "EAFNOSUPPORT",
            libc::ENOTTY => "ENOTTY",
            libc::EINVAL => "EINVAL",
            _ => "EPERM",
        },
        // Of another architecture.
        _ => "EPERM",
    }
}

fn refused() -> String {
    let mut all = by_class();
    let mut text = "| | error | calls | they |\n| --- | --- | --- | --- |\n".to_owned();
    for (class, title, reason) in CLASSES {
        let names = all.remove(&Some(class)).unwrap_or_default().join(" ");
        let error = error(class, None);
        let _ = writeln!(text, "| {title} | {error} | {names} | {reason} |");
    }
    let left: Vec<_> = all
        .keys()
        .flatten()
        .filter(|class| **class != '?')
        .collect();
    assert!(left.is_empty(), "classes without a reason: {left:?}");
    text + "\n¹ only on x86-64. ² only on 64-bit ARM.\n"
}

fn by_arguments() -> String {
    let all = by_class().remove(&Some('?')).unwrap_or_default();
    let mut text = "| call | allowed | else | why |\n| --- | --- | --- | --- |\n".to_owned();
    for (name, allowed, why) in &ARGUMENTS {
        let shown = all
            .iter()
            .find(|it| it.trim_end_matches('¹') == format!("`{name}`"));
        let shown = shown.map_or(*name, String::as_str);
        let error = error('?', Some(name));
        let _ = writeln!(text, "| {shown} | {allowed} | {error} | {why} |");
    }
    assert_eq!(all.len(), ARGUMENTS.len(), "{all:?}");
    text
}

fn allowed() -> String {
    let names = by_class().remove(&None).unwrap_or_default();
    format!("All other calls of Linux 6.17: {}.\n", names.join(" "))
}
