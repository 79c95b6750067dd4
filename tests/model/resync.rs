//! Owns the resync of the model: which record is durable when, on which side. Follows
//! `src/replica/sync_source.rs`, `sync_target.rs` and the end of `handshake.rs`.

use crate::rules::{Plant, Rules, Watch};
use crate::state::{BLOCKS, Phase, Sent, Stage, State, Worth};
use twinblk::format::superblock::DataState;
use twinblk::replica::reconcile::Verdict;

impl Rules {
    /// `Replica::begin_source`: a secondary makes stable what it has.
    pub(crate) fn begin_source(&self, s: &mut State, n: u8) -> bool {
        let node = &mut s.nodes[usize::from(n)];
        if node.phase != Phase::SourceWaits || node.start_sent {
            return false;
        }
        // A flush that the peer had no part in shows only where nothing else makes it stable.
        let bare = self.has(Plant::StartBeforeSync) || self.has(Plant::FlushHereOnly);
        if !node.primary && !bare {
            // `Replica::sync_source`, before it starts.
            node.sync();
        }
        node.start_sent = true;
        true
    }

    /// `Replica::all_marks_saved`: the pages are durable, the intent goes.
    pub(crate) fn all_marked(s: &mut State, n: u8) -> bool {
        let node = &mut s.nodes[usize::from(n)];
        let marked = node.phase != Phase::SourceWaits || node.start_sent;
        let source = matches!(node.phase, Phase::SourceWaits | Phase::SyncSource);
        if !node.record.all_marked || !source || !marked {
            return false;
        }
        node.save();
        node.record.pages = node.map;
        node.record.all_marked = false;
        true
    }

    /// `Replica::on_sync_start`, `target_prepared`: the copy is durably of mixed age.
    pub(crate) fn prepare(s: &mut State, n: u8, watch: &mut Watch) -> bool {
        let source = s.nodes[1 - usize::from(n)];
        let offered = source.phase == Phase::SourceWaits && source.start_sent;
        let (alive, session) = (s.is_alive(), s.session);
        let node = &mut s.nodes[usize::from(n)];
        if !alive || !offered || node.phase != Phase::TargetWaits {
            return false;
        }
        if node.verdict.is_some_and(Verdict::copies_all) {
            node.remember_meeting(session);
        }
        node.save();
        node.record.data = Worth(DataState::Inconsistent);
        node.record.sync_target = node.told_head.map(|head| (source.token, head));
        node.phase = Phase::SyncTarget;
        if let Some(write) = s.ledger.only_in(&s.nodes[usize::from(n)], &source) {
            watch.violate(format!("(a) w{write} is overwritten, and nobody gave it up"));
        }
        // A copy of mixed age is no member: rule 4 of the arbitration.
        s.ledger.alone(1 - n);
        true
    }

    /// `Replica::on_sync_ready`; each has told its marks, `send_marks` and `on_marks`.
    pub(crate) fn ready(s: &mut State, n: u8) -> bool {
        let alive = s.is_alive();
        let both = s.nodes[0].map | s.nodes[1].map;
        let target = s.nodes[1 - usize::from(n)].phase;
        let node = &s.nodes[usize::from(n)];
        if !alive || node.phase != Phase::SourceWaits || target != Phase::SyncTarget {
            return false;
        }
        s.nodes.iter_mut().for_each(|node| node.map = both);
        s.nodes[usize::from(n)].phase = Phase::SyncSource;
        true
    }

    /// `Replica::source_token_saved`, `source_synced`.
    pub(crate) fn token(s: &mut State, n: u8) -> bool {
        let session = s.session;
        let node = &mut s.nodes[usize::from(n)];
        let syncs = node.phase == Phase::SyncSource && !node.marks_may_go;
        // Its generation is saved first.
        if !syncs || node.owes_generation {
            return false;
        }
        if node.verdict.is_some_and(Verdict::copies_all) {
            node.remember_meeting(session);
        }
        node.save();
        node.record.sync_token = node.token;
        node.record.current = node.record.current.max(node.told_current);
        node.record.withdrawn = false;
        node.record.parted = false;
        node.sync();
        node.marks_may_go = true;
        true
    }

    /// `Replica::feed_resync`, `item_read`: the next marked block goes.
    pub(crate) fn copy(&self, s: &mut State, n: u8) -> bool {
        let alive = s.is_alive();
        let node = s.nodes[usize::from(n)];
        let runs = node.phase == Phase::SyncSource && node.marks_may_go && !node.done_sent;
        if !alive || !runs || Self::disk_state(s, n) < twinblk::format::frame::DiskState::UpToDate {
            return false;
        }
        let sent = |block: u8| s.stream.iter().any(|sent| sent.item && sent.block == block);
        let locked = |block: u8| node.piece.is_some_and(|piece| piece.block == block);
        let blocks = 0..u8::try_from(BLOCKS).expect("few");
        let marked = |block: &u8| node.map & (1 << block) != 0 && !sent(*block);
        let Some(block) = blocks.into_iter().find(marked) else {
            return false;
        };
        if locked(block) || !s.stream.has_room() {
            return false;
        }
        if self.has(Plant::ClearWhenSent) {
            s.nodes[usize::from(n)].map &= !(1 << block);
        }
        let value = node.disk[usize::from(block)].seen;
        s.stream.push(
            n,
            Sent {
                block,
                value,
                stage: Stage::Channel,
                item: true,
                covered: false,
                gated: false,
                orphan: false,
            },
        );
        true
    }

    /// `Replica::end_pass`: from the end on the peer may be equal to this generation.
    pub(crate) fn ends(&self, s: &mut State, n: u8) -> bool {
        if !Self::is_at_end(s, n) || self.has(Plant::NoEnd) {
            return false;
        }
        let head = s.head(s.nodes[usize::from(n)].record.lineage);
        let node = &mut s.nodes[usize::from(n)];
        if node.record.base == head || node.owes_generation {
            return false;
        }
        node.save();
        node.record.base = head;
        true
    }

    fn is_at_end(s: &State, n: u8) -> bool {
        let node = &s.nodes[usize::from(n)];
        let runs = node.phase == Phase::SyncSource && node.marks_may_go && !node.done_sent;
        runs && node.map == 0 && !s.stream.iter().any(|sent| sent.item)
    }

    /// `SyncDone` goes, in its place among the writes.
    pub(crate) fn done(&self, s: &mut State, n: u8) -> bool {
        let record = &s.nodes[usize::from(n)].record;
        let told = record.base == s.head(record.lineage) || self.has(Plant::NoEnd);
        if !Self::is_at_end(s, n) || !told || !s.is_alive() {
            return false;
        }
        s.nodes[usize::from(n)].done_sent = true;
        s.stream.before_end = s.stream.length;
        true
    }

    /// All before the end is stable here: `Replica::adopt`.
    pub(crate) fn adopt_marks(s: &mut State, n: u8) -> bool {
        let source = &s.nodes[1 - usize::from(n)];
        let (ended, alive) = (source.done_sent, s.is_alive());
        let lineage = source.record.lineage;
        let before = s.stream.iter().take(usize::from(s.stream.before_end));
        let written = before.into_iter().all(|sent| sent.stage >= Stage::Written);
        let node = &mut s.nodes[usize::from(n)];
        if !alive || !ended || !written || node.phase != Phase::SyncTarget {
            return false;
        }
        node.sync();
        node.map = 0;
        node.record.pages = 0;
        node.phase = Phase::Adopting;
        node.adopting = lineage;
        true
    }

    /// `Replica::marks_saved_for_adopt`, `adopted`.
    pub(crate) fn adopt(&self, s: &mut State, n: u8) -> bool {
        let lineage = s.nodes[usize::from(n)].adopting;
        let epoch = s.lineage(lineage).head().map_or(0, |head| head.epoch.0);
        let node = &mut s.nodes[usize::from(n)];
        if node.phase != Phase::Adopting {
            return false;
        }
        node.adopting = 0;
        let record = &mut node.record;
        record.current = record.current.max(node.told_current).max(node.granted);
        record.lineage = lineage;
        record.epoch = record.epoch.max(u8::try_from(epoch).expect("few"));
        record.data = Worth(DataState::Consistent);
        (record.sync_target, record.base, record.sync_token) = (None, None, 0);
        (record.former_primary, record.rebooted, record.parted) = (false, false, false);
        node.restarted = false;
        (record.all_marked, record.withdrawn) = (false, false);
        self.establish(s, n);
        true
    }

    /// `Replica::on_sync_adopted`.
    pub(crate) fn adopted(&self, s: &mut State, n: u8, watch: &mut Watch) -> bool {
        let target = s.nodes[1 - usize::from(n)];
        let alive = s.is_alive();
        let node = &mut s.nodes[usize::from(n)];
        let ending = node.phase == Phase::SyncSource && node.done_sent;
        if !alive || !ending || target.phase != Phase::Established {
            return false;
        }
        node.save();
        let record = &mut node.record;
        (record.base, record.sync_token, record.all_marked) = (None, 0, false);
        (record.former_primary, record.rebooted) = (false, false);
        node.restarted = false;
        if !node.primary && node.promoting.is_none() {
            record.log_live = false;
        }
        self.establish(s, n);
        let [a, b] = s.nodes.map(|node| node.to_be());
        for block in 0..BLOCKS {
            let busy = s.stream.iter().any(|sent| usize::from(sent.block) == block);
            if a[block] != b[block] && !busy {
                let (a, b) = (a[block], b[block]);
                watch.violate(format!("(b) after a resync block {block} is w{a} and w{b}"));
            }
        }
        true
    }
}
