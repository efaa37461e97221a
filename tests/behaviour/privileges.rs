//! Dropping root: `-U`, `--user` and `--chroot`.

use crate::harness::{
    Directory, Namespace, Running, Skd, capabilities, connect_unix, each_program, environment, ids,
    receive, requires_command, requires_root, run_to_end, talk, tampering,
};
use std::io::Write;
use std::os::unix::fs::MetadataExt;

/// Ids without an account.
const UID: u32 = 61234;
const GID: u32 = 61235;

/// User, group and supplementary groups of a process; all four user ids must be equal, and so must the group ids.
#[track_caller]
fn identity(pid: i32) -> (u32, u32, Vec<u32>) {
    let (users, groups, supplementary) = ids(pid);
    assert_eq!(users, vec![users[0]; 4], "user ids of {pid}");
    assert_eq!(groups, vec![groups[0]; 4], "group ids of {pid}");
    (users[0], groups[0], supplementary)
}

/// The process that answers on a new connection. The connection is returned as well, so that the process stays.
#[track_caller]
fn handler(skd: &Running) -> (i32, std::net::TcpStream) {
    let mut stream = skd.connect();
    stream.write_all(b".").unwrap();
    assert_eq!(receive(&mut stream, 1), b".");
    (skd.wait_for_children(1)[0], stream)
}

/// `-U` to [`UID`] and [`GID`].
fn dropping<const N: usize>(options: [&str; N]) -> Skd {
    Skd::new(["-U"])
        .args(options)
        .env("UID", UID.to_string())
        .env("GID", GID.to_string())
        .env_remove("ROOT")
}

#[test]
fn the_environment_names_user_and_group() {
    requires_root();
    each_program(|program| {
        // With supplementary groups, which must be dropped.
        let skd = dropping(["-t", "127.0.0.1:0"])
            .program(program)
            .user(0, 0, [0, 4, 20, 61299])
            .run("cat");
        let (handler, _stream) = handler(&skd);
        for pid in [skd.pid(), handler] {
            assert_eq!(identity(pid), (UID, GID, vec![GID]));
        }
    });
}

#[test]
fn a_wrong_id_in_the_environment_is_refused() {
    let number_or_nothing = [
        "",
        "0x10",
        "1x",
        "x",
        "1 ",
        " 1",
        "+1",
        "-1",
        "1.0",
        "99999999999",
        "4294967295",
        "4294967296",
        "18446744073709551617",
        "root",
        "1\n",
    ];
    let directory = Directory::new();
    let refused = |name: &str, value: Option<&str>| {
        let mut skd = dropping(["-v"])
            .args([
                "-l",
                &directory.name("socket"),
                "-P",
                &directory.name("pid"),
            ])
            .args(["-L", &format!(">{}", directory.name("log")), "-B"]);
        skd = match value {
            Some(value) => skd.env(name, value),
            None => skd.env_remove(name),
        };
        let output = skd.start("cat").expect_refusal(2, &[&format!("${name}")]);
        if let Some(value) = value.filter(|value| !value.contains('\n')) {
            assert!(output.stderr.contains(&format!("'{value}'")), "{output:?}");
        }
        assert_eq!(directory.names(), [""; 0], "{name}={value:?}");
    };
    for value in number_or_nothing {
        refused("UID", Some(value));
        refused("GID", Some(value));
    }
    refused("UID", Some("0"));
    refused("UID", None);
    refused("GID", None);
}

#[test]
fn the_highest_ids_are_accepted() {
    requires_root();
    let highest = u32::MAX - 1;
    let skd = Skd::new(["-U", "-t", "127.0.0.1:0"])
        .env("UID", highest.to_string())
        .env("GID", highest.to_string())
        .run("cat");
    assert_eq!(identity(skd.pid()), (highest, highest, vec![highest]));
}

#[test]
fn the_original_stays_root_when_it_is_told_to() {
    requires_root();
    each_program(|program| {
        let skd = program
            .skd(["-U", "-t", "127.0.0.1:0"])
            .env("UID", "0")
            .env("GID", "0x10")
            .env_remove("ROOT");
        if program.is_ours() {
            skd.start("cat").expect_refusal(2, &["$UID"]);
        } else {
            let skd = skd.run("cat");
            assert_eq!(identity(skd.pid()), (0, 16, vec![16]));
        }
    });
}

/// Namespaces with users and groups of their own.
fn with_accounts() -> Namespace {
    let namespace = Namespace::new();
    let root = "root:x:0:0:root:/root:/bin/sh\n";
    let service = format!("service:x:{UID}:{GID}:A service:/var/lib/service:/bin/false\n");
    namespace.replace_file("/etc/passwd", &format!("{root}{service}"));
    let groups = format!(
        "root:x:0:\nservice:x:{GID}:\nlogs:x:61300:root,service\nmail:x:61301:service\n\
         others:x:61302:root\n"
    );
    namespace.replace_file("/etc/group", &groups);
    namespace
}

#[test]
fn numbers_need_no_accounts_at_all() {
    requires_root();
    // As in a container with one program.
    let namespace = Namespace::new();
    namespace.tmpfs("/etc");
    let user = format!("{UID}:{GID}");
    let skd = Skd::new(["-t", "127.0.0.1:0", "--user", &user]);
    let skd = skd.inside(&namespace).run("cat");
    let (handler, _stream) = handler(&skd);
    assert_eq!(identity(handler), (UID, GID, vec![GID]));
    for (user, why) in [
        ("61234", "no entry in passwd(5)"),
        ("service:0", "no user 'service'"),
        ("61234:service", "no group 'service'"),
    ] {
        let skd = Skd::new(["-t", "127.0.0.1:0", "--user", user]);
        let output = skd.inside(&namespace).start("cat");
        output.expect_refusal(2, &["--user", why]);
    }
}

#[test]
fn a_user_has_its_own_groups() {
    requires_root();
    let namespace = with_accounts();
    for (value, expected) in [
        ("service", (UID, GID, vec![GID, 61300, 61301])),
        ("61234", (UID, GID, vec![GID, 61300, 61301])),
        ("service:others", (UID, 61302, vec![61300, 61301, 61302])),
        ("service:61333", (UID, 61333, vec![61300, 61301, 61333])),
        ("61234:others", (UID, 61302, vec![61300, 61301, 61302])),
        ("54321:54322", (54321, 54322, vec![54322])),
        ("54321:logs", (54321, 61300, vec![61300])),
    ] {
        let skd = Skd::new(["-t", "127.0.0.1:0", "--user", value])
            .user(0, 0, [0, 4, 20])
            .inside(&namespace)
            .run("cat");
        let (handler, _stream) = handler(&skd);
        assert_eq!(identity(handler), expected, "--user {value}");
        assert_eq!(identity(skd.pid()), (0, 0, vec![0, 4, 20]));
        let skd = Skd::new(["-t", "127.0.0.1:0", "--daemon-user", value])
            .user(0, 0, [0, 4, 20])
            .inside(&namespace)
            .run("cat");
        assert_eq!(identity(skd.pid()), expected, "--daemon-user {value}");
    }
}

#[test]
fn a_user_has_its_own_variables() {
    requires_root();
    let namespace = with_accounts();
    let variables = ["HOME", "USER", "LOGNAME", "SHELL"];
    let seen = |value| {
        let mut skd = Skd::new(["-t", "127.0.0.1:0", "--user", value]).inside(&namespace);
        for name in variables {
            skd = skd.env(name, "inherited");
        }
        let skd = skd.run("cat");
        let (handler, _stream) = handler(&skd);
        let environment = environment(handler);
        variables.map(|name| environment.get(name).cloned())
    };
    let account = ["/var/lib/service", "service", "service", "/bin/false"];
    assert_eq!(seen("service"), account.map(|text| Some(text.to_owned())));
    // Those of another user would be worse than none.
    assert_eq!(seen("54321:54322"), [const { None }; 4]);
}

#[test]
fn ids_from_the_environment_leave_its_variables_alone() {
    requires_root();
    let skd = dropping(["-t", "127.0.0.1:0"])
        .env("HOME", "/somewhere")
        .run("cat");
    let (handler, _stream) = handler(&skd);
    let environment = environment(handler);
    assert_eq!(environment.get("HOME").unwrap(), "/somewhere");
    assert_eq!(environment.get("UID"), Some(&UID.to_string()));
}

#[test]
fn an_unknown_user_or_group_is_refused() {
    for (value, why) in [
        ("nobody-of-that-name", "nobody-of-that-name"),
        ("61234:nobody-of-that-name", "nobody-of-that-name"),
        ("4294967295", "4294967295"),
        ("61234:4294967295", "4294967295"),
        ("61234:-1", "-1"),
        ("0x10:1", "0x10"),
        // A user whose group is unknown.
        ("61234", "61234:GROUP"),
        ("root", "root"),
        ("0", "root"),
        ("0:61235", "root"),
        ("", "USER"),
        (":61235", "USER"),
        ("61234:", "USER"),
        ("61234:61235:61236", "61235:61236"),
    ] {
        let directory = Directory::new();
        let socket = directory.name("socket");
        Skd::new([
            "-B",
            "-l",
            &socket,
            "-P",
            &directory.name("pid"),
            "--user",
            value,
        ])
        .start("cat")
        .expect_refusal(2, &["--user", &format!("'{value}'"), why]);
        assert_eq!(directory.names(), [""; 0], "--user {value}");
    }
}

#[test]
fn user_and_group_are_named_only_once() {
    run_to_end(["-U", "--user", "61234:61235", "true"])
        .expect_code(2)
        .expect_stderr(&["--user", "-U"]);
    for other in ["-U", "--user=1:1"] {
        run_to_end([other, "--daemon-user", "61234:61235", "true"])
            .expect_code(2)
            .expect_stderr(&["--daemon-user"]);
    }
    run_to_end(["--chroot", "/", "true"])
        .expect_code(2)
        .expect_stderr(&["--chroot", "--user"]);
}

/// Asserts that a process has no capability except in its bounding set.
#[track_caller]
fn expect_powerless(pid: i32) {
    for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert_eq!(capabilities(pid, set), 0, "{set} of {pid}");
    }
}

#[test]
fn no_capability_is_left() {
    requires_root();
    requires_command("setpriv");
    let handed_down = "+net_bind_service,+dac_override,+setuid,+setgid";
    for wrapper in [
        vec![],
        vec!["setpriv", "--inh-caps", handed_down],
        vec![
            "setpriv",
            "--inh-caps",
            handed_down,
            "--ambient-caps",
            handed_down,
        ],
        // Where the kernel keeps capabilities across a change of the user.
        vec!["setpriv", "--securebits", "+no_setuid_fixup"],
        vec![
            "setpriv",
            "--securebits",
            "+no_setuid_fixup",
            "--inh-caps",
            handed_down,
            "--ambient-caps",
            handed_down,
        ],
    ] {
        let skd = dropping(["-t", "127.0.0.1:0"]).wrapper(&wrapper).run("cat");
        let (handler, _stream) = handler(&skd);
        assert_eq!(identity(skd.pid()), (UID, GID, vec![GID]), "{wrapper:?}");
        expect_powerless(skd.pid());
        expect_powerless(handler);
        for (thread, _) in crate::harness::threads(skd.pid()) {
            expect_powerless(thread);
        }
    }
}

#[test]
fn a_program_run_in_place_or_supervised_has_no_capability_either() {
    requires_root();
    requires_command("setpriv");
    for options in [&["-v"][..], &["-S"][..]] {
        let skd = dropping([])
            .args(options)
            .wrapper(["setpriv", "--securebits", "+no_setuid_fixup"])
            .start_with(
                "sh",
                ["-c", "cat /proc/self/status; exec cat /proc/self/status"],
            );
        skd.wait_until("the whole status twice", || {
            skd.stdout_lines()
                .iter()
                .filter(|line| line.starts_with("nonvoluntary"))
                .count()
                >= 2
        });
        let lines = skd.stdout_lines();
        let sets = ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"];
        for line in lines
            .iter()
            .filter(|line| sets.contains(&&line[..7.min(line.len())]))
        {
            assert!(line.ends_with("\t0000000000000000"), "{line}");
        }
        let user = format!("Uid:\t{UID}\t{UID}\t{UID}\t{UID}");
        assert!(lines.contains(&user), "{lines:#?}");
    }
}

/// A start with a drop of privileges in which a system call fails or does nothing, and with all files that skd can make
/// in a directory of root's, from which the user could not remove them.
fn start_without(call: &str, how: &str, options: &[&str]) -> (Running, Directory) {
    requires_root();
    requires_command("setpriv");
    let directory = Directory::public();
    let skd = dropping(["-l", &directory.name("socket")])
        .args(["-P", &directory.name("pid")])
        .args(["-L", &format!(">{}", directory.name("log"))])
        .args(options)
        // Otherwise the kernel would drop the capabilities before capset does.
        .wrapper(
            ["setpriv", "--securebits", "+no_setuid_fixup"]
                .into_iter()
                .map(str::to_owned)
                .chain(tampering(call, how)),
        )
        .start("cat");
    (skd, directory)
}

const CALLS: [&str; 4] = ["setgroups", "setresgid", "setresuid", "capset"];

#[test]
fn a_failing_drop_ends_the_start_and_leaves_nothing() {
    for call in CALLS {
        for how in ["error=EPERM", "error=EAGAIN"] {
            for options in [&["-v"][..], &["-B"][..]] {
                let (skd, directory) = start_without(call, how, options);
                skd.expect_refusal(1, &["can't"]);
                assert_eq!(directory.names(), [""; 0], "{call} {how} {options:?}");
            }
        }
    }
}

#[test]
fn a_drop_without_effect_ends_the_start_and_leaves_nothing() {
    for call in CALLS {
        for options in [&["-v"][..], &["-B"][..]] {
            let (skd, directory) = start_without(call, "retval=0", options);
            skd.expect_refusal(1, &["not dropped in full"]);
            assert_eq!(directory.names(), [""; 0], "{call} {options:?}");
        }
    }
}

#[test]
fn a_start_that_fails_after_the_drop_leaves_nothing() {
    requires_root();
    for options in [&["-v"][..], &["-B"][..]] {
        let directory = Directory::public();
        dropping(["-l", &directory.name("socket")])
            .args(["-P", &directory.name("pid")])
            .args(["-L", &format!(">{}", directory.name("log"))])
            .args(options)
            // PATH of the tests may name directories that are closed to others.
            .env("PATH", "/bin:/usr/bin")
            .start("no-such-program")
            .expect_refusal(127, &["no-such-program"]);
        assert_eq!(directory.names(), [""; 0], "{options:?}");
    }
}

#[test]
fn a_port_below_1024_is_bound_before_the_drop() {
    requires_root();
    each_program(|program| {
        let namespace = Namespace::new();
        let skd = dropping(["-t", "127.0.0.1:80"])
            .program(program)
            .inside(&namespace)
            .run("cat");
        assert_eq!(talk(skd.connect(), b"low"), b"low");
        assert_eq!(identity(skd.pid()), (UID, GID, vec![GID]));
    });
}

#[test]
fn a_socket_file_is_made_before_the_drop() {
    requires_root();
    each_program(|program| {
        let directory = Directory::public();
        let socket = directory.join("socket");
        let skd = dropping(["-l"]).program(program).arg(&socket).run("cat");
        assert_eq!(talk(connect_unix(&socket), b"unix"), b"unix");
        assert_eq!(std::fs::metadata(&socket).unwrap().uid(), 0);
        assert_eq!(identity(skd.pid()), (UID, GID, vec![GID]));
    });
}

/// A directory in which the shell and a few more programs run.
fn root_directory() -> Directory {
    let root = Directory::public();
    root.install(&["/bin/sh", "/bin/cat", "/bin/ls", "/bin/busybox"]);
    root
}

#[test]
fn the_handler_sees_another_root_directory() {
    requires_root();
    requires_command("busybox");
    each_program(|program| {
        let root = root_directory();
        root.write("only-here", "inside\n");
        let say = "busybox pwd; cat /only-here; busybox id -u; busybox ls /etc";
        let skd = dropping(["-t", "127.0.0.1:0"])
            .program(program)
            .env("ROOT", root.path())
            .env("PATH", "/bin")
            .run_with("sh", ["-c", say]);
        let answer = String::from_utf8(talk(skd.connect(), b"")).unwrap();
        assert_eq!(answer, format!("/\ninside\n{UID}\n"));
        for directory in ["root", "cwd"] {
            let link = std::fs::read_link(format!("/proc/{}/{directory}", skd.pid()));
            assert_eq!(link.unwrap(), root.path(), "{directory} of skd");
        }
    });
}

#[test]
fn a_root_directory_needs_no_dev_or_proc() {
    requires_root();
    let root = root_directory();
    // Their pid files are out of the daemon's reach, and emptied at the end.
    let outside = Directory::public();
    let start = |options: &[&str]| {
        dropping(["-P"])
            .arg(outside.join("pid"))
            .args(options)
            .env("ROOT", root.path())
            .env("PATH", "/bin")
    };
    let skd = start(&["-l", &outside.name("socket")]).daemon("cat");
    assert_eq!(talk(skd.connect_unix(), b"unix"), b"unix");
    skd.stop();
    for options in [&["-v"][..], &["-S"][..]] {
        let skd = start(options).daemon_with("busybox", ["sleep", "1000"]);
        assert_eq!(identity(skd.pid()), (UID, GID, vec![GID]), "{options:?}");
    }
}

#[test]
fn a_user_can_have_another_root_directory_too() {
    requires_root();
    requires_command("busybox");
    let root = root_directory();
    let ids = format!("{UID}:{GID}");
    let skd = Skd::new(["-t", "127.0.0.1:0", "--user", &ids, "--chroot"])
        .arg(root.path())
        // Only -U reads these.
        .env("ROOT", "/no-such-directory")
        .env("PATH", "/bin")
        .run_with("busybox", ["pwd"]);
    assert_eq!(talk(skd.connect(), b""), b"/\n");
}

#[test]
fn the_chroot_option_overrides_the_variable() {
    requires_root();
    requires_command("busybox");
    let root = root_directory();
    let skd = dropping(["-t", "127.0.0.1:0", "--chroot"])
        .arg(root.path())
        .env("ROOT", "/no-such-directory")
        .run_with("/bin/busybox", ["pwd"]);
    assert_eq!(talk(skd.connect(), b""), b"/\n");
}

#[test]
fn a_root_directory_that_cannot_be_entered_is_refused() {
    requires_root();
    let directory = Directory::public();
    let file = directory.write("file", "");
    for root in ["/no-such-directory", file.to_str().unwrap()] {
        for options in [&["-v"][..], &["-B"][..]] {
            dropping([
                "-l",
                &directory.name("socket"),
                "-P",
                &directory.name("pid"),
            ])
            .args(options)
            .env("ROOT", root)
            .start("cat")
            .expect_refusal(1, &[root]);
            assert_eq!(directory.names(), ["file"]);
        }
    }
}

#[test]
fn the_program_is_looked_up_in_the_other_root_directory() {
    requires_root();
    let root = root_directory();
    let refused = |program: &str, code, text: &str| {
        dropping(["-t", "127.0.0.1:0"])
            .env("ROOT", root.path())
            .env("PATH", "/bin:/opt")
            .start(program)
            .expect_refusal(code, &[program, text]);
    };
    // It exists outside.
    assert!(std::path::Path::new("/bin/sleep").exists());
    refused("sleep", 127, "PATH");
    refused("/bin/sleep", 127, "No such file");
    // A link to a file that exists only outside.
    std::os::unix::fs::symlink("/bin/sleep", root.join("link")).unwrap();
    refused("/link", 127, "No such file");
    // The user may not run it.
    root.script("closed", "#!/bin/sh\n");
    root.chmod("closed", 0o700);
    refused("/closed", 126, "Permission denied");
    root.script("odd", "#!/bin/bush\n");
    refused("/odd", 126, "interpreter /bin/bush");
}

#[test]
fn a_missing_dynamic_linker_is_named() {
    requires_root();
    let root = Directory::public();
    root.install(&["/bin/cat"]);
    // Only the program.
    for library in ["lib", "lib64", "usr"] {
        let _ = std::fs::remove_dir_all(root.join(library));
    }
    dropping(["-t", "127.0.0.1:0"])
        .env("ROOT", root.path())
        .start("/bin/cat")
        .expect_refusal(126, &["/bin/cat", "interpreter /lib", "doesn't exist"]);
}

/// Starts as an ordinary user, with `-U` to these ids.
fn as_user(groups: &[u32], uid: u32, gid: u32, directory: &Directory) -> Skd {
    directory.chmod("", 0o777);
    Skd::new([
        "-U",
        "-l",
        &directory.name("socket"),
        "-P",
        &directory.name("pid"),
    ])
    .user(UID, GID, groups)
    .env("UID", uid.to_string())
    .env("GID", gid.to_string())
    .env_remove("ROOT")
}

#[test]
fn an_ordinary_user_can_become_itself() {
    requires_root();
    let directory = Directory::public();
    let skd = as_user(&[GID], UID, GID, &directory).run("cat");
    assert_eq!(talk(skd.connect_unix(), b"self"), b"self");
    assert_eq!(identity(skd.pid()), (UID, GID, vec![GID]));
    // It may still remove its files.
    assert_eq!(skd.stop().code(), Some(0));
    assert_eq!(directory.names(), [""; 0]);
}

#[test]
fn an_ordinary_user_can_become_no_other_user() {
    requires_root();
    for (groups, uid, gid) in [
        (vec![GID], UID + 7, GID),
        (vec![GID], UID, GID + 7),
        // It couldn't drop the other group.
        (vec![GID, GID + 7], UID, GID),
    ] {
        let directory = Directory::public();
        as_user(&groups, uid, gid, &directory)
            .start("cat")
            .expect_refusal(1, &["can't", "Operation not permitted"]);
        assert_eq!(directory.names(), [""; 0], "{groups:?} {uid} {gid}");
    }
}

#[test]
fn a_root_directory_needs_root() {
    requires_root();
    let (directory, root) = (Directory::public(), Directory::public());
    as_user(&[GID], UID, GID, &directory)
        .env("ROOT", root.path())
        .start("cat")
        .expect_refusal(1, &["chroot", "Operation not permitted"]);
    assert_eq!(directory.names(), [""; 0]);
}
