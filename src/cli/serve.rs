//! Owns `twinblk serve`: the log, the configuration, then the daemon itself.

use clap::Args;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::log;
use crate::node::{self, ServeOptions};

#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) fn run(_: &Arguments, context: &Context) -> Result<Exit, Failure> {
    let _written = log::start(context.terminal)?;
    let config = context.config()?;
    for warning in &config.warnings.problems {
        tracing::warn!(
            line = config.warnings.line(warning),
            "{}; {}",
            warning.what,
            warning.remedy
        );
    }
    let node = config.local(context.node()).map(|node| node.id);
    let node = node.map_err(|why| Failure::new(Exit::Failed, why.to_string()))?;
    let secret = config.secret().map_err(|why| Failure::new(Exit::Failed, why.to_string()))?;
    node::serve(&ServeOptions { config, node, secret }).map_err(|error| {
        tracing::error!(%error, "the daemon ends");
        Failure::new(Exit::Failed, error.to_string())
    })?;
    Ok(Exit::Done)
}
