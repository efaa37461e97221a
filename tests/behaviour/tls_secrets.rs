//! Who has the secrets of TLS: skd-tls, and no other process.

use crate::harness::{
    Instance, Pki, Running, Skd, command, requires_root, skd_tls, wait_for, wait_until,
};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::process::{Command, Stdio};

/// A service with TLS whose handlers stay, and one of its clients.
fn served(pki: &Pki) -> (Running, std::process::Child) {
    requires_root();
    skd_tls();
    let tls = pki.option("server");
    let options = ["-v", "-t", "127.0.0.1:0", "--user", "daemon", "--tls", &tls];
    let skd = Skd::new(options).run("cat");
    let client = Command::new("openssl")
        .args(["s_client", "-quiet", "-connect"])
        .arg(format!("127.0.0.1:{}", skd.port()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn();
    skd.wait_for_log("Accepted connection from");
    (skd, client.unwrap())
}

/// The child of skd that runs this program.
#[track_caller]
fn child(skd: &Instance, name: &str) -> i32 {
    wait_for("a child", || {
        let is_it = |pid: &i32| command(*pid).first().is_some_and(|it| it.ends_with(name));
        skd.children().into_iter().find(is_it)
    })
}

/// The bytes of a private key that a process can't do without: the number of a key of P-256.
fn secret(pki: &Pki) -> Vec<u8> {
    let key = Command::new("openssl")
        .args(["pkey", "-outform", "DER", "-in"])
        .arg(pki.path("server.key"))
        .output()
        .unwrap();
    // PKCS #8 or SEC 1: an octet string of 32 bytes after the version, which is 1.
    let head = [2, 1, 1, 4, 32];
    let at = key.stdout.windows(head.len()).position(|it| it == head);
    let at = at.unwrap() + head.len();
    key.stdout[at..at + 32].to_vec()
}

/// Whether bytes are somewhere in the memory of a process, in this order or the other one.
fn has_in_memory(pid: i32, secret: &[u8]) -> bool {
    let reversed: Vec<_> = secret.iter().rev().copied().collect();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut looked_at = 0;
    let mut found = false;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (number(start), number(end));
        for at in (start..end).step_by(1 << 20) {
            // With what a secret may have behind the piece.
            let length = (end - at).min((1 << 20) + 64);
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            let Ok(length) = memory.read_at(&mut bytes, at) else {
                continue;
            };
            looked_at += length;
            let mut pieces = bytes[..length].windows(secret.len());
            found |= pieces.any(|it| it == secret || it == reversed);
        }
    }
    assert!(looked_at > 100_000, "{pid}: {looked_at} bytes");
    found
}

#[test]
fn no_process_but_skd_tls_has_a_key_in_its_memory() {
    let pki = Pki::with_server();
    let (skd, mut client) = served(&pki);
    let secret = secret(&pki);
    // So the search finds it where it is.
    assert!(has_in_memory(child(&skd, "skd-tls"), &secret));
    assert!(!has_in_memory(skd.pid(), &secret));
    assert!(!has_in_memory(child(&skd, "cat"), &secret));
    client.kill().unwrap();
    client.wait().unwrap();
}

#[test]
fn a_handler_has_no_descriptor_but_the_plain_side() {
    let pki = Pki::with_server();
    let (skd, mut client) = served(&pki);
    let handler = child(&skd, "cat");
    let link = |number: i32| {
        let path = fs::read_link(format!("/proc/{handler}/fd/{number}"));
        path.map(|it| it.display().to_string())
    };
    // It may just be loading its libraries.
    wait_until("it has three descriptors", || {
        let names = fs::read_dir(format!("/proc/{handler}/fd")).unwrap();
        names.count() == 3
    });
    assert!(link(0).unwrap().starts_with("socket:"));
    assert_eq!(link(0).unwrap(), link(1).unwrap());
    // The client's connection is another process's.
    let socket = link(0).unwrap();
    let inode = socket.trim_start_matches("socket:[").trim_end_matches(']');
    let mut unix = String::new();
    let mut table = File::open("/proc/net/unix").unwrap();
    table.read_to_string(&mut unix).unwrap();
    let is_it = |line: &str| line.split_whitespace().any(|word| word == inode);
    assert!(unix.lines().any(is_it), "{socket} isn't in {unix}");
    client.kill().unwrap();
    client.wait().unwrap();
}
