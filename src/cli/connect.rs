//! Owns `twinblk connect`, also as the way out of a split brain.

use clap::Args;

use super::confirm::Consent;
use super::context::Context;
use super::exit::{Exit, Failure};
use super::order;
use crate::control::body::Parameters;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    order: order::Arguments,
    /// End a split brain by giving up this node's side: its differing blocks are overwritten.
    #[arg(long)]
    discard_my_data: bool,
    #[command(flatten)]
    consent: Consent,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<Exit, Failure> {
    let discard_my_data = arguments.discard_my_data;
    if discard_my_data {
        let cost = format!(
            "{}: all that was written on this node since the two parted is overwritten with the \
             peer's blocks. Copy elsewhere what is still needed of it.",
            arguments.order.resource
        );
        arguments.consent.confirm(&cost, context)?;
    }
    let parameters = Parameters { discard_my_data, ..Parameters::default() };
    order::send("connect", &arguments.order, parameters, context)
}
