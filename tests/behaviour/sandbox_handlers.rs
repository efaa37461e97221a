//! Programs as they are, as handlers in a strict sandbox: nothing in them knows of it.

use crate::harness::{Directory, Running, Skd, requires_command, requires_root, talk, time_limit};
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// Ids without an account.
const UID: u32 = 61248;

/// Runs a test with a skd that root has started, as root and for another user, and with a skd that this user has started.
fn by_each(test: impl Fn(Skd, u32)) {
    requires_root();
    let skd = || {
        Skd::new(["-v", "-t", "127.0.0.1:0", "--sandbox"])
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .throttle(Duration::ZERO)
    };
    test(skd(), 65534);
    test(skd().args(["--user", &format!("{UID}:{UID}")]), UID);
    test(skd().user(UID, UID, []), UID);
}

/// The answer of a handler, which has succeeded.
#[track_caller]
fn answer(skd: &Running, request: &[u8]) -> String {
    let answer = String::from_utf8_lossy(&talk(skd.connect(), request)).into_owned();
    skd.wait_until("it has ended", || {
        !skd.logged("exited with status").is_empty()
    });
    let ends = skd.logged("Closed connection");
    assert!(
        ends.iter()
            .all(|line| line.contains("exited with status 0")),
        "{answer:?}\n{}",
        skd.log_lines().join("\n")
    );
    answer
}

/// A directory whose files all may read, shown at /shown.
fn shown(files: &[(&str, &str)]) -> (Directory, String) {
    let directory = Directory::public();
    for (name, text) in files {
        directory.write(name, text);
        directory.chmod(name, 0o755);
    }
    let option = format!("{}:/shown", directory.path().display());
    (directory, option)
}

#[test]
fn bash() {
    requires_command("bash");
    // What a longer script uses: arrays, here documents, process substitution, temporary files, jobs, traps.
    const SCRIPT: &str = r#"#!/usr/bin/env bash
set -euo pipefail
trap 'rm -f "$temporary"' EXIT
temporary=$(mktemp)
read -r name
declare -A numbers=([one]=1 [two]=2)
mapfile -t lines < <(printf '%s\n' b a c | sort)
cat >"$temporary" <<END
hello $name
END
sleep 0.01 &
wait $!
diff <(echo same) <(echo same)
sort --buffer-size=1K --temporary-directory=/tmp <(seq 20000) | tail -n 1 >>"$temporary"
tee >(cat >/dev/null) <"$temporary"
echo "${numbers[two]} ${lines[*]} $(date +%Z) $(id -u) $(tty || true)"
[[ -w /tmp && -x /usr/bin/env && ! -w / ]]
printf '%s ' "$(nproc)" "$(hostname)" "$(whoami)" "$PWD" >/dev/null
"#;
    let (_directory, option) = shown(&[("script", SCRIPT)]);
    by_each(|skd, uid| {
        let skd = skd.args(["--ro", &option]).run("/shown/script");
        let text = answer(&skd, b"world\n");
        assert_eq!(
            text,
            format!("hello world\n9999\n2 a b c UTC {uid} not a tty\n")
        );
    });
}

#[test]
fn python() {
    requires_command("python3");
    const SCRIPT: &str = r#"
import asyncio, concurrent.futures, ctypes, decimal, getpass, hashlib, json, locale, logging, multiprocessing, os, pathlib
import platform, pwd, queue, random, secrets, selectors, shutil, signal, socket, sqlite3, ssl, subprocess, sys, tempfile
import threading, time, urllib.request, uuid, venv, zlib, zoneinfo

def square(number):
    return number * number

async def pipeline():
    process = await asyncio.create_subprocess_exec("tr", "a-z", "A-Z", stdin=asyncio.subprocess.PIPE,
                                                   stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate(b"loud")
    await asyncio.gather(*(asyncio.sleep(0.001) for _ in range(10)))
    return output.decode()

if __name__ == "__main__":
    request = json.loads(sys.stdin.readline())
    found = {"name": request["name"], "ssl": bool(ssl.create_default_context())}
    found["child"] = subprocess.run(["echo", "child"], capture_output=True, text=True, check=True).stdout.strip()
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory, "file")
        path.write_text("kept")
        found["temporary"] = shutil.copy(path, directory + "/copy") and pathlib.Path(directory, "copy").read_text()
    found["asyncio"] = asyncio.run(pipeline())
    with multiprocessing.Pool(2) as pool:
        found["pool"] = pool.map(square, range(4))
    with multiprocessing.Manager() if "manager" in request else tempfile.TemporaryFile():
        pass
    counter = multiprocessing.Value("i", 0)
    def add():
        with counter.get_lock():
            counter.value += 1
    workers = [multiprocessing.Process(target=add) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    found["shared"] = counter.value
    with concurrent.futures.ThreadPoolExecutor() as threads:
        found["threads"] = sum(threads.map(square, range(100)))
    database = sqlite3.connect("/tmp/database")
    database.execute("create table kept (number)")
    database.execute("insert into kept values (7)")
    database.commit()
    found["sqlite"] = database.execute("select number from kept").fetchone()[0]
    found["user"] = pwd.getpwuid(os.getuid()).pw_uid == os.getuid()
    found["zone"] = str(zoneinfo.ZoneInfo("UTC"))
    found["random"] = len(secrets.token_bytes(8)) + len(uuid.uuid4().bytes)
    left, right = socket.socketpair()
    left.sendall(b"pair")
    found["pair"] = right.recv(4).decode()
    signal.signal(signal.SIGALRM, lambda *_: found.update(alarm=True))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    time.sleep(0.1)
    platform.platform(), os.cpu_count(), locale.setlocale(locale.LC_ALL, ""), os.getloadavg()
    print(json.dumps(found, sort_keys=True))
"#;
    let (_directory, option) = shown(&[("script.py", SCRIPT)]);
    by_each(|skd, _| {
        let skd = skd
            .args(["--ro", &option])
            .run_with("/usr/bin/python3", ["/shown/script.py"]);
        let text = answer(&skd, b"{\"name\": \"caller\"}\n");
        assert_eq!(
            text,
            "{\"alarm\": true, \"asyncio\": \"LOUD\", \"child\": \"child\", \"name\": \"caller\", \"pair\": \"pair\", \
             \"pool\": [0, 1, 4, 9], \"random\": 24, \"shared\": 3, \"sqlite\": 7, \"ssl\": true, \
             \"temporary\": \"kept\", \"threads\": 328350, \"user\": true, \"zone\": \"UTC\"}\n",
            "{}",
            skd.log_lines().join("\n")
        );
    });
}

#[test]
fn perl() {
    requires_command("perl");
    const SCRIPT: &str = r#"
use strict; use warnings; use File::Temp 'tempfile'; use IO::Handle; use POSIX 'strftime'; use Socket; use Time::HiRes 'sleep';
my $name = <STDIN>; chomp $name;
my ($file, $path) = tempfile(); print $file "kept\n"; close $file;
open my $again, '<', $path or die $!; my $kept = <$again>; unlink $path;
my $pid = fork // die; if (!$pid) { exit 3 } waitpid $pid, 0;
my $output = `echo shell`;
socketpair(my $a, my $b, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or die $!; syswrite $a, "pair"; sysread $b, my $pair, 4;
my ($user) = getpwuid $>; die "no user" if !defined $user;
sleep 0.01;
print "$name $kept" . ($? >> 8) . " $pair $output" . (strftime('%Y', gmtime) > 2000 ? "later\n" : "earlier\n");
"#;
    let (_directory, option) = shown(&[("script.pl", SCRIPT)]);
    by_each(|skd, _| {
        let skd = skd
            .args(["--ro", &option])
            .run_with("perl", ["/shown/script.pl"]);
        assert_eq!(
            answer(&skd, b"caller\n"),
            "caller kept\n0 pair shell\nlater\n"
        );
    });
}

#[test]
fn compiled_programs() {
    const SOURCE: &str = r#"
#include <pthread.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
static void *work(void *number) { return (char *)number + 1; }
int main(void) {
    char line[64];
    if (!fgets(line, sizeof line, stdin)) return 2;
    pthread_t thread;
    void *result = 0;
    if (pthread_create(&thread, 0, work, (void *)41) || pthread_join(thread, &result)) return 3;
    FILE *file = tmpfile();
    if (!file || fputs(line, file) < 0) return 4;
    pid_t child = fork();
    if (child == 0) _exit(7);
    int status;
    if (waitpid(child, &status, 0) != child) return 5;
    time_t now = time(0);
    printf("%ld %d %s%s", (long)result, WEXITSTATUS(status), localtime(&now)->tm_year > 100 ? "" : "past ", line);
    return system("exit 0") != 0;
}
"#;
    let directory = Directory::public();
    let names = [
        directory.compile("static", SOURCE),
        directory.compile_shared("dynamic", SOURCE),
    ];
    // Shown because they are run, wherever they are.
    for name in &names {
        by_each(|skd, _| {
            assert_eq!(answer(&skd.run(name), b"hello\n"), "42 7 hello\n");
        });
    }
}

#[test]
fn busybox_httpd() {
    requires_command("busybox");
    requires_command("curl");
    let (directory, option) = shown(&[("index.html", "a page\n")]);
    fs::create_dir(directory.join("cgi-bin")).unwrap();
    let script = directory.script(
        "hello",
        "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\necho \"$QUERY_STRING\"\n",
    );
    fs::rename(script, directory.join("cgi-bin/hello")).unwrap();
    by_each(|skd, _| {
        let skd = skd
            .args(["--ro", &option])
            .run_with("busybox", ["httpd", "-i", "-h", "/shown"]);
        let get = |path: &str| {
            let url = format!("http://{}/{path}", skd.address());
            let output = Command::new("curl")
                .args(["-sS", "--path-as-is", "--noproxy", "*", &url])
                .output();
            String::from_utf8(output.unwrap().stdout).unwrap()
        };
        assert_eq!(get("index.html"), "a page\n");
        assert_eq!(get("cgi-bin/hello?asked"), "asked\n");
        assert!(!get("../../../etc/passwd").contains("root:"));
    });
}

/// Runs git, and expects success.
#[track_caller]
fn git(directory: &Path, words: &[&str]) -> String {
    let output = Command::new("git")
        .args([
            "-c",
            "user.name=test",
            "-c",
            "user.email=test@here",
            "-c",
            "safe.directory=*",
        ])
        .args(words)
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_TERMINAL_PROMPT", "0")
        .output()
        .expect("git");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "git {words:?}: {text}{errors}");
    text
}

#[test]
fn git_daemon() {
    requires_command("git");
    let directory = Directory::public();
    git(directory.path(), &["init", "-q", "work"]);
    let work = directory.join("work");
    fs::write(work.join("file"), "kept\n").unwrap();
    git(&work, &["add", "file"]);
    git(&work, &["commit", "-q", "-m", "First"]);
    git(
        directory.path(),
        &["clone", "-q", "--bare", "work", "served.git"],
    );
    let option = format!("{}:/srv/git/served.git", directory.name("served.git"));
    by_each(|skd, uid| {
        // git refuses repositories of others.
        for path in walk(&directory.join("served.git")) {
            chown(path, Some(uid), Some(uid)).unwrap();
        }
        let skd = skd
            .args(["--ro", &option, "--timeout", &time_limit(60)])
            .run_with(
                "git",
                [
                    "daemon",
                    "--inetd",
                    "--export-all",
                    "--base-path=/srv/git",
                    "/srv/git",
                ],
            );
        let copy = Directory::new();
        let url = format!("git://{}/served.git", skd.address());
        git(copy.path(), &["clone", "-q", &url, "copy"]);
        assert_eq!(copy.read("copy/file"), "kept\n");
        let refused = Command::new("git")
            .args(["push", "-q", &url, "HEAD:refs/heads/other"])
            .current_dir(copy.join("copy"))
            .output();
        assert!(!refused.unwrap().status.success());
    });
}

/// A directory, and all that is in it.
fn walk(path: &Path) -> Vec<std::path::PathBuf> {
    let mut found = vec![path.to_owned()];
    let mut at = 0;
    while at < found.len() {
        if let Ok(entries) = fs::read_dir(&found[at]) {
            found.extend(entries.flatten().map(|entry| entry.path()));
        }
        at += 1;
    }
    found
}

#[test]
fn sqlite() {
    requires_command("sqlite3");
    by_each(|skd, uid| {
        let directory = Directory::public();
        fs::create_dir(directory.join("data")).unwrap();
        chown(directory.join("data"), Some(uid), Some(uid)).unwrap();
        let option = format!("{}:/data", directory.name("data"));
        let line = "sqlite3 -cmd '.timeout 20000' /data/kept.db \
                    'pragma journal_mode=wal; create table if not exists kept (number); insert into kept values (1); \
                     select count(*) from kept' && sqlite3 /tmp/own.db 'create table own (number); insert into own values (1); \
                     select count(*) from own; vacuum'";
        let skd = skd.args(["--rw", &option]).run_with("sh", ["-c", line]);
        // The database is that of all, /tmp that of each.
        for count in 1..4 {
            assert_eq!(answer(&skd, b""), format!("wal\n{count}\n1\n"));
        }
        assert!(directory.join("data/kept.db").exists());
    });
}

#[test]
fn a_line_as_in_the_documents() {
    by_each(|skd, _| {
        let skd = skd
            .args(["--timeout", &time_limit(60), "-c", "2"])
            .run_with("bash", ["-c", "echo \"Hello $REMOTE_ADDR\"; cat"]);
        assert_eq!(answer(&skd, b"sent\n"), "Hello 127.0.0.1\nsent\n");
    });
}

#[test]
fn other_programs_that_are_there() {
    // Each with what it answers, as far as it is installed: what the machine lacks, another machine's run has.
    let programs: &[(&[&str], &[u8], &str)] = &[
        (&["cat"], b"same", "same"),
        (&["awk", "{ print $2 | \"sort\" }"], b"a 2\nb 1\n", "1\n2\n"),
        (&["sed", "s/a/b/"], b"a\n", "b\n"),
        (&["bc"], b"2^64\n", "18446744073709551616\n"),
        (&["jq", "-c", ".a"], b"{\"a\": [1]}", "[1]\n"),
        (
            &["busybox", "sh", "-c", "read line; echo $line | md5sum"],
            b"x\n",
            "401b30e3b8b5d629635a5c613cdb7919  -\n",
        ),
        (
            &["openssl", "dgst", "-sha256", "-r"],
            b"",
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 *stdin\n",
        ),
        (
            &["gzip", "-dc"],
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\0\0\x83\x16\xdc\x8c\x01\0\0\0",
            "x",
        ),
        (&["socat", "-", "EXEC:cat"], b"through\n", "through\n"),
        (&["timeout", "20", "cat"], b"kept", "kept"),
        (&["flock", "/tmp/lock", "echo", "locked"], b"", "locked\n"),
        (&["stdbuf", "-oL", "cat"], b"lines\n", "lines\n"),
        (
            &[
                "env",
                "-i",
                "/bin/sh",
                "-c",
                "ulimit -n >/dev/null; echo ${HOME-none}",
            ],
            b"",
            "none\n",
        ),
    ];
    let present = |name: &str| {
        ["/usr/bin", "/bin", "/usr/local/bin"]
            .iter()
            .any(|directory| Path::new(directory).join(name).exists())
    };
    let mut tried = 0;
    for (words, request, wanted) in programs.iter().filter(|(words, ..)| present(words[0])) {
        tried += 1;
        let skd = Skd::new(["-v", "-t", "127.0.0.1:0", "--sandbox"])
            .user(UID, UID, [])
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .run_with(words[0], &words[1..]);
        assert_eq!(answer(&skd, request), *wanted, "{words:?}");
    }
    assert!(tried >= 8, "{tried}");
}
