//! A machine of a test's own, as far as skd and its clients can tell.

use super::{Directory, Namespace, Program, Skd, requires_root};
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

/// A timeout for all commands of a client, longer than that of single steps.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The users of every machine, with their ids and homes. sshd runs as its own before a login, haproxy for good.
const USERS: [(&str, u32, &str); 3] = [
    ("sshd", 100, "/run/sshd"),
    ("haproxy", 101, "/nonexistent"),
    ("nobody", 65534, "/nonexistent"),
];

/// The names of a machine, and the one address of each.
pub const HOSTS: [(&str, &str); 2] = [
    ("ipv4.example.org", "127.0.0.1"),
    ("ipv6.example.org", "::1"),
];

/// A machine with skd in PATH, hardly any users, and a network and directories of its own.
#[derive(Debug)]
pub struct Machine {
    pub namespace: Namespace,
    /// The home of root, which others can't enter.
    home: Directory,
}

impl Machine {
    pub fn new() -> Self {
        requires_root();
        let namespace = Namespace::new();
        namespace.private_dev();
        for directory in ["/run", "/srv", "/home", "/var/log"] {
            namespace.tmpfs(directory);
        }
        // Users are added there.
        namespace.shell("mkdir /run/etc && cp -a /etc/. /run/etc && mount --bind /run/etc /etc");
        let home = Directory::new();
        let mut passwd = format!("root:x:0:0::{}:/bin/sh\n", home.path().display());
        let mut group = "root:x:0:\n".to_owned();
        let mut shadow = "root:*:1::::::\n".to_owned();
        for (name, id, home) in USERS {
            shadow.push_str(&format!("{name}:*:1::::::\n"));
            passwd.push_str(&format!("{name}:x:{id}:{id}::{home}:/bin/sh\n"));
            group.push_str(&format!("{name}:x:{id}:\n"));
        }
        let hosts = HOSTS.map(|(name, address)| format!("{address} {name}\n"));
        let hosts = format!("{}127.0.0.1 localhost\n", hosts.concat());
        for (name, text) in [
            ("hosts", hosts),
            ("passwd", passwd),
            ("group", group),
            ("shadow", shadow),
            ("gshadow", String::new()),
        ] {
            fs::write(namespace.path(format!("/etc/{name}")), text).unwrap();
        }
        fs::create_dir(home.join("bin")).unwrap();
        symlink(Program::Ours.path(), home.join("bin/skd")).unwrap();
        Self { namespace, home }
    }

    /// The directory of its own programs.
    pub fn bin(&self) -> std::path::PathBuf {
        self.home.join("bin")
    }

    /// Gives root a key that alice's account accepts, as the page says.
    pub fn let_root_in(&self) {
        let keys = "
            install -d -m 700 ~/.ssh
            ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519
            cat ~/.ssh/id_ed25519.pub >> ~alice/.ssh/authorized_keys
        ";
        self.type_in(keys);
    }

    /// A login shell of root, without the environment of the tests.
    pub fn shell(&self, text: &str) -> Skd {
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
    pub fn type_in(&self, text: &str) -> String {
        let output = self.shell(text).end();
        output.expect_code(0);
        output.stdout
    }
}
