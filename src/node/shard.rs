//! Owns one shard: a ring, a pool, some resources, and the loop body that moves everything.
//! Must never wait but in the ring, nor hold rules.
//!
//! One turn: wait for completions, hand each to the part it belongs to, let every part go on, give
//! what came of it to the cores, carry out what they decide, and send what is queued.

use super::carry::{Around, DOORMAN, Resource, Setup};
use super::site::{ResourceIndex, Site};
use crate::buffer::{Budgets, Pool};
use crate::export::{Newcomer, TurnedAway};
use crate::format::hello::Refusal;
use crate::limits::TURN_WORK_BYTES;
use crate::link::doorman::{Arrival, Doorman};
use crate::replica::event::{Command, CommandId, Input, Request, RequestId, Status};
use crate::ring::{Completion, Lane, ListenerId, Ring};
use crate::store::Files;
use crate::units::Nanos;

/// One shard. All calls are made from its thread.
pub struct Shard<R: Ring> {
    // Before the pool: dropping the ring waits until the kernel has let go of the slots.
    ring: R,
    pool: Pool,
    doorman: Doorman,
    resources: Vec<Resource>,
    completions: Vec<Completion>,
    arrivals: Vec<Arrival>,
    /// The resource that goes on first in the next turn.
    first: usize,
    /// Something came that was no completion: the next turn must not wait.
    eager: bool,
}

impl<R: Ring> Shard<R> {
    /// A shard with these resources, listening for other nodes on `listeners`.
    #[must_use]
    pub fn new(ring: R, budgets: Budgets, listeners: &[ListenerId], setups: Vec<Setup>) -> Self {
        let resources = (0..).zip(setups).map(|(i, s)| Resource::new(ResourceIndex(i), s));
        Self {
            ring,
            pool: Pool::new(budgets),
            doorman: Doorman::new(Lane::new(DOORMAN, 0), listeners),
            resources: resources.collect(),
            completions: Vec::new(),
            arrivals: Vec::new(),
            first: 0,
            eager: true,
        }
    }

    /// The ring, to take files and sockets in.
    pub const fn ring(&mut self) -> &mut R {
        &mut self.ring
    }

    /// The pool, to take slots for requests.
    pub const fn pool(&mut self) -> &mut Pool {
        &mut self.pool
    }

    /// Puts in a request, on a resource with [`Front::Site`](super::Front::Site); ends in
    /// [`Site::reply`].
    pub fn request(&mut self, resource: ResourceIndex, id: RequestId, request: Request) {
        self.eager = true;
        let now = self.ring.now();
        self.resources[usize::from(resource.0)].take(now, Input::Request { id, request });
    }

    /// One turn; waits for something to happen, at most until `until`.
    pub fn turn<S: Site<R>>(&mut self, site: &mut S, until: Nanos) {
        let eager = std::mem::take(&mut self.eager);
        let wake = if eager { Nanos(0) } else { self.deadline().min(until) };
        let mut completions = std::mem::take(&mut self.completions);
        self.ring.turn(&mut self.pool, wake, &mut completions);
        for completion in completions.drain(..) {
            self.on_completion(site, completion);
        }
        self.completions = completions;
        if self.doorman.deadline() <= self.ring.now() {
            self.doorman.on_time(&mut self.ring, &mut self.pool);
        }
        let mut budget_bytes = TURN_WORK_BYTES;
        for index in rotated(&mut self.first, self.resources.len()) {
            let resource = &mut self.resources[index];
            let mut around = Around { ring: &mut self.ring, pool: &mut self.pool, site };
            resource.go_on(&mut around, &mut budget_bytes);
            resource.flush(&mut self.ring, &mut self.pool);
        }
    }

    /// When the shard next has something to do by itself.
    #[must_use]
    pub fn deadline(&self) -> Nanos {
        if self.eager {
            return Nanos(0);
        }
        let resources = self.resources.iter().map(|resource| resource.deadline(&self.pool));
        resources.fold(self.doorman.deadline(), Nanos::min)
    }

    fn on_completion<S: Site<R>>(&mut self, site: &mut S, completion: Completion) {
        let (part, owner, _) = completion.token.split();
        if part == DOORMAN {
            let (ring, pool) = (&mut self.ring, &mut self.pool);
            self.doorman.on_completion(ring, pool, completion, &mut self.arrivals);
            for arrival in std::mem::take(&mut self.arrivals) {
                if let Some(unknown) = self
                    .welcome(arrival)
                    .and_then(|arrival| site.elsewhere(&mut self.ring, arrival))
                {
                    self.refuse(&unknown);
                }
            }
            return;
        }
        let index = if part == super::carry::LINK { owner >> 2 } else { owner };
        if let Some(resource) = self.resources.get_mut(usize::from(index)) {
            let mut around = Around { ring: &mut self.ring, pool: &mut self.pool, site };
            resource.on_completion(&mut around, completion);
        }
    }

    /// Hands a greeted connection to the link it asks for; gives it back if there is none here.
    pub fn welcome(&mut self, arrival: Arrival) -> Option<Arrival> {
        let hello = &arrival.hello;
        let found =
            self.resources.iter_mut().find(|resource| resource.resource_name() == hello.resource);
        let Some(resource) = found else { return Some(arrival) };
        let Some(link) = resource.links.iter_mut().find(|link| link.peer() == hello.from) else {
            return Some(arrival);
        };
        self.eager = true;
        link.accept(&mut self.ring, &mut self.pool, arrival);
        None
    }

    /// Turns away a connection that asks for a resource nobody here has.
    pub fn refuse(&mut self, arrival: &Arrival) {
        self.doorman.refuse(&mut self.ring, &mut self.pool, arrival, Refusal::UnknownResource);
    }

    /// The answer to [`Site::open_disk`].
    pub fn disk_opened<S: Site<R>>(
        &mut self,
        site: &mut S,
        resource: ResourceIndex,
        result: Result<Files, String>,
    ) {
        self.eager = true;
        let mut around = Around { ring: &mut self.ring, pool: &mut self.pool, site };
        self.resources[usize::from(resource.0)].disk_files(&mut around, result);
    }

    /// The answer to [`Site::scan_empty`].
    pub fn scanned(&mut self, resource: ResourceIndex, empty: Option<bool>) {
        self.eager = true;
        let now = self.ring.now();
        self.resources[usize::from(resource.0)].take(now, Input::Scanned { empty });
    }

    /// An operator's command; ends in [`Site::answer`].
    pub fn command(&mut self, resource: ResourceIndex, id: CommandId, command: Command) {
        self.eager = true;
        let now = self.ring.now();
        self.resources[usize::from(resource.0)].take(now, Input::Command { id, command });
    }

    /// A client that has negotiated.
    ///
    /// # Errors
    /// [`TurnedAway`]: its socket is being closed.
    pub fn client(
        &mut self,
        resource: ResourceIndex,
        newcomer: Newcomer,
    ) -> Result<(), TurnedAway> {
        self.eager = true;
        match self.resources[usize::from(resource.0)].export() {
            Some(export) => export.adopt(&mut self.ring, &mut self.pool, newcomer),
            None => Err(TurnedAway::NotServed),
        }
    }

    /// Inputs that the core of a resource has handled.
    #[must_use]
    pub fn inputs(&self, resource: ResourceIndex) -> u64 {
        self.resources[usize::from(resource.0)].replica().inputs()
    }

    /// The state of a resource at this moment, with what its links last met.
    #[must_use]
    pub fn status(&self, resource: ResourceIndex) -> Status {
        let resource = &self.resources[usize::from(resource.0)];
        let mut status = resource.replica().status();
        for (peer, link) in status.peers.iter_mut().zip(&resource.links) {
            if peer.connection_reason.is_empty() {
                link.last_error().clone_into(&mut peer.connection_reason);
            }
        }
        status
    }

    /// Whether all disks are closed and no connection is left: the shard may end.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.resources.iter().all(Resource::is_quiet)
    }

    /// The resource of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<ResourceIndex> {
        let place = self.resources.iter().position(|resource| resource.resource_name() == name)?;
        u16::try_from(place).ok().map(ResourceIndex)
    }
}

/// All of `count`, each time beginning with another one: what a turn may look through, and memory
/// that came free, goes to whoever is first.
fn rotated(first: &mut usize, count: usize) -> impl Iterator<Item = usize> + use<> {
    let from = if *first < count { *first } else { 0 };
    *first = from + 1;
    (from..count).chain(0..from)
}

#[cfg(test)]
mod tests {
    use super::rotated;

    #[test]
    fn each_resource_is_first_in_turn() {
        let mut first = 0;
        let mut turn = || rotated(&mut first, 3).collect::<Vec<_>>();
        for expected in [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]] {
            assert_eq!(turn(), expected);
        }
        assert_eq!(rotated(&mut first, 0).count(), 0);
    }
}
