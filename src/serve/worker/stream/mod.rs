//! Stream workers: accept → admission → handler.
//!
//! There are several, since starting a handler stops the thread that does it until the child has
//! executed its program. Each waits for all listeners with an epoll set of its own, and the kernel
//! wakes one of them for a connection. A service without a free slot is not waited for at all.
//! Each worker also waits for the ends of the handlers that it started: to wake another thread for
//! each end would cost more than the reaping.

mod at_gate;
mod at_tls;
mod service_state;
mod stream_intake;
mod tls_pause;

pub(in crate::serve) use stream_intake::start;
