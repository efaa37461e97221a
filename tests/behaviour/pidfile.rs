//! `-P`: one daemon for one pid file, with correct contents.

use crate::harness::{
    Directory, Program, Skd, command, connect_unix, descriptors, each_program, exists, ids,
    requires_command, requires_root, talk, tampering, wait_for, wait_until,
};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

#[test]
fn the_file_has_the_process_id_and_a_newline() {
    each_program(|program| {
        let directory = Directory::new();
        let skd = program
            .skd(["-t", "127.0.0.1:0", "-P", &directory.name("pid")])
            .run("cat");
        assert_eq!(directory.read("pid"), format!("{}\n", skd.pid()));
    });
}

#[test]
fn the_file_has_the_id_of_the_daemon_and_not_of_the_launcher() {
    each_program(|program| {
        let directory = Directory::new();
        let launcher = program
            .skd([
                "-BP",
                &directory.name("pid"),
                "-l",
                &directory.name("socket"),
            ])
            .start("cat");
        assert_eq!(launcher.wait().code(), Some(0));
        let text = directory.read("pid");
        let pid: i32 = text.trim_end().parse().unwrap();
        assert_eq!(text, format!("{pid}\n"));
        assert_ne!(pid, launcher.pid());
        assert!(exists(pid));
        // It is the daemon that serves.
        connect_unix(directory.join("socket"));
        let open = crate::harness::sockets(pid);
        assert!(open.iter().any(|socket| socket.listening), "{open:?}");
    });
}

#[test]
fn the_file_is_removed_at_the_end() {
    each_program(|program| {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
            let directory = Directory::new();
            let skd = program
                .skd([
                    "-P",
                    &directory.name("pid"),
                    "-l",
                    &directory.name("socket"),
                ])
                .limit(nix::sys::resource::Resource::RLIMIT_CORE, 0, 0)
                .run("cat");
            skd.signal(signal);
            let status = skd.wait();
            match program {
                Program::Ours => {
                    assert_eq!(status.code(), Some(0), "{signal}");
                    assert_eq!(directory.names(), [""; 0], "{signal}");
                }
                // It leaves both files behind.
                Program::Original => assert_eq!(directory.names(), ["pid", "socket"]),
            }
        }
    });
}

#[test]
fn the_file_is_removed_last() {
    requires_command("strace");
    let directory = Directory::new();
    let traces = Directory::new();
    let trace = traces.name("trace");
    let skd = Skd::new([
        "-P",
        &directory.name("pid"),
        "-l",
        &directory.name("socket"),
    ])
    .wrapper([
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=unlink,unlinkat",
        "-o",
        &trace,
    ])
    .run("cat");
    assert_eq!(skd.stop().code(), Some(0));
    let trace = traces.read("trace");
    let at = |name: &str| trace.find(&format!("\"{name}\"")).expect("a removal");
    assert!(at("socket") < at("pid"), "{trace}");
}

#[test]
fn a_second_daemon_is_refused_with_the_pid_of_the_first() {
    for background in ["-v", "-B"] {
        let directory = Directory::new();
        let pidfile = directory.name("pid");
        let first = Skd::new(["-P", &pidfile, "-l", &directory.name("first")]).run("cat");
        let id = first.pid().to_string();
        Skd::new([background, "-P", &pidfile, "-l", &directory.name("second")])
            .args(["-L", &format!(">{}", directory.name("log"))])
            .start("cat")
            .expect_refusal(1, &[&pidfile, &id]);
        assert_eq!(directory.names(), ["first", "pid", "pid.lock"]);
        assert_eq!(directory.read("pid"), format!("{id}\n"));
        assert_eq!(talk(first.connect_unix(), b"untouched"), b"untouched");
    }
}

#[test]
fn the_file_of_a_killed_daemon_is_taken_over() {
    let directory = Directory::new();
    let pidfile = directory.name("pid");
    let start = || Skd::new(["-P", &pidfile, "-l", &directory.name("socket")]).run("cat");
    let first = start();
    first.signal(Signal::SIGKILL);
    first.wait();
    assert_eq!(directory.read("pid"), format!("{}\n", first.pid()));
    let second = start();
    assert_eq!(directory.read("pid"), format!("{}\n", second.pid()));
    assert_eq!(second.stop().code(), Some(0));
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn any_contents_of_an_unlocked_file_are_replaced() {
    // Longer than a pid, the pid of a live process, and nothing at all.
    for text in [
        "this was never a pid file and has many words\n\n",
        "1\n",
        "",
    ] {
        let directory = Directory::new();
        let pidfile = directory.write("pid", text);
        let before = fs::metadata(&pidfile).unwrap().ino();
        let skd = Skd::new(["-t", "127.0.0.1:0", "-P"])
            .arg(&pidfile)
            .run("cat");
        assert_eq!(directory.read("pid"), format!("{}\n", skd.pid()));
        assert_eq!(fs::metadata(&pidfile).unwrap().ino(), before);
    }
}

#[test]
fn a_file_that_is_not_regular_is_refused_and_left_alone() {
    let directory = Directory::new();
    directory.write("target", "precious\n");
    symlink("target", directory.join("link")).unwrap();
    symlink("nowhere", directory.join("dangling")).unwrap();
    mkfifo(&directory.join("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
    fs::create_dir(directory.join("directory")).unwrap();
    let _listener = UnixListener::bind(directory.join("live")).unwrap();
    let before = directory.names();
    for name in [
        "link",
        "dangling",
        "fifo",
        "directory",
        "live",
        "directory/",
        ".",
    ] {
        for background in ["-v", "-B"] {
            Skd::new([background, "-P", name, "-l", "socket"])
                .cwd(directory.path())
                .start("cat")
                .expect_refusal(1, &["--pidfile", name]);
            assert_eq!(directory.names(), before, "{name}");
        }
    }
    Skd::new(["-P", "/dev/null", "-t", "127.0.0.1:0"])
        .start("cat")
        .expect_refusal(1, &["--pidfile", "/dev/null"]);
    assert_eq!(directory.read("target"), "precious\n");
}

#[test]
fn a_file_whose_directory_is_missing_is_refused() {
    let directory = Directory::new();
    Skd::new(["-P", "missing/pid", "-l", "socket"])
        .cwd(directory.path())
        .start("cat")
        .expect_refusal(1, &["--pidfile missing/pid", "No such file"]);
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn a_replaced_file_is_not_removed() {
    let directory = Directory::new();
    let skd = Skd::new(["-P", &directory.name("pid"), "-t", "127.0.0.1:0"]).run("cat");
    directory.write("new", "someone else's\n");
    fs::rename(directory.join("new"), directory.join("pid")).unwrap();
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(directory.read("pid"), "someone else's\n");
}

#[test]
fn a_removed_file_does_no_harm() {
    let directory = Directory::new();
    let skd = Skd::new(["-P", &directory.name("pid"), "-t", "127.0.0.1:0"]).run("cat");
    fs::remove_file(directory.join("pid")).unwrap();
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn a_file_is_removed_from_a_directory_that_was_renamed() {
    let directory = Directory::new();
    fs::create_dir(directory.join("before")).unwrap();
    let skd = Skd::new(["-P", &directory.name("before/pid"), "-t", "127.0.0.1:0"]).run("cat");
    fs::rename(directory.join("before"), directory.join("after")).unwrap();
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(fs::read_dir(directory.join("after")).unwrap().count(), 0);
}

#[test]
fn one_of_two_simultaneous_starts_wins() {
    for round in 0..20 {
        let directory = Directory::new();
        let pidfile = directory.name("pid");
        let starts = ["a", "b"]
            .map(|name| Skd::new(["-P", &pidfile, "-l", &directory.name(name)]).start("cat"));
        let loser = wait_for("one start that fails", || {
            (0..2).find(|&index| starts[index].try_wait(std::time::Duration::ZERO).is_some())
        });
        let winner = &starts[1 - loser];
        winner.wait_ready();
        starts[loser].expect_refusal(1, &["--pidfile", &pidfile, "locked"]);
        // Whatever the loser read of it, the winner's file is complete.
        assert_eq!(
            directory.read("pid"),
            format!("{}\n", winner.pid()),
            "round {round}"
        );
        assert_eq!(
            directory.names(),
            [["a", "b"][1 - loser], "pid", "pid.lock"]
        );
        assert_eq!(winner.stop().code(), Some(0));
        assert_eq!(directory.names(), [""; 0]);
    }
}

#[test]
fn a_start_while_another_daemon_ends_gets_the_file() {
    // The old owner removes the file between open and lock of the new one: then the lock is on a file without a name,
    // and the new one must try again.
    for round in 0..20 {
        let directory = Directory::new();
        let pidfile = directory.name("pid");
        let old = Skd::new(["-P", &pidfile, "-t", "127.0.0.1:0"]).run("cat");
        old.signal(Signal::SIGTERM);
        let mut refused = 0;
        let new = loop {
            let new = Skd::new(["-P", &pidfile, "-t", "127.0.0.1:0"]).start("cat");
            wait_until("it serves or is refused", || {
                !new.stdout_lines().is_empty() || new.try_wait(std::time::Duration::ZERO).is_some()
            });
            if !new.stdout_lines().is_empty() {
                break new;
            }
            new.expect_refusal(1, &["locked"]);
            refused += 1;
            assert!(refused < 1000, "round {round}");
        };
        assert_eq!(old.wait().code(), Some(0));
        assert_eq!(
            directory.read("pid"),
            format!("{}\n", new.pid()),
            "round {round}"
        );
    }
}

#[test]
fn a_failed_start_leaves_an_old_file_unchanged() {
    for background in ["-v", "-B"] {
        let directory = Directory::new();
        let pidfile = directory.write("pid", "4321\n");
        Skd::new([background, "-t", "127.0.0.1:0", "-P"])
            .arg(&pidfile)
            .start("no-such-program")
            .expect_refusal(127, &["no-such-program"]);
        assert_eq!(directory.read("pid"), "4321\n");
    }
}

#[test]
fn a_handler_has_no_descriptor_of_the_file() {
    let directory = Directory::new();
    let skd = Skd::new(["-P", &directory.name("pid"), "-t", "127.0.0.1:0"]).run("cat");
    let _stream = skd.connect();
    let handler = skd.wait_for_children(1)[0];
    wait_until("it has been exec'd with 0, 1 and 2", || {
        descriptors(handler).into_keys().eq([0, 1, 2])
    });
    // So a handler that outlives skd doesn't block the next start.
    assert_eq!(skd.stop().code(), Some(0));
    assert!(exists(handler));
    let new = Skd::new(["-P", &directory.name("pid"), "-t", "127.0.0.1:0"]).run("cat");
    assert_eq!(directory.read("pid"), format!("{}\n", new.pid()));
}

/// Whether the process holds the file open.
fn holds(pid: i32, path: &Path) -> bool {
    descriptors(pid)
        .values()
        .any(|target| Path::new(target) == path)
}

#[test]
fn a_program_run_in_place_inherits_the_lock() {
    for background in [false, true] {
        let directory = Directory::new();
        let pidfile = directory.join("pid");
        let options = ["-P", pidfile.to_str().unwrap()];
        let skd = Skd::new(options);
        let line = ["-c", "exec sleep 1000"];
        let (pid, _running, _daemon) = if background {
            let daemon = skd.daemon_with("sh", line);
            (daemon.pid(), None, Some(daemon))
        } else {
            let running = skd.start_with("sh", line);
            (running.pid(), Some(running), None)
        };
        wait_until("sleep runs", || {
            command(pid).first().is_some_and(|word| word == "sleep")
        });
        assert_eq!(directory.read("pid"), format!("{pid}\n"));
        assert!(holds(pid, &directory.join("pid.lock")));
        assert!(!holds(pid, &pidfile));
        Skd::new(options)
            .start("true")
            .expect_refusal(1, &["locked", &pid.to_string()]);
        let handle = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(handle, Signal::SIGKILL).unwrap();
        wait_until("sleep has ended", || !exists(pid));
        // The files stay, since no process is left to remove them, and don't block the next start.
        assert_eq!(directory.read("pid"), format!("{pid}\n"));
        let next = Skd::new(options).start("true");
        assert_eq!(next.wait().code(), Some(0));
        assert_eq!(directory.read("pid"), format!("{}\n", next.pid()));
    }
}

#[test]
fn a_supervisor_keeps_the_file_to_itself() {
    let directory = Directory::new();
    let pidfile = directory.join("pid");
    let skd = Skd::new(["-S", "-P"])
        .arg(&pidfile)
        .start_with("sleep", ["1000"]);
    // Not just any child: the first one only tries the preparation.
    let program = wait_for("sleep runs", || {
        let runs = |pid: &i32| command(*pid).first().is_some_and(|word| word == "sleep");
        skd.children().into_iter().find(runs)
    });
    assert_eq!(directory.read("pid"), format!("{}\n", skd.pid()));
    for path in [&pidfile, &directory.join("pid.lock")] {
        assert!(holds(skd.pid(), path));
        assert!(!holds(program, path));
    }
    skd.stop();
    assert_eq!(directory.names(), [""; 0]);
}

/// Started by root, with privileges dropped.
fn dropped(directory: &Directory) -> Skd {
    requires_root();
    Skd::new([
        "-U",
        "-P",
        &directory.name("pid"),
        "-l",
        &directory.name("socket"),
    ])
    .env("UID", "61234")
    .env("GID", "61235")
    .env_remove("ROOT")
}

#[test]
fn after_a_drop_of_privileges_the_file_is_emptied_where_it_cannot_be_removed() {
    let directory = Directory::public();
    for round in 0..2 {
        let skd = dropped(&directory).run("cat");
        assert_eq!(ids(skd.pid()).0, [61234; 4]);
        assert_eq!(directory.read("pid"), format!("{}\n", skd.pid()));
        assert_eq!(
            talk(skd.connect_unix(), b"there"),
            b"there",
            "round {round}"
        );
        assert_eq!(skd.stop().code(), Some(0));
        // Neither file blocks a start: the second round takes them over.
        assert_eq!(directory.names(), ["pid", "pid.lock", "socket"]);
        assert_eq!(directory.read("pid"), "");
    }
}

#[test]
fn the_file_is_emptied_in_a_directory_that_the_user_cannot_search() {
    requires_root();
    let directory = Directory::public();
    fs::create_dir(directory.join("priv")).unwrap();
    directory.chmod("priv", 0o700);
    for round in 0..2 {
        let skd = Skd::new(["-P", &directory.name("priv/pid"), "--daemon-user", "nobody"])
            .args(["-t", "127.0.0.1:0"])
            .run("cat");
        assert!(!ids(skd.pid()).0.contains(&0), "round {round}");
        assert_eq!(directory.read("priv/pid"), format!("{}\n", skd.pid()));
        let status = skd.stop();
        assert_eq!(status.code(), Some(0), "round {round}");
        assert_eq!(skd.log_lines(), [""; 0]);
        // There, and empty.
        assert_eq!(fs::read(directory.join("priv/pid")).unwrap(), b"");
    }
}

#[test]
fn after_a_drop_of_privileges_the_file_is_removed_where_it_can_be() {
    let directory = Directory::public();
    directory.chmod("", 0o777);
    let skd = dropped(&directory).run("cat");
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn after_a_chroot_the_file_is_removed_from_where_it_was() {
    let (directory, root) = (Directory::public(), Directory::public());
    directory.chmod("", 0o777);
    root.install(&["/bin/cat"]);
    // A file of the same name that isn't skd's.
    fs::create_dir_all(root.join(directory.name("").trim_start_matches('/'))).unwrap();
    let inside = root.join(directory.name("pid").trim_start_matches('/'));
    fs::write(&inside, "inside\n").unwrap();
    let skd = dropped(&directory).env("ROOT", root.path()).run("/bin/cat");
    assert_eq!(talk(skd.connect_unix(), b"there"), b"there");
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(directory.names(), [""; 0]);
    assert_eq!(fs::read_to_string(inside).unwrap(), "inside\n");
}

#[test]
fn a_file_that_cannot_be_written_fails_the_start() {
    requires_root();
    let namespace = crate::harness::Namespace::new();
    // A full disk of one page.
    namespace
        .shell("mount -t tmpfs -o size=4k,mode=777 tmpfs /mnt; head -c 4096 /dev/zero > /mnt/full");
    Skd::new(["-P", "/mnt/pid", "-l", "/mnt/socket"])
        .inside(&namespace)
        .start("cat")
        .expect_refusal(1, &["--pidfile /mnt/pid", "No space left"]);
    let left = fs::read_dir(namespace.path("/mnt")).unwrap();
    let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
    assert_eq!(left, ["full"]);
    File::open(namespace.path("/mnt/full")).unwrap();
}

#[test]
fn a_file_that_cannot_be_checked_after_its_lock_is_removed() {
    let directory = Directory::new();
    let mut wrapper = tampering("newfstatat", "error=EIO").to_vec();
    // By its name, and not by its descriptor.
    wrapper.splice(1..1, ["-P", "pid"].map(str::to_owned));
    Skd::new(["-t", "127.0.0.1:0", "-P", &directory.name("pid")])
        .wrapper(wrapper)
        .start("cat")
        .expect_refusal(1, &["--pidfile", "I/O error"]);
    assert_eq!(directory.names(), [""; 0]);
}

/// A process of another user that locks a file, until it is dropped.
fn locked_by_a_reader(path: &Path, how: &str) -> impl Drop {
    struct Reader(std::process::Child);
    impl Drop for Reader {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }
    requires_command("perl");
    let script = r#"use Fcntl ":flock"; $< = $> = 61234; open(F, "<", $ARGV[0]) or die;
        flock(F, $ARGV[1] eq "shared" ? LOCK_SH : LOCK_EX) or die; $| = 1; print "locked\n"; sleep 1000"#;
    let mut command = std::process::Command::new("perl");
    command.args(["-e", script]).arg(path).arg(how);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("perl");
    let mut text = [0; 7];
    let mut output = child.stdout.take().unwrap();
    std::io::Read::read_exact(&mut output, &mut text).expect("it is locked");
    Reader(child)
}

#[test]
fn a_user_that_can_only_read_the_file_does_not_prevent_a_start() {
    requires_root();
    for how in ["shared", "exclusive"] {
        let directory = Directory::public();
        let pidfile = directory.write("pid", "");
        directory.chmod("pid", 0o644);
        let reader = locked_by_a_reader(&pidfile, how);
        let options = ["-t", "127.0.0.1:0", "-P", pidfile.to_str().unwrap()];
        Skd::new(options)
            .arg("--check")
            .start("cat")
            .wait_with_output()
            .expect_code(0);
        let skd = Skd::new(options).run("cat");
        assert_eq!(directory.read("pid"), format!("{}\n", skd.pid()));
        // And it is still one daemon for one file.
        for background in ["-v", "-B"] {
            Skd::new(options)
                .arg(background)
                .start("cat")
                .expect_refusal(1, &["locked", &skd.pid().to_string()]);
        }
        assert_eq!(skd.stop().code(), Some(0));
        assert_eq!(directory.names(), [""; 0]);
        drop(reader);
    }
}

#[test]
fn no_other_user_can_open_the_lock() {
    requires_root();
    let directory = Directory::public();
    let pidfile = directory.name("pid");
    let skd = Skd::new(["-t", "127.0.0.1:0", "-P", &pidfile])
        .umask(0)
        .run("cat");
    let lock = fs::metadata(directory.join("pid.lock")).unwrap();
    assert_eq!((lock.mode() & 0o7777, lock.uid()), (0o600, 0));
    assert_eq!(skd.stop().code(), Some(0));
    // A lock of another kind is left alone.
    let lock = directory.write("pid.lock", "kept\n");
    let refuse = |why: &str| {
        let start = |check| {
            let skd = Skd::new(["-t", "127.0.0.1:0", "-P", &pidfile]).args(check);
            skd.start("cat").expect_refusal(1, &["pid.lock", why]);
        };
        start(None);
        start(Some("--check"));
        assert_eq!(directory.read("pid.lock"), "kept\n");
    };
    directory.chmod("pid.lock", 0o644);
    refuse("0600");
    directory.chmod("pid.lock", 0o600);
    std::os::unix::fs::chown(&lock, Some(61234), None).unwrap();
    refuse("61234");
    std::os::unix::fs::chown(&lock, Some(0), None).unwrap();
    fs::hard_link(&lock, directory.join("other")).unwrap();
    refuse("2 names");
    fs::remove_file(&lock).unwrap();
    symlink("other", &lock).unwrap();
    refuse("symbolic link");
    fs::remove_file(&lock).unwrap();
    assert_eq!(directory.names(), ["other"]);
}

#[test]
fn a_lock_file_that_was_left_does_not_prevent_a_start() {
    let directory = Directory::new();
    let pidfile = directory.name("pid");
    directory.write("pid.lock", "");
    directory.chmod("pid.lock", 0o600);
    let skd = Skd::new(["-t", "127.0.0.1:0", "-P", &pidfile]).run("cat");
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn a_daemon_that_locks_the_pid_file_itself_is_recognised() {
    requires_command("perl");
    let directory = Directory::new();
    let pidfile = directory.write("pid", "");
    // As skd 2.0 does.
    let script = r#"use Fcntl ":flock"; open(F, "+<", $ARGV[0]) or die; flock(F, LOCK_EX) or die;
        $| = 1; syswrite(F, "$$\n"); print "locked\n"; sleep 1000"#;
    let mut command = std::process::Command::new("perl");
    command.args(["-e", script]).arg(&pidfile);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("perl");
    wait_until("it has written the file", || {
        directory.read("pid") == format!("{}\n", child.id())
    });
    let skd = Skd::new(["-t", "127.0.0.1:0", "-P", pidfile.to_str().unwrap()]);
    skd.start("cat")
        .expect_refusal(1, &["locked", &child.id().to_string()]);
    let check = Skd::new(["--check", "-t", "127.0.0.1:0", "-P"])
        .arg(&pidfile)
        .start("cat");
    let check = check.wait_with_output();
    check
        .expect_code(0)
        .expect_stderr(&["locked by a running daemon"]);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(directory.names(), ["pid"]);
}

#[test]
fn a_user_that_can_make_no_file_locks_the_pid_file() {
    requires_root();
    let directory = Directory::public();
    let pidfile = directory.write("pid", "");
    std::os::unix::fs::chown(&pidfile, Some(61234), Some(61234)).unwrap();
    let start = || {
        Skd::new(["-t", "127.0.0.1:0", "-P"])
            .arg(&pidfile)
            .user(61234, 61234, [])
    };
    let first = start().run("cat");
    assert_eq!(directory.read("pid"), format!("{}\n", first.pid()));
    start()
        .start("cat")
        .expect_refusal(1, &["locked", &first.pid().to_string()]);
    assert_eq!(first.stop().code(), Some(0));
    assert_eq!(directory.names(), ["pid"]);
    assert_eq!(directory.read("pid"), "");
}
