//! Owns a real file system on the export, by way of nbdfuse and a loop device: written on one node,
//! read on the other. Must never leave a mount behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::config::{RESOURCE, Wish};
use crate::load::Random;
use crate::stage::{Cluster, eventually, hash, run, tool};

/// An export as a mounted file system; unmounted when dropped.
struct Mounted {
    fuse: Child,
    file: PathBuf,
    face: PathBuf,
    device: String,
    mount: PathBuf,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run(Command::new("umount").arg("--lazy").arg(&self.mount));
        if !self.device.is_empty() {
            let _ = run(Command::new("losetup").args(["-d", &self.device]));
        }
        let _ = run(Command::new("fusermount3").arg("-u").arg(&self.face));
        let _ = self.fuse.kill();
        let _ = self.fuse.wait();
    }
}

impl Mounted {
    /// Shows the export as a block device.
    fn attach(cluster: &Cluster, node: usize) -> Self {
        let (face, mount) = (cluster.site.path("face"), cluster.site.path("mount"));
        for directory in [&face, &mount] {
            fs::create_dir_all(directory).expect("made");
        }
        let fuse = Command::new("nbdfuse")
            .arg(&face)
            .arg(cluster.site.uri(node))
            .stdin(Stdio::null())
            .spawn()
            .expect("nbdfuse starts");
        let file = face.join("nbd");
        let mut mounted = Self { fuse, file, face, device: String::new(), mount };
        eventually("the file of nbdfuse", || {
            if mounted.file.exists() { Ok(()) } else { Err("not there".to_owned()) }
        });
        let file = mounted.file.display().to_string();
        tool("losetup", &["-f", "--show", &file]).trim().clone_into(&mut mounted.device);
        mounted
    }

    fn mount(&self) {
        tool("mount", &[&self.device, self.mount.to_str().expect("text")]);
    }

    /// A program that another test is just starting may hold a copy of a file that this one read.
    fn unmount(&self) {
        eventually("an end of the mount", || {
            let ran = run(Command::new("umount").arg(&self.mount));
            if ran.code == 0 { Ok(()) } else { Err(ran.errors) }
        });
    }

    fn detach(mut self) {
        self.unmount();
        tool("losetup", &["-d", &std::mem::take(&mut self.device)]);
        tool("fusermount3", &["-u", self.face.to_str().expect("text")]);
        let _ = self.fuse.wait();
    }
}

/// What keeps the test from running here.
fn missing(mkfs: &str) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let devices = ["/dev/fuse", "/dev/loop-control"];
    if let Some(device) = devices.iter().find(|device| !Path::new(device).exists()) {
        return Some(format!("no {device}"));
    }
    let finds = |program: &&str| {
        run(Command::new("sh").args(["-c", &format!("command -v {program}")])).code != 0
    };
    let programs = ["nbdfuse", "losetup", "fusermount3", mkfs];
    programs.iter().find(|program| finds(program)).map(|program| format!("no {program}"))
}

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
    if let Some(why) = missing(mkfs) {
        println!("SKIPPED, NOT PASSED: {mkfs} on the export: {why}");
        return;
    }
    let cluster = Cluster::in_sync(Wish::new(320));
    let mounted = Mounted::attach(&cluster, 0);
    tool(mkfs, &[arguments, &[mounted.device.as_str()]].concat());
    mounted.mount();
    let files = write_files(&mounted.mount, 1);
    mounted.detach();
    cluster.assert_identical();
    cluster.done(0, &["demote", RESOURCE]);
    cluster.promote(1);
    let mounted = Mounted::attach(&cluster, 1);
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
    if let Some(why) = missing(mkfs) {
        println!("SKIPPED, NOT PASSED: {mkfs} over a failover: {why}");
        return;
    }
    let mut cluster = Cluster::in_sync(wish);
    let mounted = Mounted::attach(&cluster, 0);
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
    let mounted = Mounted::attach(&cluster, 1);
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
