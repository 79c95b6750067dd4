//! Owns one simulated disk: what reads see, what a power cut would leave, and its faults. Must
//! never decide when a fault happens, nor know what the bytes mean.

use std::collections::BTreeMap;

use twinblk::ring::Errno;

use crate::clockwork::{Clockwork, Event, LifeId, OpId, Outcome};
use crate::image::{Data, Image, overlay, tear};

/// What a disk is asked.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    Read { offset: u64, length: usize },
    Write { offset: u64, data: Data, durable: bool },
    Sync,
}

/// Whether operations of one kind fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Failing {
    #[default]
    Never,
    Once(i32),
    Always(i32),
}

impl Failing {
    const fn take(&mut self) -> Option<Errno> {
        match *self {
            Self::Never => None,
            Self::Always(number) => Some(Errno(number)),
            Self::Once(number) => {
                *self = Self::Never;
                Some(Errno(number))
            }
        }
    }
}

/// What is wrong with a disk now.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) reads: Failing,
    pub(crate) writes: Failing,
    pub(crate) syncs: Failing,
    /// Every operation takes so many times as long, plus one.
    pub(crate) slowness: u64,
    /// Nothing ends until healed.
    pub(crate) hung: bool,
}

/// Lies no disk should tell: to see that the checkers notice.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lies {
    /// A sync or durable write ends well and makes nothing stable.
    pub(crate) sync: bool,
    /// So many of a million writes end well and do nothing.
    pub(crate) lost_ppm: u32,
    /// So many of a million writes land one block further.
    pub(crate) misdirected_ppm: u32,
    /// A new life may open the disk while writes of the last one are under way.
    pub(crate) lock: bool,
}

/// A write that has ended and is not known to be stable.
struct Landed {
    number: u64,
    offset: u64,
    data: Data,
    /// Is stable; listed only so that older ones of the list cannot go over it.
    stable: bool,
    /// A sync failed over it: later ones do not make it stable.
    forsaken: bool,
}

struct Flight {
    life: LifeId,
    work: Work,
    /// Syncs: writes that had ended when it was submitted.
    covers: u64,
    /// Its end came while the disk hung.
    held: bool,
}

/// One disk (a file or device: data, metadata or both).
pub(crate) struct Disk {
    number: usize,
    alignment: u64,
    live: Image,
    durable: Image,
    landed: Vec<Landed>,
    next_landed: u64,
    flying: BTreeMap<OpId, Flight>,
    holder: Option<LifeId>,
    holder_dead: bool,
    /// Durable writes that it has completed.
    pub(crate) kept_writes: u64,
    /// It showed writes that are gone; whoever judges takes note.
    pub(crate) forgot: bool,
    pub(crate) faults: Faults,
    pub(crate) lies: Lies,
    pub(crate) read_time: u64,
    pub(crate) write_time: u64,
    pub(crate) sync_time: u64,
}

/// How much of what was not stable a power cut keeps.
#[derive(Clone, Copy, Debug)]
enum Kept {
    Nothing,
    Everything,
    Writes,
    Sectors,
}

impl Disk {
    pub(crate) fn new(number: usize, bytes: u64, alignment: u64) -> Self {
        Self {
            number,
            alignment,
            live: Image::new(bytes),
            durable: Image::new(bytes),
            landed: Vec::new(),
            next_landed: 0,
            flying: BTreeMap::new(),
            holder: None,
            holder_dead: false,
            kept_writes: 0,
            forgot: false,
            faults: Faults::default(),
            lies: Lies::default(),
            read_time: 60_000,
            write_time: 30_000,
            sync_time: 400_000,
        }
    }

    /// Puts another content on the disk, stable at once.
    pub(crate) fn replace(&mut self, image: Image) {
        self.live = image.clone();
        self.durable = image;
    }

    /// What a power cut surely leaves.
    pub(crate) const fn durable(&self) -> &Image {
        &self.durable
    }

    pub(crate) const fn live(&self) -> &Image {
        &self.live
    }

    /// Takes the lock for a life: it must be free, or the life's own. Syncs, and lets go of what
    /// was read or written before, as the product does when it opens a disk.
    pub(crate) fn open(&mut self, clockwork: &mut Clockwork, life: LifeId) -> Result<(), Errno> {
        self.let_go_if_idle();
        let busy = self.holder.is_some_and(|holder| holder != life);
        if busy && !self.lies.lock {
            return Err(Errno(libc::EWOULDBLOCK));
        }
        if self.holder != Some(life) {
            let synced = self.finish_sync(clockwork, self.next_landed);
            self.drop_cached(clockwork);
            synced?;
        }
        self.holder = Some(life);
        self.holder_dead = false;
        Ok(())
    }

    /// From now on reads show what the medium has: writes that a failed sync gave up are gone.
    fn drop_cached(&mut self, clockwork: &mut Clockwork) {
        if !self.landed.iter().any(|landed| landed.forsaken) {
            return;
        }
        clockwork.note(format_args!("disk {} shows what a failed sync lost", self.number));
        self.landed.retain(|landed| !landed.forsaken);
        self.live = self.durable.clone();
        for landed in &self.landed {
            self.live.write(landed.offset, &landed.data, 0, landed.data.len());
            if landed.stable {
                self.durable.write(landed.offset, &landed.data, 0, landed.data.len());
            }
        }
        self.forgot = true;
    }

    /// The life lets go; it must have no operation under way.
    pub(crate) fn close(&mut self, life: LifeId) {
        assert!(self.flying.values().all(|flight| flight.life != life), "closed while in use");
        if self.holder == Some(life) {
            self.holder = None;
        }
    }

    /// Whether a new life could open it.
    pub(crate) fn is_free(&mut self) -> bool {
        self.let_go_if_idle();
        self.holder.is_none() || self.lies.lock
    }

    fn let_go_if_idle(&mut self) {
        if self.holder_dead && self.flying.is_empty() {
            self.holder = None;
            self.holder_dead = false;
        }
    }

    pub(crate) fn submit(&mut self, clockwork: &mut Clockwork, life: LifeId, op: OpId, work: Work) {
        if let Err(errno) = self.check(&work) {
            clockwork.end(life, op, Err(errno));
            return;
        }
        let mean = match &work {
            Work::Read { .. } => self.read_time,
            Work::Write { durable: true, .. } => self.write_time + self.sync_time,
            Work::Write { .. } => self.write_time,
            Work::Sync => self.sync_time,
        };
        let span = clockwork.random.around(mean) * (1 + self.faults.slowness);
        clockwork.after(span, Event::Disk(self.number, op));
        self.flying.insert(op, Flight { life, work, covers: self.next_landed, held: false });
    }

    fn check(&self, work: &Work) -> Result<(), Errno> {
        let (offset, length) = match work {
            Work::Read { offset, length } => (*offset, *length as u64),
            Work::Write { offset, data, .. } => (*offset, data.len() as u64),
            Work::Sync => return Ok(()),
        };
        let aligned =
            offset.is_multiple_of(self.alignment) && length.is_multiple_of(self.alignment);
        let inside = offset.checked_add(length).is_some_and(|end| end <= self.live.bytes());
        if aligned && inside { Ok(()) } else { Err(Errno(libc::EINVAL)) }
    }

    /// An operation's time has come.
    pub(crate) fn land(&mut self, clockwork: &mut Clockwork, op: OpId) {
        if self.faults.hung {
            if let Some(flight) = self.flying.get_mut(&op) {
                flight.held = true;
            }
            return;
        }
        let Some(flight) = self.flying.remove(&op) else {
            return;
        };
        let result = match &flight.work {
            Work::Read { offset, length } => self.finish_read(clockwork, *offset, *length),
            Work::Write { offset, data, durable } => {
                self.finish_write(clockwork, *offset, data, *durable)
            }
            Work::Sync => self.finish_sync(clockwork, flight.covers),
        };
        let well = result.is_ok();
        clockwork.note(format_args!("disk {} {} ok={well}", self.number, Named(&flight.work)));
        clockwork.end(flight.life, op, result);
    }

    fn finish_read(
        &mut self,
        clockwork: &mut Clockwork,
        offset: u64,
        length: usize,
    ) -> Result<Outcome, Errno> {
        if let Some(errno) = self.faults.reads.take() {
            return Err(errno);
        }
        let mut bytes = self.live.copy(offset, length);
        // Of a write under way a read may see any sectors.
        for flight in self.flying.values() {
            let Work::Write { offset: start, data, .. } = &flight.work else {
                continue;
            };
            let end = offset + length as u64;
            if *start >= end || *start + data.len() as u64 <= offset {
                continue;
            }
            overlay(&mut bytes, offset, (*start, data), || clockwork.random.percent(50));
        }
        Ok(Outcome::Data(bytes))
    }

    fn finish_write(
        &mut self,
        clockwork: &mut Clockwork,
        offset: u64,
        data: &Data,
        durable: bool,
    ) -> Result<Outcome, Errno> {
        let count = u32::try_from(data.len()).unwrap_or(0);
        if let Some(errno) = self.faults.writes.take() {
            // A failed write leaves any mixture of old and new sectors.
            let mut bytes = self.live.copy(offset, data.len());
            overlay(&mut bytes, offset, (offset, data), || clockwork.random.percent(50));
            self.apply(offset, &Data::Bytes(bytes.into()), false);
            return Err(errno);
        }
        if clockwork.random.chance(self.lies.lost_ppm) {
            clockwork.note(format_args!("disk {} loses the next write", self.number));
            return Ok(Outcome::Count(count));
        }
        let mut offset = offset;
        if clockwork.random.chance(self.lies.misdirected_ppm) {
            clockwork.note(format_args!("disk {} misdirects the next write", self.number));
            let beyond = offset + 4096 + data.len() as u64 > self.live.bytes();
            offset = if beyond { offset.saturating_sub(4096) } else { offset + 4096 };
        }
        self.kept_writes += u64::from(durable);
        self.apply(offset, data, durable && !self.lies.sync);
        Ok(Outcome::Count(count))
    }

    fn apply(&mut self, offset: u64, data: &Data, stable: bool) {
        self.live.write(offset, data, 0, data.len());
        if stable {
            self.durable.write(offset, data, 0, data.len());
        }
        self.next_landed += 1;
        if stable && self.landed.is_empty() {
            return;
        }
        let number = self.next_landed;
        let data = data.clone();
        self.landed.push(Landed { number, offset, data, stable, forsaken: false });
    }

    fn finish_sync(&mut self, clockwork: &mut Clockwork, covers: u64) -> Result<Outcome, Errno> {
        if let Some(errno) = self.faults.syncs.take() {
            // The pages count as clean from now on, whether they reached the medium or not.
            for landed in self.landed.iter_mut().filter(|landed| landed.number <= covers) {
                landed.forsaken |= !landed.stable && clockwork.random.percent(50);
            }
            return Err(errno);
        }
        if self.lies.sync {
            return Ok(Outcome::Count(0));
        }
        // Behind a forsaken write, stable ones stay listed, lest it go over them.
        let (mut rest, mut behind) = (Vec::new(), false);
        for mut landed in self.landed.drain(..) {
            let covered = landed.number <= covers && !landed.forsaken;
            if covered || landed.stable {
                self.durable.write(landed.offset, &landed.data, 0, landed.data.len());
                landed.stable = true;
            }
            behind |= !landed.stable;
            if !covered || behind {
                rest.push(landed);
            }
        }
        self.landed = rest;
        Ok(Outcome::Count(0))
    }

    /// Starts operations anew that the hang had held.
    pub(crate) fn heal(&mut self, clockwork: &mut Clockwork) {
        self.faults = Faults::default();
        for (op, flight) in &mut self.flying {
            if std::mem::take(&mut flight.held) {
                let span = clockwork.random.around(self.write_time);
                clockwork.after(span, Event::Disk(self.number, *op));
            }
        }
    }

    /// The life has died: what it had under way lands late, or never.
    pub(crate) fn orphan(&mut self, clockwork: &mut Clockwork, life: LifeId) {
        let mut late = Vec::new();
        let random = &mut clockwork.random;
        self.flying.retain(|op, flight| {
            if flight.life != life {
                return true;
            }
            let lands = matches!(flight.work, Work::Write { .. }) && random.percent(70);
            if lands && random.percent(30) {
                late.push((*op, random.around(800_000_000)));
            }
            lands
        });
        for (op, span) in late {
            // The first event finds nothing under this number, as operations are renumbered.
            let flight = self.flying.remove(&op).expect("just seen");
            let op = clockwork.op();
            self.flying.insert(op, flight);
            clockwork.after(span, Event::Disk(self.number, op));
        }
        if self.holder == Some(life) {
            self.holder_dead = true;
            self.let_go_if_idle();
        }
    }

    /// The power goes: what is stable stays, of the rest some.
    pub(crate) fn cut_power(&mut self, clockwork: &mut Clockwork) {
        let modes = [Kept::Nothing, Kept::Everything, Kept::Writes, Kept::Sectors];
        let kept = modes[clockwork.random.weighted(&[3, 1, 3, 3])];
        let under_way = std::mem::take(&mut self.flying).into_values();
        let cut_short = under_way.filter_map(|flight| match flight.work {
            Work::Write { offset, data, .. } => {
                Some(Landed { number: 0, offset, data, stable: false, forsaken: false })
            }
            _ => None,
        });
        self.landed.extend(cut_short);
        let random = &mut clockwork.random;
        for landed in self.landed.drain(..) {
            let whole = match kept {
                Kept::Nothing => false,
                Kept::Everything => true,
                Kept::Writes | Kept::Sectors => random.percent(50),
            };
            let by_sector = matches!(kept, Kept::Sectors) && !landed.stable;
            tear(&mut self.durable, landed.offset, &landed.data, |_| {
                landed.stable || if by_sector { random.percent(50) } else { whole }
            });
        }
        clockwork.note(format_args!("disk {} loses power, keeps {kept:?}", self.number));
        self.live = self.durable.clone();
        self.holder = None;
        self.holder_dead = false;
    }

    /// Operations under way.
    pub(crate) fn in_flight(&self) -> usize {
        self.flying.len()
    }
}

struct Named<'a>(&'a Work);

impl std::fmt::Display for Named<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Work::Read { offset, length } => write!(f, "read {offset}+{length}"),
            Work::Write { offset, data: Data::Zeroes(length), .. } => {
                write!(f, "zero {offset}+{length}")
            }
            Work::Write { offset, data, durable } => {
                write!(f, "write {offset}+{} durable={durable}", data.len())
            }
            Work::Sync => write!(f, "sync"),
        }
    }
}
