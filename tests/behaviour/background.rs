//! `-B`: the launcher returns when the daemon serves, or reports why it doesn't.

use crate::harness::{
    Directory, Namespace, Program, Running, Skd, Stream, Syslog, Terminal, command, connect_unix,
    descriptors, each_program, is_in_call, process_group, requires_root, session, status_field,
    talk, tampering, wait_for, wait_for_text,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::process::Command;

#[test]
fn the_launcher_returns_when_the_daemon_serves() {
    each_program(|program| {
        let directory = Directory::new();
        for round in 0..20 {
            let socket = directory.join(format!("socket{round}"));
            let daemon = program.skd(["-B", "-l"]).arg(&socket).daemon("cat");
            // At once: a connection that is refused fails the test.
            assert_eq!(talk(connect_unix(&socket), b"there"), b"there");
            daemon.stop();
        }
    });
}

#[test]
fn the_port_is_printed_before_the_launcher_returns() {
    let launcher = Skd::new(["-Bt", "127.0.0.1:0"]).start("cat");
    assert_eq!(launcher.wait().code(), Some(0));
    assert_eq!(launcher.stdout_lines().len(), 1);
    assert_eq!(talk(launcher.connect(), b"there"), b"there");
}

/// A start that must fail: its options, and the expected status and messages.
struct Failure {
    options: Vec<String>,
    prog: &'static str,
    code: i32,
    says: Vec<String>,
}

/// Tries a failing start in the foreground and in the background, in a directory that contains `before`. All files
/// that it names lie there too.
#[track_caller]
fn expect_nothing_left(directory: &Directory, failure: &Failure) {
    let before = directory.names();
    let log = directory.write("old.log", "old\n");
    let mut with_log = before.clone();
    with_log.push("old.log".into());
    with_log.sort();
    for background in [false, true] {
        for log in [
            &format!(">{}", log.display()),
            &format!(">{}", directory.name("new.log")),
        ] {
            // The last option counts: a case may name a log or a pid file itself.
            let skd = Skd::new(["-v", "-l", &directory.name("socket.mine"), "-L", log])
                .args(["-P", &directory.name("pid.mine")])
                .args(background.then_some("-B"))
                .args(&failure.options)
                .cwd(directory.path())
                .start(failure.prog);
            let says: Vec<&str> = failure.says.iter().map(String::as_str).collect();
            skd.expect_refusal(failure.code, &says);
            assert_eq!(directory.names(), with_log, "left by {:?}", failure.options);
            assert_eq!(directory.read("old.log"), "old\n");
        }
    }
    std::fs::remove_file(log).unwrap();
}

fn failure<const N: usize>(options: [&str; N], code: i32, says: &[&str]) -> Failure {
    Failure {
        options: options.map(str::to_owned).to_vec(),
        prog: "cat",
        code,
        says: says.iter().map(|&text| text.to_owned()).collect(),
    }
}

#[test]
fn a_port_in_use_fails_the_start() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let why = failure(["-t", &address], 1, &[&address, "in use"]);
    expect_nothing_left(&Directory::new(), &why);
}

#[test]
fn a_live_socket_fails_the_start_and_stays() {
    let directory = Directory::new();
    let socket = directory.name("live");
    let _live = UnixListener::bind(&socket).unwrap();
    let why = failure(["-l", &socket], 1, &[&socket]);
    expect_nothing_left(&directory, &why);
    connect_unix(&socket);
}

#[test]
fn a_socket_path_that_cannot_be_used_fails_the_start() {
    let directory = Directory::new();
    let file = directory.write("file", "precious").display().to_string();
    for path in [
        &file,
        &directory.name("missing/socket"),
        &directory.name(&"x".repeat(108)),
    ] {
        let code = if path.len() > 107 { 2 } else { 1 };
        expect_nothing_left(&directory, &failure(["-l", path], code, &[path]));
    }
    assert_eq!(directory.read("file"), "precious");
}

#[test]
fn a_program_that_is_missing_fails_the_start() {
    for prog in ["no-such-program", "./no-such-program", "/no/such/program"] {
        let why = Failure {
            prog,
            // PATH of the tests may name directories that can't be searched.
            options: vec![],
            code: 127,
            says: vec![prog.to_owned()],
        };
        expect_nothing_left(&Directory::new(), &why);
    }
}

#[test]
fn a_program_that_is_not_executable_fails_the_start() {
    let directory = Directory::new();
    directory.write("data", "#!/bin/sh\n");
    directory.script("odd", "#!/no/such/interpreter\n");
    for (prog, says) in [
        ("./data", "Permission denied"),
        ("./odd", "/no/such/interpreter"),
        ("./", "directory"),
        ("/dev/null", "isn't a file"),
    ] {
        let why = Failure {
            prog,
            options: vec![],
            code: 126,
            says: vec![prog.to_owned(), says.to_owned()],
        };
        expect_nothing_left(&directory, &why);
    }
}

#[test]
fn a_locked_pid_file_fails_the_start_and_stays() {
    let directory = Directory::new();
    let pidfile = directory.write("locked", "4321\n");
    let lock = directory.write("locked.lock", "");
    directory.chmod("locked.lock", 0o600);
    let file = File::open(lock).unwrap();
    file.lock().unwrap();
    let pidfile = pidfile.to_str().unwrap();
    let why = failure(["-P", pidfile], 1, &[pidfile, "4321"]);
    expect_nothing_left(&directory, &why);
    assert_eq!(directory.read("locked"), "4321\n");
}

#[test]
fn a_log_file_that_cannot_be_opened_fails_the_start() {
    let directory = Directory::new();
    for log in [directory.name(""), directory.name("missing/log")] {
        for mark in [">", ">>", "> "] {
            let why = failure(["-L", &format!("{mark}{log}")], 1, &["--log", &log]);
            expect_nothing_left(&directory, &why);
        }
    }
}

#[test]
fn surroundings_that_cannot_be_set_fail_the_start() {
    let directory = Directory::new();
    let missing = directory.name("missing");
    expect_nothing_left(
        &directory,
        &failure(["--chdir", &missing], 1, &["--chdir", &missing]),
    );
    directory.write("file", "");
    let file = directory.name("file");
    expect_nothing_left(
        &directory,
        &failure(["--chdir", &file], 1, &["--chdir", &file]),
    );
}

#[test]
fn surroundings_that_are_forbidden_fail_the_start() {
    requires_root();
    for (option, value) in [("--nice", "-20"), ("--limit", "nofile=4096:8192")] {
        for background in ["-v", "-B"] {
            let directory = Directory::public();
            directory.chmod("", 0o777);
            Skd::new([
                "-l",
                &directory.name("socket"),
                "-P",
                &directory.name("pid"),
            ])
            .args([background, option, value])
            .user(61234, 61235, [])
            .limit(nix::sys::resource::Resource::RLIMIT_NOFILE, 256, 1024)
            .start("cat")
            .expect_refusal(1, &[value, "can't be set"]);
            assert_eq!(directory.names(), [""; 0], "{option}");
        }
    }
}

#[test]
fn a_failed_start_without_a_listener_leaves_nothing_either() {
    for (mode, prog, code) in [
        ("-B", "no-such-program", 127),
        ("-v", "no-such-program", 127),
        ("-BS", "no-such-program", 127),
        ("-S", "no-such-program", 127),
        ("-B", "/dev/null", 126),
        ("-S", "/dev/null", 126),
    ] {
        let directory = Directory::new();
        directory.write("old.log", "old\n");
        for log in ["old.log", "new.log"] {
            Skd::new([mode, "-P", "pid", "-L", &format!(">{log}")])
                .cwd(directory.path())
                .start(prog)
                .expect_refusal(code, &[prog]);
            assert_eq!(directory.names(), ["old.log"], "{mode} {prog}");
            assert_eq!(directory.read("old.log"), "old\n");
        }
    }
}

#[test]
fn a_program_that_cannot_be_run_at_the_last_moment_is_reported_to_the_caller() {
    for mode in ["-v", "-B", "-S", "-BS"] {
        let directory = Directory::new();
        directory.script("busy", "#!/bin/sh\n");
        // Found and executable, but open for writing when it is executed.
        let _writer = File::options()
            .append(true)
            .open(directory.join("busy"))
            .unwrap();
        Skd::new([mode, "-P", "pid", "-L", ">log"])
            .cwd(directory.path())
            .start("./busy")
            .expect_refusal(126, &["./busy", "Text file busy"]);
        assert_eq!(directory.names(), ["busy"], "{mode}");
    }
}

#[test]
fn the_original_reports_no_failed_start() {
    each_program(|program| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap().to_string();
        let output = program.skd(["-B", "-t", &address, "cat"]).end();
        assert!(output.stderr.starts_with("skd: "), "{output:?}");
        output.expect_code(match program {
            Program::Ours => 1,
            Program::Original => 0,
        });
    });
}

/// A start in the background that is held up before it listens, and the pid of the future daemon.
fn held_up(directory: &Directory) -> (Running, i32) {
    let skd = Skd::new([
        "-B",
        "-P",
        &directory.name("pid"),
        "-l",
        &directory.name("socket"),
    ])
    .wrapper(tampering("listen", "delay_enter=1000000"))
    .start("cat");
    let listens = |pid: &i32| is_in_call(*pid, libc::SYS_listen);
    let daemon = wait_for("the start is held up", || {
        skd.processes().into_iter().find(listens)
    });
    assert_ne!(daemon, skd.pid(), "that isn't the launcher");
    assert!(directory.join("socket").exists());
    (skd, daemon)
}

#[test]
fn a_launcher_that_is_ended_takes_the_start_with_it() {
    let directory = Directory::new();
    let (skd, _) = held_up(&directory);
    skd.signal(Signal::SIGINT);
    // strace ends last here, with the status of the launcher.
    assert_eq!(skd.wait_with_output().killed_by(), Some(Signal::SIGINT));
    skd.wait_until("no process is left", || skd.processes().is_empty());
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn a_daemon_that_is_killed_before_it_serves_is_a_failed_start() {
    let directory = Directory::new();
    let (skd, daemon) = held_up(&directory);
    kill(Pid::from_raw(daemon), Signal::SIGKILL).unwrap();
    // strace may print lines of its own.
    skd.wait_with_output()
        .expect_code(1)
        .expect_stderr(&["skd: the daemon was killed before it could serve\n"]);
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn the_daemon_leads_a_session_of_its_own() {
    each_program(|program| {
        let terminal = Terminal::new();
        let daemon = program
            .skd(["-t", "127.0.0.1:0"])
            .controlled_by(&terminal)
            .daemon("cat");
        assert_eq!(session(daemon.pid()), Some(daemon.pid()));
        assert_eq!(process_group(daemon.pid()), Some(daemon.pid()));
        // Field 7 of proc(5): no terminal controls it.
        assert_eq!(crate::harness::stat_field(daemon.pid(), 7).unwrap(), "0");
    });
}

#[test]
fn the_daemon_keeps_directory_and_umask() {
    each_program(|program| {
        let directory = Directory::new();
        let daemon = program
            .skd(["-l", "socket"])
            .cwd(directory.path())
            .umask(0o027)
            .daemon_with("sh", ["-c", "pwd; umask"]);
        let pid = daemon.pid();
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        assert_eq!(cwd, directory.path());
        assert_eq!(status_field(pid, "Umask").unwrap(), "0027");
        let answer = talk(connect_unix(directory.join("socket")), b"");
        let expected = format!("{}\n0027\n", directory.path().display());
        assert_eq!(String::from_utf8(answer).unwrap(), expected);
    });
}

#[test]
fn standard_input_and_output_are_dev_null() {
    each_program(|program| {
        let daemon = program
            .skd(["-t", "127.0.0.1:0"])
            .stdin(Stream::Pipe)
            .daemon("cat");
        let open = descriptors(daemon.pid());
        assert_eq!([&open[&0], &open[&1]], ["/dev/null", "/dev/null"]);
    });
}

#[test]
fn standard_error_leaves_a_terminal() {
    each_program(|program| {
        let terminal = Terminal::new();
        let daemon = program
            .skd(["-vt", "127.0.0.1:0"])
            .stdin(terminal.end())
            .stdout(terminal.end())
            .stderr(terminal.end())
            .daemon("cat");
        let open = descriptors(daemon.pid());
        assert_eq!([&open[&0], &open[&1]], ["/dev/null", "/dev/null"]);
        match program {
            Program::Ours => assert_eq!(open[&2], "/dev/null"),
            Program::Original => assert!(open[&2].starts_with("/dev/pts/"), "{open:?}"),
        }
        assert_eq!(talk(daemon.connect(), b"there"), b"there");
    });
}

#[test]
fn standard_error_leaves_a_pipe_and_a_socket_and_stays_on_a_file() {
    each_program(|program| {
        if program.is_ours() {
            let daemon = program.skd(["-vt", "127.0.0.1:0"]).daemon("cat");
            daemon.wait_for_log("skd: note: --background without --log");
            assert_eq!(descriptors(daemon.pid())[&2], "/dev/null");
            let (ours, its) = std::os::unix::net::UnixStream::pair().unwrap();
            let its = std::os::fd::OwnedFd::from(its);
            let daemon = program.skd(["-vt", "127.0.0.1:0"]).stderr(its);
            let daemon = daemon.daemon("cat");
            assert_eq!(descriptors(daemon.pid())[&2], "/dev/null");
            drop(ours);
        }

        let directory = Directory::new();
        let file = File::create(directory.join("errors")).unwrap();
        let daemon = program
            .skd(["-vt", "127.0.0.1:0"])
            .stderr(file)
            .daemon_with("sh", ["-c", "echo from the handler >&2"]);
        talk(daemon.connect(), b"");
        wait_for_text(directory.join("errors"), "Accepted connection from");
        wait_for_text(directory.join("errors"), "from the handler");
    });
}

#[test]
fn a_closed_terminal_does_not_end_the_daemon() {
    each_program(|program| {
        let terminal = Terminal::new();
        let daemon = program
            .skd(["-t", "127.0.0.1:0"])
            .controlled_by(&terminal)
            .stdin(terminal.end())
            .daemon("cat");
        terminal.hang_up();
        assert_eq!(talk(daemon.connect(), b"there"), b"there");
    });
}

/// Runs skd in the shell's `$(…)`, which waits until no process holds the pipe of its output.
fn substituted(skd: Skd) -> Running {
    let line = "out=$(\"$@\" 2>&1); echo \"status $? and '$out'\"";
    skd.wrapper(["sh", "-c", line, "sh"]).start("cat")
}

#[test]
fn the_launcher_closes_its_output_without_a_log() {
    for options in [&["-v"][..], &["-S"]] {
        let directory = Directory::new();
        let socket = directory.name("socket");
        let skd = Skd::new(options).args(["-B", "-l", &socket]);
        let prog: &[&str] = match options {
            ["-S"] => &["sleep", "1000"],
            _ => &["cat"],
        };
        let line = "out=$(\"$@\" 2>&1); echo \"status $? and '$out'\"";
        let shell = skd
            .wrapper(["sh", "-c", line, "sh"])
            .start_with(prog[0], &prog[1..]);
        let said = shell.stdout_line();
        let note = "status 0 and 'skd: note: --background without --log: ";
        assert!(said.starts_with(note), "{said}");
        connect_unix(&socket);
    }
}

#[test]
fn the_launcher_closes_its_output() {
    let directory = Directory::new();
    let (socket, log) = (directory.name("socket"), directory.name("log"));
    let skd = Skd::new(["-vB", "-l", &socket, "-L", &format!(">{log}")]);
    let shell = substituted(skd);
    assert_eq!(shell.stdout_line(), "status 0 and ''");
    assert_eq!(talk(connect_unix(&socket), b"there"), b"there");
}

#[test]
fn the_launcher_closes_its_output_when_it_logs_to_syslog() {
    each_program(|program| {
        let namespace = Namespace::new();
        namespace.private_dev();
        let syslog = Syslog::bind(namespace.path("/dev/log"));
        let directory = Directory::new();
        let (socket, pidfile) = (directory.name("socket"), directory.name("pid"));
        let shell = substituted(
            program
                .skd(["-vB", "-l", &socket, "-L", "tag", "-P", &pidfile])
                .inside(&namespace),
        );
        let connection = if program.is_ours() {
            assert_eq!(shell.stdout_line(), "status 0 and ''");
            connect_unix(&socket)
        } else {
            let connect = || std::os::unix::net::UnixStream::connect(&socket).ok();
            wait_for("it listens", connect)
        };
        assert_eq!(talk(connection, b"there"), b"there");
        syslog.wait_for("Accepted local connection");
        if !program.is_ours() {
            // The shell is blocked until the daemon ends.
            assert_eq!(shell.stdout_lines(), [""; 0]);
            let pid = std::fs::read_to_string(pidfile).unwrap();
            let killed = Command::new("kill").arg(pid.trim()).status();
            assert!(killed.unwrap().success());
            shell.stdout_line();
        }
    });
}

#[test]
fn without_a_listener_the_launcher_returns_when_the_program_runs() {
    for round in 0..20 {
        let directory = Directory::new();
        let launcher = Skd::new(["-B", "-P", &directory.name("pid")]).start_with("sleep", ["1000"]);
        assert_eq!(launcher.wait().code(), Some(0));
        let pid: i32 = directory.read("pid").trim().parse().unwrap();
        // At once, not after a while.
        assert_eq!(command(pid), ["sleep", "1000"], "round {round}");
        assert_eq!(session(pid), Some(pid));
    }
}

#[test]
fn without_a_listener_only_terminals_are_left() {
    each_program(|program| {
        let terminal = Terminal::new();
        let daemon = program
            .skd(["-v"])
            .stdin(terminal.end())
            .daemon_with("sh", ["-c", "echo out; exec sleep 1000"]);
        daemon.wait_for_line("the output", |line| line.text == "out");
        let open = descriptors(daemon.pid());
        assert_eq!(open[&0], "/dev/null");
        assert!(open[&1].starts_with("pipe:"), "{open:?}");

        let daemon = program
            .skd(["-v"])
            .stdin(Stream::Pipe)
            .stdout(terminal.end())
            .daemon_with("sleep", ["1000"]);
        let open = descriptors(daemon.pid());
        assert!(open[&0].starts_with("pipe:"), "{open:?}");
        assert_eq!(open[&1], "/dev/null");
    });
}

#[test]
fn closed_standard_descriptors_do_no_harm() {
    for closed in [&[0][..], &[1], &[2], &[0, 1], &[0, 1, 2]] {
        let directory = Directory::new();
        let socket = directory.name("socket");
        let mut skd = Skd::new(["-v", "-l", &socket]);
        for number in closed {
            skd = match number {
                0 => skd.stdin(Stream::Closed),
                1 => skd.stdout(Stream::Closed),
                _ => skd.stderr(Stream::Closed),
            };
        }
        let daemon = skd.daemon_with("sh", ["-c", "cat; echo error >&2"]);
        assert_eq!(
            talk(connect_unix(&socket), b"there"),
            b"there",
            "{closed:?}"
        );
        let open = descriptors(daemon.pid());
        assert_eq!([&open[&0], &open[&1]], ["/dev/null", "/dev/null"]);
        assert!(open.contains_key(&2), "{closed:?}");
    }
}

#[test]
fn a_launcher_with_an_unread_output_is_no_failure_without_a_port_to_print() {
    let directory = Directory::new();
    let socket = directory.name("socket");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let _daemon = Skd::new(["-v", "-l", &socket]).stdout(writer).daemon("cat");
    assert_eq!(talk(connect_unix(&socket), b"there"), b"there");
}
