//! Circles of files.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Files that import each other, directly or through others: all edges between them.
pub struct Circle<'a> {
    edges: Vec<(&'a str, &'a str, usize)>,
}

impl Circle<'_> {
    pub fn files(&self) -> BTreeSet<&str> {
        self.edges.iter().map(|&(from, _, _)| from).collect()
    }
}

impl fmt::Display for Circle<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, _, line) = self.edges[0];
        let count = self.files().len();
        write!(
            f,
            "src/{first}:{line}: {count} files import each other in a circle:"
        )?;
        for (from, to, line) in &self.edges {
            write!(f, "\n    src/{from}:{line}: imports src/{to}")?;
        }
        Ok(())
    }
}

/// Returns the circles among edges between files. Each edge has its line.
pub fn circles<'a>(edges: &BTreeMap<(&'a str, &'a str), usize>) -> Vec<Circle<'a>> {
    let files: BTreeSet<&str> = edges.keys().map(|&(from, _)| from).collect();
    let files = files.into_iter();
    let behind: BTreeMap<&str, BTreeSet<&str>> =
        files.map(|file| (file, reachable(edges, file))).collect();
    let leads = |from: &str, to: &str| behind.get(from).is_some_and(|behind| behind.contains(to));

    let mut circles: BTreeMap<&str, Circle<'_>> = BTreeMap::new();
    for (&(from, to), &line) in edges {
        if leads(to, from) {
            let mut circle = behind[from].iter().filter(|file| leads(file, from));
            let first = circle.next().unwrap();
            let circle = circles.entry(first);
            let circle = circle.or_insert_with(|| Circle { edges: Vec::new() });
            circle.edges.push((from, to, line));
        }
    }
    circles.into_values().collect()
}

/// Returns the files that a file imports, directly or through others.
fn reachable<'a>(edges: &BTreeMap<(&'a str, &'a str), usize>, file: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut new = vec![file];
    while let Some(file) = new.pop() {
        let next = edges.keys().filter(|(from, _)| *from == file);
        new.extend(next.filter_map(|&(_, to)| found.insert(to).then_some(to)));
    }
    found
}
