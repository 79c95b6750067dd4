//! Owns two daemons and what is done to them: commands, waiting for a state, kill, restart, and the
//! comparison of their disks. Must never end a process it did not start.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use twinblk::control::body::{PeerBody, ResourceBody, StatusBody};

use crate::config::{NAMES, NodeIndex, RESOURCE, Site, Wish};
use crate::proxy::Proxy;

/// The longest any state is waited for: far more than a machine under load needs.
pub(crate) const LIMIT: Duration = Duration::from_secs(180);

/// Waits until `look` finds something; `what` tells what was missed.
pub(crate) fn eventually<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(seen) if begun.elapsed() > LIMIT => panic!("{what} did not come about: {seen}"),
            // Between two looks at another process, which tells nobody; the outcome is what is judged.
            Err(_) => std::thread::sleep(Duration::from_millis(15)),
        }
    }
}

/// What a run of the program came to.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) output: String,
    pub(crate) errors: String,
}

/// Runs a program to its end.
pub(crate) fn run(program: &mut Command) -> Run {
    let ended = program.stdin(Stdio::null()).output().expect("the program runs");
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let code = ended.status.code().unwrap_or(-1);
    Run { code, output: text(&ended.stdout), errors: text(&ended.stderr) }
}

/// Runs another's program, which must succeed, and gives its output.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> String {
    let ran = run(Command::new(program).args(arguments));
    assert_eq!(ran.code, 0, "{program} {arguments:?}: {}{}", ran.output, ran.errors);
    ran.output
}

/// Two nodes, and perhaps a proxy between them.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) site: Site,
    daemons: [Option<Child>; 2],
    pub(crate) proxy: Option<Proxy>,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in [0, 1] {
            self.kill(node);
        }
        if std::thread::panicking() {
            for node in [0, 1] {
                let log = fs::read_to_string(self.site.log(node)).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(60)..];
                eprintln!("---- the last of {}'s log:\n{}", NAMES[node], tail.join("\n"));
            }
        }
    }
}

impl Cluster {
    /// Files and addresses; nothing is laid out and nothing runs.
    pub(crate) fn bare(wish: Wish) -> Self {
        let site = Site::new(wish);
        let proxy = site.wish.proxied;
        let proxy = proxy.then(|| Proxy::narrow(site.proxy, site.link, site.wish.socket_bytes));
        Self { site, daemons: [None, None], proxy }
    }

    /// Both nodes laid out, running and connected, without contents.
    pub(crate) fn fresh(wish: Wish) -> Self {
        let mut cluster = Self::bare(wish);
        for node in [0, 1] {
            cluster.done(node, &["create", RESOURCE]);
            cluster.start(node);
        }
        (0..2).for_each(|node| cluster.wait_connected(node));
        cluster
    }

    /// Both nodes in sync, the first one primary.
    pub(crate) fn in_sync(wish: Wish) -> Self {
        let cluster = Self::fresh(wish);
        cluster.done(0, &["init", RESOURCE, "--from", NAMES[0]]);
        cluster.wait_in_sync(0);
        cluster.done(0, &["promote", RESOURCE]);
        cluster
    }

    pub(crate) fn twinblk(&self, node: NodeIndex, arguments: &[&str]) -> Command {
        let mut program = Command::new(env!("CARGO_BIN_EXE_twinblk"));
        for variable in ["TWINBLK_CONFIG", "TWINBLK_NODE", "CLICOLOR_FORCE", "NO_COLOR"] {
            program.env_remove(variable);
        }
        program.arg("--config").arg(self.site.config(node)).args(["--node", NAMES[node]]);
        program.args(arguments);
        program
    }

    /// Runs a command on a node.
    pub(crate) fn on(&self, node: NodeIndex, arguments: &[&str]) -> Run {
        run(&mut self.twinblk(node, arguments))
    }

    /// Runs a command on a node, which must succeed.
    pub(crate) fn done(&self, node: NodeIndex, arguments: &[&str]) -> String {
        let ran = self.on(node, arguments);
        assert_eq!(ran.code, 0, "{} {arguments:?}: {}{}", NAMES[node], ran.output, ran.errors);
        ran.output
    }

    /// Runs a command on a node that must be refused in words, and gives these.
    pub(crate) fn refused(&self, node: NodeIndex, arguments: &[&str]) -> String {
        let ran = self.on(node, arguments);
        assert!(ran.code > 0, "{} {arguments:?} should fail: {ran:?}", NAMES[node]);
        // `config check` reports on stdout, all others complain on stderr.
        let said = format!("{}{}", ran.output, ran.errors);
        assert!(said.trim().len() > 20, "no words: {ran:?}");
        said
    }

    /// Starts a daemon without waiting for it.
    pub(crate) fn launch(&mut self, node: NodeIndex) {
        self.spawn(node, self.twinblk(node, &["serve"]));
    }

    fn spawn(&mut self, node: NodeIndex, mut daemon: Command) {
        assert!(self.daemons[node].is_none(), "{} runs", NAMES[node]);
        let log = OpenOptions::new().create(true).append(true).open(self.site.log(node));
        let log = log.expect("a log");
        daemon.stdin(Stdio::null()).stdout(log.try_clone().expect("a copy")).stderr(log);
        self.daemons[node] = Some(daemon.spawn().expect("the daemon starts"));
    }

    /// Starts a daemon and waits until it answers.
    pub(crate) fn start(&mut self, node: NodeIndex) {
        self.launch(node);
        self.wait_answer(node);
    }

    /// The same, with no more than this much address space.
    pub(crate) fn start_within(&mut self, node: NodeIndex, most_kib: u64) {
        let daemon = self.twinblk(node, &["serve"]);
        let mut limited = Command::new("prlimit");
        limited.arg(format!("--as={}:", most_kib << 10)).arg(daemon.get_program());
        limited.args(daemon.get_args());
        self.spawn(node, limited);
        self.wait_answer(node);
    }

    fn wait_answer(&mut self, node: NodeIndex) {
        eventually("an answer of the daemon", || {
            let ended = self.daemons[node].as_mut().and_then(|it| it.try_wait().expect("ours"));
            assert_eq!(ended, None, "{} ended at once", NAMES[node]);
            self.look(node)
        });
    }

    /// kill -9, without waiting for its end: a request to a disk without power keeps it.
    pub(crate) fn strike(&mut self, node: NodeIndex) {
        self.daemons[node].as_mut().expect("it runs").kill().expect("struck");
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, node: NodeIndex) {
        if let Some(mut daemon) = self.daemons[node].take() {
            let _ = daemon.kill();
            let _ = daemon.wait();
        }
    }

    /// A planned stop.
    pub(crate) fn stop(&mut self, node: NodeIndex) {
        let mut daemon = self.daemons[node].take().expect("it runs");
        let pid = i32::try_from(daemon.id()).expect("a pid");
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("told");
        let status = daemon.wait().expect("it ends");
        assert!(status.success(), "{} ended with {status}", NAMES[node]);
    }

    /// That it is alive.
    pub(crate) fn assert_alive(&mut self, node: NodeIndex) {
        let daemon = self.daemons[node].as_mut().expect("it was started");
        assert_eq!(daemon.try_wait().expect("ours"), None, "{} died", NAMES[node]);
    }

    /// Lets a daemon have so much more address space than it has now; none: as much as it likes.
    pub(crate) fn limit_memory(&self, node: NodeIndex, more_kib: Option<u64>) {
        let pid = self.daemons[node].as_ref().expect("it runs").id();
        let now = self.address_space_kib(node);
        let most = more_kib.map_or("unlimited".to_owned(), |more| ((now + more) << 10).to_string());
        tool("prlimit", &[&format!("--pid={pid}"), &format!("--as={most}:")]);
    }

    /// Address space of a daemon in KiB.
    pub(crate) fn address_space_kib(&self, node: NodeIndex) -> u64 {
        self.memory_kib(node, "VmSize:")
    }

    /// Memory of a daemon in KiB.
    pub(crate) fn resident_kib(&self, node: NodeIndex) -> u64 {
        self.memory_kib(node, "VmRSS:")
    }

    /// The most it has had since it started.
    pub(crate) fn resident_peak_kib(&self, node: NodeIndex) -> u64 {
        self.memory_kib(node, "VmHWM:")
    }

    fn memory_kib(&self, node: NodeIndex, field: &str) -> u64 {
        let pid = self.daemons[node].as_ref().expect("it runs").id();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("status");
        let line = status.lines().find(|line| line.starts_with(field)).expect("the field");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }

    /// Open descriptors of a daemon.
    pub(crate) fn descriptors(&self, node: NodeIndex) -> usize {
        let pid = self.daemons[node].as_ref().expect("it runs").id();
        fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").count()
    }

    /// The state as a node tells it, or why it does not.
    pub(crate) fn look(&self, node: NodeIndex) -> Result<ResourceBody, String> {
        let ran = self.on(node, &["status", RESOURCE, "--json"]);
        if ran.code != 0 {
            return Err(ran.errors);
        }
        let body: StatusBody = serde_json::from_str(&ran.output).map_err(|why| why.to_string())?;
        body.resources.into_iter().next().ok_or_else(|| "no resource".to_owned())
    }

    pub(crate) fn status(&self, node: NodeIndex) -> ResourceBody {
        self.look(node).expect("a status")
    }

    /// What a node says of the other.
    pub(crate) fn peer(&self, node: NodeIndex) -> PeerBody {
        self.status(node).peers.into_iter().next().expect("a peer")
    }

    /// Waits until a node's state is as wanted.
    pub(crate) fn wait(
        &self,
        node: NodeIndex,
        what: &str,
        wanted: impl Fn(&ResourceBody) -> bool,
    ) -> ResourceBody {
        eventually(&format!("{what} on {}", NAMES[node]), || {
            let seen = self.look(node)?;
            if wanted(&seen) { Ok(seen) } else { Err(format!("{seen:#?}")) }
        })
    }

    /// Connected, and done with comparing the copies.
    pub(crate) fn wait_connected(&self, node: NodeIndex) {
        let met =
            |peer: &PeerBody| peer.connection == "Connected" && peer.replication != "Negotiating";
        self.wait(node, "a connection", |seen| met(&seen.peers[0]));
    }

    pub(crate) fn wait_away(&self, node: NodeIndex) {
        self.wait(node, "the loss of the peer", |seen| seen.peers[0].connection != "Connected");
    }

    /// Both copies whole, and both nodes say so.
    pub(crate) fn wait_in_sync(&self, node: NodeIndex) {
        self.wait(node, "two whole copies", |seen| !seen.degraded);
        self.wait(1 - node, "two whole copies", |seen| !seen.degraded);
    }

    /// Makes a node primary that may need to meet its peer first.
    pub(crate) fn promote(&self, node: NodeIndex) {
        eventually("promotion", || {
            let ran = self.on(node, &["promote", RESOURCE]);
            if ran.code == 0 { Ok(()) } else { Err(ran.errors) }
        });
    }

    /// Without client I/O and in sync: both nodes say that nothing is out of sync, and the devices
    /// are byte-identical (G7).
    pub(crate) fn assert_identical(&self) {
        self.wait_in_sync(0);
        assert_eq!(self.first_difference(), None, "the copies differ from this block on");
    }

    /// The first block in which the devices differ.
    pub(crate) fn first_difference(&self) -> Option<u64> {
        let bytes = self.status(0).device_bytes;
        first_difference(&self.site.disk(0), &self.site.disk(1), bytes)
    }
}

/// The first 4 KiB block in which two files differ.
fn first_difference(first: &Path, second: &Path, bytes: u64) -> Option<u64> {
    let open = |path| File::open(path).expect("a disk").take(bytes);
    let (mut first, mut second) = (open(first), open(second));
    let (mut one, mut other) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    let mut offset = 0;
    while offset < bytes {
        let length = usize::try_from((bytes - offset).min(1 << 20)).expect("a piece");
        first.read_exact(&mut one[..length]).expect("read");
        second.read_exact(&mut other[..length]).expect("read");
        if one[..length] != other[..length] {
            let byte = one[..length].iter().zip(&other[..length]).position(|(a, b)| a != b);
            return Some((offset + byte.expect("they differ") as u64) / 4096);
        }
        offset += length as u64;
    }
    None
}

/// Changes bytes of a file behind the daemon's back.
pub(crate) fn spoil(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("the file");
    file.write_all_at(bytes, offset).expect("written");
}

/// A hash of a file's bytes; none if there is no file.
pub(crate) fn hash(path: &Path) -> Option<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).ok()?).ok()?;
    Some(hasher.finalize().to_hex().to_string())
}
