//! Owns the choice between the engines, and what production code asks of a ring beyond the trait.
//! Must never be used by code that the simulator runs.

use std::os::fd::OwnedFd;

use super::endpoints::Closing;
use super::files::FileEngine;
use super::holdings::Engine;
use super::polling::Polling;
use super::portable::PortableRing;
use super::setup::{self, Build, Refused};
use super::uring::UringRing;
use super::waker::Waker;
use super::{Completion, Errno, FileId, Gather, ListenerId, Op, Ring, SocketId, Token};
use crate::buffer::Pool;
use crate::units::Nanos;

/// Which engine an operator wants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RingChoice {
    /// io_uring where the host allows it, else the portable engine.
    #[default]
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll and threads.
    Portable,
}

/// Why a shard gets no ring.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// io_uring was demanded and refused.
    #[error("{0}; or set the engine to \"auto\" or \"portable\"")]
    Refused(String),
    /// Not even the portable engine can be had.
    #[error("no epoll or event descriptor can be made: {0}; raise the limit of open files")]
    Descriptors(Errno),
}

/// The kernel, in production. Made on the thread that uses it, and dropped before the pool its
/// operations name: dropping it waits until the kernel has let go of their slots.
pub struct SystemRing {
    pub(super) engine: Box<dyn Engine>,
    name: &'static str,
    polling: Polling,
}

impl SystemRing {
    /// A ring for the calling thread. Says in the log which engine it has, and why.
    ///
    /// # Errors
    /// If `choice` cannot be met.
    pub fn new(choice: RingChoice) -> Result<Self, RingError> {
        Self::made_by(choice, &mut setup::build)
    }

    /// The same, with io_uring made by `build`.
    pub(super) fn made_by(choice: RingChoice, build: Build<'_>) -> Result<Self, RingError> {
        match choice {
            RingChoice::Portable => {
                tracing::info!("portable engine (epoll and threads), as configured");
                Self::portable()
            }
            RingChoice::Uring => {
                Self::uring(build).map_err(|refused| RingError::Refused(refused.to_string()))
            }
            RingChoice::Auto => Self::uring(build).or_else(|refused| {
                tracing::warn!("portable engine (epoll and threads), which is slower: {refused}");
                Self::portable()
            }),
        }
    }

    fn uring(build: Build<'_>) -> Result<Self, Refused> {
        let (ring, wish) = UringRing::new(build)?;
        tracing::info!(queue = wish.completions(), flags = wish.flags(), "io_uring engine");
        Ok(Self { engine: Box::new(ring), name: "uring", polling: Polling::new(Nanos(0)) })
    }

    fn portable() -> Result<Self, RingError> {
        let ring = PortableRing::new().map_err(RingError::Descriptors)?;
        Ok(Self { engine: Box::new(ring), name: "portable", polling: Polling::new(Nanos(0)) })
    }

    /// `uring` or `portable`, for status and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// From now on looks so long for completions before it sleeps, while most waits are shorter than
    /// that; 0, as at first: never.
    pub const fn poll_for(&mut self, limit: Nanos) {
        self.polling = Polling::new(limit);
    }

    /// Ends this ring's turns from other threads.
    #[must_use]
    pub fn waker(&mut self) -> Waker {
        self.engine.held().waker.clone()
    }

    /// Takes a file in, opened and locked as the store does. The ring closes it when dropped.
    pub fn register_file(&mut self, fd: OwnedFd, engine: FileEngine) -> FileId {
        self.engine.held().files.register(fd, engine)
    }

    /// Gives a file back; `None` if it is unknown or an operation on it has not ended.
    #[must_use]
    pub fn release_file(&mut self, file: FileId) -> Option<OwnedFd> {
        self.engine.held().files.release(file)
    }

    /// Takes a connected stream socket in, whatever mode it is in.
    pub fn adopt_socket(&mut self, fd: OwnedFd) -> SocketId {
        SocketId(self.engine.adopt(fd))
    }

    /// Gives a socket back in blocking mode, to hand it to another ring; `None` if it is unknown,
    /// being closed, or an operation on it has not ended.
    #[must_use]
    pub fn release_socket(&mut self, socket: SocketId) -> Option<OwnedFd> {
        self.engine.release(socket.0)
    }

    /// Takes a listening socket in.
    pub fn adopt_listener(&mut self, listener: impl Into<OwnedFd>) -> ListenerId {
        ListenerId(self.engine.adopt(listener.into()))
    }

    /// Stops listening: pending `Accept`s end with `ECANCELED`, then the socket is closed.
    pub fn close_listener(&mut self, listener: ListenerId) {
        let held = self.engine.held();
        if let Some(endpoint) = held.endpoints.get(listener.0) {
            endpoint.shutdown();
        }
        if held.endpoints.close(listener.0, Closing::Quiet) {
            held.settle(listener.0);
        }
    }
}

impl Ring for SystemRing {
    fn now(&self) -> Nanos {
        self.engine.now()
    }

    fn random(&mut self) -> u64 {
        self.engine.random()
    }

    fn submit(&mut self, pool: &Pool, token: Token, op: Op) {
        self.engine.submit(pool, token, op);
    }

    fn has_hung_up(&self, socket: SocketId) -> bool {
        self.engine.has_hung_up(socket)
    }

    fn shutdown(&mut self, socket: SocketId) {
        self.engine.shutdown(socket);
    }

    fn turn(&mut self, pool: &mut Pool, until: Nanos, completions: &mut Vec<Completion>) {
        let begun = self.now();
        if until <= begun {
            return self.engine.turn(pool, until, completions);
        }
        let before = completions.len();
        if let Some(span) = self.polling.span() {
            let end = until.min(begun + span);
            while self.now() < end {
                self.engine.turn(pool, Nanos(0), completions);
                if completions.len() > before || self.engine.held().woken {
                    return self.polling.waited(self.now().since(begun));
                }
                // Whoever this waits for may need this very processor.
                std::thread::yield_now();
            }
        }
        self.engine.turn(pool, until, completions);
        self.polling.waited(self.now().since(begun));
    }

    fn recycle(&mut self, gather: Box<Gather>) {
        self.engine.recycle(gather);
    }
}
