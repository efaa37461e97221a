//! The recipes of docs/recipes.md, typed into shells as printed: servers as root on a machine of their own, and clients
//! that connect over IPv4, IPv6 and a unix socket.

use crate::harness::{
    Directory, Kind, Namespace, Program, Running, Skd, Socket, ask_udp, descendants, ids,
    requires_command, requires_root, sockets,
};
use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::time::Duration;

/// A timeout for all commands of a client, longer than that of single steps.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The users that the page names, with their ids and homes.
const USERS: [(&str, u32, &str); 6] = [
    ("www-data", 33, "/srv/www"),
    ("backup", 34, "/srv/backup"),
    // Not on the page: sshd runs as this user before a login.
    ("sshd", 100, "/run/sshd"),
    ("git", 101, "/srv/git"),
    ("alice", 1000, "/srv/alice"),
    ("nobody", 65534, "/nonexistent"),
];

/// Values of the page's $HOST, and the one address of each.
const HOSTS: [(&str, &str); 2] = [
    ("ipv4.example.org", "127.0.0.1"),
    ("ipv6.example.org", "::1"),
];

#[test]
fn every_recipe_has_a_test() {
    let tested = include_str!("recipes.rs").split("Server::of(\"").skip(1);
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
            test $(wc -l < sums) = 2
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
    let machine = Machine::new();
    machine.let_root_in();
    let server = Server::of("OpenSSH", "root", machine);
    server.each_client("head -c 100000000 /dev/urandom > disk.img", |client| {
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
    let machine = Machine::new();
    machine.let_root_in();
    let server = Server::of("OpenSSH for one user", "alice", machine);
    server.each_client("date --rfc-3339=ns > notes", |client| {
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
    let large = "head -c 10000000 /dev/urandom > /srv/www/catalogue.pdf";
    server.each_client(large, |client| {
        assert_eq!(client.output, "<h1>It works.</h1>\n");
        client.type_in("cmp catalogue.pdf /srv/www/catalogue.pdf");
    });
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
        let (_, port) = accepted.rsplit_once(':').unwrap();
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
}

fn recipes() -> Vec<Recipe> {
    let page = fs::read_to_string("docs/recipes.md").unwrap();
    let mut sections = page.split("\n## ");
    let introduction = sections.next().unwrap();
    assert!(!introduction.contains("```"), "commands without a recipe");
    sections.map(Recipe::read).collect()
}

impl Recipe {
    /// Reads a section. It must have exactly these blocks, so that all commands are tested.
    fn read(section: &str) -> Self {
        let title = section.lines().next().unwrap().to_owned();
        let blocks = section.split("```").skip(1).step_by(2);
        let blocks: Vec<_> = blocks
            .map(|block| block.split_once('\n').unwrap())
            .collect();
        let [
            ("sh prepare", prepare),
            ("sh server", server),
            ("sh client", client),
            ("sh local client", local_client),
        ] = blocks[..]
        else {
            panic!("{title}: not what prepares, server, client, local client: {blocks:#?}");
        };
        assert!(client.contains("$HOST") && !local_client.contains("$HOST"));
        Self {
            title,
            prepare: prepare.to_owned(),
            server: server.to_owned(),
            client: client.to_owned(),
            local_client: local_client.to_owned(),
        }
    }
}

/// A machine with skd in PATH, the users that the page names, and a network and directories of its own.
struct Machine {
    namespace: Namespace,
    /// The home of root, which others can't enter.
    home: Directory,
}

impl Machine {
    fn new() -> Self {
        requires_root();
        let namespace = Namespace::new();
        namespace.private_dev();
        for directory in ["/run", "/srv", "/var/log"] {
            namespace.tmpfs(directory);
        }
        let home = Directory::new();
        let mut passwd = format!("root:x:0:0::{}:/bin/sh\n", home.path().display());
        let mut group = "root:x:0:\n".to_owned();
        for (name, id, home) in USERS {
            passwd.push_str(&format!("{name}:x:{id}:{id}::{home}:/bin/sh\n"));
            group.push_str(&format!("{name}:x:{id}:\n"));
        }
        let hosts = HOSTS.map(|(name, address)| format!("{address} {name}\n"));
        namespace.replace_file("/etc/hosts", &hosts.concat());
        namespace.replace_file("/etc/passwd", &passwd);
        namespace.replace_file("/etc/group", &group);
        fs::create_dir(home.join("bin")).unwrap();
        symlink(Program::Ours.path(), home.join("bin/skd")).unwrap();
        Self { namespace, home }
    }

    /// Gives root a key that alice's account accepts.
    fn let_root_in(&self) {
        requires_command("sshd");
        requires_command("socat");
        let keys = "
            install -d -m 700 ~/.ssh
            ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519
            install -d -o alice -g alice ~alice ~alice/.ssh
            install -o alice -g alice -m 600 ~/.ssh/id_ed25519.pub ~alice/.ssh/authorized_keys
        ";
        self.type_in(keys);
    }

    /// A login shell of root, without the environment of the tests.
    fn shell(&self, text: &str) -> Skd {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Skd::new(["-ec", text])
            .binary("/bin/sh")
            .inside(&self.namespace)
            .cwd(self.home.path())
            .env_clear()
            .env("PATH", format!("{}:{path}", self.home.name("bin")))
            .env("HOME", self.home.path())
            .deadline(TIMEOUT)
    }

    /// Types commands, which must succeed, and returns their output.
    #[track_caller]
    fn type_in(&self, text: &str) -> String {
        let output = self.shell(text).end();
        output.expect_code(0);
        output.stdout
    }
}

/// The running server of a recipe.
struct Server {
    machine: Machine,
    recipe: Recipe,
    shell: Running,
}

impl Server {
    /// Starts the server, and waits until it serves as `user`.
    #[track_caller]
    fn of(title: &str, user: &str, machine: Machine) -> Self {
        let recipe = recipes().into_iter().find(|recipe| recipe.title == title);
        let recipe = recipe.unwrap_or_else(|| panic!("there is no recipe {title:?}"));
        machine.type_in(&recipe.prepare);
        let shell = machine.shell(&recipe.server).start_bare();
        let server = Self {
            machine,
            recipe,
            shell,
        };
        let uid = USERS.iter().find(|(name, _, _)| *name == user);
        let uid = uid.map_or(0, |(_, uid, _)| *uid);
        let what = format!("{user} serves IPv4, IPv6 and a unix socket");
        server.shell.wait_until(&what, || {
            let Some(skd) = server.skd() else {
                return false;
            };
            let open = sockets(skd).into_iter().filter(Socket::is_open);
            let families: BTreeSet<_> = open.map(family).collect();
            families.len() == 3 && ids(skd).0 == [uid; 4]
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
        assert_eq!(self.shell.logged("skd: "), [""; 0]);
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
