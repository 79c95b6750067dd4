//! Owns what is known of one sector: each value it was ever given, and from when on that value
//! cannot be its content any more. Must never know of other sectors.

use super::stamp::Stamp;

/// A moment of the checker's own time, which grows with each event.
pub(crate) type Mark = u64;

/// Not yet.
pub(crate) const NEVER: Mark = Mark::MAX;

/// One write, as this sector saw it.
#[derive(Clone, Debug)]
pub(crate) struct Value {
    pub(crate) stamp: Stamp,
    pub(crate) invoked: Mark,
    /// Acknowledged, failed, or its client lost: after that it takes no effect any more, though
    /// whether it had one may not be known.
    pub(crate) ended: Mark,
    /// It was surely replaced, or surely never took effect.
    pub(crate) dead: Mark,
    /// The same, and what replaced it is stable: not even a power cut brings it back.
    pub(crate) buried: Mark,
    /// If a rewind kept it alive: at which moments the device could have held it.
    pub(crate) window: Option<(Mark, Mark)>,
}

/// All values of one sector, by time of invocation.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    pub(crate) values: Vec<Value>,
    /// So many of the oldest values are dead, and so many buried: nobody need look at them to make them so.
    dead: usize,
    buried: usize,
}

/// What a look at a sector may have shown.
pub(crate) struct Shown {
    /// From when to when the device may have held it, if a rewind left that open.
    pub(crate) window: Option<(Mark, Mark)>,
    /// Something is gone that was not known to be.
    pub(crate) replaced: bool,
}

impl Timeline {
    /// A sector that reads as zeroes.
    pub(crate) fn new() -> Self {
        let zero =
            Value { stamp: 0, invoked: 0, ended: 0, dead: NEVER, buried: NEVER, window: None };
        Self { values: vec![zero], dead: 0, buried: 0 }
    }

    pub(crate) fn invoke(&mut self, stamp: Stamp, now: Mark) {
        let value =
            Value { stamp, invoked: now, ended: NEVER, dead: NEVER, buried: NEVER, window: None };
        self.values.push(value);
    }

    /// Finds the value of the write invoked at `invoked`.
    fn of(&mut self, invoked: Mark) -> Option<&mut Value> {
        let place = self.values.binary_search_by_key(&invoked, |value| value.invoked);
        place.ok().map(|place| &mut self.values[place])
    }

    /// The values of which some may not be dead.
    fn living(&mut self) -> &mut [Value] {
        while self.values.get(self.dead).is_some_and(|value| value.dead != NEVER) {
            self.dead += 1;
        }
        &mut self.values[self.dead..]
    }

    /// The values of which some may not be buried.
    fn unburied(&mut self) -> &mut [Value] {
        let settled = |value: &Value| value.dead != NEVER && value.buried != NEVER;
        while self.values.get(self.buried).is_some_and(settled) {
            self.buried += 1;
        }
        &mut self.values[self.buried..]
    }

    pub(crate) fn end(&mut self, invoked: Mark, now: Mark) {
        if let Some(value) = self.of(invoked) {
            value.ended = value.ended.min(now);
        }
    }

    /// The write invoked at `invoked` is known to have taken effect: what ended before it is gone.
    pub(crate) fn supersede(&mut self, invoked: Mark, now: Mark) {
        for value in self.living().iter_mut().filter(|value| value.ended < invoked) {
            value.dead = value.dead.min(now);
        }
    }

    /// The same, stable.
    pub(crate) fn bury(&mut self, invoked: Mark, now: Mark) {
        for value in self.unburied().iter_mut().filter(|value| value.ended < invoked) {
            value.dead = value.dead.min(now);
            value.buried = value.buried.min(now);
        }
    }

    /// What was gone by `mark` is gone for good by now; whether some is gone and not for good yet.
    pub(crate) fn bury_dead(&mut self, mark: Mark, now: Mark) -> bool {
        let mut left = false;
        for value in self.unburied().iter_mut().filter(|value| value.dead != NEVER) {
            if value.dead < mark {
                value.buried = value.buried.min(now);
            }
            left |= value.buried == NEVER;
        }
        left
    }

    /// A read that was invoked at `asked` shows `stamp`: allowed if the sector can have held it at
    /// some moment since. Then all that ended before is gone: what was shown stays shown.
    pub(crate) fn show(&mut self, stamp: Stamp, asked: Mark, now: Mark) -> Option<Shown> {
        let can = |value: &&Value| value.stamp == stamp && value.dead > asked;
        // Of what is not zeroes there is one value of a stamp, most often a late one.
        let found = |value: &Value| value.stamp == stamp;
        let among = match self.values.iter().rposition(found) {
            Some(place) if stamp != 0 => &self.values[place..=place],
            _ => &self.values[..],
        };
        let since = among.iter().filter(can).map(|value| value.invoked).min()?;
        let window = hull(among.iter().filter(can).map(|value| value.window));
        let gone = since.max(asked);
        let mut replaced = false;
        for value in self.living() {
            if !(value.stamp == stamp && value.dead > asked) && value.ended < gone {
                replaced |= value.dead > now;
                value.dead = value.dead.min(now);
            }
        }
        Some(Shown { window, replaced })
    }

    /// At which moments a power cut could have left `stamp` here: between the first and the last.
    pub(crate) fn crash_window(&self, stamp: Stamp) -> Option<(Mark, Mark)> {
        let windows = self.values.iter().filter(|value| value.stamp == stamp);
        hull(windows.map(|value| Some((value.invoked, value.buried))))
    }

    /// Goes back to some moment between `floor` and `ceiling`; see `oracle::Rewind`.
    pub(crate) fn rewind(&mut self, floor: Mark, ceiling: Mark, crash: bool, now: Mark) {
        (self.dead, self.buried) = (0, 0);
        for value in &mut self.values {
            let end = if crash { value.buried } else { value.dead };
            if value.invoked > ceiling {
                (value.dead, value.buried) = (value.dead.min(now), value.buried.min(now));
            } else if end > floor {
                value.window = Some((value.invoked, end));
                (value.dead, value.buried) = (NEVER, NEVER);
            } else {
                value.dead = value.dead.min(now);
                if value.buried > floor {
                    // By a flush that may be none of this copy.
                    value.buried = NEVER;
                }
            }
        }
    }

    /// Forgets values that were buried by `mark`.
    pub(crate) fn forget(&mut self, mark: Mark) {
        let before = self.values.len();
        self.values.retain(|value| value.buried > mark);
        if self.values.len() < before {
            (self.dead, self.buried) = (0, 0);
        }
    }
}

/// The smallest window over all; none if one is open.
fn hull(windows: impl Iterator<Item = Option<(Mark, Mark)>>) -> Option<(Mark, Mark)> {
    let widen = |(low, high): (Mark, Mark), (from, to)| (low.min(from), high.max(to));
    windows.reduce(|one, other| Some(widen(one?, other?))).flatten()
}
