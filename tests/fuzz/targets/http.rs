//! The admin interface as a whole: what anybody who may connect writes to the socket, before a
//! shard that answers as it is told.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex, split};
use tokio::runtime::Builder;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use twinblk::control::body::{ErrorBody, EventBody};
use twinblk::control::{Announcer, Door, Facts, Gateway, Order, OrderKind, serve};
use twinblk::format::frame::{DiskState, Protocol, Role};
use twinblk::replica::event::{
    Change, Command, Connection, PeerStatus, Refusal, Replication, Status,
};
use twinblk::units::{Epoch, NodeId};

/// The life of a client, by a clock that jumps whenever everybody waits. Each request ends within
/// an hour or so; a stream of events is all that lasts as long as its reader.
const LIFE: Duration = Duration::from_secs(500 * 86_400);

/// Bytes of answer for each byte of request: all there is to say of a resource, for a short line.
const ANSWER_FACTOR: usize = 128;

/// Writes of one connection: a long request in crumbs would take too many turns.
const WRITES_MAX: usize = 256;

/// The first byte says how the rest is cut into pieces, the second how often it is sent: the
/// limits on requests and buffers lie above the length of an input.
pub(super) fn admin_http(bytes: &[u8]) {
    let Some(([piece, times], request)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let request = request.repeat(1 + usize::from(times % 8));
    let piece = (1 + usize::from(*piece)).max(request.len() / WRITES_MAX);
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a thread and a clock of its own");
    let answer = runtime.block_on(exchange(&request, piece));
    assert!(answer.len() <= 4096 + ANSWER_FACTOR * request.len(), "an answer without bound");
    check(&answer);
}

async fn exchange(request: &[u8], piece: usize) -> Vec<u8> {
    let (door, orders) = Door::new(Arc::new(|| {}));
    let gateway = gateway(door);
    let announcer = gateway.announcer();
    let shard = tokio::spawn(shard(orders, announcer.clone()));
    let (_stop, stopping) = watch::channel(false);
    let (near, far) = duplex(16 << 10);
    let serving = tokio::spawn(serve(far, gateway, stopping));
    let answer = talk(near, request, piece).await;
    // The client has gone: so must all that was begun for it. A reader of events who said more
    // than its request is missed with the next change only: until then nothing is read or written.
    announcer.announce("r0", &change());
    // The shard ends once nobody can ask.
    for task in [serving, shard] {
        let ended = timeout(LIFE, task).await.expect("a connection outlives its client");
        ended.expect("no panic");
    }
    answer
}

/// Says all and hears all there is, until the other side closes or nothing more comes.
async fn talk(stream: DuplexStream, request: &[u8], piece: usize) -> Vec<u8> {
    let (mut from, mut to) = split(stream);
    let mut answer = Vec::new();
    let say = async {
        for piece in request.chunks(piece) {
            if to.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let hear = from.read_to_end(&mut answer);
    let _ = timeout(LIFE, async { tokio::join!(say, hear) }).await;
    answer
}

fn gateway(door: Door) -> Arc<Gateway> {
    let facts = Facts {
        protocol: Protocol::C,
        disk: "/dev/vg0/r0".into(),
        metadata: None,
        nbd_socket: "/run/twinblk/r0.nbd".into(),
    };
    let names = BTreeMap::from([(NodeId(0), "alpha".to_owned())]);
    Arc::new(Gateway::new(NodeId(0), names, [("r0".to_owned(), facts, door)]))
}

/// `promote` is refused unless forced, `verify` never ends, `invalidate` loses its answer, all else
/// is done. Whoever asks for the state hears of changes, if it follows events.
async fn shard(mut orders: mpsc::Receiver<Order>, announcer: Announcer) {
    let mut endless = Vec::new();
    while let Some(order) = orders.recv().await {
        assert_eq!(order.resource, "r0", "an order for nobody");
        match order.kind {
            OrderKind::Status { reply } => {
                announcer.announce("r0", &change());
                drop(reply.send(Box::new(status())));
            }
            OrderKind::Command { command, reply } => {
                let refusal = Refusal { reason: "not-current", text: "old data".to_owned() };
                match command {
                    Command::Verify { .. } => endless.push(reply),
                    Command::Invalidate => drop(reply),
                    Command::Promote { force: false } => drop(reply.send(Err(refusal))),
                    other => drop(reply.send(Ok(format!("{other:?}")))),
                }
                endless.retain(|reply| !reply.is_closed());
            }
        }
    }
}

fn change() -> Change {
    let (old, new) = ("Secondary".to_owned(), "Primary".to_owned());
    Change { what: "role", old, new, cause: String::new() }
}

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

/// All that was answered on one connection is whole, and each failure is in words.
fn check(mut answer: &[u8]) {
    while !answer.is_empty() {
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a whole head");
        let head = std::str::from_utf8(&answer[..end]).expect("our headers are text");
        answer = &answer[end + 4..];
        let code = head.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5)?.parse().ok());
        let code: u16 = code.unwrap_or_else(|| panic!("no answer of HTTP: {head:?}"));
        let field = |name: &str| {
            let mut lines = head.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        // To a HEAD, nothing but the head.
        let bodiless = answer.is_empty() || answer.starts_with(b"HTTP/1.");
        match field("content-type") {
            Some("application/json") if !bodiless => {
                let length = field("content-length").and_then(|length| length.parse().ok());
                let length: usize = length.expect("it is known");
                judge(code, &answer[..length]);
                answer = &answer[length..];
            }
            Some("application/x-ndjson") if !bodiless => {
                assert_eq!(code, 200);
                return follow(answer, field("transfer-encoding") == Some("chunked"));
            }
            Some("application/json" | "application/x-ndjson") => {}
            // What is no HTTP is answered by the library, which has no words. Or: go on.
            None if bodiless && (code == 100 || (400..500).contains(&code)) => {}
            _ => panic!("an answer that nobody expects: {head:?}"),
        }
    }
}

fn judge(code: u16, body: &[u8]) {
    if code == 200 {
        let value: serde_json::Value = serde_json::from_slice(body).expect("it is JSON");
        assert_eq!(value["schema_version"], 1);
    } else {
        let error: ErrorBody = serde_json::from_slice(body).expect("a failure in words");
        assert!(code >= 400 && !error.error.message.is_empty());
    }
}

/// A stream of events that its reader left: whole lines, the state first.
fn follow(body: &[u8], chunked: bool) {
    let text = std::str::from_utf8(body).expect("events are text");
    let is_line = |line: &&str| !chunked || line.starts_with('{');
    let lines: Vec<&str> = text.lines().filter(is_line).collect();
    assert!(!lines.is_empty(), "a stream without its beginning");
    for line in lines {
        let _event: EventBody = serde_json::from_str(line).expect("an event");
    }
}
