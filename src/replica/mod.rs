//! Owns the mind of one resource on one node: inputs in, outputs out, nothing else.
//! Must never touch a socket, file, clock, thread or random source, nor payload bytes.
//!
//! Feed [`Replica::handle`] with everything that happened, then drain [`Replica::poll_output`]
//! once per turn and carry out what comes, in order; call it again with [`Input::Timeout`] when
//! [`Replica::deadline`] has passed. What becomes of a write is in `request`, `activity_log`,
//! `write`, `stream` and `apply`, in this order; who has the good data is one table in [`reconcile`].

mod activity_log;
mod apply;
mod command;
mod congestion;
mod dirty_map;
mod disk;
mod disk_loss;
pub mod event;
mod flush;
mod generation;
mod handshake;
mod hold;
mod hot_extents;
mod init;
mod leftover;
pub mod options;
mod pace;
mod peer;
mod persist;
mod random;
mod range_lock;
mod read;
pub mod reconcile;
mod request;
mod role;
mod status;
mod stop;
mod stream;
mod sync_source;
mod sync_target;
mod verify;
mod write;

use crate::buffer::Payload;
use crate::format::extent_log::{LogImage, LogTransaction};
use crate::format::frame::{DiskState, Frame, Role};
use crate::format::superblock::Superblock;
use crate::limits::{EPOCH_LEAP_MAX, PROGRESS_SAVE};
use crate::plant::Plant;
use crate::units::{Blocks, Epoch, Nanos, Sequence, Session};
use dirty_map::DirtyMap;
use disk::{DiskPhase, Freeze};
use disk_loss::{Applied, LetGo};
use event::{CommandId, DiskError, Fetched, Input, IoId, Output, PageId, PeerIndex};
use flush::Flush;
use hot_extents::HotExtents;
use init::EmptyScan;
use options::Options;
use pace::Pacer;
use peer::{Peer, Phase};
use persist::{PagesJob, Saver};
use random::Random;
use range_lock::RangeLocks;
use read::RemoteRead;
use request::{Edge, Need, Op};
use role::{Demoting, Promoting};
use slab::Slab;
use std::collections::VecDeque;
use stop::Stopping;
use stream::LocalStream;
use verify::{Compare, Verify};
use write::Piece;

/// Whose claim on blocks it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Op(usize),
    Apply { peer: usize, sequence: Sequence },
    Item { peer: usize, item: usize },
    Verify { chunk: usize },
    Compare { peer: usize, id: u64 },
}

/// What a disk operation was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IoPurpose {
    Write { piece: usize, sequence: Sequence },
    Piece { need: Need },
    Edge { op: usize, edge: Edge },
    Sync { purpose: SyncPurpose, applied: u64 },
    Apply { peer: usize, session: Session, sequence: Sequence },
    Item { peer: usize, session: Session, item: usize },
    Serve { peer: usize, session: Session, id: u64, blocks: Blocks },
    Verify { session: Session, number: u64, chunk: usize },
    Compare { peer: usize, session: Session, id: u64 },
}

/// What the disk was synced for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SyncPurpose {
    Own { covered: Sequence, round: u64 },
    Barrier { peer: usize, session: Session },
    Source { peer: usize, session: Session },
    Promotion { id: CommandId },
}

/// Who waits for an extent to become hot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LogWaiter {
    Piece(usize),
    Apply { peer: usize, sequence: Sequence },
}

/// The mind of one resource on one node.
#[derive(Debug)]
pub struct Replica {
    options: Options,
    now: Nanos,
    outputs: VecDeque<Output>,
    random: Random,
    superblock: Superblock,
    saver: Saver,
    generation_version: u64,
    // The local disk.
    disk: DiskState,
    disk_phase: DiskPhase,
    disk_reason: String,
    let_go: LetGo,
    applied: Applied,
    /// Since the copies were last equal, something this node had received may have been lost before it
    /// was written: the process is another one, or the disk was let go of.
    forgot: bool,
    opening_for: Option<CommandId>,
    freezing: Option<Freeze>,
    /// The generation a primary serves while its own disk is no current copy.
    served: Option<crate::format::lineage::Generation>,
    /// Those a peer was last asked to begin, which it may have done unheard; until another one is begun.
    asked_for: [Option<crate::format::lineage::Generation>; 2],
    /// Bit per peer: when the disk went, or since, it lacked something that clients were told of.
    short_peers: u8,
    device_blocks: u64,
    maps: Vec<DirtyMap>,
    log: HotExtents,
    log_waiting: VecDeque<LogWaiter>,
    /// Handled so far.
    inputs: u64,
    /// The last plan found no slot to spare.
    log_full: bool,
    /// Pieces under way that waited for the log.
    were_cold: usize,
    gather: activity_log::Gather,
    /// Slots of the log taken since it was last relieved.
    taken_slots: u32,
    /// Transactions begun, for `status`.
    log_writes: u64,
    local: LocalStream,
    ios: Slab<IoPurpose>,
    // Requests of clients.
    role: Role,
    ops: Slab<Op>,
    pieces: Slab<Piece>,
    locks: RangeLocks<Owner>,
    woken: Vec<Owner>,
    held: VecDeque<usize>,
    frozen: Vec<usize>,
    version_waiting: Vec<usize>,
    parked: Vec<Need>,
    remote_reads: Slab<RemoteRead>,
    flushes: VecDeque<Flush>,
    flushed: Sequence,
    flush_round: u64,
    rounds_done: u64,
    syncing: bool,
    sync_again: bool,
    sequence: Sequence,
    resumed: bool,
    told_waiting: bool,
    leaving: Vec<CommandId>,
    stopping: Option<Stopping>,
    // Peers and what is under way with them.
    peers: Vec<Peer>,
    promoting: Option<Promoting>,
    demoting: Option<Demoting>,
    scanning: Option<EmptyScan>,
    /// The generation that a peer, whose place stands beside it, was asked to begin.
    offered: Option<(CommandId, crate::format::lineage::Generation, usize)>,
    verify: Option<Verify>,
    last_verify: (u64, u64),
    verifies: u64,
    compares: Vec<Compare>,
    pacer: Pacer,
    next_progress_save: Nanos,
}

impl Replica {
    /// A resource without a disk yet; it asks for one at once.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let peers = options.peers.iter().map(|peer| Peer::new(peer.node, peer.name.clone()));
        let empty = LogImage::Hot { slots: Vec::new(), next_transaction: 1 };
        let mut replica = Self {
            now: Nanos(0),
            outputs: VecDeque::new(),
            random: Random::new(options.seed),
            superblock: Superblock::blank(options.node),
            saver: Saver::default(),
            generation_version: 0,
            disk: DiskState::Diskless,
            disk_phase: DiskPhase::Absent,
            disk_reason: String::new(),
            let_go: LetGo::default(),
            applied: Applied::default(),
            forgot: false,
            opening_for: None,
            freezing: None,
            served: None,
            asked_for: [None; 2],
            short_peers: 0,
            device_blocks: 0,
            maps: Vec::new(),
            log: HotExtents::new(&empty, 1),
            log_waiting: VecDeque::new(),
            inputs: 0,
            log_full: false,
            were_cold: 0,
            gather: activity_log::Gather::default(),
            taken_slots: 0,
            log_writes: 0,
            local: LocalStream::default(),
            ios: Slab::new(),
            role: Role::Secondary,
            ops: Slab::new(),
            pieces: Slab::new(),
            locks: RangeLocks::new(),
            woken: Vec::new(),
            held: VecDeque::new(),
            frozen: Vec::new(),
            version_waiting: Vec::new(),
            parked: Vec::new(),
            remote_reads: Slab::new(),
            flushes: VecDeque::new(),
            flushed: Sequence(0),
            flush_round: 0,
            rounds_done: 0,
            syncing: false,
            sync_again: false,
            sequence: Sequence(0),
            resumed: false,
            told_waiting: false,
            leaving: Vec::new(),
            stopping: None,
            peers: peers.collect(),
            promoting: None,
            demoting: None,
            scanning: None,
            offered: None,
            verify: None,
            last_verify: (0, 0),
            verifies: 0,
            compares: Vec::new(),
            pacer: Pacer::new(options.resync),
            next_progress_save: Nanos(0),
            options,
        };
        replica.open_disk(false, None);
        replica
    }

    /// Takes in one thing that happened at `now`.
    pub fn handle(&mut self, now: Nanos, input: Input) {
        self.now = self.now.max(now);
        self.inputs += 1;
        let cause = status::cause_of(&input);
        match input {
            Input::Request { id, request } => self.on_request(id, request),
            Input::Done { io, result } => self.on_done(io, result),
            Input::Fetched { io, result } => self.on_fetched(io, result),
            Input::Digested { io, result } => self.on_digested(io, result),
            Input::Persisted { id, result } => self.on_persisted(id, result),
            Input::LinkUp { peer, session } => self.on_link_up(index(peer), session),
            Input::LinkDown { peer, session } => self.on_link_down(index(peer), session),
            Input::Frame { peer, session, epoch, frame, payload } => {
                self.on_frame(index(peer), (session, epoch), frame, payload);
            }
            Input::Command { id, command } => self.on_command(id, command),
            Input::DiskOpened { result } => self.on_disk_opened(result),
            Input::DiskClosed => self.on_disk_closed(),
            Input::Scanned { empty } => self.on_scanned(empty),
            Input::Timeout => {}
        }
        self.run_timers();
        self.go_on();
        self.note_states(cause);
    }

    /// Inputs handled so far.
    #[must_use]
    pub const fn inputs(&self) -> u64 {
        self.inputs
    }

    /// The next effect to carry out, in order.
    pub fn poll_output(&mut self) -> Option<Output> {
        if self.outputs.is_empty() {
            (0..self.peers.len()).for_each(|peer| self.send_collected(peer));
        }
        let output = self.outputs.pop_front();
        if let Some(Output::Persist { id, what: event::Persist::Superblock }) = output {
            self.superblock_goes_out(id);
        }
        output
    }

    /// What the superblock should hold.
    #[must_use]
    pub const fn superblock(&self) -> &Superblock {
        &self.superblock
    }

    /// The words of a bitmap page.
    #[must_use]
    pub fn bitmap_page(&self, page: PageId) -> &[u64] {
        self.maps[usize::from(page.slot)].page(page.page)
    }

    /// The log transaction under way.
    #[must_use]
    pub const fn log_transaction(&self) -> &LogTransaction {
        self.log.transaction()
    }

    /// The epoch to tag frames with.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.superblock.epoch
    }

    /// Whether this bug was put in for a test; see [`crate::plant`].
    const fn planted(&self, plant: Plant) -> bool {
        self.options.plants.has(plant)
    }

    fn emit(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn release(&mut self, payload: Option<Payload>) {
        if let Some(payload) = payload {
            self.emit(Output::Release(payload));
        }
    }

    fn run_timers(&mut self) {
        self.peer_timers();
        self.stream_timers();
        let running = self.peers.iter().any(|peer| peer.phase == Phase::SyncSource);
        self.pacer.tick(self.now, running);
        for peer in 0..self.peers.len() {
            self.send_marks(peer);
            self.feed_resync(peer);
        }
        self.note_pace();
        let syncing = self.peers.iter().any(|peer| peer.phase.clears_marks());
        if syncing && self.now >= self.next_progress_save {
            self.next_progress_save = self.now + PROGRESS_SAVE;
            self.save_pages(PagesJob::Lazy);
        }
    }

    /// Lets go on what this input may have freed.
    fn go_on(&mut self) {
        self.retry_held();
        self.retry_frozen();
        for peer in 0..self.peers.len() {
            self.check_settled(peer);
            self.take_early(peer);
        }
        if self.promoting.is_some() {
            self.take_office();
        }
        self.check_flushes();
        if self.demoting.is_some() {
            self.drain_for_demote();
        }
        self.check_left();
        self.check_stopping();
        if !self.log_waiting.is_empty() {
            self.plan_log();
        }
    }

    /// Whether a primary that lost its peer acknowledges by marks alone.
    fn goes_on_alone(&self) -> bool {
        let chosen = self.options.on_peer_loss == options::PeerLoss::Continue || self.resumed;
        chosen && self.disk == DiskState::UpToDate
    }

    fn on_done(&mut self, io: IoId, result: Result<(), DiskError>) {
        match self.take_io(io) {
            IoPurpose::Write { piece, sequence } => self.piece_stored(piece, sequence, result),
            IoPurpose::Piece { need } => self.piece_loaded(need, result),
            IoPurpose::Sync { purpose, applied } => {
                if result.is_ok() {
                    self.applied.synced(applied);
                }
                self.synced(purpose, result.is_ok());
            }
            IoPurpose::Apply { peer, sequence, .. } => self.apply_done(peer, sequence, result),
            other => debug_assert!(false, "{other:?} does not end in Done"),
        }
    }

    fn on_fetched(&mut self, io: IoId, result: Result<Fetched, DiskError>) {
        match self.take_io(io) {
            IoPurpose::Edge { op, edge } => self.on_edge_fetched(op, edge, result),
            IoPurpose::Apply { peer, session, sequence } => {
                self.apply_hashed(peer, (session, sequence), result);
            }
            IoPurpose::Item { peer, session, item } => {
                if self.peers[peer].session == Some(session) && self.peers[peer].source.is_some() {
                    self.item_read(peer, item, result);
                } else {
                    self.release(result.ok().map(|fetched| fetched.payload));
                }
            }
            IoPurpose::Serve { peer, session, id, blocks } => {
                let result = result.map(|fetched| fetched.payload);
                self.served((peer, session), (id, blocks), result);
            }
            other => debug_assert!(false, "{other:?} does not end in Fetched"),
        }
    }

    fn on_digested(&mut self, io: IoId, result: Result<Box<[[u8; 32]]>, DiskError>) {
        match self.take_io(io) {
            IoPurpose::Verify { session, number, chunk } => {
                self.verify_digested((session, number, chunk), result);
            }
            IoPurpose::Compare { peer, session, id } => {
                self.compare_digested((peer, session, id), result);
            }
            other => debug_assert!(false, "{other:?} does not end in Digested"),
        }
    }

    fn take_io(&mut self, io: IoId) -> IoPurpose {
        self.ios.remove(usize::try_from(io.0).expect("ids are slab keys"))
    }

    fn on_frame(
        &mut self,
        peer: usize,
        (session, epoch): (Session, Epoch),
        frame: Frame,
        payload: Option<Payload>,
    ) {
        if self.peers[peer].session != Some(session) {
            return self.release(payload);
        }
        if epoch < self.peers[peer].session_epoch && !matches!(frame, Frame::State(_) | Frame::Met)
        {
            self.release(payload);
            return self.violation(peer, "a frame of an older epoch");
        }
        let Some((frame, payload)) = self.keep_early(peer, epoch, (frame, payload)) else {
            return;
        };
        match frame {
            Frame::Write { .. } | Frame::Zero { .. } => self.on_write_frame(peer, frame, payload),
            Frame::ResyncData { .. } | Frame::ResyncZero { .. } | Frame::ResyncHash { .. } => {
                self.on_resync_frame(peer, frame, payload);
            }
            Frame::Received { first, last } => self.on_received(peer, first, last),
            Frame::Written { first, last } => self.on_written(peer, first, last),
            Frame::Stable { sequence } => self.on_stable(peer, sequence),
            Frame::Barrier { sequence } => self.on_barrier(peer, sequence),
            // Where the disk was let go already, that is the newer word.
            Frame::WriteFailed { .. } if self.peers[peer].disk == Some(DiskState::Diskless) => {}
            Frame::WriteFailed { .. } => self.on_disk_change(peer, DiskState::Failed),
            Frame::ReadAsk { id, blocks } => self.on_read_ask(peer, id, blocks),
            Frame::ReadAnswer { id, blocks, .. } => {
                self.on_read_answer(peer, (id, blocks), payload);
            }
            other => {
                self.release(payload);
                self.on_rare_frame(peer, epoch, other);
            }
        }
    }

    fn on_rare_frame(&mut self, peer: usize, epoch: Epoch, frame: Frame) {
        let tag = if matches!(frame, Frame::State(_)) { epoch } else { Epoch(0) };
        let leap = frame.names_epoch().max(tag).0.saturating_sub(self.superblock.epoch.0);
        if leap > EPOCH_LEAP_MAX {
            return self.violation(peer, "an epoch far beyond any that can have been");
        }
        match frame {
            Frame::State(state) => self.on_state(peer, epoch, state),
            Frame::Met => self.on_met(peer),
            Frame::SyncStart { token } => self.on_sync_start(peer, token),
            Frame::SyncReady { token } => self.on_sync_ready(peer, token),
            Frame::SyncDone { lineage } => self.on_sync_done(peer, lineage),
            Frame::SyncAdopted => self.on_sync_adopted(peer),
            Frame::Marks { page, words } => self.on_marks(peer, Some(page), &words),
            Frame::MarksAll => self.on_marks(peer, None, &[]),
            Frame::MarksDone => self.on_marks_done(peer),
            Frame::HashAnswer { sequence, equal } => self.on_hash_answer(peer, sequence, equal),
            Frame::PauseSync { paused } => self.on_pause_sync(peer, paused),
            Frame::PromoteAsk { epoch } => self.on_promote_ask(peer, epoch),
            Frame::PromoteAnswer { epoch, granted } => self.on_promote_answer(peer, epoch, granted),
            Frame::RoleChange { role, epoch } => self.on_role_change(peer, role, epoch),
            Frame::DiskChange { disk } => self.on_disk_change(peer, disk),
            Frame::GenerationBegin { generation } => self.on_generation_begin(peer, generation),
            Frame::GenerationHeld { generation } => self.on_generation_held(peer, generation),
            Frame::Behind => self.on_behind(peer),
            Frame::VerifyAsk { id, blocks, digests } => {
                self.on_verify_ask(peer, (id, blocks), digests);
            }
            Frame::VerifyAnswer { id, blocks, differing } => {
                self.on_verify_answer(peer, (id, blocks), differing.as_deref());
            }
            Frame::EmptyAsk { generation } => self.on_empty_ask(peer, generation),
            Frame::EmptyAnswer { empty } => self.on_empty_answer(peer, empty),
            Frame::Bye { reason } => self.on_bye(peer, reason),
            _ => {}
        }
    }
}

const fn index(peer: PeerIndex) -> usize {
    peer.0 as usize
}
