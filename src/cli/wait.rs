//! Owns `twinblk wait`: until a resource is as wanted, or the time is over.

use std::time::Duration;

use clap::{Args, ValueEnum};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::context::Context;
use super::daemon::Daemon;
use super::exit::{Exit, Failure};
use super::order::parse_limit;
use super::view;
use crate::config::Name;
use crate::control::body::ResourceBody;

/// How often to look. Asking costs a shard a few microseconds.
const LOOK_EVERY: Duration = Duration::from_millis(200);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The resource.
    #[arg(value_parser = Name::parse)]
    resource: Name,
    /// What to wait for.
    #[arg(long = "for", value_enum)]
    goal: Goal,
    /// Longest wait, such as 60s or 10min.
    #[arg(long, default_value = "60s", value_parser = parse_limit)]
    timeout: Duration,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Goal {
    /// Both copies are UpToDate and every write reaches both.
    Insync,
    /// The nodes are connected.
    Connected,
    /// This node's copy is UpToDate.
    Uptodate,
    /// This node serves clients.
    Primary,
}

impl Goal {
    fn is_reached(self, resource: &ResourceBody) -> bool {
        match self {
            Self::Insync => !resource.degraded && !resource.peers.is_empty(),
            Self::Connected => {
                let mut peers = resource.peers.iter();
                !resource.peers.is_empty() && peers.all(|peer| peer.connection == "Connected")
            }
            Self::Uptodate => resource.disk == "UpToDate",
            Self::Primary => resource.role == "Primary",
        }
    }
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<Exit, Failure> {
    let daemon = context.daemon();
    let reached = context.wait_for(wait(arguments, &daemon))?;
    context.answer(&format!("{}: reached", arguments.resource), &reached, Exit::Done)
}

/// Looks until the goal is reached. A daemon that does not answer may be starting: only the time
/// limit ends that wait.
async fn wait(arguments: &Arguments, daemon: &Daemon) -> Result<ResourceBody, Failure> {
    let name = arguments.resource.as_str();
    let deadline = Instant::now() + arguments.timeout;
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let seen = match daemon.resource(name).await {
            Ok(resource) if arguments.goal.is_reached(&resource) => return Ok(resource),
            Ok(resource) => Ok(resource),
            Err(failure) if failure.exit == Exit::Unreachable => Err(failure),
            Err(failure) => return Err(failure),
        };
        if Instant::now() >= deadline {
            let resource = seen?;
            let limit = arguments.timeout.as_secs_f32();
            let mut text = format!("{name} did not get there within {limit} s.");
            for note in view::notes(&resource) {
                text.push_str(&format!("\n  {note}"));
            }
            return Err(Failure::new(Exit::TimedOut, text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::view::tests::{peer, resource};
    use crate::control::body::PeerBody;

    #[test]
    fn goals_are_read_off_the_state() {
        let all = [Goal::Insync, Goal::Connected, Goal::Uptodate, Goal::Primary];
        assert!(all.iter().all(|goal| goal.is_reached(&resource())));
        let away = PeerBody { connection: "Connecting".to_owned(), ..peer() };
        let lonely = ResourceBody { degraded: true, peers: vec![away], ..resource() };
        assert!(!Goal::Insync.is_reached(&lonely) && !Goal::Connected.is_reached(&lonely));
        assert!(Goal::Primary.is_reached(&lonely) && Goal::Uptodate.is_reached(&lonely));
        let nobody = ResourceBody { peers: vec![], ..resource() };
        assert!(!Goal::Insync.is_reached(&nobody) && !Goal::Connected.is_reached(&nobody));
    }
}
