//! Owns who is primary: promotion, demotion, and the evidence a node has that it is current.
//! Must never serve before the role is durable, nor demote before what clients wrote is stable
//! on every peer in reach, and what a peer lacks is marked.
//!
//! ```text
//!   Secondary ── promote ──▶ asking every connected peer ──▶ syncing (A, B) ──▶ saving ──▶ Primary (export open)
//!   Primary ── demote ──▶ draining ──▶ flushing everywhere ──▶ marks ──▶ saving ──▶ Secondary
//! ```

use super::command::{LET_GO, OPENING, ROLE_CHANGES};
use super::disk::DiskPhase;
use super::disk_loss::DiskLoss;
use super::event::{CommandId, Output, Refusal, Reply, RequestError};
use super::hold::Hold;
use super::peer::{Peer, Phase};
use super::persist::{After, AfterPages, PagesJob};
use super::reconcile::Verdict;
use super::{Replica, SyncPurpose};
use crate::format::frame::{DiskState, Frame, Protocol, Role};
use crate::format::superblock::{DataState, PeerSlot};
use crate::plant::Plant;
use crate::units::{Epoch, Sequence, Session};

/// A promotion on its way.
#[derive(Debug)]
pub(super) struct Promoting {
    id: CommandId,
    epoch: Epoch,
    /// Peers that have not answered.
    waiting: Vec<usize>,
    /// Those that granted it with a copy equal to this one.
    granted: Vec<usize>,
    /// By the operator's word alone.
    forced: bool,
    /// Who grants it has, or is about to have, a copy equal to this one, and counts as current by that.
    among_equals: bool,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// The peers, and whatever a former primary sent that has not landed.
    Waiting,
    /// What a former primary sent is on its way to stable storage.
    Syncing,
    Synced,
    /// The role is on its way to the disk.
    Saving,
}

/// A demotion on its way.
#[derive(Debug)]
pub(super) struct Demoting {
    /// Whose wish it is; none if the daemon stops.
    id: Option<CommandId>,
    flushing: bool,
    saving: bool,
    /// What must be stable on each peer.
    upto: Vec<Sequence>,
}

impl Replica {
    /// What `promote` would refuse with now; none if it would go ahead.
    pub(super) fn promote_refusal(&self) -> Option<Refusal> {
        let (resource, me) = (&self.options.resource, &self.options.name);
        let refuse = |reason, text: String| Some(Refusal { reason, text });
        let passing = match self.disk_phase {
            DiskPhase::Opening | DiskPhase::Recovering => Some(OPENING),
            DiskPhase::Closing => Some(LET_GO),
            DiskPhase::Absent | DiskPhase::Open => None,
        };
        if let Some(words) = passing {
            return refuse("busy", format!("{resource} on {me}: {words}"));
        }
        if !self.has_open_disk() {
            return refuse(
                "no-disk",
                format!(
                    "{me} has no local disk for {resource}; run `twinblk disk attach {resource}`"
                ),
            );
        }
        if self.has_no_data() && !self.is_just_created() {
            return refuse("no-data", self.no_data());
        }
        if self.has_no_data() {
            return refuse(
                "just-created",
                format!(
                    "{resource} on {me} holds no data yet. Run `twinblk init {resource} --from \
                     NODE` to say whose disk is the first copy, or `twinblk init {resource} \
                     --both-empty` if both hold only zeroes"
                ),
            );
        }
        for peer in &self.peers {
            let them = &peer.name;
            if peer.role == Some(Role::Primary) {
                return refuse(
                    "peer-is-primary",
                    format!(
                        "{them} is primary for {resource}; run `twinblk demote {resource}` there"
                    ),
                );
            }
            if matches!(peer.phase, Phase::TargetWaits | Phase::SyncTarget) {
                return refuse(
                    "sync-target",
                    format!(
                        "{me} is being brought up to date for {resource}; promote {them}, or run \
                         `twinblk wait {resource} --for insync --timeout 12h` first"
                    ),
                );
            }
            if peer.negotiates() || peer.phase == Phase::Settling {
                return refuse(
                    "negotiating",
                    format!("{me} and {them} are agreeing about {resource}; try again in a moment"),
                );
            }
        }
        let stale = self.planted(Plant::StalePromote) && self.disk > DiskState::Inconsistent;
        let may = self.disk == DiskState::UpToDate || stale;
        if may { None } else { Some(self.not_current()) }
    }

    /// What a copy is that has no contents, although there are some elsewhere.
    pub(super) fn no_data(&self) -> String {
        let (resource, me) = (&self.options.resource, &self.options.name);
        let them = self.peers.first().map_or("the peer", |peer| peer.name.as_str());
        let neither = |peer: &Peer| peer.verdict == Some(Verdict::AwaitInit);
        if self.peers.iter().any(neither) {
            return format!(
                "the copies of {resource} on {me} and on {them} were given up or are new. Run `twinblk init \
                 {resource} --from NODE` to say whose disk, as it is, is the first copy"
            );
        }
        format!(
            "the copy of {resource} on {me} was given up or is new, so all of it has to come from \
             {them}. Connect to {them} (`twinblk connect {resource}`) and wait: `twinblk wait \
             {resource} --for insync --timeout 12h`; or promote {them}"
        )
    }

    fn not_current(&self) -> Refusal {
        let (resource, me) = (&self.options.resource, &self.options.name);
        let them = self.peers.first().map_or("the peer", |peer| peer.name.as_str());
        if self.superblock.parted && self.superblock.data == DataState::Consistent {
            return Refusal {
                reason: "undecided",
                text: format!(
                    "{me} must not become primary for {resource}: when it met {them}, each had what the \
                     other lacks (split brain), or one disk had been restored from an older copy, and \
                     nobody has chosen since. Choose whose copy to give up and run there, as secondary, \
                     `twinblk connect {resource} --discard-my-data` (`twinblk invalidate {resource}` if \
                     its disk was restored), on the other node `twinblk connect {resource}`; or, to \
                     serve from {me} before that, with {them} surely off, `twinblk promote \
                     {resource} --force`"
                ),
            };
        }
        let why = match self.superblock.data {
            DataState::Inconsistent => "its copy is of mixed age: a resync to it did not end",
            DataState::Outdated => "its copy is known to be old",
            DataState::Consistent => "it cannot know whether the other node has newer data",
        };
        Refusal {
            reason: "not-current",
            text: format!(
                "{me} must not become primary for {resource}: {why}. Bring {them} back (`twinblk \
                 status {resource}` shows the connection), or, if {them} is lost for good or \
                 surely off, run `twinblk promote {resource} --force`: writes that only {them} has \
                 are then given up, and it must not serve until the two have met"
            ),
        }
    }

    /// Whether the durable records say that no peer can have newer data: each lacks what this
    /// node wrote as primary, withdrew by its own word, or is in the middle of a resync from here.
    /// Never while a split brain is known that nobody has ended: each then lacks what the other wrote.
    /// What a peer lacks because it served without a disk says nothing: it may serve still.
    pub(super) fn knows_current(&self) -> bool {
        let head = self.superblock.lineage.head();
        let own = head.is_some_and(|head| head.node == self.options.node);
        let covers = |slot: &PeerSlot| {
            // A peer that was told the end of a resync may have adopted it, and gone on since.
            let behind = slot.base != head;
            let lacks = slot.base.is_some() && own && behind;
            lacks || slot.withdrawn || (slot.sync_token != 0 && behind)
        };
        let mut used = self.superblock.slots.iter().filter(|slot| slot.in_use);
        !self.superblock.parted && used.all(covers)
    }

    pub(super) fn promote(&mut self, id: CommandId, force: bool) {
        if self.role == Role::Primary && self.demoting.is_none() {
            return self.answer(id, Ok(format!("{} is primary already", self.options.name)));
        }
        if self.promoting.is_some() || self.demoting.is_some() {
            return self.refuse_command(id, "busy", ROLE_CHANGES);
        }
        let refusal = self.promote_refusal();
        let by_word = |refusal: &Refusal| ["not-current", "undecided"].contains(&refusal.reason);
        let overridable = refusal.as_ref().is_none_or(by_word);
        if let Some(refusal) = refusal
            && !(force && overridable)
        {
            return self.answer(id, Err(refusal));
        }
        let forced = force && self.disk != DiskState::UpToDate;
        let next = self.superblock.epoch.next();
        // Ahead of one that a peer asked for in vain: it goes by the same number.
        let epoch = if forced { next.next() } else { next };
        let connected = |peer: &usize| self.peers[*peer].session.is_some();
        let waiting: Vec<usize> = (0..self.peers.len()).filter(connected).collect();
        let equal = |peer: &usize| {
            matches!(self.peers[*peer].phase, Phase::Established | Phase::SyncSource)
        };
        let among_equals = waiting.iter().any(equal);
        let step = Step::Waiting;
        let (granted, asked) = (Vec::new(), waiting.clone());
        self.promoting =
            Some(Promoting { id, epoch, waiting, granted, forced, among_equals, step });
        for peer in &asked {
            self.send(*peer, Frame::PromoteAsk { epoch });
        }
        if asked.is_empty() {
            self.take_office();
        }
    }

    /// The operator's word that this copy is the one to go on with.
    fn force_current(&mut self) {
        let was = self.superblock.data;
        self.note(
            "data",
            &format!("{was:?}"),
            "Consistent",
            "promote --force: the operator's word",
        );
        self.superblock.data = DataState::Consistent;
        self.superblock.sync_target = None;
        self.superblock.parted = false;
        if was == DataState::Inconsistent {
            // Blocks of mixed age are no generation anybody else has.
            for slot in self.superblock.slots.iter_mut().filter(|slot| slot.in_use) {
                slot.all_marked = true;
                slot.sync_token = 0;
            }
            for map in &mut self.maps {
                map.mark_all();
            }
            self.begin_generation("promote --force of a copy of mixed age");
        }
    }

    /// Becomes primary once every peer has agreed and nothing a former primary sent can land any
    /// more: what it was told is received must be in what this node serves. And what its clients
    /// flushed must survive a power cut here; under C it does, since a flush waits for both.
    pub(super) fn take_office(&mut self) {
        let (leftovers, open) = (self.has_leftovers(), self.has_open_disk());
        let Some(promoting) = &mut self.promoting else {
            return;
        };
        if promoting.step == Step::Saving || !promoting.waiting.is_empty() || leftovers {
            return;
        }
        if !open {
            let text = self.disk_failed_meanwhile();
            return self.fail_promotion("disk-failed", text);
        }
        match promoting.step {
            Step::Syncing => return,
            Step::Waiting if self.options.protocol != Protocol::C => {
                promoting.step = Step::Syncing;
                let id = promoting.id;
                return self.sync_disk(SyncPurpose::Promotion { id });
            }
            _ => promoting.step = Step::Saving,
        }
        let (epoch, forced) = (promoting.epoch, promoting.forced);
        if forced {
            // Not before all agreed: a promotion that fails changes nothing.
            self.force_current();
        }
        let superblock = &mut self.superblock;
        superblock.epoch = superblock.epoch.max(epoch);
        superblock.current = superblock.epoch;
        superblock.primary = true;
        superblock.log_live = true;
        self.save(After::Promoted);
    }

    pub(super) fn disk_failed_meanwhile(&self) -> String {
        let (resource, me) = (&self.options.resource, &self.options.name);
        format!(
            "the local disk of {me} failed meanwhile; `twinblk status {resource}` says why and what \
             to do"
        )
    }

    pub(super) fn promotion_synced(&mut self, id: CommandId, ok: bool) {
        if !ok {
            return self.fail_disk(DiskLoss::Flush);
        }
        if let Some(promoting) = self.promoting.as_mut().filter(|it| it.id == id) {
            promoting.step = Step::Synced;
        }
    }

    pub(super) fn promoted(&mut self) {
        let Some(promoting) = self.promoting.take() else {
            return;
        };
        self.set_role(Role::Primary, "promote");
        if self.options.protocol == Protocol::C {
            self.makes_inherited_stable();
        }
        self.resumed = false;
        for (place, peer) in self.peers.iter_mut().enumerate() {
            peer.discard_my_data = false;
            // What this copy holds may be more, or less, than what a peer has that was not asked.
            peer.lacks_shown |= !promoting.granted.contains(&place);
        }
        self.reconsider_disk("promote");
        let epoch = self.superblock.epoch;
        for peer in 0..self.peers.len() {
            self.send(peer, Frame::RoleChange { role: Role::Primary, epoch });
        }
        self.emit(Output::Serve { open: true });
        let text = format!("{} is primary for {}", self.options.name, self.options.resource);
        self.answer(promoting.id, Ok(text));
    }

    /// What a former primary sent counts as one write of this one, until the disk is synced.
    fn makes_inherited_stable(&mut self) {
        let inherited = self.next_sequence();
        self.local.issued(inherited);
        self.local.completed(inherited);
        self.sync_here();
    }

    pub(super) fn on_promote_ask(&mut self, peer: usize, epoch: Epoch) {
        let mine_first = self.promoting.is_some() && self.options.node < self.peers[peer].node;
        let stale = epoch <= self.superblock.epoch;
        if self.role == Role::Primary || mine_first || stale {
            return self.send(peer, Frame::PromoteAnswer { epoch, granted: false });
        }
        let session = self.peers[peer].session_id();
        self.drop_verify(peer, "the peer becomes primary");
        let found = &mut self.peers[peer];
        found.role = Some(Role::Primary);
        found.granted = epoch;
        // Whether the peer ever takes it is not known here. It says something of the copy here only if
        // the two are equal, up to what a verify found: from here on the peer is the one to go by.
        let adopted = found.phase == Phase::SyncTarget && found.adopting.is_none();
        let equal = found.phase == Phase::Established
            || (adopted && self.superblock.data == DataState::Consistent);
        self.superblock.epoch = epoch;
        if equal {
            self.superblock.current = epoch;
            self.superblock.former_primary = false;
        }
        self.save(After::PromoteGranted { peer, session, epoch });
    }

    pub(super) fn promote_granted(&mut self, peer: usize, session: Session, epoch: Epoch) {
        if self.peers[peer].session == Some(session) {
            self.send(peer, Frame::PromoteAnswer { epoch, granted: true });
        }
    }

    pub(super) fn on_promote_answer(&mut self, peer: usize, epoch: Epoch, granted: bool) {
        let Some(promoting) = &mut self.promoting else {
            return;
        };
        if promoting.epoch != epoch || !promoting.waiting.contains(&peer) {
            return;
        }
        if !granted {
            // The peer's epoch may be ahead of this one's, for want of a disk to keep it on.
            self.superblock.epoch = self.superblock.epoch.max(epoch);
            let (them, resource) = (self.peers[peer].name.clone(), self.options.resource.clone());
            return self.fail_promotion(
                "peer-refused",
                format!(
                    "{them} refuses: it is primary, or becoming primary itself; `twinblk status \
                     {resource}` shows. To serve from here, run `twinblk demote {resource}` on {them} first"
                ),
            );
        }
        promoting.waiting.retain(|other| *other != peer);
        if self.peers[peer].phase == Phase::Established {
            promoting.granted.push(peer);
        }
        if promoting.waiting.is_empty() {
            self.take_office();
        }
    }

    /// Ends a promotion, unless the role is on its way to the disk already.
    pub(super) fn give_up_promotion(&mut self, reason: &'static str, text: &str) {
        if self.promoting.as_ref().is_some_and(|it| it.step != Step::Saving) {
            self.fail_promotion(reason, text.to_owned());
        }
    }

    pub(super) fn fail_promotion(&mut self, reason: &'static str, text: String) {
        if let Some(promoting) = self.promoting.take() {
            // Who granted it takes this epoch from nobody again.
            self.superblock.epoch = self.superblock.epoch.max(promoting.epoch);
            let current = self.superblock.former_primary && self.disk == DiskState::UpToDate;
            if promoting.among_equals && current {
                // Nor does having granted it make that one the newer of two equal copies.
                self.superblock.current = self.superblock.current.max(promoting.epoch);
            }
            self.save(After::Nothing);
            // A peer that granted it must not wait for a primary that never comes.
            let (role, epoch) = (Role::Secondary, self.superblock.epoch);
            for peer in 0..self.peers.len() {
                self.send(peer, Frame::RoleChange { role, epoch });
            }
            self.answer(promoting.id, Err(Refusal { reason, text }));
        }
    }

    /// A peer asked about a promotion is gone without an answer.
    pub(super) fn role_lost_peer(&mut self, peer: usize) {
        let asked = self.promoting.as_ref().is_some_and(|p| p.waiting.contains(&peer));
        if asked {
            let (them, resource) = (&self.peers[peer].name, &self.options.resource);
            let text = format!(
                "the link to {them} was lost while asking it; `twinblk promote {resource}` says \
                 what is possible without it"
            );
            self.fail_promotion("link-lost", text);
        }
    }

    pub(super) fn on_role_change(&mut self, peer: usize, role: Role, epoch: Epoch) {
        self.peers[peer].role = Some(role);
        if role == Role::Primary {
            self.peers[peer].session_epoch = self.peers[peer].session_epoch.max(epoch);
        }
        self.note_peer(peer, "the peer said so");
        self.reconsider_disk("the peer's role changed");
    }

    pub(super) fn demote(&mut self, id: CommandId) {
        self.give_up_promotion("given-up", "`twinblk demote` came before it was done");
        if self.promoting.is_some() || self.demoting.is_some() {
            return self.refuse_command(id, "busy", ROLE_CHANGES);
        }
        if self.role == Role::Secondary {
            return self.answer(id, Ok(format!("{} is secondary already", self.options.name)));
        }
        if self.disk_phase == DiskPhase::Recovering {
            return self.refuse_command(id, "busy", OPENING);
        }
        self.begin_demotion(Some(id));
    }

    pub(super) fn begin_demotion(&mut self, id: Option<CommandId>) {
        self.emit(Output::Serve { open: false });
        self.demoting = Some(Demoting { id, flushing: false, saving: false, upto: Vec::new() });
        self.drain_for_demote();
    }

    /// While demoting: requests that wait for what may never come end unanswered.
    pub(super) fn drain_for_demote(&mut self) {
        let Some(demoting) = &self.demoting else {
            return;
        };
        if demoting.saving {
            return;
        }
        // A slow link or disk and marks that are being told take their time, and end.
        let passes = [None, Some(Hold::Congested), Some(Hold::Unstable), Some(Hold::MarksUnknown)];
        let stuck =
            !passes.contains(&self.write_hold()) && !self.peers.iter().any(Peer::negotiates);
        if stuck || !self.parked.is_empty() {
            self.abandon_requests();
        }
        // What one of them kept waiting comes now, and waits for the same.
        while stuck && !(self.held.is_empty() && self.parked.is_empty()) {
            self.abandon_requests();
        }
        self.check_quiet();
    }

    /// Nobody waits for these any more: their connections end. What of them reached the disk is
    /// marked, as it was never acknowledged.
    fn abandon_requests(&mut self) {
        self.fail_held();
        for need in std::mem::take(&mut self.parked) {
            let (super::request::Need::Edge { op, .. } | super::request::Need::Piece { op, .. }) =
                need;
            self.ops[op].failed = Some(RequestError::NotPrimary);
            self.abandon_need(need);
        }
        let flushes = std::mem::take(&mut self.flushes);
        for flush in flushes {
            let reply = Reply::Failed(RequestError::NotPrimary);
            self.emit(Output::Reply { id: flush.id, reply });
        }
    }

    /// Goes on with a demotion when no request is left.
    pub(super) fn check_quiet(&mut self) {
        let Some(demoting) = &mut self.demoting else {
            return;
        };
        if demoting.saving || !self.ops.is_empty() || !self.flushes.is_empty() {
            return;
        }
        if !demoting.flushing {
            demoting.flushing = true;
            demoting.upto = self.peers.iter().map(|peer| peer.out.last()).collect();
            self.sync_here();
            (0..self.peers.len()).for_each(|peer| self.ask_barrier(peer));
        }
        let here = !self.has_open_disk() || self.local.stable() >= self.local.last();
        // A resync from here goes on meanwhile: only what clients wrote is waited for.
        let upto = self.demoting.as_ref().map_or(&[][..], |demoting| &demoting.upto);
        let mut streams = self.peers.iter().zip(upto);
        // A peer on whose disk this node works may have, unstable, what an earlier session sent it.
        let lends = |peer: &Peer| peer.mirrors() || peer.negotiates();
        let owes = |peer: &Peer| !peer.out.sent.is_empty() || lends(peer);
        let there = streams.all(|(peer, upto)| peer.out.stable >= *upto || !owes(peer));
        if !here && !self.syncing {
            self.sync_here();
        }
        // A session that came since has not been asked; another one is, once.
        let unasked = |(peer, upto): &(usize, Sequence)| {
            let out = &self.peers[*peer].out;
            out.stable < *upto && out.asked_up_to() < *upto
        };
        let upto = self.demoting.iter().flat_map(|demoting| demoting.upto.iter().copied());
        let owing: Vec<_> = upto.enumerate().filter(unasked).map(|(peer, _)| peer).collect();
        owing.into_iter().for_each(|peer| self.ask_barrier(peer));
        if here && there {
            if let Some(demoting) = &mut self.demoting {
                demoting.saving = true;
            }
            self.save_pages(PagesJob::All(AfterPages::Demote));
        }
    }

    pub(super) fn marks_saved_for_demote(&mut self) {
        self.superblock.primary = false;
        // Who has what the marks stand for is known by this, until the peers have it too.
        let mut towards = self.superblock.slots.iter().zip(&self.maps);
        self.superblock.former_primary |=
            towards.any(|(slot, map)| slot.in_use && map.marked() > 0);
        self.superblock.log_live = self.peers.iter().any(|peer| peer.needs_marks_here);
        self.save(After::Demoted);
    }

    pub(super) fn demoted(&mut self) {
        let Some(demoting) = self.demoting.take() else {
            return;
        };
        self.freezing = None;
        let wished = demoting.id.is_some();
        self.set_role(Role::Secondary, if wished { "demote" } else { "the daemon stops" });
        let epoch = self.superblock.epoch;
        for peer in 0..self.peers.len() {
            self.send(peer, Frame::RoleChange { role: Role::Secondary, epoch });
            if self.peers[peer].phase == Phase::StateSent {
                // It may look at the state it was sent later than at this.
                self.renegotiate(peer);
            }
        }
        self.reconsider_disk("demote");
        if let Some(id) = demoting.id {
            let text = format!("{} is secondary for {}", self.options.name, self.options.resource);
            self.answer(id, Ok(text));
        }
    }

    fn set_role(&mut self, role: Role, cause: &str) {
        let old = std::mem::replace(&mut self.role, role);
        (0..self.peers.len()).for_each(|peer| self.drop_verify(peer, "the role changes"));
        self.peers.iter_mut().for_each(|peer| peer.lost_power = false);
        if old != role {
            self.note("role", &format!("{old:?}"), &format!("{role:?}"), cause);
        }
    }
}
