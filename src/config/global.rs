//! Owns the settings of a whole node: `[tuning]` and `[link]`.
//! Must never hold a setting of one resource.

use super::problem::{Complaint, Problems};
use super::section::{Places, Section};
use super::value::{bytes, choice, integer, time};
use crate::limits::{POLL_US_MAX, REQUEST_BYTES_MAX};
use crate::units::Nanos;
use std::ops::RangeInclusive;
use toml::de::DeValue;

/// Most shards: more threads than any machine's disks and links can feed.
pub(super) const SHARDS_MAX: u64 = 64;

/// How requests reach the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// io_uring where the kernel allows it, else the portable one.
    #[default]
    Auto,
    /// io_uring, or refuse to start.
    Uring,
    /// epoll and threads.
    Portable,
}

const ENGINES: [(&str, Engine); 3] =
    [("auto", Engine::Auto), ("uring", Engine::Uring), ("portable", Engine::Portable)];

/// Sizes and threads of the data plane: `[tuning]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// Number of shards; none: min(resources, half the cores), at least one.
    pub shards: Option<u16>,
    /// How requests reach the kernel.
    pub engine: Engine,
    /// How long a busy shard looks for completions before it sleeps, in microseconds; 0: never.
    /// None: 200, but never on a machine with a single processor.
    pub poll_us: Option<u16>,
    /// Buffers of each shard for what clients write and read, in bytes. Default 64 MiB: the
    /// largest single request, and over a thousand of the usual ones at once.
    pub client_buffers: u64,
    /// The same for what peers send. Default 64 MiB.
    pub peer_buffers: u64,
    /// The same for resync and verify. Default 32 MiB: the whole resync window.
    pub background_buffers: u64,
}

impl Tuning {
    /// What can wait for the link under protocol A, in bytes: it lies in the buffers of clients, of which it
    /// takes up to four times its size (an odd length is rounded up), and others need some too.
    #[must_use]
    pub const fn congestion_bytes_max(&self) -> u64 {
        self.client_buffers / 4
    }
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            shards: None,
            engine: Engine::Auto,
            poll_us: None,
            client_buffers: 64 << 20,
            peer_buffers: 64 << 20,
            background_buffers: 32 << 20,
        }
    }
}

/// Times of the replication link: `[link]`. `heartbeat` < `peer_timeout` is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkTimes {
    /// Between two heartbeats. Default 500 ms.
    pub heartbeat: Nanos,
    /// Without a word of the peer, the session ends after this. Default 3 s: six heartbeats, so
    /// one lost packet and its retransmissions cost no session.
    pub peer_timeout: Nanos,
    /// While the peer is heard but a write makes no progress, the session ends after this.
    /// Default 10 s: longer than a disk's own retries, shorter than a client's patience.
    pub progress_timeout: Nanos,
    /// Longest pause between two attempts to connect. Default 5 s.
    pub connect_retry_max: Nanos,
}

impl Default for LinkTimes {
    fn default() -> Self {
        Self {
            heartbeat: Nanos::from_millis(500),
            peer_timeout: Nanos::from_millis(3_000),
            progress_timeout: Nanos::from_millis(10_000),
            connect_retry_max: Nanos::from_millis(5_000),
        }
    }
}

/// Reads `[tuning]`.
pub(super) fn tuning(file: &mut Section<'_>, problems: &mut Problems) -> Tuning {
    let mut section = file.table("tuning", "`[tuning]`", problems);
    let default = Tuning::default();
    let buffers = |most| bytes((8 << 20)..=most);
    let shards = section.setting("shards", problems, auto_or(1..=SHARDS_MAX));
    let poll_us = section.setting("poll_us", problems, auto_or(0..=POLL_US_MAX));
    let tuning = Tuning {
        shards: shards.flatten(),
        poll_us: poll_us.flatten(),
        engine: section.setting("engine", problems, choice(&ENGINES)).unwrap_or_default(),
        client_buffers: section
            .setting("client_buffers", problems, bytes(REQUEST_BYTES_MAX..=BUFFERS_MAX))
            .unwrap_or(default.client_buffers),
        peer_buffers: section
            .setting("peer_buffers", problems, buffers(BUFFERS_MAX))
            .unwrap_or(default.peer_buffers),
        background_buffers: section
            .setting("background_buffers", problems, buffers(BUFFERS_MAX))
            .unwrap_or(default.background_buffers),
    };
    section.finish(problems);
    tuning
}

/// A whole number, or none for "auto".
fn auto_or(
    allowed: RangeInclusive<u64>,
) -> impl FnOnce(&DeValue<'_>) -> Result<Option<u16>, Complaint> {
    |value| match value.as_str() {
        Some("auto") => Ok(None),
        Some(_) => Err(Complaint::new("this is a text", "write a whole number, or \"auto\"")),
        None => integer(allowed)(value).map(|number| u16::try_from(number).ok()),
    }
}

/// Largest budget of one purpose: a slip of a unit must not take the machine's memory.
const BUFFERS_MAX: u64 = 16 << 30;

/// Reads `[link]`.
pub(super) fn link_times(file: &mut Section<'_>, problems: &mut Problems) -> LinkTimes {
    let mut section = file.table("link", "`[link]`", problems);
    let default = LinkTimes::default();
    let mut read = |key, least, most, default: Nanos| {
        section.setting(key, problems, time(least..=most)).unwrap_or(default)
    };
    let times = LinkTimes {
        heartbeat: read("heartbeat", 10, 60_000, default.heartbeat),
        peer_timeout: read("peer_timeout", 30, 600_000, default.peer_timeout),
        progress_timeout: read("progress_timeout", 100, 3_600_000, default.progress_timeout),
        connect_retry_max: read("connect_retry_max", 100, 600_000, default.connect_retry_max),
    };
    let places = section.finish(problems);
    check_times(times, &places, problems);
    times
}

fn check_times(times: LinkTimes, places: &Places, problems: &mut Problems) {
    if times.heartbeat >= times.peer_timeout {
        let what =
            "`heartbeat` is not shorter than `peer_timeout`: every session would end at once";
        let remedy = "let `peer_timeout` be at least three times `heartbeat`";
        problems.error(either(places, "peer_timeout", "heartbeat"), Complaint::new(what, remedy));
    } else if times.peer_timeout.0 / 3 < times.heartbeat.0 {
        let what = "`peer_timeout` is less than three times `heartbeat`: one lost packet may end a \
                    session";
        let remedy = "let `peer_timeout` be at least three times `heartbeat`";
        problems.warning(either(places, "peer_timeout", "heartbeat"), Complaint::new(what, remedy));
    }
    if times.progress_timeout < times.peer_timeout {
        let what = "`progress_timeout` is shorter than `peer_timeout`: a slow disk would end a \
                    session sooner than a dead peer";
        let remedy = "let `progress_timeout` be the longer one";
        let place = either(places, "progress_timeout", "peer_timeout");
        problems.warning(place, Complaint::new(what, remedy));
    }
}

/// Where `first` stands, or else where `second` does: one of the two was written.
fn either(places: &Places, first: &str, second: &str) -> std::ops::Range<usize> {
    match places.of(first) {
        place if place == places.header() => places.of(second),
        place => place,
    }
}
