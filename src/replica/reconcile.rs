//! Owns whose data is newer when two nodes meet: facts read off two states, and one table.
//! Must never change anything: it turns two [`PeerState`]s into a [`Verdict`].
//!
//! The table holds no order: every combination of facts meets exactly one row, and what one node
//! decides is the mirror image of what the other decides from the same two states. Tests prove
//! both over all combinations.

use crate::format::frame::{DiskState, PeerState, Protocol, Role};
use crate::format::lineage::Relation;
use crate::format::superblock::DataState;
use std::fmt;

/// How a target is brought up to date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Extent {
    /// The marks of both, together.
    Marks,
    /// Everything.
    Full,
}

/// What two nodes that met do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The copies are equal.
    Nothing,
    /// The peer is brought up to date from here.
    Source(Extent),
    /// This node is brought up to date.
    Target(Extent),
    /// This node has no disk: it works on the peer's.
    MineDiskless,
    /// The peer has no disk.
    TheirsDiskless,
    /// Neither has a disk.
    NoDisk,
    /// Neither has data: `init` says which begins.
    AwaitInit,
    /// Refused, in words.
    Refuse(Reason),
}

impl Verdict {
    /// Both have a disk that can remember the meeting. One that has none now would not know of it
    /// when it comes back, and would look like one that was restored.
    #[must_use]
    pub const fn is_between_disks(self) -> bool {
        !matches!(self, Self::MineDiskless | Self::TheirsDiskless | Self::NoDisk)
    }

    /// One copy is overwritten as a whole, whatever it holds.
    #[must_use]
    pub const fn copies_all(self) -> bool {
        matches!(self, Self::Source(Extent::Full) | Self::Target(Extent::Full))
    }
}

/// Why two nodes do not work together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Both went on alone from a common generation.
    SplitBrain,
    /// Nothing in common.
    Unrelated,
    /// The node with the older data is primary.
    MyPrimaryIsOlder,
    /// The same on the other side.
    TheirPrimaryIsOlder,
    /// The records of the last meeting differ: one disk was restored or exchanged, and nothing
    /// says which.
    LostBond,
    /// Both copies are of mixed age.
    NoWholeCopy,
    /// The only whole copy is older than the other's generation.
    WholeCopyIsOlder,
}

impl fmt::Display for Verdict {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Self::Nothing => "the copies are equal",
            Self::Source(Extent::Marks) => "SyncSource of the marked blocks",
            Self::Source(Extent::Full) => "SyncSource of everything",
            Self::Target(Extent::Marks) => "SyncTarget of the marked blocks",
            Self::Target(Extent::Full) => "SyncTarget of everything",
            Self::MineDiskless => "this node is Diskless",
            Self::TheirsDiskless => "the peer is Diskless",
            Self::NoDisk => "both are Diskless",
            Self::AwaitInit => "both are just created",
            Self::Refuse(Reason::SplitBrain) => "refused: split brain",
            Self::Refuse(Reason::Unrelated) => "refused: unrelated data",
            Self::Refuse(Reason::MyPrimaryIsOlder) => "refused: older data is Primary here",
            Self::Refuse(Reason::TheirPrimaryIsOlder) => "refused: older data is Primary there",
            Self::Refuse(Reason::LostBond) => "refused: one disk was restored or exchanged",
            Self::Refuse(Reason::NoWholeCopy) => "refused: both copies are Inconsistent",
            Self::Refuse(Reason::WholeCopyIsOlder) => "refused: the newer copy is Inconsistent",
        })
    }
}

impl Verdict {
    /// What the other node decides.
    #[must_use]
    pub const fn mirrored(self) -> Self {
        match self {
            Self::Source(extent) => Self::Target(extent),
            Self::Target(extent) => Self::Source(extent),
            Self::MineDiskless => Self::TheirsDiskless,
            Self::TheirsDiskless => Self::MineDiskless,
            Self::Refuse(Reason::MyPrimaryIsOlder) => Self::Refuse(Reason::TheirPrimaryIsOlder),
            Self::Refuse(Reason::TheirPrimaryIsOlder) => Self::Refuse(Reason::MyPrimaryIsOlder),
            same => same,
        }
    }
}

/// The usability of a copy by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replica {
    Absent,
    Mixed,
    Whole,
}

/// Which of the two nodes something holds for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Who {
    Neither,
    Mine,
    Theirs,
    Both,
}

/// Whether the marks of both, together, hold every block that may differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Record {
    /// They do, and there are none.
    Clean,
    /// They do.
    Marked,
    /// Nobody can say.
    Untrusted,
}

/// Who is source between copies of one generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prefer {
    Mine,
    Theirs,
}

#[derive(Clone, Copy, Debug)]
struct Facts {
    relation: Relation,
    mine: Replica,
    theirs: Replica,
    primary: Who,
    record: Record,
    prefer: Prefer,
    discard: Who,
}

/// One row: the facts it is about (any of the listed values, all if the list is empty), and what
/// follows. `Extent` in a verdict is replaced by what the record allows.
struct Row {
    label: &'static str,
    relation: &'static [Relation],
    mine: &'static [Replica],
    theirs: &'static [Replica],
    primary: &'static [Who],
    record: &'static [Record],
    prefer: &'static [Prefer],
    discard: &'static [Who],
    verdict: Verdict,
}

const ANY: Row = Row {
    label: "",
    relation: &[],
    mine: &[],
    theirs: &[],
    primary: &[],
    record: &[],
    prefer: &[],
    discard: &[],
    verdict: Verdict::Nothing,
};

/// The row that tells a node with a whole copy that newer data exists, in part.
pub(super) const THEIRS_MIXED_NEWER: &str = "theirs-mixed-newer";

/// Two whole copies.
const WHOLE: Row = Row { mine: &[Whole], theirs: &[Whole], ..ANY };

use Prefer as P;
use Record::{Clean, Marked, Untrusted};
use Relation::{Ancestor, BothEmpty, Descendant, Equal, Fork, MineEmpty, Stranger, TheirsEmpty};
use Replica::{Absent, Mixed, Whole};
use Verdict::{Refuse, Source, Target};
use Who::{Both, Mine, Neither, Theirs};

const PRESENT: &[Replica] = &[Mixed, Whole];
const ONE_AT_MOST: &[Who] = &[Neither, Mine, Theirs];
const KIN: &[Relation] = &[Equal, Descendant, Ancestor, Fork];
/// Replaced by what the record allows.
const BY_RECORD: Extent = Extent::Marks;

/// Every combination of facts meets exactly one of these.
#[rustfmt::skip]
const ROWS: &[Row] = &[
    // Somebody has no disk.
    Row { label: "no-disk", mine: &[Absent], theirs: &[Absent], verdict: Verdict::NoDisk, ..ANY },
    Row { label: "mine-diskless", mine: &[Absent], theirs: PRESENT,
        verdict: Verdict::MineDiskless, ..ANY },
    Row { label: "theirs-diskless", mine: PRESENT, theirs: &[Absent],
        verdict: Verdict::TheirsDiskless, ..ANY },
    // Somebody has no data yet.
    Row { label: "both-just-created", mine: PRESENT, theirs: PRESENT, relation: &[BothEmpty],
        verdict: Verdict::AwaitInit, ..ANY },
    Row { label: "mine-just-created", mine: PRESENT, theirs: &[Whole], relation: &[MineEmpty], primary: ONE_AT_MOST,
        verdict: Target(BY_RECORD), ..ANY },
    Row { label: "theirs-just-created", mine: &[Whole], theirs: PRESENT, relation: &[TheirsEmpty], primary: ONE_AT_MOST,
        verdict: Source(BY_RECORD), ..ANY },
    // Its disk was replaced under it, and the other copy went on to be served.
    Row { label: "mine-just-created-two-primaries", mine: PRESENT, theirs: &[Whole], relation: &[MineEmpty], primary: &[Both],
        verdict: Refuse(Reason::MyPrimaryIsOlder), ..ANY },
    Row { label: "theirs-just-created-two-primaries", mine: &[Whole], theirs: PRESENT, relation: &[TheirsEmpty], primary: &[Both],
        verdict: Refuse(Reason::TheirPrimaryIsOlder), ..ANY },
    Row { label: "mine-just-created-theirs-mixed", mine: PRESENT, theirs: &[Mixed], relation: &[MineEmpty],
        verdict: Refuse(Reason::NoWholeCopy), ..ANY },
    Row { label: "theirs-just-created-mine-mixed", mine: &[Mixed], theirs: PRESENT, relation: &[TheirsEmpty],
        verdict: Refuse(Reason::NoWholeCopy), ..ANY },
    // Nothing in common: the wildcard, whatever else holds.
    Row { label: "unrelated", mine: PRESENT, theirs: PRESENT, relation: &[Stranger],
        verdict: Refuse(Reason::Unrelated), ..ANY },
    // Copies of mixed age.
    Row { label: "both-mixed", mine: &[Mixed], theirs: &[Mixed], relation: KIN,
        verdict: Refuse(Reason::NoWholeCopy), ..ANY },
    Row { label: "theirs-mixed-two-primaries", mine: &[Whole], theirs: &[Mixed], relation: KIN, primary: &[Both],
        verdict: Refuse(Reason::TheirPrimaryIsOlder), ..ANY },
    Row { label: "mine-mixed-two-primaries", mine: &[Mixed], theirs: &[Whole], relation: KIN, primary: &[Both],
        verdict: Refuse(Reason::MyPrimaryIsOlder), ..ANY },
    Row { label: "theirs-mixed", mine: &[Whole], theirs: &[Mixed], relation: &[Equal, Descendant], primary: ONE_AT_MOST,
        verdict: Source(BY_RECORD), ..ANY },
    Row { label: "theirs-mixed-resumed", mine: &[Whole], theirs: &[Mixed], relation: &[Ancestor, Fork],
        primary: ONE_AT_MOST, record: &[Clean, Marked],
        verdict: Source(BY_RECORD), ..ANY },
    Row { label: THEIRS_MIXED_NEWER, mine: &[Whole], theirs: &[Mixed], relation: &[Ancestor, Fork],
        primary: ONE_AT_MOST, record: &[Untrusted],
        verdict: Refuse(Reason::WholeCopyIsOlder), ..ANY },
    Row { label: "mine-mixed", mine: &[Mixed], theirs: &[Whole], relation: &[Equal, Ancestor], primary: ONE_AT_MOST,
        verdict: Target(BY_RECORD), ..ANY },
    Row { label: "mine-mixed-resumed", mine: &[Mixed], theirs: &[Whole], relation: &[Descendant, Fork],
        primary: ONE_AT_MOST, record: &[Clean, Marked],
        verdict: Target(BY_RECORD), ..ANY },
    Row { label: "mine-mixed-newer", mine: &[Mixed], theirs: &[Whole], relation: &[Descendant, Fork],
        primary: ONE_AT_MOST, record: &[Untrusted],
        verdict: Refuse(Reason::WholeCopyIsOlder), ..ANY },
    // Whole copies of one generation.
    Row { label: "equal-two-primaries", relation: &[Equal], primary: &[Both],
        verdict: Refuse(Reason::SplitBrain), ..WHOLE },
    Row { label: "equal-clean", relation: &[Equal], primary: ONE_AT_MOST, record: &[Clean],
        verdict: Verdict::Nothing, ..WHOLE },
    Row { label: "equal-marked-mine-primary", relation: &[Equal], primary: &[Mine], record: &[Marked],
        verdict: Source(BY_RECORD), ..WHOLE },
    Row { label: "equal-marked-theirs-primary", relation: &[Equal], primary: &[Theirs], record: &[Marked],
        verdict: Target(BY_RECORD), ..WHOLE },
    Row { label: "equal-marked-prefer-mine", relation: &[Equal], primary: &[Neither], record: &[Marked], prefer: &[P::Mine],
        verdict: Source(BY_RECORD), ..WHOLE },
    Row { label: "equal-marked-prefer-theirs", relation: &[Equal], primary: &[Neither], record: &[Marked], prefer: &[P::Theirs],
        verdict: Target(BY_RECORD), ..WHOLE },
    Row { label: "equal-unbound-mine-primary", relation: &[Equal], primary: &[Mine], record: &[Untrusted],
        verdict: Source(BY_RECORD), ..WHOLE },
    Row { label: "equal-unbound-theirs-primary", relation: &[Equal], primary: &[Theirs], record: &[Untrusted],
        verdict: Target(BY_RECORD), ..WHOLE },
    Row { label: "equal-unbound", relation: &[Equal], primary: &[Neither], record: &[Untrusted],
        verdict: Refuse(Reason::LostBond), ..WHOLE },
    // Whole copies, one newer.
    Row { label: "mine-newer", relation: &[Descendant], primary: &[Neither, Mine],
        verdict: Source(BY_RECORD), ..WHOLE },
    Row { label: "mine-newer-theirs-primary", relation: &[Descendant], primary: &[Theirs],
        verdict: Refuse(Reason::TheirPrimaryIsOlder), ..WHOLE },
    Row { label: "mine-newer-two-primaries", relation: &[Descendant], primary: &[Both],
        verdict: Refuse(Reason::SplitBrain), ..WHOLE },
    Row { label: "theirs-newer", relation: &[Ancestor], primary: &[Neither, Theirs],
        verdict: Target(BY_RECORD), ..WHOLE },
    Row { label: "theirs-newer-mine-primary", relation: &[Ancestor], primary: &[Mine],
        verdict: Refuse(Reason::MyPrimaryIsOlder), ..WHOLE },
    Row { label: "theirs-newer-two-primaries", relation: &[Ancestor], primary: &[Both],
        verdict: Refuse(Reason::SplitBrain), ..WHOLE },
    // Whole copies, each with something the other lacks.
    Row { label: "split-brain", relation: &[Fork], discard: &[Neither, Both],
        verdict: Refuse(Reason::SplitBrain), ..WHOLE },
    Row { label: "split-brain-discard-mine", relation: &[Fork], discard: &[Mine], primary: &[Neither, Theirs],
        verdict: Target(BY_RECORD), ..WHOLE },
    Row { label: "split-brain-discard-mine-primary", relation: &[Fork], discard: &[Mine], primary: &[Mine, Both],
        verdict: Refuse(Reason::SplitBrain), ..WHOLE },
    Row { label: "split-brain-discard-theirs", relation: &[Fork], discard: &[Theirs], primary: &[Neither, Mine],
        verdict: Source(BY_RECORD), ..WHOLE },
    Row { label: "split-brain-discard-theirs-primary", relation: &[Fork], discard: &[Theirs], primary: &[Theirs, Both],
        verdict: Refuse(Reason::SplitBrain), ..WHOLE },
];

impl Row {
    fn meets(&self, facts: &Facts) -> bool {
        fn among<T: PartialEq>(list: &[T], value: &T) -> bool {
            list.is_empty() || list.contains(value)
        }
        among(self.relation, &facts.relation)
            && among(self.mine, &facts.mine)
            && among(self.theirs, &facts.theirs)
            && among(self.primary, &facts.primary)
            && among(self.record, &facts.record)
            && among(self.prefer, &facts.prefer)
            && among(self.discard, &facts.discard)
    }
}

/// What this node does about a peer, and the label of the row that says so. `mine` is the state
/// this node sent, `theirs` the one it received.
///
/// # Panics
/// Never: a test proves that every combination of facts has its row.
#[must_use]
pub fn reconcile(mine: &PeerState, theirs: &PeerState) -> (&'static str, Verdict) {
    let facts = facts(mine, theirs);
    let row = ROWS.iter().find(|row| row.meets(&facts)).expect("every combination has its row");
    let extent = if facts.record == Untrusted { Extent::Full } else { Extent::Marks };
    let verdict = match row.verdict {
        Source(Extent::Marks) => Source(extent),
        Target(Extent::Marks) => Target(extent),
        fixed => fixed,
    };
    (row.label, verdict)
}

/// The labels of all rows, for counting how often each is met.
pub fn labels() -> impl Iterator<Item = &'static str> {
    ROWS.iter().map(|row| row.label)
}

fn facts(mine: &PeerState, theirs: &PeerState) -> Facts {
    let relation = mine.lineage.relation(&theirs.lineage);
    let who = |mine, theirs| match (mine, theirs) {
        (false, false) => Neither,
        (true, false) => Mine,
        (false, true) => Theirs,
        (true, true) => Both,
    };
    let primary = |state: &PeerState| state.role == Role::Primary;
    let prefer = if outranks(mine, theirs) { P::Mine } else { P::Theirs };
    Facts {
        relation,
        mine: copy(mine),
        theirs: copy(theirs),
        primary: who(primary(mine), primary(theirs)),
        record: record(mine, theirs, relation),
        prefer,
        discard: who(mine.discard_my_data, theirs.discard_my_data),
    }
}

fn copy(state: &PeerState) -> Replica {
    match (state.disk, state.data) {
        (DiskState::Diskless | DiskState::Failed, _) => Absent,
        (_, DataState::Inconsistent) => Mixed,
        (_, DataState::Outdated | DataState::Consistent) => Whole,
    }
}

/// Between copies of one generation that may differ: the source is the one that was current in the higher epoch;
/// under C and B the one that has all it acknowledged; then the former primary; then the lower node
/// id. Under A only the former primary is sure to have what was flushed.
fn outranks(mine: &PeerState, theirs: &PeerState) -> bool {
    if mine.current != theirs.current {
        return mine.current > theirs.current;
    }
    if mine.protocol != Protocol::A && mine.rebooted != theirs.rebooted {
        return theirs.rebooted;
    }
    if mine.was_primary != theirs.was_primary {
        return mine.was_primary;
    }
    mine.node < theirs.node
}

fn record(mine: &PeerState, theirs: &PeerState, relation: Relation) -> Record {
    let continued = continues(mine, theirs) || continues(theirs, mine);
    // A copy of mixed age that is newer than the whole one, and not its target, has lost what no
    // mark can bring back.
    let mixed = |state| copy(state) == Replica::Mixed;
    let newer_is_mixed = match relation {
        Descendant => mixed(mine),
        Ancestor => mixed(theirs),
        Fork => mixed(mine) || mixed(theirs),
        _ => false,
    };
    let complete = !newer_is_mixed
        && match relation {
            Equal => untouched(mine, theirs) && untouched(theirs, mine),
            Descendant => untouched(mine, theirs) && based_on_head(mine, theirs),
            Ancestor => untouched(theirs, mine) && based_on_head(theirs, mine),
            Fork => {
                let based = mine.slot.base.is_some() && mine.slot.base == theirs.slot.base;
                based && untouched(mine, theirs) && untouched(theirs, mine)
            }
            BothEmpty | MineEmpty | TheirsEmpty | Stranger => false,
        };
    let marks = |state: &PeerState| state.slot.all_marked || state.marked_blocks > 0;
    match (
        mine.bond().is_shared_with(theirs.bond()) && (continued || complete),
        marks(mine) || marks(theirs),
    ) {
        (false, _) => Untrusted,
        (true, false) => Clean,
        (true, true) => Marked,
    }
}

/// `target` is in the middle of the very resync whose progress the marks of `source` hold.
fn continues(source: &PeerState, target: &PeerState) -> bool {
    let token = source.slot.sync_token;
    token != 0 && target.sync_target.is_some_and(|sync| sync.token == token)
}

/// No resync has taken marks off `source` that `target` does not have the blocks for: none began,
/// or the target adopted its end.
fn untouched(source: &PeerState, target: &PeerState) -> bool {
    let heads = target.lineage.head() == source.lineage.head();
    let known = source.slot.base.is_some_and(|base| target.lineage.knows(base));
    let adopted = heads || known || is_before_base(source, target);
    source.slot.sync_token == 0 || (target.sync_target.is_none() && adopted)
}

/// The base is a generation that `target` was asked to begin and nothing was written in, and it has the
/// one before.
fn is_before_base(source: &PeerState, target: &PeerState) -> bool {
    let known = target.lineage.head();
    let before = source.slot.base.and_then(|base| source.lineage.before(base));
    known.is_some() && before == known
}

/// The marks of `source` are relative to the data `target` has.
fn based_on_head(source: &PeerState, target: &PeerState) -> bool {
    let base = source.slot.base;
    // A resync that began after that is one whose end it adopted.
    let ended = source.slot.sync_token == 0 || target.sync_target.is_none();
    let unheard = ended && is_before_base(source, target);
    base.is_some() && (base == target.lineage.head() || unheard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const RELATIONS: [Relation; 8] =
        [BothEmpty, MineEmpty, TheirsEmpty, Equal, Descendant, Ancestor, Fork, Stranger];
    const WHOS: [Who; 4] = [Neither, Mine, Theirs, Both];

    fn all() -> impl Iterator<Item = Facts> {
        let copies = [Absent, Mixed, Whole];
        RELATIONS.into_iter().flat_map(move |relation| {
            copies.into_iter().flat_map(move |mine| {
                copies.into_iter().flat_map(move |theirs| {
                    WHOS.into_iter().flat_map(move |primary| {
                        [Clean, Marked, Untrusted].into_iter().flat_map(move |record| {
                            [P::Mine, P::Theirs].into_iter().flat_map(move |prefer| {
                                WHOS.into_iter().map(move |discard| Facts {
                                    relation,
                                    mine,
                                    theirs,
                                    primary,
                                    record,
                                    prefer,
                                    discard,
                                })
                            })
                        })
                    })
                })
            })
        })
    }

    fn flip(who: Who) -> Who {
        match who {
            Mine => Theirs,
            Theirs => Mine,
            same => same,
        }
    }

    fn mirrored(facts: Facts) -> Facts {
        Facts {
            relation: facts.relation.mirrored(),
            mine: facts.theirs,
            theirs: facts.mine,
            primary: flip(facts.primary),
            record: facts.record,
            prefer: if facts.prefer == P::Mine { P::Theirs } else { P::Mine },
            discard: flip(facts.discard),
        }
    }

    fn meeting(facts: &Facts) -> Vec<&'static Row> {
        ROWS.iter().filter(|row| row.meets(facts)).collect()
    }

    #[test]
    fn every_combination_meets_exactly_one_row() {
        for facts in all() {
            let rows: Vec<_> = meeting(&facts).iter().map(|row| row.label).collect();
            assert_eq!(rows.len(), 1, "{facts:?} meets {rows:?}");
        }
    }

    #[test]
    fn the_two_nodes_decisions_mirror() {
        for facts in all() {
            let mine = meeting(&facts)[0].verdict;
            let theirs = meeting(&mirrored(facts))[0].verdict;
            assert_eq!(mine.mirrored(), theirs, "{facts:?}");
        }
    }

    #[test]
    fn every_row_is_met_and_named_once() {
        let met: BTreeSet<_> = all().map(|facts| meeting(&facts)[0].label).collect();
        assert_eq!(met.len(), ROWS.len());
        assert_eq!(labels().collect::<BTreeSet<_>>(), met);
    }

    #[test]
    fn only_unrelated_ignores_everything_but_the_relation() {
        for row in ROWS.iter().filter(|row| row.label != "unrelated") {
            let free = row.mine == PRESENT && row.theirs == PRESENT;
            assert!(!free || row.relation == [BothEmpty], "{} is a wildcard", row.label);
        }
    }

    #[test]
    fn a_primary_with_a_whole_copy_never_becomes_target() {
        // A copy without a generation is never primary.
        let serving = |f: &Facts| {
            f.mine == Whole && f.relation != MineEmpty && matches!(f.primary, Mine | Both)
        };
        for facts in all().filter(serving) {
            let row = meeting(&facts)[0];
            assert!(!matches!(row.verdict, Target(_)), "{} {facts:?}", row.label);
        }
    }

    #[test]
    fn two_primaries_with_disks_never_work_together() {
        let present = |f: &Facts| f.mine != Absent && f.theirs != Absent && f.primary == Both;
        // Two copies without data cannot both be primary.
        for facts in all().filter(present).filter(|facts| facts.relation != BothEmpty) {
            let row = meeting(&facts)[0];
            assert!(matches!(row.verdict, Refuse(_)), "{} {facts:?}", row.label);
        }
    }

    #[test]
    fn an_untrusted_record_never_leads_to_marks_or_nothing() {
        for facts in all().filter(|f| f.record == Untrusted && f.mine != Absent) {
            let row = meeting(&facts)[0];
            assert_ne!(row.verdict, Verdict::Nothing, "{} {facts:?}", row.label);
        }
    }
}
