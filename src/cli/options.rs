//! The table of options. The parser, `--help`, the manual page and the shell completions are
//! made from it.

mod admission;
mod control;
mod daemon;
mod files;
mod handlers;
pub mod help;
mod listeners;
mod option;
mod sandbox;
mod sockets;
mod timeouts;
mod tls;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, Command, ValueHint};

use Kind::{Count, Flag, Optional, Value, Values};
pub use option::{Belongs, Kind, Opt};

/// The options by heading, in the order of `--help`.
pub const GROUPS: &[(&str, &[Opt])] = &[
    ("Listeners", listeners::OPTIONS),
    ("TLS", tls::OPTIONS),
    ("Handlers", handlers::OPTIONS),
    ("Containment and sandbox", sandbox::OPTIONS),
    ("Admission", admission::OPTIONS),
    ("Timeouts", timeouts::OPTIONS),
    ("Connections and sockets", sockets::OPTIONS),
    ("Daemon", daemon::OPTIONS),
    ("Control socket", control::OPTIONS),
    ("Configuration files", files::OPTIONS),
];

/// The name of the argument that is PROG and its own arguments.
pub(super) const COMMAND: &str = "command";

/// The parser of the command line.
///
/// Values stay as they were typed; [`super::parse`] reads them, so that all messages have one
/// style.
pub fn command() -> Command {
    let mut command = Command::new("skd")
        .version(env!("SKD_VERSION"))
        .override_usage("skd [OPTIONS] [--] PROG [ARGS]...")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .arg(
            // allow_hyphen_values must stay off: with it, clap swallows bundled options.
            Arg::new(COMMAND)
                .value_name("PROG")
                .value_parser(ValueParser::os_string())
                .value_hint(ValueHint::CommandWithArguments)
                .num_args(1..)
                .trailing_var_arg(true)
                .hide(true),
        );
    for option in GROUPS.iter().flat_map(|(_, options)| *options) {
        command = command.arg(argument(option));
    }
    command
}

fn argument(option: &Opt) -> Arg {
    let mut arg = Arg::new(option.long).long(option.long).help(option.help);
    if let Some((first, more)) = option.shorts.split_first() {
        arg = arg.short(*first).visible_short_aliases(more.to_vec());
    }
    match option.kind {
        Flag => arg
            .action(ArgAction::SetTrue)
            .overrides_with_all(match option.long {
                "stream" | "datagram" | "seqpacket" => vec!["stream", "datagram", "seqpacket"],
                other => vec![other],
            }),
        Count => arg.action(ArgAction::Count),
        Value(name, hint) => {
            with_value(arg.action(ArgAction::Set), name, hint).overrides_with(option.long)
        }
        Optional(name, hint) => with_value(arg.action(ArgAction::Set), name, hint)
            .num_args(0..=1)
            // The next word may be PROG.
            .require_equals(true)
            .overrides_with(option.long),
        Values(name, hint) => with_value(arg.action(ArgAction::Append), name, hint),
        // For a value, clap's error is read in super::parse: so help is printed before later
        // options are looked at.
        Kind::Help => arg.action(ArgAction::Help),
        Kind::Version => arg.action(ArgAction::Version),
    }
}

fn with_value(arg: Arg, name: &'static str, hint: ValueHint) -> Arg {
    // A value may begin with a hyphen: --nice -5, --env -x, a file of that name.
    arg.value_name(name)
        .value_hint(hint)
        .value_parser(ValueParser::os_string())
        .allow_hyphen_values(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        command().debug_assert();
    }
}
