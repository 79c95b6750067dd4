//! Owns looking at the data of stopped disks: whether two replicas are equal, whether one is
//! empty. Must never write.

use super::bits;
use super::raw::{Aligned, CHUNK_BYTES, RawError, RawFile};
use super::stopped::StoppedDisk;
use crate::format::extent_log::LogImage;
use crate::format::superblock::PeerSlot;
use crate::limits::EXTENT_BLOCKS;
use crate::replica::event::DiskImage;
use crate::units::{BLOCK_BYTES, Blocks, NodeId};

#[expect(clippy::cast_possible_truncation, reason = "4096")]
const BLOCK: usize = BLOCK_BYTES as usize;

/// How far a long look has come: bytes done, bytes in all. Says whether to go on.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// How two stopped replicas differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Blocks that both devices have.
    pub compared_blocks: u64,
    /// Runs of blocks that differ, ascending, as long as they can be.
    pub runs: Vec<Blocks>,
    /// Blocks in them.
    pub differing_blocks: u64,
    /// Those of them that either replica has on record: a mark, or a hot extent of a log that
    /// was in use. After a clean shutdown the others are a fault.
    pub on_record_blocks: u64,
    /// The look was ended before its time.
    pub cancelled: bool,
}

/// Compares the data of two stopped replicas of a resource, byte for byte.
///
/// # Errors
/// One sentence: a disk cannot be read, or they are not replicas of one resource.
pub fn compare(
    a: &StoppedDisk,
    b: &StoppedDisk,
    progress: Progress<'_>,
) -> Result<Comparison, String> {
    let image_a = a.open().map_err(|refused| refused.why)?.image;
    let image_b = b.open().map_err(|refused| refused.why)?.image;
    let (first, second) = (&image_a.superblock, &image_b.superblock);
    let just_created = first.lineage.head().is_none() || second.lineage.head().is_none();
    if first.resource != second.resource && !just_created {
        return Err(format!(
            "{} and {} hold different resources ({:032x} and {:032x})",
            a.data.path().display(),
            b.data.path().display(),
            first.resource.0,
            second.resource.0
        ));
    }
    let blocks = first.geometry.device_blocks;
    if blocks != second.geometry.device_blocks {
        return Err(format!(
            "{} and {} hold devices of different size ({} and {} bytes), so they cannot be copies \
             of one another",
            a.data.path().display(),
            b.data.path().display(),
            blocks * BLOCK_BYTES,
            second.geometry.device_blocks * BLOCK_BYTES
        ));
    }
    let mut comparison = Comparison { compared_blocks: blocks, ..Comparison::default() };
    differing(&a.data, &b.data, &mut comparison, progress).map_err(|error| error.to_string())?;
    let mut record = vec![0; usize::try_from(blocks.div_ceil(64)).unwrap_or(0)];
    add_record(&mut record, &image_a, second.node);
    add_record(&mut record, &image_b, first.node);
    let on_record = comparison.runs.iter().map(|run| bits::count(&record, *run));
    comparison.on_record_blocks = on_record.sum();
    Ok(comparison)
}

/// Whether the first `length` bytes of a file, rounded down to whole blocks, are all zero; `None`
/// if `progress` said to stop. May also be asked of a disk in use that nobody writes to.
///
/// # Errors
/// It cannot be read.
pub fn is_empty(
    file: &RawFile,
    length: u64,
    progress: Progress<'_>,
) -> Result<Option<bool>, RawError> {
    let length = length / BLOCK_BYTES * BLOCK_BYTES;
    let mut buffer = Aligned::new();
    let mut offset = 0;
    while let Some(data) = file.next_data(offset, length) {
        let chunk = chunk_at(data, length);
        file.read(data, buffer.bytes_mut(chunk))?;
        if buffer.bytes(chunk).iter().any(|byte| *byte != 0) {
            return Ok(Some(false));
        }
        offset = data + chunk as u64;
        if !progress(offset, length) {
            return Ok(None);
        }
    }
    Ok(Some(true))
}

fn differing(
    a: &RawFile,
    b: &RawFile,
    comparison: &mut Comparison,
    progress: Progress<'_>,
) -> Result<(), RawError> {
    let end = comparison.compared_blocks * BLOCK_BYTES;
    let (mut left, mut right) = (Aligned::new(), Aligned::new());
    let mut offset = 0;
    loop {
        // Where both are holes, both are zero.
        let data = [a.next_data(offset, end), b.next_data(offset, end)];
        let Some(data) = data.into_iter().flatten().min() else { return Ok(()) };
        let chunk = chunk_at(data, end);
        a.read(data, left.bytes_mut(chunk))?;
        b.read(data, right.bytes_mut(chunk))?;
        note_differences(left.bytes(chunk), right.bytes(chunk), data / BLOCK_BYTES, comparison);
        offset = data + chunk as u64;
        if !progress(offset, end) {
            comparison.cancelled = true;
            return Ok(());
        }
    }
}

fn note_differences(left: &[u8], right: &[u8], first: u64, comparison: &mut Comparison) {
    if left == right {
        return;
    }
    let pairs = left.chunks_exact(BLOCK).zip(right.chunks_exact(BLOCK));
    for (block, (ours, theirs)) in (first..).zip(pairs) {
        if ours == theirs {
            continue;
        }
        comparison.differing_blocks += 1;
        match comparison.runs.last_mut() {
            Some(run) if run.end() == block => run.count += 1,
            _ => comparison.runs.push(Blocks::new(block, 1)),
        }
    }
}

/// Bytes to read at once.
fn chunk_at(offset: u64, end: u64) -> usize {
    usize::try_from(end - offset).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES))
}

/// Adds what a replica has on record about `peer`.
fn add_record(record: &mut [u64], image: &DiskImage, peer: NodeId) {
    let superblock = &image.superblock;
    let is_peer = |slot: &PeerSlot| slot.in_use && slot.node == peer;
    let mut all = false;
    for (slot, words) in superblock.slots.iter().zip(&image.bitmaps) {
        if is_peer(slot) {
            all |= slot.all_marked;
            record.iter_mut().zip(words).for_each(|(known, more)| *known |= more);
        }
    }
    if superblock.log_live {
        match &image.log {
            LogImage::Unreadable { .. } => all = true,
            LogImage::Hot { slots, .. } => {
                for extent in slots.iter().flatten() {
                    let start = u64::from(*extent) * EXTENT_BLOCKS;
                    bits::set(record, Blocks::new(start, EXTENT_BLOCKS));
                }
            }
        }
    }
    if all {
        record.fill(u64::MAX);
    }
}
