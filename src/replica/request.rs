//! Owns a client request from arrival to reply: lock, edges of unaligned ranges, pieces.
//! Must never decide where a piece goes: `write` and `read` do.

use super::disk_loss::DiskLoss;
use super::event::{
    Fetched, IoId, Output, Part, Pieces, Reply, Request, RequestError, RequestId, Want,
};
use super::range_lock::Mode;
use super::{IoPurpose, Owner, Replica};
use crate::buffer::Payload;
use crate::format::frame::Role;
use crate::limits::{PIECE_BLOCKS, ZERO_PIECE_BLOCKS, ZERO_PIECES_IN_FLIGHT};
use crate::plant::Plant;
use crate::units::{BLOCK_BYTES, Blocks, Bytes, Nanos};

/// What a request wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Write,
    Zero { discard: bool },
}

/// First or last block of an unaligned range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    Head,
    Tail,
}

/// A client's read, write or zero on its way.
#[derive(Debug)]
pub(super) struct Op {
    pub(super) id: RequestId,
    pub(super) kind: Kind,
    pub(super) range: Bytes,
    /// The range, rounded outward: what is locked.
    pub(super) blocks: Blocks,
    pub(super) fua: bool,
    pub(super) slots: Option<Pieces>,
    /// Edge blocks of a zero, to be written as data.
    edges: Vec<(Blocks, Payload)>,
    /// Edges being read.
    edges_owed: u8,
    /// Where the next piece starts.
    next_block: u64,
    /// Pieces started and not finished.
    pub(super) running: u32,
    pub(super) failed: Option<RequestError>,
    pub(super) since: Nanos,
    locked: bool,
}

/// The bytes of a block that a read-modify-write needs, or a piece of a client's read: something
/// to be read from wherever it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    Edge { op: usize, edge: Edge },
    Piece { op: usize, blocks: Blocks, into: Part },
}

impl Pieces {
    /// The slot of piece `index`.
    pub(super) fn slot(&self, index: usize) -> &Payload {
        match self {
            Self::One(payload) => payload,
            Self::Many(payloads) => &payloads[index],
        }
    }
}

impl Op {
    /// Where `blocks` lie in the slots of the request; they never straddle two.
    pub(super) fn part(&self, blocks: Blocks) -> Option<Part> {
        let from_start = blocks.start - self.blocks.start;
        let index = usize::try_from(from_start / PIECE_BLOCKS).expect("64 pieces at most");
        let first = u16::try_from(from_start % PIECE_BLOCKS).expect("a piece is 256 blocks");
        let payload = self.slots.as_ref()?.slot(index).share();
        Some(Part { payload, first })
    }

    /// The blocks that go as whole ones: for a zero, without its partial edges.
    fn body(&self) -> Blocks {
        if !matches!(self.kind, Kind::Zero { .. }) {
            return self.blocks;
        }
        let start = self.blocks.start + u64::from(self.range.head_pad() > 0);
        let end = self.blocks.end() - u64::from(self.range.tail_pad() > 0);
        Blocks::new(start, end.saturating_sub(start))
    }

    const fn edge_block(&self, edge: Edge) -> Blocks {
        match edge {
            Edge::Head => Blocks::new(self.blocks.start, 1),
            Edge::Tail => Blocks::new(self.blocks.end() - 1, 1),
        }
    }
}

impl Replica {
    pub(super) fn on_request(&mut self, id: RequestId, request: Request) {
        let (kind, range, slots, fua) = match request {
            Request::Flush => return self.on_flush(id),
            Request::Read { range, pieces } => (Kind::Read, range, Some(pieces), false),
            Request::Write { range, pieces, fua } => (Kind::Write, range, Some(pieces), fua),
            Request::Zero { range, discard, fua } => (Kind::Zero { discard }, range, None, fua),
        };
        let fua = fua && !self.planted(Plant::FuaAsPlain);
        let blocks = range.blocks();
        let op = Op {
            id,
            kind,
            range,
            blocks,
            fua,
            slots,
            edges: Vec::new(),
            edges_owed: 0,
            next_block: blocks.start,
            running: 0,
            failed: None,
            since: self.now,
            locked: false,
        };
        let key = self.ops.insert(op);
        if self.role != Role::Primary || self.demoting.is_some() {
            self.ops[key].failed = Some(RequestError::NotPrimary);
            return self.finish_op(key);
        }
        debug_assert!(blocks.end() <= self.device_blocks, "the export checks ranges");
        if range.length == 0 {
            return self.finish_op(key);
        }
        let mode = if kind == Kind::Read { Mode::Shared } else { Mode::Exclusive };
        let unlocked = if kind == Kind::Read { Plant::DirtyRead } else { Plant::OverlapUnordered };
        let unlocked = self.planted(unlocked);
        self.ops[key].locked = !unlocked;
        if unlocked || self.locks.acquire(Owner::Op(key), blocks, mode) {
            self.op_locked(key);
        }
    }

    /// The range is the request's.
    pub(super) fn op_locked(&mut self, key: usize) {
        let op = &self.ops[key];
        if op.kind == Kind::Read || op.range.is_aligned() || self.planted(Plant::EdgeLost) {
            return self.run_op(key);
        }
        let head = op.range.head_pad() > 0;
        let tail = op.range.tail_pad() > 0;
        // A zero within one block needs that block once.
        let once = matches!(op.kind, Kind::Zero { .. }) && op.blocks.count == 1;
        let wanted = [(head || (once && tail), Edge::Head), (tail && !once, Edge::Tail)];
        self.ops[key].edges_owed = wanted.iter().map(|(yes, _)| u8::from(*yes)).sum();
        for (_, edge) in wanted.into_iter().filter(|(yes, _)| *yes) {
            self.satisfy(Need::Edge { op: key, edge });
        }
    }

    /// Reads an edge block here.
    pub(super) fn load_edge(&mut self, op: usize, edge: Edge) {
        let blocks = self.ops[op].edge_block(edge);
        let io = self.start_io(IoPurpose::Edge { op, edge });
        self.emit(Output::Fetch { io, blocks, want: Want::default() });
    }

    /// An edge block as it was, from here or from a peer.
    pub(super) fn edge_loaded(&mut self, key: usize, edge: Edge, payload: Payload) {
        let op = &mut self.ops[key];
        let range = op.range;
        let bytes = |n: u64| u16::try_from(n).expect("less than a block");
        match (op.kind, edge) {
            (Kind::Write, Edge::Head) => {
                let into = op.slots.as_ref().expect("a write has slots").slot(0).share();
                let head = bytes(range.head_pad());
                self.emit(Output::MergeHead { edge: payload, into, bytes: head });
            }
            (Kind::Write, Edge::Tail) => {
                let part = op.part(op.edge_block(edge)).expect("a write has slots");
                let (into, block) = (part.payload, part.first);
                let tail = bytes(range.tail_pad());
                self.emit(Output::MergeTail { edge: payload, into, block, bytes: tail });
            }
            (_, edge) => self.clear_in_edge(key, edge, payload),
        }
        let op = &mut self.ops[key];
        op.edges_owed -= 1;
        match (op.edges_owed, op.failed) {
            (0, None) => self.run_op(key),
            (0, Some(_)) => self.finish_op(key),
            _ => {}
        }
    }

    /// A zero's edge: the bytes of the range that lie in the block become zero.
    fn clear_in_edge(&mut self, key: usize, edge: Edge, payload: Payload) {
        let op = &mut self.ops[key];
        let block = op.edge_block(edge);
        let from = op.range.offset.max(block.offset_bytes());
        let to = (op.range.offset + op.range.length).min(block.offset_bytes() + BLOCK_BYTES);
        let small = |n: u64| u32::try_from(n).expect("within a block");
        let offset = small(from - block.offset_bytes());
        let into = payload.share();
        op.edges.push((block, payload));
        self.emit(Output::ClearKept { into, offset, bytes: small(to - from) });
    }

    /// Starts the pieces that may run now.
    pub(super) fn run_op(&mut self, key: usize) {
        if self.ops[key].kind == Kind::Read {
            return self.run_read(key);
        }
        let op = &mut self.ops[key];
        op.next_block = op.body().start;
        let edges: Vec<_> = op.edges.iter().map(|(b, p)| (*b, p.share())).collect();
        op.running += 1; // Held until every piece has been started.
        for (blocks, payload) in edges {
            self.ops[key].running += 1;
            self.start_piece(key, blocks, Some(Part { payload, first: 0 }));
        }
        self.run_pieces(key);
        self.piece_ended(key);
    }

    fn run_pieces(&mut self, key: usize) {
        while let Some(op) = self.ops.get_mut(key) {
            let body = op.body();
            let zero = matches!(op.kind, Kind::Zero { .. });
            if op.next_block >= body.end() {
                return;
            }
            if zero && op.running as usize > ZERO_PIECES_IN_FLIGHT {
                return;
            }
            let start = op.next_block;
            // A zero's pieces end at extents, so that each needs just one; a write's follow slots.
            let end = if zero {
                (start / ZERO_PIECE_BLOCKS + 1) * ZERO_PIECE_BLOCKS
            } else {
                start + PIECE_BLOCKS
            };
            let blocks = Blocks::new(start, end.min(body.end()) - start);
            op.next_block = blocks.end();
            op.running += 1;
            let part = op.part(blocks);
            self.start_piece(key, blocks, part);
        }
    }

    /// A piece of the request has ended.
    pub(super) fn piece_ended(&mut self, key: usize) {
        let op = &mut self.ops[key];
        op.running -= 1;
        if op.kind != Kind::Read && op.next_block < op.body().end() {
            self.ops[key].running += 1;
            self.run_pieces(key);
            self.ops[key].running -= 1;
        }
        let op = &self.ops[key];
        let body_end = if op.kind == Kind::Read { op.blocks.end() } else { op.body().end() };
        if op.running == 0 && op.next_block >= body_end {
            self.finish_op(key);
        }
    }

    pub(super) fn set_next_block(&mut self, key: usize, block: u64) {
        self.ops[key].next_block = block;
    }

    /// Answers, gives back the lock and, except to a reader, the slots.
    fn finish_op(&mut self, key: usize) {
        let op = self.ops.remove(key);
        for (_, payload) in op.edges {
            self.emit(Output::Release(payload));
        }
        let reply = match (op.failed, op.kind, op.slots) {
            (None, Kind::Read, Some(slots)) => Reply::Data(slots),
            (failed, _, slots) => {
                if let Some(slots) = slots {
                    slots.each(|payload| self.outputs.push_back(Output::Release(payload)));
                }
                failed.map_or(Reply::Done, Reply::Failed)
            }
        };
        if op.locked {
            self.pacer.on_client(self.now, self.now.since(op.since));
            self.unlock(Owner::Op(key));
        }
        self.emit(Output::Reply { id: op.id, reply });
        self.check_quiet();
    }

    pub(super) fn on_edge_fetched(
        &mut self,
        op: usize,
        edge: Edge,
        result: Result<Fetched, super::event::DiskError>,
    ) {
        match result {
            Ok(fetched) => self.edge_loaded(op, edge, fetched.payload),
            Err(_) => {
                self.fail_disk(DiskLoss::Read);
                self.satisfy(Need::Edge { op, edge });
            }
        }
    }

    /// What was to be read for a request whose client is gone.
    pub(super) fn abandon_need(&mut self, need: Need) {
        match need {
            Need::Piece { op, .. } => self.piece_ended(op),
            Need::Edge { op, .. } => {
                self.ops[op].edges_owed -= 1;
                if self.ops[op].edges_owed == 0 {
                    self.finish_op(op);
                }
            }
        }
    }

    pub(super) fn start_io(&mut self, purpose: IoPurpose) -> IoId {
        IoId(self.ios.insert(purpose) as u64)
    }

    /// Gives up a claim on blocks and lets those go on that waited for it.
    pub(super) fn unlock(&mut self, owner: Owner) {
        let mut woken = std::mem::take(&mut self.woken);
        self.locks.release(owner, &mut woken);
        for owner in woken.drain(..) {
            match owner {
                Owner::Op(key) => self.op_locked(key),
                Owner::Apply { peer, sequence } => self.apply_locked(peer, sequence),
                Owner::Item { peer, item } => self.item_locked(peer, item),
                Owner::Verify { chunk } => self.verify_locked(chunk),
                Owner::Compare { peer, id } => self.compare_locked(peer, id),
            }
        }
        self.woken = woken;
    }
}
