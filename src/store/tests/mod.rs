//! Owns the proofs of this part, on a ring over files in memory and on temporary files.

mod compare;
mod create;
mod disk;
mod dump;
mod fake_ring;
mod recover;

use std::fs::File;
use std::path::Path;

use super::create::{Layout, create};
use super::{RawFile, StoppedDisk};
use crate::format::superblock::Superblock;
use crate::units::{AreaId, NodeId, ResourceId};

/// Blocks of the small device of most tests: three bitmap pages, the last one partial.
const DEVICE_BLOCKS: u64 = 65_100;

const LAYOUT: Layout = Layout {
    resource: ResourceId(0xABCD),
    node: NodeId(1),
    area: AreaId(0x1234),
    peer_slots: 2,
    log_extents: 1237,
    device_blocks: None,
};

/// A sparse file of this length, opened for reading and writing.
fn file(folder: &Path, name: &str, length: u64) -> RawFile {
    let path = folder.join(name);
    let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let file = open.expect("a temporary file");
    if file.metadata().expect("it is there").len() < length {
        file.set_len(length).expect("sparse");
    }
    RawFile::new(file, path).expect("it has a length")
}

/// The files of a disk, external or internal.
fn stopped(folder: &Path, name: &str, internal: bool) -> StoppedDisk {
    let data = DEVICE_BLOCKS * 4096;
    if internal {
        // Data, 3 pages for each of 2 slots, 3 log blocks, 2 superblocks, and a bit.
        let data = file(folder, name, data + 11 * 4096 + 512);
        return StoppedDisk { data, metadata: None };
    }
    let metadata = file(folder, &format!("{name}.meta"), 0);
    StoppedDisk { data: file(folder, name, data + 100), metadata: Some(metadata) }
}

/// A disk that was just laid out.
fn created(folder: &Path, name: &str, internal: bool) -> (StoppedDisk, Superblock) {
    let mut disk = stopped(folder, name, internal);
    let superblock = create(&mut disk, LAYOUT, false).expect("it is new");
    (disk, superblock)
}
