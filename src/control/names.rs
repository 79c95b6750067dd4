//! Owns how states are spelt outside of the program.
//! Must never say what they mean: that is for the command line and the manual.

use crate::format::frame::{DiskState, Protocol, Role};
use crate::replica::event::{Connection, Replication};

/// A role.
#[must_use]
pub const fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "Primary",
        Role::Secondary => "Secondary",
    }
}

/// A state of a disk.
#[must_use]
pub const fn disk(disk: DiskState) -> &'static str {
    match disk {
        DiskState::Diskless => "Diskless",
        DiskState::Failed => "Failed",
        DiskState::Inconsistent => "Inconsistent",
        DiskState::Outdated => "Outdated",
        DiskState::Consistent => "Consistent",
        DiskState::UpToDate => "UpToDate",
    }
}

/// A replication protocol.
#[must_use]
pub const fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::A => "A",
        Protocol::B => "B",
        Protocol::C => "C",
    }
}

/// A state of a connection.
#[must_use]
pub const fn connection(connection: Connection) -> &'static str {
    match connection {
        Connection::StandAlone => "StandAlone",
        Connection::Connecting => "Connecting",
        Connection::Connected => "Connected",
    }
}

/// A state of replication.
#[must_use]
pub const fn replication(replication: Replication) -> &'static str {
    match replication {
        Replication::Off => "Off",
        Replication::Negotiating => "Negotiating",
        Replication::Established => "Established",
        Replication::SyncSource => "SyncSource",
        Replication::SyncTarget => "SyncTarget",
        Replication::PausedSyncSource => "PausedSyncSource",
        Replication::PausedSyncTarget => "PausedSyncTarget",
        Replication::VerifySource => "VerifySource",
        Replication::VerifyTarget => "VerifyTarget",
        Replication::Ahead => "Ahead",
        Replication::Behind => "Behind",
    }
}
