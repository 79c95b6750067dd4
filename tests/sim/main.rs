//! Owns the simulator's command line: seeded worlds around real cores, and its own self-tests.
//! Must never judge by real time.

#![allow(
    dead_code,
    clippy::too_many_arguments,
    clippy::needless_pass_by_value,
    clippy::type_complexity,
    clippy::cast_possible_truncation,
    reason = "a world offers more than one run of it draws, and its numbers are small"
)]

mod arena;
mod chaos;
#[path = "../checker/mod.rs"]
#[allow(dead_code, reason = "shared with programs that use more of it")]
mod checker;
mod client;
mod clockwork;
mod disk;
mod faults;
mod image;
mod link;
mod network;
mod node;
mod operator;
mod product;
mod proof;
mod random;
mod ring;
mod runner;
mod socket;
mod toy;
mod watch;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use runner::{Plant, Run};

const HELP: &str = "\
Plays seeded worlds: two nodes, their disks and network, clients, an operator, faults.

  --seeds N        play N worlds (1000)
  --from S         the first seed (1)
  --seed S         play one world
  --trace          print every event of it
  --minutes M      play until so much time has passed
  --fault NAME     only this kind of fault
  --system NAME    what runs on the nodes
  --plant NAME     with this bug: succeeds once the checkers have caught it
  --help           this, and the names

Without any of these, or with anything else: the self-tests, those that have the first argument in
their names.
";

fn help() -> ExitCode {
    print!("{HELP}\nfaults:");
    faults::KINDS.iter().for_each(|(name, _)| print!(" {name}"));
    print!("\nsystems:");
    runner::SYSTEMS.iter().for_each(|(name, _)| print!(" {name}"));
    print!("\nplants:");
    runner::plants().iter().for_each(|(name, _)| print!(" {name}"));
    println!();
    ExitCode::SUCCESS
}

fn find<T: Copy>(what: &str, name: &str, all: &[(&str, T)]) -> Result<T, String> {
    let found = all.iter().find(|(known, _)| *known == name).map(|(_, found)| *found);
    found.ok_or_else(|| format!("there is no {what} called `{name}`; --help lists them"))
}

/// Reads the command line; none if it is not the simulator's own.
fn parse(arguments: &[String]) -> Result<Option<Run>, String> {
    let mut run = Run::default();
    let mut rest = arguments.iter();
    while let Some(name) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{name} needs a value"));
        let number =
            |text: &String| text.parse::<u64>().map_err(|error| format!("{name} {text}: {error}"));
        match name.as_str() {
            "--seeds" => run.count = Some(number(value()?)?),
            "--from" => run.from = number(value()?)?,
            "--seed" => {
                run.from = number(value()?)?;
                run.count = Some(1);
                run.single = true;
            }
            "--trace" => run.print = true,
            "--minutes" => {
                let span = Duration::from_secs(60 * number(value()?)?);
                run.until = Some(Instant::now() + span);
            }
            "--fault" => run.only = Some(find("fault", value()?, &faults::KINDS)?),
            "--system" => run.system = find("system", value()?, &runner::SYSTEMS)?,
            "--plant" => run.plant = find::<Plant>("plant", value()?, &runner::plants())?,
            _ => return Ok(None),
        }
    }
    Ok((!arguments.is_empty()).then_some(run))
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        return help();
    }
    let well = match parse(&arguments) {
        Ok(Some(run)) if run.plant == Plant::None => runner::play(&run),
        Ok(Some(run)) => runner::hunt(&run),
        Ok(None) => {
            let filter = arguments.iter().find(|argument| !argument.starts_with('-'));
            proof::all(filter.map_or("", String::as_str))
        }
        Err(text) => {
            eprintln!("{text}");
            false
        }
    };
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
