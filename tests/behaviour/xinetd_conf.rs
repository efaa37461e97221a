//! The files of xinetd: `--xinetd`.

use crate::harness::{Directory, Namespace, Output, Skd, run_to_end};
use crate::inetds::{Case, Difference, Kind, skd_answers};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::os::unix::fs::symlink;

/// Files, and answers that xinetd gives too.
pub const CASES: &[Case] = &[
    Case {
        what: "programs and their surroundings",
        file: "
service arguments
{
    type        = UNLISTED
    socket_type = stream
    protocol    = tcp
    port        = 7001
    wait        = no
    user        = root
    server      = /bin/cat
    server_args = /proc/self/cmdline
}
service named
{
    type = UNLISTED
    flags = nameinargs Reuse NODELAY KEEPALIVE
    socket_type = stream
    port = 7002
    wait = no
    user = root
    server = /bin/cat
    server_args = me /proc/self/cmdline
}
service errors
{
    type = UNLISTED
    socket_type = stream
    port = 7003
    wait = no
    user = root
    server = /bin/ls
    server_args = /nonexistent
}
service surroundings
{
    type = UNLISTED
    socket_type = stream
    port = 7004
    wait = no
    user = nobody
    server = DIR/show
    umask = 027
    nice = 5
    rlimit_cpu = 7
    rlimit_as = 500M
    env = A=1
    env = A=2
    env += B=3
}
service variables
{
    type = UNLISTED
    socket_type = stream
    port = 7005
    wait = no
    user = root
    server = DIR/variables
    passenv = PASSED
    env = A=a
}
service groups
{
    type = UNLISTED
    socket_type = stream
    port = 7006
    wait = no
    user = nobody
    group = daemon
    server = /usr/bin/id
    server_args = -g
}
service numbers
{
    type = UNLISTED
    socket_type = stream
    port = 7007
    wait = no
    user = 4711
    server = /usr/bin/id
}
service comment
{
    type = UNLISTED
    socket_type = stream
    port = 7008
    wait = no
    user = root
    server = /bin/echo
    server_args = \"a  b\" # c
    # d
}
",
        asks: &[
            ("tcp 127.0.0.1:7001", "", "cat\0/proc/self/cmdline\0"),
            ("tcp 127.0.0.1:7002", "", "me\0/proc/self/cmdline\0"),
            (
                "tcp 127.0.0.1:7003",
                "",
                "ls: cannot access '/nonexistent': No such file or directory\n",
            ),
            (
                "tcp 127.0.0.1:7004",
                "",
                "65534\n65534\n65534\n0027\n5\n7\n512000\n2-3\nsocket\nsocket\nsocket\n",
            ),
            ("tcp 127.0.0.1:7005", "", "passed a none\n"),
            ("tcp 127.0.0.1:7006", "", "1\n"),
            ("tcp 127.0.0.1:7007", "", "uid=4711 gid=4711 groups=4711\n"),
            ("tcp 127.0.0.1:7008", "", "\"a b\" # c\n"),
        ],
    },
    Case {
        what: "which clients are admitted",
        file: "
defaults
{
    no_access = 127.9.0.1
}
service a
{
    type = UNLISTED
    socket_type = stream
    port = 7101
    wait = no
    user = root
    server = /bin/echo
    server_args = in
    only_from = 127.0.0.1
}
service b
{
    type = UNLISTED
    socket_type = stream
    port = 7102
    wait = no
    user = root
    server = /bin/echo
    server_args = in
    only_from = 127.1.0.0 ::1
}
service c
{
    type = UNLISTED
    socket_type = stream
    port = 7103
    wait = no
    user = root
    server = /bin/echo
    server_args = in
    only_from = 127.0.0.77/16
    no_access = 127.0.0.2
}
service d
{
    type = UNLISTED
    socket_type = stream
    port = 7104
    wait = no
    user = root
    server = /bin/echo
    server_args = in
    no_access += 127.{1,2}
}
service e
{
    type = UNLISTED
    socket_type = stream
    port = 7105
    wait = no
    user = root
    server = /bin/echo
    server_args = in
    only_from =
}
service f
{
    type = UNLISTED
    socket_type = stream
    port = 7106
    wait = no
    user = root
    server = /bin/echo
    server_args = in
    only_from = 0.0.0.0
}
service g
{
    type = UNLISTED
    socket_type = stream
    port = 7107
    wait = no
    user = root
    server = /bin/echo
    server_args = in
    only_from = ::/0
}
service h
{
    type = UNLISTED
    socket_type = stream
    port = 7108
    wait = no
    user = root
    server = /bin/echo
    server_args = in
    only_from = 127.0.0.1
    no_access = 127.0.0.0
}
service i
{
    type = UNLISTED
    flags = IPv4
    socket_type = stream
    port = 7109
    wait = no
    user = root
    server = /bin/echo
    server_args = in
    only_from = localhost
}
service j
{
    type = UNLISTED
    socket_type = stream
    port = 7110
    wait = no
    user = root
    server = /bin/echo
    server_args = in
    only_from = 127.1 127.2.0.0
    only_from -= 127.2.0.0
}
",
        asks: &[
            ("tcp 127.0.0.1:7101", "", "in\n"),
            ("tcp 127.0.0.1:7101 from 127.1.2.3", "", ""),
            ("tcp [::1]:7101", "", ""),
            ("tcp 127.0.0.1:7102", "", ""),
            ("tcp 127.0.0.1:7102 from 127.1.2.3", "", "in\n"),
            ("tcp [::1]:7102", "", "in\n"),
            ("tcp 127.0.0.1:7103", "", "in\n"),
            ("tcp 127.0.0.1:7103 from 127.0.0.2", "", ""),
            ("tcp 127.0.0.1:7103 from 127.1.0.2", "", ""),
            ("tcp 127.0.0.1:7104", "", "in\n"),
            ("tcp 127.0.0.1:7104 from 127.1.2.3", "", ""),
            ("tcp 127.0.0.1:7104 from 127.2.3.4", "", ""),
            ("tcp 127.0.0.1:7104 from 127.3.4.5", "", "in\n"),
            ("tcp 127.0.0.1:7104 from 127.9.0.1", "", ""),
            ("tcp [::1]:7104", "", "in\n"),
            ("tcp 127.0.0.1:7105", "", ""),
            ("tcp [::1]:7105", "", ""),
            ("tcp 127.0.0.1:7106", "", "in\n"),
            ("tcp [::1]:7106", "", ""),
            ("tcp 127.0.0.1:7107", "", "in\n"),
            ("tcp 127.0.0.1:7107 from 127.9.0.1", "", ""),
            ("tcp [::1]:7107", "", "in\n"),
            ("tcp 127.0.0.1:7108", "", ""),
            ("tcp 127.0.0.1:7109", "", "in\n"),
            ("tcp 127.0.0.1:7109 from 127.1.2.3", "", ""),
            ("tcp 127.0.0.1:7110", "", "in\n"),
            ("tcp 127.0.0.1:7110 from 127.1.0.0", "", ""),
            ("tcp 127.0.0.1:7110 from 127.2.3.4", "", ""),
        ],
    },
    Case {
        what: "addresses",
        file: "
service v4
{
    type = UNLISTED
    flags = IPv4
    socket_type = stream
    port = 7201
    wait = no
    user = root
    server = /bin/echo
}
service v6
{
    type = UNLISTED
    flags = IPv6
    socket_type = stream
    port = 7202
    wait = no
    user = root
    server = /bin/echo
}
service only
{
    type = UNLISTED
    flags = IPv6
    v6only = yes
    socket_type = stream
    port = 7203
    wait = no
    user = root
    server = /bin/echo
}
service bound
{
    type = UNLISTED
    bind = 127.0.0.2
    socket_type = stream
    port = 7204
    wait = no
    user = root
    server = /bin/echo
}
service interface
{
    type = UNLISTED
    interface = ::1
    socket_type = stream
    port = 7205
    wait = no
    user = root
    server = /bin/echo
}
",
        asks: &[
            ("tcp 127.0.0.1:7201", "", "\n"),
            ("tcp [::1]:7201", "", "connection refused"),
            ("tcp 127.0.0.1:7202", "", "\n"),
            ("tcp [::1]:7202", "", "\n"),
            ("tcp 127.0.0.1:7203", "", "connection refused"),
            ("tcp [::1]:7203", "", "\n"),
            ("tcp 127.0.0.2:7204", "", "\n"),
            ("tcp 127.0.0.1:7204", "", "connection refused"),
            ("tcp [::1]:7205", "", "\n"),
            ("tcp 127.0.0.1:7205", "", "connection refused"),
        ],
    },
    Case {
        what: "limits and banners",
        file: "
defaults
{
    instances = 1
    per_source = UNLIMITED
    log_type = FILE /dev/null
    log_on_success = HOST PID
    log_on_failure = HOST
}
service one
{
    type = UNLISTED
    socket_type = stream
    port = 7301
    wait = no
    user = root
    server = /bin/cat
}
service many
{
    type = UNLISTED
    socket_type = stream
    port = 7302
    wait = no
    user = root
    server = /bin/cat
    instances = UNLIMITED
    cps = 1000 1
}
service source
{
    type = UNLISTED
    socket_type = stream
    port = 7303
    wait = no
    user = root
    server = /bin/cat
    instances = 10
    per_source = 1
}
service welcome
{
    type = UNLISTED
    socket_type = stream
    port = 7304
    wait = no
    user = nobody
    server = /bin/echo
    server_args = a b
    banner_success = DIR/welcome
}
service both
{
    type = UNLISTED
    socket_type = stream
    port = 7305
    wait = no
    user = nobody
    server = /bin/echo
    banner = DIR/busy
    banner_success = DIR/welcome
}
",
        asks: &[
            ("hold tcp 127.0.0.1:7301", "x", "x"),
            ("tcp 127.0.0.1:7301", "", ""),
            ("hold tcp 127.0.0.1:7302", "x", "x"),
            ("tcp 127.0.0.1:7302", "y", "y"),
            ("hold tcp 127.0.0.1:7303", "x", "x"),
            ("tcp 127.0.0.1:7303", "", ""),
            ("tcp 127.0.0.1:7303 from 127.1.2.3", "y", "y"),
            ("tcp 127.0.0.1:7304", "", "welcome\na b\n"),
            ("tcp 127.0.0.1:7305", "", "busy\nwelcome\n\n"),
        ],
    },
    Case {
        what: "programs that wait, and built-in services",
        file: "
service datagrams
{
    type = UNLISTED
    socket_type = dgram
    protocol = udp
    port = 7401
    wait = yes
    user = root
    server = DIR/datagram
    per_source = 11
    cps = 100 2
}
service accepts
{
    type = UNLISTED
    socket_type = stream
    port = 7402
    wait = yes
    user = root
    server = DIR/accept
}
service echo
{
    type = INTERNAL UNLISTED
    id = echo-stream
    socket_type = stream
    protocol = tcp
    port = 7403
    wait = no
    user = root
}
service echo
{
    type = INTERNAL UNLISTED
    id = echo-dgram
    socket_type = dgram
    protocol = udp
    port = 7403
    wait = yes
    user = root
}
service discard
{
    type = INTERNAL UNLISTED
    socket_type = stream
    protocol = tcp
    port = 7404
    wait = no
    user = root
}
service daytime
{
    type = INTERNAL UNLISTED
    socket_type = stream
    protocol = tcp
    port = 7405
    wait = no
    user = root
}
service daytime
{
    type = INTERNAL UNLISTED
    id = daytime-dgram
    socket_type = dgram
    protocol = udp
    port = 7405
    wait = yes
    user = root
}
",
        asks: &[
            ("udp 127.0.0.1:7401", "first", "first"),
            ("tcp 127.0.0.1:7402", "", "accepted"),
            ("tcp 127.0.0.1:7402", "", "accepted"),
            ("tcp 127.0.0.1:7403", "a stream", "a stream"),
            ("udp 127.0.0.1:7403", "a datagram", "a datagram"),
            ("tcp 127.0.0.1:7404", "anything", ""),
            (
                "tcp 127.0.0.1:7405",
                "",
                "shape: 00 aaa 0000 00:00:00 aaa\r\n",
            ),
            (
                "udp 127.0.0.1:7405",
                "x",
                "shape: 00 aaa 0000 00:00:00 aaa\r\n",
            ),
            // As late as this, because xinetd discards what has arrived when a program ends.
            ("udp 127.0.0.1:7401", "second", "second"),
        ],
    },
    Case {
        what: "several files",
        file: "
defaults
{
    disabled = off
    only_from = 127.0.0.0
}
include DIR/one
includedir DIR/more
service off
{
    type = UNLISTED
    socket_type = stream
    port = 7501
    wait = no
    user = root
    server = /bin/echo
}
service also
{
    disable = yes
    type = UNLISTED
    socket_type = stream
    port = 7502
    wait = no
    user = root
    server = /bin/echo
}
FILE one
service one
{
    type = UNLISTED
    socket_type = stream
    port = 7503
    wait = no
    user = root
    server = /bin/echo
    only_from += ::1
}
FILE more/two
service two
{
    type = UNLISTED
    socket_type = stream
    port = 7504
    wait = no
    user = root
    server = /bin/echo
}

service three
{
    type = UNLISTED
    socket_type = stream
    port = 7505
    wait = no
    user = root
    server = /bin/echo
}
FILE more/four.conf
nonsense
FILE more/four~
nonsense
",
        asks: &[
            ("tcp 127.0.0.1:7501", "", "connection refused"),
            ("tcp 127.0.0.1:7502", "", "connection refused"),
            ("tcp 127.0.0.1:7503", "", "\n"),
            ("tcp [::1]:7503", "", "\n"),
            ("tcp 127.0.0.1:7504", "", "\n"),
            ("tcp [::1]:7504", "", ""),
            ("tcp 127.0.0.1:7505", "", "\n"),
        ],
    },
];

/// What skd does otherwise, with the answers of xinetd.
pub const DIFFERENCES: &[Difference] = &[
    (
        Case {
            what: "a comment after a value: xinetd ignores the attribute",
            file: "
service one
{
    type = UNLISTED
    socket_type = stream
    port = 7001
    wait = no
    user = root
    server = /bin/cat
    per_source = 1 # one is enough
    bind = 127.0.0.1 # not for others
}
",
            asks: &[
                ("hold tcp 127.0.0.1:7001", "x", "x"),
                ("tcp 127.0.0.1:7001", "y", ""),
                ("tcp [::1]:7001", "y", "connection refused"),
            ],
        },
        &["x", "y", "y"],
    ),
    (
        Case {
            what: "a host by name: xinetd looks up its clients, and on a socket for both families finds none",
            file: "
service one
{
    type = UNLISTED
    socket_type = stream
    port = 7001
    wait = no
    user = root
    server = /bin/cat
    only_from = localhost
}
",
            asks: &[
                ("tcp 127.0.0.1:7001", "x", "x"),
                ("tcp 127.0.0.1:7001 from 127.1.2.3", "x", ""),
            ],
        },
        &["", ""],
    ),
    (
        Case {
            what: "too many clients a second: xinetd switches the service off",
            file: "
service one
{
    type = UNLISTED
    socket_type = stream
    port = 7001
    wait = no
    user = root
    server = /bin/cat
    cps = 2 1000
}
",
            asks: &[
                ("tcp 127.0.0.1:7001", "x", "x"),
                ("tcp 127.0.0.1:7001", "x", "x"),
                ("tcp 127.0.0.1:7001", "x", "x"),
            ],
        },
        &["x", "x", ""],
    ),
    (
        Case {
            what: "variables: xinetd sets REMOTE_HOST to the address, skd REMOTE_ADDR and others",
            file: "
service one
{
    type = UNLISTED
    socket_type = stream
    port = 7001
    wait = no
    user = root
    server = DIR/remote
}
FILE remote
#!/bin/sh
echo ${REMOTE_HOST-none} ${REMOTE_ADDR-none}
",
            asks: &[("tcp 127.0.0.1:7001", "", "none 127.0.0.1\n")],
        },
        &["::ffff:127.0.0.1 none\n"],
    ),
];

#[test]
fn clients_are_answered_as_by_xinetd() {
    skd_answers(Kind::Xinetd, CASES);
}

#[test]
fn clients_are_answered_otherwise_on_purpose() {
    skd_answers(Kind::Xinetd, DIFFERENCES.iter().map(|(case, _)| case));
}

/// What --check says of a file or directory.
fn check(directory: &Directory, name: &str) -> Output {
    let skd = Skd::new(["--check", "--xinetd", name]);
    skd.cwd(directory.path()).end()
}

const SERVICE: &str = "service NAME
{
    type = UNLISTED
    socket_type = stream
    wait = no
    user = root
    port = PORT
    server = /bin/cat
}
";

fn service(name: &str, port: u16) -> String {
    SERVICE
        .replace("NAME", name)
        .replace("PORT", &port.to_string())
}

#[test]
fn all_faults_are_told_with_file_and_line() {
    let directory = Directory::new();
    std::fs::create_dir(directory.join("more")).unwrap();
    let faulty =
        service("a", 7001).replace("port = 7001", "port = 7001\n    access_times = 1:00-2:00");
    let text = format!(
        "includedir more\n{faulty}{}",
        service("b", 7002).replace("cat", "cat -n")
    );
    directory.write("xinetd.conf", text);
    directory.write(
        "more/one",
        service("c", 7003).replace("wait = no", "wait = maybe"),
    );
    directory.write(
        "more/two",
        service("d", 7004).replace("user = root", "user = no-such-user"),
    );
    let lines = [
        "more/one:5:5: wait is yes or no",
        "xinetd.conf:9:5: access_times: ",
        "xinetd.conf:19:5: server takes 1 value",
        "more/two:6:5: invalid value 'no-such-user' for --user",
    ];
    let output = check(&directory, "xinetd.conf");
    let faults: Vec<_> = output
        .stderr
        .lines()
        .filter(|line| !line.contains("note: "))
        .collect();
    assert_eq!(faults.len(), lines.len(), "{output:?}");
    for line in lines {
        assert!(
            faults.iter().any(|it| it.contains(line)),
            "{line}: {output:?}"
        );
    }
    output.expect_code(2);
}

#[test]
fn files_that_cannot_be_read_are_told() {
    let directory = Directory::new();
    let more = |name: &str| directory.join("more").join(name);
    std::fs::create_dir_all(more("directory")).unwrap();
    mkfifo(&more("fifo"), Mode::S_IRWXU).unwrap();
    symlink("/dev/zero", more("device")).unwrap();
    symlink("nothing", more("dangling")).unwrap();
    directory.write("more/service", service("a", 7001));
    directory.write(
        "xinetd.conf",
        "include missing\nincludedir absent\ninclude xinetd.conf\ninclude cycle\nincludedir more\n",
    );
    directory.write("cycle", "include other\ninclude more/service\n");
    directory.write("other", "include cycle\n");
    let output = check(&directory, "xinetd.conf");
    let faults: Vec<_> = output
        .stderr
        .lines()
        .filter(|line| !line.contains("note: "))
        .collect();
    let expected = [
        "xinetd.conf:1:1: missing can't be opened: No such file or directory",
        "xinetd.conf:2:1: absent can't be read: No such file or directory",
        "xinetd.conf:3:1: xinetd.conf includes itself",
        "xinetd.conf:5:1: more/dangling is a symbolic link to a file that doesn't exist",
        "xinetd.conf:5:1: more/device is no regular file",
        "xinetd.conf:5:1: more/fifo is no regular file",
        "xinetd.conf:5:1: more/service is included twice",
        "other:1:1: cycle includes itself",
    ];
    let expected: Vec<_> = expected.iter().map(|it| format!("skd: {it}")).collect();
    assert_eq!(faults, expected);
    output.expect_code(2);
    std::fs::remove_file(more("fifo")).unwrap();
    std::fs::remove_file(more("device")).unwrap();
    std::fs::remove_file(more("dangling")).unwrap();
    check(&directory, "more").expect_code(0);
    check(&directory, "absent").expect_refusal(2, &["absent"]);
}

#[test]
fn the_files_of_tcp_wrappers_are_not_ignored() {
    let namespace = Namespace::new();
    let directory = Directory::new();
    let file = directory.write("xinetd.conf", service("a", 7001) + &service("b", 7002));
    let check = || {
        let skd = Skd::new(["--check", "--xinetd"]).arg(&file);
        skd.inside(&namespace).end()
    };
    namespace.tmpfs("/run");
    namespace.shell("mkdir /run/etc && cp -a /etc/. /run/etc && mount --bind /run/etc /etc");
    namespace.replace_file("/etc/hosts.allow", "# nothing\n\n");
    namespace.replace_file("/etc/hosts.deny", "# ALL: ALL\n");
    check().expect_code(0);
    namespace.replace_file("/etc/hosts.deny", "# a\nALL: ALL\n");
    let refused = check();
    refused.expect_code(2);
    let asks = "xinetd.conf:1:1: xinetd asks /etc/hosts.deny";
    assert_eq!(refused.stderr.matches(asks).count(), 1, "{refused:?}");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace("wait", "flags = NOLIBWRAP\n    wait")).unwrap();
    check().expect_code(0);
}

#[test]
fn a_file_or_a_directory_has_to_be_named() {
    run_to_end(["--check", "--xinetd", ""]).expect_code(2);
}
