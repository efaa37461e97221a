//! Reads a file: the names that it declares, the paths in it, its `unsafe` lines.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Ident, Spacing, TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, Type, UseTree, Visibility};

use super::Module;

/// The names in a module.
#[derive(Debug, Default)]
pub struct Scope {
    /// Items that are defined in the module, each with its line.
    pub items: BTreeMap<String, usize>,
    /// Child modules.
    pub modules: BTreeSet<String>,
    /// Names that `use` brings in, each with its path.
    pub aliases: BTreeMap<String, Vec<String>>,
    /// The paths of `use PATH::*`.
    pub globs: Vec<Vec<String>>,
}

/// A path in a file.
#[derive(Debug)]
pub struct Mention {
    pub kind: Kind,
    /// The module around it, inline modules included.
    pub module: Module,
    pub path: Vec<String>,
    pub line: usize,
    /// Whether it is in a `#[cfg(test)]` module.
    pub in_test: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Use,
    /// `use PATH::*`.
    Glob,
    /// `pub use`, with or without a glob.
    ReExport,
    /// In an expression, a type, a pattern, or the tokens of a macro.
    Inline,
    /// The type of an inherent `impl` block.
    Impl,
}

pub struct Reader {
    pub scopes: BTreeMap<Module, Scope>,
    pub mentions: Vec<Mention>,
    /// The present module.
    module: Module,
    in_test: bool,
}

impl Reader {
    pub fn read(module: &Module, syntax: &syn::File) -> Self {
        let mut reader = Self {
            scopes: BTreeMap::from([(module.clone(), Scope::default())]),
            mentions: Vec::new(),
            module: module.clone(),
            in_test: false,
        };
        reader.visit_file(syntax);
        reader
    }

    fn scope(&mut self) -> &mut Scope {
        self.scopes.entry(self.module.clone()).or_default()
    }

    fn mention(&mut self, kind: Kind, path: Vec<String>, line: usize) {
        self.mentions.push(Mention {
            kind,
            module: self.module.clone(),
            path,
            line,
            in_test: self.in_test,
        });
    }

    /// Notes the paths of a `use` tree. `path` is what stands before the tree.
    fn read_use(&mut self, tree: &UseTree, mut path: Vec<String>, is_public: bool) {
        let (ident, alias) = match tree {
            UseTree::Path(step) => {
                path.push(step.ident.to_string());
                return self.read_use(&step.tree, path, is_public);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.read_use(tree, path.clone(), is_public);
                }
                return;
            }
            UseTree::Glob(glob) => {
                let kind = if is_public {
                    Kind::ReExport
                } else {
                    Kind::Glob
                };
                self.scope().globs.push(path.clone());
                let line = glob.star_token.spans[0].start().line;
                return self.mention(kind, path, line);
            }
            UseTree::Name(name) => (&name.ident, &name.ident),
            UseTree::Rename(rename) => (&rename.ident, &rename.rename),
        };
        if ident != "self" {
            path.push(ident.to_string());
        }
        let alias = if alias == "self" {
            path.last().cloned().unwrap_or_default()
        } else {
            alias.to_string()
        };
        let kind = if is_public { Kind::ReExport } else { Kind::Use };
        self.scope().aliases.entry(alias).or_insert(path.clone());
        self.mention(kind, path, ident.span().start().line);
    }

    /// Notes the paths in the body of a macro. `prefix` is what stands before its brace.
    fn read_tokens(&mut self, tokens: TokenStream, prefix: &[String]) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut tokens = &tokens[..];
        while let [first, rest @ ..] = tokens {
            tokens = rest;
            match (first, rest) {
                // `pub(in PATH)` imports nothing.
                (TokenTree::Ident(word), [TokenTree::Group(_), rest @ ..]) if word == "pub" => {
                    tokens = rest;
                }
                (TokenTree::Ident(word), _) => {
                    let line = word.span().start().line;
                    let mut path = [prefix, &[word.to_string()]].concat();
                    while let Some(rest) = after_colons(tokens) {
                        match rest {
                            [TokenTree::Ident(word), ..] => path.push(word.to_string()),
                            [TokenTree::Group(group), ..] => {
                                self.read_tokens(group.stream(), &path);
                            }
                            _ => {}
                        }
                        tokens = rest.get(1..).unwrap_or_default();
                    }
                    self.mention(Kind::Inline, path, line);
                }
                (TokenTree::Group(group), _) => self.read_tokens(group.stream(), &[]),
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let name = match item {
            Item::Const(item) => Some(&item.ident),
            Item::Enum(item) => Some(&item.ident),
            Item::Fn(item) => Some(&item.sig.ident),
            Item::Static(item) => Some(&item.ident),
            Item::Struct(item) => Some(&item.ident),
            Item::Trait(item) => Some(&item.ident),
            Item::Type(item) => Some(&item.ident),
            Item::Union(item) => Some(&item.ident),
            _ => None,
        };
        if let Some(name) = name {
            let line = name.span().start().line;
            self.scope().items.insert(name.to_string(), line);
        }
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.scope().modules.insert(item.ident.to_string());
        if item.content.is_some() {
            let outside = self.in_test;
            self.in_test |= item.attrs.iter().any(is_cfg_test);
            self.module.push(item.ident.to_string());
            visit::visit_item_mod(self, item);
            self.module.pop();
            self.in_test = outside;
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        // A path with `::` in front is another crate's.
        if item.leading_colon.is_none() {
            let is_public = !matches!(item.vis, Visibility::Inherited);
            self.read_use(&item.tree, Vec::new(), is_public);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let (None, Type::Path(of)) = (&item.trait_, &*item.self_ty) {
            self.mention(
                Kind::Impl,
                names(&of.path),
                item.impl_token.span.start().line,
            );
        }
        visit::visit_item_impl(self, item);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let (None, Some(first)) = (&path.leading_colon, path.segments.first()) {
            let line = first.ident.span().start().line;
            self.mention(Kind::Inline, names(path), line);
        }
        visit::visit_path(self, path);
    }

    /// `pub(in PATH)` imports nothing.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    /// In the body of a macro, whatever looks like a path counts as one.
    fn visit_token_stream(&mut self, tokens: &'ast TokenStream) {
        self.read_tokens(tokens.clone(), &[]);
    }
}

fn names(path: &syn::Path) -> Vec<String> {
    let segments = path.segments.iter();
    segments.map(|segment| segment.ident.to_string()).collect()
}

fn is_cfg_test(attribute: &Attribute) -> bool {
    let word = attribute.parse_args::<Ident>();
    attribute.path().is_ident("cfg") && word.is_ok_and(|word| word == "test")
}

/// Returns the tokens after `::`, if they begin with that.
fn after_colons(tokens: &[TokenTree]) -> Option<&[TokenTree]> {
    match tokens {
        [TokenTree::Punct(first), TokenTree::Punct(second), rest @ ..] => {
            let is_one = first.spacing() == Spacing::Joint;
            (is_one && first.as_char() == ':' && second.as_char() == ':').then_some(rest)
        }
        _ => None,
    }
}

/// Returns the lines with the keyword `unsafe`, bodies of macros included.
pub fn unsafe_lines(tokens: TokenStream) -> Vec<usize> {
    let lines = |token| match token {
        TokenTree::Ident(word) if word == "unsafe" => vec![word.span().start().line],
        TokenTree::Group(group) => unsafe_lines(group.stream()),
        _ => Vec::new(),
    };
    tokens.into_iter().flat_map(lines).collect()
}
