//! `--linger`: the answer of a handler arrives, whatever its client still sends.

use crate::harness::{
    Directory, Holdings, Instance, Over, Skd, connect_unix, copy_program, descriptors, echo,
    idle_descriptors, receive, requires_command, sockets, talk,
};
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const ANSWER: usize = 300_000;

/// Sends a long answer as soon as it has input, of which it reads one byte.
const ANSWERING: [&str; 2] = ["-c", "head -c 1 > /dev/null; head -c 300000 /dev/zero"];

/// The longest time that is allowed; no test waits for its end.
const FOR_EVER: [&str; 2] = ["--linger", "3650d"];

const NEVER: [&str; 2] = ["--linger", "0s"];

/// A skd on a free TCP port.
fn with(options: &[&str]) -> Skd {
    Skd::new(["-vvt", "127.0.0.1:0"]).args(options)
}

/// Waits until `count` handlers have ended.
#[track_caller]
fn wait_for_ends(skd: &Instance, count: usize) {
    skd.wait_for_logs("Closed connection from", count);
}

/// Reads to the end of the connection. Returns the number of bytes, and how the connection ended.
fn read_all(client: &mut impl Read) -> (usize, io::Result<()>) {
    let mut answer = Vec::new();
    let result = client.read_to_end(&mut answer).map(drop);
    (answer.len(), result)
}

#[track_caller]
fn expect_answer(client: &mut impl Read) {
    let (length, result) = read_all(client);
    assert!(result.is_ok(), "{result:?} after {length} bytes");
    assert_eq!(length, ANSWER);
}

/// A lingering connection: its client has sent more than its handler read, and the handler has ended.
fn lingering_client(skd: &Instance) -> TcpStream {
    let ended = skd.logged("Closed connection from").len();
    let mut client = skd.connect();
    client.write_all(&[b'x'; 10_000]).unwrap();
    wait_for_ends(skd, ended + 1);
    client
}

/// Waits until the connection is closed for reading too, and not only for writing.
#[track_caller]
fn wait_until_closed(skd: &Instance, client: &mut TcpStream) {
    let mut end = None;
    skd.wait_until("the connection is closed", || {
        end = client.write(b"x").err();
        end.is_some()
    });
    let kind = end.unwrap().kind();
    assert!(
        matches!(kind, ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
        "{kind}"
    );
}

#[track_caller]
fn wait_for_descriptors(skd: &Instance, count: usize) {
    skd.wait_until("all descriptors are closed", || {
        descriptors(skd.pid()).len() == count
    });
}

#[test]
fn an_answer_arrives_although_its_client_has_sent_more_than_was_read() {
    for lingers in [false, true] {
        let options: &[&str] = if lingers { &FOR_EVER } else { &NEVER };
        let skd = with(options).run_with("sh", ANSWERING);
        let mut client = skd.connect();
        let mut sending = client.try_clone().unwrap();
        // More than the socket buffers take: only skd reads it.
        let sender = thread::spawn(move || sending.write_all(&vec![b'x'; 20_000_000]));
        wait_for_ends(&skd, 1);
        if lingers {
            sender.join().unwrap().unwrap();
            expect_answer(&mut client);
        } else {
            let (length, result) = read_all(&mut client);
            let sent = sender.join().unwrap();
            assert!(length < ANSWER, "{length} bytes");
            // The reset is reported once, to the first call.
            let reset = [sent, result].into_iter().filter_map(Result::err);
            let kinds: Vec<_> = reset.map(|reason| reason.kind()).collect();
            assert!(kinds.contains(&ErrorKind::ConnectionReset), "{kinds:?}");
        }
    }
}

#[test]
fn an_answer_arrives_although_its_client_goes_on_sending() {
    let skd = with(&FOR_EVER).run_with("sh", ANSWERING);
    let before = idle_descriptors(skd.pid());
    let over = AtomicBool::new(false);
    let mut client = skd.connect();
    let mut sending = client.try_clone().unwrap();
    thread::scope(|scope| {
        let _over = Over(&over);
        let over = &over;
        scope.spawn(move || {
            while !over.load(Ordering::SeqCst) {
                sending.write_all(&[b'x'; 65_536]).unwrap();
            }
        });
        wait_for_ends(&skd, 1);
        expect_answer(&mut client);
        // A client that sends for ever delays no other.
        expect_answer(&mut lingering_client(&skd));
    });
    drop(client);
    wait_for_descriptors(&skd, before);
}

#[test]
fn a_unix_client_sees_the_end_and_no_error() {
    let directory = Directory::new();
    let path = directory.name("socket");
    for lingers in [false, true] {
        let options: &[&str] = if lingers { &FOR_EVER } else { &NEVER };
        let script = "head -c 1 > /dev/null; echo answer";
        let skd = Skd::new(["-vl", &path])
            .args(options)
            .run_with("sh", ["-c", script]);
        let mut client = connect_unix(&path);
        client.write_all(b"more than a byte").unwrap();
        skd.wait_for_log("Closed local connection from");
        assert_eq!(receive(&mut client, 7), b"answer\n");
        // Nothing is lost in either case.
        let end = client.read(&mut [0; 1]).map_err(|error| error.kind());
        let expected = if lingers {
            Ok(0)
        } else {
            Err(ErrorKind::ConnectionReset)
        };
        assert_eq!(end, expected);
    }
}

#[test]
fn a_client_that_never_closes_is_closed_after_the_linger_time() {
    let skd = with(&["--linger", "200ms"]).run_with("sh", ANSWERING);
    let before = idle_descriptors(skd.pid());
    let mut client = lingering_client(&skd);
    expect_answer(&mut client);
    wait_until_closed(&skd, &mut client);
    wait_for_descriptors(&skd, before);
}

#[test]
fn a_connection_that_other_processes_still_have_is_left_to_them() {
    let directory = Directory::new();
    let go = directory.name("go");
    let script =
        format!("{{ until test -e {go}; do sleep 0.01; done; echo second; }} & echo first");
    let skd = with(&FOR_EVER).run_with("sh", ["-c", &script]);
    let before = idle_descriptors(skd.pid());
    let mut client = skd.connect();
    assert_eq!(receive(&mut client, 6), b"first\n");
    wait_for_ends(&skd, 1);
    wait_for_descriptors(&skd, before);
    directory.write("go", "");
    assert_eq!(receive(&mut client, 7), b"second\n");
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn by_default_a_process_that_has_left_the_handlers_group_can_go_on() {
    let directory = Directory::new();
    let go = directory.name("go");
    // As a program does that passes its connection to a daemon.
    let script = format!(
        "use POSIX; pipe R, W; if (!fork) {{ POSIX::setsid(); close R; close W; \
         select undef, undef, undef, 0.01 until -e '{go}'; syswrite STDOUT, 'answer'; exit }} \
         close W; sysread R, my $end, 1;"
    );
    for unix in [false, true] {
        let path = directory.name("socket");
        let to = if unix {
            ["-vvl", &path]
        } else {
            ["-vvt", "127.0.0.1:0"]
        };
        let skd = Skd::new(to).run_with("perl", ["-e", &script]);
        let mut client: Box<dyn Read> = match unix {
            false => Box::new(skd.connect()),
            true => Box::new(connect_unix(&path)),
        };
        skd.wait_for_logs("exited with status 0", 1);
        directory.write("go", "");
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "answer");
        std::fs::remove_file(directory.join("go")).unwrap();
    }
}

#[test]
fn the_client_sees_the_end_when_the_handler_ends_and_not_before() {
    let directory = Directory::new();
    let (closed, go) = (directory.name("closed"), directory.name("go"));
    let script = format!(
        "exec < /dev/null > /dev/null; touch {closed}; until test -e {go}; do sleep 0.01; done"
    );
    // By default it is seen some seconds later, but the handler isn't waited for.
    for (lingers, options) in [(false, &NEVER[..]), (true, &FOR_EVER), (false, &[])] {
        let skd = with(options).run_with("sh", ["-c", &script]);
        let mut client = skd.connect();
        skd.wait_until("the handler has closed its connection", || {
            directory.join("closed").exists()
        });
        if lingers {
            client.set_nonblocking(true).unwrap();
            let early = client.read(&mut [0; 1]);
            assert_eq!(early.unwrap_err().kind(), ErrorKind::WouldBlock);
            client.set_nonblocking(false).unwrap();
            directory.write("go", "");
        }
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        directory.write("go", "");
        wait_for_ends(&skd, 1);
        for name in ["closed", "go"] {
            std::fs::remove_file(directory.join(name)).unwrap();
        }
    }
}

#[test]
fn a_slot_is_free_at_the_end_of_the_handler() {
    let skd = with(&FOR_EVER).args(["-c", "1"]).run_with("sh", ANSWERING);
    let first = lingering_client(&skd);
    let second = lingering_client(&skd);
    for mut client in [first, second] {
        expect_answer(&mut client);
        client.write_all(b"still there").unwrap();
    }
}

#[test]
fn lingering_connections_are_bounded_and_none_is_left() {
    let skd = with(&FOR_EVER)
        .args(["--threads", "2"])
        .limit(Resource::RLIMIT_NOFILE, 400, 400)
        .run_with("sh", ["-c", "head -c 1 > /dev/null; echo answer"]);
    let before = Holdings::in_peace(&skd);
    // A quarter of 400, half of that in each of two acceptors.
    const MOST: usize = 2 * 25;
    let mut clients: Vec<TcpStream> = Vec::new();
    for served in 0..3 * MOST {
        let mut client = skd.connect();
        client.write_all(b"more than a byte").unwrap();
        wait_for_ends(&skd, served + 1);
        clients.push(client);
        let open = descriptors(skd.pid()).len();
        // Some connections come and go at any time.
        assert!(open <= before.descriptors + MOST + 8, "{open} descriptors");
    }
    // The oldest one was closed.
    wait_until_closed(&skd, &mut clients[0]);
    let mut last = clients.pop().unwrap();
    assert_eq!(receive(&mut last, 7), b"answer\n");
    last.write_all(b"still there").unwrap();
    drop((clients, last));
    wait_for_descriptors(&skd, before.descriptors);
    Holdings::in_peace(&skd).expect_like(&before);
}

#[test]
fn many_answers_arrive_at_once() {
    let skd = with(&FOR_EVER).run_with("sh", ANSWERING);
    let before = Holdings::in_peace(&skd);
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let mut client = skd.connect();
                    // The handler doesn't read this; what the socket buffers don't take, skd reads.
                    client.write_all(&vec![b'x'; 2_000_000]).unwrap();
                    client.shutdown(Shutdown::Write).unwrap();
                    expect_answer(&mut client);
                }
            });
        }
    });
    wait_for_ends(&skd, 80);
    wait_for_descriptors(&skd, before.descriptors);
    Holdings::in_peace(&skd).expect_like(&before);
}

#[test]
fn a_drain_waits_for_lingering_connections() {
    let skd = with(&FOR_EVER)
        .args(["--drain", "1h"])
        .run_with("sh", ["-c", "read line; head -c 300000 /dev/zero"]);
    let before = idle_descriptors(skd.pid());
    let mut talking = skd.connect();
    talking.write_all(b"more than").unwrap();
    let handler = skd.wait_for_children(1);
    let mut gone = skd.connect();
    gone.write_all(b"\nmore than a line").unwrap();
    wait_for_ends(&skd, 1);
    assert_eq!(skd.children(), handler);
    skd.signal(Signal::SIGTERM);
    skd.wait_until("no client is accepted any more", || {
        !sockets(skd.pid()).iter().any(|socket| socket.is_open())
    });
    talking.write_all(b" a line\nand more").unwrap();
    wait_for_ends(&skd, 2);
    for client in [&mut gone, &mut talking] {
        expect_answer(client);
        client.write_all(b"still there").unwrap();
    }
    drop(gone);
    skd.wait_until("one is left", || descriptors(skd.pid()).len() < before + 2);
    assert!(skd.try_wait(std::time::Duration::ZERO).is_none());
    drop(talking);
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn a_drain_ends_lingering_connections_after_its_time() {
    let skd = with(&FOR_EVER)
        .args(["--drain", "500ms"])
        .run_with("sh", ANSWERING);
    let mut client = lingering_client(&skd);
    expect_answer(&mut client);
    skd.signal(Signal::SIGTERM);
    assert_eq!(skd.wait().code(), Some(0));
    wait_until_closed(&skd, &mut client);
}

#[test]
fn after_a_second_signal_skd_waits_for_no_connection() {
    let skd = with(&FOR_EVER)
        .args(["--drain", "1h"])
        .run_with("sh", ANSWERING);
    let mut client = lingering_client(&skd);
    expect_answer(&mut client);
    skd.signal(Signal::SIGTERM);
    skd.wait_until("no client is accepted any more", || {
        !sockets(skd.pid()).iter().any(|socket| socket.is_open())
    });
    skd.signal(Signal::SIGTERM);
    assert_eq!(skd.wait().code(), Some(0));
    wait_until_closed(&skd, &mut client);
}

#[test]
fn without_a_drain_lingering_connections_are_closed_at_the_end() {
    let skd = with(&FOR_EVER).run_with("sh", ANSWERING);
    let mut client = lingering_client(&skd);
    assert_eq!(skd.stop().code(), Some(0));
    wait_until_closed(&skd, &mut client);
}

#[test]
fn an_upgrade_keeps_connections_of_handlers_and_lingering_ones() {
    // With few descriptors, those of skd have low numbers.
    for files in [20_000, 200] {
        let script = "echo ready; read line; head -c 300000 /dev/zero";
        let skd = with(&FOR_EVER)
            .limit(Resource::RLIMIT_NOFILE, files, files)
            .run_with("sh", ["-c", script]);
        let before = idle_descriptors(skd.pid());
        let connect = || {
            let mut client = skd.connect();
            assert_eq!(receive(&mut client, 6), b"ready\n");
            client
        };
        let end = |client: &mut TcpStream, ended| {
            client.write_all(b"\nmore than a line").unwrap();
            wait_for_ends(&skd, ended);
        };
        let mut clients: Vec<TcpStream> = (0..4).map(|_| connect()).collect();
        let (leave, stay) = clients.split_at_mut(2);
        for (client, ended) in leave.iter_mut().zip(1..) {
            end(client, ended);
        }
        for upgrades in 1..=3 {
            skd.signal(Signal::SIGUSR2);
            skd.wait_for_logs("Upgraded from skd", upgrades);
            skd.wait_for_children(2);
        }
        for (client, ended) in stay.iter_mut().zip(3..) {
            end(client, ended);
        }
        for client in &mut clients {
            expect_answer(client);
            client.write_all(b"still there").unwrap();
        }
        // And it goes on.
        let mut new = connect();
        end(&mut new, 5);
        expect_answer(&mut new);
        drop((clients, new));
        wait_for_descriptors(&skd, before);
    }
}

#[test]
fn a_refused_upgrade_changes_nothing() {
    let directory = Directory::new();
    let program = directory.join("skd");
    copy_program(env!("CARGO_BIN_EXE_skd"), &program);
    let skd = with(&FOR_EVER).binary(&program).run_with("sh", ANSWERING);
    let before = idle_descriptors(skd.pid());
    let mut client = lingering_client(&skd);
    std::fs::remove_file(&program).unwrap();
    directory.script("skd", "#!/bin/sh\nexit 7\n");
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("no upgrade");
    expect_answer(&mut client);
    expect_answer(&mut lingering_client(&skd));
    client.write_all(b"still there").unwrap();
    drop(client);
    wait_for_descriptors(&skd, before);
}

#[test]
fn handlers_get_no_additional_descriptors() {
    let skd = with(&FOR_EVER).run_with("sh", ["-c", "ls /proc/self/fd; cat"]);
    let mut clients: Vec<TcpStream> = (0..3).map(|_| skd.connect()).collect();
    for client in &mut clients {
        // ls has the directory open.
        assert_eq!(receive(client, 8), b"0\n1\n2\n3\n");
        echo(client, b"x");
    }
}

/// A program whose handler leaves a process in a session of its own behind, which runs this text then. It waits for
/// the handler's end first, and has `await_file`.
fn daemon(text: &str) -> String {
    format!(
        "use POSIX; $| = 1; my $handler = $$; exit 0 if fork; POSIX::setsid(); \
         sub await_file {{ select undef, undef, undef, 0.01 until -e $_[0] }} \
         select undef, undef, undef, 0.001 while getppid == $handler; {text}"
    )
}

#[test]
fn a_daemon_keeps_its_connection_and_unread_input_if_the_handler_has_written_nothing() {
    requires_command("perl");
    let directory = Directory::new();
    let go = directory.name("go");
    for (number, first) in [
        "print qq(first\\n)",
        "sysread STDIN, $_, 3; print qq(first\\n)",
    ]
    .into_iter()
    .enumerate()
    {
        let go = format!("{go}{number}");
        let text = format!(
            "await_file(q({go})); {first}; while (<STDIN>) {{ $all .= $_ }} print length $all"
        );
        let skd = with(&[]).run_with("perl", ["-e", &daemon(&text)]);
        let before = idle_descriptors(skd.pid());
        let mut client = skd.connect();
        client.write_all(&[b'x'; 1_000]).unwrap();
        wait_for_ends(&skd, 1);
        // skd has let go of it.
        wait_for_descriptors(&skd, before);
        directory.write(&format!("go{number}"), "");
        assert_eq!(receive(&mut client, 6), b"first\n");
        client.write_all(&[b'x'; 1_000]).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut rest = String::new();
        client.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, ["2000", "1997"][number]);
    }
}

#[test]
fn a_daemon_keeps_its_connection_if_no_input_is_unread() {
    requires_command("perl");
    let directory = Directory::new();
    let go = directory.name("go");
    let text = format!("await_file(q({go})); print; print while <STDIN>");
    let skd = with(&[]).run_with("perl", ["-e", &daemon(&text)]);
    let before = idle_descriptors(skd.pid());
    let mut client = skd.connect();
    wait_for_ends(&skd, 1);
    wait_for_descriptors(&skd, before);
    directory.write("go", "");
    assert_eq!(talk(client.try_clone().unwrap(), b"late\n"), b"late\n");
    assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
}

#[test]
fn by_default_pages_arrive_whose_script_reads_no_request() {
    requires_command("perl");
    // On a busy machine a script could end before the client has sent anything.
    let script = "use IO::Select; IO::Select->new(*STDIN)->can_read; print qq(\\0) x 300_000";
    let skd = with(&[]).run_with("perl", ["-e", script]);
    let before = idle_descriptors(skd.pid());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let mut client = skd.connect();
                    client.write_all(&[b'x'; 20_000]).unwrap();
                    expect_answer(&mut client);
                }
            });
        }
    });
    wait_for_descriptors(&skd, before);
}
