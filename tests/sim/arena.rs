//! Owns one run: two nodes, their clients, an operator and the faults, from the first start to the
//! last comparison. Must never judge: that is the checker's.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use twinblk::replica::event::Status;
use twinblk::units::Nanos;

use crate::checker::copies::Copies;
use crate::checker::oracle::Violation;
use crate::client::{Client, Habits};
use crate::clockwork::{Event, LifeId, Trace};
use crate::disk::Lies;
use crate::faults::{Blow, Kind, Plan, mend_links, name, skew};
use crate::image::Image;
use crate::node::{Ask, Life, Maker};
use crate::operator::Operator;
use crate::orders::Words;
use crate::random::Random;
use crate::tally::{Tally, What};
use crate::world::{Happening, Shared, World};

/// How to run a world.
#[derive(Clone)]
pub(crate) struct Options {
    pub(crate) seed: u64,
    pub(crate) print: bool,
    pub(crate) only: Vec<Kind>,
    pub(crate) lies: Lies,
    pub(crate) device_bytes: u64,
    /// Faults left out, by number.
    pub(crate) without: BTreeSet<u64>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Report {
    /// Inputs handled by the cores of both nodes.
    pub(crate) inputs: u64,
    /// Events of the world.
    pub(crate) events: u64,
    pub(crate) hash: u64,
    pub(crate) asks: u64,
    pub(crate) faults: u64,
    pub(crate) violation: Option<String>,
    pub(crate) tally: Tally,
}

/// What the arena plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Client(usize),
    Whim,
    Mend,
    Fault,
    Strike(Blow, u32),
    Over(Kind, usize),
    Judge,
    Snapshot,
    Force(usize),
    Part,
    Loud,
    Calm,
    Quit(usize, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Until the cluster first is whole.
    Setup,
    /// Things go wrong.
    Chaos,
    /// Nothing goes wrong any more; the clients finish.
    Calm,
}

pub(crate) struct Node {
    pub(crate) disk: usize,
    pub(crate) life: Option<(LifeId, Box<dyn Life>)>,
    pub(crate) status: Option<Status>,
    pub(crate) client: Client,
    /// Its client asks for nothing, so that it begins no history of its own.
    pub(crate) quiet: bool,
    /// What an operator has told it and what that means.
    pub(crate) words: Words,
    /// The word that nobody else serves was given elsewhere, out of its sight.
    pub(crate) passed_over: Option<PassedOver>,
    /// The node that copies to this one.
    pub(crate) copied_from: Option<usize>,
    /// It called itself Inconsistent when it last spoke.
    pub(crate) half: bool,
    /// Its disk has failed, or was let go of, while the other copy was gone or not whole, and both have not been since.
    pub(crate) lost_disk: bool,
    /// Its disk is one of earlier, and it has not been mended since.
    pub(crate) restored: bool,
    /// Inputs that the core of its present life has handled.
    pub(crate) inputs: u64,
}

/// What a node that was passed over by force knows of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PassedOver {
    Unaware,
    /// It met the other one when its disk had completed so many durable writes.
    Told {
        at: u64,
    },
}

/// A record of two copies, behind one that was under way.
const DURABLE_WRITES_TO_LEARN: u64 = 4;

pub(crate) struct Arena {
    pub(crate) world: Shared,
    pub(crate) maker: Rc<dyn Maker>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) copies: Copies,
    pub(crate) options: Options,
    pub(crate) phase: Phase,
    pub(crate) plan: Plan,
    pub(crate) random: Random,
    pub(crate) operator: Operator,
    steps: BTreeMap<u64, Step>,
    next_step: u64,
    pub(crate) next_id: u64,
    pub(crate) asks: u64,
    /// The chaos ends with so many requests, if not before.
    asks_max: u64,
    pub(crate) faults: u64,
    pub(crate) tries: u32,
    pub(crate) whole_since: Option<Nanos>,
    /// A disk failed while the other copy was being written anew: nothing is left to be mended.
    pub(crate) given_up: bool,
    /// The operator has given up what only one node had: whoever serves next may lack it.
    pub(crate) conceded: bool,
    pub(crate) violation: Option<Violation>,
    pub(crate) tally: Tally,
    inputs: u64,
    /// Each node has the other's disk.
    pub(crate) swapped: bool,
    /// What disks held earlier.
    pub(crate) snapshots: [Option<(LifeId, Image)>; 2],
}

/// How often the operator and the judge look, ns.
pub(crate) const LOOK: u64 = 500_000_000;

/// Plays one world from its seed.
pub(crate) fn run(options: &Options, maker: Rc<dyn Maker>) -> Report {
    let mut arena = Arena::new(options.clone(), maker);
    arena.play();
    let world = arena.world.borrow();
    Report {
        inputs: arena.inputs,
        events: world.clockwork.events,
        hash: world.clockwork.trace.hash(),
        asks: arena.asks,
        faults: arena.faults,
        violation: arena.violation.as_ref().map(Violation::to_string),
        tally: arena.tally.clone(),
    }
}

impl Arena {
    fn new(options: Options, maker: Rc<dyn Maker>) -> Self {
        let mut world = World::new(options.seed, 2, Trace::new(options.print));
        let mut random = world.clockwork.random.fork();
        let plan = Plan::draw(&mut random, &maker.survives(), &options.only);
        let habits = Habits::draw(&mut random, options.device_bytes / 512);
        world.clockwork.note(format_args!("{plan:?} {habits:?}"));
        let skewed =
            (options.only.is_empty() || options.only.contains(&Kind::Clock)) && random.percent(50);
        let mut tally = Tally::default();
        if skewed {
            tally.add(What::Fault, name(Kind::Clock).to_owned());
        }
        let mut nodes = Vec::new();
        for number in 0..2 {
            if skewed {
                skew(&mut world, number);
            }
            let disk = world.add_disk(maker.disk_bytes(options.device_bytes), 512);
            world.disks[disk].lies = options.lies;
            maker.create(&mut world, number, disk);
            let client = Client::new(habits, random.fork());
            let (words, passed_over, copied_from) = (Words::default(), None, None);
            nodes.push(Node {
                disk,
                life: None,
                status: None,
                client,
                quiet: false,
                words,
                passed_over,
                copied_from,
                half: false,
                lost_disk: false,
                restored: false,
                inputs: 0,
            });
        }
        let operator = Operator { random: random.fork(), force_percent: plan.force_percent };
        world.clockwork.note(format_args!("protocol {:?}", maker.protocol()));
        let copies = Copies::new(2, maker.protocol());
        Self {
            world: world.shared(),
            maker,
            nodes,
            copies,
            options,
            phase: Phase::Setup,
            plan,
            operator,
            steps: BTreeMap::new(),
            next_step: 0,
            next_id: 0,
            asks: 0,
            asks_max: 1 << random.between(8, 13),
            faults: 0,
            tries: 0,
            whole_since: None,
            given_up: false,
            conceded: false,
            violation: None,
            tally,
            inputs: 0,
            swapped: false,
            snapshots: [None, None],
            random,
        }
    }

    pub(crate) fn note(&self, line: std::fmt::Arguments<'_>) {
        self.world.borrow_mut().clockwork.note(line);
    }

    pub(crate) fn after(&mut self, span: u64, step: Step) {
        self.next_step += 1;
        self.steps.insert(self.next_step, step);
        self.world.borrow_mut().clockwork.after(span, Event::Plan(self.next_step));
    }

    pub(crate) fn fail(&mut self, promise: &'static str, text: String) {
        self.violation.get_or_insert(Violation { promise, text });
    }

    fn play(&mut self) {
        for node in 0..2 {
            self.start(node);
        }
        self.after(LOOK, Step::Mend);
        loop {
            let happening = self.world.borrow_mut().next();
            match happening {
                None => self.fail("G20", "nothing is left to happen".to_owned()),
                Some(Happening::Turn(life)) => self.turn(life),
                Some(Happening::Plan(number)) => {
                    let step = self.steps.remove(&number).expect("planned once");
                    self.step(step);
                }
            }
            if self.violation.is_some() || self.given_up || self.is_over() {
                return;
            }
        }
    }

    /// Rest: whole for a while after the calm, and all clients have been answered.
    fn is_over(&mut self) -> bool {
        let now = self.world.borrow().now();
        let rested = |since: Nanos| now.since(since) > Nanos::from_millis(2000);
        if self.phase != Phase::Calm || !self.whole_since.is_some_and(rested) {
            return false;
        }
        if self.nodes.iter().all(|node| node.client.open.is_empty()) {
            self.compare();
            return true;
        }
        false
    }

    /// A node's life ends: what it was told and had no time to keep, it does not know.
    pub(crate) fn forgets_news(&mut self, node: usize) {
        let kept = self.world.borrow().disks[self.nodes[node].disk].kept_writes;
        if let Some(PassedOver::Told { at }) = self.nodes[node].passed_over
            && kept < at + DURABLE_WRITES_TO_LEARN
        {
            self.nodes[node].passed_over = Some(PassedOver::Unaware);
        }
    }

    fn turn(&mut self, life: LifeId) {
        let of = |node: &Node| node.life.as_ref().is_some_and(|(id, _)| *id == life);
        let Some(number) = self.nodes.iter().position(of) else {
            return;
        };
        let (_, daemon) = self.nodes[number].life.as_mut().expect("just found");
        daemon.turn();
        let handled = daemon.inputs();
        self.inputs += handled - std::mem::replace(&mut self.nodes[number].inputs, handled);
        if self.world.borrow().is_burnt(life) {
            // Whether its last words left it nobody knows.
            self.kill(number);
            let span = self.random.around(self.plan.span);
            return self.after(span, Step::Over(Kind::Crash, number));
        }
        self.watch(number);
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Client(node) => self.client_looks(node),
            Step::Whim => self.whim(),
            Step::Mend => self.mend(),
            Step::Fault => self.fault(),
            Step::Strike(blow, tries) => self.strike(blow, tries),
            Step::Over(kind, node) => self.fault_over(kind, node),
            Step::Judge => self.judge_step(),
            Step::Snapshot => self.snapshot(),
            Step::Force(node) => self.force(node),
            Step::Part => self.part(),
            Step::Loud => self.nodes.iter_mut().for_each(|node| node.quiet = false),
            Step::Calm => self.calm(),
            Step::Quit(node, id) => self.quit(node, id),
        }
    }

    /// Wakes a node's client, if it sleeps.
    pub(crate) fn wake_client(&mut self, node: usize) {
        let client = &mut self.nodes[node].client;
        if !std::mem::replace(&mut client.awake, true) {
            let pause = client.pause();
            self.after(pause, Step::Client(node));
        }
    }

    fn client_looks(&mut self, node: usize) {
        self.nodes[node].client.awake = false;
        if self.phase != Phase::Chaos || !self.copies.is_serving(node) {
            return;
        }
        if self.asks > self.asks_max {
            return self.calm();
        }
        if self.nodes[node].quiet {
            return self.wake_client(node);
        }
        let mut asked = false;
        while let Some(ask) = self.nodes[node].client.next(self.next_id + 1) {
            self.next_id += 1;
            self.ask(node, self.next_id, ask);
            asked = true;
        }
        if asked || self.nodes[node].client.open.is_empty() {
            self.wake_client(node);
        }
    }

    fn ask(&mut self, node: usize, id: u64, ask: Ask) {
        self.asks += 1;
        self.note(format_args!("client {node} asks {id} {ask:?}"));
        let checker = self.copies.checker(node);
        match ask {
            Ask::Read(range) => checker.invoke_read(id, range),
            Ask::Write { range, stamp, fua } => checker.invoke_write(id, range, stamp, fua),
            Ask::Zero { range, fua, .. } => checker.invoke_write(id, range, 0, fua),
            Ask::Flush => checker.invoke_flush(id),
        }
        self.nodes[node].client.open.insert(id, ask);
        let (life, daemon) = self.nodes[node].life.as_mut().expect("a serving node lives");
        daemon.request(id, &ask);
        self.world.borrow_mut().poke(*life);
    }

    pub(crate) fn seen(&self) -> Vec<Option<&Status>> {
        self.nodes.iter().map(|node| node.status.as_ref()).collect()
    }

    pub(crate) fn unleash(&mut self) {
        self.note(format_args!("chaos begins"));
        self.phase = Phase::Chaos;
        let length = self.random.between(5, 40) * 1_000_000_000;
        let (fault, whim) = (self.plan.pause, self.plan.operator_pause);
        for (span, step) in [
            (length, Step::Calm),
            (fault, Step::Fault),
            (whim, Step::Whim),
            (LOOK, Step::Judge),
            (4 * LOOK, Step::Snapshot),
        ] {
            self.after(span, step);
        }
        for node in 0..2 {
            self.wake_client(node);
        }
    }

    fn calm(&mut self) {
        if self.phase != Phase::Chaos {
            return;
        }
        self.note(format_args!("calm"));
        self.phase = Phase::Calm;
        (self.tries, self.whole_since) = (0, None);
        {
            let world = &mut *self.world.borrow_mut();
            mend_links(world);
            for disk in &mut world.disks {
                disk.heal(&mut world.clockwork);
            }
            (0..2).for_each(|host| world.freeze_clock(host, false));
        }
        self.swap_back();
        for node in 0..2 {
            self.recover(node);
        }
        self.after(LOOK, Step::Mend);
    }

    fn judge_step(&mut self) {
        if self.phase == Phase::Chaos {
            self.judge_copies();
            let pause = self.random.around(LOOK);
            self.after(pause, Step::Judge);
        }
    }
}
