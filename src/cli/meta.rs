//! Owns `twinblk meta`: the records of a stopped replica, for looking and for repair.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde::Serialize;

use super::confirm::Consent;
use super::context::{Context, print_json};
use super::exit::{Exit, Failure};
use super::stopped::Here;
use super::terminal::Terminal;
use crate::config::Name;
use crate::control::body::SCHEMA_VERSION;
use crate::store::dump::{self, RestoreError};

/// Largest dump read: bitmaps of the largest device, written as runs, are far smaller.
const DUMP_BYTES_MAX: u64 = 1 << 30;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Write down all metadata as JSON.
    Dump(One),
    /// Read all metadata and say what is damaged; nothing is changed.
    Check(One),
    /// Bring back what `dump` wrote.
    Restore(Restore),
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The resource; its daemon must be stopped.
    #[arg(value_parser = Name::parse)]
    resource: Name,
}

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The resource; its daemon must be stopped.
    #[arg(value_parser = Name::parse)]
    resource: Name,
    /// What `dump` wrote; `-` for stdin.
    file: PathBuf,
    #[command(flatten)]
    consent: Consent,
}

/// The findings of `check`, for programs.
#[derive(Debug, Serialize)]
struct Findings {
    schema_version: u32,
    resource: String,
    sound: bool,
    findings: Vec<String>,
}

pub(super) fn run(verb: &Verb, context: &Context) -> Result<Exit, Failure> {
    match verb {
        Verb::Dump(One { resource }) => {
            let disk = Here::find(resource, context)?.take()?;
            let dumped = dump::dump(&disk).map_err(|why| Failure::new(Exit::Failed, why))?;
            if context.json() {
                print_json(&dumped)?;
            } else {
                Terminal::print(&format!("{dumped:#}\n"))?;
            }
            Ok(Exit::Done)
        }
        Verb::Check(One { resource }) => check(resource, context),
        Verb::Restore(arguments) => restore(arguments, context),
    }
}

fn check(name: &Name, context: &Context) -> Result<Exit, Failure> {
    let disk = Here::find(name, context)?.take()?;
    let findings = dump::check(&disk);
    let sound = findings.is_empty();
    let text = match sound {
        true => format!("{name}: the metadata is sound"),
        false => format!("{name}: {}", findings.join(&format!("\n{name}: "))),
    };
    let (schema_version, resource) = (SCHEMA_VERSION, name.to_string());
    let exit = if sound { Exit::Done } else { Exit::Failed };
    context.answer(&text, &Findings { schema_version, resource, sound, findings }, exit)
}

fn restore(arguments: &Restore, context: &Context) -> Result<Exit, Failure> {
    let Restore { resource, file, consent } = arguments;
    let here = Here::find(resource, context)?;
    let dumped = read(file)?;
    let cost = format!(
        "{resource}: the metadata on {} is replaced by what {} says. If the data has changed since \
         that was dumped, blocks that differ from the peer's are no longer on record: then \
         `twinblk invalidate` this copy instead.",
        here.metadata().unwrap_or(&here.replica.disk).display(),
        file.display()
    );
    consent.confirm(&cost, context)?;
    let mut disk = here.take()?;
    dump::restore(&mut disk, &dumped).map_err(|error| match error {
        RestoreError::Raw(error) => Failure::new(Exit::Failed, error.to_string()),
        refused => Failure::refused("dump-does-not-fit", refused.to_string()),
    })?;
    let findings = Vec::new();
    let text = format!("{resource}: the metadata is as in {}", file.display());
    let (schema_version, resource) = (SCHEMA_VERSION, resource.to_string());
    let findings = Findings { schema_version, resource, sound: true, findings };
    context.answer(&text, &findings, Exit::Done)
}

fn read(path: &Path) -> Result<serde_json::Value, Failure> {
    let failed = |why: String| {
        Failure::new(Exit::Failed, format!("cannot read the dump {}: {why}", path.display()))
    };
    let mut bytes = Vec::new();
    let read = if path == Path::new("-") {
        io::stdin().lock().take(DUMP_BYTES_MAX).read_to_end(&mut bytes)
    } else {
        File::open(path).and_then(|file| file.take(DUMP_BYTES_MAX).read_to_end(&mut bytes))
    };
    read.map_err(|error| failed(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| failed(error.to_string()))
}
