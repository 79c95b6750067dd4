//! Owns where the daemon's log goes: stderr, filtered by `TWINBLK_LOG`.
//! Must never colour what is not read on a terminal.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::exit::{Exit, Failure};
use super::terminal::Terminal;

const VARIABLE: &str = "TWINBLK_LOG";

/// Starts logging.
pub(super) fn start(terminal: Terminal) -> Result<(), Failure> {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var(VARIABLE)
        .from_env()
        .map_err(|error| {
            let text = format!(
                "{VARIABLE} is no filter: {error}. Write a level such as `info` or `debug`, or \
                 `twinblk::link=debug,info`"
            );
            Failure::new(Exit::Usage, text)
        })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(terminal.error_colour)
        .try_init()
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot start the log: {error}")))
}
