//! Owns `twinblk config`: what is wrong with the file, before a daemon meets it.

use clap::Subcommand;
use serde::Serialize;

use super::context::{Context, print_json};
use super::exit::{Exit, Failure};
use super::terminal::Terminal;
use crate::config::{self, Config, ConfigErrors, Metadata, Report, Severity};
use crate::control::body::SCHEMA_VERSION;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Check the file, the secret and this node's disks; each mistake with its line and remedy.
    Check,
}

/// The findings, for programs.
#[derive(Debug, Serialize)]
struct Findings {
    schema_version: u32,
    path: String,
    usable: bool,
    problems: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    severity: &'static str,
    /// From 1; null if it is not in the file.
    line: Option<usize>,
    what: String,
    remedy: String,
}

pub(super) fn run(verb: &Verb, context: &Context) -> Result<Exit, Failure> {
    let Verb::Check = verb;
    match config::load(context.config_path()) {
        Ok(config) => report_usable(&config, context),
        Err(ConfigErrors::Mistakes(report)) => {
            let errors = report.errors();
            if context.json() {
                print_json(&findings(&report, Vec::new()))?;
            } else {
                let text = report.render(context.terminal.colour);
                let total = count(errors, "mistake");
                Terminal::print(&format!("{text}\n\n{total} in {}\n", report.path.display()))?;
            }
            Ok(Exit::Failed)
        }
        Err(unreadable) => Err(Failure::new(Exit::Failed, unreadable.to_string())),
    }
}

/// A number of things: `1 node`, `2 nodes`.
fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

fn report_usable(config: &Config, context: &Context) -> Result<Exit, Failure> {
    let here = here(config, context);
    let report = &config.warnings;
    let broken = here.iter().any(|finding| finding.severity == "error");
    if context.json() {
        print_json(&findings(report, here))?;
    } else {
        let mut text = report.render(context.terminal.colour);
        if !text.is_empty() {
            text.push_str("\n\n");
        }
        for Finding { severity, what, remedy, .. } in &here {
            text.push_str(&format!("{severity}: {what}\n"));
            if !remedy.is_empty() {
                text.push_str(&format!("  help: {remedy}\n"));
            }
        }
        if !broken {
            let local = config.local(context.node());
            let local = local.map_or_else(|_| "no node".to_owned(), |it| format!("`{}`", it.name));
            let nodes = count(config.nodes.len(), "node");
            let resources = count(config.resources.len(), "resource");
            text.push_str(&format!("ok: {nodes}, {resources}; this machine is {local}\n"));
        }
        Terminal::print(&text)?;
    }
    Ok(if broken { Exit::Failed } else { Exit::Done })
}

/// What is wrong on this machine rather than in the file.
fn here(config: &Config, context: &Context) -> Vec<Finding> {
    let finding = |severity, what: String, remedy: &str| Finding {
        severity,
        line: None,
        what,
        remedy: remedy.to_owned(),
    };
    let node = match config.local(context.node()) {
        Ok(node) => node,
        Err(unknown) => return vec![finding("warning", unknown.to_string(), "")],
    };
    let mut found = Vec::new();
    if let Err(error) = config.secret() {
        found.push(finding("error", error.to_string(), ""));
    }
    for resource in config.resources_on(node.id) {
        let Some(replica) = resource.mine(node.id) else {
            continue;
        };
        let metadata = match &replica.metadata {
            Metadata::Internal => None,
            Metadata::At(path) => Some(path),
        };
        // A file for metadata is made by `create`.
        let metadata = metadata.filter(|path| path.starts_with("/dev"));
        for path in std::iter::once(&replica.disk).chain(metadata) {
            if let Err(error) = std::fs::metadata(path) {
                let name = &resource.name;
                let what = format!("resource `{name}`: cannot find {}: {error}", path.display());
                found.push(finding("warning", what, "make it before `twinblk create`"));
            }
        }
    }
    found
}

fn findings(report: &Report, here: Vec<Finding>) -> Findings {
    let of_file = report.problems.iter().map(|problem| Finding {
        severity: match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        line: Some(report.line(problem)),
        what: problem.what.clone(),
        remedy: problem.remedy.clone(),
    });
    let problems: Vec<Finding> = of_file.chain(here).collect();
    Findings {
        schema_version: SCHEMA_VERSION,
        path: report.path.display().to_string(),
        usable: problems.iter().all(|finding| finding.severity != "error"),
        problems,
    }
}
