//! Files that are read again at HUP: an upgrade to the same binary.

use crate::harness::{
    DEADLINE, Directory, Figures, Holdings, Instance, Kind, Over, Running, ServiceManager, Skd,
    ask, close_tcp, connect, connect_unix, echo, parked, poll_for, requires_command, requires_root,
    sockets, talk, try_talk, udp_client, wait_asleep, wait_until, zombies,
};
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

const NO_RELOAD: &str = "skd: no reload: what the files say can't be served; nothing has changed";

/// Writes the file of services, in which `DIR` is the directory.
fn configure(directory: &Directory, text: &str) {
    let text = text.replace("DIR/", &directory.name(""));
    // As editors do: no reader sees a part of it.
    directory.write("skd.toml.new", text);
    fs::rename(directory.join("skd.toml.new"), directory.join("skd.toml")).unwrap();
}

/// skd with the file of services.
fn daemon(directory: &Directory, text: &str) -> Skd {
    configure(directory, text);
    let file = directory.name("skd.toml");
    Skd::new(["-vv", "--config", &file]).throttle(Duration::ZERO)
}

/// Starts it, and waits for so many listeners.
fn start(directory: &Directory, text: &str, listeners: usize) -> Running {
    let skd = daemon(directory, text).start_bare();
    skd.wait_for_logs("Listening on ", listeners);
    skd
}

/// A reload to this text, with this difference: services added, removed, changed, and the same.
#[track_caller]
fn reload(skd: &Instance, directory: &Directory, text: &str, difference: [usize; 4]) {
    configure(directory, text);
    let [added, removed, changed, unchanged] = difference;
    let services = if added == 1 { "service" } else { "services" };
    assert_eq!(
        skd.hang_up(),
        format!(
            "Reloaded: {added} {services} added, {removed} removed, {changed} changed, \
             {unchanged} unchanged"
        )
    );
}

/// A reload to this text that has these faults, each in a line of its own, and changes nothing.
#[track_caller]
fn refused(skd: &Instance, directory: &Directory, text: &str, faults: &[&str]) {
    configure(directory, text);
    let before = skd.log_lines().len();
    assert_eq!(skd.hang_up(), NO_RELOAD);
    let lines = skd.log_lines();
    let said: Vec<_> = lines[before..]
        .iter()
        .filter(|line| line.contains("skd.toml:"))
        .collect();
    assert_eq!(said.len(), faults.len(), "{said:#?}");
    for (line, fault) in said.iter().zip(faults) {
        let fault = fault.replace("DIR/", &directory.name(""));
        assert!(line.contains(&fault), "{line}, not {fault}");
    }
}

fn unix(directory: &Directory, name: &str) -> UnixStream {
    connect_unix(directory.join(name))
}

fn is_refused(directory: &Directory, name: &str) -> bool {
    let refused = UnixStream::connect(directory.join(name)).map_err(|reason| reason.kind());
    refused.is_err_and(|kind| kind == ErrorKind::ConnectionRefused || kind == ErrorKind::NotFound)
}

/// The inode of the socket that skd has bound to this path.
fn inode(skd: &Instance, directory: &Directory, name: &str) -> Option<u64> {
    let path = directory.name(name);
    let found = sockets(skd.pid()).into_iter();
    let mut found = found.filter(|it| it.listening && it.path.as_deref() == Some(&path));
    found.next().map(|socket| socket.inode)
}

fn tcp_listeners(skd: &Instance) -> Vec<(u16, u64)> {
    let found = sockets(skd.pid()).into_iter();
    let found = found.filter(|it| it.kind == Kind::Tcp && it.listening);
    found
        .map(|it| (it.address.unwrap().port(), it.inode))
        .collect()
}

/// A port that is free at the moment.
fn free_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    close_tcp(socket).port()
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// A service of a unix socket with its own name.
fn service(name: &str, more: &str) -> String {
    format!("[service.{name}]\nunix = \"DIR/{name}\"\ncommand = [\"cat\"]\n{more}\n")
}

fn prints(name: &str, text: &str) -> String {
    format!("[service.{name}]\nunix = \"DIR/{name}\"\ncommand = [\"echo\", \"-n\", \"{text}\"]\n")
}

#[test]
fn what_is_the_same_stays_and_the_rest_is_added_removed_and_changed() {
    let directory = Directory::new();
    let before = [
        service("same", ""),
        service("gone", "timeout = \"1h\""),
        prints("other", "old"),
        "[service.port]\ntcp = \"127.0.0.1:0\"\ncommand = [\"cat\"]\n".into(),
    ];
    let skd = start(&directory, &before.concat(), 4);
    let port = skd.stdout_line().trim().parse().unwrap();
    let bound = tcp_listeners(&skd);
    let inodes = ["same", "other"].map(|name| inode(&skd, &directory, name));
    let files = ["same", "other"].map(|name| fs::metadata(directory.join(name)).unwrap().ino());
    let mut same = unix(&directory, "same");
    let mut gone = unix(&directory, "gone");
    let mut by_port = connect(local(port));
    for client in [&mut same, &mut gone] {
        echo(client, b"before");
    }
    echo(&mut by_port, b"before");
    let handlers = skd.wait_for_children(3);

    let after = [
        "# In another order.\n".into(),
        prints("other", "new"),
        before[3].clone(),
        service("added", ""),
        service("same", ""),
    ];
    reload(&skd, &directory, &after.concat(), [1, 1, 1, 2]);
    assert_eq!(tcp_listeners(&skd), bound);
    assert_eq!(
        ["same", "other"].map(|name| inode(&skd, &directory, name)),
        inodes
    );
    assert_eq!(
        ["same", "other"].map(|name| fs::metadata(directory.join(name)).unwrap().ino()),
        files
    );
    for client in [&mut same, &mut gone] {
        echo(client, b"after");
    }
    echo(&mut by_port, b"after");
    assert_eq!(skd.wait_for_children(3), handlers);
    assert!(is_refused(&directory, "gone") && !directory.join("gone").exists());
    assert_eq!(talk(unix(&directory, "added"), b"new"), b"new");
    assert_eq!(talk(unix(&directory, "other"), b""), b"new");
    assert_eq!(talk(connect(local(port)), b"port"), b"port");
    drop(gone);
    skd.wait_for_children(2);

    reload(&skd, &directory, &after.concat(), [0, 0, 0, 4]);
    echo(&mut same, b"still");
    assert_eq!(skd.stop().code(), Some(0));
    for name in ["same", "other", "added"] {
        assert!(!directory.join(name).exists(), "{name}");
    }
}

#[test]
fn each_fault_has_a_line_and_nothing_changes() {
    let directory = Directory::new();
    let good = service("one", "") + &service("two", "");
    let skd = start(&directory, &good, 2);
    let mut client = unix(&directory, "one");
    echo(&mut client, b"before");
    let before = inode(&skd, &directory, "one");
    // What a reader finds.
    let text = service("one", "max-clients = \"many\"") + &service("new", "no-such = 1");
    let faults = ["skd.toml:4:15: ", "skd.toml:8:1: unknown key no-such"];
    refused(&skd, &directory, &text, &faults);
    // No service without a listener, but one with a fault in it.
    let text = "[service.one]\ntcp = \"no such\"\ncommand = [\"cat\"]\n".to_owned() + &good;
    let text = text.replacen("service.one", "service.new", 1);
    refused(&skd, &directory, &text, &["skd.toml:2:7: invalid value"]);
    // What only a preflight finds.
    let text = "[service.one]\nunix = \"DIR/one\"\ncommand = [\"no-such-program\"]\n\
                [service.new]\nunix = \"DIR/new\"\ncommand = [\"cat\"]\nchdir = \"/no/such\"\n";
    refused(
        &skd,
        &directory,
        text,
        &["'no-such-program' can't be run", "/no/such"],
    );
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let text = format!(
        "{good}[service.new]\ntcp = \"127.0.0.1:{port}\"\ncommand = [\"cat\"]\n\
         [service.file]\nunix = \"DIR/skd.toml\"\ncommand = [\"cat\"]\n\
         [service.rules]\nunix = \"DIR/rules\"\nrules = \"DIR/missing\"\ncommand = [\"cat\"]\n"
    );
    refused(
        &skd,
        &directory,
        &text,
        &["service new: --tcp", "service file: --unix"],
    );
    let text = text.replace("DIR/skd.toml", "DIR/free");
    close_tcp(taken);
    refused(&skd, &directory, &text, &["service rules: "]);
    assert!(
        ["new", "free", "rules"]
            .iter()
            .all(|name| !directory.join(name).exists())
    );
    refused(&skd, &directory, "[service.one\n", &["skd.toml:1"]);
    echo(&mut client, b"after");
    assert_eq!(inode(&skd, &directory, "one"), before);
    for name in ["one", "two"] {
        assert_eq!(talk(unix(&directory, name), b"served"), b"served");
    }
    assert_eq!(skd.logged("Reloaded").len(), 0);
    reload(&skd, &directory, &good, [0, 0, 0, 2]);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_renamed_service_keeps_its_socket_and_its_backlog() {
    let directory = Directory::new();
    let old = "[service.old]\nunix = \"DIR/socket\"\ntcp = \"127.0.0.1:PORT\"\nmax-clients = 1\n\
               command = [\"cat\"]\n";
    let port = free_port();
    let old = old.replace("PORT", &port.to_string());
    let skd = start(&directory, &old, 2);
    let bound = (inode(&skd, &directory, "socket"), tcp_listeners(&skd));
    let mut first = unix(&directory, "socket");
    echo(&mut first, b"first");
    let mut waits = unix(&directory, "socket");
    let mut waits_too = connect(local(port));
    skd.wait_for_log("the only slot is taken");
    let new = old.replace("service.old", "service.new");
    reload(&skd, &directory, &new, [1, 1, 0, 0]);
    assert_eq!(
        (inode(&skd, &directory, "socket"), tcp_listeners(&skd)),
        bound
    );
    // The handler of the old service has no slot of the new one.
    echo(&mut waits, b"second");
    drop(waits);
    echo(&mut waits_too, b"third");
    echo(&mut first, b"first");
    assert!(skd.logged("Closed unix").is_empty());
    assert_eq!(skd.stop().code(), Some(0));
    assert!(!directory.join("socket").exists());
}

#[test]
fn a_service_that_is_gone_serves_its_backlog() {
    let directory = Directory::new();
    let stay = service("stay", "");
    let port = free_port();
    let gone = format!(
        "[service.gone]\nunix = \"DIR/gone\"\ntcp = \"127.0.0.1:{port}\"\nmax-clients = 1\n\
         command = [\"sh\", \"-c\", \"echo old; exec cat\"]\n"
    );
    let skd = start(&directory, &(stay.clone() + &gone), 3);
    let said = |client: &mut dyn Read| {
        let mut line = [0; 4];
        client.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"old\n");
    };
    let mut first = unix(&directory, "gone");
    said(&mut first);
    let mut waits: Vec<_> = (0..3).map(|_| unix(&directory, "gone")).collect();
    let mut by_port = connect(local(port));
    skd.wait_for_log("the only slot is taken");
    reload(&skd, &directory, &stay, [0, 1, 0, 1]);
    assert!(is_refused(&directory, "gone"));
    // While it retires, other reloads and upgrades come.
    let other = service("other", "");
    reload(&skd, &directory, &(stay.clone() + &other), [1, 0, 0, 1]);
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("Upgraded from");
    echo(&mut first, b"still");
    assert!(!tcp_listeners(&skd).is_empty());
    drop(first);
    for mut client in waits.drain(..) {
        said(&mut client);
        echo(&mut client, b"served");
    }
    said(&mut by_port);
    echo(&mut by_port, b"served");
    drop(by_port);
    skd.wait_until("its listeners are closed", || {
        tcp_listeners(&skd).is_empty() && skd.logged("Closed ").len() >= 2
    });
    let refused = TcpStream::connect(local(port)).map_err(|reason| reason.kind());
    assert_eq!(refused.err(), Some(ErrorKind::ConnectionRefused));
    // Nothing is left of it for the next process.
    skd.wait_until("its handlers have ended", || skd.children().is_empty());
    let with = Holdings::of(&skd);
    reload(&skd, &directory, &(stay.clone() + &other), [0, 0, 0, 2]);
    skd.wait_until("descriptors are as before", || {
        Holdings::of(&skd).descriptors <= with.descriptors
    });
    assert_eq!(talk(unix(&directory, "stay"), b"stay"), b"stay");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_service_that_comes_back_takes_the_socket_that_was_about_to_close() {
    let directory = Directory::new();
    let port = free_port();
    let stay = service("stay", "");
    let gone = format!(
        "[service.gone]\ntcp = \"127.0.0.1:{port}\"\nunix = \"DIR/gone\"\nmax-clients = 1\n\
         command = [\"cat\"]\n"
    );
    let skd = start(&directory, &(stay.clone() + &gone), 3);
    let mut first = connect(local(port));
    echo(&mut first, b"first");
    let mut waits = connect(local(port));
    let mut waits_too = unix(&directory, "gone");
    skd.wait_for_log("the only slot is taken");
    let bound = tcp_listeners(&skd);
    reload(&skd, &directory, &stay, [0, 1, 0, 1]);
    reload(&skd, &directory, &(stay + &gone), [1, 0, 0, 1]);
    assert_eq!(tcp_listeners(&skd), bound);
    let mut new = connect(local(port));
    let mut new_too = unix(&directory, "gone");
    drop(first);
    echo(&mut waits, b"waited");
    drop(waits);
    echo(&mut new, b"new");
    drop(new);
    echo(&mut waits_too, b"of the old socket");
    echo(&mut new_too, b"of the new socket");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_listener_that_is_gone_from_a_service_serves_its_backlog() {
    let directory = Directory::new();
    let port = free_port();
    let one = "[service.one]\nunix = \"DIR/one\"\nmax-clients = 1\ncommand = [\"cat\"]\n";
    let both = format!("{one}tcp = \"127.0.0.1:{port}\"\n");
    let skd = start(&directory, &both, 2);
    let mut first = connect(local(port));
    echo(&mut first, b"first");
    let mut waits = connect(local(port));
    skd.wait_for_log("the only slot is taken");
    reload(&skd, &directory, one, [0, 0, 1, 0]);
    let mut other = unix(&directory, "one");
    echo(&mut first, b"still");
    // The slot of its handler counts.
    assert_eq!(skd.wait_for_children(1).len(), 1);
    drop(first);
    echo(&mut waits, b"served");
    drop(waits);
    echo(&mut other, b"other");
    skd.wait_until("the listener is closed", || tcp_listeners(&skd).is_empty());
    let refused = TcpStream::connect(local(port)).map_err(|reason| reason.kind());
    assert_eq!(refused.err(), Some(ErrorKind::ConnectionRefused));
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_backlog_has_the_rules_that_its_service_had() {
    let directory = Directory::new();
    directory.write("rules", "deny uid=1\nallow all\n");
    let stay = service("stay", "");
    let old = "[service.one]\nunix = \"DIR/old\"\nmax-clients = 1\nrules = \"DIR/rules\"\n\
               command = [\"cat\"]\n";
    let skd = start(&directory, &(stay.clone() + old), 2);
    let mut first = unix(&directory, "old");
    echo(&mut first, b"first");
    let waits = unix(&directory, "old");
    skd.wait_for_log("the only slot is taken");
    // They aren't read again.
    fs::remove_file(directory.join("rules")).unwrap();
    // Of this one, skd can't serve clients of the old socket.
    let new = "[service.one]\nunix = \"DIR/new\"\nwait = true\ncommand = [\"sleep\", \"0\"]\n";
    reload(&skd, &directory, &(stay + new), [0, 0, 1, 1]);
    drop(first);
    assert_eq!(talk(waits, b"second"), b"second");
    skd.wait_for_log("Closed unix");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn datagrams_and_wait_mode_end_with_their_service_too() {
    let directory = Directory::new();
    let stay = service("stay", "");
    let others = "[service.peers]\nudp = \"127.0.0.1:0\"\ndatagram-mode = \"per-peer\"\n\
                  command = [\"cat\"]\n\
                  [service.packets]\nudp = \"127.0.0.1:0\"\ndatagram-mode = \"per-packet\"\n\
                  command = [\"cat\"]\n\
                  [service.wait]\nunix = \"DIR/wait\"\nwait = true\n\
                  command = [\"sleep\", \"1000\"]\n\
                  [service.idle]\nunix = \"DIR/idle\"\nwait = true\ncommand = [\"cat\"]\n";
    let skd = start(&directory, &(stay.clone() + others), 5);
    skd.wait_until("ports are printed", || skd.stdout_lines().len() == 2);
    let ports = skd.stdout_lines();
    let ports = ports.iter().map(|line| line.trim().parse().unwrap());
    let clients: Vec<_> = ports.map(|port| udp_client(local(port))).collect();
    for client in &clients {
        assert_eq!(ask(client, b"before"), b"before");
    }
    let _waits = unix(&directory, "wait");
    skd.wait_for_children(2);
    reload(&skd, &directory, &(stay.clone() + others), [0, 0, 0, 5]);
    for client in &clients {
        assert_eq!(ask(client, b"after"), b"after");
    }
    let udp = || {
        let found = sockets(skd.pid()).into_iter();
        found.filter(|it| it.kind == Kind::Udp).count()
    };
    reload(&skd, &directory, &stay, [0, 4, 0, 1]);
    skd.wait_until("what has no client is closed", || udp() == 1);
    // A sender that has a handler goes on.
    assert_eq!(ask(&clients[0], b"still"), b"still");
    assert!(inode(&skd, &directory, "idle").is_none());
    let handlers = skd.wait_for_children(2);
    reload(&skd, &directory, &stay, [0, 0, 0, 1]);
    assert_eq!(ask(&clients[0], b"still"), b"still");
    assert_eq!(skd.wait_for_children(2), handlers);
    assert_eq!(udp(), 1);
    // Again, as new ones: that with a sender keeps its socket for as long.
    reload(&skd, &directory, &(stay + others), [4, 0, 0, 1]);
    assert_eq!(udp(), 3);
    let _waits = unix(&directory, "wait");
    skd.wait_for_children(3);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn counts_of_sources_and_lower_limits_hold_over_a_reload() {
    let directory = Directory::new();
    let text = |limit: usize, per_source: usize| {
        format!(
            "[service.one]\nunix = \"DIR/one\"\nmax-clients = {limit}\nat-max = \"close\"\n\
             command = [\"cat\"]\n\
             [service.two]\nunix = \"DIR/two\"\nmax-per-source = {per_source}\n\
             command = [\"cat\"]\n"
        )
    };
    let skd = start(&directory, &text(2, 2), 2);
    let mut clients: Vec<_> = ["one", "one", "two", "two"]
        .map(|name| unix(&directory, name))
        .into();
    let served = |name: &str| try_talk(unix(&directory, name), b"x").is_ok_and(|it| it == b"x");
    for client in &mut clients {
        echo(client, b"before");
    }
    for (difference, limit) in [([0, 0, 0, 2], 2), ([0, 0, 2, 0], 1), ([0, 0, 2, 0], 3)] {
        reload(&skd, &directory, &text(limit, limit), difference);
        for client in &mut clients {
            echo(client, b"after");
        }
        for name in ["one", "two"] {
            assert_eq!(served(name), limit > 2, "{name} {limit}");
        }
        skd.wait_for_children(4);
    }
    reload(&skd, &directory, &text(1, 1), [0, 0, 2, 0]);
    // Of two handlers, the end of the first makes no room.
    drop((clients.remove(2), clients.remove(0)));
    skd.wait_for_children(2);
    assert!(!served("one") && !served("two"));
    drop(clients);
    skd.wait_for_children(0);
    for name in ["one", "two"] {
        // A slot is free a moment after its handler was reaped.
        skd.wait_until("there is room", || served(name));
    }
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn token_buckets_hold_over_a_reload() {
    let directory = Directory::new();
    let text = "[service.all]\nunix = \"DIR/all\"\nrate = \"2/h:2\"\nat-rate = \"close\"\n\
                command = [\"cat\"]\n\
                [service.each]\nunix = \"DIR/each\"\nrate-per-source = \"2/h:2\"\n\
                at-rate = \"close\"\ncommand = [\"cat\"]\n\
                [service.half]\nunix = \"DIR/half\"\nrate = \"2/h:2\"\nat-rate = \"close\"\n\
                command = [\"cat\"]\n";
    let skd = start(&directory, text, 3);
    let served = |name: &str| try_talk(unix(&directory, name), b"x").is_ok_and(|it| it == b"x");
    for name in ["all", "each"] {
        assert_eq!(
            [served(name), served(name), served(name)],
            [true, true, false]
        );
    }
    assert!(served("half"));
    for _ in 0..2 {
        reload(&skd, &directory, text, [0, 0, 0, 3]);
        assert!(!served("all") && !served("each"));
    }
    assert!(served("half") && !served("half"));
    // A bucket that was emptied at another rate is empty, and fills up in the new time.
    let fast = text.replace("2/h:2", "20/s:1");
    reload(&skd, &directory, &fast, [0, 0, 3, 0]);
    for name in ["all", "each"] {
        skd.wait_until("there is a token", || served(name));
    }
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn pending_clients_survive() {
    let directory = Directory::new();
    let text = |more: &str| {
        format!(
            "[service.byte]\nunix = \"DIR/byte\"\nfirst-byte = \"1h\"\ncommand = [\"cat\"]\n\
             [service.slot]\nunix = \"DIR/slot\"\nmax-clients = 1\nat-max = \"queue:1h\"\n\
             rate-per-source = \"2/h:2\"\ncommand = [\"cat\"]\n{more}"
        )
    };
    let skd = start(&directory, &text(""), 2);
    let mut silent = unix(&directory, "byte");
    let mut first = unix(&directory, "slot");
    echo(&mut first, b"first");
    let mut waits = unix(&directory, "slot");
    waits.write_all(b"half of ").unwrap();
    skd.wait_for_log("the only slot is taken");
    for round in 0..3 {
        let more = service(&format!("more{round}"), "");
        configure(&directory, &text(&more));
        let line = skd.hang_up();
        assert!(line.starts_with("Reloaded: 1 service added"), "{line}");
    }
    // Without limits, they are served at once.
    let bare = service("byte", "") + &service("slot", "");
    reload(&skd, &directory, &bare, [0, 1, 2, 0]);
    waits.write_all(b"a request").unwrap();
    let mut answer = [0; 17];
    waits.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"half of a request");
    echo(&mut silent, b"first byte");
    echo(&mut first, b"still");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn pending_clients_go_with_their_listener_to_a_service_without_limits() {
    let directory = Directory::new();
    let text = |name: &str, more: &str| {
        format!("[service.{name}]\nunix = \"DIR/socket\"\n{more}command = [\"cat\"]\n")
    };
    let skd = start(&directory, &text("old", "first-byte = \"1h\"\n"), 1);
    let mut silent = unix(&directory, "socket");
    // Accepted after that.
    echo(&mut unix(&directory, "socket"), b"second");
    reload(&skd, &directory, &text("new", ""), [1, 1, 0, 0]);
    echo(&mut silent, b"still here");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn pending_clients_of_a_service_that_is_gone_survive_more_reloads() {
    let directory = Directory::new();
    let port = free_port();
    let stay = service("stay", "");
    let gone = format!(
        "[service.gone]\nunix = \"DIR/gone\"\ntcp = \"127.0.0.1:{port}\"\nfirst-byte = \"1h\"\n\
         command = [\"cat\"]\n"
    );
    let skd = start(&directory, &(stay.clone() + &gone), 3);
    let mut silent = [unix(&directory, "gone"), unix(&directory, "gone")];
    let mut by_port = connect(local(port));
    for mut second in [connect(local(port)), connect(local(port))] {
        // Accepted after that.
        echo(&mut second, b"second");
    }
    reload(&skd, &directory, &stay, [0, 1, 0, 1]);
    assert!(is_refused(&directory, "gone"));
    for _ in 0..3 {
        reload(&skd, &directory, &stay, [0, 0, 0, 1]);
    }
    silent.iter_mut().for_each(|it| echo(it, b"a byte"));
    echo(&mut by_port, b"a byte");
    // And only then.
    skd.wait_for_logs("Closed unix", 1);
    skd.wait_for_logs("Closed TCP", 1);
    drop((silent, by_port));
    reload(&skd, &directory, &stay, [0, 0, 0, 1]);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn the_process_that_goes_on_reads_no_file() {
    requires_command("strace");
    let directory = Directory::new();
    let trace = directory.name("trace");
    directory.write("rules", "allow all\n");
    let text = service("one", "rules = \"DIR/rules\"") + &service("two", "deny = \"uid=nobody\"");
    let skd = daemon(&directory, &text)
        .wrapper([
            "strace",
            "-f",
            "-qq",
            "-o",
            &trace,
            "-e",
            "trace=openat,openat2",
        ])
        .start_bare();
    skd.wait_for_logs("Listening on ", 2);
    // Of this process, and of its preflights.
    let own = format!("{} ", skd.pid());
    let reads = |file: &str, by_itself: bool| {
        let trace = directory.read("trace");
        let reads = trace.lines().filter(|line| line.contains(file));
        reads
            .filter(|line| line.starts_with(&own) == by_itself)
            .count()
    };
    let files = ["\"skd.toml\"", "\"rules\"", "\"/etc/passwd\""];
    let started = files.map(|file| reads(file, true));
    let new = text + &service("new", "rules = \"DIR/rules\"");
    reload(&skd, &directory, &new, [1, 0, 0, 2]);
    for name in ["one", "new"] {
        assert_eq!(talk(unix(&directory, name), b"served"), b"served");
    }
    for (file, started) in files.iter().zip(started) {
        assert_eq!(reads(file, true), started, "{file}");
        assert!(reads(file, false) > 0, "{file}");
    }
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_process_that_fails_after_its_preflight_goes_back_to_the_old_files() {
    requires_command("strace");
    let directory = Directory::new();
    let trace = directory.name("trace");
    let text = service("one", "") + &prints("other", "old");
    // The start binds two sockets, and the process that goes on binds the third.
    let skd = daemon(&directory, &text)
        .wrapper(
            [
                &["strace", "-f", "-qq", "-o", &trace][..],
                &["-e", "trace=bind,openat,openat2"],
                &["-e", "inject=bind:error=EACCES:when=3"],
            ]
            .concat(),
        )
        .start_bare();
    skd.wait_for_logs("Listening on ", 2);
    let mut client = unix(&directory, "one");
    echo(&mut client, b"before");
    let handlers = skd.wait_for_children(1);
    let bound = inode(&skd, &directory, "one");
    let own = format!("{} ", skd.pid());
    let reads = || {
        let trace = directory.read("trace");
        let reads = trace.lines().filter(|line| line.starts_with(&own));
        reads.filter(|line| line.contains("skd.toml\"")).count()
    };
    let started = reads();
    let new = service("one", "") + &prints("other", "new") + &service("new", "");
    configure(&directory, &new);
    assert_eq!(
        skd.hang_up(),
        "skd: no reload: what the files say couldn't be served after all; nothing has changed"
    );
    skd.wait_for_log("service new: --unix");
    assert_eq!(talk(unix(&directory, "other"), b""), b"old");
    echo(&mut client, b"after");
    assert_eq!(skd.wait_for_children(1), handlers);
    assert_eq!(inode(&skd, &directory, "one"), bound);
    assert!(!directory.join("new").exists());
    assert_eq!(reads(), started);
    // The fourth is made.
    assert_eq!(
        skd.hang_up(),
        "Reloaded: 1 service added, 0 removed, 1 changed, 1 unchanged"
    );
    assert_eq!(talk(unix(&directory, "new"), b"new"), b"new");
    assert_eq!(talk(unix(&directory, "other"), b""), b"new");
    // strace(1) ends with the last that it traces.
    drop(client);
    skd.wait_for_children(0);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn what_a_running_process_cannot_change_is_refused() {
    let directory = Directory::new();
    let one = service("one", "");
    let text = |daemon: &str| format!("[daemon]\n{daemon}\n{one}");
    let skd = start(&directory, &text("pidfile = \"DIR/pid\""), 1);
    for (daemon, what) in [
        (
            "pidfile = \"DIR/other\"",
            "skd.toml:2:11: [daemon] pidfile has changed",
        ),
        ("", "skd: [daemon] pidfile has changed"),
        (
            "pidfile = \"DIR/pid\"\nlog = \">DIR/log\"",
            "skd.toml:3:7: [daemon] log has changed",
        ),
        (
            "pidfile = \"DIR/pid\"\nbackground = true",
            "skd.toml:3:14: [daemon] background has",
        ),
    ] {
        configure(&directory, &text(daemon));
        let before = skd.log_lines().len();
        assert_eq!(skd.hang_up(), NO_RELOAD, "{daemon}");
        let lines = skd.log_lines();
        let said = lines[before..].iter().find(|it| it.contains("restart skd"));
        assert!(
            said.is_some_and(|line| line.contains(what)),
            "{daemon}: {lines:#?}"
        );
    }
    // Threads are made anew anyway.
    let threads = text("pidfile = \"DIR/pid\"\nthreads = 2");
    reload(&skd, &directory, &threads, [0, 0, 0, 1]);
    let workers = || {
        let threads = crate::harness::threads(skd.pid()).into_iter();
        threads
            .filter(|(_, name)| name.starts_with("accept-"))
            .count()
    };
    skd.wait_until("there are two workers", || workers() == 2);
    assert_eq!(talk(unix(&directory, "one"), b"served"), b"served");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn settings_of_a_bound_socket_change_or_are_refused() {
    let directory = Directory::new();
    let port = free_port();
    let text = |unix: &str, tcp: &str| {
        format!(
            "[service.file]\nunix = \"DIR/file\"\ncommand = [\"cat\"]\n{unix}\n\
             [service.port]\ntcp = \"127.0.0.1:{port}\"\ncommand = [\"cat\"]\n{tcp}\n"
        )
    };
    let skd = start(&directory, &text("", "backlog = 7"), 2);
    let bound = (inode(&skd, &directory, "file"), tcp_listeners(&skd));
    let mode = || {
        fs::metadata(directory.join("file"))
            .unwrap()
            .permissions()
            .mode()
            & 0o777
    };
    reload(
        &skd,
        &directory,
        &text("unix-mode = \"600\"", "nodelay = true\ntos = 16"),
        [0, 0, 2, 0],
    );
    assert_eq!(mode(), 0o600);
    reload(
        &skd,
        &directory,
        &text("unix-mode = \"660\"", ""),
        [0, 0, 2, 0],
    );
    assert_eq!(mode(), 0o660);
    assert_eq!(
        (inode(&skd, &directory, "file"), tcp_listeners(&skd)),
        bound
    );
    refused(
        &skd,
        &directory,
        &text("unix-mode = \"660\"", "reuse-port = true"),
        &["--reuse-port of TCP"],
    );
    refused(
        &skd,
        &directory,
        &text(
            "unix-mode = \"600\"",
            "receive-buffer = 10000\nfreebind = true",
        ),
        &["--freebind of TCP"],
    );
    assert_eq!(mode(), 0o660);
    assert_eq!(talk(connect(local(port)), b"served"), b"served");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn rights_that_were_given_up_are_missing_in_a_reload_as_at_a_start() {
    requires_root();
    let directory = Directory::public();
    directory.chmod("", 0o777);
    let one = service("one", "");
    let daemon_user = format!("[daemon]\nuser = \"65534:65534\"\n{one}");
    let skd = start(&directory, &daemon_user, 1);
    let low = "[service.low]\ntcp = \"127.0.0.1:1\"\ncommand = [\"cat\"]\n";
    refused(
        &skd,
        &directory,
        &(daemon_user.clone() + low),
        &["service low: --tcp 127.0.0.1:1: can't bind"],
    );
    refused(
        &skd,
        &directory,
        &(daemon_user.clone() + &service("two", "user = \"65533:65533\"")),
        &["can't be used with --daemon-user"],
    );
    configure(&directory, &one);
    assert_eq!(skd.hang_up(), NO_RELOAD);
    skd.wait_for_log("[daemon] user has changed");
    assert_eq!(talk(unix(&directory, "one"), b"one"), b"one");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn users_of_services_come_and_go_while_skd_stays_root() {
    requires_root();
    let directory = Directory::public();
    let id = "[service.id]\nunix = \"DIR/id\"\ncommand = [\"id\", \"-u\"]\n";
    let user = |name: &str| format!("{id}user = \"{name}\"\nlimit = \"core=0\"\n");
    let skd = start(&directory, id, 1);
    let who = || String::from_utf8(talk(unix(&directory, "id"), b"")).unwrap();
    assert_eq!(who(), "0\n");
    reload(&skd, &directory, &user("65534:65534"), [0, 0, 1, 0]);
    assert_eq!(who(), "65534\n");
    let rights = crate::harness::capabilities(skd.pid(), "CapEff");
    reload(&skd, &directory, &user("65533:65533"), [0, 0, 1, 0]);
    assert_eq!(who(), "65533\n");
    assert_eq!(crate::harness::capabilities(skd.pid(), "CapEff"), rights);
    // The exec gives root its rights back, with which a socket is bound that takes some.
    let low = "[service.low]\ntcp = \"127.0.0.1:1\"\ncommand = [\"cat\"]\n\
               user = \"65534:65534\"\n";
    reload(&skd, &directory, &(user("65533:65533") + low), [1, 0, 0, 1]);
    assert_eq!(talk(connect(local(1)), b"low"), b"low");
    assert_eq!(crate::harness::capabilities(skd.pid(), "CapEff"), rights);
    reload(&skd, &directory, id, [0, 1, 1, 0]);
    assert_eq!(who(), "0\n");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn in_another_root_directory_only_rules_are_read_again() {
    requires_root();
    let directory = Directory::public();
    directory.install(&["/bin/cat"]);
    directory.write("rules", "allow all\n");
    let text = format!(
        "[daemon]\nuser = \"65534:65534\"\nchroot = \"DIR/.\"\n\
         [service.one]\ntcp = \"127.0.0.1:0\"\nrules = \"DIR/rules\"\ncommand = [\"{}\"]\n",
        "/bin/cat"
    );
    let skd = start(&directory, &text, 1);
    let port = skd.stdout_line().trim().parse().unwrap();
    let line = skd.hang_up();
    assert!(
        line.contains("no reload: skd has entered another root directory"),
        "{line}"
    );
    skd.wait_for_log("Read 1 rule again");
    assert_eq!(talk(connect(local(port)), b"served"), b"served");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn hup_during_a_reload_is_obeyed_afterwards_and_ready_is_told_once() {
    let directory = Directory::new();
    let manager = ServiceManager::new();
    let skd = daemon(&directory, &service("one", "")).env("NOTIFY_SOCKET", manager.address());
    let skd = skd.start_bare();
    manager.wait_for("READY=1");
    for round in 0..5 {
        let told = manager.notices().len();
        configure(
            &directory,
            &(service("one", "") + &service("two", &format!("umask = \"{round:03}\""))),
        );
        let reloads = skd.logged("Reloaded").len();
        for _ in 0..=round {
            skd.signal(Signal::SIGHUP);
            thread::sleep(Duration::from_millis(2));
        }
        skd.wait_for_logs("Reloaded", reloads + 1);
        skd.wait_until("all is said", || {
            let notices = manager.notices();
            let count = |text: &str| {
                let notices = notices[told..].iter();
                notices.filter(|it| it.text.contains(text)).count()
            };
            count("READY=1") > 0 && notices.last().is_some_and(|it| it.text.contains("READY=1"))
        });
        assert_eq!(talk(unix(&directory, "two"), b"two"), b"two");
    }
    // A reload that fails is over, too.
    configure(&directory, "[service.one]\n");
    let told = manager.told("READY=1").len();
    assert_eq!(skd.hang_up(), NO_RELOAD);
    manager.wait_for_more("READY=1", told + 1);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn usr2_reads_files_too_and_a_reload_takes_no_new_binary() {
    let directory = Directory::new();
    let binary = directory.join("skd");
    // By another process: while this one has a file open for writing, an exec of it would fail.
    let mut install = Command::new("install");
    let install = install.arg(env!("CARGO_BIN_EXE_skd")).arg(&binary);
    assert!(install.status().unwrap().success());
    let skd = daemon(&directory, &service("one", "")).binary(&binary);
    let skd = skd.start_bare();
    skd.wait_for_log("Listening on ");
    configure(&directory, &(service("one", "") + &service("two", "")));
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("Upgraded from skd ");
    skd.wait_for_log("Reloaded: 1 service added, 0 removed, 0 changed, 1 unchanged");
    assert_eq!(talk(unix(&directory, "two"), b"two"), b"two");
    // A package is replaced, with something that doesn't work.
    fs::remove_file(&binary).unwrap();
    directory.script("skd", "#!/bin/sh\nexit 1\n");
    reload(&skd, &directory, &service("one", ""), [0, 1, 0, 1]);
    assert!(is_refused(&directory, "two"));
    fs::remove_file(&binary).unwrap();
    reload(
        &skd,
        &directory,
        &(service("one", "") + &service("two", "")),
        [1, 0, 0, 1],
    );
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn an_inherited_socket_goes_on_until_it_is_gone() {
    let directory = Directory::new();
    let stay = service("stay", "");
    let given = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = given.local_addr().unwrap();
    let own = given.try_clone().unwrap();
    let text = |name: &str, number: i32| {
        format!("{stay}[service.{name}]\nlisten-fd = {number}\ncommand = [\"cat\"]\n")
    };
    let skd = daemon(&directory, &text("given", 3)).descriptor(3, own);
    let skd = skd.start_bare();
    skd.wait_for_logs("Listening on ", 2);
    for (name, difference) in [("given", [0, 0, 0, 2]), ("renamed", [1, 1, 0, 1])] {
        reload(&skd, &directory, &text(name, 3), difference);
        assert_eq!(talk(connect(address), b"served"), b"served");
    }
    let faults = ["service other: --listen-fd 5: sockets can be inherited by a start alone"];
    let other = "[service.other]\nlisten-fd = 5\ncommand = [\"cat\"]\n";
    refused(&skd, &directory, &(text("renamed", 3) + other), &faults);
    reload(&skd, &directory, &stay, [0, 1, 0, 1]);
    assert!(tcp_listeners(&skd).is_empty());
    // The other program that has it serves its clients.
    let mut client = connect(address);
    let (mut accepted, _) = given.accept().unwrap();
    accepted.write_all(b"by another").unwrap();
    drop(accepted);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "by another");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn names_are_those_of_the_preflight() {
    requires_root();
    requires_command("strace");
    let directory = Directory::new();
    let trace = directory.name("trace");
    let text = "[service.one]\nunix = \"DIR/one\"\nunix-owner = \"nobody\"\nallow = \"uid=nobody\"\n\
                command = [\"cat\"]\n\
                [service.named]\ntcp = \"localhost:discard\"\ncommand = [\"cat\"]\n";
    let skd = daemon(&directory, text)
        .wrapper([
            "strace",
            "-f",
            "-qq",
            "-o",
            &trace,
            "-e",
            "trace=openat,openat2",
        ])
        .start_bare();
    skd.wait_for_log("Listening on TCP [127.0.0.1]:9");
    let bound = (inode(&skd, &directory, "one"), tcp_listeners(&skd));
    let owner = || fs::metadata(directory.join("one")).unwrap().uid();
    let uid = owner();
    assert_ne!(uid, 0);
    let own = format!("{} ", skd.pid());
    let reads = || {
        let trace = directory.read("trace");
        let reads = trace.lines().filter(|line| line.starts_with(&own));
        let files = ["/etc/passwd", "/etc/services", "/etc/hosts"];
        files.map(|file| reads.clone().filter(|line| line.contains(file)).count())
    };
    let started = reads();
    reload(&skd, &directory, text, [0, 0, 0, 2]);
    let more = format!("{text}[service.more]\nunix = \"DIR/more\"\nunix-owner = \"nobody\"\n");
    reload(
        &skd,
        &directory,
        &(more + "command = [\"cat\"]\n"),
        [1, 0, 0, 2],
    );
    assert_eq!((inode(&skd, &directory, "one"), tcp_listeners(&skd)), bound);
    assert_eq!(owner(), uid);
    assert_eq!(fs::metadata(directory.join("more")).unwrap().uid(), uid);
    assert_eq!(reads(), started);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn prestarted_handlers_of_an_unchanged_service_stay() {
    let directory = Directory::new();
    let warm = |more: &str| service("warm", &format!("warm = 2\n{more}"));
    let skd = start(&directory, &warm(""), 1);
    let ready = || {
        skd.wait_until("two are ready", || parked(skd.pid()).len() == 2);
        let mut ready = parked(skd.pid());
        ready.sort_unstable();
        ready
    };
    let before = ready();
    reload(
        &skd,
        &directory,
        &(warm("") + &service("more", "")),
        [1, 0, 0, 1],
    );
    assert_eq!(ready(), before);
    assert_eq!(talk(unix(&directory, "warm"), b"warm"), b"warm");
    let before = ready();
    reload(&skd, &directory, &warm("umask = \"077\""), [0, 1, 1, 0]);
    skd.wait_until("the others have ended", || {
        let now = parked(skd.pid());
        now.len() == 2 && before.iter().all(|pid| !now.contains(pid))
    });
    assert_eq!(talk(unix(&directory, "warm"), b"warm"), b"warm");
    reload(&skd, &directory, &service("other", ""), [1, 1, 0, 0]);
    skd.wait_until("none is left", || skd.children().is_empty());
    assert_eq!(skd.stop().code(), Some(0));
}

/// Reads the log on, and returns the next line about a reload.
fn next_told(log: &mut File, unread: &mut String) -> String {
    let told = poll_for(3 * DEADLINE, || {
        log.read_to_string(unread).unwrap();
        while let Some(end) = unread.find('\n') {
            let rest = unread.split_off(end + 1);
            let line = std::mem::replace(unread, rest);
            let is_it = line.contains("Reloaded: ") || line.contains("no reload: ");
            if is_it {
                return Some(line);
            }
        }
        None
    });
    told.unwrap()
}

/// Makes so many reloads, each of which adds, removes and changes a service after a broken one, while clients
/// of other services connect as fast as they can.
fn under_load(reloads: usize) {
    let directory = Directory::new();
    let port = free_port();
    let text = |round: usize, broken: bool| {
        let program = if broken { "/no/such/program" } else { "cat" };
        [
            format!("[service.port]\ntcp = \"127.0.0.1:{port}\"\ncommand = [\"cat\"]\n"),
            service("file", "max-per-source = 100"),
            format!(
                "[service.changes]\nunix = \"DIR/changes\"\ncommand = [\"cat\"]\n\
                 env = {{ ROUND = \"{round}\" }}\n"
            ),
            service("byte", "first-byte = \"1h\""),
            format!("[service.r{round}]\nunix = \"DIR/r{round}\"\ncommand = [\"{program}\"]\n"),
        ]
        .concat()
    };
    let log = directory.name("log");
    configure(&directory, &text(0, false));
    let file = directory.name("skd.toml");
    let skd = Skd::new(["-v", "-L", &format!(">{log}"), "--config", &file]);
    let skd = skd.throttle(Duration::ZERO).start_bare();
    wait_until("it serves", || {
        UnixStream::connect(directory.join("r0")).is_ok()
    });
    let (figures, over) = (Figures::default(), AtomicBool::new(false));
    let mut stayed = connect(local(port));
    echo(&mut stayed, b"before");
    let mut half = unix(&directory, "byte");
    let mut before = None;
    thread::scope(|scope| {
        let _over = Over(&over);
        for client in 0..4 {
            let (directory, figures, over) = (&directory, &figures, &over);
            scope.spawn(move || {
                for number in 0.. {
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    let text = format!("{client} {number}").into_bytes();
                    let answer = match client {
                        0 | 1 => {
                            TcpStream::connect_timeout(&local(port), DEADLINE).and_then(|it| {
                                it.set_read_timeout(Some(DEADLINE))?;
                                try_talk(it, &text)
                            })
                        }
                        client => {
                            let name = ["file", "changes"][client - 2];
                            UnixStream::connect(directory.join(name)).and_then(|it| {
                                it.set_read_timeout(Some(DEADLINE))?;
                                try_talk(it, &text)
                            })
                        }
                    };
                    figures.count(answer, &text);
                }
            });
        }
        let mut log = File::open(&log).unwrap();
        let mut unread = String::new();
        for round in 1..=reloads {
            configure(&directory, &text(round, true));
            skd.signal(Signal::SIGHUP);
            let line = next_told(&mut log, &mut unread);
            assert!(
                line.contains("no reload: what the files say"),
                "{round}: {line}"
            );
            // Clients of the service that will be gone, some of whom are still in its backlog then.
            let last = format!("r{}", round - 1);
            let last: Vec<_> = (0..5).map(|_| unix(&directory, &last)).collect();
            configure(&directory, &text(round, false));
            skd.signal(Signal::SIGHUP);
            let line = next_told(&mut log, &mut unread);
            let said = "Reloaded: 1 service added, 1 removed, 1 changed, 3 unchanged";
            assert!(line.contains(said), "{round}: {line}");
            for client in last {
                figures.count(try_talk(client, b"last"), b"last");
            }
            let new = unix(&directory, &format!("r{round}"));
            figures.count(try_talk(new, b"new"), b"new");
            let connections = figures.right.load(Ordering::Relaxed);
            wait_until("there are connections between two reloads", || {
                figures.right.load(Ordering::Relaxed) > connections + 10
            });
            if round == 3 {
                before = Some(Holdings::of(&skd));
            }
        }
    });
    println!("{reloads} reloads: {figures:?}");
    let said = fs::read_to_string(&log).unwrap();
    let fault = format!("service r{reloads}: '/no/such/program' can't be run");
    assert!(said.contains(&fault), "a fault isn't in the log");
    for lost in [&figures.wrong, &figures.refused, &figures.reset] {
        assert_eq!(lost.load(Ordering::Relaxed), 0, "{figures:?}");
    }
    echo(&mut stayed, b"after");
    echo(&mut half, b"the first byte");
    drop((stayed, half));
    skd.wait_until("all are reaped", || skd.children().is_empty());
    skd.wait_until("no zombie is left", || zombies(skd.pid()).is_empty());
    // The last reload has left a service that was removed.
    skd.signal(Signal::SIGHUP);
    wait_until("it was read again", || {
        let log = fs::read_to_string(Path::new(&log)).unwrap();
        log.contains("0 services added, 0 removed, 0 changed, 5 unchanged")
    });
    wait_asleep(skd.pid());
    let now = Holdings::of(&skd);
    println!("after 3 reloads, under load: {before:?}; at the end: {now:?}");
    let before = before.unwrap();
    assert!(now.descriptors <= before.descriptors, "{before:?} {now:?}");
    // Under load there may have been one more for a moment.
    assert!(now.threads <= before.threads, "{before:?} {now:?}");
    assert!(now.kib <= before.kib + 512, "{before:?} {now:?}");
    assert_eq!(skd.stop().code(), Some(0));
    for entry in fs::read_dir(directory.path()).unwrap() {
        let kind = entry.unwrap().file_type().unwrap();
        assert!(kind.is_file(), "a socket is left");
    }
}

#[test]
fn ten_reloads_under_load_lose_no_client() {
    under_load(10);
}

#[test]
#[ignore = "takes minutes"]
fn a_hundred_reloads_under_load_lose_no_client() {
    under_load(100);
}
