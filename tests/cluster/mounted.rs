//! Owns real mounts: an export by way of nbdfuse and a loop device, or an image by way of a loop device
//! alone, and what is needed for them. Must never leave a mount, a loop device or a process behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::stage::{Cluster, Run, eventually, run, tool};

/// Each has directories of its own: the last of them may be hanging still.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A block device and perhaps a file system on it; all gone when dropped.
pub(crate) struct Mounted {
    /// What shows an export as a file, and where.
    fuse: Option<(Child, PathBuf)>,
    pub(crate) device: String,
    pub(crate) mount: PathBuf,
    is_mounted: bool,
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // With its server gone too, a file system can be unmounted; lazily if somebody has a file of it.
        let gone = || run(Command::new("umount").arg(&self.mount)).code == 0;
        if self.is_mounted && !gone() {
            let _ = run(Command::new("umount").arg("--lazy").arg(&self.mount));
        }
        if !self.device.is_empty() {
            let _ = run(Command::new("losetup").args(["-d", &self.device]));
        }
        if let Some((mut fuse, face)) = self.fuse.take() {
            if run(Command::new("fusermount3").arg("-u").arg(&face)).code != 0 {
                let _ = run(Command::new("fusermount3").args(["-u", "-z"]).arg(&face));
            }
            let _ = fuse.kill();
            let _ = fuse.wait();
        }
    }
}

impl Mounted {
    fn empty(cluster: &Cluster) -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let mount = cluster.site.path(&format!("mount-{number}"));
        fs::create_dir_all(&mount).expect("made");
        Self { fuse: None, device: String::new(), mount, is_mounted: false }
    }

    /// Shows the export as a block device.
    pub(crate) fn attach(cluster: &Cluster, node: usize) -> Self {
        let mut mounted = Self::empty(cluster);
        let face = mounted.mount.with_extension("face");
        fs::create_dir_all(&face).expect("made");
        let fuse = Command::new("nbdfuse")
            .arg(&face)
            .arg(cluster.site.uri(node))
            .stdin(Stdio::null())
            .spawn()
            .expect("nbdfuse starts");
        let file = face.join("nbd");
        mounted.fuse = Some((fuse, face));
        eventually("the file of nbdfuse", || {
            if file.exists() { Ok(()) } else { Err("not there".to_owned()) }
        });
        mounted.loop_over(&file);
        mounted
    }

    /// Shows an image as a block device.
    pub(crate) fn image(cluster: &Cluster, image: &Path) -> Self {
        let mut mounted = Self::empty(cluster);
        mounted.loop_over(image);
        mounted
    }

    fn loop_over(&mut self, file: &Path) {
        let file = file.display().to_string();
        tool("losetup", &["-f", "--show", &file]).trim().clone_into(&mut self.device);
    }

    pub(crate) fn try_mount(&mut self) -> Run {
        let ran = run(Command::new("mount").arg(&self.device).arg(&self.mount));
        self.is_mounted |= ran.code == 0;
        ran
    }

    pub(crate) fn mount(&mut self) {
        let ran = self.try_mount();
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    /// A program that another test is just starting may hold a copy of a file that this one read.
    pub(crate) fn unmount(&mut self) {
        eventually("an end of the mount", || {
            let ran = run(Command::new("umount").arg(&self.mount));
            if ran.code == 0 { Ok(()) } else { Err(ran.errors) }
        });
        self.is_mounted = false;
    }

    pub(crate) fn detach(mut self) {
        self.unmount();
        tool("losetup", &["-d", &std::mem::take(&mut self.device)]);
        if let Some((mut fuse, face)) = self.fuse.take() {
            // The kernel lets go of a loop device, and of the file below it, when the last who looks at it is gone.
            eventually("an end of the file of nbdfuse", || {
                let ran = run(Command::new("fusermount3").arg("-u").arg(&face));
                if ran.code == 0 { Ok(()) } else { Err(ran.errors) }
            });
            let _ = fuse.wait();
        }
    }
}

/// What keeps a test with mounts and these programs from running here.
pub(crate) fn missing(programs: &[&str]) -> Option<String> {
    if !nix::unistd::geteuid().is_root() {
        return Some("not root".to_owned());
    }
    let devices = ["/dev/fuse", "/dev/loop-control"];
    if let Some(device) = devices.iter().find(|device| !Path::new(device).exists()) {
        return Some(format!("no {device}"));
    }
    let lacks = |program: &&&str| {
        run(Command::new("sh").args(["-c", &format!("command -v {program}")])).code != 0
    };
    let all = [&["nbdfuse", "losetup", "fusermount3"], programs].concat();
    all.iter().find(lacks).map(|program| format!("no {program}"))
}

/// A kind of file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileSystem {
    pub(crate) mkfs: &'static str,
    arguments: &'static [&'static str],
    pub(crate) check: &'static str,
    /// The smallest device it likes, and some more for metadata of ours.
    pub(crate) mebibytes: u64,
}

pub(crate) const EXT4: FileSystem = FileSystem {
    mkfs: "mkfs.ext4",
    arguments: &["-q", "-F", "-J", "size=4"],
    check: "e2fsck",
    mebibytes: 48,
};

pub(crate) const XFS: FileSystem =
    FileSystem { mkfs: "mkfs.xfs", arguments: &["-q", "-f"], check: "xfs_repair", mebibytes: 320 };

impl FileSystem {
    pub(crate) fn missing(&self) -> Option<String> {
        missing(&[self.mkfs, self.check])
    }

    pub(crate) fn make(&self, mounted: &Mounted) {
        tool(self.mkfs, &[self.arguments, &[mounted.device.as_str()]].concat());
    }

    /// Replays the journal by mounting, judges the file system unmounted, and mounts it again.
    pub(crate) fn recover(&self, mounted: &mut Mounted) -> Result<(), String> {
        let ran = mounted.try_mount();
        if ran.code != 0 {
            return Err(format!("it cannot be mounted: {}", ran.errors));
        }
        mounted.unmount();
        let option = if self.check == "e2fsck" { "-fn" } else { "-n" };
        let ran = run(Command::new(self.check).args([option, &mounted.device]));
        if ran.code != 0 {
            return Err(format!("{}: {}{}", self.check, ran.output, ran.errors));
        }
        mounted.mount();
        Ok(())
    }
}
