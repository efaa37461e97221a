//! All services of a machine in one skd: the files of docs/one-machine.md, with the clients of that page.

use crate::forward;
use crate::harness::{
    Directory, HOSTS, Machine, Output, Running, requires_commands, rss_anon, settled_descriptors,
    wait_until,
};
use nix::sys::signal::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

#[test]
fn each_service_has_a_client() {
    let page = Page::read();
    let names = |text: &str| -> Vec<String> {
        let names = text
            .lines()
            .filter_map(|line| line.strip_prefix("[service."));
        names
            .map(|name| name.trim_end_matches(']').to_owned())
            .collect()
    };
    let services: BTreeSet<_> = page
        .files
        .iter()
        .flat_map(|(_, text)| names(text))
        .collect();
    let clients: BTreeSet<_> = page
        .clients
        .iter()
        .map(|client| client.name.clone())
        .collect();
    assert_eq!(services, clients);
    assert_eq!(services.len(), 11);
}

#[test]
fn every_service_answers_its_own_client() {
    let server = Server::start();
    for (host, _) in HOSTS {
        for client in &server.page.clients {
            server.ask_rightly(client, host);
        }
    }
    assert_eq!(server.skd.troubles(), [""; 0]);
    assert_eq!(server.skd.stop().code(), Some(0));
}

#[test]
fn reloads_disturb_no_client() {
    reload_under_load(3);
}

#[test]
#[ignore = "takes some minutes; prints figures"]
fn a_hundred_reloads_disturb_no_client() {
    reload_under_load(25);
}

/// Adds, changes, breaks and removes a service, round after round, while the clients of all others come.
fn reload_under_load(rounds: usize) {
    let server = Server::start();
    let (over, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let extra = server
        .machine
        .namespace
        .path("/etc/skd/services/extra.toml");
    let ask_extra = || {
        server
            .machine
            .shell("socat -t60 - TCP:127.0.0.1:8100")
            .end()
    };
    let reload = |text: Option<&str>, line: &str| {
        match text {
            Some(text) => fs::write(&extra, text).unwrap(),
            None => fs::remove_file(&extra).unwrap(),
        }
        let before = server.skd.logged(line).len();
        server.skd.signal(Signal::SIGHUP);
        server.skd.wait_for_logs(line, before + 1);
    };
    let service = |word: &str| {
        format!("[service.extra]\ntcp = 8100\nuser = \"nobody\"\nshell = 'echo {word}'\n")
    };
    let round = || {
        reload(Some(&service("one")), "Reloaded: 1 service added");
        assert_eq!(ask_extra().stdout, "one\n");
        reload(Some(&service("two")), ", 0 removed, 1 changed, ");
        assert_eq!(ask_extra().stdout, "two\n");
        reload(
            Some("[service.extra]\ntcp = 81000\nshell = \"true\"\n"),
            "extra.toml:2:",
        );
        assert_eq!(ask_extra().stdout, "two\n");
        reload(None, ", 1 removed, 0 changed, ");
        assert_ne!(ask_extra().code(), Some(0));
    };
    // The TFTP servers stay for some minutes.
    for client in &server.page.clients {
        HOSTS
            .iter()
            .for_each(|(host, _)| server.ask_rightly(client, host));
    }
    round();
    let held = || {
        let pid = server.skd.pid();
        (settled_descriptors(pid).len(), rss_anon(pid))
    };
    let before = held();
    thread::scope(|scope| {
        // Whatever goes wrong, the clients end.
        let _end = OnDrop(|| over.store(true, Ordering::SeqCst));
        for client in &server.page.clients {
            let (server, over, served) = (&server, &over, &served);
            scope.spawn(move || {
                let _end = OnDrop(|| over.store(true, Ordering::SeqCst));
                while !over.load(Ordering::SeqCst) {
                    for (host, _) in HOSTS {
                        server.ask_rightly(client, host);
                        served.fetch_add(1, Ordering::SeqCst);
                    }
                }
            });
        }
        for _ in 0..rounds {
            assert!(!over.load(Ordering::SeqCst), "a client was disturbed");
            round();
        }
    });
    let served = served.into_inner();
    assert!(served > rounds);
    let troubles = server.skd.troubles();
    let expected = ["extra.toml", "skd: no reload: "];
    let other = |line: &&String| !expected.iter().any(|text| line.contains(text));
    let other: Vec<_> = troubles.iter().filter(other).collect();
    assert!(other.is_empty(), "{other:?}");
    let after = held();
    let figures = format!("descriptors and KiB before {before:?}, after {after:?}");
    println!("{} reloads, {served} clients, {figures}", 4 * rounds);
    assert!(
        after.0 <= before.0 && after.1 <= before.1 + 512,
        "{figures}"
    );
    assert_eq!(server.skd.stop().code(), Some(0));
}

/// Calls a function when it is dropped.
struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// The page: its files by path below /etc/skd, and what is typed.
struct Page {
    prepare: String,
    files: Vec<(String, String)>,
    check: String,
    server: String,
    clients: Vec<Client>,
}

/// What the client of a service types, and what it then reads.
struct Client {
    name: String,
    commands: String,
    answer: String,
}

impl Page {
    #[track_caller]
    fn read() -> Self {
        let text = fs::read_to_string("docs/one-machine.md").unwrap();
        let blocks = text.split("```").skip(1).step_by(2);
        let mut page = Self {
            prepare: String::new(),
            files: Vec::new(),
            check: String::new(),
            server: String::new(),
            clients: Vec::new(),
        };
        for block in blocks {
            let (kind, text) = block.split_once('\n').unwrap();
            match kind.split(' ').collect::<Vec<_>>()[..] {
                ["sh", "prepare"] => page.prepare = text.to_owned(),
                ["sh", "check"] => page.check = text.to_owned(),
                ["sh", "server"] => page.server = text.to_owned(),
                ["toml", path] => page.files.push((path.to_owned(), text.to_owned())),
                ["sh", "client", name] => page.clients.push(Client::read(name, text)),
                _ => panic!("a block that isn't tested: {block}"),
            }
        }
        page
    }
}

impl Client {
    fn read(name: &str, text: &str) -> Self {
        let (answer, commands): (Vec<&str>, Vec<&str>) =
            text.lines().partition(|line| line.starts_with("# "));
        let lines = |lines: &[&str], drop: usize| -> String {
            lines
                .iter()
                .map(|line| format!("{}\n", &line[drop..]))
                .collect()
        };
        Self {
            name: name.to_owned(),
            commands: lines(&commands, 0),
            answer: lines(&answer, 2),
        }
    }
}

/// skd on a machine with the page's files.
struct Server {
    page: Page,
    machine: Machine,
    skd: Running,
}

impl Server {
    fn start() -> Self {
        requires_commands(&[
            "git",
            "rsync",
            "sshd",
            "in.fingerd",
            "finger",
            "in.tftpd",
            "tftp",
            "socat",
        ]);
        let page = Page::read();
        let machine = Machine::new();
        symlink(forward::program(), machine.bin().join("skd-forward")).unwrap();
        machine.type_in(&page.prepare);
        machine.let_root_in();
        for (path, text) in &page.files {
            fs::write(machine.namespace.path(format!("/etc/skd/{path}")), text).unwrap();
        }
        machine.type_in(&page.check);
        let skd = machine.shell(&page.server).start_bare();
        let server = Self { page, machine, skd };
        let greeter = server
            .page
            .clients
            .iter()
            .find(|client| client.name == "greeter")
            .unwrap();
        wait_until("skd serves", || {
            server.ask(greeter, HOSTS[0].0).code() == Some(0)
        });
        server
    }

    /// Types the commands of a client, which must get its answer.
    #[track_caller]
    fn ask_rightly(&self, client: &Client, host: &str) {
        let output = self.ask(client, host);
        let right = output.code() == Some(0) && output.stdout == client.answer;
        assert!(right, "{}: {output:#?}", client.name);
    }

    /// Types the commands of a client in an empty directory.
    fn ask(&self, client: &Client, host: &str) -> Output {
        let directory = Directory::new();
        let shell = self.machine.shell(&client.commands).binary("/bin/bash");
        let shell = shell.env("HOST", host);
        shell.cwd(directory.path()).end()
    }
}
