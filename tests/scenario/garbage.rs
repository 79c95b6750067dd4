//! Owns a peer that sends anything in any order: the core must stand.

use crate::medium::Dice;
use crate::world::*;
use twinblk::buffer::Purpose;
use twinblk::format::frame::*;
use twinblk::format::lineage::{Generation, Lineage};
use twinblk::replica::event::*;
use twinblk::units::*;

fn blocks(dice: &mut Dice, most: u64) -> Blocks {
    let start = match dice.below(6) {
        0 => dice.below(1 << 38),
        _ => dice.below(40_000),
    };
    Blocks::new(start, 1 + dice.below(most))
}

fn sequence(dice: &mut Dice) -> Sequence {
    Sequence(if dice.one_in(9) { dice.roll() } else { dice.below(60) })
}

fn frame(dice: &mut Dice, state: &PeerState) -> Frame {
    let generation =
        Generation { epoch: Epoch(dice.below(9)), id: 1 + dice.below(3), node: NodeId(1) };
    let s = sequence(dice);
    let disk =
        [DiskState::Diskless, DiskState::Failed, DiskState::Inconsistent, DiskState::UpToDate]
            [dice.below(4) as usize];
    match dice.below(34) {
        0 | 1 => {
            let mut state = state.clone();
            if dice.one_in(2) {
                state.disk = disk;
            }
            if dice.one_in(3) {
                state.role = Role::Primary;
            }
            if dice.one_in(3) {
                state.marked_blocks = dice.below(9);
            }
            if dice.one_in(4) {
                state.lineage = Lineage::new(vec![generation]);
            }
            if dice.one_in(5) {
                state.current = Epoch(dice.below(40));
            }
            Frame::State(Box::new(state))
        }
        2 | 3 => Frame::Met,
        4 | 5 => Frame::Write {
            sequence: s,
            after: sequence(dice),
            blocks: blocks(dice, 16),
            fua: dice.one_in(2),
        },
        6 => Frame::Zero {
            sequence: s,
            after: sequence(dice),
            blocks: blocks(dice, 1024),
            fua: false,
            discard: true,
        },
        7 => Frame::Barrier { sequence: s },
        8 => Frame::ResyncData { sequence: s, blocks: blocks(dice, 16) },
        9 => Frame::ResyncZero { sequence: s, blocks: blocks(dice, 64) },
        10 => {
            Frame::ResyncHash { sequence: s, blocks: blocks(dice, 64), digest: Box::new([7; 32]) }
        }
        11 => Frame::HashAnswer { sequence: s, equal: dice.one_in(2) },
        12 => Frame::Marks {
            page: dice.below(4) as u32,
            words: vec![dice.roll(); 1 + dice.below(508) as usize].into(),
        },
        13 => Frame::MarksAll,
        14 => Frame::MarksDone,
        15 => Frame::SyncReady { token: dice.below(4) },
        16 => Frame::SyncStart { token: 1 + dice.below(4) },
        17 => Frame::SyncDone { lineage: Box::new(state.lineage.clone()) },
        18 => Frame::SyncAdopted,
        19 => Frame::PauseSync { paused: dice.one_in(2) },
        20 => Frame::PromoteAsk { epoch: Epoch(dice.below(60)) },
        21 => Frame::PromoteAnswer { epoch: Epoch(dice.below(60)), granted: dice.one_in(2) },
        22 => Frame::RoleChange {
            role: if dice.one_in(2) { Role::Primary } else { Role::Secondary },
            epoch: Epoch(dice.below(60)),
        },
        23 => Frame::DiskChange { disk },
        24 => Frame::GenerationBegin { generation },
        25 => Frame::GenerationHeld { generation },
        26 => Frame::Behind,
        27 => Frame::ReadAsk { id: dice.below(4), blocks: blocks(dice, 256) },
        28 => Frame::ReadAnswer { id: dice.below(4), ok: dice.one_in(2), blocks: blocks(dice, 16) },
        29 => {
            let blocks = blocks(dice, 64);
            let digests = vec![[3; 32]; blocks.count as usize].into();
            Frame::VerifyAsk { id: dice.below(4), blocks, digests }
        }
        30 => {
            let blocks = blocks(dice, 64);
            let words = vec![dice.roll(); blocks.count.div_ceil(64) as usize];
            Frame::VerifyAnswer {
                id: dice.below(4),
                blocks,
                differing: dice.one_in(2).then(|| words.into()),
            }
        }
        31 => match dice.below(4) {
            0 => Frame::EmptyAsk { generation },
            1 => Frame::EmptyAnswer { empty: dice.one_in(2) },
            _ => Frame::Received { first: s, last: sequence(dice) },
        },
        32 => Frame::Written { first: s, last: sequence(dice) },
        _ => match dice.below(3) {
            0 => Frame::Stable { sequence: s },
            1 => Frame::WriteFailed { sequence: s },
            _ => Frame::Bye {
                reason: [ByeReason::Renegotiate, ByeReason::Stop, ByeReason::Disconnect]
                    [dice.below(3) as usize],
            },
        },
    }
}

fn state_of(w: &World) -> PeerState {
    let sb = w.replica(ALPHA).superblock().clone();
    let mut slot = sb.slots[0];
    slot.node = NodeId(0);
    PeerState {
        resource: sb.resource,
        node: NodeId(1),
        device_blocks: w.setup.device_blocks,
        protocol: w.setup.protocol,
        role: Role::Secondary,
        disk: DiskState::Consistent,
        data: sb.data,
        current: sb.current,
        boot: BootId(2),
        rebooted: false,
        was_primary: false,
        discard_my_data: false,
        lineage: sb.lineage.clone(),
        sync_target: None,
        slot,
        marked_blocks: 0,
    }
}

fn insult(seed: u64, frames: u64) {
    let mut w = World::running(Setup::default());
    if seed % 2 == 1 {
        w.must(ALPHA, Command::Demote);
    }
    w.cut();
    w.crash(BRAVO);
    w.settle();
    w.setup.chaos = seed + 1;
    w.dice = Dice(seed);
    let mut dice = Dice(seed ^ 0xabcdef);
    let mut session = 0x9000;
    let mut up = false;
    for number in 0..frames {
        if !up {
            session += 1;
            up = true;
            w.handle(ALPHA, Input::LinkUp { peer: PeerIndex(0), session: Session(session) });
            let state = state_of(&w);
            w.steps(20);
            if !dice.one_in(3) {
                for frame in [Frame::State(Box::new(state)), Frame::Met] {
                    let epoch = Epoch(50);
                    let (peer, session) = (PeerIndex(0), Session(session));
                    w.handle(ALPHA, Input::Frame { peer, session, epoch, frame, payload: None });
                    w.steps(10);
                }
            }
        }
        let state = state_of(&w);
        let frame = frame(&mut dice, &state);
        let payload = frame.payload().map(|blocks| {
            w.nodes[ALPHA].pool.take(Purpose::Peer, blocks.length_bytes() as usize).expect("room")
        });
        let epoch = Epoch(if dice.one_in(9) { dice.below(50) } else { 1 << 40 });
        let (peer, id) = (PeerIndex(0), Session(session));
        w.handle(ALPHA, Input::Frame { peer, session: id, epoch, frame, payload });
        if number % 7 == 0 && seed.is_multiple_of(2) {
            let start = dice.below(30_000);
            let _ = w.write(ALPHA, start, 1 + dice.below(9), number);
        }
        let steps = dice.below(12);
        w.steps(steps);
        if dice.one_in(14) {
            up = false;
            w.handle(ALPHA, Input::LinkDown { peer, session: id });
            w.steps(20);
        }
    }
}

#[test]
fn a_peer_that_sends_garbage_cannot_make_the_core_panic() {
    let mut bad = Vec::new();
    let only: Option<u64> = std::env::var("GARBAGE_SEED").ok().and_then(|s| s.parse().ok());
    for seed in only.map_or(0..100, |seed| seed..seed + 1) {
        if only.is_some() {
            insult(seed, 200);
        } else if let Err(what) = std::panic::catch_unwind(|| insult(seed, 200)) {
            let text = what.downcast_ref::<String>().cloned().unwrap_or_default();
            let text = what.downcast_ref::<&str>().map_or(text, |s| (*s).to_owned());
            bad.push(format!(
                "GARBAGE_SEED={seed}: {}",
                text.chars().take(160).collect::<String>()
            ));
        }
    }
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// G22: an epoch that nobody can have come to is not taken over, whatever frame names it.
#[test]
fn a_garbled_epoch_is_not_believed() {
    use twinblk::limits::EPOCH_LEAP_MAX;
    for leap in [EPOCH_LEAP_MAX, EPOCH_LEAP_MAX + 1] {
        let mut w = World::running(Setup::default());
        w.must(ALPHA, Command::Demote);
        w.settle();
        let before = w.status(ALPHA).epoch;
        let epoch = Epoch(before.0 + leap);
        let session = w.session().expect("connected");
        let frame = Frame::PromoteAsk { epoch };
        let peer = PeerIndex(0);
        w.handle(ALPHA, Input::Frame { peer, session, epoch, frame, payload: None });
        w.run_for(1);
        let believed = leap <= EPOCH_LEAP_MAX;
        assert_eq!(w.status(ALPHA).epoch, if believed { epoch } else { before });
        assert_eq!(w.session() == Some(session), believed);
    }
}
