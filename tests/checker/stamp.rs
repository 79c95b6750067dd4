//! Owns the bytes of a stamped sector. Must never know which stamps are right.

/// The unit of judgement: what disks write whole.
pub(crate) const SECTOR_BYTES: usize = 512;

/// Which write a sector's bytes come from; 0 is all zeroes (never written, trimmed, zeroed).
pub(crate) type Stamp = u64;

const STEP: u64 = 0xd6e8_feb8_6659_fd93;

/// What is wrong with a sector's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Whole, but of another sector.
    Misplaced { sector: u64, stamp: Stamp },
    /// Begins with this stamp and turns into something else at this byte.
    Mixed { stamp: Stamp, byte: usize },
}

/// What all words of a sector but the first two are made from.
const fn base(sector: u64, stamp: Stamp) -> u64 {
    let mut base = stamp ^ sector.rotate_left(40) ^ 0x2545_f491_4f6c_dd1d;
    base = (base ^ (base >> 31)).wrapping_mul(STEP);
    base = (base ^ (base >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    base ^ (base >> 32)
}

/// The words of a sector.
fn words(sector: u64, stamp: Stamp) -> impl Iterator<Item = u64> {
    let base = base(sector, stamp);
    let word = move |index: u64| match (stamp, index) {
        (0, _) => 0,
        (_, 0) => stamp,
        (_, 1) => sector,
        _ => base.wrapping_add(index.wrapping_mul(STEP)),
    };
    (0..SECTOR_BYTES as u64 / 8).map(word)
}

/// Fills whole sectors from `first` on with the bytes of a write.
pub(crate) fn fill(first: u64, stamp: Stamp, bytes: &mut [u8]) {
    if stamp == 0 {
        bytes.fill(0);
        return;
    }
    for (sector, target) in (first..).zip(bytes.chunks_mut(SECTOR_BYTES)) {
        for (word, eight) in words(sector, stamp).zip(target.chunks_exact_mut(8)) {
            eight.copy_from_slice(&word.to_le_bytes());
        }
    }
}

fn read_word(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().expect("eight bytes"))
}

/// The stamp of a sector's bytes.
pub(crate) fn decode(sector: u64, bytes: &[u8]) -> Result<Stamp, Damage> {
    if bytes == [0; SECTOR_BYTES] {
        return Ok(0);
    }
    let (stamp, written_for) = (read_word(bytes, 0), read_word(bytes, 1));
    let differs = |wanted: u64| {
        let mut pairs = words(wanted, stamp).zip(bytes.chunks_exact(8));
        pairs.position(|(word, eight)| word.to_le_bytes() != eight)
    };
    match differs(sector) {
        None => Ok(stamp),
        Some(_) if stamp != 0 && differs(written_for).is_none() => {
            Err(Damage::Misplaced { sector: written_for, stamp })
        }
        Some(index) => Err(Damage::Mixed { stamp, byte: index * 8 }),
    }
}
