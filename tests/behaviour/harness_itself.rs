//! What the other tests assume about the harness, with programs that aren't skd.

use crate::harness::{
    Directory, MARK, Namespace, SignalMasks, Skd, Stream, Syslog, Terminal, assert_idle,
    descriptors, environment, exists, ids, limit, process_group, requires_root, session,
    signal_masks, wait_for, wait_until, watch,
};
use nix::errno::Errno;
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

/// The builder with sh instead of skd.
fn shell(line: &str) -> Skd {
    Skd::new(["-c", line]).binary("/bin/sh")
}

#[test]
fn gives_status_and_output() {
    let output = shell("echo out; echo err >&2; printf unfinished; exit 3").end();
    assert_eq!(output.code(), Some(3));
    assert_eq!(output.stdout, "out\nunfinished");
    assert_eq!(output.stderr, "err\n");
}

#[test]
fn leaves_nothing_behind() {
    let directory = Directory::new();
    let running = shell("setsid sleep 1000 & sleep 1000 & echo started; cd /; exec sleep 1000")
        .cwd(directory.path())
        .start("sh");
    running.stdout_line();
    let mut started = Vec::new();
    wait_until("three processes that sleep", || {
        started = running.processes();
        started.len() == 3
            && started
                .iter()
                .all(|&pid| environment(pid).contains_key(MARK))
    });
    drop(running);
    assert!(!started.into_iter().any(exists));
}

#[test]
fn prepares_the_child_as_requested() {
    let (reader, _writer) = std::io::pipe().unwrap();
    let running = shell("umask; echo $A $B; exec sleep 1000")
        .env("A", "1")
        .env("B", "2")
        .env_remove("A")
        .umask(0o27)
        .limit(Resource::RLIMIT_NOFILE, 99, 100)
        .descriptor(7, reader)
        .stdin(Stream::Closed)
        .ignoring(Signal::SIGHUP)
        .blocking(Signal::SIGUSR1)
        .start("sh");
    running.wait_until("sh and sleep", || {
        environment(running.pid()).contains_key(MARK) && running.stdout_lines().len() == 2
    });
    assert_eq!(running.stdout_lines(), ["0027", "2"]);
    let pid = running.pid();
    // Not at once: while a program is being loaded, its libraries are open.
    running.wait_until("descriptors 1, 2 and 7", || {
        descriptors(pid).into_keys().eq([1, 2, 7])
    });
    assert_eq!(
        limit(pid, "Max open files"),
        Some(("99".into(), "100".into()))
    );
    assert_eq!(process_group(pid), Some(pid));
    let masks = signal_masks(pid);
    assert!(SignalMasks::has(masks.ignored, Signal::SIGHUP));
    assert!(!SignalMasks::has(masks.ignored, Signal::SIGPIPE));
    assert!(SignalMasks::has(masks.blocked, Signal::SIGUSR1));
    running.signal(Signal::SIGKILL);
    assert_eq!(
        running.wait_with_output().killed_by(),
        Some(Signal::SIGKILL)
    );
}

#[test]
fn makes_system_calls_fail() {
    crate::harness::requires_command("perl");
    // The result of the call for an empty range, without the flag and with it.
    let script = "for my $flag (0, 2) { print syscall($ARGV[0], 4000, 4000, $flag) ? \"$!\\n\" : \"ok\\n\" }";
    let call = libc::SYS_close_range.to_string();
    let perl = || Skd::new(["-e", script, &call]).binary("/usr/bin/perl");
    assert_eq!(perl().end().stdout, "ok\nok\n");
    let skd = perl().refusing(libc::SYS_close_range, Errno::ENOSYS);
    assert_eq!(skd.end().stdout, "Function not implemented\n".repeat(2));
    let skd = perl()
        .refusing(libc::SYS_pidfd_open, Errno::ENOSYS)
        .refusing_bits(libc::SYS_close_range, 2, 2, Errno::EINVAL);
    assert_eq!(skd.end().stdout, "ok\nInvalid argument\n");
}

#[test]
fn starts_as_another_user() {
    requires_root();
    let running = shell("echo up; exec sleep 1000")
        .user(65534, 65533, [65532])
        .start("sh");
    running.stdout_line();
    let (users, groups, others) = ids(running.pid());
    assert_eq!((users, groups), (vec![65534; 4], vec![65533; 4]));
    assert_eq!(others, [65532]);
}

#[test]
fn types_and_hangs_up() {
    let mut terminal = Terminal::new();
    let running = shell("echo up > /dev/tty; exec cat")
        .controlled_by(&terminal)
        .stdin(terminal.end())
        .start("sh");
    terminal.wait_for("up");
    assert_eq!(session(running.pid()), Some(running.pid()));
    terminal.hang_up();
    let status = running.wait_with_output();
    assert_eq!(status.killed_by(), Some(Signal::SIGHUP));
}

#[test]
fn has_namespaces_of_its_own() {
    let namespace = Namespace::new();
    namespace.private_dev();
    namespace.add_address("10.9.8.7/32");
    namespace.replace_file("/etc/hosts", "10.9.8.7 somewhere\n");
    namespace.sysctl("net.core.somaxconn", "17");
    assert!(!namespace.path("/dev/log").exists());
    namespace.shell("test -c /dev/null && grep -q somewhere /etc/hosts && ! test -e /dev/log");
    assert_eq!(namespace.shell("cat /proc/sys/net/core/somaxconn"), "17\n");

    let directory = Directory::new();
    for running in [
        shell("ip -o address; pwd; cat /etc/hosts; echo end").inside(&namespace),
        shell("ip -o address; pwd; cat /etc/hosts; echo end").wrapper(namespace.prefix()),
    ]
    .map(|skd| skd.cwd(directory.path()).start("sh"))
    {
        running.wait_for_line("the end", |line| line.text == "end");
        let text = running.stdout_lines().join("\n");
        for expected in ["10.9.8.7", "somewhere", directory.path().to_str().unwrap()] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }
    drop(namespace);
}

#[test]
fn enters_namespaces() {
    requires_root();
    let namespace = Namespace::new();
    namespace.add_address("10.9.8.7/32");
    namespace.tmpfs("/mnt");
    let port = namespace.enter(|| {
        std::fs::write("/mnt/inside", "1").unwrap();
        let listener = std::net::TcpListener::bind("10.9.8.7:0").unwrap();
        listener.local_addr().unwrap().port()
    });
    assert!(port > 0);
    assert!(!std::path::Path::new("/mnt/inside").exists());
    assert!(namespace.path("/mnt/inside").exists());
}

#[test]
fn stands_in_for_syslog() {
    let namespace = Namespace::new();
    namespace.private_dev();
    let syslog = Syslog::bind(namespace.path("/dev/log"));
    let send = |text: &str| {
        let socket = UnixDatagram::unbound().unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.send_to(text.as_bytes(), namespace.path("/dev/log"))
    };
    send("<29>tag: one").unwrap();
    assert_eq!(syslog.wait_for("one").priority(), Some(29));
    syslog.stick();
    wait_until("the queue is full", || send("<29>tag: two").is_err());
    assert!(syslog.logged("two").is_empty());
    syslog.unstick();
    syslog.wait_for("two");
    syslog.crash();
    send("<29>tag: three").unwrap_err();
    syslog.restart();
    send("<29>tag: four").unwrap();
    syslog.wait_for("four");
    assert!(syslog.logged("three").is_empty());
}

#[test]
fn finds_the_process_behind_a_wrapper() {
    let wrapper = ["sh", "-c", "\"$@\" & wait", "sh"];
    let running = Skd::new([""; 0])
        .binary("/bin/sleep")
        .wrapper(wrapper)
        .start("1000");
    let executable = std::fs::read_link(format!("/proc/{}/exe", running.pid())).unwrap();
    assert!(executable.ends_with("sleep"), "{executable:?}");
    assert_eq!(running.processes().len(), 2);
}

#[test]
fn finds_the_daemon() {
    // A program that daemonizes like skd, and leaves a child to init.
    let line = "echo started; setsid sleep 1000 & echo $! > \"$1\"";
    let directory = Directory::new();
    let script = directory.script("daemon", &format!("#!/bin/sh\nshift; {line}\n"));
    let daemon = Skd::new(["-P"])
        .arg(directory.join("pid"))
        .binary(&script)
        .arg("-B")
        .daemon("x");
    assert_eq!(daemon.stdout_lines(), ["started"]);
    assert_eq!(directory.read("pid").trim(), daemon.pid().to_string());
    assert!(daemon.is_running());
    let pid = daemon.pid();
    drop(daemon);
    assert!(!exists(pid));
}

/// Programs that do not wait as they should, each with its behaviour.
const BUSY: &[(&str, &str)] = &[
    ("spins", "my $n = 0; while (1) { $n++ }"),
    (
        "polls every millisecond",
        "while (1) { select(undef, undef, undef, 0.001) }",
    ),
];

#[test]
fn tells_a_process_that_waits_from_one_that_is_busy() {
    crate::harness::requires_command("perl");
    let perl = |script: &str| {
        let running = Skd::new(["-e", &format!("$| = 1; print \"up\\n\"; {script}")])
            .binary("/usr/bin/perl")
            .start_bare();
        running.stdout_line();
        running
    };
    for script in [
        "sleep 1000",
        // Like a daemon that tries again.
        "while (1) { select(undef, undef, undef, 0.1) }",
    ] {
        assert_idle(&[perl(script).pid()]);
    }
    let waits = perl("sleep 1000");
    for (what, script) in BUSY {
        let busy = perl(script);
        let all = [waits.pid(), busy.pid()];
        // On a machine that keeps it from running it may pass once.
        let seen = wait_for(what, || watch(&all, Duration::from_secs(1)).err());
        // By its ticks or by its switches: a process that spins on an idle machine has none.
        let its = [":", ","].map(|end| format!("\n  process {}{end}", busy.pid()));
        assert!(its.iter().any(|its| seen.contains(its)), "{what}: {seen}");
    }
    // It becomes busy while it is watched.
    let soon = perl("sleep 2; while (1) { select(undef, undef, undef, 0.001) }");
    let seen = wait_for("it is seen to be busy", || {
        watch(&[soon.pid()], Duration::from_millis(200)).err()
    });
    assert!(seen.contains("(at most "), "{seen}");
    // It ends while it is watched.
    let ends = perl("sleep 1");
    let seen = wait_for("it is seen to have ended", || {
        watch(&[ends.pid()], Duration::from_millis(200)).err()
    });
    assert!(
        seen.contains(&format!("process {} has ended", ends.pid())),
        "{seen}"
    );
}
