//! Owns the judge of one history of one device. Must never widen what it allows except by a
//! notice that says why.
//!
//! Each sector is a register. A read may show what the register can have held between its
//! invocation and its end; what it shows is settled and is not taken back. A write that failed, or
//! whose client lost its server, may have happened or not, until a read or a later write settles
//! it. Flushes and FUA say what a power cut must leave.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::stamp::{Damage, SECTOR_BYTES, Stamp, decode};
use super::timeline::{Mark, NEVER, Timeline};

/// Sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) first: u64,
    pub(crate) count: u64,
}

impl Range {
    fn sectors(self) -> std::ops::Range<u64> {
        self.first..self.first + self.count
    }
}

/// What a device may have lost when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// Nothing acknowledged at the moment it comes back from.
    Nothing,
    /// Writes not flushed at that moment.
    Unstable,
}

/// A notice: the device is now as it was at one moment, the same for all sectors, between `floor`
/// and `ceiling`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rewind {
    pub(crate) floor: Mark,
    pub(crate) ceiling: Mark,
    pub(crate) lost: Lost,
}

/// A promise broken.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    /// Its id, as in the list of guarantees.
    pub(crate) promise: &'static str,
    pub(crate) text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.promise, self.text)
    }
}

#[derive(Clone, Copy, Debug)]
struct Write {
    range: Range,
    invoked: Mark,
    stable: bool,
}

/// What is known of the moment a device went back to.
#[derive(Clone, Copy, Debug)]
struct Moment {
    low: Mark,
    high: Mark,
    low_sector: u64,
    high_sector: u64,
}

/// The judge.
#[derive(Clone, Debug, Default)]
pub(crate) struct Checker {
    now: Mark,
    sectors: BTreeMap<u64, Timeline>,
    writes: BTreeMap<u64, Write>,
    reads: BTreeMap<u64, (Range, Mark)>,
    flushes: BTreeMap<u64, Mark>,
    /// Acknowledged and not flushed, with the time of acknowledgement.
    unstable: Vec<(Write, Mark)>,
    /// Sectors where something is gone that no write in `unstable` replaced: a read showed that, or the device
    /// came back without it. The next flush makes that stable as well.
    unsettled: BTreeSet<u64>,
    stamps: BTreeSet<Stamp>,
    newest_acknowledged: Mark,
    moment: Option<Moment>,
}

impl Checker {
    /// A device that reads as zeroes.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    const fn tick(&mut self) -> Mark {
        self.now += 1;
        self.now
    }

    /// The present moment, to come back to.
    pub(crate) const fn mark(&mut self) -> Mark {
        self.tick()
    }

    /// When the newest of the acknowledged writes was invoked.
    pub(crate) const fn newest_acknowledged(&self) -> Mark {
        self.newest_acknowledged
    }

    /// A write begins; `stamp` 0 makes zeroes. `stable`: its acknowledgement will mean that (FUA).
    pub(crate) fn invoke_write(&mut self, id: u64, range: Range, stamp: Stamp, stable: bool) {
        let invoked = self.tick();
        assert!(stamp == 0 || self.stamps.insert(stamp), "stamp {stamp} is used twice");
        for sector in range.sectors() {
            self.sectors.entry(sector).or_insert_with(Timeline::new).invoke(stamp, invoked);
        }
        let before = self.writes.insert(id, Write { range, invoked, stable });
        assert!(before.is_none(), "write {id} is invoked twice");
    }

    /// A write is acknowledged.
    pub(crate) fn ack_write(&mut self, id: u64) {
        let now = self.tick();
        let write = self.writes.remove(&id).expect("only an invoked write is acknowledged");
        self.newest_acknowledged = self.newest_acknowledged.max(write.invoked);
        self.each(write.range, |timeline| {
            timeline.end(write.invoked, now);
            timeline.supersede(write.invoked, now);
            if write.stable {
                timeline.bury(write.invoked, now);
            }
        });
        if !write.stable {
            self.unstable.push((write, now));
        }
    }

    /// A write failed, or its client lost the server: it may have happened or not.
    pub(crate) fn fail_write(&mut self, id: u64) {
        let now = self.tick();
        let write = self.writes.remove(&id).expect("only an invoked write fails");
        self.each(write.range, |timeline| timeline.end(write.invoked, now));
    }

    pub(crate) fn invoke_flush(&mut self, id: u64) {
        let now = self.tick();
        self.flushes.insert(id, now);
    }

    /// Every write acknowledged before the flush was invoked is stable.
    pub(crate) fn ack_flush(&mut self, id: u64) {
        let now = self.tick();
        let invoked = self.flushes.remove(&id).expect("only an invoked flush is acknowledged");
        let covered = |(_, acknowledged): &(Write, Mark)| *acknowledged < invoked;
        let stable: Vec<_> = self.unstable.extract_if(.., |entry| covered(entry)).collect();
        for (write, _) in stable {
            self.each(write.range, |timeline| timeline.bury(write.invoked, now));
        }
        let sectors = &mut self.sectors;
        let open =
            |sector: &u64| sectors.get_mut(sector).is_some_and(|it| it.bury_dead(invoked, now));
        self.unsettled.retain(open);
    }

    pub(crate) fn drop_flush(&mut self, id: u64) {
        self.flushes.remove(&id);
    }

    pub(crate) fn invoke_read(&mut self, id: u64, range: Range) {
        let now = self.tick();
        self.reads.insert(id, (range, now));
    }

    pub(crate) fn drop_read(&mut self, id: u64) {
        self.reads.remove(&id);
    }

    /// A read ends with these bytes.
    pub(crate) fn ack_read(&mut self, id: u64, bytes: &[u8]) -> Result<(), Violation> {
        let now = self.tick();
        let (range, asked) = self.reads.remove(&id).expect("only an invoked read ends");
        assert!(
            bytes.len() as u64 == range.count * SECTOR_BYTES as u64,
            "a read of another length"
        );
        for (sector, bytes) in range.sectors().zip(bytes.chunks(SECTOR_BYTES)) {
            let stamp = decode(sector, bytes).map_err(|damage| self.damaged(sector, damage))?;
            let timeline = self.sectors.entry(sector).or_insert_with(Timeline::new);
            match timeline.show(stamp, asked, now) {
                None => return Err(self.refused(sector, stamp, asked)),
                Some(shown) => {
                    if shown.replaced {
                        self.unsettled.insert(sector);
                    }
                    if let Some(window) = shown.window {
                        self.narrow(sector, window)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Judges all bytes of a copy, from sector 0 on: whether a power cut at one moment, not before
    /// `floor`, could have left them (G3).
    pub(crate) fn judge_image(&self, image: &[u8], floor: Mark) -> Result<(), Violation> {
        let sectors = (0..).zip(image.chunks_exact(SECTOR_BYTES).map(Some));
        self.judge_sectors(sectors, floor)
    }

    /// The same of some sectors, in order, each with its bytes, or none if it is all zeroes; all
    /// others must be zeroes that nobody ever wrote.
    pub(crate) fn judge_sectors<'a>(
        &self,
        sectors: impl Iterator<Item = (u64, Option<&'a [u8]>)>,
        floor: Mark,
    ) -> Result<(), Violation> {
        let mut moment = Moment { low: floor, high: NEVER, low_sector: 0, high_sector: 0 };
        let mut known = self.sectors.iter().peekable();
        for (sector, bytes) in sectors {
            let stamp = bytes.map_or(Ok(0), |bytes| decode(sector, bytes));
            let stamp = stamp.map_err(|damage| self.damaged(sector, damage))?;
            while known.next_if(|(other, _)| **other < sector).is_some() {}
            let Some((_, timeline)) = known.next_if(|(other, _)| **other == sector) else {
                if stamp == 0 {
                    continue;
                }
                return Err(self.refused(sector, stamp, floor));
            };
            let window = timeline.crash_window(stamp);
            let window = window.ok_or_else(|| self.refused(sector, stamp, floor))?;
            moment.narrow(sector, window);
            if moment.low >= moment.high {
                return Err(self.torn(moment, "G3"));
            }
        }
        Ok(())
    }

    /// The sectors that were ever written or read, in order.
    pub(crate) fn touched(&self) -> impl Iterator<Item = u64> {
        self.sectors.keys().copied()
    }

    /// The device is back at an earlier moment. What follows is judged from there on.
    pub(crate) fn rewind(&mut self, rewind: Rewind) {
        let now = self.tick();
        let Rewind { floor, ceiling, .. } = rewind;
        let crash = rewind.lost != Lost::Nothing;
        for timeline in self.sectors.values_mut() {
            timeline.rewind(floor, ceiling, crash, now);
        }
        // Whether these are still there is open, so a later flush proves nothing by them.
        self.unstable.clear();
        self.unsettled.extend(self.sectors.keys());
        let moment = Moment { low: floor, high: ceiling + 1, low_sector: 0, high_sector: 0 };
        self.moment = Some(moment);
    }

    /// A second history that shares all so far; what has not ended is open in it.
    pub(crate) fn fork(&self) -> Self {
        let mut other = self.clone();
        other.reads.clear();
        other.flushes.clear();
        let open: Vec<u64> = other.writes.keys().copied().collect();
        for id in open {
            other.fail_write(id);
        }
        other
    }

    /// Forgets what cannot come back even by a rewind to `mark`.
    pub(crate) fn forget_before(&mut self, mark: Mark) {
        for timeline in self.sectors.values_mut() {
            timeline.forget(mark);
        }
    }

    fn each(&mut self, range: Range, mut act: impl FnMut(&mut Timeline)) {
        for (_, timeline) in self.sectors.range_mut(range.sectors()) {
            act(timeline);
        }
    }

    fn narrow(&mut self, sector: u64, window: (Mark, Mark)) -> Result<(), Violation> {
        let Some(moment) = self.moment.as_mut() else {
            return Ok(());
        };
        moment.narrow(sector, window);
        let narrowed = *moment;
        if narrowed.low < narrowed.high { Ok(()) } else { Err(self.torn(narrowed, "G2")) }
    }

    fn torn(&self, moment: Moment, promise: &'static str) -> Violation {
        let (old, new) = (moment.high_sector, moment.low_sector);
        let text = format!(
            "no one moment holds both: sector {new} shows a write of {} or later, sector {old} a \
             value that was replaced, for good, by {}\nsector {new}:{}\nsector {old}:{}",
            moment.low,
            moment.high,
            self.history(new),
            self.history(old),
        );
        Violation { promise, text }
    }

    fn damaged(&self, sector: u64, damage: Damage) -> Violation {
        let text = match damage {
            Damage::Misplaced { sector: of, stamp } => {
                format!("sector {sector} holds sector {of} of write {stamp}")
            }
            Damage::Mixed { stamp, byte } => {
                format!("sector {sector} begins as write {stamp} and goes over at byte {byte}")
            }
        };
        Violation { promise: "G5", text: text + "\n" + &self.history(sector) }
    }

    fn refused(&self, sector: u64, stamp: Stamp, asked: Mark) -> Violation {
        let known = self
            .sectors
            .get(&sector)
            .and_then(|timeline| timeline.values.iter().rev().find(|value| value.stamp == stamp));
        let why = match known {
            None => "which nobody wrote there in this history, or long gone".to_owned(),
            Some(value) => format!("gone since {}, asked at {asked}", value.dead.min(value.buried)),
        };
        let history = self.history(sector);
        let text = format!("sector {sector} shows write {stamp}, {why}{history}");
        Violation { promise: "G5", text }
    }

    /// The values of a sector, newest last, in words.
    fn history(&self, sector: u64) -> String {
        let time = |mark: Mark| {
            if mark == NEVER { "-".to_owned() } else { mark.to_string() }
        };
        let Some(timeline) = self.sectors.get(&sector) else {
            return " never written".to_owned();
        };
        let surplus = timeline.values.len().saturating_sub(12);
        let line = |value: &super::timeline::Value| {
            format!(
                "\n    write {} invoked {} ended {} gone {} for good {}",
                value.stamp,
                value.invoked,
                time(value.ended),
                time(value.dead),
                time(value.buried)
            )
        };
        timeline.values[surplus..].iter().map(line).collect()
    }
}

impl Moment {
    /// The device held a value between these moments only.
    const fn narrow(&mut self, sector: u64, (from, to): (Mark, Mark)) {
        if from > self.low {
            (self.low, self.low_sector) = (from, sector);
        }
        if to < self.high {
            (self.high, self.high_sector) = (to, sector);
        }
    }
}
