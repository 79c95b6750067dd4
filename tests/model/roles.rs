//! Owns who serves in the model, and how nodes and sessions come and go: promotion, demotion, crash,
//! power cut, start, stop, and the operator's other words. Follows `src/replica/role.rs`, `disk.rs`
//! (`recover`), `stop.rs`, `command.rs`, `init.rs`, and `on_link_down` of `peer.rs`.

use crate::rules::{Plant, Rules};
use crate::state::{ALL, BLOCKS, Begun, Node, Phase, Promoting, Sent, Stage, State, Worth};
use twinblk::format::frame::{DiskState, Protocol};
use twinblk::format::superblock::DataState;

impl Rules {
    pub(crate) fn cut(&self, s: &mut State, after_stable: bool) -> bool {
        if s.left.cuts == 0 || s.session == 0 || s.broken {
            return false;
        }
        if after_stable {
            // Only where the receiver's record is of account.
            let syncs = s.nodes.iter().any(|node| node.phase == Phase::SyncTarget);
            if !syncs || !s.is_alive() || !self.stable_there(s) {
                return false;
            }
        }
        s.left.cuts -= 1;
        s.broken = true;
        true
    }

    pub(crate) fn crash(&self, s: &mut State, n: u8) -> bool {
        if s.left.crashes == 0 {
            return false;
        }
        s.left.crashes -= 1;
        self.down(s, n);
        let node = s.nodes[usize::from(n)];
        // Clause: rule 5 of the arbitration. Under B a peer acknowledges out of its memory, so one whose
        // process ended is not sure to have it.
        let served = node.record.primary || node.record.former_primary;
        s.ledger.down(n, &node, self.protocol == Protocol::B && !served);
        self.start(s, n, false);
        true
    }

    /// What was not stable is lost, or some of it.
    pub(crate) fn power(&self, s: &mut State, n: u8, found: [u8; BLOCKS]) -> bool {
        if s.left.crashes == 0 {
            return false;
        }
        s.left.crashes -= 1;
        self.down(s, n);
        let node = &mut s.nodes[usize::from(n)];
        for (cell, found) in node.disk.iter_mut().zip(found) {
            cell.seen = found;
        }
        node.sync();
        let node = s.nodes[usize::from(n)];
        s.ledger.down(n, &node, true);
        self.start(s, n, true);
        true
    }

    fn down(&self, s: &mut State, n: u8) {
        let node = s.nodes[usize::from(n)];
        let receiver = s.stream.sender != n;
        if receiver {
            // What it had in memory, its peer still counts as sent.
            s.stream.drop_if(|sent| sent.orphan);
            let received = s.stream.iter_mut().filter(|sent| sent.stage == Stage::Received);
            received.for_each(|sent| sent.stage = Stage::Channel);
        } else {
            s.stream.drop_if(|sent| sent.stage != Stage::Received);
            s.stream.iter_mut().for_each(|sent| sent.orphan = true);
        }
        s.broken |= node.phase != Phase::Down;
        s.nodes[usize::from(n)] = Node::without_memory(node.record, node.disk);
    }

    /// `Replica::recover`, `mark_recovered`, `marks_recovered`, in one: it can be done again.
    /// At once, as a node that is down and one that has no session are the same to the other.
    fn start(&self, s: &mut State, n: u8, dark: bool) {
        let node = &mut s.nodes[usize::from(n)];
        let record = &mut node.record;
        record.former_primary |= record.primary;
        record.rebooted |= dark;
        let hot = record.log_live && !self.has(Plant::ForgetHot);
        let hot = if hot { record.hot } else { 0 };
        let marks = record.pages | hot | if record.all_marked { ALL } else { 0 };
        (record.pages, record.all_marked) = (marks, false);
        (record.primary, record.log_live, record.hot) = (false, false, 0);
        node.map = marks;
        node.restarted = true;
        // The store makes stable what it finds.
        node.sync();
    }

    /// `Replica::stop` of a secondary (a primary demotes first).
    pub(crate) fn stop(&self, s: &mut State, n: u8) -> bool {
        let node = &mut s.nodes[usize::from(n)];
        let quiet = s.stream.is_empty() && !node.owes_generation && node.promoting.is_none();
        if s.left.stops == 0 || node.primary || !quiet {
            return false;
        }
        s.left.stops -= 1;
        node.save();
        node.sync();
        node.record.pages = node.map;
        node.record.log_live = false;
        let restarted = node.restarted;
        self.down(s, n);
        self.start(s, n, false);
        // `Replica::marks_saved_for_stop`: the record says that nothing was left in memory.
        s.nodes[usize::from(n)].restarted = restarted;
        true
    }

    /// `Replica::promote`, with `promote_refusal`.
    pub(crate) fn promote(&self, s: &mut State, n: u8, force: bool) -> bool {
        let disk = Self::disk_state(s, n);
        let node = &s.nodes[usize::from(n)];
        let free = !node.primary && node.promoting.is_none();
        if !free || node.record.lineage == 0 || node.peer_primary || node.negotiates() {
            return false;
        }
        if matches!(node.phase, Phase::SyncTarget | Phase::Adopting) {
            return false;
        }
        let stale = self.has(Plant::StalePromote) && disk > DiskState::Inconsistent;
        let may = disk == DiskState::UpToDate || stale;
        if may == force {
            return false;
        }
        let left = if force { &mut s.left.words } else { &mut s.left.promotions };
        if *left == 0 {
            return false;
        }
        *left -= 1;
        let (epoch, granted) = (node.record.epoch + 1, node.phase == Phase::Down);
        let promoting = Promoting { epoch, granted, forced: force };
        s.nodes[usize::from(n)].promoting = Some(promoting);
        // Without a peer nobody is waited for.
        !granted || self.take_office(s, n)
    }

    /// `Replica::on_promote_ask` of the peer; `n` is answered.
    pub(crate) fn grant(&self, s: &mut State, n: u8) -> bool {
        let alive = s.is_alive();
        let [mine, theirs] = [usize::from(n), 1 - usize::from(n)];
        let Some(promoting) = s.nodes[mine].promoting.filter(|it| alive && !it.granted) else {
            return false;
        };
        let adopted = s.nodes[mine].phase == Phase::Established;
        let started = s.nodes[mine].start_sent;
        let peer = &mut s.nodes[theirs];
        if adopted && peer.phase == Phase::SyncSource {
            return false; // `SyncAdopted` comes first.
        }
        if started && peer.phase == Phase::TargetWaits {
            return false; // `SyncStart` comes first, and one save holds what both demand.
        }
        if matches!(peer.phase, Phase::Meeting | Phase::Noted | Phase::Equal) {
            return false; // It waits among the early frames.
        }
        let mine_first = peer.promoting.is_some() && theirs < mine;
        let stale = promoting.epoch <= peer.record.epoch;
        if peer.primary || mine_first || stale {
            // `Replica::fail_promotion`.
            s.nodes[mine].promoting = None;
            s.nodes[theirs].peer_primary = false;
            return true;
        }
        peer.save();
        (peer.record.epoch, peer.granted) = (promoting.epoch, promoting.epoch);
        // While it is `Adopting`, what it adopts is not on record yet.
        if peer.phase == Phase::Established || self.has(Plant::GrantedIsCurrent) {
            peer.record.current = promoting.epoch;
            peer.record.former_primary = false;
        }
        peer.peer_primary = true;
        s.nodes[mine].promoting = Some(Promoting { granted: true, ..promoting });
        true
    }

    /// `Replica::take_office`, `promoted`.
    pub(crate) fn take_office(&self, s: &mut State, n: u8) -> bool {
        let node = &s.nodes[usize::from(n)];
        let Some(promoting) = node.promoting.filter(|it| it.granted) else {
            return false;
        };
        // `Replica::has_leftovers`.
        let leftovers = s.stream.iter().any(|sent| sent.orphan && s.stream.sender != n);
        if leftovers || node.owes_generation {
            return false;
        }
        if promoting.forced && !self.force_current(s, n) {
            return false;
        }
        let node = &mut s.nodes[usize::from(n)];
        if self.protocol != Protocol::C {
            // What a former primary's clients flushed and was only received here.
            node.sync();
        }
        node.save();
        node.promoting = None;
        node.record.epoch = node.record.epoch.max(promoting.epoch);
        node.record.current = node.record.epoch;
        (node.record.primary, node.record.log_live, node.primary) = (true, true, true);
        self.tell_role(s, n);
        true
    }

    /// `RoleChange`.
    fn tell_role(&self, s: &mut State, n: u8) {
        let alive = s.is_alive();
        let primary = s.nodes[usize::from(n)].primary;
        let peer = &mut s.nodes[1 - usize::from(n)];
        if alive {
            peer.peer_primary = primary;
        }
    }

    /// `Replica::force_current`.
    fn force_current(&self, s: &mut State, n: u8) -> bool {
        let node = &mut s.nodes[usize::from(n)];
        let was = node.data();
        if was == DataState::Inconsistent {
            node.record.all_marked = true;
            node.record.sync_token = 0;
            node.map = ALL;
            if !self.begin_generation(s, n) {
                return false;
            }
        }
        let record = &mut s.nodes[usize::from(n)].record;
        record.data = Worth(DataState::Consistent);
        (record.sync_target, record.parted) = (None, false);
        s.ledger.go_on_by_word();
        true
    }

    /// `Replica::demote` to its end: what clients wrote is stable on both, the marks are saved.
    pub(crate) fn demote(&self, s: &mut State, n: u8) -> bool {
        let node = &mut s.nodes[usize::from(n)];
        let quiet = node.piece.is_none() && !node.owes_generation;
        let sent = s.stream.iter().any(|sent| !sent.orphan && !sent.item);
        if !node.primary || !quiet || sent {
            return false;
        }
        node.save();
        node.sync();
        node.record.pages = node.map;
        node.record.primary = false;
        node.record.former_primary |= node.map != 0;
        (node.record.log_live, node.record.hot) = (false, 0);
        node.primary = false;
        // With the peer away it is no flush, which would have begun a generation: what clients
        // wrote is stable on both only if both are there.
        if s.is_alive() && s.nodes.iter().all(|node| node.phase == Phase::Established) {
            let node = s.nodes[usize::from(n)];
            s.ledger.flush(&node);
        }
        self.tell_role(s, n);
        true
    }

    /// `Replica::disconnect_all`: the word is durable before the peer hears of it.
    pub(crate) fn disconnect(&self, s: &mut State, n: u8) -> bool {
        if s.left.withdrawals == 0 || !s.is_alive() {
            return false;
        }
        s.left.withdrawals -= 1;
        let node = &mut s.nodes[usize::from(n)];
        if !node.primary && node.peer_primary {
            node.save();
            withdraw(node);
            s.ledger.alone(1 - n);
        }
        (s.broken, s.bye) = (true, Some(n));
        self.end_session(s, n);
        true
    }

    /// `Replica::peer_disconnected`.
    pub(crate) fn hear_bye(&self, s: &mut State, n: u8) -> bool {
        let said = s.bye == Some(1 - n);
        let node = &mut s.nodes[usize::from(n)];
        if !said || node.phase == Phase::Down || node.owes_generation {
            return false;
        }
        if node.primary {
            node.save();
            node.record.withdrawn = true;
            s.ledger.alone(n);
        } else if node.peer_primary {
            node.save();
            withdraw(node);
            s.ledger.alone(1 - n);
        }
        self.end_session(s, n);
        true
    }

    /// The session is over, and the node finds out.
    pub(crate) fn notice(&self, s: &mut State, n: u8) -> bool {
        let node = &s.nodes[usize::from(n)];
        if node.phase == Phase::Down || !s.broken {
            return false;
        }
        self.end_session(s, n);
        true
    }

    /// `Replica::on_link_down`.
    pub(crate) fn end_session(&self, s: &mut State, n: u8) {
        self.lose_stream(s, n);
        let node = &mut s.nodes[usize::from(n)];
        let kept = *node;
        *node = Node {
            primary: kept.primary,
            map: kept.map,
            lifted: kept.lifted,
            unflushed: kept.unflushed,
            restarted: kept.restarted,
            owes_generation: kept.owes_generation,
            piece: kept.piece,
            promoting: kept.promoting.filter(|_| kept.phase == Phase::Down),
            ..Node::without_memory(kept.record, kept.disk)
        };
    }

    /// `Replica::invalidate`.
    pub(crate) fn invalidate(&self, s: &mut State, n: u8) -> bool {
        let peer = s.nodes[1 - usize::from(n)];
        let worse = peer.phase != Phase::Down && peer.data() == DataState::Inconsistent;
        let node = &mut s.nodes[usize::from(n)];
        let whole = node.data() != DataState::Inconsistent;
        let idle = !node.primary && node.promoting.is_none();
        if !idle || node.record.lineage == 0 || (whole && worse) || s.left.words == 0 {
            return false;
        }
        s.left.words -= 1;
        node.lifted = false;
        let record = &mut node.record;
        record.lineage = 0;
        record.data = Worth(DataState::Inconsistent);
        (record.sync_target, record.former_primary, record.parted) = (None, false, false);
        s.ledger.go_on_by_word();
        if node.phase != Phase::Down {
            s.broken = true;
            self.end_session(s, n);
        }
        true
    }

    /// `Replica::init_from`.
    pub(crate) fn init_from(&self, s: &mut State, n: u8) -> bool {
        let peer = s.nodes[1 - usize::from(n)];
        let told = s.is_alive() && peer.record.lineage != 0;
        let node = &s.nodes[usize::from(n)];
        let blank = node.record.lineage == 0;
        let epoch = node.record.epoch + 1;
        if !blank || told || s.left.generations == 0 {
            return false;
        }
        s.left.generations -= 1;
        let place = s.new_generation(Begun { epoch, node: n });
        let node = &mut s.nodes[usize::from(n)];
        node.record.epoch = epoch;
        node.record.lineage = 1 << place;
        node.record.data = Worth(DataState::Consistent);
        (node.record.all_marked, node.record.withdrawn) = (true, true);
        node.map = ALL;
        if node.phase != Phase::Down {
            s.broken = true;
            self.end_session(s, n);
        }
        true
    }
}

/// Whoever withdraws is Outdated by its own word.
fn withdraw(node: &mut Node) {
    if node.record.data.0 == DataState::Consistent {
        node.record.data = Worth(DataState::Outdated);
    }
}

/// Whether something is on its way that will come without anybody's doing.
pub(crate) fn is_quiet(s: &State) -> bool {
    let idle = |node: &Node| node.piece.is_none() && node.promoting.is_none();
    let orphan = |sent: &Sent| sent.orphan;
    s.nodes.iter().all(idle) && !s.stream.iter().any(orphan)
}
