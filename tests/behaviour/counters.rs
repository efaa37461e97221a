//! What skd counts, by the lines that USR1 has it write: known numbers of clients, for each way to serve, refuse and
//! end them, over upgrades and reloads.

use crate::harness::{
    DEADLINE, Directory, Instance, Running, Skd, Way, ask, connect_from, connect_unix, echo,
    poll_for, receive, requires_command, talk, udp_client,
};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

/// What a line says: numbers by what they count, and their parts, as `refused/rate`.
type Figures = BTreeMap<String, u64>;

/// Sends USR1, and waits for the summary: the line of the process, and those after it.
fn summary(skd: &Instance) -> Vec<String> {
    let begins = |line: &String| line.starts_with("skd: counted in ");
    let before = skd.logged("skd: counted in ").len();
    skd.signal(Signal::SIGUSR1);
    // The lines after it have been written at once; the next summary is after them all.
    skd.wait_for_logs("skd: counted in ", before + 1);
    skd.signal(Signal::SIGUSR1);
    skd.wait_for_logs("skd: counted in ", before + 2);
    let lines = skd.log_lines();
    let mut starts = lines.iter().enumerate().filter(|(_, line)| begins(line));
    let (first, last) = (starts.nth(before).unwrap().0, starts.next().unwrap().0);
    lines[first..last].to_vec()
}

/// Reads a number, with commas between its thousands, and what it counts.
fn item(text: &str) -> Option<(u64, &str)> {
    let (number, what) = text.split_once(' ')?;
    Some((number.replace(',', "").parse().ok()?, what))
}

/// Reads the line of a summary that begins so.
fn figures(lines: &[String], begin: &str) -> Figures {
    let mut all = Figures::new();
    let Some(line) = lines.iter().find_map(|line| line.strip_prefix(begin)) else {
        return all;
    };
    let mut depth = 0;
    let parts = line.split(|character| {
        depth += i32::from(character == '(') - i32::from(character == ')');
        character == ',' && depth == 0
    });
    // Thousands are set apart with commas too, but no figure here has any.
    for part in parts {
        let (whole, parts) = part.trim().split_once(" (").unwrap_or((part.trim(), ""));
        let Some((number, what)) = item(whole) else {
            continue;
        };
        let what = what.replacen("handler ", "handlers ", 1);
        let what = what.replacen("datagram ", "datagrams ", 1);
        for (number, label) in parts.trim_end_matches(')').split(", ").filter_map(item) {
            all.insert(format!("{what}/{label}"), number);
        }
        all.insert(what, number);
    }
    all
}

/// Waits until the line of the summary that begins so says this; a handler may be reaped a moment after its client has
/// seen the end.
#[track_caller]
fn counted_as(skd: &Instance, begin: &str, expected: &[(&str, u64)]) {
    let expected: Figures = expected
        .iter()
        .map(|(what, n)| ((*what).into(), *n))
        .collect();
    let mut found = Figures::new();
    let mut tries = 0;
    let same = poll_for(DEADLINE, || {
        found = figures(&summary(skd), begin);
        tries += 1;
        (found == expected).then_some(())
    });
    assert!(
        same.is_some(),
        "{found:#?} after {tries}, not {expected:#?}"
    );
}

/// The same of a daemon with one service.
#[track_caller]
fn counted(skd: &Instance, expected: &[(&str, u64)]) {
    counted_as(skd, "skd: counted: ", expected);
}

/// A quiet skd on a free port.
fn with(options: &[&str]) -> Skd {
    Skd::new(["-t", "127.0.0.1:0"])
        .args(options)
        .throttle(Duration::ZERO)
}

/// So many clients, one after the other.
fn serve(skd: &Running, count: usize) {
    for _ in 0..count {
        assert_eq!(talk(skd.connect(), b"x"), b"x");
    }
}

/// Connects, and reads to the end, whatever that is.
fn refused(mut client: TcpStream) {
    let _ = client.read_to_end(&mut Vec::new());
}

/// How many upgrades have succeeded.
fn upgrades(skd: &Instance) -> u64 {
    let all = figures(&summary(skd), "skd: counted in ");
    let found = ["upgrade", "upgrades"]
        .iter()
        .find_map(|what| all.get(*what));
    found.copied().unwrap_or_default()
}

fn upgrade(skd: &Instance) {
    let before = upgrades(skd);
    skd.signal(Signal::SIGUSR2);
    skd.wait_until("the upgrade", || upgrades(skd) == before + 1);
}

#[test]
fn handlers_are_counted_by_the_way_in_which_they_start() {
    for &way in Way::KINDS {
        let skd = with(&[]).args(way.options()).run("cat");
        for _ in 0..5 {
            way.ready(&skd);
            serve(&skd, 1);
        }
        let label = match way {
            Way::Exec => "exec",
            Way::Warm(_) => "pool",
            _ => "copy",
        };
        let started = format!("handlers started/{label}");
        counted(
            &skd,
            &[
                ("accepted", 5),
                ("handlers started", 5),
                (&started, 5),
                ("ended", 5),
                ("ended/success", 5),
            ],
        );
    }
}

#[test]
fn refused_clients_are_counted_by_the_reason() {
    let skd = with(&[
        "--deny=127.0.0.2",
        "-c2",
        "--at-max=close",
        "--max-per-source=1",
    ])
    .run("cat");
    let address = skd.address();
    let from = |source: &str| connect_from(source.parse().unwrap(), address);
    let mut first = from("127.0.0.1");
    echo(&mut first, b"x");
    for _ in 0..3 {
        refused(from("127.0.0.2"));
    }
    for _ in 0..4 {
        refused(from("127.0.0.1"));
    }
    let mut second = from("127.0.0.3");
    echo(&mut second, b"x");
    for _ in 0..5 {
        refused(from("127.0.0.4"));
    }
    counted(
        &skd,
        &[
            ("accepted", 2),
            ("refused", 12),
            ("refused/rule", 3),
            ("refused/source-max", 4),
            ("refused/max", 5),
            ("handlers started", 2),
            ("handlers started/exec", 2),
            ("running", 2),
        ],
    );
}

#[test]
fn clients_over_a_rate_are_counted_and_pending_ones_while_they_wait() {
    let skd = with(&["--rate=1/h:2", "--at-rate=close"]).run("cat");
    serve(&skd, 2);
    for _ in 0..3 {
        refused(skd.connect());
    }
    counted(
        &skd,
        &[
            ("accepted", 2),
            ("refused", 3),
            ("refused/rate", 3),
            ("handlers started", 2),
            ("handlers started/exec", 2),
            ("ended", 2),
            ("ended/success", 2),
        ],
    );
    let skd = with(&["--first-byte=1h"]).run("cat");
    let silent = [skd.connect(), skd.connect()];
    counted(&skd, &[("pending", 2)]);
    drop(silent);
    counted(&skd, &[("refused", 2), ("refused/ended", 2)]);
}

#[test]
fn ends_are_counted_by_their_result() {
    let script = "echo ready; read -r how; case $how in exit) exit 3;; kill) kill -9 $$;; esac; \
                  sleep 1000 & wait";
    let skd = with(&["--timeout=2s", "--kill-after=100ms"]).run_with("sh", ["-c", script]);
    let begin = || {
        let mut client = skd.connect();
        assert_eq!(receive(&mut client, 6), b"ready\n");
        client
    };
    for (word, count) in [("exit", 2), ("kill", 3), ("wait", 1)] {
        for _ in 0..count {
            let mut client = begin();
            client.write_all(format!("{word}\n").as_bytes()).unwrap();
            let _ = client.read_to_end(&mut Vec::new());
        }
    }
    counted(
        &skd,
        &[
            ("accepted", 6),
            ("handlers started", 6),
            ("handlers started/exec", 6),
            ("ended", 6),
            ("ended/failure", 2),
            ("ended/signal", 3),
            ("ended/timeout", 1),
        ],
    );
}

#[test]
fn clients_without_a_handler_are_counted_by_the_cause() {
    let directory = Directory::new();
    let script = directory.script("handler", "cat");
    let skd = with(&[]).run(&script);
    serve(&skd, 1);
    fs::remove_file(&script).unwrap();
    for _ in 0..3 {
        refused(skd.connect());
    }
    counted(
        &skd,
        &[
            ("accepted", 4),
            ("handlers started", 1),
            ("handlers started/exec", 1),
            ("not started", 3),
            ("not started/exec", 3),
            ("ended", 1),
            ("ended/success", 1),
        ],
    );
}

#[test]
fn datagrams_are_counted_in_and_out() {
    for mode in ["per-packet", "per-peer"] {
        let skd = Skd::new(["-u", "127.0.0.1:0", "--datagram-mode", mode]).run("cat");
        let client = udp_client(skd.address());
        (0..4).for_each(|_| assert_eq!(ask(&client, b"hello"), b"hello"));
        let (clients, all) = match mode {
            "per-packet" => (4, 4),
            _ => {
                // A handler would take it for the end.
                client.send(b"").unwrap();
                (1, 5)
            }
        };
        let lines = || figures(&summary(&skd), "skd: counted: ");
        let number = |what: &str| lines().get(what).copied().unwrap_or_default();
        skd.wait_until("all have been received", || {
            number("datagrams received") == all
        });
        // A client may have the answer before it is counted.
        skd.wait_until("all have been sent", || number("datagrams sent") == 4);
        assert_eq!(number("accepted"), clients);
        assert_eq!(number("handlers started/exec"), clients);
        assert_eq!(number("datagrams dropped/empty"), all - 4);
    }
}

#[test]
fn a_handler_in_wait_mode_is_counted_as_running_and_its_start_as_accepted() {
    requires_command("perl");
    let script = "use Socket; accept(my $c, STDIN) or die; select $c; $| = 1; print <$c>";
    let skd = with(&["--wait"]).run_with("perl", ["-e", script]);
    let mut client = skd.connect();
    let running = [
        ("accepted", 1),
        ("handlers started", 1),
        ("handlers started/exec", 1),
        ("running", 1),
    ];
    counted(&skd, &running);
    upgrade(&skd);
    counted(&skd, &running);
    client.write_all(b"x\n").unwrap();
    assert_eq!(talk(client, b""), b"x\n");
    let ended = [("ended", 1), ("ended/success", 1)];
    counted(&skd, &[&running[..3], &ended].concat());
}

#[test]
fn counters_go_on_over_upgrades() {
    let skd = with(&["--deny=127.0.0.2"]).run("cat");
    let mut held = skd.connect();
    for turn in 1..=3 {
        echo(&mut held, b"x");
        serve(&skd, 2);
        refused(connect_from("127.0.0.2".parse().unwrap(), skd.address()));
        upgrade(&skd);
        counted(
            &skd,
            &[
                ("accepted", 1 + 2 * turn),
                ("refused", turn),
                ("refused/rule", turn),
                ("handlers started", 1 + 2 * turn),
                ("handlers started/exec", 1 + 2 * turn),
                ("running", 1),
                ("ended", 2 * turn),
                ("ended/success", 2 * turn),
            ],
        );
    }
    drop(held);
    counted(
        &skd,
        &[
            ("accepted", 7),
            ("refused", 3),
            ("refused/rule", 3),
            ("handlers started", 7),
            ("handlers started/exec", 7),
            ("ended", 7),
            ("ended/success", 7),
        ],
    );
}

#[test]
fn handlers_that_are_told_to_end_in_a_drain_are_counted_as_that() {
    let script =
        "read -r how; [ $how = deaf ] && trap '' TERM; echo ready; while :; do sleep 0.02; done";
    let skd = with(&["--drain=100ms", "--kill-after=1h"]).run_with("sh", ["-c", script]);
    let mut clients = ["deaf\n", "obedient\n", "obedient\n"].map(|word| {
        let mut client = skd.connect();
        client.write_all(word.as_bytes()).unwrap();
        assert_eq!(receive(&mut client, 6), b"ready\n");
        client
    });
    skd.signal(Signal::SIGTERM);
    for client in &mut clients[1..] {
        let _ = client.read_to_end(&mut Vec::new());
    }
    counted(
        &skd,
        &[
            ("accepted", 3),
            ("handlers started", 3),
            ("handlers started/exec", 3),
            ("running", 1),
            ("ended", 2),
            ("ended/drain", 2),
        ],
    );
}

#[test]
fn no_client_is_lost_or_counted_twice_while_upgrades_happen() {
    let skd = with(&["--deny=127.0.0.2"]).run("cat");
    let (address, turns) = (skd.address(), 60);
    std::thread::scope(|scope| {
        for source in ["127.0.0.1", "127.0.0.2", "127.0.0.3"] {
            scope.spawn(move || {
                for _ in 0..turns {
                    let client = connect_from(source.parse().unwrap(), address);
                    match source {
                        "127.0.0.2" => refused(client),
                        _ => assert_eq!(talk(client, b"x"), b"x"),
                    }
                }
            });
        }
        (0..2).for_each(|_| upgrade(&skd));
    });
    counted(
        &skd,
        &[
            ("accepted", 2 * turns),
            ("refused", turns),
            ("refused/rule", turns),
            ("handlers started", 2 * turns),
            ("handlers started/exec", 2 * turns),
            ("ended", 2 * turns),
            ("ended/success", 2 * turns),
        ],
    );
}

#[test]
fn an_upgrade_that_is_refused_is_counted() {
    let directory = Directory::new();
    let binary = directory.join("skd");
    // By another process: while this one has the file open for writing, an exec of it would fail.
    let mut copy = Command::new("cp");
    let copied = copy.arg(env!("CARGO_BIN_EXE_skd")).arg(&binary).status();
    assert!(copied.unwrap().success());
    let skd = with(&[]).binary(&binary).run("cat");
    fs::remove_file(&binary).unwrap();
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("no upgrade: ");
    let lines = summary(&skd);
    assert!(lines[0].ends_with(", 1 upgrade failed"), "{lines:?}");
    serve(&skd, 1);
}

/// Writes the file of services, in which `DIR` is the directory.
fn configure(directory: &Directory, text: &str) {
    let text = text.replace("DIR/", &directory.name(""));
    directory.write("skd.toml.new", text);
    fs::rename(directory.join("skd.toml.new"), directory.join("skd.toml")).unwrap();
}

#[test]
fn a_service_keeps_its_counters_over_a_reload_though_its_listener_moves() {
    let directory = Directory::new();
    let before = "[service.web]\nunix = [\"DIR/a\", \"DIR/b\"]\ncommand = [\"cat\"]\n\
                  [service.other]\nunix = [\"DIR/c\"]\ncommand = [\"cat\"]\n";
    let after = "[service.web]\nunix = [\"DIR/a\"]\ncommand = [\"cat\"]\n\
                 [service.other]\nunix = [\"DIR/b\", \"DIR/c\"]\ncommand = [\"cat\"]\n";
    configure(&directory, before);
    let skd = Skd::new(["-vv", "--config", &directory.name("skd.toml")])
        .throttle(Duration::ZERO)
        .start_bare();
    skd.wait_for_logs("Listening on ", 3);
    let serve = |name: &str, count| {
        for _ in 0..count {
            let client = connect_unix(directory.join(name));
            assert_eq!(talk(client, b"x"), b"x");
        }
    };
    serve("a", 2);
    serve("b", 3);
    serve("c", 1);
    let counts = |count| {
        [
            ("accepted", count),
            ("handlers started", count),
            ("handlers started/exec", count),
            ("ended", count),
            ("ended/success", count),
        ]
    };
    counted_as(&skd, "skd: web: counted: ", &counts(5));
    let at = |service: &str, listener: &str| {
        let listener = directory.name(listener);
        format!("skd: {service}: counted at unix {listener}: ")
    };
    counted_as(&skd, &at("web", "b"), &[("accepted", 3)]);
    configure(&directory, after);
    skd.signal(Signal::SIGHUP);
    skd.wait_for_log("Reloaded: ");
    serve("a", 1);
    serve("b", 2);
    counted_as(&skd, "skd: web: counted: ", &counts(6));
    counted_as(&skd, "skd: other: counted: ", &counts(3));
    counted_as(&skd, &at("web", "a"), &[("accepted", 3)]);
    let former = "skd: web: counted at former listeners: ";
    counted_as(&skd, former, &[("accepted", 3)]);
    counted_as(&skd, &at("other", "b"), &[("accepted", 2)]);
    counted_as(&skd, &at("other", "c"), &[("accepted", 1)]);
    let lines = summary(&skd);
    assert!(lines[0].ends_with(", 1 reload"), "{lines:?}");
}
