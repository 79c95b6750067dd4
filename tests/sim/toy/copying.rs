//! Owns the copy from one toy to the other, and what a toy writes for the other. Must never decide
//! who copies to whom.

use twinblk::ring::Op;

use super::frame::Frame;
use super::{Bug, Meta, Phase, STEP, Task, Then, Toy};
use crate::node::Ask;

impl Toy {
    /// The copy is complete: what was written here before is there too.
    pub(crate) fn copy_ended(&mut self) {
        self.phase = Phase::Equal;
        let ids: Vec<u64> = self.active.keys().copied().collect();
        for id in ids {
            if matches!(self.active[&id].ask, Ask::Flush) {
                self.wire.send(&Frame::Flush { id });
            } else {
                self.progress(id, false, true);
            }
        }
    }

    pub(crate) fn begin_copy(&mut self) {
        let meta = self.meta.expect("known by now");
        if self.bug == Bug::NoCopy {
            self.copied = self.device_bytes;
        } else {
            self.copied = 0;
        }
        self.wire.send(&Frame::Copy { epoch: meta.epoch });
        self.phase = Phase::Source;
    }

    /// The other side has marked itself, or taken a step.
    pub(crate) fn copy_step(&mut self) {
        let writes = |task: &Task| matches!(task, Task::Write(..));
        if self.copied == 0 && self.tasks.values().any(writes) {
            self.wire.retry_step = true;
        } else if self.copied < self.device_bytes {
            let length = STEP.min(self.device_bytes - self.copied);
            self.load(self.copied, length, Task::CopyRead, self.copied);
        } else {
            self.wire.send(&Frame::CopyEnd);
        }
    }

    pub(crate) fn become_target(&mut self, epoch: u64) {
        self.phase = Phase::Target;
        self.step_down();
        let meta = self.meta.expect("known by now");
        let meta = Meta { epoch: meta.epoch.max(epoch), source: false, mixed: true, ..meta };
        self.record(meta, Then::CopyBegins(self.wire.session));
    }

    /// Carries out what the other node sends.
    pub(crate) fn peer_writes(&mut self, id: u64, offset: u64, fua: bool, bytes: &[u8]) {
        self.store(offset, bytes, fua, Task::PeerWrite, id);
    }

    pub(crate) fn peer_copies(&mut self, offset: u64, bytes: &[u8]) {
        self.store(offset, bytes, false, |_, payload| Task::CopyWrite(payload), offset);
    }

    pub(crate) fn peer_flushes(&mut self, id: u64) {
        self.submit(Op::Sync { file: self.file }, Task::PeerSync(id));
    }

    pub(crate) fn copy_complete(&mut self) {
        self.submit(Op::Sync { file: self.file }, Task::CopySync);
    }
}
