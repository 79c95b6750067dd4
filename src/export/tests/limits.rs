//! What one client may use, what it gets when others want it too, and what it loses by idling.

use super::*;
use crate::limits::{CLIENT_BYTES_MAX, CLIENT_REQUESTS_MAX, CLIENT_STALL, EXPORT_REQUESTS_MAX};

#[test]
fn a_session_has_so_many_requests_in_the_core_and_no_more() {
    let mut world = World::new(MIB, 64 * MIB);
    let it = world.join(true);
    world.device.pace = 0;
    for _ in 0..3 * CLIENT_REQUESTS_MAX {
        world.ask(it, Ask::new(Command::TRIM, 0, 0, 4096), &[]);
    }
    world.rest();
    assert_eq!(world.export.requests_in_core(), CLIENT_REQUESTS_MAX);
    world.device.pace = 1;
    world.rest();
    assert_eq!(world.visitors[it].answers.len(), 3 * CLIENT_REQUESTS_MAX);
}

#[test]
fn a_session_holds_so_many_bytes_and_no_more() {
    let mut world = World::new(8 * MIB, 1024 * MIB);
    let it = world.join(true);
    world.device.pace = 0;
    for _ in 0..60 {
        world.read(it, 0, MIB);
    }
    world.rest();
    assert_eq!(world.pool.used_bytes(Purpose::Client) as u64, CLIENT_BYTES_MAX);
    world.device.pace = 1;
    world.rest();
    assert_eq!(world.visitors[it].answers.len(), 60);
    assert_eq!(world.pool.used_bytes(Purpose::Client), 0);
}

#[test]
fn a_client_that_never_reads_stops_being_served_and_costs_no_more() {
    let mut world = World::new(8 * MIB, 1024 * MIB);
    let [deaf, other] = [(); 2].map(|()| world.join(false));
    world.wire(deaf).reads = false;
    for _ in 0..100 {
        world.read(deaf, 0, MIB);
    }
    world.rest();
    let used = world.pool.used_bytes(Purpose::Client) as u64;
    assert!(used <= CLIENT_BYTES_MAX, "{used} bytes");
    let read = world.read(other, 0, MIB);
    world.rest();
    assert_eq!(world.answer(other, read), Some(Ok(())));
    world.wire(deaf).reads = true;
    world.rest();
    assert_eq!(world.visitors[deaf].answers.len(), 100);
}

#[test]
fn answers_without_data_do_not_pile_up_either() {
    let mut world = World::new(MIB, MIB);
    let it = world.join(false);
    world.wire(it).reads = false;
    let asked = 1 << 20;
    let hint = Ask::new(Command::CACHE, 1, 0, 1).encode();
    for _ in 0..asked {
        world.say(it, &hint);
    }
    world.rest();
    let left = world.wire(it).to_server.len() / hint.len();
    assert!(asked - left < 600_000, "{} were answered into the void", asked - left);
}

#[test]
fn a_small_budget_delays_and_never_blocks() {
    let mut world = World::new(8 * MIB, 64 << 10);
    let [a, b] = [(); 2].map(|()| world.join(true));
    for i in 0..20 {
        world.write(a, i * 4096, &[1; 4096]);
        world.read(b, 0, 3 * MIB);
        world.write(b, 0, &pattern(MIB + 1, i));
    }
    world.rest();
    assert_eq!(world.visitors[a].answers.len(), 20);
    assert_eq!(world.visitors[b].answers.len(), 40);
    assert_eq!(world.pool.used_bytes(Purpose::Client), 0);
    assert!(!world.pool.has_line(Purpose::Client));
}

#[test]
fn waiting_clients_take_turns() {
    // Room for one request, the core answers one a turn: a flood and a trickle come out even.
    let mut world = World::new(8 * MIB, MIB);
    let [flood, trickle] = [(); 2].map(|()| world.join(true));
    world.device.pace = 1;
    for _ in 0..100 {
        world.read(flood, 0, MIB);
    }
    for _ in 0..5 {
        world.turn();
    }
    for _ in 0..10 {
        world.read(trickle, MIB as u64, MIB);
    }
    let before = world.visitors[flood].answers.len();
    while world.visitors[trickle].answers.len() < 10 {
        world.turn();
    }
    let passed = world.visitors[flood].answers.len() - before;
    assert!((8..=13).contains(&passed), "{passed} of the flood while 10 of the trickle");
}

#[test]
fn a_large_request_is_not_starved_by_small_ones() {
    let mut world = World::new(8 * MIB, 8 * MIB);
    let [small, large] = [(); 2].map(|()| world.join(true));
    world.device.pace = 2;
    for _ in 0..100 {
        world.read(small, 0, 256 << 10);
    }
    world.turn();
    world.turn();
    let read = world.read(large, 0, 8 * MIB);
    while world.answer(large, read).is_none() {
        world.turn();
    }
    let before = world.visitors[small].answers.len();
    assert!(before < 60, "{before} small ones went first, more than were in the core already");
}

#[test]
fn nobody_passes_a_waiter_although_there_would_be_room() {
    let mut world = World::new(8 * MIB, 2 * MIB);
    let [holder, waiter, small] = [(); 3].map(|()| world.join(true));
    world.device.pace = 0;
    world.read(holder, 0, MIB);
    world.rest();
    let first = world.read(waiter, 0, 2 * MIB);
    world.rest();
    let second = world.read(small, 0, 4096);
    // What takes no memory need not wait for it.
    let flush = world.ask(holder, Ask::new(Command::FLUSH, 0, 0, 0), &[]);
    world.rest();
    assert_eq!(world.export.requests_in_core(), 2, "the read and the flush of the holder");
    world.device.pace = 1;
    while world.answer(small, second).is_none() {
        world.turn();
    }
    assert_eq!(world.answer(waiter, first), Some(Ok(())), "it was there before");
    assert_eq!(world.answer(holder, flush), Some(Ok(())));
}

#[test]
fn a_session_that_ends_in_line_lets_the_next_one_on() {
    let mut world = World::new(8 * MIB, MIB);
    let [holder, waiter, next] = [(); 3].map(|()| world.join(true));
    world.device.pace = 0;
    world.read(holder, 0, MIB);
    world.rest();
    world.read(waiter, 0, MIB);
    world.write(waiter, 0, b"and something in the core");
    world.rest();
    let read = world.read(next, 0, 4096);
    world.rest();
    assert!(world.pool.has_line(Purpose::Client));
    let id = world.export.first_in_line(&world.pool).expect("the waiter");
    world.export.end(&mut world.ring, &mut world.pool, id, super::super::End::BrokeOff);
    world.device.pace = 1;
    world.rest();
    assert_eq!(world.answer(next, read), Some(Ok(())));
    assert!(world.wire(waiter).closed && !world.pool.has_line(Purpose::Client));
}

#[test]
fn memory_that_others_of_the_shard_give_back_wakes_who_waits_for_it() {
    let mut world = World::new(8 * MIB, 2 * MIB);
    let it = world.join(true);
    let range = Bytes::new(0, MIB as u64);
    let others =
        [(); 2].map(|()| spread::take(&mut world.pool, Purpose::Client.of(1), range).unwrap());
    let read = world.read(it, 100, MIB);
    world.rest();
    for (left, pieces) in (0..2).rev().zip(others) {
        assert_eq!(world.export.deadline(&world.pool), Nanos::NEVER, "{left} MiB more to come");
        spread::release(&mut world.pool, pieces);
    }
    assert_eq!(world.export.deadline(&world.pool), Nanos::default());
    world.turn();
    assert_eq!(world.export.deadline(&world.pool), Nanos::NEVER);
    world.rest();
    assert_eq!(world.answer(it, read), Some(Ok(())));
}

/// G22: what another resource of the shard holds for ever, and waits for, stops nobody here.
#[test]
fn a_resource_that_never_answers_does_not_stop_the_others() {
    let mut world = World::new(8 * MIB, 2 * MIB);
    let stuck = Purpose::Client.of(9);
    let held = [(); 2].map(|()| world.pool.take(stuck, MIB).expect("room"));
    let ticket = world.pool.join_line(stuck);
    let visitors = [(); 2].map(|()| world.join(true));
    for it in visitors {
        let reads = [4096, 4 * MIB, MIB].map(|bytes| world.read(it, 0, bytes));
        world.rest();
        assert!(reads.iter().all(|read| world.answer(it, *read) == Some(Ok(()))));
    }
    assert_eq!(world.pool.used_bytes(Purpose::Client), 2 * MIB);
    world.pool.leave_line(stuck, ticket);
    held.into_iter().for_each(|payload| world.pool.release(payload));
}

#[test]
fn requests_of_the_dead_count_until_the_core_has_answered_them() {
    let mut world = World::new(MIB, 64 * MIB);
    world.device.pace = 0;
    let flush = Ask::new(Command::FLUSH, 0, 0, 0);
    for _ in 0..2 * EXPORT_REQUESTS_MAX / CLIENT_REQUESTS_MAX {
        let it = world.join(true);
        for _ in 0..CLIENT_REQUESTS_MAX {
            world.ask(it, flush, &[]);
        }
        world.say(it, b"garbage, so that the session ends at once");
        world.turn();
        world.turn();
        world.wire(it).gone = true;
        world.turn();
    }
    world.rest();
    assert_eq!(world.export.requests_in_core(), EXPORT_REQUESTS_MAX);
    // The living wait, and are served once the core moves.
    world.device.pace = 7;
    world.rest();
    let it = world.join(true);
    let cookie = world.ask(it, flush, &[]);
    world.rest();
    assert_eq!(world.answer(it, cookie), Some(Ok(())));
    assert_eq!(world.export.requests_in_core(), 0);
}

/// A client that holds all memory by sending half a payload, or by not reading its reply.
fn hoarder(reading: bool) -> (World, usize, usize) {
    let mut world = World::new(8 * MIB, MIB);
    let [hoarder, other] = [(); 2].map(|()| world.join(true));
    world.wire(hoarder).reads = false;
    if reading {
        world.read(hoarder, 0, MIB);
    } else {
        world.write(hoarder, 0, &[0; MIB]);
        world.wire(hoarder).to_server.truncate(MIB / 2);
    }
    world.rest();
    assert_eq!(world.export.deadline(&world.pool), Nanos::NEVER, "nobody is harmed");
    world.ring.now = world.ring.now + CLIENT_STALL + CLIENT_STALL;
    world.rest();
    assert!(!world.wire(hoarder).closed);
    (world, hoarder, other)
}

#[test]
fn who_keeps_memory_and_does_nothing_gives_way_to_who_waits() {
    for reading in [true, false] {
        let (mut world, hoarder, other) = hoarder(reading);
        let read = world.read(other, 0, 4096);
        // Eight seconds' worth of credit for half a MiB.
        world.ring.now = world.ring.now + Nanos::from_millis(9000);
        world.rest();
        assert_eq!(world.answer(other, read), Some(Ok(())));
        assert!(world.wire(hoarder).closed);
        assert_eq!(world.pool.used_bytes(Purpose::Client), 0);
    }
}

#[test]
fn who_goes_on_sending_is_left_in_peace() {
    let mut world = World::new(8 * MIB, MIB);
    let [slow, other] = [(); 2].map(|()| world.join(true));
    world.write(slow, 0, &[0; MIB]);
    world.wire(slow).fragment = 10_000;
    let read = world.read(other, 0, 4096);
    for _ in 0..200 {
        world.ring.now = world.ring.now + Nanos::from_millis(140);
        world.turn();
    }
    assert_eq!(world.answer(slow, 1), Some(Ok(())));
    assert_eq!(world.answer(other, read), Some(Ok(())));
}
