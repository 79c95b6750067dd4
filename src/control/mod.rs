//! Owns the admin surface of the daemon: JSON over HTTP on a unix socket, for root alone.
//! Must never reach past [`Command`](crate::replica::event::Command),
//! [`Status`](crate::replica::event::Status) and [`Change`](crate::replica::event::Change): what a
//! command means is decided by the core, on the shard.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/version` | program and schema version |
//! | `GET /v1/status`, `GET /v1/status/RESOURCE` | [`body::StatusBody`] |
//! | `POST /v1/resource/RESOURCE/COMMAND` | [`body::DoneBody`]; parameters: [`body::Parameters`] |
//! | `GET /v1/events` | one [`body::EventBody`] a line: all that exists, a marker, each change |
//!
//! A failure is an [`body::ErrorBody`]. Keys are in snake_case, states are spelt as in the manual,
//! and fields are only ever added within one `schema_version`.

pub mod body;
mod command;
mod events;
mod gateway;
pub mod names;
mod router;
mod server;
mod stall;

pub use gateway::{Announcer, ControlError, Door, Facts, Gateway, Order, OrderKind, Wake};
#[doc(hidden)]
pub use server::serve;
pub use server::{BindError, Server};

#[cfg(test)]
mod tests;
