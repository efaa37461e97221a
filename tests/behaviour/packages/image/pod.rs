//! A pod in miniature: skd in a container of runc(8), with the rights, the mounts and the volumes that the kubelet gives
//! it. The files are those of the archive that `make image` makes.
//!
//! ```ignore
//! let space = Namespace::new();
//! let pod = Rights::default().start(&space, &["-vt", "127.0.0.1:0", "/usr/bin/busybox", "cat"], &[]);
//! pod.skd.wait_ready();
//! pod.exec(&["/usr/bin/skdctl", "…"]);
//! ```

use crate::harness::{Directory, Namespace, Running, Skd, requires_commands, requires_root};
use crate::packages::packages;
use serde_json::{Value, json};
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The user of the container.
pub const USER: u32 = 65532;

/// The default filter of system calls of podman and CRI-O.
const FILTER: &str = "/usr/share/containers/seccomp.json";

/// The calls that the default filters of containerd and docker allow only with CAP_SYS_ADMIN. They have the same origin.
const OF_ADMINISTRATORS: [&str; 21] = [
    "bpf",
    "clone3",
    "fanotify_init",
    "fsconfig",
    "fsmount",
    "fsopen",
    "fspick",
    "lookup_dcookie",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "perf_event_open",
    "pivot_root",
    "quotactl",
    "setdomainname",
    "sethostname",
    "setns",
    "umount",
    "umount2",
    "unshare",
];

/// The flags of clone(2) for new namespaces, which those filters refuse too.
const NEW_NAMESPACES: u32 = 0x7e02_0000;

/// The paths that the kubelet has runtimes mask, and make read-only.
const MASKED: [&str; 11] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Gives a container a layer of its own over the files of the archive, in which mount points are made.
const LAYER: &str = r#"
    cd "$1"
    mkdir layer
    mount -t tmpfs -o mode=755 tmpfs layer
    mkdir layer/upper layer/work layer/root
    mount -t overlay -o "lowerdir=$2,upperdir=$1/layer/upper,workdir=$1/layer/work" overlay layer/root
"#;

/// The archive.
#[track_caller]
pub fn archive() -> PathBuf {
    let name = format!("skd-{}-oci.tar", env!("CARGO_PKG_VERSION"));
    let path = packages().join(name);
    assert!(
        path.exists(),
        "no {}: make it by `make image`",
        path.display()
    );
    path
}

/// Runs a command, which must succeed, and returns what it has written.
#[track_caller]
pub fn run<A: AsRef<std::ffi::OsStr>>(words: impl IntoIterator<Item = A>) -> String {
    let mut words = words.into_iter();
    let mut command = Command::new(words.next().expect("a command"));
    crate::packages::run(command.args(words))
}

/// The unpacked files, with a busybox beside skd as a handler, which is added as docs/containers.md adds one.
fn bundle() -> &'static Path {
    static BUNDLE: LazyLock<Directory> = LazyLock::new(|| {
        requires_root();
        requires_commands(&["skopeo", "umoci", "runc"]);
        let directory = Directory::public();
        let layout = format!("{}:skd", directory.name("layout"));
        let from = format!("oci-archive:{}", archive().display());
        run([
            "skopeo",
            "--override-arch",
            "amd64",
            "copy",
            "--quiet",
            &from,
            &format!("oci:{layout}"),
        ]);
        let busybox = "/bin/busybox";
        let headers = run(["readelf", "--program-headers", busybox]);
        assert!(!headers.contains("INTERP"), "install busybox-static");
        run([
            "umoci",
            "insert",
            "--image",
            &layout,
            busybox,
            "/usr/bin/busybox",
        ]);
        run([
            "umoci",
            "unpack",
            "--image",
            &layout,
            &directory.name("bundle"),
        ]);
        directory
    });
    static PATH: LazyLock<PathBuf> = LazyLock::new(|| BUNDLE.join("bundle"));
    &PATH
}

/// The root directory of the container, as the archive has it but for the handler.
pub fn files() -> PathBuf {
    bundle().join("rootfs")
}

/// A filter of system calls that a runtime has by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter {
    /// That of podman and CRI-O, which allows new namespaces.
    Default,
    /// One without them, as containerd and docker have.
    Strict,
    None,
}

/// What a container may do. The default is the restricted profile of the Pod Security Standards.
#[derive(Clone, Debug)]
pub struct Rights {
    pub user: u32,
    /// Supplementary groups, as by fsGroup.
    pub groups: Vec<u32>,
    pub capabilities: Vec<&'static str>,
    pub no_new_privileges: bool,
    pub filter: Filter,
    /// Whether parts of /proc are masked.
    pub masks: bool,
    /// Whether the container has a user namespace of its own (`hostUsers: false`).
    pub user_namespace: bool,
    /// Variables besides PATH.
    pub environment: Vec<String>,
}

impl Default for Rights {
    fn default() -> Self {
        Self {
            user: USER,
            groups: vec![USER],
            capabilities: Vec::new(),
            no_new_privileges: true,
            filter: Filter::Strict,
            masks: true,
            user_namespace: false,
            environment: Vec::new(),
        }
    }
}

/// A directory or file of the host, and where the container has it.
#[derive(Clone, Debug)]
pub struct Mount {
    pub from: PathBuf,
    pub to: String,
    pub read_only: bool,
}

/// A container that runs. It ends with the value.
pub struct Pod {
    pub skd: Running,
    name: String,
    state: Directory,
    space: Vec<String>,
}

impl Rights {
    /// Starts skd in a container with these words as its command line, or those of the archive if there are none. The
    /// root directory is read-only; /run/skd and /tmp are volumes in memory.
    #[track_caller]
    pub fn start(&self, space: &Namespace, words: &[&str], mounts: &[Mount]) -> Pod {
        static PODS: AtomicU32 = AtomicU32::new(0);
        let number = PODS.fetch_add(1, Ordering::Relaxed);
        let name = format!("skd-test-{}-{number}", std::process::id());
        let state = Directory::public();
        let path = state.path().to_str().unwrap();
        space.run(["sh", "-ec", LAYER, "sh", path, files().to_str().unwrap()]);
        let config = self.config(words, mounts);
        state.write("config.json", config.to_string());
        let line = "exec runc --root \"$0\" run --bundle \"$1\" \"$2\"";
        let root = state.name("runc");
        let skd = Skd::new(words.iter().take_while(|word| !word.starts_with('/')))
            .binary(space.path(state.join("layer/root/usr/bin/skd")))
            .wrapper(["sh", "-c", line, &root, path, &name])
            .inside(space)
            .start_bare();
        Pod {
            skd,
            name,
            state,
            space: space.prefix(),
        }
    }

    /// The configuration of the runtime: that of the archive, with these rights.
    fn config(&self, words: &[&str], mounts: &[Mount]) -> Value {
        let text = fs::read(bundle().join("config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&text).unwrap();
        config["root"] = json!({"path": "layer/root", "readonly": true});
        config["hostname"] = json!("pod");
        let process = &mut config["process"];
        process["terminal"] = json!(false);
        process["user"] =
            json!({"uid": self.user, "gid": self.user, "additionalGids": self.groups});
        process["noNewPrivileges"] = json!(self.no_new_privileges);
        let sets = ["bounding", "effective", "permitted"];
        let sets = sets.map(|set| (set.to_owned(), json!(self.capabilities)));
        process["capabilities"] = Value::Object(sets.into_iter().collect());
        let environment = process["env"].as_array_mut().unwrap();
        environment.extend(self.environment.iter().map(|it| json!(it)));
        process.as_object_mut().unwrap().remove("rlimits");
        if !words.is_empty() {
            process["args"] = json!([&["/usr/bin/skd"], words].concat());
        }
        let list = config["mounts"].as_array_mut().unwrap();
        // The hierarchy of this machine may be another; a container sees it read-only at best.
        list.retain(|mount| mount["type"] != "cgroup");
        if self.user_namespace {
            // Only with a network of its own, the container could mount another.
            list.retain(|mount| mount["type"] != "sysfs");
            let options = ["rbind", "nosuid", "noexec", "nodev", "ro"];
            list.push(
                json!({"destination": "/sys", "type": "bind", "source": "/sys", "options": options}),
            );
        }
        for path in ["/run/skd", "/tmp"] {
            let options = ["nosuid", "nodev", "mode=1777", "size=16m"];
            list.push(json!({"destination": path, "type": "tmpfs", "source": "tmpfs", "options": options}));
        }
        for Mount {
            from,
            to,
            read_only,
        } in mounts
        {
            let access = if *read_only { "ro" } else { "rw" };
            list.push(json!({"destination": to, "type": "bind", "source": from, "options": ["rbind", access]}));
        }
        let linux = config["linux"].as_object_mut().unwrap();
        linux.remove("resources");
        // In that of the test, so that its clients are beside it.
        let kinds = ["pid", "ipc", "uts", "mount"].into_iter();
        let kinds = kinds.chain(self.user_namespace.then_some("user"));
        linux.insert(
            "namespaces".into(),
            kinds.map(|kind| json!({"type": kind})).collect(),
        );
        if self.user_namespace {
            let ids = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
            linux.insert("uidMappings".into(), ids.clone());
            linux.insert("gidMappings".into(), ids);
        }
        let [masked, read_only] = match self.masks {
            true => [&MASKED[..], &READ_ONLY],
            false => [&[][..], &[]],
        };
        linux.insert("maskedPaths".into(), json!(masked));
        linux.insert("readonlyPaths".into(), json!(read_only));
        if self.filter != Filter::None {
            linux.insert("seccomp".into(), self.seccomp());
        }
        config
    }

    /// The filter, as the runtime takes it: what is for other machines and for capabilities that this container hasn't
    /// is left out.
    fn seccomp(&self) -> Value {
        let text = fs::read(FILTER).unwrap_or_else(|error| panic!("{FILTER}: {error}"));
        let list: Value = serde_json::from_slice(&text).unwrap();
        let names = |value: &Value| -> Vec<String> {
            let names = value.as_array().into_iter().flatten();
            names.map(|it| it.as_str().unwrap().to_owned()).collect()
        };
        let applies = |entry: &&Value| {
            let has = |value: &Value| {
                let caps = names(&value["caps"]);
                let arches = names(&value["arches"]);
                let caps = caps
                    .iter()
                    .all(|it| self.capabilities.contains(&it.as_str()));
                caps && (arches.is_empty() || arches.iter().any(|it| it == "amd64"))
            };
            let excludes = &entry["excludes"];
            let is_excluded = excludes.as_object().is_some_and(|it| !it.is_empty());
            has(&entry["includes"]) && !(is_excluded && has(excludes))
        };
        let calls = list["syscalls"].as_array().unwrap().iter().filter(applies);
        let calls = calls.map(|entry| {
            let mut entry = entry.clone();
            let fields = entry.as_object_mut().unwrap();
            fields.retain(|name, value| {
                ["names", "action", "args", "errnoRet"].contains(&name.as_str()) && !value.is_null()
            });
            entry
        });
        let mut calls: Vec<_> = calls.collect();
        if self.filter == Filter::Strict {
            for entry in calls.iter_mut() {
                let refused = |it: &Value| {
                    let name = it.as_str().unwrap();
                    name == "clone" || OF_ADMINISTRATORS.contains(&name)
                };
                let names = entry["names"].as_array_mut().unwrap();
                names.retain(|it| !refused(it));
            }
            calls.retain(|entry| !entry["names"].as_array().unwrap().is_empty());
            // A C library falls back to clone(2), whose flags a filter can read.
            let refused = OF_ADMINISTRATORS.iter().filter(|it| **it != "clone3");
            let refused: Vec<_> = refused.collect();
            calls.push(
                json!({"names": refused, "action": "SCMP_ACT_ERRNO", "errnoRet": libc::EPERM}),
            );
            let old = json!({"index": 0, "value": NEW_NAMESPACES, "op": "SCMP_CMP_MASKED_EQ"});
            calls.push(json!({"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [old]}));
        }
        json!({
            "defaultAction": list["defaultAction"],
            "defaultErrnoRet": list["defaultErrnoRet"],
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": calls,
        })
    }
}

impl Pod {
    /// Runs a program in the container, as `kubectl exec` and probes do.
    #[track_caller]
    pub fn exec(&self, words: &[&str]) -> Output {
        let runc = [
            "runc",
            "--root",
            &self.state.name("runc"),
            "exec",
            &self.name,
        ];
        let mut command = Command::new(&self.space[0]);
        command.args(&self.space[1..]).args(runc).args(words);
        command.output().expect("runc")
    }

    /// The same, for a program that must succeed; returns what it has written.
    #[track_caller]
    pub fn ask(&self, words: &[&str]) -> String {
        let output = self.exec(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // Also its control groups.
        let root = self.state.name("runc");
        let mut delete = Command::new("runc");
        let _ = delete
            .args(["--root", &root, "delete", "--force", &self.name])
            .output();
    }
}

/// The directory of a volume, with the modes that the kubelet gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// On a disk, for `configMap`.
    Disk,
    /// In memory, for `secret` and `projected`: its root directory is sticky.
    Memory,
}

/// A volume of a ConfigMap or a Secret, and what the kubelet does with it.
pub struct Volume {
    path: PathBuf,
    mode: u32,
    group: Option<u32>,
    version: u32,
    directory: Directory,
}

impl Volume {
    /// An empty one, whose files get this mode (`defaultMode`) and belong to this group (`fsGroup`).
    #[track_caller]
    pub fn new(space: &Namespace, kind: Kind, mode: u32, group: Option<u32>) -> Self {
        let directory = Directory::public();
        if kind == Kind::Memory {
            // Without a mode, which is 1777 then.
            space.run([
                "mount",
                "-t",
                "tmpfs",
                "tmpfs",
                directory.path().to_str().unwrap(),
            ]);
        }
        let path = space.path(directory.path());
        if kind == Kind::Disk {
            fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
        }
        Self {
            path,
            mode,
            group,
            version: 0,
            directory,
        }
    }

    /// Replaces all files at once, as the kubelet's AtomicWriter does: names are links by way of `..data` into a hidden
    /// directory, and `..data` is replaced by a rename.
    #[track_caller]
    pub fn write(&mut self, files: &[(&str, &str)]) {
        let earlier = fs::read_link(self.path.join("..data")).ok();
        self.version += 1;
        let name = format!("..2026_01_02_03_04_05.{}", self.version);
        let fresh = self.path.join(&name);
        fs::create_dir(&fresh).unwrap();
        fs::set_permissions(&fresh, Permissions::from_mode(0o755)).unwrap();
        for (name, text) in files {
            fs::write(fresh.join(name), text).unwrap();
            fs::set_permissions(fresh.join(name), Permissions::from_mode(self.mode)).unwrap();
        }
        for (file, _) in files {
            let link = self.path.join(file);
            if fs::symlink_metadata(&link).is_err() {
                symlink(Path::new("..data").join(file), link).unwrap();
            }
        }
        if let Some(group) = self.group {
            own(&self.path, group);
        }
        symlink(&name, self.path.join("..data_tmp")).unwrap();
        fs::rename(self.path.join("..data_tmp"), self.path.join("..data")).unwrap();
        if let Some(earlier) = earlier.map(|name| self.path.join(name)) {
            for entry in fs::read_dir(&earlier).unwrap() {
                let name = entry.unwrap().file_name();
                if !fresh.join(&name).exists() {
                    fs::remove_file(self.path.join(name)).unwrap();
                }
            }
            fs::remove_dir_all(earlier).unwrap();
        }
    }

    /// The whole volume at this path of a container.
    pub fn at(&self, to: &str) -> Mount {
        Mount {
            from: self.directory.path().to_owned(),
            to: to.to_owned(),
            read_only: true,
        }
    }

    /// One file of it, as by `subPath`, which follows links at the start alone.
    pub fn file_at(&self, name: &str, to: &str) -> Mount {
        let inside = fs::read_link(self.path.join("..data")).unwrap();
        Mount {
            from: self.directory.path().join(inside).join(name),
            ..self.at(to)
        }
    }
}

/// Gives a volume to a group, which may read it (SetVolumeOwnership of the kubelet, for a volume that is read-only).
fn own(path: &Path, group: u32) {
    let stat = fs::symlink_metadata(path).unwrap();
    lchown(path, None, Some(group)).unwrap();
    if stat.is_symlink() {
        return;
    }
    let more = if stat.is_dir() { 0o2550 } else { 0o440 };
    let mode = (stat.mode() & 0o7777) | more;
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    if stat.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            own(&entry.unwrap().path(), group);
        }
    }
}
