//! Owns taking the disk of a replica that no daemon serves, for commands that look at it or lay
//! it out. Must never take one that somebody uses.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use super::context::Context;
use super::exit::{Exit, Failure};
use crate::config::{Metadata, Name, Node, Replica, Resource};
use crate::store::open::{self, OpenError};
use crate::store::{RawFile, StoppedDisk};
use crate::units::BLOCK_BYTES;

/// A resource of the configuration, and this node's copy of it.
#[derive(Clone, Debug)]
pub(super) struct Here {
    pub(super) node: Node,
    pub(super) resource: Resource,
    pub(super) replica: Replica,
}

impl Here {
    /// Looks the resource up in the configuration: no daemon is asked.
    pub(super) fn find(name: &Name, context: &Context) -> Result<Self, Failure> {
        let config = context.config()?;
        let node = config.local(context.node()).cloned();
        let node = node.map_err(|why| Failure::new(Exit::Failed, why.to_string()))?;
        let path = config.path.display();
        let resource = config.resource(name.as_str()).cloned().ok_or_else(|| {
            let known: Vec<&str> = config.resources.iter().map(|it| it.name.as_str()).collect();
            let text = format!("no resource `{name}` in {path}; it has: {}", known.join(", "));
            Failure::new(Exit::NoSuchResource, text)
        })?;
        let replica = resource.mine(node.id).cloned().ok_or_else(|| {
            let text = format!("resource `{name}` is not on node `{}`, says {path}", node.name);
            Failure::new(Exit::NoSuchResource, text)
        })?;
        Ok(Self { node, resource, replica })
    }

    /// Takes the disk.
    pub(super) fn take(&self) -> Result<StoppedDisk, Failure> {
        take(&self.replica.disk, self.metadata())
    }

    /// Takes the disk to lay it out. A metadata file that is missing is made, once the disk itself
    /// is taken; whether it was.
    pub(super) fn take_new(&self) -> Result<(StoppedDisk, bool), Failure> {
        let data = take_file(&self.replica.disk)?;
        let made = self.metadata().map_or(Ok(false), make_metadata_file)?;
        let metadata = self.metadata().map(take_file).transpose()?;
        Ok((StoppedDisk { data, metadata }, made))
    }

    /// Where the metadata is, if not on the disk itself.
    pub(super) fn metadata(&self) -> Option<&Path> {
        match &self.replica.metadata {
            Metadata::Internal => None,
            Metadata::At(path) => Some(path),
        }
    }
}

/// Takes a disk, and its metadata if that lies elsewhere.
pub(super) fn take(disk: &Path, metadata: Option<&Path>) -> Result<StoppedDisk, Failure> {
    Ok(StoppedDisk { data: take_file(disk)?, metadata: metadata.map(take_file).transpose()? })
}

fn take_file(path: &Path) -> Result<RawFile, Failure> {
    let options = open::OpenOptions { wait: Duration::ZERO, minimum_bytes: 0 };
    let opened = open::open(path, options).map_err(|error| match error {
        OpenError::Locked { .. } | OpenError::InUse { .. } => {
            Failure::refused("disk-in-use", error.to_string())
        }
        other => Failure::new(Exit::Failed, other.to_string()),
    })?;
    RawFile::new(File::from(opened.fd), path)
        .map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}

/// Makes a file for metadata if there is nothing yet, one block long: laying it out makes it as
/// long as it must be. What is under /dev is left to the system, where a mistyped name must not
/// become a file. Gives whether it was made.
fn make_metadata_file(path: &Path) -> Result<bool, Failure> {
    // Memory files are files like others.
    if path.starts_with("/dev") && !path.starts_with("/dev/shm") {
        return Ok(false);
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made.and_then(|file| file.set_len(BLOCK_BYTES)) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            let text = format!("cannot make the metadata file {}: {error}", path.display());
            Err(Failure::new(Exit::Failed, text))
        }
        made => Ok(made.is_ok()),
    }
}
