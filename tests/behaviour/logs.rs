//! `-L >FILE` and `-L >>FILE`, and what happens to lines that can't be written.

use crate::harness::{
    Directory, Instance, Skd, Terminal, connect_unix, descriptors, each_program, exists, ids,
    poll_for, relays, requires_root, talk, tampering, udp_client, untimed, wait_asleep, wait_for,
    wait_for_text, wait_until,
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A handler that writes a line of its own to the log.
const SPEAKER: [&str; 2] = ["-c", "echo from the handler >&2"];

#[test]
fn one_mark_empties_the_file_and_two_keep_what_is_in_it() {
    each_program(|program| {
        for (mark, keeps) in [
            (">", false),
            ("> ", false),
            (">\t \t", false),
            (">>", true),
            (">> ", true),
            (">>\t\t", true),
        ] {
            let directory = Directory::new();
            let log = directory.write("log", "before\n");
            let skd = program
                .skd([
                    "-vt",
                    "127.0.0.1:0",
                    "-L",
                    &format!("{mark}{}", log.display()),
                ])
                .run_with("sh", SPEAKER);
            talk(skd.connect(), b"");
            wait_for_text(&log, "Accepted connection from [127.0.0.1]:");
            let text = wait_for_text(&log, "from the handler\n");
            assert_eq!(text.starts_with("before\n"), keeps, "{mark:?}: {text}");
            // And nowhere else.
            assert_eq!(skd.log_lines(), [""; 0]);
        }
    });
}

#[test]
fn a_failed_start_without_a_listener_empties_no_log() {
    // More open files than the kernel allows any process, and a directory that doesn't exist.
    for (option, value, says) in [
        (
            "--limit",
            "nofile=4G:4G",
            "the limit nofile=4294967296:4294967296 can't be set",
        ),
        ("--chdir", "/nonexistent", "--chdir /nonexistent"),
    ] {
        for mode in ["-v", "-S", "-B", "-BS"] {
            let directory = Directory::new();
            let log = directory.write("log", "before\n");
            let inode = fs::metadata(&log).unwrap().ino();
            Skd::new([mode, "-L", &format!(">{}", log.display()), option, value])
                .start("true")
                .expect_refusal(1, &[says]);
            assert_eq!(directory.read("log"), "before\n", "{mode} {option}");
            assert_eq!(fs::metadata(&log).unwrap().ino(), inode);
            assert_eq!(directory.names(), ["log"]);
        }
    }
}

#[test]
fn a_new_file_has_the_mode_that_the_umask_leaves() {
    each_program(|program| {
        let directory = Directory::new();
        let log = directory.join("log");
        let _skd = program
            .skd(["-t", "127.0.0.1:0", "-L", &format!(">{}", log.display())])
            .umask(0o027)
            .run("cat");
        assert_eq!(fs::metadata(&log).unwrap().mode() & 0o7777, 0o640);
    });
}

#[test]
fn a_symbolic_link_is_followed() {
    let directory = Directory::new();
    symlink("target", directory.join("log")).unwrap();
    let log = format!(">{}", directory.name("log"));
    let skd = Skd::new(["-vt", "127.0.0.1:0", "-L", &log]).run("cat");
    talk(skd.connect(), b"");
    wait_for_text(directory.join("target"), "Accepted connection");
}

#[test]
fn every_line_is_appended_whatever_other_programs_do_to_the_file() {
    for mark in [">", ">>"] {
        let directory = Directory::new();
        let log = directory.join("log");
        let skd = Skd::new([
            "-vt",
            "127.0.0.1:0",
            "-L",
            &format!("{mark}{}", log.display()),
        ])
        .run_with("sh", SPEAKER);
        talk(skd.connect(), b"");
        wait_for_text(&log, "Closed connection");
        // As with `> log` in a shell: without O_APPEND the next line would leave a hole.
        fs::write(&log, "").unwrap();
        talk(skd.connect(), b"");
        wait_for_text(&log, "Closed connection");
        let bytes = fs::read(&log).unwrap();
        let text = untimed(&String::from_utf8(bytes).unwrap(), &[]);
        assert!(text.starts_with("Accepted connection"), "{text}");
        // A handler may not expect the contrary.
        assert_eq!(flags(skd.pid(), 2) & libc::O_NONBLOCK, 0);
        // Nor does skd write into the middle of what others append.
        let relay = relay(&skd);
        let file = number_of(relay, &log).unwrap();
        assert_ne!(flags(relay, file) & libc::O_APPEND, 0);
    }
}

/// The flags of an open file (proc(5), fdinfo).
fn flags(pid: i32, number: i32) -> i32 {
    let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}")).unwrap();
    let mut lines = info.lines();
    let flags = lines.find_map(|line| line.strip_prefix("flags:")).unwrap();
    i32::from_str_radix(flags.trim(), 8).unwrap()
}

/// The relay of a running skd.
#[track_caller]
fn relay(skd: &Instance) -> i32 {
    wait_for("a relay", || relays(skd).first().copied())
}

/// The number under which a process has a file open.
fn number_of(pid: i32, path: &Path) -> Option<i32> {
    let wanted = fs::metadata(path).ok()?;
    let is_it = |number: &i32| {
        fs::metadata(format!("/proc/{pid}/fd/{number}"))
            .is_ok_and(|it| (it.dev(), it.ino()) == (wanted.dev(), wanted.ino()))
    };
    descriptors(pid).into_keys().find(is_it)
}

#[test]
fn lines_of_many_connections_stay_whole() {
    const CLIENTS: usize = 4;
    const EACH: usize = 50;
    let directory = Directory::new();
    let log = directory.join("log");
    let skd = Skd::new(["-vt", "127.0.0.1:0", "-L", &format!(">{}", log.display())])
        .run_with("sh", SPEAKER);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| (0..EACH).for_each(|_| drop(talk(skd.connect(), b""))));
        }
    });
    let count = |text: &str| fs::read_to_string(&log).unwrap().matches(text).count();
    wait_until("all are reported", || count(" Closed ") == CLIENTS * EACH);
    for line in untimed(&fs::read_to_string(&log).unwrap(), &[]).lines() {
        let whole = line == "from the handler"
            || (line.starts_with("Accepted connection from [127.0.0.1]:")
                && line.rsplit(':').next().unwrap().parse::<u16>().is_ok())
            || (line.starts_with("Closed connection from [127.0.0.1]:") && line.ends_with('s'));
        assert!(whole, "{line:?}");
    }
    assert_eq!(count("from the handler\n"), CLIENTS * EACH);
}

/// Sends HUP and waits until the log is that of this name again.
fn reopen(skd: &Instance, directory: &Directory, name: &str) {
    skd.signal(Signal::SIGHUP);
    wait_until("the log is opened again", || is_log(skd, directory, name));
}

/// Whether the relay of skd has the file of this name open.
fn is_log(skd: &Instance, directory: &Directory, name: &str) -> bool {
    number_of(relay(skd), &directory.join(name)).is_some()
}

#[test]
fn hup_reopens_the_log_after_a_rename() {
    for mark in [">", ">>"] {
        for background in ["-v", "-vB"] {
            let directory = Directory::new();
            let log = directory.join("log");
            let skd = Skd::new([background, "-t", "127.0.0.1:0"])
                .args(["-L", &format!("{mark}{}", log.display())]);
            // One of the two.
            let (mut running, mut daemon) = (None, None);
            let skd: &Instance = if background == "-v" {
                running.insert(skd.run_with("sh", SPEAKER))
            } else {
                daemon.insert(skd.daemon_with("sh", SPEAKER))
            };
            for round in 0..3 {
                let old = format!("log.{round}");
                talk(skd.connect(), b"");
                wait_for_text(&log, "Closed connection");
                fs::rename(&log, directory.join(&old)).unwrap();
                // Nothing is lost that is written before the signal.
                talk(skd.connect(), b"");
                wait_until("it goes to the old file", || {
                    directory.read(&old).matches("Closed connection").count() == 2
                });
                reopen(skd, &directory, "log");
                let complete = directory.read(&old);
                assert_eq!(complete.matches("from the handler\n").count(), 2);
                talk(skd.connect(), b"");
                wait_for_text(&log, "Closed connection");
                wait_for_text(&log, "from the handler");
                assert_eq!(directory.read(&old), complete);
                fs::remove_file(&log).unwrap();
                reopen(skd, &directory, "log");
            }
        }
    }
}

#[test]
fn hup_empties_no_log() {
    let directory = Directory::new();
    let log = directory.join("log");
    let skd = Skd::new(["-vt", "127.0.0.1:0", "-L", &format!(">{}", log.display())]).run("cat");
    talk(skd.connect(), b"");
    wait_for_text(&log, "Closed connection");
    fs::hard_link(&log, directory.join("same")).unwrap();
    // Another file first, so that the return to this one can be observed.
    fs::rename(&log, directory.join("kept")).unwrap();
    reopen(&skd, &directory, "log");
    fs::rename(directory.join("kept"), &log).unwrap();
    reopen(&skd, &directory, "log");
    talk(skd.connect(), b"");
    wait_until("the second one is added", || {
        directory.read("log").matches("Closed connection").count() == 2
    });
}

#[test]
fn a_log_that_cannot_be_reopened_is_kept_and_reported() {
    let directory = Directory::new();
    let log = directory.join("log");
    let skd = Skd::new(["-vt", "127.0.0.1:0", "-L", &format!(">{}", log.display())]).run("cat");
    fs::rename(&log, directory.join("old")).unwrap();
    fs::create_dir(&log).unwrap();
    skd.signal(Signal::SIGHUP);
    wait_for_text(
        directory.join("old"),
        " skd: the log file can't be opened again: Is a directory",
    );
    talk(skd.connect(), b"");
    wait_for_text(directory.join("old"), "Accepted connection");
    // And can be, later.
    fs::remove_dir(&log).unwrap();
    reopen(&skd, &directory, "log");
    talk(skd.connect(), b"");
    wait_for_text(&log, "Accepted connection");
}

/// Started by root, with privileges dropped.
fn dropped(user: &[&str], log: &str) -> Skd {
    requires_root();
    Skd::new(user)
        .args(["-vt", "127.0.0.1:0", "-L", log])
        .env("UID", "61234")
        .env("GID", "61235")
        .env_remove("ROOT")
}

/// Lets the log be renamed and reopened, and a client say so.
#[track_caller]
fn rotate(skd: &Instance, directory: &Directory) {
    talk(skd.connect(), b"");
    wait_for_text(directory.join("log"), "Closed connection");
    fs::rename(directory.join("log"), directory.join("old")).unwrap();
    reopen(skd, directory, "log");
    talk(skd.connect(), b"");
    wait_for_text(directory.join("log"), "Closed connection");
}

#[test]
fn after_a_drop_of_privileges_the_log_is_reopened_with_the_rights_of_the_start() {
    for user in [&["-U"][..], &["--user", "61234:61235"]] {
        // A directory of root's, and one of the user's.
        for (uid, gid) in [(0, 0), (61234, 61235)] {
            let directory = Directory::public();
            chown(directory.path(), Some(uid), Some(gid)).unwrap();
            let log = directory.join("log");
            let skd = dropped(user, &format!(">{}", log.display())).run("cat");
            rotate(&skd, &directory);
            // The file is made by the user of the directory.
            for name in ["log", "old"] {
                let made = fs::metadata(directory.join(name)).unwrap();
                assert_eq!((made.uid(), made.gid()), (uid, gid), "{user:?}");
            }
            // As logrotate makes it: a new file that belongs to the user.
            fs::remove_file(&log).unwrap();
            File::create(&log).unwrap();
            fs::set_permissions(&log, fs::Permissions::from_mode(0o600)).unwrap();
            chown(&log, Some(61234), Some(61235)).unwrap();
            reopen(&skd, &directory, "log");
            talk(skd.connect(), b"");
            wait_for_text(&log, "Accepted connection");
        }
    }
}

#[test]
fn the_relay_of_root_is_out_of_reach_of_handlers() {
    let directory = Directory::public();
    chown(directory.path(), Some(61234), Some(61235)).unwrap();
    let log = directory.join("log");
    // It tries to stop, trace and slow down the process of its first argument.
    let skd = dropped(&["--user", "61234:61235"], &format!(">{}", log.display())).run_with(
        "perl",
        [
            "-e",
            "$| = 1; chomp($p = <STDIN>); \
             print kill('STOP', $p) ? 'stopped' : 'not stopped', ' '; \
             print setpriority(0, $p, 19) == 0 && getpriority(0, $p) == 19 ? 'slowed' : 'not slowed', ' '; \
             print opendir(my $d, qq(/proc/$p/fd)) ? 'seen' : 'not seen', qq(\\n);",
        ],
    );
    let relay = relay(&skd);
    assert_eq!(ids(relay).0, [0; 4]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(crate::harness::capabilities(relay, set), 0, "{set}");
    }
    let answer = talk(skd.connect(), format!("{relay}\n").as_bytes());
    assert_eq!(
        String::from_utf8_lossy(&answer),
        "not stopped not slowed not seen\n"
    );
}

#[test]
fn a_handler_has_no_way_to_the_log_but_by_whole_lines() {
    let directory = Directory::new();
    let log = directory.write("log", "before\n");
    // ftruncate, pwrite, O_APPEND taken away, O_DIRECT, and as many of its lines as before.
    let skd = Skd::new(["-vt", "127.0.0.1:0", "-L", &format!(">>{}", log.display())]).run_with(
        "perl",
        [
            "-MFcntl",
            "-e",
            "truncate(STDERR, 0); sysseek(STDERR, 0, 0); \
             fcntl(STDERR, F_SETFL, fcntl(STDERR, F_GETFL, 0) & ~O_APPEND); \
             syswrite(STDERR, qq(one\\n)); \
             fcntl(STDERR, F_SETFL, fcntl(STDERR, F_GETFL, 0) | 040000); \
             syswrite(STDERR, 'x' x 4096 . qq(\\n)); syswrite(STDERR, qq(two\\nthree\\n));",
        ],
    );
    for round in 1..=3 {
        talk(skd.connect(), b"");
        wait_until("all is reported", || {
            directory.read("log").matches(" Closed connection").count() == round
        });
    }
    let text = directory.read("log");
    assert!(text.starts_with("before\n"), "{text}");
    let text = untimed(&text, &["before"]);
    for line in ["one", "two", "three", &"x".repeat(4096)] {
        let line = format!("{line}\n");
        assert_eq!(text.matches(&line).count(), 3, "{line} in {text}");
    }
}

#[test]
fn control_characters_of_handlers_are_escaped() {
    let directory = Directory::new();
    let log = directory.join("log");
    let skd = Skd::new(["-t", "127.0.0.1:0", "-L", &format!(">{}", log.display())]).run_with(
        "sh",
        [
            "-c",
            r"printf 'a\tb \033[2J\033]0;title\007 \303\251\r\n\302\233 \377\0\n' >&2",
        ],
    );
    talk(skd.connect(), b"");
    let expected = "a\tb \\x1b[2J\\x1b]0;title\\x07 é\\x0d\n\\x9b \\xff\\x00\n";
    wait_until("the lines are logged", || {
        untimed(&directory.read("log"), &[]) == expected
    });
}

#[test]
fn handlers_of_another_user_open_dev_stderr_to_write_and_not_to_read() {
    let directory = Directory::public();
    let log = directory.join("log");
    let script = "echo by name >/dev/stderr; cat </dev/stderr >/dev/null 2>&1 && echo has read";
    let skd = dropped(&["--user", "61234:61235"], &format!(">{}", log.display()))
        .run_with("sh", ["-c", script]);
    assert_eq!(talk(skd.connect(), b""), b"");
    wait_for_text(&log, "by name\n");
}

#[test]
fn the_last_line_is_written_when_skd_ends() {
    // By a signal, with a handler that lives on, and at the end of a drain.
    for options in [&["-vv"][..], &["-vv", "--drain=1h"]] {
        let directory = Directory::new();
        let log = directory.join("log");
        let skd = Skd::new(options)
            .args(["-t", "127.0.0.1:0", "-L", &format!(">{}", log.display())])
            .run("cat");
        let client = skd.connect();
        wait_for_text(&log, "Accepted connection");
        skd.signal(Signal::SIGTERM);
        if options.len() > 1 {
            wait_for_text(&log, "Draining: ");
            drop(client);
        }
        assert_eq!(skd.wait().code(), Some(0));
        let text = untimed(&directory.read("log"), &[]);
        let last = text.lines().last().unwrap();
        let expected = match options.len() {
            1 => "Closed TCP",
            _ => "Running 0 handlers",
        };
        assert!(last.starts_with(expected), "{text}");
    }
}

#[test]
fn a_log_that_takes_for_ever_holds_up_the_relay_alone() {
    let directory = Directory::new();
    let log = directory.join("log");
    let skd = Skd::new(["-vt", "127.0.0.1:0", "-L", &format!(">{}", log.display())]).run("cat");
    talk(skd.connect(), b"");
    wait_for_text(&log, "Closed connection");
    // As a write to a dead file server, or opening a file there.
    let relay = nix::unistd::Pid::from_raw(relay(&skd));
    nix::sys::signal::kill(relay, Signal::SIGSTOP).unwrap();
    for _ in 0..5 {
        skd.signal(Signal::SIGHUP);
        for _ in 0..200 {
            assert_eq!(talk(skd.connect(), b"served"), b"served");
        }
    }
    nix::sys::signal::kill(relay, Signal::SIGCONT).unwrap();
    wait_until("it goes on, and tells of the lines that were lost", || {
        talk(skd.connect(), b"");
        directory
            .read("log")
            .contains("lines were lost here: the log took none")
    });
    // As many as the pipe has space for.
    let log = directory.read("log");
    let count = log.matches("Closed connection").count();
    assert!(count > 100, "{count} of 1000");
    nix::sys::signal::kill(relay, Signal::SIGSTOP).unwrap();
    assert_eq!(skd.stop().code(), Some(0));
    nix::sys::signal::kill(relay, Signal::SIGCONT).unwrap();
}

#[test]
fn a_killed_relay_is_restarted_and_lines_wait_for_it() {
    let directory = Directory::new();
    let log = directory.join("log");
    let skd = Skd::new(["-vt", "127.0.0.1:0", "-L", &format!(">{}", log.display())])
        .run_with("sh", SPEAKER);
    for round in 1..=3 {
        talk(skd.connect(), b"");
        let closed = || directory.read("log").matches("Closed connection").count() == 2 * round - 1;
        wait_until("it is reported", closed);
        let killed = relay(&skd);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(killed), Signal::SIGKILL).unwrap();
        wait_until("the relay is dead", || !exists(killed));
        talk(skd.connect(), b"");
        let closed = || directory.read("log").matches("Closed connection").count() == 2 * round;
        wait_until("it is reported by the next relay", closed);
    }
    let text = untimed(&directory.read("log"), &[]);
    assert_eq!(text.matches("from the handler\n").count(), 6);
    assert!(text.contains("skd: the relay to the log file had ended and was started again"));
}

#[test]
fn after_a_chroot_the_log_is_reopened_at_its_old_path() {
    let (directory, root) = (Directory::public(), Directory::public());
    directory.chmod("", 0o777);
    root.install(&["/bin/cat"]);
    let log = directory.join("log");
    let skd = dropped(&["-U"], &format!(">{}", log.display()))
        .env("ROOT", root.path())
        .run("/bin/cat");
    fs::rename(&log, directory.join("old")).unwrap();
    reopen(&skd, &directory, "log");
    talk(skd.connect(), b"");
    wait_for_text(&log, "Accepted connection");
}

#[test]
fn a_program_run_in_place_has_the_log() {
    each_program(|program| {
        let directory = Directory::new();
        let log = directory.join("log");
        let skd = program
            .skd(["-L", &format!(">{}", log.display())])
            .start_with("sh", ["-c", "echo to the log >&2; echo to stdout"]);
        assert!(skd.wait().success());
        if program.is_ours() {
            // The program has taken the place of skd: the relay ends with it.
            wait_for_text(&log, "to the log\n");
            assert_eq!(untimed(&directory.read("log"), &[]), "to the log\n");
        } else {
            assert_eq!(directory.read("log"), "to the log\n");
        }
        assert_eq!(skd.stdout_lines(), ["to stdout"]);
    });
}

#[test]
fn a_fifo_without_a_reader_fails_the_start_at_once() {
    let directory = Directory::new();
    let fifo = directory.join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    for mark in [">", ">>"] {
        for background in ["-v", "-B"] {
            let log = format!("{mark}{}", fifo.display());
            Skd::new([background, "-t", "127.0.0.1:0", "-L", &log])
                .start("cat")
                .expect_refusal(1, &["--log", fifo.to_str().unwrap(), "No such device"]);
        }
    }
    assert_eq!(directory.names(), ["fifo"]);
}

#[test]
fn a_fifo_that_loses_its_reader_costs_lines_and_no_connections() {
    let directory = Directory::new();
    let fifo = directory.join("fifo");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let open = || {
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        options.open(&fifo).unwrap()
    };
    let reader = open();
    let log = format!(">{}", fifo.display());
    let skd = Skd::new(["-vt", "127.0.0.1:0", "-L", &log]).run_with("sh", ["-c", "cat"]);
    talk(skd.connect(), b"");
    wait_until("a line arrives", || {
        matches!((&reader).read(&mut [0; 64]), Ok(1..))
    });
    drop(reader);
    for _ in 0..10 {
        assert_eq!(talk(skd.connect(), b"served"), b"served");
    }
    // What is still in the relay's pipe then, the new reader would get.
    wait_asleep(relays(&skd)[0]);
    let reader = open();
    talk(skd.connect(), b"");
    let mut seen = Vec::new();
    wait_until("lines arrive again, and how many didn't", || {
        let _ = (&reader).read_to_end(&mut seen);
        let text = String::from_utf8_lossy(&seen);
        text.contains(" lost here") && text.contains("Accepted connection")
    });
}

/// Makes more connections to a verbose skd than its log can take, each of which must be served.
fn more_than_the_log_takes(skd: &Instance) {
    for _ in 0..200 {
        assert_eq!(talk(skd.connect(), b"served"), b"served");
    }
}

/// The number of lost lines that a line reports.
fn lost_lines(line: &str) -> Option<usize> {
    let (number, _) = line.strip_prefix("skd: ")?.split_once(" lost here")?;
    Some(number.split(' ').next()?.parse().unwrap())
}

#[test]
fn an_unread_pipe_costs_lines_and_no_connections() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let skd = Skd::new(["-vt", "127.0.0.1:0"]).stderr(writer).run("cat");
    more_than_the_log_takes(&skd);
    // A reader comes back, finds whole lines, and learns that some are missing.
    let (sender, lines) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut seen = String::new();
    let mut connections = 200;
    wait_until("every line is there or among those that were lost", || {
        talk(skd.connect(), b"");
        connections += 1;
        let settled = poll_for(Duration::from_millis(200), || {
            while let Ok(bytes) = lines.try_recv() {
                seen += &String::from_utf8_lossy(&bytes);
            }
            let lost: usize = seen.lines().filter_map(lost_lines).sum();
            let arrived = seen
                .lines()
                .filter(|line| lost_lines(line).is_none())
                .count();
            (seen.ends_with('\n') && lost > 0 && arrived + lost == 2 * connections).then_some(())
        });
        settled.is_some()
    });
    for line in seen.lines() {
        let whole = ["Accepted connection", "Closed connection", "skd: "]
            .iter()
            .any(|start| line.starts_with(start));
        assert!(whole, "{line:?}");
    }
}

#[test]
fn a_pipe_whose_reader_has_gone_costs_no_connections() {
    let (reader, writer) = std::io::pipe().unwrap();
    let skd = Skd::new(["-vt", "127.0.0.1:0"]).stderr(writer).run("cat");
    drop(reader);
    for _ in 0..10 {
        assert_eq!(talk(skd.connect(), b"served"), b"served");
    }
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn an_unread_socket_costs_no_connections() {
    let (_reader, writer) = UnixStream::pair().unwrap();
    nix::sys::socket::setsockopt(&writer, nix::sys::socket::sockopt::SndBuf, &4096).unwrap();
    let skd = Skd::new(["-vt", "127.0.0.1:0"]).stderr(writer).run("cat");
    more_than_the_log_takes(&skd);
}

#[test]
fn an_unread_terminal_costs_no_connections() {
    let terminal = Terminal::new();
    let skd = Skd::new(["-vt", "127.0.0.1:0"])
        .stderr(terminal.end())
        .run("cat");
    more_than_the_log_takes(&skd);
}

#[test]
fn an_unread_fifo_costs_no_connections_after_a_reopen() {
    let directory = Directory::new();
    let fifo = directory.join("log");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let mut options = File::options();
    // Open for reading and writing, so that this needs no other process; then the FIFO is not read.
    let holder = options.read(true).write(true).open(&fifo).unwrap();
    fcntl(&holder, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let log = format!(">{}", fifo.display());
    let skd = Skd::new(["-vt", "127.0.0.1:0", "-L", &log]).run("cat");
    more_than_the_log_takes(&skd);
    // The file that is opened now is another one.
    fs::rename(&fifo, directory.join("old")).unwrap();
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let new = options.open(&fifo).unwrap();
    fcntl(&new, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    reopen(&skd, &directory, "log");
    more_than_the_log_takes(&skd);
    // The lines go to the new one.
    fcntl(&new, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut seen = Vec::new();
    wait_until("a line arrives", || {
        let _ = (&new).read_to_end(&mut seen);
        String::from_utf8_lossy(&seen).contains("Accepted connection")
    });
}

#[test]
fn a_file_replaced_by_a_pipe_costs_no_connections_either() {
    let directory = Directory::new();
    let log = directory.join("log");
    let skd = Skd::new(["-vt", "127.0.0.1:0", "-L", &format!(">{}", log.display())]).run("cat");
    fs::rename(&log, directory.join("old")).unwrap();
    mkfifo(&log, Mode::S_IRWXU).unwrap();
    let holder = File::options().read(true).write(true).open(&log).unwrap();
    fcntl(&holder, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    reopen(&skd, &directory, "log");
    more_than_the_log_takes(&skd);
}

#[test]
fn a_full_disk_costs_no_connections() {
    let skd = Skd::new(["-vt", "127.0.0.1:0", "-L", ">/dev/full"]).run("cat");
    for _ in 0..10 {
        assert_eq!(talk(skd.connect(), b"served"), b"served");
    }
}

#[test]
fn the_limit_of_file_sizes_costs_no_connections() {
    let directory = Directory::new();
    let socket = directory.name("socket");
    let skd = Skd::new([
        "-v",
        "-l",
        &socket,
        "-L",
        &format!(">{}", directory.name("log")),
    ])
    .limit(nix::sys::resource::Resource::RLIMIT_FSIZE, 1000, 1000)
    .run("cat");
    for _ in 0..50 {
        assert_eq!(talk(connect_unix(&socket), b"served"), b"served");
    }
    assert_eq!(fs::metadata(directory.join("log")).unwrap().len(), 1000);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn standard_error_of_handlers_goes_to_the_client_on_request() {
    const BOTH: [&str; 2] = ["-c", "echo out; echo error >&2"];
    // A connection, in wait mode the listener, and a datagram exchange.
    for options in [&["-v"][..], &["-v", "--max-clients=1"]] {
        let directory = Directory::new();
        let log = directory.join("log");
        let skd = Skd::new(options)
            .args(["--stderr", "client", "-t", "127.0.0.1:0"])
            .args(["-L", &format!(">{}", log.display())])
            .run_with("sh", BOTH);
        assert_eq!(talk(skd.connect(), b""), b"out\nerror\n");
        let text = wait_for_text(&log, "Closed connection");
        assert!(!text.contains("error"), "{text}");
    }
    // Of sh itself: [ is a part of it.
    let same = "cd /proc/$$/fd; [ 0 -ef 2 ] && [ 1 -ef 2 ] && echo same >>";
    for options in [
        &["--wait", "-t", "127.0.0.1:0"][..],
        &["-u", "127.0.0.1:0"],
        &["-u", "127.0.0.1:0", "--datagram-mode=per-peer"],
        &["-u", "127.0.0.1:0", "--datagram-mode=per-packet"],
    ] {
        let directory = Directory::new();
        let skd = Skd::new(["-v", "--stderr=client"])
            .args(options)
            .run_with("sh", ["-c", &format!("{same}{}", directory.name("found"))]);
        if options[0] == "--wait" {
            drop(skd.connect());
        } else {
            let client = udp_client(skd.address());
            client.send(b"datagram").unwrap();
        }
        wait_for_text(directory.join("found"), "same");
    }
    Skd::new(["--stderr=client", "-t", "127.0.0.1:0", "-S"])
        .start("cat")
        .expect_refusal(2, &["--stderr client can't be used with --supervise"]);
    Skd::new(["--stderr=client"])
        .start("cat")
        .expect_refusal(2, &["--stderr client has no use without a listener"]);
    Skd::new(["--stderr=both", "-t", "0"])
        .start("cat")
        .expect_refusal(2, &["--stderr", "client or log"]);
}

#[test]
fn the_relay_closes_no_descriptor_that_its_other_thread_has_just_opened() {
    requires_root();
    let directory = Directory::public();
    let log = directory.join("log");
    // The thread that opens files as the user is slow to confine itself. The first call asks for the version.
    let skd = Skd::new(["-v", "--user", "61234:61235", "-t", "127.0.0.1:0"])
        .arg("-L")
        .arg(format!(">{}", log.display()))
        .env("PATH", "/bin:/usr/bin")
        .wrapper(tampering(
            "landlock_create_ruleset",
            "delay_exit=300000:when=2",
        ))
        .run_with("sh", SPEAKER);
    talk(skd.connect(), b"");
    wait_for_text(&log, "from the handler");
    assert_eq!(relays(&skd).len(), 1);
    assert_eq!(skd.stop().code(), Some(0));
}
