//! Owns the meeting of two nodes: what they tell each other (the real `PeerState`), what the real
//! table says, and how the meeting is recorded. Follows `src/replica/handshake.rs`, step by step.

use crate::ledger::Ledger;
use crate::rules::{Plant, Rules, Watch};
use crate::state::{ALL, Node, Phase, State, Worth};
use twinblk::format::frame::{DiskState, PeerState, Protocol, Role};
use twinblk::format::lineage::Relation;
use twinblk::format::superblock::{Bond, DataState, PeerSlot, SyncTarget};
use twinblk::replica::reconcile::{Extent, Reason, Verdict, reconcile};
use twinblk::units::{BootId, Epoch, NodeId, ResourceId};

/// The blocks of the device, as the nodes tell them.
const DEVICE_BLOCKS: u64 = 2;
/// The row that `Replica::learn_of_newer` knows by its label.
const THEIRS_MIXED_NEWER: &str = "theirs-mixed-newer";

impl Rules {
    /// `Replica::knows_current`.
    pub(crate) fn knows_current(s: &State, n: u8) -> bool {
        let record = &s.nodes[usize::from(n)].record;
        let head = s.head(record.lineage);
        let own = s.lineage(record.lineage).head().is_some_and(|head| head.node.0 == n);
        let behind = record.base != head;
        let lacks = record.base.is_some() && own && behind;
        !record.parted && (lacks || record.withdrawn || (record.sync_token != 0 && behind))
    }

    /// `Replica::reconsider_disk` and `is_current`, where every node has its disk.
    pub(crate) fn disk_state(s: &State, n: u8) -> DiskState {
        let node = &s.nodes[usize::from(n)];
        if node.record.lineage == 0 {
            return DiskState::Inconsistent;
        }
        match node.data() {
            DataState::Inconsistent => DiskState::Inconsistent,
            DataState::Outdated => DiskState::Outdated,
            DataState::Consistent => {
                use Phase::{Established, SourceWaits, SyncSource};
                let agreed = matches!(node.phase, Established | SyncSource | SourceWaits);
                let current = node.primary || agreed || Self::knows_current(s, n);
                if current { DiskState::UpToDate } else { DiskState::Consistent }
            }
        }
    }

    /// What it acknowledged may be gone, as it tells its peer; `Replica::forgot_what_it_received`.
    fn may_lack(&self, node: &Node) -> bool {
        let record = &node.record;
        if self.protocol != Protocol::B {
            return record.rebooted;
        }
        let served = record.former_primary || node.primary;
        let forgot = node.restarted && !served && !self.has(Plant::RestartUntold);
        forgot || (record.rebooted && !self.has(Plant::FormerPrimaryFirst))
    }

    /// `Replica::own_state`.
    pub(crate) fn told(&self, s: &State, n: u8, discard: Option<u8>) -> PeerState {
        let node = &s.nodes[usize::from(n)];
        let record = &node.record;
        let generation = |place: Option<u8>| place.map(|it| s.generation(usize::from(it)));
        let clean = self.has(Plant::CleanWithMarks);
        let slot = PeerSlot {
            in_use: true,
            node: NodeId(1 - n),
            base: generation(record.base),
            sync_token: record.sync_token.into(),
            all_marked: record.all_marked && !clean,
            withdrawn: record.withdrawn,
            bond: Bond { confirmed: record.confirmed.into(), tentative: record.tentative.into() },
        };
        let target = record.sync_target.map(|(token, place)| SyncTarget {
            token: token.into(),
            generation: s.generation(usize::from(place)),
        });
        PeerState {
            resource: ResourceId(1),
            node: NodeId(n),
            device_blocks: DEVICE_BLOCKS,
            protocol: self.protocol,
            role: if node.primary { Role::Primary } else { Role::Secondary },
            disk: Self::disk_state(s, n),
            data: node.data(),
            current: Epoch(record.current.into()),
            boot: BootId(0),
            rebooted: self.may_lack(node),
            was_primary: record.former_primary || node.primary,
            discard_my_data: discard == Some(n),
            lineage: s.lineage(record.lineage),
            sync_target: target,
            slot,
            marked_blocks: if clean { 0 } else { node.map.count_ones().into() },
        }
    }

    /// Both tell their states and compare them: `check_settled`, `on_state`, `compare`.
    pub(crate) fn meet(&self, s: &mut State, discard: Option<u8>, watch: &mut Watch) -> bool {
        let ready = |node: &Node| {
            node.phase == Phase::Down && !node.owes_generation && node.promoting.is_none()
        };
        if !s.nodes.iter().all(ready) || !s.stream.is_empty() {
            return false;
        }
        // `Replica::connect`: a primary cannot give up its data.
        let primary = |n: u8| s.nodes[usize::from(n)].primary;
        if discard.is_some_and(|n| s.left.discards == 0 || primary(n)) {
            return false;
        }
        let states = [0, 1].map(|n| self.told(s, n, discard));
        let (row, mine) = reconcile(&states[0], &states[1]);
        let (other_row, theirs) = reconcile(&states[1], &states[0]);
        *watch.rows.entry(row).or_default() += 1;
        *watch.rows.entry(other_row).or_default() += 1;
        if mine.mirrored() != theirs {
            watch.violate(format!("(c) the decisions do not mirror: {mine:?}, {theirs:?}"));
        }
        let verdicts = self.merged([mine, theirs], &states);
        if discard.is_some() && !row.contains("discard") {
            return false; // The word says nothing here; the plain meeting is tried as well.
        }
        judge_meeting(s, &states, verdicts[0], discard, watch);
        if discard.is_some() {
            s.left.discards -= 1;
        }
        s.session = s.fresh_session();
        s.meeting_epoch = s.nodes[0].record.epoch.max(s.nodes[1].record.epoch);
        for n in 0..2 {
            let (other, labels) = (s.nodes[1 - n], [row, other_row]);
            let their_head = s.head(other.record.lineage);
            let node = &mut s.nodes[n];
            node.verdict = Some(verdicts[n]);
            let refused = matches!(verdicts[n], Verdict::Refuse(_));
            node.phase = if refused { Phase::Refused } else { Phase::Meeting };
            node.newer_there = labels[n] == THEIRS_MIXED_NEWER;
            node.peer_primary = other.primary;
            node.told_token = other.record.sync_target.map_or(0, |(token, _)| token);
            node.told_head = their_head;
            node.told_confirmed = other.record.confirmed;
            node.told_current = other.record.current;
        }
        true
    }

    /// The planted bug of `Replica::compare`.
    fn merged(&self, verdicts: [Verdict; 2], states: &[PeerState; 2]) -> [Verdict; 2] {
        let split = verdicts[0] == Verdict::Refuse(Reason::SplitBrain);
        if !self.has(Plant::MergeSplitBrain) || !split {
            return verdicts;
        }
        let first = states[0].role == Role::Primary || states[1].role == Role::Secondary;
        let mine = if first { Verdict::Source } else { Verdict::Target }(Extent::Full);
        [mine, mine.mirrored()]
    }

    /// `Replica::compare` goes on: the meeting is noted, and durable before the peer hears of it.
    pub(crate) fn note(s: &mut State, n: u8) -> bool {
        let (session, epoch) = (s.session, s.meeting_epoch);
        let node = &mut s.nodes[usize::from(n)];
        if node.phase != Phase::Meeting {
            return false;
        }
        let told = node.told_confirmed;
        if node.verdict == Some(Verdict::Source(Extent::Full)) {
            node.record.all_marked = true;
            node.map = ALL;
        }
        let record = &mut node.record;
        if node.verdict != Some(Verdict::Target(Extent::Full)) {
            if record.tentative != 0 && record.tentative == told {
                record.confirmed = record.tentative;
            }
            record.tentative = session;
        }
        let marks = node.verdict == Some(Verdict::Source(Extent::Marks));
        if marks && record.sync_token != node.told_token {
            record.sync_token = 0;
        }
        record.withdrawn &= matches!(node.verdict, Some(Verdict::Source(_)));
        record.epoch = epoch;
        node.told_confirmed = 0;
        node.save();
        node.phase = Phase::Noted;
        true
    }

    /// `Replica::confirm_bond`, `confirmed_bond_saved`.
    pub(crate) fn confirm(&self, s: &mut State, n: u8, watch: &mut Watch) -> bool {
        let heard = s.nodes[1 - usize::from(n)].phase != Phase::Meeting;
        let (alive, session) = (s.is_alive(), s.session);
        let fresh = s.fresh_token();
        let node = &mut s.nodes[usize::from(n)];
        if node.phase != Phase::Noted || !heard || !alive {
            return false;
        }
        if !node.verdict.is_some_and(Verdict::copies_all) {
            node.remember_meeting(session);
        }
        node.save();
        match node.verdict {
            Some(Verdict::Nothing) => node.phase = Phase::Equal,
            Some(Verdict::Source(_)) => {
                // `Replica::begin_source`.
                node.phase = Phase::SourceWaits;
                let kept = node.record.sync_token;
                let goes_on = kept != 0 && node.told_token == kept;
                node.token = if goes_on { kept } else { fresh };
                node.lifted = node.record.data.0 == DataState::Outdated;
                node.start_sent = node.primary;
            }
            Some(Verdict::Target(_)) => node.phase = Phase::TargetWaits,
            Some(Verdict::AwaitInit) => node.phase = Phase::Idle,
            other => watch.violate(format!("no node of the model is diskless: {other:?}")),
        }
        node.told_token = 0;
        true
    }

    /// `Replica::begin_equal`, `equal_saved`.
    pub(crate) fn equal(&self, s: &mut State, n: u8) -> bool {
        let node = &mut s.nodes[usize::from(n)];
        if node.phase != Phase::Equal {
            return false;
        }
        let record = &mut node.record;
        (record.base, record.sync_token, record.all_marked) = (None, 0, false);
        (record.withdrawn, record.former_primary, record.rebooted) = (false, false, false);
        node.restarted = false;
        (record.parted, record.sync_target) = (false, None);
        record.data = Worth(DataState::Consistent);
        record.current = record.current.max(node.told_current);
        self.establish(s, n);
        true
    }

    /// `Replica::establish`.
    pub(crate) fn establish(&self, s: &mut State, n: u8) {
        let node = &mut s.nodes[usize::from(n)];
        node.phase = Phase::Established;
        node.unflushed = false;
        (node.verdict, node.newer_there, node.told_head) = (None, false, None);
        (node.told_current, node.granted) = (0, 0);
        (node.token, node.start_sent, node.marks_may_go, node.done_sent) = (0, false, false, false);
        let both = s.nodes.iter().all(|node| node.phase == Phase::Established);
        if both && s.is_alive() && self.protocol != twinblk::format::frame::Protocol::A {
            s.ledger.together(&s.nodes);
        }
    }

    /// `Replica::learn_of_newer`, then the end of the session.
    pub(crate) fn learn(&self, s: &mut State, n: u8) -> bool {
        let node = &mut s.nodes[usize::from(n)];
        let Some(Verdict::Refuse(reason)) = node.verdict else {
            return false;
        };
        if node.phase != Phase::Refused {
            return false;
        }
        let older = reason == Reason::MyPrimaryIsOlder || (node.newer_there && !node.primary);
        let parted = matches!(reason, Reason::SplitBrain | Reason::LostBond);
        if older || parted {
            node.record.parted |= parted;
            node.record.withdrawn = false;
            node.save();
            if older && node.record.data.0 == DataState::Consistent {
                node.record.data = Worth(DataState::Outdated);
            }
        }
        s.broken = true;
        self.end_session(s, n);
        true
    }
}

/// Properties (b) and (c), at the moment when the two have told each other their states.
fn judge_meeting(
    s: &mut State,
    states: &[PeerState; 2],
    verdict: Verdict,
    discard: Option<u8>,
    watch: &mut Watch,
) {
    let [a, b] = &s.nodes;
    if verdict == Verdict::Nothing && a.to_be() != b.to_be() {
        let (a, b) = (Ledger::words(a.to_be()), Ledger::words(b.to_be()));
        watch.violate(format!("(b) found equal: {a} and {b}"));
    }
    let whole = states.iter().all(|state| state.data != DataState::Inconsistent);
    let apart = s.ledger.only_in(a, b).zip(s.ledger.only_in(b, a));
    if let Some((one, other)) = apart
        && discard.is_none()
        && whole
        && verdict != Verdict::Refuse(Reason::SplitBrain)
        && verdict != Verdict::Refuse(Reason::Unrelated)
    {
        watch.violate(format!("(c) only alpha has w{one}, only bravo w{other}: {verdict:?}"));
    }
    let fork = states[0].lineage.relation(&states[1].lineage) == Relation::Fork;
    if fork && discard.is_none() && whole && !matches!(verdict, Verdict::Refuse(_)) {
        watch.violate(format!("(c) two histories are merged: {verdict:?}"));
    }
    if discard.is_some() {
        s.ledger.go_on_by_word();
    }
}
