//! Owns which copy serves a read: this node's unless the blocks are stale here.
//! Must never show what a failover could take back: a read waits for writes it overlaps.

use super::disk_loss::DiskLoss;
use super::event::{DiskError, IoId, Output, Part, RequestError, Want};
use super::request::{Edge, Need};
use super::{IoPurpose, Replica};
use crate::buffer::Payload;
use crate::format::frame::{DiskState, Frame};
use crate::limits::{INCOMING_ASKS_MAX, PIECE_BLOCKS};
use crate::plant::Plant;
use crate::units::{Blocks, Sequence};

/// A read asked of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RemoteRead {
    peer: usize,
    need: Need,
}

/// A read that a peer asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    id: u64,
    blocks: Blocks,
    /// The newest write that the peer had sent before.
    after: Sequence,
}

impl Replica {
    pub(super) fn run_read(&mut self, key: usize) {
        let blocks = self.ops[key].blocks;
        self.ops[key].running += 1;
        self.set_next_block(key, blocks.end());
        for piece in blocks.pieces(PIECE_BLOCKS) {
            self.ops[key].running += 1;
            let into = self.ops[key].part(piece).expect("a read has slots");
            self.satisfy(Need::Piece { op: key, blocks: piece, into });
        }
        self.piece_ended(key);
    }

    /// Reads something from here or from a peer, or parks it until one of them can.
    pub(super) fn satisfy(&mut self, need: Need) {
        let blocks = self.blocks_of(need);
        if self.readable_here(blocks) {
            match need {
                Need::Edge { op, edge } => self.load_edge(op, edge),
                Need::Piece { into, .. } => {
                    let io = self.start_io(IoPurpose::Piece { need });
                    self.emit(Output::Load { io, blocks, into });
                }
            }
        } else if let Some(peer) = self.reading_peer() {
            let id = self.remote_reads.insert(RemoteRead { peer, need }) as u64;
            self.send(peer, Frame::ReadAsk { id, blocks });
        } else {
            self.parked.push(need);
        }
    }

    fn blocks_of(&self, need: Need) -> Blocks {
        match need {
            Need::Piece { blocks, .. } => blocks,
            Need::Edge { op, edge: Edge::Head } => Blocks::new(self.ops[op].blocks.start, 1),
            Need::Edge { op, edge: Edge::Tail } => Blocks::new(self.ops[op].blocks.end() - 1, 1),
        }
    }

    /// Whether the local copy of these blocks is current.
    fn readable_here(&self, blocks: Blocks) -> bool {
        match self.disk {
            DiskState::UpToDate => true,
            DiskState::Inconsistent if self.planted(Plant::ReadInconsistent) => true,
            // In the middle of a resync to here, the blocks without a mark are current.
            DiskState::Inconsistent => self
                .peers
                .iter()
                .zip(&self.maps)
                .any(|(peer, map)| peer.is_known_target() && !map.any(blocks)),
            _ => false,
        }
    }

    /// A connected peer with current data.
    fn reading_peer(&self) -> Option<usize> {
        self.peers.iter().position(|peer| peer.mirrors() && peer.disk == Some(DiskState::UpToDate))
    }

    pub(super) fn piece_loaded(&mut self, need: Need, result: Result<(), DiskError>) {
        let Need::Piece { op, .. } = need else { return };
        if result.is_ok() {
            return self.piece_ended(op);
        }
        if self.planted(Plant::ErrorToClient) {
            self.ops[op].failed = Some(RequestError::NotPrimary);
            return self.piece_ended(op);
        }
        self.fail_disk(DiskLoss::Read);
        self.satisfy(need);
    }

    /// A peer's answer. Late ones of an ended session find nothing.
    pub(super) fn on_read_answer(
        &mut self,
        peer: usize,
        (id, answered): (u64, Blocks),
        payload: Option<Payload>,
    ) {
        let key = usize::try_from(id).unwrap_or(usize::MAX);
        if self.remote_reads.get(key).is_none_or(|read| read.peer != peer) {
            return self.release(payload);
        }
        let blocks = self.blocks_of(self.remote_reads[key].need);
        if blocks != answered {
            self.release(payload);
            return self.violation(peer, "an answer to a read nobody asked for");
        }
        let read = self.remote_reads.remove(key);
        let Some(payload) = payload else {
            // The peer could not: it says so with `DiskChange`, after which another way is tried.
            self.parked.push(read.need);
            return;
        };
        match read.need {
            Need::Edge { op, edge } => self.edge_loaded(op, edge, payload),
            Need::Piece { op, into, .. } => {
                let count = u16::try_from(blocks.count).expect("a piece is 256 blocks");
                self.emit(Output::Copy { from: payload, into, blocks: count });
                self.piece_ended(op);
            }
        }
    }

    /// The session is over: what was asked of the peer is asked elsewhere.
    pub(super) fn forget_remote_reads(&mut self, peer: usize) {
        let lost: Vec<usize> = self
            .remote_reads
            .iter()
            .filter(|(_, read)| read.peer == peer)
            .map(|(key, _)| key)
            .collect();
        for key in lost {
            let need = self.remote_reads.remove(key).need;
            self.parked.push(need);
        }
    }

    /// Tries again what nobody could serve.
    pub(super) fn retry_parked(&mut self) {
        for need in std::mem::take(&mut self.parked) {
            self.satisfy(need);
        }
    }

    /// The peer wants to read from here.
    pub(super) fn on_read_ask(&mut self, peer: usize, id: u64, blocks: Blocks) {
        let fits = blocks.count <= PIECE_BLOCKS && blocks.end() <= self.device_blocks;
        if self.peers[peer].asked.len() >= INCOMING_ASKS_MAX {
            return self.violation(peer, "more reads than a primary has clients for");
        }
        if !fits {
            return self.send(peer, Frame::ReadAnswer { id, ok: false, blocks });
        }
        let after = self.peers[peer].incoming.last;
        self.peers[peer].asked.push(Asked { id, blocks, after });
        self.serve_asked(peer);
    }

    /// Serves the reads that come after nothing that is still on its way to the disk: under A and B
    /// the asker was told of its writes before.
    pub(super) fn serve_asked(&mut self, peer: usize) {
        let found = &mut self.peers[peer];
        if found.asked.is_empty() {
            return;
        }
        let incoming = &found.incoming;
        let ready = |asked: &mut Asked| !incoming.is_writing(asked.blocks, asked.after);
        let ready: Vec<Asked> = found.asked.extract_if(.., ready).collect();
        for Asked { id, blocks, .. } in ready {
            if self.disk != DiskState::UpToDate {
                self.send(peer, Frame::ReadAnswer { id, ok: false, blocks });
                continue;
            }
            let session = self.peers[peer].session_id();
            let io: IoId = self.start_io(IoPurpose::Serve { peer, session, id, blocks });
            self.emit(Output::Fetch { io, blocks, want: Want::default() });
        }
    }

    pub(super) fn served(
        &mut self,
        (peer, session): (usize, crate::units::Session),
        (id, blocks): (u64, Blocks),
        result: Result<Payload, DiskError>,
    ) {
        let live = self.peers[peer].session == Some(session);
        match result {
            Ok(payload) => {
                if live {
                    let part = Part { payload: payload.share(), first: 0 };
                    self.send_part(peer, Frame::ReadAnswer { id, ok: true, blocks }, part);
                }
                self.emit(Output::Release(payload));
            }
            Err(_) => {
                if live {
                    self.send(peer, Frame::ReadAnswer { id, ok: false, blocks });
                }
                self.fail_disk(DiskLoss::ReadForPeer);
            }
        }
    }
}
