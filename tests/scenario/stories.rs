use crate::world::*;
use twinblk::replica::event::*;

#[test]
fn both_start_empty_and_a_write_reaches_both() {
    let mut w = World::running(Setup::default());
    w.wrote(ALPHA, 10, 3, 7);
    w.holds(ALPHA, 10, 3, 7);
    w.holds(BRAVO, 10, 3, 7);
    w.settle();
    w.equal();
}
