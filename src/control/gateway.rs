//! Owns the way from the admin surface to the shards and back: orders in, answers and changes out.
//! Must never wait on a shard without a time limit, nor make a shard wait.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::timeout;

use super::body::{Event, EventBody, ResourceBody};
use crate::format::frame::Protocol;
use crate::replica::event::{Change, Command, Refusal, Status};
use crate::units::NodeId;

/// Changes kept for readers of `events` that are behind; one that falls further back is cut.
const CHANGES_KEPT: usize = 1024;

/// Longest wait for a status: a shard answers within a turn, so one that does not is stuck.
const STATUS_TIME: Duration = Duration::from_secs(5);

/// What the admin surface asks of one resource.
#[derive(Debug)]
pub struct Order {
    /// The resource: one that the shard was said to carry.
    pub resource: String,
    /// What.
    pub kind: OrderKind,
}

/// What is asked, and where the answer goes.
#[derive(Debug)]
pub enum OrderKind {
    /// Carry out a command.
    Command {
        /// Which.
        command: Command,
        /// Takes the core's `Answer`.
        reply: oneshot::Sender<Result<String, Refusal>>,
    },
    /// Tell the state.
    Status {
        /// Takes it.
        reply: oneshot::Sender<Box<Status>>,
    },
}

impl Order {
    /// Whether whoever asked has given up. A shard that finds such an order does not carry it out:
    /// a command must not act long after its sender was told that it failed.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        match &self.kind {
            OrderKind::Command { reply, .. } => reply.is_closed(),
            OrderKind::Status { reply } => reply.is_closed(),
        }
    }
}

/// Wakes a shard so that it looks at its orders.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// The way to one shard.
#[derive(Clone)]
pub struct Door {
    orders: mpsc::Sender<Order>,
    wake: Wake,
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Door")
    }
}

impl Door {
    /// Orders that may wait at a shard before the next is refused as busy.
    const ORDERS_MAX: usize = 256;

    /// A door and the shard's side of it. The shard takes orders with `try_recv` whenever `wake`
    /// was called, and never waits for them.
    #[must_use]
    pub fn new(wake: Wake) -> (Self, mpsc::Receiver<Order>) {
        let (orders, receiver) = mpsc::channel(Self::ORDERS_MAX);
        (Self { orders, wake }, receiver)
    }

    fn put(&self, resource: &str, kind: OrderKind) -> Result<(), ControlError> {
        let resource = resource.to_owned();
        self.orders.try_send(Order { resource, kind }).map_err(|full| match full {
            mpsc::error::TrySendError::Full(order) => ControlError::Busy(order.resource),
            mpsc::error::TrySendError::Closed(_) => ControlError::Stopping,
        })?;
        (self.wake)();
        Ok(())
    }
}

/// What the configuration says of a resource, for `status`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// How long a write waits for the peer.
    pub protocol: Protocol,
    /// The local disk.
    pub disk: PathBuf,
    /// Where its metadata is, if not at the end of the disk.
    pub metadata: Option<PathBuf>,
    /// Where local NBD clients find it.
    pub nbd_socket: PathBuf,
}

/// Why an order came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// Nobody here carries it.
    #[error("no resource {resource:?} on this node; it has: {known}")]
    NoSuchResource {
        /// What was asked for.
        resource: String,
        /// What there is.
        known: String,
    },
    /// A safety rule of the core.
    #[error("resource {resource}: {}", refusal.text)]
    Refused {
        /// The resource.
        resource: String,
        /// Which rule, and what to do.
        refusal: Refusal,
    },
    /// No answer in time; the command may yet take effect.
    #[error(
        "resource {resource}: no answer within {} s; the command may still take effect. \
         See `twinblk status {resource}`",
        after.as_secs_f32()
    )]
    TimedOut {
        /// The resource.
        resource: String,
        /// The limit.
        after: Duration,
    },
    /// Too many orders wait already.
    #[error("resource {0}: too many commands wait already; try again")]
    Busy(String),
    /// The daemon is on its way out.
    #[error("the daemon is stopping")]
    Stopping,
}

/// The admin surface's view of all shards of this node.
#[derive(Debug)]
pub struct Gateway {
    node: NodeId,
    nodes: BTreeMap<NodeId, String>,
    resources: BTreeMap<String, (Facts, Door)>,
    announcer: Announcer,
}

impl Gateway {
    /// A gateway on node `node` of `nodes`, to the resources given, each with the door of its
    /// shard.
    #[must_use]
    pub fn new(
        node: NodeId,
        nodes: BTreeMap<NodeId, String>,
        resources: impl IntoIterator<Item = (String, Facts, Door)>,
    ) -> Self {
        let keyed = resources.into_iter().map(|(name, facts, door)| (name, (facts, door)));
        let announcer = Announcer {
            changes: broadcast::channel(CHANGES_KEPT).0,
            number: Arc::new(AtomicU64::new(1)),
        };
        Self { node, nodes, resources: keyed.collect(), announcer }
    }

    /// What the shards announce changes with.
    #[must_use]
    pub fn announcer(&self) -> Announcer {
        self.announcer.clone()
    }

    /// Changes announced from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<EventBody>> {
        self.announcer.changes.subscribe()
    }

    /// The name of a node, or its number if the configuration has forgotten it.
    pub(super) fn node_name(&self, id: NodeId) -> String {
        self.nodes.get(&id).cloned().unwrap_or_else(|| format!("#{}", id.0))
    }

    /// The name of this node.
    pub(super) fn here(&self) -> String {
        self.node_name(self.node)
    }

    /// Carries out a command, waiting at most `limit` for its end.
    ///
    /// # Errors
    /// If the resource is unknown, the core refuses, or there is no answer in time.
    pub async fn command(
        &self,
        resource: &str,
        command: Command,
        limit: Duration,
    ) -> Result<String, ControlError> {
        let (_, door) = self.find(resource)?;
        let (reply, answer) = oneshot::channel();
        door.put(resource, OrderKind::Command { command, reply })?;
        let resource = resource.to_owned();
        match timeout(limit, answer).await {
            Ok(Ok(Ok(done))) => Ok(done),
            Ok(Ok(Err(refusal))) => Err(ControlError::Refused { resource, refusal }),
            Ok(Err(_)) => Err(ControlError::Stopping),
            Err(_) => Err(ControlError::TimedOut { resource, after: limit }),
        }
    }

    /// The state of one resource.
    ///
    /// # Errors
    /// If the resource is unknown or its shard does not answer.
    pub async fn status(&self, resource: &str) -> Result<ResourceBody, ControlError> {
        let (facts, door) = self.find(resource)?;
        let (reply, answer) = oneshot::channel();
        door.put(resource, OrderKind::Status { reply })?;
        match timeout(STATUS_TIME, answer).await {
            Ok(Ok(status)) => Ok(ResourceBody::new(self, resource, facts, &status)),
            Ok(Err(_)) => Err(ControlError::Stopping),
            Err(_) => {
                let resource = resource.to_owned();
                Err(ControlError::TimedOut { resource, after: STATUS_TIME })
            }
        }
    }

    /// The state of all resources, by name.
    ///
    /// # Errors
    /// If a shard does not answer.
    pub async fn status_of_all(&self) -> Result<Vec<ResourceBody>, ControlError> {
        let mut all = Vec::with_capacity(self.resources.len());
        for resource in self.resources.keys() {
            all.push(self.status(resource).await?);
        }
        Ok(all)
    }

    fn find(&self, resource: &str) -> Result<&(Facts, Door), ControlError> {
        self.resources.get(resource).ok_or_else(|| {
            let known: Vec<&str> = self.resources.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            ControlError::NoSuchResource { resource: resource.to_owned(), known }
        })
    }
}

/// What a shard announces the changes of its resources with. Never blocks: a slow reader loses.
#[derive(Clone, Debug)]
pub struct Announcer {
    changes: broadcast::Sender<Arc<EventBody>>,
    number: Arc<AtomicU64>,
}

impl Announcer {
    /// Tells all who follow `events`.
    pub fn announce(&self, resource: &str, change: &Change) {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let event = Event::Change {
            number,
            resource: resource.to_owned(),
            what: change.what.to_owned(),
            old: change.old.clone(),
            new: change.new.clone(),
            cause: change.cause.clone(),
        };
        // No reader is no fault.
        let _ = self.changes.send(Arc::new(EventBody::now(event)));
    }
}

/// The wall clock in milliseconds since 1970, for people to read: nothing is decided by it.
pub(super) fn wall_clock_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
