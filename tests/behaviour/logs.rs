//! `-L >FILE` and `-L >>FILE`, and what happens to lines that can't be written.

use crate::harness::{
    Directory, Instance, Skd, Terminal, connect_unix, each_program, poll_for, requires_root, talk,
    wait_for_text, wait_until,
};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, symlink};
use std::os::unix::net::UnixStream;
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
        assert!(bytes.starts_with(b"Accepted connection"), "{bytes:?}");
        let pid = skd.pid();
        let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/2")).unwrap();
        let flags = info
            .lines()
            .find_map(|line| line.strip_prefix("flags:"))
            .unwrap();
        let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
        assert_ne!(flags & libc::O_APPEND, 0, "{info}");
        // A handler may not expect the contrary.
        assert_eq!(flags & libc::O_NONBLOCK, 0, "{info}");
    }
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
    wait_until("all are reported", || count("\nClosed ") == CLIENTS * EACH);
    for line in fs::read_to_string(&log).unwrap().lines() {
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

/// Whether the standard error of skd is the file of this name.
fn is_log(skd: &Instance, directory: &Directory, name: &str) -> bool {
    let open = fs::metadata(format!("/proc/{}/fd/2", skd.pid())).unwrap();
    fs::metadata(directory.join(name))
        .is_ok_and(|file| (file.dev(), file.ino()) == (open.dev(), open.ino()))
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
        "skd: the log file can't be opened again: Is a directory",
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
fn dropped(log: &str) -> Skd {
    requires_root();
    Skd::new(["-U", "-vt", "127.0.0.1:0", "-L", log])
        .env("UID", "61234")
        .env("GID", "61235")
        .env_remove("ROOT")
}

#[test]
fn after_a_drop_of_privileges_the_log_is_reopened_as_that_user() {
    let directory = Directory::public();
    let log = directory.join("log");
    let skd = dropped(&format!(">{}", log.display())).run("cat");
    fs::rename(&log, directory.join("old")).unwrap();
    // The user can't create a file in root's directory.
    skd.signal(Signal::SIGHUP);
    wait_for_text(
        directory.join("old"),
        "can't be opened again: Permission denied",
    );
    // As logrotate does it: with a new file that belongs to the user.
    File::create(&log).unwrap();
    std::os::unix::fs::chown(&log, Some(61234), Some(61235)).unwrap();
    reopen(&skd, &directory, "log");
    talk(skd.connect(), b"");
    wait_for_text(&log, "Accepted connection");
}

#[test]
fn after_a_chroot_the_log_is_reopened_at_its_old_path() {
    let (directory, root) = (Directory::public(), Directory::public());
    directory.chmod("", 0o777);
    root.install(&["/bin/cat"]);
    let log = directory.join("log");
    let skd = dropped(&format!(">{}", log.display()))
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
        assert_eq!(directory.read("log"), "to the log\n");
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
