//! The sources of a crate as a graph: which file imports which module, and which file it needs for that.

mod circles;
mod floors;
mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use syn::{Expr, Item, Lit, Meta};

use reader::{Kind, Mention, Reader, Scope};

pub use circles::circles;
pub use floors::Floors;

/// The path of a module from the root of the crate.
pub type Module = Vec<String>;

/// A parsed crate. Files are known by their path in src/.
pub struct Crate {
    files: BTreeMap<String, File>,
    scopes: BTreeMap<Module, Scope>,
    /// The file of each module that is not inline.
    homes: BTreeMap<Module, String>,
}

struct File {
    module: Module,
    text: String,
    mentions: Vec<Mention>,
    unsafe_lines: Vec<usize>,
}

/// An import, resolved.
#[derive(Debug)]
pub struct Import<'a> {
    pub file: &'a str,
    pub line: usize,
    /// The module of this file.
    pub module: &'a Module,
    /// The modules on the path, without those around the file itself. Re-exports are followed, and the
    /// last module defines the item.
    pub passes: Vec<Module>,
    /// The file that defines the item. Importing a module by its name needs no file; the paths that begin
    /// with the name do.
    pub needs: Option<&'a str>,
}

/// A breach of the structure.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    pub file: String,
    pub line: usize,
    pub text: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "src/{}:{}: {}", self.file, self.line, self.text)
    }
}

/// Where a path ends.
enum End {
    Module(Module),
    /// An item of this module.
    Item(Module),
}

/// Names whose look-up has begun, each with its module: a second look-up would never end.
type Pending = BTreeSet<(Module, String)>;

impl Crate {
    /// Returns the crate in `src/`, which is read once.
    pub fn of_skd() -> &'static Self {
        static CRATE: LazyLock<Crate> = LazyLock::new(Crate::read);
        &CRATE
    }

    /// Reads the crate in `src/`.
    pub fn read() -> Self {
        let mut sources = Vec::new();
        let mut folders = vec![PathBuf::from("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let text = fs::read_to_string(&path).unwrap();
                    let path = path.strip_prefix("src").unwrap().to_str().unwrap();
                    sources.push((path.to_owned(), text));
                }
            }
        }
        assert!(sources.len() > 20, "{}", sources.len());
        Self::parse(sources)
    }

    /// Parses a crate: the path of each file in src/, and its text.
    pub fn parse(sources: Vec<(String, String)>) -> Self {
        let parsed: Vec<(String, String, syn::File)> = sources
            .into_iter()
            .map(|(path, text)| match syn::parse_file(&text) {
                Ok(syntax) => (path, text, syntax),
                Err(error) => panic!("src/{path}:{}: {error}", error.span().start().line),
            })
            .collect();
        let files = parsed.iter();
        let renamed: BTreeMap<String, Module> = files
            .flat_map(|(path, _, syntax)| path_attributes(path, syntax))
            .collect();

        let mut all = Self {
            files: BTreeMap::new(),
            scopes: BTreeMap::new(),
            homes: BTreeMap::new(),
        };
        for (path, text, syntax) in parsed {
            let usual = module_of(&path);
            let module = renamed.get(&path).unwrap_or(&usual).clone();
            let reader = Reader::read(&module, &syntax);
            for (module, scope) in reader.scopes {
                let known = all.scopes.entry(module).or_default();
                known.items.extend(scope.items);
                known.modules.extend(scope.modules);
                known.aliases.extend(scope.aliases);
                known.globs.extend(scope.globs);
            }
            if module == usual {
                all.homes.insert(module.clone(), path.clone());
            }
            let file = File {
                module,
                unsafe_lines: reader::unsafe_lines(text.parse().unwrap()),
                mentions: reader.mentions,
                text,
            };
            all.files.insert(path, file);
        }
        all
    }

    /// Returns all imports, with or without those in `#[cfg(test)]` modules.
    pub fn imports(&self, with_tests: bool) -> Vec<Import<'_>> {
        let files = self.files.iter();
        let mentions = files.flat_map(|(path, file)| {
            let mentions = file.mentions.iter();
            mentions.map(move |mention| (path.as_str(), file, mention))
        });
        mentions
            .filter(|(_, _, mention)| with_tests || !mention.in_test)
            .filter_map(|(path, file, mention)| self.import(path, file, mention))
            .collect()
    }

    /// Returns which file needs which other file, with the first line that does. Tests do not count.
    pub fn edges(&self) -> BTreeMap<(&str, &str), usize> {
        let mut edges = BTreeMap::new();
        for import in self.imports(false) {
            if let Some(needs) = import.needs {
                edges.entry((import.file, needs)).or_insert(import.line);
            }
        }
        edges
    }

    /// Returns the inherent `impl` blocks in another folder than their type.
    pub fn impls_elsewhere(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        for (path, file) in &self.files {
            let impls = file.mentions.iter();
            for mention in impls.filter(|mention| mention.kind == Kind::Impl) {
                let end = self.resolve(mention, &mut Vec::new());
                let Some(End::Item(module)) = end else {
                    continue;
                };
                let home = self.home(&module);
                if Path::new(home).parent() != Path::new(path).parent() {
                    faults.push(Fault {
                        file: path.clone(),
                        line: mention.line,
                        text: format!(
                            "methods of a type that is defined in another folder, in src/{home}"
                        ),
                    });
                }
            }
        }
        faults
    }

    /// Returns the file and line of each `unsafe`.
    pub fn unsafe_lines(&self) -> impl Iterator<Item = (&str, usize)> {
        let files = self.files.iter();
        files.flat_map(|(path, file)| file.unsafe_lines.iter().map(|&line| (path.as_str(), line)))
    }

    fn import<'a>(
        &'a self,
        path: &'a str,
        file: &'a File,
        mention: &Mention,
    ) -> Option<Import<'a>> {
        let mut passes = Vec::new();
        let end = self.resolve(mention, &mut passes)?;
        passes.retain(|module| !file.module.starts_with(module));
        let (target, needs) = match end {
            // A local variable, perhaps.
            End::Module(_) if mention.kind == Kind::Inline && mention.path.len() == 1 => {
                return None;
            }
            End::Module(module) => (module, mention.kind == Kind::Glob),
            End::Item(module) => {
                let is_own = module.starts_with(&file.module);
                (module, !(is_own && mention.kind == Kind::ReExport))
            }
        };
        let home = self.home(&target);
        passes.push(target);
        (home != path).then_some(Import {
            file: path,
            line: mention.line,
            module: &file.module,
            passes,
            needs: needs.then_some(home),
        })
    }

    /// Returns the file of a module: for an inline module, that of the module around it.
    fn home(&self, module: &[String]) -> &str {
        let mut module = module;
        loop {
            match (self.homes.get(module), module) {
                (Some(home), _) => return home,
                (None, [outer @ .., _]) => module = outer,
                (None, []) => return "lib.rs",
            }
        }
    }

    /// Returns where a path ends, if that is in this crate, and adds the modules on it to `passes`.
    fn resolve(&self, mention: &Mention, passes: &mut Vec<Module>) -> Option<End> {
        self.follow(&mention.module, &mention.path, passes, &mut Pending::new())
    }

    fn follow(
        &self,
        from: &Module,
        path: &[String],
        passes: &mut Vec<Module>,
        pending: &mut Pending,
    ) -> Option<End> {
        let mut end = End::Module(from.clone());
        for (at, name) in path.iter().enumerate() {
            // After an item come variants and associated functions.
            let End::Module(mut module) = end else {
                break;
            };
            end = match name.as_str() {
                "crate" => End::Module(Module::new()),
                // The library, as main.rs calls it.
                "skd" if at == 0 => End::Module(Module::new()),
                "self" => End::Module(module),
                "super" => {
                    module.pop();
                    End::Module(module)
                }
                name => {
                    let is_last = at + 1 == path.len();
                    let found = self.look_up(&module, name, is_last, passes, pending);
                    if at == 0 {
                        found?
                    } else {
                        found.unwrap_or(End::Item(module))
                    }
                }
            };
            if let End::Module(module) = &end {
                passes.push(module.clone());
            }
        }
        Some(end)
    }

    fn look_up(
        &self,
        module: &Module,
        name: &str,
        is_last: bool,
        passes: &mut Vec<Module>,
        pending: &mut Pending,
    ) -> Option<End> {
        let scope = self.scopes.get(module)?;
        let has_item = scope.items.contains_key(name);
        if scope.modules.contains(name) && !(is_last && has_item) {
            return Some(End::Module(
                [module.as_slice(), &[name.to_owned()]].concat(),
            ));
        }
        if has_item {
            return Some(End::Item(module.clone()));
        }
        let key = (module.clone(), name.to_owned());
        if !pending.insert(key.clone()) {
            return None;
        }
        let found = if let Some(path) = scope.aliases.get(name) {
            self.follow(module, path, passes, pending)
        } else {
            scope.globs.iter().find_map(|path| {
                let mut on_the_way = Vec::new();
                let end = self.follow(module, path, &mut on_the_way, pending)?;
                let End::Module(behind) = end else {
                    return None;
                };
                let found = self.look_up(&behind, name, is_last, &mut on_the_way, pending)?;
                passes.append(&mut on_the_way);
                Some(found)
            })
        };
        pending.remove(&key);
        found
    }
}

/// Returns the module of a file: `serve::stream` for `serve/stream.rs`, `serve` for `serve/mod.rs`, the root for
/// `lib.rs`. `main.rs`, which is a crate of its own, is called `main`.
fn module_of(path: &str) -> Module {
    let path = path.trim_end_matches(".rs");
    let mut module: Module = path.split('/').map(str::to_owned).collect();
    if path.ends_with("/mod") || path == "lib" {
        module.pop();
    }
    module
}

/// Returns the value of `#[path = "FILE"]`.
fn path_value(attribute: &syn::Attribute) -> Option<String> {
    let Meta::NameValue(meta) = &attribute.meta else {
        return None;
    };
    let (true, Expr::Lit(value)) = (meta.path.is_ident("path"), &meta.value) else {
        return None;
    };
    match &value.lit {
        Lit::Str(file) => Some(file.value()),
        _ => None,
    }
}

/// Returns the files of `#[path = "FILE"] mod NAME;`, each with its module.
fn path_attributes(path: &str, syntax: &syn::File) -> Vec<(String, Module)> {
    let folder = Path::new(path).parent().unwrap();
    let mut found = Vec::new();
    for item in &syntax.items {
        let Item::Mod(item) = item else { continue };
        for attribute in &item.attrs {
            let Some(file) = path_value(attribute) else {
                continue;
            };
            let file = folder.join(file).to_str().unwrap().to_owned();
            let mut module = module_of(path);
            module.push(item.ident.to_string());
            found.push((file, module));
        }
    }
    found
}
