//! skd-tls as skd keeps it: its start, its crash, reload, upgrade, drain and end.

use crate::harness::{
    Control, DEADLINE, Directory, Instance, Leaf, Pki, Running, Skd, TlsClient, command, exists,
    ids, is_in_call, poll_for, requires_root, session, skd_tls, status_field, wait_for, wait_until,
    zombies,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const NOBODY: u32 = 65_534;

/// A service with TLS at a port, by a certificate of this authority.
fn service(pki: &Pki) -> Skd {
    skd_tls();
    Skd::new(["-v", "-t", "127.0.0.1:0", "--tls", &pki.option("server")]).throttle(Duration::ZERO)
}

/// The processes of skd-tls.
fn servers(skd: &Instance) -> Vec<i32> {
    let is_server = |pid: &i32| {
        let words = command(*pid);
        words.get(1).is_some_and(|word| word == "--serve")
    };
    skd.children().into_iter().filter(is_server).collect()
}

#[track_caller]
fn server(skd: &Instance) -> i32 {
    let servers = servers(skd);
    assert_eq!(servers.len(), 1, "{servers:?}");
    servers[0]
}

#[track_caller]
fn wait_for_other_server(skd: &Instance, than: i32) -> i32 {
    wait_for("another skd-tls", || {
        let servers = servers(skd);
        (servers.len() == 1 && servers[0] != than).then(|| servers[0])
    })
}

fn end_by_kill(pid: i32) {
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
}

/// Puts another certificate in the place of the one of the server, as programs do that renew it. Returns its serial
/// number as Python has it.
fn renew(pki: &Pki, name: &str) -> String {
    pki.sign(
        name,
        Leaf {
            names: "DNS:localhost",
            ..Default::default()
        },
    );
    for end in ["pem", "key"] {
        let from = pki.path(&format!("{name}.{end}"));
        fs::rename(from, pki.path(&format!("server.{end}"))).unwrap();
    }
    let output = Command::new("openssl")
        .args(["x509", "-noout", "-serial", "-in", &pki.name("server.pem")])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.trim().strip_prefix("serial=").unwrap().to_owned()
}

#[test]
fn skd_tls_runs_beside_skd_with_nothing_but_its_channels() {
    requires_root();
    let pki = Pki::with_server();
    let skd = service(&pki).run("cat");
    let pid = server(&skd);
    assert_eq!(command(pid), [skd_tls().to_str().unwrap(), "--serve"]);
    // A terminal's signals don't reach it.
    assert_eq!(session(pid), Some(pid));
    assert!(!ids(pid).0.contains(&0), "{:?}", ids(pid));
    assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        kill(Pid::from_raw(pid), signal).unwrap();
    }
    let client = TlsClient::new(&pki);
    client.connect("a", skd.port());
    client.echo("a");
    assert_eq!(client.ask("finish a"), "close_notify");
    assert_eq!(server(&skd), pid);
    assert_eq!(skd.troubles(), [""; 0]);
}

#[test]
fn a_start_with_files_that_cant_be_used_fails_and_leaves_nothing() {
    let pki = Pki::with_server();
    pki.sign("other", Leaf::default());
    skd_tls();
    let key = pki.name("other.key");
    let wrong = format!("{}:{key}", pki.name("server.pem"));
    for background in [&[][..], &["-B"]] {
        let skd = Skd::new(["-t", "127.0.0.1:0", "--tls", &wrong]).args(background);
        let skd = skd.start("cat");
        skd.expect_refusal(1, &["--tls", &key]);
    }
}

#[test]
fn a_program_that_is_no_skd_tls_fails_the_start() {
    let pki = Pki::with_server();
    let directory = Directory::new();
    let script = directory.script("script", "#!/bin/sh\nexit 0\n");
    let script = script.to_str().unwrap();
    for (program, words) in [
        (
            "/bin/false",
            "skd-tls has ended with status 1 before it was ready",
        ),
        (
            script,
            "can't be executed: its dynamic linker isn't there, or it is a script",
        ),
        ("/no/such", "--tls-program /no/such"),
    ] {
        let skd = service(&pki).args(["--tls-program", program]).start("cat");
        skd.expect_refusal(1, &[words]);
    }
}

#[test]
fn after_a_crash_the_next_process_serves_what_has_waited() {
    let pki = Pki::with_server();
    let skd = service(&pki).run("cat");
    let client = TlsClient::new(&pki);
    client.connect("a", skd.port());
    client.echo("a");
    let first = server(&skd);
    end_by_kill(first);
    assert_eq!(client.ask("end a"), "cut");
    skd.wait_for_log("skd: signal 9 has ended skd-tls, and with it all connections with TLS; it is started again in 1 s");
    // It waits in the channel meanwhile.
    client.connect("b", skd.port());
    client.echo("b");
    let second = wait_for_other_server(&skd, first);
    skd.wait_for_log(&format!("Started skd-tls again as pid {second}"));
    wait_until("all are reaped", || zombies(skd.pid()).is_empty());
    end_by_kill(second);
    skd.wait_for_log("it is started again in 2 s");
    assert_eq!(client.ask("end b"), "cut");
    client.connect("c", skd.port());
    assert_eq!(client.ask("finish c"), "close_notify");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn after_root_is_given_up_skd_tls_is_started_again_with_the_open_files() {
    requires_root();
    let pki = Pki::with_server();
    let user = NOBODY.to_string();
    let skd = service(&pki).args(["--daemon-user", &user]).run("cat");
    let first = server(&skd);
    end_by_kill(first);
    let second = wait_for_other_server(&skd, first);
    let client = TlsClient::new(&pki);
    client.connect("a", skd.port());
    client.echo("a");
    assert!(ids(second).0.iter().all(|id| *id == NOBODY));
    // The user that skd has become may not open the key.
    skd.signal(Signal::SIGHUP);
    let line = skd.wait_for_log("certificates and keys stay as they were");
    assert!(line.contains(&pki.name("server.key")), "{line}");
    client.echo("a");
}

#[test]
fn a_new_certificate_is_there_after_a_hangup_and_no_client_is_lost() {
    let pki = Pki::with_server();
    let directory = Directory::new();
    let skd = service(&pki)
        .arg("--control")
        .arg(directory.join("control"));
    let skd = skd.run("cat");
    let client = TlsClient::new(&pki);
    let old = client.connect("long", skd.port());
    let pid = server(&skd);
    let new = renew(&pki, "next");
    assert_ne!(old, new);
    skd.signal(Signal::SIGHUP);
    let found = poll_for(DEADLINE, || {
        let serial = client.connect("a", skd.port());
        client.echo("a");
        assert_eq!(client.ask("finish a"), "close_notify");
        (serial == new).then_some(())
    });
    assert!(found.is_some());
    skd.wait_for_log("Read 2 files of TLS again");
    client.echo("long");
    // What can't be used changes nothing, and is said to who asks.
    fs::write(pki.path("server.pem"), "no certificate\n").unwrap();
    let mut control = Control::of(&directory);
    control.failed(
        json!({"request": "reload"}),
        "failed",
        &pki.name("server.pem"),
    );
    let line = skd.wait_for_log("certificates and keys stay as they were");
    assert!(line.contains(&pki.name("server.pem")), "{line}");
    assert_eq!(client.connect("b", skd.port()), new);
    fs::remove_file(pki.path("server.key")).unwrap();
    control.failed(
        json!({"request": "reload"}),
        "failed",
        &pki.name("server.key"),
    );
    renew(&pki, "third");
    assert_eq!(
        control.done(json!({"request": "reload"})),
        "Reloaded: 2 files of TLS were loaded"
    );
    client.echo("long");
    client.echo("b");
    assert_eq!(server(&skd), pid);
}

#[test]
fn a_process_that_hangs_doesnt_hold_up_skd() {
    let pki = Pki::with_server();
    let skd = service(&pki).run("cat");
    let pid = server(&skd);
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    skd.signal(Signal::SIGHUP);
    skd.signal(Signal::SIGUSR1);
    skd.wait_for_log("skd: counted in ");
    kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    skd.wait_for_log("Read 2 files of TLS again");
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    // Killed, when it has had its time.
    assert_eq!(skd.stop().code(), Some(0));
    wait_until("nothing is left of it", || !exists(pid));
}

#[test]
fn a_late_answer_is_none_to_the_next_load() {
    let pki = Pki::with_server();
    let skd = service(&pki).run("cat");
    let pid = server(&skd);
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    skd.signal(Signal::SIGHUP);
    skd.wait_for_log("skd: skd-tls hasn't loaded the files of TLS within 10 s");
    fs::write(pki.path("server.pem"), "no certificate\n").unwrap();
    skd.signal(Signal::SIGHUP);
    skd.wait_for_logs("skd: skd-tls hasn't loaded the files of TLS within 10 s", 2);
    kill(Pid::from_raw(pid), Signal::SIGCONT).unwrap();
    let refused = format!("{}: ", pki.name("server.pem"));
    skd.wait_for_log(&refused);
    assert!(
        skd.log_lines()
            .iter()
            .all(|line| !line.contains("Read 2 files"))
    );
    let client = TlsClient::new(&pki);
    client.connect("a", skd.port());
    client.echo("a");
}

#[test]
fn the_end_of_skd_is_said_to_all_clients() {
    let pki = Pki::with_server();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let skd = service(&pki).run("cat");
        let client = TlsClient::new(&pki);
        for name in ["a", "b"] {
            client.connect(name, skd.port());
            client.echo(name);
        }
        let pid = server(&skd);
        client.begin("end a");
        skd.signal(signal);
        assert_eq!(client.answer(), "close_notify");
        client.ask("end b");
        skd.wait();
        assert!(!exists(pid));
    }
}

#[test]
fn a_drain_waits_for_clients_with_tls() {
    let pki = Pki::with_server();
    let skd = service(&pki).args(["--drain", "20s"]).run("cat");
    let client = TlsClient::new(&pki);
    client.connect("a", skd.port());
    client.connect("b", skd.port());
    client.echo("b");
    let pid = server(&skd);
    skd.signal(Signal::SIGTERM);
    skd.wait_for_log("Draining: 2 handlers have 20s to end");
    client.echo("a");
    assert_eq!(client.ask("finish a"), "close_notify");
    client.echo("b");
    assert!(exists(pid));
    assert_eq!(client.ask("finish b"), "close_notify");
    assert_eq!(skd.wait().code(), Some(0));
    assert!(!exists(pid));
}

#[test]
fn skd_tls_doesnt_outlive_skd() {
    let pki = Pki::with_server();
    let skd = service(&pki).run("cat");
    let pid = server(&skd);
    skd.signal(Signal::SIGKILL);
    wait_until("skd-tls ends", || !exists(pid));
}

/// A directory with skd and skd-tls, both to be replaced.
fn installed(directory: &Directory) -> PathBuf {
    install(directory, "skd-tls", skd_tls());
    install(directory, "skd", Path::new(env!("CARGO_BIN_EXE_skd")))
}

/// Installs a copy, as a package manager does: written elsewhere, and moved there.
fn install(directory: &Directory, name: &str, from: &Path) -> PathBuf {
    let new = directory.join(format!(".{name}.new"));
    fs::copy(from, &new).unwrap();
    fs::rename(&new, directory.join(name)).unwrap();
    directory.join(name)
}

fn upgradable(directory: &Directory, pki: &Pki) -> Running {
    service(pki).binary(installed(directory)).run("cat")
}

#[track_caller]
fn upgrade(skd: &Instance, times: usize) {
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_logs("Upgraded from skd ", times);
}

#[test]
fn an_upgrade_has_a_new_skd_tls_and_the_old_one_serves_its_last_clients() {
    let pki = Pki::with_server();
    let directory = Directory::new();
    let skd = upgradable(&directory, &pki);
    let client = TlsClient::new(&pki);
    client.connect("a", skd.port());
    client.echo("a");
    assert_eq!(client.ask("keep a s"), "ok");
    let first = server(&skd);
    installed(&directory);
    upgrade(&skd, 1);
    client.echo("a");
    let both = servers(&skd);
    assert!(both.len() == 2 && both.contains(&first), "{both:?}");
    let second = *both.iter().find(|pid| **pid != first).unwrap();
    // Tickets of before are good: the keys are those of all processes.
    let answer = client.ask(&format!("connect b {} s", skd.port()));
    assert!(
        answer.starts_with("ok ") && answer.ends_with(" resumed"),
        "{answer}"
    );
    client.echo("b");
    // Once more, while both have clients.
    upgrade(&skd, 2);
    client.echo("a");
    client.echo("b");
    assert_eq!(servers(&skd).len(), 3);
    assert_eq!(client.ask("finish a"), "close_notify");
    wait_until("the first has ended", || !exists(first));
    assert_eq!(client.ask("finish b"), "close_notify");
    let third = wait_for_other_server(&skd, second);
    client.connect("c", skd.port());
    client.echo("c");
    wait_until("all are reaped", || zombies(skd.pid()).is_empty());
    assert_eq!(skd.troubles(), [""; 0]);
    // A crash is one as ever.
    end_by_kill(third);
    assert_eq!(client.ask("end c"), "cut");
    client.connect("d", skd.port());
    client.echo("d");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn an_upgrade_to_a_skd_tls_that_doesnt_start_is_refused() {
    let pki = Pki::with_server();
    let directory = Directory::new();
    let skd = upgradable(&directory, &pki);
    let client = TlsClient::new(&pki);
    client.connect("a", skd.port());
    let first = server(&skd);
    install(&directory, "skd-tls", Path::new("/bin/false"));
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("skd: no upgrade: ");
    skd.wait_for_log("skd-tls has ended with status 1 before it was ready");
    client.echo("a");
    client.connect("b", skd.port());
    client.echo("b");
    assert_eq!(server(&skd), first);
}

/// Writes a file of services.
fn configure(directory: &Directory, services: &[(&str, &str, &str)]) {
    let mut text = "[daemon]\n".to_owned();
    for (name, port, more) in services {
        text += &format!(
            "[service.{name}]\ncommand = [\"cat\"]\ntcp = [\"127.0.0.1:{port}\"]\n{more}\n"
        );
    }
    directory.write("skd.toml.new", text);
    fs::rename(directory.join("skd.toml.new"), directory.join("skd.toml")).unwrap();
}

fn free_port() -> u16 {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

#[test]
fn a_reload_of_files_adds_changes_and_removes_tls() {
    let pki = Pki::with_server();
    skd_tls();
    let directory = Directory::new();
    let ports = [free_port(), free_port()];
    let [one, two] = ports.map(|port| port.to_string());
    let tls = format!("tls = [\"{}\"]", pki.option("server"));
    configure(&directory, &[("one", &one, "")]);
    let skd = Skd::new(["-vv", "--config", &directory.name("skd.toml")]);
    let skd = skd.throttle(Duration::ZERO).start_bare();
    skd.wait_for_log("Listening on ");
    assert_eq!(servers(&skd), [0; 0]);
    let client = TlsClient::new(&pki);
    // The first service with TLS.
    configure(&directory, &[("one", &one, &tls)]);
    assert_eq!(
        skd.hang_up(),
        "Reloaded: 0 services added, 0 removed, 1 changed, 0 unchanged"
    );
    client.connect("a", ports[0]);
    client.echo("a");
    let pid = server(&skd);
    // Another, and a new certificate.
    let new = renew(&pki, "next");
    configure(&directory, &[("one", &one, &tls), ("two", &two, &tls)]);
    assert!(skd.hang_up().starts_with("Reloaded: 1 service added"));
    assert_eq!(client.connect("b", ports[1]), new);
    assert_eq!(client.connect("c", ports[0]), new);
    client.echo("a");
    assert_eq!(server(&skd), pid);
    // What can't be used.
    fs::write(pki.path("server.pem"), "no certificate\n").unwrap();
    assert_eq!(
        skd.hang_up(),
        "skd: no reload: what the files say can't be served; nothing has changed"
    );
    let line = skd.wait_for_log(&pki.name("server.pem"));
    assert!(line.starts_with("skd: "), "{line}");
    assert_eq!(client.connect("d", ports[1]), new);
    client.echo("a");
    assert_eq!(server(&skd), pid);
    // A new path for one service, that of another stays. Then none has TLS.
    renew(&pki, "third");
    assert!(skd.hang_up().starts_with("Reloaded: "));
    configure(&directory, &[("one", &one, ""), ("two", &two, "")]);
    assert!(
        skd.hang_up()
            .starts_with("Reloaded: 0 services added, 0 removed, 2 changed")
    );
    for name in ["a", "b", "c", "d"] {
        client.echo(name);
        assert_eq!(client.ask(&format!("finish {name}")), "close_notify");
    }
    wait_until("skd-tls has ended", || servers(&skd).is_empty());
    wait_until("all are reaped", || zombies(skd.pid()).is_empty());
    // And again.
    configure(&directory, &[("one", &one, &tls)]);
    assert!(skd.hang_up().starts_with("Reloaded: "));
    client.connect("e", ports[0]);
    client.echo("e");
    assert_eq!(
        status_field(server(&skd), "NoNewPrivs").as_deref(),
        Some("1")
    );
}

/// A program that takes settings as skd-tls does, and then does this.
fn instead(directory: &Directory, then: &str) -> PathBuf {
    let source = format!(
        r#"
        #include <stdio.h>
        #include <string.h>
        #include <sys/socket.h>
        #include <sys/uio.h>
        #include <unistd.h>

        static char long_one[100000];

        static void say(const char *text) {{ send(0, text, strlen(text), MSG_NOSIGNAL); }}

        static void pass(int count) {{
            char control[CMSG_SPACE(sizeof(int) * 8)] = {{0}};
            struct iovec part = {{"{{}}", 2}};
            struct msghdr message = {{.msg_iov = &part, .msg_iovlen = 1, .msg_control = control,
                .msg_controllen = CMSG_SPACE(sizeof(int) * count)}};
            struct cmsghdr *rights = CMSG_FIRSTHDR(&message);
            rights->cmsg_level = SOL_SOCKET;
            rights->cmsg_type = SCM_RIGHTS;
            rights->cmsg_len = CMSG_LEN(sizeof(int) * count);
            for (int i = 0; i < count; i++)
                ((int *)CMSG_DATA(rights))[i] = 2;
            sendmsg(0, &message, MSG_NOSIGNAL);
        }}

        static void then(void) {{ {then} }}

        int main(void) {{
            char packet[65536];
            ssize_t length;
            while ((length = recv(0, packet, sizeof packet - 1, 0)) > 0) {{
                packet[length] = 0;
                if (strstr(packet, "\"start\""))
                    say("{{\"is\":\"started\",\"lacks\":[\"nothing is confined\"]}}");
                if (strstr(packet, "\"load\"")) {{
                    say("{{\"is\":\"loaded\"}}");
                    then();
                }}
                if (strstr(packet, "\"stop\""))
                    return 0;
            }}
            return 0;
        }}
        "#
    );
    directory.compile("program", &source)
}

#[test]
fn what_skd_tls_says_is_not_trusted() {
    let pki = Pki::with_server();
    let directory = Directory::new();
    let program = instead(
        &directory,
        r#"
        memset(long_one, 'x', sizeof long_one - 1);
        say("nonsense"); say("four"); say("{}"); say(long_one);
        say("{\"is\":\"loaded\"}");
        say("{\"is\":\"refused\",\"why\":\"no load\"}");
        say("{\"is\":\"started\",\"lacks\":[\"again\"]}");
        say("{\"is\":\"figures\",\"service\":\"unknown\",\"live\":1,\"received\":2,\"sent\":3,\"truncated\":4}");
        say("{\"is\":\"figures\",\"service\":\"cat\",\"live\":18446744073709551615,"
            "\"received\":18446744073709551615,\"sent\":18446744073709551615,\"truncated\":18446744073709551615}");
        for (int i = 0; i < 20000; i++) {
            say("{\"is\":\"truncated\",\"service\":\"cat\",\"token\":\"zz\"}");
            say("{\"is\":\"certificate\",\"service\":\"cat\",\"file\":\"unknown\",\"names\":[],\"not_after\":0,"
                "\"warning\":\"of a file that skd doesn't know\"}");
        }
        "#,
    );
    let skd = service(&pki).arg("--tls-program").arg(&program).run("cat");
    skd.wait_for_log(
        "skd: skd-tls says what this skd doesn't understand; both have to be of one version",
    );
    let pid = skd.children()[0];
    wait_until("all is said and heard", || {
        is_in_call(pid, libc::SYS_recvfrom)
    });
    skd.signal(Signal::SIGUSR1);
    skd.wait_for_log("skd: counted in ");
    let lines = skd.log_lines();
    let count = |part: &str| lines.iter().filter(|line| line.contains(part)).count();
    assert_eq!(count("doesn't understand"), 1, "{lines:#?}");
    assert_eq!(
        count("skd-tls isn't confined in full: nothing is confined"),
        1
    );
    for part in ["again", "Truncated", "unknown", "stay as they were"] {
        assert_eq!(count(part), 0, "{part}: {lines:#?}");
    }
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_skd_tls_that_passes_descriptors_is_replaced() {
    let pki = Pki::with_server();
    let directory = Directory::new();
    for pass in ["pass(1); pause();", "pass(8); pause();"] {
        let program = instead(&directory, pass);
        let skd = service(&pki).arg("--tls-program").arg(&program).run("cat");
        skd.wait_for_log("skd: skd-tls says what this skd doesn't understand");
        skd.wait_for_log("signal 9 has ended skd-tls");
        skd.wait_for_log("Started skd-tls again as pid ");
        assert_eq!(skd.stop().code(), Some(0));
    }
}

/// A handler that sends its client a descriptor along, whose last close takes half a minute.
const LINGERING: &str = r#"#!/usr/bin/env python3
import array, socket, struct, threading
listener = socket.create_server(("127.0.0.1", 0))
one = socket.create_connection(listener.getsockname())
other, _ = listener.accept()
one.setblocking(False)
try:
    while True:
        one.send(bytes(65536))
except BlockingIOError:
    pass
one.setblocking(True)
one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 30))
rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [one.fileno()]))]
plain = socket.socket(fileno=0)
line = plain.recv(100)
plain.sendmsg([line], rights)
# This may be the last close, and then waits itself.
threading.Thread(target=one.close, daemon=True).start()
while line := plain.recv(100):
    plain.sendall(line)
"#;

#[test]
fn descriptors_that_handlers_pass_hold_nobody_up() {
    let pki = Pki::with_server();
    let directory = Directory::new();
    let handler = directory.script("handler", LINGERING);
    let skd = service(&pki)
        .args(["--threads", "1"])
        .run(handler.to_str().unwrap());
    let client = TlsClient::new(&pki);
    let begin = Instant::now();
    for name in ["a", "b", "c"] {
        client.connect(name, skd.port());
        client.echo(name);
        client.echo(name);
    }
    for name in ["a", "b", "c"] {
        client.echo(name);
        assert_eq!(client.ask(&format!("finish {name}")), "close_notify");
    }
    assert!(
        begin.elapsed() < Duration::from_secs(15),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(skd.troubles(), [""; 0]);
}

#[test]
fn a_skd_tls_that_closes_its_channel_is_replaced() {
    let pki = Pki::with_server();
    let directory = Directory::new();
    let program = instead(&directory, "close(0); close(1); for (;;) pause();");
    let skd = service(&pki).arg("--tls-program").arg(&program).run("cat");
    let first = skd.children()[0];
    skd.wait_for_log("signal 9 has ended skd-tls");
    assert!(!exists(first));
    skd.wait_for_log("Started skd-tls again as pid ");
}

#[test]
fn a_skd_tls_that_says_nothing_fails_the_start() {
    let pki = Pki::with_server();
    let directory = Directory::new();
    let source = "#include <unistd.h>\nint main(void) { for (;;) pause(); }\n";
    let program = directory.compile("silent", source);
    let skd = service(&pki).arg("--tls-program").arg(&program);
    let skd = skd.start("cat");
    skd.expect_refusal(1, &["skd-tls hasn't loaded the files of TLS within 10 s"]);
}

#[test]
fn in_another_root_directory_a_dynamic_skd_tls_cant_be_started_again() {
    requires_root();
    let pki = Pki::with_server();
    let root = Directory::public();
    let source = "#include <unistd.h>\nint main(void) { char byte; while (read(0, &byte, 1) == 1) write(1, &byte, 1); }\n";
    root.compile("echo", source);
    let user = NOBODY.to_string();
    let skd = service(&pki).args(["--daemon-user", &user, "--chroot"]);
    let skd = skd.arg(root.path()).run("/echo");
    let note = skd.wait_for_log("skd: note: --chroot: if skd-tls should end, there is no TLS");
    assert!(note.contains("; put that there"), "{note}");
    let client = TlsClient::new(&pki);
    client.connect("a", skd.port());
    client.echo("a");
    end_by_kill(server(&skd));
    skd.wait_for_log("skd: no TLS: ");
    assert_eq!(skd.stop().code(), Some(0));
}
