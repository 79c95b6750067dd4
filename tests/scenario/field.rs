//! Owns what the field's stories share: the commands in short, and looks at what a node knows.
//!
//! The `field_*` files hold the tests of the field's reference suite, each under the name it has
//! there (`a-b` is `a_b` here), told for two nodes.

use crate::world::*;
use std::collections::BTreeSet;
use twinblk::format::frame::Protocol;
use twinblk::replica::event::*;
use twinblk::replica::options::*;

pub const PROMOTE: Command = Command::Promote { force: false };
pub const FORCE: Command = Command::Promote { force: true };
pub const CONNECT: Command = Command::Connect { discard_my_data: false };
pub const DISCARD: Command = Command::Connect { discard_my_data: true };
pub const BOTH: [usize; 2] = [ALPHA, BRAVO];
pub const PROTOCOLS: [Protocol; 3] = [Protocol::A, Protocol::B, Protocol::C];

pub fn under(protocol: Protocol) -> World {
    World::running(Setup { protocol, ..Setup::default() })
}

/// Block 5 holds 1, stable on both, and the first node is primary.
pub fn begun(protocol: Protocol) -> World {
    let mut w = under(protocol);
    w.settle();
    w.wrote(ALPHA, 5, 1, 1);
    flushed(&mut w, ALPHA);
    w.settle();
    w
}

/// A primary without its peer waits.
pub fn suspending() -> World {
    World::running(Setup { on_peer_loss: PeerLoss::Suspend, ..Setup::default() })
}

pub fn peer(w: &World, node: usize) -> PeerStatus {
    w.status(node).peers[0].clone()
}

/// Blocks that the last finished resync copied.
pub fn copied(w: &World, node: usize) -> u64 {
    peer(w, node).last_resync_blocks
}

pub fn resyncs(w: &World) -> u64 {
    BOTH.iter().map(|node| w.sent.get(&(*node, "SyncStart")).copied().unwrap_or(0)).sum()
}

pub fn stand_alone(w: &World) -> [bool; 2] {
    BOTH.map(|node| peer(w, node).connection == Connection::StandAlone)
}

/// The blocks that a node has marked for its peer, one by one.
pub fn marked(w: &World, node: usize) -> BTreeSet<u64> {
    let mut blocks = BTreeSet::new();
    let pages = w.setup.device_blocks.div_ceil(508 * 64);
    for page in 0..u32::try_from(pages).expect("few") {
        let words = w.replica(node).bitmap_page(PageId { slot: 0, page }).to_vec();
        for (place, word) in (0u64..).zip(words) {
            let bits = (0..64).filter(|bit| word >> bit & 1 == 1);
            blocks.extend(bits.map(|bit| (u64::from(page) * 508 + place) * 64 + bit));
        }
    }
    blocks
}

/// Puts a block on a disk past the node that owns it.
pub fn plant(w: &mut World, node: usize, block: u64, stamp: u64) {
    w.nodes[node].medium.write(block, Some(crate::medium::fill(stamp, block)), true);
}

pub fn flushed(w: &mut World, node: usize) {
    let id = w.flush(node);
    w.until("flushed", |w| w.done(node, id));
}

/// What a client that reads these blocks is shown.
#[track_caller]
pub fn reads(w: &mut World, node: usize, start: u64, count: u64) -> Vec<u64> {
    let id = w.read(node, start * 4096, count * 4096);
    w.until("read", |w| w.reply(node, id).is_some());
    let bytes = w.reply(node, id).unwrap().as_ref().expect("read");
    (start..start + count)
        .zip(bytes.chunks_exact(4096))
        .map(|(block, data)| crate::medium::stamp_of(data, block).expect("a whole block"))
        .collect()
}

/// What a power cut takes of the disk's own memory, all of it.
pub fn lose_power(w: &mut World, node: usize) {
    w.nodes[node].medium.lose_unsynced();
    w.power_cut(node);
}

/// The daemon ends as planned; the machine goes on.
pub fn stop(w: &mut World, node: usize) {
    w.must(node, Command::Stop);
    w.crash(node);
}

/// A planned change of the primary.
pub fn switch(w: &mut World, from: usize) {
    w.must(from, Command::Demote);
    w.run_for(5);
    w.must(1 - from, PROMOTE);
}
