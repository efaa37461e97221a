//! Paths that lead through directories where other users write.

use crate::harness::{
    Directory, Skd, Stranger, requires_command, requires_root, talk, tampering, wait_until,
};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use skd::sys::directory::Entry;
use skd::sys::trusted::{Base, Purpose};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;

/// The user that writes where root opens files.
const STRANGER: u32 = 65534;
const SECRET: &str = "root:x:0:0\n";

/// A directory with two others in it: `mine`, where only root writes and which has `secret` and
/// `log`, both root's; and `theirs`, which is a stranger's.
fn ground() -> Directory {
    requires_root();
    let directory = Directory::public();
    for name in ["mine", "theirs"] {
        fs::create_dir(directory.join(name)).unwrap();
        directory.chmod(name, 0o755);
    }
    for name in ["mine/secret", "mine/log"] {
        directory.write(name, SECRET);
        directory.chmod(name, 0o600);
    }
    chown(directory.join("theirs"), Some(STRANGER), Some(STRANGER)).unwrap();
    directory
}

impl Ground for Directory {}

trait Ground {
    /// Makes a symbolic link of the stranger's.
    fn link(&self, target: impl AsRef<Path>, name: impl AsRef<Path>) {
        symlink(target, &name).unwrap();
        lchown(name, Some(STRANGER), Some(STRANGER)).unwrap();
    }
}

#[track_caller]
fn assert_untouched(directory: &Directory) {
    assert_eq!(directory.read("mine/secret"), SECRET);
    assert_eq!(directory.read("mine/log"), SECRET);
    let mut names: Vec<_> = fs::read_dir(directory.join("mine"))
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["log", "secret"]);
}

/// Starts this program of the stranger's.
#[track_caller]
fn stranger(directory: &Directory, line: &str) -> Stranger {
    requires_command("perl");
    let line = format!("$| = 1; print 'begins'; {line}");
    Stranger::start(STRANGER, directory, ["perl", "-e", &line])
}

/// Opens and writes again and again while a stranger changes what is there, and returns how often
/// that succeeded and failed.
fn race(directory: &Directory, path: &str, line: &str) -> [usize; 2] {
    let root: Vec<_> = ["mine/secret", "mine/log"]
        .map(|name| fs::metadata(directory.join(name)).unwrap().ino())
        .into();
    let stranger = stranger(directory, line);
    let path = directory.join(path);
    let mut count = [0; 2];
    for round in 0.. {
        let purpose = [&Purpose::LOG, &Purpose::PIDFILE, &Purpose::LOCK][round % 3];
        let opened = Entry::of(&path).and_then(|entry| entry.open(purpose));
        count[usize::from(opened.is_err())] += 1;
        if let Ok((mut file, _)) = opened {
            let found = file.metadata().unwrap();
            assert!(found.is_file());
            assert!(!root.contains(&found.ino()), "round {round}");
            file.set_len(0).unwrap();
            file.write_all(b"line\n").unwrap();
        }
        // Both have happened, or it never will.
        if round >= 4000 && count.iter().all(|count| *count > 50) || round > 400_000 {
            break;
        }
    }
    drop(stranger);
    assert_untouched(directory);
    count
}

#[test]
fn no_file_of_roots_is_opened_while_a_stranger_swaps_what_is_at_the_path() {
    let directory = ground();
    // As with protected_hardlinks off: a second name of root's file, which the stranger can move.
    fs::hard_link(directory.join("mine/secret"), directory.join("theirs/hard")).unwrap();
    let count = race(
        &directory,
        "theirs/log",
        r#"while (1) {
            open(F, ">file"); close F; rename("file", "log");
            symlink("../mine/secret", "link"); rename("link", "log");
            symlink("../mine/new", "link"); rename("link", "log");
            open(F, ">file"); close F; rename("file", "log");
            rename("hard", "log"); rename("log", "hard");
            mkdir("directory"); rename("directory", "log"); rmdir("log");
        }"#,
    );
    assert!(count.iter().all(|count| *count > 50), "{count:?}");
}

#[test]
fn no_file_of_roots_is_opened_while_a_stranger_swaps_a_directory_of_the_path() {
    let directory = ground();
    let count = race(
        &directory,
        "theirs/logs/log",
        r#"mkdir("logs"); mkdir("other");
        while (1) {
            rename("logs", "kept"); symlink("../mine", "logs"); unlink("logs"); rename("kept", "logs");
            symlink("../../mine/log", "logs/log"); unlink("logs/log");
            rename("logs", "kept"); rename("other", "logs"); rename("logs", "other"); rename("kept", "logs");
        }"#,
    );
    assert!(count.iter().all(|count| *count > 50), "{count:?}");
}

#[test]
fn a_parent_of_a_directory_that_a_stranger_moves_is_that_strangers_choice() {
    let directory = ground();
    let inner = directory.join("theirs/a/b");
    fs::create_dir_all(&inner).unwrap();
    for path in [&directory.join("theirs/a"), &inner] {
        chown(path, Some(STRANGER), Some(STRANGER)).unwrap();
    }
    let trusted = |path: &Path| Base::open(path).unwrap().is_trusted().unwrap();
    assert!(trusted(&directory.join("mine")));
    assert!(trusted(&directory.join("mine/../mine")));
    assert!(!trusted(&directory.join("theirs")));
    assert!(trusted(&directory.join("theirs/../mine")));
    assert!(!trusted(&inner.join("../../../mine")));
}

/// Starts with a log, and returns what it says when it refuses.
fn refused(log: &str) -> String {
    let skd = Skd::new(["-t", "127.0.0.1:0", "-L", log]).start("cat");
    let output = skd.expect_refusal(1, &["--log", "can't be opened"]);
    // The same, without opening anything.
    let check = Skd::new(["--check", "-t", "127.0.0.1:0", "-L", log]).start("cat");
    check.expect_refusal(1, &["--log", "can't be opened"]);
    output.stderr
}

#[test]
fn a_log_is_not_opened_through_a_link_of_a_stranger() {
    let directory = ground();
    let at = |name: &str| directory.join("theirs").join(name);
    directory.link("../mine/secret", at("log"));
    directory.link("../mine/new", at("new"));
    directory.link("../mine", at("logs"));
    fs::hard_link(directory.join("mine/secret"), at("hard")).unwrap();
    mkfifo(&at("fifo"), Mode::from_bits_truncate(0o666)).unwrap();
    directory.link("/dev/null", at("device"));
    // Root's own link doesn't change where it is: anyone could have moved it there.
    symlink("../mine/secret", at("roots")).unwrap();
    for name in [
        "log", "new", "logs/log", "logs/new", "hard", "fifo", "device", "roots",
    ] {
        for how in [">>", ">"] {
            let why = refused(&format!("{how}{}", at(name).display()));
            assert!(why.contains("user"), "{why}");
        }
        assert_untouched(&directory);
    }
    let why = refused(&format!(">>{}", at("roots").display()));
    assert!(why.contains("user 65534 chooses what is in"), "{why}");
    assert!(
        why.contains("so the symbolic link roots there isn't followed"),
        "{why}"
    );
}

/// The log has this line after a start and a stop.
#[track_caller]
fn logs(log: &str, file: &Path) {
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "-L", log]).run("true");
    drop(skd.connect());
    wait_until("it is logged", || {
        fs::read_to_string(file).is_ok_and(|text| text.contains("127.0.0.1"))
    });
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_log_is_opened_where_it_belongs_to_the_owner_of_the_directory() {
    let directory = ground();
    let at = |name: &str| directory.join("theirs").join(name);
    // New, which root makes.
    logs(&format!(">>{}", at("new").display()), &at("new"));
    // The stranger's own, and through a link of theirs to their own.
    for name in ["own", "target"] {
        File::create(at(name)).unwrap();
        chown(at(name), Some(STRANGER), Some(STRANGER)).unwrap();
    }
    logs(&format!(">>{}", at("own").display()), &at("own"));
    directory.link("target", at("link"));
    logs(&format!(">>{}", at("link").display()), &at("target"));
    // Root's links are followed where only root writes.
    symlink("../theirs", directory.join("mine/logs")).unwrap();
    let through = directory.join("mine/logs/through");
    logs(&format!(">>{}", through.display()), &at("through"));
}

#[test]
fn in_a_sticky_directory_owners_decide() {
    let directory = ground();
    fs::create_dir(directory.join("tmp")).unwrap();
    directory.chmod("tmp", 0o1777);
    let at = |name: &str| directory.join("tmp").join(name);
    symlink("../mine/secret", at("roots")).unwrap();
    symlink("own", at("follow")).unwrap();
    directory.link("../mine/secret", at("theirs"));
    File::create(at("file")).unwrap();
    chown(at("file"), Some(STRANGER), None).unwrap();
    fs::create_dir(at("directory")).unwrap();
    chown(at("directory"), Some(STRANGER), None).unwrap();
    directory.link("../../mine/secret", at("directory/log"));
    for name in ["theirs", "file", "directory/log"] {
        refused(&format!(">>{}", at(name).display()));
    }
    assert_untouched(&directory);
    logs(&format!(">>{}", at("follow").display()), &at("own"));
    // By chmod 777 it is anyone's.
    directory.chmod("tmp", 0o777);
    for name in ["roots", "follow", "theirs", "file"] {
        refused(&format!(">>{}", at(name).display()));
    }
    assert_untouched(&directory);
}

#[test]
fn a_group_that_may_write_is_another_user_unless_it_is_roots() {
    let directory = ground();
    fs::create_dir(directory.join("group")).unwrap();
    symlink("../mine/through", directory.join("group/log")).unwrap();
    directory.chmod("group", 0o2775);
    let log = format!(">>{}", directory.name("group/log"));
    logs(&log, &directory.join("mine/through"));
    chown(directory.join("group"), None, Some(STRANGER)).unwrap();
    directory.chmod("group", 0o2775);
    refused(&log);
    // A regular file is opened there, of any user.
    fs::remove_file(directory.join("group/log")).unwrap();
    File::create(directory.join("group/log")).unwrap();
    chown(directory.join("group/log"), Some(STRANGER), None).unwrap();
    logs(&log, &directory.join("group/log"));
}

#[test]
fn a_log_may_be_a_descriptor_or_a_device() {
    requires_root();
    let directory = Directory::new();
    for path in ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        let file = File::create(directory.join("out")).unwrap();
        let skd = Skd::new(["-v", "-l", &directory.name("socket")])
            .args(["-L", &format!(">>{path}")])
            .stdout(file)
            .run("true");
        drop(skd.connect_unix());
        wait_until("it is logged", || !directory.read("out").is_empty());
        assert_eq!(skd.stop().code(), Some(0));
    }
    let skd = Skd::new(["-t", "127.0.0.1:0", "-L", ">>/dev/null"]).run("cat");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_hangup_opens_no_file_of_roots_either() {
    let directory = ground();
    let log = directory.join("theirs/skd.log");
    let kept = directory.join("theirs/kept");
    for target in ["../mine/secret", "../mine/new"] {
        let option = format!(">>{}", log.display());
        let skd = Skd::new(["-t", "127.0.0.1:0", "-L", &option]).run("cat");
        fs::rename(&log, &kept).unwrap();
        directory.link(target, &log);
        skd.signal(Signal::SIGHUP);
        wait_until("it refuses", || {
            let text = fs::read_to_string(&kept).unwrap();
            text.contains("can't be opened again") && text.contains("the old one is kept")
        });
        fs::remove_file(&log).unwrap();
        fs::remove_file(&kept).unwrap();
        assert_eq!(skd.stop().code(), Some(0));
    }
    assert_untouched(&directory);
}

#[test]
fn a_pid_file_with_another_name_or_owner_is_left_alone() {
    let directory = ground();
    fs::create_dir(directory.join("run")).unwrap();
    fs::hard_link(directory.join("mine/secret"), directory.join("run/hard")).unwrap();
    directory.write("run/other", "4321\n");
    chown(directory.join("run/other"), Some(STRANGER), None).unwrap();
    for (name, why) in [("hard", "2 names"), ("other", "another user (65534)")] {
        for check in [false, true] {
            let mut skd = Skd::new([
                "-t",
                "127.0.0.1:0",
                "-P",
                &directory.name(&format!("run/{name}")),
            ]);
            if check {
                skd = skd.arg("--check");
            }
            skd.start("cat")
                .expect_refusal(1, &["--pidfile", why, "left alone"]);
        }
    }
    assert_untouched(&directory);
    assert_eq!(directory.read("run/other"), "4321\n");
}

/// A file is of the user that skd gives sockets to only if it is a socket.
#[track_caller]
fn assert_only_sockets_change(directory: &Directory) {
    for name in ["mine", "theirs"] {
        for entry in fs::read_dir(directory.join(name)).unwrap().flatten() {
            let Ok(found) = fs::symlink_metadata(entry.path()) else {
                continue;
            };
            let is_socket = std::os::unix::fs::FileTypeExt::is_socket(&found.file_type());
            assert!(is_socket || found.uid() != 61234, "{:?}", entry.path());
        }
    }
}

#[test]
fn the_owner_of_a_socket_is_that_of_the_socket_alone() {
    let directory = ground();
    fs::hard_link(directory.join("mine/secret"), directory.join("theirs/hard")).unwrap();
    let stranger = stranger(
        &directory,
        r#"while (1) {
            next unless -S "socket";
            rename("socket", "moved"); rename("hard", "socket");
            rename("socket", "hard"); symlink("../mine/log", "socket"); unlink("socket");
            rename("moved", "socket");
        }"#,
    );
    for _ in 0..30 {
        let skd = Skd::new(["--unix-owner", "61234:61234", "-l"])
            .arg(directory.join("theirs/socket"))
            .args(["--ready-fd", "1"])
            .start("cat");
        wait_until("it serves or is refused", || {
            !skd.stdout_lines().is_empty() || skd.try_wait(std::time::Duration::ZERO).is_some()
        });
        assert_only_sockets_change(&directory);
    }
    drop(stranger);
    assert_untouched(&directory);
}

#[test]
fn no_live_socket_is_lost_while_starts_replace_a_stale_one() {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
    let directory = Directory::public();
    let path = directory.join("socket");
    let lock = File::open(directory.path()).unwrap();
    lock.lock().unwrap();
    for round in 0..5 {
        let (family, kind) = (AddressFamily::Unix, SockType::Stream);
        let stale = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
        let address = UnixAddr::new(&path).unwrap();
        bind(std::os::fd::AsRawFd::as_raw_fd(&stale), &address).unwrap();
        crate::harness::close_unix(stale, &path);
        let starts: Vec<_> = (0..8)
            .map(|_| Skd::new(["-l"]).arg(&path).start("cat"))
            .collect();
        let ended =
            |skd: &&crate::harness::Running| skd.try_wait(std::time::Duration::ZERO).is_some();
        wait_until("all but one have ended", || {
            starts.iter().filter(ended).count() >= 7
        });
        let winner = starts.iter().find(|skd| !ended(skd)).expect("a winner");
        winner.wait_ready();
        let answer = talk(crate::harness::connect_unix(&path), b"one");
        assert_eq!(answer, b"one", "round {round}");
        assert_eq!(directory.names(), ["socket"]);
        assert_eq!(winner.stop().code(), Some(0));
        assert_eq!(directory.names(), [""; 0]);
    }
}

#[test]
fn a_file_that_takes_the_name_of_a_new_socket_keeps_its_owner() {
    for (name, steps) in [
        ("a hard link", r#"rename("hard", "socket")"#),
        ("a symbolic link", r#"symlink("../mine/log", "socket")"#),
        ("nothing", ""),
    ] {
        let directory = ground();
        fs::hard_link(directory.join("mine/secret"), directory.join("theirs/hard")).unwrap();
        let _stranger = stranger(
            &directory,
            &format!(
                r#"while (!-S "socket") {{}}
                rename("socket", "moved"); {steps}; open(F, ">swapped"); close F; sleep 1000;"#
            ),
        );
        // Long enough for the stranger, between bind(2) and what follows.
        Skd::new(["--unix-owner", "61234:61234", "-l"])
            .arg(directory.join("theirs/socket"))
            .wrapper(tampering("bind", "delay_exit=2000000"))
            .start("cat")
            .expect_refusal(1, &["another user moves files or directories of that path"]);
        assert!(directory.join("theirs/swapped").exists(), "{name}");
        assert_only_sockets_change(&directory);
        assert_untouched(&directory);
    }
}

#[test]
fn the_owner_of_a_socket_changes_only_if_the_kernel_knows_its_file() {
    requires_command("setpriv");
    let directory = ground();
    let path = directory.join("theirs/socket");
    let start = || {
        Skd::new(["--unix-owner", "61234:61234", "-l"])
            .arg(&path)
            .wrapper([
                "setpriv",
                "--bounding-set",
                "-net_admin",
                "--inh-caps",
                "-net_admin",
            ])
    };
    let skd = start().run("cat");
    assert_eq!(fs::metadata(&path).unwrap().uid(), 61234);
    assert_eq!(skd.stop().code(), Some(0));
    let namespaced = start().refusing_bits(libc::SYS_socket, 2, 4, nix::errno::Errno::EPERM);
    namespaced.start("cat").expect_refusal(
        1,
        &[
            "--unix",
            "the kernel doesn't say which file",
            "use another directory",
        ],
    );
    // Where only root writes there is nothing to ask.
    let skd = Skd::new(["--unix-owner", "61234:61234", "-l"])
        .arg(directory.join("socket"))
        .refusing_bits(libc::SYS_socket, 2, 4, nix::errno::Errno::EPERM)
        .run("cat");
    assert_eq!(fs::metadata(directory.join("socket")).unwrap().uid(), 61234);
    assert_eq!(skd.stop().code(), Some(0));
}

/// Rules that are read, or refused with these words, at the start and by `--check`.
#[track_caller]
fn rules(path: &Path, refused: Option<&str>) {
    for check in [None, Some("--check")] {
        let skd = Skd::new(["-t", "127.0.0.1:0", "--rules"]).arg(path);
        let skd = skd.args(check);
        match refused {
            None if check.is_none() => drop(skd.run("cat")),
            None => drop(skd.start("cat").wait_with_output().expect_code(0)),
            Some(why) => {
                let output = skd
                    .start("cat")
                    .expect_refusal(1, &["can't be opened", why]);
                assert!(!output.stderr.contains("root:x"), "{}", output.stderr);
            }
        }
    }
}

#[test]
fn rules_of_another_user_name_only_files_that_this_user_can_read() {
    let directory = ground();
    let at = |name: &str| directory.join("theirs").join(name);
    directory.link("../mine/secret", at("link"));
    rules(&at("link"), Some("another user has chosen"));
    directory.write("list", "192.0.2.0/24\n");
    for (index, (list, refused)) in [
        (
            directory.name("mine/secret"),
            Some("another user has chosen"),
        ),
        ("../mine/secret".into(), Some("another user has chosen")),
        ("link".into(), Some("another user has chosen")),
        ("own".into(), None),
        // Any user can read it.
        (directory.name("list"), None),
    ]
    .into_iter()
    .enumerate()
    {
        let file = at(&format!("rules{index}"));
        fs::write(&file, format!("allow file={list}\n")).unwrap();
        fs::write(at("own"), "192.0.2.0/24\n").unwrap();
        for path in [&file, &at("own")] {
            chown(path, Some(STRANGER), None).unwrap();
        }
        rules(&file, refused);
        // Of root's, but all users can write it.
        if refused.is_some() {
            let file = directory.join("rules");
            fs::write(
                &file,
                format!("allow file={}\n", directory.name("mine/secret")),
            )
            .unwrap();
            directory.chmod("rules", 0o666);
            rules(&file, Some("another user has chosen"));
            directory.chmod("rules", 0o644);
            let output = Skd::new(["-t", "127.0.0.1:0", "--rules"])
                .arg(&file)
                .start("cat");
            output.expect_refusal(1, &["list of prefixes", "line 1"]);
        }
    }
    // In a directory that others can reach, but not search.
    fs::create_dir(directory.join("closed")).unwrap();
    directory.write("closed/list", "192.0.2.0/24\n");
    fs::write(
        at("rules"),
        format!("allow file={}\n", directory.name("closed/list")),
    )
    .unwrap();
    chown(at("rules"), Some(STRANGER), None).unwrap();
    directory.chmod("closed", 0o755);
    rules(&at("rules"), None);
    directory.chmod("closed", 0o700);
    rules(&at("rules"), Some("another user has chosen"));
}

#[test]
fn an_upgrade_executes_no_program_of_another_user() {
    let directory = ground();
    let install = |name: &str, owner: u32| {
        let new = directory.join("theirs/new");
        let mut install = Command::new("install");
        install.args(["-m", "755", "--", env!("CARGO_BIN_EXE_skd")]);
        assert!(install.arg(&new).status().unwrap().success());
        chown(&new, Some(owner), None).unwrap();
        fs::rename(&new, directory.join(name)).unwrap();
        directory.join(name)
    };
    let upgrade = |skd: &crate::harness::Running, text: &str| {
        skd.signal(Signal::SIGUSR2);
        skd.wait_for_log(text);
    };
    let binary = install("theirs/skd", 0);
    let start = || Skd::new(["-v", "-t", "127.0.0.1:0"]).binary(&binary);
    let refused = "can't be opened";
    let skd = start().run("cat");
    install("theirs/skd", STRANGER);
    upgrade(
        &skd,
        "it belongs to user 65534, and the running program to user 0",
    );
    drop(skd);
    // The administrator has started that user's program, and goes on with it.
    let skd = start().run("cat");
    install("theirs/skd", STRANGER);
    upgrade(&skd, "Upgraded from skd");
    install("theirs/skd", 61234);
    upgrade(&skd, "it belongs to user 61234");
    drop(skd);
    install("theirs/skd", 0);
    let skd = start().run("cat");
    fs::remove_file(&binary).unwrap();
    directory.link(install("mine/program", 0), &binary);
    upgrade(&skd, refused);
    drop(skd);
    fs::remove_file(directory.join("mine/program")).unwrap();
    fs::remove_file(&binary).unwrap();
    install("theirs/skd", 0);
    let skd = start().run("cat");
    directory.chmod("theirs/skd", 0o777);
    upgrade(&skd, "every user can write to it");
}

#[test]
fn services_and_variables_are_read_from_no_file_that_another_user_put_there() {
    requires_root();
    let directory = Directory::public();
    fs::create_dir(directory.join("shared")).unwrap();
    directory.chmod("shared", 0o1777);
    for (option, text) in [
        ("--config", "[service.a]\nunix = '@a'\ncommand = ['cat']\n"),
        ("--inetd-conf", "1 stream tcp nowait root /bin/cat cat\n"),
        ("--xinetd", "service a\n{\n type = UNLISTED\n}\n"),
        ("--env-file", "LD_PRELOAD=/tmp/x\n"),
    ] {
        let file = directory.write("shared/file", text);
        chown(&file, Some(STRANGER), None).unwrap();
        let skd = Skd::new(["--check", option]).arg(&file);
        let skd = match option {
            "--env-file" => skd.args(["-t", "0", "cat"]),
            _ => skd,
        };
        skd.end()
            .expect_stderr(&["only files of root and of skd's user are opened there"]);
        fs::remove_file(file).unwrap();
    }
}

/// A volume of Kubernetes with a ConfigMap: links, in a directory where all users may write.
fn config_map(directory: &Directory) {
    requires_root();
    let at = |name: &str| directory.join("volume").join(name);
    fs::create_dir_all(at("..2026")).unwrap();
    fs::write(at("..2026/rules"), "allow 127.0.0.1\n").unwrap();
    symlink("..2026", at("..data")).unwrap();
    symlink("..data/rules", at("rules")).unwrap();
    directory.chmod("volume/..2026", 0o755);
    directory.chmod("volume", 0o777);
}

#[test]
fn rules_in_a_volume_where_all_write_are_refused_and_the_reason_is_said() {
    let directory = Directory::public();
    config_map(&directory);
    let expected = format!(
        "all users can write to {} (mode 0777), so the symbolic link rules there isn't followed; \
         use a directory where only root or skd's user can write",
        directory.name("volume")
    );
    rules(&directory.join("volume/rules"), Some(&expected));
    directory.chmod("volume", 0o775);
    chown(directory.join("volume"), None, Some(STRANGER)).unwrap();
    let expected = expected.replace("all users", "users of group 65534");
    let expected = expected.replace("0777", "0775");
    rules(&directory.join("volume/rules"), Some(&expected));
}

#[test]
fn a_single_file_of_such_a_volume_is_read_where_it_is_mounted() {
    requires_command("unshare");
    let directory = Directory::public();
    config_map(&directory);
    directory.write("rules", "");
    let mount = format!(
        "mount --bind {} {} && exec \"$@\"",
        directory.name("volume/..2026/rules"),
        directory.name("rules")
    );
    let skd = Skd::new(["-t", "127.0.0.1:0", "--rules"])
        .arg(directory.join("rules"))
        .wrapper(["unshare", "-m", "sh", "-c", &mount, "sh"])
        .run("cat");
    assert_eq!(talk(skd.connect(), b"served"), b"served");
}
