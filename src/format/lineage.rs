//! Owns the list of data generations a node descends from, as a value.
//! Must never decide who is source: that is `replica::reconcile`.

use crate::limits::LINEAGE_ENTRIES;
use crate::units::{Epoch, NodeId};
use std::fmt;

/// One data generation: begun by `node` in `epoch`, told from any other by a random `id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Generation {
    /// The epoch in which it was begun.
    pub epoch: Epoch,
    /// Random, never zero.
    pub id: u64,
    /// The node that began it.
    pub node: NodeId,
}

impl fmt::Display for Generation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "{:016x} of epoch {} by node {}", self.id, self.epoch.0, self.node.0)
    }
}

/// What two lineages say about each other, seen from the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    /// Both are empty: freshly created.
    BothEmpty,
    /// Only mine is empty.
    MineEmpty,
    /// Only theirs is empty.
    TheirsEmpty,
    /// The same newest generation.
    Equal,
    /// Their newest generation is an ancestor of mine: I have writes they missed.
    Descendant,
    /// My newest generation is an ancestor of theirs.
    Ancestor,
    /// They share a generation, and each went on from it alone.
    Fork,
    /// They share nothing.
    Stranger,
}

impl Relation {
    /// The same relation, seen from the other side.
    #[must_use]
    pub const fn mirrored(self) -> Self {
        match self {
            Self::MineEmpty => Self::TheirsEmpty,
            Self::TheirsEmpty => Self::MineEmpty,
            Self::Descendant => Self::Ancestor,
            Self::Ancestor => Self::Descendant,
            same => same,
        }
    }
}

/// Generations from the oldest still known to the newest; at most [`LINEAGE_ENTRIES`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lineage {
    generations: Vec<Generation>,
}

impl Lineage {
    /// A lineage of these generations, oldest first; only the newest [`LINEAGE_ENTRIES`] are kept.
    #[must_use]
    pub fn new(mut generations: Vec<Generation>) -> Self {
        let surplus = generations.len().saturating_sub(LINEAGE_ENTRIES);
        generations.drain(..surplus);
        Self { generations }
    }

    /// The generations, oldest first.
    #[must_use]
    pub fn generations(&self) -> &[Generation] {
        &self.generations
    }

    /// The newest generation; none on a freshly created node.
    #[must_use]
    pub fn head(&self) -> Option<Generation> {
        self.generations.last().copied()
    }

    /// Begins a generation; the oldest is forgotten when the list is full.
    pub fn begin(&mut self, generation: Generation) {
        if self.generations.len() == LINEAGE_ENTRIES {
            self.generations.remove(0);
        }
        self.generations.push(generation);
    }

    /// Takes the newest generation back: it was never on record. One that was forgotten for it stays so.
    pub fn drop_newest(&mut self) {
        self.generations.pop();
    }

    /// Whether `generation` is in the list.
    #[must_use]
    pub fn knows(&self, generation: Generation) -> bool {
        self.generations.contains(&generation)
    }

    /// The generation that `generation` followed on, if the list has both.
    #[must_use]
    pub fn before(&self, generation: Generation) -> Option<Generation> {
        let place = self.generations.iter().position(|other| *other == generation)?;
        self.generations.get(place.checked_sub(1)?).copied()
    }

    /// The newest generation both lists hold.
    #[must_use]
    pub fn common(&self, other: &Self) -> Option<Generation> {
        self.generations.iter().rev().find(|g| other.knows(**g)).copied()
    }

    /// How `self` stands to `theirs`.
    #[must_use]
    pub fn relation(&self, theirs: &Self) -> Relation {
        let (mine, other) = match (self.head(), theirs.head()) {
            (None, None) => return Relation::BothEmpty,
            (None, Some(_)) => return Relation::MineEmpty,
            (Some(_), None) => return Relation::TheirsEmpty,
            (Some(mine), Some(other)) => (mine, other),
        };
        if mine == other {
            Relation::Equal
        } else if self.knows(other) {
            Relation::Descendant
        } else if theirs.knows(mine) {
            Relation::Ancestor
        } else if self.common(theirs).is_some() {
            Relation::Fork
        } else {
            Relation::Stranger
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lineage(ids: &[u64]) -> Lineage {
        let generation = |id: &u64| Generation { epoch: Epoch(*id), id: *id, node: NodeId(0) };
        Lineage::new(ids.iter().map(generation).collect())
    }

    #[test]
    fn relations_mirror() {
        let all = [&[][..], &[1], &[1, 2], &[1, 3], &[1, 2, 4], &[9]];
        for a in all {
            for b in all {
                let seen = lineage(a).relation(&lineage(b));
                assert_eq!(seen.mirrored(), lineage(b).relation(&lineage(a)), "{a:?} {b:?}");
            }
        }
        assert_eq!(lineage(&[1, 2]).relation(&lineage(&[1])), Relation::Descendant);
        assert_eq!(lineage(&[1, 2]).relation(&lineage(&[1, 3])), Relation::Fork);
        assert_eq!(lineage(&[1]).relation(&lineage(&[9])), Relation::Stranger);
    }

    #[test]
    fn the_oldest_generation_is_forgotten_first() {
        let mut long = lineage(&(1..=32).collect::<Vec<_>>());
        long.begin(Generation { epoch: Epoch(33), id: 33, node: NodeId(1) });
        assert_eq!(long.generations().len(), LINEAGE_ENTRIES);
        assert_eq!(long.relation(&lineage(&[1])), Relation::Stranger);
        assert_eq!(long.relation(&lineage(&[2])), Relation::Descendant);
    }
}
