//! Owns the requests of the toy's clients: their order, and what each still waits for. Must never
//! know how roles change.

use std::collections::VecDeque;

use twinblk::ring::Op;

use super::frame::Frame;
use super::{Active, Bug, Phase, SECTOR, Task, Toy};
use crate::checker::oracle::Range;
use crate::checker::stamp::fill;
use crate::node::{Ask, Told};

use twinblk::buffer::Payload;

impl Toy {
    /// Starts what can start: in order, and nothing over what is in progress.
    pub(super) fn start_requests(&mut self) {
        let mut rest = VecDeque::new();
        while let Some((id, ask)) = self.queue.pop_front() {
            let clash = |other: &Ask| self.bug != Bug::NoLocks && clash(&ask, other);
            let blocked = self.active.values().any(|active| clash(&active.ask))
                || rest.iter().any(|(_, other)| clash(other));
            let waits = !matches!(ask, Ask::Read(_)) && self.phase != Phase::Equal;
            if blocked || waits || self.demoting.is_some() {
                rest.push_back((id, ask));
            } else {
                self.start(id, ask);
            }
        }
        self.queue = rest;
    }

    fn start(&mut self, id: u64, ask: Ask) {
        self.active.insert(id, Active { ask, here: false, there: matches!(ask, Ask::Read(_)) });
        match ask {
            Ask::Read(range) => {
                self.load(range.first * SECTOR, range.count * SECTOR, Task::Read, id);
            }
            Ask::Write { range, stamp, fua } => self.mirror(id, range, stamp, fua),
            Ask::Zero { range, fua, .. } => self.mirror(id, range, 0, fua),
            Ask::Flush => {
                self.wire.send(&Frame::Flush { id });
                if self.bug == Bug::NoFlush {
                    self.progress(id, true, true);
                } else {
                    self.submit(Op::Sync { file: self.file }, Task::Sync(id));
                }
                if self.bug == Bug::FlushHere {
                    self.progress(id, false, true);
                }
            }
        }
    }

    fn mirror(&mut self, id: u64, range: Range, stamp: u64, fua: bool) {
        let length = usize::try_from(range.count * SECTOR).expect("requests are small");
        let mut bytes = vec![0; length];
        fill(range.first, stamp, &mut bytes);
        let offset = range.first * SECTOR;
        self.store(offset, &bytes, fua, Task::Write, id);
        self.wire.send(&Frame::Write { id, offset, fua, bytes });
        if self.bug == Bug::AckEarly {
            self.progress(id, false, true);
        }
    }

    pub(crate) fn progress(&mut self, id: u64, here: bool, there: bool) {
        let Some(active) = self.active.get_mut(&id) else {
            return;
        };
        active.here |= here;
        active.there |= there;
        if active.here && active.there {
            self.active.remove(&id);
            self.replies.push((id, Told::Done));
        }
    }

    pub(super) fn read_done(&mut self, id: u64, payload: Payload) {
        if let Some(Active { ask: Ask::Read(range), .. }) = self.active.remove(&id) {
            let bytes = self.bytes(&payload, range.count * SECTOR);
            self.replies.push((id, Told::Data(bytes)));
        }
        self.pool.release(payload);
    }
}

fn clash(one: &Ask, other: &Ask) -> bool {
    let range = |ask: &Ask| match ask {
        Ask::Read(range) => Some((*range, false)),
        Ask::Write { range, .. } | Ask::Zero { range, .. } => Some((*range, true)),
        Ask::Flush => None,
    };
    let (Some((one, writes)), Some((other, also))) = (range(one), range(other)) else {
        return false;
    };
    (writes || also) && one.first < other.first + other.count && other.first < one.first + one.count
}
