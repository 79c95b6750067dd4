//! Owns taking a backing file or device for this process alone. Runs on plain threads at start-up
//! and for commands, so it may wait. Must never write, nor judge what lies on a disk.
//!
//! The lock is `flock` on the very descriptor that is written through: after the daemon was
//! killed, writes it had given to the kernel may still land, and the lock is held until they have.
//! (An `fcntl` lock would be free at once.) A successor therefore waits for it.

mod claims;
mod content;

use std::fs::{File, Metadata, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, PosixFadviseAdvice, fcntl, posix_fadvise};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};

pub use content::probe_content;

use crate::ring::system_calls;
use crate::units::BLOCK_BYTES;
use claims::{Claim, Holder, Host, Identity};

/// Pause between two attempts to get what another process still has.
const RETRY_PAUSE: Duration = Duration::from_millis(50);

/// The largest alignment direct I/O may demand: what every buffer slot and block has.
const DIRECT_ALIGN_MAX: u32 = 4096;

/// How to take a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenOptions {
    /// How long to wait for a process that has the disk: long enough for the last writes of a
    /// killed predecessor, zero for a command that would rather be refused.
    pub wait: Duration,
    /// The smallest size of use, in bytes.
    pub minimum_bytes: u64,
}

/// A disk taken for this process alone, until the descriptor is closed.
#[derive(Debug)]
pub struct OpenedFile {
    /// To read and write through; holds the lock.
    pub fd: OwnedFd,
    /// Size in bytes, a multiple of 4096: the last part of a device's odd size is not used.
    pub size_bytes: u64,
    /// A block device, not a file.
    pub is_device: bool,
    /// Transfers go past the page cache.
    pub direct: bool,
    /// What offsets, lengths and addresses must be multiples of, in bytes; 1 if not direct.
    pub alignment: u32,
    /// In memory: [`FileEngine::Inline`](crate::ring::FileEngine::Inline) serves it best.
    pub on_tmpfs: bool,
    /// As it was given.
    pub path: PathBuf,
}

/// Why a disk cannot be taken, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Nothing has that name.
    #[error("{path} does not exist; create it or correct the path in the configuration")]
    Missing {
        /// Which disk.
        path: PathBuf,
    },
    /// Something else has it.
    #[error("{path} is {found}, not a file or block device; correct the path in the configuration")]
    WrongKind {
        /// Which disk.
        path: PathBuf,
        /// What it is, with its article.
        found: &'static str,
    },
    /// It cannot be written.
    #[error("{path} is read-only; make it writable (chmod for a file, blockdev --setrw)")]
    ReadOnly {
        /// Which disk.
        path: PathBuf,
    },
    /// This user may not.
    #[error("{path} may not be opened by this user; run as root or change its owner or mode")]
    Denied {
        /// Which disk.
        path: PathBuf,
    },
    /// The host uses it otherwise.
    #[error("{path} is in use: {used}; {remedy}")]
    InUse {
        /// Which disk.
        path: PathBuf,
        /// By what.
        used: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Another process has it.
    #[error("{path} is held by {holder}{}; stop it, or wait until it has ended", waited(*.wait))]
    Locked {
        /// Which disk.
        path: PathBuf,
        /// Which process, as far as can be seen.
        holder: String,
        /// How long was waited for it.
        wait: Duration,
    },
    /// Two resources name the same disk.
    #[error("{path} is already open in this process; give each resource a disk of its own")]
    Twice {
        /// Which disk.
        path: PathBuf,
    },
    /// Too little room.
    #[error("{path} has {size_bytes} bytes and at least {minimum_bytes} are needed; enlarge it")]
    TooSmall {
        /// Which disk.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
        /// What is needed.
        minimum_bytes: u64,
    },
    /// A file whose end is not the end of a block.
    #[error(
        "{path} has {size_bytes} bytes, not a multiple of 4096; set its size with \
         truncate -s {} {path}",
        size_bytes - size_bytes % BLOCK_BYTES
    )]
    Unaligned {
        /// Which disk.
        path: PathBuf,
        /// Its size.
        size_bytes: u64,
    },
    /// Anything else the kernel said.
    #[error("{path} cannot be {action}: {source}; see the kernel's log (dmesg)")]
    Failed {
        /// Which disk.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

fn waited(wait: Duration) -> String {
    if wait.is_zero() {
        return String::new();
    }
    format!(" and was not freed within {} s", wait.as_secs_f32())
}

/// Takes `path` for this process alone. Blocks for up to `options.wait`.
///
/// # Errors
/// If it is missing, of the wrong kind, read-only, in use by the host or another process, or of a
/// size that cannot be used.
pub fn open(path: &Path, options: OpenOptions) -> Result<OpenedFile, OpenError> {
    Attempt { path, options, host: Host::this() }.open()
}

/// One call of [`open`], with the host it looks at.
struct Attempt<'a> {
    path: &'a Path,
    options: OpenOptions,
    host: Host,
}

/// Why a disk could not be had at this moment.
enum Busy {
    /// The kernel said so when opening: somebody has the device.
    Exclusive,
    /// Somebody has the lock.
    Locked,
}

impl Attempt<'_> {
    fn open(&self) -> Result<OpenedFile, OpenError> {
        let is_device = self.check_kind()?;
        let file = self.take(is_device)?;
        let found = file.metadata().map_err(|error| self.failed("looked at", error))?;
        if let Some(claim) = self.host.claim(Identity::of(&found)) {
            return Err(self.in_use(claim));
        }
        let size_bytes = self.size(&file, is_device)?;
        self.settle(&file)?;
        let on_tmpfs = !is_device
            && fstatfs(&file).is_ok_and(|system| system.filesystem_type() == TMPFS_MAGIC);
        let alignment = match set_direct(&file, is_device, on_tmpfs) {
            Ok(alignment) => Some(alignment),
            Err(why) => {
                if !on_tmpfs {
                    let path = self.path.display();
                    tracing::warn!("{path}: transfers go through the page cache: {why}");
                }
                None
            }
        };
        Ok(OpenedFile {
            fd: file.into(),
            size_bytes,
            is_device,
            direct: alignment.is_some(),
            alignment: alignment.unwrap_or(1),
            on_tmpfs,
            path: self.path.to_owned(),
        })
    }

    /// Whether it is a device; refuses what is neither that nor a file, is in use, or cannot be
    /// written.
    fn check_kind(&self) -> Result<bool, OpenError> {
        let found = std::fs::metadata(self.path).map_err(|error| self.refused(error))?;
        let kind = found.file_type();
        let other = if kind.is_dir() {
            "a directory"
        } else if kind.is_char_device() {
            "a character device"
        } else if kind.is_file() || kind.is_block_device() {
            let locked_mode = kind.is_file() && found.mode() & 0o222 == 0;
            if locked_mode || (kind.is_block_device() && self.host.is_read_only(found.rdev())) {
                return Err(OpenError::ReadOnly { path: self.path() });
            }
            // Before trying to open it, which would only say "busy" or "not permitted".
            self.check_claims(&found)?;
            return Ok(kind.is_block_device());
        } else {
            "a socket or pipe"
        };
        Err(OpenError::WrongKind { path: self.path(), found: other })
    }

    /// Refuses what the host itself uses: that will not be free in a moment.
    fn check_claims(&self, found: &Metadata) -> Result<(), OpenError> {
        let claim = self.host.claim(Identity::of(found));
        claim.map_or(Ok(()), |claim| Err(self.in_use(claim)))
    }

    /// Opens and locks, as often as time allows.
    fn take(&self, is_device: bool) -> Result<File, OpenError> {
        let started = Instant::now();
        let mut told = false;
        loop {
            let busy = match self.try_take(is_device)? {
                Ok(file) => return Ok(file),
                Err(busy) => busy,
            };
            let found = std::fs::metadata(self.path).map_err(|error| self.refused(error))?;
            let holder = self.host.lock_holder(&found);
            if matches!(holder, Some(Holder::Ourselves)) {
                return Err(OpenError::Twice { path: self.path() });
            }
            let holder = describe(holder, &busy);
            if started.elapsed() >= self.options.wait {
                return Err(OpenError::Locked {
                    path: self.path(),
                    holder,
                    wait: self.options.wait,
                });
            }
            if !told {
                let path = self.path.display();
                tracing::info!("{path}: held by {holder}; waiting for it to be freed");
                told = true;
            }
            // The kernel has no wait for O_EXCL, and none for flock that can be given up in time.
            // This runs on a thread of its own.
            std::thread::sleep(RETRY_PAUSE);
        }
    }

    fn try_take(&self, is_device: bool) -> Result<Result<File, Busy>, OpenError> {
        let exclusive = if is_device { libc::O_EXCL } else { 0 };
        let opened = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(exclusive | libc::O_NOCTTY)
            .open(self.path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                return Ok(Err(Busy::Exclusive));
            }
            Err(error) => return Err(self.refused(error)),
        };
        // On Linux this is flock.
        match file.try_lock() {
            Ok(()) => Ok(Ok(file)),
            Err(TryLockError::WouldBlock) => Ok(Err(Busy::Locked)),
            Err(TryLockError::Error(error)) => Err(self.failed("locked", error)),
        }
    }

    fn size(&self, file: &File, is_device: bool) -> Result<u64, OpenError> {
        let size_bytes = if is_device {
            let asked = system_calls::device_bytes(file);
            let asked = asked.map_err(|errno| io::Error::from_raw_os_error(errno.0));
            asked.map_err(|error| self.failed("measured", error))?
        } else {
            let found = file.metadata();
            found.map_err(|error| self.failed("measured", error))?.len()
        };
        let minimum_bytes = self.options.minimum_bytes.max(BLOCK_BYTES);
        if size_bytes < minimum_bytes {
            return Err(OpenError::TooSmall { path: self.path(), size_bytes, minimum_bytes });
        }
        if !is_device && size_bytes % BLOCK_BYTES != 0 {
            return Err(OpenError::Unaligned { path: self.path(), size_bytes });
        }
        Ok(size_bytes - size_bytes % BLOCK_BYTES)
    }

    /// Makes reads show what the medium has, and nothing that only the page cache has.
    fn settle(&self, file: &File) -> Result<(), OpenError> {
        let synced = file.sync_all();
        // Also after a failure: it is then that the cache shows what the medium lacks. A second
        // opening would find the sync to succeed, since the kernel reports an error once.
        let dropped = posix_fadvise(file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
        synced.map_err(|error| self.failed("synced", error))?;
        dropped.map_err(|number| self.failed("taken out of the page cache", number.into()))
    }

    fn path(&self) -> PathBuf {
        self.path.to_owned()
    }

    fn in_use(&self, claim: Claim) -> OpenError {
        OpenError::InUse { path: self.path(), used: claim.used, remedy: claim.remedy }
    }

    /// What an error of opening means.
    fn refused(&self, error: io::Error) -> OpenError {
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => OpenError::Missing { path: self.path() },
            Some(libc::EROFS) => OpenError::ReadOnly { path: self.path() },
            Some(libc::EACCES | libc::EPERM) => OpenError::Denied { path: self.path() },
            Some(libc::ETXTBSY) => self.in_use(Claim {
                used: "it is a running program or swap file".to_owned(),
                remedy: "end that use first",
            }),
            _ => self.failed("opened", error),
        }
    }

    fn failed(&self, action: &'static str, source: io::Error) -> OpenError {
        OpenError::Failed { path: self.path(), action, source }
    }
}

fn describe(holder: Option<Holder>, busy: &Busy) -> String {
    match (holder, busy) {
        (Some(Holder::Ourselves), _) => "this process".to_owned(),
        (Some(Holder::Running { pid, name }), _) => format!("process {pid} ({name})"),
        (Some(Holder::Ended { pid }), _) => {
            format!("process {pid}, which has ended but whose last writes are still landing")
        }
        (None, Busy::Exclusive) => "the kernel or a process that cannot be seen from here".into(),
        (None, Busy::Locked) => "a process that cannot be seen from here".into(),
    }
}

/// Makes transfers go past the page cache; returns what they must be aligned to, or why not.
fn set_direct(file: &File, is_device: bool, on_tmpfs: bool) -> Result<u32, String> {
    if on_tmpfs {
        return Err("it lies in memory".to_owned());
    }
    let alignment = match system_calls::direct_alignment(file.as_fd()) {
        Some(0) => return Err("its file system has no direct I/O".to_owned()),
        Some(alignment) => alignment,
        // Kernels before 6.1 do not say; a sector of a device, and a block of any file system
        // with direct I/O in use, fit.
        None if is_device => system_calls::device_sector_bytes(&file).unwrap_or(DIRECT_ALIGN_MAX),
        None => DIRECT_ALIGN_MAX,
    };
    if alignment > DIRECT_ALIGN_MAX {
        return Err(format!("direct I/O needs an alignment of {alignment} bytes"));
    }
    let flags = fcntl(file, FcntlArg::F_GETFL).map_err(|number| number.to_string())?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_DIRECT;
    match fcntl(file, FcntlArg::F_SETFL(flags)) {
        Ok(_) => Ok(alignment),
        Err(number) => Err(format!("the kernel refuses direct I/O: {}", number.desc())),
    }
}

#[cfg(test)]
mod tests;
