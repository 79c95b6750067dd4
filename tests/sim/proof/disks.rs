//! Owns the proof of the simulated disk. Must never know the network.

use twinblk::ring::{Errno, Op};

use super::Test;
use super::bench::{Bench, DISK_BYTES};
use crate::disk::Failing;

pub(crate) const TESTS: [Test; 13] = [
    ("disk::reads_what_was_written", reads_what_was_written),
    ("disk::a_power_cut_spares_what_was_synced", a_power_cut_spares_what_was_synced),
    ("disk::a_durable_write_needs_no_sync", a_durable_write_needs_no_sync),
    ("disk::a_sync_covers_only_what_had_ended", a_sync_covers_only_what_had_ended),
    ("disk::power_cuts_tear_at_sectors", power_cuts_tear_at_sectors),
    ("disk::overlapping_writes_end_either_way", overlapping_writes_end_either_way),
    ("disk::late_writes_hold_the_lock", late_writes_hold_the_lock),
    ("disk::a_closed_disk_is_free_for_another", a_closed_disk_is_free),
    ("disk::errors_come_once_or_for_ever", errors_come_once_or_for_ever),
    ("disk::a_failed_sync_is_not_made_good", a_failed_sync_is_not_made_good),
    ("disk::a_hang_ends_with_healing", a_hang_ends_with_healing),
    ("disk::misaligned_and_outside_is_refused", misaligned_and_outside_is_refused),
    ("disk::zeroes_read_as_zeroes", zeroes_read_as_zeroes),
];

fn reads_what_was_written() {
    let mut bench = Bench::new(1);
    let file = bench.open(0);
    let write = bench.lives[0].write(file, 3584, (7, 1024));
    assert_eq!(bench.end(0, write), Ok(1024));
    let read = bench.lives[0].read(file, 3584, 1536);
    assert_eq!(bench.end(0, read), Ok(1536));
    let bytes = bench.lives[0].bytes(read);
    assert!(bytes[..1024].iter().all(|byte| *byte == 7));
    assert!(bytes[1024..].iter().all(|byte| *byte == 0));
}

/// Cuts the power of host 0 and tells the first byte of each of its first sectors.
fn after_power_cut(bench: &mut Bench, sectors: usize) -> Vec<u8> {
    bench.world.borrow_mut().cut_power(0, &[0]);
    bench.live(0, 0, sectors * 512).chunks(512).map(|sector| sector[0]).collect()
}

/// What many power cuts leave, each after the same story.
fn outcomes(sectors: usize, story: fn(&mut Bench)) -> Vec<Vec<u8>> {
    let outcome = |seed| {
        let mut bench = Bench::new(seed);
        story(&mut bench);
        after_power_cut(&mut bench, sectors)
    };
    let mut all: Vec<Vec<u8>> = (0..300).map(outcome).collect();
    all.sort();
    all.dedup();
    all
}

fn a_power_cut_spares_what_was_synced() {
    let left = outcomes(2, |bench| {
        let file = bench.open(0);
        let write = bench.lives[0].write(file, 0, (1, 512));
        let _ = bench.end(0, write);
        let sync = bench.lives[0].submit(Op::Sync { file });
        let _ = bench.end(0, sync);
        let write = bench.lives[0].write(file, 512, (2, 512));
        let _ = bench.end(0, write);
    });
    assert_eq!(left, [[1, 0], [1, 2]]);
}

fn a_durable_write_needs_no_sync() {
    let left = outcomes(1, |bench| {
        let file = bench.open(0);
        for (value, durable) in [(1, false), (2, true)] {
            let write = bench.lives[0].write_with(file, 0, (value, 512), durable);
            let _ = bench.end(0, write);
        }
    });
    assert_eq!(left, [[2]], "nor does an older write go over it");
}

fn a_sync_covers_only_what_had_ended() {
    let left = outcomes(1, |bench| {
        let file = bench.open(0);
        let write = bench.lives[0].write(file, 0, (1, 512));
        let sync = bench.lives[0].submit(Op::Sync { file });
        let _ = (bench.end(0, write), bench.end(0, sync));
    });
    assert_eq!(left, [[0], [1]]);
}

fn power_cuts_tear_at_sectors() {
    let left = outcomes(2, |bench| {
        let file = bench.open(0);
        bench.lives[0].write(file, 0, (1, 1024));
        bench.pass(10_000);
    });
    assert_eq!(left, [[0, 0], [0, 1], [1, 0], [1, 1]]);
}

fn overlapping_writes_end_either_way() {
    let last = |seed| {
        let mut bench = Bench::new(seed);
        let file = bench.open(0);
        for value in [1, 2] {
            bench.lives[0].write(file, 0, (value, 512));
        }
        bench.settle();
        bench.live(0, 0, 1)[0]
    };
    let winners: Vec<u8> = (0..40).map(last).collect();
    assert!(winners.contains(&1) && winners.contains(&2));
}

fn late_writes_hold_the_lock() {
    let (mut late, mut never) = (0, 0);
    for seed in 0..100 {
        let mut bench = Bench::new(seed);
        let file = bench.open(0);
        bench.lives[0].write(file, 0, (1, 512));
        let old = bench.lives[0].life;
        bench.world.borrow_mut().kill(old);
        bench.restart(0);
        let under_way = bench.world.borrow().disks[0].in_flight();
        let opened = bench.lives[0].ring.open_disk(0);
        assert_eq!(opened.is_err(), under_way > 0);
        if let Err(errno) = opened {
            assert_eq!(errno, Errno(libc::EWOULDBLOCK));
            bench.settle();
            assert_eq!(bench.live(0, 0, 1), [1], "what holds the lock lands");
            assert!(bench.lives[0].ring.open_disk(0).is_ok(), "then the lock is free");
            late += 1;
        } else {
            never += 1;
        }
    }
    assert!(late > 20 && never > 20, "{late} {never}");
}

fn a_closed_disk_is_free() {
    let bench = Bench::new(1);
    let file = bench.open(0);
    assert_eq!(bench.lives[1].ring.open_disk(0), Err(Errno(libc::EWOULDBLOCK)));
    bench.lives[0].ring.close_disk(file);
    assert!(bench.lives[1].ring.open_disk(0).is_ok());
}

fn errors_come_once_or_for_ever() {
    let mut bench = Bench::new(1);
    let file = bench.open(0);
    bench.world.borrow_mut().disks[0].faults.reads = Failing::Once(libc::EIO);
    bench.world.borrow_mut().disks[0].faults.writes = Failing::Always(libc::EIO);
    for expected in [Err(Errno(libc::EIO)), Ok(512)] {
        let read = bench.lives[0].read(file, 0, 512);
        assert_eq!(bench.end(0, read), expected);
    }
    for _ in 0..2 {
        let write = bench.lives[0].write(file, 0, (1, 512));
        assert_eq!(bench.end(0, write), Err(Errno(libc::EIO)));
    }
}

fn a_failed_sync_is_not_made_good() {
    let left = outcomes(1, |bench| {
        let file = bench.open(0);
        let write = bench.lives[0].write(file, 0, (1, 512));
        let _ = bench.end(0, write);
        bench.world.borrow_mut().disks[0].faults.syncs = Failing::Once(libc::EIO);
        for expected in [Err(Errno(libc::EIO)), Ok(0)] {
            let sync = bench.lives[0].submit(Op::Sync { file });
            assert_eq!(bench.end(0, sync), expected);
        }
    });
    assert_eq!(left, [[0], [1]]);
}

fn a_hang_ends_with_healing() {
    let mut bench = Bench::new(1);
    let file = bench.open(0);
    bench.world.borrow_mut().disks[0].faults.hung = true;
    let write = bench.lives[0].write(file, 0, (1, 512));
    bench.settle();
    assert!(!bench.lives[0].done.contains_key(&write));
    {
        let world = &mut *bench.world.borrow_mut();
        world.disks[0].heal(&mut world.clockwork);
    }
    assert_eq!(bench.end(0, write), Ok(512));
}

fn misaligned_and_outside_is_refused() {
    let mut bench = Bench::new(1);
    let file = bench.open(0);
    for offset in [100, DISK_BYTES, u64::MAX - 511] {
        let read = bench.lives[0].read(file, offset, 512);
        assert_eq!(bench.end(0, read), Err(Errno(libc::EINVAL)));
    }
}

fn zeroes_read_as_zeroes() {
    let mut bench = Bench::new(1);
    let file = bench.open(0);
    let write = bench.lives[0].write(file, 0, (1, 16_384));
    let _ = bench.end(0, write);
    let mode = twinblk::ring::ZeroMode::Discard;
    let zero = bench.lives[0].submit(Op::Zero { file, offset: 512, length: 9728, mode });
    assert!(bench.end(0, zero).is_ok());
    let bytes = bench.live(0, 0, 16_384);
    let zeroes = bytes.iter().filter(|byte| **byte == 0).count();
    assert_eq!(zeroes, 9728);
}
