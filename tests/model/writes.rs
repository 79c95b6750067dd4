//! Owns the life of a client's write: log, generation, stream, acknowledgement, flush, and what is
//! marked when the peer is lost. Each step names the function of `src/replica` that it follows.

use crate::rules::{Plant, Rules};
use crate::state::{Begun, Phase, Piece, Sent, Stage, State};
use twinblk::format::frame::Protocol;

impl Rules {
    /// `Replica::issue`, after `enter_log`: the extent is hot, durably, before anything else.
    pub(crate) fn write(&self, s: &mut State, n: u8, block: u8) -> bool {
        let node = &mut s.nodes[usize::from(n)];
        let serves = node.primary && node.piece.is_none();
        // `Replica::write_hold`: nobody writes while the nodes negotiate.
        let first = s.ledger.is_empty() && block > 0;
        // The blocks are alike: the first write goes to the first.
        if first || !serves || node.negotiates() || s.left.writes == 0 || !s.stream.has_room() {
            return false;
        }
        s.left.writes -= 1;
        node.record.hot |= 1 << block;
        let value = s.ledger.begin(block, node.disk[usize::from(block)].seen);
        let mirrors = node.mirrors();
        let owed_peer = mirrors && self.protocol != Protocol::A;
        node.piece = Some(Piece { block, value, owed_here: true, owed_peer });
        if mirrors {
            // `Replica::mirror`, with `Outgoing::unstable_up_to`.
            let gated = s.stream.iter().any(|sent| sent.covered);
            s.stream.push(
                n,
                Sent {
                    block,
                    value,
                    stage: Stage::Channel,
                    item: false,
                    covered: false,
                    gated,
                    orphan: false,
                },
            );
        } else {
            self.miss(s, n, block);
        }
        true
    }

    /// `Replica::miss`.
    fn miss(&self, s: &mut State, n: u8, block: u8) {
        s.nodes[usize::from(n)].map |= 1 << block;
        self.need_generation(s, n);
    }

    /// `Replica::need_generation`: begun in memory; [`Self::generation`] makes it durable.
    fn need_generation(&self, s: &mut State, n: u8) {
        if self.has(Plant::NoGeneration) {
            return;
        }
        let node = &s.nodes[usize::from(n)];
        let head = s.head(node.record.lineage);
        let own = s.lineage(node.record.lineage).head().is_some_and(|it| it.node.0 == n);
        let base = node.record.base;
        let needs = base.is_none() || base == head || !own;
        s.nodes[usize::from(n)].owes_generation |= needs;
    }

    /// `Replica::begin_generation` and its save.
    pub(crate) fn begin_generation(&self, s: &mut State, n: u8) -> bool {
        if s.left.generations == 0 {
            return false;
        }
        s.left.generations -= 1;
        let node = &mut s.nodes[usize::from(n)];
        node.save();
        node.record.epoch += 1;
        let epoch = node.record.epoch;
        let (mask, mirrors) = (node.record.lineage, node.mirrors());
        let base = s.head(mask);
        let place = s.new_generation(Begun { epoch, node: n });
        let mut lineage = s.lineage(mask);
        lineage.begin(s.generation(place));
        debug_assert_eq!(lineage, s.lineage(mask | 1 << place), "a mask is a lineage");
        let record = &mut s.nodes[usize::from(n)].record;
        record.lineage = mask | 1 << place;
        if record.base.is_none() && !mirrors {
            record.base = base;
        }
        s.ledger.alone(n);
        true
    }

    pub(crate) fn generation(&self, s: &mut State, n: u8) -> bool {
        let node = &s.nodes[usize::from(n)];
        if !node.owes_generation || !self.begin_generation(s, n) {
            return false;
        }
        s.nodes[usize::from(n)].owes_generation = false;
        true
    }

    /// `Replica::piece_stored`.
    pub(crate) fn store(s: &mut State, n: u8) -> bool {
        let node = &mut s.nodes[usize::from(n)];
        let Some(piece) = node.piece.filter(|piece| piece.owed_here) else {
            return false;
        };
        node.put(piece.block, piece.value);
        node.piece = Some(Piece { owed_here: false, ..piece });
        true
    }

    /// `Replica::on_received` under B, `on_written` under C.
    pub(crate) fn hear(&self, s: &mut State, n: u8) -> bool {
        let alive = s.is_alive();
        let node = &mut s.nodes[usize::from(n)];
        let Some(piece) = node.piece.filter(|piece| alive && piece.owed_peer) else {
            return false;
        };
        let least = if self.protocol == Protocol::B { Stage::Received } else { Stage::Written };
        let its = |sent: &&Sent| sent.value == piece.value && !sent.item;
        // What is not there any more is stable.
        if s.stream.iter().find(its).is_some_and(|sent| sent.stage < least) {
            return false;
        }
        node.piece = Some(Piece { owed_peer: false, ..piece });
        true
    }

    /// `Replica::settle_piece`.
    pub(crate) fn acknowledge(&self, s: &mut State, n: u8) -> bool {
        let early = self.has(Plant::EarlyAcknowledgement);
        let peer = s.nodes[1 - usize::from(n)];
        let node = &mut s.nodes[usize::from(n)];
        let Some(piece) = node.piece else {
            return false;
        };
        if piece.owed_here || piece.owed_peer || (node.owes_generation && !early) {
            return false;
        }
        node.piece = None;
        // Whoever was waited for is a member, as long as the primary has not gone on without it.
        let received = |sent: &Sent| sent.value == piece.value && sent.stage >= Stage::Received;
        let has = peer.disk[usize::from(piece.block)].may & 1 << piece.value != 0;
        let waited = self.protocol != Protocol::A && (has || s.stream.iter().any(received));
        let whole = s.nodes.iter().all(|node| node.phase == Phase::Established);
        let member = waited && whole;
        let holders = 1 << n | u8::from(member) << (1 - n);
        s.ledger.acknowledge(piece.value, holders);
        true
    }

    /// `Replica::on_flush` and `check_flushes`, in one: what is not covered waits.
    pub(crate) fn flush(&self, s: &mut State, n: u8) -> bool {
        let node = &mut s.nodes[usize::from(n)];
        let quiet = node.piece.is_none() && !node.owes_generation;
        if !node.primary || !quiet || !s.ledger.can_flush(node) {
            return false;
        }
        let waits = self.protocol == Protocol::C && !self.has(Plant::FlushHereOnly);
        let owed = s.stream.iter().any(|sent| !sent.orphan);
        if node.mirrors() {
            if waits && owed {
                return false;
            }
        } else if node.unflushed && node.negotiates() && !self.has(Plant::FlushWhileMeeting) {
            return false;
        } else if std::mem::take(&mut node.unflushed) {
            // `Replica::leave_unflushed_behind`.
            self.need_generation(s, n);
            if s.nodes[usize::from(n)].owes_generation {
                return true; // It is answered after that.
            }
        }
        s.nodes[usize::from(n)].sync();
        s.ledger.flush(&s.nodes[usize::from(n)]);
        s.stream.iter_mut().for_each(|sent| sent.covered = true);
        true
    }

    /// `HotExtents::plan` lets go of an extent for another; first `relieve_log` makes all stable,
    /// and the pages of its marks are saved.
    pub(crate) fn cool(&self, s: &mut State, n: u8, block: u8) -> bool {
        let node = &mut s.nodes[usize::from(n)];
        let hot = node.record.hot & 1 << block != 0;
        let used = node.piece.is_some_and(|piece| piece.block == block);
        let sent = s.stream.iter().any(|sent| sent.block == block && !sent.orphan);
        if !node.primary || !hot || used || sent || s.left.saves == 0 {
            return false;
        }
        s.left.saves -= 1;
        node.sync();
        node.record.hot &= !(1 << block);
        if !self.has(Plant::NoLogPages) {
            node.record.pages = node.map;
        }
        true
    }

    /// Pages saved now and then while a resync runs, and after it.
    pub(crate) fn save_pages(s: &mut State, n: u8) -> bool {
        let node = &mut s.nodes[usize::from(n)];
        // After the end of a resync nothing but time keeps them back.
        let waits = node.phase != Phase::Established && s.left.saves == 0;
        if !node.mirrors() || node.record.pages == node.map || waits {
            return false;
        }
        if node.phase != Phase::Established {
            s.left.saves -= 1;
        }
        node.record.pages = node.map;
        true
    }

    /// `Replica::on_write_frame`, `on_resync_frame`: the next of the stream comes.
    pub(crate) fn deliver(&self, s: &mut State) -> bool {
        if !s.is_alive() {
            return false;
        }
        let adopted = s.nodes[usize::from(s.stream.sender)].phase == Phase::Established;
        let receiver = &mut s.nodes[1 - usize::from(s.stream.sender)];
        // What was sent before, the end of a meeting or of a resync, comes first.
        if !receiver.mirrors() || (adopted && receiver.phase == Phase::SyncSource) {
            return false;
        }
        let waiting = s.stream.iter().any(|sent| sent.stage == Stage::Received);
        let Some(next) = s.stream.iter_mut().find(|sent| sent.stage == Stage::Channel) else {
            return false;
        };
        if self.protocol == Protocol::B && !next.item {
            next.stage = Stage::Received;
            return true;
        }
        // Writes to one block keep their order: an item waits for what came before.
        if waiting {
            return false;
        }
        if next.gated {
            receiver.sync();
        }
        receiver.put(next.block, next.value);
        next.stage = Stage::Written;
        true
    }

    /// `Replica::start_apply`, and `go_on_with_leftovers` once the session is over.
    pub(crate) fn apply_received(s: &mut State) -> bool {
        let receiver = &mut s.nodes[1 - usize::from(s.stream.sender)];
        let Some(next) = s.stream.iter_mut().find(|sent| sent.stage == Stage::Received) else {
            return false;
        };
        if next.gated {
            receiver.sync();
        }
        receiver.put(next.block, next.value);
        next.stage = Stage::Written;
        s.stream.drop_if(|sent| sent.orphan && sent.stage == Stage::Written);
        true
    }

    /// `Replica::on_written` under A: it decides whether a loss needs a generation.
    pub(crate) fn hear_written(&self, s: &mut State) -> bool {
        if self.protocol != Protocol::A || !s.is_alive() {
            return false;
        }
        let written = s.stream.iter_mut().filter(|sent| sent.stage == Stage::Written);
        written.map(|sent| sent.stage = Stage::Heard).count() > 0
    }

    /// A barrier is answered and heard: `pass_point`, `barrier_synced`, `on_stable`.
    pub(crate) fn barrier(&self, s: &mut State) -> bool {
        if !s.is_alive() || !self.stable_there(s) {
            return false;
        }
        let count = s.stream.iter().take_while(|sent| sent.stage >= Stage::Written).count();
        let sender = &mut s.nodes[usize::from(s.stream.sender)];
        let clears = sender.phase == Phase::SyncSource && sender.marks_may_go;
        let stable: Vec<u8> = s.stream.iter().take(count).map(|sent| sent.block).collect();
        if clears {
            stable.iter().for_each(|block| sender.map &= !(1 << block));
        }
        // Written was heard before.
        let told = |piece: Piece| s.stream.iter().take(count).any(|it| it.value == piece.value);
        if let Some(piece) = sender.piece.filter(|piece| told(*piece)) {
            sender.piece = Some(Piece { owed_peer: false, ..piece });
        }
        s.stream.drop_first(count);
        true
    }

    /// The receiver's part of it; false if nothing of the stream is written.
    pub(crate) fn stable_there(&self, s: &mut State) -> bool {
        let receiver = &mut s.nodes[1 - usize::from(s.stream.sender)];
        let written = s.stream.iter().take_while(|sent| sent.stage >= Stage::Written);
        let blocks: Vec<u8> = written.map(|sent| sent.block).collect();
        if blocks.is_empty() {
            return false;
        }
        receiver.sync();
        if receiver.phase == Phase::SyncTarget {
            // `Replica::clear_covered`.
            blocks.iter().for_each(|block| receiver.map &= !(1 << block));
        }
        true
    }

    /// `Replica::lose_stream`: marks stand for what is not stable there.
    pub(crate) fn lose_stream(&self, s: &mut State, n: u8) {
        if s.stream.sender != n {
            return;
        }
        let lost: Vec<Sent> = s.stream.iter().filter(|sent| !sent.orphan).copied().collect();
        // Under B, what has been received is written all the same: `Replica::drop_incoming`.
        s.stream.drop_if(|sent| sent.stage != Stage::Received);
        s.stream.iter_mut().for_each(|sent| sent.orphan = true);
        let node = &mut s.nodes[usize::from(n)];
        if !self.has(Plant::ForgetUnstable) {
            let early = self.has(Plant::ClearWhenSent);
            let marked = lost.iter().filter(|sent| !sent.item || !early);
            marked.for_each(|sent| node.map |= 1 << sent.block);
        }
        node.unflushed |= lost.iter().any(|sent| !sent.item);
        if !node.primary {
            return;
        }
        if let Some(piece) = node.piece.filter(|piece| piece.owed_peer) {
            // `Replica::miss_owed`.
            node.piece = Some(Piece { owed_peer: false, ..piece });
            self.miss(s, n, piece.block);
        }
        let told = |sent: &Sent| !sent.item && sent.stage < Stage::Heard;
        if self.protocol == Protocol::A && lost.iter().any(told) {
            self.need_generation(s, n);
        }
    }
}
