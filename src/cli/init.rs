//! Owns `twinblk init`: where the first contents of a new resource are.

use clap::Args;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::order;
use crate::config::Name;

#[derive(Debug, Args)]
#[group(skip)]
pub(super) struct Arguments {
    #[command(flatten)]
    order: order::Arguments,
    #[command(flatten)]
    source: Source,
}

/// Where the first contents are.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Source {
    /// On this node's disk, as they are: the other node's disk is overwritten. Must be given on
    /// the node itself.
    #[arg(long, value_name = "NODE", value_parser = Name::parse)]
    from: Option<Name>,
    /// Nowhere: both disks hold only zeroes, so nothing need be copied. That is checked.
    #[arg(long)]
    both_empty: bool,
}

pub(super) fn run(arguments: &Arguments, context: &Context) -> Result<Exit, Failure> {
    let Some(from) = &arguments.source.from else {
        return order::run("init-empty", &arguments.order, context);
    };
    let config = context.config()?;
    let here =
        config.local(context.node()).map_err(|why| Failure::new(Exit::Failed, why.to_string()))?;
    if here.name == *from {
        return order::run("init-from", &arguments.order, context);
    }
    let resource = &arguments.order.resource;
    if config.node_named(from.as_str()).is_none() {
        let text = format!("there is no node `{from}` in {}", config.path.display());
        return Err(Failure::new(Exit::Failed, text));
    }
    let text = format!(
        "this is node `{}`: only `{from}` can vouch for its own disk. There, run: \
         twinblk init {resource} --from {from}",
        here.name
    );
    Err(Failure::refused("not-this-node", text))
}
