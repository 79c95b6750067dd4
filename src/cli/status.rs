//! Owns `twinblk status`: how everything is, once or again and again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use clap::Args;
use tokio::time::{MissedTickBehavior, interval};

use super::context::{Context, print_json};
use super::daemon::Daemon;
use super::exit::{Exit, Failure};
use super::terminal::Terminal;
use super::trend::Earlier;
use super::view;
use crate::config::Name;
use crate::control::body::{PeerBody, ResourceBody, StatusBody};

/// How often `--watch` looks.
const WATCH_EVERY: Duration = Duration::from_secs(1);

/// How often where nobody can redraw: a log, or a pipe.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// How far back "losing ground" looks: shorter would call every burst a trend.
const TREND_SPAN: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Only this resource.
    #[arg(value_parser = Name::parse)]
    resource: Option<Name>,
    /// Look again every second until stopped; every ten seconds if the output is no terminal.
    #[arg(long, short)]
    watch: bool,
    /// Exit with 7 if something is less than it should be.
    #[arg(long, conflicts_with = "watch")]
    exit_status: bool,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<Exit, Failure> {
    let daemon = context.daemon();
    let resource = arguments.resource.as_ref().map(Name::as_str);
    if arguments.watch {
        return context.wait_for(watch(&daemon, resource, context));
    }
    let status = context.wait_for(daemon.status(resource))?;
    let text = view::status(&status, context.terminal, |_, _| None);
    let degraded = status.resources.iter().any(|resource| resource.degraded);
    let exit = if arguments.exit_status && degraded { Exit::Degraded } else { Exit::Done };
    context.answer(&text, &status, exit)
}

async fn watch(
    daemon: &Daemon,
    resource: Option<&str>,
    context: &Context,
) -> Result<Exit, Failure> {
    let mut samples = Samples::default();
    let live = context.json() || context.terminal.can_redraw;
    let mut ticks = interval(if live { WATCH_EVERY } else { LOG_EVERY });
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let text = match daemon.status(resource).await {
            Ok(status) if context.json() => {
                print_json(&status)?;
                continue;
            }
            Ok(status) => {
                let now = Instant::now();
                let earlier = |of: &ResourceBody, peer: &PeerBody| samples.earlier(of, peer, now);
                let text = view::status(&status, context.terminal, earlier);
                samples.add(&status, now);
                text
            }
            // On a terminal somebody watches it come back; a script wants to know.
            Err(gone) if gone.exit == Exit::Unreachable && context.terminal.can_redraw => gone.text,
            Err(failure) => return Err(failure),
        };
        let wipe = if context.terminal.can_redraw { "\u{1b}[H\u{1b}[2J" } else { "" };
        Terminal::print(&format!("{wipe}{text}\n"))?;
    }
}

/// What was out of sync, and when, by resource and peer; oldest first.
#[derive(Debug, Default)]
struct Samples(BTreeMap<(String, String), Vec<(Instant, u64)>>);

impl Samples {
    fn add(&mut self, status: &StatusBody, now: Instant) {
        for resource in &status.resources {
            for peer in &resource.peers {
                let key = (resource.name.clone(), peer.node.clone());
                let samples = self.0.entry(key).or_default();
                samples.push((now, peer.out_of_sync_bytes));
                // One older than the span is kept: it is what the others are held against.
                let young = samples.iter().filter(|(at, _)| now - *at < TREND_SPAN).count();
                let old = samples.len().saturating_sub(young + 1);
                samples.drain(..old);
            }
        }
    }

    fn earlier(&self, resource: &ResourceBody, peer: &PeerBody, now: Instant) -> Option<Earlier> {
        let samples = self.0.get(&(resource.name.clone(), peer.node.clone()))?;
        let (at, out_of_sync_bytes) = *samples.first()?;
        Some(Earlier { out_of_sync_bytes, age: now - at })
    }
}
