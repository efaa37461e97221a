//! The container image, started with the rights that Kubernetes leaves it.

pub mod pod;

use self::pod::{Filter, Kind, Pod, Rights, USER, Volume, archive, files, run};
use crate::harness::{
    Directory, Leaf, Namespace, Pki, TlsClient, connect, copy_program, echo, receive,
    requires_command, sockets, status_field, talk, wait_for, wait_until,
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

const BUSYBOX: &str = "/usr/bin/busybox";

/// A port of 127.0.0.1.
fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Waits until a process in the container listens on all of these ports.
#[track_caller]
pub fn wait_for_ports(pod: &Pod, ports: &[u16]) {
    let open = |port: &u16| {
        let mut sockets = sockets(pod.skd.pid()).into_iter();
        sockets.any(|it| it.is_open() && it.address.is_some_and(|it| it.port() == *port))
    };
    pod.skd.wait_until("it listens", || ports.iter().all(open));
}

/// An echo server in a restricted container.
fn serving(space: &Namespace, options: &[&str], handler: &[&str]) -> Pod {
    let words = [&["-vt", "127.0.0.1:0"], options, &[BUSYBOX], handler].concat();
    let pod = Rights::default().start(space, &words, &[]);
    pod.skd.wait_ready();
    pod
}

#[test]
#[ignore = "needs the archive of make image"]
fn the_container_has_four_programs_and_names_of_users() {
    let root = files();
    let listed = run([
        "find".as_ref(),
        root.as_os_str(),
        "-printf".as_ref(),
        "%M %U %P\n".as_ref(),
    ]);
    let mut found: Vec<_> = listed
        .lines()
        .filter(|line| !line.starts_with("drwxr-xr-x 0"))
        .collect();
    // What the tests add.
    found.retain(|line| !line.ends_with("/busybox"));
    found.sort_unstable();
    let wanted = [
        "-rw-r--r-- 0 etc/group",
        "-rw-r--r-- 0 etc/passwd",
        "-rwxr-xr-x 0 usr/bin/skd",
        "-rwxr-xr-x 0 usr/bin/skd-forward",
        "-rwxr-xr-x 0 usr/bin/skd-tls",
        "-rwxr-xr-x 0 usr/bin/skdctl",
        "drwxrwxrwt 0 run/skd",
        "drwxrwxrwt 0 tmp",
    ];
    let licenses = |line: &&str| !line.contains(" usr/share/licenses/");
    assert_eq!(
        found.into_iter().filter(licenses).collect::<Vec<_>>(),
        wanted
    );
    assert!(root.join("usr/share/licenses/skd/copyright").exists());
    let version = run([root.join("usr/bin/skd").as_os_str(), "--version".as_ref()]);
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
}

/// The settings of the archive, as skopeo(1) prints them.
fn settings() -> Value {
    let from = format!("oci-archive:{}", archive().display());
    let text = run([
        "skopeo",
        "--override-arch",
        "amd64",
        "inspect",
        "--config",
        &from,
    ]);
    serde_json::from_str(&text).unwrap()
}

#[test]
#[ignore = "needs the archive of make image"]
fn its_settings_are_those_of_the_containerfile() {
    requires_command("skopeo");
    let settings = settings();
    let config = &settings["config"];
    let list = |name: &str| config[name].to_string().replace(',', ", ");
    let word = |name: &str| config[name].as_str().unwrap();
    let file = fs::read_to_string("contrib/container/Containerfile").unwrap();
    let (_, last) = file.split_once("\nFROM scratch\n").unwrap();
    let wanted = [
        "COPY --from=build /tree /".to_owned(),
        format!("ENV {}", config["Env"][0].as_str().unwrap()),
        format!("WORKDIR {}", word("WorkingDir")),
        format!("USER {}", word("User")),
        format!("STOPSIGNAL {}", word("StopSignal")),
        format!("ENTRYPOINT {}", list("Entrypoint")),
        format!("CMD {}", list("Cmd")),
    ];
    assert_eq!(last.lines().collect::<Vec<_>>(), wanted);
    assert_eq!(word("User"), format!("{USER}:{USER}"));
    let labels = &config["Labels"];
    assert_eq!(
        labels["org.opencontainers.image.version"],
        env!("CARGO_PKG_VERSION")
    );
    // What the same files name: programs inside don't ask for other users.
    let passwd = fs::read_to_string("packaging/image/etc/passwd").unwrap();
    assert!(
        passwd.contains(&format!("\nskd:x:{USER}:{USER}:")),
        "{passwd}"
    );
}

/// Makes an archive from these programs, with this umask, in a folder of its own.
fn make(programs: &str, umask: &str) -> (Directory, std::process::Output) {
    let directory = Directory::new();
    let line = format!("umask {umask}; exec packaging/image/make");
    let mut make = Command::new("bash");
    make.args(["-c", &line]).env("SKD_PROGRAMS", programs);
    make.env("CARGO_TARGET_DIR", directory.path());
    let output = make.output().unwrap();
    (directory, output)
}

#[test]
#[ignore = "needs the archive of make image"]
fn the_same_programs_give_the_same_bytes() {
    let programs = files().join("usr/bin");
    let name = format!("packages/skd-{}-oci.tar", env!("CARGO_PKG_VERSION"));
    let read = |umask: &str| {
        let (directory, output) = make(programs.to_str().unwrap(), umask);
        assert!(output.status.success(), "{output:?}");
        fs::read(directory.join(&name)).unwrap()
    };
    let first = read("022");
    // Files have other times in seconds by now.
    std::thread::sleep(Duration::from_millis(1_100));
    assert!(first == read("077"), "the archives differ");
}

#[test]
#[ignore = "it is for make image"]
fn programs_with_libraries_are_refused() {
    let programs = Directory::new();
    for name in ["skd", "skd-forward", "skd-tls", "skdctl"] {
        copy_program("/bin/cat", programs.join(name));
    }
    let (_, output) = make(programs.path().to_str().unwrap(), "022");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success());
    assert!(
        said.contains("needs libraries, and the image has none"),
        "{said}"
    );
}

#[test]
#[ignore = "needs the archive of make image"]
fn a_restricted_container_serves_as_process_1() {
    let space = Namespace::new();
    let pod = serving(&space, &["--drain", "1h"], &["cat"]);
    let pid = pod.skd.pid();
    let field = |name: &str| status_field(pid, name).unwrap();
    assert_eq!(field("NSpid").split_whitespace().last(), Some("1"));
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        assert_eq!(field(set), "0000000000000000", "{set}");
    }
    assert_eq!(field("NoNewPrivs"), "1");
    assert_eq!(field("Seccomp"), "2");
    assert_eq!(field("Uid"), vec![USER.to_string(); 4].join("\t"));
    assert_eq!(field("Groups").trim(), USER.to_string());
    let output = pod.exec(&[BUSYBOX, "touch", "/new"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("Read-only file system"), "{said}");

    let mut client = pod.skd.connect();
    echo(&mut client, b"hello");
    pod.skd.wait_for_log("Accepted connection from [127.0.0.1]");
    drop(client);
    pod.skd.wait_for_log("exited with status 0");
    assert_eq!(pod.skd.troubles(), [""; 0]);
    assert_eq!(pod.skd.stop().code(), Some(0));
}

#[test]
#[ignore = "needs the archive of make image"]
fn term_drains_and_kill_does_not() {
    let space = Namespace::new();
    let ready = "echo ready; exec cat";
    let call = |pod: &Pod| -> TcpStream {
        let mut client = pod.skd.connect();
        assert_eq!(receive(&mut client, 6), b"ready\n");
        client
    };
    let pod = serving(&space, &["--drain", "1h"], &["sh", "-c", ready]);
    let mut client = call(&pod);
    pod.skd.signal(Signal::SIGTERM);
    pod.skd.wait_for_log("Draining: 1 handler has 1h to end");
    echo(&mut client, b"served");
    assert_eq!(talk(client, b"bye"), b"bye");
    assert_eq!(pod.skd.wait().code(), Some(0));

    let pod = serving(&space, &["--drain", "100ms"], &["sh", "-c", ready]);
    let mut client = call(&pod);
    assert_eq!(pod.skd.stop().code(), Some(3));
    // The client sees an end, and no reset.
    assert_eq!(client.read(&mut [0]).unwrap(), 0);

    let stubborn = "trap '' TERM; echo ready; while :; do sleep 1000; done";
    let options = ["--drain", "0s", "--kill-after", "100ms"];
    let pod = serving(&space, &options, &["sh", "-c", stubborn]);
    let _client = call(&pod);
    assert_eq!(pod.skd.stop().code(), Some(4));

    // At the end of the grace period: the kernel ends all handlers with process 1.
    let pod = serving(&space, &["--drain", "1h"], &["sh", "-c", ready]);
    let mut client = call(&pod);
    let handler = pod.skd.wait_for_children(1)[0];
    pod.skd.signal(Signal::SIGTERM);
    pod.skd.wait_for_log("Draining: 1 handler");
    pod.skd.signal(Signal::SIGKILL);
    // 128 and the number of the signal, as runtimes report it.
    assert_eq!(pod.skd.wait().code(), Some(137));
    wait_until("the handler has ended", || !crate::harness::exists(handler));
    assert!(matches!(client.read(&mut [0]), Ok(0) | Err(_)));
    assert_eq!(pod.skd.logged("Closed connection"), [""; 0]);
}

/// Files of services that are read again.
fn services(greeting: &str) -> String {
    format!(
        "[daemon]\nverbose = 1\ncontrol = '/run/skd/control.sock'\n\
         [service.status]\ntcp = '127.0.0.1:9117'\n\
         command = ['/usr/bin/skdctl', '--socket', '/run/skd/control.sock', 'http']\n\
         [service.greeter]\ntcp = '127.0.0.1:8080'\nrules = 'rules'\n\
         command = ['{BUSYBOX}', 'echo', '{greeting}']\n"
    )
}

/// The answer of the status page of a container to a request for this path.
#[track_caller]
pub fn get(space: &Namespace, port: u16, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n");
    let answer = space.enter(|| talk(connect(local(port)), request.as_bytes()));
    String::from_utf8(answer).unwrap()
}

#[test]
#[ignore = "needs the archive of make image"]
fn services_and_rules_of_a_projected_volume_are_read_again() {
    let space = Namespace::new();
    let ask = |port: u16| space.enter(|| talk(connect(local(port)), b""));
    for group in [None, Some(USER)] {
        let mut volume = Volume::new(&space, Kind::Memory, 0o644, group);
        volume.write(&[("skd.toml", &services("one")), ("rules", "allow all\n")]);
        let pod = Rights::default().start(&space, &[], &[volume.at("/etc/skd")]);
        wait_for_ports(&pod, &[8080, 9117]);
        assert_eq!(ask(8080), b"one\n");
        assert!(get(&space, 9117, "/healthz").starts_with("HTTP/1.1 200 OK\r\n"));
        assert!(
            get(&space, 9117, "/metrics").contains("skd_handlers_running{service=\"greeter\"} 0\n")
        );

        volume.write(&[("skd.toml", &services("two")), ("rules", "allow all\n")]);
        assert_eq!(ask(8080), b"one\n");
        assert!(pod.skd.hang_up().starts_with("Reloaded: "));
        assert_eq!(ask(8080), b"two\n");

        // As kubectl exec does: no signal is needed.
        volume.write(&[("skd.toml", &services("two")), ("rules", "deny all\n")]);
        pod.ask(&[
            "/usr/bin/skdctl",
            "--socket",
            "/run/skd/control.sock",
            "reload",
        ]);
        assert_eq!(ask(8080), b"");
        pod.skd.wait_for_log("Refused connection from [127.0.0.1]");

        // A fault leaves all as it was.
        volume.write(&[
            ("skd.toml", "[service.greeter]\ntpc = 8080\n"),
            ("rules", "allow all\n"),
        ]);
        assert!(pod.skd.hang_up().contains("no reload: "));
        assert_eq!(ask(8080), b"");
        assert_eq!(pod.skd.stop().code(), Some(0));
    }
}

#[test]
#[ignore = "needs the archive of make image"]
fn a_volume_of_a_config_map_is_refused_and_its_files_are_not() {
    let space = Namespace::new();
    for group in [None, Some(USER)] {
        let mut volume = Volume::new(&space, Kind::Disk, 0o644, group);
        volume.write(&[("skd.toml", &services("one")), ("rules", "allow all\n")]);
        let refused = Rights::default().start(&space, &[], &[volume.at("/etc/skd")]);
        let output = refused.skd.wait_with_output();
        assert_eq!(output.code(), Some(1), "{output:#?}");
        let why = "all users can write to /etc/skd (mode ";
        output.expect_stderr(&[
            "skd.toml",
            why,
            "so the symbolic link skd.toml there isn't followed",
        ]);

        // Each file by itself, which stays what it was at the start.
        let alone =
            ["skd.toml", "rules"].map(|name| volume.file_at(name, &format!("/etc/skd/{name}")));
        let pod = Rights::default().start(&space, &[], &alone);
        wait_for_ports(&pod, &[8080, 9117]);
        volume.write(&[("skd.toml", &services("two")), ("rules", "allow all\n")]);
        assert!(pod.skd.hang_up().starts_with("Reloaded: "));
        assert_eq!(space.enter(|| talk(connect(local(8080)), b"")), b"one\n");
        assert_eq!(pod.skd.stop().code(), Some(0));
    }
}

#[test]
#[ignore = "needs the archive of make image"]
fn a_key_of_a_secret_is_readable_for_the_group_alone() {
    requires_command("openssl");
    let space = Namespace::new();
    let pki = Pki::with_server();
    let text = |name: &str| fs::read_to_string(pki.path(name)).unwrap();
    let secret = [
        ("tls.crt", text("server.pem")),
        ("tls.key", text("server.key")),
    ];
    let secret = secret.each_ref().map(|(name, text)| (*name, text.as_str()));
    let tls = ["--tls", "/etc/tls/tls.crt:/etc/tls/tls.key"];
    let words = [&["-vt", "127.0.0.1:0"], &tls[..], &[BUSYBOX, "cat"]].concat();

    // The default mode.
    let mut open = Volume::new(&space, Kind::Memory, 0o644, Some(USER));
    open.write(&secret);
    let refused = Rights::default().start(&space, &words, &[open.at("/etc/tls")]);
    let output = refused.skd.wait_with_output();
    assert_ne!(output.code(), Some(0));
    output.expect_stderr(&["tls.key", "can be read by every user"]);

    let mut volume = Volume::new(&space, Kind::Memory, 0o440, Some(USER));
    volume.write(&secret);
    let pod = Rights::default().start(&space, &words, &[volume.at("/etc/tls")]);
    pod.skd.wait_ready();
    let client = space.enter(|| TlsClient::new(&pki));
    let first = client.connect("one", pod.skd.port());
    client.echo("one");

    // A renewed certificate.
    pki.sign(
        "renewed",
        Leaf {
            names: "DNS:localhost,IP:127.0.0.1",
            ..Leaf::default()
        },
    );
    let secret = [
        ("tls.crt", text("renewed.pem")),
        ("tls.key", text("renewed.key")),
    ];
    let secret = secret.each_ref().map(|(name, text)| (*name, text.as_str()));
    volume.write(&secret);
    pod.skd.signal(Signal::SIGHUP);
    let mut number = 0;
    pod.skd.wait_until("clients get the new certificate", || {
        number += 1;
        client.connect(&format!("next-{number}"), pod.skd.port()) != first
    });
    client.echo("one");
    drop(client);
    assert_eq!(pod.skd.stop().code(), Some(0));
}

/// The containers of the table of rights, in the order of its columns.
fn columns() -> [Rights; 4] {
    let strict = Rights::default();
    let default = Rights {
        filter: Filter::Default,
        ..Rights::default()
    };
    let whole = Rights {
        masks: false,
        user_namespace: true,
        ..default.clone()
    };
    let unconfined = Rights {
        filter: Filter::None,
        ..whole.clone()
    };
    [strict, default, whole, unconfined]
}

/// The rows of the table of rights on the page: the options, and what it says of each column.
fn rows(page: &str) -> Vec<(String, Vec<String>)> {
    let (_, table) = page.split_once("\n| option | strict | default |").unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let row = |line: &str| {
        let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
        let options = cells.next().unwrap().trim_matches('`').to_owned();
        (options, cells.map(str::to_owned).collect())
    };
    table.lines().skip(2).map(row).collect()
}

/// Tries options in a container, and returns what differs from this cell of the table.
fn try_cell(
    space: &Namespace,
    rights: &Rights,
    words: &[&str],
    volume: &Volume,
    cell: &str,
) -> Option<String> {
    let words = [&["-vt", "127.0.0.1:0"], words, &[BUSYBOX, "cat"]].concat();
    let pod = rights.start(space, &words, &[volume.at("/etc/tls")]);
    let ended = wait_for("it serves, or ends", || {
        let ended = pod.skd.try_wait(Duration::ZERO);
        match pod.skd.stdout_lines().len() {
            0 => ended.map(Some),
            _ => Some(None),
        }
    });
    let said = pod.skd.log_lines().join("\n");
    let works = ended.is_none();
    let (wanted, detail) = match cell.split_once([':', ',']) {
        Some((wanted, detail)) => (wanted, detail.trim()),
        None => (cell, ""),
    };
    if works != (wanted == "yes") {
        return Some(format!("works: {works}\n{said}"));
    }
    // What the log says in other words.
    let detail = match detail {
        "as a subreaper" => "skd as a subreaper",
        "by PID namespaces" => "by PID namespaces",
        "the filter refuses a host name" => "can't set the host name of the sandbox",
        "without an empty root directory" => {
            "skd-tls isn't confined in full: it has no empty root directory"
        }
        "" => "",
        other => return Some(format!("what is {other:?}?")),
    };
    if !said.contains(detail) {
        return Some(said);
    }
    if let Some(status) = ended {
        let refused = matches!(status.code(), Some(1 | 2)) && said.contains("skd: ");
        return (!refused).then(|| format!("{status}\n{said}"));
    }
    if !words.contains(&"--tls") {
        echo(&mut pod.skd.connect(), b"hello");
    }
    let troubles = pod.skd.troubles();
    // Notes are none, nor is what the page says.
    let troubles: Vec<_> = troubles
        .iter()
        .filter(|it| !it.contains("skd: note: ") && (detail.is_empty() || !it.contains(detail)))
        .collect();
    let stopped = pod.skd.stop();
    let fine = troubles.is_empty() && stopped.code() == Some(0);
    (!fine).then(|| format!("{stopped} {troubles:?}"))
}

#[test]
#[ignore = "needs the archive of make image"]
fn options_need_the_rights_that_the_page_says() {
    requires_command("openssl");
    let page = fs::read_to_string("docs/containers.md").unwrap();
    let rows = rows(&page);
    assert!(rows.len() >= 12, "{rows:#?}");
    let space = Namespace::new();
    let pki = Pki::with_server();
    let text = |name: &str| fs::read_to_string(pki.path(name)).unwrap();
    let mut volume = Volume::new(&space, Kind::Memory, 0o440, Some(USER));
    volume.write(&[("tls.pem", &(text("server.pem") + &text("server.key")))]);
    let mut different = Vec::new();
    for (options, cells) in &rows {
        assert_eq!(cells.len(), 4, "{options}");
        let options = options.replace("--tls", "--tls /etc/tls/tls.pem");
        let words: Vec<_> = options.split(' ').collect();
        for (rights, cell) in columns().iter().zip(cells) {
            if let Some(found) = try_cell(&space, rights, &words, &volume, cell) {
                different.push(format!("{options} ({cell}): {rights:?}\n{found}"));
            }
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n\n"));
}

#[test]
#[ignore = "needs the archive of make image"]
fn root_with_three_capabilities_has_handlers_of_another_user() {
    let space = Namespace::new();
    let page = fs::read_to_string("docs/containers.md").unwrap();
    assert!(page.contains("`SETUID`, `SETGID` and `KILL`: `runAsUser: 0`"));
    let needed = ["CAP_SETUID", "CAP_SETGID", "CAP_KILL"];
    let words = [
        "-vt",
        "127.0.0.1:0",
        "--user",
        "nobody",
        BUSYBOX,
        "id",
        "-u",
    ];
    let start = |capabilities: Vec<&'static str>| {
        let rights = Rights {
            user: 0,
            groups: Vec::new(),
            capabilities,
            ..Rights::default()
        };
        rights.start(&space, &words, &[])
    };
    let pod = start(needed.to_vec());
    pod.skd.wait_ready();
    assert_eq!(talk(pod.skd.connect(), b""), b"65534\n");
    assert_eq!(pod.skd.stop().code(), Some(0));
    for one in needed {
        let fewer = needed.iter().copied().filter(|it| *it != one).collect();
        let output = start(fewer).skd.wait_with_output();
        assert_eq!(output.code(), Some(1), "{one}: {output:#?}");
        output.expect_stderr(&["--user"]);
    }
}

#[test]
#[ignore = "needs the archive of make image"]
fn low_ports_depend_on_a_setting_of_the_network() {
    let space = Namespace::new();
    let start = |first: &str| {
        space.sysctl("net.ipv4.ip_unprivileged_port_start", first);
        Rights::default().start(&space, &["-vt", "127.0.0.1:80", BUSYBOX, "cat"], &[])
    };
    let pod = start("0");
    pod.skd.wait_ready();
    assert_eq!(pod.skd.stop().code(), Some(0));
    let output = start("1024").skd.wait_with_output();
    assert_eq!(output.code(), Some(1), "{output:#?}");
    output.expect_stderr(&["127.0.0.1:80"]);
}

/// podman(1) with files of its own, the runtime of the other tests, and limits that need no right to raise them. The
/// network is that of the test, in which ports are published as they are.
const PODMAN: &str = r#"#!/bin/bash -e
here=$(dirname "$0")
words=()
for word; do
    case $word in
        run) words+=(run --ulimit nofile=1024:1024 --ulimit nproc=1024:1024 --network host) ;;
        --publish) ;;
        8080:8080) ;;
        *) words+=("$word") ;;
    esac
done
exec "$PODMAN" --root "$here/storage" --runroot "$here/run" --tmpdir "$here/tmp" --storage-driver vfs --runtime runc \
    --cgroup-manager cgroupfs "${words[@]}"
"#;

/// Types commands in a namespace and a directory, with these programs in PATH, and returns their output.
#[track_caller]
fn type_in(space: &Namespace, programs: &Directory, directory: &Directory, text: &str) -> String {
    let path = format!(
        "{}:/usr/sbin:/usr/bin:/sbin:/bin",
        programs.path().display()
    );
    let mut shell = space.command("bash");
    shell.args([
        "-ec",
        "cd \"$0\"; eval \"$1\"",
        directory.path().to_str().unwrap(),
        text,
    ]);
    let podman = "/usr/bin/podman";
    let output = shell
        .env("PATH", path)
        .env("PODMAN", podman)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}: {} {said}", output.status);
    // The log of a container comes by standard error.
    String::from_utf8_lossy(&output.stdout).into_owned() + &said
}

/// Removes the containers of a test at its end.
struct Containers<'a>(&'a Namespace, &'a Directory);

impl Drop for Containers<'_> {
    fn drop(&mut self) {
        let mut remove = self.0.command(self.1.join("podman"));
        let remove = remove.args(["rm", "--force", "--all", "--time", "0"]);
        let _ = remove.env("PODMAN", "/usr/bin/podman").output();
    }
}

#[test]
#[ignore = "needs the archive of make image, and podman"]
fn the_commands_of_the_page_work() {
    requires_command("podman");
    let page = fs::read_to_string("docs/containers.md").unwrap();
    let blocks = page.split("```").skip(1).step_by(2);
    let blocks: Vec<_> = blocks.filter_map(|block| block.split_once('\n')).collect();
    let of = |kind: &str| {
        let found = blocks.iter().filter(|(it, _)| *it == kind);
        found.map(|(_, text)| *text).collect::<Vec<_>>()
    };
    let space = Namespace::new();
    let directory = Directory::public();
    let programs = Directory::new();
    programs.script("podman", PODMAN);
    let _containers = Containers(&space, &programs);
    let name = archive().file_name().unwrap().to_owned();
    fs::copy(archive(), directory.join(name)).unwrap();
    fs::copy("/bin/busybox", directory.join("handler")).unwrap();

    let [show, add] = of("sh")[..] else {
        panic!("other commands than those that are tested: {blocks:#?}")
    };
    let shown = type_in(&space, &programs, &directory, show);
    assert!(
        shown.contains(&format!("localhost/skd:{}", env!("CARGO_PKG_VERSION"))),
        "{shown}"
    );
    type_in(&space, &programs, &directory, add);
    let own = run([
        "skopeo",
        "inspect",
        "--config",
        &format!("oci-archive:{}", directory.name("mine.tar")),
    ]);
    let own: Value = serde_json::from_str(&own).unwrap();
    assert_eq!(
        own["config"]["Cmd"],
        serde_json::json!(["-vt", "8080", "/usr/bin/handler"])
    );
    assert_eq!(
        own["config"]["Entrypoint"],
        serde_json::json!(["/usr/bin/skd"])
    );
    assert_eq!(own["rootfs"]["diff_ids"].as_array().unwrap().len(), 2);

    let [start, stop] = of("sh podman")[..] else {
        panic!("other commands than those that are tested: {blocks:#?}")
    };
    type_in(&space, &programs, &directory, start);
    let answer = wait_for("an answer", || {
        let answer = space.enter(|| {
            let mut stream = TcpStream::connect(local(8080)).ok()?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).ok().map(|_| answer)
        });
        answer.filter(|it| !it.is_empty())
    });
    assert!(answer.starts_with("skdctl "), "{answer}");
    let written = type_in(&space, &programs, &directory, stop);
    assert!(written.contains("Reloaded: "), "{written}");
    assert!(
        written.contains("Accepted connection from [127.0.0.1]"),
        "{written}"
    );

    let [manifests] = of("sh kubernetes")[..] else {
        panic!("other commands than those that are tested: {blocks:#?}")
    };
    // clusters.rs has the test of what it prints.
    assert_eq!(manifests, "kubectl kustomize contrib/kubernetes\n");
}
