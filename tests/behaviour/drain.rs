//! `--drain`: no new clients are accepted, and handlers end by themselves, get TERM, or are killed.

use crate::harness::{
    DEADLINE, Directory, Over, Running, Skd, ask, assert_idle, children, connect_unix, descriptors,
    echo, exists, receive, requires_command, run_to_end, send_unix_datagram, sockets, status_field,
    talk, tampering, try_talk, udp_client, wait_for_text, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::process::{Command, id};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// Prints a line, and ignores every signal that can be ignored; so does its child.
const STUBBORN: &str = "trap '' TERM; sleep 1000 & echo ready; while :; do sleep 1000; done";

/// Prints a line, prints another at TERM, and goes on.
const TELLING: &str = "trap 'echo told' TERM; echo ready; while :; do sleep 0.01; done";

/// A skd on a free TCP port with these options and a shell as its handler, and a client.
fn served(options: &[&str], script: &str) -> (Running, TcpStream) {
    let skd = Skd::new(["-vt", "127.0.0.1:0"])
        .args(options)
        .run_with("sh", ["-c", script]);
    let mut client = skd.connect();
    assert_eq!(receive(&mut client, 6), b"ready\n");
    (skd, client)
}

/// Sends a signal that begins the drain, and waits until it has begun.
fn begin(skd: &Running, signal: Signal) {
    skd.signal(signal);
    skd.wait_until("no client is accepted any more", || !listens(skd));
}

fn listens(skd: &Running) -> bool {
    sockets(skd.pid()).iter().any(|socket| socket.is_open())
}

/// Connects a client, which may be refused.
type Connect<'a> = dyn Fn(&Running) -> io::Result<TcpStream> + Sync + 'a;

/// Runs a test for each kind of stream listener, with an option that opens one.
fn each_kind(test: impl Fn(&[&str; 2], &Connect<'_>)) {
    let with_limits = |stream: TcpStream| {
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(stream)
    };
    let directory = Directory::new();
    let path = directory.name("socket");
    let name = format!("@drained-{}-{:?}", id(), thread::current().id());
    let of_unix = |address: UnixAddress| {
        // For reading and writing, all streams are alike.
        with_limits(OwnedFd::from(UnixStream::connect_addr(&address)?).into())
    };
    test(&["-t", "127.0.0.1:0"], &|skd| {
        with_limits(TcpStream::connect_timeout(&skd.address(), DEADLINE)?)
    });
    test(&["-l", &path], &|_| {
        of_unix(UnixAddress::from_pathname(&path)?)
    });
    test(&["-l", &name], &|_| {
        of_unix(UnixAddress::from_abstract_name(&name[1..])?)
    });
}

fn refused(address: SocketAddr) {
    let error = TcpStream::connect(address).expect_err("no listener");
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

#[test]
fn handlers_that_end_in_time_end_by_themselves() {
    let skd = Skd::new(["-vvt", "127.0.0.1:0", "--drain=1h30m"]).run("cat");
    let mut clients = [skd.connect(), skd.connect()];
    clients.iter_mut().for_each(|client| echo(client, b"."));
    begin(&skd, Signal::SIGTERM);
    skd.wait_for_log("Draining: 2 handlers have 1h30m to end");
    assert_eq!(skd.logged("Closed TCP ").len(), 1);
    refused(skd.address());
    let [mut first, second] = clients;
    echo(&mut first, b"served to the end");
    assert_eq!(talk(second, b"the other"), b"the other");
    skd.wait_for_log("Running 1 handler");
    assert_eq!(skd.try_wait(Duration::from_millis(50)), None);
    assert_eq!(talk(first, b"the last"), b"the last");
    assert_eq!(skd.wait().code(), Some(0));
    assert_eq!(skd.logged("exited with status 0").len(), 2);
    assert_eq!(skd.logged("have not ended"), [""; 0]);
}

#[test]
fn a_skd_without_handlers_ends_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let skd = Skd::new(["-t", "127.0.0.1:0", "--drain", "1h"]).run("cat");
        assert_eq!(talk(skd.connect(), b"."), b".");
        skd.wait_until("it is reaped", || skd.children().is_empty());
        skd.signal(signal);
        assert_eq!(skd.wait().code(), Some(0), "{signal}");
        assert_eq!(skd.log_lines(), [""; 0]);
    }
}

#[test]
fn late_handlers_get_term() {
    for time in ["300ms", "0s"] {
        let (skd, mut client) = served(&["--drain", time], "sleep 1000 & echo ready; wait");
        let handler = skd.wait_for_children(1)[0];
        let child = children(handler)[0];
        assert_eq!(skd.stop().code(), Some(3), "{time}");
        skd.wait_for_log("skd: 1 handler has not ended: TERM is sent to it");
        skd.wait_for_log(" was terminated by signal 15 ");
        // With its whole process group.
        wait_until("both end", || !exists(handler) && !exists(child));
        assert_eq!(receive(&mut client, 0), b"");
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_late_handler_changes_the_status() {
    let skd = Skd::new(["-vt", "127.0.0.1:0", "--drain=3s"]).run("cat");
    let (mut early, mut late) = (skd.connect(), skd.connect());
    echo(&mut early, b".");
    echo(&mut late, b".");
    begin(&skd, Signal::SIGTERM);
    assert_eq!(talk(early, b""), b"");
    skd.wait_for_log("exited with status 0");
    assert_eq!(skd.wait().code(), Some(3));
    skd.wait_for_log("skd: 1 handler has not ended: TERM");
}

#[test]
fn handlers_that_ignore_term_are_killed() {
    let (skd, _client) = served(&["--drain=0s", "--kill-after=200ms"], STUBBORN);
    let all = skd.processes();
    assert!(all.len() >= 3, "{all:?}");
    assert_eq!(skd.stop().code(), Some(4));
    skd.wait_for_log("skd: 1 handler has not ended: TERM is sent to it");
    skd.wait_for_log("skd: 1 handler has not ended: KILL is sent to it");
    skd.wait_for_log(" was terminated by signal 9 ");
    // The rest of its process group was killed with it.
    wait_until("no process is left", || !all.iter().copied().any(exists));
}

#[test]
fn a_second_signal_starts_the_next_step() {
    for second in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
        let (skd, mut client) = served(&["--drain=1h", "--kill-after=1h"], TELLING);
        begin(&skd, Signal::SIGTERM);
        skd.wait_for_log("Draining: 1 handler has 1h to end");
        skd.signal(second);
        assert_eq!(receive(&mut client, 5), b"told\n", "{second}");
        assert_eq!(skd.try_wait(Duration::ZERO), None);
        skd.signal(second);
        assert_eq!(skd.wait().code(), Some(4), "{second}");
    }
}

#[test]
fn int_and_quit_send_term_at_once() {
    for signal in [Signal::SIGINT, Signal::SIGQUIT] {
        let (skd, mut client) = served(&["--drain=1h", "--kill-after=1h"], TELLING);
        let mut obedient = {
            let skd = Skd::new(["-t", "127.0.0.1:0", "--drain=1h"]).run("cat");
            let mut client = skd.connect();
            echo(&mut client, b".");
            (skd, client)
        };
        obedient.0.signal(signal);
        assert_eq!(obedient.0.wait().code(), Some(3), "{signal}");
        assert_eq!(obedient.1.read(&mut [0]).unwrap(), 0);
        begin(&skd, signal);
        assert_eq!(receive(&mut client, 5), b"told\n", "{signal}");
        assert_eq!(skd.logged("Draining"), [""; 0]);
        skd.signal(Signal::SIGTERM);
        assert_eq!(skd.wait().code(), Some(4), "{signal}");
    }
}

#[test]
fn hup_reopens_the_log_and_ends_no_handler() {
    let directory = Directory::new();
    let log = format!(">>{}", directory.name("log"));
    let skd = Skd::new(["-vvt", "127.0.0.1:0", "--drain=1h", "-L", &log]).run("cat");
    let mut client = skd.connect();
    echo(&mut client, b".");
    skd.signal(Signal::SIGTERM);
    wait_for_text(directory.join("log"), "Draining: 1 handler");
    fs::rename(directory.join("log"), directory.join("log.1")).unwrap();
    skd.signal(Signal::SIGHUP);
    wait_until("there is a new log", || directory.join("log").exists());
    // If the new log can't be opened, the old one is kept and says so.
    fs::rename(directory.join("log"), directory.join("log.2")).unwrap();
    fs::create_dir(directory.join("log")).unwrap();
    skd.signal(Signal::SIGHUP);
    wait_for_text(directory.join("log.2"), "skd: ");
    echo(&mut client, b"still served");
    assert_eq!(talk(client, b""), b"");
    assert_eq!(skd.wait().code(), Some(0));
    let kept = directory.read("log.2");
    assert!(kept.contains("Closed connection"), "{kept}");
}

#[test]
fn a_second_hup_ends_no_handler() {
    let skd = Skd::new(["-vt", "127.0.0.1:0", "--drain=1h"]).run("cat");
    let mut client = skd.connect();
    echo(&mut client, b".");
    begin(&skd, Signal::SIGHUP);
    skd.wait_for_log("Draining");
    skd.signal(Signal::SIGHUP);
    // USR1 is ignored as always, and arrives after it.
    skd.signal(Signal::SIGUSR1);
    echo(&mut client, b"still served");
    assert_eq!(skd.try_wait(Duration::from_millis(100)), None);
    assert_eq!(talk(client, b""), b"");
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn clients_in_the_backlog_are_served_as_far_as_there_are_slots() {
    const CLIENTS: usize = 20;
    each_kind(|options, connect| {
        let skd = Skd::new(options).args(["--drain=1h"]).run("cat");
        // No client is accepted while skd is stopped, and TERM is the first thing that it sees.
        skd.signal(Signal::SIGSTOP);
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| connect(&skd).unwrap()).collect();
        skd.signal(Signal::SIGTERM);
        skd.signal(Signal::SIGCONT);
        for client in &mut clients {
            echo(client, b"served");
        }
        assert!(connect(&skd).is_err(), "{options:?}");
        for client in clients {
            assert_eq!(talk(client, b"bye"), b"bye");
        }
        assert_eq!(skd.wait().code(), Some(0), "{options:?}");
        assert_eq!(skd.log_lines(), [""; 0], "{options:?}");
    });
}

#[test]
fn a_client_queued_for_a_slot_is_disconnected() {
    const SLOTS: usize = 2;
    each_kind(|options, connect| {
        let skd = Skd::new(options)
            .args(["--drain=1h", "-c", &SLOTS.to_string()])
            .run("cat");
        skd.signal(Signal::SIGSTOP);
        let mut clients: Vec<_> = (0..5).map(|_| connect(&skd).unwrap()).collect();
        skd.signal(Signal::SIGTERM);
        skd.signal(Signal::SIGCONT);
        let waiting = clients.split_off(SLOTS);
        // They would be served after the others, which stay.
        for mut client in waiting {
            match client.read(&mut [0]) {
                Ok(0) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
                other => panic!("{other:?}"),
            }
        }
        for client in &mut clients {
            echo(client, b"served");
        }
        drop(clients);
        assert_eq!(skd.wait().code(), Some(0), "{options:?}");
    });
}

#[test]
fn under_load_every_client_is_served_or_refused() {
    const CLIENTS: usize = 8;
    each_kind(|options, connect| {
        for round in 0..5 {
            let skd = Skd::new(options).args(["--drain=1m"]).run("cat");
            let (served, over) = (AtomicUsize::new(0), AtomicBool::new(false));
            thread::scope(|scope| {
                let clients: Vec<_> = (0..CLIENTS)
                    .map(|_| {
                        scope.spawn(|| {
                            // The first refusal is the last connection.
                            while !over.load(Ordering::Relaxed) {
                                match connect(&skd) {
                                    Ok(client) => {
                                        assert_eq!(
                                            try_talk(client, b"all of it").unwrap(),
                                            b"all of it"
                                        );
                                        served.fetch_add(1, Ordering::Relaxed);
                                    }
                                    Err(error) => return error.kind(),
                                }
                            }
                            panic!("never refused");
                        })
                    })
                    .collect();
                let _over = Over(&over);
                wait_until("they come", || served.load(Ordering::Relaxed) > 40 * round);
                skd.signal(Signal::SIGTERM);
                for client in clients {
                    let kind = client.join().unwrap();
                    assert!(
                        matches!(kind, ErrorKind::ConnectionRefused | ErrorKind::NotFound),
                        "{kind}"
                    );
                }
            });
            assert_eq!(skd.wait().code(), Some(0), "{options:?}");
        }
    });
}

#[test]
fn a_handler_held_up_before_its_exec_is_waited_for_and_holds_no_port() {
    let options = [
        "-t",
        "127.0.0.1:0",
        "--threads=1",
        "--chdir=/",
        "--drain=1h",
    ];
    let skd = Skd::new(options)
        // For longer than skd waits for its thread.
        .wrapper(tampering("chdir", "delay_enter=3000000"))
        .run("cat");
    let mut client = skd.connect();
    skd.wait_for_children(1);
    begin(&skd, Signal::SIGTERM);
    refused(skd.address());
    echo(&mut client, b"served");
    assert!(exists(skd.pid()));
    assert_eq!(talk(client, b"bye"), b"bye");
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn files_and_ports_are_released_at_once_and_the_pid_file_last() {
    let directory = Directory::new();
    let (socket, pidfile) = (directory.name("socket"), directory.name("pid"));
    let name = format!("@drained-{}-files", id());
    let skd = Skd::new(["-t", "127.0.0.1:0", "-l", &socket, "-l", &name])
        .args(["-P", &pidfile, "--drain=1h"])
        .run("cat");
    let mut client = skd.connect();
    echo(&mut client, b".");
    begin(&skd, Signal::SIGTERM);
    assert_eq!(directory.names(), ["pid", "pid.lock"]);
    // A successor takes them over while this one still serves.
    let port = format!("127.0.0.1:{}", skd.address().port());
    let successor = Skd::new(["-t", &port, "-l", &socket, "-l", &name]).run("cat");
    assert_eq!(talk(successor.connect(), b"new"), b"new");
    // Except the pid file, which is still in use.
    let output = run_to_end(["-t", "127.0.0.1:0", "-P", &pidfile, "cat"]);
    output
        .expect_code(1)
        .expect_stderr(&[&skd.pid().to_string()]);
    echo(&mut client, b"old");
    assert_eq!(talk(client, b""), b"");
    assert_eq!(skd.wait().code(), Some(0));
    assert_eq!(directory.names(), ["socket"]);
    assert_eq!(successor.stop().code(), Some(0));
}

#[test]
fn a_foreign_socket_at_the_path_stays() {
    let directory = Directory::new();
    let path = directory.join("socket");
    let skd = Skd::new(["-vl"]).arg(&path).args(["--drain=1h"]).run("cat");
    let mut client = connect_unix(&path);
    echo(&mut client, b".");
    fs::remove_file(&path).unwrap();
    let _theirs = UnixListener::bind(&path).unwrap();
    skd.signal(Signal::SIGTERM);
    skd.wait_for_log("Draining");
    connect_unix(&path);
    drop(client);
    assert_eq!(skd.wait().code(), Some(0));
    connect_unix(&path);
}

#[test]
fn datagram_handlers_are_drained_like_others() {
    requires_command("perl");
    // Answers until it gets TERM.
    let script = "while (defined(my $from = recv(STDIN, my $text, 65536, 0))) { \
                  send(STDOUT, $text, 0, $from); last if $text eq 'last' }";
    let start = || {
        let skd = Skd::new(["-vvu", "127.0.0.1:0", "--drain=1h"]).run_with("perl", ["-e", script]);
        let client = udp_client(skd.address());
        assert_eq!(ask(&client, b"first"), b"first");
        (skd, client)
    };
    let (skd, client) = start();
    skd.signal(Signal::SIGTERM);
    skd.wait_for_log("Draining: 1 handler");
    skd.wait_for_log("Closed UDP ");
    let own = descriptors(skd.pid());
    assert!(!own.values().any(|it| it.starts_with("socket:")), "{own:?}");
    assert_eq!(ask(&client, b"more"), b"more");
    assert_eq!(skd.try_wait(Duration::ZERO), None);
    assert_eq!(ask(&client, b"last"), b"last");
    assert_eq!(skd.wait().code(), Some(0));
    skd.wait_for_log("Finished datagram from");

    let (skd, _client) = start();
    skd.signal(Signal::SIGINT);
    assert_eq!(skd.wait().code(), Some(3));

    let directory = Directory::new();
    let socket = directory.name("socket");
    let skd = Skd::new(["-dl", &socket, "--drain=0s", "--kill-after=100ms"]).run_with(
        "sh",
        ["-c", &STUBBORN.replace("echo ready", "echo ready >&2")],
    );
    send_unix_datagram(&socket, b"unread");
    skd.wait_for_log("ready");
    assert_eq!(skd.stop().code(), Some(4));
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn datagrams_and_the_signal_may_arrive_together() {
    // Both arrive in one wait, in either order.
    for round in 0..20 {
        let directory = Directory::new();
        let (first, second) = (directory.name("first"), directory.name("second"));
        let skd = Skd::new(["-dl", &first, "-l", &second, "--drain=1h"]).run("true");
        skd.signal(Signal::SIGSTOP);
        send_unix_datagram(&first, b"lost");
        skd.signal(Signal::SIGTERM);
        send_unix_datagram(&second, b"lost");
        skd.signal(Signal::SIGCONT);
        assert_eq!(skd.wait().code(), Some(0), "{round}");
    }
}

#[test]
fn an_unhandled_datagram_is_lost_and_delays_nothing() {
    let directory = Directory::new();
    let socket = directory.name("socket");
    let skd = Skd::new(["-dl", &socket, "--drain=1h"]).run("true");
    skd.signal(Signal::SIGSTOP);
    send_unix_datagram(&socket, b"lost");
    skd.signal(Signal::SIGINT);
    skd.signal(Signal::SIGCONT);
    let status = skd.wait().code();
    // A handler may have been quicker, and may even have needed a TERM.
    assert!(matches!(status, Some(0 | 3)), "{status:?}");
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn waiting_costs_no_time() {
    let (skd, mut client) = served(&["--drain=1h"], "echo ready; exec cat");
    let directory = Directory::new();
    let socket = directory.name("socket");
    // One of each kind has its connection closed, and one of them still has its handler.
    let other =
        Skd::new(["-vt", "127.0.0.1:0", "-dl", &socket, "--drain=1h"]).run_with("sleep", ["1000"]);
    let held = other.connect();
    send_unix_datagram(&socket, b"unread");
    other.wait_for_children(2);
    send_unix_datagram(&socket, b"another");
    for skd in [&skd, &other] {
        skd.signal(Signal::SIGTERM);
        skd.wait_for_log("Draining");
    }
    assert_idle(&[skd.pid(), other.pid()]);
    echo(&mut client, b".");
    drop((client, held));
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn many_handlers_end_at_once_and_none_is_left() {
    const CLIENTS: usize = 300;
    let skd = Skd::new(["-t", "127.0.0.1:0", "--drain=1m"]).run("cat");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| skd.connect()).collect();
    clients.iter_mut().for_each(|client| echo(client, b"."));
    begin(&skd, Signal::SIGTERM);
    drop(clients);
    assert_eq!(skd.wait().code(), Some(0));
    wait_until("all have gone", || skd.processes().is_empty());

    let skd = Skd::new(["-t", "127.0.0.1:0", "--drain=1m"]).run("cat");
    let mut clients: Vec<_> = (0..CLIENTS).map(|_| skd.connect()).collect();
    clients.iter_mut().for_each(|client| echo(client, b"."));
    skd.signal(Signal::SIGINT);
    assert_eq!(skd.wait().code(), Some(3));
    wait_until("all have gone", || skd.processes().is_empty());
}

#[test]
fn a_drain_does_not_wait_for_background_processes_of_handlers() {
    let directory = Directory::new();
    let left = directory.name("left");
    let script = "sleep 1000 > /dev/null & echo $! > \"$0\"; echo ready; read line";
    let skd = Skd::new(["-t", "127.0.0.1:0", "--drain=1h"]).run_with("sh", ["-c", script, &left]);
    let mut client = skd.connect();
    assert_eq!(receive(&mut client, 6), b"ready\n");
    begin(&skd, Signal::SIGTERM);
    client.write_all(b"go\n").unwrap();
    assert_eq!(skd.wait().code(), Some(0));
    let left: i32 = directory.read("left").trim().parse().unwrap();
    assert!(exists(left));
    kill(Pid::from_raw(left), Signal::SIGKILL).unwrap();
}

#[test]
fn a_handler_that_cannot_be_reaped_is_left_behind() {
    requires_command("strace");
    let (skd, _client) = served(
        &["--drain=0s", "--kill-after=0s"],
        "echo ready; exec sleep 1000",
    );
    let handler = skd.wait_for_children(1)[0];
    // Its tracer, which must be told of its end first, is stopped.
    let mut tracer = Command::new("strace")
        .args(["-qq", "-o", "/dev/null", "-p", &handler.to_string()])
        .spawn()
        .unwrap();
    let traced = || status_field(handler, "TracerPid").as_deref() != Some("0");
    wait_until("it is traced", traced);
    let tracer_pid = Pid::from_raw(i32::try_from(tracer.id()).unwrap());
    kill(tracer_pid, Signal::SIGSTOP).unwrap();
    skd.signal(Signal::SIGTERM);
    let status = skd.try_wait(Duration::from_secs(30));
    kill(tracer_pid, Signal::SIGKILL).unwrap();
    tracer.wait().unwrap();
    assert_eq!(status.unwrap().code(), Some(4));
    skd.wait_for_log("KILL didn't help; it is left behind");
}

#[test]
fn a_daemon_in_the_background_drains_too() {
    let skd = Skd::new(["-t", "127.0.0.1:0", "--drain=1h"]).daemon("cat");
    let mut client = skd.connect();
    echo(&mut client, b".");
    skd.signal(Signal::SIGTERM);
    skd.wait_until("no client is accepted any more", || {
        !sockets(skd.pid()).iter().any(|socket| socket.is_open())
    });
    assert!(skd.pidfile().exists());
    echo(&mut client, b"served");
    drop(client);
    skd.wait_gone();
    assert!(!skd.pidfile().exists());
}

#[test]
fn without_drain_skd_waits_for_nothing() {
    let (skd, mut client) = served(&[], "echo ready; exec cat");
    assert_eq!(skd.stop().code(), Some(0));
    echo(&mut client, b"still served");
}

#[test]
fn a_supervised_program_that_does_not_end_is_killed_in_time() {
    let script = "trap 'echo told' TERM; echo ready; while :; do sleep 0.01; done";
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let skd = Skd::new(["-S", "--kill-after=300ms"])
            .start_with("sh", ["-c", &STUBBORN.replace("TERM", "TERM INT")]);
        assert_eq!(skd.stdout_line(), "ready");
        let all = skd.processes();
        skd.signal(signal);
        assert_eq!(skd.wait().code(), Some(128 + 9), "{signal}");
        skd.wait_for_log("skd: 'sh' has not ended: KILL is sent to it");
        wait_until("no process is left", || !all.iter().copied().any(exists));
    }
    // A program that ends in time is not killed.
    let skd = Skd::new(["-S", "--kill-after=1h"]).start_with("sh", ["-c", script]);
    assert_eq!(skd.stdout_line(), "ready");
    skd.signal(Signal::SIGTERM);
    skd.wait_for_line("it is told", |line| line.text == "told");
    assert_eq!(skd.try_wait(Duration::ZERO), None);
    kill(Pid::from_raw(skd.wait_for_children(1)[0]), Signal::SIGUSR1).unwrap();
    assert_eq!(skd.wait().code(), Some(128 + 10));
    assert_eq!(skd.logged("skd: "), [""; 0]);
}
