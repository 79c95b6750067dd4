//! Owns `twinblk create`: laying out this node's metadata for a resource, once.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use clap::Args;
use serde::Serialize;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::stopped::Here;
use crate::config::{Name, quantity::show_bytes};
use crate::control::body::SCHEMA_VERSION;
use crate::format::superblock::resource_id;
use crate::store::create::{CreateError, Layout, create};
use crate::store::open::probe_content;
use crate::units::{AreaId, BLOCK_BYTES};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The resource, as named in the configuration.
    #[arg(value_parser = Name::parse)]
    resource: Name,
    /// Overwrite what is found where the metadata goes.
    #[arg(long)]
    force: bool,
}

/// What was laid out, for programs.
#[derive(Debug, Serialize)]
struct Created {
    schema_version: u32,
    resource: String,
    disk_path: String,
    metadata_path: String,
    device_bytes: u64,
    metadata_bytes: u64,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<Exit, Failure> {
    let here = Here::find(&arguments.resource, context)?;
    let content = content(&here.replica.disk);
    if let (None, Some(found), false) = (here.metadata(), &content, arguments.force) {
        let text = format!(
            "{} holds {found}, and the metadata would overwrite its end. Name a file or device of \
             its own with `metadata = ...`, or shrink the contents first; if nothing on this disk \
             is needed any more, repeat with --force",
            here.replica.disk.display()
        );
        return Err(Failure::refused("disk-not-empty", text));
    }
    if let Some(path) = here.metadata() {
        check_metadata_place(path, arguments.force)?;
    }
    let (mut disk, new_file) = here.take_new()?;
    let layout = Layout {
        resource: resource_id(here.resource.name.as_str(), u128::from_le_bytes(random()?)),
        node: here.node.id,
        // Zero would say "none".
        area: AreaId(u64::from_le_bytes(random()?).max(1)),
        peer_slots: here.resource.peer_slots,
        log_extents: here.resource.log_extents,
        device_blocks: None,
    };
    let made = create(&mut disk, layout, arguments.force).map_err(|error| {
        if let Some(path) = here.metadata().filter(|_| new_file) {
            // Nothing was laid out, so nothing is left behind.
            let _ = std::fs::remove_file(path);
        }
        match error {
            CreateError::Exists { .. } => Failure::refused("metadata-exists", error.to_string()),
            other => Failure::new(Exit::Failed, other.to_string()),
        }
    })?;
    let created = Created {
        schema_version: SCHEMA_VERSION,
        resource: here.resource.name.to_string(),
        disk_path: here.replica.disk.display().to_string(),
        metadata_path: disk.metadata_file().path().display().to_string(),
        device_bytes: made.geometry.device_blocks * BLOCK_BYTES,
        metadata_bytes: made.geometry.metadata_bytes(),
    };
    context.answer(&text(&created, content.as_deref()), &created, Exit::Done)
}

fn text(created: &Created, content: Option<&str>) -> String {
    let Created { resource, disk_path, metadata_path, .. } = created;
    let kept = content.map_or_else(String::new, |found| {
        format!(
            "\n{disk_path} holds {found}: it stays if `init` is given on this node, and is \
             overwritten if it is given on the other."
        )
    });
    format!(
        "{resource}: {} for data on {disk_path}, {} of metadata on {metadata_path}{kept}\n\
         Next: the same on the other node, `twinblk serve` on both, then once, on the node with \
         the first contents: twinblk init {resource} --from NODE",
        show_bytes(created.device_bytes),
        show_bytes(created.metadata_bytes)
    )
}

/// A device for metadata that holds something else was probably mistyped.
fn check_metadata_place(path: &Path, force: bool) -> Result<(), Failure> {
    match content(path) {
        Some(found) if !force => {
            let text = format!(
                "{} holds {found}, and should take the metadata: correct the path, or repeat with \
                 --force if that is not needed any more",
                path.display()
            );
            Err(Failure::refused("disk-not-empty", text))
        }
        _ => Ok(()),
    }
}

/// What lies on a disk; what cannot be read now is complained of when the disk is taken.
fn content(path: &Path) -> Option<String> {
    probe_content(path).ok().flatten()
}

/// Random bytes.
fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| Failure::new(Exit::Failed, format!("cannot read /dev/urandom: {error}")))?;
    Ok(bytes)
}
