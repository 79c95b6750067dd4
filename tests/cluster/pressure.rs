//! Owns shortage: of memory for bitmaps, and of socket buffers under load. Must never make the
//! machine itself short: limits are set on daemons, and on the proxy's sockets.

use std::process::Command;

use crate::config::{NAMES, Place, RESOURCE, Wish};
use crate::load::{Load, Mix, Session};
use crate::stage::{Cluster, run};
use crate::stamp::{BLOCK, content};

/// Of 4 TiB, and what they need for one peer.
const LARGE_MEBIBYTES: u64 = 4 << 20;
const BITMAP_KIB: u64 = (4 * 32) << 10;

fn large() -> Wish {
    Wish {
        place: Place::Disk,
        resource_lines: "peer_slots = 1\n".to_owned(),
        ..Wish::new(LARGE_MEBIBYTES)
    }
}

/// That the bitmaps were refused: how much they need, and what to do.
fn assert_words(said: &str) {
    for word in ["128 MiB", "memory", "twinblk disk attach r0"] {
        assert!(said.contains(word), "no {word:?} in: {said}");
    }
}

/// The kernel's bitmap-oom: a disk whose bitmaps do not fit is not attached. The daemon lives, says
/// what to do, and its peer goes on; nothing is lost.
#[test]
fn bitmaps_that_do_not_fit_are_refused_in_words() {
    let mut cluster = Cluster::fresh(large());
    cluster.done(0, &["init", RESOURCE, "--both-empty"]);
    cluster.wait_in_sync(0);
    cluster.done(0, &["promote", RESOURCE]);
    let mut session = Session::open(&cluster.site.socket(0)).expect("open");
    let far = session.blocks() - 4;
    session.write(far, &content(far, 4, 1)).expect("written");

    // While it runs.
    cluster.done(1, &["disk", "detach", RESOURCE]);
    cluster.limit_memory(1, Some(BITMAP_KIB / 2));
    assert_words(&cluster.refused(1, &["disk", "attach", RESOURCE]));
    session.write(far + 1, &content(far + 1, 2, 2)).expect("written");
    assert_words(&cluster.status(1).disk_reason);
    cluster.assert_alive(1);
    cluster.limit_memory(1, None);
    cluster.done(1, &["disk", "attach", RESOURCE]);
    cluster.wait_in_sync(0);

    // When it starts: as much as it had, less than its bitmap.
    let most = cluster.address_space_kib(1) - BITMAP_KIB / 2;
    cluster.stop(1);
    session.write(far + 2, &content(far + 2, 2, 3)).expect("written");
    cluster.start_within(1, most);
    let seen = cluster.wait(1, "a reason", |seen| !seen.disk_reason.is_empty());
    assert_words(&seen.disk_reason);
    assert!(!seen.may_promote && seen.degraded);
    cluster.limit_memory(1, None);
    cluster.done(1, &["disk", "attach", RESOURCE]);
    cluster.wait_in_sync(0);

    session.close();
    cluster.done(0, &["demote", RESOURCE]);
    cluster.done(1, &["promote", RESOURCE]);
    let mut session = Session::open(&cluster.site.socket(1)).expect("open");
    let mut expected = content(far, 4, 1);
    for (place, count, stamp) in [(1, 2, 2), (2, 2, 3)] {
        let bytes = content(far + place, count, stamp);
        let from = BLOCK * usize::try_from(place).expect("small");
        expected[from..from + bytes.len()].copy_from_slice(&bytes);
    }
    assert!(session.read(far, 4).expect("read") == expected, "what clients wrote");
}

/// Large writes, many in flight, of several clients at once; each ends, or fio does not.
fn large_writes(cluster: &Cluster) {
    let mut fio = Command::new("fio");
    fio.args(["--name=load", "--ioengine=nbd", "--rw=randwrite", "--bs=4m", "--iodepth=16"]);
    fio.args(["--size=32m", "--numjobs=4", "--offset=32m", "--offset_increment=32m"]);
    let ran = run(fio.arg(format!("--uri={}", cluster.site.uri(0))));
    assert_eq!(ran.code, 0, "{ran:?}");
}

/// The kernel's stress-tcp-mem: sockets that hold next to nothing, under all three protocols, with
/// a resync against the stream. Nothing waits in a circle, heartbeats get through, copies are equal.
#[test]
fn tiny_socket_buffers_stop_nothing() {
    for protocol in ["A", "B", "C"] {
        let wish = Wish {
            protocol,
            proxied: true,
            socket_bytes: Some(4 << 10),
            sections: "[link]\nheartbeat = \"100ms\"\npeer_timeout = \"3s\"\n\
                       progress_timeout = \"30s\"\n"
                .to_owned(),
            ..Wish::new(160)
        };
        let cluster = Cluster::in_sync(wish);
        let sessions = || {
            let log = std::fs::read_to_string(cluster.site.log(0)).expect("a log");
            log.matches("the link was lost").count()
        };
        let before = sessions();
        large_writes(&cluster);
        // Small ones in the part before those, each judged; and a full resync meanwhile.
        let mix = Mix { seed: 41, depth: 16, zeroes: true };
        let load = Load::start(&cluster.site.socket(0), 2048, mix);
        load.wait_for(50);
        assert_eq!(sessions(), before, "{protocol}: the link held");
        cluster.done(1, &["invalidate", RESOURCE, "--yes"]);
        load.wait_for(200);
        large_writes(&cluster);
        cluster.wait_in_sync(0);
        load.wait_for(50);
        load.assert_kept_server();
        load.pause();
        let mut session = Session::open(&cluster.site.socket(0)).expect("open");
        session.flush().expect("flushed");
        cluster.wait(0, "all stable there", |seen| seen.peers[0].unstable_writes == 0);
        cluster.assert_identical();
        let passed = cluster.proxy.as_ref().expect("proxied").passed(1);
        assert!(passed > 256 << 20, "{passed} bytes to {} through the narrow way", NAMES[1]);
    }
}
