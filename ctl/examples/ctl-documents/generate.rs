//! The manual page and the shell completions of skdctl as text, generated from its command line.
//!
//! The tests include this module too, and compare its texts with the files.

use clap::builder::StyledStr;
use clap::{Arg, ArgAction, Command, CommandFactory};
use clap_complete::Shell;
use roff::{Inline, Roff, bold, italic, roman};
use skdctl::cli::Cli;

const SECTIONS: &str = include_str!("../../../man/skdctl.1.in");

/// The line of origin of each file.
const ORIGIN: &str =
    "Generated from ctl/src/cli.rs by: cargo run --package skdctl --example ctl-documents\n";

/// Every generated file: its path in the project, and its text. The crate's folder has copies, since Cargo packs
/// nothing from outside it.
pub(crate) fn documents() -> Vec<(String, String)> {
    let documents = [
        ("man/skdctl.1", page()),
        ("completions/skdctl.bash", completions(Shell::Bash)),
        ("completions/_skdctl", completions(Shell::Zsh)),
        ("completions/skdctl.fish", completions(Shell::Fish)),
    ];
    let with_copy = |(path, text): (&str, String)| {
        [
            (path.to_owned(), text.clone()),
            (format!("ctl/{path}"), text),
        ]
    };
    documents.into_iter().flat_map(with_copy).collect()
}

fn completions(shell: Shell) -> String {
    let mut bytes = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "skdctl", &mut bytes);
    let script = String::from_utf8(bytes).unwrap_or_default();
    // In the file for zsh another line must be the first.
    match script.strip_prefix("#compdef skdctl\n") {
        Some(rest) => format!("#compdef skdctl\n# {ORIGIN}{rest}"),
        None => format!("# {ORIGIN}{script}"),
    }
}

/// The manual page: man/skdctl.1.in, with the commands and options inserted.
fn page() -> String {
    let mut command = Cli::command();
    command.build();
    // The comment at the top is about the source.
    let start = SECTIONS.find(".TH").unwrap_or(0);
    let page = SECTIONS[start..]
        .replace("@VERSION@", env!("CARGO_PKG_VERSION"))
        .replace("@COMMANDS@\n", &commands(&command))
        .replace("@OPTIONS@\n", &options(&command));
    // `t` has man(1) run tbl(1).
    format!("'\\\" t\n.\\\" From man/skdctl.1.in too. {ORIGIN}{page}")
}

/// The options that every command has.
fn options(command: &Command) -> String {
    let mut roff = Roff::new();
    for arg in command.get_arguments().filter(|arg| !arg.is_hide_set()) {
        roff.control("TP", ["26"]);
        roff.text(names(arg));
        roff.text([roman(help(arg))]);
    }
    roff.to_roff()
}

/// Each command with its arguments.
fn commands(command: &Command) -> String {
    let mut roff = Roff::new();
    for command in command.get_subcommands() {
        roff.control("SS", [command.get_name()]);
        roff.text(synopsis(command));
        roff.control("PP", []);
        roff.text([roman(about(command))]);
        for arg in command.get_arguments().filter(|arg| is_own(arg)) {
            roff.control("TP", ["26"]);
            roff.text(names(arg));
            roff.text([roman(help(arg) + &values(arg))]);
        }
    }
    roff.to_roff()
}

/// Whether an argument is described with its command, not with all.
fn is_own(arg: &Arg) -> bool {
    !arg.is_global_set() && !matches!(arg.get_id().as_str(), "help" | "version")
}

fn synopsis(command: &Command) -> Vec<Inline> {
    let mut words = vec![bold(format!("skdctl {}", command.get_name()))];
    for arg in command.get_arguments().filter(|arg| is_own(arg)) {
        let required = arg.is_required_set();
        words.push(roman(if required { " " } else { " [" }));
        match arg.get_long() {
            Some(long) if arg.get_action().takes_values() => {
                words.extend([bold(format!("--{long}")), roman(" "), italic(value(arg))]);
            }
            Some(long) => words.push(bold(format!("--{long}"))),
            None => words.push(italic(value(arg))),
        }
        let repeated = matches!(arg.get_action(), ArgAction::Append);
        words.push(roman(match (required, repeated) {
            (true, false) => "",
            (true, true) => "...",
            (false, false) => "]",
            (false, true) => "]...",
        }));
    }
    words
}

fn names(arg: &Arg) -> Vec<Inline> {
    let short = arg.get_short().map(|short| format!("-{short}"));
    let long = arg.get_long().map(|long| format!("--{long}"));
    let mut words = Vec::new();
    for name in short.into_iter().chain(long) {
        if !words.is_empty() {
            words.push(roman(", "));
        }
        words.push(bold(name));
    }
    if words.is_empty() {
        words.push(italic(value(arg)));
    } else if arg.get_action().takes_values() {
        words.extend([roman(" "), italic(value(arg))]);
    }
    words
}

fn value(arg: &Arg) -> String {
    let names = arg.get_value_names().unwrap_or_default();
    names.first().map_or_else(
        || arg.get_id().to_string().to_uppercase(),
        ToString::to_string,
    )
}

/// The words that an argument may have, and its default.
fn values(arg: &Arg) -> String {
    let possible = arg.get_possible_values();
    let mut text = String::new();
    if arg.get_action().takes_values() && !possible.is_empty() {
        let names: Vec<_> = possible.iter().map(|value| value.get_name()).collect();
        text += &format!(": {}", names.join(", "));
    }
    if let Some(default) = arg
        .get_default_values()
        .first()
        .filter(|_| arg.get_action().takes_values())
    {
        text += &format!(" (default: {})", default.to_string_lossy());
    }
    text + "."
}

fn help(arg: &Arg) -> String {
    plain(arg.get_help())
}

/// What a command does, in full.
fn about(command: &Command) -> String {
    let text = plain(command.get_long_about().or(command.get_about()));
    let names: Vec<_> = command.get_visible_aliases().collect();
    let mut text = text.replace("\n\n", ".\n");
    if !text.ends_with('.') {
        text.push('.');
    }
    if !names.is_empty() {
        text += &format!("\nAlso: {}.", names.join(", "));
    }
    text
}

fn plain(text: Option<&StyledStr>) -> String {
    text.map(ToString::to_string).unwrap_or_default()
}
