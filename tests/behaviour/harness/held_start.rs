use super::{Directory, Namespace};
use std::fs::File;

/// A machine on which a start with `-t held.example:0` is held up in the resolver, which reads its file first: here
/// that is a FIFO.
pub struct HeldStart {
    pub namespace: Namespace,
    directory: Directory,
}

/// The resolver's file.
const HOLDS: &str = "/etc/resolv.conf";

impl HeldStart {
    #[track_caller]
    pub fn new() -> Self {
        let (namespace, directory) = (Namespace::new(), Directory::new());
        let fifo = directory.join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        namespace.replace_file("/etc/nsswitch.conf", "hosts: files\n");
        namespace.replace_file("/etc/hosts", "127.0.0.1 held.example\n");
        namespace.run(["mount", "--bind", fifo.to_str().unwrap(), HOLDS]);
        Self {
            namespace,
            directory,
        }
    }

    /// Waits until a process reads the file, runs `act`, and lets the start go on.
    #[track_caller]
    pub fn during(&self, act: impl FnOnce()) {
        let fifo = self.directory.join("fifo");
        let writer = File::options().write(true).open(fifo).unwrap();
        act();
        // If it is read once more, it has its original contents.
        self.namespace.run(["umount", "--lazy", HOLDS]);
        drop(writer);
    }
}
