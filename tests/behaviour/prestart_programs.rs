//! Real programs, unmodified, started in each way. A client gets the same bytes from a prestarted handler, and a
//! program that can't be prestarted is started when its client comes.

use crate::harness::{
    Directory, Running, Skd, Way, connect_unix, python, requires_command, requires_root, talk,
    tracing_takes_a_right,
};
use nix::errno::Errno;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

/// Timeout in seconds for commands of a client; all commands here take less.
const TIMEOUT: &str = "60";

/// Runs a command, and returns its output and its status.
#[track_caller]
fn output_and_status(command: &str, args: &[&str], input: &[u8]) -> (Vec<u8>, i32) {
    let mut run = Command::new("timeout");
    run.arg(TIMEOUT).arg(command).args(args);
    run.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = run.spawn().expect("timeout(1)");
    let mut stdin = child.stdin.take().expect("a pipe");
    let output = thread::scope(|scope| {
        scope.spawn(move || {
            // A command that doesn't read all of its input closes it.
            let _ = stdin.write_all(input);
        });
        child.wait_with_output().expect("its end")
    });
    let status = output.status.code().expect("an end of its own");
    (output.stdout, status)
}

/// The output of a command that must succeed.
#[track_caller]
fn output(command: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let (output, status) = output_and_status(command, args, input);
    let text = String::from_utf8_lossy(&output);
    assert_eq!(status, 0, "{command} {args:?}: {text}");
    output
}

/// A verbose skd on a port and a unix socket.
fn serving(directory: &Directory, way: Way, program: &str, args: &[&str]) -> Running {
    Skd::new(["-v", "-t", "127.0.0.1:0", "-l"])
        .arg(directory.join("socket"))
        .args(way.options())
        .run_with(program, args)
}

/// Waits until `handlers` handlers have ended, none of them by a signal, and asserts that skd reports no trouble.
#[track_caller]
fn all_is_well(skd: &Running, way: Way, handlers: usize) {
    skd.wait_for_logs("exited with status ", handlers);
    way.wait_idle(skd);
    assert_eq!(skd.logged("Closed").len(), handlers, "{way:?}");
    assert_eq!(skd.troubles(), [""; 0], "{way:?}");
}

/// Lines of text of about `length` bytes, each different.
fn lines(length: usize) -> Vec<u8> {
    let line = |number: usize| {
        let word = number.wrapping_mul(0x9e37_79b9) % 0x1_0000_0000;
        format!(
            "{number} {word:08x} {} the end of it\n",
            "some words ".repeat(7)
        )
    };
    let mut text = Vec::new();
    for number in 0.. {
        if text.len() >= length {
            break;
        }
        text.extend(line(number).into_bytes());
    }
    text
}

/// Runs `body` `count` times in parallel, each time with another number, and returns the results.
fn at_once<T: Send>(count: usize, body: impl Fn(usize) -> T + Sync) -> Vec<T> {
    thread::scope(|scope| {
        let body = &body;
        let threads: Vec<_> = (0..count)
            .map(|number| scope.spawn(move || body(number)))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a thread that hasn't failed"))
            .collect()
    })
}

/// Asserts that output and status of a program that filters its input are the same with skd as without it, for inputs
/// of all sizes, each way of starting and concurrent clients. The program must read before it ends.
#[track_caller]
fn filter(program: &str, args: &[&str]) {
    filter_of(1_000_000, program, args);
}

/// The same with `most` as the largest size, for programs that read byte by byte.
#[track_caller]
fn filter_of(most: usize, program: &str, args: &[&str]) {
    let inputs = [Vec::new(), b"one line\n".to_vec(), lines(most)];
    let expected = inputs
        .each_ref()
        .map(|input| output_and_status(program, args, input));
    assert!(!expected[2].0.is_empty());
    for &way in Way::ALL {
        let directory = Directory::new();
        let skd = serving(&directory, way, program, args);
        let ask = |local: bool, which: usize| {
            let heard = if local {
                talk(connect_unix(directory.join("socket")), &inputs[which])
            } else {
                talk(skd.connect(), &inputs[which])
            };
            let (length, expected) = (heard.len(), &expected[which].0);
            let whole = expected.len();
            assert!(heard == *expected, "{way:?}: {length} bytes, not {whole}");
        };
        let first = way.connect(&skd).0;
        assert!(talk(first, &inputs[1]) == expected[1].0, "{way:?}");
        // More clients than prestarted handlers.
        thread::scope(|scope| {
            let ask = &ask;
            scope.spawn(move || ask(false, 2));
            scope.spawn(move || ask(true, 2));
            for client in 0..6_usize {
                scope.spawn(move || (0..2).for_each(|turn| ask(client < 2, (client + turn) % 2)));
            }
        });
        all_is_well(&skd, way, 15);
        for (count, which) in [(6, 0), (7, 1), (2, 2)] {
            let status = expected[which].1;
            let ended = skd.logged(&format!("exited with status {status} after"));
            assert!(ended.len() >= count, "{way:?}: {ended:#?}");
        }
    }
}

/// The same for a script of this interpreter, in a file.
#[track_caller]
fn script(interpreter: &str, text: &str) {
    script_of(1_000_000, interpreter, text);
}

#[track_caller]
fn script_of(most: usize, interpreter: &str, text: &str) {
    let directory = Directory::new();
    let script = directory.script("script", &format!("#!{interpreter}\n{text}"));
    filter_of(most, script.to_str().unwrap(), &[]);
}

/// The path of a command, for the first line of a script.
fn path_of(command: &str) -> String {
    requires_command(command);
    let line = format!("command -v {command}");
    let path = output("sh", &["-c", &line], b"");
    String::from_utf8(path).unwrap().trim().to_owned()
}

#[test]
fn cat() {
    filter("cat", &[]);
}

#[test]
fn grep() {
    // Its status says whether it has found something.
    filter("grep", &["-n", "-E", "^|[0-9]$"]);
}

#[test]
fn sed() {
    filter("sed", &["-n", "s/[aeiou]/<&>/gp; $="]);
}

#[test]
fn bash_reads_and_writes() {
    let text = "declare -i count=0\n\
                while IFS= read -r line; do\n\
                    [[ $line =~ ^[0-9]+ ]] && echo \"${BASH_REMATCH[0]} ${#line}\"\n\
                    count+=1\n\
                done\n\
                printf '%d lines\\n' \"$count\"";
    script_of(100_000, &path_of("bash"), text);
}

#[test]
fn dash_reads_and_writes() {
    let text = "count=0\n\
                while IFS= read -r line; do count=$((count + 1)); echo \"$count ${#line}\"; done\n\
                echo \"$count lines\"";
    script_of(100_000, &path_of("sh"), text);
}

#[test]
fn a_shell_script_in_an_argument() {
    let text = "cat <<END\n\
                Welcome to $(printf '%s' here), where 1 + 1 is $((1 + 1)).\n\
                END\n\
                cat - <<'END'\n\
                $literally\n\
                END\n\
                exec cat";
    for shell in ["bash", "sh"] {
        script(&path_of(shell), text);
    }
}

#[test]
fn a_shell_with_pipes_to_other_programs() {
    let text = "tr a-z A-Z | sort | sed 's/^/: /' | head -n 100000; echo done";
    for shell in ["bash", "sh"] {
        script(&path_of(shell), text);
    }
}

#[test]
fn a_shell_that_becomes_another_program() {
    let text = "IFS= read -r first\necho \"first: $first\"\nexec tr a-z A-Z";
    for shell in ["bash", "sh"] {
        script(&path_of(shell), text);
        script(&path_of(shell), "exec tr a-z A-Z");
    }
}

#[test]
fn commands_of_a_shell() {
    requires_command("bash");
    filter("bash", &["-c", "cat; echo end"]);
    filter("sh", &["-c", "read -r line; echo \"$line\"; cat; echo end"]);
    filter("env", &["A=B", "sh", "-c", "echo $A; exec cat"]);
}

#[test]
fn perl_with_modules() {
    let text = "use strict; use warnings;\n\
                use POSIX qw(floor); use List::Util qw(sum max); use Getopt::Long; use Socket;\n\
                my @lengths;\n\
                while (my $line = <STDIN>) { chomp $line; push @lengths, length $line; \
                    print scalar(reverse $line), \"\\n\" }\n\
                printf \"%d %d %d\\n\", scalar @lengths, sum(0, @lengths), max(0, @lengths);";
    script(&path_of("perl"), text);
}

#[test]
fn python_with_its_full_exit() {
    let text = "import sys, os, re\n\
                count = 0\n\
                for line in sys.stdin:\n    \
                    count += len(re.findall('[a-z]+', line))\n    \
                    sys.stdout.write(line.upper())\n\
                print(count)";
    script(&python(), text);
}

#[test]
fn python_that_exits_at_once() {
    let text = "import sys, os\n\
                said = sys.stdin.buffer.read()\n\
                sys.stdout.buffer.write(said[::-1])\n\
                sys.stdout.flush()\n\
                os._exit(0)";
    script(&python(), text);
}

#[test]
fn busybox_programs() {
    requires_command("busybox");
    filter("busybox", &["sed", "s/e/E/g"]);
    filter_of(
        100_000,
        "busybox",
        &["sh", "-c", "while read -r a b; do echo \"$b $a\"; done"],
    );
}

#[test]
fn programs_that_run_other_programs() {
    requires_command("socat");
    filter("timeout", &[TIMEOUT, "nice", "sort"]);
    filter("socat", &["-t", TIMEOUT, "-", "EXEC:cat"]);
}

/// Uses its connection in a way that the argument names, and then echoes.
const TOUCHING: &str = r#"
    #define _GNU_SOURCE
    #include <fcntl.h>
    #include <poll.h>
    #include <pthread.h>
    #include <stdlib.h>
    #include <string.h>
    #include <sys/epoll.h>
    #include <sys/ioctl.h>
    #include <sys/mman.h>
    #include <sys/prctl.h>
    #include <sys/select.h>
    #include <sys/sendfile.h>
    #include <sys/socket.h>
    #include <sys/syscall.h>
    #include <sys/uio.h>
    #include <sys/wait.h>
    #include <termios.h>
    #include <time.h>
    #include <unistd.h>
    static char bytes[65536];
    static int in = 0, out = 1;
    static void *nothing(void *its) { return its; }
    static void sent(ssize_t length) {
        for (ssize_t at = 0, more; at < length; at += more)
            if ((more = write(out, bytes + at, length - at)) <= 0) _exit(3);
    }
    static ssize_t first(const char *how) {
        struct iovec room = { bytes, sizeof bytes };
        struct msghdr message = { .msg_iov = &room, .msg_iovlen = 1 };
        struct mmsghdr messages = { .msg_hdr = message };
        struct pollfd polled = { 0, POLLIN };
        struct sockaddr_storage address;
        struct timespec pause = { 1, 500000000 };
        socklen_t size = sizeof address;
        int number = 1, ends[2];
        pthread_t thread;
        fd_set set;
        FD_ZERO(&set);
        FD_SET(0, &set);
    #define IS(what) (!strcmp(how, what))
    #define OR_FAIL(what) if (what) _exit(4)
        if (IS("read")) return read(0, bytes, sizeof bytes);
        if (IS("readv")) return readv(0, &room, 1);
        if (IS("recv")) return recv(0, bytes, sizeof bytes, 0);
        if (IS("recvfrom")) return recvfrom(0, bytes, sizeof bytes, 0, (void *)&address, &size);
        if (IS("recvmsg")) return recvmsg(0, &message, 0);
        if (IS("recvmmsg")) return recvmmsg(0, &messages, 1, 0, 0) == 1 ? messages.msg_len : -1;
        if (IS("read of 1")) return read(1, bytes, sizeof bytes);
        if (IS("write")) OR_FAIL(write(1, "+", 1) != 1);
        if (IS("write to 0")) OR_FAIL(write(0, "+", 1) != 1);
        if (IS("writev")) { memcpy(bytes, "+", 1); room.iov_len = 1; OR_FAIL(writev(1, &room, 1) != 1); }
        if (IS("send")) OR_FAIL(send(1, "+", 1, 0) != 1);
        if (IS("sendmsg")) { memcpy(bytes, "+", 1); room.iov_len = 1; OR_FAIL(sendmsg(1, &message, 0) != 1); }
        if (IS("sendfile")) { int file = open("/proc/self/exe", O_RDONLY); OR_FAIL(sendfile(1, file, 0, 100) != 100); close(file); }
        if (IS("splice")) { OR_FAIL(pipe(ends)); ssize_t length = splice(0, 0, ends[1], 0, 4096, 0);
                            if (length > 0) OR_FAIL(splice(ends[0], 0, 1, 0, length, 0) != length);
                            close(ends[0]); close(ends[1]); return 0; }
        if (IS("poll")) OR_FAIL(poll(&polled, 1, -1) != 1);
        if (IS("ppoll")) OR_FAIL(ppoll(&polled, 1, 0, 0) != 1);
        if (IS("select")) OR_FAIL(select(1, &set, 0, 0, 0) != 1);
        if (IS("pselect")) OR_FAIL(pselect(1, &set, 0, 0, 0, 0) != 1);
        if (IS("epoll")) { struct epoll_event event = { .events = EPOLLIN }; int all = epoll_create1(0);
                           OR_FAIL(epoll_ctl(all, EPOLL_CTL_ADD, 0, &event)); OR_FAIL(epoll_wait(all, &event, 1, -1) != 1); close(all); }
        if (IS("getpeername")) OR_FAIL(getpeername(0, (void *)&address, &size) || address.ss_family != AF_INET);
        if (IS("getsockname")) OR_FAIL(getsockname(1, (void *)&address, &size) || address.ss_family != AF_INET);
        if (IS("getsockopt")) { size = sizeof number; OR_FAIL(getsockopt(0, SOL_SOCKET, SO_DOMAIN, &number, &size) || number != AF_INET); }
        if (IS("setsockopt")) OR_FAIL(setsockopt(1, SOL_SOCKET, SO_KEEPALIVE, &number, sizeof number));
        if (IS("shutdown")) { OR_FAIL(shutdown(0, SHUT_WR)); while (read(0, bytes, sizeof bytes) > 0); _exit(0); }
        if (IS("dup")) { in = dup(0); out = dup(1); OR_FAIL(in < 3 || out < 3); close(0); close(1); }
        if (IS("dup2")) { OR_FAIL(dup2(0, 9) != 9); in = 9; close(0); }
        if (IS("dup3")) { OR_FAIL(dup3(1, 9, O_CLOEXEC) != 9); out = 9; }
        if (IS("fcntl")) { in = fcntl(0, F_DUPFD_CLOEXEC, 10); OR_FAIL(in < 10); }
        if (IS("nonblocking")) { OR_FAIL(fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK)); OR_FAIL(!(fcntl(1, F_GETFL) & O_NONBLOCK));
                                 OR_FAIL(fcntl(0, F_SETFL, fcntl(0, F_GETFL) & ~O_NONBLOCK)); }
        if (IS("close 0")) { OR_FAIL(close(0)); OR_FAIL(fcntl(0, F_GETFD) != -1); in = 1; }
        if (IS("close 1")) { OR_FAIL(close(1)); OR_FAIL(fcntl(1, F_GETFD) != -1); out = 0; }
        if (IS("cloexec")) OR_FAIL(fcntl(0, F_SETFD, FD_CLOEXEC));
        if (IS("ioctl")) OR_FAIL(ioctl(0, FIONREAD, &number));
        if (IS("isatty")) OR_FAIL(isatty(0) || isatty(1));
        if (IS("lseek")) OR_FAIL(lseek(0, 0, SEEK_CUR) != -1);
        if (IS("closed by range")) { OR_FAIL(close_range(3, ~0u, 0)); }
        if (IS("fork")) { int child = fork(); if (!child) { write(1, "+", 1); _exit(0); } OR_FAIL(waitpid(child, &number, 0) != child || number); }
        if (IS("vfork")) { int child = vfork(); if (!child) _exit(0); OR_FAIL(waitpid(child, &number, 0) != child || number); }
        if (IS("thread")) { OR_FAIL(pthread_create(&thread, 0, nothing, 0)); OR_FAIL(pthread_join(thread, 0)); }
        if (IS("alarm")) { alarm(1000); OR_FAIL(alarm(0) < 1); }
        if (IS("memory that is not copied")) {
            char *own = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            OR_FAIL(own == MAP_FAILED || madvise(own, 4096, MADV_DONTFORK));
            *own = '+';
            ssize_t length = read(0, bytes, sizeof bytes);
            OR_FAIL(*own != '+');
            return length;
        }
        if (IS("subreaper")) {
            OR_FAIL(prctl(PR_SET_CHILD_SUBREAPER, 1));
            ssize_t length = read(0, bytes, sizeof bytes);
            OR_FAIL(prctl(PR_GET_CHILD_SUBREAPER, &number) || number != 1);
            return length;
        }
        if (IS("asynchronous")) {
            unsigned long context = 0;
            OR_FAIL(syscall(SYS_io_setup, 1, &context));
            ssize_t length = read(0, bytes, sizeof bytes);
            OR_FAIL(syscall(SYS_io_destroy, context));
            return length;
        }
        if (IS("sleep")) OR_FAIL(nanosleep(&pause, 0));
        return 0;
    }
    int main(int count, char **words) {
        ssize_t length = first(words[1]);
        if (length < 0) _exit(5);
        sent(length);
        while ((length = read(in, bytes, sizeof bytes)) > 0) sent(length);
        return length ? 6 : 0;
    }"#;

/// The first uses of a connection by a program.
const TOUCHES: [&str; 43] = [
    "read",
    "readv",
    "recv",
    "recvfrom",
    "recvmsg",
    "recvmmsg",
    "read of 1",
    "write",
    "write to 0",
    "writev",
    "send",
    "sendmsg",
    "sendfile",
    "splice",
    "poll",
    "ppoll",
    "select",
    "pselect",
    "epoll",
    "getpeername",
    "getsockname",
    "getsockopt",
    "setsockopt",
    "shutdown",
    "dup",
    "dup2",
    "dup3",
    "fcntl",
    "nonblocking",
    "close 0",
    "close 1",
    "cloexec",
    "ioctl",
    "isatty",
    "lseek",
    "closed by range",
    "fork",
    "vfork",
    "thread",
    "alarm",
    "memory that is not copied",
    "subreaper",
    "asynchronous",
];

/// Asserts that handlers that first use their connection like this answer alike, whichever way they are started.
#[track_caller]
fn touched(program: &str, touch: &str, turns: usize) {
    let said = lines(20_000);
    let mut expected = None;
    for &way in Way::ALL {
        let directory = Directory::new();
        let skd = serving(&directory, way, program, &[touch]);
        // One copy, and another.
        let turns = if way == Way::Exec { 1 } else { turns };
        for turn in 0..turns {
            let heard = talk(way.connect(&skd).0, &said);
            let lost = heard.len() < said.len() && touch != "shutdown";
            assert!(!lost, "{touch}, {way:?}: {} bytes", heard.len());
            let expected = expected.get_or_insert_with(|| heard.clone());
            assert!(heard == *expected, "{touch}, {way:?}, turn {turn}");
        }
        all_is_well(&skd, way, turns);
    }
}

#[test]
fn whatever_a_program_does_first_acts_on_its_connection() {
    let directory = Directory::new();
    let program = directory.compile("touching", TOUCHING);
    let next = AtomicUsize::new(0);
    at_once(4, |_| {
        while let Some(touch) = TOUCHES.get(next.fetch_add(1, Ordering::Relaxed)) {
            touched(program.to_str().unwrap(), touch, 2);
        }
    });
}

#[test]
fn a_program_that_sleeps_first_continues_its_sleep() {
    let directory = Directory::new();
    let program = directory.compile_shared("touching", TOUCHING);
    // Longer than skd waits for the handler to be parked there.
    touched(program.to_str().unwrap(), "sleep", 1);
}

#[test]
fn repositories_are_cloned_from_git_daemon() {
    requires_command("git");
    let directory = Directory::new();
    let repository = directory.name("project.git");
    let make = "
        export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
        git init -q \"$1/work\"
        cd \"$1/work\"
        git config user.name somebody; git config user.email somebody@here
        for number in $(seq 30); do
            head -c 20000 /dev/urandom | base64 > file$number
            git add .
            git commit -q -m \"Number $number\"
        done
        git clone -q --bare . \"$2\"
        git -C \"$2\" fsck --no-progress
    ";
    let path = directory.path().to_str().unwrap();
    output("sh", &["-ec", make, "sh", path, &repository], b"");
    let clone = "
        export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_SYSTEM=/dev/null
        git ls-remote \"$1\"
        git clone -q \"$1\" \"$2\"
        cd \"$2\"
        git fsck --no-progress
        git log --format=%H
        git status --porcelain
        sha256sum file*
    ";
    let mut expected = None;
    for &way in Way::ALL {
        let base = format!("--base-path={path}");
        // The repository may belong to another user than root, going by its path.
        let skd = Skd::new(["-v", "-t", "127.0.0.1:0"])
            .args(way.options())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_CONFIG_SYSTEM", "/dev/null")
            .run_with("git", ["daemon", "--inetd", "--export-all", &base]);
        drop(way.connect(&skd).0);
        way.ready(&skd);
        let url = format!("git://{}/project.git", skd.address());
        let clones = Directory::new();
        let answers = at_once(5, |number| {
            let to = clones.name(&number.to_string());
            output("sh", &["-ec", clone, "sh", &url, &to], b"")
        });
        for answer in answers {
            let expected = expected.get_or_insert_with(|| answer.clone());
            assert!(answer == *expected, "{way:?}");
        }
        skd.wait_for_logs("exited with status 0 after", 2 * 5);
        way.wait_idle(&skd);
        assert_eq!(skd.troubles(), [""; 0], "{way:?}");
    }
    let expected = String::from_utf8(expected.unwrap()).unwrap();
    assert!(expected.lines().count() >= 30 + 30 + 2, "{expected}");
}

#[test]
fn files_are_fetched_from_rsync() {
    requires_command("rsync");
    let directory = Directory::new();
    let (path, large) = (directory.name("files"), lines(1_000_000));
    std::fs::create_dir(&path).unwrap();
    directory.write("files/large", &large);
    directory.write("files/empty", "");
    directory.write("files/small", "small\n");
    let own = if nix::unistd::geteuid().is_root() {
        "uid = root\ngid = root\n"
    } else {
        ""
    };
    let log = directory.name("log");
    let config = format!(
        "{own}log file = {log}\nuse chroot = no\nreverse lookup = no\n\
         [files]\npath = {path}\ncomment = what there is\nread only = yes\n"
    );
    let config = format!("--config={}", directory.write("conf", config).display());
    for &way in Way::ALL {
        let skd = Skd::new(["-v", "-t", "127.0.0.1:0"])
            .args(way.options())
            .run_with("rsync", ["--daemon", &config]);
        // The server sends first.
        let mut first = way.connect(&skd).0;
        assert_eq!(crate::harness::receive(&mut first, 9), b"@RSYNCD: ");
        drop(first);
        let url = format!("rsync://{}/", skd.address());
        let copies = Directory::new();
        at_once(5, |number| {
            let listed = output("rsync", &[&url], b"");
            let listed = String::from_utf8(listed).unwrap();
            assert_eq!(listed.trim_end(), "files          \twhat there is");
            let to = copies.name(&number.to_string());
            output("rsync", &["-r", &format!("{url}files/"), &to], b"");
            for (name, contents) in [("large", &large[..]), ("empty", b""), ("small", b"small\n")] {
                let copy = std::fs::read(format!("{to}/{name}")).unwrap();
                assert!(copy == contents, "{way:?}, {name}");
            }
        });
        // A listing ends with another status, and so does an aborted client.
        skd.wait_for_logs("Closed", 1 + 2 * 5);
        assert_eq!(skd.logged("exited with status 0 after").len(), 5);
        way.wait_idle(&skd);
        assert_eq!(skd.troubles(), [""; 0], "{way:?}");
    }
}

#[test]
fn a_web_server_answers_curl() {
    requires_command("busybox");
    requires_command("curl");
    let directory = Directory::new();
    directory.write("index.html", "<h1>It works.</h1>\n");
    directory.write("empty.html", "");
    let large = lines(1_000_000);
    directory.write("large.txt", &large);
    let path = directory.path().to_str().unwrap();
    for &way in Way::ALL {
        let skd = Skd::new(["-v", "-t", "127.0.0.1:0"])
            .args(way.options())
            .run_with("busybox", ["httpd", "-i", "-h", path]);
        drop(way.connect(&skd).0);
        let url = format!("http://{}/", skd.address());
        at_once(6, |_| {
            for (file, contents) in [
                ("", &b"<h1>It works.</h1>\n"[..]),
                ("empty.html", b""),
                ("large.txt", &large),
            ] {
                let heard = output(
                    "curl",
                    &["--silent", "--fail", &format!("{url}{file}")],
                    b"",
                );
                assert!(heard == contents, "{way:?}, {file}");
            }
            // A file that doesn't exist.
            let code = "%{http_code}";
            let missing = [
                "-s",
                "-o",
                "/dev/null",
                "-w",
                code,
                &format!("{url}missing"),
            ];
            assert_eq!(output("curl", &missing, b""), b"404");
        });
        skd.wait_for_logs("exited with status 0 after", 6 * 4);
        way.wait_idle(&skd);
        assert_eq!(skd.troubles(), [""; 0], "{way:?}");
    }
}

// Programs that can't be prestarted.

/// Asserts that a service logs one line about why it prestarts nothing, and serves.
#[track_caller]
fn falls_back(skd: &Running, way: Way, ask: impl Fn()) {
    let said = |count: usize| {
        // No process is ever parked, and there is no second attempt.
        assert_eq!(crate::harness::parked(skd.pid()), [0; 0], "{way:?}");
        let said = skd.troubles();
        assert!(said.len() <= count, "{way:?}: {said:#?}");
    };
    if way != Way::Exec {
        skd.wait_for_log("skd: ");
    }
    for _ in 0..8 {
        ask();
        said(usize::from(way != Way::Exec));
    }
    skd.wait_for_logs("Closed", 8);
    skd.wait_until("nothing is left", || skd.children().is_empty());
    said(usize::from(way != Way::Exec));
}

#[test]
fn a_program_that_ends_at_once_is_started_for_each_client_in_shared_mode() {
    // Otherwise it is parked at its end.
    for way in [Way::Exec, Way::Shared] {
        let directory = Directory::new();
        let skd = serving(&directory, way, "true", &[]);
        falls_back(&skd, way, || {
            assert_eq!(talk(skd.connect(), b""), b"");
            assert_eq!(talk(connect_unix(directory.join("socket")), b""), b"");
        });
    }
}

/// Prints its user ids to a client that has sent something; it may have the set-user-ID bit.
const WHO: &str = r#"
    #include <stdio.h>
    #include <unistd.h>
    int main(void) {
        char said;
        read(0, &said, 1);
        return printf("%d %d\n", (int)getuid(), (int)geteuid()) < 0;
    }"#;

/// A service of root that changes to this user.
fn serve_as(way: Way, program: &std::path::Path) -> Running {
    Skd::new(["-v", "-U", "-t", "127.0.0.1:0"])
        .args(way.options())
        .env("UID", "61234")
        .env("GID", "61235")
        .env_remove("ROOT")
        .run(program)
}

#[test]
fn a_set_uid_program_runs_as_its_owner() {
    requires_root();
    for &way in Way::ALL {
        let directory = Directory::public();
        let program = directory.compile("who", WHO);
        let skd = serve_as(way, &program);
        let client = if way != Way::Exec && tracing_takes_a_right() {
            skd.connect()
        } else {
            way.connect(&skd).0
        };
        assert_eq!(talk(client, b"."), b"61234 61234\n");
        drop(skd);
        directory.chmod("who", 0o4755);
        let skd = serve_as(way, &program);
        falls_back(&skd, way, || {
            assert_eq!(talk(skd.connect(), b"."), b"61234 0\n", "{way:?}");
        });
    }
}

#[test]
fn a_set_uid_program_runs_as_its_owner_in_another_root_directory() {
    requires_root();
    for &way in Way::ALL {
        // That root directory has no /proc.
        let root = Directory::public();
        root.compile("who", WHO);
        root.chmod("who", 0o4755);
        let skd = Skd::new(["-v", "-U", "-t", "127.0.0.1:0"])
            .args(way.options())
            .env("UID", "61234")
            .env("GID", "61235")
            .env("ROOT", root.path())
            .run("/who");
        falls_back(&skd, way, || {
            assert_eq!(talk(skd.connect(), b"."), b"61234 0\n", "{way:?}");
        });
    }
}

#[test]
fn a_program_with_file_capabilities_has_them() {
    requires_root();
    requires_command("python3");
    let text = r#"
        #include <stdio.h>
        #include <string.h>
        #include <unistd.h>
        int main(void) {
            char line[200];
            read(0, line, 1);
            FILE *status = fopen("/proc/self/status", "r");
            while (status && fgets(line, sizeof line, status))
                if (!strncmp(line, "CapEff", 6)) fputs(line, stdout);
            return 0;
        }"#;
    // CAP_NET_RAW, permitted and effective (capabilities(7), VFS_CAP_REVISION_2).
    let grant = "import os, struct, sys; os.setxattr(sys.argv[1], 'security.capability', \
                 struct.pack('<IIIII', 0x02000001, 1 << 13, 0, 0, 0))";
    for &way in Way::ALL {
        let directory = Directory::public();
        let program = directory.compile("rights", text);
        output("python3", &["-c", grant, program.to_str().unwrap()], b"");
        let skd = serve_as(way, &program);
        falls_back(&skd, way, || {
            let heard = String::from_utf8(talk(skd.connect(), b".")).unwrap();
            assert_eq!(heard, "CapEff:\t0000000000002000\n", "{way:?}");
        });
    }
}

#[test]
fn an_unreadable_program_is_run() {
    requires_root();
    for &way in Way::ALL {
        let directory = Directory::public();
        let program = directory.compile("who", WHO);
        directory.chmod("who", 0o711);
        let skd = serve_as(way, &program);
        falls_back(&skd, way, || {
            assert_eq!(talk(skd.connect(), b"."), b"61234 61234\n", "{way:?}");
        });
    }
}

#[test]
fn handlers_are_started_on_demand_where_the_machine_forbids_prestarting() {
    requires_command("strace");
    for &way in Way::PRESTARTED {
        // A system call filter, as of a container.
        let skd = Skd::new(["-v", "-t", "127.0.0.1:0"])
            .args(way.options())
            .refusing(libc::SYS_ptrace, Errno::EPERM)
            .run("cat");
        falls_back(&skd, way, || {
            assert_eq!(talk(skd.connect(), b"served"), b"served");
        });
        // A kernel without pidfds, where a signal could reach another process.
        let pidfd = libc::CLONE_PIDFD as u32;
        let skd = Skd::new(["-v", "-t", "127.0.0.1:0"])
            .args(way.options())
            .refusing(libc::SYS_clone3, Errno::ENOSYS)
            .refusing_bits(libc::SYS_clone, 0, pidfd, Errno::EINVAL)
            .refusing(libc::SYS_pidfd_open, Errno::ENOSYS)
            .run("cat");
        falls_back(&skd, way, || {
            assert_eq!(talk(skd.connect(), b"served"), b"served");
        });
        // A tracer that follows all processes that skd starts.
        let skd = Skd::new(["-v", "-t", "127.0.0.1:0"])
            .args(way.options())
            .wrapper(["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=none"])
            .run("cat");
        falls_back(&skd, way, || {
            assert_eq!(talk(skd.connect(), b"served"), b"served");
        });
    }
}

#[test]
fn a_program_that_cannot_be_started_is_refused_or_reported_as_without_prestarting() {
    let directory = Directory::new();
    let script = directory.script("script", "#!/no/such/interpreter\n");
    let (mut statuses, mut sentences) = (Vec::new(), Vec::new());
    for &way in Way::ALL {
        let output = Skd::new(["-t", "127.0.0.1:0"])
            .args(way.options())
            .arg(&script)
            .end();
        statuses.push(output.code());
        sentences.push(output.stderr);
    }
    statuses.dedup();
    sentences.dedup();
    assert_eq!((statuses.len(), sentences.len()), (1, 1), "{sentences:?}");
}

#[test]
fn a_program_that_daemonizes_continues_to_serve() {
    requires_command("perl");
    let text = "use POSIX; exit 0 if fork; POSIX::setsid(); exit 0 if fork; \
                while (<STDIN>) { print \"daemon: $_\" }";
    let mut expected = None;
    for &way in Way::ALL {
        let directory = Directory::new();
        let skd = serving(&directory, way, "perl", &["-e", text]);
        for turn in 0..5 {
            let heard = talk(skd.connect(), &lines(5_000));
            let expected = expected.get_or_insert_with(|| heard.clone());
            assert!(!heard.is_empty() && heard == *expected, "{way:?}, {turn}");
        }
        skd.wait_for_logs("exited with status 0 after", 5);
        way.wait_idle(&skd);
    }
}
