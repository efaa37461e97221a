//! Behind haproxy, with the configuration of the page. Only its intervals are shorter here.

use super::farm::{Backend, Farm, NAMES, SERVICE, file, service};
use super::load::{Conversation, by_machine};
use super::{ANNOUNCE, expect_all_answered, expect_logged, expect_lost, rolling_restart};
use crate::harness::{Running, requires_command, wait_for, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Instant;

/// The intervals of checks in the page, and here.
const INTERVALS: (&str, &str) = ("inter 1s", "inter 300ms");

/// haproxy on the balancer.
struct Haproxy<'a> {
    farm: &'a Farm,
    _process: Running,
}

/// What haproxy says of a server of the page's first proxy.
#[derive(Clone, Debug, Default)]
struct Server {
    status: String,
    weight: u32,
}

impl<'a> Haproxy<'a> {
    /// Starts it with the file of the page and these lines, and waits until all servers are up.
    fn start(farm: &'a Farm, lines: &str) -> Self {
        requires_command("haproxy");
        let configuration = file("haproxy.cfg");
        assert_eq!(configuration.matches(INTERVALS.0).count(), 2);
        let configuration = configuration.replace(INTERVALS.0, INTERVALS.1) + lines;
        let path = farm.balancer.namespace.path("/etc/haproxy");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("haproxy.cfg"), configuration).unwrap();
        let process = farm.balancer_shell("exec haproxy -db -f /etc/haproxy/haproxy.cfg");
        let haproxy = Self {
            farm,
            _process: process.start_bare(),
        };
        wait_until("haproxy answers", || haproxy.connect().is_some());
        for name in NAMES {
            haproxy.wait_for(name, "UP");
        }
        haproxy
    }

    fn connect(&self) -> Option<UnixStream> {
        UnixStream::connect(self.farm.balancer.namespace.path("/run/haproxy.sock")).ok()
    }

    /// What `show stat` says, by proxy and server, with the name of each field.
    fn statistics(&self) -> BTreeMap<(String, String), BTreeMap<String, String>> {
        let mut stream = self.connect().expect("haproxy's socket");
        stream.write_all(b"show stat\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let mut lines = text
            .trim_start_matches("# ")
            .lines()
            .filter(|line| !line.is_empty());
        let names: Vec<_> = lines.next().expect("a head").split(',').collect();
        let fields = |line: &str| -> BTreeMap<String, String> {
            let pairs = names.iter().zip(line.split(','));
            pairs
                .map(|(name, value)| (name.to_string(), value.to_owned()))
                .collect()
        };
        let rows = lines.map(|line| {
            let fields = fields(line);
            ((fields["pxname"].clone(), fields["svname"].clone()), fields)
        });
        rows.collect()
    }

    fn server(&self, name: &str) -> Server {
        let key = (SERVICE.to_owned(), name.to_owned());
        let fields = self.statistics().remove(&key).expect("a server");
        Server {
            status: fields["status"].clone(),
            weight: fields["weight"].parse().unwrap_or_default(),
        }
    }

    /// Waits until a server has a status that begins like this.
    #[track_caller]
    fn wait_for(&self, name: &str, status: &str) {
        wait_until(&format!("{name} is {status}"), || {
            self.server(name).status.starts_with(status)
        });
    }

    /// A remark on how often haproxy has tried again to connect to a server for a client.
    fn remark(&self, what: &str) -> String {
        let key = (SERVICE.to_owned(), "BACKEND".to_owned());
        let fields = self.statistics().remove(&key).expect("a backend");
        let (again, other) = (&fields["wretr"], &fields["wredis"]);
        format!("haproxy, {what} ({again} tried again, {other} at another machine so far)")
    }
}

#[test]
fn drain_upgrade_and_reload_lose_no_answer() {
    let farm = &Farm::new(|text| text);
    let haproxy = Haproxy::start(farm, "");
    let mut held = farm.hold(20, 9, service(80));
    let mut all: Vec<_> = held.iter().map(Conversation::client).collect();
    assert_eq!(by_machine(&all).len(), 3, "{:?}", by_machine(&all));

    // The announcement, then new clients would wait, then the last ones end.
    let one = farm.named("one");
    let (_, clients) = farm.under_load(service(80), || {
        std::thread::scope(|scope| {
            let drain = format!("skdctl drain {SERVICE} --announce {ANNOUNCE}");
            let drain = scope.spawn(move || farm.type_in("one", &drain));
            haproxy.wait_for("one", "DRAIN");
            assert_eq!(one.state(), "lame-duck");
            say_something(&mut held);
            haproxy.wait_for("one", "MAINT");
            assert_eq!(one.state(), "draining");
            say_something(&mut held);
            assert!(!drain.is_finished());
            let (of_one, others) = held.drain(..).partition(|it| it.machine == "one");
            held = others;
            let of_one: Vec<Conversation> = of_one;
            for conversation in of_one {
                conversation.end().unwrap();
            }
            let said = drain.join().unwrap();
            assert!(said.contains("greeter is drained: "), "{said}");
        });
        // The others serve meanwhile.
        let before = one.accepted().len();
        let two = farm.named("two");
        let other = two.accepted().len();
        wait_until("others serve", || two.accepted().len() > other + 10);
        assert_eq!(one.accepted().len(), before);
        farm.type_in("one", &format!("skdctl enable {SERVICE}"));
        haproxy.wait_for("one", "UP");
        wait_until("it serves again", || one.accepted().len() > before + 3);
    });
    expect_all_answered(&haproxy.remark("drained"), &clients);
    all.extend(clients);

    // The same process goes on with another program.
    let two = farm.named("two");
    let pid = two.pid();
    let (_, clients) = farm.under_load(service(80), || {
        for count in 1..=3 {
            kill(Pid::from_raw(pid), Signal::SIGUSR2).unwrap();
            wait_until("it is upgraded", || {
                two.control().status()["process"]["upgrades"]["succeeded"] == count
            });
        }
    });
    assert_eq!(two.pid(), pid);
    expect_all_answered(&haproxy.remark("upgraded three times"), &clients);
    all.extend(clients);

    // Each time with another limit.
    let three = farm.named("three");
    let (_, clients) = farm.under_load(service(80), || {
        for limit in ["101", "102", "103"] {
            three.change("max-clients", limit);
            farm.type_in("three", "skdctl reload");
            let service = three.control().service(SERVICE);
            assert_eq!(service["slots"]["limit"].to_string(), limit);
        }
    });
    expect_all_answered(&haproxy.remark("reloaded three times"), &clients);
    all.extend(clients);

    say_something(&mut held);
    expect_logged(farm, &all);
    one_prometheus_counts_all(farm, all.len(), held.len());
}

#[track_caller]
fn say_something(held: &mut [Conversation]) {
    for conversation in held {
        conversation.say("still here").unwrap();
    }
}

/// One Prometheus, with the file of the page, finds as many clients as there were, and those that are held.
fn one_prometheus_counts_all(farm: &Farm, clients: usize, held: usize) {
    requires_command("prometheus");
    let directory = farm.balancer.namespace.path("/run/prometheus");
    fs::create_dir(&directory).unwrap();
    let configuration = file("prometheus.yml").replace("15s", "200ms");
    fs::write(directory.join("prometheus.yml"), configuration).unwrap();
    let prometheus = farm.balancer_shell(
        "cd /run/prometheus && exec prometheus --config.file=prometheus.yml --storage.tsdb.path=data \
         --web.listen-address=127.0.0.1:9090",
    );
    let _prometheus = prometheus.start_bare();
    let value = |expression: &str| -> Option<f64> {
        let ask = format!(
            "curl --silent --get --data-urlencode 'query={expression}' http://127.0.0.1:9090/api/v1/query"
        );
        let answer: Value = serde_json::from_str(&farm.balancer_shell(&ask).end().stdout).ok()?;
        answer["data"]["result"][0]["value"][1]
            .as_str()?
            .parse()
            .ok()
    };
    for expression in super::docs::expressions() {
        let wanted = match &*expression {
            it if it.starts_with("sum(skd_accepted_total") => Some(clients as f64),
            it if it.starts_with("sum(skd_handlers_running") => Some(held as f64),
            it if it.starts_with("count(skd_service_state") => Some(3.0),
            // It has a value, which isn't known here.
            _ => None,
        };
        wait_for(&format!("{expression} is {wanted:?}"), || {
            let value = value(&expression)?;
            (wanted.is_none_or(|wanted| wanted == value)).then_some(())
        });
    }
}

#[test]
fn a_rolling_restart_loses_no_answer() {
    let farm = Farm::new(|text| text);
    let haproxy = Haproxy::start(&farm, "");
    let pids: Vec<_> = farm.machines.iter().map(Backend::pid).collect();
    let (_, clients) = farm.under_load(service(80), || rolling_restart(&farm));
    for (backend, pid) in farm.machines.iter().zip(pids) {
        assert_ne!(backend.pid(), pid, "{}", backend.name);
        assert_eq!(backend.state(), "serving");
        haproxy.wait_for(backend.name, "UP");
    }
    expect_all_answered(&haproxy.remark("rolling restart"), &clients);
    expect_logged(&farm, &clients);
}

#[test]
fn a_killed_skd_loses_only_what_it_had() {
    let farm = Farm::new(|text| text);
    let haproxy = Haproxy::start(&farm, "");
    let one = farm.named("one");
    let mut held = farm.hold(20, 6, service(80));

    // skd alone: its handlers go on, and its service manager starts another.
    let (back, clients) = farm.under_load(service(80), || {
        wait_until("clients come", || one.accepted().len() > 5);
        let pid = one.pid();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        one.wait_for_another(pid);
        let back = Instant::now();
        let before = one.accepted().len();
        wait_until("it serves again", || one.accepted().len() > before + 3);
        back
    });
    say_something(&mut held);
    expect_lost(&haproxy.remark("skd killed"), &clients, back);

    // The whole machine.
    let (cut, clients) = farm.under_load(service(80), || {
        farm.cut_power("one");
        let cut = Instant::now();
        haproxy.wait_for("one", "DOWN");
        let two = farm.named("two");
        let before = two.accepted().len();
        wait_until("others serve", || two.accepted().len() > before + 10);
        farm.boot("one");
        haproxy.wait_for("one", "UP");
        cut
    });
    let (of_one, mut others): (Vec<_>, _) = held.drain(..).partition(|it| it.machine == "one");
    let ended = of_one
        .into_iter()
        .map(|mut it| it.say("still here").is_err());
    assert_eq!(ended.collect::<Vec<_>>(), [true, true]);
    say_something(&mut others);
    expect_lost(&haproxy.remark("machine killed"), &clients, cut);
}

#[test]
fn limits_of_a_source_are_those_of_real_clients() {
    // Those of the page, and a service with a rate that no client of a test gets back.
    let limited = r#"
[service.limited]
tcp = 8090
proxy-protocol = true
proxy-from = "192.0.2.254"
rate-per-source = "1/h:5"
shell = '''
read -r machine < /etc/hostname
while read -r line; do echo "$machine to $REMOTE_ADDR: $line"; done
'''
"#;
    let farm = Farm::new(|text| text + limited);
    let servers = "
    server one 192.0.2.1:8090
    server two 192.0.2.2:8090
    server three 192.0.2.3:8090
";
    let lines = format!(
        "
listen limited
    bind 198.51.100.80:90
    balance roundrobin{servers}
listen limited-by-source
    bind 198.51.100.80:91
    balance source{servers}"
    );
    let _haproxy = Haproxy::start(&farm, &lines);
    let machines = |held: &[Conversation]| -> usize {
        let machines: BTreeSet<_> = held.iter().map(|it| &it.machine).collect();
        machines.len()
    };

    // Spread over three machines, a source has ten handlers on each.
    let held = farm.try_hold(11, 33, service(80));
    assert_eq!((held.len(), machines(&held)), (30, 3));
    // On one machine it has ten in all.
    let mut held = farm.try_hold(12, 12, service(81));
    assert_eq!((held.len(), machines(&held)), (10, 1));
    held.pop();
    wait_until("it gets the slot that it has freed", || {
        held.extend(farm.try_hold(12, 1, service(81)));
        held.len() == 10
    });
    // haproxy counts as well, over all machines.
    let held = farm.try_hold(13, 12, service(82));
    assert_eq!((held.len(), machines(&held)), (10, 3));
    assert_eq!(farm.try_hold(14, 1, service(82)).len(), 1);

    // The same goes for rates.
    let held = farm.try_hold(11, 18, service(90));
    assert_eq!((held.len(), machines(&held)), (15, 3));
    let held = farm.try_hold(12, 7, service(91));
    assert_eq!((held.len(), machines(&held)), (5, 1));
    // Another source isn't affected.
    assert_eq!(farm.try_hold(13, 5, service(91)).len(), 5);
}

#[test]
fn haproxy_understands_the_agent() {
    let farm = Farm::new(|text| {
        let text = text.replace("max-clients = 100", "max-clients = 4");
        text.replace("\"agent-check\", ", "\"agent-check\", \"--weight\", ")
    });
    let haproxy = Haproxy::start(&farm, "");
    let weigh = |held: &[Conversation]| {
        let weights = NAMES.map(|name| {
            let used = held.iter().filter(|it| it.machine == name).count();
            ((4 - used as u32) * 25).max(1)
        });
        wait_until(&format!("the weights are {weights:?}"), || {
            NAMES.map(|name| haproxy.server(name).weight) == weights
        });
    };
    weigh(&[]);
    let held = farm.hold(20, 6, service(80));
    weigh(&held);
    drop(held);
    weigh(&[]);
    for (command, status) in [
        ("disable greeter", "MAINT"),
        ("enable greeter", "UP"),
        ("disable greeter --refuse", "MAINT"),
        ("enable greeter", "UP"),
        ("drain greeter", "MAINT"),
        ("enable greeter", "UP"),
    ] {
        farm.type_in("one", &format!("skdctl {command}"));
        haproxy.wait_for("one", status);
    }
    // The health check finds a skd that hangs; its agent can't say so.
    let pid = Pid::from_raw(farm.named("two").pid());
    kill(pid, Signal::SIGSTOP).unwrap();
    haproxy.wait_for("two", "DOWN");
    kill(pid, Signal::SIGCONT).unwrap();
    haproxy.wait_for("two", "UP");
    // The agent finds a service that isn't there; the health check is content.
    let three = farm.named("three");
    let other = file("skd.toml").replace("[service.greeter]", "[service.other]");
    three.configure(&other);
    farm.type_in("three", "skdctl reload");
    haproxy.wait_for("three", "DOWN");
}
