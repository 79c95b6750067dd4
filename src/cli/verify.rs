//! Owns `twinblk verify`: starting it, and waiting for what it finds.

use std::time::Duration;

use clap::Args;
use tokio::time::{MissedTickBehavior, interval};

use super::context::Context;
use super::daemon::Daemon;
use super::exit::{Exit, Failure};
use super::order;
use crate::config::quantity::show_bytes;
use crate::control::body::{Parameters, ResourceBody};

const LOOK_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    order: order::Arguments,
    /// Then overwrite the peer's differing blocks with this node's, which must be primary.
    #[arg(long)]
    repair: bool,
    /// Wait for the end; exit with 7 if blocks differ that are not repaired.
    #[arg(long)]
    wait: bool,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<Exit, Failure> {
    let repair = arguments.repair;
    let parameters = Parameters { repair, ..Parameters::default() };
    let started = order::send("verify", &arguments.order, parameters, context)?;
    if !arguments.wait {
        return Ok(started);
    }
    let daemon = context.daemon();
    let resource = context.wait_for(wait(&daemon, arguments.order.resource.as_str()))?;
    let differing: u64 = resource.peers.iter().map(|peer| peer.verify_differing_bytes).sum();
    let text = match differing {
        0 => format!("{}: the copies are equal", resource.name),
        some => format!("{}: {} differed", resource.name, show_bytes(some)),
    };
    context.answer(&text, &resource)?;
    Ok(if differing > 0 && !repair { Exit::Degraded } else { Exit::Done })
}

/// Looks until nothing is compared any more.
async fn wait(daemon: &Daemon, name: &str) -> Result<ResourceBody, Failure> {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let resource = daemon.resource(name).await?;
        if let Some(peer) = resource.peers.iter().find(|peer| peer.connection != "Connected") {
            let text = format!("{name}: the verify ended early, as {} went away", peer.node);
            return Err(Failure::new(Exit::Failed, text));
        }
        if !resource.peers.iter().any(|peer| peer.replication.starts_with("Verify")) {
            return Ok(resource);
        }
    }
}
