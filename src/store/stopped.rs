//! Owns a disk that nobody serves: reading its metadata the way the daemon does, and writing a
//! whole metadata area. Must never decide whether that may be done.

use super::raw::{Aligned, CHUNK_BYTES, RawError, RawFile, ReadRing, private_pool};
use super::recover::{Expected, Files, Opened, Opening, Refused};
use crate::format::RECORD_BYTES;
use crate::format::bitmap::{self, PageAddress};
use crate::format::superblock::{self, Geometry, SUPERBLOCK_COPIES, Superblock};
use crate::limits::DEVICE_BLOCKS_MAX;
use crate::ring::{FileId, Lane, Ring};
use crate::units::{BLOCK_BYTES, BootId, Nanos, RunId};

const DATA: FileId = FileId(0);
const METADATA: FileId = FileId(1);

/// The files of a disk that nobody serves; the caller has locked them.
#[derive(Debug)]
pub struct StoppedDisk {
    /// The exported blocks.
    pub data: RawFile,
    /// The metadata; none if it lies at the end of the data's own device.
    pub metadata: Option<RawFile>,
}

/// What was found where metadata belongs.
#[derive(Debug)]
pub(super) enum Found {
    /// No trace of ours.
    Nothing,
    /// A superblock that can be used.
    Superblock(Box<Superblock>),
    /// Ours, and not usable: why.
    Damaged(String),
    /// That of a newer version.
    Newer(String),
}

/// A metadata area to be written as a whole.
pub(super) struct Area<'a> {
    pub(super) superblock: &'a Superblock,
    /// The log's ring.
    pub(super) log: Vec<[u8; RECORD_BYTES]>,
    /// Words of marks of each slot; missing ones are zero.
    pub(super) bitmaps: &'a [Vec<u64>],
}

impl StoppedDisk {
    /// The file that holds the metadata.
    #[must_use]
    pub fn metadata_file(&self) -> &RawFile {
        self.metadata.as_ref().unwrap_or(&self.data)
    }

    fn files(&self) -> Files {
        Files {
            data: DATA,
            data_bytes: self.data.length(),
            metadata: if self.metadata.is_some() { METADATA } else { DATA },
            metadata_bytes: self.metadata_file().length(),
        }
    }

    /// The layout for a device of so many blocks on this disk; none if it is too small.
    pub(super) fn geometry_for(&self, geometry: Geometry) -> Option<Geometry> {
        let data_fits = self.data.length() / BLOCK_BYTES >= geometry.device_blocks;
        let fits = match self.metadata {
            None => geometry.internal_offset(self.data.length()).is_some(),
            Some(_) => data_fits,
        };
        (fits && geometry.fault().is_none()).then_some(geometry)
    }

    /// The layout for this device; none if it is too small, or the numbers are out of bounds.
    #[must_use]
    pub fn geometry(&self, peer_slots: u8, log_extents: u32) -> Option<Geometry> {
        if self.metadata.is_none() {
            return Geometry::internal(self.data.length(), peer_slots, log_extents);
        }
        let device_blocks = (self.data.length() / BLOCK_BYTES).min(DEVICE_BLOCKS_MAX);
        let geometry = Geometry { device_blocks, peer_slots, log_extents };
        geometry.fault().is_none().then_some(geometry)
    }

    /// Reads all metadata, whosever it is.
    ///
    /// # Errors
    /// One sentence why it cannot be used.
    pub fn open(&self) -> Result<Opened, Refused> {
        self.read(|_| false).unwrap_or_else(|| unreachable!("it was not told to stop"))
    }

    /// What is there, without reading more than the superblock.
    pub(super) fn found(&self) -> Found {
        let mut found = None;
        let ended = self.read(|superblock| {
            found = Some(Box::new(superblock.clone()));
            true
        });
        match (found, ended) {
            (Some(superblock), _) => Found::Superblock(superblock),
            (None, Some(Err(refused))) if refused.absent => Found::Nothing,
            (None, Some(Err(refused))) if refused.newer => Found::Newer(refused.why),
            (None, Some(Err(refused))) => Found::Damaged(refused.why),
            (None, _) => Found::Nothing,
        }
    }

    /// Reads until the end, or until `stop`, called once the superblock is known, says so.
    fn read(&self, mut stop: impl FnMut(&Superblock) -> bool) -> Option<Result<Opened, Refused>> {
        let files: Vec<&RawFile> = std::iter::once(&self.data).chain(&self.metadata).collect();
        let (mut ring, mut pool) = (ReadRing::new(&files), private_pool());
        let expected = Expected {
            name: None,
            metadata_path: self.metadata_file().path().display().to_string(),
            node: None,
            resource: None,
            boot: BootId::default(),
            run: RunId::default(),
        };
        let lane = Lane::new(0, 0);
        let mut opening = Opening::begin(&mut ring, &mut pool, lane, self.files(), expected);
        let mut completions = Vec::new();
        loop {
            ring.turn(&mut pool, Nanos::NEVER, &mut completions);
            for completion in completions.drain(..) {
                let ended = opening.on_completion(&mut ring, &mut pool, &completion);
                if ended.is_some() {
                    return ended;
                }
            }
            if opening.superblock().is_some_and(&mut stop) {
                return None;
            }
        }
    }

    /// Makes sure that no superblock is left that could be taken for one of this disk: the copy
    /// that is looked for first, and what `found` tells.
    pub(super) fn wipe(&self, found: &Found) -> Result<(), RawError> {
        let file = self.metadata_file();
        let (files, zeroes) = (self.files(), Aligned::new());
        let other = match found {
            Found::Superblock(superblock) => files.other_offset(&superblock.geometry),
            Found::Nothing | Found::Damaged(_) | Found::Newer(_) => None,
        };
        for offset in other.into_iter().chain([files.anchor_offset()]) {
            file.write(offset, zeroes.bytes(RECORD_BYTES))?;
        }
        file.sync()
    }

    /// Writes a whole metadata area. The superblocks come last: an area that was not finished is
    /// none.
    pub(super) fn write(&mut self, area: &Area<'_>) -> Result<(), RawError> {
        let geometry = area.superblock.geometry;
        if let Some(metadata) = &mut self.metadata {
            metadata.lengthen(geometry.metadata_bytes())?;
        }
        let file = self.metadata_file();
        let start = self.files().metadata_offset(&geometry);
        let start = start.ok_or_else(|| file.too_small(geometry.metadata_bytes()))?;
        let mut stream = Stream::new(file, start + geometry.log_offset());
        area.log.iter().try_for_each(|block| stream.push(block))?;
        for slot in 0..geometry.peer_slots {
            for page in 0..geometry.pages_per_slot() {
                stream.push(&area.page(slot, page))?;
            }
        }
        stream.flush()?;
        file.sync()?;
        let mut buffer = Aligned::new();
        buffer.bytes_mut(RECORD_BYTES).copy_from_slice(&superblock::encode(area.superblock));
        for copy in 0..SUPERBLOCK_COPIES {
            file.write(start + geometry.superblock_offset(copy), buffer.bytes(RECORD_BYTES))?;
            file.sync()?;
        }
        Ok(())
    }
}

impl Area<'_> {
    fn page(&self, slot: u8, page: u32) -> [u8; RECORD_BYTES] {
        let words = self.bitmaps.get(usize::from(slot)).map_or(&[][..], Vec::as_slice);
        let start = (page as usize * bitmap::WORDS_PER_PAGE).min(words.len());
        let end = (start + bitmap::WORDS_PER_PAGE).min(words.len());
        let address = PageAddress { area: self.superblock.area, slot, page };
        bitmap::encode(address, &words[start..end])
    }
}

/// Blocks that follow each other on disk, written in large pieces.
struct Stream<'a> {
    file: &'a RawFile,
    offset: u64,
    buffer: Aligned,
    filled: usize,
}

impl<'a> Stream<'a> {
    fn new(file: &'a RawFile, offset: u64) -> Self {
        Self { file, offset, buffer: Aligned::new(), filled: 0 }
    }

    fn push(&mut self, block: &[u8; RECORD_BYTES]) -> Result<(), RawError> {
        let end = self.filled + RECORD_BYTES;
        self.buffer.bytes_mut(end)[self.filled..].copy_from_slice(block);
        self.filled = end;
        if end == CHUNK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), RawError> {
        self.file.write(self.offset, self.buffer.bytes(self.filled))?;
        self.offset += self.filled as u64;
        self.filled = 0;
        Ok(())
    }
}
