//! Damage, forgery and garbage on the link.

use proptest::prelude::*;
use proptest::strategy::ValueTree;

use super::*;
use crate::format::arbitrary;
use crate::format::frame::{BODY_BYTES_MAX, DiskState, PAYLOAD_BYTES_MAX};
use crate::format::lineage::{Generation, Lineage};
use crate::limits::SEQUENCE_MAX;
use crate::units::{NodeId, Sequence};

const SUM_AT: usize = 8;
const TAG: Tag = Tag { epoch: Epoch(3), session: Session(5), number: 7 };

fn bytes_of(frame: &Frame, tag: Tag) -> Vec<u8> {
    let mut bytes = Vec::new();
    let payload_sum = if frame.payload().is_some() { 0xC0FF_EE00 } else { 0 };
    encode(frame, tag, payload_sum, &mut bytes);
    bytes
}

fn read(bytes: &[u8]) -> Result<(Header, Frame), FrameError> {
    let (header, rest) = bytes.split_first_chunk().expect("long enough");
    let header = decode_header(header)?;
    let frame = header.frame(&rest[..rest.len().min(header.body_bytes() as usize)])?;
    Ok((header, frame))
}

/// Mends both checksums after bytes were changed.
fn mend(bytes: &mut [u8]) {
    let (header, body) = bytes.split_at_mut(HEADER_BYTES);
    if !body.is_empty() {
        header[16..20].copy_from_slice(&checksum::of(body).to_le_bytes());
    }
    let sum = checksum::around(header, SUM_AT).to_le_bytes();
    header[SUM_AT..][..4].copy_from_slice(&sum);
}

fn forged(frame: &Frame, at: usize, with: &[u8]) -> Result<(Header, Frame), FrameError> {
    let mut bytes = bytes_of(frame, TAG);
    bytes[at..][..with.len()].copy_from_slice(with);
    mend(&mut bytes);
    read(&bytes)
}

fn write(count: u64) -> Frame {
    let blocks = Blocks::new(10, count);
    Frame::Write { sequence: Sequence(2), after: Sequence(1), blocks, fua: true }
}

#[test]
fn a_header_says_what_follows() {
    let (header, _) = read(&bytes_of(&write(3), TAG)).unwrap();
    assert_eq!(header.tag(), TAG);
    assert_eq!(header.kind(), Kind::Write);
    assert_eq!((header.body_bytes(), header.payload_bytes()), (0, 3 * 4096));
    let mut bytes = Vec::new();
    let payload = [9; 4096];
    encode(&write(1), TAG, checksum::of(&payload), &mut bytes);
    let (header, _) = read(&bytes).unwrap();
    assert_eq!(header.payload_sum(), checksum::of(&payload));
}

#[test]
fn lengths_are_bounded_by_kind_and_blocks() {
    let length = |frame: &Frame, bytes: u32| forged(frame, 12, &bytes.to_le_bytes());
    let refused = |kind, bytes| Err(FrameError::Length { kind, bytes });
    assert_eq!(length(&write(3), 3 * 4096 + 1), refused(Kind::Write, 3 * 4096 + 1));
    assert_eq!(length(&write(3), u32::MAX), refused(Kind::Write, u32::MAX));
    assert_eq!(length(&Frame::Met, 4096), refused(Kind::Met, 4096));
    let no = Frame::ReadAnswer { id: 1, ok: false, blocks: Blocks::new(0, 1) };
    assert_eq!(length(&no, 4096), refused(Kind::ReadAnswer, 4096));
    let marks = Frame::Marks { page: 1, words: [1; 508].into() };
    assert_eq!(length(&marks, 509 * 8), refused(Kind::Marks, 509 * 8));
    assert_eq!(length(&marks, 8 * 8 + 1), refused(Kind::Marks, 8 * 8 + 1));
    assert_eq!(length(&marks, 0), refused(Kind::Marks, 0));
    let ask = Frame::VerifyAsk { id: 1, blocks: Blocks::new(0, 2), digests: [[1; 32]; 2].into() };
    assert_eq!(length(&ask, 32), refused(Kind::VerifyAsk, 32));
}

#[test]
fn blocks_are_bounded_by_kind_and_device() {
    let count = |count: u64| forged(&write(1), 72, &count.to_le_bytes());
    let refused = |start, count| Err(FrameError::Blocks { kind: Kind::Write, start, count });
    assert_eq!(count(0), refused(10, 0));
    assert_eq!(count(257), refused(10, 257));
    assert_eq!(count(u64::MAX), refused(10, u64::MAX));
    let start = |start: u64| forged(&write(1), 64, &start.to_le_bytes());
    assert_eq!(start(u64::MAX), refused(u64::MAX, 1));
    assert_eq!(start(DEVICE_BLOCKS_MAX), refused(DEVICE_BLOCKS_MAX, 1));
    assert!(start(DEVICE_BLOCKS_MAX - 1).is_ok(), "the forger itself works");
}

#[test]
fn fields_out_of_bounds_are_named() {
    let field = |kind, field| Err(FrameError::Field { kind, field });
    let first = |frame: &Frame, number: u64| forged(frame, 48, &number.to_le_bytes());
    assert_eq!(forged(&Frame::Met, 0, b"X"), Err(FrameError::Magic));
    assert_eq!(forged(&Frame::Met, 4, &[0]), Err(FrameError::Version { found: 0 }));
    assert_eq!(forged(&Frame::Met, 4, &[2]), Err(FrameError::Version { found: 2 }));
    assert_eq!(forged(&Frame::Met, 6, &[0]), Err(FrameError::Kind { found: 0 }));
    assert_eq!(forged(&Frame::Met, 6, &[37]), Err(FrameError::Kind { found: 37 }));
    assert_eq!(forged(&Frame::Met, 7, &[4]), field(Kind::Met, "reserved"));
    assert_eq!(forged(&Frame::Met, 16, &[1]), field(Kind::Met, "tail_sum"));
    assert_eq!(forged(&Frame::Met, 20, &[1]), field(Kind::Met, "reserved"));
    assert_eq!(forged(&Frame::Met, 32, &[0; 8]), field(Kind::Met, "session"));
    assert_eq!(forged(&Frame::Met, 40, &[0; 8]), field(Kind::Met, "number"));
    assert_eq!(first(&Frame::Met, 1), field(Kind::Met, "reserved"));
    assert_eq!(forged(&write(1), 7, &[8]), field(Kind::Write, "reserved"));
    let bye = Frame::Bye { reason: crate::format::frame::ByeReason::Stop };
    assert_eq!(first(&bye, 8), field(Kind::Bye, "reason"));
    let run = Frame::Written { first: Sequence(1), last: Sequence(4) };
    assert_eq!(first(&run, 5), field(Kind::Written, "last"));
    let blocks = Blocks::new(0, 3);
    let answer = Frame::VerifyAnswer { id: 1, blocks, differing: Some([7].into()) };
    assert_eq!(forged(&answer, 80, &[8]), field(Kind::VerifyAnswer, "differing"));
    assert!(forged(&answer, 80, &[1]).is_ok(), "the forger itself works");
}

/// No number of a peer may bring a counter near the end of its 64 bits.
#[test]
fn epochs_and_sequences_are_bounded() {
    let field = |kind, field| Err(FrameError::Field { kind, field });
    let (epoch, sequence) = ((EPOCH_MAX + 1).to_le_bytes(), (SEQUENCE_MAX + 1).to_le_bytes());
    assert_eq!(forged(&Frame::Met, 24, &epoch), field(Kind::Met, "epoch"));
    assert_eq!(forged(&write(1), 48, &sequence), field(Kind::Write, "sequence"));
    assert_eq!(forged(&write(1), 56, &sequence), field(Kind::Write, "after"));
    let run = Frame::Written { first: Sequence(1), last: Sequence(4) };
    assert_eq!(forged(&run, 56, &[0xFF; 8]), field(Kind::Written, "last"));
    let barrier = Frame::Barrier { sequence: Sequence(1) };
    assert_eq!(forged(&barrier, 48, &[0xFF; 8]), field(Kind::Barrier, "sequence"));
    let ask = Frame::PromoteAsk { epoch: Epoch(1) };
    assert_eq!(forged(&ask, 48, &epoch), field(Kind::PromoteAsk, "epoch"));
    assert!(forged(&ask, 48, &EPOCH_MAX.to_le_bytes()).is_ok(), "the forger itself works");
}

#[test]
fn epochs_in_bodies_are_bounded() {
    let epoch = (EPOCH_MAX + 1).to_le_bytes();
    let generation = Generation { epoch: Epoch(1), id: 2, node: NodeId(0) };
    let lineage = Lineage::new(std::vec![generation]);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut state = arbitrary::peer_state().new_tree(&mut runner).unwrap().current();
    (state.lineage, state.disk) = (lineage.clone(), DiskState::UpToDate);
    let (state, done) =
        (Frame::State(Box::new(state)), Frame::SyncDone { lineage: lineage.into() });
    for at in [40, 152] {
        let refused = Err(FrameError::Field { kind: Kind::State, field: "epoch" });
        assert_eq!(forged(&state, HEADER_BYTES + at, &epoch), refused, "at {at}");
    }
    let nameless = FrameError::Field { kind: Kind::State, field: "resource" };
    assert_eq!(forged(&state, HEADER_BYTES, &[0; 16]), Err(nameless));
    let refused = Err(FrameError::Field { kind: Kind::SyncDone, field: "lineage" });
    assert_eq!(forged(&done, HEADER_BYTES, &epoch), refused);
    assert!(forged(&done, HEADER_BYTES, &[7]).is_ok(), "the forger itself works");
}

#[test]
fn a_frame_must_have_all_of_its_body() {
    let bytes = bytes_of(&Frame::Marks { page: 1, words: [1, 2].into() }, TAG);
    let header = decode_header(bytes.first_chunk().unwrap()).unwrap();
    let short = header.frame(&bytes[HEADER_BYTES..][..8]);
    assert_eq!(short, Err(FrameError::Length { kind: Kind::Marks, bytes: 8 }));
}

proptest! {
    #[test]
    fn frames_come_back(frame in arbitrary::frame(), tag in arbitrary::tag()) {
        let bytes = bytes_of(&frame, tag);
        let (header, read) = read(&bytes).unwrap();
        prop_assert_eq!(header.tag(), tag);
        prop_assert_eq!(header.kind(), frame.kind());
        prop_assert_eq!(HEADER_BYTES + header.body_bytes() as usize, bytes.len());
        let payload = frame.payload().map_or(0, Blocks::length_bytes);
        prop_assert_eq!(u64::from(header.payload_bytes()), payload);
        prop_assert_eq!(read, frame);
    }

    #[test]
    fn every_flipped_bit_is_detected(frame in arbitrary::frame(), tag in arbitrary::tag()) {
        let mut bytes = bytes_of(&frame, tag);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(read(&bytes).is_err(), "bit {}", bit);
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        prop_assert!(read(&bytes).is_ok());
    }

    /// Under right checksums: refused, or a frame within bounds with this one spelling.
    #[test]
    fn accepted_bytes_have_one_spelling(
        frame in arbitrary::frame(),
        changes in prop::collection::vec((0..2000usize, any::<u8>()), 1..4),
    ) {
        let mut bytes = bytes_of(&frame, TAG);
        for (at, byte) in changes {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        mend(&mut bytes);
        if let Ok((header, frame)) = read(&bytes) {
            prop_assert!(header.body_bytes() <= BODY_BYTES_MAX);
            prop_assert!(header.payload_bytes() <= PAYLOAD_BYTES_MAX);
            let mut again = Vec::new();
            encode(&frame, header.tag(), header.payload_sum(), &mut again);
            prop_assert_eq!(again, bytes);
        }
    }

    #[test]
    fn garbage_is_refused(mut bytes in any::<[u8; HEADER_BYTES]>()) {
        prop_assert!(decode_header(&bytes).is_err());
        bytes[..6].copy_from_slice(b"TWBF\x01\x00");
        prop_assert_eq!(decode_header(&bytes), Err(FrameError::HeaderChecksum));
        mend(&mut bytes);
        if let Ok(header) = decode_header(&bytes) {
            prop_assert!(header.body_bytes() <= BODY_BYTES_MAX);
            prop_assert!(header.payload_bytes() <= PAYLOAD_BYTES_MAX);
        }
    }
}

/// The strategy must know every kind, or the tests above prove less than they say.
#[test]
fn every_kind_is_drawn() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut missing: Vec<Kind> = Kind::ALL.to_vec();
    for _ in 0..2000 {
        let drawn = arbitrary::frame().new_tree(&mut runner).unwrap().current();
        missing.retain(|kind| *kind != drawn.kind());
    }
    assert_eq!(missing, []);
}
