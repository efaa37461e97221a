//! The kernel: thin wrappers, and every `unsafe` line of the program.
//!
//! Nothing here knows what a service or a handler is. A wrapper exists only where [`nix`] and
//! [`socket2`] have none, or where theirs allocates, or refuses values that the kernel allows. This
//! is the only folder that would change for another Unix.

#![allow(unsafe_code)] // Only here; each block has its reason.

pub mod aside;
pub mod backlog;
pub mod capabilities;
pub mod cgroup;
pub mod channel;
pub mod child;
mod clone3;
pub mod credentials;
pub mod datagrams;
pub mod descriptors;
pub mod diagnosis;
pub mod directory;
pub mod environment;
pub mod events;
pub mod keyring;
pub mod lock;
pub mod memory;
pub mod mounts;
pub mod names;
pub mod namespaces;
mod netlink;
pub mod objects;
pub mod packets;
pub mod passing;
pub mod pipe;
pub mod process;
pub mod process_stat;
pub mod reexec;
mod result;
pub mod root;
pub mod sandbox;
pub mod sealed;
pub mod seccomp;
pub mod signals;
pub mod sockets;
pub mod sync;
pub mod terminal;
pub mod thread;
#[cfg(target_arch = "x86_64")]
pub mod trace;
pub mod traffic;
pub mod trusted;
pub mod users;
