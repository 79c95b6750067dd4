//! Owns the walk over all states, breadth first, and the readable history of a state that breaks a
//! property. Must never know what a step does.

use crate::ledger::Ledger;
use crate::mend::Mender;
use crate::roles::is_quiet;
use crate::rules::{Rules, Step, Watch};
use crate::state::{Cell, GENERATIONS, Left, Node, Phase, Record, State, Stream, Worth};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::hash::{BuildHasherDefault, Hasher};
use twinblk::format::superblock::DataState;

/// Fingerprints are hashes already.
#[derive(Default)]
pub(crate) struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("fingerprints only");
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = word;
    }
}

/// A set of fingerprints.
pub(crate) type Seen = HashSet<u64, BuildHasherDefault<Plain>>;

/// The states visited, each with what was left of faults and orders then. One that comes again with
/// no more left leads nowhere new.
#[derive(Default)]
struct Visited {
    known: HashMap<u64, Vec<Left>, BuildHasherDefault<Plain>>,
}

impl Visited {
    fn is_new(&mut self, state: &State) -> bool {
        let mut bare = *state;
        bare.left = Left::NOTHING;
        // Whether a word was said decides what is judged.
        bare.left.words = state.left.words;
        let known = self.known.entry(bare.fingerprint()).or_default();
        if known.iter().any(|known| known.covers(&state.left)) {
            return false;
        }
        known.retain(|known| !state.left.covers(known));
        known.push(state.left);
        true
    }
}

/// What an exploration found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) states: usize,
    pub(crate) steps: u64,
    pub(crate) depth: usize,
    pub(crate) mended: usize,
    /// Where mending ended, by the operator's command that it took.
    pub(crate) ways_out: BTreeMap<String, u64>,
    pub(crate) rows: BTreeMap<&'static str, u64>,
    /// A property that does not hold, and the history that shows it.
    pub(crate) broken: Option<String>,
    /// There were more states than were asked for.
    pub(crate) cut_short: bool,
}

/// Where histories begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// Two copies in sync; this node serves.
    Serving(u8),
    /// Two nodes without data.
    Created,
}

impl Start {
    pub(crate) fn state(self, left: Left) -> State {
        let fresh = Cell { seen: 0, may: 1 };
        let record = Record {
            lineage: 0,
            data: Worth(DataState::Inconsistent),
            epoch: 0,
            current: 0,
            primary: false,
            log_live: false,
            former_primary: false,
            rebooted: false,
            parted: false,
            sync_target: None,
            base: None,
            sync_token: 0,
            all_marked: false,
            withdrawn: false,
            confirmed: 0,
            tentative: 0,
            pages: 0,
            hot: 0,
        };
        let node = Node::without_memory(record, [fresh; 2]);
        let mut state = State {
            nodes: [node; 2],
            stream: Stream::EMPTY,
            ledger: Ledger::default(),
            left,
            generations: [None; GENERATIONS],
            session: 0,
            broken: false,
            meeting_epoch: 0,
            bye: None,
        };
        if let Self::Serving(primary) = self {
            state.new_generation(crate::state::Begun { epoch: 1, node: primary });
            state.session = 1;
            for (n, node) in (0..).zip(&mut state.nodes) {
                node.record.lineage = 1;
                node.record.data = Worth(DataState::Consistent);
                (node.record.epoch, node.record.current, node.record.confirmed) = (2, 2, 1);
                node.phase = Phase::Established;
                node.peer_primary = n != primary;
                let serves = n == primary;
                (node.primary, node.record.primary, node.record.log_live) =
                    (serves, serves, serves);
            }
        }
        state
    }
}

/// All histories from a start, within what is left of faults and orders.
pub(crate) fn explore(rules: Rules, start: Start, left: Left, most: usize) -> Found {
    let mut walk = Walk::new(rules, start, left);
    let mut level = vec![(0u32, walk.root)];
    while !level.is_empty() && walk.watch.broken.is_none() && !walk.found.cut_short {
        let mut next = Vec::new();
        for (index, state) in &level {
            walk.expand(*index, state, &mut next);
            if walk.watch.broken.is_some() {
                break;
            }
            walk.found.cut_short |= walk.parents.len() > most;
        }
        walk.found.depth += usize::from(!next.is_empty());
        level = next;
    }
    walk.end()
}

struct Walk {
    rules: Rules,
    root: State,
    seen: Visited,
    parents: Vec<(u32, Step)>,
    watch: Watch,
    mender: Mender,
    found: Found,
    tries: Vec<Step>,
    history: Option<String>,
}

impl Walk {
    fn new(rules: Rules, start: Start, left: Left) -> Self {
        let root = start.state(left);
        let mut seen = Visited::default();
        seen.is_new(&root);
        Self {
            rules,
            root,
            seen,
            parents: vec![(0, Step::Cut)],
            watch: Watch::default(),
            mender: Mender::new(rules),
            found: Found::default(),
            tries: Vec::new(),
            history: None,
        }
    }

    fn expand(&mut self, index: u32, state: &State, next: &mut Vec<(u32, State)>) {
        let mut tries = std::mem::take(&mut self.tries);
        self.rules.tries(state, &mut tries);
        for step in &tries {
            let Some(after) = self.rules.take(state, *step, &mut self.watch) else {
                continue;
            };
            self.found.steps += 1;
            self.judge(&after);
            if self.watch.broken.is_some() {
                self.history = Some(self.story(index, Some(*step)));
                break;
            }
            if !self.seen.is_new(&after) {
                continue;
            }
            let place = u32::try_from(self.parents.len()).expect("fewer than 2^32 states");
            self.parents.push((index, *step));
            if is_quiet(&after)
                && let Err(why) = self.mender.mend(&after)
            {
                self.watch.violate(format!("(d) {why}"));
                self.history = Some(self.story(index, Some(*step)));
                break;
            }
            next.push((place, after));
        }
        self.tries = tries;
    }

    /// Property (a), in every state of a history without an operator's word.
    fn judge(&mut self, state: &State) {
        if state.left.words != self.root.left.words {
            return;
        }
        for (n, node) in ["alpha", "bravo"].iter().zip(&state.nodes) {
            if node.primary
                && let Some(write) = state.ledger.missing_from(node)
            {
                self.watch.violate(format!("(a) {n} serves without w{write}"));
            }
        }
    }

    /// The history that leads to a state, step by step.
    fn story(&self, index: u32, last: Option<Step>) -> String {
        let mut steps: Vec<Step> = last.into_iter().collect();
        let mut place = index;
        while place != 0 {
            let (before, step) = self.parents[place as usize];
            steps.push(step);
            place = before;
        }
        let mut state = self.root;
        let mut text = String::new();
        for step in steps.iter().rev() {
            let mut watch = Watch::default();
            let after = self.rules.take(&state, *step, &mut watch);
            state = after.expect("the step was taken before");
            let _ = writeln!(text, "  {:<28} {}", step.to_string(), brief(&state));
            for (row, _) in watch.rows {
                let _ = writeln!(text, "  {:<28} row {row}", "");
            }
        }
        text
    }

    fn end(self) -> Found {
        let mut found = self.found;
        found.states = self.parents.len();
        found.mended = self.mender.count();
        found.ways_out = self.mender.ways_out;
        found.rows = self.watch.rows;
        for (row, count) in self.mender.rows {
            *found.rows.entry(row).or_default() += count;
        }
        let history = self.history.unwrap_or_default();
        found.broken = self.watch.broken.map(|what| format!("{what}\n{history}"));
        found
    }
}

/// A state in one line.
pub(crate) fn brief(state: &State) -> String {
    let node = |node: &Node| {
        let record = &node.record;
        let role = if node.primary { "P" } else { "s" };
        format!(
            "{role} {:?}, {:?} gen {:b} epoch {}/{} base {:?} marks {:b}/{:b} hot {:b} [{}]",
            node.phase,
            record.data.0,
            record.lineage,
            record.epoch,
            record.current,
            record.base,
            node.map,
            record.pages,
            record.hot,
            Ledger::words(node.seen())
        )
    };
    let sent = state.stream.iter().map(|sent| format!("w{} {:?}", sent.value, sent.stage));
    let sent: Vec<_> = sent.collect();
    format!("{} | {} | {}", node(&state.nodes[0]), node(&state.nodes[1]), sent.join(", "))
}
