//! The live view in a real terminal: tmux's.

use std::fs;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use skd_control::Request;

use crate::fake::{FakeSkd, prepared, program};

/// A terminal with a shell in it.
struct Screen {
    directory: tempfile::TempDir,
}

impl Screen {
    /// Starts a shell in a terminal of this size.
    fn new(columns: u16, rows: u16) -> Self {
        let screen = Self {
            directory: tempfile::tempdir().unwrap(),
        };
        let (columns, rows) = (columns.to_string(), rows.to_string());
        screen.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            &columns,
            "-y",
            &rows,
            "env PS1='ready> ' bash --norc --noprofile -i",
        ]);
        screen.wait_for(|text| text.starts_with("ready>"));
        screen
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut tmux = Command::new("tmux");
        tmux.arg("-S")
            .arg(self.directory.path().join("tmux"))
            .args(words);
        // The tests may run in a terminal of tmux themselves.
        tmux.env_remove("TMUX")
            .env("LC_ALL", "C.UTF-8")
            .env_remove("NO_COLOR");
        tmux.output().expect("tmux is needed: see .ci/packages")
    }

    #[track_caller]
    fn tmux(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Types keys as tmux names them.
    fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    fn text(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// Waits for what the screen shows.
    #[track_caller]
    fn wait_for(&self, shown: impl Fn(&str) -> bool) -> String {
        let started = Instant::now();
        loop {
            let text = self.text();
            if shown(&text) {
                return text;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{text}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Starts the live view, and waits for it.
    #[track_caller]
    fn top(&self, fake: &FakeSkd) {
        let command = format!(
            "{} -s {} top -i 100ms; echo ended: $?",
            program().display(),
            fake.path().display()
        );
        self.keys(&[&command, "Enter"]);
        self.wait_for(|text| text.contains("skd 9.8.7") && text.contains("192.0.2.2:4000"));
    }

    /// The process id of the live view.
    fn pid(&self) -> String {
        let shell = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let shell = shell.trim();
        let children = fs::read_to_string(format!("/proc/{shell}/task/{shell}/children")).unwrap();
        children.trim().to_owned()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

#[test]
fn services_and_handlers_are_shown_in_any_size() {
    let fake = FakeSkd::start(prepared);
    let screen = Screen::new(80, 24);
    screen.top(&fake);
    let all = [
        "Services  2 in configured order",
        "Handlers  3 by oldest",
        "? more\n",
    ];
    screen.wait_for(|text| all.iter().all(|part| text.contains(part)));
    screen.tmux(&["resize-window", "-x", "200", "-y", "50"]);
    screen.wait_for(|text| text.contains("LISTENERS") && text.contains("127.0.0.1:80\n"));
    screen.tmux(&["resize-window", "-x", "30", "-y", "5"]);
    screen.wait_for(|text| text.contains("needs 60x12."));
    screen.tmux(&["resize-window", "-x", "80", "-y", "24"]);
    screen.wait_for(|text| text.contains("Handlers  3 by oldest"));
    // No more is asked for than is shown.
    for request in fake.requests() {
        match request {
            Request::Status { .. } => {}
            Request::Handlers(query) => assert!(query.limit.unwrap() <= 50),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn keys_act_once_they_are_confirmed() {
    let fake = FakeSkd::start(prepared);
    let screen = Screen::new(80, 24);
    screen.top(&fake);
    screen.keys(&["Down", "D"]);
    screen.wait_for(|text| text.contains("Drain mail ("));
    screen.keys(&["n"]);
    screen.wait_for(|text| text.contains("nothing was done"));
    assert_eq!(fake.acts(), []);
    screen.keys(&["Tab", "Down", "K"]);
    screen.wait_for(|text| text.contains("Kill handler 5001 of web (192.0.2.1:4000)?"));
    screen.keys(&["y"]);
    screen.wait_for(|text| text.contains("it was done"));
    let kill = Request::Kill {
        pid: Some(5001),
        source: None,
        service: None,
    };
    assert_eq!(fake.acts(), [kill]);
}

#[test]
fn the_terminal_is_given_back() {
    let fake = FakeSkd::start(prepared);
    let screen = Screen::new(80, 24);
    screen.top(&fake);
    screen.keys(&["q"]);
    screen.wait_for(|text| text.contains("ended: 0") && !text.contains("Services"));
    for signal in ["TERM", "INT", "HUP"] {
        screen.keys(&["clear", "Enter"]);
        screen.top(&fake);
        let killed = Command::new("kill")
            .args(["-s", signal, &screen.pid()])
            .status();
        assert!(killed.unwrap().success());
        screen.wait_for(|text| text.contains("ended: 0") && !text.contains("Services"));
        // What is typed is shown again.
        screen.keys(&["stty -a | grep -o ' icanon'", "Enter"]);
        screen.wait_for(|text| text.contains("\n icanon\n"));
    }
}

#[test]
fn it_can_be_stopped_for_a_while() {
    let fake = FakeSkd::start(prepared);
    let screen = Screen::new(80, 24);
    screen.top(&fake);
    screen.keys(&["C-z"]);
    screen.wait_for(|text| text.contains("Stopped") && !text.contains("Services"));
    screen.keys(&["fg", "Enter"]);
    screen.wait_for(|text| text.contains("Services  2") && text.contains("192.0.2.2:4000"));
    screen.keys(&["q"]);
    screen.wait_for(|text| !text.contains("Services"));
}

#[test]
fn a_skd_that_is_gone_is_asked_again() {
    let fake = FakeSkd::start(prepared);
    let other = fake.path().with_file_name("moved");
    let screen = Screen::new(80, 24);
    // The socket isn't there yet.
    fs::rename(fake.path(), &other).unwrap();
    let command = format!(
        "{} -s {} top -i 100ms",
        program().display(),
        fake.path().display()
    );
    screen.keys(&[&command, "Enter"]);
    screen.wait_for(|text| text.contains("Asking again: no skd answers at "));
    fs::rename(&other, fake.path()).unwrap();
    screen.wait_for(|text| text.contains("skd 9.8.7") && !text.contains("Asking again"));
}
