//! Owns a shard's surroundings in production: its thread, its letter box, and the way to operators,
//! disks and the directory of exports.
//! Must never wait but for the ring.

use super::carry::Setup;
use super::directory::Directory;
use super::errand::{self, OpenedDisk};
use super::shard::Shard;
use super::site::{ResourceIndex, Site};
use crate::buffer::{Budgets, Pool};
use crate::config::{Replica, Resource};
use crate::control::{Announcer, Order, OrderKind};
use crate::export::Newcomer;
use crate::format::hello::Hello;
use crate::link::doorman::Arrival;
use crate::replica::event::{Change, Command, CommandId, Refusal, Reply, RequestId};
use crate::ring::{FileEngine, RingChoice, RingError, SystemRing, Waker};
use crate::store::Files;
use crate::store::open::OpenedFile;
use crate::units::Nanos;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc;
use tokio::sync::oneshot;
use twinblk_nbd::Terms;

/// Something for a shard from another thread.
pub(super) enum Letter {
    /// A disk was opened, or could not be.
    Opened { resource: ResourceIndex, result: Result<OpenedDisk, String> },
    /// A device was looked through.
    Scanned { resource: ResourceIndex, empty: Option<bool> },
    /// An NBD client that has negotiated.
    Client { resource: ResourceIndex, socket: OwnedFd, terms: Terms, leftover: Vec<u8> },
    /// Another node's connection, greeted on another shard.
    Arrival { socket: OwnedFd, hello: Box<Hello>, bytes: Box<[u8]> },
    /// Stop all resources; answer when the last one has.
    Stop { done: oneshot::Sender<()> },
}

/// The way to a shard from any thread.
#[derive(Clone)]
pub(super) struct Mailbox {
    letters: mpsc::Sender<Letter>,
    waker: Waker,
}

impl Mailbox {
    /// Sends a letter; lost only if the shard is gone.
    pub(super) fn post(&self, letter: Letter) {
        if self.letters.send(letter).is_ok() {
            self.waker.wake();
        }
    }

    pub(super) fn wake(&self) {
        self.waker.wake();
    }
}

/// What a resource's surroundings know of it.
pub(super) struct Known {
    pub(super) name: String,
    pub(super) resource: Arc<Resource>,
    pub(super) replica: Replica,
}

/// What a shard's thread is started with.
pub(super) struct Start {
    pub(super) choice: RingChoice,
    /// How long its ring looks before it sleeps.
    pub(super) poll: Nanos,
    pub(super) budgets: Budgets,
    pub(super) listeners: Vec<TcpListener>,
    pub(super) setups: Vec<Setup>,
    pub(super) known: Vec<Known>,
    pub(super) orders: tokio::sync::mpsc::Receiver<Order>,
    pub(super) announcer: Announcer,
    pub(super) directory: Arc<Directory>,
}

/// The surroundings.
struct Local {
    known: Vec<Known>,
    mail: Mailbox,
    announcer: Announcer,
    directory: Arc<Directory>,
    next_command: u64,
    pending: BTreeMap<CommandId, oneshot::Sender<Result<String, Refusal>>>,
    stopping: BTreeMap<CommandId, ResourceIndex>,
    stopped: Option<oneshot::Sender<()>>,
}

impl Site<SystemRing> for Local {
    fn open_disk(&mut self, resource: ResourceIndex, fresh: Option<u64>) {
        let known = &self.known[usize::from(resource.0)];
        let (config, replica) = (known.resource.clone(), known.replica.clone());
        let mail = self.mail.clone();
        let run = move || {
            let result = errand::open_for_shard(&config, &replica, fresh);
            mail.post(Letter::Opened { resource, result });
        };
        if let Err(error) = std::thread::Builder::new().name("open-disk".to_owned()).spawn(run) {
            let result = Err(format!("the disk cannot be opened, for want of a thread: {error}"));
            self.mail.post(Letter::Opened { resource, result });
        }
    }

    fn close_disk(&mut self, ring: &mut SystemRing, _: ResourceIndex, files: Files) {
        // Dropping the descriptors gives up the locks.
        drop(ring.release_file(files.data));
        if !files.is_internal() {
            drop(ring.release_file(files.metadata));
        }
    }

    fn scan_empty(&mut self, resource: ResourceIndex, device_blocks: u64) {
        let replica = self.known[usize::from(resource.0)].replica.clone();
        let mail = self.mail.clone();
        let run = move || {
            let empty = errand::scan(&replica, device_blocks);
            mail.post(Letter::Scanned { resource, empty });
        };
        if let Err(error) = std::thread::Builder::new().name("scan-disk".to_owned()).spawn(run) {
            let name = &self.known[usize::from(resource.0)].name;
            tracing::warn!(resource = %name, "the disk cannot be looked through: {error}");
            self.mail.post(Letter::Scanned { resource, empty: None });
        }
    }

    fn answer(&mut self, _: ResourceIndex, id: CommandId, result: Result<String, Refusal>) {
        if let Some(reply) = self.pending.remove(&id) {
            // Whoever asked may have given up.
            let _ = reply.send(result);
        }
        self.stopping.remove(&id);
    }

    fn change(&mut self, resource: ResourceIndex, change: Change) {
        let name = &self.known[usize::from(resource.0)].name;
        let Change { what, old, new, cause } = &change;
        tracing::info!(resource = %name, what, old, new, cause);
        self.announcer.announce(name, &change);
    }

    fn serving(&mut self, resource: ResourceIndex, device_bytes: Option<u64>) {
        self.directory.set(&self.known[usize::from(resource.0)].name, device_bytes);
    }

    fn reply(&mut self, pool: &mut Pool, _: ResourceIndex, _: RequestId, reply: Reply) {
        // Only NBD sessions ask here, and each answers for itself.
        if let Reply::Data(pieces) = reply {
            pieces.each(|payload| pool.release(payload));
        }
    }

    fn elsewhere(&mut self, ring: &mut SystemRing, arrival: Arrival) -> Option<Arrival> {
        let Some(mail) = self.directory.shard_of(&arrival.hello.resource) else {
            return Some(arrival);
        };
        let Arrival { socket, hello, bytes } = arrival;
        match ring.release_socket(socket) {
            Some(socket) => mail.post(Letter::Arrival { socket, hello: Box::new(hello), bytes }),
            None => tracing::warn!("a connection for {} was lost on the way", hello.resource),
        }
        None
    }
}

impl Local {
    /// Reads the letters that have come.
    fn read(&mut self, shard: &mut Shard<SystemRing>, letters: &mpsc::Receiver<Letter>) {
        while let Ok(letter) = letters.try_recv() {
            match letter {
                Letter::Opened { resource, result } => {
                    let files = result.map(|disk| register(shard.ring(), disk));
                    shard.disk_opened(self, resource, files);
                }
                Letter::Scanned { resource, empty } => shard.scanned(resource, empty),
                Letter::Client { resource, socket, terms, leftover } => {
                    let socket = shard.ring().adopt_socket(socket);
                    let newcomer = Newcomer { socket, terms, leftover };
                    if let Err(why) = shard.client(resource, newcomer) {
                        let name = &self.known[usize::from(resource.0)].name;
                        tracing::info!(resource = %name, "a client was turned away: {why}");
                    }
                }
                Letter::Arrival { socket, hello, bytes } => {
                    let socket = shard.ring().adopt_socket(socket);
                    let arrival = Arrival { socket, hello: *hello, bytes };
                    if let Some(unknown) = shard.welcome(arrival) {
                        shard.refuse(&unknown);
                    }
                }
                Letter::Stop { done } => {
                    self.stopped = Some(done);
                    for index in (0u16..).take(self.known.len()).map(ResourceIndex) {
                        let id = self.next_id();
                        self.stopping.insert(id, index);
                        shard.command(index, id, Command::Stop);
                    }
                }
            }
        }
    }

    fn obey(
        &mut self,
        shard: &mut Shard<SystemRing>,
        orders: &mut tokio::sync::mpsc::Receiver<Order>,
    ) {
        while let Ok(order) = orders.try_recv() {
            if order.is_abandoned() {
                continue;
            }
            let Some(index) = shard.find(&order.resource) else { continue };
            match order.kind {
                OrderKind::Command { reply, .. } if self.stopped.is_some() => {
                    // What has ended must not begin again.
                    let text = format!("{}: the daemon stops", order.resource);
                    let _ = reply.send(Err(Refusal { reason: "stopping", text }));
                }
                OrderKind::Status { reply } => {
                    let _ = reply.send(Box::new(shard.status(index)));
                }
                OrderKind::Command { command, reply } => {
                    let id = self.next_id();
                    self.pending.insert(id, reply);
                    shard.command(index, id, command);
                }
            }
        }
    }

    const fn next_id(&mut self) -> CommandId {
        self.next_command += 1;
        CommandId(self.next_command)
    }
}

fn register(ring: &mut SystemRing, disk: OpenedDisk) -> Files {
    let OpenedDisk { data, metadata } = disk;
    let data_bytes = data.size_bytes;
    let data = register_file(ring, data);
    let (metadata, metadata_bytes) = match metadata {
        None => (data, data_bytes),
        Some(metadata) => {
            let bytes = metadata.size_bytes;
            (register_file(ring, metadata), bytes)
        }
    };
    Files { data, data_bytes, metadata, metadata_bytes }
}

fn register_file(ring: &mut SystemRing, file: OpenedFile) -> crate::ring::FileId {
    let engine = if file.on_tmpfs { FileEngine::Inline } else { FileEngine::Uring };
    ring.register_file(file.fd, engine)
}

/// Starts a shard's thread; returns the way to it once its ring stands.
pub(super) fn start(number: usize, start: Start) -> Result<(Mailbox, Thread), RingError> {
    let (letters, inbox) = mpsc::channel();
    let (report, born) = mpsc::channel();
    let builder = std::thread::Builder::new().name(format!("shard-{number}"));
    let thread = builder.spawn(move || {
        let mut ring = match SystemRing::new(start.choice) {
            Ok(ring) => ring,
            Err(error) => {
                let _ = report.send(Err(error));
                return;
            }
        };
        ring.poll_for(start.poll);
        let mail = Mailbox { letters, waker: ring.waker() };
        let _ = report.send(Ok(mail.clone()));
        run(ring, mail, start, &inbox);
    });
    let gone = || RingError::Refused("its thread could not be started".to_owned());
    let thread = thread.map_err(|_| gone())?;
    let mail = born.recv().map_err(|_| gone())??;
    Ok((mail, thread))
}

/// A shard's thread.
pub(super) type Thread = std::thread::JoinHandle<()>;

fn run(mut ring: SystemRing, mail: Mailbox, start: Start, letters: &mpsc::Receiver<Letter>) {
    let listeners = start.listeners.into_iter().map(|listener| ring.adopt_listener(listener));
    let listeners: Vec<_> = listeners.collect();
    let mut local = Local {
        known: start.known,
        mail,
        announcer: start.announcer,
        directory: start.directory,
        next_command: 0,
        pending: BTreeMap::new(),
        stopping: BTreeMap::new(),
        stopped: None,
    };
    let mut orders = start.orders;
    let mut shard = Shard::new(ring, start.budgets, &listeners, start.setups);
    loop {
        shard.turn(&mut local, Nanos::NEVER);
        local.read(&mut shard, letters);
        local.obey(&mut shard, &mut orders);
        if local.stopping.is_empty()
            && shard.is_quiet()
            && let Some(done) = local.stopped.take()
        {
            let _ = done.send(());
            return;
        }
    }
}
