//! What the control socket is asked: live handlers and what they use, sources, and what would happen
//! to a client.

use crate::harness::{
    Control, Directory, Instance, Running, Skd, ask_udp, connect, connect_from, connect_unix,
    controlled, echo, receive, requires_root, talk, wait_for, wait_until,
};
use crate::hidepid::hiding;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::id;

/// An address of the loopback network.
fn host(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

/// A client from this address, whose handler has answered it.
#[track_caller]
fn served(skd: &Instance, last: u8) -> TcpStream {
    let mut client = connect_from(host(last), skd.address());
    echo(&mut client, b"x");
    client
}

/// Connects from this address, and expects the end.
#[track_caller]
fn rejected(skd: &Instance, last: u8) {
    let mut client = connect_from(host(last), skd.address());
    let ended = client.read(&mut [0]);
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}

#[track_caller]
fn handlers(directory: &Directory, fields: Value) -> (u64, Vec<Value>) {
    let answer = Control::of(directory).ask("handlers", fields);
    assert_eq!(answer["answer"], "handlers", "{answer}");
    let handlers = answer["handlers"].as_array().unwrap().clone();
    (answer["total"].as_u64().unwrap(), handlers)
}

/// Waits until so many handlers are listed: one may answer its client before.
#[track_caller]
fn wait_for_handlers(directory: &Directory, count: u64) {
    let what = format!("{count} handlers");
    wait_until(&what, || handlers(directory, json!({})).0 == count);
}

/// The clients of those handlers.
#[track_caller]
fn clients(directory: &Directory, fields: Value) -> Vec<String> {
    let (_, handlers) = handlers(directory, fields);
    let clients = handlers
        .iter()
        .map(|it| it["client"].as_str().unwrap().into());
    clients.collect()
}

#[track_caller]
fn sources(directory: &Directory, fields: Value) -> Vec<Value> {
    let answer = Control::of(directory).ask("sources", fields);
    assert_eq!(answer["answer"], "sources", "{answer}");
    answer["sources"].as_array().unwrap().clone()
}

/// Whether each service would serve the client, and all lines.
#[track_caller]
fn explain(directory: &Directory, fields: Value) -> Vec<(String, bool, Vec<String>)> {
    let answer = Control::of(directory).ask("explain", fields);
    assert_eq!(answer["answer"], "explanation", "{answer}");
    let services = answer["services"].as_array().unwrap().iter();
    services
        .map(|service| {
            let lines = service["lines"].as_array().unwrap().iter();
            (
                service["service"].as_str().unwrap().into(),
                service["admitted"].as_bool().unwrap(),
                lines.map(|line| line.as_str().unwrap().into()).collect(),
            )
        })
        .collect()
}

/// The same of the only service.
#[track_caller]
fn explain_one(directory: &Directory, client: &str) -> (bool, Vec<String>) {
    let mut all = explain(directory, json!({"client": client}));
    assert_eq!(all.len(), 1);
    let (_, admitted, lines) = all.remove(0);
    (admitted, lines)
}

#[track_caller]
fn expect_failure(
    directory: &Directory,
    request: &str,
    mut fields: Value,
    kind: &str,
    words: &str,
) {
    fields["request"] = request.into();
    Control::of(directory).failed(fields, kind, words);
}

// Handlers.

#[test]
fn a_handler_is_listed_with_its_client_and_what_it_uses() {
    let directory = Directory::new();
    // A name that is hard to read in /proc/PID/stat.
    let program = directory.script("a) R 1 (b", "exec 3<&0; cat <&3");
    let skd = controlled(&directory, []).run(program);
    let mut client = skd.connect();
    echo(&mut client, &[7; 1000]);
    // Its last acknowledgement may be under way.
    let handler = wait_for("1000 bytes are acknowledged", || {
        let (total, mut handlers) = handlers(&directory, json!({}));
        assert_eq!(total, handlers.len() as u64);
        let handler = handlers.pop()?;
        (handler["sent_bytes"] == 1000).then_some(handler)
    });
    let own = client.local_addr().unwrap();
    assert_eq!(handler["pid"], skd.children()[0]);
    assert_eq!(handler["client"], format!("[{}]:{}", own.ip(), own.port()));
    assert_eq!(handler["listener"], format!("[127.0.0.1]:{}", skd.port()));
    assert_eq!(handler["received_bytes"], 1000);
    assert!(handler["cpu_seconds"].as_f64().unwrap() >= 0.0);
    assert!(
        handler["resident_bytes"].as_u64().unwrap() > 4096,
        "{handler}"
    );
    let age = |handler: &Value| handler["age_seconds"].as_f64().unwrap();
    let (_, later) = handlers(&directory, json!({}));
    assert!(age(&later[0]) > age(&handler) && age(&handler) > 0.0);
    drop(client);
    wait_until("there are none", || handlers(&directory, json!({})).0 == 0);
}

#[test]
fn handlers_are_selected_ordered_and_limited() {
    let directory = Directory::new();
    let skd = controlled(&directory, []).run("cat");
    let all = [2, 3, 4].map(|last| served(&skd, last));
    wait_for_handlers(&directory, 3);
    let named = |client: &TcpStream| {
        let own = client.local_addr().unwrap();
        format!("[{}]:{}", own.ip(), own.port())
    };
    let [first, second, third] = [0, 1, 2].map(|index| named(&all[index]));
    for (fields, expected) in [
        (json!({}), vec![&first, &second, &third]),
        (json!({"order": "oldest", "limit": 1}), vec![&first]),
        (
            json!({"order": "newest", "limit": 2}),
            vec![&third, &second],
        ),
        (json!({"source": "127.0.0.3"}), vec![&second]),
        (json!({"source": "127.0.0.2/31"}), vec![&first, &second]),
        (json!({"source": "::ffff:127.0.0.4"}), vec![&third]),
        (json!({"source": "10.0.0.0/8"}), vec![]),
        (json!({"source": "uid:0"}), vec![]),
        (json!({"limit": 0}), vec![]),
    ] {
        assert_eq!(
            clients(&directory, fields.clone()),
            expected.into_iter().cloned().collect::<Vec<_>>(),
            "{fields}"
        );
    }
    let (total, shown) = handlers(&directory, json!({"limit": 1, "source": "127.0.0.2/31"}));
    assert_eq!((total, shown.len()), (2, 1));
    let (_, shown) = handlers(&directory, json!({"order": "pid"}));
    let pids: Vec<_> = shown.iter().map(|it| it["pid"].as_i64().unwrap()).collect();
    assert!(pids.is_sorted() && pids.len() == 3, "{pids:?}");
}

#[test]
fn those_that_use_most_are_first() {
    let directory = Directory::new();
    // Some computation for each line, and memory for a long one.
    let script = "while read -r line; do for i in $(seq $line); do :; done; echo done; done";
    let skd = controlled(&directory, []).run_with("sh", ["-c", script]);
    let mut idle = connect_from(host(2), skd.address());
    let mut busy = connect_from(host(3), skd.address());
    idle.write_all(b"1\n").unwrap();
    busy.write_all(b"300000\n").unwrap();
    assert_eq!(receive(&mut busy, 5), b"done\n");
    assert_eq!(receive(&mut idle, 5), b"done\n");
    wait_for_handlers(&directory, 2);
    let figure = |handler: &Value, name: &str| handler[name].as_f64().unwrap();
    for (order, name) in [("cpu", "cpu_seconds"), ("memory", "resident_bytes")] {
        let (_, shown) = handlers(&directory, json!({"order": order}));
        let [first, second] = &shown[..] else {
            panic!("{shown:?}");
        };
        assert!(
            figure(first, name) > figure(second, name),
            "{first} {second}"
        );
        assert!(first["client"].as_str().unwrap().starts_with("[127.0.0.3]"));
    }
    // The idle one gets more bytes than the busy one has.
    for _ in 0..9 {
        idle.write_all(b"1\n").unwrap();
        assert_eq!(receive(&mut idle, 5), b"done\n");
    }
    let (_, shown) = handlers(&directory, json!({"order": "bytes", "limit": 1}));
    assert_eq!(shown[0]["received_bytes"], 20, "{shown:?}");
    assert!(shown[0]["cpu_seconds"].is_number());
}

#[test]
fn clients_of_unix_sockets_are_selected_by_their_user_and_have_no_bytes() {
    let directory = Directory::new();
    let skd = Skd::new(["--unix", "listen", "--control", "control"]).cwd(directory.path());
    let _skd = skd.run("cat");
    let mut client = connect_unix(directory.join("listen"));
    echo(&mut client, b"x");
    wait_for_handlers(&directory, 1);
    let uid = nix::unistd::Uid::current();
    let (total, shown) = handlers(&directory, json!({"source": format!("uid:{uid}")}));
    assert_eq!(total, 1);
    let told = shown[0]["client"].as_str().unwrap();
    assert!(
        told.starts_with(&format!("pid {} (uid = {uid}", id())),
        "{told}"
    );
    assert!(shown[0]["listener"].as_str().unwrap().ends_with("listen"));
    assert!(shown[0]["received_bytes"].is_null() && shown[0]["cpu_seconds"].is_number());
    assert_eq!(handlers(&directory, json!({"source": "uid:61250"})).0, 0);
    assert_eq!(handlers(&directory, json!({"source": "0.0.0.0/0"})).0, 0);
}

#[test]
fn a_client_behind_a_proxy_is_its_own_and_the_bytes_are_those_of_the_connection() {
    let directory = Directory::new();
    for address in ["127.0.0.1:0", "0.0.0.0:0"] {
        let options = ["--proxy-protocol", "--proxy-from", "127.0.0.0/8"];
        let skd = Skd::new(["-t", address, "--control", "control"]).args(options);
        let skd = skd.cwd(directory.path()).run("cat");
        let mut client = connect((host(1), skd.port()).into());
        let header = b"PROXY TCP4 192.0.2.1 192.0.2.2 1234 80\r\n";
        client.write_all(header).unwrap();
        echo(&mut client, b"x");
        wait_for_handlers(&directory, 1);
        let (total, shown) = handlers(&directory, json!({"source": "192.0.2.0/24"}));
        assert_eq!(
            (total, &shown[0]["client"]),
            (1, &json!("[192.0.2.1]:1234"))
        );
        assert_eq!(handlers(&directory, json!({"source": "127.0.0.1"})).0, 0);
        // Which address of this machine the proxy has called isn't kept.
        let received = match address.starts_with("127") {
            true => json!(header.len() + 1),
            false => Value::Null,
        };
        assert_eq!(shown[0]["received_bytes"], received, "{address}");
        drop(client);
        assert_eq!(skd.stop().code(), Some(0));
    }
}

#[test]
fn a_handler_that_proc_hides_is_listed_without_figures() {
    requires_root();
    let namespace = hiding("2");
    let directory = Directory::public();
    let skd = controlled(&directory, ["--user", "65534:65534"]).inside(&namespace);
    let skd = skd.run("cat");
    let mut client = skd.connect();
    echo(&mut client, b"x");
    wait_for_handlers(&directory, 1);
    for order in ["oldest", "cpu", "memory"] {
        let (total, shown) = handlers(&directory, json!({"order": order}));
        assert_eq!(total, 1);
        assert!(shown[0]["cpu_seconds"].is_null() && shown[0]["resident_bytes"].is_null());
        assert_eq!(shown[0]["received_bytes"], 1, "{shown:?}");
    }
}

#[test]
fn what_is_unknown_is_answered_with_a_hint() {
    let directory = Directory::new();
    let text = "service.web = { unix = 'web.sock', command = ['cat'] }\n\
                service.mail = { unix = 'mail.sock', command = ['cat'] }\n";
    let _skd = daemon(&directory, text, 2);
    for request in ["handlers", "sources", "explain"] {
        let fields = json!({"service": "wbe", "client": "192.0.2.1"});
        expect_failure(
            &directory,
            request,
            fields,
            "not-found",
            "did you mean web?",
        );
        let fields = json!({"service": "time", "client": "192.0.2.1"});
        expect_failure(
            &directory,
            request,
            fields,
            "not-found",
            "there are web, mail",
        );
    }
    let fields = json!({"source": "everyone"});
    expect_failure(&directory, "handlers", fields, "bad-request", "everyone");
    let fields = json!({"client": "192.0.2.0/24"});
    expect_failure(&directory, "explain", fields, "bad-request", "one address");
}

/// Services of a file, with a control socket.
fn daemon(directory: &Directory, text: &str, listeners: usize) -> Running {
    directory.write("skd.toml", text);
    let options = ["-vv", "--config", "skd.toml", "--control", "control"];
    let skd = Skd::new(options).cwd(directory.path()).start_bare();
    skd.wait_for_logs("Listening on ", listeners);
    skd
}

// Sources.

#[test]
fn sources_are_counted_by_handlers_and_rejections() {
    let directory = Directory::new();
    let options = [
        "--max-per-source",
        "2",
        "--deny",
        "127.0.0.9",
        "--allow",
        "all",
    ];
    let skd = controlled(&directory, options).run("cat");
    let _kept = [2, 2, 3].map(|last| served(&skd, last));
    for last in [2, 2, 2, 9] {
        rejected(&skd, last);
    }
    let shown = wait_for("all are counted", || {
        let shown = sources(&directory, json!({}));
        let first = shown.first()?;
        let is_all = first["rejected"] == 3 && first["running"] == 2;
        (shown.len() == 3 && is_all).then_some(shown)
    });
    let told = |source: &Value| {
        let field = |name: &str| source[name].clone();
        ["source", "running", "rejected", "last_reason"].map(field)
    };
    assert_eq!(
        told(&shown[0]),
        [json!("127.0.0.2"), json!(2), json!(3), json!("source-max")]
    );
    assert_eq!(
        told(&shown[1]),
        [json!("127.0.0.3"), json!(1), json!(0), Value::Null]
    );
    assert_eq!(
        told(&shown[2]),
        [json!("127.0.0.9"), json!(0), json!(1), json!("rule")]
    );
    assert_eq!(sources(&directory, json!({"limit": 1})), shown[..1]);
}

#[test]
fn a_service_without_limits_has_sources_too() {
    let directory = Directory::new();
    let skd = controlled(&directory, ["-v"]).run("cat");
    let denied = json!({"source": "127.0.0.2", "seconds": 600});
    let answer = Control::of(&directory).ask("deny", denied);
    assert_eq!(answer["answer"], "done", "{answer}");
    for _ in 0..40 {
        rejected(&skd, 2);
    }
    wait_until("all are counted", || {
        let all = sources(&directory, json!({}));
        let first = &all[0];
        all.len() == 1 && first["source"] == "127.0.0.2" && first["rejected"] == 40
    });
    skd.wait_for_log("more connections from 127.0.0.2: ");
}

#[test]
fn a_source_is_what_the_service_counts_as_one() {
    let directory = Directory::new();
    let options = ["--max-per-source", "9", "--source-prefix", "24,64"];
    let skd = controlled(&directory, options).run("cat");
    let _kept = [2, 3].map(|last| served(&skd, last));
    wait_for_handlers(&directory, 2);
    let shown = sources(&directory, json!({}));
    assert_eq!(shown.len(), 1);
    assert_eq!(
        (&shown[0]["source"], &shown[0]["running"]),
        (&json!("127.0.0.0/24"), &json!(2))
    );
}

#[test]
fn masked_addresses_are_shown_cut_and_found_whole() {
    let directory = Directory::new();
    let options = ["--log-mask", "24,64", "--max-per-source", "1"];
    let skd = controlled(&directory, options).run("cat");
    let _kept = [2, 3].map(|last| served(&skd, last));
    wait_for_handlers(&directory, 2);
    rejected(&skd, 3);
    let found = clients(&directory, json!({"source": "127.0.0.3"}));
    assert_eq!(found, ["[127.0.0.0/24]"]);
    wait_until("they are one source", || {
        let shown = sources(&directory, json!({}));
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert_eq!(shown[0]["source"], "127.0.0.0/24");
        shown[0]["running"] == 2 && shown[0]["rejected"] == 1
    });
    let (admitted, lines) = explain_one(&directory, "127.0.0.3");
    assert!(!admitted);
    assert!(
        lines[0].starts_with("127.0.0.0/24 has 1 of 1 handler "),
        "{lines:?}"
    );
    assert!(!lines.join("\n").contains("127.0.0.3"));
    // What an administrator denies is on the status page, too.
    for source in ["127.0.0.9", "127.0.0.0/8"] {
        let denied = json!({"source": source, "seconds": 600});
        let answer = Control::of(&directory).ask("deny", denied);
        assert_eq!(answer["answer"], "done", "{answer}");
    }
    let status = Control::of(&directory).ask("status", json!({}));
    let denials = status["denials"].as_array().unwrap().iter();
    let mut denied: Vec<_> = denials.map(|it| it["source"].as_str().unwrap()).collect();
    denied.sort_unstable();
    assert_eq!(denied, ["127.0.0.0/24", "127.0.0.0/8"]);
    let allowed = json!({"source": "127.0.0.9"});
    let answer = Control::of(&directory).ask("allow", allowed);
    assert_eq!(answer["answer"], "done", "{answer}");
}

// Explanations.

#[test]
fn rules_and_limits_are_told_with_live_counts() {
    let directory = Directory::new();
    directory.write(
        "rules",
        "deny 127.0.0.9\nallow 127.0.0.2 max=1\nallow all\n",
    );
    let options = [
        "--rules",
        "rules",
        "--max-per-source",
        "5",
        "--max-clients",
        "2",
        "--rate",
        "1/h:3",
    ];
    let skd = controlled(&directory, options).run("cat");
    assert_eq!(
        explain_one(&directory, "127.0.0.9"),
        (false, vec!["denied by line 1 of the rules file".into()])
    );
    let line = |lines: &[String], start: &str| {
        let found = lines.iter().find(|line| line.starts_with(start));
        found
            .unwrap_or_else(|| panic!("{start}: {lines:?}"))
            .clone()
    };
    let (admitted, lines) = explain_one(&directory, "127.0.0.2");
    assert!(admitted, "{lines:?}");
    assert_eq!(lines[0], "allowed by line 2 of the rules file");
    assert_eq!(
        line(&lines, "127.0.0.2 has"),
        "127.0.0.2 has 0 of 1 handler (line 2 of the rules file)"
    );
    let first = served(&skd, 2);
    let (admitted, lines) = explain_one(&directory, "127.0.0.2");
    assert!(!admitted);
    assert!(line(&lines, "127.0.0.2 has 1 of 1").ends_with("its connection is closed"));
    assert_eq!(
        line(&lines, "all clients"),
        "all clients together may come at 1/h:3, 2 more at once now (--rate)"
    );
    let _second = served(&skd, 3);
    // The last slot is used a moment after its handler has begun.
    wait_until("no slot is free", || {
        let (admitted, lines) = explain_one(&directory, "127.0.0.4");
        let full = "2 of 2 slots are taken: it waits in the backlog";
        !admitted && lines.iter().any(|line| line == full)
    });
    // It is true.
    drop(first);
    wait_until("a slot is free", || explain_one(&directory, "127.0.0.2").0);
    let _third = served(&skd, 2);
}

#[test]
fn what_is_asked_of_other_clients_is_told_too() {
    let directory = Directory::new();
    let text = "service.web = { tcp = '127.0.0.1:0', command = ['cat'], max-clients = 7 }\n\
                service.inner = { unix = 'inner.sock', command = ['cat'], deny = ['uid=61250'] }\n\
                service.wait = { tcp = '127.0.0.1:0', command = ['cat'], wait = true }\n";
    let _skd = daemon(&directory, text, 3);
    let of = |client: &str| {
        let all = explain(&directory, json!({"client": client}));
        let names: Vec<_> = all.iter().map(|(name, ..)| name.clone()).collect();
        assert_eq!(names, ["web", "inner", "wait"]);
        all.into_iter()
            .map(|(_, admitted, lines)| (admitted, lines))
            .collect::<Vec<_>>()
    };
    let none = "it has no listener for such a client";
    let inet = of("192.0.2.1");
    assert_eq!(inet[0], (true, vec!["0 of 7 slots are taken".into()]));
    assert_eq!(inet[1], (false, vec![none.into()]));
    assert!(inet[2].0 && inet[2].1[0].contains("wait mode"), "{inet:?}");
    let stranger = of("uid:61250");
    assert_eq!(stranger[0], (false, vec![none.into()]));
    assert!(
        !stranger[1].0 && stranger[1].1[0].starts_with("denied by"),
        "{stranger:?}"
    );
    assert!(of("uid:0")[1].0);
}

#[test]
fn what_an_administrator_has_done_is_told() {
    let directory = Directory::new();
    let skd = controlled(&directory, []).run("cat");
    let service = explain(&directory, json!({"client": "127.0.0.1"}))[0]
        .0
        .clone();
    let mut client = Control::of(&directory);
    let mut act = |request: &str, fields: Value| {
        assert_eq!(client.ask(request, fields)["answer"], "done");
    };
    act("deny", json!({"source": "127.0.0.0/30", "seconds": 3600}));
    let (admitted, lines) = explain_one(&directory, "127.0.0.3");
    assert!(
        !admitted && lines[0].starts_with("an administrator has denied it for"),
        "{lines:?}"
    );
    assert!(explain_one(&directory, "127.0.0.4").0);
    act("allow", json!({"source": "127.0.0.0/30"}));
    assert!(explain_one(&directory, "127.0.0.3").0);
    act("disable", json!({"service": service}));
    let (admitted, lines) = explain_one(&directory, "127.0.0.3");
    assert!(
        !admitted && lines[0].starts_with("it is disabled"),
        "{lines:?}"
    );
    act("enable", json!({"service": service}));
    assert!(explain_one(&directory, "127.0.0.3").0);
    assert_eq!(talk(skd.connect(), b"x"), b"x");
}

#[test]
fn senders_of_datagrams_are_sources_and_explained() {
    let directory = Directory::new();
    let text = "service.time = { udp = '127.0.0.1:0', command = ['cat'], datagram-mode = 'per-peer', \
                max-per-source = 3, min-source-port = 1024 }\n";
    let skd = daemon(&directory, text, 1);
    let listening = skd.logged("Listening on ");
    let port = listening[0].rsplit(':').next().unwrap().parse().unwrap();
    let address = SocketAddr::new(host(1), port);
    assert_eq!(ask_udp(address, b"x"), b"x");
    wait_for_handlers(&directory, 1);
    let shown = sources(&directory, json!({}));
    assert_eq!(
        (&shown[0]["source"], &shown[0]["running"]),
        (&json!("127.0.0.1"), &json!(1))
    );
    let found = clients(&directory, json!({"service": "time"}));
    assert!(found[0].starts_with("[127.0.0.1]:"), "{found:?}");
    let (admitted, lines) = explain_one(&directory, "127.0.0.1");
    assert!(admitted);
    assert_eq!(lines[0], "127.0.0.1 has 1 of 3 handlers (--max-per-source)");
    assert!(
        lines.last().unwrap().contains("--min-source-port"),
        "{lines:?}"
    );
}
