//! `--log-format`, `--log-time` and `--log-mask`: lines for programs, with times, and without addresses.

use crate::harness::{
    Directory, Instance, Running, Skd, connect, connect_from, connect_unix, copy_program, is_time,
    poll_for, requires_command, run_to_end, send_unix_datagram, talk, try_talk, udp_client,
    untimed, wait_for_text, wait_until,
};
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

const SCHEMA: &str = include_str!("../../docs/log.schema.json");
const DOCUMENT: &str = include_str!("../../docs/log.md");
const FIELDS: &str = include_str!("../../src/report/fields.rs");

/// Why a value isn't as a schema says: the parts of JSON Schema that ours has. An unknown part is a fault.
fn fault(schema: &Value, value: &Value) -> Option<String> {
    let parts = schema.as_object().expect("a schema");
    parts.iter().find_map(|(part, rule)| {
        let wrong = || Some(format!("{part} {rule} isn't met by {value}"));
        let number = || value.as_f64();
        let met = match part.as_str() {
            "$schema" | "title" | "then" => true,
            "type" => match rule.as_str().unwrap() {
                "object" => value.is_object(),
                "string" => value.is_string(),
                "number" => value.is_number(),
                "integer" => value.is_i64() || value.is_u64(),
                other => panic!("type {other}"),
            },
            "enum" => rule.as_array().unwrap().contains(value),
            "minimum" => number() >= rule.as_f64(),
            "maximum" => number() <= rule.as_f64(),
            // There is one pattern.
            "pattern" => rule.as_str().unwrap().ends_with("{6}Z$") && is_time(value.as_str()?),
            "required" => {
                let names = rule.as_array().unwrap().iter();
                names
                    .map(|name| name.as_str().unwrap())
                    .all(|name| value.get(name).is_some())
            }
            "properties" => {
                let mut properties = rule.as_object().unwrap().iter();
                return properties.find_map(|(name, rule)| fault(rule, value.get(name)?));
            }
            "additionalProperties" => {
                let known = &schema["properties"];
                let mut others = value
                    .as_object()?
                    .iter()
                    .filter(|(name, _)| known.get(name).is_none());
                return match rule {
                    Value::Bool(false) => others.next().map(|(name, _)| format!("unknown: {name}")),
                    rule => others.find_map(|(_, value)| fault(rule, value)),
                };
            }
            "allOf" => {
                return rule
                    .as_array()
                    .unwrap()
                    .iter()
                    .find_map(|rule| fault(rule, value));
            }
            "oneOf" => {
                let rules = rule.as_array().unwrap().iter();
                rules.filter(|rule| fault(rule, value).is_none()).count() == 1
            }
            "if" => match fault(rule, value) {
                Some(_) => true,
                None => return fault(&schema["then"], value),
            },
            other => panic!("{other} is unknown"),
        };
        if met { None } else { wrong() }
    })
}

/// The lines of a log, each of which must be an object as in the schema.
#[track_caller]
fn parsed<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<Value> {
    let schema = serde_json::from_str(SCHEMA).unwrap();
    let mut objects = Vec::new();
    for line in lines {
        assert!(line.len() < 4096, "{line}");
        let object = serde_json::from_str(line).unwrap_or_else(|why| panic!("{why}: {line}"));
        assert_eq!(fault(&schema, &object), None, "{line}");
        // The types of the control protocol are the same, and lose nothing.
        let typed: skd_control::EventLine<'_> = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_value(typed).unwrap(), object);
        objects.push(object);
    }
    objects
}

fn objects(skd: &Instance) -> Vec<Value> {
    parsed(skd.log_lines().iter().map(String::as_str))
}

/// Waits for so many lines about this event, and returns them.
#[track_caller]
fn events(skd: &Instance, event: &str, count: usize) -> Vec<Value> {
    skd.wait_for_logs(&format!("\"event\":\"{event}\""), count);
    let mut all = objects(skd);
    all.retain(|object| object["event"] == event);
    all
}

fn json(options: &[&str]) -> Skd {
    Skd::new(["-vv", "--log-format", "json"]).args(options)
}

/// The names in the first column of a table.
fn column(document: &str, heading: &str) -> BTreeSet<String> {
    let (_, table) = document.split_once(heading).expect(heading);
    let rows = table
        .lines()
        .skip(1)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| row.split('`').nth(1).expect("a name").to_owned())
        .collect()
}

#[test]
fn the_schema_the_document_and_the_code_have_the_same_events_and_fields() {
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let strings = |values: &Value| -> BTreeSet<String> {
        let values = values.as_array().unwrap().iter();
        values
            .map(|value| value.as_str().unwrap().to_owned())
            .collect()
    };
    let documented = column(DOCUMENT, "| event | verbosity | what has happened |\n");
    let events = strings(&schema["properties"]["event"]["enum"]);
    assert_eq!(events, documented);
    let (_, code) = FIELDS.split_once("fn name(&self)").unwrap();
    let (code, _) = code.split_once("fn level(&self)").unwrap();
    let mut names: BTreeSet<String> = code
        .lines()
        .filter_map(|line| Some(line.split('"').nth(1)?.to_owned()))
        .collect();
    // It has no event: the log itself writes it.
    names.insert("lines-lost".into());
    // These are only counted, and the last one is text.
    for counted in [
        "datagram-dropped",
        "datagrams-received",
        "datagrams-sent",
        "handler-starting",
        "handler-started",
        "handler-not-started",
        "reload-attempted",
        "upgrade-attempted",
        "tls-figures",
        "would-listen",
    ] {
        assert!(names.remove(counted), "{counted}");
    }
    assert_eq!(names, events);
    assert_eq!(
        BTreeSet::from(skd_control::EVENTS.map(str::to_owned)),
        events
    );
    let properties = schema["properties"].as_object().unwrap();
    let fields: BTreeSet<String> = properties.keys().cloned().collect();
    assert_eq!(fields, column(DOCUMENT, "| field | type | value |\n"));
}

#[test]
fn the_schema_and_the_document_have_the_reasons_that_are_counted() {
    use skd::report::{Cause, DropReason, EndResult, RejectKind};
    let (_, document) = DOCUMENT.split_once("### Reasons\n").unwrap();
    let items: Vec<_> = document.split("\n- of ").skip(1).collect();
    let schema: Value = serde_json::from_str(SCHEMA).unwrap();
    let check = |event: &str, counted: &[&str]| {
        let counted: BTreeSet<&str> = counted.iter().copied().collect();
        let item = items
            .iter()
            .find(|it| it.starts_with(&format!("`{event}`")));
        let (_, labels) = item.unwrap().split_once(':').unwrap();
        let documented: BTreeSet<_> = labels.split('`').skip(1).step_by(2).collect();
        assert_eq!(documented, counted, "{event} in the document");
        let mut rules = schema["allOf"].as_array().unwrap().iter();
        let rule = rules.find(|it| it["if"]["properties"]["event"]["enum"][0] == event);
        let labels = &rule.unwrap()["then"]["properties"]["reason"]["enum"];
        let labels = labels.as_array().unwrap().iter();
        let labels: BTreeSet<_> = labels.map(|it| it.as_str().unwrap()).collect();
        assert_eq!(labels, counted, "{event} in the schema");
    };
    check("rejected", &RejectKind::ALL.map(RejectKind::label));
    check("datagrams-dropped", &DropReason::ALL.map(DropReason::label));
    check("closed", &EndResult::ALL.map(EndResult::label));
    check("trouble", &Cause::ALL.map(Cause::label));
}

#[test]
fn a_connection_is_an_object_from_begin_to_end() {
    let skd = json(&["-t", "127.0.0.1:0", "--name", "web"])
        .run_with("sh", ["-c", "read status; exit $status"]);
    let stream = skd_connect(&skd);
    let client = stream.local_addr().unwrap();
    let _ = try_talk(stream, b"3\n");
    let closed = &events(&skd, "closed", 1)[0];
    let accepted = &events(&skd, "accepted", 1)[0];
    for object in [accepted, closed] {
        assert_eq!(object["level"], "info");
        assert_eq!(object["service"], "web");
        assert_eq!(object["client"]["address"], "127.0.0.1");
        assert_eq!(object["client"]["port"], client.port());
        assert_eq!(object["server"]["address"], "127.0.0.1");
        assert_eq!(object["server"]["port"], u64::from(address(&skd).port()));
    }
    assert_eq!(
        accepted["message"],
        format!("Accepted connection from [127.0.0.1]:{}", client.port())
    );
    assert_eq!(closed["status"], 3);
    assert_eq!(closed["reason"], "failure");
    assert!(closed["max_rss"].as_u64().unwrap() > 4096);
    assert!(closed["time"].as_str() > accepted["time"].as_str());
    let message = closed["message"].as_str().unwrap();
    let pid = closed["pid"].as_i64().unwrap();
    assert!(
        message.contains(&format!(": pid {pid} exited with status 3 after ")),
        "{message}"
    );
    assert_eq!(
        events(&skd, "slots", 2)
            .iter()
            .map(|it| it["count"].as_u64())
            .collect::<Vec<_>>(),
        [Some(1), Some(0)]
    );
}

/// The address of an internet listener, by its line.
#[track_caller]
fn address(skd: &Instance) -> SocketAddr {
    let listening = &events(skd, "listening", 1)[0]["server"];
    let ip: IpAddr = listening["address"].as_str().unwrap().parse().unwrap();
    SocketAddr::new(
        ip,
        u16::try_from(listening["port"].as_u64().unwrap()).unwrap(),
    )
}

fn skd_connect(skd: &Instance) -> std::net::TcpStream {
    connect(address(skd))
}

#[test]
fn lines_of_many_kinds_are_as_the_schema_says() {
    let directory = Directory::new();
    directory.write("rules", "# Nobody.\n\ndeny 127.0.3.0/24\nallow all\n");
    let (stream, datagram) = (directory.name("stream"), directory.name("datagram"));
    let odd = directory.name("\u{1}\u{7f}\"é\\");
    // Rules, a limit, time limits, unix clients, and a name with all that has to be escaped.
    let skd = json(&["-t", "127.0.0.1:0", "-l", &stream, "-l", &odd, "--rules", &directory.name("rules")])
        .args(["--timeout=1s", "--kill-after=200ms", "--max-per-source", "1", "--at-source-max=close"])
        .run_with("sh", ["-c", "trap '' TERM; while read word; do test $word = end && exit; test $word = die && kill -9 $$; done; sleep 5; sleep 5"]);
    let server = address(&skd);
    let from = |ip: &str| connect_from(ip.parse().unwrap(), server);
    for _ in 0..5 {
        let _ = try_talk(from("127.0.3.1"), b"");
    }
    let _ = try_talk(from("127.0.0.2"), b"die\n");
    let first = from("127.0.0.3");
    events(&skd, "accepted", 2);
    let _ = try_talk(from("127.0.0.3"), b"");
    for path in [&stream, &odd] {
        let _ = try_talk(connect_unix(path), b"end\n");
    }
    events(&skd, "closed", 4);
    drop(first);
    assert_eq!(skd.stop().code(), Some(0));
    let all = objects(&skd);
    let of = |event: &str| {
        all.iter()
            .filter(|it| it["event"] == event)
            .cloned()
            .collect::<Vec<_>>()
    };
    let reasons = |event| -> BTreeSet<String> {
        of(event)
            .iter()
            .map(|it| it["reason"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(
        reasons("rejected"),
        ["rule".to_owned(), "source-max".to_owned()].into()
    );
    assert_eq!(reasons("handler-late"), ["timeout".to_owned()].into());
    let ends = [
        "signal".to_owned(),
        "success".to_owned(),
        "timeout".to_owned(),
    ];
    assert_eq!(reasons("closed"), ends.into());
    assert!(!of("handler-killed").is_empty());
    let more = of("connections-rejected");
    let counted: u64 = more.iter().map(|it| it["count"].as_u64().unwrap()).sum();
    assert_eq!(of("rejected").len() as u64 + counted, 6);
    assert!(
        more.iter().all(|it| it["reasons"]["rule"] == it["count"]),
        "{more:?}"
    );
    let unix = of("accepted")
        .into_iter()
        .filter(|it| it["client"]["uid"].is_u64())
        .collect::<Vec<_>>();
    assert_eq!(unix.len(), 2);
    assert!(
        unix.iter()
            .all(|it| it["client"]["pid"] == std::process::id())
    );
    let servers: BTreeSet<_> = unix
        .iter()
        .map(|it| it["server"]["address"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(servers, [stream.clone(), odd.clone()].into());

    let skd = json(&["-u", "127.0.0.1:0", "-dl", &datagram])
        .run_with("sh", ["-c", "dd bs=9 count=1 >/dev/null 2>&1"]);
    udp_client(address(&skd)).send(b"1").unwrap();
    send_unix_datagram(&datagram, b"1");
    assert_eq!(events(&skd, "received", 2).len(), 2);
    skd.signal(Signal::SIGUSR1);
    events(&skd, "figures", 1);

    // A trouble, and a reload.
    let program = directory.script("handler", "#!/bin/sh\nexec cat\n");
    let skd = json(&["-t", "127.0.0.1:0", "--rules", &directory.name("rules")]).run(&program);
    fs::remove_file(&program).unwrap();
    let _ = try_talk(skd_connect(&skd), b"");
    let trouble = &events(&skd, "trouble", 1)[0];
    assert_eq!(trouble["reason"], "exec");
    let message = trouble["message"].as_str().unwrap();
    assert!(
        message.ends_with("can't be run: No such file or directory") && message.starts_with('\''),
        "{message}"
    );
    skd.signal(Signal::SIGHUP);
    assert_eq!(events(&skd, "rules-reloaded", 1)[0]["count"], 2);
    objects(&skd);
}

#[test]
fn a_message_that_is_too_long_is_cut_and_its_object_is_complete() {
    let directory = Directory::new();
    // Each takes six bytes in JSON.
    let deep = directory
        .path()
        .join("\u{1}".repeat(200))
        .join("\u{2}".repeat(200))
        .join("\u{3}".repeat(200))
        .join("\u{4}".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    let program = deep.join("handler");
    copy_program("/bin/cat", &program);
    let skd = json(&["-t", "127.0.0.1:0"]).run(&program);
    fs::remove_file(&program).unwrap();
    let _ = try_talk(skd_connect(&skd), b"");
    let trouble = &events(&skd, "trouble", 1)[0];
    let message = trouble["message"].as_str().unwrap();
    assert!(
        message.contains('\u{1}') && message.ends_with('…'),
        "{message}"
    );
}

#[test]
fn lines_of_handlers_are_not_touched() {
    let directory = Directory::new();
    let log = directory.join("log");
    let skd = Skd::new([
        "-vt",
        "127.0.0.1:0",
        "--log-format=json",
        "-L",
        &format!(">{}", log.display()),
    ])
    .run_with("sh", ["-c", "echo own words >&2; cat"]);
    talk(skd.connect(), b"");
    let text = wait_for_text(&log, "\"closed\"");
    let (own, rest): (Vec<_>, Vec<_>) = text.lines().partition(|line| *line == "own words");
    assert_eq!(own.len(), 1);
    assert_eq!(parsed(rest).len(), 2);
    // What fails before is told in words.
    Skd::new(["--log-format", "json", "-t", "127.0.0.1:0", "/nonexistent"])
        .end()
        .expect_refusal(127, &["skd: '/nonexistent' can't be run"]);
}

#[test]
fn a_log_that_takes_nothing_costs_whole_objects() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    fcntl(&writer, FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    let skd = Skd::new(["-vt", "127.0.0.1:0", "--log-format=json"])
        .stderr(writer)
        .run("cat");
    let mut connections = 100;
    for _ in 0..connections {
        assert_eq!(talk(skd.connect(), b"served"), b"served");
    }
    let (sender, bytes) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = reader.read(&mut buffer) {
            if sender.send(buffer[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let mut seen = String::new();
    wait_until("every line is there or among those that were lost", || {
        talk(skd.connect(), b"");
        connections += 1;
        let settled = poll_for(Duration::from_millis(200), || {
            while let Ok(bytes) = bytes.try_recv() {
                seen += &String::from_utf8_lossy(&bytes);
            }
            let whole = seen.ends_with('\n').then(|| parsed(seen.lines()))?;
            let (lost, arrived): (Vec<_>, Vec<_>) =
                whole.iter().partition(|it| it["event"] == "lines-lost");
            let lost: u64 = lost.iter().map(|it| it["count"].as_u64().unwrap()).sum();
            (lost > 0 && arrived.len() as u64 + lost == 2 * connections).then_some(())
        });
        settled.is_some()
    });
}

#[test]
fn after_a_torn_line_the_next_object_is_in_a_line_of_its_own() {
    // What writes into a socket of packets or a full file may leave a part; here the limit of a file's size does.
    let directory = Directory::new();
    let socket = directory.name("socket");
    let error = fs::File::create(directory.join("error")).unwrap();
    let resource = nix::sys::resource::Resource::RLIMIT_FSIZE;
    let skd = Skd::new(["-v", "-l", &socket, "--log-format=json"])
        .limit(resource, 1000, 1_000_000)
        .stderr(error)
        .run("cat");
    let length = || fs::metadata(directory.join("error")).unwrap().len();
    wait_until("the file is as long as it may be", || {
        assert_eq!(talk(connect_unix(&socket), b"served"), b"served");
        length() == 1000
    });
    requires_command("prlimit");
    let pid = skd.pid().to_string();
    let raised = Command::new("prlimit")
        .args(["--pid", &pid, "--fsize=1000000"])
        .status();
    assert!(raised.unwrap().success());
    talk(connect_unix(&socket), b"");
    let text = wait_for_text(directory.join("error"), "lines-lost");
    wait_for_text(directory.join("error"), "\n{");
    let torn = text
        .lines()
        .filter(|line| serde_json::from_str::<Value>(line).is_err())
        .count();
    assert_eq!(torn, 1, "{text}");
}

#[test]
fn times_are_in_files_by_default_and_elsewhere_on_request() {
    let script = ["-c", "echo own >&2; cat"];
    let directory = Directory::new();
    let log = directory.join("log");
    let to_file = format!(">{}", log.display());
    for (options, timed) in [
        (&[][..], true),
        (&["--log-time"][..], true),
        (&["--log-time=no"][..], false),
    ] {
        let skd = Skd::new(["-vt", "127.0.0.1:0", "-L", &to_file])
            .args(options)
            .run_with("sh", script);
        talk(skd.connect(), b"");
        let text = wait_for_text(&log, "Closed connection");
        match timed {
            // The relay writes the time of all lines.
            true => assert!(untimed(&text, &[]).contains("\nown\n")),
            false => assert!(
                text.starts_with("Accepted ") && text.contains("\nown\n"),
                "{text}"
            ),
        }
    }
    for (options, timed) in [
        (&[][..], false),
        (&["--log-time"][..], true),
        (&["--log-time=yes"][..], true),
    ] {
        let skd = Skd::new(["-vt", "127.0.0.1:0"])
            .args(options)
            .run_with("sh", script);
        talk(skd.connect(), b"");
        skd.wait_for_log("Closed connection");
        let text = skd.log_lines().join("\n");
        match timed {
            true => assert!(
                untimed(&text, &["own"]).starts_with("Accepted connection"),
                "{text}"
            ),
            false => assert!(text.starts_with("Accepted "), "{text}"),
        }
    }
}

#[test]
fn a_time_is_that_of_the_clock() {
    let before = std::time::SystemTime::now();
    let skd = json(&["-t", "127.0.0.1:0"]).run("cat");
    talk(skd_connect(&skd), b"");
    let time = events(&skd, "closed", 1)[0]["time"]
        .as_str()
        .unwrap()
        .to_owned();
    let date = |time: std::time::SystemTime| {
        let seconds = time
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs_f64();
        let output = Command::new("date")
            .args([
                "-u",
                "-d",
                &format!("@{seconds:.6}"),
                "+%Y-%m-%dT%H:%M:%S.%6NZ",
            ])
            .output();
        String::from_utf8(output.unwrap().stdout)
            .unwrap()
            .trim()
            .to_owned()
    };
    let (before, after) = (date(before), date(std::time::SystemTime::now()));
    assert!(before < time && time < after, "{before} {time} {after}");
}

/// Every kind of line that can name a client, from these addresses.
fn all_kinds(directory: &Directory, options: &[&str]) -> Vec<Running> {
    let start = |more: &[&str], script: &str| {
        Skd::new(["-vv"])
            .throttle(Duration::from_secs(3600))
            .args(options)
            .args(more)
            .run_with("sh", ["-c", script])
    };
    let from = |ip: &str, skd: &Running| connect_from(ip.parse().unwrap(), listener(skd));
    let rules = directory.write(
        "rules",
        "deny 127.0.7.8\nallow 127.0.7.9 max=1\nallow all\n",
    );
    let rules = rules.to_str().unwrap();
    let limited = start(
        &[
            "-t",
            "127.0.0.1:0",
            "--rules",
            rules,
            "--timeout=1s",
            "--kill-after=100ms",
            "--at-source-max=close",
        ],
        "trap '' TERM; while :; do sleep 1; done",
    );
    for _ in 0..6 {
        let _ = try_talk(from("127.0.7.8", &limited), b"");
    }
    let held = from("127.0.7.9", &limited);
    limited.wait_for_log("Accepted");
    for _ in 0..6 {
        let _ = try_talk(from("127.0.7.9", &limited), b"");
    }
    limited.wait_for_log(" has not ended: KILL");
    limited.wait_for_log("Closed");
    drop(held);

    let options_of_command_line = start(
        &[
            "-t",
            "127.0.0.1:0",
            "--deny",
            "127.0.7.10",
            "--rate-per-source=1/h:1",
            "--at-rate=close",
            "--first-byte=100ms",
        ],
        "cat",
    );
    let _ = try_talk(from("127.0.7.10", &options_of_command_line), b"");
    let silent = from("127.0.7.11", &options_of_command_line);
    options_of_command_line.wait_for_log("it sent nothing in time");
    drop(silent);
    for _ in 0..2 {
        let _ = try_talk(from("127.0.7.11", &options_of_command_line), b".");
    }
    options_of_command_line.wait_for_log("comes faster than it may");

    let proxied = start(
        &[
            "-t",
            "127.0.0.1:0",
            "--proxy-protocol",
            "--proxy-from",
            "127.0.7.12",
        ],
        "cat",
    );
    let _ = try_talk(from("127.0.7.13", &proxied), b".");
    let _ = try_talk(from("127.0.7.12", &proxied), b"no header\r\n");
    let mut proxy = from("127.0.7.12", &proxied);
    proxy
        .write_all(b"PROXY TCP4 198.51.100.77 192.0.2.1 4711 80\r\n")
        .unwrap();
    let _ = try_talk(proxy, b"");
    proxied.wait_for_log("Closed");
    proxied.wait_for_log("PROXY header");

    let datagrams = start(
        &["-u", "127.0.0.1:0", "--datagram-mode=per-packet"],
        "head -c 100000 /dev/zero",
    );
    let client = std::net::UdpSocket::bind("127.0.7.14:0").unwrap();
    client.send_to(b"1", listener(&datagrams)).unwrap();
    datagrams.wait_for_log("is longer than");
    datagrams.wait_for_log("Finished");
    vec![limited, options_of_command_line, proxied, datagrams]
}

/// The address of the only listener, in either format.
fn listener(skd: &Running) -> SocketAddr {
    let line = skd.wait_for_log("Listening on");
    let (_, rest) = line.split_once("[127.0.0.1]:").expect("an address");
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()))
}

#[test]
fn masked_addresses_are_in_no_line_of_any_kind() {
    for format in ["text", "json"] {
        let directory = Directory::new();
        let running = all_kinds(&directory, &["--log-mask=24,48", "--log-format", format]);
        for skd in &running {
            skd.signal(Signal::SIGTERM);
            skd.wait();
            let text = skd.log_lines().join("\n");
            for whole in ["127.0.7.8", "127.0.7.9", "127.0.7.1", "198.51.100.77"] {
                assert!(!text.contains(whole), "{whole} is in:\n{text}");
            }
            // A port. A time may have these digits among others.
            let mut numbers = text.split(|letter: char| !letter.is_ascii_digit());
            assert!(!numbers.any(|number| number == "4711"), "{text}");
            assert!(text.contains("127.0.7.0/24"), "{text}");
            if format == "json" {
                let objects = objects(skd);
                let ports = objects.iter().filter(|it| it["client"]["port"].is_u64());
                assert_eq!(ports.count(), 0, "{text}");
            }
        }
        let limited = running[0].log_lines().join("\n");
        assert!(
            limited.contains("Refused connection from [127.0.7.0/24]: denied by line 1"),
            "{limited}"
        );
        // One or more of them, by when the last line was written.
        let summed =
            |line: &str| line.contains(" more connection") && line.contains(" from 127.0.7.0/24: ");
        assert!(limited.lines().any(summed), "{limited}");
        assert!(
            running[2]
                .log_lines()
                .join("\n")
                .contains("[198.51.100.0/24]")
        );
    }
}

#[test]
fn a_handler_gets_the_whole_address() {
    let skd = Skd::new(["-vt", "127.0.0.1:0", "--log-mask=0,0"])
        .run_with("sh", ["-c", "echo $REMOTE_ADDR"]);
    assert_eq!(talk(skd.connect(), b""), b"127.0.0.1\n");
    assert_eq!(
        skd.wait_for_log("Accepted"),
        "Accepted connection from [0.0.0.0/0]"
    );
}

#[test]
fn a_summary_keeps_the_reasons_apart() {
    let directory = Directory::new();
    let rules = directory.write("rules", "deny 127.0.3.1\nallow all\n");
    let skd = Skd::new([
        "-vt",
        "127.0.0.1:0",
        "--threads=1",
        "--rules",
        rules.to_str().unwrap(),
    ])
    .args([
        "--max-per-source=1",
        "--at-source-max=close",
        "--source-prefix=24,64",
    ])
    .throttle(Duration::from_secs(3600))
    .run("cat");
    let from = |ip: &str| connect_from(ip.parse().unwrap(), skd.address());
    let _held = from("127.0.3.2");
    skd.wait_for_log("Accepted");
    for _ in 0..6 {
        let _ = try_talk(from("127.0.3.1"), b"");
    }
    for _ in 0..9 {
        let _ = try_talk(from("127.0.3.2"), b"");
    }
    skd.signal(Signal::SIGTERM);
    let line = skd.wait_for_log(" more connection");
    let expected = match cfg!(debug_assertions) {
        true => "Refused 12 more connections from 127.0.3.0/24: 9 source-max, 3 rule line 1",
        // After a second, three have lines again.
        false => "Refused ",
    };
    assert!(line.starts_with(expected), "{line}");
}

#[test]
fn vv_adds_what_a_handler_has_used() {
    let skd = Skd::new(["-vvt", "127.0.0.1:0"]).run("cat");
    talk(skd.connect(), b"");
    let line = skd.wait_for_log("Closed connection");
    let (_, used) = line
        .split_once("s (cpu ")
        .unwrap_or_else(|| panic!("{line}"));
    let (cpu, peak) = used.split_once("s, peak ").unwrap();
    assert!(cpu.parse::<f64>().unwrap() < 30.0, "{line}");
    let peak = peak.strip_suffix(" KiB)").unwrap().replace(',', "");
    assert!(
        (100..1_000_000).contains(&peak.parse::<u64>().unwrap()),
        "{line}"
    );
}

#[test]
fn lines_name_the_listener_where_a_service_has_several() {
    let directory = Directory::new();
    let path = directory.name("socket");
    let skd = Skd::new(["-vt", "127.0.0.1:0", "-l", &path]).run("cat");
    talk(connect_unix(&path), b"");
    let line = skd.wait_for_log("Closed");
    assert!(
        line.contains(&format!(") on unix stream {path}: pid ")),
        "{line}"
    );
    let stream = skd.connect();
    let client = stream.local_addr().unwrap().port();
    talk(stream, b"");
    let port = skd.port();
    let accepted =
        format!("Accepted connection from [127.0.0.1]:{client} on TCP [127.0.0.1]:{port}");
    skd.wait_for_log(&accepted);
    drop(skd);
    // Two sockets of one port are one.
    let skd = Skd::new(["-v", "-t", "0"]).run("cat");
    let stream = skd.connect();
    let client = stream.local_addr().unwrap().port();
    talk(stream, b"");
    let line = skd.wait_for_log("Accepted");
    assert_eq!(
        line,
        format!("Accepted connection from [127.0.0.1]:{client}")
    );
}

#[test]
fn what_fits_no_log_is_refused() {
    for (options, texts) in [
        (
            &["--log-format", "xml"][..],
            &["--log-format", "it takes text or json"][..],
        ),
        (&["--log-time=maybe"], &["--log-time", "it takes yes or no"]),
        (&["--log-mask", "33,48"], &["--log-mask"]),
        (&["--log-mask", "24"], &["--log-mask"]),
        (
            &["--log-format=json", "--log-time=no"],
            &["--log-time=no can't be used with --log-format json"],
        ),
    ] {
        run_to_end(options.iter().copied().chain(["-t", "127.0.0.1:0", "cat"]))
            .expect_refusal(2, texts);
    }
}

#[test]
fn a_reload_changes_the_mask_and_no_format() {
    let directory = Directory::new();
    let socket = directory.name("socket");
    let write = |daemon: &str| {
        let text = format!(
            "[daemon]\nverbose = 1\n{daemon}\n[service.web]\ntcp = ['127.0.0.1:0']\nunix = ['{socket}']\ncommand = ['cat']\n"
        );
        directory.write("skd.toml", text);
    };
    write("");
    let skd = Skd::new(["--config", &directory.name("skd.toml")]).start_bare();
    wait_until("it listens", || fs::metadata(&socket).is_ok());
    write("log-mask = '24,48'");
    skd.signal(Signal::SIGHUP);
    skd.wait_for_log("Reloaded: ");
    write("log-mask = '24,48'\nlog-format = 'json'");
    skd.signal(Signal::SIGHUP);
    skd.wait_for_log("no reload: ");
    skd.wait_for_log("log-format");
}
