//! Owns the face of a disk whose power can be cut: a file for a daemon, served by FUSE from within this
//! process and past the kernel's page cache, and the switch. Must never answer a request while the
//! power is off, nor let one take effect.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyOpen, ReplyWrite, Request, WriteFlags,
};
use nix::mount::{MntFlags, umount2};
use tempfile::TempDir;
use twinblk::format::superblock::Geometry;

use crate::load::Random;
use crate::medium::{DiskLog, Kept, Medium, Written};

const FILE: INodeNo = INodeNo(2);
const NAME: &str = "disk";

/// How long the kernel may remember names and sizes, which never change.
const REMEMBERED: Duration = Duration::from_secs(60);

/// How a request is told that there is no disk any more.
type Refusal = Box<dyn FnOnce(Errno) + Send>;

enum Power {
    On,
    /// Nothing takes effect and nobody is answered: as far as the daemon can see, time stands still.
    Frozen(Vec<Refusal>),
    Off,
}

struct Shared {
    medium: Medium,
    power: Power,
    syncs: u64,
}

/// A disk, while it is mounted.
pub(crate) struct LossyDisk {
    shared: Arc<Mutex<Shared>>,
    /// Where the two copies of the superblock lie, with internal metadata.
    superblocks: [usize; 2],
    /// Ends before the directory goes.
    session: Option<BackgroundSession>,
    directory: TempDir,
}

impl Drop for LossyDisk {
    fn drop(&mut self) {
        // Whoever still waits must not keep the mount.
        self.off();
        // The kernel gives back a killed daemon's descriptors some time after its end (io_uring): until
        // then a plain unmount is refused, and this one takes effect when they are.
        let unmounted = umount2(self.directory.path(), MntFlags::MNT_DETACH);
        let ended = unmounted.map(|()| self.session.take().map(BackgroundSession::join));
        if !matches!(ended, Ok(Some(Ok(())))) {
            eprintln!("{}: {ended:?}", self.directory.path().display());
        }
    }
}

impl LossyDisk {
    pub(crate) fn new(bytes: u64) -> Self {
        let size = usize::try_from(bytes).expect("it fits in memory");
        let shared = Shared { medium: Medium::new(size), power: Power::On, syncs: 0 };
        let shared = Arc::new(Mutex::new(shared));
        let geometry = Geometry::internal(bytes, 2, 1237).expect("room for metadata");
        let area = geometry.internal_offset(bytes).expect("room for metadata");
        let place =
            |copy| usize::try_from(area + geometry.superblock_offset(copy)).expect("it fits");
        let directory = tempfile::Builder::new().prefix("twinblk-lossy.").tempdir();
        let directory = directory.expect("a directory");
        let face = Face { shared: Arc::clone(&shared), bytes };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("twinblk-lossy".to_owned())];
        let session = fuser::spawn_mount(face, directory.path(), &config).expect("mounted");
        Self { shared, superblocks: [place(0), place(1)], session: Some(session), directory }
    }

    /// For the daemon's configuration.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join(NAME)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().expect("nobody panicked with it")
    }

    /// The power goes. The daemon must be struck dead before it is told anything.
    pub(crate) fn freeze(&self) {
        self.shared().power = Power::Frozen(Vec::new());
    }

    /// Lets a daemon that was struck dead end: its requests are refused.
    pub(crate) fn off(&self) {
        let before = std::mem::replace(&mut self.shared().power, Power::Off);
        if let Power::Frozen(held) = before {
            held.into_iter().for_each(|refuse| refuse(Errno::EIO));
        }
    }

    /// The power is back, in a host of another boot.
    pub(crate) fn on(&self, random: &mut Random) -> Kept {
        let mut shared = self.shared();
        assert!(matches!(shared.power, Power::Off), "its daemon has not ended");
        let kept = shared.medium.cut(random);
        shared.medium.reboot(self.superblocks, u128::from(random.next()));
        shared.power = Power::On;
        kept
    }

    /// From now on what lies before this offset is never durable, whatever a sync says.
    pub(crate) fn lie_below(&self, offset: u64) {
        self.shared().medium.lies_below = usize::try_from(offset).expect("it fits");
    }

    /// Syncs and durable writes so far.
    pub(crate) fn syncs(&self) -> u64 {
        self.shared().syncs
    }

    /// Begins a log.
    pub(crate) fn record(&self) {
        self.shared().medium.record();
    }

    /// Where the log is, for those who note it; they may outlive this.
    pub(crate) fn clock(&self) -> impl Fn() -> usize + Send + Sync + 'static {
        let shared = Arc::clone(&self.shared);
        move || shared.lock().expect("nobody panicked with it").medium.position()
    }

    pub(crate) fn take_log(&self) -> DiskLog {
        self.shared().medium.take_log().expect("a log was begun")
    }

    /// The first block of the device in which two disks differ, without asking any daemon.
    pub(crate) fn first_difference(&self, other: &Self, device_bytes: u64) -> Option<usize> {
        let end = usize::try_from(device_bytes).expect("it fits");
        let (one, other) = (self.shared(), other.shared());
        let (one, other) = (&one.medium.shown()[..end], &other.medium.shown()[..end]);
        one.chunks(4096).zip(other.chunks(4096)).position(|(one, other)| one != other)
    }

    /// Where the superblocks lie.
    pub(crate) const fn superblocks(&self) -> [usize; 2] {
        self.superblocks
    }
}

/// What the kernel talks to.
struct Face {
    shared: Arc<Mutex<Shared>>,
    bytes: u64,
}

impl Face {
    /// Carries out a request if there is power.
    fn powered<R: Send + 'static, T>(
        &self,
        reply: R,
        refuse: fn(R, Errno),
        work: impl FnOnce(&mut Shared) -> T,
    ) -> Option<(R, T)> {
        let mut shared = self.shared.lock().expect("nobody panicked with it");
        match &mut shared.power {
            Power::On => {
                let done = work(&mut shared);
                return Some((reply, done));
            }
            Power::Frozen(held) => held.push(Box::new(move |why| refuse(reply, why))),
            Power::Off => refuse(reply, Errno::EIO),
        }
        None
    }

    fn attributes(&self, node: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size) = match node {
            INodeNo::ROOT => (FileType::Directory, 0o755, 0),
            FILE => (FileType::RegularFile, 0o600, self.bytes),
            _ => return None,
        };
        Some(FileAttr {
            ino: node,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn range(&self, offset: u64, length: u64) -> Option<(usize, usize)> {
        let end = offset.checked_add(length).filter(|end| *end <= self.bytes)?;
        let (offset, end) = (usize::try_from(offset).ok()?, usize::try_from(end).ok()?);
        Some((offset, end - offset))
    }
}

impl Filesystem for Face {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(FILE) {
            Some(found) if parent == INodeNo::ROOT && name == NAME => {
                reply.entry(&REMEMBERED, &found, Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(node) {
            Some(found) => reply.attr(&REMEMBERED, &found),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let length = u64::from(size).min(self.bytes.saturating_sub(offset));
        let Some((offset, length)) = self.range(offset.min(self.bytes), length) else {
            return reply.error(Errno::EINVAL);
        };
        let read = |shared: &mut Shared| shared.medium.shown()[offset..offset + length].to_vec();
        if let Some((reply, bytes)) = self.powered(reply, ReplyData::error, read) {
            reply.data(&bytes);
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let Some((offset, length)) = self.range(offset, data.len() as u64) else {
            return reply.error(Errno::EFBIG);
        };
        let durable = flags.0 & libc::O_DSYNC != 0;
        let write = |shared: &mut Shared| {
            shared.syncs += u64::from(durable);
            shared.medium.write(Written::data(offset, data, durable));
        };
        if let Some((reply, ())) = self.powered(reply, ReplyWrite::error, write) {
            reply.written(u32::try_from(length).expect("as long as the request"));
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let sync = |shared: &mut Shared| {
            shared.syncs += 1;
            shared.medium.sync();
        };
        if let Some((reply, ())) = self.powered(reply, ReplyEmpty::error, sync) {
            reply.ok();
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let zeroing = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
        if mode & zeroing == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let Some((offset, length)) = self.range(offset, length) else {
            return reply.error(Errno::EFBIG);
        };
        let zero = |shared: &mut Shared| shared.medium.write(Written::zeroes(offset, length));
        if let Some((reply, ())) = self.powered(reply, ReplyEmpty::error, zero) {
            reply.ok();
        }
    }

    /// On each close of a descriptor; says nothing about durability.
    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::fs::{FileExt, OpenOptionsExt};

    use super::*;

    const MEBIBYTE: u64 = 1 << 20;

    /// By way of the kernel: a sync and a durable write survive a cut, and nothing else must.
    #[test]
    fn the_kernel_passes_writes_and_syncs_on() {
        if let Some(why) = crate::mounted::missing(&[]) {
            println!("SKIPPED, NOT PASSED: a disk that loses writes: {why}");
            return;
        }
        let mut lost = 0;
        for seed in 0..20 {
            let disk = LossyDisk::new(8 * MEBIBYTE);
            let file = OpenOptions::new().read(true).write(true).open(disk.path()).expect("open");
            file.write_all_at(&[1; 4096], 0).expect("written");
            file.sync_data().expect("synced");
            file.write_all_at(&[2; 4096], 4096).expect("written");
            let mut durably = OpenOptions::new();
            let durably = durably.write(true).custom_flags(libc::O_DSYNC).open(disk.path());
            let durably = durably.expect("open");
            durably.write_all_at(&[3; 4096], 8192).expect("written");
            let mut seen = [0; 12288];
            file.read_exact_at(&mut seen, 0).expect("read");
            assert_eq!((seen[0], seen[8191], seen[8192]), (1, 2, 3), "seed {seed}");
            assert_eq!(disk.syncs(), 2);
            drop((file, durably));
            disk.off();
            disk.on(&mut Random::new(seed));
            let file = OpenOptions::new().read(true).open(disk.path()).expect("open");
            file.read_exact_at(&mut seen, 0).expect("read");
            assert_eq!((seen[0], seen[12287]), (1, 3), "seed {seed}");
            lost += u32::from(seen[8191] == 0);
        }
        assert!(lost > 0, "no draw lost anything");
    }
}
