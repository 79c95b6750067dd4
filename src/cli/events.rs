//! Owns `twinblk events`: all that exists, a marker, then one line per change.

use clap::Args;

use super::clock;
use super::context::{Context, print_json};
use super::exit::{Exit, Failure};
use super::terminal::Terminal;
use crate::control::body::{Event, EventBody};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// End after all that exists has been told.
    #[arg(long)]
    now: bool,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<Exit, Failure> {
    let daemon = context.daemon();
    context.wait_for(async {
        let mut events = daemon.events().await?;
        while let Some(event) = events.next().await? {
            if context.json() {
                print_json(&event)?;
            } else {
                Terminal::print(&format!("{}\n", line(&event)))?;
            }
            let told = matches!(&event.event, Event::Exists { status: None, .. });
            if told && arguments.now {
                return Ok(Exit::Done);
            }
            if let Event::Cut { cause } = event.event {
                return Err(Failure::new(Exit::Failed, cause));
            }
        }
        Err(Failure::new(Exit::Unreachable, "the daemon has ended the stream: it stops"))
    })
}

fn line(event: &EventBody) -> String {
    let time = clock::show(event.time_ms);
    match &event.event {
        Event::Exists { resource, status: Some(status) } => {
            let peers = status.peers.iter().map(|peer| {
                let disk = peer.disk.as_deref().unwrap_or("-");
                format!(" {}:{},{},{disk}", peer.node, peer.connection, peer.replication)
            });
            let peers = peers.collect::<String>();
            format!("{time} exists {resource} {},{}{peers}", status.role, status.disk)
        }
        Event::Exists { resource, status: None } => format!("{time} exists {resource}"),
        Event::Change { resource, what, old, new, cause, .. } => {
            format!("{time} change {resource} {what} {old} -> {new}: {cause}")
        }
        Event::Cut { cause } => format!("{time} cut: {cause}"),
    }
}
