//! Options: the control socket.

use clap::ValueHint;

use super::option::Kind::Value;
use super::option::Opt;

pub(super) const OPTIONS: &[Opt] = &[
    Opt {
        long: "control",
        shorts: &[],
        kind: Value("PATH", ValueHint::FilePath),
        common: false,
        help: "Answer and obey on a unix socket at PATH",
        manual: "\
By one more thread, which no client is served by. Root, the user who starts skd and that of \
--control-owner may ask and act. See CONTROL.",
    },
    Opt {
        long: "control-mode",
        shorts: &[],
        kind: Value("MODE", ValueHint::Other),
        common: false,
        help: "Mode of that socket [default: 600]",
        manual: "\
Octal; 660 with --control-read. It decides who can connect. Who may ask and act is decided by \
the user and groups of a client, whatever the mode is.",
    },
    Opt {
        long: "control-owner",
        shorts: &[],
        kind: Value("USER[:GROUP]", ValueHint::Username),
        common: false,
        help: "Owner of that socket, who may act too",
        manual: "Names or numbers. To change the owner takes root.",
    },
    Opt {
        long: "control-read",
        shorts: &[],
        kind: Value("GROUP", ValueHint::Other),
        common: false,
        help: "Let members of GROUP ask there, but not act",
        manual: "\
A name or number, which becomes the group of the socket unless --control-owner has one.",
    },
];
