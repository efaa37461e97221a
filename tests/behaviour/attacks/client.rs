//! Attacks of a client.

use super::scene::{Attacker, HANDLERS, Scene, Served, directory};
use super::{Attack, Group};
use crate::harness::{Skd, requires_descriptors};
use std::time::Duration;

pub(super) const GROUPS: &[&Group] = &[
    &QUICK, &PLAIN, &LIMITED, &PROXY, &MAPPED, &UDP, &PEERS, &WARM, &FORKED, &PAGE,
];

const PLAIN: Group = Group {
    scene: plain,
    attacks: &[
        Attack::py(
            "resets at each stage: at once, within the request, beside the handler, after the answer",
            "each is a line at most; others are served",
            "resets",
            "served",
        ),
        Attack::py(
            "the end of the input before any of it",
            "the handler sees the end; others are served",
            "half_closed",
            "served",
        ),
        Attack::py(
            "60 answers that are never read, by clients that never close",
            "others are served",
            "unread",
            "served",
        ),
    ],
};

const NEVER_CLOSES: Attack = Attack::py(
    "1,500 clients whose input isn't read and that never close, with the lingering close by default",
    "bounded; others are served",
    "never_closes",
    "served",
);

const QUICK: Group = Group {
    scene: quick,
    attacks: &[NEVER_CLOSES],
};

fn quick() -> Scene {
    requires_descriptors(3_000);
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--user", HANDLERS])
        .env("PATH", "/bin")
        .run_with("/bin/echo", ["answer"]);
    Scene::beside(Attacker::Client, directory(), skd).at(Served::Silent)
}

fn plain() -> Scene {
    Scene::tcp(Attacker::Client, &["--user", HANDLERS])
}

const LIMITED: Group = Group {
    scene: limited,
    attacks: &[
        Attack::py(
            "more silent clients than there are slots, with --first-byte",
            "they have no slot; others are served",
            "silent",
            "served",
        ),
        Attack::py(
            "all slots for one source",
            "--max-per-source refuses it alone",
            "one_source",
            "served",
        ),
        Attack::py(
            "urgent data and nothing else, with --first-byte",
            "no thread spins",
            "urgent",
            "calm",
        ),
    ],
};

fn limited() -> Scene {
    let options = [
        "--user",
        HANDLERS,
        "--first-byte=30s",
        "-c",
        "8",
        "--max-per-source=4",
    ];
    Scene::tcp(Attacker::Client, &options)
}

const PROXY: Group = Group {
    scene: proxy,
    attacks: &[
        Attack::py(
            "23 faulty PROXY headers: signs, zeros, octal numbers, scope ids, spaces, lengths, versions, commands",
            "closed, unserved",
            "faulty_headers",
            "closed",
        ),
        Attack::py(
            "headers that never end, by 61 connections",
            "--proxy-timeout ends them; no thread spins; others are served",
            "endless_header",
            "calm served",
        ),
        Attack::py(
            "a client that the rules deny, in six forms: IPv4 within IPv6, --nat64, version 2",
            "the IPv4 rule denies all of them",
            "header_of_a_denied",
            "closed",
        ),
        Attack::py(
            "a second header behind the first",
            "it is input of the handler",
            "second_header",
            "not believed",
        ),
        Attack::py(
            "a header from a peer that isn't the proxy",
            "closed, unread",
            "header_without_trust",
            "closed",
        ),
        Attack::py(
            "lines and escapes in unix paths and extensions of a header",
            "skd logs addresses and numbers",
            "odd_header_bytes",
            "sent",
        )
        .after(no_forged_line),
    ],
};

fn proxy() -> Scene {
    let options = [
        "--proxy-protocol",
        "--proxy-from=127.0.0.1",
        "--proxy-timeout=2s",
        "--deny=198.51.100.0/24",
        "--allow=all",
        "--nat64=64:ff9b::/96",
        "--user",
        HANDLERS,
    ];
    Scene::tcp(Attacker::Client, &options).at(Served::Header)
}

fn no_forged_line(scene: &Scene) {
    scene.assert_served();
    let lines = scene.skd.log_lines();
    assert!(
        !lines
            .iter()
            .any(|line| line.contains("forged") || line.contains('\x1b')),
        "{lines:?}"
    );
}

const MAPPED: Group = Group {
    scene: mapped,
    attacks: &[Attack::py(
        "an IPv4 client as ::ffff:a.b.c.d on a socket for both families",
        "the IPv4 rule denies it",
        "forms_of_an_address",
        "closed",
    )],
};

fn mapped() -> Scene {
    let directory = directory();
    let skd = Skd::new([
        "-v",
        "-t",
        "0",
        "--deny=127.0.0.3",
        "--allow=all",
        "--user",
        HANDLERS,
    ]);
    Scene::of(Attacker::Client, directory, skd)
}

const UDP: Group = Group {
    scene: udp,
    attacks: &[
        Attack::py(
            "10,000 empty datagrams, and the largest ones",
            "others are answered",
            "datagrams",
            "served",
        ),
        Attack::py(
            "a forged source that is the service itself, from two addresses (CVE-2024-2169)",
            "dropped and counted; no loop",
            "forged_sources",
            "calm served",
        ),
        Attack::py(
            "sources with port 0 and those of other services",
            "dropped",
            "low_ports",
            "served",
        ),
        Attack::py(
            "300 senders that wait for no answer",
            "others are answered",
            "many_senders",
            "served",
        ),
    ],
};

fn udp() -> Scene {
    let options = ["-u", "127.0.0.1:0", "--datagram-mode=per-packet", "-c", "8"];
    let skd = Skd::new(["-v"])
        .args(options)
        .throttle(Duration::ZERO)
        .run("cat");
    Scene::beside(Attacker::Client, directory(), skd).at(Served::Udp)
}

const PEERS: Group = Group {
    scene: peers,
    attacks: &[
        Attack::new(
            "a handler of another user than the client's, with --as-peer",
            "it has the client's user, group and groups",
            super::Code::User(1, "as_the_peer", "1 1 []"),
        ),
        Attack::new(
            "root as the client, with --as-peer",
            "refused: no handler is root",
            super::Code::User(0, "as_root", "closed"),
        ),
        Attack::new(
            "root of a user namespace as the client, with --as-peer",
            "its user outside",
            super::Code::User(1, "as_unmapped", "1 1 []"),
        ),
    ],
};

fn peers() -> Scene {
    let directory = directory();
    let path = directory.name("socket");
    let skd = Skd::new(["-v", "-l", &path, "--unix-mode=666", "--as-peer"]);
    Scene::of(Attacker::Client, directory, skd).at(Served::Peers(path))
}

/// A program that changes all that the next client could notice, and tells what it has found.
const STATE: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
static int count;
int main(void) {
    char *shared = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char line[64];
    if (!fgets(line, sizeof line, stdin)) return 1;
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    char where[4096];
    struct sigaction action;
    sigaction(SIGUSR1, 0, &action);
    printf("%d %d %s %s %d %d %o\n", count++, shared[0]++, getcwd(where, sizeof where), getenv("LEFT") ? "left" : "none",
           action.sa_handler == SIG_IGN, files.rlim_cur == 77, umask(0));
    chdir("/tmp"); setenv("LEFT", "1", 1); signal(SIGUSR1, SIG_IGN); files.rlim_cur = 77; setrlimit(RLIMIT_NOFILE, &files);
    umask(0777); nice(3);
    return 0;
}
"#;

const WARM: Group = Group {
    scene: warm,
    attacks: &[Attack::py(
        "end or reset in the moment of the hand-off to a prestarted handler",
        "no slot and no handler is lost",
        "ends_early",
        "served",
    )],
};

fn warm() -> Scene {
    Scene::tcp(Attacker::Client, &["--warm=2", "--user", HANDLERS])
}

const FORKED: Group = Group {
    scene: forked,
    attacks: &[Attack::py(
        "memory, directory, variables, signals and limits of the client before, with --fork-server",
        "each handler is as new",
        "state_of_others",
        "0 0 / none 0 0 22",
    )],
};

fn forked() -> Scene {
    of_copies("--fork-server")
}

fn of_copies(option: &str) -> Scene {
    let directory = directory();
    let program = directory.compile_shared("state", STATE);
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0", option, "--chdir=/", "--umask=22"]).run(program);
    Scene::beside(Attacker::Client, directory, skd).at(Served::Silent)
}

/// The status page, that skd serves by itself.
const PAGE: Group = Group {
    scene: page,
    attacks: &[
        Attack::py(
            "34 heads that two servers of HTTP could read differently, each with another request behind it",
            "each is refused, and what is behind it isn't read",
            "page_smuggling",
            "refused",
        ),
        Attack::py(
            "the status page by 28 names of strangers, in Host and in the target (DNS rebinding)",
            "no figure is told",
            "page_hosts",
            "refused",
        ),
        Attack::py(
            "14 paths that lead out of the status page",
            "there is nothing",
            "page_paths",
            "refused",
        ),
        Attack::py(
            "heads of a request that are too long, have too many fields, or never begin",
            "431",
            "page_heads",
            "refused",
        ),
        Attack::py(
            "1,200 requests for the status page at once",
            "a connection carries 1,000",
            "page_pipelined",
            "1000 404",
        ),
    ],
};

fn page() -> Scene {
    let directory = directory();
    let control = directory.name("control");
    let page = ["--socket", &control, "http"];
    let page = Skd::new(["-v", "-t", "127.0.0.1:0"]).run_with(crate::ctl::program(), page);
    let port = page.port();
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--control", &control]);
    Scene::of(Attacker::Client, directory, skd)
        .with_number("page", port)
        .and(page)
}

#[test]
fn of_the_status_page() {
    super::run(&PAGE);
}

#[test]
fn of_a_plain_service() {
    super::run(&PLAIN);
    super::run(&QUICK);
}

#[test]
fn of_a_service_with_limits() {
    super::run(&LIMITED);
}

#[test]
fn behind_a_proxy() {
    super::run(&PROXY);
}

#[test]
fn of_both_families() {
    super::run(&MAPPED);
}

#[test]
fn with_datagrams() {
    super::run(&UDP);
}

#[test]
fn of_a_service_as_its_peer() {
    super::run(&PEERS);
}

#[test]
#[cfg(target_arch = "x86_64")]
fn of_prestarted_handlers() {
    super::run(&WARM);
    super::run(&FORKED);
    // Wherever the template is parked.
    for scene in [
        || of_copies("--fork-server=start"),
        || of_copies("--fork-server=shared"),
    ] {
        let attacks = FORKED.attacks;
        super::run(&Group { scene, attacks });
    }
}
