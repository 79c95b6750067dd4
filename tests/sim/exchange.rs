//! Owns the exchange of an arena's disks: for new ones, for what they were earlier, for each other. Must never take
//! away what no other copy surely holds.

use twinblk::format::frame::DiskState;
use twinblk::replica::event::{Replication, Status};

use crate::arena::{Arena, Phase, Step};
use crate::clockwork::LifeId;
use crate::image::Image;

impl Arena {
    /// Only a copy that is surely held elsewhere is taken away.
    pub(crate) fn is_spare(&self, node: usize) -> bool {
        let other = 1 - node;
        !self.swapped && self.copies.is_serving(other) && self.copies.has_another(node)
    }

    /// The disk is exchanged for a new one, which `create` lays out.
    pub(crate) fn wipe(&mut self, node: usize) -> bool {
        if !self.is_spare(node) {
            return false;
        }
        self.cut_power(node);
        self.maker.create(&mut self.world.borrow_mut(), node, self.nodes[node].disk);
        self.nodes[node].copied_from = None;
        self.nodes[node].half = true;
        self.snapshots[node] = None;
        self.copies.wiped(node);
        true
    }

    /// Keeps what a disk holds, to bring it back later.
    pub(crate) fn snapshot(&mut self) {
        if self.phase != Phase::Chaos {
            return;
        }
        let node = self.random.index(2);
        let marked = |status: &Status| status.disk > DiskState::Inconsistent;
        let whole = self.nodes[node].status.as_ref().is_some_and(marked);
        if whole && !self.swapped && !self.copies.is_mixed(node) {
            let image = self.world.borrow().disks[self.nodes[node].disk].durable().clone();
            self.note(format_args!("snapshot of the disk of {node}"));
            let life = self.nodes[node].life.as_ref().expect("it has a status").0;
            self.snapshots[node] = Some((life, image));
            self.copies.keeps(node);
        }
        let pause = self.random.around(1 << 33);
        self.after(pause, Step::Snapshot);
    }

    /// The last snapshot is of an earlier run than that in which the disks last met: a younger one cannot be told
    /// from what was there (G14). A node without its disk records no meeting, even if it stands in one.
    pub(crate) fn is_restorable(&self, node: usize) -> bool {
        let meets = |status: &Status| {
            let peer = &status.peers[0];
            let disks = [Some(status.disk), peer.disk];
            let recorded =
                disks.iter().all(|disk| disk.is_some_and(|disk| disk > DiskState::Diskless));
            recorded && peer.replication == Replication::Established
        };
        let met = self.nodes[node].status.as_ref().is_some_and(meets);
        let life = self.nodes[node].life.as_ref().map(|(life, _)| *life);
        let older = |(of, _): &(LifeId, Image)| life.is_some_and(|life| life != *of);
        met && self.is_spare(node) && self.snapshots[node].as_ref().is_some_and(older)
    }

    /// The disk is as it was at the last snapshot.
    pub(crate) fn restore(&mut self, node: usize) -> bool {
        if !self.is_restorable(node) {
            return false;
        }
        let (_, image) = self.snapshots[node].take().expect("just seen");
        self.cut_power(node);
        self.note(format_args!("the disk of {node} is restored"));
        self.world.borrow_mut().disks[self.nodes[node].disk].replace(image);
        self.nodes[node].copied_from = None;
        self.nodes[node].half = false;
        self.nodes[node].restored = true;
        self.copies.restored(node);
        true
    }

    /// Each node gets the other's disk.
    pub(crate) fn swap_disks(&mut self) -> bool {
        let first = !self.swapped;
        if first {
            self.exchange();
        }
        first
    }

    /// And its own again.
    pub(crate) fn swap_back(&mut self) {
        if self.swapped {
            self.exchange();
        }
    }

    fn exchange(&mut self) {
        self.cut_power(0);
        self.cut_power(1);
        let disk = self.nodes[0].disk;
        self.nodes[0].disk = std::mem::replace(&mut self.nodes[1].disk, disk);
        self.swapped = !self.swapped;
        self.note(format_args!("the disks are swapped: {}", self.swapped));
        (0..2).for_each(|node| self.recover(node));
    }
}
