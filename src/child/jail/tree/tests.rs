use super::*;

use std::ffi::CString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use tempfile::TempDir;

use crate::config::Parts;
use crate::sys::capabilities::{self, Capabilities, Capability};
use crate::sys::child;
use crate::sys::namespaces::UserMap;
use crate::sys::pipe::pipe;
use crate::sys::process::{self, Fork, Target, Wait};

const PROGRAM: &CStr = c"/bin/sh";

/// What skd is.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Skd {
    /// Root with all capabilities.
    Root,
    /// Root with those that it keeps after the start.
    Started,
    /// Another user.
    User,
}

impl Skd {
    /// Those that this process can be.
    fn all() -> &'static [Self] {
        match Uid::effective().is_root() {
            true => &[Self::Root, Self::Started, Self::User],
            false => &[Self::User],
        }
    }

    fn is_root(self) -> bool {
        self != Self::User
    }

    fn become_it(self) {
        let kept = [
            Capability::SetUser,
            Capability::SetGroup,
            Capability::Kill,
            Capability::FileCapabilities,
        ];
        let (uid, gid) = own_ids();
        match self {
            Self::Root => {}
            Self::Started => {
                let kept: Capabilities = kept.into_iter().collect();
                capabilities::limit(kept).unwrap();
            }
            Self::User if Uid::effective().is_root() => {
                let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
                setgroups(&[]).unwrap();
                setresgid(gid, gid, gid).unwrap();
                setresuid(uid, uid, uid).unwrap();
            }
            Self::User => {}
        }
    }
}

/// The user and group of handlers.
fn own_ids() -> (u32, u32) {
    match Uid::effective().is_root() {
        true => (65534, 65534),
        false => (Uid::effective().as_raw(), Gid::effective().as_raw()),
    }
}

fn sandbox(mounts: Vec<Mount>) -> Sandbox {
    Sandbox {
        parts: Parts::STRICT,
        shares_net: false,
        user: None,
        host_name: "inside".into(),
        mounts,
    }
}

fn ro(from: &Path, at: &str) -> Mount {
    let at = at.into();
    let kind = MountKind::ReadOnly(from.into());
    Mount { kind, at }
}

fn rw(from: &Path, at: &str) -> Mount {
    let at = at.into();
    let kind = MountKind::ReadWrite(from.into());
    Mount { kind, at }
}

fn tmpfs(size: u64, at: &str) -> Mount {
    let at = at.into();
    let kind = MountKind::Memory(size);
    Mount { kind, at }
}

/// A directory that every user may change, with a file.
fn directory() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let open = || fs::Permissions::from_mode(0o777);
    fs::set_permissions(directory.path(), open()).unwrap();
    fs::create_dir(directory.path().join("sub")).unwrap();
    fs::set_permissions(directory.path().join("sub"), open()).unwrap();
    fs::write(directory.path().join("file"), "text\n").unwrap();
    symlink("file", directory.path().join("link")).unwrap();
    directory
}

/// What a shell script prints in a sandbox, or the error.
fn run(skd: Skd, sandbox: &Sandbox, script: &str) -> String {
    run_with(skd, sandbox, PROGRAM, script, || {})
}

/// The same with another PROG, and where something has been done first in a process of its own.
fn run_with(
    skd: Skd,
    sandbox: &Sandbox,
    program: &CStr,
    script: &str,
    first: impl FnOnce(),
) -> String {
    let (output, to_output) = pipe().unwrap();
    match process::fork().unwrap() {
        Fork::Parent(child) => {
            drop(to_output);
            let mut text = String::new();
            (&output).read_to_string(&mut text).unwrap();
            process::wait(Target::Process(child), Wait::UNTIL_END).unwrap();
            text
        }
        Fork::Child => {
            drop(output);
            in_child(|| {
                first();
                skd.become_it();
                serve(skd, sandbox, program, script, to_output);
            })
        }
    }
}

/// Runs something in a child, which then ends whatever happens.
fn in_child(run: impl FnOnce()) -> ! {
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
    process::exit_now(u8::from(done.is_err()))
}

fn serve(skd: Skd, sandbox: &Sandbox, program: &CStr, script: &str, mut output: File) {
    let map = UserMap {
        inside: own_ids(),
        outside: own_ids(),
        root: skd.is_root(),
        spare: None,
    };
    let (ready, is_ready) = pipe().unwrap();
    let (go, may_go) = pipe().unwrap();
    match process::fork().unwrap() {
        Fork::Parent(child) => {
            drop((is_ready, go, output));
            let mut may_go = may_go;
            let ready = (&ready).read(&mut [0]).unwrap();
            if map.root && ready == 1 {
                namespaces::write_maps(child, &map).unwrap();
            }
            may_go.write_all(&[0]).unwrap();
            process::wait(Target::Process(child), Wait::UNTIL_END).unwrap();
        }
        Fork::Child => in_child(|| {
            drop((ready, may_go));
            namespaces::enter_user(&map).unwrap();
            (&is_ready).write_all(&[0]).unwrap();
            assert_eq!((&go).read(&mut [0]).unwrap(), 1);
            namespaces::take_ids(&map).unwrap();
            match enter(sandbox, program, map.inside) {
                Ok(entered) => handler(entered.steps, script, &output),
                Err(error) => write!(output, "{error}").unwrap(),
            }
        }),
    }
}

fn handler(mut steps: Vec<Step>, script: &str, output: &File) {
    namespaces::enter(libc::CLONE_NEWPID).unwrap();
    let (uid, gid) = own_ids();
    if Uid::effective().is_root() {
        steps.extend([Step::Group(gid), Step::User(uid)]);
    }
    steps.push(Step::DropCapabilities);
    match process::fork().unwrap() {
        Fork::Parent(child) => {
            process::wait(Target::Process(child), Wait::UNTIL_END).unwrap();
        }
        Fork::Child => in_child(|| {
            namespaces::enter(libc::CLONE_NEWNS).unwrap();
            child::prepare(&steps).unwrap();
            let error = Command::new("/bin/sh")
                .args(["-c", script])
                .env_clear()
                .env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin")
                .stdout(Stdio::from(output.try_clone().unwrap()))
                .stderr(Stdio::from(output.try_clone().unwrap()))
                .exec();
            panic!("{error}");
        }),
    }
}

#[test]
#[cfg_attr(miri, ignore = "makes namespaces")]
fn a_handler_sees_what_is_shown_and_nothing_else() {
    let mounts = vec![
        ro(Path::new("/etc/hostname"), "/srv/a/b"),
        tmpfs(1 << 20, "/scratch"),
    ];
    let sandbox = sandbox(mounts);
    let script =
        "ls /; echo; ls /dev /srv/a; hostname; cut -d: -f3 /etc/passwd; ls -d /proc/[0-9]*";
    for skd in Skd::all() {
        let text = run(*skd, &sandbox, script);
        let (root, rest) = text.split_once("\n\n").unwrap();
        let allowed = [
            "bin", "dev", "etc", "home", "lib", "lib32", "lib64", "libx32", "proc", "run", "sbin",
            "scratch", "srv", "tmp", "usr", "var",
        ];
        assert!(root.lines().all(|name| allowed.contains(&name)), "{text}");
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let ids = passwd.lines().filter_map(|line| line.split(':').nth(2));
        let ids = ids.filter(|id| ["0", "65534"].contains(id) || **id == own_ids().0.to_string());
        let ids: Vec<_> = ids.collect();
        let expected = format!(
            "/dev:\nfd\nfull\nnull\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n\n\
             /srv/a:\nb\ninside\n{}\n/proc/1\n",
            ids.join("\n")
        );
        assert_eq!(rest, expected, "{skd:?}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "makes namespaces")]
fn a_handler_changes_only_what_is_its_own() {
    let sandbox = sandbox(vec![tmpfs(1 << 20, "/scratch/deep")]);
    let script = "for at in / /usr /etc /dev /run /home /var /proc /scratch; do
            (echo x >$at/x) 2>/dev/null && echo $at
        done
        (echo x >/etc/passwd) 2>/dev/null && echo passwd
        for at in /tmp /var/tmp /dev/shm /scratch/deep; do
            echo $at >$at/x && cat $at/x
        done
        head -c 2M /dev/zero 2>&1 >/scratch/deep/y | grep -o 'No space.*'
        stat -c '%a %U' /tmp /scratch/deep | sed \"s/ $(id -un)/ own/\"
        echo x >/dev/null && head -c 2 /dev/random | wc -c";
    let expected = "/tmp\n/var/tmp\n/dev/shm\n/scratch/deep\nNo space left on device\n\
                    1777 own\n700 own\n2\n";
    for skd in Skd::all() {
        assert_eq!(run(*skd, &sandbox, script), expected, "{skd:?}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "makes namespaces")]
fn files_of_the_host_are_shown_as_asked() {
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    let mounts = vec![
        ro(directory.path(), "/srv/ro"),
        rw(&at("sub"), "/srv/ro/sub"),
        rw(directory.path(), "/new/rw"),
        ro(&at("sub"), "/new/rw/sub"),
        ro(&at("file"), "/one/file"),
        rw(&at("file"), "/etc/services"),
        ro(&at("sub"), "/usr/local"),
        ro(&at("sub"), "/bin/sh.d/none"),
    ];
    let script = "cat /srv/ro/file /srv/ro/link /one/file /etc/services
        (echo x >/srv/ro/x) 2>/dev/null && echo /srv/ro
        echo sub >/srv/ro/sub/made && cat /srv/ro/sub/made
        echo rw >/new/rw/made && cat /srv/ro/made
        (echo x >/new/rw/sub/x) 2>/dev/null && echo /new/rw/sub
        (echo x >/one/file) 2>/dev/null && echo /one/file
        stat -c %F /one/file; ls /usr/local";
    for skd in Skd::all() {
        let refused = run(*skd, &sandbox(mounts.clone()), script);
        assert_eq!(
            refused,
            format!(
                "--ro {}:/bin/sh.d/none: /bin/sh.d/none doesn't exist in what is shown there of the \
                 host, and isn't made on the host",
                at("sub").display()
            )
        );
        let mounts = mounts[..mounts.len() - 1].to_vec();
        let text = run(*skd, &sandbox(mounts), script);
        let expected = "text\ntext\ntext\ntext\nsub\nrw\nregular file\nmade\n";
        assert_eq!(text, expected, "{skd:?}");
        fs::remove_file(at("made")).unwrap();
        fs::remove_file(at("sub/made")).unwrap();
        assert!(!Path::new("/bin/sh.d").exists());
    }
}

#[test]
#[cfg_attr(miri, ignore = "makes namespaces")]
fn what_cannot_be_shown_is_an_error_that_names_the_option() {
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    let shown = |name| at(name).display().to_string();
    let (sub, file, missing) = (shown("sub"), shown("file"), shown("none/x"));
    let cases = [
        (
            ro(&at("none/x"), "/x"),
            format!(
                "--ro {missing}:/x can't be shown: No such file or directory; the directory {} \
                 doesn't exist",
                shown("none")
            ),
        ),
        (
            ro(&at("sub"), "/proc/x"),
            format!("--ro {sub}:/proc/x: /proc is the kernel's, and nothing is mounted there"),
        ),
        (
            ro(&at("file"), "/usr"),
            format!("--ro {file}:/usr: /usr is a directory in the sandbox"),
        ),
        (
            ro(&at("sub"), "/usr/bin/env"),
            format!("--ro {sub}:/usr/bin/env: /usr/bin/env is no directory in the sandbox"),
        ),
        (
            tmpfs(1, "/usr/none"),
            "--tmpfs /usr/none: /usr/none doesn't exist in what is shown there of the host, and \
             isn't made on the host"
                .into(),
        ),
        (
            ro(&at("file"), "/etc/passwd/x"),
            format!(
                "--ro {file}:/etc/passwd/x: there can be no /etc/passwd/x in the sandbox: Not a \
                 directory"
            ),
        ),
    ];
    for (mount, expected) in cases {
        let text = run(Skd::all()[0], &sandbox(vec![mount]), "echo entered");
        assert_eq!(text, expected);
    }
    let mounts = vec![rw(directory.path(), "/srv"), ro(&at("link"), "/x")];
    let text = run(Skd::all()[0], &sandbox(mounts), "echo entered");
    let expected = format!(
        "--ro {}:/x: a symbolic link below a directory of --rw isn't followed, since handlers may have \
         made it; name what it leads to",
        shown("link")
    );
    assert_eq!(text, expected);
}

#[test]
#[cfg_attr(miri, ignore = "makes namespaces")]
fn the_program_is_shown_where_it_is() {
    let directory = directory();
    let program = directory.path().join("program");
    fs::copy("/bin/sh", &program).unwrap();
    let path = CString::new(program.as_os_str().as_bytes()).unwrap();
    let script = format!(
        "ls {}; {} -c 'echo run'; echo x 2>/dev/null >>{} || echo fixed",
        directory.path().display(),
        program.display(),
        program.display(),
    );
    let above = directory.path().parent().unwrap().to_str().unwrap();
    let cases = [
        // In each handler's own /tmp, if that is where temporary directories are.
        (vec![], "program\nrun\nfixed\n"),
        (vec![tmpfs(1 << 20, above)], "program\nrun\nfixed\n"),
        (
            vec![ro(Path::new("/usr/lib"), above), tmpfs(1, "/scratch")],
            "",
        ),
        (
            vec![ro(directory.path(), directory.path().to_str().unwrap())],
            "file\nlink\nprogram\nsub\nrun\nfixed\n",
        ),
    ];
    for skd in Skd::all() {
        for (mounts, expected) in &cases {
            let text = run_with(*skd, &sandbox(mounts.clone()), &path, &script, || {});
            match expected.is_empty() {
                true => assert!(!text.contains("run\n"), "{skd:?}: {text}"),
                false => assert_eq!(text, *expected, "{skd:?}: {mounts:?}"),
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "makes namespaces")]
fn files_are_shown_in_what_each_handler_has_of_its_own() {
    let directory = directory();
    let at = |name: &str| directory.path().join(name);
    let mounts = vec![
        ro(directory.path(), "/var/tmp/a/ro"),
        rw(&at("sub"), "/tmp/a/rw"),
        ro(&at("link"), "/tmp/file"),
        tmpfs(1 << 20, "/tmp/a/memory"),
        ro(&at("file"), "/tmp/a/memory/file"),
        tmpfs(1 << 20, "/scratch"),
        ro(&at("file"), "/scratch/b/c"),
        tmpfs(1 << 20, "/usr/local"),
        ro(&at("file"), "/usr/local/d"),
    ];
    let script = "cd /tmp; find . /scratch | sort
        cat a/ro/file file a/memory/file /scratch/b/c /usr/local/*
        echo sub >a/rw/made && cat a/ro/sub/made
        (echo x >a/ro/x) 2>/dev/null && echo ro
        (echo x >file) 2>/dev/null && echo file
        echo own >a/memory/x && cat a/memory/x";
    let expected = ".\n./a\n./a/memory\n./a/memory/file\n./a/ro\n./a/ro/file\n./a/ro/link\n\
                    ./a/ro/sub\n./a/rw\n./file\n/scratch\n/scratch/b\n/scratch/b/c\n\
                    text\ntext\ntext\ntext\ntext\nsub\nown\n";
    for skd in Skd::all() {
        assert_eq!(
            run(*skd, &sandbox(mounts.clone()), script),
            expected,
            "{skd:?}"
        );
        fs::remove_file(at("sub/made")).unwrap();
        let mut mounts = mounts.clone();
        mounts.push(ro(&at("sub"), "/tmp/a/ro/sub"));
        let text = run(*skd, &sandbox(mounts), script);
        let expected = ":/tmp/a/ro/sub: it is below another one, in a directory that each handler \
                        has of its own; choose another path";
        assert!(text.ends_with(expected), "{text}");
    }
}

#[test]
#[cfg_attr(miri, ignore = "makes namespaces")]
fn nothing_of_the_host_is_left() {
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let script = "cut -d' ' -f5 /proc/self/mountinfo | sort
        ls -d /proc/1/root/usr; ls /proc/1/root/root /proc/1/cwd/root 2>/dev/null
        unshare --user true 2>/dev/null || echo no user namespace
        mount -o remount,rw / 2>/dev/null || umount /proc 2>/dev/null || echo no mount";
    let devices = ["full", "null", "tty", "urandom", "zero"];
    let devices = devices.map(|name| format!("/dev/{name}\n")).concat();
    for skd in Skd::all() {
        let text = run(*skd, &sandbox(vec![]), script);
        let usr = OF_USR.map(|name| Path::new("/").join(name));
        let usr = usr
            .into_iter()
            .filter(|path| path.is_dir() && !path.is_symlink());
        let mut usr: Vec<_> = usr.map(|path| format!("{}\n", path.display())).collect();
        usr.sort();
        // Below /proc and /usr there may be others.
        let shown = text.lines().take_while(|line| *line != "/proc/1/root/usr");
        let shown = shown.filter(|line| !line.starts_with("/proc/") && !line.starts_with("/usr/"));
        let shown: String = shown.map(|line| format!("{line}\n")).collect();
        let expected = format!("/\n{devices}/proc\n/proc\n/tmp\n/usr\n");
        assert_eq!(
            usr.iter().fold(shown, |all, line| all.replace(line, "")),
            expected,
            "{skd:?}"
        );
        let rest = text.split_once("/proc/1/root/usr\n").map(|(_, rest)| rest);
        assert_eq!(
            rest,
            Some("no user namespace\nno mount\n"),
            "{skd:?}: {text}"
        );
    }
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), before);
}

#[test]
#[cfg_attr(miri, ignore = "makes namespaces")]
fn what_is_mounted_below_is_read_only_too() {
    if !Uid::effective().is_root() {
        return;
    }
    let directory = directory();
    let sub = directory.path().join("sub");
    let script = "(echo x >/srv/sub/x) 2>/dev/null && echo written; cat /srv/sub/y
        echo own >/srv/own/x && cat /srv/own/x";
    let mounts = vec![ro(directory.path(), "/srv"), tmpfs(1 << 20, "/srv/own")];
    fs::create_dir(directory.path().join("own")).unwrap();
    for skd in Skd::all() {
        let text = run_with(*skd, &sandbox(mounts.clone()), PROGRAM, script, || {
            namespaces::enter(libc::CLONE_NEWNS).unwrap();
            mounts::separate(false).unwrap();
            let memory = Detached::in_memory(&[(c"mode", c"0777")], Attributes::NO_SUID).unwrap();
            memory.attach(File::open(&sub).unwrap().as_fd()).unwrap();
            fs::write(sub.join("y"), "below\n").unwrap();
        });
        assert_eq!(text, "below\nown\n", "{skd:?}");
    }
}
