//! Owns the `[node.NAME]` sections: who the nodes are and where they listen.
//! Must never know which resources they carry.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use super::Name;
use super::problem::Problems;
use super::section::{Places, Section};
use super::value::{self, host, integer, one_or_more, socket_address};
use crate::units::NodeId;

/// Default TCP port of the replication link: one per node, for all resources.
const LINK_PORT_DEFAULT: u16 = 7790;

/// The port registered for NBD.
const NBD_PORT_DEFAULT: u16 = 10_809;

/// Highest node number: membership travels as 32 bits.
const NODE_ID_MAX: u64 = 31;

/// One `[node.NAME]` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Name,
    /// Its number, recorded in metadata: a name may change, a number may not.
    pub id: NodeId,
    /// Paths to the node, used in turn. Not empty.
    pub addresses: Vec<IpAddr>,
    /// TCP port of the replication link.
    pub link_port: u16,
    /// Where NBD clients are served besides the unix socket of each resource. Default
    /// 127.0.0.1:10809 only: plain NBD has neither password nor encryption, so whoever reaches
    /// the port reads and writes the disk. May be empty.
    pub nbd_listen: Vec<SocketAddr>,
    /// Where the sockets of this node are made.
    pub run_directory: PathBuf,
    /// The admin socket.
    pub admin_socket: PathBuf,
}

impl Node {
    /// The unix socket on which NBD clients find a resource.
    #[must_use]
    pub fn nbd_socket(&self, resource: &Name) -> PathBuf {
        nbd_socket(&self.run_directory, resource)
    }
}

fn nbd_socket(run_directory: &Path, resource: &Name) -> PathBuf {
    run_directory.join(format!("{resource}.nbd"))
}

/// A node as read: `id` and `addresses` may be missing.
pub(super) struct Draft {
    pub(super) name: Name,
    pub(super) places: Places,
    pub(super) id: Option<NodeId>,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) link_port: u16,
    pub(super) nbd_listen: Vec<SocketAddr>,
    pub(super) run_directory: PathBuf,
    pub(super) admin_socket: PathBuf,
}

/// Reads all `[node.NAME]` sections.
pub(super) fn read_all(
    file: &mut Section<'_>,
    run_directory: &Path,
    problems: &mut Problems,
) -> Vec<Draft> {
    let named = file.named_tables("node", "node", problems);
    named.into_iter().map(|(name, node)| read(name, node, run_directory, problems)).collect()
}

fn read(
    name: Name,
    mut section: Section<'_>,
    run_directory: &Path,
    problems: &mut Problems,
) -> Draft {
    let id = section.required("id", "0", problems, integer(0..=NODE_ID_MAX));
    let addresses = addresses(&mut section, problems);
    let port = section.setting("link_port", problems, integer(1..=u64::from(u16::MAX)));
    let own_directory = section.setting("run_directory", problems, value::path);
    let run_directory = own_directory.unwrap_or_else(|| run_directory.to_owned());
    let nbd_listen = section.setting("nbd_listen", problems, |value| {
        // The empty list is fine here: only the unix sockets, then.
        if value.as_array().is_some_and(|list| list.is_empty()) {
            return Ok(Vec::new());
        }
        one_or_more("a list such as [\"127.0.0.1:10809\"]", socket_address)(value)
    });
    let loopback = || vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), NBD_PORT_DEFAULT)];
    let admin_socket = section.setting("admin_socket", problems, value::path);
    Draft {
        id: id.and_then(|id| u8::try_from(id).ok()).map(NodeId),
        addresses,
        link_port: port.and_then(|port| u16::try_from(port).ok()).unwrap_or(LINK_PORT_DEFAULT),
        nbd_listen: nbd_listen.unwrap_or_else(loopback),
        admin_socket: admin_socket.unwrap_or_else(|| run_directory.join("admin.sock")),
        run_directory,
        name,
        places: section.finish(problems),
    }
}

fn addresses(section: &mut Section<'_>, problems: &mut Problems) -> Vec<IpAddr> {
    let wanted = "an address such as \"10.0.0.1\", or a list of them";
    let example = "\"10.0.0.1\"";
    let read = one_or_more(wanted, host);
    section.required("address", example, problems, read).unwrap_or_default()
}

impl Draft {
    pub(super) fn nbd_socket(&self, resource: &Name) -> PathBuf {
        nbd_socket(&self.run_directory, resource)
    }

    /// The node, if it was complete.
    pub(super) fn finish(self) -> Option<Node> {
        Some(Node {
            name: self.name,
            id: self.id?,
            addresses: Some(self.addresses).filter(|addresses| !addresses.is_empty())?,
            link_port: self.link_port,
            nbd_listen: self.nbd_listen,
            run_directory: self.run_directory,
            admin_socket: self.admin_socket,
        })
    }
}
