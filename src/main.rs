//! The `twinblk` command.

fn main() {}
