//! Owns which field of a frame lies where in its header: kind, flags and four numbers.
//! Must never see lengths or checksums.
//!
//! Blocks always are the third and fourth number, so that they can be checked for all kinds at
//! once, before anything that follows the header is read.

use super::frame::{ByeReason, Frame};
use super::frame_bodies::{digests, disk, disk_number, lineage, role, role_number, state, words};
use super::frame_kinds::{Kind, flags};
use super::lineage::Generation;
use crate::limits::{EPOCH_MAX, SEQUENCE_MAX};
use crate::units::{Blocks, Epoch, NodeId, Sequence};

/// What the header says besides the tag and what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) args: [u64; 4],
}

impl Fields {
    /// The fields of a frame.
    pub(super) fn of(frame: &Frame) -> Self {
        Self { kind: kind(frame), flags: flags_of(frame), args: args(frame) }
    }

    /// The frame, from these fields, whose blocks were checked, and its body, whose length was;
    /// or the name of the field that breaks a rule. Fields that the kind does not use are not
    /// looked at.
    #[rustfmt::skip]
    pub(super) fn frame(&self, body: &[u8]) -> Result<Frame, &'static str> {
        self.check_counters()?;
        let (blocks, yes) = (self.blocks(), self.yes());
        let (fua, discard) = (self.flags & flags::FUA != 0, self.flags & flags::DISCARD != 0);
        let (id, second) = (self.args[0], self.args[1]);
        let (sequence, after, epoch) = (Sequence(id), Sequence(second), Epoch(id));
        Ok(match self.kind {
            Kind::State => Frame::State(Box::new(state(body)?)),
            Kind::Met => Frame::Met,
            Kind::Write => Frame::Write { sequence, after, blocks, fua },
            Kind::Zero => Frame::Zero { sequence, after, blocks, fua, discard },
            Kind::Barrier => Frame::Barrier { sequence },
            Kind::ResyncData => Frame::ResyncData { sequence, blocks },
            Kind::ResyncZero => Frame::ResyncZero { sequence, blocks },
            Kind::ResyncHash => Frame::ResyncHash { sequence, blocks, digest: digest(body)? },
            Kind::HashAnswer => Frame::HashAnswer { sequence, equal: yes },
            Kind::Marks => Frame::Marks { page: page(id)?, words: words(body) },
            Kind::MarksAll => Frame::MarksAll,
            Kind::MarksDone => Frame::MarksDone,
            Kind::SyncReady => Frame::SyncReady { token: id },
            Kind::SyncStart => Frame::SyncStart { token: id },
            Kind::SyncDone => Frame::SyncDone { lineage: boxed(lineage(body), "lineage")? },
            Kind::SyncAdopted => Frame::SyncAdopted,
            Kind::PauseSync => Frame::PauseSync { paused: yes },
            Kind::PromoteAsk => Frame::PromoteAsk { epoch },
            Kind::PromoteAnswer => Frame::PromoteAnswer { epoch, granted: yes },
            Kind::RoleChange => Frame::RoleChange { epoch, role: role(second).ok_or("role")? },
            Kind::DiskChange => Frame::DiskChange { disk: disk(id).ok_or("disk")? },
            Kind::GenerationBegin => Frame::GenerationBegin { generation: self.generation()? },
            Kind::GenerationHeld => Frame::GenerationHeld { generation: self.generation()? },
            Kind::Behind => Frame::Behind,
            Kind::ReadAsk => Frame::ReadAsk { id, blocks },
            Kind::ReadAnswer => Frame::ReadAnswer { id, ok: yes, blocks },
            Kind::VerifyAsk => Frame::VerifyAsk { id, blocks, digests: digests(body) },
            Kind::VerifyAnswer => self.verify_answer(body)?,
            Kind::EmptyAsk => Frame::EmptyAsk { generation: self.generation()? },
            Kind::EmptyAnswer => Frame::EmptyAnswer { empty: yes },
            Kind::Bye => Frame::Bye { reason: bye(id).ok_or("reason")? },
            Kind::Received => self.run().map(|(first, last)| Frame::Received { first, last })?,
            Kind::Written => self.run().map(|(first, last)| Frame::Written { first, last })?,
            Kind::Stable => Frame::Stable { sequence },
            Kind::WriteFailed => Frame::WriteFailed { sequence },
            Kind::Ping => Frame::Ping { number: id, echo: second },
        })
    }

    /// Counters that the receiver goes on from are far from the end of their numbers.
    fn check_counters(&self) -> Result<(), &'static str> {
        let [first, second, ..] = self.args;
        match self.kind {
            Kind::Write | Kind::Zero if second > SEQUENCE_MAX => Err("after"),
            Kind::Received | Kind::Written if second > SEQUENCE_MAX => Err("last"),
            Kind::Write
            | Kind::Zero
            | Kind::Barrier
            | Kind::ResyncData
            | Kind::ResyncZero
            | Kind::ResyncHash
            | Kind::HashAnswer
            | Kind::Stable
            | Kind::WriteFailed
                if first > SEQUENCE_MAX =>
            {
                Err("sequence")
            }
            Kind::PromoteAsk
            | Kind::PromoteAnswer
            | Kind::RoleChange
            | Kind::GenerationBegin
            | Kind::GenerationHeld
            | Kind::EmptyAsk
                if first > EPOCH_MAX =>
            {
                Err("epoch")
            }
            _ => Ok(()),
        }
    }

    /// The blocks that the frame names, if its kind names any.
    pub(super) const fn blocks(&self) -> Blocks {
        Blocks::new(self.args[2], self.args[3])
    }

    /// The one yes-or-no of the frame.
    pub(super) const fn yes(&self) -> bool {
        self.flags & flags::YES != 0
    }

    fn generation(&self) -> Result<Generation, &'static str> {
        let [epoch, id, node, _] = self.args;
        let node = NodeId(u8::try_from(node).map_err(|_| "node")?);
        let generation = Generation { epoch: Epoch(epoch), id, node };
        if id != 0 { Ok(generation) } else { Err("generation") }
    }

    /// First and last of a run of sequences.
    fn run(&self) -> Result<(Sequence, Sequence), &'static str> {
        let [first, last, ..] = self.args;
        if first <= last { Ok((Sequence(first), Sequence(last))) } else { Err("last") }
    }

    /// Bits beyond the last block would be blocks that nobody asked about.
    fn verify_answer(&self, body: &[u8]) -> Result<Frame, &'static str> {
        let (id, blocks) = (self.args[0], self.blocks());
        let differing = self.yes().then(|| words(body));
        let last = differing.as_deref().and_then(<[u64]>::last);
        let used = blocks.count % 64;
        let beyond = last.is_some_and(|word| used != 0 && word >> used != 0);
        if beyond { Err("differing") } else { Ok(Frame::VerifyAnswer { id, blocks, differing }) }
    }
}

/// The kind of a frame.
#[rustfmt::skip]
pub(super) const fn kind(frame: &Frame) -> Kind {
    match frame {
        Frame::State(_) => Kind::State,
        Frame::Met => Kind::Met,
        Frame::Write { .. } => Kind::Write,
        Frame::Zero { .. } => Kind::Zero,
        Frame::Barrier { .. } => Kind::Barrier,
        Frame::ResyncData { .. } => Kind::ResyncData,
        Frame::ResyncZero { .. } => Kind::ResyncZero,
        Frame::ResyncHash { .. } => Kind::ResyncHash,
        Frame::HashAnswer { .. } => Kind::HashAnswer,
        Frame::Marks { .. } => Kind::Marks,
        Frame::MarksAll => Kind::MarksAll,
        Frame::MarksDone => Kind::MarksDone,
        Frame::SyncReady { .. } => Kind::SyncReady,
        Frame::SyncStart { .. } => Kind::SyncStart,
        Frame::SyncDone { .. } => Kind::SyncDone,
        Frame::SyncAdopted => Kind::SyncAdopted,
        Frame::PauseSync { .. } => Kind::PauseSync,
        Frame::PromoteAsk { .. } => Kind::PromoteAsk,
        Frame::PromoteAnswer { .. } => Kind::PromoteAnswer,
        Frame::RoleChange { .. } => Kind::RoleChange,
        Frame::DiskChange { .. } => Kind::DiskChange,
        Frame::GenerationBegin { .. } => Kind::GenerationBegin,
        Frame::GenerationHeld { .. } => Kind::GenerationHeld,
        Frame::Behind => Kind::Behind,
        Frame::ReadAsk { .. } => Kind::ReadAsk,
        Frame::ReadAnswer { .. } => Kind::ReadAnswer,
        Frame::VerifyAsk { .. } => Kind::VerifyAsk,
        Frame::VerifyAnswer { .. } => Kind::VerifyAnswer,
        Frame::EmptyAsk { .. } => Kind::EmptyAsk,
        Frame::EmptyAnswer { .. } => Kind::EmptyAnswer,
        Frame::Bye { .. } => Kind::Bye,
        Frame::Received { .. } => Kind::Received,
        Frame::Written { .. } => Kind::Written,
        Frame::Stable { .. } => Kind::Stable,
        Frame::WriteFailed { .. } => Kind::WriteFailed,
        Frame::Ping { .. } => Kind::Ping,
    }
}

fn flags_of(frame: &Frame) -> u8 {
    let bit = |flag: u8, set: bool| if set { flag } else { 0 };
    match frame {
        Frame::Write { fua, .. } => bit(flags::FUA, *fua),
        Frame::Zero { fua, discard, .. } => bit(flags::FUA, *fua) | bit(flags::DISCARD, *discard),
        Frame::HashAnswer { equal: yes, .. }
        | Frame::PauseSync { paused: yes }
        | Frame::PromoteAnswer { granted: yes, .. }
        | Frame::ReadAnswer { ok: yes, .. }
        | Frame::EmptyAnswer { empty: yes } => bit(flags::YES, *yes),
        Frame::VerifyAnswer { differing, .. } => bit(flags::YES, differing.is_some()),
        _ => 0,
    }
}

fn args(frame: &Frame) -> [u64; 4] {
    match frame {
        Frame::Write { sequence, after, blocks, .. }
        | Frame::Zero { sequence, after, blocks, .. } => {
            [sequence.0, after.0, blocks.start, blocks.count]
        }
        Frame::ResyncData { sequence: Sequence(id), blocks }
        | Frame::ResyncZero { sequence: Sequence(id), blocks }
        | Frame::ResyncHash { sequence: Sequence(id), blocks, .. }
        | Frame::ReadAsk { id, blocks }
        | Frame::ReadAnswer { id, blocks, .. }
        | Frame::VerifyAsk { id, blocks, .. }
        | Frame::VerifyAnswer { id, blocks, .. } => [*id, 0, blocks.start, blocks.count],
        Frame::GenerationBegin { generation }
        | Frame::GenerationHeld { generation }
        | Frame::EmptyAsk { generation } => {
            [generation.epoch.0, generation.id, generation.node.0.into(), 0]
        }
        Frame::Received { first, last } | Frame::Written { first, last } => [first.0, last.0, 0, 0],
        Frame::Ping { number, echo } => [*number, *echo, 0, 0],
        Frame::RoleChange { role, epoch } => [epoch.0, role_number(*role).into(), 0, 0],
        Frame::Barrier { sequence: Sequence(only) }
        | Frame::HashAnswer { sequence: Sequence(only), .. }
        | Frame::Stable { sequence: Sequence(only) }
        | Frame::WriteFailed { sequence: Sequence(only) }
        | Frame::SyncReady { token: only }
        | Frame::SyncStart { token: only }
        | Frame::PromoteAsk { epoch: Epoch(only) }
        | Frame::PromoteAnswer { epoch: Epoch(only), .. } => [*only, 0, 0, 0],
        Frame::Marks { page, .. } => [(*page).into(), 0, 0, 0],
        Frame::DiskChange { disk } => [disk_number(*disk).into(), 0, 0, 0],
        Frame::Bye { reason } => [bye_number(*reason), 0, 0, 0],
        _ => [0; 4],
    }
}

fn boxed<T>(value: Option<T>, field: &'static str) -> Result<Box<T>, &'static str> {
    value.map(Box::new).ok_or(field)
}

fn digest(body: &[u8]) -> Result<Box<[u8; 32]>, &'static str> {
    boxed(body.try_into().ok(), "digest")
}

fn page(number: u64) -> Result<u32, &'static str> {
    u32::try_from(number).map_err(|_| "page")
}

const fn bye_number(reason: ByeReason) -> u64 {
    match reason {
        ByeReason::Renegotiate => 1,
        ByeReason::Disconnect => 2,
        ByeReason::Stop => 3,
        ByeReason::SplitBrain => 4,
        ByeReason::Unrelated => 5,
        ByeReason::Incompatible => 6,
        ByeReason::PrimaryWouldBeTarget => 7,
    }
}

const fn bye(number: u64) -> Option<ByeReason> {
    match number {
        1 => Some(ByeReason::Renegotiate),
        2 => Some(ByeReason::Disconnect),
        3 => Some(ByeReason::Stop),
        4 => Some(ByeReason::SplitBrain),
        5 => Some(ByeReason::Unrelated),
        6 => Some(ByeReason::Incompatible),
        7 => Some(ByeReason::PrimaryWouldBeTarget),
        _ => None,
    }
}
