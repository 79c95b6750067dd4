//! Owns what a state of the model is: two nodes, what each has durably and in memory, the one stream
//! between them, the ledger of the judge, and what faults are left.
//! Must never decide anything: it is a value, small, that can be copied, compared and hashed.

use crate::ledger::Ledger;
use std::hash::{Hash, Hasher};
use twinblk::format::lineage::{Generation, Lineage};
use twinblk::format::superblock::DataState;
use twinblk::replica::reconcile::Verdict;
use twinblk::units::{Epoch, NodeId};

/// Blocks of the device; each is an extent of the activity log of its own.
pub(crate) const BLOCKS: usize = 2;
/// A mark on every block.
pub(crate) const ALL: u8 = (1 << BLOCKS) - 1;
/// Generations the table has room for; mending may need more than are explored.
pub(crate) const GENERATIONS: usize = 8;
/// What can be on its way to a peer at once: three writes and a block of a resync each.
const STREAM: usize = 6;

/// A data state, which can be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Worth(pub DataState);

impl Hash for Worth {
    fn hash<H: Hasher>(&self, to: &mut H) {
        to.write_u8(self.0 as u8);
    }
}

/// What the superblock, the bitmap and the activity log of a node hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    /// The places of its generations in the table; a later one has a higher place.
    pub(crate) lineage: u8,
    pub(crate) data: Worth,
    pub(crate) epoch: u8,
    pub(crate) current: u8,
    pub(crate) primary: bool,
    pub(crate) log_live: bool,
    pub(crate) former_primary: bool,
    pub(crate) rebooted: bool,
    pub(crate) parted: bool,
    /// Token, and the source's generation.
    pub(crate) sync_target: Option<(u8, u8)>,
    pub(crate) base: Option<u8>,
    pub(crate) sync_token: u8,
    pub(crate) all_marked: bool,
    pub(crate) withdrawn: bool,
    pub(crate) confirmed: u8,
    pub(crate) tentative: u8,
    /// The bitmap's pages.
    pub(crate) pages: u8,
    /// Extents that the activity log names.
    pub(crate) hot: u8,
}

/// A block on a disk: what reads find, and which values a power cut may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Cell {
    pub(crate) seen: u8,
    pub(crate) may: u8,
}

/// Where a node stands in a session; what `replica::peer::Phase` tells apart, and what is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Down,
    /// The verdict was a refusal.
    Refused,
    /// States are compared.
    Meeting,
    /// The meeting is durably noted here.
    Noted,
    /// Agreed that the copies are equal; to be recorded.
    Equal,
    Idle,
    SourceWaits,
    TargetWaits,
    SyncSource,
    SyncTarget,
    /// The end of the resync has come, and the marks are durably gone.
    Adopting,
    Established,
}

/// A client's write under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Piece {
    pub(crate) block: u8,
    pub(crate) value: u8,
    pub(crate) owed_here: bool,
    pub(crate) owed_peer: bool,
}

/// A promotion under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Promoting {
    pub(crate) epoch: u8,
    pub(crate) granted: bool,
    pub(crate) forced: bool,
}

/// A node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Node {
    pub(crate) record: Record,
    pub(crate) disk: [Cell; BLOCKS],
    // What follows is memory, and gone with the process.
    pub(crate) primary: bool,
    pub(crate) map: u8,
    pub(crate) phase: Phase,
    pub(crate) verdict: Option<Verdict>,
    /// The row said that the peer's copy is of mixed age and newer.
    pub(crate) newer_there: bool,
    /// The peer is primary, as far as known.
    pub(crate) peer_primary: bool,
    pub(crate) told_token: u8,
    pub(crate) told_head: Option<u8>,
    pub(crate) told_confirmed: u8,
    /// Token of the resync from here.
    pub(crate) token: u8,
    pub(crate) start_sent: bool,
    pub(crate) marks_may_go: bool,
    pub(crate) done_sent: bool,
    /// The lineage that came with the end of a resync.
    pub(crate) adopting: u8,
    /// Memory says Consistent where the record still says Outdated.
    pub(crate) lifted: bool,
    pub(crate) unflushed: bool,
    /// The process is younger than the last meeting at which the copies were equal.
    pub(crate) restarted: bool,
    /// A generation is begun in memory and not yet durable.
    pub(crate) owes_generation: bool,
    pub(crate) piece: Option<Piece>,
    pub(crate) promoting: Option<Promoting>,
    /// What the peer told of its record.
    pub(crate) told_current: u8,
    /// The epoch in which the peer may be primary by this node's word.
    pub(crate) granted: u8,
}

impl Node {
    /// The same disk without a process.
    pub(crate) fn without_memory(record: Record, disk: [Cell; BLOCKS]) -> Self {
        Self {
            record,
            disk,
            primary: false,
            map: 0,
            phase: Phase::Down,
            verdict: None,
            newer_there: false,
            peer_primary: false,
            told_token: 0,
            told_head: None,
            told_confirmed: 0,
            token: 0,
            start_sent: false,
            marks_may_go: false,
            done_sent: false,
            adopting: 0,
            lifted: false,
            unflushed: false,
            restarted: false,
            owes_generation: false,
            piece: None,
            promoting: None,
            told_current: 0,
            granted: 0,
        }
    }

    /// What the memory of the process says of its data.
    pub(crate) fn data(&self) -> DataState {
        if self.lifted { DataState::Consistent } else { self.record.data.0 }
    }

    /// `replica::peer::Peer::mirrors`, where every node has its disk.
    pub(crate) fn mirrors(&self) -> bool {
        use Phase::{Adopting, Established, SyncSource, SyncTarget};
        matches!(self.phase, SyncSource | SyncTarget | Adopting | Established)
    }

    /// `replica::peer::Peer::negotiates`.
    pub(crate) fn negotiates(&self) -> bool {
        use Phase::{Equal, Meeting, Noted, Refused, TargetWaits};
        matches!(self.phase, Meeting | Noted | Refused | Equal | TargetWaits)
    }

    pub(crate) fn put(&mut self, block: u8, value: u8) {
        let cell = &mut self.disk[usize::from(block)];
        cell.seen = value;
        cell.may |= 1 << value;
    }

    pub(crate) fn sync(&mut self) {
        for cell in &mut self.disk {
            cell.may = 1 << cell.seen;
        }
    }

    /// Everything in memory goes to the superblock with the next save.
    pub(crate) fn save(&mut self) {
        if std::mem::take(&mut self.lifted) {
            self.record.data = Worth(DataState::Consistent);
        }
    }

    /// `Replica::remember_meeting`: the last one that both have recorded.
    pub(crate) const fn remember_meeting(&mut self, session: u8) {
        (self.record.confirmed, self.record.tentative) = (session, 0);
    }

    /// What the blocks hold once the write under way has ended. While the process lives it will, and
    /// reads wait for it (G5); if the process dies, the extent is hot.
    pub(crate) fn to_be(self) -> [u8; BLOCKS] {
        let mut blocks = self.seen();
        if let Some(piece) = self.piece.filter(|piece| piece.owed_here) {
            blocks[usize::from(piece.block)] = piece.value;
        }
        blocks
    }

    pub(crate) fn seen(&self) -> [u8; BLOCKS] {
        self.disk.map(|cell| cell.seen)
    }
}

/// How far something sent has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Stage {
    Channel,
    /// In the receiver's memory (told apart under B alone).
    Received,
    Written,
    /// The sender knows that it is written (told apart under A alone).
    Heard,
}

/// Something sent that is not known to be stable at the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Sent {
    pub(crate) block: u8,
    pub(crate) value: u8,
    pub(crate) stage: Stage,
    /// A block of a resync.
    pub(crate) item: bool,
    /// A flush was answered since.
    pub(crate) covered: bool,
    /// Must not start before what is covered is stable.
    pub(crate) gated: bool,
    /// The sender has given the session up.
    pub(crate) orphan: bool,
}

/// What is on its way from one node to the other, in order. There is one sender at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stream {
    pub(crate) sender: u8,
    pub(crate) length: u8,
    /// So many of the first come before the end of the resync.
    pub(crate) before_end: u8,
    sent: [Option<Sent>; STREAM],
}

impl Stream {
    pub(crate) const EMPTY: Self =
        Self { sender: 0, length: 0, before_end: 0, sent: [None; STREAM] };

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Sent> {
        self.sent[..usize::from(self.length)].iter().flatten()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Sent> {
        self.sent[..usize::from(self.length)].iter_mut().flatten()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    pub(crate) fn has_room(&self) -> bool {
        usize::from(self.length) < STREAM
    }

    pub(crate) fn push(&mut self, sender: u8, sent: Sent) {
        assert!(self.is_empty() || self.sender == sender, "one sender at a time");
        self.sender = sender;
        self.sent[usize::from(self.length)] = Some(sent);
        self.length += 1;
    }

    /// Takes away the first ones.
    pub(crate) fn drop_first(&mut self, count: usize) {
        let rest = usize::from(self.length) - count;
        self.sent.copy_within(count.., 0);
        self.sent[rest..].fill(None);
        self.length -= u8::try_from(count).expect("few");
        self.before_end = self.before_end.saturating_sub(u8::try_from(count).expect("few"));
        if rest == 0 {
            *self = Self::EMPTY;
        }
    }

    /// Takes away what `gone` names.
    pub(crate) fn drop_if(&mut self, gone: impl Fn(&Sent) -> bool) {
        let before = *self;
        let sender = before.sender;
        *self = Self::EMPTY;
        for (place, sent) in before.iter().enumerate() {
            if !gone(sent) {
                self.push(sender, *sent);
                self.before_end += u8::from(place < usize::from(before.before_end));
            }
        }
    }
}

/// Faults and orders that may still come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Left {
    pub(crate) writes: u8,
    pub(crate) generations: u8,
    pub(crate) crashes: u8,
    pub(crate) cuts: u8,
    pub(crate) stops: u8,
    pub(crate) promotions: u8,
    /// Saves of metadata that nothing waits for: extents that cool, progress of a resync.
    pub(crate) saves: u8,
    /// Planned disconnects.
    pub(crate) withdrawals: u8,
    /// An operator's words that give data up: `promote --force`, `invalidate`.
    pub(crate) words: u8,
    /// `connect --discard-my-data`.
    pub(crate) discards: u8,
}

impl Left {
    pub(crate) const NOTHING: Self = Self {
        writes: 0,
        generations: 0,
        crashes: 0,
        cuts: 0,
        stops: 0,
        promotions: 0,
        saves: 0,
        withdrawals: 0,
        words: 0,
        discards: 0,
    };

    /// At least as much of everything.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        self.writes >= other.writes
            && self.generations >= other.generations
            && self.crashes >= other.crashes
            && self.cuts >= other.cuts
            && self.stops >= other.stops
            && self.promotions >= other.promotions
            && self.saves >= other.saves
            && self.withdrawals >= other.withdrawals
            && self.words >= other.words
            && self.discards >= other.discards
    }
}

/// A generation of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Begun {
    pub(crate) epoch: u8,
    pub(crate) node: u8,
}

/// A state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) nodes: [Node; 2],
    pub(crate) stream: Stream,
    pub(crate) ledger: Ledger,
    pub(crate) left: Left,
    pub(crate) generations: [Option<Begun>; GENERATIONS],
    /// The session's id; 0 if there is none.
    pub(crate) session: u8,
    /// Nothing comes through any more; whoever has not noticed will.
    pub(crate) broken: bool,
    /// The epoch both adopt in this meeting.
    pub(crate) meeting_epoch: u8,
    /// Whoever said that it disconnects.
    pub(crate) bye: Option<u8>,
}

impl State {
    /// The real lineage.
    pub(crate) fn lineage(&self, mask: u8) -> Lineage {
        let known = (0..GENERATIONS).filter(|place| mask & (1 << place) != 0);
        Lineage::new(known.map(|place| self.generation(place)).collect())
    }

    pub(crate) fn generation(&self, place: usize) -> Generation {
        let begun = self.generations[place].expect("a place that is taken");
        let id = place as u64 + 1;
        Generation { epoch: Epoch(begun.epoch.into()), id, node: NodeId(begun.node) }
    }

    /// The place of a real lineage's newest generation.
    pub(crate) fn head(&self, mask: u8) -> Option<u8> {
        place_of(self.lineage(mask).head()?)
    }

    pub(crate) fn new_generation(&mut self, begun: Begun) -> usize {
        let place = self.generations.iter().position(Option::is_none);
        let place = place.expect("the table has room");
        self.generations[place] = Some(begun);
        place
    }

    /// A session stands in which frames come through.
    pub(crate) fn is_alive(&self) -> bool {
        let met = |node: &Node| node.phase != Phase::Down;
        self.session != 0 && !self.broken && self.nodes.iter().all(met)
    }

    /// A bond's id that nobody has.
    pub(crate) fn fresh_session(&self) -> u8 {
        let ids = |node: &Node| [node.record.confirmed, node.record.tentative, node.told_confirmed];
        1 + self.nodes.iter().flat_map(ids).max().unwrap_or(0)
    }

    /// A token that nobody has.
    pub(crate) fn fresh_token(&self) -> u8 {
        let ids = |node: &Node| {
            let target = node.record.sync_target.map_or(0, |(token, _)| token);
            [node.record.sync_token, node.token, node.told_token, target]
        };
        1 + self.nodes.iter().flat_map(ids).max().unwrap_or(0)
    }
}

/// The place of a generation in the table.
pub(crate) fn place_of(generation: Generation) -> Option<u8> {
    u8::try_from(generation.id - 1).ok()
}
