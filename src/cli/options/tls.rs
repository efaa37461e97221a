//! Options: TLS.

use clap::ValueHint;

use super::option::Kind::{Flag, Value, Values};
use super::option::Opt;

pub(super) const OPTIONS: &[Opt] = &[
    Opt {
        long: "tls",
        shorts: &[],
        kind: Values("CERT[:KEY]", ValueHint::FilePath),
        common: true,
        help: "Speak TLS with clients; repeatable",
        manual: "\
PROG reads and writes plain bytes. CERT is a PEM file with the certificate and those that lead from it to an \
authority. KEY is that of its private key; without it, CERT has that too. In both, a colon is written as `\\:` and a \
backslash as `\\\\`. With several, a client gets the one for the name that it asks for, otherwise the first. Example: \
`--tls /etc/ssl/web.pem:/etc/ssl/private/web.key`. See TLS.",
    },
    Opt {
        long: "tls-strict-sni",
        shorts: &[],
        kind: Flag,
        common: false,
        help: "Refuse clients that ask for another name",
        manual: "Or for none. Without it they get the first certificate.",
    },
    Opt {
        long: "tls-client-ca",
        shorts: &[],
        kind: Values("FILE", ValueHint::FilePath),
        common: false,
        help: "Ask clients for a certificate by FILE; repeatable",
        manual: "\
PEM, with the authorities whose certificates are accepted. Whether a client must have one is said by --tls-client.",
    },
    Opt {
        long: "tls-client",
        shorts: &[],
        kind: Value("WHO", ValueHint::Other),
        common: false,
        help: "Clients' certificates: optional or required [required]",
        manual: "\
With optional, a client may have none; one that isn't accepted fails the handshake all the same. Needs --tls-client-ca.",
    },
    Opt {
        long: "tls-crl",
        shorts: &[],
        kind: Values("FILE", ValueHint::FilePath),
        common: false,
        help: "Refuse the certificates revoked in FILE; repeatable",
        manual: "\
PEM, from authorities of --tls-client-ca; an authority without a list has revoked nothing. Read again at SIGHUP.",
    },
    Opt {
        long: "tls-ocsp",
        shorts: &[],
        kind: Values("FILE", ValueHint::FilePath),
        common: false,
        help: "Staple the OCSP response in FILE; repeatable",
        manual: "\
DER, as `openssl ocsp -respout` writes it. It is for the certificate of --tls that it is about. Read again at SIGHUP.",
    },
    Opt {
        long: "tls-min",
        shorts: &[],
        kind: Value("VERSION", ValueHint::Other),
        common: false,
        help: "Set the lowest version, 1.2 or 1.3 [1.2]",
        manual: "",
    },
    Opt {
        long: "tls-alpn",
        shorts: &[],
        kind: Values("NAME[,NAME]...", ValueHint::Other),
        common: false,
        help: "Name PROG's protocols, the preferred one first",
        manual: "\
1 to 255 bytes each, as in `--tls-alpn http/1.1`. A client that offers others, and none of these, is refused; one \
that offers none isn't. PROG has the chosen one in a variable.",
    },
    Opt {
        long: "tls-timeout",
        shorts: &[],
        kind: Value("DURATION", ValueHint::Other),
        common: false,
        help: "End a handshake that takes DURATION [10s]",
        manual: "",
    },
    Opt {
        long: "tls-user",
        shorts: &[],
        kind: Value("USER[:GROUP]", ValueHint::Username),
        common: false,
        help: "Run skd-tls as USER [skd-tls or nobody]",
        manual: "\
As --user. The default is the user skd-tls if there is one, nobody otherwise. Only as root: another user's skd-tls has \
the same user.",
    },
    Opt {
        long: "tls-program",
        shorts: &[],
        kind: Value("PATH", ValueHint::ExecutablePath),
        common: false,
        help: "Use the skd-tls at PATH [beside skd, or in PATH]",
        manual: "It has to be of skd's own version.",
    },
    Opt {
        long: "tls-keylog",
        shorts: &[],
        kind: Value("FILE", ValueHint::FilePath),
        common: false,
        help: "Write the secrets of sessions to FILE",
        manual: "\
For debugging, in the format that Wireshark reads (SSLKEYLOGFILE): who has the file can read all connections. FILE \
has the mode 0600.",
    },
];
