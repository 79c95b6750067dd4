//! Owns the whole way with other people's clients: laying out, first copy, promotion, use, planned
//! switch. Must never judge by exit codes alone: the bytes are looked at.

use std::fs;

use crate::cluster::{Cluster, run, tool};
use crate::config::{NAMES, Place, RESOURCE, Wish};
use crate::load::Session;

/// Everything by real clients, on node 0, then on node 1 after a planned switch.
fn the_whole_way(wish: Wish) {
    let mut cluster = Cluster::in_sync(wish);
    for node in [0, 1] {
        let (uri, other) = (cluster.site.uri(node), cluster.site.uri(1 - node));
        let info = tool("nbdinfo", &["--size", &uri]);
        assert_eq!(info.trim().parse(), Ok(cluster.status(node).device_bytes));
        let refused = run(std::process::Command::new("nbdinfo").arg(&other));
        assert!(refused.code != 0, "the secondary serves nobody: {refused:?}");
        let refused = Session::open(&cluster.site.socket(1 - node)).expect_err("refused");
        assert!(refused.contains(NAMES[node]), "it names the primary: {refused}");

        // Neither aligned to blocks nor to sectors; over the edge of a resync unit; zeroes; trim.
        let pattern = if node == 0 { "0x5a" } else { "0xa5" };
        let write = format!("write -P {pattern} 4097 1234567");
        let script = [&write, "write -f -P 0x33 4190208 8192", "write -z 65536 65536", "flush"];
        let arguments = script.iter().flat_map(|line| ["-c", *line]);
        let arguments = ["-f", "raw"].into_iter().chain(arguments).chain([uri.as_str()]);
        tool("qemu-io", &arguments.collect::<Vec<_>>());
        let read = format!("read -P {pattern} 4097 61439");
        let reads = ["-f", "raw", "-c", &read, "-c", "read -P 0 65536 65536", &uri];
        let seen = tool("qemu-io", &reads);
        assert!(!seen.contains("Pattern verification failed"), "{seen}");

        let source = cluster.site.path("source");
        let bytes: Vec<u8> =
            (0..2u32 << 20).flat_map(|word| (word ^ 0x5555).to_le_bytes()).collect();
        fs::write(&source, &bytes).expect("written");
        tool("nbdcopy", &["--flush", source.to_str().expect("text"), &uri]);
        let back = cluster.site.path("back");
        tool("nbdcopy", &[&uri, back.to_str().expect("text")]);
        assert!(fs::read(&back).expect("read").starts_with(&bytes), "what was copied is read");

        // Overlapping writes of all sizes at once, then such that it can verify.
        let target = format!("--uri={uri}");
        let fio = |more: &[&str]| {
            let always = ["--name=load", "--ioengine=nbd", &target, "--iodepth=16", "--size=16m"];
            tool("fio", &[&always, more].concat());
        };
        fio(&["--rw=randrw", "--bsrange=512-64k", "--norandommap=1", "--io_size=24m"]);
        fio(&[
            "--rw=randwrite",
            "--bs=4k",
            "--io_size=8m",
            "--verify=crc32c",
            "--verify_state_save=0",
        ]);
        cluster.assert_identical();
        cluster.done(node, &["demote", RESOURCE]);
        cluster.promote(1 - node);
    }
    cluster.done(0, &["demote", RESOURCE]);
    cluster.stop(0);
    cluster.stop(1);
    let equal = compare(&cluster);
    assert_eq!(equal.code, 0, "{equal:?}");
    // The comparison proves itself.
    crate::cluster::spoil(&cluster.site.disk(1), 123_456, b"?");
    let other = compare(&cluster);
    assert_eq!(other.code, 1, "{other:?}");
}

/// The program's own comparison of the two stopped disks.
fn compare(cluster: &Cluster) -> crate::cluster::Run {
    let text = |path: std::path::PathBuf| path.display().to_string();
    let disks = [0, 1].map(|node| text(cluster.site.disk(node)));
    let metadata = [0, 1].map(|node| text(cluster.site.metadata(node)));
    let flags = ["--metadata-a", &metadata[0], "--metadata-b", &metadata[1]];
    cluster.on(0, &[&["compare", &disks[0], &disks[1]], &flags[..]].concat())
}

#[test]
fn real_clients_on_both_nodes() {
    the_whole_way(Wish::new(64));
}

#[test]
fn real_clients_with_files_on_disk_and_the_portable_engine() {
    the_whole_way(Wish { place: Place::Disk, engine: "portable", ..Wish::new(48) });
}

#[test]
fn internal_metadata_and_empty_disks() {
    let wish = Wish { internal_metadata: true, ..Wish::new(48) };
    let mut cluster = Cluster::fresh(wish);
    cluster.done(1, &["init", RESOURCE, "--both-empty"]);
    cluster.wait_in_sync(0);
    assert_eq!(cluster.peer(1).last_resync_bytes, 0, "nothing was copied");
    cluster.promote(1);
    let uri = cluster.site.uri(1);
    tool("qemu-io", &["-f", "raw", "-c", "write -P 0x77 1M 9M", "-c", "flush", &uri]);
    // The last bytes of the device lie right before the metadata.
    let bytes = cluster.status(1).device_bytes;
    assert!(bytes < 48 << 20 && bytes.is_multiple_of(4096));
    let write = format!("write -P 0x78 {} 4096", bytes - 4096);
    tool("qemu-io", &["-f", "raw", "-c", &write, "-c", "flush", &uri]);
    cluster.assert_identical();
    for node in [0, 1] {
        cluster.kill(node);
        cluster.start(node);
    }
    cluster.promote(1);
    let read = format!("read -P 0x78 {} 4096", bytes - 4096);
    let seen = tool("qemu-io", &["-f", "raw", "-c", "read -P 0x77 1M 9M", "-c", &read, &uri]);
    assert!(!seen.contains("Pattern verification failed"), "{seen}");
    cluster.assert_identical();
}
