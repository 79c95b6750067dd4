//! Owns the `[resource.NAME]` sections: what is mirrored, where, and by which rules.
//! Must never know whether the nodes it names exist: that is `cross`.

use std::path::PathBuf;

use super::problem::{Complaint, Problems};
use super::section::{Places, Section};
use super::value::{self, boolean, bytes, choice, integer, rate};
use super::{Name, Node};
use crate::format::frame::Protocol;
use crate::limits::{
    LOG_EXTENTS_DEFAULT, LOG_EXTENTS_MAX, LOG_EXTENTS_MIN, PEER_SLOTS_DEFAULT, PEER_SLOTS_MAX,
};
use crate::units::NodeId;

/// What a primary does when it loses its peer and no arbiter is configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnPeerLoss {
    /// Goes on alone, noting what the peer misses. The default: without an arbiter nobody is
    /// promoted by itself, so a fork of the data needs an operator's `promote --force`, which
    /// says what it costs and asks; while suspending would turn every restart of the secondary
    /// into an outage of the service, which two machines were bought to avoid.
    #[default]
    Continue,
    /// Client I/O waits, without error, until the peer is back or an operator says `resume`. For
    /// those whose own scripts promote the other side by force.
    Suspend,
}

/// What a primary does under protocol A when the peer cannot follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnCongestion {
    /// Clients wait, so the peer never falls further behind than `congestion_bytes`.
    #[default]
    Wait,
    /// Writes are only marked in the bitmap and sent by a resync afterwards: clients never wait,
    /// and the peer is inconsistent during that resync.
    Bitmap,
}

/// What a node does when its local disk fails.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnIoError {
    /// Lets go of the disk and serves from the peer. The only choice: an error handed to the
    /// client would let a disk serve that is known to be bad.
    #[default]
    Detach,
}

/// How a resync shares disk and link with clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResyncOptions {
    /// Most bytes a second; none: as much as clients leave.
    pub rate_max: Option<u64>,
    /// Bytes a second that clients cannot take from it. Default 4 MiB: a resync always ends.
    pub rate_min: u64,
    /// Compare hashes first and send only what differs: for links slower than the disks. Default
    /// off: what is marked mostly does differ.
    pub checksum: bool,
}

impl Default for ResyncOptions {
    fn default() -> Self {
        Self { rate_max: None, rate_min: 4 << 20, checksum: false }
    }
}

/// Where a replica keeps its metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Metadata {
    /// At the end of the disk itself.
    #[default]
    Internal,
    /// In a file or device of its own.
    At(PathBuf),
}

/// One node's copy of a resource: `[resource.NAME.on.NODE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// The node's number.
    pub node: NodeId,
    /// The node's name.
    pub node_name: Name,
    /// Device or file with the data.
    pub disk: PathBuf,
    /// Where its metadata is.
    pub metadata: Metadata,
}

/// One `[resource.NAME]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Its name.
    pub name: Name,
    /// How long a write waits for the peer. Default C.
    pub protocol: Protocol,
    /// What a primary does without its peer.
    pub on_peer_loss: OnPeerLoss,
    /// What a primary does when the peer cannot follow; protocol A only.
    pub on_congestion: OnCongestion,
    /// How many bytes may be on their way before that. Default 16 MiB; at most a quarter of `client_buffers`.
    pub congestion_bytes: u64,
    /// How a resync behaves.
    pub resync: ResyncOptions,
    /// What a node does when its disk fails.
    pub on_io_error: OnIoError,
    /// Hot extents (4 MiB each) of the activity log, fixed at `create`.
    pub log_extents: u32,
    /// Bitmap slots, one per peer, fixed at `create`.
    pub peer_slots: u8,
    /// The shard it runs on; none: the least laden.
    pub shard: Option<u16>,
    /// The two copies, by node name.
    pub replicas: [Replica; 2],
}

impl Resource {
    /// The copy on a node.
    #[must_use]
    pub fn mine(&self, node: NodeId) -> Option<&Replica> {
        self.replicas.iter().find(|replica| replica.node == node)
    }

    /// The copy on the other node, seen from `node`.
    #[must_use]
    pub fn theirs(&self, node: NodeId) -> Option<&Replica> {
        self.mine(node)?;
        self.replicas.iter().find(|replica| replica.node != node)
    }
}

/// One copy as read.
pub(super) struct ReplicaDraft {
    pub(super) node_name: Name,
    pub(super) places: Places,
    pub(super) disk: Option<PathBuf>,
    pub(super) metadata: Metadata,
}

/// A resource as read: its copies may be too few, too many or incomplete.
pub(super) struct Draft {
    pub(super) name: Name,
    pub(super) places: Places,
    pub(super) protocol: Protocol,
    pub(super) on_peer_loss: OnPeerLoss,
    pub(super) on_congestion: OnCongestion,
    pub(super) congestion_bytes: u64,
    pub(super) resync: ResyncOptions,
    pub(super) on_io_error: OnIoError,
    pub(super) log_extents: u32,
    pub(super) peer_slots: u8,
    pub(super) shard: Option<u16>,
    pub(super) replicas: Vec<ReplicaDraft>,
}

const PROTOCOLS: [(&str, Protocol); 3] =
    [("A", Protocol::A), ("B", Protocol::B), ("C", Protocol::C)];

const PEER_LOSS: [(&str, OnPeerLoss); 2] =
    [("continue", OnPeerLoss::Continue), ("suspend", OnPeerLoss::Suspend)];

const CONGESTION: [(&str, OnCongestion); 2] =
    [("wait", OnCongestion::Wait), ("bitmap", OnCongestion::Bitmap)];

/// Who decides when the nodes cannot see each other: only an operator, for now.
const ARBITERS: [(&str, ()); 1] = [("none", ())];

const IO_ERROR: [(&str, OnIoError); 1] = [("detach", OnIoError::Detach)];

/// Reads all `[resource.NAME]` sections.
pub(super) fn read_all(file: &mut Section<'_>, problems: &mut Problems) -> Vec<Draft> {
    let named = file.named_tables("resource", "resource", problems);
    named.into_iter().map(|(name, section)| read(name, section, problems)).collect()
}

fn read(name: Name, mut section: Section<'_>, problems: &mut Problems) -> Draft {
    let s = &mut section;
    let protocol = s.setting("protocol", problems, choice(&PROTOCOLS));
    let on_peer_loss = s.setting("on_peer_loss", problems, choice(&PEER_LOSS));
    let on_congestion = s.setting("on_congestion", problems, choice(&CONGESTION));
    let congestion = s.setting("congestion_bytes", problems, bytes((1 << 20)..=(64 << 30)));
    let resync = resync(s, &name, problems);
    let on_io_error = s.setting("on_io_error", problems, choice(&IO_ERROR));
    s.setting("arbiter", problems, choice(&ARBITERS));
    let extents = integer(LOG_EXTENTS_MIN.into()..=LOG_EXTENTS_MAX.into());
    let log_extents = s.setting("log_extents", problems, extents);
    let peer_slots = s.setting("peer_slots", problems, integer(1..=PEER_SLOTS_MAX as u64));
    let shard = s.setting("shard", problems, integer(0..=super::global::SHARDS_MAX - 1));
    let replicas = replicas(s, &name, problems);
    let slots_default = u8::try_from(PEER_SLOTS_DEFAULT).expect("a handful");
    Draft {
        protocol: protocol.unwrap_or(Protocol::C),
        on_peer_loss: on_peer_loss.unwrap_or_default(),
        on_congestion: on_congestion.unwrap_or_default(),
        congestion_bytes: congestion.unwrap_or(16 << 20),
        resync,
        on_io_error: on_io_error.unwrap_or_default(),
        log_extents: narrow(log_extents).unwrap_or(LOG_EXTENTS_DEFAULT),
        peer_slots: narrow(peer_slots).unwrap_or(slots_default),
        shard: narrow(shard),
        replicas,
        name,
        places: section.finish(problems),
    }
}

/// The number in the width of its setting; its range was checked.
fn narrow<T: TryFrom<u64>>(number: Option<u64>) -> Option<T> {
    number.and_then(|number| T::try_from(number).ok())
}

fn resync(section: &mut Section<'_>, name: &Name, problems: &mut Problems) -> ResyncOptions {
    let title = format!("`resync` of resource `{name}`");
    let mut section = section.table("resync", title, problems);
    let default = ResyncOptions::default();
    let rate_max = section.setting("rate_max", problems, rate);
    let rate_min = section.setting("rate_min", problems, rate);
    let checksum = section.setting("checksum", problems, boolean);
    let places = section.finish(problems);
    let least = rate_min.unwrap_or(default.rate_min);
    let (most, wrote_least) = (rate_max.unwrap_or(u64::MAX), rate_min.is_some());
    if wrote_least && least > most {
        let what = format!("resource `{name}`: `rate_min` is above `rate_max`");
        let remedy = "lower `rate_min`, or raise `rate_max`";
        let other = (places.of("rate_max"), "the most");
        problems.clash(places.of("rate_min"), Complaint::new(what, remedy), other);
    }
    ResyncOptions {
        rate_max,
        rate_min: least.min(most),
        checksum: checksum.unwrap_or(default.checksum),
    }
}

fn replicas(section: &mut Section<'_>, name: &Name, problems: &mut Problems) -> Vec<ReplicaDraft> {
    let named = section.named_tables("on", "node", problems);
    let titled = |node: &Name| format!("resource `{name}` on node `{node}`");
    let read = |(node, section): (Name, Section<'_>)| {
        let section = section.titled(titled(&node));
        replica(node, section, problems)
    };
    named.into_iter().map(read).collect()
}

fn replica(node_name: Name, mut section: Section<'_>, problems: &mut Problems) -> ReplicaDraft {
    let disk = section.required("disk", "\"/dev/vg0/data\"", problems, value::path);
    let metadata = section.setting("metadata", problems, |value| match value.as_str() {
        Some("internal") => Ok(Metadata::Internal),
        Some(typed) if !typed.starts_with('/') => Err(Complaint::new(
            format!("{typed:?} is neither \"internal\" nor an absolute path"),
            "write \"internal\", or the path of a file or device for the metadata alone",
        )),
        _ => value::path(value).map(Metadata::At),
    });
    let metadata = metadata.unwrap_or_default();
    ReplicaDraft { node_name, disk, metadata, places: section.finish(problems) }
}

impl Draft {
    /// The resource, if its two copies are complete and their nodes known.
    pub(super) fn finish(self, nodes: &[Node]) -> Option<Resource> {
        let finished = self.replicas.into_iter().map(|draft| {
            let node = nodes.iter().find(|node| node.name == draft.node_name)?;
            let (node, node_name) = (node.id, draft.node_name);
            Some(Replica { node, node_name, disk: draft.disk?, metadata: draft.metadata })
        });
        let replicas = finished.collect::<Option<Vec<_>>>()?;
        Some(Resource {
            name: self.name,
            protocol: self.protocol,
            on_peer_loss: self.on_peer_loss,
            on_congestion: self.on_congestion,
            congestion_bytes: self.congestion_bytes,
            resync: self.resync,
            on_io_error: self.on_io_error,
            log_extents: self.log_extents,
            peer_slots: self.peer_slots,
            shard: self.shard,
            replicas: replicas.try_into().ok()?,
        })
    }
}
