//! The files of contrib/ for clusters: the manifests for Kubernetes, the job for Nomad, and the portable service.
//!
//! A cluster isn't at hand. Schemas and parsers say whether the files are well formed, and the container of the Deployment
//! runs with exactly the rights, volumes and probes that its manifest names.

use crate::harness::{Directory, Namespace, connect, requires_command, requires_root, talk};
use crate::packages::image::pod::{Kind, Pod, Rights, USER, Volume, archive, run};
use crate::packages::image::{get, pod, wait_for_ports};
use crate::packages::root_directory::RootDirectory;
use crate::packages::target;
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Command, Output};

const FOLDER: &str = "contrib/kubernetes";
const JOB: &str = "contrib/nomad/skd.nomad.hcl";

/// The versions of Kubernetes whose schemas the manifests must fit: from the first with a pause before TERM that needs no
/// program in the container.
const VERSIONS: [&str; 3] = ["1.30.0", "1.34.1", "1.37.0"];

/// How long skd goes on after KILL for its handlers, in seconds, as skd(8) says.
const AFTER_KILL: u64 = 5;

/// A tool that packaging/image/tools has installed.
#[track_caller]
fn tool(name: &str) -> PathBuf {
    let path = target().join("tools/clusters/bin").join(name);
    assert!(
        path.exists(),
        "no {}: run packaging/image/tools",
        path.display()
    );
    path
}

/// What kubectl makes of the folder.
fn built() -> String {
    run([
        tool("kubectl").as_os_str(),
        "kustomize".as_ref(),
        FOLDER.as_ref(),
    ])
}

/// The values of documents in YAML.
fn values(yaml: &str) -> Vec<Value> {
    let directory = Directory::new();
    let path = directory.write("documents", yaml);
    let line =
        "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let python = tool("python");
    let words = [
        python.as_os_str(),
        "-c".as_ref(),
        line.as_ref(),
        path.as_os_str(),
    ];
    serde_json::from_str(&run(words)).unwrap()
}

/// The manifest of this kind.
#[track_caller]
fn manifest(kind: &str) -> Value {
    let mut all = values(&built());
    all.retain(|it| it["kind"] == kind);
    let [one] = &all[..] else {
        panic!("not one {kind}: {all:#?}")
    };
    one.clone()
}

fn validate(version: &str, yaml: &str) -> Output {
    let directory = Directory::new();
    let path = directory.write("all.yaml", yaml);
    let mut validate = Command::new(tool("kubernetes-validate"));
    validate.args(["--strict", "-k", version]).arg(path);
    validate.output().unwrap()
}

#[test]
#[ignore = "needs packaging/image/tools"]
fn the_manifests_fit_the_schemas() {
    let yaml = built();
    for version in VERSIONS {
        let output = validate(version, &yaml);
        assert!(output.status.success(), "{version}: {output:?}");
        // A key that there isn't, and a value of another type.
        for (right, wrong) in [
            ("readOnlyRootFilesystem", "readOnlyRoot"),
            ("maxReplicas: 10", "maxReplicas: ten"),
        ] {
            assert!(yaml.contains(right));
            let output = validate(version, &yaml.replace(right, wrong));
            assert!(!output.status.success(), "{version}: {wrong}: {output:?}");
        }
    }
    // All files are part of it, but for those that need more than Kubernetes itself.
    let list = fs::read_to_string(format!("{FOLDER}/kustomization.yaml")).unwrap();
    for entry in fs::read_dir(FOLDER).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let listed = list.contains(&format!("- {name}\n"));
        assert!(
            listed || ["kustomization.yaml", "config", "monitoring"].contains(&name.as_str()),
            "{name}"
        );
    }
}

#[test]
#[ignore = "needs packaging/image/tools"]
fn selectors_select_the_pods_and_ports_have_names() {
    let deployment = manifest("Deployment");
    let template = &deployment["spec"]["template"];
    let labels = &template["metadata"]["labels"];
    assert!(!labels.as_object().unwrap().is_empty());
    let monitor =
        values(&fs::read_to_string(format!("{FOLDER}/monitoring/pod-monitor.yaml")).unwrap());
    for selector in [
        &deployment["spec"]["selector"]["matchLabels"],
        &manifest("Service")["spec"]["selector"],
        &manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        &manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        &template["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
        &monitor[0]["spec"]["selector"]["matchLabels"],
    ] {
        assert_eq!(selector, labels);
    }
    let target = &manifest("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"];
    assert_eq!(target["name"], deployment["metadata"]["name"]);
    assert_eq!(target["apiVersion"], deployment["apiVersion"]);
    assert_eq!(deployment["spec"]["replicas"], Value::Null);

    let container = &template["spec"]["containers"][0];
    let has = |port: &Value| {
        let mut ports = container["ports"].as_array().unwrap().iter();
        ports.any(|it| &it["name"] == port)
    };
    let service = manifest("Service");
    assert_eq!(service["spec"]["externalTrafficPolicy"], "Local");
    let policy = manifest("NetworkPolicy");
    assert_eq!(
        policy["spec"]["policyTypes"],
        serde_json::json!(["Ingress"])
    );
    for port in [
        &service["spec"]["ports"][0]["targetPort"],
        &policy["spec"]["ingress"][0]["ports"][0]["port"],
        &policy["spec"]["ingress"][1]["ports"][0]["port"],
        &container["readinessProbe"]["httpGet"]["port"],
        &monitor[0]["spec"]["podMetricsEndpoints"][0]["port"],
    ] {
        assert!(has(port), "{port}");
    }
    // The status page is nothing for clients.
    assert_eq!(service["spec"]["ports"].as_array().unwrap().len(), 1);
    assert!(policy["spec"]["ingress"][1]["from"].is_array());
}

#[test]
#[ignore = "needs packaging/image/tools"]
fn the_pod_meets_the_restricted_profile() {
    let spec = &manifest("Deployment")["spec"]["template"]["spec"];
    for name in [
        "hostNetwork",
        "hostPID",
        "hostIPC",
        "initContainers",
        "ephemeralContainers",
    ] {
        assert_eq!(spec[name], Value::Null, "{name}");
    }
    assert_eq!(spec["automountServiceAccountToken"], false);
    let [container] = &spec["containers"].as_array().unwrap()[..] else {
        panic!("not one container")
    };
    let context = &spec["securityContext"];
    assert_eq!(context["runAsNonRoot"], true);
    assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
    let own = &container["securityContext"];
    assert_eq!(own["allowPrivilegeEscalation"], false);
    assert_eq!(own["readOnlyRootFilesystem"], true);
    assert_eq!(own["capabilities"], serde_json::json!({"drop": ["ALL"]}));
    for port in container["ports"].as_array().unwrap() {
        assert_eq!(port["hostPort"], Value::Null);
    }
    for volume in spec["volumes"].as_array().unwrap() {
        let kinds = ["configMap", "emptyDir", "projected", "secret"];
        assert!(
            kinds.iter().any(|kind| volume[kind].is_object()),
            "{volume}"
        );
    }
}

/// A number of seconds, as skd writes them.
#[track_caller]
fn seconds(config: &str, name: &str) -> u64 {
    let begin = format!("\n{name} = \"");
    let (_, rest) = config
        .split_once(&begin)
        .unwrap_or_else(|| panic!("no {name}"));
    let (number, _) = rest.split_once("s\"").unwrap();
    number.parse().unwrap()
}

#[test]
#[ignore = "needs packaging/image/tools"]
fn the_grace_period_is_longer_than_pause_drain_and_kill() {
    let spec = &manifest("Deployment")["spec"]["template"]["spec"];
    let pause = &spec["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"];
    let config = fs::read_to_string(format!("{FOLDER}/config/app.toml")).unwrap();
    let needed = seconds(&config, "drain") + seconds(&config, "kill-after") + AFTER_KILL;
    let grace = spec["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(
        pause.as_u64().unwrap() + needed < grace,
        "{pause} {needed} {grace}"
    );
    // The pause of Nomad is outside of its limit.
    let job = fs::read_to_string(JOB).unwrap();
    let limit = seconds(
        &job.replace("      kill_timeout", "kill_timeout"),
        "kill_timeout",
    );
    let needed = seconds(&job, "drain") + seconds(&job, "kill-after") + AFTER_KILL;
    assert!(needed < limit, "{needed} {limit}");
}

/// What a container of the Deployment may do.
fn rights(spec: &Value) -> Rights {
    let context = &spec["securityContext"];
    let number = |name: &str| u32::try_from(context[name].as_u64().unwrap()).unwrap();
    assert_eq!(number("runAsUser"), number("runAsGroup"));
    Rights {
        user: number("runAsUser"),
        groups: vec![number("fsGroup")],
        ..Rights::default()
    }
}

/// The files of the Deployment's ConfigMap.
fn files() -> Vec<(String, String)> {
    let map = manifest("ConfigMap");
    let data = map["data"].as_object().unwrap().iter();
    data.map(|(name, text)| (name.clone(), text.as_str().unwrap().to_owned()))
        .collect()
}

/// Starts the container of the Deployment, with more words in its command line.
fn start(space: &Namespace, more: &[&str]) -> (Pod, Volume) {
    requires_root();
    let spec = manifest("Deployment")["spec"]["template"]["spec"].take();
    let container = &spec["containers"][0];
    let rights = rights(&spec);
    let mut volume = Volume::new(space, Kind::Memory, 0o644, Some(rights.groups[0]));
    let files = files();
    volume.write(
        &files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str()))
            .collect::<Vec<_>>(),
    );
    let mut mounts = Vec::new();
    for mount in container["volumeMounts"].as_array().unwrap() {
        let path = mount["mountPath"].as_str().unwrap();
        let mut volumes = spec["volumes"].as_array().unwrap().iter();
        let kind = volumes.find(|it| it["name"] == mount["name"]).unwrap();
        if kind["projected"].is_object() {
            assert_eq!(
                kind["projected"]["sources"][0]["configMap"]["name"],
                manifest("ConfigMap")["metadata"]["name"]
            );
            mounts.push(volume.at(path));
        } else {
            // Each container has these.
            assert_eq!(kind["emptyDir"]["medium"], "Memory");
            assert!(["/run/skd", "/tmp"].contains(&path), "{path}");
        }
    }
    assert_eq!(mounts.len(), 1);
    let args = container["args"].as_array().unwrap();
    let args: Vec<_> = args.iter().map(|it| it.as_str().unwrap()).collect();
    (
        rights.start(space, &[&args, more].concat(), &mounts),
        volume,
    )
}

/// The number of a port of the container.
fn port(container: &Value, name: &Value) -> u16 {
    let mut ports = container["ports"].as_array().unwrap().iter();
    let port = ports.find(|it| &it["name"] == name).unwrap();
    u16::try_from(port["containerPort"].as_u64().unwrap()).unwrap()
}

#[test]
#[ignore = "needs the archive of make image, and packaging/image/tools"]
fn the_container_of_the_deployment_serves() {
    let space = Namespace::new();
    let (checked, _volume) = start(&space, &["--check"]);
    let output = checked.skd.wait_with_output();
    output.expect_code(0);
    assert!(!output.stderr.contains("skd: "), "{output:#?}");

    let spec = manifest("Deployment")["spec"]["template"]["spec"].take();
    let container = &spec["containers"][0];
    let (pod, _volume) = start(&space, &[]);
    let app = port(
        container,
        &manifest("Service")["spec"]["ports"][0]["targetPort"],
    );
    let probe = &container["readinessProbe"]["httpGet"];
    let status = port(container, &probe["port"]);
    wait_for_ports(&pod, &[app, status]);

    // The probes.
    let ready = get(&space, status, probe["path"].as_str().unwrap());
    assert!(ready.starts_with("HTTP/1.1 200 OK\r\n"), "{ready}");
    let alive = container["livenessProbe"]["exec"]["command"]
        .as_array()
        .unwrap();
    let alive: Vec<_> = alive.iter().map(|it| it.as_str().unwrap()).collect();
    pod.ask(&alive);

    // A client, and the metric of the autoscaler.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, app));
    let answer = space.enter(|| talk(connect(address), b""));
    let answer = String::from_utf8(answer).unwrap();
    assert!(
        answer.contains("\napp ") && answer.contains("\nstatus "),
        "{answer}"
    );
    let metric = &manifest("HorizontalPodAutoscaler")["spec"]["metrics"][0]["pods"];
    let metric = metric["metric"]["name"].as_str().unwrap();
    let monitor =
        values(&fs::read_to_string(format!("{FOLDER}/monitoring/pod-monitor.yaml")).unwrap());
    let path = monitor[0]["spec"]["podMetricsEndpoints"][0]["path"]
        .as_str()
        .unwrap();
    let metrics = get(&space, status, path);
    assert!(
        metrics.contains(&format!("\n{metric}{{service=\"app\"}} ")),
        "{metrics}"
    );
    let rule = values(
        &fs::read_to_string(format!("{FOLDER}/monitoring/prometheus-adapter.yaml")).unwrap(),
    );
    let rule = &rule[0]["rules"]["custom"][0];
    assert!(rule["seriesQuery"].as_str().unwrap().starts_with(metric));
    assert!(
        rule["metricsQuery"]
            .as_str()
            .unwrap()
            .contains("service!=\"status\"")
    );
    assert!(metrics.contains(&format!("\n{metric}{{service=\"status\"}} ")));

    assert_eq!(pod.skd.troubles(), [""; 0]);
    assert_eq!(pod.skd.stop().code(), Some(0));
}

#[test]
#[ignore = "needs the archive of make image, and packaging/image/tools"]
fn the_liveness_probe_fails_for_a_stopped_process() {
    let space = Namespace::new();
    let spec = manifest("Deployment")["spec"]["template"]["spec"].take();
    let probe = &spec["containers"][0]["livenessProbe"];
    let words = probe["exec"]["command"].as_array().unwrap();
    let words: Vec<_> = words.iter().map(|it| it.as_str().unwrap()).collect();
    let (pod, _volume) = start(&space, &[]);
    wait_for_ports(&pod, &[8080]);
    pod.ask(&words);
    pod.skd.signal(nix::sys::signal::Signal::SIGSTOP);
    let begin = std::time::Instant::now();
    let output = pod.exec(&words);
    assert!(!output.status.success(), "{output:?}");
    // It fails by itself, before the kubelet gives up.
    let limit = probe["timeoutSeconds"].as_u64().unwrap();
    assert!(begin.elapsed().as_secs() < limit * u64::from(crate::harness::slowness()));
    pod.skd.signal(nix::sys::signal::Signal::SIGCONT);
    assert_eq!(pod.skd.stop().code(), Some(0));
}

#[test]
#[ignore = "needs the archive of make image, and packaging/image/tools"]
fn manifests_and_job_name_the_archive_and_its_user() {
    let directory = Directory::new();
    let archive = archive();
    let words = [
        "tar",
        "--extract",
        "--directory",
        directory.path().to_str().unwrap(),
        "--file",
    ];
    run(words
        .map(AsRef::<std::ffi::OsStr>::as_ref)
        .into_iter()
        .chain([archive.as_os_str(), "index.json".as_ref()]));
    let index: Value = serde_json::from_str(&directory.read("index.json")).unwrap();
    let name = index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"]
        .as_str()
        .unwrap();
    let spec = manifest("Deployment")["spec"]["template"]["spec"].take();
    assert_eq!(spec["containers"][0]["image"], name);
    assert_eq!(rights(&spec).user, USER);
    let job = fs::read_to_string(JOB).unwrap();
    assert!(
        job.contains(&format!(" image           = \"{name}\"\n")),
        "{job}"
    );
}

/// The job for Nomad, as a parser of its language reads it.
fn job() -> Value {
    let line = "import hcl2, json, sys; print(json.dumps(hcl2.load(open(sys.argv[1]))))";
    let python = tool("python");
    let words = [
        python.as_os_str(),
        "-c".as_ref(),
        line.as_ref(),
        JOB.as_ref(),
    ];
    serde_json::from_str(&run(words)).unwrap()
}

#[test]
#[ignore = "needs the archive of make image, and packaging/image/tools"]
fn the_job_for_nomad_is_read_and_its_services_pass_the_check() {
    let job = job();
    let task = &job["job"][0]["\"skd\""]["group"][0]["\"skd\""]["task"][0]["\"skd\""];
    assert_eq!(task["kill_signal"], "\"SIGTERM\"");
    assert_eq!(task["template"][0]["change_signal"], "\"SIGHUP\"");
    let text = fs::read_to_string(JOB).unwrap();
    let (_, config) = text.split_once("<<END\n").unwrap();
    let (config, _) = config.split_once("\nEND\n").unwrap();
    let space = Namespace::new();
    let mut volume = Volume::new(&space, Kind::Memory, 0o644, None);
    volume.write(&[("skd.toml", &format!("{config}\n"))]);
    let pod = Rights::default().start(&space, &["--config", "/etc/skd"], &[volume.at("/etc/skd")]);
    wait_for_ports(&pod, &[8080, 9117]);
    assert!(get(&space, 9117, "/healthz").starts_with("HTTP/1.1 200 OK\r\n"));
    assert_eq!(pod.skd.stop().code(), Some(0));
}

/// Makes the file of the portable service, from the programs of the archive. Returns its folder and its path.
fn portable() -> (Directory, PathBuf) {
    requires_root();
    requires_command("mksquashfs");
    let directory = Directory::new();
    let mut make = Command::new("contrib/portable/make");
    make.env("SKD_PROGRAMS", pod::files().join("usr/bin"));
    make.env("CARGO_TARGET_DIR", directory.path());
    let output = make.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let name = format!("skd_{}.raw", env!("CARGO_PKG_VERSION"));
    let path = directory.join("packages").join(name);
    (directory, path)
}

#[test]
#[ignore = "needs the archive of make image, and mksquashfs"]
fn the_portable_service_is_known_as_one() {
    requires_command("systemd-dissect");
    let (_directory, path) = portable();
    let dissected = run(["systemd-dissect".as_ref(), path.as_os_str()]);
    // In the locale C it has a plus sign.
    let mut lines = dissected.lines().map(str::trim);
    let known = lines.any(|line| ["✓ portable service", "+ portable service"].contains(&line));
    assert!(known, "{dissected}");
}

#[test]
#[ignore = "needs the archive of make image, mksquashfs, and a Debian that is downloaded"]
fn the_portable_service_is_attached_and_serves() {
    let (directory, path) = portable();
    let debian = RootDirectory::boot(&["systemd-container"]);
    // As a folder: a file would take a loop device, which isn't had in there.
    let name = path.file_stem().unwrap().to_str().unwrap();
    let tree = directory.name(name);
    run([
        "unsquashfs",
        "-quiet",
        "-no-progress",
        "-d",
        &tree,
        path.to_str().unwrap(),
    ]);
    let inside = debian.path("/root");
    run([
        "cp".as_ref(),
        "-a".as_ref(),
        tree.as_ref(),
        inside.as_os_str(),
    ]);
    let service = |number: u32| {
        let command =
            format!("command = [\"/usr/bin/skdctl\", \"--version\"]\nmax-clients = {number}\n");
        format!("[daemon]\nverbose = 1\n[service.app]\ntcp = 8080\n{command}")
    };
    debian.shell("mkdir -p /etc/skd");
    debian.write("/etc/skd/app.toml", &service(1));
    let inspected = debian.shell(&format!("portablectl inspect --cat /root/{name}"));
    let unit = fs::read_to_string("contrib/portable/skd.service").unwrap();
    assert!(inspected.contains(&unit), "{inspected}");

    debian.shell(&format!(
        "portablectl attach --runtime /root/{name} && systemctl start skd"
    ));
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 8080));
    let answer = debian.enter(|| talk(connect(address), b""));
    assert!(answer.starts_with(b"skdctl "), "{answer:?}");
    // With a user of its own, and without capabilities.
    let status = debian.shell("cat /proc/$(systemctl show --property MainPID --value skd)/status");
    assert!(status.contains("\nCapEff:\t0000000000000000\n"), "{status}");
    assert!(!status.contains("\nUid:\t0\t"), "{status}");

    debian.write("/etc/skd/app.toml", &service(2));
    debian.shell("systemctl reload skd");
    let log = debian.shell("journalctl --unit skd --output cat");
    assert!(log.contains("1 changed"), "{log}");
    debian.shell("systemctl stop skd");
    let result = debian.shell("systemctl show --property Result --value skd");
    assert_eq!(result, "success\n");
    debian.shell(&format!("portablectl detach --runtime {name}"));
}
