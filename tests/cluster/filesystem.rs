//! Owns a real file system on the export, by way of nbdfuse and a loop device: written on one node,
//! read on the other. Must never judge by anything but what is read there.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::config::{RESOURCE, Wish};
use crate::load::Random;
use crate::mounted::{Mounted, missing};
use crate::stage::{Cluster, hash, run, tool};

/// Writes files with hashes to compare.
fn write_files(mount: &Path, seed: u64) -> Vec<(String, String)> {
    let mut random = Random::new(seed);
    let mut files = Vec::new();
    for number in 0..60 {
        let name = format!("file-{number}");
        let length = usize::try_from(random.below(300_000)).expect("small");
        let byte = random.next().to_le_bytes()[0];
        let bytes: Vec<u8> =
            (0..length).map(|at| byte ^ at.to_le_bytes()[0] ^ at.to_le_bytes()[1]).collect();
        fs::write(mount.join(&name), &bytes).expect("written");
        files.push((name.clone(), hash(&mount.join(&name)).expect("a hash")));
    }
    for (name, _) in files.extract_if(.., |(name, _)| name.ends_with('7')) {
        fs::remove_file(mount.join(name)).expect("removed");
    }
    tool("sync", &["-f", mount.to_str().expect("text")]);
    files
}

fn on_both_nodes(mkfs: &str, arguments: &[&str], check: &[&str]) {
    if let Some(why) = missing(&[mkfs]) {
        println!("SKIPPED, NOT PASSED: {mkfs} on the export: {why}");
        return;
    }
    let cluster = Cluster::in_sync(Wish::new(320));
    let mut mounted = Mounted::attach(&cluster, 0);
    tool(mkfs, &[arguments, &[mounted.device.as_str()]].concat());
    mounted.mount();
    let files = write_files(&mounted.mount, 1);
    mounted.detach();
    cluster.assert_identical();
    cluster.done(0, &["demote", RESOURCE]);
    cluster.promote(1);
    let mut mounted = Mounted::attach(&cluster, 1);
    tool(check[0], &[&check[1..], &[mounted.device.as_str()]].concat());
    mounted.mount();
    for (name, expected) in &files {
        assert_eq!(hash(&mounted.mount.join(name)).as_ref(), Some(expected), "{name}");
    }
    let more = write_files(&mounted.mount, 2);
    mounted.detach();
    cluster.assert_identical();
    println!("{mkfs}: {} files kept over the switch, then {} more", files.len(), more.len());
}

#[test]
fn ext4_on_both_nodes() {
    on_both_nodes("mkfs.ext4", &["-q", "-F"], &["e2fsck", "-fn"]);
}

#[test]
fn xfs_on_both_nodes() {
    on_both_nodes("mkfs.xfs", &["-q", "-f"], &["xfs_repair", "-n"]);
}

/// The primary dies with the file system mounted: what the other node had is there, and the journal
/// mends the rest. With a proxy, the newest writes are on their way when it dies.
fn over_a_failover(wish: Wish, mkfs: &str, arguments: &[&str]) {
    if let Some(why) = missing(&[mkfs]) {
        println!("SKIPPED, NOT PASSED: {mkfs} over a failover: {why}");
        return;
    }
    let mut cluster = Cluster::in_sync(wish);
    let mut mounted = Mounted::attach(&cluster, 0);
    tool(mkfs, &[arguments, &[mounted.device.as_str()]].concat());
    mounted.mount();
    let files = write_files(&mounted.mount, 3);
    cluster.wait(0, "stable writes on the other node", |seen| seen.peers[0].unstable_writes == 0);
    if let Some(proxy) = &cluster.proxy {
        proxy.stall_towards(1);
    }
    for number in 0..40 {
        fs::write(mounted.mount.join(format!("unsynced-{number}")), vec![7; 50_000])
            .expect("written");
    }
    if cluster.proxy.is_some() {
        tool("sync", &["-f", mounted.mount.to_str().expect("text")]);
        assert!(cluster.peer(0).unstable_writes > 0, "nothing is on its way");
    }
    cluster.kill(0);
    if let Some(proxy) = &cluster.proxy {
        proxy.cut();
        proxy.heal();
    }
    drop(mounted);
    cluster.wait_away(1);
    cluster.done(1, &["promote", RESOURCE, "--force", "--yes"]);
    let mut mounted = Mounted::attach(&cluster, 1);
    if mkfs == "mkfs.xfs" {
        // Its log is replayed by mounting it.
        mounted.mount();
        mounted.unmount();
        tool("xfs_repair", &["-n", &mounted.device]);
    } else {
        let journal =
            run(Command::new("e2fsck").args(["-E", "journal_only", "-p", &mounted.device]));
        assert!(journal.code <= 1, "{journal:?}");
        tool("e2fsck", &["-fn", &mounted.device]);
    }
    mounted.mount();
    for (name, expected) in &files {
        assert_eq!(hash(&mounted.mount.join(name)).as_ref(), Some(expected), "{name}");
    }
    mounted.detach();
    cluster.start(0);
    cluster.wait_in_sync(1);
    cluster.assert_identical();
}

#[test]
fn ext4_survives_the_death_of_the_primary() {
    over_a_failover(Wish::new(320), "mkfs.ext4", &["-q", "-F"]);
}

/// G2: under A a tail is missing, and what is there is a state that a power cut could have left.
#[test]
fn ext4_survives_the_death_of_the_primary_under_a() {
    let wish = Wish { protocol: "A", proxied: true, ..Wish::new(320) };
    over_a_failover(wish, "mkfs.ext4", &["-q", "-F"]);
}

#[test]
fn xfs_survives_the_death_of_the_primary_under_a() {
    let wish = Wish { protocol: "A", proxied: true, ..Wish::new(320) };
    over_a_failover(wish, "mkfs.xfs", &["-q", "-f"]);
}

#[test]
fn ext4_survives_the_death_of_the_primary_under_b() {
    let wish = Wish { protocol: "B", ..Wish::new(320) };
    over_a_failover(wish, "mkfs.ext4", &["-q", "-F"]);
}
