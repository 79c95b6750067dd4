//! Owns `twinblk compare`: two stopped replicas, byte for byte.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::stopped::take;
use crate::config::quantity::show_bytes;
use crate::control::body::SCHEMA_VERSION;
use crate::store::compare::{Comparison, compare};
use crate::units::{BLOCK_BYTES, Blocks};

/// Runs listed for people; a program gets all of them.
const RUNS_SHOWN: usize = 20;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Disk of one replica.
    path_a: PathBuf,
    /// Disk of the other.
    path_b: PathBuf,
    /// Where the metadata of the first is, if not on its disk.
    #[arg(long, value_name = "PATH")]
    metadata_a: Option<PathBuf>,
    /// Where the metadata of the second is, if not on its disk.
    #[arg(long, value_name = "PATH")]
    metadata_b: Option<PathBuf>,
}

/// How two replicas differ, for programs.
#[derive(Debug, Serialize)]
struct Difference {
    schema_version: u32,
    equal: bool,
    compared_bytes: u64,
    differing_bytes: u64,
    /// Of these, what either replica has on record.
    on_record_bytes: u64,
    /// First byte and length of each run.
    runs: Vec<(u64, u64)>,
}

/// Ends with 0 if they are equal, with 7 if all that differs is on record, else with 1.
pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<Exit, Failure> {
    let a = take(&arguments.path_a, arguments.metadata_a.as_deref())?;
    let b = take(&arguments.path_b, arguments.metadata_b.as_deref())?;
    let found = compare(&a, &b, &mut context.terminal.progress("compared"));
    context.terminal.clear_progress();
    let found = found.map_err(|why| Failure::new(Exit::Failed, why))?;
    let bytes = |run: &Blocks| (run.offset_bytes(), run.length_bytes());
    let difference = Difference {
        schema_version: SCHEMA_VERSION,
        equal: found.differing_blocks == 0,
        compared_bytes: found.compared_blocks * BLOCK_BYTES,
        differing_bytes: found.differing_blocks * BLOCK_BYTES,
        on_record_bytes: found.on_record_blocks * BLOCK_BYTES,
        runs: found.runs.iter().map(bytes).collect(),
    };
    let exit = match found.differing_blocks {
        0 => Exit::Done,
        all if all == found.on_record_blocks => Exit::Degraded,
        _ => Exit::Failed,
    };
    context.answer(&text(&found), &difference, exit)
}

fn text(found: &Comparison) -> String {
    let compared = show_bytes(found.compared_blocks * BLOCK_BYTES);
    if found.differing_blocks == 0 {
        return format!("equal: {compared} compared");
    }
    let differing = show_bytes(found.differing_blocks * BLOCK_BYTES);
    let silent = found.differing_blocks - found.on_record_blocks;
    let judgement = match silent {
        0 => "all of it is on record, and a resync mends it".to_owned(),
        some => format!(
            "{} of it is on no record: a resync will not mend that. Make the \
             node whose copy is right primary, and run there `twinblk verify RESOURCE --repair`",
            show_bytes(some * BLOCK_BYTES)
        ),
    };
    let mut text = format!("{differing} of {compared} differ; {judgement}");
    for run in found.runs.iter().take(RUNS_SHOWN) {
        let (offset, length) = (run.offset_bytes(), run.length_bytes());
        text.push_str(&format!("\n  at byte {offset}: {length} bytes"));
    }
    if let Some(more) = found.runs.len().checked_sub(RUNS_SHOWN).filter(|more| *more > 0) {
        text.push_str(&format!("\n  and {more} more runs; --json lists all"));
    }
    text
}
