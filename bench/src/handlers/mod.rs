//! The programs that the servers run for a connection or a datagram.

mod elf;
mod lines;
mod scripts;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::options::HandlerName;

pub(crate) use scripts::{ITSELF, Language, WAYS, Way};

/// The output of an answering handler. Clients compare every byte.
pub(crate) const ANSWER: &[u8] = b"ok\n";

#[derive(Clone, Debug)]
pub(crate) struct Handler {
    pub name: &'static str,
    /// Program and arguments. No word contains a blank, since some servers split at blanks.
    pub words: Vec<String>,
    pub reply: Reply,
    /// The length of a measurement in windows; slow handlers need several.
    pub windows: u32,
}

/// What a client sends and expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// The handler writes [`ANSWER`] and ends.
    Answer,
    /// The handler writes [`ANSWER`] and ends at one byte of input or the end of file.
    Gate,
    /// The handler returns one line and ends, at the latest at the end of file.
    Line,
    /// The handler reads one line, answers with a JSON object that has the line and its length, and ends, at the
    /// latest at the end of file.
    Json,
    /// The handler returns its input.
    Echo,
    /// The handler sends this many zero bytes and ends.
    Send(u64),
    /// The handler reads up to a piece that ends with a newline, writes how many bytes it has read as eight bytes,
    /// the lowest first, and ends.
    Sink,
    /// The handler returns one datagram to its sender.
    Datagram,
}

impl Reply {
    /// Whether clients send a line and expect an answer to it.
    pub(crate) const fn is_to_a_line(self) -> bool {
        matches!(self, Self::Line | Self::Json)
    }
}

/// The handlers, as files in the folder of this run.
#[derive(Debug)]
pub(crate) struct Handlers {
    chosen: Vec<(HandlerName, Result<Handler, String>)>,
    pub gate: Handler,
    pub datagram: Handler,
    pub send: Handler,
    pub echo: Handler,
    pub sink: Handler,
}

impl Handlers {
    pub(crate) fn prepare(folder: &Path, wanted: &[HandlerName], bulk_bytes: u64) -> Result<Self> {
        let chosen = wanted
            .iter()
            .map(|name| {
                let handler = if name.reads_a_line() {
                    lines::reading(*name, folder)
                } else {
                    answering(*name, folder)
                };
                (*name, handler.map_err(|e| format!("{e:#}")))
            })
            .collect();
        let bulk = folder.join("zeros");
        fs::File::create(&bulk)?.set_len(bulk_bytes)?;
        let native = |name: &'static str, program, reply| -> Result<Handler> {
            let path = elf::build(program, folder)
                .with_context(|| format!("cannot make the handler '{name}'"))?;
            Ok(Handler {
                name,
                words: vec![text(&path)?],
                reply,
                windows: 1,
            })
        };
        Ok(Self {
            chosen,
            gate: native("gate", elf::Program::Gate, Reply::Gate)?,
            sink: native("sink", elf::Program::Sink, Reply::Sink)?,
            datagram: native("datagram", elf::Program::Datagram, Reply::Datagram)?,
            // cat moves 128 KiB at a time, so that it does not limit the rate.
            send: Handler {
                name: "send",
                words: vec![text(&find_in_path("cat")?)?, text(&bulk)?],
                reply: Reply::Send(bulk_bytes),
                windows: 1,
            },
            echo: Handler {
                name: "echo",
                words: vec![text(&find_in_path("cat")?)?],
                reply: Reply::Echo,
                windows: 1,
            },
        })
    }

    /// The available handlers that write an answer without input.
    pub(crate) fn answering(&self) -> impl Iterator<Item = &Handler> {
        self.made().filter(|handler| handler.reply == Reply::Answer)
    }

    /// The available handlers that read a line.
    pub(crate) fn reading(&self) -> impl Iterator<Item = &Handler> {
        self.made().filter(|handler| handler.reply == Reply::Line)
    }

    fn made(&self) -> impl Iterator<Item = &Handler> {
        self.chosen
            .iter()
            .filter_map(|(_, handler)| handler.as_ref().ok())
    }

    pub(crate) fn missing(&self) -> impl Iterator<Item = (HandlerName, &str)> {
        self.chosen
            .iter()
            .filter_map(|(name, handler)| Some((*name, handler.as_ref().err()?.as_str())))
    }
}

/// Makes `tiny`, which the cost measurement needs even if it was not chosen.
pub(crate) fn tiny(folder: &Path) -> Result<Handler> {
    answering(HandlerName::Tiny, folder)
}

fn answering(name: HandlerName, folder: &Path) -> Result<Handler> {
    let words = match name {
        HandlerName::Tiny => vec![text(&elf::build(elf::Program::Tiny, folder)?)?],
        // A program of every system that only needs the C library.
        HandlerName::Dynamic => vec![text(&find_in_path("echo")?)?, "ok".to_owned()],
        HandlerName::Shell => {
            vec![text(&script(folder, "shell", "#!/bin/sh\necho ok\n")?)?]
        }
        HandlerName::Python => {
            let interpreter = python()?;
            let source = format!("#!{interpreter}\nprint(\"ok\")\n");
            vec![text(&script(folder, "python", &source)?)?]
        }
        _ => bail!("'{}' waits for input", name.as_str()),
    };
    Ok(Handler {
        name: name.as_str(),
        words,
        reply: Reply::Answer,
        windows: if name == HandlerName::Python { 2 } else { 1 },
    })
}

/// Returns the path of the interpreter itself. PATH may contain a version manager's script, which
/// takes longer than Python.
fn python() -> Result<String> {
    let output = Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .stdin(Stdio::null())
        .output()
        .context("python3 is not installed")?;
    let path = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !output.status.success() || path.is_empty() || path.contains(' ') {
        bail!("python3 does not report a usable path");
    }
    Ok(path)
}

fn script(folder: &Path, name: &str, source: &str) -> Result<PathBuf> {
    write_executable(&folder.join(name), source.as_bytes())
}

/// Writes the file by install(1). If this process wrote it, a child forked meanwhile could hold it
/// open for writing, and running it would fail with ETXTBSY.
fn write_executable(path: &Path, content: &[u8]) -> Result<PathBuf> {
    let mut install = Command::new("install")
        .args(["-m", "755", "/dev/stdin"])
        .arg(path)
        .stdin(Stdio::piped())
        .spawn()
        .context("install(1) cannot be run")?;
    let written = match install.stdin.take() {
        Some(mut input) => input.write_all(content),
        None => Ok(()),
    };
    let status = install.wait()?;
    if !status.success() {
        bail!("install(1) could not write {}: {status}", path.display());
    }
    written?;
    Ok(path.to_owned())
}

fn text(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(path) if !path.contains([' ', ',', ':', '"', '\'']) => Ok(path.to_owned()),
        // socat, ncat and the inetds would split or misread such a path.
        _ => bail!(
            "'{}' holds characters that some servers cannot take",
            path.display()
        ),
    }
}

/// Finds a program in PATH or in the sbin folders.
pub(crate) fn find_in_path(name: &str) -> Result<PathBuf> {
    use nix::unistd::{AccessFlags, access};
    let path = std::env::var_os("PATH").unwrap_or_default();
    let administration = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path)
        .chain(administration)
        .map(|folder| folder.join(name))
        .find(|file| file.is_file() && access(file, AccessFlags::X_OK).is_ok())
        .with_context(|| format!("{name} is not in PATH"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answering_handlers_answer() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for name in [HandlerName::Tiny, HandlerName::Dynamic, HandlerName::Shell] {
            let handler = answering(name, folder.path())?;
            let output = Command::new(&handler.words[0])
                .args(&handler.words[1..])
                .output()?;
            assert!(output.status.success(), "{name:?}");
            assert_eq!(output.stdout, ANSWER, "{name:?}");
        }
        Ok(())
    }

    #[test]
    fn the_gate_answers_and_ends_at_end_of_file() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let handlers = Handlers::prepare(folder.path(), &[], 4096)?;
        let output = Command::new(&handlers.gate.words[0])
            .stdin(Stdio::null())
            .output()?;
        assert!(output.status.success());
        assert_eq!(output.stdout, ANSWER);
        Ok(())
    }

    #[test]
    fn the_sink_counts_up_to_a_newline_or_the_end() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let sink = Handlers::prepare(folder.path(), &[], 4096)?.sink;
        let input = folder.path().join("input");
        for length in [0, 1, 131_072, 1_000_000] {
            fs::write(&input, vec![b'U'; length])?;
            let counted = Command::new(&sink.words[0])
                .stdin(fs::File::open(&input)?)
                .output()?;
            assert!(counted.status.success());
            assert_eq!(counted.stdout, (length as u64).to_le_bytes());
        }
        let mut running = Command::new(&sink.words[0])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut input = running.stdin.take();
        for piece in [&b"a\nb"[..], b"c\n"] {
            input.as_mut().context("no input")?.write_all(piece)?;
        }
        // It ends though its input hasn't.
        let status = running.wait()?;
        assert!(status.success());
        let mut counted = Vec::new();
        std::io::Read::read_to_end(&mut running.stdout.context("no output")?, &mut counted)?;
        assert_eq!(counted, 5_u64.to_le_bytes());
        Ok(())
    }
}
