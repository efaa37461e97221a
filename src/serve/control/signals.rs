//! What a signal has the daemon do: reload, upgrade, drain or stop.

use std::time::{Duration, Instant};

use super::daemon::Daemon;
use super::drain::{Drain, WaitTime};
use super::figures;
use super::socket::ControlSocket;
use super::upgrade::words::Purpose;
use crate::child::Pool;
use crate::report::{self, Event, NoUpgrade, Told, Trouble};
use crate::serve::handlers::reap;
use crate::serve::handlers::table::Work;
use crate::serve::worker::Phase;
use crate::sys::signals::{Arrived, Signal};
use crate::sys::thread::Thread;

impl Daemon {
    /// Acts on a signal, if its sender is obeyed. Returns whether skd ends at once.
    pub(in crate::serve) fn signal(&mut self, arrived: Arrived) -> bool {
        let Arrived { signal, sender } = arrived;
        // CHLD says only where to look.
        if signal != Signal::SIGCHLD && !self.senders.accept(sender) {
            report::event(Event::Trouble(Trouble::SignalRefused(signal, sender)));
            return false;
        }
        match signal {
            Signal::SIGTERM => self.end(false),
            Signal::SIGINT | Signal::SIGQUIT => self.end(true),
            Signal::SIGHUP => self.hang_up(),
            Signal::SIGCHLD => {
                // Strangers can wait; but a slot may depend on a handler.
                let pause = if self.has_unwatched() {
                    Duration::ZERO
                } else if self.always_sweeps {
                    reap::PAUSE
                } else {
                    reap::LONG_PAUSE
                };
                let due = Instant::now() + pause;
                self.sweep_at = Some(self.sweep_at.map_or(due, |earlier| earlier.min(due)));
                self.choose_to_sweep();
                false
            }
            Signal::SIGUSR2 => {
                self.begin_upgrade();
                false
            }
            Signal::SIGUSR1 => {
                figures::summarize(&self.view);
                false
            }
            _ => false,
        }
    }

    /// HUP: opens and reads again what was opened and read before. Without such, it is the end of a
    /// terminal. Returns whether skd ends at once.
    fn hang_up(&mut self) -> bool {
        let reloaded = self.reload();
        // A terminal that is closed may well say so twice: no reason to hurry.
        let ends =
            !self.log.is_file() && self.origin.hangup_ends && !reloaded && self.drain.is_none();
        ends && self.end(false)
    }

    /// Opens and reads again what was opened and read before. Returns whether anything but the log was.
    pub(in crate::serve) fn reload(&mut self) -> bool {
        self.status.reloading();
        let reopens = self.log.reopen();
        let has_files = self.origin.texts.is_some();
        let reloaded = has_files
            | if self.reads_files() {
                if self.drain.is_none() {
                    self.begin_reload();
                }
                true
            } else {
                if has_files && self.drain.is_none() {
                    self.refuse(Purpose::Reload, NoUpgrade::OutOfSight, &[]);
                }
                self.read_again() | self.renew_pools()
            };
        // When the log is open again and the rules are read, too.
        self.reopening += u32::from(reopens);
        self.ready_if_reloaded();
        reloaded
    }

    /// Drains the services that have a time for that; without any, skd ends at once.
    fn end(&mut self, at_once: bool) -> bool {
        let drains = self.services.iter().any(|service| service.drain.is_some());
        self.status.stopping(&self.shared, drains);
        if !drains && at_once {
            self.stop_workers();
        }
        if at_once || self.drain.is_none() {
            self.tell_others(at_once);
        }
        if drains {
            self.drain(at_once);
        }
        !drains
    }

    /// Tells handlers to end that aren't waited for: those in wait mode, which hold the listening
    /// socket itself, and all of them `at_once`.
    fn tell_others(&self, at_once: bool) {
        self.shared
            .handlers
            .table
            .signal(Signal::SIGTERM, Told::Drain, |handler| {
                let service = self.services.get(handler.service.index());
                service.is_none_or(|service| service.drain.is_none())
                    && (at_once || matches!(handler.work, Work::WaitMode(..)))
            });
    }

    /// Begins to drain, or goes on to the next step.
    fn drain(&mut self, at_once: bool) {
        let wait_times = self.services.iter();
        let wait_times = wait_times.map(|service| WaitTime::of(service.drain));
        let mut begun = false;
        if let Some(drain) = &mut self.drain {
            // If skd ends by itself, this is the first request.
            begun = !drain.limit(wait_times);
        } else {
            self.begin_drain(wait_times.collect());
        }
        if begun || at_once {
            let shared = &self.shared;
            self.drain.iter_mut().for_each(|drain| drain.skip(shared));
        }
    }

    /// Begins to drain, and waits for the handlers of each service so long.
    pub(in crate::serve) fn begin_drain(&mut self, wait_times: Vec<WaitTime>) {
        // It has the listeners, which are to be closed for every process.
        self.abandon_preflight();
        self.end_waiting();
        self.remove_files();
        for mut socket in self.wait_sockets.drain(..) {
            socket.close(&self.shared.handlers);
        }
        self.drain = Some(Drain::begin(&self.shared, wait_times.into_iter()));
    }

    /// Ends: clients that are being served stay served.
    pub(in crate::serve) fn stop(mut self) {
        self.abandon_preflight();
        self.end_waiting();
        self.stop_workers();
        self.remove_files();
        self.each_listener(|listener| {
            report::event(Event::ClosedListener(listener.listener_name()))
        });
        // If one is left, prestarted handlers see skd's end.
        self.shared.retire_pools();
        self.stop_tls();
        self.control.iter_mut().for_each(ControlSocket::end);
        self.log.finish();
    }

    /// Answers the clients of the control socket that wait for something, since skd ends.
    fn end_waiting(&mut self) {
        self.end_awaited();
        self.end_service_drains();
    }

    /// Has prestarted handlers started anew, from what the program is now. Returns whether there are
    /// any. Draining, none is needed.
    fn renew_pools(&self) -> bool {
        if self.drain.is_none() {
            self.shared.pools().for_each(Pool::renew);
        }
        self.shared.pools().next().is_some()
    }

    /// Stops the workers, each when the connection that it has accepted has its handler. A worker
    /// that is held up by a handler's preparation isn't waited for long.
    pub(in crate::serve) fn stop_workers(&self) {
        self.shared.enter_phase(Phase::Stopping);
        let deadline = Instant::now() + Duration::from_secs(1);
        while !self.workers.iter().all(Thread::is_finished) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        // Those of a worker that is late.
        self.shared.handlers.gates.kill_all();
    }
}
