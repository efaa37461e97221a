//! What a release consists of: the crates as they are packed, one version everywhere, bills of materials, checksums.
//! `packaging/reproduce` tries that builds are the same twice.

use super::{packages, run, tools};
use crate::harness::{Directory, Pki, Skd, TlsClient, talk};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The packages that are published, in the order in which they can be, and their folders.
const PUBLISHED: [(&str, &str); 6] = [
    ("skd-control", "control"),
    ("skd-tls-protocol", "tls-protocol"),
    ("skd", "."),
    ("skd-forward", "forward"),
    ("skd-tls", "tls"),
    ("skdctl", "ctl"),
];

const PROGRAMS: [&str; 4] = ["skd", "skd-forward", "skd-tls", "skdctl"];

/// What documents lead to and only the sources have: the benchmark, and its figures as data.
const ONLY_IN_THE_SOURCES: [&str; 6] = [
    "bench/README.md",
    "docs/performance/results.json",
    "docs/performance/results-growth.json",
    "docs/performance/results-prestart.json",
    "docs/performance/results-scripts.json",
    "docs/performance/results-tls.json",
];

#[test]
fn packed_crates_have_what_users_need() {
    for (package, folder) in PUBLISHED {
        let files = packed_files(package);
        let has = |name: &str| files.contains(name);
        assert!(has("LICENSE") && has("README.md"), "{package}: {files:?}");
        let is_program = PROGRAMS.contains(&package);
        let main = if is_program { "main.rs" } else { "lib.rs" };
        assert!(has(&format!("src/{main}")), "{package}: {files:?}");
        let manuals = files.iter().filter(|file| file.starts_with("man/"));
        assert_eq!(
            manuals.count(),
            usize::from(is_program),
            "{package}: {files:?}"
        );
        let mut size = 0;
        for file in &files {
            let folders = ["bench", "tests", "examples", "fuzz", "models", ".ci"];
            let first = file.split('/').next().unwrap();
            assert!(!folders.contains(&first), "{package}: {file}");
            // Cargo makes the others as it packs.
            size += fs::metadata(Path::new(folder).join(file)).map_or(0, |file| file.len());
        }
        // Most of skd's 4.1 MB are sources.
        let most = if package == "skd" {
            6_000_000
        } else {
            1_000_000
        };
        assert!(size < most, "{package} has {size} bytes");
    }
    let skdctl = packed_files("skdctl");
    assert!(skdctl.contains("completions/skdctl.bash"), "{skdctl:?}");
}

#[test]
fn links_of_packed_documents_lead_to_packed_files() {
    let files = packed_files("skd");
    let mut broken = Vec::new();
    for document in files.iter().filter(|file| file.ends_with(".md")) {
        for target in links(&fs::read_to_string(document).unwrap()) {
            let target = resolved(document, &target);
            let inside = format!("{target}/");
            let leads =
                files.contains(&target) || files.iter().any(|file| file.starts_with(&inside));
            // Another crate has these.
            let elsewhere = target == "man/skd-tls.1" || target.starts_with("packaging");
            if !leads && !elsewhere && !ONLY_IN_THE_SOURCES.contains(&target.as_str()) {
                broken.push(format!("{document}: {target}"));
            }
            assert!(Path::new(&target).exists(), "{document}: {target}");
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_version_is_the_same_wherever_it_is_written() {
    let version = env!("CARGO_PKG_VERSION");
    let metadata = cargo(&[
        "metadata",
        "--offline",
        "--locked",
        "--no-deps",
        "--format-version=1",
    ]);
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let lock = fs::read_to_string("Cargo.lock").unwrap();
    for (name, _) in PUBLISHED {
        let packages = metadata["packages"].as_array().unwrap();
        let package = packages
            .iter()
            .find(|package| package["name"] == name)
            .unwrap();
        assert_eq!(package["version"], version, "{name}");
        assert_eq!(package["license"], "MIT", "{name}");
        for dependency in package["dependencies"].as_array().unwrap() {
            if !dependency["path"].is_null() {
                assert_eq!(dependency["req"], format!("^{version}"), "{name}");
            }
        }
        let locked = format!("name = \"{name}\"\nversion = \"{version}\"\n");
        assert!(lock.contains(&locked), "{name} in Cargo.lock");
    }
    // Crates beside the workspace.
    for lock in ["fuzz/Cargo.lock", "models/Cargo.lock"] {
        let text = fs::read_to_string(lock).unwrap();
        let locked = format!("name = \"skd\"\nversion = \"{version}\"\n");
        assert!(text.contains(&locked), "skd in {lock}");
    }
    for (file, line) in [
        ("packaging/alpine/APKBUILD", "\npkgver=VERSION\n"),
        ("contrib/kubernetes/kustomization.yaml", "newTag: VERSION\n"),
        ("contrib/nomad/skd.nomad.hcl", "\"skd:VERSION\""),
        ("docs/containers.md", "skd-VERSION-oci.tar"),
    ] {
        let text = fs::read_to_string(file).unwrap();
        assert!(text.contains(&line.replace("VERSION", version)), "{file}");
    }
    let (newest, date, has_unreleased) = newest_release();
    assert_eq!(newest, version, "CHANGELOG.md");
    for manual in ["skd.8", "skdctl.1", "skd-tls.1", "skd-forward.1"] {
        let text = fs::read_to_string(format!("man/{manual}")).unwrap();
        let title = text.lines().find(|line| line.starts_with(".TH ")).unwrap();
        let words: Vec<&str> = title.split(' ').collect();
        // A manual may be older than the release, but not newer unless there are changes since.
        assert!(has_unreleased || words[3] <= date.as_str(), "{title}");
        if title.contains("\"skd 2") || ["skd.8", "skdctl.1"].contains(&manual) {
            assert!(title.contains(&format!("\"skd {version}\"")), "{title}");
        }
    }
}

#[test]
#[ignore = "needs a release in target/packages, by packaging/release"]
fn checksums_are_of_all_that_is_published() {
    let packages = packages();
    let output = Command::new("sha256sum")
        .args(["--check", "--strict", "--quiet", "SHA256SUMS"])
        .current_dir(&packages)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let sums = fs::read_to_string(packages.join("SHA256SUMS")).unwrap();
    let listed: BTreeSet<&str> = sums.lines().map(|line| &line[66..]).collect();
    let present = fs::read_dir(&packages)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "SHA256SUMS")
        .collect::<Vec<_>>();
    assert_eq!(listed, present.iter().map(String::as_str).collect());
}

#[test]
#[ignore = "needs the programs of packaging/build, which takes minutes"]
fn programs_list_their_crates_and_name_no_path_of_the_machine() {
    let programs = programs();
    let here = std::env::current_dir().unwrap();
    let here = here.to_str().unwrap();
    let unwanted = ["/.cargo/", "registry/src", "index.crates.io", here];
    for program in PROGRAMS {
        let path = programs.join(program);
        let bytes = fs::read(&path).unwrap();
        for text in unwanted {
            let found = bytes
                .windows(text.len())
                .any(|part| part == text.as_bytes());
            assert!(!found, "{program} has {text:?}");
        }
        let listed = crates_of(&path);
        let version = env!("CARGO_PKG_VERSION");
        assert!(
            listed.contains(&format!("{program} {version}")),
            "{listed:?}"
        );
        let named = |name: &str| {
            listed
                .iter()
                .any(|entry| entry.starts_with(&format!("{name} ")))
        };
        assert!(named("libc"), "{program}: {listed:?}");
        assert_eq!(named("rustls"), program == "skd-tls", "{listed:?}");
        assert_eq!(named("ratatui"), program == "skdctl", "{listed:?}");
    }
    let skd = programs.join("skd");
    let size = fs::metadata(&skd).unwrap().len();
    assert!(size < 3_000_000, "skd has {size} bytes");
    let sections = run(Command::new("readelf")
        .args(["--sections", "--wide"])
        .arg(&skd));
    assert!(sections.contains(".dep-v0"), "{sections}");
    // See build.rs.
    let has_tables = sections.contains(".eh_frame");
    assert!(!has_tables || skd_is_for_musl(&programs), "{sections}");
}

#[test]
#[ignore = "needs a release in target/packages, by packaging/release, and the library cyclonedx of Python"]
fn bills_of_materials_are_valid_and_name_the_crates_of_the_programs() {
    let packages = packages();
    let programs = programs();
    for program in PROGRAMS {
        let version = env!("CARGO_PKG_VERSION");
        let file = packages.join(format!("{program}-{version}.cdx.json"));
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.contains("file:///skd"), "identifiers of our own");
        let check = "
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(sys.argv[1]).read())
sys.exit(str(error) if error else 0)
";
        let python = tool("python/bin/python3");
        run(Command::new(python).args(["-c", check]).arg(&file));
        let bill: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(bill["metadata"]["component"]["version"], version);
        let components = bill["components"].as_array().unwrap();
        let mut named: BTreeSet<String> = components.iter().map(name_and_version).collect();
        named.insert(format!("{program} {version}"));
        let listed = crates_of(&programs.join(program));
        let missing: Vec<_> = listed.difference(&named).collect();
        assert!(missing.is_empty(), "{program}: {missing:?}");
        let more: Vec<_> = named.difference(&listed).collect();
        assert!(more.is_empty(), "{program}: {more:?}");
    }
}

/// `cargo install` as it will be when the crates are published: from a registry of what was packed and of the crates that
/// the lock file names, without the network.
#[test]
#[ignore = "needs a release in target/packages, by packaging/release, and builds for minutes"]
fn cargo_installs_programs_that_work_from_the_packed_crates() {
    let scratch = Directory::new();
    let sources = scratch.join("sources");
    cargo(&[
        "vendor",
        "--quiet",
        "--locked",
        "--versioned-dirs",
        sources.to_str().unwrap(),
    ]);
    let sums = fs::read_to_string(packages().join("SHA256SUMS")).unwrap();
    for (name, _) in PUBLISHED {
        let version = env!("CARGO_PKG_VERSION");
        let file = format!("{name}-{version}.crate");
        let (sum, _) = sums
            .lines()
            .find(|line| line.ends_with(&format!(" {file}")))
            .and_then(|line| line.split_once(' '))
            .expect(&file);
        run(Command::new("tar")
            .arg("-xzf")
            .arg(packages().join(&file))
            .arg("-C")
            .arg(&sources));
        let folder = sources.join(format!("{name}-{version}"));
        let sum = json!({"package": sum, "files": {}}).to_string();
        fs::write(folder.join(".cargo-checksum.json"), sum).unwrap();
    }
    let home = scratch.join("home");
    fs::create_dir(&home).unwrap();
    let config = format!(
        "[source.crates-io]\nreplace-with = \"packed\"\n[source.packed]\ndirectory = {sources:?}\n"
    );
    fs::write(home.join("config.toml"), config).unwrap();
    let mut install = Command::new(env!("CARGO"));
    install.args(["install", "--quiet", "--debug", "--locked", "--offline"]);
    install.arg("--root").arg(scratch.path());
    install.args(PROGRAMS).env("CARGO_HOME", &home);
    // One folder for all, so that what they share is built once; not in the way of what runs this test.
    install.env("CARGO_TARGET_DIR", scratch.join("target"));
    run(install.current_dir(scratch.path()));

    let bin = scratch.join("bin");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let skd = |options: &[&str]| {
        let skd = Skd::new(options).binary(bin.join("skd"));
        skd.env("PATH", &path).cwd(scratch.path())
    };
    let version = run(Command::new(bin.join("skd")).arg("--version"));
    assert_eq!(version.trim(), concat!("skd ", env!("CARGO_PKG_VERSION")));
    let echo = skd(&["-v", "-t", "127.0.0.1:0", "--control", "control"]).run("cat");
    assert_eq!(talk(echo.connect(), b"1"), b"1");
    let address = echo.address().to_string();
    let forward = skd(&["-t", "127.0.0.1:0"]).run_with("skd-forward", [&address]);
    assert_eq!(talk(forward.connect(), b"2"), b"2");
    let mut list = Command::new(bin.join("skdctl"));
    list.arg("--socket").arg(scratch.join("control"));
    let list = run(list.args(["--json", "list"]));
    assert!(list.contains("\"cat\""), "{list}");
    let pki = Pki::with_server();
    let tls = skd(&["-t", "127.0.0.1:0", "--tls", &pki.option("server")]).run("cat");
    let client = TlsClient::new(&pki);
    client.connect("one", tls.port());
    client.echo("one");
}

/// The files of a package as it would be packed.
#[track_caller]
fn packed_files(package: &str) -> BTreeSet<String> {
    let list = cargo(&[
        "package",
        "--list",
        "--offline",
        "--allow-dirty",
        "--package",
        package,
    ]);
    list.lines().map(str::to_owned).collect()
}

/// The relative targets of a document's links.
fn links(text: &str) -> Vec<String> {
    let targets = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#', ' ']).next());
    let relative = targets.filter(|target| !target.is_empty() && !target.contains("://"));
    relative.map(str::to_owned).collect()
}

/// A link's target as a path from the root of the package.
fn resolved(document: &str, target: &str) -> String {
    let folder = document.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in target.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." | "" => {}
            _ => parts.push(part),
        }
    }
    parts.join("/")
}

/// Version and date of the newest release in the changelog, and whether it has changes since.
fn newest_release() -> (String, String, bool) {
    let text = fs::read_to_string("CHANGELOG.md").unwrap();
    let (_, rest) = text.split_once("\n## [Unreleased]\n").unwrap();
    let (unreleased, rest) = rest.split_once("\n## [").unwrap();
    let (version, rest) = rest.split_once("] - ").unwrap();
    let date = &rest[..10];
    let digits = date.split('-').map(|part| part.parse::<u32>().unwrap());
    assert_eq!(digits.count(), 3, "{date}");
    (
        version.to_owned(),
        date.to_owned(),
        !unreleased.trim().is_empty(),
    )
}

/// A tool that packaging/check installs.
#[track_caller]
fn tool(path: &str) -> PathBuf {
    let path = tools().join(path);
    let path_is = path.display();
    assert!(path.exists(), "packaging/check installs {path_is}");
    path
}

/// The folder of the programs in packages, which are built if need be.
fn programs() -> PathBuf {
    run(&mut Command::new("packaging/build")).trim().into()
}

/// Whether the programs are for musl, whose skd keeps its tables.
fn skd_is_for_musl(programs: &Path) -> bool {
    programs.to_str().unwrap().contains("musl")
}

/// The crates that a program lists, as "name version".
fn crates_of(program: &Path) -> BTreeSet<String> {
    let list = run(Command::new(tool("bin/rust-audit-info")).arg(program));
    let list: Value = serde_json::from_str(&list).unwrap();
    let packages = list["packages"].as_array().unwrap();
    packages.iter().map(name_and_version).collect()
}

fn name_and_version(entry: &Value) -> String {
    let text = |key: &str| entry[key].as_str().unwrap();
    format!("{} {}", text("name"), text("version"))
}

#[track_caller]
fn cargo(words: &[&str]) -> String {
    run(Command::new(env!("CARGO")).args(words))
}
