//! Owns strategies that draw any value a format can hold, for the tests of all formats.
//! Must never draw one that breaks a rule.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::bitmap::WORDS_PER_PAGE;
use super::frame::{ByeReason, DiskState, Frame, PeerState, Protocol, Role, Tag};
use super::lineage::{Generation, Lineage};
use super::superblock::{Bond, DataState, Geometry, PeerSlot, Superblock, SyncTarget};
use crate::limits::*;
use crate::units::{AreaId, Blocks, BootId, Epoch, NodeId, ResourceId, RunId, Sequence, Session};

pub(super) fn generation() -> impl Strategy<Value = Generation> {
    (0..=EPOCH_MAX, 1..=u64::MAX, any::<u8>()).prop_map(|(epoch, id, node)| Generation {
        epoch: Epoch(epoch),
        id,
        node: NodeId(node),
    })
}

pub(super) fn lineage() -> impl Strategy<Value = Lineage> {
    vec(generation(), 0..=LINEAGE_ENTRIES).prop_map(Lineage::new)
}

pub(super) fn geometry() -> impl Strategy<Value = Geometry> {
    let device = prop_oneof![1..=1_000_000u64, 1..=DEVICE_BLOCKS_MAX];
    (device, 1..=4u8, LOG_EXTENTS_MIN..=LOG_EXTENTS_MAX).prop_map(
        |(device_blocks, peer_slots, log_extents)| Geometry {
            device_blocks,
            peer_slots,
            log_extents,
        },
    )
}

fn slot() -> impl Strategy<Value = PeerSlot> {
    let flags = any::<[bool; 3]>();
    (flags, any::<u8>(), option::of(generation()), any::<[u64; 3]>()).prop_map(
        |([in_use, all_marked, withdrawn], node, base, [sync_token, confirmed, tentative])| {
            PeerSlot {
                in_use,
                node: NodeId(node),
                base,
                sync_token,
                all_marked,
                withdrawn,
                bond: Bond { confirmed, tentative },
            }
        },
    )
}

fn data_state() -> impl Strategy<Value = DataState> {
    prop::sample::select(std::vec![
        DataState::Inconsistent,
        DataState::Outdated,
        DataState::Consistent,
    ])
}

fn sync_target() -> impl Strategy<Value = Option<SyncTarget>> {
    let target = (any::<u64>(), generation());
    option::of(target.prop_map(|(token, generation)| SyncTarget { token, generation }))
}

pub(super) fn superblock() -> impl Strategy<Value = Superblock> {
    let numbers = (0..SERIAL_MAX, any::<u64>(), 0..=EPOCH_STORED_MAX, any::<u64>());
    let identity = (1..=u128::MAX, any::<u128>(), any::<u8>(), any::<[bool; 5]>());
    let state = (geometry(), data_state(), lineage(), sync_target());
    (numbers, identity, state, prop::array::uniform4(slot())).prop_map(
        |(numbers, identity, state, mut slots)| {
            let ((serial, area, epoch, run), (resource, boot, node, flags)) = (numbers, identity);
            let (geometry, data, lineage, sync_target) = state;
            for slot in &mut slots[usize::from(geometry.peer_slots)..] {
                slot.in_use = false;
            }
            Superblock {
                serial,
                resource: ResourceId(resource),
                node: NodeId(node),
                area: AreaId(area),
                geometry,
                data,
                primary: flags[0],
                log_live: flags[1],
                former_primary: flags[2],
                rebooted: flags[3],
                parted: flags[4],
                epoch: Epoch(epoch),
                current: Epoch(epoch / 2),
                run: RunId(run),
                boot: BootId(boot),
                lineage,
                sync_target,
                slots,
            }
        },
    )
}

pub(super) fn tag() -> impl Strategy<Value = Tag> {
    (0..=EPOCH_MAX, 1..=u64::MAX, 1..=u64::MAX).prop_map(|(epoch, session, number)| Tag {
        epoch: Epoch(epoch),
        session: Session(session),
        number,
    })
}

fn blocks(most: u64) -> impl Strategy<Value = Blocks> {
    (1..=most, 0..=DEVICE_BLOCKS_MAX - most).prop_map(|(count, start)| Blocks::new(start, count))
}

fn role() -> impl Strategy<Value = Role> {
    prop::sample::select(std::vec![Role::Primary, Role::Secondary])
}

fn disk() -> impl Strategy<Value = DiskState> {
    prop::sample::select(std::vec![
        DiskState::Diskless,
        DiskState::Failed,
        DiskState::Inconsistent,
        DiskState::Outdated,
        DiskState::Consistent,
        DiskState::UpToDate,
    ])
}

pub(super) fn peer_state() -> impl Strategy<Value = PeerState> {
    let protocol = prop::sample::select(std::vec![Protocol::A, Protocol::B, Protocol::C]);
    let identity = (1..=u128::MAX, any::<u8>(), any::<u128>(), 0..=EPOCH_MAX);
    let states = (protocol, role(), disk(), data_state(), any::<[bool; 3]>());
    let data = (lineage(), sync_target(), slot());
    let counts = (0..=DEVICE_BLOCKS_MAX, 0..=DEVICE_BLOCKS_MAX);
    (identity, states, data, counts).prop_map(|(identity, states, data, counts)| PeerState {
        resource: ResourceId(identity.0),
        node: NodeId(identity.1),
        device_blocks: counts.0,
        protocol: states.0,
        role: states.1,
        disk: states.2,
        data: states.3,
        current: Epoch(identity.3),
        boot: BootId(identity.2),
        rebooted: states.4[0],
        was_primary: states.4[1],
        discard_my_data: states.4[2],
        lineage: data.0,
        sync_target: data.1,
        slot: data.2,
        marked_blocks: counts.1,
    })
}

fn words(most: usize) -> impl Strategy<Value = Box<[u64]>> {
    vec(any::<u64>(), 1..=most).prop_map(Vec::into_boxed_slice)
}

fn digest() -> impl Strategy<Value = [u8; 32]> {
    any::<[u8; 32]>()
}

fn stream_frame() -> impl Strategy<Value = Frame> {
    let sequence = || (0..=SEQUENCE_MAX).prop_map(Sequence);
    let piece = || blocks(PIECE_BLOCKS);
    let yes = any::<bool>;
    prop_oneof![
        (sequence(), sequence(), piece(), yes()).prop_map(|(sequence, after, blocks, fua)| {
            Frame::Write { sequence, after, blocks, fua }
        }),
        (sequence(), sequence(), blocks(ZERO_PIECE_BLOCKS), yes(), yes()).prop_map(
            |(sequence, after, blocks, fua, discard)| {
                Frame::Zero { sequence, after, blocks, fua, discard }
            }
        ),
        sequence().prop_map(|sequence| Frame::Barrier { sequence }),
        (sequence(), piece()).prop_map(|(sequence, blocks)| Frame::ResyncData { sequence, blocks }),
        (sequence(), blocks(ZERO_PIECE_BLOCKS))
            .prop_map(|(sequence, blocks)| Frame::ResyncZero { sequence, blocks }),
        (sequence(), piece(), digest()).prop_map(|(sequence, blocks, digest)| {
            Frame::ResyncHash { sequence, blocks, digest: Box::new(digest) }
        }),
        (sequence(), yes()).prop_map(|(sequence, equal)| Frame::HashAnswer { sequence, equal }),
        (sequence(), sequence()).prop_map(|(a, b)| {
            let (first, last) = (a.min(b), a.max(b));
            Frame::Received { first, last }
        }),
        (sequence(), sequence()).prop_map(|(a, b)| {
            let (first, last) = (a.min(b), a.max(b));
            Frame::Written { first, last }
        }),
        sequence().prop_map(|sequence| Frame::Stable { sequence }),
        sequence().prop_map(|sequence| Frame::WriteFailed { sequence }),
        any::<[u64; 2]>().prop_map(|[number, echo]| Frame::Ping { number, echo }),
    ]
}

fn verify_answer() -> impl Strategy<Value = Frame> {
    (any::<u64>(), blocks(PIECE_BLOCKS), option::of(any::<[u64; 4]>())).prop_map(
        |(id, blocks, words)| {
            let differing = words.map(|mut words| {
                let count = usize::try_from(blocks.count).unwrap();
                let used = count.div_ceil(64);
                if count % 64 != 0 {
                    words[used - 1] &= (1 << (count % 64)) - 1;
                }
                words[..used].into()
            });
            Frame::VerifyAnswer { id, blocks, differing }
        },
    )
}

fn verify_ask() -> impl Strategy<Value = Frame> {
    (any::<u64>(), blocks(PIECE_BLOCKS), digest()).prop_map(|(id, blocks, digest)| {
        let count = usize::try_from(blocks.count).unwrap();
        Frame::VerifyAsk { id, blocks, digests: std::vec![digest; count].into() }
    })
}

fn asking_frame() -> impl Strategy<Value = Frame> {
    let piece = || blocks(PIECE_BLOCKS);
    let yes = any::<bool>;
    let epoch = || (0..=EPOCH_MAX).prop_map(Epoch);
    prop_oneof![
        (any::<u64>(), piece()).prop_map(|(id, blocks)| Frame::ReadAsk { id, blocks }),
        (any::<u64>(), yes(), piece())
            .prop_map(|(id, ok, blocks)| { Frame::ReadAnswer { id, ok, blocks } }),
        verify_ask(),
        verify_answer(),
        generation().prop_map(|generation| Frame::EmptyAsk { generation }),
        yes().prop_map(|empty| Frame::EmptyAnswer { empty }),
        epoch().prop_map(|epoch| Frame::PromoteAsk { epoch }),
        (epoch(), yes()).prop_map(|(epoch, granted)| Frame::PromoteAnswer { epoch, granted }),
        generation().prop_map(|generation| Frame::GenerationBegin { generation }),
        generation().prop_map(|generation| Frame::GenerationHeld { generation }),
    ]
}

fn state_frame() -> impl Strategy<Value = Frame> {
    let reasons = std::vec![
        ByeReason::Renegotiate,
        ByeReason::Disconnect,
        ByeReason::Stop,
        ByeReason::SplitBrain,
        ByeReason::Unrelated,
        ByeReason::Incompatible,
        ByeReason::PrimaryWouldBeTarget,
    ];
    let plain = std::vec![
        Frame::Met,
        Frame::MarksAll,
        Frame::MarksDone,
        Frame::SyncAdopted,
        Frame::Behind,
    ];
    prop_oneof![
        peer_state().prop_map(|state| Frame::State(Box::new(state))),
        prop::sample::select(plain),
        (any::<u32>(), words(WORDS_PER_PAGE))
            .prop_map(|(page, words)| Frame::Marks { page, words }),
        any::<u64>().prop_map(|token| Frame::SyncReady { token }),
        any::<u64>().prop_map(|token| Frame::SyncStart { token }),
        lineage().prop_map(|lineage| Frame::SyncDone { lineage: Box::new(lineage) }),
        any::<bool>().prop_map(|paused| Frame::PauseSync { paused }),
        (role(), 0..=EPOCH_MAX).prop_map(|(role, epoch)| {
            let epoch = Epoch(epoch);
            Frame::RoleChange { role, epoch }
        }),
        disk().prop_map(|disk| Frame::DiskChange { disk }),
        prop::sample::select(reasons).prop_map(|reason| Frame::Bye { reason }),
    ]
}

pub(super) fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![stream_frame(), asking_frame(), state_frame()]
}
