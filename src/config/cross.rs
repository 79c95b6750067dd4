//! Owns the checks between sections: numbers, ports, sockets and disks used twice, nodes that do
//! not exist.
//! Must never read a setting: it judges what the sections have read.

use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;

use super::problem::{Complaint, Problems};
use super::quantity::show_bytes;
use super::resource::{self, Metadata, OnCongestion, ReplicaDraft};
use super::section::nearest;
use super::{Tuning, node};
use crate::format::frame::Protocol;

/// Longest path of a unix socket: `sun_path` without its closing zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// All sections, before they are known to fit together.
pub(super) struct Drafts<'d> {
    pub(super) tuning: &'d Tuning,
    pub(super) nodes: &'d [node::Draft],
    pub(super) resources: &'d [resource::Draft],
}

impl Drafts<'_> {
    pub(super) fn check(&self, problems: &mut Problems) {
        self.check_counts(problems);
        for (first, second) in pairs(self.nodes) {
            NodePair { first, second }.check(problems);
        }
        for node in self.nodes {
            self.check_sockets(node, problems);
            check_listeners(node, problems);
        }
        for resource in self.resources {
            self.check_resource(resource, problems);
        }
        self.check_disks(problems);
        self.check_names(problems);
    }

    fn check_counts(&self, problems: &mut Problems) {
        if self.nodes.len() < 2 {
            let what = format!("the file has {} and a pair needs two", count(self.nodes.len()));
            let remedy = "add a section `[node.NAME]` with `id` and `address` for each machine";
            let place = self.nodes.first().map_or(0..0, |node| node.places.header());
            problems.missing(place, Complaint::new(what, remedy));
        }
        for node in self.nodes {
            let uses = |draft: &ReplicaDraft| draft.node_name == node.name;
            if !self.resources.iter().any(|resource| resource.replicas.iter().any(uses)) {
                let what = format!("node `{}` carries no resource", node.name);
                let remedy = "name it in a resource as `on.NODE`, or remove the section";
                problems.unused(node.places.header(), Complaint::new(what, remedy));
            }
        }
    }

    /// The kernel takes only short paths for sockets: say so now, not when the daemon starts.
    fn check_sockets(&self, node: &node::Draft, problems: &mut Problems) {
        let mut check = |path: &Path, key: &str| {
            if path.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
                let what = format!(
                    "the socket path {} is longer than {SOCKET_PATH_BYTES_MAX} bytes",
                    path.display()
                );
                let remedy = "choose a shorter `run_directory` or a shorter resource name";
                problems.error(node.places.of(key), Complaint::new(what, remedy));
            }
        };
        check(&node.admin_socket, "admin_socket");
        for resource in self.resources {
            let here = resource.replicas.iter().any(|replica| replica.node_name == node.name);
            if here {
                check(&node.nbd_socket(&resource.name), "run_directory");
            }
        }
    }

    fn check_resource(&self, resource: &resource::Draft, problems: &mut Problems) {
        let name = &resource.name;
        check_pair(resource, problems);
        let known: Vec<&str> = self.nodes.iter().map(|node| node.name.as_str()).collect();
        for replica in &resource.replicas {
            let node = replica.node_name.as_str();
            if !known.contains(&node) {
                let what = format!("resource `{name}` is on node `{node}`, which does not exist");
                let remedy = match nearest(node, &known) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => format!("add a section `[node.{node}]`"),
                };
                problems.error(replica.places.header(), Complaint::new(what, remedy));
            }
        }
        if let (Some(shard), Some(shards)) = (resource.shard, self.tuning.shards)
            && shard >= shards
        {
            let what = format!("resource `{name}` wants shard {shard} and there are {shards}");
            let remedy = format!("choose 0 to {}, or raise `shards` in [tuning]", shards - 1);
            problems.error(resource.places.of("shard"), Complaint::new(what, remedy));
        }
        if resource.protocol != Protocol::A && resource.on_congestion == OnCongestion::Bitmap {
            let what = format!("`on_congestion` of resource `{name}` acts under protocol A only");
            let remedy = "under B and C the client waits for the peer anyway: remove the line";
            problems.warning(resource.places.of("on_congestion"), Complaint::new(what, remedy));
        }
        let most = self.tuning.congestion_bytes_max();
        if resource.protocol == Protocol::A && resource.congestion_bytes > most {
            let what = format!(
                "`congestion_bytes` of resource `{name}` acts up to {}, a quarter of `client_buffers`",
                show_bytes(most)
            );
            let remedy = "lower it, or raise `client_buffers` in [tuning]";
            problems.warning(resource.places.of("congestion_bytes"), Complaint::new(what, remedy));
        }
    }

    /// With metadata of its own nothing on a disk says whose it is, so its path has to.
    fn check_names(&self, problems: &mut Problems) {
        for replica in self.resources.iter().flat_map(|resource| &resource.replicas) {
            let (Some(disk), Metadata::At(metadata)) = (&replica.disk, &replica.metadata) else {
                continue;
            };
            for (path, place) in [(disk, "disk"), (metadata, "metadata")] {
                if is_numbered(path) {
                    let what = format!(
                        "{} may name another disk after the next boot, and with `metadata` of its own \
                         nothing on the disk tells",
                        path.display()
                    );
                    let remedy = "use a path of /dev/disk/by-id, /dev/disk/by-partuuid or LVM";
                    problems.warning(replica.places.of(place), Complaint::new(what, remedy));
                }
            }
        }
    }

    /// Every file or device of a node may be used once: two users would overwrite each other.
    fn check_disks(&self, problems: &mut Problems) {
        let mut uses: Vec<(&str, &Path, Range<usize>, String)> = Vec::new();
        for resource in self.resources {
            for replica in &resource.replicas {
                let node = replica.node_name.as_str();
                let user = |what: &str| format!("the {what} of resource `{}`", resource.name);
                if let Some(disk) = &replica.disk {
                    uses.push((node, disk, replica.places.of("disk"), user("disk")));
                }
                if let Metadata::At(path) = &replica.metadata {
                    uses.push((node, path, replica.places.of("metadata"), user("metadata")));
                }
            }
        }
        for (first, second) in pairs(&uses) {
            let ((node, path, place, user), (other_node, other, other_place, other_user)) =
                (first, second);
            // Compared by components: `//dev/x` and `/dev/./x` are `/dev/x`.
            if node == other_node && path.components().eq(other.components()) {
                let what =
                    format!("on node `{node}`, {} is both {user} and {other_user}", path.display());
                let complaint = Complaint::new(what, "give each its own file or device");
                problems.clash(other_place.clone(), complaint, (place.clone(), "used here first"));
            }
        }
    }
}

/// Whether the kernel names this device by the order in which it found it.
fn is_numbered(path: &Path) -> bool {
    let kinds = ["sd", "hd", "vd", "xvd", "nvme", "mmcblk", "loop", "dm-", "md", "nbd", "zd"];
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    path.parent() == Some(Path::new("/dev")) && kinds.iter().any(|kind| name.starts_with(kind))
}

fn check_pair(resource: &resource::Draft, problems: &mut Problems) {
    let name = &resource.name;
    let place = resource.places.header();
    match resource.replicas.as_slice() {
        [_, _] => {}
        [_, _, third, ..] => {
            let what = format!("resource `{name}` is on more than two nodes");
            let remedy =
                "a third copy is refused for now, as its rules are not built yet: keep two";
            problems.error(third.places.header(), Complaint::new(what, remedy));
        }
        few => {
            let what = format!("resource `{name}` is on {} and needs two", count(few.len()));
            let remedy = format!("add `[resource.{name}.on.NODE]` with `disk` for both nodes");
            problems.missing(place, Complaint::new(what, remedy));
        }
    }
}

/// Two nodes, to be held against each other.
struct NodePair<'d> {
    first: &'d node::Draft,
    second: &'d node::Draft,
}

impl NodePair<'_> {
    fn check(&self, problems: &mut Problems) {
        let (first, second) = (self.first, self.second);
        let (a, b) = (&first.name, &second.name);
        if let Some(id) = first.id.filter(|id| second.id == Some(*id)) {
            let what = format!("nodes `{a}` and `{b}` have the same id {}", id.0);
            let complaint = Complaint::new(what, "give each node its own number from 0 to 31");
            self.clash("id", complaint, problems);
        }
        let address = first.addresses.iter().find(|at| second.addresses.contains(at));
        let Some(address) = address else {
            return;
        };
        if first.link_port == second.link_port {
            let port = first.link_port;
            let what = format!("nodes `{a}` and `{b}` are both at {address}, link port {port}");
            let remedy = "correct the address, or on one machine give each a `link_port`";
            self.clash("address", Complaint::new(what, remedy), problems);
        }
        self.check_one_machine(problems);
        if !address.is_loopback() {
            let what = format!("nodes `{a}` and `{b}` are both at {address}");
            let remedy = "one machine holds both copies: its loss is the loss of the data";
            problems.warning(second.places.of("address"), Complaint::new(what, remedy));
        }
    }

    /// What two daemons on one machine cannot share.
    fn check_one_machine(&self, problems: &mut Problems) {
        let (first, second) = (self.first, self.second);
        let both = format!("nodes `{}` and `{}` share one machine", first.name, second.name);
        let remedy = "give each node its own `run_directory`";
        if first.admin_socket == second.admin_socket {
            let complaint = Complaint::new(format!("{both} and one admin socket"), remedy);
            self.clash("admin_socket", complaint, problems);
        } else if first.run_directory == second.run_directory {
            let complaint = Complaint::new(format!("{both} and one run directory"), remedy);
            self.clash("run_directory", complaint, problems);
        }
        for listen in &first.nbd_listen {
            let mut others = second.nbd_listen.iter();
            if let Some(other) = others.find(|other| overlap(*listen, **other)) {
                let what = format!("{both} and NBD address {other}");
                let complaint = Complaint::new(what, "give each node its own `nbd_listen`");
                self.clash("nbd_listen", complaint, problems);
            }
        }
    }

    fn clash(&self, key: &str, complaint: Complaint, problems: &mut Problems) {
        let other = (self.first.places.of(key), "also here");
        problems.clash(self.second.places.of(key), complaint, other);
    }
}

fn check_listeners(node: &node::Draft, problems: &mut Problems) {
    let place = node.places.of("nbd_listen");
    for (first, second) in pairs(&node.nbd_listen) {
        if overlap(*first, *second) {
            let what = format!("node `{}` listens for NBD at {second} twice", node.name);
            problems.error(place.clone(), Complaint::new(what, "remove one"));
        }
    }
    for listen in &node.nbd_listen {
        if listen.port() == node.link_port && !listen.ip().is_loopback() {
            let what = format!("node `{}` uses port {} for NBD and link", node.name, listen.port());
            let complaint = Complaint::new(what, "choose another port for one of them");
            let other = (node.places.of("link_port"), "the link's");
            problems.clash(place.clone(), complaint, other);
        }
        if listen.port() == 0 {
            let what = format!("node `{}` listens for NBD at port 0", node.name);
            let complaint = Complaint::new(what, "write the port clients will use, such as 10809");
            problems.error(place.clone(), complaint);
        }
        if !listen.ip().is_loopback() {
            let what = format!("node `{}` offers NBD to the network at {listen}", node.name);
            let remedy = "NBD here has neither password nor encryption: whoever reaches this \
                          address reads and writes the disk. Keep it on a network of its own";
            problems.warning(place.clone(), Complaint::new(what, remedy));
        }
    }
}

/// Whether a machine cannot listen at both.
fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() == b.port() && (a.ip() == b.ip() || any)
}

fn count(nodes: usize) -> String {
    match nodes {
        0 => "no node".to_owned(),
        1 => "one node".to_owned(),
        n => format!("{n} nodes"),
    }
}

/// Every two of a list, in order.
fn pairs<T>(list: &[T]) -> impl Iterator<Item = (&T, &T)> {
    let second = |i: usize| list[i + 1..].iter();
    list.iter().enumerate().flat_map(move |(i, first)| second(i).map(move |other| (first, other)))
}
