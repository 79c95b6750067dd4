//! Owns commands to one resource: their limit in time, sending them, saying what came of them;
//! and `demote`, `disconnect`, `pause-sync`, `resume-sync` and `resume`, which have no more to them.

use std::time::Duration;

use clap::Args;

use super::context::Context;
use super::exit::{Exit, Failure};
use crate::config::{Name, quantity};
use crate::control::body::Parameters;

/// A resource, and how long its command may take.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    /// The resource.
    #[arg(value_parser = Name::parse)]
    pub(super) resource: Name,
    /// Longest wait for the end of the command, such as 60s or 10min.
    #[arg(long, default_value = "30s", value_parser = parse_limit)]
    pub(super) timeout: Duration,
}

/// A time limit as typed.
pub(super) fn parse_limit(typed: &str) -> Result<Duration, String> {
    quantity::parse_time(typed).map(|limit| Duration::from_nanos(limit.0))
}

/// Sends a command without parameters.
pub(super) fn run(
    command: &str,
    arguments: &Arguments,
    context: &Context,
) -> Result<Exit, Failure> {
    send(command, arguments, Parameters::default(), context)
}

/// Sends a command and says what came of it.
pub(super) fn send(
    command: &str,
    arguments: &Arguments,
    parameters: Parameters,
    context: &Context,
) -> Result<Exit, Failure> {
    let daemon = context.daemon();
    let name = arguments.resource.as_str();
    let done = context.wait_for(daemon.command(name, command, parameters, arguments.timeout))?;
    context.answer(&format!("{name}: {}", done.result), &done, Exit::Done)
}
