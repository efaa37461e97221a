//! Commands and configuration files of servers, with placeholders.

use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::unistd::{Uid, User};

use crate::handlers::Handler;

/// The address of a server.
#[derive(Clone, Debug)]
pub(crate) enum Endpoint {
    Tcp(SocketAddrV4),
    Udp(SocketAddrV4),
    Unix(PathBuf),
}

#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    /// The words of the command, which begins with {program}.
    pub words: Vec<String>,
    pub config: Option<String>,
    pub daemonises: bool,
}

/// A command without placeholders.
#[derive(Debug)]
pub(super) struct Command {
    pub words: Vec<String>,
    /// The file with the process id of a daemon in the background.
    pub pidfile: Option<PathBuf>,
}

impl Recipe {
    /// Returns the recipe with a value for a placeholder of the caller's.
    pub(crate) fn with(mut self, placeholder: &str, value: &str) -> Self {
        let texts = self.words.iter_mut().chain(&mut self.config);
        for text in texts {
            *text = text.replace(placeholder, value);
        }
        self
    }

    /// Whether there is such a placeholder.
    pub(super) fn has(&self, placeholder: &str) -> bool {
        let mut texts = self.words.iter().chain(&self.config);
        texts.any(|text| text.contains(placeholder))
    }

    pub(super) fn with_program(mut self, program: &Path) -> Self {
        self.words[0] = program.to_string_lossy().into_owned();
        self
    }

    /// Fills in the placeholders and writes the configuration file. `stem` is an unused path.
    pub(super) fn prepare(
        &self,
        program: &Path,
        endpoint: &Endpoint,
        handler: &Handler,
        stem: &Path,
    ) -> Result<Command> {
        let pidfile = stem.with_extension("pid");
        let config = stem.with_extension("conf");
        let values = Values::new(program, endpoint, handler, &config, &pidfile)?;
        if let Some(text) = &self.config {
            fs::write(&config, without_empty_values(&values.fill(text)))?;
        }
        let mut words = Vec::new();
        for word in &self.words {
            // A separate {handler} becomes all words of the handler.
            if word == "{handler}" {
                words.extend_from_slice(&handler.words);
            } else {
                words.push(values.fill(word));
            }
        }
        // Words such as {handler_line} stay one word even if they contain blanks.
        Ok(Command {
            words,
            pidfile: self.daemonises.then_some(pidfile),
        })
    }
}

/// xinetd refuses `server_args =` without a value.
fn without_empty_values(text: &str) -> String {
    let lines = text.lines().filter(|line| !line.trim_end().ends_with('='));
    lines.fold(String::new(), |text, line| text + line + "\n")
}

impl Recipe {
    /// Returns the command for reports, without the paths of this machine.
    pub(crate) fn display(&self, program: &Path) -> String {
        let name = |path: &str| {
            let name = Path::new(path).file_name();
            name.map_or_else(
                || path.to_owned(),
                |name| name.to_string_lossy().into_owned(),
            )
        };
        let words = self.words.iter().map(|word| match word.as_str() {
            "{program}" => name(&program.to_string_lossy()),
            "{handler_line}" => "{handler}".to_owned(),
            "/dev/null" => word.clone(),
            word if word.starts_with('/') => name(word),
            word => word.to_owned(),
        });
        words.collect::<Vec<_>>().join(" ")
    }
}

struct Values(Vec<(&'static str, String)>);

impl Values {
    fn new(
        program: &Path,
        endpoint: &Endpoint,
        handler: &Handler,
        config: &Path,
        pidfile: &Path,
    ) -> Result<Self> {
        let (address, port, path) = match endpoint {
            Endpoint::Tcp(address) | Endpoint::Udp(address) => (
                address.ip().to_string(),
                address.port().to_string(),
                String::new(),
            ),
            Endpoint::Unix(path) => (
                Ipv4Addr::LOCALHOST.to_string(),
                String::new(),
                path.display().to_string(),
            ),
        };
        // The inetds need a user for the handler. Without privileges only one's own is allowed.
        let uid = Uid::effective();
        let user = User::from_uid(uid)?.map_or_else(|| uid.to_string(), |user| user.name);
        let line = handler.words.join(" ");
        Ok(Self(vec![
            ("{program}", program.display().to_string()),
            ("{address}", address),
            ("{port}", port),
            ("{path}", path),
            ("{user}", user),
            ("{config}", config.display().to_string()),
            ("{pidfile}", pidfile.display().to_string()),
            (
                "{socket}",
                pidfile.with_extension("sock").display().to_string(),
            ),
            ("{log}", pidfile.with_extension("log").display().to_string()),
            ("{handler_file}", handler.words[0].clone()),
            ("{handler_arguments}", handler.words[1..].join(" ")),
            ("{handler_line}", line.clone()),
            ("{handler}", line),
        ]))
    }

    fn fill(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for (placeholder, value) in &self.0 {
            text = text.replace(placeholder, value);
        }
        text
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) | Self::Udp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handlers::Reply;

    fn handler() -> Handler {
        let words = ["/bin/echo", "ok"].map(str::to_owned).to_vec();
        Handler {
            name: "dynamic",
            words,
            reply: Reply::Answer,
            windows: 1,
        }
    }

    fn recipe(command: &str, config: Option<&str>) -> Recipe {
        Recipe {
            words: command.split(' ').map(str::to_owned).collect(),
            config: config.map(str::to_owned),
            daemonises: false,
        }
    }

    #[test]
    fn a_separate_handler_is_words_and_within_a_word_a_line() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let endpoint = Endpoint::Tcp(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 80));
        let prepare = |command| {
            recipe(command, None)
                .prepare(
                    Path::new("/x"),
                    &endpoint,
                    &handler(),
                    &folder.path().join("s"),
                )
                .map(|command| command.words)
        };
        assert_eq!(
            prepare("{program} {address} {port} {handler}")?,
            ["/x", "127.0.0.1", "80", "/bin/echo", "ok"]
        );
        assert_eq!(
            prepare("{program} -p{port} EXEC:{handler},nofork")?,
            ["/x", "-p80", "EXEC:/bin/echo ok,nofork"]
        );
        Ok(())
    }

    #[test]
    fn a_configuration_is_written() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let endpoint = Endpoint::Unix(PathBuf::from("/s"));
        let recipe = recipe(
            "{program} {config}",
            Some("{path} {handler_file} {handler_line}\n"),
        );
        let stem = folder.path().join("s");
        let command = recipe.prepare(Path::new("/x"), &endpoint, &handler(), &stem)?;
        assert_eq!(
            fs::read_to_string(&command.words[1])?,
            "/s /bin/echo /bin/echo ok\n"
        );
        Ok(())
    }

    #[test]
    fn values_that_are_empty_are_left_out() {
        let text = "{\n    a = b\n    server_args = \n}\n";
        assert_eq!(without_empty_values(text), "{\n    a = b\n}\n");
    }

    #[test]
    fn reports_show_no_path_of_this_machine() {
        let recipe = recipe("/home/me/other -l {path} {handler}", None);
        assert_eq!(
            recipe.display(Path::new("/home/me/other")),
            "other -l {path} {handler}"
        );
    }
}
