//! Floors: a module imports only from modules on lower floors of its folder, and from itself.

use std::collections::BTreeMap;
use std::slice;

use super::{Crate, Fault, Import, Module};

/// The floors of a folder, from the table in the documentation of its lib.rs or mod.rs.
pub struct Floors {
    folder: Module,
    /// The file with the table.
    file: String,
    /// The first row of the table.
    line: usize,
    floor_of: BTreeMap<String, usize>,
}

impl Floors {
    /// Returns the floors of a folder, such as `serve` or the root, if it has a table of them.
    pub fn of(sources: &Crate, folder: &[String]) -> Option<Self> {
        let file = sources.home(folder);
        let mut floors = Self {
            folder: folder.to_vec(),
            file: file.to_owned(),
            line: 0,
            floor_of: BTreeMap::new(),
        };
        for (at, line) in sources.files[file].text.lines().enumerate() {
            if let Some((floor, modules)) = table_row(line) {
                if floors.line == 0 {
                    floors.line = at + 1;
                }
                let modules = modules.split(['`', '[', ']', ',', ' ']);
                let modules = modules.filter(|module| !module.is_empty());
                floors
                    .floor_of
                    .extend(modules.map(|module| (module.to_owned(), floor)));
            }
        }
        (floors.line > 0).then_some(floors)
    }

    /// Returns why one module of the folder must not import from another, or `None` if it may.
    pub fn objection(&self, from: &str, to: &str) -> Option<&'static str> {
        let (from_floor, to_floor) = (self.floor_of.get(from)?, self.floor_of.get(to)?);
        if from == to || from_floor > to_floor {
            None
        } else if from_floor == to_floor {
            Some("on the same floor")
        } else {
            Some("on a higher floor")
        }
    }

    /// Returns what is wrong with an import between modules of the folder.
    fn import_fault(&self, import: &Import<'_>, exceptions: &[(&str, &str)]) -> Option<String> {
        let from = import.module.strip_prefix(&*self.folder)?.first()?;
        self.floor_of.get(from)?;
        import.passes.iter().find_map(|to| {
            let Some(to) = to.strip_prefix(&*self.folder)?.first() else {
                return Some(format!("{from} imports from src/{} itself", self.file));
            };
            let name = |module| [&*self.folder, slice::from_ref(module)].concat().join("::");
            if exceptions.contains(&(&name(from), &name(to))) {
                return None;
            }
            let objection = self.objection(from, to)?;
            Some(format!("{from} imports {to}, {objection}"))
        })
    }

    /// Returns modules that are missing in the table, names in it that are no modules, and items that are
    /// defined in the file of the table.
    fn table_faults(&self, sources: &Crate) -> Vec<Fault> {
        let fault = |line, text| Fault {
            file: self.file.clone(),
            line,
            text,
        };
        let scope = &sources.scopes[&self.folder];
        let modules = scope.modules.iter();
        let missing = modules.filter(|module| !self.floor_of.contains_key(*module));
        let missing = missing.map(|name| {
            fault(
                self.line,
                format!("{name} is missing in the table of floors"),
            )
        });
        let listed = self.floor_of.keys();
        let invented = listed.filter(|module| !scope.modules.contains(*module));
        let invented = invented.map(|name| {
            fault(
                self.line,
                format!("{name} is in the table of floors, but no module"),
            )
        });
        let items = scope.items.iter();
        let items = items.map(|(name, &line)| {
            let text = format!(
                "{name} is defined here: a file with a table of floors only declares and re-exports"
            );
            fault(line, text)
        });
        missing.chain(invented).chain(items).collect()
    }
}

impl Crate {
    /// Returns what is wrong with the floors of all folders. An exception allows imports from its first
    /// module to its second.
    pub fn floor_faults(&self, exceptions: &[(&str, &str)]) -> Vec<Fault> {
        let imports = self.imports(true);
        let folders = self.homes.iter();
        let folders = folders.filter(|(_, file)| *file == "lib.rs" || file.ends_with("/mod.rs"));
        let mut faults = Vec::new();
        for floors in folders.filter_map(|(folder, _)| Floors::of(self, folder)) {
            faults.extend(floors.table_faults(self));
            // Of equal faults in a file, the first line.
            let mut found = BTreeMap::new();
            for import in &imports {
                if let Some(text) = floors.import_fault(import, exceptions) {
                    found.entry((import.file, text)).or_insert(import.line);
                }
            }
            faults.extend(found.into_iter().map(|((file, text), line)| Fault {
                file: file.to_owned(),
                line,
                text,
            }));
        }
        faults.sort();
        faults
    }
}

/// Splits `//! | FLOOR | MODULES | |`.
fn table_row(line: &str) -> Option<(usize, &str)> {
    let mut cells = line.strip_prefix("//! |")?.split('|');
    let floor = cells.next()?.trim().parse().ok()?;
    Some((floor, cells.next()?))
}
