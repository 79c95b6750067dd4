//! Owns which commands the admin surface takes, by name, and which parameters each has.
//! Must never decide whether a command may run: that is the core's.

use super::body::Parameters;
use crate::replica::event::Command;

/// A command by name: its parameters, and what it asks of the core.
struct Entry {
    name: &'static str,
    takes: &'static [&'static str],
    build: fn(Parameters) -> Command,
}

const fn plain(name: &'static str, build: fn(Parameters) -> Command) -> Entry {
    Entry { name, takes: &[], build }
}

/// All commands but `Stop`, which is a signal's.
const COMMANDS: [Entry; 15] = [
    Entry {
        name: "promote",
        takes: &["force"],
        build: |with| Command::Promote { force: with.force },
    },
    Entry {
        name: "connect",
        takes: &["discard_my_data"],
        build: |with| Command::Connect { discard_my_data: with.discard_my_data },
    },
    Entry {
        name: "verify",
        takes: &["repair"],
        build: |with| Command::Verify { repair: with.repair },
    },
    plain("demote", |_| Command::Demote),
    plain("disconnect", |_| Command::Disconnect),
    plain("invalidate", |_| Command::Invalidate),
    plain("pause-sync", |_| Command::PauseSync),
    plain("resume-sync", |_| Command::ResumeSync),
    plain("resume", |_| Command::Resume),
    plain("init-from", |_| Command::InitFrom),
    plain("init-empty", |_| Command::InitEmpty),
    plain("disk-detach", |_| Command::DiskDetach),
    plain("disk-attach", |_| Command::DiskAttach),
    plain("disk-replace", |_| Command::DiskReplace),
    plain("node-replace", |_| Command::NodeReplace),
];

/// The command called `name` with these parameters.
///
/// # Errors
/// In words, if there is none or it does not take one of the parameters.
pub(super) fn parse(name: &str, parameters: Parameters) -> Result<Command, String> {
    let entry = COMMANDS.iter().find(|entry| entry.name == name).ok_or_else(|| {
        let known: Vec<&str> = COMMANDS.iter().map(|entry| entry.name).collect();
        format!("no command {name:?}; there are: {}", known.join(", "))
    })?;
    let given = [
        ("force", parameters.force),
        ("discard_my_data", parameters.discard_my_data),
        ("repair", parameters.repair),
    ];
    match given.iter().find(|(key, set)| *set && !entry.takes.contains(key)) {
        Some((key, _)) => Err(format!("{name:?} does not take {key:?}")),
        None => Ok((entry.build)(parameters)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_takes_only_its_own_parameters() {
        let force = Parameters { force: true, ..Parameters::default() };
        assert_eq!(parse("promote", force), Ok(Command::Promote { force: true }));
        assert_eq!(parse("demote", force), Err("\"demote\" does not take \"force\"".to_owned()));
        assert_eq!(parse("demote", Parameters::default()), Ok(Command::Demote));
        assert!(parse("stop", Parameters::default()).is_err());
        assert!(parse("", Parameters::default()).is_err());
    }
}
