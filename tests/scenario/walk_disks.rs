//! Owns random walks of disks: let go of, failing, stalled, replaced, given up, while nodes stop, die and
//! lose power and links blip. Must never force anything: no write that was acknowledged may be missed.

use crate::field::*;
use crate::medium::Dice;
use crate::walk::{Judge, walks};
use crate::world::*;
use twinblk::format::frame::{DiskState, Protocol, Role};
use twinblk::replica::event::*;
use twinblk::replica::options::PeerLoss;

/// What may be made to wait.
const STALLS: [&str; 6] = ["sync", "store", "superblock", "log", "pages", "load"];

struct Walk {
    w: World,
    judge: Judge,
    stamp: u64,
    /// Who was told to stop, cleanly.
    stopping: [Option<CommandId>; 2],
}

impl Walk {
    fn new(seed: u64) -> Self {
        let protocol = PROTOCOLS[usize::try_from(seed % 3).expect("small")];
        let suspends = seed.is_multiple_of(4);
        let on_peer_loss = if suspends { PeerLoss::Suspend } else { PeerLoss::Continue };
        let (device_blocks, log_extents) = (12 * 1024, 8);
        let setup =
            Setup { device_blocks, log_extents, protocol, on_peer_loss, ..Setup::default() };
        let mut w = World::running(setup);
        w.setup.chaos = seed + 1;
        w.dice = Dice(seed ^ 0xd15c);
        Self { w, judge: Judge::new(), stamp: 0, stopping: [None; 2] }
    }

    fn primary(&self) -> Option<usize> {
        BOTH.into_iter().find(|node| self.w.alive(*node) && self.w.role(*node) == Role::Primary)
    }

    /// Whatever one node loses now, the other one has.
    fn twice(&self) -> bool {
        let whole = |node| self.w.alive(node) && self.w.status(node).disk == DiskState::UpToDate;
        self.w.established() && BOTH.into_iter().all(whole)
    }

    fn request(&mut self) {
        let Some(node) = self.primary() else { return };
        let (start, count) = (self.w.dice.below(12) * 1020, 1 + self.w.dice.below(6));
        match self.w.dice.below(10) {
            0 | 1 => self.judge.flush(&mut self.w, node),
            2 => self.judge.zero(&mut self.w, node, start, count),
            3 => self.judge.read(&mut self.w, node, start, count),
            _ => {
                self.stamp += 1;
                self.judge.write(&mut self.w, node, start, count, self.stamp);
            }
        }
    }

    /// A process ends without a word, or its machine does. What is not on both disks and stable may go,
    /// if it is not flushed.
    fn dies(&mut self, node: usize, power: bool) {
        self.judge.look(&self.w);
        let keeps = self.twice() && self.w.setup.protocol == Protocol::C;
        let memory = self.w.setup.protocol != Protocol::C && !self.twice();
        if power && !keeps || memory {
            self.judge.widen_to_flush();
            // An acknowledgement may be on its way of what is lost now.
            BOTH.into_iter().for_each(|node| self.judge.forget(node));
        }
        if power {
            self.w.power_cut(node);
        } else {
            self.w.crash(node);
        }
        self.judge.forget(node);
    }

    /// The disk refuses what it is asked, for a while, and may forget what it had not made stable.
    fn disk_fails(&mut self, node: usize) {
        self.judge.look(&self.w);
        if !self.twice() || self.w.setup.protocol != Protocol::C {
            self.judge.widen_to_flush();
        }
        self.w.nodes[node].medium.broken = true;
    }

    fn disk_heals(&mut self, node: usize) {
        if self.w.nodes[node].medium.broken && !self.w.alive(node)
            || self.w.alive(node) && self.w.status(node).disk == DiskState::Diskless
        {
            self.w.nodes[node].medium.broken = false;
        }
    }

    fn command(&mut self, node: usize) {
        let command = match self.w.dice.below(13) {
            0..=2 => Command::DiskDetach,
            3..=5 => Command::DiskAttach,
            6 => PROMOTE,
            7 => Command::Demote,
            8 => Command::Disconnect,
            9 | 10 => CONNECT,
            11 if self.twice() => Command::Invalidate,
            _ => Command::Resume,
        };
        self.w.command(node, command);
    }

    fn act(&mut self) {
        let node = usize::from(self.w.dice.one_in(2));
        let alive = self.w.alive(node);
        match self.w.dice.below(100) {
            0..=54 => self.request(),
            55..=64 => {
                let stall = STALLS[usize::try_from(self.w.dice.below(6)).expect("small")];
                self.w.nodes[node].stalled.insert(stall);
            }
            65..=72 => self.w.nodes[node].stalled.clear(),
            73..=80 if alive => self.command(node),
            81..=83 if !alive => self.w.restart(node),
            81 | 82 => self.dies(node, false),
            83 => self.dies(node, true),
            84 if alive => self.stopping[node] = Some(self.w.command(node, Command::Stop)),
            85 | 86 => self.w.cut(),
            87..=89 => self.w.restore(),
            90 | 91 => self.w.blip(),
            92 => self.disk_fails(node),
            93 | 94 => self.disk_heals(node),
            _ => {
                let millis = self.w.dice.below(300);
                self.w.run_for(millis);
            }
        }
        let steps = self.w.dice.below(30);
        self.w.steps(steps);
        self.judge.look(&self.w);
        self.end_stopped();
    }

    /// Whoever has stopped cleanly has nothing left that could be lost.
    fn end_stopped(&mut self) {
        for node in BOTH {
            let stop = self.stopping[node].filter(|_| self.w.alive(node));
            let answered = stop.is_some_and(|id| self.w.answer(node, id).is_some());
            if answered {
                self.w.crash(node);
                self.judge.forget(node);
            }
            if !self.w.alive(node) {
                self.stopping[node] = None;
            }
        }
    }

    /// Faults end, and the operator does what `status` says.
    fn mend(&mut self) {
        for node in BOTH {
            self.w.nodes[node].medium.broken = false;
            self.w.nodes[node].stalled.clear();
        }
        self.w.restore();
        self.w.run_for(30_000);
        self.judge.look(&self.w);
        self.end_stopped();
        for node in BOTH {
            if self.stopping[node].is_some() {
                self.w.fail("a stop is not answered");
            }
            if !self.w.alive(node) {
                self.w.restart(node);
            }
        }
        for round in 0..6 {
            self.w.run_for(30_000);
            self.judge.look(&self.w);
            if self.twice() {
                break;
            }
            for node in BOTH {
                if self.w.status(node).disk == DiskState::Diskless {
                    let _ = self.w.order(node, Command::DiskAttach);
                }
                // Whoever serves without a current copy may have to give that up.
                if round > 2 && self.w.status(node).disk != DiskState::UpToDate {
                    let _ = self.w.order(node, Command::Demote);
                }
                let status = self.w.status(node);
                let named = status.peers[0].connection_reason.contains("twinblk invalidate");
                if named && status.disk == DiskState::Inconsistent {
                    // The newest copy is in part on a disk that failed: no promise holds for that.
                    self.judge.widen_to_all();
                    if status.role == Role::Primary {
                        self.w.must(node, Command::Demote);
                    }
                    self.w.must(node, Command::Invalidate);
                }
                if status.peers[0].connection_reason.contains("has a whole copy") && node == ALPHA {
                    self.judge.widen_to_all();
                    self.w.must(node, FORCE);
                }
                if stand_alone(&self.w)[node] {
                    self.w.must(node, CONNECT);
                }
            }
        }
    }
}

fn walk(seed: u64) -> (u64, u64) {
    let mut walk = Walk::new(seed);
    for _ in 0..120 {
        walk.act();
    }
    walk.mend();
    walk.w.run_for(20_000);
    walk.judge.look(&walk.w);
    walk.w.equal();
    for node in BOTH {
        walk.judge.image(&walk.w, node);
    }
    (walk.w.events, walk.judge.checked)
}

#[test]
fn random_walks_of_disks() {
    walks("DISKS", 300, walk);
}
