//! Owns split brain on purpose. Must never let two copies merge unasked.

use crate::config::{RESOURCE, Wish};
use crate::load::Session;
use crate::stage::{Cluster, hash};
use crate::stamp::{BLOCK, content};

/// Both nodes wrote apart from each other: detected on both sides, nothing merged, and healed to
/// the side that an operator chose (G18).
#[test]
fn split_brain_is_found_kept_and_healed() {
    let wish = Wish { proxied: true, ..Wish::new(32) };
    let cluster = Cluster::in_sync(wish);
    let proxy = cluster.proxy.as_ref().expect("proxied");
    let mut first = Session::open(&cluster.site.socket(0)).expect("open");
    first.write(10, &content(10, 4, 1)).expect("written");
    // Else it would count as not yet stable on the other node, and be copied again.
    first.flush().expect("flushed");
    proxy.cut();
    cluster.wait_away(0);
    cluster.wait_away(1);
    let refusal = cluster.refused(1, &["promote", RESOURCE]);
    assert!(refusal.contains("--force"), "it names the way: {refusal}");
    cluster.done(1, &["promote", RESOURCE, "--force", "--yes"]);
    let mut second = Session::open(&cluster.site.socket(1)).expect("open");
    first.write(100, &content(100, 8, 2)).expect("written");
    first.write(200, &content(200, 1, 3)).expect("written");
    second.write(200, &content(200, 1, 4)).expect("written");
    second.write(3000, &content(3000, 2, 5)).expect("written");
    first.flush().expect("flushed");
    second.flush().expect("flushed");
    let images = [0, 1].map(|node| hash(&cluster.site.disk(node)));

    proxy.heal();
    for node in [0, 1] {
        let seen =
            cluster.wait(node, "split brain", |seen| seen.peers[0].connection == "StandAlone");
        let reason = &seen.peers[0].connection_reason;
        assert!(reason.to_lowercase().contains("split"), "{reason}");
        assert!(reason.contains("discard-my-data"), "it names the way out: {reason}");
        assert!(seen.degraded);
    }
    assert_eq!(images, [0, 1].map(|node| hash(&cluster.site.disk(node))), "nothing merged");
    cluster.refused(1, &["connect", RESOURCE, "--discard-my-data", "--yes"]);
    drop(second);
    cluster.done(1, &["demote", RESOURCE]);
    cluster.done(1, &["connect", RESOURCE, "--discard-my-data", "--yes"]);
    cluster.done(0, &["connect", RESOURCE]);
    cluster.wait_in_sync(0);
    cluster.assert_identical();
    // Eight and one of the first side, one and two of the second, one of them in both.
    assert_eq!(cluster.peer(0).last_resync_bytes, 11 * 4096, "the union of both sides' marks");
    let image = first.read_all().expect("read");
    let block = |number: usize| &image[number * BLOCK..(number + 1) * BLOCK];
    assert_eq!(block(10), content(10, 1, 1));
    assert_eq!(block(107), content(107, 1, 2));
    assert_eq!(block(200), content(200, 1, 3), "the chosen side's");
    assert_eq!(block(3000), content(3000, 1, 0), "the other side's is gone");
}

/// Forced promotion while the other is only dead is no split brain: the old primary's tail is
/// rolled back when it returns.
#[test]
fn a_dead_primary_comes_back_as_secondary() {
    let mut cluster = Cluster::in_sync(Wish::new(32));
    let mut session = Session::open(&cluster.site.socket(0)).expect("open");
    session.write(10, &content(10, 4, 1)).expect("written");
    cluster.kill(0);
    cluster.wait_away(1);
    cluster.done(1, &["promote", RESOURCE, "--force", "--yes"]);
    let mut session = Session::open(&cluster.site.socket(1)).expect("open");
    session.write(12, &content(12, 1, 2)).expect("written");
    cluster.start(0);
    cluster.wait_in_sync(1);
    assert_eq!(cluster.status(0).role, "Secondary");
    cluster.assert_identical();
    let image = session.read(10, 4).expect("read");
    assert_eq!(image[..2 * BLOCK], content(10, 2, 1));
    assert_eq!(image[2 * BLOCK..3 * BLOCK], content(12, 1, 2));
}
