//! Owns the planned stop of a resource: what it waits for, the goodbye, the end of the disk.
//! Must never end while this node is primary or its disk is half taken over, nor before peers have
//! been told that what they sent is stable here, so that they need not send it again.

use super::Replica;
use super::disk::DiskPhase;
use super::event::{CommandId, Output};
use super::persist::{After, AfterPages, PagesJob};
use crate::format::frame::{ByeReason, Frame, Role};
use crate::limits::GOODBYE_DELAY;
use crate::units::{Nanos, RunId, Sequence, Session};

/// A stop on its way.
#[derive(Debug)]
pub(super) struct Stopping {
    id: CommandId,
    stage: Stage,
}

/// How far a stop has come.
#[derive(Debug)]
enum Stage {
    /// A role changes or the disk is being taken over: that ends first.
    Waiting,
    /// What peers sent is being made stable.
    Settling {
        waits: Vec<(usize, Session, Sequence)>,
        /// When the goodbye may follow what was said to be stable.
        at: Option<Nanos>,
        /// Something else has to come first.
        blocked: bool,
    },
    /// The goodbye is said; until the sessions end more may come, and be acknowledged.
    Leaving,
    /// What memory holds is being saved.
    Ending,
    /// Nothing is left to do.
    Ended,
}

impl Stopping {
    /// When time alone brings it further.
    pub(super) const fn due(&self) -> Option<Nanos> {
        match &self.stage {
            Stage::Settling { at, blocked: false, .. } => *at,
            _ => None,
        }
    }
}

impl Replica {
    pub(super) fn stop(&mut self, id: CommandId) {
        self.stopping = Some(Stopping { id, stage: Stage::Waiting });
        self.check_stopping();
    }

    /// Goes on with a stop.
    pub(super) fn check_stopping(&mut self) {
        let Some(stopping) = &self.stopping else {
            return;
        };
        match &stopping.stage {
            Stage::Waiting => self.begin_to_settle(),
            Stage::Settling { .. } => self.check_goodbye(),
            Stage::Leaving => self.check_gone(),
            Stage::Ending | Stage::Ended => {}
        }
    }

    fn begin_to_settle(&mut self) {
        if matches!(self.disk_phase, DiskPhase::Opening | DiskPhase::Recovering) {
            return;
        }
        self.give_up_promotion("stopping", "the daemon stops");
        if self.role == Role::Primary && self.demoting.is_none() {
            self.begin_demotion(None);
        }
        if self.promoting.is_some() || self.demoting.is_some() {
            return;
        }
        let mut waits = Vec::new();
        for peer in 0..self.peers.len() {
            if let Some(session) = self.peers[peer].session
                && let Some(sequence) = self.settle_incoming(peer)
            {
                waits.push((peer, session, sequence));
            }
        }
        let at = waits.is_empty().then_some(self.now);
        self.set_stop_stage(Stage::Settling { waits, at, blocked: false });
        self.check_goodbye();
    }

    fn set_stop_stage(&mut self, stage: Stage) {
        if let Some(stopping) = &mut self.stopping {
            stopping.stage = stage;
        }
    }

    fn check_goodbye(&mut self) {
        let open = self.has_open_disk();
        let leftovers = self.has_unwritten_leftovers();
        let Some(Stopping { stage: Stage::Settling { waits, at, blocked }, .. }) =
            &mut self.stopping
        else {
            return;
        };
        let waiting = waits.iter().any(|(peer, session, sequence)| {
            let found = &self.peers[*peer];
            found.session == Some(*session) && found.incoming.stable() < *sequence
        });
        *blocked = (waiting || leftovers) && open;
        if *blocked {
            return;
        }
        if *at.get_or_insert(self.now + GOODBYE_DELAY) <= self.now {
            self.say_goodbye();
        }
    }

    /// Whether a peer met from now on would be told of what no disk records any more.
    pub(super) fn has_said_goodbye(&self) -> bool {
        let over = |stage: &Stage| matches!(stage, Stage::Leaving | Stage::Ending | Stage::Ended);
        self.stopping.as_ref().is_some_and(|stopping| over(&stopping.stage))
    }

    /// Announces the stop.
    fn say_goodbye(&mut self) {
        self.set_stop_stage(Stage::Leaving);
        for peer in 0..self.peers.len() {
            self.send(peer, Frame::Bye { reason: ByeReason::Stop });
            self.disconnect(peer, "the daemon stops");
            self.dial(peer, false);
            self.peers[peer].redial = None;
        }
        self.check_gone();
    }

    /// Saves what memory holds, once nothing comes any more and what came is written.
    fn check_gone(&mut self) {
        let connected = self.peers.iter().any(|peer| peer.session.is_some());
        let leftovers = self.has_open_disk() && self.has_unwritten_leftovers();
        if !connected && !leftovers {
            self.set_stop_stage(Stage::Ending);
            self.save_pages(PagesJob::All(AfterPages::Stop));
        }
    }

    pub(super) fn marks_saved_for_stop(&mut self) {
        // All is marked or stable, so nothing of the log counts.
        self.superblock.log_live = false;
        if !self.forgot {
            // What an earlier process forgot, this one did not bring back.
            self.superblock.run = RunId(0);
        }
        self.save(After::Stopped);
    }

    pub(super) fn stopped(&mut self) {
        let Some(id) = self.stopping.as_ref().map(|stopping| stopping.id) else {
            return;
        };
        self.set_stop_stage(Stage::Ended);
        if self.has_open_disk() {
            self.disk_phase = DiskPhase::Closing;
            self.emit(Output::CloseDisk);
        }
        self.answer(id, Ok(format!("{} has stopped", self.options.resource)));
    }
}
