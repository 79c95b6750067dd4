//! Owns the bell by which other threads end a turn. Must never carry data: those who ring leave
//! what they bring in a queue of their own first.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::Errno;

struct Bell {
    /// Counts rings; readable while there are any.
    event: EventFd,
    /// Rung and not yet heard: ringing again would change nothing.
    rung: AtomicBool,
}

/// Ends the ring's current or next turn. Cheap to clone and to call; any thread may.
#[derive(Clone)]
pub struct Waker(Arc<Bell>);

impl Waker {
    /// A new bell.
    pub(super) fn new() -> Result<Self, Errno> {
        // Blocking, so that io_uring waits for it instead of answering EAGAIN.
        let event =
            EventFd::from_flags(EfdFlags::EFD_CLOEXEC).map_err(|number| Errno(number as i32))?;
        let rung = AtomicBool::new(false);
        Ok(Self(Arc::new(Bell { event, rung })))
    }

    /// Ends the ring's turn: the current one, or else the next.
    pub fn wake(&self) {
        if !self.0.rung.swap(true, Ordering::AcqRel) {
            let rang = self.0.event.write(1);
            debug_assert!(rang.is_ok(), "an event counter never fills up one by one");
        }
    }

    /// What to wait on.
    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }

    /// Takes the count, so that the next ring is heard: call when the event is readable.
    pub(super) fn read(&self) {
        let read = self.0.event.read();
        debug_assert!(read.is_ok(), "only this thread reads it");
        self.heard();
    }

    /// After the count was taken: from here on, ringing matters again. Queues are looked at after
    /// this, so nothing left in one before a silent ring is overlooked.
    pub(super) fn heard(&self) {
        // Not a plain store: what was left before a silent ring must be visible after this.
        self.0.rung.swap(false, Ordering::AcqRel);
    }
}

impl std::fmt::Debug for Waker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waker")
    }
}
