//! The commands of docs/tutorial.md, docs/sandbox.md and the README's tour, run as they are printed, as root on a
//! machine of their own: those of the first two in order in one directory, and each example of the tour in an empty one.
//!
//! A block of `sh` has commands that end, and must succeed. Before the line `# In another terminal:`, the last
//! command is a server: the previous server gets SIGINT, as by Ctrl-C, and the new one is started. Lines of comment at
//! the end of a block are its output. Other blocks:
//!
//! | block | is |
//! | --- | --- |
//! | `sh server` | a server and nothing else |
//! | `sh fails` | commands of which the last must fail |
//! | `sh ends` | commands before which the server is stopped |
//! | `text log` | the first lines of the server's log |
//! | `text` | no command |
//! | `toml` | a service file that skd can read |
//!
//! Numbers may differ from the printed ones.

use crate::harness::{
    Directory, Namespace, Program, Running, Skd, Socket, Syslog, descendants, requires_command,
    requires_root, skd_tls, sockets,
};
use nix::sys::signal::Signal;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::Duration;

/// Separates a server from the commands of its clients.
const OTHER_TERMINAL: &str = "# In another terminal:\n";

/// Replaces systemctl(1) where systemd doesn't run: the unit is checked by systemd-analyze(1), and ExecStart=
/// is started in the background with its log in a file. Other settings of the unit have no effect here.
const SYSTEMCTL: &str = r#"#!/bin/sh -e
unit=/etc/systemd/system/greet.service
case "$*" in
    daemon-reload)
        systemd-analyze verify --man=no $unit
        ;;
    "enable --now greet")
        line=$(sed -n 's/^ExecStart=//p' $unit)
        ${line%% *} -B -P /run/greet.pid -L '>>/run/greet.log' ${line#* }
        ;;
    "reload greet")
        kill -HUP $(cat /run/greet.pid)
        ;;
    "disable --now greet")
        kill $(cat /run/greet.pid)
        # Emptied at the end: nobody may not remove it.
        while [ -s /run/greet.pid ]; do sleep 0.01; done
        ;;
    *)
        exit 1
        ;;
esac
"#;

/// The same for `journalctl -u greet -o cat --grep WORD`.
const JOURNALCTL: &str = "#!/bin/sh\ngrep \"$6\" /run/greet.log | sed 's/^[^ ]* //'\n";

#[test]
fn the_tutorial_works_as_printed() {
    requires_command("systemd-analyze");
    let page = fs::read_to_string("docs/tutorial.md").unwrap();
    let mut machine = Machine::new();
    machine.programs.script("systemctl", SYSTEMCTL);
    machine.programs.script("journalctl", JOURNALCTL);
    machine.type_all(&page);
}

#[test]
fn the_page_about_sandboxes_works_as_printed() {
    requires_command("busybox");
    requires_command("curl");
    requires_command("cc");
    requires_command("unshare");
    requires_command("pgrep");
    let page = fs::read_to_string("docs/sandbox.md").unwrap();
    Machine::new().type_all(&page);
}

#[test]
fn the_tour_works_as_printed() {
    requires_command("busybox");
    requires_command("curl");
    requires_command("openssl");
    requires_command("perl");
    requires_command("python3");
    let readme = fs::read_to_string("README.md").unwrap();
    let (_, tour) = readme.split_once("\n## A tour\n").unwrap();
    let (tour, _) = tour.split_once("\n## ").unwrap();
    let mut machine = Machine::new();
    let skdctl = machine.programs.join("skdctl");
    symlink(crate::ctl::program(), skdctl).unwrap();
    symlink(skd_tls(), machine.programs.join("skd-tls")).unwrap();
    machine.starts_empty = true;
    machine.type_all(tour);
}

/// A machine with skd installed, a system log, and a network and directories of its own.
struct Machine {
    namespace: Namespace,
    _syslog: Syslog,
    /// In PATH.
    programs: Directory,
    /// The directory in which commands are typed, and earlier ones.
    directory: Directory,
    earlier: Vec<Directory>,
    /// Whether each block is typed in an empty directory.
    starts_empty: bool,
    server: Option<Running>,
    /// Shells that have ended, and may have left daemons.
    shells: Vec<Running>,
}

impl Machine {
    fn new() -> Self {
        requires_root();
        requires_command("socat");
        let namespace = Namespace::new();
        namespace.private_dev();
        for directory in ["/run", "/usr/local/bin", "/etc/systemd/system"] {
            namespace.tmpfs(directory);
        }
        let path = Program::Ours.path().canonicalize().unwrap();
        let words = [
            "install".as_ref(),
            path.as_os_str(),
            "/usr/local/bin".as_ref(),
        ];
        namespace.run(words);
        let syslog = Syslog::bind(namespace.path("/dev/log"));
        Self {
            namespace,
            _syslog: syslog,
            programs: Directory::new(),
            directory: Directory::public(),
            earlier: Vec::new(),
            starts_empty: false,
            server: None,
            shells: Vec::new(),
        }
    }

    fn type_all(&mut self, page: &str) {
        for block in page.split("```").skip(1).step_by(2) {
            println!("{block}");
            if self.starts_empty {
                let earlier = std::mem::replace(&mut self.directory, Directory::public());
                self.earlier.push(earlier);
            }
            let (kind, text) = block.split_once('\n').unwrap();
            match (kind, text.split_once(OTHER_TERMINAL)) {
                ("sh", Some((server, client))) => {
                    self.serve(server);
                    self.type_in(client, true);
                }
                ("sh", None) => self.type_in(text, true),
                ("sh server", _) => self.serve(text),
                ("sh fails", _) => self.type_in(text, false),
                ("sh ends", _) => {
                    self.stop();
                    self.type_in(text, true);
                }
                ("text log", _) => self.logs(text),
                ("text", _) => {}
                ("toml", _) => {
                    self.directory.write("printed.toml", text);
                    self.type_in("skd --config printed.toml --print-config >printed", true);
                }
                _ => panic!("```{kind}"),
            }
        }
        self.stop();
    }

    fn shell(&self, text: &str) -> Running {
        let (programs, path) = (
            self.programs.path().display(),
            "/usr/local/bin:/usr/bin:/bin",
        );
        Skd::new(["-ec", text])
            .binary("/bin/sh")
            .inside(&self.namespace)
            .cwd(self.directory.path())
            .env("PATH", format!("{programs}:{path}:/usr/sbin:/sbin"))
            .deadline(Duration::from_secs(30))
            .start_bare()
    }

    /// Runs commands to the end. Their output must be as printed, if it is.
    #[track_caller]
    fn type_in(&mut self, commands: &str, succeeds: bool) {
        let shell = self.shell(commands);
        let output = shell.wait_with_output();
        assert_eq!(output.code() == Some(0), succeeds, "{output:#?}");
        self.shells.push(shell);
        // Some programs show progress on a stderr that is no terminal.
        let shown = match output.stdout.is_empty() {
            true => output.stderr,
            false => output.stdout,
        };
        let printed = output_of(commands);
        if !printed.is_empty() {
            assert_eq!(without_numbers(&shown), without_numbers(&printed));
        }
    }

    /// Stops the previous server, starts a server, and waits until it serves.
    #[track_caller]
    fn serve(&mut self, text: &str) {
        self.stop();
        let shell = self.shell(text);
        let serves = |pid: i32| sockets(pid).iter().any(Socket::is_open);
        shell.wait_until("it serves", || {
            skd(&shell).is_some_and(|pid| serves(pid) || shell.logged("Started ").len() == 1)
        });
        self.server = Some(shell);
    }

    #[track_caller]
    fn stop(&mut self) {
        let Some(shell) = self.server.take() else {
            return;
        };
        let pid = skd(&shell).expect("a server that runs");
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGINT);
        shell.wait();
    }

    #[track_caller]
    fn logs(&self, text: &str) {
        let server = self.server.as_ref().expect("a server");
        let wanted = without_numbers(text);
        server.wait_until(&wanted, || {
            let lines = server.log_lines().join("\n");
            without_numbers(&lines).starts_with(wanted.trim_end())
        });
    }
}

/// The process of skd below a shell, or that the shell has become.
fn skd(shell: &Running) -> Option<i32> {
    let shell = shell.pid();
    let mut pids = [shell].into_iter().chain(descendants(shell));
    pids.find(|pid| {
        let exe = fs::read_link(format!("/proc/{pid}/exe"));
        exe.is_ok_and(|exe| exe.as_os_str() == "/usr/local/bin/skd")
    })
}

/// The lines of comment at the end.
fn output_of(commands: &str) -> String {
    let lines: Vec<_> = commands.lines().collect();
    let code = lines.iter().rposition(|line| !line.starts_with("# "));
    let lines = &lines[code.map_or(0, |last| last + 1)..];
    lines
        .iter()
        .map(|line| format!("{}\n", &line[2..]))
        .collect()
}

/// Replaces each number by a 0.
fn without_numbers(text: &str) -> String {
    let mut result = String::new();
    for letter in text.chars() {
        match letter.is_ascii_digit() {
            true if result.ends_with('0') => {}
            true => result.push('0'),
            false => result.push(letter),
        }
    }
    result
}
