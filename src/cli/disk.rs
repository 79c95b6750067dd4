//! Owns `twinblk disk`: letting go of the local disk, taking it or another one back.

use clap::{Args, Subcommand};

use super::confirm::Consent;
use super::context::Context;
use super::exit::{Exit, Failure};
use super::order;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Let go of the local disk; the resource goes on through the peer's.
    ///
    /// Refused if it is the last up-to-date copy in reach of the primary.
    Detach(order::Arguments),
    /// Take the same disk back; what it missed is copied.
    Attach(order::Arguments),
    /// Take a new disk in its place: all is copied to it.
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
    match verb {
        Verb::Detach(order) => order::run("disk-detach", order, context),
        Verb::Attach(order) => order::run("disk-attach", order, context),
        Verb::Replace(Replace { order, consent }) => {
            let cost = format!(
                "{}: the disk named in the configuration is taken as new and overwritten with the \
                 peer's contents.",
                order.resource
            );
            consent.confirm(&cost, context)?;
            order::run("disk-replace", order, context)
        }
    }
}
