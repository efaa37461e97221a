//! `-S`: one program, restarted whenever it exits.

use crate::harness::{
    Directory, Running, SignalMasks, Skd, Terminal, children, command, each_program, exists,
    poll_for, process_group, requires_command, requires_root, signal_masks, stat_field,
    status_field, wait_for_text, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

#[test]
fn a_program_that_ends_is_restarted() {
    each_program(|program| {
        let skd = program
            .skd(["-vS"])
            .start_with("sh", ["-c", "echo run; exit 3"]);
        skd.wait_until("it has run three times", || skd.stdout_lines().len() >= 3);
        // The third run may have printed first.
        skd.wait_for_logs("Started sh", 3);
        let ends = skd.logged("sh exited abnormally with status 3");
        assert!(ends.len() >= 2, "{ends:?}");
    });
}

#[test]
fn a_killed_program_is_restarted() {
    each_program(|program| {
        let skd = program
            .skd(["-vS"])
            .start_with("sh", ["-c", "kill -KILL $$"]);
        skd.wait_for_logs("sh was terminated by signal 9", 2);
    });
}

#[test]
fn the_delay_doubles() {
    let skd = Skd::new(["-vS"]).start("false");
    let lines = skd.wait_for_logs("Restarting false in ", 5);
    let expected = ["0.1s", "0.2s", "0.4s", "0.8s", "1.6s"]
        .map(|delay| format!("Restarting false in {delay}"));
    assert_eq!(lines[..5], expected);
    // A success makes no difference.
    let skd = Skd::new(["-vS"]).start("true");
    assert_eq!(
        skd.wait_for_logs("Restarting true in ", 3)[..3],
        [
            "Restarting true in 0.1s",
            "Restarting true in 0.2s",
            "Restarting true in 0.4s",
        ]
    );
}

#[test]
fn a_program_that_ran_for_long_is_restarted_at_once() {
    let directory = Directory::new();
    // Long, but for the first two times, and then short again.
    let script = "echo >> \"$0\"; test $(wc -l < \"$0\") -ne 3 || sleep 10.1";
    let skd = Skd::new(["-vS"]).start_with("sh", ["-c", script, &directory.name("runs")]);
    let found = poll_for(Duration::from_secs(60), || {
        let lines = skd.logged("Restarting");
        (lines.len() >= 4).then_some(lines)
    });
    assert_eq!(
        found.expect("four restarts")[..4],
        [
            "Restarting sh in 0.1s",
            "Restarting sh in 0.2s",
            "Restarting sh at once",
            "Restarting sh in 0.1s",
        ]
    );
}

/// A program that prints the signals that it gets, and ends at none of them.
fn listener(options: &[&str]) -> Running {
    listener_of(Skd::new(["-S"]).args(options))
}

fn listener_of(skd: Skd) -> Running {
    requires_command("perl");
    let script = "$| = 1; for my $name (@ARGV) { $SIG{$name} = sub { print \"got $name\\n\" } } \
                  print \"ready\\n\"; sleep 1000 while 1";
    let names = [
        "TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "ALRM", "WINCH", "CONT",
    ];
    let skd = skd.start_with("perl", ["-e", script].into_iter().chain(names));
    assert_eq!(skd.stdout_line(), "ready");
    skd
}

#[test]
fn signals_are_passed_on() {
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGALRM,
        Signal::SIGWINCH,
        Signal::SIGCONT,
    ] {
        let skd = listener(&[]);
        skd.signal(signal);
        let name = signal.as_str().trim_start_matches("SIG");
        skd.wait_for_line("the signal", |line| line.text == format!("got {name}"));
        // And more than one, and one after another.
        skd.signal(Signal::SIGUSR1);
        skd.wait_for_line("another", |line| line.text == "got USR1");
        let program = skd.wait_for_children(1)[0];
        kill(Pid::from_raw(program), Signal::SIGKILL).unwrap();
        match signal {
            // It was told to end, and ends with the program.
            Signal::SIGTERM | Signal::SIGINT | Signal::SIGQUIT => {
                assert_eq!(skd.wait().code(), Some(128 + 9), "{signal}");
            }
            _ => {
                skd.wait_until("it runs again", || {
                    skd.stdout_lines()
                        .iter()
                        .filter(|line| *line == "ready")
                        .count()
                        == 2
                });
            }
        }
    }
}

#[test]
fn hup_that_was_ignored_at_the_start_is_not_passed_on() {
    for with_log in [false, true] {
        let directory = Directory::new();
        let log = format!(">{}", directory.name("log"));
        let skd = Skd::new(["-vS"]).ignoring(Signal::SIGHUP);
        let skd = listener_of(if with_log {
            skd.args(["-L", &log])
        } else {
            skd
        });
        let program = skd.wait_for_children(1)[0];
        if with_log {
            std::fs::rename(directory.join("log"), directory.join("old")).unwrap();
        }
        skd.signal(Signal::SIGHUP);
        if with_log {
            // It still reopens the log.
            wait_until("a new log", || directory.join("log").exists());
        }
        // The pending signal with the lower number comes first: HUP has been handled when this one
        // arrives.
        skd.signal(Signal::SIGUSR1);
        skd.wait_for_line("another", |line| line.text == "got USR1");
        assert_eq!(skd.stdout_lines(), ["ready", "got USR1"]);
        assert_eq!(skd.wait_for_children(1), [program]);
    }
}

#[test]
fn the_whole_group_of_the_program_gets_signals() {
    let skd = Skd::new(["-S"]).start_with("sh", ["-c", "sleep 1000 & echo ready; wait"]);
    skd.stdout_line();
    let program = skd.wait_for_children(1)[0];
    let child = children(program)[0];
    assert_eq!(skd.stop().code(), Some(128 + 15));
    wait_until("the program's child ends", || !exists(child));
}

#[test]
fn skd_ends_with_the_status_of_the_program() {
    for (signal, trap, status) in [
        (Signal::SIGTERM, "trap 'exit 7' TERM;", 7),
        (Signal::SIGTERM, "trap 'exit 0' TERM;", 0),
        (Signal::SIGINT, "trap 'exit 8' INT;", 8),
        (Signal::SIGQUIT, "trap 'exit 9' QUIT;", 9),
        (Signal::SIGTERM, "", 128 + 15),
        (Signal::SIGINT, "", 128 + 2),
    ] {
        let script = format!("{trap} sleep 1000 & echo ready; wait");
        let skd = Skd::new(["-S"]).start_with("sh", ["-c", &script]);
        skd.stdout_line();
        skd.signal(signal);
        assert_eq!(skd.wait().code(), Some(status), "{signal} {trap}");
        assert_eq!(skd.stdout_lines().len(), 1, "run again after {signal}");
    }
}

#[test]
fn skd_ends_with_0_when_it_is_told_to_while_it_waits() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let skd = Skd::new(["-vS"]).start("false");
        skd.wait_for_log("Restarting false in 3.2s");
        let runs = skd.logged("Started").len();
        skd.signal(signal);
        assert_eq!(skd.wait().code(), Some(0), "{signal}");
        assert_eq!(skd.logged("Started").len(), runs, "{signal}");
    }
}

#[test]
fn the_program_leads_a_group_and_has_default_signal_dispositions() {
    let skd = Skd::new(["-vS"])
        .ignoring(Signal::SIGINT)
        .ignoring(Signal::SIGCHLD)
        .blocking(Signal::SIGTERM)
        .start_with("sleep", ["1000"]);
    skd.wait_for_log("Started");
    let program = skd.wait_for_children(1)[0];
    wait_until("sleep runs", || command(program) == ["sleep", "1000"]);
    assert_eq!(process_group(program), Some(program));
    assert_ne!(process_group(skd.pid()), Some(program));
    let masks = signal_masks(program);
    assert_eq!(
        masks,
        SignalMasks {
            pending: 0,
            blocked: 0,
            ignored: 0,
            caught: 0
        }
    );
    assert_eq!(skd.stop().code(), Some(128 + 15));
}

#[test]
fn a_program_that_was_missing_is_run_when_it_is_back() {
    let directory = Directory::new();
    directory.script("prog", "#!/bin/sh\nexec sleep 1000\n");
    let skd = Skd::new(["-vS"]).cwd(directory.path()).start("./prog");
    skd.wait_for_log("Started");
    let first = skd.wait_for_children(1)[0];
    skd.wait_for_log("Started ./prog");
    std::fs::rename(directory.join("prog"), directory.join("away")).unwrap();
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    skd.wait_for_log("skd: './prog' can't be run: No such file or directory");
    std::fs::rename(directory.join("away"), directory.join("prog")).unwrap();
    skd.wait_for_logs("Started ./prog", 2);
    skd.stop();
}

#[test]
fn in_the_background_the_launcher_returns_when_the_program_runs() {
    for _ in 0..10 {
        let directory = Directory::new();
        let launcher =
            Skd::new(["-BS", "-P", &directory.name("pid")]).start_with("sleep", ["1000"]);
        assert_eq!(launcher.wait().code(), Some(0));
        let daemon: i32 = directory.read("pid").trim().parse().unwrap();
        // At once, not after a while.
        let program = children(daemon);
        assert_eq!(program.len(), 1);
        assert_eq!(command(program[0]), ["sleep", "1000"]);
        kill(Pid::from_raw(daemon), Signal::SIGTERM).unwrap();
        wait_until("both end", || !exists(daemon) && !exists(program[0]));
        assert_eq!(directory.names(), [""; 0]);
    }
}

#[test]
fn hup_reopens_the_log_and_reaches_the_program() {
    let directory = Directory::new();
    let log = format!(">{}", directory.name("log"));
    let skd = listener(&["-v", "-L", &log]);
    wait_for_text(directory.join("log"), "Started perl");
    std::fs::rename(directory.join("log"), directory.join("old")).unwrap();
    skd.signal(Signal::SIGHUP);
    skd.wait_for_line("HUP", |line| line.text == "got HUP");
    wait_until("a new log", || directory.join("log").exists());
    skd.signal(Signal::SIGTERM);
    let program = skd.wait_for_children(1)[0];
    kill(Pid::from_raw(program), Signal::SIGKILL).unwrap();
    skd.wait();
    wait_for_text(directory.join("log"), "perl was terminated by signal 9");
}

/// A supervised program that has a terminal.
fn with_terminal(terminal: &Terminal, script: &str) -> (Running, i32) {
    let skd = Skd::new(["-vS"])
        .controlled_by(terminal)
        .stdin(terminal.end())
        .start_with("sh", ["-c", script]);
    skd.stdout_line();
    let program = skd.wait_for_children(1)[0];
    (skd, program)
}

/// The foreground group of the terminal of a process (tpgid of proc(5)).
fn foreground(pid: i32) -> i32 {
    stat_field(pid, 8).unwrap().parse().unwrap()
}

/// Whether a process is stopped.
fn is_stopped(pid: i32) -> bool {
    stat_field(pid, 3).as_deref() == Some("T")
}

#[test]
fn the_program_has_the_terminal() {
    let mut terminal = Terminal::new();
    let script = "echo ready; read line; echo \"read $line\"; exec sleep 1000";
    let (skd, program) = with_terminal(&terminal, script);
    assert_eq!(foreground(skd.pid()), program);
    // Another process that reads from the terminal is stopped.
    terminal.type_in(b"typed\n");
    skd.wait_for_line("what was typed", |line| line.text == "read typed");
}

#[test]
fn ctrl_c_ends_the_program_and_skd() {
    let mut terminal = Terminal::new();
    let (skd, _) = with_terminal(&terminal, "echo ready; exec sleep 1000");
    terminal.type_in(b"\x03");
    assert_eq!(skd.wait().code(), Some(128 + 2));
    assert_eq!(skd.logged("Started").len(), 1);
}

#[test]
fn ctrl_z_gives_the_terminal_back_to_the_shell_until_fg() {
    requires_command("bash");
    let directory = Directory::new();
    let fifo = directory.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut terminal = Terminal::new();
    // Not in a loop, which bash leaves when a job is stopped in it.
    let stop = "echo \"stopped $?\"; read -r go < \"$FIFO\"; fg > /dev/null;";
    let line = format!("\"$@\"; {stop} {stop} echo \"ended $?\"");
    let skd = Skd::new(["-vS"])
        .wrapper(["bash", "-mc", &line, "bash"])
        .env("FIFO", &fifo)
        .controlled_by(&terminal)
        .stdin(terminal.end())
        // Where bash looks for its terminal.
        .stderr(terminal.end())
        .start_with("sh", ["-c", "echo ready; exec sleep 1000"]);
    assert_eq!(skd.stdout_line(), "ready");
    let program = skd.wait_for_children(1)[0];
    for round in 1..=2 {
        wait_until("the program has the terminal", || {
            foreground(skd.pid()) == program
        });
        terminal.type_in(b"\x1a");
        // 128 and STOP or TSTP.
        let stops = |line: &String| line == "stopped 147" || line == "stopped 148";
        skd.wait_until("the shell sees it", || {
            skd.stdout_lines().iter().filter(|line| stops(line)).count() == round
        });
        assert!(is_stopped(program) && is_stopped(skd.pid()));
        std::fs::write(&fifo, "go\n").unwrap();
        wait_until("both go on", || {
            !is_stopped(program) && !is_stopped(skd.pid())
        });
    }
    wait_until("the program has the terminal", || {
        foreground(skd.pid()) == program
    });
    terminal.type_in(b"\x03");
    skd.wait_for_line("the end", |line| line.text == "ended 130");
}

#[test]
fn ctrl_z_without_job_control_stops_nothing_for_good() {
    let mut terminal = Terminal::new();
    let (skd, program) = with_terminal(&terminal, "echo ready; exec sleep 1000");
    for _ in 0..3 {
        terminal.type_in(b"\x1a");
        wait_until("both go on", || {
            !is_stopped(program) && !is_stopped(skd.pid())
        });
    }
    wait_until("the program has the terminal", || {
        foreground(skd.pid()) == program
    });
    terminal.type_in(b"\x03");
    assert_eq!(skd.wait().code(), Some(128 + 2));
}

#[test]
fn a_restarted_program_has_the_terminal_again() {
    let terminal = Terminal::new();
    let (skd, first) = with_terminal(&terminal, "echo ready; exec sleep 1000");
    kill(Pid::from_raw(first), Signal::SIGKILL).unwrap();
    skd.wait_until("it runs again", || skd.stdout_lines().len() == 2);
    let second = skd.wait_for_children(1)[0];
    assert_ne!(first, second);
    assert_eq!(foreground(skd.pid()), second);
}

#[test]
fn a_closed_terminal_ends_both() {
    let terminal = Terminal::new();
    let (skd, program) = with_terminal(&terminal, "echo ready; exec sleep 1000");
    terminal.hang_up();
    wait_until("the program gets HUP", || !exists(program));
    skd.signal(Signal::SIGTERM);
    skd.wait();
}

#[test]
fn process_1_reaps_orphans_beside_its_program() {
    requires_root();
    requires_command("unshare");
    let script =
        "for i in 1 2 3 4 5 6 7 8 9; do (true & true &); done; echo ready; exec sleep 1000";
    let skd = Skd::new(["-S"])
        .wrapper(["unshare", "-p", "-f", "--mount-proc", "--kill-child"])
        .start_with("sh", ["-c", script]);
    skd.stdout_line();
    let inside = status_field(skd.pid(), "NSpid").unwrap();
    assert_eq!(inside.split_whitespace().last(), Some("1"), "{inside}");
    wait_until("the program alone is left", || {
        let left = children(skd.pid());
        left.len() == 1 && exists(left[0])
    });
    assert_eq!(skd.stop().code(), Some(128 + 15));
}
