//! Every way a session ends: nothing is left behind, and no later session hears of it.

use super::*;
use crate::limits::{CLIENT_REQUESTS_MAX, CLIENTS_MAX};
use crate::replica::event::RequestId;

#[test]
fn hanging_up_in_the_middle_of_a_payload_gives_back_its_slots() {
    for (length, sent) in [(MIB, 5000), (4 * MIB + 1, 2 * MIB), (4096, 0), (20_000, 19_999)] {
        for fragment in [0, 1000] {
            for gone in [false, true] {
                let mut world = World::new(8 * MIB, 64 * MIB);
                let it = world.join(true);
                world.wire(it).fragment = fragment;
                world.write(it, 100, &pattern(length, 2));
                let unsent = length - sent;
                let keep = world.wire(it).to_server.len() - unsent;
                world.wire(it).to_server.truncate(keep);
                world.rest();
                assert!(world.pool.used_bytes(Purpose::Client) > 0);
                world.wire(it).hung_up = true;
                world.wire(it).gone = gone;
                world.rest();
                assert!(world.device.log.is_empty(), "half a write is no write");
                world.assert_idle();
            }
        }
    }
}

#[test]
fn hanging_up_in_the_middle_of_a_header_ends_the_session() {
    let mut world = World::new(MIB, MIB);
    let it = world.join(true);
    world.read(it, 0, 10);
    world.wire(it).to_server.truncate(27);
    world.wire(it).hung_up = true;
    world.rest();
    assert!(world.device.log.is_empty());
    world.assert_idle();
}

#[test]
fn going_away_in_the_middle_of_a_reply_gives_back_its_slots() {
    let mut world = World::new(8 * MIB, 64 * MIB);
    let it = world.join(true);
    world.wire(it).reads = false;
    for i in 0..8 {
        world.read(it, i << 20, MIB);
    }
    world.rest();
    assert_eq!(world.pool.used_bytes(Purpose::Client), 8 * MIB);
    world.wire(it).gone = true;
    world.rest();
    world.assert_idle();
}

#[test]
fn a_client_that_takes_its_leave_is_answered_first() {
    // As a DISC, which libnbd follows up by closing its sending side, or as that alone.
    for disc in [true, false] {
        let mut world = World::new(MIB, 8 * MIB);
        let it = world.join(true);
        let cookies = [world.write(it, 0, &[9; 4096]), world.read(it, 0, 4096)];
        if disc {
            world.say(it, &Client::disconnect());
            world.say(it, b"whatever follows is not read");
        }
        world.wire(it).hung_up = true;
        world.device.pace = 0;
        world.rest();
        assert!(!world.wire(it).closed && world.export.requests_in_core() == 2);
        world.device.pace = 1;
        world.rest();
        for cookie in cookies {
            assert_eq!(world.answer(it, cookie), Some(Ok(())));
        }
        assert_eq!(world.data(it, cookies[1]), [9; 4096]);
        world.assert_idle();
    }
}

#[test]
fn garbage_ends_the_session_and_nobody_elses() {
    let mut world = World::new(MIB, MIB);
    let [bad, good] = [(); 2].map(|()| world.join(true));
    world.read(bad, 0, 4096);
    world.say(bad, b"GET / HTTP/1.1\r\nHost: nobody\r\n\r\n");
    let read = world.read(good, 0, 4096);
    world.rest();
    assert!(world.wire(bad).closed && !world.wire(good).closed);
    assert_eq!(world.answer(good, read), Some(Ok(())));
    world.say(good, &Client::disconnect());
    world.rest();
    world.assert_idle();
}

#[test]
fn a_write_too_long_to_read_past_ends_the_session() {
    let mut world = World::new(MIB, MIB);
    let it = world.join(true);
    world.say(it, &Ask::new(Command::WRITE, 1, 0, u32::MAX).encode());
    world.rest();
    world.assert_idle();
}

#[test]
fn closing_the_export_ends_all_sessions_and_fails_nothing() {
    let mut world = World::new(8 * MIB, 64 * MIB);
    let visitors: Vec<usize> = (0..3).map(|_| world.join(true)).collect();
    world.device.pace = 0;
    world.write(visitors[0], 0, &[5; 4096]);
    world.read(visitors[0], 0, 2 * MIB);
    world.write(visitors[1], 0, &pattern(2 * MIB, 9));
    world.wire(visitors[1]).to_server.truncate(MIB);
    world.rest();
    assert_eq!(world.export.requests_in_core(), 2);
    world.export.serve(&mut world.ring, &mut world.pool, false);
    world.rest();
    assert_eq!(world.export.sessions(), 0);
    assert!(!world.export.is_idle(), "the core still has two");
    let turned_away = world.try_join(true, Vec::new()).unwrap_err();
    assert_eq!(turned_away, TurnedAway::NotServed);
    world.device.pace = usize::MAX;
    world.rest();
    world.assert_idle();
    assert_eq!(world.device.log, ["write 0+4096 fua=false", "read 0+2097152"]);
    assert!(world.visitors.iter().all(|it| it.answers.is_empty()), "none failed, none answered");
    // And it opens again.
    world.export.serve(&mut world.ring, &mut world.pool, true);
    let it = world.join(true);
    let read = world.read(it, 0, 4096);
    world.rest();
    assert_eq!(world.data(it, read), [5; 4096]);
}

#[test]
fn a_node_that_is_no_longer_primary_closes_instead_of_failing() {
    let mut world = World::new(MIB, MIB);
    let it = world.join(true);
    world.read(it, 0, 4096);
    world.write(it, 0, b"late");
    world.device.fail = Some(RequestError::NotPrimary);
    world.rest();
    assert!(world.visitors[it].answers.is_empty());
    world.assert_idle();
}

#[test]
fn late_answers_reach_no_later_session_in_the_same_place() {
    let mut world = World::new(MIB, 8 * MIB);
    let first = world.join(true);
    world.device.pace = 0;
    for _ in 0..3 {
        world.read(first, 0, 4096);
    }
    world.rest();
    world.wire(first).gone = true;
    world.rest();
    assert_eq!((world.export.sessions(), world.export.requests_in_core()), (0, 3));
    // The place is taken again, and a request of the same number is under way.
    let second = world.join(true);
    let read = world.read(second, 4096, 4096);
    world.rest();
    assert_eq!((world.export.sessions(), world.export.requests_in_core()), (1, 4));
    world.device.pace = 1;
    for left in (1..4).rev() {
        world.turn();
        assert_eq!(world.export.requests_in_core(), left);
        assert!(world.visitors[second].answers.is_empty());
    }
    world.rest();
    assert_eq!(world.visitors[second].answers, [(read, Ok(()))]);
    assert_eq!(world.data(second, read), &world.device.bytes[4096..8192]);
    assert_eq!(world.pool.used_bytes(Purpose::Client), 0);
}

/// While I/O is suspended, a client whose requests fill its limits and that connects anew over and
/// over must not lock itself out.
#[test]
fn clients_that_hung_up_unheard_give_way() {
    let mut world = World::new(MIB, 64 * MIB);
    world.device.pace = 0;
    let join = |world: &mut World| {
        let it = world.join(true);
        for _ in 0..2 * CLIENT_REQUESTS_MAX {
            world.read(it, 0, 512);
        }
        world.rest();
        it
    };
    let living = join(&mut world);
    for _ in 1..CLIENTS_MAX {
        let it = join(&mut world);
        world.wire(it).hung_up = true;
        world.rest();
    }
    assert_eq!(world.export.sessions(), CLIENTS_MAX, "nobody is heard");
    let newcomer = world.try_join(true, Vec::new());
    assert!(newcomer.is_ok(), "{newcomer:?}");
    world.rest();
    assert!(!world.wire(living).closed);
    assert_eq!(world.export.sessions(), 2);
    world.device.pace = 1;
    world.rest();
}

#[test]
fn answers_to_requests_nobody_made_are_dropped() {
    let mut world = World::new(MIB, 8 * MIB);
    let it = world.join(true);
    world.rest();
    for id in [0, u64::MAX, 1 << 16, (1 << 16) | 5] {
        let pieces =
            spread::take(&mut world.pool, Purpose::Client.of(1), Bytes::new(0, 4096)).unwrap();
        let reply = Reply::Data(pieces);
        world.export.reply(&mut world.ring, &mut world.pool, RequestId(id), reply);
    }
    world.rest();
    assert_eq!(world.pool.used_bytes(Purpose::Client), 0);
    assert!(!world.wire(it).closed && world.visitors[it].answers.is_empty());
}

#[test]
fn places_are_bounded_and_come_back() {
    let mut world = World::new(MIB, MIB);
    for round in 0..4 {
        let from = world.visitors.len();
        for _ in 0..CLIENTS_MAX {
            world.join(true);
        }
        world.rest();
        assert_eq!(world.try_join(true, Vec::new()).unwrap_err(), TurnedAway::Full, "{round}");
        for it in from..from + CLIENTS_MAX {
            world.wire(it).hung_up = true;
        }
        world.rest();
        world.assert_idle();
    }
    assert_eq!(world.export.counters().connections, 4 * CLIENTS_MAX as u64);
}

#[test]
fn clients_that_are_leaving_keep_no_newcomer_out() {
    let mut world = World::new(MIB, 64 * MIB);
    world.device.pace = 0;
    for _ in 0..5 * CLIENTS_MAX {
        let it = world.join(true);
        world.write(it, 0, &[1; 512]);
        world.wire(it).hung_up = true;
        world.rest();
    }
    assert!(world.export.sessions() <= 2 * CLIENTS_MAX);
    world.device.pace = usize::MAX;
    world.rest();
    world.assert_idle();
}

#[test]
fn a_device_of_another_size_is_not_served_on_old_terms() {
    let mut world = World::new(MIB, MIB);
    let socket = world.ring.open();
    let terms = terms(&options(2 << 20), true);
    let newcomer = Newcomer { socket, terms, leftover: Vec::new() };
    let outcome = world.export.adopt(&mut world.ring, &mut world.pool, newcomer);
    assert_eq!(outcome, Err(TurnedAway::OtherSize));
    world.rest();
    world.assert_idle();
}
