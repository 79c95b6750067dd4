//! Owns wrong configurations and wrong disks: each is refused in words, and nothing is written.
//! Must never accept an exit code without the sentence.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::config::{NAMES, RESOURCE, Wish};
use crate::load::Session;
use crate::stage::{Cluster, eventually, hash};
use crate::stamp::content;

/// Hashes of all disks and metadata.
fn hashes(cluster: &Cluster) -> Vec<Option<String>> {
    let paths = [0, 1].map(|node| [cluster.site.disk(node), cluster.site.metadata(node)]);
    paths.iter().flatten().map(|path| hash(path)).collect()
}

/// That a command is refused with these words, and nothing was written.
fn refuses(cluster: &Cluster, arguments: &[&str], words: &[&str]) {
    let before = hashes(cluster);
    let said = cluster.refused(0, arguments);
    for word in words {
        assert!(said.contains(word), "{arguments:?}: no {word:?} in: {said}");
    }
    assert!(said.lines().count() <= 20, "clear words: {said}");
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(before, hashes(cluster), "{arguments:?} wrote something: {said}");
}

/// Laying out what cannot be laid out.
#[test]
fn create_refuses_in_words_and_writes_nothing() {
    let cluster = Cluster::bare(Wish::new(8));
    let create = ["create", RESOURCE];
    let disk = cluster.site.disk(0);
    let path = disk.display().to_string();

    refuses(&cluster, &["create", "other"], &["other", RESOURCE]);
    fs::remove_file(&disk).expect("removed");
    refuses(&cluster, &create, &[&path, "does not exist"]);
    fs::create_dir(&disk).expect("made");
    refuses(&cluster, &create, &[&path, "not a file or block device"]);
    fs::remove_dir(&disk).expect("removed");
    cluster.site.make_disk(0, 1000);
    refuses(&cluster, &create, &[&path, "1000"]);
    cluster.site.make_disk(0, 8 << 20);
    cluster.done(0, &create);
    let said = cluster.refused(0, &create);
    assert!(said.contains("--force"), "{said}");
    refuses(&cluster, &create, &["alpha.meta", "already"]);
}

/// Metadata that would lie on top of a file system.
#[test]
fn create_keeps_a_file_system() {
    let cluster = Cluster::bare(Wish { internal_metadata: true, ..Wish::new(64) });
    let path = cluster.site.disk(0).display().to_string();
    crate::stage::tool("mkfs.ext4", &["-q", "-F", &path]);
    refuses(&cluster, &["create", RESOURCE], &[&path, "ext4", "--force"]);
}

/// A daemon that must not start, or starts without its disk: in words, without a write.
#[test]
fn a_wrong_configuration_does_not_start() {
    let mut cluster = Cluster::bare(Wish::new(8));
    for node in [0, 1] {
        cluster.done(node, &["create", RESOURCE]);
    }
    let good = fs::read_to_string(cluster.site.config(0)).expect("read");
    let restore = |cluster: &Cluster| fs::write(cluster.site.config(0), &good).expect("written");
    let wrong = [
        ("protocol = \"C\"", "protocol = \"D\"", "\"D\""),
        ("protocol = \"C\"", "protocoll = \"C\"", "did you mean `protocol`"),
        ("id = 1", "id = 0", "the same id"),
        ("[resource.r0.on.beta]", "[resource.r0.on.gamma]", "gamma"),
        ("protocol = \"C\"", "protocol = \"C", "help"),
    ];
    for (from, to, word) in wrong {
        cluster.site.edit_config(0, from, to);
        refuses(&cluster, &["serve"], &[word]);
        refuses(&cluster, &["config", "check"], &[word]);
        restore(&cluster);
    }
    let secret = cluster.site.path("alpha.secret");
    fs::set_permissions(&secret, Permissions::from_mode(0o644)).expect("changed");
    refuses(&cluster, &["serve"], &["chmod 0600"]);
    fs::remove_file(&secret).expect("removed");
    refuses(&cluster, &["serve"], &["secret"]);
    cluster.site.write_secret(0, "short");
    refuses(&cluster, &["serve"], &["16"]);
    cluster.site.write_secret(0, "a secret that both nodes know");

    cluster.start(0);
    // A second daemon of the same node, and a command that wants the disk.
    refuses(&cluster, &["serve"], &["daemon"]);
    refuses(&cluster, &["create", RESOURCE, "--force"], &["held by"]);
    refuses(&cluster, &["meta", "dump", RESOURCE], &["held by"]);
    refuses(&cluster, &["promote", RESOURCE], &["init"]);
    cluster.assert_alive(0);
}

/// The state of a node whose disk cannot serve: a reason in words, and not a byte written.
fn serves_without_disk(cluster: &mut Cluster, words: &[&str]) {
    let before = hashes(cluster);
    cluster.start(0);
    let seen = cluster.wait(0, "a reason", |seen| !seen.disk_reason.is_empty());
    for word in words {
        assert!(seen.disk_reason.contains(word), "no {word:?} in: {}", seen.disk_reason);
    }
    assert!(!seen.may_promote && seen.degraded);
    cluster.refused(0, &["promote", RESOURCE]);
    cluster.kill(0);
    assert_eq!(before, hashes(cluster), "something was written");
}

/// A disk that is not there, not laid out, or somebody else's.
#[test]
fn a_foreign_disk_is_not_served() {
    let mut cluster = Cluster::in_sync(Wish::new(8));
    let mut session = Session::open(&cluster.site.socket(0)).expect("open");
    session.write(3, &content(3, 1, 1)).expect("written");
    session.flush().expect("flushed");
    cluster.done(0, &["demote", RESOURCE]);
    cluster.stop(0);
    cluster.stop(1);
    let (metadata, disk) = (cluster.site.metadata(0), cluster.site.disk(0));
    let aside = cluster.site.path("aside");

    // Metadata of another resource; of the other node; of nobody; damaged.
    fs::rename(&metadata, &aside).expect("moved");
    cluster.site.edit_config(0, "resource.r0", "resource.r1");
    cluster.done(0, &["create", "r1"]);
    cluster.site.edit_config(0, "resource.r1", "resource.r0");
    serves_without_disk(&mut cluster, &["another resource", "r0"]);
    fs::copy(cluster.site.metadata(1), &metadata).expect("copied");
    serves_without_disk(&mut cluster, &["node"]);
    fs::write(&metadata, vec![0; 4 << 20]).expect("written");
    serves_without_disk(&mut cluster, &["create"]);
    let mut damaged = fs::read(&aside).expect("read");
    let end = damaged.len();
    damaged[100] ^= 1;
    damaged[end - 4096 + 100] ^= 1;
    fs::write(&metadata, &damaged).expect("written");
    serves_without_disk(&mut cluster, &[]);
    fs::remove_file(&metadata).expect("removed");
    serves_without_disk(&mut cluster, &["does not exist"]);
    fs::copy(&aside, &metadata).expect("copied");

    // A device that shrank.
    let file = fs::OpenOptions::new().write(true).open(&disk).expect("open");
    file.set_len(4 << 20).expect("shrunk");
    serves_without_disk(&mut cluster, &[]);
    file.set_len(8 << 20).expect("grown");
    fs::remove_file(&disk).expect("removed");
    serves_without_disk(&mut cluster, &["does not exist"]);
}

/// Nodes that must not talk to each other: both say why, and nothing is copied.
fn strangers(mut cluster: Cluster, words: &[&str]) -> Cluster {
    let disks = [0, 1].map(|node| hash(&cluster.site.disk(node)));
    for node in [0, 1] {
        cluster.start(node);
    }
    for node in [0, 1] {
        let seen = cluster.wait(node, "a reason", |seen| {
            !seen.peers[0].connection_reason.is_empty() && seen.peers[0].connection != "Connected"
        });
        println!("{}: {}", NAMES[node], seen.peers[0].connection_reason);
    }
    eventually("the words", || {
        let reasons = [0, 1].map(|node| cluster.peer(node).connection_reason);
        let said = |word: &&str| reasons.iter().all(|reason| reason.contains(*word));
        if words.iter().all(said) { Ok(()) } else { Err(format!("{reasons:?}")) }
    });
    assert_eq!(disks, [0, 1].map(|node| hash(&cluster.site.disk(node))));
    cluster
}

fn laid_out(wish: Wish) -> Cluster {
    let cluster = Cluster::bare(wish);
    for node in [0, 1] {
        cluster.done(node, &["create", RESOURCE]);
    }
    cluster
}

#[test]
fn nodes_with_different_secrets_do_not_talk() {
    let cluster = laid_out(Wish::new(8));
    cluster.site.write_secret(1, "another secret altogether");
    let _ = strangers(cluster, &["secret"]);
}

#[test]
fn nodes_with_different_protocols_do_not_talk() {
    let cluster = laid_out(Wish::new(8));
    cluster.site.edit_config(1, "protocol = \"C\"", "protocol = \"A\"");
    let _ = strangers(cluster, &["protocol"]);
}

#[test]
fn nodes_with_different_resources_do_not_talk() {
    let cluster = laid_out(Wish::new(8));
    cluster.site.edit_config(1, "resource.r0", "resource.r1");
    let mut cluster = cluster;
    cluster.start(0);
    cluster.launch(1);
    cluster.wait(0, "a reason", |seen| !seen.peers[0].connection_reason.is_empty());
}

/// Copies that have nothing in common but the name of their resource.
#[test]
fn disks_of_different_origin_are_not_mixed() {
    let mut cluster = laid_out(Wish::new(8));
    for node in [0, 1] {
        cluster.start(node);
        cluster.done(node, &["init", RESOURCE, "--from", NAMES[node]]);
        cluster.stop(node);
    }
    let _ = strangers(cluster, &["different resources", "--force"]);
}

/// A smaller peer cannot take the data; with the disk and the commands that the refusal names it does.
#[test]
fn a_smaller_peer_is_refused() {
    let mut cluster = laid_out(Wish { disk_bytes: [16 << 20, 8 << 20], ..Wish::new(16) });
    cluster.start(0);
    cluster.done(0, &["init", RESOURCE, "--from", NAMES[0]]);
    cluster.kill(0);
    let mut cluster = strangers(cluster, &["Stop the daemon", "create r0 --force", "connect"]);
    cluster.stop(1);
    let disk = fs::OpenOptions::new().write(true).open(cluster.site.disk(1)).expect("open");
    disk.set_len(16 << 20).expect("grown");
    cluster.done(1, &["create", RESOURCE, "--force"]);
    cluster.start(1);
    cluster.done(0, &["connect", RESOURCE]);
    cluster.wait_in_sync(0);
    cluster.assert_identical();
}
