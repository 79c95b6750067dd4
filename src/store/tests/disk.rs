//! Owns the proofs that a disk in use does what it is asked, in the order that makes it safe.

use super::fake_ring::{Act, FakeRing};
use crate::buffer::{Budgets, Payload, Pool, Purpose, Span};
use crate::format::extent_log::LogTransaction;
use crate::format::superblock::{DataState, Geometry, Superblock};
use crate::replica::event::{DiskError, Input, IoId, Output, PageId, Part};
use crate::replica::event::{PersistId, Want};
use crate::ring::{FileId, Lane};
use crate::store::{Disk, Place};
use crate::units::{AreaId, Blocks, NodeId, ResourceId};

const DATA: u32 = 0;
const METADATA: u32 = 1;
const DEVICE_BLOCKS: u64 = 70_000;

const GEOMETRY: Geometry =
    Geometry { device_blocks: DEVICE_BLOCKS, peer_slots: 2, log_extents: 1237 };

fn superblock(serial: u64) -> Superblock {
    Superblock {
        serial,
        resource: ResourceId(7),
        area: AreaId(6),
        geometry: GEOMETRY,
        data: DataState::Consistent,
        ..Superblock::blank(NodeId(1))
    }
}

/// A disk on two files, with its core played by the test.
struct Bench {
    ring: FakeRing,
    pool: Pool,
    disk: Disk,
    inputs: Vec<Input>,
}

impl Bench {
    fn new() -> Self {
        let place = Place { data: FileId(DATA), metadata: FileId(METADATA), metadata_offset: 8192 };
        let lengths = [1024 * 4096, 8192 + GEOMETRY.metadata_bytes()];
        let budgets =
            Budgets { client_bytes: 1 << 30, peer_bytes: 1 << 30, background_bytes: 512 << 10 };
        Self {
            ring: FakeRing::new(&lengths),
            pool: Pool::new(budgets),
            disk: Disk::new(Lane::new(3, 9), place, &superblock(1)),
            inputs: Vec::new(),
        }
    }

    fn ask(&mut self, effect: Output) {
        let left = self.disk.carry_out(&mut self.ring, &mut self.pool, effect);
        assert!(left.is_none(), "{left:?}");
    }

    /// Ends the `index`-th operation under way and hands its completion to the disk.
    fn end(&mut self, index: usize) {
        let completion = self.ring.end(&mut self.pool, index);
        let Self { ring, pool, disk, inputs } = self;
        disk.on_completion(ring, pool, &completion, inputs);
    }

    fn resume(&mut self, budget: usize) {
        let Self { ring, pool, disk, inputs } = self;
        let mut left = budget;
        disk.resume(ring, pool, &mut left, inputs);
    }

    /// Goes on until nothing is left to do; gives what the core was told.
    fn settle(&mut self) -> Vec<Input> {
        loop {
            while !self.ring.pending().is_empty() {
                self.end(0);
            }
            if !self.disk.has_work(&self.pool) {
                return std::mem::take(&mut self.inputs);
            }
            self.resume(256 << 10);
        }
    }

    fn payload(&mut self, blocks: u64, fill: u8) -> Payload {
        let length = u32::try_from(blocks * 4096).expect("small");
        let payload = self.pool.take(Purpose::Client, length as usize).expect("room");
        let span = Span { slot: payload.share(), offset: 0, length };
        self.pool.bytes_mut(span).fill(fill);
        payload
    }

    /// Asks for a write of one block and lets go of the slot at once.
    fn store(&mut self, io: u64, block: u64, fua: bool) {
        let payload = self.payload(1, 0xAB);
        let from = Part { payload: payload.share(), first: 0 };
        self.ask(Output::Store { io: IoId(io), blocks: Blocks::new(block, 1), from, fua });
        self.pool.release(payload);
    }

    fn persist_superblock(&mut self, id: u64, serial: u64) {
        let Self { ring, pool, disk, .. } = self;
        disk.persist_superblock(ring, pool, PersistId(id), &superblock(serial));
    }

    fn persist_pages(&mut self, id: u64, pages: &[PageId]) {
        let Self { ring, pool, disk, .. } = self;
        let words = [u64::MAX; 508];
        let pages = pages.iter().map(|page| (*page, &words[..]));
        disk.persist_pages(ring, pool, PersistId(id), pages);
    }

    fn persist_log(&mut self, id: u64, number: u64) {
        let Self { ring, pool, disk, .. } = self;
        let transaction = LogTransaction {
            number,
            updates: vec![(0, Some(5))],
            window_start: 0,
            window: vec![Some(5)],
        };
        disk.persist_log(ring, pool, PersistId(id), &transaction);
    }
}

fn done(io: u64, result: Result<(), DiskError>) -> String {
    format!("{:?}", Input::Done { io: IoId(io), result })
}

fn persisted(id: u64, result: Result<(), DiskError>) -> String {
    format!("{:?}", Input::Persisted { id: PersistId(id), result })
}

fn told(inputs: &[Input]) -> Vec<String> {
    inputs.iter().map(|input| format!("{input:?}")).collect()
}

#[test]
fn a_store_and_a_load_meet() {
    let mut bench = Bench::new();
    let source = bench.payload(3, 0x5A);
    let from = Part { payload: source.share(), first: 1 };
    let blocks = Blocks::new(10, 2);
    bench.ask(Output::Store { io: IoId(1), blocks, from, fua: false });
    // The core may let go as soon as it has spoken: the carrier holds the slot by itself.
    bench.pool.release(source);
    assert!(!bench.disk.is_idle());
    assert_eq!(told(&bench.settle()), [done(1, Ok(()))]);
    let target = bench.payload(3, 0);
    let into = Part { payload: target.share(), first: 1 };
    bench.ask(Output::Load { io: IoId(2), blocks, into });
    assert_eq!(told(&bench.settle()), [done(2, Ok(()))]);
    let bytes = |offset| Span { slot: target.share(), offset, length: 4096 };
    assert!(bench.pool.bytes(bytes(0)).iter().all(|byte| *byte == 0));
    assert!(bench.pool.bytes(bytes(4096)).iter().all(|byte| *byte == 0x5A));
    bench.pool.release(target);
    assert!(bench.disk.is_idle());
    assert_eq!(bench.pool.used_bytes(Purpose::Client), 0);
}

#[test]
fn fua_is_a_durable_write_and_a_zeroing_with_a_sync_behind_it() {
    let mut bench = Bench::new();
    bench.store(1, 4, true);
    let write = Act::Write { file: DATA, offset: 4 * 4096, length: 4096, durable: true };
    assert_eq!(bench.ring.pending(), [write]);
    assert_eq!(told(&bench.settle()), [done(1, Ok(()))]);
    let blocks = Blocks::new(4, 2);
    bench.ask(Output::Zero { io: IoId(2), blocks, discard: true, fua: true });
    bench.end(0);
    assert!(bench.inputs.is_empty(), "not stable yet");
    assert_eq!(bench.ring.pending(), [Act::Sync { file: DATA }]);
    assert_eq!(told(&bench.settle()), [done(2, Ok(()))]);
    assert!(bench.ring.files[0].stable[4 * 4096..6 * 4096].iter().all(|byte| *byte == 0));
    bench.ask(Output::Zero { io: IoId(3), blocks, discard: false, fua: false });
    assert_eq!(told(&bench.settle()), [done(3, Ok(()))]);
    bench.ask(Output::Sync { io: IoId(4) });
    assert_eq!(told(&bench.settle()), [done(4, Ok(()))]);
}

#[test]
fn the_second_superblock_copy_waits_for_the_first() {
    let mut bench = Bench::new();
    bench.persist_superblock(1, 10);
    bench.persist_superblock(2, 11);
    let copy = |copy| Act::Write {
        file: METADATA,
        offset: 8192 + GEOMETRY.superblock_offset(copy),
        length: 4096,
        durable: true,
    };
    for id in [1, 2] {
        assert_eq!(bench.ring.pending(), [copy(0)]);
        bench.end(0);
        assert!(bench.inputs.is_empty(), "one copy is not enough");
        assert_eq!(bench.ring.pending(), [copy(1)]);
        bench.end(0);
        assert_eq!(told(&std::mem::take(&mut bench.inputs)), [persisted(id, Ok(()))]);
    }
    assert!(bench.disk.is_idle());
    assert_eq!(bench.pool.used_bytes(Purpose::Fixed), 0);
}

#[test]
fn pages_are_written_together_and_synced_before_they_count() {
    let mut bench = Bench::new();
    let page = |slot, page| PageId { slot, page };
    bench.persist_pages(1, &[page(0, 0), page(0, 1), page(1, 0), page(1, 2)]);
    let pages = bench.ring.pending();
    // Page 2 of slot 0 was not asked for, so slot 1 does not join; nor does page 2 join page 0.
    let at = |slot, page| 8192 + GEOMETRY.page_offset(slot, page);
    let write = |offset, length| Act::Write { file: METADATA, offset, length, durable: false };
    assert_eq!(pages, [write(at(0, 0), 8192), write(at(1, 0), 4096), write(at(1, 2), 4096)]);
    for left in [2, 1, 0] {
        bench.end(left);
        assert!(bench.inputs.is_empty(), "not synced yet");
    }
    assert_eq!(bench.ring.pending(), [Act::Sync { file: METADATA }]);
    assert_eq!(told(&bench.settle()), [persisted(1, Ok(()))]);
    let file = &bench.ring.files[METADATA as usize];
    assert_eq!(file.stable, file.seen);
    assert!(bench.disk.is_idle());
}

#[test]
fn a_large_flush_of_pages_is_bounded_in_the_ring() {
    let mut bench = Bench::new();
    let geometry = Geometry { device_blocks: 1 << 23, ..GEOMETRY };
    let place = Place { data: FileId(DATA), metadata: FileId(METADATA), metadata_offset: 0 };
    bench.ring = FakeRing::new(&[4096, geometry.metadata_bytes()]);
    bench.disk = Disk::new(Lane::new(3, 9), place, &Superblock { geometry, ..superblock(1) });
    // Every other page, so that none join.
    let pages: Vec<_> = (0..128).map(|page| PageId { slot: 1, page: page * 2 }).collect();
    bench.persist_pages(1, &pages);
    assert_eq!(told(&bench.settle()), [persisted(1, Ok(()))]);
    assert_eq!(bench.ring.in_flight_max, 32);
    bench.ring.ended.clear();
    // And all of them: in writes of at most a slot.
    let pages: Vec<_> = (0..258).map(|page| PageId { slot: 0, page }).collect();
    bench.persist_pages(2, &pages);
    assert_eq!(told(&bench.settle()), [persisted(2, Ok(()))]);
    assert_eq!(bench.ring.ended.len(), 3, "1 MiB, two pages, a sync");
    assert_eq!(bench.pool.used_bytes(Purpose::Fixed), 0);
}

#[test]
fn a_log_block_is_one_durable_write_in_its_place() {
    let mut bench = Bench::new();
    let ring_blocks = GEOMETRY.log_ring_blocks();
    for number in [0, ring_blocks, ring_blocks + 1] {
        bench.persist_log(number, number);
        let offset = 8192 + 4096 + number % ring_blocks * 4096;
        let write = Act::Write { file: METADATA, offset, length: 4096, durable: true };
        assert_eq!(bench.ring.pending(), [write]);
        assert_eq!(told(&bench.settle()), [persisted(number, Ok(()))]);
    }
}

#[test]
fn writes_of_different_kinds_do_not_wait_for_each_other() {
    let mut bench = Bench::new();
    bench.persist_superblock(1, 1);
    bench.persist_pages(2, &[PageId { slot: 0, page: 0 }]);
    bench.persist_log(3, 0);
    bench.store(4, 0, false);
    assert_eq!(bench.ring.pending().len(), 4);
    assert_eq!(bench.settle().len(), 4);
}

#[test]
fn whichever_write_fails_all_later_ones_fail_and_reads_go_on() {
    type Begin = fn(&mut Bench);
    let writes: [(&str, Begin); 6] = [
        ("store", |bench| bench.store(1, 0, false)),
        ("zero", |bench| {
            let blocks = Blocks::new(0, 1);
            bench.ask(Output::Zero { io: IoId(1), blocks, discard: false, fua: false });
        }),
        ("sync", |bench| bench.ask(Output::Sync { io: IoId(1) })),
        ("superblock", |bench| bench.persist_superblock(1, 1)),
        ("pages", |bench| bench.persist_pages(1, &[PageId { slot: 0, page: 0 }])),
        ("log", |bench| bench.persist_log(1, 0)),
    ];
    for (name, first) in writes {
        let mut bench = Bench::new();
        bench.ring.fail(libc::EIO, |act| !matches!(act, Act::Read { .. }));
        first(&mut bench);
        let inputs = told(&bench.settle());
        assert!(inputs.len() == 1 && inputs[0].contains("Err(Io)"), "{name}: {inputs:?}");
        let failure = bench.disk.take_failure().expect("it was noted");
        assert!(failure.to_string().contains("Input/output error"), "{failure}");
        bench.ring.fault = Box::new(|_| None);
        for (later, begin) in writes {
            begin(&mut bench);
            assert!(bench.ring.pending().is_empty(), "{later} was tried after a failed {name}");
            assert!(bench.disk.has_work(&bench.pool), "its answer waits");
            let inputs = told(&bench.settle());
            assert!(inputs.len() == 1 && inputs[0].contains("Err(Io)"), "{later}: {inputs:?}");
        }
        let blocks = Blocks::new(0, 1);
        bench.ask(Output::Fetch { io: IoId(9), blocks, want: Want::default() });
        let inputs = bench.settle();
        let [Input::Fetched { result: Ok(fetched), .. }] =
            <[Input; 1]>::try_from(inputs).expect("one answer")
        else {
            panic!("reads are still tried")
        };
        bench.pool.release(fetched.payload);
        assert!(bench.disk.is_idle());
        assert_eq!(bench.pool.used_bytes(Purpose::Fixed), 0);
    }
}

#[test]
fn a_write_that_fails_stops_what_was_queued_behind_it() {
    let mut bench = Bench::new();
    bench.ring.fail(libc::EIO, |act| matches!(act, Act::Write { file: METADATA, .. }));
    bench.persist_superblock(1, 1);
    bench.persist_superblock(2, 2);
    let inputs = told(&bench.settle());
    assert_eq!(inputs, [persisted(1, Err(DiskError::Io)), persisted(2, Err(DiskError::Io))]);
    assert_eq!(bench.ring.ended.len(), 1, "neither copy 1 nor the second superblock was written");
}

#[test]
fn a_failed_page_write_is_never_synced_away() {
    let mut bench = Bench::new();
    let bad = 8192 + GEOMETRY.page_offset(1, 0);
    bench
        .ring
        .fail(libc::EIO, move |act| matches!(act, Act::Write { offset, .. } if offset == bad));
    bench.persist_pages(1, &[PageId { slot: 0, page: 0 }, PageId { slot: 1, page: 0 }]);
    // The failing one ends first; the other is still under way.
    bench.end(1);
    assert!(bench.inputs.is_empty(), "the buffers are still in use");
    assert_eq!(told(&bench.settle()), [persisted(1, Err(DiskError::Io))]);
    assert!(!bench.ring.ended.contains(&Act::Sync { file: METADATA }));
}

#[test]
fn a_full_disk_is_told_apart() {
    let mut bench = Bench::new();
    bench.ring.fail(libc::ENOSPC, |_| true);
    bench.store(1, 0, false);
    assert_eq!(told(&bench.settle()), [done(1, Err(DiskError::NoSpace))]);
    bench.store(2, 0, false);
    assert_eq!(told(&bench.settle()), [done(2, Err(DiskError::NoSpace))]);
}

#[test]
fn a_failed_read_does_not_make_the_disk_fail() {
    let mut bench = Bench::new();
    bench.ring.fail(libc::EIO, |act| matches!(act, Act::Read { .. }));
    let blocks = Blocks::new(0, 1);
    bench.ask(Output::Fetch { io: IoId(1), blocks, want: Want::default() });
    bench.ask(Output::Digest { io: IoId(2), blocks });
    let inputs = told(&bench.settle());
    assert!(inputs.len() == 2 && inputs.iter().all(|input| input.contains("Err(Io)")));
    assert_eq!(bench.pool.used_bytes(Purpose::Background), 0);
    bench.store(3, 0, false);
    assert_eq!(told(&bench.settle()), [done(3, Ok(()))]);
}

#[test]
fn a_fetch_says_what_it_was_asked() {
    let mut bench = Bench::new();
    bench.ring.files[0].seen[9 * 4096 + 77] = 1;
    let blocks = Blocks::new(8, 2);
    let wants = [(false, false), (true, false), (false, true), (true, true)];
    for (io, (scan, hash)) in (1..).zip(wants) {
        bench.ask(Output::Fetch { io: IoId(io), blocks, want: Want { scan, hash } });
        bench.ask(Output::Fetch {
            io: IoId(io + 10),
            blocks: Blocks::new(2, 2),
            want: Want { scan, hash },
        });
        let inputs = bench.settle();
        assert_eq!(inputs.len(), 2);
        for input in inputs {
            let Input::Fetched { io: which, result: Ok(fetched) } = input else { panic!() };
            let empty = which.0 > 10;
            assert_eq!(fetched.zero, scan && empty);
            let start = if empty { 2 * 4096 } else { 8 * 4096 };
            let bytes = &bench.ring.files[0].seen[start..start + 8192];
            let digest = hash.then(|| Box::new(*blake3::hash(bytes).as_bytes()));
            assert_eq!(fetched.digest, digest);
            bench.pool.release(fetched.payload);
        }
    }
}

#[test]
fn a_digest_hashes_each_block_and_keeps_no_memory() {
    let mut bench = Bench::new();
    bench.ring.files[0].seen[4096] = 1;
    bench.ask(Output::Digest { io: IoId(1), blocks: Blocks::new(0, 40) });
    let inputs = bench.settle();
    let [Input::Digested { result: Ok(digests), .. }] = &inputs[..] else { panic!("{inputs:?}") };
    let seen = bench.ring.files[0].seen.chunks_exact(4096).take(40);
    let expected: Vec<_> = seen.map(|block| *blake3::hash(block).as_bytes()).collect();
    assert_eq!(**digests, *expected);
    assert_ne!(digests[0], digests[1]);
    assert_eq!(bench.pool.used_bytes(Purpose::Background), 0);
}

#[test]
fn a_turn_looks_at_no_more_than_its_budget() {
    let mut bench = Bench::new();
    let want = Want { scan: false, hash: true };
    bench.ask(Output::Fetch { io: IoId(1), blocks: Blocks::new(0, 64), want });
    bench.end(0);
    let mut budget = 100 << 10;
    let Bench { ring, pool, disk, inputs } = &mut bench;
    disk.resume(ring, pool, &mut budget, inputs);
    assert_eq!(budget, 0, "all of it was used");
    assert!(inputs.is_empty() && disk.has_work(pool));
    budget = 100 << 10;
    disk.resume(ring, pool, &mut budget, inputs);
    assert!(inputs.is_empty());
    budget = 100 << 10;
    disk.resume(ring, pool, &mut budget, inputs);
    assert_eq!((budget, inputs.len()), (44 << 10, 1), "the other disks of the shard get the rest");
    assert!(!disk.has_work(pool));
}

#[test]
fn fetches_wait_for_memory_in_their_order() {
    let mut bench = Bench::new();
    let want = Want { scan: true, hash: false };
    // The budget is 512 KiB.
    for io in 0..4 {
        let blocks = Blocks::new(io * 64, 64);
        bench.ask(Output::Fetch { io: IoId(io), blocks, want });
    }
    bench.ask(Output::Digest { io: IoId(4), blocks: Blocks::new(0, 1) });
    assert_eq!(bench.ring.pending().len(), 2);
    let mut answered = Vec::new();
    while answered.len() < 4 {
        let inputs = bench.settle();
        assert!(!inputs.is_empty() && !bench.disk.is_idle());
        for input in inputs {
            let Input::Fetched { io, result: Ok(fetched) } = input else { panic!() };
            answered.push(io.0);
            assert!(!bench.disk.has_work(&bench.pool), "nothing can go on yet");
            bench.pool.release(fetched.payload);
            assert_eq!(bench.disk.has_work(&bench.pool), io.0 < 3, "the shard must not sleep");
            bench.resume(0);
        }
    }
    assert_eq!(answered, [0, 1, 2, 3]);
    let inputs = bench.settle();
    assert!(matches!(inputs[..], [Input::Digested { io: IoId(4), .. }]), "{inputs:?}");
    assert!(bench.disk.is_idle());
}

/// Edges of a client's unaligned writes, and reads for a peer, do not queue behind a resync.
#[test]
fn reads_that_someone_waits_for_pass_those_of_a_resync() {
    let mut bench = Bench::new();
    let want = Want { scan: true, hash: false };
    for io in 0..4 {
        bench.ask(Output::Fetch { io: IoId(io), blocks: Blocks::new(io * 64, 64), want });
    }
    assert_eq!(bench.ring.pending().len(), 2, "the budget is used up");
    bench.ask(Output::Fetch { io: IoId(9), blocks: Blocks::new(5, 1), want: Want::default() });
    assert_eq!(bench.ring.pending().len(), 3);
    bench.end(2);
    let inputs = std::mem::take(&mut bench.inputs);
    let [Input::Fetched { io: IoId(9), result: Ok(_) }] = &inputs[..] else { panic!("{inputs:?}") };
}

/// G22: a disk that hangs with all of the budget.
#[test]
fn a_disk_that_holds_nothing_reads_although_another_holds_all() {
    let mut bench = Bench::new();
    let stuck = Purpose::Background.of(1);
    let held = [(); 2].map(|()| bench.pool.take(stuck, 256 << 10).expect("room"));
    for io in 0..3 {
        bench.ask(Output::Digest { io: IoId(io), blocks: Blocks::new(0, 4) });
    }
    assert_eq!(bench.ring.pending().len(), 1);
    assert_eq!(bench.settle().len(), 3, "one after the other");
    held.into_iter().for_each(|payload| bench.pool.release(payload));
}

#[test]
fn nothing_outside_the_device_is_touched() {
    let mut bench = Bench::new();
    let payload = bench.payload(1, 0);
    let part = Part { payload: payload.share(), first: 0 };
    let wrong = [Blocks::new(DEVICE_BLOCKS, 1), Blocks::new(u64::MAX, 1), Blocks::new(0, 0)];
    for blocks in wrong {
        bench.ask(Output::Store { io: IoId(1), blocks, from: part, fua: false });
        bench.ask(Output::Load { io: IoId(2), blocks, into: part });
        bench.ask(Output::Zero { io: IoId(3), blocks, discard: false, fua: false });
        bench.ask(Output::Fetch { io: IoId(4), blocks, want: Want::default() });
        bench.ask(Output::Digest { io: IoId(5), blocks });
        assert!(bench.ring.pending().is_empty());
        let inputs = told(&bench.settle());
        assert!(inputs.len() == 5 && inputs.iter().all(|input| input.contains("Err(Io)")));
    }
    bench.pool.release(payload);
    bench.store(6, DEVICE_BLOCKS.min(1000), false);
    assert_eq!(told(&bench.settle()), [done(6, Ok(()))], "the disk itself is well");
}

#[test]
fn other_outputs_are_given_back() {
    let mut bench = Bench::new();
    let left = bench.disk.carry_out(&mut bench.ring, &mut bench.pool, Output::CloseDisk);
    assert!(matches!(left, Some(Output::CloseDisk)));
}
