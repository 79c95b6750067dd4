//! Owns the field's tests of comparing both copies.

use crate::field::*;
use crate::world::*;
use std::collections::BTreeSet;
use twinblk::replica::event::*;

/// Enough for what is planted, and quickly read as a whole.
fn small() -> Setup {
    Setup { device_blocks: 8 * 1024, ..Setup::default() }
}

const PLANTED: [u64; 4] = [99, 1340, 1341, 3980];

fn verified(w: &mut World, node: usize) -> (u64, u64) {
    w.must(node, Command::Verify { repair: false });
    w.settle();
    let peer = peer(w, node);
    (peer.verify_done_blocks, peer.verify_differing_blocks)
}

/// verify: four blocks, two of them adjacent, are changed on one disk, behind the back of its node.
/// G12: a verify, driven from here or from there, tells just these on both ends, none before and none
/// after they are healed; `repair` on the primary heals them at once, else the next meeting does.
#[test]
fn verify() {
    for driver in BOTH {
        for culprit in BOTH {
            for repair in [false, true] {
                let mut w = World::running(small());
                (0..21).for_each(|place| w.wrote(ALPHA, place * 200, 200, 1));
                flushed(&mut w, ALPHA);
                if driver == BRAVO {
                    switch(&mut w, ALPHA);
                }
                w.settle();
                let all = w.setup.device_blocks;
                assert_eq!(verified(&mut w, driver), (all, 0), "a quiet equal pair");
                PLANTED.into_iter().for_each(|block| plant(&mut w, culprit, block, 9));
                w.command(driver, Command::Verify { repair });
                // Clients go on beside it.
                for stamp in 20..40 {
                    w.write(driver, 200, 3, stamp);
                    w.run_for(1);
                }
                w.until("verified", |w| peer(w, driver).verify_done_blocks == all);
                assert_eq!(peer(&w, driver).verify_differing_blocks, 4);
                w.steps(5);
                if !repair {
                    w.settle();
                    for node in BOTH {
                        assert_eq!(marked(&w, node), BTreeSet::from(PLANTED), "told by {node}");
                        assert_eq!(peer(&w, node).out_of_sync_blocks, 4);
                    }
                    w.blip();
                }
                w.settle();
                w.equal();
                let unstable = if repair { 3 } else { 0 };
                assert!((4..=4 + unstable).contains(&copied(&w, driver)));
                for block in PLANTED {
                    w.holds(1 - driver, block, 1, if culprit == driver { 9 } else { 1 });
                }
                assert_eq!(verified(&mut w, driver), (all, 0), "healed");
                assert_eq!(
                    w.refused(1 - driver, Command::Verify { repair: false }),
                    "peer-is-primary"
                );
            }
        }
    }
}

/// verify, with neither node primary: any of them may drive it, none may repair. G12.
#[test]
fn verify_without_a_primary() {
    let mut w = World::running(small());
    w.wrote(ALPHA, 0, 100, 1);
    w.must(ALPHA, Command::Demote);
    w.settle();
    PLANTED.into_iter().for_each(|block| plant(&mut w, ALPHA, block, 9));
    assert_eq!(w.refused(ALPHA, Command::Verify { repair: true }), "no-primary");
    for node in BOTH {
        assert_eq!(verified(&mut w, node), (w.setup.device_blocks, 4));
        assert_eq!(marked(&w, 1 - node), BTreeSet::from(PLANTED));
    }
    w.must(BRAVO, Command::Verify { repair: false });
    w.settle();
    w.blip();
    w.settle();
    w.equal();
}

/// verify-target-becomes-inconsistent: a verify runs, and the one that is compared with gets a
/// resync, loses its disk or its node. G12, G20: the verify ends, says that it did not see all, calls
/// nothing different that is not, and can be started anew.
#[test]
fn verify_target_becomes_inconsistent() {
    for how in ["resync", "disk", "killed", "role"] {
        let mut w = World::running(small());
        (0..10).for_each(|place| w.wrote(ALPHA, place * 200, 200, 1));
        w.settle();
        w.must(ALPHA, Command::Verify { repair: false });
        w.until("it runs", |w| peer(w, ALPHA).verify_done_blocks > 0);
        match how {
            "resync" => {
                w.cut();
                w.wrote(ALPHA, 5, 100, 2);
                w.restore();
            }
            "disk" => {
                w.must(BRAVO, Command::DiskDetach);
                w.wrote(ALPHA, 5, 100, 2);
                w.settle();
                w.must(BRAVO, Command::DiskAttach);
            }
            "killed" => {
                w.crash(BRAVO);
                w.restart(BRAVO);
            }
            _ => switch(&mut w, ALPHA),
        }
        w.settle();
        let seen = peer(&w, ALPHA);
        assert!(seen.verify_done_blocks < w.setup.device_blocks, "{how}: {seen:?}");
        assert_eq!(seen.verify_differing_blocks, 0, "{how}");
        w.equal();
        let driver = if how == "role" { BRAVO } else { ALPHA };
        assert_eq!(verified(&mut w, driver), (w.setup.device_blocks, 0), "{how}");
    }
}
