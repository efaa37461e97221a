//! Every figure of every round, for other programs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::Result;

use crate::results::Results;

pub(super) fn write(results: &Results, path: &Path) -> Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    serde_json::to_writer_pretty(&mut file, results)?;
    writeln!(file)?;
    Ok(file.flush()?)
}
