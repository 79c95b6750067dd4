//! Owns the bytes of a stamped block: a 64-bit number per write, and content that follows from it
//! and from the block's place. Must never know which numbers are right.

/// The unit of judgement.
pub(crate) const BLOCK: usize = 4096;

/// Which write a block's bytes come from; 0 is all zeroes.
pub(crate) type Stamp = u64;

/// What is wrong with a block's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Damage {
    /// Whole, but of another block.
    Misplaced { block: u64, stamp: Stamp },
    /// Begins with this stamp and turns into something else at this byte.
    Mixed { stamp: Stamp, byte: usize },
}

fn word(block: u64, stamp: Stamp, index: u64) -> u64 {
    match index {
        0 => stamp,
        1 => block,
        _ => {
            let mixed = (stamp ^ block.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            (mixed ^ (mixed >> 29)).wrapping_add(index.wrapping_mul(0xbf58_476d_1ce4_e5b9))
        }
    }
}

/// Whole blocks from `first` on, as a write with this stamp leaves them.
pub(crate) fn content(first: u64, blocks: u64, stamp: Stamp) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(usize::try_from(blocks).expect("few") * BLOCK);
    for block in first..first + blocks {
        for index in 0..BLOCK as u64 / 8 {
            let word = if stamp == 0 { 0 } else { word(block, stamp, index) };
            bytes.extend_from_slice(&word.to_le_bytes());
        }
    }
    bytes
}

fn word_at(bytes: &[u8], index: usize) -> u64 {
    u64::from_le_bytes(bytes[index * 8..index * 8 + 8].try_into().expect("eight bytes"))
}

/// The stamp of a block's bytes.
pub(crate) fn decode(block: u64, bytes: &[u8]) -> Result<Stamp, Damage> {
    let (stamp, written_for) = (word_at(bytes, 0), word_at(bytes, 1));
    let differs = |block: u64| {
        let expected = |index| if stamp == 0 { 0 } else { word(block, stamp, index) };
        (0..BLOCK / 8).find(|index| word_at(bytes, *index) != expected(*index as u64))
    };
    match differs(block) {
        None => Ok(stamp),
        Some(_) if stamp != 0 && differs(written_for).is_none() => {
            Err(Damage::Misplaced { block: written_for, stamp })
        }
        Some(index) => Err(Damage::Mixed { stamp, byte: index * 8 }),
    }
}

#[test]
fn blocks_tell_where_they_belong_and_whether_they_are_whole() {
    let bytes = content(7, 2, 99);
    assert_eq!(decode(7, &bytes[..BLOCK]), Ok(99));
    assert_eq!(decode(8, &bytes[BLOCK..]), Ok(99));
    assert_eq!(decode(9, &bytes[BLOCK..]), Err(Damage::Misplaced { block: 8, stamp: 99 }));
    assert_eq!(decode(3, &[0; BLOCK]), Ok(0));
    let mut torn = content(7, 1, 100);
    torn[2048..].copy_from_slice(&bytes[2048..BLOCK]);
    assert_eq!(decode(7, &torn), Err(Damage::Mixed { stamp: 100, byte: 2048 }));
    let mut flipped = content(7, 1, 100);
    flipped[4095] ^= 1;
    assert_eq!(decode(7, &flipped), Err(Damage::Mixed { stamp: 100, byte: 4088 }));
    let mut scrap = vec![0; BLOCK];
    scrap[4000] = 1;
    assert_eq!(decode(3, &scrap), Err(Damage::Mixed { stamp: 0, byte: 4000 }));
}
