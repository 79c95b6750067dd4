//! Owns stories of two and three cores, told in virtual time: what happens, and what must hold at the end.
//! Must never open a socket or a file, nor sleep.
#![allow(missing_docs, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::cast_possible_truncation)]
#![allow(
    clippy::too_many_arguments,
    clippy::needless_pass_by_value,
    clippy::needless_range_loop,
    clippy::comparison_to_empty,
    reason = "stories read better with all they are about in one call"
)]

mod commands;
mod corners;
mod field;
mod field_disks;
mod field_interrupt;
mod field_io;
mod field_lineage;
mod field_resync;
mod field_roles;
mod field_split;
mod field_suspend;
mod field_verify;
mod found;
mod garbage;
mod half_known;
mod let_go;
mod losses;
mod medium;
mod modelled;
mod operators;
mod rare;
mod restored;
mod stories;
mod three;
mod walk;
mod walk_disks;
mod world;
