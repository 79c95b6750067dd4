//! Owns what an operator may ask of a resource, and when it is refused.
//! Must never lose data without a word that says so, nor refuse without naming the next command.

use super::Replica;
use super::disk::DiskPhase;
use super::disk_loss::DiskLoss;
use super::event::{Command, CommandId, Connection, Output, Refusal};
use super::options::PeerLoss;
use super::peer::Phase;
use super::persist::After;
use crate::format::frame::{ByeReason, DiskState, Frame, Role};
use crate::format::lineage::Lineage;
use crate::format::superblock::{Bond, DataState};

pub(super) const OPENING: &str = "the disk is being opened; try again in a moment";
pub(super) const LET_GO: &str = "the disk is being let go of; try again in a moment";
const STOPPING: &str =
    "the daemon is stopping; start it again with `twinblk serve` and repeat the command";
pub(super) const NO_DISK: &str = "there is no local disk; run `twinblk disk attach RESOURCE`";
pub(super) const ROLE_CHANGES: &str = "a change of role is under way; try again in a moment";

impl Replica {
    pub(super) fn on_command(&mut self, id: CommandId, command: Command) {
        if self.stopping.is_some() {
            // What has ended must not begin again.
            return self.refuse_command(id, "stopping", STOPPING);
        }
        match command {
            Command::Promote { force } => self.promote(id, force),
            Command::Demote => self.demote(id),
            Command::Connect { discard_my_data } => self.connect(id, discard_my_data),
            Command::Disconnect => self.disconnect_all(id),
            Command::Invalidate => self.invalidate(id),
            Command::PauseSync => self.pause_sync(id, true),
            Command::ResumeSync => self.pause_sync(id, false),
            Command::Resume => self.resume(id),
            Command::Verify { repair } => self.verify_command(id, repair),
            Command::InitFrom => self.init_from(id),
            Command::InitEmpty => self.init_empty(id),
            Command::DiskDetach => self.detach(id),
            Command::DiskAttach => self.attach(id, false),
            Command::DiskReplace => self.attach(id, true),
            Command::NodeReplace => self.node_replace(id),
            Command::Stop => self.stop(id),
        }
    }

    pub(super) fn answer(&mut self, id: CommandId, result: Result<String, Refusal>) {
        self.emit(Output::Answer { id, result: Box::new(result) });
    }

    /// `RESOURCE` in the text is put into words.
    pub(super) fn refuse_command(&mut self, id: CommandId, reason: &'static str, text: &str) {
        let (resource, me) = (&self.options.resource, &self.options.name);
        let text = format!("{resource} on {me}: {}", text.replace("RESOURCE", resource));
        self.answer(id, Err(Refusal { reason, text }));
    }

    fn connect(&mut self, id: CommandId, discard_my_data: bool) {
        if discard_my_data && self.role == Role::Primary {
            let text = "a primary cannot give up its data; run `twinblk demote RESOURCE` first";
            return self.refuse_command(id, "is-primary", text);
        }
        let ends = |peer: &super::peer::Peer| {
            peer.session.is_some() && peer.connection == Connection::StandAlone
        };
        if !self.leaving.is_empty() || self.peers.iter().any(ends) {
            let text = "it is disconnecting; try again in a moment";
            return self.refuse_command(id, "busy", text);
        }
        for peer in 0..self.peers.len() {
            let found = &mut self.peers[peer];
            if found.session.is_some() {
                if discard_my_data {
                    let text = "the nodes are connected, so nothing parts them; `twinblk invalidate RESOURCE` gives this copy up";
                    return self.refuse_command(id, "connected", text);
                }
                continue;
            }
            found.discard_my_data = discard_my_data;
            found.reason.clear();
            found.redial = None;
            self.set_connection(peer, Connection::Connecting, "connect");
            self.dial(peer, true);
        }
        self.answer(id, Ok(format!("{} is connecting", self.options.resource)));
    }

    fn disconnect_all(&mut self, id: CommandId) {
        if let Some((reason, text)) = self.disconnect_refusal() {
            return self.refuse_command(id, reason, &text);
        }
        // The peer that granted it would take this node for a primary that it withdrew from.
        self.give_up_promotion("given-up", "`twinblk disconnect` came before it was done");
        if self.promoting.is_some() {
            return self.refuse_command(id, "busy", ROLE_CHANGES);
        }
        self.leaving.push(id);
        for peer in 0..self.peers.len() {
            let follows = self.peers[peer].role == Some(Role::Primary);
            if self.role == Role::Secondary && follows && self.has_metadata() {
                // A secondary withdraws by its own durable word, before the primary hears of it.
                if self.superblock.data == DataState::Consistent {
                    self.superblock.data = DataState::Outdated;
                }
                self.save(After::Withdrawn { peer });
            } else {
                self.withdrawn(peer);
            }
        }
    }

    /// Answers `disconnect` once this node's word is on record and no session is left.
    pub(super) fn check_left(&mut self) {
        let left = |peer: &super::peer::Peer| {
            peer.session.is_none() && peer.connection == Connection::StandAlone
        };
        if self.leaving.is_empty() || !self.peers.iter().all(left) {
            return;
        }
        for id in std::mem::take(&mut self.leaving) {
            self.answer(id, Ok(format!("{} is disconnected", self.options.resource)));
        }
    }

    /// Clients must not come to wait because of a planned disconnect.
    fn disconnect_refusal(&self) -> Option<(&'static str, String)> {
        let resource = &self.options.resource;
        let primary = self.role == Role::Primary;
        let suspends = self.options.on_peer_loss == PeerLoss::Suspend;
        for peer in &self.peers {
            let them = &peer.name;
            if primary && self.disk != DiskState::UpToDate {
                let next = match self.has_open_disk() {
                    true => format!("twinblk wait {resource} --for insync --timeout 12h"),
                    false => format!("twinblk disk attach {resource}"),
                };
                let text = format!(
                    "this primary works on the copy of {them}, and without it client I/O would \
                     wait. Run `{next}` first, or `twinblk demote {resource}`"
                );
                return Some(("last-copy", text));
            }
            if primary && peer.session.is_some() && !self.goes_on_alone() {
                let text = format!(
                    "on_peer_loss is \"suspend\", so without {them} client I/O would wait. Run \
                     `twinblk demote {resource}` first, or `twinblk resume {resource}` to let this \
                     node go on alone"
                );
                return Some(("would-suspend", text));
            }
            if self.is_only_copy_of(peer) {
                let text = format!(
                    "{them} is primary and works on the copy here: without it its client I/O would \
                     wait. Run `twinblk disk attach {resource}` on {them} first, or `twinblk demote \
                     {resource}` there"
                );
                return Some(("last-copy", text));
            }
            if peer.role == Some(Role::Primary) && suspends {
                let text = format!(
                    "on_peer_loss is \"suspend\", so without this node client I/O on {them} would \
                     wait. Run there `twinblk resume {resource}`, then `twinblk disconnect \
                     {resource}`"
                );
                return Some(("would-suspend", text));
            }
        }
        None
    }

    /// The peer serves clients from the copy of this node.
    fn is_only_copy_of(&self, peer: &super::peer::Peer) -> bool {
        let lacks = peer.disk.is_some_and(|disk| disk < DiskState::UpToDate);
        // Also while the two are just meeting: it is not called up to date before that is on record.
        peer.role == Some(Role::Primary) && lacks && self.disk > DiskState::Outdated
    }

    pub(super) fn withdrawn(&mut self, peer: usize) {
        self.send(peer, Frame::Bye { reason: ByeReason::Disconnect });
        self.disconnect(peer, "the operator disconnected");
        let words = format!(
            "disconnected by the operator; `twinblk connect {}` connects again",
            self.options.resource
        );
        self.stand_alone(peer, words);
        self.reconsider_disk("disconnect");
    }

    /// The peer's operator disconnected it.
    pub(super) fn peer_disconnected(&mut self, peer: usize) {
        let primary = self.peers[peer].role == Some(Role::Primary);
        if self.role == Role::Primary {
            let found = &self.peers[peer];
            let has_disk = found.disk.is_some_and(|disk| disk >= DiskState::Inconsistent);
            if !found.bond_heard || !has_disk || !found.early.is_empty() {
                // It may not know whose copy it leaves, or has no disk, or has just said so: nothing is on
                // record there then.
                return;
            }
            self.superblock.slots[peer].withdrawn = true;
            self.save(After::Nothing);
        } else if primary && self.superblock.data == DataState::Consistent {
            self.superblock.data = DataState::Outdated;
            self.save(After::Nothing);
        }
    }

    fn invalidate(&mut self, id: CommandId) {
        if self.role == Role::Primary {
            let text = "a primary cannot forget its data; run `twinblk demote RESOURCE` first";
            return self.refuse_command(id, "is-primary", text);
        }
        if !self.has_open_disk() {
            return self.refuse_command(id, "no-disk", NO_DISK);
        }
        if self.demoting.is_some() || self.promoting.is_some() {
            return self.refuse_command(id, "busy", ROLE_CHANGES);
        }
        let chosen =
            |peer: &super::peer::Peer| peer.negotiates() || peer.phase == Phase::SourceWaits;
        if self.peers.iter().any(chosen) {
            let text = "the nodes are agreeing whose data is newer, and the peer may be giving its own copy \
                        up for this one; try again in a moment";
            return self.refuse_command(id, "busy", text);
        }
        let whole = self.superblock.data != DataState::Inconsistent;
        let worse = |peer: &super::peer::Peer| peer.disk.is_some_and(|it| it < DiskState::Outdated);
        if whole && self.superblock.lineage.head().is_some() && self.peers.iter().any(worse) {
            let text = "the peer has no whole copy, so this one is the last; wait until it has: `twinblk \
                        wait RESOURCE --for insync --timeout 12h`";
            return self.refuse_command(id, "last-copy", text);
        }
        self.superblock.lineage = Lineage::default();
        self.superblock.data = DataState::Inconsistent;
        self.superblock.sync_target = None;
        self.superblock.former_primary = false;
        self.superblock.parted = false;
        // A resync that just ended here must not bring back what is forgotten now.
        self.peers.iter_mut().for_each(|peer| peer.adopting = None);
        self.reconsider_disk("invalidate");
        let text = "this copy is forgotten; all of it comes from the peer once they are connected";
        self.save(After::Renegotiate { peer: 0, id, text });
    }

    fn pause_sync(&mut self, id: CommandId, paused: bool) {
        for peer in 0..self.peers.len() {
            self.peers[peer].paused_here = paused;
            self.note_peer(peer, if paused { "pause-sync" } else { "resume-sync" });
            self.send(peer, Frame::PauseSync { paused });
            self.feed_resync(peer);
        }
        let word = if paused { "rests" } else { "may run" };
        self.answer(id, Ok(format!("resync of {} {word}", self.options.resource)));
    }

    /// A pause outlives a session: the peer of a new one is told.
    pub(super) fn tell_pause(&mut self, peer: usize) {
        if self.peers[peer].paused_here {
            self.send(peer, Frame::PauseSync { paused: true });
        }
    }

    pub(super) fn on_pause_sync(&mut self, peer: usize, paused: bool) {
        self.peers[peer].paused_there = paused;
        self.feed_resync(peer);
    }

    fn resume(&mut self, id: CommandId) {
        if self.role != Role::Primary {
            return self.refuse_command(id, "not-primary", "only a primary's I/O can be suspended");
        }
        self.resumed = true;
        // What was written here and not by the peer goes on by its mark, as after any loss.
        for peer in 0..self.peers.len() {
            // One that was told the state here has it at the end of the meeting.
            if !self.peers[peer].negotiates() {
                self.miss_lost(peer);
            }
        }
        self.retry_held();
        self.retry_frozen();
        self.check_flushes();
        let text = format!("{} goes on without its peer", self.options.resource);
        self.answer(id, Ok(text));
    }

    fn verify_command(&mut self, id: CommandId, repair: bool) {
        if self.verify.is_some() {
            return self.refuse_command(
                id,
                "busy",
                "a verify is running already; `twinblk status RESOURCE` shows how far it is",
            );
        }
        let found = self.peers.iter().position(|peer| peer.phase == Phase::Established);
        let Some(peer) = found.filter(|_| self.disk == DiskState::UpToDate) else {
            let text = "verify needs two connected, up-to-date nodes; `twinblk status RESOURCE` says what is missing";
            return self.refuse_command(id, "not-in-sync", text);
        };
        if self.peers[peer].role == Some(Role::Primary) {
            let them = &self.peers[peer].name;
            let text = format!(
                "verify is driven by the primary; run `twinblk verify {}` on {them}",
                self.options.resource
            );
            return self.refuse_command(id, "peer-is-primary", &text);
        }
        if repair && self.role == Role::Secondary {
            let text = format!(
                "a repair overwrites what differs from the primary's copy, and neither node is \
                 primary; run `twinblk promote {0}` on the node whose copy counts, and `twinblk \
                 verify {0} --repair` there",
                self.options.resource
            );
            return self.refuse_command(id, "no-primary", &text);
        }
        self.begin_verify(id, peer, repair);
    }

    fn detach(&mut self, id: CommandId) {
        if matches!(self.disk_phase, DiskPhase::Opening | DiskPhase::Recovering) {
            return self.refuse_command(id, "busy", OPENING);
        }
        if !self.has_open_disk() {
            return self.answer(id, Ok("there is no local disk to let go of".to_owned()));
        }
        let served = |peer: &super::peer::Peer| {
            peer.phase == Phase::Established && peer.disk == Some(DiskState::UpToDate)
        };
        if self.role == Role::Primary && !self.peers.iter().any(served) {
            let text = "this is the last up-to-date copy in reach; run `twinblk connect RESOURCE` and \
                        `twinblk wait RESOURCE --for insync --timeout 12h` first";
            return self.refuse_command(id, "last-copy", text);
        }
        if self.peers.iter().any(|peer| self.is_only_copy_of(peer)) {
            let text = "the peer is primary and works on this copy; run `twinblk disk attach RESOURCE` there";
            return self.refuse_command(id, "last-copy", text);
        }
        let serves = |peer: &super::peer::Peer| peer.role == Some(Role::Primary);
        if self.options.on_peer_loss == PeerLoss::Suspend && self.peers.iter().any(serves) {
            let text = "the peer is primary, and on_peer_loss is \"suspend\": without this disk client I/O \
                        there would wait. Run there `twinblk resume RESOURCE`, then `twinblk disconnect RESOURCE`";
            return self.refuse_command(id, "would-suspend", text);
        }
        self.fail_disk(DiskLoss::Detached);
        self.answer(id, Ok("the disk is detached".to_owned()));
    }

    fn attach(&mut self, id: CommandId, fresh: bool) {
        match self.disk_phase {
            DiskPhase::Absent => self.open_disk(fresh, Some(id)),
            DiskPhase::Opening | DiskPhase::Recovering => {
                self.refuse_command(id, "busy", OPENING);
            }
            DiskPhase::Closing => {
                self.refuse_command(id, "busy", LET_GO);
            }
            DiskPhase::Open => {
                let text = "there is a local disk; run `twinblk disk detach RESOURCE` first";
                self.refuse_command(id, "has-disk", text);
            }
        }
    }

    fn node_replace(&mut self, id: CommandId) {
        if self.peers.iter().any(|peer| peer.session.is_some()) {
            let text = "the peer is connected, and `node replace` is for a machine that is gone; if it is \
                        to be given up, run `twinblk disconnect RESOURCE` first";
            return self.refuse_command(id, "connected", text);
        }
        if !self.has_open_disk() {
            return self.refuse_command(id, "no-disk", NO_DISK);
        }
        for slot in self.superblock.slots.iter_mut().filter(|slot| slot.in_use) {
            slot.bond = Bond::default();
            slot.base = None;
            slot.sync_token = 0;
            slot.all_marked = true;
            slot.withdrawn = true;
        }
        self.peers.iter_mut().for_each(|peer| peer.bond = Bond::default());
        self.superblock.parted = false;
        self.maps.iter_mut().for_each(super::dirty_map::DirtyMap::mark_all);
        self.reconsider_disk("node replace");
        self.save(After::Answer { id, text: "the peer's new machine will get a full copy" });
    }
}
