//! A timer that interrupts a thread in waitpid(2), which has no timeout.

use std::ptr;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use nix::sys::time::TimeSpec;

/// Interrupts the thread that made it, again and again, until it is dropped (timer_create(2),
/// `SIGEV_THREAD_ID`).
///
/// The signal is SIGALRM, which other threads have blocked and nothing else uses.
#[derive(Debug)]
pub struct Tick {
    timer: libc::timer_t,
}

impl Tick {
    /// Starts the timer.
    pub fn every(time: Duration) -> Result<Self, Errno> {
        let nothing = SigAction::new(
            SigHandler::Handler(nothing),
            SaFlags::empty(),
            SigSet::empty(),
        );
        // SAFETY: the handler touches nothing, in whichever process or thread it runs; without
        // SA_RESTART, so that waiting ends.
        unsafe { sigaction(Signal::SIGALRM, &nothing) }?;
        [Signal::SIGALRM]
            .into_iter()
            .collect::<SigSet>()
            .thread_unblock()?;
        // SAFETY: zeroes are a value of each of its fields; those that count are set below.
        let mut event: libc::sigevent = unsafe { std::mem::zeroed() };
        event.sigev_notify = libc::SIGEV_THREAD_ID;
        event.sigev_signo = libc::SIGALRM;
        event.sigev_notify_thread_id = nix::unistd::gettid().as_raw();
        let mut timer: libc::timer_t = ptr::null_mut();
        // SAFETY: both are live locals of the types that the call takes.
        let made =
            unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer) };
        crate::sys::result::check(made)?;
        let tick = Self { timer };
        let span = *TimeSpec::from_duration(time).as_ref();
        let times = libc::itimerspec {
            it_interval: span,
            it_value: span,
        };
        // SAFETY: the timer exists, and the times are a live local.
        let set = unsafe { libc::timer_settime(timer, 0, &raw const times, ptr::null_mut()) };
        crate::sys::result::check(set)?;
        Ok(tick)
    }
}

impl Drop for Tick {
    fn drop(&mut self) {
        // SAFETY: it exists, and nothing else has it.
        unsafe { libc::timer_delete(self.timer) };
    }
}

extern "C" fn nothing(_: libc::c_int) {}
