//! The syntax of the command line: what may be written, what it means, and how the rest is refused.

use crate::harness::{
    Directory, Kind, Output, Skd, connect, connect_unix, limit, run_to_end, sockets, talk,
};
use std::fs;
use std::net::TcpListener;
use std::path::Path;

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

// How options are written.

#[test]
fn every_listener_option_has_its_short_and_long_names() {
    let directory = Directory::new();
    let path = directory.name("socket");
    for (words, kind) in [
        (["-t", "127.0.0.1:0"], Kind::Tcp),
        (["--tcp", "127.0.0.1:0"], Kind::Tcp),
        (["-t127.0.0.1:0", "-s"], Kind::Tcp),
        (["--tcp=127.0.0.1:0", "--stream"], Kind::Tcp),
        (["-u", "127.0.0.1:0"], Kind::Udp),
        (["--udp", "127.0.0.1:0"], Kind::Udp),
        (["-i", "127.0.0.1:0"], Kind::Tcp),
        (["--inet", "127.0.0.1:0"], Kind::Tcp),
        (["-di", "127.0.0.1:0"], Kind::Udp),
        (["--inet=127.0.0.1:0", "--datagram"], Kind::Udp),
        (["-l", &path], Kind::UnixStream),
        (["-x", &path], Kind::UnixStream),
        (["--unix", &path], Kind::UnixStream),
        (["-dl", &path], Kind::UnixDatagram),
        (["-dx", &path], Kind::UnixDatagram),
    ] {
        let skd = Skd::new(words).run("cat");
        let found: Vec<Kind> = sockets(skd.pid())
            .iter()
            .map(|socket| socket.kind)
            .collect();
        assert_eq!(found, [kind], "{words:?}");
        assert_eq!(skd.stop().code(), Some(0));
    }
}

#[test]
fn the_last_style_option_counts_wherever_it_stands() {
    for (words, kind) in [
        (&["-d", "-i", "127.0.0.1:0"][..], Kind::Udp),
        (&["-i", "127.0.0.1:0", "-d"], Kind::Udp),
        (&["-d", "-s", "-i", "127.0.0.1:0"], Kind::Tcp),
        (&["-d", "-i", "127.0.0.1:0", "--stream"], Kind::Tcp),
        (&["-sd", "-i", "127.0.0.1:0"], Kind::Udp),
        (&["-dsi127.0.0.1:0", "--datagram"], Kind::Udp),
        (&["-ddi127.0.0.1:0"], Kind::Udp),
    ] {
        let skd = Skd::new(words).run("cat");
        let found: Vec<Kind> = sockets(skd.pid())
            .iter()
            .map(|socket| socket.kind)
            .collect();
        assert_eq!(found, [kind], "{words:?}");
    }
    // -t and -u have a fixed style.
    let skd = Skd::new([
        "-d",
        "-t",
        "127.0.0.1:0",
        "-u",
        "127.0.0.1:0",
        "-i",
        "127.0.0.1:0",
    ])
    .run("cat");
    let found: Vec<Kind> = sockets(skd.pid())
        .iter()
        .map(|socket| socket.kind)
        .collect();
    assert_eq!(found, [Kind::Tcp, Kind::Udp, Kind::Udp]);
}

#[test]
fn short_options_bundle_and_take_attached_values() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = Skd::new(["-vl", &path]).run("cat");
    assert_eq!(talk(skd.connect_unix(), b"1"), b"1");
    skd.wait_for_log("Accepted local connection");
    drop(skd);

    let skd = Skd::new(["-nvc1", "-t127.0.0.1:0"]).run("cat");
    let first = skd.connect();
    skd.wait_for_log("Accepted");
    let _second = skd.connect();
    skd.wait_for_log("the only slot is taken");
    drop((first, skd));

    let skd = Skd::new(["-BP", &directory.name("pid"), "-vvt0"]).daemon("cat");
    assert_eq!(directory.read("pid"), format!("{}\n", skd.pid()));
    skd.stop();

    let skd = Skd::new(["-svnb5c9i127.0.0.1:0", "cat"]).end();
    // All that follows in the word is the value.
    skd.expect_refusal(2, &["--backlog", "'5c9i127.0.0.1:0'"]);
}

#[test]
fn a_value_may_begin_with_a_hyphen() {
    let directory = Directory::new();
    let skd = Skd::new(["-l", "-socket", "--nice", "-0", "--env", "-X=1"])
        .cwd(directory.path())
        .run("cat");
    assert_eq!(talk(connect_unix(directory.join("-socket")), b"1"), b"1");
    drop(skd);
}

#[test]
fn options_end_where_the_program_begins() {
    let show = ["-c", "printf '<%s>' \"$@\"", "sh"];
    for (words, expected) in [
        (
            &["-l", "x", "-v", "--help", "-V", "-t", "0"][..],
            "<-l><x><-v><--help><-V><-t><0>",
        ),
        (&["--", "-d"], "<--><-d>"),
        (&["-"], "<->"),
        (&["--no-such-option", "-Z"], "<--no-such-option><-Z>"),
    ] {
        let skd = Skd::new(["-t", "127.0.0.1:0"]).run_with("sh", show.iter().chain(words));
        assert_eq!(text(talk(skd.connect(), b"")), expected);
        // Without a listener too.
        let output = Skd::new(["sh"]).args(show).args(words).end();
        assert_eq!(output.stdout, expected);
    }
}

#[test]
fn two_hyphens_end_the_options() {
    let directory = Directory::new();
    directory.script("-v", "#!/bin/sh\nprintf '<%s>' \"$@\"\n");
    let path = format!("{}:/usr/bin:/bin", directory.path().display());
    let skd = Skd::new(["-t", "127.0.0.1:0", "--"])
        .env("PATH", &path)
        .run_with("-v", ["--", "-l"]);
    assert_eq!(text(talk(skd.connect(), b"")), "<--><-l>");
    assert_eq!(skd.stop().code(), Some(0));
    assert!(skd.log_lines().is_empty(), "that was no option");
    let output = Skd::new(["--", "-v", "a"]).env("PATH", &path).end();
    assert_eq!(output.stdout, "<a>");
}

#[test]
fn the_last_of_a_repeated_option_counts() {
    let directory = Directory::new();
    let (first, last) = (directory.name("first"), directory.name("last"));
    let (log, no_log) = (
        format!(">{}", directory.name("log")),
        format!(">{}", directory.name("no-log")),
    );
    let words = [
        "-c",
        "7",
        "--max-clients=1",
        "-P",
        &first,
        "--pidfile",
        &last,
        "-L",
        &no_log,
        "-L",
        &log,
        "-b1",
        "-b",
        "2",
        "--chdir",
        "/nonexistent",
        "--chdir",
        "/",
        "--umask",
        "0",
        "--umask=31",
        "--nice",
        "1",
        "--nice=3",
        "--threads=1",
        "--threads=2",
        "--drain=1s",
        "--drain",
        "2s",
        "--kill-after",
        "1s",
        "--kill-after=2s",
        "--limit",
        "core=512",
        "--limit=core=1024:1536",
        "--env",
        "A=1",
        "--env",
        "A=2",
        "-n",
        "-n",
        "--no-new-privs",
        "--no-new-privs",
        "-t",
        "127.0.0.1:0",
    ];
    let skd = Skd::new(words).run_with(
        "sh",
        [
            "-c",
            "pwd; umask; nice; ulimit -Sc; ulimit -Hc; echo $A; exec cat",
        ],
    );
    assert_eq!(text(talk(skd.connect(), b"")), "/\n0031\n3\n2\n3\n2\n");
    assert_eq!(directory.read("last"), format!("{}\n", skd.pid()));
    let (_one, _two) = (skd.connect(), skd.connect());
    assert!(
        crate::harness::wait_for_text(directory.join("log"), "clients wait")
            .contains("the only slot")
    );
    assert!(!Path::new(&first).exists() && !directory.join("no-log").exists());
}

#[test]
fn the_last_of_a_repeated_limit_counts_and_others_stay() {
    let skd = Skd::new([
        "--limit",
        "core=512",
        "--limit",
        "nofile=50:60",
        "--limit",
        "core=2",
        "-t",
        "127.0.0.1:0",
    ])
    .run("cat");
    let mut stream = skd.connect();
    crate::harness::echo(&mut stream, b".");
    let handler = skd.wait_for_children(1)[0];
    let of = |name| limit(handler, name).unwrap();
    assert_eq!(of("Max core file size"), ("2".into(), "2".into()));
    assert_eq!(of("Max open files"), ("50".into(), "60".into()));
}

// Options that only print something.

#[test]
fn version_and_help_go_to_stdout() {
    for option in ["-V", "--version"] {
        let output = run_to_end([option]);
        output.expect_code(0);
        assert_eq!(output.stdout, format!("skd {}\n", env!("SKD_VERSION")));
        assert_eq!(output.stderr, "");
    }
    for option in ["-h", "--help"] {
        let output = run_to_end([option]);
        output.expect_code(0);
        assert!(
            output.stdout.contains("skd [OPTIONS] [--] PROG [ARGS]..."),
            "{}",
            output.stdout
        );
        assert_eq!(output.stderr, "");
    }
    assert_eq!(run_to_end(["-h"]).stdout, run_to_end(["--help"]).stdout);
}

#[test]
fn help_comes_first_whatever_the_other_options() {
    let directory = Directory::new();
    let output = Skd::new(["-P"])
        .arg(directory.join("pid"))
        .args(["-t", "0", "--help"])
        .end();
    output.expect_code(0);
    assert!(fs::read_dir(directory.path()).unwrap().next().is_none());
}

#[test]
fn help_lists_the_common_options_on_one_screen_or_all_of_them() {
    let short = run_to_end(["--help"]).stdout;
    assert!(short.lines().count() <= 50, "{short}");
    let long = run_to_end(["--help=all"]);
    long.expect_code(0);
    assert_eq!(long.stderr, "");
    for help in [&short, &long.stdout] {
        let widest = help.lines().map(|line| line.chars().count()).max();
        assert!(widest <= Some(78), "{widest:?} columns:\n{help}");
        for form in ["DURATION is like ", "SIZE is ", "SOURCE is ", "man skd"] {
            assert!(help.contains(form), "{form} isn't in:\n{help}");
        }
    }
    assert!(short.contains("--help=all"), "{short}");
    // The option, and whether it is a common one.
    for (option, common) in [
        ("-t, --tcp ", true),
        ("-l, -x, --unix ", true),
        ("-c, --max-clients ", true),
        ("-B, --background ", true),
        ("-h, --help[=all] ", true),
        ("-i, --inet ", false),
        ("    --seqpacket ", false),
        ("    --proxy-timeout ", false),
    ] {
        let line = format!("\n  {option}");
        assert!(long.stdout.contains(&line), "{option}: {}", long.stdout);
        assert_eq!(short.contains(&line), common, "{option}: {short}");
    }
}

#[test]
fn help_takes_one_value_and_refuses_others() {
    refused(&["--help=x", "cat"], &["'x'", "--help", "'all'"]);
    refused(&["--help="], &["''", "--help", "'all'"]);
    // Options after it aren't looked at.
    let all = run_to_end(["--help=all"]).stdout;
    assert_eq!(run_to_end(["--help=all", "--no-such-option"]).stdout, all);
    let short = run_to_end(["--help"]).stdout;
    assert_eq!(run_to_end(["-hv", "--no-such-option"]).stdout, short);
    // The next word isn't its value.
    assert_eq!(run_to_end(["--help", "all"]).stdout, short);
}

#[test]
fn unwritable_help_is_an_error() {
    let full = fs::File::options().write(true).open("/dev/full").unwrap();
    let output = Skd::new(["--help"]).stdout(full).end();
    output
        .expect_code(1)
        .expect_stderr(&["skd: ", "No space left on device"]);
    // A reader that closes the pipe early has what it wanted, and gets no message.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Skd::new(["--help"]).stdout(writer).end();
    output.expect_code(0);
    assert_eq!(output.stderr, "");
}

#[test]
fn an_unwritable_message_keeps_its_status() {
    for options in [&["-t", "99999", "cat"][..], &["-Z"], &[]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Skd::new(options).stderr(writer).end().expect_code(2);
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let missing = Skd::new(["-t", "127.0.0.1:0", "/nonexistent/program"]);
    missing.stderr(writer).end().expect_code(127);
}

// Refusals.

/// Runs in an empty directory, and asserts a refusal for bad usage, with nothing created.
#[track_caller]
fn refused(words: &[&str], parts: &[&str]) -> Output {
    let directory = Directory::new();
    let output = Skd::new(words)
        .cwd(directory.path())
        .env_remove("UID")
        .env_remove("GID")
        .end();
    output.expect_refusal(2, parts);
    let left: Vec<_> = fs::read_dir(directory.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(left.is_empty(), "{words:?} left {left:?}");
    output
}

#[test]
fn wrong_ports_and_hosts_are_refused() {
    for option in ["--tcp", "--udp", "--inet"] {
        for value in [
            "",
            ":",
            "65536",
            "99999",
            "4294967376",
            "-1",
            "+80",
            "0x50",
            "80x",
            "80 ",
            " 80",
            "8 0",
            "1e3",
            "80.0",
            "[::1]",
            "[::1]80",
            "[::1",
            "::1]:80",
            "::1:80",
            "[::1]:",
            "[::1]:65536",
            "[127.0.0.1]:x9",
            "[mail]:80",
            "[]:80",
            "[::1%]:80",
            "[127.0.0.1%lo]:80",
            "127.0.0.1:",
            "127.0.0.1",
            "127.1:80",
            "256.0.0.1:80",
            "0177.0.0.1:80",
            "1.2.3.4.5:80",
            "*:80",
            "a b:80",
            "localhost:no-such-service",
            "no-such-service",
            "é:80",
        ] {
            let output = refused(&[option, value, "cat"], &[option, &format!("'{value}'")]);
            assert!(
                output.stderr.len() > "skd: invalid value '' for --tcp: .".len() + value.len(),
                "{output:?}"
            );
        }
    }
    refused(&["-t", "65536", "cat"], &["0 to 65535"]);
}

#[test]
fn wrong_paths_are_refused() {
    refused(&["-l", "", "cat"], &["--unix", "empty"]);
    refused(&["-l", "@", "cat"], &["--unix", "'@'"]);
    refused(&["-l", "directory/", "cat"], &["--unix", "'directory/'"]);
    let long = "x".repeat(108);
    refused(&["-l", &long, "cat"], &["--unix", "108", "107"]);
    refused(
        &["-l", &format!("@{long}"), "cat"],
        &["--unix", "108", "107"],
    );
    refused(&["-P", "", "cat"], &["--pidfile", "empty"]);
    refused(&["--chdir", "", "cat"], &["--chdir", "empty"]);
    refused(&["--user", "nobody", "--chroot", "", "cat"], &["empty"]);
}

#[test]
fn wrong_numbers_are_refused() {
    for option in ["--max-clients", "--backlog"] {
        for value in [
            "",
            "0",
            "-1",
            "+1",
            "1 ",
            " 1",
            "0x10",
            "1k",
            "1.5",
            "many",
            "2147483648",
            "99999999999999999999",
        ] {
            refused(
                &["-t", "0", option, value, "cat"],
                &[option, &format!("'{value}'"), "from 1 to 2147483647"],
            );
        }
    }
    for value in ["", "0", "17", "-1", "two", "0x1", "2 "] {
        refused(
            &["-t", "0", "--threads", value, "cat"],
            &["--threads", &format!("'{value}'"), "from 1 to 16"],
        );
    }
    for value in ["", "-", "-21", "20", "+5", "5.0", "low"] {
        refused(
            &["--nice", value, "cat"],
            &["--nice", &format!("'{value}'"), "from -20 to 19"],
        );
    }
    for option in ["--unix-mode", "--umask"] {
        for value in ["", "8", "888", "1000", "0o17", "-1", "u=rw", "77 "] {
            refused(
                &["-l", "socket", option, value, "cat"],
                &[option, &format!("'{value}'"), "octal", "777"],
            );
        }
    }
}

#[test]
fn wrong_limits_are_refused() {
    for value in [
        "",
        "nofile",
        "nofile=",
        "=5",
        "files=1",
        "nofile=1:",
        "nofile=:1",
        "nofile=2:1",
        "nofile=0x1",
        "nofile=1k",
        "nofile=-1",
        "nofile=1:2:3",
        "nofile=18446744073709551616",
        "NOFILE=1",
        "nofile=unlimited:1",
    ] {
        refused(
            &["--limit", value, "cat"],
            &["--limit", &format!("'{value}'")],
        );
    }
    refused(
        &["--limit", "files=1", "cat"],
        &["'files'", "nofile", "stack"],
    );
}

#[test]
fn wrong_logs_are_refused() {
    for value in [
        "",
        ":",
        "tag:",
        "tag:daemon",
        "tag:daemon.",
        "tag:.info",
        "tag:nothing.info",
        "tag:daemon.nothing",
        "tag:daemon.info.x",
        "tag:24.0",
        "tag:0.8",
        ">",
        ">>",
        "> ",
    ] {
        refused(&["--log", value, "cat"], &["--log", &format!("'{value}'")]);
    }
}

#[test]
fn wrong_users_are_refused() {
    for option in ["--user", "--unix-owner"] {
        for value in [
            "",
            ":",
            "no-such-user",
            "nobody:no-such-group",
            "nobody:",
            ":nogroup",
            "4294967295",
            "4294967296",
            "-1",
            "1:4294967295",
            "0x1",
        ] {
            refused(
                &["-l", "socket", option, value, "cat"],
                &[option, &format!("'{value}'")],
            );
        }
    }
    for value in ["root", "0", "0:1", "root:daemon"] {
        refused(
            &["-l", "socket", "--user", value, "cat"],
            &["--user", &format!("'{value}'"), "root"],
        );
    }
    // A user without an entry has no group to take.
    refused(&["--user", "54321", "cat"], &["--user", "54321:GROUP"]);
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    refused(&["-d", "cat"], &["--datagram", "-i", "-u"]);
    refused(&["-t", "0", "-d", "cat"], &["--datagram", "-i", "-u"]);
    refused(&["-u", "0", "-d", "cat"], &["--datagram"]);
    for words in [["-St0", "--wait"], ["--wait", "-St0"]] {
        refused(&[words[0], words[1], "cat"], &["--wait", "--supervise"]);
    }
    for option in [["-c", "5"], ["--threads", "2"]] {
        for taker in ["-S", "--wait"] {
            refused(
                &["-t", "0", taker, option[0], option[1], "cat"],
                &["accepts the connections itself"],
            );
        }
    }
    for words in [
        &["--wait"][..],
        &["-u0", "--wait"],
        &["-dlsocket", "--wait"],
    ] {
        refused(&[words, &["cat"]].concat(), &["--wait", "stream listener"]);
    }
    refused(
        &["-St0", "--idle-exit", "1s", "cat"],
        &["--idle-exit", "--on-demand"],
    );
    refused(
        &["-St0", "--on-demand", "--idle-exit", "1", "cat"],
        &["--idle-exit", "'1'"],
    );
    refused(
        &["-St0", "-u7", "--on-demand", "--idle-exit=1s", "cat"],
        &["--idle-exit", "--udp 7"],
    );
    for words in [&["-S"][..], &["-t0"], &[]] {
        refused(
            &[words, &["--on-demand", "cat"]].concat(),
            &["--on-demand", "--supervise", "listener"],
        );
    }
    refused(
        &["--chroot", "/", "cat"],
        &["--chroot", "--user", "--drop-privileges"],
    );
    refused(&["--chroot", "/", "-t", "0", "cat"], &["--chroot"]);
    refused(
        &["-U", "--user", "nobody", "cat"],
        &["--user", "--drop-privileges"],
    );
    for option in [["--unix-mode", "600"], ["--unix-owner", "nobody"]] {
        refused(
            &["-l", "@name", option[0], option[1], "cat"],
            &[option[0], "@name"],
        );
        refused(
            &["-l", "socket", "-l", "@name", option[0], option[1], "cat"],
            &[option[0], "@name"],
        );
    }
}

#[test]
fn wrong_sandboxes_are_refused() {
    let sandbox = |words: &[&str], parts: &[&str]| {
        refused(&[&["-t0", "--sandbox"], words, &["cat"]].concat(), parts);
    };
    for value in ["", "nets", "net,", "strict,nets", "Strict", "net uts"] {
        let word = format!("--sandbox={value}");
        refused(
            &["-t0", &word, "cat"],
            &["--sandbox", "strict, or some of user, pid, mount, net"],
        );
    }
    refused(
        &["-t0", "--sandbox", "net,uts", "cat"],
        &["--sandbox=net,uts"],
    );
    for (option, value) in [
        ("ro", "srv/../etc"),
        ("ro", "/srv/../etc"),
        ("ro", "/"),
        ("rw", "/srv:"),
        ("rw", "/srv:srv"),
        ("rw", "/srv:/"),
        ("tmpfs", "/"),
        ("tmpfs", "srv:1M"),
    ] {
        sandbox(&[&format!("--{option}={value}")], &[option, value]);
    }
    for size in ["", "0", "-1", "1.5M", "1X", "99999999999T"] {
        let why = "a decimal number of bytes";
        sandbox(&[&format!("--tmpfs=/x:{size}")], &["--tmpfs", why]);
        refused(
            &["-t0", &format!("--memory-max={size}"), "cat"],
            &["--memory-max", why],
        );
    }
    for cpu in ["", "50", "0%", "-1%", "x%", "100001%"] {
        refused(
            &["-t0", &format!("--cpu-max={cpu}"), "cat"],
            &["--cpu-max", "a percentage of one CPU"],
        );
    }
    for ids in ["", "root", "1:", ":1", "4294967295", "1:2:3"] {
        let word = format!("--sandbox-user={ids}");
        sandbox(&[&word], &["--sandbox-user", "UID or UID:GID"]);
    }
    for name in ["", "a b", "a/b", &"x".repeat(65)] {
        let word = format!("--sandbox-hostname={name}");
        sandbox(&[&word], &["--sandbox-hostname", "1 to 64 letters"]);
    }
    for value in ["", "defualt", "strict"] {
        refused(
            &["-t0", &format!("--seccomp={value}"), "cat"],
            &["--seccomp", "default, log, none, or a FILE with a '/'"],
        );
    }
}

#[test]
fn what_a_sandbox_excludes_is_refused_with_the_reason() {
    for (words, parts) in [
        (
            &["--sandbox", "--user=nobody", "--chroot=/srv"][..],
            &["--chroot can't be used with --sandbox", "--ro"][..],
        ),
        (
            &["--sandbox", "--fork-server"],
            &["--fork-server can't be used with --sandbox", "--warm"],
        ),
        (
            &["--sandbox=net", "--as-peer"],
            &["--as-peer can't be used with --sandbox", "--user"],
        ),
        (&["--share-net"], &["--share-net has no use without"]),
        (
            &["--sandbox=uts", "--share-net"],
            &["--share-net has no use", "the parts net and landlock"],
        ),
        (
            &["--sandbox=net", "--share-net"],
            &["--share-net can't be used with --sandbox=net"],
        ),
        (&["--ro=/srv"], &["--ro has no use without --sandbox"]),
        (
            &["--sandbox=landlock", "--tmpfs=/x"],
            &["--tmpfs needs the part mount"],
        ),
        (
            &["--sandbox=net", "--rw=/x"],
            &["--rw needs the part mount or landlock"],
        ),
        (
            &["--sandbox=net", "--sandbox-user=0"],
            &["--sandbox-user needs the part user"],
        ),
        (
            &["--sandbox=net", "--sandbox-hostname=x"],
            &["--sandbox-hostname needs the part uts"],
        ),
        (
            &["--sandbox", "--ro=/srv:/x", "--tmpfs=/x:1M"],
            &["--tmpfs /x:1M is where --ro /srv:/x is already: at /x"],
        ),
        (
            &["--sandbox", "--ro=/x/", "--ro=/x"],
            &["--ro /x is where --ro /x/ is already"],
        ),
    ] {
        let line = [&["-t0"], words, &["cat"]].concat();
        refused(&line, parts);
    }
    for option in ["--contain", "--sandbox", "--memory-max=1M"] {
        let name = option.split('=').next().unwrap();
        refused(&[option, "cat"], &[name, "a listener"]);
        refused(&["-St0", option, "cat"], &[name, "--supervise"]);
    }
}

#[test]
fn a_listener_given_twice_is_refused() {
    for words in [
        ["-t", "4321", "-t", "4321"],
        ["-t", "4321", "-t", ":4321"],
        ["-t", "4321", "-i", "4321"],
        ["-u", "127.0.0.1:4321", "-u", "[127.0.0.1]:4321"],
        ["-t", "127.0.0.1:4321", "-t", "[::ffff:127.0.0.1]:4321"],
        ["-t", "localhost:4321", "-t", "localhost:4321"],
        ["-l", "socket", "-l", "socket"],
        ["-l", "@name", "-x", "@name"],
    ] {
        let line = [&words[..], &["cat"]].concat();
        refused(&line, &[words[3], "twice"]);
    }
    // Each of these has a port of its own, or another type of socket.
    for words in [
        ["-t", "127.0.0.1:0", "-t", "127.0.0.1:0"],
        ["-u", "127.0.0.1:0", "-u", "127.0.0.1:0"],
        ["-t", "127.0.0.1:0", "-u", "127.0.0.1:0"],
    ] {
        let skd = Skd::new(words).run("cat");
        assert_eq!(sockets(skd.pid()).len(), 2, "{words:?}");
    }
}

#[test]
fn options_without_effect_are_refused() {
    for option in [
        ["--unix-mode", "600"],
        ["--unix-owner", "nobody"],
        ["--threads", "2"],
        ["--drain", "1s"],
        ["--kill-after", "1s"],
    ] {
        refused(&[option[0], option[1], "cat"], &[option[0], "no use"]);
    }
    refused(&["-S", "--drain=1s", "cat"], &["--drain", "a listener"]);
    refused(
        &["-t", "0", "--kill-after=1s", "cat"],
        &[
            "--kill-after",
            "--drain, --timeout, --idle-timeout, --contain, --sandbox, --gate or --supervise",
        ],
    );
    refused(&["-t", "0", "--drain", "1", "cat"], &["--drain", "30s"]);
}

#[test]
fn missing_and_unknown_words_are_refused() {
    refused(&[], &["PROG"]);
    refused(&["-t", "0"], &["PROG"]);
    refused(&["-t", "0", "--"], &["PROG"]);
    refused(&[""], &["PROG"]);
    refused(&["-Z", "cat"], &["-Z", "--help=all"]);
    refused(&["-vZ", "cat"], &["-Z"]);
    refused(&["--no-such-option", "cat"], &["--no-such-option"]);
    refused(&["--no-such-option=1", "cat"], &["--no-such-option"]);
    refused(&["--tpc", "0", "cat"], &["--tpc"]);
    for option in [
        "-t", "--tcp", "-u", "-i", "-l", "-x", "-b", "-c", "-L", "-P", "--user", "--limit",
        "--env", "--nice",
    ] {
        let output = refused(&[option], &[]);
        assert!(output.stderr.contains("value"), "{output:?}");
    }
    refused(&["--verbose=2", "cat"], &["--verbose"]);
    refused(&["--background=yes", "cat"], &["--background"]);
    // No abbreviations: a future option might begin the same.
    refused(&["--verb", "cat"], &["--verb"]);
}

#[test]
fn privileges_without_ids_are_refused() {
    let skd = |uid: Option<&str>, gid: Option<&str>| {
        let mut skd = Skd::new(["-U", "-t", "0", "cat"])
            .env_remove("UID")
            .env_remove("GID")
            .env_remove("ROOT");
        if let Some(uid) = uid {
            skd = skd.env("UID", uid);
        }
        if let Some(gid) = gid {
            skd = skd.env("GID", gid);
        }
        skd.end()
    };
    skd(None, Some("1")).expect_refusal(2, &["$UID"]);
    skd(Some("1"), None).expect_refusal(2, &["$GID"]);
    for wrong in [
        "",
        "0x1",
        "1x",
        "-1",
        " 1",
        "4294967295",
        "4294967296",
        "nobody",
    ] {
        skd(Some(wrong), Some("1"))
            .expect_refusal(2, &["$UID", &format!("'{wrong}'"), "4294967294"]);
        skd(Some("1"), Some(wrong))
            .expect_refusal(2, &["$GID", &format!("'{wrong}'"), "4294967294"]);
    }
    skd(Some("0"), Some("1")).expect_refusal(2, &["$UID", "'0'"]);
}

#[test]
fn a_wrong_word_is_found_before_any_bind_or_change() {
    let directory = Directory::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    // A bind would have reported this port as in use.
    let words = [
        "-t", &address, "-l", "socket", "-P", "pid", "-L", ">log", "-c", "none", "cat",
    ];
    refused(&words, &["--max-clients", "'none'"]);
    let log = directory.write("log", "old\n");
    let output = Skd::new(["-L"])
        .arg(format!(">{}", log.display()))
        .args(["-t", "99999", "cat"])
        .end();
    output.expect_refusal(2, &["99999"]);
    assert_eq!(directory.read("log"), "old\n");
}

#[test]
fn a_wrong_word_is_refused_by_the_launcher() {
    refused(
        &["-B", "-L", ">log", "-P", "pid", "-t", "99999", "cat"],
        &["99999"],
    );
}

#[test]
fn messages_quote_words_without_their_control_characters() {
    let output = run_to_end(["-t", "80\n\x1b[31mred", "cat"]);
    output.expect_refusal(2, &["80\\x0a\\x1b[31mred"]);
    let output = run_to_end(["--no\nsuch", "cat"]);
    output.expect_refusal(2, &["--no\\x0asuch"]);
}

#[test]
fn words_that_are_not_utf8_are_taken_or_refused_and_never_lost() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let directory = Directory::new();
    let name = OsStr::from_bytes(b"socket\xff");
    let skd = Skd::new(["-l"])
        .arg(name)
        .cwd(directory.path())
        .start_with("printf", [OsStr::from_bytes(b"<\xfe>")]);
    skd.wait_until("it serves", || {
        directory.join(name).exists() && sockets(skd.pid()).iter().any(|it| it.listening)
    });
    assert_eq!(talk(connect_unix(directory.join(name)), b""), b"<\xfe>");
    Skd::new(["-t"])
        .arg(OsStr::from_bytes(b"80\xff"))
        .arg("cat")
        .end()
        .expect_refusal(2, &["--tcp"]);
}

#[test]
fn a_host_may_be_left_out_before_the_colon() {
    let skd = Skd::new(["-t", ":0"]).run("cat");
    assert_eq!(sockets(skd.pid()).len(), 2);
    assert_eq!(talk(connect(skd.address()), b"1"), b"1");
}

#[test]
fn limits_that_are_out_of_range_are_refused() {
    for (words, parts) in [
        (&["-c1", "--at-max=queue:0s"][..], ["--at-max", "close"]),
        (&["-c1", "--at-max=message:"], ["--at-max", "close"]),
        (&["-c1", "--at-max=wait"], ["--at-max", "queue:DURATION"]),
        (&["-c1", "--at-max=queue:5"], ["--at-max", "30s"]),
        (&["--at-max=close"], ["--at-max", "--max-clients"]),
        (&["--at-rate=close"], ["--at-rate", "--rate"]),
        (
            &["--rate-per-source=1/s", "--at-rate=queue"],
            ["--at-rate", "queue:DURATION"],
        ),
        (
            &["--max-per-source=1", "--at-source-max=queue"],
            ["--at-source-max", "queue:DURATION"],
        ),
        (&["--max-per-source=0"], ["--max-per-source", "from 1"]),
        (
            &["--max-per-source=1", "--source-prefix=33,64"],
            ["--source-prefix", "up to 32"],
        ),
        (&["--source-prefix=24,48"], ["--source-prefix", "no use"]),
        (&["--nat64=64:ff9b::/96"], ["--nat64", "no use"]),
        (
            &["--allow=all", "--nat64=64:ff9b::/95"],
            ["--nat64", "64 or 96 bits"],
        ),
        (&["--rate=0/s"], ["--rate", "10/s"]),
        (&["--rate=10"], ["--rate", "10/s"]),
        (&["--timeout=0s"], ["--timeout", "zero"]),
        (&["--first-byte=0ms"], ["--first-byte", "zero"]),
    ] {
        refused(&[&["-t", "0"], words, &["cat"]].concat(), &parts);
    }
    for option in [
        "--allow=all",
        "--deny=all",
        "--max-per-source=1",
        "--rate=1/s",
        "--rate-per-source=1/s",
        "--first-byte=1s",
        "--timeout=1s",
        "--idle-timeout=1s",
        "--linger=1s",
        "--proxy-protocol",
    ] {
        for others in [&["-u", "0"][..], &[], &["-t", "0", "--wait"]] {
            let name = option.split('=').next().unwrap();
            refused(&[others, &[option, "cat"]].concat(), &[name, "no use"]);
        }
    }
}
