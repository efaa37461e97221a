//! A directory of one test's own.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A new, empty directory, removed with all that is in it on drop. Its path is short, as those of
/// unix sockets have to be.
#[derive(Debug)]
pub struct Directory(tempfile::TempDir);

impl Directory {
    /// Mode 0700, as temporary directories are.
    pub fn new() -> Self {
        let mut builder = tempfile::Builder::new();
        Self(builder.prefix("skd-").tempdir().expect("a directory"))
    }

    /// Mode 0755, for programs that run as another user.
    pub fn public() -> Self {
        let directory = Self::new();
        directory.chmod("", 0o755);
        directory
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path of `name` inside; nothing is created.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// The same as text, for command lines.
    pub fn name(&self, name: &str) -> String {
        self.join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, contents).expect("a file in the test's directory");
        path
    }

    /// Writes an executable file and returns its path. `contents` begins with its own `#!` line, or has
    /// none if that is what is tested.
    pub fn script(&self, name: &str, contents: &str) -> PathBuf {
        // A process of another test that is forked while the file is open for writing, and has not yet
        // exec'd, would make an exec of it fail with ETXTBSY. So a child process copies it.
        let text = self.write(&format!(".{name}.text"), contents);
        let path = self.join(name);
        let copied = std::process::Command::new("install")
            .args(["-m", "755", "--"])
            .args([&text, &path])
            .status();
        assert!(copied.expect("install(1)").success(), "install {path:?}");
        fs::remove_file(text).expect("a file in the test's directory");
        path
    }

    /// Compiles a static program from C and returns its path: for handlers that cost next to nothing.
    #[track_caller]
    pub fn compile(&self, name: &str, source: &str) -> PathBuf {
        self.compile_with(&["-static"], name, source)
    }

    /// The same with shared libraries, as most programs are.
    #[track_caller]
    pub fn compile_shared(&self, name: &str, source: &str) -> PathBuf {
        self.compile_with(&["-pie"], name, source)
    }

    /// A shared library, instead of a program.
    #[track_caller]
    pub fn compile_library(&self, name: &str, source: &str) -> PathBuf {
        self.compile_with(&["-shared", "-fPIC"], name, source)
    }

    /// The same without the start of the C library: it begins with `_start`.
    #[track_caller]
    pub fn compile_bare(&self, name: &str, source: &str) -> PathBuf {
        self.compile_with(&["-static", "-nostartfiles"], name, source)
    }

    #[track_caller]
    fn compile_with(&self, flags: &[&str], name: &str, source: &str) -> PathBuf {
        super::requires_command("cc");
        let text = self.write(&format!(".{name}.c"), source);
        let path = self.join(name);
        let status = std::process::Command::new("cc")
            .args(flags)
            .args(["-O2", "-o"])
            .args([&path, &text])
            .status();
        assert!(status.expect("cc").success(), "cc {text:?}");
        fs::remove_file(text).expect("a file in the test's directory");
        path
    }

    /// Reads a file as text; an absent one is empty.
    pub fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&fs::read(self.join(name)).unwrap_or_default()).into_owned()
    }

    /// The names of all entries, hidden ones too, in order.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path()).expect("the test's directory");
        let name = |entry: fs::DirEntry| entry.file_name().to_string_lossy().into_owned();
        let mut names: Vec<_> = entries.flatten().map(name).collect();
        names.sort();
        names
    }

    /// Copies programs into it with the libraries that they need, all at their own paths, so that they run
    /// where this is the root directory.
    #[track_caller]
    pub fn install(&self, programs: &[&str]) {
        // ldd(1) fails for a static program, which needs no libraries.
        let line = r#"
            root=$1; shift
            for program; do
                for file in "$program" $(ldd "$program" 2> /dev/null | grep -o '/[^ ]*'); do
                    cp -L --parents -- "$file" "$root"
                done
            done
        "#;
        let mut copying = std::process::Command::new("sh");
        copying.args(["-ec", line, "sh"]).arg(self.path());
        let status = copying.args(programs).status();
        assert!(status.expect("sh").success(), "copying {programs:?}");
    }

    /// Sets the mode of `name`, or of the directory itself where that is empty.
    pub fn chmod(&self, name: &str, mode: u32) {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(self.join(name), permissions).expect("chmod");
    }
}
