//! The options of containment, sandbox, filter and limits.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use super::args::{Args, with_value};
use super::text_file;
use super::values::{self, Why};
use crate::config::seccomp::{FilterFile, Purpose};
use crate::config::{
    HOST_NAME, Isolation, MEMORY_SIZE, Mount, MountKind, PARTS, Part, Parts, ResourceMax, Sandbox,
    Seccomp, decimal,
};

/// Options that say how a sandbox is made.
const OF_SANDBOX: [&str; 5] = ["ro", "rw", "tmpfs", "sandbox-user", "sandbox-hostname"];

/// Options that a sandbox excludes, and why.
const REFUSED: [(&str, &str); 3] = [
    (
        "chroot",
        "a sandbox has a root directory of its own; --ro and --rw say what is in it",
    ),
    (
        "fork-server",
        "copies would share the processes and the /tmp of their template; --warm works",
    ),
    ("as-peer", "a sandbox is made once, for the user of --user"),
];
/// The maximum number of faults reported for one file. If it is the wrong file, each line has one.
const MOST_FAULTS: usize = 10;

/// Limits of memory, processes and CPU time.
const HANDLER_MAX: [&str; 3] = ["memory-max", "pids-max", "cpu-max"];
const SERVICE_MAX: [&str; 3] = ["service-memory-max", "service-pids-max", "service-cpu-max"];

/// Reads how far handlers are kept from everything else.
pub(super) fn isolation(args: &Args<'_>, known: &[FilterFile]) -> Isolation {
    let sandbox = sandbox(args);
    let isolation = Isolation {
        contains: args.flag("contain"),
        seccomp: seccomp(args, known),
        handler_max: resources(args, HANDLER_MAX),
        service_max: resources(args, SERVICE_MAX),
        sandbox,
    };
    if isolation.seccomp == Seccomp::Log && (!args.listens() || args.flag("supervise")) {
        args.refuse("--seccomp log is for the handlers of clients: it needs a listener, and not --supervise");
    }
    if isolation.sandbox.is_none() && isolation.is_contained() && args.has("fork-server") {
        args.refuse(
            "--fork-server can't be used with --contain and limits: copies begin in the control group \
             of their template; --warm works",
        );
    }
    let asked = ["contain", "sandbox"]
        .into_iter()
        .filter(|option| args.is_given(option));
    let limits = HANDLER_MAX.into_iter().chain(SERVICE_MAX);
    for option in asked.chain(limits.filter(|option| args.has(option))) {
        if args.flag("supervise") {
            args.refuse(format!(
                "--{option} can't be used with --supervise: it is for the handlers of clients"
            ));
        } else if !args.listens() {
            args.refuse(format!(
                "--{option} has no use without a listener: it is for the handlers of clients"
            ));
        }
    }
    isolation
}

fn sandbox(args: &Args<'_>) -> Option<Sandbox> {
    let user = args.read("sandbox-user", ids);
    let host_name = args.read("sandbox-hostname", host_name);
    let mounts = mounts(args);
    let parts = args.read("sandbox", parts);
    if !args.is_given("sandbox") {
        for option in OF_SANDBOX {
            if args.has(option) {
                args.refuse(format!("--{option} has no use without --sandbox"));
            }
        }
        if args.flag("share-net") {
            args.refuse("--share-net has no use without --sandbox");
        }
        return None;
    }
    if let (None, Some(word)) = (args.one("sandbox"), args.word_after_options()) {
        if self::parts(word).is_ok() {
            let word = Path::new(word).display();
            args.refuse(format!(
                "--sandbox takes its value after an equals sign: --sandbox={word}"
            ));
        }
    }
    for (other, why) in REFUSED {
        if args.is_given(other) {
            args.refuse(format!("--{other} can't be used with --sandbox: {why}"));
        }
    }
    let mut parts = parts.unwrap_or(Parts::STRICT);
    if args.flag("share-net") {
        if !parts.has(Part::Net) && !parts.has(Part::Landlock) {
            args.refuse(
                "--share-net has no use: without the parts net and landlock handlers share the network",
            );
        }
        parts = parts.without(Part::Net);
        if parts == Parts::NONE {
            args.refuse("--share-net can't be used with --sandbox=net: nothing would be left");
        }
    }
    let has_paths = parts.has(Part::Mount) || parts.has(Part::Landlock);
    for (option, is_used, needs) in [
        ("ro", has_paths, "mount or landlock"),
        ("rw", has_paths, "mount or landlock"),
        ("tmpfs", parts.has(Part::Mount), "mount"),
        ("sandbox-user", parts.has(Part::User), "user"),
        ("sandbox-hostname", parts.has(Part::Uts), "uts"),
    ] {
        if args.has(option) && !is_used {
            args.refuse(format!("--{option} needs the part {needs} of --sandbox"));
        }
    }
    let moved = |mount: &Mount| match &mount.kind {
        MountKind::ReadOnly(from) | MountKind::ReadWrite(from) => *from != mount.at,
        MountKind::Memory(_) => false,
    };
    if !parts.has(Part::Mount) && mounts.iter().any(moved) {
        args.refuse("--ro and --rw with PATH:TO need the part mount of --sandbox");
    }
    Some(Sandbox {
        parts,
        shares_net: args.flag("share-net"),
        user,
        host_name: host_name.unwrap_or_else(|| HOST_NAME.into()),
        mounts,
    })
}

/// Reads what is mounted: directories before what is in them, so that the order of options, which
/// files don't keep, makes no difference.
fn mounts(args: &Args<'_>) -> Vec<Mount> {
    let mut all = Vec::new();
    for option in ["ro", "rw", "tmpfs"] {
        for (at, value) in args.each(option) {
            let mount = args.value(option, value, |value| match option {
                "tmpfs" => memory(value),
                "ro" => bind(value, MountKind::ReadOnly),
                _ => bind(value, MountKind::ReadWrite),
            });
            all.extend(mount.map(|mount| (mount, at, with_value(option, value))));
        }
    }
    all.sort_by(|(one, at, _), (other, later, _)| (&one.at, at).cmp(&(&other.at, later)));
    for pair in all.windows(2) {
        if let [(one, _, first), (other, _, second)] = pair {
            if one.at == other.at {
                let at = one.at.display();
                args.refuse(format!(
                    "{second} is where {first} is already: at {at} inside"
                ));
            }
        }
    }
    all.into_iter().map(|(mount, ..)| mount).collect()
}

/// Parses `strict`, or names of parts with commas between them.
fn parts(text: &OsStr) -> Result<Parts, Why> {
    let names = || PARTS.map(|(name, _)| name).join(", ");
    let refused = || {
        format!(
            "it takes strict, or some of {} with commas between them",
            names()
        )
    };
    let text = text.to_str().ok_or_else(refused)?;
    text.split(',').try_fold(Parts::NONE, |parts, name| {
        if name == "strict" {
            let all = PARTS
                .into_iter()
                .filter(|(_, part)| Parts::STRICT.has(*part));
            return Ok(all.fold(parts, |parts, (_, part)| parts.with(part)));
        }
        let found = PARTS.into_iter().find(|(known, _)| *known == name);
        found.map(|(_, part)| parts.with(part)).ok_or_else(refused)
    })
}

/// Parses a path inside, and makes it plain.
fn inside(text: &OsStr) -> Result<PathBuf, Why> {
    let path = values::path(text)?;
    let plain = |component| matches!(component, Component::RootDir | Component::Normal(_));
    if !path.is_absolute() || !path.components().all(plain) {
        return Err("a path in a sandbox begins with / and has no '..' in it".into());
    }
    if path == Path::new("/") {
        return Err("the root directory of a sandbox is skd's to make; name what is in it".into());
    }
    Ok(path.components().collect())
}

/// Parses `PATH[:TO]`. A relative PATH begins in skd's directory.
fn bind(text: &OsStr, kind: fn(PathBuf) -> MountKind) -> Result<Mount, Why> {
    let (from, to) = halves(text);
    let from = std::path::absolute(values::path(from)?).map_err(|error| error.to_string())?;
    let from = inside(from.as_os_str()).or_else(|why| match to {
        Some(_) if from == Path::new("/") => Ok(from),
        _ => Err(why),
    })?;
    Ok(Mount {
        at: to.map_or_else(|| Ok(from.clone()), inside)?,
        kind: kind(from),
    })
}

/// Parses `PATH[:SIZE]`.
fn memory(text: &OsStr) -> Result<Mount, Why> {
    let (path, amount) = halves(text);
    Ok(Mount {
        at: inside(path)?,
        kind: MountKind::Memory(amount.map_or(Ok(MEMORY_SIZE), size)?),
    })
}

/// What is before and after the first colon.
fn halves(text: &OsStr) -> (&OsStr, Option<&OsStr>) {
    let bytes = text.as_bytes();
    match bytes.iter().position(|byte| *byte == b':') {
        Some(at) => (
            OsStr::from_bytes(&bytes[..at]),
            Some(OsStr::from_bytes(&bytes[at + 1..])),
        ),
        None => (text, None),
    }
}

/// Parses a number of bytes that isn't 0.
fn size(text: &OsStr) -> Result<u64, Why> {
    let amount = text.to_str().and_then(values::amount);
    amount
        .filter(|amount| (1..=i64::MAX as u64).contains(amount))
        .ok_or_else(|| "a size is a decimal number of bytes, or one with K, M, G or T".into())
}

/// Parses `UID[:GID]`.
fn ids(text: &OsStr) -> Result<(u32, u32), Why> {
    let (uid, gid) = halves(text);
    let id = |text| {
        decimal::<u32>(text)
            .filter(|id| *id < u32::MAX)
            .ok_or_else(|| Why::from("it takes UID or UID:GID, decimal numbers"))
    };
    let uid = id(uid)?;
    Ok((uid, gid.map_or(Ok(uid), id)?))
}

/// Parses a host name (hostname(7)).
fn host_name(text: &OsStr) -> Result<std::ffi::OsString, Why> {
    let known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    let bytes = text.as_bytes();
    if bytes.is_empty() || bytes.len() > 64 || !bytes.iter().all(known) {
        return Err("it takes 1 to 64 letters, digits, '-', '.' and '_'".into());
    }
    Ok(text.to_owned())
}

/// Reads which system calls handlers may make.
fn seccomp(args: &Args<'_>, known: &[FilterFile]) -> Seccomp {
    let path = |text: &OsStr| match text.as_bytes() {
        b"none" | b"default" | b"log" => Ok(None),
        bytes if bytes.contains(&b'/') => values::path(text).map(Some),
        _ => Err(Why::from(
            "it takes default, log, none, or a FILE with a '/' in its path",
        )),
    };
    let option = args.one("seccomp").unwrap_or_default();
    match args.read("seccomp", path) {
        None => Seccomp::Unset,
        Some(None) => match option.as_bytes() {
            b"none" => Seccomp::None,
            b"log" => Seccomp::Log,
            _ => Seccomp::Default,
        },
        Some(Some(path)) => {
            let earlier = known.iter().find(|file| file.option == option);
            let file = earlier
                .cloned()
                .or_else(|| filter_file(args, option, &path));
            file.map_or(Seccomp::Unset, |file| Seccomp::File(file.into()))
        }
    }
}

/// Reads a list of system calls.
fn filter_file(args: &Args<'_>, option: &OsStr, path: &Path) -> Option<FilterFile> {
    let refuse = |line: Option<usize>, why: &str| {
        let line = line.map(|line| format!(":{line}")).unwrap_or_default();
        args.refuse(format!("--seccomp {}{line}: {why}", path.display()));
    };
    let text = match text_file::read(path, "choose what handlers may do") {
        Ok(Some(text)) => text,
        Ok(None) => {
            refuse(None, "there is no such file");
            return None;
        }
        Err(why) => {
            refuse(None, &why);
            return None;
        }
    };
    let Ok(text) = String::from_utf8(text) else {
        refuse(None, "it isn't UTF-8");
        return None;
    };
    let option = option.to_owned();
    let file = FilterFile { option, text };
    if let Err(faults) = file.rules(Purpose::default()) {
        for fault in faults.iter().take(MOST_FAULTS) {
            refuse(fault.line, &fault.why);
        }
        return None;
    }
    Some(file)
}

/// Reads limits of memory, of the number of processes, and of CPU time.
fn resources(args: &Args<'_>, [memory, pids, cpu]: [&str; 3]) -> ResourceMax {
    ResourceMax {
        memory: args.read(memory, size),
        pids: args.read(pids, values::positive).map(i32::unsigned_abs),
        cpu: args.read(cpu, percent),
    }
}

/// Parses a percentage of one CPU.
fn percent(text: &OsStr) -> Result<u32, Why> {
    let digits = text.as_bytes().strip_suffix(b"%").map(OsStr::from_bytes);
    digits
        .and_then(decimal::<u32>)
        .filter(|percent| (1..=100_000).contains(percent))
        .ok_or_else(|| "it takes a percentage of one CPU from 1% to 100000%, as 50% or 200%".into())
}
