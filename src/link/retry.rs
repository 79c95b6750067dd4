//! Owns when and where to dial next. Must never give up.

use super::options::{RETRY_FIRST, SESSION_PROVEN};
use crate::units::Nanos;

/// The pauses between attempts: doubling, half of each left to chance, so that two nodes that
/// began together do not keep meeting in mid-handshake.
#[derive(Debug)]
pub(super) struct Retry {
    paths: usize,
    path: usize,
    pause: Nanos,
    longest: Nanos,
    at: Nanos,
}

impl Retry {
    /// The first attempt, on the first of so many paths, is due at once.
    pub(super) fn new(paths: usize, longest: Nanos) -> Self {
        Self { paths: paths.max(1), path: 0, pause: RETRY_FIRST, longest, at: Nanos(0) }
    }

    /// When to dial.
    pub(super) fn at(&self) -> Nanos {
        self.at
    }

    /// Which path to dial.
    pub(super) fn path(&self) -> usize {
        self.path
    }

    /// An operator asked: dial at once, with short pauses again.
    pub(super) fn hurry(&mut self) {
        (self.pause, self.at) = (RETRY_FIRST, Nanos(0));
    }

    /// An attempt failed: the next path, and once around a longer pause.
    pub(super) fn on_failure(&mut self, now: Nanos, random: u64) {
        self.path = (self.path + 1) % self.paths;
        self.wait(now, random);
        if self.path == 0 {
            self.pause = Nanos(self.pause.0 * 2).min(self.longest);
        }
    }

    /// A session ended that stood since `since`.
    pub(super) fn on_ended(&mut self, now: Nanos, since: Nanos, random: u64) {
        if now.since(since) >= SESSION_PROVEN {
            self.pause = RETRY_FIRST;
        }
        self.on_failure(now, random);
    }

    fn wait(&mut self, now: Nanos, random: u64) {
        let half = self.pause.0 / 2;
        self.at = now + Nanos(half + random % (half + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::super::options::RETRY_LONGEST;
    use super::*;

    #[test]
    fn pauses_double_once_around_and_stay_bounded() {
        let mut retry = Retry::new(2, RETRY_LONGEST);
        let mut pauses = Vec::new();
        for turn in 0..20 {
            assert_eq!(retry.path(), turn % 2);
            retry.on_failure(Nanos(0), u64::MAX / 3);
            pauses.push(retry.at());
        }
        assert!(pauses[0] >= Nanos(RETRY_FIRST.0 / 2) && pauses[0] <= RETRY_FIRST);
        assert!(pauses.iter().all(|pause| *pause <= RETRY_LONGEST));
        assert!(pauses[19] >= Nanos(RETRY_LONGEST.0 / 2));
    }

    #[test]
    fn only_a_proven_session_resets_the_pause() {
        let mut retry = Retry::new(1, RETRY_LONGEST);
        for _ in 0..10 {
            retry.on_failure(Nanos(0), 0);
        }
        retry.on_ended(Nanos(5), Nanos(4), 0);
        assert!(retry.at() > RETRY_FIRST);
        retry.on_ended(SESSION_PROVEN, Nanos(0), 0);
        assert!(retry.at() <= SESSION_PROVEN + RETRY_FIRST);
    }
}
