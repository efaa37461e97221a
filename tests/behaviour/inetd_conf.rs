//! The file of inetd: `--inetd-conf`.

use crate::harness::{Directory, Skd};
use crate::inetds::{Case, Difference, Kind, skd_answers};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

/// Files, and answers that inetd gives too.
pub const CASES: &[Case] = &[
    Case {
        what: "programs and their surroundings",
        file: "
# A comment.
7001 stream tcp nowait root /bin/cat cat /proc/self/cmdline
7002 stream tcp nowait root /bin/cat /usr/sbin/in.fingerd /proc/self/cmdline
7003 stream tcp nowait root /bin/ls ls /nonexistent
7004 stream tcp nowait nobody DIR/show show
7005 stream tcp nowait nobody.daemon /usr/bin/id id -g
7006 stream tcp nowait nobody:daemon /usr/bin/id id -g
7007 stream tcp nowait root
  /bin/echo echo a
\tb
  # c
7008 stream tcp nowait.100 root:root /bin/echo
7009 stream tcp,sndbuf=64k,rcvbuf=64k nowait root /bin/echo echo a\"b' # c
DIR/socket stream unix nowait root /bin/echo echo unix
",
        asks: &[
            ("tcp 127.0.0.1:7001", "", "cat\0/proc/self/cmdline\0"),
            (
                "tcp 127.0.0.1:7002",
                "",
                "/usr/sbin/in.fingerd\0/proc/self/cmdline\0",
            ),
            (
                "tcp 127.0.0.1:7003",
                "",
                "ls: cannot access '/nonexistent': No such file or directory\n",
            ),
            (
                "tcp 127.0.0.1:7004",
                "",
                "65534\n65534\n65534\n0022\n0\nunlimited\nunlimited\n-\nsocket\nsocket\nsocket\n",
            ),
            ("tcp 127.0.0.1:7005", "", "1\n"),
            ("tcp 127.0.0.1:7006", "", "1\n"),
            ("tcp 127.0.0.1:7007", "", "a b # c\n"),
            ("tcp 127.0.0.1:7008", "", "\n"),
            ("tcp 127.0.0.1:7009", "", "a\"b' # c\n"),
            ("unix DIR/socket", "", "unix\n"),
        ],
    },
    Case {
        what: "addresses",
        file: "
7101 stream tcp nowait root /bin/echo echo
7102 stream tcp4 nowait root /bin/echo echo
7103 stream tcp6 nowait root /bin/echo echo
127.0.0.2:7104 stream tcp nowait root /bin/echo echo
127.0.0.2: 7105 stream tcp nowait root /bin/echo echo
[::1]:7106 stream tcp6 nowait root /bin/echo echo
127.0.0.2,127.0.0.3:7107 stream tcp nowait root /bin/echo echo
127.0.0.2:
7108 stream tcp nowait root /bin/echo echo
*:7109 stream tcp nowait root /bin/echo echo
*:
7110 stream tcp nowait root /bin/echo echo
",
        asks: &[
            ("tcp 127.0.0.1:7101", "", "\n"),
            ("tcp [::1]:7101", "", "\n"),
            ("tcp 127.0.0.1:7102", "", "\n"),
            ("tcp [::1]:7102", "", "connection refused"),
            ("tcp 127.0.0.1:7103", "", "connection refused"),
            ("tcp [::1]:7103", "", "\n"),
            ("tcp 127.0.0.2:7104", "", "\n"),
            ("tcp 127.0.0.1:7104", "", "connection refused"),
            ("tcp 127.0.0.2:7105", "", "\n"),
            ("tcp 127.0.0.1:7105", "", "connection refused"),
            ("tcp [::1]:7106", "", "\n"),
            ("tcp 127.0.0.1:7106", "", "connection refused"),
            ("tcp 127.0.0.2:7107", "", "\n"),
            ("tcp 127.0.0.3:7107", "", "\n"),
            ("tcp 127.0.0.1:7107", "", "connection refused"),
            ("tcp 127.0.0.2:7108", "", "\n"),
            ("tcp 127.0.0.1:7108", "", "connection refused"),
            ("tcp 127.0.0.1:7109", "", "\n"),
            ("tcp 127.0.0.1:7110", "", "\n"),
        ],
    },
    Case {
        what: "programs that wait, and built-in services",
        file: "
7201 dgram udp wait root DIR/datagram datagram
7202 stream tcp wait root DIR/accept accept
echo stream tcp nowait root internal
discard stream tcp nowait root internal
daytime stream tcp nowait root internal
",
        asks: &[
            ("udp 127.0.0.1:7201", "first", "first"),
            ("tcp 127.0.0.1:7202", "", "accepted"),
            ("tcp 127.0.0.1:7202", "", "accepted"),
            ("tcp 127.0.0.1:7", "a stream", "a stream"),
            ("tcp 127.0.0.1:9", "anything", ""),
            (
                "tcp 127.0.0.1:13",
                "",
                "shape: aaa aaa 00 00:00:00 0000\r\n",
            ),
            ("udp 127.0.0.1:7201", "second", "second"),
        ],
    },
];

/// What skd does otherwise, with the answers of Debian's inetd.
pub const DIFFERENCES: &[Difference] = &[
    (
        Case {
            what: "built-in services for datagrams: other inetds have them",
            file: "
echo dgram udp wait root internal
daytime dgram udp wait root internal
",
            asks: &[
                ("udp 127.0.0.1:7", "a datagram", "a datagram"),
                (
                    "udp 127.0.0.1:13",
                    "x",
                    "shape: aaa aaa 00 00:00:00 0000\r\n",
                ),
            ],
        },
        &["no answer", "shape: aa aaaaaa"],
    ),
    (
        Case {
            what: "quotes, as in the BSDs, and programs in PATH",
            file: "
7001 stream tcp nowait root /bin/sh sh -c \"echo 'a  b'\"
7002 stream tcp nowait root cat cat
",
            asks: &[
                ("tcp 127.0.0.1:7001", "", "a  b\n"),
                ("tcp 127.0.0.1:7002", "x", "x"),
            ],
        },
        &["'a: 1: Syntax error: Unterminated quoted string\n", ""],
    ),
    (
        Case {
            what: "limits of FreeBSD",
            file: "
7001 stream tcp nowait/0/0/1 root /bin/cat cat
",
            asks: &[
                ("hold tcp 127.0.0.1:7001", "x", "x"),
                ("tcp 127.0.0.1:7001", "x", ""),
                ("tcp 127.0.0.1:7001 from 127.1.2.3", "x", "x"),
            ],
        },
        &["x", "x", "x"],
    ),
];

#[test]
fn clients_are_answered_as_by_inetd() {
    skd_answers(Kind::Inetd, CASES);
}

#[test]
fn clients_are_answered_otherwise_on_purpose() {
    skd_answers(Kind::Inetd, DIFFERENCES.iter().map(|(case, _)| case));
}

#[test]
fn all_faults_are_told_with_file_and_line() {
    let directory = Directory::new();
    directory.write(
        "inetd.conf",
        "7001 stream tcp nowait root /bin/cat cat\n7002 stream tcp nowait no-such-user /bin/cat cat\n\
         7003 stream tcp nowait/0/9/9/9 root /bin/cat cat\ntime stream tcp nowait root internal\n\
         7004 stream tcp nowait.0 root /bin/cat cat\n",
    );
    let check = |name: &str| {
        let skd = Skd::new(["--check", "--inetd-conf", name]);
        skd.cwd(directory.path()).end()
    };
    let output = check("inetd.conf");
    let faults: Vec<_> = output
        .stderr
        .lines()
        .filter(|line| !line.contains("note: "))
        .collect();
    let expected = [
        "inetd.conf:2:24: invalid value 'no-such-user' for --user",
        "inetd.conf:3:17: there are three limits at most",
        "inetd.conf:4:29: skd has no built-in service time",
        "inetd.conf:5:17: invalid value '0/m' for --rate",
    ];
    assert_eq!(faults.len(), expected.len(), "{output:?}");
    for (fault, expected) in faults.iter().zip(expected) {
        assert!(fault.contains(expected), "{expected}: {output:?}");
    }
    output.expect_code(2);
    mkfifo(&directory.join("fifo"), Mode::S_IRWXU).unwrap();
    check("fifo").expect_refusal(2, &["fifo is no regular file"]);
    check("missing").expect_refusal(2, &["missing can't be opened"]);
    check("/dev/null").expect_refusal(2, &["/dev/null is no regular file"]);
}
