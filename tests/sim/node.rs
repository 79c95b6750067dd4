//! Owns the seam between a world and what runs in it: one life of a node's daemon, as the driver
//! of a world needs it. Must never know which daemon it is.

use twinblk::replica::event::{Change, Command, Refusal, Status};

use crate::checker::copies::Protocol;
use crate::checker::oracle::Range;
use crate::checker::stamp::Stamp;
use crate::clockwork::LifeId;
use crate::faults::Kind;
use crate::world::{Shared, World};

/// What a client asks of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    Read(Range),
    /// The bytes are those of the stamp.
    Write {
        range: Range,
        stamp: Stamp,
        fua: bool,
    },
    Zero {
        range: Range,
        discard: bool,
        fua: bool,
    },
    Flush,
}

/// What it is told.
#[derive(Debug)]
pub(crate) enum Told {
    Data(Vec<u8>),
    Done,
    Failed,
}

/// One life of a node's daemon. Lives from its start to a kill, a power cut or its own end; then
/// it is dropped, and whatever it had under way is the world's affair.
pub(crate) trait Life {
    /// One iteration of its loop: exactly one `Ring::turn`, and what follows from it.
    fn turn(&mut self);

    /// Takes a client's request, as an export would. The next turn acts on it.
    fn request(&mut self, id: u64, ask: &Ask);

    /// Hands over the replies since the last time.
    fn replies(&mut self, into: &mut Vec<(u64, Told)>);

    /// Takes an operator's command. The next turn acts on it.
    fn command(&mut self, id: u64, command: Command);

    /// Hands over the answers since the last time.
    fn answers(&mut self, into: &mut Vec<(u64, Result<String, Refusal>)>);

    /// Hands over what it would log, for the trace.
    fn changes(&mut self, into: &mut Vec<Change>);

    /// Whether clients may connect.
    fn serving(&self) -> bool;

    /// Inputs that its core has handled.
    fn inputs(&self) -> u64;

    /// What `status` shows; none while it has no disk open yet.
    fn status(&self) -> Option<Status>;
}

/// Where a life runs.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) world: Shared,
    pub(crate) life: LifeId,
    pub(crate) node: usize,
    pub(crate) disk: usize,
}

/// Makes nodes of one kind.
pub(crate) trait Maker {
    /// Size of the disk that a device of `device_bytes` needs.
    fn disk_bytes(&self, device_bytes: u64) -> u64;

    /// Where on the disk the device begins.
    fn data_offset(&self) -> u64;

    /// Faults that it is made to survive.
    fn survives(&self) -> Vec<Kind>;

    /// How long an acknowledgement waits for the other node.
    fn protocol(&self) -> Protocol;

    /// Lays out a new disk, as `create` does.
    fn create(&self, world: &mut World, node: usize, disk: usize);

    /// Starts a life. Its disk's lock is free.
    fn start(&self, place: Place) -> Box<dyn Life>;
}
