//! Owns the daemon: it makes the shards, the doors and the admin surface, and ends them again.
//! Must never hold rules.

use super::directory::Directory;
use super::door::{Doors, bind_unix};
use super::local::{self, Known, Letter, Mailbox, Start, Thread};
use super::setup::{self, Life};
use super::site::ResourceIndex;
use crate::config::{Config, Engine, Node, Resource, Secret};
use crate::control::{BindError, Door, Facts, Gateway, Order, Server};
use crate::export::negotiate::{NegotiationLimits, Negotiations};
use crate::ring::{RingChoice, RingError};
use crate::units::{BootId, NodeId, RunId};
use nix::sys::resource::{Resource as Limit, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::interval;

/// How long a planned stop may take: draining, flushing, saving marks.
const STOP_TIME: Duration = Duration::from_secs(60);

/// How long a port may stay taken, and how often to look.
const PREDECESSOR_WAIT: Duration = Duration::from_secs(10);
const LISTEN_EVERY: Duration = Duration::from_millis(20);

/// What the daemon of a node is started with.
#[derive(Debug)]
pub struct ServeOptions {
    /// All that the file says.
    pub config: Config,
    /// The node this machine is.
    pub node: NodeId,
    /// The secret both nodes share.
    pub secret: Secret,
}

/// Why the daemon could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A resource has no replica on this node.
    #[error(
        "a resource of the configuration has no replica on this node; run `twinblk config check`"
    )]
    NotHere,
    /// An address cannot be listened on.
    #[error(
        "cannot listen on {address}: {source}; is it an address of this host, and is no other \
             daemon using the port?"
    )]
    Listen {
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// A shard has no ring.
    #[error("{0}")]
    Ring(#[from] RingError),
    /// The admin socket.
    #[error("{0}")]
    Admin(#[from] BindError),
    /// Anything else of the host.
    #[error("{what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Serves until told to stop by a signal.
///
/// # Errors
/// If it cannot start.
pub fn serve(options: &ServeOptions) -> Result<(), ServeError> {
    let host = |what| move |source| ServeError::Host { what, source };
    // What this process makes is its owner's alone, from the first moment on.
    umask(Mode::S_IRWXG | Mode::S_IRWXO);
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(host("cannot start the control plane"))?;
    runtime.block_on(run(options))
}

/// Clients, links and disks take descriptors; the soft limit is for programs that use select.
fn raise_descriptor_limit() {
    let raised = getrlimit(Limit::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Limit::RLIMIT_NOFILE, hard, hard));
    if let Err(number) = raised {
        tracing::warn!("the limit of open files stays low: {}", number.desc());
    }
}

/// The shards and the ways to them.
struct Shards {
    mailboxes: Vec<Mailbox>,
    threads: Vec<Thread>,
}

async fn run(options: &ServeOptions) -> Result<(), ServeError> {
    let node = options.config.node(options.node).ok_or(ServeError::NotHere)?;
    let life = life()?;
    let directory = Arc::new(Directory::default());
    let assigned = setup::shards(options);
    // First, since another daemon that lives is found by it at once.
    let server = Server::bind(&node.admin_socket)?;
    let listeners = listen(node).await?;
    let (gateway, orders) = gateway(options, node, &assigned);
    let (gateway, wakes) = gateway;
    let shards =
        start_shards(options, &life, listeners, (&assigned, orders, &directory, &gateway))?;
    for (wake, mailbox) in wakes.iter().zip(&shards.mailboxes) {
        let _ = wake.set(mailbox.clone());
    }
    open_doors(options, node, &directory).await?;
    let (stop, stopping) = watch::channel(false);
    let admin = tokio::spawn(server.run(gateway, stopping));
    tracing::info!(node = %node.name, resources = assigned.iter().map(Vec::len).sum::<usize>(), "ready");
    wait_for_signal().await?;
    tracing::info!(node = %node.name, "stopping");
    stop_shards(shards).await;
    close_doors(options, node);
    let _ = stop.send(true);
    let _ = tokio::time::timeout(Duration::from_secs(1), admin).await;
    Ok(())
}

/// Where each shard's waker will be, for orders that come before it runs.
type Wakes = Vec<Arc<OnceLock<Mailbox>>>;

fn gateway(
    options: &ServeOptions,
    node: &Node,
    assigned: &[Vec<&Resource>],
) -> ((Arc<Gateway>, Wakes), Vec<mpsc::Receiver<Order>>) {
    let mut doors = Vec::new();
    let mut wakes = Wakes::new();
    let mut orders = Vec::new();
    for resources in assigned {
        let mailbox: Arc<OnceLock<Mailbox>> = Arc::default();
        let wake = mailbox.clone();
        let (door, receiver) = Door::new(Arc::new(move || {
            if let Some(mailbox) = wake.get() {
                mailbox.wake();
            }
        }));
        orders.push(receiver);
        wakes.push(mailbox);
        for resource in resources {
            if let Some(replica) = resource.mine(options.node) {
                let metadata = match &replica.metadata {
                    crate::config::Metadata::Internal => None,
                    crate::config::Metadata::At(path) => Some(path.clone()),
                };
                let facts = Facts {
                    protocol: resource.protocol,
                    disk: replica.disk.clone(),
                    metadata,
                    nbd_socket: node.nbd_socket(&resource.name),
                };
                doors.push((resource.name.as_str().to_owned(), facts, door.clone()));
            }
        }
    }
    let names = options.config.nodes.iter().map(|node| (node.id, node.name.as_str().to_owned()));
    let names: BTreeMap<NodeId, String> = names.collect();
    let gateway = Gateway::new(options.node, names, doors);
    ((Arc::new(gateway), wakes), orders)
}

/// What the shards share.
type Shared<'a> =
    (&'a [Vec<&'a Resource>], Vec<mpsc::Receiver<Order>>, &'a Arc<Directory>, &'a Gateway);

fn start_shards(
    options: &ServeOptions,
    life: &Life,
    listeners: Vec<TcpListener>,
    (assigned, orders, directory, gateway): Shared<'_>,
) -> Result<Shards, ServeError> {
    let mut shards = Shards { mailboxes: Vec::new(), threads: Vec::new() };
    let mut listeners = Some(listeners);
    for (number, (resources, orders)) in assigned.iter().zip(orders).enumerate() {
        let setups =
            resources.iter().map(|resource| setup::resource(options, resource, resources, life));
        let mut known = Vec::new();
        for (index, resource) in (0u16..).zip(resources) {
            let replica = resource.mine(options.node).ok_or(ServeError::NotHere)?.clone();
            let name = resource.name.as_str().to_owned();
            directory.add(&name, ResourceIndex(index), texts(options, resource));
            known.push(Known { name, resource: Arc::new((*resource).clone()), replica });
        }
        let start = Start {
            choice: choice(options.config.tuning.engine),
            poll: setup::poll(options.config.tuning.poll_us),
            budgets: setup::budgets(&options.config),
            listeners: listeners.take().unwrap_or_default(),
            setups: setups.collect::<Result<_, _>>()?,
            known,
            orders,
            announcer: gateway.announcer(),
            directory: directory.clone(),
        };
        let (mailbox, thread) = local::start(number, start)?;
        resources.iter().for_each(|resource| directory.settle(resource.name.as_str(), &mailbox));
        shards.mailboxes.push(mailbox);
        shards.threads.push(thread);
    }
    Ok(shards)
}

/// What clients are told about a resource, and whom to ask where it is not served.
fn texts(options: &ServeOptions, resource: &Resource) -> [String; 2] {
    let name = resource.name.as_str();
    let peer = resource.theirs(options.node).and_then(|replica| options.config.node(replica.node));
    let elsewhere = peer.map_or_else(String::new, |peer| {
        let addresses: Vec<String> = peer.nbd_listen.iter().map(SocketAddr::to_string).collect();
        format!("{name} is not primary here; ask {} at {}", peer.name, addresses.join(" or "))
    });
    [format!("{name}, mirrored by twinblk"), elsewhere]
}

const fn choice(engine: Engine) -> RingChoice {
    match engine {
        Engine::Auto => RingChoice::Auto,
        Engine::Uring => RingChoice::Uring,
        Engine::Portable => RingChoice::Portable,
    }
}

/// Listens for other nodes. The ring of a predecessor that was killed lets go of its sockets a
/// moment after the process is gone.
async fn listen(node: &Node) -> Result<Vec<TcpListener>, ServeError> {
    let deadline = Instant::now() + PREDECESSOR_WAIT;
    let mut ticks = interval(LISTEN_EVERY);
    let mut listeners = Vec::new();
    for address in setup::listening(node) {
        let listener = loop {
            ticks.tick().await;
            let bound = TcpListener::bind(address);
            let in_use = bound.as_ref().is_err_and(|it| it.kind() == io::ErrorKind::AddrInUse);
            if !in_use || Instant::now() >= deadline {
                break bound;
            }
        };
        let address = address.to_string();
        listeners.push(listener.map_err(|source| ServeError::Listen { address, source })?);
    }
    Ok(listeners)
}

async fn open_doors(
    options: &ServeOptions,
    node: &Node,
    directory: &Arc<Directory>,
) -> Result<(), ServeError> {
    let negotiations = Arc::new(Negotiations::new(NegotiationLimits::default()));
    let doors = Doors { directory: directory.clone(), negotiations };
    for address in &node.nbd_listen {
        let listener = tokio::net::TcpListener::bind(address).await;
        let listener = listener
            .map_err(|source| ServeError::Listen { address: address.to_string(), source })?;
        tokio::spawn(doors.clone().tcp(listener));
    }
    for resource in options.config.resources_on(options.node) {
        let path: PathBuf = node.nbd_socket(&resource.name);
        let listener = bind_unix(&path)
            .map_err(|source| ServeError::Listen { address: path.display().to_string(), source })?;
        tokio::spawn(doors.clone().unix(listener, resource.name.as_str().to_owned()));
    }
    Ok(())
}

/// Takes the unix sockets away: one that is gone says "nobody serves" at once. The admin socket still
/// stands, so none of these is a successor's.
fn close_doors(options: &ServeOptions, node: &Node) {
    for resource in options.config.resources_on(options.node) {
        let _ = std::fs::remove_file(node.nbd_socket(&resource.name));
    }
}

async fn wait_for_signal() -> Result<(), ServeError> {
    let host = |source| ServeError::Host { what: "cannot wait for signals", source };
    let mut terminate = signal(SignalKind::terminate()).map_err(host)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(host)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Ends all resources as planned, so that nothing is left to resync.
async fn stop_shards(shards: Shards) {
    let mut waiting = Vec::new();
    for mailbox in &shards.mailboxes {
        let (done, ended) = oneshot::channel();
        mailbox.post(Letter::Stop { done });
        waiting.push(ended);
    }
    let all = async {
        for ended in waiting {
            let _ = ended.await;
        }
    };
    if tokio::time::timeout(STOP_TIME, all).await.is_err() {
        tracing::warn!("not everything could be ended in time; the rest is as after a crash");
        return;
    }
    for thread in shards.threads {
        let _ = thread.join();
    }
}

fn life() -> Result<Life, ServeError> {
    let host = |what| move |source| ServeError::Host { what, source };
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_err(host("cannot read the boot id of this host"))?;
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let boot = u128::from_str_radix(&digits, 16).unwrap_or(1);
    let mut random = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut random))
        .map_err(host("cannot read random numbers"))?;
    let half = |bytes: &[u8]| bytes.iter().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte));
    let (run, seed) = random.split_at(8);
    Ok(Life { boot: BootId(boot), run: RunId(half(run)), seed: half(seed) })
}
