//! Disk operations, on a real disk and in memory, in each way a file can be carried out.

use super::*;

const ENGINES: [FileEngine; 3] = [FileEngine::Uring, FileEngine::Inline, FileEngine::Pool];

fn files(world: &mut World, bytes: u64) -> Vec<FileId> {
    let mut files = Vec::new();
    for engine in ENGINES {
        files.push(world.ring.register_file(disk_file(bytes), engine));
        files.push(world.ring.register_file(memory_file(bytes), engine));
    }
    files
}

fn write(file: FileId, offset: u64, from: Span, durable: bool) -> Op {
    Op::Write { file, offset, from, durable }
}

on_both! {
    fn what_is_written_is_read_back(world) {
        let (source, from) = world.pattern(1 << 20, 7);
        let (target, into) = world.take(1 << 20);
        for file in files(&mut world, 8 << 20) {
            for durable in [false, true] {
                let offset = 1 << 20;
                world.pool.bytes_mut(into).fill(0);
                assert_eq!(world.run(write(file, offset, from, durable)), Ok(1 << 20));
                assert_eq!(world.run(Op::Sync { file }), Ok(0));
                assert_eq!(world.run(Op::Read { file, offset, into }), Ok(1 << 20));
                assert!(world.pool.bytes(into) == world.pool.bytes(from));
            }
        }
        world.pool.release(source);
        world.pool.release(target);
    }

    fn zeroed_ranges_read_as_zeroes_and_nothing_else_does(world) {
        const PIECE: u64 = 1 << 20;
        let (source, from) = world.pattern(1 << 20, 3);
        let (target, into) = world.take(1 << 20);
        for file in files(&mut world, 4 * PIECE) {
            for mode in [ZeroMode::Keep, ZeroMode::Discard] {
                for piece in 0..4 {
                    assert_eq!(world.run(write(file, piece * PIECE, from, false)), Ok(1 << 20));
                }
                let (offset, length) = (PIECE - 4096, 2 * PIECE + 4096);
                assert_eq!(world.run(Op::Zero { file, offset, length, mode }), Ok(0));
                for (piece, zeroes_from) in [(0, (1 << 20) - 4096), (1, 0), (2, 0), (3, 1 << 20)] {
                    let offset = piece * PIECE;
                    assert_eq!(world.run(Op::Read { file, offset, into }), Ok(1 << 20));
                    let (before, zeroes) = world.pool.bytes(into).split_at(zeroes_from);
                    assert!(before == &world.pool.bytes(from)[..zeroes_from], "piece {piece}");
                    assert!(zeroes.iter().all(|byte| *byte == 0), "piece {piece}");
                }
            }
        }
        world.pool.release(source);
        world.pool.release(target);
    }

    fn reading_past_the_end_is_an_error(world) {
        let (target, into) = world.take(8192);
        for file in files(&mut world, 4096) {
            assert_eq!(world.run(Op::Read { file, offset: 0, into }), Err(Errno(libc::EIO)));
            assert_eq!(world.run(Op::Read { file, offset: 8192, into }), Err(Errno(libc::EIO)));
        }
        world.pool.release(target);
    }

    fn errors_of_the_kernel_come_through(world) {
        let (target, into) = world.take(4096);
        let unknown = FileId(99);
        for op in [
            Op::Read { file: unknown, offset: 0, into },
            write(unknown, 0, into, false),
            Op::Sync { file: unknown },
            Op::Zero { file: unknown, offset: 0, length: 4096, mode: ZeroMode::Keep },
        ] {
            assert_eq!(world.run(op), Err(Errno(libc::EBADF)));
        }
        for engine in ENGINES {
            let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("there");
            let file = world.ring.register_file(full.into(), engine);
            assert_eq!(world.run(write(file, 0, into, false)), Err(Errno(libc::ENOSPC)));
            assert_eq!(world.run(Op::Read { file, offset: 0, into }), Err(Errno(libc::EBADF)));
        }
        world.pool.release(target);
    }

    fn a_completion_never_comes_at_once(world) {
        let (target, into) = world.take(4096);
        let file = world.ring.register_file(memory_file(4096), FileEngine::Inline);
        let token = world.start(Op::Read { file, offset: 0, into });
        assert!(world.completions.is_empty());
        world.peek();
        assert_eq!(world.completions.pop().map(|done| done.token), Some(token));
        world.pool.release(target);
    }

    fn a_file_comes_back_only_when_it_rests(world) {
        let (target, into) = world.take(4096);
        let file = world.ring.register_file(disk_file(4096), FileEngine::Pool);
        let token = world.start(Op::Read { file, offset: 0, into });
        assert!(world.ring.release_file(file).is_none());
        assert_eq!(world.wait(token).result, Ok(4096));
        assert!(world.ring.release_file(file).is_some());
        assert!(world.ring.release_file(file).is_none());
        assert_eq!(world.run(Op::Sync { file }), Err(Errno(libc::EBADF)));
        world.pool.release(target);
    }

    fn ten_thousand_operations_at_once_all_end(world) {
        const COUNT: u64 = 10_000;
        let (target, into) = world.take(4096);
        let (source, from) = world.pattern(4096, 1);
        let disk = world.ring.register_file(disk_file(1 << 20), FileEngine::Uring);
        let memory = world.ring.register_file(memory_file(1 << 20), FileEngine::Uring);
        for number in 0..COUNT {
            let offset = number % 256 * 4096;
            world.start(match number % 3 {
                0 => write(memory, offset, from, false),
                1 => Op::Read { file: disk, offset, into },
                _ => Op::Read { file: memory, offset, into },
            });
        }
        while world.completions.len() < 10_000 {
            world.ring.turn(&mut world.pool, Nanos::NEVER, &mut world.completions);
        }
        world.peek();
        let mut tokens: Vec<_> = world.completions.iter().map(|done| done.token.0).collect();
        tokens.sort_unstable();
        assert!(tokens.into_iter().eq(1..=COUNT), "each operation ends once");
        assert!(world.completions.iter().all(|done| done.result == Ok(4096)));
        world.pool.release(target);
        world.pool.release(source);
    }

    fn a_ring_dropped_in_mid_flight_waits_for_the_kernel(world) {
        let (_, from) = world.pattern(1 << 20, 9);
        let disk = disk_file(64 << 20);
        let same = disk.try_clone().expect("a descriptor");
        for engine in [FileEngine::Uring, FileEngine::Pool] {
            let again = disk.try_clone().expect("a descriptor");
            let file = world.ring.register_file(again, engine);
            for piece in 0..32 {
                world.start(write(file, piece << 20, from, true));
            }
            world.start(Op::Sync { file });
        }
        world.peek();
        let World { ring, mut pool, .. } = world;
        drop(ring);
        // Whatever lands from here on would land with these bytes.
        pool.bytes_mut(from).fill(0xEE);
        let mut read = vec![0; 64 << 20];
        let file = std::fs::File::from(same);
        nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_SETFL(OFlag::empty())).expect("flags");
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut read, 0).expect("readable");
        assert!(read.chunks(4096).all(|block| block.iter().any(|byte| *byte != 0xEE)));
    }
}
