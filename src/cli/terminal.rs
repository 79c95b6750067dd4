//! Owns writing to whatever is at the other end of stdout and stderr.
//! Must never fail because a reader has gone, nor write a colour that nobody asked for.

use std::io::{self, IsTerminal, Write};

use super::exit::{Exit, Failure};

/// What stdin, stdout and stderr are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Terminal {
    /// Questions can be asked and answered.
    pub(super) can_ask: bool,
    /// Stdout can be redrawn.
    pub(super) can_redraw: bool,
    /// Stderr can be redrawn.
    pub(super) can_show_progress: bool,
    /// Stdout takes colours.
    pub(super) colour: bool,
    /// Stderr takes colours.
    pub(super) error_colour: bool,
}

/// The variables that speak of colours.
#[derive(Clone, Copy, Debug, Default)]
struct Wishes {
    no_color: bool,
    force: bool,
    dumb: bool,
}

impl Wishes {
    fn read() -> Self {
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let force = set("CLICOLOR_FORCE") && std::env::var_os("CLICOLOR_FORCE") != Some("0".into());
        Self {
            no_color: set("NO_COLOR"),
            force,
            dumb: std::env::var_os("TERM").is_some_and(|term| term == "dumb"),
        }
    }

    /// Whether to colour, given whether it is a terminal: a "no" beats a "yes" beats a guess.
    const fn colour(self, terminal: bool) -> bool {
        !self.no_color && (self.force || (terminal && !self.dumb))
    }
}

impl Terminal {
    pub(super) fn detect() -> Self {
        let wishes = Wishes::read();
        let (out, error) = (io::stdout().is_terminal(), io::stderr().is_terminal());
        Self {
            can_ask: io::stdin().is_terminal() && error,
            can_redraw: out && !wishes.dumb,
            can_show_progress: error && !wishes.dumb,
            colour: wishes.colour(out),
            error_colour: wishes.colour(error),
        }
    }

    /// Writes to stdout at once.
    pub(super) fn print(text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| {
            match error.kind() {
                io::ErrorKind::BrokenPipe => Failure::output_closed(),
                _ => Failure::new(Exit::Failed, format!("cannot write to stdout: {error}")),
            }
        })
    }

    /// Writes a line to stderr; nobody can be told if that fails.
    pub(super) fn complain(text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Shows on stderr how far a long look has come, where somebody can see it; always says to go
    /// on.
    pub(super) fn progress(self, done: &'static str) -> impl FnMut(u64, u64) -> bool {
        let mut shown = None;
        move |bytes, all| {
            let percent = u128::from(bytes) * 100 / u128::from(all.max(1));
            if self.can_show_progress && shown != Some(percent) {
                shown = Some(percent);
                let _ = write!(io::stderr().lock(), "\r{percent:3} % {done}");
            }
            true
        }
    }

    /// Takes the progress away again.
    pub(super) fn clear_progress(self) {
        if self.can_show_progress {
            let _ = write!(io::stderr().lock(), "\r\u{1b}[K");
        }
    }

    /// `text` in red, where colours are wanted on stderr.
    pub(super) fn alarm(self, text: &str) -> String {
        if self.error_colour { format!("\u{1b}[1;31m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// `text` in yellow, where colours are wanted on stdout.
    pub(super) fn emphasise(self, text: &str) -> String {
        if self.colour { format!("\u{1b}[1;33m{text}\u{1b}[0m") } else { text.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_follow_the_conventions() {
        let plain = Wishes::default();
        assert!(plain.colour(true) && !plain.colour(false));
        assert!(!Wishes { dumb: true, ..plain }.colour(true));
        assert!(Wishes { force: true, ..plain }.colour(false));
        assert!(!Wishes { force: true, no_color: true, ..plain }.colour(true));
    }
}
