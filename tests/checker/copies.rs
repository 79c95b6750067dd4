//! Owns which history each node's copy belongs to, and how far it follows: from that, what a node
//! that begins to serve may have lost. Must never look at bytes.
//!
//! Histories fork when a node serves without what another one holds, which only an operator's
//! forced word may do; a copy joins a history when that history's server calls it up to date.

use std::collections::BTreeMap;

use super::oracle::{Checker, Lost, Rewind, Violation};
use super::timeline::{Mark, NEVER};

/// What an acknowledged write has reached (protocols A, B, C).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    A,
    B,
    C,
}

/// What the server of a history says of a node's copy, its own included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Follower {
    pub(crate) node: usize,
    /// Up to date, and every write goes there before it is acknowledged (C, B) or soon (A).
    pub(crate) follows: bool,
    /// All that is acknowledged is stable there.
    pub(crate) stable: bool,
    /// It says so itself: a server that slept may speak of one that is gone its own way since.
    pub(crate) agrees: bool,
}

#[derive(Clone, Debug)]
struct Copy {
    history: u32,
    /// The copy is all that its history has acknowledged.
    current: bool,
    /// The last moment for which it is known to have held all that was acknowledged by then, and
    /// for which all was stable there.
    complete_at: Mark,
    stable_at: Mark,
    /// The last moment at which a write can have begun that reached it; `NEVER`: any.
    until: Mark,
    /// When the resync to it was first seen, in the history of its source.
    mixed_at: Mark,
    mixed_history: u32,
    /// That source lacked something that it had not made stable.
    mixed_lost: bool,
    /// What `lost_memory` was before: it is that again if the copy was given up, and that is on no record.
    lost_before: bool,
    /// Something it had but not stable may be gone.
    lost_memory: bool,
    /// It was written by the server itself, not by way of a link that may be behind.
    firsthand: bool,
    mixed: bool,
    serving: bool,
    /// An operator said that what only it holds may be given up.
    given_up: bool,
    /// An operator chose an older copy, restored from a backup, against what was acknowledged until then.
    overruled: Mark,
    /// Its server was demoted, which makes all stable, and nothing was written to it since.
    settled: bool,
    /// It calls itself old, and its server may not have heard.
    withdrawn: bool,
    /// It was exchanged: what a server says of it is about what was there before, until the two have met.
    exchanged: bool,
}

/// The number of none.
const NO_HISTORY: u32 = u32::MAX;

/// All histories and copies of one device.
#[derive(Clone, Debug)]
pub(crate) struct Copies {
    protocol: Protocol,
    histories: BTreeMap<u32, Checker>,
    next_history: u32,
    /// From which history each one forked, and when.
    births: BTreeMap<u32, (u32, Mark)>,
    copies: Vec<Copy>,
    /// Copies kept aside, to come back perhaps.
    kept: Vec<Option<Copy>>,
}

impl Copies {
    /// Copies that are equal and read as zeroes.
    pub(crate) fn new(nodes: usize, protocol: Protocol) -> Self {
        let copy = Copy {
            history: 0,
            current: true,
            complete_at: 0,
            stable_at: 0,
            until: NEVER,
            mixed_at: 0,
            mixed_history: 0,
            mixed_lost: false,
            lost_before: false,
            lost_memory: false,
            firsthand: false,
            mixed: false,
            serving: false,
            given_up: false,
            overruled: 0,
            settled: false,
            withdrawn: false,
            exchanged: false,
        };
        let histories = BTreeMap::from([(0, Checker::new())]);
        let births = BTreeMap::new();
        Self {
            protocol,
            histories,
            next_history: 1,
            births,
            copies: vec![copy; nodes],
            kept: vec![None; nodes],
        }
    }

    /// The judge of what clients of this node see.
    pub(crate) fn checker(&mut self, node: usize) -> &mut Checker {
        self.histories.get_mut(&self.copies[node].history).expect("each copy has a history")
    }

    pub(crate) fn is_serving(&self, node: usize) -> bool {
        self.copies[node].serving
    }

    /// How many histories there are: more than one is a split brain, or an abandoned tail.
    pub(crate) fn histories(&self) -> usize {
        self.histories.len()
    }

    /// The earliest moment that a crash state of this copy may show.
    pub(crate) fn floor(&self, node: usize) -> Mark {
        let copy = &self.copies[node];
        if self.protocol == Protocol::C { copy.complete_at } else { copy.stable_at }
    }

    /// A serving node says how all copies are. To be told after each of its turns and after what
    /// that turn acknowledged: to go on without a peer takes a record on disk, hence more than one
    /// turn, so these acknowledgements have reached all that followed until now.
    pub(crate) fn sample(
        &mut self,
        server: usize,
        followers: &[Follower],
    ) -> Result<(), Violation> {
        assert!(self.copies[server].serving, "only a server can say");
        let history = self.copies[server].history;
        let mark = self.checker(server).mark();
        let protocol = self.protocol;
        let mut merged = Ok(());
        for follower in followers {
            let own = follower.node == server;
            if !own && !follower.agrees && self.copies[follower.node].history != history {
                continue;
            }
            let unheard =
                self.copies[follower.node].exchanged || self.copies[follower.node].withdrawn;
            if !own && unheard && !follower.agrees {
                continue;
            }
            self.copies[follower.node].withdrawn = false;
            if follower.follows && !own && !self.copies[follower.node].serving {
                merged = merged.and(self.merges(follower.node, history));
            }
            let copy = &mut self.copies[follower.node];
            if copy.serving && !own {
                continue;
            }
            if follower.follows {
                copy.mixed = false;
                if copy.history != history || !copy.current {
                    copy.lost_memory = false;
                    // Under A and B what is acknowledged may still be on its way there.
                    copy.stable_at = match protocol {
                        Protocol::C => mark,
                        _ if copy.history == history => copy.stable_at,
                        _ => 0,
                    };
                }
                (copy.history, copy.current, copy.complete_at) = (history, true, mark);
                (copy.until, copy.given_up, copy.settled) = (NEVER, false, false);
                copy.firsthand = own;
                copy.exchanged &= own;
                if follower.stable {
                    copy.stable_at = mark;
                }
            } else if copy.history == history && copy.current {
                (copy.current, copy.complete_at, copy.until) = (false, mark, mark);
            }
        }
        if followers.iter().any(|it| it.node != server && it.follows && it.agrees) {
            self.have_met(server);
        }
        let uses = |number: &u32| {
            let mixes = |copy: &Copy| copy.mixed && copy.mixed_history == *number;
            let all = self.copies.iter().chain(self.kept.iter().flatten());
            all.into_iter().any(|copy| copy.history == *number || mixes(copy))
        };
        self.histories.retain(|number, _| uses(number));
        merged
    }

    /// An operator said that what only this copy holds may be given up; whether one had before.
    pub(crate) fn gives_up(&mut self, node: usize) -> bool {
        std::mem::replace(&mut self.copies[node].given_up, true)
    }

    /// The node refused that word.
    pub(crate) fn keeps_back(&mut self, node: usize) {
        self.copies[node].given_up = false;
    }

    /// A copy is about to become one of another history: what was acknowledged in its own alone
    /// must not go without an operator's word (G18). Under A a server that did not yet see that its
    /// peer was lost acknowledges what nobody will miss.
    fn merges(&self, node: usize, into: u32) -> Result<(), Violation> {
        let copy = &self.copies[node];
        // One that was exchanged is what it was when its history had not yet gone on.
        let given_up = copy.given_up || copy.exchanged;
        if given_up || copy.history == into || self.protocol == Protocol::A {
            return Ok(());
        }
        let (mine, theirs) = (self.ancestry(copy.history), self.ancestry(into));
        let parted = mine.iter().find_map(|(history, left)| {
            let other = theirs.iter().find(|(theirs, _)| theirs == history);
            other.map(|(_, other)| *left.min(other))
        });
        let parted = parted.expect("all histories begin as one");
        let newest = self.histories[&copy.history].newest_acknowledged();
        if newest <= parted.max(copy.overruled) {
            return Ok(());
        }
        let text = format!(
            "node {node} takes over another history without an operator's word, although a write \
             begun at {newest} was acknowledged in its own, and they parted at {parted}"
        );
        Err(Violation { promise: "G18", text })
    }

    /// A history and those before it, each with the moment at which the next one left it.
    fn ancestry(&self, history: u32) -> Vec<(u32, Mark)> {
        let mut chain = vec![(history, NEVER)];
        while let Some((parent, left)) = self.births.get(&chain[chain.len() - 1].0) {
            chain.push((*parent, *left));
        }
        chain
    }

    /// Lets go of what no copy can fall back to.
    pub(crate) fn forget(&mut self) {
        for (number, checker) in &mut self.histories {
            let all = self.copies.iter().chain(self.kept.iter().flatten());
            let of = all.filter(|copy| copy.history == *number);
            let whole = of.map(|copy| copy.complete_at.min(copy.stable_at));
            let mixes = |copy: &&Copy| copy.mixed && copy.mixed_history == *number;
            let mixed = self.copies.iter().filter(mixes).map(|copy| copy.mixed_at);
            checker.forget_before(whole.chain(mixed).min().unwrap_or(0));
        }
    }

    /// A copy, as far as it is stable, is kept aside.
    pub(crate) fn keeps(&mut self, node: usize) {
        let copy = self.copies[node].clone();
        let lost_memory = copy.lost_memory || !copy.settled;
        self.kept[node] = Some(Copy { serving: false, current: false, lost_memory, ..copy });
    }

    /// A copy is what was kept aside of it.
    pub(crate) fn restored(&mut self, node: usize) {
        if let Some(copy) = self.kept[node].take() {
            self.copies[node] = Copy { exchanged: true, given_up: true, ..copy };
        }
    }

    /// A copy is gone: in its place is one on which nothing was ever written.
    pub(crate) fn wiped(&mut self, node: usize) {
        let copy = &mut self.copies[node];
        (copy.mixed, copy.mixed_history, copy.current, copy.settled) =
            (true, NO_HISTORY, false, false);
        (copy.exchanged, copy.given_up) = (true, true);
        self.kept[node] = None;
    }

    /// A copy says itself that it is old: its node withdrew from what is acknowledged from here on.
    pub(crate) fn withdrew(&mut self, node: usize) {
        let mark = self.checker(node).mark();
        let copy = &mut self.copies[node];
        if copy.current && !copy.serving {
            (copy.current, copy.complete_at, copy.withdrawn) = (false, mark, true);
        }
    }

    /// A node serves no more: demoted, stopped, killed or without power.
    pub(crate) fn stops(&mut self, node: usize) {
        self.copies[node].serving = false;
    }

    /// A node's process died. Under C what was acknowledged is on its disk; otherwise it may have
    /// lain in its memory.
    pub(crate) fn killed(&mut self, node: usize) {
        let was_serving = self.copies[node].serving;
        self.stops(node);
        let kept = was_serving || self.copies[node].settled;
        self.loses_memory(node, self.protocol != Protocol::C && !kept);
    }

    /// A node's disk refused something: under A and B that may have been acknowledged already, out
    /// of its memory.
    pub(crate) fn lost_disk(&mut self, node: usize) {
        self.loses_memory(node, self.protocol != Protocol::C && !self.copies[node].serving);
    }

    /// A node's disk was opened after a failed sync, and no longer shows some of what it had
    /// completed and not made stable.
    pub(crate) fn lost_cache(&mut self, node: usize) {
        self.loses_memory(node, true);
    }

    /// A node's host lost power.
    pub(crate) fn lost_power(&mut self, node: usize) {
        self.stops(node);
        self.loses_memory(node, !self.copies[node].settled);
    }

    fn loses_memory(&mut self, node: usize, loses: bool) {
        let copy = &mut self.copies[node];
        copy.lost_memory |= loses;
        let (history, lost) = (copy.history, copy.lost_memory && !copy.mixed);
        // Whoever is in the middle of a resync from it will have what is left.
        let numbered = self.copies.iter_mut().enumerate();
        let others = numbered.filter(|(other, _)| *other != node).map(|(_, copy)| copy);
        let targets = others.filter(|copy| copy.mixed && copy.mixed_history == history);
        targets.for_each(|copy| copy.mixed_lost |= lost);
    }

    /// A server was demoted: what it acknowledged is stable on its own copy.
    pub(crate) fn demoted(&mut self, node: usize) {
        self.stops(node);
        self.copies[node].settled = true;
    }

    /// A node begins to serve. Finds what it may have lost, and whether it may serve at all.
    pub(crate) fn serves(&mut self, node: usize, forced: bool) -> Result<(), Violation> {
        let copy = self.copies[node].clone();
        assert!(!copy.serving, "node {node} serves already");
        if copy.mixed {
            return Err(refuse("G14", node, "its blocks are of mixed age"));
        }
        let rivals = |other: &Copy| other.history == copy.history;
        let others = || {
            let numbered = self.copies.iter().enumerate();
            numbered.filter(|(other, held)| *other != node && rivals(held))
        };
        let keeps = |other: &Copy| other.current && !other.lost_memory && !other.mixed;
        let elsewhere = others().any(|(_, other)| keeps(other));
        // A server without a current copy of its own cannot go on without this one.
        let serving = others().any(|(_, other)| other.serving);
        let rival = others().find(|(_, other)| other.serving && other.current);
        let rival = rival.map(|(other, _)| other);
        if !forced && let Some(rival) = rival {
            let text = format!("node {rival} serves the same history");
            return Err(refuse("G15", node, &text));
        }
        // If no copy is known to hold more, reads will show whether anything is missing: a target
        // may have received all, and its source died before it could say so.
        let holds_more =
            |other: &Copy| !other.mixed && (other.current || other.complete_at > copy.complete_at);
        let better = others().any(|(_, other)| holds_more(other));
        // One that began before may have reached this copy, whenever it was acknowledged.
        let newest = self.checker(node).newest_acknowledged();
        let behind = !copy.current && newest > copy.complete_at && better;
        // Under A the former primary is the one to go by, after a power cut too: to its clients that is
        // a disk that lost what was not flushed.
        let first = self.protocol == Protocol::A && copy.firsthand;
        let forgot = copy.lost_memory && elsewhere && !first;
        if !forced && (behind || forgot) {
            let what = if behind { "later writes" } else { "what it had not made stable" };
            let text = format!("it lacks {what}, which another copy held, and nobody forced it");
            return Err(refuse("G14", node, &text));
        }
        let loses = forgot || (forced && !copy.current);
        if forced && copy.exchanged {
            self.overrule(node);
        }
        if loses || serving {
            self.fork(node);
        }
        if let Some(rewind) = self.loss(&copy, loses) {
            self.checker(node).rewind(rewind);
            let (history, mark) = (self.copies[node].history, self.checker(node).mark());
            for other in self.copies.iter_mut().filter(|other| other.history == history) {
                // It holds what it held; what it may show is bounded by what was lost here.
                (other.current, other.until) = (false, other.until.min(mark));
            }
        }
        let mark = self.checker(node).mark();
        let copy = &mut self.copies[node];
        (copy.serving, copy.current, copy.complete_at) = (true, true, mark);
        (copy.stable_at, copy.lost_memory, copy.firsthand) = (mark, false, true);
        (copy.until, copy.given_up, copy.settled) = (NEVER, false, false);
        Ok(())
    }

    /// A server on its way out still sends what its clients asked, though it serves no more, and
    /// says that the other copy follows: that one is of its history from here on, if it `agrees`.
    pub(crate) fn drains(
        &mut self,
        server: usize,
        other: usize,
        agrees: bool,
    ) -> Result<(), Violation> {
        let history = self.copies[server].history;
        if self.copies[other].history == history {
            self.copies[other].until = NEVER;
            return Ok(());
        }
        if !agrees || self.copies[other].serving || self.copies[server].mixed {
            return Ok(());
        }
        let merged = self.merges(other, history);
        self.copied(server, other);
        let copy = &mut self.copies[other];
        (copy.until, copy.exchanged) = (NEVER, false);
        merged
    }

    /// A server on its way out has a whole copy: what its clients asked goes to that, also if its disk had
    /// been away when they did.
    pub(crate) fn drains_here(&mut self, server: usize) {
        self.copies[server].until = NEVER;
    }

    /// A server on its way out, with a whole copy, has lost the other one: what it goes on with, that one
    /// misses, as if it served.
    pub(crate) fn leaves_behind(&mut self, server: usize, other: usize) {
        let (history, mark) = (self.copies[server].history, self.checker(server).mark());
        let copy = &mut self.copies[other];
        let unheard = copy.exchanged || copy.withdrawn;
        if copy.history == history && copy.current && !copy.serving && !unheard {
            (copy.current, copy.complete_at, copy.until) = (false, mark, mark);
        }
    }

    /// A resync from one copy to another is complete: they are equal now.
    pub(crate) fn copied(&mut self, from: usize, to: usize) {
        if self.copies[to].serving {
            return;
        }
        self.have_met(from);
        let copy = self.copies[from].clone();
        self.copies[to] = Copy {
            serving: false,
            mixed: false,
            firsthand: false,
            given_up: false,
            settled: false,
            ..copy
        };
    }

    /// What is said of a copy from here on is about what is there.
    fn have_met(&mut self, node: usize) {
        let copy = &mut self.copies[node];
        (copy.exchanged, copy.withdrawn) = (false, false);
    }

    /// A copy calls itself Inconsistent: its blocks are of mixed age, on their way to those of
    /// another one.
    pub(crate) fn mixes(&mut self, node: usize, from: usize) {
        let mark = self.checker(from).mark();
        let (history, lost) = (self.copies[from].history, self.copies[from].lost_memory);
        let copy = &self.copies[node];
        let known = copy.mixed && copy.mixed_history == history;
        // A server may work on the other copy while its own is brought up to date.
        if (copy.serving && copy.current) || known {
            return;
        }
        let copy = &mut self.copies[node];
        if !copy.mixed {
            copy.lost_before = copy.lost_memory;
        }
        (copy.mixed, copy.mixed_at, copy.mixed_history) = (true, mark, history);
        // What comes now may go in a power cut after the resync's end, before anybody has seen that.
        (copy.mixed_lost, copy.lost_memory) = (lost, false);
    }

    /// Under A a copy was found equal to its server's, and fell behind before anybody saw that: it is of that
    /// history, and has some of what came until now.
    pub(crate) fn fell_behind(&mut self, server: usize, node: usize) -> Result<(), Violation> {
        let (history, mark) = (self.copies[server].history, self.checker(server).mark());
        let copy = &self.copies[node];
        if copy.serving || copy.mixed || copy.history == history {
            return Ok(());
        }
        let merged = self.merges(node, history);
        let copy = &mut self.copies[node];
        (copy.history, copy.current, copy.until) = (history, false, mark);
        (copy.complete_at, copy.stable_at) = (0, 0);
        merged
    }

    /// A resync from one copy to another begins, or goes on.
    pub(crate) fn copies_to(&self, from: usize, node: usize) -> Result<(), Violation> {
        self.merges(node, self.copies[from].history)
    }

    /// A copy that was mixed calls itself whole, after a resync from another one, which may not
    /// know yet. `unseen`: it was whole before, by its records, and has been away since.
    pub(crate) fn arrived(&mut self, from: Option<usize>, node: usize, unseen: bool) {
        let copy = &mut self.copies[node];
        if !std::mem::take(&mut copy.mixed) {
            return;
        }
        if from.is_none() {
            copy.lost_memory |= copy.lost_before;
            return;
        }
        // It has what was there when the resync began, and some of what came since: how much will
        // be known when both say that they are equal. Until then the other may have gone on, or
        // begun another history.
        let (history, begun) = (copy.mixed_history, copy.mixed_at);
        (copy.history, copy.current, copy.given_up) = (history, false, false);
        (copy.settled, copy.exchanged) = (false, false);
        (copy.complete_at, copy.stable_at, copy.until) = (begun, begun, NEVER);
        copy.lost_memory = copy.mixed_lost || (unseen && copy.lost_memory);
    }

    /// Two copies met and found each other equal, without a resync: the better record holds.
    pub(crate) fn equal(&mut self, one: usize, other: usize) -> Result<(), Violation> {
        let rank = |copy: &Copy| (copy.current, !copy.lost_memory, copy.complete_at);
        let (first, second) = (&self.copies[one], &self.copies[other]);
        if first.serving || second.serving {
            return Ok(());
        }
        if first.history != second.history {
            let merged = self.merges(one, second.history);
            return merged.and(self.merges(other, first.history));
        }
        let (from, to) = if rank(first) >= rank(second) { (one, other) } else { (other, one) };
        self.copied(from, to);
        Ok(())
    }

    /// Whether a copy calls itself Inconsistent.
    pub(crate) fn is_mixed(&self, node: usize) -> bool {
        self.copies[node].mixed
    }

    /// Whether a copy other than this one surely is all that its history has acknowledged.
    pub(crate) fn has_another(&self, node: usize) -> bool {
        let others = self.copies.iter().enumerate().filter(|(other, _)| *other != node);
        let whole = |copy: &Copy| copy.current && !copy.mixed && !copy.lost_memory;
        others.map(|(_, copy)| copy).any(whole)
    }

    /// Whether a copy is all that its history has acknowledged, whole.
    pub(crate) fn is_current(&self, node: usize) -> bool {
        self.copies[node].current && !self.copies[node].mixed
    }

    /// A node begins to serve what lies on another node: its own copy is of no account.
    pub(crate) fn serves_through(&mut self, node: usize, other: usize) -> Result<(), Violation> {
        if self.copies[other].serving {
            return Err(refuse("G15", node, &format!("node {other} serves the same history")));
        }
        let history = self.copies[other].history;
        let copy = &mut self.copies[node];
        (copy.serving, copy.history, copy.current) = (true, history, false);
        Ok(())
    }

    /// The operator's word for an old copy, against all that others hold by now.
    fn overrule(&mut self, node: usize) {
        for other in (0..self.copies.len()).filter(|other| *other != node) {
            let mark = self.checker(other).mark();
            self.copies[other].overruled = mark;
        }
    }

    fn fork(&mut self, node: usize) {
        let (history, mark) = (self.copies[node].history, self.checker(node).mark());
        self.births.insert(self.next_history, (history, mark));
        let forked = self.checker(node).fork();
        self.histories.insert(self.next_history, forked);
        self.copies[node].history = self.next_history;
        self.next_history += 1;
    }

    /// What a copy may have lost that begins to serve.
    fn loss(&mut self, copy: &Copy, loses: bool) -> Option<Rewind> {
        let history = self.histories.get_mut(&copy.history);
        let now = history.map_or(Mark::MAX - 1, Checker::mark);
        let ceiling = copy.until.min(now);
        let tail = copy.lost_memory || (self.protocol == Protocol::A && !copy.firsthand);
        let certain = match self.protocol {
            Protocol::C => copy.complete_at,
            Protocol::A | Protocol::B => copy.stable_at,
        };
        let (floor, lost) = match (tail, loses) {
            (true, _) => (certain, Lost::Unstable),
            (false, true) => (copy.complete_at, Lost::Nothing),
            (false, false) => return None,
        };
        Some(Rewind { floor, ceiling, lost })
    }
}

fn refuse(promise: &'static str, node: usize, why: &str) -> Violation {
    Violation { promise, text: format!("node {node} serves although {why}") }
}
