//! Owns the promise about memory: 48 MiB, 32 MiB per TiB and peer slot in use, and the configured
//! buffers. Must never judge by time.

use std::process::Command;

use crate::config::{NAMES, Place, RESOURCE, Wish};
use crate::stage::{Cluster, run};

/// What a daemon with one peer for a device of 1 TiB has besides buffers.
const IDLE_KIB: u64 = (48 + 32) << 10;

/// The defaults of `client_buffers`, `peer_buffers` and `background_buffers`.
const BUFFERS_KIB: u64 = (64 + 64 + 32) << 10;

fn assert_peaks(cluster: &Cluster, most_kib: u64, when: &str) {
    for node in [0, 1] {
        let (now, peak) = (cluster.resident_kib(node), cluster.resident_peak_kib(node));
        println!("{when}: {} has {now} KiB, had {peak} at most", NAMES[node]);
        assert!(peak <= most_kib, "{when}: {} had {peak} KiB, promised {most_kib}", NAMES[node]);
    }
}

/// Many clients at once, each with more in flight than its share of the buffers.
fn load(cluster: &Cluster) {
    let mut fio = Command::new("fio");
    fio.args(["--name=load", "--ioengine=nbd", "--rw=rw", "--bs=1m", "--iodepth=64"]);
    fio.args(["--size=64m", "--numjobs=4", "--offset_increment=200g", "--output-format=terse"]);
    let ran = run(fio.arg(format!("--uri={}", cluster.site.uri(0))));
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// G23: an idle pair with 1 TiB, the same under load, and while all of it is out of sync. Slots that
/// no peer uses cost nothing.
#[test]
fn memory_stays_within_the_promise() {
    let mut wish = Wish::new(1 << 20);
    wish.place = Place::Disk;
    wish.resource_lines = "peer_slots = 4\n".into();
    let cluster = Cluster::fresh(wish);
    cluster.done(0, &["init", RESOURCE, "--both-empty"]);
    cluster.wait_in_sync(0);
    assert_peaks(&cluster, IDLE_KIB, "idle");
    cluster.done(0, &["promote", RESOURCE]);
    load(&cluster);
    assert_peaks(&cluster, IDLE_KIB + BUFFERS_KIB, "under load");
    cluster.done(1, &["invalidate", RESOURCE, "--yes"]);
    cluster.wait(0, "a full resync", |seen| seen.peers[0].resync_done_bytes >= 64 << 20);
    assert_peaks(&cluster, IDLE_KIB + BUFFERS_KIB, "in a full resync");
}
