//! Owns what every command has at hand: flags, terminal, configuration, the way to the daemon.
//! Must never know what a command does.

use std::future::Future;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::daemon::Daemon;
use super::exit::{Exit, Failure};
use super::terminal::Terminal;
use super::{Format, Globals};
use crate::config::{self, Config, ConfigErrors};
use crate::control::body::{ErrorBody, Failure as FailureBody, SCHEMA_VERSION};

/// What every command has at hand.
#[derive(Debug)]
pub(super) struct Context {
    globals: Globals,
    pub(super) terminal: Terminal,
}

impl Context {
    pub(super) fn new(globals: Globals) -> Self {
        Self { globals, terminal: Terminal::detect() }
    }

    /// Whether to answer in JSON.
    pub(super) fn json(&self) -> bool {
        self.globals.json || self.globals.output == Format::Json
    }

    /// The configuration file.
    pub(super) fn config_path(&self) -> &Path {
        &self.globals.config
    }

    /// The node named on the command line.
    pub(super) fn node(&self) -> Option<&str> {
        self.globals.node.as_deref()
    }

    /// The configuration, checked.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        config::load(&self.globals.config).map_err(|errors| {
            let text = match &errors {
                ConfigErrors::Mistakes(report) => report.render(self.terminal.error_colour),
                other => other.to_string(),
            };
            Failure::new(Exit::Failed, text)
        })
    }

    /// The way to the daemon of this node. A file that cannot be used is no obstacle: the daemon
    /// may run with an older one, at the usual place.
    pub(super) fn daemon(&self) -> Daemon {
        let found = self.config().and_then(|config| {
            let node = config.local(self.node());
            node.map(|node| node.admin_socket.clone())
                .map_err(|why| Failure::new(Exit::Failed, why.to_string()))
        });
        let usual = || PathBuf::from(config::DEFAULT_RUN_DIRECTORY).join("admin.sock");
        match found {
            Ok(socket) => Daemon::new(socket, None),
            Err(failure) => Daemon::new(usual(), Some(failure.text)),
        }
    }

    /// Runs what waits for the daemon.
    pub(super) fn wait_for<T>(
        &self,
        work: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot start the event loop: {error}"))
        })?;
        runtime.block_on(work)
    }

    /// Prints an answer: `text` for people, `body` for programs. Gives back `exit`, also if whoever
    /// read has closed the output: the code says what was found, not who looked.
    pub(super) fn answer(
        &self,
        text: &str,
        body: &impl Serialize,
        exit: Exit,
    ) -> Result<Exit, Failure> {
        let printed =
            if self.json() { print_json(body) } else { Terminal::print(&format!("{text}\n")) };
        match printed {
            Err(failure) if failure.exit != Exit::Done => Err(failure),
            _ => Ok(exit),
        }
    }

    /// Says on stderr why a command failed.
    pub(super) fn explain(&self, failure: &Failure) {
        if failure.text.is_empty() {
            return;
        }
        if self.json() {
            let kind = match failure.exit {
                Exit::Unreachable => "unreachable",
                Exit::NoSuchResource => "no_such_resource",
                Exit::Refused => "refused",
                Exit::TimedOut => "timed_out",
                _ => "failed",
            };
            let (kind, reason) = (kind.to_owned(), failure.reason.clone());
            let error = FailureBody { kind, reason, message: failure.text.clone() };
            let body = ErrorBody { schema_version: SCHEMA_VERSION, error };
            Terminal::complain(&serde_json::to_string(&body).unwrap_or_default());
            return;
        }
        let rule = failure.reason.as_ref().map_or_else(String::new, |id| format!(" [{id}]"));
        // Reports on the configuration bring their own heads.
        if failure.text.starts_with("error") || failure.text.starts_with('\u{1b}') {
            Terminal::complain(&failure.text);
        } else {
            let head = self.terminal.alarm("error:");
            Terminal::complain(&format!("{head} {}{rule}", failure.text));
        }
    }
}

/// Prints a body on one line.
pub(super) fn print_json(body: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(body)
        .map_err(|error| Failure::new(Exit::Failed, format!("cannot write JSON: {error}")))?;
    Terminal::print(&format!("{text}\n"))
}
