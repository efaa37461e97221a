//! `--sandbox`: what handlers see of the host, where a sandbox can't be had, and what stands in for it.

use crate::harness::{
    Directory, Namespace, Running, Skd, receive, requires_command, requires_root,
};
use nix::errno::Errno;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::time::Duration;

/// Ids without an account.
const UID: u32 = 61246;
const GID: u32 = 61247;

/// A start that fails, with its status and parts of its sentence.
type Case<'a> = (&'a dyn Fn() -> Skd, i32, &'a [&'a str]);

fn skd<const N: usize>(options: [&str; N]) -> Skd {
    Skd::new(["-t", "127.0.0.1:0"])
        .args(options)
        .env("PATH", "/usr/bin:/bin")
        .cwd("/")
        .throttle(Duration::ZERO)
}

/// As root, as root with handlers of another user, and as another user.
fn as_each<const N: usize>(options: [&str; N], test: impl Fn(&dyn Fn() -> Skd)) {
    requires_root();
    test(&|| skd(options));
    test(&|| skd(options).args(["--user", &format!("{UID}:{GID}")]));
    test(&|| skd(options).user(UID, GID, []));
}

/// What a client of a shell with this script gets.
fn said(skd: &Running) -> String {
    rest(skd.connect())
}

fn rest(mut client: TcpStream) -> String {
    let mut text = String::new();
    client.read_to_string(&mut text).unwrap();
    text
}

/// Whether the kernel has all that the part landlock needs.
fn has_landlock() -> bool {
    let checked = skd(["--sandbox=landlock", "--check"]).start("cat");
    let checked = checked.wait_with_output();
    if checked.code() != Some(0) {
        checked.expect_stderr(&["can't have the part landlock"]);
    }
    checked.code() == Some(0)
}

#[test]
fn a_handler_has_the_root_directory_of_its_service() {
    let directory = Directory::public();
    let flag = directory.write("flag", "the flag\n");
    let flag = format!("{}:/flag", flag.display());
    let options = [
        "--sandbox",
        "--sandbox-hostname",
        "box",
        "--ro",
        &flag,
        "--tmpfs",
        "/scratch:1M",
    ];
    let script = "cat /flag; hostname; pwd
        echo own >/tmp/file; ls /tmp /scratch
        (echo x >>/flag) 2>/dev/null || echo read-only
        ls /root /sys /boot /proc/1/root/root 2>/dev/null || echo not there
        cut -d' ' -f5 /proc/self/mountinfo | grep -c /home
        awk '{ print $1, $3 }' /proc/self/uid_map | sort -u | wc -l";
    as_each(options, |skd| {
        let skd = skd().run_with("sh", ["-c", script]);
        let before = fs::read_to_string(format!("/proc/{}/mountinfo", skd.pid())).unwrap();
        let own = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert_eq!(before.lines().count(), own.lines().count());
        // The second sees nothing of the first.
        for _ in 0..2 {
            let text = said(&skd);
            let (text, users) = text.trim_end().rsplit_once('\n').unwrap();
            let expected = "the flag\nbox\n/\n/scratch:\n\n/tmp:\nfile\nread-only\nnot there\n0";
            assert_eq!(text, expected);
            assert!(["1", "2"].contains(&users), "{users}");
        }
        assert_eq!(
            fs::read_to_string(directory.join("flag")).unwrap(),
            "the flag\n"
        );
    });
}

#[test]
fn handlers_of_one_service_do_not_reach_each_other() {
    requires_command("python3");
    let directory = Directory::public();
    let script = directory.write(
        "script",
        "import os, socket
name = '\\0skd-test'
try:
    socket.socket(socket.AF_UNIX).connect(name)
    print('reached', flush=True)
except OSError:
    pass
try:
    own = socket.socket(socket.AF_UNIX)
    own.bind(name)
    own.listen()
except OSError:
    pass
print(len([it for it in os.listdir('/proc') if it.isdigit()]), os.listdir('/tmp'), flush=True)
open('/tmp/file', 'w').close()
input()
",
    );
    let shown = format!("{}:/script", script.display());
    as_each(["--sandbox", "--ro", &shown], |skd| {
        let skd = skd().run_with("python3", ["/script"]);
        let mut first = skd.connect();
        assert_eq!(receive(&mut first, 5), b"1 []\n");
        let mut second = skd.connect();
        assert_eq!(receive(&mut second, 5), b"1 []\n");
        first.write_all(b"\n").unwrap();
        second.write_all(b"\n").unwrap();
    });
}

#[test]
fn sockets_of_the_host_are_not_part_of_the_network() {
    requires_command("python3");
    let name = format!("skd-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let _abstract = UnixListener::bind_addr(&address).unwrap();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = tcp.local_addr().unwrap().port();
    let script = format!(
        "import socket
for kind, address in ((socket.AF_INET, ('127.0.0.1', {port})), (socket.AF_UNIX, '\\0{name}')):
    try:
        socket.socket(kind).connect(address)
        print('reached')
    except OSError as error:
        print(error.strerror)
"
    );
    // In a network namespace of its own a handler connects to nothing: its connection would lead to the host's.
    // Where the kernel can't keep unix sockets of others away, it has none.
    let (own, shared) = match has_landlock() {
        true => ("Operation not permitted", "Operation not permitted"),
        false => ("Address family not supported by protocol", "reached"),
    };
    for (more, expected) in [
        (&[][..], format!("Operation not permitted\n{own}\n")),
        (&["--share-net"], format!("reached\n{shared}\n")),
    ] {
        as_each(["--sandbox"], |skd| {
            let skd = skd().args(more).run_with("python3", ["-c", &script]);
            assert_eq!(said(&skd), expected);
        });
    }
}

#[test]
fn where_a_sandbox_cannot_be_had_there_is_no_start_but_a_sentence() {
    requires_root();
    let strict = || skd(["--sandbox"]);
    let as_user = || strict().user(UID, GID, []);
    let namespace = Namespace::new();
    namespace.shell("mount --bind /dev/null /proc/version");
    let writable = Namespace::new();
    writable.shell("mount --bind /proc/sys /proc/sys; mount -o remount,bind,ro /proc/sys");
    let none = Directory::public();
    let missing = none.name("none");
    let cases: [Case<'_>; 10] = [
        (
            &|| strict().refusing(libc::SYS_unshare, Errno::EPERM),
            1,
            &[
                "user namespace",
                "system call filter",
                "--sandbox=caps,seccomp,landlock",
            ],
        ),
        (
            &|| as_user().refusing(libc::SYS_unshare, Errno::ENOSPC),
            1,
            &["user.max_user_namespaces"],
        ),
        (
            &|| strict().refusing(libc::SYS_mount_setattr, Errno::ENOSYS),
            1,
            &["the part mount needs Linux 5.12"],
        ),
        (
            &|| strict().inside(&namespace),
            1,
            &["parts of /proc are hidden"],
        ),
        (
            &|| as_user().inside(&namespace),
            1,
            &["parts of /proc are hidden"],
        ),
        (
            &|| strict().inside(&writable),
            1,
            &["/proc/sys/user/max_user_namespaces can't be written"],
        ),
        (
            &|| skd(["--sandbox=mount"]).user(UID, GID, []),
            1,
            &["add user to the parts of --sandbox"],
        ),
        (
            &|| skd(["--sandbox=pid,mount"]),
            1,
            &["handlers would be root", "add the part user"],
        ),
        (
            &|| strict().args(["--ro", &missing]),
            1,
            &["--ro", &missing, "No such file"],
        ),
        (
            &|| {
                skd(["--sandbox=landlock"])
                    .refusing(libc::SYS_landlock_create_ruleset, Errno::ENOSYS)
            },
            1,
            &["the part landlock", "Linux 6.12"],
        ),
    ];
    for (skd, status, texts) in cases {
        let start = skd().start("cat");
        let output = start.expect_refusal(status, texts);
        let checked = skd().arg("--check").start("cat").wait_with_output();
        assert_eq!(checked.code(), Some(status), "{checked:#?}");
        assert_eq!(checked.stderr.lines().next(), output.stderr.lines().next());
    }
    strict()
        .arg("--check")
        .start("cat")
        .wait_with_output()
        .expect_code(0);
}

#[test]
fn paths_and_ports_are_restricted_where_there_are_no_namespaces() {
    requires_command("python3");
    if !has_landlock() {
        return;
    }
    let directory = Directory::public();
    directory.write("ro", "shown\n");
    directory.write("hidden", "hidden\n");
    fs::create_dir(directory.join("rw")).unwrap();
    directory.chmod("rw", 0o777);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "cd {}
        cat ro; cat hidden /etc/shadow 2>/dev/null; (echo x >>ro) 2>/dev/null
        ls /etc /tmp . 2>/dev/null; echo made >rw/file && cat rw/file
        (echo x >/tmp/skd-none) 2>/dev/null
        grep -q . /etc/passwd && echo null >/dev/null && echo files
        kill -0 $PPID 2>/dev/null
        grep -h Cap[EPA] /proc/self/status | cut -f2 | sort -u
        python3 -c 'import socket; socket.create_connection((\"127.0.0.1\", {port}))' 2>&1 | \
        grep -o 'Permission denied'
        python3 -c 'import socket; socket.socket().bind((\"127.0.0.1\", 0))' 2>&1 | \
        grep -o 'Permission denied'",
        directory.path().display()
    );
    let (ro, rw) = (directory.name("ro"), directory.name("rw"));
    let options = ["--sandbox=caps,landlock", "--ro", &ro, "--rw", &rw];
    let begin = "shown\nmade\nfiles\n0000000000000000\n";
    let denied = "Permission denied\nPermission denied\n";
    as_each(options, |skd| {
        let running = skd().run_with("sh", ["-c", &script]);
        assert_eq!(said(&running), format!("{begin}{denied}"));
        fs::remove_file(directory.join("rw/file")).unwrap();
        let running = skd().arg("--share-net").run_with("sh", ["-c", &script]);
        assert_eq!(said(&running), begin);
        fs::remove_file(directory.join("rw/file")).unwrap();
    });
    let elsewhere = format!("{ro}:/other");
    skd(["--sandbox=landlock", "--ro", &elsewhere])
        .start("cat")
        .expect_refusal(2, &["--ro and --rw with PATH:TO need the part mount"]);
}
