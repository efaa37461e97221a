//! Services in TOML files: `--config`, `--print-config`.

use crate::harness::{
    Conversation, Directory, Namespace, Output, Running, Skd, connect, connect_unix,
    requires_command, requires_root, talk, wait_until,
};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;

/// skd with this file, in its directory.
fn config(directory: &Directory, text: impl AsRef<[u8]>) -> Skd {
    directory.write("skd.toml", text);
    Skd::new(["--config", "skd.toml"]).cwd(directory.path())
}

fn start(directory: &Directory, text: &str, services: usize) -> Running {
    let skd = config(directory, text).arg("-vv").start_bare();
    skd.wait_for_logs("Listening on ", services);
    skd
}

fn answer(directory: &Directory, socket: &str) -> String {
    read_all(connect_unix(directory.join(socket)))
}

fn read_all(stream: impl Conversation) -> String {
    String::from_utf8(talk(stream, b"")).unwrap()
}

/// Asserts that nothing but these faults is printed, and the status of the first.
#[track_caller]
fn faults(output: &Output, status: i32, expected: &[&str]) {
    let lines: Vec<_> = output.stderr.lines().collect();
    let expected: Vec<_> = expected.iter().map(|it| format!("skd: {it}")).collect();
    assert_eq!(lines, expected, "{output:#?}");
    assert_eq!((output.code(), &*output.stdout), (Some(status), ""));
}

/// Asserts the faults of a file.
#[track_caller]
fn refused(text: impl AsRef<[u8]>, expected: &[&str]) {
    faults(&config(&Directory::new(), text).end(), 2, expected);
}

/// The file that is printed for one, in which DIR is its directory.
#[track_caller]
fn printed(directory: &Directory, text: &str) -> String {
    let output = config(directory, text).arg("--print-config").end();
    output.expect_code(0).expect_stderr(&[]);
    let below = directory.path().canonicalize().unwrap();
    output.stdout.replace(below.to_str().unwrap(), "DIR")
}

#[test]
fn each_service_has_its_own_settings() {
    let directory = Directory::new();
    fs::create_dir(directory.join("home")).unwrap();
    let skd = start(
        &directory,
        r#"
[daemon]
verbose = 1

[service.one]
unix = "one.sock"
env = { GREETING = "hello", NUMBER = 7 }
limit = { nofile = 77 }
chdir = "home"
umask = 0o27
shell = 'echo "$GREETING $NUMBER"; ulimit -n; umask; basename "$PWD"'

[service."two of them"]
unix = ["two.sock", "@DIR/abstract"]
env = ["GREETING=bye"]
command = ["sh", "-c", 'echo "$GREETING $NUMBER$1"; basename "$PWD"', "sh", "argument"]
"#
        .replace("DIR", &directory.name(""))
        .as_str(),
        3,
    );
    assert_eq!(answer(&directory, "one.sock"), "hello 7\n77\n0027\nhome\n");
    let own = directory.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(
        answer(&directory, "two.sock"),
        format!("bye argument\n{own}\n")
    );
    skd.wait_for_log("Closed local connection");
    assert_eq!(skd.stop().code(), Some(0));
    assert!(!directory.join("one.sock").exists());
}

#[test]
fn services_on_free_ports_print_them_in_the_order_of_the_file() {
    let directory = Directory::new();
    let skd = start(
        &directory,
        "service.b = { tcp = '127.0.0.1:0', shell = 'echo b' }\n\
         service.a.tcp = ['127.0.0.1:0']\n\
         service.a.shell = 'echo a'\n",
        2,
    );
    let listening = skd.logged("Listening on ");
    let ports = listening
        .iter()
        .map(|line| line.rsplit(':').next().unwrap());
    for (port, expected) in ports.zip(["b\n", "a\n"]) {
        let address = SocketAddr::from(([127, 0, 0, 1], port.parse().unwrap()));
        assert_eq!(read_all(connect(address)), expected);
    }
}

#[test]
fn users_are_of_services() {
    requires_root();
    let directory = Directory::public();
    let skd = start(
        &directory,
        "[daemon]\nverbose = 1\n\
         [defaults]\nuser = 'nobody'\n\
         [service.one]\nunix = 'one.sock'\nunix-mode = 666\nshell = 'id -un'\n\
         [service.two]\nunix = 'two.sock'\nuser = 'daemon'\nshell = 'id -un'\n\
         [service.three]\nunix = 'three.sock'\nuser = false\nshell = 'id -un'\n",
        3,
    );
    let names = ["one", "two", "three"].map(|name| answer(&directory, &format!("{name}.sock")));
    assert_eq!(names, ["nobody\n", "daemon\n", "root\n"]);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_user_of_skd_itself_leaves_no_other_to_services() {
    requires_root();
    let text = "[daemon]\nuser = 'nobody'\n\
                [service.one]\nunix = 'one'\nuser = 'nobody'\nshell = 'id -un'\n";
    let directory = Directory::public();
    directory.chmod("", 0o777);
    let skd = start(&directory, text, 1);
    assert_eq!(answer(&directory, "one"), "nobody\n");
    drop(skd);
    refused(
        format!("{text}[service.two]\nunix = 'two'\nuser = 'daemon'\ncommand = ['id']\n"),
        &[
            "skd.toml:9:8: service two: --user can't be used with --daemon-user or -U \
             (skd.toml:2:8): after that, skd itself is a user who can't become another; leave out \
             one of them",
        ],
    );
}

#[test]
fn defaults_are_of_one_file_and_are_replaced() {
    let directory = Directory::new();
    let text = "[service.early]\nunix = '@early'\ncommand = ['cat']\n\
                [defaults]\ntimeout = '30s'\nenv = { A = 1, B = 2 }\nlimit = { nofile = 64, core = 0 }\n\
                nodelay = true\nallow = ['127.0.0.1', '::1']\n\
                [service.late]\ntcp = 80\nnodelay = false\ntimeout = false\n\
                env = { B = false, C = '3' }\nlimit.core = 'unlimited'\nallow = 'all'\ncommand = ['cat']\n\
                [service.off]\nenabled = false\ntcp = 80\n\
                [service.array]\nenabled = true\nunix = '@array'\nenv = ['B=4']\ncommand = ['cat']\n";
    assert_eq!(
        printed(&directory, text),
        "# from skd.toml:1:10\n\
         [service.early]\n\
         timeout = \"30s\"\n\
         env = [\"A=1\", \"B=2\"]\n\
         limit = [\"nofile=64\", \"core=0\"]\n\
         nodelay = true\n\
         allow = [\"127.0.0.1\", \"::1\"]\n\
         unix = \"@early\"\n\
         command = [\"cat\"]\n\
         \n\
         # from skd.toml:10:10\n\
         [service.late]\n\
         env = [\"A=1\", \"B\", \"C=3\"]\n\
         limit = [\"nofile=64\", \"core=unlimited\"]\n\
         tcp = 80\n\
         allow = \"all\"\n\
         command = [\"cat\"]\n\
         \n\
         # from skd.toml:21:10\n\
         [service.array]\n\
         timeout = \"30s\"\n\
         limit = [\"nofile=64\", \"core=0\"]\n\
         nodelay = true\n\
         allow = [\"127.0.0.1\", \"::1\"]\n\
         unix = \"@array\"\n\
         env = \"B=4\"\n\
         command = [\"cat\"]\n"
    );
    // Another file has none of them.
    directory.write(
        "other.toml",
        "[service.other]\nunix = '@other'\ncommand = ['cat']\n",
    );
    let output = config(&directory, text).args(["--config", "other.toml", "--print-config"]);
    let last = "# from other.toml:1:10\n[service.other]\nunix = \"@other\"\ncommand = [\"cat\"]\n";
    assert!(output.end().stdout.ends_with(last));
}

#[test]
fn relative_paths_begin_in_the_directory_of_the_file() {
    let directory = Directory::new();
    directory.write("calls", "include default\n");
    let text = "[daemon]\nlog = '>> skd.log'\npidfile = './pid'\n\
                [service.a]\nunix = ['s', '@s', '/s']\nchdir = 'home'\nrules = 'rules'\n\
                allow = ['file=a', 'unix']\ndeny = 'file=/b'\ncommand = ['bin/prog', 'bin/other']\n\
                [service.b]\nunix = 'b'\ncommand = ['./prog']\n\
                [service.c]\nunix = 'c'\nchroot = 'root'\nuser = 'nobody'\nchdir = 'd'\ncommand = ['./prog']\n\
                [service.d]\nunix = 'd'\nsandbox = true\nro = ['data:/data', '/x']\nrw = 'state'\n\
                seccomp = 'log'\ncommand = ['./prog']\n\
                [service.e]\nunix = 'e'\nseccomp = './calls'\ncommand = ['./prog']\n";
    assert_eq!(
        printed(&directory, text),
        "[daemon]\n\
         log = \">> DIR/skd.log\"\n\
         pidfile = \"DIR/pid\"\n\
         \n\
         # from skd.toml:4:10\n\
         [service.a]\n\
         unix = [\"DIR/s\", \"@s\", \"/s\"]\n\
         chdir = \"DIR/home\"\n\
         rules = \"DIR/rules\"\n\
         allow = [\"file=DIR/a\", \"unix\"]\n\
         deny = \"file=/b\"\n\
         command = [\"DIR/home/bin/prog\", \"bin/other\"]\n\
         \n\
         # from skd.toml:11:10\n\
         [service.b]\n\
         unix = \"DIR/b\"\n\
         command = [\"DIR/prog\"]\n\
         \n\
         # from skd.toml:14:10\n\
         [service.c]\n\
         unix = \"DIR/c\"\n\
         chroot = \"DIR/root\"\n\
         user = \"nobody\"\n\
         chdir = \"d\"\n\
         command = [\"./prog\"]\n\
         \n\
         # from skd.toml:20:10\n\
         [service.d]\n\
         unix = \"DIR/d\"\n\
         sandbox = true\n\
         ro = [\"DIR/data:/data\", \"/x\"]\n\
         rw = \"DIR/state\"\n\
         seccomp = \"log\"\n\
         command = [\"DIR/prog\"]\n\
         \n\
         # from skd.toml:27:10\n\
         [service.e]\n\
         unix = \"DIR/e\"\n\
         seccomp = \"DIR/calls\"\n\
         command = [\"DIR/prog\"]\n"
    );
    // And skd runs somewhere else.
    directory.script("prog", "#!/bin/sh\necho served\n");
    let text = "[daemon]\nlog = '>>skd.log'\n[service.b]\nunix = 'b'\ncommand = ['./prog']\n";
    let file = directory.write("skd.toml", text);
    let skd = Skd::new(["-vv", "--config"])
        .arg(file)
        .cwd("/")
        .start_bare();
    wait_until("it serves", || {
        directory.read("skd.log").contains("Listening on")
    });
    assert_eq!(answer(&directory, "b"), "served\n");
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_command_has_one_of_three_forms() {
    let directory = Directory::new();
    assert_eq!(
        printed(
            &directory,
            "service.a = { tcp = 1, forward = '[::1]:80' }\n\
             service.b = { tcp = 2, forward = ['a:1', '/b'] }\n\
             service.c = { tcp = 3, shell = 'exec \"$SHELL\"' }\n"
        ),
        "# from skd.toml:1:9\n[service.a]\ntcp = 1\ncommand = [\"skd-forward\", \"[::1]:80\"]\n\n\
         # from skd.toml:2:9\n[service.b]\ntcp = 2\ncommand = [\"skd-forward\", \"a:1\", \"/b\"]\n\n\
         # from skd.toml:3:9\n[service.c]\ntcp = 3\n\
         command = [\"/bin/sh\", \"-c\", \"exec \\\"$SHELL\\\"\"]\n"
    );
    for (command, expected) in [
        (
            "command = 'git daemon --inetd'",
            "2:11: command takes an array of strings: write command = [\"git\", \"daemon\", \"--inetd\"]",
        ),
        (
            "command = 'echo $HOME'",
            "2:11: command takes an array of strings: write each argument as one, or let a shell \
             read it, with shell instead of command",
        ),
        ("command = 5", "2:11: command takes an array of strings"),
        ("command = []", "2:11: command takes an array of strings"),
        ("command = ['a', 5]", "2:17: command takes strings only"),
        ("command = ['', 'a']", "2:11: the program is empty"),
        (
            "command = [\"a\\u0000\"]",
            "2:11: an argument contains a NUL byte",
        ),
        ("shell = ['a']", "2:9: shell takes a string"),
        ("forward = 80", "2:11: forward takes an array of strings"),
        (
            "forward = 'localhost'",
            "2:11: forward can't be 'localhost': it takes HOST:PORT, as in localhost:80",
        ),
        (
            "shell = 'a'\nforward = 'b'",
            "3:1: forward can't be used with shell: each is a command",
        ),
        (
            "",
            "1:10: service a has no command: write command = [\"PROG\", \"ARGUMENT\"], shell = \
             \"COMMAND\" or forward = \"HOST:PORT\"",
        ),
    ] {
        let expected = format!("skd.toml:{expected}");
        refused(format!("[service.a]\n{command}\ntcp = 1\n"), &[&expected]);
    }
}

#[test]
fn lines_name_their_service_where_there_are_several() {
    let directory = Directory::new();
    let service = |name: &str| {
        let socket = directory.name(name);
        format!("[service.{name}]\nunix = '{socket}'\nmax-clients = 1\ncommand = ['cat']\n")
    };
    let start = |names: &[&str]| {
        let text: String = names.iter().map(|name| service(name)).collect();
        directory.write("skd.toml", text);
        let skd = Skd::new(["-vv", "--config", &directory.name("skd.toml")]).start_bare();
        skd.wait_for_logs("Listening on unix stream ", names.len());
        skd
    };
    let skd = start(&["web", "mail"]);
    let held = connect_unix(directory.join("mail"));
    skd.wait_for_log("mail: Accepted local connection from pid ");
    skd.wait_for_log("mail: Running 1 of 1 handler");
    let waiting = connect_unix(directory.join("mail"));
    skd.wait_for_log("skd: mail: the only slot is taken; clients wait");
    drop((held, waiting));
    skd.wait_for_logs("mail: Closed local connection from pid ", 2);
    assert!(skd.logged("web: ").is_empty(), "{:?}", skd.log_lines());
    assert_eq!(skd.stop().code(), Some(0));
    let skd = start(&["web"]);
    assert_eq!(talk(connect_unix(directory.join("web")), b"1"), b"1");
    let closed = skd.wait_for_log("Closed local connection from pid ");
    assert!(closed.starts_with("Closed "), "{closed}");
}

#[test]
fn a_value_without_quotes_is_shown_with_them() {
    for (line, expected) in [
        (
            "user = nobody",
            "8: the value needs quotes: write user = \"nobody\"",
        ),
        (
            "tcp = 127.0.0.1:80",
            "12: the value needs quotes: write tcp = \"127.0.0.1:80\"",
        ),
        (
            "tcp = [::1]:80 # here",
            "8: the value needs quotes: write tcp = \"[::1]:80\"",
        ),
        (
            "timeout = 10m",
            "11: the value needs quotes: write timeout = \"10m\"",
        ),
        (
            "unix-mode = 0660",
            "13: the value needs quotes: write unix-mode = \"0660\"",
        ),
        (
            "nodelay = True",
            "11: true and false have small letters: write nodelay = true",
        ),
        // What was meant isn't clear.
        ("chdir = '/srv", "14: invalid literal string, expected `'`"),
    ] {
        let expected = format!("skd.toml:2:{expected}");
        refused(format!("[service.a]\n{line}\n"), &[&expected]);
    }
}

#[test]
fn values_have_the_types_of_their_options() {
    let directory = Directory::new();
    let text = "[daemon]\nverbose = 2\nbackground = false\n[service.a]\ntcp = [80, '81', 0x52]\n\
                unix = ['/a']\nunix-mode = '660'\numask = 0o022\nnice = -5\nmark = 0x1f\n\
                max-clients = 1_000\nfork-server = true\nkeepalive = '1m:1s:3'\nnodelay = true\n\
                env = 'A=b'\nshell = \"\"\"\nexit 0 # \\u00e9\"\"\"\n";
    // A hexadecimal port is refused as on a command line.
    let output = config(&directory, text).end();
    faults(
        &output,
        2,
        &[
            "skd.toml:5:18: invalid value '0x52' for --tcp: a port is a decimal number from 0 to 65535 or a service name",
        ],
    );
    assert_eq!(
        printed(&directory, &text.replace(", 0x52", "")),
        "[daemon]\nverbose = 2\n\n# from skd.toml:4:10\n[service.a]\ntcp = [80, 81]\nunix = \"/a\"\n\
         unix-mode = \"660\"\numask = \"022\"\nnice = -5\nmark = \"0x1f\"\nmax-clients = 1000\n\
         fork-server = true\nkeepalive = \"1m:1s:3\"\nnodelay = true\nenv = \"A=b\"\n\
         command = [\"/bin/sh\", \"-c\", \"exit 0 # é\"]\n"
    );
    for (line, expected) in [
        ("nodelay = 1", "11: nodelay takes true or false"),
        ("nodelay = 'yes'", "11: nodelay takes true or false"),
        ("drain = true", "9: drain takes a string or a number"),
        ("drain = 1.5", "9: drain takes a string or a number"),
        ("drain = ['1s']", "9: drain takes a string or a number"),
        ("drain = 2026-01-01", "9: drain takes a string or a number"),
        (
            "fork-server = 1.0",
            "15: fork-server takes true, false or a string",
        ),
        (
            "allow = true",
            "9: allow takes a string or an array of strings",
        ),
        (
            "allow = ['all', ['all']]",
            "17: allow takes strings, or numbers",
        ),
        (
            "allow = { a = 1 }",
            "9: allow takes a string or an array of strings",
        ),
        (
            "env = true",
            "7: env takes a table, a string or an array of strings",
        ),
        (
            "env = { A = true }",
            "13: a variable takes a string, a number, or false to unset it",
        ),
        ("env = { 'A=' = 1 }", "9: a name has no equals sign"),
        (
            "limit = { core = false }",
            "18: a limit takes a number or a string",
        ),
        ("enabled = 1", "11: enabled takes true or false"),
        (
            "in-order = 1",
            "12: in-order takes an array of tables: [{ deny = \"ADDRESS\" }, …]",
        ),
        ("in-order = [1]", "13: in-order takes tables only"),
    ] {
        let text = format!("[service.'é']\n{line}\ntcp = 1\ncommand = ['cat']\n");
        refused(text, &[&format!("skd.toml:2:{expected}")]);
    }
    for (line, expected) in [
        ("verbose = true", "11: verbose takes an integer"),
        (
            "verbose = 256",
            "11: --verbose takes a number from 0 to 255",
        ),
        ("verbose = -1", "11: --verbose takes a number from 0 to 255"),
    ] {
        let text = format!("[daemon]\n{line}\n[service.a]\ntcp = 1\ncommand = ['cat']\n");
        refused(text, &[&format!("skd.toml:2:{expected}")]);
    }
}

#[test]
fn keys_are_known_and_in_their_table() {
    refused(
        "tcp = 80\nservice.x = 1\n[sevice.a]\n[[daemon]]\n\
         [defaults]\ncommand = ['cat']\nmax-client = 1\nverbose = 1\n\
         [service.a]\ncomand = ['cat']\nshell = 'cat'\ndaemon-user = 'x'\nconfig = 'x'\nport = 80\n\
         xyzzy = 1\n\"a b\" = 1\n",
        &[
            "skd.toml:1:1: tcp is in no table; there are [daemon], [defaults] and [service.NAME]",
            "skd.toml:2:9: a service is a table: [service.x]",
            "skd.toml:3:2: unknown table sevice, perhaps service?; there are [daemon], [defaults] and \
             [service.NAME]",
            "skd.toml:4:3: daemon is a table; there are [daemon], [defaults] and [service.NAME]",
            "skd.toml:6:1: command is a setting of one service: write it in [service.NAME]",
            "skd.toml:7:1: unknown key max-client, perhaps max-clients? (keys are options: see skd \
             --help=all)",
            "skd.toml:8:1: verbose is a setting of the daemon: write it in [daemon]",
            "skd.toml:10:1: unknown key comand, perhaps command? (keys are options: see skd --help=all)",
            "skd.toml:12:1: daemon-user is a setting of the daemon: write it in [daemon], as user",
            "skd.toml:13:1: config is an option of the command line, and of no file",
            "skd.toml:14:1: unknown key port, perhaps tcp? (keys are options: see skd --help=all)",
            "skd.toml:15:1: unknown key xyzzy (keys are options: see skd --help=all)",
            "skd.toml:16:1: unknown key \"a b\" (keys are options: see skd --help=all)",
        ],
    );
    refused(
        "[daemon]\ndrain = '1s'\nthread = 2\ndaemon-user = 'x'\n[service.a]\ntcp = 1\ncommand = ['a']\n",
        &[
            "skd.toml:2:1: drain is a setting of services: write it in [service.NAME] or [defaults]",
            "skd.toml:3:1: unknown key thread, perhaps threads? (keys are options: see skd --help=all)",
            "skd.toml:4:1: daemon-user is a setting of the daemon: write it in [daemon], as user",
        ],
    );
    for name in ["\"\"", "\"a\\nb\""] {
        refused(
            format!("[service.{name}]\ntcp = 1\ncommand = ['cat']\n"),
            &[
                "skd.toml:1:10: the name of a service has at least one character, and no control characters",
            ],
        );
    }
}

#[test]
fn all_faults_of_all_files_have_their_location() {
    let directory = Directory::new();
    directory.write(
        "other.toml",
        "[service.b]\ntcp = ['80', 'x y']\nmax-per-source = 0\nunix-mode = 600\ncommand = ['cat']\n",
    );
    let skd = config(
        &directory,
        "[service.a]\ntcp = 80\nidle-exit = '1s'\nrules = 'rules'\nat-max = 'close'\ncommand = ['cat']\n",
    );
    let expected = [
        "skd.toml:3:13: --idle-exit needs --on-demand, or PROG would be run again at once",
        "skd.toml:5:10: --at-max has no use without --max-clients",
        "other.toml:2:8: services b and a have the same address: --tcp 80, and --tcp 80 at skd.toml:2:7",
        "other.toml:2:14: invalid value 'x y' for --tcp: a port is a number from 0 to 65535 or a service name",
        "other.toml:3:18: invalid value '0' for --max-per-source: it takes a decimal number from 1 to 2147483647",
        "other.toml:4:13: --unix-mode has no use without --unix",
    ];
    let skd = skd.args(["--config", "other.toml"]);
    faults(&skd.end(), 2, &expected);
    let skd = Skd::new(["--check", "--config", "skd.toml", "--config", "other.toml"]);
    let output = skd.cwd(directory.path()).end();
    let (first, rest) = output
        .stderr
        .split_at(expected.concat().len() + 6 * "skd: \n".len());
    assert_eq!(
        first.lines().collect::<Vec<_>>(),
        expected.map(|it| format!("skd: {it}"))
    );
    // What is found out by looking at the system has the location of its service.
    assert!(
        rest.starts_with("skd: skd.toml:1:10: service a: rules file "),
        "{rest}"
    );
    assert_eq!(output.code(), Some(2));
}

#[test]
fn services_with_the_same_name_or_address_are_both_named() {
    let directory = Directory::new();
    let service = "[service.a]\nunix = '@one'\ncommand = ['cat']\n";
    directory.write("other.toml", service);
    let skd = config(&directory, service).args(["--config", "other.toml"]);
    faults(
        &skd.end(),
        2,
        &["other.toml:1:10: two services are called a: the other is at skd.toml:1:10"],
    );
    refused(
        "[service.a]\nunix = '@one'\ncommand = ['cat']\n[service.a]\ntcp = 1\n",
        &["skd.toml:4:10: this key is given twice: the other is at skd.toml:1:1"],
    );
    refused(
        "[service.a]\ntcp = 1\nnodelay = true\ntcp = 2\ncommand = ['cat']\n",
        &["skd.toml:4:1: this key is given twice: the other is at skd.toml:2:1"],
    );
    for (one, other, same) in [
        ("unix = ['@a', 'x']\nunix-mode = 600", "unix = './x'", true),
        ("tcp = 80", "tcp = '127.0.0.1:80'", true),
        ("tcp = '[::1]:80'", "inet = 80", true),
        ("tcp = '0.0.0.0:80'", "tcp = '127.0.0.1:80'", true),
        ("tcp = 'localhost:80'", "tcp = 'localhost:80'", true),
        ("tcp = '0.0.0.0:80'", "tcp = '[::1]:80'", false),
        ("tcp = '127.0.0.1:80'", "tcp = '127.0.0.2:80'", false),
        ("tcp = 80", "udp = 80", false),
        ("tcp = 0", "tcp = 0", false),
        (
            "tcp = 80\nreuse-port = true",
            "tcp = '127.0.0.1:80'\nreuse-port = true",
            false,
        ),
        (
            "tcp = 80\ndevice = 'lo'",
            "tcp = 80\ndevice = 'eth0'",
            false,
        ),
        ("systemd = true", "systemd = true", true),
    ] {
        let text = format!(
            "[service.a]\n{one}\ncommand = ['cat']\n[service.b]\n{other}\ncommand = ['cat']\n"
        );
        let output = config(&directory, &text).arg("--print-config").end();
        let refused = output
            .stderr
            .contains("services b and a have the same address: --");
        let located = output.stderr.contains(" at skd.toml:2:");
        assert_eq!((refused, located), (same, same), "{text}{output:#?}");
        assert_eq!(output.code(), Some(if same { 2 } else { 0 }), "{output:#?}");
    }
    refused(
        "[service.a]\ntcp = 1\ncommand = ['cat']\n[service.b]\nsupervise = true\ncommand = ['cat']\n",
        &[
            "skd.toml:4:10: service b: a program that has no listener, or that is supervised, has to \
             be the only service of its skd; run another skd for it",
        ],
    );
}

#[test]
fn the_daemon_has_its_own_table_which_the_command_line_overrides() {
    let directory = Directory::new();
    let text = "[daemon]\nverbose = 2\nlog = 'tag'\nthreads = 3\n\
                [service.a]\ntcp = 1\ncommand = ['cat']\n";
    directory.write("other.toml", "[daemon]\nlog = '>x'\npidfile = 'p'\n");
    let two = config(&directory, text).args(["--config", "other.toml"]);
    faults(
        &two.end(),
        2,
        &["other.toml:2:7: [daemon] has log twice: the other is at skd.toml:3:7"],
    );
    refused(
        "[daemon]\nready-fd = 5\n[service.a]\nshell = 'cat'\n",
        &[
            "skd.toml:3:10: service a: --ready-fd 5 has no use: a program without a listener inherits the \
             descriptor and reports itself",
        ],
    );
    let skd = config(&directory, text).args(["--threads", "99", "-v"]);
    faults(
        &skd.end(),
        2,
        &["invalid value '99' for --threads: it takes a decimal number from 1 to 16"],
    );
    let skd = config(&directory, text).args(["-L", ">> x", "-c", "3", "-t", "80", "cat"]);
    faults(
        &skd.end(),
        2,
        &[
            "--max-clients can't be used with --config: it is about one service, so write it in a \
             file; beside --config are options of the daemon only",
            "--tcp can't be used with --config: it is about one service, so write it in a file; \
             beside --config are options of the daemon only",
            "PROG can't be used with --config: 'cat' is no option, and what is run is written in files",
        ],
    );
}

#[test]
fn a_directory_is_its_toml_files_in_the_order_of_their_names() {
    let directory = Directory::new();
    let service = |name: &str| {
        format!(
            "[service.{name}]\nunix = '@{}/{name}'\ncommand = ['cat']\n",
            directory.name("")
        )
    };
    fs::create_dir(directory.join("conf")).unwrap();
    for name in ["20-b", "10-a", "30-c"] {
        directory.write(&format!("conf/{name}.toml"), service(&name[3..]));
    }
    for name in ["README", "old.toml~", ".hidden.toml", "x.toml.dpkg-old"] {
        directory.write(&format!("conf/{name}"), "not TOML");
    }
    symlink("nowhere", directory.join("conf/.#10-a.toml")).unwrap();
    directory.write("first.toml", service("first"));
    symlink("first.toml", directory.join("link.toml")).unwrap();
    let skd = |more: &[&str]| Skd::new(more).cwd(directory.path());
    let output = skd(&[
        "--config",
        "link.toml",
        "--config",
        "conf",
        "--print-config",
    ])
    .end();
    let lines = output.stdout.lines().filter(|line| line.starts_with('#'));
    let expected = ["link", "conf/10-a", "conf/20-b", "conf/30-c"];
    let expected = expected.map(|name| format!("# from {name}.toml:1:10"));
    assert_eq!(lines.collect::<Vec<_>>(), expected, "{output:#?}");

    mkfifo(&directory.join("conf/a-fifo.toml"), Mode::S_IRUSR).unwrap();
    fs::create_dir(directory.join("conf/b-directory.toml")).unwrap();
    symlink("nowhere", directory.join("conf/c-dangling.toml")).unwrap();
    symlink("/dev/zero", directory.join("conf/d-device.toml")).unwrap();
    let too_large = fs::File::create(directory.join("conf/e-large.toml")).unwrap();
    too_large.set_len((16 << 20) + 1).unwrap();
    directory.write("conf/f-public.toml", service("f"));
    directory.chmod("conf/f-public.toml", 0o666);
    let output = skd(&[
        "--config",
        "conf",
        "--config",
        "gone",
        "--config",
        "/dev/null",
    ])
    .end();
    faults(
        &output,
        1,
        &[
            "conf/a-fifo.toml is no regular file",
            "conf/b-directory.toml is a directory",
            "conf/c-dangling.toml is a symbolic link to a file that doesn't exist",
            "conf/d-device.toml is no regular file",
            "conf/e-large.toml has more than 16 MiB",
            "conf/f-public.toml can be written by every user, who could have anything run",
            "gone can't be opened: No such file or directory",
            "/dev/null is no regular file",
        ],
    );
    fs::create_dir(directory.join("empty")).unwrap();
    faults(
        &skd(&["--config", "empty"]).end(),
        1,
        &["there is no service to run: the files have none, or none is enabled"],
    );
}

#[test]
fn a_file_that_changes_while_it_is_read_is_read_again() {
    requires_command("strace");
    let directory = Directory::new();
    let file = directory.write(
        "skd.toml",
        "[service.old]\nunix = '@old'\ncommand = ['cat']\n",
    );
    let trace = directory.name("trace");
    let path = file.canonicalize().unwrap();
    // The file is looked at before it is read and after that, which is delayed.
    let skd = Skd::new(["--config", "skd.toml", "--print-config"])
        .cwd(directory.path())
        .wrapper([
            "strace",
            "-f",
            "-qq",
            "-o",
            &trace,
            "-P",
            path.to_str().unwrap(),
            "-e",
            "trace=read,statx",
            "-e",
            "inject=statx:delay_enter=3000000:when=2",
        ])
        .start_bare();
    wait_until("the file is read to its end", || {
        Path::new(&trace).exists() && directory.read("trace").contains(", \"\", ")
    });
    let mut file = OpenOptions::new().append(true).open(&file).unwrap();
    file.write_all(b"[service.new]\nunix = '@new'\ncommand = ['cat']\n")
        .unwrap();
    let output = skd.wait_with_output();
    assert!(output.stdout.contains("[service.new]"), "{output:#?}");
}

#[test]
fn text_that_is_hard_to_read_is_read_or_refused_with_its_location() {
    let service = "service.a = { tcp = 1, command = ['cat'] }\n";
    let directory = Directory::new();
    for text in [
        format!("\u{feff}{service}"),
        service.replace('\n', "\r\n"),
        service.trim_end().to_owned(),
        format!("# \t é\n\n{service}"),
    ] {
        let output = config(&directory, text).arg("--print-config").end();
        assert_eq!(
            (output.code(), &*output.stderr),
            (Some(0), ""),
            "{output:#?}"
        );
    }
    refused(
        "\u{feff}[service.a]\r\ntcp = 'x y'\r\nshell = 'x'\r\n",
        &[
            "skd.toml:2:7: invalid value 'x y' for --tcp: a port is a number from 0 to 65535 or a service name",
        ],
    );
    refused(
        b"[service.a]\ntcp = '\xc3\xa9 \xff'\n",
        &["skd.toml:2:10: this byte isn't text in UTF-8"],
    );
    for (text, location) in [
        ("[service.a]\ntcp = '1\0'\nshell = ''\n", "skd.toml:2:"),
        (
            "[service.a]\nunix = \"a\\u0000\"\nshell = ''\n",
            "skd.toml:2:8: invalid value",
        ),
        (
            "[service.a]\ntcp = 1\nenv = \"A=\\u0000\"\nshell = ''\n",
            "skd.toml:3:7: invalid value",
        ),
        ("[service.a]\ntcp = 1 2\nshell = ''\n", "skd.toml:2:7: "),
        ("[service.a\ntcp = 1\nshell = ''\n", "skd.toml:1:11: "),
        ("[service.a]\ntcp = \"1\nshell = ''\n", "skd.toml:2:"),
        ("[service.a]\rtcp = 1\nshell = ''\n", "skd.toml:1:13: "),
    ] {
        let output = config(&directory, text).end();
        output.expect_code(2);
        let first = output.stderr.lines().next().unwrap();
        assert!(
            first.starts_with(&format!("skd: {location}")),
            "{text}{output:#?}"
        );
    }
    // However deep it is.
    let output = config(&directory, format!("a = {}", "[".repeat(1 << 20))).end();
    assert_eq!(output.code(), Some(2));
    let output = config(&directory, "a.".repeat(1 << 19)).end();
    assert_eq!(output.code(), Some(2));
}

#[test]
fn ten_thousand_services_are_read() {
    let directory = Directory::new();
    let one = |number: usize| {
        format!(
            "[service.s{number}]\ntcp = '127.{}.{}.1:7'\nenv = {{ N = {number} }}\ncommand = ['cat']\n",
            number / 200,
            number % 200,
        )
    };
    let text: String = (0..10_000).map(one).collect();
    let output = config(&directory, &text).arg("--print-config").end();
    output.expect_code(0);
    assert_eq!(output.stdout.matches("[service.").count(), 10_000);
    // All in one line, and all with the same fault.
    let one = |number| format!("s{number}={{tcp=1,shell='',x=1}},");
    let text: String = (0..10_000).map(one).collect();
    let output = config(&directory, format!("service={{{text}}}")).end();
    output.expect_code(2);
    assert_eq!(output.stderr.matches(": unknown key x ").count(), 10_000);
    assert_eq!(
        output.stderr.matches(" have the same address").count(),
        9_999
    );
}

#[test]
fn the_check_and_the_explanation_are_of_each_service() {
    let directory = Directory::new();
    directory.write("skd.rules", "allow 192.0.2.0/24\n");
    let text = "[service.a]\ntcp = '127.0.0.1:7'\nrules = 'skd.rules'\ncommand = ['/no/such']\n\
                [service.b]\nudp = '127.0.0.1:7'\ncommand = ['cat']\n\
                [service.c]\nunix = 'no/such/dir'\ndeny = '192.0.2.1'\nnodelay = true\ncommand = ['cat']\n";
    let check = config(&directory, text).arg("--check").end();
    let lines: Vec<_> = check.stderr.lines().collect();
    let expected = [
        "note: skd.toml:11:11: --nodelay has no effect without a TCP listener",
        "skd.toml:8:10: service c: --unix DIR/no/such/dir: ",
        "skd.toml:1:10: service a: '/no/such' can't be run: ",
    ];
    assert_eq!(lines.len(), expected.len(), "{check:#?}");
    let below = directory.path().canonicalize().unwrap();
    for (line, expected) in lines.iter().zip(expected) {
        let expected = expected.replace("DIR", below.to_str().unwrap());
        assert!(
            line.starts_with(&format!("skd: {expected}")),
            "{expected}: {check:#?}"
        );
    }
    let explain = config(&directory, text)
        .args(["--explain", "192.0.2.1"])
        .end();
    let rules = directory.join("skd.rules");
    let rules = rules.canonicalize().unwrap();
    assert_eq!(
        explain.stdout,
        format!(
            "service: a\nclient: 192.0.2.1\nverdict: allow\nrule: allow 192.0.2.0/24\n\
             from: rules file {}, line 1\n\
             service: b\nclient: 192.0.2.1\nverdict: none, PROG takes its clients itself\n\
             service: c\nclient: 192.0.2.1\nverdict: deny\nrule: deny 192.0.2.1\n\
             from: --deny 192.0.2.1\n",
            rules.display()
        )
    );
}

#[test]
fn the_fault_of_a_start_names_its_service() {
    let directory = Directory::new();
    let text = "[service.a]\nunix = 'a'\ncommand = ['cat']\n\
                [service.b]\nunix = 'b'\ncommand = ['/no/such']\n";
    let output = config(&directory, text).end();
    output.expect_code(127);
    let begin = "skd: skd.toml:4:10: service b: '/no/such' can't be run: ";
    assert!(
        output.stderr.lines().any(|line| line.starts_with(begin)),
        "{output:#?}"
    );
    assert!(!directory.join("a").exists());
}

#[test]
fn a_command_line_is_printed_as_a_file_that_means_the_same() {
    let directory = Directory::new();
    let below = directory.path().canonicalize().unwrap();
    let below = below.to_str().unwrap();
    let words = [
        "-vv",
        "-L",
        ">>log",
        "--threads",
        "2",
        "-l",
        "sock",
        "-t",
        "80",
        "-l",
        "other",
        "--chdir",
        "home",
        "--allow",
        "192.0.2.0/24",
        "--deny",
        "file=list",
        "--allow",
        "all",
        "--env",
        "A=\"\\\n\u{1}é",
        "--env",
        "B",
        "--fork-server=start",
        "--unix-mode",
        "0660",
        "--print-config",
        "--",
        "./prog",
        "-x",
        "",
    ];
    let print = || Skd::new(words).cwd(directory.path()).end();
    let output = print();
    assert_eq!(
        output.stdout.replace(below, "DIR"),
        "[daemon]\n\
         verbose = 2\n\
         log = \">>DIR/log\"\n\
         threads = 2\n\
         \n\
         # from the command line\n\
         [service.prog]\n\
         in-order = [{ unix = \"DIR/sock\" }, { tcp = 80 }, { unix = \"DIR/other\" }, \
         { allow = \"192.0.2.0/24\" }, { deny = \"file=DIR/list\" }, { allow = \"all\" }]\n\
         chdir = \"DIR/home\"\n\
         env = [\"A=\\\"\\\\\\n\\u0001é\", \"B\"]\n\
         fork-server = \"start\"\n\
         unix-mode = \"0660\"\n\
         command = [\"DIR/home/prog\", \"-x\", \"\"]\n",
        "{output:#?}"
    );
    let again = config(&directory, &output.stdout)
        .arg("--print-config")
        .end();
    let origin = |text: &str| text.replace("the command line", "skd.toml:7:10");
    assert_eq!(again.stdout, origin(&output.stdout), "{again:#?}");

    let output = Skd::new(["--print-config", "--env"])
        .arg(std::os::unix::ffi::OsStrExt::from_bytes(b"A=\xff") as &std::ffi::OsStr)
        .arg("cat")
        .end();
    faults(
        &output,
        2,
        &["--env isn't text in UTF-8, so TOML can't have it"],
    );
    let output = Skd::new(["--print-config", "--check", "cat"]).end();
    faults(
        &output,
        2,
        &["--print-config can't be used with --check: they report different things"],
    );
}

#[test]
fn the_example_of_the_manual_is_served() {
    requires_root();
    let manual = include_str!("../../man/skd.8.in");
    let (_, example) = manual.split_once(".SH SERVICE FILES").expect("the section");
    let example = example
        .split(".EX\n")
        .nth(1)
        .and_then(|it| it.split(".EE").next());
    let example = example.expect("an example");
    let example = example.replace("\\-", "-").replace("\\(aq", "'");
    let directory = Directory::new();
    let file = directory.write("skd.toml", example);
    let namespace = Namespace::new();
    namespace.tmpfs("/run");
    let skd = Skd::new(["-vv", "--config"])
        .arg(file)
        .inside(&namespace)
        .start_bare();
    skd.wait_for_logs("Listening on ", 5);
    namespace.enter(|| {
        let connect = |port| connect(SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(talk(connect(7), b"echo"), b"echo");
        let date = read_all(connect(13));
        assert!(date.contains(" UTC "), "{date}");
    });
    let notes = connect_unix(directory.join("notes.sock"));
    assert_eq!(talk(notes, b"noted"), b"noted");
    assert_eq!(skd.stop().code(), Some(0));
}
