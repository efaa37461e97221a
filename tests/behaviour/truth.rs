//! Whether the counters are true: connections of which it is known how each ends, in all ways of starting and at both
//! kinds of sockets, counted by the test and by skd.

use crate::harness::{
    Control, DEADLINE, Directory, Running, Skd, connect_from, connect_unix, poll_for, receive,
};
use nix::sys::signal::Signal;
use skd_control::{Answer, AnswerLine, ServiceStatus, Status};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

#[test]
fn each_counter_equals_what_was_done() {
    count(400);
}

#[test]
#[ignore = "takes minutes: ten thousand connections"]
fn each_counter_equals_what_was_done_in_ten_thousand_connections() {
    count(10_000);
}

/// How handlers of a service are started: the option, and the label of the counter.
const WAYS: [(&str, &str, &str); 3] = [
    ("exec", "", "exec"),
    ("warm", "warm = 2\n", "pool"),
    ("fork", "fork-server = true\n", "copy"),
];

/// What a client has its handler do, and the result that is counted.
const RESULTS: [(&str, &str); 4] = [
    ("succeed", "success"),
    ("fail", "failure"),
    ("die", "signal"),
    ("stay", "timeout"),
];

/// A handler that does what its client says. It asks for its process id when it has the client: a shell knows `$$` from
/// its start, and copies of a template would send the signal to that.
const HANDLER: &str = r#"#!/bin/sh
read word
case $word in
succeed) exit 0 ;;
fail) exit 3 ;;
die) sh -c 'kill -KILL $PPID' ;;
stay) exec sleep 600 ;;
esac
"#;

/// A program that is removed once skd serves, so that no handler can be started.
const BROKEN: &str = "#!/bin/sh\n";

/// A service that rejects, its options, how a client is rejected, and the reason that is counted.
const REJECTING: [(&str, &str, Rejected, &str); 9] = [
    ("rule", "deny = \"127.0.0.66\"\n", Rejected::Other, "rule"),
    (
        "no-rule",
        "allow = \"127.0.0.1\"\n",
        Rejected::Other,
        "no-rule",
    ),
    (
        "rate",
        "rate = \"1/d:5\"\nat-rate = \"close\"\n",
        Rejected::Later(5),
        "rate",
    ),
    (
        "source-rate",
        "rate-per-source = \"1/d:5\"\n",
        Rejected::Later(5),
        "source-rate",
    ),
    (
        "max",
        "max-clients = 1\nat-max = \"close\"\n",
        Rejected::Beside,
        "max",
    ),
    (
        "source-max",
        "max-per-source = 1\n",
        Rejected::Beside,
        "source-max",
    ),
    (
        "silent",
        "first-byte = \"20ms\"\n",
        Rejected::Silent,
        "first-byte",
    ),
    ("ended", "first-byte = \"1m\"\n", Rejected::Ended, "ended"),
    (
        "header",
        "proxy-protocol = true\nproxy-from = [\"127.0.0.1\", \"unix\"]\n",
        Rejected::Garbage,
        "proxy-header",
    ),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Rejected {
    /// A client of another address. Clients of unix sockets have none.
    Other,
    /// All clients after the first so many.
    Later(u64),
    /// All clients beside the first, which has a handler until the end.
    Beside,
    /// Clients that send nothing.
    Silent,
    /// Clients that close their connection.
    Ended,
    /// Clients that send something else than a PROXY header.
    Garbage,
}

/// What the test has done, by service and counter.
#[derive(Default)]
struct Expected(Mutex<BTreeMap<(String, String), u64>>);

impl Expected {
    fn add(&self, service: &str, counter: &str) {
        let key = (service.to_owned(), counter.to_owned());
        *self.0.lock().unwrap().entry(key).or_default() += 1;
    }

    /// The counters of a service that aren't zero.
    fn get(&self, service: &str) -> BTreeMap<String, u64> {
        let all = self.0.lock().unwrap();
        let own = all.iter().filter(|((name, _), _)| name == service);
        own.map(|((_, counter), count)| (counter.clone(), *count))
            .collect()
    }

    fn count(&self, service: &str, counter: &str) -> u64 {
        self.get(service).get(counter).copied().unwrap_or_default()
    }
}

/// A service: its name, whether its clients come by TCP, and what becomes of them.
#[derive(Clone)]
struct Service {
    name: String,
    tcp: bool,
    kind: Kind,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Handlers do what their clients say. The label of their way.
    Serves(&'static str),
    /// Clients are rejected, for the reason with this label.
    Rejects(Rejected, &'static str),
    /// Handlers can't be started.
    Broken,
}

fn services() -> Vec<Service> {
    let mut services = Vec::new();
    let mut add = |name: &str, kind| {
        for tcp in [true, false] {
            // All clients of unix sockets here have one address.
            if tcp || !matches!(kind, Kind::Rejects(Rejected::Other, _)) {
                services.push(Service {
                    name: format!("{name}-{}", if tcp { "tcp" } else { "unix" }),
                    tcp,
                    kind,
                });
            }
        }
    };
    for (name, _, way) in WAYS {
        add(name, Kind::Serves(way));
    }
    for (name, _, how, reason) in REJECTING {
        add(name, Kind::Rejects(how, reason));
    }
    add("broken", Kind::Broken);
    services
}

/// The services, and where their clients find them.
struct Server {
    skd: Running,
    directory: Directory,
    services: Vec<Service>,
    ports: BTreeMap<String, u16>,
}

/// Makes so many connections, a third of them each before an upgrade, before a reload and after it.
fn count(connections: usize) {
    let server = Server::start();
    let expected = Expected::default();
    let held = server.hold(&expected);
    for part in ["start", "upgrade", "reload"] {
        match part {
            "upgrade" => server.upgrade(),
            "reload" => server.reload(),
            _ => {}
        }
        server.compare(&expected);
        server.do_all(&expected, connections / 3);
        println!("after the {part}");
        server.compare(&expected);
    }
    drop(held);
    assert_eq!(server.skd.stop().code(), Some(0));
}

impl Server {
    fn start() -> Self {
        let directory = Directory::new();
        let services = services();
        let file = directory.write("skd.toml", configuration(&directory, &services));
        let skd = Skd::new(["-v", "--config"])
            .arg(&file)
            .args(["--control", &directory.name("control")])
            .throttle(Duration::ZERO)
            .start_bare();
        // Each prints the port that the kernel has chosen.
        let tcp: Vec<_> = services.iter().filter(|it| it.tcp).collect();
        skd.wait_until("all ports are printed", || {
            skd.stdout_lines().len() == tcp.len()
        });
        let ports = skd.stdout_lines();
        let ports = tcp
            .iter()
            .zip(ports)
            .map(|(service, port)| (service.name.clone(), port.trim().parse().unwrap()))
            .collect();
        fs::remove_file(directory.join("broken")).unwrap();
        Self {
            skd,
            directory,
            services,
            ports,
        }
    }

    /// A client of this service, at another address than the others if that is asked for.
    fn connect(&self, service: &Service, elsewhere: bool) -> Client {
        if !service.tcp {
            return Client::Unix(connect_unix(self.directory.join(&service.name)));
        }
        let own = Ipv4Addr::new(127, 0, 0, if elsewhere { 66 } else { 1 });
        let port = self.ports[&service.name];
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Client::Tcp(connect_from(IpAddr::V4(own), address))
    }

    /// Takes the only slots. They are held until the clients are dropped.
    fn hold(&self, expected: &Expected) -> Vec<Client> {
        let mut held = Vec::new();
        for service in &self.services {
            if let Kind::Rejects(Rejected::Beside, _) = service.kind {
                let mut client = self.connect(service, false);
                client.write(b"held");
                client.read(4);
                held.push(client);
                expected.add(&service.name, "accepted");
                expected.add(&service.name, "started");
            }
        }
        held
    }

    /// Makes so many connections at all services together, several at a time.
    fn do_all(&self, expected: &Expected, connections: usize) {
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    loop {
                        let index = next.fetch_add(1, Ordering::Relaxed);
                        if index >= connections {
                            return;
                        }
                        let service = &self.services[index % self.services.len()];
                        self.do_one(service, index / self.services.len(), expected);
                    }
                });
            }
        });
    }

    fn do_one(&self, service: &Service, round: usize, expected: &Expected) {
        let name = &service.name;
        let add = |counter: &str| expected.add(name, counter);
        match service.kind {
            Kind::Serves(_) => {
                // Few that take a second each.
                let index = if round % 40 == 3 { 3 } else { round % 3 };
                let (word, result) = RESULTS[index];
                let mut client = self.connect(service, false);
                client.write(format!("{word}\n").as_bytes());
                client.read_to_end();
                add("accepted");
                add("started");
                add(&format!("ended {result}"));
            }
            Kind::Broken => {
                self.connect(service, false).read_to_end();
                add("accepted");
                add("failed");
            }
            Kind::Rejects(how, reason) => {
                let elsewhere = how == Rejected::Other;
                // One at a time where it matters how many there have been.
                let turn = TURN.lock().unwrap();
                let admitted = match how {
                    Rejected::Later(first) => expected.count(name, "accepted") < first,
                    _ => false,
                };
                let mut client = self.connect(service, elsewhere);
                match how {
                    Rejected::Ended => client.shut_down(),
                    Rejected::Garbage => client.write(b"GET / HTTP/1.0\r\n\r\n"),
                    _ if admitted => client.shut_down(),
                    _ => {}
                }
                client.read_to_end();
                drop(turn);
                if admitted {
                    add("accepted");
                    add("started");
                    add("ended success");
                } else {
                    add(&format!("rejected {reason}"));
                }
            }
        }
    }

    /// Compares all counters. A client may see the end of its connection a moment before it is counted.
    #[track_caller]
    fn compare(&self, expected: &Expected) {
        let wanted: BTreeMap<_, _> = self
            .services
            .iter()
            .map(|service| (service.name.clone(), expected.get(&service.name)))
            .collect();
        let mut seen = BTreeMap::new();
        let equal = poll_for(DEADLINE, || {
            let status = self.status();
            seen = status.services.iter().map(counters).collect();
            (seen == wanted).then_some(status)
        });
        let Some(status) = equal else {
            for (name, counters) in &wanted {
                if seen.get(name) != Some(counters) {
                    println!("{name}: wanted {counters:?}, counted {:?}", seen.get(name));
                }
            }
            panic!("counters aren't true");
        };
        for (status, service) in status.services.iter().zip(&self.services) {
            assert_eq!(status.name, service.name);
            assert_consistent(status);
            assert_ways(status, service);
        }
        assert_eq!(status.process.lost_lines, 0);
    }

    fn status(&self) -> Status {
        let answer = Control::of(&self.directory).status();
        let answer: AnswerLine = serde_json::from_value(answer).unwrap();
        match answer.answer {
            Answer::Status(status) => *status,
            other => panic!("{other:?}"),
        }
    }

    /// Sends a signal, and waits until it is obeyed, while all programs can be run.
    fn signal(&self, signal: Signal, answer: &str) {
        self.directory.script("broken", BROKEN);
        self.skd.signal(signal);
        let found = poll_for(3 * DEADLINE, || self.skd.logged(answer).pop());
        found.unwrap_or_else(|| panic!("{:#?}", self.skd.troubles()));
        fs::remove_file(self.directory.join("broken")).unwrap();
    }

    fn upgrade(&self) {
        self.signal(Signal::SIGUSR2, "Upgraded from");
    }

    /// A reload that adds a service and changes another, of which nothing may be lost.
    fn reload(&self) {
        let text = configuration(&self.directory, &self.services);
        let text = text.replacen("timeout = \"1s\"", "timeout = \"999ms\"", 1);
        // It serves no one, and isn't compared.
        let more = format!(
            "[service.more]\nunix = \"{}\"\ncommand = [\"/bin/cat\"]\nenabled = false\n",
            self.directory.name("more")
        );
        self.directory.write("skd.toml", text + &more);
        self.signal(Signal::SIGHUP, "Reloaded: ");
    }
}

/// Clients of which only one may come at a time.
static TURN: Mutex<()> = Mutex::new(());

/// The file of all services.
fn configuration(directory: &Directory, services: &[Service]) -> String {
    let handler = directory.script("handler", HANDLER);
    let broken = directory.script("broken", BROKEN);
    let options = |name: &str| {
        let plain = name.rsplit_once('-').map_or(name, |(plain, _)| plain);
        let ways = WAYS.iter().find(|(way, ..)| *way == plain);
        let rejecting = REJECTING.iter().find(|(rejecting, ..)| *rejecting == plain);
        ways.map(|(_, options, _)| *options)
            .or(rejecting.map(|(_, options, ..)| *options))
            .unwrap_or_default()
    };
    let mut text = String::new();
    for Service { name, tcp, kind } in services {
        let socket = match tcp {
            true => "tcp = \"127.0.0.1:0\"".to_owned(),
            false => format!("unix = \"{}\"", directory.name(name)),
        };
        let options = options(name);
        let (more, program) = match kind {
            Kind::Serves(_) => ("timeout = \"1s\"\n", handler.as_path()),
            Kind::Rejects(..) => ("", Path::new("/bin/cat")),
            Kind::Broken => ("", broken.as_path()),
        };
        let program = program.display();
        let _ = write!(
            text,
            "[service.{name}]\n{socket}\n{options}{more}command = [\"{program}\"]\n"
        );
    }
    text
}

/// The counters of a service that aren't zero, by the names that the test has for them.
fn counters(service: &ServiceStatus) -> (String, BTreeMap<String, u64>) {
    let mut counters: BTreeMap<String, u64> = BTreeMap::new();
    let mut add = |name: String, count: u64| {
        if count > 0 {
            *counters.entry(name).or_default() += count;
        }
    };
    for listener in &service.listeners {
        add("accepted".into(), listener.accepted);
        for (reason, count) in &listener.rejected {
            add(format!("rejected {reason}"), *count);
        }
    }
    add("started".into(), service.started.values().sum());
    for (result, count) in &service.ended {
        add(format!("ended {result}"), *count);
    }
    add("failed".into(), service.start_failures.values().sum());
    (service.name.clone(), counters)
}

/// Checks what is true of the counters of any service while no client comes.
#[track_caller]
fn assert_consistent(service: &ServiceStatus) {
    let sum = |counters: &BTreeMap<String, u64>| counters.values().sum::<u64>();
    let (started, ended) = (sum(&service.started), sum(&service.ended));
    let accepted: u64 = service.listeners.iter().map(|it| it.accepted).sum();
    assert_eq!(started, ended + service.running, "{service:#?}");
    assert_eq!(
        accepted,
        started + sum(&service.start_failures),
        "{service:#?}"
    );
    assert_eq!(service.slots.used, service.running, "{service:#?}");
    assert_eq!(service.pending, 0, "{service:#?}");
    let durations: u64 = service.durations.counts.iter().sum();
    assert_eq!(durations, ended, "{service:#?}");
    let latencies: u64 = service.start_latencies.counts.iter().sum();
    assert_eq!(latencies, started, "{service:#?}");
    for histogram in [&service.durations, &service.start_latencies] {
        assert_eq!(histogram.counts.len(), histogram.bounds.len() + 1);
    }
}

/// Checks how the handlers of a service were started: in its own way, or by exec(2) where no prestarted handler was
/// there for a client.
#[track_caller]
fn assert_ways(status: &ServiceStatus, service: &Service) {
    let way = match service.kind {
        Kind::Serves(way) => way,
        Kind::Rejects(..) | Kind::Broken => "exec",
    };
    let other = |(name, count): (&String, &u64)| *count > 0 && name != way && name != "exec";
    assert!(!status.started.iter().any(other), "{status:#?}");
    let started: u64 = status.started.values().sum();
    // Of the first clients some may come too early.
    assert!(started < 8 || status.started[way] > 0, "{status:#?}");
}

/// A client of either kind of socket.
enum Client {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Client {
    fn write(&mut self, bytes: &[u8]) {
        // It may be rejected already.
        let _ = match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        };
    }

    #[track_caller]
    fn read(&mut self, length: usize) {
        match self {
            Self::Tcp(stream) => drop(receive(stream, length)),
            Self::Unix(stream) => drop(receive(stream, length)),
        }
    }

    /// Waits for the end, or a reset.
    fn read_to_end(&mut self) {
        let mut bytes = Vec::new();
        let result = match self {
            Self::Tcp(stream) => stream.read_to_end(&mut bytes),
            Self::Unix(stream) => stream.read_to_end(&mut bytes),
        };
        if let Err(reason) = result {
            assert_eq!(reason.kind(), ErrorKind::ConnectionReset);
        }
    }

    fn shut_down(&self) {
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Self::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}
