//! Access rules: `--allow`, `--deny`, `--rules` and `--explain`.

use crate::harness::{
    DEADLINE, Directory, Instance, Namespace, Running, Skd, Tampering, connect_from as client_from,
    echo, receive, requires_command, requires_root, run_to_end, talk, try_talk, wait_out_throttle,
};
use nix::sys::signal::Signal;
use nix::unistd::{Gid, Uid};
use socket2::{Domain, Socket, Type};
use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// Ids without an account.
const UID: u32 = 61234;
const GID: u32 = 61235;

/// A connection from this loopback address to the same port there.
#[track_caller]
fn connect_from(skd: &Instance, from: &str) -> TcpStream {
    let from: IpAddr = from.parse().unwrap();
    let to: IpAddr = match from {
        IpAddr::V4(_) => "127.0.0.1".parse().unwrap(),
        IpAddr::V6(_) => "::1".parse().unwrap(),
    };
    let to = SocketAddr::new(to, skd.port());
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(from, 0).into()).unwrap();
    socket.connect_timeout(&to.into(), DEADLINE).unwrap();
    socket.set_read_timeout(Some(DEADLINE)).unwrap();
    socket.set_write_timeout(Some(DEADLINE)).unwrap();
    socket.into()
}

/// Reads what a client with this address receives until the end.
#[track_caller]
fn read_answer(skd: &Instance, from: &str) -> String {
    // The client sends nothing, so that a close doesn't become a reset.
    let heard = try_talk(connect_from(skd, from), b"");
    String::from_utf8(heard.unwrap_or_default()).unwrap()
}

/// Returns which of these clients are accepted, by a skd whose handlers print `in`.
#[track_caller]
fn let_in<'a>(skd: &Instance, clients: &[&'a str]) -> Vec<&'a str> {
    let clients = clients.iter().copied();
    clients
        .filter(|from| match read_answer(skd, from).as_str() {
            "in\n" => true,
            "" => false,
            heard => panic!("{from} hears {heard:?}"),
        })
        .collect()
}

fn greeting<'a>(options: impl IntoIterator<Item = &'a str>) -> Skd {
    Skd::new(["-v"]).args(options).args(["-t", "0"])
}

const FOUR: [&str; 4] = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.1.1"];

#[test]
fn the_first_matching_rule_decides_in_the_order_of_the_command_line() {
    for (options, expected) in [
        (&["--allow", "127.0.0.2"][..], &["127.0.0.2"][..]),
        (
            &["--deny", "127.0.0.2"],
            &["127.0.0.1", "127.0.0.3", "127.0.1.1"],
        ),
        (
            &["--deny", "127.0.0.2", "--allow", "127.0.0.0/24"],
            &["127.0.0.1", "127.0.0.3"],
        ),
        (
            &["--allow", "127.0.0.0/24", "--deny", "127.0.0.2"],
            &["127.0.0.1", "127.0.0.2", "127.0.0.3"],
        ),
        (
            &["--allow=127.0.0.3", "--deny=127.0.0.2/31", "--allow=all"],
            &["127.0.0.1", "127.0.0.3", "127.0.1.1"],
        ),
        (&["--allow", "unix"], &[]),
        (&["--deny", "unix", "--deny", "uid=0"], &FOUR),
        (&["--deny", "all"], &[]),
    ] {
        let skd = greeting(options.iter().copied()).run_with("echo", ["in"]);
        assert_eq!(let_in(&skd, &FOUR), expected, "{options:?}");
        assert_eq!(skd.stop().code(), Some(0));
        assert_eq!(skd.logged("Refused ").len(), 4 - expected.len());
    }
}

#[test]
fn a_refusal_is_logged_with_its_rule() {
    let directory = Directory::new();
    let rules = directory.write("rules", "\n\ndeny 127.0.0.2\nallow 127.0.0.3");
    let skd =
        greeting(["--deny=127.0.0.1", "--rules", rules.to_str().unwrap()]).run_with("echo", ["in"]);
    assert_eq!(let_in(&skd, &FOUR), ["127.0.0.3"]);
    for (from, why) in [
        ("127.0.0.1", "denied by --deny 127.0.0.1"),
        ("127.0.0.2", "denied by line 3 of the rules file"),
        ("127.0.1.1", "no rule allows it"),
    ] {
        let line = skd.wait_for_log(&format!("Refused connection from [{from}]:"));
        assert!(line.ends_with(&format!(": {why}")), "{line}");
    }
}

#[test]
fn rules_for_ipv4_apply_on_sockets_of_both_kinds() {
    for source in ["127.0.0.0/24", "::ffff:127.0.0.0/120"] {
        let skd = greeting(["--deny", source]).run_with("echo", ["in"]);
        assert_eq!(
            let_in(&skd, &["127.0.0.2", "127.0.1.1", "::1"]),
            ["127.0.1.1", "::1"]
        );
    }
    // All of IPv6, which includes no IPv4 address.
    let skd = greeting(["--allow", "::/0"]).run_with("echo", ["in"]);
    assert_eq!(let_in(&skd, &["127.0.0.1", "::1"]), ["::1"]);
    let skd = greeting(["--allow", "0.0.0.0/0"]).run_with("echo", ["in"]);
    assert_eq!(let_in(&skd, &["127.0.0.1", "::1"]), ["127.0.0.1"]);
}

#[test]
fn local_clients_are_identified_by_their_credentials() {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    let other = uid.as_raw() + 1;
    for (options, expected) in [
        (vec!["--allow".into(), "unix".into()], true),
        (vec!["--allow".into(), "127.0.0.0/8".into()], false),
        (vec!["--deny=0.0.0.0/0".into(), "--deny=::/0".into()], true),
        (vec![format!("--allow=uid={uid}")], true),
        (vec![format!("--allow=gid={gid}")], true),
        (vec![format!("--allow=uid={other}")], false),
        (
            vec![format!("--deny=uid={uid}"), "--allow=unix".into()],
            false,
        ),
        (
            vec![format!("--deny=uid={other}"), "--allow=unix".into()],
            true,
        ),
        (vec!["--deny=unix".into()], false),
    ] {
        let directory = Directory::new();
        let skd = Skd::new(&options)
            .args(["-l", &directory.name("socket")])
            .run_with("echo", ["in"]);
        let heard = try_talk(skd.connect_unix(), b"").unwrap_or_default();
        let expected = if expected { &b"in\n"[..] } else { b"" };
        assert_eq!(heard, expected, "{options:?}");
    }
}

/// A skd in a user namespace that maps root alone, and what clients with these ids receive.
fn in_a_user_namespace<'a>(
    options: impl IntoIterator<Item = &'a str>,
    args: [&str; 2],
) -> (Directory, Running) {
    requires_root();
    requires_command("unshare");
    let directory = Directory::public();
    let skd = Skd::new(["-v", "--unix-mode=666", "-l", &directory.name("socket")])
        .args(options)
        .wrapper(["unshare", "--user", "--map-root-user"])
        .run_with("sh", args);
    (directory, skd)
}

/// A client with this user and group, which prints what it receives.
fn client_as(skd: &Instance, uid: u32, gid: u32) -> Skd {
    requires_command("perl");
    let script = "use Socket; $| = 1; socket(S, AF_UNIX, SOCK_STREAM, 0) or die $!; \
                  connect(S, pack_sockaddr_un($ARGV[0])) or die $!; print while <S>";
    Skd::new(["-e", script, skd.path()])
        .binary("/usr/bin/perl")
        .user(uid, gid, [])
}

/// Returns what a client with this user and group receives.
#[track_caller]
fn hear_as(skd: &Instance, uid: u32, gid: u32) -> String {
    client_as(skd, uid, gid).end().stdout
}

#[test]
fn an_id_that_stands_for_unmapped_users_is_no_user() {
    let show = [
        "-c",
        "echo in as ${PEERUID-nobody} ${UNIXREMOTEEUID-x} ${PEERGID-no group}",
    ];
    for (options, root, other) in [
        (&["--allow=uid=65534"][..], false, false),
        (&["--allow=gid=65534"], false, false),
        (&["--allow=uid=0"], true, false),
        (&["--deny=uid=65534", "--allow=unix"], true, false),
        (&["--deny=gid=65534", "--allow=unix"], true, false),
        (&["--deny=uid=1", "--allow=unix"], true, true),
        (&["--allow=unix"], true, true),
    ] {
        let (_directory, skd) = in_a_user_namespace(options.iter().copied(), show);
        let expected = |heard, text: &str| if heard { text.into() } else { String::new() };
        assert_eq!(
            hear_as(&skd, 0, 0),
            expected(root, "in as 0 0 0\n"),
            "{options:?}"
        );
        // Not even the user that has this number outside.
        for id in [1, 65534] {
            assert_eq!(
                hear_as(&skd, id, id),
                expected(other, "in as nobody x no group\n"),
                "{options:?}"
            );
        }
        skd.wait_for_log("(uid = 0, gid = 0)");
        skd.wait_for_logs("(uid = ?, gid = ?)", 2);
        // The same after /proc was read by an earlier process.
        if options == ["--allow=uid=65534"] {
            skd.signal(Signal::SIGUSR2);
            skd.wait_for_log("Upgraded");
            assert_eq!(hear_as(&skd, 1, 1), "");
        }
    }
}

#[test]
fn users_that_cannot_be_told_apart_share_their_limits() {
    let options = ["--max-per-source=1", "--at-source-max=message:full"];
    let (_directory, skd) = in_a_user_namespace(options, ["-c", "echo held; read line"]);
    let held = client_as(&skd, 1, 1).start_bare();
    held.stdout_line();
    assert_eq!(hear_as(&skd, 2, 2), "full");
    skd.wait_for_log("unknown users has as many handlers as it may, 1");
    drop(held);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn outside_of_user_namespaces_65534_is_a_user() {
    requires_root();
    let directory = Directory::public();
    let skd = Skd::new(["--unix-mode=666", "--allow=uid=65534", "-l"])
        .arg(directory.name("socket"))
        .run_with("sh", ["-c", "echo in as $PEERUID"]);
    assert_eq!(hear_as(&skd, 65534, 65534), "in as 65534\n");
    assert_eq!(hear_as(&skd, 1, 1), "");
}

#[test]
fn a_client_behind_a_translator_has_its_ipv4_address_for_rules_and_limits() {
    let namespace = Namespace::new();
    // 192.0.2.5 by two translators, 192.0.2.6, and an address that only looks so.
    let clients = [
        "64:ff9b::c000:205",
        "2001:db8:1c0:2:5::",
        "64:ff9b::c000:206",
        "64:ff9b::1:c000:205",
    ];
    for address in clients {
        namespace.add_address(&format!("{address}/128"));
    }
    let run = |options: &[&str]| {
        Skd::new(["-v", "-t", "[::1]:0"])
            .args(options)
            .inside(&namespace)
            .run_with("sh", ["-c", "echo $REMOTE_ADDR; read line"])
    };
    let open = |skd: &Instance, from: &str| {
        let (from, to) = (from.parse().unwrap(), skd.address());
        namespace.enter(|| client_from(from, to))
    };
    let hear = |skd: &Instance, from: &str| {
        let heard = try_talk(open(skd, from), b"");
        String::from_utf8(heard.unwrap_or_default()).unwrap()
    };
    const NAT64: [&str; 2] = ["--nat64=64:ff9b::/96", "--nat64=2001:db8:100::/40"];
    for (options, translated, expected) in [
        (
            ["--deny=192.0.2.5", "--deny=10.0.0.1"],
            true,
            [false, false, true, true],
        ),
        (["--deny=192.0.2.5", "--deny=10.0.0.1"], false, [true; 4]),
        (
            ["--allow=192.0.2.0/24", "--deny=all"],
            true,
            [true, true, true, false],
        ),
        (["--allow=192.0.2.0/24", "--deny=all"], false, [false; 4]),
        (["--deny=64:ff9b::/96", "--allow=all"], true, [true; 4]),
    ] {
        let nat64 = NAT64.into_iter().filter(|_| translated);
        let options: Vec<&str> = options.into_iter().chain(nat64).collect();
        let skd = run(&options);
        for (from, expected) in clients.into_iter().zip(expected) {
            let answer = if expected {
                format!("{from}\n")
            } else {
                String::new()
            };
            assert_eq!(hear(&skd, from), answer, "{options:?}");
        }
    }

    // Each IPv4 address is a source of its own, by whichever translator it comes.
    let skd = run(&[NAT64[0], NAT64[1], "--max-per-source=1"]);
    let mut held = open(&skd, clients[0]);
    receive(&mut held, 1);
    assert_eq!(hear(&skd, clients[1]), "");
    skd.wait_for_log(": 192.0.2.5 has as many handlers as it may, 1");
    assert_ne!(hear(&skd, clients[2]), "");

    let explained = run_to_end([
        "--explain",
        clients[0],
        "-t0",
        "--deny=192.0.2.5",
        NAT64[0],
        "cat",
    ]);
    assert!(explained.stdout.contains("verdict: deny"), "{explained:?}");
}

#[test]
fn names_of_users_and_groups_are_looked_up() {
    requires_root();
    let directory = Directory::new();
    let rules = directory.write("rules", "allow uid=root env A=user\nallow gid=root");
    let skd = Skd::new(["-l", &directory.name("socket"), "--rules"])
        .arg(rules)
        .run_with("sh", ["-c", "echo $A"]);
    assert_eq!(talk(skd.connect_unix(), b""), b"user\n");
}

#[test]
fn a_rule_changes_the_environment_of_its_own_clients_alone() {
    let directory = Directory::new();
    let text = r#"
        allow 127.0.0.1 env A="a  b" env C= env D="x\ty"
        allow 127.0.0.2 env B=2 # env A=no
        allow all
    "#;
    let rules = directory.write("rules", text);
    let skd = Skd::new(["-t", "0", "--env", "A=common", "--env", "B=1", "--rules"])
        .arg(rules)
        // One thread, so that all of them share one environment.
        .args(["--threads", "1"])
        .run_with("sh", ["-c", r#"echo "$A|$B|${C-unset}|$D""#]);
    for _ in 0..2 {
        assert_eq!(read_answer(&skd, "127.0.0.1"), "a  b|1||x\ty\n");
        assert_eq!(read_answer(&skd, "127.0.0.2"), "common|2|unset|\n");
        assert_eq!(read_answer(&skd, "127.0.0.3"), "common|1|unset|\n");
    }
}

#[test]
fn a_rule_has_its_own_limits_per_source_and_its_message_is_sent() {
    let directory = Directory::new();
    let text = "allow 127.0.0.0/30 max=1 message=\"421 busy\\r\\n\"\n\
                allow 127.0.1.0/24 rate=1/h:2 message=\"slowly\\n\"\n\
                deny 127.0.2.1 message=\"no\\x21\"\n\
                allow all";
    let rules = directory.write("rules", text);
    let skd = Skd::new(["-v", "-t", "0", "--max-per-source", "2", "--rules"])
        .arg(rules)
        .run("cat");
    let hold = |from| {
        let mut client = connect_from(&skd, from);
        echo(&mut client, b"in");
        client
    };
    let first = hold("127.0.0.1");
    assert_eq!(read_answer(&skd, "127.0.0.1"), "421 busy\r\n");
    // Another source of the same rule, and one of another rule.
    let _others = [hold("127.0.0.2"), hold("127.0.3.1"), hold("127.0.3.1")];
    assert_eq!(read_answer(&skd, "127.0.3.1"), "");
    assert_eq!(read_answer(&skd, "127.0.0.2"), "421 busy\r\n");
    drop(first);
    // Shortly after its connection has ended: cat(1) has no input, and prints nothing.
    skd.wait_until("its slot is free again", || {
        read_answer(&skd, "127.0.0.1").is_empty()
    });

    drop([hold("127.0.1.1"), hold("127.0.1.1")]);
    assert_eq!(read_answer(&skd, "127.0.1.1"), "slowly\n");
    drop(hold("127.0.1.2"));
    assert_eq!(read_answer(&skd, "127.0.2.1"), "no!");
}

#[test]
fn prefixes_come_from_files_relative_to_the_rules_or_the_working_directory() {
    let directory = Directory::new();
    fs::create_dir(directory.join("here")).unwrap();
    fs::create_dir(directory.join("there")).unwrap();
    directory.write("here/bad", "127.0.0.2\r\n# 127.0.0.1\n\n");
    directory.write("there/bad", " 127.0.0.3 # him\n10.0.0.0/8\n");
    directory.write("there/worse list", "127.0.1.0/24");
    let list = directory.name("there/worse list");
    let rules = format!("deny file=bad\ndeny \"file={list}\"");
    directory.write("there/rules", rules);
    let skd = greeting(["--deny", "file=bad", "--rules", "../there/rules"])
        .cwd(directory.join("here"))
        .run_with("echo", ["in"]);
    assert_eq!(let_in(&skd, &FOUR), ["127.0.0.1"]);
    // All of them are read again.
    directory.write("here/bad", "");
    directory.write("there/bad", "127.0.0.1");
    directory.write("there/worse list", "::1");
    skd.signal(Signal::SIGHUP);
    skd.wait_for_log("Read 3 rules again");
    assert_eq!(let_in(&skd, &FOUR), FOUR[1..]);
    assert_eq!(let_in(&skd, &["::1"]), [""; 0]);
}

/// Makes skd read its rules again, which must succeed or report why not.
#[track_caller]
fn reload(skd: &Instance, said: &str) {
    let told = || skd.logged(said).len();
    let before = told();
    skd.signal(Signal::SIGHUP);
    skd.wait_until("it has read its rules", || told() > before);
}

#[test]
fn the_main_thread_waits_for_no_file_of_rules() {
    let directory = Directory::new();
    let path = directory.write("rules", "deny 127.0.0.1");
    let skd = greeting(["--rules", path.to_str().unwrap()]).run_with("echo", ["in"]);
    // In the main thread alone. A file server that doesn't answer would hold it up in the same call.
    let _tampering = Tampering::with(skd.pid(), "openat", "error=EIO");
    reload(&skd, "Read 1 rule again");
    assert_eq!(skd.logged("can't be opened"), [""; 0]);
}

#[test]
fn hup_reloads_the_rules_and_invalid_rules_change_nothing() {
    let directory = Directory::new();
    let path = directory.write("rules", "allow 127.0.0.1");
    let rules = path.to_str().unwrap();
    // In the foreground, without a log file: HUP would end skd if it had no rules to read.
    let skd = greeting(["--deny", "127.0.1.1", "--rules", rules])
        .throttle(Duration::ZERO)
        .run("cat");
    let mut client = connect_from(&skd, "127.0.0.1");
    echo(&mut client, b"before");
    directory.write("rules", "allow 127.0.0.2\nallow 127.0.1.0/24");
    reload(&skd, "Read 3 rules again");
    // Accepted clients stay.
    echo(&mut client, b"after");
    let echoed = |from| {
        let heard = try_talk(connect_from(&skd, from), b"").is_ok_and(|heard| heard.is_empty());
        assert!(heard);
        skd.logged(&format!("Accepted connection from [{from}]"))
            .len()
    };
    assert_eq!(FOUR.map(echoed), [1, 1, 0, 0]);

    directory.write("rules", "allow all\n allow 10.0.0.1/8");
    let fault = format!(
        "skd: rules file {rules}, line 2, column 8: 10.0.0.1/8 has bits set beyond its length; \
         the prefix is 10.0.0.0/8, the single address 10.0.0.1; the old rules stay"
    );
    reload(&skd, &fault);
    assert_eq!(FOUR.map(echoed), [1, 2, 0, 0]);
    fs::remove_file(&path).unwrap();
    wait_out_throttle();
    let missing = format!("skd: rules file {rules} can't be opened: No such file or directory");
    reload(&skd, &missing);
    assert_eq!(FOUR.map(echoed), [1, 3, 0, 0]);
    directory.write("rules", "allow all");
    reload(&skd, "Read 2 rules again");
    assert_eq!(FOUR.map(echoed), [2, 4, 1, 0]);
    echo(&mut client, b"still");
}

#[test]
fn rules_can_be_reloaded_after_a_chroot_and_a_drop_of_privileges() {
    requires_root();
    let (root, outside) = (Directory::public(), Directory::public());
    root.install(&["/bin/echo"]);
    outside.write("list", "127.0.0.2");
    let list = outside.name("list");
    outside.write("rules", format!("allow file={list}\nallow uid=root\n"));
    outside.chmod("rules", 0o644);
    let ids = format!("{UID}:{GID}");
    let rules = outside.name("rules");
    let skd = greeting(["--daemon-user", &ids, "--rules", &rules])
        .arg("--chroot")
        .arg(root.path())
        .run_with("/bin/echo", ["in"]);
    assert_eq!(let_in(&skd, &FOUR), ["127.0.0.2"]);
    outside.write("list", "127.0.0.3");
    reload(&skd, "Read 2 rules again");
    assert_eq!(let_in(&skd, &FOUR), ["127.0.0.3"]);
    // Names aren't looked up there, and this one wasn't known.
    outside.write("rules", "allow all\nallow gid=root");
    reload(
        &skd,
        "line 2, column 7: 'root' can't be looked up in another",
    );
    assert_eq!(let_in(&skd, &FOUR), ["127.0.0.3"]);
    outside.write("rules", "allow all");
    outside.chmod("rules", 0o600);
    let fault = format!("skd: rules file {rules} can't be opened: Permission denied");
    skd.wait_until("it says that it may not read them", || {
        skd.signal(Signal::SIGHUP);
        skd.logged(&fault)
            .iter()
            .any(|line| line.ends_with("; the old rules stay"))
    });
    assert_eq!(let_in(&skd, &FOUR), ["127.0.0.3"]);
    outside.chmod("rules", 0o644);
    reload(&skd, "Read 1 rule again");
    assert_eq!(let_in(&skd, &FOUR), FOUR);
}

#[track_caller]
fn upgrade(skd: &Instance, count: usize) {
    skd.signal(Signal::SIGUSR2);
    skd.wait_for_logs("Upgraded from skd ", count);
}

#[test]
fn an_upgrade_keeps_the_rules_and_where_they_are_read() {
    let directory = Directory::new();
    directory.write("list", "127.0.0.2\n2001:db8::/32\n::1");
    let text = "allow file=list env WHO=listed\nallow 127.0.0.3 env WHO=\"a \\\"b\\\"\"";
    directory.write("rules", text);
    let skd = Skd::new(["-v", "-t", "0", "--deny", "uid=0", "--rules", "rules"])
        .cwd(directory.path())
        .run_with("sh", ["-c", "echo $WHO"]);
    let heard =
        || ["127.0.0.1", "127.0.0.2", "127.0.0.3", "::1"].map(|from| read_answer(&skd, from));
    let expected = ["", "listed\n", "a \"b\"\n", "listed\n"].map(str::to_owned);
    assert_eq!(heard(), expected);
    // Out of reach: the next binary can't read them.
    for name in ["rules", "list"] {
        fs::rename(directory.join(name), directory.join(format!("{name}.away"))).unwrap();
    }
    upgrade(&skd, 1);
    assert_eq!(heard(), expected);
    upgrade(&skd, 2);
    assert_eq!(heard(), expected);
    directory.write("rules", "allow all env WHO=all");
    reload(&skd, "Read 2 rules again");
    assert_eq!(heard(), ["all\n"; 4].map(str::to_owned));
    upgrade(&skd, 3);
    assert_eq!(heard(), ["all\n"; 4].map(str::to_owned));
}

/// Returns the device and inode of the large memory files of a process: of rules, in these tests.
fn large_memory_files(skd: &Instance) -> Vec<(u64, u64)> {
    let open = fs::read_dir(format!("/proc/{}/fd", skd.pid())).unwrap();
    let found = open.filter_map(|entry| {
        let path = entry.unwrap().path();
        let name = fs::read_link(&path).ok()?;
        let data = fs::metadata(&path).ok()?;
        let is_one = name.to_string_lossy().starts_with("/memfd:") && data.len() > 64 * 1024;
        is_one.then(|| (data.dev(), data.ino()))
    });
    found.collect()
}

#[test]
fn an_upgrade_passes_many_rules_on_without_copying_them() {
    let directory = Directory::new();
    let list = |index: u32| format!("{}\n", std::net::Ipv4Addr::from(0x0a00_0000 + index * 2));
    directory.write("list", (0..20_000).map(list).collect::<String>());
    let mut rules: String = (0..20_000)
        .map(|index| format!("deny 2001:db8:{index:x}::/64\n"))
        .collect();
    rules.push_str(
        "deny file=list\n\
         deny 127.0.0.2 message=no\n\
         allow 127.0.0.3 env WHO=third\n\
         allow 127.0.1.1 env WHO=other max=1\n\
         deny uid=0\n\
         allow ::1 env WHO=six\n",
    );
    directory.write("rules", rules);
    let skd = Skd::new(["-v", "-t", "0", "--allow", "127.0.0.9", "--rules", "rules"])
        .cwd(directory.path())
        .throttle(Duration::ZERO)
        .run_with("sh", ["-c", "echo $WHO"]);
    let heard = || {
        let clients = ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.1.1", "::1"];
        clients.map(|from| read_answer(&skd, from))
    };
    let expected = ["", "no", "third\n", "other\n", "six\n"].map(str::to_owned);
    let files = large_memory_files(&skd);
    assert_eq!(files.len(), 1);
    assert_eq!(heard(), expected);
    for count in 1..=2 {
        upgrade(&skd, count);
        // So no client waits for anything that grows with the rules.
        skd.wait_until("the same file is left", || {
            large_memory_files(&skd) == files
        });
        assert_eq!(heard(), expected);
    }
    let line = skd.wait_for_logs("Refused connection from [127.0.0.2]", 3);
    assert!(line[2].ends_with(": denied by line 20002 of the rules file"));

    reload(&skd, "Read 20007 rules again");
    // Each worker drops the old rules when it wakes.
    skd.wait_until("another file has replaced the first", || {
        let found = large_memory_files(&skd);
        found.len() == 1 && found != files
    });
    let reloaded = large_memory_files(&skd);
    upgrade(&skd, 3);
    skd.wait_until("the same file is left", || {
        large_memory_files(&skd) == reloaded
    });
    directory.write("rules", "allow all env WHO=all");
    reload(&skd, "Read 2 rules again");
    skd.wait_until("nothing is left of many rules", || {
        large_memory_files(&skd).is_empty()
    });
    upgrade(&skd, 4);
    assert_eq!(heard(), ["all\n"; 5].map(str::to_owned));
}

#[test]
fn an_upgrade_amid_a_reload_reads_the_rules_from_the_beginning() {
    let directory = Directory::new();
    directory.write("rules", "allow all\n");
    let skd = greeting(["--rules", "rules"])
        .cwd(directory.path())
        .run_with("echo", ["in"]);
    let prefix = |index: u32| format!("2001:{:x}:{:x}::/64\n", index >> 16, index & 0xffff);
    let list: String = (0..300_000).map(prefix).collect();
    directory.write("list", list + "127.0.0.1\n");
    directory.write("rules", "deny file=list\nallow all\n");
    // Reading takes longer than a preflight.
    skd.signal(Signal::SIGHUP);
    upgrade(&skd, 1);
    skd.wait_for_log("Read 2 rules again");
    skd.wait_until("the new rules hold", || {
        try_talk(connect_from(&skd, "127.0.0.1"), b"").is_ok_and(|heard| heard.is_empty())
    });
}

#[test]
#[ignore = "takes memory, and prints figures"]
fn clients_wait_no_longer_for_an_upgrade_with_a_million_rules() {
    let directory = Directory::new();
    let prefix = |index: u32| format!("2001:{:x}:{:x}::/64\n", index >> 16, index & 0xffff);
    let list: String = (0..1_000_000).map(prefix).collect();
    let lines: String = (0..1_000_000)
        .map(|index| format!("deny {}", prefix(index)))
        .collect();
    directory.write("list", list);
    for (what, rules) in [
        ("a rule", "allow all\n".into()),
        (
            "a list of a million prefixes",
            "deny file=list\nallow all\n".into(),
        ),
        ("a million rules", lines + "allow all\n"),
    ] {
        directory.write("rules", rules);
        let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--rules", "rules"])
            .cwd(directory.path())
            .throttle(Duration::ZERO)
            .deadline(10 * DEADLINE)
            .run("cat");
        let wait_for = |signal, text: &str, count| {
            let began = Instant::now();
            skd.signal(signal);
            let mut longest = Duration::ZERO;
            while skd.logged(text).len() < count {
                let asked = Instant::now();
                assert_eq!(talk(skd.connect(), b"x"), b"x");
                longest = longest.max(asked.elapsed());
            }
            (began.elapsed(), longest)
        };
        for round in 1..=3 {
            let (whole, longest) = wait_for(Signal::SIGUSR2, "Upgraded", round);
            println!("{what}: an upgrade takes {whole:.3?}, the longest client {longest:.3?}");
        }
        let (whole, longest) = wait_for(Signal::SIGHUP, "again", 1);
        println!("{what}: HUP takes {whole:.3?}, the longest client {longest:.3?}");
    }
}

#[test]
fn a_start_reports_the_first_fault_and_a_check_reports_all() {
    let directory = Directory::new();
    directory.write("empty", "# nothing\n\n");
    directory.write("prefixes", "10.0.0.0/8\n1.2.3\n10.0.0.1/8");
    directory.write(
        "bad",
        "allow\nallow all max=0\ndeny file=prefixes\ndeny file=missing",
    );
    nix::unistd::mkfifo(&directory.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let name = |name: &str| directory.name(name);
    let rules = |file: &str| vec!["--rules".into(), name(file)];
    for (options, code, faults) in [
        (rules("empty"), 1, vec!["empty has no rule in it"]),
        (
            rules("missing"),
            1,
            vec!["missing can't be opened: No such file"],
        ),
        (
            rules("missing/rules"),
            1,
            vec!["rules can't be opened: No such file"],
        ),
        (rules(""), 1, vec!["can't be opened: Is a directory"]),
        (rules("fifo"), 1, vec!["fifo isn't a regular file"]),
        (
            rules("bad"),
            1,
            vec!["bad, line 1, column 6: ", "bad, line 2, column 11: "],
        ),
        (
            vec![format!("--deny=file={}", name("prefixes"))],
            1,
            vec![
                "prefixes, line 2, column 1: ",
                "prefixes, line 3, column 1: ",
            ],
        ),
        (
            vec![format!("--allow=file={}", name("missing"))],
            1,
            vec!["skd: --allow file="],
        ),
        (
            vec!["--allow=10.0.0.1/8".into(), "--deny=nobody".into()],
            2,
            vec![
                "the prefix is 10.0.0.0/8",
                "'nobody' for --deny: it takes all",
            ],
        ),
    ] {
        let start = |options: &[String]| Skd::new(["-t", "127.0.0.1:0"]).args(options);
        let output = start(&options).arg("cat").end();
        output.expect_refusal(code, &faults[..1]);
        let check = start(&options).args(["--check", "cat"]).end();
        check.expect_code(code).expect_stderr(&faults);
        assert_eq!(check.stderr.lines().count(), faults.len(), "{check:#?}");
    }
    directory.write("bad", "deny file=prefixes\ndeny file=missing");
    let check = Skd::new(["--check", "-t", "127.0.0.1:0"]).args(rules("bad"));
    let faults = [
        "prefixes, line 2",
        "prefixes, line 3",
        "bad, line 2: the list of prefixes ",
    ];
    check.arg("cat").end().expect_code(1).expect_stderr(&faults);
}

#[test]
fn a_check_reports_rules_that_cannot_be_reloaded() {
    requires_root();
    let directory = Directory::public();
    directory.write("rules", "allow all");
    directory.chmod("rules", 0o600);
    let ids = format!("{UID}:{GID}");
    let check = |options: &[&str]| {
        let skd = Skd::new(["--check", "-t", "127.0.0.1:0", "--rules"]);
        skd.arg(directory.join("rules"))
            .args(options)
            .arg("cat")
            .end()
    };
    let texts = [
        "skd: note: at SIGHUP the rules can't be read again",
        "Permission denied",
    ];
    let note = check(&["--daemon-user", &ids]);
    note.expect_code(0).expect_stderr(&texts);
    for options in [&[][..], &["--user", &ids]] {
        assert_eq!(check(options).expect_code(0).stderr, "");
    }
    // Root keeps no right to the files of others.
    std::os::unix::fs::chown(directory.join("rules"), Some(UID), Some(GID)).unwrap();
    let note = check(&["--user", &ids]);
    note.expect_code(0).expect_stderr(&texts);
    directory.chmod("rules", 0o644);
    for option in ["--user", "--daemon-user"] {
        assert_eq!(check(&[option, &ids]).expect_code(0).stderr, "");
    }
}

#[test]
fn explain_prints_the_decision_of_the_rules_for_a_client() {
    let directory = Directory::new();
    directory.write("list", "192.0.2.128/25");
    let text = "deny file=list message=\"no\\r\\n\"\n\
                # others\n\
                allow 192.0.2.0/24 max=4 rate=300/m:20 env A=\"b c\"\n\
                allow uid=61234";
    directory.write("rules", text);
    let rules = directory.name("rules");
    // Nothing is bound: this port is in use.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let explain = |who: &str| {
        let options = ["--deny=::1", "--max-per-source=9", "--rate-per-source=5/s"];
        let words = ["--explain", who, "-t", &address, "--rules", &rules];
        let output = run_to_end(words.into_iter().chain(options).chain(["cat"]));
        output.expect_code(0);
        assert_eq!(output.stderr, "", "{output:?}");
        output.stdout
    };
    assert_eq!(
        explain("192.0.2.1"),
        format!(
            "client: 192.0.2.1\nverdict: allow\n\
             rule: allow 192.0.2.0/24 max=4 rate=5/s:20 env A=\"b c\"\n\
             from: rules file {rules}, line 3\n\
             max: 4\nrate: 5/s:20\nenv: A=\"b c\"\n"
        )
    );
    assert_eq!(
        explain("::ffff:192.0.2.200"),
        format!(
            "client: 192.0.2.200\nverdict: deny\n\
             rule: deny file=\"list\" message=\"no\\r\\n\"\n\
             from: rules file {rules}, line 1\n\
             message: \"no\\r\\n\"\n"
        )
    );
    assert_eq!(
        explain("::1"),
        "client: ::1\nverdict: deny\nrule: deny ::1\nfrom: --deny ::1\n"
    );
    assert_eq!(
        explain("uid=61234"),
        format!(
            "client: uid=61234\nverdict: allow\nrule: allow uid=61234\n\
             from: rules file {rules}, line 4\n\
             max: 9 (--max-per-source)\nrate: 5/s (--rate-per-source)\n"
        )
    );
    for who in ["unix", "gid=61234", "203.0.113.1"] {
        let text = explain(who);
        let expected = "verdict: deny\nrule: none fits, and there are some that allow others\n";
        assert_eq!(text, format!("client: {who}\n{expected}"));
    }
    let output = run_to_end(["--explain=::1", "-t", &address, "--deny=10.0.0.0/8", "cat"]);
    let expected = "client: ::1\nverdict: allow\nrule: none fits, and there is none that allows\n";
    assert_eq!(output.expect_code(0).stdout, expected);
}

#[test]
fn explain_refuses_what_it_cannot_answer() {
    for (words, texts) in [
        (
            &["--explain", "10.0.0.0/8", "-t0"][..],
            "it takes one address",
        ),
        (&["--explain", "all", "-t0"], "it takes one address"),
        (&["--explain", "file=x", "-t0"], "it takes one address"),
        (
            &["--explain", "nobody at all", "-t0"],
            "for --explain: it takes one address",
        ),
        (&["--explain", "user=root", "-t0"], "it takes one address"),
        (
            &["--explain", "192.0.2.1:80", "-t0"],
            "it takes one address",
        ),
        (&["--explain", "uid=-", "-t0"], "there is no user '-'"),
        (&["--explain", "::1"], "no use without a stream listener"),
        (
            &["--explain", "::1", "-t0", "--wait"],
            "no use without a stream listener",
        ),
        (&["--explain", "::1", "-t0", "--check"], "--check"),
        (
            &["--explain", "::1", "-t0", "--allow", "x"],
            "'x' for --allow",
        ),
    ] {
        let output = run_to_end(words.iter().copied().chain(["cat"]));
        output.expect_refusal(2, &[texts]);
    }
    let rules = ["--explain", "::1", "-t0", "--rules", "/no-such-file", "cat"];
    run_to_end(rules).expect_refusal(1, &["/no-such-file can't be opened"]);
}

#[test]
fn a_hundred_thousand_prefixes_are_one_rule() {
    let directory = Directory::new();
    let number = |index: u32| std::net::Ipv4Addr::from(0x0a00_0000 + index * 2);
    let list: String = (0..100_000)
        .map(|index| format!("{}\n", number(index)))
        .collect();
    directory.write("list", list + "127.0.0.2\n");
    let source = format!("file={}", directory.name("list"));
    let skd = greeting(["--deny", &source]).run_with("echo", ["in"]);
    assert_eq!(let_in(&skd, &FOUR), ["127.0.0.1", "127.0.0.3", "127.0.1.1"]);
}
