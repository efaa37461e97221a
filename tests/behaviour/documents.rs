//! Manual, completions and `--help` have exactly the options of the table; README.md and SECURITY.md name only
//! options and tests that exist.

use crate::harness::{requires_command, run_to_end};
use skd::cli::{GROUPS, Opt};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::Path;
use std::process::Command;

// The texts that `cargo run --example documents` writes.
#[path = "../../examples/documents/generate/mod.rs"]
mod generate;

#[test]
fn the_generated_files_are_up_to_date() {
    for (path, text) in generate::documents() {
        let committed = fs::read_to_string(path).unwrap_or_default();
        assert!(
            committed == text,
            "{path} is out of date: cargo run --example documents"
        );
    }
}

#[test]
fn help_has_every_option_and_no_other() {
    let help = run_to_end(["--help=all"]);
    help.expect_code(0);
    let mut found = BTreeSet::new();
    for line in help
        .stdout
        .lines()
        .filter(|line| !line.starts_with("       "))
    {
        let line = line.trim_start();
        if line.starts_with('-') {
            // The lines below a long name have its description.
            let (names, _) = line.split_once("  ").unwrap_or((line, ""));
            found.extend(options_among(names.split([',', ' ', '['])));
        }
    }
    assert_eq!(found, table());
}

#[test]
fn the_manual_has_every_option_and_no_other() {
    let page = fs::read_to_string("man/skd.8").unwrap();
    let (_, rest) = page.split_once(".SH OPTIONS\n").unwrap();
    let (section, _) = rest.split_once("\n.SH ").unwrap();
    let tags = section.split(".TP 26\n").skip(1);
    let tags = tags.map(|paragraph| paragraph.lines().next().unwrap());
    let bold = tags.flat_map(|tag| tag.split("\\fB").skip(1));
    let names = bold.map(|text| text.split("\\fR").next().unwrap().replace("\\-", "-"));
    // The value of --help is bold too.
    let names = names.filter(|name| name.starts_with('-'));
    assert_eq!(names.collect::<BTreeSet<_>>(), table());
}

#[test]
fn the_readme_names_no_option_that_skd_lacks() {
    let readme = fs::read_to_string("README.md").unwrap();
    let rows = readme.lines().filter(|line| line.starts_with("| `-"));
    let firsts = rows.map(|row| row[2..].split(" | ").next().unwrap());
    let found = options_among(firsts.flat_map(|cell| cell.split(['`', ' ', ',', '['])));
    assert!(found.len() > 20, "{found:?}");
    let unknown: Vec<_> = found.difference(&table()).cloned().collect();
    assert_eq!(unknown, [""; 0]);
}

#[test]
fn the_tests_that_the_security_page_names_are_there() {
    let page = fs::read_to_string("SECURITY.md").unwrap();
    let (_, rest) = page.split_once("\n## Known faults").unwrap();
    let (tables, _) = rest.split_once("\n## ").unwrap();
    let mut names = 0;
    for row in tables.lines().filter(|line| line.starts_with("| ")) {
        let cells: Vec<_> = row.trim_matches(['|', ' ']).split(" | ").collect();
        let mut file = "bug_classes.rs";
        for name in cells[2].split('`').skip(1).step_by(2) {
            if name.ends_with(".rs") {
                file = name;
            } else if !name.starts_with('-') && !name.starts_with("SKD_") {
                let tests = fs::read_to_string(format!("tests/behaviour/{file}")).unwrap();
                let fits = tests.split("\nfn ").skip(1).any(|text| {
                    let test = text.split('(').next().unwrap();
                    match name.split_once('…') {
                        Some((start, end)) => test.starts_with(start) && test.ends_with(end),
                        None => test == name,
                    }
                });
                assert!(fits, "{file}: {name}");
                names += 1;
            }
        }
    }
    assert!(names > 30, "{names}");
}

#[test]
fn the_attempts_and_tests_of_sandboxes_that_the_security_page_names_are_there() {
    let page = fs::read_to_string("SECURITY.md").unwrap();
    let (_, rest) = page.split_once("\n## Sandbox and containment").unwrap();
    let (section, _) = rest.split_once("\n## ").unwrap();
    let attempts = fs::read_to_string("tests/behaviour/sandbox_escapes/table.rs").unwrap();
    let mut names = 0;
    for row in section.lines().filter(|line| line.starts_with("| ")) {
        let last = row.trim_end_matches(" |").rsplit(" | ").next().unwrap();
        for name in last.split('`').skip(1).step_by(2) {
            let there = attempts.contains(&format!("name: \"{name}\""));
            assert!(there, "{name}");
            names += 1;
        }
    }
    assert!(names > 30, "{names}");
    let files = fs::read_dir("tests/behaviour").unwrap().flatten();
    let texts = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    let tests: String = texts.collect();
    let words = section.split('`').skip(1).step_by(2);
    let is_test = |word: &&str| {
        let known = |letter: char| letter.is_ascii_lowercase() || letter == '_';
        word.matches('_').count() > 3 && word.chars().all(known)
    };
    let named = words.filter(is_test);
    let named: BTreeSet<_> = named.collect();
    assert!(named.len() > 5, "{named:?}");
    for name in named {
        assert!(tests.contains(&format!("\nfn {name}()")), "{name}");
    }
}

#[test]
fn the_tests_of_tls_that_the_security_page_names_are_there() {
    let page = fs::read_to_string("SECURITY.md").unwrap();
    let (_, rest) = page.split_once("\n## TLS").unwrap();
    let (section, _) = rest.split_once("\n## ").unwrap();
    let mut tests = String::new();
    for folder in ["tests/behaviour", "src/serve", "tls"] {
        each_source(Path::new(folder), &mut |text| tests.push_str(text));
    }
    let words = section.split('`').skip(1).step_by(2);
    let is_test = |word: &&str| {
        let known = |letter: char| letter.is_ascii_lowercase() || letter == '_';
        word.matches('_').count() > 2 && word.chars().all(known)
    };
    let named: BTreeSet<_> = words.filter(is_test).collect();
    assert!(named.len() > 20, "{named:?}");
    for name in named {
        assert!(tests.contains(&format!("fn {name}(")), "{name}");
    }
}

fn each_source(path: &Path, each: &mut impl FnMut(&str)) {
    for entry in fs::read_dir(path).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("target") {
            each_source(&path, each);
        } else if path.extension().is_some_and(|it| it == "rs") {
            each(&fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn the_completion_for_bash_has_every_option_and_no_other() {
    let script = fs::read_to_string("completions/skd.bash").unwrap();
    let (_, rest) = script.split_once("opts=\"-").unwrap();
    let (words, _) = rest.split_once('"').unwrap();
    let words = format!("-{words}");
    assert_eq!(options_among(words.split(' ')), table());
    assert_valid("bash", "completions/skd.bash");
}

#[test]
fn the_completion_for_zsh_has_every_option_and_no_other() {
    let script = fs::read_to_string("completions/_skd").unwrap();
    let specifications = script.lines().filter_map(|line| line.strip_prefix('\''));
    let names = specifications.map(|text| {
        let name = text.trim_start_matches('*');
        name.split(['[', '=', '+']).next().unwrap()
    });
    assert_eq!(options_among(names), table());
    assert_valid("zsh", "completions/_skd");
}

#[test]
fn the_completion_for_fish_has_every_option_and_no_other() {
    let script = fs::read_to_string("completions/skd.fish").unwrap();
    let mut found = BTreeSet::new();
    for line in script.lines().filter(|line| line.starts_with("complete ")) {
        let (names, _) = line.split_once(" -d ").unwrap_or_default();
        let words: Vec<&str> = names.split(' ').collect();
        for pair in words.windows(2) {
            match pair {
                ["-s", short] => found.insert(format!("-{short}")),
                ["-l", long] => found.insert(format!("--{long}")),
                _ => false,
            };
        }
    }
    assert_eq!(found, table());
    assert_valid("fish", "completions/skd.fish");
}

#[test]
fn bash_completes_options_values_and_programs() {
    let complete = |words: &[&str]| {
        let line = r#"
            source completions/skd.bash
            compopt() { :; }  # only readline has it
            COMP_WORDS=("$@")
            COMP_CWORD=$(($# - 1))
            function=$(complete -p skd | sed 's/.*-F \([^ ]*\).*/\1/')
            "$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\n' "${COMPREPLY[@]}"
        "#;
        let mut arguments = vec!["--norc", "-c", line, "bash"];
        arguments.extend(words);
        lines_of("bash", &arguments)
    };
    assert_eq!(complete(&["skd", "--max-cl"]), ["--max-clients"]);
    assert_eq!(complete(&["skd", "-v", "--user", "roo"]), ["root"]);
    assert_eq!(complete(&["skd", "-P", "Cargo.to"]), ["Cargo.toml"]);
    assert_eq!(complete(&["skd", "--help", "="]), ["all"]);
    assert_eq!(complete(&["skd", "--help", "=", "al"]), ["all"]);
    assert_eq!(complete(&["skd", "-h", "--max-cl"]), ["--max-clients"]);
    // The words as readline splits them.
    for before in [
        &["skd"][..],
        &["skd", "--"],
        &["skd", "-vt", "80"],
        &["skd", "-t80", "-nc", "5", "-BP", "file"],
        &["skd", "--tcp", "=", "80"],
        &["skd", "-t", "127.0.0.1", ":", "80"],
        &["skd", "-l", "@", "name"],
        &["skd", "--keepalive"],
        &["skd", "--keepalive", "=", "1m", ":", "1s", ":", "3"],
    ] {
        let words = [before, &["basenam"]].concat();
        let found: BTreeSet<_> = complete(&words).into_iter().collect();
        assert_eq!(found, BTreeSet::from(["basename".into()]), "{before:?}");
    }
    assert_eq!(
        complete(&["skd", "--keepalive", "--max-cl"]),
        ["--max-clients"]
    );
    // skd completes no options of another program.
    assert_eq!(complete(&["skd", "-t80", "cat", "--max-cl"]), [""]);
}

#[test]
fn fish_completes_options_values_and_programs() {
    requires_command("fish");
    let complete = |line: &str| {
        let script = "source completions/skd.fish; complete -C $argv[1]";
        let found = lines_of("fish", &["--no-config", "-c", script, line]);
        let words = found.iter().map(|line| line.split('\t').next().unwrap());
        words.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(complete("skd --max-cl"), ["--max-clients"]);
    assert_eq!(complete("skd -v --user roo"), ["root"]);
    assert_eq!(complete("skd -P Cargo.to"), ["Cargo.toml"]);
    for before in [
        "skd",
        "skd --",
        "skd -vt 80",
        "skd -t80 -nc 5 -x file",
        "skd --keepalive",
        "skd --keepalive=1m:1s:3",
    ] {
        assert_eq!(complete(&format!("{before} basenam")), ["basename"]);
    }
    assert_eq!(complete("skd -t80 cat --max-cl"), [""; 0]);
}

#[test]
fn the_manual_is_correct_for_its_formatter() {
    requires_command("mandoc");
    let warnings = lines_of("mandoc", &["-Tlint", "-Wwarning", "man/skd.8"]);
    assert_eq!(warnings, [""; 0]);
}

/// The names of all options, as they are typed.
fn table() -> BTreeSet<String> {
    let options = GROUPS.iter().flat_map(|(_, options)| *options);
    let names = |option: &Opt| {
        let shorts = option.shorts.iter().map(|short| format!("-{short}"));
        let all = shorts.chain([format!("--{}", option.long)]);
        all.collect::<Vec<_>>()
    };
    options.flat_map(names).collect()
}

fn options_among<'a>(words: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    let names = words.into_iter().filter(|word| word.starts_with('-'));
    names
        .map(|name| name.trim_end_matches('.').to_owned())
        .collect()
}

#[track_caller]
fn assert_valid(shell: &str, script: &str) {
    requires_command(shell);
    assert_eq!(lines_of(shell, &["-n", script]), [""; 0]);
}

/// Runs a command that must succeed without output on stderr, and returns its lines.
#[track_caller]
fn lines_of(program: &str, arguments: &[impl AsRef<OsStr>]) -> Vec<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program}: {error}"));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(
        output.status.success() && stderr.is_empty(),
        "{program}: {}\n{stdout}{stderr}",
        output.status
    );
    stdout.lines().map(str::to_owned).collect()
}
