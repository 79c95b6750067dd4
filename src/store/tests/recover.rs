//! Owns the proofs that metadata is read back as it was made stable, whatever a power cut, rot or
//! a bad sector left of it: an older superblock copy only if the newer one never counted, marks
//! where a page is bad, and a refusal in words where nothing can be trusted.

use std::sync::OnceLock;

use proptest::prelude::*;

use super::fake_ring::{Act, FakeRing};
use super::{DEVICE_BLOCKS, LAYOUT, file, stopped};
use crate::buffer::{Pool, Purpose};
use crate::format::bitmap::{self, PageAddress};
use crate::format::checksum;
use crate::format::extent_log::{LogImage, LogTransaction, window_for};
use crate::format::superblock::{self, Geometry, Superblock};
use crate::replica::event::{Input, PageId, PersistId};
use crate::ring::{FileId, Lane};
use crate::store::create::{Layout, create};
use crate::store::raw::private_pool;
use crate::store::{Disk, Expected, Files, Opened, Opening, Refused, StoppedDisk};
use crate::units::{AreaId, BootId, Epoch, NodeId, ResourceId, RunId};

/// The files of a disk in memory, as bytes.
struct Bench {
    files: Files,
    ring: FakeRing,
    pool: Pool,
    superblock: Superblock,
    /// Where the metadata area begins in its file.
    start: u64,
}

impl Bench {
    /// A disk that was just laid out.
    fn new(internal: bool) -> Self {
        static LAID_OUT: [OnceLock<Template>; 2] = [OnceLock::new(), OnceLock::new()];
        let template =
            LAID_OUT[usize::from(internal)].get_or_init(|| Template::new(internal, LAYOUT));
        Self::of(template)
    }

    fn of(template: &Template) -> Self {
        let Template { files, bytes, superblock, start } = template;
        let mut ring = FakeRing::new(&[0, 0]);
        let file = &mut ring.files[files.metadata.0 as usize];
        file.stable.clone_from(bytes);
        file.seen.clone_from(bytes);
        let (superblock, pool) = (superblock.clone(), private_pool());
        Self { files: *files, ring, pool, superblock, start: *start }
    }

    fn expected() -> Expected {
        Expected {
            name: Some("r0".to_owned()),
            metadata_path: "/dev/vg/r0-meta".to_owned(),
            node: Some(LAYOUT.node),
            resource: Some(LAYOUT.resource),
            boot: BootId(8),
            run: RunId(9),
        }
    }

    fn open(&mut self) -> Result<Opened, Refused> {
        self.open_as(Self::expected())
    }

    fn open_as(&mut self, expected: Expected) -> Result<Opened, Refused> {
        let Self { files, ring, pool, .. } = self;
        ring.in_flight_max = 0;
        let mut opening = Opening::begin(ring, pool, Lane::new(1, 1), *files, expected);
        loop {
            let last = ring.pending().len() - 1;
            // The order of completions must not matter.
            let completion = ring.end(pool, last);
            if let Some(result) = opening.on_completion(ring, pool, &completion) {
                assert!(ring.pending().is_empty(), "something is still under way");
                assert_eq!(pool.used_bytes(Purpose::Fixed), 0);
                assert!(ring.in_flight_max <= 2, "memory is bounded");
                return result;
            }
        }
    }

    fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.ring.files[self.files.metadata.0 as usize].seen
    }

    /// Changes bytes of the metadata area.
    fn patch(&mut self, offset: u64, bytes: &[u8]) {
        let start = usize::try_from(self.start + offset).expect("small");
        self.bytes()[start..start + bytes.len()].copy_from_slice(bytes);
    }

    fn flip(&mut self, offset: u64) {
        let at = usize::try_from(self.start + offset).expect("small");
        self.bytes()[at] ^= 0x40;
    }

    fn put_copy(&mut self, copy: usize, superblock: &Superblock) {
        let offset = superblock.geometry.superblock_offset(copy);
        self.patch(offset, &superblock::encode(superblock));
    }
}

/// What `create` wrote. The data of an external disk does not matter here.
struct Template {
    files: Files,
    bytes: Vec<u8>,
    superblock: Superblock,
    start: u64,
}

impl Template {
    fn new(internal: bool, layout: Layout) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        // An internal area comes with its data, so that device is smaller.
        let mut disk = if internal {
            StoppedDisk { data: file(folder.path(), "r0", 2000 * 4096 + 512), metadata: None }
        } else {
            stopped(folder.path(), "r0", false)
        };
        let superblock = create(&mut disk, layout, false).expect("new");
        let start = superblock.geometry.internal_offset(disk.data.length());
        let files = Files {
            data: FileId(0),
            data_bytes: disk.data.length(),
            metadata: FileId(u32::from(!internal)),
            metadata_bytes: disk.metadata_file().length(),
        };
        let bytes = std::fs::read(disk.metadata_file().path()).expect("readable");
        let start = if internal { start.expect("it fits") } else { 0 };
        Self { files, bytes, superblock, start }
    }
}

fn refusal(result: Result<Opened, Refused>) -> String {
    result.err().expect("it must be refused").why
}

#[test]
fn a_whole_disk_opens_without_a_note() {
    for internal in [false, true] {
        let mut bench = Bench::new(internal);
        let opened = bench.open().expect("whole");
        assert_eq!(opened.image.superblock, bench.superblock);
        assert_eq!((opened.image.boot, opened.image.run), (BootId(8), RunId(9)));
        assert!(opened.notes.is_empty(), "{:?}", opened.notes);
    }
}

/// The superblock was being changed from 1 to 2 when power failed: after `sectors` sectors of copy
/// 0, or of copy 1. What changes lies in sectors 0 to 2.
#[test]
fn a_superblock_torn_at_any_sector_falls_back_to_the_other_copy() {
    for internal in [false, true] {
        for sectors in 0..=8 {
            let mut bench = Bench::new(internal);
            let old = bench.superblock.clone();
            let mut new = Superblock { serial: 2, epoch: Epoch(9), ..old.clone() };
            new.slots[1].sync_token = u64::MAX;
            new.slots[2].bond.tentative = u64::MAX;
            let bytes = superblock::encode(&new);
            bench.patch(0, &bytes[..sectors * 512]);
            let opened = bench.open().expect("one copy is whole");
            let (expected, damage) = match sectors {
                0 => (&old, ""),
                1..3 => (&old, "copy 0 of the superblock is not usable (its checksum is wrong"),
                _ => (&new, "did not reach both copies (change 2 and 1)"),
            };
            assert_eq!(&opened.image.superblock, expected, "copy 0, {sectors} sectors");
            assert_eq!(opened.notes.len(), usize::from(!damage.is_empty()));
            assert!(opened.notes.iter().all(|note| note.contains(damage)), "{:?}", opened.notes);

            bench.put_copy(0, &new);
            let last = old.geometry.superblock_offset(1);
            bench.patch(last, &bytes[..sectors * 512]);
            let opened = bench.open().expect("one copy is whole");
            assert_eq!(opened.image.superblock, new, "copy 1, {sectors} sectors");
            assert_eq!(opened.notes.len(), usize::from(sectors < 3), "{:?}", opened.notes);
        }
    }
}

/// A change that is cut short must not leave two bad copies where one was good: the bad or older
/// one is written first.
#[test]
fn the_copy_that_was_not_chosen_is_written_first() {
    for internal in [false, true] {
        for stale in [0, 1] {
            for bad in [false, true] {
                let mut bench = Bench::new(internal);
                let old = bench.superblock.clone();
                let new = Superblock { serial: old.serial + 1, ..old.clone() };
                bench.put_copy(1 - stale, &new);
                let offset = old.geometry.superblock_offset(stale);
                if bad {
                    bench.flip(offset + 99);
                }
                let mut opened = bench.open().expect("one copy is whole");
                assert_eq!(opened.image.superblock, new);
                let (ring, pool) = (&mut bench.ring, &mut bench.pool);
                opened.disk.persist_superblock(ring, pool, PersistId(1), &new);
                let pending = ring.pending();
                let [Act::Write { offset: at, .. }] = pending[..] else { panic!("{pending:?}") };
                assert_eq!(at, bench.start + offset, "internal {internal}, copy {stale}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_in_one_copy_is_survived_and_in_both_refused() {
    for (internal, copy) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let mut bench = Bench::new(internal);
        let geometry = bench.superblock.geometry;
        for at in (0..1200).step_by(7).chain([4095]) {
            bench.flip(geometry.superblock_offset(copy) + at);
            let opened = bench.open().expect("the other copy is whole");
            assert_eq!(opened.image.superblock, bench.superblock, "byte {at} of copy {copy}");
            assert!(opened.notes[0].contains(&format!("copy {copy}")), "{:?}", opened.notes);
            bench.flip(geometry.superblock_offset(1 - copy) + at);
            let refused = bench.open().err().expect("nothing can be trusted");
            assert!(refused.absent == (at < 8), "{}", refused.why);
            bench.flip(geometry.superblock_offset(0) + at);
            bench.flip(geometry.superblock_offset(1) + at);
        }
        assert!(bench.open().expect("whole again").notes.is_empty());
    }
}

#[test]
fn a_copy_that_the_disk_cannot_read_is_done_without() {
    for (internal, copy) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let mut bench = Bench::new(internal);
        let bad = bench.start + bench.superblock.geometry.superblock_offset(copy);
        bench.ring.fail(libc::EIO, move |act| covers(act, bad));
        let opened = bench.open().expect("the other copy is whole");
        assert_eq!(opened.image.superblock, bench.superblock);
        assert!(opened.notes[0].contains("the disk returned an error"), "{:?}", opened.notes);
        bench.ring.fail(libc::EIO, |_| true);
        let why = refusal(bench.open());
        assert!(why.contains("no copy of the superblock is usable"), "{why}");
    }
}

fn covers(act: Act, byte: u64) -> bool {
    matches!(act, Act::Read { offset, length, .. }
        if (offset..offset + u64::from(length)).contains(&byte))
}

#[test]
fn a_bad_page_is_all_ones_and_the_others_are_as_written() {
    let words = [1u64 << 7; 508];
    for unreadable in [false, true] {
        let mut bench = Bench::new(false);
        let geometry = bench.superblock.geometry;
        for (slot, page) in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)] {
            let address = PageAddress { area: LAYOUT.area, slot, page };
            let bytes = bitmap::encode(address, &words[..if page == 2 { 2 } else { 508 }]);
            bench.patch(geometry.page_offset(slot, page), &bytes);
        }
        let before = bench.open().expect("whole").image.bitmaps;
        for (slot, page) in [(0u8, 1u32), (1, 2)] {
            let at = geometry.page_offset(slot, page);
            let offset = usize::try_from(at).expect("small");
            let whole = bench.bytes()[offset..offset + 4096].to_vec();
            if unreadable {
                bench.ring.fail(libc::EIO, move |act| covers(act, at + 9));
            } else {
                bench.flip(at + 100);
            }
            let opened = bench.open().expect("usable");
            let image = opened.image;
            let mut bad = vec![Vec::new(); 2];
            bad[usize::from(slot)] = vec![page];
            assert_eq!(image.bad_pages, bad);
            assert!(opened.notes.len() == 1, "{:?}", opened.notes);
            let mut expected = before.clone();
            if page == 1 {
                expected[0][508..1016].fill(u64::MAX);
            } else {
                // Of the last page only 76 blocks are in the device.
                expected[1][1016..].copy_from_slice(&[u64::MAX, (1 << 12) - 1]);
            }
            assert!(image.bitmaps == expected, "slot {slot} page {page}");
            bench.patch(at, &whole);
            bench.ring.fault = Box::new(|_| None);
        }
    }
}

/// Pages of another life of the disk, or in the wrong place, are as bad as rotten ones.
#[test]
fn a_page_of_another_area_or_place_is_bad() {
    let mut bench = Bench::new(false);
    let geometry = bench.superblock.geometry;
    let foreign = PageAddress { area: AreaId(1), slot: 0, page: 0 };
    bench.patch(geometry.page_offset(0, 0), &bitmap::encode(foreign, &[]));
    let misplaced = PageAddress { area: LAYOUT.area, slot: 0, page: 1 };
    bench.patch(geometry.page_offset(1, 1), &bitmap::encode(misplaced, &[]));
    bench.patch(geometry.page_offset(1, 0), &[0; 4096]);
    let image = bench.open().expect("usable").image;
    assert_eq!(image.bad_pages, [vec![0], vec![0, 1]]);
    assert!(image.bitmaps[0][..508].iter().all(|word| *word == u64::MAX));
}

#[test]
fn a_log_that_cannot_be_trusted_is_unreadable_and_keeps_its_number() {
    for unreadable in [false, true] {
        for place in 0..3 {
            let mut bench = Bench::new(false);
            let at = bench.superblock.geometry.log_offset() + place * 4096;
            if unreadable {
                bench.ring.fail(libc::EIO, move |act| covers(act, at));
            } else {
                bench.patch(at, &[7; 4096]);
            }
            let opened = bench.open().expect("usable");
            let LogImage::Unreadable { next_transaction } = opened.image.log else {
                panic!("block {place} was trusted")
            };
            assert!(next_transaction >= 3, "{next_transaction}");
            assert!(opened.notes[0].contains("every extent counts as hot"), "{:?}", opened.notes);
            assert!(opened.image.bad_pages.iter().all(Vec::is_empty), "the rest is as it was");
        }
    }
}

#[test]
fn what_does_not_belong_here_is_refused_in_one_sentence() {
    let mut bench = Bench::new(false);
    let opened = bench.open_as(Expected { node: Some(NodeId(2)), ..Bench::expected() });
    let why = refusal(opened);
    assert!(why.starts_with("resource r0: metadata in /dev/vg/r0-meta: "), "{why}");
    assert!(why.contains("it belongs to node 1, and this is node 2"), "{why}");
    let other = Expected { resource: Some(ResourceId(1)), ..Bench::expected() };
    let why = refusal(bench.open_as(other));
    assert!(why.contains("it belongs to another resource"), "{why}");
    let first = Expected { resource: None, ..Bench::expected() };
    assert!(bench.open_as(first).is_ok(), "not known before the first opening");

    let whole = bench.files;
    bench.files.data_bytes = DEVICE_BLOCKS * 4096 - 1;
    let why = refusal(bench.open());
    assert!(why.contains("the data device has 266649599 bytes, fewer than the 266649600"), "{why}");
    bench.files = Files { metadata_bytes: whole.metadata_bytes - 1, ..whole };
    let why = refusal(bench.open());
    assert!(why.contains("it has 45055 bytes, fewer than the 45056 at `create`"), "{why}");
}

#[test]
fn a_newer_version_in_either_copy_is_refused() {
    for (internal, copy) in [(false, 0), (false, 1), (true, 0), (true, 1)] {
        let mut bench = Bench::new(internal);
        let mut bytes = superblock::encode(&bench.superblock);
        bytes[8] = 200;
        let sum = checksum::around(&bytes, 12);
        bytes[12..16].copy_from_slice(&sum.to_le_bytes());
        let offset = bench.superblock.geometry.superblock_offset(copy);
        bench.patch(offset, &bytes);
        let why = refusal(bench.open());
        assert!(why.contains("version 200"), "{why}");
    }
}

#[test]
fn where_nothing_was_laid_out_nothing_is_found() {
    for internal in [false, true] {
        let mut bench = Bench::new(internal);
        bench.bytes().fill(0);
        let refused = bench.open().err().expect("nothing is there");
        assert!(
            refused.absent && refused.why.contains("`twinblk create RESOURCE` lays it out"),
            "{}",
            refused.why
        );
        for length in [0, 100] {
            bench.bytes().truncate(length);
            bench.files.metadata_bytes = length as u64;
            if internal {
                bench.files.data_bytes = length as u64;
            }
            assert!(bench.open().err().expect("nothing fits").absent);
        }
    }
}

/// A superblock in the data of an internal disk, such as that of a resource inside this one, is
/// never taken for this disk's.
#[test]
fn a_superblock_in_the_data_is_never_believed() {
    let mut bench = Bench::new(true);
    let geometry = Geometry { device_blocks: 100, ..bench.superblock.geometry };
    let nested = Superblock { geometry, area: AreaId(5), ..bench.superblock.clone() };
    let bytes = superblock::encode(&nested);
    let same = superblock::encode(&Superblock { area: AreaId(6), ..bench.superblock.clone() });
    for block in 0..1000 {
        let bytes = if block % 2 == 0 { &bytes } else { &same };
        bench.bytes()[block * 4096..][..4096].copy_from_slice(bytes);
    }
    let last = bench.superblock.geometry.superblock_offset(1);
    bench.flip(last + 99);
    let opened = bench.open().expect("copy 0 is whole");
    assert_eq!(opened.image.superblock, bench.superblock);
    bench.flip(99);
    let why = refusal(bench.open());
    assert!(why.contains("no copy of the superblock is usable"), "{why}");
}

/// Two areas of different size began at the same place, and the copy that could tell is gone.
#[test]
fn two_candidates_are_one_too_many() {
    let mut bench = Bench::of(&Template::new(false, Layout { peer_slots: 4, ..LAYOUT }));
    let geometry = Geometry { peer_slots: 2, ..bench.superblock.geometry };
    let other = Superblock { geometry, area: AreaId(5), ..bench.superblock.clone() };
    bench.put_copy(1, &other);
    assert_eq!(bench.open().expect("copy 0 tells").image.superblock, bench.superblock);
    bench.flip(99);
    let why = refusal(bench.open());
    assert!(why.contains("two different candidates"), "{why}");
}

/// Many pages: several reads, of which one fails, are put together in the right order.
#[test]
fn large_bitmaps_are_read_in_pieces() {
    let device_blocks = 600 * 32_512 - 1;
    let geometry = Geometry { device_blocks, peer_slots: 2, log_extents: 1237 };
    let superblock = Superblock { geometry, ..Bench::new(false).superblock };
    let mut bench = Bench::new(false);
    let length = usize::try_from(geometry.metadata_bytes()).expect("small");
    bench.bytes().clear();
    bench.bytes().resize(length, 0);
    bench.files.metadata_bytes = geometry.metadata_bytes();
    bench.files.data_bytes = device_blocks * 4096;
    for (slot, page) in (0..2).flat_map(|slot| (0..600).map(move |page| (slot, page))) {
        let number = u64::from(slot) * 1000 + u64::from(page);
        let address = PageAddress { area: LAYOUT.area, slot, page };
        bench.patch(geometry.page_offset(slot, page), &bitmap::encode(address, &[number]));
    }
    for copy in 0..2 {
        bench.put_copy(copy, &superblock);
    }
    let bad = geometry.page_offset(0, 300);
    bench.ring.fail(libc::EIO, move |act| covers(act, bad));
    let image = bench.open().expect("usable").image;
    assert_eq!(image.bad_pages, [vec![300], vec![]]);
    for (slot, page) in (0..2).flat_map(|slot| (0..600).map(move |page| (slot, page))) {
        let found = image.bitmaps[slot][page * 508];
        let expected =
            if (slot, page) == (0, 300) { u64::MAX } else { (slot * 1000 + page) as u64 };
        assert_eq!(found, expected, "slot {slot} page {page}");
    }
}

/// A disk at work, its core played by the test, and a power cut.
fn persist(disk: &mut Disk, bench: &mut Bench, step: u64) {
    let Bench { ring, pool, superblock, .. } = bench;
    let id = PersistId(step);
    match step % 3 {
        0 => {
            let mut superblock = Superblock { serial: 2 + step, ..superblock.clone() };
            // So that a write cut short anywhere before its third sector is not whole.
            superblock.slots[2].bond.tentative = step;
            disk.persist_superblock(ring, pool, id, &superblock);
        }
        1 => {
            let words = [step; 508];
            let page = PageId { slot: 1, page: u32::from(step.is_multiple_of(2)) };
            disk.persist_pages(ring, pool, id, std::iter::once((page, &words[..])));
        }
        _ => {
            // Transaction n puts extent n into log slot n.
            let number = 4 + step / 3;
            let hot = u32::try_from(step / 3).expect("small");
            let window = window_for(number, 1237);
            let holds = |slot: u32| (slot <= hot).then_some(slot);
            let transaction = LogTransaction {
                number,
                updates: vec![(hot, Some(hot))],
                window_start: window.start,
                window: window.map(holds).collect(),
            };
            disk.persist_log(ring, pool, id, &transaction);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Power fails at any moment; what was under way may have reached the disk up to any sector,
    /// or not. All that was reported stable is there.
    #[test]
    fn what_was_persisted_survives_a_power_cut(
        steps in 1u64..24, ends in 0usize..80, torn in 0usize..=8, picks in any::<u64>(),
    ) {
        let mut bench = Bench::new(false);
        let opened = bench.open().expect("whole");
        let mut disk = opened.disk;
        let mut inputs = Vec::new();
        let mut asked = 0;
        for i in 0..ends {
            let pending = bench.ring.pending().len();
            if pending > 0 {
                let pick = usize::try_from(picks.rotate_left(u32::try_from(i).expect("small")) % 7)
                    .expect("small") % pending;
                let completion = bench.ring.end(&mut bench.pool, pick);
                disk.on_completion(&mut bench.ring, &mut bench.pool, &completion, &mut inputs);
            }
            // One persist of each kind at a time, as the core does.
            if asked < steps && (disk.is_idle() || asked % 3 != 0) {
                persist(&mut disk, &mut bench, asked);
                asked += 1;
            }
        }
        bench.ring.cut_power(&bench.pool, torn * 512);
        let stable: Vec<u64> = inputs.iter().map(|input| match input {
            Input::Persisted { id, result: Ok(()) } => id.0,
            other => panic!("{other:?}"),
        }).collect();
        bench.pool = private_pool();
        let image = bench.open().expect("one copy is whole").image;
        let newest = |kind: u64| stable.iter().copied().filter(|id| id % 3 == kind).max();
        if let Some(step) = newest(0) {
            prop_assert!(image.superblock.serial >= 2 + step);
        }
        for step in stable.iter().filter(|id| *id % 3 == 1) {
            let page = usize::from(step.is_multiple_of(2));
            let word = image.bitmaps[1][page * 508];
            prop_assert!(word >= *step, "page {page} holds {word}, {step} was stable");
        }
        let LogImage::Hot { slots, next_transaction } = image.log else {
            return Err(TestCaseError::fail("the log must be readable"));
        };
        if let Some(step) = newest(2) {
            prop_assert!(next_transaction > 4 + step / 3);
            let hot = usize::try_from(step / 3).expect("small");
            prop_assert!((0..=hot).all(|slot| slots[slot] == Some(u32::try_from(slot).expect("small"))));
        }
    }
}
