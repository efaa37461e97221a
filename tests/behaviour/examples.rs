//! The three examples of the README of skd 1.2, to the letter, as root on a machine of their own.

use crate::harness::{
    Directory, Namespace, Program, Running, Skd, Syslog, connect_unix, each_program, environment,
    requires_root, session, talk, wait_for_text, wait_until,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;

/// A machine with nothing in /dev but the usual nodes and a system log, an empty /var/run, and skd in PATH.
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
        let path = std::env::var("PATH").unwrap();
        Skd::new(["-c", line])
            .binary("/bin/sh")
            .inside(&self.namespace)
            .env("PATH", format!("{}:{path}", self.programs.path().display()))
            .start_bare()
    }

    fn connect(&self, address: &str) -> std::net::TcpStream {
        let address: SocketAddr = address.parse().unwrap();
        self.namespace.enter(|| crate::harness::connect(address))
    }
}

#[test]
fn a_socket_in_dev_echoes_what_it_is_sent() {
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
            // It hangs for as long as the daemon lives.
            assert_eq!(shell.try_wait(std::time::Duration::ZERO), None);
        }
        let daemon = Pid::from_raw(pid().trim().parse().unwrap());
        assert_eq!(session(daemon.as_raw()), Some(daemon.as_raw()));
        kill(daemon, Signal::SIGTERM).unwrap();
        assert!(shell.wait().success());
        wait_until("the daemon has ended", || {
            !crate::harness::exists(daemon.as_raw())
        });
        // mount(8) has left a directory there.
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
