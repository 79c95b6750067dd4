//! Owns what takes its time and so runs on threads of its own: opening disks, laying out new ones,
//! looking for anything that is not zero.
//! Must never run on a shard.

use crate::config::{Metadata, Replica, Resource};
use crate::format::superblock::{Superblock, resource_id};
use crate::store::compare::is_empty;
use crate::store::create::{Layout, create};
use crate::store::open::{OpenOptions, OpenedFile, open};
use crate::store::{RawFile, StoppedDisk};
use crate::units::{AreaId, BLOCK_BYTES};
use nix::sys::stat::fstat;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// How long a daemon that starts waits for its killed predecessor's last writes to land.
const PREDECESSOR_WAIT: Duration = Duration::from_secs(10);

/// The smallest disk: one block, and some metadata.
const DISK_BYTES_MIN: u64 = BLOCK_BYTES;

/// A disk's files, taken for this process alone.
#[derive(Debug)]
pub struct OpenedDisk {
    /// The data.
    pub data: OpenedFile,
    /// The metadata, if it has a file of its own.
    pub metadata: Option<OpenedFile>,
}

/// Takes the files of a replica.
///
/// # Errors
/// One sentence.
pub fn open_disk(replica: &Replica, wait: Duration) -> Result<OpenedDisk, String> {
    let options = OpenOptions { wait, minimum_bytes: DISK_BYTES_MIN };
    let take = |path: &Path| open(path, options).map_err(|error| error.to_string());
    let data = take(&replica.disk)?;
    let metadata = match &replica.metadata {
        Metadata::Internal => None,
        Metadata::At(path) => Some(take(path)?),
    };
    Ok(OpenedDisk { data, metadata })
}

/// The same files, for reading and writing while no shard uses them.
///
/// # Errors
/// One sentence.
pub fn stopped(disk: &OpenedDisk) -> Result<StoppedDisk, String> {
    let raw = |opened: &OpenedFile| {
        let fd = opened.fd.try_clone().map_err(|error| error.to_string())?;
        RawFile::new(File::from(fd), &opened.path).map_err(|error| error.to_string())
    };
    let metadata = disk.metadata.as_ref().map(raw).transpose()?;
    Ok(StoppedDisk { data: raw(&disk.data)?, metadata })
}

/// Lays out new metadata on a disk that was taken, over whatever is there, for a device of so many
/// blocks, or of as many as the disk holds.
///
/// # Errors
/// One sentence.
pub fn lay_out(
    disk: &OpenedDisk,
    resource: &Resource,
    replica: &Replica,
    device_blocks: Option<u64>,
) -> Result<Superblock, String> {
    let random = random_bytes().map_err(|error| format!("no random numbers: {error}"))?;
    let (first, second) = random.split_at(16);
    let wide = |bytes: &[u8]| bytes.iter().fold(1u128, |sum, byte| sum << 8 | u128::from(*byte));
    let area = second.iter().fold(1u64, |sum, byte| sum << 7 | u64::from(*byte));
    let layout = Layout {
        resource: resource_id(resource.name.as_str(), wide(first)),
        node: replica.node,
        area: AreaId(area),
        peer_slots: resource.peer_slots,
        log_extents: resource.log_extents,
        device_blocks,
    };
    create(&mut stopped(disk)?, layout, true).map_err(|error| error.to_string())
}

fn random_bytes() -> std::io::Result<[u8; 24]> {
    let mut bytes = [0; 24];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Opens a disk for a shard; with `fresh`, new metadata is laid out for a device of so many blocks,
/// or of as many as the disk holds if it is 0.
pub(super) fn open_for_shard(
    resource: &Resource,
    replica: &Replica,
    fresh: Option<u64>,
) -> Result<OpenedDisk, String> {
    let mut disk = open_disk(replica, PREDECESSOR_WAIT)?;
    if let Some(blocks) = fresh {
        lay_out(&disk, resource, replica, (blocks > 0).then_some(blocks))?;
        if let Some(metadata) = disk.metadata.as_mut().filter(|metadata| !metadata.is_device) {
            // It may have been lengthened.
            let length = fstat(&metadata.fd).map_err(|number| number.to_string())?.st_size;
            metadata.size_bytes = u64::try_from(length).unwrap_or(0);
        }
    }
    Ok(disk)
}

/// Whether the exported part of a disk holds only zeroes; `None` if it cannot be read.
pub(super) fn scan(replica: &Replica, device_blocks: u64) -> Option<bool> {
    let file = File::open(&replica.disk).ok()?;
    let raw = RawFile::new(file, &replica.disk).ok()?;
    is_empty(&raw, device_blocks * BLOCK_BYTES, &mut |_, _| true).ok()?
}
