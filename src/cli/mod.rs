//! Owns the command line: flags, one file per command, answers as tables or JSON, exit codes.
//! Must never compute a state: it shows what the daemon says, in words.

mod clock;
mod confirm;
mod context;
mod daemon;
mod exit;
mod log;
mod stopped;
mod terminal;
mod trend;
mod view;
mod words;

mod compare;
mod completion;
mod config;
mod connect;
mod create;
mod disk;
mod events;
mod init;
mod invalidate;
mod list;
mod manual;
mod meta;
mod node;
mod order;
mod promote;
mod serve;
mod status;
mod verify;
mod wait;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};

use context::Context;
use exit::{Exit, Failure};

/// Keeps one block device identical on two machines, in user space.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 daemon unreachable, 4 no such resource, 5
/// refused by a safety rule, 6 timed out, 7 degraded.
#[derive(Debug, Parser)]
#[command(name = "twinblk", version, propagate_version = true, arg_required_else_help = true)]
struct CommandLine {
    #[command(flatten)]
    globals: Globals,
    #[command(subcommand)]
    verb: Verb,
}

/// Flags of every command.
#[derive(Clone, Debug, Args)]
struct Globals {
    /// The configuration file.
    #[arg(long, global = true, env = "TWINBLK_CONFIG", value_name = "FILE")]
    #[arg(default_value = crate::config::DEFAULT_PATH, hide_env_values = true)]
    config: PathBuf,
    /// The node this machine is; else the one named like the host.
    #[arg(long, global = true, env = "TWINBLK_NODE", value_name = "NAME", hide_env_values = true)]
    node: Option<String>,
    /// Answer in JSON; the same as --output json.
    #[arg(long, global = true)]
    json: bool,
    /// How to answer.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
}

/// How to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people.
    Table,
    /// For programs: stable keys, with a schema version.
    Json,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Run the daemon of this node.
    Serve(serve::Arguments),
    /// Show roles, disks, connections, and what to do where something is wrong.
    Status(status::Arguments),
    /// List the resources of this node.
    List(list::Arguments),
    /// Follow changes: all that exists, then one line per change.
    Events(events::Arguments),
    /// Wait until a resource is as wanted.
    Wait(wait::Arguments),
    /// Lay out this node's metadata for a new resource.
    Create(create::Arguments),
    /// Say where the first contents of a new resource are.
    ///
    /// Refused if this node, or the peer it is connected to, has contents already.
    Init(init::Arguments),
    /// Make this node primary: it serves clients.
    ///
    /// Refused if the peer is primary, and if this node's copy is not, or is not known to be, the
    /// newest. The latter can be overridden with --force, which tells what it costs and asks.
    Promote(promote::Arguments),
    /// Make this node secondary, cleanly; its clients are disconnected.
    ///
    /// Ends when what they wrote is stable on both nodes. What waits for a peer that is away ends
    /// unanswered.
    Demote(order::Arguments),
    /// Connect to the peer again.
    ///
    /// Needed after `disconnect`, and after a refusal such as split brain; any other loss of the
    /// link mends itself. A primary cannot give up its data.
    Connect(connect::Arguments),
    /// Disconnect from the peer until `connect`.
    ///
    /// A secondary withdraws: its copy counts as Outdated, durably, before the primary goes on
    /// alone. Refused where clients would come to wait: if a primary works on the peer's copy, or
    /// if on_peer_loss is "suspend" and nobody has said `resume`.
    Disconnect(order::Arguments),
    /// Throw away this node's copy and fetch all from the peer.
    ///
    /// Refused on a primary, and while the connected peer has no whole copy.
    Invalidate(invalidate::Arguments),
    /// Let a resync rest.
    PauseSync(order::Arguments),
    /// Let a resync go on.
    ResumeSync(order::Arguments),
    /// Let a primary that waits for its peer go on alone.
    ///
    /// For this time: once the peer is back and in sync, on_peer_loss counts again.
    Resume(order::Arguments),
    /// Compare both copies block by block.
    ///
    /// Given on the primary, if there is one. Refused unless both nodes are connected and in sync.
    Verify(verify::Arguments),
    /// Let go of the local disk, or take it back.
    #[command(subcommand)]
    Disk(disk::Verb),
    /// Deal with a machine that was replaced.
    #[command(subcommand)]
    Node(node::Verb),
    /// Look at the configuration.
    #[command(subcommand)]
    Config(config::Verb),
    /// Look at the records of a stopped replica, or bring them back.
    #[command(subcommand)]
    Meta(meta::Verb),
    /// Compare two stopped replicas byte for byte.
    Compare(compare::Arguments),
    /// Write a script with which a shell completes twinblk's words.
    Completion(completion::Arguments),
    /// Read the manual.
    Manual(manual::Arguments),
}

/// Runs a command line, program name first. Everything a command says has been written when this
/// returns.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let parsed = match CommandLine::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help on a closed pipe is no fault.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done }.into();
        }
    };
    let context = Context::new(parsed.globals);
    let outcome = dispatch(parsed.verb, &context);
    match outcome {
        Ok(exit) => exit.into(),
        Err(failure) => {
            context.explain(&failure);
            failure.exit.into()
        }
    }
}

fn dispatch(verb: Verb, context: &Context) -> Result<Exit, Failure> {
    match verb {
        Verb::Serve(arguments) => serve::run(&arguments, context),
        Verb::Status(arguments) => status::run(&arguments, context),
        Verb::List(arguments) => list::run(&arguments, context),
        Verb::Events(arguments) => events::run(&arguments, context),
        Verb::Wait(arguments) => wait::run(&arguments, context),
        Verb::Create(arguments) => create::run(&arguments, context),
        Verb::Init(arguments) => init::run(&arguments, context),
        Verb::Promote(arguments) => promote::run(&arguments, context),
        Verb::Demote(arguments) => order::run("demote", &arguments, context),
        Verb::Connect(arguments) => connect::run(&arguments, context),
        Verb::Disconnect(arguments) => order::run("disconnect", &arguments, context),
        Verb::Invalidate(arguments) => invalidate::run(&arguments, context),
        Verb::PauseSync(arguments) => order::run("pause-sync", &arguments, context),
        Verb::ResumeSync(arguments) => order::run("resume-sync", &arguments, context),
        Verb::Resume(arguments) => order::run("resume", &arguments, context),
        Verb::Verify(arguments) => verify::run(&arguments, context),
        Verb::Disk(verb) => disk::run(&verb, context),
        Verb::Node(verb) => node::run(&verb, context),
        Verb::Config(verb) => config::run(&verb, context),
        Verb::Meta(verb) => meta::run(&verb, context),
        Verb::Compare(arguments) => compare::run(&arguments, context),
        Verb::Completion(arguments) => completion::run(&arguments),
        Verb::Manual(arguments) => manual::run(&arguments, context),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }
}
