//! Owns the composition: the only place that knows every part, makes them and connects them.
//! Must never hold rules.
//!
//! | file | |
//! |---|---|
//! | `shard`, `carry` | the loop body, and one resource on it: what the simulator runs too |
//! | `site` | the edge between a shard and what surrounds it |
//! | `serve`, `setup`, `local`, `door`, `directory`, `errand` | the daemon around them |

mod carry;
mod directory;
mod door;
pub mod errand;
mod local;
mod serve;
mod setup;
pub mod shard;
pub mod site;

pub use carry::{Front, Setup};
pub use serve::{ServeError, ServeOptions, serve};
