//! Owns the operator: commands drawn from what status says, wise or not, and the steady hand that
//! mends a cluster in the end. Must never look past status.

use twinblk::format::frame::{DiskState, Role};
use twinblk::replica::event::{Command, Connection, Replication, Status};

use crate::random::Random;

/// A command and the node it goes to.
pub(crate) type Order = (usize, Command);

/// What the operator sees: the status of each node that answers.
pub(crate) type Seen<'a> = [Option<&'a Status>];

/// An operator at random.
pub(crate) struct Operator {
    pub(crate) random: Random,
    pub(crate) force_percent: u32,
}

const fn primary(status: &Status) -> bool {
    matches!(status.role, Role::Primary)
}

fn synced(status: &Status) -> bool {
    let equal = |peer: &twinblk::replica::event::PeerStatus| {
        peer.replication == Replication::Established && peer.disk == Some(DiskState::UpToDate)
    };
    status.disk == DiskState::UpToDate && status.peers.iter().all(equal)
}

impl Operator {
    /// Something an operator might do now.
    pub(crate) fn whim(&mut self, seen: &Seen<'_>) -> Option<Order> {
        let alive: Vec<usize> = (0..seen.len()).filter(|node| seen[*node].is_some()).collect();
        if alive.is_empty() {
            return None;
        }
        let node = alive[self.random.index(alive.len())];
        let status = seen[node].expect("it answers");
        let nobody_serves = !seen.iter().flatten().any(|status| primary(status));
        if nobody_serves && self.random.percent(70) {
            return Some((node, self.promote(status)));
        }
        if is_split(status) && !primary(status) && self.random.percent(30) {
            return Some((node, Command::Connect { discard_my_data: true }));
        }
        if status.disk == DiskState::Diskless && self.random.percent(30) {
            return Some((node, Command::DiskAttach));
        }
        let command = match self.random.weighted(&[4, 6, 4, 4, 1, 2, 2, 2, 1, 2, 2]) {
            0 => self.promote(status),
            1 => Command::Demote,
            2 => Command::Disconnect,
            3 => Command::Connect { discard_my_data: false },
            // Given on both within the time that a message takes it would give both up: known.
            4 if seen.iter().all(|it| it.is_some_and(synced)) && !primary(status) => {
                Command::Invalidate
            }
            5 => Command::PauseSync,
            6 => Command::ResumeSync,
            7 if synced(status) => Command::Verify { repair: self.random.percent(30) },
            8 => Command::Resume,
            9 => Command::DiskDetach,
            10 => Command::Stop,
            _ => return None,
        };
        Some((node, command))
    }

    fn promote(&mut self, status: &Status) -> Command {
        let refused = !status.promote_refusal.is_empty();
        let whole = status.disk > DiskState::Inconsistent;
        let force = refused && whole && self.random.percent(self.force_percent);
        Command::Promote { force }
    }
}

/// What a patient operator does to get a cluster whole again; `tries` counts his looks so far.
pub(crate) fn mend(seen: &Seen<'_>, tries: u32) -> Vec<Order> {
    let mut orders = Vec::new();
    for (node, status) in seen.iter().enumerate() {
        if let Some(status) = status {
            mend_node(node, status, &mut orders);
        }
    }
    let statuses: Vec<&Status> = seen.iter().flatten().copied().collect();
    if statuses.len() < seen.len() {
        return orders;
    }
    if statuses.iter().all(|status| status.just_created) {
        orders.push((0, Command::InitEmpty));
    }
    let split = statuses.iter().any(|status| is_split(status));
    if split && tries % 4 == 3 {
        let victim = usize::from(primary(statuses[0]) || !primary(statuses[1]));
        if primary(statuses[victim]) {
            orders.push((victim, Command::Demote));
        }
        orders.push((victim, Command::Connect { discard_my_data: true }));
        orders.push((1 - victim, Command::Connect { discard_my_data: false }));
    }
    if !statuses.iter().any(|status| primary(status)) {
        let force = tries > 40;
        let willing = |node: &usize| statuses[*node].promote_refusal.is_empty();
        let best = (0..statuses.len()).filter(willing).max_by_key(|node| statuses[*node].disk);
        if let Some(node) = best {
            orders.push((node, Command::Promote { force: false }));
        } else if force && !split {
            let disk = |node: &usize| statuses[*node].disk;
            let node = (0..statuses.len()).max_by_key(disk).expect("two nodes");
            orders.push((node, Command::Promote { force }));
        }
    }
    orders
}

fn mend_node(node: usize, status: &Status, orders: &mut Vec<Order>) {
    if status.disk == DiskState::Diskless {
        orders.push((node, Command::DiskAttach));
    }
    let partial = status.disk == DiskState::Inconsistent && !status.just_created;
    for peer in &status.peers {
        // What the reason beside the connection says.
        let told = |command: &str| peer.connection_reason.contains(command);
        if primary(status) && told("twinblk demote") {
            orders.push((node, Command::Demote));
        }
        if !primary(status) && partial && told("twinblk invalidate") {
            orders.push((node, Command::Invalidate));
        }
        if peer.connection == Connection::StandAlone && !is_split(status) {
            orders.push((node, Command::Connect { discard_my_data: false }));
        }
        let paused = [Replication::PausedSyncSource, Replication::PausedSyncTarget];
        if paused.contains(&peer.replication) {
            orders.push((node, Command::ResumeSync));
        }
    }
}

fn is_split(status: &Status) -> bool {
    let split = |peer: &twinblk::replica::event::PeerStatus| {
        peer.connection == Connection::StandAlone && peer.connection_reason.contains("split brain")
    };
    status.peers.iter().any(split)
}

/// Whether both nodes say that neither has a whole copy, and what to do about it.
pub(crate) fn is_lost(seen: &Seen<'_>) -> bool {
    let says = |status: &Status| {
        let backup = |peer: &twinblk::replica::event::PeerStatus| {
            peer.connection_reason.contains("Restore a backup")
        };
        status.disk == DiskState::Inconsistent && status.peers.iter().any(backup)
    };
    seen.iter().all(|status| status.is_some_and(says))
}

/// Whether nothing is left to mend.
pub(crate) fn is_whole(seen: &Seen<'_>) -> bool {
    let whole = |status: &Status| {
        synced(status)
            && status.suspended.is_empty()
            && status.requests_in_flight == 0
            && status.peers.iter().all(|peer| peer.out_of_sync_blocks == 0)
    };
    let serving = seen.iter().flatten().filter(|status| primary(status)).count();
    serving == 1 && seen.iter().all(|status| status.is_some_and(whole))
}
