//! Owns local disks that go and come under load, suspension on the loss of the peer, and verify.
//! Must never call a copy good without comparing it.

use std::io::{Seek, SeekFrom, Write};

use crate::config::{NodeIndex, RESOURCE, Wish};
use crate::load::{Load, Mix, Session};
use crate::stage::{Cluster, spoil};
use crate::stamp::{BLOCK, content};

fn begin(wish: Wish, seed: u64) -> (Cluster, Load) {
    let cluster = Cluster::in_sync(wish);
    let blocks = cluster.status(0).device_bytes / BLOCK as u64;
    let mix = Mix { seed, depth: 16, zeroes: true };
    let load = Load::start(&cluster.site.socket(0), blocks, mix);
    load.wait_for(50);
    (cluster, load)
}

fn judge(cluster: &Cluster, load: &Load) {
    cluster.wait_in_sync(0);
    load.wait_for(50);
    load.pause();
    load.judge(&cluster.site.socket(0));
    cluster.assert_identical();
    load.resume();
}

/// G19: either disk goes and comes back under load; the client sees no error and keeps its server.
#[test]
fn disks_are_detached_attached_and_replaced_under_load() {
    let (cluster, load) = begin(Wish::new(32), 31);
    for node in [1, 0] {
        load.wait_mid_write(20);
        cluster.done(node, &["disk", "detach", RESOURCE]);
        cluster.wait(node, "no disk", |seen| seen.disk == "Diskless");
        load.wait_for(100);
        cluster.done(node, &["disk", "attach", RESOURCE]);
        judge(&cluster, &load);
        load.wait_mid_write(20);
        cluster.done(node, &["disk", "detach", RESOURCE]);
        load.wait_for(50);
        cluster.done(node, &["disk", "replace", RESOURCE, "--yes"]);
        judge(&cluster, &load);
    }
    load.assert_kept_server();
}

/// With both disks gone there is nothing to serve from: refused.
#[test]
fn the_last_copy_is_not_let_go_of() {
    let cluster = Cluster::in_sync(Wish::new(8));
    cluster.done(1, &["disk", "detach", RESOURCE]);
    cluster.wait(0, "a diskless peer", |seen| seen.peers[0].disk.as_deref() == Some("Diskless"));
    cluster.refused(0, &["disk", "detach", RESOURCE]);
    cluster.done(1, &["disk", "attach", RESOURCE]);
    cluster.wait_in_sync(0);
    cluster.assert_identical();
}

/// `on_peer_loss = "suspend"`: clients wait without error until the peer is back, or somebody says
/// that the primary may go on.
#[test]
fn a_primary_may_wait_for_its_peer() {
    let wish = Wish { resource_lines: "on_peer_loss = \"suspend\"\n".to_owned(), ..Wish::new(32) };
    let (mut cluster, load) = begin(wish, 32);
    load.wait_mid_write(20);
    cluster.kill(1);
    let waits = |cluster: &Cluster| {
        cluster.wait(0, "suspension", |seen| !seen.suspended.is_empty());
        cluster.wait(0, "waiting writes", |seen| seen.requests_in_flight > 0);
    };
    waits(&cluster);
    let before = load.acknowledged();
    for _ in 0..10 {
        let seen = cluster.status(0);
        assert!(seen.suspended.contains("resume"), "it names the way: {}", seen.suspended);
        assert!(seen.degraded);
    }
    assert!(load.in_flight() > 0 && load.acknowledged() <= before + 16, "no write is acknowledged");
    cluster.start(1);
    judge(&cluster, &load);

    load.wait_mid_write(20);
    cluster.kill(1);
    waits(&cluster);
    cluster.done(0, &["resume", RESOURCE]);
    load.wait_for(100);
    cluster.start(1);
    judge(&cluster, &load);
    load.assert_kept_server();
}

/// Makes blocks of a copy differ behind its daemon's back.
fn plant(cluster: &Cluster, node: NodeIndex, blocks: &[u64]) {
    for block in blocks {
        spoil(&cluster.site.disk(node), block * BLOCK as u64 + 1000, b"rot");
    }
}

/// G12: verify finds exactly the blocks that differ, none on an equal pair, whichever side rotted;
/// `--repair` mends them with the primary's.
#[test]
fn verify_finds_exactly_what_differs() {
    let cluster = Cluster::in_sync(Wish::new(32));
    let mut session = Session::open(&cluster.site.socket(0)).expect("open");
    session.write(0, &content(0, 2000, 7)).expect("written");
    session.flush().expect("flushed");
    cluster.done(0, &["verify", RESOURCE, "--wait"]);
    assert_eq!(cluster.peer(0).verify_differing_bytes, 0);
    plant(&cluster, 1, &[0, 77, 1999, 8191]);
    plant(&cluster, 0, &[500]);
    let ran = cluster.on(0, &["verify", RESOURCE, "--wait"]);
    assert_eq!(ran.code, 7, "{ran:?}");
    assert_eq!(cluster.peer(0).verify_differing_bytes, 5 * BLOCK as u64);
    plant(&cluster, 0, &[]);
    cluster.done(0, &["verify", RESOURCE, "--wait", "--repair"]);
    cluster.assert_identical();
    cluster.done(0, &["verify", RESOURCE, "--wait"]);
    assert_eq!(cluster.peer(0).verify_differing_bytes, 0);
    let good = session.read(77, 1).expect("read");
    assert_eq!(good, content(77, 1, 7), "the primary's block is the one that stays");
}

/// A disk full of older contents is taken back after a detach with only what it missed copied.
#[test]
fn a_disk_that_was_away_gets_only_what_it_missed() {
    let cluster = Cluster::in_sync(Wish::new(32));
    let mut session = Session::open(&cluster.site.socket(0)).expect("open");
    cluster.done(1, &["disk", "detach", RESOURCE]);
    cluster.wait(0, "a diskless peer", |seen| seen.peers[0].disk.as_deref() == Some("Diskless"));
    session.write(40, &content(40, 6, 1)).expect("written");
    session.flush().expect("flushed");
    cluster.done(1, &["disk", "attach", RESOURCE]);
    cluster.wait_in_sync(0);
    assert_eq!(cluster.peer(0).last_resync_bytes, 6 * BLOCK as u64);
    cluster.assert_identical();
}

/// Data that was there before the first copy is what both have after it.
#[test]
fn existing_contents_are_the_first_copy() {
    let mut cluster = Cluster::bare(Wish::new(16));
    let mut disk =
        std::fs::OpenOptions::new().write(true).open(cluster.site.disk(1)).expect("open");
    disk.write_all(&content(0, 1000, 9)).expect("written");
    disk.seek(SeekFrom::Start((16 << 20) - BLOCK as u64)).expect("sought");
    disk.write_all(&content(4095, 1, 8)).expect("written");
    for node in [0, 1] {
        cluster.done(node, &["create", RESOURCE]);
        cluster.start(node);
    }
    cluster.wait_connected(1);
    cluster.refused(0, &["init", RESOURCE, "--both-empty"]);
    cluster.refused(0, &["init", RESOURCE, "--from", "beta"]);
    cluster.done(1, &["init", RESOURCE, "--from", "beta"]);
    cluster.wait_in_sync(1);
    cluster.promote(0);
    let mut session = Session::open(&cluster.site.socket(0)).expect("open");
    assert_eq!(session.read(0, 1000).expect("read"), content(0, 1000, 9));
    assert_eq!(session.read(4095, 1).expect("read"), content(4095, 1, 8));
    cluster.assert_identical();
}
