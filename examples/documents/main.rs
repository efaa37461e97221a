//! Writes the manual page, the shell completions and docs/system-calls.md: `cargo run --example documents`, in the project's directory.
//!
//! On x86-64: the manual has a table of what prestarted programs may do, which is compiled there alone.

#[cfg(target_arch = "x86_64")]
mod generate;

#[cfg(target_arch = "x86_64")]
fn main() -> std::io::Result<()> {
    for (path, text) in generate::documents() {
        std::fs::write(path, text)?;
    }
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn main() -> std::io::Result<()> {
    Err(std::io::Error::other(
        "the documents are generated on x86-64 alone, which has all that is in them",
    ))
}
