//! Owns the io_uring engine: one queue pair for disks, sockets and the waker of one thread. Must
//! never let the kernel use memory that has been freed.
//!
//! What the kernel sees of an operation (header, vectors, address, time limit) lies on the heap
//! and belongs to the operation's entry in the table of flights, which is removed only after its
//! completion came. Of one file the kernel has at most a share of what its completion queue holds; what
//! goes beyond waits in user memory, so that the reads and writes of a disk that hangs hold up nothing else.
//! (Syncs and zeroings of all disks share the kernel's few threads, see `setup`.) Sockets have no bound:
//! should completions ever outgrow the queue, the kernel keeps them (`IORING_FEAT_NODROP`).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use io_uring::types::{CancelBuilder, Fd, SubmitArgs};
use io_uring::{EnterFlags, IoUring, opcode, squeue};
use socket2::SockRef;

use super::dial::Dial;
use super::endpoints::{Endpoint, Stream};
use super::entries::{self, Dialing, Work, outcome, timespec};
use super::files::Errand;
use super::flights::Flights;
use super::holdings::{Engine, Holdings, Place};
use super::setup::{self, Build, Refused, Wish};
use super::system_calls::{self, errno};
use super::talk::Act;
use super::transfer::{Next, Patience};
use super::{Completion, Errno, FileId, Op, Ring, SocketId, Token};
use crate::buffer::Pool;
use crate::units::Nanos;

/// Marks the completion of the read on the waker.
const BELL: u64 = u64::MAX;
/// Marks the completion of a connection's time limit, which says nothing of its own.
const TIME_LIMIT: u64 = u64::MAX - 1;
/// Files that may have a full share in the kernel before its completion queue can run over.
const FULL_SHARES: u32 = 8;

/// One thread's io_uring. Not `Send`: the kernel ties it to the thread that made it.
pub(super) struct UringRing {
    io: IoUring,
    held: Holdings,
    flights: Flights<Work>,
    /// Operations to hand to the kernel next.
    queue: VecDeque<u32>,
    /// Entries handed to the kernel whose completion has not been seen.
    in_kernel: u32,
    /// Most operations of one file that the kernel is given at a time.
    file_share: u32,
    /// Results taken from the completion queue and not yet acted upon.
    results: Vec<(u64, i32)>,
    /// The same of the disk threads.
    errands_done: Vec<(u64, Result<u32, Errno>)>,
    /// Where the kernel puts the count of rings.
    bell_count: Box<u64>,
    bell_armed: bool,
    /// Flags of every wait.
    wait_flags: EnterFlags,
}

impl UringRing {
    /// A ring for this thread, made by `build`.
    pub(super) fn new(build: Build<'_>) -> Result<(Self, Wish), Refused> {
        let (io, wish) = setup::set_up(build)?;
        let mut wait_flags = EnterFlags::EXT_ARG | EnterFlags::GETEVENTS;
        if io.params().is_feature_no_iowait() {
            // An idle ring is not a machine waiting for its disk.
            wait_flags |= EnterFlags::NO_IOWAIT;
        }
        let mut ring = Self {
            file_share: io.params().cq_entries().div_ceil(FULL_SHARES),
            io,
            held: Holdings::new().map_err(Refused::Other)?,
            flights: Flights::new(),
            queue: VecDeque::new(),
            in_kernel: 0,
            results: Vec::new(),
            errands_done: Vec::new(),
            bell_count: Box::new(0),
            bell_armed: false,
            wait_flags,
        };
        ring.push_entries();
        // Some sandboxes allow making a ring and forbid using it.
        match ring.enter(Nanos(0)) {
            Ok(()) => Ok((ring, wish)),
            Err(Errno(libc::EPERM | libc::EACCES)) => Err(Refused::Forbidden),
            Err(errno) => Err(Refused::Other(errno)),
        }
    }

    fn disk(&mut self, token: Token, file: FileId, errand: Errand) {
        let place = self.held.place(file, &errand);
        if place == Place::Here {
            self.held.carry_out(token, file, errand);
            return;
        }
        self.held.files.begin(file);
        let patience = Patience::default();
        let work = Work::Disk { file, errand, patience };
        let index = self.flights.insert(token, work);
        if place == Place::Threads {
            let key = self.flights.key(index);
            self.held.send_out(key, file, errand);
        } else if self.held.files.admit(file, index, self.file_share) {
            self.queue.push_back(index);
        }
    }

    fn network(&mut self, pool: &Pool, token: Token, op: Op) {
        let Some(talk) = self.held.talk(pool, token, op) else {
            return;
        };
        let (id, stream) = (talk.id, talk.stream());
        let patience = Patience::default();
        let index = self.flights.insert(token, Work::Talk { talk, patience });
        if self.held.endpoints.push(id, stream, index) {
            self.queue.push_back(index);
        }
    }

    fn connect(&mut self, token: Token, address: SocketAddr, from: Option<IpAddr>) {
        match Dial::new(address, from) {
            Ok(dial) => {
                let work = Work::Connect(Dialing::new(dial, self.held.connect_time));
                let index = self.flights.insert(token, work);
                self.queue.push_back(index);
            }
            Err(errno) => self.held.complete(token, Err(errno)),
        }
    }

    /// Puts entries for what waits into the submission queue, as far as there is room.
    fn push_entries(&mut self) {
        if !self.bell_armed {
            let event = Fd(self.held.waker.event().as_raw_fd());
            let count: *mut u64 = &raw mut *self.bell_count;
            let read = opcode::Read::new(event, count.cast(), 8).build().user_data(BELL);
            self.bell_armed = self.push(&[read]);
        }
        while let Some(&index) = self.queue.front() {
            let key = self.flights.key(index);
            let (entry, limit) = entries::entry(&self.held, self.flights.work(index));
            let entry = entry.user_data(key);
            let pushed = match limit {
                None => self.push(&[entry]),
                Some(limit) => self.push(&[entry, limit.user_data(TIME_LIMIT)]),
            };
            if !pushed {
                break;
            }
            self.queue.pop_front();
        }
    }

    /// Puts entries of one operation into the submission queue, handing over what is in it if it
    /// is full; false if that did not help.
    fn push(&mut self, entries: &[squeue::Entry]) -> bool {
        let count = entries.len();
        let room = |io: &mut IoUring| {
            let queue = io.submission();
            queue.capacity() - queue.len() >= count
        };
        if !room(&mut self.io) && (self.enter(Nanos(0)).is_err() || !room(&mut self.io)) {
            return false;
        }
        // SAFETY: each entry was made by `entries::entry` or for the waker: what it points to belongs to
        // an operation in the table, to a slot its submitter holds, to static zeroes or to this
        // value, and stays there until its completion, or until `drop` has seen it.
        let pushed = unsafe { self.io.submission().push_multiple(entries) };
        debug_assert!(pushed.is_ok(), "there was room");
        self.in_kernel += u32::try_from(count).expect("one or two");
        true
    }

    /// Hands over what is queued, and waits for a completion at most `span` (0: not at all).
    fn enter(&mut self, span: Nanos) -> Result<(), Errno> {
        let queued = self.io.submission().len();
        let queued = u32::try_from(queued).expect("a queue has fewer than 2^32 entries");
        let limit = timespec(span);
        let mut args = SubmitArgs::new();
        if span != Nanos(0) && span != Nanos::NEVER {
            args = args.timespec(&limit);
        }
        let want = u32::from(span != Nanos(0));
        let flags = self.wait_flags.bits();
        // SAFETY: the flags announce the extended argument, and `args` is one, alive until the
        // call returns, as is the time it points to.
        let entered = unsafe { self.io.submitter().enter(queued, want, flags, Some(&args)) };
        match entered.map_err(|error| errno(&error)) {
            // The time has passed; a signal came; memory is short or the completion queue is to
            // be emptied first: in each case the caller looks at what there is and comes back.
            Err(Errno(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY)) | Ok(_) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Acts upon every completion there is.
    fn reap(&mut self) {
        self.take_results();
        let mut results = std::mem::take(&mut self.results);
        for (key, result) in results.drain(..) {
            if key == BELL {
                self.bell_armed = false;
                self.held.woken = true;
                self.held.waker.heard();
            } else if let Some(index) = self.flights.find(key) {
                self.advance(index, outcome(result));
            } else {
                debug_assert!(key == TIME_LIMIT, "a completion of nothing in flight");
            }
        }
        self.results = results;
        if self.held.woken {
            self.collect_errands();
        }
    }

    fn take_results(&mut self) {
        let results = &mut self.results;
        let completions = self.io.completion();
        results.extend(completions.map(|entry| (entry.user_data(), entry.result())));
        self.in_kernel -= u32::try_from(results.len()).unwrap_or(self.in_kernel);
    }

    fn collect_errands(&mut self) {
        let mut done = std::mem::take(&mut self.errands_done);
        self.held.workers.collect(&mut done);
        for (key, result) in done.drain(..) {
            if let Some(index) = self.flights.find(key) {
                self.finish(index, result);
            }
        }
        self.errands_done = done;
    }

    /// Takes a result of the kernel for an operation: it goes on, or ends.
    fn advance(&mut self, index: u32, got: Result<u32, Errno>) {
        let next = match self.flights.work(index) {
            Work::Disk { file, errand, patience } => match (self.held.files.get(*file), errand) {
                (Some(file), Errand::Transfer(transfer)) => {
                    transfer.advance(got, file.backing.align)
                }
                (Some(file), Errand::Zero(zeroing)) => {
                    zeroing.advance(got, file.backing.align, &file.backing.refusals)
                }
                (_, _) => patience.unless_interrupted(got),
            },
            Work::Talk { talk, patience } => match (&mut talk.act, got) {
                (Act::Send(outgoing), Ok(count)) => match (outgoing.advance(count), count) {
                    (true, _) => Next::End(Ok(outgoing.sent_bytes())),
                    (false, 0) => patience.again(Errno(libc::EIO)),
                    (false, _) => Next::Again,
                },
                _ => patience.unless_interrupted(got),
            },
            Work::Connect(_) => Next::End(got.map_err(|errno| match errno.0 {
                // Its time limit has passed.
                libc::ECANCELED => Errno(libc::ETIMEDOUT),
                _ => errno,
            })),
        };
        match next {
            Next::Again => self.queue.push_back(index),
            Next::End(result) => self.finish(index, result),
        }
    }

    /// Ends an operation.
    fn finish(&mut self, index: u32, result: Result<u32, Errno>) {
        let (token, work) = self.flights.remove(index);
        match work {
            Work::Disk { file, .. } => {
                let next = self.held.files.end(file);
                self.queue.extend(next);
                self.held.complete(token, result);
            }
            Work::Talk { talk, .. } => {
                let (id, stream) = (talk.id, talk.stream());
                let result = match talk.act {
                    Act::Accept => result.map(|fd| self.adopt(new_fd(fd))),
                    Act::Receive(_) | Act::Send(_) => result,
                };
                self.held.end_talk(token, talk, result);
                self.begin_next(id, stream);
            }
            Work::Connect(dialing) => {
                let result = result.map(|_| self.adopt(dialing.dial.into_fd()));
                self.held.complete(token, result);
            }
        }
    }

    /// After an operation of a stream ended: begins the next, or closes the socket.
    fn begin_next(&mut self, id: u32, stream: Stream) {
        match self.held.endpoints.pop(id, stream) {
            Some(index) => self.queue.push_back(index),
            None => self.held.settle(id),
        }
    }

    /// Makes everything in the kernel end.
    fn cancel_all(&mut self) {
        let busy = self.held.endpoints.iter().filter(|endpoint| !endpoint.is_idle());
        busy.for_each(|endpoint| endpoint.shutdown());
        for work in self.flights.iter() {
            if let Work::Connect(dialing) = work {
                let _ = dialing.dial.socket().shutdown(std::net::Shutdown::Both);
            }
        }
        self.held.waker.wake();
        // Whatever has not begun; kernels before 6.0 cannot, and carry it out.
        let patience = timespec(Nanos::from_millis(1));
        let _ = self.io.submitter().register_sync_cancel(Some(patience), CancelBuilder::any());
    }
}

impl Ring for UringRing {
    fn now(&self) -> Nanos {
        system_calls::boottime()
    }

    fn random(&mut self) -> u64 {
        self.held.entropy.next()
    }

    fn submit(&mut self, pool: &Pool, token: Token, op: Op) {
        match self.held.errand(pool, &op) {
            Some(Ok((file, errand))) => self.disk(token, file, errand),
            Some(Err(errno)) => self.held.complete(token, Err(errno)),
            None => match op {
                Op::Connect { address, from } => self.connect(token, address, from),
                _ => self.network(pool, token, op),
            },
        }
    }

    fn has_hung_up(&self, socket: SocketId) -> bool {
        self.held.endpoints.get(socket.0).is_some_and(Endpoint::has_hung_up)
    }

    fn shutdown(&mut self, socket: SocketId) {
        if let Some(endpoint) = self.held.endpoints.get(socket.0) {
            endpoint.shutdown();
        }
    }

    fn turn(&mut self, _pool: &mut Pool, until: Nanos, completions: &mut Vec<Completion>) {
        self.held.woken = false;
        loop {
            self.push_entries();
            let span = match (self.held.ready.is_empty(), until) {
                (false, _) => Nanos(0),
                (true, Nanos::NEVER) => Nanos::NEVER,
                (true, _) => until.since(self.now()),
            };
            if let Err(errno) = self.enter(span) {
                // The kernel's half of the ring is unusable: nothing in flight can be accounted
                // for, so the only safe way on is to end and be started again.
                panic!("io_uring failed beyond repair: {errno}");
            }
            self.reap();
            let over = !self.held.ready.is_empty() || span == Nanos(0);
            if self.held.woken || over {
                break;
            }
        }
        completions.append(&mut self.held.ready);
    }
}

impl Engine for UringRing {
    fn held(&mut self) -> &mut Holdings {
        &mut self.held
    }

    fn adopt(&mut self, fd: OwnedFd) -> u32 {
        // On a non-blocking socket io_uring would answer EAGAIN instead of waiting.
        let blocking = SockRef::from(&fd).set_nonblocking(false);
        debug_assert!(blocking.is_ok(), "any open descriptor has this flag");
        self.held.endpoints.adopt(fd)
    }

    fn release(&mut self, id: u32) -> Option<OwnedFd> {
        self.held.endpoints.release(id)
    }
}

impl Drop for UringRing {
    /// Waits until the kernel has let go of all memory: a disk that hangs is waited for.
    fn drop(&mut self) {
        self.held.workers.stop();
        self.cancel_all();
        loop {
            let unsent = u32::try_from(self.io.submission().len()).unwrap_or(u32::MAX);
            if self.in_kernel <= unsent {
                break;
            }
            let flags = EnterFlags::GETEVENTS.bits();
            // SAFETY: no argument, nothing submitted: only waits for a completion.
            let entered = unsafe { self.io.submitter().enter::<libc::sigset_t>(0, 1, flags, None) };
            let failed = entered.map_err(|error| errno(&error)).err();
            if failed.is_some_and(|errno| !matches!(errno.0, libc::EINTR | libc::EAGAIN)) {
                tracing::error!("io_uring cannot be drained: {failed:?}; giving up the process");
                std::process::abort();
            }
            self.results.clear();
            self.take_results();
            for (key, result) in std::mem::take(&mut self.results) {
                let index = self.flights.find(key);
                let accepted = index.is_some_and(|index| match self.flights.work(index) {
                    Work::Talk { talk, .. } => matches!(talk.act, Act::Accept),
                    _ => false,
                });
                if let (true, Ok(fd)) = (accepted, outcome(result)) {
                    drop(new_fd(fd));
                }
            }
        }
    }
}

/// A descriptor the kernel made for an accepted connection.
fn new_fd(fd: u32) -> OwnedFd {
    let fd = i32::try_from(fd).expect("it was one before");
    // SAFETY: the completion of an accept hands over a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
