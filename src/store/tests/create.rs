//! Owns the proofs that a new disk is laid out whole or not at all, and never over another.

use std::os::unix::fs::FileExt;

use super::{DEVICE_BLOCKS, LAYOUT, created, file, stopped};
use crate::format::extent_log::LogImage;
use crate::format::lineage::{Generation, Lineage};
use crate::format::superblock::{self, DataState, Geometry, Superblock};
use crate::store::StoppedDisk;
use crate::store::create::{CreateError, Layout, create};
use crate::units::{AreaId, Epoch, NodeId, ResourceId};

#[test]
fn a_new_disk_reads_back_as_it_was_laid_out() {
    for internal in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let (disk, superblock) = created(folder.path(), "r0", internal);
        let geometry = Geometry { device_blocks: DEVICE_BLOCKS, peer_slots: 2, log_extents: 1237 };
        assert_eq!(superblock.geometry, geometry);
        let opened = disk.open().expect("it is whole");
        assert_eq!(opened.image.superblock, superblock);
        assert_eq!(superblock.lineage.head(), None, "just created");
        assert_eq!(superblock.data, DataState::Inconsistent);
        assert!(opened.notes.is_empty(), "{:?}", opened.notes);
        assert_eq!(opened.image.bitmaps, vec![vec![0; 1018]; 2]);
        assert_eq!(opened.image.bad_pages, vec![Vec::<u32>::new(); 2]);
        let LogImage::Hot { slots, next_transaction } = opened.image.log else { panic!() };
        assert!(slots.len() == 1237 && slots.iter().all(Option::is_none));
        assert_eq!(next_transaction, 1 + geometry.log_ring_blocks());
    }
}

#[test]
fn metadata_that_is_there_is_named_and_kept() {
    for internal in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut disk, mut superblock) = created(folder.path(), "r0", internal);
        let again = Layout { resource: ResourceId(9), area: AreaId(9), ..LAYOUT };
        let refused = create(&mut disk, again, false).expect_err("it is there");
        let text = refused.to_string();
        assert!(text.contains("0000abcd, node 1, just created"), "{text}");
        assert!(text.contains("--force") && text.contains("r0"), "{text}");
        assert_eq!(disk.open().expect("untouched").image.superblock, superblock);

        let generation = Generation { epoch: Epoch(4), id: 0xFEED, node: NodeId(1) };
        superblock.lineage = Lineage::new(vec![generation]);
        superblock.serial = 2;
        let bytes = superblock::encode(&superblock);
        let start = superblock.geometry.internal_offset(disk.data.length());
        let start = if internal { start.expect("it fits") } else { 0 };
        let path = disk.metadata_file().path();
        let raw = std::fs::File::options().write(true).open(path).expect("it is there");
        for copy in 0..2 {
            let offset = start + superblock.geometry.superblock_offset(copy);
            raw.write_all_at(&bytes, offset).expect("room");
        }
        let text = create(&mut disk, again, false).expect_err("it is there").to_string();
        assert!(text.contains("generation 000000000000feed of epoch 4"), "{text}");

        let fresh = create(&mut disk, again, true).expect("forced");
        assert_eq!(fresh.resource, ResourceId(9));
        assert_eq!(disk.open().expect("whole").image.superblock, fresh);
    }
}

#[test]
fn damaged_metadata_is_still_metadata() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut disk, superblock) = created(folder.path(), "r0", false);
    let path = disk.metadata_file().path();
    let raw = std::fs::File::options().write(true).open(path).expect("it is there");
    for copy in 0..2 {
        let offset = superblock.geometry.superblock_offset(copy) + 100;
        raw.write_all_at(&[1], offset).expect("room");
    }
    let text = create(&mut disk, LAYOUT, false).expect_err("it is there").to_string();
    assert!(text.contains("checksum is wrong"), "{text}");
    create(&mut disk, LAYOUT, true).expect("forced");
    assert!(disk.open().expect("whole").notes.is_empty());
}

/// An area that was laid out larger before leaves no superblock behind that a search could take
/// for one of the new area.
#[test]
fn force_leaves_no_trace_of_the_old_area() {
    for internal in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let mut disk = stopped(folder.path(), "r0", internal);
        create(&mut disk, Layout { peer_slots: 4, ..LAYOUT }, false).expect("it is new");
        let area = AreaId(77);
        let fresh = create(&mut disk, Layout { area, ..LAYOUT }, true).expect("forced");
        // Rot in the copy that is looked at first.
        let start = fresh.geometry.internal_offset(disk.data.length());
        let anchor = if internal {
            start.expect("it fits") + fresh.geometry.superblock_offset(1)
        } else {
            0
        };
        let path = disk.metadata_file().path();
        let raw = std::fs::File::options().write(true).open(path).expect("it is there");
        raw.write_all_at(&[1], anchor + 100).expect("room");
        assert_eq!(disk.open().expect("the other copy").image.superblock, fresh);
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = file(folder.path(), "tiny", 5 * 4096);
    let mut disk = StoppedDisk { data: tiny, metadata: None };
    let refused = create(&mut disk, LAYOUT, false).expect_err("no room");
    assert!(matches!(refused, CreateError::DoesNotFit { .. }), "{refused}");
    let mut disk = stopped(folder.path(), "r0", false);
    let wrong = Layout { peer_slots: 0, ..LAYOUT };
    let refused = create(&mut disk, wrong, false).expect_err("no slots");
    assert!(matches!(refused, CreateError::DoesNotFit { .. }), "{refused}");
}

/// A replacement may be larger than the disk it replaces; a smaller one is refused before anything
/// is changed.
#[test]
fn a_disk_is_laid_out_for_the_size_that_the_resource_has() {
    for internal in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut disk, superblock) = created(folder.path(), "r0", internal);
        let layout = |device_blocks| Layout { device_blocks, ..LAYOUT };
        let refused = create(&mut disk, layout(Some(DEVICE_BLOCKS + 1)), true);
        let refused = refused.expect_err("too small");
        assert!(matches!(refused, CreateError::TooSmall { .. }), "{refused}");
        assert_eq!(disk.open().expect("as it was").image.superblock, superblock);
        let smaller = create(&mut disk, layout(Some(1000)), true).expect("there is room");
        assert_eq!(smaller.geometry.device_blocks, 1000);
        assert_eq!(disk.open().expect("whole").image.superblock, smaller);
    }
}

/// Metadata at the end of a device that has grown since is not overlooked.
#[test]
fn metadata_of_another_size_is_a_trace() {
    let folder = tempfile::tempdir().expect("a folder");
    let (disk, _) = created(folder.path(), "r0", true);
    let length = disk.data.length() + 4096 * 4;
    drop(disk);
    let data = file(folder.path(), "r0", length);
    let mut grown = StoppedDisk { data, metadata: None };
    let text = create(&mut grown, LAYOUT, false).expect_err("a trace").to_string();
    assert!(text.contains("another size"), "{text}");
}

#[test]
fn a_layout_that_was_not_finished_is_none() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut disk, superblock) = created(folder.path(), "r0", false);
    let path = disk.metadata_file().path();
    let raw = std::fs::File::options().write(true).open(path).expect("it is there");
    for copy in 0..2 {
        let offset = superblock.geometry.superblock_offset(copy);
        raw.write_all_at(&[0; 4096], offset).expect("room");
    }
    let refused = disk.open().err().expect("no superblock");
    assert!(
        refused.absent && refused.why.contains("`twinblk create RESOURCE` lays it out"),
        "{}",
        refused.why
    );
    let _: Superblock = create(&mut disk, LAYOUT, false).expect("nothing is there");
}
