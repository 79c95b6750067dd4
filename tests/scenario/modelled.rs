//! Owns the stories that the model (`tests/model`) found and that the cores told as well, each named
//! by what must hold.

use crate::world::*;
use twinblk::format::frame::Protocol;
use twinblk::replica::event::Replication;

fn under(protocol: Protocol) -> World {
    World::running(Setup { protocol, ..Setup::default() })
}

/// G13: two that were found equal are of one generation, whenever a flush is answered.
#[test]
fn a_flush_while_the_nodes_negotiate_begins_no_generation() {
    for steps in 0..60 {
        let mut w = under(Protocol::C);
        w.settle();
        w.hold_data(BRAVO, true);
        w.hold_data(ALPHA, true);
        w.write(ALPHA, 4, 1, 9);
        w.run_for(20);
        w.cut();
        w.hold_data(ALPHA, false);
        w.hold_data(BRAVO, false);
        w.lose(BRAVO, "SyncAdopted");
        w.restore();
        let heard = |w: &World| w.status(BRAVO).peers[0].replication == Replication::Established;
        w.until("adopted", heard);
        w.run_for(5);
        w.cut();
        w.restore();
        w.steps(steps);
        w.flush(ALPHA);
        w.run_for(5_000);
        w.equal();
        let [a, b] = [ALPHA, BRAVO].map(|node| w.replica(node).superblock().lineage.clone());
        assert_eq!(a, b, "a flush after {steps} steps");
    }
}
