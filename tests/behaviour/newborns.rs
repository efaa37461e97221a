//! Children that other processes stop or kill before their exec.

use crate::harness::{
    DEADLINE, Running, Skd, ask_udp, assert_idle, datagram_echo, stat_field, talk, threads,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

/// How many children an enemy hits: not so many that skd gives a client up.
const MOST: usize = 8;

/// A process of the handlers' user that stops each child of skd as long as that has the name of the thread that has
/// made it, which an exec changes, and kills it then if it is to. It counts the children that it has hit in time.
struct Enemy {
    skd: i32,
    signal: Signal,
    hits: AtomicUsize,
    ended: AtomicBool,
}

impl Enemy {
    /// Does `work` while the enemy is there, which is told how many children it has hit.
    fn beside(skd: &Running, signal: Signal, work: impl FnOnce(&AtomicUsize)) {
        let enemy = Self {
            skd: skd.pid(),
            signal,
            hits: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        };
        thread::scope(|scope| {
            scope.spawn(|| enemy.attack());
            // A failed assertion in it must not leave the enemy.
            struct End<'a>(&'a AtomicBool);
            impl Drop for End<'_> {
                fn drop(&mut self) {
                    self.0.store(true, Ordering::SeqCst);
                }
            }
            let _end = End(&enemy.ended);
            work(&enemy.hits);
        });
    }

    fn attack(&self) {
        let lists: Vec<String> = threads(self.skd)
            .into_iter()
            .map(|(thread, _)| format!("/proc/{}/task/{thread}/children", self.skd))
            .collect();
        while !self.ended.load(Ordering::SeqCst) && self.hits.load(Ordering::SeqCst) < MOST {
            for list in &lists {
                let text = fs::read_to_string(list).unwrap_or_default();
                for pid in text.split_whitespace().filter_map(|pid| pid.parse().ok()) {
                    self.attack_child(pid);
                }
            }
        }
    }

    fn attack_child(&self, pid: i32) {
        let is_newborn = || {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name == "skd\n" || name.starts_with("accept-")
        };
        if !is_newborn() {
            return;
        }
        let signal = |signal| {
            let _ = kill(Pid::from_raw(pid), signal);
        };
        signal(Signal::SIGSTOP);
        let state = || stat_field(pid, 3);
        let has_effect = || state().is_none_or(|state| ["T", "Z"].contains(&&*state));
        while !has_effect() && !self.ended.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        if !is_newborn() || self.hits.load(Ordering::SeqCst) >= MOST {
            // It is a handler by now, and goes on.
            signal(Signal::SIGCONT);
        } else if state().as_deref() == Some("T") {
            if self.signal == Signal::SIGKILL {
                signal(Signal::SIGKILL);
            }
            self.hits.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// skd that takes its time for a birth if the machine has something else to do, so that the enemy has its chance.
fn slow<const N: usize>(options: [&str; N]) -> Skd {
    Skd::new(options).wrapper(["nice", "-n", "19"])
}

/// Connects until the enemy has hit so many children, and expects an answer each time.
fn serve_until(skd: &Running, hits: &AtomicUsize, wanted: usize) {
    let begin = Instant::now();
    while hits.load(Ordering::SeqCst) < wanted {
        assert_eq!(talk(skd.connect(), b"served"), b"served");
        assert!(begin.elapsed() < 6 * DEADLINE, "the enemy hits nothing");
    }
}

#[test]
fn children_that_are_stopped_again_and_again_hold_up_no_thread() {
    let skd = slow(["--threads=1", "-t", "127.0.0.1:0"]).run("cat");
    Enemy::beside(&skd, Signal::SIGSTOP, |hits| serve_until(&skd, hits, 4));
    skd.wait_for_log("was stopped before its exec");
    assert_eq!(talk(skd.connect(), b"served"), b"served");
    skd.wait_until("none is left", || skd.children().is_empty());
    assert_idle(&[skd.pid()]);
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn the_main_thread_is_not_held_up_either() {
    let (prog, args) = datagram_echo();
    let skd = slow(["-u", "127.0.0.1:0"]).run_with(prog, args);
    Enemy::beside(&skd, Signal::SIGSTOP, |hits| {
        let begin = Instant::now();
        while hits.load(Ordering::SeqCst) < 3 {
            assert_eq!(ask_udp(skd.address(), b"served"), b"served");
            assert!(begin.elapsed() < 6 * DEADLINE, "the enemy hits nothing");
        }
    });
    skd.wait_for_log("was stopped before its exec");
    // It reads signals.
    assert_eq!(skd.stop().code(), Some(0));
}

#[test]
fn a_client_whose_handler_is_killed_before_its_exec_gets_another() {
    let skd = slow(["-v", "--threads=1", "-t", "127.0.0.1:0"]).run("cat");
    let mut lost = 0;
    Enemy::beside(&skd, Signal::SIGKILL, |hits| {
        let begin = Instant::now();
        while hits.load(Ordering::SeqCst) < MOST {
            let mut stream = skd.connect();
            let _ = stream.write_all(b"served");
            let _ = stream.shutdown(Shutdown::Write);
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            lost += usize::from(answer != b"served");
            assert!(begin.elapsed() < 6 * DEADLINE, "the enemy hits nothing");
        }
    });
    assert_eq!(talk(skd.connect(), b"served"), b"served");
    assert_eq!(skd.stop().code(), Some(0));
    // skd may have continued a child before it was killed, so that it was a handler after all.
    println!("{lost} lost");
    assert!(lost <= MOST / 4, "{lost} lost");
    assert!(lost <= skd.logged("terminated by signal 9").len());
}
