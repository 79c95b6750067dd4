//! Owns turning the checked configuration into what each part is made from.
//! Must never read a file or decide a default: `config` has.

use super::carry::{Front, Setup};
use super::serve::{ServeError, ServeOptions};
use crate::buffer::Budgets;
use crate::config::{self, Config, Node, Resource};
use crate::format::frame::Protocol;
use crate::format::hello::Versions;
use crate::limits::POLL_US_DEFAULT;
use crate::link::{LinkOptions, Names, Path, Timing};
use crate::plant::Plants;
use crate::replica::event::PeerIndex;
use crate::replica::options::{OnCongestion, Options, PeerLoss, PeerOptions, ResyncOptions};
use crate::units::{BootId, Nanos, RunId};
use std::net::{IpAddr, SocketAddr};

/// What is the same for all resources of one start of the daemon.
pub(super) struct Life {
    pub(super) boot: BootId,
    pub(super) run: RunId,
    /// Random, one per resource derived from it.
    pub(super) seed: u64,
}

/// Memory of each shard.
pub(super) fn budgets(config: &Config) -> Budgets {
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    Budgets {
        client_bytes: bytes(config.tuning.client_buffers),
        peer_bytes: bytes(config.tuning.peer_buffers),
        background_bytes: bytes(config.tuning.background_buffers),
    }
}

/// How long a shard's ring looks before it sleeps: on a single processor it would only keep away whom it waits for.
pub(super) fn poll(configured_us: Option<u16>) -> Nanos {
    let default = if processors() > 1 { POLL_US_DEFAULT } else { 0 };
    Nanos(u64::from(configured_us.unwrap_or(default)) * 1_000)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

/// On which shard each resource of this node runs: as configured, or the least laden.
pub(super) fn shards<'a>(options: &'a ServeOptions) -> Vec<Vec<&'a Resource>> {
    let resources: Vec<&Resource> = options.config.resources_on(options.node).collect();
    let wanted = options.config.tuning.shards.map_or(processors() / 2, usize::from);
    let fixed = resources.iter().filter_map(|resource| resource.shard).max();
    let needed = fixed.map_or(0, |shard| usize::from(shard) + 1);
    let count = wanted.min(resources.len()).max(needed).max(1);
    let mut shards: Vec<Vec<&'a Resource>> = vec![Vec::new(); count];
    for resource in &resources {
        let place = match resource.shard {
            Some(shard) => usize::from(shard),
            None => (0..count).min_by_key(|shard| shards[*shard].len()).unwrap_or(0),
        };
        shards[place].push(resource);
    }
    shards
}

/// Everything a resource is made from; `beside` are all of its shard.
pub(super) fn resource(
    options: &ServeOptions,
    resource: &Resource,
    beside: &[&Resource],
    life: &Life,
) -> Result<Setup, ServeError> {
    let here = resource.mine(options.node).ok_or(ServeError::NotHere)?;
    let there = resource.theirs(options.node).ok_or(ServeError::NotHere)?;
    let name = resource.name.as_str();
    let metadata = match &here.metadata {
        config::Metadata::Internal => &here.disk,
        config::Metadata::At(path) => path,
    };
    // They share the buffers of clients, where it lies.
    let queues = beside.iter().filter(|it| it.protocol == Protocol::A).count().max(1);
    let queue_max = options.config.tuning.congestion_bytes_max() / queues as u64;
    let peer = PeerOptions { node: there.node, name: there.node_name.as_str().to_owned() };
    Ok(Setup {
        front: Front::Nbd,
        options: Options {
            resource: name.to_owned(),
            node: options.node,
            name: here.node_name.as_str().to_owned(),
            peers: vec![peer],
            protocol: resource.protocol,
            on_peer_loss: match resource.on_peer_loss {
                config::OnPeerLoss::Continue => PeerLoss::Continue,
                config::OnPeerLoss::Suspend => PeerLoss::Suspend,
            },
            on_congestion: match resource.on_congestion {
                config::OnCongestion::Wait => OnCongestion::Wait,
                config::OnCongestion::Bitmap => OnCongestion::Bitmap,
            },
            congestion_bytes: resource.congestion_bytes.min(queue_max),
            resync: ResyncOptions {
                rate_max_bytes: resource.resync.rate_max.unwrap_or(u64::MAX),
                rate_min_bytes: resource.resync.rate_min,
                checksum: resource.resync.checksum,
            },
            seed: mixed(life.seed, name),
            run: life.run,
            plants: Plants::default(),
        },
        links: vec![link(options, resource)?],
        metadata_path: metadata.display().to_string(),
        boot: life.boot,
        description: format!("{name}, kept on {} and {}", here.node_name, there.node_name),
    })
}

/// A seed of its own for each resource.
fn mixed(seed: u64, name: &str) -> u64 {
    let fold = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    name.bytes().fold(seed, fold)
}

fn link(options: &ServeOptions, resource: &Resource) -> Result<LinkOptions, ServeError> {
    let config = &options.config;
    let node = |replica: Option<&config::Replica>| {
        replica.and_then(|replica| config.node(replica.node)).ok_or(ServeError::NotHere)
    };
    let here = node(resource.mine(options.node))?;
    let there = node(resource.theirs(options.node))?;
    Ok(LinkOptions {
        resource: resource.name.as_str().to_owned(),
        local: here.id,
        peer: there.id,
        peer_index: PeerIndex(0),
        names: Names {
            local: here.name.as_str().to_owned(),
            peer: there.name.as_str().to_owned(),
            secret_path: config.secret_file.display().to_string(),
        },
        secret: crate::link::Secret::new(options.secret.bytes()),
        paths: paths(here, there),
        timing: Timing {
            heartbeat: config.link.heartbeat,
            peer_timeout: config.link.peer_timeout,
            progress_timeout: config.link.progress_timeout,
            retry_longest: config.link.connect_retry_max,
        },
        versions: Versions::SPOKEN,
        plants: Plants::default(),
    })
}

/// The ways to a peer. With as many addresses on both sides, they are ways by pairs, and each is
/// dialled from its own end.
fn paths(here: &Node, there: &Node) -> Vec<Path> {
    let paired = here.addresses.len() == there.addresses.len();
    let mut paths = Vec::new();
    for (index, address) in there.addresses.iter().enumerate() {
        let same_family = |local: &&IpAddr| paired && local.is_ipv4() == address.is_ipv4();
        let local = here.addresses.get(index).filter(same_family).copied();
        paths.push(Path { local, peer: SocketAddr::new(*address, there.link_port) });
    }
    paths
}

/// Where this node listens for its peers.
pub(super) fn listening(node: &Node) -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = Vec::new();
    for address in &node.addresses {
        let address = SocketAddr::new(*address, node.link_port);
        if !found.contains(&address) {
            found.push(address);
        }
    }
    found
}
