//! Owns a real NBD client: sessions over a unix socket, and a load of stamped writes with several
//! in flight that outlives its servers. Must never have two requests on one block at a time.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use twinblk_nbd::client::{Client, ClientEvent, ClientHandshake, OpenStep};
use twinblk_nbd::{Command, CommandFlags, Request};

use crate::config::RESOURCE;
use crate::ledger::{Ledger, Range};
use crate::stage::{LIMIT, eventually};
use crate::stamp::{BLOCK, Stamp, content};

/// A reply.
#[derive(Debug)]
pub(crate) struct Done {
    cookie: u64,
    result: Result<Vec<u8>, String>,
}

/// One session of a client that waits for its replies.
#[derive(Debug)]
pub(crate) struct Session {
    stream: UnixStream,
    client: Client,
    input: Vec<u8>,
    /// What READs have got so far, with their offset.
    reads: BTreeMap<u64, (u64, Vec<u8>)>,
}

impl Session {
    /// Opens the export.
    pub(crate) fn open(socket: &Path) -> Result<Self, String> {
        let mut stream = UnixStream::connect(socket).map_err(|error| error.to_string())?;
        stream.set_read_timeout(Some(LIMIT)).expect("set");
        let mut handshake = ClientHandshake::new(RESOURCE, true).expect("a name");
        let mut input = Vec::new();
        let terms = loop {
            let (taken, step) = handshake.feed(&input);
            input.drain(..taken);
            stream.write_all(&handshake.take_output()).map_err(|error| error.to_string())?;
            match step {
                OpenStep::NeedMore => receive(&mut stream, &mut input)?,
                OpenStep::Send => {}
                OpenStep::Open(terms) => break terms,
                OpenStep::Failed(error) => return Err(error.to_string()),
            }
        };
        Ok(Self { stream, client: Client::new(terms), input, reads: BTreeMap::new() })
    }

    /// Hangs up in the middle of a request.
    pub(crate) fn break_off(mut self) {
        let _ = self.stream.write_all(&[0x25, 0x60, 0x95]);
    }

    /// Size of the device.
    pub(crate) fn blocks(&self) -> u64 {
        self.client.terms().size_bytes / BLOCK as u64
    }

    fn send(&mut self, request: Request, payload: &[u8]) -> Result<(), String> {
        let header = self.client.submit(request).map_err(|error| error.to_string())?;
        if request.command == Command::READ {
            let bytes = vec![0; usize::try_from(request.length).expect("small")];
            self.reads.insert(request.cookie, (request.offset, bytes));
        }
        let sent = self.stream.write_all(&header).and_then(|()| self.stream.write_all(payload));
        sent.map_err(|error| error.to_string())
    }

    /// Waits for the end of any request.
    fn next(&mut self) -> Result<Done, String> {
        loop {
            let (taken, event) = self.client.feed(&self.input);
            self.input.drain(..taken);
            match event {
                ClientEvent::NeedMore => receive(&mut self.stream, &mut self.input)?,
                ClientEvent::Data { cookie, offset, length } => {
                    let length = usize::try_from(length).expect("small");
                    while self.input.len() < length {
                        receive(&mut self.stream, &mut self.input)?;
                    }
                    let (start, bytes) = self.reads.get_mut(&cookie).expect("asked for");
                    let at = usize::try_from(offset - *start).expect("small");
                    bytes[at..at + length].copy_from_slice(&self.input[..length]);
                    self.input.drain(..length);
                    self.client.payload_done();
                }
                ClientEvent::Zeroes { .. } => {}
                ClientEvent::Completed { cookie, result } => {
                    let (_, bytes) = self.reads.remove(&cookie).unwrap_or_default();
                    let result = result.map(|()| bytes).map_err(|failure| failure.to_string());
                    return Ok(Done { cookie, result });
                }
                ClientEvent::PayloadDue(_) | ClientEvent::Fatal(_) => {
                    return Err(format!("the server talks nonsense: {event:?}"));
                }
            }
        }
    }

    /// One request alone.
    fn ask(&mut self, request: Request, payload: &[u8]) -> Result<Vec<u8>, String> {
        self.send(request, payload)?;
        self.next()?.result
    }

    pub(crate) fn read(&mut self, first: u64, blocks: u64) -> Result<Vec<u8>, String> {
        self.ask(request(Command::READ, 0, Range { first, count: blocks }), &[])
    }

    pub(crate) fn write(&mut self, first: u64, bytes: &[u8]) -> Result<(), String> {
        let range = Range { first, count: (bytes.len() / BLOCK) as u64 };
        self.ask(request(Command::WRITE, 0, range), bytes).map(drop)
    }

    pub(crate) fn flush(&mut self) -> Result<(), String> {
        self.ask(Request::new(Command::FLUSH, 0, 0, 0), &[]).map(drop)
    }

    /// All bytes of the device.
    pub(crate) fn read_all(&mut self) -> Result<Vec<u8>, String> {
        let (mut image, blocks, piece) = (Vec::new(), self.blocks(), 256);
        for first in (0..blocks).step_by(256) {
            image.extend(self.read(first, piece.min(blocks - first))?);
        }
        Ok(image)
    }

    /// Takes leave.
    pub(crate) fn close(mut self) {
        let _ = self.stream.write_all(&Client::disconnect());
    }
}

fn receive(stream: &mut UnixStream, input: &mut Vec<u8>) -> Result<(), String> {
    let mut piece = [0; 64 << 10];
    match stream.read(&mut piece) {
        Ok(0) => Err("the server closed the connection".to_owned()),
        Ok(read) => {
            input.extend_from_slice(&piece[..read]);
            Ok(())
        }
        Err(error) => Err(error.to_string()),
    }
}

fn request(command: Command, cookie: u64, range: Range) -> Request {
    let length = u32::try_from(range.count * BLOCK as u64).expect("small");
    Request::new(command, cookie, range.first * BLOCK as u64, length)
}

/// Numbers that look random, the same for the same seed.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) const fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What a load is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    pub(crate) seed: u64,
    /// Requests in flight.
    pub(crate) depth: usize,
    /// Also WRITE_ZEROES and TRIM.
    pub(crate) zeroes: bool,
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Write(Range, Stamp),
    Read(Range),
    Flush(u64),
}

#[derive(Debug)]
struct Shared {
    ledger: Mutex<Ledger>,
    socket: Mutex<PathBuf>,
    stop: AtomicBool,
    paused: AtomicBool,
    idle: AtomicBool,
    acknowledged: AtomicU64,
    in_flight: AtomicU64,
    errors: Mutex<Vec<String>>,
    violations: Mutex<Vec<String>>,
    /// Writes in flight at each loss of the server.
    losses: Mutex<Vec<usize>>,
}

/// A client at work on its own thread; ends when dropped.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take().filter(|_| !std::thread::panicking()) {
            let _ = thread.join();
        }
    }
}

impl Load {
    /// Begins on a device of zeroes.
    pub(crate) fn start(socket: &Path, blocks: u64, mix: Mix) -> Self {
        let shared = Arc::new(Shared {
            ledger: Mutex::new(Ledger::new(blocks)),
            socket: Mutex::new(socket.to_owned()),
            stop: AtomicBool::new(false),
            paused: AtomicBool::new(false),
            idle: AtomicBool::new(false),
            acknowledged: AtomicU64::new(0),
            in_flight: AtomicU64::new(0),
            errors: Mutex::default(),
            violations: Mutex::default(),
            losses: Mutex::default(),
        });
        let worker = Worker {
            shared: Arc::clone(&shared),
            mix,
            random: Random::new(mix.seed),
            busy: vec![false; usize::try_from(blocks).expect("small")],
            asked: BTreeMap::new(),
            next: 1,
        };
        Self { shared, thread: Some(std::thread::spawn(move || worker.run())) }
    }

    /// Goes to another server from the next connection on.
    pub(crate) fn go_to(&self, socket: &Path) {
        socket.clone_into(&mut self.shared.socket.lock().expect("lock"));
    }

    /// Writes acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged.load(Ordering::SeqCst)
    }

    /// Writes in flight now.
    pub(crate) fn in_flight(&self) -> u64 {
        self.shared.in_flight.load(Ordering::SeqCst)
    }

    /// Writes whose server was lost, each time.
    pub(crate) fn losses(&self) -> Vec<usize> {
        self.shared.losses.lock().expect("lock").clone()
    }

    /// That no server was ever lost.
    pub(crate) fn assert_kept_server(&self) {
        assert_eq!(self.losses(), Vec::<usize>::new(), "the client lost its server");
    }

    /// Waits until so many more writes are acknowledged.
    pub(crate) fn wait_for(&self, more: u64) {
        let goal = self.acknowledged() + more;
        eventually("acknowledged writes", || {
            self.assert_right();
            match self.acknowledged() {
                enough if enough >= goal => Ok(()),
                seen => Err(format!("{seen} of {goal}")),
            }
        });
    }

    /// Waits until so many more writes are acknowledged and one at least is in flight; no other
    /// look at the clock lies between that and the return.
    pub(crate) fn wait_mid_write(&self, more: u64) -> u64 {
        let goal = self.acknowledged() + more;
        let begun = std::time::Instant::now();
        loop {
            let in_flight = self.in_flight();
            if self.acknowledged() >= goal && in_flight > 0 {
                return in_flight;
            }
            assert!(begun.elapsed() < LIMIT, "{} of {goal}", self.acknowledged());
            std::thread::yield_now();
        }
    }

    /// That no read showed what it must not, and no request failed.
    pub(crate) fn assert_right(&self) {
        let violations = self.shared.violations.lock().expect("lock");
        assert!(violations.is_empty(), "{violations:?}");
        let errors = self.shared.errors.lock().expect("lock");
        assert!(errors.is_empty(), "{errors:?}");
    }

    /// Lets all requests end, and begins none.
    pub(crate) fn pause(&self) {
        self.shared.idle.store(false, Ordering::SeqCst);
        self.shared.paused.store(true, Ordering::SeqCst);
        eventually("rest of the load", || {
            let idle = self.shared.idle.load(Ordering::SeqCst);
            if idle { Ok(()) } else { Err(format!("{} in flight", self.in_flight())) }
        });
        self.assert_right();
    }

    pub(crate) fn resume(&self) {
        self.shared.paused.store(false, Ordering::SeqCst);
    }

    /// While at rest: judges all that this server shows.
    pub(crate) fn judge(&self, socket: &Path) {
        self.try_judge(socket).expect("every acknowledged write is there");
    }

    /// The same, and what is wrong if something is.
    pub(crate) fn try_judge(&self, socket: &Path) -> Result<(), String> {
        let image = self.image(socket);
        self.shared.ledger.lock().expect("lock").see(0, &image)
    }

    /// While at rest: judges all that this server shows, which may lack a tail. Gives the number of
    /// blocks that went back.
    pub(crate) fn judge_crash_state(&self, socket: &Path) -> u64 {
        let image = self.image(socket);
        let judged = self.shared.ledger.lock().expect("lock").see_crash_state(&image);
        judged.expect("a state that a power cut could have left")
    }

    fn image(&self, socket: &Path) -> Vec<u8> {
        assert!(self.shared.paused.load(Ordering::SeqCst), "the load is at work");
        let mut session = eventually("an open export", || Session::open(socket));
        let image = session.read_all().expect("read");
        session.close();
        assert_eq!(
            image.len() as u64,
            self.shared.ledger.lock().expect("lock").len() * BLOCK as u64
        );
        image
    }
}

/// The thread of a load.
struct Worker {
    shared: Arc<Shared>,
    mix: Mix,
    random: Random,
    /// Blocks with a request in flight.
    busy: Vec<bool>,
    asked: BTreeMap<u64, Asked>,
    /// The next cookie and stamp.
    next: u64,
}

impl Worker {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::SeqCst) {
            let paused = self.shared.paused.load(Ordering::SeqCst);
            self.shared.idle.store(paused, Ordering::SeqCst);
            let socket = self.shared.socket.lock().expect("lock").clone();
            let session = if paused { None } else { Session::open(&socket).ok() };
            match session {
                Some(session) => self.work(session),
                // A client that dials again; nothing tells it when a server is there.
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn resting(&self) -> bool {
        let is = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
        is(&self.shared.stop) || is(&self.shared.paused)
    }

    /// One session, until it breaks or there is a rest.
    fn work(&mut self, mut session: Session) {
        loop {
            while !self.resting() && self.asked.len() < self.mix.depth {
                if self.begin(&mut session).is_err() {
                    return self.lost();
                }
            }
            if self.asked.is_empty() {
                return session.close();
            }
            match session.next() {
                Ok(done) => self.end(done),
                Err(_) => return self.lost(),
            }
        }
    }

    /// Blocks nobody is at.
    fn free_range(&mut self) -> Range {
        loop {
            let count = 1 + self.random.below(8);
            let first = self.random.below(self.busy.len() as u64 - count);
            let at = usize::try_from(first).expect("small");
            let end = at + usize::try_from(count).expect("small");
            if !self.busy[at..end].contains(&true) {
                self.busy[at..end].fill(true);
                return Range { first, count };
            }
        }
    }

    fn release(&mut self, range: Range) {
        let at = usize::try_from(range.first).expect("small");
        self.busy[at..at + usize::try_from(range.count).expect("small")].fill(false);
    }

    fn begin(&mut self, session: &mut Session) -> Result<(), String> {
        let cookie = self.next;
        self.next += 1;
        let choice = self.random.below(100);
        if choice < 4 {
            let invoked = self.shared.ledger.lock().expect("lock").flush_begins();
            self.asked.insert(cookie, Asked::Flush(invoked));
            return session.send(Request::new(Command::FLUSH, cookie, 0, 0), &[]);
        }
        let range = self.free_range();
        if choice < 20 {
            self.asked.insert(cookie, Asked::Read(range));
            return session.send(request(Command::READ, cookie, range), &[]);
        }
        let zero = self.mix.zeroes && choice < 26;
        let stamp = if zero { 0 } else { cookie };
        self.shared.ledger.lock().expect("lock").begin(range, stamp);
        self.asked.insert(cookie, Asked::Write(range, stamp));
        self.shared.in_flight.fetch_add(1, Ordering::SeqCst);
        match choice {
            20..23 if zero => session.send(request(Command::TRIM, cookie, range), &[]),
            _ if zero => session.send(request(Command::WRITE_ZEROES, cookie, range), &[]),
            26..30 => {
                let request = request(Command::WRITE, cookie, range).flags(CommandFlags::FUA);
                session.send(request, &content(range.first, range.count, stamp))
            }
            _ => {
                let bytes = content(range.first, range.count, stamp);
                session.send(request(Command::WRITE, cookie, range), &bytes)
            }
        }
    }

    fn end(&mut self, done: Done) {
        let asked = self.asked.remove(&done.cookie).expect("asked for");
        let mut ledger = self.shared.ledger.lock().expect("lock");
        if let Err(error) = &done.result {
            let text = format!("{asked:?}: {error}");
            self.shared.errors.lock().expect("lock").push(text);
        }
        match (asked, done.result) {
            (Asked::Write(range, stamp), Ok(_)) => {
                ledger.acknowledge(range, stamp);
                self.shared.in_flight.fetch_sub(1, Ordering::SeqCst);
                self.shared.acknowledged.fetch_add(1, Ordering::SeqCst);
            }
            (Asked::Write(range, stamp), Err(_)) => {
                ledger.forget(range, stamp);
                self.shared.in_flight.fetch_sub(1, Ordering::SeqCst);
            }
            (Asked::Read(range), Ok(bytes)) => {
                if let Err(why) = ledger.see(range.first, &bytes) {
                    self.shared.violations.lock().expect("lock").push(why);
                }
            }
            (Asked::Flush(invoked), Ok(_)) => ledger.flushed(invoked),
            (Asked::Read(_) | Asked::Flush(_), Err(_)) => {}
        }
        drop(ledger);
        if let Asked::Write(range, _) | Asked::Read(range) = asked {
            self.release(range);
        }
    }

    /// The server is gone: nobody knows what became of what was asked.
    fn lost(&mut self) {
        let mut writes = 0;
        for (_, asked) in std::mem::take(&mut self.asked) {
            if let Asked::Write(range, stamp) = asked {
                self.shared.ledger.lock().expect("lock").forget(range, stamp);
                self.shared.in_flight.fetch_sub(1, Ordering::SeqCst);
                writes += 1;
            }
            if let Asked::Write(range, _) | Asked::Read(range) = asked {
                self.release(range);
            }
        }
        self.shared.losses.lock().expect("lock").push(writes);
    }
}
