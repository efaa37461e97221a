//! `-L TAG`: the relay to the system log.

use crate::harness::{
    Directory, Instance, Namespace, Running, SignalMasks, Skd, Syslog, children, descriptors,
    each_program, exists, ids, machine, poll_for, receive, relays, requires_root, run_to_end,
    session, signal_masks, talk, wait_for, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeSet;
use std::io::Write;
use std::time::Duration;

/// The relay of a running skd: a process of the same program, and no child of this run.
#[track_caller]
fn relay(skd: &Instance) -> i32 {
    wait_for("a relay", || relays(skd).first().copied())
}

/// Kills a relay, and waits until it is dead: until then it may still read lines, which are lost.
#[track_caller]
fn slay(relay: i32) {
    send(relay, Signal::SIGKILL);
    wait_until("the relay is dead", || !exists(relay));
}

fn send(pid: i32, signal: Signal) {
    kill(Pid::from_raw(pid), signal).unwrap();
}

/// A handler that copies its input to its standard error, line by line.
const SPEAKER: [&str; 2] = [
    "-c",
    "while read -r line; do echo \"said $line\" >&2; echo; done",
];

/// Makes a handler write a line to the log.
#[track_caller]
fn say(stream: &mut std::net::TcpStream, text: &str) {
    writeln!(stream, "{text}").unwrap();
    assert_eq!(receive(stream, 1), b"\n");
}

#[test]
fn lines_have_the_requested_tag_and_priority() {
    let (namespace, syslog) = machine();
    for (number, (spec, priority, original)) in [
        ("", 29, true),
        (":daemon.info", 30, true),
        (":LOCAL7.Debug", 191, true),
        (":authpriv.warn", 84, true),
        (":Security.ERROR", 35, true),
        (":kern.panic", 0, false),
        // The numbers of RFC 5424, where 1.2 took those of the C library, eight times as large.
        (":16.0", 128, false),
        (":3.7", 31, false),
    ]
    .into_iter()
    .enumerate()
    {
        each_program(|program| {
            if !program.is_ours() && !original {
                return;
            }
            let tag = format!("tag{number}{program:?}");
            let skd = program
                .skd(["-vt", "127.0.0.1:0", "-L", &format!("{tag}{spec}")])
                .inside(&namespace)
                .run_with("sh", ["-c", "echo from the handler >&2"]);
            talk(skd.connect(), b"");
            for text in ["Accepted connection from [127.0.0.1]:", "from the handler"] {
                let message = syslog.wait_for(&format!(" {tag}: {text}"));
                assert_eq!(message.priority(), Some(priority), "{message:?}");
            }
            // Nothing of it on the original standard error.
            assert_eq!(skd.log_lines(), [""; 0]);
        });
    }
}

#[test]
fn an_unknown_facility_or_priority_is_refused() {
    for spec in [
        "tag:x.info",
        "tag:daemon.x",
        "tag:24.0",
        "tag:0.8",
        "tag:daemon",
        "tag:",
        "",
    ] {
        run_to_end(["-L", spec, "true"])
            .expect_code(2)
            .expect_stderr(&["--log", &format!("'{spec}'")]);
    }
}

#[test]
fn a_long_line_arrives_in_marked_pieces() {
    let (namespace, syslog) = machine();
    let skd = Skd::new(["-t", "127.0.0.1:0", "-L", "tag"])
        .inside(&namespace)
        .run_with("sh", ["-c", "cat >&2"]);
    let line: String = ('a'..='z').cycle().take(3 * 8192 + 100).collect();
    talk(skd.connect(), format!("{line}\nnext\n").as_bytes());
    syslog.wait_for(" tag: next");
    let texts: Vec<String> = syslog
        .messages()
        .into_iter()
        .map(|message| message.text.split_once(" tag: ").unwrap().1.to_owned())
        .collect();
    assert_eq!(texts.len(), 5, "{texts:?}");
    let mut whole = texts[0].clone();
    for piece in &texts[1..4] {
        whole += piece.strip_prefix("[continued] ").expect("a mark");
    }
    assert_eq!(whole, line);
    assert!(
        texts[..3]
            .iter()
            .all(|text| text.len() <= 8192 + "[continued] ".len())
    );
    assert_eq!(texts[4], "next");
}

#[test]
fn every_line_of_a_flood_arrives() {
    let (namespace, syslog) = machine();
    let skd = Skd::new(["-t", "127.0.0.1:0", "-L", "tag"])
        .inside(&namespace)
        .run_with("sh", ["-c", "cat >&2"]);
    let lines: String = (0..5000)
        .map(|number| format!("line {number}.\n"))
        .collect();
    talk(skd.connect(), lines.as_bytes());
    syslog.wait_for("line 4999.");
    for (number, message) in syslog.logged("line ").iter().enumerate() {
        assert!(
            message.ends_with(&format!("tag: line {number}.")),
            "{message}"
        );
    }
    assert_eq!(syslog.logged("line ").len(), 5000);
}

#[test]
fn the_last_lines_arrive_too() {
    let (namespace, syslog) = machine();
    each_program(|program| {
        let skd = program
            .skd(["-L", &format!("{program:?}")])
            .inside(&namespace)
            .start_with(
                "sh",
                [
                    "-c",
                    "echo first >&2; printf 'last, unfinished' >&2; exit 3",
                ],
            );
        assert_eq!(skd.wait().code(), Some(3));
        syslog.wait_for(&format!("{program:?}: first"));
        syslog.wait_for(&format!("{program:?}: last, unfinished"));
    });
    // Those of skd itself as it ends, and of a handler that ends after it.
    let skd = Skd::new(["-vvt", "127.0.0.1:0", "-L", "served"])
        .inside(&namespace)
        .run_with("sh", SPEAKER);
    let mut stream = skd.connect();
    say(&mut stream, "before");
    let before = syslog.messages().len();
    assert_eq!(skd.stop().code(), Some(0));
    wait_until("the end is reported", || syslog.messages().len() > before);
    say(&mut stream, "after");
    syslog.wait_for("served: said after");
}

#[test]
fn the_relay_is_no_child_of_skd_and_holds_nothing() {
    let (namespace, syslog) = machine();
    let directory = Directory::new();
    let daemon = Skd::new([
        "-vt",
        "127.0.0.1:0",
        "-l",
        &directory.name("socket"),
        "-L",
        "tag",
    ])
    .inside(&namespace)
    .daemon("cat");
    talk(daemon.connect(), b"");
    syslog.wait_for("Closed connection");
    let relay = relay(&daemon);
    daemon.wait_until("skd has no child", || children(daemon.pid()).is_empty());
    assert_ne!(crate::harness::parent(relay), Some(daemon.pid()));
    assert_eq!(session(relay), Some(relay));
    let (ours, its) = (descriptors(daemon.pid()), descriptors(relay));
    let its: BTreeSet<_> = its.into_values().collect();
    // The pipe that it reads, the socket by which skd asks it, the socket to syslog, and the root directory in which
    // the path of that begins.
    assert!(its.len() <= 4, "{its:?}");
    assert!(its.contains(&ours[&2]), "{its:?}");
    let shared: Vec<_> = ours.values().filter(|it| its.contains(*it)).collect();
    assert!(
        shared
            .iter()
            .all(|it| it.starts_with("pipe:") || *it == "/"),
        "{shared:?}"
    );
}

#[test]
fn the_relay_ignores_signals_that_end_skd() {
    let (namespace, syslog) = machine();
    let skd = Skd::new(["-t", "127.0.0.1:0", "-L", "tag"])
        .inside(&namespace)
        .run_with("sh", SPEAKER);
    let mut stream = skd.connect();
    say(&mut stream, "first");
    syslog.wait_for("said first");
    let relay = relay(&skd);
    let ending = [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ];
    let masks = signal_masks(relay);
    for signal in ending {
        assert!(SignalMasks::has(masks.ignored, signal), "{signal}");
        send(relay, signal);
    }
    say(&mut stream, "second");
    syslog.wait_for("said second");
    assert_eq!(relays(&skd), [relay]);
}

#[test]
fn the_relay_lives_as_long_as_a_process_writes_to_it() {
    let (namespace, syslog) = machine();
    let skd = Skd::new(["-t", "127.0.0.1:0", "-L", "tag"])
        .inside(&namespace)
        .run_with("sh", SPEAKER);
    let mut stream = skd.connect();
    say(&mut stream, "first");
    let relay = relay(&skd);
    assert_eq!(skd.stop().code(), Some(0));
    say(&mut stream, "second");
    syslog.wait_for("said second");
    assert!(exists(relay));
    talk(stream, b"");
    wait_until("the relay ends", || !exists(relay));
}

#[test]
fn a_killed_relay_is_restarted() {
    let (namespace, syslog) = machine();
    let skd = Skd::new(["-t", "127.0.0.1:0", "-L", "tag"])
        .inside(&namespace)
        .run_with("sh", SPEAKER);
    let mut old = skd.connect();
    say(&mut old, "first");
    syslog.wait_for("said first");
    for round in 0..2 {
        let killed = relay(&skd);
        slay(killed);
        // No process is disturbed, and no line is lost: neither of an earlier handler nor of a new one.
        say(&mut old, &format!("old {round}"));
        say(&mut skd.connect(), &format!("new {round}"));
        syslog.wait_for(&format!("said old {round}"));
        syslog.wait_for(&format!("said new {round}"));
        wait_until("one other relay", || {
            let relays = relays(&skd);
            relays.len() == 1 && relays != [killed]
        });
    }
    // The second end is no more than a second after the first, and may not be logged: the same trouble is throttled.
    syslog.wait_for("skd: the relay to syslog had ended and was started again");
}

#[test]
fn a_supervised_program_keeps_its_relay_too() {
    let (namespace, syslog) = machine();
    let skd = Skd::new(["-S", "-L", "tag"])
        .inside(&namespace)
        .stdin(crate::harness::Stream::Pipe)
        .start_with("sh", SPEAKER);
    skd.write_stdin(b"first\n");
    syslog.wait_for("said first");
    let killed = relay(&skd);
    slay(killed);
    skd.write_stdin(b"second\n");
    syslog.wait_for("said second");
    assert_ne!(relay(&skd), killed);
}

#[test]
fn a_stuck_syslog_costs_lines_and_no_connections() {
    let (namespace, syslog) = machine();
    let skd = Skd::new(["-vt", "127.0.0.1:0", "-L", "tag"])
        .inside(&namespace)
        .run_with("sh", ["-c", "echo said >&2; cat"]);
    talk(skd.connect(), b"");
    syslog.wait_for("Closed connection");
    syslog.stick();
    // More than its queue and all pipes hold: a handler that had to wait for one of them would not answer.
    for _ in 0..1000 {
        assert_eq!(talk(skd.connect(), b"served"), b"served");
    }
    syslog.unstick();
    let found = syslog.wait_for(" lost here").text;
    let number = found
        .split("skd: ")
        .nth(1)
        .unwrap()
        .split(' ')
        .next()
        .unwrap();
    assert!(number.parse::<u32>().unwrap() > 0, "{found}");
    talk(skd.connect(), b"");
    let before = syslog.logged("Closed connection").len();
    wait_until("all is well again", || {
        talk(skd.connect(), b"");
        syslog.logged("Closed connection").len() > before
    });
}

#[test]
fn a_restarted_syslog_is_found_again() {
    let (namespace, syslog) = machine();
    let skd = Skd::new(["-t", "127.0.0.1:0", "-L", "tag"])
        .inside(&namespace)
        .run_with("sh", SPEAKER);
    let mut stream = skd.connect();
    say(&mut stream, "first");
    syslog.wait_for("said first");
    for (round, stop) in [Syslog::crash, Syslog::stop].into_iter().enumerate() {
        stop(&syslog);
        // Lines of this time may or may not be kept, depending on how long it lasts.
        say(&mut stream, "while it is down");
        syslog.restart();
        wait_until("lines arrive again", || {
            say(&mut stream, &format!("after {round}"));
            let arrived =
                || (!syslog.logged(&format!("said after {round}")).is_empty()).then_some(());
            poll_for(Duration::from_millis(100), arrived).is_some()
        });
    }
}

#[test]
fn a_syslog_that_starts_later_is_found() {
    let namespace = Namespace::new();
    namespace.private_dev();
    let skd = Skd::new(["-t", "127.0.0.1:0", "-L", "tag"])
        .inside(&namespace)
        .run_with("sh", SPEAKER);
    let mut stream = skd.connect();
    say(&mut stream, "too early");
    let syslog = Syslog::bind(namespace.path("/dev/log"));
    wait_until("lines arrive", || {
        say(&mut stream, "in time");
        let arrived = || (!syslog.logged("said in time").is_empty()).then_some(());
        poll_for(Duration::from_millis(100), arrived).is_some()
    });
}

#[test]
fn a_program_run_in_place_gets_no_child() {
    let (namespace, syslog) = machine();
    let skd = Skd::new(["-L", "tag"])
        .inside(&namespace)
        // A shell would wait for a relay among its children until that ends, which is never.
        .start_with(
            "perl",
            [
                "-e",
                "print STDERR qq(waiting\\n); 1 while wait > 0; print qq(done\\n)",
            ],
        );
    assert_eq!(skd.stdout_line(), "done");
    assert!(skd.wait().success());
    syslog.wait_for("tag: waiting");
}

/// Started by root, with privileges dropped.
fn dropped(namespace: &Namespace, root: Option<&Directory>) -> Running {
    requires_root();
    let skd = Skd::new(["-vUt", "127.0.0.1:0", "-L", "tag"])
        .inside(namespace)
        .env("UID", "61234")
        .env("GID", "61235")
        .env("PATH", "/bin:/usr/bin");
    let skd = match root {
        Some(root) => skd.env("ROOT", root.path()),
        None => skd.env_remove("ROOT"),
    };
    skd.run_with("sh", SPEAKER)
}

#[test]
fn the_relay_of_root_has_no_capability_and_no_user_of_handlers() {
    let (namespace, syslog) = machine();
    let skd = dropped(&namespace, None);
    say(&mut skd.connect(), "first");
    syslog.wait_for("said first");
    let relay = relay(&skd);
    assert_eq!(ids(relay).0, [0; 4]);
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(crate::harness::capabilities(relay, set), 0, "{set}");
    }
}

#[test]
fn a_relay_restarted_in_another_root_directory_follows_the_link_at_dev_log() {
    let namespace = Namespace::new();
    namespace.private_dev();
    let directory = Directory::public();
    let syslog = Syslog::bind(directory.join("dev-log"));
    std::os::unix::fs::symlink(directory.join("dev-log"), namespace.path("/dev/log")).unwrap();
    let root = Directory::public();
    root.install(&["/bin/sh"]);
    let skd = dropped(&namespace, Some(&root));
    let mut stream = skd.connect();
    say(&mut stream, "first");
    syslog.wait_for("said first");
    for _ in 0..2 {
        let killed = relay(&skd);
        slay(killed);
        say(&mut stream, &format!("after {killed}"));
        syslog.wait_for(&format!("said after {killed}"));
    }
}

#[test]
fn a_start_without_syslog_says_so() {
    let namespace = Namespace::new();
    namespace.private_dev();
    for background in ["-v", "-B"] {
        let skd = Skd::new(["-t", "127.0.0.1:0", "-L", "tag"]).inside(&namespace);
        let says = "skd: note: --log: no syslog reads /dev/log (No such file or directory)";
        if background == "-B" {
            skd.daemon("cat").wait_for_log(says);
        } else {
            skd.run("cat").wait_for_log(says);
        }
    }
}

#[test]
fn the_relay_stays_in_the_old_root_directory_and_is_restarted_from_the_new_one() {
    let (namespace, syslog) = machine();
    let root = Directory::public();
    root.install(&["/bin/sh"]);
    let skd = dropped(&namespace, Some(&root));
    let mut stream = skd.connect();
    say(&mut stream, "first");
    syslog.wait_for("said first");
    let first = relay(&skd);
    let link = |pid: i32| std::fs::read_link(format!("/proc/{pid}/root")).unwrap();
    assert_eq!(link(skd.pid()), root.path());
    assert_ne!(link(first), root.path());
    slay(first);
    say(&mut stream, "second");
    syslog.wait_for("said second");
    assert_ne!(relay(&skd), first);
    // The restarted relay still finds a log socket that was bound anew.
    syslog.restart();
    wait_until("lines arrive again", || {
        say(&mut stream, "third");
        let arrived = || (!syslog.logged("said third").is_empty()).then_some(());
        poll_for(Duration::from_millis(100), arrived).is_some()
    });
}
