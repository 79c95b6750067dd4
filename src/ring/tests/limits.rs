//! Waking, waiting, randomness, and hosts that grant little or nothing.

use std::io;
use std::process::Command;

use super::*;

on_both! {
    fn another_thread_ends_a_turn(world) {
        let waker = world.ring.waker();
        for round in 0..200 {
            if round == 100 {
                // From here on it is seldom asleep.
                world.ring.poll_for(Nanos::from_millis(10_000));
            }
            let waker = waker.clone();
            let caller = std::thread::spawn(move || waker.wake());
            if round % 2 == 0 {
                caller.join().expect("woken");
                world.ring.turn(&mut world.pool, Nanos::NEVER, &mut world.completions);
            } else {
                world.ring.turn(&mut world.pool, Nanos::NEVER, &mut world.completions);
                caller.join().expect("woken");
            }
        }
        assert!(world.completions.is_empty());
    }

    fn no_message_is_lost_behind_a_silent_ring(world) {
        const MESSAGES: usize = 20_000;
        let waker = world.ring.waker();
        let (sender, receiver) = std::sync::mpsc::channel();
        let caller = std::thread::spawn(move || {
            for number in 0..MESSAGES {
                sender.send(number).expect("heard");
                waker.wake();
            }
        });
        let mut heard = 0;
        while heard < MESSAGES {
            world.ring.turn(&mut world.pool, Nanos::NEVER, &mut world.completions);
            heard += receiver.try_iter().count();
        }
        caller.join().expect("all sent");
    }

    fn who_looks_for_completions_finds_them_and_goes_to_sleep(world) {
        world.ring.poll_for(Nanos::from_millis(1));
        let file = world.ring.register_file(disk_file(1 << 20), FileEngine::Uring);
        for _ in 0..100 {
            assert_eq!(world.run(Op::Sync { file }), Ok(0));
        }
        for millis in [5, 1] {
            let until = world.ring.now() + Nanos::from_millis(millis);
            world.ring.turn(&mut world.pool, until, &mut world.completions);
            assert!(world.ring.now() >= until && world.completions.is_empty());
        }
    }

    fn a_turn_ends_at_its_time_and_not_before(world) {
        let until = world.ring.now() + Nanos::from_millis(5);
        world.ring.turn(&mut world.pool, until, &mut world.completions);
        assert!(world.ring.now() >= until && world.completions.is_empty());
        world.ring.turn(&mut world.pool, Nanos(0), &mut world.completions);
        assert!(world.completions.is_empty());
    }

    fn random_numbers_do_not_repeat(world) {
        let mut seen: Vec<_> = (0..1000).map(|_| world.ring.random()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 1000);
    }
}

#[test]
fn where_io_uring_is_refused_the_portable_engine_serves() {
    let mut refuse = |_: &super::super::setup::Wish| Err(io::Error::from_raw_os_error(libc::EPERM));
    let ring = SystemRing::made_by(RingChoice::Auto, &mut refuse).expect("portable");
    assert_eq!(ring.name(), "portable");
    let refused = SystemRing::made_by(RingChoice::Uring, &mut refuse).err();
    let text = refused.map(|refused| refused.to_string()).unwrap_or_default();
    assert!(text.contains("kernel.io_uring_disabled"), "{text}");
    assert_eq!(SystemRing::new(RingChoice::Auto).map(|ring| ring.name()).ok(), Some("uring"));
}

/// Runs one test of this file in a process of its own, marked by a variable.
fn in_child(name: &str) {
    let program = std::env::current_exe().expect("this program");
    let name = format!("{}::{name}", module_path!().split_once("::").expect("a crate").1);
    let child = Command::new(program)
        .args([name.as_str(), "--exact", "--nocapture", "--test-threads=1"])
        .env("IN_CHILD", "1")
        .output()
        .expect("started");
    let output = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && output.contains("1 passed"), "{output}");
}

/// Without privilege and with almost no memory to lock, a ring is still had, and works.
#[test]
fn little_lockable_memory_is_enough() {
    if std::env::var_os("IN_CHILD").is_none() {
        return in_child("little_lockable_memory_is_enough");
    }
    let (file, bytes) = (disk_file(1 << 20), 16 << 10);
    use nix::sys::resource::{Resource, setrlimit};
    setrlimit(Resource::RLIMIT_MEMLOCK, bytes, bytes).expect("lowered");
    if nix::unistd::geteuid().is_root() {
        nix::unistd::setuid(nix::unistd::Uid::from_raw(65_534)).expect("from root to nobody");
    }
    let mut world = World::new(RingChoice::Auto);
    println!("engine {}", world.ring.name());
    let file = world.ring.register_file(file, FileEngine::Uring);
    let (payload, into) = world.take(4096);
    for _ in 0..1000 {
        world.start(Op::Read { file, offset: 0, into });
    }
    while world.completions.len() < 1000 {
        world.ring.turn(&mut world.pool, Nanos::NEVER, &mut world.completions);
    }
    assert!(world.completions.iter().all(|done| done.result == Ok(4096)));
    world.pool.release(payload);
}

/// A ring whose queues are as small as it gets them where memory is short.
fn small() -> World {
    let mut build =
        |_: &super::super::setup::Wish| io_uring::IoUring::builder().setup_cqsize(64).build(8);
    let ring = SystemRing::made_by(RingChoice::Uring, &mut build).expect("a ring");
    World { ring, pool: pool(), completions: Vec::new(), next: 0 }
}

#[test]
fn silent_sockets_hold_nothing_up() {
    let mut world = small();
    let file = world.ring.register_file(disk_file(1 << 20), FileEngine::Uring);
    let (payload, into) = world.take(4096);
    let mut silent = Vec::new();
    for _ in 0..200 {
        let (one, other) = std::os::unix::net::UnixStream::pair().expect("descriptors");
        let socket = world.ring.adopt_socket(one.into());
        world.start(Op::Recv { socket, into });
        silent.push(other);
    }
    assert_eq!(world.run(Op::Sync { file }), Ok(0));
    world.ring.waker().wake();
    world.ring.turn(&mut world.pool, Nanos::NEVER, &mut world.completions);
    // All at once they speak: more than the completion queue holds.
    for socket in &silent {
        nix::unistd::write(socket, b"x").expect("room");
    }
    while world.completions.len() < silent.len() {
        world.ring.turn(&mut world.pool, Nanos::NEVER, &mut world.completions);
    }
    assert!(world.completions.iter().all(|done| done.result == Ok(1)));
    world.pool.release(payload);
}

#[test]
fn a_file_that_hangs_holds_up_no_other() {
    let mut world = small();
    // A pipe without a writer's word never answers a read.
    let (silent, end) = nix::unistd::pipe().expect("descriptors");
    let hangs = world.ring.register_file(silent, FileEngine::Uring);
    let file = world.ring.register_file(disk_file(1 << 20), FileEngine::Uring);
    let (payload, into) = world.take(4096);
    for _ in 0..200 {
        world.start(Op::Read { file: hangs, offset: 0, into });
    }
    for _ in 0..50 {
        assert_eq!(world.run(Op::Read { file, offset: 0, into }), Ok(4096));
    }
    assert!(world.completions.is_empty());
    drop(end);
    while world.completions.len() < 200 {
        world.ring.turn(&mut world.pool, Nanos::NEVER, &mut world.completions);
    }
    world.pool.release(payload);
}
