//! Where programs are parked before their clients come, and what handlers have of that: nothing that one of them can tell of
//! another.

use crate::harness::{
    Directory, Running, SignalMasks, Skd, Way, exists, is_parked, parked, process_group, python,
    receive, requires_command, requires_root, status_field, talk,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;

/// A verbose skd on a free port.
fn with(way: Way) -> Skd {
    Skd::new(["-v", "-t", "127.0.0.1:0"]).args(way.options())
}

/// Asserts that a program is parked at this call, as the log says once.
#[track_caller]
fn parked_at(skd: &Running, way: Way, call: &str) {
    way.ready(skd);
    let line = skd.wait_for_log("' is parked at ");
    let (_, rest) = line.split_once("' is parked at ").unwrap();
    let (at, after) = rest.split_once(", after ").expect("a time");
    assert_eq!(at, call, "{way:?}: {line}");
    let (time, extent) = after.split_once(" ms: ").expect("how much of its start");
    let time: f64 = time.parse().unwrap();
    assert!(time > 0.0, "{line}");
    let expected = match call {
        // Here, of a device.
        "read" if line.contains("/drawing'") && line.contains("the rest") => {
            "the rest of its start is for each client"
        }
        "read" | "ppoll" => "all of its start",
        "getsockname" | "fadvise64" | "close" => "its first use of the client",
        _ => "the rest of its start is for each client",
    };
    assert_eq!(extent, expected, "{line}");
}

/// What a handler answers to an empty line.
#[track_caller]
fn answer(skd: &Running) -> String {
    String::from_utf8(talk(skd.connect(), b"\n")).unwrap()
}

/// The answer of a prestarted handler, and its process id.
#[track_caller]
fn prestarted_answer(skd: &Running, way: Way) -> (String, i32) {
    let (client, handler) = way.connect(skd);
    (String::from_utf8(talk(client, b"\n")).unwrap(), handler)
}

// Where it is parked.

#[test]
fn check_says_where_a_program_would_be_parked() {
    requires_command("perl");
    let directory = Directory::new();
    let (made, made_name) = (directory.join("made"), directory.name("made"));
    let makes = format!("open my $file, '>', '{made_name}'; <STDIN>");
    for &way in Way::PRESTARTED {
        let check = |program: &str, args: &[&str]| {
            let skd = Skd::new(["--check", "-t", "127.0.0.1:0"]).args(way.options());
            let end = skd.args([program]).args(args).end();
            end.expect_code(0);
            let notes: Vec<_> = end.stderr.lines().map(str::to_owned).collect();
            assert_eq!(notes.len(), 1, "{way:?}: {notes:?}");
            let note = notes[0].strip_prefix("skd: note: ").unwrap();
            note.to_owned()
        };
        let note = check("perl", &["-e", "<STDIN>"]);
        let (at, extent) = match way {
            Way::Start => ("its entry", "the rest of its start is for each client"),
            _ => ("read", "all of its start"),
        };
        assert!(
            note.starts_with(&format!("'perl' is parked at {at}, after ")),
            "{note}"
        );
        assert!(note.ends_with(&format!(" ms: {extent}")), "{note}");
        // It does no more than a start of skd: no file is made.
        let note = check("perl", &["-e", &makes]);
        assert!(
            note.contains("the rest of its start is for each client"),
            "{note}"
        );
        assert!(!made.exists(), "{way:?}");
    }
    // With another user and in another directory, as handlers will be.
    requires_root();
    for &way in Way::PRESTARTED {
        let skd = Skd::new(["--check", "-t", "127.0.0.1:0", "--user=nobody"]).args(way.options());
        let end = skd.args(["perl", "-e", "<STDIN>"]).end();
        end.expect_code(0);
        assert!(
            end.stderr.starts_with("skd: note: 'perl' is parked at "),
            "{way:?}: {}",
            end.stderr
        );
    }
    let skd = Skd::new(["--check", "-t", "127.0.0.1:0", "--fork-server"]);
    let end = skd.args(["/usr/bin/su"]).end();
    end.expect_code(0);
    let says = "'/usr/bin/su' can't be prestarted: it is set-user-id or set-group-id; it is started for each client";
    assert!(end.stderr.contains(says), "{}", end.stderr);
}

#[test]
fn the_log_says_once_at_which_call_a_program_is_parked() {
    requires_command("perl");
    let entry = "its entry";
    for (program, args, strict, warm, shared) in [
        (
            "sh",
            &["-c", "read line; echo served"][..],
            "getpid",
            "read",
            "read",
        ),
        (
            "perl",
            &["-e", "<STDIN>; print \"served\\n\""],
            "read",
            "read",
            "read",
        ),
    ] {
        for &way in Way::PRESTARTED {
            let skd = with(way).run_with(program, args);
            let call = match way {
                Way::Start => entry,
                Way::Fork => strict,
                Way::Shared => shared,
                _ => warm,
            };
            parked_at(&skd, way, call);
            for _ in 0..6 {
                assert_eq!(
                    prestarted_answer(&skd, way).0,
                    "served\n",
                    "{program}, {way:?}"
                );
            }
            // Others have been parked since, or copied.
            let told = skd.logged("' is parked at ");
            assert_eq!(told.len(), 1, "{told:#?}");
            let beginning = format!("skd: '{program}' is parked at {call}, ");
            assert!(told[0].starts_with(&beginning), "{told:#?}");
            // After HUP it may be another program.
            skd.signal(Signal::SIGHUP);
            assert_eq!(skd.wait_for_logs(&beginning, 2).len(), 2);
            assert_eq!(skd.troubles(), [""; 0]);
        }
    }
}

/// How often the thread that keeps the pool has waited.
fn waits_of_keeper(skd: i32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{skd}/task")).unwrap();
    let texts =
        tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    let keeper = texts
        .into_iter()
        .find(|text| text.starts_with("Name:\tprestart\n"));
    let keeper = keeper.expect("a keeper");
    let line = keeper
        .lines()
        .find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
    line.expect("its waits").trim().parse().unwrap()
}

#[test]
fn a_program_that_closes_all_numbers_is_held_at_few_of_its_calls() {
    requires_command("perl");
    for &way in Way::PRESTARTED {
        if way == Way::Start {
            continue;
        }
        // What was open is closed, and the call after the run is looked at.
        let skd = with(way).run_with(
            "perl",
            [
                "-MPOSIX",
                "-e",
                "open my $file, '<', '/etc/passwd'; POSIX::close($_) for 3..19999; \
                 POSIX::close($_) for reverse 3..999; <STDIN>; \
                 print join ' ', map { readlink \"/proc/self/fd/$_\" ? $_ : () } 3..99; print \"served\\n\"",
            ],
        );
        parked_at(&skd, way, "read");
        // Where the kernel can do it (Linux 6.4); otherwise there are two for each call.
        let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        let mut numbers = text
            .split('.')
            .map(|number| number.parse::<u32>().unwrap_or_default());
        let version = (numbers.next().unwrap(), numbers.next().unwrap());
        let waits = waits_of_keeper(skd.pid()) / way.pool_size() as u64;
        assert_eq!(
            waits < 10_000,
            version >= (6, 4),
            "{way:?}: {waits} waits, Linux {text}"
        );
        let (answer, _) = prestarted_answer(&skd, way);
        assert_eq!(answer, "served\n");
    }
}

#[test]
fn a_run_that_closes_the_client_is_seen() {
    requires_command("perl");
    for &way in Way::PRESTARTED {
        if way == Way::Start {
            continue;
        }
        // The last of these is the client.
        let script = "POSIX::close($_) for reverse(3..999), 1; open STDOUT, '>&', STDIN; $| = 1; print 'served'; <STDIN>";
        let skd = with(way).run_with("perl", ["-MPOSIX", "-e", script]);
        parked_at(&skd, way, "close");
        assert_eq!(prestarted_answer(&skd, way).0, "served");
        // A program for which SIGSYS isn't the default is held at each.
        let script = "$SIG{SYS} = 'IGNORE'; POSIX::close($_) for 3..999; <STDIN>; print $SIG{SYS}";
        let skd = with(way).run_with("perl", ["-MPOSIX", "-e", script]);
        parked_at(&skd, way, "read");
        let (mut client, handler) = way.connect(&skd);
        let ignored = status_field(handler, "SigIgn").unwrap();
        let ignored = u64::from_str_radix(&ignored, 16).unwrap();
        assert_ne!(ignored & 1 << (Signal::SIGSYS as i32 - 1), 0, "{way:?}");
        client.write_all(b"\n").unwrap();
        assert_eq!(talk(client, b""), b"IGNORE");
    }
}

#[test]
fn a_library_parks_a_program_before_its_entry() {
    let text = "#include <unistd.h>\n\
                volatile int own;\n\
                __attribute__((constructor)) static void begin(void) { own = getpid(); }\n";
    let directory = Directory::new();
    let library = directory.compile_library("library.so", text);
    let loads = format!("LD_PRELOAD={}", library.display());
    for way in [Way::Fork, Way::Start] {
        let skd = with(way).args(["--env", &loads]).run("cat");
        parked_at(&skd, way, "getpid");
        for _ in 0..3 {
            assert_eq!(talk(way.connect(&skd).0, b"served"), b"served", "{way:?}");
        }
        skd.wait_for_logs("exited with status 0 after", 3);
        assert_eq!(skd.troubles(), [""; 0]);
    }
}

#[test]
fn a_program_is_parked_at_a_call_that_is_unknown() {
    let text = r#"
        #include <errno.h>
        #include <stdio.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int main(void) {
            char said;
            int first = syscall(5000), why = errno;
            return read(0, &said, 1) < 1 || printf("%d %d\n", first, why == ENOSYS) < 0;
        }"#;
    let directory = Directory::new();
    let program = directory.compile("unknown", text);
    for way in [Way::Warm(4), Way::Fork, Way::Shared] {
        let skd = with(way).run(&program);
        let call = if way == Way::Shared {
            "read"
        } else {
            "call 5000"
        };
        parked_at(&skd, way, call);
        for _ in 0..3 {
            assert_eq!(prestarted_answer(&skd, way).0, "-1 1\n", "{way:?}");
        }
        assert_eq!(skd.troubles(), [""; 0]);
    }
}

#[test]
fn a_program_that_only_ends_is_parked_at_its_end() {
    for way in [Way::Warm(4), Way::Fork, Way::Start] {
        let skd = with(way).run("true");
        let call = if way == Way::Start {
            "its entry"
        } else {
            "exit_group"
        };
        parked_at(&skd, way, call);
        for turn in 1..=8 {
            way.ready(&skd);
            assert_eq!(talk(skd.connect(), b""), b"", "{way:?}");
            skd.wait_for_logs("exited with status 0 after", turn);
        }
        way.wait_idle(&skd);
        assert_eq!(skd.troubles(), [""; 0]);
    }
}

// Signals before the client.

/// Asserts that signals to prestarted handlers, which have handlers for them, reach no client, and that all clients are
/// served. The program says what it has heard.
#[track_caller]
fn signals_reach_no_client(program: impl AsRef<Path>, args: &[&str], signal: Signal) {
    for &way in Way::PRESTARTED {
        let skd = with(way).run_with(program.as_ref(), args);
        for _ in 0..3 {
            let ready = way.ready(&skd);
            for &pid in &ready {
                kill(Pid::from_raw(pid), signal).unwrap();
            }
            for _ in 0..2 {
                assert_eq!(answer(&skd), "heard 0\n", "{way:?}");
            }
            if way.copies() {
                assert_eq!(parked(skd.pid()), ready, "{way:?}");
            } else {
                skd.wait_until("those with a signal have ended", || {
                    ready.iter().all(|&pid| !exists(pid))
                });
            }
            assert_eq!(prestarted_answer(&skd, way).0, "heard 0\n", "{way:?}");
        }
        skd.wait_for_logs("exited with status 0 after", 9);
        assert_eq!(skd.logged("Closed").len(), 9);
        assert_eq!(skd.troubles(), [""; 0], "{way:?}");
    }
}

#[test]
fn a_signal_before_the_client_is_not_heard_in_python() {
    let text = "import signal, sys\n\
                heard = 0\n\
                def hear(*_):\n    \
                    global heard\n    \
                    heard += 1\n\
                signal.signal(signal.SIGTERM, hear)\n\
                sys.stdin.readline()\n\
                print('heard', heard)";
    // It stores no compiled modules: that would park it for a while.
    signals_reach_no_client(python(), &["-B", "-c", text], Signal::SIGTERM);
}

#[test]
fn a_signal_before_the_client_is_not_heard_in_perl() {
    requires_command("perl");
    let text = "my $heard = 0; $SIG{TERM} = sub { $heard++ }; <STDIN>; print \"heard $heard\\n\"";
    signals_reach_no_client("perl", &["-e", text], Signal::SIGTERM);
}

#[test]
fn a_signal_before_the_client_is_not_heard_in_c() {
    let text = r#"
        #include <signal.h>
        #include <stdio.h>
        #include <unistd.h>
        static volatile sig_atomic_t heard;
        static void hear(int signal) { heard++; }
        int main(void) {
            char said;
            struct sigaction action = { .sa_handler = hear, .sa_flags = SA_RESTART };
            sigaction(SIGUSR1, &action, 0);
            return read(0, &said, 1) < 1 || printf("heard %d\n", heard) < 0;
        }"#;
    let directory = Directory::new();
    for program in [
        directory.compile("static", text),
        directory.compile_shared("shared", text),
    ] {
        signals_reach_no_client(program, &[], Signal::SIGUSR1);
    }
}

#[test]
fn a_signal_to_a_program_that_has_not_come_to_its_client_is_not_heard() {
    // It sleeps for two seconds before it reads.
    let text = r#"
        #include <signal.h>
        #include <stdio.h>
        #include <time.h>
        #include <unistd.h>
        static volatile sig_atomic_t heard;
        static void hear(int signal) { heard++; }
        int main(void) {
            char said;
            struct timespec pause = { 0, 10000000 };
            struct sigaction action = { .sa_handler = hear, .sa_flags = SA_RESTART };
            sigaction(SIGUSR1, &action, 0);
            for (int turn = 0; turn < 200; turn++) nanosleep(&pause, 0);
            return read(0, &said, 1) < 1 || printf("heard %d\n", heard) < 0;
        }"#;
    let directory = Directory::new();
    let program = directory.compile("sleeping", text);
    for way in [Way::Warm(1), Way::Fork, Way::Shared] {
        let skd = with(way).run(&program);
        let mut told = BTreeSet::new();
        skd.wait_until("it waits for a client", || {
            let starting = skd.children().into_iter().filter(|&pid| !is_parked(pid));
            for pid in starting {
                // USR1 has its handler, and USR2 would end it.
                let caught = status_field(pid, "SigCgt").unwrap_or_default();
                let caught = u64::from_str_radix(&caught, 16).unwrap_or_default();
                if SignalMasks::has(caught, Signal::SIGUSR1) {
                    told.insert(pid);
                    let _ = kill(Pid::from_raw(pid), Signal::SIGUSR1);
                    let _ = kill(Pid::from_raw(pid), Signal::SIGUSR2);
                }
            }
            !parked(skd.pid()).is_empty() || told.len() > 1
        });
        assert_eq!(told.len(), 1, "{way:?}: {:#?}", skd.log_lines());
        assert_eq!(answer(&skd), "heard 0\n", "{way:?}");
        assert_eq!(skd.troubles(), [""; 0]);
    }
}

#[test]
fn a_fault_before_the_client_reaches_the_program() {
    let text = r#"
        #include <setjmp.h>
        #include <signal.h>
        #include <stdio.h>
        #include <unistd.h>
        static sigjmp_buf before;
        static volatile int faults;
        static void note(int signal) { faults++; siglongjmp(before, 1); }
        int main(void) {
            char said;
            signal(SIGSEGV, note);
            if (!sigsetjmp(before, 1)) *(volatile char *)8 = 0;
            return read(0, &said, 1) < 1 || printf("%d\n", faults) < 0;
        }"#;
    let directory = Directory::new();
    let program = directory.compile("faulty", text);
    for &way in Way::PRESTARTED {
        let skd = with(way).run(&program);
        for _ in 0..2 {
            assert_eq!(prestarted_answer(&skd, way).0, "1\n", "{way:?}");
        }
        assert_eq!(skd.troubles(), [""; 0]);
    }
}

// What handlers have for themselves.

#[test]
fn a_shell_that_ends_its_process_group_ends_no_other() {
    // Not in shared mode, where a shell's $$ is the template's.
    for way in [Way::Exec, Way::Warm(4), Way::Fork, Way::Start] {
        let skd = with(way).run_with(
            "sh",
            [
                "-c",
                "read line; sleep 1000 & echo $$; read line; kill -- -$$; wait",
            ],
        );
        let mut held = Vec::new();
        for _ in 0..3 {
            let (mut client, handler) = way.connect(&skd);
            client.write_all(b"\n").unwrap();
            let expected = format!("{handler}\n");
            assert_eq!(receive(&mut client, expected.len()), expected.as_bytes());
            held.push((client, handler));
        }
        let ready = way.ready(&skd);
        let (client, first) = held.remove(0);
        assert_eq!(talk(client, b"\n"), b"", "{way:?}");
        skd.wait_for_log(&format!("pid {first} was terminated by signal 15"));
        assert_eq!(way.ready(&skd), ready, "{way:?}");
        for (_, other) in &held {
            assert_eq!(process_group(*other), Some(*other));
        }
        assert_eq!(skd.logged("Closed").len(), 1);
        for (client, other) in held {
            assert_eq!(talk(client, b"\n"), b"");
            skd.wait_for_log(&format!("pid {other} was terminated by signal 15"));
        }
        assert_eq!(skd.troubles(), [""; 0], "{way:?}");
    }
}

/// Draws 16 bytes in the way that its argument names, before it has a client, and prints them then.
const DRAWING: &str = r#"
    #include <fcntl.h>
    #include <stdio.h>
    #include <string.h>
    #include <sys/random.h>
    #include <unistd.h>
    int main(int count, char **words) {
        unsigned char drawn[16], said;
        if (!strcmp(words[1], "getrandom")) {
            if (getrandom(drawn, sizeof drawn, 0) != sizeof drawn) return 1;
        } else {
            int device = open(words[1], O_RDONLY);
            if (read(device, drawn, sizeof drawn) != sizeof drawn || close(device)) return 2;
        }
        if (read(0, &said, 1) < 1) return 3;
        for (int at = 0; at < 16; at++) printf("%02x", drawn[at]);
        return 0;
    }"#;

#[test]
fn copies_have_random_bytes_of_their_own_but_for_shared_ones() {
    let directory = Directory::new();
    let program = directory.compile_shared("drawing", DRAWING);
    for how in ["getrandom", "/dev/urandom", "/dev/random"] {
        for &way in Way::PRESTARTED {
            let skd = with(way).run_with(&program, [how]);
            let call = match way {
                Way::Start => "its entry",
                Way::Fork if how == "getrandom" => "getrandom",
                _ => "read",
            };
            parked_at(&skd, way, call);
            let mut drawn: Vec<_> = (0..3).map(|_| prestarted_answer(&skd, way).0).collect();
            assert!(drawn.iter().all(|drawn| drawn.len() == 32), "{drawn:?}");
            drawn.sort();
            drawn.dedup();
            let expected = if way == Way::Shared { 1 } else { 3 };
            assert_eq!(drawn.len(), expected, "{way:?}, {how}: {drawn:?}");
            assert_eq!(skd.troubles(), [""; 0]);
        }
    }
}

#[test]
fn copies_know_their_ids_though_the_program_asks_before() {
    requires_command("perl");
    let text = r#"
        #include <stdio.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        int main(void) {
            char said;
            int thread = syscall(SYS_gettid), process = getpid(), group = getpgrp();
            return read(0, &said, 1) < 1 || printf("%d %d %d\n", process, thread, group) < 0;
        }"#;
    let directory = Directory::new();
    let linked = [
        directory.compile("static", text),
        directory.compile_shared("shared", text),
    ];
    let interpreter = python();
    let python = "import os, sys, threading\n\
                  ids = os.getpid(), threading.get_native_id(), os.getpgrp()\n\
                  sys.stdin.readline()\n\
                  print(*ids)";
    let programs = [
        (linked[0].to_str().unwrap(), &[][..]),
        (linked[1].to_str().unwrap(), &[]),
        (&*interpreter, &["-B", "-c", python]),
        (
            "perl",
            &[
                "-e",
                "my $id = $$; <STDIN>; print \"$id $$ \", getpgrp, \"\\n\"",
            ],
        ),
        ("sh", &["-c", "id=$$; read line; echo $id $id $id"]),
    ];
    for (program, args) in programs {
        for way in [Way::Exec, Way::Warm(4), Way::Fork, Way::Start] {
            let skd = with(way).run_with(program, args);
            for _ in 0..3 {
                let (said, handler) = prestarted_answer(&skd, way);
                let expected = format!("{handler} {handler} {handler}\n");
                assert_eq!(said, expected, "{program}, {way:?}");
            }
            assert_eq!(skd.troubles(), [""; 0], "{program}, {way:?}");
        }
    }
}

#[test]
fn a_program_is_parked_before_it_opens_what_copies_would_share() {
    let text = r#"
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        int main(int count, char **words) {
            char said[100];
            FILE *file = fopen(words[1], "r");
            if (!file || !fgets(said, sizeof said, file)) return 1;
            int own = atoi(said);
            return !fgets(said, sizeof said, stdin) || printf("%d\n", own) < 0;
        }"#;
    let directory = Directory::new();
    let program = directory.compile_shared("asking", text);
    for way in [Way::Warm(4), Way::Fork] {
        let skd = with(way).run_with(&program, ["/proc/self/stat"]);
        parked_at(&skd, way, "openat");
        for _ in 0..3 {
            let (said, handler) = prestarted_answer(&skd, way);
            assert_eq!(said, format!("{handler}\n"), "{way:?}");
        }
        assert_eq!(skd.troubles(), [""; 0]);
    }
}
