//! Messages about mistakes that newcomers make: which option, why, and what to do.

use crate::harness::{
    Directory, Namespace, Output, Skd, Terminal, requires_root, run_to_end, sockets, talk,
};
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;

/// A user without rights.
const UID: u32 = 61234;
const GID: u32 = 61235;

#[track_caller]
fn says(words: &[&str], code: i32, parts: &[&str]) -> Output {
    let output = run_to_end(words);
    output.expect_refusal(code, parts);
    output
}

#[test]
fn a_word_taken_for_a_value_is_named() {
    let taken = |option: &str, name: &str| {
        format!(
            "no PROG to run: 'cat' was taken as the {name} of {option}; write {option} {name} PROG"
        )
    };
    says(&["-t", "cat"], 2, &[&taken("--tcp", "[HOST:]PORT")]);
    says(&["-vtcat"], 2, &[&taken("--tcp", "[HOST:]PORT")]);
    says(&["-t", "80", "-L", "cat"], 2, &[&taken("--log", "SPEC")]);
    says(
        &["-t", "80", "--user", "cat"],
        2,
        &[&taken("--user", "USER[:GROUP]")],
    );
    // Here PROG was forgotten.
    for words in [&["-t", "80"][..], &["-t", "cat", "-v"], &["-v"], &[]] {
        says(words, 2, &["no PROG to run: skd [OPTIONS]"]);
    }
}

#[test]
fn an_address_without_its_parts_is_told_which() {
    for (value, part) in [
        ("127.0.0.1", "the port is missing, as in 127.0.0.1:80"),
        (
            "::1",
            "an IPv6 address needs brackets and a port, as in [::1]:80",
        ),
        ("[::1]", "the port is missing: after [ADDRESS] comes :PORT"),
        ("localhost", "for a host of that name, write localhost:PORT"),
        ("example.org", "write example.org:PORT"),
        ("*:80", "for all addresses, write the port alone"),
        ("http://localhost:80", "no URL"),
        ("80,443", "write --tcp once for each value"),
        ("80 443", "write --tcp once for each value"),
    ] {
        says(&["-t", value, "cat"], 2, &["--tcp", part]);
    }
    let once = "write --allow once for each value";
    says(&["-t", "0", "--allow", "10.0.0.1,::1", "cat"], 2, &[once]);
    let output = says(&["-t", "0", "--allow", "10.0.0.1,x", "cat"], 2, &[]);
    assert!(!output.stderr.contains("once"), "{output:?}");
}

#[test]
fn an_unknown_option_is_told_which_one_was_meant() {
    for (unknown, meant) in [
        ("--tpc", "--tcp (-t)?"),
        ("--port", "--tcp (-t)?"),
        ("-p", "--tcp (-t)?"),
        ("--daemon", "--background (-B)?"),
        ("--max-client", "--max-clients (-c)?"),
        ("--pid-file", "--pidfile (-P)?"),
        ("--timeuot", "--timeout?"),
        ("--verb", "--verbose (-v)?"),
    ] {
        let text = format!("unknown option {unknown}, perhaps {meant} (skd --help=all");
        says(&[unknown, "80", "cat"], 2, &[&text]);
    }
    let output = says(&["--no-such-option", "cat"], 2, &["unknown option"]);
    assert!(!output.stderr.contains("perhaps"), "{output:?}");
}

#[test]
fn a_check_goes_on_with_the_option_that_was_meant() {
    let words = [
        "--check",
        "--tpc",
        "99999",
        "--usr=no-such-user",
        "-c",
        "x",
        "cat",
    ];
    let output = run_to_end(words);
    output.expect_code(2);
    let lines: Vec<_> = output.stderr.lines().collect();
    let expected = [
        "skd: unknown option --tpc",
        "skd: unknown option --usr",
        "skd: invalid value '99999' for --tcp",
        "skd: invalid value 'no-such-user' for --user",
        "skd: invalid value 'x' for --max-clients",
    ];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    let begins = lines
        .iter()
        .zip(expected)
        .all(|(line, text)| line.starts_with(text));
    assert!(begins, "{lines:#?}");
    // That of PROG is none of skd's.
    says(&["--tpc", "80", "cat", "--check"], 2, &["--tpc"]);
}

#[test]
fn a_check_reports_all_faults_of_a_socket() {
    requires_root();
    let low = Namespace::new();
    low.sysctl("net.ipv4.ip_unprivileged_port_start", "1024");
    let words = [
        "--check",
        "-t",
        "127.0.0.1:80",
        "--mark",
        "1",
        "--device",
        "no-such0",
        "cat",
    ];
    let output = Skd::new(words).user(UID, GID, [GID]).inside(&low).end();
    output
        .expect_code(1)
        .expect_stderr(&["--mark", "--device", "CAP_NET_BIND_SERVICE"]);
    assert_eq!(output.stderr.lines().count(), 3, "{output:#?}");
}

#[test]
fn a_program_that_is_not_found_is_told_why_it_may_be() {
    let words = "write a program and its arguments as separate words: cat -n";
    says(&["-t", "0", "cat -n"], 127, &[words]);
    says(
        &["-t", "0", "/bin/cat -n"],
        127,
        &["separate words: /bin/cat -n"],
    );
    says(
        &["8080", "cat"],
        127,
        &["to listen on a port, write --tcp 8080"],
    );
    says(
        &["localhost:8080", "cat"],
        127,
        &["write --tcp localhost:8080"],
    );
    let output = says(
        &["/no/such/cat -n"],
        127,
        &["the directory /no doesn't exist"],
    );
    assert!(!output.stderr.contains("separate"), "{output:?}");
}

#[test]
fn words_in_the_wrong_order_or_form_are_told() {
    says(&["help"], 127, &["; for help, write skd --help"]);
    says(
        &["—tcp", "80", "cat"],
        127,
        &["an option begins with '-', which this dash isn't"],
    );
    for word in ["1m", "10m:30s:4"] {
        let text = format!("--keepalive takes its value after an equals sign: --keepalive={word}");
        says(&["-t", "0", "--keepalive", word, "cat"], 2, &[&text]);
    }
    says(
        &["-t", "lo:80", "cat"],
        1,
        &["for that interface, write --device lo and the port"],
    );
    let note = "note: no listener: options come before PROG, and -t is an argument of it";
    run_to_end(["true", "-t", "8080"])
        .expect_code(0)
        .expect_stderr(&[note]);
    // With an option, PROG is meant to run in place.
    let output = run_to_end(["--nice", "0", "true", "-t", "8080"]);
    output.expect_code(0);
    assert_eq!(output.stderr, "");
}

#[test]
fn a_program_is_told_to_be_in_the_root_directory() {
    requires_root();
    let directory = Directory::public();
    let root = directory.path().to_str().unwrap();
    let hint = format!("it has to be in the root directory {root}");
    for words in [&["-t", "0"][..], &["-S"], &[], &["-S", "-t", "0"]] {
        for check in [&["--check"][..], &[]] {
            let output = Skd::new(check).args(words.iter().copied());
            let output = output
                .args(["--user", "nobody", "--chroot", root, "cat"])
                .end();
            output.expect_refusal(127, &["'cat' can't be run", &hint]);
        }
    }
}

#[test]
fn a_port_in_use_is_told_by_which_process() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let name = fs::read_to_string("/proc/self/comm").unwrap();
    let has = format!(
        "; {} (process {}) has the port",
        name.trim_end(),
        std::process::id()
    );
    for (option, port) in [
        ("-t", tcp.local_addr().unwrap().port()),
        ("-u", udp.local_addr().unwrap().port()),
    ] {
        says(
            &[option, &format!("127.0.0.1:{port}"), "cat"],
            1,
            &["already in use", &has],
        );
        says(&[option, &port.to_string(), "cat"], 1, &[&has]);
    }
    let other = Skd::new(["-t", "127.0.0.1:0"]).run("cat");
    let has = format!("(process {}) has the port", other.pid());
    says(&["-t", &other.address().to_string(), "cat"], 1, &[&has]);
}

#[test]
fn a_port_of_another_user_is_told_by_which_user() {
    requires_root();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = tcp.local_addr().unwrap().to_string();
    let output = Skd::new(["-t", &address, "cat"])
        .user(UID, GID, [GID])
        .end();
    output.expect_refusal(1, &["; a process of user id 0 has the port"]);
}

#[test]
fn an_address_that_cannot_be_bound_is_told_what_it_needs() {
    requires_root();
    let namespace = Namespace::new();
    let says = |words: &[&str], code, text: &str| {
        let output = Skd::new(words).arg("cat").inside(&namespace).end();
        output.expect_code(code).expect_stderr(&[text]);
    };
    says(&["-t", "192.0.2.1:80"], 1, "doesn't have the address");
    says(&["-t", "192.0.2.1:80"], 1, "--freebind");
    says(&["--check", "-t", "192.0.2.1:80"], 0, "--freebind");
    let interface = "a link-local address needs its interface, as in [fe80::1%eth0]:80";
    for option in ["-t", "-u"] {
        says(&[option, "[fe80::1]:80"], 1, interface);
        says(&["--check", option, "[fe80::1]:80"], 1, interface);
    }
}

#[test]
fn a_path_that_is_denied_is_told_where_and_to_whom() {
    requires_root();
    let directory = Directory::public();
    fs::create_dir(directory.join("closed")).unwrap();
    directory.chmod("closed", 0o700);
    let closed = directory.name("closed");
    directory.write("file", "");
    let enter = format!("; user id {UID} may not enter the directory {closed}");
    let create = format!(
        "; user id {UID} may not create files in {}",
        directory.path().display()
    );
    let file = format!("; user id {UID} has no right to it");
    let missing = format!("; the directory {} doesn't exist", directory.name("none"));
    let no_directory = format!("; {} is no directory", directory.name("file"));
    for (name, text, options) in [
        ("closed/x/y", &enter, &["-P", "-l", "-L"][..]),
        ("new", &create, &["-P", "-l", "-L"]),
        ("file", &file, &["-P", "-L"]),
        ("none/x", &missing, &["-P", "-l", "-L"]),
        ("file/x", &no_directory, &["-P", "-L"]),
    ] {
        for option in options {
            let mut value = directory.name(name);
            if *option == "-L" {
                value.insert_str(0, ">>");
            }
            for check in [&["--check"][..], &[]] {
                let skd = Skd::new(check).args(["-t", "127.0.0.1:0", option, &value, "cat"]);
                skd.user(UID, GID, [GID]).end().expect_refusal(1, &[text]);
            }
        }
    }
    let program = Skd::new(["-t", "0", &directory.name("closed/x")]);
    program
        .user(UID, GID, [GID])
        .end()
        .expect_refusal(126, &[&enter]);
}

#[test]
fn another_user_and_root_directory_are_told_which_rights_they_need() {
    requires_root();
    let user = "--user: can't become nobody: Operation not permitted; that needs root, or the \
                capabilities CAP_SETUID and CAP_SETGID, and skd runs as user id 61234 without them";
    for (words, message) in [
        (&["--user", "nobody"][..], user),
        (&["--user", "nobody", "-t", "0"], user),
        (&["--user", "nobody", "-S"], user),
        (&["-B", "--user", "nobody", "-t", "0"], user),
        (
            &["--daemon-user", "nobody", "-t", "0"],
            "--daemon-user: can't become nobody",
        ),
        (
            &["--as-peer", "-l", "@rights"],
            "--as-peer: can't become the users of clients",
        ),
        (
            &["-U", "-t", "0"],
            "--drop-privileges (-U): can't become user id 5",
        ),
    ] {
        for check in [&["--check"][..], &[]] {
            let skd = Skd::new(check).args(words.iter().copied()).arg("cat");
            let skd = skd.env("UID", "5").env("GID", "5");
            let output = skd.user(UID, GID, [GID]).end();
            output.expect_refusal(1, &[message]);
        }
    }
    // Nothing changes.
    let own = format!("{UID}:{GID}");
    let output = Skd::new(["--user", &own, "id", "-u"])
        .user(UID, GID, [GID])
        .end();
    output.expect_code(0);
    let output = Skd::new(["--user", &own, "--chroot", "/", "true"])
        .user(UID, GID, [GID])
        .end();
    output.expect_refusal(
        1,
        &["can't chroot: Operation not permitted; that needs root, or the capability CAP_SYS_CHROOT"],
    );
}

/// Options that have an effect without a listener, on PROG or on skd.
const OF_PROGRAMS: [&str; 25] = [
    "argv0",
    "background",
    "chdir",
    "check",
    "chroot",
    "clear-env",
    "config",
    "drop-privileges",
    "env",
    "env-file",
    "help",
    "inetd-conf",
    "limit",
    "log",
    "name",
    "nice",
    "no-new-privs",
    "pidfile",
    "print-config",
    "seccomp",
    "supervise",
    "umask",
    "user",
    "version",
    "xinetd",
];

/// Options that say nothing without a listener: their effect is a default, or nothing.
const SILENT: [&str; 2] = ["stream", "verbose"];

/// A valid value of an option.
fn value(option: &str) -> Option<&'static str> {
    Some(match option {
        "max-clients" | "backlog" | "threads" | "warm" | "max-per-source" | "fast-open"
        | "mark" | "tos" | "min-source-port" | "max-total" => "1",
        "pass-env" => "HOME",
        "ready-fd" => "1",
        "log-format" => "json",
        "log-mask" => "24,48",
        "unix-mode" => "600",
        "unix-owner" => "nobody",
        "datagram-mode" => "wait",
        "allow" | "deny" | "proxy-from" | "explain" => "10.0.0.1",
        "rules" => "/dev/null",
        "source-prefix" => "24,48",
        "rate" | "rate-per-source" => "1/s",
        "at-max" | "at-source-max" | "at-rate" => "close",
        "proxy-timeout"
        | "first-byte"
        | "timeout"
        | "idle-timeout"
        | "linger"
        | "drain"
        | "kill-after"
        | "user-timeout"
        | "defer-accept"
        | "idle-exit"
        | "fork-server-max-age"
        | "gate-timeout" => "1s",
        "gate" => "true",
        "tls" | "tls-client-ca" | "tls-crl" | "tls-ocsp" | "tls-program" | "tls-keylog" => "/x",
        "tls-client" => "optional",
        "tls-min" => "1.3",
        "tls-alpn" => "h2",
        "tls-timeout" => "1s",
        "tls-user" => "nobody",
        "gate-max" | "pids-max" | "service-pids-max" => "1",
        "memory-max" | "service-memory-max" => "64M",
        "cpu-max" | "service-cpu-max" => "50%",
        "ro" | "rw" | "tmpfs" => "/srv",
        "sandbox-user" => "1000",
        "sandbox-hostname" => "host",
        "device" => "lo",
        "send-buffer" | "receive-buffer" => "64K",
        "multicast" => "224.0.0.1",
        _ => return None,
    })
}

#[test]
fn no_option_is_without_effect_in_silence() {
    let help = run_to_end(["--help=all"]).stdout;
    let words = help
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("--"));
    let mut options: Vec<_> = words
        .map(|word| word.split(['=', '[', ',']).next().unwrap())
        .filter(|word| !word.is_empty())
        .collect();
    options.sort_unstable();
    options.dedup();
    assert!(options.len() > 50, "{options:?}");
    let listeners = ["tcp", "udp", "inet", "unix", "listen-fd", "systemd"];
    let mut checked = 0;
    for option in options {
        if OF_PROGRAMS.contains(&option) || SILENT.contains(&option) || listeners.contains(&option)
        {
            continue;
        }
        let mut words = vec![format!("--{option}")];
        words.extend(value(option).map(str::to_owned));
        words.push("true".into());
        let output = run_to_end(&words);
        let said = output
            .stderr
            .lines()
            .any(|line| line.contains(&format!("--{option}")));
        assert!(said, "{words:?} {output:#?}");
        checked += 1;
    }
    assert!(checked > 30, "{checked}");
}

#[test]
fn options_of_skd_1_2_without_effect_are_noted_and_others_are_not() {
    let note = |words: &[&str], texts: &[&str]| {
        let output = run_to_end(words);
        output.expect_code(0);
        let expected: Vec<_> = texts.iter().map(|it| format!("skd: note: {it}")).collect();
        assert_eq!(
            output.stderr.lines().collect::<Vec<_>>(),
            expected,
            "{words:?}"
        );
    };
    let clients = "--max-clients has no effect without a listener: PROG runs once";
    let backlog = "--backlog has no effect without a stream listener";
    let nodelay = "--nodelay has no effect without a TCP listener";
    for check in ["--check", "-v"] {
        note(&[check, "-c", "5", "true"], &[clients]);
        note(
            &[check, "-nc5", "-b5", "true"],
            &[clients, backlog, nodelay],
        );
    }
    let datagrams = "--max-clients has no effect without a stream listener or --datagram-mode: a \
                     datagram listener has one handler";
    note(&["--check", "-c5", "-u", "0", "true"], &[datagrams]);
    note(&["--check", "-nb5", "-l", "@x", "true"], &[nodelay]);
    note(&["--check", "-nc5", "-b5", "-t", "0", "true"], &[]);
    note(
        &["--check", "-c5", "-u0", "--datagram-mode=per-peer", "true"],
        &[],
    );
}

#[test]
fn a_terminal_is_told_what_listens_and_scripts_are_not() {
    let mut terminal = Terminal::new();
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .stderr(terminal.end())
        .run("cat");
    terminal.wait_for(&format!("Listening on TCP [127.0.0.1]:{}\n", skd.port()));
    drop(skd);
    let skd = Skd::new(["-vvt", "127.0.0.1:0"])
        .stderr(terminal.end())
        .run("cat");
    assert_eq!(talk(skd.connect(), b"1"), b"1");
    let seen = terminal.wait_for("Running 0 handlers");
    assert_eq!(seen.matches("Listening on").count(), 1, "{seen}");
    drop(skd);
    terminal.read();
    // A supervised program says it as well.
    let skd = Skd::new(["-St", "127.0.0.1:0"])
        .stderr(terminal.end())
        .start_with("sleep", ["1000"]);
    terminal.wait_for("Listening on TCP");
    drop(skd);
    terminal.read();
    // With a log, or in the background, it isn't for the terminal.
    let directory = Directory::new();
    let log = format!(">>{}", directory.name("log"));
    let skd = Skd::new(["-t", "127.0.0.1:0", "-L", &log])
        .stderr(terminal.end())
        .run("cat");
    assert_eq!(talk(skd.connect(), b"1"), b"1");
    drop(skd);
    let skd = Skd::new(["-Bt", "127.0.0.1:0", "-P", &directory.name("pid")]);
    let skd = skd.stderr(terminal.end()).daemon("cat");
    assert!(!sockets(skd.pid()).is_empty());
    skd.stop();
    let left = "skd: note: --background without --log: from here on, standard error of skd and its \
                handlers goes to /dev/null\n";
    assert_eq!(
        (terminal.read(), directory.read("log")),
        (left.to_owned(), String::new())
    );
    // A pipe is read by a script.
    for words in [&["-t", "127.0.0.1:0"][..], &["-vt", "127.0.0.1:0"]] {
        let skd = Skd::new(words).run("cat");
        assert_eq!(talk(skd.connect(), b"1"), b"1");
        assert_eq!(skd.stop().code(), Some(0));
        assert_eq!(skd.logged("Listening"), [""; 0]);
    }
}

#[test]
fn the_version_names_the_commit_of_unreleased_code() {
    let version = run_to_end(["-V"]).stdout;
    let rest = version
        .strip_prefix(concat!("skd ", env!("CARGO_PKG_VERSION")))
        .unwrap();
    let rest = rest.strip_suffix('\n').unwrap();
    let hash = rest.rsplit('g').next().unwrap();
    let is_commit = hash.len() == 12 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    // Without git, or from a tarball, there is no commit.
    assert!(rest.is_empty() || is_commit, "{version:?}");
    assert!(
        !rest.is_empty() || !Path::new(".git").exists() || at_tag(),
        "{version:?}"
    );
}

/// Whether the checkout is at the tag of its version, or git doesn't say.
fn at_tag() -> bool {
    let tag = concat!("v", env!("CARGO_PKG_VERSION"));
    let git = std::process::Command::new("git")
        .args(["describe", "--tags", "--match", tag])
        .output();
    let git = git.ok().filter(|it| it.status.success());
    let any = std::process::Command::new("git")
        .args(["rev-parse", "HEAD"])
        .output();
    !any.is_ok_and(|it| it.status.success())
        || git.is_some_and(|it| it.stdout == format!("{tag}\n").as_bytes())
}

/// Nouns that messages count.
const NOUNS: [&str; 12] = [
    "handlers",
    "datagrams",
    "connections",
    "lines",
    "services",
    "bytes",
    "rules",
    "slots",
    "times",
    "clients",
    "files",
    "processes",
];

/// Text with a number before a noun that is never one, by what follows in the source.
const NEVER_ONE: [&str; 7] = [
    // A limit, and what exceeds it.
    "it has {length} bytes, and the kernel",
    "is longer than {longest} bytes",
    "all {limit} slots are taken",
    "it has more than {MOST_FILES} files open",
    "it takes 1 to {LONGEST} bytes of UTF-8",
    "a request has {LONGEST_REQUEST} bytes at most",
    "there are {number} services, and one skd has at most {MOST}",
];

#[test]
fn no_message_has_a_number_before_a_fixed_noun() {
    let mut faults = Vec::new();
    each_source(Path::new("src"), &mut |path, text| {
        // Tests build texts of their own.
        let text = text.split("#[cfg(test)]").next().unwrap();
        for (number, line) in text.lines().enumerate() {
            let fixed = NOUNS.iter().any(|noun| {
                let mut ends = line.match_indices("} ").map(|(at, _)| &line[at + 2..]);
                ends.any(|rest| {
                    let rest = rest.strip_prefix("more ").unwrap_or(rest);
                    rest.strip_prefix(noun)
                        .is_some_and(|rest| !rest.starts_with(char::is_alphabetic))
                })
            });
            if fixed && !NEVER_ONE.iter().any(|it| line.contains(it)) {
                faults.push(format!("{}:{}: {line}", path.display(), number + 1));
            }
        }
    });
    assert_eq!(faults, [""; 0], "use config::Count");
}

fn each_source(path: &Path, each: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(path).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            each_source(&path, each);
        } else if path.extension().is_some_and(|it| it == "rs") {
            each(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}
