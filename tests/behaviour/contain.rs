//! `--contain`: all that a handler has started ends with it, whatever it did, and its slot is free only then.

use crate::harness::{
    Control, Directory, Instance, Running, Skd, controlled, echo, exists, receive,
    requires_command, requires_root, talk, wait_for, wait_until,
};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

/// Each starts processes that don't end by themselves, says `ready`, and ends when the client says so.
const ESCAPES: [(&str, &str); 7] = [
    ("fork", "sleep 1000 >/dev/null 2>&1 & echo ready; read -r _"),
    (
        "its own session",
        "setsid sleep 1000 >/dev/null 2>&1 </dev/null & echo ready; read -r _",
    ),
    (
        "a double fork and a session",
        "(setsid sleep 1000 >/dev/null 2>&1 </dev/null &); echo ready; read -r _",
    ),
    (
        "ignored signals",
        "(trap '' TERM HUP INT QUIT; sh -c 'while :; do sleep 1000; done' >/dev/null </dev/null &); \
         echo ready; read -r _",
    ),
    (
        "a stop",
        "setsid sh -c 'kill -STOP $$; exec sleep 1000' >/dev/null 2>&1 </dev/null & echo ready; read -r _",
    ),
    (
        "several",
        "for _ in 1 2 3; do setsid sleep 1000 >/dev/null 2>&1 & done; sleep 1000 & echo ready; read -r _",
    ),
    (
        "the socket",
        "python3 -c 'import os,time\nif os.fork(): os._exit(0)\nos.setsid()\nif os.fork(): os._exit(0)\n\
         time.sleep(1000)' & echo ready; read -r _; exit 0",
    ),
];

/// How handlers are contained, and a machine on which that is the first way that can be had.
type Way = (&'static str, fn(Skd) -> Skd);

fn ways() -> [Way; 3] {
    [
        ("control groups", |skd| skd),
        ("PID namespaces", |skd| {
            skd.refusing(libc::SYS_mkdirat, Errno::EROFS)
        }),
        ("skd as a subreaper", |skd| {
            skd.refusing(libc::SYS_mkdirat, Errno::EROFS)
                .refusing(libc::SYS_unshare, Errno::EPERM)
        }),
    ]
}

fn shell(options: &[&str], script: &str) -> Running {
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--contain"]);
    skd.args(options).run_with("sh", ["-c", script])
}

/// Reads the ids of processes up to `ready`.
fn ids(client: &TcpStream) -> Vec<i32> {
    let mut lines = BufReader::new(client).lines().map(Result::unwrap);
    let lines = lines.by_ref().take_while(|line| line != "ready");
    lines.map(|line| line.parse().unwrap()).collect()
}

/// Reads all up to the end, or a reset.
fn rest(mut client: TcpStream) {
    let _ = client.read_to_end(&mut Vec::new());
}

/// The base group of a skd.
fn base(skd: &Instance) -> PathBuf {
    PathBuf::from(format!("{}/skd-{}", own_group(), skd.first_pid()))
}

/// The directory of the group of version 2 that the tests are in.
fn own_group() -> String {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut mounts = mounts.lines().filter(|line| line.contains(" - cgroup2 "));
    let mount = mounts.next().expect("a mount of cgroup2");
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap();
    let mut groups = groups.lines().filter_map(|line| line.strip_prefix("0::"));
    let group = groups.next().expect("a group of version 2");
    let point = mount.split(' ').nth(4).unwrap();
    format!("{point}{}", group.trim_end_matches('/'))
}

/// How many groups of handlers there are.
fn groups(skd: &Instance) -> usize {
    let services = fs::read_dir(base(skd)).into_iter().flatten().flatten();
    let services = services.filter(|entry| entry.file_type().unwrap().is_dir());
    let inside =
        services.flat_map(|service| fs::read_dir(service.path()).into_iter().flatten().flatten());
    inside
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .count()
}

#[test]
fn whatever_a_handler_leaves_behind_ends_with_it() {
    requires_root();
    requires_command("python3");
    for (way, machine) in ways() {
        for (how, script) in ESCAPES {
            println!("{how}, by {way}");
            let options = [
                "-v",
                "-t",
                "127.0.0.1:0",
                "--contain",
                "-c",
                "1",
                "--kill-after=300ms",
            ];
            let skd = machine(Skd::new(options)).run_with("sh", ["-c", script]);
            let mut client = skd.connect();
            ids(&client);
            let left = skd.processes();
            client.write_all(b"\n").unwrap();
            rest(client);
            skd.wait_for_log("exited with status 0 after");
            let alive = || {
                let all = left
                    .iter()
                    .chain(&skd.processes())
                    .copied()
                    .collect::<Vec<_>>();
                let all = all.into_iter().filter(|pid| exists(*pid));
                all.filter(|pid| is_handlers(*pid, &skd))
                    .collect::<Vec<_>>()
            };
            if way == "skd as a subreaper" {
                // Of what has left the session the slot knows nothing.
                wait_until("all end", || alive().is_empty());
            }
            assert_eq!(alive(), [0; 0], "{how}, by {way}: {:?}", skd.log_lines());
            // The next client has the slot.
            let client = skd.connect();
            ids(&client);
            drop(client);
            skd.stop();
        }
    }
}

/// Whether a process isn't one of skd's own, such as a jailer.
fn is_handlers(pid: i32, skd: &Instance) -> bool {
    let program = |pid| fs::read_link(format!("/proc/{pid}/exe")).ok();
    program(pid) != program(skd.pid())
}

#[test]
fn the_log_and_check_say_how_handlers_are_contained() {
    requires_root();
    for (way, machine) in ways() {
        let skd = machine(Skd::new(["-v", "-t", "127.0.0.1:0", "--contain"])).run("cat");
        skd.wait_for_log(&format!("contained by {way}"));
        assert_eq!(talk(skd.connect(), b"served"), b"served");
        skd.stop();
        let checked = machine(Skd::new([
            "--check",
            "-t",
            "127.0.0.1:0",
            "--contain",
            "cat",
        ]))
        .end();
        assert_eq!(checked.status.code(), Some(0), "{}", checked.stderr);
        let words = format!("handlers are contained by {way}");
        assert!(checked.stderr.contains(&words), "{}", checked.stderr);
    }
}

#[test]
fn slots_are_taken_until_all_has_ended() {
    requires_root();
    // What is left takes its time to end.
    let script =
        "(trap 'sleep 1; exit' TERM; echo ready; while :; do sleep 0.01; done) & read -r _";
    let skd = shell(&["-c", "1", "--kill-after=30s"], script);
    let mut first = skd.connect();
    receive(&mut first, 6);
    first.write_all(b"\n").unwrap();
    skd.wait_for_log("has ended and has left ");
    let mut second = skd.connect();
    // It is served when the first is over, which a line tells.
    receive(&mut second, 6);
    let lines = skd.log_lines();
    let at = |text: &str| lines.iter().position(|line| line.contains(text)).unwrap();
    let closed = at("exited with status 0 after");
    let accepted = lines
        .iter()
        .rposition(|line| line.starts_with("Accepted"))
        .unwrap();
    assert!(
        at("has ended and has left ") < closed && closed < accepted,
        "{lines:#?}"
    );
}

#[test]
fn a_source_slot_is_taken_until_all_has_ended() {
    requires_root();
    let script = "(trap '' TERM; echo ready; while :; do sleep 0.01; done) & read -r _";
    let skd = shell(&["--max-per-source=1", "--kill-after=2s"], script);
    let mut first = skd.connect();
    receive(&mut first, 6);
    first.write_all(b"\n").unwrap();
    skd.wait_for_log("has ended and has left ");
    // Refused at once.
    rest(skd.connect());
    assert!(
        skd.logged("exited with status 0").is_empty(),
        "{:?}",
        skd.log_lines()
    );
    skd.wait_for_log("KILL is sent to it");
    skd.wait_for_log("exited with status 0");
    // The line comes first.
    wait_until("the next is served", || {
        skd.connect().read_exact(&mut [0; 6]).is_ok()
    });
}

#[test]
fn a_timeout_ends_all() {
    requires_root();
    let script = "setsid sh -c 'trap \"\" TERM; echo $$; echo ready; while :; do sleep 1000; done' & \
                  while :; do sleep 1000; done";
    for (way, machine) in ways() {
        println!("by {way}");
        let options = [
            "-v",
            "-t",
            "127.0.0.1:0",
            "--contain",
            "--timeout=1s",
            "--kill-after=100ms",
        ];
        let skd = machine(Skd::new(options)).run_with("sh", ["-c", script]);
        let client = skd.connect();
        ids(&client);
        // A shell that is process 1 and has no trap.
        let handler = skd.wait_for_log("has run for 1s: ");
        let signal = match way == "PID namespaces" {
            true => "KILL",
            false => "TERM",
        };
        assert!(
            handler.contains(&format!("1s: {signal} is sent to it")),
            "{handler}"
        );
        skd.wait_for_log("was terminated by signal");
        rest(client);
        wait_until("nothing is left", || {
            let all = skd.processes().into_iter();
            all.filter(|pid| is_handlers(*pid, &skd)).count() == 0
        });
        println!("{handler}");
        skd.stop();
    }
}

#[test]
fn a_drain_ends_all_and_the_groups_are_gone_afterwards() {
    requires_root();
    let script =
        "setsid sh -c 'trap \"\" TERM; echo $$; echo ready; while :; do sleep 1000; done' & wait";
    let skd = shell(&["--drain=500ms", "--kill-after=500ms"], script);
    let client = skd.connect();
    let left = ids(&client);
    let base = base(&skd);
    assert!(base.exists());
    assert_eq!(skd.stop().code(), Some(4));
    assert!(left.iter().all(|pid| !exists(*pid)));
    wait_until("the groups are removed", || !base.exists());
}

#[test]
fn what_is_contained_ends_with_skd_even_if_that_is_killed() {
    requires_root();
    let script =
        "setsid sh -c 'trap \"\" TERM; echo $$; echo ready; while :; do sleep 1000; done' & wait";
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let skd = shell(&[], script);
        let clients: Vec<_> = (0..3).map(|_| skd.connect()).collect();
        let left: Vec<_> = clients.iter().flat_map(ids).collect();
        let base = base(&skd);
        kill(Pid::from_raw(skd.pid()), signal).unwrap();
        wait_until("all have ended", || left.iter().all(|pid| !exists(*pid)));
        wait_until("the groups are removed", || !base.exists());
        skd.stop();
    }
}

#[test]
fn what_was_left_behind_is_ended_after_an_upgrade_too() {
    requires_root();
    let script = "(trap '' TERM; echo ready; while :; do sleep 0.01; done) & read -r _";
    let skd = shell(&["-c", "2", "--kill-after=5s"], script);
    let mut first = skd.connect();
    receive(&mut first, 6);
    let mut second = skd.connect();
    receive(&mut second, 6);
    first.write_all(b"\n").unwrap();
    skd.wait_for_log("has ended and has left ");
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("Upgraded from");
    assert_eq!(groups(&skd), 2, "{:?}", skd.log_lines());
    skd.wait_for_log("KILL is sent to it");
    skd.wait_for_log("exited with status 0");
    second.write_all(b"\n").unwrap();
    skd.wait_for_logs("has ended and has left ", 2);
    skd.wait_for_logs("exited with status 0", 2);
    // New handlers have groups as before.
    let mut third = skd.connect();
    receive(&mut third, 6);
    let base = base(&skd);
    assert_eq!(groups(&skd), 1);
    skd.stop();
    wait_until("the groups are removed", || !base.exists());
}

#[test]
fn a_thousand_connections_use_few_groups() {
    requires_root();
    let skd = shell(&["-c", "4"], "sleep 1000 & echo served");
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..250).for_each(|_| rest(skd.connect())));
        }
    });
    skd.wait_for_logs("exited with status 0", 1000);
    assert!(groups(&skd) <= 5, "{}", groups(&skd));
    let left = skd
        .processes()
        .into_iter()
        .filter(|pid| is_handlers(*pid, &skd));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_fork_bomb_ends_with_its_handler() {
    requires_root();
    // Bounded, and each of them makes others again when it is told to end.
    let script = "bomb() { trap 'bomb $(($1 - 1)) &' TERM; n=0; while [ $n -lt 3 ] && [ $1 -gt 0 ]; do \
                  (bomb $(($1 - 1))) & n=$((n + 1)); done; while :; do sleep 0.1; done; }; \
                  (bomb 3) & sleep 0.5; echo ready; read -r _";
    let skd = shell(&["-c", "1", "--kill-after=100ms"], script);
    let mut client = skd.connect();
    receive(&mut client, 6);
    client.write_all(b"\n").unwrap();
    skd.wait_for_log("exited with status 0");
    let left = skd
        .processes()
        .into_iter()
        .filter(|pid| is_handlers(*pid, &skd));
    assert_eq!(left.count(), 0);
}

#[test]
fn limits_that_nothing_can_keep_are_no_start() {
    requires_root();
    let skd = Skd::new(["-t", "127.0.0.1:0", "--memory-max=1M", "cat"]);
    let ended = skd.refusing(libc::SYS_mkdirat, Errno::EROFS).end();
    assert_eq!(ended.status.code(), Some(1));
    let words = &ended.stderr;
    assert!(
        words.contains("limits of memory, processes or CPU time can't be set: "),
        "{words}"
    );
}

#[test]
fn a_group_that_is_removed_by_another_program_is_made_again() {
    requires_root();
    let skd = shell(&["--threads=1"], "echo served");
    for _ in 0..3 {
        assert_eq!(talk(skd.connect(), b""), b"served\n");
        skd.wait_for_log("exited with status 0");
        let services = fs::read_dir(base(&skd)).unwrap().flatten();
        let service = services
            .map(|entry| entry.path())
            .find(|path| path.is_dir())
            .unwrap();
        let inside = wait_for("a group", || {
            let inside = fs::read_dir(&service).ok()?.flatten();
            let inside = inside
                .map(|entry| entry.path())
                .filter(|path| path.is_dir());
            Some(inside.collect::<Vec<_>>()).filter(|all| !all.is_empty())
        });
        for group in inside {
            fs::remove_dir(group).unwrap();
        }
    }
}

/// Whether the kernel's controllers are to be had. They may be missing where a hierarchy of version 1 has them, but
/// not in the guest of `tests/guest/run`.
fn has_controllers() -> bool {
    let path = format!("{}/cgroup.controllers", own_group());
    let known = fs::read_to_string(&path).unwrap_or_default();
    let has = ["memory", "pids", "cpu"]
        .iter()
        .all(|name| known.split_whitespace().any(|it| it == *name));
    assert!(
        has || std::env::var_os("SKD_TEST_GUEST").is_none(),
        "{path} has {known:?}"
    );
    if !has {
        println!("not run: {path} has not memory, pids and cpu, but {known:?}");
    }
    has
}

/// The directories of the groups of handlers.
fn group_paths(base: &std::path::Path) -> Vec<PathBuf> {
    let inside = |path: PathBuf| {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    inside(base.to_owned())
        .into_iter()
        .flat_map(inside)
        .collect()
}

#[test]
fn a_handler_at_its_limit_of_memory_is_killed_as_a_whole_and_the_log_says_so() {
    requires_root();
    if !has_controllers() {
        return;
    }
    let script = "sleep 1000 & read -r _; head -c 200000000 /dev/zero | tail -c 200000000 >/dev/null; sleep 1000";
    let options = ["-v", "-t", "127.0.0.1:0", "--memory-max=32M"];
    let skd = Skd::new(options).run_with("sh", ["-c", script]);
    let (mut one, other) = (skd.connect(), skd.connect());
    skd.wait_for_logs("Accepted", 2);
    one.write_all(b"\n").unwrap();
    skd.wait_for_log(" was terminated by signal 9, being out of memory, after ");
    assert!(skd.logged("Closed").len() == 1, "{:?}", skd.log_lines());
    wait_until("one handler is left", || skd.children().len() == 1);
    drop(one);
    // The next in the same group isn't blamed for that.
    let pid = skd.children()[0];
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    rest(other);
    skd.wait_for_log(&format!("pid {pid} was terminated by signal 9 after "));
}

#[test]
fn numbers_of_processes_and_cpu_time_are_limited() {
    requires_root();
    if !has_controllers() {
        return;
    }
    requires_command("perl");
    // A shell would end if it couldn't fork.
    let script =
        "for (1..20) { my $pid = fork; exec 'sleep', '1000' if defined $pid && !$pid } sleep 1000";
    let options = [
        "-v",
        "-t",
        "127.0.0.1:0",
        "--pids-max=6",
        "--cpu-max=20%",
        "--service-pids-max=9",
        "--service-memory-max=64M",
    ];
    let skd = Skd::new(options).run_with("perl", ["-e", script]);
    let _one = skd.connect();
    let base = base(&skd);
    let group = wait_for("the group of a handler", || group_paths(&base).pop());
    let read = |name: &str| fs::read_to_string(group.join(name)).unwrap();
    wait_until("it has as many as it may", || {
        read("pids.current").trim() == "6"
    });
    assert_eq!(read("pids.max").trim(), "6");
    assert_eq!(read("cpu.max").trim(), "20000 100000");
    assert_eq!(read("memory.oom.group").trim(), "1");
    let service = group.parent().unwrap();
    let read = |name: &str| fs::read_to_string(service.join(name)).unwrap();
    assert_eq!(read("pids.max").trim(), "9");
    assert_eq!(read("memory.max").trim(), (64 << 20).to_string());
    let _other = skd.connect();
    wait_until("the service has as many as it may", || {
        read("pids.current").trim() == "9"
    });
}

#[test]
fn skd_makes_room_for_controllers_in_its_own_group() {
    requires_root();
    if !has_controllers() {
        return;
    }
    let own = PathBuf::from(own_group()).join(format!("skd-test-{}", std::process::id()));
    fs::create_dir(&own).unwrap();
    fs::write(
        own.parent().unwrap().join("cgroup.subtree_control"),
        "+memory +pids +cpu",
    )
    .unwrap();
    let procs = own.join("cgroup.procs");
    let enter = format!("echo $$ >{} && exec \"$@\"", procs.display());
    let start = || {
        let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--memory-max=32M"]);
        skd.wrapper(["sh", "-c", &enter, "sh"])
    };
    let skd = start().run("cat");
    assert_eq!(talk(skd.connect(), b"served"), b"served");
    assert_eq!(fs::read_to_string(&procs).unwrap(), "");
    skd.stop();
    let base = own.join(format!("skd-{}", skd.first_pid()));
    wait_until("the groups are removed", || !base.exists());
    // Another process is in the way.
    let mut other = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    fs::write(&procs, other.id().to_string()).unwrap();
    let ended = start().args(["cat"]).end();
    assert_eq!(ended.status.code(), Some(1));
    assert!(
        ended.stderr.contains("other processes are in that group"),
        "{}",
        ended.stderr
    );
    other.kill().unwrap();
    other.wait().unwrap();
    wait_until("the group is removed", || fs::remove_dir(&own).is_ok());
}

#[test]
fn prestarted_handlers_are_contained_too() {
    requires_root();
    requires_command("perl");
    let script = "$| = 1; my $line = <STDIN>; my $pid = fork; if (!$pid) { $SIG{TERM} = 'IGNORE'; sleep 1000 while 1 } \
                  print \"$pid\\nready\\n\"";
    let options = [
        "-v",
        "-t",
        "127.0.0.1:0",
        "--contain",
        "--warm=1",
        "--kill-after=200ms",
    ];
    let skd = Skd::new(options).run_with("perl", ["-e", script]);
    for count in 1..=3 {
        wait_until("one is ready", || skd.children().len() == 1);
        let mut client = skd.connect();
        client.write_all(b"\n").unwrap();
        let left = ids(&client);
        rest(client);
        skd.wait_for_logs("exited with status 0", count);
        assert!(
            left.iter().all(|pid| !exists(*pid)),
            "{:?}",
            skd.log_lines()
        );
    }
    assert!(groups(&skd) <= 2);
}

#[test]
fn the_user_of_daemon_user_has_groups_too() {
    requires_root();
    let script = "setsid sleep 1000 >/dev/null 2>&1 & echo ready; read -r _";
    let options = [
        "-v",
        "-t",
        "127.0.0.1:0",
        "--contain",
        "--daemon-user=nobody",
        "--kill-after=200ms",
    ];
    let skd = Skd::new(options).run_with("sh", ["-c", script]);
    let mut client = skd.connect();
    receive(&mut client, 6);
    // It was given a group of its own before it became that user.
    skd.wait_for_log("contained by control groups");
    client.write_all(b"\n").unwrap();
    skd.wait_for_log("has ended and has left 1 process behind");
    skd.wait_for_log("exited with status 0");
    let base = base(&skd);
    assert!(base.join("daemon").exists());
    skd.stop();
    wait_until("the groups are removed", || !base.exists());
}

#[test]
fn services_come_and_go_with_their_groups() {
    requires_root();
    let directory = Directory::new();
    let configure = |names: &[&str]| {
        let services = names.iter().map(|name| {
            let path = directory.name(name);
            let script = "(trap '' TERM; echo ready; while :; do sleep 0.01; done) & read -r _";
            format!("[service.{name}]\nunix = \"{path}\"\ncontain = true\nkill-after = \"1s\"\ncommand = [\"sh\", \"-c\", \"{script}\"]\n")
        });
        directory.write("skd.toml", services.collect::<String>());
    };
    configure(&["one", "two"]);
    let file = directory.name("skd.toml");
    let skd = Skd::new(["-v", "--config", &file])
        .throttle(Duration::ZERO)
        .start_bare();
    skd.wait_for_log("contained by control groups");
    let has = |name: &str| base(&skd).join(format!("service-{name}")).exists();
    let mut one = wait_for("a client", || {
        UnixStream::connect(directory.join("one")).ok()
    });
    receive(&mut one, 6);
    assert!(has("one") && has("two") && !has("three"));
    configure(&["two", "three"]);
    skd.signal(Signal::SIGHUP);
    skd.wait_for_log("Reloaded: ");
    wait_until("the new one has a group", || has("three"));
    // Its last handler is contained as before, and its group goes with that.
    assert!(has("one") && has("two"));
    one.write_all(b"\n").unwrap();
    skd.wait_for_log("has ended and has left ");
    skd.wait_for_log("KILL is sent to it");
    skd.wait_for_log("exited with status 0");
    configure(&["two", "three", "four"]);
    skd.signal(Signal::SIGHUP);
    wait_until("its group is removed", || !has("one") && has("four"));
    let mut three = wait_for("a client", || {
        UnixStream::connect(directory.join("three")).ok()
    });
    receive(&mut three, 6);
    assert_eq!(groups(&skd), 1);
}

/// Leaves a process behind that ignores TERM, in a session of its own, and tells of it.
const STUBBORN: &str =
    "setsid sh -c 'trap \"\" TERM; echo $$; echo ready; while :; do sleep 1000; done' & wait";

#[test]
fn an_administrator_kills_all_of_a_handler() {
    requires_root();
    for (way, machine) in ways() {
        let directory = Directory::new();
        let skd = controlled(&directory, ["-v", "--contain", "-c", "1"]).throttle(Duration::ZERO);
        let skd = machine(skd.args(["--kill-after=300ms"])).run_with("sh", ["-c", STUBBORN]);
        let mut control = Control::of(&directory);
        for count in 1..=2 {
            let client = skd.connect();
            // Its own ids may be those of a namespace.
            ids(&client);
            let left = skd.processes();
            control.done(json!({"request": "kill", "service": "sh"}));
            rest(client);
            skd.wait_for_logs("terminated by signal ", count);
            let is_over = || {
                !left
                    .iter()
                    .any(|pid| exists(*pid) && is_handlers(*pid, &skd))
            };
            match way {
                // What has left the session is killed a little later.
                "skd as a subreaper" => wait_until("all has ended", is_over),
                // The slot is free only now.
                _ => assert!(is_over(), "{way}: {:?}", skd.log_lines()),
            }
        }
        let service = control.service("sh");
        assert_eq!(service["ended"]["killed"], 2, "{way}: {service}");
        assert_eq!(service["running"], 0, "{way}: {service}");
    }
}

#[test]
fn a_handler_in_wait_mode_is_contained_and_the_socket_comes_back_when_all_has_ended() {
    requires_root();
    requires_command("perl");
    let script = "accept(my $c, STDIN) or die; if (!fork) { require POSIX; POSIX::setsid(); $SIG{TERM} = 'IGNORE'; \
                  sleep 1000 while 1 } syswrite $c, 'served'";
    for (way, machine) in ways() {
        println!("{way}");
        let skd = Skd::new(["-v", "--wait", "-t", "127.0.0.1:0", "--contain"]);
        let skd = machine(skd.args(["--kill-after=200ms"]).throttle(Duration::ZERO));
        let skd = skd.run_with("perl", ["-e", script]);
        for count in 1..=2 {
            assert_eq!(receive(&mut skd.connect(), 6), b"served");
            skd.wait_for_logs("exited with status 0 after", count);
        }
        let is_perl = |pid: &i32| {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name == "perl\n"
        };
        assert!(!skd.processes().iter().any(is_perl), "{way}");
    }
}

/// A machine without control groups, on which sandboxes can be made.
fn without_groups(skd: Skd, before: &str) -> Skd {
    requires_command("unshare");
    let script = format!("mount -t tmpfs none /sys/fs/cgroup || exit; {before} exec \"$@\"");
    skd.wrapper(["unshare", "-m", "sh", "-c", &script, "sh"])
}

#[test]
fn a_subreaper_ends_what_leaves_a_sandbox_without_processes_of_its_own() {
    requires_root();
    let options = [
        "-v",
        "-t",
        "127.0.0.1:0",
        "--contain",
        "--sandbox=caps",
        "--kill-after=200ms",
    ];
    let skd = without_groups(Skd::new(options), "").run_with("sh", ["-c", ESCAPES[2].1]);
    skd.wait_for_log("skd as a subreaper");
    let mut client = skd.connect();
    ids(&client);
    let is_sleep = |pid: &i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name == "sleep\n"
    };
    wait_until("it has left one", || skd.processes().iter().any(is_sleep));
    client.write_all(b"\n").unwrap();
    rest(client);
    wait_until("it is ended", || !skd.processes().iter().any(is_sleep));
}

#[test]
fn a_subreaper_leaves_alone_what_is_not_of_a_handler() {
    requires_root();
    let directory = Directory::new();
    let options = [
        "-v",
        "-t",
        "127.0.0.1:0",
        "--contain",
        "--sandbox=mount,user",
        "--kill-after=100ms",
    ];
    // A program that was started before skd by the same process, and one more in its own session.
    // What handlers write is copied by another process, since the log is a file.
    let log = directory.name("log");
    let before = format!("exec 2>>{log}; sleep 1001 & setsid sleep 1002 &");
    let skd = without_groups(Skd::new(options), &before).throttle(Duration::ZERO);
    let script = "while read -r line; do echo $line >&2; echo $line; done";
    let skd = skd.run_with("sh", ["-c", script]);
    let written = |word: &str| fs::read_to_string(&log).unwrap_or_default().contains(word);
    wait_until("it is a subreaper", || written("skd as a subreaper"));
    let named = |name: &str| {
        let is_it = |pid: &i32| {
            let read = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            read.starts_with(name.as_bytes())
        };
        skd.processes().into_iter().find(is_it)
    };
    let helpers = ["sleep\x001001", "sleep\x001002"];
    let helpers = helpers.map(|name| wait_for("a helper", || named(name)));
    let mut client = skd.connect();
    echo(&mut client, b"one\n");
    for count in 1..=2 {
        skd.signal(Signal::SIGUSR2);
        let upgraded = || {
            let text = fs::read_to_string(&log).unwrap_or_default();
            text.matches("Upgraded from").count() == count
        };
        wait_until("it is upgraded", upgraded);
        // Looked at more than once.
        for word in ["two", "three"] {
            thread::sleep(Duration::from_millis(700));
            let word = format!("{word}-{count}");
            echo(&mut client, format!("{word}\n").as_bytes());
            wait_until("it is copied", || written(&word));
        }
        assert!(helpers.iter().all(|pid| exists(*pid)), "of a start before");
    }
}
