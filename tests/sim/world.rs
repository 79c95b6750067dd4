//! Owns one world: hosts, disks, network, the lives of daemons, and their common time. Nothing in
//! it depends on real time, threads or hash order, so a seed decides all. Must never know what a
//! daemon does.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use twinblk::buffer::{Pool, Span};
use twinblk::ring::{Completion, Errno, FileId, Gather, Token};
use twinblk::units::{BootId, Nanos};

use crate::clockwork::{Clockwork, Ended, Event, LifeId, OpId, Outcome, Trace};
use crate::disk::Disk;
use crate::network::Net;
use crate::random::Random;

/// The world, shared by all rings in it.
pub(crate) type Shared = Rc<RefCell<World>>;

/// What the driver of the world has to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// Let this life take its turn.
    Turn(LifeId),
    /// Whatever was planned under this number.
    Plan(u64),
}

/// A clock that may be off and may drift.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    pub(crate) offset: i64,
    /// How many ticks too many (or too few) per million.
    pub(crate) drift_ppm: i64,
    /// It stands still at this.
    pub(crate) frozen: Option<Nanos>,
}

impl Clock {
    fn read(self, world: Nanos) -> Nanos {
        if let Some(shown) = self.frozen {
            return shown;
        }
        let drift = i128::from(world.0) * i128::from(self.drift_ppm) / 1_000_000;
        let read = i128::from(world.0) + i128::from(self.offset) + drift;
        Nanos(u64::try_from(read).unwrap_or(0))
    }

    /// The first moment of the world at which this clock shows `shown`.
    fn when(self, shown: Nanos) -> Nanos {
        if let Some(stands) = self.frozen {
            return if shown <= stands { Nanos(0) } else { Nanos::NEVER };
        }
        if shown == Nanos::NEVER {
            return shown;
        }
        let span = i128::from(shown.0) - i128::from(self.offset);
        let world = span * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm)) + 2;
        Nanos(u64::try_from(world.max(0)).unwrap_or(u64::MAX))
    }
}

pub(crate) struct Host {
    pub(crate) powered: bool,
    pub(crate) boot: BootId,
    pub(crate) clock: Clock,
}

/// What has to be kept of an operation until it ends.
pub(crate) struct Held {
    pub(crate) token: Token,
    /// Bytes to fill, or bytes that must not change, with what they were.
    pub(crate) fill: Option<Span>,
    pub(crate) frozen: Vec<(Span, Rc<[u8]>)>,
    pub(crate) gather: Option<Box<Gather>>,
}

/// What the kernel of a host knows of a process.
pub(crate) struct Process {
    pub(crate) host: usize,
    pub(crate) alive: bool,
    /// So many operations are left to a life that is about to die.
    fuse: Option<u32>,
    stopped: bool,
    pub(crate) random: Random,
    pub(crate) files: Vec<Option<usize>>,
    pub(crate) held: BTreeMap<OpId, Held>,
    ready: VecDeque<Ended>,
    /// Number and time of the planned turn.
    turn: u64,
    turn_at: Nanos,
    idle_turns: u32,
}

/// Turns without progress after which a life counts as spinning.
const IDLE_TURNS_MAX: u32 = 1000;

pub(crate) struct World {
    pub(crate) clockwork: Clockwork,
    pub(crate) hosts: Vec<Host>,
    pub(crate) disks: Vec<Disk>,
    pub(crate) net: Net,
    processes: Vec<Process>,
}

impl World {
    pub(crate) fn new(seed: u64, hosts: usize, trace: Trace) -> Self {
        let mut clockwork = Clockwork::new(seed, trace);
        let host =
            |_| Host { powered: true, boot: boot(&mut clockwork.random), clock: Clock::default() };
        let hosts: Vec<Host> = (0..hosts).map(host).collect();
        let net = Net::new(hosts.len());
        Self { clockwork, hosts, disks: Vec::new(), net, processes: Vec::new() }
    }

    pub(crate) fn shared(self) -> Shared {
        Rc::new(RefCell::new(self))
    }

    pub(crate) const fn now(&self) -> Nanos {
        self.clockwork.now
    }

    pub(crate) fn add_disk(&mut self, bytes: u64, alignment: u64) -> usize {
        self.disks.push(Disk::new(self.disks.len(), bytes, alignment));
        self.disks.len() - 1
    }

    /// Goes on to the next thing that the driver has to see.
    pub(crate) fn next(&mut self) -> Option<Happening> {
        loop {
            let event = self.clockwork.next()?;
            match event {
                Event::Disk(disk, op) => self.disks[disk].land(&mut self.clockwork, op),
                Event::Net(event) => self.net.event(&mut self.clockwork, event),
                Event::Plan(number) => return Some(Happening::Plan(number)),
                Event::Turn(life, number) => {
                    let process = &mut self.processes[index(life)];
                    if process.turn == number && process.alive && !process.stopped {
                        process.turn_at = Nanos::NEVER;
                        return Some(Happening::Turn(life));
                    }
                }
            }
            self.deliver();
        }
    }

    /// Brings ended operations to their lives.
    pub(crate) fn deliver(&mut self) {
        while let Some(ended) = self.clockwork.take_ended() {
            let life = ended.life;
            let process = &mut self.processes[index(life)];
            if process.alive && process.held.contains_key(&ended.op) {
                process.ready.push_back(ended);
                self.poke(life);
            }
        }
    }

    /// A life has something to do: it gets the processor soon.
    pub(crate) fn poke(&mut self, life: LifeId) {
        let span = 200 + self.clockwork.random.below(8000);
        let when = self.clockwork.now + Nanos(span);
        if self.processes[index(life)].turn_at > when {
            self.plan_turn(life, when);
        }
    }

    fn plan_turn(&mut self, life: LifeId, when: Nanos) {
        let process = &mut self.processes[index(life)];
        process.turn += 1;
        process.turn_at = when;
        if when != Nanos::NEVER {
            self.clockwork.at(when, Event::Turn(life, process.turn));
        }
    }

    /// The clock of a life's host.
    pub(crate) fn clock(&self, life: LifeId) -> Nanos {
        let host = &self.hosts[self.processes[index(life)].host];
        host.clock.read(self.clockwork.now)
    }

    pub(crate) fn process(&mut self, life: LifeId) -> &mut Process {
        &mut self.processes[index(life)]
    }

    /// Hands a turn's completions over, and plans the next turn.
    pub(crate) fn take_turn(
        &mut self,
        life: LifeId,
        pool: &mut Pool,
        until: Nanos,
        completions: &mut Vec<Completion>,
    ) {
        let before = completions.len();
        let process = &mut self.processes[index(life)];
        assert!(process.alive, "a dead life takes a turn");
        while let Some(ended) = process.ready.pop_front() {
            let held = process.held.remove(&ended.op).expect("checked when it became ready");
            completions.push(complete(pool, held, ended.result));
        }
        let when = self.hosts[process.host].clock.when(until);
        if completions.len() > before {
            process.idle_turns = 0;
            self.poke(life);
        } else if when > self.clockwork.now {
            process.idle_turns = 0;
            if when < process.turn_at {
                self.plan_turn(life, when);
            }
        } else {
            process.idle_turns += 1;
            assert!(process.idle_turns < IDLE_TURNS_MAX, "{life:?} spins: its deadline stays past");
            self.poke(life);
        }
    }

    /// Starts a process on a host that has power.
    pub(crate) fn start(&mut self, host: usize) -> LifeId {
        assert!(self.hosts[host].powered, "a process needs a running host");
        let life = LifeId(u32::try_from(self.processes.len()).expect("few lives"));
        self.processes.push(Process {
            host,
            alive: true,
            fuse: None,
            stopped: false,
            random: self.clockwork.random.fork(),
            files: Vec::new(),
            held: BTreeMap::new(),
            ready: VecDeque::new(),
            turn: 0,
            turn_at: Nanos::NEVER,
            idle_turns: 0,
        });
        self.clockwork.note(format_args!("host {host} starts {life:?}"));
        self.poke(life);
        life
    }

    /// kill -9: the kernel closes its sockets; what it gave to a disk lands late or never.
    pub(crate) fn kill(&mut self, life: LifeId) {
        self.clockwork.note(format_args!("{life:?} is killed"));
        self.forget(life);
        for disk in &mut self.disks {
            disk.orphan(&mut self.clockwork, life);
        }
        self.net.kill(&mut self.clockwork, life);
        self.deliver();
    }

    fn forget(&mut self, life: LifeId) {
        let process = &mut self.processes[index(life)];
        process.alive = false;
        process.held.clear();
        process.ready.clear();
    }

    /// The host and all on it go dark; `disks` are in it.
    pub(crate) fn cut_power(&mut self, host: usize, disks: &[usize]) {
        self.clockwork.note(format_args!("host {host} loses power"));
        self.hosts[host].powered = false;
        for number in 0..self.processes.len() {
            if self.processes[number].host == host {
                self.forget(LifeId(u32::try_from(number).expect("few lives")));
            }
        }
        for disk in disks {
            self.disks[*disk].cut_power(&mut self.clockwork);
        }
        self.net.cut_power(host);
        self.deliver();
    }

    pub(crate) fn power_on(&mut self, host: usize) {
        self.clockwork.note(format_args!("host {host} boots"));
        self.hosts[host].powered = true;
        self.hosts[host].boot = boot(&mut self.clockwork.random);
        self.net.power_on(host);
    }

    /// A host's clock jumps ahead.
    pub(crate) fn jump_clock(&mut self, host: usize, span: u64) {
        self.clockwork.note(format_args!("the clock of host {host} jumps by {span}"));
        self.hosts[host].clock.offset += i64::try_from(span).expect("clocks jump by minutes");
        self.clock_changed(host);
    }

    /// A host's clock stands still, or goes on from where it stood.
    pub(crate) fn freeze_clock(&mut self, host: usize, frozen: bool) {
        let clock = self.hosts[host].clock;
        if clock.frozen.is_some() == frozen {
            return;
        }
        self.clockwork.note(format_args!("the clock of host {host} frozen={frozen}"));
        let now = self.clockwork.now;
        self.hosts[host].clock.frozen = match clock.frozen {
            None => Some(clock.read(now)),
            Some(stood) => {
                let gone = Clock { frozen: None, ..clock }.read(now).since(stood);
                let gone = i64::try_from(gone.0).expect("clocks stand for minutes");
                self.hosts[host].clock.offset -= gone;
                None
            }
        };
        self.clock_changed(host);
    }

    /// Timers are set by the clock: who waits for one looks again.
    fn clock_changed(&mut self, host: usize) {
        for number in 0..self.processes.len() {
            if self.processes[number].host == host && self.processes[number].alive {
                self.poke(LifeId(u32::try_from(number).expect("few lives")));
            }
        }
    }

    /// The life dies when it has given so many more operations to the kernel.
    pub(crate) fn set_fuse(&mut self, life: LifeId, operations: u32) {
        self.clockwork.note(format_args!("{life:?} dies after {operations} operations"));
        self.processes[index(life)].fuse = Some(operations);
    }

    /// Burns the fuse by one operation; whether the operation is still given to the kernel.
    pub(crate) fn burn(&mut self, life: LifeId) -> bool {
        match &mut self.processes[index(life)].fuse {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    /// Its fuse is burnt: it is to die before anything else happens.
    pub(crate) fn is_burnt(&self, life: LifeId) -> bool {
        self.processes[index(life)].fuse == Some(0)
    }

    /// SIGSTOP, and SIGCONT.
    pub(crate) fn set_stopped(&mut self, life: LifeId, stopped: bool) {
        self.clockwork.note(format_args!("{life:?} stopped={stopped}"));
        let process = &mut self.processes[index(life)];
        process.stopped = stopped;
        process.turn_at = Nanos::NEVER;
        if !stopped && process.alive {
            self.poke(life);
        }
    }

    pub(crate) fn is_alive(&self, life: LifeId) -> bool {
        self.processes[index(life)].alive
    }

    /// Opens a disk for a life: EWOULDBLOCK while another life holds it.
    pub(crate) fn open_disk(&mut self, life: LifeId, disk: usize) -> Result<FileId, Errno> {
        self.disks[disk].open(&mut self.clockwork, life)?;
        let files = &mut self.processes[index(life)].files;
        let file = files.iter().position(Option::is_none).unwrap_or(files.len());
        if file == files.len() {
            files.push(None);
        }
        files[file] = Some(disk);
        Ok(FileId(u32::try_from(file).expect("few files")))
    }

    pub(crate) fn close_disk(&mut self, life: LifeId, file: FileId) {
        let files = &mut self.processes[index(life)].files;
        let disk = files[file.0 as usize].take().expect("closed while open");
        if !files.contains(&Some(disk)) {
            self.disks[disk].close(life);
        }
    }
}

fn boot(random: &mut Random) -> BootId {
    BootId(u128::from(random.next()) << 64 | u128::from(random.next()))
}

fn index(life: LifeId) -> usize {
    life.0 as usize
}

/// Makes a completion of an ended operation; its memory must still be held, and unchanged if the
/// kernel was reading from it.
fn complete(pool: &mut Pool, held: Held, result: Result<Outcome, Errno>) -> Completion {
    for (span, bytes) in &held.frozen {
        assert!(
            pool.bytes(*span) == &**bytes,
            "buffer changed in flight: {:?}",
            held.token.split()
        );
    }
    let result = match result {
        Ok(Outcome::Count(count)) => Ok(count),
        Ok(Outcome::Data(bytes)) => {
            let span = held.fill.expect("only reads and receives bring data");
            let length = u32::try_from(bytes.len()).expect("slots are small");
            assert!(length <= span.length, "more bytes than asked for");
            pool.bytes_mut(Span { length, ..span }).copy_from_slice(&bytes);
            Ok(length)
        }
        Err(errno) => {
            if let Some(span) = held.fill {
                // Whoever looks at the bytes of a failed read must not find the right ones.
                pool.bytes_mut(span).fill(0xa5);
            }
            Err(errno)
        }
    };
    Completion { token: held.token, result, gather: held.gather }
}
