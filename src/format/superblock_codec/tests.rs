//! Damage, forgery and contradiction: what a superblock must never be read as.

use proptest::prelude::*;

use super::*;
use crate::format::arbitrary;
use crate::format::lineage::{Generation, Lineage};
use crate::format::superblock::{Bond, DataState, PeerSlot, SyncTarget};

const SUM_AT: usize = 12;

fn generation(id: u64) -> Generation {
    Generation { epoch: Epoch(id + 1), id, node: NodeId(2) }
}

fn superblock(serial: u64) -> Superblock {
    let mut slots = [PeerSlot::default(); PEER_SLOTS_MAX];
    slots[0] = PeerSlot {
        in_use: true,
        node: NodeId(2),
        base: Some(generation(7)),
        sync_token: 99,
        all_marked: true,
        withdrawn: false,
        bond: Bond { confirmed: 5, tentative: serial },
    };
    Superblock {
        serial,
        resource: ResourceId(0x1234_5678_9ABC_DEF0),
        node: NodeId(1),
        area: AreaId(77),
        geometry: Geometry { device_blocks: 1 << 20, peer_slots: 2, log_extents: 1237 },
        data: DataState::Consistent,
        primary: true,
        log_live: true,
        former_primary: false,
        rebooted: false,
        parted: true,
        epoch: Epoch(serial),
        current: Epoch(1),
        run: RunId(3),
        boot: BootId(4),
        lineage: Lineage::new((1..=32).map(|id| generation(id * serial)).collect()),
        sync_target: Some(SyncTarget { token: 6, generation: generation(8) }),
        slots,
    }
}

/// Changes bytes and mends the checksum: what only another program would write.
fn forged(at: usize, bytes: &[u8]) -> Result<Superblock, SuperblockError> {
    let mut copy = encode(&superblock(1));
    copy[at..][..bytes.len()].copy_from_slice(bytes);
    let sum = checksum::around(&copy, SUM_AT).to_le_bytes();
    copy[SUM_AT..][..4].copy_from_slice(&sum);
    decode(&copy)
}

#[test]
fn every_flipped_bit_is_detected() {
    let bytes = encode(&superblock(1));
    for bit in 0..RECORD_BYTES * 8 {
        let mut flipped = bytes;
        flipped[bit / 8] ^= 1 << (bit % 8);
        let magic = bit < 64;
        let expected = if magic { SuperblockError::NotOurs } else { SuperblockError::Checksum };
        assert_eq!(decode(&flipped), Err(expected), "bit {bit}");
    }
}

/// Each combination of old and new sectors is the old one, the new one, or known to be torn.
#[test]
fn every_torn_write_is_detected() {
    let (old, new) = (superblock(1), superblock(2));
    let (before, after) = (encode(&old), encode(&new));
    let mut whole = 0;
    for mask in 0..256u32 {
        let mut torn = before;
        for sector in (0..8).filter(|sector| mask >> sector & 1 == 1) {
            torn[sector * 512..][..512].copy_from_slice(&after[sector * 512..][..512]);
        }
        match decode(&torn) {
            Ok(read) => {
                assert!(torn == before && read == old || torn == after && read == new);
                whole += 1;
            }
            Err(error) => assert_eq!(error, SuperblockError::Checksum, "mask {mask:#b}"),
        }
    }
    // The last six sectors are equal in both, so 2^6 masks are the old and 2^6 the new one.
    assert_eq!(whole, 128);
}

#[test]
fn a_write_cut_short_at_any_byte_is_detected() {
    let (before, after) = (encode(&superblock(1)), encode(&superblock(2)));
    for cut in 0..RECORD_BYTES {
        let torn = [&after[..cut], &before[cut..]].concat();
        let whole = torn == before || torn == after;
        assert_eq!(decode(&torn).is_ok(), whole, "cut at {cut}");
    }
}

#[test]
fn a_field_out_of_bounds_is_named() {
    let invalid = |field| Err(SuperblockError::Invalid { field });
    assert_eq!(forged(8, &[0]), invalid("version"));
    assert_eq!(forged(8, &[1]), invalid("flags"), "version 1 knows no such flag");
    assert_eq!(forged(24, &[0; 16]), invalid("resource"));
    assert_eq!(forged(48, &[0; 8]), invalid("device_blocks"));
    assert_eq!(forged(48, &[0xFF; 8]), invalid("device_blocks"));
    assert_eq!(forged(56, &512u32.to_le_bytes()), invalid("block_bytes"));
    assert_eq!(forged(60, &1u32.to_le_bytes()), invalid("extent_bytes"));
    assert_eq!(forged(64, &[0xFF; 4]), invalid("log_extents"));
    assert_eq!(forged(68, &[5]), invalid("peer_slots"));
    assert_eq!(forged(70, &[0]), invalid("data"));
    assert_eq!(forged(70, &[4]), invalid("data"));
    assert_eq!(forged(71, &[32]), invalid("flags"));
    assert_eq!(forged(16, &SERIAL_MAX.to_le_bytes()), invalid("serial"));
    assert_eq!(forged(72, &(EPOCH_STORED_MAX + 1).to_le_bytes()), invalid("epoch"));
    assert_eq!(forged(104, &[33]), invalid("lineage"));
    assert_eq!(forged(144, &(EPOCH_STORED_MAX + 1).to_le_bytes()), invalid("lineage"));
    assert_eq!(forged(104, &[31]), invalid("lineage"));
    assert_eq!(forged(105, &[2]), invalid("sync_target_present"));
    assert_eq!(forged(105, &[0]), invalid("sync_target"));
    assert_eq!(forged(106, &[1]), invalid("reserved"));
    assert_eq!(forged(144 + 8, &[0; 8]), invalid("lineage"));
    assert_eq!(forged(912 + 2, &[0]), invalid("slots"));
    assert_eq!(forged(912 + 5, &[1]), invalid("slots"));
    assert_eq!(forged(912 + 2 * 56, &[1]), invalid("slots"));
    assert_eq!(forged(1136, &(EPOCH_STORED_MAX + 1).to_le_bytes()), invalid("current"));
    assert_eq!(forged(1144, &[1]), invalid("reserved"));
    assert_eq!(forged(4095, &[1]), invalid("reserved"));
    let other = Superblock { node: NodeId(9), ..superblock(1) };
    assert_eq!(forged(69, &[9]), Ok(other), "the forger itself works");
}

/// A version is believed only under a right checksum: a rotted version is rot.
#[test]
fn a_newer_version_is_told_from_rot() {
    let newer = SuperblockError::NewerVersion { found: 4 };
    assert_eq!(forged(8, &4u32.to_le_bytes()), Err(newer));
    let refused = choose(Ok(superblock(9)), Err(newer)).unwrap_err();
    assert_eq!(refused, ChooseError::NewerVersion { found: 4 });
    assert_eq!(choose(Err(newer), Err(SuperblockError::Checksum)), Err(refused));
    assert!(refused.to_string().contains("version 4"));
}

#[test]
fn the_newer_valid_copy_wins() {
    let (old, new) = (superblock(1), superblock(2));
    assert_eq!(choose(Ok(old.clone()), Ok(new.clone())), Ok(new.clone()));
    assert_eq!(choose(Ok(new.clone()), Ok(old.clone())), Ok(new.clone()));
    assert_eq!(choose(Ok(new.clone()), Ok(new.clone())), Ok(new));
    for error in [SuperblockError::Checksum, SuperblockError::NotOurs, SuperblockError::Unreadable]
    {
        assert_eq!(choose(Err(error), Ok(old.clone())), Ok(old.clone()));
        assert_eq!(choose(Ok(old.clone()), Err(error)), Ok(old.clone()));
        let found = [error, SuperblockError::Checksum];
        let both = choose(Err(error), Err(SuperblockError::Checksum));
        assert_eq!(both, Err(ChooseError::NoneValid { found }));
    }
    let nothing = ChooseError::NoneValid { found: [SuperblockError::NotOurs; 2] };
    assert!(nothing.to_string().contains("create"));
}

#[test]
fn copies_that_contradict_each_other_are_refused() {
    let first = superblock(1);
    let second = superblock(2);
    let area = AreaId(78);
    let geometry = Geometry { peer_slots: 3, ..first.geometry };
    let others = [
        ("area", Superblock { area, ..second.clone() }),
        ("node", Superblock { node: NodeId(3), ..second.clone() }),
        ("geometry", Superblock { geometry, ..second }),
        (
            "serial",
            Superblock {
                primary: false,
                log_live: false,
                former_primary: false,
                rebooted: false,
                parted: false,
                ..first.clone()
            },
        ),
    ];
    for (field, other) in others {
        let conflict = Err(ChooseError::Conflict { field });
        assert_eq!(choose(Ok(first.clone()), Ok(other.clone())), conflict);
        assert_eq!(choose(Ok(other), Ok(first.clone())), conflict);
    }
}

#[test]
fn zeroes_and_nothing_are_not_a_superblock() {
    assert_eq!(decode(&[]), Err(SuperblockError::NotOurs));
    assert_eq!(decode(&[0; RECORD_BYTES]), Err(SuperblockError::NotOurs));
    assert_eq!(decode(&encode(&superblock(1))[..4095]), Err(SuperblockError::NotOurs));
}

proptest! {
    #[test]
    fn values_come_back(superblock in arbitrary::superblock()) {
        prop_assert_eq!(decode(&encode(&superblock)), Ok(superblock));
    }

    #[test]
    fn garbage_is_refused(mut bytes in prop::collection::vec(any::<u8>(), RECORD_BYTES)) {
        prop_assert_eq!(decode(&bytes), Err(SuperblockError::NotOurs));
        bytes[..8].copy_from_slice(&MAGIC);
        prop_assert_eq!(decode(&bytes), Err(SuperblockError::Checksum));
    }

    /// Whatever another program writes under a right checksum is refused, or is a value that is
    /// written back to the very same bytes.
    #[test]
    fn accepted_bytes_have_one_spelling(
        superblock in arbitrary::superblock(),
        changes in prop::collection::vec((16..1200usize, any::<u8>()), 1..4),
    ) {
        let mut bytes = encode(&superblock);
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        let sum = checksum::around(&bytes, SUM_AT).to_le_bytes();
        bytes[SUM_AT..][..4].copy_from_slice(&sum);
        if let Ok(read) = decode(&bytes) {
            prop_assert_eq!(encode(&read), bytes);
        }
    }
}
