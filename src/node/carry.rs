//! Owns one resource on its shard: the core and the parts that act for it, and the carrying out of
//! what the core decides.
//! Must never decide anything itself.

use super::site::{ResourceIndex, Site};
use crate::buffer::{PayloadRef, Pool, Span};
use crate::export::{Export, ExportOptions};
use crate::format::superblock::is_id_of;
use crate::link::{Link, LinkOptions, Outgoing};
use crate::replica::Replica;
use crate::replica::event::{DiskError, Input, Output, PageId, Part, Persist, PersistId};
use crate::replica::options::Options;
use crate::ring::{Completion, Lane, Ring};
use crate::store::{Disk, Expected, Files, Opened, Opening, Refused};
use crate::units::{BLOCK_BYTES, BootId, Nanos, ResourceId};

/// Parts of a resource, as the upper byte of their tokens says.
pub(super) const DISK: u8 = 1;
pub(super) const LINK: u8 = 2;
pub(super) const EXPORT: u8 = 3;
pub(super) const DOORMAN: u8 = 4;

/// Where the requests of a resource come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// NBD sessions.
    Nbd,
    /// The surroundings, which put them in themselves: another kind of front end, or a simulator.
    Site,
}

/// What a resource is made from.
#[derive(Clone, Debug)]
pub struct Setup {
    /// For the core.
    pub options: Options,
    /// Who asks.
    pub front: Front,
    /// One per peer, in slot order.
    pub links: Vec<LinkOptions>,
    /// Where the metadata lies, for messages.
    pub metadata_path: String,
    /// The boot the host is in.
    pub boot: BootId,
    /// What the export tells about itself.
    pub description: String,
}

/// The local disk on its way.
enum LocalDisk {
    Absent,
    Opening(Files, Box<Opening>),
    Open(Files, Box<Disk>),
    /// Let go of; operations still end.
    Closing(Files, Box<Disk>),
}

/// One resource.
pub(super) struct Resource {
    index: ResourceIndex,
    setup: Setup,
    replica: Replica,
    disk: LocalDisk,
    pub(super) links: Vec<Link>,
    export: Option<Export>,
    inputs: Vec<Input>,
}

/// What every step brings along.
pub(super) struct Around<'a, R, S> {
    pub(super) ring: &'a mut R,
    pub(super) pool: &'a mut Pool,
    pub(super) site: &'a mut S,
}

impl Resource {
    pub(super) fn new(index: ResourceIndex, setup: Setup) -> Self {
        let link = |(peer, options): (u16, &LinkOptions)| {
            Link::new(Lane::new(LINK, index.0 << 2 | peer), options.clone())
        };
        let links = (0..).zip(&setup.links).map(link).collect();
        let replica = Replica::new(setup.options.clone());
        Self {
            index,
            replica,
            disk: LocalDisk::Absent,
            links,
            export: None,
            inputs: Vec::new(),
            setup,
        }
    }

    pub(super) fn resource_name(&self) -> &str {
        &self.setup.options.resource
    }

    pub(super) const fn replica(&self) -> &Replica {
        &self.replica
    }

    pub(super) const fn export(&mut self) -> Option<&mut Export> {
        self.export.as_mut()
    }

    /// Hands an input to the core; its outputs wait for [`carry_out`](Self::carry_out).
    pub(super) fn take(&mut self, now: Nanos, input: Input) {
        self.replica.handle(now, input);
    }

    /// An operation of one of the resource's parts ended.
    pub(super) fn on_completion<R: Ring, S: Site<R>>(
        &mut self,
        around: &mut Around<'_, R, S>,
        completion: Completion,
    ) {
        let (part, owner, _) = completion.token.split();
        let (ring, pool) = (&mut *around.ring, &mut *around.pool);
        match part {
            LINK => {
                if let Some(link) = self.links.get_mut(usize::from(owner & 3)) {
                    link.on_completion(ring, pool, completion, &mut self.inputs);
                }
            }
            EXPORT => {
                if let Some(export) = &mut self.export {
                    export.on_completion(ring, pool, completion, &mut self.inputs);
                }
            }
            _ => self.on_disk_completion(around, &completion),
        }
        self.feed(around.ring.now());
    }

    fn on_disk_completion<R: Ring, S: Site<R>>(
        &mut self,
        around: &mut Around<'_, R, S>,
        completion: &Completion,
    ) {
        let (ring, pool) = (&mut *around.ring, &mut *around.pool);
        match &mut self.disk {
            LocalDisk::Open(_, disk) | LocalDisk::Closing(_, disk) => {
                disk.on_completion(ring, pool, completion, &mut self.inputs);
            }
            LocalDisk::Opening(_, opening) => {
                if let Some(result) = opening.on_completion(ring, pool, completion) {
                    self.opened(around, result);
                }
            }
            LocalDisk::Absent => {}
        }
    }

    /// The metadata was read, or cannot be used.
    fn opened<R: Ring, S: Site<R>>(
        &mut self,
        around: &mut Around<'_, R, S>,
        result: Result<Opened, Refused>,
    ) {
        let LocalDisk::Opening(files, _) = std::mem::replace(&mut self.disk, LocalDisk::Absent)
        else {
            return;
        };
        let result = result.map_err(|refused| refused.why).and_then(|opened| {
            self.check_owner(opened.image.superblock.resource)?;
            let blocks = opened.image.superblock.geometry.device_blocks;
            self.check_size(blocks * BLOCK_BYTES).map(|()| opened)
        });
        let result = match result {
            Ok(opened) => {
                for note in &opened.notes {
                    tracing::warn!(resource = self.resource_name(), "{note}");
                }
                self.disk = LocalDisk::Open(files, Box::new(opened.disk));
                Ok(opened.image)
            }
            Err(why) => {
                around.site.close_disk(around.ring, self.index, files);
                Err(why)
            }
        };
        self.inputs.push(Input::DiskOpened { result });
    }

    /// The disk of another resource, by an exchanged path, would be served as this one's.
    fn check_owner(&self, found: ResourceId) -> Result<(), String> {
        let name = self.resource_name();
        if self.setup.front == Front::Site || is_id_of(found, name) {
            return Ok(());
        }
        Err(format!(
            "the metadata in {} belongs to another resource than {name}: correct the path in the \
             configuration; or, if nothing on that disk is needed any more, stop the daemon and \
             run `twinblk create {name} --force`",
            self.setup.metadata_path
        ))
    }

    /// Clients have been told a size: it stays.
    fn check_size(&mut self, device_bytes: u64) -> Result<(), String> {
        if self.setup.front == Front::Site {
            return Ok(());
        }
        let Some(export) = &self.export else {
            let options = ExportOptions {
                name: self.resource_name().to_owned(),
                description: self.setup.description.clone(),
                device_bytes,
            };
            self.export = Some(Export::new(Lane::new(EXPORT, self.index.0), options));
            return Ok(());
        };
        let known = export.options().device_bytes;
        if known == device_bytes {
            return Ok(());
        }
        Err(format!(
            "the disk of {} is laid out for {device_bytes} bytes, and clients were told {known}; \
             restart the daemon to change the size",
            self.resource_name()
        ))
    }

    /// Begins to read the metadata of a disk that was opened, or reports why there is none.
    pub(super) fn disk_files<R: Ring, S: Site<R>>(
        &mut self,
        around: &mut Around<'_, R, S>,
        result: Result<Files, String>,
    ) {
        match result {
            Ok(files) => {
                let expected = Expected {
                    name: Some(self.resource_name().to_owned()),
                    metadata_path: self.setup.metadata_path.clone(),
                    node: Some(self.setup.options.node),
                    resource: None,
                    boot: self.setup.boot,
                    run: self.setup.options.run,
                };
                let lane = Lane::new(DISK, self.index.0);
                let opening = Opening::begin(around.ring, around.pool, lane, files, expected);
                self.disk = LocalDisk::Opening(files, Box::new(opening));
            }
            Err(why) => {
                let now = around.ring.now();
                self.take(now, Input::DiskOpened { result: Err(why) });
            }
        }
    }

    /// Everything that goes on without a completion: time limits, memory that came free, work cut
    /// into turns. `budget_bytes` bounds what is looked through in this turn.
    pub(super) fn go_on<R: Ring, S: Site<R>>(
        &mut self,
        around: &mut Around<'_, R, S>,
        budget_bytes: &mut usize,
    ) {
        let (ring, pool) = (&mut *around.ring, &mut *around.pool);
        let now = ring.now();
        for link in &mut self.links {
            link.resume(ring, pool, &mut self.inputs);
            if link.deadline(pool) <= now {
                link.on_time(ring, pool, &mut self.inputs);
            }
        }
        if let LocalDisk::Open(_, disk) | LocalDisk::Closing(_, disk) = &mut self.disk {
            disk.resume(ring, pool, budget_bytes, &mut self.inputs);
            if let Some(failure) = disk.take_failure() {
                tracing::error!(resource = self.resource_name(), "{failure}");
            }
        }
        if let Some(export) = &mut self.export
            && export.deadline(pool) <= now
        {
            export.on_time(ring, pool);
        }
        if self.replica.deadline() <= now {
            self.inputs.push(Input::Timeout);
        }
        self.feed(now);
        self.carry_out(around);
        while let Some(export) = &mut self.export
            && export.resume(around.ring, around.pool, &mut self.inputs)
        {
            self.feed(around.ring.now());
            self.carry_out(around);
        }
        self.feed(around.ring.now());
        self.carry_out(around);
        self.finish_closing(around);
    }

    /// What is queued leaves.
    pub(super) fn flush<R: Ring>(&mut self, ring: &mut R, pool: &mut Pool) {
        self.links.iter_mut().for_each(|link| link.flush(ring, pool));
        if let Some(export) = &mut self.export {
            export.flush(ring, pool);
        }
    }

    /// When the resource next has something to do by itself.
    pub(super) fn deadline(&self, pool: &Pool) -> Nanos {
        let busy = match &self.disk {
            LocalDisk::Open(_, disk) | LocalDisk::Closing(_, disk) => disk.has_work(pool),
            _ => false,
        };
        if busy {
            return Nanos(0);
        }
        let links = self.links.iter().map(|link| link.deadline(pool));
        let export = self.export.iter().map(|export| export.deadline(pool));
        links.chain(export).fold(self.replica.deadline(), Nanos::min)
    }

    /// Whether the disk is closed and no session stands.
    pub(super) fn is_quiet(&self) -> bool {
        let closed = matches!(self.disk, LocalDisk::Absent);
        closed && self.links.iter().all(Link::is_down)
    }

    fn feed(&mut self, now: Nanos) {
        for input in self.inputs.drain(..) {
            self.replica.handle(now, input);
        }
    }

    fn finish_closing<R: Ring, S: Site<R>>(&mut self, around: &mut Around<'_, R, S>) {
        let idle = matches!(&self.disk, LocalDisk::Closing(_, disk) if disk.is_idle());
        if !idle {
            return;
        }
        if let LocalDisk::Closing(files, _) = std::mem::replace(&mut self.disk, LocalDisk::Absent) {
            around.site.close_disk(around.ring, self.index, files);
        }
        self.replica.handle(around.ring.now(), Input::DiskClosed);
        self.carry_out(around);
    }

    /// Carries out what the core decided, in order.
    pub(super) fn carry_out<R: Ring, S: Site<R>>(&mut self, around: &mut Around<'_, R, S>) {
        while let Some(output) = self.replica.poll_output() {
            match output {
                Output::Load { .. }
                | Output::Fetch { .. }
                | Output::Digest { .. }
                | Output::Store { .. }
                | Output::Zero { .. }
                | Output::Sync { .. } => self.ask_disk(around, output),
                Output::Persist { id, what } => self.persist(around, id, &what),
                Output::Send { peer, session, frame, part } => {
                    let epoch = self.replica.epoch();
                    let outgoing = Outgoing { session, epoch, frame: &frame, part };
                    let link = &mut self.links[usize::from(peer.0)];
                    link.send(around.ring.now(), around.pool, outgoing);
                }
                Output::Disconnect { peer, session, why } => {
                    let link = &mut self.links[usize::from(peer.0)];
                    link.disconnect(around.ring.now(), session, why);
                }
                Output::Dial { peer, wanted } => {
                    self.links[usize::from(peer.0)].dial(around.ring, around.pool, wanted);
                }
                Output::Reply { id, reply } => match &mut self.export {
                    Some(export) => export.reply(around.ring, around.pool, id, reply),
                    None => around.site.reply(around.pool, self.index, id, reply),
                },
                Output::Serve { open } => self.serve(around, open),
                Output::OpenDisk { fresh, device_blocks } => {
                    let fresh = fresh.then_some(device_blocks);
                    around.site.open_disk(self.index, fresh);
                }
                Output::CloseDisk => self.close_disk(),
                Output::ScanEmpty => {
                    let blocks = self.replica.status().device_blocks;
                    around.site.scan_empty(self.index, blocks);
                }
                Output::Answer { id, result } => around.site.answer(self.index, id, *result),
                Output::Change(change) => around.site.change(self.index, *change),
                other => in_memory(around.pool, other),
            }
        }
    }

    fn ask_disk<R: Ring, S: Site<R>>(&mut self, around: &mut Around<'_, R, S>, output: Output) {
        match &mut self.disk {
            LocalDisk::Open(_, disk) | LocalDisk::Closing(_, disk) => {
                let _ = disk.carry_out(around.ring, around.pool, output);
            }
            _ => self.inputs.extend(failed(&output)),
        }
    }

    fn persist<R: Ring, S: Site<R>>(
        &mut self,
        around: &mut Around<'_, R, S>,
        id: PersistId,
        what: &Persist,
    ) {
        let (ring, pool) = (&mut *around.ring, &mut *around.pool);
        let LocalDisk::Open(_, disk) = &mut self.disk else {
            self.inputs.push(Input::Persisted { id, result: Err(DiskError::Io) });
            return;
        };
        let replica = &self.replica;
        match what {
            Persist::Superblock => disk.persist_superblock(ring, pool, id, replica.superblock()),
            Persist::Pages(pages) => {
                let words = |page: &PageId| (*page, replica.bitmap_page(*page));
                disk.persist_pages(ring, pool, id, pages.iter().map(words));
            }
            Persist::Log => disk.persist_log(ring, pool, id, replica.log_transaction()),
        }
    }

    fn serve<R: Ring, S: Site<R>>(&mut self, around: &mut Around<'_, R, S>, open: bool) {
        if let Some(export) = &mut self.export {
            export.serve(around.ring, around.pool, open);
        }
        let bytes = open.then_some(self.replica.status().device_blocks * BLOCK_BYTES);
        around.site.serving(self.index, bytes);
    }

    fn close_disk(&mut self) {
        self.disk = match std::mem::replace(&mut self.disk, LocalDisk::Absent) {
            LocalDisk::Open(files, disk) => LocalDisk::Closing(files, disk),
            other => other,
        };
    }
}

/// What ends an operation that no disk can carry out.
fn failed(output: &Output) -> Option<Input> {
    let result = Err(DiskError::Io);
    Some(match output {
        Output::Load { io, .. }
        | Output::Store { io, .. }
        | Output::Zero { io, .. }
        | Output::Sync { io } => Input::Done { io: *io, result },
        Output::Fetch { io, .. } => Input::Fetched { io: *io, result: Err(DiskError::Io) },
        Output::Digest { io, .. } => Input::Digested { io: *io, result: Err(DiskError::Io) },
        _ => return None,
    })
}

/// Effects on memory alone.
fn in_memory(pool: &mut Pool, output: Output) {
    let span = |slot: PayloadRef, offset: u64, length: u64| Span {
        slot,
        offset: u32::try_from(offset).expect("within a slot"),
        length: u32::try_from(length).expect("within a slot"),
    };
    let at = |part: Part, blocks: u16| {
        span(part.payload, u64::from(part.first) * BLOCK_BYTES, u64::from(blocks) * BLOCK_BYTES)
    };
    match output {
        Output::MergeHead { edge, into, bytes } => {
            let bytes = u64::from(bytes);
            pool.copy(span(edge.share(), 0, bytes), span(into, 0, bytes));
            pool.release(edge);
        }
        Output::MergeTail { edge, into, block, bytes } => {
            let bytes = u64::from(bytes);
            let start = BLOCK_BYTES - bytes;
            let target = u64::from(block) * BLOCK_BYTES + start;
            pool.copy(span(edge.share(), start, bytes), span(into, target, bytes));
            pool.release(edge);
        }
        Output::ClearKept { into, offset, bytes } => {
            pool.keep(into);
            pool.bytes_mut(Span { slot: into, offset, length: bytes }).fill(0);
        }
        Output::Copy { from, into, blocks } => {
            let source = Part { payload: from.share(), first: 0 };
            pool.copy(at(source, blocks), at(into, blocks));
            pool.release(from);
        }
        Output::Release(payload) => pool.release(payload),
        other => debug_assert!(false, "{other:?} is not an effect on memory"),
    }
}
