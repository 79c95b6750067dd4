//! Owns the JSON of the admin surface, as the daemon writes it and the command line reads it.
//! Must never lose a field within a schema version: readers depend on each.

use serde::{Deserialize, Serialize};

use super::gateway::{ControlError, Facts, Gateway, wall_clock_millis};
use super::names;
use crate::format::lineage::Generation;
use crate::replica::event::{PeerStatus, Status};
use crate::units::BLOCK_BYTES;

/// Version of all bodies: grows when a field changes its meaning or goes.
pub const SCHEMA_VERSION: u32 = 1;

/// `GET /v1/version`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionBody {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// `twinblk`.
    pub program: String,
    /// Version of the daemon.
    pub version: String,
    /// The node it runs as.
    pub node: String,
}

/// `GET /v1/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusBody {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// This node.
    pub node: String,
    /// The resources asked for, by name.
    pub resources: Vec<ResourceBody>,
}

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceBody {
    /// Its name.
    pub name: String,
    /// `Primary` or `Secondary`.
    pub role: String,
    /// State of the local disk.
    pub disk: String,
    /// Why there is no local disk, or nothing on it, and what to do; else empty.
    #[serde(default)]
    pub disk_reason: String,
    /// `init` is needed.
    pub just_created: bool,
    /// Epoch adopted.
    pub epoch: u64,
    /// Newest generation of the data, if any.
    pub generation: Option<GenerationBody>,
    /// Size of the device.
    pub device_bytes: u64,
    /// Why client I/O waits, and what to do; empty if it does not.
    pub suspended: String,
    /// Whether `promote` without force would succeed.
    pub may_promote: bool,
    /// Why it would not; empty if it would.
    pub promote_refusal: String,
    /// Client requests not yet answered.
    pub requests_in_flight: u64,
    /// Transactions of the activity log since the daemon started: many beside few writes mean that
    /// the log is too small for what is written.
    pub activity_log_writes: u64,
    /// Something is less than it should be: a copy is missing, old or behind, or I/O waits.
    pub degraded: bool,
    /// `A`, `B` or `C`.
    pub protocol: String,
    /// Path of the local disk.
    pub disk_path: String,
    /// Path of its metadata, or `internal`.
    pub metadata_path: String,
    /// Where local NBD clients find it.
    pub nbd_socket: String,
    /// The peers.
    pub peers: Vec<PeerBody>,
}

/// A generation of the data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationBody {
    /// Epoch in which it began.
    pub epoch: u64,
    /// Its id, as 16 hexadecimal digits: it does not fit a JSON number.
    pub id: String,
    /// The node that began it.
    pub node: String,
}

/// One peer of a resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerBody {
    /// Its name.
    pub node: String,
    /// `StandAlone`, `Connecting` or `Connected`.
    pub connection: String,
    /// Why it is StandAlone, and what to do; empty otherwise.
    pub connection_reason: String,
    /// What flows between the nodes.
    pub replication: String,
    /// Its role; null if not connected.
    pub role: Option<String>,
    /// The state of its disk; null if not connected.
    pub disk: Option<String>,
    /// What may differ, on record here.
    pub out_of_sync_bytes: u64,
    /// What the running resync began with.
    pub resync_total_bytes: u64,
    /// What it has done.
    pub resync_done_bytes: u64,
    /// How fast, over the last seconds.
    pub resync_bytes_per_second: u64,
    /// What the last finished resync copied.
    pub last_resync_bytes: u64,
    /// What the running or last verify has compared.
    pub verify_done_bytes: u64,
    /// What of it differed.
    pub verify_differing_bytes: u64,
    /// Writes the peer has acknowledged and not yet made stable.
    pub unstable_writes: u64,
}

/// Body of `POST /v1/resource/RESOURCE/COMMAND`; all optional, and none but those the command
/// takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parameters {
    /// `promote`: although newer data may exist elsewhere.
    #[serde(skip_serializing_if = "is_false")]
    pub force: bool,
    /// `connect`: this node's differing blocks are overwritten.
    #[serde(skip_serializing_if = "is_false")]
    pub discard_my_data: bool,
    /// `verify`: overwrite the peer's differing blocks.
    #[serde(skip_serializing_if = "is_false")]
    pub repair: bool,
    /// Longest wait for the end of the command, in milliseconds. Default 30 s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// What a command that succeeded came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DoneBody {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// The resource.
    pub resource: String,
    /// In words.
    pub result: String,
}

/// Any failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// What went wrong.
    pub error: Failure,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// `no_such_resource`, `refused`, `timed_out`, `busy`, `stopping`, `forbidden`, `bad_request`,
    /// `not_found`.
    pub kind: String,
    /// With `refused`: the stable name of the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// In words, with what to do next.
    pub message: String,
}

/// One line of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventBody {
    /// See [`SCHEMA_VERSION`].
    pub schema_version: u32,
    /// Milliseconds since 1970 when the daemon wrote it.
    pub time_ms: u64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

impl EventBody {
    /// An event of this moment.
    #[must_use]
    pub fn now(event: Event) -> Self {
        Self { schema_version: SCHEMA_VERSION, time_ms: wall_clock_millis(), event }
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// At the start of the stream, each resource as it is; then once with the resource `-` and no
    /// state: all that exists has been told.
    Exists {
        /// The resource, or `-`.
        resource: String,
        /// Its state.
        #[serde(skip_serializing_if = "Option::is_none")]
        status: Option<Box<ResourceBody>>,
    },
    /// A change. One that happened while the start of the stream was written may be in both.
    Change {
        /// Grows by one per change of this daemon.
        number: u64,
        /// The resource.
        resource: String,
        /// What changed, such as `role` or `disk`.
        what: String,
        /// Before.
        old: String,
        /// After.
        new: String,
        /// Why.
        cause: String,
    },
    /// The stream ends here although changes go on.
    Cut {
        /// Why.
        cause: String,
    },
}

const fn bytes(blocks: u64) -> u64 {
    blocks.saturating_mul(BLOCK_BYTES)
}

impl ResourceBody {
    pub(super) fn new(gateway: &Gateway, name: &str, facts: &Facts, status: &Status) -> Self {
        let generation = |it: Generation| GenerationBody {
            epoch: it.epoch.0,
            id: format!("{:016x}", it.id),
            node: gateway.node_name(it.node),
        };
        let peers: Vec<PeerBody> =
            status.peers.iter().map(|peer| PeerBody::new(gateway, peer)).collect();
        let disk = names::disk(status.disk);
        let whole = disk == "UpToDate" && status.suspended.is_empty() && !status.just_created;
        let metadata = facts.metadata.as_ref();
        Self {
            name: name.to_owned(),
            role: names::role(status.role).to_owned(),
            disk: disk.to_owned(),
            disk_reason: status.disk_reason.clone(),
            just_created: status.just_created,
            epoch: status.epoch.0,
            generation: status.generation.map(generation),
            device_bytes: bytes(status.device_blocks),
            suspended: status.suspended.clone(),
            may_promote: status.promote_refusal.is_empty(),
            promote_refusal: status.promote_refusal.clone(),
            requests_in_flight: status.requests_in_flight,
            activity_log_writes: status.log_writes,
            degraded: !whole || !peers.iter().all(PeerBody::is_whole),
            protocol: names::protocol(facts.protocol).to_owned(),
            disk_path: facts.disk.display().to_string(),
            metadata_path: metadata
                .map_or_else(|| "internal".to_owned(), |path| path.display().to_string()),
            nbd_socket: facts.nbd_socket.display().to_string(),
            peers,
        }
    }
}

impl PeerBody {
    fn new(gateway: &Gateway, peer: &PeerStatus) -> Self {
        Self {
            node: gateway.node_name(peer.node),
            connection: names::connection(peer.connection).to_owned(),
            connection_reason: peer.connection_reason.clone(),
            replication: names::replication(peer.replication).to_owned(),
            role: peer.role.map(|role| names::role(role).to_owned()),
            disk: peer.disk.map(|disk| names::disk(disk).to_owned()),
            out_of_sync_bytes: bytes(peer.out_of_sync_blocks),
            resync_total_bytes: bytes(peer.resync_total_blocks),
            resync_done_bytes: bytes(peer.resync_done_blocks),
            resync_bytes_per_second: bytes(peer.resync_blocks_per_second),
            last_resync_bytes: bytes(peer.last_resync_blocks),
            verify_done_bytes: bytes(peer.verify_done_blocks),
            verify_differing_bytes: bytes(peer.verify_differing_blocks),
            unstable_writes: peer.unstable_writes,
        }
    }

    /// Whether the peer has a good copy and every write reaches it.
    fn is_whole(&self) -> bool {
        let flows = ["Established", "VerifySource", "VerifyTarget"];
        self.disk.as_deref() == Some("UpToDate")
            && flows.contains(&self.replication.as_str())
            && self.out_of_sync_bytes == 0
    }
}

impl Failure {
    pub(super) fn new(kind: &str, message: impl Into<String>) -> Self {
        Self { kind: kind.to_owned(), reason: None, message: message.into() }
    }
}

impl From<ControlError> for Failure {
    fn from(error: ControlError) -> Self {
        let message = error.to_string();
        match error {
            ControlError::NoSuchResource { .. } => Self::new("no_such_resource", message),
            ControlError::Refused { refusal, .. } => {
                let reason = Some(refusal.reason.to_owned());
                Self { reason, ..Self::new("refused", message) }
            }
            ControlError::TimedOut { .. } => Self::new("timed_out", message),
            ControlError::Busy(_) => Self::new("busy", message),
            ControlError::Stopping => Self::new("stopping", message),
        }
    }
}
