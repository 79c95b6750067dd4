//! Owns what this node knows of a peer now, and what happens when its session begins or ends.
//! Must never outlive its session with anything but durable records and marks.
//!
//! ```text
//!           LinkUp            State sent          State heard         bond durable on both
//!   Down ───────────▶ Settling ──────▶ StateSent ──────▶ Bonding ─┬──▶ Established
//!    ▲                                     │ refused              ├──▶ Idle (no data, no disk)
//!    │                                     ▼                      ├──▶ SourceWaits ──▶ SyncSource ─┐
//!    └──────────── LinkDown ◀── Bye, violation, timeout           └──▶ TargetWaits ──▶ SyncTarget ─┤
//!                                                                                                  │
//!                           Established ◀────────────── SyncDone, SyncAdopted ◀────────────────────┘
//!                           Established ──▶ Ahead / Behind (protocol A, congested)
//!                           any of these ──▶ Idle (the peer's disk is lost; or the own one, in Established)
//! ```

use super::Replica;
use super::apply::Incoming;
use super::event::{Connection, Output, PeerIndex};
use super::reconcile::Verdict;
use super::status::{Pace, Told};
use super::stream::Outgoing;
use super::sync_source::Source;
use crate::buffer::Payload;
use crate::format::frame::{ByeReason, DiskState, Frame, PeerState, Role};
use crate::format::lineage::Lineage;
use crate::format::superblock::Bond;
use crate::limits::{HANDSHAKE_REST, HANDSHAKE_TIME};
use crate::units::{BootId, Epoch, Nanos, NodeId, Session};
use std::collections::VecDeque;

/// Where a session stands; see the drawing above.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Down,
    /// The session stands; writes of an older one still land, or records are being saved.
    Settling,
    StateSent,
    /// The states were compared; both record the meeting.
    Bonding,
    /// Agreed, and there are no two copies to keep equal: nobody has data, or somebody has no disk. A
    /// primary without one works on the other's in this phase.
    Idle,
    /// Source: the target is being told.
    SourceWaits,
    /// Target: waiting to be told, or recording that its copy is of mixed age.
    TargetWaits,
    SyncSource,
    SyncTarget,
    Established,
    /// Protocol A, congested: this node marks instead of sending.
    Ahead,
    /// Protocol A: the peer marks instead of sending.
    Behind,
}

impl Phase {
    /// Stable blocks lose their marks.
    pub(super) const fn clears_marks(self) -> bool {
        matches!(self, Self::SyncSource | Self::SyncTarget)
    }

    /// Sequenced frames are taken.
    pub(super) const fn takes_writes(self) -> bool {
        matches!(
            self,
            Self::SyncSource | Self::SyncTarget | Self::Established | Self::Behind | Self::Idle
        )
    }
}

/// One peer.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) node: NodeId,
    pub(super) name: String,
    pub(super) connection: Connection,
    /// Why it is StandAlone.
    pub(super) reason: String,
    pub(super) session: Option<Session>,
    /// The epoch both had adopted when they met: frames of an older one are stale.
    pub(super) session_epoch: Epoch,
    pub(super) phase: Phase,
    pub(super) deadline: Nanos,
    pub(super) sent_state: Option<Box<PeerState>>,
    pub(super) their_state: Option<Box<PeerState>>,
    pub(super) verdict: Option<Verdict>,
    pub(super) bond_saved: bool,
    pub(super) bond_heard: bool,
    pub(super) role: Option<Role>,
    pub(super) disk: Option<DiskState>,
    pub(super) out: Outgoing,
    pub(super) incoming: Incoming,
    /// Reads it asked for that wait for its own writes.
    pub(super) asked: Vec<super::read::Asked>,
    pub(super) source: Option<Source>,
    /// The peer has told all its marks.
    pub(super) marks_heard: bool,
    /// Frames of a peer that had recorded the meeting before this node had: they wait for that.
    pub(super) early: VecDeque<(Epoch, Frame, Option<Payload>)>,
    /// What this node is about to adopt at the end of a resync to here.
    pub(super) adopting: Option<Lineage>,
    /// The highest epoch that it had adopted when it told its state.
    pub(super) told_epoch: Epoch,
    /// The epoch in which it may be primary, in this session, by this node's word.
    pub(super) granted: Epoch,
    /// Marks still to be sent, from this page on.
    pub(super) marks_to_send: Option<u32>,
    pub(super) paused_here: bool,
    pub(super) paused_there: bool,
    pub(super) congested: bool,
    pub(super) ahead_until: Option<Nanos>,
    /// The peer is primary without a disk: what is written here it lacks.
    pub(super) needs_marks_here: bool,
    /// This node, as primary, has written in the middle of a resync to here: of older blocks that
    /// still come, only marked ones are taken.
    pub(super) fresh: bool,
    /// What it told as the boots of its host since the two last had the same, the newest first: another process
    /// of it may go back to one that it told before.
    pub(super) boots: [Option<BootId>; 2],
    /// The last meeting of the disks, also if this node's own is gone, or is an older one since.
    pub(super) bond: Bond,
    /// It said, when it was last met, that what it had acknowledged may be gone.
    pub(super) rebooted: bool,
    /// Its host has booted, or its disk failed, since it had all: it may lack what it had
    /// acknowledged.
    pub(super) lost_power: bool,
    /// This copy may show what the peer never had, with no generation that tells the two apart: what was
    /// given up unacknowledged, or under way when the process ended.
    pub(super) lacks_shown: bool,
    /// Its disk was lost in this session: whatever is told of it since is late, or of one that is
    /// met anew first.
    pub(super) lost_disk: bool,
    /// It was lost with writes that it had not made stable: no flush is answered without it before
    /// it is in an older generation.
    pub(super) unflushed: bool,
    pub(super) redial: Option<Nanos>,
    pub(super) discard_my_data: bool,
    pub(super) sync_total: u64,
    pub(super) sync_done: u64,
    pub(super) last_sync_blocks: u64,
    pub(super) pace: Pace,
    pub(super) told: Told,
}

impl Peer {
    pub(super) fn new(node: NodeId, name: String) -> Self {
        Self {
            node,
            name,
            connection: Connection::StandAlone,
            reason: String::new(),
            session: None,
            session_epoch: Epoch(0),
            phase: Phase::Down,
            deadline: Nanos::NEVER,
            sent_state: None,
            their_state: None,
            verdict: None,
            bond_saved: false,
            bond_heard: false,
            role: None,
            disk: None,
            out: Outgoing::default(),
            incoming: Incoming::default(),
            asked: Vec::new(),
            source: None,
            marks_heard: false,
            early: VecDeque::new(),
            adopting: None,
            told_epoch: Epoch(0),
            granted: Epoch(0),
            marks_to_send: None,
            paused_here: false,
            paused_there: false,
            congested: false,
            ahead_until: None,
            needs_marks_here: false,
            fresh: false,
            boots: [None; 2],
            bond: Bond::default(),
            rebooted: false,
            lost_power: false,
            lacks_shown: false,
            lost_disk: false,
            unflushed: false,
            redial: None,
            discard_my_data: false,
            sync_total: 0,
            sync_done: 0,
            last_sync_blocks: 0,
            pace: Pace::default(),
            told: Told::NOTHING,
        }
    }

    /// Writes are sent to it.
    pub(super) fn mirrors(&self) -> bool {
        // A disk that comes back, perhaps without what it had acknowledged, is met anew first.
        let lends = self.disk == Some(DiskState::UpToDate) && !self.lost_power && !self.lost_disk;
        let flows =
            matches!(self.phase, Phase::SyncSource | Phase::SyncTarget | Phase::Established)
                || (self.phase == Phase::Idle && lends);
        flows && self.disk.is_some_and(|disk| disk >= DiskState::Inconsistent)
    }

    /// A session stands in which the peer's writes come.
    pub(super) const fn is_streaming(&self) -> bool {
        self.session.is_some() && self.phase.takes_writes()
    }

    /// The nodes are finding out whose data is newer; a write now would falsify what was told.
    pub(super) const fn negotiates(&self) -> bool {
        matches!(self.phase, Phase::StateSent | Phase::Bonding | Phase::TargetWaits)
    }

    pub(super) fn is_ahead(&self) -> bool {
        self.phase == Phase::Ahead
    }

    /// A resync to here whose marks are all known.
    pub(super) fn is_known_target(&self) -> bool {
        self.phase == Phase::SyncTarget && self.marks_heard
    }

    /// The session's id; zero, which no session has, if there is none.
    pub(super) fn session_id(&self) -> Session {
        self.session.unwrap_or_default()
    }

    /// Both sides know all marks, so those of stable blocks may go.
    pub(super) fn marks_may_go(&self) -> bool {
        self.marks_heard && self.source.as_ref().is_none_or(Source::marks_may_go)
    }
}

impl Replica {
    pub(super) fn on_link_up(&mut self, peer: usize, session: Session) {
        debug_assert!(self.peers[peer].session.is_none(), "LinkDown comes first");
        let found = &mut self.peers[peer];
        found.session = Some(session);
        found.lost_disk = false;
        found.phase = Phase::Settling;
        found.deadline = self.now + HANDSHAKE_TIME;
        if self.peers[peer].connection == Connection::StandAlone {
            return self.disconnect(peer, "the operator disconnected meanwhile");
        }
        self.set_connection(peer, Connection::Connected, "the link stands");
        if self.has_said_goodbye() {
            return self.disconnect(peer, "the daemon stops");
        }
        self.check_settled(peer);
    }

    pub(super) fn on_link_down(&mut self, peer: usize, session: Session) {
        if self.peers[peer].session != Some(session) {
            return;
        }
        let was = self.peers[peer].phase;
        let found = &mut self.peers[peer];
        found.session = None;
        found.phase = Phase::Down;
        found.deadline = Nanos::NEVER;
        found.sent_state = None;
        found.their_state = None;
        found.verdict = None;
        (found.bond_saved, found.bond_heard) = (false, false);
        (found.role, found.disk) = (None, None);
        found.marks_to_send = None;
        found.marks_heard = false;
        found.adopting = None;
        found.granted = Epoch(0);
        let diskless = std::mem::take(&mut found.needs_marks_here);
        found.fresh = false;
        found.asked.clear();
        (found.paused_there, found.congested) = (false, false);
        found.ahead_until = None;
        if was == Phase::SyncTarget || was == Phase::SyncSource {
            found.last_sync_blocks = found.sync_done;
        }
        if self.peers[peer].connection == Connection::Connected {
            self.set_connection(peer, Connection::Connecting, "the link was lost");
        }
        self.drop_early(peer);
        self.drop_source(peer);
        self.drop_incoming(peer, diskless);
        self.lose_stream(peer);
        self.forget_remote_reads(peer);
        self.drop_verify(peer, "the link was lost");
        self.role_lost_peer(peer);
        self.offer_lost_peer(peer);
        self.reconsider_disk("the link was lost");
        self.miss_lost(peer);
        self.check_flushes();
        self.plan_log();
    }

    /// Ends a session on which the peer broke the protocol.
    pub(super) fn violation(&mut self, peer: usize, why: &'static str) {
        self.disconnect(peer, why);
    }

    pub(super) fn disconnect(&mut self, peer: usize, why: &'static str) {
        if let Some(session) = self.peers[peer].session {
            let peer = PeerIndex(u8::try_from(peer).expect("few peers"));
            self.emit(Output::Disconnect { peer, session, why });
        }
    }

    /// Ends the session in order to decide anew.
    pub(super) fn renegotiate(&mut self, peer: usize) {
        self.send(peer, Frame::Bye { reason: ByeReason::Renegotiate });
        self.disconnect(peer, "to negotiate anew");
    }

    pub(super) fn set_connection(&mut self, peer: usize, connection: Connection, cause: &str) {
        let old = std::mem::replace(&mut self.peers[peer].connection, connection);
        if old != connection {
            let subject = self.peers[peer].name.clone();
            self.note_of(&subject, "connection", (&old, &connection), cause);
        }
    }

    /// Stops trying, until the operator says `connect`.
    pub(super) fn stand_alone(&mut self, peer: usize, reason: String) {
        self.set_connection(peer, Connection::StandAlone, &reason);
        self.peers[peer].reason = reason;
        self.dial(peer, false);
    }

    pub(super) fn dial(&mut self, peer: usize, wanted: bool) {
        let peer = PeerIndex(u8::try_from(peer).expect("few peers"));
        self.emit(Output::Dial { peer, wanted });
    }

    /// Deadlines of sessions.
    pub(super) fn peer_timers(&mut self) {
        for peer in 0..self.peers.len() {
            let found = &mut self.peers[peer];
            if found.deadline <= self.now {
                // A peer that does not get through must not stall clients over and over.
                found.deadline = Nanos::NEVER;
                found.redial = Some(self.now + HANDSHAKE_REST);
                self.disconnect(peer, "the peer did not get through the negotiation in time");
                self.dial(peer, false);
            }
            if self.peers[peer].redial.is_some_and(|at| at <= self.now) {
                self.peers[peer].redial = None;
                let wanted = self.peers[peer].connection != Connection::StandAlone;
                self.dial(peer, wanted && !self.has_said_goodbye());
            }
            if self.peers[peer].ahead_until.is_some_and(|until| until <= self.now) {
                self.peers[peer].ahead_until = None;
                self.renegotiate(peer);
            }
        }
    }
}
