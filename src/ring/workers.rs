//! Owns the few threads that carry out blocking file calls off the shard. Must never touch a
//! completion list or a pool: it hands results back through a queue and the waker.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::Errno;
use super::files::{Backing, Errand};
use super::waker::Waker;

/// Threads of one shard: enough for a slow sync beside zeroing and transfers, few enough to cost
/// nothing while idle.
const THREADS: usize = 4;

/// An errand, the key of its operation, and its file.
struct Job {
    key: u64,
    backing: Arc<Backing>,
    errand: Errand,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Job>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    wanted: Condvar,
    done: Mutex<Vec<(u64, Result<u32, Errno>)>>,
    waker: Waker,
}

/// The threads; started with the first errand.
pub(super) struct Workers {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    pub(super) fn new(waker: Waker) -> Self {
        let shared = Shared {
            queue: Mutex::default(),
            wanted: Condvar::new(),
            done: Mutex::default(),
            waker,
        };
        Self { shared: Arc::new(shared), threads: Vec::new() }
    }

    /// Takes an errand. Its result comes out of [`collect`](Self::collect) after the waker rang.
    pub(super) fn send(&mut self, key: u64, backing: &Arc<Backing>, errand: Errand) {
        if self.threads.is_empty() {
            self.start();
        }
        let backing = Arc::clone(backing);
        let job = Job { key, backing, errand };
        if self.threads.is_empty() {
            // No thread could be started: slow is better than never.
            self.shared.run(job);
            return;
        }
        lock(&self.shared.queue).waiting.push_back(job);
        self.shared.wanted.notify_one();
    }

    fn start(&mut self) {
        for number in 0..THREADS {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new()
                .name(format!("disk-{number}"))
                .spawn(move || shared.work());
            match thread {
                Ok(thread) => self.threads.push(thread),
                Err(error) => tracing::warn!("cannot start a disk thread: {error}"),
            }
        }
    }

    /// Moves the results there are into `into`.
    pub(super) fn collect(&self, into: &mut Vec<(u64, Result<u32, Errno>)>) {
        into.append(&mut lock(&self.shared.done));
    }

    /// Drops what has not begun and waits for what has.
    pub(super) fn stop(&mut self) {
        let mut queue = lock(&self.shared.queue);
        queue.closed = true;
        queue.waiting.clear();
        drop(queue);
        self.shared.wanted.notify_all();
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            debug_assert!(ended.is_ok(), "a disk thread panicked");
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn work(&self) {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.waiting.pop_front() {
                drop(queue);
                self.run(job);
                queue = lock(&self.queue);
            } else if queue.closed {
                return;
            } else {
                let woken = self.wanted.wait(queue);
                queue = woken.unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    fn run(&self, job: Job) {
        let result = job.backing.carry_out(job.errand);
        // The file first: whoever sees the result may take the file back.
        drop(job.backing);
        lock(&self.done).push((job.key, result));
        self.waker.wake();
    }
}

/// A thread that panicked left nothing half done in these queues.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
