//! The repository's own rules, kept as a test: size of functions and files, who may import whom, what the
//! pure parts must never touch, where `unsafe` may stand, names, leftovers and dead files.
//!
//! How it counts:
//! - *Production* is what a `mod` chain reaches from `src/lib.rs`, `src/main.rs` or `nbd/src/lib.rs` without
//!   passing `#[cfg(test)]`; items under `#[cfg(test)]` are left out of it.
//! - A *function* runs from its `fn` line to its closing brace. Where it ends in a `match` whose every arm
//!   stands on one line (a dispatch), those arms do not count. Tables do not count either.
//! - A *file* is its production lines, comments and blanks included. A *table* (a `const` or `static` whose
//!   value is an array) counts as one line.
//! - *Parameters* include `self`, as clippy's `too-many-arguments-threshold` does; trait methods count too.
//! - A *percentile* is the nearest rank.
//! - Paths are read from tokens, not from `use` items alone, so one written out in a body or inside a macro
//!   is seen as well. Comments and strings are not code.
//!
//! It must never judge by a figure that depends on time or on the machine. Each rule is shown to catch
//! planted breaches (`tidy/plants.txt`, `tidy/proof.rs`), and a rule without one fails.

#[path = "tidy/proof.rs"]
mod proof;
#[path = "tidy/rules.rs"]
mod rules;
#[path = "tidy/syntax.rs"]
mod syntax;
#[path = "tidy/tree.rs"]
mod tree;

use rules::{FILE_LINES_P95, FUNCTION_LINES_P95, RULES, all_functions, percentile};
use tree::{Finding, Source, Tree};

/// A breach that is better than its cure. `place` is `file` or `file::function`.
#[derive(Clone, Copy)]
struct Exception {
    rule: &'static str,
    place: &'static str,
    reason: &'static str,
}

/// More would mean that the rule is wrong.
const EXCEPTIONS_MAX: usize = 5;

const SIZE_RULES: &[&str] = &["function-length", "file-length", "parameters"];
/// Exceptions to the size bars.
const SIZE_EXCEPTIONS: &[Exception] = &[];

const LEFTOVER_RULES: &[&str] = &["leftover", "sleep"];
/// Leftovers and sleeps that stand on purpose.
const LEFTOVER_EXCEPTIONS: &[Exception] = &[
    Exception {
        rule: "sleep",
        place: "src/store/open.rs",
        reason: "the kernel announces nowhere that a lock is free; start-up may poll for it",
    },
    Exception {
        rule: "sleep",
        place: "src/node/door.rs",
        reason: "after a failed accept there is no event to wait for, and an error must not spin",
    },
];

fn findings(tree: &Tree) -> Vec<Finding> {
    let mut out = Vec::new();
    for (_, rule) in RULES {
        rule(tree, &mut out);
    }
    out.sort_by(|a, b| (&a.file, a.line, a.rule).cmp(&(&b.file, b.line, b.rule)));
    out
}

/// Takes out what the list excuses, and adds what is wrong with the list itself.
fn excuse(findings: Vec<Finding>, list: &[Exception], rules: &[&str]) -> Vec<Finding> {
    let excuses = |exception: &Exception, finding: &Finding| {
        exception.rule == finding.rule
            && exception.place == finding.place
            && rules.contains(&finding.rule)
    };
    let complain = |exception: &Exception, detail: &str| {
        let detail = format!("[{}] {}: {detail}", exception.rule, exception.place);
        Finding::new("exception", "tests/tidy.rs", 1, detail)
    };
    let mut left: Vec<Finding> = Vec::new();
    for exception in list {
        if !findings.iter().any(|finding| excuses(exception, finding)) {
            left.push(complain(exception, "excuses nothing; take it out"));
        }
        if exception.reason.split_whitespace().count() < 5 {
            left.push(complain(exception, "has no reason worth the name"));
        }
    }
    if list.len() > EXCEPTIONS_MAX {
        let detail = format!("{} exceptions, at most {EXCEPTIONS_MAX}", list.len());
        left.push(complain(&list[0], &detail));
    }
    let excused = |finding: &Finding| list.iter().any(|exception| excuses(exception, finding));
    left.extend(findings.into_iter().filter(|finding| !excused(finding)));
    left
}

fn print_figures(tree: &Tree) {
    let row = |what: &str, figures: Vec<usize>, bar: usize, longest: String| {
        let (count, median) = (figures.len(), percentile(figures.clone(), 50));
        let p95 = percentile(figures, 95);
        println!(
            "tidy: {count} {what}: median {median}, p95 {p95} (at most {bar}), longest {longest}"
        );
    };
    let functions = all_functions(tree);
    if let Some((source, longest)) = functions.iter().max_by_key(|(_, function)| function.lines) {
        let place = format!("{}:{} {}", source.path, longest.line, longest.name);
        let lines = functions.iter().map(|(_, function)| function.lines).collect();
        row("functions", lines, FUNCTION_LINES_P95, format!("{} ({place})", longest.lines));
    }
    let files: Vec<&Source> = tree.production_sources().collect();
    if let Some(longest) = files.iter().max_by_key(|source| source.production_lines()) {
        let lines = files.iter().map(|source| source.production_lines()).collect();
        let longest = format!("{} ({})", longest.production_lines(), longest.path);
        row("files", lines, FILE_LINES_P95, longest);
    }
}

#[test]
fn the_repository_is_tidy() {
    let tree = Tree::of_repository();
    assert!(!tree.production.is_empty(), "no production file was found: the walk is broken");
    print_figures(&tree);
    let left = excuse(findings(&tree), SIZE_EXCEPTIONS, SIZE_RULES);
    let left = excuse(left, LEFTOVER_EXCEPTIONS, LEFTOVER_RULES);
    let report: Vec<String> = left.iter().map(Finding::to_string).collect();
    assert!(left.is_empty(), "{} findings\n{}\n", left.len(), report.join("\n"));
}
