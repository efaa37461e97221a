//! Options: services in files.

use clap::ValueHint;

use super::option::Kind::{Flag, Values};
use super::option::Opt;

pub(super) const OPTIONS: &[Opt] = &[
    Opt {
        long: "config",
        shorts: &[],
        kind: Values("PATH", ValueHint::AnyPath),
        common: false,
        help: "Serve what TOML files say; repeatable",
        manual: "\
PATH is a file, or a directory whose `*.toml` are read in the order of their names. Then there is no \
PROG on the command line, and no other option of a service. See SERVICE FILES.",
    },
    Opt {
        long: "inetd-conf",
        shorts: &[],
        kind: Values("FILE", ValueHint::FilePath),
        common: false,
        help: "Serve what inetd.conf files say; repeatable",
        manual: "A file of inetd(8), as it is. See Files of inetd and xinetd in SERVICE FILES.",
    },
    Opt {
        long: "xinetd",
        shorts: &[],
        kind: Values("PATH", ValueHint::AnyPath),
        common: false,
        help: "Serve what xinetd files say; repeatable",
        manual: "\
PATH is a file of xinetd(8), or a directory of such files. See Files of inetd and xinetd in SERVICE \
FILES.",
    },
    Opt {
        long: "print-config",
        shorts: &[],
        kind: Flag,
        common: false,
        help: "Print the configuration as TOML, and exit",
        manual: "\
The configuration may come from files or from the command line. A file with this text means the same \
to --config.",
    },
];
