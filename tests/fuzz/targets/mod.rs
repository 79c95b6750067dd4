//! Owns the list of parsers that outsiders' bytes reach, each as a function that takes any bytes
//! and panics if a promise is broken (G21, G22). Must never know where the bytes come from: the
//! ordinary tests and the coverage-guided fuzzer run the same functions.

mod disk;
mod dump;
mod http;
mod link;
mod nbd;
mod stream;
mod text;
mod wires;

/// One parser.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// Also the name of its binary, and of its folder of first inputs.
    pub(crate) name: &'static str,
    /// How many inputs the ordinary tests give it: what takes a few seconds.
    #[allow(dead_code, reason = "the fuzzer goes by time")]
    pub(crate) inputs: u64,
    pub(crate) run: fn(&[u8]),
}

/// A function that only reads.
const fn parser(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, inputs: 100_000, run }
}

/// One that needs a link, a disk or a server for each input.
const fn part(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, inputs: 10_000, run }
}

pub(crate) const ALL: [Target; 12] = [
    parser("superblock", disk::superblock),
    parser("bitmap", disk::bitmap),
    parser("activity_log", disk::activity_log),
    parser("frames", link::frames),
    parser("hello", link::hello),
    part("link_stream", stream::link_stream),
    parser("nbd_server", nbd::server),
    parser("nbd_client", nbd::client),
    parser("config", text::config),
    parser("admin", text::admin),
    part("admin_http", http::admin_http),
    part("metadata_dump", dump::metadata_dump),
];

/// Runs the target of that name.
#[allow(dead_code, reason = "the ordinary tests go through the list")]
pub(crate) fn run(name: &str, bytes: &[u8]) {
    let target = ALL.iter().find(|target| target.name == name).expect("each binary is listed");
    (target.run)(bytes);
}
