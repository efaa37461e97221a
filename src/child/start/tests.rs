//! Descriptors that a plan owns, in children that are made in each way.
//!
//! Each test runs in a forked process, whose low descriptors are its own.

use std::fs::{self, File};
use std::io::{PipeWriter, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::child::environment::Variables;
use crate::child::plan::{Preparation, Role};
use crate::child::spawn::SpawnError;
use crate::child::{Method, Pidfds, Plan, Spawner};
use crate::config::Surroundings;
use crate::sys::child::{self, ChildStack, CloneCall, Descriptors, Launch, Stage, Step};
use crate::sys::descriptors::{Low, Reserved, copy_above};
use crate::sys::process::{self, Fork, Target, Wait};

/// A forked process, which reports a failed assertion through the pipe.
fn in_a_process_of_its_own(test: impl FnOnce(&PipeWriter)) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    match process::fork().unwrap() {
        Fork::Child => {
            nix::unistd::alarm::set(60);
            // Above the numbers that will be reserved.
            let mut writer: PipeWriter = copy_above(writer, 64).unwrap().into();
            if let Err(why) = catch_unwind(AssertUnwindSafe(|| test(&writer))) {
                let text = why.downcast_ref::<String>().cloned();
                let text = text.unwrap_or_else(|| "a test failed".to_owned());
                let _ = writer.write_all(text.as_bytes());
            }
            process::exit_now(0);
        }
        Fork::Parent(pid) => {
            drop(writer);
            let mut failure = String::new();
            reader.read_to_string(&mut failure).unwrap();
            let end = process::wait(Target::Process(pid), Wait::UNTIL_END).unwrap();
            assert_eq!(failure, "");
            let ended = process::Change::Ended(process::Ended::Exited(0));
            assert_eq!(end.map(|(_, change)| change), Some(ended));
        }
    }
}

/// A plan that owns a directory, in which its program starts.
struct Fixture {
    reserved: Reserved,
    directory: tempfile::TempDir,
    plan: Plan,
}

impl Fixture {
    fn new(kept: &PipeWriter) -> Self {
        let mut reserved = Reserved::take(16, &[kept], None).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let opened = File::open(directory.path()).unwrap();
        let opened = reserved.own(opened.into()).unwrap();
        assert_eq!(opened.as_raw_fd(), 3);
        let mut plan = plan_of_cat();
        plan.own(opened, Step::EnterDirectory).unwrap();
        Self {
            reserved,
            directory,
            plan,
        }
    }

    fn methods(low: Low) -> impl Iterator<Item = Method> {
        let calls = [CloneCall::find(), CloneCall::Clone];
        calls.into_iter().flat_map(move |call| {
            [Descriptors::Unshare(low), Descriptors::Copy(low)].map(|descriptors| Method {
                call,
                descriptors,
                pidfds: Pidfds::Clone,
            })
        })
    }

    fn expect_program(&self, pid: Pid) {
        let directory = fs::read_link(format!("/proc/{pid}/cwd")).unwrap();
        assert_eq!(directory, self.directory.path().canonicalize().unwrap());
        assert_eq!(descriptors_of(pid), [0, 1, 2]);
    }
}

fn plan_of_cat() -> Plan {
    let path = ("PATH".into(), "/bin:/usr/bin".into());
    let variables = Variables::of([path], None, &[]);
    let surroundings = Surroundings::default();
    let preparation = Preparation {
        surroundings: &surroundings,
        role: Role::Handler { terminal: false },
        files: None,
        user: None,
        as_peer: false,
        root: None,
        is_elsewhere: false,
        filter: None,
    };
    Plan::new(&[c"cat".into()], &variables, preparation).unwrap()
}

fn descriptors_of(pid: Pid) -> Vec<RawFd> {
    let names = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name());
    let mut numbers: Vec<RawFd> = names
        .map(|name| name.to_str().unwrap().parse().unwrap())
        .collect();
    numbers.sort_unstable();
    numbers
}

fn connection() -> (UnixStream, OwnedFd) {
    let (client, server) = UnixStream::pair().unwrap();
    (client, server.into())
}

fn reap(pid: Pid) {
    process::wait(Target::Process(pid), Wait::UNTIL_END).unwrap();
}

#[test]
fn a_step_uses_what_the_plan_owns_and_the_program_does_not_have_it() {
    in_a_process_of_its_own(|kept| {
        let mut fixture = Fixture::new(kept);
        let low = fixture.reserved.low(4).unwrap();
        // As at every start.
        let probed = Method::probe(&fixture.plan, low).unwrap();
        assert!(Fixture::methods(low).any(|method| method == probed));
        for method in Fixture::methods(low) {
            let slot = fixture.reserved.slot().unwrap();
            let mut spawner = Spawner::new(method, slot).unwrap();
            let (mut client, server) = connection();
            spawner.hold(&server).unwrap();
            drop(server);
            let mut environment = fixture.plan.environment();
            let spawned = spawner.launch(&fixture.plan, None, &mut environment);
            let spawned = spawned.unwrap();
            spawner.release();
            fixture.expect_program(spawned.pid);
            client.write_all(b"served").unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            client.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "served");
            reap(spawned.pid);
        }
    });
}

#[test]
fn connections_of_other_threads_are_closed_before_the_steps() {
    in_a_process_of_its_own(|kept| {
        let mut fixture = Fixture::new(kept);
        let low = fixture.reserved.low(5).unwrap();
        let other = fixture.reserved.slot().unwrap();
        let number = other.as_raw_fd();
        // A step of its own sees whether it is open.
        let unused = File::open("/").unwrap().into();
        let step = Step::Descriptor(number, 40);
        fixture.plan.own(unused, |_| step).unwrap();
        let steps = fixture.plan.steps();
        let index = steps
            .iter()
            .position(|step| matches!(step, Step::Descriptor(..)));
        for method in Fixture::methods(low) {
            let slot = fixture.reserved.slot().unwrap();
            let mut spawner = Spawner::new(method, slot).unwrap();
            let (_client, server) = connection();
            spawner.hold(&server).unwrap();
            let mut environment = fixture.plan.environment();
            let failure = spawner.launch(&fixture.plan, None, &mut environment);
            match failure {
                Err(SpawnError::Failed(Stage::Step(at), Errno::EBADF)) => {
                    assert_eq!(Some(at), index);
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_program_that_inherits_descriptors_does_not_have_it_either() {
    in_a_process_of_its_own(|kept| {
        let _reserved = Reserved::take(16, &[kept], None).unwrap();
        let sockets = UnixStream::pair().unwrap();
        let mut plan = plan_of_cat();
        let named = [(sockets.0.as_fd(), "one"), (sockets.1.as_fd(), "two")];
        plan.pass_sockets(named).unwrap();
        let directory = File::open("/proc").unwrap();
        plan.own(directory.into(), Step::EnterDirectory).unwrap();
        let mut environment = plan.environment();
        for call in [CloneCall::find(), CloneCall::Clone] {
            let launch = Launch {
                call,
                descriptors: Descriptors::Inherit,
                connection: None,
                steps: plan.steps(),
                target: Some(plan.target()),
                environment: environment.finish(),
                want_pidfd: false,
                namespaces: 0,
                cgroup: None,
                pid_to: None,
                traced: false,
            };
            let born = child::spawn(&mut ChildStack::new().unwrap(), launch).unwrap();
            assert_eq!(born.failure, None);
            let working = fs::read_link(format!("/proc/{}/cwd", born.pid)).unwrap();
            assert_eq!(working, PathBuf::from("/proc"));
            assert_eq!(descriptors_of(born.pid), [0, 1, 2, 3, 4]);
            nix::sys::signal::kill(born.pid, Signal::SIGKILL).unwrap();
            reap(born.pid);
        }
    });
}

#[cfg(target_arch = "x86_64")]
mod prestarted {
    use std::mem;
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::child::Pool;
    use crate::config::{Prestart, ServiceId, Sharing, Span};

    #[test]
    fn prestarted_handlers_have_used_it_too() {
        let fork_server = Prestart::ForkServer {
            sharing: Sharing::Strict,
            max_age: Span::seconds(3600),
        };
        for prestart in [Prestart::Warm(2.try_into().unwrap()), fork_server] {
            in_a_process_of_its_own(|kept| {
                let mut fixture = Fixture::new(kept);
                let low = fixture.reserved.low(2).unwrap();
                let method = Method::probe(&fixture.plan, low).unwrap();
                let mut spawner = || {
                    let slot = fixture.reserved.slot().unwrap();
                    Spawner::new(method, slot).unwrap()
                };
                let (mut own, keeper) = (spawner(), spawner());
                let plan = Arc::new(mem::replace(&mut fixture.plan, plan_of_cat()));
                let pool = Pool::start(
                    ServiceId::new(0),
                    prestart,
                    (plan, None, None),
                    Vec::new(),
                    keeper,
                    1,
                )
                .unwrap();
                pool.refill();
                for _ in 0..3 {
                    let (mut client, server) = connection();
                    own.hold(&server).unwrap();
                    drop(server);
                    let mut tries = 0;
                    let pid = loop {
                        if let Some(spawned) = pool.hand_off(own.held()) {
                            break spawned.pid;
                        }
                        tries += 1;
                        assert!(tries < 1000, "nothing is prestarted");
                        thread::sleep(Duration::from_millis(10));
                    };
                    own.release();
                    client.write_all(b"served").unwrap();
                    let mut answer = [0; 6];
                    client.read_exact(&mut answer).unwrap();
                    fixture.expect_program(pid);
                    drop(client);
                    reap(pid);
                }
                pool.retire();
            });
        }
    }
}
