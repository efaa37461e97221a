//! Attacks of a handler.

use super::scene::{Attacker, HANDLERS, PATH, Scene, directory, user_alone};
use super::{Attack, Group};
use crate::harness::{
    Skd, Terminal, children, connect, exists, is_zombie, talk, try_talk, udp_client, wait_for_text,
    wait_until,
};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

pub(super) const GROUPS: &[&Group] = &[&USER, &DAEMON_USER, &CONFINED, &DATAGRAMS, &OTHERS];

const USER: Group = Group {
    scene: user,
    attacks: &[
        Attack::py("trace, read, limit, slow down, move or watch skd and the relay", "EPERM for all 19 calls", "by_number", "refused"),
        Attack::py("34 files of skd and the relay in /proc", "EACCES", "by_proc", "refused"),
        Attack::py("any signal to skd, its group or the relay, by kill and sigqueue", "EPERM", "signals", "refused"),
        Attack::py("TERM from the kernel, by F_SETOWN and F_SETSIG on its connection and on descriptor 2, which skd has too", "the kernel sends nothing: the owner has another user", "owner_signal", "sent"),
        Attack::py("kill(-1, TERM) and kill(-1, KILL)", "meets handlers alone", "everything", "sent"),
        Attack::py("trace skd, or open its memory, for a second of upgrades", "EPERM, EACCES at each moment", "upgrade_moments", "refused").beside(upgrades),
        Attack::py("descriptors other than 0, 1 and 2", "there are none", "descriptors", "0 1 2"),
        Attack::py("truncate, overwrite, seek, reopen, lease or chmod the log by descriptor 2, or open its file", "it is a pipe of root's; the file can't be opened", "log_file", "refused").after(log_is_whole),
        Attack::py("shrink, fill, splice and unblock the pipe of the log, and change it to packets", "skd's lines arrive; what had no space is counted", "pipe_games", "sent").after(log_is_whole),
        Attack::py("lines with made-up times in the log", "each line has its real time in front", "forged_lines", "sent").after(lines_have_times),
        Attack::py("give skd a session keyring, or find a key in its own", "EPERM, ENOKEY", "keys", "refused"),
        Attack::py("50 children that are skd's (CLONE_PARENT), so that their zombies stay", "skd reaps them", "children_of_skd", "made").after(no_zombie_stays),
        Attack::py("processes in sessions of their own that keep the connection", "others are served; skd waits for none", "orphans", "left").beside(served_meanwhile),
        Attack::py("stop and kill newborn handlers of others for a second", "a stopped one is continued, a killed one made again", "newborns", "sent").beside(clients),
        Attack::py("stop its own group and shut the connection down", "costs its slot alone", "stopped_group", "stopped"),
        Attack::py("end with SO_LINGER and a full connection, so that skd's close waits", "the close doesn't wait, or is another thread's", "lingering", super::ANYTHING),
        Attack::py("make a listening socket of its connection, which skd has kept", "skd closes it with the handler's end", "another_listener", "").after(listens_no_more),
        Attack::py("odd options on its connection: SO_RCVLOWAT, TCP_CORK, a filter, …", "none matters at the end", "odd_options", "set"),
        Attack::py("regain root: ids, groups, capabilities, limits, nice value, /etc/shadow", "EPERM, EACCES", "regain", "refused"),
        Attack::py("root in a user namespace, and skd from there", "EPERM", "namespace", "refused"),
        Attack::py("queues, segments and timers that it leaves behind", "skd has none of these", "things_left", ""),
        Attack::py("the service manager's socket, or what skd was started with, in its environment", "nothing of it is there", "service_manager", "nothing"),
    ],
};

fn user() -> Scene {
    let directory = directory();
    let log = directory.name("log");
    let note = directory.join("note");
    fs::write(&note, "").unwrap();
    fs::set_permissions(&note, fs::Permissions::from_mode(0o666)).unwrap();
    let to_log = format!(">>{log}");
    let skd = Skd::new([
        "-v",
        "-t",
        "127.0.0.1:0",
        "--user",
        &user_alone(1),
        "-L",
        &to_log,
    ]);
    let socket = directory.name("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&socket).unwrap();
    manager.set_nonblocking(true).unwrap();
    let skd = skd
        .env("NOTIFY_SOCKET", socket)
        .env("WATCHDOG_USEC", "9000000000");
    let note = note.to_str().unwrap().to_owned();
    Scene::of(Attacker::Handler, directory, skd)
        .with("log", log)
        .with("note", note)
}

fn upgrades(scene: &Scene) {
    for _ in 0..3 {
        let log = scene.directory.read("log");
        scene.skd.signal(Signal::SIGUSR2);
        let count = log.matches("Upgraded from").count();
        wait_until("an upgrade", || {
            scene.directory.read("log").matches("Upgraded from").count() > count
        });
    }
}

fn clients(scene: &Scene) {
    for _ in 0..10 {
        let _ = try_talk(scene.skd.connect(), b"{\"attack\": \"echo\"}\n");
    }
}

/// The attack, once begun, goes on for longer.
fn served_meanwhile(scene: &Scene) {
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(1) {
        scene.assert_served();
    }
}

/// Lines of skd arrive still, and the first is there.
fn log_is_whole(scene: &Scene) {
    let closed = || {
        scene
            .directory
            .read("log")
            .matches("Closed connection")
            .count()
    };
    let before = closed();
    scene.assert_served();
    wait_until("a line of skd", || closed() > before);
    let log = scene.directory.read("log");
    assert!(log.find("Accepted") < log.find("Closed"), "{log}");
}

fn lines_have_times(scene: &Scene) {
    let log = wait_for_text(scene.directory.join("log"), "half a line");
    for line in log.lines().filter(|line| {
        line.contains("192.0.2.1") || line.contains("skd: forged") || line.contains("half a line")
    }) {
        let year = line.get(..4).and_then(|year| year.parse::<u32>().ok());
        assert!(year.is_some_and(|year| year > 2000), "{line:?}");
    }
}

fn no_zombie_stays(scene: &Scene) {
    wait_until("no zombie stays", || {
        scene.assert_served();
        !children(scene.skd.pid()).into_iter().any(|pid| {
            // A handler may just have ended.
            is_zombie(pid) && {
                std::thread::sleep(Duration::from_millis(20));
                is_zombie(pid)
            }
        })
    });
}

fn listens_no_more(scene: &Scene) {
    let note = wait_for_text(scene.directory.join("note"), "listens ");
    let port: u16 = note.split(' ').nth(1).unwrap().parse().unwrap();
    wait_until("it is closed", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_err()
    });
}

const DAEMON_USER: Group = Group {
    scene: daemon_user,
    attacks: &[
        Attack::py(
            "all signals to a skd with the same user, by kill, sigqueue and pidfd",
            "refused by their sender, each with a line",
            "signals_of_a_namesake",
            "sent",
        ),
        Attack::py(
            "TERM from the kernel to such a skd, as the owner of a descriptor",
            "refused: no sender is verified",
            "owner_signal",
            "sent",
        ),
        Attack::py(
            "give such a skd another session keyring",
            "EPERM",
            "keys",
            "refused",
        ),
        Attack::py(
            "the log of such a skd by descriptor 2",
            "it is a pipe of root's",
            "log_file",
            "refused",
        ),
        Attack::py(
            "kill(-1, TERM) beside such a skd",
            "TERM is refused",
            "terminate_all",
            "sent",
        ),
        Attack::py(
            "root, from such a skd's handler",
            "EPERM",
            "regain",
            "refused",
        ),
    ],
};

fn daemon_user() -> Scene {
    let directory = directory();
    let log = directory.name("log");
    let to_log = format!(">>{log}");
    let skd = Skd::new([
        "-v",
        "-t",
        "127.0.0.1:0",
        "--daemon-user",
        &user_alone(2),
        "-L",
        &to_log,
    ]);
    Scene::of(Attacker::Handler, directory, skd).with("log", log)
}

const CONFINED: Group = Group {
    scene: confined,
    attacks: &[
        Attack::py(
            "a set-user-id program of root's, with --no-new-privs",
            "it runs as the handler",
            "set_user_id",
            "61246",
        ),
        Attack::py("root, with --no-new-privs", "EPERM", "regain", "refused"),
        Attack::py(
            "more files, processes or memory than --limit",
            "EPERM",
            "limits",
            "refused",
        ),
    ],
};

fn confined() -> Scene {
    let directory = directory();
    let suid = directory.join("id");
    fs::copy("/usr/bin/id", &suid).unwrap();
    fs::set_permissions(&suid, fs::Permissions::from_mode(0o4755)).unwrap();
    let options = [
        "--user",
        HANDLERS,
        "--no-new-privs",
        "--limit=nofile=50",
        "--limit=nproc=900",
    ];
    let suid = suid.to_str().unwrap().to_owned();
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0"]).args(options);
    Scene::of(Attacker::Handler, directory, skd).with("suid", suid)
}

const DATAGRAMS: Group = Group {
    scene: user,
    attacks: &[
        Attack::start(
            "pass lingering sockets to skd on a datagram exchange (per-packet, per-peer)",
            "refused by the kernel, or not received; others are served",
            exchanges,
        ),
        Attack::start(
            "answer a datagram with a thousand, empty and large ones in turn",
            "an answer that is too long is dropped, with a line; others are served",
            many_answers,
        ),
    ],
};

fn exchanges() {
    for mode in ["--datagram-mode=per-packet", "--datagram-mode=per-peer"] {
        let directory = directory();
        let text = directory.read("attacks.py");
        let (functions, _) = text.rsplit_once("main(ATTACKS").unwrap();
        let program = "if socket.socket(fileno=os.dup(0)).recv(9) == b'attack': passes_descriptors({})\nelse: os.write(1, b'hello')\nos._exit(0)\n";
        let program = directory.write("datagrams.py", format!("{functions}{program}"));
        let skd = Skd::new(["-v", "-u", "127.0.0.1:0", "--user", HANDLERS, mode]).env("PATH", PATH);
        let skd = skd.run_with("/usr/bin/python3", ["-SEs", program.to_str().unwrap()]);
        for _ in 0..8 {
            udp_client(skd.address()).send(b"attack").unwrap();
        }
        assert_eq!(
            crate::harness::ask_udp(skd.address(), b"x"),
            b"hello",
            "{mode}"
        );
        assert_eq!(skd.stop().code(), Some(0));
    }
}

fn many_answers() {
    let line = "recv(STDIN, $x, 9, 0); if ($x eq 'flood') { send(STDOUT, $_ % 2 ? '' : 'y' x 60000, 0) for 1..1000 } \
                else { send(STDOUT, $x, 0) }";
    let skd = Skd::new(["-v", "-u", "127.0.0.1:0", "--datagram-mode=per-packet"])
        .run_with("perl", ["-e", line]);
    let clients: Vec<_> = (0..4).map(|_| udp_client(skd.address())).collect();
    for client in &clients {
        client.send(b"flood").unwrap();
    }
    let client = udp_client(skd.address());
    client.send(b"honest").unwrap();
    let mut answer = [0; 9];
    wait_until("an answer", || {
        client
            .recv(&mut answer)
            .is_ok_and(|length| &answer[..length] == b"honest")
    });
    assert_eq!(skd.stop().code(), Some(0));
}

const OTHERS: Group = Group {
    scene: user,
    attacks: &[
        Attack::start(
            "/dev/tty, TIOCSTI, TIOCLINUX, TIOCSCTTY, tcsetpgrp and reading on skd's terminal",
            "ENXIO, EPERM, ENOTTY, EBADF: it has no terminal, and 2 is write-only",
            terminal,
        ),
        Attack::start(
            "shut the listening socket down, with --wait",
            "skd stops watching it, says so, and doesn't spin",
            listener_shut_down,
        ),
        Attack::start(
            "leave a root directory by .., by descriptors and by /proc",
            "there is no way out",
            out_of_root,
        ),
        Attack::start(
            "make its supervisor's children (CLONE_PARENT), and signal it",
            "the supervisor reaps them, and obeys no signal",
            supervisor,
        ),
    ],
};

fn terminal() {
    let mut terminal = Terminal::new();
    let directory = directory();
    let program = directory.name("attacks.py");
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--user", HANDLERS])
        .controlled_by(&terminal)
        .stdin(terminal.end())
        .stderr(terminal.end())
        .env("PATH", PATH)
        .run_with("/usr/bin/python3", ["-SEs", &program]);
    let met = talk(skd.connect(), b"{\"attack\": \"terminal\"}\n");
    assert_eq!(String::from_utf8_lossy(&met), "refused");
    assert_eq!(talk(skd.connect(), b"{\"attack\": \"echo\"}\n"), b"echo");
    assert_eq!(skd.stop().code(), Some(0));
    let _ = terminal.read();
}

fn listener_shut_down() {
    let skd = Skd::new(["-v", "--wait", "-t", "127.0.0.1:0", "--user", HANDLERS]);
    let skd = skd
        .env("PATH", PATH)
        .run_with("perl", ["-e", "shutdown(STDIN, 2)"]);
    drop(connect(skd.address()));
    skd.wait_for_log("a handler has shut the socket down");
    crate::harness::assert_idle(&[skd.pid()]);
    assert!(skd.log_lines().len() < 30);
    assert_eq!(skd.stop().code(), Some(0));
}

fn out_of_root() {
    crate::harness::requires_command("busybox");
    let root = crate::harness::Directory::public();
    root.install(&["/bin/busybox"]);
    root.write("inside", "");
    let line = "cd ..; cd ../../../..; for d in . /proc/self/root/.. /proc/1/root /dev/fd/0/.. /dev/fd/1 /dev/fd/2; do \
                (cd $d 2>/dev/null && busybox test ! -e inside && echo out) ; done; echo end";
    let skd =
        Skd::new(["-v", "-t", "127.0.0.1:0", "--user", HANDLERS, "--chroot"]).arg(root.path());
    let skd = skd
        .env("PATH", "/bin")
        .run_with("/bin/busybox", ["sh", "-c", line]);
    assert_eq!(talk(skd.connect(), b""), b"end\n");
    assert_eq!(talk(skd.connect(), b""), b"end\n");
}

fn supervisor() {
    let directory = directory();
    let text = directory.read("attacks.py");
    let (functions, _) = text.rsplit_once("main(ATTACKS").unwrap();
    let program = "signals_of_a_namesake({})\nchildren_of_skd({})\nprint('made', flush=True)\ntime.sleep(1000)\n";
    let program = directory.write("supervised.py", format!("{functions}{program}"));
    let skd = Skd::new(["-S", "--daemon-user", HANDLERS]).env("PATH", PATH);
    let skd = skd.run_with("/usr/bin/python3", ["-SEs", program.to_str().unwrap()]);
    assert_eq!(skd.stdout_line(), "made");
    wait_until("no zombie stays", || {
        children(skd.pid())
            .iter()
            .filter(|pid| exists(**pid))
            .count()
            == 1
            && !children(skd.pid()).into_iter().any(is_zombie)
    });
    skd.signal(Signal::SIGTERM);
    assert_eq!(skd.wait().code(), Some(128 + 15));
}

#[test]
fn with_another_user() {
    super::run(&USER);
}

#[test]
fn with_the_user_of_skd() {
    super::run(&DAEMON_USER);
}

#[test]
fn without_new_privileges() {
    super::run(&CONFINED);
}

#[test]
fn of_datagrams() {
    super::run(&DATAGRAMS);
}

#[test]
fn in_other_ways() {
    super::run(&OTHERS);
}
