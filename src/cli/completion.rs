//! Owns `twinblk completion`: scripts that let a shell complete our words.

use clap::{Args, CommandFactory};
use clap_complete::{Shell, generate};

use super::CommandLine;
use super::exit::{Exit, Failure};
use super::terminal::Terminal;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// For which shell; let it read the output, as with `source <(twinblk completion bash)`.
    shell: Shell,
}

pub(super) fn run(arguments: &Arguments) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    generate(arguments.shell, &mut CommandLine::command(), "twinblk", &mut script);
    Terminal::print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Done)
}
