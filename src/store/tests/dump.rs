//! Owns the proofs that metadata survives being dumped and written back, and that nothing wrong
//! is written.

use std::os::unix::fs::FileExt;

use super::{LAYOUT, created, stopped};
use crate::format::bitmap::{self, PageAddress};
use crate::format::extent_log::{self, LogIdentity, LogImage, LogTransaction};
use crate::format::lineage::{Generation, Lineage};
use crate::format::superblock::{self, Bond, DataState, PeerSlot, Superblock, SyncTarget};
use crate::store::StoppedDisk;
use crate::store::create::{CreateError, Layout, create};
use crate::store::dump::{RestoreError, check, dump, restore};
use crate::units::{BootId, Epoch, NodeId, ResourceId, RunId};

/// Puts blocks into the metadata of an external disk.
fn patch(disk: &StoppedDisk, offset: u64, bytes: &[u8]) {
    let path = disk.metadata_file().path();
    let raw = std::fs::File::options().write(true).open(path).expect("it is there");
    raw.write_all_at(bytes, offset).expect("room");
}

/// A disk with something in every field.
fn lived_in(folder: &std::path::Path) -> (StoppedDisk, Superblock) {
    let (disk, fresh) = created(folder, "r0", false);
    let generation = |id| Generation { epoch: Epoch(id), id: u64::MAX - id, node: NodeId(1) };
    let mut superblock = Superblock {
        serial: 99,
        data: DataState::Outdated,
        primary: true,
        log_live: true,
        former_primary: true,
        rebooted: true,
        parted: true,
        epoch: Epoch(12),
        run: RunId(u64::MAX),
        boot: BootId(u128::MAX),
        lineage: Lineage::new((1..=32).map(generation).collect()),
        sync_target: Some(SyncTarget { token: 5, generation: generation(40) }),
        ..fresh
    };
    superblock.slots[0] = PeerSlot {
        in_use: true,
        node: NodeId(2),
        base: Some(generation(9)),
        sync_token: 77,
        all_marked: true,
        withdrawn: true,
        bond: Bond { confirmed: 3, tentative: 4 },
    };
    for copy in 0..2 {
        let offset = superblock.geometry.superblock_offset(copy);
        patch(&disk, offset, &superblock::encode(&superblock));
    }
    let words: Vec<u64> = (0..508).map(|i| if i % 3 == 0 { 0xFF0 } else { 0 }).collect();
    let address = PageAddress { area: superblock.area, slot: 1, page: 1 };
    let page = bitmap::encode(address, &words);
    patch(&disk, superblock.geometry.page_offset(1, 1), &page);
    let number = 1 + superblock.geometry.log_ring_blocks();
    let window = extent_log::window_for(number, 1237);
    let mut shown = vec![None; window.len()];
    shown[3] = Some(7);
    let transaction = LogTransaction {
        number,
        updates: vec![(window.start + 3, Some(7))],
        window_start: window.start,
        window: shown,
    };
    let block = extent_log::encode(LogIdentity::of(&superblock), &transaction);
    patch(&disk, superblock.geometry.log_block_offset(number), &block);
    (disk, superblock)
}

#[test]
fn a_dump_holds_every_field_and_restores_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut disk, superblock) = lived_in(folder.path());
    let before = disk.open().expect("it is whole").image;
    assert_eq!(before.superblock, superblock);
    let value = dump(&disk).expect("it is whole");
    assert_eq!(value["lineage"][31]["id"], "ffffffffffffffdf");
    assert_eq!(value["bitmaps"][1]["marked_blocks"], 170 * 8);
    assert_eq!(value["bitmaps"][1]["runs"][0], serde_json::json!([508 * 64 + 4, 8]));
    assert_eq!(value["log"]["hot"].as_array().map(Vec::len), Some(1));
    // By way of text, over an area laid out anew.
    let text = serde_json::to_string_pretty(&value).expect("it is JSON");
    create(&mut disk, LAYOUT, true).expect("forced");
    let value = serde_json::from_str(&text).expect("it is JSON");
    restore(&mut disk, &value).expect("it fits");
    let after = disk.open().expect("it is whole");
    assert!(after.notes.is_empty(), "{:?}", after.notes);
    assert_eq!(after.image.superblock, superblock);
    assert_eq!(after.image.bitmaps, before.bitmaps);
    let hot = |log: &LogImage| match log {
        LogImage::Hot { slots, .. } => slots.clone(),
        LogImage::Unreadable { .. } => panic!("it is readable"),
    };
    assert_eq!(hot(&after.image.log), hot(&before.log));
    assert_eq!(dump(&disk).expect("whole")["slots"], value["slots"]);
}

#[test]
fn an_unreadable_log_stays_unreadable() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut disk, superblock) = lived_in(folder.path());
    patch(&disk, superblock.geometry.log_block_offset(2), &[7; 4096]);
    patch(&disk, superblock.geometry.page_offset(0, 2), &[7; 4096]);
    let problems = check(&disk);
    assert!(problems.len() == 2 && problems[0].contains("activity log"), "{problems:?}");
    assert!(problems[1].contains("1 of 3 bitmap pages of slot 0"), "{problems:?}");
    let value = dump(&disk).expect("usable");
    assert_eq!(value["bitmaps"][0]["bad_pages"], serde_json::json!([2]));
    restore(&mut disk, &value).expect("it fits");
    let after = disk.open().expect("usable").image;
    assert!(matches!(after.log, LogImage::Unreadable { .. }), "never clean by a detour");
    assert!(after.bitmaps[0][2 * 508..].contains(&u64::MAX));
}

#[test]
fn check_finds_nothing_on_a_whole_disk_and_each_fault_on_others() {
    let folder = tempfile::tempdir().expect("a folder");
    let (disk, mut superblock) = lived_in(folder.path());
    assert_eq!(check(&disk), Vec::<String>::new());
    superblock.serial += 1;
    patch(&disk, 0, &superblock::encode(&superblock));
    let problems = check(&disk);
    assert!(problems.len() == 1 && problems[0].contains("100 and 99"), "{problems:?}");
    patch(&disk, 50, &[0xFF]);
    let problems = check(&disk);
    assert!(problems.len() == 1 && problems[0].contains("copy 0"), "{problems:?}");
    patch(&disk, superblock.geometry.superblock_offset(1) + 4000, &[0xFF]);
    let problems = check(&disk);
    assert!(problems.len() == 1 && problems[0].contains("no copy"), "{problems:?}");
}

#[test]
fn what_is_not_a_dump_of_this_disk_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut disk, superblock) = lived_in(folder.path());
    let good = dump(&disk).expect("whole");
    type Spoil = fn(&mut serde_json::Value);
    let spoils: [(&str, Spoil); 20] = [
        ("resource", |dump| dump["resource"] = "zz".into()),
        ("resource", |dump| dump["resource"] = "0".into()),
        ("version", |dump| dump["version"] = 4.into()),
        ("missing field", |dump| {
            dump.as_object_mut().expect("an object").remove("serial");
        }),
        ("missing field `sync_target`", |dump| {
            dump.as_object_mut().expect("an object").remove("sync_target");
        }),
        ("missing field `base`", |dump| {
            dump["slots"][1].as_object_mut().expect("an object").remove("base");
        }),
        ("parted", |dump| {
            dump.as_object_mut().expect("an object").remove("parted");
        }),
        ("unknown field", |dump| dump["more"] = 1.into()),
        ("lies outside", |dump| dump["bitmaps"][0]["runs"] = serde_json::json!([[65_099, 2]])),
        ("lies outside", |dump| dump["bitmaps"][0]["runs"] = serde_json::json!([[1, u64::MAX]])),
        ("hot extent", |dump| dump["log"]["hot"] = serde_json::json!([[0, 64]])),
        ("two log slots", |dump| dump["log"]["hot"] = serde_json::json!([[0, 1], [1, 1]])),
        ("log slot", |dump| dump["log"]["hot"] = serde_json::json!([[1237, 0]])),
        ("generation", |dump| dump["lineage"][0]["id"] = "0".into()),
        ("bitmaps", |dump| dump["bitmaps"] = serde_json::json!([])),
        ("geometry", |dump| dump["geometry"]["peer_slots"] = 5.into()),
        // What the disk format has no room for.
        ("epoch", |dump| dump["epoch"] = u64::MAX.into()),
        ("lineage", |dump| dump["lineage"][0]["epoch"] = u64::MAX.into()),
        ("serial", |dump| dump["serial"] = u64::MAX.into()),
        ("next_transaction", |dump| dump["log"]["next_transaction"] = (u64::MAX - 9).into()),
    ];
    for (text, spoil) in spoils {
        let mut value = good.clone();
        spoil(&mut value);
        let refused = restore(&mut disk, &value).expect_err(text);
        assert!(matches!(refused, RestoreError::NotADump { .. }), "{text}: {refused}");
        assert!(refused.to_string().contains(text), "{text}: {refused}");
        assert_eq!(disk.open().expect("untouched").image.superblock, superblock);
    }
}

#[test]
fn a_dump_of_an_older_version_is_restored() {
    for version in [1, 2] {
        let folder = tempfile::tempdir().expect("a folder");
        let (mut disk, superblock) = lived_in(folder.path());
        let mut value = dump(&disk).expect("whole");
        value["version"] = version.into();
        let fields = value.as_object_mut().expect("an object");
        fields.remove("current");
        if version == 1 {
            fields.remove("parted");
        }
        restore(&mut disk, &value).expect("an older version");
        let restored = disk.open().expect("whole").image.superblock;
        assert_eq!(restored.parted, version > 1 && superblock.parted);
        assert_eq!((restored.current, restored.lineage), (superblock.epoch, superblock.lineage));
    }
}

#[test]
fn what_a_newer_version_wrote_is_not_overwritten() {
    let folder = tempfile::tempdir().expect("a folder");
    let (mut disk, superblock) = lived_in(folder.path());
    let value = dump(&disk).expect("whole");
    for copy in 0..2 {
        let offset = superblock.geometry.superblock_offset(copy);
        patch(&disk, offset, &newer(&superblock));
    }
    let refused = restore(&mut disk, &value).expect_err("a newer version");
    assert!(matches!(refused, RestoreError::Foreign { .. }), "{refused}");
    let refused = create(&mut disk, LAYOUT, false).expect_err("a newer version");
    assert!(matches!(refused, CreateError::Exists { .. }), "{refused}");
}

/// The record as a later version would write it.
fn newer(superblock: &Superblock) -> [u8; 4096] {
    let mut bytes = superblock::encode(superblock);
    bytes[8..12].copy_from_slice(&99u32.to_le_bytes());
    let sum = crate::format::checksum::around(&bytes, 12);
    bytes[12..16].copy_from_slice(&sum.to_le_bytes());
    bytes
}

#[test]
fn a_dump_of_another_disk_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let (disk, _) = lived_in(folder.path());
    let value = dump(&disk).expect("whole");
    let mut other = stopped(folder.path(), "r1", true);
    let slots = Layout { peer_slots: 1, ..LAYOUT };
    create(&mut other, slots, false).expect("new");
    let refused = restore(&mut other, &value).expect_err("another geometry");
    assert!(matches!(refused, RestoreError::Geometry { .. }), "{refused}");

    let (mut lived, mut superblock) = created(folder.path(), "r2", false);
    restore(&mut lived, &value).expect("a disk that was just created may take it");
    superblock.resource = ResourceId(5);
    superblock.lineage = Lineage::new(vec![Generation { epoch: Epoch(1), id: 1, node: NodeId(0) }]);
    for copy in 0..2 {
        let offset = superblock.geometry.superblock_offset(copy);
        patch(&lived, offset, &superblock::encode(&superblock));
    }
    let refused = restore(&mut lived, &value).expect_err("another resource");
    assert!(matches!(refused, RestoreError::Foreign { .. }), "{refused}");
}
