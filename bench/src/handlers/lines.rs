//! Typical programs that read one line and answer with it. Most of their time is start-up of the
//! interpreter and its modules.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::{Handler, Reply, find_in_path, python, script, text};
use crate::options::HandlerName;

const BASH: &str = "IFS= read -r line\nprintf '%s\\n' \"$line\"\n";

const PERL: &str = "\
use strict;
use warnings;
use Data::Dumper;
use Encode;
use Getopt::Long;
use IO::Socket;
use JSON::PP;
use List::Util;
use POSIX;
use Storable;
use Time::HiRes;
my $line = <STDIN>;
print $line;
";

// A minimal Python has these modules too.
const PYTHON: &str = "\
import argparse, datetime, logging, os, re, socket, sys
line = sys.stdin.readline()
sys.stdout.write(line)
";
const EXIT_AT_ONCE: &str = "sys.stdout.flush()\nos._exit(0)\n";

/// Makes a handler and checks that it answers a line. Fails if the interpreter lacks a module.
pub(super) fn reading(name: HandlerName, folder: &Path) -> Result<Handler> {
    let words = words(name, folder)?;
    let answer = answer(&words, b"a line\n")?;
    if answer != b"a line\n" {
        bail!("received {:?}", String::from_utf8_lossy(&answer));
    }
    let interpreter_is_slow = !matches!(name, HandlerName::Cat | HandlerName::Bash);
    Ok(Handler {
        name: name.as_str(),
        words,
        reply: Reply::Line,
        windows: if interpreter_is_slow { 2 } else { 1 },
    })
}

fn words(name: HandlerName, folder: &Path) -> Result<Vec<String>> {
    let interpreted = |interpreter: &str, source: &str| {
        let source = format!("#!{interpreter}\n{source}");
        Ok(vec![text(&script(folder, name.as_str(), &source)?)?])
    };
    match name {
        HandlerName::Cat => Ok(vec![text(&find_in_path("cat")?)?]),
        HandlerName::Bash => interpreted(&text(&find_in_path("bash")?)?, BASH),
        HandlerName::Perl => interpreted(&text(&find_in_path("perl")?)?, PERL),
        HandlerName::PythonQuick => interpreted(&python()?, &format!("{PYTHON}{EXIT_AT_ONCE}")),
        HandlerName::PythonFull => interpreted(&python()?, PYTHON),
        _ => bail!("'{}' reads no line", name.as_str()),
    }
}

pub(super) fn answer(words: &[String], line: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("it cannot be run")?;
    // A handler that has ended already explains itself on its standard error.
    let _ = child.stdin.take().map(|mut input| input.write_all(line));
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let first = errors.lines().next().unwrap_or("no message");
        let first: String = first.chars().take(200).collect();
        bail!("{}: {first}", output.status);
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_answer_the_line_that_they_read() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for name in [HandlerName::Cat, HandlerName::Bash, HandlerName::PythonFull] {
            let handler = reading(name, folder.path())?;
            assert_eq!(answer(&handler.words, b"other\n")?, b"other\n", "{name:?}");
            assert_eq!(handler.reply, Reply::Line);
        }
        Ok(())
    }

    #[test]
    fn a_failing_handler_is_reported_with_its_message() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let source = "#!/bin/sh\necho 'no such module' >&2\nexit 3\n";
        let words = vec![text(&script(folder.path(), "fails", source)?)?];
        let error = answer(&words, b"x\n").map_err(|error| format!("{error:#}"));
        assert_eq!(error, Err("exit status: 3: no such module".to_owned()));
        assert!(reading(HandlerName::Tiny, folder.path()).is_err());
        Ok(())
    }
}
