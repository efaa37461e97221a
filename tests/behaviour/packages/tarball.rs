//! The static tarballs, unpacked and used.

use super::{packages, run};
use crate::harness::{
    Directory, Pki, Running, Skd, TlsClient, connect, requires_command, requires_root, talk,
};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAMS: [&str; 4] = ["skd", "skd-forward", "skd-tls", "skdctl"];

/// An unpacked tarball.
struct Unpacked {
    directory: Directory,
    folder: PathBuf,
}

/// The path of this machine's tarball, as `make tarball` puts it.
fn tarball() -> PathBuf {
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("skd-{version}-{}-linux.tar.gz", std::env::consts::ARCH);
    let path = packages().join(name);
    assert!(path.is_file(), "no {}: make tarball", path.display());
    path
}

/// Unpacks the tarball as root, whose files they are then.
fn unpacked() -> Unpacked {
    requires_root();
    let directory = Directory::public();
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--file").arg(tarball());
    run(tar.arg("--directory").arg(directory.path()));
    let [name] = &directory.names()[..] else {
        panic!("not one folder: {:?}", directory.names());
    };
    let folder = directory.join(name);
    Unpacked { directory, folder }
}

impl Unpacked {
    fn program(&self, name: &str) -> PathBuf {
        self.folder.join("bin").join(name)
    }

    /// A script of the tarball, with variables. It must not depend on the working directory.
    fn script(&self, name: &str, variables: &[(&str, &str)]) {
        let mut script = Command::new(self.folder.join(name));
        script.current_dir("/").envs(variables.iter().copied());
        assert_eq!(run(&mut script), "");
    }
}

/// A root directory with the programs of the tarball alone.
fn empty_root() -> Directory {
    let tarball = unpacked();
    let root = Directory::public();
    for name in PROGRAMS {
        fs::rename(tarball.program(name), root.join(name)).unwrap();
    }
    root
}

/// Starts the skd in this root directory.
fn serve(root: &Directory, options: &[&str], command: &[&str]) -> Running {
    // The harness knows skd by its path outside.
    let enter = r#"root=$1; shift 2; exec chroot "$root" /skd "$@""#;
    let skd = Skd::new(options).binary(root.join("skd"));
    let skd = skd.wrapper(["sh", "-c", enter, "sh", &root.name("")]);
    skd.run_with(command[0], &command[1..])
}

/// All entries below a directory, with mode, owner and contents.
fn tree(directory: &Path) -> BTreeMap<PathBuf, (u32, u32, Vec<u8>)> {
    let mut found = BTreeMap::new();
    let mut directories = vec![directory.to_owned()];
    while let Some(next) = directories.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let contents = if metadata.is_dir() {
                directories.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            let name = path.strip_prefix(directory).unwrap().to_owned();
            found.insert(name, (metadata.mode(), metadata.uid(), contents));
        }
    }
    found
}

#[test]
#[ignore = "make tarball first"]
fn each_program_of_the_tarball_runs_in_an_empty_root_directory() {
    requires_command("readelf");
    let root = empty_root();
    for name in PROGRAMS {
        let headers = run(Command::new("readelf")
            .arg("--program-headers")
            .arg(root.join(name)));
        assert!(
            headers.contains("LOAD") && !headers.contains("INTERP"),
            "{name}: {headers}"
        );
        let mut chroot = Command::new("chroot");
        let version = run(chroot
            .arg(root.path())
            .args([&format!("/{name}"), "--version"]));
        let expected = format!("{name} {}", env!("CARGO_PKG_VERSION"));
        assert!(version.starts_with(&expected), "{version}");
    }
}

#[test]
#[ignore = "make tarball first"]
fn the_tarball_serves_tls_a_status_page_and_forwarded_connections_in_an_empty_root_directory() {
    let root = empty_root();
    let pki = Pki::with_server();
    for file in ["server.pem", "server.key"] {
        fs::copy(pki.path(file), root.join(file)).unwrap();
    }
    let status = serve(
        &root,
        &["-vt", "127.0.0.1:0", "--control", "/control"],
        &["/skdctl", "--socket", "/control", "http"],
    );
    let request = b"GET /healthz HTTP/1.0\r\n\r\n";
    let direct = String::from_utf8(talk(status.connect(), request)).unwrap();
    assert!(
        direct.starts_with("HTTP/1.1 200 OK\r\n") && direct.ends_with("\r\n\r\nok\n"),
        "{direct}"
    );
    let target = status.address().to_string();
    let forward = serve(&root, &["-vt", "127.0.0.1:0"], &["/skd-forward", &target]);
    let forwarded = talk(connect(forward.address()), request);
    assert!(forwarded.ends_with(b"\r\n\r\nok\n"), "{forwarded:?}");
    // Its plain bytes go to a skd outside. There are no names of users in there.
    let outside = Skd::new(["-t", "127.0.0.1:0"]).run("cat");
    let options = [
        "-vt",
        "127.0.0.1:0",
        "--tls",
        "/server.pem:/server.key",
        "--tls-user",
        "65534:65534",
    ];
    let target = outside.address().to_string();
    let tls = serve(&root, &options, &["/skd-forward", &target]);
    let client = TlsClient::new(&pki);
    client.connect("client", tls.port());
    client.echo("client");
    for skd in [&forward, &status] {
        assert_eq!(skd.troubles(), [""; 0]);
    }
    // The kernel makes no user namespace in a directory of chroot(2), where the process with the keys needs one.
    let troubles = tls.troubles();
    let confined = |line: &String| line.contains("has no empty root directory");
    assert!(troubles.iter().all(confined), "{troubles:?}");
}

#[test]
#[ignore = "make tarball first"]
fn the_tarball_installs_what_make_installs_and_removes_it() {
    requires_command("make");
    let tarball = unpacked();
    let [ours, others] = [Directory::public(), Directory::public()];
    let prefix = ("PREFIX", "/opt/a folder");
    tarball.script("install", &[prefix, ("DESTDIR", &ours.name(""))]);
    let mut make = Command::new("make");
    make.args(["--silent", "install", "PREFIX=/opt/other"]);
    make.arg(format!("DESTDIR={}", others.path().display()));
    for (variable, name) in ["SKD", "FORWARD", "TLS", "CTL"].iter().zip(PROGRAMS) {
        make.arg(format!("{variable}={}", tarball.program(name).display()));
    }
    run(make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL"));
    let (here, there) = (
        tree(&ours.join("opt/a folder")),
        tree(&others.join("opt/other")),
    );
    assert!(here.len() > PROGRAMS.len());
    let names = |tree: &BTreeMap<PathBuf, _>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&here), names(&there));
    for (name, found) in &here {
        assert!(*found == there[name], "{}", name.display());
        assert_eq!(found.1, 0, "{}", name.display());
    }
    tarball.script("uninstall", &[prefix, ("DESTDIR", &ours.name(""))]);
    let left = tree(ours.path());
    assert!(
        left.values()
            .all(|(mode, ..)| mode & libc::S_IFMT == libc::S_IFDIR),
        "{:?}",
        left.keys()
    );
    // Where nothing is said, the paths are those of the units in contrib/.
    tarball.script("install", &[("DESTDIR", &ours.name(""))]);
    assert!(ours.join("usr/local/bin/skd").is_file());
}

#[test]
#[ignore = "make tarball first"]
fn manual_pages_of_the_tarball_are_found_and_valid() {
    requires_command("mandoc");
    let tarball = unpacked();
    let stage = Directory::public();
    tarball.script(
        "install",
        &[("PREFIX", "/usr"), ("DESTDIR", &stage.name(""))],
    );
    let manuals = stage.join("usr/share/man");
    for (name, section) in [
        ("skd", "8"),
        ("skd-forward", "1"),
        ("skd-tls", "1"),
        ("skdctl", "1"),
    ] {
        let mut man = Command::new("mman");
        let found = run(man.arg("-M").arg(&manuals).args(["-w", section, name]));
        let expected = manuals.join(format!("man{section}/{name}.{section}"));
        assert_eq!(Path::new(found.trim_end()), expected);
        let text = run(Command::new("mandoc").args(["-T", "html"]).arg(&expected));
        assert!(text.contains("NAME</a></h1>"), "{name}: {text}");
    }
}

#[test]
#[ignore = "make tarball first"]
fn files_of_the_tarball_have_the_modes_and_owners_of_a_distribution() {
    let tarball = unpacked();
    let tree = tree(&tarball.folder);
    for (name, (mode, owner, _)) in &tree {
        let name = name.display().to_string();
        let kind = mode & libc::S_IFMT;
        let executed = kind == libc::S_IFDIR
            || name.starts_with("bin/")
            || ["install", "uninstall"].contains(&&*name);
        // The scripts in contrib/ have the modes that they need.
        if executed || !name.starts_with("contrib/") {
            assert_eq!(
                mode & 0o7777,
                if executed { 0o755 } else { 0o644 },
                "{name}"
            );
        }
        assert!(kind == libc::S_IFDIR || kind == libc::S_IFREG, "{name}");
        assert_eq!(*owner, 0, "{name}");
    }
    for name in [
        "LICENSE",
        "README.md",
        "man/skd.8",
        "completions/skd.bash",
        "contrib/systemd/skd.service",
    ] {
        assert!(tree.contains_key(Path::new(name)), "{name}");
    }
    let copyright = fs::read_to_string(tarball.folder.join("copyright")).unwrap();
    for part in ["clap", "libc", "ratatui", "aws-lc-sys", "rustls", "musl"] {
        assert!(copyright.contains(&format!(" vendor/{part}/*\n")), "{part}");
    }
    // A listing has neither names nor times of the machine that packed it.
    let mut tar = Command::new("tar");
    let listing = run(tar
        .args(["--list", "--verbose", "--numeric-owner", "--file"])
        .arg(self::tarball()));
    let times: std::collections::BTreeSet<_> = listing
        .lines()
        .map(|line| {
            let words: Vec<_> = line.split_whitespace().collect();
            assert_eq!(words[1], "0/0", "{line}");
            words[3..5].join(" ")
        })
        .collect();
    assert_eq!(times.len(), 1, "{times:?}");
    drop(tarball.directory);
}

#[test]
#[ignore = "make tarball first"]
fn the_same_programs_make_the_same_tarball() {
    let tarball = unpacked();
    let make = |surroundings: &[(&str, &str)], umask: &str| {
        let target = Directory::new();
        let mut make = Command::new("sh");
        make.args(["-ec", "umask $1; exec packaging/tarball/make", "sh", umask]);
        make.env("SKD_PROGRAMS", tarball.folder.join("bin"));
        make.env("CARGO_TARGET_DIR", target.path());
        make.env("SOURCE_DATE_EPOCH", "1700000000");
        let path = run(make.envs(surroundings.iter().copied()));
        fs::read(path.trim_end()).unwrap()
    };
    let one = make(&[("TZ", "UTC"), ("LC_ALL", "C")], "022");
    let other = make(&[("TZ", "Asia/Tokyo"), ("LC_ALL", "C.UTF-8")], "077");
    assert!(
        one == other,
        "{} bytes and {} bytes",
        one.len(),
        other.len()
    );
}

#[test]
#[ignore = "make tarball first"]
fn a_program_that_needs_libraries_is_refused() {
    requires_command("make");
    let programs = Directory::public();
    for name in PROGRAMS {
        fs::copy("/bin/true", programs.join(name)).unwrap();
        fs::set_permissions(programs.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let target = Directory::new();
    let mut make = Command::new("packaging/tarball/make");
    make.env("SKD_PROGRAMS", programs.path())
        .env("CARGO_TARGET_DIR", target.path());
    let output = make.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("needs shared libraries"),
        "{said}"
    );
    assert!(!target.join("packages").exists());
}
