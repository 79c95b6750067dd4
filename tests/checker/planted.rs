//! Owns histories with one fault each, which the checker must catch. Must never hold a legal one.

use crate::checker::oracle::{Lost, Range, Rewind, Violation};
use crate::{Story, bytes};

fn caught(result: Result<(), Violation>, words: &str) {
    let violation = result.expect_err("a planted fault went unnoticed");
    assert!(violation.text.contains(words), "{violation}");
}

#[test]
fn a_lost_write() {
    let mut story = Story::new();
    story.write(5, 1);
    caught(story.read(5, 0), "gone since");
}

#[test]
fn a_stale_sector() {
    let mut story = Story::new();
    story.write(5, 1);
    story.write(5, 2);
    caught(story.read(5, 1), "gone since");
}

#[test]
fn a_lost_trim() {
    let mut story = Story::new();
    story.write(5, 1);
    story.write(5, 0);
    caught(story.read(5, 1), "gone since");
}

#[test]
fn a_mixed_sector() {
    let mut story = Story::new();
    story.write(5, 1);
    story.write(5, 2);
    let mut mixed = bytes(5, &[2]);
    mixed[300..].copy_from_slice(&bytes(5, &[1])[300..]);
    caught(story.read_bytes(5, &mixed), "goes over at byte 296");
}

#[test]
fn a_flipped_bit_in_zeroes() {
    let mut zeroes = bytes(5, &[0]);
    zeroes[511] = 8;
    caught(Story::new().read_bytes(5, &zeroes), "at byte 504");
}

#[test]
fn a_write_seen_in_another_block() {
    let mut story = Story::new();
    story.write(5, 1);
    caught(story.read_bytes(13, &bytes(5, &[1])), "holds sector 5 of write 1");
}

#[test]
fn a_value_nobody_wrote_there() {
    let mut story = Story::new();
    story.write(5, 1);
    caught(story.read(13, 1), "nobody wrote");
}

#[test]
fn a_read_taken_back() {
    let mut story = Story::new();
    story.write(5, 1);
    story.begin(5, 2);
    assert!(story.read(5, 2).is_ok());
    caught(story.read(5, 1), "gone since");
}

#[test]
fn a_failed_write_that_appears_after_it_was_found_missing() {
    let mut story = Story::new();
    story.write(5, 1);
    story.fail(5, 2);
    assert!(story.read(5, 1).is_ok());
    caught(story.read(5, 2), "gone since");
}

#[test]
fn a_failed_write_that_lands_on_a_later_one() {
    let mut story = Story::new();
    story.fail(5, 2);
    story.write(5, 3);
    caught(story.read(5, 2), "gone since");
}

#[test]
fn concurrent_writes_that_change_places() {
    let mut story = Story::new();
    let (one, two) = (story.begin(5, 1), story.begin(5, 2));
    story.checker.ack_write(one);
    story.checker.ack_write(two);
    assert!(story.read(5, 1).is_ok());
    caught(story.read(5, 2), "gone since");
}

fn power_cut(story: &mut Story) {
    let now = story.checker.mark();
    story.checker.rewind(Rewind { floor: now, ceiling: now, lost: Lost::Unstable });
}

#[test]
fn a_flush_violated() {
    let mut story = Story::new();
    story.write(5, 1);
    story.flush();
    power_cut(&mut story);
    caught(story.read(5, 0), "gone since");
}

#[test]
fn what_was_inherited_and_then_flushed_is_lost() {
    let mut story = Story::new();
    story.write(5, 1);
    power_cut(&mut story);
    story.read(5, 1).expect("it may have been kept");
    story.flush();
    power_cut(&mut story);
    caught(story.read(5, 0), "gone since");
}

#[test]
fn what_was_found_missing_and_then_flushed_is_back() {
    let mut story = Story::new();
    story.write(5, 1);
    power_cut(&mut story);
    story.read(5, 0).expect("it may have been lost");
    story.flush();
    power_cut(&mut story);
    caught(story.read(5, 1), "gone since");
}

#[test]
fn a_durable_write_lost() {
    let mut story = Story::new();
    story.write(5, 1);
    story.checker.invoke_write(1, Range { first: 5, count: 1 }, 2, true);
    story.checker.ack_write(1);
    power_cut(&mut story);
    caught(story.read(5, 1), "gone since");
}

#[test]
fn a_flush_covers_only_what_was_acknowledged_before_it_began() {
    let mut story = Story::new();
    let write = story.begin(5, 1);
    story.checker.invoke_flush(9);
    story.checker.ack_write(write);
    story.checker.ack_flush(9);
    power_cut(&mut story);
    assert!(story.read(5, 0).is_ok(), "so this is legal");
    story.write(6, 2);
    story.flush();
    power_cut(&mut story);
    caught(story.read(6, 0), "gone since");
}

#[test]
fn a_power_cut_does_not_excuse_what_was_shown_since() {
    let mut story = Story::new();
    story.write(5, 1);
    power_cut(&mut story);
    assert!(story.read(5, 0).is_ok());
    caught(story.read(5, 1), "gone since");
}

#[test]
fn a_later_write_without_what_was_flushed_before_it() {
    let mut story = Story::new();
    let floor = story.checker.mark();
    story.write(5, 1);
    story.flush();
    story.write(6, 2);
    let ceiling = story.checker.mark();
    story.checker.rewind(Rewind { floor, ceiling, lost: Lost::Unstable });
    assert!(story.read(6, 2).is_ok());
    caught(story.read(5, 0), "no one moment");
}

#[test]
fn an_acknowledged_write_missing_under_a_later_one() {
    let mut story = Story::new();
    let floor = story.checker.mark();
    story.write(5, 1);
    story.write(6, 2);
    let ceiling = story.checker.mark();
    story.checker.rewind(Rewind { floor, ceiling, lost: Lost::Nothing });
    assert!(story.read(5, 0).is_ok());
    caught(story.read(6, 2), "no one moment");
}

#[test]
fn a_write_from_after_the_copy_was_left_behind() {
    let mut story = Story::new();
    let mark = story.checker.mark();
    story.write(5, 1);
    story.checker.rewind(Rewind { floor: mark, ceiling: mark, lost: Lost::Nothing });
    caught(story.read(5, 1), "gone since");
}

#[test]
fn a_value_of_the_other_history() {
    let mut story = Story::new();
    let mut other = Story { checker: story.checker.fork(), next: 500 };
    story.write(5, 2);
    other.write(5, 3);
    caught(other.read(5, 2), "nobody wrote");
}

#[test]
fn images_no_crash_leaves() {
    let mut story = Story::new();
    story.write(0, 1);
    story.flush();
    story.write(1, 2);
    story.flush();
    let floor = story.checker.mark();
    story.write(2, 3);
    let judge = |image: &[u64], floor| story.checker.judge_image(&bytes(0, image), floor);
    caught(judge(&[0, 2, 0], 0), "no one moment");
    caught(judge(&[1, 0, 3], 0), "no one moment");
    caught(judge(&[1, 0, 0], floor), "no one moment");
    caught(judge(&[1, 2, 9], 0), "nobody wrote");
    caught(judge(&[1, 2, 3, 7], 0), "nobody wrote");
}
