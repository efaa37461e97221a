//! Writes the manual page and the shell completions of skdctl:
//! `cargo run --package skdctl --example ctl-documents`, in the project's directory.

mod generate;

fn main() -> std::io::Result<()> {
    for (path, text) in generate::documents() {
        std::fs::write(path, text)?;
    }
    Ok(())
}
