//! Owns the life of the daemon on one node, from its options to its last word.
//! Must never hold rules.

use crate::config::{Config, Secret};
use crate::units::NodeId;

/// What the daemon of a node is started with.
#[derive(Debug)]
pub struct ServeOptions {
    /// All that the file says.
    pub config: Config,
    /// The node this machine is.
    pub node: NodeId,
    /// The secret both nodes share.
    pub secret: Secret,
}

/// Why the daemon could not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// This build has no data plane.
    #[error("this build cannot serve")]
    NotComposed,
}

/// Serves until told to stop by a signal.
///
/// # Errors
/// If it cannot start.
#[expect(clippy::needless_pass_by_value, reason = "the daemon keeps them")]
pub fn serve(options: ServeOptions) -> Result<(), ServeError> {
    tracing::info!(node = options.node.0, "no data plane");
    Err(ServeError::NotComposed)
}
