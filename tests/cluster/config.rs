//! Owns what a test cluster is made of: addresses, sizes, and the configuration file of each node.
//! Must never start anything.

use std::fs::{self, Permissions};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;

/// The resource of every cluster.
pub(crate) const RESOURCE: &str = "r0";

/// Names of the two nodes.
pub(crate) const NAMES: [&str; 2] = ["alpha", "beta"];

/// One of the two nodes, by its place.
pub(crate) type NodeIndex = usize;

/// Where a test wants its files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Memory,
    Disk,
}

/// What a test wants.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) protocol: &'static str,
    /// Backing files that somebody else has made, instead of some of the cluster's own.
    pub(crate) disks: Option<[PathBuf; 2]>,
    /// Of the backing file; with internal metadata the device is smaller.
    pub(crate) disk_bytes: [u64; 2],
    pub(crate) internal_metadata: bool,
    pub(crate) place: Place,
    /// All traffic between the nodes goes through a proxy.
    pub(crate) proxied: bool,
    /// What the proxy's sockets buffer, if not as much as the system likes.
    pub(crate) socket_bytes: Option<usize>,
    /// Further lines for `[resource.r0]`.
    pub(crate) resource_lines: String,
    /// Further sections.
    pub(crate) sections: String,
    /// The engine of each node.
    pub(crate) engine: &'static str,
}

impl Wish {
    /// Two copies of `mebibytes` with external metadata in memory, protocol C.
    pub(crate) fn new(mebibytes: u64) -> Self {
        Self {
            protocol: "C",
            disks: None,
            disk_bytes: [mebibytes << 20; 2],
            internal_metadata: false,
            place: Place::Memory,
            proxied: false,
            socket_bytes: None,
            resource_lines: String::new(),
            sections: String::new(),
            engine: "auto",
        }
    }
}

static NEXT_PORT: AtomicU16 = AtomicU16::new(20_000);

/// An address nobody else uses: the process has a loopback address of its own for each node and
/// one for proxies, and its ports are counted.
fn address(role: u8) -> SocketAddrV4 {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let second = 64 * role + (high & 0x3f);
    let port = NEXT_PORT.fetch_add(1, Ordering::Relaxed);
    // Neither .0 nor .255 matters on loopback, but 127.0.x.x is left to others.
    SocketAddrV4::new(Ipv4Addr::new(127, second.max(1), middle, low), port)
}

/// The files and addresses of a cluster; gone when dropped.
#[derive(Debug)]
pub(crate) struct Site {
    directory: TempDir,
    pub(crate) wish: Wish,
    /// Where each node listens for its peer.
    pub(crate) link: [SocketAddrV4; 2],
    /// Where each node serves NBD over TCP.
    pub(crate) nbd: [SocketAddrV4; 2],
    /// Where the proxy in front of each node listens.
    pub(crate) proxy: [SocketAddrV4; 2],
}

impl Site {
    pub(crate) fn new(wish: Wish) -> Self {
        let parent = match wish.place {
            Place::Memory if Path::new("/dev/shm").is_dir() => PathBuf::from("/dev/shm"),
            _ => std::env::temp_dir(),
        };
        let directory = tempfile::Builder::new().prefix("twinblk-cluster.").tempdir_in(parent);
        let site = Self {
            directory: directory.expect("a directory"),
            wish,
            link: [address(1), address(2)],
            nbd: [address(1), address(2)],
            proxy: [address(3), address(3)],
        };
        for node in [0, 1] {
            if site.wish.disks.is_none() {
                site.make_disk(node, site.wish.disk_bytes[node]);
            }
            site.write_secret(node, "a secret that both nodes know\n");
            fs::write(site.config(node), site.text(node)).expect("written");
        }
        site
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn config(&self, node: NodeIndex) -> PathBuf {
        self.path(&format!("{}.toml", NAMES[node]))
    }

    pub(crate) fn disk(&self, node: NodeIndex) -> PathBuf {
        let own = || self.path(&format!("{}.disk", NAMES[node]));
        self.wish.disks.as_ref().map_or_else(own, |disks| disks[node].clone())
    }

    pub(crate) fn metadata(&self, node: NodeIndex) -> PathBuf {
        self.path(&format!("{}.meta", NAMES[node]))
    }

    pub(crate) fn log(&self, node: NodeIndex) -> PathBuf {
        self.path(&format!("{}.log", NAMES[node]))
    }

    pub(crate) fn run_directory(&self, node: NodeIndex) -> PathBuf {
        self.path(&format!("run-{}", NAMES[node]))
    }

    /// The unix socket for NBD clients.
    pub(crate) fn socket(&self, node: NodeIndex) -> PathBuf {
        self.run_directory(node).join(format!("{RESOURCE}.nbd"))
    }

    /// The address of the export for NBD programs.
    pub(crate) fn uri(&self, node: NodeIndex) -> String {
        format!("nbd+unix:///{RESOURCE}?socket={}", self.socket(node).display())
    }

    pub(crate) fn make_disk(&self, node: NodeIndex, bytes: u64) {
        let file = fs::File::create(self.disk(node)).expect("a disk");
        file.set_len(bytes).expect("sized");
    }

    pub(crate) fn write_secret(&self, node: NodeIndex, secret: &str) {
        let path = self.path(&format!("{}.secret", NAMES[node]));
        fs::write(&path, secret).expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("private");
    }

    /// Changes a node's configuration.
    pub(crate) fn edit_config(&self, node: NodeIndex, from: &str, to: &str) {
        let old = fs::read_to_string(self.config(node)).expect("read");
        assert!(old.contains(from), "{from} is not in the configuration:\n{old}");
        fs::write(self.config(node), old.replace(from, to)).expect("written");
    }

    /// Each node has a file of its own: behind a proxy they see each other at its addresses.
    fn text(&self, reader: NodeIndex) -> String {
        let wish = &self.wish;
        let secret = self.path(&format!("{}.secret", NAMES[reader]));
        let mut text = format!("secret_file = \"{}\"\n", secret.display());
        for node in [0, 1] {
            let seen =
                if wish.proxied && node != reader { self.proxy[node] } else { self.link[node] };
            text += &format!(
                "[node.{}]\nid = {node}\naddress = \"{}\"\nlink_port = {}\n\
                 nbd_listen = [\"{}\"]\nrun_directory = \"{}\"\n",
                NAMES[node],
                seen.ip(),
                seen.port(),
                self.nbd[node],
                self.run_directory(node).display()
            );
        }
        text += &format!("[tuning]\nengine = \"{}\"\n{}\n", wish.engine, wish.sections);
        text += &format!("[resource.{RESOURCE}]\nprotocol = \"{}\"\n", wish.protocol);
        text += &wish.resource_lines;
        for node in [0, 1] {
            let disk = self.disk(node);
            text += &format!("\n[resource.{RESOURCE}.on.{}]\n", NAMES[node]);
            text += &format!("disk = \"{}\"\n", disk.display());
            if !wish.internal_metadata {
                text += &format!("metadata = \"{}\"\n", self.metadata(node).display());
            }
        }
        text
    }
}
