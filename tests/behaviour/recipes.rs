//! The recipes of docs/recipes.md, typed into shells as printed: servers as root on a machine of their own, which has
//! none of their users and files, and clients that connect over IPv4, IPv6 and a unix socket, from an empty directory.

use crate::gate::solve;
use crate::harness::{
    Directory, HOSTS, Kind, Machine, Program, Running, Socket, Syslog, ask_udp, connect_unix,
    descendants, echo, ids, requires_command, sockets, wait_until,
};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;

#[test]
fn every_recipe_has_a_test() {
    let tested = include_str!("recipes.rs").split("::of(\"").skip(1);
    let tested = tested.map(|rest| rest.split('"').next().unwrap());
    let written: Vec<_> = recipes().into_iter().map(|recipe| recipe.title).collect();
    assert_eq!(tested.collect::<Vec<_>>(), written);
}

#[test]
fn git_clones_pushes_and_pulls() {
    requires_command("git");
    requires_command("socat");
    let machine = Machine::new();
    machine.type_in("git config --global user.name root; git config --global user.email root@here");
    let server = Server::of("git", "git", machine);
    let last = "git log -1 --format=%H";
    server.each_client("", |client| {
        let (pushed, pulled) = match client.address() {
            Some(_) => ("hers", "his"),
            None => ("here", "there"),
        };
        let commit = |directory: &str| client.type_in(&format!("cd {directory} && {last}"));
        let pushed = commit(pushed);
        assert_eq!(commit(pulled), pushed);
        // As its owner: git refuses the repositories of other users.
        let kept = format!("setpriv --reuid git --clear-groups env HOME=/srv/git {last}");
        let kept = client.type_in(&format!("cd /srv/git/project.git && {kept}"));
        assert_eq!(kept, pushed);
        if let Some(address) = client.address() {
            client.server_said(&format!("Connection from {address}:"));
        }
    });
    let owners = server.machine.type_in("stat -c %U -- $(find /srv/git)");
    assert!(owners.lines().all(|owner| owner == "git"), "{owners}");
}

#[test]
fn rsync_copies_there_and_back() {
    requires_command("rsync");
    requires_command("socat");
    let server = Server::of("rsync", "backup", Machine::new());
    let photos = "
        mkdir -p photos/summer photos/none
        head -c 3000000 /dev/urandom > photos/summer/beach
        echo 'The sea.' > 'photos/about them'
        ln -s summer/beach photos/latest
    ";
    server.each_client(photos, |client| {
        let compare = "
            (cd photos; find . -type f -exec sha256sum {} +) > sums
            test $(wc -l < sums) = 3
            for copy in /srv/backup/photos restored/photos; do
                (cd $copy; sha256sum --check --strict --quiet) < sums
                test -d $copy/none
            done
            test $(readlink restored/photos/latest) = summer/beach
            stat -c %U /srv/backup/photos/summer/beach
            rm -r /srv/backup/photos
        ";
        assert_eq!(client.type_in(compare), "backup\n");
    });
}

#[test]
fn sshd_accepts_a_user_and_copies_a_large_file() {
    requires_command("sshd");
    requires_command("socat");
    let server = Server::of("OpenSSH", "root", Machine::new());
    server.machine.let_root_in();
    server.each_client("", |client| {
        assert!(client.output.starts_with("alice\n"), "{}", client.output);
        let compare = "
            cmp disk.img copy.img
            cmp disk.img ~alice/disk.img
            stat -c '%U %s' ~alice/disk.img
            rm disk.img copy.img ~alice/disk.img
        ";
        assert_eq!(client.type_in(compare), "alice 100000000\n");
        let address = client.address().unwrap_or("UNKNOWN");
        client.server_said(&format!(
            "Accepted publickey for alice from {address} port "
        ));
    });
}

#[test]
fn sshd_without_root_accepts_its_own_user() {
    requires_command("sshd");
    requires_command("socat");
    let server = Server::of("OpenSSH for one user", "alice", Machine::new());
    server.machine.let_root_in();
    server.each_client("", |client| {
        assert!(client.output.starts_with("alice\n"), "{}", client.output);
        client.type_in("cmp notes copy; cmp notes ~alice/notes; rm ~alice/notes");
    });
    // But no other user, as the page says.
    let intruder = server
        .machine
        .shell("ssh ssh://root@ipv4.example.org:2223 true");
    let refused = intruder.end();
    refused
        .expect_code(255)
        .expect_stderr(&["root@ipv4.example.org"]);
}

#[test]
fn busybox_serves_files_to_curl() {
    requires_command("busybox");
    requires_command("curl");
    let server = Server::of("A web server", "www-data", Machine::new());
    server.each_client("", |client| {
        assert_eq!(client.output, "<h1>It works.</h1>\n");
        client.type_in("cmp numbers /srv/www/numbers; test $(wc -l < numbers) = 1000000");
    });
}

#[test]
fn a_shell_script_answers_requests_with_a_page() {
    requires_command("curl");
    let server = Server::of("A page from a shell script", "nobody", Machine::new());
    server.each_client("", |client| {
        let name = client.address().unwrap_or("this machine");
        let pages: Vec<_> = client.output.lines().collect();
        assert_eq!(pages.len(), 2, "{pages:?}");
        for (page, request) in pages.iter().zip(["GET /some/page", "POST /form"]) {
            let begin = format!("{request} from {name}, at ");
            assert!(page.starts_with(&begin), "{page}");
        }
    });
    // No answer is lost to a reset, however much the client sends.
    let many = "
        head -c 1000000 /dev/zero > body
        for number in $(seq 30); do
            curl --fail --silent --show-error -H Expect: --data-binary @body http://ipv4.example.org:8000/$number
        done
    ";
    let answers = server.machine.type_in(many);
    assert_eq!(answers.lines().count(), 30, "{answers}");
}

#[test]
fn a_web_page_exchanges_messages() {
    requires_command("python3");
    requires_command("socat");
    let server = Server::of("A WebSocket", "nobody", Machine::new());
    server.each_client("", |client| {
        // The answer to the key is that of RFC 6455, section 1.3.
        let accepted = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nHELLO";
        assert!(client.output.ends_with(accepted), "{:?}", client.output);
        assert!(
            client.output.starts_with("HTTP/1.1 101 "),
            "{:?}",
            client.output
        );
    });
}

#[test]
fn haproxy_in_front_does_tls() {
    requires_command("haproxy");
    requires_command("openssl");
    requires_command("busybox");
    requires_command("curl");
    let server = Server::of("TLS", "nobody", Machine::new());
    server.each_client("", |client| {
        assert_eq!(client.output, "<h1>It works, in secret.</h1>\n");
        let address = client.address().unwrap_or("");
        client.server_said(&format!("Accepted connection from [{address}"));
    });
}

#[test]
fn a_changed_command_line_loses_no_connection() {
    requires_command("socat");
    let machine = Machine::new();
    let _syslog = Syslog::bind(machine.namespace.path("/dev/log"));
    let recipe = Recipe::of("A changed command line");
    // Keeps the daemons until the end.
    let first = machine.shell(&recipe.server).start_bare();
    assert_eq!(first.wait().code(), Some(0));
    let clients = machine
        .shell(&recipe.client)
        .env("HOST", HOSTS[0].0)
        .start_bare();
    clients.wait_until("some are served", || clients.stdout_lines().len() > 5);
    let change = machine.shell(&recipe.change).start_bare();
    assert_eq!(change.wait_with_output().code(), Some(0));
    let output = clients.wait_with_output();
    output.expect_code(0);
    let numbers: String = (1..=50).map(|number| format!("{number}\n")).collect();
    assert_eq!(output.stdout, numbers);
    let gone = || !machine.namespace.path("/run/echo-1.pid").exists();
    wait_until("the first has ended", gone);
    let second = machine.shell(&recipe.client).env("HOST", HOSTS[1].0).end();
    assert_eq!(second.stdout, numbers);
}

#[test]
fn a_handler_in_perl_asks_its_socket_for_the_client() {
    requires_command("perl");
    requires_command("curl");
    let server = Server::of("A handler in Perl", "nobody", Machine::new());
    server.each_client("", |client| {
        let Some(address) = client.address() else {
            assert_eq!(client.output, "from this machine to this machine\n");
            return;
        };
        let accepted = client.server_said(&format!("Accepted connection from [{address}]:"));
        let (peer, _) = accepted.split_once(" on TCP ").unwrap();
        let (_, port) = peer.rsplit_once(':').unwrap();
        let answer = format!("from {address} port {port} to {address} port 8080\n");
        assert_eq!(client.output, answer);
    });
}

#[test]
fn a_handler_in_python_holds_a_conversation() {
    requires_command("python3");
    requires_command("socat");
    let server = Server::of("A handler in Python", "nobody", Machine::new());
    server.each_client("", |client| {
        let name = client.address().unwrap_or("neighbour");
        assert_eq!(client.output, format!("Hello, {name}\nreward\ndevil\n"));
    });
}

#[test]
fn a_script_in_python_is_copied_for_each_client() {
    requires_command("python3");
    requires_command("socat");
    let server = Server::of("A Python script that is copied", "nobody", Machine::new());
    if cfg!(target_arch = "x86_64") {
        server.shell.wait_for_log(" is parked at ");
    }
    server.each_client("", |client| {
        assert_eq!(client.output, "{\"length\": 5, \"line\": \"hello\"}\n");
    });
}

#[test]
fn a_program_of_inetd_writes_its_errors_to_the_client() {
    requires_command("socat");
    let machine = Machine::new();
    machine.type_in("useradd alice");
    let server = Server::of("A program of inetd: finger", "nobody", machine);
    server.each_client("", |client| {
        assert!(client.output.contains("(alice)"), "{}", client.output);
        assert!(client.output.contains("no such user"), "{}", client.output);
    });
}

#[test]
fn a_gate_asks_for_a_password() {
    requires_command("socat");
    let server = Server::of("A password before the handler", "nobody", Machine::new());
    server.each_client("", |client| {
        assert_eq!(client.output, "password: hello\npassword: wrong password\n");
    });
    assert_eq!(server.shell.logged("Gate passed").len(), 3);
    let refused = server
        .shell
        .logged(": its gate exited with status 1 after ");
    assert_eq!(refused.len(), 3);
}

#[test]
fn a_gate_asks_for_a_proof_of_work() {
    requires_command("socat");
    let machine = Machine::new();
    let script = include_str!("../../contrib/proof-of-work/proof-of-work");
    fs::write(machine.bin().join("../proof-of-work"), script).unwrap();
    let server = Server::of("A proof of work before the handler", "nobody", machine);
    server.each_client("", |client| {
        let shown = "curl -sSfL https://pwn.red/pow | sh -s s.AAAF3A==.";
        assert!(client.output.contains(shown), "{}", client.output);
        assert!(client.output.ends_with("that is no solution\n"));
    });
    let client = connect_unix(server.machine.namespace.path("/run/puzzle.sock"));
    let (mut client, _) = solve(client);
    echo(&mut client, b"let in");
}

#[test]
fn one_handler_answers_datagrams_until_none_come() {
    requires_command("perl");
    requires_command("socat");
    let server = Server::of("The time of day, by datagrams", "nobody", Machine::new());
    let year = server.machine.type_in("date +%Y");
    server.each_client("", |client| {
        let tells_time = |answer: &str| answer.len() == 25 && answer.ends_with(&year);
        assert!(tells_time(&client.output), "{:?}", client.output);
        let Some(address) = client.address() else {
            client.server_said("Received initial local datagram");
            return;
        };
        let received = format!("Received initial datagram from [{address}]:");
        client.server_said(&received);
        let address = SocketAddr::new(address.parse().unwrap(), 13);
        let again = server.machine.namespace.enter(|| ask_udp(address, b"\n"));
        assert!(tells_time(&String::from_utf8(again).unwrap()));
        assert_eq!(server.shell.logged(&received).len(), 1);
    });
}

/// A section of the page: its title and its commands.
struct Recipe {
    title: String,
    prepare: String,
    server: String,
    client: String,
    local_client: String,
    /// What is done while clients connect.
    change: String,
}

fn recipes() -> Vec<Recipe> {
    let page = fs::read_to_string("docs/recipes.md").unwrap();
    let mut sections = page.split("\n## ");
    let introduction = sections.next().unwrap();
    assert!(!introduction.contains("```"), "commands without a recipe");
    sections.map(Recipe::read).collect()
}

impl Recipe {
    #[track_caller]
    fn of(title: &str) -> Self {
        let recipe = recipes().into_iter().find(|recipe| recipe.title == title);
        recipe.unwrap_or_else(|| panic!("there is no recipe {title:?}"))
    }

    /// Reads a section. It must have exactly these blocks, so that all commands are tested: preparation, server,
    /// client and local client, or server, change and client.
    fn read(section: &str) -> Self {
        let title = section.lines().next().unwrap().to_owned();
        let blocks = section.split("```").skip(1).step_by(2);
        let blocks: Vec<_> = blocks
            .map(|block| block.split_once('\n').unwrap())
            .collect();
        let (prepare, server, change, client, local_client) = match blocks[..] {
            [
                ("sh prepare", prepare),
                ("sh server", server),
                ("sh client", client),
                ("sh local client", local_client),
            ] => (prepare, server, "", client, local_client),
            [
                ("sh server", server),
                ("sh change", change),
                ("sh client", client),
            ] => ("", server, change, client, ""),
            _ => panic!("{title}: other blocks than those of a recipe: {blocks:#?}"),
        };
        assert!(client.contains("$HOST") && !local_client.contains("$HOST"));
        Self {
            title,
            prepare: prepare.to_owned(),
            server: server.to_owned(),
            client: client.to_owned(),
            local_client: local_client.to_owned(),
            change: change.to_owned(),
        }
    }
}

/// The running server of a recipe.
struct Server {
    machine: Machine,
    recipe: Recipe,
    shell: Running,
}

impl Server {
    /// Starts the server, and waits until it serves with handlers of `user`.
    #[track_caller]
    fn of(title: &str, user: &str, machine: Machine) -> Self {
        let recipe = Recipe::of(title);
        machine.type_in(&recipe.prepare);
        let shell = machine.shell(&recipe.server).start_bare();
        let server = Self {
            machine,
            recipe,
            shell,
        };
        let uid = server.machine.type_in(&format!("id -u {user}"));
        let uid: u32 = uid.trim().parse().unwrap();
        // With --user, skd itself stays root.
        let line = &server.recipe.server;
        let itself = if line.contains(" -U ") { uid } else { 0 };
        assert!(line.contains(&format!("--user {user}")) || uid == itself);
        // For clients of this machine alone, or for all.
        let families_wanted = match line.contains("-t 127.0.0.1:") {
            true => 1,
            false => 3,
        };
        let what = format!("{user} serves IPv4, IPv6 and a unix socket");
        server.shell.wait_until(&what, || {
            let Some(skd) = server.skd() else {
                return false;
            };
            let open = sockets(skd).into_iter().filter(Socket::is_open);
            let families: BTreeSet<_> = open.map(family).collect();
            families.len() == families_wanted && ids(skd).0 == [itself; 4]
        });
        server
    }

    /// The process of skd, which is the shell's own or below it.
    fn skd(&self) -> Option<i32> {
        let shell = self.shell.pid();
        let mut pids = [shell].into_iter().chain(descendants(shell));
        let ours = Program::Ours.path().canonicalize().unwrap();
        pids.find(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == ours))
    }

    /// Types the clients' commands, each time in a new directory that `files` has filled, and calls `check`.
    #[track_caller]
    fn each_client(&self, files: &str, check: impl Fn(&Client<'_>)) {
        let Recipe {
            client,
            local_client,
            ..
        } = &self.recipe;
        for (host, commands) in [
            (Some(HOSTS[0]), client),
            (Some(HOSTS[1]), client),
            (None, local_client),
        ] {
            let mut client = Client {
                server: self,
                host,
                directory: Directory::new(),
                output: String::new(),
            };
            client.type_in(files);
            client.output = client.type_in(commands);
            check(&client);
        }
        let count = |event: &str| {
            let texts = [
                format!("{event} connection from ["),
                format!("{event} local connection from pid "),
            ];
            let lines = self.shell.log_lines().into_iter();
            let counted = lines.filter(|line| texts.iter().any(|text| line.starts_with(text)));
            counted.count()
        };
        let ended = || count("Closed") == count("Accepted");
        self.shell.wait_until("no handler is left", ended);
        assert_eq!(self.shell.troubles(), [""; 0]);
    }
}

fn family(socket: Socket) -> &'static str {
    match (socket.kind, socket.address) {
        (Kind::UnixStream | Kind::UnixSeqpacket | Kind::UnixDatagram, _) => "unix",
        (_, Some(address)) if address.is_ipv4() => "IPv4",
        _ => "IPv6",
    }
}

/// A client that has typed the page's commands.
struct Client<'a> {
    server: &'a Server,
    /// None on the same machine.
    host: Option<(&'static str, &'static str)>,
    directory: Directory,
    /// The output of the page's commands.
    output: String,
}

impl Client<'_> {
    /// The client's address, which is the server's too.
    fn address(&self) -> Option<&'static str> {
        self.host.map(|(_, address)| address)
    }

    /// Types commands in the client's directory, which must succeed, and returns their output.
    #[track_caller]
    fn type_in(&self, text: &str) -> String {
        let mut shell = self.server.machine.shell(text);
        if let Some((name, _)) = self.host {
            shell = shell.env("HOST", name);
        }
        let output = shell.cwd(self.directory.path()).end();
        output.expect_code(0);
        output.stdout
    }

    /// Waits for a line of the server's log.
    #[track_caller]
    fn server_said(&self, text: &str) -> String {
        self.server.shell.wait_for_log(text)
    }
}
