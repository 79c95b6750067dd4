//! Owns what a way between two hosts is like, and the addresses of hosts. Must never hold what
//! travels.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// One direction between two hosts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Link {
    /// Nothing gets through; senders are not told.
    pub(crate) cut: bool,
    pub(crate) latency: u64,
    pub(crate) jitter: u64,
    pub(crate) bytes_per_second: u64,
    /// So many of a hundred segments hold a few bytes only.
    pub(crate) shred_percent: u32,
    /// So many of a million segments arrive with a flipped bit.
    pub(crate) corrupt_ppm: u32,
}

impl Link {
    pub(crate) const fn good() -> Self {
        Self {
            cut: false,
            latency: 40_000,
            jitter: 20_000,
            bytes_per_second: 1_000_000_000,
            shred_percent: 5,
            corrupt_ppm: 0,
        }
    }
}

/// The address of a port on a host.
pub(crate) fn address(host: usize, port: u16) -> SocketAddr {
    let last = u8::try_from(host + 1).expect("few hosts");
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, last)), port)
}
