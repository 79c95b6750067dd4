//! Owns laying out the metadata of a new disk.
//! Must never overwrite metadata that is there, unless an operator said so.

use super::raw::RawError;
use super::stopped::{Area, Found, StoppedDisk};
use crate::format::extent_log::{self, LogIdentity};
use crate::format::superblock::{DataState, Geometry, Superblock};
use crate::units::{AreaId, BLOCK_BYTES, NodeId, ResourceId};

/// Number of the first transaction in a new log.
pub(super) const FIRST_TRANSACTION: u64 = 1;

/// What `create` is to lay out.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// The resource; random when it is new.
    pub resource: ResourceId,
    /// This node.
    pub node: NodeId,
    /// The metadata area; random, always new.
    pub area: AreaId,
    /// Bitmap slots, one per peer.
    pub peer_slots: u8,
    /// Hot extents of the activity log.
    pub log_extents: u32,
    /// Blocks of the device; as many as the disk holds if none.
    pub device_blocks: Option<u64>,
}

impl Layout {
    /// Where all will lie, before anything is changed.
    fn geometry(&self, disk: &StoppedDisk) -> Result<Geometry, CreateError> {
        let Self { peer_slots, log_extents, .. } = *self;
        let (path, bytes) = (disk.data.path().display().to_string(), disk.data.length());
        let Some(device_blocks) = self.device_blocks else {
            let geometry = disk.geometry(peer_slots, log_extents);
            return geometry.ok_or(CreateError::DoesNotFit {
                path,
                bytes,
                peer_slots,
                log_extents,
            });
        };
        let geometry = Geometry { device_blocks, peer_slots, log_extents };
        let wanted = device_blocks * BLOCK_BYTES;
        disk.geometry_for(geometry).ok_or(CreateError::TooSmall { path, bytes, wanted })
    }
}

/// Why nothing was laid out.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    /// There is metadata already.
    #[error(
        "{path}: there is twinblk metadata already ({found}); nothing was changed. If nothing on \
         this disk is needed any more, repeat with --force"
    )]
    Exists {
        /// Where.
        path: String,
        /// Whose, and of which generation; or why it cannot be read.
        found: String,
    },
    /// The device cannot hold data and metadata, or a number is out of bounds.
    #[error(
        "{path}: {bytes} bytes cannot hold a device and its metadata with {peer_slots} bitmap \
         slots and {log_extents} hot extents; take a larger device or other numbers"
    )]
    DoesNotFit {
        /// The device.
        path: String,
        /// Its length.
        bytes: u64,
        /// Slots asked for.
        peer_slots: u8,
        /// Hot extents asked for.
        log_extents: u32,
    },
    /// The device cannot hold the data that the resource has.
    #[error(
        "{path}: {bytes} bytes are too few for the {wanted} bytes of the resource and their \
         metadata; nothing was changed. Take a larger one"
    )]
    TooSmall {
        /// The device.
        path: String,
        /// Its length.
        bytes: u64,
        /// Size of the resource.
        wanted: u64,
    },
    /// The system refused.
    #[error(transparent)]
    Raw(#[from] RawError),
}

/// Lays out a new disk: nothing hot, no marks, no generation. Without a generation the disk is
/// "just created": Inconsistent until `init` or a full resync. Returns the superblock written.
///
/// # Errors
/// See [`CreateError`]. Unless `force`, metadata that is there is left as it is.
pub fn create(
    disk: &mut StoppedDisk,
    layout: Layout,
    force: bool,
) -> Result<Superblock, CreateError> {
    let found = disk.found();
    let path = disk.metadata_file().path().display().to_string();
    match &found {
        Found::Nothing => {}
        Found::Superblock(superblock) if !force => {
            return Err(CreateError::Exists { path, found: describe(superblock) });
        }
        Found::Damaged(why) | Found::Newer(why) if !force => {
            return Err(CreateError::Exists { path, found: why.clone() });
        }
        Found::Superblock(_) | Found::Damaged(_) | Found::Newer(_) => {}
    }
    let geometry = layout.geometry(disk)?;
    if !matches!(found, Found::Nothing) {
        disk.wipe(&found)?;
    }
    let superblock = Superblock {
        serial: 1,
        resource: layout.resource,
        area: layout.area,
        geometry,
        data: DataState::Inconsistent,
        ..Superblock::blank(layout.node)
    };
    let log = extent_log::fresh_ring(LogIdentity::of(&superblock), FIRST_TRANSACTION);
    disk.write(&Area { superblock: &superblock, log, bitmaps: &[] })?;
    Ok(superblock)
}

/// Whose metadata this is, for an operator who is about to overwrite it.
pub(super) fn describe(superblock: &Superblock) -> String {
    let resource = superblock.resource.0;
    let generation = superblock.lineage.head().map_or_else(
        || "just created".to_owned(),
        |head| format!("generation {:016x} of epoch {}", head.id, head.epoch.0),
    );
    format!("resource {resource:032x}, {}, {generation}", superblock.node)
}
