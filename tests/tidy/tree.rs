//! The tree as read: files, parsed sources, and what `mod` declarations reach. It must never know a rule.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::ops::RangeInclusive;
use std::path::Path;
use std::str::FromStr;

use proc_macro2::TokenStream;
use syn::visit::Visit;

use crate::syntax::{Modules, PathUse, Paths, Tables, TestItems};

/// One breach of a rule.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) rule: &'static str,
    pub(crate) file: String,
    pub(crate) line: usize,
    /// What an exception has to name.
    pub(crate) place: String,
    pub(crate) detail: String,
}

impl Finding {
    pub(crate) fn new(rule: &'static str, file: &str, line: usize, detail: String) -> Self {
        Self { rule, file: file.into(), line, place: file.into(), detail }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: [{}] {}", self.file, self.line, self.rule, self.detail)
    }
}

/// A parsed Rust file.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) syntax: syn::File,
    pub(crate) uses: Vec<PathUse>,
    /// Lines under `#[cfg(test)]`.
    test_lines: Vec<RangeInclusive<usize>>,
}

impl Source {
    fn parse(path: &str, text: &str) -> Result<Self, Finding> {
        let refuse = |line, why: String| Finding::new("parse", path, line, why);
        let syntax =
            syn::parse_file(text).map_err(|e| refuse(e.span().start().line, e.to_string()))?;
        let tokens = TokenStream::from_str(text).map_err(|e| refuse(1, e.to_string()))?;
        let mut paths = Paths::default();
        paths.collect(tokens);
        let mut items = TestItems::default();
        items.visit_file(&syntax);
        Ok(Self {
            path: path.into(),
            text: text.into(),
            syntax,
            uses: paths.found,
            test_lines: items.lines,
        })
    }

    pub(crate) fn is_test_line(&self, line: usize) -> bool {
        self.test_lines.iter().any(|range| range.contains(&line))
    }

    pub(crate) fn production_uses(&self) -> impl Iterator<Item = &PathUse> {
        self.uses.iter().filter(|used| !self.is_test_line(used.line))
    }

    /// Production lines, each table counted as one.
    pub(crate) fn production_lines(&self) -> usize {
        let mut tables = Tables::default();
        tables.visit_file(&self.syntax);
        let counts = |line: &usize| !self.is_test_line(*line) && !tables.lines.contains(line);
        (1..=self.text.lines().count()).filter(counts).count()
    }

    /// The module path within its crate: `src/replica/write.rs` is `[replica, write]`.
    pub(crate) fn module(&self) -> Vec<String> {
        let inside = self.path.split_once("src/").map_or(self.path.as_str(), |(_, rest)| rest);
        let mut parts: Vec<String> =
            inside.trim_end_matches(".rs").split('/').map(String::from).collect();
        if parts.last().is_some_and(|last| last == "mod") {
            parts.pop();
        }
        parts
    }

    /// The top-level place it belongs to: `replica`.
    pub(crate) fn top_level(&self) -> String {
        self.module().swap_remove(0)
    }

    pub(crate) fn finding(&self, rule: &'static str, line: usize, detail: String) -> Finding {
        Finding::new(rule, &self.path, line, detail)
    }
}

/// Everything the rules look at.
pub(crate) struct Tree {
    /// Every file by its path from the root; the text is empty where it is not UTF-8.
    pub(crate) files: BTreeMap<String, String>,
    pub(crate) sources: Vec<Source>,
    pub(crate) production: BTreeSet<String>,
    pub(crate) reached: BTreeSet<String>,
    /// Files that could not be read as Rust.
    pub(crate) broken: Vec<Finding>,
}

impl Tree {
    pub(crate) fn new(files: BTreeMap<String, String>) -> Self {
        let (mut sources, mut broken) = (Vec::new(), Vec::new());
        for (path, text) in files.iter().filter(|(path, _)| path.ends_with(".rs")) {
            match Source::parse(path, text) {
                Ok(source) => sources.push(source),
                Err(finding) => broken.push(finding),
            }
        }
        let (production, reached) = (BTreeSet::new(), BTreeSet::new());
        let mut tree = Self { files, sources, production, reached, broken };
        let roots: Vec<String> = tree.files.keys().filter(|path| is_root(path)).cloned().collect();
        for root in roots {
            let production = root.starts_with("src/") || root.starts_with("nbd/src/");
            tree.reach(&root, production);
        }
        tree
    }

    /// The tree that this test was compiled in.
    pub(crate) fn of_repository() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = BTreeMap::new();
        for folder in ["src", "nbd", "tests", "bench", "scripts"] {
            read_folder(root, &root.join(folder), &mut files);
        }
        Self::new(files)
    }

    pub(crate) fn production_sources(&self) -> impl Iterator<Item = &Source> {
        self.sources.iter().filter(|source| self.production.contains(&source.path))
    }

    /// Walks the `mod` declarations from `path` down.
    fn reach(&mut self, path: &str, production: bool) {
        if !self.files.contains_key(path) {
            return;
        }
        let new = self.reached.insert(path.into());
        let promoted = production && self.production.insert(path.into());
        let source = self.sources.iter().find(|source| source.path == path);
        let Some(source) = source.filter(|_| new || promoted) else {
            return;
        };
        let beside = path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
        let mut modules =
            Modules { found: Vec::new(), folder: module_folder(path), beside, test: !production };
        modules.visit_file(&source.syntax);
        for (candidates, test) in modules.found {
            for candidate in candidates {
                self.reach(&candidate, !test);
            }
        }
    }
}

fn read_folder(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries {
        let entry = entry.expect("a readable folder");
        let (path, name) = (entry.path(), entry.file_name());
        if name == "target" || name.to_string_lossy().starts_with('.') {
            continue;
        }
        if path.is_dir() {
            read_folder(root, &path, files);
            continue;
        }
        let relative = path.strip_prefix(root).expect("below the root").to_string_lossy().into();
        let bytes = fs::read(&path).expect("a readable file");
        files.insert(relative, String::from_utf8(bytes).unwrap_or_default());
    }
}

/// Files that cargo compiles by themselves.
fn is_root(path: &str) -> bool {
    if ["src/lib.rs", "src/main.rs", "nbd/src/lib.rs"].contains(&path) {
        return true;
    }
    let folders = ["tests/", "bench/", "examples/", "nbd/tests/", "nbd/benches/", "nbd/examples/"];
    let Some(inside) = folders.iter().find_map(|folder| path.strip_prefix(folder)) else {
        return false;
    };
    match inside.split('/').collect::<Vec<_>>()[..] {
        [file] => file.ends_with(".rs"),
        [_, file] => file == "main.rs",
        _ => false,
    }
}

/// Where the modules that a file declares are looked for.
fn module_folder(path: &str) -> String {
    let (folder, file) = path.rsplit_once('/').unwrap_or(("", path));
    let own = is_root(path) || file == "mod.rs";
    if own { folder.into() } else { path.trim_end_matches(".rs").into() }
}
