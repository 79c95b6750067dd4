//! Owns the proofs that two replicas are compared exactly.

use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{DEVICE_BLOCKS, created, file};
use crate::format::bitmap::{self, PageAddress};
use crate::format::lineage::{Generation, Lineage};
use crate::format::superblock::{self, PeerSlot, Superblock};
use crate::store::StoppedDisk;
use crate::store::compare::{compare, is_empty};
use crate::units::{Blocks, Epoch, NodeId, ResourceId};

fn patch(path: &Path, offset: u64, bytes: &[u8]) {
    let raw = std::fs::File::options().write(true).open(path).expect("it is there");
    raw.write_all_at(bytes, offset).expect("room");
}

/// Two replicas that know each other, on one machine.
fn pair(folder: &Path) -> [(StoppedDisk, Superblock); 2] {
    [(1, 2, "a"), (2, 1, "b")].map(|(node, peer, name)| {
        let (disk, mut superblock) = created(folder, name, false);
        superblock.node = NodeId(node);
        superblock.lineage =
            Lineage::new(vec![Generation { epoch: Epoch(1), id: 1, node: NodeId(1) }]);
        superblock.slots[0] = PeerSlot { in_use: true, node: NodeId(peer), ..PeerSlot::default() };
        write(&disk, &superblock);
        (disk, superblock)
    })
}

fn write(disk: &StoppedDisk, superblock: &Superblock) {
    for copy in 0..2 {
        let offset = superblock.geometry.superblock_offset(copy);
        patch(disk.metadata_file().path(), offset, &superblock::encode(superblock));
    }
}

fn go_on(_done: u64, _all: u64) -> bool {
    true
}

#[test]
fn equal_replicas_are_equal_however_they_are_stored() {
    let folder = tempfile::tempdir().expect("a folder");
    let [(a, _), (b, _)] = pair(folder.path());
    // Zeroes written out on one side, a hole on the other.
    patch(a.data.path(), 1 << 20, &[0; 8192]);
    let last = (DEVICE_BLOCKS - 1) * 4096;
    for disk in [&a, &b] {
        patch(disk.data.path(), last, &[9; 4096]);
    }
    // Beyond the device: does not count.
    patch(a.data.path(), last + 4096, &[1; 100]);
    let comparison = compare(&a, &b, &mut go_on).expect("both are whole");
    assert_eq!(comparison.compared_blocks, DEVICE_BLOCKS);
    assert_eq!((comparison.differing_blocks, comparison.runs), (0, Vec::new()));
}

#[test]
fn every_difference_is_found_and_the_recorded_ones_are_told_apart() {
    let folder = tempfile::tempdir().expect("a folder");
    let [(a, mut ours), (b, mut theirs)] = pair(folder.path());
    // Two blocks, one bit in the last byte of one; and a run over a chunk's end.
    patch(a.data.path(), 5 * 4096 - 1, &[1]);
    patch(b.data.path(), 300 * 4096, &vec![3; 200 * 4096]);
    patch(a.data.path(), (DEVICE_BLOCKS - 1) * 4096, &[1]);
    let expected = [Blocks::new(4, 1), Blocks::new(300, 200), Blocks::new(DEVICE_BLOCKS - 1, 1)];
    let comparison = compare(&a, &b, &mut go_on).expect("both are whole");
    assert_eq!(comparison.runs, expected);
    assert_eq!((comparison.differing_blocks, comparison.on_record_blocks), (202, 0));

    // A mark of the other node about this one, in the slot of the pair and in another one.
    for (slot, on_record) in [(1, 0), (0, 1)] {
        let address = PageAddress { area: theirs.area, slot, page: 0 };
        let page = bitmap::encode(address, &[1 << 4]);
        patch(b.metadata_file().path(), theirs.geometry.page_offset(slot, 0), &page);
        let comparison = compare(&a, &b, &mut go_on).expect("both are whole");
        assert_eq!(comparison.on_record_blocks, on_record);
    }

    // An unusable log: everything may differ, if the log was relied on.
    patch(a.metadata_file().path(), ours.geometry.log_offset(), &[7; 4096 * 3]);
    assert_eq!(compare(&a, &b, &mut go_on).expect("whole").on_record_blocks, 1);
    ours.log_live = true;
    write(&a, &ours);
    assert_eq!(compare(&a, &b, &mut go_on).expect("whole").on_record_blocks, 202);
    ours.log_live = false;
    write(&a, &ours);
    theirs.slots[0].all_marked = true;
    write(&b, &theirs);
    assert_eq!(compare(&a, &b, &mut go_on).expect("whole").on_record_blocks, 202);
}

#[test]
fn replicas_of_two_resources_are_not_compared() {
    let folder = tempfile::tempdir().expect("a folder");
    let [(a, _), (b, mut theirs)] = pair(folder.path());
    theirs.resource = ResourceId(1);
    write(&b, &theirs);
    let refused = compare(&a, &b, &mut go_on).expect_err("two resources");
    assert!(refused.contains("different resources"), "{refused}");
}

#[test]
fn a_look_can_be_ended() {
    let folder = tempfile::tempdir().expect("a folder");
    let [(a, _), (b, _)] = pair(folder.path());
    patch(a.data.path(), 0, &[1]);
    patch(a.data.path(), 40 << 20, &[1]);
    let comparison = compare(&a, &b, &mut |_, _| false).expect("both are whole");
    assert!(comparison.cancelled && comparison.differing_blocks == 1);
}

#[test]
fn only_zeroes_are_empty() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = file(folder.path(), "r0", (8 << 20) + 17);
    let length = disk.length();
    assert!(is_empty(&disk, length, &mut go_on).expect("readable").expect("to the end"));
    patch(disk.path(), 3 << 20, &[0; 4096]);
    assert!(is_empty(&disk, length, &mut go_on).expect("readable").expect("to the end"));
    assert_eq!(is_empty(&disk, length, &mut |_, _| false).expect("readable"), None);
    patch(disk.path(), (8 << 20) - 1, &[1]);
    assert!(!is_empty(&disk, length, &mut go_on).expect("readable").expect("to the end"));
    let before = (8 << 20) - 4096;
    assert!(is_empty(&disk, before, &mut go_on).expect("readable").expect("to the end"));
}
