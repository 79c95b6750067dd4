//! Owns who of the toys is primary. Must never move data.

use twinblk::replica::event::{Command, Refusal};

use super::frame::Frame;
use super::{Bug, Meta, Phase, Promoting, Task, Then, Toy};
use crate::node::Told;

impl Toy {
    pub(super) fn obey(&mut self, id: u64, command: &Command) {
        let refuse = |text: &str| Err(Refusal { reason: "toy", text: text.to_owned() });
        let Some(meta) = self.meta else {
            self.answers.push((id, refuse("starting")));
            return;
        };
        let unsafe_now = self.promote_refusal();
        let answer = match command {
            Command::Promote { .. } if meta.mixed => refuse("mixed"),
            Command::Promote { .. } if self.primary => Ok("primary already".to_owned()),
            Command::Promote { .. } if self.promoting.is_some() => refuse("at it"),
            Command::Promote { force } if *force || unsafe_now.is_empty() => {
                let asking = self.phase == Phase::Equal && !self.wire.peer_primary;
                self.promoting = Some(Promoting { id, asking, stable: false });
                if asking {
                    let epoch = self.next_epoch();
                    self.wire.send(&Frame::MayI { epoch });
                } else {
                    self.hang_up();
                    self.claim();
                }
                return;
            }
            Command::Promote { .. } => refuse(&unsafe_now),
            Command::Demote if !self.primary => Ok("secondary already".to_owned()),
            Command::Demote if self.phase != Phase::Equal => refuse("the peer is away"),
            Command::Demote => {
                self.demoting = Some(id);
                return;
            }
            _ => refuse("the toy cannot"),
        };
        self.answers.push((id, answer));
    }

    /// Higher than any seen, and never the other node's.
    fn next_epoch(&self) -> u64 {
        let meta = self.meta.expect("known by now");
        (meta.epoch / 4 + 1) * 4 + self.node as u64
    }

    pub(super) fn consent(&mut self, epoch: u64) {
        let meta = self.meta.expect("known by now");
        let meta = Meta { epoch: epoch.max(meta.epoch), ..meta };
        self.record(meta, Then::Consent(self.wire.session));
    }

    fn claim(&mut self) {
        let meta = self.meta.expect("known by now");
        let epoch = self.next_epoch();
        let meta = Meta { epoch, source: true, boot: self.boot.0, ..meta };
        self.record(meta, Then::Promoted);
    }

    /// The peer lets this node become primary.
    pub(crate) fn allowed(&mut self) {
        if let Some(promoting) = self.promoting.as_mut()
            && promoting.asking
        {
            promoting.asking = false;
            self.claim();
        }
    }

    pub(crate) fn refused(&mut self, why: &str) {
        if let Some(promoting) = self.promoting.take_if(|promoting| promoting.asking) {
            let refusal = Refusal { reason: "toy", text: why.to_owned() };
            self.answers.push((promoting.id, Err(refusal)));
        }
    }

    pub(crate) const fn is_promoting(&self) -> bool {
        self.promoting.is_some()
    }

    pub(crate) fn session_over(&mut self) {
        self.refused("the peer has gone");
    }

    /// Serves once the claim is stable and nothing of the peer is under way.
    pub(super) fn finish_promotion(&mut self) {
        let busy = self.tasks.values().any(Task::is_of_session);
        if let Some(promoting) = self.promoting.take_if(|promoting| promoting.stable && !busy) {
            self.primary = true;
            self.answers.push((promoting.id, Ok("promoted".to_owned())));
        }
    }

    pub(super) fn promote_refusal(&self) -> String {
        let safe = self.phase == Phase::Equal && !self.wire.peer_primary;
        if safe || self.bug == Bug::StalePromote { String::new() } else { "peer away".to_owned() }
    }

    pub(super) fn step_down(&mut self) {
        self.primary = false;
        if let Some(promoting) = self.promoting.take() {
            let refusal = Refusal { reason: "toy", text: "the peer is newer".to_owned() };
            self.answers.push((promoting.id, Err(refusal)));
        }
        for (id, _) in std::mem::take(&mut self.queue) {
            self.replies.push((id, Told::Failed));
        }
        self.active.clear();
        if let Some(id) = self.demoting.take() {
            self.answers.push((id, Ok("demoted".to_owned())));
        }
    }
}
