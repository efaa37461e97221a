//! Certificates for tests, made by openssl(1).

use super::{Directory, requires_command};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// An authority, and what it has signed: `NAME.pem` and `NAME.key` for each name, with `ca.pem` and `ca.key` for
/// itself. All keys are of P-256, and last for ten days.
#[derive(Debug)]
pub struct Pki {
    directory: Directory,
}

/// What a certificate is like that isn't just any.
#[derive(Clone, Copy, Debug, Default)]
pub struct Leaf<'a> {
    /// The subject, as openssl takes it: `/CN=name` if empty.
    pub subject: &'a str,
    /// The names and addresses, as openssl takes them: `DNS:a,IP:1.2.3.4`. None if empty.
    pub names: &'a str,
    /// Whether it ended yesterday.
    pub is_expired: bool,
    /// Whether its key is of RSA with 2048 bits.
    pub is_rsa: bool,
}

impl Pki {
    /// An authority that has signed nothing.
    pub fn new() -> Self {
        Self::called("Authority")
    }

    /// The same with this common name.
    pub fn called(name: &str) -> Self {
        requires_command("openssl");
        let pki = Self {
            directory: Directory::new(),
        };
        pki.openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-noenc",
            "-days",
            "10",
            "-subj",
            &format!("/CN={name}"),
            "-keyout",
            "ca.key",
            "-out",
            "ca.pem",
        ]);
        pki.write("ca.conf", "[ca]\ndefault_ca = own\n[own]\ndatabase = index\ncrlnumber = crlnumber\n\
            default_md = sha256\ndefault_crl_days = 5\nprivate_key = ca.key\ncertificate = ca.pem\nserial = serial\n[any]\ncommonName = supplied\n\
            organizationName = optional\ncountryName = optional\n");
        pki.write("index", "");
        pki.write("crlnumber", "01\n");
        pki
    }

    /// An authority that has signed a certificate `server` for the name `localhost` and the loopback addresses.
    pub fn with_server() -> Self {
        let pki = Self::new();
        pki.sign(
            "server",
            Leaf {
                names: "DNS:localhost,IP:127.0.0.1,IP:::1",
                ..Leaf::default()
            },
        );
        pki
    }

    /// Signs a certificate.
    #[track_caller]
    pub fn sign(&self, name: &str, leaf: Leaf<'_>) {
        let common_name = format!("/CN={name}");
        let subject = if leaf.subject.is_empty() {
            &common_name
        } else {
            leaf.subject
        };
        let kind: &[&str] = match leaf.is_rsa {
            true => &["-newkey", "rsa:2048"],
            false => &["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"],
        };
        let (key, request) = (format!("{name}.key"), format!("{name}.csr"));
        let words = [
            "req", "-new", "-noenc", "-utf8", "-subj", subject, "-keyout", &key, "-out", &request,
        ];
        self.openssl(&[&words[..], kind].concat());
        let names = match leaf.names {
            "" => String::new(),
            names => format!("subjectAltName={names}\n"),
        };
        let extensions = self.write(
            &format!("{name}.ext"),
            &format!("basicConstraints=CA:FALSE\n{names}"),
        );
        let serial = serial_of(name);
        let certificate = format!("{name}.pem");
        if leaf.is_expired {
            // x509(1) of older versions can't make one; ca(1) can.
            self.write("serial", &format!("{serial}\n"));
            self.openssl(&[
                "ca",
                "-batch",
                "-notext",
                "-config",
                "ca.conf",
                "-policy",
                "any",
                "-in",
                &request,
                "-out",
                &certificate,
                "-startdate",
                "20200101000000Z",
                "-enddate",
                "20200102000000Z",
                "-extfile",
                extensions.to_str().unwrap(),
                "-outdir",
                ".",
            ]);
            return;
        }
        let serial = format!("0x{serial}");
        let words = [
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-set_serial",
            &serial,
            "-extfile",
            extensions.to_str().unwrap(),
            "-out",
            &certificate,
            "-days",
            "10",
        ];
        self.openssl(&words);
    }

    /// Revokes certificates, and writes the list of those that are revoked to `crl.pem`.
    #[track_caller]
    pub fn revoke(&self, names: &[&str]) {
        for name in names {
            self.openssl(&[
                "ca",
                "-config",
                "ca.conf",
                "-revoke",
                &format!("{name}.pem"),
            ]);
        }
        self.openssl(&["ca", "-config", "ca.conf", "-gencrl", "-out", "crl.pem"]);
    }

    /// The path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    /// The same as text, for command lines.
    pub fn name(&self, name: &str) -> String {
        self.directory.name(name)
    }

    /// The value of `--tls` for a certificate.
    pub fn option(&self, name: &str) -> String {
        format!(
            "{}:{}",
            self.name(&format!("{name}.pem")),
            self.name(&format!("{name}.key"))
        )
    }

    /// Where it all is.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Lets another user reach what isn't secret.
    pub fn publish(&self) {
        fs::set_permissions(self.directory(), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        self.directory.write(name, text)
    }

    #[track_caller]
    fn openssl(&self, words: &[&str]) {
        let mut openssl = Command::new("openssl");
        let output = openssl
            .args(words)
            .current_dir(self.directory())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {words:?}: {said}");
    }
}

/// A serial number, as hexadecimal digits: another one for each name.
fn serial_of(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02X}")).collect();
    // Positive, and at most 20 bytes.
    format!("01{}", &digits[..digits.len().min(36)])
}
