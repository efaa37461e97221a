//! The same small service in several languages: it reads a line, and answers with a JSON object that has the line and
//! its length. Once as a script for one client, and once as a server, as people would write them.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use super::lines::answer;
use super::{Handler, Reply, find_in_path, python, script, text};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Language {
    Python,
    Perl,
    Ruby,
    Node,
}

impl Language {
    pub(crate) const ALL: [Self; 4] = [Self::Python, Self::Perl, Self::Ruby, Self::Node];

    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Python => "Python",
            Self::Perl => "Perl",
            Self::Ruby => "Ruby",
            Self::Node => "Node",
        }
    }
}

/// A program for the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Script {
    /// For one client, on standard input and output.
    Plain,
    /// The same, which exits without the interpreter's own clean-up.
    ExitsAtOnce,
    /// The plain one below a program that runs it and exits like that.
    BelowQuickExit,
    /// The plain one, with options of the interpreter that leave out what it doesn't need.
    WithOptions,
    /// The plain one, beside a module that the interpreter loads at its start and that makes it exit like that.
    WithHook,
    /// A server.
    Forking,
    Threading,
    Loop,
}

/// A way to have the service.
#[derive(Debug)]
pub(crate) struct Way {
    pub language: Language,
    pub name: &'static str,
    /// The server of the catalogue that runs it.
    pub server: &'static str,
    pub script: Script,
    /// The ways of this language are compared with this one.
    pub reference: bool,
}

const fn way(language: Language, name: &'static str, server: &'static str, script: Script) -> Way {
    Way {
        language,
        name,
        server,
        script,
        reference: false,
    }
}

/// The server that is the program itself.
pub(crate) const ITSELF: &str = "written-server";

const EXEC: &str = "skd";
const WARM: &str = "skd-warm";
const FORK: &str = "skd-fork-server";

pub(crate) const WAYS: &[Way] = &[
    way(Language::Python, "script, exec", EXEC, Script::Plain),
    way(Language::Python, "script, --warm", WARM, Script::Plain),
    way(
        Language::Python,
        "script, --fork-server",
        FORK,
        Script::Plain,
    ),
    way(
        Language::Python,
        "script with -I -S, --fork-server",
        FORK,
        Script::WithOptions,
    ),
    way(
        Language::Python,
        "script with sitecustomize, --fork-server",
        FORK,
        Script::WithHook,
    ),
    Way {
        reference: true,
        ..way(
            Language::Python,
            "script below *quick-exit*, --fork-server",
            FORK,
            Script::BelowQuickExit,
        )
    },
    way(
        Language::Python,
        "script with os._exit, --fork-server",
        FORK,
        Script::ExitsAtOnce,
    ),
    way(
        Language::Python,
        "ForkingTCPServer",
        ITSELF,
        Script::Forking,
    ),
    way(
        Language::Python,
        "ThreadingTCPServer",
        ITSELF,
        Script::Threading,
    ),
    way(Language::Python, "asyncio", ITSELF, Script::Loop),
    way(Language::Perl, "script, exec", EXEC, Script::Plain),
    way(Language::Perl, "script, --warm", WARM, Script::Plain),
    way(Language::Perl, "script, --fork-server", FORK, Script::Plain),
    Way {
        reference: true,
        ..way(
            Language::Perl,
            "script with -MQuickExit, --fork-server",
            FORK,
            Script::WithHook,
        )
    },
    way(
        Language::Perl,
        "script with POSIX::_exit, --fork-server",
        FORK,
        Script::ExitsAtOnce,
    ),
    way(
        Language::Perl,
        "fork for each connection",
        ITSELF,
        Script::Forking,
    ),
    way(Language::Ruby, "script, exec", EXEC, Script::Plain),
    way(Language::Ruby, "script, --warm", WARM, Script::Plain),
    Way {
        reference: true,
        ..way(Language::Ruby, "script, --fork-server", FORK, Script::Plain)
    },
    way(
        Language::Ruby,
        "fork for each connection",
        ITSELF,
        Script::Forking,
    ),
    way(
        Language::Ruby,
        "Thread for each connection",
        ITSELF,
        Script::Threading,
    ),
    way(Language::Node, "script, exec", EXEC, Script::Plain),
    Way {
        reference: true,
        ..way(Language::Node, "script, --warm", WARM, Script::Plain)
    },
    way(Language::Node, "net", ITSELF, Script::Loop),
];

/// The modules that a small service of this kind loads.
const PYTHON_MODULES: &str = "import argparse, datetime, json, logging, os, re, socket, sys\n";

const PYTHON: &str = r#"
line = sys.stdin.readline().rstrip("\n")
answer = {"length": len(line), "line": line}
print(json.dumps(answer, separators=(",", ":")))
"#;

const PYTHON_AT_ONCE: &str = "sys.stdout.flush()\nos._exit(0)\n";

/// Runs a script, and exits when that has ended: docs/recipes.md explains it.
pub(super) const PYTHON_QUICK_EXIT: &str = include_str!("quick_exit.py");

/// For the folder of PYTHONPATH.
const PYTHON_HOOK: &str = r#"
import atexit, os, sys

def quick_exit():
    sys.stdout.flush()
    os._exit(0)

atexit.register(quick_exit)
"#;

const PYTHON_SERVER: &str = r#"
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        line = self.rfile.readline().decode().rstrip("\n")
        answer = {"length": len(line), "line": line}
        text = json.dumps(answer, separators=(",", ":")) + "\n"
        self.wfile.write(text.encode())

class Server(socketserver.MIXIN, socketserver.TCPServer):
    allow_reuse_address = True
    request_queue_size = 4096

Server((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"#;

const PYTHON_LOOP: &str = r#"
async def handle(reader, writer):
    line = (await reader.readline()).decode().rstrip("\n")
    answer = {"length": len(line), "line": line}
    text = json.dumps(answer, separators=(",", ":")) + "\n"
    writer.write(text.encode())
    await writer.drain()
    writer.close()

async def main():
    server = await asyncio.start_server(handle, sys.argv[1], int(sys.argv[2]), backlog=4096)
    await server.serve_forever()

asyncio.run(main())
"#;

const PERL_MODULES: &str = "\
use strict;
use warnings;
use Data::Dumper;
use Encode;
use Getopt::Long;
use IO::Socket::INET;
use JSON::PP;
use List::Util;
use POSIX ();
use Time::HiRes;
my $json = JSON::PP->new->canonical;
";

const PERL: &str = r#"
my $line = <STDIN>;
chomp $line;
print $json->encode({ length => length $line, line => $line }), "\n";
"#;

const PERL_AT_ONCE: &str = "\
STDOUT->flush;
POSIX::_exit(0);
";

/// A module for -M. Its END block is the last to run, and gets the exit status.
const PERL_HOOK: &str = r#"
package QuickExit;
use IO::Handle ();
use POSIX ();
END {
    STDOUT->flush;
    POSIX::_exit($?);
}
1;
"#;

const PERL_FORKING: &str = r#"
my ($address, $port) = @ARGV;
my $server = IO::Socket::INET->new(
    LocalAddr => $address, LocalPort => $port, Listen => 4096, ReuseAddr => 1,
) or die "$@\n";
$SIG{CHLD} = sub { local ($!, $?); 1 while waitpid(-1, POSIX::WNOHANG()) > 0 };
while (1) {
    my $client = $server->accept or next;
    my $child = fork // die "fork: $!\n";
    if ($child == 0) {
        close $server;
        my $line = <$client>;
        chomp $line;
        print $client $json->encode({ length => length $line, line => $line }), "\n";
        exit 0;
    }
    close $client;
}
"#;

const RUBY_MODULES: &str = "require 'json'\nrequire 'optparse'\nrequire 'socket'\nrequire 'time'\n";

const RUBY: &str = r#"
line = $stdin.gets.chomp
puts JSON.generate({ "length" => line.length, "line" => line })
"#;

const RUBY_SERVER: &str = r#"
def answer(client)
  line = client.gets.chomp
  client.puts JSON.generate({ "length" => line.length, "line" => line })
  client.close
end

server = TCPServer.new(ARGV[0], ARGV[1].to_i)
server.listen(4096)
"#;

const RUBY_FORKING: &str = r#"
loop do
  client = server.accept
  Process.detach(fork { server.close; answer(client) })
  client.close
end
"#;

const RUBY_THREADING: &str = "loop { Thread.new(server.accept) { |client| answer(client) } }\n";

const NODE: &str = r#"
const input = require("readline").createInterface({ input: process.stdin });
input.once("line", (line) => {
  console.log(JSON.stringify({ length: line.length, line }));
  process.exit();
});
"#;

const NODE_LOOP: &str = r#"
const [address, port] = process.argv.slice(2);
require("net").createServer((socket) => {
  socket.on("error", () => socket.destroy());
  require("readline").createInterface({ input: socket }).once("line", (line) => {
    socket.end(JSON.stringify({ length: line.length, line }) + "\n");
  });
}).listen({ host: address, port: Number(port), backlog: 4096 });
"#;

impl Way {
    /// Writes the program, and checks that a script answers.
    pub(crate) fn handler(&'static self, folder: &Path) -> Result<Handler> {
        let words = self.words(folder)?;
        if self.server != ITSELF {
            let received = answer(&words, b"a line\n")?;
            if received != b"{\"length\":6,\"line\":\"a line\"}\n" {
                bail!("received {:?}", String::from_utf8_lossy(&received));
            }
        }
        Ok(Handler {
            name: self.name,
            words,
            reply: Reply::Json,
            windows: 1,
        })
    }

    fn words(&self, folder: &Path) -> Result<Vec<String>> {
        let interpreter = self.language.interpreter()?;
        let source = self.source().context("the language has no such program")?;
        let file = format!("{}-{:?}", self.language.as_str(), self.script).to_lowercase();
        let file = text(&script(folder, &file, &source)?)?;
        let words = match self.script {
            Script::BelowQuickExit => {
                let quick_exit = text(&script(folder, "quick-exit", PYTHON_QUICK_EXIT)?)?;
                vec![interpreter, quick_exit, file]
            }
            Script::WithOptions => vec![interpreter, "-IS".to_owned(), file],
            Script::WithHook => {
                let folder = folder.join("hook");
                std::fs::create_dir_all(&folder)?;
                let path = text(&folder)?;
                if self.language == Language::Perl {
                    script(&folder, "QuickExit.pm", PERL_HOOK)?;
                    vec![
                        interpreter,
                        format!("-I{path}"),
                        "-MQuickExit".to_owned(),
                        file,
                    ]
                } else {
                    script(&folder, "sitecustomize.py", PYTHON_HOOK)?;
                    let path = format!("PYTHONPATH={path}");
                    vec![text(&find_in_path("env")?)?, path, interpreter, file]
                }
            }
            _ => vec![interpreter, file],
        };
        Ok(words)
    }

    /// Returns the text of its program.
    fn source(&self) -> Option<String> {
        let pieces: &[&str] = match (self.language, self.script) {
            (Language::Python, Script::ExitsAtOnce) => &[PYTHON_MODULES, PYTHON, PYTHON_AT_ONCE],
            (Language::Python, Script::Forking | Script::Threading) => {
                let mixin = if self.script == Script::Forking {
                    "ForkingMixIn"
                } else {
                    "ThreadingMixIn"
                };
                let server = PYTHON_SERVER.replace("MIXIN", mixin);
                return Some(format!("{PYTHON_MODULES}import socketserver\n{server}"));
            }
            (Language::Python, Script::Loop) => &[PYTHON_MODULES, "import asyncio\n", PYTHON_LOOP],
            (Language::Python, _) => &[PYTHON_MODULES, PYTHON],
            (Language::Perl, Script::Plain | Script::WithHook) => &[PERL_MODULES, PERL],
            (Language::Perl, Script::ExitsAtOnce) => &[PERL_MODULES, PERL, PERL_AT_ONCE],
            (Language::Perl, Script::Forking) => &[PERL_MODULES, PERL_FORKING],
            (Language::Ruby, Script::Plain) => &[RUBY_MODULES, RUBY],
            (Language::Ruby, Script::Forking) => &[RUBY_MODULES, RUBY_SERVER, RUBY_FORKING],
            (Language::Ruby, Script::Threading) => &[RUBY_MODULES, RUBY_SERVER, RUBY_THREADING],
            (Language::Node, Script::Plain) => &[NODE],
            (Language::Node, Script::Loop) => &[NODE_LOOP],
            _ => return None,
        };
        Some(pieces.concat())
    }
}

impl Language {
    /// Returns the path of its interpreter.
    fn interpreter(self) -> Result<String> {
        match self {
            Self::Python => python(),
            Self::Perl => text(&find_in_path("perl")?),
            Self::Ruby => text(&find_in_path("ruby")?),
            Self::Node => text(&find_in_path("node")?),
        }
    }

    /// Returns what its interpreter says of its version.
    pub(crate) fn version(self) -> Option<String> {
        let arguments: &[&str] = match self {
            Self::Perl => &["-e", "print $^V"],
            _ => &["--version"],
        };
        let output = Command::new(self.interpreter().ok()?)
            .args(arguments)
            .output()
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let words = text.split_whitespace();
        let mut words = words.filter(|word| word.contains('.'));
        Some(words.next()?.trim_start_matches('v').to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_answer_with_json() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let scripts = WAYS
            .iter()
            .filter(|way| way.server == EXEC || way.server == FORK);
        for way in scripts {
            if way.language.interpreter().is_err() {
                // Ruby and Node may be missing, Perl and Python not.
                assert!(matches!(way.language, Language::Ruby | Language::Node));
                continue;
            }
            way.handler(folder.path())?;
        }
        Ok(())
    }

    #[test]
    fn quick_exit_is_that_of_the_recipe() {
        let page = include_str!("../../../docs/recipes.md");
        assert!(page.contains(PYTHON_QUICK_EXIT));
    }

    #[test]
    fn quick_exit_ends_as_python_does() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let path = folder.path();
        let quick_exit = script(path, "quick-exit", PYTHON_QUICK_EXIT)?;
        let cases = [
            "print('x')\n",
            "import sys\nsys.stdout.write('x')\nsys.exit(3)\n",
            "import sys\nsys.exit('no')\n",
            "raise SystemExit(None)\n",
            "print('x')\nraise ValueError('wrong')\n",
            "this is no Python\n",
            "import sys\nprint(sys.argv[1:], __name__, __file__ == sys.argv[0], sys.path[0])\n",
            "import atexit\natexit.register(print, 'last')\nprint('first')\n",
            "import threading, time\ndef late():\n    time.sleep(0.1)\n    print('late')\n\
             threading.Thread(target=late).start()\nprint('early')\n",
            "from concurrent.futures import ThreadPoolExecutor\n\
             ThreadPoolExecutor().submit(print, 'done')\n",
            "import pickle\nclass A: pass\nprint(type(pickle.loads(pickle.dumps(A()))))\n",
            "import sys\nsys.stdout.close()\n",
            "import sys\nsys.stdout = open('/dev/full', 'w')\nprint('x')\n",
        ];
        for source in cases {
            let file = script(path, "case", source)?;
            let run = |words: &[&Path]| {
                let mut command = Command::new("python3");
                command.args(words).args(["a", "b c"]).output()
            };
            let plain = run(&[&file])?;
            let left = run(&[&quick_exit, &file])?;
            assert_eq!(left.stdout, plain.stdout, "{source}");
            assert_eq!(left.status.code(), plain.status.code(), "{source}");
            let last = |errors: &[u8]| {
                let errors = String::from_utf8_lossy(errors);
                errors.lines().last().unwrap_or_default().to_owned()
            };
            // Python's own clean-up has further words on what it couldn't flush.
            if plain.status.code() != Some(120) {
                assert_eq!(last(&left.stderr), last(&plain.stderr), "{source}");
            }
        }
        Ok(())
    }

    #[test]
    fn every_way_has_a_program_and_every_language_a_reference() {
        for way in WAYS {
            assert!(way.source().is_some(), "{way:?}");
        }
        for language in Language::ALL {
            let ways = WAYS.iter().filter(|way| way.language == language);
            assert_eq!(ways.filter(|way| way.reference).count(), 1, "{language:?}");
        }
    }
}
