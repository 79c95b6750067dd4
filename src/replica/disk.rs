//! Owns the local disk's life: opened and recovered, lost, let go of, taken back.
//! Must never let a disk serve again without a resync if it may lack what it had completed, or if
//! anything was written without it.

use super::Replica;
use super::dirty_map::DirtyMap;
use super::disk_loss::{DiskLoss, LetGo};
use super::event::{CommandId, DiskImage, Output};
use super::hot_extents::{HotExtents, blocks_of};
use super::peer::Phase;
use super::persist::{After, AfterPages, PagesJob};
use crate::format::extent_log::{LogImage, window_for};
use crate::format::frame::{DiskState, Frame, Role};
use crate::format::lineage::Generation;
use crate::format::superblock::DataState;
use crate::plant::Plant;

/// The local disk as a resource of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiskPhase {
    Absent,
    Opening,
    /// Its records are read, and are being brought up to what this life begins with. Nothing but
    /// metadata is read or written.
    Recovering,
    Open,
    /// Failed or let go; operations still end.
    Closing,
}

/// Nothing is acknowledged until a peer has begun this generation: it alone has a disk now.
#[derive(Debug)]
pub(super) struct Freeze {
    pub(super) generation: Generation,
    pub(super) base: Option<Generation>,
    /// What the disk may have as its newest generation instead of `base`.
    pub(super) doubted: Option<Generation>,
    /// The disk was current and kept all it had acknowledged: if it comes back before a peer has
    /// taken note, nothing was written without it.
    whole: bool,
    /// It has come back so: whether a peer took note is of no account any more.
    pub(super) back: bool,
}

impl Freeze {
    /// What peers are asked to begin before `generation`, as the disk may have begun it.
    pub(super) fn asked_first(&self) -> Option<Generation> {
        self.doubted.filter(|it| self.base.is_none_or(|base| it.epoch > base.epoch))
    }
}

impl Replica {
    /// Metadata can be written, so what must be durable can be.
    pub(super) fn has_metadata(&self) -> bool {
        matches!(self.disk_phase, DiskPhase::Recovering | DiskPhase::Open)
    }

    /// Data can be read and written: what the disk is worth is on record.
    pub(super) fn has_open_disk(&self) -> bool {
        self.disk_phase == DiskPhase::Open
    }

    pub(super) fn open_disk(&mut self, fresh: bool, command: Option<CommandId>) {
        self.disk_phase = DiskPhase::Opening;
        self.opening_for = command;
        // A peer with data knows how large the device is, also if this node never had a disk.
        let told = |peer: &super::peer::Peer| {
            let theirs = peer.their_state.as_ref()?;
            let whole = theirs.disk >= DiskState::Inconsistent && theirs.lineage.head().is_some();
            (whole && theirs.device_blocks > 0).then_some(theirs.device_blocks)
        };
        let device_blocks = self.peers.iter().find_map(told).unwrap_or(self.device_blocks);
        self.emit(Output::OpenDisk { fresh, device_blocks });
    }

    pub(super) fn on_disk_opened(&mut self, result: Result<Box<DiskImage>, String>) {
        if self.disk_phase != DiskPhase::Opening {
            return;
        }
        match result {
            Ok(_) if self.stopping.is_some() => {
                self.disk_phase = DiskPhase::Closing;
                self.emit(Output::CloseDisk);
                self.disk_reason = "the daemon stops".to_owned();
                self.start_failed();
            }
            Ok(image) => self.recover(*image),
            Err(why) => {
                self.disk_phase = DiskPhase::Absent;
                // A sync is part of it: what had not been stable may be gone, and the next one may not
                // say so again.
                self.loses_unflushed();
                self.note("disk", "Diskless", "Diskless", &why);
                self.disk_reason.clone_from(&why);
                if let Some(id) = self.opening_for.take() {
                    self.refuse_command(id, "disk-not-opened", &why);
                }
                self.dial_all();
                (0..self.peers.len()).for_each(|peer| self.check_settled(peer));
            }
        }
    }

    /// Takes over what the disk records. What may differ after a crash is marked and saved before
    /// the log that says so is used again.
    fn recover(&mut self, image: DiskImage) {
        let back = self.role == Role::Primary && self.comes_back_whole(&image);
        let same = self.is_the_one_let_go(&image);
        if let Some(freeze) = &mut self.freezing {
            freeze.back = back;
        }
        if let Some(freeze) = self.freezing.as_mut().filter(|_| same) {
            let head = image.superblock.lineage.head();
            if head.is_some() && head == freeze.doubted && Some(freeze.generation) != head {
                // The generation that was begun last never came to it: nothing was served in that.
                let newer = |base: Generation| head.is_some_and(|head| head.epoch < base.epoch);
                if freeze.base.is_some_and(newer) {
                    (freeze.base, self.served) = (head, head);
                }
            }
        }
        let known = std::mem::replace(&mut self.superblock, image.superblock);
        let superblock = &mut self.superblock;
        if superblock.lineage.head().is_none() && known.lineage.head().is_some() {
            superblock.resource = known.resource;
        }
        superblock.epoch = superblock.epoch.max(known.epoch);
        superblock.former_primary |= superblock.primary;
        superblock.parted |= known.parted && known.area == superblock.area;
        superblock.rebooted |= superblock.boot != image.boot;
        superblock.rebooted |= self.let_go.forgot;
        if self.let_go.forgot {
            self.applied.forgetting = self.random.draw();
        }
        if self.let_go.lost
            && self.role == Role::Secondary
            && superblock.data == DataState::Consistent
        {
            // It may lack what it had acknowledged, also what it served alone.
            superblock.data = DataState::Outdated;
        }
        superblock.boot = image.boot;
        self.forgot |= superblock.run.0 != 0 && superblock.run != image.run;
        superblock.run = image.run;
        for (slot, peer) in superblock.slots.iter_mut().zip(&self.peers) {
            slot.in_use = true;
            slot.node = peer.node;
        }
        self.device_blocks = superblock.geometry.device_blocks;
        let device = self.device_blocks;
        let maps = image.bitmaps.into_iter().take(self.peers.len());
        self.maps = maps.map(|words| DirtyMap::new(words, device)).collect();
        for (map, pages) in self.maps.iter_mut().zip(&image.bad_pages) {
            pages.iter().for_each(|page| map.touch(*page as usize));
        }
        self.log = HotExtents::new(&image.log, self.superblock.geometry.log_extents);
        self.local = super::stream::LocalStream::default();
        self.local.start_at(self.sequence);
        self.mark_recovered(&image.log);
        if self.role == Role::Secondary || back {
            for (peer, map) in self.peers.iter_mut().zip(&self.maps) {
                peer.lacks_shown |= map.marked() > 0;
            }
        }
        self.mark_running_pieces();
        self.disk_phase = DiskPhase::Recovering;
        self.save_pages(PagesJob::All(AfterPages::Start));
    }

    fn is_the_one_let_go(&self, image: &DiskImage) -> bool {
        let disk = &image.superblock;
        disk.resource == self.superblock.resource && disk.run == self.superblock.run
    }

    /// Whether the disk is the very one that was let go, and no write was acknowledged without it.
    fn comes_back_whole(&self, image: &DiskImage) -> bool {
        let disk = &image.superblock;
        self.is_the_one_let_go(image)
            && disk.data == DataState::Consistent
            && self.freezing.as_ref().is_some_and(|freeze| {
                let known = [freeze.base, Some(freeze.generation), freeze.doubted];
                freeze.whole && known.contains(&disk.lineage.head())
            })
    }

    fn mark_recovered(&mut self, log: &LogImage) {
        for (slot, map) in self.superblock.slots.iter().zip(&mut self.maps) {
            if slot.all_marked {
                map.mark_all();
            }
        }
        if !self.superblock.log_live || self.planted(Plant::ForgetHot) {
            return;
        }
        let device = self.device_blocks;
        for map in &mut self.maps {
            if matches!(log, LogImage::Unreadable { .. }) {
                map.mark_all();
            }
            for extent in self.log.hot() {
                let blocks = blocks_of(extent, device);
                if blocks.count > 0 {
                    map.mark(blocks);
                }
            }
        }
    }

    /// The recovered marks are in the bitmap: the log is free, the past life is over. A log that
    /// could not be read is written anew before the superblock says that it may be used; if that is
    /// cut short, the marks of everything are stable already.
    pub(super) fn marks_recovered(&mut self) {
        let log_extents = self.superblock.geometry.log_extents;
        if self.log.renew(|number| window_for(number, log_extents)) {
            return self.write_log();
        }
        if self.log.is_renewing() {
            self.log.commit();
        }
        let primary = self.role == Role::Primary;
        self.superblock.primary = primary;
        self.superblock.log_live = primary;
        for slot in &mut self.superblock.slots {
            slot.all_marked = false;
        }
        match &self.freezing {
            Some(Freeze { generation, base, back: true, .. }) => {
                // A peer may have begun the generation it was asked for. It has nothing of it: so
                // this copy is in it too, and what was under way is marked on either side. What
                // is written from here on belongs to another one.
                let before = self.superblock.lineage.head();
                if before != Some(*generation) {
                    self.superblock.lineage.begin(*generation);
                }
                self.superblock.epoch = self.superblock.epoch.max(generation.epoch);
                for slot in self.superblock.slots.iter_mut().filter(|slot| slot.in_use) {
                    // Who has all that was served may have begun it.
                    if [None, before, *base].contains(&slot.base) {
                        slot.base = Some(*generation);
                    }
                }
            }
            // Writes went on without this disk: until the resync it is of mixed age.
            _ if primary => self.superblock.data = DataState::Inconsistent,
            _ => {}
        }
        self.save(After::Started);
    }

    pub(super) fn started(&mut self) {
        // The copy here is durably whole or durably of mixed age: no peer's record is needed for
        // that any more.
        self.disk_phase = DiskPhase::Open;
        if self.role == Role::Primary {
            // Some came since the marks were saved; before any of it is sent again that is on record.
            self.mark_running_pieces();
            self.save_pages(PagesJob::All(AfterPages::Nothing));
        }
        self.let_go = LetGo::default();
        self.applied.synced(self.applied.ended);
        let frozen = self.freezing.take();
        self.disk_reason.clear();
        self.reconsider_disk("the disk was opened");
        match frozen {
            Some(Freeze { back: true, .. }) => self.store_running_pieces(),
            // What waited for the peer's record waits for the peer itself, which may not have it.
            Some(_) => self.owe_peers_anew(|_| true),
            None => {}
        }
        self.check_flushes();
        let text = "the disk is attached";
        if let Some(id) = self.opening_for.take() {
            self.answer(id, Ok(text.to_owned()));
        }
        self.dial_all();
        for peer in 0..self.peers.len() {
            match self.peers[peer].phase {
                Phase::Down => {}
                Phase::Settling => self.check_settled(peer),
                _ => self.renegotiate(peer),
            }
        }
    }

    /// The disk failed while it was being taken over.
    pub(super) fn start_failed(&mut self) {
        if let Some(id) = self.opening_for.take() {
            let text = self.disk_reason.clone();
            self.refuse_command(id, "disk-failed", &text);
        }
        self.dial_all();
    }

    fn dial_all(&mut self) {
        use super::event::Connection;
        for peer in 0..self.peers.len() {
            if self.peers[peer].connection == Connection::StandAlone
                && self.peers[peer].reason.is_empty()
            {
                self.set_connection(peer, Connection::Connecting, "the resource starts");
                self.dial(peer, true);
            }
        }
    }

    /// Finds out anew what the local copy is worth, from the records and the peers.
    pub(super) fn reconsider_disk(&mut self, cause: &str) {
        let disk = if !self.has_open_disk() {
            DiskState::Diskless
        } else if self.superblock.lineage.head().is_none() {
            DiskState::Inconsistent
        } else {
            match self.superblock.data {
                DataState::Inconsistent => DiskState::Inconsistent,
                DataState::Outdated => DiskState::Outdated,
                DataState::Consistent if self.is_current() => DiskState::UpToDate,
                DataState::Consistent => DiskState::Consistent,
            }
        };
        self.set_disk(disk, cause);
    }

    fn is_current(&self) -> bool {
        // A peer in reach serves a current copy, and this one was not compared with it.
        let elsewhere = self.peers.iter().any(|peer| {
            let serves = peer.disk == Some(DiskState::UpToDate) && !peer.needs_marks_here;
            peer.phase == Phase::Idle && serves
        });
        let agreed = |peer: &super::peer::Peer| match peer.phase {
            Phase::Established | Phase::SyncSource | Phase::SourceWaits | Phase::Ahead => true,
            Phase::Idle => peer.needs_marks_here,
            _ => false,
        };
        self.role == Role::Primary
            || self.peers.iter().any(agreed)
            || (self.knows_current() && !elsewhere)
    }

    pub(super) fn set_disk(&mut self, disk: DiskState, cause: &str) {
        let old = std::mem::replace(&mut self.disk, disk);
        if old == disk {
            return;
        }
        self.note("disk", &format!("{old:?}"), &format!("{disk:?}"), cause);
        for peer in 0..self.peers.len() {
            if !matches!(self.peers[peer].phase, Phase::Down | Phase::Settling) {
                self.send(peer, Frame::DiskChange { disk });
            }
        }
        self.retry_parked();
    }

    /// What the disk had completed and not made stable may be gone, also if it was let go of before.
    fn loses_unflushed(&mut self) {
        self.let_go.forgot = true;
        if !self.let_go.unstable {
            return;
        }
        self.let_go.lost = true;
        if let Some(freeze) = &mut self.freezing {
            freeze.whole = false;
        }
    }

    /// Lets go of the local disk at once: it returned an error, or the operator said so.
    pub(super) fn fail_disk(&mut self, loss: DiskLoss) {
        let cause = loss.words();
        self.let_go.leaves(self.local.is_all_stable(), &self.applied);
        if loss.forgets() {
            self.loses_unflushed();
        }
        if !self.has_metadata() {
            return;
        }
        let served = self.has_open_disk();
        let safe = !loss.forgets() || !self.let_go.unstable;
        self.disk_phase = DiskPhase::Closing;
        self.disk_reason = format!(
            "the local disk was let go: {cause}; mend or replace it, then run `twinblk disk \
             attach {0}` or `twinblk disk replace {0}`",
            self.options.resource
        );
        self.emit(Output::CloseDisk);
        let doubted = self.doubt_unrecorded();
        let sending = self.peers.iter_mut().filter(|peer| peer.session.is_some());
        sending.for_each(|peer| peer.incoming.lost = true);
        self.local.forget();
        let current = self.disk == DiskState::UpToDate;
        if current {
            self.remember_peers();
        }
        if self.freezing.as_ref().is_some_and(|freeze| freeze.back) {
            self.freeze_anew(doubted);
        } else if let Some(freeze) = &mut self.freezing {
            freeze.back = false;
        } else if self.role == Role::Primary && served {
            // A disk that is no current copy knows less than what this node serves.
            let base = if current { None } else { self.served };
            let base = base.or(self.superblock.lineage.head());
            self.served = base;
            let generation = self.generation_to_ask_for();
            let whole = current && safe;
            self.freezing = Some(Freeze { generation, base, doubted, whole, back: false });
            self.owe_peers_anew(|peer| !peer.mirrors());
        }
        self.leave_log_of_lost_disk();
        self.set_disk(DiskState::Diskless, cause);
        self.owe_flushes_anew();
        self.abandon_writes();
        (0..self.peers.len()).for_each(|peer| self.drop_verify(peer, cause));
        for peer in 0..self.peers.len() {
            match self.peers[peer].phase {
                Phase::Established | Phase::Idle => {
                    // What this node does from here on, it does on the peer's disk.
                    self.peers[peer].phase = Phase::Idle;
                    self.note_peer(peer, cause);
                    self.ask_generation(peer);
                }
                Phase::Down | Phase::Settling => {}
                _ => self.renegotiate(peer),
            }
        }
        for waiter in std::mem::take(&mut self.log_waiting) {
            match waiter {
                super::LogWaiter::Piece(key) => self.issue(key),
                super::LogWaiter::Apply { peer, sequence } => self.run_apply(peer, sequence),
            }
        }
        self.check_flushes();
    }

    /// What a current disk knew of the peers, for as long as it is gone.
    fn remember_peers(&mut self) {
        for (peer, slot) in self.peers.iter_mut().zip(&self.superblock.slots) {
            peer.bond = slot.bond;
        }
        self.short_peers = 0;
        for (peer, map) in self.maps.iter().enumerate() {
            self.short_peers |= u8::from(map.marked() > 0) << peer;
        }
    }

    /// The generation that a peer is asked to begin without the disk here, and remembered as such.
    fn generation_to_ask_for(&mut self) -> Generation {
        let epoch = self.superblock.epoch.next();
        let generation = Generation { epoch, id: self.random.draw(), node: self.options.node };
        self.asked_for = [Some(generation), self.asked_for[0]];
        generation
    }

    /// A disk that came back whole goes again while it is taken over: it may have the generation that peers
    /// are asked for, as one in which nobody lacks anything. What they write without it is of another.
    fn freeze_anew(&mut self, doubted: Option<Generation>) {
        let generation = self.generation_to_ask_for();
        if let Some(freeze) = &mut self.freezing {
            freeze.back = false;
            freeze.doubted = doubted.or(freeze.doubted);
            freeze.generation = generation;
        }
    }

    /// A disk that failed may have lost what was not flushed, although its host has not booted.
    fn note_lost_memory(&mut self, peer: usize) {
        let out = &self.peers[peer].out;
        let unstable = out.sent.iter().any(|sent| sent.acked && sent.item.is_none());
        let current = self.disk == DiskState::UpToDate;
        let lacks = if current { unstable } else { out.stable < out.last() };
        if current && unstable && self.role == Role::Primary && self.goes_on_alone() {
            self.need_generation(peer);
        }
        self.peers[peer].lost_power |= lacks && self.role == Role::Primary;
    }

    pub(super) fn on_disk_change(&mut self, peer: usize, disk: DiskState) {
        let old = self.peers[peer].disk.replace(disk);
        if old == Some(disk) {
            return;
        }
        self.note_peer(peer, "the peer said so");
        if self.peers[peer].phase == Phase::Settling {
            // Its state comes first; until then what former sessions left is waited for.
            self.peers[peer].lost_disk |= disk < DiskState::Inconsistent;
            return;
        }
        if disk < DiskState::Inconsistent {
            self.peers[peer].lost_disk = true;
            // Nothing sent to it is safe there any more.
            self.drop_source(peer);
            if self.peers[peer].phase != Phase::Idle {
                self.peers[peer].phase = Phase::Idle;
            }
            self.note_lost_memory(peer);
            self.lose_stream(peer);
            self.forget_remote_reads(peer);
            self.drop_verify(peer, "the peer lost its disk");
        }
        self.ask_generation(peer);
        self.retry_parked();
        self.check_flushes();
        self.plan_log();
    }

    /// The disk's operations have ended and it is closed.
    pub(super) fn on_disk_closed(&mut self) {
        if self.disk_phase == DiskPhase::Closing {
            self.disk_phase = DiskPhase::Absent;
            (0..self.peers.len()).for_each(|peer| self.check_settled(peer));
        }
    }
}
