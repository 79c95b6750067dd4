//! Owns the edge between a shard and what surrounds it: opening disks, operators, the directory of
//! exports. Production and the simulator each stand behind it.
//! Must never decide anything about data.

use crate::buffer::Pool;
use crate::link::doorman::Arrival;
use crate::replica::event::{Change, CommandId, Refusal, Reply, RequestId};
use crate::ring::Ring;
use crate::store::Files;

/// A resource of a shard, by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceIndex(pub u16);

/// What surrounds a shard. Nothing here may wait.
pub trait Site<R: Ring> {
    /// Opens a resource's disk; with `fresh`, new metadata is laid out first, for a device of so
    /// many blocks, or for as many as the disk holds if it is 0. Ends in
    /// [`Shard::disk_opened`](super::shard::Shard::disk_opened).
    fn open_disk(&mut self, resource: ResourceIndex, fresh: Option<u64>);

    /// Nothing touches these files any more.
    fn close_disk(&mut self, ring: &mut R, resource: ResourceIndex, files: Files);

    /// Finds out whether the device holds only zeroes; ends in
    /// [`Shard::scanned`](super::shard::Shard::scanned).
    fn scan_empty(&mut self, resource: ResourceIndex, device_blocks: u64);

    /// Answers an operator.
    fn answer(&mut self, resource: ResourceIndex, id: CommandId, result: Result<String, Refusal>);

    /// A change of state, for the log and for `events`.
    fn change(&mut self, resource: ResourceIndex, change: Change);

    /// The resource is served to NBD clients here, with this many bytes, or not.
    fn serving(&mut self, resource: ResourceIndex, device_bytes: Option<u64>);

    /// A connection greeted here belongs to a resource that this shard does not have.
    fn elsewhere(&mut self, ring: &mut R, arrival: Arrival) -> Option<Arrival>;

    /// Answers a request that came by [`Shard::request`](super::shard::Shard::request), on a
    /// resource with [`Front::Site`](super::Front::Site). The slots of a read are the site's.
    fn reply(&mut self, pool: &mut Pool, resource: ResourceIndex, id: RequestId, reply: Reply);
}
