//! Services from files: which files, in which order. Readers return texts, and no reader checks a
//! value: `cli::texts` does, with the parsers of the command line.

mod foreign;
pub mod inetd_conf;
pub(super) mod paths;
pub(super) mod print;
mod read;
pub(super) mod toml;
pub mod xinetd;

use std::path::Path;

use super::args::Args;
use crate::config::{FileTexts, in_order};
use crate::error::Error;

/// The options that name files.
pub(super) const SOURCES: [&str; 3] = ["config", "inetd-conf", "xinetd"];

/// Reads all files that the command line names, in the order of these options there.
pub(super) fn read(args: &Args<'_>, faults: &mut Vec<Error>) -> FileTexts {
    let mut named = Vec::new();
    for source in SOURCES {
        let values = args.each(source);
        named.extend(values.map(|(position, path)| (position, source, Path::new(path))));
    }
    let named = in_order(named, |(position, ..)| *position);
    let mut texts = FileTexts::default();
    let mut services = Vec::new();
    for (_, source, path) in named {
        let more = match source {
            "inetd-conf" => inetd_conf::read(path, faults),
            "xinetd" => xinetd::read(path, faults),
            _ => toml::read(path, &mut texts.daemon, faults),
        };
        services.extend(more);
    }
    texts.daemon.iter_mut().for_each(paths::resolve_option);
    let in_root = args.has("chroot") || texts.daemon.iter().any(|it| it.name == "chroot");
    let services = services.into_iter().map(|mut service| {
        paths::resolve(&mut service, in_root);
        service.into()
    });
    texts.services = services.collect();
    texts
}
