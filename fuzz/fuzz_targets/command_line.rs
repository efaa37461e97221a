//! The command line as a whole. Any words are accepted, or refused in one sentence. An accepted command line needs
//! no more checks, and the config written out as a command line parses to the same config.

#![no_main]

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::num::NonZeroUsize;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use libfuzzer_sys::fuzz_target;
use skd::cli::{self, Request};
use skd::config::{
    Admission, AtLimit, ClientCertificates, Config, Control, DatagramMode, Endpoint, Gate,
    HOST_NAME, Identity, Isolation, Listen, LogFormat, LogTarget, MOST_THREADS, Mode, Mount,
    MountKind, Part, Parts, Prestart, Probes, Proxies, ResourceMax, Rule, RuleLocation, Sandbox,
    Seccomp, Sharing, SocketOption, SourcePrefix, StandardError, Style, Supervise, Tls, TlsProcess,
    TlsVersion, Trusted, UnixAddress, quoted,
};
use skd::error::Error;

// Newlines separate words, so that a word can contain NUL, which must be refused.
fuzz_target!(|data: &[u8]| {
    // These read files of this machine.
    let reads = |word: &[u8]| {
        let sources: [&[u8]; 3] = [b"--config", b"--inetd-conf", b"--xinetd"];
        sources.iter().any(|source| word.starts_with(source))
    };
    if data.split(|&byte| byte == b'\n').any(reads) {
        return;
    }
    let words = data.split(|&byte| byte == b'\n').map(os);
    let words = [OsString::from("skd")].into_iter().chain(words);
    match cli::parse(words, None) {
        Ok(Request::Run(config)) => {
            checked(&config);
            reads_as_the_same(&config);
        }
        // Their config lacks the parts that are wrong.
        Ok(Request::Check(..) | Request::Explain(..) | Request::Refused(..)) => {}
        Ok(Request::Print(text)) => assert!(text.ends_with('\n')),
        Err(Error::Usage(text)) => {
            assert!(!text.is_empty() && !text.starts_with("error"), "{text:?}");
            // One line, without clap's additions; no word contains a newline.
            assert!(!text.contains('\n'), "{text:?}");
        }
        Err(other) => panic!("{other:?}"),
    }
});

fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// Asserts what the rest of skd relies on.
fn checked(config: &Config) {
    let Config {
        daemon, services, ..
    } = config;
    let [service] = services.as_slice() else {
        panic!("a command line is one service");
    };
    assert!(!service.command[0].is_empty());
    let on_demand = service.mode.supervised().is_some_and(|it| it.on_demand);
    assert!(!on_demand || !service.listeners.is_empty());
    assert!(daemon.root.is_none() || daemon.identity.is_some());
    assert!(service.root.is_none() || service.identity.is_some());
    let users = [&daemon.identity, &service.identity].map(|user| usize::from(user.is_some()));
    assert!(users[0] + users[1] + usize::from(service.as_peer) <= 1);
    assert!(
        daemon
            .threads
            .is_none_or(|threads| threads.get() <= MOST_THREADS)
    );
    for identity in daemon.identity.iter().chain(&service.identity) {
        assert!(!identity.uid.is_root());
    }
    if service.prestart.is_some() {
        let style = |listen: &Listen| listen.endpoint.style();
        let connections = |style: Style| style.has_connections();
        assert!(!service.listeners.is_empty() && service.mode == Mode::PerConnection);
        assert!(service.listeners.iter().filter_map(style).all(connections));
        assert!(service.admission.proxies.is_none());
    }
    if let Some(sandbox) = &service.isolation.sandbox {
        assert!(!service.listeners.is_empty() && sandbox.parts != Parts::NONE);
        assert!(service.root.is_none() && !service.as_peer);
        let paths = sandbox.parts.has(Part::Mount) || sandbox.parts.has(Part::Landlock);
        assert!(paths || sandbox.mounts.is_empty());
        for (at, mount) in sandbox.mounts.iter().enumerate() {
            assert!(mount.at.is_absolute() && mount.at.parent().is_some());
            assert!(!mount.at.as_os_str().as_bytes().contains(&0));
            // What is in a directory comes after it.
            let before = &sandbox.mounts[..at];
            assert!(before.iter().all(|other| !other.at.starts_with(&mount.at)));
        }
    }
    if let Some(tls) = &service.tls {
        let packets = [Some(Style::Datagram), Some(Style::Seqpacket)];
        let style = |listen: &Listen| listen.endpoint.style();
        assert!(!service.listeners.is_empty() && service.mode == Mode::PerConnection);
        assert!(
            !service
                .listeners
                .iter()
                .map(style)
                .any(|it| packets.contains(&it))
        );
        assert!(!service.as_peer && !tls.certificates.is_empty());
        assert_eq!(
            tls.client == ClientCertificates::None,
            tls.client_ca.is_empty()
        );
        assert!(tls.crl.is_empty() || !tls.client_ca.is_empty());
        assert!(tls.alpn.iter().all(|name| (1..=255).contains(&name.len())));
        let certificates = tls.certificates.iter();
        let own = certificates.flat_map(|it| [&it.chain].into_iter().chain(&it.key));
        for path in own.chain(&tls.client_ca).chain(&tls.crl).chain(&tls.ocsp) {
            assert!(!path.as_os_str().is_empty() && !path.as_os_str().as_bytes().contains(&0));
        }
    }
    if let Some(gate) = &service.gate {
        assert!(!gate.command.is_empty() && !service.listeners.is_empty());
    }
    for path in [&daemon.pidfile, &daemon.root, &service.root]
        .into_iter()
        .flatten()
    {
        assert!(!path.as_os_str().is_empty() && !path.as_os_str().as_bytes().contains(&0));
    }
    if let Some(LogTarget::File { path, .. }) = &daemon.log {
        assert!(!path.as_os_str().as_bytes().contains(&0));
    }
    for (at, listen) in service.listeners.iter().enumerate() {
        if let Endpoint::Unix {
            address: UnixAddress::Path(path),
            mode,
            ..
        } = &listen.endpoint
        {
            assert!(!path.as_os_str().as_bytes().contains(&0));
            assert!(mode.is_none_or(|mode| mode <= 0o777));
        }
        for other in &service.listeners[..at] {
            let same = other.endpoint == listen.endpoint;
            assert!(
                !same || listen.endpoint.may_be_repeated(),
                "twice {}",
                listen.option
            );
        }
    }
    assert!(service.max_total.is_none() || !service.listeners.is_empty());
    assert!(service.max_total.is_none() || service.mode.supervised().is_none());
    assert!(!service.name.contains('\n'));
    let surroundings = &service.surroundings;
    assert!(surroundings.clears_environment || surroundings.passed.is_empty());
    assert!(surroundings.umask.is_none_or(|mask| mask <= 0o777));
    for (at, limit) in surroundings.limits.iter().enumerate() {
        assert!(limit.soft <= limit.hard);
        assert!(
            surroundings.limits[..at]
                .iter()
                .all(|other| other.name != limit.name)
        );
    }
    for (name, value) in &surroundings.environment {
        assert!(!name.is_empty() && !name.as_bytes().contains(&b'='));
        let bytes = [
            name.as_bytes(),
            value.as_deref().unwrap_or_default().as_bytes(),
        ]
        .concat();
        assert!(!bytes.contains(&0));
    }
}

fn reads_as_the_same(config: &Config) {
    let shown = format!("{config:?}");
    // Text that isn't UTF-8 is shown in another form.
    let lossy = |listen: &skd::config::Listen| listen.option.contains('\u{fffd}');
    let lossy_rule = |rule: &Rule| rule.location.to_string().contains('\u{fffd}');
    let service = &config.services[0];
    if service.listeners.iter().any(lossy) || service.admission.rules.iter().any(lossy_rule) {
        return;
    }
    match cli::parse(written(config), None) {
        Ok(Request::Run(again)) => {
            assert_eq!(format!("{again:?}"), shown);
        }
        other => panic!("{other:?} instead of {shown}"),
    }
}

/// The value of a socket option, if it has one.
fn socket_option(option: &SocketOption) -> Option<String> {
    match option {
        SocketOption::NoDelay
        | SocketOption::ReusePort
        | SocketOption::FreeBind
        | SocketOption::AcceptDescriptors
        | SocketOption::KeepAlive(None) => None,
        SocketOption::KeepAlive(Some(Probes {
            time,
            interval,
            count,
        })) => Some(format!("{time}s:{interval}s:{count}")),
        SocketOption::UserTimeout(milliseconds) => Some(format!("{milliseconds}ms")),
        SocketOption::DeferAccept(seconds) => Some(format!("{seconds}s")),
        SocketOption::FastOpen(length) => Some(length.to_string()),
        SocketOption::Device(name) => Some(name.clone()),
        SocketOption::TypeOfService(byte) => Some(byte.to_string()),
        SocketOption::Mark(mark) => Some(mark.to_string()),
        SocketOption::SendBuffer(size) | SocketOption::ReceiveBuffer(size) => {
            Some(size.to_string())
        }
        SocketOption::Multicast(group) => Some(group.to_string()),
    }
}

fn prefixes(SourcePrefix { v4, v6 }: SourcePrefix) -> String {
    format!("{v4},{v6}")
}

/// A user, and a group if there is one.
fn account<U: Display, G: Display>((user, group): (U, Option<G>)) -> String {
    match group {
        Some(group) => format!("{user}:{group}"),
        None => user.to_string(),
    }
}

fn limit(at: &AtLimit) -> String {
    match at {
        AtLimit::Queue(None) => "queue".into(),
        AtLimit::Queue(Some(time)) => format!("queue:{time}"),
        AtLimit::Close => "close".into(),
        AtLimit::Reset => "reset".into(),
        AtLimit::Message(text) => {
            let quoted = quoted(text).to_string();
            format!("message:{}", &quoted[1..quoted.len() - 1])
        }
    }
}

/// Writes the options about admission.
fn admission(words: &mut Words, asked: &Admission) {
    for rule in &asked.rules {
        let RuleLocation::Option(option) = &rule.location else {
            continue;
        };
        if let Some((option, value)) = option.split_once(' ') {
            words.value(&option[2..], Some(value));
        }
    }
    words.value("rules", asked.rules_file.as_ref());
    let number = |number: Option<NonZeroUsize>| number.map(|number| number.to_string());
    words.value("max-per-source", number(asked.max_per_source));
    let told_apart = Some(asked.source_prefix).filter(|it| *it != SourcePrefix::default());
    words.value("source-prefix", told_apart.map(prefixes));
    for prefix in &asked.nat64 {
        words.value("nat64", Some(prefix.to_string()));
    }
    for (option, rate) in [
        ("rate", asked.rate),
        ("rate-per-source", asked.rate_per_source),
    ] {
        words.value(option, rate.map(|rate| rate.to_string()));
    }
    for (option, at) in [
        ("at-max", &asked.at_max),
        ("at-source-max", &asked.at_source_max),
        ("at-rate", &asked.at_rate),
    ] {
        words.value(option, at.as_ref().map(limit));
    }
    for (option, time) in [
        ("first-byte", asked.first_byte),
        ("timeout", asked.timeout),
        ("idle-timeout", asked.idle_timeout),
        ("linger", asked.linger),
    ] {
        words.value(option, time.map(|time| time.to_string()));
    }
    if let Some(Proxies { from, timeout }) = &asked.proxies {
        words.flag("proxy-protocol", true);
        for trusted in from {
            let trusted = match trusted {
                Trusted::Net(prefix) => prefix.to_string(),
                Trusted::Unix => "unix".into(),
            };
            words.value("proxy-from", Some(trusted));
        }
        words.value("proxy-timeout", Some(timeout.to_string()));
    }
}

/// Writes the options of containment, sandbox, filter and limits.
fn isolation(words: &mut Words, asked: &Isolation) {
    words.flag("contain", asked.contains);
    let filter = match &asked.seccomp {
        Seccomp::Unset => None,
        Seccomp::None => Some("none".into()),
        Seccomp::Default => Some("default".into()),
        Seccomp::Log => Some("log".into()),
        Seccomp::File(file) => Some(file.option.clone()),
    };
    words.value("seccomp", filter);
    for (of, ResourceMax { memory, pids, cpu }) in
        [("", &asked.handler_max), ("service-", &asked.service_max)]
    {
        words.value(&format!("{of}memory-max"), memory.map(|it| it.to_string()));
        words.value(&format!("{of}pids-max"), pids.map(|it| it.to_string()));
        words.value(&format!("{of}cpu-max"), cpu.map(|it| format!("{it}%")));
    }
    let Some(sandbox) = &asked.sandbox else {
        return;
    };
    let Sandbox {
        parts,
        user,
        host_name,
        mounts,
        shares_net,
    } = sandbox;
    // The network can be shared only where it would not be.
    let net = shares_net.then_some("net");
    let names: Vec<_> = parts.names().chain(net).collect();
    words.value("sandbox", Some(names.join(",")));
    words.flag("share-net", *shares_net);
    words.value(
        "sandbox-user",
        user.map(|(uid, gid)| format!("{uid}:{gid}")),
    );
    words.value(
        "sandbox-hostname",
        Some(host_name).filter(|name| *name != HOST_NAME),
    );
    for Mount { kind, at } in mounts {
        let text =
            |path: &OsStr, more: &OsStr| os(&[path.as_bytes(), b":", more.as_bytes()].concat());
        match kind {
            MountKind::ReadOnly(from) => {
                words.value("ro", Some(text(from.as_os_str(), at.as_os_str())));
            }
            MountKind::ReadWrite(from) => {
                words.value("rw", Some(text(from.as_os_str(), at.as_os_str())));
            }
            MountKind::Memory(size) => {
                let size = size.to_string();
                words.value("tmpfs", Some(text(at.as_os_str(), OsStr::new(&size))));
            }
        }
    }
}

/// Writes the options of a gate.
fn gate(words: &mut Words, asked: &Gate) {
    let quoted = asked.command.iter().map(|word| {
        let parts: Vec<_> = word.to_bytes().split(|byte| *byte == b'\'').collect();
        [b"'", parts.join(&br"'\''"[..]).as_slice(), b"'"].concat()
    });
    let command: Vec<_> = quoted.collect();
    words.value("gate", Some(os(&command.join(&b' '))));
    words.value("gate-timeout", Some(asked.timeout.to_string()));
    words.value("gate-max", Some(asked.most.to_string()));
}

/// Writes the options of TLS.
fn tls(words: &mut Words, asked: &Tls) {
    for certificate in &asked.certificates {
        words.value("tls", Some(certificate.text()));
    }
    for (option, paths) in [
        ("tls-client-ca", &asked.client_ca),
        ("tls-crl", &asked.crl),
        ("tls-ocsp", &asked.ocsp),
    ] {
        for path in paths {
            words.value(option, Some(path));
        }
    }
    words.flag("tls-strict-sni", asked.strict_sni);
    let is_optional = asked.client == ClientCertificates::Optional;
    words.value("tls-client", is_optional.then_some("optional"));
    words.value("tls-min", (asked.min == TlsVersion::Tls13).then_some("1.3"));
    for name in &asked.alpn {
        words.value("tls-alpn", Some(name));
    }
    words.value("tls-timeout", Some(asked.timeout.to_string()));
}

/// Writes the options of the process that serves TLS.
fn tls_process(words: &mut Words, asked: &TlsProcess) {
    words.value("tls-user", asked.user.as_ref().map(|user| &user.name));
    words.value("tls-program", asked.program.as_ref());
    words.value("tls-keylog", asked.keylog.as_ref());
}

/// Writes the options of the control socket.
fn control(words: &mut Words, asked: &Control) {
    words.value("control", Some(&asked.path));
    words.value("control-mode", asked.mode.map(|mode| format!("{mode:o}")));
    words.value("control-owner", asked.owner.map(account));
    words.value("control-read", asked.readers.map(|group| group.to_string()));
}

/// The command line for a config, in long options.
fn written(
    Config {
        daemon, services, ..
    }: &Config,
) -> Vec<OsString> {
    let service = &services[0];
    let mut words = Words(vec!["skd".into()]);
    let amount = |value| match value {
        u64::MAX => "unlimited".to_owned(),
        value => value.to_string(),
    };
    (0..daemon.verbosity).for_each(|_| words.flag("verbose", true));
    words.flag("background", daemon.background);
    let supervised = service.mode.supervised();
    words.flag("supervise", supervised.is_some());
    let Supervise {
        on_demand,
        idle_exit,
    } = supervised.unwrap_or_default();
    words.flag("on-demand", on_demand);
    words.flag("wait", service.mode == Mode::Wait);
    words.value("idle-exit", idle_exit.map(|span| span.to_string()));
    words.value("drain", service.drain.map(|span| span.to_string()));
    words.value(
        "kill-after",
        service.kill_after.map(|span| span.to_string()),
    );
    words.value("ready-fd", daemon.ready_fd.map(|number| number.to_string()));
    words.value("pidfile", daemon.pidfile.as_ref());
    words.value("chroot", daemon.root.as_ref().or(service.root.as_ref()));
    words.value("threads", daemon.threads.map(|threads| threads.to_string()));
    words.value(
        "max-clients",
        service.max_clients.map(|clients| clients.to_string()),
    );
    words.value(
        "max-total",
        service.max_total.map(|total| total.to_string()),
    );
    let prog = service.command[0].to_bytes();
    let last = prog.rsplit(|byte| *byte == b'/').next();
    let name = String::from_utf8_lossy(last.unwrap_or_default());
    words.value("name", (name != service.name).then_some(&service.name));
    words.value("user", service.identity.as_ref().map(|user| &user.name));
    let drops = |user: &&Identity| user.name == "$UID";
    let skd = daemon.identity.as_ref();
    words.flag("drop-privileges", skd.is_some_and(|user| drops(&user)));
    let named = skd.filter(|user| !drops(user));
    words.value("daemon-user", named.map(|user| &user.name));
    words.flag("as-peer", service.as_peer);
    words.value("log", daemon.log.as_ref().map(log));
    words.value(
        "log-format",
        (daemon.log_format == LogFormat::Json).then_some("json"),
    );
    let yes_or_no = |yes| if yes { "yes" } else { "no" };
    words.value("log-time", daemon.log_time.map(yes_or_no));
    words.value("log-mask", daemon.log_mask.map(prefixes));
    if let Some(asked) = &daemon.control {
        control(&mut words, asked);
    }
    for listen in &service.listeners {
        let (option, value) = match listen.option.split_once(' ') {
            Some((option, value)) => (option, Some(value)),
            None => (listen.option.as_str(), None),
        };
        let styled = matches!(option, "--inet" | "--unix");
        let style = listen.endpoint.style();
        words.flag("datagram", styled && style == Some(Style::Datagram));
        words.flag("seqpacket", styled && style == Some(Style::Seqpacket));
        words.flag(&option[2..], value.is_none());
        words.value(&option[2..], value);
        words.value("backlog", listen.backlog.map(|backlog| backlog.to_string()));
        if let Endpoint::Unix { mode, owner, .. } = &listen.endpoint {
            words.value("unix-mode", mode.map(|mode| format!("{mode:o}")));
            words.value("unix-owner", owner.map(account));
        }
    }
    // All listeners have the same options.
    let options = service.listeners.first().map(|listen| &listen.options);
    for option in options.into_iter().flatten() {
        words.value(option.name(), socket_option(option));
        words.flag(option.name(), socket_option(option).is_none());
    }
    admission(&mut words, &service.admission);
    isolation(&mut words, &service.isolation);
    if let Some(asked) = &service.gate {
        gate(&mut words, asked);
    }
    if let Some(asked) = &service.tls {
        tls(&mut words, asked);
    }
    tls_process(&mut words, &daemon.tls);
    if service.datagrams != DatagramMode::Wait {
        let mode = match service.datagrams {
            DatagramMode::PerPeer => "per-peer",
            _ => "per-packet",
        };
        words.value("datagram-mode", Some(mode));
        let is_unix = |listen: &Listen| matches!(listen.endpoint, Endpoint::Unix { .. });
        if !service.listeners.iter().all(is_unix) {
            let port = service.min_source_port.to_string();
            words.value("min-source-port", Some(port));
        }
    }
    match service.prestart {
        None => {}
        Some(Prestart::Warm(number)) => words.value("warm", Some(number.to_string())),
        Some(Prestart::ForkServer { sharing, max_age }) => {
            let mode = match sharing {
                Sharing::Strict => "strict",
                Sharing::Start => "start",
                Sharing::Shared => "shared",
            };
            words.value("fork-server", Some(mode));
            words.value("fork-server-max-age", Some(max_age.to_string()));
        }
    }
    let surroundings = &service.surroundings;
    let directory = surroundings.directory.as_ref();
    words.value(
        "chdir",
        directory.map(|path| OsStr::from_bytes(path.to_bytes())),
    );
    words.value("umask", surroundings.umask.map(|mask| format!("{mask:o}")));
    let to_client = surroundings.error == StandardError::Client;
    words.value("stderr", to_client.then_some("client"));
    words.value("nice", surroundings.nice.map(|nice| nice.to_string()));
    for limit in &surroundings.limits {
        let (soft, hard) = (amount(limit.soft), amount(limit.hard));
        words.value("limit", Some(format!("{}={soft}:{hard}", limit.name)));
    }
    let argv0 = surroundings.argv0.as_ref();
    words.value(
        "argv0",
        argv0.map(|name| OsStr::from_bytes(name.to_bytes())),
    );
    words.flag("clear-env", surroundings.clears_environment);
    for name in &surroundings.passed {
        words.value("pass-env", Some(name));
    }
    let mut of_files = 0;
    for file in &surroundings.environment_files {
        words.value("env-file", Some(&file.option));
        of_files += file.variables.len();
    }
    for (name, value) in &surroundings.environment[of_files..] {
        let mut line = name.clone();
        if let Some(value) = value {
            line.push("=");
            line.push(value);
        }
        words.value("env", Some(line));
    }
    words.flag("no-new-privs", surroundings.no_new_privileges);
    let Words(mut words) = words;
    words.push("--".into());
    words.extend(service.command.iter().map(|word| os(word.to_bytes())));
    words
}

fn log(target: &LogTarget) -> OsString {
    match target {
        LogTarget::File { path, truncate } => {
            let sign: &[u8] = if *truncate { b"> " } else { b">> " };
            os(&[sign, path.as_os_str().as_bytes()].concat())
        }
        LogTarget::Syslog { tag, level } => {
            let level = format!(":{}.{}", level.facility, level.severity);
            os(&[tag.as_bytes(), level.as_bytes()].concat())
        }
    }
}

struct Words(Vec<OsString>);

impl Words {
    fn flag(&mut self, option: &str, given: bool) {
        if given {
            self.0.push(format!("--{option}").into());
        }
    }

    fn value(&mut self, option: &str, value: Option<impl AsRef<OsStr>>) {
        if let Some(value) = value {
            // In one word, which --keepalive requires.
            let mut word = OsString::from(format!("--{option}="));
            word.push(value);
            self.0.push(word);
        }
    }
}
