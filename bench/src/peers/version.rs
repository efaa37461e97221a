//! Versions of servers.

use std::path::Path;
use std::process::{Command, Stdio};

/// How a server reports its version.
#[derive(Clone, Copy)]
pub(super) enum VersionOption {
    None,
    /// The first line of the output with `--version`.
    Long,
    /// The first line of the output with this option, or without one if empty.
    FirstLine(&'static str),
    /// The first line that contains this text, in the output with this option.
    Line(&'static str, &'static str),
}

/// Returns the version of the Debian package that owns the program, else the version that the
/// program reports. Several servers report none.
pub(super) fn of(program: &Path, package: &str, option: VersionOption) -> Option<String> {
    package_version(program, package).or_else(|| own_version(program, option))
}

fn package_version(program: &Path, package: &str) -> Option<String> {
    if package.contains(' ') {
        return None;
    }
    // With a merged /usr the package may know the file by either name.
    let path = program.to_str()?;
    let other = path
        .strip_prefix("/usr")
        .map_or_else(|| format!("/usr{path}"), str::to_owned);
    let owner = [path, &other].iter().any(|path| {
        first_line("dpkg-query", &["-S", path])
            .is_some_and(|line| line.starts_with(&format!("{package}:")))
    });
    if !owner {
        return None;
    }
    first_line("dpkg-query", &["-W", "-f", "${Version}\n", package])
}

fn own_version(program: &Path, option: VersionOption) -> Option<String> {
    let program = program.to_str()?;
    let line = match option {
        VersionOption::None => return None,
        VersionOption::Long => first_line(program, &["--version"]),
        VersionOption::FirstLine("") => first_line(program, &[]),
        VersionOption::FirstLine(option) => first_line(program, &[option]),
        VersionOption::Line(option, text) => output(program, &[option])?
            .lines()
            .find(|line| line.contains(text))
            .map(str::to_owned),
    }?;
    version_word(&line)
}

/// Returns the first word that looks like a version.
fn version_word(line: &str) -> Option<String> {
    line.split([' ', '(', ')', ','])
        .map(|word| word.strip_prefix('v').unwrap_or(word))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.'))
        .map(|word| word.trim_end_matches(':').to_owned())
        .or_else(|| line.split(' ').nth(1).map(str::to_owned))
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    output(program, arguments)?
        .lines()
        .find(|line| !line.trim().is_empty())
        .map(str::to_owned)
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let text = if output.stdout.is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::version_word;

    #[test]
    fn versions_as_the_programs_write_them() {
        for (line, version) in [
            ("skd 2.0.0", "2.0.0"),
            ("BusyBox v1.35.0 (Debian 1:1.35.0-4)", "1.35.0"),
            ("xinetd Version 2.3.15.3", "2.3.15.3"),
            ("inetd (GNU inetutils) 2.4", "2.4"),
            ("Ncat: Version 7.93 ( https://nmap.org/ncat )", "7.93"),
            ("systemd 252 (252.38-1~deb12u1)", "252.38-1~deb12u1"),
        ] {
            assert_eq!(version_word(line).as_deref(), Some(version), "{line}");
        }
    }
}
