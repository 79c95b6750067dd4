//! Owns the bugs that can be put into the product on purpose, so that the checkers of the simulator are seen to
//! find them. Must never let one into a build without the feature `plants`, nor into a release: there the
//! question whether one is in has the constant answer no, and what hangs on it is not compiled.
//!
//! A plant stands where the right thing would be done, as one condition: `if self.planted(Plant::...)`. Read on
//! as if it were `if false`.

#[cfg(all(feature = "plants", not(debug_assertions)))]
compile_error!("planted bugs are for tests: build without the feature `plants`");

/// A bug, by what goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// Under B and C a write is acknowledged without the peer's word.
    AckBeforePeer,
    /// Data goes to disk and peer while the log record that names its extent is still being written.
    WriteBeforeLog,
    /// Extents leave the log before the bitmap pages with their marks are written.
    NoLogPages,
    /// An extent cools although what was written there is not stable.
    CoolUnstable,
    /// After a crash the extents that were hot are not marked.
    ForgetHot,
    /// What the peer acknowledged and had not made stable is not marked when the peer is lost.
    ForgetUnstable,
    /// A resync takes a mark off when the block is sent.
    ClearWhenSent,
    /// A write that the peer misses begins no generation.
    NoGeneration,
    /// The peer answers a barrier without a sync.
    BarrierWithoutSync,
    /// A durable write is treated as any other.
    FuaAsPlain,
    /// Under C a flush is answered when this node alone is stable.
    FlushHereOnly,
    /// A resync reads blocks that a client may be changing.
    ResyncUnlocked,
    /// Overlapping writes do not wait for one another.
    OverlapUnordered,
    /// A read does not wait for a write that it overlaps.
    DirtyRead,
    /// A read is served from a copy of mixed age.
    ReadInconsistent,
    /// The target of a resync does not record that its copy is of mixed age.
    InconsistentUnrecorded,
    /// A node that cannot know whether it is current becomes primary without force.
    StalePromote,
    /// Of two copies that went on apart, one overwrites the other without a word.
    MergeSplitBrain,
    /// Under A and B the peer starts a write before what was flushed ahead of it is stable there.
    UngatedPeer,
    /// The checksum of a payload is not looked at.
    PayloadUnchecked,
    /// The peer takes note of zeroes and writes none.
    ZeroOnlyHere,
    /// The rest of a block that is written in part is not read first.
    EdgeLost,
    /// In a checksum resync every hash counts as equal.
    HashAlwaysEqual,
    /// Marks are taken to hold all that differs, whatever was restored or is new.
    MarksTrusted,
    /// The target of a resync does not tell what it wrote itself.
    MarksUntold,
    /// A session begins while writes of the last one are under way, and no longer locks their blocks.
    LateOldWrite,
    /// What the local disk cannot read is an error to the client.
    ErrorToClient,
}

/// Which bug is in: by default, and always without the feature `plants`, none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Plants {
    #[cfg(feature = "plants")]
    planted: Option<Plant>,
}

impl Plants {
    /// Without any.
    pub const NONE: Self = Self {
        #[cfg(feature = "plants")]
        planted: None,
    };

    /// With this one.
    #[cfg(feature = "plants")]
    #[must_use]
    pub const fn with(plant: Plant) -> Self {
        Self { planted: Some(plant) }
    }

    /// Whether this bug is in.
    #[cfg(feature = "plants")]
    #[must_use]
    pub const fn has(self, plant: Plant) -> bool {
        matches!(self.planted, Some(planted) if planted as u8 == plant as u8)
    }

    /// Whether this bug is in: it is not.
    #[cfg(not(feature = "plants"))]
    #[must_use]
    pub const fn has(self, _: Plant) -> bool {
        false
    }
}
