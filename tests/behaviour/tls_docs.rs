//! docs/tls.md, typed into a shell as printed: each section on a machine of its own, in the order of the page.

use crate::harness::{
    Machine, Program, Running, Socket, built, descendants, requires_command, sockets,
};
use std::fs;
use std::os::unix::fs::symlink;
use std::thread;
use std::time::{Duration, Instant};

#[test]
fn every_section_with_commands_has_a_test() {
    let tested = include_str!("tls_docs.rs").split("typed(\"").skip(1);
    let tested = tested.map(|rest| rest.split('"').next().unwrap());
    let sections = sections().into_iter();
    let written = sections.filter(|section| !section.blocks.is_empty());
    let written: Vec<_> = written.map(|section| section.title).collect();
    assert_eq!(tested.collect::<Vec<_>>(), written);
}

#[test]
fn two_commands_make_a_server_that_clients_can_check() {
    requires_command("openssl");
    typed("A certificate of one's own", &[], |_| {});
}

#[test]
fn a_shell_script_serves_https() {
    requires_command("curl");
    typed("HTTPS from a shell script", &[FIRST], |_| {});
}

#[test]
fn certbot_renews_what_clients_get() {
    requires_command("certbot");
    requires_command("pebble");
    typed("Let's Encrypt", &["HTTPS from a shell script"], |machine| {
        // An authority of this machine's own, as that of the page can't reach it.
        machine.type_in(
            r#"
            mkdir -p /run/acme /etc/letsencrypt /run/var && cd /run/acme
            for directory in /var/lib /var/log; do
                mkdir -p $directory/letsencrypt
                mount -t tmpfs tmpfs $directory/letsencrypt
            done
            openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -days 9 -subj /CN=localhost \
                -addext subjectAltName=DNS:localhost -keyout key -out certificate
            echo '{"pebble":{"listenAddress":"127.0.0.1:14000","managementListenAddress":"127.0.0.1:15000",
                "certificate":"certificate","privateKey":"key","httpPort":80,"tlsPort":443}}' > config
            printf 'server = https://localhost:14000/dir\nno-random-sleep-on-renew = true\n' > /etc/letsencrypt/cli.ini
            cat > ~/bin/certbot <<'END'
#!/bin/sh
REQUESTS_CA_BUNDLE=/run/acme/certificate exec /usr/bin/certbot "$@"
END
            chmod 755 ~/bin/certbot
            "#,
        );
        let authority = machine.shell("cd /run/acme && exec pebble -config config");
        let authority = authority.env("PEBBLE_VA_NOSLEEP", "1");
        let authority = authority.env("PEBBLE_WFE_NONCEREJECT", "0").start_bare();
        let ask = "curl --silent --cacert /run/acme/certificate https://localhost:14000/dir";
        authority.wait_until("the authority answers", || {
            machine.shell(ask).end().code() == Some(0)
        });
        authority
    });
}

#[test]
fn keys_that_all_can_read_are_refused() {
    typed("The files of keys", &[FIRST], |_| {});
}

#[test]
fn an_authority_of_ones_own_lets_clients_in() {
    typed("Certificates of clients", &[FIRST], |_| {});
}

#[test]
fn each_name_has_its_certificate() {
    typed("Several names and services", &[FIRST], |_| {});
}

#[test]
fn a_handler_has_the_session_in_its_environment() {
    typed("What a handler knows", &[FIRST], |_| {});
}

#[test]
fn mail_is_sent_and_read() {
    requires_command("exim4");
    requires_command("/usr/lib/dovecot/imap");
    typed("Mail", &[FIRST, "Certificates of clients"], |machine| {
        // The users that its configuration names, and a directory that the package has made.
        machine.type_in(
            "
            install -d /var/log/exim4
            useradd --system --uid $(stat -c %u /var/spool/exim4) Debian-exim
            useradd --system uucp && useradd --system mail
            chown Debian-exim /var/log/exim4
            ",
        );
    });
}

#[test]
fn a_plain_client_reaches_a_server_with_tls() {
    typed("A client with TLS", &[FIRST], |_| {});
}

#[test]
fn the_secrets_of_sessions_are_written_for_debugging() {
    typed("Watching it", &[FIRST], |_| {});
}

/// The first section of the page, whose certificate the others use.
const FIRST: &str = "A certificate of one's own";

/// A section of the page that has commands.
struct Section {
    title: String,
    blocks: Vec<Block>,
}

enum Block {
    /// Commands that succeed, and what they print; anything, if the page shows nothing.
    Commands {
        text: String,
        output: String,
    },
    /// Commands that go on until the end of the section.
    Server(String),
    File {
        path: String,
        text: String,
    },
}

fn sections() -> Vec<Section> {
    let page = fs::read_to_string("docs/tls.md").unwrap();
    let mut sections = page.split("\n## ");
    let introduction = sections.next().unwrap();
    assert!(!introduction.contains("```"), "commands without a section");
    sections.map(Section::read).collect()
}

impl Section {
    #[track_caller]
    fn of(title: &str) -> Self {
        let section = sections()
            .into_iter()
            .find(|section| section.title == title);
        section.unwrap_or_else(|| panic!("there is no section {title:?}"))
    }

    fn read(text: &str) -> Self {
        let blocks = text.split("```").skip(1).step_by(2);
        Self {
            title: text.lines().next().unwrap().to_owned(),
            blocks: blocks.map(Block::read).collect(),
        }
    }

    /// What is typed before its server is started.
    fn preparation(&self) -> impl Iterator<Item = &Block> {
        let is_server = |block: &&Block| !matches!(block, Block::Server(_));
        self.blocks.iter().take_while(is_server)
    }
}

impl Block {
    fn read(block: &str) -> Self {
        let (kind, text) = block.split_once('\n').unwrap();
        match kind.split(' ').collect::<Vec<_>>()[..] {
            ["sh"] => {
                let (output, commands): (Vec<_>, Vec<_>) =
                    text.lines().partition(|line| line.starts_with("# "));
                let output = output.iter().map(|line| format!("{}\n", &line[2..]));
                Self::Commands {
                    text: commands.join("\n"),
                    output: output.collect(),
                }
            }
            ["sh", "server"] => Self::Server(text.to_owned()),
            ["toml", path] => Self::File {
                path: path.to_owned(),
                text: text.to_owned(),
            },
            _ => panic!("a block that isn't tested: {block}"),
        }
    }

    /// Does what the block says. Returns its server.
    fn type_in(&self, machine: &Machine) -> Option<Running> {
        match self {
            Self::Commands { text, output } if output.is_empty() => {
                machine.type_in(text);
                None
            }
            Self::Commands { text, output } => {
                // skd may not have done yet what it was told by a signal.
                let began = Instant::now();
                loop {
                    let result = machine.shell(text).end();
                    if result.code() == Some(0) && result.stdout == *output {
                        return None;
                    }
                    let is_late = began.elapsed() > Duration::from_secs(10);
                    assert!(!is_late, "{text}\n\n{result:#?}");
                    thread::sleep(Duration::from_millis(100));
                }
            }
            Self::Server(text) => {
                let server = machine.shell(text).start_bare();
                server.wait_until("it serves", || {
                    let ours = Program::Ours.path().canonicalize().unwrap();
                    let is_ours = |pid: &i32| {
                        fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == ours)
                    };
                    let mut pids = descendants(server.pid());
                    pids.push(server.pid());
                    let skd = pids.into_iter().find(is_ours);
                    skd.is_some_and(|skd| sockets(skd).iter().any(Socket::is_open))
                });
                Some(server)
            }
            Self::File { path, text } => {
                fs::write(machine.namespace.path(path), text).unwrap();
                None
            }
        }
    }
}

/// Types a section on a machine that `prepare` has prepared, where what it returns is kept until the end, after what sections before it, `after`, have prepared.
#[track_caller]
fn typed<T>(title: &str, after: &[&str], prepare: impl Fn(&Machine) -> T) {
    requires_command("openssl");
    let machine = Machine::new();
    // The page's names, of which each is this machine.
    machine.type_in("echo '127.0.0.1 www.example.org mail.example.org' >> /etc/hosts");
    for (program, words) in [
        ("skd-tls", ["--package", "skd-tls"]),
        ("skdctl", ["--package", "skdctl"]),
    ] {
        symlink(built(&words, program), machine.bin().join(program)).unwrap();
    }
    let _runs_until_the_end = prepare(&machine);
    for section in after {
        for block in Section::of(section).preparation() {
            block.type_in(&machine);
        }
    }
    let blocks = Section::of(title).blocks;
    let servers: Vec<_> = blocks
        .iter()
        .filter_map(|block| block.type_in(&machine))
        .collect();
    for server in servers {
        let ended = server.try_wait(Duration::ZERO);
        assert_eq!(ended, None, "a server has ended");
    }
}
