//! Owns the bytes of a simulated disk, sparse and cheap to copy. Must never know what is stable.

use std::rc::Rc;

/// What a disk tears at: a power cut leaves each sector old or new, never mixed.
pub(crate) const SECTOR: usize = 512;

const CHUNK: usize = 4096;

/// Bytes from 0 to a fixed end; what was never written reads as zeroes.
#[derive(Clone)]
pub(crate) struct Image {
    chunks: Vec<Option<Rc<[u8; CHUNK]>>>,
}

fn place(offset: u64) -> usize {
    usize::try_from(offset).expect("simulated disks are small")
}

impl Image {
    pub(crate) fn new(bytes: u64) -> Self {
        Self { chunks: vec![None; place(bytes).div_ceil(CHUNK)] }
    }

    pub(crate) fn bytes(&self) -> u64 {
        (self.chunks.len() * CHUNK) as u64
    }

    pub(crate) fn read(&self, offset: u64, into: &mut [u8]) {
        let (mut at, mut done) = (place(offset), 0);
        while done < into.len() {
            let (chunk, start) = (at / CHUNK, at % CHUNK);
            let length = (CHUNK - start).min(into.len() - done);
            let target = &mut into[done..done + length];
            match &self.chunks[chunk] {
                Some(bytes) => target.copy_from_slice(&bytes[start..start + length]),
                None => target.fill(0),
            }
            (at, done) = (at + length, done + length);
        }
    }

    /// One sector; none if it reads as zeroes because nothing was written there.
    pub(crate) fn sector(&self, offset: u64) -> Option<&[u8]> {
        let (chunk, start) = (place(offset) / CHUNK, place(offset) % CHUNK);
        self.chunks[chunk].as_ref().map(|bytes| &bytes[start..start + SECTOR])
    }

    /// The chunks of a range that were written, and not with zeroes alone.
    pub(crate) fn occupied(
        &self,
        offset: u64,
        length: u64,
    ) -> impl Iterator<Item = std::ops::Range<u64>> {
        let size = CHUNK as u64;
        let chunks = offset / size..(offset + length).div_ceil(size);
        let held = chunks.filter(|chunk| self.chunks[place(*chunk)].is_some());
        held.map(move |chunk| chunk * size..(chunk + 1) * size)
    }

    pub(crate) fn copy(&self, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.read(offset, &mut bytes);
        bytes
    }

    /// Applies some bytes of `data`, `skip` into it.
    pub(crate) fn write(&mut self, offset: u64, data: &Data, skip: usize, length: usize) {
        let (mut at, mut done) = (place(offset) + skip, skip);
        let end = skip + length;
        while done < end {
            let (chunk, start) = (at / CHUNK, at % CHUNK);
            let length = (CHUNK - start).min(end - done);
            match data {
                Data::Zeroes(_) if length == CHUNK => self.chunks[chunk] = None,
                _ => {
                    let held = self.chunks[chunk].get_or_insert_with(|| Rc::new([0; CHUNK]));
                    let target = &mut Rc::make_mut(held)[start..start + length];
                    match data {
                        Data::Bytes(bytes) => target.copy_from_slice(&bytes[done..done + length]),
                        Data::Zeroes(_) => target.fill(0),
                    }
                }
            }
            (at, done) = (at + length, done + length);
        }
    }
}

/// What a write holds.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    Bytes(Rc<[u8]>),
    Zeroes(usize),
}

impl Data {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Zeroes(length) => *length,
        }
    }
}

/// Applies the sectors of `data` that `keep` chooses.
pub(crate) fn tear(
    image: &mut Image,
    offset: u64,
    data: &Data,
    mut keep: impl FnMut(usize) -> bool,
) {
    for sector in 0..data.len() / SECTOR {
        if keep(sector) {
            image.write(offset, data, sector * SECTOR, SECTOR);
        }
    }
}

/// Lays the sectors of a write that `keep` chooses over bytes that begin at `base`.
pub(crate) fn overlay(
    bytes: &mut [u8],
    base: u64,
    (start, data): (u64, &Data),
    mut keep: impl FnMut() -> bool,
) {
    for (index, target) in bytes.chunks_mut(SECTOR).enumerate() {
        let at = base + (index * SECTOR) as u64;
        let inside = at >= start && at < start + data.len() as u64;
        if !inside || !keep() {
            continue;
        }
        match data {
            Data::Zeroes(_) => target.fill(0),
            Data::Bytes(source) => {
                let from = usize::try_from(at - start).expect("inside the write");
                target.copy_from_slice(&source[from..from + target.len()]);
            }
        }
    }
}
