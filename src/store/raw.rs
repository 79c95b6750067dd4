//! Owns blocking access to the files of a disk that nobody serves: laying it out, looking at it.
//! Must never write to a disk in use, nor be called on the thread of a shard.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Whence, lseek};

use super::open::OpenedFile;
use crate::buffer::{Budgets, Payload, Pool, Purpose, Span};
use crate::ring::{Completion, Errno, Op, Ring, SocketId, Token};
use crate::units::{BLOCK_BYTES, Nanos};

/// Bytes read or written at once.
pub(super) const CHUNK_BYTES: usize = 1 << 20;

/// An operation on a file that the system refused.
#[derive(Debug, thiserror::Error)]
#[error("{}: {doing} at byte {offset} failed: {source}", path.display())]
pub struct RawError {
    /// The file or device.
    pub path: PathBuf,
    /// Which operation.
    pub doing: &'static str,
    /// Where.
    pub offset: u64,
    /// What the system said.
    pub source: io::Error,
}

/// A file or device, opened by the caller, who has made sure that nobody else uses it. It may
/// have been opened with O_DIRECT: all access is in aligned blocks.
#[derive(Debug)]
pub struct RawFile {
    file: File,
    path: PathBuf,
    length: u64,
}

impl RawFile {
    /// Takes an open file; `path` is for what is said about it.
    ///
    /// # Errors
    /// Its length cannot be found out.
    pub fn new(mut file: File, path: impl Into<PathBuf>) -> Result<Self, RawError> {
        let path = path.into();
        let end = file.seek(SeekFrom::End(0));
        let failed = |source| RawError { path: path.clone(), doing: "seeking", offset: 0, source };
        let length = end.map_err(failed)?;
        Ok(Self { file, path, length })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its length in bytes.
    #[must_use]
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// Makes a regular file at least this long; a device stays as it is.
    pub(super) fn lengthen(&mut self, length: u64) -> Result<(), RawError> {
        let regular = self.file.metadata().map_err(|e| self.failed("examining", 0, e))?.is_file();
        if regular && self.length < length {
            self.file.set_len(length).map_err(|e| self.failed("lengthening", length, e))?;
            self.length = length;
        }
        Ok(())
    }

    pub(super) fn read(&self, offset: u64, into: &mut [u8]) -> Result<(), RawError> {
        self.file.read_exact_at(into, offset).map_err(|e| self.failed("reading", offset, e))
    }

    pub(super) fn write(&self, offset: u64, from: &[u8]) -> Result<(), RawError> {
        self.file.write_all_at(from, offset).map_err(|e| self.failed("writing", offset, e))
    }

    pub(super) fn sync(&self) -> Result<(), RawError> {
        self.file.sync_all().map_err(|e| self.failed("syncing", 0, e))
    }

    /// The first block at or after `offset` (a block's start) and before `end` that may hold
    /// something, as an offset: all before it is a hole in the file, which reads as zeroes. None
    /// if nothing but a hole is left.
    pub(super) fn next_data(&self, offset: u64, end: u64) -> Option<u64> {
        let from = i64::try_from(offset).unwrap_or(i64::MAX);
        match lseek(&self.file, from, Whence::SeekData) {
            Ok(data) => {
                let data = u64::try_from(data).unwrap_or(offset) / BLOCK_BYTES * BLOCK_BYTES;
                (data < end).then_some(data.max(offset))
            }
            Err(nix::errno::Errno::ENXIO) => None,
            Err(_) => (offset < end).then_some(offset),
        }
    }

    pub(super) fn too_small(&self, needed: u64) -> RawError {
        let source = io::Error::other(format!("it has {} bytes, {needed} are needed", self.length));
        self.failed("laying out metadata", 0, source)
    }

    fn failed(&self, doing: &'static str, offset: u64, source: io::Error) -> RawError {
        RawError { path: self.path.clone(), doing, offset, source }
    }
}

impl From<OpenedFile> for RawFile {
    fn from(opened: OpenedFile) -> Self {
        Self { file: File::from(opened.fd), path: opened.path, length: opened.size_bytes }
    }
}

/// A chunk of memory that any file can be read into.
pub(super) struct Aligned {
    pool: Pool,
    slot: Payload,
}

impl Aligned {
    pub(super) fn new() -> Self {
        let mut pool = private_pool();
        let slot = pool.take(Purpose::Fixed, CHUNK_BYTES).expect("it has no budget");
        Self { pool, slot }
    }

    pub(super) fn bytes(&self, length: usize) -> &[u8] {
        self.pool.bytes(self.span(length))
    }

    pub(super) fn bytes_mut(&mut self, length: usize) -> &mut [u8] {
        self.pool.bytes_mut(self.span(length))
    }

    fn span(&self, length: usize) -> Span {
        let length = u32::try_from(length).expect("at most a chunk");
        Span { slot: self.slot.share(), offset: 0, length }
    }
}

/// A pool for purposes without budget only.
pub(super) fn private_pool() -> Pool {
    Pool::new(Budgets { client_bytes: 0, peer_bytes: 0, background_bytes: 0 })
}

/// A ring that reads files, blocking, so that what reads a disk in the daemon also reads it for
/// the tools. The place of a file in the list is its id.
pub(super) struct ReadRing<'a> {
    files: &'a [&'a RawFile],
    pending: Vec<(Token, Op)>,
}

impl<'a> ReadRing<'a> {
    pub(super) const fn new(files: &'a [&'a RawFile]) -> Self {
        Self { files, pending: Vec::new() }
    }

    fn carry_out(&self, pool: &mut Pool, op: &Op) -> Result<u32, Errno> {
        let Op::Read { file, offset, into } = op else { return Err(Errno(libc::EINVAL)) };
        let file = self.files.get(file.0 as usize).ok_or(Errno(libc::EBADF))?;
        let read = file.read(*offset, pool.bytes_mut(*into));
        let errno = |error: RawError| Errno(error.source.raw_os_error().unwrap_or(libc::EIO));
        read.map(|()| into.length).map_err(errno)
    }
}

impl Ring for ReadRing<'_> {
    fn now(&self) -> Nanos {
        Nanos(0)
    }

    fn random(&mut self) -> u64 {
        0
    }

    fn submit(&mut self, _pool: &Pool, token: Token, op: Op) {
        self.pending.push((token, op));
    }

    fn has_hung_up(&self, _: SocketId) -> bool {
        false
    }

    fn shutdown(&mut self, _socket: SocketId) {}

    fn turn(&mut self, pool: &mut Pool, _until: Nanos, completions: &mut Vec<Completion>) {
        for (token, op) in std::mem::take(&mut self.pending) {
            let result = self.carry_out(pool, &op);
            completions.push(Completion { token, result, gather: None });
        }
    }
}
