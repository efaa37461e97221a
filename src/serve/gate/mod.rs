//! Gates: programs that have a connection before its handler does.
//!
//! A gate is a child of skd, and belongs to a pending connection. The worker in whose queue that is
//! watches its pidfd. Whatever becomes of the connection, nothing of the gate's process group is left.

mod live;
mod of_service;
mod processes;

pub(in crate::serve) use live::{GateStop, LiveGate, SavedGate, Sign};
pub(in crate::serve) use of_service::{Gate, GateSlot};
pub(in crate::serve) use processes::GateProcesses;
