//! Without a listener, skd becomes the program.

use crate::harness::{
    Directory, Instance, Program, Running, SignalMasks, Skd, Stream, command, descriptors,
    each_program, environment, exists, is_in_call, limit, process_group, requires_root, run_to_end,
    session, signal_masks, stat_field, status_field, tampering, wait_until,
};
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;

#[track_caller]
fn wait_for_sleep(skd: &Instance) {
    wait_until("sleep runs", || command(skd.pid()) == ["sleep", "1000"]);
    // While the program is being loaded, its libraries are open.
    wait_until("sleep sleeps", || stat_field(skd.pid(), 3).unwrap() == "S");
}

const SLEEP: [&str; 1] = ["1000"];

#[test]
fn the_program_runs_in_the_process_of_skd() {
    each_program(|program| {
        let skd = program.skd(["-v"]).start_with("sleep", SLEEP);
        let group = process_group(skd.pid());
        wait_for_sleep(&skd);
        assert!(exists(skd.pid()));
        assert_eq!(process_group(skd.pid()), group);
        assert_ne!(session(skd.pid()), Some(skd.pid()));
        assert_eq!(skd.children(), [0; 0]);
        skd.signal(Signal::SIGTERM);
        assert_eq!(skd.wait_with_output().killed_by(), Some(Signal::SIGTERM));
    });
}

#[test]
fn standard_input_and_output_stay() {
    each_program(|program| {
        let skd = program.skd(["-v"]).stdin(Stream::Pipe).start("cat");
        skd.write_stdin(b"through\n");
        assert_eq!(skd.stdout_line(), "through");
        skd.close_stdin();
        assert!(skd.wait().success());
    });
}

#[test]
fn the_status_is_that_of_the_program() {
    each_program(|program| {
        let skd = program.skd(["-v"]).start_with("sh", ["-c", "exit 42"]);
        assert_eq!(skd.wait().code(), Some(42));
    });
}

#[test]
fn arguments_are_passed_as_they_are() {
    let odd = ["-v", "--", "", "a b", "--help", "\u{fc}", "-t80"];
    let skd = Skd::new(["-v"]).start_with("printf", ["[%s]"].into_iter().chain(odd));
    let output = skd.wait_with_output();
    assert_eq!(output.stdout, "[-v][--][][a b][--help][\u{fc}][-t80]");
}

#[test]
fn the_signal_mask_and_ignored_signals_are_inherited() {
    each_program(|program| {
        for (ignored, blocked) in [
            (&[][..], &[][..]),
            (&[Signal::SIGHUP][..], &[][..]),
            (&[Signal::SIGPIPE][..], &[][..]),
            (
                &[Signal::SIGCHLD, Signal::SIGINT],
                &[Signal::SIGUSR1, Signal::SIGTERM][..],
            ),
            (
                &[][..],
                &[Signal::SIGPIPE, Signal::SIGHUP, Signal::SIGCHLD][..],
            ),
        ] {
            let mut skd = program.skd(["-v"]);
            for &signal in ignored {
                skd = skd.ignoring(signal);
            }
            for &signal in blocked {
                skd = skd.blocking(signal);
            }
            let skd = skd.start_with("sleep", SLEEP);
            wait_for_sleep(&skd);
            let set = |signals: &[Signal]| {
                signals
                    .iter()
                    .fold(0_u64, |set, &signal| set | 1 << (signal as u32 - 1))
            };
            let masks = signal_masks(skd.pid());
            assert_eq!(masks.ignored, set(ignored), "{ignored:?}");
            assert_eq!(masks.blocked, set(blocked), "{blocked:?}");
            assert_eq!(masks.caught, 0);
        }
    });
}

#[test]
fn nohup_works() {
    let skd = Skd::new(["-v"])
        .wrapper(["nohup"])
        .start_with("sleep", SLEEP);
    // nohup and skd share one process id, one after the other.
    wait_for_sleep(&skd);
    skd.signal(Signal::SIGHUP);
    skd.signal(Signal::SIGCONT);
    wait_until("no signal waits", || {
        status_field(skd.pid(), "ShdPnd").is_some_and(|set| set == "0000000000000000")
    });
    assert!(exists(skd.pid()));
}

#[test]
fn ignored_signals_that_the_c_library_hides_are_inherited() {
    let skd = Skd::new(["-v"])
        .ignoring_number(32)
        .ignoring_number(33)
        .start_with("sleep", SLEEP);
    wait_for_sleep(&skd);
    assert_eq!(signal_masks(skd.pid()).ignored, 1 << 31 | 1 << 32);
}

/// A skd that is held up for a second in chdir(2), one of its last steps before it executes the program. Returns once
/// it is there.
fn held_up(skd: Skd) -> Running {
    let skd = skd
        .args(["--chdir", "/"])
        .wrapper(tampering("chdir", "delay_enter=1000000"))
        .start_with("sleep", SLEEP);
    wait_until("it is held up", || is_in_call(skd.pid(), libc::SYS_chdir));
    skd
}

/// Whether a signal is pending for the process as a whole.
fn is_pending(skd: &Running, signal: Signal) -> bool {
    let set = status_field(skd.pid(), "ShdPnd").unwrap();
    SignalMasks::has(u64::from_str_radix(&set, 16).unwrap(), signal)
}

#[test]
fn a_signal_during_the_start_is_not_lost() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let directory = Directory::new();
        let pidfile = directory.name("pid");
        let skd = held_up(Skd::new(["-v", "-P", &pidfile]));
        skd.signal(signal);
        assert_eq!(skd.wait_with_output().killed_by(), Some(signal));
        assert!(directory.names().is_empty(), "the pid file is left");
        // A blocked signal is delivered to the program.
        let skd = held_up(Skd::new(["-v"]).blocking(signal));
        skd.signal(signal);
        wait_for_sleep(&skd);
        assert!(is_pending(&skd, signal), "{signal}");
    }
}

#[test]
fn a_signal_during_the_start_that_was_ignored_does_nothing() {
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        let skd = held_up(Skd::new(["-v"]).ignoring(signal));
        skd.signal(signal);
        wait_for_sleep(&skd);
        assert!(!is_pending(&skd, signal), "{signal}");
        assert!(exists(skd.pid()));
    }
}

#[test]
fn other_descriptors_are_left_alone() {
    each_program(|program| {
        let pipe = || std::io::pipe().unwrap();
        let ends: Vec<_> = (0..3).map(|_| pipe()).collect();
        let mut skd = program.skd(["-v"]);
        for (number, (reader, _)) in [3, 7, 40].into_iter().zip(&ends) {
            skd = skd.descriptor(number, reader.try_clone().unwrap());
        }
        let skd = skd.start_with("sleep", SLEEP);
        wait_for_sleep(&skd);
        let open: Vec<i32> = descriptors(skd.pid()).into_keys().collect();
        assert_eq!(open, [0, 1, 2, 3, 7, 40]);
    });
}

#[test]
fn the_environment_is_left_alone() {
    each_program(|program| {
        let variables = [
            ("LISTEN_FDS", "1"),
            ("LISTEN_PID", "4321"),
            ("LISTEN_FDNAMES", "socket"),
            ("NOTIFY_SOCKET", "/run/notify"),
            ("WATCHDOG_USEC", "1000000"),
            ("PROTO", "TCP"),
            ("TCPREMOTEIP", "192.0.2.1"),
            ("REMOTE_ADDR", "192.0.2.1"),
            ("SKD_ANYTHING", "kept"),
            ("ODD", "a=b\nc"),
            ("EMPTY", ""),
        ];
        let mut skd = program.skd(["-v"]).env_clear().env("PATH", "/bin:/usr/bin");
        for (name, value) in variables {
            skd = skd.env(name, value);
        }
        let skd = skd.start_with("sleep", SLEEP);
        wait_for_sleep(&skd);
        let environment = environment(skd.pid());
        for (name, value) in variables {
            assert_eq!(
                environment.get(name).map(String::as_str),
                Some(value),
                "{name}"
            );
        }
        // Plus PATH, and the mark of the run.
        assert_eq!(environment.len(), variables.len() + 2, "{environment:?}");
    });
}

#[test]
fn limits_stay() {
    each_program(|program| {
        let skd = program
            .skd(["-v"])
            .limit(Resource::RLIMIT_NOFILE, 99, 128)
            .start_with("sleep", SLEEP);
        wait_for_sleep(&skd);
        let found = limit(skd.pid(), "Max open files").unwrap();
        assert_eq!(found, ("99".to_owned(), "128".to_owned()));
    });
}

#[test]
fn a_missing_or_unexecutable_program_has_the_status_of_a_shell() {
    let directory = Directory::new();
    directory.write("data", "");
    for (name, ours) in [
        ("no-such-program", 127),
        ("./missing", 127),
        ("./data", 126),
        ("/", 126),
    ] {
        each_program(|program| {
            let skd = program
                .skd(["-v"])
                .cwd(directory.path())
                .env("PATH", "/bin:/usr/bin")
                .start(name);
            match program {
                Program::Ours => drop(skd.expect_refusal(ours, &[name])),
                Program::Original => assert_eq!(skd.wait().code(), Some(1)),
            }
        });
    }
}

#[test]
fn a_program_without_its_surroundings_leaves_no_pid_file() {
    requires_root();
    let directory = Directory::public();
    std::fs::create_dir(directory.join("closed")).unwrap();
    directory.chmod("closed", 0o700);
    let closed = directory.name("closed");
    for option in [["--chdir", closed.as_str()], ["--nice", "-5"]] {
        let users = [&["-U"][..], &["--user", "65534:65534"]];
        // A nice value is set with the rights of root, before the user.
        let users = &users[..if option[0] == "--nice" { 1 } else { 2 }];
        for identity in users {
            // The user has no permission for its directory.
            Skd::new(["-P", &directory.name("pid")])
                .args(option)
                .args(*identity)
                .env("UID", "65534")
                .env("GID", "65534")
                .env_remove("ROOT")
                .start("/bin/true")
                .expect_refusal(1, &[option[0], option[1], "Permission denied"]);
            assert_eq!(directory.names(), ["closed"], "{option:?} {identity:?}");
        }
    }
}

#[test]
fn a_file_without_a_format_is_run_by_the_shell() {
    each_program(|program| {
        let directory = Directory::new();
        let script = directory.script("script", "echo \"$1 and $2\"\n");
        let skd = program.skd(["-v"]).start_with(&script, ["one", "two"]);
        assert_eq!(skd.stdout_line(), "one and two");
        assert!(skd.wait().success());
    });
}

#[test]
fn surroundings_are_as_asked_for() {
    for background in [false, true] {
        let directory = Directory::new();
        let skd = Skd::new([
            "--chdir",
            directory.path().to_str().unwrap(),
            "--umask",
            "027",
        ])
        .args([
            "--nice",
            "7",
            "--limit",
            "nofile=50:60",
            "--env",
            "ADDED=a value",
        ])
        .args(["--env", "REMOVED", "--no-new-privs"])
        .env("REMOVED", "x");
        let (mut running, mut daemon) = (None, None);
        let skd: &Instance = if background {
            daemon.insert(skd.daemon_with("sleep", SLEEP))
        } else {
            running.insert(skd.start_with("sleep", SLEEP))
        };
        wait_for_sleep(skd);
        let pid = skd.pid();
        let cwd = std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        assert_eq!(cwd, directory.path());
        assert_eq!(status_field(pid, "Umask").unwrap(), "0027");
        // Field 19 of proc(5) is nice.
        assert_eq!(stat_field(pid, 19).unwrap(), "7");
        let files = limit(pid, "Max open files").unwrap();
        assert_eq!(files, ("50".to_owned(), "60".to_owned()));
        assert_eq!(status_field(pid, "NoNewPrivs").unwrap(), "1");
        let environment = environment(pid);
        assert_eq!(environment.get("ADDED").unwrap(), "a value");
        assert!(!environment.contains_key("REMOVED"));
    }
}

#[test]
fn a_relative_program_is_looked_up_where_it_will_run() {
    let directory = Directory::new();
    directory.script("here", "#!/bin/sh\npwd\n");
    let output = run_to_end(["--chdir", directory.path().to_str().unwrap(), "./here"]);
    output.expect_code(0);
    assert_eq!(output.stdout, format!("{}\n", directory.path().display()));
}

#[test]
fn listener_options_are_unused_if_skd_1_2_had_them_and_refused_if_not() {
    each_program(|program| {
        for option in [&["-b", "5"][..], &["-c", "5"], &["-n"]] {
            let words = option.iter().copied().chain(["true"]);
            program.skd(words).end().expect_code(0);
        }
    });
    for option in ["--unix-mode=600", "--unix-owner=1", "--threads=2"] {
        run_to_end([option, "true"])
            .expect_code(2)
            .expect_stderr(&["has no use without"]);
    }
}
