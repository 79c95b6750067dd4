//! Owns `twinblk node`: a machine that was replaced.

use clap::{Args, Subcommand};

use super::confirm::Consent;
use super::context::Context;
use super::exit::{Exit, Failure};
use super::order;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// The peer's machine is a new one: forget what is known of its disk; it gets everything.
    Replace(Replace),
}

#[derive(Debug, Args)]
pub(super) struct Replace {
    #[command(flatten)]
    order: order::Arguments,
    #[command(flatten)]
    consent: Consent,
}

pub(super) fn run(verb: &Verb, context: &Context) -> Result<Exit, Failure> {
    let Verb::Replace(Replace { order, consent }) = verb;
    let cost = format!(
        "{}: the peer's present copy counts for nothing any more; a full copy follows when it \
         connects.",
        order.resource
    );
    consent.confirm(&cost, context)?;
    order::run("node-replace", order, context)
}
