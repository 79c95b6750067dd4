//! Owns histories that are legal and must pass. Must never hold one that is not.

use crate::checker::oracle::{Lost, Range, Rewind};
use crate::{Story, bytes};

#[test]
fn what_was_written_is_read() {
    let mut story = Story::new();
    assert!(story.read(5, 0).is_ok());
    story.write(5, 1);
    assert!(story.read(5, 1).is_ok());
    story.write(5, 0);
    assert!(story.read(5, 0).is_ok(), "zeroes written");
    assert!(story.read(6, 0).is_ok(), "the neighbour");
}

#[test]
fn a_read_beside_a_write_sees_either() {
    for seen in [1, 2] {
        let mut story = Story::new();
        story.write(5, 1);
        let write = story.begin(5, 2);
        assert!(story.read(5, seen).is_ok());
        story.checker.ack_write(write);
        assert!(story.read(5, 2).is_ok());
    }
}

#[test]
fn a_slow_read_may_see_what_was_replaced_meanwhile() {
    let mut story = Story::new();
    story.write(5, 1);
    story.checker.invoke_read(1, Range { first: 5, count: 1 });
    story.write(5, 2);
    story.write(5, 3);
    assert!(story.checker.ack_read(1, &bytes(5, &[2])).is_ok());
    assert!(story.read(5, 3).is_ok());
}

#[test]
fn overlapping_writes_end_either_way() {
    for winner in [1, 2] {
        let mut story = Story::new();
        let (one, two) = (story.begin(5, 1), story.begin(5, 2));
        story.checker.ack_write(one);
        story.checker.ack_write(two);
        assert!(story.read(5, winner).is_ok());
        assert!(story.read(5, winner).is_ok());
    }
}

#[test]
fn a_failed_write_is_seen_or_not() {
    for seen in [1, 2] {
        let mut story = Story::new();
        story.write(5, 1);
        story.fail(5, 2);
        assert!(story.read(5, seen).is_ok());
        assert!(story.read(5, seen).is_ok());
    }
}

#[test]
fn a_write_of_several_sectors_may_tear_while_under_way() {
    let mut story = Story::new();
    story.checker.invoke_write(1, Range { first: 8, count: 3 }, 7, false);
    assert!(story.read_bytes(8, &bytes(8, &[7, 0, 7])).is_ok());
    story.checker.ack_write(1);
    assert!(story.read_bytes(8, &bytes(8, &[7, 7, 7])).is_ok());
}

#[test]
fn a_power_cut_takes_what_was_not_flushed() {
    for (five, six) in [(1, 2), (1, 4), (3, 2), (3, 4)] {
        let mut story = Story::new();
        story.write(5, 1);
        story.write(6, 2);
        story.flush();
        story.write(5, 3);
        story.write(6, 4);
        let now = story.checker.mark();
        story.checker.rewind(Rewind { floor: now, ceiling: now, lost: Lost::Unstable });
        assert!(story.read(5, five).is_ok(), "any subset of the later writes");
        assert!(story.read(6, six).is_ok());
    }
}

#[test]
fn a_copy_that_was_left_behind_is_at_one_moment() {
    for (five, six) in [(1, 0), (1, 2), (3, 2)] {
        let mut story = Story::new();
        story.write(5, 1);
        let floor = story.checker.mark();
        story.write(6, 2);
        story.write(5, 3);
        let ceiling = story.checker.mark();
        story.write(6, 4);
        story.checker.rewind(Rewind { floor, ceiling, lost: Lost::Nothing });
        assert!(story.read(5, five).is_ok());
        assert!(story.read(6, six).is_ok());
        story.write(6, 5);
        assert!(story.read(6, 5).is_ok());
    }
}

#[test]
fn images_of_a_crash_pass() {
    let mut story = Story::new();
    story.write(0, 1);
    story.flush();
    story.write(1, 2);
    story.flush();
    story.write(2, 3);
    let floor = 0;
    for image in [[0, 0, 0], [1, 0, 0], [1, 2, 0], [1, 2, 3]] {
        assert!(story.checker.judge_image(&bytes(0, &image), floor).is_ok(), "{image:?}");
    }
}

#[test]
fn forks_go_their_own_ways() {
    let mut story = Story::new();
    story.write(5, 1);
    let mut other = Story { checker: story.checker.fork(), next: 500 };
    story.write(5, 2);
    other.write(5, 3);
    assert!(story.read(5, 2).is_ok());
    assert!(other.read(5, 3).is_ok());
}

#[test]
fn forgetting_takes_only_what_is_gone_for_good() {
    let mut story = Story::new();
    story.write(5, 1);
    story.write(5, 2);
    story.flush();
    story.write(5, 3);
    let now = story.checker.mark();
    story.checker.forget_before(now);
    story.checker.rewind(Rewind { floor: now, ceiling: now, lost: Lost::Unstable });
    assert!(story.read(5, 2).is_ok());
}
