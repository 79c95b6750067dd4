//! Owns the count of what worlds have met: rows of the reconcile table, changes of state, faults, commands, early
//! ends.
//! Must never judge: a small count is for the reader to see.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use twinblk::replica::event::Change;
use twinblk::replica::reconcile;

/// Kinds of things counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    Row,
    Change,
    Fault,
    Command,
    /// Worlds that did not come to a comparison, and why.
    End,
}

/// States whose changes are counted; others hold numbers or words that are not states.
const STATES: [&str; 5] = ["role", "disk", "peer-disk", "connection", "replication"];

/// How often each was met.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    counts: BTreeMap<(What, String), u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, what: What, name: String) {
        *self.counts.entry((what, name)).or_default() += 1;
    }

    /// Counts what a node would log.
    pub(crate) fn change(&mut self, change: &Change) {
        let Change { what, old, new, cause } = change;
        if *what == "verdict" {
            let label = cause.rsplit(": ").next().unwrap_or_default();
            self.add(What::Row, label.to_owned());
        } else if STATES.contains(what) {
            self.add(What::Change, format!("{what} {old} -> {new}"));
        }
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (key, count) in &other.counts {
            *self.counts.entry(key.clone()).or_default() += count;
        }
    }

    /// One line each, separated by tabs: kind, name, count. Rows that were never met have a line too.
    pub(crate) fn lines(&self) -> String {
        let mut all = self.counts.clone();
        for label in reconcile::labels() {
            all.entry((What::Row, label.to_owned())).or_default();
        }
        let mut text = String::new();
        for ((what, name), count) in &all {
            let kind = format!("{what:?}").to_lowercase();
            writeln!(text, "{kind}\t{name}\t{count}").expect("to a string");
        }
        text
    }

    /// The same in short.
    pub(crate) fn show(&self) -> String {
        let of = |what| self.counts.iter().filter(move |((kind, _), _)| *kind == what);
        let met = of(What::Row).map(|((_, name), _)| name.as_str()).collect::<Vec<_>>();
        let never: Vec<_> = reconcile::labels().filter(|label| !met.contains(label)).collect();
        let mut text = String::new();
        for (what, title) in [
            (What::Fault, "faults"),
            (What::Command, "commands"),
            (What::Row, "rows"),
            (What::End, "ends"),
        ] {
            let counts: Vec<_> =
                of(what).map(|((_, name), count)| format!("{name} {count}")).collect();
            writeln!(text, "{title}: {}", counts.join(", ")).expect("to a string");
        }
        writeln!(text, "rows never met: {}", never.join(", ")).expect("to a string");
        let (kinds, all) =
            (of(What::Change).count(), of(What::Change).map(|(_, count)| count).sum::<u64>());
        writeln!(text, "changes of state: {all} of {kinds} kinds").expect("to a string");
        text
    }
}
