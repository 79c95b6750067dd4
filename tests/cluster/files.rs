//! Owns a load of files: what is written, fsynced, renamed and removed on a mounted file system, and
//! which contents each file may have when the power was cut at some moment. Must never demand more of a
//! file than what fsync answered.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::load::Random;
use crate::stage::{eventually, tool};

/// The hash of a file's contents; none if there is no such file.
type Contents = Option<String>;

/// When something happened.
#[derive(Clone, Copy, Debug)]
struct Moment {
    /// Orders all moments of a ledger.
    tick: u64,
    /// Length of the disk's log, if there is one.
    position: usize,
}

/// A change of one file that ends with an answer of fsync.
#[derive(Debug)]
struct Change {
    name: String,
    begun: Moment,
    /// The tick before the first fsync for it.
    asked: u64,
    ended: Option<Moment>,
    after: Contents,
    /// Until it ends the file may hold anything; else the old or the new.
    in_place: bool,
}

/// How far the changes are known to be stable.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bound {
    /// All that have ended, if fsync was asked by this tick.
    Asked(u64),
    /// Those that had ended when the disk's log was so long; none that began later than `reached`.
    Logged { covered: usize, reached: usize },
    /// Those that had ended before the newest one that can be seen began.
    Newest,
}

/// What a file system was seen to hold.
pub(crate) type Seen = BTreeMap<String, Contents>;

/// All changes, in the order of their beginnings.
#[derive(Debug, Default)]
pub(crate) struct FileLedger {
    changes: Vec<Change>,
    ticks: u64,
}

impl FileLedger {
    fn moment(&mut self, position: usize) -> Moment {
        self.ticks += 1;
        Moment { tick: self.ticks, position }
    }

    fn begin(&mut self, name: &str, after: Contents, in_place: bool, position: usize) -> usize {
        let begun = self.moment(position);
        let name = name.to_owned();
        self.changes.push(Change { name, begun, asked: 0, ended: None, after, in_place });
        self.changes.len() - 1
    }

    fn ask(&mut self, changes: &[usize]) {
        let now = self.moment(0);
        for change in changes {
            self.changes[*change].asked = now.tick;
        }
    }

    fn end(&mut self, changes: &[usize], position: usize) {
        let now = self.moment(position);
        for change in changes {
            self.changes[*change].ended = Some(now);
        }
    }

    /// The present, for those who will ask what had ended by now.
    pub(crate) const fn now(&self) -> u64 {
        self.ticks
    }

    /// Changes that have ended.
    pub(crate) fn ended(&self) -> usize {
        self.changes.iter().filter(|change| change.ended.is_some()).count()
    }

    /// Looks at every file that was ever named.
    pub(crate) fn look(&self, mount: &Path) -> Seen {
        let names: BTreeSet<&String> = self.changes.iter().map(|change| &change.name).collect();
        names.into_iter().map(|name| (name.clone(), contents(&mount.join(name)))).collect()
    }

    /// What is wrong with what is seen.
    pub(crate) fn judge(&self, seen: &Seen, bound: Bound) -> Vec<String> {
        let newest = self.newest(seen);
        let certain = |change: &Change| match (change.ended, bound) {
            (None, _) => false,
            (Some(_), Bound::Asked(tick)) => change.asked <= tick,
            (Some(ended), Bound::Logged { covered, .. }) => ended.position <= covered,
            (Some(ended), Bound::Newest) => ended.tick <= newest,
        };
        let possible = |change: &Change| match bound {
            Bound::Logged { reached, .. } => change.begun.position <= reached,
            Bound::Asked(_) | Bound::Newest => true,
        };
        let mut faults = Vec::new();
        for (name, found) in seen {
            let (mut allowed, mut anything) = (vec![&None], false);
            for change in self.changes.iter().filter(|change| change.name == *name) {
                if certain(change) {
                    (allowed, anything) = (vec![&change.after], false);
                } else if possible(change) {
                    allowed.push(&change.after);
                    anything |= change.in_place;
                }
            }
            let unreadable = found.as_ref().is_some_and(|hash| hash.starts_with("unreadable"));
            if unreadable || !anything && !allowed.contains(&found) {
                faults.push(format!("{name} has {found:?}, not one of {allowed:?}"));
            }
        }
        faults
    }

    /// When the newest change that can be seen began. A file that came back to the same contents shows
    /// the first of these changes only.
    fn newest(&self, seen: &Seen) -> u64 {
        let shown = |(name, found): (&String, &Contents)| {
            let made = |change: &&Change| change.name == *name && change.after == *found;
            found.as_ref().and_then(|_| self.changes.iter().find(made)).map(|it| it.begun.tick)
        };
        seen.iter().filter_map(shown).max().unwrap_or(0)
    }

    /// After a cut was judged: what is seen is what there is, made durable. Anything else goes.
    pub(crate) fn settle(mount: &Path, seen: Seen) -> Self {
        for directory in DIRECTORIES {
            for entry in fs::read_dir(mount.join(directory)).expect("a directory") {
                let entry = entry.expect("an entry");
                let name = format!("{directory}/{}", entry.file_name().display());
                if !seen.contains_key(&name) {
                    fs::remove_file(entry.path()).expect("removed");
                }
            }
        }
        tool("sync", &["-f", mount.to_str().expect("text")]);
        let mut ledger = Self::default();
        for (name, found) in seen.into_iter().filter(|(_, found)| found.is_some()) {
            let change = ledger.begin(&name, found, false, 0);
            ledger.end(&[change], 0);
        }
        ledger
    }

    fn present(&self, prefix: &str) -> Vec<String> {
        let mut last = BTreeMap::new();
        let own = |change: &&Change| change.name.contains(prefix);
        for change in self.changes.iter().filter(own) {
            last.insert(&change.name, change.after.is_some());
        }
        last.into_iter().filter(|(_, is_there)| *is_there).map(|(name, _)| name.clone()).collect()
    }
}

fn contents(path: &Path) -> Contents {
    match fs::read(path) {
        Ok(bytes) => Some(blake3::hash(&bytes).to_hex().to_string()),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => Some(format!("unreadable: {error}")),
    }
}

const DIRECTORIES: [&str; 2] = ["d0", "d1"];

/// Who writes at the same time, each its own files.
const WORKERS: u64 = 2;

/// Names of each worker in each directory.
const NAMES: u64 = 10;

struct Shared {
    mount: PathBuf,
    ledger: Mutex<FileLedger>,
    stop: AtomicBool,
    /// How a worker ended, if it did not end in peace.
    error: Mutex<Option<String>>,
    clock: Box<dyn Fn() -> usize + Send + Sync>,
}

impl Shared {
    fn begin(&self, name: &str, after: Contents, in_place: bool) -> usize {
        self.ledger.lock().expect("lock").begin(name, after, in_place, (self.clock)())
    }

    fn ask(&self, changes: &[usize]) {
        self.ledger.lock().expect("lock").ask(changes);
    }

    fn end(&self, changes: &[usize]) {
        let position = (self.clock)();
        self.ledger.lock().expect("lock").end(changes, position);
    }
}

/// Makes the directories of a new file system, durably.
pub(crate) fn lay_out(mount: &Path) {
    for directory in DIRECTORIES {
        fs::create_dir(mount.join(directory)).expect("made");
    }
    tool("sync", &["-f", mount.to_str().expect("text")]);
}

/// The load at work; ends when dropped.
pub(crate) struct Work {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Work {
    fn drop(&mut self) {
        self.halt();
    }
}

impl Work {
    pub(crate) fn start(
        mount: &Path,
        ledger: FileLedger,
        seed: u64,
        clock: impl Fn() -> usize + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            mount: mount.to_owned(),
            ledger: Mutex::new(ledger),
            stop: AtomicBool::new(false),
            error: Mutex::default(),
            clock: Box::new(clock),
        });
        let threads = (0..WORKERS).map(|number| {
            let shared = Arc::clone(&shared);
            let random = Random::new(seed.wrapping_mul(WORKERS) ^ number);
            std::thread::spawn(move || Worker { shared, number, random }.run())
        });
        let threads = threads.collect();
        Self { shared, threads }
    }

    /// Waits until so many more changes have ended.
    pub(crate) fn wait_for(&self, more: u64) {
        let ended = || self.shared.ledger.lock().expect("lock").ended();
        let goal = ended() + usize::try_from(more).expect("small");
        eventually("changes of files", || {
            self.assert_well();
            if ended() >= goal { Ok(()) } else { Err(format!("{} of {goal}", ended())) }
        });
    }

    /// The present.
    pub(crate) fn now(&self) -> u64 {
        self.shared.ledger.lock().expect("lock").now()
    }

    /// That nothing failed.
    pub(crate) fn assert_well(&self) {
        let error = self.shared.error.lock().expect("lock").clone();
        assert_eq!(error, None, "the file system failed");
    }

    fn halt(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }

    /// Ends it, whether or not there is still a device, and gives what it did.
    pub(crate) fn finish(mut self) -> FileLedger {
        self.halt();
        std::mem::take(&mut self.shared.ledger.lock().expect("lock"))
    }
}

struct Worker {
    shared: Arc<Shared>,
    number: u64,
    random: Random,
}

impl Worker {
    fn run(mut self) {
        while !self.shared.stop.load(Ordering::SeqCst) {
            if let Err(error) = self.step() {
                let mut place = self.shared.error.lock().expect("lock");
                place.get_or_insert_with(|| error.to_string());
                return;
            }
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.shared.mount.join(name)
    }

    fn step(&mut self) -> io::Result<()> {
        match self.random.below(12) {
            0..4 => self.replace(),
            4..6 => self.write_in_place(false),
            6..8 => self.write_in_place(true),
            8 => self.move_across(),
            9 => self.remove(),
            _ => self.scribble(),
        }
    }

    fn prefix(&self) -> String {
        format!("/w{}-", self.number)
    }

    fn any_name(&mut self) -> String {
        let directory = DIRECTORIES[usize::from(self.random.below(2) == 0)];
        format!("{directory}{}{}", self.prefix(), self.random.below(NAMES))
    }

    /// A file that is there.
    fn some_file(&mut self) -> Option<String> {
        let files = self.shared.ledger.lock().expect("lock").present(&self.prefix());
        let place = self.random.below(files.len().max(1) as u64);
        files.into_iter().nth(usize::try_from(place).expect("small"))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let longest = if self.random.below(8) == 0 { 200_000 } else { 20_000 };
        let length = usize::try_from(8 + self.random.below(longest)).expect("small");
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            bytes.extend(self.random.next().to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }

    fn sync_directory(&self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        File::open(path.parent().expect("in a directory"))?.sync_all()
    }

    /// The way editors do it: all of the new or all of the old.
    fn replace(&mut self) -> io::Result<()> {
        let (name, bytes) = (self.any_name(), self.bytes());
        let spare = self.path(&format!("d0/spare-{}", self.number));
        let mut file = File::create(&spare)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        let change = self.shared.begin(&name, hash_of(&bytes), false);
        fs::rename(spare, self.path(&name))?;
        self.shared.ask(&[change]);
        self.sync_directory(&name)?;
        self.sync_directory("d0/spare")?;
        self.shared.end(&[change]);
        Ok(())
    }

    fn write_in_place(&mut self, at_its_end: bool) -> io::Result<()> {
        let Some(name) = self.some_file() else { return Ok(()) };
        let (path, more) = (self.path(&name), self.bytes());
        let old = fs::read(&path)?;
        let appends = at_its_end && old.len() < 300_000;
        let all = if appends { [&old[..], &more[..]].concat() } else { more };
        let from = if appends { old.len() } else { 0 };
        let change = self.shared.begin(&name, hash_of(&all), true);
        let mut file = OpenOptions::new().write(true).open(&path)?;
        file.seek(SeekFrom::Start(from as u64))?;
        file.write_all(&all[from..])?;
        file.set_len(all.len() as u64)?;
        self.shared.ask(&[change]);
        let synced = if self.random.below(2) == 0 { file.sync_all() } else { file.sync_data() };
        synced?;
        self.shared.end(&[change]);
        Ok(())
    }

    fn move_across(&mut self) -> io::Result<()> {
        let Some(name) = self.some_file() else { return Ok(()) };
        let other = self.any_name();
        if other == name {
            return Ok(());
        }
        let bytes = fs::read(self.path(&name))?;
        let changes = [
            self.shared.begin(&other, hash_of(&bytes), false),
            self.shared.begin(&name, None, false),
        ];
        fs::rename(self.path(&name), self.path(&other))?;
        self.shared.ask(&changes);
        self.sync_directory(&other)?;
        self.sync_directory(&name)?;
        self.shared.end(&changes);
        Ok(())
    }

    fn remove(&mut self) -> io::Result<()> {
        let Some(name) = self.some_file() else { return Ok(()) };
        let change = self.shared.begin(&name, None, false);
        fs::remove_file(self.path(&name))?;
        self.shared.ask(&[change]);
        self.sync_directory(&name)?;
        self.shared.end(&[change]);
        Ok(())
    }

    /// What nobody asked to be durable.
    fn scribble(&mut self) -> io::Result<()> {
        let name = format!("d1/noise-{}-{}", self.number, self.random.below(6));
        let bytes = self.bytes();
        fs::write(self.path(&name), bytes)
    }
}

#[expect(clippy::unnecessary_wraps, reason = "what a change leaves may also be no file")]
fn hash_of(bytes: &[u8]) -> Contents {
    Some(blake3::hash(bytes).to_hex().to_string())
}
