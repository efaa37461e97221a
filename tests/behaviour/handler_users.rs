//! `--user`: handlers become another user than skd, and can't reach it.

use crate::harness::{
    Directory, Running, Skd, Terminal, Way, capabilities, ids, receive, requires_command,
    requires_root, session, status_field, talk, tampering, threads, time_limit,
};
use nix::sys::signal::Signal;
use std::io::Write;
use std::net::TcpStream;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;

/// Ids without an account.
const UID: u32 = 61244;
const GID: u32 = 61245;

const SETS: [&str; 4] = ["CapInh", "CapPrm", "CapEff", "CapAmb"];

/// By their numbers in capabilities(7).
const KILL: u64 = 1 << 5;
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;
const CHROOT: u64 = 1 << 18;
#[cfg(target_arch = "x86_64")]
const PTRACE: u64 = 1 << 19;
const NICE: u64 = 1 << 23;
const RESOURCE: u64 = 1 << 24;
const ALWAYS: u64 = KILL | SETGID | SETUID;

fn with_user<const N: usize>(options: [&str; N]) -> Skd {
    let user = format!("{UID}:{GID}");
    Skd::new(["-t", "127.0.0.1:0", "--user", &user])
        .args(options)
        .env("PATH", "/bin:/usr/bin")
}

#[track_caller]
fn handler(skd: &Running) -> (i32, TcpStream) {
    let mut stream = skd.connect();
    stream.write_all(b".").unwrap();
    assert_eq!(receive(&mut stream, 1), b".");
    (skd.wait_for_children(1)[0], stream)
}

/// The capabilities of skd: the same in all its threads, and neither inheritable nor ambient.
#[track_caller]
fn of_skd(pid: i32) -> u64 {
    let sets = SETS.map(|set| capabilities(pid, set));
    assert_eq!([sets[0], sets[1], sets[3]], [0, sets[2], 0]);
    let texts =
        |id| -> Option<Vec<String>> { SETS.iter().map(|set| status_field(id, set)).collect() };
    let own = texts(pid);
    for (thread, _) in threads(pid) {
        // A thread that closes descriptors aside may have ended by now.
        let found = texts(thread);
        assert!(found.is_none() || found == own, "{thread}: {found:?}");
    }
    sets[1]
}

#[track_caller]
fn expect_powerless_user(pid: i32) {
    let (users, groups, supplementary) = ids(pid);
    assert_eq!((users, groups), (vec![UID; 4], vec![GID; 4]));
    assert_eq!(supplementary, [GID]);
    assert_eq!(SETS.map(|set| capabilities(pid, set)), [0; 4]);
}

#[test]
fn skd_stays_root_with_the_capabilities_that_it_needs() {
    requires_root();
    let root = Directory::public();
    root.install(&["/bin/cat"]);
    let root = root.name("");
    let bounding = capabilities(std::process::id().try_into().unwrap(), "CapBnd");
    for (options, expected) in [
        (&[][..], ALWAYS),
        (&["-v", "-t", "127.0.0.1:0"], ALWAYS),
        (&["--no-new-privs"], ALWAYS),
        (&["--chroot", root.as_str()], ALWAYS | CHROOT),
        (&["--nice", "19", "--limit", "nofile=99"], ALWAYS),
        (&["--nice", "-5"], ALWAYS | NICE),
        (&["--limit", "core=3:unlimited"], ALWAYS | RESOURCE),
        #[cfg(target_arch = "x86_64")]
        (&["--warm", "1"], ALWAYS | PTRACE),
        #[cfg(target_arch = "x86_64")]
        (&["--fork-server"], ALWAYS | PTRACE),
    ] {
        // A container may lack the right to raise limits.
        if expected & !bounding != 0 {
            continue;
        }
        let skd = with_user([])
            .args(options)
            .limit(nix::sys::resource::Resource::RLIMIT_CORE, 1, 2)
            .run("/bin/cat");
        assert_eq!(ids(skd.pid()).0, [0; 4], "{options:?}");
        assert_eq!(of_skd(skd.pid()), expected, "{options:?}");
        // Handlers' set-user-id programs need it.
        let kept = if options.contains(&"--no-new-privs") {
            expected
        } else {
            bounding
        };
        assert_eq!(capabilities(skd.pid(), "CapBnd"), kept, "{options:?}");
        assert_eq!(talk(skd.connect(), b"served"), b"served");
        // Its memory is closed to processes without capabilities, even of root.
        let owner = std::fs::metadata(format!("/proc/{}/mem", skd.pid())).unwrap();
        assert_eq!(owner.uid(), 0);
        assert_eq!(skd.stop().code(), Some(0));
    }
}

#[test]
fn nothing_that_skd_was_started_with_reaches_handlers() {
    requires_root();
    requires_command("setpriv");
    let passed_on = "+net_bind_service,+dac_override,+setuid,+setgid";
    let inherited = ["--inh-caps", passed_on, "--ambient-caps", passed_on];
    let odd = ["--securebits", "+no_setuid_fixup"];
    for words in [
        &[][..],
        &inherited,
        &odd,
        &[odd, [inherited[0], inherited[1]]].concat(),
    ] {
        let skd = with_user([])
            .user(0, 0, [0, 4, 20])
            .wrapper(["setpriv"].iter().chain(words).copied())
            .run("cat");
        let (handler, _stream) = handler(&skd);
        expect_powerless_user(handler);
        assert_eq!(of_skd(skd.pid()), ALWAYS, "{words:?}");
    }
    // A bit that neither skd nor a handler could clear.
    with_user([])
        .wrapper([
            "setpriv",
            "--securebits",
            "+no_setuid_fixup,+no_setuid_fixup_locked",
        ])
        .start("cat")
        .expect_refusal(1, &["not dropped in full", "securebit"]);
}

#[test]
fn a_step_that_does_nothing_ends_the_start() {
    requires_root();
    requires_command("strace");
    for call in ["setgroups", "setresgid", "setresuid", "capset"] {
        for options in [&["-v"][..], &["-B"][..]] {
            let directory = Directory::public();
            with_user([
                "-l",
                &directory.name("socket"),
                "-P",
                &directory.name("pid"),
            ])
            .args(options)
            .user(0, 0, [0, 4])
            .wrapper(tampering(call, "retval=0"))
            .start("cat")
            .expect_refusal(1, &["not dropped in full"]);
            assert_eq!(directory.names(), [""; 0], "{call} {options:?}");
        }
    }
}

#[test]
fn a_process_of_another_user_needs_three_capabilities() {
    requires_root();
    requires_command("setpriv");
    let start = |set: &str| {
        let ids = [
            format!("--reuid={}", UID + 1),
            format!("--regid={}", GID + 1),
        ];
        let sets = [format!("--inh-caps={set}"), format!("--ambient-caps={set}")];
        with_user([])
            .wrapper(
                ["setpriv".to_owned(), "--clear-groups".to_owned()]
                    .iter()
                    .chain(&ids)
                    .chain(&sets),
            )
            .start("cat")
    };
    let skd = start("+setuid,+setgid,+kill,+chown");
    skd.wait_ready();
    assert_eq!(of_skd(skd.pid()), ALWAYS);
    let (pid, stream) = handler(&skd);
    expect_powerless_user(pid);
    drop(stream);
    skd.stop();
    start("+setuid,+setgid").expect_refusal(1, &["--user", "CAP_KILL"]);
    // A program that replaces skd isn't ended by it.
    let ids = format!("--reuid={}", UID + 1);
    let groups = format!("--regid={}", GID + 1);
    let sets = [
        "--inh-caps=+setuid,+setgid",
        "--ambient-caps=+setuid,+setgid",
    ];
    let user = format!("{UID}:{GID}");
    let alone = Skd::new(["--user", &user, "id", "-u"]).wrapper(
        ["setpriv", "--clear-groups", &ids, &groups]
            .into_iter()
            .chain(sets),
    );
    alone.end().expect_code(0);
    for set in ["+setgid,+kill", "+setuid,+kill", "-all"] {
        start(set).expect_refusal(1, &["--user", "CAP_SETUID", "Operation not permitted"]);
    }
}

/// A handler in Perl that tries to do things to its parent, and prints what it could.
fn attacker() -> String {
    let calls = [
        ("SEIZE", libc::SYS_ptrace, "0x4206, $skd, 0, 0"),
        ("ATTACH", libc::SYS_ptrace, "16, $skd, 0, 0"),
        ("prlimit", libc::SYS_prlimit64, "$skd, 7, 0, $buffer"),
        ("affinity", libc::SYS_sched_setaffinity, "$skd, 8, $mask"),
        ("scheduler", libc::SYS_sched_setscheduler, "$skd, 5, $zero"),
        ("nice", libc::SYS_setpriority, "0, $skd, 19"),
        ("io priority", libc::SYS_ioprio_set, "1, $skd, 0x6000"),
        ("group", libc::SYS_setpgid, "$skd, $$"),
        ("kcmp", libc::SYS_kcmp, "$skd, $skd, 0, 0, 0"),
        (
            "read",
            libc::SYS_process_vm_readv,
            "$skd, $vector, 1, $vector, 1, 0",
        ),
        ("getfd", libc::SYS_pidfd_getfd, "$pidfd, 0, 0"),
        ("pidfd", libc::SYS_pidfd_send_signal, "$pidfd, 0, 0, 0"),
        ("root", libc::SYS_setuid, "0"),
        ("group 0", libc::SYS_setgid, "0"),
        ("groups", libc::SYS_setgroups, "0, 0"),
    ];
    let calls: String = calls
        .iter()
        .map(|(name, number, arguments)| {
            format!("told('{name}', syscall({number}, {arguments}) >= 0);\n")
        })
        .collect();
    let pidfd_open = libc::SYS_pidfd_open;
    format!(
        r#"
        my ($skd, $buffer, $mask, $zero) = (getppid(), "\0" x 64, pack("Q", 1), pack("l", 0));
        my $vector = pack("QQ", unpack("Q", pack("p", $buffer)), 8);
        my $pidfd = syscall({pidfd_open}, $skd, 0);
        sub told {{ my ($name, $done) = @_; print "$name: ", ($done ? "done" : "refused"), "\n" }}
        {calls}
        told("signal $_", kill($_, $skd)) for 0, qw(CONT USR1 HUP USR2 TERM STOP KILL);
        for (qw(mem environ maps fd/0 exe root cwd auxv io stack syscall)) {{
            told($_, open(my $file, "<", "/proc/$skd/$_"));
        }}
        for (qw(oom_score_adj coredump_filter comm)) {{
            told($_, open(my $file, ">", "/proc/$skd/$_"));
        }}
        told("fd", opendir(my $directory, "/proc/$skd/fd"));
    "#
    )
}

#[test]
fn a_handler_reaches_nothing_of_skd() {
    requires_root();
    requires_command("perl");
    let skd = with_user(["-v"]).run_with("perl", ["-e", &attacker()]);
    let answer = String::from_utf8(talk(skd.connect(), b"")).unwrap();
    assert_eq!(answer.lines().count(), 38, "{answer}");
    for line in answer.lines() {
        assert!(line.ends_with(": refused"), "{line}");
    }
    assert_eq!(talk(skd.connect(), b"").len(), answer.len());
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn an_upgrade_gives_a_handler_no_moment() {
    requires_root();
    requires_command("perl");
    // It tries to trace skd in the moment of an exec, for as long as its client stays.
    let seize = libc::SYS_ptrace;
    let script = format!(
        "$| = 1; my $skd = getppid(); print 'tries'; vec(my $set = '', 0, 1) = 1; \
         until (select(my $ready = $set, undef, undef, 0)) {{ \
         for (1..1000) {{ syscall({seize}, 0x4206, $skd, 0, 0) < 0 or print('traced') }} }}"
    );
    let skd = with_user(["-v"]).run_with("perl", ["-e", &script]);
    let mut stream = skd.connect();
    assert_eq!(receive(&mut stream, 5), b"tries");
    for round in 1..=5 {
        skd.signal(Signal::SIGUSR2);
        skd.wait_for_logs("Upgraded from skd ", round);
        assert_eq!(of_skd(skd.pid()), ALWAYS);
    }
    assert_eq!(talk(stream, b""), b"");
}

#[test]
fn a_root_directory_is_that_of_handlers_alone() {
    requires_root();
    requires_command("busybox");
    let root = Directory::public();
    root.install(&["/bin/busybox"]);
    root.write("only-here", "inside\n");
    for (owner, mode) in [(0, 0o755), (UID, 0o700)] {
        std::os::unix::fs::chown(root.path(), Some(owner), None).unwrap();
        root.chmod("", mode);
        let skd = with_user(["--chroot"]).arg(root.path()).run_with(
            "/bin/busybox",
            ["sh", "-c", "busybox pwd; busybox cat /only-here; read it"],
        );
        let mut stream = skd.connect();
        assert_eq!(receive(&mut stream, 9), b"/\ninside\n");
        let handler = skd.wait_for_children(1)[0];
        expect_powerless_user(handler);
        let link = |pid: i32| std::fs::read_link(format!("/proc/{pid}/root")).unwrap();
        assert_eq!(link(handler), root.path());
        assert_eq!(link(skd.pid()), std::path::Path::new("/"));
        assert_eq!(talk(stream, b"\n"), b"");
        assert_eq!(skd.stop().code(), Some(0));
    }
}

#[test]
fn a_program_is_looked_up_in_the_root_directory_of_handlers() {
    requires_root();
    let root = Directory::public();
    root.install(&["/bin/cat"]);
    let refused = |program: &str, code, text: &str| {
        with_user(["--chroot"])
            .arg(root.path())
            .start(program)
            .expect_refusal(code, &[program, text]);
    };
    refused("sleep", 127, "PATH");
    refused("/bin/sleep", 127, "No such file");
    root.script("closed", "#!/bin/cat\n");
    root.chmod("closed", 0o700);
    refused("/closed", 126, "Permission denied");
    root.script("odd", "#!/bin/bush\n");
    refused("/odd", 126, "interpreter /bin/bush");
    with_user(["--chroot", "/no/such/directory"])
        .start("cat")
        .expect_refusal(1, &["chroot", "/no/such/directory"]);
}

#[test]
fn handlers_have_no_terminal_of_skds() {
    requires_root();
    requires_command("perl");
    let mut terminal = Terminal::new();
    // What it could read from, once keys were typed: the terminal of its session, and that of its standard error.
    let script = "use Fcntl; $| = 1; <STDIN>; print 'opened' if open(my $tty, '+<', '/dev/tty'); \
                  open(my $error, '<&=', 2); fcntl($error, F_SETFL, O_NONBLOCK); \
                  print 'read' if sysread($error, my $keys, 100); print 'done'";
    let skd = with_user(["-v"])
        .controlled_by(&terminal)
        .stdin(terminal.end())
        .stderr(terminal.end())
        .run_with("perl", ["-e", script]);
    let stream = skd.connect();
    terminal.wait_for("Accepted connection");
    let handler = skd.wait_for_children(1)[0];
    skd.wait_until("it leads a session", || session(handler) == Some(handler));
    terminal.type_in(b"secret\n");
    let answer = String::from_utf8(talk(stream, b"")).unwrap();
    assert!(answer.ends_with("done"), "{answer}");
    assert!(
        !answer.contains("opened") && !answer.contains("read"),
        "{answer}"
    );
}

/// What a handler that runs as skd's user is told of its process group and session, and of /dev/tty.
fn membership(skd: &Running) -> String {
    String::from_utf8(talk(skd.connect(), b"go\n")).unwrap()
}

#[test]
fn handlers_of_skds_user_have_a_session_where_there_is_a_terminal() {
    requires_command("perl");
    let script = format!(
        "<STDIN>; print 'group ', getpgrp() == $$ ? 'own' : 'other', \
         ', session ', syscall({}, 0) == $$ ? 'own' : 'other', \
         ', terminal ', open(my $tty, '+<', '/dev/tty') ? 'opened' : $! + 0",
        libc::SYS_getsid
    );
    let nothing = libc::ENXIO;
    for way in Way::ALL {
        let skd = || {
            Skd::new(["-t", "127.0.0.1:0"])
                .args(way.options())
                .env("PATH", "/bin:/usr/bin")
        };
        let terminal = Terminal::new();
        let inside = skd()
            .controlled_by(&terminal)
            .stdin(terminal.end())
            .run_with("perl", ["-e", &script]);
        let wanted = format!("group own, session own, terminal {nothing}");
        assert_eq!(membership(&inside), wanted, "{way:?}");
        assert_eq!(membership(&inside), wanted, "{way:?}");
        let alone = skd().without_terminal().run_with("perl", ["-e", &script]);
        let wanted = format!("group own, session other, terminal {nothing}");
        assert_eq!(membership(&alone), wanted, "{way:?}");
        assert_eq!(membership(&alone), wanted, "{way:?}");
    }
}

#[test]
fn a_supervised_program_of_another_user_only_writes_to_a_terminal() {
    requires_root();
    let mut terminal = Terminal::new();
    let script = "sed -n 's/^flags:.*\\(.\\)$/access \\1/p' /proc/self/fdinfo/1 /proc/self/fdinfo/2 >&2; \
                  echo done; sleep 1000";
    for option in ["--user", "--daemon-user"] {
        let skd = Skd::new(["-S", option, &format!("{UID}:{GID}")])
            .stdout(terminal.end())
            .stderr(terminal.end())
            .start_with("sh", ["-c", script]);
        let screen = terminal.wait_for("done");
        assert_eq!(screen.matches("access 1").count(), 2, "{option}: {screen}");
        skd.stop();
    }
}

#[test]
fn a_terminal_that_handlers_can_read_is_said_at_the_start() {
    requires_root();
    let mut terminal = Terminal::new();
    // Root's, and not that of the session: its second descriptor can't be had.
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .user(UID, GID, [])
        .stderr(terminal.end())
        .run("cat");
    let screen = terminal.wait_for("use another");
    let expected = "skd: note: handlers can read what is typed at the terminal of standard error: \
                    it can't be opened for writing alone (Permission denied); use another";
    assert!(screen.contains(expected), "{screen}");
    assert_eq!(talk(skd.connect(), b"served"), b"served");
}

/// Joins a session keyring with a key, as a login does, and becomes what its arguments say.
fn login() -> Vec<String> {
    let (add_key, keyctl) = (libc::SYS_add_key, libc::SYS_keyctl);
    let script = format!(
        "syscall({keyctl}, 1, my $name = \"skd-test\"); \
         syscall({add_key}, my $type = \"user\", my $key = \"skd:secret\", my $text = \"hunter2\", 7, -3) > 0 \
         or die \"no key: $!\"; exec @ARGV"
    );
    ["perl", "-e", &script].map(str::to_owned).to_vec()
}

#[test]
fn handlers_share_no_session_keyring() {
    requires_root();
    requires_command("perl");
    let (add_key, keyctl) = (libc::SYS_add_key, libc::SYS_keyctl);
    let script = format!(
        "sub found {{ my $found = syscall({keyctl}, 10, -3, my $type = 'user', $_[0], 0); \
         print $found > 0 ? \"$_[0] found\\n\" : \"$_[0] missing\\n\" }} \
         found(my $root = 'skd:secret'); found(my $other = 'skd:left'); \
         syscall({add_key}, my $type = 'user', my $key = 'skd:left', my $text = 'x', 1, -3); \
         print syscall({keyctl}, $_, -3) < 0 ? \"refused\\n\" : \"done\\n\" for 3, 7, 21; \
         print syscall({keyctl}, 5, -3, 0x3f3f3f3f) < 0 ? \"refused\\n\" : \"done\\n\""
    );
    let expected = "skd:secret missing\nskd:left missing\nrefused\nrefused\nrefused\nrefused\n";
    for option in ["--user", "--daemon-user"] {
        let user = format!("{UID}:{GID}");
        let skd = Skd::new(["-t", "127.0.0.1:0", option, &user])
            .wrapper(login())
            .run_with("perl", ["-e", &script]);
        for _ in 0..2 {
            let answer = String::from_utf8(talk(skd.connect(), b"")).unwrap();
            assert_eq!(answer, expected, "{option}");
        }
    }
}

#[test]
fn a_supervised_program_and_one_in_place_have_the_user_too() {
    requires_root();
    let user = format!("{UID}:{GID}");
    let skd = Skd::new(["-S", "--user", &user]).start_with("sleep", ["1000"]);
    let runs = |pid: &i32| {
        let command = crate::harness::command(*pid);
        command.first().is_some_and(|word| word == "sleep")
    };
    let program = crate::harness::wait_for("the program", || skd.children().into_iter().find(runs));
    expect_powerless_user(program);
    assert_eq!(session(program), Some(program));
    assert_eq!(of_skd(skd.pid()), ALWAYS);
    skd.stop();
    let directory = Directory::public();
    let socket = directory.join("socket");
    let skd = Skd::new(["-S", "--user", &user, "-l"])
        .arg(&socket)
        .start_with(
            "perl",
            [
                "-e",
                "accept(my $client, STDIN); syswrite($client, $>); sleep 1000",
            ],
        );
    let mut client = crate::harness::wait_for("it listens", || UnixStream::connect(&socket).ok());
    assert_eq!(receive(&mut client, 5), UID.to_string().as_bytes());
    skd.stop();
    let skd = Skd::new(["--user", &user]).start_with("sleep", ["1000"]);
    skd.wait_until("it has executed", || runs(&skd.pid()));
    expect_powerless_user(skd.pid());
}

#[test]
fn a_handler_that_ignores_the_end_is_killed_nevertheless() {
    requires_root();
    let script = "trap '' TERM; printf .; exec sleep 1000";
    let skd = with_user(["-v", "--timeout", &time_limit(1), "--kill-after", "100ms"])
        .run_with("sh", ["-c", script]);
    let mut stream = skd.connect();
    assert_eq!(receive(&mut stream, 1), b".");
    assert_eq!(talk(stream, b""), b"");
    skd.wait_until("it is reaped", || skd.children().is_empty());
    assert_eq!(status_field(skd.pid(), "NoNewPrivs").as_deref(), Some("0"));
}

/// What a client with these ids hears on a unix socket.
#[track_caller]
fn as_client(socket: &std::path::Path, ids: &[&str]) -> String {
    let script = "use IO::Socket::UNIX; my $s = IO::Socket::UNIX->new(Peer => $ARGV[0]) or die $!; \
                  shutdown($s, 1); print while <$s>";
    let output = std::process::Command::new("setpriv")
        .args(ids)
        .args(["perl", "-e", script])
        .arg(socket)
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_handler_becomes_the_user_of_its_client() {
    requires_root();
    requires_command("setpriv");
    requires_command("perl");
    let directory = Directory::public();
    let socket = directory.join("socket");
    let script = "id -u; id -g; id -G; echo ${HOME-none} $PEERUID; grep -E 'Cap(Inh|Prm|Eff|Amb)' /proc/self/status; \
                  kill -0 $PPID 2>/dev/null && echo reached";
    let skd = Skd::new(["-v", "--as-peer", "--unix-mode", "666", "-l"])
        .arg(&socket)
        .env("PATH", "/bin:/usr/bin")
        .env("HOME", "/root")
        .throttle(std::time::Duration::ZERO)
        .run_with("sh", ["-c", script]);
    assert_eq!(of_skd(skd.pid()), ALWAYS);
    let powerless: String = ["Inh", "Prm", "Eff", "Amb"]
        .iter()
        .map(|set| format!("Cap{set}:\t0000000000000000\n"))
        .collect();
    for round in 0..4 {
        let (uid, gid) = (61250 + round, 61260 + round);
        let ids = [
            format!("--reuid={uid}"),
            format!("--regid={gid}"),
            "--groups=61270,61271".to_owned(),
        ];
        let answer = as_client(&socket, &ids.each_ref().map(String::as_str));
        let expected = format!("{uid}\n{gid}\n{gid} 61270 61271\nnone {uid}\n{powerless}");
        assert_eq!(answer, expected);
        let lone = as_client(&socket, &[&ids[0], &ids[1], "--clear-groups"]);
        assert!(
            lone.starts_with(&format!("{uid}\n{gid}\n{gid}\nnone")),
            "{lone}"
        );
    }
    for (ids, why) in [
        (&["--clear-groups"][..], "it is root"),
        (
            &["--reuid=65534", "--regid=61251", "--clear-groups"],
            "unknown here",
        ),
        (
            &["--reuid=61251", "--regid=65534", "--clear-groups"],
            "unknown here",
        ),
        (
            &["--reuid=61251", "--regid=61251", "--groups=65534"],
            "unknown here",
        ),
    ] {
        assert_eq!(as_client(&socket, ids), "", "{ids:?}");
        skd.wait_for_log(why);
    }
    skd.wait_for_logs("--as-peer: no handler for local connection", 4);
}

#[test]
fn the_log_is_opened_with_no_more_rights_than_skd_keeps() {
    requires_root();
    let directory = Directory::public();
    let closed = directory.join("closed");
    std::fs::create_dir(&closed).unwrap();
    std::os::unix::fs::chown(&closed, Some(UID + 1), Some(GID + 1)).unwrap();
    std::fs::set_permissions(&closed, PermissionsExt::from_mode(0o700)).unwrap();
    let log = format!(">>{}", closed.join("log").display());
    let socket = directory.name("socket");
    let user = format!("{UID}:{GID}");
    for options in [
        &["--as-peer", "-l", &socket][..],
        &["--user", &user, "-t", "127.0.0.1:0"],
        &["--daemon-user", &user, "-t", "127.0.0.1:0"],
    ] {
        for check in [&["--check"][..], &[]] {
            let skd = Skd::new(check)
                .args(["-L", &log])
                .args(options.iter().copied());
            let end = skd.arg("cat").end();
            end.expect_refusal(1, &["--log", "Permission denied"]);
        }
    }
}

#[test]
fn only_clients_of_unix_streams_have_a_user() {
    for options in [
        &["-t", "0"][..],
        &["-l", "s", "-t", "0"],
        &["-l", "s", "-d"],
        &["-l", "s", "--user", "1:1"],
        &["-l", "s", "--daemon-user", "1:1"],
        &["-l", "s", "--warm", "1"],
        &["-l", "s", "-S"],
        &["-l", "s", "--wait"],
        &["--systemd"],
        &[],
    ] {
        crate::harness::run_to_end([&["--as-peer"], options, &["cat"]].concat())
            .expect_code(2)
            .expect_stderr(&["--as-peer"]);
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn handlers_of_another_user_are_prestarted() {
    for way in Way::PRESTARTED {
        let skd = with_user(["-v"]).args(way.options()).run("cat");
        for _ in 0..3 {
            let (mut client, handler) = way.connect(&skd);
            crate::harness::echo(&mut client, b"served");
            expect_powerless_user(handler);
        }
        way.wait_idle(&skd);
        assert_eq!(skd.troubles(), [""; 0]);
        assert_eq!(skd.stop().code(), Some(0));
    }
}
