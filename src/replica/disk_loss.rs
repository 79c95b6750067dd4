//! Owns the reasons for which a node lets go of its disk, and what each means for what the disk had
//! completed. Must never let go of it: that is the disk's life.

/// Why the local disk is let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiskLoss {
    Detached,
    Read,
    ReadForPeer,
    ReadForResync,
    ReadForVerify,
    Write,
    WriteForPeer,
    Flush,
    FlushForPeer,
    Metadata,
}

/// What peers' writes left on the disk that no sync has covered, by count of such writes; and how often it may
/// have forgotten some.
#[derive(Debug, Default)]
pub(super) struct Applied {
    /// So many have ended well.
    pub(super) ended: u64,
    /// So many of them had when the newest sync that ended well began.
    stable: u64,
    /// Another number after each time that the disk may have forgotten something: to a peer as after a boot.
    pub(super) forgetting: u64,
}

impl Applied {
    /// A sync that began when so many had ended has ended well.
    pub(super) fn synced(&mut self, ended: u64) {
        self.stable = self.stable.max(ended);
    }

    const fn is_all_stable(&self) -> bool {
        self.stable == self.ended
    }
}

/// What may be gone of a disk that was let go of, until it has been opened again.
#[derive(Debug, Default)]
pub(super) struct LetGo {
    /// It failed in a way after which it may lack what it had completed and not made stable.
    pub(super) forgot: bool,
    /// There was something that was not stable when it was let go of.
    pub(super) unstable: bool,
    /// Both: it may lack what this node had acknowledged, as a primary or to one.
    pub(super) lost: bool,
}

impl LetGo {
    /// Notes what was not stable at that moment.
    pub(super) const fn leaves(&mut self, own_is_stable: bool, applied: &Applied) {
        self.unstable |= !own_is_stable || !applied.is_all_stable();
    }
}

impl DiskLoss {
    /// Whether what it had completed and not flushed may be gone, as after a power cut. What a disk
    /// did not refuse becomes stable when it is opened again.
    pub(super) const fn forgets(self) -> bool {
        match self {
            Self::Write | Self::WriteForPeer => true,
            Self::Flush | Self::FlushForPeer | Self::Metadata => true,
            Self::Read | Self::ReadForPeer | Self::ReadForResync | Self::ReadForVerify => false,
            Self::Detached => false,
        }
    }

    /// For the log and for `status`.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::Detached => "the operator detached it",
            Self::Read => "a read failed",
            Self::ReadForPeer => "a read for the peer failed",
            Self::ReadForResync => "a read for a resync failed",
            Self::ReadForVerify => "a read for verify failed",
            Self::Write => "a write failed",
            Self::WriteForPeer => "a write for the peer failed",
            Self::Flush => "a flush failed",
            Self::FlushForPeer => "a flush for the peer failed",
            Self::Metadata => "a metadata write failed",
        }
    }
}
