//! Hundreds and thousands of services in one daemon.

use crate::harness::{
    DEADLINE, Directory, Running, Skd, assert_idle, close_tcp, connect, connect_unix, descriptors,
    echo, requires_command, requires_root, rss_anon, talk, threads,
};
use crate::services::program;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// A daemon of services, each of them a line without its name. Their names are those of numbers.
fn daemon(directory: &Directory, lines: impl Iterator<Item = String>) -> Skd {
    let numbered = lines.enumerate();
    let text: String = numbered
        .map(|(number, line)| format!("s{number} {line}\n"))
        .collect();
    directory.write("services", text);
    Skd::new([directory.name("services")]).binary(program())
}

/// An address of the loopback network for a service, the same port for all.
fn address(number: usize, port: u16) -> SocketAddr {
    let byte = |number: usize| u8::try_from(number % 250).unwrap();
    let address = Ipv4Addr::new(
        127,
        2 + byte(number / 62_500),
        byte(number / 250),
        1 + byte(number),
    );
    (address, port).into()
}

/// A port that was free a moment ago.
fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    close_tcp(listener).port()
}

/// Waits until the last service, on this unix socket, answers.
fn wait_for_last(skd: &Running, path: &std::path::Path) {
    skd.wait_until("the last service listens", || {
        UnixStream::connect(path).is_ok()
    });
}

#[test]
fn a_thousand_services_start_answer_and_end() {
    const EACH: usize = 500;
    let directory = Directory::new();
    let port = free_port();
    let tcp = (0..EACH).map(|number| {
        let listen = address(number, port);
        match number % 3 {
            0 => format!("-t {listen} echo t{number}"),
            1 => format!("-t {listen} --max-clients 2 --limit nofile=64 echo t{number}"),
            _ => format!(
                "-t {listen} --allow 127.0.0.0/8 --max-per-source 3 --rate 100/s echo t{number}"
            ),
        }
    });
    let unix = (0..EACH).map(|number| {
        format!(
            "-x {} echo u{number}",
            directory.name(&format!("u{number}"))
        )
    });
    let skd = daemon(&directory, tcp.chain(unix)).start_bare();
    wait_for_last(&skd, &directory.join(format!("u{}", EACH - 1)));
    for number in 0..EACH {
        let answer = talk(connect(address(number, port)), b"");
        assert_eq!(String::from_utf8(answer).unwrap(), format!("t{number}\n"));
        let answer = talk(connect_unix(directory.join(format!("u{number}"))), b"");
        assert_eq!(String::from_utf8(answer).unwrap(), format!("u{number}\n"));
    }
    assert_idle(&[skd.pid()]);
    assert_eq!(skd.stop().code(), Some(0));
    let left = std::fs::read_dir(directory.path()).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["services"]);
    assert_eq!(skd.log_lines(), [""; 0]);
}

#[test]
fn a_client_of_a_full_service_among_hundreds_is_served_when_a_slot_is_free() {
    const SERVICES: usize = 300;
    let directory = Directory::new();
    let path = |number: usize| directory.join(format!("u{number}"));
    let line = |number| format!("-x {} --max-clients 1 cat", path(number).display());
    let skd = daemon(&directory, (0..SERVICES).map(line)).start_bare();
    wait_for_last(&skd, &path(SERVICES - 1));
    // Each worker has slots of some services, and waits for those of others.
    for round in 0..3 {
        for number in (round..SERVICES).step_by(29) {
            let mut first = connect_unix(path(number));
            echo(&mut first, b"first");
            let mut second = connect_unix(path(number));
            let mut other = connect_unix(path((number + 1) % SERVICES));
            echo(&mut other, b"other");
            second.set_nonblocking(true).unwrap();
            let waits = second.read(&mut [0]).map_err(|reason| reason.kind());
            assert_eq!(waits, Err(ErrorKind::WouldBlock));
            second.set_nonblocking(false).unwrap();
            drop(first);
            echo(&mut second, b"second");
        }
    }
    assert_idle(&[skd.pid()]);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn services_with_the_same_user_are_proved_by_one_child() {
    requires_root();
    requires_command("strace");
    const SERVICES: usize = 200;
    let directory = Directory::new();
    let trace = directory.name("trace");
    let line = |number| {
        let (path, user) = (
            directory.name(&format!("u{number}")),
            ["nobody", "daemon"][number % 2],
        );
        format!(
            "-x {path} --user {user} {} x",
            ["echo", "true", "cat"][number % 3]
        )
    };
    let skd = daemon(&directory, (0..SERVICES).map(line)).wrapper([
        "strace",
        "-f",
        "-qq",
        "-o",
        &trace,
        "-e",
        "trace=clone,clone3,fork,vfork",
    ]);
    let skd = skd.start_bare();
    wait_for_last(&skd, &directory.join(format!("u{}", SERVICES - 1)));
    let made = directory
        .read("trace")
        .lines()
        .filter(|line| line.contains("= "))
        .count();
    assert!(
        made < 40,
        "{made} processes and threads:\n{}",
        directory.read("trace")
    );
    skd.stop();
}

#[test]
fn handlers_of_each_of_many_services_are_its_user() {
    requires_root();
    const SERVICES: usize = 60;
    let directory = Directory::public();
    let users = ["nobody", "daemon", "bin"];
    let port = free_port();
    let line = |number: usize| {
        let (listen, user) = (address(number, port), users[number % users.len()]);
        format!("-t {listen} --user {user} --env NUMBER={number} --chroot / id -un")
    };
    let last = format!("-x {} true", directory.name("last"));
    let skd = daemon(&directory, (0..SERVICES).map(line).chain([last])).start_bare();
    wait_for_last(&skd, &directory.join("last"));
    for number in 0..SERVICES {
        let answer = talk(connect(address(number, port)), b"");
        let expected = format!("{}\n", users[number % users.len()]);
        assert_eq!(String::from_utf8(answer).unwrap(), expected);
    }
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn the_first_service_whose_program_is_not_found_is_named() {
    let directory = Directory::new();
    let line = |number| {
        let program = if number % 100 == 57 {
            format!("missing-{number}")
        } else {
            "true".into()
        };
        format!("-x {} {program}", directory.name(&format!("u{number}")))
    };
    let output = daemon(&directory, (0..300).map(line)).end();
    output.expect_refusal(127, &["missing-57"]);
}

#[test]
fn many_services_outlive_an_upgrade() {
    const SERVICES: usize = 300;
    let directory = Directory::new();
    let path = |number: usize| directory.join(format!("u{number}"));
    let line = |number| {
        let option = ["", "--max-clients 2", "--max-per-source 4"][number % 3];
        format!("-v -x {} {option} cat", path(number).display())
    };
    let skd = daemon(&directory, (0..SERVICES).map(line)).start_bare();
    wait_for_last(&skd, &path(SERVICES - 1));
    let mut held: Vec<_> = (0..SERVICES)
        .step_by(10)
        .map(|number| connect_unix(path(number)))
        .collect();
    held.iter_mut().for_each(|client| echo(client, b"before"));
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_log("Upgraded from");
    held.iter_mut().for_each(|client| echo(client, b"after"));
    drop(held);
    for number in 0..SERVICES {
        assert_eq!(talk(connect_unix(path(number)), b"new"), b"new");
    }
    assert_eq!(skd.stop().code(), Some(0));
    assert!(!path(0).exists() && !path(SERVICES - 1).exists());
}

#[test]
fn a_start_says_how_many_files_its_services_need() {
    let directory = Directory::new();
    let line = |number| format!("-x {} true", directory.name(&format!("u{number}")));
    for (limit, is_enough) in [(300, false), (400, false), (1000, true)] {
        println!("{limit} files");
        let skd =
            daemon(&directory, (0..400).map(line)).limit(Resource::RLIMIT_NOFILE, limit, limit);
        if is_enough {
            let skd = skd.start_bare();
            wait_for_last(&skd, &directory.join("u399"));
            assert_eq!(skd.stop().code(), Some(0));
        } else {
            let limit = format!("the hard limit is {limit}");
            let words = ["400 listeners need 528 open files", &limit, "LimitNOFILE="];
            skd.end().expect_refusal(1, &words);
        }
        assert!(!directory.join("u0").exists());
    }
}

/// Prints figures: `cargo test --release --test behaviour ten_thousand -- --ignored --nocapture`.
#[test]
#[ignore = "takes ten thousand descriptors and addresses, and prints figures"]
fn ten_thousand_services_start_answer_and_end() {
    let (_, files) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    assert!(
        files > 11_000,
        "this test needs a hard limit of 11,000 open files"
    );
    println!(
        "| services | start (s) | memory (KiB) | each (bytes) | descriptors | threads | end (s) |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut of_one = 0;
    for services in [1, 1_000, 10_000] {
        let directory = Directory::new();
        let port = free_port();
        let line = |number: usize| format!("-t {} echo {number}", address(number, port));
        let last = format!("-x {} true", directory.name("last"));
        let began = Instant::now();
        let lines = (0..services - 1).map(line).chain([last]);
        let skd = daemon(&directory, lines)
            .deadline(10 * DEADLINE)
            .start_bare();
        wait_for_last(&skd, &directory.join("last"));
        let start = began.elapsed().as_secs_f64();
        assert_idle(&[skd.pid()]);
        let memory = rss_anon(skd.pid());
        let (descriptors, threads) = (descriptors(skd.pid()).len(), threads(skd.pid()).len());
        for number in 0..services - 1 {
            let answer = talk(connect(address(number, port)), b"");
            assert_eq!(String::from_utf8(answer).unwrap(), format!("{number}\n"));
        }
        assert_idle(&[skd.pid()]);
        let began = Instant::now();
        assert_eq!(skd.stop().code(), Some(0));
        let end = began.elapsed().as_secs_f64();
        let each = (memory.saturating_sub(of_one) * 1024).checked_div(services as u64 - 1);
        let each = each.map(|each| each.to_string()).unwrap_or_default();
        println!(
            "| {services} | {start:.2} | {memory} | {each} | {descriptors} | {threads} | {end:.2} |"
        );
        if services == 1 {
            of_one = memory;
        }
    }
}
