//! Owns `twinblk manual`: the chapters, for those who have only the program at hand.

use clap::Args;

use super::context::Context;
use super::exit::{Exit, Failure};
use super::terminal::Terminal;
use crate::manual::CHAPTERS;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Which chapter; without it, a list of them.
    chapter: Option<String>,
}

pub(super) fn run(arguments: &Arguments, _: &Context) -> Result<Exit, Failure> {
    let Some(wanted) = &arguments.chapter else {
        let list = CHAPTERS.iter().map(|(name, text)| {
            let title = text.lines().next().unwrap_or_default().trim_start_matches("# ");
            format!("{name:<14}{title}\n")
        });
        Terminal::print(&list.collect::<String>())?;
        return Ok(Exit::Done);
    };
    let Some((_, text)) = CHAPTERS.iter().find(|(name, _)| name == wanted) else {
        let names: Vec<&str> = CHAPTERS.iter().map(|(name, _)| *name).collect();
        let text = format!("no chapter {wanted:?}; there are: {}", names.join(", "));
        return Err(Failure::new(Exit::Usage, text));
    };
    Terminal::print(text)?;
    Ok(Exit::Done)
}
