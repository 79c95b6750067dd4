//! The `twinblk` command.

use std::process::ExitCode;

fn main() -> ExitCode {
    twinblk::cli::run(std::env::args_os())
}
