//! A configuration, a daemon's admin surface and a scripted shard for it, in a directory that goes
//! with them; and running the program there.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::sync::mpsc as std_mpsc;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use tempfile::TempDir;
use tokio::sync::{mpsc, watch};

use twinblk::control::{Door, Facts, Gateway, Order, OrderKind, Server};
use twinblk::format::frame::{DiskState, Protocol, Role};
use twinblk::replica::event::{Command, Connection, PeerStatus, Refusal, Replication, Status};
use twinblk::units::{Epoch, NodeId};

/// What a run of the program came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) output: String,
    pub(crate) errors: String,
}

fn program(arguments: &[&str]) -> Process {
    let mut program = Process::new(env!("CARGO_BIN_EXE_twinblk"));
    program.args(arguments).stdin(Stdio::null());
    for variable in ["TWINBLK_CONFIG", "TWINBLK_NODE", "CLICOLOR_FORCE", "NO_COLOR"] {
        program.env_remove(variable);
    }
    program
}

/// Runs the program.
pub(crate) fn twinblk(arguments: &[&str]) -> Run {
    finish(program(arguments))
}

fn finish(mut program: Process) -> Run {
    let ended = program.output().expect("the program runs");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    let code = ended.status.code().expect("no signal");
    Run { code, output: text(ended.stdout), errors: text(ended.stderr) }
}

/// One node, `alpha`, with a resource `r0` whose peer `beta` is away.
pub(crate) struct Stage {
    directory: TempDir,
    daemon: Option<(watch::Sender<bool>, JoinHandle<()>)>,
    orders: Arc<Mutex<Vec<String>>>,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let mut stage = Self::without_daemon();
        let socket = stage.path().join("admin.sock");
        let orders = Arc::clone(&stage.orders);
        let (stop, stopping) = watch::channel(false);
        let (ready, begun) = std_mpsc::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let server = Server::bind(&socket).expect("a socket");
                ready.send(()).expect("the test waits");
                let (gateway, received) = gateway();
                tokio::spawn(shard(received, orders));
                server.run(Arc::new(gateway), stopping).await;
            });
        });
        begun.recv().expect("the daemon begins");
        stage.daemon = Some((stop, thread));
        stage
    }

    pub(crate) fn without_daemon() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let stage = Self { directory, daemon: None, orders: Arc::default() };
        stage.name_disks("/nonexistent/r0", "/nonexistent/r0");
        stage
    }

    fn name_disks(&self, alpha: &str, beta: &str) {
        let here = self.path().display();
        self.write_config(&format!(
            "secret_file = \"{here}/secret\"\nrun_directory = \"{here}\"\n\
             [node.alpha]\nid = 0\naddress = \"10.0.0.1\"\n\
             [node.beta]\nid = 1\naddress = \"10.0.0.2\"\n\
             [resource.r0.on]\nalpha.disk = \"{alpha}\"\nbeta.disk = \"{beta}\"\n"
        ));
    }

    /// Gives both nodes a disk of zeroes in a file.
    pub(crate) fn use_disks(&self, bytes: u64) {
        for node in ["alpha", "beta"] {
            let disk = fs::File::create(self.disk(node)).expect("made");
            disk.set_len(bytes).expect("sized");
        }
        self.name_disks(&self.disk("alpha"), &self.disk("beta"));
    }

    pub(crate) fn disk(&self, node: &str) -> String {
        self.path().join(node).display().to_string()
    }

    /// Changes one byte of a disk.
    pub(crate) fn spoil(&self, node: &str, offset: u64) {
        let disk = fs::OpenOptions::new().write(true).open(self.disk(node)).expect("the disk");
        disk.write_all_at(b"!", offset).expect("written");
    }

    /// Writes the magic number of a file system.
    pub(crate) fn make_xfs_of(&self, node: &str) {
        let disk = fs::OpenOptions::new().write(true).open(self.disk(node)).expect("the disk");
        disk.write_all_at(b"XFSB", 0).expect("written");
    }

    /// Writes a file; its path.
    pub(crate) fn write(&self, name: &str, content: &[u8]) -> String {
        let path = self.path().join(name);
        fs::write(&path, content).expect("written");
        path.display().to_string()
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn write_config(&self, text: &str) {
        fs::write(self.path().join("twinblk.toml"), text).expect("written");
    }

    pub(crate) fn write_secret(&self) {
        let path = self.path().join("secret");
        let mut file = fs::File::create(&path).expect("made");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("closed");
        file.write_all(b"a secret of some length").expect("written");
    }

    /// Commands the shard has been given.
    pub(crate) fn orders(&self) -> Vec<String> {
        self.orders.lock().expect("no panic").clone()
    }

    fn program(&self, arguments: &[&str]) -> Process {
        let mut program = program(arguments);
        program.env("TWINBLK_CONFIG", self.path().join("twinblk.toml"));
        program.env("TWINBLK_NODE", "alpha");
        program
    }

    pub(crate) fn run(&self, arguments: &[&str]) -> Run {
        finish(self.program(arguments))
    }

    /// Runs the program with nobody at the other end of its stdout.
    pub(crate) fn run_into_closed_pipe(&self, arguments: &[&str]) -> Run {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let mut program = self.program(arguments);
        let child = program.stdout(writer).stderr(Stdio::piped()).spawn().expect("it runs");
        let ended = child.wait_with_output().expect("it ends");
        let errors = String::from_utf8(ended.stderr).expect("text");
        Run { code: ended.status.code().expect("no signal"), output: String::new(), errors }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.daemon.take() {
            let _ = stop.send(true);
            let _ = thread.join();
        }
    }
}

fn gateway() -> (Gateway, mpsc::Receiver<Order>) {
    let (door, orders) = Door::new(Arc::new(|| {}));
    let facts = Facts {
        protocol: Protocol::C,
        disk: "/nonexistent/r0".into(),
        metadata: None,
        nbd_socket: "/nonexistent/r0.nbd".into(),
    };
    let names = [(NodeId(0), "alpha".to_owned()), (NodeId(1), "beta".to_owned())];
    let resources = [("r0".to_owned(), facts, door)];
    (Gateway::new(NodeId(0), BTreeMap::from(names), resources), orders)
}

/// `promote` is refused unless forced, `verify` never ends, `resume` finds the shard stopping, all
/// else is done.
async fn shard(mut received: mpsc::Receiver<Order>, orders: Arc<Mutex<Vec<String>>>) {
    let mut endless = Vec::new();
    while let Some(order) = received.recv().await {
        match order.kind {
            OrderKind::Status { reply } => drop(reply.send(Box::new(status()))),
            OrderKind::Command { command, reply } => {
                orders.lock().expect("no panic").push(format!("{command:?}"));
                let text = "this copy is outdated".to_owned();
                match command {
                    Command::Verify { .. } => endless.push(reply),
                    Command::Resume => drop(reply),
                    Command::Promote { force: false } => {
                        drop(reply.send(Err(Refusal { reason: "not-current", text })));
                    }
                    other => drop(reply.send(Ok(format!("{other:?}")))),
                }
            }
        }
    }
}

fn status() -> Status {
    let peer = PeerStatus {
        node: NodeId(1),
        connection: Connection::Connecting,
        connection_reason: String::new(),
        replication: Replication::Off,
        role: None,
        disk: None,
        out_of_sync_blocks: 2048,
        resync_total_blocks: 0,
        resync_done_blocks: 0,
        resync_blocks_per_second: 0,
        last_resync_blocks: 0,
        verify_done_blocks: 0,
        verify_differing_blocks: 0,
        unstable_writes: 0,
    };
    Status {
        node: NodeId(0),
        role: Role::Secondary,
        disk: DiskState::Outdated,
        disk_reason: String::new(),
        just_created: false,
        epoch: Epoch(4),
        generation: None,
        device_blocks: 262_144,
        suspended: String::new(),
        promote_refusal: "this copy is outdated".to_owned(),
        requests_in_flight: 0,
        log_writes: 0,
        peers: vec![peer],
    }
}
