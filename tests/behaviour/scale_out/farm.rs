//! Three machines with skd, one with a load balancer, and one with clients, each in namespaces of its own:
//!
//! ```text
//! clients 203.0.113.1-20 ── 203.0.113.254 balancer 192.0.2.254 ─┬─ one   192.0.2.1
//!                                198.51.100.80                  ├─ two   192.0.2.2
//!                                                               └─ three 192.0.2.3
//! ```

use crate::ctl;
use crate::harness::{
    Control, Directory, Machine, Namespace, Program, Running, Skd, copy_program, requires_command,
    requires_root, wait_until,
};
use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Mutex;

/// Where the files are that the page prints.
pub const FILES: &str = "contrib/scale-out";

/// The service of these files.
pub const SERVICE: &str = "greeter";

/// The names of the machines, in the order of their addresses.
pub const NAMES: [&str; 3] = ["one", "two", "three"];

/// How many addresses clients have.
const SOURCES: u8 = 20;

/// A stand-in for a service manager: it starts skd again whenever it has ended.
const MANAGER: &str =
    "while :; do skd --config /etc/skd/skd.toml & echo $! > /run/skd.pid; wait $!; done";

/// All machines.
pub struct Farm {
    pub clients: Namespace,
    pub balancer: Machine,
    pub machines: Vec<Backend>,
    programs: Directory,
}

/// A machine with skd.
pub struct Backend {
    pub name: &'static str,
    pub machine: Machine,
    /// What starts skd; none while the machine is down.
    manager: Mutex<Option<Running>>,
    /// The log from before it was down.
    log: Mutex<Vec<String>>,
}

/// An address of clients.
pub fn source(number: u8) -> IpAddr {
    assert!((1..=SOURCES).contains(&number));
    [203, 0, 113, number].into()
}

/// The address of the services for clients.
pub fn service(port: u16) -> SocketAddr {
    ([198, 51, 100, 80], port).into()
}

/// A file that the page prints.
pub fn file(name: &str) -> String {
    let path = format!("{FILES}/{name}");
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

impl Farm {
    /// Starts skd on all machines with the file of the page, changed by this.
    pub fn new(change: impl Fn(String) -> String) -> Self {
        requires_root();
        requires_command("ip");
        let programs = Directory::public();
        for program in [Program::Ours.path().as_path(), ctl::program()] {
            copy_program(program, programs.join(program.file_name().unwrap()));
        }
        let mut farm = Self {
            clients: Namespace::new(),
            balancer: Machine::new(),
            machines: Vec::new(),
            programs,
        };
        farm.wire_clients();
        let configuration = change(file("skd.toml"));
        for (name, number) in NAMES.into_iter().zip(1..) {
            let machine = Machine::new();
            farm.wire_machine(&machine, number);
            fs::write(machine.namespace.path("/etc/hostname"), format!("{name}\n")).unwrap();
            machine.type_in("groupadd --system skd-status && mkdir /etc/skd");
            let backend = Backend {
                name,
                machine,
                manager: Mutex::default(),
                log: Mutex::default(),
            };
            backend.configure(&configuration);
            backend.boot(&farm.programs);
            farm.machines.push(backend);
        }
        farm.machines.iter().for_each(Backend::wait_ready);
        farm
    }

    fn wire_clients(&self) {
        let balancer = &self.balancer.namespace;
        balancer.sysctl("net.ipv4.ip_forward", "1");
        let pid = &self.clients.prefix()[2];
        balancer.shell(&format!(
            "ip link add clients type veth peer name eth0 netns {pid}
             ip address add 203.0.113.254/24 dev clients
             ip link set clients up
             ip address add 198.51.100.80/32 dev lo
             ip link add back type bridge
             ip address add 192.0.2.254/24 dev back
             ip link set back up"
        ));
        for number in 1..=SOURCES {
            let address = format!("{}/24", source(number));
            self.clients
                .run(["ip", "address", "add", &address, "dev", "eth0"]);
        }
        self.clients
            .shell("ip link set eth0 up && ip route add default via 203.0.113.254");
    }

    fn wire_machine(&self, machine: &Machine, number: u8) {
        let pid = &machine.namespace.prefix()[2];
        self.balancer.namespace.shell(&format!(
            "ip link add m{number} type veth peer name eth0 netns {pid}
             ip link set m{number} master back up"
        ));
        machine.namespace.shell(&format!(
            "ip address add 192.0.2.{number}/24 dev eth0
             ip link set eth0 up
             ip route add default via 192.0.2.254"
        ));
    }

    /// A directory of programs, which is in the PATH of the shells here.
    pub fn programs(&self) -> &Directory {
        &self.programs
    }

    /// The machine with this name.
    pub fn named(&self, name: &str) -> &Backend {
        let mut machines = self.machines.iter();
        machines.find(|it| it.name == name).expect("a machine")
    }

    /// A login shell of the balancer's root, as of [`Backend::shell`].
    pub fn balancer_shell(&self, text: &str) -> Skd {
        self.shell(&self.balancer, text)
    }

    fn shell(&self, machine: &Machine, text: &str) -> Skd {
        let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.programs.name("."));
        machine.shell(text).env("PATH", path)
    }

    /// Types commands on a machine with skd, which must succeed, and returns their output.
    #[track_caller]
    pub fn type_in(&self, name: &str, text: &str) -> String {
        let output = self.shell(&self.named(name).machine, text).end();
        output.expect_code(0);
        output.stdout
    }

    /// Ends skd on a machine, and all that it has started, as if the power had failed.
    pub fn cut_power(&self, name: &str) {
        let backend = self.named(name);
        let manager = backend.manager.lock().unwrap().take();
        let manager = manager.expect("a machine that runs");
        let lines = manager.log_lines();
        drop(manager);
        backend.log.lock().unwrap().extend(lines);
    }

    /// Starts skd on a machine whose power was cut.
    pub fn boot(&self, name: &str) {
        let backend = self.named(name);
        backend.boot(&self.programs);
        backend.wait_ready();
    }

    /// A program that runs a command on the machine that is its first argument, as ssh does.
    pub fn remote_shell(&self) -> PathBuf {
        let mut script = "#!/bin/sh\nmachine=$1\nshift\ncase $machine in\n".to_owned();
        for backend in &self.machines {
            let enter = backend.machine.namespace.prefix().join(" ");
            script += &format!("    {}) exec {enter} sh -c \"$*\" ;;\n", backend.name);
        }
        let path = format!("{}:$PATH", self.programs.name("."));
        script = script.replacen("case", &format!("PATH={path}\ncase"), 1);
        self.programs
            .script("remote-shell", &(script + "esac\nexit 255\n"))
    }
}

impl Backend {
    /// Writes the configuration of skd.
    pub fn configure(&self, text: &str) {
        fs::write(self.machine.namespace.path("/etc/skd/skd.toml"), text).unwrap();
    }

    /// Sets a number in its configuration.
    pub fn change(&self, key: &str, value: &str) {
        let path = self.machine.namespace.path("/etc/skd/skd.toml");
        let text = fs::read_to_string(&path).unwrap();
        let start = format!("{key} = ");
        let lines = text.lines().map(|line| match line.starts_with(&start) {
            true => format!("{start}{value}\n"),
            false => format!("{line}\n"),
        });
        let changed: String = lines.collect();
        assert_ne!(changed, text);
        self.configure(&changed);
    }

    fn boot(&self, programs: &Directory) {
        let path = format!("{}:/usr/bin:/bin", programs.name("."));
        let manager = Skd::new(["-c", MANAGER])
            .binary("/bin/sh")
            .inside(&self.machine.namespace)
            .cwd(programs.path())
            .env("PATH", path);
        *self.manager.lock().unwrap() = Some(manager.start_bare());
    }

    fn socket(&self) -> PathBuf {
        self.machine.namespace.path("/run/skd.sock")
    }

    /// Waits until skd answers.
    pub fn wait_ready(&self) {
        wait_until("skd answers", || UnixStream::connect(self.socket()).is_ok());
    }

    /// Waits until skd answers, and is another process than this one.
    pub fn wait_for_another(&self, pid: i32) {
        wait_until("the service manager starts another skd", || {
            let noted = fs::read_to_string(self.machine.namespace.path("/run/skd.pid"));
            let other = noted.is_ok_and(|it| it.trim().parse() != Ok(pid));
            other && UnixStream::connect(self.socket()).is_ok()
        });
    }

    /// A client of the control socket.
    pub fn control(&self) -> Control {
        Control::at(self.socket())
    }

    /// The state of the service.
    pub fn state(&self) -> String {
        self.control().state(SERVICE)
    }

    /// The process id of skd.
    pub fn pid(&self) -> i32 {
        let pid = self.control().status()["pid"].as_i64();
        pid.and_then(|pid| pid.try_into().ok()).expect("a pid")
    }

    /// What skd has logged.
    pub fn log(&self) -> Vec<String> {
        let mut lines = self.log.lock().unwrap().clone();
        let manager = self.manager.lock().unwrap();
        lines.extend(manager.iter().flat_map(|manager| manager.log_lines()));
        lines
    }

    /// The clients that skd has logged as accepted, without those that are on the balancer.
    #[track_caller]
    pub fn accepted(&self) -> BTreeSet<SocketAddr> {
        let mut found = BTreeSet::new();
        for line in self.log() {
            let Some((_, client)) = line.split_once("Accepted connection from [203.0.113.") else {
                continue;
            };
            let client = client.split([' ', ',']).next().unwrap();
            let client = format!("203.0.113.{}", client.replace(']', ""));
            let client: SocketAddr = client.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(found.insert(client), "twice: {line}");
        }
        found
    }
}
