//! The rules, each a function from the tree to its breaches, and what they allow. They must never be
//! loosened for one file: that is what the lists of exceptions are for.

use syn::visit::Visit;

use crate::syntax::{Function, Functions, IgnoredTests, PathUse, literal};
use crate::tree::{Finding, Source, Tree};

pub(crate) const FUNCTION_LINES_P95: usize = 40;
pub(crate) const FUNCTION_LINES_MAX: usize = 70;
pub(crate) const FILE_LINES_P95: usize = 500;
pub(crate) const FILE_LINES_MAX: usize = 800;
pub(crate) const PARAMETERS_MAX: usize = 5;
pub(crate) const COLUMNS_MAX: usize = 140;

pub(crate) type Rule = fn(&Tree, &mut Vec<Finding>);

pub(crate) const RULES: &[(&str, Rule)] = &[
    ("parse", |tree, out| out.extend(tree.broken.iter().cloned())),
    ("function-length", function_length),
    ("function-length-p95", function_length_p95),
    ("file-length", file_length),
    ("file-length-p95", file_length_p95),
    ("parameters", parameters),
    ("module-doc", module_doc),
    ("place", place),
    ("import", import),
    ("never-names", never_names),
    ("unsafe", unsafe_places),
    ("name", banned_names),
    ("leftover", leftovers),
    ("sleep", sleeps),
    ("columns", columns),
    ("dead-file", dead_files),
];

// Lists of names are written with spaces between, to be read in one line.

/// Top-level places in import order: each may use those of earlier rows, never one of its own row.
const LAYERS: &[&str] = &[
    "units",
    "limits",
    "plant",
    "telemetry",
    "format buffer",
    "replica judge",
    "ring tls",
    "store",
    "link export arbiter control services client",
    "config",
    "node",
    "manual",
    "cli",
    "main",
];

/// Imports that the order would allow and a place's "must never" forbids.
const NEVER_IMPORTS: &[(&str, &str)] = &[
    ("ring", "format replica judge"),
    ("store", "judge"),
    ("export", "judge"),
    ("services", "judge"),
    ("client", "replica judge"),
];

/// The places that may speak NBD.
const NBD_USERS: &str = "export client node cli";

/// Places whose `//!` need not name what they must never do, because the layout names nothing.
const NOTHING_FORBIDDEN: &str = "lib main units limits telemetry config manual";

/// No socket, file, clock, thread or random source; the standard hash tables are seeded at random.
const OUTSIDE_WORLD: &str = "std::net std::fs std::thread std::process std::env std::os std::io \
     Instant::now SystemTime rand getrandom RandomState HashMap HashSet \
     tokio nix libc socket2 io_uring";
const INPUT_OUTPUT: &str = "std::net std::fs std::thread std::process std::os std::io \
     tokio nix libc socket2 io_uring";
const SOCKET_OR_FILE: &str = "std::net std::fs std::thread std::process std::os \
     tokio nix libc socket2 twinblk";

/// What a place must never name, and why.
const NEVER_NAMES: &[(&str, &str, &str)] = &[
    ("src/replica", OUTSIDE_WORLD, "the core is deterministic and sees no outside world"),
    ("src/judge", OUTSIDE_WORLD, "the judge is deterministic and sees no outside world"),
    ("src/format", INPUT_OUTPUT, "formats turn values into bytes and back, and do no I/O"),
    ("nbd/src", SOCKET_OR_FILE, "the protocol is sans-I/O and knows nothing of its user"),
];

/// The only places where `unsafe` may stand.
const UNSAFE_PLACES: &str = "src/ring src/buffer";

/// Words that name a kind of code instead of a place.
const BANNED_WORDS: &str = "util utils common types manager managers handler handlers \
     helper helpers core misc";

/// Marks of what is not finished. The words are cut in two, so that this file does not breach its rule.
const UNFINISHED: &[&str] = &[concat!("FIX", "ME"), concat!("XX", "X")];
const UNFINISHED_MACROS: &str = "todo! unimplemented! dbg!";
/// Cut in two for the same reason.
const SLEEPS: &[&str] = &[concat!("thread::", "sleep"), concat!("time::", "sleep")];

fn listed(list: &str, name: &str) -> bool {
    list.split(' ').any(|listed| listed == name)
}

fn commas(list: &str) -> String {
    list.replace(' ', ", ")
}

/// Whether `path` is the place itself (`src/buffer.rs`) or below it.
fn lies_in(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
}

pub(crate) fn percentile(mut values: Vec<usize>, percent: usize) -> usize {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied().unwrap_or(0)
}

pub(crate) fn all_functions(tree: &Tree) -> Vec<(&Source, Function)> {
    let mut all = Vec::new();
    for source in tree.production_sources() {
        let mut functions = Functions::default();
        functions.visit_file(&source.syntax);
        let production = functions.found.into_iter().filter(|f| !source.is_test_line(f.line));
        all.extend(production.map(|function| (source, function)));
    }
    all
}

fn about(rule: &'static str, source: &Source, function: &Function, detail: &str) -> Finding {
    let mut finding = source.finding(rule, function.line, format!("`{}` {detail}", function.name));
    finding.place = format!("{}::{}", source.path, function.name);
    finding
}

fn function_length(tree: &Tree, out: &mut Vec<Finding>) {
    for (source, function) in all_functions(tree) {
        if function.lines > FUNCTION_LINES_MAX {
            let detail = format!("has {} lines, at most {FUNCTION_LINES_MAX}", function.lines);
            out.push(about("function-length", source, &function, &detail));
        }
    }
}

fn function_length_p95(tree: &Tree, out: &mut Vec<Finding>) {
    let functions = all_functions(tree);
    let figure = percentile(functions.iter().map(|(_, function)| function.lines).collect(), 95);
    let longest = functions.iter().max_by_key(|(_, function)| function.lines);
    if let Some((source, longest)) = longest.filter(|_| figure > FUNCTION_LINES_P95) {
        let detail = format!(
            "is the longest with {} lines; 95 % of functions must fit {FUNCTION_LINES_P95}, now {figure}",
            longest.lines
        );
        out.push(about("function-length-p95", source, longest, &detail));
    }
}

fn file_length(tree: &Tree, out: &mut Vec<Finding>) {
    for source in tree.production_sources() {
        let lines = source.production_lines();
        if lines > FILE_LINES_MAX {
            let detail = format!("{lines} production lines, at most {FILE_LINES_MAX}");
            out.push(source.finding("file-length", 1, detail));
        }
    }
}

fn file_length_p95(tree: &Tree, out: &mut Vec<Finding>) {
    let figure = percentile(tree.production_sources().map(Source::production_lines).collect(), 95);
    let longest = tree.production_sources().max_by_key(|source| source.production_lines());
    if let Some(longest) = longest.filter(|_| figure > FILE_LINES_P95) {
        let detail = format!(
            "the longest with {} lines; 95 % of files must fit {FILE_LINES_P95}, now {figure}",
            longest.production_lines()
        );
        out.push(longest.finding("file-length-p95", 1, detail));
    }
}

fn parameters(tree: &Tree, out: &mut Vec<Finding>) {
    for (source, function) in all_functions(tree) {
        if function.parameters > PARAMETERS_MAX {
            let detail =
                format!("takes {} parameters, at most {PARAMETERS_MAX}", function.parameters);
            out.push(about("parameters", source, &function, &detail));
        }
    }
}

/// Every file has a `//!`; that of a top-level place also says what the place must never do.
fn module_doc(tree: &Tree, out: &mut Vec<Finding>) {
    for source in tree.production_sources() {
        let prose = module_prose(source);
        let top_level = source.path.starts_with("src/") && source.module().len() == 1;
        let bound = top_level && !listed(NOTHING_FORBIDDEN, &source.top_level());
        if prose.trim().is_empty() {
            let detail = "no `//!` saying what this module owns".into();
            out.push(source.finding("module-doc", 1, detail));
        } else if bound && !prose.to_lowercase().contains("never") {
            let detail = "the `//!` does not say what this place must never do".into();
            out.push(source.finding("module-doc", 1, detail));
        }
    }
}

fn module_prose(source: &Source) -> String {
    let lines = source.syntax.attrs.iter().filter_map(|attribute| match &attribute.meta {
        // A chapter that is included is prose too; its text is not seen here.
        syn::Meta::NameValue(pair) if pair.path.is_ident("doc") => {
            Some(literal(&pair.value).unwrap_or_else(|| "included".into()))
        }
        _ => None,
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn rank(name: &str) -> Option<usize> {
    LAYERS.iter().position(|row| listed(row, name))
}

/// Every top-level module is one of the layout's places.
fn place(tree: &Tree, out: &mut Vec<Finding>) {
    for source in tree.production_sources().filter(|source| source.path.starts_with("src/")) {
        let top = source.top_level();
        if top != "lib" && rank(&top).is_none() {
            out.push(source.finding("place", 1, format!("`{top}` is no place of the layout")));
        }
    }
}

/// Which top-level place a path means, if it climbs to the root of the crate.
fn target(source: &Source, used: &PathUse) -> Option<String> {
    let depth = source.module().len() + used.inner.len();
    let climbed = used.segments.iter().take_while(|segment| *segment == "super").count();
    match used.segments.first()?.as_str() {
        "crate" | "twinblk" => used.segments.get(1).cloned(),
        "super" if climbed == depth => used.segments.get(climbed).cloned(),
        _ => None,
    }
}

fn import(tree: &Tree, out: &mut Vec<Finding>) {
    for source in tree.production_sources().filter(|source| source.path.starts_with("src/")) {
        let own = source.top_level();
        for used in source.production_uses() {
            if let Some(why) = import_breach(source, &own, used) {
                let detail = format!("`{}`: {why}", used.segments.join("::"));
                out.push(source.finding("import", used.line, detail));
            }
        }
    }
}

fn import_breach(source: &Source, own: &str, used: &PathUse) -> Option<String> {
    // `lib.rs` declares everybody, and is nobody's place.
    let own_rank = rank(own)?;
    if used.starts_with("twinblk_nbd") && !listed(NBD_USERS, own) {
        return Some(format!("only {} may speak NBD", commas(NBD_USERS)));
    }
    let wanted = target(source, used).filter(|wanted| wanted != own)?;
    if NEVER_IMPORTS.iter().any(|(place, never)| *place == own && listed(never, &wanted)) {
        return Some(format!("{own} must never know of {wanted}"));
    }
    match rank(&wanted) {
        // Macros stand at the root of the crate; everything else is named by its place.
        None if wanted.ends_with('!') => None,
        None => Some(format!("`{wanted}` is no place of the layout; name things by their place")),
        Some(rank) if rank == own_rank => Some(format!("{own} and {wanted} stand side by side")),
        Some(rank) if rank > own_rank => Some(format!("{own} comes before {wanted}")),
        Some(_) => None,
    }
}

fn never_names(tree: &Tree, out: &mut Vec<Finding>) {
    for source in tree.production_sources() {
        let bound = NEVER_NAMES.iter().filter(|(place, ..)| lies_in(&source.path, place));
        for (place, names, why) in bound {
            for used in source.production_uses() {
                if let Some(name) = names.split_whitespace().find(|name| used.contains(name)) {
                    let detail = format!("`{name}` in {place}: {why}");
                    out.push(source.finding("never-names", used.line, detail));
                }
            }
        }
    }
}

fn unsafe_places(tree: &Tree, out: &mut Vec<Finding>) {
    for source in tree.production_sources() {
        if UNSAFE_PLACES.split(' ').any(|place| lies_in(&source.path, place)) {
            continue;
        }
        for used in source.production_uses().filter(|used| used.starts_with("unsafe")) {
            let detail = format!("`unsafe` may stand only in {}", commas(UNSAFE_PLACES));
            out.push(source.finding("unsafe", used.line, detail));
        }
    }
}

fn banned_names(tree: &Tree, out: &mut Vec<Finding>) {
    for path in tree.files.keys() {
        let stems: Vec<&str> =
            path.split('/').map(|part| part.split('.').next().unwrap_or(part)).collect();
        let mut refuse = |detail: String| out.push(Finding::new("name", path, 1, detail));
        for word in stems.iter().flat_map(|stem| stem.split(['_', '-'])) {
            if listed(BANNED_WORDS, word) {
                refuse(format!(
                    "`{word}` names a kind of code, not a place on the path of a write"
                ));
            }
        }
        if path.starts_with("src/") && stems.contains(&"nbd") {
            refuse("the NBD protocol is a crate of its own".into());
        }
        let stutters =
            |pair: &[&str]| pair[1] == pair[0] || pair[1].starts_with(&format!("{}_", pair[0]));
        if path.ends_with(".rs") && stems.windows(2).any(stutters) {
            refuse("the file repeats its folder's name".into());
        }
    }
}

/// Nothing unfinished stands anywhere, tests and benches included.
fn leftovers(tree: &Tree, out: &mut Vec<Finding>) {
    for source in &tree.sources {
        for (number, line) in source.text.lines().enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric());
            if let Some(word) = words.find(|word| UNFINISHED.contains(word)) {
                out.push(source.finding("leftover", number + 1, format!("`{word}`")));
            }
        }
        for used in &source.uses {
            let last = used.segments.last();
            if let Some(name) = last.filter(|last| listed(UNFINISHED_MACROS, last)) {
                out.push(source.finding("leftover", used.line, format!("`{name}`")));
            }
        }
        let mut ignored = IgnoredTests::default();
        ignored.visit_file(&source.syntax);
        for line in ignored.lines {
            out.push(source.finding("leftover", line, "a test that is not run".into()));
        }
    }
}

/// Production code waits for events, not for time to pass.
fn sleeps(tree: &Tree, out: &mut Vec<Finding>) {
    for source in tree.production_sources() {
        for used in source.production_uses() {
            if SLEEPS.iter().any(|sleep| used.contains(sleep)) {
                let detail = "wait for an event, or for a timer of the loop".into();
                out.push(source.finding("sleep", used.line, detail));
            }
        }
    }
}

fn columns(tree: &Tree, out: &mut Vec<Finding>) {
    let script = |path: &str| path.starts_with("scripts/") && !path.ends_with(".json");
    let measured = tree.files.iter().filter(|(path, _)| path.ends_with(".rs") || script(path));
    for (path, text) in measured {
        for (number, line) in text.lines().enumerate() {
            let width = line.chars().count();
            if width > COLUMNS_MAX {
                let detail = format!("{width} columns, at most {COLUMNS_MAX}");
                out.push(Finding::new("columns", path, number + 1, detail));
            }
        }
    }
}

/// Every Rust file is reached by a `mod`, and every other file below `src` is included by one.
fn dead_files(tree: &Tree, out: &mut Vec<Finding>) {
    for path in tree.files.keys() {
        let file = path.rsplit('/').next().unwrap_or(path);
        let included = |source: &Source| {
            source.text.contains("include_") && source.text.contains(&format!("{file}\""))
        };
        let dead = if path.ends_with(".rs") {
            // The fuzz targets are a workspace of their own, which lists them.
            !tree.reached.contains(path) && !path.starts_with("tests/fuzz/")
        } else {
            path.starts_with("src/") && !tree.production_sources().any(included)
        };
        if dead {
            let detail = "nothing declares or includes this file".into();
            out.push(Finding::new("dead-file", path, 1, detail));
        }
    }
}
