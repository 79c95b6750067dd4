//! Owns `twinblk promote`, and what to tell before it is forced.

use clap::Args;

use super::confirm::Consent;
use super::context::Context;
use super::exit::{Exit, Failure};
use super::{order, view};
use crate::control::body::{Parameters, ResourceBody};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    order: order::Arguments,
    /// Although newer data may exist elsewhere: make sure first that the other node is off.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    consent: Consent,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<Exit, Failure> {
    let mut force = arguments.force;
    if force {
        let daemon = context.daemon();
        let resource = context.wait_for(daemon.resource(arguments.order.resource.as_str()))?;
        // Where plain promotion would do, nobody need be asked; then nothing is forced either.
        force = !resource.may_promote;
        if force {
            arguments.consent.confirm(&cost(&resource), context)?;
        }
    }
    order::send("promote", &arguments.order, Parameters { force, ..Parameters::default() }, context)
}

/// What a forced promotion costs, in the state the resource is in.
fn cost(resource: &ResourceBody) -> String {
    let mut text = format!(
        "{}: this node is {}, its disk {}. Promotion is refused:\n  {}\nForcing it means:\n  \
         - what the other node has and this one lacks is not served any more. When they meet it is \
         overwritten, or, if that node went on alone, that is a split brain and you choose whose writes to \
         give up;\n  \
         - if the other node still serves, both go on apart, and the writes of one side will be \
         lost.\nMake sure that the other node is off, or cannot reach its clients.",
        resource.name, resource.role, resource.disk, resource.promote_refusal
    );
    let notes = view::notes(resource);
    if !notes.is_empty() {
        text.push_str(&format!("\nThe state now:\n  {}", notes.join("\n  ")));
    }
    text
}
