//! Owns what a command came to, for scripts: its exit code, and for a refusal the rule.
//! Must never be extended by reusing a number.

use std::process::ExitCode;

/// Exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// Done.
    Done = 0,
    /// Failed for another reason than those below.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The daemon cannot be reached.
    Unreachable = 3,
    /// This node has no such resource.
    NoSuchResource = 4,
    /// A safety rule forbids it.
    Refused = 5,
    /// It did not come about in time.
    TimedOut = 6,
    /// It works, and something is less than it should be.
    Degraded = 7,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    /// For a refusal, the stable name of the rule.
    pub(super) reason: Option<String>,
    /// What, why, and what to do next. Empty: there is nobody left to tell.
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Self { exit, reason: None, text: text.into() }
    }

    /// A safety rule of the command line itself.
    pub(super) fn refused(reason: &str, text: impl Into<String>) -> Self {
        Self { reason: Some(reason.to_owned()), ..Self::new(Exit::Refused, text) }
    }

    /// Whoever read our output has closed it: what they wanted they have.
    pub(super) fn output_closed() -> Self {
        Self::new(Exit::Done, "")
    }
}
