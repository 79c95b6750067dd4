//! Owns what passes between the operator and the nodes: when he looks, what he orders, what his words permit until
//! they are refused, a planned stop to its end, and when he gives a world up. Must never look at a disk.

use twinblk::replica::event::{Command, Refusal, Status};

use crate::arena::{Arena, LOOK, Phase, Step};
use crate::faults::Kind;
use crate::operator::{is_lost, is_whole, mend};
use crate::tally::What;

/// Looks of the mending operator before a world counts as stuck (10 minutes).
const TRIES_MAX: u32 = 1200;
/// Looks after which he believes that no copy is whole.
const TRIES_BEFORE_BACKUP: u32 = 20;
/// What a daemon gives a planned stop before it just ends, ns.
const STOP_TIME: u64 = 60_000_000_000;

/// The numbers of commands that a node in its present life has not refused.
#[derive(Default)]
pub(crate) struct Words {
    /// Promotions by force; each that was answered well stays, until the node serves.
    pub(crate) forcing: Vec<u64>,
    /// Words that what only this node has may be given up.
    giving: Vec<u64>,
    /// The same, given while no other node had it either.
    pub(crate) conceding: Vec<u64>,
    /// The planned stop that is under way.
    stopping: Option<u64>,
}

impl Arena {
    pub(crate) fn order(&mut self, node: usize, command: Command) {
        let words = &self.nodes[node].words;
        if self.nodes[node].life.is_none() || words.stopping.is_some() {
            return;
        }
        self.next_id += 1;
        let id = self.next_id;
        self.tally.add(What::Command, format!("{command:?}"));
        self.note(format_args!("operator tells {node}, {id}: {command:?}"));
        self.permits(node, id, &command);
        let (life, daemon) = self.nodes[node].life.as_mut().expect("just seen");
        daemon.command(id, command);
        self.world.borrow_mut().poke(*life);
    }

    /// What a command means, until it is refused.
    fn permits(&mut self, node: usize, id: u64, command: &Command) {
        let alone = !self.copies.has_another(node);
        let words = &mut self.nodes[node].words;
        match command {
            Command::Promote { force: true } => words.forcing.push(id),
            Command::Stop => {
                words.stopping = Some(id);
                self.after(STOP_TIME, Step::Quit(node, id));
            }
            Command::Invalidate | Command::Connect { discard_my_data: true } => {
                if !self.copies.gives_up(node) || !words.giving.is_empty() {
                    words.giving.push(id);
                }
                if *command == Command::Invalidate && alone {
                    words.conceding.push(id);
                }
            }
            _ => {}
        }
    }

    /// A node has answered a command.
    pub(crate) fn answered(&mut self, node: usize, id: u64, answer: &Result<String, Refusal>) {
        let (well, text) = match answer {
            Ok(text) => (true, text),
            Err(refusal) => (false, &refusal.text),
        };
        self.note(format_args!("node {node} answers {id} ok={well}: {text}"));
        let words = &mut self.nodes[node].words;
        if !well {
            words.forcing.retain(|it| *it != id);
        }
        if words.conceding.contains(&id) {
            words.conceding.retain(|it| *it != id);
            self.conceded |= well;
        }
        if words.giving.contains(&id) {
            words.giving.retain(|it| *it != id);
            if well {
                words.giving.clear();
            } else if words.giving.is_empty() {
                self.copies.keeps_back(node);
            }
        }
        if words.stopping == Some(id) {
            words.stopping = None;
            // The simulator's own daemon knows no stop.
            if well {
                // What comes after the last sync, until the sessions end, is not stable.
                self.end(node);
            }
        }
    }

    /// A life has ended: what it was told and did not refuse may have taken effect.
    pub(crate) fn drops_words(&mut self, node: usize) {
        let words = std::mem::take(&mut self.nodes[node].words);
        self.conceded |= !words.conceding.is_empty();
    }

    /// A stop takes too long: the daemon just ends.
    pub(crate) fn quit(&mut self, node: usize, id: u64) {
        if self.nodes[node].words.stopping == Some(id) {
            self.end(node);
        }
    }

    /// A life that was told to stop ends, and another begins later.
    fn end(&mut self, node: usize) {
        self.kill(node);
        let span = self.random.around(self.plan.span);
        self.after(span, Step::Over(Kind::Kill, node));
    }

    pub(crate) fn whim(&mut self) {
        if self.phase != Phase::Chaos {
            return;
        }
        let seen: Vec<Option<&Status>> =
            self.nodes.iter().map(|node| node.status.as_ref()).collect();
        if let Some((node, command)) = self.operator.whim(&seen) {
            self.order(node, command);
        }
        let pause = self.random.around(self.plan.operator_pause);
        self.after(pause, Step::Whim);
    }

    /// The patient operator looks, before and after the chaos.
    pub(crate) fn mend(&mut self) {
        if self.phase == Phase::Chaos {
            return;
        }
        self.tries += 1;
        let seen: Vec<Option<&Status>> =
            self.nodes.iter().map(|node| node.status.as_ref()).collect();
        let whole = is_whole(&seen);
        let orders = if whole { Vec::new() } else { mend(&seen, self.tries) };
        let lost = is_lost(&seen) && self.nodes.iter().any(|node| node.lost_disk);
        let now = self.world.borrow().now();
        self.whole_since = if whole { self.whole_since.or(Some(now)) } else { None };
        if lost && self.tries > TRIES_BEFORE_BACKUP {
            self.note(format_args!("no whole copy is left: the operator restores a backup"));
            self.tally.add(What::End, "a backup is restored".to_owned());
            self.given_up = true;
            return;
        }
        if self.tries > TRIES_MAX {
            let text = format!("the cluster does not mend: {:#?}", self.seen());
            return self.fail("G20", text);
        }
        for (node, command) in orders {
            self.order(node, command);
        }
        if whole && self.phase == Phase::Setup {
            return self.unleash();
        }
        self.after(LOOK, Step::Mend);
    }
}
