//! Owns what happens to the link under load: cut, stalled one way, late, corrupted. Must never
//! touch a daemon.

use std::time::Duration;

use crate::config::Wish;
use crate::load::{Load, Mix};
use crate::proxy::Proxy;
use crate::stage::{Cluster, eventually};
use crate::stamp::BLOCK;

fn proxied() -> Wish {
    let sections = "[link]\nheartbeat = \"100ms\"\npeer_timeout = \"1s\"\n\
                    progress_timeout = \"3s\"\nconnect_retry_max = \"200ms\"\n";
    Wish { proxied: true, sections: sections.to_owned(), ..Wish::new(32) }
}

fn begin(wish: Wish, seed: u64) -> (Cluster, Load) {
    let cluster = Cluster::in_sync(wish);
    let blocks = cluster.status(0).device_bytes / BLOCK as u64;
    let mix = Mix { seed, depth: 16, zeroes: true };
    let load = Load::start(&cluster.site.socket(0), blocks, mix);
    load.wait_for(50);
    (cluster, load)
}

fn proxy(cluster: &Cluster) -> &Proxy {
    cluster.proxy.as_ref().expect("proxied")
}

/// In sync again under load, then every block judged on both.
fn judge(cluster: &Cluster, load: &Load) {
    cluster.wait_in_sync(0);
    load.wait_for(50);
    load.pause();
    load.judge(&cluster.site.socket(0));
    cluster.assert_identical();
    load.resume();
}

/// F4: reset and refused, then restored; the client sees no error and never loses its server.
#[test]
fn the_link_is_cut_and_restored_under_load() {
    let (cluster, load) = begin(proxied(), 11);
    for _ in 0..3 {
        load.wait_mid_write(30);
        proxy(&cluster).cut();
        cluster.wait_away(0);
        load.wait_for(100);
        assert!(cluster.peer(0).out_of_sync_bytes > 0, "what is missed is on record");
        proxy(&cluster).heal();
        judge(&cluster, &load);
    }
    load.assert_kept_server();
}

/// F4: one direction falls silent without a word; what was held back comes late, on a connection
/// that is no more, or is refused (F7).
#[test]
fn one_direction_falls_silent_under_load() {
    let (cluster, load) = begin(proxied(), 12);
    for node in [0, 1, 0, 1] {
        load.wait_mid_write(30);
        proxy(&cluster).stall_towards(node);
        cluster.wait_away(0);
        load.wait_for(100);
        proxy(&cluster).heal();
        judge(&cluster, &load);
    }
    load.assert_kept_server();
}

/// F4: flapping faster than anything is agreed on.
#[test]
fn the_link_flaps_under_load() {
    let (cluster, load) = begin(proxied(), 13);
    for _ in 0..25 {
        load.wait_mid_write(10);
        proxy(&cluster).reset();
    }
    judge(&cluster, &load);
    load.assert_kept_server();
}

/// F5: late both ways; nothing breaks.
#[test]
fn a_slow_link_is_only_slow() {
    let (cluster, load) = begin(proxied(), 14);
    for node in [0, 1] {
        proxy(&cluster).delay_towards(node, Duration::from_millis(15));
    }
    load.wait_for(200);
    assert_eq!(cluster.peer(0).replication, "Established");
    proxy(&cluster).heal();
    judge(&cluster, &load);
    load.assert_kept_server();
}

/// G11: a flipped bit anywhere in the stream is noticed, nothing of it is applied, and the link is
/// dropped and mended.
#[test]
fn a_flipped_bit_is_detected() {
    let (cluster, load) = begin(proxied(), 15);
    let mut broken = 0;
    for (node, after) in [(1, 0), (1, 5), (1, 70_000), (0, 0), (0, 13), (1, 4_123), (1, 9_999)] {
        let flipped = proxy(&cluster).flipped();
        load.wait_mid_write(20);
        proxy(&cluster).corrupt_towards(node, after);
        eventually("a flipped bit", || match proxy(&cluster).flipped() {
            now if now > flipped => Ok(()),
            _ => Err(format!("{} passed", proxy(&cluster).passed(node))),
        });
        broken += 1;
        judge(&cluster, &load);
    }
    let log = |node| std::fs::read_to_string(cluster.site.log(node)).expect("a log");
    let noticed = [0, 1].map(|node| log(node).matches("checksum").count());
    println!("{broken} bits flipped; lines about it: {noticed:?}");
    load.assert_kept_server();
}
