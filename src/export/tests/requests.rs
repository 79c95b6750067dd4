//! Every request, at every place, in every fragmentation.

use super::*;

fn zeroes(offset: u64, length: u32, flags: CommandFlags) -> Ask {
    Ask::new(Command::WRITE_ZEROES, 0, offset, length).flags(flags)
}

#[test]
fn each_command_reaches_the_core_as_what_it_means() {
    for structured in [false, true] {
        let mut world = World::new(MIB, 8 * MIB);
        let it = world.join(structured);
        let fua = CommandFlags::FUA;
        world.ask(it, Ask::new(Command::WRITE, 0, 10, 4).flags(fua), b"safe");
        world.write(it, 4096, &[7; 4096]);
        let read = world.read(it, 8, 8);
        world.ask(it, Ask::new(Command::TRIM, 0, 0, 8192), &[]);
        world.ask(it, zeroes(5, 6, CommandFlags::NO_HOLE | fua), &[]);
        world.ask(it, zeroes(5, 6, CommandFlags::NONE), &[]);
        world.ask(it, Ask::new(Command::FLUSH, 0, 0, 0), &[]);
        let before = world.device.bytes[8..16].to_vec();
        let hint = world.ask(it, Ask::new(Command::CACHE, 0, 0, 4096), &[]);
        world.rest();
        let log = [
            "write 10+4 fua=true",
            "write 4096+4096 fua=false",
            "read 8+8",
            "zero 0+8192 discard=true fua=false",
            "zero 5+6 discard=false fua=true",
            "zero 5+6 discard=true fua=false",
            "flush",
        ];
        assert_eq!(world.device.log, log);
        assert_eq!(world.data(it, read), [&before[..2], b"safe", &before[6..]].concat());
        assert_eq!(world.answer(it, hint), Some(Ok(())));
        assert_eq!(world.visitors[it].answers.len(), 8);
        assert!(world.visitors[it].answers.iter().all(|(_, result)| result.is_ok()));
        let counters = world.export.counters();
        assert_eq!((counters.reads, counters.writes, counters.zeroes), (1, 2, 3));
        assert_eq!((counters.flushes, counters.read_bytes, counters.written_bytes), (1, 8, 4100));
        assert_eq!(world.pool.used_bytes(Purpose::Client), 0);
    }
}

#[test]
fn requests_of_no_length_succeed_and_reach_nobody() {
    for structured in [false, true] {
        let mut world = World::new(MIB, MIB);
        let it = world.join(structured);
        for command in [Command::READ, Command::WRITE, Command::TRIM, Command::CACHE] {
            world.ask(it, Ask::new(command, 0, 17, 0), &[]);
        }
        world.ask(it, zeroes(MIB as u64, 0, CommandFlags::NONE), &[]);
        world.rest();
        assert!(world.device.log.is_empty());
        assert_eq!(world.visitors[it].answers.len(), 5);
        assert!(world.visitors[it].answers.iter().all(|(_, result)| result.is_ok()));
    }
}

#[test]
fn requests_in_pieces_of_one_byte_are_the_same_requests() {
    let mut world = World::new(MIB, 8 * MIB);
    let it = world.join(true);
    world.wire(it).fragment = 1;
    let written = pattern(20_000, 2);
    world.write(it, 4095, &written);
    let read = world.read(it, 4000, 20_500);
    world.write(it, 1, b"x");
    world.rest();
    let expected = [&pattern(MIB, 1)[4000..4095], &written, &pattern(MIB, 1)[24_095..24_500]];
    assert_eq!(world.data(it, read), expected.concat());
    assert_eq!(world.device.bytes[1], b'x');
}

#[test]
fn ranges_around_the_edges_of_pieces_and_blocks() {
    let size = 6 * MIB;
    let offsets = [0, 1, 4095, 4096, 4097, MIB as u64 - 1, MIB as u64, MIB as u64 + 1];
    let lengths = [1, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, 2 * MIB, 2 * MIB + 3];
    for structured in [false, true] {
        let mut world = World::new(size, 64 * MIB);
        let it = world.join(structured);
        let mut model = pattern(size, 1);
        for (seed, offset) in (2..).zip(offsets) {
            for length in lengths {
                let bytes = pattern(length, seed + length as u64);
                world.write(it, offset, &bytes);
                model[index(offset)..][..length].copy_from_slice(&bytes);
                let read = world.read(it, offset, length);
                world.rest();
                assert!(world.data(it, read) == bytes, "{offset}+{length}");
                world.visitors[it].data.clear();
            }
        }
        assert!(world.device.bytes == model);
        assert_eq!(world.pool.used_bytes(Purpose::Client), 0);
    }
}

#[test]
fn the_largest_write_and_read_arrive_whole_and_in_place() {
    let mut world = World::new(66 * MIB, 64 * MIB);
    let it = world.join(true);
    let bytes = pattern(64 * MIB, 3);
    world.write(it, 4095, &bytes);
    let read = world.read(it, 4095, 64 * MIB);
    world.rest();
    assert!(world.device.bytes[4095..][..64 * MIB] == bytes);
    assert!(world.data(it, read) == bytes);
    assert_eq!(world.pool.used_bytes(Purpose::Client), 0);
    // One receive per slot, at the place in the slot where the bytes belong.
    let receives = world.wire(it).received_at.len();
    assert!(receives <= 70, "{receives} receives");
    // 64 MiB in sends of 4 MiB, and the reply to the write.
    assert!(world.wire(it).sends <= 18, "{} sends", world.wire(it).sends);
}

#[test]
fn a_hundred_requests_of_a_turn_leave_in_one_send() {
    let mut world = World::new(MIB, 8 * MIB);
    let it = world.join(true);
    let cookies: Vec<u64> = (0..100).map(|i| world.read(it, i * 4096, 4096)).collect();
    world.rest();
    assert_eq!(world.wire(it).sends, 1);
    for (i, cookie) in cookies.into_iter().enumerate() {
        assert!(world.data(it, cookie) == &world.device.bytes[i * 4096..][..4096]);
    }
}

#[test]
fn what_the_negotiation_received_already_is_served() {
    let mut world = World::new(MIB, MIB);
    let mut client = Client::new(terms(world.export.options(), false));
    let ask = Ask::new(Command::WRITE, 1, 0, 8);
    let header = client.submit(ask).unwrap();
    let it = world.try_join(false, [&header[..], b"half"].concat()).unwrap();
    world.visitors[it].client = client;
    world.say(it, b"half");
    world.rest();
    assert_eq!(world.answer(it, 1), Some(Ok(())));
    assert_eq!(&world.device.bytes[..8], b"halfhalf");
}

#[test]
fn more_left_over_than_a_session_holds_is_turned_away() {
    let mut world = World::new(MIB, MIB);
    let turned_away = world.try_join(false, vec![0; 65_537]).unwrap_err();
    assert_eq!(turned_away, TurnedAway::TooMuch);
    world.rest();
    world.assert_idle();
}

#[test]
fn requests_that_break_a_rule_are_refused_with_its_errno_and_the_session_goes_on() {
    let end = MIB as u64;
    let table = [
        (Ask::new(Command::READ, 0, end, 1), Errno::INVAL),
        (Ask::new(Command::WRITE, 0, end - 1, 2), Errno::NOSPC),
        (Ask::new(Command::TRIM, 0, end, 1), Errno::INVAL),
        (zeroes(end, 1, CommandFlags::NONE), Errno::NOSPC),
        (zeroes(0, 1, CommandFlags::FAST_ZERO), Errno::INVAL),
        (Ask::new(Command::FLUSH, 0, 1, 0), Errno::INVAL),
        (Ask::new(Command::WRITE, 0, 0, 1).flags(CommandFlags::DF), Errno::INVAL),
        (Ask::new(Command::WRITE, 0, u64::MAX, 2), Errno::INVAL),
    ];
    for structured in [false, true] {
        let mut world = World::new(MIB, MIB);
        let it = world.join(structured);
        for fragment in [0, 1] {
            world.wire(it).fragment = fragment;
            for (ask, errno) in table {
                let payload = vec![0xaa; ask.payload_bytes() as usize];
                let cookie = world.ask(it, ask, &payload);
                world.rest();
                assert_eq!(world.answer(it, cookie), Some(Err(errno)), "{ask:?}");
            }
        }
        let long = vec![0; 65 * MIB];
        let ask = Ask::new(Command::READ, 0, 0, 65 << 20);
        // The client refuses to send these; the server must all the same be ready for them.
        world.say(it, &Ask { cookie: 900, ..ask }.encode());
        let write = Ask { command: Command::WRITE, cookie: 901, ..ask };
        world.wire(it).fragment = 0;
        world.say(it, &write.encode());
        world.say(it, &long);
        let mut sends = world.wire(it).sends;
        world.visitors[it].client = Client::new(terms(world.export.options(), structured));
        for _ in 0..2000 {
            world.turn_deaf();
        }
        sends = world.wire(it).sends - sends;
        assert!(sends >= 1 && !world.wire(it).closed);
        world.wire(it).from_server.clear();
        let read = world.read(it, 0, 4096);
        world.rest();
        assert_eq!(world.answer(it, read), Some(Ok(())));
        assert_eq!(world.export.counters().refused, 2 * table.len() as u64 + 2);
        assert_eq!(world.device.log.len(), 1, "nothing refused reached the core");
    }
}

impl World {
    /// A turn whose replies nobody decodes.
    fn turn_deaf(&mut self) {
        let visitors = std::mem::take(&mut self.visitors);
        self.turn();
        self.visitors = visitors;
    }
}
