//! twinblk keeps one block device identical on two machines, in user space.

pub mod buffer;
pub mod cli;
pub mod config;
pub mod control;
pub mod export;
pub mod format;
pub mod limits;
pub mod link;
pub mod manual;
pub mod node;
pub mod plant;
pub mod replica;
pub mod ring;
pub mod store;
pub mod units;
