//! Failing system calls: each call of skd, with the errnos that its manual page allows.
//!
//! [`table::TABLE`] says what must happen then, and [`table::NEEDLESS`] which calls need no row, and why. A call in
//! neither fails a test. strace(1) makes the calls fail: a whole start runs under it, or it is attached to a
//! daemon that serves.

mod others;
mod serving;
mod starts;
mod table;

use crate::harness::{
    Directory, Running, assert_idle, poll_for, stat_field, status_field, threads, wait_until,
};
use starts::injection;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;
use table::{Phase, Row};

/// Runs a test of each of these, several at once because each mostly waits, and reports all failures.
fn on_each<T: Debug + Sync>(items: &[T], test: impl Fn(&T) + Sync) {
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if catch_unwind(AssertUnwindSafe(|| test(item))).is_err() {
                        failed.lock().unwrap().push(item);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(
        failed.is_empty(),
        "{} of {}: {failed:#?}",
        failed.len(),
        items.len()
    );
}

/// A strace(1) of all threads of a process, which makes calls of it fail until it is dropped.
struct Tampering {
    strace: Child,
    own: Directory,
}

impl Tampering {
    /// Returns when strace is attached to the process.
    fn with(pid: i32, row: &Row, errno: &str, _log: &Directory) -> Self {
        let own = Directory::new();
        let mut command = Command::new("strace");
        command.args(["-qq", "-o", &own.name("trace")]);
        let calls: Vec<&str> = row.calls().collect();
        command.args(injection(&calls.join(","), errno, row.when));
        if row.calls.ends_with("@log") {
            // skd writes to the pipe of the relay.
            let pipe = std::fs::read_link(format!("/proc/{pid}/fd/2")).unwrap();
            command.arg("-P").arg(pipe);
        }
        let threads: Vec<i32> = threads(pid).into_iter().map(|(it, _)| it).collect();
        if row.phase == Phase::Newborn {
            // All threads, and their children.
            command.args(["-f", "-p", &pid.to_string()]);
        } else {
            for thread in &threads {
                command.args(["-p", &thread.to_string()]);
            }
        }
        let mut tampering = Self {
            strace: command.spawn().unwrap(),
            own,
        };
        let strace = i32::try_from(tampering.strace.id()).unwrap();
        wait_until("strace has attached to it and waits", || {
            if tampering.strace.try_wait().unwrap().is_some() {
                // The fault has ended the process already.
                assert!(tampering.count() > 0, "strace can't attach");
                return true;
            }
            // A thread that closes descriptors may be gone by then.
            let held = |&thread: &i32| {
                status_field(thread, "TracerPid").is_none_or(|tracer| tracer == strace.to_string())
            };
            threads.iter().all(held) && stat_field(strace, 3).is_some_and(|state| state == "S")
        });
        tampering
    }

    fn count(&self) -> usize {
        self.own.read("trace").matches("(INJECTED)").count()
    }

    fn wait_for_fault(&self) {
        wait_until("a call fails", || self.count() > 0);
    }

    /// Detaches when the next call of this kind has just failed, if there is one soon: in the middle of a call, strace
    /// would leave it with ENOSYS.
    fn end(self) -> String {
        let before = self.count();
        poll_for(Duration::from_millis(500), || {
            (self.count() > before).then_some(())
        });
        self.own.read("trace")
    }
}

impl Drop for Tampering {
    fn drop(&mut self) {
        // Its threads are detached with it.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// Asserts that a lasting fault keeps neither process busy, and that skd continues.
#[track_caller]
fn expect_calm(skd: &Running, pid: i32) {
    assert_idle(&[pid]);
    assert_eq!(skd.try_wait(Duration::ZERO), None);
}
