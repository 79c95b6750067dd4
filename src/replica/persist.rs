//! Owns the order of metadata writes: what is done once the superblock or bitmap pages are stable.
//! Must never let two writes of one page be under way at once: the older could land last.

use super::Replica;
use super::disk_loss::DiskLoss;
use super::event::{CommandId, DiskError, Output, PageId, Persist, PersistId, Refusal};
use crate::format::frame::Frame;
use crate::format::lineage::Generation;
use crate::plant::Plant;
use crate::units::{Blocks, Epoch, Session};
use std::collections::VecDeque;

/// Bitmap pages in one metadata write: bounds its buffers (1 MiB).
const PAGES_PER_WRITE: usize = 256;

/// What to go on with once a change of the superblock is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    Nothing,
    Started,
    TentativeBond { peer: usize, session: Session },
    ConfirmedBond { peer: usize, session: Session },
    BondThenNothing { peer: usize, session: Session },
    TargetPrepared { peer: usize, session: Session, token: u64 },
    SourceToken { peer: usize, session: Session },
    SourceEnds { peer: usize, session: Session },
    Adopted { peer: usize, session: Session },
    Promoted,
    PromoteGranted { peer: usize, session: Session, epoch: Epoch },
    Generation,
    GenerationHeld { peer: usize, session: Session, generation: Generation },
    Demoted,
    Withdrawn { peer: usize },
    Answer { id: CommandId, text: &'static str },
    Renegotiate { peer: usize, id: CommandId, text: &'static str },
    EmptyAnswered { peer: usize, session: Session },
    Stopped,
}

/// A write of bitmap pages, and what follows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PagesJob {
    /// The pages of extents that stop being hot; then the log.
    Cooled(Vec<u32>),
    /// Everything unsaved; then `AfterPages`.
    All(AfterPages),
    /// Some, to keep the progress of a resync.
    Lazy,
}

/// What follows when all pages are saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterPages {
    Nothing,
    Start,
    Demote,
    Stop,
    AllMarked { peer: usize },
    Adopt { peer: usize, session: Session },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Write {
    Superblock {
        version: u64,
    },
    /// `full`: there may be more pages than fit one write.
    Pages {
        job: PagesJob,
        full: bool,
    },
    Log,
    /// Its disk is gone: nobody waits for it.
    Abandoned,
}

/// Metadata writes under way and waiting.
#[derive(Debug, Default)]
pub(super) struct Saver {
    writes: slab::Slab<Write>,
    version: u64,
    durable: u64,
    superblock_busy: bool,
    waiting: VecDeque<(u64, After)>,
    pages_busy: bool,
    pages_waiting: VecDeque<PagesJob>,
}

impl Saver {
    /// Whether the durable records are those in memory, as far as a peer is told of them. The log
    /// and the pages of cooled extents go on under any load, and are not waited for.
    pub(super) fn is_settled(&self) -> bool {
        let tells = |write: &Write| {
            matches!(write, Write::Superblock { .. } | Write::Pages { job: PagesJob::All(_), .. })
        };
        let all = |job: &PagesJob| matches!(job, PagesJob::All(_));
        self.waiting.is_empty()
            && !self.writes.iter().any(|(_, write)| tells(write))
            && !self.pages_waiting.iter().any(all)
    }

    /// The version of the newest change that is to be saved.
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    /// Whether a write of that version or a later one was begun: it may land although its disk is gone.
    pub(super) fn may_have_written(&self, version: u64) -> bool {
        let begun =
            |write: &Write| matches!(write, Write::Superblock { version: it } if *it >= version);
        self.writes.iter().any(|(_, write)| begun(write))
    }

    /// Whether both copies hold that version.
    pub(super) const fn is_durable(&self, version: u64) -> bool {
        version <= self.durable
    }
}

impl Replica {
    /// Saves the superblock as it is in memory now; `after` follows when both copies hold it.
    pub(super) fn save(&mut self, after: After) {
        self.saver.version += 1;
        self.superblock.serial += 1;
        self.saver.waiting.push_back((self.saver.version, after));
        self.write_superblock();
    }

    fn write_superblock(&mut self) {
        let version = self.saver.version;
        if self.saver.superblock_busy || self.saver.is_durable(version) {
            return;
        }
        if !self.has_metadata() {
            // Nothing durable can be said without a disk; the peer's record stands for it.
            self.saver.durable = version;
            self.run_after_superblock();
            return;
        }
        self.saver.superblock_busy = true;
        let id = self.saver.writes.insert(Write::Superblock { version });
        self.emit(Output::Persist { id: PersistId(id as u64), what: Persist::Superblock });
    }

    /// What is written is what is in memory now.
    pub(super) fn superblock_goes_out(&mut self, id: PersistId) {
        let newest = self.saver.version;
        let key = usize::try_from(id.0).expect("ids are slab keys");
        if let Some(Write::Superblock { version }) = self.saver.writes.get_mut(key) {
            *version = newest;
        }
    }

    /// Queues a write of bitmap pages.
    pub(super) fn save_pages(&mut self, job: PagesJob) {
        self.saver.pages_waiting.push_back(job);
        self.write_pages();
    }

    fn write_pages(&mut self) {
        while !self.saver.pages_busy {
            let Some(job) = self.saver.pages_waiting.pop_front() else {
                return;
            };
            let pages = self.pages_of(&job);
            if pages.is_empty() || !self.has_metadata() {
                self.pages_saved(&job);
                continue;
            }
            self.saver.pages_busy = true;
            let full = pages.len() >= PAGES_PER_WRITE;
            let id = self.saver.writes.insert(Write::Pages { job, full });
            let what = Persist::Pages(pages.into_boxed_slice());
            self.emit(Output::Persist { id: PersistId(id as u64), what });
        }
    }

    fn pages_of(&mut self, job: &PagesJob) -> Vec<PageId> {
        let mut pages = Vec::new();
        for (slot, map) in (0u8..).zip(&mut self.maps) {
            let mut found = Vec::new();
            match job {
                PagesJob::Cooled(extents) => {
                    for extent in extents {
                        let blocks = super::hot_extents::blocks_of(*extent, self.device_blocks);
                        map.take_unsaved(blocks, &mut found);
                    }
                }
                PagesJob::All(_) | PagesJob::Lazy => {
                    found = map.take_some_unsaved(PAGES_PER_WRITE - pages.len());
                }
            }
            pages.extend(found.into_iter().map(|page| PageId { slot, page }));
        }
        pages
    }

    /// Writes the planned log transaction: the pages of what it cools are stable.
    pub(super) fn write_log(&mut self) {
        let id = self.saver.writes.insert(Write::Log);
        self.emit(Output::Persist { id: PersistId(id as u64), what: Persist::Log });
        self.log_writes += 1;
        if self.planted(Plant::WriteBeforeLog) {
            self.log_saved();
        }
    }

    pub(super) fn on_persisted(&mut self, id: PersistId, result: Result<(), DiskError>) {
        let key = usize::try_from(id.0).expect("ids are slab keys");
        if result.is_err() {
            self.fail_disk(DiskLoss::Metadata);
        }
        let write = self.saver.writes.remove(key);
        match &write {
            Write::Superblock { .. } => self.saver.superblock_busy = false,
            Write::Pages { .. } => self.saver.pages_busy = false,
            Write::Log | Write::Abandoned => {}
        }
        match write {
            Write::Superblock { version } => {
                self.saver.durable = self.saver.durable.max(version);
                self.run_after_superblock();
                self.write_superblock();
            }
            Write::Pages { job: PagesJob::All(after), full: true } => {
                self.saver.pages_waiting.push_front(PagesJob::All(after));
                self.write_pages();
            }
            Write::Pages { job, .. } => {
                self.pages_saved(&job);
                self.write_pages();
            }
            Write::Log if self.log.is_renewing() => self.marks_recovered(),
            Write::Log if self.planted(Plant::WriteBeforeLog) => {}
            Write::Log => self.log_saved(),
            Write::Abandoned => {}
        }
    }

    /// Without a disk nothing more is written; whoever waits for more than a record goes on.
    pub(super) fn abandon_writes(&mut self) {
        let mut jobs = Vec::new();
        for (_, write) in &mut self.saver.writes {
            if let Write::Pages { job, .. } = std::mem::replace(write, Write::Abandoned) {
                jobs.push(job);
            }
        }
        jobs.extend(self.saver.pages_waiting.drain(..));
        self.saver.superblock_busy = false;
        self.saver.pages_busy = false;
        self.saver.durable = self.saver.version;
        if self.log.is_renewing() {
            self.start_failed();
        }
        for (_, after) in std::mem::take(&mut self.saver.waiting) {
            self.after_lost_superblock(after);
        }
        for job in jobs {
            match job {
                PagesJob::All(AfterPages::Demote) => self.marks_saved_for_demote(),
                PagesJob::All(AfterPages::Stop) => self.marks_saved_for_stop(),
                PagesJob::All(AfterPages::Start) => self.start_failed(),
                _ => {}
            }
        }
    }

    /// What was to be recorded first never will be: promises that rest on it are not made.
    fn after_lost_superblock(&mut self, after: After) {
        match after {
            After::Started => self.start_failed(),
            After::Promoted => {
                self.fail_promotion("disk-failed", self.disk_failed_meanwhile());
            }
            After::PromoteGranted { peer, epoch, .. } => {
                self.send(peer, Frame::PromoteAnswer { epoch, granted: false });
            }
            After::EmptyAnswered { peer, .. } => {
                self.send(peer, Frame::EmptyAnswer { empty: false });
            }
            After::Answer { id, .. } => {
                let text = self.disk_failed_meanwhile();
                self.answer(id, Err(Refusal { reason: "disk-failed", text }));
            }
            After::Renegotiate { peer, id, .. } => {
                self.renegotiate(peer);
                let text = self.disk_failed_meanwhile();
                self.answer(id, Err(Refusal { reason: "disk-failed", text }));
            }
            After::Generation | After::Demoted | After::Withdrawn { .. } | After::Stopped => {
                self.after_superblock(after);
            }
            _ => {}
        }
    }

    fn run_after_superblock(&mut self) {
        while let Some((version, _)) = self.saver.waiting.front() {
            if !self.saver.is_durable(*version) {
                return;
            }
            if let Some((_, after)) = self.saver.waiting.pop_front() {
                self.after_superblock(after);
            }
        }
    }

    fn after_superblock(&mut self, after: After) {
        match after {
            After::Nothing => {}
            After::Started => self.started(),
            After::TentativeBond { peer, session } => self.tentative_bond_saved(peer, session),
            After::ConfirmedBond { peer, session } => self.confirmed_bond_saved(peer, session),
            After::BondThenNothing { peer, session } => self.equal_saved(peer, session),
            After::TargetPrepared { peer, session, token } => {
                self.target_prepared(peer, session, token);
            }
            After::SourceToken { peer, session } => self.source_token_saved(peer, session),
            After::SourceEnds { peer, session } => self.source_end_saved(peer, session),
            After::Adopted { peer, session } => self.adopted(peer, session),
            After::Promoted => self.promoted(),
            After::PromoteGranted { peer, session, epoch } => {
                self.promote_granted(peer, session, epoch);
            }
            After::Generation => self.generation_saved(),
            After::GenerationHeld { peer, session, generation } => {
                self.generation_held(peer, session, generation);
            }
            After::Demoted => self.demoted(),
            After::Withdrawn { peer } => self.withdrawn(peer),
            After::Answer { id, text } => self.answer(id, Ok(text.to_owned())),
            After::Renegotiate { peer, id, text } => {
                self.renegotiate(peer);
                self.answer(id, Ok(text.to_owned()));
            }
            After::EmptyAnswered { peer, session } => self.empty_answered(peer, session),
            After::Stopped => self.stopped(),
        }
    }

    fn pages_saved(&mut self, job: &PagesJob) {
        match *job {
            PagesJob::Lazy | PagesJob::All(AfterPages::Nothing) => {}
            PagesJob::Cooled(_) => self.write_log(),
            PagesJob::All(AfterPages::Start) => self.marks_recovered(),
            PagesJob::All(AfterPages::Demote) => self.marks_saved_for_demote(),
            PagesJob::All(AfterPages::Stop) => self.marks_saved_for_stop(),
            PagesJob::All(AfterPages::AllMarked { peer }) => self.all_marks_saved(peer),
            PagesJob::All(AfterPages::Adopt { peer, session }) => {
                self.marks_saved_for_adopt(peer, session);
            }
        }
    }

    /// Marks blocks towards a peer, in memory. The activity log makes that durable in time.
    pub(super) fn mark(&mut self, peer: usize, blocks: Blocks) {
        if let Some(map) = self.maps.get_mut(peer) {
            map.mark(blocks);
        }
    }
}
