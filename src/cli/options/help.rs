//! The two texts of `--help`.

use super::GROUPS;
use super::option::{Kind, Opt};

/// The value of `--help` that asks for every option.
pub const ALL: &str = "all";

/// No line is longer, in columns.
const WIDTH: usize = 78;

/// The column at which the descriptions begin.
const TEXT: usize = 32;

const HEAD: &str = "\
Usage: skd [OPTIONS] [--] PROG [ARGS]...
       skd --config PATH [OPTIONS]
Runs PROG for each connection, with the socket as standard input and output.
Without a listener, PROG is run at once.
";

const FORMS: &str = "
DURATION is like 250ms, 30s, 5m or 1h30m. SIZE is bytes, or like 64K or 1M.
SOURCE is all, unix, uid=USER, gid=GROUP, file=PATH, or an address or prefix.
";

/// The common options.
pub fn common() -> String {
    let more = "\nskd --help=all lists all options, and man skd explains them.\n";
    page(|option| option.common, more)
}

/// All options.
pub fn all() -> String {
    page(|_| true, "\nman skd explains them.\n")
}

fn page(shown: impl Fn(&Opt) -> bool, more: &str) -> String {
    let mut text = String::from(HEAD);
    for (heading, options) in GROUPS {
        let mut options = options.iter().filter(|option| shown(option)).peekable();
        if options.peek().is_some() {
            text.push_str(&format!("\n{heading}:\n"));
        }
        for option in options {
            describe(&mut text, option);
        }
    }
    text + FORMS + more
}

/// The names of an option and the lines that describe it, beside them if there is room.
fn describe(text: &mut String, option: &Opt) {
    let mut line = format!("  {}", names(option));
    if line.len() + 2 > TEXT {
        text.push_str(&line);
        text.push('\n');
        line.clear();
    }
    for word in option.help.split(' ') {
        if line.len() < TEXT {
            line = format!("{line:TEXT$}{word}");
        } else if line.len() + 1 + word.len() <= WIDTH {
            line.push(' ');
            line.push_str(word);
        } else {
            text.push_str(&line);
            text.push('\n');
            line = format!("{:TEXT$}{word}", "");
        }
    }
    text.push_str(&line);
    text.push('\n');
}

/// As in `-t, --tcp [HOST:]PORT`; long names are in one column.
fn names(option: &Opt) -> String {
    let shorts: String = option
        .shorts
        .iter()
        .map(|short| format!("-{short}, "))
        .collect();
    let value = match option.kind {
        Kind::Value(value, _) | Kind::Values(value, _) => format!(" {value}"),
        Kind::Optional(value, _) => format!("[={value}]"),
        Kind::Help => format!("[={ALL}]"),
        Kind::Flag | Kind::Count | Kind::Version => String::new(),
    };
    format!("{shorts:4}--{}{value}", option.long)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn columns(text: &str) -> usize {
        text.lines().map(str::len).max().unwrap_or(0)
    }

    #[test]
    fn the_common_options_fit_on_a_screen() {
        let help = common();
        let lines = help.lines().count();
        assert!(lines <= 50, "{lines} lines");
        assert!(columns(&help) <= WIDTH, "{} columns", columns(&help));
    }

    #[test]
    fn every_option_is_in_the_long_help_and_the_common_ones_in_the_short() {
        let (common, all) = (common(), all());
        assert!(columns(&all) <= WIDTH, "{} columns", columns(&all));
        for option in GROUPS.iter().flat_map(|(_, options)| *options) {
            let line = format!("\n  {}", names(option));
            assert!(all.contains(&line), "{line} isn't in:\n{all}");
            assert_eq!(common.contains(&line), option.common, "{line}");
        }
    }
}
