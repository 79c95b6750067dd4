//! What the rules ask of Rust syntax: items for tests only, tables, functions, `mod` declarations, and every
//! path in the tokens. It must never know a rule.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

pub(crate) fn lines_of(spanned: &impl Spanned) -> RangeInclusive<usize> {
    let span = spanned.span();
    span.start().line..=span.end().line
}

/// The text of a string literal.
pub(crate) fn literal(value: &syn::Expr) -> Option<String> {
    match value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    }
}

fn is_test_only(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else {
            return false;
        };
        let condition = list.tokens.to_string().replace(' ', "");
        attribute.path().is_ident("cfg")
            && (condition == "test" || condition.starts_with("all(test,"))
    })
}

fn attributes_of(item: &syn::Item) -> &[syn::Attribute] {
    match item {
        syn::Item::Const(item) => &item.attrs,
        syn::Item::Enum(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Macro(item) => &item.attrs,
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Static(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        syn::Item::Trait(item) => &item.attrs,
        syn::Item::Type(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Lines of the items under `#[cfg(test)]`.
#[derive(Default)]
pub(crate) struct TestItems {
    pub(crate) lines: Vec<RangeInclusive<usize>>,
}

impl<'ast> Visit<'ast> for TestItems {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if is_test_only(attributes_of(item)) {
            self.lines.push(lines_of(item));
        } else {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if is_test_only(&item.attrs) {
            self.lines.push(lines_of(item));
        }
    }
}

/// Lines of array literals that are the value of a `const` or `static`, but for the first of each.
#[derive(Default)]
pub(crate) struct Tables {
    pub(crate) lines: BTreeSet<usize>,
}

impl Tables {
    fn note(&mut self, value: &syn::Expr) {
        let value =
            if let syn::Expr::Reference(reference) = value { &reference.expr } else { value };
        if let syn::Expr::Array(array) = value {
            self.lines.extend(lines_of(array).skip(1));
        }
    }
}

impl<'ast> Visit<'ast> for Tables {
    fn visit_item_const(&mut self, item: &'ast syn::ItemConst) {
        self.note(&item.expr);
    }

    fn visit_item_static(&mut self, item: &'ast syn::ItemStatic) {
        self.note(&item.expr);
    }

    fn visit_impl_item_const(&mut self, item: &'ast syn::ImplItemConst) {
        self.note(&item.expr);
    }
}

/// A function, method, or trait method.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) name: String,
    pub(crate) line: usize,
    /// Lines without a dispatch's arms and without tables.
    pub(crate) lines: usize,
    pub(crate) parameters: usize,
}

#[derive(Default)]
pub(crate) struct Functions {
    pub(crate) found: Vec<Function>,
}

impl Functions {
    fn note(&mut self, signature: &syn::Signature, body: Option<&syn::Block>) {
        let line = signature.fn_token.span().start().line;
        let lines = body.map_or(1, |body| {
            let mut free = Tables { lines: dispatch_lines(body) };
            free.visit_block(body);
            (body.span().end().line + 1 - line) - free.lines.len()
        });
        let name = signature.ident.to_string();
        self.found.push(Function { name, line, lines, parameters: signature.inputs.len() });
    }
}

impl<'ast> Visit<'ast> for Functions {
    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.note(&item.sig, Some(&item.block));
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.note(&item.sig, Some(&item.block));
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        self.note(&item.sig, item.default.as_ref());
        visit::visit_trait_item_fn(self, item);
    }
}

/// The arms of the `match` a body ends in, if each of them stands on one line.
fn dispatch_lines(body: &syn::Block) -> BTreeSet<usize> {
    let Some(syn::Stmt::Expr(syn::Expr::Match(dispatch), _)) = body.stmts.last() else {
        return BTreeSet::new();
    };
    let arms: Vec<_> = dispatch.arms.iter().map(lines_of).collect();
    if arms.iter().any(|lines| lines.start() != lines.end()) {
        return BTreeSet::new();
    }
    arms.into_iter().map(|lines| *lines.start()).collect()
}

/// Tests that are declared and not run.
#[derive(Default)]
pub(crate) struct IgnoredTests {
    pub(crate) lines: Vec<usize>,
}

impl<'ast> Visit<'ast> for IgnoredTests {
    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if attribute.path().is_ident("ignore") {
            self.lines.push(attribute.span().start().line);
        }
    }
}

/// `mod name;` declarations: the files each may mean, and whether it is for tests only.
pub(crate) struct Modules {
    pub(crate) found: Vec<(Vec<String>, bool)>,
    /// Where a module is looked for by its name.
    pub(crate) folder: String,
    /// What a `#[path]` is relative to.
    pub(crate) beside: String,
    pub(crate) test: bool,
}

impl<'ast> Visit<'ast> for Modules {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let test = self.test || is_test_only(&item.attrs);
        let below = format!("{}/{}", self.folder, item.ident);
        if item.content.is_some() {
            let mut inner = Self { found: Vec::new(), folder: below.clone(), beside: below, test };
            visit::visit_item_mod(&mut inner, item);
            self.found.append(&mut inner.found);
            return;
        }
        let given = item.attrs.iter().find_map(|attribute| match &attribute.meta {
            syn::Meta::NameValue(pair) if pair.path.is_ident("path") => literal(&pair.value),
            _ => None,
        });
        let candidates = match given {
            Some(path) => vec![without_dots(&format!("{}/{path}", self.beside))],
            None => vec![format!("{below}.rs"), format!("{below}/mod.rs")],
        };
        self.found.push((candidates, test));
    }
}

/// `a/b/../c` is `a/c`.
fn without_dots(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            ".." => drop(parts.pop()),
            "." => {}
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A path as written: `crate::format::Frame`, `unsafe`, `todo!`.
#[derive(Debug)]
pub(crate) struct PathUse {
    pub(crate) segments: Vec<String>,
    /// Inline modules of the file that enclose it.
    pub(crate) inner: Vec<String>,
    pub(crate) line: usize,
}

impl PathUse {
    /// Whether `wanted` (`std::fs`) stands anywhere in the path.
    pub(crate) fn contains(&self, wanted: &str) -> bool {
        let wanted: Vec<&str> = wanted.split("::").collect();
        self.segments.windows(wanted.len()).any(|part| part.iter().eq(wanted.iter()))
    }

    pub(crate) fn starts_with(&self, first: &str) -> bool {
        self.segments.first().is_some_and(|segment| segment == first)
    }
}

/// Every path in the tokens: `use` groups written out, macro calls with their `!`.
#[derive(Default)]
pub(crate) struct Paths {
    pub(crate) found: Vec<PathUse>,
    inner: Vec<String>,
}

impl Paths {
    pub(crate) fn collect(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while at < tokens.len() {
            at = match &tokens[at..] {
                [TokenTree::Ident(word), TokenTree::Ident(name), TokenTree::Group(body), ..]
                    if word == "mod" =>
                {
                    self.inner.push(name.to_string());
                    self.collect(body.stream());
                    self.inner.pop();
                    at + 3
                }
                [TokenTree::Ident(_), ..] => self.read(&tokens, at, &[]),
                [TokenTree::Group(group), ..] => {
                    self.collect(group.stream());
                    at + 1
                }
                _ => at + 1,
            };
        }
    }

    /// Reads one path that begins at `at`, below `prefix`; says where it ends.
    fn read(&mut self, tokens: &[TokenTree], mut at: usize, prefix: &[String]) -> usize {
        let line = tokens[at].span().start().line;
        let mut segments = prefix.to_vec();
        loop {
            match tokens.get(at) {
                Some(TokenTree::Ident(word)) => {
                    let word = word.to_string();
                    // `use a::b::{self}` means `a::b`.
                    if word != "self" || segments.is_empty() {
                        segments.push(word.trim_start_matches("r#").into());
                    }
                    at += 1;
                }
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    self.read_members(group.stream(), &segments);
                    return at + 1;
                }
                _ => break,
            }
            let next_is = |ahead: usize, mark: char| matches!(tokens.get(at + ahead), Some(TokenTree::Punct(p)) if p.as_char() == mark);
            if next_is(0, '!') && matches!(tokens.get(at + 1), Some(TokenTree::Group(_))) {
                segments.last_mut().expect("a word was just read").push('!');
                break;
            }
            if !(next_is(0, ':') && next_is(1, ':')) {
                break;
            }
            at += 2;
        }
        self.found.push(PathUse { segments, inner: self.inner.clone(), line });
        at
    }

    /// Reads the members of a `{…}` that follows `prefix::`.
    fn read_members(&mut self, members: TokenStream, prefix: &[String]) {
        let members: Vec<TokenTree> = members.into_iter().collect();
        let mut at = 0;
        while at < members.len() {
            at = match &members[at] {
                TokenTree::Ident(_) => self.read(&members, at, prefix),
                _ => at + 1,
            };
        }
    }
}
