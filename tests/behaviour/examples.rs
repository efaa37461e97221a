//! The three examples of the README of skd 1.2, and more on two of the present examples (`typed.rs` runs them all), as
//! root on a machine of their own.

use crate::harness::{
    Directory, Namespace, Program, Running, Skd, Syslog, connect_from, connect_unix, each_program,
    environment, requires_command, requires_root, session, talk, wait_for_text, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;

/// A machine with the usual nodes and a system log in /dev, an empty /var/run, and skd in PATH.
struct Machine {
    namespace: Namespace,
    syslog: Syslog,
    programs: Directory,
}

impl Machine {
    fn new(program: Program) -> Self {
        requires_root();
        let namespace = Namespace::new();
        namespace.private_dev();
        namespace.tmpfs("/var/run");
        let syslog = Syslog::bind(namespace.path("/dev/log"));
        let programs = Directory::public();
        symlink(program.path(), programs.join("skd")).unwrap();
        Self {
            namespace,
            syslog,
            programs,
        }
    }

    /// Types a line into a shell.
    fn type_in(&self, line: &str) -> Running {
        self.type_in_at(line, &self.programs)
    }

    /// Types a line into a shell in this directory.
    fn type_in_at(&self, line: &str, directory: &Directory) -> Running {
        let path = std::env::var("PATH").unwrap();
        Skd::new(["-c", line])
            .cwd(directory.path())
            .binary("/bin/sh")
            .inside(&self.namespace)
            .env("PATH", format!("{}:{path}", self.programs.path().display()))
            .start_bare()
    }

    fn connect(&self, address: &str) -> TcpStream {
        let address: SocketAddr = address.parse().unwrap();
        self.namespace.enter(|| crate::harness::connect(address))
    }
}

#[test]
fn a_socket_in_dev_echoes_its_input() {
    each_program(|program| {
        let machine = Machine::new(program);
        let shell = machine.type_in("skd -vl /dev/cat.sock cat");
        let socket = machine.namespace.path("/dev/cat.sock");
        wait_until("the socket takes connections", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
        let connection = connect_unix(&socket);
        assert_eq!(talk(connection, b"hello, cat\n"), b"hello, cat\n");
        let id = std::process::id();
        shell.wait_for_log(&format!(
            "Accepted local connection from pid {id} (uid = 0, gid = 0)"
        ));
        assert_eq!(shell.try_wait(std::time::Duration::ZERO), None);
    });
}

#[test]
fn a_daemon_serves_the_message_of_the_day() {
    each_program(|program| {
        let machine = Machine::new(program);
        let motd = "Welcome.\nThe printer is on fire.\n";
        machine.namespace.replace_file("/etc/motd", motd);
        let shell = machine
            .type_in("skd -vt 3000 -BP /var/run/motd.pid -L testsrv:daemon.info cat /etc/motd");
        let pid = || machine.namespace.shell("cat /var/run/motd.pid");
        if program.is_ours() {
            assert_eq!(shell.wait().code(), Some(0));
        } else {
            machine.namespace.shell(
                "until test -s /var/run/motd.pid && grep -q ':0BB8 .* 0A ' /proc/net/tcp; do
                    sleep 0.01
                done",
            );
        }
        let mut addresses = vec!["127.0.0.1:3000"];
        if program.is_ours() {
            addresses.push("[::1]:3000");
        }
        for address in addresses {
            let connection = machine.connect(address);
            let port = connection.local_addr().unwrap().port();
            assert_eq!(talk(connection, b""), motd.as_bytes());
            let host = address.trim_end_matches(":3000").trim_matches(['[', ']']);
            let message = machine.syslog.wait_for(&format!(
                "testsrv: Accepted connection from [{host}]:{port}"
            ));
            assert_eq!(message.priority(), Some(3 * 8 + 6));
        }
        if program.is_ours() {
            assert_eq!(shell.stdout_lines(), [""; 0]);
            assert_eq!(shell.log_lines(), [""; 0]);
        } else {
            // This command returns only when the daemon ends.
            assert_eq!(shell.try_wait(std::time::Duration::ZERO), None);
        }
        let daemon = Pid::from_raw(pid().trim().parse().unwrap());
        assert_eq!(session(daemon.as_raw()), Some(daemon.as_raw()));
        kill(daemon, Signal::SIGTERM).unwrap();
        assert!(shell.wait().success());
        wait_until("the daemon has ended", || {
            !crate::harness::exists(daemon.as_raw())
        });
        // mount(8) leaves a directory there.
        let left = machine
            .namespace
            .shell("ls /var/run | grep -v '^mount$' || true");
        match program {
            Program::Ours => assert_eq!(left, ""),
            Program::Original => assert_eq!(left, "motd.pid\n"),
        }
    });
}

#[test]
fn a_program_without_a_socket_becomes_a_daemon_with_a_log() {
    each_program(|program| {
        let machine = Machine::new(program);
        let seen = Directory::new();
        machine.programs.script(
            "uscheduled",
            "#!/bin/sh\n\
             echo \"started with $*\" >&2\n\
             sleep 1000 2> /dev/null &\n\
             trap 'echo stopped >&2; kill $!; exit' TERM\n\
             echo $$ > \"$SEEN/new\"; mv \"$SEEN/new\" \"$SEEN/pid\"\n\
             wait\n",
        );
        let line = format!(
            "export SEEN={}\nskd -BL uschedule:daemon.notice -- uscheduled -d /var/lib/uschedule",
            seen.path().display()
        );
        let shell = machine.type_in(&line);
        if program.is_ours() {
            assert_eq!(shell.wait().code(), Some(0));
        }
        let message = machine
            .syslog
            .wait_for("uschedule: started with -d /var/lib/uschedule");
        assert_eq!(message.priority(), Some(3 * 8 + 5));
        let pid: i32 = wait_for_text(seen.join("pid"), "\n")
            .trim()
            .parse()
            .unwrap();
        assert_eq!(session(pid), Some(pid));
        assert!(environment(pid).contains_key("SEEN"));
        if !program.is_ours() {
            assert_eq!(shell.try_wait(std::time::Duration::ZERO), None);
        }
        kill(Pid::from_raw(pid), Signal::SIGTERM).unwrap();
        machine.syslog.wait_for("uschedule: stopped");
        assert!(shell.wait().success());
    });
}

/// The commands of the README's server that has these words.
fn readme(words: &str) -> String {
    let readme = std::fs::read_to_string("README.md").unwrap();
    let blocks = readme.split("```sh\n").skip(1);
    let mut servers = blocks.map(|block| block.split("# In another terminal:").next().unwrap());
    let server = servers.find(|server| server.contains(words));
    server.unwrap_or_else(|| panic!("{words}")).to_owned()
}

/// Sends bytes and returns the answer, which a reset may cut short.
fn answer(mut stream: TcpStream, bytes: &[u8]) -> String {
    let mut text = Vec::new();
    let _ = stream.write_all(bytes);
    let _ = stream.read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn a_public_service_has_rules_and_limits() {
    const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
    requires_command("busybox");
    let machine = Machine::new(Program::Ours);
    for address in ["10.1.2.3/32", "192.0.2.7/32"] {
        machine.namespace.add_address(address);
    }
    let files = Directory::public();
    std::fs::create_dir(files.join("www")).unwrap();
    files.write("www/index.html", "It works.\n");
    // Without the shell in between, which would get the signals.
    let service = readme("--rate-per-source").replace("\nskd ", "\nexec skd ");
    let shell = machine.type_in_at(&service, &files);
    let to: SocketAddr = "127.0.0.1:8080".parse().unwrap();
    let from = |address: &str| {
        let own = address.parse().unwrap();
        machine.namespace.enter(|| connect_from(own, to))
    };
    let serves = || machine.namespace.enter(|| TcpStream::connect(to).is_ok());
    wait_until("it serves", serves);

    let page = answer(from("10.1.2.3"), REQUEST);
    assert!(page.ends_with("It works.\n"), "{page}");
    assert_eq!(answer(from("192.0.2.7"), REQUEST), "");
    shell.wait_for_log("denied by line 1 of the rules file");
    // At most four unfinished requests of an address, or fifty.
    let begun = |address: &str| {
        let mut stream = from(address);
        stream.write_all(b"GET").unwrap();
        stream
    };
    let _many: Vec<_> = (0..5).map(|_| begun("10.1.2.3")).collect();
    let _four: Vec<_> = (0..4).map(|_| begun("127.0.0.2")).collect();
    shell.wait_for_children(9);
    assert_eq!(answer(from("127.0.0.2"), REQUEST), "");
    shell.wait_for_log("127.0.0.2 has as many handlers as it may, 4");
    let told = (0..1000).find_map(|_| {
        let heard = answer(from("127.0.0.3"), REQUEST);
        (!heard.contains(" 200 OK")).then_some(heard)
    });
    let told = told.as_deref();
    assert_eq!(told, Some("HTTP/1.0 429 Too Many Requests\r\n\r\n"));

    files.write("blocked", "10.1.2.3\n");
    shell.signal(Signal::SIGHUP);
    shell.wait_for_log("Read 3 rules again");
    assert_eq!(answer(from("10.1.2.3"), REQUEST), "");
}

#[test]
fn a_proxy_names_its_clients() {
    let machine = Machine::new(Program::Ours);
    let shell = machine.type_in(&readme("--proxy-protocol"));
    let serves = || {
        let to: SocketAddr = "127.0.0.1:8081".parse().unwrap();
        machine.namespace.enter(|| TcpStream::connect(to).is_ok())
    };
    wait_until("it serves", serves);
    let header = b"PROXY TCP4 192.0.2.7 198.51.100.1 1234 80\r\n";
    let answer = talk(machine.connect("127.0.0.1:8081"), header);
    assert_eq!(answer, b"Hello, 192.0.2.7, by way of 127.0.0.1\n");
    shell.wait_for_log("Accepted connection from [192.0.2.7]:1234");
}
