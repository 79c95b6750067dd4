//! Owns the way out of a state: faults end, nodes start, and the operator does what the refusal
//! names. Must never use a command that no refusal names.

use crate::explore::{Seen, brief};
use crate::ledger::Ledger;
use crate::rules::{Rules, Step, Watch, goes_on};
use crate::state::{GENERATIONS, Left, Phase, State};
use std::collections::BTreeMap;
use twinblk::format::superblock::DataState;
use twinblk::replica::reconcile::{Reason, Verdict};

/// Steps after which mending counts as endless.
const MOST: usize = 300;

/// Mends states, each kind once.
pub(crate) struct Mender {
    rules: Rules,
    seen: Seen,
    pub(crate) ways_out: BTreeMap<String, u64>,
    pub(crate) rows: BTreeMap<&'static str, u64>,
}

impl Mender {
    pub(crate) fn new(rules: Rules) -> Self {
        let rules = Rules { forced: true, ..rules };
        Self { rules, seen: Seen::default(), ways_out: BTreeMap::new(), rows: BTreeMap::new() }
    }

    pub(crate) fn count(&self) -> usize {
        self.seen.len()
    }

    /// No more faults: the two meet and end equal, or a refusal names the command.
    pub(crate) fn mend(&mut self, state: &State) -> Result<(), String> {
        let mut s = *state;
        s.ledger = Ledger::default();
        let mut way = Vec::new();
        let mut passed = Vec::new();
        for _ in 0..MOST {
            s.left = Left { words: 9, discards: 9, ..Left::NOTHING };
            let print = s.fingerprint();
            if passed.contains(&print) {
                return Err(format!("mending goes round: {}\n  {}", way.join(", "), brief(&s)));
            }
            if !self.seen.insert(print) {
                return Ok(()); // From there on it is known.
            }
            passed.push(print);
            let used = s.generations.iter().flatten().count();
            s.left.generations = u8::try_from(GENERATIONS - used).expect("few");
            if let Some((_, after)) = self.next(&s, &mut way)? {
                s = after;
                continue;
            }
            if s.nodes.iter().all(|node| node.phase == Phase::Idle) {
                self.order(&mut s, Step::InitFrom(0), "init --from", &mut way)?;
                continue;
            }
            return self.at_rest(&s, &way);
        }
        Err(format!("no end of mending: {}\n  {}", way.join(", "), brief(&s)))
    }

    fn next(&mut self, s: &State, way: &mut Vec<String>) -> Result<Option<(Step, State)>, String> {
        for step in goes_on() {
            let mut watch = Watch::default();
            let Some(mut after) = self.rules.take(s, step, &mut watch) else {
                continue;
            };
            for (row, count) in watch.rows {
                *self.rows.entry(row).or_default() += count;
            }
            if let Some(what) = watch.broken {
                return Err(format!("{what}, mending: {}\n  {}", way.join(", "), brief(s)));
            }
            if let (Step::Meet(_), Some(Verdict::Refuse(reason))) = (step, after.nodes[0].verdict) {
                self.obey(s, reason, way).map(|next| after = next)?;
            }
            return Ok(Some((step, after)));
        }
        Ok(None)
    }

    /// Does what `Replica::words_for` says, after both have learnt of the refusal.
    fn obey(&self, s: &State, reason: Reason, way: &mut Vec<String>) -> Result<State, String> {
        let mut s = *s;
        for step in [Step::Meet(None), Step::Learn(0), Step::Learn(1)] {
            s = self.must(&s, step, way)?;
        }
        let primary = [0, 1].map(|n: usize| s.nodes[n].primary);
        let mixed = [0, 1].map(|n: usize| s.nodes[n].data() == DataState::Inconsistent);
        let serving: Vec<u8> = (0..2).filter(|n| primary[usize::from(*n)]).collect();
        match reason {
            Reason::SplitBrain => {
                let loser = u8::from(!primary[1]);
                self.demote(&mut s, &[loser], &serving, way)?;
                // The word is taken in any case; it says nothing where nobody wrote.
                if self.rules.take(&s, Step::Meet(Some(loser)), &mut Watch::default()).is_some() {
                    self.order(&mut s, Step::Meet(Some(loser)), "connect --discard-my-data", way)?;
                }
            }
            Reason::LostBond | Reason::Unrelated => {
                let loser =
                    if mixed[0] != mixed[1] { u8::from(mixed[1]) } else { u8::from(!primary[1]) };
                self.demote(&mut s, &[loser], &serving, way)?;
                self.order(&mut s, Step::Invalidate(loser), "invalidate", way)?;
            }
            Reason::MyPrimaryIsOlder => self.demote(&mut s, &[0], &serving, way)?,
            Reason::TheirPrimaryIsOlder => self.demote(&mut s, &[1], &serving, way)?,
            Reason::NoWholeCopy => {
                self.demote(&mut s, &[0, 1], &serving, way)?;
                // One without data is no candidate.
                let best = u8::from(s.nodes[0].record.lineage == 0);
                self.order(&mut s, Step::Force(best), "promote --force", way)?;
                if s.nodes[usize::from(best)].promoting.is_some() {
                    self.order(&mut s, Step::TakeOffice(best), "its end", way)?;
                }
            }
            Reason::WholeCopyIsOlder => {
                let partial = u8::from(mixed[1]);
                self.demote(&mut s, &[partial], &serving, way)?;
                self.order(&mut s, Step::Invalidate(partial), "invalidate", way)?;
            }
        }
        Ok(s)
    }

    fn demote(
        &self,
        s: &mut State,
        nodes: &[u8],
        serving: &[u8],
        way: &mut Vec<String>,
    ) -> Result<(), String> {
        for n in nodes.iter().filter(|n| serving.contains(n)) {
            self.order(s, Step::Demote(*n), "demote", way)?;
        }
        Ok(())
    }

    fn order(
        &self,
        s: &mut State,
        step: Step,
        words: &str,
        way: &mut Vec<String>,
    ) -> Result<(), String> {
        *s = self.must(s, step, way)?;
        way.push(format!("[{words}]"));
        Ok(())
    }

    fn must(&self, s: &State, step: Step, way: &mut Vec<String>) -> Result<State, String> {
        way.push(step.to_string());
        let after = self.rules.take(s, step, &mut Watch::default());
        after.ok_or_else(|| format!("{step} is refused: {}\n  {}", way.join(", "), brief(s)))
    }

    /// Established on both sides, byte-identical, and nothing marked: G7.
    fn at_rest(&mut self, s: &State, way: &[String]) -> Result<(), String> {
        let [a, b] = &s.nodes;
        let established = [a, b].iter().all(|node| node.phase == Phase::Established);
        let equal = a.seen() == b.seen() && a.record.lineage == b.record.lineage;
        let marks = a.map | b.map | a.record.pages | b.record.pages;
        if !established || !equal || marks != 0 {
            return Err(format!("it does not end equal: {}\n  {}", way.join(", "), brief(s)));
        }
        let words = way.iter().filter(|step| step.starts_with('['));
        let words: Vec<&str> = words.map(String::as_str).collect();
        let words = if words.is_empty() { "by itself".to_owned() } else { words.join(" ") };
        *self.ways_out.entry(words).or_default() += 1;
        Ok(())
    }
}
