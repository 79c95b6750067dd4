//! Owns the composition: the only place that knows every part, makes them and connects them.
//! Must never hold rules.

mod carry;
pub mod shard;
pub mod site;

pub use carry::Setup;
