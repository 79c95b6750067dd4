//! Owns rubbish at every door. Must never be kinder than the internet.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::config::{RESOURCE, Wish};
use crate::load::{Load, Mix, Random, Session};
use crate::stage::{Cluster, eventually};
use crate::stamp::{BLOCK, content};

/// Lines of rubbish per door.
const LINES: u64 = 10_000;
/// Over so many connections.
const CONNECTIONS: u64 = 500;
/// What a daemon may have grown by after all of it, in KiB: buffers it keeps, not one per line.
const GROWTH_KIB: u64 = 24 << 10;

/// A stream that can be told to give up.
trait Door: Read + Write {
    fn hurry(&self);
    fn finish(&self);
}

impl Door for TcpStream {
    fn hurry(&self) {
        self.set_write_timeout(Some(Duration::from_secs(5))).expect("set");
        self.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    }
    fn finish(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Door for UnixStream {
    fn hurry(&self) {
        self.set_write_timeout(Some(Duration::from_secs(5))).expect("set");
        self.set_read_timeout(Some(Duration::from_secs(20))).expect("set");
    }
    fn finish(&self) {
        let _ = self.shutdown(Shutdown::Write);
    }
}

/// A line of rubbish: noise, text, or the right beginning of something wrong.
fn line(random: &mut Random) -> Vec<u8> {
    let mut noise =
        |bytes: u64| -> Vec<u8> { (0..bytes).map(|_| random.next().to_le_bytes()[3]).collect() };
    let option = |code: u32, length: u32| {
        [b"IHAVEOPT".as_slice(), &code.to_be_bytes(), &length.to_be_bytes()].concat()
    };
    let kind = noise(2);
    let mut line = match kind[0] % 8 {
        0 => noise(u64::from(kind[1])),
        1 => b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        2 => [&[0, 0, 0, 3][..], &option(7, u32::MAX), &noise(40)].concat(),
        3 => [&[0, 0, 0, 1][..], &option(1, 5000), &noise(90)].concat(),
        4 => [&[0, 0, 0, 3][..], &option(u32::from(kind[1]), 4), &noise(4)].concat(),
        5 => [&[0, 0, 0, 3][..], &option(6, 8), &[255, 255, 255, 255, 0, 0, 255, 255]].concat(),
        6 => [&0x2560_9513u32.to_be_bytes()[..], &noise(24)].concat(),
        _ => vec![kind[1]; 100],
    };
    line.push(b'\n');
    line
}

/// Feeds a door; every connection is read to its end.
fn feed<D: Door>(seed: u64, mut open: impl FnMut() -> std::io::Result<D>) {
    let mut random = Random::new(seed);
    for _ in 0..CONNECTIONS {
        let mut door = eventually("an open door", || open().map_err(|error| error.to_string()));
        door.hurry();
        for _ in 0..LINES / CONNECTIONS {
            if door.write_all(&line(&mut random)).is_err() {
                break;
            }
        }
        door.finish();
        let mut answer = Vec::new();
        let _ = door.read_to_end(&mut answer);
        assert!(answer.len() < 1 << 20, "an answer of {} bytes to rubbish", answer.len());
    }
}

/// G22, G23: rubbish changes nothing, and nobody else notices.
#[test]
fn rubbish_at_every_door_changes_nothing() {
    let mut cluster = Cluster::in_sync(Wish::new(32));
    let blocks = cluster.status(0).device_bytes / BLOCK as u64;
    let mix = Mix { seed: 21, depth: 8, zeroes: true };
    let load = Load::start(&cluster.site.socket(0), blocks, mix);
    load.wait_for(200);
    let socket = cluster.site.socket(0);
    // Once round all doors first: what is kept for good is there then.
    feed(1, || TcpStream::connect(cluster.site.nbd[0]));
    feed(2, || UnixStream::connect(&socket));
    feed(3, || TcpStream::connect(cluster.site.link[0]));
    let before = (cluster.resident_kib(0), cluster.descriptors(0));
    feed(4, || TcpStream::connect(cluster.site.nbd[0]));
    feed(5, || UnixStream::connect(&socket));
    feed(6, || TcpStream::connect(cluster.site.link[0]));
    let after = (cluster.resident_kib(0), cluster.descriptors(0));
    println!("{} lines, KiB and descriptors before {before:?}, after {after:?}", 6 * LINES);
    assert!(after.0 < before.0 + GROWTH_KIB, "{before:?} {after:?}");
    eventually("closed descriptors", || match cluster.descriptors(0) {
        now if now <= before.1 + 8 => Ok(()),
        now => Err(format!("{now}, before {before:?}")),
    });
    cluster.assert_alive(0);
    cluster.assert_alive(1);
    load.wait_for(200);
    load.assert_kept_server();
    assert_eq!(cluster.peer(0).replication, "Established");
    load.pause();
    load.judge(&cluster.site.socket(0));
    cluster.assert_identical();
}

/// What a daemon's log goes to may be full, or its reader may have stopped reading: that costs
/// lines, never the daemon, nor a client its answer.
#[test]
fn a_log_that_cannot_be_written_costs_lines_alone() {
    let mut cluster = Cluster::in_sync(Wish::new(16));
    let log = cluster.site.log(0);
    let restart = |cluster: &mut Cluster| {
        cluster.start(0);
        // It has it open; nobody else should.
        std::fs::remove_file(&log).expect("just made");
        cluster.wait_in_sync(0);
        cluster.done(0, &["promote", RESOURCE]);
    };
    let talk = |cluster: &Cluster, stamp: u64| {
        for _ in 0..1500 {
            // Each is a line of the log.
            Session::open(&cluster.site.socket(0)).expect("open").break_off();
        }
        let mut session = Session::open(&cluster.site.socket(0)).expect("open");
        session.write(7, &content(7, 2, stamp)).expect("written");
        session.flush().expect("flushed");
        assert_eq!(session.read(7, 2).expect("read"), content(7, 2, stamp));
    };
    cluster.stop(0);
    std::fs::remove_file(&log).expect("it wrote one");
    std::os::unix::fs::symlink("/dev/full", &log).expect("a link");
    restart(&mut cluster);
    talk(&cluster, 1);
    cluster.stop(0);
    nix::unistd::mkfifo(&log, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)
        .expect("a pipe");
    let reader = std::fs::OpenOptions::new().read(true).write(true).open(&log);
    let mut reader = reader.expect("an end that does not wait for the other");
    restart(&mut cluster);
    talk(&cluster, 2);
    let drain = std::thread::spawn(move || {
        let mut sink = [0; 65_536];
        let mut lines = 0;
        while lines < 1500 {
            let count = reader.read(&mut sink).expect("read");
            lines += sink[..count].iter().filter(|byte| **byte == b'\n').count();
        }
    });
    talk(&cluster, 3);
    drain.join().expect("what was kept is written once it is read");
    cluster.assert_identical();
}
