//! Descriptors that a client of a unix socket, or a handler, passes along: skd's close or receive may be the last
//! close of a TCP socket that waits (`SO_LINGER`) for as long as its owner chose.

#![allow(unsafe_code)] // Calls that nix lacks.

use crate::harness::{
    Directory, Running, Skd, ask_udp, connect_unix, descriptors, echo, idle_descriptors,
    requires_command, send_unix_datagram, talk, udp_client, unix_datagram_client, wait_until,
};
use nix::errno::Errno;
use nix::sys::resource::Resource;
use nix::sys::signal::Signal;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use socket2::SockRef;
use std::io::{IoSlice, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread;
use std::time::Duration;

/// More than there are threads in skd.
const MANY: usize = 8;

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(3_600);

/// A TCP socket whose last close waits until the other end, which is returned too, is closed.
fn poison() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    stream.set_nonblocking(true).unwrap();
    while (&stream).write(&[0; 65_536]).is_ok() {}
    SockRef::from(&stream).set_linger(Some(LONG)).unwrap();
    (stream, other)
}

/// Sends `bytes` on a unix socket and passes such a socket along. On success the only other descriptor of that is
/// closed by a thread, which may wait. Returns the other end.
fn pass(to: &impl AsRawFd, bytes: &[u8]) -> Result<TcpStream, Errno> {
    let (stream, other) = poison();
    let sent = [stream.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&sent)];
    let payload = [IoSlice::new(bytes)];
    let flags = MsgFlags::MSG_NOSIGNAL;
    match sendmsg::<()>(to.as_raw_fd(), &payload, &control, flags, None) {
        Ok(_) => {
            thread::spawn(move || drop(stream));
            Ok(other)
        }
        Err(errno) => {
            drop(other);
            Err(errno)
        }
    }
}

/// Whether the kernel can refuse descriptors (`SO_PASSRIGHTS`).
fn kernel_refuses() -> bool {
    let (one, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let zero: libc::c_int = 0;
    let length = size_of_val(&zero) as libc::socklen_t;
    // SAFETY: the kernel reads an int, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            one.as_raw_fd(),
            libc::SOL_SOCKET,
            83,
            (&raw const zero).cast(),
            length,
        )
    };
    result == 0
}

/// The ways to be protected: the kernel refuses descriptors; they are allowed; and the kernel doesn't know.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Refused,
    Allowed,
    OldKernel,
}

impl Way {
    fn all() -> Vec<Self> {
        let mut all = vec![Self::OldKernel, Self::Allowed];
        if kernel_refuses() {
            all.push(Self::Refused);
        }
        all
    }

    fn apply(self, skd: Skd) -> Skd {
        match self {
            Self::Refused => skd,
            Self::Allowed => skd.arg("--accept-descriptors"),
            // Bit 6 of SO_PASSRIGHTS; no option that skd sets besides has it.
            Self::OldKernel => skd.refusing_bits(libc::SYS_setsockopt, 2, 64, Errno::ENOPROTOOPT),
        }
    }

    /// Passes poison in `MANY` connections, and returns those with the other ends.
    fn attack(
        self,
        path: &str,
        bytes: &[u8],
    ) -> Vec<(std::os::unix::net::UnixStream, Option<TcpStream>)> {
        let mut passed = Vec::new();
        while passed.len() < MANY {
            let client = connect_unix(path);
            match pass(&client, bytes) {
                Ok(other) => {
                    assert_ne!(self, Self::Refused);
                    passed.push((client, Some(other)));
                }
                Err(Errno::EPERM) => {
                    assert_eq!(self, Self::Refused);
                    passed.push((client, None));
                }
                // skd was faster. Tried again.
                Err(Errno::EPIPE | Errno::ECONNRESET) => {}
                Err(errno) => panic!("{errno}"),
            }
        }
        passed
    }
}

fn expect_end(skd: Running) {
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn clients_that_are_denied_hold_up_no_thread() {
    for way in Way::all() {
        let directory = Directory::public();
        let path = directory.name("socket");
        let skd = Skd::new(["-v", "-l", &path, "--unix-mode=666", "--deny=uid=1"]);
        let skd = way.apply(skd).run("cat");
        let _passed = attack_as_other_user(way, &path);
        for _ in 0..MANY {
            echo(&mut connect_unix(&path), b"hello");
        }
        expect_end(skd);
    }
}

/// [`Way::attack`] in a thread with uid 1.
fn attack_as_other_user(
    way: Way,
    path: &str,
) -> Vec<(std::os::unix::net::UnixStream, Option<TcpStream>)> {
    let path = path.to_owned();
    let attack = thread::spawn(move || {
        // SAFETY: the call changes the effective user of this thread alone.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, -1, 1, 0) };
        assert_eq!(result, 0);
        way.attack(&path, b"x")
    });
    attack.join().unwrap()
}

#[test]
fn a_quick_handler_holds_up_no_thread() {
    for way in Way::all() {
        for linger in [&[][..], &["--linger=1s"]] {
            let directory = Directory::new();
            let path = directory.name("socket");
            let skd = way
                .apply(Skd::new(["-v", "-l", &path]).args(linger))
                .run("true");
            let passed = way.attack(&path, b"x");
            for (mut client, _) in passed {
                // The end, or that its input wasn't read.
                let _ = client.read(&mut [0]);
            }
            for _ in 0..MANY {
                talk_to_the_end(&path);
            }
            expect_end(skd);
        }
    }
}

#[test]
fn a_client_of_the_control_socket_holds_up_no_other() {
    for way in [Way::OldKernel, Way::Refused] {
        if way == Way::Refused && !kernel_refuses() {
            continue;
        }
        let directory = Directory::public();
        let path = directory.name("control");
        let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--control", &path]);
        let skd = way.apply(skd.arg("--control-mode=666")).run("cat");
        // A client that may ask, and a client that is refused.
        let _passed = way.attack(&path, b"x");
        let _refused = attack_as_other_user(way, &path);
        for _ in 0..MANY {
            let mut client = connect_unix(&path);
            client.write_all(b"\n").unwrap();
            let mut answer = [0; 12];
            client.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"{\"version\":1");
        }
        // A preflight that is accepted parks the control thread.
        skd.signal(Signal::SIGUSR2);
        skd.wait_for_log("Upgraded from skd ");
        expect_end(skd);
    }
}

fn talk_to_the_end(path: impl AsRef<Path>) {
    assert_eq!(connect_unix(path).read(&mut [0]).unwrap(), 0);
}

#[test]
fn connections_that_nothing_accepts_hold_up_no_end() {
    for way in Way::all() {
        let directory = Directory::new();
        let path = directory.name("socket");
        let skd = Skd::new(["-v", "-l", &path, "-c", "1", "--drain=100ms"]);
        let skd = way.apply(skd).run("cat");
        let mut only = connect_unix(&path);
        echo(&mut only, b"hello");
        let _passed = way.attack(&path, b"x");
        skd.signal(Signal::SIGTERM);
        skd.signal(Signal::SIGTERM);
        skd.wait();
    }
}

#[test]
fn a_listener_is_closed_without_a_free_descriptor() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let few = 64;
    let skd = Skd::new(["-v", "-l", &path, "--drain=100ms", "--threads=1"]).limit(
        Resource::RLIMIT_NOFILE,
        few,
        few,
    );
    let skd = Way::OldKernel.apply(skd).run("cat");
    let passed: Vec<_> = (0..few)
        .map(|_| {
            let client = connect_unix(&path);
            let other = pass(&client, b"x").unwrap();
            (client, other)
        })
        .collect();
    skd.wait_for_log("Too many open files");
    skd.signal(Signal::SIGTERM);
    skd.signal(Signal::SIGTERM);
    skd.wait();
    drop(passed);
}

#[test]
fn a_proxy_header_holds_up_no_thread() {
    for way in Way::all() {
        let directory = Directory::new();
        let path = directory.name("socket");
        let skd = Skd::new(["-v", "-l", &path, "--proxy-protocol", "--proxy-from=unix"]);
        let skd = way.apply(skd).run("cat");
        let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1000 80\r\n";
        let passed = way.attack(&path, header);
        for (mut client, sent) in passed {
            if sent.is_some() {
                let _ = client.read(&mut [0]);
            }
        }
        for _ in 0..MANY {
            let answer = talk(connect_unix(&path), &[&header[..], b"hello"].concat());
            assert_eq!(answer, b"hello");
        }
        expect_end(skd);
    }
}

#[test]
fn the_main_thread_waits_for_no_datagram() {
    for way in Way::all() {
        let directory = Directory::new();
        let path = directory.name("socket");
        let skd = way.apply(Skd::new(["-v", "-d", "-l", &path])).run("true");
        let client = unix_datagram_client(directory.name("own"), &path);
        let passed = pass(&client, b"x");
        if way == Way::Refused {
            assert_eq!(passed.unwrap_err(), Errno::EPERM);
            send_unix_datagram(&path, b"x");
        }
        // Its handlers leave it unread, so skd discards it.
        skd.wait_for_log("unread, 1 byte");
        expect_end(skd);
    }
}

#[test]
fn single_datagrams_hold_up_no_thread() {
    for way in Way::all() {
        let directory = Directory::new();
        let path = directory.name("socket");
        let skd = Skd::new(["-v", "-d", "-l", &path, "--datagram-mode=per-packet"]);
        let skd = way.apply(skd).run("cat");
        let client = unix_datagram_client(directory.name("own"), &path);
        let expected = (way != Way::OldKernel && kernel_refuses()).then_some(Errno::EPERM);
        let passed: Vec<_> = (0..MANY).map(|_| pass(&client, b"x")).collect();
        let errors = passed.iter().map(|it| it.as_ref().err().copied());
        assert_eq!(errors.collect::<Vec<_>>(), [expected; MANY], "{way:?}");
        client.send(b"hello").unwrap();
        let mut answer = [0; 10];
        let length = client.recv(&mut answer).unwrap();
        assert_eq!(&answer[..length], b"hello");
        if expected.is_none() {
            skd.wait_for_log("have passed descriptors along");
        }
        expect_end(skd);
    }
}

/// Answers "hello"; otherwise it passes such a socket to skd on its exchange, and ends.
const PASSING: &str = r#"
import array, os, signal, socket, struct, sys
s = socket.socket(fileno=os.dup(0))
if s.recv(10) == b"hello":
    s.send(b"hello"); os._exit(0)
l = socket.socket(); l.bind(("127.0.0.1", 0)); l.listen()
a = socket.create_connection(l.getsockname()); b, _ = l.accept()
a.setblocking(False)
try:
    while True: a.send(b"x" * 65536)
except BlockingIOError: pass
a.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
# Where it is skd that waits, the other end has to live.
r, w = os.pipe()
if os.fork() == 0:
    os.setsid(); signal.alarm(60); a.close(); s.close()
    for fd in 0, 1, 2: os.close(fd)
    os.write(w, b"x"); signal.pause()
os.read(r, 1)
try:
    s.sendmsg([b"passed"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [a.fileno()]))])
except PermissionError:
    s.send(b"refused")
# Its own close would wait.
os._exit(0)
"#;

#[test]
fn a_handler_of_datagrams_holds_up_no_thread() {
    requires_command("python3");
    let directory = Directory::new();
    let script = directory.write("passing.py", PASSING);
    let script = script.to_str().unwrap();
    for mode in ["--datagram-mode=per-packet", "--datagram-mode=per-peer"] {
        for way in Way::all() {
            if way == Way::Allowed {
                // There is no unix listener.
                continue;
            }
            let skd = Skd::new(["-v", "-u", "127.0.0.1:0", mode, "--threads=2"]);
            let skd = way.apply(skd).run_with("python3", [script]);
            for _ in 0..MANY {
                let client = udp_client(skd.address());
                client.send(b"pass").unwrap();
                if way == Way::Refused {
                    let mut answer = [0; 10];
                    let length = client.recv(&mut answer).unwrap();
                    assert_eq!(&answer[..length], b"refused");
                }
            }
            skd.wait_for_logs("Finished", MANY);
            assert_eq!(ask_udp(skd.address(), b"hello"), b"hello");
            expect_end(skd);
        }
    }
}

/// Leaves an orphan behind in a session of its own, which makes the close of the connection wait once the handler
/// has ended and skd has had a look at the connection, and then ends.
const ORPHAN: &str = r#"
import os, socket, struct, sys, time
s = socket.socket(fileno=0)
r, w = os.pipe()
if os.fork() == 0:
    os.setsid(); os.close(w); os.close(1); os.close(2)
    os.read(r, 1)
    s.setblocking(False)
    try:
        while True: s.send(b"x" * 65536)
    except OSError: pass
    end = time.monotonic() + float(sys.argv[1])
    while time.monotonic() < end:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 3600))
        time.sleep(0.01)
    os._exit(0)
# Without this the orphan's data would come after the end.
s.setblocking(False)
try:
    while True: s.send(b"x" * 65536)
except BlockingIOError: pass
"#;

#[test]
fn an_orphan_that_sets_a_linger_time_holds_up_no_thread() {
    requires_command("python3");
    let directory = Directory::new();
    let script = directory.write("orphan.py", ORPHAN);
    let script = script.to_str().unwrap();
    let line =
        format!("read -r line; test \"$line\" = orphan && exec python3 {script} 1; echo \"$line\"");
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--linger=2s"]).run_with("sh", ["-c", &line]);
    let before = idle_descriptors(skd.pid());
    let mut clients = Vec::new();
    for _ in 0..MANY {
        let mut client = skd.connect();
        client.write_all(b"orphan\n").unwrap();
        clients.push(client);
    }
    skd.wait_for_logs("Closed connection from", MANY);
    wait_until("all connections are closed", || {
        descriptors(skd.pid()).len() == before
    });
    for _ in 0..MANY {
        assert_eq!(talk(skd.connect(), b"hello\n"), b"hello\n");
    }
    expect_end(skd);
    drop(clients);
}

#[test]
fn handlers_get_descriptors_if_they_may() {
    requires_command("python3");
    let script = "import array, os, socket\n\
        s = socket.socket(fileno=0)\n\
        _, control, _, _ = s.recvmsg(10, 1000)\n\
        os.write(array.array('i', control[0][2])[0], b'through it')";
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd =
        Skd::new(["-v", "--accept-descriptors", "-l", &path]).run_with("python3", ["-c", script]);
    let client = connect_unix(&path);
    let (mut reader, writer) = std::io::pipe().unwrap();
    let sent = [writer.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&sent)];
    let payload = [IoSlice::new(b"x")];
    sendmsg::<()>(
        client.as_raw_fd(),
        &payload,
        &control,
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through it");
    expect_end(skd);
}
