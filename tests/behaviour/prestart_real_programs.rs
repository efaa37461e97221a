//! Real programs, prestarted as far as each way lets them get: each client gets the answer of a program that was started
//! for it, and none a secret of another's.

use crate::harness::{
    Directory, Running, Skd, parked, receive, requires_command, requires_commands, requires_root,
    talk,
};
use std::collections::HashSet;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

/// Ways of prestarting.
const WARM: &str = "--warm=2";
const STRICT: &str = "--fork-server=strict";
const START: &str = "--fork-server=start";
const SHARED: &str = "--fork-server=shared";
const ALL: [&str; 4] = [WARM, STRICT, START, SHARED];

/// How many clients are compared.
const CLIENTS: usize = 3;

/// A program that is parked, with `way`.
#[track_caller]
fn prestarted<A: AsRef<std::ffi::OsStr>>(
    way: &str,
    program: impl AsRef<Path>,
    args: &[A],
) -> Running {
    requires_root();
    let skd = Skd::new(["-v", "-t", "127.0.0.1:0", way]);
    let skd = skd.run_with(program.as_ref(), args);
    skd.wait_until("it is parked", || !parked(skd.pid()).is_empty());
    skd
}

/// What `clients` of a program hear that say this.
#[track_caller]
fn heard(skd: &Running, said: &[u8]) -> Vec<Vec<u8>> {
    (0..CLIENTS).map(|_| talk(skd.connect(), said)).collect()
}

/// Asserts that clients hear the same in each way, and returns what.
#[track_caller]
fn alike<A: AsRef<std::ffi::OsStr>>(program: impl AsRef<Path>, args: &[A], said: &[u8]) -> Vec<u8> {
    let plain = Skd::new(["-v", "-t", "127.0.0.1:0"]).run_with(program.as_ref(), args);
    let expected = talk(plain.connect(), said);
    assert!(!expected.is_empty());
    for way in ALL {
        let skd = prestarted(way, &program, args);
        for heard in heard(&skd, said) {
            let text = String::from_utf8_lossy(&heard);
            assert!(heard == expected, "{way}: {text}");
        }
    }
    expected
}

/// Compiles a library, or with one a program that needs it.
#[track_caller]
fn compile(directory: &Directory, flags: &[&str], name: &str, source: &str) -> String {
    requires_command("cc");
    let text = directory.write(&format!("{name}.c"), source);
    let path = directory.name(name);
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-o", &path]).arg(text).args(flags);
    assert!(cc.status().expect("cc").success(), "{name}");
    path
}

const LIBRARY: &[&str] = &["-shared", "-fPIC"];

#[test]
fn a_library_that_is_loaded_late_may_park_its_program() {
    // The dynamic linker runs the constructor, and holds a lock that knows the thread. Java is such a program, and
    // Python with numpy.
    let directory = Directory::new();
    let constructor = r#"
        #include <pthread.h>
        #include <unistd.h>
        static void *nothing(void *its) { return its; }
        __attribute__((constructor)) static void begin(void) {
            pthread_t thread;
            getpid();
            if (pthread_create(&thread, 0, nothing, 0) == 0) pthread_join(thread, 0);
        }
    "#;
    let library = compile(&directory, LIBRARY, "library.so", constructor);
    let loading = r#"
        #include <dlfcn.h>
        #include <stdio.h>
        int main(int count, char **words) {
            char line[100];
            if (!dlopen(words[1], RTLD_NOW) || !dlopen("libm.so.6", RTLD_NOW)) return 2;
            if (fgets(line, sizeof line, stdin)) printf("heard %s", line);
            return 0;
        }
    "#;
    let program = directory.compile_shared("loading", loading);
    assert_eq!(alike(program, &[library], b"one\n"), b"heard one\n");
}

#[test]
fn a_program_that_is_parked_before_its_entry_serves() {
    let directory = Directory::new();
    let constructor = r#"
        #include <fcntl.h>
        #include <unistd.h>
        __attribute__((constructor)) static void begin(void) { close(open("/proc/self/status", O_RDONLY)); }
    "#;
    let library = compile(&directory, LIBRARY, "library.so", constructor);
    let reading = r#"
        #include <stdio.h>
        int main(void) {
            char line[100];
            if (fgets(line, sizeof line, stdin)) printf("heard %s", line);
            return 0;
        }
    "#;
    let flags = ["-Wl,--no-as-needed", &library];
    let program = compile(&directory, &flags, "reading", reading);
    assert_eq!(alike(&program, &[""; 0], b"one\n"), b"heard one\n");
    let skd = prestarted(START, &program, &[""; 0]);
    skd.wait_for_log("is parked at openat");
}

#[test]
fn what_the_kernel_tells_all_alike_may_be_asked() {
    let directory = Directory::new();
    let asking = r#"
        #include <fcntl.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <string.h>
        #include <unistd.h>
        int main(int count, char **words) {
            char line[100], answer[100];
            for (int at = 2; at < count; at++) {
                int file = open(words[at], O_RDONLY);
                if (file < 0 || read(file, answer, sizeof answer) <= 0) return 2;
                if (!strcmp(words[1], "close")) close(file);
            }
            if (fgets(line, sizeof line, stdin)) printf("heard %s", line);
            return 0;
        }
    "#;
    let program = directory.compile_shared("asking", asking);
    let answers = [
        "/proc/self/maps",
        "/proc/cpuinfo",
        "/proc/filesystems",
        "/proc/meminfo",
        "/proc/sys/kernel/cap_last_cap",
        "/proc/sys/kernel/ngroups_max",
        "/proc/sys/vm/overcommit_memory",
        "/sys/devices/system/cpu/online",
    ];
    let run = |way: &str, then: &str, files: &[&str]| {
        let words = [&[then], files].concat();
        let skd = prestarted(way, &program, &words);
        assert_eq!(
            heard(&skd, b"one\n"),
            [b"heard one\n"; CLIENTS],
            "{way} {words:?}"
        );
        skd.wait_for_log("is parked at")
    };
    for way in [WARM, STRICT] {
        let line = run(way, "close", &answers);
        assert!(line.contains("at read,"), "{way}: {line}");
    }
    // Copies can't keep one, and may not ask what differs.
    for (then, files) in [("keep", &answers[..1]), ("close", &["/proc/self/status"])] {
        let line = run(STRICT, then, files);
        assert!(line.contains("at openat,"), "{then}: {line}");
    }
}

#[test]
fn programs_of_every_day_answer_alike() {
    requires_commands(&["jq", "openssl", "sed", "sqlite3", "zsh"]);
    for (command, args, said, answer) in [
        (
            "jq",
            &["--unbuffered", "-c", ".a"][..],
            &b"{\"a\":[1,2]}\n"[..],
            "[1,2]\n",
        ),
        (
            "openssl",
            &["enc", "-base64"],
            b"one line",
            "b25lIGxpbmU=\n",
        ),
        ("sed", &["s/line/LINE/"], b"one line\n", "one LINE\n"),
        ("sqlite3", &[], b"select 1+1, upper('x');\n", "2|X\n"),
        (
            "zsh",
            &["-f", "-c", "read -r line; echo \"<$line>\""],
            b"one line\n",
            "<one line>\n",
        ),
    ] {
        let heard = alike(command, args, said);
        assert_eq!(String::from_utf8_lossy(&heard), answer, "{command}");
    }
}

#[test]
fn servers_answer_alike() {
    requires_command("git");
    requires_command("rsync");
    let directory = Directory::new();
    let mut made = Command::new("git");
    made.args(["init", "--quiet", "--bare"])
        .arg(directory.join("project"));
    assert!(made.status().expect("git").success());
    let base = format!("--base-path={}", directory.name(""));
    let daemon = ["daemon", "--inetd", "--export-all", &base];
    let heard = alike("git", &daemon, b"001dgit-upload-pack /project\x000000");
    assert!(String::from_utf8_lossy(&heard).contains("capabilities^{}"));
    let modules = format!("use chroot = no\n[files]\npath = {}\n", directory.name(""));
    directory.write("modules", modules);
    let config = format!("--config={}", directory.name("modules"));
    let heard = alike("rsync", &["--daemon", &config], b"@RSYNCD: 30.0\n#list\n");
    assert!(String::from_utf8_lossy(&heard).contains("files"));
}

/// What an SSH server draws for a connection: its cookie, and the public key of its key exchange.
#[track_caller]
fn drawn(mut client: TcpStream) -> [Vec<u8>; 2] {
    const KEXINIT: u8 = 20;
    const ECDH_INIT: u8 = 30;
    const ECDH_REPLY: u8 = 31;
    let algorithms = [
        "curve25519-sha256",
        "ecdsa-sha2-nistp256,ssh-ed25519",
        "aes128-ctr",
        "aes128-ctr",
        "hmac-sha2-256",
        "hmac-sha2-256",
        "none",
        "none",
        "",
        "",
    ];
    let string = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes(), bytes].concat();
    let packet = |payload: &[u8]| {
        let padding = 8 - (payload.len() + 5) % 8;
        let padding = if padding < 4 { padding + 8 } else { padding };
        let length = (payload.len() + 1 + padding) as u32;
        let begin = [&length.to_be_bytes()[..], &[padding as u8]].concat();
        [&begin, payload, &vec![0; padding]].concat()
    };
    let received = |client: &mut TcpStream| {
        let length = u32::from_be_bytes(receive(client, 4).try_into().unwrap());
        let packet = receive(client, length as usize);
        packet[1..packet.len() - usize::from(packet[0])].to_vec()
    };
    client
        .write_all(b"SSH-2.0-test\r\n")
        .expect("a server that listens");
    while receive(&mut client, 1) != b"\n" {}
    let theirs = received(&mut client);
    assert_eq!(theirs[0], KEXINIT);
    let names: Vec<u8> = algorithms
        .iter()
        .flat_map(|names| string(names.as_bytes()))
        .collect();
    let own = [&[KEXINIT][..], &[7; 16], &names, &[0; 5]].concat();
    // Any number is a public key.
    let exchange = [&[ECDH_INIT][..], &string(&[9; 32])].concat();
    let said = [packet(&own), packet(&exchange)].concat();
    client.write_all(&said).expect("a server that listens");
    let reply = received(&mut client);
    assert_eq!(reply[0], ECDH_REPLY);
    let length = u32::from_be_bytes(reply[1..5].try_into().unwrap()) as usize;
    let key = &reply[5 + length..];
    [theirs[1..17].to_vec(), key[4..36].to_vec()]
}

/// Asserts that an SSH server draws anew for each client.
#[track_caller]
fn draws_anew(ways: &[&str], program: &str, args: &[&str]) {
    for way in ways {
        let skd = prestarted(way, program, args);
        let drawn: Vec<_> = (0..CLIENTS).map(|_| drawn(skd.connect())).collect();
        for what in 0..2 {
            let values: HashSet<_> = drawn.iter().map(|drawn| &drawn[what]).collect();
            assert_eq!(values.len(), CLIENTS, "{way}: {drawn:02x?}");
        }
    }
}

#[test]
fn dropbear_draws_its_keys_for_each_client() {
    requires_command("dropbear");
    let directory = Directory::new();
    let key = directory.name("key");
    let mut made = Command::new("dropbearkey");
    made.args(["-t", "ecdsa", "-s", "256", "-f", &key]);
    assert!(made.output().expect("dropbearkey").status.success());
    // Not with `shared`: the manual says that its host key is lost there.
    draws_anew(&[WARM, STRICT, START], "dropbear", &["-i", "-r", &key]);
}

#[test]
fn sshd_draws_its_keys_for_each_client() {
    requires_command("sshd");
    std::fs::create_dir_all("/run/sshd").expect("root's directory");
    let directory = Directory::new();
    let key = directory.name("key");
    let mut made = Command::new("ssh-keygen");
    made.args(["-q", "-t", "ed25519", "-N", "", "-f", &key]);
    assert!(made.status().expect("ssh-keygen").success());
    // It executes no other program, but asks for its full path.
    let path = Command::new("sh").args(["-c", "command -v sshd"]).output();
    let path = String::from_utf8(path.expect("sh").stdout).expect("a path");
    draws_anew(
        &[WARM, STRICT, START],
        path.trim(),
        &["-i", "-f", "/dev/null", "-h", &key],
    );
}
