//! Owns the tests of real daemons with real clients: two nodes of one machine on loopback addresses
//! of their own, killed, cut off and fed with rubbish, and judged by the bytes they hold. Must
//! never wait for time to pass: only for a state, with a limit.

mod basics;
mod clients;
mod config;
mod disks;
mod ends;
mod files;
mod filesystem;
mod hostile;
mod kills;
mod ledger;
mod link;
mod load;
mod lossy_disk;
mod medium;
mod memory;
mod mounted;
mod power;
mod pressure;
mod proxy;
mod refusals;
mod replay;
mod split;
mod stage;
mod stamp;
mod ways;
