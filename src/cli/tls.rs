//! The options of TLS.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::args::Args;
use super::identity;
use super::values::{self, Why};
use crate::config::{
    ClientCertificates, Identity, Listen, Style, TLS_TIMEOUT, Tls, TlsCertificate, TlsProcess,
    TlsVersion,
};

/// The maximum length of a protocol's name in bytes (RFC 7301).
const LONGEST_NAME: usize = 255;

/// The options of a service that need `--tls`.
const OTHERS: [&str; 8] = [
    "tls-client-ca",
    "tls-client",
    "tls-crl",
    "tls-ocsp",
    "tls-min",
    "tls-alpn",
    "tls-timeout",
    "tls-strict-sni",
];

/// The options of the process that need a service with `--tls`.
const OF_PROCESS: [&str; 3] = ["tls-user", "tls-program", "tls-keylog"];

/// Reads how the clients of a service are served with TLS, if they are. `accepts` says whether skd accepts
/// connections.
pub(super) fn tls(args: &Args<'_>, listeners: &[Listen], accepts: bool) -> Option<Tls> {
    let client = args.read("tls-client", client);
    let min = args.read("tls-min", version);
    let timeout = args.read("tls-timeout", values::nonzero_duration);
    let alpn = alpn(args);
    if !args.has("tls") {
        let of_process = OF_PROCESS.iter().filter(|_| args.written.is_none());
        for option in OTHERS.iter().chain(of_process) {
            if args.is_given(option) {
                args.refuse(format!("--{option} has no use without --tls"));
            }
        }
        return None;
    }
    check_listeners(args, listeners, accepts);
    if args.flag("as-peer") {
        args.refuse(
            "--as-peer can't be used with --tls: a handler's connection leads to skd-tls, and not to \
             the user of its client",
        );
    }
    for option in ["tls-client", "tls-crl"] {
        if args.has(option) && !args.has("tls-client-ca") {
            args.refuse(format!(
                "--{option} has no use without --tls-client-ca: no client is asked for a certificate"
            ));
        }
    }
    let paths = |option: &str| {
        let each = args.each(option);
        each.filter_map(|(_, value)| args.value(option, value, values::path))
            .collect()
    };
    let certificates = args
        .each("tls")
        .filter_map(|(_, value)| args.value("tls", value, TlsCertificate::parse));
    Some(Tls {
        certificates: certificates.collect(),
        ocsp: paths("tls-ocsp"),
        strict_sni: args.flag("tls-strict-sni"),
        client: match args.has("tls-client-ca") {
            true => client.unwrap_or(ClientCertificates::Required),
            false => ClientCertificates::None,
        },
        client_ca: paths("tls-client-ca"),
        crl: paths("tls-crl"),
        min: min.unwrap_or_default(),
        alpn,
        timeout: timeout.unwrap_or(TLS_TIMEOUT),
    })
}

/// Reads the options of the process that serves TLS.
pub(super) fn process(args: &Args<'_>, known: &[Identity]) -> TlsProcess {
    TlsProcess {
        user: args.read("tls-user", |text| identity::identity(text, known)),
        program: args.read("tls-program", values::path),
        keylog: args.read("tls-keylog", values::path),
    }
}

/// Refuses TLS where there is no stream of bytes that skd accepts.
fn check_listeners(args: &Args<'_>, listeners: &[Listen], accepts: bool) {
    let other = [
        ("supervise", "PROG accepts the connections itself"),
        ("wait", "PROG accepts the connections itself"),
    ];
    if let Some((option, why)) = other.into_iter().find(|(option, _)| args.flag(option)) {
        args.refuse(format!("--tls can't be used with --{option}: {why}"));
        return;
    }
    let packets = |listen: &&Listen| {
        let style = listen.endpoint.style();
        matches!(style, Some(Style::Datagram | Style::Seqpacket))
    };
    if let Some(Listen { option, .. }) = listeners.iter().find(packets) {
        args.refuse(format!(
            "--tls can't be used with {option}: TLS is for streams of bytes, and not for packets; serve \
             these with another service"
        ));
    } else if !accepts {
        args.refuse("--tls has no use without a stream listener whose connections skd accepts");
    }
}

fn client(text: &OsStr) -> Result<ClientCertificates, Why> {
    match text.as_bytes() {
        b"optional" => Ok(ClientCertificates::Optional),
        b"required" => Ok(ClientCertificates::Required),
        _ => Err("it takes optional or required".into()),
    }
}

fn version(text: &OsStr) -> Result<TlsVersion, Why> {
    match text.as_bytes() {
        b"1.2" => Ok(TlsVersion::Tls12),
        b"1.3" => Ok(TlsVersion::Tls13),
        _ => Err("it takes 1.2 or 1.3; skd-tls has no older versions".into()),
    }
}

/// Reads the protocols, in the order in which they were given.
fn alpn(args: &Args<'_>) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for (_, value) in args.each("tls-alpn") {
        for name in args.value("tls-alpn", value, names).into_iter().flatten() {
            match all.contains(&name) {
                true => args.refuse(format!("--tls-alpn names {name} twice")),
                false => all.push(name),
            }
        }
    }
    all
}

/// Parses names of protocols with commas between them.
fn names(text: &OsStr) -> Result<Vec<String>, Why> {
    let refused = || {
        Why::from(
            "it takes names with commas between them, each 1 to 255 bytes of UTF-8 without blanks and \
             control characters, as h2,http/1.1",
        )
    };
    let odd = |letter: char| letter.is_whitespace() || letter.is_control();
    let name = |name: &str| {
        let fits = (1..=LONGEST_NAME).contains(&name.len()) && !name.contains(odd);
        fits.then(|| name.to_owned()).ok_or_else(refused)
    };
    text.to_str()
        .ok_or_else(refused)?
        .split(',')
        .map(name)
        .collect()
}
