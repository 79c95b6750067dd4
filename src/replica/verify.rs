//! Owns comparing all blocks with a peer: hashes under the range lock, differing blocks marked.
//! Must never hold a range longer than one piece takes, nor mend anything itself.

use super::disk_loss::DiskLoss;
use super::event::{CommandId, DiskError, Output};
use super::peer::Phase;
use super::persist::{AfterPages, PagesJob};
use super::range_lock::Mode;
use super::{IoPurpose, Owner, Replica};
use crate::format::frame::Frame;
use crate::limits::{RESYNC_PIECE_BLOCKS, VERIFY_PIECES};
use crate::units::{Blocks, Session};
use slab::Slab;

/// Bits of an id that name the chunk; the rest is the verify's number.
const CHUNK_BITS: u32 = 16;

#[derive(Debug)]
struct Chunk {
    blocks: Blocks,
}

/// A verify driven from here.
#[derive(Debug)]
pub(super) struct Verify {
    /// Which one it is: an answer to an earlier one is of no account.
    number: u64,
    pub(super) peer: usize,
    repair: bool,
    next: u64,
    chunks: Slab<Chunk>,
    pub(super) done_blocks: u64,
    pub(super) differing_blocks: u64,
}

/// A comparison the peer asked for.
#[derive(Debug)]
pub(super) struct Compare {
    pub(super) peer: usize,
    session: Session,
    id: u64,
    blocks: Blocks,
    digests: Box<[[u8; 32]]>,
    locked: bool,
}

impl Replica {
    pub(super) fn begin_verify(&mut self, id: CommandId, peer: usize, repair: bool) {
        self.verifies += 1;
        self.verify = Some(Verify {
            number: self.verifies,
            peer,
            repair,
            next: 0,
            chunks: Slab::new(),
            done_blocks: 0,
            differing_blocks: 0,
        });
        self.note("verify", "off", "running", "the operator asked");
        self.answer(id, Ok("verify has begun; `twinblk status` shows how far it is".to_owned()));
        self.feed_verify();
    }

    fn feed_verify(&mut self) {
        loop {
            let Some(verify) = &mut self.verify else {
                return;
            };
            let device = self.device_blocks;
            if verify.next >= device {
                if verify.chunks.is_empty() {
                    self.end_verify();
                }
                return;
            }
            if verify.chunks.len() >= VERIFY_PIECES {
                return;
            }
            let count = RESYNC_PIECE_BLOCKS.min(device - verify.next);
            let blocks = Blocks::new(verify.next, count);
            verify.next = blocks.end();
            let chunk = verify.chunks.insert(Chunk { blocks });
            if self.locks.acquire(Owner::Verify { chunk }, blocks, Mode::Exclusive) {
                self.verify_locked(chunk);
            }
        }
    }

    pub(super) fn verify_locked(&mut self, chunk: usize) {
        let Some(verify) = &self.verify else { return };
        let (blocks, peer) = (verify.chunks[chunk].blocks, verify.peer);
        let session = self.peers[peer].session_id();
        let number = verify.number;
        let io = self.start_io(IoPurpose::Verify { session, number, chunk });
        self.emit(Output::Digest { io, blocks });
    }

    pub(super) fn verify_digested(
        &mut self,
        (session, number, chunk): (Session, u64, usize),
        result: Result<Box<[[u8; 32]]>, DiskError>,
    ) {
        let Some(verify) = &self.verify else { return };
        let peer = verify.peer;
        if self.peers[peer].session != Some(session) || verify.number != number {
            return;
        }
        let id = number << CHUNK_BITS | chunk as u64;
        let Some(found) = verify.chunks.get(chunk) else {
            return;
        };
        let blocks = found.blocks;
        match result {
            Ok(digests) => self.send(peer, Frame::VerifyAsk { id, blocks, digests }),
            Err(_) => self.fail_disk(DiskLoss::ReadForVerify),
        }
    }

    pub(super) fn on_verify_answer(
        &mut self,
        peer: usize,
        (id, blocks): (u64, Blocks),
        differing: Option<&[u64]>,
    ) {
        let Some(verify) = &mut self.verify else {
            return;
        };
        if id >> CHUNK_BITS != verify.number {
            return; // Of one that was given up.
        }
        let key = usize::try_from(id & ((1 << CHUNK_BITS) - 1)).expect("16 bits");
        if verify.peer != peer || verify.chunks.get(key).is_none_or(|c| c.blocks != blocks) {
            return self.violation(peer, "the result of a comparison nobody asked for");
        }
        let Some(words) = differing else {
            return self.drop_verify(peer, "the peer could not compare");
        };
        verify.chunks.remove(key);
        verify.done_blocks += blocks.count;
        let found = self.mark_differing(peer, blocks, words);
        if let Some(verify) = &mut self.verify {
            verify.differing_blocks += found;
        }
        self.unlock(Owner::Verify { chunk: key });
        self.feed_verify();
    }

    /// Marks what differs; returns how many blocks that are.
    fn mark_differing(&mut self, peer: usize, blocks: Blocks, words: &[u64]) -> u64 {
        let mut found = 0;
        for offset in 0..blocks.count {
            let word = usize::try_from(offset / 64).ok().and_then(|index| words.get(index));
            if word.is_some_and(|word| word >> (offset % 64) & 1 == 1) {
                self.mark(peer, Blocks::new(blocks.start + offset, 1));
                found += 1;
            }
        }
        if found > 0 {
            // Nothing else would tell after a crash, and a verify may run for hours.
            self.save_pages(PagesJob::Lazy);
        }
        found
    }

    fn end_verify(&mut self) {
        let Some(verify) = &self.verify else { return };
        let (peer, differing) = (verify.peer, verify.differing_blocks);
        let repair = verify.repair && differing > 0;
        let found = format!("{differing} blocks differ");
        self.last_verify = (verify.done_blocks, differing);
        self.verify = None;
        self.note("verify", "running", "done", &found);
        self.save_pages(PagesJob::All(AfterPages::Nothing));
        if repair {
            self.renegotiate(peer);
        }
    }

    pub(super) fn drop_verify(&mut self, peer: usize, cause: &str) {
        if self.verify.as_ref().is_some_and(|verify| verify.peer == peer)
            && let Some(verify) = self.verify.take()
        {
            self.last_verify = (verify.done_blocks, verify.differing_blocks);
            self.note("verify", "running", "off", &format!("{cause}; start it again"));
            for (chunk, _) in &verify.chunks {
                self.unlock(Owner::Verify { chunk });
            }
        }
        let compares = std::mem::take(&mut self.compares);
        let (gone, kept) = compares.into_iter().partition(|compare| compare.peer == peer);
        self.compares = kept;
        for compare in gone {
            if compare.locked {
                self.unlock(Owner::Compare { peer, id: compare.id });
            }
            let Compare { id, blocks, .. } = compare;
            self.send(peer, Frame::VerifyAnswer { id, blocks, differing: None });
        }
    }

    pub(super) fn on_verify_ask(
        &mut self,
        peer: usize,
        (id, blocks): (u64, Blocks),
        digests: Box<[[u8; 32]]>,
    ) {
        let asked = self.compares.iter().filter(|c| c.peer == peer);
        if asked.clone().count() > 2 * VERIFY_PIECES || asked.clone().any(|c| c.id == id) {
            return self.violation(peer, "more comparisons than a verify asks for");
        }
        let fits = blocks.end() <= self.device_blocks && digests.len() as u64 == blocks.count;
        if !fits || self.peers[peer].phase != Phase::Established || !self.has_open_disk() {
            return self.send(peer, Frame::VerifyAnswer { id, blocks, differing: None });
        }
        let session = self.peers[peer].session_id();
        let compare = Compare { peer, session, id, blocks, digests, locked: false };
        self.compares.push(compare);
        self.start_compares(peer);
    }

    /// Starts the comparisons that no write of the peer, received before, is in the way of.
    pub(super) fn start_compares(&mut self, peer: usize) {
        let ready: Vec<(u64, Blocks)> = self
            .compares
            .iter()
            .filter(|c| c.peer == peer && !c.locked && !self.is_gated(peer, c.blocks))
            .map(|c| (c.id, c.blocks))
            .collect();
        for (id, blocks) in ready {
            if let Some(compare) = self.compares.iter_mut().find(|c| c.peer == peer && c.id == id) {
                compare.locked = true;
            }
            if self.locks.acquire(Owner::Compare { peer, id }, blocks, Mode::Exclusive) {
                self.compare_locked(peer, id);
            }
        }
    }

    pub(super) fn compare_locked(&mut self, peer: usize, id: u64) {
        let found = self.compares.iter().find(|c| c.peer == peer && c.id == id);
        let Some(blocks) = found.map(|compare| compare.blocks) else {
            return;
        };
        let session = self.peers[peer].session_id();
        let io = self.start_io(IoPurpose::Compare { peer, session, id });
        self.emit(Output::Digest { io, blocks });
    }

    pub(super) fn compare_digested(
        &mut self,
        (peer, session, id): (usize, Session, u64),
        result: Result<Box<[[u8; 32]]>, DiskError>,
    ) {
        let place =
            self.compares.iter().position(|c| c.peer == peer && c.id == id && c.session == session);
        let Some(place) = place else { return };
        let compare = self.compares.remove(place);
        self.unlock(Owner::Compare { peer, id });
        let blocks = compare.blocks;
        let differing = result.ok().map(|mine| {
            let mut words = vec![0u64; compare.digests.len().div_ceil(64)];
            let pairs = mine.iter().zip(&compare.digests).enumerate();
            for (offset, _) in pairs.filter(|(_, (mine, theirs))| mine != theirs) {
                words[offset / 64] |= 1 << (offset % 64);
            }
            words.into_boxed_slice()
        });
        match &differing {
            Some(words) => {
                self.mark_differing(peer, blocks, words);
            }
            None => self.fail_disk(DiskLoss::ReadForVerify),
        }
        self.send(peer, Frame::VerifyAnswer { id, blocks, differing });
    }
}
