//! The /etc of a sandbox: copies of the few files that programs look up, as far as every user may
//! read them outside.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::files::{Files, is_replaced};
use crate::config::{Part, Sandbox};

/// Files and directories that are copied. A star at the end stands for any end.
const COPIED: [&str; 29] = [
    "alternatives",
    "bash.bashrc",
    "bashrc",
    "debian_version",
    "host.conf",
    "inputrc",
    "java*",
    "ld-musl-*",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "mime.types",
    "nsswitch.conf",
    "os-release",
    "perl",
    "php",
    "profile",
    "profile.d",
    "protocols",
    "python*",
    "rpc",
    "services",
    "shells",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
];

/// Those that are copied besides where the network is shared.
const OF_NETWORK: [&str; 8] = [
    "ca-certificates",
    "crypto-policies",
    "gai.conf",
    "hosts",
    "pki/ca-trust",
    "pki/tls",
    "resolv.conf",
    "ssl/certs",
];

/// What is copied of one directory and all below it, at most.
const MOST: usize = 2000;

/// A file's name below /etc, and what it is.
type Copy = (PathBuf, What);

enum What {
    Link(PathBuf),
    File(Vec<u8>),
}

/// The copies.
pub(super) struct Copies(Vec<Copy>);

impl Copies {
    /// Reads them. What can't be read isn't copied.
    pub(super) fn read(sandbox: &Sandbox, (uid, gid): (u32, u32)) -> Self {
        let mut all = Vec::new();
        let shares = !sandbox.parts.has(Part::Net);
        let network = OF_NETWORK.into_iter().filter(|_| shares);
        for name in COPIED.into_iter().chain(network) {
            match name.strip_suffix('*') {
                None => read(Path::new(name), &mut all),
                Some(begin) => beginning_with(begin).for_each(|name| read(&name, &mut all)),
            }
        }
        let mut add = |name: &str, text: String| {
            all.push((name.into(), What::File(text.into_bytes())));
        };
        let name = sandbox.host_name.to_string_lossy();
        if !shares {
            let own = if sandbox.parts.has(Part::Uts) {
                &name
            } else {
                ""
            };
            add(
                "hosts",
                format!("127.0.0.1 localhost {own}\n::1 localhost\n"),
            );
        }
        if sandbox.parts.has(Part::Uts) {
            add("hostname", format!("{name}\n"));
        }
        let passwd = fs::read("/etc/passwd").unwrap_or_default();
        let group = fs::read("/etc/group").unwrap_or_default();
        add(
            "passwd",
            accounts(
                &passwd,
                uid,
                &format!("sandbox:x:{uid}:{gid}::/tmp:/bin/sh"),
            ),
        );
        add("group", accounts(&group, gid, &format!("sandbox:x:{gid}:")));
        Self(all)
    }

    /// Writes them into a root directory, but not what is replaced there.
    pub(super) fn write(&self, files: &Files, sandbox: &Sandbox) -> Result<(), Errno> {
        let etc = Path::new("etc");
        if is_replaced(sandbox, etc) {
            return Ok(());
        }
        for (name, what) in &self.0 {
            let at = etc.join(name);
            match what {
                // Present already: it is replaced, or in two of the lists.
                _ if is_replaced(sandbox, &at) => {}
                What::Link(to) => files.link(to, &at).or_else(unless_there)?,
                What::File(text) => files.write(&at, text).or_else(unless_there)?,
            }
        }
        Ok(())
    }
}

fn unless_there(errno: Errno) -> Result<(), Errno> {
    match errno {
        Errno::EEXIST => Ok(()),
        errno => Err(errno),
    }
}

/// The paths that are copied, where they are on the host, with those of the network.
pub(super) fn paths() -> impl Iterator<Item = PathBuf> {
    let all = COPIED.into_iter().chain(OF_NETWORK);
    let all = all.chain(["group", "hostname", "passwd"]);
    let all = all.flat_map(|name| match name.strip_suffix('*') {
        None => vec![PathBuf::from(name)],
        Some(begin) => beginning_with(begin).collect(),
    });
    all.map(|name| Path::new("/etc").join(name))
}

/// The names in /etc that begin with a text.
fn beginning_with(begin: &str) -> impl Iterator<Item = PathBuf> {
    let all = fs::read_dir("/etc").into_iter().flatten().flatten();
    all.map(|entry| PathBuf::from(entry.file_name()))
        .filter(move |name| name.as_os_str().as_bytes().starts_with(begin.as_bytes()))
}

/// Adds a file, a link, or all in a directory.
fn read(name: &Path, all: &mut Vec<Copy>) {
    let end = all.len() + MOST;
    let mut names = vec![name.to_owned()];
    while let Some(name) = names.pop() {
        let path = Path::new("/etc").join(&name);
        let Ok(found) = path.symlink_metadata() else {
            continue;
        };
        if all.len() >= end {
            return;
        }
        if found.is_symlink() {
            if let Some(what) = linked(&path) {
                all.push((name, what));
            }
        } else if found.is_dir() {
            let inside = fs::read_dir(&path).into_iter().flatten().flatten();
            names.extend(inside.map(|entry| name.join(entry.file_name())));
        } else if let Some(file) = file(&path) {
            all.push((name, file));
        }
    }
}

/// A link to something that is shown stays one; another one is replaced by the file it leads to.
fn linked(path: &Path) -> Option<What> {
    let to = fs::read_link(path).ok()?;
    let whole = path.parent()?.join(&to);
    let is_shown = to.is_relative() && to.components().count() == 1
        || ["/usr", "/etc/alternatives"]
            .iter()
            .any(|shown| whole.starts_with(shown))
        || to.starts_with("../usr");
    match is_shown {
        true => Some(What::Link(to)),
        false => file(path),
    }
}

/// A file that every user may read.
fn file(path: &Path) -> Option<What> {
    const EVERY_USER: u32 = 0o004;
    let found = path.metadata().ok()?;
    let may = found.is_file() && found.permissions().mode() & EVERY_USER != 0;
    let is_small = found.len() < 4 << 20;
    let text = (may && is_small).then(|| fs::read(path));
    text?.ok().map(What::File)
}

/// Returns the lines of passwd(5) or group(5) of root, nobody, and the handlers' id, of which there
/// is one whatever is in the file. No password is in them.
fn accounts(text: &[u8], own: u32, otherwise: &str) -> String {
    let text = String::from_utf8_lossy(text);
    let mut lines = String::new();
    let mut has_own = false;
    for line in text.lines() {
        let mut fields = line.split(':');
        let (name, _) = (fields.next(), fields.next());
        let id = fields.next().and_then(|id| id.parse().ok());
        if id.is_some_and(|id| id == 0 || id == 65534 || id == own) {
            let rest = line.splitn(3, ':').nth(2).unwrap_or_default();
            // Writing to a string can't fail.
            let _ = writeln!(lines, "{}:x:{rest}", name.unwrap_or_default());
            has_own |= id == Some(own);
        }
    }
    if !has_own {
        let _ = writeln!(lines, "{otherwise}");
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_the_host_are_left_out() {
        let passwd =
            b"root:secret:0:0:root:/root:/bin/bash\nalice:x:1000:1000::/home/alice:/bin/sh\n\
            nobody:x:65534:65534::/:/bin/false\nodd line\nbob:x:1001:1001::/home/bob:/bin/sh\n";
        let expected = "root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/false\n\
            bob:x:1001:1001::/home/bob:/bin/sh\n";
        assert_eq!(accounts(passwd, 1001, "unused"), expected);
        assert_eq!(accounts(b"", 7, "own:x:7:7"), "own:x:7:7\n");
    }
}
