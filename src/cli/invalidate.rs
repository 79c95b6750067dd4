//! Owns `twinblk invalidate`.

use clap::Args;

use super::confirm::Consent;
use super::context::Context;
use super::exit::{Exit, Failure};
use super::order;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    order: order::Arguments,
    #[command(flatten)]
    consent: Consent,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<Exit, Failure> {
    let cost = format!(
        "{}: this node's copy counts for nothing until all of it has been fetched from the peer; \
         until then there is only the peer's.",
        arguments.order.resource
    );
    arguments.consent.confirm(&cost, context)?;
    order::run("invalidate", &arguments.order, context)
}
