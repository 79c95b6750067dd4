//! Owns `twinblk list`: which resources this node has, and where.

use clap::Args;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::view;
use crate::config::quantity::show_bytes;
use crate::control::body::ResourceBody;

#[derive(Debug, Args)]
pub(super) struct Arguments {}

pub(super) fn run(_: &Arguments, context: &Context) -> Result<Exit, Failure> {
    let status = context.wait_for(context.daemon().status(None))?;
    let row = |resource: &ResourceBody| {
        vec![
            resource.name.clone(),
            resource.role.clone(),
            show_bytes(resource.device_bytes),
            resource.protocol.clone(),
            resource.disk_path.clone(),
            resource.nbd_socket.clone(),
        ]
    };
    let rows = status.resources.iter().map(row).collect();
    let head = ["RESOURCE", "ROLE", "SIZE", "PROTOCOL", "DISK", "NBD-SOCKET"];
    context.answer(&view::table(&head, rows), &status, Exit::Done)
}
