//! Owns bringing a peer up to date from here: which blocks, in what order, how many at once.
//! Must never take a mark off before the peer's copy is stable, nor send a block while it changes.

use super::disk_loss::DiskLoss;
use super::event::{DiskError, Fetched, Output, Part, Want};
use super::peer::Phase;
use super::range_lock::Mode;
use super::reconcile::Verdict;
use super::status::Pace;
use super::stream::Sent;
use super::{IoPurpose, Owner, Replica, SyncPurpose};
use crate::buffer::Payload;
use crate::format::frame::{DiskState, Frame, Role};
use crate::limits::{RESYNC_PIECE_BLOCKS, RESYNC_WINDOW_SERVED, UNSTABLE_HELD_MAX};
use crate::plant::Plant;
use crate::units::{Blocks, Nanos, Sequence};
use slab::Slab;

/// One run of blocks on its way to the target.
#[derive(Debug)]
struct Item {
    blocks: Blocks,
    payload: Option<Payload>,
    /// Of the hash that was sent.
    hashed: Option<Sequence>,
    locked: bool,
    /// Among those in flight.
    counted: bool,
}

/// A resync from here.
#[derive(Debug)]
pub(super) struct Source {
    token: u64,
    /// The target knows nothing of this node's marks: all blocks go.
    full: bool,
    ready: bool,
    /// The slot carries the token.
    durable: bool,
    /// What this node held when it began is stable here.
    stable: bool,
    cursor: u64,
    items: Slab<Item>,
    /// Items not yet written by the target.
    in_flight: usize,
    /// The slot's base is durably the newest generation, or was not changed.
    end_durable: bool,
    done_sent: bool,
}

impl Source {
    pub(super) fn new(token: u64, full: bool) -> Self {
        Self {
            token,
            full,
            ready: false,
            durable: false,
            stable: false,
            cursor: 0,
            items: Slab::new(),
            in_flight: 0,
            end_durable: true,
            done_sent: false,
        }
    }

    pub(super) const fn token(&self) -> u64 {
        self.token
    }

    /// The slot carries the token, and a mark that goes is of a block that is stable here too.
    pub(super) const fn marks_may_go(&self) -> bool {
        self.durable && self.stable
    }
}

impl Replica {
    /// The target's copy is durably of mixed age: writes are mirrored from here on, and marks told.
    pub(super) fn on_sync_ready(&mut self, peer: usize, token: u64) {
        let fits = self.peers[peer].source.as_ref().is_some_and(|source| source.token == token);
        if self.peers[peer].phase != Phase::SourceWaits || !fits {
            return self.violation(peer, "readiness for a resync that was not offered");
        }
        let session = self.peers[peer].session_id();
        if self.peers[peer].verdict.is_some_and(Verdict::copies_all) {
            self.remember_meeting(peer);
        }
        let found = &mut self.peers[peer];
        found.phase = Phase::SyncSource;
        found.deadline = Nanos::NEVER;
        found.disk = Some(DiskState::Inconsistent);
        found.marks_to_send = Some(0);
        found.pace = Pace::begun(self.now);
        (found.sync_done, found.sync_total) = (0, self.maps[peer].marked());
        // The operator's word to give the copy here up was not for after it was lent.
        found.discard_my_data &= found.role != Some(Role::Primary);
        if let Some(source) = &mut found.source {
            source.ready = true;
        }
        self.note_peer(peer, "a resync from here begins");
        let slot = &mut self.superblock.slots[peer];
        slot.sync_token = token;
        slot.withdrawn = false;
        self.superblock.parted = false;
        // The copy here is the current one, in whatever epoch the other was: that lasts if the peer dies.
        self.superblock.current = self.current_with(peer);
        self.save(super::persist::After::SourceToken { peer, session });
        if self.has_open_disk() {
            self.sync_disk(SyncPurpose::Source { peer, session });
        }
        self.tell_pause(peer);
        self.resend_owed(peer);
        self.send_marks(peer);
    }

    pub(super) fn source_token_saved(&mut self, peer: usize, session: crate::units::Session) {
        if self.peers[peer].session != Some(session) {
            return self.check_settled(peer);
        }
        if let Some(source) = &mut self.peers[peer].source {
            source.durable = true;
        }
        self.feed_resync(peer);
    }

    /// What this node wrote before, perhaps in a former life of the process, survives a power cut.
    pub(super) fn source_synced(&mut self, peer: usize, session: crate::units::Session, ok: bool) {
        if !ok {
            return self.fail_disk(DiskLoss::Flush);
        }
        if self.peers[peer].session != Some(session) {
            return;
        }
        if self.peers[peer].phase == Phase::SourceWaits {
            return self.start_source(peer);
        }
        if let Some(source) = &mut self.peers[peer].source {
            source.stable = true;
            self.feed_resync(peer);
        }
    }

    pub(super) fn source_end_saved(&mut self, peer: usize, session: crate::units::Session) {
        if self.peers[peer].session != Some(session) {
            return self.check_settled(peer);
        }
        if let Some(source) = &mut self.peers[peer].source {
            source.end_durable = true;
        }
        self.feed_resync(peer);
    }

    /// Tells the peer this node's marks, a few pages per turn.
    pub(super) fn send_marks(&mut self, peer: usize) {
        let Some(mut page) = self.peers[peer].marks_to_send else {
            return;
        };
        let full = self.peers[peer].source.as_ref().is_some_and(|source| source.full);
        if full && page == 0 {
            self.send(peer, Frame::MarksAll);
            page = u32::MAX;
        }
        let mut sent = 0;
        while page < self.maps[peer].pages() && sent < 64 {
            let words = self.maps[peer].page(page);
            let unsent = self.planted(Plant::MarksUntold) && self.peers[peer].source.is_none();
            if words.iter().any(|word| *word != 0) && !unsent {
                let words = words.to_vec().into_boxed_slice();
                self.send(peer, Frame::Marks { page, words });
                sent += 1;
            }
            page += 1;
        }
        if page >= self.maps[peer].pages() {
            self.peers[peer].marks_to_send = None;
            self.send(peer, Frame::MarksDone);
        } else {
            self.peers[peer].marks_to_send = Some(page);
        }
    }

    /// The peer has told all its marks: both know the same ones.
    pub(super) fn on_marks_done(&mut self, peer: usize) {
        if !self.peers[peer].phase.clears_marks() {
            return self.violation(peer, "marks out of turn");
        }
        self.peers[peer].marks_heard = true;
        self.peers[peer].sync_total = self.maps[peer].marked() + self.peers[peer].sync_done;
        self.feed_resync(peer);
        self.retry_parked();
    }

    pub(super) fn on_marks(&mut self, peer: usize, page: Option<u32>, words: &[u64]) {
        if !self.peers[peer].phase.clears_marks() {
            return self.violation(peer, "marks out of turn");
        }
        match page {
            Some(page) => self.maps[peer].merge_page(page, words),
            None => self.maps[peer].mark_all(),
        }
    }

    /// Starts as many items as the pace allows; ends the resync when nothing is left.
    pub(super) fn feed_resync(&mut self, peer: usize) {
        loop {
            let found = &self.peers[peer];
            let Some(source) = &found.source else { return };
            let paused = found.paused_here || found.paused_there;
            if found.phase != Phase::SyncSource || !source.ready || !source.marks_may_go() {
                return;
            }
            if !found.marks_heard || paused || source.done_sent {
                return;
            }
            if self.disk != DiskState::UpToDate {
                return;
            }
            let served = found.role == Some(Role::Primary);
            let most = if served { RESYNC_WINDOW_SERVED } else { usize::MAX };
            let window = self.pacer.window().min(most);
            // Written pieces count no more, but the peer remembers each until it is stable there. The other
            // half is for clients.
            let unstable = found.out.sent.len() >= UNSTABLE_HELD_MAX / 2;
            if unstable || source.in_flight >= window || !self.pacer.may_send(self.now) {
                return;
            }
            let Some(blocks) = self.maps[peer].next_run(source.cursor, RESYNC_PIECE_BLOCKS) else {
                return self.end_pass(peer);
            };
            self.start_item(peer, blocks);
        }
    }

    /// Every marked block has been sent once: what is still marked then is not yet stable there,
    /// or was marked since.
    fn end_pass(&mut self, peer: usize) {
        let Some(source) = &mut self.peers[peer].source else {
            return;
        };
        let reading = !source.items.is_empty();
        if reading || self.peers[peer].out.sent.iter().any(|sent| sent.item.is_some()) {
            return self.ask_barrier(peer);
        }
        if self.maps[peer].marked() > 0 {
            if !self.peers[peer].out.sent.is_empty() {
                return self.ask_barrier(peer);
            }
            let Some(source) = &mut self.peers[peer].source else {
                return;
            };
            if source.cursor > 0 {
                source.cursor = 0;
                return self.feed_resync(peer);
            }
            return;
        }
        let head = self.superblock.lineage.head();
        let slot = &mut self.superblock.slots[peer];
        let told = slot.base == head;
        let Some(source) = &mut self.peers[peer].source else {
            return;
        };
        if !told {
            // From the next frame on the peer may be equal to this generation: a write it misses
            // after that belongs to another one, also if this node stops in between.
            slot.base = head;
            source.end_durable = false;
            let session = self.peers[peer].session_id();
            return self.save(super::persist::After::SourceEnds { peer, session });
        }
        if !source.end_durable {
            return;
        }
        source.done_sent = true;
        let lineage = Box::new(self.superblock.lineage.clone());
        self.send(peer, Frame::SyncDone { lineage });
    }

    fn start_item(&mut self, peer: usize, blocks: Blocks) {
        self.pacer.sent(self.now, blocks.length_bytes());
        let locked = !self.planted(Plant::ResyncUnlocked);
        let Some(source) = &mut self.peers[peer].source else {
            return;
        };
        source.cursor = blocks.end();
        source.in_flight += 1;
        let item = Item { blocks, payload: None, hashed: None, locked, counted: true };
        let item = source.items.insert(item);
        self.peers[peer].sync_done += blocks.count;
        if !locked || self.locks.acquire(Owner::Item { peer, item }, blocks, Mode::Exclusive) {
            self.item_locked(peer, item);
        }
    }

    pub(super) fn item_locked(&mut self, peer: usize, item: usize) {
        let Some(source) = &self.peers[peer].source else {
            return;
        };
        let blocks = source.items[item].blocks;
        let session = self.peers[peer].session_id();
        let want = Want { scan: true, hash: self.options.resync.checksum };
        let io = self.start_io(IoPurpose::Item { peer, session, item });
        self.emit(Output::Fetch { io, blocks, want });
    }

    /// The blocks of an item, as they are while nobody can change them.
    pub(super) fn item_read(
        &mut self,
        peer: usize,
        item: usize,
        result: Result<Fetched, DiskError>,
    ) {
        let Some(source) = &mut self.peers[peer].source else {
            return;
        };
        let blocks = source.items[item].blocks;
        let Ok(fetched) = result else {
            self.item_stable(peer, item);
            return self.fail_disk(DiskLoss::ReadForResync);
        };
        let sequence = self.next_sequence();
        let sent = Sent::of_item(sequence, blocks, item);
        if fetched.zero {
            self.send_sequenced(peer, sent, Frame::ResyncZero { sequence, blocks }, None);
            self.emit(Output::Release(fetched.payload));
            self.unlock_item(peer, item);
        } else if let Some(digest) = fetched.digest {
            let Some(source) = &mut self.peers[peer].source else {
                return;
            };
            source.items[item].payload = Some(fetched.payload);
            source.items[item].hashed = Some(sequence);
            let frame = Frame::ResyncHash { sequence, blocks, digest };
            let sent = Sent { asks: true, clears: false, ..sent };
            self.send_sequenced(peer, sent, frame, None);
        } else {
            self.send_item_data(peer, sent, fetched.payload);
            self.unlock_item(peer, item);
        }
    }

    fn send_item_data(&mut self, peer: usize, sent: Sent, payload: Payload) {
        let part = Part { payload: payload.share(), first: 0 };
        let Sent { sequence, blocks, .. } = sent;
        if self.planted(Plant::ClearWhenSent) {
            self.maps[peer].clear(blocks);
        }
        self.send_sequenced(peer, sent, Frame::ResyncData { sequence, blocks }, Some(part));
        self.emit(Output::Release(payload));
    }

    /// Equal: the range stays locked, unless the target is primary, until a flush on the target that began
    /// after its read.
    /// Different: the blocks go.
    pub(super) fn on_hash_answer(&mut self, peer: usize, sequence: Sequence, equal: bool) {
        let Some(source) = &mut self.peers[peer].source else {
            return;
        };
        let hashed = source.items.iter_mut().find(|(_, item)| item.hashed == Some(sequence));
        let Some((key, item)) = hashed else { return };
        item.hashed = None;
        let (blocks, payload) = (item.blocks, item.payload.take());
        let sent = &mut self.peers[peer].out.sent;
        if let Some(sent) = sent.iter_mut().find(|sent| sent.sequence == sequence) {
            sent.asks = false;
            sent.clears = equal;
            sent.item = equal.then_some(key);
        }
        match payload {
            Some(payload) if !equal => {
                let sequence = self.next_sequence();
                self.send_item_data(peer, Sent::of_item(sequence, blocks, key), payload);
                self.unlock_item(peer, key);
            }
            payload => {
                self.release(payload);
                self.uncount_item(peer, key);
                if self.peers[peer].role == Some(Role::Primary) {
                    // Only its clients write here, in its order; and that flush may wait for one of them.
                    self.unlock_item(peer, key);
                }
            }
        }
        let stable = self.peers[peer].out.stable;
        self.on_stable(peer, stable);
        self.ask_barrier(peer);
    }

    pub(super) fn item_written(&mut self, peer: usize, item: usize) {
        let Some(source) = &self.peers[peer].source else {
            return;
        };
        if source.items.get(item).is_some_and(|item| item.hashed.is_none()) {
            self.uncount_item(peer, item);
        }
    }

    fn uncount_item(&mut self, peer: usize, item: usize) {
        let Some(source) = &mut self.peers[peer].source else {
            return;
        };
        if source.items.get_mut(item).is_some_and(|item| std::mem::take(&mut item.counted)) {
            source.in_flight -= 1;
        }
    }

    pub(super) fn item_stable(&mut self, peer: usize, item: usize) {
        self.unlock_item(peer, item);
        self.uncount_item(peer, item);
        let Some(source) = &mut self.peers[peer].source else {
            return;
        };
        if let Some(item) = source.items.try_remove(item) {
            self.release(item.payload);
        }
    }

    fn unlock_item(&mut self, peer: usize, item: usize) {
        let Some(source) = &mut self.peers[peer].source else {
            return;
        };
        let Some(found) = source.items.get_mut(item) else {
            return;
        };
        if std::mem::take(&mut found.locked) {
            self.unlock(Owner::Item { peer, item });
        }
    }

    /// The target has all and says so durably.
    pub(super) fn on_sync_adopted(&mut self, peer: usize) {
        if self.peers[peer].phase == Phase::Idle {
            return; // Its disk failed right after; that word came first.
        }
        let ending = self.peers[peer].source.as_ref().is_some_and(|source| source.done_sent);
        if self.peers[peer].phase != Phase::SyncSource || !ending {
            return self.violation(peer, "the end of a resync that is not under way");
        }
        let slot = &mut self.superblock.slots[peer];
        slot.base = None;
        slot.sync_token = 0;
        slot.all_marked = false;
        self.superblock.former_primary = false;
        self.superblock.rebooted = false;
        self.forgot = false;
        let secondary = self.role == Role::Secondary && self.promoting.is_none();
        if secondary && !self.peers.iter().any(|peer| peer.needs_marks_here) {
            // What was written here for a peer without a disk is there now, and stable here.
            self.superblock.log_live = false;
        }
        self.save(super::persist::After::Nothing);
        let found = &mut self.peers[peer];
        found.last_sync_blocks = found.sync_done;
        found.source = None;
        self.save_pages(super::persist::PagesJob::All(super::persist::AfterPages::Nothing));
        self.establish(peer, "the peer is up to date");
    }

    /// The session is over in the middle of it.
    pub(super) fn drop_source(&mut self, peer: usize) {
        let Some(mut source) = self.peers[peer].source.take() else {
            return;
        };
        for (key, item) in std::mem::take(&mut source.items) {
            if item.locked {
                self.unlock(Owner::Item { peer, item: key });
            }
            self.release(item.payload);
        }
    }
}
