//! Owns a proxy between the nodes that does to their link what networks do. Must never lose a byte
//! of a connection that lives: TCP does not either, it holds bytes back or breaks.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddrV4, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

/// How often a thread without traffic looks whether it is still wanted.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What is done to the link.
#[derive(Debug, Default)]
struct Faults {
    /// Connections of earlier numbers are broken.
    number: u64,
    /// New connections are broken at once.
    refusing: bool,
    /// Bytes to this node are held back.
    stalled: [bool; 2],
    /// Every piece to this node waits so long.
    delay: [Duration; 2],
    /// This byte of those that are yet to reach this node is flipped.
    corrupt: [Option<u64>; 2],
    /// Bytes passed on, and connections broken by the nodes themselves.
    passed: [u64; 2],
    flipped: u64,
    over: bool,
}

#[derive(Debug, Default)]
struct Shared {
    faults: Mutex<Faults>,
    changed: Condvar,
    socket_bytes: Option<usize>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Faults> {
        self.faults.lock().expect("no thread panics with it")
    }

    fn narrow(&self, socket: &Socket) {
        if let Some(bytes) = self.socket_bytes {
            socket.set_recv_buffer_size(bytes).expect("set");
            socket.set_send_buffer_size(bytes).expect("set");
        }
    }

    fn change(&self, change: impl FnOnce(&mut Faults)) {
        change(&mut self.lock());
        self.changed.notify_all();
    }
}

/// The proxy; ends when dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    listeners: Vec<(SocketAddrV4, JoinHandle<()>)>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.change(|faults| (faults.over, faults.number) = (true, u64::MAX));
        for (face, listener) in self.listeners.drain(..) {
            // It looks whether it is over when somebody comes.
            let _ = TcpStream::connect(face);
            let _ = listener.join();
        }
    }
}

impl Proxy {
    /// What comes to `faces[node]` goes on to `nodes[node]`.
    pub(crate) fn start(faces: [SocketAddrV4; 2], nodes: [SocketAddrV4; 2]) -> Self {
        Self::narrow(faces, nodes, None)
    }

    /// The same, with sockets that buffer so much; none: as the system likes.
    pub(crate) fn narrow(
        faces: [SocketAddrV4; 2],
        nodes: [SocketAddrV4; 2],
        socket_bytes: Option<usize>,
    ) -> Self {
        let shared = Arc::new(Shared { socket_bytes, ..Shared::default() });
        let listen = |node: usize| {
            let listener = TcpListener::bind(faces[node]).expect("a proxy");
            // Before anybody connects: a window that was offered is not taken back.
            shared.narrow(&SockRef::from(&listener));
            let (shared, target) = (Arc::clone(&shared), nodes[node]);
            (faces[node], std::thread::spawn(move || accept(&listener, target, node, &shared)))
        };
        let listeners = vec![listen(0), listen(1)];
        Self { shared, listeners }
    }

    /// Breaks all connections by reset, and every new one.
    pub(crate) fn cut(&self) {
        self.shared.change(|faults| {
            faults.number += 1;
            faults.refusing = true;
        });
    }

    /// Breaks all connections once.
    pub(crate) fn reset(&self) {
        self.shared.change(|faults| faults.number += 1);
    }

    /// From now on nothing reaches this node, silently.
    pub(crate) fn stall_towards(&self, node: usize) {
        self.shared.change(|faults| faults.stalled[node] = true);
    }

    /// Every piece of bytes to this node comes late.
    pub(crate) fn delay_towards(&self, node: usize, delay: Duration) {
        self.shared.change(|faults| faults.delay[node] = delay);
    }

    /// Flips one bit of the byte `after` bytes from now on to this node.
    pub(crate) fn corrupt_towards(&self, node: usize, after: u64) {
        self.shared.change(|faults| faults.corrupt[node] = Some(after));
    }

    /// Bytes flipped so far.
    pub(crate) fn flipped(&self) -> u64 {
        self.shared.lock().flipped
    }

    /// Bytes that went through to this node.
    pub(crate) fn passed(&self, node: usize) -> u64 {
        self.shared.lock().passed[node]
    }

    /// Ends all faults. What was held back comes through now, late, if its connection lives.
    pub(crate) fn heal(&self) {
        self.shared.change(|faults| {
            faults.refusing = false;
            faults.stalled = [false; 2];
            faults.delay = [Duration::ZERO; 2];
            faults.corrupt = [None; 2];
        });
    }
}

fn accept(listener: &TcpListener, target: SocketAddrV4, node: usize, shared: &Arc<Shared>) {
    for from in listener.incoming() {
        if shared.lock().over {
            return;
        }
        connect(&from.expect("the proxy accepts"), target, node, shared);
    }
}

fn connect(from: &TcpStream, target: SocketAddrV4, node: usize, shared: &Arc<Shared>) {
    let _ = SockRef::from(from).set_linger(Some(Duration::ZERO));
    let (number, refusing) = {
        let faults = shared.lock();
        (faults.number, faults.refusing)
    };
    if refusing {
        return;
    }
    let to = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    shared.narrow(&to);
    if to.connect_timeout(&target.into(), Duration::from_secs(5)).is_err() {
        return;
    }
    let to = TcpStream::from(to);
    let _ = SockRef::from(&to).set_linger(Some(Duration::ZERO));
    for stream in [from, &to] {
        let _ = stream.set_nodelay(true);
        stream.set_read_timeout(Some(LOOK_EVERY)).expect("set");
    }
    let pump = |from: &TcpStream, to: &TcpStream, node: usize| {
        let (from, to) = (from.try_clone().expect("a copy"), to.try_clone().expect("a copy"));
        let pump = Pump { from, to, node, number, shared: Arc::clone(shared) };
        std::thread::spawn(move || pump.run());
    };
    pump(from, &to, node);
    pump(&to, from, 1 - node);
}

/// One direction of one connection.
struct Pump {
    from: TcpStream,
    to: TcpStream,
    node: usize,
    number: u64,
    shared: Arc<Shared>,
}

impl Pump {
    fn run(mut self) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = match self.from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    if self.shared.lock().number != self.number {
                        return;
                    }
                    continue;
                }
                Err(_) => break,
            };
            if !self.treat(&mut buffer[..read]) || self.to.write_all(&buffer[..read]).is_err() {
                return;
            }
        }
        // The end of the stream is passed on too, unless it is held back like all else.
        if self.treat(&mut []) {
            let _ = self.to.shutdown(Shutdown::Write);
        }
    }

    /// Does to a piece what is to be done; whether the connection still stands.
    fn treat(&self, piece: &mut [u8]) -> bool {
        let mut faults = self.shared.lock();
        let delay = faults.delay[self.node];
        if !delay.is_zero() {
            drop(faults);
            // The fault itself, not a wait for something.
            std::thread::sleep(delay);
            faults = self.shared.lock();
        }
        while faults.stalled[self.node] && faults.number == self.number {
            faults = self.shared.changed.wait(faults).expect("no thread panics with it");
        }
        if faults.number != self.number {
            return false;
        }
        let length = piece.len() as u64;
        faults.passed[self.node] += length;
        if let Some(left) = faults.corrupt[self.node] {
            match piece.get_mut(usize::try_from(left).unwrap_or(usize::MAX)) {
                Some(byte) => {
                    *byte ^= 0x10;
                    faults.flipped += 1;
                    faults.corrupt[self.node] = None;
                }
                None => faults.corrupt[self.node] = Some(left - length),
            }
        }
        true
    }
}
