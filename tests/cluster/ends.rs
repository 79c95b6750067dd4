//! Owns planned ends: what a stop and a `disconnect` leave behind, and what the log says of it all.

use std::fs;

use crate::config::{NAMES, RESOURCE, Wish};
use crate::load::Session;
use crate::stage::Cluster;
use crate::stamp::content;

/// A planned restart of a secondary costs nothing, and its sockets go with it (G9).
#[test]
fn a_planned_restart_of_the_secondary_resyncs_nothing() {
    let mut cluster = Cluster::in_sync(Wish::new(32));
    cluster.wait_in_sync(0);
    let mut session = Session::open(&cluster.site.socket(0)).expect("open");
    let copied = cluster.peer(0).last_resync_bytes;
    for round in 1..6 {
        // Acknowledged, and not flushed by anybody but the daemon that stops.
        session.write(100 * round, &content(100 * round, 8, round)).expect("written");
        cluster.stop(1);
        assert!(!cluster.site.socket(1).exists(), "a socket nobody answers at");
        cluster.wait_away(0);
        assert_eq!(cluster.peer(0).out_of_sync_bytes, 0, "round {round}");
        cluster.start(1);
        cluster.wait_in_sync(0);
    }
    assert_eq!(cluster.peer(0).last_resync_bytes, copied, "nothing was copied");
    session.write(1000, &content(1000, 1, 77)).expect("written");
    cluster.assert_identical();
    let log = fs::read_to_string(cluster.site.log(0)).expect("a log");
    assert_eq!(log.matches("SyncSource of the marked").count(), 0, "{log}");
    cluster.stop(0);
    assert!(!cluster.site.socket(0).exists());
}

/// `disconnect` is answered when it is done, whichever node is asked, and can be given again.
#[test]
fn disconnect_is_done_when_it_says_so() {
    let cluster = Cluster::in_sync(Wish::new(16));
    for node in [0, 1] {
        cluster.done(node, &["disconnect", RESOURCE]);
        let seen = cluster.status(node);
        assert_eq!(seen.peers[0].connection, "StandAlone");
        assert_eq!(seen.peers[0].replication, "Off");
        if node == 1 {
            assert_eq!(seen.disk, "Outdated", "its own word, on record");
        }
        cluster.done(node, &["disconnect", RESOURCE]);
        cluster.done(node, &["connect", RESOURCE]);
        cluster.wait_in_sync(node);
    }
    cluster.done(0, &["disk", "detach", RESOURCE]);
    let words = cluster.refused(0, &["disconnect", RESOURCE]);
    assert!(words.contains("disk attach"), "it names the next command: {words}");
    cluster.refused(1, &["disconnect", RESOURCE]);
}

/// Each change of state is one line of the log, with its cause, in the words of `status` (G24).
#[test]
fn the_log_speaks_as_status_does() {
    let cluster = Cluster::in_sync(Wish::new(16));
    cluster.done(1, &["disconnect", RESOURCE]);
    let mut session = Session::open(&cluster.site.socket(0)).expect("open");
    session.write(5, &content(5, 3, 1)).expect("written");
    cluster.done(1, &["connect", RESOURCE]);
    cluster.wait_in_sync(0);
    for node in [0, 1] {
        let log = fs::read_to_string(cluster.site.log(node)).expect("a log");
        let changes: Vec<&str> = log.lines().filter(|line| line.contains("what=")).collect();
        let of = |text: &str| changes.iter().filter(|line| line.contains(text)).count();
        let sync = ["SyncSource", "SyncTarget"][node];
        assert_eq!(of(&format!("new=\"{sync}\"")), 2, "{}: {log}", NAMES[node]);
        assert_eq!(of("what=\"connection\" old=\"Connected\" new=\"StandAlone\""), node, "{log}");
        for line in changes {
            for part in ["resource=", "old=", "new=", "cause="] {
                assert!(line.contains(part), "{line}");
            }
            assert!(!["Some(", "Phase", "Waits", "{"].iter().any(|it| line.contains(it)), "{line}");
        }
    }
}
