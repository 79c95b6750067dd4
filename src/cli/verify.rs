//! Owns `twinblk verify`: starting it, and waiting for what it finds.

use std::time::Duration;

use clap::Args;
use tokio::time::{MissedTickBehavior, interval};

use super::context::Context;
use super::daemon::Daemon;
use super::exit::{Exit, Failure};
use super::order;
use crate::config::quantity::show_bytes;
use crate::control::body::{Parameters, PeerBody, ResourceBody};

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Looks for which the peer may be away during a repair.
const AWAY_MAX: u32 = 30;

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
    let name = arguments.order.resource.as_str();
    let resource = context.wait_for(wait(&daemon, name))?;
    let differing: u64 = resource.peers.iter().map(|peer| peer.verify_differing_bytes).sum();
    if differing > 0 && repair {
        let repaired = context.wait_for(repaired(&daemon, name))?;
        let text = format!("{name}: {} differed, and were repaired", show_bytes(differing));
        return context.answer(&text, &repaired, Exit::Done);
    }
    match differing {
        0 => context.answer(&format!("{name}: the copies are equal"), &resource, Exit::Done),
        some => {
            let text = format!("{name}: {} differ", show_bytes(some));
            context.answer(&text, &resource, Exit::Degraded)
        }
    }
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
        if resource.peers.iter().any(|peer| peer.replication.starts_with("Verify")) {
            continue;
        }
        if let Some(peer) = resource.peers.iter().find(|peer| !is_verified(&resource, peer)) {
            let text = format!(
                "{name}: the verify ended early, after {} of {}: {} says why (`twinblk status \
                 {name}` and the daemon's log). Start it again",
                show_bytes(peer.verify_done_bytes),
                show_bytes(resource.device_bytes),
                peer.node
            );
            return Err(Failure::new(Exit::Failed, text));
        }
        return Ok(resource);
    }
}

/// Whether all has been compared.
fn is_verified(resource: &ResourceBody, peer: &PeerBody) -> bool {
    peer.verify_done_bytes >= resource.device_bytes
}

/// Looks until what differed has been copied.
async fn repaired(daemon: &Daemon, name: &str) -> Result<ResourceBody, Failure> {
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut away = 0;
    loop {
        ticks.tick().await;
        let resource = daemon.resource(name).await?;
        let lost = resource.peers.iter().find(|peer| peer.connection != "Connected");
        // The nodes meet anew for the repair, so a moment without a connection is no fault.
        away = if lost.is_some() { away + 1 } else { 0 };
        if let Some(peer) = lost.filter(|peer| peer.connection == "StandAlone" || away > AWAY_MAX) {
            let (node, why) = (&peer.node, &peer.connection_reason);
            let text = format!(
                "{name}: not repaired yet, as {node} is not connected ({why}). What differs is on \
                 record, and is copied when it is back"
            );
            return Err(Failure::new(Exit::Failed, text));
        }
        let equal =
            |peer: &PeerBody| peer.replication == "Established" && peer.out_of_sync_bytes == 0;
        if resource.peers.iter().all(equal) {
            return Ok(resource);
        }
    }
}
