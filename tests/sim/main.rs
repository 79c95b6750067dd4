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
mod exchange;
mod faults;
mod image;
mod link;
mod network;
mod node;
mod operator;
mod orders;
mod plants;
mod product;
mod proof;
mod random;
mod ring;
mod runner;
mod socket;
mod tally;
mod toy;
mod watch;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use plants::Plant;
use runner::{Run, System};

const HELP: &str = "\
Plays seeded worlds: two nodes, their disks and network, clients, an operator, faults.

  --seeds N        play N worlds (1000)
  --from S         the first seed (1)
  --seed S         play one world
  --trace          print every event of it
  --minutes M      play until so much time has passed
  --fault NAME     only this kind of fault; may be given several times
  --without N,N    with the faults of these numbers left out (--trace shows them)
  --shrink         of the world that --seed names, which goes wrong: with as few faults as do
  --counts FILE    write how often each row, change of state, fault, command and early end was met
  --wide           only devices with more extents than the activity log
  --system NAME    what runs on the nodes
  --plant NAME     with this bug: succeeds once the checkers have caught it
  --plants         the same with every bug of the system, and a table of them
  --help           this, and the names

Without any of these, or with anything else: the self-tests, those that have the first argument in
their names.
";

fn help() -> ExitCode {
    print!("{HELP}\nfaults:");
    faults::KINDS.iter().for_each(|(name, _)| print!(" {name}"));
    print!("\nsystems:");
    runner::SYSTEMS.iter().for_each(|(name, _)| print!(" {name}"));
    for (name, system) in runner::SYSTEMS {
        print!("\nplants of {name}:");
        plants::of(system).iter().for_each(|(name, _)| print!(" {name}"));
    }
    println!();
    ExitCode::SUCCESS
}

fn find<T: Copy>(what: &str, name: &str, all: &[(&str, T)]) -> Result<T, String> {
    let found = all.iter().find(|(known, _)| *known == name).map(|(_, found)| *found);
    found.ok_or_else(|| format!("there is no {what} called `{name}`; --help lists them"))
}

/// What the command line asks for.
enum Wish {
    Play(Run),
    Hunt(Run),
    Shrink(Run),
    HuntAll(Run),
    /// It is not the simulator's own.
    Proof,
}

/// Reads the command line.
fn parse(arguments: &[String]) -> Result<Wish, String> {
    let mut run = Run::default();
    let (mut plant, mut all, mut shrink) = (None, false, false);
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
            "--wide" => run.wide = true,
            "--shrink" => shrink = true,
            "--counts" => run.counts = Some(PathBuf::from(value()?)),
            "--without" => {
                for text in value()?.split(',') {
                    run.without.insert(number(&text.to_owned())?);
                }
            }
            "--minutes" => {
                let span = Duration::from_secs(60 * number(value()?)?);
                run.until = Some(Instant::now() + span);
            }
            "--fault" => run.only.push(find("fault", value()?, &faults::KINDS)?),
            "--system" => run.system = find("system", value()?, &runner::SYSTEMS)?,
            "--plant" => plant = Some(value()?),
            "--plants" => all = true,
            _ => return Ok(Wish::Proof),
        }
    }
    if arguments.is_empty() {
        return Ok(Wish::Proof);
    }
    let plant = plant.map(|name| find::<Plant>("plant", name, &plants::of(run.system)));
    let plant = plant.transpose()?.unwrap_or(Plant::None);
    let product = matches!(plant, Plant::Product(_)) || (all && run.system == System::Product);
    if product && !cfg!(feature = "plants") {
        return Err("the product's bugs are only in a build with the feature `plants`".to_owned());
    }
    if shrink {
        return Ok(Wish::Shrink(if plant.is_none() { run } else { run.with(plant) }));
    }
    Ok(match (all, plant.is_none()) {
        (true, _) => Wish::HuntAll(run),
        (false, true) => Wish::Play(run),
        (false, false) => Wish::Hunt(run.with(plant)),
    })
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        return help();
    }
    let well = match parse(&arguments) {
        Ok(Wish::Play(run)) => runner::play(&run),
        Ok(Wish::Hunt(run)) => plants::hunt(&run),
        Ok(Wish::Shrink(run)) => runner::shrink(run),
        Ok(Wish::HuntAll(run)) => plants::hunt_all(&run),
        Ok(Wish::Proof) => {
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
