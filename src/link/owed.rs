//! Owns the account of what the peer owes in answers, and since when none has come.
//! Must never know why an answer is late: it counts.

use crate::format::frame::{DiskState, Frame};
use crate::units::{Nanos, Sequence};

/// What the peer owes in one session.
#[derive(Debug, Default)]
pub(super) struct Owed {
    /// Sequenced frames without `Written`.
    writes: u64,
    /// The newest of them.
    newest: Sequence,
    /// Questions without an answer.
    answers: u64,
    /// Newest barrier without `Stable`.
    barrier: Option<Sequence>,
    /// When something was first owed, or an answer last came.
    moved_at: Nanos,
}

impl Owed {
    /// A frame was queued for the peer.
    pub(super) fn on_sent(&mut self, now: Nanos, frame: &Frame) {
        let idle = !self.any();
        match frame {
            Frame::Write { sequence, .. }
            | Frame::Zero { sequence, .. }
            | Frame::ResyncData { sequence, .. }
            | Frame::ResyncZero { sequence, .. } => {
                self.writes += 1;
                self.newest = *sequence;
            }
            // Answered, and acknowledged in its place among the writes.
            Frame::ResyncHash { sequence, .. } => {
                self.writes += 1;
                self.answers += 1;
                self.newest = *sequence;
            }
            Frame::VerifyAsk { .. } | Frame::ReadAsk { .. } => self.answers += 1,
            Frame::Barrier { sequence } => self.barrier = Some(*sequence),
            _ => return,
        }
        if idle {
            self.moved_at = now;
        }
    }

    /// A frame came from the peer.
    pub(super) fn on_received(&mut self, now: Nanos, frame: &Frame) {
        match frame {
            Frame::Written { first, last } => {
                let run = last.0.saturating_sub(first.0).saturating_add(1);
                self.writes = self.writes.saturating_sub(run);
            }
            // With its disk gone, it owes nothing of what was asked of that disk.
            Frame::WriteFailed { .. } => self.forgive(),
            Frame::DiskChange { disk } if *disk < DiskState::Inconsistent => self.forgive(),
            Frame::HashAnswer { .. } | Frame::VerifyAnswer { .. } | Frame::ReadAnswer { .. } => {
                self.answers = self.answers.saturating_sub(1);
            }
            Frame::Stable { sequence } => {
                if self.barrier.is_some_and(|owed| owed <= *sequence) {
                    self.barrier = None;
                }
                if self.newest <= *sequence {
                    self.writes = 0;
                }
            }
            // That it has memory says nothing of its disk.
            _ => return,
        }
        self.moved_at = now;
    }

    fn forgive(&mut self) {
        (self.writes, self.answers, self.barrier) = (0, 0, None);
    }

    /// When the peer is to be given up, if nothing moves until then.
    pub(super) fn deadline(&self, progress_timeout: Nanos) -> Nanos {
        if self.any() { self.moved_at + progress_timeout } else { Nanos::NEVER }
    }

    /// When something was first owed, or an answer last came.
    pub(super) const fn moved_at(&self) -> Nanos {
        self.moved_at
    }

    fn any(&self) -> bool {
        self.writes > 0 || self.answers > 0 || self.barrier.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Blocks;

    const LIMIT: Nanos = Nanos(42);

    fn write(sequence: u64) -> Frame {
        let (sequence, after) = (Sequence(sequence), Sequence(0));
        Frame::Write { sequence, after, blocks: Blocks::new(0, 1), fua: false }
    }

    #[test]
    fn nothing_owed_never_ends() {
        let mut owed = Owed::default();
        assert_eq!(owed.deadline(LIMIT), Nanos::NEVER);
        owed.on_sent(Nanos(1), &Frame::MarksDone);
        assert_eq!(owed.deadline(LIMIT), Nanos::NEVER);
    }

    #[test]
    fn each_answer_gives_new_time_until_none_is_owed() {
        let mut owed = Owed::default();
        for sequence in 1..=3 {
            owed.on_sent(Nanos(sequence), &write(sequence));
        }
        owed.on_sent(Nanos(5), &Frame::Barrier { sequence: Sequence(3) });
        assert_eq!(owed.deadline(LIMIT), Nanos(43));
        owed.on_received(Nanos(9), &Frame::Written { first: Sequence(1), last: Sequence(3) });
        assert_eq!(owed.deadline(LIMIT), Nanos(51));
        owed.on_received(Nanos(10), &Frame::Stable { sequence: Sequence(2) });
        assert_eq!(owed.deadline(LIMIT), Nanos(52));
        owed.on_received(Nanos(11), &Frame::Stable { sequence: Sequence(3) });
        assert_eq!(owed.deadline(LIMIT), Nanos::NEVER);
    }

    #[test]
    fn all_stable_or_no_disk_means_nothing_owed() {
        for frame in [
            Frame::Stable { sequence: Sequence(2) },
            Frame::WriteFailed { sequence: Sequence(1) },
            Frame::DiskChange { disk: DiskState::Diskless },
        ] {
            let mut owed = Owed::default();
            owed.on_sent(Nanos(1), &write(1));
            owed.on_sent(Nanos(2), &write(2));
            owed.on_sent(Nanos(3), &Frame::Barrier { sequence: Sequence(2) });
            owed.on_received(Nanos(9), &frame);
            assert_eq!(owed.deadline(LIMIT), Nanos::NEVER, "{frame:?}");
        }
    }

    #[test]
    fn a_flood_of_answers_cannot_underflow() {
        let mut owed = Owed::default();
        let all = Frame::Written { first: Sequence(0), last: Sequence(u64::MAX) };
        owed.on_received(Nanos(1), &all);
        owed.on_sent(Nanos(2), &write(1));
        assert_eq!(owed.deadline(LIMIT), Nanos(44));
    }
}
