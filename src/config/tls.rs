//! TLS for the clients of a service (`--tls`).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

pub use skd_tls_protocol::{ClientCertificates, Version as TlsVersion};

use super::{Refused, Span};

/// How long a handshake may take, where it isn't said.
pub const TLS_TIMEOUT: Span = Span::seconds(10);

/// TLS for the clients of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// Its certificates. The first one is for clients that ask for no name, or for an unknown one.
    pub certificates: Vec<TlsCertificate>,
    /// Files with OCSP responses, each for one of the certificates.
    pub ocsp: Vec<PathBuf>,
    /// Whether clients that ask for no name, or for an unknown one, are refused.
    pub strict_sni: bool,
    /// Whether clients have certificates.
    pub client: ClientCertificates,
    /// Files with the certificates of the authorities that clients' certificates are from.
    pub client_ca: Vec<PathBuf>,
    /// Files with lists of revoked certificates.
    pub crl: Vec<PathBuf>,
    /// The lowest version of TLS.
    pub min: TlsVersion,
    /// The protocols that clients may choose from, the preferred one first (ALPN).
    pub alpn: Vec<String>,
    /// How long a handshake may take.
    pub timeout: Span,
}

/// The files of a certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsCertificate {
    /// The certificate, and those that lead from it to an authority.
    pub chain: PathBuf,
    /// Its private key, if that is in another file.
    pub key: Option<PathBuf>,
}

impl TlsCertificate {
    /// Parses `CERT[:KEY]`. In both, `\:` is a colon and `\\` a backslash.
    pub fn parse(text: &OsStr) -> Result<Self, Refused> {
        let mut paths = vec![Vec::new()];
        let mut rest = text.as_bytes();
        while let Some((byte, after)) = rest.split_first() {
            let (byte, after) = match (byte, after) {
                (b':', _) => {
                    paths.push(Vec::new());
                    rest = after;
                    continue;
                }
                (b'\\', [byte @ (b':' | b'\\'), after @ ..]) => (byte, after),
                (b'\\', _) => {
                    return Err(Refused::because(
                        "a backslash in a path is written as \\\\, and a colon as \\:",
                    ));
                }
                (0, _) => return Err(Refused::because("it contains a NUL byte")),
                _ => (byte, after),
            };
            if let Some(path) = paths.last_mut() {
                path.push(*byte);
            }
            rest = after;
        }
        if paths.iter().any(Vec::is_empty) {
            return Err(Refused::because("a path in it is empty"));
        }
        let mut paths = paths.into_iter().map(OsString::from_vec).map(PathBuf::from);
        match (paths.next(), paths.next(), paths.next()) {
            (Some(chain), key, None) => Ok(Self { chain, key }),
            _ => Err(Refused::because(
                "it takes CERT or CERT:KEY; a colon in a path is written as \\:",
            )),
        }
    }

    /// Returns the text that reads as these files.
    pub fn text(&self) -> OsString {
        let mut text = Vec::new();
        let paths = [Some(&self.chain), self.key.as_ref()];
        for path in paths.into_iter().flatten() {
            if !text.is_empty() {
                text.push(b':');
            }
            for byte in path.as_os_str().as_bytes() {
                if matches!(byte, b':' | b'\\') {
                    text.push(b'\\');
                }
                text.push(*byte);
            }
        }
        OsString::from_vec(text)
    }

    /// Returns the file that has the key.
    pub fn key_file(&self) -> &Path {
        self.key.as_ref().unwrap_or(&self.chain)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<(String, Option<String>), String> {
        let shown = |path: PathBuf| path.display().to_string();
        let read = TlsCertificate::parse(OsStr::new(text));
        read.map(|it| (shown(it.chain), it.key.map(shown)))
            .map_err(|why| why.to_string())
    }

    #[test]
    fn a_certificate_has_its_key_in_the_same_file_or_after_a_colon() {
        let both = |chain: &str, key: &str| Ok((chain.to_owned(), Some(key.to_owned())));
        assert_eq!(read("a.pem"), Ok(("a.pem".to_owned(), None)));
        assert_eq!(read("/a b/c.pem:key"), both("/a b/c.pem", "key"));
        assert_eq!(read(r"C\:\\x:k\:y"), both(r"C:\x", "k:y"));
        for (text, why) in [
            ("", "a path in it is empty"),
            (":key", "a path in it is empty"),
            ("cert:", "a path in it is empty"),
            (
                "a:b:c",
                r"it takes CERT or CERT:KEY; a colon in a path is written as \:",
            ),
            (
                r"a\b",
                r"a backslash in a path is written as \\, and a colon as \:",
            ),
            (
                r"a\",
                r"a backslash in a path is written as \\, and a colon as \:",
            ),
            ("a\0", "it contains a NUL byte"),
        ] {
            assert_eq!(read(text), Err(why.to_owned()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            paths in (
                proptest::collection::vec(1..=255_u8, 1..9),
                proptest::option::of(proptest::collection::vec(1..=255_u8, 1..9)),
            ),
        ) {
            let path = |bytes| PathBuf::from(OsString::from_vec(bytes));
            let certificate = TlsCertificate {
                chain: path(paths.0),
                key: paths.1.map(path),
            };
            prop_assert_eq!(TlsCertificate::parse(&certificate.text()), Ok(certificate));
        }

        #[test]
        fn any_text_is_read_or_refused(text in r"[a:\\]{0,8}") {
            if let Ok(read) = TlsCertificate::parse(OsStr::new(&text)) {
                prop_assert_eq!(read.text(), OsString::from(text));
            }
        }
    }
}
