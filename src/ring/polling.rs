//! Owns when a ring looks for completions for a while before it sleeps. Must never do so on an idle
//! node.
//!
//! To sleep and be woken costs some 40 µs in a virtual machine, which is most of what a small write
//! takes. A ring that looks instead, giving its processor to whoever else is ready, saves that if
//! the wait is short, and wastes its whole limit if it is not. So the length of past waits decides, as
//! in the kernel's own halt polling.

use crate::units::Nanos;

/// So many short waits pay for one long one in vain.
const LONG_COSTS: i8 = 5;
/// How far either way habit goes: as many short waits as this in a row begin it at the latest.
const SCORE_MAX: i8 = 16;

/// Whether to look before sleeping, learned from the waits so far.
#[derive(Debug)]
pub(super) struct Polling {
    /// How long to look at most; 0: never.
    limit: Nanos,
    score: i8,
}

impl Polling {
    pub(super) const fn new(limit: Nanos) -> Self {
        Self { limit, score: -SCORE_MAX }
    }

    /// How long to look before the next sleep, if at all.
    pub(super) fn span(&self) -> Option<Nanos> {
        (self.score > 0).then_some(self.limit)
    }

    /// A wait has ended.
    pub(super) fn waited(&mut self, took: Nanos) {
        if self.limit == Nanos(0) {
            return;
        }
        let change = if took < self.limit { 1 } else { -LONG_COSTS };
        self.score = (self.score + change).clamp(-SCORE_MAX, SCORE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Nanos = Nanos(200_000);
    const SHORT: Nanos = Nanos(50_000);
    const LONG: Nanos = Nanos(1_000_000);

    fn after(rounds: usize, waits: &[Nanos]) -> Polling {
        let mut polling = Polling::new(LIMIT);
        (0..rounds).for_each(|_| waits.iter().for_each(|took| polling.waited(*took)));
        polling
    }

    #[test]
    fn short_waits_are_looked_through() {
        assert_eq!(after(40, &[SHORT]).span(), Some(LIMIT));
        let mostly = [SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, SHORT, LONG];
        assert_eq!(after(40, &mostly).span(), Some(LIMIT), "they pay for the long ones");
    }

    #[test]
    fn an_idle_node_does_not_look() {
        assert_eq!(after(1, &[SHORT; 10]).span(), None, "a few are no habit");
        // A heartbeat and its answer, again and again.
        assert_eq!(after(1_000, &[SHORT, SHORT, SHORT, LONG]).span(), None);
    }

    #[test]
    fn a_burst_that_ends_costs_few_looks_in_vain() {
        let mut polling = after(1_000, &[SHORT]);
        let vain = (0..100).filter(|_| {
            let looks = polling.span().is_some();
            polling.waited(LONG);
            looks
        });
        assert_eq!(vain.count(), 4);
    }

    #[test]
    fn without_a_limit_nothing_is_looked_through() {
        let mut polling = Polling::new(Nanos(0));
        (0..100).for_each(|_| polling.waited(Nanos(0)));
        assert_eq!(polling.span(), None);
    }
}
