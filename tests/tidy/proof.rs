//! Proof that each rule catches what it is for, and only that. Breaches of one line or two stand in
//! `plants.txt`; those of quantity are made here.

use std::collections::BTreeMap;

use crate::rules::RULES;
use crate::tree::{Finding, Tree};
use crate::{EXCEPTIONS_MAX, Exception, SIZE_RULES, excuse, findings};

/// A block of `plants.txt`.
struct Plant {
    rule: String,
    file: String,
    text: String,
    line: usize,
}

fn plants() -> Vec<Plant> {
    let mut plants: Vec<Plant> = Vec::new();
    for line in include_str!("plants.txt").lines() {
        if let Some(heading) = line.strip_prefix("== ") {
            let (rule, file) = heading.split_once(' ').expect("a rule and a file");
            let (rule, file) = (rule.into(), file.into());
            plants.push(Plant { rule, file, text: String::new(), line: 1 });
        } else if let Some(plant) = plants.last_mut() {
            if line.ends_with(" //~") {
                plant.line = plant.text.lines().count() + 1;
            }
            plant.text.push_str(line.trim_end_matches(" //~"));
            plant.text.push('\n');
        }
    }
    plants
}

/// A tree of one file; `src/lib.rs` declares it where it is a top-level module.
fn planted(file: &str, text: &str) -> Tree {
    let mut root = "//! A tree.\n".to_owned();
    let top_level = file.strip_prefix("src/").and_then(|rest| rest.strip_suffix(".rs"));
    if let Some(name) = top_level.filter(|name| !name.contains('/')) {
        root.push_str(&format!("mod {name};\n"));
    }
    let files = [("src/lib.rs".to_owned(), root), (file.to_owned(), text.to_owned())];
    Tree::new(BTreeMap::from(files))
}

fn rules_broken(file: &str, text: &str) -> Vec<&'static str> {
    findings(&planted(file, text)).into_iter().map(|finding| finding.rule).collect()
}

const NOTHING: [&str; 0] = [];

#[test]
fn planted_breaches_are_caught() {
    for plant in plants() {
        let seen = findings(&planted(&plant.file, &plant.text));
        let wanted = |finding: &Finding| {
            (finding.rule, &finding.file, finding.line) == (&plant.rule, &plant.file, plant.line)
        };
        let Plant { rule, file, text, line } = &plant;
        if rule == "allowed" {
            assert!(seen.is_empty(), "wrongly caught: {seen:?} in {file}\n{text}");
        } else {
            assert!(seen.iter().any(wanted), "not caught: {rule} {file}:{line}\n{text}\n{seen:?}");
        }
    }
}

#[test]
fn every_rule_has_a_plant() {
    let made_here =
        ["function-length", "function-length-p95", "file-length", "file-length-p95", "columns"];
    let plants = plants();
    for (rule, _) in RULES {
        let listed = plants.iter().any(|plant| plant.rule == *rule);
        assert!(listed != made_here.contains(rule), "{rule}: needs its planted breach, once");
    }
    for plant in &plants {
        let known = plant.rule == "allowed" || RULES.iter().any(|(rule, _)| *rule == plant.rule);
        assert!(known, "plants.txt: no rule is called {}", plant.rule);
    }
}

/// A function of `lines` lines, from `fn` to brace.
fn function_of(lines: usize) -> String {
    format!("fn f() {{\n{}}}\n", "    g();\n".repeat(lines - 2))
}

/// Enough short functions to leave the 95th percentile alone.
fn short_functions() -> String {
    "fn g() {}\n".repeat(30)
}

#[test]
fn long_functions_are_caught() {
    let of = |text: String| rules_broken("src/units.rs", &format!("//! Doc.\n{text}"));
    assert_eq!(of(function_of(40)), NOTHING);
    assert_eq!(of(function_of(41)), ["function-length-p95"]);
    assert_eq!(of(function_of(70)), ["function-length-p95"]);
    assert_eq!(of(function_of(71)), ["function-length", "function-length-p95"]);
    assert_eq!(of(function_of(70) + &short_functions()), NOTHING, "few may be long");
    let method = format!("impl A {{\n{}}}\n{}", function_of(71), short_functions());
    assert_eq!(of(method), ["function-length"]);
    let in_tests = format!("#[cfg(test)]\nmod tests {{\n{}}}\n", function_of(90));
    assert_eq!(of(in_tests), NOTHING, "tests may be long");
}

#[test]
fn dispatch_and_tables_do_not_count() {
    let of = |text: &str| rules_broken("src/units.rs", &format!("//! Doc.\n{text}"));
    let arms = "        A => b(),\n".repeat(100);
    let dispatch = format!("fn f(x: X) {{\n    let y = x;\n    match y {{\n{arms}    }}\n}}\n");
    assert_eq!(of(&dispatch), NOTHING);
    let wide_arm =
        dispatch.replace("match y {\n", "match y {\n        B => {\n            c();\n        }\n");
    assert!(of(&wide_arm).contains(&"function-length"), "an arm of three lines");
    let not_last = dispatch.replace("    }\n}\n", "    }\n    g();\n}\n");
    assert!(of(&not_last).contains(&"function-length"), "not what the body ends in");
    let rows = "    1,\n".repeat(900);
    let table = format!("const T: &[u8] = &[\n{rows}];\n");
    assert_eq!(of(&table), NOTHING);
    assert_eq!(of(&format!("fn f() {{\n    {table}\n}}\n")), NOTHING);
}

#[test]
fn long_files_are_caught() {
    let of = |lines: usize| {
        rules_broken("src/units.rs", &format!("//! Doc.\n{}", "// A line.\n".repeat(lines - 1)))
    };
    assert_eq!(of(500), NOTHING);
    assert_eq!(of(501), ["file-length-p95"]);
    assert_eq!(of(801), ["file-length", "file-length-p95"]);
}

#[test]
fn long_lines_are_caught() {
    let of = |file, width: usize| {
        rules_broken(file, &format!("//! Doc.\n// {}\n", "ü".repeat(width - 3)))
    };
    assert_eq!(of("src/units.rs", 140), NOTHING);
    assert_eq!(of("src/units.rs", 141), ["columns"]);
    assert_eq!(of("tests/a.rs", 141), ["columns"]);
    assert_eq!(of("scripts/demo", 141), ["columns"]);
}

#[test]
fn modules_are_followed() {
    let files = [
        ("src/lib.rs", "//! D.\nmod store;\n"),
        (
            "src/store/mod.rs",
            "//! Never.\nmod disk;\n#[cfg(test)]\nmod tests;\nmod a {\n    mod b;\n}\n",
        ),
        ("src/store/disk.rs", "//! D.\nmod ring;\n#[path = \"odd_name.rs\"]\nmod odd;\n"),
        ("src/store/disk/ring.rs", "//! D.\n"),
        ("src/store/odd_name.rs", "//! D.\n"),
        ("src/store/tests.rs", "use crate::node::Node;\n"),
        ("src/store/a/b.rs", "//! D.\n"),
        ("tests/sim/main.rs", "mod disk;\n"),
        ("tests/sim/disk.rs", ""),
        ("nbd/examples/server.rs", ""),
    ];
    let owned = |(path, text): &(&str, &str)| ((*path).to_owned(), (*text).to_owned());
    let tree = Tree::new(files.iter().map(owned).collect());
    assert!(findings(&tree).is_empty(), "{:?}", findings(&tree));
    let production: Vec<&str> = tree.production.iter().map(String::as_str).collect();
    let expected = [
        "src/lib.rs",
        "src/store/a/b.rs",
        "src/store/disk.rs",
        "src/store/disk/ring.rs",
        "src/store/mod.rs",
        "src/store/odd_name.rs",
    ];
    assert_eq!(production, expected);
}

#[test]
fn exceptions_excuse_and_are_judged() {
    let long = format!("//! Doc.\n{}{}", function_of(71), short_functions());
    let after =
        |list: &[Exception]| excuse(findings(&planted("src/units.rs", &long)), list, SIZE_RULES);
    let says = |list: &[Exception], words: &str| {
        after(list).iter().any(|finding| finding.detail.contains(words))
    };
    let good = Exception {
        rule: "function-length",
        place: "src/units.rs::f",
        reason: "cutting it would pass nine locals around",
    };
    assert_eq!(after(&[]).len(), 1);
    assert_eq!(after(&[good]).len(), 0);
    assert!(says(&[good, Exception { place: "src/units.rs::gone", ..good }], "excuses nothing"));
    assert!(says(&[Exception { reason: "it is long", ..good }], "no reason"));
    assert!(says(&[good; EXCEPTIONS_MAX + 1], "at most"));
    let import = findings(&planted("src/format.rs", "//! Never.\nuse crate::node::Node;\n"));
    let excused = Exception { rule: "import", place: "src/format.rs", ..good };
    assert_eq!(excuse(import, &[excused], SIZE_RULES).len(), 2, "a size list excuses no import");
}
