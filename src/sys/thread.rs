//! Threads that cost only a stack, and that either run or can't be made.
//!
//! The standard library's threads need more memory when they already run, for a signal stack that
//! this program doesn't use, and end the process if there is none. That is too late for a start to
//! report it, or to remove what it has made.

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;

use super::memory::Stack;

/// A thread that was started.
#[derive(Debug)]
pub struct Thread {
    finished: Arc<AtomicBool>,
}

struct Start<Work> {
    work: Work,
    name: CString,
    finished: Arc<AtomicBool>,
}

impl Thread {
    /// Starts a thread with this name, of 15 bytes at most, on a stack of `length` bytes
    /// (pthread_create(3)).
    pub fn start<Work: FnOnce() + Send + 'static>(
        name: CString,
        length: usize,
        work: Work,
    ) -> Result<Self, Errno> {
        let stack = Stack::of(length)?;
        let finished = Arc::new(AtomicBool::new(false));
        let start = Start {
            work,
            name,
            finished: Arc::clone(&finished),
        };
        create(start, |attributes| {
            let (base, length) = stack.usable();
            // SAFETY: the attributes are initialised; the stack is a mapping of that length which
            // nothing else uses.
            unsafe { libc::pthread_attr_setstack(attributes, base, length) };
        })?;
        // Never unmapped: a thread that has finished its work still runs on it.
        std::mem::forget(stack);
        Ok(Self { finished })
    }

    /// Starts a thread that ends soon, on a stack that the C library unmaps or uses again.
    pub fn start_brief<Work: FnOnce() + Send + 'static>(
        name: CString,
        length: usize,
        work: Work,
    ) -> Result<(), Errno> {
        let start = Start {
            work,
            name,
            finished: Arc::default(),
        };
        create(start, |attributes| {
            // SAFETY: the attributes are initialised.
            unsafe { libc::pthread_attr_setstacksize(attributes, length) };
        })
    }

    /// Whether its work is done.
    pub fn is_finished(&self) -> bool {
        self.finished.load(Ordering::SeqCst)
    }
}

/// Makes a detached thread on the stack that `set_stack` gives it (pthread_create(3)).
fn create<Work: FnOnce() + Send + 'static>(
    start: Start<Work>,
    set_stack: impl FnOnce(*mut libc::pthread_attr_t),
) -> Result<(), Errno> {
    let start = Box::into_raw(Box::new(start));
    // SAFETY: the attributes are initialised before they are used and destroyed once; `run` takes
    // the box back that it is called with, and what it owns may be sent to another thread.
    let result = unsafe {
        let mut attributes: libc::pthread_attr_t = std::mem::zeroed();
        libc::pthread_attr_init(&raw mut attributes);
        set_stack(&raw mut attributes);
        let detached = libc::PTHREAD_CREATE_DETACHED;
        libc::pthread_attr_setdetachstate(&raw mut attributes, detached);
        let mut id: libc::pthread_t = std::mem::zeroed();
        let run = run::<Work>;
        let result = libc::pthread_create(&raw mut id, &raw const attributes, run, start.cast());
        libc::pthread_attr_destroy(&raw mut attributes);
        result
    };
    if result != 0 {
        // SAFETY: no thread was made, so nothing else has the box.
        drop(unsafe { Box::from_raw(start) });
        return Err(Errno::from_raw(result));
    }
    Ok(())
}

extern "C" fn run<Work: FnOnce()>(start: *mut c_void) -> *mut c_void {
    // SAFETY: `start` is the box that `create` gave away, of the same type.
    let start = unsafe { Box::from_raw(start.cast::<Start<Work>>()) };
    let Start {
        work,
        name,
        finished,
    } = *start;
    // SAFETY: the calling thread exists, and the name ends in NUL. One too long is refused.
    unsafe { libc::pthread_setname_np(libc::pthread_self(), name.as_ptr()) };
    work();
    finished.store(true, Ordering::SeqCst);
    ptr::null_mut()
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "a stack of its own")]
    fn a_thread_does_its_work_under_its_name_and_says_when_it_is_done() {
        let (sender, receiver) = mpsc::channel();
        let thread = Thread::start(c"short-name".into(), 128 * 1024, move || {
            let name = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
            sender.send(name).unwrap();
        })
        .unwrap();
        assert_eq!(receiver.recv().unwrap(), "short-name\n");
        // The sender is gone when its work is.
        assert!(receiver.recv().is_err());
        while !thread.is_finished() {
            std::thread::yield_now();
        }
    }
}
