//! What is attacked: one skd or several, and how an attack on it is run.

use crate::harness::{
    Conversation, Directory, Running, Skd, exists, relays, requires_command, requires_root,
    slowness, try_talk, udp_client, wait_until,
};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

const PRELUDE: &str = include_str!("prelude.py");
const LOCAL: &str = include_str!("local.py");
const HANDLER: &str = include_str!("handler.py");
const CLIENT: &str = include_str!("client.py");

/// The user and group of handlers.
pub const HANDLERS: &str = "61246:61246";
/// A user and group of handlers that signal every process of their user: those of no other test.
pub fn user_alone(number: u32) -> String {
    let id = 0x10_0000 + 4 * std::process::id() + number;
    format!("{id}:{id}")
}

/// The user that attacks.
pub const STRANGER: u32 = 1;

/// Where Python is for all users.
pub const PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin";

/// Which process attacks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Attacker {
    /// One of this user.
    Local(u32),
    /// A handler.
    Handler,
    /// One on the network.
    Client,
}

/// Where honest clients come, and attacks go to.
#[derive(Clone, Debug)]
pub enum Served {
    Tcp,
    Udp,
    /// TCP, behind a PROXY header.
    Header,
    /// Only users that the attack chooses are served.
    Peers(String),
    /// TCP, for another program than that of attacks.
    Silent,
}

/// A skd that is attacked, and others beside it.
pub struct Scene {
    pub directory: Directory,
    pub skd: Running,
    others: Vec<Running>,
    attacker: Attacker,
    /// More of the context of attacks.
    context: Vec<(&'static str, String)>,
    served_at: Served,
    pid: i32,
}

/// A directory in which all may write, with the programs of attacks in it.
pub fn directory() -> Directory {
    requires_root();
    requires_command("python3");
    requires_command("setpriv");
    let directory = Directory::public();
    directory.write(
        "attacks.py",
        [PRELUDE, HANDLER, "main(ATTACKS, request())\n"].concat(),
    );
    let run = "main(ATTACKS, json.loads(sys.argv[1]))\n";
    directory.write("local.py", [PRELUDE, LOCAL, run].concat());
    directory.write("client.py", [PRELUDE, CLIENT, run].concat());
    std::fs::create_dir(directory.join("sticky")).unwrap();
    let mode = std::fs::Permissions::from_mode(0o1777);
    std::fs::set_permissions(directory.join("sticky"), mode).unwrap();
    directory
}

impl Scene {
    /// A skd on TCP with these options, whose handlers run attacks.
    pub fn tcp(attacker: Attacker, options: &[&str]) -> Self {
        let directory = directory();
        let skd = Skd::new(["-v", "-t", "127.0.0.1:0"]).args(options);
        Self::of(attacker, directory, skd)
    }

    /// A skd with these options.
    pub fn of(attacker: Attacker, directory: Directory, skd: Skd) -> Self {
        let program = directory.name("attacks.py");
        let skd = skd
            .env("PATH", PATH)
            .throttle(Duration::ZERO)
            .run_with("/usr/bin/python3", ["-SEs", &program]);
        Self::beside(attacker, directory, skd)
    }

    /// A skd that runs already.
    pub fn beside(attacker: Attacker, directory: Directory, skd: Running) -> Self {
        let pid = skd.pid();
        Self {
            directory,
            skd,
            others: Vec::new(),
            attacker,
            context: Vec::new(),
            served_at: Served::Tcp,
            pid,
        }
    }

    /// Serves otherwise than on TCP.
    pub fn at(mut self, served_at: Served) -> Self {
        self.served_at = served_at;
        self
    }

    /// Keeps another skd.
    pub fn and(mut self, other: Running) -> Self {
        self.others.push(other);
        self
    }

    pub fn with(mut self, name: &'static str, value: impl std::fmt::Display) -> Self {
        self.context
            .push((name, format!("{:?}", value.to_string())));
        self
    }

    pub fn with_number(mut self, name: &'static str, value: impl std::fmt::Display) -> Self {
        self.context.push((name, value.to_string()));
        self
    }

    /// The context of an attack, as JSON.
    fn context(&self, function: &str) -> String {
        let relay = relays(&self.skd).first().copied().unwrap_or(self.pid);
        let mut text = format!(
            "{{\"attack\": {function:?}, \"skd\": {}, \"relay\": {relay}",
            self.pid
        );
        match &self.served_at {
            Served::Tcp | Served::Header | Served::Silent => {
                text += &format!(", \"port\": {}", self.skd.port())
            }
            Served::Udp => text += &format!(", \"udp\": {}", self.skd.port()),
            Served::Peers(path) => text += &format!(", \"path\": {path:?}"),
        }
        for (name, value) in &self.context {
            text += &format!(", {name:?}: {value}");
        }
        text + "}"
    }

    /// Runs an attack, with something beside it, and returns what it has met.
    pub fn attack(&self, function: &str, beside: fn(&Self)) -> String {
        let context = self.context(function);
        let answer = match self.attacker {
            Attacker::Handler => {
                let request = format!("{context}\n");
                self.ask(self.skd.connect(), &request, beside)
            }
            Attacker::Local(uid) => {
                let id = uid.to_string();
                let mut command = Command::new("setpriv");
                command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
                self.run(command, "local.py", &context, beside)
            }
            Attacker::Client => self.run(Command::new("env"), "client.py", &context, beside),
        };
        String::from_utf8_lossy(&answer).into_owned()
    }

    /// The attack of a user on a client's path.
    pub fn attack_as(&self, uid: u32, function: &str) -> String {
        let id = uid.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]);
        let answer = self.run(command, "client.py", &self.context(function), |_| ());
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn run(&self, mut command: Command, file: &str, context: &str, beside: fn(&Self)) -> Vec<u8> {
        command
            .args(["/usr/bin/python3", "-SEs"])
            .arg(self.directory.join(file))
            .arg(context);
        command
            .env("PATH", PATH)
            .current_dir("/")
            .stdin(Stdio::null());
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("an attack");
        beside(self);
        let output = child.wait_with_output().expect("an attack");
        if !output.stderr.is_empty() {
            eprintln!("{}", String::from_utf8_lossy(&output.stderr));
        }
        output.stdout
    }

    fn ask(&self, stream: impl Conversation, request: &str, beside: fn(&Self)) -> Vec<u8> {
        let mut stream = stream;
        stream.write_all(request.as_bytes()).unwrap();
        beside(self);
        let mut answer = Vec::new();
        // Some attacks end in a reset.
        let _ = stream.read_to_end(&mut answer);
        answer
    }

    /// An honest client is served, by the same skd.
    #[track_caller]
    pub fn assert_served(&self) {
        assert!(
            exists(self.pid) && self.skd.pid() == self.pid,
            "skd has ended"
        );
        let request = b"{\"attack\": \"echo\"}\n";
        wait_until("an honest client is served", || {
            // What kills handlers may hit this one too.
            let answer = match &self.served_at {
                Served::Tcp => try_talk(self.skd.connect(), request),
                Served::Peers(_) | Served::Silent => return true,
                Served::Header => try_talk(
                    self.skd.connect(),
                    &[b"PROXY UNKNOWN\r\n", &request[..]].concat(),
                ),
                Served::Udp => {
                    let client = udp_client(self.skd.address());
                    let timeout = Duration::from_secs(1) * slowness();
                    client.set_read_timeout(Some(timeout)).unwrap();
                    let mut answer = vec![0; 4];
                    client
                        .send(b"echo")
                        .and_then(|_| client.recv(&mut answer))
                        .map(|_| answer)
                }
            };
            answer.is_ok_and(|answer| answer == b"echo")
        });
    }
}
