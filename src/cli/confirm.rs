//! Owns asking before something that cannot be taken back.
//! Must never take silence, or a script, for a yes.

use std::io::{self, BufRead, Write};

use clap::Args;

use super::context::Context;
use super::exit::{Exit, Failure};

/// The flag that answers the question beforehand.
#[derive(Clone, Copy, Debug, Args)]
#[group(skip)]
pub(super) struct Consent {
    /// Do not ask.
    #[arg(long, short)]
    yes: bool,
}

impl Consent {
    /// Tells what it costs and asks whether to go on.
    pub(super) fn confirm(self, cost: &str, context: &Context) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        if !context.terminal.can_ask {
            let text =
                format!("{cost}\nNobody can be asked here: repeat with --yes if that is meant");
            return Err(Failure::refused("not-confirmed", text));
        }
        let mut error = io::stderr().lock();
        let asked = write!(error, "{cost}\nGo on? Type \"yes\": ").and_then(|()| error.flush());
        let mut answer = String::new();
        let read = asked.and_then(|()| io::stdin().lock().read_line(&mut answer));
        match read {
            Ok(_) if answer.trim() == "yes" => Ok(()),
            Ok(_) => Err(Failure::refused("not-confirmed", "nothing was done")),
            Err(why) => Err(Failure::new(Exit::Failed, format!("cannot ask: {why}"))),
        }
    }
}
