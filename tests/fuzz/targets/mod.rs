//! Owns the list of parsers that outsiders' bytes reach, each as a function that takes any bytes
//! and panics if a promise is broken (G21, G22). Must never know where the bytes come from: the
//! ordinary tests and the coverage-guided fuzzer run the same functions.

mod disk;
mod link;
mod nbd;
mod text;

/// One parser.
#[derive(Clone, Copy)]
pub(crate) struct Target {
    /// Also the name of its binary, and of its folder of first inputs.
    pub(crate) name: &'static str,
    pub(crate) run: fn(&[u8]),
}

pub(crate) const ALL: [Target; 9] = [
    Target { name: "superblock", run: disk::superblock },
    Target { name: "bitmap", run: disk::bitmap },
    Target { name: "activity_log", run: disk::activity_log },
    Target { name: "frames", run: link::frames },
    Target { name: "hello", run: link::hello },
    Target { name: "nbd_server", run: nbd::server },
    Target { name: "nbd_client", run: nbd::client },
    Target { name: "config", run: text::config },
    Target { name: "admin", run: text::admin },
];

/// Runs the target of that name.
#[allow(dead_code, reason = "the ordinary tests go through the list")]
pub(crate) fn run(name: &str, bytes: &[u8]) {
    let target = ALL.iter().find(|target| target.name == name).expect("each binary is listed");
    (target.run)(bytes);
}
