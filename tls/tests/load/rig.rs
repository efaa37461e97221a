//! Settings with their files, and handshakes in memory.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConnection};
use skd_tls::load::{Loaded, Service, Tickets, load};
use skd_tls::session;
use skd_tls_protocol::{
    Certificate, CertificateFiles, FailureKind, FileIndex, Service as Asked, Session, Settings,
};

use crate::made::{Authority, Made};

/// Settings and their files.
#[derive(Default)]
pub(crate) struct Rig {
    pub(crate) settings: Settings,
    files: Vec<OwnedFd>,
}

impl Rig {
    /// Settings with a service "web" that has these certificates, each with its key in the same file.
    pub(crate) fn web(certificates: &[&Made]) -> Self {
        let mut rig = Self::default();
        let all = certificates.iter().enumerate();
        let all = all.map(|(index, it)| rig.one(&format!("/etc/{index}.pem"), it.both()));
        let all = all.collect();
        rig.service(all);
        rig
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, contents: impl AsRef<[u8]>) -> FileIndex {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(contents.as_ref()).unwrap();
        file.set_permissions(Permissions::from_mode(0o600)).unwrap();
        self.descriptor(path, file.into())
    }

    /// Adds a file that is open.
    pub(crate) fn descriptor(&mut self, path: &str, file: OwnedFd) -> FileIndex {
        self.settings.files.push(path.into());
        self.files.push(file);
        FileIndex(self.files.len() - 1)
    }

    /// Adds a file with a certificate and its key.
    pub(crate) fn one(&mut self, path: &str, contents: impl AsRef<[u8]>) -> CertificateFiles {
        let file = self.file(path, contents);
        CertificateFiles {
            chain: file,
            key: file,
        }
    }

    /// Adds a certificate, and its key.
    pub(crate) fn two(
        &mut self,
        chain: impl AsRef<[u8]>,
        key: impl AsRef<[u8]>,
    ) -> CertificateFiles {
        CertificateFiles {
            chain: self.file("/etc/cert.pem", chain),
            key: self.file("/etc/key.pem", key),
        }
    }

    /// Adds a service "web" with these certificates.
    pub(crate) fn service(&mut self, certificates: Vec<CertificateFiles>) -> &mut Asked {
        self.settings.services.push(Asked {
            name: "web".into(),
            certificates,
            ..Asked::default()
        });
        self.web_service()
    }

    pub(crate) fn web_service(&mut self) -> &mut Asked {
        self.settings.services.last_mut().unwrap()
    }

    pub(crate) fn try_load(&self) -> Result<Loaded, Vec<String>> {
        self.try_load_with(&Arc::default())
    }

    /// Loads them: what is wrong.
    pub(crate) fn faults(&self) -> Vec<String> {
        self.try_load().map(|_| ()).unwrap_err()
    }

    /// Loads them: what is reported.
    pub(crate) fn reports(&self) -> Vec<Certificate> {
        self.try_load().unwrap().certificates
    }

    pub(crate) fn try_load_with(&self, tickets: &Arc<Tickets>) -> Result<Loaded, Vec<String>> {
        load(&self.settings, &self.files, tickets)
    }

    /// Loads them with these keys for tickets: the service.
    pub(crate) fn load_with(&self, tickets: &Arc<Tickets>) -> Arc<Service> {
        let loaded = self.try_load_with(tickets).unwrap();
        Arc::clone(loaded.services.get("web").unwrap())
    }

    /// Loads them: the service.
    pub(crate) fn load(&self) -> Arc<Service> {
        self.load_with(&Arc::default())
    }
}

/// A client that knows these authorities.
pub(crate) fn client(authorities: &[&Authority]) -> ClientConfig {
    roots(authorities).with_no_client_auth()
}

/// A client with a certificate.
pub(crate) fn client_with(
    authorities: &[&Authority],
    own: &Made,
    between: &[&Authority],
) -> ClientConfig {
    let mut chain = vec![own.der.clone()];
    chain.extend(between.iter().map(|it| it.der().clone()));
    roots(authorities)
        .with_client_auth_cert(chain, own.private_key())
        .unwrap()
}

fn roots(
    authorities: &[&Authority],
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.der().clone()).unwrap();
    }
    ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
}

/// What has become of a handshake.
#[derive(Debug)]
pub(crate) struct Shaken {
    /// What the service says about it: a session, or the kind of a failure and a sentence.
    pub(crate) server: Result<Session<'static>, (FailureKind, String)>,
    /// Why the client has none.
    pub(crate) client: Result<(), rustls::Error>,
    /// What the client got to see.
    pub(crate) certificate: Option<CertificateDer<'static>>,
    pub(crate) alpn: Option<Vec<u8>>,
}

impl Shaken {
    pub(crate) fn session(&self) -> &Session<'static> {
        match &self.server {
            Ok(session) => session,
            Err(why) => panic!("{why:?} {:?}", self.client),
        }
    }

    pub(crate) fn failure(&self) -> (FailureKind, &str) {
        match &self.server {
            Ok(session) => panic!("{session:?}"),
            Err((kind, why)) => (*kind, why),
        }
    }
}

/// Lets a client that asks for this name and a service shake hands.
pub(crate) fn shake(service: &Service, client: &ClientConfig, name: &str) -> Shaken {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let client = ClientConnection::new(Arc::new(client.clone()), name).unwrap();
    let mut client = Connection::Client(client);
    let mut server = ServerConnection::new(Arc::clone(&service.config)).unwrap();
    let (mut client_result, mut server_result) = (Ok(()), Ok(()));
    for _ in 0..10 {
        let mut bytes = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut bytes).unwrap();
        }
        take(&mut bytes, |bytes| server.read_tls(bytes));
        if server_result.is_ok() {
            server_result = server.process_new_packets().map(|_| ());
        }
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        if let Some(alert) = server_result
            .as_ref()
            .err()
            .and_then(|it| session::alert(it, &[]))
        {
            bytes = alert.into();
        }
        take(&mut bytes, |bytes| client.read_tls(bytes));
        if client_result.is_ok() {
            client_result = client.process_new_packets().map(|_| ());
        }
    }
    let server_name = server.server_name().map(str::to_owned);
    let server_session = server_result
        .map_err(|error| session::failure(&error, &[]))
        .and_then(|()| {
            assert!(!server.is_handshaking());
            let session = session::session(service, &server, server_name.as_deref())?;
            Ok(owned(session))
        });
    Shaken {
        server: server_session.map_err(|it| (it.kind, it.why.into_owned())),
        client: client_result,
        certificate: client
            .peer_certificates()
            .and_then(|it| it.first().cloned()),
        alpn: client.alpn_protocol().map(<[u8]>::to_vec),
    }
}

fn take(bytes: &mut Vec<u8>, mut read: impl FnMut(&mut &[u8]) -> std::io::Result<usize>) {
    let mut rest = &bytes[..];
    while !rest.is_empty() && read(&mut rest).is_ok_and(|it| it > 0) {}
    bytes.clear();
}

/// A session on its own, as it is after the way to skd.
pub(crate) fn owned(session: Session<'_>) -> Session<'static> {
    let bytes = skd_tls_protocol::Answer::Established(session).bytes();
    match skd_tls_protocol::Found::read(&bytes) {
        Ok(skd_tls_protocol::Found::Answer(skd_tls_protocol::Answer::Established(it), _)) => {
            Session {
                protocol: it.protocol.into_owned().into(),
                cipher: it.cipher.into_owned().into(),
                server_name: it.server_name.into_owned().into(),
                alpn: it.alpn.into_owned().into(),
                peer_hash: it.peer_hash.into_owned().into(),
                peer_subject: it.peer_subject.into_owned().into(),
                peer_common_name: it.peer_common_name.into_owned().into(),
                ..it
            }
        }
        other => panic!("{other:?}"),
    }
}

/// Serves one connection of a client in another process or thread: what the service says about it.
pub(crate) fn serve(
    service: &Service,
    listener: &TcpListener,
) -> Result<Session<'static>, (FailureKind, String)> {
    let (mut stream, _) = listener.accept().unwrap();
    let mut server = ServerConnection::new(Arc::clone(&service.config)).unwrap();
    let mut first = Vec::new();
    let result = loop {
        if !server.is_handshaking() {
            break Ok(());
        }
        let mut bytes = [0; 4096];
        let length = stream.read(&mut bytes).unwrap_or(0);
        if length == 0 {
            return Err((FailureKind::Closed, String::new()));
        }
        first.extend(&bytes[..length]);
        let mut rest = &bytes[..length];
        let mut result = Ok(());
        while !rest.is_empty() && result.is_ok() {
            server.read_tls(&mut rest).unwrap();
            result = server.process_new_packets().map(|_| ());
        }
        first.truncate(16);
        send(
            &mut server,
            &mut stream,
            result
                .as_ref()
                .err()
                .and_then(|it| session::alert(it, &first)),
        );
        if result.is_err() {
            break result;
        }
    };
    first.truncate(16);
    let result = result
        .map_err(|error| session::failure(&error, &first))
        .and_then(|()| {
            let name = server.server_name().map(str::to_owned);
            Ok(owned(session::session(service, &server, name.as_deref())?))
        });
    if result.is_ok() {
        let _ = server.writer().write_all(b"hello\n");
        server.send_close_notify();
        send(&mut server, &mut stream, None);
    }
    // What the client still says is read, so that it isn't reset.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read_to_end(&mut Vec::new());
    result.map_err(|it| (it.kind, it.why.into_owned()))
}

fn send(server: &mut ServerConnection, stream: &mut TcpStream, alert: Option<[u8; 7]>) {
    let mut bytes = Vec::new();
    while server.wants_write() {
        server.write_tls(&mut bytes).unwrap();
    }
    if let Some(alert) = alert {
        bytes = alert.into();
    }
    let _ = stream.write_all(&bytes);
}

/// Has `openssl s_client` connect with these words: what the service says about it, and what openssl prints.
pub(crate) fn openssl(
    service: &Service,
    words: &str,
) -> (Result<Session<'static>, (FailureKind, String)>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let child = std::process::Command::new("openssl")
        .args(["s_client", "-ign_eof", "-connect", &address.to_string()])
        .args(words.split_whitespace())
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let served = serve(service, &listener);
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (served, String::from_utf8_lossy(&text).into_owned())
}

/// Has bytes arrive, and nothing else: what the service says about it.
pub(crate) fn say(service: &Service, bytes: &[u8]) -> (FailureKind, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.write_all(bytes).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    serve(service, &listener).unwrap_err()
}
