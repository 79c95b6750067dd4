//! Owns what a peer sends to be written here: order, what it waits for, acknowledgement, barriers.
//! Must never start a write before what its primary had flushed is stable here, nor say "stable"
//! before a flush that began after the writes were done.

use super::disk_loss::DiskLoss;
use super::event::{DiskError, Fetched, Output, Part, Want};
use super::peer::Phase;
use super::range_lock::Mode;
use super::reconcile::{Extent, Verdict};
use super::{IoPurpose, LogWaiter, Owner, Replica, SyncPurpose};
use crate::buffer::Payload;
use crate::format::frame::{Frame, Protocol};
use crate::format::lineage::{Generation, Lineage};
use crate::limits::INCOMING_WRITES_MAX;
use crate::plant::Plant;
use crate::units::{Blocks, Sequence, Session};
use std::collections::VecDeque;

/// What is to be done with the blocks.
#[derive(Debug)]
pub(super) enum What {
    Data(Payload),
    Zero { discard: bool },
    Hash(Box<[u8; 32]>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Until everything up to `after` is stable.
    Gated,
    /// For the range, or for the log.
    Waiting,
    /// Disk operations still owed.
    Running(u16),
    Done,
}

/// One sequenced frame on its way to the disk.
#[derive(Debug)]
pub(super) struct Apply {
    pub(super) sequence: Sequence,
    pub(super) after: Sequence,
    blocks: Blocks,
    fua: bool,
    /// Part of a resync: only blocks still marked here are taken.
    pub(super) resync: bool,
    pub(super) what: Option<What>,
    pub(super) stage: Stage,
    entered: bool,
    failed: bool,
    /// A hash that was not equal: its blocks are still to come, and keep their marks.
    differs: bool,
}

/// Something that waits until all before it is done, and is then made stable.
#[derive(Debug)]
enum Point {
    Barrier(Sequence),
    /// The end of a resync.
    End(Sequence, Box<Lineage>),
    /// The peer, primary, has no disk any more, and begins this generation without it.
    Generation(Sequence, Generation),
}

impl Point {
    const fn sequence(&self) -> Sequence {
        match self {
            Self::Barrier(sequence) | Self::End(sequence, _) | Self::Generation(sequence, _) => {
                *sequence
            }
        }
    }
}

/// The stream from one peer.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    pub(super) applies: VecDeque<Apply>,
    points: VecDeque<Point>,
    pub(super) syncing: bool,
    pub(super) stable: Sequence,
    pub(super) last: Sequence,
    /// A peer that has lost its disk may have acknowledged what came up to here; nothing later before
    /// it is written and marked here.
    pub(super) acknowledged: Option<Sequence>,
    /// The disk was let go of in this session: what came before may not be on it, so nothing that has not
    /// begun may come to it when it is open again.
    pub(super) lost: bool,
    /// Written since the last barrier: their marks may go when it is passed.
    covered: VecDeque<(Sequence, Blocks)>,
    written: Option<(Sequence, Sequence)>,
    received: Option<(Sequence, Sequence)>,
}

impl Incoming {
    /// Nothing of the stream is on its way to the disk.
    pub(super) fn is_idle(&self) -> bool {
        self.applies.is_empty() && !self.syncing
    }

    /// Barriers with nothing left to write between them are answered as one: the last one's answer
    /// holds for all.
    fn join_barriers(&mut self) {
        while let (Some(Point::Barrier(_)), Some(Point::Barrier(next))) =
            (self.points.front(), self.points.get(1))
        {
            if self.applies.front().is_some_and(|apply| apply.sequence <= *next) {
                return;
            }
            self.points.pop_front();
        }
    }

    /// Everything up to this is stable here.
    pub(super) const fn stable(&self) -> Sequence {
        self.stable
    }

    /// Whether one of the writes up to `last` to these blocks has not ended.
    pub(super) fn is_writing(&self, blocks: Blocks, last: Sequence) -> bool {
        let before = self.applies.iter().take_while(|apply| apply.sequence <= last);
        before.into_iter().any(|apply| apply.stage != Stage::Done && apply.blocks.overlaps(blocks))
    }

    pub(super) fn forget_log(&mut self) {
        self.applies.iter_mut().for_each(|apply| apply.entered = false);
    }

    fn find(&mut self, sequence: Sequence) -> Option<&mut Apply> {
        let place = self.applies.binary_search_by_key(&sequence, |apply| apply.sequence).ok()?;
        self.applies.get_mut(place)
    }
}

fn extend(
    run: &mut Option<(Sequence, Sequence)>,
    sequence: Sequence,
) -> Option<(Sequence, Sequence)> {
    match run {
        Some((_, last)) if last.next() == sequence => {
            *last = sequence;
            None
        }
        other => other.replace((sequence, sequence)),
    }
}

impl Replica {
    /// A client's write, mirrored here.
    pub(super) fn on_write_frame(&mut self, peer: usize, frame: Frame, payload: Option<Payload>) {
        let (sequence, after, blocks, fua, what) = match (frame, payload) {
            (Frame::Write { sequence, after, blocks, fua }, Some(payload)) => {
                (sequence, after, blocks, fua, What::Data(payload))
            }
            (Frame::Zero { sequence, after, blocks, fua, discard }, None) => {
                (sequence, after, blocks, fua, What::Zero { discard })
            }
            (_, payload) => return self.release(payload),
        };
        if self.options.protocol == Protocol::B
            && let Some((first, last)) = extend(&mut self.peers[peer].incoming.received, sequence)
        {
            self.send(peer, Frame::Received { first, last });
        }
        let stage = Stage::Gated;
        let (resync, entered, failed, differs) = (false, false, false, false);
        let what = Some(what);
        self.add_apply(
            peer,
            Apply { sequence, after, blocks, fua, resync, what, stage, entered, failed, differs },
        );
    }

    /// Blocks, zeroes or a hash of a resync.
    pub(super) fn on_resync_frame(&mut self, peer: usize, frame: Frame, payload: Option<Payload>) {
        let (sequence, blocks, what) = match (frame, payload) {
            (Frame::ResyncData { sequence, blocks }, Some(payload)) => {
                (sequence, blocks, What::Data(payload))
            }
            (Frame::ResyncZero { sequence, blocks }, None) => {
                (sequence, blocks, What::Zero { discard: true })
            }
            (Frame::ResyncHash { sequence, blocks, digest }, None) => {
                (sequence, blocks, What::Hash(digest))
            }
            (_, payload) => return self.release(payload),
        };
        if self.peers[peer].verdict == Some(Verdict::Target(Extent::Full)) {
            // Only after the peer has recorded the meeting as one of both.
            self.remember_meeting(peer);
        }
        let clash = matches!(what, What::Hash(_)) && self.locks.any(blocks, is_client);
        if clash {
            // The source keeps the range locked until it knows, and the client's write, or a read
            // that goes there, waits for the source: answer at once.
            self.send(peer, Frame::HashAnswer { sequence, equal: false });
        }
        let apply = Apply {
            sequence,
            after: Sequence(0),
            blocks,
            fua: false,
            resync: true,
            what: (!clash).then_some(what),
            stage: Stage::Gated,
            entered: false,
            failed: false,
            differs: clash,
        };
        self.add_apply(peer, apply);
    }

    fn add_apply(&mut self, peer: usize, apply: Apply) {
        let incoming = &mut self.peers[peer].incoming;
        let sequence = apply.sequence;
        let fits = apply.blocks.end() <= self.device_blocks
            && sequence > incoming.last
            && apply.after < sequence
            && incoming.applies.len() < INCOMING_WRITES_MAX
            && incoming.covered.len() < INCOMING_WRITES_MAX;
        if !fits || !self.peers[peer].phase.takes_writes() {
            let payload = match apply.what {
                Some(What::Data(payload)) => Some(payload),
                _ => None,
            };
            self.release(payload);
            return self
                .violation(peer, "a write that is out of order, out of range, or one too many");
        }
        self.peers[peer].incoming.last = sequence;
        self.peers[peer].incoming.applies.push_back(apply);
        self.start_apply(peer, sequence);
    }

    fn start_apply(&mut self, peer: usize, sequence: Sequence) {
        let ungated = self.planted(Plant::UngatedPeer);
        let incoming = &mut self.peers[peer].incoming;
        let stable = if ungated { Sequence(u64::MAX) } else { incoming.stable };
        let Some(apply) = incoming.find(sequence) else {
            return;
        };
        if apply.stage != Stage::Gated || apply.after > stable {
            return;
        }
        apply.stage = Stage::Waiting;
        let blocks = apply.blocks;
        if self.locks.acquire(Owner::Apply { peer, sequence }, blocks, Mode::Exclusive) {
            self.apply_locked(peer, sequence);
        }
    }

    pub(super) fn apply_locked(&mut self, peer: usize, sequence: Sequence) {
        if !self.peers[peer].needs_marks_here {
            return self.run_apply(peer, sequence);
        }
        // The peer works without a disk: what is written here, it lacks. On record first.
        let blocks = self.apply_blocks(peer, sequence);
        self.mark(peer, blocks);
        if self.enter_if_hot(blocks) {
            return self.apply_entered(peer, sequence);
        }
        self.log_waiting.push_back(LogWaiter::Apply { peer, sequence });
        self.plan_log();
    }

    pub(super) fn apply_entered(&mut self, peer: usize, sequence: Sequence) {
        if let Some(apply) = self.peers[peer].incoming.find(sequence) {
            apply.entered = true;
        }
        self.run_apply(peer, sequence);
    }

    pub(super) fn apply_blocks(&self, peer: usize, sequence: Sequence) -> Blocks {
        let applies = &self.peers[peer].incoming.applies;
        let place = applies.binary_search_by_key(&sequence, |apply| apply.sequence);
        place.map_or(Blocks::new(0, 1), |place| applies[place].blocks)
    }

    pub(super) fn run_apply(&mut self, peer: usize, sequence: Sequence) {
        let session = self.peers[peer].session_id();
        let open = self.has_open_disk();
        let Some(apply) = self.peers[peer].incoming.find(sequence) else {
            return;
        };
        let (blocks, fua, resync) = (apply.blocks, apply.fua, apply.resync);
        let what = apply.what.take();
        if !open {
            apply.failed = true;
            self.forgot |= !resync && self.options.protocol == Protocol::B;
            if let Some(What::Data(payload)) = what {
                self.emit(Output::Release(payload));
            }
            return self.end_apply(peer, sequence);
        }
        let purpose = IoPurpose::Apply { peer, session, sequence };
        let runs = match what {
            Some(What::Hash(_)) => vec![blocks],
            None => Vec::new(),
            Some(What::Zero { .. }) if self.planted(Plant::ZeroOnlyHere) => Vec::new(),
            // Some of the blocks may be newer here: those stay.
            Some(_) if resync && self.peers[peer].fresh => self.marked_runs(peer, blocks),
            Some(_) => vec![blocks],
        };
        let count = u16::try_from(runs.len()).expect("a piece is 256 blocks");
        if let Some(apply) = self.peers[peer].incoming.find(sequence) {
            apply.stage = Stage::Running(count);
        }
        for run in &runs {
            let io = self.start_io(purpose);
            match &what {
                Some(What::Data(payload)) => {
                    let first = u16::try_from(run.start - blocks.start).expect("within a piece");
                    let from = Part { payload: payload.share(), first };
                    self.emit(Output::Store { io, blocks: *run, from, fua });
                }
                Some(What::Zero { discard }) => {
                    self.emit(Output::Zero { io, blocks: *run, discard: *discard, fua });
                }
                _ => {
                    let want = Want { scan: false, hash: true };
                    self.emit(Output::Fetch { io, blocks: *run, want });
                }
            }
        }
        match what {
            Some(What::Data(payload)) => self.emit(Output::Release(payload)),
            Some(What::Hash(digest)) => self.hash_asked(peer, sequence, digest),
            _ => {}
        }
        if runs.is_empty() {
            self.end_apply(peer, sequence);
        }
    }

    /// Keeps the digest until the local blocks are read.
    fn hash_asked(&mut self, peer: usize, sequence: Sequence, digest: Box<[u8; 32]>) {
        if let Some(apply) = self.peers[peer].incoming.find(sequence) {
            apply.what = Some(What::Hash(digest));
        }
    }

    pub(super) fn apply_hashed(
        &mut self,
        peer: usize,
        (session, sequence): (Session, Sequence),
        result: Result<Fetched, DiskError>,
    ) {
        let live = self.peers[peer].session == Some(session);
        let wanted = match self.peers[peer].incoming.find(sequence).and_then(|a| a.what.take()) {
            Some(What::Hash(digest)) => Some(digest),
            _ => None,
        };
        let ok = match result {
            Ok(fetched) => {
                self.emit(Output::Release(fetched.payload));
                if live {
                    let equal = fetched.digest.is_some() && fetched.digest == wanted;
                    let equal = equal || self.planted(Plant::HashAlwaysEqual);
                    if let Some(apply) = self.peers[peer].incoming.find(sequence) {
                        apply.differs = !equal;
                    }
                    self.send(peer, Frame::HashAnswer { sequence, equal });
                }
                Ok(())
            }
            Err(error) => Err(error),
        };
        self.apply_done(peer, sequence, ok);
    }

    /// A disk operation of an apply ended.
    pub(super) fn apply_done(
        &mut self,
        peer: usize,
        sequence: Sequence,
        result: Result<(), DiskError>,
    ) {
        match result {
            Ok(()) => self.applied.ended += 1,
            Err(_) => self.fail_disk(DiskLoss::WriteForPeer),
        }
        let Some(apply) = self.peers[peer].incoming.find(sequence) else {
            return;
        };
        apply.failed |= result.is_err();
        if let Stage::Running(owed) = &mut apply.stage {
            *owed -= 1;
            if *owed == 0 {
                self.end_apply(peer, sequence);
            }
        }
    }

    fn end_apply(&mut self, peer: usize, sequence: Sequence) {
        let Some(apply) = self.peers[peer].incoming.find(sequence) else {
            return;
        };
        apply.stage = Stage::Done;
        let (blocks, failed, entered) = (apply.blocks, apply.failed, apply.entered);
        let (resync, differs) = (apply.resync, apply.differs);
        if entered {
            self.log.leave(blocks);
        }
        self.unlock(Owner::Apply { peer, sequence });
        if self.peers[peer].session.is_some() && self.peers[peer].phase.takes_writes() {
            if failed {
                self.send(peer, Frame::WriteFailed { sequence });
            } else {
                if resync && !differs {
                    self.peers[peer].sync_done += blocks.count;
                }
                let target = self.peers[peer].phase == Phase::SyncTarget;
                let incoming = &mut self.peers[peer].incoming;
                if target && !differs {
                    incoming.covered.push_back((sequence, blocks));
                }
                if let Some((first, last)) = extend(&mut incoming.written, sequence) {
                    self.send(peer, Frame::Written { first, last });
                }
            }
        }
        let incoming = &mut self.peers[peer].incoming;
        while incoming.applies.front().is_some_and(|apply| apply.stage == Stage::Done) {
            incoming.applies.pop_front();
        }
        self.serve_asked(peer);
        self.pass_point(peer);
        self.go_on_with_leftovers(peer);
        self.check_settled(peer);
    }

    /// Runs of acknowledgement that the turn has collected.
    pub(super) fn send_collected(&mut self, peer: usize) {
        let incoming = &mut self.peers[peer].incoming;
        let (received, written) = (incoming.received.take(), incoming.written.take());
        if let Some((first, last)) = received {
            self.send(peer, Frame::Received { first, last });
        }
        if let Some((first, last)) = written {
            self.send(peer, Frame::Written { first, last });
        }
    }

    pub(super) fn on_barrier(&mut self, peer: usize, sequence: Sequence) {
        self.add_point(peer, Point::Barrier(sequence));
    }

    fn add_point(&mut self, peer: usize, point: Point) {
        if self.peers[peer].incoming.points.len() >= INCOMING_WRITES_MAX {
            return self.violation(peer, "more barriers than there can be writes");
        }
        self.peers[peer].incoming.points.push_back(point);
        self.pass_point(peer);
    }

    /// Makes stable what has come so far although nobody asked: this node is about to stop. Returns
    /// up to where, if there is anything.
    pub(super) fn settle_incoming(&mut self, peer: usize) -> Option<Sequence> {
        let incoming = &self.peers[peer].incoming;
        let last = incoming.last;
        if last <= incoming.stable || !self.has_open_disk() {
            return None;
        }
        self.on_barrier(peer, last);
        Some(last)
    }

    /// The end of a resync, in its place among the writes.
    pub(super) fn on_sync_done(&mut self, peer: usize, lineage: Box<Lineage>) {
        if self.peers[peer].phase != Phase::SyncTarget {
            return self.violation(peer, "the end of a resync that is not under way");
        }
        let last = self.peers[peer].incoming.last;
        self.add_point(peer, Point::End(last, lineage));
    }

    /// The beginning of a generation that the peer's disk has no part in, in its place among the writes.
    pub(super) fn reach_generation(&mut self, peer: usize, generation: Generation) {
        let incoming = &mut self.peers[peer].incoming;
        let last = incoming.last;
        incoming.acknowledged.get_or_insert(last);
        self.add_point(peer, Point::Generation(last, generation));
    }

    /// Makes stable what the next barrier covers, once it is all done.
    fn pass_point(&mut self, peer: usize) {
        let incoming = &mut self.peers[peer].incoming;
        if !incoming.syncing {
            incoming.join_barriers();
        }
        let Some(point) = incoming.points.front() else {
            return;
        };
        let sequence = point.sequence();
        let open = incoming.applies.front().is_some_and(|apply| apply.sequence <= sequence);
        if open || incoming.syncing || self.peers[peer].session.is_none() {
            return;
        }
        if !self.has_open_disk() {
            return;
        }
        self.peers[peer].incoming.syncing = true;
        let session = self.peers[peer].session_id();
        if self.planted(Plant::BarrierWithoutSync) {
            return self.barrier_synced(peer, session, true);
        }
        self.sync_disk(SyncPurpose::Barrier { peer, session });
    }

    pub(super) fn barrier_synced(&mut self, peer: usize, session: Session, ok: bool) {
        self.peers[peer].incoming.syncing = false;
        if !ok {
            self.fail_disk(DiskLoss::FlushForPeer);
        }
        if self.peers[peer].session != Some(session) || !ok {
            return self.leftovers_synced(peer, session, ok);
        }
        let Some(point) = self.peers[peer].incoming.points.pop_front() else {
            return;
        };
        let sequence = point.sequence();
        // A fence is ahead of all that came in this session.
        let incoming = &mut self.peers[peer].incoming;
        incoming.stable = incoming.stable.max(sequence);
        self.clear_covered(peer, sequence);
        self.send_collected(peer);
        match point {
            Point::Barrier(sequence) => self.send(peer, Frame::Stable { sequence }),
            Point::End(_, lineage) => self.adopt(peer, *lineage),
            Point::Generation(_, generation) => self.take_up_generation(peer, generation),
        }
        self.start_gated(peer);
        self.start_compares(peer);
        self.pass_point(peer);
    }

    /// Starts what waited for something to be stable here.
    pub(super) fn start_gated(&mut self, peer: usize) {
        let applies = self.peers[peer].incoming.applies.iter();
        let gated = applies.filter(|apply| apply.stage == Stage::Gated);
        let gated: Vec<Sequence> = gated.map(|apply| apply.sequence).collect();
        for sequence in gated {
            self.start_apply(peer, sequence);
        }
    }

    /// Blocks that are stable here have no mark any more, if marks may go.
    fn clear_covered(&mut self, peer: usize, sequence: Sequence) {
        let target = self.peers[peer].phase == Phase::SyncTarget;
        let clears = target && self.peers[peer].marks_may_go();
        let incoming = &mut self.peers[peer].incoming;
        let mut kept = VecDeque::new();
        for (covered, blocks) in incoming.covered.drain(..) {
            if covered > sequence {
                kept.push_back((covered, blocks));
            } else if clears {
                self.maps[peer].clear(blocks);
            }
        }
        incoming.covered = kept;
    }

    /// Whether a write received before is still held back on these blocks.
    pub(super) fn is_gated(&self, peer: usize, blocks: Blocks) -> bool {
        let applies = &self.peers[peer].incoming.applies;
        applies.iter().any(|apply| apply.stage == Stage::Gated && apply.blocks.overlaps(blocks))
    }

    /// Whether the peer's verify is reading here.
    pub(super) fn comparing(&self, peer: usize) -> bool {
        self.compares.iter().any(|compare| compare.peer == peer)
    }

    /// The runs of `blocks` that are marked towards a peer.
    fn marked_runs(&self, peer: usize, blocks: Blocks) -> Vec<Blocks> {
        let mut runs = Vec::new();
        let mut from = blocks.start;
        while let Some(run) = self.maps[peer].next_run(from, blocks.count) {
            if run.start >= blocks.end() {
                break;
            }
            let end = run.end().min(blocks.end());
            runs.push(Blocks::new(run.start, end - run.start));
            from = end;
            if from >= blocks.end() {
                break;
            }
        }
        runs
    }
}

const fn is_client(owner: Owner) -> bool {
    matches!(owner, Owner::Op(_))
}
