//! The admin surface before a shard that answers as it is told: commands, refusals, limits, events,
//! and what strangers may send.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use super::body::{DoneBody, ErrorBody, Event, EventBody, StatusBody, VersionBody};
use super::router::{self, Shared};
use super::server::{admits, converse};
use super::*;
use crate::format::frame::{DiskState, Protocol, Role};
use crate::replica::event::{
    Change, Command, Connection, PeerStatus, Refusal, Replication, Status,
};
use crate::units::{Epoch, NodeId};

fn status() -> Status {
    let peer = PeerStatus {
        node: NodeId(1),
        connection: Connection::Connected,
        connection_reason: String::new(),
        replication: Replication::Established,
        role: Some(Role::Secondary),
        disk: Some(DiskState::UpToDate),
        out_of_sync_blocks: 0,
        resync_total_blocks: 0,
        resync_done_blocks: 0,
        resync_blocks_per_second: 0,
        last_resync_blocks: 3,
        verify_done_blocks: 0,
        verify_differing_blocks: 0,
        unstable_writes: 0,
    };
    Status {
        node: NodeId(0),
        role: Role::Primary,
        disk: DiskState::UpToDate,
        disk_reason: String::new(),
        just_created: false,
        epoch: Epoch(4),
        generation: None,
        device_blocks: 256,
        suspended: String::new(),
        promote_refusal: String::new(),
        requests_in_flight: 0,
        log_writes: 0,
        peers: vec![peer],
    }
}

/// Answers as a core would: `promote` is refused unless forced, `verify` never ends, `invalidate`
/// loses its answer, all else is done.
async fn shard(mut orders: mpsc::Receiver<Order>) {
    let mut endless = Vec::new();
    while let Some(order) = orders.recv().await {
        assert_eq!(order.resource, "r0");
        match order.kind {
            OrderKind::Status { reply } => drop(reply.send(Box::new(status()))),
            OrderKind::Command { command, reply } => {
                let refusal = Refusal { reason: "not-current", text: "old data".to_owned() };
                match command {
                    Command::Verify { .. } => endless.push(reply),
                    Command::Invalidate => drop(reply),
                    Command::Promote { force: false } => drop(reply.send(Err(refusal))),
                    other => drop(reply.send(Ok(format!("{other:?}")))),
                }
            }
        }
    }
}

fn gateway(wake: Wake) -> (Arc<Gateway>, mpsc::Receiver<Order>) {
    let (door, orders) = Door::new(wake);
    let facts = Facts {
        protocol: Protocol::C,
        disk: "/dev/vg0/r0".into(),
        metadata: None,
        nbd_socket: "/run/twinblk/r0.nbd".into(),
    };
    let names = [(NodeId(0), "alpha".to_owned()), (NodeId(1), "beta".to_owned())];
    let resources = [("r0".to_owned(), facts, door)];
    (Arc::new(Gateway::new(NodeId(0), BTreeMap::from(names), resources)), orders)
}

/// A daemon's admin surface on a socket of its own.
struct Daemon {
    _directory: TempDir,
    socket: PathBuf,
    gateway: Arc<Gateway>,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
}

impl Daemon {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("run/admin.sock");
        let (gateway, orders) = gateway(Arc::new(|| {}));
        tokio::spawn(shard(orders));
        let (stop, stopping) = watch::channel(false);
        let server = Server::bind(&socket).expect("a socket");
        let server = tokio::spawn(server.run(Arc::clone(&gateway), stopping));
        Self { _directory: directory, socket, gateway, stop, server }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(&self.socket).await.expect("the daemon listens")
    }

    /// Sends bytes and reads all that comes until the connection ends.
    async fn exchange(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The daemon may close on a request that is too long before it has read all.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        parted(&self.exchange(request.as_bytes()).await)
    }

    async fn post(&self, path: &str, body: &str) -> (u16, String) {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n\
             {body}",
            body.len()
        );
        parted(&self.exchange(request.as_bytes()).await)
    }
}

/// Status and body of an answer.
fn parted(answer: &str) -> (u16, String) {
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok());
    let body = answer.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    (status.unwrap_or_default(), body.unwrap_or_default())
}

fn kind(body: &str) -> String {
    serde_json::from_str::<ErrorBody>(body).map_or_else(|_| body.to_owned(), |it| it.error.kind)
}

#[tokio::test]
async fn status_and_version_are_told() {
    let daemon = Daemon::start();
    let (code, body) = daemon.get("/v1/status/r0").await;
    assert_eq!(code, 200);
    let told: StatusBody = serde_json::from_str(&body).expect("a status");
    let r0 = &told.resources[0];
    assert_eq!((told.schema_version, told.node.as_str()), (1, "alpha"));
    assert_eq!((r0.role.as_str(), r0.device_bytes, r0.degraded), ("Primary", 1 << 20, false));
    assert_eq!((r0.peers[0].node.as_str(), r0.peers[0].last_resync_bytes), ("beta", 3 * 4096));
    assert!(r0.may_promote);
    assert_eq!(daemon.get("/v1/status").await, (200, body));
    let (_, body) = daemon.get("/v1/version").await;
    let version: VersionBody = serde_json::from_str(&body).expect("a version");
    assert_eq!(version.program, "twinblk");
}

#[test]
fn degraded_means_less_than_two_good_copies() {
    let (gateway, _orders) = gateway(Arc::new(|| {}));
    let facts = Facts {
        protocol: Protocol::A,
        disk: "/d".into(),
        metadata: Some("/m".into()),
        nbd_socket: "/n".into(),
    };
    let degraded = |spoil: fn(&mut Status)| {
        let mut status = status();
        spoil(&mut status);
        body::ResourceBody::new(&gateway, "r0", &facts, &status).degraded
    };
    assert!(!degraded(|_| {}));
    assert!(!degraded(|it| it.peers[0].replication = Replication::VerifySource));
    assert!(degraded(|it| it.disk = DiskState::Diskless));
    assert!(degraded(|it| it.suspended = "waits".to_owned()));
    assert!(degraded(|it| it.just_created = true));
    assert!(degraded(|it| it.peers[0].disk = None));
    assert!(degraded(|it| it.peers[0].disk = Some(DiskState::Inconsistent)));
    assert!(degraded(|it| it.peers[0].replication = Replication::SyncSource));
    assert!(degraded(|it| it.peers[0].out_of_sync_blocks = 1));
}

#[tokio::test]
async fn commands_reach_the_shard_and_can_be_repeated() {
    let daemon = Daemon::start();
    for _ in 0..2 {
        let (code, body) = daemon.post("/v1/resource/r0/demote", "").await;
        assert_eq!(code, 200);
        let done: DoneBody = serde_json::from_str(&body).expect("done");
        assert_eq!((done.resource.as_str(), done.result.as_str()), ("r0", "Demote"));
    }
    let (code, body) = daemon.post("/v1/resource/r0/promote", r#"{"force":true}"#).await;
    assert!(code == 200 && body.contains("Promote { force: true }"), "{body}");
}

#[tokio::test]
async fn a_shard_is_woken_for_each_order() {
    let woken = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&woken);
    let (gateway, orders) = gateway(Arc::new(move || {
        count.fetch_add(1, Ordering::Relaxed);
    }));
    tokio::spawn(shard(orders));
    gateway.status("r0").await.expect("a status");
    gateway.command("r0", Command::Demote, Duration::from_secs(1)).await.expect("done");
    assert_eq!(woken.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn failures_say_what_kind_they_are() {
    let daemon = Daemon::start();
    let (code, body) = daemon.get("/v1/status/r9").await;
    assert_eq!((code, kind(&body).as_str()), (404, "no_such_resource"));
    assert!(body.contains("it has: r0"), "{body}");
    let (code, body) = daemon.get("/v1/status/%ff").await;
    assert_eq!((code, kind(&body).as_str()), (400, "bad_request"));
    let (code, body) = daemon.post("/v1/resource/r0/promote", "{}").await;
    let error = serde_json::from_str::<ErrorBody>(&body).expect("an error").error;
    assert_eq!(
        (code, error.kind.as_str(), error.reason.as_deref()),
        (409, "refused", Some("not-current"))
    );
    let (code, body) = daemon.post("/v1/resource/r0/verify", r#"{"timeout_ms":1}"#).await;
    assert_eq!((code, kind(&body).as_str()), (504, "timed_out"));
    let (code, body) = daemon.post("/v1/resource/r0/invalidate", "").await;
    assert_eq!((code, kind(&body).as_str()), (503, "stopping"));
}

#[tokio::test]
async fn nonsense_is_refused_and_harmless() {
    let daemon = Daemon::start();
    let refused = [
        ("/v1/resource/r0/explode", "", 400),
        ("/v1/resource/r0/stop", "", 400),
        ("/v1/resource/r0/demote", r#"{"force":true}"#, 400),
        ("/v1/resource/r0/demote", r#"{"fource":true}"#, 400),
        ("/v1/resource/r0/demote", "[1,2", 400),
        ("/v1/resource/r0/demote", r#"{"timeout_ms":-1}"#, 400),
        ("/v1/resource/r0/demote", "\0\0\0", 400),
        ("/v1/status", "", 405),
        ("/v2/status", "", 404),
        ("/v1/resource/r0/demote/now", "", 404),
        // Escaped to what is no text.
        ("/v1/resource/%ff/demote", "", 400),
        ("/v1/resource/r0/%ff", "", 400),
    ];
    for (path, body, expected) in refused {
        let (code, answer) = daemon.post(path, body).await;
        assert_eq!(code, expected, "{path} {body}: {answer}");
        serde_json::from_str::<ErrorBody>(&answer).expect("failures are JSON");
    }
    let large = " ".repeat(1 << 20);
    let (code, _) = daemon.post("/v1/resource/r0/demote", &large).await;
    assert!(code == 400 || code == 0, "a large body gave {code}");
    let lines =
        vec![b"\x16\x03\x01\x02garbage\r\n\r\n".to_vec(), b"GET ".to_vec(), vec![0; 70_000]];
    for garbage in lines {
        let mut stream = daemon.connect().await;
        let _ = stream.write_all(&garbage).await;
        drop(stream);
    }
    assert_eq!(daemon.get("/v1/status").await.0, 200);
}

#[tokio::test]
async fn a_body_that_is_too_large_is_never_read_whole() {
    let daemon = Daemon::start();
    let mut stream = daemon.connect().await;
    let head =
        "POST /v1/resource/r0/demote HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("the head");
    // Nobody who read it whole could answer: it never ends.
    let mut sent = 0_u64;
    while stream.write_all(&[b' '; 4096]).await.is_ok() {
        sent += 4096;
        assert!(sent < 1 << 30, "the daemon swallows it");
    }
    assert_eq!(daemon.get("/v1/status").await.0, 200);
}

#[tokio::test]
async fn events_begin_with_all_there_is_then_go_on() {
    let daemon = Daemon::start();
    let mut stream = daemon.connect().await;
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let mut lines = BufReader::new(stream).lines();
    let mut next = async || loop {
        let line = lines.next_line().await.expect("open").expect("not ended");
        if line.starts_with('{') {
            return serde_json::from_str::<EventBody>(&line).expect("an event").event;
        }
    };
    let first = next().await;
    assert!(matches!(first, Event::Exists { resource, status: Some(_) } if resource == "r0"));
    let marker = Event::Exists { resource: "-".to_owned(), status: None };
    assert_eq!(next().await, marker);
    let change = Change {
        what: "role",
        old: "Primary".to_owned(),
        new: "Secondary".to_owned(),
        cause: "demote".to_owned(),
    };
    daemon.gateway.announcer().announce("r0", &change);
    let event = next().await;
    assert!(matches!(event, Event::Change { number: 1, new, .. } if new == "Secondary"));
}

#[tokio::test]
async fn a_reader_that_falls_behind_is_cut_and_told() {
    let daemon = Daemon::start();
    let mut stream = daemon.connect().await;
    stream.write_all(b"GET /v1/events HTTP/1.0\r\n\r\n").await.expect("sent");
    let mut lines = BufReader::new(stream).lines();
    loop {
        let line = lines.next_line().await.expect("open").expect("not ended");
        if line.contains(r#""resource":"-""#) {
            break;
        }
    }
    let change =
        Change { what: "io", old: String::new(), new: String::new(), cause: String::new() };
    for _ in 0..5000 {
        daemon.gateway.announcer().announce("r0", &change);
    }
    let mut last = String::new();
    while let Ok(Some(line)) = lines.next_line().await {
        last = line;
    }
    assert!(last.contains(r#""event":"cut""#) && last.contains("too slow"), "{last}");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_nothing_is_dropped() {
    let (_ours, theirs) = tokio::io::duplex(64);
    let mut guarded = stall::StallGuard::new(theirs, Duration::from_secs(30));
    let error = guarded.write_all(&[0; 65]).await.expect_err("nobody reads");
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_a_little_each_time_is_served() {
    let (mut ours, theirs) = tokio::io::duplex(64);
    let mut guarded = stall::StallGuard::new(theirs, Duration::from_secs(30));
    let reader = tokio::spawn(async move {
        let mut taken = Vec::new();
        ours.read_to_end(&mut taken).await.map(|_| taken.len())
    });
    guarded.write_all(&[0; 4096]).await.expect("somebody reads");
    drop(guarded);
    assert_eq!(reader.await.expect("no panic").expect("read"), 4096);
}

#[tokio::test]
async fn only_root_and_the_daemons_user_are_heard() {
    assert!(admits(0, 0) && admits(0, 990) && admits(990, 990));
    assert!(!admits(1000, 0) && !admits(1000, 990));
    let (_stop, stopping) = watch::channel(false);
    let (mut ours, theirs) = UnixStream::pair().expect("a pair");
    let place = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a place");
    tokio::spawn(converse(theirs, router::refusal(1000), stopping, place));
    let request = b"POST /v1/resource/r0/demote HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    ours.write_all(request).await.expect("sent");
    let mut answer = String::new();
    ours.read_to_string(&mut answer).await.expect("an answer");
    let (code, body) = parted(&answer);
    assert_eq!((code, kind(&body).as_str()), (403, "forbidden"));
}

#[tokio::test]
async fn event_streams_and_connections_are_counted() {
    let (gateway, _orders) = gateway(Arc::new(|| {}));
    let (_stop, stopping) = watch::channel(false);
    let routes = router::routes(Shared::new(gateway, stopping.clone()));
    let places = Arc::new(Semaphore::new(99));
    let mut open = Vec::new();
    let mut codes = Vec::new();
    for _ in 0..17 {
        let (mut ours, theirs) = UnixStream::pair().expect("a pair");
        let place = Arc::clone(&places).try_acquire_owned().expect("a place");
        tokio::spawn(converse(theirs, routes.clone(), stopping.clone(), place));
        ours.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
        let mut head = [0; 12];
        ours.read_exact(&mut head).await.expect("a status line");
        codes.push(String::from_utf8_lossy(&head[9..]).into_owned());
        open.push(ours);
    }
    assert_eq!(codes[..16], vec!["200"; 16]);
    assert_eq!(codes[16], "503");
}

#[tokio::test]
async fn a_stopping_daemon_ends_streams_and_leaves_no_socket() {
    let daemon = Daemon::start();
    let mut stream = daemon.connect().await;
    stream.write_all(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("sent");
    let mut first = [0; 1];
    stream.read_exact(&mut first).await.expect("the answer begins");
    daemon.stop.send(true).expect("it runs");
    daemon.server.await.expect("it ends");
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    assert!(!daemon.socket.exists());
}

#[tokio::test]
async fn a_dead_daemons_socket_is_taken_over_and_a_live_ones_is_not() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = Daemon::start();
    let error = Server::bind(&daemon.socket).expect_err("somebody listens");
    assert!(matches!(error, BindError::InUse(_)), "{error}");
    let mode = std::fs::metadata(&daemon.socket).expect("a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let directory = tempfile::tempdir().expect("a directory");
    let stale = directory.path().join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("a socket"));
    assert!(stale.exists());
    Server::bind(&stale).expect("taken over");
    let file = directory.path().join("file");
    std::fs::write(&file, "precious").expect("written");
    assert!(matches!(Server::bind(&file), Err(BindError::NotASocket(_))));
    assert!(file.exists());
}

#[tokio::test]
async fn an_order_whose_sender_gave_up_is_known_as_such() {
    let (gateway, mut orders) = gateway(Arc::new(|| {}));
    let limit = Duration::from_millis(1);
    let error = gateway.command("r0", Command::Demote, limit).await.expect_err("nobody answers");
    assert!(matches!(error, ControlError::TimedOut { .. }), "{error}");
    assert!(orders.recv().await.expect("the order").is_abandoned());
    drop(orders);
    let error = gateway.command("r0", Command::Demote, limit).await.expect_err("nobody is there");
    assert_eq!(error, ControlError::Stopping);
}

#[tokio::test]
async fn a_shard_that_does_not_look_is_not_buried() {
    let (gateway, mut orders) = gateway(Arc::new(|| {}));
    let limit = Duration::ZERO;
    for _ in 0..256 {
        let _ = gateway.command("r0", Command::Demote, limit).await;
    }
    let error = gateway.command("r0", Command::Demote, limit).await.expect_err("it is full");
    assert_eq!(error, ControlError::Busy("r0".to_owned()));
    let mut waiting = 0;
    while orders.try_recv().is_ok() {
        waiting += 1;
    }
    assert_eq!(waiting, 256);
}
