//! Owns the composition: the only place that knows every part, makes them and connects them.
//! Must never hold rules.

mod serve;

pub use serve::{ServeError, ServeOptions, serve};
