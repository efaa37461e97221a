//! The EXAMPLES of the manual. Each is typed into a shell as it is printed, as root in namespaces
//! of its own.

use crate::harness::{
    Directory, Namespace, Program, Running, Skd, Syslog, ask, connect, connect_unix, ids,
    requires_command, requires_root, send_unix_datagram, talk, udp_client, untimed, wait_for,
    wait_for_text, wait_until,
};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;

const MOTD: &str = "The printer is on fire.\n";

/// The check of each example, in the order of the manual.
const CHECKS: [fn(&Machine, &str); 11] = [
    echoes_on_a_unix_socket,
    shows_the_message_of_the_day,
    runs_a_daemon_with_a_log,
    says_hello_for_an_ordinary_user,
    serves_the_web,
    binds_low_and_becomes_nobody,
    serves_from_another_root,
    answers_datagrams,
    collects_datagrams,
    takes_a_free_port,
    keeps_a_program_running,
];

#[test]
fn every_example_of_the_manual_does_what_it_says() {
    requires_root();
    let examples = examples();
    assert_eq!(examples.len(), CHECKS.len(), "{examples:#?}");
    for (example, check) in examples.iter().zip(CHECKS) {
        println!("{example}");
        check(&Machine::new(), example);
    }
}

fn echoes_on_a_unix_socket(machine: &Machine, example: &str) {
    let shell = machine.type_in(example);
    let socket = machine.namespace.path("/dev/cat.sock");
    wait_until("the socket is there", || socket.exists());
    // A bound socket listens a moment later.
    let connection = wait_for("a connection", || {
        std::os::unix::net::UnixStream::connect(&socket).ok()
    });
    drop(connection);
    assert_eq!(talk(connect_unix(&socket), b"hello"), b"hello");
    shell.wait_for_log("Accepted local connection from pid ");
}

fn shows_the_message_of_the_day(machine: &Machine, example: &str) {
    let _shell = machine.daemon(example);
    for address in ["127.0.0.1:3000", "[::1]:3000"] {
        assert_eq!(machine.talk(address, ""), MOTD);
    }
    let message = machine.syslog.wait_for("testsrv: Accepted connection");
    assert_eq!(message.priority(), Some(3 * 8 + 6));
    // Tested inside the namespace: /var/run is often a symbolic link.
    machine.namespace.run(["test", "-s", "/var/run/motd.pid"]);
}

fn runs_a_daemon_with_a_log(machine: &Machine, example: &str) {
    let script = "#!/bin/sh\necho \"started: $*\" >&2\nexec sleep 1000\n";
    machine.files.script("uscheduled", script);
    let _shell = machine.daemon(example);
    machine
        .syslog
        .wait_for("uschedule: started: -d /var/lib/uschedule");
}

fn says_hello_for_an_ordinary_user(machine: &Machine, example: &str) {
    let _shell = machine.daemon(example);
    let hello = machine.talk("127.0.0.1:8080", "");
    assert_eq!(hello, "Hello, 127.0.0.1.\n");
    assert_eq!(machine.talk("[::1]:8080", ""), "Hello, ::1.\n");
    wait_for_text(machine.files.join("hello.log"), "Accepted connection");
    assert!(machine.files.join("hello.pid").is_file());
}

fn serves_the_web(machine: &Machine, example: &str) {
    requires_command("busybox");
    machine
        .namespace
        .shell("mkdir /srv/www && echo 'It works.' > /srv/www/index.html");
    let _shell = machine.type_in(example);
    machine.wait_for_port("127.0.0.1:8080");
    let answer = machine.talk("127.0.0.1:8080", "GET / HTTP/1.0\r\n\r\n");
    assert!(answer.contains(" 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("It works.\n"), "{answer}");
}

fn binds_low_and_becomes_nobody(machine: &Machine, example: &str) {
    let _shell = machine.daemon(example);
    assert_eq!(machine.talk("127.0.0.1:17", ""), MOTD);
    machine.syslog.wait_for("qotd: Accepted connection");
    let pid = machine.namespace.shell("cat /run/qotd.pid");
    // skd itself stays root, to become the user anew for each client.
    let (users, _, _) = ids(pid.trim().parse().unwrap());
    assert_eq!(users, [0; 4]);
}

fn serves_from_another_root(machine: &Machine, example: &str) {
    requires_command("busybox");
    let prepare = r#"
        busybox=$(command -v busybox)
        mkdir -p /srv/jail/bin
        cp "$busybox" /srv/jail/bin/busybox
        for library in $(ldd "$busybox" 2>&1 | grep -o '/[^ :]*'); do
            install -D "$library" "/srv/jail$library"
        done
        cp /etc/motd /srv/jail/motd
    "#;
    machine.namespace.shell(prepare);
    let _shell = machine.type_in(example);
    machine.wait_for_port("127.0.0.1:17");
    assert_eq!(machine.talk("127.0.0.1:17", ""), MOTD);
}

fn answers_datagrams(machine: &Machine, example: &str) {
    requires_command("perl");
    let shell = machine.type_in(example);
    let bound = "until grep -q ':07D0 ' /proc/net/udp; do sleep 0.01; done";
    machine.namespace.shell(bound);
    machine.namespace.enter(|| {
        let client = udp_client("127.0.0.1:2000".parse().unwrap());
        assert_eq!(ask(&client, b"hello"), b"HELLO");
        assert_eq!(ask(&client, b"again"), b"AGAIN");
    });
    shell.wait_for_log("Received initial datagram from [127.0.0.1]:");
}

fn collects_datagrams(machine: &Machine, example: &str) {
    let _shell = machine.type_in(example);
    let socket = machine.namespace.path("/run/notes.sock");
    wait_until("the socket is there", || socket.exists());
    for note in ["one\n", "two\n"] {
        send_unix_datagram(&socket, note.as_bytes());
    }
    let notes = wait_for_text(machine.namespace.path("/var/log/notes"), " two\n");
    assert_eq!(untimed(&notes, &[]), "one\ntwo\n");
}

fn takes_a_free_port(machine: &Machine, example: &str) {
    let shell = machine.daemon(example);
    let line = shell.stdout_line();
    let port = line.strip_prefix("echo is on port ").expect("the port");
    assert_eq!(machine.talk(&format!("127.0.0.1:{port}"), "hi"), "hi");
}

fn keeps_a_program_running(machine: &Machine, example: &str) {
    let script = "#!/bin/sh\necho \"$(id -un) runs $*\" >&2\n";
    machine.files.script("worker", script);
    let _shell = machine.daemon(example);
    machine.syslog.wait_for("worker: Restarting worker in 0.1s");
    wait_until("the second run", || {
        machine.syslog.logged("nobody runs --queue mail").len() > 1
    });
}

/// The text of each example, as it is printed.
fn examples() -> Vec<String> {
    let page = std::fs::read_to_string("man/skd.8").unwrap();
    let (_, section) = page.split_once("\n.SH EXAMPLES\n").unwrap();
    let (section, _) = section.split_once("\n.SH ").unwrap();
    let blocks = section.split(".EX\n").skip(1);
    let texts = blocks.map(|block| block.split("\n.EE").next().unwrap());
    let printed = |text: &str| {
        let text = text.replace("\\-", "-").replace("\\(aq", "'");
        text.replace("\\e", "\\")
    };
    texts.map(printed).collect()
}

/// Namespaces with skd in PATH, a system log, an empty home, a network and empty directories.
struct Machine {
    namespace: Namespace,
    syslog: Syslog,
    /// The directory that is in PATH and HOME.
    files: Directory,
}

impl Machine {
    fn new() -> Self {
        let namespace = Namespace::new();
        namespace.private_dev();
        for directory in ["/run", "/var/run", "/var/log", "/srv"] {
            namespace.tmpfs(directory);
        }
        namespace.replace_file("/etc/motd", MOTD);
        let syslog = Syslog::bind(namespace.path("/dev/log"));
        let files = Directory::public();
        symlink(Program::Ours.path(), files.join("skd")).unwrap();
        Self {
            namespace,
            syslog,
            files,
        }
    }

    /// Types a line into a shell.
    fn type_in(&self, line: &str) -> Running {
        let (files, path) = (self.files.path().display(), std::env::var("PATH").unwrap());
        Skd::new(["-c", line])
            .binary("/bin/sh")
            .inside(&self.namespace)
            .env("PATH", format!("{files}:{path}"))
            .env("HOME", self.files.path())
            .start_bare()
    }

    /// Types a line that starts a daemon, and waits for the shell to exit with 0.
    #[track_caller]
    fn daemon(&self, line: &str) -> Running {
        let shell = self.type_in(line);
        assert_eq!(shell.wait().code(), Some(0));
        shell
    }

    fn wait_for_port(&self, address: &str) {
        let address: SocketAddr = address.parse().unwrap();
        wait_until("a connection", || {
            self.namespace
                .enter(|| std::net::TcpStream::connect(address).is_ok())
        });
    }

    fn talk(&self, address: &str, request: &str) -> String {
        let address = address.parse().unwrap();
        let answer = self
            .namespace
            .enter(|| talk(connect(address), request.as_bytes()));
        String::from_utf8_lossy(&answer).into_owned()
    }
}
