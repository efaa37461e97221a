//! `--wait`: a program on the listening stream socket itself, one at a time.

use crate::harness::{
    Directory, Running, Skd, ask_udp, assert_idle, connect, connect_unix, descriptors, echo,
    environment, exists, requires_command, sockets, talk,
};
use nix::errno::Errno;
use std::io::Read;
use std::net::TcpListener;
use std::thread;

/// A handler in perl. `script` can call `take`, which accepts a connection as $c.
fn perl(options: Skd, script: &str) -> Running {
    requires_command("perl");
    options.run_with("perl", ["-e", &with_take(script)])
}

fn with_take(script: &str) -> String {
    format!(
        "use Socket; my $c; sub take {{ accept($c, STDIN) or die $!; select $c; $| = 1 }} {script}"
    )
}

/// The number of starts of a handler that accepts nothing before it is reported.
const STARTS: usize = 8;

#[test]
fn a_handler_has_the_listening_socket_and_nothing_else() {
    let skd = perl(
        Skd::new(["-v", "--wait", "-t", "127.0.0.1:0"]),
        "take; print while <$c>; sleep 1000",
    );
    assert!(skd.children().is_empty(), "before a client came");
    let mut client = skd.connect();
    echo(&mut client, b"hello\n");
    let handler = skd.wait_for_children(1)[0];
    let bound = sockets(skd.pid());
    assert_eq!(bound.len(), 1);
    let open = descriptors(handler);
    for number in [0, 1] {
        assert_eq!(open[&number], format!("socket:[{}]", bound[0].inode));
    }
    // Beside 0, 1 and 2 it has the connection that it has accepted itself.
    assert_eq!(open.len(), 4, "{open:?}");
    let flags = std::fs::read_to_string(format!("/proc/{handler}/fdinfo/0")).unwrap();
    let flags = flags
        .lines()
        .find_map(|line| line.strip_prefix("flags:"))
        .unwrap();
    let flags = i32::from_str_radix(flags.trim(), 8).unwrap();
    assert_eq!(flags & libc::O_NONBLOCK, 0, "a socket that blocks");

    let variables = environment(handler);
    assert_eq!(variables["PROTO"], "TCP");
    assert_eq!(variables["TCPLOCALIP"], "127.0.0.1");
    assert_eq!(variables["TCPLOCALPORT"], skd.port().to_string());
    assert!(
        !variables.keys().any(|name| name.contains("REMOTE")),
        "{variables:?}"
    );
    skd.wait_for_log(&format!(
        "Received initial connection to [127.0.0.1]:{}",
        skd.port()
    ));
    assert_eq!(skd.stop().code(), Some(0));
    skd.wait_until("it is told to end", || !exists(handler));
}

/// Serves many clients with handlers that each accept one, and returns the log.
fn serve_one_each(skd: &Running, connect: impl Fn() -> Box<dyn Read + Send> + Sync) -> Vec<String> {
    const CLIENTS: usize = 40;
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for _ in 0..CLIENTS / 8 {
                    let mut answer = String::new();
                    connect().read_to_string(&mut answer).unwrap();
                    assert_eq!(answer, "served\n");
                }
            });
        }
    });
    skd.wait_for_logs("end", CLIENTS);
    skd.log_lines()
}

const ONE_EACH: &str =
    "print STDERR \"start\\n\"; take; print \"served\\n\"; print STDERR \"end\\n\"";

#[test]
fn handlers_that_accept_one_connection_each_follow_one_another() {
    let skd = perl(Skd::new(["--wait", "-t", "127.0.0.1:0"]), ONE_EACH);
    let lines = serve_one_each(&skd, || Box::new(skd.connect()));
    // One at a time, and none is reported as having accepted nothing.
    assert!(
        lines.chunks(2).all(|pair| pair == ["start", "end"]),
        "{lines:?}"
    );
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = perl(Skd::new(["--wait", "-l", &path]), ONE_EACH);
    let lines = serve_one_each(&skd, || Box::new(skd.connect_unix()));
    assert!(
        lines.chunks(2).all(|pair| pair == ["start", "end"]),
        "{lines:?}"
    );
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(directory.names(), [""; 0], "its file is gone");
}

#[test]
fn clients_are_served_where_the_kernel_reports_no_queue() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = Skd::new(["--wait", "-l", &path]).refusing(libc::SYS_sendto, Errno::EPERM);
    let go = directory.name("go");
    let skd = perl(
        skd,
        &format!("select undef, undef, undef, 0.01 until -e '{go}'; {ONE_EACH}"),
    );
    // All connect before the first is accepted, so that no other comes.
    let clients = [(); 5].map(|()| skd.connect_unix());
    directory.write("go", "");
    for client in clients {
        assert_eq!(talk(client, b""), b"served\n");
    }
    assert_eq!(skd.logged("accepted nothing"), [""; 0]);
}

#[test]
fn a_handler_that_accepts_nothing_causes_no_storm() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let go = directory.name("go");
    let line = "echo started >&2; test -e \"$1\" || exit 0; shift; exec \"$@\"";
    let script = with_take("take; print \"served\\n\"");
    for options in [["-t", "127.0.0.1:0"], ["-l", &path]] {
        let _ = std::fs::remove_file(&go);
        let words = ["-c", line, "sh", &go, "perl", "-e", &script];
        let skd = Skd::new(["-v", "--wait"])
            .args(options)
            .run_with("sh", words);
        let mut client: Box<dyn Read> = match options[0] {
            "-t" => Box::new(skd.connect()),
            _ => Box::new(skd.connect_unix()),
        };
        let said = skd.wait_for_log("accepted nothing");
        assert!(
            said.contains(&format!("'sh' was tried {STARTS} times on")),
            "{said}"
        );
        let before = skd.logged("started").len();
        assert!((STARTS..=STARTS + 1).contains(&before), "{before} starts");
        // The same client was logged once, and is kept until a handler accepts it.
        assert_eq!(skd.logged("Received initial").len(), 1);
        directory.write("go", "");
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "served\n");
        assert_eq!(skd.logged("accepted nothing").len(), 1);
    }
}

#[test]
fn a_program_that_was_missing_is_run_when_it_is_back() {
    let directory = Directory::new();
    let script = directory.script("program", "#!/bin/sh\nexec cat\n");
    let hidden = directory.join("hidden");
    let skd = Skd::new(["--wait", "-t", "127.0.0.1:0"]).run(&script);
    std::fs::rename(&script, &hidden).unwrap();
    let client = skd.connect();
    skd.wait_for_log("can't be run");
    // At most a few starts.
    assert_idle(&[skd.pid()]);
    skd.wait_for_log("accepted nothing");
    let taker = with_take("take; print \"served\\n\"");
    directory.script("program", &format!("#!/usr/bin/perl\n{taker}\n"));
    let answer = talk(client, b"");
    assert_eq!(answer, b"served\n");
}

#[test]
fn a_handler_may_serve_many_and_end_when_no_client_comes() {
    // As inetd's servers do.
    let script = "my $n = 0; for (;;) { my $r = ''; vec($r, 0, 1) = 1; \
                  select($r, undef, undef, 0.2) or last; take; $n++; print \"$$\\n\"; close $c } \
                  print STDERR \"served $n\\n\"";
    let skd = perl(Skd::new(["-v", "--wait", "-t", "127.0.0.1:0"]), script);
    let pids: Vec<_> = (0..5).map(|_| talk(skd.connect(), b"")).collect();
    assert!(pids.iter().all(|pid| *pid == pids[0]), "{pids:?}");
    skd.wait_for_log("served 5");
    skd.wait_until("it has ended", || skd.children().is_empty());
    assert_ne!(talk(skd.connect(), b""), pids[0]);
}

#[test]
fn listeners_are_independent_of_one_another_and_of_datagrams() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let script = "my $s = getsockopt(STDIN, SOL_SOCKET, SO_TYPE); \
                  if (unpack('i', $s) == SOCK_STREAM) { take; print $$; close $c } \
                  else { my $from = recv(STDIN, my $b, 100, 0); send(STDOUT, $$, 0, $from) } \
                  sleep 1000";
    let options = [
        "--wait",
        "-t",
        "127.0.0.1:0",
        "-l",
        &path,
        "-u",
        "127.0.0.1:0",
    ];
    let skd = perl(Skd::new(options), script);
    let udp = skd.addresses()[1];
    let mut handlers = [
        talk(skd.connect(), b""),
        talk(skd.connect_unix(), b""),
        ask_udp(udp, b"x"),
    ]
    .map(|pid| String::from_utf8(pid).unwrap().parse::<i32>().unwrap())
    .to_vec();
    handlers.sort_unstable();
    let mut children = skd.wait_for_children(3);
    children.sort_unstable();
    assert_eq!(handlers, children);
}

#[test]
fn a_socket_that_is_shut_down_is_reported() {
    let skd = perl(
        Skd::new(["--wait", "-t", "127.0.0.1:0"]),
        "take; print \"bye\"; close $c; shutdown(STDIN, 2) or die $!",
    );
    assert_eq!(talk(skd.connect(), b""), b"bye");
    skd.wait_for_log("a handler has shut the socket down; restart skd");
    skd.wait_until("no handler is left", || skd.children().is_empty());
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn an_inherited_socket_is_passed_to_the_handler() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    requires_command("perl");
    let script = with_take("take; print \"served\\n\"");
    let _skd = Skd::new(["--wait", "--listen-fd", "3"])
        .descriptor(3, listener)
        .start_with("perl", ["-e", &script]);
    for _ in 0..3 {
        assert_eq!(talk(connect(address), b""), b"served\n");
    }
    let directory = Directory::new();
    let listener = std::os::unix::net::UnixListener::bind(directory.join("socket")).unwrap();
    let skd = Skd::new(["--wait", "--listen-fd", "3"])
        .descriptor(3, listener)
        .start_with("perl", ["-e", &script]);
    assert_eq!(
        talk(connect_unix(directory.join("socket")), b""),
        b"served\n"
    );
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(directory.names(), ["socket"]);
}
