//! The shell completions: clap's, extended for PROG. clap's own complete no command after the options.

use clap::{ArgAction, ValueHint};
use clap_complete::Shell;
use skd::cli::{GROUPS, Kind, Opt, command, help};

const BASH: &str = include_str!("skd.bash");
const FISH: &str = include_str!("skd.fish");

/// The first line, which names the source of the file. In zsh's file another line must precede it.
const ORIGIN: &str = "# Generated from src/cli/options.rs by: cargo run --example documents\n";

pub(super) fn bash() -> String {
    let letters = with_value().filter_map(|option| option.shorts.first().map(|_| option.shorts));
    let ours = BASH
        .replace("@LONG@", &longs(with_value(), "|"))
        .replace("@OPTIONAL@", &longs(with_optional(), "|"))
        .replace("@SHORT@", &letters.flatten().collect::<String>())
        .replace("@USERS@", &longs(with_value().filter(takes_user), "|"));
    let theirs = replaced(
        generated(Shell::Bash),
        "complete -F _skd ",
        "complete -F _skd_or_prog ",
    );
    // Functions precede the lines that name them.
    let at = theirs.rfind("\nif [[").map_or(0, |at| at + 1);
    let (function, registration) = theirs.split_at(at);
    format!("{ORIGIN}{function}{ours}\n{registration}")
}

pub(super) fn zsh() -> String {
    let script = replaced(
        generated(Shell::Zsh),
        "'*::command:_cmdambivalent' \\\n",
        "'(-)1:command: _command_names -e' \\\n'*::arguments: _normal' \\\n",
    );
    let script = replaced(script, "#compdef skd\n", &format!("#compdef skd\n{ORIGIN}"));
    // An optional value must be in the same word.
    let script = with_optional().fold(script, |script, option| {
        let name = format!("'--{}=", option.long);
        replaced(script, &format!("{name}["), &format!("{name}-["))
    });
    // The short name takes no value.
    let value = format!(":: :({})'", help::ALL);
    let script = with_help().fold(script, |script, (short, text)| {
        let line = format!("'-{short}+[{text}]");
        replaced(
            script,
            &format!("{line}{value}"),
            &format!("'-{short}[{text}]'"),
        )
    });
    let all = with_value().chain(with_optional());
    // For _arguments, a colon ends the name of a value.
    all.fold(script, |script, option| match option.kind {
        Kind::Value(name, _) | Kind::Values(name, _) | Kind::Optional(name, _) => script.replace(
            &format!(":{name}:"),
            &format!(":{}:", name.replace(':', "\\:")),
        ),
        _ => script,
    })
}

pub(super) fn fish() -> String {
    let options = GROUPS.iter().flat_map(|(_, options)| *options);
    let specification = |option: &Opt| {
        let value = match option.kind {
            // Quoted from its wildcards.
            Kind::Optional(..) | Kind::Help => "=\\?",
            _ if takes_value(option) => "=",
            _ => "",
        };
        let (first, more) = match option.shorts.split_first() {
            None => (String::new(), &[][..]),
            Some((first, more)) => (format!("{first}/"), more),
        };
        let mut words = vec![format!("{first}{}{value}", option.long)];
        words.extend(more.iter().map(|short| format!("{short}{value}")));
        words
    };
    let all: Vec<String> = options.flat_map(specification).collect();
    let ours = FISH.replace("@SPECIFICATIONS@", &all.join(" "));
    let theirs = replaced(
        generated(Shell::Fish),
        "complete -c skd ",
        "complete -c skd -n __skd_before_prog ",
    );
    // An optional value isn't required.
    let theirs = with_optional().fold(theirs, |script, option| {
        let line = format!(" -l {} -d '{}'", option.long, option.help);
        replaced(script, &format!("{line} -r"), &line)
    });
    format!("{ORIGIN}{ours}\n{theirs}")
}

fn generated(shell: Shell) -> String {
    // The parser has no value of --help.
    let mut command = command().mut_arg("help", |arg| {
        arg.action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .value_parser([help::ALL])
    });
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "skd", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

/// Replaces text that must be there: a new version of clap may write another.
fn replaced(script: String, old: &str, new: &str) -> String {
    assert!(
        script.contains(old),
        "clap doesn't write {old:?} any more:\n{script}"
    );
    script.replace(old, new)
}

fn with_value() -> impl Iterator<Item = &'static Opt> {
    let options = GROUPS.iter().flat_map(|(_, options)| *options);
    options.filter(|option| takes_value(option))
}

fn with_optional() -> impl Iterator<Item = &'static Opt> {
    let options = GROUPS.iter().flat_map(|(_, options)| *options);
    options.filter(|option| matches!(option.kind, Kind::Optional(..) | Kind::Help))
}

/// The short names of `--help`, with its description.
fn with_help() -> impl Iterator<Item = (char, &'static str)> {
    let options = with_optional().filter(|option| matches!(option.kind, Kind::Help));
    options.flat_map(|option| option.shorts.iter().map(|short| (*short, option.help)))
}

/// Whether an option takes a value, in the same word or the next.
fn takes_value(option: &Opt) -> bool {
    matches!(option.kind, Kind::Value(..) | Kind::Values(..))
}

fn takes_user(option: &&Opt) -> bool {
    matches!(
        option.kind,
        Kind::Value(_, ValueHint::Username) | Kind::Values(_, ValueHint::Username)
    )
}

fn longs(options: impl Iterator<Item = &'static Opt>, between: &str) -> String {
    let names: Vec<String> = options.map(|option| format!("--{}", option.long)).collect();
    names.join(between)
}
