//! Sandboxes leave nothing: no namespace, mount, control group, process, descriptor or memory, while skd serves and
//! when it has ended.

use crate::harness::{
    DEADLINE, Directory, Running, Skd, children, descriptors, exists, is_zombie, poll_for,
    requires_command, requires_root, rss_anon, status_field, talk, threads, try_talk, wait_for,
    wait_until,
};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// Ids without an account.
const UID: u32 = 61249;

/// A handler that does what its client says: it leaves processes that ignore signals, and files, or nothing.
const SCRIPT: &str = "read -r what; \
    case $what in leave) \
        (trap '' TERM HUP; setsid sleep 1000 & sleep 1000) & \
        echo kept >/tmp/kept; mkdir /tmp/directory; sleep 1000 </tmp/kept & ;; \
    esac; echo $what";

/// The clients at a time.
const CLIENTS: usize = 4;

/// What a skd and its jailers hold.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    /// The descriptors of skd, but those of control groups, and its threads.
    skd: (usize, usize),
    /// The descriptors of each jailer, and the mounts that it sees.
    jailers: BTreeMap<i32, (usize, usize)>,
    /// Other children.
    handlers: usize,
}

fn jailers(skd: i32) -> Vec<i32> {
    let mut found = children(skd);
    found.retain(|pid| status_field(*pid, "Name").as_deref() == Some("skd-jailer"));
    found
}

impl Held {
    fn of(skd: i32) -> Self {
        let mounts = |pid: i32| {
            let text = fs::read_to_string(format!("/proc/{pid}/mountinfo"));
            text.unwrap_or_default().lines().count()
        };
        let jailers = jailers(skd);
        Self {
            skd: (
                descriptors(skd)
                    .values()
                    .filter(|path| !path.contains("cgroup"))
                    .count(),
                threads(skd).len(),
            ),
            handlers: children(skd).len() - jailers.len(),
            jailers: jailers
                .into_iter()
                .map(|pid| (pid, (descriptors(pid).len(), mounts(pid))))
                .collect(),
        }
    }
}

impl Held {
    /// Whether it is no more than this. skd may have been about to close something, by a brief thread, when it was
    /// looked at before.
    fn is_in(&self, before: &Self) -> bool {
        let is_in = self.skd.0 <= before.skd.0 && self.skd.1 <= before.skd.1;
        is_in && (&self.jailers, self.handlers) == (&before.jailers, before.handlers)
    }
}

/// Memory of skd and its jailers in KiB.
fn memory(skd: i32) -> u64 {
    rss_anon(skd) + jailers(skd).into_iter().map(rss_anon).sum::<u64>()
}

/// The directories of control groups that skd has made, in any hierarchy.
fn groups(skd: i32) -> Vec<PathBuf> {
    let Ok(text) = fs::read_to_string("/proc/self/mountinfo") else {
        return Vec::new();
    };
    let roots = text
        .lines()
        .filter(|line| line.contains(" - cgroup2 "))
        .filter_map(|line| line.split(' ').nth(4).map(PathBuf::from));
    let name = format!("skd-{skd}");
    let mut found = Vec::new();
    let mut todo: Vec<_> = roots.collect();
    while let Some(directory) = todo.pop() {
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        for entry in entries {
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            let path = entry.path();
            if path
                .components()
                .any(|part| part.as_os_str() == name.as_str())
            {
                found.push(path.clone());
            }
            todo.push(path);
        }
    }
    found
}

/// Serves so many clients, of which every eighth leaves something.
#[track_caller]
fn serve(skd: &Running, count: usize) {
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                for number in 0..count / CLIENTS {
                    let what = if number % 8 == 0 { "leave" } else { "nothing" };
                    let answer = talk(skd.connect(), format!("{what}\n").as_bytes());
                    let answer = String::from_utf8_lossy(&answer).into_owned();
                    assert_eq!(answer.trim_end(), what);
                }
            });
        }
    });
}

/// Serves clients, and sees that skd holds the same afterwards.
#[track_caller]
fn hold_the_same(skd: &Running, count: usize) {
    // What is made when it is first needed.
    serve(skd, 200);
    let quiet = || {
        wait_for("no handler is left", || {
            let held = Held::of(skd.pid());
            (held.handlers == 0).then_some(held)
        })
    };
    let before = quiet();
    let memory_before = memory(skd.pid());
    assert!(!before.jailers.is_empty());
    serve(skd, count);
    let mut after = quiet();
    poll_for(DEADLINE, || {
        after = Held::of(skd.pid());
        after.is_in(&before).then_some(())
    });
    assert!(after.is_in(&before), "{after:?} after {before:?}");
    let grown = memory(skd.pid()).saturating_sub(memory_before);
    assert!(grown <= 1024, "{grown} KiB more");
    // Groups are kept for the next handlers: as many as there were at a time, with those that weren't empty yet.
    let groups = groups(skd.pid()).len();
    assert!(groups <= 16 * CLIENTS, "{groups} groups");
    assert!(!children(skd.pid()).into_iter().any(is_zombie));
}

/// Ends skd while handlers live that have left something, and sees that nothing stays.
#[track_caller]
fn ends_without_a_trace(skd: &Running, signal: Signal) {
    let pid = skd.pid();
    // They live on, with what they have started.
    let mut clients: Vec<_> = (0..3).map(|_| skd.connect()).collect();
    for client in &mut clients {
        use std::io::Write;
        client.write_all(b"leave").unwrap();
    }
    wait_until("there are handlers", || Held::of(pid).handlers >= 3);
    let all = skd.processes();
    assert!(all.len() >= 5, "{all:?}");
    skd.signal(signal);
    // The clients of a skd that is told to end may stay for a while; these don't.
    if signal == Signal::SIGTERM {
        drop(clients);
    }
    wait_until("no process is left", || skd.processes().is_empty());
    // Jailers read the end of their sockets, wherever they are by then.
    wait_until("each of them has ended", || {
        all.iter().all(|pid| !exists(*pid) || is_zombie(*pid))
    });
    wait_until("no control group is left", || groups(pid).is_empty());
}

fn skd() -> Skd {
    requires_root();
    Skd::new(["-t", "127.0.0.1:0", "--sandbox"])
        .env("PATH", "/usr/bin:/bin")
        .throttle(Duration::ZERO)
}

fn as_user() -> Skd {
    skd().user(UID, UID, [])
}

#[test]
fn two_thousand_sandboxes_leave_nothing() {
    for (skd, signal) in [(skd(), Signal::SIGTERM), (as_user(), Signal::SIGKILL)] {
        let skd = skd.run_with("sh", ["-c", SCRIPT]);
        hold_the_same(&skd, 1000);
        ends_without_a_trace(&skd, signal);
    }
}

#[test]
fn namespaces_are_given_back() {
    requires_root();
    requires_command("unshare");
    // The kernel counts them for each user namespace: what stays is missing from these.
    let limit = "for kind in user pid mnt net ipc uts cgroup; do echo 200 >/proc/sys/user/max_${kind}_namespaces; done; \
                 exec unshare --user --map-user=1000 --map-group=1000 \"$@\"";
    let skd = skd()
        .wrapper([
            "unshare",
            "--user",
            "--map-root-user",
            "sh",
            "-ec",
            limit,
            "sh",
        ])
        .run_with("sh", ["-c", SCRIPT]);
    serve(&skd, 1000);
    // They did count.
    let text = fs::read_to_string(format!("/proc/{}/uid_map", skd.pid())).unwrap();
    assert!(text.trim_start().starts_with("1000 "), "{text}");
}

#[test]
fn a_limit_of_namespaces_is_a_refusal() {
    requires_root();
    requires_command("unshare");
    // That of the jailer, and two of handlers.
    let limit = "echo 3 >/proc/sys/user/max_pid_namespaces; exec unshare --user --map-user=1000 --map-group=1000 \"$@\"";
    let skd = skd()
        .wrapper([
            "unshare",
            "--user",
            "--map-root-user",
            "sh",
            "-ec",
            limit,
            "sh",
        ])
        .arg("-v")
        .run_with("sh", ["-c", "echo ready; read line; echo $line"]);
    let mut clients = Vec::new();
    wait_until("a client has no handler", || {
        let mut client = skd.connect();
        use std::io::Read;
        let mut answer = [0; 6];
        if client.read_exact(&mut answer).is_ok() {
            clients.push(client);
            assert!(clients.len() <= 4, "the limit holds");
            return false;
        }
        true
    });
    // And when others have gone there is one again.
    drop(clients);
    wait_until("a client is served", || {
        try_talk(skd.connect(), b"again\n").is_ok_and(|answer| answer == b"ready\nagain\n")
    });
}

/// How many objects of the kernel's there are of each kind that a sandbox is made of.
fn objects() -> BTreeMap<String, u64> {
    let text = fs::read_to_string("/proc/slabinfo").unwrap_or_default();
    let kinds = [
        "pid_namespace",
        "net_namespace",
        "nsproxy",
        "mnt_cache",
        "user_namespace",
        "mqueue_inode_cache",
        "filp",
        "task_struct",
        "signal_cache",
        "shmem_inode_cache",
        "proc_inode_cache",
        "kernfs_node_cache",
    ];
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let name = words.next()?;
            let active = words.next()?.parse().ok()?;
            kinds.contains(&name).then(|| (name.to_owned(), active))
        })
        .collect()
}

#[test]
#[ignore = "takes minutes, and a hundred thousand processes"]
fn a_hundred_thousand_sandboxes_leave_nothing() {
    requires_root();
    let directory = Directory::public();
    let program = directory.compile(
        "tiny",
        "#include <unistd.h>\nint main(void) { char c; while (read(0, &c, 1) == 1 && c != '\\n') write(1, &c, 1); }\n",
    );
    let skd = skd().run(&program);
    let before = objects();
    hold_the_same(&skd, 100_000);
    // The kernel frees some of them later, and other tests have theirs.
    let mut grown = Vec::new();
    wait_until("the kernel has as many objects as before", || {
        let after = objects();
        grown = after
            .iter()
            .filter(|(name, count)| **count > before.get(*name).copied().unwrap_or(0) + 20_000)
            .map(|(name, count)| format!("{name} {count}"))
            .collect();
        grown.is_empty()
    });
    eprintln!("{before:?}\n{:?}", objects());
    skd.signal(Signal::SIGKILL);
    let pid = skd.pid();
    wait_until("no process is left", || skd.processes().is_empty());
    wait_until("no control group is left", || groups(pid).is_empty());
}
