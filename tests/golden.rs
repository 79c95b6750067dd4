//! The bytes of every released version, read for ever: each file in `tests/golden/` is decoded
//! into the value that it was made from, and that value is encoded into the same bytes.
//! Must never change a file that was released: a new version adds files and keeps the old ones.
//!
//! Binary files are one record each. Text files hold one record a line: its name, and its bytes
//! in hexadecimal. What the present version writes is left in cargo's folder for tests' files
//! (`target/tmp`), to take a new golden file from.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use twinblk::format::bitmap::{self, PageAddress, WORDS_PER_PAGE};
use twinblk::format::extent_log::{self, LogIdentity, LogTransaction};
use twinblk::format::frame::{
    self, ByeReason, Channel, DiskState, Frame, HEADER_BYTES, Kind, PeerState, Protocol, Role, Tag,
};
use twinblk::format::hello::{Challenge, Hello, Message, Proof, Refusal, Versions, Welcome};
use twinblk::format::lineage::{Generation, Lineage};
use twinblk::format::superblock::{
    self, Bond, DataState, Geometry, PeerSlot, Superblock, SyncTarget,
};
use twinblk::units::{AreaId, Blocks, BootId, Epoch, NodeId, ResourceId, RunId, Sequence, Session};

const GEOMETRY: Geometry = Geometry { device_blocks: 100_000, peer_slots: 2, log_extents: 1237 };
const AREA: AreaId = AreaId(0x0A0B_0C0D_0E0F_1011);
const PAGE: PageAddress = PageAddress { area: AREA, slot: 1, page: 3 };
const LOG: LogIdentity = LogIdentity { area: AREA, geometry: GEOMETRY };
const TAG: Tag = Tag { epoch: Epoch(0x11), session: Session(0x2222_3333_4444_5555), number: 0x66 };

const fn generation(id: u64) -> Generation {
    Generation { epoch: Epoch(id / 2), id, node: NodeId(2) }
}

fn lineage() -> Lineage {
    Lineage::new(vec![generation(0xAAAA), generation(0xBBBB), generation(0xCCCC)])
}

const fn slot() -> PeerSlot {
    PeerSlot {
        in_use: true,
        node: NodeId(2),
        base: Some(generation(0xBBBB)),
        sync_token: 0x5151,
        all_marked: true,
        withdrawn: false,
        bond: Bond { confirmed: 0x6161, tentative: 0x7171 },
    }
}

fn superblock() -> Superblock {
    Superblock {
        serial: 0x0102_0304_0506_0708,
        resource: ResourceId(0x1111_2222_3333_4444_5555_6666_7777_8888),
        node: NodeId(1),
        area: AREA,
        geometry: GEOMETRY,
        data: DataState::Inconsistent,
        primary: true,
        log_live: true,
        former_primary: false,
        rebooted: true,
        parted: true,
        epoch: Epoch(0x99),
        current: Epoch(0x88),
        run: RunId(0xABAB),
        boot: BootId(0xCDCD_EFEF_0101_2323_4545_6767_8989_ABAB),
        lineage: lineage(),
        sync_target: Some(SyncTarget { token: 0x8181, generation: generation(0xDDDD) }),
        slots: [slot(), PeerSlot::default(), PeerSlot::default(), PeerSlot::default()],
    }
}

fn words() -> Vec<u64> {
    (0..WORDS_PER_PAGE as u64).map(|word| word.wrapping_mul(0x9E37_79B9_7F4A_7C15)).collect()
}

fn transaction() -> LogTransaction {
    LogTransaction {
        number: 0x1234,
        updates: vec![(0, Some(97)), (7, None), (1236, Some(0))],
        window_start: 852,
        window: (852..1237).map(|slot| (slot % 3 != 0).then_some(slot % 98)).collect(),
    }
}

fn peer_state() -> PeerState {
    PeerState {
        resource: ResourceId(0x1111_2222_3333_4444_5555_6666_7777_8888),
        node: NodeId(1),
        device_blocks: 100_000,
        protocol: Protocol::C,
        role: Role::Primary,
        disk: DiskState::UpToDate,
        data: DataState::Consistent,
        current: Epoch(0x99),
        boot: BootId(0xCDCD_EFEF_0101_2323_4545_6767_8989_ABAB),
        rebooted: true,
        was_primary: true,
        discard_my_data: false,
        lineage: lineage(),
        sync_target: None,
        slot: slot(),
        marked_blocks: 77,
    }
}

/// One frame of each kind, and the second spelling of those that have two.
fn frames() -> Vec<(&'static str, Frame)> {
    let sequence = Sequence(0x0B0B);
    let after = Sequence(0x0A0A);
    let blocks = Blocks::new(0x0C0C, 3);
    let (first, last) = (after, sequence);
    let generation = generation(0xCCCC);
    let epoch = Epoch(0x9A);
    let id = 0x1D1D;
    let differing = Some([0b101].into());
    vec![
        ("state", Frame::State(Box::new(peer_state()))),
        ("met", Frame::Met),
        ("write", Frame::Write { sequence, after, blocks, fua: false }),
        ("write-fua", Frame::Write { sequence, after, blocks, fua: true }),
        ("zero", Frame::Zero { sequence, after, blocks, fua: false, discard: false }),
        ("zero-fua-discard", Frame::Zero { sequence, after, blocks, fua: true, discard: true }),
        ("barrier", Frame::Barrier { sequence }),
        ("resync-data", Frame::ResyncData { sequence, blocks }),
        ("resync-zero", Frame::ResyncZero { sequence, blocks }),
        ("resync-hash", Frame::ResyncHash { sequence, blocks, digest: Box::new([0xD1; 32]) }),
        ("hash-answer", Frame::HashAnswer { sequence, equal: true }),
        ("marks", Frame::Marks { page: 3, words: words().into() }),
        ("marks-all", Frame::MarksAll),
        ("marks-done", Frame::MarksDone),
        ("sync-ready", Frame::SyncReady { token: 0x5151 }),
        ("sync-start", Frame::SyncStart { token: 0x5151 }),
        ("sync-done", Frame::SyncDone { lineage: Box::new(lineage()) }),
        ("sync-adopted", Frame::SyncAdopted),
        ("pause-sync", Frame::PauseSync { paused: true }),
        ("promote-ask", Frame::PromoteAsk { epoch }),
        ("promote-answer", Frame::PromoteAnswer { epoch, granted: true }),
        ("role-change", Frame::RoleChange { role: Role::Secondary, epoch }),
        ("disk-change", Frame::DiskChange { disk: DiskState::Failed }),
        ("generation-begin", Frame::GenerationBegin { generation }),
        ("generation-held", Frame::GenerationHeld { generation }),
        ("behind", Frame::Behind),
        ("read-ask", Frame::ReadAsk { id, blocks }),
        ("read-answer", Frame::ReadAnswer { id, ok: true, blocks }),
        ("read-answer-no", Frame::ReadAnswer { id, ok: false, blocks }),
        ("verify-ask", Frame::VerifyAsk { id, blocks, digests: [[0xD2; 32]; 3].into() }),
        ("verify-answer", Frame::VerifyAnswer { id, blocks, differing }),
        ("verify-answer-no", Frame::VerifyAnswer { id, blocks, differing: None }),
        ("empty-ask", Frame::EmptyAsk { generation }),
        ("empty-answer", Frame::EmptyAnswer { empty: true }),
        ("bye", Frame::Bye { reason: ByeReason::Stop }),
        ("received", Frame::Received { first, last }),
        ("written", Frame::Written { first, last }),
        ("stable", Frame::Stable { sequence }),
        ("write-failed", Frame::WriteFailed { sequence }),
        ("ping", Frame::Ping { number: 8, echo: 7 }),
    ]
}

fn messages() -> Vec<(&'static str, Message)> {
    let versions = Versions { oldest: 1, newest: 2 };
    let hello = |channel, session| {
        let (from, to, nonce) = (NodeId(1), NodeId(2), [5; 32]);
        let resource = "mail.store-1".into();
        Message::Hello(Hello { versions, channel, from, to, session, nonce, resource })
    };
    let session = Session(0x2222_3333_4444_5555);
    let challenge = Challenge { version: 1, nonce: [6; 32], proof: [7; 32] };
    vec![
        ("hello-data", hello(Channel::Data, Session(0))),
        ("hello-control", hello(Channel::Control, session)),
        ("challenge", Message::Challenge(challenge)),
        ("proof", Message::Proof(Proof { live: Session(8), proof: [9; 32] })),
        ("welcome", Message::Welcome(Welcome { session, proof: [11; 32] })),
        ("refusal-unknown-resource", Message::Refusal(Refusal::UnknownResource)),
        ("refusal-wrong-node", Message::Refusal(Refusal::WrongNode(NodeId(3)))),
        ("refusal-version", Message::Refusal(Refusal::Version(versions))),
        ("refusal-secret", Message::Refusal(Refusal::Secret)),
        ("refusal-unwanted", Message::Refusal(Refusal::Unwanted)),
        ("refusal-busy", Message::Refusal(Refusal::Busy)),
    ]
}

/// The checksum that the golden frames with a payload carry.
const PAYLOAD_SUM: u32 = 0xC0FF_EE00;

fn frame_bytes(frame: &Frame) -> Vec<u8> {
    let mut bytes = Vec::new();
    let payload_sum = if frame.payload().is_some() { PAYLOAD_SUM } else { 0 };
    frame::encode(frame, TAG, payload_sum, &mut bytes);
    bytes
}

fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden", name].iter().collect()
}

fn golden(name: &str) -> Vec<u8> {
    fs::read(path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The records of a text file, by name.
fn golden_lines(name: &str) -> Vec<(String, Vec<u8>)> {
    let text = String::from_utf8(golden(name)).expect("it is text");
    let record = |line: &str| {
        let (name, hex) = line.split_once(' ').expect("a name and bytes");
        let digits = hex.as_bytes().chunks(2).map(|pair| str::from_utf8(pair).expect("digits"));
        let bytes = digits.map(|pair| u8::from_str_radix(pair, 16).expect("hexadecimal"));
        (name.to_owned(), bytes.collect())
    };
    text.lines().map(record).collect()
}

fn text<'a>(records: impl Iterator<Item = (&'a str, Vec<u8>)>) -> Vec<u8> {
    let mut text = String::new();
    for (name, bytes) in records {
        text.push_str(name);
        text.push(' ');
        for byte in bytes {
            write!(text, "{byte:02x}").expect("a string takes all");
        }
        text.push('\n');
    }
    text.into_bytes()
}

#[test]
fn superblocks_are_read_for_ever() {
    let bytes = golden("v1/superblock.bin");
    let current = superblock().epoch;
    let first = Superblock { parted: false, current, ..superblock() };
    assert_eq!(superblock::decode(&bytes), Ok(first));
    let bytes = golden("v2/superblock.bin");
    assert_eq!(superblock::decode(&bytes), Ok(Superblock { current, ..superblock() }));
    let bytes = golden("v3/superblock.bin");
    assert_eq!(superblock::decode(&bytes), Ok(superblock()));
    assert_eq!(superblock::encode(&superblock())[..], bytes);
}

#[test]
fn bitmap_pages_are_read_for_ever() {
    for version in ["v1", "v2", "v3"] {
        let bytes = golden(&format!("{version}/bitmap-page.bin"));
        assert_eq!(bitmap::decode(PAGE, &bytes).unwrap()[..], words());
    }
    let bytes = golden("v3/bitmap-page.bin");
    assert_eq!(bitmap::encode(PAGE, &words())[..], bytes);
}

#[test]
fn log_blocks_are_read_for_ever() {
    for version in ["v1", "v2", "v3"] {
        let bytes = golden(&format!("{version}/log-block.bin"));
        assert_eq!(extent_log::decode(LOG, &bytes), Ok(transaction()));
    }
    let bytes = golden("v3/log-block.bin");
    assert_eq!(extent_log::encode(LOG, &transaction())[..], bytes);
}

#[test]
fn frames_are_read_for_ever() {
    let golden = golden_lines("v1/frames.txt");
    let mut kinds: Vec<Kind> = Vec::new();
    assert_eq!(golden.len(), frames().len());
    for ((name, bytes), (expected_name, expected)) in golden.iter().zip(frames()) {
        assert_eq!(name, expected_name);
        let (header, body) = bytes.split_first_chunk::<HEADER_BYTES>().unwrap();
        let header = frame::decode_header(header).unwrap();
        assert_eq!((header.tag(), header.kind()), (TAG, expected.kind()), "{name}");
        assert_eq!(header.frame(body).as_ref(), Ok(&expected), "{name}");
        assert_eq!(&frame_bytes(&expected), bytes, "{name}");
        kinds.push(header.kind());
    }
    let missing = |kind: &&Kind| !kinds.contains(*kind);
    assert_eq!(Kind::ALL.iter().find(missing), None, "a kind without golden bytes");
}

#[test]
fn handshakes_are_read_for_ever() {
    let golden = golden_lines("v1/handshake.txt");
    assert_eq!(golden.len(), messages().len());
    for ((name, bytes), (expected_name, expected)) in golden.iter().zip(messages()) {
        assert_eq!(name, expected_name);
        assert_eq!(Message::decode(bytes).as_ref(), Ok(&expected), "{name}");
        assert_eq!(&expected.encode(), bytes, "{name}");
    }
}

/// The test above compares all there is: a changed byte of any file is noticed.
#[test]
fn a_changed_golden_byte_is_noticed() {
    let mut bytes = golden("v1/superblock.bin");
    bytes[100] ^= 1;
    assert!(superblock::decode(&bytes).is_err());
    let (name, mut bytes) = golden_lines("v1/frames.txt").swap_remove(2);
    bytes[50] ^= 1;
    assert_ne!(frame_bytes(&frames()[2].1), bytes, "{name}");
}

/// What this version would write, to copy a new file from; the old ones stay as they are.
#[test]
fn present_bytes_are_at_hand() {
    let frames = frames();
    let messages = messages();
    let files = [
        ("v3/superblock.bin", superblock::encode(&superblock()).to_vec()),
        ("v3/bitmap-page.bin", bitmap::encode(PAGE, &words()).to_vec()),
        ("v3/log-block.bin", extent_log::encode(LOG, &transaction()).to_vec()),
        ("v1/frames.txt", text(frames.iter().map(|(name, frame)| (*name, frame_bytes(frame))))),
        (
            "v1/handshake.txt",
            text(messages.iter().map(|(name, message)| (*name, message.encode()))),
        ),
    ];
    for (name, bytes) in files {
        let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(place.parent().expect("it is a file")).expect("cargo made the folder");
        fs::write(place, bytes).expect("cargo made the folder");
    }
}
