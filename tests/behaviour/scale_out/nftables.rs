//! Behind nftables, with the script of contrib/: machines see the real addresses without PROXY headers.

use super::farm::{Backend, FILES, Farm, NAMES, SERVICE, service, source};
use super::load::{Client, Conversation, LOADING, by_machine, lost};
use super::{ANNOUNCE, expect_all_answered, expect_logged, rolling_restart};
use crate::harness::{DEADLINE, Running, copy_program, requires_command, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::time::Instant;

/// The addresses of all machines.
const MACHINES: [(&str, &str); 3] = [
    ("one", "192.0.2.1"),
    ("two", "192.0.2.2"),
    ("three", "192.0.2.3"),
];

/// The configuration of the page for machines that no proxy is in front of, and this.
fn farm(more: &str) -> Farm {
    Farm::new(|text| {
        let lines = text.lines().filter(|line| !line.starts_with("proxy-"));
        let kept: Vec<_> = lines.collect();
        assert_eq!(kept.len() + 2, text.lines().count());
        kept.join("\n") + "\n" + more
    })
}

/// The script on the balancer, which looks again and again.
struct Balance(Running);

impl Balance {
    fn start(farm: &Farm) -> Self {
        requires_command("nft");
        requires_command("curl");
        let script = farm.programs().join("nft-balance");
        copy_program(format!("{FILES}/nft-balance"), &script);
        let machines = MACHINES.map(|(_, address)| address).join(" ");
        let command =
            format!("INTERVAL=0.3 exec nft-balance 198.51.100.80 80 {SERVICE} {machines}");
        let balance = Self(farm.balancer_shell(&command).start_bare());
        balance.wait_for(&NAMES);
        balance
    }

    /// Waits until clients are sent to these machines.
    #[track_caller]
    fn wait_for(&self, names: &[&str]) {
        let chosen = MACHINES.iter().filter(|(name, _)| names.contains(name));
        let addresses: Vec<_> = chosen.map(|(_, address)| *address).collect();
        let line = format!("{SERVICE}: {}", addresses.join(" "));
        wait_until(&line, || self.0.stdout_lines().last() == Some(&line));
    }
}

/// The machine of each source of the load. Each has one alone.
#[track_caller]
fn machines(clients: &[Client]) -> BTreeMap<String, String> {
    let mut machines = BTreeMap::new();
    for client in clients {
        let machine = client.outcome.clone().expect("an answer");
        let source = client.own.ip().to_string();
        let former = machines.insert(source, machine.clone());
        assert!(former.is_none_or(|former| former == machine), "{client:?}");
    }
    machines
}

#[test]
fn drain_upgrade_reload_and_restarts_lose_no_answer() {
    let farm = &farm("");
    let balance = Balance::start(farm);
    let mut held: Vec<_> = (1..=20)
        .flat_map(|number| farm.hold(number, 1, service(80)))
        .collect();
    let mut all: Vec<_> = held.iter().map(Conversation::client).collect();
    assert_eq!(by_machine(&all).len(), 3, "{:?}", by_machine(&all));
    let (_, clients) = farm.under_load(service(80), || {
        let served = |backend: &Backend| backend.accepted().len() > 20;
        wait_until("clients come", || farm.machines.iter().any(served));
    });
    let before = machines(&clients);
    expect_all_answered("nftables, nothing done", &clients);
    all.extend(clients);

    // The machine of a source of the load is drained, which goes to another.
    let drained = &*before[&source(*LOADING.start()).to_string()];
    let others: Vec<_> = NAMES.into_iter().filter(|name| *name != drained).collect();
    let backend = farm.named(drained);
    let (_, clients) = farm.under_load(service(80), || {
        std::thread::scope(|scope| {
            let drain = format!("skdctl drain {SERVICE} --announce {ANNOUNCE}");
            let drain = scope.spawn(move || farm.type_in(drained, &drain));
            balance.wait_for(&others);
            assert_eq!(backend.state(), "lame-duck");
            wait_until("the drain begins", || backend.state() == "draining");
            // The rules have changed, and conversations stay where they are.
            for conversation in &mut held {
                conversation.say("still here").unwrap();
            }
            assert!(!drain.is_finished());
            let (ended, left): (Vec<_>, _) = held.drain(..).partition(|it| it.machine == drained);
            held = left;
            assert!(!ended.is_empty());
            for conversation in ended {
                conversation.end().unwrap();
            }
            drain.join().unwrap();
        });
        let count = backend.accepted().len();
        let other = farm.named(others[0]);
        let of_other = other.accepted().len() + farm.named(others[1]).accepted().len();
        wait_until("others serve", || {
            other.accepted().len() + farm.named(others[1]).accepted().len() > of_other + 10
        });
        assert_eq!(backend.accepted().len(), count);
        farm.type_in(drained, &format!("skdctl enable {SERVICE}"));
        balance.wait_for(&NAMES);
        wait_until("it serves again", || backend.accepted().len() > count + 3);
    });
    expect_all_answered("nftables, drained", &clients);
    // Only sources of that machine were elsewhere for a while.
    for client in &clients {
        let usual = &before[&client.own.ip().to_string()];
        let same = client.outcome.as_ref() == Ok(usual);
        assert!(same || usual == drained, "{client:?}");
    }
    all.extend(clients);

    let pid = Pid::from_raw(backend.pid());
    let (_, clients) = farm.under_load(service(80), || {
        for count in 1..=3 {
            kill(pid, Signal::SIGUSR2).unwrap();
            wait_until("it is upgraded", || {
                backend.control().status()["process"]["upgrades"]["succeeded"] == count
            });
        }
    });
    expect_all_answered("nftables, upgraded three times", &clients);
    assert_eq!(machines(&clients), before);
    all.extend(clients);

    let (_, clients) = farm.under_load(service(80), || {
        for limit in ["101", "102", "103"] {
            backend.change("max-clients", limit);
            farm.type_in(drained, "skdctl reload");
        }
    });
    expect_all_answered("nftables, reloaded three times", &clients);
    assert_eq!(machines(&clients), before);
    all.extend(clients);
    for conversation in held {
        conversation.end().unwrap();
    }

    let (_, clients) = farm.under_load(service(80), || rolling_restart(farm));
    expect_all_answered("nftables, rolling restart", &clients);
    all.extend(clients);
    expect_logged(farm, &all);
}

#[test]
fn a_killed_machine_loses_what_comes_before_it_is_taken_out() {
    let farm = farm("");
    let balance = Balance::start(&farm);
    let mut held: Vec<_> = (7..=18)
        .flat_map(|number| farm.hold(number, 1, service(80)))
        .collect();
    let (out, clients) = farm.under_load(service(80), || {
        farm.cut_power("one");
        balance.wait_for(&["two", "three"]);
        let out = Instant::now();
        let two = farm.named("two");
        let before = two.accepted().len();
        wait_until("others serve", || two.accepted().len() > before + 10);
        farm.boot("one");
        balance.wait_for(&NAMES);
        out
    });
    for conversation in &mut held {
        let survives = conversation.machine != "one";
        assert_eq!(conversation.say("still here").is_ok(), survives);
    }
    let lost = lost(&clients);
    for client in &lost {
        assert!(client.begun <= out, "{client:?}");
    }
    println!(
        "nftables, machine killed: {} answered, {} lost; {:?}",
        clients.len() - lost.len(),
        lost.len(),
        by_machine(&clients)
    );
}

#[test]
fn a_source_has_one_machine_over_tcp_and_udp() {
    let farm = farm(
        r#"
[service.greeter-udp]
udp = 8080
datagram-mode = "per-packet"
shell = '''
read -r machine < /etc/hostname
read -r line
echo "$machine to $REMOTE_ADDR: $line"
'''
"#,
    );
    let _balance = Balance::start(&farm);
    let mut machines = BTreeMap::new();
    for number in 1..=20 {
        let held = farm.hold(number, 2, service(80));
        assert_eq!(held[0].machine, held[1].machine);
        farm.clients.enter(|| {
            // Another port each time, which the machine doesn't depend on.
            for _ in 0..2 {
                let socket = UdpSocket::bind((source(number), 0)).unwrap();
                socket.set_read_timeout(Some(DEADLINE)).unwrap();
                socket.connect(service(80)).unwrap();
                socket.send(b"hello\n").unwrap();
                let mut answer = [0; 200];
                let length = socket.recv(&mut answer).unwrap();
                let expected = format!("{} to {}: hello\n", held[0].machine, source(number));
                assert_eq!(String::from_utf8_lossy(&answer[..length]), expected);
            }
        });
        *machines.entry(held[0].machine.clone()).or_insert(0) += 1;
    }
    assert_eq!(machines.values().sum::<i32>(), 20);
    assert_eq!(machines.len(), 3, "{machines:?}");
}
