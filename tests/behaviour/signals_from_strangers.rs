//! Signals are obeyed by sender: root, the starter, and no handler that has another user than the starter.

use crate::harness::{
    Directory, Instance, Running, Skd, exists, ids, queue_signal, receive, requires_command,
    requires_root, talk, udp_client, wait_for_text, wait_out_throttle,
};
use nix::sys::signal::Signal;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

/// An id without an account.
const STRANGER: u32 = 61_240;

/// The signals that a daemon acts on.
const ACTING: [Signal; 5] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR2,
];

/// skd that becomes [`STRANGER`] as a whole, so that its handlers may signal it. Every line is written.
fn dropping<const N: usize>(options: [&str; N]) -> Skd {
    requires_root();
    Skd::new(["-U", "-t", "127.0.0.1:0"])
        .args(options)
        .env("UID", STRANGER.to_string())
        .env("GID", STRANGER.to_string())
        .env_remove("ROOT")
        .throttle(Duration::ZERO)
}

fn name(signal: Signal) -> &'static str {
    signal.as_str().trim_start_matches("SIG")
}

/// A handler, a shell that executes what its client sends.
struct Shell(TcpStream);

impl Shell {
    fn of(skd: &Running) -> Self {
        Self(skd.connect())
    }

    fn run(&mut self, line: &str) {
        writeln!(self.0, "{line} && echo ok").unwrap();
        assert_eq!(receive(&mut self.0, 3), b"ok\n", "{line}");
    }

    /// Has the handler send a signal to skd, which must ignore it and say so.
    #[track_caller]
    fn signal_in_vain(&mut self, skd: &Instance, signal: Signal) {
        let name = name(signal);
        wait_out_throttle();
        let told = || skd.logged(&format!("skd: {name} from pid ")).len();
        let before = told();
        self.run(&format!("kill -{name} $PPID"));
        skd.wait_until("the signal is refused", || told() > before);
        let line = skd.logged(&format!("skd: {name} from pid ")).pop().unwrap();
        assert!(
            line.ends_with(&format!(
                " of uid {STRANGER} was ignored: handlers and other users don't control skd"
            )),
            "{line}"
        );
    }
}

#[test]
fn a_handler_that_shares_the_user_of_skd_does_not_control_it() {
    let skd = dropping(["-v"]).run("sh");
    assert_eq!(ids(skd.pid()).0, [STRANGER; 4]);
    let mut shell = Shell::of(&skd);
    for signal in ACTING {
        shell.signal_in_vain(&skd, signal);
        assert_eq!(talk(skd.connect(), b"echo served\n"), b"served\n");
    }
    assert!(skd.logged("pgrade").is_empty());
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn an_upgraded_skd_still_knows_who_started_it() {
    let skd = dropping(["-v"]).run("sh");
    for upgrades in 1..=2 {
        skd.signal(Signal::SIGUSR2);
        skd.wait_for_logs("Upgraded from skd ", upgrades);
        let mut shell = Shell::of(&skd);
        shell.signal_in_vain(&skd, Signal::SIGUSR2);
        shell.signal_in_vain(&skd, Signal::SIGTERM);
    }
    assert_eq!(skd.logged("Upgraded from skd ").len(), 2);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_handler_does_not_hurry_a_drain() {
    let skd = dropping(["-v", "--drain=1h"]).run("sh");
    let mut shell = Shell::of(&skd);
    shell.run("true");
    skd.signal(Signal::SIGTERM);
    skd.wait_for_log("Draining: ");
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        shell.signal_in_vain(&skd, signal);
    }
    shell.run("true");
    drop(shell);
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn a_handler_in_wait_mode_does_not_control_skd_either() {
    let directory = Directory::new();
    let sent = directory.name("sent");
    directory.write("sent", "");
    std::os::unix::fs::chown(&sent, Some(STRANGER), None).unwrap();
    let skd = Skd::new(["-U", "-u", "127.0.0.1:0"])
        .env("UID", STRANGER.to_string())
        .env("GID", STRANGER.to_string())
        .env_remove("ROOT")
        .throttle(Duration::ZERO)
        .run_with(
            "sh",
            [
                "-c",
                "kill -TERM $PPID; echo sent > \"$0\"; exec sleep 1000",
                &sent,
            ],
        );
    udp_client(skd.address()).send(b"unread").unwrap();
    wait_for_text(&sent, "sent\n");
    skd.wait_for_log("skd: TERM from pid ");
    assert!(exists(skd.wait_for_children(1)[0]));
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_supervised_program_does_not_control_its_supervisor() {
    requires_root();
    let script = "for signal in TERM INT QUIT HUP USR1 USR2 ALRM; do kill -$signal $PPID; done; \
                  echo sent; exec sleep 1000";
    let skd = Skd::new(["-US"])
        .env("UID", STRANGER.to_string())
        .env("GID", STRANGER.to_string())
        .env_remove("ROOT")
        .throttle(Duration::ZERO)
        .start_with("sh", ["-c", script]);
    // Release builds write one line a second.
    let signals = ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "ALRM"];
    let told = if cfg!(debug_assertions) { 7 } else { 1 };
    for signal in &signals[..told] {
        skd.wait_for_log(&format!("skd: {signal} from pid "));
    }
    let program = skd.wait_for_children(1)[0];
    skd.signal(Signal::SIGTERM);
    assert_eq!(skd.wait().code(), Some(128 + 15));
    assert!(!exists(program));
}

#[test]
fn a_starter_that_shares_the_user_of_its_handlers_is_obeyed() {
    requires_root();
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .user(STRANGER, STRANGER, [])
        .run("sh");
    // Nothing tells the two apart.
    Shell::of(&skd).run("kill -TERM $PPID");
    assert_eq!(skd.wait().code(), Some(0));
    assert!(skd.logged("was ignored").is_empty());
}

#[test]
fn another_user_with_the_right_to_signal_any_process_does_not_control_skd() {
    requires_root();
    requires_command("setpriv");
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .throttle(Duration::ZERO)
        .run("sh");
    let kill = format!("kill -TERM {}", skd.pid());
    let (user, rights) = (
        STRANGER.to_string(),
        ["--inh-caps=+kill", "--ambient-caps=+kill"],
    );
    let mut sender = std::process::Command::new("setpriv");
    let sender = sender.args(["--reuid", &user]).args(rights);
    assert!(sender.args(["sh", "-c", &kill]).status().unwrap().success());
    skd.wait_for_log("skd: TERM from pid ");
    assert_eq!(talk(skd.connect(), b"echo served\n"), b"served\n");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_signal_whose_sender_is_not_verified_is_refused_whoever_it_claims_to_be() {
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .throttle(Duration::ZERO)
        .run("sh");
    for signal in [Signal::SIGTERM, Signal::SIGUSR2] {
        wait_out_throttle();
        queue_signal(skd.pid(), signal);
        let line = skd.wait_for_log(&format!("skd: {} was ignored", name(signal)));
        assert!(
            line.contains("sent with data") && line.ends_with("use kill(1)"),
            "{line}"
        );
    }
    assert_eq!(talk(skd.connect(), b"echo served\n"), b"served\n");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn refused_signals_are_one_line_a_second() {
    requires_root();
    let skd = dropping([]).throttle(Duration::from_secs(3600)).run("sh");
    let mut shell = Shell::of(&skd);
    shell.run("for i in 1 2 3 4 5 6 7 8 9; do kill -TERM $PPID; kill -HUP $PPID; done");
    skd.wait_for_log("was ignored");
    // Not TERM, which may be pending from the shell: then root's is lost with it.
    skd.signal(Signal::SIGINT);
    assert_eq!(skd.wait().code(), Some(0));
    assert_eq!(skd.logged("was ignored").len(), 1);
}

#[test]
fn the_maker_of_a_user_namespace_is_obeyed_though_it_is_not_mapped_there() {
    requires_root();
    requires_command("unshare");
    // Inside there is one user, and the sender, root outside, isn't it.
    let skd = Skd::new(["-t", "127.0.0.1:0"])
        .user(STRANGER, STRANGER, [])
        .wrapper(["unshare", "--user", "--map-root-user"])
        .run("sh");
    skd.signal(Signal::SIGTERM);
    assert_eq!(skd.wait().code(), Some(0));
    assert!(skd.logged("was ignored").is_empty());
}
