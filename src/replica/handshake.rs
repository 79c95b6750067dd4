//! Owns the meeting of two nodes: states are told, compared, and the meeting is recorded by both
//! before anything flows.
//! Must never let a decision rest on a state that has changed since it was told.

use super::apply::Incoming;
use super::disk::DiskPhase;
use super::event::Connection;
use super::peer::Phase;
use super::persist::{After, AfterPages, PagesJob};
use super::reconcile::{Extent, Reason, THEIRS_MIXED_NEWER, Verdict, reconcile};
use super::sync_source::Source;
use super::{Replica, SyncPurpose};
use crate::buffer::Payload;
use crate::format::frame::{ByeReason, DiskState, Frame, PeerState, Protocol, Role};
use crate::format::lineage::{Generation, Relation};
use crate::format::superblock::{Bond, DataState};
use crate::limits::EARLY_FRAMES_MAX;
use crate::plant::Plant;
use crate::units::{BootId, Epoch, Nanos, Session};

impl Replica {
    /// Goes on with a session once nothing of the past is under way.
    pub(super) fn check_settled(&mut self, peer: usize) {
        let found = &self.peers[peer];
        if found.phase != Phase::Settling || !found.incoming.is_idle() {
            return;
        }
        let opening = !matches!(self.disk_phase, DiskPhase::Absent | DiskPhase::Open);
        let role_changes = self.promoting.is_some() || self.demoting.is_some();
        if !self.saver.is_settled() || opening || role_changes {
            return;
        }
        self.peers[peer].incoming = Incoming::default();
        let state = Box::new(self.own_state(peer));
        self.peers[peer].sent_state = Some(state.clone());
        self.peers[peer].phase = Phase::StateSent;
        self.send(peer, Frame::State(state));
        self.compare(peer);
    }

    fn own_state(&self, peer: usize) -> PeerState {
        let superblock = &self.superblock;
        PeerState {
            resource: superblock.resource,
            node: self.options.node,
            device_blocks: self.device_blocks,
            protocol: self.options.protocol,
            role: self.role,
            disk: self.disk,
            data: superblock.data,
            current: superblock.current,
            boot: BootId(superblock.boot.0 ^ u128::from(self.applied.forgetting)),
            rebooted: superblock.rebooted || self.forgot_what_it_received(peer),
            was_primary: superblock.former_primary || self.role == Role::Primary,
            discard_my_data: self.peers[peer].discard_my_data,
            lineage: superblock.lineage.clone(),
            sync_target: superblock.sync_target,
            slot: superblock.slots[peer],
            marked_blocks: self.maps.get(peer).map_or(0, super::dirty_map::DirtyMap::marked),
        }
    }

    /// Under B the peer acknowledges what it has in memory: a new process of it has it no more, nor has
    /// one whose disk went meanwhile. Not so one whose copy the primary works on: that waits for its disk.
    fn forgot_what_it_received(&self, peer: usize) -> bool {
        let superblock = &self.superblock;
        let served = superblock.former_primary || self.role == Role::Primary;
        let others = superblock.lineage.head().is_some_and(|head| head.node != self.options.node);
        // Up to the newest generation: the peer may have adopted the end of a resync from here.
        let base = superblock.slots[peer].base;
        let lent = others && base.is_some() && base != superblock.lineage.head();
        self.options.protocol == Protocol::B && self.forgot && !served && !lent
    }

    pub(super) fn on_state(&mut self, peer: usize, epoch: Epoch, state: Box<PeerState>) {
        if !matches!(self.peers[peer].phase, Phase::Settling | Phase::StateSent)
            || self.peers[peer].their_state.is_some()
        {
            return self.violation(peer, "a state out of turn");
        }
        (self.peers[peer].their_state, self.peers[peer].told_epoch) = (Some(state), epoch);
        self.compare(peer);
    }

    /// What the table says, and by which row.
    fn verdict(&self, mine: &PeerState, theirs: &PeerState) -> (&'static str, Verdict) {
        let trusting = self.planted(Plant::MarksTrusted);
        let merging = self.planted(Plant::MergeSplitBrain) && mine.role != theirs.role;
        match reconcile(mine, theirs) {
            (label, Verdict::Refuse(Reason::SplitBrain)) if merging => {
                let source = mine.role == Role::Primary;
                (label, if source { Verdict::Source } else { Verdict::Target }(Extent::Full))
            }
            (label, Verdict::Source(_)) if trusting => (label, Verdict::Source(Extent::Marks)),
            (label, Verdict::Target(_)) if trusting => (label, Verdict::Target(Extent::Marks)),
            found => found,
        }
    }

    /// Compares the two states, once both are told.
    fn compare(&mut self, peer: usize) {
        let found = &self.peers[peer];
        let (Some(mine), Some(theirs)) = (&found.sent_state, &found.their_state) else {
            return;
        };
        if let Some(difference) = self.incompatible(peer, mine, theirs) {
            return self.refuse(peer, ByeReason::Incompatible, difference);
        }
        let (label, verdict) = self.verdict(mine, theirs);
        let (role, disk) = (theirs.role, theirs.disk);
        let epoch = self.superblock.epoch.max(found.told_epoch);
        let their_bond = theirs.bond();
        let their_token = theirs.sync_target.map_or(0, |sync| sync.token);
        let (boot, says_so) = (theirs.boot, theirs.rebooted);
        let found = &mut self.peers[peer];
        let fresh = !found.boots.contains(&Some(boot));
        let rebooted = fresh && found.boots[0].is_some();
        if fresh {
            found.boots = [Some(boot), found.boots[0]];
        }
        let rebooted = rebooted | (says_so && !std::mem::replace(&mut found.rebooted, says_so));
        found.verdict = Some(verdict);
        (found.role, found.disk) = (Some(role), Some(disk));
        found.session_epoch = epoch;
        let name = found.name.clone();
        self.note("verdict", "none", &verdict.to_string(), &format!("peer {name}: {label}"));
        self.note_peer(peer, "the nodes have met");
        // Kept until the peer has all again: the disk here may be lost before that.
        self.peers[peer].lost_power |= rebooted && self.role == Role::Primary;
        if let Some((bye, words)) = self.unfit_lender(peer, verdict) {
            return self.refuse(peer, bye, words);
        }
        if let Verdict::Refuse(reason) = verdict {
            self.learn_of_newer(peer, label, reason);
            let (bye, words) = self.words_for(peer, reason);
            return self.refuse(peer, bye, words);
        }
        if matches!(verdict, Verdict::TheirsDiskless | Verdict::Target(_)) {
            self.learn_from_state(peer);
        }
        if self.superblock.resource != self.peers_resource(peer) {
            // The copy without data takes the identity of the one that has some.
            self.superblock.resource = self.peers_resource(peer);
        }
        if verdict == Verdict::TheirsDiskless {
            // What a primary writes here it lacks: on record by the log, from the first write on.
            self.superblock.log_live |= role == Role::Primary;
            let own = self.superblock.lineage.head().is_some_and(|it| it.node == self.options.node);
            // A primary refuses to go on with this copy, and its disk may come back. Where it does not
            // refuse, the resync of its disk clears this again.
            self.superblock.parted |= own && self.forks_from(peer);
        }
        self.superblock.epoch = epoch;
        self.record_meeting(peer, verdict, (their_bond, their_token));
    }

    /// The meeting is noted, before the peer hears that it is.
    fn record_meeting(&mut self, peer: usize, verdict: Verdict, theirs: (Bond, u64)) {
        let (their_bond, their_token) = theirs;
        let session = self.peers[peer].session_id();
        self.peers[peer].phase = Phase::Bonding;
        if verdict == Verdict::Source(Extent::Full) {
            // In one record with the bond, by which the marks of both will be believed from now on.
            self.superblock.slots[peer].all_marked = true;
            self.maps[peer].mark_all();
        }
        let slot = &mut self.superblock.slots[peer];
        if verdict.is_between_disks() {
            if verdict != Verdict::Target(Extent::Full) {
                slot.bond.meet(session.0, their_bond);
                self.peers[peer].bond.meet(session.0, their_bond);
            }
            if verdict == Verdict::Source(Extent::Marks) && slot.sync_token != their_token {
                // The end of that resync was adopted, or it never began.
                slot.sync_token = 0;
            }
            // From its own record of this meeting on, it may become current; a target not before this node
            // hears of it.
            slot.withdrawn &= matches!(verdict, Verdict::Source(_));
        }
        self.save(After::TentativeBond { peer, session });
    }

    /// A meeting that ends in a refusal may still have shown that the peer holds what this copy
    /// lacks. That is kept: nobody serves an old copy, or serves it on, for want of a link.
    fn learn_of_newer(&mut self, peer: usize, label: &'static str, reason: Reason) {
        let older = reason == Reason::MyPrimaryIsOlder
            || (label == THEIRS_MIXED_NEWER && self.role == Role::Secondary);
        let parted = matches!(reason, Reason::SplitBrain | Reason::LostBond);
        if !older && !parted {
            return;
        }
        // Both have what the other lacks, or one is an old copy that calls itself current: which of them
        // is to go on is not for a program to say.
        self.superblock.parted |= parted;
        self.superblock.slots[peer].withdrawn = false;
        if older && self.superblock.data == DataState::Consistent {
            self.superblock.data = DataState::Outdated;
        }
        self.save(After::Nothing);
        self.reconsider_disk(match reason {
            Reason::SplitBrain => "split brain",
            Reason::LostBond => "one of the disks was restored",
            _ => "the peer has newer data",
        });
    }

    /// What a peer has is newer, or what it remembers of a disk that it has lost: this copy is an old one,
    /// such as a disk that was restored, whatever its records say. It is recorded with the meeting, as the
    /// link may go before a resync begins.
    fn learn_from_state(&mut self, peer: usize) {
        let Some(theirs) = &self.peers[peer].their_state else {
            return;
        };
        let older = match self.superblock.lineage.relation(&theirs.lineage) {
            Relation::Ancestor => true,
            // Of one generation, and only their roles said at this meeting which one is the old one; not
            // if the peer remembers no meeting at all.
            Relation::Equal => {
                let full = self.peers[peer].verdict == Some(Verdict::Target(Extent::Full));
                full && theirs.bond().confirmed != 0
            }
            _ => false,
        };
        if older && self.role == Role::Secondary && self.superblock.data == DataState::Consistent {
            self.superblock.data = DataState::Outdated;
            self.superblock.slots[peer].withdrawn = false;
        }
    }

    /// Whether each has a generation that the other lacks.
    fn forks_from(&self, peer: usize) -> bool {
        let theirs = self.peers[peer].their_state.as_ref();
        let fork = |theirs: &PeerState| {
            self.superblock.lineage.relation(&theirs.lineage) == Relation::Fork
        };
        theirs.is_some_and(|theirs| fork(theirs))
    }

    fn peers_resource(&self, peer: usize) -> crate::units::ResourceId {
        let mine = self.superblock.resource;
        let theirs = self.peers[peer].their_state.as_ref();
        match theirs {
            // Without a disk it has no identity to give.
            Some(theirs) if theirs.disk <= DiskState::Failed => mine,
            Some(theirs) if self.superblock.lineage.head().is_none() => {
                if theirs.lineage.head().is_some() || theirs.node < self.options.node {
                    theirs.resource
                } else {
                    mine
                }
            }
            _ => mine,
        }
    }

    fn incompatible(&self, peer: usize, mine: &PeerState, theirs: &PeerState) -> Option<String> {
        let peer = &self.peers[peer].name;
        let (me, resource) = (&self.options.name, &self.options.resource);
        let both_have_data = mine.lineage.head().is_some() && theirs.lineage.head().is_some();
        if both_have_data && mine.resource != theirs.resource {
            return Some(format!(
                "{resource}: the disks of {me} and {peer} belong to different resources; if one \
                 of them is to be overwritten, run `twinblk create {resource} --force` there, with its \
                 daemon stopped"
            ));
        }
        if mine.protocol != theirs.protocol {
            return Some(format!(
                "{resource}: {me} is configured for protocol {:?}, {peer} for {:?}; make the \
                 configuration files equal, start the daemon anew where its file was changed, and run \
                 `twinblk connect {resource}`",
                mine.protocol, theirs.protocol
            ));
        }
        let diskless = [mine, theirs].iter().any(|state| state.disk <= DiskState::Failed);
        if !diskless && mine.device_blocks != theirs.device_blocks {
            return Some(format!(
                "{resource}: the device has {} bytes on {me} and {} on {peer}; both must have the \
                 same size. Stop the daemon on the node with the smaller one, give it a disk like that of the \
                 other, run `twinblk create {resource} --force` there, which gives its copy up, start the daemon, \
                 and run `twinblk connect {resource}` on the other node",
                mine.device_blocks * crate::units::BLOCK_BYTES,
                theirs.device_blocks * crate::units::BLOCK_BYTES
            ));
        }
        None
    }

    fn split_brain_words(&self, peer: usize) -> String {
        let (me, resource) = (&self.options.name, &self.options.resource);
        let them = &self.peers[peer].name;
        let diskless = match self.peers[peer].verdict {
            Some(Verdict::MineDiskless) => me,
            Some(Verdict::TheirsDiskless) => them,
            _ => {
                return format!(
                    "split brain: {me} and {them} both wrote to {resource} on their own. Choose \
                     whose writes to give up and run there, as secondary: `twinblk connect \
                     {resource} --discard-my-data`; on the other node: `twinblk connect {resource}`"
                );
            }
        };
        format!(
            "split brain: {me} and {them} went on with {resource} on their own, and {diskless} has \
             no disk in use. Run there `twinblk demote {resource}` and `twinblk disk attach \
             {resource}`, or `twinblk disk replace {resource}` if the disk is lost; then `twinblk \
             connect {resource}` on both shows what differs"
        )
    }

    fn words_for(&self, peer: usize, reason: Reason) -> (ByeReason, String) {
        let (me, resource) = (&self.options.name, &self.options.resource);
        let them = &self.peers[peer].name;
        match reason {
            Reason::SplitBrain => (ByeReason::SplitBrain, self.split_brain_words(peer)),
            Reason::Unrelated => (
                ByeReason::Unrelated,
                format!(
                    "{me} and {them} hold unrelated data for {resource}. Run `twinblk invalidate \
                     {resource}` on the node whose data is to be overwritten, then `twinblk \
                     connect {resource}` on both"
                ),
            ),
            Reason::MyPrimaryIsOlder => (
                ByeReason::PrimaryWouldBeTarget,
                format!(
                    "{me} is primary for {resource} with older data than {them} has. Run `twinblk \
                     demote {resource}` on {me}, then `twinblk connect {resource}` on both"
                ),
            ),
            Reason::TheirPrimaryIsOlder => (
                ByeReason::PrimaryWouldBeTarget,
                format!(
                    "{them} is primary for {resource} with older data than {me} has. Run `twinblk \
                     demote {resource}` on {them}, then `twinblk connect {resource}` on both"
                ),
            ),
            Reason::LostBond => (
                ByeReason::Unrelated,
                format!(
                    "{me} and {them} do not remember the same last meeting for {resource}: one \
                     disk was restored from an older copy. Run `twinblk invalidate {resource}` on \
                     that node, then `twinblk connect {resource}` on both"
                ),
            ),
            Reason::NoWholeCopy => (
                ByeReason::Unrelated,
                format!(
                    "neither {me} nor {them} has a whole copy of {resource}. Restore a backup on \
                     one, or run `twinblk promote {resource} --force` on the better one (after \
                     `twinblk demote {resource}` on the one that is primary, if one is); then \
                     `twinblk connect {resource}` on both"
                ),
            ),
            Reason::WholeCopyIsOlder => (
                ByeReason::Unrelated,
                format!(
                    "the only whole copy of {resource} is older than what the other node has in \
                     part. On the node with the partial copy (after `twinblk demote {resource}` if \
                     it is primary) run `twinblk invalidate {resource}` to give up what only it \
                     has, or `twinblk promote {resource} --force` to go on with it as it is; then \
                     `twinblk connect {resource}` on both"
                ),
            ),
        }
    }

    fn refuse(&mut self, peer: usize, reason: ByeReason, words: String) {
        self.send(peer, Frame::Bye { reason });
        self.disconnect(peer, "the nodes do not fit together");
        self.stand_alone(peer, words);
    }

    pub(super) fn tentative_bond_saved(&mut self, peer: usize, session: Session) {
        if self.peers[peer].session != Some(session) {
            return self.check_settled(peer);
        }
        self.peers[peer].bond_saved = true;
        self.send(peer, Frame::Met);
        self.confirm_bond(peer);
    }

    pub(super) fn on_met(&mut self, peer: usize) {
        let found = &self.peers[peer];
        let awaited = matches!(found.phase, Phase::StateSent | Phase::Bonding);
        if !awaited || found.bond_heard || found.their_state.is_none() {
            return self.violation(peer, "a meeting out of turn");
        }
        self.peers[peer].bond_heard = true;
        self.confirm_bond(peer);
    }

    /// A frame of a peer that is ahead in the meeting: it waits until this node has recorded it
    /// too. Gives it back if it need not wait.
    pub(super) fn keep_early(
        &mut self,
        peer: usize,
        epoch: Epoch,
        (frame, payload): (Frame, Option<Payload>),
    ) -> Option<(Frame, Option<Payload>)> {
        let found = &mut self.peers[peer];
        let alone = matches!(frame, Frame::State(_) | Frame::Met | Frame::Bye { .. });
        if alone || found.phase != Phase::Bonding || !found.bond_heard {
            return Some((frame, payload));
        }
        if found.early.len() >= EARLY_FRAMES_MAX {
            self.release(payload);
            self.violation(peer, "too many frames before the meeting was recorded");
            return None;
        }
        found.early.push_back((epoch, frame, payload));
        None
    }

    /// The meeting is recorded: takes in what the peer has sent since.
    pub(super) fn take_early(&mut self, peer: usize) {
        while self.peers[peer].phase != Phase::Bonding {
            let session = self.peers[peer].session_id();
            let Some((epoch, frame, payload)) = self.peers[peer].early.pop_front() else { return };
            self.on_frame(peer, (session, epoch), frame, payload);
        }
    }

    pub(super) fn drop_early(&mut self, peer: usize) {
        for (_, _, payload) in std::mem::take(&mut self.peers[peer].early) {
            self.release(payload);
        }
    }

    fn confirm_bond(&mut self, peer: usize) {
        let found = &self.peers[peer];
        if !found.bond_saved || !found.bond_heard {
            return;
        }
        let session = found.session_id();
        if found.verdict.is_some_and(|verdict| verdict.is_between_disks() && !verdict.copies_all())
        {
            self.remember_meeting(peer);
        }
        self.save(After::ConfirmedBond { peer, session });
    }

    /// Both have recorded this meeting. If one copy is all to be overwritten, that comes with the record that it
    /// is of mixed age: by a meeting alone it would be believed as one that only lacks what is marked, and whose
    /// marks those are says no more which of the two is the old one.
    pub(super) fn remember_meeting(&mut self, peer: usize) {
        let bond = Bond { confirmed: self.peers[peer].session_id().0, tentative: 0 };
        (self.superblock.slots[peer].bond, self.peers[peer].bond) = (bond, bond);
    }

    /// Both remember the meeting: act on the verdict.
    pub(super) fn confirmed_bond_saved(&mut self, peer: usize, session: Session) {
        if self.peers[peer].session != Some(session) {
            return self.check_settled(peer);
        }
        let Some(verdict) = self.peers[peer].verdict else {
            return;
        };
        if !self.leaving.is_empty() {
            // Its word that it withdraws is on its way, or on record: nothing makes it current after that.
            return;
        }
        self.peers[peer].reason.clear();
        match verdict {
            Verdict::Nothing => self.begin_equal(peer, session),
            Verdict::Source(extent) => self.begin_source(peer, session, extent),
            Verdict::Target(_) => {
                // The source speaks next.
                self.peers[peer].phase = Phase::TargetWaits;
            }
            Verdict::AwaitInit | Verdict::NoDisk => self.begin_idle(peer),
            Verdict::MineDiskless => self.begin_diskless(peer),
            Verdict::TheirsDiskless => self.begin_serving_diskless(peer),
            Verdict::Refuse(_) => {}
        }
    }

    fn begin_idle(&mut self, peer: usize) {
        self.peers[peer].phase = Phase::Idle;
        self.peers[peer].deadline = Nanos::NEVER;
        self.reconsider_disk("connected");
    }

    fn begin_equal(&mut self, peer: usize, session: Session) {
        let current = self.current_with(peer);
        let slot = &mut self.superblock.slots[peer];
        let settled = slot.base.is_none() && slot.sync_token == 0 && !slot.withdrawn;
        slot.base = None;
        slot.sync_token = 0;
        slot.all_marked = false;
        slot.withdrawn = false;
        let superblock = &mut self.superblock;
        let quiet = !superblock.former_primary
            && !superblock.rebooted
            && !superblock.parted
            && superblock.current == current
            && superblock.data == DataState::Consistent;
        superblock.former_primary = false;
        superblock.rebooted = false;
        self.forgot = false;
        superblock.parted = false;
        superblock.data = DataState::Consistent;
        superblock.current = current;
        superblock.sync_target = None;
        self.peers[peer].discard_my_data = false;
        if settled && quiet {
            return self.equal_saved(peer, session);
        }
        self.save(After::BondThenNothing { peer, session });
    }

    /// The newest epoch in which this copy or the peer's was a current one.
    pub(super) fn current_with(&self, peer: usize) -> Epoch {
        let theirs = self.peers[peer].their_state.as_ref().map(|theirs| theirs.current);
        self.superblock.current.max(theirs.unwrap_or_default())
    }

    pub(super) fn equal_saved(&mut self, peer: usize, session: Session) {
        if self.peers[peer].session != Some(session) {
            return self.check_settled(peer);
        }
        self.establish(peer, "the copies are equal");
        self.resend_owed(peer);
    }

    /// Both copies are the newest from here on.
    pub(super) fn establish(&mut self, peer: usize, cause: &str) {
        let found = &mut self.peers[peer];
        found.phase = Phase::Established;
        found.deadline = Nanos::NEVER;
        found.disk = Some(DiskState::UpToDate);
        found.marks_heard = false;
        // The operator's word was for this meeting.
        found.discard_my_data = false;
        (found.lost_power, found.rebooted, found.unflushed) = (false, false, false);
        found.boots = [None; 2];
        (found.lacks_shown, found.congested) = (false, false);
        self.note_peer(peer, cause);
        if self.peers.iter().all(super::peer::Peer::mirrors) {
            // The word to go on alone was for this once.
            self.resumed = false;
        }
        self.reconsider_disk(cause);
        // Clients may have outrun the link in the resync.
        self.check_congestion(peer);
    }

    fn begin_source(&mut self, peer: usize, session: Session, extent: Extent) {
        let token = match self.superblock.slots[peer].sync_token {
            0 => self.random.draw(),
            token => token,
        };
        let their_token = self.peers[peer]
            .their_state
            .as_ref()
            .and_then(|state| state.sync_target)
            .map(|sync| sync.token);
        let token = if their_token == Some(token) { token } else { self.random.draw() };
        let found = &mut self.peers[peer];
        found.phase = Phase::SourceWaits;
        found.deadline = self.now + crate::limits::HANDSHAKE_TIME;
        found.source = Some(Source::new(token, extent == Extent::Full));
        if self.superblock.data == DataState::Outdated {
            // It had withdrawn, and yet the other has nothing newer, or not any more.
            self.superblock.data = DataState::Consistent;
            self.note("data", "Outdated", "Consistent", "no newer copy is left");
        }
        self.reconsider_disk("the peer is brought up to date from here");
        if self.superblock.slots[peer].all_marked {
            // The intent to mark everything came with the bond: the pages follow, then the intent goes;
            // a crash on the way finds the intent.
            self.maps[peer].mark_all();
            self.save_pages(PagesJob::All(AfterPages::AllMarked { peer }));
        }
        if self.role == Role::Secondary && self.has_open_disk() {
            // Under B the peer made stable what was flushed, and this node has it in memory: it gives up
            // nothing before all is stable here. A primary's flushes were its own.
            return self.sync_disk(SyncPurpose::Source { peer, session });
        }
        self.start_source(peer);
    }

    /// Asks the peer to give its copy up for this one.
    pub(super) fn start_source(&mut self, peer: usize) {
        if let Some(source) = &self.peers[peer].source {
            let token = source.token();
            self.send(peer, Frame::SyncStart { token });
        }
    }

    pub(super) fn all_marks_saved(&mut self, peer: usize) {
        // Blocks may have been synced meanwhile; their cleared bits are what memory says.
        if self.superblock.slots[peer].all_marked {
            self.superblock.slots[peer].all_marked = false;
            self.save(After::Nothing);
        }
    }

    /// This node works on the peer's disk.
    fn begin_diskless(&mut self, peer: usize) {
        self.peers[peer].phase = Phase::Idle;
        self.peers[peer].deadline = Nanos::NEVER;
        if self.role != Role::Primary {
            return self.reconsider_disk("connected");
        }
        if self.peers[peer].role == Some(Role::Primary) {
            let (bye, words) = self.words_for(peer, Reason::SplitBrain);
            return self.refuse(peer, bye, words);
        }
        self.ask_generation(peer);
        self.fence_off(peer);
        self.resend_owed(peer);
        self.retry_parked();
    }

    /// A primary without a current disk looks at the one it is to go on with.
    fn unfit_lender(&mut self, peer: usize, verdict: Verdict) -> Option<(ByeReason, String)> {
        if self.role != Role::Primary
            || !matches!(verdict, Verdict::MineDiskless | Verdict::Target(_))
        {
            return None;
        }
        let unfit = self.unfit_to_serve(peer, self.peers[peer].lost_power);
        if unfit.is_none() {
            let found = &mut self.peers[peer];
            found.lost_power = false;
            // It may have taken up the generation it was asked for without being heard.
            let known = found.their_state.as_ref().and_then(|theirs| theirs.lineage.head());
            self.served = known.or(self.served);
        }
        unfit
    }

    /// Why this node, a primary without a current disk, does not go on with the peer's, in words.
    fn unfit_to_serve(&self, peer: usize, rebooted: bool) -> Option<(ByeReason, String)> {
        let theirs = self.peers[peer].their_state.as_ref()?;
        let (me, resource) = (&self.options.name, &self.options.resource);
        let them = &self.peers[peer].name;
        // A disk that was attached since does not say what was served without it.
        let served = self.served.or(self.superblock.lineage.head());
        let freeze = self.freezing.as_ref();
        let asked = freeze.map(|it| [it.base, Some(it.generation), it.asked_first()]);
        let known = theirs.lineage.head();
        let same = served == known
            || (known.is_some() && self.asked_for.contains(&known))
            || asked.is_some_and(|asked| asked.contains(&known));
        // Under C it has all that was acknowledged, unless its host lost what was not stable.
        let keeps = self.options.protocol == Protocol::C && !rebooted;
        let out = &self.peers[peer].out;
        // Its disk is from before the last meeting that this node remembers, whatever its records say.
        let bond = self.peers[peer].bond;
        let restored = bond.confirmed != 0 && !bond.is_shared_with(theirs.bond());
        let short = self.peers[peer].lacks_shown
            || restored
            || (self.short_peers & (1 << peer) != 0 && !keeps)
            || (rebooted && out.stable < out.last());
        if same && !short {
            return None;
        }
        if !same && self.forks_from(peer) {
            return Some(self.words_for(peer, Reason::SplitBrain));
        }
        // A new disk under it remembers nothing.
        let blank = self.superblock.lineage.head().is_none();
        let before = |served: Generation| known.is_some_and(|known| known.epoch < served.epoch);
        let older = short
            || known.is_some_and(|known| self.superblock.lineage.knows(known))
            || (blank && served.is_some_and(before));
        if !older {
            return Some(self.words_for(peer, Reason::MyPrimaryIsOlder));
        }
        let words = format!(
            "{me} is primary for {resource} without a current disk, and {them} lacks what clients \
             were told is written, or have read. If the disk of {me} has it, run `twinblk disk attach {resource}` \
             there; otherwise give it up: `twinblk demote {resource}` on {me}. Then `twinblk connect \
             {resource}` on both"
        );
        Some((ByeReason::PrimaryWouldBeTarget, words))
    }

    /// The peer has no disk; if it is primary it works on this one.
    fn begin_serving_diskless(&mut self, peer: usize) {
        self.peers[peer].phase = Phase::Idle;
        self.peers[peer].deadline = Nanos::NEVER;
        let primary = self.peers[peer].role == Some(Role::Primary);
        if primary && self.role == Role::Primary {
            let (bye, words) = self.words_for(peer, Reason::SplitBrain);
            return self.refuse(peer, bye, words);
        }
        self.peers[peer].needs_marks_here = primary;
        if primary {
            // What the operator said of this copy was of its life before it is lent.
            self.peers[peer].discard_my_data = false;
        }
        self.reconsider_disk("connected");
    }

    pub(super) fn on_bye(&mut self, peer: usize, reason: ByeReason) {
        let (them, resource) = (self.peers[peer].name.clone(), self.options.resource.clone());
        match reason {
            ByeReason::Renegotiate | ByeReason::Stop => {}
            ByeReason::Disconnect => self.peer_disconnected(peer),
            ByeReason::SplitBrain
            | ByeReason::Unrelated
            | ByeReason::Incompatible
            | ByeReason::PrimaryWouldBeTarget => {
                if self.peers[peer].connection != Connection::StandAlone {
                    let why = match reason {
                        ByeReason::SplitBrain => "it is a split brain",
                        ByeReason::PrimaryWouldBeTarget => "the copy that serves is the older one",
                        ByeReason::Incompatible => "configuration, size or resource differ",
                        _ => "the copies do not fit together",
                    };
                    let words = format!(
                        "{them} refused the connection for {resource}: {why}; `twinblk status \
                         {resource}` on {them} says what to do"
                    );
                    self.stand_alone(peer, words);
                }
            }
        }
        self.disconnect(peer, "the peer ended the session");
    }
}
