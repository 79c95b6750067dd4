//! Owns the harm done to an arena's nodes, links and disks, and its end. Must never choose it:
//! that is the plan's.

use std::rc::Rc;

use twinblk::format::frame::{DiskState, Role};
use twinblk::replica::event::Command;

use crate::arena::{Arena, Phase, Step};
use crate::faults::{Blow, Kind, mend_links, name, spoil_disk, spoil_link};
use crate::node::Place;
use crate::tally::What;

/// Longer than every time limit of a node or its links.
const STOP_LONG: u64 = 60_000_000_000;

/// How long a blow waits for a busy disk, in looks of a tenth of a millisecond.
const STRIKE_TRIES: u32 = 200;

impl Arena {
    pub(crate) fn fault(&mut self) {
        if self.phase != Phase::Chaos {
            return;
        }
        let kind = self.plan.next(&mut self.random);
        let node = self.random.index(2);
        self.faults += u64::from(kind != Kind::None);
        let tries = if self.random.percent(70) { STRIKE_TRIES } else { 0 };
        if !self.options.without.contains(&self.faults) {
            self.strike(Blow { number: self.faults, kind, node }, tries);
        }
        let pause = self.random.around(self.plan.pause);
        self.after(pause, Step::Fault);
    }

    /// Does its harm, preferably while the node's disk is at work.
    pub(crate) fn strike(&mut self, blow: Blow, tries: u32) {
        let Blow { number, kind, node } = blow;
        if self.phase != Phase::Chaos {
            return;
        }
        let deadly = [Kind::Kill, Kind::KillBoth, Kind::Power, Kind::PowerBoth].contains(&kind);
        let at_work = self.world.borrow().disks[self.nodes[node].disk].in_flight();
        if deadly && at_work == 0 && tries > 0 {
            let pause = self.random.around(100_000);
            return self.after(pause, Step::Strike(blow, tries - 1));
        }
        let longer = if kind == Kind::StopLong { STOP_LONG } else { 0 };
        let waits = match kind {
            Kind::DiskWiped => !self.is_spare(node),
            Kind::DiskRestored => !self.is_restorable(node),
            _ => false,
        };
        if waits && tries > 0 {
            let pause = self.random.around(10_000_000);
            return self.after(pause, Step::Strike(blow, tries - 1));
        }
        let span = self.random.around(self.plan.span) + longer;
        self.note(format_args!("fault {number} {kind:?} at {node} for {span}"));
        if kind != Kind::None {
            self.judge_copies();
            if self.harm(kind, node) {
                self.tally.add(What::Fault, name(kind).to_owned());
            }
            self.after(span, Step::Over(kind, node));
        }
    }

    /// Whether anything was hit: who is down already cannot be killed.
    fn harm(&mut self, kind: Kind, node: usize) -> bool {
        let world = Rc::clone(&self.world);
        match kind {
            Kind::None | Kind::Clock | Kind::Operator => return false,
            Kind::Kill => return self.kill(node),
            Kind::KillBoth => return self.kill(0) & self.kill(1),
            Kind::Crash => return self.light_fuse(node),
            Kind::Power => return self.cut_power(node),
            Kind::PowerBoth => return self.cut_power(0) & self.cut_power(1),
            Kind::DiskWiped => return self.wipe(node),
            Kind::DiskRestored => return self.restore(node),
            Kind::DisksSwapped => return self.swap_disks(),
            Kind::Stop | Kind::StopLong => {
                let Some((life, _)) = &self.nodes[node].life else {
                    return false;
                };
                world.borrow_mut().set_stopped(*life, true);
            }
            Kind::Reset => {
                let world = &mut *world.borrow_mut();
                world.net.break_connections(&mut world.clockwork, 0, 1);
                world.deliver();
            }
            Kind::Takeover => {
                for (quiet, percent) in [(1 - node, 50), (node, 20)] {
                    self.nodes[quiet].quiet |= self.random.percent(percent);
                }
                // What quiet clients have asked for ends before.
                self.after(1 << 29, Step::Part);
                let longest = [28, 31, 33][self.random.index(3)];
                let pause = (1 << 29) + self.random.below(1 << longest);
                self.after(pause, Step::Force(node));
                let later = pause + self.random.below(1 << 31);
                self.after(later, Step::Force(node));
            }
            Kind::Cut | Kind::CutOneWay | Kind::SlowLink | Kind::Corrupt => {
                spoil_link(&mut world.borrow_mut(), kind);
            }
            Kind::ClockJump => {
                let span = 1 << self.random.between(28, 38);
                world.borrow_mut().jump_clock(node, span);
            }
            Kind::ClockFreeze => world.borrow_mut().freeze_clock(node, true),
            Kind::SlowDisk | Kind::HangDisk | Kind::DiskErrors | Kind::DiskFull => {
                spoil_disk(&mut world.borrow_mut(), self.nodes[node].disk, kind);
            }
        }
        true
    }

    pub(crate) fn fault_over(&mut self, kind: Kind, node: usize) {
        let world = Rc::clone(&self.world);
        match kind {
            Kind::PowerBoth | Kind::KillBoth => (0..2).for_each(|node| self.recover(node)),
            Kind::DisksSwapped => self.swap_back(),
            Kind::Kill
            | Kind::Crash
            | Kind::Power
            | Kind::Stop
            | Kind::StopLong
            | Kind::DiskWiped
            | Kind::DiskRestored => self.recover(node),
            Kind::Takeover => {
                self.after(1 << 33, Step::Over(Kind::Cut, node));
                self.after(1 << 34, Step::Loud);
            }
            Kind::Cut | Kind::CutOneWay | Kind::SlowLink | Kind::Corrupt => {
                let world = &mut *world.borrow_mut();
                mend_links(world);
                world.deliver();
            }
            Kind::ClockFreeze => world.borrow_mut().freeze_clock(node, false),
            Kind::SlowDisk | Kind::HangDisk | Kind::DiskErrors | Kind::DiskFull => {
                let world = &mut *world.borrow_mut();
                world.disks[self.nodes[node].disk].heal(&mut world.clockwork);
            }
            Kind::None | Kind::Clock | Kind::ClockJump | Kind::Operator | Kind::Reset => {}
        }
    }

    /// The nodes lose sight of each other, both at once.
    pub(crate) fn part(&mut self) {
        if self.phase == Phase::Chaos {
            let world = &mut *self.world.borrow_mut();
            world.net.break_connections(&mut world.clockwork, 0, 1);
            world.deliver();
            spoil_link(world, Kind::Takeover);
        }
    }

    /// An operator promotes a node, by force if need be, or has it go on alone, or end it again.
    pub(crate) fn force(&mut self, node: usize) {
        let Some(status) = self.nodes[node].status.as_ref() else {
            return;
        };
        let force = !status.promote_refusal.is_empty();
        let whole = status.disk > DiskState::Inconsistent;
        let role = status.role;
        if self.phase != Phase::Chaos {
            return;
        }
        if role == Role::Primary {
            let command = if self.random.percent(70) { Command::Resume } else { Command::Demote };
            self.order(node, command);
        } else if whole {
            self.order(node, Command::Promote { force });
        }
    }

    /// The life dies in the midst of what a turn does.
    fn light_fuse(&mut self, node: usize) -> bool {
        let operations = u32::try_from(1 + self.random.below(6)).expect("small");
        let life = self.nodes[node].life.as_ref().map(|(life, _)| *life);
        life.inspect(|life| self.world.borrow_mut().set_fuse(*life, operations)).is_some()
    }

    /// Whether there was one to kill.
    pub(crate) fn kill(&mut self, node: usize) -> bool {
        let life = self.nodes[node].life.take();
        let lived = life.is_some();
        if let Some((life, daemon)) = life {
            self.lose_clients(node);
            self.copies.killed(node);
            self.forgets_news(node);
            self.world.borrow_mut().kill(life);
            drop(daemon);
        }
        self.forget_status(node);
        lived
    }

    /// Whether there was any.
    pub(crate) fn cut_power(&mut self, node: usize) -> bool {
        self.lose_clients(node);
        self.copies.lost_power(node);
        self.forgets_news(node);
        let disk = self.nodes[node].disk;
        let powered = self.world.borrow().hosts[node].powered;
        if powered {
            self.world.borrow_mut().cut_power(node, &[disk]);
        }
        self.nodes[node].life = None;
        self.forget_status(node);
        powered
    }

    fn forget_status(&mut self, node: usize) {
        self.nodes[node].status = None;
        self.drops_words(node);
    }

    /// Brings a node back, whatever it suffers from.
    pub(crate) fn recover(&mut self, node: usize) {
        let mut world = self.world.borrow_mut();
        if !world.hosts[node].powered {
            world.power_on(node);
        }
        if let Some((life, _)) = &self.nodes[node].life {
            world.set_stopped(*life, false);
            return;
        }
        let free = world.disks[self.nodes[node].disk].is_free();
        drop(world);
        if free {
            self.start(node);
        } else {
            self.after(50_000_000, Step::Over(Kind::Kill, node));
        }
    }

    pub(crate) fn start(&mut self, node: usize) {
        let life = self.world.borrow_mut().start(node);
        let place =
            Place { world: Rc::clone(&self.world), life, node, disk: self.nodes[node].disk };
        let daemon = self.maker.start(place);
        self.nodes[node].life = Some((life, daemon));
        self.nodes[node].inputs = 0;
    }
}
