//! Owns the harm done to an arena's nodes, links and disks, and its end. Must never choose it:
//! that is the plan's.

use std::rc::Rc;

use crate::arena::{Arena, Phase, Step};
use crate::faults::{Kind, mend_links, spoil_disk, spoil_link};
use crate::node::Place;

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
        self.strike(kind, node, tries);
        let pause = self.random.around(self.plan.pause);
        self.after(pause, Step::Fault);
    }

    /// Does its harm, preferably while the node's disk is at work.
    pub(crate) fn strike(&mut self, kind: Kind, node: usize, tries: u32) {
        if self.phase != Phase::Chaos {
            return;
        }
        let deadly = [Kind::Kill, Kind::Power, Kind::PowerBoth].contains(&kind);
        let at_work = self.world.borrow().disks[self.nodes[node].disk].in_flight();
        if deadly && at_work == 0 && tries > 0 {
            let pause = self.random.around(100_000);
            return self.after(pause, Step::Strike(kind, node, tries - 1));
        }
        let span = self.random.around(self.plan.span);
        self.note(format_args!("fault {kind:?} at {node} for {span}"));
        if kind != Kind::None {
            self.judge_copies();
            self.harm(kind, node);
            self.after(span, Step::Over(kind, node));
        }
    }

    fn harm(&mut self, kind: Kind, node: usize) {
        let world = Rc::clone(&self.world);
        match kind {
            Kind::None | Kind::Clock | Kind::Operator => {}
            Kind::Kill => self.kill(node),
            Kind::Power => self.cut_power(node),
            Kind::PowerBoth => (0..2).for_each(|node| self.cut_power(node)),
            Kind::Stop => {
                if let Some((life, _)) = &self.nodes[node].life {
                    world.borrow_mut().set_stopped(*life, true);
                }
            }
            Kind::Reset => {
                let world = &mut *world.borrow_mut();
                world.net.break_connections(&mut world.clockwork, 0, 1);
                world.deliver();
            }
            Kind::Cut | Kind::CutOneWay | Kind::SlowLink | Kind::Corrupt => {
                spoil_link(&mut world.borrow_mut(), kind);
            }
            Kind::SlowDisk | Kind::HangDisk | Kind::DiskErrors => {
                spoil_disk(&mut world.borrow_mut(), self.nodes[node].disk, kind);
            }
        }
    }

    pub(crate) fn fault_over(&mut self, kind: Kind, node: usize) {
        let world = Rc::clone(&self.world);
        match kind {
            Kind::PowerBoth => (0..2).for_each(|node| self.recover(node)),
            Kind::Kill | Kind::Power | Kind::Stop => self.recover(node),
            Kind::Cut | Kind::CutOneWay | Kind::SlowLink | Kind::Corrupt => {
                let world = &mut *world.borrow_mut();
                mend_links(world);
                world.deliver();
            }
            Kind::SlowDisk | Kind::HangDisk | Kind::DiskErrors => {
                let world = &mut *world.borrow_mut();
                world.disks[self.nodes[node].disk].heal(&mut world.clockwork);
            }
            Kind::None | Kind::Clock | Kind::Operator | Kind::Reset => {}
        }
    }

    fn kill(&mut self, node: usize) {
        if let Some((life, daemon)) = self.nodes[node].life.take() {
            self.lose_clients(node);
            self.copies.killed(node);
            self.forgets_news(node);
            self.world.borrow_mut().kill(life);
            drop(daemon);
        }
        self.forget_status(node);
    }

    fn cut_power(&mut self, node: usize) {
        self.lose_clients(node);
        self.copies.lost_power(node);
        self.forgets_news(node);
        let disk = self.nodes[node].disk;
        if self.world.borrow().hosts[node].powered {
            self.world.borrow_mut().cut_power(node, &[disk]);
        }
        self.nodes[node].life = None;
        self.forget_status(node);
    }

    fn forget_status(&mut self, node: usize) {
        self.nodes[node].status = None;
        self.nodes[node].forcing.clear();
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
    }
}
