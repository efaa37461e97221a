//! The status page and the metrics of skdctl http, served by skd itself, and what reads them: a browser, Prometheus, and
//! the files of contrib/monitoring.

use crate::ctl;
use crate::harness::{
    DEADLINE, Directory, Running, Skd, close_unix, connect, connect_from, requires_command, talk,
    wait_for, wait_until,
};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

const PAGE: &str = "docs/monitoring.md";
const FILES: &str = "contrib/monitoring";

/// An skd with two services: one whose clients are counted, and its status page.
struct Watched {
    skd: Running,
    directory: Directory,
}

impl Watched {
    /// Starts it. The counted service has these lines besides.
    fn new(lines: &str) -> Self {
        Self::at("control", lines)
    }

    /// Starts it with a status page that asks at this socket in its directory.
    fn at(socket: &str, lines: &str) -> Self {
        let directory = Directory::new();
        let listeners = 2 + lines.matches("udp = ").count();
        let file = format!(
            "[daemon]\ncontrol = 'control'\nverbose = 1\n\
             [service.counted]\ntcp = '127.0.0.1:0'\ncommand = ['cat']\n{lines}\n\
             [service.status]\ntcp = '127.0.0.1:0'\n\
             command = ['{}', '--socket', '{}', 'http']\n",
            ctl::program().display(),
            directory.name(socket),
        );
        directory.write("skd.toml", file);
        let skd = Skd::new(["--config", "skd.toml"])
            .cwd(directory.path())
            .start_bare();
        wait_until("skd prints its ports", || {
            skd.stdout_lines().len() == listeners
        });
        Self { skd, directory }
    }

    /// The first listener of the counted service.
    fn counted(&self) -> SocketAddr {
        self.addresses()[0]
    }

    /// The listener of the status page, which is the last one.
    fn page(&self) -> SocketAddr {
        self.addresses().pop().unwrap()
    }

    /// skd prints the ports that it has chosen.
    fn addresses(&self) -> Vec<SocketAddr> {
        let ports = self.skd.stdout_lines();
        let address = |port: &String| (Ipv4Addr::LOCALHOST, port.parse().unwrap()).into();
        ports.iter().map(address).collect()
    }

    /// The body at this path of the page.
    #[track_caller]
    fn get(&self, path: &str) -> String {
        let (head, body) = get(self.page(), path);
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}\n{body}");
        body
    }

    fn service(&self) -> Value {
        let status: Value = serde_json::from_str(&self.get("/status.json")).unwrap();
        status["services"][0].clone()
    }

    /// Has 7 clients served, and 3 refused by the rule that denies 127.0.0.2; returns when all are counted.
    fn serve_and_refuse(&self) {
        for _ in 0..7 {
            assert_eq!(talk(connect(self.counted()), b"counted"), b"counted");
        }
        for _ in 0..3 {
            let denied = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
            let mut denied = connect_from(denied, self.counted());
            // Its end may be a reset.
            let _ = denied.read(&mut [0]);
        }
        wait_until("all clients are counted", || {
            let service = self.service();
            let listener = &service["listeners"][0];
            let counts = (&listener["accepted"], &listener["rejected"]["rule"]);
            counts == (&json!(7), &json!(3)) && service["ended"]["success"] == 7
        });
    }
}

const DENIED: &str = "deny = '127.0.0.2'";

/// The head and the body of a response.
#[track_caller]
fn get(address: SocketAddr, path: &str) -> (String, String) {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    let answer = String::from_utf8(talk(connect(address), request.as_bytes())).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect(&answer);
    (head.to_owned() + "\r\n", body.to_owned())
}

/// Runs a program that has to find its input right, and returns what it says.
#[track_caller]
fn finds_nothing(command: &mut Command, input: &str) -> String {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(output.status.success(), "{command:?}: {said}");
    said
}

fn promtool(words: &[&str]) -> Command {
    requires_command("promtool");
    let mut promtool = Command::new("promtool");
    promtool.args(words);
    promtool
}

fn file(name: &str) -> String {
    fs::read_to_string(Path::new(FILES).join(name)).unwrap()
}

/// The rows of the tables of the documentation that start with a name like this.
fn documented(is_name: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let page = fs::read_to_string(PAGE).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.map(|row| row.split('`').next().unwrap().to_owned());
    names.filter(|name| is_name(name)).collect()
}

// The files.

#[test]
fn promtool_accepts_the_files_and_tries_the_alerts() {
    for words in [["check", "config"], ["test", "rules"]] {
        let name = match words[0] {
            "check" => "prometheus.yml",
            _ => "alerts_test.yml",
        };
        let mut promtool = promtool(&words);
        let said = finds_nothing(promtool.arg(name).current_dir(FILES), "");
        assert!(said.contains("SUCCESS"), "{said}");
    }
}

#[test]
fn each_alert_is_tried_and_documented() {
    let names = |text: &str, mark: &str| -> BTreeSet<String> {
        let lines = text.lines().map(|line| line.trim_start_matches([' ', '-']));
        let names = lines.filter_map(|line| line.strip_prefix(mark));
        names.map(str::to_owned).collect()
    };
    let alerts = names(&file("alerts.yml"), "alert: ");
    assert!(alerts.len() > 10, "{alerts:?}");
    assert_eq!(names(&file("alerts_test.yml"), "alertname: "), alerts);
    assert_eq!(documented(|name| name.starts_with("Skd")), alerts);
}

/// All expressions of the dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(expression)) = fields.get("expr") {
                found.push(expression.clone());
            }
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn the_dashboard_shows_metrics_that_there_are() {
    let dashboard: Value = serde_json::from_str(&file("grafana-dashboard.json")).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_u64()).collect();
    assert_eq!(ids.len(), panels.len());
    let mut found = Vec::new();
    expressions(&dashboard, &mut found);
    assert!(found.len() > 30, "{}", found.len());
    // As the expressions of rules they are read by promtool.
    let rules: Vec<_> = found
        .iter()
        .enumerate()
        .map(|(number, expression)| {
            let expression = expression.replace("$__rate_interval", "5m");
            json!({"record": format!("dashboard:{number}"), "expr": expression})
        })
        .collect();
    let directory = Directory::new();
    let rules = json!({"groups": [{"name": "dashboard", "rules": rules}]});
    let rules = directory.write("rules.yml", rules.to_string());
    finds_nothing(promtool(&["check", "rules"]).arg(rules), "");
    let metrics = documented(|name| name.contains('_'));
    for text in [found.join("\n"), file("alerts.yml")] {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let names: BTreeSet<_> = words
            .filter(|word| word.starts_with("skd_") || word.starts_with("process_"))
            .map(|word| word.trim_end_matches("_bucket").to_owned())
            .collect();
        assert!(names.len() > 10, "{names:?}");
        let unknown: Vec<_> = names.difference(&metrics).collect();
        assert_eq!(unknown, [""; 0]);
    }
}

#[test]
fn the_labels_of_metrics_are_documented() {
    let watched = Watched::new("udp = '127.0.0.1:0'");
    let metrics = watched.get("/metrics");
    let page = fs::read_to_string(PAGE).unwrap();
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let values: BTreeSet<_> = rows
        .filter_map(|row| row.split("| `").nth(1)?.split('`').next())
        .collect();
    let mut found = 0;
    for label in ["state", "way", "result", "reason", "cause"] {
        let mark = format!("{label}=\"");
        for line in metrics.lines().filter(|line| !line.contains("load")) {
            let Some((_, rest)) = line.split_once(&mark) else {
                continue;
            };
            let value = rest.split('"').next().unwrap();
            let known = values.contains(value) || line.contains("skd_upgrades_total");
            assert!(known, "{label} {value}: {line}");
            found += 1;
        }
    }
    assert!(found > 50, "{found}");
}

// The metrics.

#[test]
fn promtool_finds_nothing_in_the_metrics() {
    let watched = Watched::new(&format!("{DENIED}\nwarm = 1"));
    talk(connect(watched.counted()), b"counted");
    let metrics = watched.get("/metrics");
    assert!(metrics.contains("skd_accepted_total{"), "{metrics}");
    let said = finds_nothing(&mut promtool(&["check", "metrics"]), &metrics);
    assert_eq!(said, "");
}

/// A Prometheus that scrapes one address each fraction of a second.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    _directory: Directory,
}

impl Prometheus {
    fn new(target: SocketAddr) -> Self {
        requires_command("prometheus");
        let directory = Directory::new();
        let configuration = file("prometheus.yml")
            .replace("127.0.0.1:9117", &target.to_string())
            .replace("15s", "200ms");
        directory.write("prometheus.yml", configuration);
        directory.write("alerts.yml", file("alerts.yml"));
        let mut child = Command::new("prometheus")
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg("--web.listen-address=127.0.0.1:0")
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It says at which port it listens; what else it says is read, too.
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let address = lines.find_map(|line| {
            let line = line.unwrap();
            let (_, address) = line.split_once("\"Listening on\" address=")?;
            address.trim().parse().ok()
        });
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            address: address.expect("Prometheus listens"),
            _directory: directory,
        }
    }

    /// The value of an expression, if there is one.
    fn value(&self, expression: &str) -> Option<f64> {
        let encoded: String = expression
            .bytes()
            .map(|byte| format!("%{byte:02x}"))
            .collect();
        let path = format!("/api/v1/query?query={encoded}");
        let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address);
        let mut stream = TcpStream::connect(self.address).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let answer: Value = serde_json::from_str(body).ok()?;
        let results = answer["data"]["result"].as_array()?;
        assert!(results.len() < 2, "{expression}: {answer}");
        results.first()?["value"][1].as_str()?.parse().ok()
    }

    #[track_caller]
    fn wait_for(&self, expression: &str, value: f64) {
        wait_for(&format!("{expression} is {value}"), || {
            (self.value(expression)? == value).then_some(())
        });
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn prometheus_scrapes_skd_through_skd() {
    let watched = Watched::new(DENIED);
    let prometheus = Prometheus::new(watched.page());
    prometheus.wait_for("up{job=\"skd\"}", 1.0);
    watched.serve_and_refuse();
    let counted = |name: &str, more: &str| format!("{name}{{service=\"counted\"{more}}}");
    for (expression, value) in [
        (counted("skd_accepted_total", ""), 7.0),
        (counted("skd_rejected_total", ",reason=\"rule\""), 3.0),
        ("sum(skd_rejected_total)".into(), 3.0),
        (counted("skd_handlers_started_total", ",way=\"exec\""), 7.0),
        (
            counted("skd_handlers_ended_total", ",result=\"success\""),
            7.0,
        ),
        (counted("skd_handler_duration_seconds_count", ""), 7.0),
        (counted("skd_start_latency_seconds_count", ""), 7.0),
        (counted("skd_handlers_running", ""), 0.0),
        (counted("skd_service_state", ",state=\"serving\""), 1.0),
        ("count(skd_build_info)".into(), 1.0),
    ] {
        prometheus.wait_for(&expression, value);
    }
    // It has one connection for all of its scrapes.
    let accepted = "skd_accepted_total{service=\"status\"}[2s]";
    let kept = format!("changes({accepted}) and count_over_time({accepted}) > 5");
    prometheus.wait_for(&kept, 0.0);
    assert_eq!(watched.skd.troubles(), [""; 0]);
}

// The page.

#[test]
fn the_policy_of_the_page_has_the_sums_of_its_style_and_script() {
    requires_command("openssl");
    let watched = Watched::new("");
    let (head, body) = get(watched.page(), "/");
    for (element, directive) in [("style", "style-src"), ("script", "script-src")] {
        let (_, rest) = body.split_once(&format!("<{element}>")).unwrap();
        let (text, _) = rest.split_once(&format!("</{element}>")).unwrap();
        let directory = Directory::new();
        let path = directory.write("text", text);
        let output = Command::new("sh")
            .args([
                "-c",
                "openssl dgst -sha256 -binary \"$1\" | openssl base64",
                "sh",
            ])
            .arg(path)
            .output()
            .unwrap();
        let sum = String::from_utf8(output.stdout).unwrap();
        let wanted = format!("{directive} 'sha256-{}'", sum.trim_end());
        assert!(
            head.contains(&wanted),
            "{wanted} in ctl/src/http/page/mod.rs: {head}"
        );
    }
}

#[test]
fn the_page_and_the_json_have_the_truth() {
    let watched = Watched::new(&format!("{DENIED}\nmax-clients = 5"));
    watched.serve_and_refuse();
    let held = connect(watched.counted());
    wait_until("a handler runs", || watched.service()["running"] == 1);
    let page = watched.get("/");
    for part in [
        "data-rate=\"accepted counted\" data-total=\"8\"",
        "data-rate=\"rejected counted\" data-total=\"3\"",
        "<b>1</b><i>of 5</i>",
        "data-rate=\"ended counted success\" data-total=\"7\"",
        "rule · tcp [127.0.0.1]",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
    let sources: Value = serde_json::from_str(&watched.get("/sources.json")).unwrap();
    let denied = sources["sources"].as_array().unwrap().iter();
    let denied = denied.filter(|source| source["source"] == "127.0.0.2");
    let counts: Vec<_> = denied.map(|source| source["rejected"].clone()).collect();
    assert_eq!(counts, [json!(3)]);
    drop(held);
}

/// The page as Chromium has it after some refreshes.
fn dump(address: SocketAddr) -> String {
    let browser = std::env::var("SKD_CHROMIUM").expect("SKD_CHROMIUM");
    let profile = Directory::new();
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
        .args([
            "--virtual-time-budget=9000",
            &format!("--user-data-dir={}", profile.name("profile")),
        ])
        .arg(format!("http://{address}/"))
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
#[ignore = "needs Chromium: SKD_CHROMIUM=/path/to/chromium"]
fn a_browser_shows_the_truth() {
    let watched = Watched::new(DENIED);
    watched.serve_and_refuse();
    let page = dump(watched.page());
    // The script has run, and its refreshes have brought rates.
    for part in [
        "<b>7</b><i data-rate=\"accepted counted\" data-total=\"7\">0/s</i>",
        "<b>3</b><i data-rate=\"rejected counted\" data-total=\"3\">0/s</i>",
        "<b>7</b><i data-rate=\"ended counted success\" data-total=\"7\">0/s</i>",
        "d=\"M",
        "<p id=\"stale\" role=\"alert\" hidden=\"\"></p>",
    ] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

// What goes wrong.

#[test]
fn without_an_answer_of_skd_the_page_says_so_and_services_go_on() {
    let watched = Watched::at("other", "");
    let expect = |words: &str| {
        for path in ["/", "/metrics", "/healthz"] {
            let (head, body) = get(watched.page(), path);
            assert!(head.starts_with("HTTP/1.1 503 "), "{head}");
            assert!(body.contains(words), "{body}");
        }
        assert_eq!(talk(connect(watched.counted()), b"served"), b"served");
    };
    // No socket; a socket without a process; a server that says nothing that is understood.
    expect("no skd answers at ");
    let path = watched.directory.join("other");
    let listener = UnixListener::bind(&path).unwrap();
    let answers = ["", "{\"version\":1,\"id\":1,\"ans", "HTTP/1.1 400\r\n\n"];
    let server = std::thread::spawn(move || {
        for answer in answers {
            for _ in 0..3 {
                let (mut stream, _) = listener.accept().unwrap();
                let mut line = String::new();
                BufReader::new(&stream).read_line(&mut line).unwrap();
                stream.write_all(answer.as_bytes()).unwrap();
            }
        }
        listener
    });
    expect("skd closed the connection before its answer was complete");
    expect("skd closed the connection before its answer was complete");
    expect("the answer of skd isn't understood");
    close_unix(server.join().unwrap(), &path);
    expect("no skd answers at ");
    assert_eq!(watched.skd.troubles(), [""; 0]);
}

#[test]
fn slow_clients_of_the_page_hold_up_no_other() {
    let watched = Watched::new("");
    let mut slow = Vec::new();
    for _ in 0..5 {
        // A request that doesn't end, and answers that are not read.
        let mut halted = connect(watched.page());
        halted.write_all(b"GET / HTTP/1.1\r\n").unwrap();
        let mut deaf = connect(watched.page());
        deaf.set_nonblocking(true).unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(500);
        let _ = deaf.write(&request);
        slow.extend([halted, deaf]);
    }
    wait_until("handlers run for all", || {
        let metrics = watched.get("/metrics");
        metrics.contains("\nskd_handlers_running{service=\"status\"} 11\n")
    });
    assert_eq!(watched.get("/healthz"), "ok\n");
    assert_eq!(talk(connect(watched.counted()), b"served"), b"served");
    drop(slow);
    watched.skd.wait_for_children(0);
    assert_eq!(watched.skd.troubles(), [""; 0]);
}

#[test]
fn a_draining_skd_is_reported_and_drained() {
    let watched = Watched::new("drain = '30s'");
    let held = connect(watched.counted());
    wait_until("a handler runs", || watched.service()["running"] == 1);
    // A connection that was there before, as a load balancer has it.
    let mut client = BufReader::new(connect(watched.page()));
    let mut ask = || {
        let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
        client.get_mut().write_all(request).unwrap();
        let mut line = String::new();
        let mut length = 0;
        let mut head = String::new();
        while line != "\r\n" {
            line.clear();
            client.read_line(&mut line).unwrap();
            head.push_str(&line);
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        client.read_exact(&mut body).unwrap();
        head
    };
    assert!(ask().starts_with("HTTP/1.1 200 "));
    watched.skd.signal(nix::sys::signal::Signal::SIGTERM);
    let head = wait_for("skd drains", || {
        let head = ask();
        head.starts_with("HTTP/1.1 503 ").then_some(head)
    });
    assert!(head.contains("\r\nConnection: close\r\n"), "{head}");
    drop((client, held));
    assert_eq!(watched.skd.wait().code(), Some(0));
}
