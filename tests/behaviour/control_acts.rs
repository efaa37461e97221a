//! What the control socket does: services that take no new clients, handlers that are killed, clients
//! that are denied, reloads and upgrades whose end is answered.

use crate::harness::{
    Control, DEADLINE, Directory, Instance, Running, Skd, ask, assert_idle, connect, connect_from,
    connect_unix, copy_program, datagram_echo, echo, exists, receive, requires_command, slowness,
    talk, threads, try_talk, udp_client, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The name of a service of a command line: that of its program.
const CAT: &str = "cat";

fn act(request: &str, service: &str) -> Value {
    json!({"request": request, "service": service})
}

fn refuse(service: &str) -> Value {
    json!({"request": "disable", "service": service, "refuse": true})
}

/// skd with a port and a control socket in the directory, and these options.
fn controlled(directory: &Directory, options: &[&str]) -> Skd {
    crate::harness::controlled(directory, ["-vv"])
        .args(options)
        .throttle(Duration::ZERO)
}

fn cat(directory: &Directory, options: &[&str]) -> (Running, Control) {
    let skd = controlled(directory, options).run("cat");
    let control = Control::of(directory);
    (skd, control)
}

/// Asserts that these clients aren't served: they wait, and skd doesn't wake for them.
#[track_caller]
fn expect_waiting<const N: usize>(skd: &Instance, mut clients: [&mut TcpStream; N]) {
    for client in &mut clients {
        client.write_all(b"x").unwrap();
    }
    assert_idle(&[skd.pid()]);
    for client in clients {
        client.set_nonblocking(true).unwrap();
        let found = client.read(&mut [0]).map_err(|why| why.kind());
        assert_eq!(found, Err(ErrorKind::WouldBlock));
        client.set_nonblocking(false).unwrap();
    }
}

#[track_caller]
fn expect_served(client: &mut TcpStream) {
    assert_eq!(receive(client, 1), b"x");
}

/// Asserts that a new client is turned away.
#[track_caller]
fn expect_refused(client: TcpStream) {
    let found = try_talk(client, b"");
    let refused = match &found {
        Ok(bytes) => bytes.is_empty(),
        Err(why) => why.kind() == ErrorKind::ConnectionReset,
    };
    assert!(refused, "{found:?}");
}

// Services that take no new clients.

#[test]
fn clients_of_a_disabled_service_wait_in_the_backlog_and_are_served_when_it_is_enabled() {
    let directory = Directory::new();
    for options in [
        &["--threads", "3"][..],
        &["--threads", "2", "--max-clients", "9"],
        &["--threads", "2", "--max-per-source", "9"],
    ] {
        let (skd, mut control) = cat(&directory, options);
        let mut old = skd.connect();
        echo(&mut old, b"before");
        control.done(act("disable", CAT));
        assert_eq!(control.state(CAT), "disabled");
        let mut clients = [skd.connect(), skd.connect(), skd.connect()];
        expect_waiting(&skd, clients.each_mut());
        echo(&mut old, b"go on");
        assert_eq!(skd.children().len(), 1);
        control.done(act("enable", CAT));
        assert_eq!(control.state(CAT), "serving");
        clients.iter_mut().for_each(expect_served);
        assert!(skd.logged("Refused").is_empty());
        drop(skd);
    }
}

#[test]
fn clients_of_a_refusing_service_are_rejected_as_at_its_limit() {
    let directory = Directory::new();
    let (skd, mut control) = cat(&directory, &["--threads", "2"]);
    let mut old = skd.connect();
    echo(&mut old, b"before");
    control.done(refuse(CAT));
    assert_eq!(control.state(CAT), "refusing");
    for _ in 0..5 {
        expect_refused(skd.connect());
    }
    skd.wait_for_log("Refused connection from");
    assert!(skd.logged("the service is disabled").len() <= 5);
    echo(&mut old, b"go on");
    let rejected = &control.service(CAT)["listeners"][0]["rejected"];
    assert_eq!(rejected["disabled"], 5, "{rejected}");
    // From one to the other, and back.
    control.done(act("disable", CAT));
    let mut client = skd.connect();
    expect_waiting(&skd, [&mut client]);
    control.done(refuse(CAT));
    expect_refused(client);
    control.done(act("enable", CAT));
    assert_eq!(talk(skd.connect(), b"again"), b"again");
    drop(skd);

    let limit = ["--max-clients", "3", "--at-max", "message:come back later"];
    let (skd, mut control) = cat(&directory, &limit);
    control.done(refuse(CAT));
    assert_eq!(talk(skd.connect(), b""), b"come back later");
    drop(skd);

    let (skd, mut control) = cat(&directory, &["--max-clients", "3", "--at-max", "reset"]);
    control.done(refuse(CAT));
    // The reset may come before the client has found out that it is connected.
    let found = TcpStream::connect(skd.address()).and_then(|mut client| {
        client.set_read_timeout(Some(DEADLINE))?;
        client.read(&mut [0])
    });
    let found = found.map_err(|why| why.kind());
    assert_eq!(found, Err(ErrorKind::ConnectionReset));
}

#[test]
fn pending_connections_of_a_disabled_service_go_on() {
    let directory = Directory::new();
    let (skd, mut control) = cat(&directory, &["--first-byte", "30s"]);
    let mut pending = skd.connect();
    wait_until("it is accepted", || {
        control.service(CAT)["pending"] == json!(1)
    });
    control.done(act("disable", CAT));
    echo(&mut pending, b"late");
}

#[test]
fn no_connection_is_lost_or_refused_while_a_service_is_disabled_again_and_again() {
    let directory = Directory::new();
    let (skd, mut control) = cat(&directory, &["--threads", "2"]);
    let (address, ends) = (skd.address(), AtomicBool::new(false));
    let served = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !ends.load(Ordering::SeqCst) {
                    assert_eq!(talk(connect(address), b"hello"), b"hello");
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for _ in 0..50 {
            control.done(act("disable", CAT));
            control.done(act("enable", CAT));
            let before = served.load(Ordering::SeqCst);
            wait_until("a client is served", || {
                served.load(Ordering::SeqCst) > before
            });
        }
        ends.store(true, Ordering::SeqCst);
    });
    assert!(skd.logged("Refused").is_empty());
}

#[test]
fn other_services_go_on_and_names_are_looked_at() {
    let directory = Directory::new();
    let skd = start(&directory, TWO);
    let mut control = Control::of(&directory);
    control.done(act("disable", "one"));
    let at = |name: &str| connect_unix(directory.join(name));
    let mut waiting = at("one.sock");
    waiting.write_all(b"x").unwrap();
    assert_eq!(talk(at("two.sock"), b"served"), b"served");
    assert_idle(&[skd.pid()]);
    control.failed(
        act("disable", "tow"),
        "not-found",
        "there is no service \"tow\": did you mean two?",
    );
    control.failed(act("enable", ""), "not-found", "no service");
    control.done(act("enable", "one"));
    assert_eq!(receive(&mut waiting, 1), b"x");
}

#[test]
fn what_an_administrator_wants_survives_upgrades_and_reloads() {
    let directory = Directory::new();
    let skd = start(&directory, TWO);
    let mut control = Control::of(&directory);
    control.done(act("disable", "one"));
    control.done(refuse("two"));
    control.done(json!({"request": "deny", "source": "uid:0", "seconds": 3600, "service": "one"}));
    let said = control.done(json!({"request": "upgrade"}));
    assert!(said.starts_with("Upgraded from skd"), "{said}");
    configure(&directory, &TWO.replace("cat", "tac"));
    let said = control.done(json!({"request": "reload"}));
    assert_eq!(
        said,
        "Reloaded: 0 services added, 0 removed, 2 changed, 0 unchanged"
    );
    assert_eq!(control.state("one"), "disabled");
    assert_eq!(control.state("two"), "refusing");
    let denial = control.status()["denials"][0].clone();
    assert_eq!(denial["source"], "uid:0", "{denial}");
    assert_eq!(denial["service"], "one", "{denial}");
    assert!(denial["left_seconds"].as_f64().unwrap() > 3_000.0);
    let mut client = connect_unix(directory.join("one.sock"));
    client.write_all(b"x\n").unwrap();
    assert_idle(&[skd.pid()]);
    control.done(json!({"request": "allow", "source": "uid:0", "service": "one"}));
    control.done(act("enable", "one"));
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive(&mut client, 2), b"x\n");
}

#[test]
fn datagrams_wait_for_a_disabled_service_and_are_dropped_by_a_refusing_one() {
    let directory = Directory::new();
    let (program, arguments) = datagram_echo();
    for mode in ["per-packet", "per-peer"] {
        let skd = Skd::new(["-vv", "-u", "127.0.0.1:0", "--datagram-mode", mode])
            .args(["--threads", "2", "--control"])
            .arg(directory.join("control"))
            .throttle(Duration::ZERO)
            .run_with(program, arguments);
        let mut control = Control::of(&directory);
        control.done(act("disable", program));
        let client = udp_client(skd.address());
        client.send(b"one").unwrap();
        assert_idle(&[skd.pid()]);
        assert!(skd.children().is_empty());
        control.done(act("enable", program));
        let mut answer = [0; 9];
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(&answer[..length], b"one");

        control.done(refuse(program));
        let stranger = udp_client(skd.address());
        stranger.send(b"two").unwrap();
        skd.wait_for_log("the service is disabled");
        wait_until("it is counted", || {
            let status = control.service(program);
            status["listeners"][0]["datagrams_dropped"]["disabled"] == json!(1)
        });
        control.done(act("enable", program));
        assert_eq!(ask(&stranger, b"three"), b"three");
        drop(skd);
    }
}

#[test]
fn a_sender_that_has_a_handler_keeps_it_while_others_are_dropped() {
    requires_command("perl");
    let directory = Directory::new();
    let skd = Skd::new(["-v", "-u", "127.0.0.1:0", "--datagram-mode", "per-peer"])
        .arg("--control")
        .arg(directory.join("control"))
        .throttle(Duration::ZERO)
        .run_with(
            "perl",
            [
                "-e",
                "while (sysread(STDIN, $_, 99)) { syswrite(STDOUT, $_) }",
            ],
        );
    let mut control = Control::of(&directory);
    let client = udp_client(skd.address());
    assert_eq!(ask(&client, b"one"), b"one");
    for request in [act("disable", "perl"), refuse("perl")] {
        control.done(request);
        assert_eq!(ask(&client, b"two"), b"two");
        udp_client(skd.address()).send(b"other").unwrap();
        skd.wait_for_log("the service is disabled");
    }
    assert_eq!(skd.children().len(), 1);
}

#[test]
fn what_arrives_at_a_disabled_wait_mode_listener_stays_there() {
    requires_command("perl");
    let directory = Directory::new();
    let script =
        "use Socket; accept($c, STDIN); print $c 'served'; close $c; sleep 1000 if <STDIN>";
    let skd = controlled(&directory, &["--wait"]).run_with("perl", ["-e", script]);
    let mut control = Control::of(&directory);
    let said = control.done(refuse("perl"));
    assert!(said.contains("wait mode"), "{said}");
    let client = skd.connect();
    assert_idle(&[skd.pid()]);
    assert!(skd.children().is_empty());
    control.done(json!({"request": "upgrade"}));
    assert_idle(&[skd.pid()]);
    control.done(act("enable", "perl"));
    assert_eq!(talk(client, b""), b"served");
}

// Drains.

#[test]
fn a_drain_is_answered_when_the_last_handler_has_ended() {
    let directory = Directory::new();
    for options in [
        &["--threads", "3"][..],
        &["--threads", "2", "--max-clients", "5"],
    ] {
        let (skd, mut control) = cat(&directory, options);
        let mut clients = [skd.connect(), skd.connect()];
        clients.iter_mut().for_each(|client| echo(client, b"live"));
        let mut other = Control::of(&directory);
        control.send(act("drain", CAT));
        wait_until("it drains", || other.state(CAT) == "draining");
        other.send(act("drain", CAT));
        let mut late = skd.connect();
        expect_waiting(&skd, [&mut late]);
        let [first, mut second] = clients;
        drop(first);
        skd.wait_for_children(1);
        echo(&mut second, b"still");
        drop(second);
        for control in [&mut control, &mut other] {
            assert!(control.expect_done().contains("cat is drained"));
        }
        // At once, if there is none.
        control.done(act("drain", CAT));
        assert_eq!(control.state(CAT), "draining");
        control.done(act("enable", CAT));
        expect_served(&mut late);
        drop(skd);
    }
}

#[test]
fn a_drain_waits_for_handlers_that_pending_clients_get_yet() {
    let directory = Directory::new();
    let (skd, mut control) = cat(&directory, &["--threads", "2", "--first-byte", "30s"]);
    let mut pending = skd.connect();
    wait_until("it is accepted", || {
        control.service(CAT)["pending"] == json!(1)
    });
    let mut other = Control::of(&directory);
    control.send(act("drain", CAT));
    wait_until("it drains", || other.state(CAT) == "draining");
    echo(&mut pending, b"late");
    drop(pending);
    assert!(control.expect_done().contains("cat is drained"));
    assert_eq!(other.service(CAT)["ended"]["success"], 1);
}

#[test]
fn a_drain_ends_stubborn_handlers_at_its_timeout() {
    requires_command("perl");
    let directory = Directory::new();
    let script = "$| = 1; $SIG{TERM} = 'IGNORE'; print 'x'; sleep 1000";
    let options = ["--kill-after", "200ms", "--timeout", "15m"];
    let skd = controlled(&directory, &options).run_with("perl", ["-e", script]);
    let mut control = Control::of(&directory);
    let mut clients = [skd.connect(), skd.connect()];
    clients.iter_mut().for_each(expect_served);
    let begun = Instant::now();
    control.send(json!({"request": "drain", "service": "perl", "timeout_seconds": 0.3}));
    let said = control.expect_done();
    assert!(said.contains("2 handlers were told to end"), "{said}");
    assert!(begun.elapsed() >= Duration::from_millis(500));
    assert_eq!(
        skd.logged("KILL is sent").len(),
        2,
        "{:#?}",
        skd.log_lines()
    );
    assert_eq!(control.service("perl")["ended"]["drain"], 2);
}

#[test]
fn a_drain_is_over_when_the_service_is_enabled_disabled_or_skd_ends() {
    let directory = Directory::new();
    let (skd, mut control) = cat(&directory, &[]);
    let mut live = skd.connect();
    echo(&mut live, b"live");
    let mut other = Control::of(&directory);
    let mut drain = |control: &mut Control| {
        control.send(act("drain", CAT));
        wait_until("it drains", || other.state(CAT) == "draining");
    };
    drain(&mut control);
    Control::of(&directory).done(act("enable", CAT));
    control.expect_failure("failed", "cat was enabled again");
    drain(&mut control);
    Control::of(&directory).done(act("disable", CAT));
    control.expect_failure("failed", "cat was disabled instead");
    drain(&mut control);
    skd.signal(Signal::SIGTERM);
    control.expect_failure("busy", "skd ends");
}

#[test]
fn a_drain_goes_on_over_an_upgrade_and_its_client_gets_the_answer() {
    let directory = Directory::new();
    let (skd, mut control) = cat(&directory, &["--threads", "2"]);
    let mut live = skd.connect();
    echo(&mut live, b"live");
    control.send(act("drain", CAT));
    let mut other = Control::of(&directory);
    wait_until("it drains", || other.state(CAT) == "draining");
    for _ in 0..2 {
        let said = other.done(json!({"request": "upgrade"}));
        assert!(said.starts_with("Upgraded from skd"), "{said}");
    }
    echo(&mut live, b"live");
    let mut late = skd.connect();
    expect_waiting(&skd, [&mut late]);
    drop(live);
    assert!(control.expect_done().contains("cat is drained"));
    control.done(act("enable", CAT));
    expect_served(&mut late);
}

/// Announces a drain of services for so many seconds.
fn announce(services: Value, seconds: f64) -> Value {
    json!({"request": "drain", "services": services, "announce_seconds": seconds})
}

#[test]
fn a_drain_that_is_announced_begins_later_and_its_service_serves_until_then() {
    let directory = Directory::new();
    let (skd, mut control) = cat(&directory, &["--threads", "2"]);
    let mut live = skd.connect();
    echo(&mut live, b"live");
    let mut other = Control::of(&directory);
    // On a slow machine there is as much to do before it is over.
    let announced = 2 * slowness();
    let begun = Instant::now();
    control.send(announce(json!([CAT]), announced.into()));
    wait_until("it is announced", || other.state(CAT) == "lame-duck");
    let mut late = skd.connect();
    echo(&mut late, b"served");
    drop(late);
    skd.wait_for_children(1);
    wait_until("it drains", || other.state(CAT) == "draining");
    assert!(begun.elapsed() >= Duration::from_secs(announced.into()));
    let mut waits = skd.connect();
    expect_waiting(&skd, [&mut waits]);
    drop(live);
    assert!(control.expect_done().contains("cat is drained"));
    control.done(act("enable", CAT));
    expect_served(&mut waits);
}

#[test]
fn the_timeout_of_a_drain_begins_after_its_announcement() {
    let directory = Directory::new();
    let (skd, mut control) = cat(&directory, &[]);
    let mut live = skd.connect();
    echo(&mut live, b"live");
    let mut drain = announce(json!([CAT]), 0.5);
    drain["timeout_seconds"] = 0.5.into();
    let begun = Instant::now();
    let said = control.done(drain);
    assert!(said.contains("1 handler was told to end"), "{said}");
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[test]
fn of_several_announcements_the_first_that_is_over_counts() {
    let directory = Directory::new();
    let (_skd, mut control) = cat(&directory, &[]);
    let mut other = Control::of(&directory);
    control.failed(announce(json!([CAT]), 1e19), "bad-request", "too long");
    assert_eq!(other.state(CAT), "serving");
    control.send(announce(json!([CAT]), 3600.0));
    wait_until("it is announced", || other.state(CAT) == "lame-duck");
    let mut third = Control::of(&directory);
    third.send(announce(json!([CAT]), 7200.0));
    assert_eq!(other.state(CAT), "lame-duck");
    other.done(announce(json!([CAT]), 0.1));
    for control in [&mut control, &mut third] {
        assert!(control.expect_done().contains("cat is drained"));
    }
    // A service that is drained isn't made to serve by another.
    other.done(announce(json!([CAT]), 3600.0));
    assert_eq!(other.state(CAT), "draining");
    other.done(act("enable", CAT));
    assert_eq!(other.state(CAT), "serving");
    // Without an announcement it begins at once.
    control.send(announce(json!([CAT]), 3600.0));
    wait_until("it is announced", || other.state(CAT) == "lame-duck");
    other.done(act("drain", CAT));
    assert!(control.expect_done().contains("cat is drained"));
}

#[test]
fn an_announcement_is_taken_back_by_enable_and_disable_and_not_by_the_loss_of_its_client() {
    let directory = Directory::new();
    let (skd, mut control) = cat(&directory, &[]);
    let mut other = Control::of(&directory);
    for (request, why, state) in [
        (act("enable", CAT), "was enabled again", "serving"),
        (act("disable", CAT), "was disabled instead", "disabled"),
        (refuse(CAT), "was disabled instead", "refusing"),
    ] {
        control.send(announce(json!([CAT]), 3600.0));
        wait_until("it is announced", || other.state(CAT) == "lame-duck");
        other.done(request);
        control.expect_failure("failed", why);
        assert_eq!(other.state(CAT), state);
        other.done(act("enable", CAT));
    }
    echo(&mut skd.connect(), b"served");
    let mut lost = Control::of(&directory);
    lost.send(announce(json!([CAT]), 0.5));
    wait_until("it is announced", || other.state(CAT) == "lame-duck");
    drop(lost);
    wait_until("it drains all the same", || other.state(CAT) == "draining");
    other.done(act("enable", CAT));
    // The end of skd is one of all drains.
    control.send(announce(json!([CAT]), 3600.0));
    wait_until("it is announced", || other.state(CAT) == "lame-duck");
    skd.signal(Signal::SIGTERM);
    control.expect_failure("busy", "skd ends");
    assert_eq!(skd.wait().code(), Some(0));
}

#[test]
fn an_announcement_goes_on_over_upgrades_and_reloads() {
    let directory = Directory::new();
    let skd = start(&directory, TWO);
    let mut control = Control::of(&directory);
    let mut other = Control::of(&directory);
    // Over before tests give up waiting.
    let announced = (5 * slowness()).min(25);
    let begun = Instant::now();
    control.send(announce(json!(["one", "two"]), announced.into()));
    wait_until("it is announced", || other.state("two") == "lame-duck");
    for request in ["upgrade", "reload", "upgrade"] {
        other.done(json!({"request": request}));
        for name in ["one", "two"] {
            assert_eq!(other.state(name), "lame-duck", "{request}");
        }
        let mut client = connect_unix(directory.join("one.sock"));
        echo(&mut client, b"served");
    }
    let said = control.expect_done();
    assert!(said.starts_with("one, two are drained: "), "{said}");
    assert!(begun.elapsed() >= Duration::from_secs(announced.into()));
    assert_eq!(other.state("one"), "draining");
    drop(skd);
}

#[test]
fn an_announcement_ends_when_a_reload_removes_its_service() {
    let directory = Directory::new();
    let skd = start(&directory, TWO);
    let mut client = connect_unix(directory.join("two.sock"));
    echo(&mut client, b"live");
    let mut control = Control::of(&directory);
    let mut other = Control::of(&directory);
    control.send(announce(json!(["one", "two"]), 3600.0));
    wait_until("it is announced", || other.state("two") == "lame-duck");
    let (one, _) = TWO.split_once("[service.two]").unwrap();
    configure(&directory, one);
    other.done(json!({"request": "reload"}));
    control.expect_failure("failed", "two isn't configured any more");
    assert_eq!(other.state("two"), "removed");
    // That of the other service goes on.
    assert_eq!(other.state("one"), "lame-duck");
    echo(&mut client, b"still");
    drop(skd);
}

#[test]
fn several_services_are_drained_together_or_not_at_all() {
    let directory = Directory::new();
    let skd = start(&directory, TWO);
    let mut control = Control::of(&directory);
    let mut other = Control::of(&directory);
    let drain = |services: Value| json!({"request": "drain", "services": services});
    for (services, kind, words) in [
        (
            json!([]),
            "bad-request",
            "a list of strings that isn't empty",
        ),
        (json!([7]), "bad-request", "a list of strings"),
        (json!(["one", "three"]), "not-found", "no service \"three\""),
    ] {
        control.failed(drain(services), kind, words);
        assert_eq!(control.state("one"), "serving");
    }
    let mut first = connect_unix(directory.join("one.sock"));
    let mut second = connect_unix(directory.join("two.sock"));
    echo(&mut first, b"live");
    echo(&mut second, b"live");
    control.send(drain(json!(["two", "one", "two"])));
    wait_until("both drain", || {
        other.state("one") == "draining" && other.state("two") == "draining"
    });
    // Another waits for one of them alone.
    let mut third = Control::of(&directory);
    third.send(act("drain", "one"));
    drop(first);
    assert!(third.expect_done().starts_with("one is drained: "));
    // An upgrade keeps who waits, and what is over.
    other.done(json!({"request": "upgrade"}));
    echo(&mut second, b"still");
    drop(second);
    assert!(control.expect_done().starts_with("two, one are drained: "));
    let said = control.done(json!({"request": "enable", "services": ["one", "two"]}));
    assert_eq!(said, "one, two serve new clients");
    assert_eq!(control.state("one"), "serving");
    drop(skd);
}

#[test]
fn a_wait_mode_handler_is_drained_too() {
    requires_command("perl");
    let directory = Directory::new();
    let script = "use Socket; accept($c, STDIN); print while <$c>";
    let skd = controlled(&directory, &["--wait"]).run_with("perl", ["-e", script]);
    let mut control = Control::of(&directory);
    let client = skd.connect();
    skd.wait_for_children(1);
    control.send(act("drain", "perl"));
    let mut other = Control::of(&directory);
    wait_until("it drains", || other.state("perl") == "draining");
    drop(client);
    control.expect_done();
    assert_eq!(skd.children().len(), 0);
}

#[test]
fn a_service_that_is_done_is_neither_disabled_nor_drained() {
    let directory = Directory::new();
    let text = TWO.replace("[service.one]", "[service.one]\nmax-total = 1");
    let skd = start(&directory, &text);
    let mut control = Control::of(&directory);
    let mut client = connect_unix(directory.join("one.sock"));
    client.write_all(b"x").unwrap();
    skd.wait_for_log("Closed");
    let words = "one has had all the handlers";
    for request in [
        act("disable", "one"),
        act("drain", "one"),
        act("enable", "one"),
    ] {
        control.failed(request, "failed", words);
    }
    assert_eq!(receive(&mut client, 1), b"x");
}

// Handlers that are killed.

#[test]
fn handlers_are_killed_by_pid_by_source_and_by_service_and_no_others() {
    let directory = Directory::new();
    let skd = start(&directory, TCP_AND_UNIX);
    let mut control = Control::of(&directory);
    let address = port_of(&skd);
    let from = |own: &str| {
        let mut client = connect_from(own.parse().unwrap(), address);
        echo(&mut client, b"live");
        client
    };
    let mut clients = [from("127.0.0.1"), from("127.0.0.2"), from("127.0.1.3")];
    let mut local = connect_unix(directory.join("local.sock"));
    echo(&mut local, b"live");

    let kill = |fields: Value| {
        let mut request = json!({"request": "kill"});
        let fields = fields.as_object().cloned().unwrap();
        request.as_object_mut().unwrap().extend(fields);
        request
    };
    control.failed(kill(json!({})), "bad-request", "say which handlers");
    control.failed(
        kill(json!({"source": "127.0.0.0/33"})),
        "bad-request",
        "\"127.0.0.0/33\" names no clients",
    );
    control.failed(
        kill(json!({"service": "x"})),
        "not-found",
        "no service \"x\"",
    );
    let nothing = "there is no such handler";
    for fields in [
        json!({"source": "192.0.2.0/24"}),
        json!({"source": "uid:4711"}),
        json!({"source": "127.0.0.0/8", "service": "local"}),
    ] {
        control.failed(kill(fields), "not-found", nothing);
    }
    // Neither skd itself nor a stranger.
    for pid in [1, 0, -1, skd.pid(), std::process::id() as i32] {
        let words = "is no such handler";
        control.failed(kill(json!({"pid": pid})), "not-found", words);
    }
    let said = control.done(kill(json!({"source": "127.0.0.0/24"})));
    assert_eq!(said, "2 handlers were sent TERM");
    assert_eq!(clients[0].read(&mut [0]).unwrap(), 0);
    assert_eq!(clients[1].read(&mut [0]).unwrap(), 0);
    echo(&mut clients[2], b"live");
    echo(&mut local, b"live");
    let said = control.done(kill(json!({"source": "uid:0", "service": "local"})));
    assert_eq!(said, "1 handler was sent TERM");
    assert_eq!(local.read(&mut [0]).unwrap(), 0);
    let pid = skd.children()[0];
    control.done(kill(json!({"pid": pid})));
    assert_eq!(clients[2].read(&mut [0]).unwrap(), 0);
    wait_until("it has ended", || !exists(pid));
    control.failed(kill(json!({"pid": pid})), "not-found", "no such handler");
    assert_eq!(control.service("tcp")["ended"]["killed"], 3);
    assert_eq!(control.service("local")["ended"]["killed"], 1);
}

#[test]
fn a_handler_that_ignores_term_is_killed_later_even_after_an_upgrade() {
    requires_command("perl");
    let directory = Directory::new();
    let script = "$| = 1; $SIG{TERM} = 'IGNORE'; print 'x'; sleep 1000";
    let options = ["--kill-after", "2s", "--timeout", "15m"];
    let skd = controlled(&directory, &options).run_with("perl", ["-e", script]);
    let mut control = Control::of(&directory);
    let mut client = skd.connect();
    expect_served(&mut client);
    control.done(act("kill", "perl"));
    control.done(json!({"request": "upgrade"}));
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
    skd.wait_for_log("KILL is sent");
    wait_until("it is counted", || {
        control.service("perl")["ended"]["killed"] == json!(1)
    });
}

// Clients that are denied.

#[test]
fn denied_clients_are_rejected_until_the_time_is_over() {
    let directory = Directory::new();
    for options in [&[][..], &["--max-per-source", "9"]] {
        let (skd, mut control) = cat(&directory, options);
        let mut live = connect_from("127.0.0.2".parse().unwrap(), skd.address());
        echo(&mut live, b"live");
        let deny = |source: &str, seconds: f64| json!({"request": "deny", "source": source, "seconds": seconds});
        control.done(deny("127.0.0.2", 600.0));
        let from = |own: &str| connect_from(own.parse().unwrap(), skd.address());
        expect_refused(from("127.0.0.2"));
        skd.wait_for_log("it is denied for a time");
        assert_eq!(talk(from("127.0.0.3"), b"other"), b"other");
        echo(&mut live, b"still");
        let rejected = &control.service(CAT)["listeners"][0]["rejected"];
        assert_eq!(rejected["denied"], 1, "{rejected}");
        control.done(json!({"request": "allow", "source": "127.0.0.2"}));
        assert_eq!(talk(from("127.0.0.2"), b"again"), b"again");
        let allow = json!({"request": "allow", "source": "127.0.0.2"});
        control.failed(allow, "not-found", "127.0.0.2 isn't denied");
        // It ends by itself.
        control.done(deny("127.0.0.0/30", 0.7));
        expect_refused(from("127.0.0.1"));
        wait_until("it is over", || {
            try_talk(from("127.0.0.1"), b"served").unwrap_or_default() == b"served"
        });
        assert_eq!(control.status()["denials"], json!([]));
        for (source, seconds) in [("host", 1.0), ("127.0.0.1", 0.0), ("127.0.0.1", -1.0)] {
            control.failed(deny(source, seconds), "bad-request", "");
        }
        drop(skd);
    }
}

#[test]
fn a_denial_holds_at_its_service_for_users_and_for_those_who_wait() {
    let directory = Directory::new();
    let text = TCP_AND_UNIX.replace("[service.local]", "[service.local]\nfirst-byte = \"60s\"");
    let skd = start(&directory, &text);
    let mut control = Control::of(&directory);
    let at = || connect_unix(directory.join("local.sock"));
    let mut waiting = at();
    wait_until("it is accepted", || {
        control.service("local")["pending"] == json!(1)
    });
    let deny = json!({"request": "deny", "source": "uid:0", "seconds": 600, "service": "local"});
    control.done(deny);
    assert_eq!(waiting.read(&mut [0]).unwrap(), 0);
    assert_eq!(try_talk(at(), b"").unwrap_or_default(), b"");
    let address = port_of(&skd);
    assert_eq!(talk(connect(address), b"other"), b"other");
}

#[test]
fn the_client_that_a_proxy_names_is_denied_and_so_are_datagrams() {
    let directory = Directory::new();
    let (skd, mut control) = cat(
        &directory,
        &["--proxy-protocol", "--proxy-from", "127.0.0.1"],
    );
    let deny = |source: &str| json!({"request": "deny", "source": source, "seconds": 600});
    control.done(deny("192.0.2.0/24"));
    let header = |client: &str| format!("PROXY TCP4 {client} 192.0.2.1 999 80\r\n");
    let ask_as = |client: &str| {
        let mut stream = skd.connect();
        stream.write_all(header(client).as_bytes()).unwrap();
        try_talk(stream, b"x").unwrap_or_default()
    };
    assert_eq!(ask_as("192.0.2.7"), b"");
    assert_eq!(ask_as("198.51.100.7"), b"x");
    skd.wait_for_log("it is denied for a time");
    drop(skd);

    let (program, arguments) = datagram_echo();
    let skd = Skd::new(["-v", "-u", "127.0.0.1:0", "--datagram-mode", "per-packet"])
        .arg("--control")
        .arg(directory.join("control"))
        .run_with(program, arguments);
    let mut control = Control::of(&directory);
    control.done(deny("127.0.0.0/8"));
    let client = udp_client(skd.address());
    client.send(b"x").unwrap();
    skd.wait_for_log("it is denied for a time");
    control.done(json!({"request": "allow", "source": "127.0.0.0/8"}));
    assert_eq!(ask(&client, b"y"), b"y");
}

#[test]
fn a_client_behind_a_translator_is_denied_and_killed_by_either_address() {
    let directory = Directory::new();
    let options = [
        "--proxy-protocol",
        "--proxy-from=127.0.0.1",
        "--allow=all",
        "--nat64=64:ff9b::/96",
    ];
    let (skd, mut control) = cat(&directory, &options);
    let connect = || {
        let mut stream = skd.connect();
        let header = "PROXY TCP6 64:ff9b::c000:207 2001:db8::1 999 80\r\n";
        stream.write_all(header.as_bytes()).unwrap();
        stream
    };
    // The second is what the log has.
    for source in ["192.0.2.7", "64:ff9b::c000:207"] {
        let mut live = connect();
        echo(&mut live, b"served");
        wait_until("the handler is listed", || {
            control.send(json!({"request": "handlers", "source": source}));
            control.answer()["total"] == 1
        });
        control.done(json!({"request": "kill", "source": source}));
        assert_eq!(live.read(&mut [0]).unwrap_or_default(), 0, "{source}");
        control.done(json!({"request": "deny", "source": source, "seconds": 600}));
        assert_eq!(
            try_talk(connect(), b"x").unwrap_or_default(),
            b"",
            "{source}"
        );
        control.send(json!({"request": "explain", "client": "64:ff9b::c000:207"}));
        let explained = control.answer();
        assert_eq!(explained["services"][0]["admitted"], false, "{explained}");
        control.done(json!({"request": "allow", "source": source}));
    }
}

// Reloads, upgrades, verbosity.

#[test]
fn a_reload_that_fails_is_answered_with_all_that_is_wrong() {
    let directory = Directory::new();
    let skd = start(&directory, TWO);
    let mut control = Control::of(&directory);
    configure(&directory, &TWO.replace("command", "comand"));
    control.send(json!({"request": "reload"}));
    let answer = control.answer();
    assert_eq!(answer["kind"], "failed", "{answer}");
    let message = answer["message"].as_str().unwrap();
    assert!(message.starts_with("no reload: "), "{answer}");
    assert!(message.matches("comand").count() >= 2, "{answer}");
    assert_eq!(skd.logged("no reload").len(), 1);
    let status = control.status();
    assert_eq!(status["process"]["reloads"]["failed"], 1, "{status}");
    configure(&directory, TWO);
    control.done(json!({"request": "reload"}));
    let status = control.status();
    assert_eq!(status["process"]["reloads"]["succeeded"], 1, "{status}");
}

#[test]
fn a_second_reload_meanwhile_is_told_to_wait() {
    let directory = Directory::new();
    let skd = start(&directory, TWO);
    let mut clients = [Control::of(&directory), Control::of(&directory)];
    // Seen in one turn, which a preflight outlasts.
    skd.signal(Signal::SIGSTOP);
    for client in &mut clients {
        client.send(json!({"request": "upgrade"}));
    }
    skd.signal(Signal::SIGCONT);
    let mut answers = clients.each_mut().map(Control::answer);
    answers.sort_by_key(|answer| answer["answer"].to_string());
    let [done, busy] = answers;
    assert_eq!(done["answer"], "done", "{done}");
    assert_eq!(busy["kind"], "busy", "{busy}");
    assert!(busy["message"].as_str().unwrap().contains("is under way"));
    clients[0].done(json!({"request": "reload"}));
}

#[test]
fn rules_that_are_read_again_are_answered_too() {
    let directory = Directory::new();
    let rules = directory.write("rules", "allow 127.0.0.1\n");
    let (skd, mut control) = cat(&directory, &["--rules", &rules.to_string_lossy()]);
    directory.write("rules", "allow 127.0.0.1\nallow 127.0.0.2\n");
    let said = control.done(json!({"request": "reload"}));
    assert_eq!(said, "Reloaded: 2 rules were read");
    directory.write("rules", "nonsense\nallow 1.2.3.4\nmore of it\n");
    control.send(json!({"request": "reload"}));
    let answer = control.answer();
    let message = answer["message"].as_str().unwrap();
    assert_eq!(answer["kind"], "failed", "{answer}");
    assert!(
        message.contains("line 1,") && message.contains("line 3,"),
        "{answer}"
    );
    drop(skd);

    let (_skd, mut control) = cat(&directory, &[]);
    let said = control.done(json!({"request": "reload"}));
    assert_eq!(said, "Reloaded: there are no rules to read");
}

#[test]
fn a_reload_of_rules_is_answered_though_an_upgrade_comes_between() {
    let directory = Directory::new();
    let rules = directory.write("rules", "allow 127.0.0.1\n");
    let (skd, mut control) = cat(&directory, &["--rules", &rules.to_string_lossy()]);
    // To read so many takes longer than an upgrade.
    const MANY: usize = 300_000;
    directory.write("rules", "allow 127.0.0.1\n".repeat(MANY));
    control.send(json!({"request": "reload"}));
    wait_until("rules are read", || {
        threads(skd.pid()).iter().any(|(_, name)| name == "rules")
    });
    skd.signal(Signal::SIGUSR2);
    let expected = format!("Reloaded: {MANY} rules were read");
    assert_eq!(control.expect_done(), expected);
    skd.wait_for_log("Upgraded from skd");
}

#[test]
fn an_upgrade_that_fails_is_answered_with_the_reason() {
    let directory = Directory::new();
    let binary = directory.join("skd");
    install(&binary);
    let skd = controlled(&directory, &[]).binary(&binary).run("cat");
    let mut control = Control::of(&directory);
    fs::remove_file(&binary).unwrap();
    let path = binary.to_string_lossy().into_owned();
    control.failed(json!({"request": "upgrade"}), "failed", &path);
    copy_program("/bin/false", &binary);
    control.failed(json!({"request": "upgrade"}), "failed", "status 1");
    install(&binary);
    control.done(json!({"request": "upgrade"}));
    assert_eq!(talk(skd.connect(), b"on"), b"on");
}

fn install(to: &Path) {
    let new = to.with_extension("new");
    copy_program(env!("CARGO_BIN_EXE_skd"), &new);
    fs::rename(new, to).unwrap();
}

#[test]
fn nothing_begins_while_skd_ends_and_a_client_that_waits_is_told() {
    let directory = Directory::new();
    let (skd, mut control) = cat(&directory, &["--drain", "60s"]);
    let mut live = skd.connect();
    echo(&mut live, b"live");
    skd.signal(Signal::SIGTERM);
    skd.wait_for_log("Draining");
    for request in [
        json!({"request": "reload"}),
        json!({"request": "upgrade"}),
        act("disable", CAT),
        act("drain", CAT),
    ] {
        control.failed(request, "busy", "skd ends");
    }
    control.done(act("kill", CAT));
    assert_eq!(live.read(&mut [0]).unwrap(), 0);
}

#[test]
fn the_verbosity_changes_until_the_next_upgrade() {
    let directory = Directory::new();
    let (skd, mut control) = cat(&directory, &[]);
    let verbosity = |level: u8| json!({"request": "set-verbosity", "level": level});
    control.done(verbosity(0));
    assert_eq!(talk(skd.connect(), b"quiet"), b"quiet");
    control.done(verbosity(1));
    assert_eq!(talk(skd.connect(), b"told"), b"told");
    skd.wait_for_log("Closed");
    assert_eq!(skd.logged("Accepted").len(), 1);
    control.failed(verbosity(3), "bad-request", "0, 1 or 2");
    control.done(verbosity(0));
    control.done(json!({"request": "upgrade"}));
    assert_eq!(control.status()["verbosity"], 2);
}

/// Two services.
const TWO: &str = r#"
[daemon]
control = "DIR/control"

[service.one]
unix = "DIR/one.sock"
command = ["cat"]

[service.two]
unix = "DIR/two.sock"
command = ["cat"]
"#;

const TCP_AND_UNIX: &str = r#"
[daemon]
control = "DIR/control"

[service.tcp]
tcp = "127.0.0.1:0"
command = ["cat"]

[service.local]
unix = "DIR/local.sock"
command = ["cat"]
"#;

/// The address of the only port.
fn port_of(skd: &Running) -> SocketAddr {
    let port: u16 = skd.stdout_line().trim().parse().unwrap();
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn configure(directory: &Directory, text: &str) {
    let text = text.replace("DIR/", &directory.name(""));
    directory.write("skd.toml.new", text);
    fs::rename(directory.join("skd.toml.new"), directory.join("skd.toml")).unwrap();
}

fn start(directory: &Directory, text: &str) -> Running {
    configure(directory, text);
    let file = directory.name("skd.toml");
    let skd = Skd::new(["-vv", "--config", &file]).throttle(Duration::ZERO);
    let skd = skd.start_bare();
    skd.wait_for_logs("Listening on ", 2);
    skd
}
